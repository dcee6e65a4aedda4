"""A scripted LLM provider on a loopback socket, to test code that calls one: no key, no network, no mocks.

Queue answers, run the code, look at what it sent. The server speaks OpenAI chat and completions, llama.cpp's own
completion, Anthropic and Gemini: the request's path decides, so one script serves every provider. Each answer can come
late, torn, compressed or cut short, which is how a program's behaviour on a bad day gets a test.

    >>> import llmlite
    >>> from llmlite import testing

    >>> def capital(llm, country):                      # the code under test
    ...     return llm.chat(f"What is the capital of {country}?").text

    >>> def test_capital():
    ...     with testing.Server() as server:
    ...         server.error(429, retry_after=0.01)     # the first request is refused,
    ...         server.reply("Paris")                   # the second one answered
    ...         llm = llmlite.Client("test", base_url=server.url)
    ...         assert capital(llm, "France") == "Paris"
    ...         assert len(server.requests) == 2
    ...         assert "France" in server.requests[0].json["messages"][0]["content"]

    >>> test_capital()

Anything else that speaks HTTP can be the client. Replies are answered in the order they were queued. Where the order
is not known (threads), give the server a function instead:

    >>> def answer(request):
    ...     return testing.reply(request.json["messages"][-1]["content"].upper())

    >>> with testing.Server() as server:
    ...     _ = server.handle(answer)
    ...     llmlite.Client("test", base_url=server.url).chat("hello").text
    'HELLO'

`Server.batches` has it play the providers' Batch APIs too: files, jobs, results. `record` keeps what a real provider
answered, as a file that `replay` answers from. `Server.check` fails where script and requests do not fit.

How it works, top down: functions build `Reply` objects, which are data; `wire` turns a reply into steps (bytes to send,
seconds to wait, an end); a `Server` plays the steps, one thread a connection. Then come recorded exchanges. The
providers' formats stand last: of answers first, then of batches.
"""

from __future__ import annotations

import abc
import base64
import contextlib
import enum
import http.client
import itertools
import json as jsonlib
import os
import re
import reprlib
import socket
import ssl
import struct
import threading
import time
import traceback
import zlib
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypedDict,
    TypeVar,
    Union,
)
from urllib.parse import parse_qs, unquote, unquote_to_bytes, urlsplit

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "CLOSE", "RESET", "STALL", "Batches", "Job", "Line", "Reply", "Request", "Server",
    "body", "error", "json_body", "raw", "record", "replay", "reply", "sse", "stream",
]  # fmt: skip


class Signal(enum.Enum):
    """How a connection can end, as a step of `raw`."""

    RESET = "reset"
    CLOSE = "close"
    STALL = "stall"


RESET, CLOSE, STALL = Signal.RESET, Signal.CLOSE, Signal.STALL

Step = Union[bytes, float, Signal]
Headers = Union[Mapping[str, Optional[str]], Sequence[Tuple[str, Optional[str]]]]
Json = Dict[str, Any]
Piece = Union[str, Tuple[str, int]]
Usage = Union[Tuple[int, int], Mapping[str, Any], None]
SseEvent = Union[str, bytes, Mapping[str, Any], Tuple[str, Mapping[str, Any]]]
PathLike = Union[str, "os.PathLike[str]"]
F = TypeVar("F", bound="Callable[[Request], Reply | None]")


# ------------------------------------------------------------------------------------------------ replies are data


class How(TypedDict, total=False):
    """What every kind of reply takes beside its content."""

    headers: Headers  # added; in place of a default one of that name; None removes it
    framing: str | None  # "length", "chunked", "close", "gzip" (and chunked) or "gzip-length"
    delay: float  # seconds before the head
    gap: float  # seconds between the body's packets
    split: int | Sequence[int] | None  # cut the body's wire bytes at each so many bytes, or at these offsets
    truncate: int | None  # send so many bytes of the body; the head promises all of it
    end: str  # "" as it should be, "close" (FIN, no last chunk), "reset" (RST) or "stall"
    times: int | None  # how many requests it answers; None: all there will be


class Said(How, total=False):
    """What `reply` and `stream` take beside."""

    tool_calls: Sequence[Mapping[str, Any]]  # `id` (optional), `name`, `arguments` (a dict; a str goes out as it is)
    # "stop" (the default without calls), "tool_calls" (with), "length" or "content_filter", sent as the provider's own
    # word; any other goes out as it is, "" as null.
    finish_reason: str | None
    usage: Usage  # (input, output) tokens; a dict goes out as it is; None: no usage
    model: str | None  # default: the one that the request names
    done: bool  # False leaves out the end mark: [DONE] or message_stop
    status: int


class Shape(NamedTuple):
    """All that an answer's content takes from the request."""

    dialect: _Dialect
    model: str = "test"
    stream: bool = False
    usage: bool = False  # stream_options.include_usage
    inputs: int = 1  # texts to embed


class Body(NamedTuple):
    """An answer's content, before framing."""

    pieces: Sequence[bytes]
    content_type: str = "application/json"
    framing: str = "length"
    headers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, eq=False)
class Reply:
    """One scripted answer, as data; made by the functions of this module and the methods of `Server`.

    Raises ValueError for a framing, an end or a number that makes no sense, TypeError for a status that is no number.
    """

    content: Callable[[Shape], Body]
    status: int = 200
    headers: Headers = ()
    framing: str | None = None
    delay: float = 0.0
    gap: float = 0.0
    split: int | Sequence[int] | None = None
    truncate: int | None = None
    end: str = ""
    times: int | None = 1
    steps: Sequence[Step] | None = None  # of a raw reply: the whole wire
    made: tuple[str, object] = ("reply", "")  # by what, of what: `Server.check` tells
    _wires: dict[Shape, list[Step]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.status, int):
            raise TypeError(f"a status is a number such as 429, not {self.status!r}")
        if self.framing not in (None, "length", "chunked", "close", "gzip", "gzip-length"):
            raise ValueError(f"unknown framing {self.framing!r}")
        if self.end not in ("", "close", "reset", "stall"):
            raise ValueError(f"unknown end {self.end!r}")
        if self.times is not None and self.times < 1:
            raise ValueError(f"times must be 1 or more, or None, not {self.times!r}")
        if (isinstance(self.split, int) and self.split < 1) or (self.truncate or 0) < 0:
            raise ValueError("split must be 1 or more, truncate 0 or more")

    @property
    def name(self) -> str:
        """What `Server.check` calls it."""
        kind, content = self.made
        return f"{kind} {reprlib.repr(content.told if isinstance(content, _Answer) else content)}"


def reply(text: str, *, reasoning: str | None = None, **said: Unpack[Said]) -> Reply:
    """One answer, in the shape that the request's path asks for; in one piece if the request wants a stream.

        reply("", tool_calls=[{"name": "weather", "arguments": {"city": "Rome"}}])

    `text` is the answer, `reasoning` the thoughts before it; the options stand in `Said` and `How`. Raises ValueError
    as `Reply` does.
    """
    return stream([text] if text else [], reasoning=[reasoning] if reasoning else [], **said)


def stream(
    pieces: Iterable[Piece], *, reasoning: Iterable[str] = (), tool_calls: Sequence[Mapping[str, Any]] = (),
    finish_reason: str | None = None, usage: Usage = (10, 5), model: str | None = None, done: bool = True,
    status: int = 200, **how: Unpack[How],
) -> Reply:  # fmt: skip
    """A streamed answer, an event a piece; joined to one if the request wants no stream.

        stream(["Par", "is"], gap=0.1, done=False)

    `pieces` may be `(text, token_id)`, for raw completions; those of `reasoning` come before. OpenAI's usage event goes
    only to those who ask for it. The options (`tool_calls`, `finish_reason`, `usage`, `model`, `done`, `status` and
    more) stand in `Said` and `How`. Raises ValueError as `Reply` does, TypeError for a piece that is no text.
    """
    answer = _Answer(tuple(pieces), tuple(reasoning), tool_calls, finish_reason, usage, model, done)
    for piece in answer.pieces:
        if not isinstance(piece, (str, tuple, list)):
            raise TypeError(f"a text is a str, not {reprlib.repr(piece)}; json() and json_body() take a whole body")
    return Reply(answer.body, status, made=("reply" if len(answer.pieces) < 2 else "stream", answer), **how)


def error(
    status: int, message: str | None = None, *, type: str | None = None, code: str | int | None = None,
    retry_after: float | str | None = None, **how: Unpack[How],
) -> Reply:  # fmt: skip
    """An error in the provider's shape, of this `message`; `type` and `code` default to what goes with the `status`.

        error(429, "slow down", retry_after=0.01)

    `retry_after` (seconds, or a str that goes out as it is) is a header, at Gemini a RetryInfo in the body. Raises
    ValueError as `Reply` does.
    """
    failure = _Failure(status, message or f"scripted error {status}", type, code, retry_after)
    return Reply(failure.body, status, made=("error", status), **how)


def json_body(obj: Any, *, status: int = 200, **how: Unpack[How]) -> Reply:
    """Any JSON body, with this `status`: `obj`, encoded. Raises TypeError if it is no JSON, ValueError as `Reply` does.

        json_body({"choices": []})
    """
    return _fixed("json", obj, Body([_dump(obj)]), status, how)


def sse(events: Iterable[SseEvent], *, status: int = 200, **how: Unpack[How]) -> Reply:
    r"""An event stream: str and bytes verbatim ("data: ...\n\n"), a dict as JSON, `(name, dict)` with its name.

        sse([{"choices": [{"delta": {"content": "Paris"}}]}, "data: [DONE]\n\n"])

    Takes the `events`, and the `status` of the answer. Raises ValueError as `Reply` does.
    """
    sent = [_event(event) for event in events]
    return _fixed("sse", sent, Body(sent, "text/event-stream", "chunked"), status, how)


def body(content: bytes | Iterable[bytes], *, status: int = 200, **how: Unpack[How]) -> Reply:
    """Any body, with this `status`; the pieces of a list as `content` are sent as separate packets.

        body([b'{"choi', b'ces": []}'], headers={"Content-Type": "application/json"})

    Raises ValueError as `Reply` does.
    """
    pieces = [content] if isinstance(content, bytes) else [b"%b" % piece for piece in content]
    return _fixed("body", pieces, Body(pieces, "application/octet-stream"), status, how)


def raw(*steps: Step, times: int | None = 1) -> Reply:
    """The exact wire: bytes to send, seconds to wait, `RESET`, `CLOSE` or `STALL` (silent until the client leaves).

        raw(b"HTTP/1.1 200 OK\\r\\n", 0.1, RESET)

    The connection closes after the last of the `steps`; `times` as in `How`. Raises TypeError for any other step.
    """
    for step in steps:
        if not isinstance(step, (bytes, int, float, Signal)):
            raise TypeError(f"a step is bytes, seconds, RESET, CLOSE or STALL, not {step!r}")
    return Reply(lambda shape: Body(()), steps=(*steps, CLOSE), times=times, made=("raw", steps))


def _fixed(kind: str, given: object, content: Body, status: int, how: How) -> Reply:
    return Reply(lambda shape: content, status, made=(kind, given), **how)


# -------------------------------------------------------------------------------------- from a reply to wire steps

LAST_CHUNK = b"0\r\n\r\n"


def wire(reply: Reply, shape: Shape) -> list[Step]:
    """The steps that play this reply for a request of this shape. Pure, and kept: most replies answer many requests."""
    steps = reply._wires.get(shape)
    if steps is None:
        steps = list(_steps(reply, shape) if reply.steps is None else reply.steps)
        reply._wires[shape] = steps
    return steps


def _steps(reply: Reply, shape: Shape) -> Iterator[Step]:
    body = reply.content(shape)
    framing = reply.framing or body.framing
    pieces = [piece for piece in body.pieces if piece]
    sent = list(_cut(pieces, reply.truncate))
    if framing.startswith("gzip"):
        pieces, sent = _gzip(pieces), _gzip(sent, whole=reply.truncate is None or not reply.end)
    promised = sum(map(len, pieces))
    headers = _headers(reply, body, framing, promised)
    if reply.delay:
        yield reply.delay
    yield from _spaced(_head(reply.status, headers), list(_packets(sent, framing, reply)), reply.gap)
    if reply.end:
        yield Signal(reply.end)
    elif _closes(headers) or (framing.endswith("length") and sum(map(len, sent)) < promised):
        yield CLOSE


def _cut(pieces: Iterable[bytes], limit: int | None) -> Iterator[bytes]:
    for piece in pieces:
        if limit == 0:
            return
        yield piece[:limit]
        limit = None if limit is None else max(0, limit - len(piece))


def _gzip(pieces: Iterable[bytes], whole: bool = True) -> list[bytes]:
    """Each piece flushed, so that it can be read before the next one comes; the trailer only if `whole`."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)  # 31: zlib's number for gzip
    packed = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    return [*packed, packer.flush()] if whole else packed


def _packets(pieces: Sequence[bytes], framing: str, reply: Reply) -> Iterable[bytes]:
    """The framed body, a packet a piece; the last chunk is a packet of its own, as real servers send it."""
    if framing in ("chunked", "gzip"):
        pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
        pieces += [] if reply.end else [LAST_CHUNK]
    return pieces if reply.split is None else _split(b"".join(pieces), reply.split)


def _split(data: bytes, where: int | Sequence[int]) -> Iterator[bytes]:
    cuts = range(where, len(data), where) if isinstance(where, int) else sorted(where)
    for start, end in zip([0, *cuts], [*cuts, len(data)]):
        if data[start:end]:
            yield data[start:end]


def _spaced(head: bytes, packets: list[bytes], gap: float) -> Iterator[Step]:
    """Head and packets with the gaps between; a body of one packet shares its head's, which saves a system call."""
    if len(packets) == 1:
        yield head + packets[0]
        return
    yield head
    for number, packet in enumerate(packets):
        if number and gap and packet != LAST_CHUNK:
            yield gap
        yield packet


def _headers(reply: Reply, body: Body, framing: str, promised: int) -> list[tuple[str, str]]:
    headers = [("Content-Type", body.content_type), *body.headers]
    if framing.startswith("gzip"):
        headers.append(("Content-Encoding", "gzip"))
    if framing in ("chunked", "gzip"):
        headers.append(("Transfer-Encoding", "chunked"))
    elif framing == "close":
        headers.append(("Connection", "close"))
    else:
        headers.append(("Content-Length", str(promised)))
    given = list(reply.headers.items() if isinstance(reply.headers, Mapping) else reply.headers)
    replaced = {name.lower() for name, _ in given}
    kept = [pair for pair in headers if pair[0].lower() not in replaced]
    return kept + [(name, value) for name, value in given if value is not None]


def _head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    phrase = _PHRASES.get(status, "Unknown")
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _closes(headers: Iterable[tuple[str, str]]) -> bool:
    """Whether the connection must end after this head's body: it says so, or nothing else tells where the body ends."""
    values = {name.lower(): value.lower() for name, value in headers}
    return values.get("connection") == "close" or not values.keys() & {"content-length", "transfer-encoding"}


_PHRASES = {status.value: status.phrase for status in HTTPStatus}


# ------------------------------------------------------------------------------------------------ what was received


class RequestHeaders(Mapping[str, str]):
    """Header lookup in any case; lines that repeat a name are joined by ", "."""

    def __init__(self, head: bytes) -> None:
        self._values: dict[str, str] = {}
        for line in head.decode("latin-1").split("\r\n")[1:]:
            name, colon, value = line.partition(":")
            if colon:
                key, value = name.lower(), value.strip()
                self._values[key] = f"{self._values[key]}, {value}" if key in self._values else value

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


class Request:
    """One request as it came in."""

    __slots__ = ("method", "path", "version", "head", "body", "time", "connection", "sent")

    def __init__(self, head: bytes, body: bytes = b"", time: float = 0.0, connection: int = 0) -> None:
        self.method: str
        self.path: str  # with its query
        self.version: str
        self.method, self.path, self.version = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        self.head: bytes = head  # as it was sent
        self.body: bytes = body
        self.time: float = time  # time.monotonic() when the head had arrived whole
        self.connection: int = connection  # its number, from 1
        self.sent: list[tuple[float, int]] = []  # (time.monotonic(), bytes) for each packet given to the socket

    @property
    def headers(self) -> RequestHeaders:
        """The headers, read anew from `head` at each call: a long run keeps its requests small."""
        return RequestHeaders(self.head)

    @property
    def json(self) -> Any:
        """The decoded body. Raises ValueError if it is no JSON."""
        return jsonlib.loads(self.body)

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}, {len(self.body)} bytes>"


def shape_of(request: Request) -> Shape:
    """What the request asks for: its dialect by the path's end, the rest by its body."""
    path = request.path.partition("?")[0].rstrip("/")
    dialect = next((dialect for end, dialect in _ROUTES.items() if path.endswith(end)), None)
    dialect = dialect or next((dialect for part, dialect in _PLACES.items() if part in path), _CHAT)
    try:
        sent = request.json if request.body else {}
    except (ValueError, RecursionError):
        sent = {}
    asked = sent if isinstance(sent, dict) else {}
    options, inputs = asked.get("stream_options"), asked.get("input", asked.get("requests"))
    return Shape(
        dialect,
        str(asked.get("model") or path.partition("/models/")[2].partition(":")[0] or "test"),
        (dialect.streams and asked.get("stream") is True) or path.endswith(":streamGenerateContent"),
        isinstance(options, dict) and options.get("include_usage") is True,
        len(inputs) if isinstance(inputs, list) else 1,
    )


# ------------------------------------------------------------------------------------------------------ the server


class Line(NamedTuple):
    """One request of a batch: what it is called, what is asked, where."""

    custom_id: str
    body: Json
    path: str


class Script(TypedDict, total=False):
    """How a server's batches go; OpenAI's words, which each provider is told in its own."""

    states: Sequence[str]  # what the polls of a job find, one each, before its end
    end: str  # "completed", "failed" (it does not validate), "expired" or "cancelled"
    left: Callable[[Line], bool]  # which lines an expired or cancelled job leaves undone; default: all
    order: Callable[[List[Json]], Iterable[Json]]  # of the lines in a file of results; default: the last one first
    listed_after: float  # seconds for which listings do not show a new job yet
    delay: float  # seconds by which each answer comes late, after what it tells of was done


@dataclass(eq=False)
class Job:
    """A batch as it was submitted, and how far it is."""

    id: str
    api: _BatchApi
    asked: Json  # the body that created it
    lines: Sequence[Line]
    states: list[str]  # to be told yet
    end: str
    status: str = "validating"
    problems: Sequence[Json] = ()  # why it does not validate
    done: list[Json] = field(default_factory=list)  # the results, once it has ended
    failed: list[Json] = field(default_factory=list)
    undone: int = 0
    created: float = field(default_factory=time.time)

    @property
    def ended(self) -> bool:
        """Whether it is at its end."""
        return self.status == self.end


class Batches:
    """The Batch APIs that a `Server` plays, and the count of what was submitted to them.

    Attributes:
        jobs: every `Job` created, in order.
        submitted: how often each custom_id was submitted.
        paid: how often each custom_id was answered, and so paid for.
        files: the bytes of each file by its id, those of results too.
    """

    def __init__(
        self, server: Server, answer: Callable[[Request], Reply | None] | None = None, *,
        states: Sequence[str] = ("validating", "in_progress", "finalizing"), end: str = "completed",
        left: Callable[[Line], bool] = lambda line: True, order: Callable[[List[Json]], Iterable[Json]] = reversed,
        listed_after: float = 0.0, delay: float = 0.0,
    ) -> None:  # fmt: skip
        self.jobs: list[Job] = []
        self.submitted: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.files: dict[str, bytes] = {}
        self.purposes: dict[str, str] = {}  # of uploaded files
        self.states: Sequence[str] = states
        self.end: str = end
        self.left: Callable[[Line], bool] = left
        self.order: Callable[[List[Json]], Iterable[Json]] = order
        self.listed_after: float = listed_after
        self.delay: float = delay
        self._server, self._answer = server, answer
        self._faults: dict[str, deque[tuple[Reply, bool]]] = {step: deque() for step in _BATCH_STEPS}
        self._lock = threading.RLock()

    def fault(self, step: str, reply: Reply, *, after: bool = False) -> None:
        """Answer the next request of a step by `reply`; with `after`, once what was asked for is done.

        The steps are "upload", "file" (is it there?), "create", "list", "poll", "cancel" and "results"; faults of one
        step come in turn. Raises KeyError for any other.

            batches.fault("create", testing.raw(testing.RESET), after=True)     # the job's id is never told
        """
        self._faults[step].extend([(reply, after)] * (reply.times or 1))

    def play(self, request: Request) -> Reply | None:
        """The answer to a request, or None if it is none of a Batch API's."""
        path = f"{request.method} {request.path.partition('?')[0]}"
        for pattern, step, api in _BATCH_ROUTES:
            found = re.search(pattern, path)
            if found:
                with self._lock:
                    reply = self._take(step, api, request, *map(unquote, found.groups()))
                return replace(reply, delay=self.delay) if self.delay and reply.steps is None else reply
        return None

    def unused(self) -> list[str]:
        """The faults that no request has met, in words. Raises nothing.

            assert not batches.unused()
        """
        return [f"{reply.name} as a fault of {step!r}" for step, faults in self._faults.items() for reply, _ in faults]

    def job(self, id: str) -> Job:
        """A job by its id. Raises KeyError.

            batches.job("batch_1").status
        """
        return {job.id: job for job in self.jobs}[id]

    def keep(self, content: bytes, purpose: str = "") -> str:
        """Keep a file; returns its id."""
        id = f"file-{len(self.files) + 1}"
        self.files[id], self.purposes[id] = content, purpose
        return id

    def add(self, api: _BatchApi, asked: Json, lines: Sequence[Line]) -> Job:
        """A new job."""
        problems = api.problems(lines)
        end = "failed" if problems else self.end
        states = [] if problems else list(self.states)
        job = Job(f"{api.prefix}{len(self.jobs) + 1}", api, asked, lines, states, end)
        job.problems = problems or ([{"code": "invalid_request", "message": "scripted", "line": None}] * (
            end == "failed"))
        self.jobs.append(job)
        self.submitted.update(line.custom_id for line in lines)
        return job

    def advance(self, job: Job) -> None:
        """A poll: tell the next of its states, or bring it to its end."""
        if job.states:
            job.status = job.states.pop(0)
        elif not job.ended:
            job.status = job.end
            if job.end != "failed":
                job.api.finish(self, job)

    def answer(self, line: Line) -> tuple[int, Json]:
        """What a line of a batch is answered: status and body."""
        request = Request(f"POST {line.path} HTTP/1.1\r\n\r\n".encode(), _dump(line.body))
        said = _answered(self._answer or self._server._handler or _echo, request)
        self.paid[line.custom_id] += said.status < 300
        return said.status, jsonlib.loads(b"".join(said.content(shape_of(request)).pieces))

    def cancel(self, job: Job) -> bool:
        """Have a job come to its end early; False if it has come there before. Raises nothing.

            batches.cancel(batches.jobs[0])
        """
        if job.ended:
            return False
        job.end, job.states, job.status = "cancelled", ["cancelling"], "cancelling"
        return True

    def _take(self, step: str, api: _BatchApi, request: Request, *found: str) -> Reply:
        fault, after = self._faults[step].popleft() if self._faults[step] else (None, False)
        if fault is not None and not after:
            return fault
        try:
            answer: Reply = getattr(api, f"on_{step}")(self, request, *found)
        except KeyError as unknown:
            answer = error(404, f"there is no {unknown.args[0]}")
        except ValueError as wrong:
            answer = error(400, str(wrong))
        return fault or answer


class Server:
    """A scripted provider on a free port of `host`; speaks TLS if given a server-side `ssl_context`.

        with Server() as server:
            server.reply("Paris")
            llm = llmlite.Client("test", base_url=server.url)

    A context manager; or `start()` and `close()`. Replies are answered in the order they were queued.
    Safe to use from several threads. A client that shuts its side counts as gone. After `close()` no thread, socket or
    file descriptor is left. Raises OSError where it cannot listen, as it starts.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.host: str = host
        self.path: str = "/v1"  # of `url`; `record` and `replay` make it that of the recorded provider
        self.port: int = 0  # known after start()
        self.requests: list[Request] = []  # in order of arrival; may be cleared
        self.connections: int = 0  # accepted so far
        self._ssl_context = ssl_context
        self._changed = threading.Condition()  # guards all that follows, and tells of requests and connections
        self._queue: deque[tuple[Reply, int | None]] = deque()  # with the times left, if they end
        self._handler: Callable[[Request], Reply | None] | None = None
        self._batches: Batches | None = None
        self._recorder: _Recorder | None = None
        self._tapes: list[_Tape] = []
        self._problems: list[str] = []  # requests that nothing was there for, for `check`
        self._open: dict[int, _Connection] = {}
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None

    @property
    def root(self) -> str:
        """`http://HOST:PORT`, or https."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._ssl_context else 'http'}://{host}:{self.port}"

    @property
    def url(self) -> str:
        """`root` + `path`, as a client's base URL."""
        return self.root + self.path

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> Server:
        """Begin to listen. Does nothing if it listens already. Raises OSError if it cannot.

            server = Server().start()
        """
        if self._listener is None:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            self._listener = socket.create_server((self.host, 0), family=family, backlog=512)
            self.port = self._listener.getsockname()[1]
            self._start_thread(self._accept, self._listener)
        return self

    def close(self) -> None:
        """Cut all connections, also those that stall, and end all threads. A handler that still runs gets a second.

            server.close()      # or: with Server() as server:

        Raises nothing.
        """
        with self._changed:
            listener, self._listener = self._listener, None
            for connection in self._open.values():
                connection.cut()
        if self._recorder is not None:
            self._recorder.cut()
        if listener is None:
            return
        with contextlib.suppress(OSError):  # the one portable way to wake accept(); a refusal means that it is awake
            socket.create_connection((self.host, self.port), timeout=0.1).close()
        until = time.monotonic() + 1.0
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
        self._threads.clear()

    def reply(self, text: str, *, reasoning: str | None = None, **said: Unpack[Said]) -> Reply:
        """Queue what the module's `reply` makes of the same arguments, and return it. Raises what that raises.

            server.reply("Paris", delay=0.1)
        """
        return self._add(reply(text, reasoning=reasoning, **said))

    def stream(self, pieces: Iterable[Piece], *, reasoning: Iterable[str] = (), **said: Unpack[Said]) -> Reply:
        """Queue what `stream` makes of the same arguments, and return it. Raises what that raises.

            server.stream(["Par", "is"], end="reset")
        """
        return self._add(stream(pieces, reasoning=reasoning, **said))

    def error(
        self, status: int, message: str | None = None, *, type: str | None = None, code: str | int | None = None,
        retry_after: float | str | None = None, **how: Unpack[How],
    ) -> Reply:  # fmt: skip
        """Queue what `error` makes of the same arguments, and return it. Raises what that raises.

            server.error(503, times=2)
        """
        return self._add(error(status, message, type=type, code=code, retry_after=retry_after, **how))

    def json(self, obj: Any, *, status: int = 200, **how: Unpack[How]) -> Reply:
        """Queue what `json_body` makes of the same arguments, and return it. Raises what that raises.

            server.json({"data": []})
        """
        return self._add(json_body(obj, status=status, **how))

    def sse(self, events: Iterable[SseEvent], *, status: int = 200, **how: Unpack[How]) -> Reply:
        """Queue what `sse` makes of the same arguments, and return it. Raises what that raises.

            server.sse(["data: [DONE]\\n\\n"])
        """
        return self._add(sse(events, status=status, **how))

    def body(self, content: bytes | Iterable[bytes], *, status: int = 200, **how: Unpack[How]) -> Reply:
        """Queue what `body` makes of the same arguments, and return it. Raises what that raises.

            server.body(b"<html>", status=502)
        """
        return self._add(body(content, status=status, **how))

    def raw(self, *steps: Step, times: int | None = 1) -> Reply:
        """Queue what `raw` makes of the same arguments, and return it. Raises what that raises.

            server.raw(STALL)
        """
        return self._add(raw(*steps, times=times))

    def handle(self, function: F) -> F:
        """Answer by `function(request)` whenever no reply is queued. Returns the function, and so is a decorator too.

            server.handle(lambda request: reply(request.json["messages"][-1]["content"].upper()))

        The function returns a Reply, or None for the default answer, which is `reply("ok")`. What it raises becomes an
        answer of status 501. Raises nothing itself.
        """
        self._handler = function
        return function

    def batches(
        self, answer: Callable[[Request], Reply | None] | None = None, **script: Unpack[Script]
    ) -> Batches:
        """Play the Batch APIs of OpenAI, Azure, Groq, Together, Mistral, Anthropic and Gemini: files, jobs, results.

        Each line of a batch is answered by `answer(request)`, else by what `handle` was given, else by an echo of its
        last message. Queued replies come before: they answer any request. The options stand in `Script`.

            batches = server.batches(lambda request: reply("Paris"))

        Raises TypeError for any other option.
        """
        self._batches = Batches(self, answer, **script)
        return self._batches

    def record(self, upstream: str, *, timeout: float = 600.0, ssl_context: ssl.SSLContext | None = None) -> Server:
        """Pass on to a real provider what nothing is queued for, and keep the exchanges for `save`. Returns the server.

        `upstream` is the provider's base URL; `url` stands for it from then on. Answers are passed on piece by piece,
        as they come. `timeout` is the seconds to wait for a piece, `ssl_context` how to trust the provider, which is
        asked through no proxy. Raises ValueError if the URL is none.

            with testing.record("https://api.openai.com/v1") as server:
                program(llmlite.Client("gpt-5-mini", provider="openai", base_url=server.url))
                server.save("tests/program.json")
        """
        self._recorder = _Recorder(upstream, timeout, ssl_context)
        self.path = self._recorder.path
        return self

    def save(self, path: PathLike) -> None:
        """Write what was recorded as a file for `replay`; it is JSON, to be read and edited.

            server.save("tests/program.json")

        No key is in it: of the requests' headers none is kept, and keys are masked wherever they stand. Raises
        ValueError if nothing was recorded, OSError if the file, `path`, cannot be written.
        """
        recorder = self._recorder
        with self._changed:  # a client may have its answer while the end of it is still to be noted
            self._changed.wait_for(lambda: recorder is None or not recorder.asking, 5.0)
        kept = recorder.kept() if recorder else {}
        if not kept.get("exchanges"):
            raise ValueError("nothing was recorded: record(), and requests that are answered, come first")
        text = jsonlib.dumps(kept, ensure_ascii=False, indent=1)
        content = text.encode("utf-8", "backslashreplace")  # a lone surrogate as JSON escapes it
        with open(path, "wb") as file:
            file.write(content + b"\n")

    def replay(self, path: PathLike, *, in_order: bool = False, gap: float = 0.0) -> Server:
        """Answer by the exchanges that `save` wrote to `path`, each of them once. Returns the server.

            server.replay("tests/program.json")

        A request gets the first exchange left whose method, path and body are its own; where there is none, an error
        501 that says what differs. `in_order` takes the exchanges as they were recorded, and compares method and path
        only. `gap` is the seconds between a stream's events. Raises OSError or ValueError for what is no such file.
        """
        tape = _Tape(path, in_order, gap)
        self._tapes.append(tape)
        self.path = tape.path
        return self

    def check(self) -> None:
        """Raises AssertionError, in one line, if a reply was never asked for, or a request came that had none.

            server.check()      # at the end of a test

        Replies are those that were queued (an endless one is to be asked for once), those of `replay`, and faults of
        `batches`. The fixture `llm_server` calls this after the test.
        """
        __tracebackhide__ = True  # pytest shows the line alone
        with self._changed:
            unused = [_left(reply, left) for reply, left in self._queue if left != _USED]
            problems = [problem.replace("llmlite.testing: ", "") for problem in self._problems]
        unused += [name for tape in self._tapes for name in tape.left()]
        unused += self._batches.unused() if self._batches else []
        told = [f"never asked for: {', '.join(unused)}"] if unused else []
        if told or problems:
            raise AssertionError(f"llmlite.testing: {'; '.join(told + problems)}")

    def wait_for(self, n: int, timeout: float = 5.0) -> bool:
        """Wait until `requests` holds `n` of them; False if that took longer than `timeout` seconds. Raises nothing.

            assert server.wait_for(2)
        """
        with self._changed:
            return self._changed.wait_for(lambda: len(self.requests) >= n, timeout)

    def wait_idle(self, timeout: float = 5.0) -> bool:
        """Wait until no connection is open; False if that took longer than `timeout` seconds. Raises nothing.

            assert server.wait_idle()
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout)

    def drop_connections(self) -> int:
        """Close all idle connections, so that a client's pooled ones are stale; returns how many.

            assert server.drop_connections() == 1

        A connection is idle as soon as its answer has gone out: a client that has the answer finds it dropped. Raises
        nothing.
        """
        with self._changed:
            connections = list(self._open.values())
        return sum(connection.drop() for connection in connections)

    def _answer(self, request: Request) -> Iterable[Step]:
        """Note the request and take the next reply's steps for it."""
        shape = shape_of(request)
        try:
            reply = self._next(request)
            if reply is None and self._recorder is not None:
                return self._pass_on(self._recorder, request)
            return wire(reply or self._refuse(f"llmlite.testing: no reply was queued for {_line(request)}"), shape)
        except Exception as problem:  # a faulty script must be seen at once, not hang the client
            traceback.print_exc()
            return wire(self._refuse(f"{type(problem).__name__} while answering: {problem}"), shape)

    def _refuse(self, message: str, status: int = 501) -> Reply:
        """The answer to a request that nothing is there for; `check` tells of it."""
        with self._changed:
            self._problems.append(message)
        return error(status, message)

    def _pass_on(self, recorder: _Recorder, request: Request) -> Iterator[Step]:
        """The steps of a real provider's answer, as it comes."""
        with self._changed:
            exchange = recorder.begin(request)
        try:
            yield from recorder.steps(exchange)
        except (OSError, http.client.HTTPException) as problem:  # there is no answer; later it would be a cut one
            message = f"llmlite.testing: {recorder.upstream} gave no answer: {type(problem).__name__}: {problem}"
            if isinstance(problem, ssl.SSLCertVerificationError):
                message += " (SSL_CERT_FILE names whom to trust, or give ssl_context=)"
            yield from wire(self._refuse(message, 502), shape_of(request))
        finally:
            with self._changed:
                recorder.asking -= 1
                self._changed.notify_all()

    def _next(self, request: Request) -> Reply | None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
            if self._queue:
                return self._take()
            taped = next(filter(None, (tape.take(request) for tape in self._tapes)), None)
        played = taped or (self._batches.play(request) if self._batches else None)
        if played is not None:
            return played
        if self._tapes:
            return self._refuse(f"llmlite.testing: {self._tapes[-1].lack(request)}")
        return None if self._handler is None else _answered(self._handler, request)

    def _take(self) -> Reply:
        taken, left = self._queue.popleft()
        if left is None or left == _USED or left > 1:
            self._queue.appendleft((taken, left - 1 if left else _USED))
        return taken

    def _add(self, reply: Reply) -> Reply:
        with self._changed:
            self._queue.append((reply, reply.times))
        return reply

    def _start_thread(self, target: Callable[..., None], *args: Any) -> None:
        name = f"llmlite.testing:{self.port}"
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        self._threads = [other for other in self._threads if other.is_alive()] + [thread]
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:  # out of descriptors, or the client has left: neither is the end
                    time.sleep(0.01)
                    continue
                with self._changed:
                    if self._listener is not listener:
                        sock.close()
                        return
                    self.connections += 1
                    connection = _Connection(self, sock, self.connections)
                    self._open[self.connections] = connection
                    self._start_thread(connection.run, self._ssl_context)

    def _forget(self, connection: _Connection) -> None:
        with self._changed:  # also for close(): whoever cuts it meanwhile must not meet another's descriptor
            connection.sock.close()
            del self._open[connection.number]
            self._changed.notify_all()


def _answered(answer: Callable[[Request], Reply | None], request: Request) -> Reply:
    """What a function answers a request. Raises TypeError if that is no reply."""
    said = answer(request)
    if not (said is None or isinstance(said, Reply)):
        raise TypeError(f"the function gave {reprlib.repr(said)}: it is to give a Reply, as reply() makes, or None")
    return said or reply("ok")


class _Connection:
    """One client: reads its requests, plays the answers' steps. A client that leaves shows as an OSError."""

    def __init__(self, server: Server, sock: socket.socket, number: int) -> None:
        self.server = server
        self.sock = sock
        self.number = number
        self.buffer = bytearray()
        self.idle = True
        self.sending = threading.Lock()  # held while it sends, so that drop() finds it either busy or really idle

    def run(self, ssl_context: ssl.SSLContext | None) -> None:
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if ssl_context is not None:
                self._wrap(ssl_context)
            while self._serve():
                pass
        except (OSError, ValueError):  # the client left, or what it sent is no HTTP
            pass
        finally:
            self.server._forget(self)

    def cut(self) -> None:
        """End the connection from any thread: whatever it waits for, it wakes."""
        with contextlib.suppress(OSError, ValueError):  # closed already
            # Over a twin: TLS's own shutdown() waits for the client, and a green socket's is another.
            with contextlib.closing(socket.fromfd(self.sock.fileno(), socket.AF_INET, socket.SOCK_STREAM)) as twin:
                twin.shutdown(socket.SHUT_RDWR)

    def drop(self) -> bool:
        if not self.sending.acquire(timeout=1.0):
            return False
        with self.server._changed:
            idle = self.idle
            if idle:
                self.cut()
                self.idle = False
        self.sending.release()
        return idle

    def _wrap(self, ssl_context: ssl.SSLContext) -> None:
        with self.server._changed:  # else cut() could find the plain socket, which has lost its descriptor by then
            wrapped = ssl_context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
            self.sock = wrapped
        wrapped.do_handshake()

    def _serve(self) -> bool:
        """Answer one request; False when the connection is to end."""
        head = self._until(b"\r\n\r\n")
        request = Request(head, b"", time.monotonic(), self.number)
        headers = request.headers
        request.body = self._body(headers)
        steps = self.server._answer(request)
        if headers.get("connection", "").lower() == "close" or request.version == "HTTP/1.0":
            steps = itertools.chain(steps, [CLOSE])
        return self._play(steps, request)

    def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self._exactly(int(headers.get("content-length", 0)))
        body = bytearray()
        while True:
            size = int(self._until(b"\r\n").partition(b";")[0], 16)
            if size == 0:
                break
            body += self._exactly(size + 2)[:-2]
        while self._until(b"\r\n") != b"\r\n":  # trailers
            pass
        return bytes(body)

    def _until(self, mark: bytes) -> bytes:
        seen = 0
        while True:
            end = self.buffer.find(mark, max(0, seen - len(mark)))
            if end >= 0:
                return self._exactly(end + len(mark))
            seen = len(self.buffer)
            self._receive()

    def _exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self._receive()
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def _receive(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionAbortedError("the client left")
        self.buffer += data
        self.idle = False

    def _play(self, steps: Iterable[Step], request: Request) -> bool:
        """Send and wait as the steps say; False when the connection is to end."""
        with self.sending:
            for step in steps:
                if isinstance(step, bytes):
                    request.sent.append((time.monotonic(), len(step)))
                    self.sock.sendall(step)
                elif isinstance(step, Signal):
                    return self._end(step)
                else:
                    self._pause(step)
            self.idle = not self.buffer
        return True

    def _end(self, signal: Signal) -> bool:
        if signal is STALL:
            self._pause(None)
        elif signal is RESET:  # closing with a linger time of 0 sends RST; two shorts make the struct on Windows
            linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        else:
            self._bye()
        return False

    def _bye(self) -> None:
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.setblocking(False)
            with contextlib.suppress(OSError):  # says goodbye, and does not wait for the client's
                self.sock.unwrap()
        self.cut()

    def _pause(self, seconds: float | None) -> None:
        """Wait so long (None: for ever). Raises OSError when the client leaves meanwhile, or the server closes."""
        if seconds is not None and seconds < 0.002:  # a socket's timeout counts in whole milliseconds
            time.sleep(seconds)
            return
        self.sending.release()
        try:
            self._watch(seconds)
        finally:
            self.sock.settimeout(None)
            self.sending.acquire()

    def _watch(self, seconds: float | None) -> None:
        until = None if seconds is None else time.monotonic() + seconds
        with contextlib.suppress(socket.timeout):  # what comes meanwhile is the next request
            while until is None or time.monotonic() < until:
                self.sock.settimeout(None if until is None else max(0.001, until - time.monotonic()))
                self._receive()


# ---------------------------------------------------------------------------------------------- recorded exchanges

_USED = 0  # the times left of an endless reply that was asked for
_KEPT = re.compile(r"(?i)content-(type|encoding)|retry-after(-ms)?|(x-)?request-id|x-should-retry")  # of the headers
_HOP = re.compile(r"(?i)connection|keep-alive|transfer-encoding|content-length|te|trailer|upgrade|proxy-.*")
_SECRET_HEADER = re.compile(r"(?i).*(auth|cookie|credential|jwt|key|password|secret|signature|token).*")
_SECRET_QUERY = re.compile(rb"""(?xi)([?&] (?:[\w.-]*[-_.])?
    (?:auth | code | credential | (?:api)?key | password | secret | sig(?:nature)? | token) =) ([^&]+)""")
_KEY = re.compile(rb"""(?x)(?<![\w-])(?:(?:sk|rk|pk|xai|nvapi|pplx|gsk|hf|r8)[-_][\w*-]{12,} | AIza[\w-]{20,}
    | ya29\.[\w.-]{16,} | AKIA[0-9A-Z]{16} | eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)""")  # as providers make them
_MASK = b"***"
_NOTHING = "(nothing)"
_SHORT = reprlib.Repr()
_SHORT.maxstring = 62


def record(upstream: str, *, timeout: float = 600.0, ssl_context: ssl.SSLContext | None = None) -> Server:
    """A `Server` that passes on to a real provider and keeps the exchanges; takes what `Server.record` takes.

        with record("https://api.openai.com/v1") as server:
            llmlite.Client("gpt-5-mini", provider="openai", base_url=server.url).chat("Hi")
            server.save("tests/program.json")

    Raises ValueError if the URL is none.
    """
    return Server().record(upstream, timeout=timeout, ssl_context=ssl_context)


def replay(path: PathLike, *, in_order: bool = False, gap: float = 0.0) -> Server:
    """A `Server` that answers as recorded; takes what `Server.replay` takes.

        with replay("tests/program.json") as server:
            llmlite.Client("gpt-5-mini", provider="openai", base_url=server.url, api_key="none").chat("Hi")

    Raises OSError or ValueError for what is no such file.
    """
    return Server().replay(path, in_order=in_order, gap=gap)


@dataclass(eq=False)
class _Exchange:
    """A request and what a real provider answered."""

    request: Request
    status: int = 0  # until an answer has begun
    headers: Sequence[tuple[str, str]] = ()
    pieces: list[bytes] = field(default_factory=list)
    end: str = "close"  # until all of it has come

    @property
    def kept(self) -> Json:
        """As it stands in the file."""
        request, keys = self.request, _keys(self.request)
        headers = {name.lower(): _mask_text(value, keys) for name, value in self.headers if _KEPT.fullmatch(name)}
        content = b"".join(self.pieces)
        if headers.get("content-encoding") == "gzip":  # though it was not asked for
            with contextlib.suppress(zlib.error):  # it is none, and stays so
                content = zlib.decompressobj(31).decompress(content)
                del headers["content-encoding"]
        said = _content(_masked(content, keys), headers.get("content-type", ""))
        answer = {"status": self.status, "headers": headers, **said}
        return {"request": _question(request), "reply": _with(answer, end=self.end or None)}


class _Recorder:
    """Asks a real provider, and keeps what it says."""

    def __init__(self, upstream: str, timeout: float, ssl_context: ssl.SSLContext | None) -> None:
        parts = urlsplit(str(upstream))
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ValueError("upstream is a base URL, such as https://api.openai.com/v1, with no password and no query")
        self.upstream: str = f"{parts.scheme}://{parts.netloc}"
        self.path: str = parts.path.rstrip("/")
        self.exchanges: list[_Exchange] = []  # in order of arrival
        self.asking: int = 0  # requests under way
        self._scheme, self._host, self._port = parts.scheme, parts.hostname, parts.port
        self._timeout, self._ssl_context = timeout, ssl_context
        self._open: set[socket.socket] = set()

    def begin(self, request: Request) -> _Exchange:
        self.asking += 1
        self.exchanges.append(_Exchange(request))
        return self.exchanges[-1]

    def kept(self) -> Json:
        """What goes into the file."""
        exchanges = [exchange.kept for exchange in list(self.exchanges) if exchange.status]
        return {"recorded": self.upstream + self.path, "exchanges": exchanges}

    def cut(self) -> None:
        """Wake who waits for the provider, from any thread."""
        for sock in list(self._open):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                sock.shutdown(socket.SHUT_RDWR)

    def steps(self, exchange: _Exchange) -> Iterator[Step]:
        """The answer, a packet as soon as it has come. Raises OSError or HTTPException if none has begun."""
        connection = self._connection()
        connection.connect()
        sock = connection.sock  # which http.client forgets where an answer ends with its connection
        self._open.add(sock)
        try:
            response = self._ask(connection, exchange.request)
            exchange.status, exchange.headers = response.status, response.getheaders()
            passed = [pair for pair in exchange.headers if not _HOP.fullmatch(pair[0])]
            yield _head(response.status, [*passed, ("Transfer-Encoding", "chunked")])
            yield from _passed_on(response, exchange)
        finally:
            self._open.discard(sock)
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._scheme == "http":
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._ssl_context)

    def _ask(self, connection: http.client.HTTPConnection, request: Request) -> http.client.HTTPResponse:
        connection.putrequest(request.method, request.path, skip_accept_encoding=True)
        for name, value in request.headers.items():
            if name not in ("host", "accept-encoding", "expect") and not _HOP.fullmatch(name):
                connection.putheader(name, value)
        connection.putheader("Accept-Encoding", "identity")  # what is kept is to be read
        connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body)
        return connection.getresponse()


def _passed_on(response: http.client.HTTPResponse, exchange: _Exchange) -> Iterator[Step]:
    """A body's packets as they come. The exchange learns at last that all of it has come."""
    left = response.length  # None: not told; http.client does not count it down on every Python
    try:
        while left is None or left > 0:
            piece = response.read1(65536 if left is None else min(left, 65536))
            if not piece:
                break
            left = left and left - len(piece)
            exchange.pieces.append(piece)
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
    except (OSError, http.client.HTTPException):  # an answer that is cut there is cut here
        left = 1
    exchange.end = "close" if left else ""
    yield CLOSE if left else LAST_CHUNK


class _Tape:
    """Exchanges of a file, to be given again."""

    def __init__(self, path: PathLike, in_order: bool, gap: float) -> None:
        with open(path, "rb") as file:
            content = file.read()
        try:
            told = _having(jsonlib.loads(content), recorded=str, exchanges=list)
            self.path: str = urlsplit(told["recorded"]).path
            self._all = list(_recorded(told["exchanges"], gap))
        except (ValueError, RecursionError) as problem:
            raise ValueError(f"{os.fspath(path)} is no recording of llmlite.testing: {problem}") from None
        self._name, self._in_order = os.path.basename(os.fspath(path)), in_order
        self._unused = list(self._all)

    def take(self, request: Request) -> Reply | None:
        """The answer to a request, which is used up with it."""
        asked = _question(request)
        for number, (question, answer) in enumerate(self._unused[:1] if self._in_order else self._unused):
            if _place(question) == _place(asked) and (self._in_order or question == asked):
                del self._unused[number]
                return answer
        return None

    def left(self) -> list[str]:
        return [f"{_place(question)} of {self._name}" for question, _ in self._unused]

    def lack(self, request: Request) -> str:
        """Why there is no answer to a request, and what to do."""
        asked = _question(request)
        place, what = _place(asked), f"{self._name} has no answer left to {_line(request)}"
        if self._in_order:
            return f"{what}: {'next is ' + _place(self._unused[0][0]) if self._unused else 'it is at its end'}"
        same = sum(question == asked for question, _ in self._all)
        near = [question for question, _ in self._unused + self._all if _place(question) == place]
        if same or not near:
            return f"{what}: it was recorded {same} times"
        return f"{what}: {_difference(near[0], asked)}; record it anew, or replay(in_order=True)"


def _recorded(exchanges: Sequence[Any], gap: float) -> Iterator[tuple[Json, Reply]]:
    """The requests of a file, and what to reply to them. Raises ValueError."""
    for number, each in enumerate(exchanges, 1):
        try:
            _having(each, request=dict, reply=dict)
            yield _having(each["request"], method=str, path=str), _reply(each["reply"], gap)
        except ValueError as problem:
            raise ValueError(f"exchange {number}: {problem}") from None


def _reply(said: Json, gap: float) -> Reply:
    """The reply that a file tells of. Raises ValueError."""
    _having(said, status=int, headers=dict)
    headers, end = {"content-type": None, **said["headers"]}, said.get("end", "")
    framing = "chunked" if "events" in said or end else "length"
    return body(_pieces(said), status=said["status"], headers=headers, framing=framing, gap=gap, end=end)


def _having(value: Any, **kinds: type) -> Json:
    """A JSON object that has all this. Raises ValueError."""
    for name, kind in kinds.items():
        if not isinstance(value, dict) or not isinstance(value.get(name), kind):
            raise ValueError(f'there is no "{name}" that is {_JSON_KINDS[kind]}')
    return value  # type: ignore[no-any-return]


_JSON_KINDS = {str: "a string", int: "a number", list: "an array", dict: "an object"}


def _content(content: bytes, kind: str) -> Json:
    """A body as it stands in a file: a stream's events, JSON, text, or else base64."""
    with contextlib.suppress(ValueError, RecursionError):
        if kind.startswith("text/event-stream"):
            return {"events": re.findall(r"(?s).+?(?:\r?\n\r?\n|\Z)", content.decode())}
        return {"json": jsonlib.loads(content)}
    try:
        return {"text": content.decode()}
    except ValueError:
        return {"base64": base64.b64encode(content).decode()}


def _pieces(kept: Json) -> list[bytes]:
    """The body that `_content` kept. Raises ValueError."""
    if "json" in kept:
        return [_dump(kept["json"])]
    if "base64" in kept:
        return [base64.b64decode(_having(kept, base64=str)["base64"])]
    if "text" in kept:
        return [_having(kept, text=str)["text"].encode()]
    events = _having(kept, events=list)["events"]
    return [_having({"events": event}, events=str)["events"].encode() for event in events]


def _question(request: Request) -> Json:
    """What a request asks, without what may differ from one run to the next: headers, keys, a form's boundary."""
    keys, kind = _keys(request), request.headers.get("content-type", "")
    boundary = kind.partition("boundary=")[2].partition(";")[0].strip('"').encode()
    content = request.body.replace(boundary, b"boundary") if boundary else request.body
    path, asked = _mask_text(_open_path(request), keys), _content(_masked(content, keys), "")
    return {"method": request.method, "path": path, **asked}


def _keys(request: Request) -> list[bytes]:
    """What was sent as a key; short words are none, and could stand in any text."""
    values = [value.split()[-1] for name, value in request.headers.items() if value and _SECRET_HEADER.fullmatch(name)]
    sent = [*(value.encode("latin-1") for value in values), *(
        unquote_to_bytes(found[2]) for found in _SECRET_QUERY.finditer(request.path.encode("latin-1")))]
    return [key for key in sent if len(key) >= 8]


def _masked(content: bytes, keys: Iterable[bytes]) -> bytes:
    for key in keys:
        content = re.sub(b"".join(map(_spelt, key)), _MASK, content)
    return _KEY.sub(_MASK, content)


def _spelt(byte: int) -> bytes:
    """A character as JSON, one within another's string too, and addresses may spell it."""
    plain = rb"\\{0,3}/" if byte == 0x2F else re.escape(bytes([byte]))
    return rb"(?:%b|(?i:%%%02x|\\{1,3}u00%02x))" % (plain, byte, byte)


def _mask_text(text: str, keys: Iterable[bytes]) -> str:
    return _masked(text.encode("latin-1", "replace"), keys).decode("latin-1")


def _line(request: Request) -> str:
    return f"{request.method} {_open_path(request)}"


def _open_path(request: Request) -> str:
    """A request's path without the key that Google's may have."""
    return _SECRET_QUERY.sub(rb"\1" + _MASK, request.path.encode("latin-1")).decode("latin-1")


def _place(question: Json) -> str:
    return f"{question['method']} {question['path']}"


def _left(reply: Reply, left: int | None) -> str:
    """A reply in the queue, as `Server.check` tells of it."""
    return reply.name if reply.times in (1, None) else f"{reply.name} ({left} of {reply.times} times)"


def _difference(recorded: Any, asked: Any, where: str = "") -> str:
    """The first place where two values differ."""
    if isinstance(recorded, dict) and isinstance(asked, dict):
        names = [name for name in {**recorded, **asked} if recorded.get(name, _NOTHING) != asked.get(name, _NOTHING)]
        return _difference(recorded.get(names[0], _NOTHING), asked.get(names[0], _NOTHING), f"{where}.{names[0]}")
    if isinstance(recorded, list) and isinstance(asked, list) and len(recorded) == len(asked):
        number = next(number for number, pair in enumerate(zip(recorded, asked)) if pair[0] != pair[1])
        return _difference(recorded[number], asked[number], f"{where}[{number}]")
    if isinstance(recorded, str) and isinstance(asked, str):  # long ones may begin alike
        start = max(0, len(os.path.commonprefix([recorded, asked])) - 20)
        recorded, asked = recorded[start : start + 60], asked[start : start + 60]
    return f"{where[1:]} was {_SHORT.repr(recorded)}, is {_SHORT.repr(asked)}"


# --------------------------------------------------------------------------------------------- the providers' formats


@dataclass(frozen=True)
class _Answer:
    """What the model says, in no provider's shape yet."""

    pieces: Sequence[Piece]
    reasoning: Sequence[str]
    tool_calls: Sequence[Mapping[str, Any]]
    finish_reason: str | None
    usage: Usage
    model: str | None
    done: bool

    def body(self, shape: Shape) -> Body:
        shape = shape._replace(model=self.model or shape.model)
        if shape.stream:
            return Body(list(shape.dialect.events(self, shape)), "text/event-stream", "chunked")
        return Body([_dump(shape.dialect.whole(self, shape))])

    @property
    def told(self) -> object:
        """What tells it from others."""
        texts = self.texts
        return {"tool_calls": [call["name"] for call in self.tool_calls]} if self.tool_calls else (
            texts if len(texts) > 1 else "".join(texts))

    @property
    def texts(self) -> list[str]:
        return [piece if isinstance(piece, str) else piece[0] for piece in self.pieces]

    @property
    def ids(self) -> list[int]:
        return [piece[1] for piece in self.pieces if not isinstance(piece, str)]

    @property
    def calls(self) -> list[tuple[str, str, Any]]:
        """Each tool call's id, name and arguments."""
        numbered = enumerate(self.tool_calls, 1)
        return [(call.get("id", f"call_{n}"), call["name"], call.get("arguments", {})) for n, call in numbered]

    @property
    def joined(self) -> _Answer:
        """The same with all text in one piece, and all reasoning."""
        text, thoughts = "".join(self.texts), "".join(self.reasoning)
        return replace(self, pieces=(text,) if text else (), reasoning=(thoughts,) if thoughts else ())


@dataclass(frozen=True)
class _Failure:
    """An error, in no provider's shape yet."""

    status: int
    message: str
    type: str | None
    code: str | int | None
    retry_after: float | str | None

    def body(self, shape: Shape) -> Body:
        in_body = self.retry_after is None or isinstance(shape.dialect, _Gemini)
        headers = () if in_body else [("Retry-After", str(self.retry_after))]
        return Body([_dump(shape.dialect.error(self))], headers=headers)


class _Dialect(abc.ABC):
    """One provider's way to write an answer: the subclasses say what differs. OpenAI's errors are the default."""

    streams = False  # whether a request's `stream` means anything
    finish_words: Mapping[str, str] = {}
    error_types: Mapping[int, str] = {
        400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
        404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error",
    }  # fmt: skip
    error_codes: Mapping[int, str] = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
    server_error = "server_error"  # the type of a 5xx not among error_types

    @abc.abstractmethod
    def whole(self, answer: _Answer, shape: Shape) -> Json:
        """The body of an answer that is not streamed."""

    @abc.abstractmethod
    def events(self, answer: _Answer, shape: Shape) -> Iterator[bytes]:
        """The events of one that is."""

    def finish(self, answer: _Answer) -> str | None:
        reason = answer.finish_reason
        if reason is None:
            reason = "tool_calls" if answer.tool_calls else "stop"
        return self.finish_words.get(reason, reason) or None

    def error(self, failure: _Failure) -> Json:
        code = failure.code or (None if failure.type else self.error_codes.get(failure.status))
        return {"error": {"message": failure.message, "type": self.kind(failure), "param": None, "code": code}}

    def kind(self, failure: _Failure) -> str:
        other = self.server_error if failure.status >= 500 else self.error_types[400]
        return failure.type or self.error_types.get(failure.status, other)


class _Chat(_Dialect):
    """OpenAI's /chat/completions."""

    streams = True
    prefix, object, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"
    last: Mapping[str, Any] = {"delta": {}}

    def whole(self, answer: _Answer, shape: Shape) -> Json:
        choice = self.choice(self.said(answer), self.finish(answer))
        return _with(self.envelope(self.object, shape, choice), usage=self.usage(answer))

    def events(self, answer: _Answer, shape: Shape) -> Iterator[bytes]:
        early = {"usage": None} if shape.usage else {}
        choices = [self.choice(part, None) for part in self.parts(answer)]
        for choice in [*choices, self.choice(self.last, self.finish(answer))]:
            yield _event({**self.envelope(self.chunk, shape, choice), **early})
        if shape.usage and answer.usage is not None:
            yield _event({**self.envelope(self.chunk, shape), "usage": self.usage(answer)})
        if answer.done:
            yield b"data: [DONE]\n\n"

    def envelope(self, kind: str, shape: Shape, *choices: Json) -> Json:
        head = {"id": f"{self.prefix}-1", "object": kind, "created": 1700000000, "model": shape.model}
        return {**head, "choices": list(choices)}

    def choice(self, content: Mapping[str, Any], finish: str | None) -> Json:
        return {"index": 0, **content, "logprobs": None, "finish_reason": finish}

    def usage(self, answer: _Answer) -> Any:
        return _counts(answer.usage, "prompt_tokens", "completion_tokens", "total_tokens")

    def said(self, answer: _Answer) -> Json:
        text, thoughts = "".join(answer.texts), "".join(answer.reasoning)
        calls = [self.call(*call) for call in answer.calls]
        message = {"role": "assistant", "content": None if calls and not text else text}
        return {"message": _with(message, reasoning_content=thoughts or None, tool_calls=calls or None)}

    def parts(self, answer: _Answer) -> Iterator[Json]:
        yield {"delta": {"role": "assistant", "content": ""}}
        for thought in answer.reasoning:
            yield {"delta": {"reasoning_content": thought}}
        for text in answer.texts:
            yield {"delta": {"content": text}}
        for index, (id_, name, arguments) in enumerate(answer.calls):
            yield {"delta": {"tool_calls": [{"index": index, **self.call(id_, name, "")}]}}
            for part in _halves(arguments):
                yield {"delta": {"tool_calls": [{"index": index, "function": {"arguments": part}}]}}

    def call(self, id_: str, name: str, arguments: Any) -> Json:
        return {"id": id_, "type": "function", "function": {"name": name, "arguments": _text(arguments)}}


class _Text(_Chat):
    """OpenAI's /completions, with vLLM's token ids if the pieces have any."""

    prefix, object, chunk = "cmpl", "text_completion", "text_completion"
    last = {"text": ""}

    def said(self, answer: _Answer) -> Json:
        return _with({"text": "".join(answer.texts)}, token_ids=answer.ids or None)

    def parts(self, answer: _Answer) -> Iterator[Json]:
        for piece in answer.pieces:
            yield {"text": piece} if isinstance(piece, str) else {"text": piece[0], "token_ids": [piece[1]]}


class _Native(_Dialect):
    """llama.cpp's /completion: no list of choices, no [DONE]; `done=False` leaves out the last event."""

    streams = True
    finish_words = {"stop": "eos", "length": "limit"}
    error_types = {**_Dialect.error_types, 501: "not_supported_error", 503: "unavailable_error"}

    def whole(self, answer: _Answer, shape: Shape) -> Json:
        return self.part("".join(answer.texts), answer.ids, self.finish(answer), answer.usage)

    def events(self, answer: _Answer, shape: Shape) -> Iterator[bytes]:
        for text, piece in zip(answer.texts, answer.pieces):
            yield _event(self.part(text, [] if isinstance(piece, str) else [piece[1]]))
        if answer.done:
            yield _event(self.part("", [], self.finish(answer), answer.usage))

    def part(self, text: str, ids: list[int], finish: str | None = None, usage: Usage = None) -> Json:
        part = {"index": 0, "content": text, "tokens": ids, "stop": finish is not None, "stop_type": finish or "none"}
        return {**part, **(_counts(usage, "tokens_evaluated", "tokens_predicted") or {})}

    def error(self, failure: _Failure) -> Json:
        code = failure.code or failure.status
        return {"error": {"code": code, "message": failure.message, "type": self.kind(failure)}}


class _Items(_Chat):
    """OpenAI's /responses."""

    finish_words = {"stop": "completed", "tool_calls": "completed", "length": "max_output_tokens"}

    def whole(self, answer: _Answer, shape: Shape) -> Json:
        return self.response(answer, shape, [item for item, _, _ in self.items(answer.joined)])

    def events(self, answer: _Answer, shape: Shape) -> Iterator[bytes]:
        opened = {**self.response(answer, shape, []), "status": "in_progress", "usage": None}
        yield self.event("response.created", response=opened)
        items = list(self.items(answer))
        for index, (item, begun, deltas) in enumerate(items):
            at = {"item_id": item["id"], "output_index": index}
            yield self.event("response.output_item.added", output_index=index, item={**item, **begun})
            for kind, place, delta in deltas:
                yield self.event(f"response.{kind}.delta", **at, **place, delta=delta)
            yield self.event("response.output_item.done", output_index=index, item=item)
        if answer.done:
            whole = self.response(answer, shape, [item for item, _, _ in items])
            yield self.event(f"response.{whole['status']}", response=whole)

    def event(self, type_: str, **data: Any) -> bytes:
        return _event((type_, {"type": type_, **data}))

    def response(self, answer: _Answer, shape: Shape, items: list[Json]) -> Json:
        finish = self.finish(answer)
        cut = None if finish == "completed" else {"reason": finish}
        head = {"id": "resp_1", "object": "response", "created_at": 1700000000, "model": shape.model, "error": None}
        body = {**head, "status": "incomplete" if cut else "completed", "incomplete_details": cut, "output": items}
        return _with(body, usage=_counts(answer.usage, "input_tokens", "output_tokens", "total_tokens"))

    def items(self, answer: _Answer) -> Iterator[tuple[Json, Json, list[tuple[str, Json, str]]]]:
        """Each item whole, what it begins with, and its deltas: their kind, their place, what they say."""
        if answer.reasoning:
            summary = [{"type": "summary_text", "text": "".join(answer.reasoning)}]
            item = {"id": "rs_1", "type": "reasoning", "summary": summary, "encrypted_content": SIGNATURE}
            begun = {"summary": [], "encrypted_content": ""}
            yield item, begun, [("reasoning_summary_text", {"summary_index": 0}, part) for part in answer.reasoning]
        if answer.pieces or not answer.calls:
            content = [{"type": "output_text", "text": "".join(answer.texts), "annotations": []}]
            item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": content}
            yield item, {"content": []}, [("output_text", {"content_index": 0}, text) for text in answer.texts]
        for number, (id_, name, arguments) in enumerate(answer.calls, 1):
            called = {"type": "function_call", "call_id": id_, "name": name, "arguments": _text(arguments)}
            parts: list[tuple[str, Json, str]] = [
                ("function_call_arguments", {}, part) for part in _halves(arguments)]
            yield {"id": f"fc_{number}", **called, "status": "completed"}, {"arguments": ""}, parts


class _Messages(_Dialect):
    """Anthropic's /messages."""

    streams = True
    finish_words = {
        "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal",
    }  # fmt: skip
    error_types = {**_Dialect.error_types, 409: "conflict_error", 504: "timeout_error", 529: "overloaded_error"}
    server_error = "api_error"

    def whole(self, answer: _Answer, shape: Shape) -> Json:
        content = [{**start, **end} for start, end, _ in self.blocks(answer.joined)]
        return self.message(shape, content, self.finish(answer), answer.usage)

    def events(self, answer: _Answer, shape: Shape) -> Iterator[bytes]:
        early = (answer.usage[0], 1) if isinstance(answer.usage, tuple) else answer.usage
        yield self.event("message_start", message=self.message(shape, [], None, early))
        yield self.event("ping")
        for index, (start, _, deltas) in enumerate(self.blocks(answer)):
            yield self.event("content_block_start", index=index, content_block=start)
            for delta in deltas:
                yield self.event("content_block_delta", index=index, delta=delta)
            yield self.event("content_block_stop", index=index)
        last = {"output_tokens": answer.usage[1]} if isinstance(answer.usage, tuple) else answer.usage
        yield self.event("message_delta", delta={"stop_reason": self.finish(answer), "stop_sequence": None}, usage=last)
        if answer.done:
            yield self.event("message_stop")

    def event(self, type_: str, **data: Any) -> bytes:
        return _event((type_, _with({"type": type_}, **data)))

    def message(self, shape: Shape, content: list[Json], finish: str | None, usage: Usage) -> Json:
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": shape.model}
        body = {**head, "content": content, "stop_reason": finish, "stop_sequence": None}
        return _with(body, usage=_counts(usage, "input_tokens", "output_tokens"))

    def blocks(self, answer: _Answer) -> Iterator[tuple[Json, Json, list[Json]]]:
        """Each block as it starts, what it holds in the end, and the deltas between."""
        if answer.reasoning:
            end = {"thinking": "".join(answer.reasoning), "signature": SIGNATURE}
            deltas = [{"type": "thinking_delta", "thinking": part} for part in answer.reasoning]
            deltas.append({"type": "signature_delta", "signature": SIGNATURE})
            yield {"type": "thinking", "thinking": "", "signature": ""}, end, deltas
        if answer.pieces:
            deltas = [{"type": "text_delta", "text": text} for text in answer.texts]
            yield {"type": "text", "text": ""}, {"text": "".join(answer.texts)}, deltas
        for id_, name, arguments in answer.calls:
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in ("", *_halves(arguments))]
            yield {"type": "tool_use", "id": id_, "name": name, "input": {}}, {"input": arguments}, deltas

    def error(self, failure: _Failure) -> Json:
        details = {"error_code": failure.code} if failure.code else None
        inner = _with({"type": self.kind(failure), "message": failure.message}, details=details)
        return {"type": "error", "error": inner, "request_id": "req_1"}


class _Gemini(_Dialect):
    """Gemini's :generateContent and, with CRLF events and no end mark, :streamGenerateContent."""

    finish_words = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}
    error_types = {
        400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 402: "RESOURCE_EXHAUSTED", 403: "PERMISSION_DENIED",
        404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
    }  # fmt: skip
    server_error = "INTERNAL"

    def whole(self, answer: _Answer, shape: Shape) -> Json:
        return self.part(list(self.parts(answer.joined)), shape, answer.usage, self.finish(answer))

    def events(self, answer: _Answer, shape: Shape) -> Iterator[bytes]:
        early = (answer.usage[0], 0) if isinstance(answer.usage, tuple) else None
        events = [self.part([part], shape, early) for part in self.parts(answer)]
        for event in [*events, self.part([{"text": ""}], shape, answer.usage, self.finish(answer))]:
            yield b"data: %b\r\n\r\n" % _dump(event)

    def part(self, parts: list[Json], shape: Shape, usage: Usage, finish: str | None = None) -> Json:
        candidate = _with({"content": {"role": "model", "parts": parts}}, finishReason=finish, index=0)
        counts = _counts(usage, "promptTokenCount", "candidatesTokenCount", "totalTokenCount")
        return _with({"candidates": [candidate]}, usageMetadata=counts, modelVersion=shape.model, responseId="r-1")

    def parts(self, answer: _Answer) -> Iterator[Json]:
        for thought in answer.reasoning:
            yield {"text": thought, "thought": True}
        for text in answer.texts:
            yield {"text": text}
        for number, (id_, name, arguments) in enumerate(answer.calls):
            call = {"functionCall": {"id": id_, "name": name, "args": arguments}}
            yield _with(call, thoughtSignature=None if number else SIGNATURE)  # of parallel calls, only the first's

    def error(self, failure: _Failure) -> Json:
        details, delay = None, failure.retry_after
        if delay is not None:
            wait = delay if isinstance(delay, str) else f"{delay}s"
            details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": wait}]
        inner = {"code": failure.code or failure.status, "message": failure.message, "status": self.kind(failure)}
        return {"error": _with(inner, details=details)}


class _Embeddings(_Chat):
    """OpenAI's /embeddings: a vector for each input, which begins with the input's number."""

    streams = False

    def whole(self, answer: _Answer, shape: Shape) -> Json:
        data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(_vectors(shape))]
        usage = answer.usage
        if isinstance(usage, tuple):
            usage = {"prompt_tokens": usage[0], "total_tokens": usage[0]}
        return _with({"object": "list", "data": data, "model": shape.model}, usage=usage)


class _GeminiEmbeddings(_Gemini):
    """What the callers of both Gemini's :embedContent and :batchEmbedContents can read."""

    def whole(self, answer: _Answer, shape: Shape) -> Json:
        values = [{"values": vector} for vector in _vectors(shape)]
        return {"embedding": values[0], "embeddings": values}


class _Counts(_Chat):
    """How many tokens a prompt has: the first number of `usage`, under the name that each provider gives it."""

    streams = False

    def whole(self, answer: _Answer, shape: Shape) -> Json:
        count = answer.usage[0] if isinstance(answer.usage, tuple) else 0
        return dict.fromkeys(("input_tokens", "totalTokens", "count"), count)


class _Models(_Chat):
    """A list of one model, which the callers of OpenAI, Anthropic and Gemini can all read."""

    streams = False

    def whole(self, answer: _Answer, shape: Shape) -> Json:
        model = {"id": shape.model, "object": "model", "type": "model", "created": 1700000000, "owned_by": "test"}
        return {"object": "list", "data": [model], "has_more": False, "models": [{"name": f"models/{shape.model}"}]}


def _dump(obj: Any) -> bytes:
    """Compact JSON in UTF-8, as servers write it; a lone surrogate, which UTF-8 has no bytes for, escaped."""
    try:
        return jsonlib.dumps(obj, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return jsonlib.dumps(obj, separators=(",", ":")).encode()


def _event(event: SseEvent) -> bytes:
    if isinstance(event, str):
        return event.encode()
    if isinstance(event, tuple):
        return b"event: %b\ndata: %b\n\n" % (event[0].encode(), _dump(event[1]))
    return event if isinstance(event, bytes) else b"data: %b\n\n" % _dump(event)


def _counts(usage: Usage, *names: str) -> Any:
    """The usage under a dialect's names for input, output and, where it has one, total."""
    return dict(zip(names, (*usage, sum(usage)))) if isinstance(usage, tuple) else usage


def _with(body: Json, **more: Any) -> Json:
    """`body` and those of `more` that are not None."""
    return {**body, **{name: value for name, value in more.items() if value is not None}}


def _text(arguments: Any) -> str:
    """A tool call's arguments as OpenAI writes them: JSON in a string."""
    return arguments if isinstance(arguments, str) else jsonlib.dumps(arguments)


def _halves(arguments: Any) -> tuple[str, str]:
    text = _text(arguments)
    return text[: len(text) // 2], text[len(text) // 2 :]


def _vectors(shape: Shape) -> list[list[float]]:
    return [[float(number), 0.5, -0.25] for number in range(shape.inputs)]


SIGNATURE = "c2lnbmVk"
_CHAT = _Chat()
_ROUTES: Mapping[str, _Dialect] = {  # the first that ends the path
    "/chat/completions": _CHAT,
    "/completions": _Text(),
    "/completion": _Native(),
    "/responses": _Items(),
    **dict.fromkeys(("/input_tokens", "/count_tokens", "/count-tokens:rawPredict", ":countTokens"), _Counts()),
    "/tokenize": _Counts(),
    **dict.fromkeys(("/messages", ":rawPredict", ":streamRawPredict"), _Messages()),
    ":generateContent": _Gemini(),
    ":streamGenerateContent": _Gemini(),
    "/embeddings": _Embeddings(),
    ":embedContent": _GeminiEmbeddings(),
    ":batchEmbedContents": _GeminiEmbeddings(),
    "/models": _Models(),
}
_PLACES: Mapping[str, _Dialect] = {"/messages/batches": _Messages(), "/v1beta/": _Gemini()}  # else the first inside it


# ----------------------------------------------------------------------------------------- the providers' batches


def _echo(request: Request) -> Reply:
    """The answer to a line of a batch unless the script has another: its last message."""
    sent = request.json
    last = (_listed(sent.get("messages") or sent.get("contents") or sent.get("input")) or [""])[-1]
    said = last.get("content", last.get("parts")) if isinstance(last, dict) else last
    return reply("".join(part if isinstance(part, str) else part.get("text", "") for part in _listed(said)))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _form(request: Request) -> dict[str, bytes]:
    """The fields of a multipart form."""
    boundary = re.search(r'boundary="?([^";]+)', request.headers.get("content-type", ""))
    if not boundary:
        raise ValueError("a file comes as multipart/form-data")
    fields = {}
    for part in (b"\r\n" + request.body).split(b"\r\n--" + boundary[1].encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        fields[name[1].decode() if name else ""] = content
    return fields


def _read_lines(content: bytes) -> list[Json]:
    return [jsonlib.loads(line) for line in content.splitlines() if line.strip()]


def _write_lines(lines: Iterable[Json]) -> bytes:
    return b"".join(_dump(line) + b"\n" for line in lines)


class _BatchApi:
    """OpenAI's Batch API, which Azure and Groq have too; what is named after a step takes what its path holds."""

    prefix = "batch_"
    words: Mapping[str, str] = {}  # OpenAI's word of a state -> this provider's

    def on_upload(self, batches: Batches, request: Request) -> Reply:
        fields = _form(request)
        purpose, content = fields["purpose"].decode(), fields["file"]
        return self.on_file(batches, request, batches.keep(content, purpose))

    def on_file(self, batches: Batches, request: Request, id: str) -> Reply:
        told = {"bytes": len(batches.files[id]), "purpose": batches.purposes[id], "status": "processed"}
        return json_body({"id": id, "object": "file", **told})

    def on_create(self, batches: Batches, request: Request) -> Reply:
        asked = request.json
        content = batches.files[asked["input_file_id"]]
        if batches.purposes[asked["input_file_id"]] == "batch-api":
            return _TOGETHER.on_create(batches, request)
        job = batches.add(self, asked, [self.line(line) for line in _read_lines(content)])
        return json_body(self.shown(job))

    def line(self, line: Json) -> Line:
        return Line(line["custom_id"], line["body"], line["url"])

    def problems(self, lines: Sequence[Line]) -> list[Json]:
        """Why a job does not validate."""
        found: list[Json] = [] if lines else [{"code": "empty_file", "message": "The file is empty.", "line": None}]
        seen: set[str] = set()
        for number, line in enumerate(lines, 1):
            if line.custom_id in seen:
                message = f"The custom_id {line.custom_id} is not unique."
                found.append({"code": "duplicate_custom_id", "message": message, "line": number})
            seen.add(line.custom_id)
        if len({line.body.get("model") for line in lines}) > 1:
            found.append({"code": "mismatched_model", "message": "The models of the lines differ.", "line": None})
        return found

    def finish(self, batches: Batches, job: Job) -> None:
        """The end of a job: each line is answered, or left undone."""
        for line in job.lines:
            if job.end != "completed" and batches.left(line):
                job.undone += 1
                job.failed += self.undone(line, job)
            else:
                status, body = batches.answer(line)
                (job.done if status < 300 else job.failed).append(self.result(line, status, body))
        self.write(batches, job)

    def write(self, batches: Batches, job: Job) -> None:
        """Keep the results as files."""
        for name, lines in (("output", job.done), ("error", job.failed)):
            if lines:
                job.asked[name] = batches.keep(_write_lines(batches.order(lines)))

    def result(self, line: Line, status: int, body: Json) -> Json:
        response = {"status_code": status, "request_id": "req-1", "body": body}
        return {"id": "batch_req_1", "custom_id": line.custom_id, "response": response, "error": None}

    def undone(self, line: Line, job: Job) -> list[Json]:
        """What the file of errors says of a line that was not done."""
        if job.end != "expired":
            return []
        problem = {"code": "batch_expired", "message": "This request could not be executed in time."}
        return [{"id": "batch_req_1", "custom_id": line.custom_id, "response": None, "error": problem}]

    def shown(self, job: Job) -> Json:
        """A job as it is told."""
        counts = {"total": len(job.lines), "completed": len(job.done), "failed": len(job.failed)}
        errors = {"object": "list", "data": list(job.problems)} if job.ended and job.problems else None
        return {
            "id": job.id, "object": "batch", "endpoint": job.asked.get("endpoint"), "status": self.word(job),
            "input_file_id": job.asked.get("input_file_id"), "metadata": job.asked.get("metadata"), "errors": errors,
            "output_file_id": job.asked.get("output"), "error_file_id": job.asked.get("error"),
            "request_counts": counts, "created_at": int(job.created),
            "usage": {"input_tokens": 10 * len(job.done), "output_tokens": 5 * len(job.done)},
        }  # fmt: skip

    def word(self, job: Job) -> str:
        return self.words.get(job.status, job.status)

    def on_poll(self, batches: Batches, request: Request, id: str) -> Reply:
        job = batches.job(id)
        batches.advance(job)
        return json_body(job.api.shown(job))

    def on_cancel(self, batches: Batches, request: Request, id: str) -> Reply:
        job = batches.job(id)
        if not batches.cancel(job):
            return error(409, f"{id} is {job.status}")
        return json_body(job.api.shown(job))

    def on_list(self, batches: Batches, request: Request) -> Reply:
        """A page of the jobs, the newest first."""
        query = {name: values[0] for name, values in parse_qs(request.path.partition("?")[2]).items()}
        before = time.time() - batches.listed_after
        jobs = [job for job in reversed(batches.jobs) if job.api.prefix == self.prefix and job.created <= before]
        return json_body(self.page(jobs, query))

    def page(self, jobs: Sequence[Job], query: Mapping[str, str]) -> Json:
        after = query.get("after") or query.get("after_id")
        ids = [job.id for job in jobs]
        first = ids.index(after) + 1 if after in ids else 0
        shown = [job.api.shown(job) for job in jobs[first : first + int(query.get("limit", 20))]]
        return {
            "object": "list", "data": shown, "has_more": first + len(shown) < len(jobs),
            "last_id": shown[-1]["id"] if shown else None,
        }  # fmt: skip

    def on_results(self, batches: Batches, request: Request, id: str) -> Reply:
        return body([batches.files[id]])


class _TogetherBatches(_BatchApi):
    """Together's: a new job in a wrapper, states in upper case."""

    def on_create(self, batches: Batches, request: Request) -> Reply:
        asked = request.json
        job = batches.add(self, asked, [self.line(line) for line in _read_lines(batches.files[asked["input_file_id"]])])
        return json_body({"job": self.shown(job), "warning": None})

    def line(self, line: Json) -> Line:
        return Line(line["custom_id"], line["body"], "/v1/chat/completions")

    def shown(self, job: Job) -> Json:
        shown, failed = super().shown(job), job.ended and job.problems
        kept = {name: value for name, value in shown.items() if name not in ("request_counts", "metadata", "errors")}
        progress = 100 * len(job.done) // (len(job.lines) or 1)
        return {**kept, "progress": progress, "error": job.problems[0]["message"] if failed else None}

    def word(self, job: Job) -> str:
        return {"finalizing": "IN_PROGRESS", "cancelling": "IN_PROGRESS"}.get(job.status, job.status.upper())


class _MistralBatches(_BatchApi):
    """Mistral's: a job names its model, its lines do not."""

    prefix = "job-"
    words = {
        "validating": "QUEUED", "in_progress": "RUNNING", "finalizing": "RUNNING", "completed": "SUCCESS",
        "failed": "FAILED", "expired": "TIMEOUT_EXCEEDED", "cancelling": "CANCELLATION_REQUESTED",
        "cancelled": "CANCELLED",
    }  # fmt: skip

    def on_create(self, batches: Batches, request: Request) -> Reply:
        asked = request.json
        lines = [line for id in asked["input_files"] for line in _read_lines(batches.files[id])]
        made = [Line(line["custom_id"], {"model": asked["model"], **line["body"]}, asked["endpoint"]) for line in lines]
        return json_body(self.shown(batches.add(self, asked, made)))

    def undone(self, line: Line, job: Job) -> list[Json]:
        return []

    def shown(self, job: Job) -> Json:
        errors = [{"message": problem["message"], "count": 1} for problem in job.problems if job.ended]
        kept = {name: job.asked.get(name) for name in ("model", "endpoint", "input_files", "metadata")}
        return {
            "id": job.id, "object": "batch", **kept, "status": self.word(job), "errors": errors,
            "output_file": job.asked.get("output"), "error_file": job.asked.get("error"), "outputs": None,
            "total_requests": len(job.lines), "completed_requests": len(job.done) + len(job.failed),
            "succeeded_requests": len(job.done), "failed_requests": len(job.failed), "created_at": int(job.created),
        }  # fmt: skip

    def page(self, jobs: Sequence[Job], query: Mapping[str, str]) -> Json:
        size = int(query.get("page_size", 100))
        first = size * int(query.get("page", 0))
        return {"object": "list", "data": [self.shown(job) for job in jobs[first : first + size]], "total": len(jobs)}


class _AnthropicBatches(_BatchApi):
    """Anthropic's Message Batches: no files, no metadata."""

    prefix = "msgbatch_"

    def on_create(self, batches: Batches, request: Request) -> Reply:
        asked = request.json
        lines = [Line(each["custom_id"], each["params"], "/v1/messages") for each in asked["requests"]]
        for line in lines:
            if not re.fullmatch("[a-zA-Z0-9_-]{1,64}", line.custom_id):
                raise ValueError(f"custom_id: {line.custom_id!r} does not match '^[a-zA-Z0-9_-]{{1,64}}$'")
        if len({line.custom_id for line in lines}) < len(lines) or not lines:
            raise ValueError("requests: each needs a custom_id of its own")
        return json_body(self.shown(batches.add(self, {"root": batches._server.root}, lines)))

    def problems(self, lines: Sequence[Line]) -> list[Json]:
        return []

    def write(self, batches: Batches, job: Job) -> None:
        batches.files[job.id] = _write_lines(batches.order(job.done + job.failed))

    def result(self, line: Line, status: int, body: Json) -> Json:
        result = {"type": "succeeded", "message": body} if status < 300 else {"type": "errored", "error": body}
        return {"custom_id": line.custom_id, "result": result}

    def undone(self, line: Line, job: Job) -> list[Json]:
        kind = "expired" if job.end == "expired" else "canceled"
        return [{"custom_id": line.custom_id, "result": {"type": kind}}]

    def shown(self, job: Job) -> Json:
        kinds = [line["result"]["type"] for line in job.done + job.failed]
        counts = {kind: kinds.count(kind) for kind in ("succeeded", "errored", "canceled", "expired")}
        when = time.strftime("%Y-%m-%dT%H:%M:%S.000000+00:00", time.gmtime(job.created))
        results = f"{job.asked['root']}/v1/messages/batches/{job.id}/results" if job.ended else None
        return {
            "id": job.id, "type": "message_batch", "processing_status": self.word(job), "created_at": when,
            "request_counts": {"processing": 0 if job.ended else len(job.lines), **counts}, "results_url": results,
        }  # fmt: skip

    def word(self, job: Job) -> str:
        return "ended" if job.ended else "canceling" if job.status == "cancelling" else "in_progress"


class _GeminiBatches(_BatchApi):
    """Gemini's: operations, whose requests and results are inside them or in files; uploads in two steps."""

    prefix = ""

    def on_upload(self, batches: Batches, request: Request) -> Reply:
        if request.headers.get("x-goog-upload-command") == "start":
            url = f"{batches._server.root}{request.path}?upload_id=1&upload_protocol=resumable"
            return json_body({}, headers={"X-Goog-Upload-URL": url, "X-Goog-Upload-Status": "active"})
        if request.headers.get("x-goog-upload-command") != "upload, finalize":
            raise ValueError("X-Goog-Upload-Command: start, or upload, finalize")
        name = f"files/{batches.keep(request.body)}"
        file = {"name": name, "uri": f"{batches._server.root}/v1beta/{name}", "state": "ACTIVE"}
        return json_body({"file": file}, headers={"X-Goog-Upload-Status": "final"})

    def on_create(self, batches: Batches, request: Request, model: str = "") -> Reply:
        asked = request.json["batch"]
        given = asked["inputConfig"]
        path = f"/v1beta/models/{model}:generateContent"
        if "fileName" in given:
            made = _read_lines(batches.files[given["fileName"].partition("/")[2]])
            lines = [Line(each["key"], each["request"], path) for each in made]
        else:
            inline = given["requests"]["requests"]
            lines = [Line(each["metadata"]["key"], each["request"], path) for each in inline]
        return json_body(self.shown(batches.add(self, {**asked, "model": f"models/{model}"}, lines)))

    def write(self, batches: Batches, job: Job) -> None:
        said = {line["metadata"]["key"]: line for line in job.done + job.failed}
        lines = [said[line.custom_id] for line in job.lines if line.custom_id in said]  # as they were asked
        if "fileName" in job.asked["inputConfig"]:
            made = [{"key": line.pop("metadata")["key"], **line} for line in lines]
            job.asked["output"] = {"responsesFile": f"files/{batches.keep(_write_lines(batches.order(made)))}"}
        else:
            job.asked["output"] = {"inlinedResponses": {"inlinedResponses": lines}}

    def result(self, line: Line, status: int, body: Json) -> Json:
        said = {"response": body} if status < 300 else {"error": {**body["error"], "code": _RPC.get(status, 13)}}
        return {**said, "metadata": {"key": line.custom_id}}

    def undone(self, line: Line, job: Job) -> list[Json]:
        return []

    def shown(self, job: Job) -> Json:
        meta: Json = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "model": job.asked["model"], "displayName": job.asked.get("displayName"), "name": f"batches/{job.id}",
            "state": f"BATCH_STATE_{self.word(job)}", "output": job.asked.get("output"),
            "batchStats": {"requestCount": str(len(job.lines)), "successfulRequestCount": str(len(job.done))},
        }  # fmt: skip
        operation = {"name": f"batches/{job.id}", "metadata": _with({}, **meta)}
        failure = {"code": 3, "message": job.problems[0]["message"]} if job.ended and job.problems else None
        return _with(operation, done=job.ended or None, response=job.asked.get("output"), error=failure)

    def word(self, job: Job) -> str:
        words = {"validating": "PENDING", "in_progress": "RUNNING", "completed": "SUCCEEDED"}
        return words.get(job.status, job.status.upper() if job.ended else "RUNNING")

    def page(self, jobs: Sequence[Job], query: Mapping[str, str]) -> Json:
        first, size = int(query.get("pageToken", 0)), int(query.get("pageSize", 50))
        page = {"operations": [self.shown(job) for job in jobs[first : first + size]]}
        return _with(page, nextPageToken=str(first + size) if first + size < len(jobs) else None)


_RPC = {400: 3, 403: 7, 404: 5, 429: 8, 500: 13, 503: 14}  # an HTTP status as google.rpc counts it
_BATCH_STEPS = ("upload", "file", "create", "list", "poll", "cancel", "results")
_OPENAI, _TOGETHER, _MISTRAL = _BatchApi(), _TogetherBatches(), _MistralBatches()
_ANTHROPIC, _GEMINI = _AnthropicBatches(), _GeminiBatches()
_BATCH_ROUTES: Sequence[tuple[str, str, _BatchApi]] = (
    ("^POST .*/upload/v1beta/files$", "upload", _GEMINI),
    ("^POST .*/files$", "upload", _OPENAI),
    ("^GET .*/v1/files/([^/:]+)$", "file", _OPENAI),
    ("^POST .*/models/([^/]+):batchGenerateContent$", "create", _GEMINI),
    ("^POST .*/messages/batches$", "create", _ANTHROPIC),
    ("^POST .*/batch/jobs$", "create", _MISTRAL),
    ("^POST .*/batches$", "create", _OPENAI),
    ("^GET .*/v1beta/batches$", "list", _GEMINI),
    ("^GET .*/messages/batches$", "list", _ANTHROPIC),
    ("^GET .*/batch/jobs$", "list", _MISTRAL),
    ("^GET .*/batches$", "list", _OPENAI),
    ("^GET .*/files/([^/:]+)(?:/content|:download)$", "results", _OPENAI),
    ("^GET .*/messages/batches/([^/]+)/results$", "results", _ANTHROPIC),
    ("^POST .*/(?:batches|batch/jobs)/([^/:]+)[/:]cancel$", "cancel", _OPENAI),
    ("^GET .*/(?:batches|batch/jobs)/([^/:]+)$", "poll", _OPENAI),
)
