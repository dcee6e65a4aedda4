"""run_tools: functions are called, their results and errors go back, and it comes to an end."""
import logging
import time

import pytest

from tests import llmlite, testing
from tests.beside import within


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
    ran = []

    def note(a: int) -> int:
        ran.append(a)
        return a
    server.handle(lambda request: calling(("note", {"a": len(server.requests)})))
    with pytest.raises(llmlite.ResponseError, match="3 rounds") as caught:
        llm.run_tools("Note", [note], max_rounds=3)
    assert caught.value.response.tool_calls[0].arguments == {"a": 3}
    assert len(server.requests) == 3 and (llm.ledger.calls, llm.ledger.failed) == (3, 1)
    assert ran == [1, 2], "what the last reply asks for is not done: its result could not be sent"
    assert (caught.value.attempts, caught.value.provider) == (3, "compatible") and caught.value.elapsed > 0
    assert [turn["role"] for turn in caught.value.response.messages] == [
        "user", "assistant", "tool", "assistant", "tool", "assistant"]


@pytest.mark.parametrize("rounds", [0, -1, 2.5, True, None, "3"])
def test_rounds_that_are_none(server, llm, rounds):
    """max_rounds is a whole number above zero."""
    with pytest.raises(llmlite.ConfigurationError, match="max_rounds"):
        llm.run_tools("Add", [add], max_rounds=rounds)
    assert server.requests == []


def test_one_deadline_for_all_rounds(server, llm):
    """The deadline bounds the rounds together."""
    script(server, calling(("add", {"a": 1})), testing.raw(testing.STALL))
    start = time.monotonic()
    with pytest.raises(llmlite.DeadlineExceededError, match="deadline of 0.8 s ran out after 2 attempts") as caught:
        llm.run_tools("Add", [add], deadline=0.8)
    assert 0.75 < caught.value.elapsed <= time.monotonic() - start
    assert within(0.75, start, 1.05)
    assert (caught.value.attempts, llm.ledger.failed) == (2, 1)
    assert len(server.requests) == 2


def test_no_function_runs_whose_result_comes_too_late(server, llm, caplog):
    """The deadline may pass between a reply and its functions, as in a log that takes its time."""
    class Slow(logging.Handler):
        def emit(self, record):
            time.sleep(0.8)

    noted, log, slow = [], logging.getLogger("llmlite"), Slow()

    def note() -> None:
        noted.append(1)

    script(server, calling(("note", {})))
    caplog.set_level(logging.INFO, "llmlite")
    log.addHandler(slow)
    try:
        with pytest.raises(llmlite.DeadlineExceededError, match="deadline of 0.8 s ran out") as caught:
            llm.run_tools("Note", [note], deadline=0.8)
    finally:
        log.removeHandler(slow)
    assert noted == [] and len(server.requests) == 1
    assert (caught.value.attempts, llm.ledger.failed, llm.ledger.calls) == (1, 1, 1)
    assert caught.value.response.tool_calls[0].name == "note"


def test_no_function_runs_past_the_deadline(server, llm):
    """A function whose result cannot be sent is not run; the error tells of the whole exchange."""
    ran = []

    def slow(a: int) -> None:
        ran.append(a)
        time.sleep(0.9)

    def note(a: int) -> None:
        ran.append(a)

    script(server, calling(("slow", {"a": 1})), calling(("note", {"a": 2})))
    with pytest.raises(llmlite.DeadlineExceededError) as caught:
        llm.run_tools("Note", [slow, note], deadline=0.8)
    assert ran == [1] and len(server.requests) == 1
    assert caught.value.attempts == 1 and caught.value.elapsed > 0.8
    assert caught.value.response.messages[-1]["role"] == "tool"


def test_an_error_amid_the_rounds(server, llm):
    """What a later round meets is raised as it is; `response` is the reply before it, with the exchange so far."""
    script(server, calling(("add", {"a": 1})), testing.error(400, "no"))
    with pytest.raises(llmlite.BadRequestError) as caught:
        llm.run_tools("Add", [add])
    assert caught.value.attempts == 2 and "after 2 attempts" in str(caught.value)
    assert [turn["role"] for turn in caught.value.response.messages] == ["user", "assistant", "tool"]
    with pytest.raises(llmlite.LLMError) as caught:
        llmlite.Client("m", base_url="http://127.0.0.1:9", retry=None).run_tools("Add", [add])
    assert caught.value.response is None


@pytest.mark.parametrize("arguments", ['{"path": "/', "", "{}"])
def test_a_call_that_was_cut_is_not_run(server, llm, arguments):
    """At the token limit the last call may lack anything: it goes back as an error, those before it are run."""
    ran = []

    def wipe(path: str = "/") -> str:
        ran.append(path)
        return "gone"

    calls = [{"id": f"c{at}", "type": "function", "function": {"name": "wipe", "arguments": text}}
             for at, text in enumerate(['{"path": "a"}', arguments])]
    cut = testing.json_body({"id": "r", "choices": [{"index": 0, "finish_reason": "length", "message": {
        "role": "assistant", "content": None, "tool_calls": calls}}]})
    script(server, cut, testing.reply("sorry"))
    assert llm.run_tools("Wipe", [wipe]).text == "sorry"
    assert ran == ["a"]
    (_, done), (_, refused) = results(server.requests[1])
    assert done == "gone" and refused.startswith("ValueError: the arguments are ") and "token limit" in refused


@pytest.mark.parametrize("arguments", ['{"a": 1', "", "[1]", "null", "a=1"])
def test_arguments_that_are_no_object_go_back_as_one(server, llm, arguments):
    """A server chokes on a history whose arguments it cannot read: it gets an empty object; the call keeps the text."""
    script(server, calling(("add", arguments)), testing.reply("sorry"))
    assert llm.run_tools("Add", [add]).text == "sorry"
    sent, = server.requests[1].json["messages"][1]["tool_calls"]
    assert sent["function"] == {"name": "add", "arguments": "{}"}
    server.handle(lambda request: calling(("add", arguments)))
    assert llm.chat("Add").tool_calls[0].raw_arguments == arguments


@pytest.mark.parametrize("tool", [
    {"name": "mul", "description": "Multiplies.", "input_schema": {"type": "object", "properties": {}}},
    {"type": "custom", "custom": {"name": "mul"}}, {"functionDeclarations": [{"name": "sub"}, {"name": "mul"}]},
    {"type": "function", "name": "mul", "parameters": {}}], ids=["anthropic", "custom", "gemini", "responses"])
def test_tools_of_others_in_any_shape(server, llm, tool):
    """A dict tool is known by its name in the shape of any provider; twice the same name is refused there too."""
    script(server, calling(("mul", {"a": 2})))
    reply = llm.run_tools("Multiply", [add, tool])
    assert [call.name for call in reply.tool_calls] == ["mul"] and len(server.requests) == 1
    with pytest.raises(llmlite.ConfigurationError, match="2 tools named 'mul'"):
        llm.run_tools("Multiply", [tool, {"name": "mul"}])


def test_no_tools_at_all(server, llm):
    """An empty list of tools is a chat."""
    script(server, testing.reply("hello"))
    assert llm.run_tools("hi", []).text == "hello"
    assert set(server.requests[0].json) == {"model", "messages"}
