"""SOCKS proxies: no request is sent twice unasked, and deadlines hold from the greeting to the last byte."""
import contextlib
import socket
import ssl

import pytest
import requests
import trustme

from tests import llmlite, testing
from tests.beside import Lateness, idle, soon
from tests.relays import Socks

pytest.importorskip("socks", reason="needs PySocks")
KEY = "sk-0123456789"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
DRIP = [step for number in range(len(HEAD)) for step in (HEAD[number:number + 1], 0.05)]
SCHEMES = pytest.mark.parametrize("scheme", ["http", "https"])
PAIRS = pytest.mark.parametrize("scheme, method", [("http", "chat"), ("https", "stream")])  # one of each
ROADS = pytest.mark.parametrize("road", ["direct", "socks"])


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def contexts(authority):
    """A server's TLS context by the scheme of its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return {"http": None, "https": context}


@pytest.fixture
def scheme():
    return "http"


@pytest.fixture
def server(contexts, scheme, authority, tmp_path, monkeypatch):
    """A scripted provider of either scheme, whose authority the environment names."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with testing.Server(ssl_context=contexts[scheme]) as server:
        yield server


@contextlib.contextmanager
def through(monkeypatch, **how):
    """A SOCKS proxy that the environment names."""
    with Socks(**how) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        yield proxy


@pytest.fixture
def proxy(monkeypatch):
    with through(monkeypatch) as proxy:
        yield proxy


@pytest.fixture
def road():
    return "socks"


@pytest.fixture
def llm(server, road, request):
    """A client of `server` that tries once, with the proxy between or not."""
    if road == "socks":
        request.getfixturevalue("proxy")
    with client(server.url) as llm:
        yield llm


def client(url, **options):
    """A client that tries once; where a deadline does not hold, its read timeout ends the test."""
    return llmlite.Client("m", base_url=url, **{"api_key": KEY, "retry": None, "timeout": (5, 3), **options})


def ask(llm, method="chat", **options):
    if method == "chat":
        return llm.chat("hi", **options).text
    with llm.stream("hi", **options) as stream:
        return "".join(stream)


def fails(llm, method="chat", **options):
    """The LLMError of a call, and the seconds it took, but for what the machine itself was late."""
    with Lateness() as late, pytest.raises(llmlite.LLMError) as caught:
        ask(llm, method, **options)
    return caught.value, late.took - late.seconds


# ------------------------------------------------------------------------------------------------------------- it works


@PAIRS
def test_calls_go_through(server, proxy, llm, scheme, method):
    """Calls and streams go through the proxy, one after another over one connection."""
    server.handle(lambda request: testing.stream(["o", "k"]))
    assert [ask(llm, method) for _ in range(3)] == ["ok"] * 3
    assert (proxy.connections, server.connections, set(proxy.hosts)) == (1, 1, {"127.0.0.1"})


def test_proxy_looks_names_up(server, monkeypatch):
    """socks5h:// leaves the name to the proxy."""
    server.reply("ok")
    with through(monkeypatch, target=("127.0.0.1", server.port)) as proxy, client("http://far.invalid/v1") as llm:
        assert ask(llm) == "ok" and proxy.hosts == ["far.invalid"]
        llm.close()


@pytest.mark.parametrize("password, works", [("hunter2", True), ("hunter3", False)])
def test_login(server, monkeypatch, password, works):
    """User and password go to the proxy; a wrong one is an error that does not show it, and nothing was sent."""
    server.reply("ok")
    with through(monkeypatch, login=("me", "hunter2")) as proxy, client(server.url) as llm:
        monkeypatch.setenv("ALL_PROXY", proxy.url.replace("//", f"//me:{password}@"))
        if works:
            assert ask(llm) == "ok"
        else:
            error, _ = fails(llm)
            assert isinstance(error, llmlite.APIConnectionError) and password not in str(error) + repr(vars(error))
            assert not server.requests and llm.ledger.unknown == 0


@SCHEMES
def test_proxy_that_is_not_there(server, monkeypatch, scheme):
    """A proxy that cannot be reached is named as what failed, not the server."""
    with Socks() as proxy:
        pass
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    with client(server.url) as llm:
        error, _ = fails(llm)
        assert llm.ledger.unknown == 0
    assert str(error).startswith("compatible: proxy failed: ") and "is the server running" not in str(error)
    assert f"127.0.0.1:{proxy.address[1]}" in str(error)


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".example"])
def test_names_that_a_proxy_cannot_be_told(monkeypatch, host):
    """A host with an empty label, or one too long, is an APIConnectionError in one line."""
    with through(monkeypatch), client(f"http://{host}/v1") as llm:
        error, _ = fails(llm)
    assert type(error) is llmlite.APIConnectionError and "SOCKS proxy" in str(error)


@SCHEMES
def test_refusal(server, monkeypatch, scheme):
    """A proxy that refuses to connect is an APIConnectionError; nothing was sent."""
    with through(monkeypatch, refusing=5) as proxy, client(server.url) as llm:
        error, _ = fails(llm)
        assert isinstance(error, llmlite.APIConnectionError) and proxy.connections == 1
        assert (error.attempts, llm.ledger.attempts, llm.ledger.unknown) == (1, 1, 0)


@SCHEMES
def test_leaving_a_stream_closes_its_connection(server, llm, scheme):
    """Who leaves a stream early has closed its connection."""
    server.stream(["a"] * 100, gap=0.05)
    with llm.stream("hi") as stream:
        assert next(stream) == "a"
    assert idle(server)


# -------------------------------------------------------------------------------------------------- sent once, not more


@PAIRS
@ROADS
def test_server_that_closes_is_asked_once(server, llm, road, scheme, method):
    """A server that reads the request and closes is asked once with retry=None, and it is booked."""
    server.raw(testing.CLOSE, times=9)
    error, _ = fails(llm, method)
    assert type(error) is llmlite.APIConnectionError
    assert (len(server.requests), error.attempts, llm.ledger.attempts, llm.ledger.unknown) == (1, 1, 1, 1)


@ROADS
def test_server_that_closes_is_asked_as_often_as_the_policy_says(server, road, request):
    """The retries of the policy are all there are, each booked."""
    if road == "socks":
        request.getfixturevalue("proxy")
    server.raw(testing.CLOSE, times=9)
    with client(server.url, retry=llmlite.RetryPolicy(max_retries=2, backoff=0.001)) as llm:
        error, _ = fails(llm)
        assert (len(server.requests), error.attempts, llm.ledger.attempts, llm.ledger.unknown) == (3, 3, 3, 3)


@PAIRS
@ROADS
def test_pooled_connection_that_had_died_is_replaced(server, llm, road, scheme, method):
    """A pooled connection that the server had closed is replaced, unseen; the server is asked once a call."""
    server.handle(lambda request: testing.reply("ok"))
    for calls in range(1, 4):
        assert ask(llm, method) == "ok"
        assert (len(server.requests), llm.ledger.calls, llm.ledger.failed) == (calls, calls, 0)
        server.drop_connections()
        assert idle(server)


@PAIRS
@ROADS
def test_pooled_connection_that_dies_is_replaced_once(server, llm, road, scheme, method):
    """A pooled connection that dies at once is replaced once; what was sent is what is booked."""
    server.reply("ok")
    server.raw(testing.CLOSE, times=9)
    ask(llm, method)
    error, _ = fails(llm, method)
    assert isinstance(error, llmlite.APIConnectionError)
    assert len(server.requests) in (2, 3) and llm.ledger.attempts == len(server.requests)


@PAIRS
@ROADS
def test_server_that_had_worked_is_not_asked_again(server, llm, road, scheme, method):
    """A server that had worked on a request before it closed a pooled connection is not asked twice."""
    server.reply("ok")
    server.raw(0.45, testing.CLOSE, times=3)
    ask(llm, method)
    error, _ = fails(llm, method)
    assert isinstance(error, llmlite.APIConnectionError)
    assert (len(server.requests), error.attempts, llm.ledger.attempts, llm.ledger.unknown) == (2, 1, 2, 1)


@ROADS
def test_replacement_keeps_the_deadline(server, llm, road):
    """A request that is sent again over a new connection ends at the deadline of the first."""
    server.reply("ok")
    server.raw(testing.CLOSE)
    server.raw(testing.STALL, times=None)
    ask(llm)
    error, seconds = fails(llm, deadline=0.8)
    assert isinstance(error, llmlite.LLMError) and seconds < 1.05
    assert soon(lambda: llm.ledger.attempts == len(server.requests))


# ------------------------------------------------------------------------------------------------------------ deadlines


HEADS = pytest.mark.parametrize("head", [[testing.STALL], DRIP], ids=["none", "dripping"])


@PAIRS
@HEADS
def test_deadline_of_the_head(server, llm, scheme, method, head):
    """An answer's head that drips, or never comes, ends at the deadline; what was sent is booked as unknown."""
    server.raw(*head)
    error, seconds = fails(llm, method, deadline=0.8)
    assert type(error) is llmlite.DeadlineExceededError and seconds < 1.05
    assert (len(server.requests), llm.ledger.attempts, llm.ledger.unknown) == (1, 1, 1)


@PAIRS
def test_deadline_of_the_body(server, llm, scheme, method):
    """A body that drips ends at the deadline."""
    server.reply("a" * 1000, split=20, gap=0.05)
    error, seconds = fails(llm, method, deadline=0.3)
    assert type(error) is llmlite.DeadlineExceededError and error.elapsed > 0.2 and seconds < 0.55


@SCHEMES
def test_deadline_on_a_connection_from_the_pool(server, llm, scheme):
    """A second call over the same connection has its own deadline."""
    server.reply("ok")
    server.raw(testing.STALL)
    assert ask(llm, deadline=5) == "ok"
    error, seconds = fails(llm, deadline=0.3)
    assert type(error) is llmlite.DeadlineExceededError and seconds < 0.55 and server.connections == 1


GREETINGS = pytest.mark.parametrize("greeting", [{"silent": True}, {"gap": 0.12}], ids=["silent", "dripping"])


@SCHEMES
@GREETINGS
def test_deadline_of_the_greeting(server, monkeypatch, scheme, greeting):
    """A proxy whose greeting drips, or never comes, is left at the deadline; nothing was sent."""
    server.reply("ok")
    with through(monkeypatch, **greeting), client(server.url) as llm:
        error, seconds = fails(llm, deadline=0.3)
        assert type(error) is llmlite.DeadlineExceededError and seconds < 0.55
        assert not server.requests and llm.ledger.unknown == 0


@SCHEMES
@GREETINGS
def test_connect_timeout_of_the_greeting(server, monkeypatch, scheme, greeting):
    """The greeting belongs to the connect, and so does its timeout."""
    server.reply("ok")
    with through(monkeypatch, **greeting), client(server.url, timeout=(0.3, 3)) as llm:
        error, seconds = fails(llm)
        assert type(error) is llmlite.APITimeoutError and seconds < 0.55
        assert not server.requests and llm.ledger.unknown == 0


def test_slow_greeting_within_the_limits(server, monkeypatch):
    """A slow greeting that ends in time does no harm, and takes nothing from the read timeout."""
    server.reply("ok", delay=0.4)
    with through(monkeypatch, gap=0.03), client(server.url, timeout=(2, 1)) as llm:
        assert ask(llm, deadline=3) == "ok"


@pytest.mark.parametrize("limit", [{"deadline": 0.3}, {"timeout": (0.3, 3)}], ids=["deadline", "timeout"])
def test_limits_of_the_handshake(proxy, limit):
    """A server that never answers the TLS handshake is left in time."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        with client(f"https://127.0.0.1:{mute.getsockname()[1]}/v1") as llm:
            error, seconds = fails(llm, **limit)
    assert isinstance(error, (llmlite.DeadlineExceededError, llmlite.APITimeoutError)) and seconds < 0.55
    assert llm.ledger.unknown == 0


def test_session_of_the_users(server, proxy):
    """With a session of the user's, whose proxy it is, calls and streams go through as well."""
    with requests.Session() as session:
        session.trust_env, session.proxies = False, {"http": proxy.url}
        server.reply("ok", times=2)
        llm = client(server.url, session=session)
        assert (ask(llm), ask(llm, "stream"), proxy.connections) == ("ok", "ok", 1)
