"""Types at run time: what may be subscripted, what the annotations name. What checkers say of them: tests/typed."""
import ast
import copy
import functools
import inspect
import json
import pickle
import sys
import typing
from dataclasses import dataclass

import pytest

from tests import llmlite
from tests.typed import __main__ as programs

CLIENT = sys.modules[llmlite.Client.__module__]
ASKED = set(inspect.signature(llmlite.Client.chat).parameters) - {"self", "messages"}


@dataclass
class City:
    name: str


@functools.lru_cache(maxsize=None)
def typed_dicts():
    """The keys of each TypedDict that client.py shows to type checkers, those of its base too."""
    with open(inspect.getsourcefile(CLIENT), encoding="utf-8") as file:
        classes = [node for node in ast.walk(ast.parse(file.read())) if isinstance(node, ast.ClassDef)]
    keys = {"TypedDict": set()}
    for node in classes:
        base = node.bases[0].id if node.bases and isinstance(node.bases[0], ast.Name) else ""
        if base in keys:
            keys[node.name] = keys[base] | {field.target.id for field in node.body}
    return keys


def named(method):
    return set(inspect.signature(method).parameters) - {"self", "options"}


@pytest.mark.parametrize(("options", "method", "taken"), [
    ("_LoneOptions", CLIENT.chat, ASKED), ("_LoneOptions", CLIENT.stream, ASKED),
    ("_RunOptions", CLIENT.Client.run_tools, ASKED),
    ("_EachOptions", CLIENT.Client.map, ASKED),
    ("_TurnOptions", CLIENT.Conversation.send, ASKED | {"max_rounds"}),
    ("_TurnOptions", CLIENT.Conversation.stream, ASKED | {"max_rounds", "keep_partial"}),
    ("_TalkOptions", CLIENT.Client.conversation, ASKED | {"max_rounds"}),
    ("_SumOptions", CLIENT.Conversation.compact, ASKED - {"tools", "schema"})])  # fmt: skip
def test_options(options, method, taken):
    """What checkers are shown to be in **options is what the method takes and does not name itself."""
    assert typed_dicts()[options] == taken - named(method)


def test_subscripts():
    """Stream[str] and Response[City] may stand where Python evaluates them; instances know nothing of it."""
    assert typing.get_origin(llmlite.Stream[str]) is llmlite.Stream
    assert typing.get_args(llmlite.Stream[str]) == (str, typing.Any)
    assert typing.get_args(llmlite.Stream[str, City]) == (str, City)
    assert typing.get_origin(llmlite.Response[City]) is llmlite.Response
    reply = llmlite.Response(text="a", parsed={"name": "Paris"})
    for same in (pickle.loads(pickle.dumps(reply)), copy.deepcopy(reply)):
        assert vars(same) == vars(reply) and type(same) is llmlite.Response
    assert "__orig_class__" not in vars(reply)


def test_hints():
    """What evaluates annotations finds the reasons that a reply may end for, and Any for what only checkers know."""
    hints = typing.get_type_hints(llmlite.Event)
    assert typing.get_args(hints["type"]) == ("text", "reasoning", "tool_call", "usage", "finish")
    assert typing.get_type_hints(llmlite.Client.run_tools)["options"] is typing.Any
    assert typing.get_args(CLIENT.FinishReason) == ("stop", "length", "tool_calls", "content_filter", "other")
    assert set(CLIENT._FINISH_OF.values()) | {"other"} == set(typing.get_args(CLIENT.FinishReason))


def shapes(server):
    return ["response_format" in json.loads(request.body) for request in server.requests]


def test_schema_goes_on(server):
    """The functions and run_tools, which name `schema` for checkers, hand it on; None is none."""
    server.reply('{"name": "Paris"}', times=4)
    where = {"model": "m", "base_url": server.url}
    assert llmlite.chat("Where?", schema=City, **where).parsed == City("Paris")
    with llmlite.stream("Where?", schema=City, **where) as stream:
        assert "".join(stream) and stream.response.parsed == City("Paris")
    client = llmlite.Client("m", base_url=server.url)
    assert client.run_tools("Where?", [], schema=City).parsed == City("Paris")
    assert client.run_tools("Where?", [], schema=None).parsed is None
    assert shapes(server) == [True, True, True, False]


def test_schema_of_a_turn(server):
    """A turn's schema wins over its conversation's, None too; without one it is the conversation's."""
    server.reply('{"name": "Paris"}', times=5)
    talk = llmlite.Client("m", base_url=server.url).conversation(schema=City)
    assert talk.send("Where?").parsed == City("Paris")
    assert talk.send("Where?", schema=dict).parsed == {"name": "Paris"}
    assert talk.send("Where?", schema=None).parsed is None
    for given in ({}, {"schema": City}):
        with talk.stream("Where?", **given) as stream:
            assert "".join(stream) and stream.response.parsed == City("Paris")
    assert shapes(server) == [True, True, False, True, True]


def test_marks():
    """wrong.py has marks to compare with, and each stands on a line of its own."""
    assert len(set(programs.marked())) > 40
