"""OpenAI's chat completions: what only they send and say. What all dialects share is in test_dialects.py."""
import json

import pytest

from tests import llmlite
from tests.dialects import HI, both, drained

from tests.dialects.openai import (  # isort: skip
    DONE, OPENAI, USAGE, body, call, chunk, fragment, message,
)

ToolCall, Usage = llmlite.ToolCall, llmlite.Usage


@pytest.fixture
def llm(server):
    with OPENAI.client(server) as llm:
        yield llm


def test_a_call_cut_by_the_limit(server, llm):
    """Arguments torn by the token limit: the call is there, says why it is invalid, and keeps what came."""
    server.json(body({"tool_calls": [call("c", "f", '{"x')]}, "length"))
    server.sse([fragment(0, '{"x', "c", "f"), chunk({}, "length"), DONE])
    for answer in both(llm):
        (torn,) = answer.tool_calls
        assert (torn.name, torn.arguments, torn.raw_arguments) == ("f", {}, '{"x')
        assert torn.invalid.startswith("not JSON")
        assert (answer.finish_reason, answer.raw_finish_reason, answer.truncated) == ("length", "length", True)


CUSTOM = {"id": "call_1", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}


def test_a_custom_tool_call(server, llm):
    """A custom tool's input is text: it is read from a body and from a stream's fragments."""
    server.json(body({"tool_calls": [CUSTOM]}, "tool_calls"))
    server.sse([chunk({"tool_calls": [{"index": 0, "id": "call_1", "type": "custom",
                                       "custom": {"name": "shell", "input": ""}}]}),
                chunk({"tool_calls": [{"index": 0, "custom": {"input": "ls"}}]}),
                chunk({"tool_calls": [{"index": 0, "custom": {"input": " -l"}}]}), chunk({}, "tool_calls"), DONE])
    whole, streamed = both(llm)
    assert whole.tool_calls == streamed.tool_calls == [ToolCall("call_1", "shell", {"input": "ls -l"}, "ls -l")]
    assert whole.message == streamed.message


def test_a_custom_tool_call_goes_back_as_one(server, llm):
    """The history tells the provider of a custom call what it had said: a custom call, not a function's."""
    server.json(body({"tool_calls": [CUSTOM]}, "tool_calls"))
    server.reply("ok")
    said = json.loads(json.dumps(llm.chat("hi").message))
    llm.chat([HI, said, llmlite.tool_result("call_1", "total 0")])
    assert server.requests[1].json["messages"][1:] == [
        message(None, CUSTOM),
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
    answer, streamed = both(llm)
    assert streamed.raw["choices"] == answer.raw["choices"]
    assert streamed.logprobs == answer.logprobs == [
        llmlite.Logprob(row["token"], row["logprob"]) for row in rows("He", "llo")]


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
