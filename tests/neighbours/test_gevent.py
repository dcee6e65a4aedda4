"""gevent: patched first, or only after the import, as `gunicorn --preload` does; each greenlet keeps its own call."""
import ssl
import subprocess
import sys
import textwrap

import pytest
import trustme
import urllib3

from tests import testing
from tests.neighbours import METHODS, run

pytest.importorskip("gevent")
START = """
    from gevent import monkey
    import sys
    order, url, method = sys.argv[1:]
    if order == "first":
        monkey.patch_all()
    import json, time
    from tests import llmlite, testing
    from tests.neighbours import ask
    llm = llmlite.Client("m", base_url=url, retry=None, timeout=(5, 5))
    if order == "used":  # the master process has asked something before it forks its workers
        ask(llm)
    if order != "first":
        monkey.patch_all()
    import gevent
    started = time.monotonic()

    def answer(*values):
        print(json.dumps([time.monotonic() - started, *values]))

    def outcome(*args, **options):
        began = time.monotonic()
        try:
            said = ask(llm, method, *args, **options)
        except llmlite.LLMError as error:
            said = type(error).__name__
        return said, time.monotonic() - began

    def together(function, *lists):
        tasks = [gevent.spawn(function, *args) for args in zip(*lists)]
        gevent.joinall(tasks, timeout=10)
        return [task.value for task in tasks]

"""
UNLESS_OLD = pytest.mark.skipif(urllib3.__version__ < "2", reason="plain requests fails too: Pool is closed")
# TLS only where gevent came first: patched later, a TLS context is a RecursionError for plain requests too.
ORDERS = pytest.mark.parametrize("scheme, order", [
    ("http", "first"), ("https", "first"), pytest.param("http", "after", marks=UNLESS_OLD), ("http", "used"),
])  # fmt: skip


def green(code, order, url, method="chat"):
    """What `code` answers in a process that gevent has patched, before or after the import."""
    return run(code, order, url, method, start=START)


@pytest.fixture
def provider(scheme, order, tmp_path, monkeypatch):
    """A scripted provider of either scheme, outside the patched process."""
    context = None
    if scheme == "https":
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with testing.Server(ssl_context=context) as server:
        if order == "used":
            server.reply("ok")
        yield server


@METHODS
@ORDERS
def test_greenlets_share_a_client(provider, scheme, order, method):
    """Twenty greenlets that ask at once are answered at once, each with its own answer, and all is booked."""
    provider.handle(lambda request: testing.stream(list(request.json["messages"][0]["content"]), delay=0.3))
    seconds, texts, booked = green("""
        words = ["word %d" % number for number in range(20)]
        texts = together(lambda word: llm.chat(word).text if method == "chat" else "".join(llm.stream(word)), words)
        answer(texts == words or texts, [llm.ledger.calls, llm.ledger.attempts, llm.ledger.unknown, llm.ledger.failed])
    """, order, provider.url, method)  # fmt: skip
    assert texts is True and seconds < 2.5
    assert booked == [20 + (order == "used")] * 2 + [0, 0]


@METHODS
@ORDERS
def test_greenlets_keep_their_deadlines(provider, scheme, order, method):
    """Calls at once with different deadlines each end at their own; those that are answered in time are answered."""
    def slow(request):
        return testing.reply("ok", delay=float(request.json["messages"][0]["content"] == "hi") * 1.2)

    provider.handle(slow)
    seconds, outcomes = green("""
        limits = [0.3, 0.5, 5, None] * 3
        answer(together(lambda limit: outcome(deadline=limit), limits))
    """, order, provider.url, method)  # fmt: skip
    assert all(item for item in outcomes), outcomes
    for number, (said, taken) in enumerate(outcomes):
        limit = [0.3, 0.5][number % 4] if number % 4 < 2 else None
        if limit is None:
            assert said == "ok" and taken < 4, outcomes
        else:
            assert said == "DeadlineExceededError" and limit - 0.05 < taken < limit + 0.65, outcomes


@METHODS
@ORDERS
def test_greenlets_and_silent_heads(provider, scheme, order, method):
    """Heads that drip end at the deadline of whoever waits for them, and are booked as unknown, each once."""
    provider.raw(*(step for number in range(60) for step in (b"H", 0.05)), times=6)
    seconds, outcomes, unknown = green("""
        outcomes = together(lambda limit: outcome(deadline=limit), [0.3, 0.5, 0.7] * 2)
        answer(outcomes, llm.ledger.unknown)
    """, order, provider.url, method)  # fmt: skip
    assert unknown == 6 or order == "used"  # a connection from before blocks them all: some end before they have sent
    for limit, (said, taken) in zip([0.3, 0.5, 0.7] * 2, outcomes):
        assert said == "DeadlineExceededError" and taken < limit + 1.5, outcomes


@ORDERS
def test_leaving_a_stream(provider, scheme, order):
    """Who leaves a stream early has closed its connection; a greenlet that closes one wakes the one that reads it."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    provider.raw(head, chunk, testing.STALL, times=2)
    seconds, first, rest = green("""
        with llm.stream("hi") as stream:
            first = next(stream)
        stream = llm.stream("hi")
        reader = gevent.spawn(list, stream)
        gevent.sleep(0.2)
        stream.close()
        reader.join(2)
        answer(first, reader.value)
    """, order, provider.url)  # fmt: skip
    assert (first, rest) == ("a", ["a"]) and seconds < 4


@METHODS
@ORDERS
def test_waiting_lets_others_work(provider, scheme, order, method):
    """A call that waits for its retry lets other greenlets go on."""
    provider.error(500, delay=0.05)
    provider.reply("ok")
    seconds, said, ticks = green("""
        llm = llmlite.Client("m", base_url=url, retry=llmlite.RetryPolicy(backoff=0.6, jitter=0))
        ticks = []

        def tick():
            while True:
                ticks.append(1)
                gevent.sleep(0.05)

        clock = gevent.spawn(tick)
        said = outcome()[0]
        clock.kill()
        answer(said, len(ticks))
    """, order, provider.url, method)  # fmt: skip
    assert said == "ok" and ticks > 3  # 12, where the machine keeps up; 2 where it holds the others up


@pytest.mark.parametrize("kept_out", [True, False])
def test_pytest_stays_out_of_the_way(tmp_path, kept_out):
    """As the README has it: without -p no:llmlite the plugin brings in llmlite before a conftest.py can patch."""
    (tmp_path / "conftest.py").write_text(textwrap.dedent("""
        import sys
        early = "llmlite" in sys.modules
        from gevent import monkey
        monkey.patch_all()
    """))
    (tmp_path / "test_mine.py").write_text(textwrap.dedent("""
        import gevent.socket, socket, conftest, llmlite
        from llmlite import testing

        def test_mine():
            assert socket.socket is gevent.socket.socket
            with testing.Server() as server:
                server.reply("ok", delay=0.3, times=None)
                llm = llmlite.Client("m", base_url=server.url)
                tasks = [gevent.spawn(llm.chat, "hi") for _ in range(5)]
                assert len(gevent.joinall(tasks, timeout=1.2)) == 5
            print("early:", conftest.early)
    """))
    words = ["-p", "no:llmlite"] if kept_out else []
    done = subprocess.run([sys.executable, "-m", "pytest", "-qs", "-p", "no:cacheprovider", *words, str(tmp_path)],
                          cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"early: {not kept_out}" in done.stdout
