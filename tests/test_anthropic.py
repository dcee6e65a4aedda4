"""Anthropic's Messages: the exact JSON sent, the exact Response read, thinking that goes back byte for byte."""
import json
from dataclasses import dataclass

import pytest

from tests import llmlite

ToolCall, Usage = llmlite.ToolCall, llmlite.Usage
FAST = llmlite.RetryPolicy(max_retries=2, backoff=0.001, rate_limit_max_retries=2, rate_limit_backoff=0.001)
FIELDS = ("text", "reasoning", "tool_calls", "finish_reason", "raw_finish_reason", "usage", "model", "id", "citations",
          "message")
HI = {"role": "user", "content": "hi"}
PARAMETERS = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"],
              "additionalProperties": False}
ADD = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": PARAMETERS,
                                        "strict": True}}
TOOL = {"name": "add", "description": "Adds.", "input_schema": PARAMETERS}
CALLS = [{"id": "toolu_1", "type": "function", "function": {"name": "add", "arguments": '{"a":2}'}},
         {"id": "toolu_2", "type": "function", "function": {"name": "add", "arguments": '{"a":3}'}}]
USES = [{"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 2}},
        {"type": "tool_use", "id": "toolu_2", "name": "add", "input": {"a": 3}}]
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}


@dataclass
class Point:
    x: int


def client(server, retry=None, **options):
    return llmlite.Client("m", provider="anthropic", base_url=server.root, api_key="k-123456", retry=retry, **options)


@pytest.fixture
def llm(server):
    with client(server) as llm:
        yield llm


def seen(reply):
    return {name: getattr(reply, name) for name in FIELDS}


def drained(stream):
    list(stream.events())
    return stream.response


# --------------------------------------------------------------------------------------------------------- what is sent

BASE = {"model": "m", "max_tokens": 4096, "messages": [HI]}
RESULTS = [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "4"},
           {"type": "tool_result", "tool_use_id": "toolu_2", "content": "boom", "is_error": True}]
CALLING = [HI, {"role": "assistant", "content": None, "tool_calls": CALLS}, llmlite.tool_result("toolu_1", "4"),
           llmlite.tool_result("toolu_2", "boom", is_error=True)]
CALLED = [HI, {"role": "assistant", "content": USES}]
SENT = {
    "plain": ({}, {}),
    "system": ({"system": "s"}, {"system": "s"}),
    "system-messages": ({"messages": [llmlite.system("a"), {"role": "developer", "content": "b"}, HI], "system": "s"},
                        {"system": "s\n\na\n\nb"}),
    "system-blocks": ({"messages": [{"role": "system", "content": [
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}, HI], "system": "s"},
        {"system": [{"type": "text", "text": "s"},
                    {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}),
    "turns": ({"messages": [HI, llmlite.assistant("yes?"), HI]},
              {"messages": [HI, {"role": "assistant", "content": "yes?"}, HI]}),
    "image-data": ({"messages": [llmlite.user("look", images=[b"\x89PNG\r\n\x1a\n"])]}, {"messages": [
        {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image", "source": {
            "type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}]}]}),
    "image-url": ({"messages": [llmlite.user("look", images=["https://x.example/a.png"])]}, {"messages": [
        {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image", "source": {
            "type": "url", "url": "https://x.example/a.png"}}]}]}),
    "own-blocks": ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "text"}}]}]},
                   {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "text"}}]}]}),
    "tools": ({"tools": [ADD, {"type": "web_search_20260209", "name": "web_search"},
                         {"type": "function", "function": {"name": "now"}}]},
              {"tools": [TOOL, {"type": "web_search_20260209", "name": "web_search"},
                         {"name": "now", "input_schema": {"type": "object", "properties": {}}}]}),
    "results": ({"messages": CALLING}, {"messages": [*CALLED, {"role": "user", "content": RESULTS}]}),
    "results-then-text": ({"messages": [*CALLING, {"role": "user", "content": "continue"}]}, {"messages": [
        *CALLED, {"role": "user", "content": [*RESULTS, {"type": "text", "text": "continue"}]}]}),
    "results-then-parts": ({"messages": [*CALLING, llmlite.user("look", images=["https://x.example/a.png"])]},
                           {"messages": [*CALLED, {"role": "user", "content": [
                               *RESULTS, {"type": "text", "text": "look"},
                               {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}]}]}),
    "text-and-calls": ({"messages": [HI, {"role": "assistant", "content": "Let me see.", "tool_calls": CALLS[:1]},
                                     llmlite.tool_result("toolu_1", "4")]},
                       {"messages": [HI, {"role": "assistant", "content": [
                           {"type": "text", "text": "Let me see."}, USES[0]]},
                           {"role": "user", "content": RESULTS[:1]}]}),
    **{f"choice-{choice}": ({"tools": [ADD], "tool_choice": choice}, {"tools": [TOOL], "tool_choice": {"type": told}})
       for choice, told in (("auto", "auto"), ("none", "none"), ("required", "any"))},
    **{f"choice-of-one-{at}": ({"tools": [ADD], "tool_choice": choice},
                               {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "add"}})
       for at, choice in enumerate(("add", {"type": "function", "function": {"name": "add"}},
                                    {"type": "tool", "name": "add"}))},
    "one-call-at-most": ({"tools": [ADD], "tool_choice": "auto",
                          "extra": {"tool_choice": {"disable_parallel_tool_use": True}}},
                         {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}),
    "schema-dict": ({"schema": dict, "system": "s"},
                    {"system": "s\n\nAnswer with one JSON object and nothing else."}),
    "schema": ({"schema": POINT}, {"output_config": {"format": {"type": "json_schema", "schema": POINT}}}),
    "schema-dataclass": ({"schema": Point, "reasoning_effort": "high"}, {"output_config": {
        "effort": "high", "format": {"type": "json_schema", "schema": POINT}}}),
    "sampling": ({"temperature": 0.0, "top_p": 0.5, "top_k": 3, "max_tokens": 7, "stop": ["a", "b"]},
                 {"temperature": 0.0, "top_p": 0.5, "top_k": 3, "max_tokens": 7, "stop_sequences": ["a", "b"]}),
    "one-stop": ({"stop": "END"}, {"stop_sequences": ["END"]}),
    "effort": ({"reasoning_effort": "low"}, {"output_config": {"effort": "low"}}),
    "no-effort": ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
    "extra": ({"reasoning_effort": "low", "extra": {
        "thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}, "metadata": {"user_id": "u"}}},
        {"output_config": {"effort": "max"}, "thinking": {"type": "adaptive"}, "metadata": {"user_id": "u"}}),
}


@pytest.mark.parametrize("name", SENT)
def test_request(server, llm, name):
    """The whole body of a chat and of a stream, its path and its headers."""
    args, body = SENT[name]
    server.reply('{"x": 1}', times=2)
    llm.chat(**{"messages": "hi", **args})
    list(llm.stream(**{"messages": "hi", **args}))
    chat, stream = server.requests
    assert chat.json == {**BASE, **body}
    assert stream.json == {**BASE, **body, "stream": True}
    for request in server.requests:
        assert (request.method, request.path) == ("POST", "/v1/messages")
        assert request.headers["x-api-key"] == "k-123456"
        assert request.headers["anthropic-version"] == "2023-06-01"
        assert request.headers["content-type"] == "application/json"
        assert "authorization" not in request.headers


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/"])
def test_the_address_with_and_without_v1(server, tail):
    """/v1 in the base URL is not doubled."""
    server.reply("ok")
    llmlite.Client("m", provider="anthropic", base_url=server.root + tail, api_key="k").chat("hi")
    assert server.requests[0].path == "/v1/messages"


def test_another_version(server):
    """The version and betas are headers that can be set."""
    server.reply("ok")
    client(server, headers={"Anthropic-Version": "2026-10-21", "anthropic-beta": "a,b"}).chat("hi")
    headers = server.requests[0].headers
    assert (headers["anthropic-version"], headers["anthropic-beta"]) == ("2026-10-21", "a,b")


def test_seed_is_refused(server, llm):
    """There is no seed: asking for one is an error, not a silence."""
    with pytest.raises(llmlite.ConfigurationError, match="seed"):
        llm.chat("hi", seed=1)
    assert server.requests == []


# --------------------------------------------------------------------------------------------------------- what is read

USAGE = {"input_tokens": 10, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 90,
         "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 0}, "output_tokens": 25,
         "output_tokens_details": {"thinking_tokens": 8}, "service_tier": "standard"}
COUNTED = Usage(103, 25, 90, 8)
FIRST = {**USAGE, "output_tokens": 1, "output_tokens_details": {"thinking_tokens": 0}}


def body(*blocks, reason="end_turn", **more):
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "served", "content": list(blocks),
            "stop_reason": reason, "stop_sequence": None, "usage": USAGE, **more}


def event(kind, **fields):
    return kind, {"type": kind, **fields}


def start(**more):
    return event("message_start", message={**body(reason=None), "usage": FIRST, **more})


def block(index, opened, *deltas):
    yield event("content_block_start", index=index, content_block=opened)
    for delta in deltas:
        yield event("content_block_delta", index=index, delta=delta)
    yield event("content_block_stop", index=index)


def text_block(index, *pieces):
    return block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in pieces))


def end(reason="end_turn", usage=USAGE, **more):
    return [event("message_delta", delta={"stop_reason": reason, "stop_sequence": None, **more},
                  usage={name: usage[name] for name in ("output_tokens", "output_tokens_details") if name in usage}),
            event("message_stop")]


def reply(**fields):
    return {"text": "", "reasoning": "", "tool_calls": [], "finish_reason": "stop", "raw_finish_reason": "end_turn",
            "usage": COUNTED, "model": "served", "id": "msg_1", "citations": [], **fields}


def said(text, *blocks, calls=()):
    """The message of the history; `blocks` are what must go back verbatim."""
    message = {"role": "assistant", "content": text}
    message.update({"tool_calls": list(calls)} if calls else {})
    return {**message, "llmlite": {"anthropic": list(blocks)}} if blocks else message


def use(index, id, *pieces):
    return block(index, {"type": "tool_use", "id": id, "name": "add", "input": {}},
                 *({"type": "input_json_delta", "partial_json": piece} for piece in pieces))


PING = event("ping")
THINKING = {"type": "thinking", "thinking": "hm, so", "signature": "c2ln/b64+=="}
OMITTED = {"type": "thinking", "thinking": "", "signature": "b21pdHRlZA=="}
REDACTED = {"type": "redacted_thinking", "data": "cmVkYWN0ZWQ="}
CITED = {"type": "char_location", "cited_text": "sky", "document_index": 0, "start_char_index": 0, "end_char_index": 3}
SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "sky"}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [
    {"type": "web_search_result", "url": "https://x.example", "encrypted_content": "ZW5j"}]}
READ = [ToolCall("toolu_1", "add", {"a": 2}, '{"a": 2}'), ToolCall("toolu_2", "add", {"a": 3}, '{"a": 3}')]
TOLD = [{**call, "function": {"name": "add", "arguments": read.raw_arguments}} for call, read in zip(CALLS, READ)]
CASES = {
    "text": (body({"type": "text", "text": "Hi there"}), [start(), PING, *text_block(0, "Hi", " there"), *end()],
             reply(text="Hi there", message=said("Hi there"))),
    "nothing": (body(), [start(), *end()], reply(message=said(""))),
    "stop-sequence": (
        body({"type": "text", "text": "Hi"}, reason="stop_sequence", stop_sequence="END"),
        [start(), *text_block(0, "Hi"), *end("stop_sequence", stop_sequence="END")],
        reply(text="Hi", raw_finish_reason="stop_sequence", message=said("Hi"))),
    "thinking": (
        body(THINKING, REDACTED, {"type": "text", "text": "Hi"}),
        [start(), *block(0, {"type": "thinking", "thinking": "", "signature": ""}, {
            "type": "thinking_delta", "thinking": "hm, "}, {"type": "thinking_delta", "thinking": "so"}, {
            "type": "signature_delta", "signature": "c2ln/b64+=="}), *block(1, REDACTED), *text_block(2, "Hi"), *end()],
        reply(text="Hi", reasoning="hm, so", message=said("Hi", THINKING, REDACTED, {"type": "text", "text": "Hi"}))),
    "omitted-thinking": (
        body(OMITTED, USES[0], reason="tool_use"),
        [start(), *block(0, {"type": "thinking", "thinking": "", "signature": ""},
                         {"type": "signature_delta", "signature": OMITTED["signature"]}),
         *use(1, "toolu_1", "", '{"a": 2}'), *end("tool_use")],
        reply(tool_calls=READ[:1], finish_reason="tool_calls", raw_finish_reason="tool_use",
              message=said(None, OMITTED, USES[0], calls=TOLD[:1]))),
    "two-tools": (
        body({"type": "text", "text": "Let me see."}, *USES, reason="tool_use"),
        [start(), *text_block(0, "Let me see."), *use(1, "toolu_1", "", '{"a"', ": 2}"), PING,
         *use(2, "toolu_2", '{"a": ', "3}"), *end("tool_use")],
        reply(text="Let me see.", tool_calls=READ, finish_reason="tool_calls", raw_finish_reason="tool_use",
              message=said("Let me see.", calls=TOLD))),
    "no-arguments": (
        body({"type": "tool_use", "id": "toolu_1", "name": "add", "input": {}}, reason="tool_use"),
        [start(), *use(0, "toolu_1", ""), *end("tool_use")],
        reply(tool_calls=[ToolCall("toolu_1", "add", {}, "{}")], finish_reason="tool_calls",
              raw_finish_reason="tool_use", message=said(None, calls=[
                  {"id": "toolu_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]))),
    "citations": (
        body({"type": "text", "text": "Blue", "citations": [CITED]}),
        [start(), *block(0, {"type": "text", "text": "", "citations": []}, {"type": "text_delta", "text": "Blue"},
                         {"type": "citations_delta", "citation": CITED}), *end()],
        reply(text="Blue", citations=[CITED],
              message=said("Blue", {"type": "text", "text": "Blue", "citations": [CITED]}))),
    "citations-null": (
        body({"type": "text", "text": "Blue", "citations": [CITED]}),
        [start(), *block(0, {"type": "text", "text": "", "citations": None}, {"type": "text_delta", "text": "Blue"},
                         {"type": "citations_delta", "citation": CITED}), *end()],
        reply(text="Blue", citations=[CITED],
              message=said("Blue", {"type": "text", "text": "Blue", "citations": [CITED]}))),
    "server-tool": (
        body(SEARCH, FOUND, {"type": "text", "text": "Blue"}),
        [start(), *block(0, {**SEARCH, "input": {}}, {"type": "input_json_delta", "partial_json": '{"query":'},
                         {"type": "input_json_delta", "partial_json": '"sky"}'}), *block(1, FOUND),
         *text_block(2, "Blue"), *end()],
        reply(text="Blue", message=said("Blue", SEARCH, FOUND, {"type": "text", "text": "Blue"}))),
    "pause": (
        body(SEARCH, reason="pause_turn"),
        [start(), *block(0, {**SEARCH, "input": {}}, {"type": "input_json_delta", "partial_json": '{"query":"sky"}'}),
         *end("pause_turn")],
        reply(finish_reason="other", raw_finish_reason="pause_turn", message=said("", SEARCH))),
    "refusal": (
        body(reason="refusal", stop_details={"type": "refusal", "category": "cyber", "explanation": None}),
        [start(), *end("refusal", stop_details={"type": "refusal", "category": "cyber", "explanation": None})],
        reply(finish_reason="content_filter", raw_finish_reason="refusal", message=said(""))),
    "unknown": (
        body({"type": "text", "text": "Hi"}, {"type": "novel", "x": [1]}),
        [start(), event("novel_event", index=0, delta={"type": "text_delta", "text": "no"}),
         *block(0, {"type": "text", "text": "H"}, {"type": "novel_delta", "text": "no"},
                {"type": "text_delta", "text": "i"}), *block(1, {"type": "novel", "x": [1]}), *end()],
        reply(text="Hi", message=said("Hi", {"type": "text", "text": "Hi"}, {"type": "novel", "x": [1]}))),
}


@pytest.mark.parametrize("name", CASES)
def test_reply(server, llm, name):
    """A body and the stream of it give the same Response, field for field; the pieces make up its text."""
    whole, events, want = CASES[name]
    server.json(whole)
    server.sse(events)
    assert seen(llm.chat("hi")) == want
    stream = llm.stream("hi")
    pieces = list(stream.events())
    assert seen(stream.response) == want
    for kind, text in (("text", want["text"]), ("reasoning", want["reasoning"])):
        assert "".join(piece.text for piece in pieces if piece.type == kind) == text
    assert [piece.tool_call for piece in pieces if piece.type == "tool_call"] == want["tool_calls"]
    assert [piece.usage for piece in pieces if piece.type == "usage"] == [COUNTED]


@pytest.mark.parametrize("raw, finish", [
    ("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"),
    ("model_context_window_exceeded", "length"), ("tool_use", "tool_calls"), ("refusal", "content_filter"),
    ("pause_turn", "other"), ("compaction", "other"), ("novelty", "other"),
])  # fmt: skip
def test_finish_reasons(server, llm, raw, finish):
    """Each stop reason under its canonical name."""
    server.json(body({"type": "text", "text": "Hi"}, reason=raw))
    server.sse([start(), *text_block(0, "Hi"), *end(raw)])
    for answer in (llm.chat("hi"), drained(llm.stream("hi"))):
        assert (answer.finish_reason, answer.raw_finish_reason, answer.truncated) == (finish, raw, finish == "length")


@pytest.mark.parametrize("usage, counted", [
    ({"input_tokens": 10, "output_tokens": 5}, Usage(10, 5)),
    ({"input_tokens": 10, "output_tokens": 5, "cache_creation_input_tokens": None, "cache_read_input_tokens": None,
      "output_tokens_details": None}, Usage(10, 5)),
    (USAGE, COUNTED), ({}, Usage()), (None, Usage()),
], ids=["bare", "nulls", "all", "empty", "null"])
def test_usage(server, llm, usage, counted):
    """The whole input is counted, read from the cache or written to it; thinking is in the output already."""
    server.json(body({"type": "text", "text": "Hi"}, usage=usage))
    assert llm.chat("hi").usage == counted
    assert llm.ledger.usage == counted


def test_usage_of_the_last_event_replaces(server, llm):
    """message_delta's usage is cumulative: its fields replace message_start's, none is added, null says nothing."""
    last = {"input_tokens": 22397, "cache_read_input_tokens": 7, "cache_creation_input_tokens": None,
            "output_tokens": 40}
    server.sse([start(usage={"input_tokens": 2068, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 0,
                             "output_tokens": 8}), *text_block(0, "Hi"),
                event("message_delta", delta={"stop_reason": "end_turn"}, usage=last), event("message_stop")])
    assert drained(llm.stream("hi")).usage == Usage(22397 + 5 + 7, 40, 7)


# ------------------------------------------------------------------------------------------------------- what goes back


@pytest.mark.parametrize("how", ["chat", "stream"])
def test_thinking_goes_back_byte_for_byte(server, llm, how):
    """Thinking, omitted, redacted and signed blocks return in their places, through a saved history."""
    blocks = [THINKING, OMITTED, REDACTED, *USES]
    if how == "chat":
        server.json(body(*blocks, reason="tool_use"))
        first = llm.chat("hi")
    else:
        server.sse([start(), *block(0, {"type": "thinking", "thinking": "", "signature": ""},
                                    {"type": "thinking_delta", "thinking": "hm, so"},
                                    {"type": "signature_delta", "signature": THINKING["signature"]}),
                    *block(1, {"type": "thinking", "thinking": "", "signature": ""},
                           {"type": "signature_delta", "signature": OMITTED["signature"]}),
                    *block(2, REDACTED), *use(3, "toolu_1", '{"a": 2}'), *use(4, "toolu_2", '{"a": 3}'),
                    *end("tool_use")])
        first = drained(llm.stream("hi"))
    history = [HI, first.message, *(llmlite.tool_result(call, "x") for call in first.tool_calls)]
    server.reply("ok")
    llm.chat(json.loads(json.dumps(history)))
    sent = server.requests[1].json["messages"]
    assert sent[1] == {"role": "assistant", "content": blocks}
    assert json.dumps(sent[1]["content"]).encode() == json.dumps(blocks).encode()
    assert [block["tool_use_id"] for block in sent[2]["content"]] == ["toolu_1", "toolu_2"]
    assert len(sent) == 3


def test_a_paused_turn_goes_on(server, llm):
    """pause_turn: the assistant's content goes back as it came."""
    server.json(body(SEARCH, reason="pause_turn"))
    server.reply("ok")
    first = llm.chat("hi")
    llm.chat([HI, first.message])
    assert server.requests[1].json["messages"] == [HI, {"role": "assistant", "content": [SEARCH]}]


def test_a_torn_call_goes_back_as_an_object(server, llm):
    """Arguments cut by the token limit leave a history that can still be sent: input is an object."""
    server.sse([start(), *block(0, OMITTED), *use(1, "toolu_1", '{"a'), *end("max_tokens")])
    first = drained(llm.stream("hi"))
    assert first.tool_calls[0].invalid and first.tool_calls[0].raw_arguments == '{"a'
    server.reply("ok")
    llm.chat([HI, first.message, llmlite.tool_result(first.tool_calls[0], "no", is_error=True)])
    sent = server.requests[1].json["messages"][1]["content"]
    assert sent[0] == OMITTED
    assert isinstance(sent[1]["input"], dict)


# --------------------------------------------------------------------------------------------------------------- errors

OVERLOADED = event("error", error={"type": "overloaded_error", "message": "Overloaded"})


def error(kind, message="no", **details):
    told = {"type": kind, "message": message, **({"details": details} if details else {})}
    return {"type": "error", "error": told, "request_id": "req_1"}


def test_overloaded_at_once_is_retried(server):
    """An overload as the first event of a stream is tried again."""
    server.sse([OVERLOADED])
    server.sse([start(), *text_block(0, "Hi"), *end()])
    assert drained(client(server, FAST).stream("hi")).text == "Hi"
    assert len(server.requests) == 2


def test_overloaded_at_once_for_good(server, llm):
    """Without retries it is an OverloadedError of status 529."""
    server.sse([OVERLOADED])
    with pytest.raises(llmlite.OverloadedError) as caught:
        llm.stream("hi")
    assert caught.value.status_code == 529


@pytest.mark.parametrize("before", [[start()], [start(), PING], [start(), *text_block(0, "Hi")]],
                         ids=["start", "ping", "text"])
def test_overloaded_later_is_a_stream_error(server, before):
    """After the first event an overload is a StreamError, not tried again, with what had come."""
    server.sse([*before, OVERLOADED])
    with pytest.raises(llmlite.StreamError, match="Overloaded") as caught:
        list(client(server, FAST).stream("hi"))
    assert isinstance(caught.value.last_error, llmlite.OverloadedError)
    assert caught.value.response.text == ("Hi" if len(before) > 2 else "")
    assert caught.value.response.usage.input_tokens == 103
    assert len(server.requests) == 1


def test_a_stream_without_message_stop(server, llm):
    """With a stop reason the reply is whole, without one it is truncated."""
    server.sse([start(), *text_block(0, "Hi"), *end()[:1]])
    server.sse([start(), *text_block(0, "Hi")])
    assert drained(llm.stream("hi")).text == "Hi"
    with pytest.raises(llmlite.TruncatedStreamError) as caught:
        list(llm.stream("hi"))
    assert (caught.value.response.text, caught.value.response.finish_reason) == ("Hi", None)


def test_529_is_retried(server):
    """529 is an overload: tried again as a rate limit is."""
    server.json(error("overloaded_error"), status=529)
    server.json(error("api_error"), status=500)
    server.json(body({"type": "text", "text": "Hi"}))
    assert client(server, FAST).chat("hi").attempts == 3


LIMITS = "You have reached your specified API usage limits. You will regain access on 2026-12-01."


@pytest.mark.parametrize("status, answer, kind, attempts", [
    (400, error("invalid_request_error"), "BadRequestError", 1),
    (400, error("invalid_request_error", LIMITS), "QuotaExceededError", 1),
    (400, error("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"), "ContextLengthError", 1),
    (401, error("authentication_error"), "AuthenticationError", 1),
    (402, error("billing_error"), "PaymentRequiredError", 1),
    (403, error("permission_error"), "PermissionDeniedError", 1),
    (404, error("not_found_error"), "NotFoundError", 1),
    (409, error("conflict_error"), "APIError", 3),
    (413, error("request_too_large"), "BadRequestError", 1),
    (429, error("rate_limit_error"), "RateLimitError", 3),
    (429, error("rate_limit_error", error_code="enforced_spend_limit_reached"), "QuotaExceededError", 1),
    (429, error("rate_limit_error", error_code="contract_spend_limit_reached"), "QuotaExceededError", 1),
    (429, error("rate_limit_error", error_code="ramp_limit_exceeded"), "RateLimitError", 3),
    (500, error("api_error"), "ServerError", 3),
    (504, error("timeout_error"), "ServerError", 3),
    (529, error("overloaded_error"), "OverloadedError", 3),
])  # fmt: skip
def test_errors(server, status, answer, kind, attempts):
    """Each error under its class, tried again or not; its id is that of the body where no header tells."""
    server.json(answer, status=status, times=None)
    with pytest.raises(llmlite.APIError) as caught:
        client(server, FAST).chat("hi")
    assert type(caught.value).__name__ == kind
    assert (caught.value.type, caught.value.message) == (answer["error"]["type"], answer["error"]["message"])
    assert (caught.value.request_id, caught.value.attempts, len(server.requests)) == ("req_1", attempts, attempts)


def test_headers_of_the_answer(server, llm):
    """request-id is the request's id, the rate headers are its limits."""
    server.json(body({"type": "text", "text": "Hi"}), headers={
        "request-id": "req_9", "anthropic-ratelimit-requests-remaining": "3"})
    answer = llm.chat("hi")
    assert answer.request_id == "req_9"
    assert answer.rate_limits == {"anthropic-ratelimit-requests-remaining": "3"}


def test_trailing_spaces_and_a_message_where_a_stream_was_asked_for(server, llm):
    """JSON with spaces after it is JSON; a server that does not stream answers in one piece."""
    server.sse(["event: message_start\ndata: " + json.dumps(start()[1]) + "     \n\n", *text_block(0, "Hi"), *end()])
    server.json(body(THINKING, {"type": "text", "text": "Hi"}))
    assert drained(llm.stream("hi")).text == "Hi"
    answer = drained(llm.stream("hi"))
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("Hi", "hm, so", "stop")


@pytest.mark.parametrize("raw, finish", [("max_tokens", "length"), ("refusal", "content_filter")])
def test_an_answer_cut_in_its_calls(server, llm, raw, finish):
    """What cuts the answer is its finish reason, and the last call is not to be run, though it look whole."""
    uses = [{"type": "tool_use", "id": f"toolu_{at}", "name": "wipe", "input": {}} for at in (0, 1)]
    server.json(body(*uses, reason=raw))
    answer = llm.chat("hi")
    assert (answer.finish_reason, answer.truncated) == (finish, finish == "length")
    assert [bool(call.invalid) for call in answer.tool_calls] == [False, True]
