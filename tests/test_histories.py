"""Conversations with tools on every dialect, saved as JSON between turns, and carried from one dialect to another."""
import itertools
import json
import re

import pytest

from tests import llmlite, named, testing
from tests.dialects import HI, anthropic, gemini, responses
from tests.dialects.openai import DONE

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
# The script of every conversation: two calls at once, then a third, then the answer.
TURNS = ([("add", {"a": 1}), ("add", {"a": 2})], [("mul", {"b": 3})], "It is 6.")
RESULTS = {"add1": {"sum": 1}, "add2": {"sum": 2}, "mul3": "six"}


def result_of(call):
    return RESULTS[call.name + str(next(iter(call.arguments.values())))]


# ------------------------------------------------------------------------------------------- each dialect's side of it
# turn(at) makes a dialect's answer as (body, events of the same as a stream); "SIG" marks what must go back verbatim
# and may reach nobody else; heard(body) reads a request back as [(what, id, name or None, arguments or result)].


class OpenAI:
    path = "/v1/chat/completions"

    def __init__(self, name, message=None, call=None):
        self.name = name
        self.message, self.call = message or {}, call or {}

    def turn(self, at):
        if isinstance(TURNS[at], str):
            message, finish = {"role": "assistant", "content": TURNS[at]}, "stop"
        else:
            calls = [{"id": f"call{at}{n}wxyz", "type": "function", **self.call, "function": {
                "name": name, "arguments": json.dumps(args)}} for n, (name, args) in enumerate(TURNS[at])]
            message, finish = {"role": "assistant", "content": None, "tool_calls": calls, **self.message}, "tool_calls"
        calls = message.get("tool_calls", [])
        delta = {**message, "tool_calls": [{"index": n, **call} for n, call in enumerate(calls)]}
        chunks = [{"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
                  {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}, DONE]
        return {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": finish}]}, chunks

    def heard(self, body):
        for message in body["messages"]:
            for call in message.get("tool_calls", ()):
                assert set(call) <= {"id", "type", "function", *self.call}
                yield "call", call["id"], call["function"]["name"], json.loads(call["function"]["arguments"])
            if message["role"] == "tool":
                assert set(message) == {"role", "tool_call_id", "content"}
                yield "result", message["tool_call_id"], None, message["content"]
            elif message.get("content"):
                yield "text", None, message["role"], message["content"]


class Responses:
    name, path = "responses", "/v1/responses"
    thought = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "SIG-responses"}

    def turn(self, at):
        if isinstance(TURNS[at], str):
            items = [responses.text_item(TURNS[at])]
        else:
            items = [self.thought, *(responses.call_item(f"call{at}{n}", name, json.dumps(args))
                                     for n, (name, args) in enumerate(TURNS[at]))]
        events = [responses.event("response.output_item.done", output_index=index, item=item)
                  for index, item in enumerate(items)]
        return responses.body(*items), [*responses.start(), *events, *responses.end(*items)]

    def heard(self, body):
        for item in body["input"]:
            if item.get("type") == "function_call":
                yield "call", item["call_id"], item["name"], json.loads(item["arguments"])
            elif item.get("type") == "function_call_output":
                assert set(item) == {"type", "call_id", "output"}
                yield "result", item["call_id"], None, item["output"]
            elif "role" in item:
                yield "text", None, item["role"], item["content"]


class Anthropic:
    name, path = "anthropic", "/v1/messages"
    thinking = {"type": "thinking", "thinking": "hm", "signature": "SIG-anthropic"}
    thought = list(anthropic.block(0, {"type": "thinking", "thinking": "", "signature": ""}, {
        "type": "thinking_delta", "thinking": "hm"}, {"type": "signature_delta", "signature": "SIG-anthropic"}))

    def turn(self, at):
        if isinstance(TURNS[at], str):
            text = {"type": "text", "text": TURNS[at]}
            return anthropic.body(text), [anthropic.start(), *anthropic.text_block(0, TURNS[at]), *anthropic.end()]
        calls = [(f"toolu_{at}{n}", name, args) for n, (name, args) in enumerate(TURNS[at], 1)]
        uses = [{"type": "tool_use", "id": id, "name": name, "input": args} for id, name, args in calls]
        events = [anthropic.use(n, id, json.dumps(args), name=name) for n, (id, name, args) in enumerate(calls, 1)]
        return (anthropic.body(self.thinking, *uses, reason="tool_use"),
                [anthropic.start(), *self.thought, *itertools.chain(*events), *anthropic.end("tool_use")])

    def heard(self, body):
        roles = [turn["role"] for turn in body["messages"]]
        assert all(one != two for one, two in zip(roles, roles[1:])), roles  # all results of a turn in one message
        for turn in body["messages"]:
            content = turn["content"]
            for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
                if block["type"] == "tool_use":
                    yield "call", block["id"], block["name"], block["input"]
                elif block["type"] == "tool_result":
                    yield "result", block["tool_use_id"], None, block["content"]
                elif block["type"] == "text":
                    yield "text", None, turn["role"], block["text"]


class Gemini:
    name, path = "gemini", "/v1beta/models/m:"

    def turn(self, at):
        if isinstance(TURNS[at], str):
            parts = [{"text": TURNS[at]}]
        else:
            parts = [{"functionCall": {"name": name, "args": args}} for name, args in TURNS[at]]
            parts[0]["thoughtSignature"] = f"SIG-gemini-{at}"
        pieces = [gemini.piece(part) for part in parts]
        return gemini.body(*parts, responseId=f"r{at}"), [*pieces, {**gemini.last(), "responseId": f"r{at}"}]

    def heard(self, body):
        for content in body["contents"]:
            for part in content["parts"]:
                if "functionCall" in part:
                    yield "call", None, part["functionCall"]["name"], part["functionCall"]["args"]
                elif "functionResponse" in part:
                    told = part["functionResponse"]
                    yield "result", None, told["name"], told["response"]["output"]
                elif part.get("text"):
                    yield "text", None, {"model": "assistant"}.get(content["role"], "user"), part["text"]


DETAILS = [{"type": "reasoning.encrypted", "data": "SIG-openrouter", "id": "r", "index": 0, "format": "f"}]
DIALECTS = {dialect.name: dialect for dialect in (
    OpenAI("openai"), OpenAI("mistral"), OpenAI("vllm", {"reasoning": "SIG-vllm"}),
    OpenAI("llamacpp", {"reasoning_content": "SIG-llamacpp"}),
    OpenAI("deepseek", {"reasoning_content": "SIG-deepseek"}), OpenAI("openrouter", {"reasoning_details": DETAILS}),
    OpenAI("gemini-openai", {}, {"extra_content": {"google": {"thought_signature": "SIG-gemini-openai"}}}),
    Responses(), Anthropic(), Gemini())}
KEEPS = ("deepseek", "openrouter", "gemini-openai", "vllm", "llamacpp", "responses",
         "anthropic", "gemini")  # those that want something back verbatim


def client(server, name):
    base = server.root + "/v1beta" if name == "gemini" else server.url
    provider, api = ("openai", name) if name == "responses" else (name, "auto")
    return llmlite.Client("m", provider=provider, base_url=base, api_key="k-123456", retry=None, api=api)


def ask(server, llm, dialect, at, history, how):
    """One turn: the reply, and the request that was sent for it."""
    body, events = dialect.turn(at)
    if how == "chat":
        server.json(body)
        reply = llm.chat(history, tools=[TOOL])
    else:
        server.sse(events)
        with llm.stream(history, tools=[TOOL]) as stream:
            list(stream.events())
        reply = stream.response
    return reply, server.requests[-1]


def play(server, llm, dialect, how, turns, history=(HI,)):
    """So many turns of the script; the history after them, saved and loaded at each, and the last reply."""
    history = list(history)
    for at in turns:
        reply, _ = ask(server, llm, dialect, at, history, how)
        history += [reply.message, *(llmlite.tool_result(call, result_of(call)) for call in reply.tool_calls)]
        history = json.loads(json.dumps(history))
    return history, reply


CALLS = [("add", {"a": 1}), ("add", {"a": 2}), ("mul", {"b": 3})]
ANSWERS = [{"sum": 1}, {"sum": 2}, "six"]


def check_heard(dialect, body, calls, texts):
    """The request tells of so many calls, each answered in its order and under its id, and of these texts."""
    heard = list(dialect.heard(body))
    kinds = [what for what, *_ in heard if what != "text"]
    assert kinds == (["call"] * 2 + ["result"] * 2 + ["call", "result"])[:2 * calls]
    assert [(name, args) for what, _, name, args in heard if what == "call"] == CALLS[:calls]
    results = [(id, name, value) for what, id, name, value in heard if what == "result"]
    assert [value if dialect.name == "gemini" or value == "six" else json.loads(value)
            for _, _, value in results] == ANSWERS[:calls]
    assert [name for _, name, _ in results] == [
        name if dialect.name == "gemini" else None for name, _ in CALLS[:calls]]
    ids = [id for what, id, *_ in heard if what == "call"]
    assert ids == [id for id, *_ in results] and (dialect.name == "gemini" or len(set(ids)) == calls)
    assert [(role, text) for what, _, role, text in heard if what == "text"] == texts


@pytest.mark.parametrize("how", ["chat", "stream"])
@pytest.mark.parametrize("name", DIALECTS)
def test_a_conversation_with_tools(server, name, how):
    """Two calls at once, a third, an answer: each turn tells the provider all that was before it."""
    dialect = DIALECTS[name]
    with client(server, name) as llm:
        history, reply = play(server, llm, dialect, how, range(3))
    assert (reply.text, reply.finish_reason, reply.tool_calls) == ("It is 6.", "stop", [])
    assert [message["role"] for message in history] == [
        "user", "assistant", "tool", "tool", "assistant", "tool", "assistant"]
    first, second, third = server.requests
    for request, calls in ((first, 0), (second, 2), (third, 3)):
        assert request.path.startswith(dialect.path)
        check_heard(dialect, request.json, calls, [("user", "hi")])
        assert b"llmlite" not in request.body
        assert request.body.count(b"SIG-" + name.encode()) == (name in KEEPS) * signatures(name, calls)


def signatures(name, calls):
    """How many signatures so many calls come with: one a turn, at gemini-openai here one a call."""
    return calls if name == "gemini-openai" else (0, 0, 1, 2)[calls]


def verbatim(dialect, body):
    """What of a request the provider wants back as it was."""
    if dialect.name == "anthropic":
        return [turn["content"] for turn in body["messages"] if turn["role"] == "assistant"]
    if dialect.name == "responses":
        return [item for item in body["input"] if "call" in item.get("id", "") or item.get("type") == "reasoning"]
    if dialect.name == "gemini":
        return [content["parts"] for content in body["contents"] if content["role"] == "model"]
    return [message for message in body["messages"] if message["role"] == "assistant"]


@pytest.mark.parametrize("how", ["chat", "stream"])
@pytest.mark.parametrize("name", KEEPS)
def test_its_own_words_go_back_verbatim(server, name, how):
    """What the provider said in its turns with tools is what it is told that it said, to the last key."""
    dialect = DIALECTS[name]
    with client(server, name) as llm:
        play(server, llm, dialect, how, range(3))
    said = [dialect.turn(at)[0] for at in (0, 1)]
    if name == "anthropic":
        said = [body["content"] for body in said]
    elif name == "responses":
        said = [item for body in said for item in body["output"]]
    elif name == "gemini":
        said = [body["candidates"][0]["content"]["parts"] for body in said]
    else:
        said = [body["choices"][0]["message"] for body in said]
    assert verbatim(dialect, server.requests[2].json) == said


@pytest.mark.parametrize("turns", [1, 3], ids=["amid-tools", "after"])
@pytest.mark.parametrize("start", DIALECTS)
def test_a_history_goes_on_elsewhere(server, start, turns):
    """A history begun on one dialect goes on at every other: whole, and without what is for the first one's eyes."""
    with client(server, start) as llm:
        history, _ = play(server, llm, DIALECTS[start], "chat", range(turns))
    for name, dialect in DIALECTS.items():
        with client(server, name) as llm:
            more = [] if turns == 1 else [{"role": "user", "content": "and?"}]
            reply, request = ask(server, llm, dialect, 2, [*history, *more], "stream")
        assert reply.text == "It is 6."
        texts = [("user", "hi")] + ([("assistant", "It is 6."), ("user", "and?")] if more else [])
        check_heard(dialect, request.json, 2 if turns == 1 else 3, texts)
        assert b"llmlite" not in request.body
        assert set(re.findall(rb"SIG-([a-z-]*[a-z])", request.body)) == (
            {start.encode()} if name == start and name in KEEPS else set())


@pytest.mark.parametrize("name", DIALECTS)
def test_a_history_goes_there_and_back(server, name):
    """Begun on one dialect, continued on another, taken up again: the first finds its own words unchanged."""
    dialect, other = DIALECTS[name], DIALECTS["openai" if name != "openai" else "anthropic"]
    with client(server, name) as llm, client(server, other.name) as second:
        history, _ = play(server, llm, dialect, "chat", [0])
        history, _ = play(server, second, other, "stream", [1], history)
        reply, request = ask(server, llm, dialect, 2, history, "chat")
    assert reply.text == "It is 6."
    check_heard(dialect, request.json, 3, [("user", "hi")])
    assert request.body.count(b"SIG-") == (name in KEEPS) * signatures(name, 2)


def asking(ids, **own):
    """A history of calls of these ids, and their results."""
    calls = [{"id": id, "type": "function", "function": {"name": "add", "arguments": "{}"}} for id in ids]
    results = [llmlite.tool_result(id, "4") for id in ids]
    return [HI, {"role": "assistant", "content": None, "tool_calls": calls, **own}, *results]


def ids_heard(server, llm, dialect, history):
    """The ids of the calls of a history as it was sent, which are those of its results."""
    heard = list(dialect.heard(ask(server, llm, dialect, 2, history, "chat")[1].json))
    ids, told = ([id for what, id, *_ in heard if what == kind] for kind in ("call", "result"))
    assert ids == told and len(set(ids)) == len(ids)
    return ids


@pytest.mark.parametrize("name, ids, takes", [
    ("anthropic", ["functions.add:0", "", "a" * 65], "[A-Za-z0-9_-]{1,64}"), ("responses", ["a" * 65], ".{1,64}"),
    ("openai", ["chatcmpl-tool-" + "0" * 32], ".{1,40}"), ("mistral", ["functions.add:0"], "[A-Za-z0-9]{9}")])
def test_ids_of_calls_made_elsewhere(server, name, ids, takes):
    """An id that a provider refuses is another one there, the same in call and result; all else stays as it is."""
    history = asking([*ids, "aB3dE6gH9"])
    given = json.dumps(history)
    with client(server, name) as llm:
        heard = ids_heard(server, llm, DIALECTS[name], history)
    assert all(re.fullmatch(takes, id) for id in heard) and not set(ids) & set(heard) and heard[-1] == "aB3dE6gH9"
    assert json.dumps(history) == given


LONG = "functions.add:0" * 9


@pytest.mark.parametrize("name, words", [
    ("anthropic", {"anthropic": [{"type": "tool_use", "id": LONG, "name": "add", "input": {}}]}), ("vllm", {}),
    ("responses", {"openai-responses": {"output": [
        {"type": "function_call", "call_id": LONG, "name": "add", "arguments": "{}"}]}})], ids=named)
def test_ids_of_its_own_calls(server, name, words):
    """Those that a server of its kind gave go back as they came, whatever they are."""
    with client(server, name) as llm:
        assert ids_heard(server, llm, DIALECTS[name], asking([LONG], llmlite=words)) == [LONG]


@pytest.mark.parametrize("name", DIALECTS)
def test_the_loop_that_is_built_in(server, name):
    """run_tools plays the same conversation by itself."""
    dialect, turns = DIALECTS[name], iter(range(3))

    def add(a: int) -> object:
        return {"sum": a}

    def mul(b: int) -> str:
        return "six"

    server.handle(lambda request: testing.json_body(dialect.turn(next(turns))[0]))
    with client(server, name) as llm:
        reply = llm.run_tools("hi", [add, mul])
    assert reply.text == "It is 6."
    check_heard(dialect, server.requests[2].json, 3, [("user", "hi")])
    assert len(reply.messages) == 7


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("given, told", [
    ({"a": 1}, {"a": 1}), ('{"a": 1}', {"a": 1}), ({}, {}), ("", {}), (None, {}), ('{"a": ', {}), ("[1]", {}),
    ("null", {}), ({"a": "\u4e2d"}, {"a": "\u4e2d"}), ('{"a": NaN}', {}), ('{"a": 1e999}', {}),
    ('{"a": "\\ud83d"}', {}), ('{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"})], ids=ascii)
def test_arguments_of_any_form(server, name, given, told):
    """Arguments in a history are an object or its JSON text; what is neither is an empty object, on every dialect."""
    call = {"id": "callabcde", "type": "function", "function": {"name": "add", "arguments": given}}
    server.json(DIALECTS[name].turn(2)[0])
    with client(server, name) as llm:
        llm.chat([HI, {"role": "assistant", "content": None, "tool_calls": [call]},
                  llmlite.tool_result("callabcde", "3")], tools=[TOOL])
    heard = list(DIALECTS[name].heard(server.requests[0].json))
    assert [arguments for what, _, _, arguments in heard if what == "call"] == [told]


@pytest.mark.parametrize("name", DIALECTS)
def test_calls_that_are_no_functions_go_through(server, name):
    """A call without a function, and one whose text is an object, go back as they are where the dialect is OpenAI's."""
    calls = [{"id": "callabcde", "type": "custom", "custom": {"name": "sh", "input": "ls"}},
             {"id": "callfghij", "type": "function", "function": {"name": "add", "arguments": '{ "a":1 }'}}]
    server.json(DIALECTS[name].turn(2)[0])
    with client(server, name) as llm:
        llm.chat([HI, {"role": "assistant", "content": "", "tool_calls": calls}])
    sent = server.requests[0].json
    assert name in ("responses", "anthropic", "gemini") or sent["messages"][1]["tool_calls"] == calls


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("message, words", [
    ({"role": "user", "content": ["hi"]}, "messages[1].content[0] is a str: give a dict"),
    ({"role": "user", "content": [{"type": "text", "text": "a"}, None]}, "messages[1].content[1] is a NoneType: give"),
    ({"role": "tool", "tool_call_id": "c", "content": [1]}, "messages[1].content[0] is a int: give a dict"),
    ({"role": "assistant", "tool_calls": ["x"]}, "messages[1].tool_calls[0] is a str: give a dict"),
    ({"role": "system", "content": 5}, "messages[1].content is a int: give a str or a list of dicts"),
    ({"role": "user", "content": True}, "messages[1].content is a bool: give a str or a list of dicts"),
    ({"role": "assistant", "tool_calls": "x"}, "messages[1].tool_calls is a str: give a list of dicts")], ids=named)
def test_messages_that_are_none(server, name, message, words):
    """What is no part and no call is refused before anything is sent, in one line that says where it stands."""
    with client(server, name) as llm, pytest.raises(llmlite.ConfigurationError) as caught:
        llm.chat([HI, message])
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("system, words", [
    (["be brief"], "system[0] is a str: give a dict"), ([None], "system[0] is a NoneType: give a dict")], ids=repr)
def test_system_prompts_that_are_none(server, name, system, words):
    """A system prompt is a str or a list of parts: none is lost without a word."""
    with client(server, name) as llm, pytest.raises(llmlite.ConfigurationError) as caught:
        llm.chat("hi", system=system)
    assert str(caught.value).startswith(words) and server.requests == []


@pytest.mark.parametrize("given", ["txt", [1], 5, None, "[1]", '{"a": 1}'], ids=repr)
def test_a_providers_own_words_hold_objects(server, given):
    """What goes back verbatim beside thoughts and signatures has an object as a call's arguments too."""
    told = {"a": 1} if given == '{"a": 1}' else {}
    blocks = [{"type": "thinking", "thinking": "t", "signature": "s"},
              {"type": "tool_use", "id": "a", "name": "f", "input": given}]
    parts = [{"functionCall": {"name": "f", "args": given}, "thoughtSignature": "s"}]
    for name, body in (("anthropic", {"type": "message", "content": blocks, "stop_reason": "tool_use"}),
                       ("gemini", {"candidates": [{"content": {"role": "model", "parts": parts}}]})):
        server.json(body)
        server.json(DIALECTS[name].turn(2)[0])
        with client(server, name) as llm:
            first = llm.chat("hi")
            assert first.raw == body or isinstance(given, str)
            llm.chat([HI, json.loads(json.dumps(first.message)), llmlite.tool_result(first.tool_calls[0], "3")])
    anthropic, gemini = server.requests[1].json["messages"][1], server.requests[3].json["contents"][1]
    assert anthropic["content"] == [blocks[0], {**blocks[1], "input": told}]
    assert gemini["parts"] == [{"functionCall": {"name": "f", "args": told}, "thoughtSignature": "s"}]


@pytest.mark.parametrize("given, told", [("{bad", "{}"), ([1], "{}"), (None, "{}"), ('{ "a":1}', '{ "a":1}')], ids=repr)
def test_a_call_in_the_form_of_old(server, given, told):
    """The function_call of old histories goes back with the JSON text of an object."""
    server.json(DIALECTS["openai"].turn(2)[0])
    with client(server, "openai") as llm:
        llm.chat([HI, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": given}},
                  {"role": "function", "name": "f", "content": "r"}])
    assert server.requests[0].json["messages"][1]["function_call"] == {"name": "f", "arguments": told}


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("none", [[], ()], ids=repr)
def test_no_tools_no_choice_of_one(server, name, none):
    """Where no tools are given, which of them to use is not sent either."""
    server.json(DIALECTS[name].turn(2)[0])
    with client(server, name) as llm:
        llm.chat("hi", tools=none, tool_choice="auto")
    assert not {"tools", "tool_choice", "toolConfig"} & set(server.requests[0].json)
