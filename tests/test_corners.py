"""Corners that no other file reaches: what is seldom met, and must hold all the same."""
import inspect
import io
import json
import time
import zlib

import pytest
import requests
from requests.adapters import BaseAdapter

from tests import llmlite, testing
from tests.beside import idle
from tests.test_processes import forked, forking

SSE = {"Content-Type": "text/event-stream"}
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
WHOLE = EVENT.replace(b"null", b'"stop"') + b"data: [DONE]\n\n"


class Canned(BaseAdapter):
    """A user's adapter without sockets: each request gets the same stream."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def send(self, request, **options):
        response = requests.Response()
        response.status_code, response.url, response.request = 200, request.url, request
        response.headers["Content-Type"] = SSE["Content-Type"]
        response.raw = io.BytesIO(self.data)
        return response

    def close(self):
        pass


def over(data):
    """A client over such an adapter."""
    session = requests.Session()
    session.mount("http://", Canned(data))
    return llmlite.Client("m", base_url="http://localhost:1", session=session, retry=None)


def test_help_shows_defaults_in_words():
    """The signatures that help() shows say "unset" where None means something, and no address in memory."""
    shown = str(inspect.signature(llmlite.Client.chat))
    assert "deadline: 'Optional[float]' = unset" in shown
    assert "0x" not in shown


def test_a_rate_limit_shows_its_numbers():
    """repr() of a RateLimit is what makes it."""
    assert repr(llmlite.RateLimit(60, tokens_per_minute=9.5)) == (
        "RateLimit(requests_per_minute=60, tokens_per_minute=9.5)")


def test_a_tool_that_outlasts_the_deadline(server):
    """The deadline of run_tools() covers the tools' own time: no further request is made."""
    server.reply("", tool_calls=[{"name": "slow", "arguments": {}}])
    ended = []

    def slow():
        """Waits until the deadline is over."""
        server.wait_for(2, timeout=0.85)
        ended.append(True)

    llm = llmlite.Client("m", base_url=server.url, retry=None)
    with llm, pytest.raises(llmlite.DeadlineExceededError, match="deadline of 0.8 s ran out"):
        llm.run_tools("Hi", [slow], deadline=0.8)
    assert ended == [True]
    assert len(server.requests) == 1


def test_a_stream_whose_only_choice_is_not_the_first(llm, server):
    """A server that numbers its one choice 1: the text is told, at the end at the latest, and is on the reply."""
    server.body(WHOLE.replace(b'"index":0', b'"index":1'), headers=SSE)
    stream = llm.stream("Hi")
    assert "".join(stream) == stream.response.text == "hi"
    assert stream.response.finish_reason == "stop"


def test_lists_in_deltas_are_joined(llm, server):
    """Annotations that come a few in each delta are all on the reply, in order."""
    delta = 'data: {"choices":[{"index":0,"delta":{"content":"x","annotations":[{"n":%d}]}}]}\n\n'
    server.body((delta % 1 + delta % 2).encode() + WHOLE, headers=SSE)
    stream = llm.stream("Hi")
    assert "".join(stream) == "xxhi"
    assert stream.response.citations == [{"n": 1}, {"n": 2}]


def test_closing_a_stream_that_has_no_socket():
    """close() of a stream over a user's adapter without sockets ends it, and the ledger books it."""
    llm = over(EVENT * 3)
    stream = llm.stream("Hi")
    assert next(stream) == "hi"
    stream.close()
    assert list(stream) == []
    assert (llm.ledger.calls, llm.ledger.failed) == (1, 0)


def test_closing_a_stream_that_the_server_has_reset(llm, server):
    """close() raises nothing where the connection is gone already, and the next call gets a new one."""
    server.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + EVENT, testing.RESET)
    stream = llm.stream("Hi")
    assert next(stream) == "hi"
    assert idle(server)
    stream.close()
    assert stream.text == "hi"
    server.reply("ok")
    assert llm.chat("Hi").text == "ok"
    assert server.connections == 2


@forking
def test_fork_with_an_adapter_of_another_kind():
    """A child uses a session whose adapter is no HTTPAdapter as its parent did."""
    llm = over(WHOLE)
    assert "".join(llm.stream("Hi")) == "hi"
    assert forked(lambda: "".join(llm.stream("Hi")))() == "hi"


def test_bare_lines_beyond_the_limit(llm, server):
    """JSON between events that goes on for over 16 MiB of lines is refused, not gathered for ever."""
    server.body(EVENT + b"[\n" + (b" " * (1 << 20) + b"0,\n") * 17 + WHOLE, headers=SSE)
    stream = llm.stream("Hi")
    with pytest.raises(llmlite.StreamError, match="answer refused: .*bare lines of over 16 MiB"):
        list(stream)
    assert stream.text == "hi"


def test_bare_lines_that_never_come_to_an_end_take_no_time(llm, server):
    """Lines that each might be the last of a JSON text are not read over and over."""
    server.body(EVENT + b"[\n" + (b" " * 100 + b"}\n") * 20_000 + WHOLE, headers=SSE)
    before = time.thread_time()
    assert list(llm.stream("Hi")) == ["hi", "hi"]
    assert time.thread_time() - before < 2


@pytest.mark.parametrize("size, count", [(86, 763), (113, 580), (149, 440), (164, 400), (163, 6433)])
def test_deflate_whose_last_bytes_come_late(llm, server, size, count):
    """Raw deflate has no trailer: an event that is still inside the inflater when its input ends is not lost.

    With these sizes zlib has taken all of its input when it is as far as a piece of 64 KiB, or of 1 MiB.
    """
    event = EVENT.replace(b"null", b'"stop"').rstrip()
    event += b" " * (size - len(event) - 2) + b"\n\n"
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(event * count) + packer.flush()
    server.body(packed, headers={**SSE, "Content-Encoding": "deflate"})
    assert "".join(llm.stream("Hi")) == "hi" * count


def test_a_socks_proxy_without_its_package(llm, server, monkeypatch):
    """A SOCKS proxy that requests cannot use is an LLMError that names it, not requests' own exception."""
    try:
        import socks  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("PySocks is installed")
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(llmlite.APIConnectionError, match="SOCKS"):
        llm.chat("Hi")
    assert server.requests == []


def test_a_folded_header(llm, server):
    """A header that goes on in the next line (obsolete, RFC 9112 5.2) is one value."""
    server.raw(b"HTTP/1.1 200 OK\r\nX-Long: one\r\n two\r\nContent-Length: %d\r\n\r\n%s" % (len(WHOLE), WHOLE))
    stream = llm.stream("Hi")
    assert list(stream) == ["hi"] and stream.response.headers["x-long"] == "one two"


@pytest.mark.parametrize("size, count, taken", [(1 << 16, 1, True), ((1 << 16) + 1, 1, False), (99, 200, True)])
def test_the_limits_of_a_head(llm, server, size, count, taken):
    """A header line of 64 KiB is taken, end and all, and two hundred of them; a line with one byte more is not."""
    lines = [b"X-%03d: %s\r\n" % (number, b"x" * (size - 9)) for number in range(count - 1)]
    last = b"Content-Length: %d\r\n" % len(WHOLE)
    last = last if lines else b"Content-Length:%s%d\r\n" % (b" " * (size - 17 - len(str(len(WHOLE)))), len(WHOLE))
    assert {len(line) for line in lines or [last]} == {size}
    server.raw(b"HTTP/1.1 200 OK\r\n" + b"".join(lines) + last + b"\r\n" + WHOLE)
    if taken:
        assert list(llm.stream("Hi")) == ["hi"]
    else:
        with pytest.raises(llmlite.APIConnectionError, match="header line"):
            llm.stream("Hi")


def test_another_version_of_http(server):
    """An answer in a version that is not HTTP/1 is told apart."""
    server.raw(b"HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    with llmlite.Client("m", base_url=server.url, retry=None) as llm:
        with pytest.raises(llmlite.APIConnectionError, match="answer is not HTTP"):
            llm.chat("Hi")


@pytest.mark.parametrize("vector", ["A", "AAAA"], ids=["no base64", "no floats"])
def test_a_vector_that_is_none(server, vector):
    """An embedding that is neither numbers nor base64 of floats is an error, not an odd vector."""
    server.json({"data": [{"index": 0, "embedding": vector}]})
    with llmlite.Client("m", base_url=server.url, retry=None) as llm:
        with pytest.raises(llmlite.ResponseError, match="no embeddings"):
            llm.embed(["a"])


@pytest.mark.parametrize("delta", [
    b'{"choices":[%s]}' % b",".join(b'{"index":%d}' % at for at in range(1200)),
    b'{"choices":[{"index":0,"delta":{"tool_calls":[%s]}}]}' % b",".join(b'{"index":%d}' % at for at in range(1200)),
], ids=["choices", "calls"])
def test_more_choices_or_calls_than_anybody_asks_for(server, delta):
    """A reply of over a thousand choices or tool calls is refused: a hostile server may invent any number."""
    server.body(EVENT + b"data: " + delta + b"\n\n", headers=SSE)
    with llmlite.Client("m", base_url=server.url, retry=None) as llm, pytest.raises(llmlite.StreamError) as caught:
        list(llm.stream("Hi"))
    assert "over 1000" in str(caught.value) and caught.value.response.text == "hi"


def test_as_many_calls_as_are_taken(llm, server):
    """A thousand tool calls are, and are told in their order."""
    calls = [{"index": at, "id": f"c{at}", "function": {"name": "f", "arguments": "{}"}} for at in range(1000)]
    for chunk in (calls, calls + [{"index": 1000, "id": "c1000"}]):
        server.sse([{"choices": [{"index": 0, "delta": {"content": "hi", "tool_calls": chunk}}]}, WHOLE.decode()])
    stream = llm.stream("Hi")
    assert list(stream)[0] == "hi" and [call.id for call in stream.response.tool_calls] == [one["id"] for one in calls]
    with pytest.raises(llmlite.LLMError, match="over 1000 tool calls"):
        list(llm.stream("Hi"))


@pytest.mark.parametrize("depth, taken", [(100, True), (101, False)])
def test_how_deep_a_reply_may_be(llm, server, depth, taken):
    """A hundred levels, of which a text may say what it likes."""
    odd = "[" * (depth - 1) + "]" * (depth - 1)
    server.body(b'{"choices": [{"message": {"content": "[{["}}], "odd": %s, "more": [{}]}' % odd.encode())
    if taken:
        assert llm.chat("Hi").text == "[{["
    else:
        with pytest.raises(llmlite.ResponseError, match="broken JSON"):
            llm.chat("Hi")


def test_arguments_nested_too_deep(server):
    """Arguments that come as an object and cannot be written as JSON again are an invalid call, not a crash."""
    deep = json.loads("[" * 90 + "]" * 90)
    with llmlite.Client("m", provider="gemini", base_url=server.url, api_key="k", retry=None) as llm:
        server.json({"candidates": [{"finishReason": "STOP", "content": {"parts": [
            {"functionCall": {"name": "f", "args": {"x": deep}}}]}}]})
        assert llm.chat("Hi").tool_calls[0].arguments == {"x": deep}


def test_thoughts_told_apart_from_the_answer(server):
    """Pieces of thought and of answer by turns stay what they are."""
    parts = [{"text": "a", "thought": True}, {"text": "b", "thought": True}, {"text": "c"}, {"text": "d"}, {}]
    events = [b"data: %s\n\n" % json.dumps({"candidates": [{"content": {"parts": [part]}}]}).encode() for part in parts]
    server.body(b"".join(events) + b'data: {"candidates": [{"finishReason": "STOP"}]}\n\n', headers=SSE)
    with llmlite.Client("m", provider="gemini", base_url=server.url, api_key="k", retry=None) as llm:
        stream = llm.stream("Hi")
        assert "".join(stream) == "cd" and stream.response.reasoning == "ab"
