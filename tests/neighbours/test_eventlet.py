"""eventlet: patched before anything else, calls, streams and `llmlite.testing` go on as over the sockets of Python."""
import ssl

import pytest
import trustme

from tests import testing
from tests.neighbours import METHODS, run

pytest.importorskip("eventlet")
STALLING = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n', testing.STALL,
)  # fmt: skip
START = """
    import eventlet
    eventlet.monkey_patch()
    import json, sys, time
    from tests import llmlite, testing
    from tests.neighbours import ask
    url = sys.argv[1]

    def client(**options):
        return llmlite.Client("m", base_url=url, **{"retry": None, "timeout": 5, **options})

"""


def green(code, *args):
    """What `code` answers in a process that eventlet has patched."""
    return run(code, *args, start=START)


@pytest.fixture(params=["http", "https"])
def provider(request, tmp_path, monkeypatch):
    """A scripted provider of either scheme, outside the patched process."""
    context = None
    if request.param == "https":
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with testing.Server(ssl_context=context) as server:
        yield server


@METHODS
def test_calls(provider, method):
    """Calls and streams work, over one connection."""
    provider.handle(lambda request: testing.stream(["o", "k"]))
    assert green("""
        with client() as llm:
            print(json.dumps([ask(llm, sys.argv[2]) for _ in range(3)]))
    """, provider.url, method) == ["ok"] * 3  # fmt: skip
    assert provider.connections == 1


@pytest.mark.parametrize("leave", ["stream.close()", "del stream", "stream.__exit__(None, None, None)"])
def test_leaving_a_stream(provider, leave):
    """Who leaves a stream early has closed its connection at once."""
    provider.stream(["a"] * 200, gap=0.05)
    provider.reply("ok")
    first, text = green("""
        llm = client()
        stream = llm.stream("hi")
        first = next(stream)
        LEAVE
        text = ask(llm)
        time.sleep(1)
        print(json.dumps([first, text]))
    """.replace("LEAVE", leave), provider.url)  # fmt: skip
    assert (first, text) == ("a", "ok") and len(provider.requests[0].sent) < 10


def test_stream_closed_by_another_greenlet(provider):
    """A greenlet that closes a stream wakes the one that reads it, which comes to its end."""
    provider.raw(*STALLING)
    texts, seconds = green("""
        llm = client(timeout=20)
        stream = llm.stream("hi")
        reader = eventlet.spawn(list, stream)
        started = time.monotonic()
        eventlet.sleep(0.2)
        stream.close()
        print(json.dumps([reader.wait(), time.monotonic() - started]))
    """, provider.url)  # fmt: skip
    assert texts == ["a"] and seconds < 5


@METHODS
@pytest.mark.parametrize("steps", [(testing.STALL,), tuple(x for n in range(60) for x in (b"H", 0.05))],
                         ids=["silent", "dripping"])  # fmt: skip
def test_deadline(provider, method, steps):
    """A deadline holds."""
    provider.raw(*steps)
    kind, seconds = green("""
        started = time.monotonic()
        try:
            ask(client(), sys.argv[2], deadline=0.5)
        except llmlite.LLMError as error:
            print(json.dumps([type(error).__name__, time.monotonic() - started]))
    """, provider.url, method)  # fmt: skip
    assert kind == "DeadlineExceededError" and seconds < 2


def test_greenlets_share_a_client(provider):
    """Ten greenlets that ask at once are answered at once, each with its own answer."""
    provider.handle(lambda request: testing.reply(request.json["messages"][0]["content"], delay=0.3))
    texts, seconds = green("""
        llm = client()
        started = time.monotonic()
        pool = eventlet.GreenPool(10)
        texts = [reply.text for reply in pool.imap(llm.chat, map(str, range(10)))]
        print(json.dumps([texts, time.monotonic() - started]))
    """, provider.url)  # fmt: skip
    assert texts == [str(number) for number in range(10)] and seconds < 2.8


def test_lost_connection(provider):
    """A connection that is reset while a stream runs is an LLMError, with what had come."""
    provider.raw(STALLING[0], 0.1, testing.RESET)
    kind, text = green("""
        stream = client().stream("hi")
        try:
            list(stream)
        except llmlite.StreamError as error:
            print(json.dumps([type(error).__name__, stream.text]))
    """, provider.url)  # fmt: skip
    assert text == "a"


def test_our_own_server():
    """`llmlite.testing` works in a patched process: it answers, stalls, drops and closes."""
    assert green("""
        with testing.Server() as server:
            server.reply("ok")
            server.raw(testing.STALL)
            server.stream(["a"] * 100, gap=0.05)
            with llmlite.Client("m", base_url=server.url, retry=None) as llm:
                said = [llm.chat("hi").text, server.drop_connections(), server.wait_idle(1)]
                try:
                    llm.chat("hi", deadline=0.3)
                except llmlite.DeadlineExceededError as error:
                    said.append(type(error).__name__)
                with llm.stream("hi") as stream:
                    said.append(next(stream))
                said += [server.wait_idle(1), len(server.requests)]
                server.raw(testing.STALL)
                waiting = eventlet.spawn(ask, llm)
                said.append(server.wait_for(4))
                started = time.monotonic()
                server.close()
                try:
                    waiting.wait()
                except llmlite.APIConnectionError:
                    said.append(time.monotonic() - started < 2)
        print(json.dumps(said))
    """, "-") == ["ok", 1, True, "DeadlineExceededError", "a", True, 3, True, True]  # fmt: skip
