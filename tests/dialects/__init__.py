"""The dialects side by side: a row a behaviour, the same for all; a column a dialect, a module each.

CALLS are made of every column, which says under the same name what is then sent; REPLIES are read from every column's
body and stream of that name. A new dialect is a module with its column, and a word in `test_dialects`.
"""
import json
from dataclasses import dataclass
from typing import Callable, Dict, List, Tuple

from tests import llmlite

FAST = llmlite.RetryPolicy(max_retries=2, backoff=0.001, rate_limit_max_retries=2, rate_limit_backoff=0.001)
KEY = "k-123456"
HI = {"role": "user", "content": "hi"}
PARAMETERS = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"],
              "additionalProperties": False}
ADD = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": PARAMETERS,
                                        "strict": True}}
NOW = {"type": "function", "function": {"name": "now"}}
DOUBLED = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}


@dataclass
class Point:
    x: int


def double(a: int) -> int:
    """Doubles a number."""
    return 2 * a


@dataclass(frozen=True)
class Column:
    """A dialect, or a server that speaks one: what it is sent, and what it says."""

    provider: str
    path: str
    headers: Dict[str, str]  # of every request
    body: Dict  # of every request, but for what a row says
    streamed: Dict  # what a stream's body has beside
    sent: Dict[str, Dict]  # row of CALLS -> what of the body is not as in `body`
    own: Dict[str, Tuple]  # what only it takes: row -> the call, and the same of its body
    said: Dict[str, Tuple]  # row of REPLIES, or of its own -> a body, the events of the same, the reply's other fields
    reply: Dict  # the fields of its replies where no row says otherwise
    hi: Callable  # hi(finish_reason, **usage): the body that says "Hi", and the events of the same
    calling: Callable  # calling(finish_reason, n): those of so many calls of "f"
    ending: int  # how many events end a stream
    finishes: Dict[str, str]  # its words for how an answer ended, and ours
    usages: List[Tuple]  # what it counts, and what we make of it
    errors: List[Tuple]  # status, body, class, attempts
    late: List[Tuple]  # an event that is an error, its class and status
    base: str = ""
    stream_path: str = ""
    model: str = "m"
    api: str = "auto"
    lacks: Tuple[str, ...] = ()  # rows of CALLS that it refuses

    @property
    def name(self):
        return self.provider if self.api == "auto" else self.api

    def client(self, server, retry=None, model=None, **options):
        """A client of `server`."""
        return llmlite.Client(model or self.model, provider=self.provider, base_url=server.root + self.base,
                              retry=retry, **{"api_key": KEY, "api": self.api, **options})

    def calls(self):
        """Row -> the call, and what of the body is not as in `body`."""
        return {**{row: (CALLS[row], sent) for row, sent in self.sent.items()}, **self.own}

    def replies(self):
        """Row -> a body, the events of the same, and all fields of the reply."""
        return {row: (body, events, {**NOTHING, **self.reply, **REPLIES.get(row, {}), **fields})
                for row, (body, events, fields) in self.said.items()}


# --------------------------------------------------------------------------------------------------------- what is sent

CALLED = [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":2}'}},
          {"id": "call_2", "type": "function", "function": {"name": "mul", "arguments": '{"a":3}'}}]
RESULTS = [HI, {"role": "assistant", "content": None, "tool_calls": CALLED}, llmlite.tool_result("call_1", {"sum": 4}),
           llmlite.tool_result("call_2", "boom", is_error=True)]
CALLS = {
    "plain": {},
    "system": {"system": "s"},
    "system-messages": {"messages": [llmlite.system("a"), {"role": "developer", "content": "b"}, HI], "system": "s"},
    "turns": {"messages": [HI, llmlite.assistant("yes?"), HI]},
    "image-data": {"messages": [llmlite.user("look", images=[b"\x89PNG\r\n\x1a\n"])]},
    "image-url": {"messages": [llmlite.user("look", images=["https://x.example/a.png"])]},
    "tools": {"tools": [ADD, NOW, double]},
    "results": {"messages": RESULTS},
    "results-then-text": {"messages": [*RESULTS, {"role": "user", "content": "continue"}]},
    "text-and-calls": {"messages": [HI, {"role": "assistant", "content": "Let me see.", "tool_calls": CALLED[:1]},
                                    llmlite.tool_result("call_1", "4 of them")]},
    "choice-auto": {"tools": [ADD], "tool_choice": "auto"},
    "choice-none": {"tools": [ADD], "tool_choice": "none"},
    "choice-required": {"tools": [ADD], "tool_choice": "required"},
    "choice-of-one": {"tools": [ADD], "tool_choice": "add"},
    "choice-of-one-dict": {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "add"}}},
    "schema-dict": {"schema": dict},
    "schema": {"schema": POINT},
    "schema-dataclass": {"schema": Point},
    "sampling": {"temperature": 0.0, "top_p": 0.5, "top_k": 3, "max_tokens": 7, "stop": ["a", "b"]},
    "one-stop": {"stop": "END"},
    "seed": {"seed": 0},
    "effort": {"reasoning_effort": "low"},
    "logprobs": {"logprobs": True},
    "three-logprobs": {"logprobs": 3},
    "no-logprobs": {"logprobs": False},
    "extra": {"extra": {"x": [1]}},
}

# --------------------------------------------------------------------------------------------------------- what is read

FIELDS = ("text", "reasoning", "tool_calls", "finish_reason", "raw_finish_reason", "usage", "model", "id", "citations",
          "message")
NOTHING = {"text": "", "reasoning": "", "tool_calls": [], "finish_reason": "stop", "model": "served", "citations": []}
REPLIES = {  # row -> the fields of the reply that are the same for all
    "text": {"text": "Hi there"},
    "nothing": {},
    "reasoning": {"text": "Hi", "reasoning": "hm, so"},
    "tool": {"finish_reason": "tool_calls"},
    "two-tools": {"text": "Let me see.", "finish_reason": "tool_calls"},
    "no-arguments": {"finish_reason": "tool_calls"},
    "citations": {"text": "Hi"},
}


def seen(reply):
    """A reply's fields."""
    return {name: getattr(reply, name) for name in FIELDS}


def drained(stream):
    """The reply of a whole stream."""
    list(stream.events())
    return stream.response


def both(llm):
    """The reply to a chat, and to a stream."""
    yield llm.chat("hi")
    yield drained(llm.stream("hi"))


def check_reply(server, llm, body, events, want):
    """A body and the stream of it give the same Response, field for field; the pieces make it up."""
    server.json(body)
    server.sse(events)
    reply = seen(llm.chat("hi"))
    assert {name: reply[name] for name in want} == want
    stream = llm.stream("hi")
    pieces = list(stream.events())
    assert json.loads(json.dumps(stream.response.to_dict())) == stream.response.to_dict()
    assert seen(stream.response) == reply
    for kind in ("text", "reasoning"):
        assert "".join(piece.text for piece in pieces if piece.type == kind) == want[kind]
    assert [piece.tool_call for piece in pieces if piece.type == "tool_call"] == want["tool_calls"]
    assert [piece.usage for piece in pieces if piece.type == "usage"] == [want["usage"]]
    assert pieces[-1].finish_reason == want["finish_reason"]
