"""`Response.to_dict()`: everything a reply holds, as JSON has it."""
import datetime
import enum
import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar, FrozenSet, List, NamedTuple

import pytest

from tests import llmlite, testing

PLAIN = {"reasoning": "", "tool_calls": [], "finish_reason": "stop", "raw_finish_reason": "stop", "parsed": None,
         "model": "test", "id": "chatcmpl-1", "request_id": None, "citations": [], "tokens": [], "logprobs": [],
         "files": [], "messages": [], "attempts": 1, "cached": False}


def told(reply):
    """What `to_dict` gives, which comes through JSON as it is."""
    said = reply.to_dict()
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    return said


def test_everything_is_told(server, llm):
    """A plain reply: each field but `raw` and `headers`, usage with its total, the message to append."""
    server.reply("Paris", usage=(12, 3))
    reply = llm.chat("Hi")
    said = told(reply)
    assert said.pop("elapsed") == reply.elapsed > 0
    assert said == {
        **PLAIN, "text": "Paris", "message": {"role": "assistant", "content": "Paris"},
        "usage": {"input_tokens": 12, "output_tokens": 3, "cached_tokens": 0, "reasoning_tokens": 0,
                  "cache_write_tokens": 0, "total_tokens": 15}}
    assert set(vars(reply)) - set(said) == {"raw", "headers", "elapsed"}


def test_a_stream_tells_what_it_has(server, llm):
    """The reply of a stream is told while it runs, and whole at its end."""
    server.stream(["Pa", "ris"])
    stream = llm.stream("Hi")
    next(iter(stream))
    assert told(stream.response)["finish_reason"] is None
    list(stream)
    assert told(stream.response)["text"] == "Paris"


def test_tools_and_their_exchange(server, llm):
    """Tool calls are dicts, and so is the whole exchange after `run_tools`."""
    def find(what: str) -> str:
        return what + "!"

    call = {"id": "c1", "name": "find", "arguments": {"what": "x"}}
    server.reply("", tool_calls=[call])
    server.reply("", tool_calls=[call])
    server.reply("done")
    said = told(llm.chat("Hi", tools=[find]))
    assert said["tool_calls"] == [{**call, "raw_arguments": '{"what": "x"}', "invalid": None}]
    assert [turn["role"] for turn in told(llm.run_tools("Hi", [find]))["messages"]] == [
        "user", "assistant", "tool", "assistant"]


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Thing:
    kinds: ClassVar[int] = 3
    name: str
    colour: Colour
    sizes: FrozenSet[int]
    parts: "List[Thing]"


class Pair(NamedTuple):
    left: int
    right: float


class Model:
    """As pydantic's are."""

    @classmethod
    def model_json_schema(cls):
        return {"type": "object"}

    @classmethod
    def model_validate_json(cls, text):
        return cls()

    def model_dump(self, *, mode):
        return {"mode": mode}


class Slotted:
    __slots__ = ()

    def __str__(self):
        return "slotted"


class Plain:
    def __init__(self):
        self.shown, self._hidden = 1, 2


@pytest.mark.parametrize("value, want", [
    (Thing("a", Colour.RED, frozenset([2]), [Thing("b", Colour.RED, frozenset(), [])]),
     {"name": "a", "colour": "red", "sizes": [2], "parts": [{"name": "b", "colour": "red", "sizes": [], "parts": []}]}),
    (Pair(1, math.nan), {"left": 1, "right": None}),
    ({"at": datetime.date(2026, 11, 22), 3: (True, None)}, {"at": "2026-11-22", "3": [True, None]}),
    ([-math.inf, 0.5, b"\xff", bytearray(b"a")], [None, 0.5, "/w==", "YQ=="]),
    (Model(), {"mode": "json"}), (Plain(), {"shown": 1}), (Slotted(), "slotted"),
])
def test_parsed(value: Any, want: Any):
    """Whatever `parsed` is, it is told by what it holds."""
    assert told(llmlite.Response(parsed=value))["parsed"] == want


def test_parsed_by_a_schema(server, llm):
    """A class that a schema made is a dict; so is one that reads JSON itself."""
    @dataclass
    class City:
        name: str

    server.reply('{"name": "Bern"}', times=2)
    assert told(llm.chat("Where?", schema=City))["parsed"] == {"name": "Bern"}
    assert told(llm.chat("Where?", schema=Model))["parsed"] == {"mode": "json"}


def test_files_and_probabilities():
    """What a model made is told as base64, log probabilities by name."""
    said = told(llmlite.Response(
        files=[llmlite.File("image/png", b"\x89PNG")], tokens=[llmlite.Token("a", 7)],
        logprobs=[llmlite.Logprob("a", -math.inf, (llmlite.Logprob("b", -1.5),))]))
    assert said["files"] == [{"mime_type": "image/png", "data": "iVBORw=="}]
    assert said["tokens"] == [{"text": "a", "id": 7, "logprob": None}]
    assert said["logprobs"] == [{"token": "a", "logprob": None, "top": [{"token": "b", "logprob": -1.5, "top": []}]}]


def test_another_endpoints_answer(server, tmp_path):
    """A saved request() that is sent again: the reply's text, and the answer without what is private to it."""
    server.error(400, "no")
    with llmlite.Client("test", base_url=server.url, save_failed=tmp_path, retry=None) as llm:
        with pytest.raises(llmlite.BadRequestError):
            llm.request("POST", "/moderations", json={"input": "x"})
    server.handle(lambda request: testing.json_body({"flagged": False}))
    said = told(llmlite.replay(str(next(tmp_path.iterdir()))))
    assert json.loads(said["text"]) == {"flagged": False} and said["parsed"]["status_code"] == 200
