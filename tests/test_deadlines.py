"""Deadlines and idle timeouts: a call comes back in time whatever the server does, and says how far it had come."""
import contextlib
import dataclasses
import functools
import gzip
import json
import socket
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import List, Union

import pytest
import requests

from tests import llmlite, testing
from tests.beside import beside, idle, timed

FAST = llmlite.RetryPolicy(max_retries=2, backoff=0.001, rate_limit_max_retries=2, rate_limit_backoff=0.001)
D = 0.8  # seconds: the deadline of most calls here
GRACE = 0.25  # seconds a call may take longer than its deadline
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
GZIP = {"Content-Encoding": "gzip"}
DONE = "data: [DONE]\n\n"


def patient(server):
    """A client with retries and the deadline."""
    return llmlite.Client("test", base_url=server.url, retry=FAST, deadline=D)


beside = functools.partial(beside, client=patient)


def ask(llm, how, **options):
    """A whole reply: by chat(), or by stream() and all its pieces."""
    if how == "chat":
        return llm.chat("Hi", **options)
    stream = llm.stream("Hi", **options)
    for _ in stream:
        pass
    return stream.response


def exceeded(function, least=D, most=D + GRACE):
    """The DeadlineExceededError that a call must end in, within the grace after the deadline."""
    with timed(least - 0.01, most), pytest.raises(llmlite.DeadlineExceededError) as caught:
        function()
    assert type(caught.value) is llmlite.DeadlineExceededError
    return caught.value


def together(names, case):
    """Run `case(name, server)` for each name, each with a server of its own, all at the same time."""
    def run(name):
        with testing.Server() as server:
            case(name, server)

    with ThreadPoolExecutor(len(names)) as pool:
        running = {name: pool.submit(run, name) for name in names}
    failures = {name: future.exception() for name, future in running.items() if future.exception()}
    assert not failures


def chunk(content=None, finish=None):
    delta = {} if content is None else {"content": content}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def chunked(*events):
    """Events, as dicts, in the wire's chunks."""
    lines = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    return b"".join(b"%x\r\n%b\r\n" % (len(line), line) for line in lines)


def drip(data, gap=0.01):
    """Steps that send one byte at a time."""
    return [step for byte in data for step in (bytes([byte]), gap)]


def forever(data, gap=0.01, times=500):
    return [data, gap] * times


# ----------------------------------------------------------------------------------- servers that do not come to an end


LONG = b'{"choices": [], "x": "' + b"x" * 500
NEVER = {
    "no-answer": [testing.STALL],
    "head-dripped": drip(HEAD + b"X: " + b"x" * 500),
    "continue": forever(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunk-extension": [CHUNKED, b"5;x=", *forever(b"x")],
    "no-body": [HEAD + b"Content-Length: 500\r\n\r\n", testing.STALL],
    "length-dripped": [HEAD + b"Content-Length: 5000\r\n\r\n", *drip(LONG)],
    "chunked-dripped": [CHUNKED, *[step for byte in LONG for step in (b"1\r\n%c\r\n" % byte, 0.01)]],
    "close-dripped": [HEAD + b"\r\n", *drip(LONG)],
    "gzip-dripped": [HEAD + b"Content-Encoding: gzip\r\n\r\n",
                     *drip(gzip.compress(LONG, compresslevel=0)[:-30])],
    "pings": [CHUNKED, *forever(b"8\r\n: ping\n\n\r\n")],
    "blank-lines": [HEAD + b"\r\n", *forever(b"\n")],
    "trailers": [CHUNKED, b"2\r\n{}\r\n0\r\n", *forever(b"X: y\r\n")],
}


@pytest.mark.parametrize("how, names", [
    ("chat", list(NEVER)), ("stream", ["no-answer", "head-dripped", "chunked-dripped", "gzip-dripped", "pings"])])
@beside
def test_a_server_that_does_not_come_to_an_end(how, names):
    """Silence, or bytes that drip for ever, in the head, between or in the body: the deadline holds."""
    def case(name, server):
        server.raw(*NEVER[name])
        with llmlite.Client("test", base_url=server.url, retry=FAST, deadline=D) as llm:
            error = exceeded(lambda: ask(llm, how))
        assert (error.attempts, len(server.requests)) == (1, 1)
        assert error.elapsed >= D
        assert f"deadline of {D} s" in str(error)
        assert (error.response, error.retry_after) == (None, None)
        assert idle(server)

    together(names, case)


HE = chunked(chunk("He"))
LATER = {
    "silence": [CHUNKED, HE, testing.STALL],
    "pings": [CHUNKED, HE, *forever(b"8\r\n: ping\n\n\r\n")],
    "event-dripped": [CHUNKED, HE, b"50\r\n", *drip(b'data: {"x": "' + b"x" * 500)],
    "events": [CHUNKED, HE, *forever(chunked({**chunk(), "usage": {"prompt_tokens": 1}}))],
}


@beside
def test_a_stream_that_does_not_come_to_an_end():
    """The deadline runs through a stream's last event; the error has the reply so far."""
    def case(name, server):
        server.raw(*LATER[name])
        with llmlite.Client("test", base_url=server.url, retry=FAST, deadline=0.8) as llm:
            error = exceeded(lambda: ask(llm, "stream"), least=0.8, most=0.8 + GRACE)
        assert (error.response.text, error.response.finish_reason) == ("He", None)
        assert len(server.requests) == 1
        assert idle(server)

    together(LATER, case)


def test_a_stream_without_end_that_is_never_dull(server):
    """Events as fast as the wire takes them are no reason to miss the deadline."""
    server.raw(CHUNKED, *[chunked(chunk("x")) * 1000] * 1000)
    with patient(server) as llm:
        assert set(exceeded(lambda: ask(llm, "stream")).response.text) == {"x"}


@beside
def test_a_flood_of_interim_answers_is_refused(server):
    """A thousand "100 Continue" are no head: what they cost to read is bounded by their number."""
    server.raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 1001, testing.STALL)
    llm = llmlite.Client("test", base_url=server.url, retry=None)
    with pytest.raises(llmlite.ResponseError, match="over 1000 interim answers"):
        llm.chat("Hi")


def test_a_deadline_holds_while_a_small_answer_unpacks(server):
    """A few kilobytes that unpack to comments for seconds do not hold the call."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    block = b":\n" * (1 << 19)
    first, again = [packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    server.body(first + again * 200, headers=GZIP)
    with patient(server) as llm:
        exceeded(lambda: ask(llm, "stream"))


@beside
def test_after_the_finish_reason_the_deadline_costs_nothing(server, llm):
    """If only [DONE] or usage is missing when the time is up, the reply is whole, and returned."""
    server.raw(CHUNKED, chunked(chunk("Hello"), chunk(finish="stop")), *forever(b"8\r\n: ping\n\n\r\n"))
    with timed(1.49, 1.5 + GRACE):
        reply = ask(llm, "stream", deadline=1.5)
    assert (reply.text, reply.finish_reason) == ("Hello", "stop")


@beside
def test_trailers_without_end_after_the_end_mark(server, llm):
    """After [DONE] a stream is at its end, however long the server goes on."""
    server.raw(CHUNKED, chunked(chunk("Hello"), chunk(finish="stop")) + b"e\r\n" + DONE.encode() + b"\r\n0\r\n",
               *forever(b"X: y\r\n"))
    with timed(0, D):
        assert ask(llm, "stream", deadline=5).text == "Hello"


@beside
def test_a_deadline_of_one_call(server, llm):
    """A call's own deadline goes before the client's, and None lifts it."""
    slow = testing.reply("Hello", delay=D + 0.1)
    server.handle(lambda request: slow if b"lifted" in request.body else testing.raw(testing.STALL))
    exceeded(lambda: llm.chat("Hi", deadline=0.1), least=0.1, most=0.1 + GRACE)
    assert llm.chat("lifted", deadline=None).text == "Hello"


@pytest.mark.parametrize("how", ["chat", "stream"])
@beside
def test_a_deadline_that_is_kept_changes_nothing(server, llm, how):
    """An answer in time is an answer, and the next call has its own deadline."""
    server.stream(["Hello"], times=2, delay=0.6, framing="length")  # a last chunk that comes late costs the connection
    for _ in range(2):
        assert ask(llm, how, deadline=5).text == "Hello"
    assert server.connections == 1


@contextlib.contextmanager
def full():
    """The address of a listener whose queue is full: connects to it are never answered."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


@pytest.mark.parametrize("policy", [FAST, None], ids=["retries", "no-retries"])
@beside
def test_a_connection_that_is_never_made(policy):
    """A host that swallows connects costs the deadline and no more, with retries too."""
    with full() as url, llmlite.Client("test", base_url=url, retry=policy, deadline=D) as llm:
        exceeded(lambda: llm.chat("Hi"))
        assert llm.ledger.unknown == 0


def test_a_tls_handshake_has_what_connecting_left_of_the_deadline(monkeypatch):
    """What the connect took is not there for the handshake: the socket is told so before it begins."""
    given = []

    class Slow(socket.socket):
        def connect(self, address):
            time.sleep(0.3)
            super().connect(address)
            given.clear()

        def settimeout(self, seconds):
            given.append(seconds)
            super().settimeout(seconds)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: listener.accept()[0].close())
        monkeypatch.setattr(socket, "socket", Slow)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/v1"
        with llmlite.Client("test", base_url=url, api_key="k", retry=None, deadline=5) as llm:
            with pytest.raises(llmlite.APIConnectionError):
                llm.chat("Hi")
    assert given and 0 < max(given) <= 4.7


@beside
def test_a_connect_timeout_is_its_own_error():
    """Without a deadline the connect timeout ends each attempt to connect."""
    with full() as url, llmlite.Client("test", base_url=url, retry=None, timeout=(0.15, 9)) as llm, \
            timed(0.14, 0.15 + GRACE), pytest.raises(llmlite.APITimeoutError, match="connect timed out"):
        llm.chat("Hi")


@pytest.mark.parametrize("earlier", [0, 1], ids=["new", "idle"])
@pytest.mark.parametrize("reads", [False, True], ids=["deaf", "slow"])
@beside
def test_a_server_that_does_not_read_the_request(reads, earlier):
    """A large request that the server does not take, or takes by the drop, is bounded as well, on any connection."""
    over = threading.Event()

    def accept():
        with contextlib.suppress(socket.timeout), listener.accept()[0] as sock:
            for _ in range(earlier):
                sock.recv(1 << 16)
                sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 41\r\n\r\n{"choices":[{"message":{"content":"a"}}]}')
            while not over.wait(0.02):
                if reads:
                    sock.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.settimeout(5)
        accepting = pool.submit(accept)
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            with llmlite.Client("test", base_url=url, retry=FAST, deadline=2) as llm:
                for _ in range(earlier):
                    assert llm.chat("Hi", deadline=5).text == "a"
                exceeded(lambda: llm.chat("x" * (8 << 20)), least=2, most=2 + GRACE)
                assert llm.ledger.unknown == 1
        finally:
            over.set()
        accepting.result()


# -------------------------------------------------------------------------------------------------- waits and deadlines


@beside
def test_a_retry_due_after_the_deadline(server):
    """If the backoff ends past the deadline, the call ends at once, with the error it would have retried."""
    llm = llmlite.Client("test", base_url=server.url, deadline=5, retry=llmlite.RetryPolicy(backoff=60, backoff_max=60))
    server.error(500, "Broken")
    error = exceeded(lambda: llm.chat("Hi"), least=0, most=1)
    assert (type(error.last_error), error.last_error.message) == (llmlite.ServerError, "Broken")
    assert (error.retry_after, error.attempts, len(server.requests)) == (None, 1, 1)
    assert "Broken" in str(error)


@pytest.mark.parametrize("how", ["chat", "stream"])
@beside
def test_a_server_that_asks_to_wait_past_the_deadline(server, llm, how):
    """Retry-After past the deadline: DeadlineExceededError at once, with what the server asks."""
    server.error(429, "Slow down", retry_after=30)
    error = exceeded(lambda: ask(llm, how, deadline=5), least=0, most=1)
    assert (error.retry_after, type(error.last_error)) == (30, llmlite.RateLimitError)
    assert error.last_error.retry_after == 30
    assert (error.attempts, len(server.requests)) == (1, 1)


@beside
def test_a_deadline_inside_the_cool_down(server, llm):
    """A call that would start after its deadline, for another was told to wait, ends at once and sends nothing."""
    server.error(429, "Slow down", retry_after=30)
    exceeded(lambda: llm.chat("Hi", deadline=5), least=0, most=1)
    error = exceeded(lambda: llm.chat("Hi", deadline=5), least=0, most=1)
    assert 29 < error.retry_after <= 33
    assert (error.attempts, len(server.requests)) == (0, 1)


@beside
def test_retries_are_bounded_by_the_deadline_together(server):
    """The deadline counts from the call, not from the attempt; the last attempt's error is kept."""
    server.error(500, "Broken", delay=0.1)
    server.error(502, "Broken too", delay=0.1)
    server.raw(testing.STALL)
    llm = llmlite.Client("test", base_url=server.url, retry=FAST, deadline=2)
    error = exceeded(lambda: llm.chat("Hi"), least=2, most=2 + GRACE)
    assert (error.attempts, len(server.requests)) == (3, 3)
    assert error.last_error.status_code == 502


# --------------------------------------------------------------------------------------------- a session of the user's


@pytest.mark.parametrize("how, names", [
    ("chat", ["no-answer", "length-dripped", "chunked-dripped", "close-dripped", "gzip-dripped"]),
    ("stream", ["pings"]),
])
@beside
def test_the_deadline_with_a_session_of_the_users(how, names):
    """The body is bounded over the user's own requests.Session too."""
    def case(name, server):
        server.raw(*NEVER[name])
        with requests.Session() as session:
            llm = llmlite.Client("test", base_url=server.url, retry=FAST, deadline=D, session=session)
            exceeded(lambda: ask(llm, how))
            assert idle(server)

    together(names, case)


# -------------------------------------------------------------------------------------------------------- idle streams


@beside
def test_a_stream_of_pings_is_idle(server):
    """Pings do not count: after idle_timeout without an event APITimeoutError comes, with the reply so far."""
    server.raw(*LATER["pings"])
    llm = llmlite.Client("test", base_url=server.url, retry=FAST, idle_timeout=0.5)
    with timed(0.49, 0.5 + GRACE), pytest.raises(llmlite.APITimeoutError, match="no data event for 0.5 s") as caught:
        ask(llm, "stream")
    assert caught.value.response.text == "He"
    assert len(server.requests) == 1
    assert idle(server)


FIRST = {  # how a stream of each dialect begins, with one piece of text
    "openai": [chunk("He")], "completions": [{"choices": [{"index": 0, "text": "He"}]}],
    "anthropic": [{"type": "message_start", "message": {"id": "m", "model": "m", "usage": {"input_tokens": 3}}},
                  {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
                  {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "He"}}],
    "gemini": [{"candidates": [{"content": {"parts": [{"text": "He"}]}}]}],
    "llamacpp": [{"content": "He", "tokens": [5], "stop": False}]}
PINGS = [  # whoever sends them; what is another dialect's empty chunk is nothing either
    b"data: {}\n\n", b"event: ping\ndata: {}\n\n", b"event: Ping\ndata: {\"type\": \"Ping\", \"time\": 1}\n\n",
    b'data: {"type":"ping"}\n\n', b'data: {"type": "keep_alive"}\n\n', b'data: {"type":"KEEP-ALIVE","time":1}\n\n',
    b'event: keep_alive\ndata: {"x":1}\n\n', b'data: {"event":"ping"}\n\n', b'data: {"ping":1}\n\n',
    b'data: {"object":"ping"}\n\n', b'data: {"type":"ping","choices":null}\n\n', b"data: null\n\n", b'data: ""\n\n',
    b"data: []\n\n", b'data: [{"type":"ping"}]\n\n', b'{"type":"ping"}\n\n', b"event: ping\ndata:\n\n",
    b"event: ping\n\n", b"data: ping\n\n", b"id: 3\n\n", b'data: {"choices":[]}\n\n',
    b'event: heartbeat\ndata: {"x":{"y":"no"}}\n\n', b'data: {"id":"x","choices":[],"usage":null}\n\n',
    b'data: {"id":"x","choices":[{"index":0,"delta":{}}]}\n\n', b'data: {"choices":[{"text":"","index":0}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"","tool_calls":[]},"finish_reason":null}]}\n\n',
    b'data: {"id":"i","object":"o","created":1,"model":"m","system_fingerprint":"f","service_tier":"s","provider":"p",'
    b'"index":1,"type":"t","event":"e","choices":[],"candidates":[],"content":""}\n\n',
    b'data: {"content":"","tokens":[],"stop":false}\n\n', b'data: {"candidates":[]}\n\n',
    b'data: {"candidates":[{"content":{"parts":[{"text":""}]}}]}\n\n',
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""}}\n\n']
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'  # once it has begun


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "before the first event"])
@pytest.mark.parametrize("dialect", FIRST)
def test_pings_of_any_form_are_no_data(dialect, begun):
    """A provider's own pings do not keep a stream alive, neither before its first event nor after it."""
    def case(ping, server):
        first = [f"data: {json.dumps(event)}\n\n".encode() for event in FIRST[dialect]] if begun else []
        server.body([*first, *[ping] * 60], headers={"Content-Type": "text/event-stream"}, framing="close", gap=0.05)
        provider = {"completions": "openai"}.get(dialect, dialect)
        with llmlite.Client("test", provider=provider, base_url=server.url, api_key="k", retry=None,
                            idle_timeout=0.3) as llm:
            method = llm.stream_tokens if dialect in ("completions", "llamacpp") else llm.stream
            with timed(0.29, 2.8), pytest.raises(llmlite.APITimeoutError, match="no data event for 0.3 s"):
                list(method("Hi"))  # they would go on for 3 s

    together([*PINGS, ROLE] if begun else PINGS, case)


@beside
def test_an_error_that_comes_as_a_ping_is_one(server):
    """Whatever an event is called, an error object in it is an error."""
    server.sse([b'event: ping\ndata: {"error":{"message":"no","type":"server_error"}}\n\n'])
    llm = llmlite.Client("test", base_url=server.url, retry=None)
    with pytest.raises(llmlite.ServerError, match="no"):
        ask(llm, "stream")


@beside
def test_events_keep_a_stream_from_being_idle(server):
    """idle_timeout is between events, not for the whole stream."""
    server.sse([*map(chunk, "abcdef"), chunk(finish="stop"), DONE], gap=0.25)
    llm = llmlite.Client("test", base_url=server.url, retry=None, idle_timeout=1.5)
    assert ask(llm, "stream").text == "abcdef"


@pytest.mark.parametrize("sign", [
    {"choices": [], "prompt_progress": {"total": 9, "processed": 1}},
    {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": None, "token_ids": [7]}]}],
    ids=["progress", "a torn character"])
@beside
def test_data_without_text_is_data(server, sign):
    """A chunk that tells of the work, but has no text, keeps a stream from being idle."""
    server.sse([*[sign] * 7, chunk("a"), chunk(finish="stop"), DONE], gap=0.25)
    llm = llmlite.Client("test", base_url=server.url, retry=None, idle_timeout=1.5)
    assert ask(llm, "stream").text == "a"


@beside
def test_another_choice_keeps_a_stream_from_being_idle(server):
    """The text of a completion's second choice is data, and nothing of it is lost when the first one is through."""
    parts = [{"choices": [{"index": at, "text": "b", "finish_reason": finish}]}
             for at, finish in [(0, "stop"), *[(1, None)] * 7, (1, "stop")]]
    server.sse([*parts, DONE], gap=0.25)
    llm = llmlite.Client("test", base_url=server.url, retry=None, idle_timeout=1.5)
    stream = llm.stream_tokens("hi", extra={"n": 2})
    assert [token.text for token in stream] == ["b"]
    assert [choice["text"] for choice in stream.response.raw["choices"]] == ["b", "b" * 8]


@beside
def test_a_slow_reader_is_not_an_idle_server(server):
    """Time that the caller spends between two pieces does not count against the server."""
    server.sse([*map(chunk, "abc"), chunk(finish="stop"), DONE], gap=0.02)
    llm = llmlite.Client("test", base_url=server.url, retry=None, idle_timeout=1)
    pieces = []
    for piece in llm.stream("Hi"):
        pieces.append(piece)
        time.sleep(1.05)
    assert pieces == ["a", "b", "c"]


@beside
def test_a_slow_reader_beside_what_is_no_event(server):
    """Nor does it where words that are no event came with the pieces: what is here is not lost."""
    server.body(["".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in (
        chunk("a"), "keep alive", chunk("b"), chunk("c", "stop"), "[DONE]")).encode()],
        headers={"Content-Type": "text/event-stream"})
    llm = llmlite.Client("test", base_url=server.url, retry=None, idle_timeout=1)
    pieces = []
    for piece in llm.stream("Hi"):
        pieces.append(piece)
        time.sleep(1.05 if piece == "a" else 0)
    assert pieces == ["a", "b", "c"]


@beside
def test_a_slow_first_look_is_not_an_idle_server(server):
    """A stream may lie for a while before it is read."""
    server.sse([chunk("a"), chunk("b"), chunk(finish="stop"), DONE], gap=0.02)
    llm = llmlite.Client("test", base_url=server.url, retry=None, idle_timeout=1)
    stream = llm.stream("Hi")
    time.sleep(1.05)
    assert list(stream) == ["a", "b"]


@pytest.mark.parametrize("how, options, steps", [
    ("chat", {"timeout": (5, 1)}, [testing.STALL]),
    ("stream", {"timeout": (5, 1)}, [testing.STALL]),
    ("stream", {"timeout": (5, 1)}, [CHUNKED, testing.STALL]),
    ("chat", {"timeout": 1}, [HEAD + b"Content-Length: 9\r\n\r\n", testing.STALL]),
    ("stream", {"idle_timeout": 1}, NEVER["pings"]),
], ids=["chat", "stream", "stream-head", "chat-body", "pings"])
@beside
def test_a_timeout_before_the_first_event_is_retried(server, how, options, steps):
    """Nothing is lost yet, so the call is made again; at the end of the retries it is an APITimeoutError."""
    llm = llmlite.Client("test", base_url=server.url, retry=FAST, **options)
    server.raw(*steps)
    server.stream(["Hello"])
    with timed(0.99, 1 + GRACE):
        assert ask(llm, how).text == "Hello"
    assert len(server.requests) == 2
    policy = llmlite.RetryPolicy(max_retries=1, backoff=0.001)
    llm = llmlite.Client("test", base_url=server.url, retry=policy, **options)
    server.raw(*steps, times=2)
    with timed(1.99, 2 + GRACE), pytest.raises(llmlite.APITimeoutError) as caught:
        ask(llm, how)
    assert type(caught.value) is llmlite.APITimeoutError
    assert (caught.value.attempts, len(server.requests)) == (2, 4)
    assert llm.ledger.attempts == 2


@beside
def test_a_read_timeout_after_the_first_event(server):
    """A server that falls silent in a stream is an APITimeoutError with the reply so far, and no retry."""
    server.raw(*LATER["silence"])
    llm = llmlite.Client("test", base_url=server.url, retry=FAST, timeout=(5, 1))
    with timed(0.99, 1 + GRACE), pytest.raises(llmlite.APITimeoutError) as caught:
        ask(llm, "stream")
    assert caught.value.response.text == "He"
    assert len(server.requests) == 1


@pytest.mark.parametrize("quiet", [{}, {"timeout": None}], ids=["timeout", "no-timeout"])
def test_the_silence_after_the_finish_reason_is_short(server, monkeypatch, quiet):
    """A server that neither says [DONE] nor closes is left soon after the finish reason, with the whole reply."""
    client = sys.modules[llmlite.Client.__module__]
    assert 1 <= client._LINGER <= 10
    monkeypatch.setattr(client, "_LINGER", 0.2)
    server.sse([chunk("Hello"), chunk(finish="stop")], end="stall")
    options = {"timeout": 2, **quiet}
    llm = llmlite.Client("test", base_url=server.url, retry=None, **options)
    closing = threading.Timer(2, server.close)
    closing.start()
    try:
        with timed(0, 0.2 + GRACE):
            reply = ask(llm, "stream")
    finally:
        closing.cancel()
        closing.join()
    assert (reply.text, reply.finish_reason) == ("Hello", "stop")


@beside
def test_idle_after_the_finish_reason_is_no_error(server):
    """A short idle_timeout, too, ends the wait for [DONE] with the whole reply."""
    server.sse([chunk("Hello"), chunk(finish="stop")], end="stall")
    llm = llmlite.Client("test", base_url=server.url, retry=None, idle_timeout=0.5)
    with timed(0.49, 0.5 + GRACE):
        reply = ask(llm, "stream")
    assert (reply.text, reply.finish_reason) == ("Hello", "stop")


def test_a_slow_name_lookup_is_left_in_time(monkeypatch):
    """The system's resolver takes no timeout; a deadline holds all the same, and the lookup's thread ends with it."""
    released, lookup = threading.Event(), socket.getaddrinfo

    def slow(host, *args):
        if host == "127.0.0.1":
            return lookup(host, *args)
        released.wait(5)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    def case(host, server):
        llm = llmlite.Client("m", base_url=f"http://{host}/v1", api_key="k", retry=None)
        exceeded(lambda: llm.chat("Hi", deadline=0.2), least=0.2, most=0.2 + GRACE)
        assert llm.ledger.unknown == 0

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    together(["far.example", "cafe", "beef.cafe", "1.2.3.4.5", "deadbeef"], case)
    released.set()


@pytest.mark.parametrize("host, deadline, here", [
    ("localhost", None, True), ("localhost", 5, False), ("127.0.0.1", 5, True), ("127.0.0.1", None, True)])
def test_only_a_lookup_that_a_deadline_bounds_has_a_thread(server, monkeypatch, host, deadline, here):
    """A name is looked up in another thread where the call must be able to leave it; an address never is."""
    threads, lookup = set(), socket.getaddrinfo

    def watched(*args):
        threads.add(threading.current_thread())
        return lookup(*args)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    server.reply("ok")
    with llmlite.Client("m", base_url=server.url.replace("127.0.0.1", host), api_key="k", deadline=deadline) as llm:
        assert llm.chat("Hi").text == "ok"
    assert (threads == {threading.current_thread()}) is here


@pytest.mark.parametrize("seconds, shown", [(1800, "1800"), (2500.5, "2500.5"), (12.5, "12.5"), (86400, "86400")])
@beside
def test_seconds_as_people_write_them(server, seconds, shown):
    """A deadline of half an hour is 1800 s in the errors, not 1.8e+03."""
    server.error(429, retry_after=seconds + 60, times=2)
    policy = llmlite.RetryPolicy(retry_after_max=1e6)
    with llmlite.Client("test", base_url=server.url, deadline=seconds, retry=policy) as llm:
        for _ in range(2):  # the second is held back by the first
            with pytest.raises(llmlite.DeadlineExceededError, match=f"deadline of {shown} s would pass"):
                llm.chat("Hi")


@beside
def test_the_longest_wait_as_people_write_it(server):
    """So is the longest wait that a policy allows."""
    server.error(429, retry_after=9e6)
    policy = llmlite.RetryPolicy(retry_after_max=1234567)
    with llmlite.Client("test", base_url=server.url, retry=policy) as llm, \
            pytest.raises(llmlite.RateLimitError, match="9000000 s, over retry_after_max=1234567"):
        llm.chat("Hi")


ARMS = [f"a{at}" for at in range(500)]
CHOICES = {"items": {"type": "array", "items": {"anyOf": [{"type": "object", "required": [arm]} for arm in ARMS]}}}
Holder = dataclasses.make_dataclass("Holder", [
    ("items", List[Union[tuple(dataclasses.make_dataclass(arm, [(arm, int)]) for arm in ARMS)]])])


@pytest.mark.parametrize("schema", [{"type": "object", "properties": CHOICES}, Holder], ids=["dict", "dataclass"])
@pytest.mark.parametrize("how", ["chat", "stream"])
def test_the_deadline_while_an_answer_is_held_against_its_schema(server, how, schema):
    """The check stops at the deadline: nothing of the reply, which was paid for, is lost."""
    text = json.dumps({"items": [{"a499": 1}] * 50_000})
    server.reply(text)
    llm = llmlite.Client("test", base_url=server.url, retry=FAST, deadline=D)
    error = exceeded(lambda: ask(llm, how, schema=schema))
    assert str(error).startswith(f"compatible: deadline of {D} s ran out: the reply is here")
    assert (error.response.text, error.response.parsed) == (text, None)
    assert error.response.usage.total_tokens == llm.ledger.usage.total_tokens > 0
    assert (llm.ledger.calls, llm.ledger.failed, len(server.requests)) == (1, 1, 1)


@pytest.mark.parametrize("ends", [None, "stop"])
@beside
def test_the_deadline_between_the_values_of_one_event(server, ends):
    """Of an event of several lines, which are here, none is read after the deadline; a reply that is whole stays."""
    first, second = ({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": ends}]} for text in "ab")
    server.body(f"data: {json.dumps(first)}\ndata: {json.dumps(second)}\n\n".encode(),
                headers={"Content-Type": "text/event-stream"})
    with llmlite.Client("m", base_url=server.url, retry=None, deadline=D) as llm:
        stream = llm.stream("hi")
        assert next(stream) == "a"
        time.sleep(D)
        with contextlib.nullcontext() if ends else pytest.raises(llmlite.DeadlineExceededError):
            assert list(stream) == []
        assert (stream.response.text, stream.response.finish_reason) == ("a", ends)


def test_where_no_thread_starts(server, few_threads):
    """A name is looked up all the same, though its look-up cannot be left in time."""
    few_threads("name lookup")
    server.reply("ok")
    with llmlite.Client("m", base_url=server.url.replace("127.0.0.1", "localhost"), deadline=10) as llm:
        assert llm.chat("hi").text == "ok"
