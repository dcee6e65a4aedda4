"""The session underneath: the user's own, mocks, ~/.netrc, redirects, cookies, proxies."""
import base64
import gc
import json
import socket
import sys
import threading
import time
from urllib.parse import unquote, urlsplit

import pytest
import requests
import requests_mock
import responses
import urllib3
from requests.adapters import HTTPAdapter

from tests import llmlite, testing
from tests.beside import idle, within
from tests.relays import Unix

KEY = "sk-0123456789"
FAST = llmlite.RetryPolicy(backoff=0.001, rate_limit_backoff=0.001, connect_retries=0)
CHUNKS = b"".join(b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n' % word
                  for word in (b"o", b"k")) + (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')  # fmt: skip
REPLY = {"choices": [{"index": 0, "message": {"content": "ok"}, "finish_reason": "stop"}]}


@pytest.fixture
def session():
    with requests.Session() as session:
        yield session


@pytest.fixture(params=["own", "theirs"])
def sessions(request, session):
    """What to make a client with: nothing, or a session of the user's."""
    return {} if request.param == "own" else {"session": session}


def client(server, **options):
    return llmlite.Client("m", base_url=server.url, **{"retry": None, "api_key": KEY, **options})


def ask(llm, method="chat"):
    """The text of a reply, by chat() or stream()."""
    if method == "chat":
        return llm.chat("hi").text
    with llm.stream("hi") as stream:
        return "".join(stream)


METHODS = pytest.mark.parametrize("method", ["chat", "stream"])


def free_port():
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# ----------------------------------------------------------------------------------------------- the user's own session


@METHODS
def test_headers_of_the_session(server, session, method):
    """The session's headers are sent, beside ours."""
    session.headers["X-Team"] = "a"
    server.reply("ok")
    assert ask(client(server, session=session), method) == "ok"
    headers = server.requests[0].headers
    assert (headers["x-team"], headers["authorization"], headers["content-type"]) == (
        "a", f"Bearer {KEY}", "application/json")


def test_clients_headers_beat_the_sessions(server, session):
    """headers= of a client beats the session's."""
    session.headers["X-Team"] = "a"
    server.reply("ok")
    client(server, session=session, headers={"x-team": "b"}).chat("hi")
    assert server.requests[0].headers["x-team"] == "b"


def test_auth_of_the_session(server, session):
    """The session's auth is used: who sets one means it."""
    session.auth = ("me", "word")
    server.reply("ok")
    client(server, session=session).chat("hi")
    assert server.requests[0].headers["authorization"] == "Basic " + base64.b64encode(b"me:word").decode()


def test_hooks_of_the_session(server, session):
    """The session's response hooks run, once a request."""
    seen = []
    session.hooks["response"].append(lambda response, **_: seen.append(response.status_code))
    server.error(500)
    server.reply("ok")
    assert client(server, session=session, retry=FAST).chat("hi").text == "ok"
    assert seen == [500, 200]


def test_adapters_of_the_session(server, session):
    """The session's own adapters send."""
    class Counting(HTTPAdapter):
        sent = 0

        def send(self, *args, **options):
            self.sent += 1
            return super().send(*args, **options)

    adapter = Counting()
    session.mount(server.url, adapter)
    server.reply("ok", times=2)
    llm = client(server, session=session)
    assert (ask(llm), ask(llm, "stream"), adapter.sent) == ("ok", "ok", 2)


def test_proxies_of_the_session(server, session):
    """The session's proxies are used."""
    session.proxies = {"http": server.root}
    server.reply("ok")
    llmlite.Client("m", base_url="http://far.example/v1", api_key=KEY, session=session).chat("hi")
    assert server.requests[0].path == "http://far.example/v1/chat/completions"


def test_params_of_the_session(server, session):
    """The session's query parameters are sent."""
    session.params = {"api-version": "1"}
    server.reply("ok")
    client(server, session=session).chat("hi")
    assert server.requests[0].path == "/v1/chat/completions?api-version=1"


def test_session_stays_open(server, session):
    """client.close() leaves the user's session, and its pooled connection, as they are."""
    server.reply("ok", times=2)
    with client(server, session=session) as llm:
        llm.chat("hi")
    assert session.post(server.url + "/chat/completions", json={}).status_code == 200
    assert server.connections == 1


def test_client_works_after_close(server):
    """A closed client opens a new connection when it is asked again."""
    server.reply("ok", times=2)
    llm = client(server)
    llm.chat("hi")
    llm.close()
    assert idle(server)
    assert llm.chat("hi").text == "ok" and server.connections == 2
    llm.close()


def test_close_closes_idle_connections(server):
    """close(), leaving `with` and dropping the client close its pooled connections at once."""
    server.handle(lambda request: testing.reply("ok"))
    llm = client(server)
    llm.chat("hi")
    assert server.open_connections == 1
    llm.close()
    assert idle(server)
    with client(server) as llm:
        ask(llm, "stream")
    assert idle(server)
    llm = client(server)
    llm.chat("hi")
    del llm
    assert idle(server)


@METHODS
def test_connections_are_reused(server, sessions, method):
    """One call after another goes over one connection, streams too."""
    server.reply("ok", times=5)
    llm = client(server, **sessions)
    assert [ask(llm, method) for _ in range(5)] == ["ok"] * 5
    assert server.connections == 1
    llm.close()


def test_session_without_trust_in_the_environment(server, session, monkeypatch):
    """trust_env=False of a session holds: no proxy from the environment."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    session.trust_env = False
    server.reply("ok")
    assert client(server, session=session).chat("hi").text == "ok"


# --------------------------------------------------------------------------------------------------------- Unix sockets


class UnixConnection(urllib3.connection.HTTPConnection):
    """A connection to a Unix socket, as the libraries for them make it."""

    def __init__(self, path, **options):
        super().__init__("localhost", **options)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class UnixPool(urllib3.HTTPConnectionPool):
    """A pool of such connections."""

    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def _new_conn(self):
        return UnixConnection(self.path, timeout=self.timeout.connect_timeout)


class UnixAdapter(HTTPAdapter):
    """An adapter for http+unix://QUOTED-PATH/."""

    def __init__(self):
        super().__init__()
        self.pools = {}

    def get_connection(self, url, proxies=None):
        path = unquote(urlsplit(url).netloc)
        return self.pools.setdefault(path, UnixPool(path))

    def get_connection_with_tls_context(self, request, verify, proxies=None, cert=None):
        return self.get_connection(request.url)

    def request_url(self, request, proxies):
        return request.path_url

    def close(self):
        for pool in self.pools.values():
            pool.close()


@pytest.fixture
def unix(server, session):
    """A Unix socket in front of the server, that the session knows how to reach."""
    with Unix(("127.0.0.1", server.port)) as relay:
        session.mount("http+unix://", UnixAdapter())
        yield relay
        session.close()


unixy = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")


@unixy
@METHODS
def test_unix_socket(server, session, unix, method):
    """A base URL of a scheme that the session has an adapter for goes through that adapter."""
    server.reply("ok", times=3)
    assert session.post(unix.url + "/chat/completions", json={}).status_code == 200
    llm = llmlite.Client("m", base_url=unix.url, api_key=KEY, session=session, retry=None)
    assert (ask(llm, method), ask(llm, method)) == ("ok", "ok")
    request = server.requests[-1]
    assert (request.path, request.headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert unix.connections == 1


@unixy
def test_unix_socket_needs_no_key(server, session, unix):
    """A Unix socket is as local as a loopback address: no key is asked for."""
    server.reply("ok")
    assert llmlite.Client("m", base_url=unix.url, session=session, retry=None).chat("hi").text == "ok"


@unixy
@METHODS
def test_errors_over_a_unix_socket(server, session, unix, method):
    """Errors over a Unix socket read as they do elsewhere, and a deadline bounds the body."""
    server.error(404, "no such model")
    server.reply("a" * 1000, split=20, gap=0.05)
    llm = llmlite.Client("m", base_url=unix.url, api_key=KEY, session=session, retry=None)
    with pytest.raises(llmlite.NotFoundError, match="no such model"):
        ask(llm, method)
    started = time.monotonic()
    with pytest.raises(llmlite.DeadlineExceededError):
        llm.chat("hi", deadline=0.5)
    assert within(0, started, 0.75)


@unixy
def test_unix_socket_that_is_not_there(session, unix):
    """A socket that nobody listens on is an APIConnectionError."""
    llm = llmlite.Client("m", base_url=unix.url.replace("socket", "other"), api_key=KEY, session=session, retry=FAST)
    with pytest.raises(llmlite.APIConnectionError):
        llm.chat("hi")


@pytest.mark.parametrize("url", ["http+unix://%2Ftmp%2Fno.sock/v1", "ftp://x.example/v1", "file:///etc/passwd"])
def test_schemes_that_nobody_knows(session, url):
    """Without an adapter for its scheme a base URL is refused at once, with a session of the user's or not."""
    for options in ({}, {"session": session}):
        with pytest.raises(llmlite.ConfigurationError, match="base_url|http"):
            llmlite.Client("m", base_url=url, api_key=KEY, **options)


# ---------------------------------------------------------------------------------------------------- mocks of requests

URL = "https://llm.example/v1"


def mocked(**options):
    return llmlite.Client("m", base_url=URL, api_key=KEY, retry=FAST, **options)


def test_responses_chat(sessions):
    """`responses` works, with a session of one's own and without."""
    with responses.RequestsMock() as mock:
        mock.post(URL + "/chat/completions", status=500, json={"error": {"message": "no"}})
        mock.post(URL + "/chat/completions", json=REPLY)
        reply = mocked(**sessions).chat("hi")
        assert (reply.text, reply.attempts) == ("ok", 2)
        assert json.loads(mock.calls[1].request.body) == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        assert mock.calls[1].request.headers["authorization"] == f"Bearer {KEY}"


def test_responses_stream(sessions):
    """`responses` works for streams too."""
    with responses.RequestsMock() as mock:
        mock.post(URL + "/chat/completions", body=CHUNKS, content_type="text/event-stream")
        with mocked(**sessions).stream("hi") as stream:
            assert list(stream) == ["o", "k"]
        assert stream.response.finish_reason == "stop"


def test_responses_errors(sessions):
    """What `responses` answers or raises becomes our errors."""
    with responses.RequestsMock() as mock:
        mock.post(URL + "/chat/completions", status=404, json={"error": {"message": "no such model"}})
        with pytest.raises(llmlite.NotFoundError, match="no such model"):
            mocked(**sessions).chat("hi")
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock, pytest.raises(llmlite.APIConnectionError):
        mock.post(URL + "/chat/completions", body=requests.ConnectionError("scripted"))
        mocked(**sessions).chat("hi")


def test_requests_mock_chat(sessions):
    """`requests-mock` works, with a session of one's own and without."""
    with requests_mock.Mocker() as mock:
        mock.post(URL + "/chat/completions", [{"status_code": 503, "text": "busy"}, {"json": REPLY}])
        assert mocked(**sessions).chat("hi").text == "ok"
        assert mock.call_count == 2 and mock.last_request.json()["model"] == "m"
        assert mock.last_request.headers["Authorization"] == f"Bearer {KEY}"


def test_requests_mock_stream(sessions):
    """`requests-mock` works for streams too."""
    with requests_mock.Mocker() as mock:
        mock.post(URL + "/chat/completions", content=CHUNKS, headers={"Content-Type": "text/event-stream"})
        with mocked(**sessions).stream("hi") as stream:
            assert list(stream) == ["o", "k"]


def test_requests_mock_adapter(session):
    """A mock adapter mounted on the user's session works."""
    adapter = requests_mock.Adapter()
    adapter.register_uri("POST", URL + "/chat/completions", json=REPLY)
    session.mount("https://llm.example", adapter)
    assert mocked(session=session).chat("hi").text == "ok"


def test_requests_mock_errors(sessions):
    """A connection error or a timeout of `requests-mock` becomes ours."""
    with requests_mock.Mocker() as mock:
        mock.post(URL + "/chat/completions", exc=requests.exceptions.ReadTimeout)
        with pytest.raises(llmlite.APITimeoutError):
            mocked(**sessions).chat("hi")
        mock.post(URL + "/chat/completions", exc=requests.exceptions.ConnectionError("scripted"))
        with pytest.raises(llmlite.APIConnectionError):
            mocked(**sessions).stream("hi")


# ---------------------------------------------------------------------------------------- .netrc, redirects and cookies


@pytest.fixture
def netrc(tmp_path, monkeypatch):
    """A .netrc that has a login for everybody."""
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1\nlogin me\npassword word\ndefault\nlogin any\npassword body\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))


@METHODS
def test_netrc_never_replaces_the_key(server, sessions, netrc, method):
    """The key is sent though ~/.netrc has a login for the host, which requests by itself would send."""
    server.reply("ok", times=2)
    requests.get(server.url)
    assert server.requests[0].headers["authorization"].startswith("Basic ")
    ask(client(server, **sessions), method)
    assert server.requests[1].headers["authorization"] == f"Bearer {KEY}"


def test_netrc_is_no_key(server, sessions, netrc):
    """With api_key="" nothing is sent, ~/.netrc or not."""
    server.reply("ok")
    client(server, api_key="", **sessions).chat("hi")
    assert "authorization" not in server.requests[0].headers


@METHODS
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(server, sessions, status, method):
    """A redirect is an error that names the target; nothing goes there."""
    with testing.Server() as other:
        server.body(b"", status=status, headers={"Location": other.url + "/chat/completions"})
        with pytest.raises(llmlite.APIError, match=other.url) as caught:
            ask(client(server, retry=FAST, **sessions), method)
        assert caught.value.status_code == status
        assert len(server.requests) == 1 and not other.connections


@pytest.mark.parametrize("target", [b"http://[", b"//[::1", b"http://\xe9/", b"http://", b"/x", b""])
def test_redirects_to_what_is_no_address(server, sessions, target):
    """A redirect to what requests cannot even read is the same error."""
    server.raw(b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: %b\r\n\r\nhi" % target, times=2)
    with client(server, **sessions) as llm:
        for _ in range(2):
            with pytest.raises(llmlite.APIError, match="302 Found: redirect to.*is not followed"):
                ask(llm)
    assert len(server.requests) == 2


@METHODS
def test_the_body_of_a_redirect_may_be_without_end(server, sessions, method, monkeypatch):
    """A redirect's body, which requests reads whole by itself, is read in part: neither time nor memory goes there."""
    monkeypatch.setattr(sys.modules[llmlite.Client.__module__], "_MAX_BODY", 4 << 20)
    server.raw(b"HTTP/1.1 302 Found\r\nLocation: http://far.example/x\r\n\r\n", *[b" " * (1 << 20)] * 200)
    with client(server, timeout=5, **sessions) as llm, pytest.raises(llmlite.LLMError) as caught:
        ask(llm, method)
    assert sessions or "far.example" in str(caught.value)
    assert server.wait_idle() and sum(size for _, size in server.requests[0].sent) < 40 << 20


@METHODS
def test_a_redirects_body_that_drips_hides_no_redirect(server, method):
    """What is read of a redirect's body in time is enough: the error is the redirect, not the deadline."""
    server.raw(b"HTTP/1.1 302 Found\r\nLocation: http://far.example/x\r\n\r\n", *(b" ", 0.05) * 60)
    with client(server, deadline=0.4) as llm, pytest.raises(llmlite.APIError, match="302.*far.example"):
        ask(llm, method)


def test_a_pool_of_one_connection(server):
    """A stream that is left gives the user's pool its place back, where calls wait for one."""
    server.handle(lambda request: testing.stream(["o", "k"], gap=0.05))
    with requests.Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=1, pool_block=True))
        with client(server, session=session, deadline=5) as llm:
            for _ in range(2):
                with llm.stream("hi") as stream:
                    assert next(stream) == "o"
            assert ask(llm) == "ok"


def test_a_pool_that_is_closed_before_it_gives_a_connection(server, monkeypatch):
    """A call that another thread's close() meets between its pool and its connection takes another pool."""
    server.reply("ok", times=2)
    urlopen, llm = urllib3.HTTPConnectionPool.urlopen, client(server)

    def slow(pool, *args, **options):
        monkeypatch.undo()
        closer = threading.Thread(target=llm.close)
        closer.start()
        closer.join()
        return urlopen(pool, *args, **options)

    ask(llm)
    monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", slow)
    assert ask(llm) == "ok"
    assert (len(server.requests), llm.ledger.attempts, llm.ledger.unknown) == (2, 2, 0)


def test_a_pool_that_is_closed_again_and_again(server, monkeypatch):
    """A call that never gets a connection for that has sent nothing, and says that it could not connect."""
    urlopen, closed = urllib3.HTTPConnectionPool.urlopen, []

    def closing(pool, *args, **options):
        closed.append(pool.close())
        return urlopen(pool, *args, **options)

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", closing)
    with client(server) as llm, pytest.raises(llmlite.APIConnectionError):
        ask(llm)
    assert (len(closed), len(server.requests), llm.ledger.attempts, llm.ledger.unknown) == (2, 0, 1, 0)


def test_a_pool_that_somebody_has_closed(server):
    """Nor does a call over an idle connection, where the pool is closed and everybody is still sent to it."""
    server.reply("ok")
    with client(server) as llm:
        ask(llm)
        port = urllib3.util.parse_url(server.url).port
        for pool in [it for it in gc.get_objects() if isinstance(it, urllib3.HTTPConnectionPool) and it.port == port]:
            pool.close()
        with pytest.raises(llmlite.APIConnectionError):
            ask(llm)
    assert (len(server.requests), llm.ledger.attempts, llm.ledger.unknown) == (1, 2, 0)


@pytest.mark.timeout(30)
def test_a_call_while_the_client_closes(server, monkeypatch):
    """The pool that a call opens while another thread closes the client stays open."""
    server.reply("ok", times=3)
    close, llm = requests.Session.close, client(server)

    def slow(session):
        close(session)
        monkeypatch.undo()
        other = threading.Thread(target=ask, args=(llm,))
        other.start()
        other.join()

    ask(llm)
    monkeypatch.setattr(requests.Session, "close", slow)
    llm.close()
    assert ask(llm) == "ok"
    assert [request.connection for request in server.requests] == [1, 2, 2]


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_a_proxy_that_the_system_names(server, monkeypatch, platform):
    """Where a system has settings of its own for proxies, a change of them is seen by the next call."""
    with testing.Server() as proxy:
        server.reply("direct", times=2)
        proxy.reply("by proxy")
        proxies = {}
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr("urllib.request.getproxies", lambda: dict(proxies))
        monkeypatch.setattr("requests.utils.getproxies", lambda: dict(proxies))
        llm = client(server)
        said = [ask(llm), ask(llm)]
        proxies["http"] = proxy.root
        monkeypatch.setattr("requests.utils.proxy_bypass", lambda host: False)
        assert [*said, ask(llm)] == ["direct", "direct", "by proxy"]


def test_cookies_are_not_kept(server):
    """A cookie that the server sets is not sent back."""
    server.reply("ok", headers=[("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2")])
    server.stream(["ok"], headers={"Set-Cookie": "c=3"})
    server.reply("ok")
    llm = client(server)
    for method in ("chat", "stream", "chat"):
        ask(llm, method)
        server.drop_connections()
        assert server.wait_idle()
    assert ["cookie" in request.headers for request in server.requests] == [False] * 3


# -------------------------------------------------------------------------------------------------------------- proxies


@METHODS
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_proxy_from_the_environment(server, sessions, monkeypatch, variable, method):
    """The environment's proxy gets the whole URL."""
    monkeypatch.setenv(variable, server.root)
    server.reply("ok")
    assert ask(llmlite.Client("m", base_url="http://far.example/v1", api_key=KEY, **sessions), method) == "ok"
    request = server.requests[0]
    assert request.path == "http://far.example/v1/chat/completions" and request.headers["host"] == "far.example"
    assert request.headers["authorization"] == f"Bearer {KEY}" and "proxy-authorization" not in request.headers


@pytest.mark.parametrize("hosts, through", [
    ("127.0.0.1", False), ("far.example, 127.0.0.0/8", False), ("*", False), ("far.example", True), ("", True),
])  # fmt: skip
def test_no_proxy(server, sessions, monkeypatch, hosts, through):
    """NO_PROXY keeps a host off the proxy."""
    with testing.Server() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.root)
        monkeypatch.setenv("NO_PROXY", hosts)
        for one in (server, proxy):
            one.reply("ok")
        llm = client(server, **sessions)
        llm.chat("hi")
        llm.close()
        assert (len(proxy.requests), len(server.requests)) == ((1, 0) if through else (0, 1))


def test_what_is_asked_of_the_system_for_a_connection(server, monkeypatch):
    """Small packets go at once, and a silent connection is kept known on the way: looked at each minute, five times."""
    asked = set()

    class Watched(socket.socket):
        def setsockopt(self, *option):
            asked.add(option)
            return super().setsockopt(*option)

    monkeypatch.setattr(socket, "socket", Watched)
    server.reply("ok")
    with client(server) as llm:
        assert ask(llm) == "ok"
    wanted = {("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5), ("TCP_NODELAY", 1)}
    wanted = {(socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in wanted if hasattr(socket, name)}
    assert asked >= wanted | {(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)}


def test_the_environment_is_asked_at_each_call(server, sessions, monkeypatch):
    """A proxy, and what goes past it, may come and go in the environment while a client is in use."""
    with testing.Server() as proxy, client(server, **sessions) as llm:
        server.reply("straight", times=None)
        proxy.reply("through", times=None)
        said = [ask(llm)]
        for name, value in (("HTTP_PROXY", proxy.root), ("NO_PROXY", "127.0.0.1"), ("NO_PROXY", "far.example")):
            monkeypatch.setenv(name, value)
            said += [ask(llm), ask(llm)]
        monkeypatch.delenv("HTTP_PROXY")
        said += [ask(llm), ask(llm)]
    there = ["through"] * 2
    back = ["straight"] * 2
    assert said == ["straight", *there, *back, *there, *back]


@pytest.mark.parametrize("through", [False, True], ids=["straight", "proxy"])
@pytest.mark.parametrize("path", ["/v1", "/%7Ea/../v1", "/\u00fc/v1?x=1#f"])
def test_each_call_asks_for_the_same(server, sessions, monkeypatch, path, through):
    """What the first call asks for, as requests writes it, all ask for; a proxy is not told what stands before an @."""
    if through:
        monkeypatch.setenv("HTTP_PROXY", server.root)
    server.reply("ok", times=3)
    url = server.root.replace("//", "//eve:hunter2@") + path
    with llmlite.Client("m", base_url=url, api_key=KEY, retry=None, **sessions) as llm:
        assert [ask(llm), ask(llm, "stream"), ask(llm)] == ["ok"] * 3
    first, *others = [request.path for request in server.requests]
    assert others == [first] * 2 and first.startswith(server.root if through else "/") and "hunter2" not in first


def test_more_addresses_than_are_remembered(server):
    """A client may ask for any number of addresses; closed, it holds no connection to any."""
    server.handle(lambda request: testing.reply("ok"))
    with llmlite.Client("m", provider="gemini", base_url=server.url, api_key=KEY, retry=None) as llm:
        replies = [llm.chat("hi", model=f"m{number % 150}") for number in range(301)]
        assert {reply.text for reply in replies} == {"ok"} and server.connections == 1
    assert server.wait_idle()


def test_space_before_a_header(server, sessions):
    """Spaces around a header's value, or a key, are no part of it (RFC 9110, 5.5): requests would refuse to send it."""
    server.reply("ok", times=2)
    with llmlite.Client("m", provider="anthropic", base_url=server.url, api_key=" " + KEY, headers={"X-A": " b "},
                        retry=None, **sessions) as llm:
        assert [ask(llm), ask(llm)] == ["ok"] * 2
    assert [(request.headers["x-api-key"], request.headers["x-a"]) for request in server.requests] == [(KEY, "b")] * 2


def test_connections_to_a_proxy_are_reused(server, monkeypatch):
    """One connection to the proxy serves call after call."""
    monkeypatch.setenv("HTTP_PROXY", server.root)
    server.reply("ok", times=3)
    with llmlite.Client("m", base_url="http://far.example/v1", api_key=KEY) as llm:
        assert [ask(llm), ask(llm, "stream"), ask(llm)] == ["ok"] * 3
    assert server.connections == 1


def test_threads_that_come_to_a_proxy_at_once(server, monkeypatch):
    """A thread that finds a proxy's connections half set up, by another that came first, keeps to its deadline too."""
    monkeypatch.setenv("HTTP_PROXY", server.root)
    make, first = requests.adapters.proxy_from_url, threading.Event()

    class Slow(dict):
        """The kinds of connections that a manager makes; who reads them first is held up."""

        def items(self):
            if not first.is_set():
                first.set()
                time.sleep(0.2)
            return super().items()

    def slow(*args, **options):
        manager = make(*args, **options)
        manager.pool_classes_by_scheme = Slow(manager.pool_classes_by_scheme)
        return manager

    monkeypatch.setattr(requests.adapters, "proxy_from_url", slow)
    server.handle(lambda request: testing.raw(b"HTTP/1.1 200 OK\r\n", *[b"x", 0.05] * 60))
    with llmlite.Client("m", base_url="http://far.example/v1", api_key=KEY, retry=None) as llm:
        def call():
            with pytest.raises(llmlite.DeadlineExceededError):
                llm.chat("hi", deadline=0.5)

        other, started = threading.Thread(target=call), time.monotonic()
        other.start()
        assert first.wait(5)
        call()
        assert within(0, started, 1)
        other.join()


def test_proxy_credentials(server, sessions, monkeypatch):
    """The proxy's user and password go to the proxy."""
    monkeypatch.setenv("HTTP_PROXY", server.root.replace("//", "//me:hunter2@"))
    server.reply("ok")
    llmlite.Client("m", base_url="http://far.example/v1", api_key=KEY, **sessions).chat("hi")
    expected = "Basic " + base64.b64encode(b"me:hunter2").decode()
    assert server.requests[0].headers["proxy-authorization"] == expected


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_is_not_there(sessions, monkeypatch, scheme):
    """A proxy that refuses is an APIConnectionError; its password is in no text and no field."""
    monkeypatch.setenv(scheme.upper() + "_PROXY", f"http://me:hunter2@127.0.0.1:{free_port()}")
    llm = llmlite.Client("m", base_url=f"{scheme}://far.example/v1", api_key=KEY, retry=FAST, **sessions)
    with pytest.raises(llmlite.APIConnectionError, match="proxy") as caught:
        llm.chat("hi")
    seen = "".join(str(value) for value in (caught.value, repr(caught.value), vars(caught.value)))
    assert "hunter2" not in seen and KEY not in seen and caught.value.__cause__ is None
    assert llm.ledger.unknown == 0


def test_tunnel_that_is_refused(server, sessions, monkeypatch):
    """https goes through CONNECT; a proxy that refuses it has seen no key, and nothing was asked of the provider."""
    monkeypatch.setenv("HTTPS_PROXY", server.root)
    server.error(407, times=None)
    llm = llmlite.Client("m", base_url="https://far.example/v1", api_key=KEY, retry=None, **sessions)
    with pytest.raises(llmlite.APIConnectionError, match="proxy.*407"):
        llm.chat("hi")
    assert {request.method for request in server.requests} == {"CONNECT"}
    assert server.requests[0].path == "far.example:443"
    assert KEY.encode() not in b"".join(request.head + request.body for request in server.requests)
    assert llm.ledger.unknown == 0


def test_error_of_a_proxy(server, sessions, monkeypatch):
    """A proxy's own error page is an error with its status and words."""
    monkeypatch.setenv("HTTP_PROXY", server.root)
    server.body(b"<html>cannot reach far.example</html>", status=502, times=None)
    llm = llmlite.Client("m", base_url="http://far.example/v1", api_key=KEY, retry=None, **sessions)
    with pytest.raises(llmlite.ServerError, match="502.*cannot reach far.example") as caught:
        llm.chat("hi")
    assert caught.value.status_code == 502
