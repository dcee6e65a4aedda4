"""run_tools: functions are called, their results and errors go back, and it comes to an end."""
import time

import pytest

from tests import llmlite, testing


def add(a: int, b: int = 1) -> int:
    """Adds."""
    return a + b


def calling(*calls):
    return testing.reply("", tool_calls=[{"id": f"c{at}", "name": name, "arguments": arguments}
                                         for at, (name, arguments) in enumerate(calls)])


def results(request):
    """The tool messages of a request, as (id, content)."""
    return [(message["tool_call_id"], message["content"]) for message in request.json["messages"]
            if message["role"] == "tool"]


def script(server, *replies):
    replies = iter(replies)
    server.handle(lambda request: next(replies))


def test_results_go_back(server, llm):
    """Each call of a round is answered under its id, in order; the tools are described in every round."""
    script(server, calling(("add", {"a": 1}), ("add", {"a": 2, "b": 3})), testing.reply("2 and 5"))
    reply = llm.run_tools("Add", [add], temperature=0)
    assert reply.text == "2 and 5"
    first, second = server.requests
    assert results(first) == [] and results(second) == [("c0", "2"), ("c1", "5")]
    assert first.json["tools"] == second.json["tools"] and first.json["tools"][0]["function"]["name"] == "add"
    assert second.json["temperature"] == 0
    assert [message["role"] for message in reply.messages] == ["user", "assistant", "tool", "tool", "assistant"]


def test_no_call_at_all(server, llm):
    """A model that asks for nothing has answered; the list of messages that was given is not changed."""
    script(server, testing.reply("hello"))
    given = [llmlite.user("hi")]
    assert llm.run_tools(given, [add]).text == "hello"
    assert given == [llmlite.user("hi")] and len(server.requests) == 1


@pytest.mark.parametrize("name, arguments, words", [
    ("add", {}, "TypeError: add(): "),
    ("add", {"a": "one"}, "TypeError: add(): "),
    ("add", "{", "ValueError: the arguments are not JSON"),
    ("mul", {}, "LookupError: there is no tool 'mul'; there are add, fail"),
    ("fail", {}, "KeyError: 'gone'"),
])
def test_errors_go_back(server, llm, name, arguments, words):
    """What a function raises, arguments that do not fit and an unknown name are told to the model, which goes on."""
    def fail():
        raise KeyError("gone")
    script(server, calling((name, arguments)), testing.reply("sorry"))
    assert llm.run_tools("Do it", [add, fail]).text == "sorry"
    (_, said), = results(server.requests[1])
    assert said.startswith(words)


def test_what_is_no_error_for_a_model(server, llm):
    """Ctrl-C inside a function is not told to the model."""
    def stop():
        raise KeyboardInterrupt
    script(server, calling(("stop", {})))
    with pytest.raises(KeyboardInterrupt):
        llm.run_tools("Stop", [stop])
    assert len(server.requests) == 1


def test_tools_of_others_are_handed_on(server, llm):
    """A call of a tool that is a dict is the caller's to answer: the reply comes back with it."""
    tool = {"type": "function", "function": {"name": "mul", "parameters": {"type": "object", "properties": {}}}}
    script(server, calling(("mul", {"a": 2})))
    reply = llm.run_tools("Multiply", [add, tool])
    assert [call.name for call in reply.tool_calls] == ["mul"]
    assert reply.messages[-1] == reply.message and len(server.requests) == 1


def test_rounds_are_limited(server, llm):
    """A model that never stops asking is an error after max_rounds, with its last reply and everything booked."""
    server.handle(lambda request: calling(("add", {"a": 1})))
    with pytest.raises(llmlite.ResponseError, match="3 rounds") as caught:
        llm.run_tools("Add", [add], max_rounds=3)
    assert caught.value.response.tool_calls[0].name == "add"
    assert len(server.requests) == 3 and llm.ledger.calls == 3


def test_one_deadline_for_all_rounds(server, llm):
    """The deadline bounds the rounds together."""
    script(server, calling(("add", {"a": 1})), testing.raw(testing.STALL))
    start = time.monotonic()
    with pytest.raises(llmlite.DeadlineExceededError):
        llm.run_tools("Add", [add], deadline=0.3)
    assert 0.25 < time.monotonic() - start < 0.55
    assert len(server.requests) == 2
