"""Anthropic's Messages: what only they send and say. What all dialects share is in test_dialects.py."""
import json

import pytest

from tests import llmlite
from tests.dialects import FAST, HI, drained

from tests.dialects.anthropic import (  # isort: skip
    ANTHROPIC, LATE, OMITTED, PING, REDACTED, SEARCH, THINKING, USES, block, body, end, error, event, start,
    text_block, use,
)

Usage = llmlite.Usage
client = ANTHROPIC.client


@pytest.fixture
def llm(server):
    with client(server) as llm:
        yield llm


# --------------------------------------------------------------------------------------------------------- what is sent


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


def test_blocks_without_an_index(server, llm):
    """A compatible server that numbers nothing is understood: a block that starts is the next one."""
    blocks = [*text_block(0, "Hel", "lo"), *use(1, "c1", '{"a": ', "1}")]
    bare = [(kind, {name: value for name, value in fields.items() if name != "index"}) for kind, fields in blocks]
    server.sse([start(), *bare, *end("tool_use")])
    reply = drained(llm.stream("hi"))
    assert (reply.text, [(call.id, call.arguments) for call in reply.tool_calls]) == ("Hello", [("c1", {"a": 1})])


def test_usage_of_the_last_event_replaces(server, llm):
    """message_delta's usage is cumulative: its fields replace message_start's, none is added, null says nothing."""
    last = {"input_tokens": 22397, "cache_read_input_tokens": 7, "cache_creation_input_tokens": None,
            "output_tokens": 40}
    server.sse([start(usage={"input_tokens": 2068, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 0,
                             "output_tokens": 8}), *text_block(0, "Hi"),
                event("message_delta", delta={"stop_reason": "end_turn"}, usage=last), event("message_stop")])
    assert drained(llm.stream("hi")).usage == Usage(22397 + 5 + 7, 40, 7, 0, 5)


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
                    *block(2, REDACTED), *use(3, "call_1", '{"a": 2}'), *use(4, "call_2", '{"a": 3}', name="mul"),
                    *end("tool_use")])
        first = drained(llm.stream("hi"))
    history = [HI, first.message, *(llmlite.tool_result(call, "x") for call in first.tool_calls)]
    server.reply("ok")
    llm.chat(json.loads(json.dumps(history)))
    sent = server.requests[1].json["messages"]
    assert sent[1] == {"role": "assistant", "content": blocks}
    assert json.dumps(sent[1]["content"]).encode() == json.dumps(blocks).encode()
    assert [block["tool_use_id"] for block in sent[2]["content"]] == ["call_1", "call_2"]
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
    server.sse([start(), *block(0, OMITTED), *use(1, "call_1", '{"a'), *end("max_tokens")])
    first = drained(llm.stream("hi"))
    assert first.tool_calls[0].invalid and first.tool_calls[0].raw_arguments == '{"a'
    server.reply("ok")
    llm.chat([HI, first.message, llmlite.tool_result(first.tool_calls[0], "no", is_error=True)])
    sent = server.requests[1].json["messages"][1]["content"]
    assert sent[0] == OMITTED
    assert isinstance(sent[1]["input"], dict)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("before", [[start()], [start(), PING], [start(), *text_block(0, "Hi")]],
                         ids=["start", "ping", "text"])
def test_overloaded_later_is_a_stream_error(server, before):
    """After the first event an overload is a StreamError, not tried again, with what had come."""
    server.sse([*before, LATE[0][0]])
    with pytest.raises(llmlite.StreamError) as caught:
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


def test_the_id_of_an_error_in_its_body(server, llm):
    """Where no header tells the request's id, the error's body does."""
    server.json(error("api_error"), status=500)
    with pytest.raises(llmlite.ServerError) as caught:
        llm.chat("hi")
    assert caught.value.request_id == "req_1"


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
