"""pyOpenSSL put into urllib3: TLS goes over its sockets, which lack some of what Python's have."""
import ssl

import pytest
import trustme
import urllib3

from tests import testing
from tests.neighbours import METHODS, run

pytest.importorskip("OpenSSL")
pytest.importorskip("urllib3.contrib.pyopenssl", exc_type=ImportError)
ORDERS = pytest.mark.parametrize("order", ["before", "after"])
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
START = """
    import json, sys, time
    order, url, method = sys.argv[1:]
    if order == "before":
        import urllib3.contrib.pyopenssl
        urllib3.contrib.pyopenssl.inject_into_urllib3()
    from tests import llmlite
    from tests.neighbours import ask
    if order == "after":
        import urllib3.contrib.pyopenssl
        urllib3.contrib.pyopenssl.inject_into_urllib3()
    import requests
    with requests.get(url, stream=True) as answer:  # plain requests, as a control
        control = answer.status_code
    llm = llmlite.Client("m", base_url=url, retry=None, timeout=(5, 5))
    started = time.monotonic()

    def answer(*values):
        print(json.dumps([time.monotonic() - started, *values]))

"""


def injected(code, order, url, method="chat"):
    """What `code` answers in a process where urllib3 uses pyOpenSSL."""
    return run(code, order, url, method, start=START)


@pytest.fixture
def secure(tmp_path, monkeypatch):
    """A scripted provider that speaks TLS, whose authority the environment names."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(tmp_path / "ca.pem"))
    with testing.Server(ssl_context=context) as server:
        server.reply("control", headers={"Connection": "close"})
        yield server


@METHODS
@ORDERS
@pytest.mark.parametrize("deadline", [None, 5])
def test_calls(secure, order, method, deadline):
    """Calls and streams work, with a deadline and without, over one connection."""
    secure.handle(lambda request: testing.stream(["o", "k"]))
    _, control, texts = injected("""
        texts = [ask(llm, method, deadline=DEADLINE) for _ in range(3)]
        answer(control, texts)
    """.replace("DEADLINE", str(deadline)), order, secure.url, method)  # fmt: skip
    assert (control, texts) == (200, ["ok"] * 3) and secure.connections == 2


@METHODS
@pytest.mark.parametrize("steps", [(testing.STALL,), tuple(x for n in range(60) for x in (b"H", 0.05))],
                         ids=["silent", "dripping"])  # fmt: skip
def test_deadline(secure, method, steps):
    """A deadline holds for a head that never comes, or drips; it is booked as unknown."""
    secure.raw(*steps)
    seconds, kind, unknown = injected("""
        try:
            ask(llm, method, deadline=0.5)
        except llmlite.LLMError as error:
            answer(type(error).__name__, llm.ledger.unknown)
    """, "after", secure.url, method)  # fmt: skip
    assert (kind, unknown) == ("DeadlineExceededError", 1) and seconds < 2


@METHODS
def test_deadline_of_the_body(secure, method):
    """A deadline holds for a body that drips."""
    secure.reply("a" * 1000, split=20, gap=0.05)
    seconds, kind = injected("""
        try:
            ask(llm, method, deadline=0.5)
        except llmlite.LLMError as error:
            answer(type(error).__name__)
    """, "after", secure.url, method)  # fmt: skip
    assert kind == "DeadlineExceededError" and seconds < 2


@pytest.mark.skipif(urllib3.__version__ < "2", reason="plain requests cannot connect again: the context was used")
def test_leaving_a_stream(secure):
    """Who leaves a stream has closed its connection; a thread that closes one wakes the thread that reads it."""
    secure.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", CHUNK, testing.STALL, times=2)
    secure.reply("ok")
    seconds, first, rest, woken, text = injected("""
        import threading
        with llm.stream("hi") as stream:
            first = next(stream)
        stream, rest = llm.stream("hi"), []
        reader = threading.Thread(target=lambda: rest.extend(stream), daemon=True)
        reader.start()
        time.sleep(0.2)
        stream.close()
        reader.join(2)
        answer(first, rest, not reader.is_alive(), ask(llm))
    """, "after", secure.url)  # fmt: skip
    assert (first, rest, woken, text) == ("a", ["a"], True, "ok") and seconds < 4
    assert secure.wait_idle(2)


@METHODS
def test_lost_connections(secure, method):
    """A server that closes, or resets, is an APIConnectionError, asked once."""
    secure.raw(testing.CLOSE)
    secure.raw(testing.RESET)
    seconds, *kinds = injected("""
        kinds = []
        for _ in range(2):
            try:
                ask(llm, method)
            except llmlite.LLMError as error:
                kinds.append(type(error).__name__)
        answer(*kinds)
    """, "after", secure.url, method)  # fmt: skip
    assert kinds == ["APIConnectionError"] * 2 and len(secure.requests) == 3


@METHODS
def test_unknown_authority(secure, method, tmp_path, monkeypatch):
    """A certificate nobody vouches for is refused, and nothing is sent."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    seconds, kind, text = injected("""
        import os
        os.environ["SSL_CERT_FILE"] = os.environ["REQUESTS_CA_BUNDLE"] = "OTHER"
        try:
            ask(llmlite.Client("m", base_url=url, retry=None), method)
        except llmlite.LLMError as error:
            answer(type(error).__name__, str(error))
    """.replace("OTHER", str(tmp_path / "other.pem")), "after", secure.url, method)  # fmt: skip
    assert kind == "APIConnectionError" and "certificate" in text and len(secure.requests) == 1
    assert "SSL_CERT_FILE" in text and "https address" not in text


def test_child_that_leaves_the_parents_stream(secure):
    """A forked child that closes the stream which its parent has open takes nothing away from the parent."""
    secure.stream(["a", "b", "c"], gap=0.1)
    _, status, text = injected("""
        import os
        stream = llm.stream("hi")
        text, child = next(stream), os.fork()
        if not child:
            try:
                stream.close()
                os._exit(0)
            finally:
                os._exit(1)
        answer(os.waitpid(child, 0)[1], text + "".join(stream))
    """, "after", secure.url)  # fmt: skip
    assert (status, text) == (0, "abc")
