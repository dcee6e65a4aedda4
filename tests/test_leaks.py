"""Nothing is left behind: by loops that are left, failures, Ctrl-C, the interpreter's end, and 64 threads at once."""
import contextlib
import gc
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref

import pytest

from tests import llmlite, testing
from tests.beside import beside, descriptors, idle, soon, untraced, within

QUICK = llmlite.RetryPolicy(max_retries=1, backoff=0.001, rate_limit_max_retries=1, rate_limit_backoff=0.001)
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
HE = {"choices": [{"index": 0, "delta": {"content": "He"}, "finish_reason": None}]}
DIALECTS = {"openai": ("stream", "/v1"), "anthropic": ("stream", ""), "gemini": ("stream", "/v1beta"),
            "completions": ("stream_tokens", "/v1")}


def echo(request):
    """The question as the answer."""
    return testing.reply(request.json["messages"][-1]["content"])


# ------------------------------------------------------------------------------------------------ streams that are left


def broken_off(make):
    for _ in make():
        break


def in_with(make):
    with make() as stream:
        next(stream)


def dropped(make):
    stream = make()
    del stream


def raised(make):
    with contextlib.suppress(ZeroDivisionError):
        for _ in make():
            raise ZeroDivisionError


def raised_in_with(make):
    with contextlib.suppress(ZeroDivisionError), make() as stream:
        for _ in stream.events():
            raise ZeroDivisionError


@pytest.mark.parametrize("leave", [broken_off, in_with, dropped, raised, raised_in_with])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_that_is_left(server, dialect, leave):
    """Each way to leave a stream closes its connection at once, books one call, and leaves no descriptor."""
    method, path = DIALECTS[dialect]
    provider = "openai" if dialect == "completions" else dialect
    server.handle(lambda request: testing.stream(["He", "llo"] * 40, end="stall"))
    llm = llmlite.Client("m", provider=provider, api_key="sk-0123456", base_url=server.root + path, retry=None)
    before = descriptors()
    leave(lambda: getattr(llm, method)("Hi"))
    assert idle(server)
    assert soon(lambda: descriptors() <= before)  # fewer: somebody else's garbage has gone
    assert (llm.ledger.calls, llm.ledger.attempts, llm.ledger.failed, llm.ledger.unknown) == (1, 1, 0, 0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the socket may be collected first
def test_a_stream_in_a_cycle(server):
    """A stream that only the garbage collector can find is closed by it."""
    server.stream(["He", "llo"] * 40, end="stall")
    llm = llmlite.Client("m", base_url=server.url, retry=None)
    ring = [llm.stream("Hi")]
    ring.append(ring)
    del ring
    gc.collect()
    assert idle(server)
    assert (llm.ledger.calls, llm.ledger.attempts) == (1, 1)


FAILURES = {
    "refused": testing.error(400), "server error": testing.error(500), "lost": testing.raw(testing.RESET),
    "closed": testing.raw(testing.CLOSE), "silent": testing.raw(testing.STALL),
    "half a head": testing.raw(b"HTTP/1.1 2"),
    "half a body": testing.sse(['data: {"choices": []}\n\n'], end="close"), "HTML": testing.body(b"<html>"),
    "torn": testing.sse(['data: {"choices": [\n\n', "data: 1\n\n"]), "204": testing.raw(b"HTTP/1.1 204 None\r\n\r\n"),
    "gzip": testing.body(b"none", headers={"Content-Encoding": "gzip"}),
    "huge": testing.raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 99999)}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_in_a_row(server, name):
    """Ten chats and ten streams that fail leave one pooled connection at most, and after close() none."""
    server.handle(lambda request: FAILURES[name])
    before = descriptors()
    with llmlite.Client("m", base_url=server.url, retry=QUICK, timeout=(5, 0.01 if name == "silent" else 5)) as llm:
        for _ in range(10):
            for ask in (llm.chat, lambda text: list(llm.stream(text))):
                with pytest.raises(llmlite.LLMError):
                    ask("Hi")
        assert soon(lambda: server.open_connections <= 1)
    assert idle(server)
    assert soon(lambda: descriptors() <= before)  # fewer: somebody else's garbage has gone


ASKS = {"chat": lambda llm: llm.chat("Hi", schema=dict), "stream": lambda llm: list(llm.stream("Hi", schema=dict)),
        "embed": lambda llm: llm.embed("Hi"), "models": lambda llm: llm.models()}
UNMET = {
    "no server": (None, {"base_url": "http://127.0.0.1:1/v1"}),
    "no host": (None, {"base_url": "http://nowhere.invalid/v1", "api_key": "sk-0123456"}),
    "late": (testing.raw(testing.STALL), {"deadline": 0.05}), "fallbacks": (testing.error(404), {"fallbacks": ["a"]}),
    "told to wait": (testing.error(429, retry_after=30), {"deadline": 0.5}),
    "no key": (None, {"api_key": lambda: "\n"}),
    "half a stream": (testing.sse(['data: {"choices": [{"delta": {"content": "a"}}]}\n\n'], end="close"), {}),
    "no JSON": (testing.json_body({"choices": [{"message": {"content": "a"}}]}), {})}


def held(llm, ask):
    """Weak references to what a failed call leaves: its error, those before it, the reply so far, the client."""
    try:
        ask(llm)
    except llmlite.LLMError as error:
        return [weakref.ref(thing) for thing in (llm, error, error.last_error, error.response) if thing is not None]


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
@pytest.mark.parametrize("name", [*FAILURES, *UNMET])
def test_a_failed_call_is_freed_at_once(server, caplog, name, ask):
    """An error is in no cycle with the frames it came through: dropped, it frees itself, the call and the client."""
    caplog.set_level(logging.CRITICAL, "llmlite")  # or records would hold it
    reply, options = UNMET.get(name) or (FAILURES[name], {})
    server.handle(lambda request: reply)
    options = {"base_url": server.url, "retry": QUICK, "timeout": (5, 0.05), **options}
    gc.disable()
    try:
        with llmlite.Client("m", **options) as llm:
            things = held(llm, ask)
        del llm
        assert len(things) > 1
        assert [thing() for thing in things if thing() is not None] == []
    finally:
        gc.enable()


def test_a_connection_that_comes_too_late(server, monkeypatch):
    """A connection that is there when the time is up is closed, not left to the garbage collector."""
    class Slow(socket.socket):
        def connect(self, address):
            super().connect(address)
            time.sleep(0.1)

    with llmlite.Client("m", base_url=server.url, retry=None) as llm:
        monkeypatch.setattr(socket, "socket", Slow)
        with pytest.raises(llmlite.DeadlineExceededError) as caught:
            llm.chat("Hi", deadline=0.05)
        monkeypatch.undo()
        del caught
        gc.collect()
        assert idle(server)


# ---------------------------------------------------------------------------------------------------- the program's end

PROGRAM = """
import sys, threading
from tests import llmlite
llm = llmlite.Client("m", base_url=sys.argv[1], retry=None, timeout=60)
"""
ENDINGS = {
    "client left open": "llm.chat('Hi')",
    "client never used": "",
    "client in a cycle": "llm.chat('Hi'); llm.me = llm",
    "reply kept": "reply = llm.chat('Hi')",
    "stream in the middle": "stream = llm.stream('Hi'); next(stream)",
    "stream not begun": "stream = llm.stream('Hi')",
    "stream in a cycle": "stream = llm.stream('Hi'); ring = [stream]; ring.append(ring)",
    "stream at its end": "stream = llm.stream('Hi'); list(stream)",
    "exit in a loop": "for _ in llm.stream('Hi'): sys.exit()",
    "a daemon in a call": "threading.Thread(target=llm.chat, args=('stall',), daemon=True).start(); llm.chat('Hi')",
    "a daemon in a stream":
        "threading.Thread(target=lambda: [*llm.stream('stall')], daemon=True).start(); llm.chat('Hi')",
    "after an error": "\ntry: llm.chat('fail')\nexcept llmlite.LLMError as error: kept = error",
}


@pytest.mark.parametrize("name", ENDINGS)
@beside
def test_the_interpreters_end(server, name):
    """Whatever a program leaves open, it ends at once and says nothing, with every warning an error."""
    answers = {"stall": testing.raw(testing.STALL), "fail": testing.error(500)}
    server.handle(lambda request: answers.get(request.json["messages"][0]["content"], testing.stream(["He", "llo"])))
    done = subprocess.run([sys.executable, "-W", "error", "-X", "dev", "-c", PROGRAM + ENDINGS[name], server.url],
                          capture_output=True, cwd=os.path.dirname(os.path.dirname(__file__)), timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert idle(server)


# --------------------------------------------------------------------------------------------------------------- Ctrl-C


def interrupt():
    """Ctrl-C, as a terminal sends it: to the main thread, wherever it is."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


@contextlib.contextmanager
def interrupted(when):
    """The block must end in KeyboardInterrupt, soon after `when()` holds."""
    sent = []

    def watch():
        while not when():
            time.sleep(0.002)
        time.sleep(0.03)  # until the main thread waits for the next bytes
        sent.append(time.monotonic())
        interrupt()

    thread = threading.Thread(target=watch)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    assert within(0, sent[0], 0.5)
    thread.join()


@pytest.fixture
def asked(server):
    """A client with long waits, whose server has a special answer once, and echoes afterwards."""
    server.handle(echo)
    slow = llmlite.RetryPolicy(backoff=30, backoff_max=30, rate_limit_backoff=30)
    with llmlite.Client("m", base_url=server.url, retry=slow) as llm:
        yield llm


def goes_on(server, llm, open_before=0):
    """The interrupted connection is closed, and the client answers as if nothing had been."""
    assert soon(lambda: server.open_connections == open_before)
    assert llm.chat("one").text == "one"
    assert "".join(llm.stream("two")) == "two"
    llm.close()
    assert idle(server)


BODY = b'HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{"choices": [{"message": {"content": "stale'


@pytest.mark.parametrize("steps, unknown, calls", [
    ((testing.STALL,), 1, 0), ((b"HTTP/1.1 200 OK\r\nContent-", testing.STALL), 1, 0), ((BODY, testing.STALL), 0, 1)])
def test_ctrl_c_in_a_chat(server, asked, steps, unknown, calls):
    """It comes out of chat() at once; the request is in the ledger, its connection closed."""
    server.raw(*steps)
    with interrupted(lambda: server.requests):
        asked.chat("stale")
    assert (asked.ledger.attempts, asked.ledger.unknown, asked.ledger.calls) == (1, unknown, calls)
    goes_on(server, asked)


def test_ctrl_c_on_a_pooled_connection(server, asked):
    """So it does on a connection that has served before: it is not used again."""
    asked.chat("first")
    server.raw(testing.STALL)
    with interrupted(lambda: len(server.requests) == 2):
        asked.chat("stale")
    goes_on(server, asked)


@pytest.mark.parametrize("ask", [next, list, lambda stream: list(stream.events())], ids=["next", "list", "events"])
def test_ctrl_c_in_a_stream(server, asked, ask):
    """It comes out of the stream at once, which is then at its end with what had come."""
    server.sse([HE], end="stall")
    stream = asked.stream("stale")
    assert next(stream) == "He"
    with interrupted(lambda: True):
        ask(stream)
    assert (list(stream), stream.text, asked.ledger.calls) == ([], "He", 1)
    goes_on(server, asked)


def test_ctrl_c_before_the_first_event(server, asked):
    """It comes out of stream() too."""
    server.raw(CHUNKED, testing.STALL)
    with interrupted(lambda: server.requests):
        asked.stream("stale")
    goes_on(server, asked)


def test_ctrl_c_in_the_wait_for_a_retry(server, asked):
    """It ends the wait; the refused attempt's connection is whole, and used again."""
    server.error(500)
    with interrupted(lambda: asked.ledger.attempts == 1):
        asked.chat("refused")
    assert (asked.ledger.attempts, asked.ledger.unknown) == (1, 0)
    goes_on(server, asked, open_before=1)
    assert server.connections == 1


def test_ctrl_c_in_a_cool_down(server):
    """It ends the wait that the server asked for; the cool-down itself stays."""
    server.handle(echo)
    server.error(429, retry_after=0.5)
    with llmlite.Client("m", base_url=server.url) as llm:
        with interrupted(lambda: llm.ledger.attempts == 1):
            llm.chat("refused")
        assert llm.chat("one").text == "one"
    assert server.requests[1].time - server.requests[0].time >= 0.5


@untraced()
def test_ctrl_c_after_a_streams_end(server):
    """A stream that is whole is booked, also while the end of its framing is waited for."""
    def trace(frame, event, arg):
        if frame.f_code.co_name == "drain":
            raise KeyboardInterrupt

    server.stream(["Hello"], usage=(10, 5))
    with llmlite.Client("m", base_url=server.url, retry=None) as llm:
        stream = llm.stream("Hi")
        sys.settrace(trace)
        with pytest.raises(KeyboardInterrupt):
            list(stream)
        sys.settrace(None)
        assert (llm.ledger.calls, llm.ledger.attempts, llm.ledger.usage.total_tokens) == (1, 1, 15)
        assert stream.response.text == "Hello"
    assert idle(server)


def test_ctrl_c_once_the_head_is_here(server, caplog):
    """An answer of status 200 is a billed call from its head on."""
    class Interrupting(logging.Handler):
        def emit(self, record):
            if " 200" in record.getMessage():
                raise KeyboardInterrupt

    handler = Interrupting()
    caplog.set_level(logging.DEBUG, "llmlite")
    server.reply("Hello")
    logging.getLogger("llmlite").addHandler(handler)
    try:
        with llmlite.Client("m", base_url=server.url, retry=None) as llm:
            with pytest.raises(KeyboardInterrupt):
                llm.chat("Hi")
            assert (llm.ledger.calls, llm.ledger.attempts, llm.ledger.unknown) == (1, 1, 0)
            assert idle(server)
    finally:
        logging.getLogger("llmlite").removeHandler(handler)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may also hit a finalizer
@pytest.mark.parametrize("streams", [False, True])
@untraced()
def test_ctrl_c_at_any_moment(server, streams):
    """Wherever it hits, the next answer is the next question's, and close() leaves no connection."""
    server.handle(lambda request: testing.reply(request.json["messages"][-1]["content"], split=[20], gap=0.0005))
    dice = random.Random(7)

    def ask(text):
        if not streams:
            return llm.chat(text).text
        with llm.stream(text) as stream:
            return "".join(stream)

    with llmlite.Client("m", base_url=server.url, retry=QUICK, timeout=5) as llm:
        hits = 0
        for number in range(80):
            timer = threading.Timer(dice.uniform(0.001, 0.006), interrupt)
            try:
                timer.start()
                for again in range(200):
                    question = f"{number}-{again}"
                    assert ask(question) == question
            except KeyboardInterrupt:
                hits += 1
            timer.join()
            assert ask(f"after {number}") == f"after {number}"
        assert hits > 60
        gc.collect()  # sockets that it hit in the making: here, where they are expected
        assert soon(lambda: server.open_connections <= 1)
    assert idle(server)


def test_ctrl_c_in_the_constructor_of_an_answer(server):
    """What it leaves half made is collected without a word."""
    def strike(frame, event, arg):
        if event == "call" and frame.f_code.co_name == "makefile":
            raise KeyboardInterrupt

    said, hook = [], sys.unraisablehook
    server.reply("ok")
    with llmlite.Client("m", base_url=server.url, api_key="none", retry=None) as llm:
        sys.unraisablehook = said.append
        try:
            sys.setprofile(strike)
            with pytest.raises(KeyboardInterrupt):
                llm.chat("hi")
            gc.collect()
        finally:
            sys.setprofile(None)
            sys.unraisablehook = hook
    assert said == []


# -------------------------------------------------------------------------------------------------------------- threads


def test_close_frees_a_blocked_reader(server):
    """close() from another thread ends a reader that waits for bytes, quietly and at once."""
    server.sse([HE], end="stall")
    llm = llmlite.Client("m", base_url=server.url, retry=None)
    stream, found = llm.stream("Hi"), []
    reader = threading.Thread(target=lambda: found.extend(stream))
    reader.start()
    assert soon(lambda: found == ["He"])
    started = time.monotonic()
    stream.close()
    reader.join(5)
    assert not reader.is_alive() and within(0, started, 0.3)
    assert found == ["He"]
    assert idle(server)


def test_64_threads(server):
    """64 calls at once make 64 connections and no more, each gets its own answer, and close() closes them all."""
    together = threading.Barrier(64)

    def answer(request):
        if "wait" in request.json["messages"][-1]["content"]:
            together.wait(20)
        # A body of known length: a last chunk that a busy server sends late costs the connection.
        return testing.reply(request.json["messages"][-1]["content"], framing="length")

    server.handle(answer)
    before, threads = descriptors(), threading.active_count()
    wrong = []

    def work(number):
        for text in (f"wait {number}", *(f"{number} {again}" for again in range(5))):
            got = llm.chat(text).text if number % 2 else "".join(llm.stream(text))
            if got != text:
                wrong.append((text, got))

    with llmlite.Client("m", base_url=server.url, retry=None, timeout=20) as llm:
        workers = [threading.Thread(target=work, args=(number,)) for number in range(64)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not wrong
        assert (llm.ledger.calls, llm.ledger.attempts, llm.ledger.failed) == (384, 384, 0)
        assert server.connections == server.open_connections == 64
    assert idle(server)
    assert soon(lambda: descriptors() <= before)  # fewer: somebody else's garbage has gone
    assert soon(lambda: threading.active_count() == threads)
