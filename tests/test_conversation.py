"""Conversations: what goes out and what stays, with tools, as streams, broken off, compacted, saved."""
import copy
import gc
import json
import os
import pickle
import signal
import stat
import sys
import threading
import time
from dataclasses import dataclass

import pytest

from tests import llmlite, named, testing
from tests.beside import beside, idle, soon, within
from tests.test_histories import CALLS, DIALECTS, KEEPS, check_heard, signatures
from tests.test_histories import client as client_of
from tests.test_processes import forked, forking

HI, YES = llmlite.user("hi"), llmlite.assistant("yes?")
MUL = {"type": "function", "function": {"name": "mul", "parameters": {"type": "object", "properties": {}}}}
SUMMARY = "Summary of the conversation so far:\n\n"


def add(a: int) -> object:
    """Adds."""
    return {"sum": a}


def mul(b: int) -> str:
    """Multiplies."""
    return "six"


def calling(text, *calls, **said):
    return testing.stream([text] if text else [], tool_calls=[
        {"id": f"c{at}", "name": name, "arguments": arguments} for at, (name, arguments) in enumerate(calls)], **said)


def answer(request, text="fine", **said):
    """A reply in whichever way it was asked for."""
    return testing.stream([text], **said) if (request.json or {}).get("stream") else testing.reply(text, **said)


def script(server, *replies):
    """The replies, one a request; a str is one in whichever way it is asked for."""
    replies = iter(replies)

    def play(request):
        reply = next(replies)
        return answer(request, reply) if isinstance(reply, str) else reply
    server.handle(play)


def sent(server, at=-1):
    return server.requests[at].json["messages"]


def say(talk, how, content, **options):
    """A turn, sent or streamed: its reply."""
    if how == "send":
        return talk.send(content, **options)
    stream = talk.stream(content, **options)
    assert "".join(stream) == stream.text
    return stream.response


both = pytest.mark.parametrize("how", ["send", "stream"])


# ------------------------------------------------------------------------------------------------- what goes out, stays


@both
@beside
def test_all_that_was_said_goes_out(server, llm, how):
    """Each turn goes out after those before it, with the system prompt; the same list holds them."""
    server.handle(answer)
    talk = llm.conversation(system="Be brief.", temperature=0)
    history = talk.messages
    assert (history, talk.usage, talk.client, talk.system) == ([], llmlite.Usage(), llm, "Be brief.")
    first = say(talk, how, "hi")
    assert (first.text, first.messages) == ("fine", [HI, llmlite.assistant("fine")])
    second = say(talk, how, llmlite.user("and?"), temperature=1, max_tokens=5)
    assert sent(server) == [llmlite.system("Be brief."), HI, llmlite.assistant("fine"), llmlite.user("and?")]
    assert [request.json.get("temperature") for request in server.requests] == [0, 1]
    assert [request.json.get("max_tokens") for request in server.requests] == [None, 5]
    assert talk.messages is history and history == second.messages and len(history) == 4
    assert talk.usage == first.usage + second.usage and talk.usage.total_tokens > 0
    assert repr(talk) == f"<Conversation with compatible/test, 4 messages, {talk.usage.total_tokens} tokens>"


@both
@beside
def test_a_call_wins_over_the_conversation(server, llm, how):
    """System prompt and tools too may be other ones for a call, or none."""
    server.handle(answer)
    talk = llm.conversation(system="a", tools=[add], temperature=0, model="one")
    say(talk, how, "hi", system="b", tools=[mul], model="two")
    say(talk, how, "hi", system=None, tools=None, temperature=None, max_rounds=1)
    assert repr(talk).startswith("<Conversation with compatible/one,")
    talk.system, talk.tools, talk.options = "c", None, {}
    say(talk, how, "hi")
    assert repr(copy.copy(talk)).startswith("<Conversation with compatible/test,")
    bodies = [request.json for request in server.requests]
    assert [body["messages"][0] for body in bodies] == [llmlite.system("b"), HI, llmlite.system("c")]
    assert [[tool["function"]["name"] for tool in body.get("tools", [])] for body in bodies] == [["mul"], [], []]
    assert [body["model"] for body in bodies] == ["two", "one", "test"]
    assert [body.get("temperature") for body in bodies] == [0, None, None]


@beside
def test_what_was_said_before(server, llm):
    """A history that is given is copied; a system message that it begins with is the system prompt."""
    server.handle(answer)
    given = [llmlite.system("Be brief."), HI, YES]
    talk = llm.conversation(messages=given)
    assert (talk.system, talk.messages) == ("Be brief.", [HI, YES])
    asked = llmlite.user("and?")
    talk.send(asked)
    assert len(given) == 3 and sent(server) == [*given, asked]
    asked["content"] = "else"
    assert talk.messages[2] == llmlite.user("and?")
    assert llm.conversation(system="s", messages=given).messages == given
    assert [llm.conversation(messages=none).messages for none in (None, [], ())] == [[]] * 3
    assert llm.conversation(messages="hi").messages == [HI]


def test_several_messages_at_once(server, llm):
    """A list of messages is one turn."""
    server.handle(answer)
    talk = llm.conversation()
    talk.send([llmlite.user("a"), llmlite.user("b")])
    assert sent(server) == [llmlite.user("a"), llmlite.user("b")] == talk.messages[:2]
    assert talk.undo() == [llmlite.user("a"), llmlite.user("b"), llmlite.assistant("fine")] and talk.messages == []


@pytest.mark.parametrize("ask, error, words", [
    (lambda llm: llm.conversation(temprature=0), TypeError, "conversation() got an unexpected keyword argument 'temp"),
    (lambda llm: llm.conversation().send("hi", keep_partial=True), TypeError, "send() got an unexpected keyword arg"),
    (lambda llm: llm.conversation().stream("hi", x=1), TypeError, "stream() got an unexpected keyword argument 'x'"),
    (lambda llm: llm.conversation(messages=[HI]).compact(0, x=1), TypeError, "compact() got an unexpected keyword"),
    (lambda llm: llm.conversation(tools=[lambda *rest: 1]), TypeError, ""),
    (lambda llm: llm.conversation(tools=5), llmlite.ConfigurationError, "tools is a int"),
    (lambda llm: llm.conversation(system=5), llmlite.ConfigurationError, "system is a int: give a str or a list"),
    (lambda llm: llm.conversation(messages=5), llmlite.ConfigurationError, "messages is a int"),
    (lambda llm: llm.conversation(temperature="hot"), llmlite.ConfigurationError, "temperature='hot': give"),
    (lambda llm: llm.conversation(max_rounds=0), llmlite.ConfigurationError, "max_rounds=0: give a whole number"),
    (lambda llm: llm.conversation(deadline="x"), llmlite.ConfigurationError, "deadline='x': give seconds"),
    (lambda llm: llm.conversation(timeout=-1), llmlite.ConfigurationError, "timeout=-1: give seconds"),
    (lambda llm: llm.conversation(headers=5), llmlite.ConfigurationError, "headers is a int: give a dict"),
    (lambda llm: llm.conversation(model=5), llmlite.ConfigurationError, "model=5: give a str"),
    (lambda llm: llm.conversation(schema=5), TypeError, "schema is 5"),
    (lambda llm: llm.load_conversation("talk.json", messages=[HI]), TypeError,
     "load_conversation() got an unexpected keyword argument 'messages'"),
    (lambda llm: llmlite.Conversation("openai/m"), llmlite.ConfigurationError, "client='openai/m': give a Client"),
    (lambda llm: llm.conversation(messages=[{"role": "x"}]), llmlite.ConfigurationError, "messages[0] has role 'x'"),
    (lambda llm: llm.conversation(compact_at=0), llmlite.ConfigurationError, "compact_at=0: give a whole number"),
    (lambda llm: llm.conversation(compact_at="9"), llmlite.ConfigurationError, "compact_at='9'"),
    (lambda llm: llm.conversation().send(5), llmlite.ConfigurationError, "content is a int: give a str or a list"),
    (lambda llm: llm.conversation().send([]), llmlite.ConfigurationError, "content is empty"),
    (lambda llm: llm.conversation().send([HI, 5]), llmlite.ConfigurationError, "content[1] is a int: give a dict"),
    (lambda llm: llm.conversation().stream({"role": "x"}), llmlite.ConfigurationError, "content[0] has role 'x': give"),
    (lambda llm: llm.conversation().stream({}), llmlite.ConfigurationError, "content is a dict without a role: give"),
    (lambda llm: llm.conversation().send({"role": "user"}), llmlite.ConfigurationError, "content[0].content is None"),
    (lambda llm: llm.conversation().send("hi", images="a.png"), TypeError,
     "send() got an unexpected keyword argument 'images': write user(text, images=[...], files=[...]) for"),
    (lambda llm: llm.conversation().send("hi", max_rounds=0), llmlite.ConfigurationError, "max_rounds=0"),
    (lambda llm: llm.conversation().stream("hi", keep_partial=1), llmlite.ConfigurationError, "keep_partial=1"),
    (lambda llm: llm.conversation().compact(-1), llmlite.ConfigurationError, "keep=-1: give a whole number, 0 or more"),
    (lambda llm: llm.conversation().compact(prompt=5), llmlite.ConfigurationError, "prompt=5: give a str or None"),
])
def test_arguments_that_are_none(server, llm, ask, error, words):
    """What there is not, and what cannot be, is refused at once and by name."""
    with pytest.raises(error) as caught:
        ask(llm)
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value) and server.requests == []


@both
@pytest.mark.parametrize("finish, text", [("length", "cut of"), ("content_filter", "I can"), ("stop", "")])
@beside
def test_ends_that_are_good(server, llm, how, finish, text):
    """An answer that is cut, filtered or empty is one: it stays."""
    server.handle(lambda request: answer(request, text, finish_reason=finish))
    talk = llm.conversation()
    assert say(talk, how, "hi").finish_reason == finish
    assert talk.messages == [HI, llmlite.assistant(text)]


EMPTY = [HI, llmlite.assistant(""), llmlite.user("and?")]
CALLED = [HI, {"role": "assistant", "content": None, "tool_calls": [
    {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": "{}"}}]},
    llmlite.tool_result("abcdefghi", "1"), llmlite.assistant(""), llmlite.user("and?")]


@pytest.mark.parametrize("name, history, roles", [
    ("anthropic", EMPTY, ["user", "user"]), ("gemini", EMPTY, ["user", "user"]), ("mistral", EMPTY, ["user", "user"]),
    ("openai", EMPTY, ["user", "assistant", "user"]), ("anthropic", EMPTY[:2], ["user", "assistant"]),
    ("mistral", CALLED, ["user", "assistant", "tool", "assistant", "user"]),
    ("openai", CALLED, ["user", "assistant", "tool", "assistant", "user"])])
def test_an_empty_answer_in_the_history(server, name, history, roles):
    """Who refuses an assistant message that says nothing does not get it, nor Mistral a question after results."""
    server.json(DIALECTS[name].turn(2)[0])
    with client_of(server, name) as llm:
        llm.chat(history)
    body = server.requests[0].json
    assert [turn["role"] for turn in body.get("messages") or body["contents"]] == roles
    assert name != "mistral" or all(turn.get("content") or turn.get("tool_calls") for turn in body["messages"])


def test_what_a_client_can_do_is_kept(server):
    """A conversation's client answers from its cache, or asks a fallback: the history goes on."""
    script(server, "one", testing.error(500), "two")
    with llmlite.Client("a", base_url=server.url, retry=None, cache={}, fallbacks=["b"]) as llm:
        talk, again = llm.conversation(), llm.conversation()
        assert talk.send("hi").text == "one"
        stream = again.stream("hi")
        assert list(stream) == ["one"] and stream.response.cached and again.messages == talk.messages
        assert talk.send("and?").text == "two"
    assert [request.json["model"] for request in server.requests] == ["a", "a", "b"]
    assert sent(server) == [HI, llmlite.assistant("one"), llmlite.user("and?")] == talk.messages[:3]


# ------------------------------------------------------------------------------------------------------------ tools


@both
@pytest.mark.parametrize("name", DIALECTS)
def test_tools_on_every_dialect(server, name, how, tmp_path):
    """Two calls at once, a third, an answer; saved and loaded, the next turn finds all of it, word for word."""
    dialect, turns = DIALECTS[name], iter((0, 1, 2, 2))

    def play(request):
        body, events = dialect.turn(next(turns))
        return testing.json_body(body) if how == "send" else testing.sse(events)

    server.handle(play)
    with client_of(server, name) as llm:
        talk = llm.conversation(tools=[add, mul])
        assert say(talk, how, "hi").text == "It is 6."
        assert [message["role"] for message in talk.messages] == [
            "user", "assistant", "tool", "tool", "assistant", "tool", "assistant"]
        talk.save(tmp_path / "talk.json")
    with client_of(server, name) as llm:
        talk = llm.load_conversation(tmp_path / "talk.json", tools=[add, mul])
        assert say(talk, how, "and?").text == "It is 6."
    said = [("user", "hi"), ("assistant", "It is 6."), ("user", "and?")]
    for request, calls, texts in zip(server.requests, (0, 2, 3, 3), (1, 1, 1, 3)):
        check_heard(dialect, request.json, calls, said[:texts])
        assert b"llmlite" not in request.body
        assert request.body.count(b"SIG-" + name.encode()) == (name in KEEPS) * signatures(name, calls)
    assert len(CALLS) == 3 and len(talk.messages) == 9


@pytest.mark.parametrize("start, end", [("anthropic", "openai"), ("openai", "gemini"), ("gemini", "anthropic"),
                                        ("responses", "mistral"), ("mistral", "responses")])
def test_a_conversation_goes_on_elsewhere(server, start, end, tmp_path):
    """One that was saved at a provider is loaded by a client of another; `client` may change on the way too."""
    turns = iter((0, 1, 2))
    server.handle(lambda request: testing.json_body(DIALECTS[start].turn(next(turns))[0]))
    with client_of(server, start) as llm:
        talk = llm.conversation(tools=[add, mul])
        talk.send("hi")
        talk.save(str(tmp_path / "talk.json"))
    server.handle(lambda request: testing.json_body(DIALECTS[end].turn(2)[0]))
    with client_of(server, end) as llm:
        talk.client = llm
        for one in (talk, llm.load_conversation(tmp_path / "talk.json")):
            one.send("and?")
            texts = [("user", "hi"), ("assistant", "It is 6."), ("user", "and?")]
            check_heard(DIALECTS[end], server.requests[-1].json, 3, texts)
            assert b"SIG-" not in server.requests[-1].body and len(one.messages) == 9


@pytest.mark.parametrize("model, signed", [("gemini-3-flash", True), ("gemini-flash-latest", True),
                                           ("gemini-2.5-pro", False), ("m", False)])
def test_calls_of_another_model_go_on_at_gemini(server, model, signed):
    """Gemini 3 refuses a step whose first call has no signature: such calls get the one that Google gives for them."""
    server.json(DIALECTS["gemini"].turn(2)[0])
    own = {"role": "assistant", "content": None, "tool_calls": [CALL], "llmlite": {"gemini": [
        {"text": "hm"}, {"functionCall": {"name": "add", "args": {}}, "thoughtSignature": "SIG"}]}}
    history = [*OPEN, llmlite.tool_result("c2", 2), own, llmlite.tool_result("c1", 1), *WITH_TOOL[1:3]]
    before = copy.deepcopy(history)
    with llmlite.Client(model, provider="gemini", base_url=server.root + "/v1beta", api_key="k", retry=None) as llm:
        llm.chat(history)
    parts = [part for content in server.requests[0].json["contents"] for part in content["parts"]]
    skip = "skip_thought_signature_validator" if signed else None
    assert [part.get("thoughtSignature") for part in parts if "functionCall" in part] == [skip, None, "SIG", skip]
    assert history == before and sum("thoughtSignature" in part for part in parts) == 1 + 2 * signed


@both
@beside
def test_tools_of_others_are_handed_back(server, llm, how):
    """A call of a tool that is a dict is the caller's to answer, in the next turn; one of no tool at all too."""
    script(server, calling("", ("mul", {"b": 2}), ("mul", {"b": 3})) if how == "stream" else testing.reply(
        "", tool_calls=[{"id": f"c{at}", "name": "mul", "arguments": {"b": 2}} for at in (0, 1)]), "six")
    talk = llm.conversation(tools=[add, MUL])
    calls = say(talk, how, "Multiply").tool_calls
    assert [call.name for call in calls] == ["mul", "mul"] and talk.messages[1]["tool_calls"]
    assert say(talk, how, [llmlite.tool_result(call, 6) for call in calls]).text == "six"
    assert [turn["role"] for turn in sent(server)] == ["user", "assistant", "tool", "tool"]
    assert len(talk.messages) == 5 and talk.undo() and talk.messages == []
    script(server, calling("", ("mul", {})) if how == "stream" else testing.reply(
        "", tool_calls=[{"id": "c", "name": "mul", "arguments": {}}]))
    assert say(llm.conversation(), how, "hi").tool_calls


def test_events_of_all_rounds(server, llm):
    """Text, calls and usage of each round; the end is told once; by then the turn is in the history."""
    script(server, calling("Let me see. ", ("add", {"a": 1})), "It is 1.")
    talk, seen = llm.conversation(tools=[add]), []
    for event in talk.stream("Add").events():
        seen.append((event.type, event.text, len(talk.messages)))
    assert seen == [("text", "Let me see. ", 0), ("tool_call", "", 0), ("usage", "", 0),
                    ("text", "It is 1.", 0), ("usage", "", 4), ("finish", "", 4)]


@beside
def test_the_state_of_a_stream(server, llm):
    """`text` is that of all rounds, `response` the reply of the last, with the whole exchange."""
    script(server, calling("Let me see. ", ("add", {"a": 1})), "It is 1.")
    talk = llm.conversation(tools=[add], messages=[HI, YES])
    stream = talk.stream("Add")
    assert repr(stream)[:27] == "<Stream of compatible/test," and next(stream) == stream.text == "Let me see. "
    assert stream.response.text == "Let me see. " and next(stream) == "It is 1."
    assert (stream.text, stream.response.text) == ("Let me see. It is 1.", "It is 1.")
    assert list(stream) == [] and stream.response.finish_reason == "stop" and repr(stream)[-11:] == ", 2 events>"
    assert stream.response.messages == talk.messages and len(talk.messages) == 6
    assert talk.usage.output_tokens == 10


@both
@beside
def test_who_leaves_at_the_closing_events_has_all(server, llm, how):
    """A call that is handed back comes when the turn is already in the history, and another may begin."""
    script(server, calling("", ("mul", {})), "six")
    talk = llm.conversation(tools=[MUL])
    events = talk.stream("Multiply").events()
    call = next(event.tool_call for event in events)
    assert say(talk, how, llmlite.tool_result(call, 6)).text == "six" and len(talk.messages) == 4


@dataclass
class Sum:
    sum: int


@both
@beside
def test_schemas(server, llm, how):
    """A schema holds for the answer, not for the rounds before it."""
    script(server, calling("", ("add", {"a": 1})) if how == "stream" else testing.reply(
        "", tool_calls=[{"id": "c", "name": "add", "arguments": {"a": 1}}]), '{"sum": 1}')
    talk = llm.conversation(tools=[add], schema=Sum)
    assert say(talk, how, "Add").parsed == Sum(1)


# ------------------------------------------------------------------------------------------------ turns that do not end


def stop(a: int) -> None:
    raise KeyboardInterrupt


ONE_CALL = [{"id": "c", "name": "add", "arguments": {"a": 1}}]
FAILURES = {
    "refused": ([testing.error(400)], {}, llmlite.BadRequestError),
    "no answer": ([testing.raw(testing.CLOSE)], {}, llmlite.APIConnectionError),
    "no schema": (["no JSON"], {"schema": dict}, llmlite.SchemaError),
    "second round": (["call", testing.error(400)], {}, llmlite.BadRequestError),
    "rounds": (["call", "call"], {"max_rounds": 2}, llmlite.ResponseError),
    "late": (["call", testing.raw(testing.STALL)], {"deadline": 0.2}, llmlite.DeadlineExceededError),
    "interrupt": (["call"], {"tools": [stop]}, KeyboardInterrupt),
}


@both
@pytest.mark.parametrize("name", FAILURES)
@beside
def test_a_turn_that_fails(server, llm, name, how):
    """It leaves the same list as it was, the usage too, and the next turn can begin."""
    replies, options, error = FAILURES[name]
    call = [{**ONE_CALL[0], "name": "stop"}] if name == "interrupt" else ONE_CALL
    called = testing.stream([], tool_calls=call) if how == "stream" else testing.reply("", tool_calls=call)
    script(server, *(called if reply == "call" else reply for reply in replies), "fine")
    talk = llm.conversation(tools=[add], messages=[HI, YES])
    history = talk.messages
    with pytest.raises(error) as caught:
        say(talk, how, "Add", **options)
    assert talk.messages is history and history == [HI, YES] and talk.usage == llmlite.Usage()
    if replies[0] == "call" and error is not KeyboardInterrupt:
        assert caught.value.response.tool_calls[0].name == "add" and caught.value.attempts == len(replies)
        assert caught.value.elapsed > 0
    assert say(talk, how, "and?").text == "fine" and sent(server) == [HI, YES, llmlite.user("and?")]


def broken(talk, **options):
    """A stream that the server breaks off."""
    with pytest.raises(llmlite.LLMError):
        list(talk.stream("Add", **options))


def closed(talk, **options):
    stream = talk.stream("Add", **options)
    assert next(stream) == "It "
    stream.close()
    stream.close()
    assert list(stream) == [] and stream.text == "It "


def dropped(talk, **options):
    next(talk.stream("Add", **options))


def in_with(talk, **options):
    with pytest.raises(KeyboardInterrupt), talk.stream("Add", **options) as stream:
        for _ in stream:
            raise KeyboardInterrupt


def closed_elsewhere(talk, **options):
    stream = talk.stream("Add", **options)
    next(stream)
    thread = threading.Timer(0.05, stream.close)
    thread.start()
    assert set(stream) <= {"It ", "is "} and stream.response.finish_reason is None
    thread.join()


def test_streams_that_are_left(server, llm):
    """Each way to leave a stream leaves the history as it was, closes the connection at once, and ends the turn."""
    for leave in (closed, dropped, in_with, closed_elsewhere, broken):
        for keep in (False, True):
            end = "close" if leave is broken else "stall"
            server.handle(lambda request, end=end: testing.stream(["It ", "is "] * 50, end=end, truncate=2000))
            talk = llm.conversation(messages=[HI, YES])
            history, gc_was = talk.messages, gc.isenabled()
            gc.disable()
            try:
                leave(talk, keep_partial=keep)
                assert idle(server)
            finally:
                gc.enable() if gc_was else None
            kept = talk.messages[2:]
            assert talk.messages is history and history[:2] == [HI, YES]
            if keep:
                text = kept[1]["content"] if leave in (broken, closed_elsewhere) else "It "
                assert kept == [llmlite.user("Add"), llmlite.assistant(text)] and text.startswith("It ")
            else:
                assert kept == []
            server.handle(answer)
            assert talk.send("and?").text == "fine"


@beside
def test_a_stream_that_is_dropped_unread(server, llm):
    """Nothing had come: nothing stays, though a part would."""
    server.handle(lambda request: testing.stream(["It "], end="stall"))
    talk = llm.conversation()
    talk.stream("hi", keep_partial=True)
    assert idle(server) and talk.messages in ([], [HI, llmlite.assistant("It ")])


def chunk(delta, finish=None):
    said = json.dumps({"id": "r", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
    return f"data: {said}\n\n"


FRAGMENT = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "add", "arguments": '{"a'}}]}


@pytest.mark.parametrize("replies, kept", [
    ([[chunk({"content": "Let me"}), chunk(FRAGMENT)]], [llmlite.assistant("Let me")]),
    ([[chunk(FRAGMENT)]], None),
    ([[chunk({"content": " \n"})]], None),
    ([[chunk({"reasoning_content": "hm"})]], None),
    (["call", [chunk({"content": "It is"})]], ["call", "result", llmlite.assistant("It is")]),
    (["call", [chunk(FRAGMENT)]], ["call", "result"]),
    (["call", testing.error(500)], ["call", "result"]),
    (["call", "call"], ["call", "result", llmlite.assistant("See. ")]),
    (["call", "stop"], ["call", "result", llmlite.assistant("Then. ")]),
], ids=named)
@beside
def test_what_stays_of_a_part(server, llm, replies, kept):
    """Whole rounds, and the text of the one that was broken off: no call without its result, no empty message."""
    made = {"call": calling("See. ", ("add", {"a": 1})), "stop": calling("Then. ", ("stop", {"a": 1}))}
    script(server, *(testing.sse(reply) if isinstance(reply, list) else made.get(reply, reply)
                     if isinstance(reply, str) else reply for reply in replies), "fine")
    talk = llm.conversation(tools=[add, stop], messages=[HI, YES], max_rounds=2 if replies[-1] == "call" else 9)
    with pytest.raises((llmlite.LLMError, KeyboardInterrupt)):
        list(talk.stream("Add", keep_partial=True))
    rest = {"call": {"role": "assistant", "content": "See. ", "tool_calls": [
        {"id": "c0", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]},
        "result": llmlite.tool_result("c0", {"sum": 1})}
    came = None if kept is None else [rest.get(item, item) if isinstance(item, str) else item for item in kept]
    assert talk.messages == [HI, YES, *([llmlite.user("Add"), *came] if came else [])]
    rounds = replies.count("call") + replies.count("stop")
    assert talk.usage.output_tokens == 5 * rounds
    talk.send("and?")
    assert sent(server)[-1] == llmlite.user("and?")


@beside
def test_closed_while_a_function_runs(server, llm):
    """Who closes the stream from another thread, or from the function itself, ends the turn when that returns."""
    ran = []

    def look(a: int) -> int:
        ran.append(a)
        closing = threading.Thread(target=stream.close)
        closing.start()
        closing.join()
        return a

    server.handle(lambda request: calling("See. ", ("look", {"a": 1})))
    talk = llm.conversation(tools=[look])
    stream = talk.stream("Look", keep_partial=True)
    assert list(stream) == ["See. "] and ran == [1] and len(server.requests) == 1
    assert [message["role"] for message in talk.messages] == ["user", "assistant", "tool"]


@beside
def test_closed_while_the_next_round_is_asked_for(server, llm):
    """It ends at once, whatever the server does."""
    script(server, calling("See. ", ("add", {"a": 1})), testing.raw(testing.STALL))
    talk = llm.conversation(tools=[add])
    stream = talk.stream("Add")
    threading.Thread(target=lambda: server.wait_for(2) and stream.close()).start()
    started = time.monotonic()
    assert list(stream) == ["See. "] and within(0, started, 2)
    assert talk.messages == [] and idle(server)
    script(server, "fine")
    assert talk.send("hi").text == "fine"


def test_closed_while_the_cache_is_asked(server):
    """A round that comes from the cache at once is not read either."""
    class Kept(dict):
        def get(self, key, default=None):
            if kept:
                stream.close()
            return super().get(key, default)

    kept = []
    script(server, calling("See. ", ("add", {"a": 1})), "It is 1.")
    with llmlite.Client("m", base_url=server.url, retry=None, cache=Kept()) as llm:
        assert "".join(llm.conversation(tools=[add]).stream("Add")) == "See. It is 1."
        talk = llm.conversation(tools=[add])
        stream = talk.stream("Add")
        kept.append(1)
        assert list(stream) == ["See. "] and talk.messages == [] and len(server.requests) == 2


@beside
def test_closed_before_the_next_round_is_read(server, llm):
    """Between a round's calls and the next one nobody reads on."""
    script(server, calling("", ("add", {"a": 1})), "It is 1.")
    talk = llm.conversation(tools=[add])
    stream = talk.stream("Add")
    for event in stream.events():
        if event.type == "usage":
            stream.close()
    assert talk.messages == [] and len(server.requests) == 1


@both
def test_ctrl_c_while_the_server_is_silent(server, llm, how):
    """It ends the turn at once, and the next one can begin."""
    script(server, testing.raw(testing.STALL), "fine")
    talk = llm.conversation(messages=[HI, YES])
    thread = threading.Thread(target=lambda: server.wait_for(1) and os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        thread.start()
        say(talk, how, "Add")
        time.sleep(5)
    thread.join()
    assert talk.messages == [HI, YES] and say(talk, how, "and?").text == "fine"


@pytest.mark.parametrize("keep", [False, True])
def test_ctrl_c_when_all_is_there(server, llm, keep):
    """An interrupt in the moment in which a turn is put into the history does not put it there twice."""
    class Interrupted(llmlite.Conversation):
        @property
        def usage(self):
            return llmlite.Usage()

        @usage.setter
        def usage(self, usage):
            if usage.total_tokens:
                raise KeyboardInterrupt

    script(server, "fine")
    talk = Interrupted(llm)
    with pytest.raises(KeyboardInterrupt):
        list(talk.stream("hi", keep_partial=keep))
    assert talk.messages == [HI, llmlite.assistant("fine")]


@beside
def test_the_deadline_bounds_the_whole_turn(server, llm):
    """All rounds together."""
    def slow(a: int) -> int:
        time.sleep(0.3)
        return a

    script(server, calling("", ("slow", {"a": 1})), testing.raw(testing.STALL))
    started = time.monotonic()
    with pytest.raises(llmlite.DeadlineExceededError, match="deadline of 0.5 s"):
        list(llm.conversation(tools=[slow], deadline=0.5).stream("Wait"))
    assert within(0.45, started, 0.75)


# -------------------------------------------------------------------------------------------------------- one at a time


@both
@beside
def test_one_turn_at_a_time(server, llm, how):
    """A second one, in a thread, in a tool, or beside an open stream, is a RuntimeError; the first goes on."""
    errors = []

    def again(a: int) -> int:
        for act in (lambda: talk.send("and?"), lambda: talk.stream("and?"), talk.compact, talk.undo):
            with pytest.raises(RuntimeError, match="a turn of this conversation is under way") as caught:
                act()
            errors.append(caught.value)
        return a

    script(server, calling("", ("again", {"a": 1})) if how == "stream" else testing.reply(
        "", tool_calls=[{"id": "c", "name": "again", "arguments": {"a": 1}}]), "fine", "one", "two")
    talk = llm.conversation(tools=[again])
    assert say(talk, how, "hi").text == "fine" and len(errors) == 4 and len(talk.messages) == 4
    stream = talk.stream("and?")
    again(1)
    fork = copy.copy(talk)
    assert fork.send("else?").text == "two" and list(stream) == ["one"]
    assert len(talk.messages) == len(fork.messages) == 6 and talk.messages != fork.messages


@forking
def test_a_forked_child_goes_on_by_itself(server, llm):
    """The turn of the parent is not one of the child's, which has a history of its own."""
    script(server, testing.stream(["a", "b"]), "child", "parent")
    talk = llm.conversation()
    stream = talk.stream("hi")
    assert next(stream) == "a"
    assert forked(lambda: (talk.send("hi").text, len(talk.messages)))() == ("child", 2)
    assert list(stream) == ["b"] and talk.send("and?").text == "parent" and len(talk.messages) == 4


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda talk: pickle.loads(pickle.dumps(talk))],
                         ids=["copy", "deepcopy", "pickle"])
def test_copies(server, llm, copied):
    """A copy goes on by itself: system, tools, options and usage go along."""
    server.handle(answer)
    given = [add]
    talk = llm.conversation(system="s", tools=given, temperature=0, compact_at=9)
    talk.send("hi")
    other = copied(talk)
    other.send("and?")
    assert len(talk.messages) == 2 and len(other.messages) == 4 and other.should_compact
    body = server.requests[1].json
    assert (body["temperature"], body["messages"][0]["content"], len(body["tools"])) == (0, "s", 1)
    other.options["temperature"] = 1
    other.tools.append(MUL)
    assert (talk.options, len(talk.tools), len(given)) == ({"temperature": 0}, 1, 1)


# -------------------------------------------------------------------------------------------------- compaction and undo


def turns(*names):
    return [message for name in names for message in (llmlite.user(f"{name}?"), llmlite.assistant(f"{name}!"))]


def test_compaction(server, llm):
    """All but the last turns are summed up, in one user message that takes their place; usage begins anew."""
    script(server, "one", " They said things. ", "fine")
    talk = llm.conversation(system="s", messages=turns("a", "b", "c"), compact_at=15, model="m", tools=[add],
                            max_tokens=5, stop="x", temperature=0)
    history = talk.messages
    assert not talk.should_compact and talk.send("d?") and talk.should_compact
    spent = llm.ledger.usage
    reply = talk.compact()
    assert reply.text == " They said things. " and talk.messages is history and not talk.should_compact
    assert history == [llmlite.user(SUMMARY + "They said things."), *turns("c"), llmlite.user("d?"),
                       llmlite.assistant("one")]
    assert talk.usage == llmlite.Usage() and llm.ledger.usage == spent + reply.usage
    body = server.requests[1].json
    assert set(body) == {"model", "messages", "temperature"} and body["model"] == "m"
    asked, = body["messages"]
    said, _, prompt = asked["content"].rpartition("\n\n")
    assert said == "user: a?\n\nassistant: a!\n\nuser: b?\n\nassistant: b!" and prompt.startswith("Sum up")
    talk.send("e?")
    assert sent(server)[1] == llmlite.user(SUMMARY + "They said things.\n\nc?")
    assert [turn["role"] for turn in sent(server)[1:]] == ["user", "assistant", "user", "assistant", "user"]
    assert len(talk.messages) == 7


def test_compaction_of_everything(server, llm):
    """keep=0 leaves the summary alone, which the next message goes out with; another prompt, another model."""
    script(server, "S", "fine")
    talk = llm.conversation(messages=turns("a"), model="dear")
    talk.compact(0, "In French.", model="cheap", max_tokens=99)
    body = server.requests[0].json
    assert body["messages"][0]["content"].endswith("assistant: a!\n\nIn French.")
    assert (body["model"], body["max_tokens"]) == ("cheap", 99)
    assert talk.messages == [llmlite.user(SUMMARY + "S")] and talk.undo() == []
    talk.send([{"role": "user", "content": [{"type": "text", "text": "b?"}]}])
    assert sent(server) == [{"role": "user", "content": [
        {"type": "text", "text": SUMMARY + "S"}, {"type": "text", "text": "b?"}]}]
    assert talk.messages[1:] == [{"role": "user", "content": [{"type": "text", "text": "b?"}]},
                                 llmlite.assistant("fine")]
    assert len(talk.undo()) == 2 and talk.messages == [llmlite.user(SUMMARY + "S")]


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
WITH_TOOL = [llmlite.user("Add"), {"role": "assistant", "content": "See.", "tool_calls": [CALL]},
             llmlite.tool_result("c1", 1), llmlite.assistant("1")]
OPEN = [llmlite.user("Add"), {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "c2"}]},
        llmlite.tool_result("c1", 1)]


@pytest.mark.parametrize("messages, keep, left", [
    ([], 0, None), ([], 2, None), (turns("a"), 1, None), (turns("a", "b"), 2, None), (turns("a", "b"), 9, None),
    ([llmlite.user(SUMMARY + "x"), *turns("b")], 1, None), ([llmlite.user(SUMMARY + "x")], 0, None),
    ([YES, *turns("b")], 1, None), (OPEN, 0, None),
    (turns("a", "b"), 1, turns("b")), ([llmlite.user(SUMMARY + "x"), *turns("a", "b")], 1, turns("b")),
    ([*turns("a"), *WITH_TOOL], 1, WITH_TOOL), ([*WITH_TOOL, *turns("a")], 1, turns("a")),
    ([*turns("a"), *OPEN], 0, OPEN), (WITH_TOOL, 0, []), (WITH_TOOL[:3], 0, []),
    ([YES, *turns("a", "b")], 1, turns("b")),
    ([HI, *turns("a"), HI, *turns("b")], 1, [HI, *turns("b")]),
], ids=named)
def test_how_much_is_summed_up(server, llm, messages, keep, left):
    """Whole turns, tool calls with their results; too little is nothing, and nothing is sent."""
    server.reply("S")
    talk = llm.conversation(messages=messages, tools=[add])
    reply = talk.compact(keep=keep)
    if left is None:
        assert reply is None and talk.messages == messages and server.requests == []
    else:
        assert talk.messages == [llmlite.user(SUMMARY + "S"), *left] and "tools" not in server.requests[0].json


def test_system_messages_stay_where_all_else_is_summed_up(server, llm):
    """One that stands in the history is no part of what was said."""
    server.reply("S")
    talk = llm.conversation(system="s", messages=[*turns("a"), llmlite.system("Now in French."), *turns("b")])
    talk.compact(1)
    assert talk.messages == [llmlite.system("Now in French."), llmlite.user(SUMMARY + "S"), *turns("b")]


def test_what_a_summary_is_made_of(server, llm):
    """Text as text, calls and results too, with no tools declared; images and files go along as they are."""
    server.reply("S")
    image = llmlite.user("look", images=[b"\x89PNG\r\n\x1a\n"])
    result = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": ""}, {"a": 1}]}
    more = [{"role": "tool", "tool_call_id": "c2", "content": 5}, {"role": "user", "content": []}]
    talk = llm.conversation(messages=[image, WITH_TOOL[1], result, *more], tools=[add])
    talk.compact(0)
    parts = sent(server)[0]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "text"] and parts[1] == image["content"][1]
    assert parts[0]["text"] == "user: look"
    assert parts[2]["text"].startswith('assistant: See.\n\nassistant calls add({"a": 1}) as c1\n\ntool c1: {"a": 1}\n\n'
                                       "tool c2: 5\n\nSum up")


@pytest.mark.parametrize("reply, error, words", [
    (testing.error(400), llmlite.BadRequestError, "400"),
    (testing.reply(" \n"), llmlite.ResponseError, "the summary is empty"),
    (testing.reply("They s", finish_reason="length"), llmlite.ResponseError, "the summary was cut \\(length\\)"),
    (testing.reply("", finish_reason="content_filter"), llmlite.ResponseError, "the summary is empty")])
def test_a_compaction_that_fails(server, llm, reply, error, words):
    """All stays as it was, and what failed is counted."""
    server.handle(lambda request: reply)
    talk = llm.conversation(messages=turns("a", "b", "c"))
    talk.usage = llmlite.Usage(7, 7)
    with pytest.raises(error, match=words) as caught:
        talk.compact()
    assert talk.messages == turns("a", "b", "c") and talk.usage == (7, 7, 0, 0, 0) and llm.ledger.failed == 1
    assert caught.value.attempts == 1 and str(caught.value).startswith("compatible: ")
    assert error is llmlite.BadRequestError or caught.value.response.text in (" \n", "They s", "")


@pytest.mark.parametrize("messages, left", [
    ([], 0), (turns("a"), 0), (turns("a", "b"), 2), ([*turns("a"), *WITH_TOOL], 2), ([YES], 1), ([YES, *turns("a")], 1),
    ([*turns("a"), HI, llmlite.user("also"), YES], 2), ([llmlite.user(SUMMARY + "x"), *turns("a")], 1)], ids=named)
def test_undo(llm, messages, left):
    """The last turn is taken back, from its user's message on, and given to who asks."""
    talk = llm.conversation(messages=messages)
    history = talk.messages
    assert talk.undo() == messages[left:] and talk.messages == messages[:left] and talk.messages is history


@pytest.mark.parametrize("usage", [None, (1, 2, 3, 4, 5)], ids=named)
@pytest.mark.parametrize("act", ["send", "stream", "compact", "undo", "save"])
def test_a_usage_that_is_none(server, llm, tmp_path, usage, act):
    """It is said before a reply is paid for that could not be added to it."""
    talk = llm.conversation(messages=turns("a"))
    talk.usage = usage
    given = {"send": ["hi"], "stream": ["hi"], "compact": [0], "undo": [], "save": [tmp_path / "talk.json"]}
    with pytest.raises(llmlite.ConfigurationError, match=f"^usage is a {type(usage).__name__}: give a Usage"):
        getattr(talk, act)(*given[act])
    assert server.requests == [] and talk.messages == turns("a") and os.listdir(tmp_path) == []


@pytest.mark.parametrize("history, words", [
    (None, "messages is a NoneType: give a list of message dicts"), ((HI,), "messages is a tuple: give a list"),
    ([HI, llmlite.Response()], "messages[1], a Response, has role None"), ([HI, "hi"], "messages[1] is a str: give a"),
    ([{"role": "user", "content": [5]}, YES], "messages[0].content[0] is a int")], ids=named)
@pytest.mark.parametrize("act", ["send", "stream", "compact", "undo", "save"])
def test_a_history_that_is_none(server, llm, tmp_path, history, words, act):
    """It is the user's to change: what is no history is said in a line, before anything is sent or written."""
    talk = llm.conversation()
    talk.messages = history
    given = {"send": ["hi"], "stream": ["hi"], "compact": [0], "undo": [], "save": [tmp_path / "talk.json"]}
    with pytest.raises(llmlite.ConfigurationError) as caught:
        getattr(talk, act)(*given[act])
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert server.requests == [] and talk.messages is history and os.listdir(tmp_path) == []


@pytest.mark.parametrize("act", ["send", "stream", "compact", "undo", "save"])
def test_a_reply_in_the_history(server, llm, tmp_path, act):
    """Who appends a whole reply means its message."""
    server.handle(answer)
    talk = llm.conversation(messages=[HI])
    talk.messages.append(llm.chat("hi"))
    given = {"send": ["and?"], "stream": ["and?"], "compact": [0], "undo": [], "save": [tmp_path / "talk.json"]}
    came = getattr(talk, act)(*given[act])
    assert act != "stream" or list(came) == ["fine"]
    if act == "save":
        assert llm.load_conversation(tmp_path / "talk.json").messages == [HI, llmlite.assistant("fine")]
    elif act == "compact":
        assert "assistant: fine" in sent(server)[0]["content"] and len(talk.messages) == 1
    elif act == "undo":
        assert talk.messages == []
    else:
        assert sent(server) == [HI, llmlite.assistant("fine"), llmlite.user("and?")]


def test_calls_whose_ids_are_none(server, llm):
    """Ids are compared, whatever stands there."""
    call = {"id": [1], "type": "function", "function": {"name": "add", "arguments": "{}"}}
    talk = llm.conversation(messages=[HI, {"role": "assistant", "content": None, "tool_calls": [call]}])
    assert talk.compact(0) is None and server.requests == []  # it waits for its result


# ---------------------------------------------------------------------------------------------------------------- files


def test_a_conversation_as_a_file(server, llm, tmp_path):
    """JSON that its owner alone may read, with no key in it, over what was there; nothing else is left beside it."""
    server.handle(answer)
    path = tmp_path / "talk.json"
    path.write_text("old")
    with llmlite.Client("m", base_url=server.url, api_key="sk-0123456789", retry=None) as client:
        talk = client.conversation(system="s", compact_at=99, tools=[add], temperature=0, model="n")
        talk.send(llmlite.user("look \u03c9\ud83d", images=[b"\x89PNG\r\n\x1a\n"]))
        talk.save(path)
    assert os.listdir(tmp_path) == ["talk.json"] and "sk-0123456789" not in path.read_text()
    assert sys.platform == "win32" or stat.S_IMODE(path.stat().st_mode) == 0o600
    saved = json.loads(path.read_text())
    assert {name: saved[name] for name in ("model", "provider", "system", "compact_at", "conversation")} == {
        "model": "n", "provider": "compatible", "system": "s", "compact_at": 99, "conversation": 1}
    assert saved["messages"] == talk.messages and saved["usage"]["input_tokens"] == talk.usage.input_tokens
    again = llm.load_conversation(str(path))
    assert (again.messages, again.system, again.usage, again.compact_at) == (
        talk.messages, talk.system, talk.usage, talk.compact_at)
    assert (again.tools, again.options, again.client) == ([], {}, llm)
    assert again.send("and?").messages[:2] == talk.messages
    again = llm.load_conversation(path, tools=[add], temperature=1)
    assert (again.tools, again.options) == ([add], {"temperature": 1})
    assert (again.system, again.compact_at) == (talk.system, talk.compact_at)
    again = llm.load_conversation(path, system="Be long.", compact_at=9)
    assert (again.system, again.compact_at, again.messages) == ("Be long.", 9, talk.messages)


def test_no_key_in_the_file(server, tmp_path):
    """A key that somebody said, or a server echoed, is masked there, and a token in a header; the history keeps it."""
    key, token, other = (f"{name}-0123456789abcdef" for name in ("sk", "tok", "oth"))
    server.reply(f"your key is {key}, your tokens {token} {other}")
    path = tmp_path / "talk.json"
    with llmlite.Client("test", base_url=server.url, api_key=key, headers={"X-Token": token}) as llm:
        talk = llm.conversation(system=f"The key is {key}.", headers={"X-Other-Token": other})
        talk.send(f"Is it {key}?")
        talk.save(path)
        again = llm.load_conversation(path)
    assert "0123456789abcdef" not in path.read_text()
    assert again.system == "The key is ***."
    assert again.messages == [llmlite.user("Is it ***?"), llmlite.assistant("your key is ***, your tokens *** ***")]
    assert talk.messages[0] == llmlite.user(f"Is it {key}?")


def test_no_key_of_others_in_the_file(server, tmp_path):
    """Nor is the key of a fallback, by which a turn was answered, or one that a function gives."""
    path, keys = tmp_path / "talk.json", [f"{name}-0123456789abcdef" for name in ("one", "two", "fall")]
    options = {"base_url": server.url, "retry": None}
    given = iter([keys[0], keys[0], keys[1]])
    with llmlite.Client("b", api_key=keys[2], **options) as other, llmlite.Client(
            "a", api_key=lambda: next(given), fallbacks=[other], **options) as llm:
        talk = llm.conversation()
        for status, text in ((200, "first"), (500, f"{keys[2]} it is"), (200, f"{keys[0]}, {keys[1]}")):
            if status == 500:
                server.error(500)
            server.reply(text)
            talk.send("Hi")
        talk.save(path)
    texts = [message["content"] for message in json.loads(path.read_bytes())["messages"]]
    assert texts == ["Hi", "first", "Hi", "*** it is", "Hi", "***, ***"]


@pytest.mark.parametrize("content", [b"bytes", {1, 2}, float("nan") * 1j], ids=named)
def test_what_cannot_be_saved(llm, tmp_path, content):
    """A file that is there stays as it was."""
    path = tmp_path / "talk.json"
    llm.conversation(messages=turns("a")).save(os.fsencode(str(path)))
    before = path.read_bytes()
    talk = llm.conversation()
    talk.messages.append({"role": "tool", "content": {"made": content}})
    with pytest.raises(llmlite.ConfigurationError, match="the conversation cannot be written as JSON"):
        talk.save(path)
    assert path.read_bytes() == before
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "none" / "talk.json", tmp_path / "folder"):  # what it names is what was asked for
        with pytest.raises(OSError) as caught:
            llm.conversation().save(place)
        assert caught.value.filename == str(place) and str(caught.value).endswith(f": {str(place)!r}")
    assert sorted(os.listdir(tmp_path)) == ["folder", "talk.json"]


GOOD = {"conversation": 1, "system": None, "messages": turns("a"), "usage": {"input_tokens": 3}, "compact_at": None}


@pytest.mark.parametrize("saved, words", [
    (None, "No such file"), ("", "Expecting value"), ("{", "Expecting"), (b"\xff\xfe", "codec can't decode"),
    pytest.param("[" * 100000, "recursion", id="deep"), ([], "it has no list of m"), ({"a": 1}, "it has no list of m"),
    ({**GOOD, "conversation": 2}, "it is of form 2, this version of llmlite reads 1"),
    ({**GOOD, "conversation": None}, "it is of form None"), ({**GOOD, "messages": "hi"}, "it has no list of messages"),
    ({**GOOD, "messages": ["hi"]}, "messages[0] is a str: give"), ({**GOOD, "system": 5}, "system is a int"),
    ({**GOOD, "usage": {"input_tokens": "3"}}, "usage.input_tokens='3'"),
    ({**GOOD, "usage": {"input_tokens": -3}}, "usage.input_tokens=-3"),
    ({**GOOD, "compact_at": "x"}, "compact_at='x'")], ids=named)
def test_files_that_are_none(llm, tmp_path, saved, words):
    """One line that names the file, and why."""
    path = tmp_path / "talk.json"
    if saved is not None:
        path.write_bytes(saved if isinstance(saved, bytes) else (
            saved if isinstance(saved, str) else json.dumps(saved)).encode())
    with pytest.raises(llmlite.ConfigurationError) as caught:
        llm.load_conversation(path)
    assert str(caught.value).startswith(f"{path} is no saved conversation: ") and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_somebody_wrote(llm, tmp_path):
    """What is left out is nothing, a mark of Windows editors is none; an empty conversation is one."""
    path = tmp_path / "talk.json"
    path.write_text("\ufeff" + json.dumps(GOOD), encoding="utf-8")
    talk = llm.load_conversation(path)
    assert (talk.usage, talk.messages) == (llmlite.Usage(3), turns("a"))
    path.write_text(json.dumps({"messages": []}))
    assert llm.load_conversation(os.fsencode(str(path))).messages == []
    with pytest.raises(TypeError, match="unexpected keyword argument 'temprature'"):
        llm.load_conversation(path, temprature=0)


@beside
def test_a_stream_leaves_no_cycle(server, llm):
    """A conversation whose stream was read, or left, is gone when its last name is."""
    import weakref
    script(server, calling("See. ", ("add", {"a": 1})), "It is 1.", testing.stream(["a"] * 40, end="stall"))
    talk = llm.conversation(tools=[add])
    assert "".join(talk.stream("Add")) == "See. It is 1."
    next(talk.stream("hi"))
    gone = weakref.ref(talk)
    del talk
    assert soon(lambda: gone() is None)
