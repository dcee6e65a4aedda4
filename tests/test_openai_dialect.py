"""OpenAI's chat completions: the exact JSON sent, and the exact Response read from each body and stream."""
import json
from dataclasses import dataclass

import pytest

from tests import llmlite

ToolCall, Usage = llmlite.ToolCall, llmlite.Usage
FIELDS = ("text", "reasoning", "tool_calls", "finish_reason", "raw_finish_reason", "usage", "model", "id", "citations",
          "message")
HI = {"role": "user", "content": "hi"}
PNG = "data:image/png;base64,iVBORw0KGgo="
PARAMETERS = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"],
              "additionalProperties": False}
ADD = {"type": "function", "function": {"name": "add", "parameters": PARAMETERS, "strict": True}}
CALLS = [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":2}'}},
         {"id": "call_2", "type": "function", "function": {"name": "add", "arguments": '{"a":3}'}}]
USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
DONE = b"data: [DONE]\n\n"


@dataclass
class Point:
    x: int


def double(a: int) -> int:
    """Doubles a number."""
    return 2 * a


@pytest.fixture
def llm(server):
    with llmlite.Client("m", provider="openai", base_url=server.url, api_key="k-123456", retry=None) as llm:
        yield llm


def seen(reply):
    return {name: getattr(reply, name) for name in FIELDS}


# --------------------------------------------------------------------------------------------------------- what is sent

POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
OPEN = {"title": "A point!", "type": "object", "properties": {"x": {"type": "integer"}}}
SENT = {
    "plain": ({}, {"messages": [HI]}),
    "system": ({"system": "s"}, {"messages": [{"role": "system", "content": "s"}, HI]}),
    "system-message": ({"messages": [llmlite.system("s"), HI]}, {"messages": [{"role": "system", "content": "s"}, HI]}),
    "turns": ({"messages": [HI, llmlite.assistant("yes?"), HI]},
              {"messages": [HI, {"role": "assistant", "content": "yes?"}, HI]}),
    "image-data": ({"messages": [llmlite.user("look", images=[b"\x89PNG\r\n\x1a\n"])]}, {"messages": [
        {"role": "user", "content": [{"type": "text", "text": "look"},
                                     {"type": "image_url", "image_url": {"url": PNG}}]}]}),
    "image-url": ({"messages": [llmlite.user("look", images=["https://x.example/a.png"])]}, {"messages": [
        {"role": "user", "content": [{"type": "text", "text": "look"},
                                     {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]}]}),
    "tools": ({"tools": [ADD, {"type": "custom", "custom": {"name": "c"}}, double]}, {"messages": [HI], "tools": [
        ADD, {"type": "custom", "custom": {"name": "c"}},
        {"type": "function", "function": {
            "name": "double", "description": "Doubles a number.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
                           "additionalProperties": False}}}]}),
    "results": ({"messages": [HI, {"role": "assistant", "content": None, "tool_calls": CALLS},
                              llmlite.tool_result("call_1", "4"),
                              llmlite.tool_result("call_2", {"sum": 6}, is_error=True)]},
                {"messages": [HI, {"role": "assistant", "content": None, "tool_calls": CALLS},
                              {"role": "tool", "tool_call_id": "call_1", "content": "4"},
                              {"role": "tool", "tool_call_id": "call_2", "content": '{"sum": 6}'}]}),
    **{f"choice-{choice}": ({"tools": [ADD], "tool_choice": choice},
                            {"messages": [HI], "tools": [ADD], "tool_choice": choice})
       for choice in ("auto", "none", "required")},
    **{f"choice-of-one-{at}": ({"tools": [ADD], "tool_choice": choice},
                               {"messages": [HI], "tools": [ADD],
                                "tool_choice": {"type": "function", "function": {"name": "add"}}})
       for at, choice in enumerate(("add", {"type": "function", "function": {"name": "add"}}))},
    "schema-dict": ({"schema": dict}, {"messages": [HI], "response_format": {"type": "json_object"}}),
    "schema-strict": ({"schema": POINT}, {"messages": [HI], "response_format": {
        "type": "json_schema", "json_schema": {"name": "answer", "schema": POINT, "strict": True}}}),
    "schema-open": ({"schema": OPEN}, {"messages": [HI], "response_format": {
        "type": "json_schema", "json_schema": {"name": "A_point", "schema": OPEN}}}),
    "schema-dataclass": ({"schema": Point}, {"messages": [HI], "response_format": {
        "type": "json_schema", "json_schema": {"name": "Point", "schema": POINT, "strict": True}}}),
    "sampling": ({"temperature": 0.0, "top_p": 0.5, "top_k": 3, "max_tokens": 7, "stop": ["a", "b"], "seed": 0},
                 {"messages": [HI], "temperature": 0.0, "top_p": 0.5, "top_k": 3, "max_completion_tokens": 7,
                  "stop": ["a", "b"], "seed": 0}),
    "effort": ({"reasoning_effort": "low"}, {"messages": [HI], "reasoning_effort": "low"}),
    "extra": ({"schema": POINT, "extra": {"verbosity": "low", "response_format": {"type": "text"}}},
              {"messages": [HI], "verbosity": "low", "response_format": {
                  "type": "text", "json_schema": {"name": "answer", "schema": POINT, "strict": True}}}),
}


@pytest.mark.parametrize("name", SENT)
def test_request(server, llm, name):
    """The whole body of a chat and of a stream, its path and its headers."""
    args, body = SENT[name]
    server.reply('{"x": 1}', times=2)
    llm.chat(**{"messages": "hi", **args})
    list(llm.stream(**{"messages": "hi", **args}))
    chat, stream = server.requests
    assert chat.json == {"model": "m", **body}
    assert stream.json == {"model": "m", **body, "stream": True, "stream_options": {"include_usage": True}}
    for request in server.requests:
        assert (request.method, request.path) == ("POST", "/v1/chat/completions")
        assert request.headers["authorization"] == "Bearer k-123456"
        assert request.headers["content-type"] == "application/json"


# --------------------------------------------------------------------------------------------------------- what is read


def body(message, finish, **more):
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "served",
            "service_tier": "default", "system_fingerprint": None,
            "choices": [{"index": 0, "finish_reason": finish, "logprobs": None,
                         "message": {"role": "assistant", "content": None, "refusal": None, **message}}],
            "usage": USAGE, **more}


def chunk(delta=None, finish=None, **more):
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "served",
            "choices": choices, "usage": None, **more}


def reply(**fields):
    return {"text": "", "reasoning": "", "tool_calls": [], "finish_reason": "stop", "raw_finish_reason": "stop",
            "usage": Usage(9, 5), "model": "served", "id": "chatcmpl-1", "citations": [], **fields}


def calling(*calls, text=None):
    return {"role": "assistant", "content": text, "tool_calls": [
        {"id": id, "type": "function", "function": {"name": name, "arguments": raw}} for id, name, raw in calls]}


def fragment(index, arguments, id=None, name=None):
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    return {"tool_calls": [{"index": index, **({"id": id, "type": "function"} if id else {}), "function": function}]}


ROLE = {"role": "assistant", "content": "", "refusal": None}
DETAILED = {**USAGE, "completion_tokens": 25, "total_tokens": 34,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 0, "accepted_prediction_tokens": 0,
                                          "rejected_prediction_tokens": 0}}
CITED = [{"type": "url_citation", "url_citation": {"url": "https://x.example", "title": "X"}}]
CASES = {
    "text": (
        body({"content": "Hi there", "annotations": []}, "stop"),
        [chunk(ROLE), chunk({"content": "Hi"}), chunk({"content": " there"}), chunk({}, "stop"), chunk(usage=USAGE)],
        reply(text="Hi there", message={"role": "assistant", "content": "Hi there"})),
    "nothing": (
        body({"content": ""}, "stop"),
        [chunk(ROLE), chunk({}, "stop"), chunk(usage=USAGE)],
        reply(message={"role": "assistant", "content": ""})),
    "details": (
        body({"content": "Hi"}, "length", usage=DETAILED),
        [chunk(ROLE, obfuscation="x"), chunk({"content": "Hi"}, obfuscation="yz"), chunk({}, "length"),
         chunk(usage=DETAILED), chunk(moderation={"flagged": False})],
        reply(text="Hi", finish_reason="length", raw_finish_reason="length", usage=Usage(9, 25, 4, 20),
              message={"role": "assistant", "content": "Hi"})),
    "null-details": (
        body({"content": "Hi"}, "stop", usage={**USAGE, "prompt_tokens_details": None,
                                               "completion_tokens_details": None}),
        [chunk({"content": "Hi"}), chunk({}, "stop"),
         chunk(usage={**USAGE, "prompt_tokens_details": None, "completion_tokens_details": None})],
        reply(text="Hi", message={"role": "assistant", "content": "Hi"})),
    "filtered": (
        body({"content": "Hi"}, "content_filter"),
        [chunk(ROLE), chunk({"content": "Hi"}), chunk({}, "content_filter"), chunk(usage=USAGE)],
        reply(text="Hi", finish_reason="content_filter", raw_finish_reason="content_filter",
              message={"role": "assistant", "content": "Hi"})),
    "refusal": (
        body({"refusal": "I cannot."}, "stop"),
        [chunk(ROLE), chunk({"refusal": "I "}), chunk({"refusal": "cannot."}), chunk({}, "stop"), chunk(usage=USAGE)],
        reply(text="I cannot.", finish_reason="content_filter",
              message={"role": "assistant", "content": "I cannot."})),
    "tool": (
        body({"annotations": [], "tool_calls": [{"id": "call_1", "type": "function",
                                                 "function": {"name": "f", "arguments": '{"x":1}'}}]}, "tool_calls"),
        [chunk({"role": "assistant", "content": None, "tool_calls": [
            {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
         chunk(fragment(0, '{"x"')), chunk(fragment(0, ":1}")), chunk({}, "tool_calls"), chunk(usage=USAGE)],
        reply(tool_calls=[ToolCall("call_1", "f", {"x": 1}, '{"x":1}')], finish_reason="tool_calls",
              raw_finish_reason="tool_calls", message=calling(("call_1", "f", '{"x":1}')))),
    "two-tools": (
        body({"content": "Let me see.", "tool_calls": CALLS}, "tool_calls"),
        [chunk(ROLE), chunk({"content": "Let me see."}), chunk(fragment(0, "", "call_1", "add")),
         chunk(fragment(1, '{"a"', "call_2", "add")), chunk(fragment(0, '{"a":2}')), chunk(fragment(1, ":3}")),
         chunk({}, "tool_calls"), chunk(usage=USAGE)],
        reply(text="Let me see.", finish_reason="tool_calls", raw_finish_reason="tool_calls",
              tool_calls=[ToolCall("call_1", "add", {"a": 2}, '{"a":2}'),
                          ToolCall("call_2", "add", {"a": 3}, '{"a":3}')],
              message={"role": "assistant", "content": "Let me see.", "tool_calls": CALLS})),
    "no-arguments": (
        body({"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]},
             "tool_calls"),
        [chunk(fragment(0, "", "c", "f")), chunk({}, "tool_calls"), chunk(usage=USAGE)],
        reply(tool_calls=[ToolCall("c", "f", {}, "")], finish_reason="tool_calls", raw_finish_reason="tool_calls",
              message=calling(("c", "f", "")))),
    "function-call": (
        body({"function_call": {"name": "f", "arguments": '{"x":1}'}}, "function_call"),
        [chunk({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}}),
         chunk({"function_call": {"arguments": '{"x":'}}), chunk({"function_call": {"arguments": "1}"}}),
         chunk({}, "function_call"), chunk(usage=USAGE)],
        reply(tool_calls=[ToolCall("call_0", "f", {"x": 1}, '{"x":1}')], finish_reason="tool_calls",
              raw_finish_reason="function_call", message=calling(("call_0", "f", '{"x":1}')))),
    "citations": (
        body({"content": "Hi", "annotations": CITED}, "stop"),
        [chunk(ROLE), chunk({"content": "Hi"}), chunk({"annotations": CITED}), chunk({}, "stop"), chunk(usage=USAGE)],
        reply(text="Hi", citations=CITED, message={"role": "assistant", "content": "Hi"})),
    "unknown-word": (
        body({"content": "Hi"}, "novelty"),
        [chunk(ROLE), chunk({"content": "Hi"}), chunk({}, "novelty"), chunk(usage=USAGE)],
        reply(text="Hi", finish_reason="other", raw_finish_reason="novelty",
              message={"role": "assistant", "content": "Hi"})),
}


@pytest.mark.parametrize("name", CASES)
def test_reply(server, llm, name):
    """A body and the stream of it give the same Response, field for field; the pieces make up its text."""
    whole, chunks, want = CASES[name]
    server.json(whole)
    server.sse([*chunks, DONE])
    assert seen(llm.chat("hi")) == want
    stream = llm.stream("hi")
    events = list(stream.events())
    assert seen(stream.response) == want
    assert "".join(event.text for event in events if event.type == "text") == want["text"]
    assert [event.tool_call for event in events if event.type == "tool_call"] == want["tool_calls"]
    assert [event.usage for event in events if event.type == "usage"] == [want["usage"]]
    assert events[-1].finish_reason == want["finish_reason"]


def test_a_call_cut_by_the_limit(server, llm):
    """Arguments torn by the token limit: the call is there, says why it is invalid, and keeps what came."""
    torn = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x'}}
    server.json(body({"tool_calls": [torn]}, "length"))
    server.sse([chunk(fragment(0, '{"x', "c", "f")), chunk({}, "length"), DONE])
    for answer in (llm.chat("hi"), drained(llm.stream("hi"))):
        (call,) = answer.tool_calls
        assert (call.name, call.arguments, call.raw_arguments) == ("f", {}, '{"x')
        assert call.invalid.startswith("not JSON")
        assert (answer.finish_reason, answer.raw_finish_reason, answer.truncated) == ("length", "length", True)


def drained(stream):
    list(stream.events())
    return stream.response


CUSTOM = {"id": "call_1", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}


def test_a_custom_tool_call(server, llm):
    """A custom tool's input is text: it is read from a body and from a stream's fragments."""
    server.json(body({"tool_calls": [CUSTOM]}, "tool_calls"))
    server.sse([chunk({"tool_calls": [{"index": 0, "id": "call_1", "type": "custom",
                                       "custom": {"name": "shell", "input": ""}}]}),
                chunk({"tool_calls": [{"index": 0, "custom": {"input": "ls"}}]}),
                chunk({"tool_calls": [{"index": 0, "custom": {"input": " -l"}}]}), chunk({}, "tool_calls"), DONE])
    whole, streamed = llm.chat("hi"), drained(llm.stream("hi"))
    assert whole.tool_calls == streamed.tool_calls == [ToolCall("call_1", "shell", {"input": "ls -l"}, "ls -l")]
    assert whole.message == streamed.message


def test_a_custom_tool_call_goes_back_as_one(server, llm):
    """The history tells the provider of a custom call what it had said: a custom call, not a function's."""
    server.json(body({"tool_calls": [CUSTOM]}, "tool_calls"))
    server.reply("ok")
    message = json.loads(json.dumps(llm.chat("hi").message))
    llm.chat([HI, message, llmlite.tool_result("call_1", "total 0")])
    assert server.requests[1].json["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [CUSTOM]},
        {"role": "tool", "tool_call_id": "call_1", "content": "total 0"}]


def test_the_first_choice_is_the_reply(server, llm):
    """Of several choices the one with index 0 is the reply, in whatever order their chunks come."""
    def part(index, delta, finish=None):
        return {**chunk(), "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}

    server.sse([part(1, {"role": "assistant", "content": "b"}), part(0, {"role": "assistant", "content": "a"}),
                part(1, {"content": "B"}), part(0, {"content": "A"}), part(1, {}, "length"), part(0, {}, "stop"),
                chunk(usage=USAGE), DONE])
    stream = llm.stream("hi", extra={"n": 2})
    assert "".join(stream) == stream.response.text == "aA"
    assert stream.response.finish_reason == "stop"


def test_reasoning_tokens_are_in_the_total(server, llm):
    """Usage adds up to the provider's own total."""
    server.json(body({"content": "Hi"}, "stop", usage=DETAILED))
    assert llm.chat("hi").usage.total_tokens == DETAILED["total_tokens"]


@pytest.mark.parametrize("late", [
    b'data: {"error":{"message":"overloaded","type":"server_error","param":null,"code":null}}\n\n',
    b'event: error\ndata: {"error":{"message":"overloaded","type":"server_error"}}\n\n',
])
def test_an_error_in_the_stream(server, llm, late):
    """An error event after the first one ends the stream in a StreamError that keeps what had come."""
    server.sse([chunk(ROLE), chunk({"content": "Hi"}), late, DONE])
    with pytest.raises(llmlite.StreamError, match="overloaded") as caught:
        list(llm.stream("hi"))
    assert caught.value.response.text == "Hi"
    assert isinstance(caught.value.last_error, llmlite.ServerError)
    assert caught.value.last_error.status_code == 500


def rows(*words):
    return [{"token": word, "logprob": -0.5, "bytes": list(word.encode()), "top_logprobs": []} for word in words]


def test_a_stream_keeps_what_stands_beside_the_text(server, llm):
    """Log probabilities, token ids and the last of anything else are in `raw` of a stream as they are in a body's."""
    def part(delta, finish=None, **more):
        return {**chunk(), "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]}

    more = {"logprobs": {"content": rows("He", "llo"), "refusal": None}, "token_ids": [7, 8], "stop_reason": 2,
            "content_filter_results": {"hate": {"filtered": False}}}
    whole = body({}, "stop")
    whole["choices"][0].update(more, message={"role": "assistant", "content": "Hello"})
    server.json(whole)
    server.sse([part({"role": "assistant", "content": ""}, logprobs=None, token_ids=None, stop_reason=None),
                part({"content": "He"}, logprobs={"content": rows("He"), "refusal": None}, token_ids=[7]),
                part({"content": "llo"}, logprobs={"content": rows("llo"), "refusal": None}, token_ids=[8]),
                part({}, "stop", logprobs=None, content_filter_results={"hate": {"filtered": False}}, stop_reason=2),
                DONE])
    answer, streamed = llm.chat("hi"), drained(llm.stream("hi"))
    assert streamed.raw["choices"] == answer.raw["choices"]
    assert streamed.logprobs == answer.logprobs == rows("He", "llo")


@pytest.mark.parametrize("extra, kept", [
    ({"token_ids": [7]}, {"token_ids": [7, 7]}), ({"token_ids": [7], "finish_reason": None}, {"token_ids": [7, 7]}),
    ({"content_filter_results": {"hate": {}}, "finish_reason": None}, {"content_filter_results": {"hate": {}}})])
def test_a_stream_of_servers_that_leave_nulls_out(server, llm, extra, kept):
    """Nor is anything lost where a chunk has no null for what there is not."""
    part = {**chunk(), "choices": [{"index": 0, "delta": {"content": "a"}, **extra}]}
    server.sse([part, part, chunk({}, "stop"), DONE])
    assert drained(llm.stream("hi")).raw["choices"][0] == {
        "index": 0, "message": {"content": "aa"}, "finish_reason": "stop", **kept}


def test_a_stream_without_log_probabilities(server, llm):
    """Where they were not asked for there are none."""
    server.sse([chunk({"content": "Hello"}), chunk({}, "stop"), DONE])
    assert drained(llm.stream("hi")).logprobs == []


@pytest.mark.parametrize("finish, words", [("length", "cut at the token limit"),
                                           ("content_filter", "cut by the content filter")])
def test_an_answer_cut_in_its_calls(server, llm, finish, words):
    """What cuts the answer is its finish reason, and the last call is invalid, though its arguments be JSON."""
    calls = [{"index": at, "id": f"c{at}", "type": "function", "function": {"name": "f", "arguments": arguments}}
             for at, arguments in enumerate(['{"x": 1}', '{"x": 2}', ""])]
    for count in (1, 2, 3):
        server.json(body({"tool_calls": calls[:count]}, finish))
        server.sse([chunk({"tool_calls": calls[:count]}), chunk({}, finish), DONE])
        for answer in (llm.chat("hi"), drained(llm.stream("hi"))):
            assert (answer.finish_reason, answer.truncated) == (finish, finish == "length")
            assert [call.invalid for call in answer.tool_calls] == [None] * (count - 1) + [words]
