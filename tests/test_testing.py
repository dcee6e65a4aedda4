"""The scripted provider itself: what it sends, byte for byte and when, what it records, and that nothing is left."""
import contextlib
import gzip
import http.client
import json
import os
import queue
import socket
import ssl
import sys
import threading
import time
import zlib

import pytest
import trustme

from tests import testing
from tests.beside import LOOKING, beside, descriptors, idle, within

CHAT = "/v1/chat/completions"
NATIVE = "/completion"
GEMINI = "/v1beta/models/gem:generateContent"
GEMINI_STREAM = "/v1beta/models/gem:streamGenerateContent?alt=sse"
TOOLS = [{"id": "c1", "name": "add", "arguments": {"a": 2}}, {"name": "now", "arguments": {}}]


@pytest.fixture
def server():
    with testing.Server() as server:
        yield server


class Answer:
    """What a client got: status, headers, body, and the body's JSON or events."""

    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def events(self):
        """The stream's events: JSON where it is JSON."""
        found = [part.split(b"data: ", 1)[1] for part in self.body.replace(b"\r\n", b"\n").split(b"\n\n") if part]
        return [json.loads(data) if data.startswith(b"{") else data.decode() for data in found]


@contextlib.contextmanager
def connected(server, **how):
    """A keep-alive connection of http.client; yields `ask(body, path)`."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=5, **how)

    def ask(body=None, path=CHAT):
        connection.request("POST", path, None if body is None else json.dumps(body))
        return Answer(connection.getresponse())

    try:
        yield ask
    finally:
        connection.close()


def ask(server, body=None, path=CHAT):
    """One request on a connection of its own."""
    with connected(server) as ask:
        return ask(body, path)


def request_bytes(body=b"{}", path=CHAT, *headers):
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def open_socket(server):
    return socket.create_connection((server.host, server.port), timeout=5)


def wire(server, data=None, wait=5.0):
    """All bytes that come for `data`, and how they end: "eof", "reset" or (after `wait` seconds of silence) "open"."""
    got = b""
    with open_socket(server) as sock:
        sock.settimeout(wait)
        sock.sendall(data or request_bytes())
        while True:
            try:
                part = sock.recv(65536)
            except ConnectionResetError:
                return got, "reset"
            except socket.timeout:
                return got, "open"
            if not part:
                return got, "eof"
            got += part


def read_until(sock, mark):
    got = b""
    while mark not in got:
        part = sock.recv(65536)
        assert part, f"the server closed after {got!r}"
        got += part
    return got


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("llmlite.testing")]


# ---------------------------------------------------------------------------------------------------------- the script


def test_replies_come_in_the_order_they_were_queued(server):
    """First queued, first answered; `times` keeps a reply at the head."""
    server.reply("one", times=2)
    server.reply("two")
    server.reply("three", times=None)
    server.reply("never reached")
    texts = [ask(server).json["choices"][0]["message"]["content"] for _ in range(6)]
    assert texts == ["one", "one", "two", "three", "three", "three"]


def test_nothing_queued_is_a_501_that_names_the_request(server):
    """A request that the script did not foresee is refused with its method and path."""
    answer = ask(server, {}, "/v1/chat/completions?x=1")
    assert answer.status == 501
    message = answer.json["error"]["message"]
    assert message == "llmlite.testing: no reply was queued for POST /v1/chat/completions?x=1"


def test_handler_answers_when_the_queue_is_empty(server):
    """Queued replies come first, then the function's, which may return None for a default answer."""

    @server.handle
    def answer(request):
        return testing.reply(request.json["say"]) if "say" in request.json else None

    server.reply("queued")
    with connected(server) as say:
        texts = [say(body).json["choices"][0]["message"]["content"] for body in ({}, {"say": "hello"}, {})]
    assert texts == ["queued", "hello", "ok"]
    assert answer.__name__ == "answer"


def test_handler_may_return_any_reply(server):
    """Replies for a function come from the module's functions, one for each method of the server."""
    replies = {
        "/reply": testing.reply("x"), "/stream": testing.stream(["x"]), "/error": testing.error(418),
        "/json": testing.json_body([1]), "/sse": testing.sse(["x\n\n"]), "/body": testing.body(b"x"),
        "/raw": testing.raw(b"HTTP/1.1 299 x\r\n\r\n"),
    }  # fmt: skip
    server.handle(lambda request: replies[request.path])
    assert [ask(server, {}, path).status for path in replies] == [200, 200, 418, 200, 200, 200, 299]


def test_failing_handler_is_a_501_with_a_traceback(server, capsys):
    """An exception in the function neither hangs the client nor is lost; what is no reply is an error of its own."""
    server.handle(lambda request: 1 / 0)
    answer = ask(server)
    assert answer.status == 501
    assert answer.json["error"]["message"] == "ZeroDivisionError while answering: division by zero"
    assert "Traceback" in capsys.readouterr().err
    server.handle(lambda request: "Paris")
    assert ask(server).json["error"]["message"] == (
        "TypeError while answering: the function gave 'Paris': it is to give a Reply, as reply() makes, or None")


def test_reply_that_cannot_be_written_is_a_501(server, capsys):
    """Tool arguments that are no JSON show at the client, and the connection lives on."""
    server.reply("", tool_calls=[{"name": "f", "arguments": {"x": object()}}])
    server.reply("next")
    with connected(server) as say:
        assert say().status == 501
        assert say().status == 200
    assert "not JSON serializable" in capsys.readouterr().err


def test_building_functions_queue_nothing(server):
    """The module's own functions only return a reply."""
    assert isinstance(testing.reply("x"), testing.Reply)
    assert isinstance(server.reply("y"), testing.Reply)
    assert ask(server).json["choices"][0]["message"]["content"] == "y"
    assert ask(server).status == 501


@pytest.mark.parametrize(
    "how",
    [{"framing": "zip"}, {"end": "never"}, {"times": 0}, {"split": 0}, {"truncate": -1}, {"split": -3}],
    ids=str,
)
def test_senseless_options_are_refused_when_the_reply_is_made(how):
    """A wrong option is a ValueError at the line that wrote it, not a surprise on the wire."""
    with pytest.raises(ValueError):
        testing.reply("x", **how)


@pytest.mark.parametrize("make", [
    lambda: testing.raw("text"), lambda: testing.body("text"), lambda: testing.body([1]), lambda: testing.reply(5),
    lambda: testing.reply({"choices": []}), lambda: testing.stream(["a", None]), lambda: testing.error("slow", 429),
])  # fmt: skip
def test_content_of_a_wrong_type_is_refused_when_the_reply_is_made(make):
    """A str where bytes belong is a TypeError, and so is another thing where a text or a status belongs."""
    with pytest.raises(TypeError):
        make()


def test_queue_is_safe_between_threads(server):
    """Eight threads that queue and ask: every reply is answered once, every request recorded."""
    got = queue.Queue()

    def work(number):
        with connected(server) as say:
            for turn in range(25):
                server.json([number, turn])
                got.put(tuple(say().json))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(got.queue) == [(number, turn) for number in range(8) for turn in range(25)]
    assert (len(server.requests), server.connections) == (200, 8)


# ----------------------------------------------------------------------------------------------- the providers' formats


def test_chat_answer(server):
    """OpenAI chat: one choice with text, reasoning and tool calls, and usage."""
    server.reply("hi", reasoning="hm", tool_calls=TOOLS)
    answer = ask(server, {"model": "m"})
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json == {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": "m",
        "choices": [{"index": 0, "logprobs": None, "finish_reason": "tool_calls", "message": {
            "role": "assistant", "content": "hi", "reasoning_content": "hm", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}},
                {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
            ]}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }  # fmt: skip


def test_chat_answer_without_text_or_usage(server):
    """Content is null beside tool calls, "" without; usage None is left out; a str of arguments goes out as it is."""
    server.reply("", usage=None, finish_reason="")
    server.reply("", tool_calls=[{"name": "f", "arguments": "{torn"}], usage={"prompt_tokens": 7})
    with connected(server) as say:
        bare, called = say().json, say().json
    assert bare["choices"][0] == {
        "index": 0, "message": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None
    }  # fmt: skip
    assert "usage" not in bare
    assert called["usage"] == {"prompt_tokens": 7}
    message = called["choices"][0]["message"]
    assert (message["content"], message["tool_calls"][0]["function"]["arguments"]) == (None, "{torn")


def test_chat_stream(server):
    """OpenAI chat: role, reasoning, text and tool pieces, the finish, and [DONE]; no usage unless asked for."""
    server.stream(["h", ("i", 7)], reasoning=["x"], tool_calls=TOOLS[:1])
    answer = ask(server, {"model": "m", "stream": True})
    assert (answer.headers["content-type"], answer.headers["transfer-encoding"]) == ("text/event-stream", "chunked")
    *chunks, done = answer.events
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "x"},
        {"content": "h"},
        {"content": "i"},
        {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 2}"}}]},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 7 + ["tool_calls"]
    assert not any("usage" in chunk for chunk in chunks)


def test_chat_stream_with_usage(server):
    """With include_usage each chunk has a null usage, and one without choices brings it before [DONE]."""
    server.stream(["a"], usage=(3, 4))
    server.stream(["a"], usage=None)
    wish = {"stream": True, "stream_options": {"include_usage": True}}
    with connected(server) as say:
        *chunks, usage, done = say(wish).events
        without = say(wish).events
    assert [chunk["usage"] for chunk in chunks] == [None, None, None]
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert (done, len(without)) == ("[DONE]", 4)


def test_completions(server):
    """OpenAI completions: text alone, or with vLLM's token ids."""
    server.stream([("a", 1), ("b", 2)], times=2)
    server.reply("plain", finish_reason="length")
    with connected(server) as say:
        chunks = say({"stream": True}, "/v1/completions").events
        whole, plain = say({}, "/v1/completions").json, say({}, "/v1/completions").json
    assert [chunk["choices"][0] for chunk in chunks[:-1]] == [
        {"index": 0, "text": "a", "token_ids": [1], "logprobs": None, "finish_reason": None},
        {"index": 0, "text": "b", "token_ids": [2], "logprobs": None, "finish_reason": None},
        {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"},
    ]
    assert (chunks[0]["object"], chunks[-1], whole["object"]) == ("text_completion", "[DONE]", "text_completion")
    assert whole["choices"] == [
        {"index": 0, "text": "ab", "token_ids": [1, 2], "logprobs": None, "finish_reason": "stop"}
    ]
    assert plain["choices"] == [{"index": 0, "text": "plain", "logprobs": None, "finish_reason": "length"}]


def test_native_completion(server):
    """llama.cpp's own route: content and tokens, stop on the last, counts beside them, no [DONE]."""
    server.stream([("a", 1), "b"], times=2)
    server.stream(["a"], done=False, usage=None)
    with connected(server) as say:
        events, whole = say({"stream": True}, NATIVE).events, say({}, NATIVE).json
        cut = say({"stream": True}, NATIVE).events
    last = {"stop": True, "stop_type": "eos", "tokens_evaluated": 10, "tokens_predicted": 5}
    assert events == [
        {"index": 0, "content": "a", "tokens": [1], "stop": False, "stop_type": "none"},
        {"index": 0, "content": "b", "tokens": [], "stop": False, "stop_type": "none"},
        {"index": 0, "content": "", "tokens": [], **last},
    ]
    assert whole == {"index": 0, "content": "ab", "tokens": [1], **last}
    assert [event["stop"] for event in cut] == [False]


def test_anthropic_answer(server):
    """Anthropic: a block for the thinking, the text and each tool call."""
    server.reply("hi", reasoning="hm", tool_calls=TOOLS[:1])
    assert ask(server, {"model": "m"}, "/v1/messages").json == {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "c2lnbmVk"},
            {"type": "text", "text": "hi"},
            {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 2}},
        ],
        "stop_reason": "tool_use", "stop_sequence": None, "usage": {"input_tokens": 10, "output_tokens": 5},
    }  # fmt: skip


def test_anthropic_stream(server):
    """Anthropic: every event has its name; blocks start, grow and stop; usage comes in two parts."""
    server.stream(["h", "i"], reasoning=["hm"], tool_calls=TOOLS[:1])
    answer = ask(server, {"model": "m", "stream": True}, "/v1/messages")
    events = answer.events
    names = [line[7:].decode() for line in answer.body.split(b"\n") if line.startswith(b"event: ")]
    assert names == [event["type"] for event in events]
    assert events[0]["message"]["usage"] == {"input_tokens": 10, "output_tokens": 1}
    assert [event["content_block"] for event in events if event["type"] == "content_block_start"] == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "c1", "name": "add", "input": {}},
    ]
    assert [(event["index"], event["delta"]) for event in events if event["type"] == "content_block_delta"] == [
        (0, {"type": "thinking_delta", "thinking": "hm"}),
        (0, {"type": "signature_delta", "signature": "c2lnbmVk"}),
        (1, {"type": "text_delta", "text": "h"}),
        (1, {"type": "text_delta", "text": "i"}),
        (2, {"type": "input_json_delta", "partial_json": ""}),
        (2, {"type": "input_json_delta", "partial_json": '{"a"'}),
        (2, {"type": "input_json_delta", "partial_json": ": 2}"}),
    ]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert events[-2]["usage"] == {"output_tokens": 5}
    assert names[1] == "ping"
    assert names[-1] == "message_stop"


def test_anthropic_stream_with_a_usage_of_its_own(server):
    """A dict of usage is sent as it is at both ends of the stream."""
    server.stream(["x"], usage={"input_tokens": 1, "cache_read_input_tokens": 9, "output_tokens": 3})
    events = ask(server, {"stream": True}, "/v1/messages").events
    assert events[0]["message"]["usage"] == events[-2]["usage"]
    assert events[-2]["usage"]["cache_read_input_tokens"] == 9


def test_gemini_answer(server):
    """Gemini: parts in one candidate; only the first of parallel calls has a signature; STOP with calls, too."""
    server.reply("hi", reasoning="hm", tool_calls=TOOLS)
    assert ask(server, {"contents": []}, GEMINI).json == {
        "candidates": [{"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": [
            {"text": "hm", "thought": True},
            {"text": "hi"},
            {"functionCall": {"id": "c1", "name": "add", "args": {"a": 2}}, "thoughtSignature": "c2lnbmVk"},
            {"functionCall": {"id": "call_2", "name": "now", "args": {}}},
        ]}}],
        "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15},
        "modelVersion": "gem", "responseId": "r-1",
    }  # fmt: skip


def test_gemini_stream(server):
    """Gemini: CRLF events, counts that grow, a finish reason on the last, no end mark."""
    server.stream(["h", "i"])
    server.stream(["h"], usage=None)
    with connected(server) as say:
        answer, bare = say({}, GEMINI_STREAM), say({}, GEMINI_STREAM)
    assert answer.body.count(b"\r\n\r\n") == 3
    assert b"\n\n" not in answer.body
    candidates = [event["candidates"][0] for event in answer.events]
    assert [one["content"]["parts"] for one in candidates] == [[{"text": "h"}], [{"text": "i"}], [{"text": ""}]]
    assert [one.get("finishReason") for one in candidates] == [None, None, "STOP"]
    assert [event["usageMetadata"]["totalTokenCount"] for event in answer.events] == [10, 10, 15]
    assert not any("usageMetadata" in event for event in bare.events)


def test_embeddings(server):
    """A vector for each input, told apart by its first number, at OpenAI's route and at Gemini's two."""
    server.reply("", times=3)
    server.reply("", usage=None)
    with connected(server) as say:
        openai = say({"model": "e", "input": ["a", "b"]}, "/v1/embeddings").json
        batch = say({"requests": [{}, {}]}, "/v1beta/models/e:batchEmbedContents").json
        single = say({"content": {}}, "/v1beta/models/e:embedContent").json
        text = say({"input": "a"}, "/v1/embeddings").json
    assert openai == {
        "object": "list", "model": "e", "usage": {"prompt_tokens": 10, "total_tokens": 10},
        "data": [{"object": "embedding", "index": n, "embedding": [n, 0.5, -0.25]} for n in (0.0, 1.0)],
    }  # fmt: skip
    assert [one["values"][0] for one in batch["embeddings"]] == [0.0, 1.0]
    assert single["embedding"]["values"] == [0.0, 0.5, -0.25]
    assert (len(text["data"]), "usage" in text) == (1, False)


def test_models(server):
    """One model, listed where OpenAI's, Anthropic's and Gemini's callers look for it."""
    server.reply("", model="big")
    listed = ask(server, {}, "/v1/models").json
    assert listed["data"][0]["id"] == "big"
    assert listed["models"][0]["name"] == "models/big"
    assert listed["has_more"] is False


FINISHES = {
    CHAT: ["stop", "length", "tool_calls", "content_filter", "odd"],
    "/v1/completions": ["stop", "length", "tool_calls", "content_filter", "odd"],
    NATIVE: ["eos", "limit", "tool_calls", "content_filter", "odd"],
    "/v1/messages": ["end_turn", "max_tokens", "tool_use", "refusal", "odd"],
    GEMINI: ["STOP", "MAX_TOKENS", "STOP", "SAFETY", "odd"],
}


@pytest.mark.parametrize("path", FINISHES)
def test_finish_reasons_in_the_dialects_own_words(server, path):
    """The canonical words are translated; any other goes out as it is."""
    for reason in ("stop", "length", "tool_calls", "content_filter", "odd"):
        server.reply("x", finish_reason=reason)
    with connected(server) as say:
        bodies = [say({}, path).json for _ in range(5)]
    found = [find(body, ("finish_reason", "stop_reason", "finishReason", "stop_type")) for body in bodies]
    assert found == FINISHES[path]


def find(body, names):
    """The value under the first of these names, in the body or its first choice or candidate."""
    inner = (body.get("choices") or body.get("candidates") or [body])[0]
    return next(inner[name] for name in names if name in inner)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", NATIVE, "/v1/messages", GEMINI_STREAM])
def test_one_script_serves_streams_and_whole_answers(server, path):
    """A reply is streamed in one piece to those who ask for a stream; a stream is joined for the others."""
    plain = path.replace("streamGenerateContent?alt=sse", "generateContent")
    server.reply("whole")
    server.stream(["in ", "pieces"], reasoning=["a", "b"])
    server.reply("")
    with connected(server) as say:
        streamed, joined, empty = say({"stream": True}, path), say({}, plain), say({"stream": True}, path)
    assert streamed.headers["content-type"] == "text/event-stream"
    assert streamed.body.count(b"whole") == 1
    assert joined.headers["content-type"] == "application/json"
    assert b'"in pieces"' in joined.body
    assert (b'"ab"' in joined.body) == (path not in ("/v1/completions", NATIVE))
    assert empty.headers["content-type"] == "text/event-stream"


@pytest.mark.parametrize(
    "path, mark", [(CHAT, b"[DONE]"), ("/v1/completions", b"[DONE]"), ("/v1/messages", b"message_stop")]
)
def test_done_false_leaves_out_the_end_mark(server, path, mark):
    """A stream can end with its finish reason and without its end mark."""
    server.stream(["x"])
    server.stream(["x"], done=False)
    with connected(server) as say:
        whole, cut = say({"stream": True}, path).body, say({"stream": True}, path).body
    assert whole.startswith(cut)
    assert mark in whole[len(cut) :]
    assert len(whole) > len(cut)


@pytest.mark.parametrize(
    "path, body, model",
    [
        (CHAT, {"model": "asked"}, "asked"),
        (CHAT, {}, "test"),
        ("/v1beta/models/in-path:generateContent", {}, "in-path"),
        ("/v1/nothing/known", {"model": "asked"}, "asked"),
        (CHAT + "/", {"model": "asked"}, "asked"),
    ],
)
def test_model_is_the_one_asked_for(server, path, body, model):
    """The request names the model, in its body or its path, unless the reply does."""
    server.reply("x")
    server.reply("x", model="own")
    with connected(server) as say:
        answers = [say(body, path).json for _ in range(2)]
    assert [answer.get("model") or answer["modelVersion"] for answer in answers] == [model, "own"]


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"[1]", b'"text"', b"[" * 100000, b'{"stream_options": 1, "stream": "x"}']
)
def test_any_request_body_gets_an_answer(server, body):
    """A body that is no JSON object, or one with odd values, is answered as a plain chat."""
    server.reply("x")
    got, _ = wire(server, request_bytes(body, CHAT, "Connection: close"))
    assert got.endswith(b'"total_tokens":15}}')
    assert server.requests[0].body == body


def test_text_goes_out_as_utf_8(server):
    """Like real servers it escapes no letter, so that a cut may fall inside one; a lone surrogate it must escape."""
    server.reply("gr\u00fc\u00df \U0001f600 \u2028")
    server.reply("half \ud83d")
    with connected(server) as say:
        greeting, half = say(), say()
    assert "gr\u00fc\u00df \U0001f600 \u2028".encode() in greeting.body
    assert half.json["choices"][0]["message"]["content"] == "half \ud83d"


BAD, RATE = "invalid_request_error", "rate_limit_error"
ERRORS = [
    (CHAT, 429, {}, {"type": RATE, "param": None, "code": "rate_limit_exceeded"}),
    (CHAT, 429, {"type": "insufficient_quota"}, {"type": "insufficient_quota", "param": None, "code": None}),
    (CHAT, 400, {"message": "bad", "code": "c"}, {"message": "bad", "type": BAD, "param": None, "code": "c"}),
    (CHAT, 500, {}, {"type": "server_error", "param": None, "code": None}),
    (CHAT, 418, {}, {"type": BAD, "param": None, "code": None}),
    (NATIVE, 503, {}, {"type": "unavailable_error", "code": 503}),
    ("/v1/messages", 529, {}, {"type": "overloaded_error"}),
    ("/v1/messages", 500, {"code": "x"}, {"type": "api_error", "details": {"error_code": "x"}}),
    (GEMINI, 503, {}, {"code": 503, "status": "UNAVAILABLE"}),
    (GEMINI, 500, {"type": "ODD", "code": 7}, {"code": 7, "status": "ODD"}),
]


@pytest.mark.parametrize("path, status, given, expected", ERRORS)
def test_errors_in_the_dialects_own_shape(server, path, status, given, expected):
    """Status and body are the provider's; type and code follow the status unless given."""
    server.error(status, **given)
    answer = ask(server, {"stream": True}, path)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert answer.json["error"] == {"message": f"scripted error {status}", **expected}
    assert (answer.json.get("type") == "error") == (path == "/v1/messages")
    assert "retry-after" not in answer.headers


def test_retry_after_stands_where_the_provider_writes_it(server):
    """A header as it was given; at Gemini a RetryInfo in the body and no header."""
    for ask_for in (1.5, "Wed, 21 Oct 2026 07:28:00 GMT"):
        server.error(429, retry_after=ask_for, times=2)
    with connected(server) as say:
        (number, gemini), (date, verbatim) = [(say(), say({}, GEMINI)) for _ in range(2)]
    assert number.headers["retry-after"] == "1.5"
    assert date.headers["retry-after"] == "Wed, 21 Oct 2026 07:28:00 GMT"
    assert "retry-after" not in gemini.headers
    kind = "type.googleapis.com/google.rpc.RetryInfo"
    assert gemini.json["error"]["details"] == [{"@type": kind, "retryDelay": "1.5s"}]
    assert verbatim.json["error"]["details"][0]["retryDelay"] == "Wed, 21 Oct 2026 07:28:00 GMT"


def test_sse_is_sent_as_written(server):
    """Text and bytes verbatim, a dict as a data line, a pair with its event's name."""
    server.sse(["data: a\r\r", b": ping\n\n", {"x": 1}, ("error", {"y": 2})], status=201)
    answer = ask(server)
    assert answer.body == b'data: a\r\r: ping\n\ndata: {"x":1}\n\nevent: error\ndata: {"y":2}\n\n'
    assert (answer.status, answer.headers["content-type"]) == (201, "text/event-stream")


# ------------------------------------------------------------------------------------------------------ bytes and time


@pytest.mark.parametrize("framing", ["length", "chunked", "close", "gzip", "gzip-length"])
def test_framings(server, framing):
    """The same body in each framing; all but "close" keep the connection."""
    server.body([b"one ", b"", b"two"], framing=framing)
    server.json([1])
    with connected(server) as say:
        answer = say()
        say()
    body = gzip.decompress(answer.body) if framing.startswith("gzip") else answer.body
    assert body == b"one two"
    assert answer.headers.get("transfer-encoding") == ("chunked" if framing in ("chunked", "gzip") else None)
    assert ("content-length" in answer.headers) == framing.endswith("length")
    assert answer.headers.get("connection") == ("close" if framing == "close" else None)
    assert server.connections == (2 if framing == "close" else 1)


def test_exact_bytes_of_a_chunked_answer(server):
    """A chunk a piece and the last chunk, each a packet; the head before them."""
    server.body([b"abc", b"0123456789abcdef"], framing="chunked", status=599)
    got, end = wire(server, wait=0.1)
    head = b"HTTP/1.1 599 Unknown\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert got == head + b"3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"
    assert [size for _, size in server.requests[0].sent] == [len(head), 8, 22, 5]
    assert end == "open"


def test_small_answer_is_one_packet(server):
    """Head and body of an answer in one piece leave together."""
    server.json({})
    got, _ = wire(server, wait=0.1)
    assert got == b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    assert [size for _, size in server.requests[0].sent] == [len(got)]


def test_gzip_pieces_can_be_read_as_they_come(server):
    """Each piece of a compressed stream is whole before the next one is sent."""
    server.body([b"first", b"second"], framing="gzip", gap=30.0)
    with open_socket(server) as sock:
        sock.sendall(request_bytes())
        got = read_until(sock, b"\r\n\r\n")
        while got.count(b"\r\n") < 6:  # the head's five and its chunk's size
            got += sock.recv(1000)
        chunk = got.split(b"\r\n\r\n", 1)[1].split(b"\r\n", 1)[1]
        assert zlib.decompressobj(31).decompress(chunk) == b"first"


@pytest.mark.parametrize("split, sizes", [(3, [3, 3, 3, 1]), ([1, 4, 4, 99], [1, 3, 6]), (50, None), ([], None)])
def test_split_cuts_the_body_into_packets(server, split, sizes):
    """A number cuts at each multiple, a list at its offsets, and the bytes stay the same."""
    server.body(b"0123456789", split=split)
    assert ask(server).body == b"0123456789"
    packets = [size for _, size in server.requests[0].sent]
    assert packets[1:] == sizes if sizes else len(packets) == 1


def test_split_cuts_the_framed_bytes(server):
    """A chunk's size line can be torn."""
    server.body(b"abc", framing="chunked", split=1)
    assert ask(server).body == b"abc"
    assert [size for _, size in server.requests[0].sent][1:] == [1] * len(b"3\r\nabc\r\n0\r\n\r\n")


CHUNKED_CUT = b"4\r\n0123\r\n2\r\n45\r\n"


@pytest.mark.parametrize(
    "framing, end, body, ended",
    [
        ("length", "", b"012345", "eof"),
        ("length", "close", b"012345", "eof"),
        ("length", "reset", b"012345", "reset"),
        ("length", "stall", b"012345", "open"),
        ("chunked", "", CHUNKED_CUT + b"0\r\n\r\n", "open"),
        ("chunked", "close", CHUNKED_CUT, "eof"),
        ("chunked", "reset", CHUNKED_CUT, "reset"),
        ("chunked", "stall", CHUNKED_CUT, "open"),
        ("close", "", b"012345", "eof"),
    ],
)
@beside
def test_truncated_bodies(server, framing, end, body, ended):
    """The body stops after so many bytes and ends as `end` says; the head has promised all of it."""
    server.body([b"0123", b"4567", b"89"], framing=framing, truncate=6, end=end)
    got, how = wire(server, wait=0.15)
    head, _, rest = got.partition(b"\r\n\r\n")
    assert (rest, how) == (body, ended)
    assert (b"Content-Length: 10" in head) == (framing == "length")


@pytest.mark.parametrize("framing", ["gzip", "gzip-length"])
def test_truncated_gzip_lacks_its_trailer(server, framing):
    """A compressed body that is cut ends without the trailer that proves it whole."""
    server.body([b"0123", b"4567"], framing=framing, truncate=6, end="close")
    got, how = wire(server)
    data = got.partition(b"\r\n\r\n")[2]
    if framing == "gzip":
        data = b"".join(part[1] for part in chunks(data))
    unpacker = zlib.decompressobj(31)
    assert unpacker.decompress(data) == b"012345"
    assert (unpacker.eof, how) == (False, "eof")


def chunks(data):
    """The (size, bytes) of each chunk."""
    while data:
        size, data = data.split(b"\r\n", 1)
        yield int(size, 16), data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]


@pytest.mark.parametrize("end, ended", [("close", "eof"), ("reset", "reset"), ("stall", "open")])
@beside
def test_ends_after_a_whole_body(server, end, ended):
    """A body that is complete may still be followed by a FIN, a RST or silence."""
    server.json([1], end=end)
    got, how = wire(server, wait=0.15)
    assert got.endswith(b"\r\n\r\n[1]")
    assert how == ended


def test_headers_are_added_replaced_and_removed(server):
    """A new name is added, a default one replaced or (None) removed, a repeated one sent twice."""
    server.json({}, headers={"X-A": "1", "content-type": "text/html"})
    server.json({}, headers=[("Set-Cookie", "a"), ("Set-Cookie", "b"), ("Content-Type", None)])
    with connected(server) as say:
        first, second = say().headers, say().headers
    assert first.items() == [("Content-Length", "2"), ("X-A", "1"), ("content-type", "text/html")]
    assert second.items() == [("Content-Length", "2"), ("Set-Cookie", "a"), ("Set-Cookie", "b")]


@pytest.mark.parametrize("headers", [{"Connection": "Close"}, {"Content-Length": None}])
def test_headers_that_end_the_connection(server, headers):
    """A head that says close, or leaves nothing to tell the body's end, is followed by a close."""
    server.json([1], headers=headers)
    got, how = wire(server)
    assert got.endswith(b"\r\n\r\n[1]")
    assert how == "eof"


@beside
def test_delay_and_gap(server):
    """The head waits for `delay`, each piece but the first for `gap`, the last chunk for nothing."""
    server.stream(["a"], delay=0.1, gap=0.1)
    ask(server, {"stream": True})
    request = server.requests[0]
    times = [when - request.time for when, _ in request.sent]
    waits = [later - sooner for sooner, later in zip(times, times[1:])]
    assert within(0.1, request.time, 0.5, request.sent[0][0])
    assert [wait >= 0.1 for wait in waits] == [False, True, True, True, False]
    assert within(0, request.time + times[0], 1, request.time + times[-1])


def test_gaps_below_a_millisecond(server):
    """Short pauses are not rounded up to a socket's milliseconds."""
    server.raw(*[b"x", 0.0002] * 100)
    wire(server)
    times = [when for when, _ in server.requests[0].sent]
    waits = sorted(later - sooner for sooner, later in zip(times, times[1:]))
    assert 0.0002 <= waits[0] < 0.0009


def test_raw_is_the_exact_wire(server):
    """Bytes and pauses as written, and a close after the last."""
    server.raw(b"HTTP/1.1 200 ", 0.05, b"OK\r\n", 0, b"\r\n", times=2)
    assert [wire(server) for _ in range(2)] == [(b"HTTP/1.1 200 OK\r\n\r\n", "eof")] * 2
    sent = server.requests[0].sent
    assert [size for _, size in sent] == [13, 4, 2]
    assert sent[1][0] - sent[0][0] >= 0.05


@pytest.mark.parametrize(
    "steps, ended",
    [([], "eof"), ([testing.CLOSE], "eof"), ([testing.RESET], "reset"), ([testing.STALL], "open"), ([b"", 30], "open")],
)
@beside
def test_raw_ends(server, steps, ended):
    """A FIN, a RST, or silence for as long as the client stays."""
    server.raw(b"x", *steps)
    assert wire(server, wait=0.15) == (b"x", ended)
    assert idle(server, 0.5)


def test_reset_without_a_byte(server):
    """The connection can break before the answer's first byte."""
    server.raw(testing.RESET)
    assert wire(server) == (b"", "reset")


# ----------------------------------------------------------------------------------------------------- what it records


def test_request_as_it_came_in(server):
    """Method, path with query, headers in any case, body, arrival time and connection number."""
    server.reply("x")
    before = time.monotonic()
    body = b'{"model": "m"}'
    data = request_bytes(body, CHAT + "?a=b", "X-Key:  abc ", "X-Two: 1", "x-two: 2", "nonsense", "Connection: close")
    wire(server, data)
    (request,) = server.requests
    assert (request.method, request.path, request.version) == ("POST", CHAT + "?a=b", "HTTP/1.1")
    assert (request.headers["x-key"], request.headers.get("X-KEY")) == ("abc", "abc")
    assert request.headers["X-Two"] == "1, 2"
    assert "x-none" not in request.headers
    assert request.headers.get("x-none") is None
    with pytest.raises(KeyError):
        request.headers["x-none"]
    assert list(request.headers) == ["host", "content-length", "x-key", "x-two", "connection"]
    assert (len(request.headers), repr(request.headers)) == (5, repr(dict(request.headers)))
    assert (request.body, request.json) == (body, {"model": "m"})
    assert request.head + request.body == data
    assert before <= request.time <= request.sent[0][0] <= time.monotonic()
    assert request.connection == 1
    assert repr(request) == "<Request POST /v1/chat/completions?a=b, 14 bytes>"


def test_chunked_request_body(server):
    """A request may come in chunks, with extensions and trailers, and byte by byte."""
    server.reply("x", times=2)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"
    data = head + b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: 1\r\n\r\n"
    with open_socket(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for position in range(len(data)):
            sock.sendall(data[position : position + 1])
        read_until(sock, b"}}")
        sock.sendall(data)
        read_until(sock, b"}}")
    assert [request.body for request in server.requests] == [b"hello world"] * 2


def test_large_request_body(server):
    """Ten megabytes arrive whole, and in no time that grows with the square."""
    server.reply("x")
    body = b"x" * 10_000_000
    started = time.monotonic()
    wire(server, request_bytes(body, CHAT, "Connection: close"))
    assert within(0, started, 2)
    assert server.requests[0].body == body


def test_pipelined_requests_are_answered_in_order(server):
    """What comes while an answer is under way is kept for the next."""
    server.body([b"a", b"b"], gap=0.05)
    server.body(b"second", end="close")
    with open_socket(server) as sock:
        sock.sendall(request_bytes())
        read_until(sock, b"\r\n\r\na")
        sock.sendall(request_bytes())
        got = read_until(sock, b"second")
    assert got.startswith(b"b")
    assert [request.connection for request in server.requests] == [1, 1]


def test_client_that_keeps_sending_does_not_stretch_the_pauses(server):
    """A pause ends when its time is up, however busy the client is."""
    server.raw(*[0.004] * 20, b"x")
    with open_socket(server) as sock:
        sock.sendall(request_bytes())
        assert server.wait_for(1)
        while server.open_connections:
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"y")
    (request,) = server.requests
    assert within(0.08, request.time, 0.5, request.sent[0][0])


@pytest.mark.parametrize("data", [request_bytes(b"{}", CHAT, "connection: Close"), b"GET /x HTTP/1.0\r\n\r\n"])
def test_client_can_ask_for_a_close(server, data):
    """`Connection: close` and HTTP/1.0 are answered, and the connection closed."""
    server.json([1])
    got, how = wire(server, data)
    assert got.endswith(b"[1]")
    assert how == "eof"


@pytest.mark.parametrize(
    "data",
    [b"", b"POST /x HT", b"POST /x HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf", b"nonsense\r\n\r\n",
     b"POST /x HTTP/1.1\r\nContent-Length: ten\r\n\r\n", b"\x16\x03\x01\x00\r\n\r\n"],
)  # fmt: skip
def test_client_that_leaves_early_or_speaks_no_http(server, data):
    """Half a request and nonsense leave no trace, and the next client is served."""
    with open_socket(server) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(10) == b""
    assert server.wait_idle()
    assert server.requests == []
    server.json([1])
    assert ask(server).json == [1]


@pytest.mark.parametrize("script", [{"delay": 30.0}, {"gap": 30.0}, {"end": "stall"}])
@beside
def test_client_that_leaves_during_a_pause_is_noticed(server, script):
    """No connection stays open for a client that is gone: a test can tell that its client has let go."""
    server.body([b"a", b"b"], **script)
    with open_socket(server) as sock:
        sock.sendall(request_bytes())
        assert server.wait_for(1)
        assert not server.wait_idle(0.05)
        assert server.open_connections == 1
    assert idle(server, 0.5)
    assert server.open_connections == 0


def test_client_that_leaves_while_it_is_sent_to(server):
    """A broken pipe ends that connection alone."""
    server.body([b"x" * 1_000_000] * 20)
    with open_socket(server) as sock:
        sock.sendall(request_bytes())
        sock.recv(10)
    assert idle(server)


def test_wait_for(server):
    """True when so many requests have come, also while it waits; False when the time is over."""
    server.json({}, times=None)
    started = time.monotonic()
    assert not server.wait_for(1, timeout=0.05)
    assert within(0.05, started, 1)
    timer = threading.Timer(0.05, ask, [server])
    timer.start()
    assert server.wait_for(1, timeout=5)
    assert within(0, started, 1)
    timer.join()


# ------------------------------------------------------------------------------------------------- its life and its end


def test_dropped_connections_are_stale_for_the_client(server):
    """An idle connection is closed from the server's side, at once after its answer, every time."""
    server.stream(["a", "b"], times=None)
    for _ in range(50):
        with open_socket(server) as sock:
            sock.sendall(request_bytes(b'{"stream": true}'))
            read_until(sock, b"0\r\n\r\n")
            assert server.drop_connections() == 1
            assert sock.recv(10) == b""


def test_busy_connections_are_not_dropped(server):
    """A connection in the midst of an answer is left alone."""
    server.body([b"a", b"b"], gap=0.1)
    with open_socket(server) as sock, open_socket(server) as idle:
        sock.sendall(request_bytes())
        read_until(sock, b"\r\n\r\na")
        while server.connections < 2:
            time.sleep(0.001)
        assert server.drop_connections() == 1
        assert idle.recv(10) == b""
        assert sock.recv(10) == b"b"


@beside
def test_drop_does_not_wait_for_a_client_that_does_not_read(server):
    """A connection whose client takes no bytes is busy, and holds the caller up for a second at most."""
    server.body([b"x" * 1_000_000] * 20)
    with open_socket(server) as sock:
        sock.sendall(request_bytes())
        sock.recv(10)
        started = time.monotonic()
        assert server.drop_connections() == 0
        assert within(0.9, started, 2)


def test_close_cuts_everything_and_leaves_nothing():
    """Whatever the connections do, close() is quick and leaves no thread and no descriptor."""
    before = descriptors()
    server = testing.Server().start()
    server.raw(b"x", testing.STALL)
    server.raw(b"x", 30.0)
    server.body([b"x" * 1_000_000] * 20)
    clients = [open_socket(server) for _ in range(5)]
    for client in clients[:3]:
        client.sendall(request_bytes())
        client.recv(1)
    clients[3].sendall(b"POST /half")
    while server.connections < 5:
        time.sleep(0.001)
    started = time.monotonic()
    server.close()
    assert within(0, started, 0.2)
    assert (server.open_connections, threads()) == (0, [])
    for client in clients:
        client.close()
    assert descriptors() == before


def test_close_twice_and_before_start():
    """close() may be called at any time, any number of times."""
    server = testing.Server()
    server.close()
    server.start()
    server.close()
    server.close()
    with pytest.raises(OSError):
        open_socket(server)


def test_start_again():
    """start() does nothing to a running server, and brings a closed one back with its script."""
    with testing.Server().start() as server:
        port = server.port
        assert server.start().port == port
        server.json([1], times=None)
        ask(server)
    with server:
        assert ask(server).json == [1]
    assert (len(server.requests), server.connections) == (2, 2)


def test_handler_can_close_the_server():
    """A provider that dies in the midst of a request: the client sees its connection close."""
    server = testing.Server().start()
    server.handle(lambda request: server.close())
    assert wire(server) == (b"", "eof")
    assert server.wait_idle()


def test_close_does_not_wait_for_a_handler_for_ever():
    """A function that hangs holds close() up for a second, no more."""
    release = threading.Event()
    server = testing.Server().start()
    server.handle(lambda request: release.wait(10) and None)
    with open_socket(server) as sock:
        sock.sendall(request_bytes())
        assert server.wait_for(1)
        started = time.monotonic()
        server.close()
        assert within(0.9, started, 1.5)
        release.set()
    assert server.wait_idle()
    for thread in threads():
        thread.join(5)


def test_addresses(server):
    """`url` is a base URL, `root` has no path, and the port is a real one."""
    assert server.root == f"http://127.0.0.1:{server.port}"
    assert server.url == server.root + "/v1"
    assert (server.host, server.port > 0, server.connections) == ("127.0.0.1", True, 0)


def test_ipv6():
    """An IPv6 host is bracketed in the URL."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback here")
    with testing.Server(host="::1") as server:
        server.json([6])
        assert server.url == f"http://[::1]:{server.port}/v1"
        assert ask(server).json == [6]


def test_many_small_requests_a_second(server):
    """A keep-alive connection answers at least a thousand small requests a second."""
    server.reply("x", times=None)
    request = request_bytes(b'{"model": "m", "messages": []}')
    with open_socket(server) as sock:
        started = time.monotonic()
        for _ in range(1000):
            sock.sendall(request)
            sock.recv(65536)
        assert within(0, started, 1)
    assert len(server.requests) == 1000


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on descriptors to set")
def test_out_of_descriptors(server):
    """A server that cannot accept for a moment goes on as soon as it can."""
    import resource

    server.json([1], times=2)
    with socket.socket() as first, socket.socket() as second:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with LOOKING:
            next_free = os.dup(0)
            os.close(next_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_free, hard))
        try:
            first.connect((server.host, server.port))  # an accept() that waits already may hold a descriptor for it
            second.connect((server.host, server.port))
            time.sleep(0.05)
            assert server.connections < 2
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for sock in (first, second):
            sock.settimeout(5)
            sock.sendall(request_bytes())
            assert read_until(sock, b"[1]")
    assert server.connections == 2


# ------------------------------------------------------------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def contexts():
    """A server's TLS context and a client's that trusts it."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, client


def tls_answer(server, context, data=None):
    """All bytes of an answer over TLS; an end without the goodbye that TLS asks for raises."""
    got = b""
    with context.wrap_socket(open_socket(server), server_hostname="127.0.0.1", suppress_ragged_eofs=False) as sock:
        sock.sendall(data or request_bytes())
        while True:
            part = sock.recv(65536)
            if not part:
                return got
            got += part


def test_tls(contexts):
    """The same over TLS, with an https URL; a close is a clean one."""
    with testing.Server(contexts[0]) as server:
        server.body([b"a", b"b"], framing="close", gap=0.05)
        assert server.url == f"https://127.0.0.1:{server.port}/v1"
        assert tls_answer(server, contexts[1]).endswith(b"\r\n\r\nab")
        assert server.wait_idle()


def test_tls_reset(contexts):
    """RST over TLS says no goodbye."""
    with testing.Server(contexts[0]) as server:
        server.raw(b"x", testing.RESET)
        with pytest.raises(OSError):
            tls_answer(server, contexts[1])


def test_tls_with_a_client_that_does_not_trust_it(contexts):
    """A handshake that fails, and one that is no TLS, end that connection alone."""
    with testing.Server(contexts[0]) as server:
        with pytest.raises(ssl.SSLError):
            tls_answer(server, ssl.create_default_context())
        assert b"HTTP" not in wire(server)[0]
        assert server.wait_idle()
        assert server.requests == []


def test_tls_close_is_quick(contexts):
    """close() cuts connections that stall or have not shaken hands yet."""
    before = descriptors()
    server = testing.Server(contexts[0]).start()
    server.raw(b"x", testing.STALL)
    silent = open_socket(server)
    with contexts[1].wrap_socket(open_socket(server), server_hostname="127.0.0.1") as sock:
        sock.sendall(request_bytes())
        sock.recv(1)
        started = time.monotonic()
        server.close()
        assert within(0, started, 0.2)
    silent.close()
    assert (server.open_connections, threads(), descriptors()) == (0, [], before)
