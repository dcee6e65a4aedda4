"""Whoever puts himself into the way of requests or urllib3, before or after the import, is asked once a request."""
import dataclasses
import functools
import io
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from unittest import mock

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool

from tests import llmlite, testing
from tests.beside import beside, within

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FAST = llmlite.RetryPolicy(backoff=0.001, rate_limit_backoff=0.001)
METHODS = pytest.mark.parametrize("method", ["chat", "stream"])
PLACES = {  # where outsiders hook in, each called once a request
    "Session.send": (requests.Session, "send"),  # OpenTelemetry, ddtrace
    "HTTPAdapter.send": (HTTPAdapter, "send"),  # responses, ddtrace
    "HTTPAdapter.build_response": (HTTPAdapter, "build_response"),
    "HTTPAdapter.request_url": (HTTPAdapter, "request_url"),
    "HTTPAdapter.get_connection": (HTTPAdapter, next(name for name in (
        "get_connection_with_tls_context", "get_connection") if hasattr(HTTPAdapter, name))),
    "Session.get_adapter": (requests.Session, "get_adapter"),  # requests-mock
    "Session.prepare_request": (requests.Session, "prepare_request"),
    "Session.merge_environment_settings": (requests.Session, "merge_environment_settings"),
    "PreparedRequest.prepare_auth": (requests.PreparedRequest, "prepare_auth"),  # those who sign requests
    "urlopen": (HTTPConnectionPool, "urlopen"),  # OpenTelemetry, ddtrace
    "_make_request": (HTTPConnectionPool, "_make_request"),
    "HTTPAdapter.add_headers": (HTTPAdapter, "add_headers"),  # requests' own way to have more headers
    "PreparedRequest.prepare_url": (requests.PreparedRequest, "prepare_url"),
    "Response": (requests.Response, "__init__"),
    "connection_from_host": (urllib3.PoolManager, "connection_from_host"),
    "PoolManager": (urllib3.PoolManager, "connection_from_pool_key" if hasattr(
        HTTPAdapter, "get_connection_with_tls_context") else "connection_from_url"),
    "urllib3.HTTPResponse": (urllib3.HTTPResponse, "__init__"),
    "putrequest": (HTTPConnection, "putrequest"),  # Sentry, ddtrace
    "endheaders": (HTTPConnection, "endheaders"),
    "getresponse": (HTTPConnection, "getresponse"),
}
places = pytest.mark.parametrize("place", PLACES)


def ask(llm, method="chat"):
    """The text of a reply, by chat() or stream()."""
    if method == "chat":
        return llm.chat("hi").text
    with llm.stream("hi") as stream:
        return "".join(stream)


class Counter:
    """Stands in the place of a method and counts what it answers; no function, as wrapt's wrappers are none."""

    def __init__(self, original):
        self.original, self.count = original, 0
        self.__wrapped__ = original

    def __get__(self, instance, owner):
        original = self.original if instance is None else functools.partial(self.original, instance)

        def count(*args, **options):
            answer = original(*args, **options)
            self.count += 1
            return answer

        return count

    def __getattr__(self, name):
        return getattr(self.original, name)


@pytest.fixture(params=["own", "theirs"])
def made(request, server):
    """A client, with a session of its own or the user's, that has been used already."""
    session = None if request.param == "own" else requests.Session()
    server.handle(lambda request: testing.stream(["o", "k"]))
    with llmlite.Client("m", base_url=server.url, session=session, retry=FAST) as llm:
        yield llm
    if session is not None:
        session.close()


@METHODS
@places
def test_wrapper_put_on_later(made, server, place, method):
    """A wrapper that is put on while the client is in use sees each request once, and none when it is off again."""
    assert ask(made, method) == "ok"
    owner, name = PLACES[place]
    counter = Counter(getattr(owner, name))
    with mock.patch.object(owner, name, counter):
        assert [ask(made, method) for _ in range(2)] == ["ok"] * 2
    assert counter.count == 2
    assert ask(made, method) == "ok" and counter.count == 2 and len(server.requests) == 4


def test_a_dispatcher_of_hooks_of_ones_own_sees_each_answer(server, monkeypatch):
    """requests' own way to call hooks may be replaced, at any time."""
    server.reply("ok", times=3)
    original, seen = requests.sessions.dispatch_hook, []
    with llmlite.Client("m", base_url=server.url, retry=None) as llm:
        ask(llm)
        monkeypatch.setattr(requests.sessions, "dispatch_hook", lambda *args, **options: (
            seen.append(args[0]), original(*args, **options))[1])
        ask(llm), ask(llm)
    assert seen == ["response"] * 2


@places
def test_wrapper_sees_each_retry(made, server, place):
    """A request that is sent again is seen again."""
    server.error(500)
    owner, name = PLACES[place]
    counter = Counter(getattr(owner, name))
    with mock.patch.object(owner, name, counter):
        assert ask(made) == "ok"
    assert counter.count == len(server.requests) == 2


@METHODS
def test_urllib3_may_be_made_to_answer_itself(made, server, method):
    """Who puts himself in the place of urllib3's urlopen answers, also with a body that comes through no socket."""
    ask(made, method)

    def urlopen(pool, *_, **__):
        whole = json.dumps({"choices": [{"index": 0, "message": {"content": "mine"}, "finish_reason": "stop"}]})
        return urllib3.HTTPResponse(io.BytesIO(whole.encode()), {"Content-Type": "application/json"}, 200,
                                    preload_content=False)

    with mock.patch.object(HTTPConnectionPool, "urlopen", urlopen):
        assert [ask(made, method) for _ in range(2)] == ["mine"] * 2
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [0, 3 << 20])
@pytest.mark.parametrize("place", ["Session.send", "HTTPAdapter.send"])
def test_wrapper_that_reads_the_body(server, place, size):
    """A body that a wrapper reads before we see the answer is a body, of any length and framing, and no head."""
    owner, name = PLACES[place]
    original = getattr(owner, name)

    def read(*args, **options):
        response = original(*args, **options)
        assert response.content
        return response

    server.handle(lambda request: testing.body(testing.reply("ok").content(testing.shape_of(request)).pieces[0]
                                               + b" " * size, framing="close"))
    with mock.patch.object(owner, name, read), llmlite.Client("m", base_url=server.url, retry=None) as llm:
        assert [ask(llm) for _ in range(2)] == ["ok"] * 2


BEFORE = """
    import functools, importlib, json, sys
    from unittest import mock
    from tests.test_hooks import PLACES, llmlite

    def counting(original):
        @functools.wraps(original)
        def wrapper(*args, **options):
            answer = original(*args, **options)
            counts.append(answer)
            return answer
        return wrapper

    found = {}
    for place, (owner, name) in PLACES.items():
        counts = []
        with mock.patch.object(owner, name, counting(getattr(owner, name))):
            module = importlib.reload(sys.modules[llmlite.Client.__module__])
            with module.Client("m", base_url=sys.argv[1], retry=None) as llm:
                texts = [llm.chat("hi").text, "".join(llm.stream("hi"))]
        found[place] = [texts, len(counts)]
    print(json.dumps(found))
"""


def run(code, *args):
    """What a fresh process prints last, as JSON."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *args], cwd=ROOT, timeout=30, text=True,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@functools.lru_cache(None)
def before_the_import():
    """What clients get of a module that is loaded while a wrapper stands, for each place: all in one process."""
    with testing.Server() as server:
        server.handle(lambda request: testing.stream(["o", "k"]))
        return run(BEFORE, server.url)


@places
def test_wrapper_put_on_before_the_import(place):
    """A wrapper that stands before the module is imported sees each request once."""
    assert before_the_import()[place] == [["ok", "ok"], 2]


def test_wrapper_without_a_hash(server, monkeypatch):
    """What stands in a method's place may be any object that Python can call by."""
    @dataclasses.dataclass  # it says what it equals, and so has no hash
    class Spy:
        inner: object
        calls: int = 0

        def __get__(self, session, kind=None):
            self.calls += session is not None
            return self if session is None else functools.partial(self.inner, session)

    spy = Spy(requests.Session.send)
    monkeypatch.setattr(requests.Session, "send", spy)
    server.reply("ok", times=2)
    with llmlite.Client("m", base_url=server.url, retry=None) as llm:
        assert [ask(llm) for _ in range(2)] == ["ok"] * 2 and spy.calls == 2


@METHODS
@pytest.mark.parametrize("name", ["send", "get_adapter"])
def test_wrapper_on_the_users_session(server, name, method):
    """A method that the user has replaced on his session alone is called once a request."""
    server.handle(lambda request: testing.stream(["o", "k"]))
    with requests.Session() as session, llmlite.Client("m", base_url=server.url, session=session, retry=None) as llm:
        assert ask(llm, method) == "ok"
        replaced = mock.Mock(side_effect=getattr(session, name))
        setattr(session, name, replaced)
        assert ask(llm, method) == "ok" and replaced.call_count == 1


@METHODS
def test_wrapper_may_change_the_request(made, server, method):
    """What a wrapper of Session.send puts into the headers is sent, as trace ids are."""
    original = requests.Session.send

    def send(session, request, **options):
        request.headers["traceparent"] = "00-1-1-01"
        return original(session, request, **options)

    with mock.patch.object(requests.Session, "send", send):
        assert ask(made, method) == "ok"
    assert server.requests[-1].headers["traceparent"] == "00-1-1-01"


@METHODS
def test_wrapper_may_answer_itself(made, server, method):
    """A wrapper of Session.send that answers by itself is the answer: nothing is sent."""
    ask(made)
    answer = requests.post(server.url + "/chat/completions", json={"stream": method == "stream"})

    with mock.patch.object(requests.Session, "send", lambda *_, **__: answer):
        assert ask(made, method) == "ok"
    assert len(server.requests) == 2


@pytest.fixture
def elsewhere(monkeypatch):
    """Every session sends from another thread, as a watchdog makes it."""
    send = requests.Session.send
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(requests.Session, "send", lambda *args, **how: pool.submit(send, *args, **how).result())
        yield
        monkeypatch.undo()


@METHODS
def test_wrapper_that_sends_from_another_thread(elsewhere, made, server, method):
    """The replies come as ever, over one connection, and a refused one is the error that it is."""
    assert [ask(made, method) for _ in range(2)] == ["ok"] * 2 and server.connections == 1
    server.close()
    made.close()
    with pytest.raises(llmlite.APIConnectionError, match="connection refused"):
        ask(made, method)


# -------------------------------------------------------------------------------- in the place of urllib3's connections


class Recording(urllib3.connection.HTTPConnection):
    """A connection in the place of urllib3's, as vcrpy puts one there."""

    asked = []

    def request(self, method, url, *args, **options):
        self.asked.append((method, url))
        return super().request(method, url, *args, **options)


@METHODS
def test_connection_class_put_in_later(server, method):
    """A class that stands for urllib3's connections while a client is made and used is the one that connects."""
    server.handle(lambda request: testing.stream(["o", "k"]))
    Recording.asked = []
    with mock.patch.object(HTTPConnectionPool, "ConnectionCls", Recording):
        with llmlite.Client("m", base_url=server.url, retry=None) as llm:
            assert ask(llm, method) == "ok"
    assert Recording.asked == [("POST", "/v1/chat/completions")]


@METHODS
def test_connection_class_put_in_under_a_client(server, method):
    """So it is for a client that was made before, and has not been used, or has been closed."""
    server.handle(lambda request: testing.stream(["o", "k"]))
    Recording.asked = []
    with llmlite.Client("m", base_url=server.url, retry=None) as llm:
        for _ in range(2):
            with mock.patch.object(HTTPConnectionPool, "ConnectionCls", Recording):
                assert ask(llm, method) == "ok"
            llm.close()
            assert ask(llm, method) == "ok"
            llm.close()
    assert Recording.asked == [("POST", "/v1/chat/completions")] * 2 and len(server.requests) == 4


@METHODS
def test_pool_class_put_in_keeps_to_limits(server, method):
    """A pool class that a manager of urllib3's has been given is asked for each request, and limits hold."""
    asked = []

    class Pool(HTTPConnectionPool):
        def urlopen(self, *args, **options):
            asked.append(args[:1])
            return super().urlopen(*args, **options)

    server.handle(lambda request: testing.stream(["o", "k"]))
    schemes = {**urllib3.poolmanager.pool_classes_by_scheme, "http": Pool}
    with mock.patch.object(urllib3.poolmanager, "pool_classes_by_scheme", schemes):
        with llmlite.Client("m", base_url=server.url, retry=None) as llm:
            assert ask(llm, method) == "ok" and len(asked) == 1
            server.raw(testing.STALL)
            with pytest.raises(llmlite.DeadlineExceededError):
                llm.chat("hi", deadline=0.2)


class OddSocket(socket.socket):
    """Its second read fails in its own way, as those of other TLS libraries and of green threads do."""

    reads = 0

    def recv_into(self, *args):
        self.reads += 1
        if self.reads > 1:
            raise LookupError("no such record")
        return super().recv_into(*args)


class OddConnection(urllib3.connection.HTTPConnection):
    def connect(self):
        super().connect()
        self.sock = OddSocket(fileno=self.sock.detach())


def test_socket_with_errors_of_its_own(server):
    """What a socket raises that is no OSError is a lost connection, with what had come."""
    server.stream(["o", "k"], gap=0.05)
    with mock.patch.object(HTTPConnectionPool, "ConnectionCls", OddConnection):
        with llmlite.Client("m", base_url=server.url, retry=None) as llm, pytest.raises(llmlite.LLMError) as caught:
            ask(llm, "stream")
    assert "connection lost" in str(caught.value) and "LookupError: no such record" in str(caught.value)


RECORDING = """
    import json, sys
    import urllib3.connection, urllib3.connectionpool
    from unittest import mock

    class Recording(urllib3.connection.HTTPConnection):
        asked = []

        def request(self, method, url, *args, **options):
            self.asked.append(url)
            return super().request(method, url, *args, **options)

    with mock.patch.object(urllib3.connection, "HTTPConnection", Recording):
        with mock.patch.object(urllib3.connectionpool.HTTPConnectionPool, "ConnectionCls", Recording):
            from tests import llmlite
            with llmlite.Client("m", base_url=sys.argv[1], retry=None) as llm:
                inside = llm.chat("hi").text
    with llmlite.Client("m", base_url=sys.argv[1], retry=None) as llm:
        outside = llm.chat("hi").text
    print(json.dumps([inside, outside, len(Recording.asked)]))
"""


@pytest.mark.parametrize("own", [True, False], ids=["own connections", "urllib3's connections"])
@METHODS
def test_pool_class_put_in(server, monkeypatch, own, method):
    """A pool class that somebody has put into urllib3's table serves the requests, with its own connections if any."""
    seen = []

    class Pool(HTTPConnectionPool):
        if own:
            ConnectionCls = type("Connection", (HTTPConnectionPool.ConnectionCls,), {})

        def urlopen(self, *args, **options):
            seen.append(self.ConnectionCls)
            return super().urlopen(*args, **options)

    monkeypatch.setitem(urllib3.poolmanager.pool_classes_by_scheme, "http", Pool)
    server.reply("hello")
    with llmlite.Client("test", base_url=server.url, retry=None, deadline=5) as llm:
        assert ask(llm, method) == "hello"
    assert len(seen) == 1 and (seen[0] is Pool.ConnectionCls) == own


@pytest.mark.skipif(urllib3.__version__ < "2", reason="urllib3 1 calls its own class by its name, which is replaced")
@beside
def test_connection_class_put_in_before_the_import(server):
    """A module imported while another class stands for urllib3's uses that one then, and urllib3's own afterwards."""
    server.reply("ok", times=2)
    assert run(RECORDING, server.url) == ["ok", "ok", 1]


INSTEAD = {
    "adapter": """
        class Adapter(requests.adapters.HTTPAdapter):
            def send(self, *args, **options):
                seen.append("adapter")
                return super().send(*args, **options)

        requests.sessions.HTTPAdapter = Adapter
    """,
    "session": """
        class Session(requests.Session):
            def send(self, *args, **options):
                seen.append("session")
                return super().send(*args, **options)

        requests.Session = requests.sessions.Session = Session
    """,
    "hook": """
        def made(self):
            original(self)
            self.hooks["response"].append(lambda response, *args, **options: seen.append("hook"))

        original, requests.Session.__init__ = requests.Session.__init__, made
    """,
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", INSTEAD)
def test_another_in_the_place_of_requests_own(server, what, when):
    """Whoever has put his own adapter, session or hook into requests is asked, before and after the import."""
    server.handle(lambda request: testing.stream(["o", "k"]))
    parts = {"import": "from tests import llmlite", "put": textwrap.dedent(INSTEAD[what])}
    order = ("put", "import") if when == "before" else ("import", "put")
    code = "\n".join(["import json, sys, requests, requests.adapters", "seen = []", *(parts[part] for part in order),
                      'with llmlite.Client("m", base_url=sys.argv[1], retry=None) as llm:',
                      '    print(json.dumps([llm.chat("hi").text, "".join(llm.stream("hi")), seen]))'])
    assert run(code, server.url) == ["ok", "ok", [what, what]]


@METHODS
def test_create_connection(made, server, method):
    """A replaced urllib3.util.connection.create_connection says where a name leads, as for plain requests."""
    original = urllib3.util.connection.create_connection

    def create_connection(address, *args, **options):
        assert address[0] == "far.invalid"
        return original(("127.0.0.1", server.port), *args, **options)

    session = made._options["session"]
    with mock.patch.object(urllib3.util.connection, "create_connection", create_connection):
        assert requests.post(f"http://far.invalid:{server.port}/v1/chat/completions", json={}).status_code == 200
        url = f"http://far.invalid:{server.port}/v1"
        with llmlite.Client("m", base_url=url, api_key="none", session=session, retry=None) as llm:
            assert ask(llm, method) == "ok"


# ------------------------------------------------------------------------ a urllib3 that calls its parts by other names

RENAMED = {
    "pools": """
        def new_pool(self, *args, **options):
            ours, self.pool_classes_by_scheme = self.pool_classes_by_scheme, poolmanager.pool_classes_by_scheme
            try:
                return original(self, *args, **options)
            finally:
                self.pool_classes_by_scheme = ours

        original, poolmanager.PoolManager._new_pool = poolmanager.PoolManager._new_pool, new_pool
    """,
    "connections": """
        def new_conn(self):
            self.ConnectionCls = connection.HTTPConnection
            return original(self)

        pool = connectionpool.HTTPConnectionPool
        original, pool._new_conn = pool._new_conn, new_conn
    """,
    "opening": """
        def connect(self):
            self._new_conn = functools.partial(connection.HTTPConnection._new_conn, self)
            return original(self)

        original, connection.HTTPConnection.connect = connection.HTTPConnection.connect, connect
    """,
}
WITH_RENAMED = """
import functools, json, sys
from urllib3 import connection, connectionpool, poolmanager
%s
from tests import llmlite
with llmlite.Client("m", base_url=sys.argv[1], retry=None, timeout=3) as llm:
    said = [llm.chat("hi").text]
    for _ in range(2):
        try:
            said.append(llm.chat("hi").text)
        except llmlite.LLMError as error:
            said.append(type(error).__name__)
    print(json.dumps([said, llm.ledger.attempts]))
"""
renamed = pytest.mark.parametrize("renamed", RENAMED)


@renamed
@beside
def test_renamed_parts_lead_to_no_loop(server, renamed):
    """Where urllib3 passes our parts by, a server that closes is asked no more than once more, and it is booked."""
    server.reply("ok")
    server.raw(testing.CLOSE, times=20)
    said, attempts = run(WITH_RENAMED % textwrap.dedent(RENAMED[renamed]), server.url)
    assert said == ["ok", "APIConnectionError", "APIConnectionError"]
    assert len(server.requests) <= 4 and attempts == len(server.requests)


@renamed
@beside
def test_renamed_parts_do_not_ask_a_server_twice_that_had_worked(server, renamed):
    """Nor is a server that had worked on the request asked again."""
    server.reply("ok")
    server.raw(0.6, testing.CLOSE, times=20)
    said, attempts = run(WITH_RENAMED % textwrap.dedent(RENAMED[renamed]), server.url)
    assert said == ["ok", "APIConnectionError", "APIConnectionError"] and attempts == len(server.requests) == 3


# ------------------------------------------------------------------------------------------ hooks of the user's session

BODIES = pytest.mark.parametrize("framing", ["length", "chunked", "close", "gzip"])


@pytest.fixture
def session():
    with requests.Session() as session:
        yield session


@METHODS
@BODIES
def test_hook_that_reads_the_body(server, session, framing, method):
    """A response hook that has read the body leaves the reply as it is."""
    seen = []
    session.hooks["response"].append(lambda response, **_: seen.append(response.content))
    server.stream(["o", "k"], framing=framing, usage=(3, 2))
    with llmlite.Client("m", base_url=server.url, session=session, retry=None) as llm:
        reply = llm.chat("hi") if method == "chat" else consumed(llm.stream("hi"))
        assert (reply.text, reply.finish_reason) == ("ok", "stop")
        assert len(seen) == 1 and b"choices" in seen[0] and llm.ledger.calls == 1


def consumed(stream):
    """The response of a stream that was read to its end."""
    assert list(stream) == ["o", "k"]
    return stream.response


@METHODS
def test_hook_that_reads_an_errors_body(server, session, method):
    """An error whose body a hook has read says what the provider said."""
    session.hooks["response"].append(lambda response, **_: response.text and None)
    server.error(404, "no such model")
    with llmlite.Client("m", base_url=server.url, session=session, retry=FAST) as llm:
        with pytest.raises(llmlite.NotFoundError, match="no such model") as caught:
            ask(llm, method)
    assert caught.value.body["error"]["message"] == "no such model"


@METHODS
def test_hook_that_puts_the_body_by(server, session, method):
    """A hook that has put the body into memory, as caches do, leaves the reply as it is."""
    def put_by(response, **_):
        body = response.raw.read()
        response.raw._fp, response.raw._fp_bytes_read, response.raw.length_remaining = io.BytesIO(body), 0, len(body)

    session.hooks["response"].append(put_by)
    server.handle(lambda request: testing.stream(["o", "k"]))
    with llmlite.Client("m", base_url=server.url, session=session, retry=None) as llm:
        assert [ask(llm, method) for _ in range(2)] == ["ok"] * 2


def test_hook_that_closes_or_replaces_the_response(server, session):
    """A hook that gives back a response of its own has the say."""
    def other(response, **_):
        response.close()
        answer = requests.Response()
        answer.status_code, answer.headers["content-type"] = 200, "application/json"
        answer.raw = io.BytesIO()
        answer._content = json.dumps({"choices": [{"message": {"content": "mine"}, "finish_reason": "stop"}]}).encode()
        return answer

    session.hooks["response"].append(other)
    server.reply("theirs")
    with llmlite.Client("m", base_url=server.url, session=session, retry=None) as llm:
        assert llm.chat("hi").text == "mine"


def raising(response, **_):
    response.raise_for_status()


REFUSALS = pytest.mark.parametrize("status, kind", [
    (400, "BadRequestError"), (401, "AuthenticationError"), (404, "NotFoundError"),
])  # fmt: skip


@METHODS
@REFUSALS
def test_hook_that_raises_for_status(server, session, status, kind, method):
    """A hook that calls raise_for_status() changes nothing: the error is the provider's, asked for once."""
    session.hooks["response"].append(raising)
    server.error(status, "no such thing", times=None)
    with llmlite.Client("m", base_url=server.url, session=session, retry=FAST) as llm:
        with pytest.raises(getattr(llmlite, kind), match="no such thing") as caught:
            ask(llm, method)
        assert (len(server.requests), caught.value.attempts, llm.ledger.unknown) == (1, 1, 0)
    assert caught.value.status_code == status and caught.value.body["error"]["message"] == "no such thing"


@METHODS
def test_hook_that_raises_for_status_leaves_retries(server, session, method):
    """What is worth another try is tried again though a hook has raised for it, after as long as the server asks."""
    session.hooks["response"].append(raising)
    server.error(500)
    server.error(429, retry_after=0.2)
    server.reply("ok")
    with llmlite.Client("m", base_url=server.url, session=session, retry=FAST) as llm:
        assert ask(llm, method) == "ok" and llm.ledger.retries == 2
    assert server.requests[2].time - server.requests[1].time >= 0.2


EATEN = [lambda response: list(response.iter_content(3)), lambda response: list(response.iter_lines())]


@METHODS
@pytest.mark.parametrize("read", EATEN, ids=["iter_content", "iter_lines"])
def test_hook_that_eats_the_body(server, session, read, method):
    """A hook that reads the body and keeps none of it is named in the error; the answer is booked, not asked anew."""
    session.hooks["response"].append(lambda response, **_: read(response) and None)
    server.handle(lambda request: testing.stream(["o", "k"]))
    with llmlite.Client("m", base_url=server.url, session=session, retry=FAST) as llm:
        with pytest.raises(llmlite.ResponseError, match=r"response hook of the session.*response\.content") as caught:
            ask(llm, method)
        assert (len(server.requests), caught.value.attempts, llm.ledger.calls, llm.ledger.failed) == (1, 1, 1, 1)


@METHODS
def test_hook_that_eats_an_errors_body(server, session, method):
    """An error whose body a hook has eaten is told by its status."""
    session.hooks["response"].append(lambda response, **_: list(response.iter_content(3)) and None)
    server.error(404, "no such model")
    with llmlite.Client("m", base_url=server.url, session=session, retry=FAST) as llm:
        with pytest.raises(llmlite.NotFoundError):
            ask(llm, method)
        assert len(server.requests) == 1


@METHODS
def test_hook_that_raises_what_is_no_failure_of_a_connection(server, session, method):
    """A mistake in a hook is its author's: it is raised as it is, and nothing is asked anew."""
    session.hooks["response"].append(lambda response, **_: int("seven"))
    server.handle(lambda request: testing.stream(["o", "k"]))
    with llmlite.Client("m", base_url=server.url, session=session, retry=FAST) as llm:
        with pytest.raises(ValueError, match="seven"):
            ask(llm, method)
        assert len(server.requests) == 1


@METHODS
@pytest.mark.parametrize("kind", [
    requests.RequestException, requests.ConnectionError, requests.ReadTimeout, requests.HTTPError, OSError])
def test_hook_that_raises_another_error(server, session, kind, method):
    """What else a hook raises, as if the connection had failed, names the hook; the answer is not asked anew."""
    def refuse(response, **_):
        raise kind("the vault is shut")

    session.hooks["response"].append(refuse)
    server.handle(lambda request: testing.stream(["o", "k"]))
    with llmlite.Client("m", base_url=server.url, session=session, retry=FAST) as llm:
        with pytest.raises(llmlite.LLMError, match="response hook of the session.*the vault is shut") as caught:
            ask(llm, method)
        assert (len(server.requests), caught.value.attempts, llm.ledger.attempts) == (1, 1, 1)


@pytest.mark.parametrize("hook", [None, lambda response, **_: response.content and None], ids=["redirect", "hook"])
def test_a_body_that_requests_reads_keeps_the_deadline(server, session, hook):
    """What requests reads of an answer before it hands it on, for a redirect or a hook, keeps to the deadline too."""
    session.hooks["response"] += [hook] if hook else []
    status = b"200 OK" if hook else b"302 Found\r\nLocation: http://127.0.0.1:1/x"
    server.raw(b"HTTP/1.1 %s\r\nContent-Length: 60\r\n\r\n" % status, *(b" ", 0.05) * 60)
    with llmlite.Client("m", base_url=server.url, session=session, retry=FAST, deadline=0.4) as llm:
        started = time.monotonic()
        with pytest.raises(llmlite.DeadlineExceededError):
            llm.chat("hi")
    assert within(0, started, 0.65) and len(server.requests) == 1


@METHODS
def test_a_redirect_that_stalls_is_not_blamed_on_a_hook(server, session, method):
    """Where the session has no hook, a read timeout within the answer is told as one."""
    server.raw(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 60\r\n\r\n", testing.STALL)
    with llmlite.Client("m", base_url=server.url, session=session, retry=None, timeout=0.2) as llm:
        with pytest.raises(llmlite.APITimeoutError, match="timed out|no data event"):
            ask(llm, method)
