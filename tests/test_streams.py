"""Streams over a real socket: events are handed on at once, and no broken stream passes for a whole one."""
import gzip
import json
import logging
import sys
import threading
import time
import tracemalloc
import zlib

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import llmlite, testing
from tests.beside import beside, within
from tests.packed import bomb

FAST = llmlite.RetryPolicy(max_retries=2, backoff=0.001, rate_limit_max_retries=2, rate_limit_backoff=0.001)
DONE = "data: [DONE]\n\n"
BOM = b"\xef\xbb\xbf"
LIMIT = {"error": {"message": "Slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}
WHOLE = {"id": "c", "model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2},
         "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]}


def chunk(content=None, finish=None, index=0, **delta):
    """A chunk of a chat completion, as a dict."""
    if content is not None:
        delta["content"] = content
    return {"id": "c", "model": "m", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def usage(read, written):
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def data(obj):
    return b"data: " + json.dumps(obj, ensure_ascii=False).encode() + b"\n\n"


HE, LLO, STOP = chunk("He"), chunk("llo"), chunk(finish="stop")
HELLO = data(HE) + data(LLO) + data(STOP)
GOOD = HELLO + DONE.encode()


def events_of(body, **how):
    return testing.sse([body], **how)


# ------------------------------------------------------------------------------------------------------ whole streams


def spread(obj):
    """An event whose JSON stands on several data lines."""
    return "".join(f"data: {line}\n" for line in json.dumps(obj, indent=1).split("\n")).encode() + b"\n"


ODD = "a\u2028b\u2029c\x85d \u20ac\U0001f600"
WHOLE_STREAMS = {
    "plain": GOOD,
    "bom": BOM + GOOD,
    "crlf": GOOD.replace(b"\n", b"\r\n"),
    "cr": GOOD.replace(b"\n", b"\r"),
    "comments": b": ping\n\n:\n" + GOOD.replace(b"\n\n", b"\n: ping\n\n: ping\n\n"),
    "id-alone": GOOD.replace(b"\n\n", b"\n\nid: 7\n\n"),
    "event-alone": GOOD.replace(b"\n\n", b"\n\nevent: ping\n\n"),
    "retry": b"retry: 100\n\n" + GOOD,
    "named": GOOD.replace(b"data: ", b"event: message\ndata: "),
    "several-lines": spread(HE) + spread(LLO) + spread(STOP) + DONE.encode(),
    "no-space": GOOD.replace(b"data: ", b"data:"),
    "no-blank-lines": GOOD.replace(b"\n\n", b"\n"),
    "empty-data": GOOD.replace(b"\n\n", b"\n\ndata:\n\n"),
    "null": b"data: null\n\n" + GOOD,
    "no-blank-line-at-the-end": HELLO[:-1],
    "no-newline-at-the-end": HELLO[:-2],
    "done-no-newline": GOOD[:-2],
    "no-done": HELLO,
    "done-with-spaces": HELLO + b"data:   [DONE]  \n\n",
    "done-no-space": HELLO + b"data:[DONE]\n\n",
    "done-without-finish": data(HE) + data(LLO) + DONE.encode(),
    "something-after-done": GOOD + data(chunk("more")),
    "odd-characters": data(chunk(ODD)) + data(STOP) + DONE.encode(),
    "no-choices-first": data({"choices": [], "prompt_filter_results": []}) + GOOD,
    "unknown-chunks": data({"choices": None}) + data({"choices": [None, 3]}) + GOOD,
    "deltas-null": data({"choices": [{"index": 0, "delta": None}]}) + GOOD,
}
EXPECTED = {"odd-characters": ODD}


@pytest.mark.parametrize("torn", [None, 1], ids=["whole", "torn"])
@pytest.mark.parametrize("name", WHOLE_STREAMS)
def test_a_whole_stream_however_it_is_written(server, llm, name, torn):
    """Each way to write a good stream gives its text, also when every byte comes in a packet of its own."""
    body = WHOLE_STREAMS[name]
    server.sse([body], split=torn)
    stream = llm.stream("Hi")
    assert "".join(stream) == EXPECTED.get(name, "Hello")
    assert stream.response.text == EXPECTED.get(name, "Hello")
    assert stream.response.finish_reason == (None if name == "done-without-finish" else "stop")
    assert len(server.requests) == 1


FRAMINGS = ["chunked", "length", "close", "gzip", "gzip-length"]


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_stream_on_every_framing(server, llm, framing):
    """Chunked, sized, close-delimited, compressed: the same pieces."""
    server.sse([HE, LLO, STOP, DONE], framing=framing)
    assert list(llm.stream("Hi")) == ["He", "llo"]


@pytest.mark.parametrize("pack", [
    lambda body: zlib.compress(body),
    lambda body: zlib.compress(body)[2:-4],
    lambda body: gzip.compress(body[:20]) + gzip.compress(body[20:]) + gzip.compress(b""),
], ids=["deflate", "raw-deflate", "members"])
@pytest.mark.parametrize("torn", [None, 1], ids=["whole", "torn"])
def test_a_stream_in_every_compression(server, llm, pack, torn):
    """Deflate with and without zlib's head, and gzip of several members, are undone wherever they are torn."""
    packed = pack(GOOD)
    encoding = "gzip" if packed[:2] == b"\x1f\x8b" else "deflate"
    server.sse([packed], headers={"Content-Encoding": encoding}, split=torn)
    assert "".join(llm.stream("Hi")) == "Hello"


@pytest.mark.parametrize("kind", [None, "application/json", "text/plain; charset=latin-1", "nonsense"])
def test_the_content_type_does_not_matter_to_a_good_stream(server, llm, kind):
    """Events are events, and UTF-8, whatever the Content-Type says or if there is none."""
    server.sse([chunk("\u20ac"), STOP, DONE], headers={"Content-Type": kind})
    assert "".join(llm.stream("Hi")) == "\u20ac"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.sets(st.integers(1, len(GOOD) + 30), max_size=6), framing=st.sampled_from(FRAMINGS))
@example(where={7, 8, 9}, framing="gzip")
def test_packets_do_not_matter(server, llm, where, framing):
    """However the wire's bytes are cut into packets, on each framing, the stream is the same."""
    server.sse([HE, LLO, STOP, DONE], framing=framing, split=sorted(where), gap=0.0005)
    stream = llm.stream("Hi")
    assert (list(stream), stream.response.finish_reason) == (["He", "llo"], "stop")


def lateness(server, llm, framing):
    """Seconds between each event's bytes given to the server's socket and its text in the caller's hands."""
    texts = [str(number) for number in range(5)]
    server.requests.clear()
    server.sse([*map(chunk, texts), STOP, DONE], framing=framing, gap=0.06)
    arrived = [(time.monotonic(), text) for text in llm.stream("Hi")]
    assert [text for _, text in arrived] == texts
    sent = [at for at, _ in server.requests[0].sent[1:]]
    return [at - left for (at, _), left in zip(arrived, sent)]


@pytest.mark.parametrize("framing", ["chunked", "length", "close", "gzip"])
@beside
def test_each_event_is_handed_on_within_50_ms(server, llm, framing):
    """No event waits for the next one, for a full buffer or for the end, on any framing."""
    tries = [lateness(server, llm, framing) for _ in range(4)]  # a busy machine is late at times
    assert max(map(min, zip(*tries))) < 0.05  # what holds an event back is late each time


@beside
def test_stream_returns_with_the_first_event(server, llm):
    """stream() does not wait for the second event, nor for the head alone."""
    server.sse([HE, LLO, STOP, DONE], gap=0.15)
    stream = llm.stream("Hi")
    returned = time.monotonic()
    assert "".join(stream) == "Hello"
    head, first, second = [at for at, _ in server.requests[0].sent][:3]
    assert head <= first < returned < second


# ---------------------------------------------------------------------------------------------------- broken streams


def broken(llm):
    """Read a stream to the error it must end in: the pieces that came, the error."""
    pieces = []
    with pytest.raises(llmlite.LLMError) as caught:
        for piece in llm.stream("Hi"):
            pieces.append(piece)  # noqa: PERF402
    return pieces, caught.value


def raw_chunked(*packets, end=testing.CLOSE):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return testing.raw(head, *packets, end)


GZIP = {"Content-Encoding": "gzip"}
HE_CHUNK = b"%x\r\n%b\r\n" % (len(data(HE)), data(HE))
CUTS = {
    "no-finish": events_of(data(HE)),
    "no-finish-close": events_of(data(HE), framing="close"),
    "no-finish-gzip": events_of(data(HE), framing="gzip"),
    "inside-an-event": events_of(data(HE) + data(LLO)[:20]),
    "inside-an-event-close": events_of(data(HE) + data(LLO)[:20], framing="close"),
    "inside-a-character": events_of(data(HE) + b'data: {"choices": [{"delta": {"content": "\xe2\x82', framing="close"),
    "no-last-chunk": testing.sse([HE], end="close"),
    "inside-a-chunk": raw_chunked(HE_CHUNK, HE_CHUNK[:20]),
    "inside-a-chunk-size": raw_chunked(HE_CHUNK, b"4"),
    "bad-chunk-size": raw_chunked(HE_CHUNK, b"nonsense\r\n"),
    "short-length": events_of(GOOD, framing="length", truncate=len(data(HE))),
    "short-length-inside-an-event": events_of(GOOD, framing="length", truncate=len(data(HE)) + 9),
    "short-gzip-length": events_of(GOOD, framing="gzip-length", truncate=len(data(HE))),
    "cut-gzip": events_of(gzip.compress(data(HE)) + gzip.compress(data(LLO))[:-12], headers=GZIP),
    "cut-gzip-trailer": events_of(gzip.compress(data(HE))[:-4], headers=GZIP),
    "cut-gzip-chunk": testing.sse([HE], framing="gzip", end="close"),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_stream_is_truncated(server, llm, name):
    """A stream that ends with neither finish reason nor end mark raises TruncatedStreamError with what had come."""
    server.handle(lambda request: CUTS[name])
    pieces, error = broken(llm)
    assert type(error) is llmlite.TruncatedStreamError
    assert "".join(pieces) == error.response.text == "He"
    assert error.response.finish_reason is None
    assert "1 events" in str(error)
    assert (error.attempts, len(server.requests)) == (1, 1)
    assert error.elapsed > 0


@pytest.mark.parametrize("reply", [
    raw_chunked(HE_CHUNK, 0.02, HE_CHUNK[:20], 0.02, end=testing.RESET),
    testing.sse([HE], framing="close", end="reset"),
], ids=["chunked", "close"])
def test_a_reset_stream_is_a_stream_error(server, llm, reply):
    """A connection reset in the middle raises StreamError with what had come, and is not tried again."""
    server.handle(lambda request: reply)
    pieces, error = broken(llm)
    assert isinstance(error, llmlite.StreamError)
    assert "".join(pieces) == error.response.text == "He"
    assert "lost" in str(error)
    assert len(server.requests) == 1


def test_compression_that_breaks_later_is_a_stream_error(server, llm):
    """Bytes that do not unpack, after the first event, raise StreamError with what had come."""
    server.sse([gzip.compress(data(HE)), b"no gzip"], headers=GZIP, gap=0.02)
    pieces, error = broken(llm)
    assert type(error) is llmlite.StreamError
    assert "".join(pieces) == error.response.text == "He"
    assert "compression" in str(error)


def test_no_retry_once_an_event_has_come(server):
    """A policy that would retry leaves a stream alone after its first event."""
    server.handle(lambda request: CUTS["no-last-chunk"])
    llm = llmlite.Client("test", base_url=server.url, retry=FAST)
    assert type(broken(llm)[1]) is llmlite.TruncatedStreamError
    assert len(server.requests) == 1


@pytest.mark.parametrize("half", [[], ['data: {"usage": {"prompt']], ids=["between", "inside"])
def test_what_comes_after_the_finish_reason_may_be_cut(server, llm, half):
    """The reply is whole with its finish reason: a connection cut between or inside what comes then loses nothing."""
    server.sse([HE, LLO, STOP, *half], end="close")
    stream = llm.stream("Hi")
    assert "".join(stream) == "Hello"
    assert stream.response.finish_reason == "stop"


EMPTY = {
    "nothing": testing.sse([]),
    "nothing-length": testing.sse([], framing="length"),
    "comments": testing.sse([": ping\n\n: ping\n\n"]),
    "done": testing.sse([DONE]),
    "pings": testing.sse(["event: ping\n\n", "data: ping\n\n"]),
    "204": testing.raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "object": testing.json_body({}),
    "list": testing.json_body([]),
    "null": testing.json_body(None),
    "html": testing.body(b"<html><body>Sign in</body></html>", headers={"Content-Type": "text/html"}),
    "text": testing.body(b"It works!", headers={"Content-Type": "text/plain"}),
    "torn-json": testing.sse(['data: {"choices": [{"delta"\n\n', HE, STOP, DONE]),
    "torn-json-bare": testing.body(b'{"choices": [{"delta"', headers={"Content-Type": "application/json"}),
    "no-gzip": testing.body(b"data: 1\n\n", headers=GZIP),
    "no-deflate": testing.body(b"\xff\xff\xff\xff", headers={"Content-Encoding": "deflate"}),
    "unknown-encoding": testing.body(GOOD, headers={"Content-Encoding": "br"}),
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_stream_without_one_event_is_no_answer(server, name):
    """200 and nothing to read raises ResponseError at once, and is not tried again."""
    server.handle(lambda request: EMPTY[name])
    llm = llmlite.Client("test", base_url=server.url, retry=FAST)
    with pytest.raises(llmlite.ResponseError) as caught:
        llm.stream("Hi")
    assert type(caught.value) is llmlite.ResponseError
    assert (caught.value.attempts, len(server.requests)) == (1, 1)


def test_the_error_shows_what_came_instead_of_events(server, llm):
    """Of an HTML page the error keeps the words, the body, the status and the headers."""
    server.handle(lambda request: EMPTY["html"])
    with pytest.raises(llmlite.ResponseError, match="text/html.*Sign in") as caught:
        llm.stream("Hi")
    assert caught.value.body == b"<html><body>Sign in</body></html>"
    assert caught.value.status_code == 200
    assert caught.value.headers["content-type"] == "text/html"


def test_an_empty_stream_is_retried_where_asked_for(server):
    """retry_empty tries a stream without one event again, as often as the policy says."""
    server.sse([], times=2)
    server.stream(["Hello"])
    policy = llmlite.RetryPolicy(max_retries=2, backoff=0.001, retry_empty=True)
    llm = llmlite.Client("test", base_url=server.url, retry=policy)
    assert "".join(llm.stream("Hi")) == "Hello"
    assert len(server.requests) == 3


LOST = {
    "closed-without-answer": testing.raw(testing.CLOSE),
    "reset-without-answer": testing.raw(testing.RESET),
    "cut-head": testing.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/ev"),
    "cut-before-an-event": testing.sse([HE], end="close", truncate=10),
    "reset-before-an-event": testing.sse([HE], end="reset", truncate=10),
    "short-length": testing.sse([HE], framing="length", truncate=0),
    "cut-gzip": testing.body(gzip.compress(data(HE))[:12], headers=GZIP),
}


@pytest.mark.parametrize("name", LOST)
def test_a_connection_lost_before_the_first_event_is_retried(server, name):
    """Before the first event nothing is lost: the call is made again, and if that is no help, says so."""
    llm = llmlite.Client("test", base_url=server.url, retry=FAST)
    answers = iter([LOST[name], testing.stream(["Hello"])])
    server.handle(lambda request: next(answers, LOST[name]))
    stream = llm.stream("Hi")
    assert "".join(stream) == "Hello"
    assert (stream.response.attempts, len(server.requests)) == (2, 2)
    with pytest.raises(llmlite.APIConnectionError) as caught:
        llmlite.Client("test", base_url=server.url, retry=FAST).stream("Hi")
    assert (caught.value.attempts, len(server.requests)) == (3, 5)


# ------------------------------------------------------------------------------------------------- errors in a stream


ERRORS = {
    "chunk": (data(LIMIT), llmlite.RateLimitError, 429),
    "named": (b"event: error\n" + data(LIMIT), llmlite.RateLimitError, 429),
    "named-flat": (b"event: error\n" + data(LIMIT["error"]), llmlite.RateLimitError, 429),
    "named-text": (b"event: error\ndata: Slow down\n\n", llmlite.ServerError, 500),
    "beside-choices": (data({**HE, **LIMIT}), llmlite.RateLimitError, 429),
    "code-is-status": (data({"error": {"code": 502, "message": "Slow down"}}), llmlite.ServerError, 502),
    "overloaded": (data({"error": {"type": "overloaded_error", "message": "Slow down"}}), llmlite.OverloadedError, 529),
    "text": (data({"error": "Slow down"}), llmlite.ServerError, 500),
    "list": (data([LIMIT]), llmlite.RateLimitError, 429),
    "bare": (json.dumps(LIMIT).encode() + b"\n", llmlite.RateLimitError, 429),
    "bare-blank-line": (json.dumps(LIMIT).encode() + b"\n\n", llmlite.RateLimitError, 429),
    "bare-no-newline": (json.dumps(LIMIT).encode(), llmlite.RateLimitError, 429),
    "bare-lines": (json.dumps(LIMIT, indent=2).encode() + b"\n", llmlite.RateLimitError, 429),
    "bare-list": (json.dumps([LIMIT], indent=2).encode(), llmlite.RateLimitError, 429),
    "finish-reason": (data(chunk(finish="error")), llmlite.ServerError, 500),
}


@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("name", ERRORS)
def test_an_error_after_the_first_event(server, name, framing):
    """An error object in a stream raises StreamError with the partial text and the APIError it stands for."""
    event, kind, status = ERRORS[name]
    server.sse([data(HE) + event], framing=framing)
    pieces, error = broken(llmlite.Client("test", base_url=server.url, retry=FAST))
    assert type(error) is llmlite.StreamError
    assert "".join(pieces) == error.response.text == "He"
    assert (type(error.last_error), error.last_error.status_code) == (kind, status)
    if name != "finish-reason":
        assert error.last_error.message == "Slow down"
        assert "Slow down" in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", [name for name in ERRORS if name not in ("finish-reason", "beside-choices")])
def test_an_error_as_the_first_event_is_retried(server, name):
    """An error object before any text is treated as its status says: here retried, then raised as itself."""
    event, kind, status = ERRORS[name]
    server.sse([event], times=1)
    server.stream(["Hello"])
    llm = llmlite.Client("test", base_url=server.url, retry=FAST)
    assert "".join(llm.stream("Hi")) == "Hello"
    assert len(server.requests) == 2
    server.sse([event], times=None)
    with pytest.raises(llmlite.APIError) as caught:
        llm.stream("Hi")
    assert (type(caught.value), caught.value.status_code) == (kind, status)
    assert (caught.value.message, caught.value.attempts) == ("Slow down", 3)


@pytest.mark.parametrize("code, kind", [
    ("invalid_request_error", llmlite.BadRequestError), ("insufficient_quota", llmlite.QuotaExceededError),
    ("context_length_exceeded", llmlite.ContextLengthError), ("authentication_error", llmlite.AuthenticationError),
])
def test_an_error_as_the_first_event_that_cannot_be_mended(server, code, kind):
    """What no retry mends is raised at once, by its class."""
    server.sse([{"error": {"message": "No", "code": code}}])
    with pytest.raises(kind) as caught:
        llmlite.Client("test", base_url=server.url, retry=FAST).stream("Hi")
    assert (caught.value.code, len(server.requests)) == (code, 1)


def test_retry_after_of_an_error_as_the_first_event(server):
    """The answer's Retry-After holds for an error inside it too."""
    server.sse([LIMIT], headers={"Retry-After": "0.2"})
    server.stream(["Hello"])
    assert "".join(llmlite.Client("test", base_url=server.url, retry=FAST).stream("Hi")) == "Hello"
    first, second = server.requests
    assert within(0.2, first.time, 0.4, second.time)


# ---------------------------------------------------------------------------------------------------- unreadable data


TORN = {"object": 'data: {"choices": [{"delta": {"con\n\n', "list": 'data: [{"choices"\n\n',
        "deep": "data: " + "[" * 100000 + "\n\n"}


@pytest.mark.parametrize("name", TORN)
def test_a_torn_event_is_an_error(server, llm, name):
    """JSON that does not parse may have held text: StreamError, with what had come and the way to go on."""
    server.sse([HE, TORN[name], LLO, STOP, DONE])
    pieces, error = broken(llm)
    assert type(error) is llmlite.StreamError
    assert "".join(pieces) == error.response.text == "He"
    assert "skip_bad_events" in str(error)


@pytest.mark.parametrize("name", TORN)
def test_torn_events_are_skipped_where_asked_for(server, name, caplog):
    """skip_bad_events goes on after a torn event, warns once, and counts them in a later error."""
    llm = llmlite.Client("test", base_url=server.url, retry=None, skip_bad_events=True)
    server.sse([HE, TORN[name], TORN[name], LLO, STOP, DONE])
    with caplog.at_level(logging.WARNING, "llmlite"):
        assert "".join(llm.stream("Hi")) == "Hello"
    assert len(caplog.records) == 1
    server.sse([HE, TORN[name], TORN[name], LLO])
    error = broken(llm)[1]
    assert type(error) is llmlite.TruncatedStreamError
    assert "2 unreadable" in str(error)


@pytest.mark.parametrize("word", ["ping", "keep-alive", "\u2028", "[DONE", "<p>"])
def test_data_that_is_no_json_is_skipped(server, llm, word, caplog):
    """`data: ping` says nothing: counted, logged once, skipped."""
    server.sse([f"data: {word}\n\n", HE, f"data: {word}\n\n", LLO, f"data: {word}\n\n", STOP, DONE])
    if word == "[DONE":  # what begins like JSON may have been JSON
        with pytest.raises(llmlite.LLMError):
            list(llm.stream("Hi"))
        return
    with caplog.at_level(logging.WARNING, "llmlite"):
        assert "".join(llm.stream("Hi")) == "Hello"
    assert len(caplog.records) == 1


def test_an_error_says_how_much_had_come(server, llm):
    """A stream's error counts chunks, events and unreadable events, and the seconds."""
    server.sse([HE, "data: ping\n\n", LLO], gap=0.02)
    error = broken(llm)[1]
    assert "3 chunks, 2 events and 1 unreadable" in str(error)


# ------------------------------------------------------------------------- a JSON body where a stream was asked for


@pytest.mark.parametrize("text", [json.dumps(WHOLE), json.dumps(WHOLE, indent=2), json.dumps([WHOLE]),
                                  "\n\n" + json.dumps(WHOLE) + "\n"], ids=["line", "lines", "list", "blank-lines"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close", "gzip"])
def test_a_whole_completion_in_answer_to_a_stream_request(server, llm, text, framing):
    """A server that does not stream answers in one piece; the reply is the same."""
    server.body(text.encode(), headers={"Content-Type": "application/json"}, framing=framing)
    stream = llm.stream("Hi")
    assert list(stream) == ["Hello"]
    assert stream.response.finish_reason == "stop"
    assert stream.response.usage == llmlite.Usage(3, 2)


@pytest.mark.parametrize("body", [LIMIT, [LIMIT], {"error": "too many requests", "code": 429}],
                         ids=["object", "list", "string"])
def test_an_error_body_in_answer_to_a_stream_request(server, body):
    """A JSON error with status 200 is that error, and retried as its status says."""
    server.json(body)
    server.stream(["Hello"])
    llm = llmlite.Client("test", base_url=server.url, retry=FAST)
    assert "".join(llm.stream("Hi")) == "Hello"
    server.json(body, times=3)
    with pytest.raises(llmlite.RateLimitError) as caught:
        llm.stream("Hi")
    assert (caught.value.status_code, caught.value.attempts, len(server.requests)) == (429, 3, 5)


# ------------------------------------------------------------------------------------------------------------- limits


MB = 1 << 20


def peak(function):
    """What a function returns, and the most memory that Python held for it, in bytes."""
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def endless(*opening, block):
    """A close-delimited stream that goes on and on, out of one block of memory."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    return testing.raw(head, *opening, *[block] * (100 * MB // len(block)))


@pytest.mark.parametrize("opening", [b"data: ", b": ", b"x", b"{"], ids=["data", "comment", "field", "bare"])
@pytest.mark.parametrize("late", [False, True], ids=["first", "later"])
def test_a_line_without_end_is_refused(server, llm, opening, late):
    """A line over 16 MiB ends the stream; no more than that is read or kept."""
    opening = (data(HE) if late else b"") + opening
    server.handle(lambda request: endless(opening, block=b"x" * 65536))
    (pieces, error), most = peak(lambda: broken(llm))
    assert isinstance(error, llmlite.StreamError if late else llmlite.ResponseError)
    assert "16 MiB" in str(error)
    assert (error.response.text if late else "") == "".join(pieces)
    assert sum(size for _, size in server.requests[0].sent) < 40 * MB
    assert most < 24 * MB


def test_a_line_of_the_limit_is_taken(server, llm):
    """A line of 16 MiB is none too long: it may come whole before its end does."""
    line = data(HE).rstrip()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    server.raw(head + line + b" " * (16 * MB - len(line)), 0.2, b"\n\n" + data(LLO) + data(STOP))
    assert "".join(llm.stream("Hi")) == "Hello"


def test_an_event_of_lines_without_end_keeps_memory_flat(server, llm):
    """An event that is never dispatched is refused as well when it comes in short lines."""
    server.handle(lambda request: endless(block=b"data: " + b"x" * 65529 + b"\n"))
    (_, error), most = peak(lambda: broken(llm))
    assert isinstance(error, llmlite.ResponseError)
    assert most < 40 * MB


def test_a_packet_that_unpacks_to_nothing_tears_no_line_end(server, llm):
    """Between the CR and the LF of one line end may come compressed bytes that hold no text."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    first, last = b'data: {"choices":[{"index":0,\r', b'\ndata: "delta":{"content":"hi"}}]}\r\n\r\n' + data(STOP)
    packets = [packer.compress(first) + packer.flush(zlib.Z_SYNC_FLUSH), b"\0\0\0\xff\xff",
               packer.compress(last) + packer.flush()]
    server.body(packets, headers={**GZIP, "Content-Type": "text/event-stream"}, gap=0.05)
    assert list(llm.stream("Hi")) == ["hi"]


def test_a_decompression_bomb_is_refused_with_memory_flat(server, llm):
    """A stream that unpacks to over 256 MiB ends in an error, and never stood in memory."""
    packed = gzip.compress(data(HE)) + bomb(b": " + b"x" * (MB - 3) + b"\n", 300)
    assert len(packed) < MB
    server.sse([packed], headers=GZIP)
    (pieces, error), most = peak(lambda: broken(llm))
    assert type(error) is llmlite.StreamError
    assert "256 MiB" in str(error)
    assert pieces == ["He"]
    assert most < 24 * MB


# --------------------------------------------------------------------------------------------------- what a chunk holds


def call_piece(index=None, id=None, name=None, arguments=None):
    """A piece of a tool call; what is not given is left out."""
    piece = {"function": {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}}
    if id is not None:
        piece.update(id=id, type="function")
    return piece if index is None else {**piece, "index": index}


ADD, NOW = ("c1", "add", {"a": 1}), ("c2", "now", {})
TOOL_CALLS = {
    "in-order": [[call_piece(0, "c1", "add", "")], [call_piece(0, arguments='{"a"')], [call_piece(0, arguments=": 1}")],
                 [call_piece(1, "c2", "now", "")], [call_piece(1, arguments="{}")]],
    "interleaved": [[call_piece(0, "c1", "add", ""), call_piece(1, "c2", "now", "{")],
                    [call_piece(0, arguments='{"a": ')], [call_piece(1, arguments="}"), call_piece(0, arguments="1}")]],
    "backwards": [[call_piece(0, "c1", "add", '{"a": ')], [call_piece(1, "c2", "now", "{")],
                  [call_piece(0, arguments="1}")], [call_piece(1, arguments="}")]],
    "no-index": [[call_piece(None, "c1", "add", "")], [call_piece(arguments='{"a": 1')], [call_piece(arguments="}")],
                 [call_piece(None, "c2", "now", "{")], [call_piece(arguments="}")]],
    "null-index": [[{**call_piece(None, "c1", "add", ""), "index": None}],
                   [{**call_piece(arguments='{"a": 1}'), "index": None}],
                   [{**call_piece(None, "c2", "now", "{}"), "index": None}]],
    "repeated": [[call_piece(0, "c1", "add", '{"a"')], [call_piece(0, "c1", "add", ": 1}")],
                 [call_piece(1, "c2", "now", "{")], [call_piece(1, "c2", "now", "}")]],
    "repeated-no-index": [[call_piece(None, "c1", "add", '{"a"')], [call_piece(None, "c1", "add", ": 1}")],
                          [call_piece(None, "c2", "now", "{")], [call_piece(None, "c2", "now", "}")]],
    "empty-strings-later": [[call_piece(0, "c1", "add", '{"a": 1')], [call_piece(0, "", "", "}")],
                            [call_piece(1, "c2", "now", "{}")]],
    "whole": [[call_piece(0, "c1", "add", '{"a": 1}')], [call_piece(1, "c2", "now", "{}")]],
    "whole-in-one": [[call_piece(0, "c1", "add", '{"a": 1}'), call_piece(1, "c2", "now", "{}")]],
    "whole-no-index": [[call_piece(None, "c1", "add", '{"a": 1}'), call_piece(None, "c2", "now", "{}")]],
    "objects": [[call_piece(0, "c1", "add", {"a": 1}), call_piece(1, "c2", "now", {})]],
    "no-arguments": [[call_piece(0, "c1", "add", '{"a": 1}')], [call_piece(1, "c2", "now")]],
    "indices-from-one": [[call_piece(1, "c1", "add", '{"a": 1}')], [call_piece(2, "c2", "now", "{}")]],
}


@pytest.mark.parametrize("name", TOOL_CALLS)
def test_tool_calls_are_gathered_by_their_index(server, llm, name):
    """Pieces of calls in any order and dress add up to the same two calls, each handed on once, whole."""
    server.sse([*(chunk(tool_calls=pieces) for pieces in TOOL_CALLS[name]), chunk(finish="tool_calls"), DONE])
    stream = llm.stream("Hi")
    handed = [event.tool_call for event in stream.events() if event.type == "tool_call"]
    assert [(call.id, call.name, call.arguments) for call in handed] == [ADD, NOW]
    assert stream.response.tool_calls == handed
    assert all(json.loads(call.raw_arguments or "{}") == call.arguments and not call.invalid for call in handed)
    assert stream.response.finish_reason == "tool_calls"


def test_a_tool_call_cut_by_the_token_limit_says_so(server, llm):
    """Arguments that are no JSON give an empty dict, and the reason."""
    server.sse([chunk(tool_calls=[call_piece(0, "c1", "add", '{"a": ')]), chunk(finish="length"), DONE])
    stream = llm.stream("Hi")
    assert list(stream) == []
    (call,) = stream.response.tool_calls
    assert (call.arguments, call.raw_arguments) == ({}, '{"a": ')
    assert call.invalid.startswith("not JSON")


@pytest.mark.parametrize("keys", [["reasoning"], ["reasoning_content"], ["reasoning", "reasoning_content"]])
def test_reasoning_is_told_from_text(server, llm, keys):
    """Thoughts come as "reasoning" events and never as text, once also where a server sends them under two names."""
    thoughts = [chunk(**dict.fromkeys(keys, text)) for text in ("Hm", "m")]
    server.sse([*thoughts, HE, LLO, STOP, DONE])
    stream = llm.stream("Hi")
    said = [(event.type, event.text) for event in stream.events() if event.text]
    assert said == [("reasoning", "Hm"), ("reasoning", "m"), ("text", "He"), ("text", "llo")]
    assert (stream.response.reasoning, stream.response.text) == ("Hmm", "Hello")


def test_content_in_parts(server, llm):
    """A list of parts in place of a text: text parts are text, thinking parts are thoughts."""
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hmm"}]}
    server.sse([chunk([thinking]), chunk([{"type": "text", "text": "He"}]), LLO, STOP, DONE])
    stream = llm.stream("Hi")
    assert list(stream) == ["He", "llo"]
    assert (stream.response.reasoning, stream.response.text) == ("Hmm", "Hello")


def test_a_refusal_is_text_and_filtered(server, llm):
    """Pieces of a refusal are handed on as text; the finish reason says what they are."""
    server.sse([chunk(refusal="I "), chunk(refusal="won't"), STOP, DONE])
    stream = llm.stream("Hi")
    assert list(stream) == ["I ", "won't"]
    assert (stream.response.text, stream.response.finish_reason) == ("I won't", "content_filter")
    assert stream.response.raw_finish_reason == "stop"


USAGES = {
    "own-chunk": [STOP, {"choices": [], "usage": usage(3, 2)}],
    "on-the-finish": [{**STOP, "usage": usage(3, 2)}],
    "null-before": [{**STOP, "usage": None}, {"choices": [], "usage": usage(3, 2)}],
    "chunk-after-it": [STOP, {"choices": [], "usage": usage(3, 2)}, {"choices": [], "moderation": {}}],
    "growing": [{**STOP, "usage": usage(3, 1)}, {"choices": [], "usage": usage(3, 2)}],
    "null-after": [{**STOP, "usage": usage(3, 2)}, {"choices": [], "usage": None}],
}


@pytest.mark.parametrize("done", [[DONE], []], ids=["done", "no-done"])
@pytest.mark.parametrize("name", USAGES)
def test_usage_wherever_it_comes(server, llm, name, done):
    """Usage on the finish chunk or in a chunk of its own after it, with or without [DONE], is the reply's usage."""
    server.sse([HE, LLO, *USAGES[name], *done], gap=0.005)
    stream = llm.stream("Hi")
    assert "".join(stream) == "Hello"
    assert stream.response.usage == llmlite.Usage(3, 2)
    assert llm.ledger.usage == llmlite.Usage(3, 2)


def test_finish_seen_twice(server, llm):
    """A server that says it twice finishes once, and what came between is not lost."""
    server.sse([HE, STOP, LLO, {**STOP, "usage": usage(3, 2)}, DONE])
    stream = llm.stream("Hi")
    seen = [event.type for event in stream.events()]
    assert seen == ["text", "text", "usage", "finish"]
    assert (stream.response.text, stream.response.finish_reason) == ("Hello", "stop")


def test_two_choices_interleaved(server, llm):
    """With n=2 the first choice's text is handed on; both are in `raw`, each whole."""
    server.sse([chunk("He"), chunk("Good ", index=1), chunk("llo"), chunk(finish="stop"), chunk("day", index=1),
                chunk(finish="length", index=1), {"choices": [], "usage": usage(3, 4)}, DONE])
    stream = llm.stream("Hi", extra={"n": 2})
    assert list(stream) == ["He", "llo"]
    reply = stream.response
    assert (reply.text, reply.finish_reason, reply.usage.output_tokens) == ("Hello", "stop", 4)
    assert [(choice["index"], choice["message"]["content"], choice["finish_reason"])
            for choice in reply.raw["choices"]] == [(0, "Hello", "stop"), (1, "Good day", "length")]


def test_events_in_order(server, llm):
    """events(): reasoning and text as they come; then tool calls, usage and, last, finish."""
    server.sse([chunk(role="assistant", content=""), chunk(reasoning="Hm"), HE,
                chunk(tool_calls=[call_piece(0, "c1", "add", '{"a": 1}')]), LLO,
                {**chunk(finish="tool_calls"), "usage": usage(3, 2)}, DONE])
    events = list(llm.stream("Hi").events())
    assert [event.type for event in events] == ["reasoning", "text", "text", "tool_call", "usage", "finish"]
    assert all(type(event) is llmlite.Event for event in events)
    assert [event.text for event in events[:3]] == ["Hm", "He", "llo"]
    assert events[3].tool_call.name == "add"
    assert events[4].usage == llmlite.Usage(3, 2)
    assert events[5].finish_reason == "tool_calls"


def test_the_state_midway_and_at_the_end(server, llm):
    """`text` and `response` hold what has been handed on so far; finish reason and usage come with the end."""
    server.sse([HE, LLO, STOP, {"choices": [], "usage": usage(3, 2)}, DONE], gap=0.03)
    stream = llm.stream("Hi")
    assert next(stream) == "He"
    midway = stream.response
    assert (stream.text, midway.text, midway.finish_reason) == ("He", "He", None)
    assert (midway.usage, midway.model, midway.id, midway.attempts) == (llmlite.Usage(), "m", "c", 1)
    assert next(iter(stream)) == "llo"
    assert stream.text == "Hello"
    assert next(stream, "end") == "end"
    assert (stream.text, stream.response.finish_reason) == ("Hello", "stop")
    assert stream.response.usage == llmlite.Usage(3, 2)
    assert stream.response.message == {"role": "assistant", "content": "Hello"}
    assert midway.text == "He"


def test_a_streamed_reply_is_the_reply_of_a_chat(server, llm):
    """The same answer, streamed and whole, gives equal replies."""
    calls = [{"id": "c1", "name": "add", "arguments": {"a": 1}}]
    server.stream(["He", "llo"], reasoning=["Hm", "m"], tool_calls=calls, usage=(7, 5), times=2)
    stream = llm.stream("Hi")
    list(stream)
    streamed, whole = stream.response, llm.chat("Hi")
    for name in ("text", "reasoning", "tool_calls", "finish_reason", "raw_finish_reason", "usage", "model", "id",
                 "message"):
        assert getattr(streamed, name) == getattr(whole, name), name


def test_a_stream_asks_for_a_stream(server, llm):
    """The body says `stream` and asks for usage; the Accept header names event streams."""
    server.stream(["Hello"])
    list(llm.stream("Hi"))
    (request,) = server.requests
    assert request.json == {"model": "test", "messages": [{"role": "user", "content": "Hi"}], "stream": True,
                            "stream_options": {"include_usage": True}}
    assert request.headers["accept"] == "text/event-stream"


def token_chunk(text, **more):
    return {"id": "c", "model": "m", "choices": [{"index": 0, "text": text, "finish_reason": None, **more}]}


TOKEN_STREAMS = {
    "chat": (None, lambda at: chunk("abc "), [STOP, DONE]),
    "completion": (None, lambda at: token_chunk("abc ", token_ids=[at], logprobs={
        "tokens": ["abc "], "token_logprobs": [-0.5], "top_logprobs": [{"abc ": -0.5, "b": -1}]}),
        [token_chunk("", finish_reason="stop"), DONE]),
    "llamacpp": ("llamacpp", lambda at: {"content": "abc ", "tokens": [at], "stop": False, "completion_probabilities": [
        {"id": at, "token": "abc ", "logprob": -0.5, "top_logprobs": []}]},
        [{"content": "", "stop": True, "stop_type": "eos"}]),
    "anthropic": ("anthropic", lambda at: {"type": "content_block_delta", "index": 0, "delta": {
        "type": "text_delta", "text": "abc "}}, [
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"}]),
    "gemini": ("gemini", lambda at: {"candidates": [{"index": 0, "content": {"parts": [{"text": "abc "}]}}]},
               [{"candidates": [{"finishReason": "STOP"}]}]),
}


def token_stream(server, name, count):
    """A stream of so many pieces."""
    provider, make, end = TOKEN_STREAMS[name]
    server.sse([*map(make, range(count)), *end])
    llm = llmlite.Client("m", provider=provider, base_url=server.url, api_key="k-123456", retry=None)
    return (llm.stream_tokens if name in ("completion", "llamacpp") else llm.stream)("Hi")


@pytest.mark.parametrize("name", TOKEN_STREAMS)
def test_the_text_so_far_costs_next_to_nothing(server, name):
    """`stream.text` at each piece is right, and adds little to what reading the stream costs."""
    count, spent = 3000, {}
    for asks in (False, True):
        with token_stream(server, name, count) as stream:
            start = time.process_time()
            for at, _ in enumerate(stream):
                assert not asks or len(stream.text) == 4 * at + 4
            spent[asks] = time.process_time() - start
        assert stream.text == stream.response.text == "abc " * count
    assert spent[True] < 2 * spent[False] + 0.2, spent


@pytest.mark.parametrize("name", TOKEN_STREAMS)
def test_another_thread_looks_at_the_reply(server, name):
    """`text` and `response` may be asked for from any thread while the stream is read."""
    interval, failures, done, seen = sys.getswitchinterval(), [], threading.Event(), []

    def look():
        while not done.is_set():
            try:
                seen.append((stream.text, stream.response.text))
            except Exception as error:
                failures.append(error)

    sys.setswitchinterval(1e-6)
    watcher = threading.Thread(target=look)
    try:
        with token_stream(server, name, 2000) as stream:
            watcher.start()
            for _ in stream:
                pass
    finally:
        done.set()
        watcher.join()
        sys.setswitchinterval(interval)
    assert not failures and seen
    whole = "abc " * 2000
    assert all(whole.startswith(text) and whole.startswith(later) for text, later in seen)


# ------------------------------------------------------------------------------------------------ what came, and stays


def opened(arguments):
    function = {"name": "f", "arguments": arguments}
    return chunk(tool_calls=[{"index": 0, "id": "a", "type": "function", "function": function}])


def block(piece):
    started = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    return [{"type": "content_block_start", "index": 0, "content_block": started},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": piece}}]


OPEN_CALLS = {
    "none begun": ("openai", [opened("")], "the stream ended inside it"),
    "cut": ("openai", [opened('{"path": ')], "not JSON: "),
    "whole": ("openai", [opened('{"path": "a"}')], None),
    "an empty object": ("openai", [opened("{}")], None),
    "anthropic": ("anthropic", block(""), "the stream ended inside it"),
    "anthropic, cut": ("anthropic", block('{"a'), "not JSON: "),
}


@pytest.mark.parametrize("provider, events, why", OPEN_CALLS.values(), ids=OPEN_CALLS)
@pytest.mark.parametrize("end", ["cut", "mark"])
def test_a_call_whose_end_was_not_told(server, provider, events, why, end):
    """Where no finish reason came, the last call is invalid if its arguments are empty or incomplete."""
    mark = [DONE] if provider == "openai" else [{"type": "message_stop"}]
    server.sse([*events, *(mark if end == "mark" else [])])
    with llmlite.Client("m", provider=provider, base_url=server.url, api_key="k-123456", retry=None) as llm:
        stream = llm.stream("Hi")
        if end == "cut":
            with pytest.raises(llmlite.TruncatedStreamError) as caught:
                list(stream)
            calls = caught.value.response.tool_calls
        else:
            calls = [event.tool_call for event in stream.events() if event.type == "tool_call"]
    assert [call.arguments for call in calls] == [{"path": "a"} if events[0] == opened('{"path": "a"}') else {}]
    assert calls[0].invalid is None if why is None else calls[0].invalid.startswith(why)
    assert why is None or calls[0].invalid.endswith("the stream ended inside it")


@pytest.mark.parametrize("late", [None, "", [], {}, 0], ids=repr)
def test_nothing_replaces_what_had_come(server, llm, late):
    """A later null, or a blank, takes nothing away: not the citations, nor the ids, nor the count."""
    told = {"citations": ["u"], "prompt_token_ids": [1, 2], "system_fingerprint": "fp", "usage": usage(3, 2)}
    server.sse([{**HE, **told}, {**LLO, **dict.fromkeys(told, late), "id": late, "model": late},
                {"choices": [{**STOP["choices"][0], "stop_reason": 7}]},
                {"choices": [{"index": 0, "delta": {}, "finish_reason": None, "stop_reason": late}]}, DONE])
    stream = llm.stream("Hi")
    assert list(stream) == ["He", "llo"]
    reply = stream.response
    assert (reply.citations, reply.usage, reply.id, reply.model) == (["u"], llmlite.Usage(3, 2), "c", "m")
    assert {name: reply.raw[name] for name in told} == told and reply.raw["choices"][0]["stop_reason"] == 7


def test_nothing_replaces_what_had_come_at_anthropic_and_gemini(server):
    """The same for their usage, their citations and their reasons."""
    server.sse([{"type": "message_start", "message": {"id": "i", "model": "m", "usage": {"input_tokens": 3}}},
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
                {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": None}},
                {"type": "message_stop"}])
    with llmlite.Client("m", provider="anthropic", base_url=server.root, api_key="k-123456", retry=None) as llm:
        reply = ended(llm.stream("Hi"))
    assert (reply.usage, reply.raw_finish_reason) == (llmlite.Usage(3, 2), "end_turn")
    counts, meta = {"promptTokenCount": 3, "candidatesTokenCount": 2}, {"citationSources": [{"uri": "u"}]}
    server.sse([{"candidates": [{"content": {"parts": [{"text": "a"}]}, "citationMetadata": meta}],
                 "usageMetadata": counts, "modelVersion": "v"},
                {"candidates": [{"finishReason": "STOP", "citationMetadata": None}], "usageMetadata": None,
                 "modelVersion": None}])
    with llmlite.Client("m", provider="gemini", base_url=server.root, api_key="k-123456", retry=None) as llm:
        reply = ended(llm.stream("Hi"))
    assert (reply.text, reply.usage, reply.citations, reply.model) == ("a", llmlite.Usage(3, 2), [{"uri": "u"}], "v")


def ended(stream):
    """The whole reply of a stream."""
    for _ in stream:
        pass
    return stream.response


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_nesting_without_words_is_no_trouble(server, provider):
    """A small chunk may be nested as deep as its bytes allow; nothing breaks of it but what an error says."""
    deep = "[" * 380 + "]" * 380
    server.sse([f'data: {{"type":"x","choices":{deep},"candidates":{deep}}}\n\n'] * 3)
    with llmlite.Client("m", provider=provider, base_url=server.url, api_key="k-123456", retry=None) as llm, \
            pytest.raises(llmlite.LLMError):
        list(llm.stream("Hi"))
