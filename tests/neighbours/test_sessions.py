"""Sessions of other libraries: requests-cache, and those for Unix sockets."""
import pytest

from tests import llmlite, testing
from tests.neighbours import METHODS, ask
from tests.relays import Unix

KEY = "sk-0123456789"


@METHODS
def test_requests_cache(server, method):
    """A caching session answers the same request again by itself."""
    requests_cache = pytest.importorskip("requests_cache")
    server.handle(lambda request: testing.reply("ok"))
    with requests_cache.CachedSession(backend="memory", allowable_methods=["GET", "POST"]) as session:
        llm = llmlite.Client("m", base_url=server.url, api_key=KEY, session=session, retry=None)
        assert [ask(llm, method) for _ in range(3)] == ["ok"] * 3
    assert len(server.requests) == 1


@METHODS
def test_requests_cache_keeps_no_error(server, method):
    """An error is not kept, and reads as ever."""
    requests_cache = pytest.importorskip("requests_cache")
    server.error(404, "no such model")
    server.reply("ok")
    with requests_cache.CachedSession(backend="memory", allowable_methods=["GET", "POST"]) as session:
        llm = llmlite.Client("m", base_url=server.url, api_key=KEY, session=session, retry=None)
        with pytest.raises(llmlite.NotFoundError, match="no such model"):
            ask(llm, method)
        assert ask(llm, method) == "ok"


@pytest.fixture
def unix(server):
    """A Unix socket in front of the server, and a session for such ones."""
    requests_unixsocket = pytest.importorskip("requests_unixsocket")
    with Unix(("127.0.0.1", server.port)) as relay, requests_unixsocket.Session() as session:
        yield relay, session


@METHODS
def test_requests_unixsocket(server, unix, method):
    """A base URL of a Unix socket goes through the session that knows it."""
    relay, session = unix
    server.reply("ok", times=3)
    assert session.post(relay.url + "/chat/completions", json={}).status_code == 200
    llm = llmlite.Client("m", base_url=relay.url, api_key=KEY, session=session, retry=None)
    assert [ask(llm, method) for _ in range(2)] == ["ok"] * 2
    assert server.requests[-1].headers["authorization"] == f"Bearer {KEY}"


@METHODS
def test_deadline_over_requests_unixsocket(server, unix, method):
    """A deadline bounds the body over a Unix socket."""
    relay, session = unix
    server.reply("a" * 1000, split=20, gap=0.05)
    llm = llmlite.Client("m", base_url=relay.url, api_key=KEY, session=session, retry=None)
    with pytest.raises(llmlite.DeadlineExceededError):
        ask(llm, method, deadline=0.5)
