"""llmlite: a synchronous client for large language models, in one module on requests and urllib3.

    >>> import llmlite
    >>> llm = llmlite.Client("openai/gpt-5-mini", api_key="sk-...")
    >>> llm
    <Client openai/gpt-5-mini at https://api.openai.com/v1>

This file works alone: copy it into a project under any name.  Its sections, top-down:

    constants      limits and defaults, each with its reason
    errors         LLMError and everything below it
    values         Usage, ToolCall, Token, Event, File, Response, RetryPolicy, RateLimit
    messages       user(), system(), assistant(), tool_result(); images and other files
    client         Client, Ledger, Stream, Conversation, Answer; chat() and stream() for one-liners
    tools          tools from functions, schemas, and what a model made of them
    types          Python types as JSON schemas, and values held against a schema
    calls          one call of the user's, one request of it; what threads and forked processes share
    many calls     map: who calls, in which order results come, how far it is
    waiting        which failure is retried, after how long; the cool-down all threads share
    events         bytes -> lines -> server-sent events
    streams        what an event is, the reply folded from them, the life of an open stream
    private names  what is touched of other packages without their promise, and what comes without it
    transport      the one place that sends, the one place that translates errors
    connections    urllib3's pools, connections and sockets within an attempt's limits
    answers        what a body means: an error, a reply
    kept answers   the cache: what an answer is found by, what is kept of it, a stream of one
    secrets        what is shown and saved nowhere: keys, and what looks like one
    arguments      what the user gave: checks, keys, providers
    logging        what happened, for people: the log, failed requests as files
    showing        what a notebook or a terminal shows of a reply, a stream, an error
    json           what is sent as bytes; what came, which may be anything; pieces folded
    readers        what an answer means: models, vectors, finish reasons, the message of a reply
    dialects       a wire format each: build, parse, parse_event, pure functions over dicts
    providers      the table: name, address and what fills it, key variables, dialect, quirks
"""
from __future__ import annotations

import base64
import calendar
import contextlib
import copy
import email.utils
import enum
import functools
import hashlib
import http.client
import http.cookiejar
import io
import itertools
import json
import logging
import math
import mimetypes
import operator
import os
import queue
import random
import re
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.request
import weakref
import zlib
from collections import abc, deque
from contextvars import ContextVar, copy_context
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Callable, Dict, FrozenSet, Generic, Iterable, Iterator, List, Literal, Mapping

# isort: split
from typing import MutableMapping, NamedTuple, Optional, Sequence, Set, Tuple, Type, Union, get_args, get_origin

# isort: split
from typing import get_type_hints
from urllib.parse import quote, unquote, unquote_to_bytes, urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

__version__ = "0.2.0"
__all__ = [
    "APIConnectionError", "APIError", "APITimeoutError", "Answer", "AuthenticationError", "BadRequestError", "Client",
    "ConfigurationError", "ContextLengthError", "Conversation", "DeadlineExceededError", "Embeddings",
    "EmptyResponseError", "Event", "File", "LLMError", "Ledger", "Logprob", "NotFoundError", "OverloadedError",
    "PaymentRequiredError", "PermissionDeniedError", "QuotaExceededError", "RateLimit", "RateLimitError", "Response",
    "ResponseError", "RetryPolicy", "SchemaError", "ServerError", "ServerSentEvent", "Stream", "StreamError", "Token",
    "ToolCall", "TruncatedStreamError", "Usage", "assistant", "chat", "providers", "replay", "stream", "system",
    "tool_result", "user"]

JSON = Dict[str, Any]
Timeout = Union[None, float, Tuple[Optional[float], Optional[float]]]
Headers = Optional[Mapping[str, Optional[str]]]
Key = Union[None, str, Callable[[], str]]
Answers = Optional[MutableMapping[str, str]]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "other"]
EventType = Literal["text", "reasoning", "tool_call", "usage", "finish"]
Tools = Sequence[Union[Mapping[str, Any], Callable[..., Any]]]  # Mapping: a TypedDict too
if TYPE_CHECKING:
    import inspect
    from dataclasses import Field
    from typing import ClassVar, Generator, Protocol, overload

    from typing_extensions import TypedDict, TypeVar, Unpack  # which every type checker brings with it

    _Path = os.PathLike[str]
    _Method = TypeVar("_Method", bound=Callable[..., Any])
    _Item = TypeVar("_Item", default=str, covariant=True)  # of a stream
    _Parsed = TypeVar("_Parsed", default=Any, covariant=True)  # what a reply's `parsed` is
    _Each = TypeVar("_Each", default=Any, covariant=True)  # of a map

    class _Dumped(Protocol):  # a message of another library: openai's, pydantic's
        def model_dump(self, *, exclude_none: bool = False) -> JSON: ...

    class _Asked(TypedDict, total=False):  # of the arguments of `chat` those that a method below hands on
        temperature: Optional[float]
        top_p: Optional[float]
        top_k: Optional[int]
        max_tokens: Optional[int]
        stop: Union[None, str, Sequence[str]]
        seed: Optional[int]
        tool_choice: Union[None, str, JSON]
        reasoning_effort: Optional[str]
        logprobs: Union[None, bool, int]
        prompt_cache: PromptCache
        extra: Optional[JSON]
        timeout: Timeout
        headers: Headers
        cache: CacheUse

    class _LoneOptions(_Asked, total=False):  # those of the functions chat() and stream()
        system: Optional[str]
        tools: Optional[Tools]
        deadline: Optional[float]

    class _RunOptions(_Asked, total=False):  # of run_tools
        system: Optional[str]
        model: Optional[str]

    class _SumOptions(_RunOptions, total=False):  # of Conversation.compact
        deadline: Optional[float]

    class _ChatOptions(_SumOptions, total=False):  # of map, beside a schema
        tools: Optional[Tools]

    class _EachOptions(_ChatOptions, total=False):  # of map, and of batch.run
        schema: Any

    class _TurnOptions(_ChatOptions, total=False):  # of Conversation.send and stream, beside a schema
        max_rounds: int

    class _TalkOptions(_Asked, total=False):  # of Client.conversation
        model: Optional[str]
        deadline: Optional[float]
        max_rounds: int
        schema: Any
else:  # what evaluates the annotations finds Any for these; and Python 3.8 knows no PathLike[str]
    from typing import TypeVar
    Unpack, _Dumped, _Path = Union, Any, os.PathLike
    _ChatOptions = _EachOptions = _LoneOptions = _RunOptions = _SumOptions = _TalkOptions = _TurnOptions = Any
    _Item, _Parsed, _Each = (TypeVar(name, covariant=True) for name in ("_Item", "_Parsed", "_Each"))
Schema = Union[None, JSON, Type[_Parsed]]
PromptCache = Union[None, bool, Literal["1h"]]
CacheUse = Union[Answers, Literal["refresh"]]


def _need(**least: str) -> None:
    """Raise ImportError, with the versions, if a package is older than this: a copied file has no setup.cfg."""
    def number(version: object) -> List[int]:
        signs = itertools.takewhile(lambda sign: sign in "0123456789.", version if isinstance(version, str) else "")
        parts = "".join(signs).split(".")  # by hand: a pattern would be compiled at each import
        return [int(part[:9]) for part in parts if part] or [sys.maxsize]  # what cannot be read passes

    found = {name: getattr(sys.modules[name], "__version__", None) for name in least}
    if any(number(found[name]) < number(least[name]) for name in least):
        wanted, here = (" and ".join(f"{name} {versions[name]}" for name in least) for versions in (least, found))
        raise ImportError(f"llmlite {__version__} needs {wanted} or later, and finds {here}: "
                          f"pip install -U {' '.join(least)}")


_need(requests="2.25.1", urllib3="1.26.15")

# ------------------------------------------------------------------------------------------------------------ constants

_MAX_LINE = 16 << 20  # bytes: no provider sends an event near this; a line without end must not eat the memory
_MAX_BODY = 256 << 20  # bytes, decoded: what a decompression bomb may grow to
_MAX_HEAD = 1 << 20  # bytes: status line and headers, all "100 Continue" included
_MAX_LISTED = 2000  # names of models among which those like one are looked for
_MAX_MODELS = 100_000  # names: a server whose pages never end must not hold the caller for ever
_LARGE = 800  # bytes: a chunk below it cannot be nested so deep that it matters
_MAX_DEPTH = 100  # levels of a body's JSON: deeper is no answer, and could be neither pickled nor copied
_MAX_HEADER = 1 << 16  # bytes: one header line, as http.client has it
_MAX_INTERIM = 1000  # "100 Continue" and the like before an answer: a flood of them is dear to read
_MAX_HEADERS = 200  # lines of a head: http.client takes 100
_MAX_ERROR = 1 << 20  # bytes: what is read and kept of an error's body; the deadline leaves no time for more
_MAX_MESSAGE = 1 << 16  # characters of an error's message
_MAX_MARKS = 1 << 14  # texts, brackets and commas of a cut error that are looked at
_MAX_DETAILS = 100  # of an error object: a hostile one may hold a million
_MAX_QUOTED = 300  # characters of the server's own words in an error's one line
_MAX_BOOKED = 500  # entries of a ledger before they are summed up
_MAX_CALLS = 1000  # choices, or tool calls, of one stream: a hostile server may invent any number
_PIECE = 1 << 16  # bytes asked of the socket at once
_MAX_ROADS = 128  # addresses a client remembers the way to: of models there may be many, and of pages of a list
_POOL_SIZE = 128  # idle connections kept a host: more threads than this share a client rarely
_LISTING = 2.0  # seconds that a failed call waits for the list of the provider's models, for their names
_LINGER = 5.0  # seconds a stream waits for late usage or its end mark once the finish reason is here
_STALE = 0.3  # seconds: a pooled connection that the server had closed fails within a round trip
_DRAIN = 0.1  # seconds given to a finished answer's last bytes, which make the connection reusable
_BRIEFLY = 2  # refusals without a word after which a call waits a moment only, where the pace is known
_LONG_WAIT = 0.5  # seconds that a call is held back: the log tells of it
_SPREAD = 0.1  # of a wait the server asked for: threads start again this far apart, not in a herd
_BEGIN = 0.005  # seconds without a result until a map begins more threads: where answers come as fast, one is enough
_TOGETHER = 0.001  # seconds until a map looks again: results that come meanwhile cost one change of threads
_EPSILON = 0.002  # seconds: a socket timeout may fire this much before the clock says so

_KEEPALIVE = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
    (socket.IPPROTO_TCP, getattr(socket, name), value)  # a NAT forgets a silent connection: long answers would hang
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5)) if hasattr(socket, name)]

_ROLES = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
_LIVE = 0.1  # seconds between two states of a live reply
_LIVE_MOST = 100_000  # characters of live replies a second: Jupyter drops what is much more
_HOOK = "_ipython_display_"  # what IPython asks first
_RETRIED = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529))
_RATE_LIMITED = frozenset((429, 503, 529))

# Clocks that tests which freeze time cannot freeze: a wait that ends by such a clock would never end.
_now: Callable[[], float] = functools.partial(time.monotonic)
_wall: Callable[[], float] = functools.partial(time.time)
if hasattr(time, "clock_gettime"):  # pragma: no branch: not on Windows
    _now = functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    _wall = functools.partial(time.clock_gettime, time.CLOCK_REALTIME)

_log = logging.getLogger("llmlite")
_CACHE_LOG = logging.getLogger("llmlite.cache")  # of its own, for the command line always shows it
_URLLIB3_LOG = logging.getLogger("urllib3.connectionpool")


class _Unset:
    """The default of options whose None means something."""

    def __repr__(self) -> str:
        return "unset"


_UNSET: Any = _Unset()

# --------------------------------------------------------------------------------------------------------------- errors


class LLMError(Exception):
    """Base of every error this module raises.

    `str(error)` is one line: provider, what happened, after how many attempts, why, what to try.  Errors pickle with
    their class and fields, and never hold a key.

    Attributes:
        attempts: how many requests the call had made.
        elapsed: seconds from the start of the call.
        response: the `Response` as far as it had arrived, or None.
        last_error: the error that the last attempt had met, or the client asked before a fallback, or None.
        retry_after: seconds the server asks to wait, or None.
    """

    provider: str = ""
    why: str = ""
    hint: str = ""
    attempts: int = 0
    elapsed: float = 0.0
    response: Optional[Response] = None
    last_error: Optional[LLMError] = None
    retry_after: Optional[float] = None
    _kind: str = ""  # how it is retried: "" never, "normal", "rate" (a limit), "empty" (if asked for), "stale" (once)

    def __init__(self, what: str = "", **fields: Any) -> None:
        super().__init__(what)
        self.__dict__.update(fields)

    def __str__(self) -> str:
        what = f"{self.provider}: {self.args[0]}" if self.provider else str(self.args[0])
        if self.attempts > 1:
            what += f" after {self.attempts} attempts in {self.elapsed:.1f} s"
        return what + (f": {self.why}" if self.why else "") + (f" ({self.hint})" if self.hint else "")

    def _render_traceback_(self) -> List[str]:
        """What IPython shows in place of the traceback: one readable block.  `%tb Verbose` shows all the way."""
        return _shown_error(self)


class ConfigurationError(LLMError, ValueError):
    """The call cannot be made as asked: a missing key, an unknown provider, a bad argument.  Nothing was sent."""


class APIConnectionError(LLMError):
    """No answer came: connection refused, reset, closed, name not found, TLS refused.  Says which, and where."""


class APITimeoutError(APIConnectionError):
    """A connect, read or idle timeout.  In a stream `response` holds what had arrived."""


class DeadlineExceededError(LLMError):
    """The call's `deadline` ran out, or the server asks to wait past it (then `retry_after` says how long)."""


class APIError(LLMError):
    """The provider answered with an error: a status of 300 or more, or an error object inside a 200.

    Attributes:
        status_code: the HTTP status; for an error inside a 200, the status it stands for.
        message: the provider's own words.
        code, type: the provider's own error code and type, or None.
        request_id: the provider's id of the request, or None.
        headers: the answer's headers.
        body: the whole decoded body, or its text.
    """

    status_code: int = 0
    message: str = ""
    code: Any = None
    type: Optional[str] = None
    request_id: Optional[str] = None
    headers: Mapping[str, str] = {}
    body: Any = None


class BadRequestError(APIError):
    """400, 413 or 422: the request itself is refused."""


class ContextLengthError(BadRequestError):
    """The messages are longer than the model's context."""


class AuthenticationError(APIError):
    """401, or a bad key by another status."""


class PaymentRequiredError(APIError):
    """402: no balance."""


class PermissionDeniedError(APIError):
    """403."""


class NotFoundError(APIError):
    """404: no such model or address."""


class RateLimitError(APIError):
    """429: too many requests or tokens for now; waiting mends it."""


class QuotaExceededError(APIError):
    """A spending limit or quota is used up; waiting does not mend it."""


class ServerError(APIError):
    """5xx."""


class OverloadedError(ServerError):
    """503 or 529: the provider has no room for now."""


class ResponseError(LLMError):
    """A status of 2xx, but not an answer: HTML, broken JSON, no choices, a stream without one event."""

    status_code: int = 0
    headers: Mapping[str, str] = {}
    body: Any = None
    request_id: Optional[str] = None


class EmptyResponseError(ResponseError):
    """The answer was empty on the last attempt too (only with `RetryPolicy.retry_empty`)."""


class SchemaError(ResponseError):
    """The answer does not fit the `schema` that was asked for; `response` holds it."""


class StreamError(LLMError):
    """A stream failed after its first event.  `response` holds all that had arrived."""


class TruncatedStreamError(StreamError):
    """A stream ended with neither a finish reason nor its end mark, or was cut before them."""


# --------------------------------------------------------------------------------------------------------------- values


class Usage(NamedTuple):
    """Tokens, as the provider counts them.

    `input_tokens` is the whole input, those read from the provider's cache and written to it included;
    `output_tokens` includes reasoning.

        >>> Usage(10, 5) + Usage(1, 2, cached_tokens=1)
        Usage(input_tokens=11, output_tokens=7, cached_tokens=1, reasoning_tokens=0, cache_write_tokens=0)
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Any) -> Usage:
        return Usage(*map(operator.add, self, other))


_NO_USAGE = Usage()
Progress = Union[bool, Callable[[int, int, Usage], Any]]


class ToolCall(NamedTuple):
    """The model asks for a tool.  `arguments` is `raw_arguments` decoded.

    `invalid` says why the call must not be run: the arguments are no JSON object, or the answer was cut in this call.
    """

    id: str
    name: str
    arguments: JSON
    raw_arguments: str
    invalid: Optional[str] = None


class Token(NamedTuple):
    """One token of a raw completion; `id` and `logprob` are None where the server gives none."""

    text: str
    id: Optional[int] = None
    logprob: Optional[float] = None


class Logprob(NamedTuple):
    """How likely a token of an answer was: `logprob` is the natural logarithm, `top` what was likely in its place."""

    token: str
    logprob: Optional[float] = None
    top: Tuple[Any, ...] = ()


class File(NamedTuple):
    """A file that a model made: `data` are its bytes."""

    mime_type: str
    data: bytes

    def save(self, path: Union[str, _Path]) -> None:
        """Write it to a path, over what is there.  Raises OSError.

            reply.files[0].save("sky.png")
        """
        with open(path, "wb") as file:
            file.write(self.data)

    def __repr__(self) -> str:
        return f"<File {self.mime_type}, {len(self.data)} bytes>"


class Event(NamedTuple):
    """One event of a stream; `type` is "text", "reasoning", "tool_call", "usage" or "finish"."""

    type: EventType
    text: str = ""
    tool_call: Optional[ToolCall] = None
    usage: Optional[Usage] = None
    finish_reason: Optional[FinishReason] = None
    token: Optional[Token] = None


class ServerSentEvent(NamedTuple):
    """An event of `Answer.events()`: its type, "message" where none is told, and its data (WHATWG HTML, 9.2)."""

    event: str
    data: str

    def json(self) -> Any:
        """What the data says as JSON.  Raises ResponseError.

            [event.json()["delta"] for event in answer.events()]
        """
        value = _json_or(_UNSET, self.data.encode("utf-8", "replace"))
        if value is _UNSET:
            raise ResponseError("an event that is no JSON", why=_quoted(self.data))
        return value


class Response(Generic[_Parsed]):
    """A reply.  `str(reply)` is its text; a notebook shows it as Markdown.

    Attributes:
        text: the answer, always a str.
        reasoning: the model's thoughts as far as the provider shows them.
        tool_calls: a list of `ToolCall`.
        finish_reason: "stop", "length", "tool_calls", "content_filter" or "other"; None while a stream runs.
        raw_finish_reason: the provider's own word.
        usage: a `Usage`; zeros where the provider reported none.
        model, id: as the provider names them.
        request_id: the provider's id of the request, or None.
        citations: the provider's citations, as it sent them.
        parsed: the value, when a `schema` was given.
        tokens: the `Token`s of a raw completion.
        logprobs: a `Logprob` for each token of the answer, when asked for.
        files: what the model made beside text, a list of `File`.
        message: the dict to append to the history.
        messages: the whole exchange, after `run_tools`, or of a `Conversation`.
        raw: the decoded body (of a stream: folded into the same shape).
        headers: the answer's headers.
        attempts, elapsed: how many requests and seconds it took.
        cached: whether it is from the `cache`: then `usage` was billed before, and `headers` are empty.
    """

    def __init__(self, *, text: str = "", reasoning: str = "", tool_calls: Optional[List[ToolCall]] = None,
                 finish_reason: Optional[FinishReason] = None, raw_finish_reason: Optional[str] = None,
                 usage: Usage = _NO_USAGE, model: str = "", id: Optional[str] = None, request_id: Optional[str] = None,
                 citations: Optional[List[Any]] = None, parsed: Any = None, tokens: Optional[List[Token]] = None,
                 logprobs: Optional[List[Logprob]] = None, files: Optional[List[File]] = None,
                 message: Optional[JSON] = None, messages: Optional[List[JSON]] = None, raw: Any = None,
                 headers: Optional[Mapping[str, str]] = None, attempts: int = 0, elapsed: float = 0.0,
                 cached: bool = False) -> None:
        self.text: str = text
        self.reasoning: str = reasoning
        self.tool_calls: List[ToolCall] = tool_calls or []
        self.finish_reason: Optional[FinishReason] = finish_reason
        self.raw_finish_reason: Optional[str] = raw_finish_reason
        self.usage: Usage = usage
        self.model: str = model
        self.id: Optional[str] = id
        self.request_id: Optional[str] = request_id
        self.citations: List[Any] = citations or []
        self.parsed: _Parsed = parsed
        self.tokens: List[Token] = tokens or []
        self.logprobs: List[Logprob] = logprobs or []
        self.files: List[File] = files or []
        self.message: JSON = message or {}
        self.messages: List[JSON] = messages or []
        self.raw: Any = raw
        self.headers: Mapping[str, str] = headers or {}
        self.attempts: int = attempts
        self.elapsed: float = elapsed
        self.cached: bool = cached

    @property
    def truncated(self) -> bool:
        """Whether the answer stopped at the token limit."""
        return self.finish_reason == "length"

    @property
    def rate_limits(self) -> Dict[str, str]:
        """The answer's rate-limit headers, names in lower case."""
        return {name.lower(): value for name, value in self.headers.items() if "ratelimit" in name.lower()}

    def to_dict(self) -> JSON:
        """All of it but `raw` and `headers` as JSON has it, for json.dumps(); what `llmlite --json` prints.

            json.dumps(reply.to_dict())   # {"text": "Air ...", "usage": {"input_tokens": 10, ...}, ...}

        `usage` has `total_tokens` too; `parsed` is a dict where it is an object; the `data` of `files` are base64.
        Raises nothing, but what an object's own `model_dump` does.
        """
        told = {name: value for name, value in vars(self).items() if name not in ("raw", "headers", _HOOK)}
        usage = {**_held_as_json(self.usage), "total_tokens": self.usage.total_tokens}
        return _as_json({**told, "usage": usage})  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        shown = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return f"<Response {shown!r} finish_reason={self.finish_reason!r} model={self.model!r} {self.usage}>"

    def _repr_markdown_(self) -> str:
        return _as_markdown(self, self.text)

    if not TYPE_CHECKING:  # pragma: no branch: a type checker tells of it by itself
        def __await__(self):
            raise _not_awaited("chat")


Message = Union[Mapping[str, Any], Response, _Dumped]
Messages = Union[str, Message, Iterable[Message]]


def _not_awaited(method: str) -> TypeError:
    return TypeError("this client is synchronous, what a call returns is the answer: leave await out; in a coroutine, "
                     f"write await asyncio.to_thread(llm.{method}, ...)")


class _Deadline:
    """When a call must have ended, and the seconds that were given for it."""

    def __init__(self, end: float = math.inf, limit: Optional[float] = None) -> None:
        self.end, self.limit = end, limit

    def __lt__(self, other: _Deadline) -> bool:
        return self.end < other.end

    def error(self, why: str = "", what: str = "ran out", **said: Any) -> DeadlineExceededError:
        return DeadlineExceededError(f"deadline of {_brief(self.limit)} s {what}", why=why, hint=_LATE, **said)


_LATE = "raise deadline="
_NO_DEADLINE = _Deadline()


class _Vectored(NamedTuple):
    """What Embeddings unpack to."""

    vectors: List[List[float]]
    usage: Usage
    model: str


class Embeddings(_Vectored):
    """The vectors of texts, in the texts' order; a tuple of three: `vectors`, `usage`, `model`.

    Beside these, and no part of what is compared, `cached` says whether all of it is from the `cache`: then `usage` was
    billed before.
    """

    cached: bool = False

    def __new__(cls, vectors: List[List[float]], usage: Usage, model: str, cached: bool = False) -> Embeddings:
        made = super().__new__(cls, vectors, usage, model)
        made.cached = cached
        return made

    def _replace(self, **changes: Any) -> Embeddings:
        return type(self)(**{**self._asdict(), "cached": self.cached, **changes})

    __replace__ = _replace  # what copy.replace calls

    def __repr__(self) -> str:
        return super().__repr__()[:-1] + f", cached={self.cached})"


def _gathered(replies: List[Response], model: str) -> Embeddings:
    vectors = [vector for reply in replies for vector in reply.parsed]
    usage = sum((reply.usage for reply in replies), _NO_USAGE)
    return Embeddings(vectors, usage, model, all(reply.cached for reply in replies))


def _so_far(replies: List[Response], last: Optional[Response], model: str) -> Response:
    """The embeddings of the requests before one that failed; its usage counts too, if it was told."""
    found = _gathered(replies, model)
    return Response(parsed=found, usage=found.usage + (last.usage if last else _NO_USAGE), model=model,
                    attempts=sum(reply.attempts for reply in replies))


_NONE = type(None)
_FORMS = {int: "a whole number", float: "a finite number", bool: "True or False", _NONE: "None"}
_LARGEST = sys.float_info.max
_ABOVE_ZERO = 5e-324  # the smallest number that is


def _finite(value: Any, kind: type = float, least: float = -_LARGEST) -> Any:
    """A number of any library as Python's own; None for what is not of its kind, a bool, NaN or beyond the bounds."""
    if type(value) not in (bool, int, float):
        import numbers  # here: only what other libraries make their own needs it
        try:
            value = _unboxed(value)
            if isinstance(value, numbers.Number) and not isinstance(value, bool):
                made: Any = value
                value = int(made) if isinstance(value, numbers.Integral) else float(made)
        except (ValueError, OverflowError, TypeError):  # TypeError: complex numbers
            return None
    fits = type(value) is kind or (kind is float and type(value) is int)
    return value if fits and least <= value <= _LARGEST else None


def _unboxed(value: Any) -> Any:
    """What NumPy, torch and their like hold in an array of no dimension; any other thing as it is."""
    try:
        return value.item() if getattr(value, "shape", None) == () else value
    except Exception:  # of theirs: TensorFlow has no item(), and a tensor may have no value yet
        return value


def _checked(name: str, value: Any, kinds: Tuple[type, ...], least: float = -_LARGEST, form: str = "") -> Any:
    """An argument's value, if it is of one of these kinds; a number as Python's own, `least` or more."""
    for kind in kinds:
        if kind is int or kind is float:
            number = _finite(value, kind, least)
            if number is not None:
                return number
        elif isinstance(value, kind):
            return value
    form = form or " or ".join(_FORMS.get(kind) or f"a {kind.__name__}" for kind in kinds)
    raise ConfigurationError(f"{name}={_shown(value)}: give {form}")


class _Fields:
    """What `dataclasses` knows RetryPolicy by, made when it asks: its import takes as long as ours."""

    _fields: Dict[str, Any] = {}

    def __get__(self, policy: Any, owner: Any) -> Dict[str, Any]:
        from dataclasses import make_dataclass
        if not self._fields:
            made: Any = make_dataclass("RetryPolicy", [
                (name, kind, getattr(RetryPolicy, name)) for name, kind in RetryPolicy.__annotations__.items()])
            self._fields = dict(made.__dataclass_fields__)
        return self._fields


class RetryPolicy:
    """When and how often a call is tried again; `retry=None` on a client switches retries off.

        llm = Client("openai/gpt-5-mini", retry=RetryPolicy(max_retries=1, retry_after_max=10))

    The delay before retry n (from 0) is `min(backoff * 2**n, backoff_max)` times a factor drawn from
    `[1 - jitter, 1 + jitter]`; what the server asks for beats it.

    Args:
        max_retries: retries of server errors, timeouts and lost connections.  Default: 3.
        backoff, backoff_max: seconds.  Default: 0.25 and 5.
        rate_limit_max_retries, rate_limit_backoff, rate_limit_backoff_max: the same for 429, 503 and 529.  Default: 7,
            5 and 60.
        jitter: 0 to 1.  Default: 0.5.
        retry_after_max: seconds; a longer wait asked for by the server fails the call at once.  Default: 120.
        retry_empty: also retry a 2xx that holds no answer.  Default: False.
        connect_retries: retries of connections that could not be opened.  Default: 2.

    Raises:
        ConfigurationError: a value is no number, or out of its bounds.
    """

    max_retries: int = 3
    backoff: float = 0.25
    backoff_max: float = 5.0
    rate_limit_max_retries: int = 7
    rate_limit_backoff: float = 5.0
    rate_limit_backoff_max: float = 60.0
    jitter: float = 0.5
    retry_after_max: float = 120.0
    retry_empty: bool = False
    connect_retries: int = 2
    __match_args__ = ("max_retries", "backoff", "backoff_max", "rate_limit_max_retries", "rate_limit_backoff",
                      "rate_limit_backoff_max", "jitter", "retry_after_max", "retry_empty", "connect_retries")
    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[Dict[str, Field[Any]]]
    else:  # what else a frozen dataclass has is written out
        __dataclass_fields__, __dataclass_params__ = _Fields(), SimpleNamespace(frozen=True)

    def __init__(self, max_retries: int = max_retries, backoff: float = backoff, backoff_max: float = backoff_max,
                 rate_limit_max_retries: int = rate_limit_max_retries, rate_limit_backoff: float = rate_limit_backoff,
                 rate_limit_backoff_max: float = rate_limit_backoff_max, jitter: float = jitter,
                 retry_after_max: float = retry_after_max, retry_empty: bool = retry_empty,
                 connect_retries: int = connect_retries) -> None:
        vars(self).update(zip(RetryPolicy.__match_args__, (
            max_retries, backoff, backoff_max, rate_limit_max_retries, rate_limit_backoff, rate_limit_backoff_max,
            jitter, retry_after_max, retry_empty, connect_retries)))
        self.__post_init__()

    def __post_init__(self) -> None:
        for name in RetryPolicy.__match_args__:
            kind = type(getattr(RetryPolicy, name))
            form = "" if kind is bool else f"{_FORMS[kind]}, zero or more"
            vars(self)[name] = _checked(f"RetryPolicy.{name}", getattr(self, name), (kind,), 0, form)
        if self.jitter > 1:
            raise ConfigurationError(f"RetryPolicy.jitter={self.jitter!r}: give 0 to 1")

    def _values(self) -> Tuple[Any, ...]:
        return tuple(getattr(self, name) for name in RetryPolicy.__match_args__)

    def __repr__(self) -> str:
        values = zip(RetryPolicy.__match_args__, self._values())
        return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in values)})"

    def __eq__(self, other: Any) -> bool:
        return self._values() == other._values() if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __replace__(self, **changes: Any) -> RetryPolicy:
        return type(self)(**{**vars(self), **changes})

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in RetryPolicy.__match_args__ and type(self) is not RetryPolicy:
            object.__setattr__(self, name, value)
            return
        from dataclasses import FrozenInstanceError
        raise FrozenInstanceError(f"cannot change {name!r} of a RetryPolicy: dataclasses.replace() makes another")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def _limits(self, kind: str) -> Tuple[int, float, float]:
        """Of a kind of failure: how many retries, and the first and the longest delay before one."""
        if kind == "rate":
            return self.rate_limit_max_retries, self.rate_limit_backoff, self.rate_limit_backoff_max
        retried = kind == "normal" or (kind == "empty" and self.retry_empty)
        return self.max_retries if retried else 0, self.backoff, self.backoff_max

    def _delay(self, kind: str, retry: int) -> float:
        _, first, longest = self._limits(kind)
        return min(first * 2.0 ** min(retry, 60), longest) * random.uniform(1 - self.jitter, 1 + self.jitter)


class RateLimit:
    """Holds a client's calls back before the server has to: at most so many requests and tokens a minute, evenly.

        llm = Client("openai/gpt-5-mini", rate_limit=RateLimit(requests_per_minute=500))

    Args:
        requests_per_minute, tokens_per_minute: numbers above zero, or None for no limit.

    Raises:
        ConfigurationError: for any other value.
    """

    def __init__(self, requests_per_minute: Optional[float] = None, tokens_per_minute: Optional[float] = None) -> None:
        self.requests_per_minute: Optional[float] = requests_per_minute
        self.tokens_per_minute: Optional[float] = tokens_per_minute
        for name, value in vars(self).items():
            vars(self)[name] = _checked(f"RateLimit.{name}", value, (float, _NONE), _ABOVE_ZERO,
                                        "a number above zero, or None")

    def __repr__(self) -> str:
        return f"RateLimit({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


# ------------------------------------------------------------------------------------------------------------- messages


def user(text: str, *, images: Any = (), files: Any = ()) -> JSON:
    """A user message, with images and other files: one or several, each a path, a URL (http, https, data) or bytes.

        >>> user("Why is the sky blue?")
        {'role': 'user', 'content': 'Why is the sky blue?'}

    Args:
        text: what is said.
        images: PNG, JPEG, GIF or WebP; what is in a reply's `files` too.
        files: these, PDF, text in UTF-8, WAV or MP3, told apart by their bytes (by its name what has a URL).  A text
            goes out as text to who takes no text files.

    Raises:
        ConfigurationError: a file that cannot be read, or is none of these; from a call, one its provider takes not.
    """
    parts = [*map(_image_part, _one_or_more(images)), *map(_file_part, _one_or_more(files))]
    return {"role": "user", "content": [{"type": "text", "text": text}, *parts] if parts else text}


def system(text: str) -> JSON:
    """A system message of this text.  Raises nothing.

        >>> system("Be brief.")
        {'role': 'system', 'content': 'Be brief.'}
    """
    return {"role": "system", "content": text}


def assistant(text: str) -> JSON:
    """An assistant message: the text that a model is to be taken to have said.  Raises nothing.

        >>> assistant("42")
        {'role': 'assistant', 'content': '42'}
    """
    return {"role": "assistant", "content": text}


def tool_result(call: Union[ToolCall, str], content: Any, *, is_error: bool = False) -> JSON:
    """The message that answers a tool call: `call` is the `ToolCall` (or its id), `content` a str or any JSON value.

        >>> tool_result("call_1", {"sum": 4})
        {'role': 'tool', 'tool_call_id': 'call_1', 'content': '{"sum": 4}'}

    `is_error` tells the model that the call failed.  Raises ValueError for a `content` that refers to itself.
    """
    message: JSON = {"role": "tool", "tool_call_id": call if isinstance(call, str) else call.id,
                     "content": content if isinstance(content, str) else _json_text(content)}
    return {**message, "is_error": True} if is_error else message


def _checked_messages(messages: Messages, name: str = "messages") -> List[JSON]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    several = messages if isinstance(messages, (list, tuple)) else _as_messages(messages, name)
    checked: List[Any] = list(several)
    if not checked:
        raise ConfigurationError(f"{name} is empty: give at least one message")
    for at, message in enumerate(checked):
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in _ROLES:
            message = checked[at] = _as_message(message, f"{name}[{at}]")
        if "tool_calls" in message or type(message.get("content")) is not str:
            _check_parts(message, f"{name}[{at}]")
    return checked


def _as_messages(given: Any, name: str) -> List[Any]:
    """The messages of what is neither a str nor a list: one message, or anything that yields some."""
    is_dict = isinstance(given, abc.Mapping)
    if isinstance(given, Response) or _is_dumped(given) or is_dict and "role" in given:
        return [given]
    what = repr(given) if _is_missing(given) else f"a {type(given).__name__}"
    form = "give a str or a list of message dicts"
    if is_dict:
        raise ConfigurationError(f"{name} is {what} without a role: {form}", hint=_ROLE_FORM)
    items = None if hasattr(given, "read") else _listed_items(given)
    if items is None:
        raise ConfigurationError(f"{name} is {what}: {form}", hint=_hint_to_str(given))
    return items


def _as_message(given: Any, where: str) -> JSON:
    """The dict of a message that is a reply, or an object of another library that can be dumped (pydantic's)."""
    if isinstance(given, Response):
        message: Any = given.message
    elif _is_dumped(given):
        message = given.model_dump(exclude_none=True)
    else:
        message = dict(given) if isinstance(given, abc.Mapping) else given
    role = message.get("role") if isinstance(message, dict) else None
    if isinstance(role, str) and role in _ROLES:
        return dict(message)
    if not isinstance(message, dict):
        hint = _hint_to_str(given) or _STRINGS * isinstance(given, str)
        raise ConfigurationError(f"{where} is a {type(given).__name__}: give a dict", hint=hint or _ROLE_FORM)
    what = where if isinstance(given, abc.Mapping) else f"{where}, a {type(given).__name__},"
    meant = _ROLES_MEANT.get(role.lower(), "") if isinstance(role, str) else ""
    hint = f'did you mean "{meant}"?' if meant else "its .choices[0].message is one" if "choices" in message else ""
    raise ConfigurationError(f"{what} has role {_shown(role)}: give a dict whose role is one of "
                             f"{', '.join(sorted(_ROLES))}", hint=hint)


def _is_dumped(given: Any) -> bool:
    """Whether it is an object of another library that stands for a message; its class stands for none."""
    return hasattr(given, "model_dump") and not isinstance(given, type)


_ROLE_FORM = '{"role": "user", "content": "..."}'
_STRINGS = f"{_ROLE_FORM}; for each prompt a call of its own, map(prompts)"
_ROLES_MEANT = {"model": "assistant", "ai": "assistant", "bot": "assistant", "human": "user", **{
    role: role for role in _ROLES}}  # in another case
_MISSING = "is a value missing where it is from?"
_TO_STR = (bytes, bytearray, memoryview, os.PathLike)


def _is_missing(given: Any) -> bool:
    """Whether it is what stands where a text is missing: None and NaN are pandas' too."""
    return given is None or isinstance(given, float) and math.isnan(given) or type(given).__name__ == "NAType"


def _hint_to_str(given: Any) -> str:
    """How to make a str of what is none, if that is easy."""
    if _is_missing(given):
        return _MISSING
    if hasattr(given, "read"):
        return ".read() has its text"
    if isinstance(given, os.PathLike):
        return 'its text is Path(...).read_text(encoding="utf-8"); user(text, files=[path]) attaches the file'
    return ".decode() makes a str of it" if isinstance(given, (bytes, bytearray)) else ""


def _checked_prompt(prompt: Any) -> Any:
    if isinstance(prompt, str) and prompt:
        return prompt
    ids = [_finite(item, int) for item in _listed_items(prompt) or ()]
    if not ids or None in ids:
        raise ConfigurationError("prompt is not what complete() takes: give a str or a list of token ids, not empty",
                                 why=f"it is a {type(prompt).__name__}", hint=_hint_to_str(prompt))
    return ids


def _listed_items(given: Any) -> Optional[List[Any]]:
    """The items of a list, an array or an iterator of them, in order; None for what has no order, or none."""
    if isinstance(given, (str, *_TO_STR, abc.Mapping, set, frozenset)) or not _is_iterable(given):
        return None
    return list(given.tolist() if hasattr(given, "tolist") else given)


def _is_iterable(given: Any) -> bool:
    """Whether its items are what is meant: not the columns' names of a DataFrame, nor an array of no dimension."""
    return isinstance(given, abc.Iterable) and not hasattr(given, "columns") and getattr(given, "shape", None) != ()


def _checked_texts(texts: Any) -> List[str]:
    """What embed() is given, as a list."""
    if isinstance(texts, str) and texts:
        return [texts]
    items = _listed_items(texts) or []
    odd = next((at for at, text in enumerate(items) if not isinstance(text, str) or not text), None)
    if items and odd is None:
        return items
    what = f"texts is a {type(texts).__name__}" if odd is None else f"texts[{odd}] is " + (
        "empty" if isinstance(items[odd], str) else f"a {type(items[odd]).__name__}")
    hint = _hint_to_str(texts if odd is None else items[odd])
    if hasattr(texts, "columns"):
        hint = 'give a column, texts["name"]'
    elif isinstance(texts, (set, frozenset)):
        hint = "vectors come in the order of the texts: give list(texts)"
    raise ConfigurationError("texts is not what embed() takes: give a str or a list of them, none empty", why=what,
                             hint=hint)


def _checked_asked(asked: JSON) -> JSON:
    """What a method was given, as dialects want it: what is None left out, all else checked."""
    given = {name: value for name, value in asked.items() if value is not None}
    if "messages" in asked:
        given["messages"] = _checked_messages(asked["messages"])
        if given.get("logprobs") is False:
            del given["logprobs"]
    if "prompt" in asked:
        given["prompt"] = _checked_prompt(asked["prompt"])
    return _as_dicts(_checked_options(given))


def _check_parts(message: JSON, where: str) -> None:
    """Raise ConfigurationError unless lists of a message hold what dialects look into: dicts."""
    if message.get("content") is None and message["role"] in ("user", "system", "developer"):
        raise ConfigurationError(f"{where}.content is None: give a str", hint=_MISSING)
    others = (dict, bool, int, float) if message["role"] in ("tool", "function") else ()  # results: any JSON
    _check_dicts(f"{where}.content", message.get("content"), (str, tuple, *others), '{"type": "text", "text": "..."}')
    _check_dicts(f"{where}.tool_calls", message.get("tool_calls"), (), "those of reply.message")


def _check_dicts(where: str, items: Any, also: Tuple[type, ...], form: str) -> None:
    if not isinstance(items, (list, type(None), *also)):
        raise ConfigurationError(f"{where} is a {type(items).__name__}: give a {'str or a ' * bool(also)}list of dicts",
                                 hint=_hint_to_str(items))
    for at, item in enumerate(items if isinstance(items, (list, tuple)) else ()):
        if not isinstance(item, dict):
            raise ConfigurationError(f"{where}[{at}] is a {type(item).__name__}: give a dict", hint=form)
        text = item.get("text", "")
        if item.get("type") == "text" and not isinstance(text, str):
            raise ConfigurationError(f"{where}[{at}].text is a {type(text).__name__}: give a str",
                                     hint=_hint_to_str(text))


_MARKS = (  # how files begin; a name in capitals is nothing that models take as an image
    rb"(?P<png>\x89PNG\r\n\x1a\n)|(?P<jpeg>\xff\xd8\xff)|(?P<gif>GIF8[79]a)|(?P<webp>RIFF....WEBP)|(?P<PDF>%PDF)"
    rb"|(?P<WAV>RIFF....WAVE)|(?P<MP3>ID3[\x02-\x04]|\xff[\xe2\xe3\xf2\xf3\xfa\xfb])|(?P<ZIP>PK\x03\x04)"
    rb"|(?P<BMP>BM)|(?P<TIFF>II\*\0|MM\0\*)|(?P<HEIC>....ftyp(?:hei|mif1))|(?P<AVIF>....ftypavi)"
    rb"|(?P<SVG>\s*(?:<\?xml[^>]*>\s*)?<svg)|(?P<HTML>\s*<(?i:!doctype html|html))")
_IMAGES = ("png", "jpeg", "gif", "webp")
_DATA_URI = r"data:([^;,]*)(?:;[^;,]*)*;base64,"
_UNNAMED = {"application/pdf": "file.pdf", "text/plain": "file.txt"}  # names of what has none
_NO_TEXT = r"[\x00-\x08\x0e-\x1a\x1c-\x1f]"


def _one_or_more(given: Any) -> List[Any]:
    if given is None:
        return []
    one = isinstance(given, (str, *_TO_STR, File, abc.Mapping)) or hasattr(given, "read") or not _is_iterable(given)
    return [given] if one else list(given)


def _contents(what: str, given: Any) -> Tuple[str, bytes, str]:
    """What to call a file, its bytes, and how they begin: in lower case an image that models take."""
    name, data = what, given
    if isinstance(given, (str, os.PathLike)):
        name = f"{what} {_quoted(repr(os.fspath(given)))}"
        try:
            with open(given, "rb") as file:
                data = file.read()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigurationError(f"{name}: {why}: give a path, a URL or bytes") from error
    elif isinstance(given, File):
        data = given.data
    elif hasattr(given, "read"):
        data = given.read()
        data = data.encode() if isinstance(data, str) else data
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ConfigurationError(f"{what} is a {type(given).__name__}: give a path, a URL or bytes")
    data = bytes(data)
    found = re.match(_MARKS, data[:1000], re.S)
    return name, data, (found.lastgroup if found else None) or (
        f"of unknown type ({_shown(data[:12])})" if data else "empty")


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _image_part(image: Any) -> JSON:
    """An image as a part of a message: from a URL (http, https, data), a path, or the bytes of a file."""
    if isinstance(image, str) and re.match(r"(?:https?|data):", image, re.I):
        return {"type": "image_url", "image_url": {"url": image}}
    name, data, kind = _contents("image", image)
    if kind not in _IMAGES:
        raise ConfigurationError(f"{name} is {kind}: models take PNG, JPEG, GIF and WebP")
    return {"type": "image_url", "image_url": {"url": _data_uri(f"image/{kind}", data)}}


def _file_part(given: Any) -> JSON:
    """A file of any kind as a part of a message, as OpenAI's chat completions have it."""
    path = os.fspath(given) if isinstance(given, (str, os.PathLike)) else getattr(given, "name", "")
    if isinstance(given, str) and re.match("https?:", given, re.I):
        is_image = _type_by_name(given)[:6] == "image/"
        return _image_part(given) if is_image else {"type": "file", "file": {"file_url": given}}
    if isinstance(given, str) and re.match("data:[^,]*,", given[:1000], re.I):
        path, given = "", _data_of(given)
    name, data, kind = _contents("file", given)
    if kind in _IMAGES:
        return _image_part(data)
    if kind in ("WAV", "MP3"):
        audio = {"data": base64.b64encode(data).decode("ascii"), "format": kind.lower()}
        return {"type": "input_audio", "input_audio": audio}
    base, type_ = os.path.basename(os.fsdecode(path)) if isinstance(path, (str, bytes)) else "", "application/pdf"
    if kind != "PDF":
        data, guess = _text_of(name, data, kind).encode(), _type_by_name(base)
        type_ = guess if guess[:5] == "text/" else "text/plain"
    return {"type": "file", "file": {"filename": base or _UNNAMED[type_], "file_data": _data_uri(type_, data)}}


def _text_of(name: str, data: bytes, kind: str) -> str:
    """The text that a file holds."""
    with contextlib.suppress(UnicodeDecodeError):
        text = data.decode("utf-8-sig")
        if text and not re.search(_NO_TEXT, text):
            return text
    raise ConfigurationError(f"{name} is {kind}: models take PDF, text in UTF-8, images (PNG, JPEG, GIF, WebP), WAV "
                             "and MP3")


def _data_of(uri: str) -> bytes:
    """What a data URI holds, in base64 or percent-encoded (RFC 2397)."""
    head, _, text = uri.partition(",")
    data = _unbased(text) if head.lower().endswith(";base64") else unquote_to_bytes(text)
    if not data and text:
        raise ConfigurationError("file is a data URI whose base64 cannot be read")
    return data


def _unbased(text: Any) -> bytes:
    """What base64 says: also that of URLs, without its padding, or percent-encoded; of what is none, nothing."""
    text = _str(text)
    with contextlib.suppress(ValueError):
        return base64.b64decode(text, validate=True)
    with contextlib.suppress(ValueError):
        plain = "".join(unquote(text).split()).rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    return b""


# --------------------------------------------------------------------------------------------------------------- client


class _Booking:
    """What a ledger counts of an attempt, or of a failed call; `model` is None where nothing was billed."""

    def __init__(self, counts: Tuple[int, ...], model: Optional[str] = None, usage: Usage = _NO_USAGE) -> None:
        self.counts = counts  # in the order of _COUNTED
        self.model, self.usage = model, usage


class _Sums:
    """What bookings come to; those that are `held` may stand in the ledger still."""

    def __init__(self, counts: Tuple[int, ...] = (0, 0, 0, 0, 0, 0, 0), by_model: Optional[Dict[str, Usage]] = None,
                 held: Optional[Dict[object, _Booking]] = None) -> None:
        self.counts, self.by_model, self.held = counts, by_model or {}, held or {}


_COUNTED = ("calls", "attempts", "retries", "empty", "failed", "unknown", "cached")
_FAILURE = _Booking((0, 0, 0, 0, 1, 0, 0))
_HIT = _Booking((0, 0, 0, 0, 0, 0, 1))


def _added(sums: _Sums, booked: Dict[object, _Booking]) -> _Sums:
    bookings = [booking for key, booking in booked.items() if key not in sums.held]
    by_model = dict(sums.by_model)
    for booking in bookings:
        if booking.model is not None:
            by_model[booking.model] = by_model.get(booking.model, _NO_USAGE) + booking.usage
    columns = zip(sums.counts, *(booking.counts for booking in bookings))
    return _Sums(tuple(map(sum, columns)), by_model, booked)


def _shown_sums(sums: _Sums) -> JSON:
    return {"usage": sum(sums.by_model.values(), _NO_USAGE), **dict(zip(_COUNTED, sums.counts)),
            "by_model": dict(sums.by_model)}


def _entry(name: str, what: str) -> Any:
    return property(lambda ledger: ledger.snapshot()[name], doc=what)


class Ledger:
    """What a client has spent, as `client.ledger`; safe to read and reset from any thread.

        print(llm.ledger.calls, llm.ledger.usage.total_tokens)
    """

    usage: Usage = _entry("usage", "The usage of every billed call.")
    calls: int = _entry("calls", "Billed calls: each answer of status 2xx that was not an error, also empty, filtered "
                        "and cut ones.")
    attempts: int = _entry("attempts", "Requests made.")
    retries: int = _entry("retries", "Requests after the first of a call.")
    empty: int = _entry("empty", "Billed calls whose answer held nothing.")
    failed: int = _entry("failed", "Calls that ended in an error.")
    unknown: int = _entry("unknown", "Requests sent whose answer never came: they may be billed.")
    cached: int = _entry("cached", "Answers from the cache, which nobody bills: no calls, and not in `usage`.")
    by_model: Dict[str, Usage] = _entry("by_model", "A `Usage` for each model that answered.")

    def __init__(self) -> None:
        self._booked: Dict[object, _Booking] = {}  # each put here in one step, so that Ctrl-C never hits inside
        self._summed = _Sums()
        self._section = _Section()

    def snapshot(self) -> JSON:
        """All of it at one moment, as a dict.  Raises nothing.

            llm.ledger.snapshot()["by_model"]   # {"gpt-5-mini": Usage(input_tokens=10, ...)}
        """
        summed, booked = self._summed, self._booked.copy()
        while summed is not self._summed:  # another thread has summed up in between
            summed, booked = self._summed, self._booked.copy()
        return _shown_sums(_added(summed, booked))

    def reset(self) -> JSON:
        """Start again from zero; returns the last `snapshot()`.  Raises nothing.

            today = llm.ledger.reset()
        """
        return _shown_sums(self._sum_up(anew=True))

    def _book(self, key: object, booking: _Booking) -> None:
        """Count something; twice for the same key is once, until `_tidy`."""
        self._booked[key] = booking

    def _book_failure(self) -> None:
        self._book(object(), _FAILURE)
        self._tidy()

    def _add(self, spent: JSON) -> None:
        """Count what another ledger's snapshot says."""
        self._book(object(), _Booking(tuple(spent[name] for name in _COUNTED)))
        for model, usage in spent["by_model"].items():
            self._book(object(), _Booking((0,) * len(_COUNTED), model, usage))
        self._tidy()

    def _tidy(self) -> None:
        if len(self._booked) > _MAX_BOOKED:
            self._sum_up()

    def _sum_up(self, anew: bool = False) -> _Sums:
        """Add what is booked to the sums, and begin `anew` if that is asked; each step leaves them right."""
        with self._section.lock:
            while True:
                before, booked = self._summed, self._booked.copy()
                sums = _added(before, booked)
                rest = _Sums() if anew else _Sums(sums.counts, sums.by_model)  # here: making one is a step too
                if self._summed is before:  # else a finalizer has been here
                    self._summed = sums
                    for key in booked:
                        self._booked.pop(key, None)
                    if self._summed is sums:
                        self._summed = rest
                        return sums

    def __repr__(self) -> str:
        now = self.snapshot()
        return f"<Ledger {now['calls']} calls, {now['attempts']} attempts, {now['failed']} failed, {now['usage']}>"


def _tell_of_all(error: LLMError, done: List[Response], so_far: Callable[[Optional[Response]], Response],
                 started: float) -> None:
    error.attempts, error.elapsed = error.attempts + sum(one.attempts for one in done), _now() - started
    error.response = so_far(error.response) if done else error.response


def _is_hopeless(call: _Call, error: LLMError) -> bool:
    """Whether no other client would do better: the time is up, or the request is bad everywhere."""
    bad = isinstance(error, (ConfigurationError, BadRequestError, StreamError))
    return call.deadline.end - _now() <= _EPSILON or bad and not isinstance(error, ContextLengthError)


def _is_empty(reply: Response) -> bool:
    return not (reply.text or reply.tool_calls or reply.reasoning or reply.files) and reply.parsed is None


def _advised(method: _Method) -> _Method:
    """A method that says, of an argument it does not have, what to give in its place."""
    code = method.__code__
    known = frozenset(code.co_varnames[:code.co_argcount + code.co_kwonlyargcount])

    @functools.wraps(method)
    def advised(*args: Any, **options: Any) -> Any:
        try:
            return method(*args, **options)
        except TypeError:
            unknown = [name for name in options if name not in known]
            if not unknown:
                raise
        raise _unexpected("Client" if method.__name__ == "__init__" else method.__name__, unknown[0], known)

    same: Any = advised
    same.__kwdefaults__ = method.__kwdefaults__  # by which the names of its options are known
    return same  # type: ignore[no-any-return]


class _Elsewhere:
    """What another client has in its `chat`: whatever is looked for in it, the error says what is written here."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no chat.completions.{name}() here: write llm.chat(messages, ...), or "
                             "llm.stream(messages, ...)")


class Client:
    """A client of one provider; share it between threads, and use it as a context manager if you like.

        llm = Client("openai/gpt-5-mini")                               # the key is in OPENAI_API_KEY
        llm = Client("qwen3", base_url="http://localhost:8000/v1")      # any OpenAI-compatible server
        print(llm.chat("Why is the sky blue?"))

    Args:
        model: "provider/model", or, with `provider` or `base_url`, the model's id verbatim.  Default: LLMLITE_MODEL.
        provider: a name of the provider table (`providers()` lists it).
        base_url: the API's address.  Default: the provider's own variable (OPENAI_BASE_URL, ...), then its preset.
        api_key: a str ("" for none) or a callable returning one, asked again for each attempt; what it raises comes
            through.  Default: the provider's environment variable; without a provider LLMLITE_API_KEY, or "local" on a
            loopback host.
        timeout: seconds, or (connect, read), with the meaning `requests` gives them; None waits for ever.  Default:
            (10, 600).
        idle_timeout: seconds a stream may go without a data event (pings do not count).  Default: the read timeout.
        deadline: seconds for a whole call: connects, retries, waits and the last byte included.  Default: none.
        retry: a `RetryPolicy`, or None for one attempt a call.  Default: `RetryPolicy()`.
        rate_limit: a `RateLimit` to hold calls back by.
        headers: more headers to send; a value of None leaves a default one out.
        session: your own `requests.Session` (proxies, certificates, mocks); it stays yours to close.
        save_failed: a folder; each failed request is written there as one JSON file, without its key, for `replay`.
            Default: LLMLITE_SAVE_FAILED.
        fallbacks: models (written as `model` is) or Clients, tried in turn when this one fails for good, a Client
            within its own deadline too; a bad request is not tried again, one that cannot take the request is passed
            over.  When all fail, the error of the last one asked is raised.
        skip_bad_events: skip torn events of a stream instead of failing.
        api: "chat" for OpenAI's chat completions, "responses" for its Responses, "auto" for Responses where a model is
            served there only.  "chat" says nothing to Anthropic and Gemini.
        prompt_cache: True has the provider keep what it has read of a prompt, for some minutes, so that the next one
            that begins so costs less; "1h" for an hour, where it sells that.  The most do it unasked.
        cache: a mapping of str to str (a dict, `llmlite.Cache(path)`) that keeps whole answers of chat, stream,
            complete, stream_tokens and embed: the same request is answered from there, at once and unbilled.  Errors,
            cut, filtered and empty answers are not kept.  One that fails is warned of, and never fails a call.

    Raises:
        ConfigurationError: a missing key, an unknown provider, a bad argument.
    """

    @_advised
    def __init__(self, model: Optional[str] = None, *, provider: Optional[str] = None, base_url: Optional[str] = None,
                 api_key: Key = None, timeout: Timeout = (10, 600), idle_timeout: Optional[float] = None,
                 deadline: Optional[float] = None, retry: Optional[RetryPolicy] = RetryPolicy(),
                 rate_limit: Optional[RateLimit] = None, headers: Headers = None,
                 session: Optional[requests.Session] = None,
                 save_failed: Union[None, str, _Path] = None,
                 fallbacks: Sequence[Union[str, Client]] = (), skip_bad_events: bool = False,
                 api: Literal["auto", "chat", "responses"] = "auto", prompt_cache: PromptCache = None,
                 cache: Answers = None) -> None:
        fallbacks = _checked_fallbacks(fallbacks)
        self._options: JSON = dict(  # what a pickle carries
            model=model, provider=provider, base_url=base_url, api_key=api_key, timeout=timeout,
            idle_timeout=idle_timeout, deadline=deadline, retry=retry, rate_limit=rate_limit, headers=headers,
            session=session, save_failed=save_failed, fallbacks=fallbacks, skip_bad_events=skip_bad_events, api=api,
            prompt_cache=prompt_cache, cache=cache)
        self._provider, self._base_url, found = _find_provider(model, provider, base_url, session)
        self.model: str = found
        self._choose_dialects(api)
        self._cache, self._cache_failed = _checked_cache(cache), False
        self._key = _find_key(self._provider, self._base_url, api_key, dict(
            session=session, retry=retry, timeout=timeout))
        self._session = _checked_session(session)
        self._take_terms(self._options)
        self.ledger: Ledger = Ledger()
        self._gates: Dict[object, _Gate] = {}  # by process: a forked child learns its own pace
        self._transports: Dict[object, _Transport] = {}  # by process: a forked child makes its own
        self._transport()
        self._tokens: deque[str] = deque(maxlen=9)  # of late, by a callable api_key
        self._fallbacks = [item if isinstance(item, Client) else self._fallback(item) for item in fallbacks]
        _debug_to_stderr()

    def _choose_dialects(self, api: str) -> None:
        """What to ask the provider in, and what is learnt of its models meanwhile."""
        row = self._provider
        self._chat, self._raw, self._responses = row.dialect(), row.completions(), row.responses()
        if not _is_host(urlsplit(self._base_url).hostname, row):
            self._chat.keeps_whole = False
        self._api = _checked_api(api, row)
        self._moved: Set[str] = set()  # models that turned out to be served by Responses only
        self._unknown: Dict[str, str] = {}  # models that are not there -> what to say of them

    def _take_terms(self, given: JSON) -> None:
        """What holds for each call, unless its caller wants something else."""
        self._timeout = _checked_timeout(given["timeout"])
        self._idle_timeout = _checked_seconds("idle_timeout", given["idle_timeout"])
        self._deadline = _checked_seconds("deadline", given["deadline"])
        self._retry = _checked("retry", given["retry"], (RetryPolicy, _NONE))
        self._rate_limit = _checked("rate_limit", given["rate_limit"], (RateLimit, _NONE))
        self._headers = _checked_headers(given["headers"])
        self._prompt_cache = _checked_prompt_cache(given["prompt_cache"])
        self._skip_bad_events = _checked("skip_bad_events", given["skip_bad_events"], (bool, _NONE))
        self._save_failed = _checked_folder(given["save_failed"]) or os.environ.get("LLMLITE_SAVE_FAILED")

    @_advised
    def chat(self, messages: Messages, *, system: Optional[str] = None,
             temperature: Optional[float] = None, top_p: Optional[float] = None, top_k: Optional[int] = None,
             max_tokens: Optional[int] = None, stop: Union[None, str, Sequence[str]] = None, seed: Optional[int] = None,
             tools: Optional[Tools] = None, tool_choice: Union[None, str, JSON] = None, schema: Schema[_Parsed] = None,
             reasoning_effort: Optional[str] = None, logprobs: Union[None, bool, int] = None,
             prompt_cache: PromptCache = None, extra: Optional[JSON] = None, model: Optional[str] = None,
             timeout: Timeout = _UNSET, deadline: Optional[float] = _UNSET, headers: Headers = None,
             cache: CacheUse = _UNSET) -> Response[_Parsed]:
        """Ask, and wait for the whole reply.

            reply = llm.chat("Why is the sky blue?", system="One sentence.", temperature=0)
            print(reply.text, reply.usage.output_tokens)

        Args:
            messages: a str (one user message), or an iterable of message dicts in OpenAI's shape; a reply stands for
                its message, and so does an object that has model_dump() (openai's, pydantic's).
            system: the system prompt.
            temperature, top_p, top_k, max_tokens, stop, seed, reasoning_effort: sent when given, else not.
            tools, tool_choice: functions and tool dicts, and which to use ("auto", "none", "required", a tool's name).
            schema: a JSON schema, `dict` (any object), a dataclass, a TypedDict or a pydantic model: the answer is JSON
                of that shape, and `reply.parsed` the value.
            logprobs: True for `reply.logprobs`, a number for as many of what was likely besides, at each token.
            extra: merged into the request body, for anything not named here.
            prompt_cache, model, timeout, deadline, headers: as on `Client`, for this call.
            cache: None passes the client's by, "refresh" asks anew and keeps the new answer.

        Raises:
            ConfigurationError: a bad argument, or one that the provider does not take; nothing was sent.
            TypeError: a tool or a schema that cannot be described to a model.
            SchemaError: the answer does not fit the schema.
            LLMError: all else, see the error classes: `APIError` for what the provider refuses.
        """
        asked = dict(messages=messages, system=system, temperature=temperature, top_p=top_p, top_k=top_k,
                     max_tokens=max_tokens, stop=stop, seed=seed, tools=tools, tool_choice=tool_choice, schema=schema,
                     reasoning_effort=reasoning_effort, logprobs=logprobs, prompt_cache=prompt_cache, extra=extra)
        reply: Response[_Parsed] = self._ask("_chat", asked, False, model, timeout, deadline, headers, cache=cache)
        return reply

    @_advised
    def stream(self, messages: Messages, *, system: Optional[str] = None, temperature: Optional[float] = None,
               top_p: Optional[float] = None, top_k: Optional[int] = None, max_tokens: Optional[int] = None,
               stop: Union[None, str, Sequence[str]] = None, seed: Optional[int] = None,
               tools: Optional[Tools] = None, tool_choice: Union[None, str, JSON] = None,
               schema: Schema[_Parsed] = None, reasoning_effort: Optional[str] = None,
               logprobs: Union[None, bool, int] = None,
               prompt_cache: PromptCache = None, extra: Optional[JSON] = None, model: Optional[str] = None,
               timeout: Timeout = _UNSET, deadline: Optional[float] = _UNSET, headers: Headers = None,
               cache: CacheUse = _UNSET) -> Stream[str, _Parsed]:
        """Ask, and read the reply piece by piece; takes what `chat` takes.

            for text in llm.stream("Tell me a story"):
                print(text, end="", flush=True)

        Sends at once and returns when the first event is here: until then failures are retried, afterwards never.

        Raises:
            LLMError, TypeError: as `chat` does.
            StreamError: where the `Stream` is read; `response` has what had come.
        """
        asked = dict(messages=messages, system=system, temperature=temperature, top_p=top_p, top_k=top_k,
                     max_tokens=max_tokens, stop=stop, seed=seed, tools=tools, tool_choice=tool_choice, schema=schema,
                     reasoning_effort=reasoning_effort, logprobs=logprobs, prompt_cache=prompt_cache, extra=extra)
        stream_: Stream[str, _Parsed] = self._ask("_chat", asked, True, model, timeout, deadline, headers, cache=cache)
        return stream_

    @_advised
    def complete(self, prompt: Union[str, Iterable[int]], *, temperature: Optional[float] = None,
                 top_p: Optional[float] = None, top_k: Optional[int] = None, min_p: Optional[float] = None,
                 max_tokens: Optional[int] = None, stop: Union[None, str, Sequence[str]] = None,
                 seed: Optional[int] = None, priority: Optional[int] = None, logprobs: Optional[int] = None,
                 extra: Optional[JSON] = None, model: Optional[str] = None, timeout: Timeout = _UNSET,
                 deadline: Optional[float] = _UNSET, headers: Headers = None,
                 cache: CacheUse = _UNSET) -> Response:
        """Complete a raw prompt: a str, or a list of token ids.  `tokens` of the reply are its `Token`s.

            print(llm.complete("def add(a, b):", max_tokens=50, stop="\\n\\n").text)

        The ids are there where the server tells them: vLLM (provider "vllm", or extra={"return_token_ids": True}) and
        llama.cpp (provider "llamacpp").  A server that tells several ids and one text has it stand with the last of
        them; `logprobs` makes it tell each token's own.  The other arguments are those of `chat`.

        Args:
            prompt: what is to go on, not empty.
            min_p: a token must be at least this share (0 to 1) as likely as the likeliest, where the server knows it.
            priority: which of the requests that wait goes first, where the server knows it: vLLM takes the lowest.

        Raises:
            LLMError: as `chat` does.
        """
        asked = dict(prompt=prompt, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
                     max_tokens=max_tokens, stop=stop, seed=seed, priority=priority, logprobs=logprobs, extra=extra)
        reply: Response = self._ask("_raw", asked, False, model, timeout, deadline, headers, cache=cache)
        return reply

    @_advised
    def stream_tokens(self, prompt: Union[str, Iterable[int]], *, temperature: Optional[float] = None,
                      top_p: Optional[float] = None, top_k: Optional[int] = None, min_p: Optional[float] = None,
                      max_tokens: Optional[int] = None, stop: Union[None, str, Sequence[str]] = None,
                      seed: Optional[int] = None, priority: Optional[int] = None, logprobs: Optional[int] = None,
                      extra: Optional[JSON] = None, model: Optional[str] = None, timeout: Timeout = _UNSET,
                      deadline: Optional[float] = _UNSET, headers: Headers = None,
                      cache: CacheUse = _UNSET) -> Stream[Token]:
        """Complete a raw prompt, and read it `Token` by `Token`; takes what `complete` takes.

            ids = [token.id for token in llm.stream_tokens([1, 15043], max_tokens=50)]

        Raises:
            LLMError: as `stream` does.
        """
        asked = dict(prompt=prompt, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
                     max_tokens=max_tokens, stop=stop, seed=seed, priority=priority, logprobs=logprobs, extra=extra)
        stream_: Stream[Token] = self._ask("_raw", asked, True, model, timeout, deadline, headers, cache=cache)
        return stream_

    @_advised
    def embed(self, texts: Union[str, Iterable[str]], *, extra: Optional[JSON] = None, model: Optional[str] = None,
              timeout: Timeout = _UNSET, deadline: Optional[float] = _UNSET, headers: Headers = None,
              cache: CacheUse = _UNSET) -> Embeddings:
        """The vectors of texts, in their order; as many requests as the provider's limit makes it.

            vectors = llm.embed(["sky", "sea"], model="text-embedding-3-small").vectors

        Args:
            texts: one, or a list of them, none empty.
            extra, model, timeout, deadline, headers, cache: those of `chat`.

        Raises:
            LLMError: where a later request fails, `error.response.parsed` is the `Embeddings` of those before it: the
                vectors of the first texts.
        """
        texts = _checked_texts(texts)
        until, size = self._until(deadline), self._chat.embeddings_at_once
        more = _checked_asked({"extra": extra}).get("extra", {})
        done: List[Response] = []
        with self._as_one(done, lambda last: _so_far(done, last, self._model_for(model))):
            for batch in (texts[at:at + size] for at in range(0, len(texts), size)):
                call = self._call(self._chat, model, timeout, until, headers)
                call.asks_for(self._chat.embeddings(call.model, batch, more), _Vectors(len(batch)))
                self._use_cache(call, cache)
                done.append(self._perform_alone(call))
        return _gathered(done, done[-1].model)

    @contextlib.contextmanager
    def _as_one(self, done: List[Response], so_far: Callable[[Optional[Response]], Response]) -> Iterator[None]:
        """Requests that are one call of the user's: an error amid them tells of all, and of what had come."""
        started = _now()
        try:
            yield
        except LLMError as error:
            _tell_of_all(error, done, so_far, started)
            raise

    def models(self, *, timeout: Timeout = _UNSET, deadline: Optional[float] = _UNSET,
               headers: Headers = None) -> List[str]:
        """The ids of the models the provider offers.

            [name for name in llm.models() if "mini" in name]

        Args:
            timeout, deadline, headers: as on `Client`, for this call.

        Raises:
            LLMError: as `chat` does.
        """
        names: List[str] = []
        page, until = "", self._until(deadline)
        while True:
            call = self._call(self._chat, None, timeout, until, headers)
            reply = self._perform_alone(call.asks_for(self._chat.models(page), _ModelList()))
            names += reply.parsed
            page = _next_page(reply.raw)
            if not page or not reply.parsed or len(names) > _MAX_MODELS:
                return names

    def count_tokens(self, messages: Messages, *, system: Optional[str] = None, tools: Optional[Tools] = None,
                     model: Optional[str] = None, timeout: Timeout = _UNSET, deadline: Optional[float] = _UNSET,
                     headers: Headers = None) -> int:
        """How many tokens a chat would send, by the provider's own count.

            llm.count_tokens("Why is the sky blue?", system="One sentence.")   # 23

        The arguments are those of `chat`.  Anthropic, Gemini, OpenAI, Azure, vLLM and llama.cpp tell.

        Raises:
            ConfigurationError: the provider does not tell.
            LLMError: as `chat` does.
        """
        asked, name = _checked_asked(dict(messages=messages, system=system, tools=tools)), self._model_for(model)
        dialect = self._dialect("_chat", name, asked)
        if dialect.counts == "items" and self._responses is not None:
            dialect = self._responses
        count: int = self._told(dialect.counting(name, asked), dialect, model, timeout, deadline, headers)
        return count

    def tokenize(self, text: str, *, model: Optional[str] = None, timeout: Timeout = _UNSET,
                 deadline: Optional[float] = _UNSET, headers: Headers = None) -> List[int]:
        """The ids of a text's tokens, none of them special (vLLM, llama.cpp).

            llm.tokenize("Why is the sky blue?")   # [10234, 318, ...]

        `model`, `timeout`, `deadline` and `headers` are those of `chat`.

        Raises:
            ConfigurationError: the provider does not tell.
            LLMError: as `chat` does.
        """
        request = self._raw.tokenizing(self._model_for(model), _checked("text", text, (str,)))
        ids: List[int] = self._told(request, self._raw, model, timeout, deadline, headers)
        return ids

    def detokenize(self, ids: Iterable[int], *, model: Optional[str] = None, timeout: Timeout = _UNSET,
                   deadline: Optional[float] = _UNSET, headers: Headers = None) -> str:
        """The text of token ids (vLLM, llama.cpp).

            llm.detokenize([10234, 318])   # "Why is"

        `model`, `timeout`, `deadline` and `headers` are those of `chat`.

        Raises:
            ConfigurationError: the provider does not tell.
            LLMError: as `chat` does.
        """
        listed = _checked("ids", _listed_items(ids) or ids, (list, tuple))
        given = [_checked(f"ids[{at}]", id, (int,), 0) for at, id in enumerate(listed)]
        request = self._raw.detokenizing(self._model_for(model), given)
        text: str = self._told(request, self._raw, model, timeout, deadline, headers)
        return text

    def _told(self, asked: Tuple[_Request, _Value], dialect: _Dialect, model: Optional[str], timeout: Timeout,
              deadline: Any, headers: Headers) -> Any:
        """What an endpoint says that answers with one value."""
        call = self._call(dialect, model, timeout, deadline, headers)
        return self._perform_alone(call.asks_for(*asked)).parsed

    def request(self, method: str, path: str, *, json: Any = None, data: Any = None, files: Any = None,
                params: Any = None, headers: Headers = None, stream: bool = False, timeout: Timeout = _UNSET,
                deadline: Optional[float] = _UNSET) -> Answer:
        """Ask any other endpoint of the provider, with this client's key, retries, cool-down, limits and errors.

            llm.request("POST", "/moderations", json={"input": "..."}).json()["results"]
            with open("a.wav", "rb") as file:
                llm.request("POST", "/audio/transcriptions", data={"model": "whisper-1"}, files={"file": file}).text

        Args:
            method: GET, POST, ...
            path: below the base URL, or a whole URL on the same host.
            json: sent as JSON.
            data, files, params: as in `requests`: a form or a body, a multipart form's files, the URL's query.  Files
                of a form are read before anything is sent.  A body that is read as it is sent, from an iterator or a
                file that cannot seek, is not sent again.
            stream: return when the answer's head is here; the body comes as it is read.  From then on nothing is
                tried again.
            headers, timeout, deadline: as on `Client`, for this call.

        Raises:
            LLMError: as `chat` does; a status below 300 whose body is nothing but an error is an error too.
        """
        call = self._call(self._chat, None, timeout, deadline, headers)
        call.model = _str(_dict(data if json is None else json).get("model")) or call.model
        content = _content_of(json, data, files)
        if content.upload is not None and getattr(self._session, "auth", None) is not None:
            content = _Content(b"".join(content.upload), content.kind)  # which is to be signed
        asked = _Request(_checked_method(method), _with_params(path, params), None, content)
        call.asks_for(asked, _Anything(self._chat), _checked("stream", stream, (bool,)))
        reply = self._perform_alone(call)
        answer: Answer = reply if isinstance(reply, Answer) else reply.parsed
        return answer

    def run_tools(self, messages: Messages, tools: Tools, *, max_rounds: int = 10,
                  deadline: Optional[float] = _UNSET, schema: Schema[_Parsed] = None,
                  **options: Unpack[_RunOptions]) -> Response[_Parsed]:
        """Chat, call the Python functions among `tools` that the model asks for, send it the results, and so on.

            reply = llm.run_tools("Is it warm in Rome?", [weather])   # def weather(city: str) -> float

        Returns the first reply that asks for none of them; its `messages` hold the whole exchange.  An exception of a
        function, broken arguments and an unknown tool go back to the model as errors.

        Args:
            tools: functions, which are called, and tool dicts, whose calls are handed back.
            max_rounds: how many requests there may be.
            deadline: seconds for the whole.
            messages, schema, options: those of `chat`.

        Raises:
            ResponseError: the model still asks for tools in round `max_rounds`; `response` is its last reply, whose
                functions were not called.
            LLMError, TypeError: as `chat` does; `attempts` and `elapsed` are those of the whole.
        """
        _check_names("run_tools", dict(options), _TURN_OPTIONS)
        return _Rounds(self, messages, tools, max_rounds, deadline).run({**options, "schema": schema})

    def conversation(self, *, system: Union[None, str, Sequence[JSON]] = None, tools: Optional[Tools] = None,
                     messages: Optional[Messages] = None, compact_at: Optional[int] = None,
                     **options: Unpack[_TalkOptions]) -> Conversation:
        """A `Conversation` with this client: it keeps the history, and sends it with each message.

            talk = llm.conversation(system="One sentence.", temperature=0)
            print(talk.send("Why is the sky blue?"), talk.send("And at dusk?"))

        Args:
            system: the system prompt.
            tools: functions, which run by themselves as in `run_tools`, and tool dicts, whose calls are handed back.
            messages: what was said before: a list of message dicts, which is copied.  A system message that it begins
                with is the system prompt, where none is given.
            compact_at: the tokens from which on `should_compact` is True.
            options: those of `chat`, and `max_rounds` of `run_tools`, for each message sent.

        Raises:
            ConfigurationError, TypeError: a bad argument, or one that there is not, at once.
        """
        return Conversation(self, system=system, tools=tools, messages=messages, compact_at=compact_at, **options)

    def load_conversation(self, path: Union[str, _Path], *, tools: Optional[Tools] = None,
                          **options: Unpack[_TalkOptions]) -> Conversation:
        """The conversation that `Conversation.save` wrote to `path`, with any client; tools and options are given anew.

            talk = llm.load_conversation("talk.json")

        A `system` or `compact_at` that is given is used in place of the file's.

        Raises:
            ConfigurationError: there is no such file, or it is none of those.
        """
        _check_names("load_conversation", dict(options), _TURN_OPTIONS | {"compact_at"})
        conversation, path = Conversation(self, tools=tools, **options), os.fspath(path)
        try:
            with open(path, encoding="utf-8-sig") as file:
                conversation._fill(json.load(file))
        except (OSError, ValueError, RecursionError) as error:
            why = getattr(error, "strerror", None) or _quoted(str(error))
            raise ConfigurationError(f"{os.fsdecode(path)} is no saved conversation: {why}") from None
        return conversation

    if TYPE_CHECKING:  # what is yielded, by `errors` and `ordered`
        @overload
        def map(self, prompts: Iterable[Any], *, errors: Literal["raise"], ordered: Literal[True] = True,
                workers: int = 8, executor: Any = None, progress: Progress = False, total: Optional[int] = None,
                schema: Schema[_Parsed] = None, **options: Unpack[_ChatOptions]) -> _Map[Response[_Parsed]]: ...
        @overload
        def map(self, prompts: Iterable[Any], *, errors: Literal["raise"], ordered: Literal[False],
                workers: int = 8, executor: Any = None, progress: Progress = False, total: Optional[int] = None,
                schema: Schema[_Parsed] = None, **options: Unpack[_ChatOptions]
                ) -> _Map[Tuple[int, Response[_Parsed]]]: ...
        @overload
        def map(self, prompts: Iterable[Any], *, ordered: Literal[False], errors: Literal["return"] = "return",
                workers: int = 8, executor: Any = None, progress: Progress = False, total: Optional[int] = None,
                schema: Schema[_Parsed] = None, **options: Unpack[_ChatOptions]
                ) -> _Map[Tuple[int, Union[Response[_Parsed], LLMError]]]: ...
        @overload
        def map(self, prompts: Iterable[Any], *, ordered: Literal[True] = True, errors: Literal["return"] = "return",
                workers: int = 8, executor: Any = None, progress: Progress = False, total: Optional[int] = None,
                schema: Schema[_Parsed] = None, **options: Unpack[_ChatOptions]
                ) -> _Map[Union[Response[_Parsed], LLMError]]: ...
        @overload
        def map(self, prompts: Iterable[Any], *, ordered: bool = True, errors: Literal["return", "raise"] = "return",
                workers: int = 8, executor: Any = None, progress: Progress = False, total: Optional[int] = None,
                **options: Unpack[_EachOptions]) -> _Map[Any]: ...

    def map(self, prompts: Iterable[Any], *, workers: int = 8, executor: Any = None, ordered: bool = True,
            errors: str = "return", progress: Progress = False, total: Optional[int] = None, **options: Any
            ) -> _Map[Any]:
        """Chat about many prompts at once; yields what comes of each, in their order.

            for reply in llm.map(prompts, workers=16, system="One word.", temperature=0):
                print(reply if isinstance(reply, LLMError) else reply.text)

        Args:
            prompts: any iterable, read as room is there, at most `2 * workers` ahead; each a str, a list of message
                dicts, or a dict of `chat`'s arguments, which win over `options`.
            workers: how many calls are under way at once.
            executor: any `concurrent.futures.Executor` (processes, Dask's `client.get_executor()`) to call from
                instead of own threads; the client is pickled to other processes, what they spend is in this ledger.
            ordered: False yields (index, result) as they end.
            errors: "return" yields an `LLMError` in the place of its reply, "raise" raises it there.
            progress: True shows a bar (tqdm's if it is there) or a count on stderr; a callable gets (done, failed,
                usage) after each.
            total: how many prompts there are, for the bar.  Default: their `len()`.
            options: those of `chat`, for each call.

        Closing the iterator (its `close()`, in any thread; dropping it; an exception where it is used) cuts the calls
        under way and sends nothing more; those in other processes run to their end, and what they spend is still
        counted.  Whoever waits for its next result in another thread sees its end.

        Raises:
            ConfigurationError, TypeError: a bad argument, at once; a bad prompt is a ConfigurationError in its place.
            Exception: what `prompts` raises, once the results of those before it have been yielded.
            RuntimeError: the executor takes no more calls; raised when what it had taken has been yielded.
        """
        _checked_workers(workers)
        if errors not in ("return", "raise"):
            raise ConfigurationError(f"errors={errors!r}", hint='give "return" or "raise"')
        if isinstance(prompts, (str, bytes, abc.Mapping)) or not _is_iterable(prompts):
            hint = 'give a column, prompts["name"]' * hasattr(prompts, "columns") or "give a list or another iterable"
            raise ConfigurationError(f"prompts is a {type(prompts).__name__}", hint=hint)
        _check_names("map", options, _CHAT_OPTIONS | _MAP_OPTIONS)
        _described(options)
        crew = _Threads(self, options, workers) if executor is None else _Executed(self, options, workers, executor)
        if total is None and isinstance(prompts, abc.Sized):
            total = len(prompts)
        told = _Progress(progress, total)
        window = _Window(crew, iter(prompts), 2 * workers, ordered)
        return _Map(crew, _mapped(window, errors == "raise", told), told)

    def close(self) -> None:
        """Close the pooled connections (not those of a `session` or a fallback Client of yours).  Raises nothing.

            llm.close()   # or: with Client("openai/gpt-5-mini") as llm:

        A call made afterwards opens new ones.
        """
        self._transport().close()
        if isinstance(self._key, _TokenSource):
            self._key.client.close()
        for given, client in zip(self._options["fallbacks"], self._fallbacks):
            if client is not given:
                client.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self._provider.name}/{self.model} at {_without_userinfo(self._base_url)}>"

    def __getstate__(self) -> JSON:
        return self._options

    def __setstate__(self, options: JSON) -> None:
        self.__init__(**options)  # type: ignore[misc]

    def _fallback(self, model: str) -> Client:
        """A client of another model: what it spends is in this client's ledger, no key goes to another provider."""
        options = {**self._options, "model": model, "fallbacks": (), "deadline": None}  # the caller's bounds it
        if not (options["provider"] or options["base_url"]) and model.partition("/")[0] != self._provider.name:
            options.update(api_key=None, headers=None, api="auto")
        client = Client(**options)
        client.ledger = self.ledger
        return client

    def _ask(self, way: str, asked: JSON, stream: bool, model: Optional[str], timeout: Timeout, deadline: Any,
             headers: Headers, after: Optional[_Call] = None, cache: Any = _UNSET) -> Any:
        """A call of this client's `way` ("_chat" or "_raw"), or of the first fallback that does not fail.

        `after` is the call of the client before, where this one is a fallback.
        """
        dialect = self._dialect(way, self._model_for(model), asked)
        call = self._call(dialect, model, timeout, deadline, headers)
        call.follows(after)
        call.schema, call.asked = asked.get("schema"), _checked_asked(asked)
        if way == "_chat":
            call.asked.setdefault("prompt_cache", self._prompt_cache)
        call.asks_for(dialect.request(call.model, call.asked, stream), dialect, stream)
        self._use_cache(call, cache)
        try:
            return self._perform(call)
        except LLMError as caught:
            error = caught
        except KeyboardInterrupt as stop:
            _shorten(stop, call)
            raise
        except Exception:  # of the key's owner
            self._book_failure(call)
            raise
        # An iterator can be read once only.
        asked = {**asked, **{name: call.asked[name] for name in ("messages", "prompt") if name in asked}}
        try:
            return self._fall_back(call, error, way, asked, timeout, headers, cache)
        finally:
            del error

    def _fall_back(self, call: _Call, error: LLMError, way: str, asked: JSON, timeout: Timeout, headers: Headers,
                   cache: Any) -> Any:
        """The reply of the first fallback that does not fail; when none is left, raises what the last one asked did."""
        for client in self._fallbacks:
            if _is_hopeless(call, error):
                break
            _log.warning("%s; %r is next", error, client)
            call.before = error.attempts
            until = min(call.deadline, client._until(_UNSET))
            own = headers if client._base_url == self._base_url else None  # they are meant for this address
            try:
                return client._ask(way, asked, call.streams, None, timeout, until, own, after=call, cache=cache)
            except ConfigurationError as unable:
                _log.warning("%r is passed over: %s", client, unable)
            except LLMError as caught:
                caught.last_error = caught.last_error or error
                error = caught
        self._book_failure(call)
        if isinstance(error, NotFoundError) and call.after is None and not self._fallbacks and _NO_MODEL in error.hint:
            self._advise_model(call, error)
        try:
            raise error
        finally:
            del error

    def _advise_model(self, call: _Call, error: NotFoundError) -> None:
        """Have the error of a model that is not there name those most like it, by the provider's own list.

        That is asked for once a model, and is no call of the user's: the ledger does not count it, and the error is
        raised whatever becomes of it.
        """
        if call.model not in self._unknown and len(self._unknown) < _MAX_ROADS:
            self._unknown[call.model] = ""  # threads that come meanwhile do without
            self._unknown[call.model] = _hint_of_models(call, self._listed(call))
            error.elapsed = _now() - call.started
        error.hint = self._unknown.get(call.model) or error.hint

    def _listed(self, call: _Call) -> List[str]:
        """The first page of the provider's models, or none: a failed call waits `_LISTING` seconds at most for it."""
        until = min(call.deadline, _Deadline(_now() + _LISTING, _LISTING))
        listing = self._call(self._chat, call.model, _LISTING, until)
        listing.ledgers, listing.key, listing.headers = (), call.key, call.headers
        try:
            attempt = _Attempt(listing.asks_for(self._chat.models(""), _ModelList()))
            try:
                answer = self._transport().send(listing, attempt)
                return listing.reader.take(listing, attempt, answer).parsed if answer.status < 300 else []
            finally:
                attempt.end()
                attempt.give_back()
        except (LLMError, *_WIRE_ERRORS) as failed:
            _log.debug("%s: no list of models: %s", call.provider.name, listing.quoted(str(failed)))
        return []

    def _dialect(self, way: str, model: str, asked: JSON) -> _Dialect:
        """What to ask a model in: chat completions, raw completions, or Responses."""
        responses = self._responses
        if way == "_chat" and responses is not None and (self._api == "responses" or self._api == "auto" and (
                model in self._moved or responses.serves_alone(model, asked))):
            return responses
        dialect: _Dialect = getattr(self, way)
        return dialect

    def _ask_otherwise(self, call: _Call) -> bool:
        """Have the call ask for the same in another way, if that is why it was refused."""
        responses, reader, error = self._responses, call.reader, call.last_error
        if not isinstance(error, APIError) or error.status_code not in (400, 404) or call.asked is None:
            return False
        if (reader is self._chat and self._api == "auto" and responses is not None and error.status_code == 404
                and "v1/responses" in error.message):
            try:
                request = responses.request(call.model, call.asked, call.streams)
            except ConfigurationError as unable:
                error.hint = f"Responses do not take this call: {unable}"
                return False
            self._moved.add(call.model)
            call.asks_for(request, responses, call.streams)
            return True
        body = reader.otherwise(json.loads(call.payload or b"{}"), error)
        if body is not None:
            call.asks_for(_Request(call.method, call.path, body), reader, call.streams)
        return body is not None

    def _call(self, dialect: _Dialect, model: Optional[str] = None, timeout: Timeout = _UNSET,
              deadline: Any = _UNSET, headers: Headers = None) -> _Call:
        """A call under this client's terms, or what a method's caller wants instead; it asks for nothing yet."""
        call = _Call(self._provider, self._base_url, self._model_for(model), dialect)
        call.ledgers = (self.ledger,)
        call.policy, call.key = self._retry, "" if callable(self._key) else self._key
        call.connect, call.read = self._timeout if timeout is _UNSET else _checked_timeout(timeout)
        call.idle = self._idle_timeout or call.read
        call.deadline = self._until(deadline)
        call.headers = self._headers if headers is None else _with_headers(self._headers, _checked_headers(headers))
        return call

    def _secrets(self, call: _Call) -> List[str]:
        """What must show nowhere of a call, and of those that its fallbacks may have answered."""
        others = [client._secrets(client._call(client._chat)) for client in self._fallbacks]
        return list(itertools.chain(call.secrets(), list(self._tokens), *others))

    def _until(self, deadline: Any) -> _Deadline:
        """The deadline of a call, or of the longer one that it is a part of."""
        if isinstance(deadline, _Deadline):
            return deadline
        limit = self._deadline if deadline is _UNSET else _checked_seconds("deadline", deadline)
        return _NO_DEADLINE if limit is None else _Deadline(_now() + limit, limit)

    def _model_for(self, model: Optional[str]) -> str:
        if model is None:
            return self.model
        _checked("model", model, (str, _NONE))
        prefix, _, rest = model.partition("/")
        row, verbatim = self._provider, self._options["provider"] or self._options["base_url"]
        if not verbatim and prefix == row.name:
            return rest
        if not verbatim and row.plain_ids and prefix in _PROVIDERS and rest:
            raise ConfigurationError(
                f"model={model!r} names a model of another provider, this client is {row.name}'s", hint=f"ask "
                f"Client({model!r}); Client(..., provider={row.name!r}) sends any id as it is")
        return model

    def _perform_alone(self, call: _Call) -> Any:
        """A call that no other client is asked after."""
        try:
            return self._perform(call)
        except Exception:
            self._book_failure(call)
            raise
        except KeyboardInterrupt as stop:
            _shorten(stop, call)
            raise

    def _perform(self, call: _Call) -> Any:
        """Attempt after attempt until one holds: the only place that retries."""
        while True:
            if call.cache is not None:
                kept = self._kept(call)
                if kept is not None:
                    return kept
            attempt, mine = self._next_attempt(call), None
            try:
                return self._attempt(call, attempt)
            except BaseException as caught:
                try:
                    self._settle(attempt)
                finally:  # Ctrl-C may have hit there
                    self._settle(attempt)
                attempt.check()
                mine = call.upload.error if call.upload is not None else None
                if not isinstance(caught, LLMError) and mine is None:
                    raise
                if isinstance(caught, LLMError):
                    call.last_error = _sealed(caught, call).with_traceback(None)  # no frame is to hold it in a cycle
            if mine is not None:
                try:
                    raise mine  # what the user's own source raised
                finally:
                    del mine
            if not (self._ask_otherwise(call) or self._renews_key(call)):
                self._wait_to_retry(call)

    def _next_attempt(self, call: _Call) -> _Attempt:
        """An attempt whose turn has come, with the key of now."""
        try:
            call.check()
            if _now() >= call.deadline.end:
                raise call.deadline.error()
            self._gate.enter(call)
        except DeadlineExceededError as late:
            self._report(call, _sealed(late, call))
            raise
        try:
            if callable(self._key):
                call.keys.append(call.key)
                call.key = self._fresh_key(call)
            return _Attempt(call)
        except BaseException:  # of the key's owner, or nobody wants the answer any more
            self._gate.answered(call, None)
            raise

    def _renews_key(self, call: _Call) -> bool:
        """Whether to ask once more with a new token, as the last one was refused."""
        error = call.last_error
        stale = isinstance(error, AuthenticationError) and callable(self._key) and "token" not in call.retries
        if not stale or self._retry is None or call.upload is not None and call.upload.spent:
            return False
        call.retries["token"] = 1
        if isinstance(self._key, _TokenSource):
            self._key.forget()
        _log.warning("%s %s: asked once more with a new token: %s", call.provider.name, call.model, error)
        return True

    def _fresh_key(self, call: _Call) -> str:
        """The key that a callable gives for the next attempt; what it raises is its owner's, and ends the call."""
        try:
            key: Any = self._key
            token = _Token(_checked_key(key(call.deadline) if isinstance(key, _TokenSource) else key()))
            if token not in self._tokens:
                self._tokens.append(token)
            return token
        except ConfigurationError as error:
            _sealed(error, call)
            raise
        except Exception as error:
            if call.after is None:
                raise
            raise ConfigurationError(f"api_key() raised {type(error).__name__}", why=_quoted(str(error))) from None

    def _attempt(self, call: _Call, attempt: _Attempt) -> Any:
        """One request and its answer: a Response, or a Stream whose first event is here."""
        try:
            answer = self._transport().send(call, attempt)
            if answer.status >= 300:
                payload = answer.read()
                body = _json_of(payload, call)
                raise _api_error(call, answer.status, answer.headers,
                                 payload.decode("utf-8", "replace") if body is _UNSET else body)
            self._gate.told(call, answer.headers)
            if call.streams:
                opened, flow = call.reader.opens
                return opened(flow(call, attempt, answer, self._skip_bad_events, self._settle, self._break_off))
            reply = call.reader.take(call, attempt, answer)
            attempt.empty = _is_empty(reply)
            _read_schema(call, reply)
        except _WIRE_ERRORS as caught:
            error = _translated(caught, call, attempt)
        else:
            self._settle(attempt)
            if call.cache is not None:
                self._keep(call, reply, attempt.body)
            _log_reply(call, reply)
            if attempt.empty and self._retry is not None and self._retry.retry_empty:
                raise EmptyResponseError("the answer is empty", response=reply, _kind="empty")
            return reply
        raise error  # outside the except block: a cause would carry the request, and with it the key

    def _settle(self, attempt: _Attempt) -> None:
        """An attempt has ended: book it, once, and give its connection back."""
        try:
            if attempt.end():
                self._gate.answered(attempt.call, attempt.billed.usage if attempt.billed else None)
        finally:  # last, for it may take a while
            attempt.give_back()

    def _break_off(self, call: _Call, error: LLMError) -> None:
        """A stream has failed, and its call with it."""
        for ledger in call.ledgers:
            ledger._book_failure()
        self._report(call, _sealed(error, call))

    def _wait_to_retry(self, call: _Call) -> None:
        """Wait as long as the policy or the server says, or raise what is final."""
        error: Any = call.last_error
        wait, policy, paced = error.retry_after, self._retry, False
        if policy is not None and error._kind and (wait is None or wait <= policy.retry_after_max):
            if error._kind == "rate":
                paced = self._gate.refused(call, wait)  # the client's other threads wait too, whatever becomes of this
            elif wait is not None:
                self._gate.pause(wait)
        final, delay, hint = _decide(policy, call, error, paced)
        if final is not None:
            call.last_error, final.hint = None, hint
            try:
                raise self._report(call, final if final is error else _sealed(final, call))
            finally:
                del error, final
        call.check()
        _log.warning("%s %s: retry %d in %.2f s: %s", call.provider.name, call.model, call.attempts, delay, error)
        call.retries[error._kind] = call.retries.get(error._kind, 0) + 1
        call.due = _now() + delay if wait is None else -math.inf  # what a server asks for, all the client's calls wait

    def _report(self, call: _Call, error: LLMError) -> LLMError:
        """Log and save a call that has failed."""
        _log.info("%s", error)
        if self._save_failed:
            _save(self._save_failed, call, error)
        return error

    def _use_cache(self, call: _Call, cache: Any) -> None:
        """Have a call's answer come from the cache and go there: the client's, or what its caller wants instead."""
        if cache is not _UNSET or self._cache is not None:
            call.refreshes = isinstance(cache, str) and cache == "refresh"
            call.cache = self._cache if cache is _UNSET or call.refreshes else _checked_cache(cache)
            call.keep = self._keep

    def _kept(self, call: _Call) -> Any:
        """The reply, or the Stream of one, that the cache has for what is asked; None: it has none, or was asked."""
        entry, before = _entry_of(call), call.entry
        call.entry, reply = entry, None
        if entry == before or call.refreshes:
            return None
        try:
            reply = _kept_reply(call, call.cache.get(entry))
        except Exception as error:  # of whatever kind of mapping the user has
            self._warn_of_cache(call, error)
        if reply is None:
            return None
        for ledger in call.ledgers:
            ledger._book(object(), _HIT)
            ledger._tidy()
        _log_hit(call, reply)
        return Stream(_KeptFlow(call, reply)) if call.streams else reply

    def _keep(self, call: _Call, reply: Response, body: JSON) -> None:
        """Have the cache keep a good answer; trouble with that is no trouble of the call's."""
        if not _is_to_keep(reply):
            return
        try:
            call.cache[call.entry] = _kept_text(call, reply, body)
        except Exception as error:  # of whatever kind of mapping the user has
            self._warn_of_cache(call, error)

    def _warn_of_cache(self, call: _Call, error: Exception) -> None:
        level, self._cache_failed = logging.DEBUG if self._cache_failed else logging.WARNING, True
        _CACHE_LOG.log(level, "the cache fails, and calls go on without it: %s: %s", type(error).__name__,
                 call.quoted(str(error)))

    def _book_failure(self, call: _Call) -> None:
        if call.after is None or self.ledger not in call.after.ledgers:  # else the client before counts it
            self.ledger._book_failure()

    @property
    def _gate(self) -> _Gate:
        here = _Process.here
        return self._gates.get(here) or self._gates.setdefault(here, _Gate(
            self._rate_limit, (self._retry or RetryPolicy()).retry_after_max))

    def _transport(self) -> _Transport:
        """This process's: of a forked child's threads the first to come makes it, all of them take that one."""
        here = _Process.here
        return self._transports.get(here) or self._transports.setdefault(
            here, _Transport(self._session, self._retry, list(self._transports.values())))


vars(Client.chat).update(completions=_Elsewhere())  # openai's


class Stream(Generic[_Item, _Parsed]):
    """A reply as it comes: iterate it for its text, or `events()` for everything.

    `text` and `response` are the state so far, complete after the end.  Leaving a `with` block, `close()` (from any
    thread), or dropping the last reference closes the connection at once.

        with llm.stream("Tell me a story") as stream:
            for text in stream:
                print(text, end="", flush=True)
        print(stream.response.usage)
    """

    def __init__(self, flow: Any) -> None:
        self._flow: _Flow = flow
        self._events = flow.run()
        next(self._events)  # the first event decides whether the call is tried again
        self._pieces: Iterator[_Item] = _read_on(flow, self._events)

    if not TYPE_CHECKING:  # pragma: no branch: to type checkers the second one has a default, to Python from 3.13 on
        def __class_getitem__(cls, item):
            return super().__class_getitem__(item if isinstance(item, tuple) else (item, Any))

    def __iter__(self) -> Iterator[_Item]:
        return self._pieces

    def __next__(self) -> _Item:
        return next(self._pieces)

    def events(self) -> Iterator[Event]:
        """Every `Event`: text and reasoning as they come; tool calls, usage and finish at the end.

            for event in stream.events():
                print(event.type, event.text)

        Raises:
            StreamError: the stream broke; `response` has what had come.
        """
        return _read_on(self._flow, self._events, whole=True)

    def display(self) -> Response:
        """Show the reply as it comes, and return it: live Markdown in a notebook's cell, text in a terminal.

            reply = llm.stream("Tell me a story").display()

        Until the answer begins a cell shows the model's thoughts; what had come of a stream that breaks stays in sight.

        Raises:
            LLMError: as reading the stream does.
        """
        with self:
            (_show_in_cell if _is_notebook(_shell()) else _show_as_text)(self)
        return self.response

    @property
    def response(self) -> Response[_Parsed]:
        """The `Response` so far; its `finish_reason` is None until the provider has given one."""
        return self._flow.reply()

    @property
    def text(self) -> str:
        """The text so far."""
        return self._flow.text()

    def close(self) -> None:
        """Close the connection; a thread that is reading the stream comes to its end.  Raises nothing.

            stream.close()   # or: with llm.stream("Tell me a story") as stream:
        """
        self._flow.leave(self._events)

    def __enter__(self) -> Stream[_Item, _Parsed]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    if not TYPE_CHECKING:  # pragma: no branch: as of Response
        def __await__(self):
            raise _not_awaited("stream")

    def __repr__(self) -> str:
        return f"<Stream of {self._flow.call.provider.name}/{self._flow.call.model}, {self._flow.events} events>"


class Conversation:
    """A conversation: `send` a message and it goes out with all that was said before.  `Client.conversation` makes one.

        talk = llm.conversation(system="One sentence.")
        talk.send("Why is the sky blue?")
        for text in talk.stream("And at dusk?"):
            print(text, end="", flush=True)
        talk.save("talk.json")

    A turn that fails, or is broken off, leaves all as it was.  `copy.copy(talk)` goes on by itself from here.  It is
    not for two threads at once: a message sent while another is under way raises RuntimeError.

    Attributes:
        client: the `Client`; another one may take its place between turns, of another provider too.
        system: the system prompt, or None.
        tools: the functions and tool dicts of each turn.
        options: the arguments of `chat` for each turn; those of a call win over them.
        messages: the history, a list of message dicts, always the same list.
        usage: the `Usage` of its turns since the last compaction.
        compact_at: the tokens of `usage` from which on `should_compact` is True, or None.
    """

    def __init__(self, client: Client, *, system: Any = None, tools: Optional[Tools] = None,
                 messages: Optional[Messages] = None, compact_at: Optional[int] = None,
                 **options: Unpack[_TalkOptions]) -> None:
        self.options: JSON = dict(options)
        _check_names("conversation", self.options, _TURN_OPTIONS | {"compact_at"})
        self.client: Client = _checked("client", client, (Client,))
        _check_turn(client, {**options, "tools": tools})
        self.tools: Tools = list(tools or ())
        self.usage: Usage = _NO_USAGE
        self._running: Dict[object, object] = {}  # the turn under way, by process
        self._begin_with(system, messages, compact_at)

    def _begin_with(self, system: Any, messages: Any, compact_at: Any) -> None:
        none = messages is None or isinstance(messages, (list, tuple)) and not messages
        history = [] if none else _checked_messages(messages)
        if system is None and history and history[0]["role"] == "system":
            system = history.pop(0).get("content")
        _check_dicts("system", system, (str,), '{"type": "text", "text": "..."}')
        self.system: Any = system
        self.messages: List[JSON] = history
        self.compact_at: Optional[int] = _checked("compact_at", compact_at, (int, _NONE), 1)

    @property
    def should_compact(self) -> bool:
        """Whether its turns have used `compact_at` tokens since the last compaction."""
        return self.compact_at is not None and self.usage.total_tokens >= self.compact_at

    def send(self, content: Messages, *, schema: Schema[_Parsed] = _UNSET,
             **options: Unpack[_TurnOptions]) -> Response[_Parsed]:
        """Send a message, and wait for the whole reply; functions among the tools are run on the way.

            talk.send("And at dusk?", temperature=0).text

        Args:
            content: a str, a message dict (`user(...)`, `tool_result(...)`), or a list of them.
            schema, options: those of `chat`, and `max_rounds`, for this turn; `deadline` bounds the whole of it.

        Raises:
            LLMError: as `run_tools` does; then `messages` are as they were.
            RuntimeError: a turn of this conversation is under way.
        """
        alone = _Alone(self._running)
        with alone, alone:
            turn = _Turn(self, "send", content, _with_schema(options, schema))
            reply = turn.rounds.run(turn.options)
            turn.keep()
        return reply

    def stream(self, content: Messages, *, keep_partial: bool = False,
               schema: Schema[_Parsed] = _UNSET, **options: Unpack[_TurnOptions]) -> Stream[str, _Parsed]:
        """Send a message, and read the reply piece by piece; takes what `send` takes.

        Functions are run between the rounds, and the text of the next round comes on.  `events()` tells of each round's
        calls and usage, and once of the end.  `text` is that of all rounds, `response` the reply of the last.  Once the
        stream has ended well the turn is in `messages`.

            with talk.stream("And at dusk?") as stream:
                for text in stream:
                    print(text, end="", flush=True)

        Args:
            keep_partial: what had come of a stream that breaks, or is closed, or dropped, stays as the assistant's
                message, without calls that were not answered; nothing stays where nothing had come.

        Raises:
            LLMError, RuntimeError: as `send` does; where the stream is read, StreamError.
        """
        _checked("keep_partial", keep_partial, (bool,))
        return Stream(_TurnFlow(self, content, _with_schema(options, schema), keep_partial))

    def compact(self, keep: int = 2, prompt: Optional[str] = None,
                **options: Unpack[_SumOptions]) -> Optional[Response]:
        """Have the model sum up all but the last turns; a user message that holds the summary takes their place.

            if talk.should_compact:
                talk.compact(keep=4)

        A turn begins at a user message.  Returns the reply, or None, with nothing sent, where there is too little to
        sum up.  `usage` begins anew; what the summary costs is in the client's ledger only.

        Args:
            keep: how many turns stay as they are.
            prompt: what to ask for, in place of our words.
            options: those of `chat`, for this request: model="..." asks a cheaper one.

        Raises:
            LLMError: then all is as it was; a ResponseError where the summary is empty or cut.
            RuntimeError: a turn of this conversation is under way.
        """
        _checked("keep", keep, (int,), 0, "a whole number, 0 or more")
        _checked("prompt", prompt, (str, _NONE))
        _check_names("compact", dict(options), _CHAT_OPTIONS - {"tools", "schema"})
        alone = _Alone(self._running)
        with alone, alone:
            history = self._told()
            end = _end_of_old(history, keep)
            if not end:
                return None
            asked = {**_without(self.options, *_NOT_OF_SUMMARIES), **options}
            reply = self.client.chat([_summary_request(history[:end], prompt)], **asked)
            if not reply.text.strip() or reply.finish_reason in _CUT_BY:
                self.client.ledger._book_failure()
                what = f"was cut ({reply.finish_reason})" if reply.text.strip() else "is empty"
                raise ResponseError(f"the summary {what}", provider=self.client._provider.name, response=reply,
                                    attempts=reply.attempts, elapsed=reply.elapsed,
                                    hint="the conversation is as it was; try again, or another model=")
            told = [message for message in history[:end] if message["role"] in _SYSTEM]
            self.messages[:end] = [*told, user(_SUMMARY + reply.text.strip())]
            self.usage = _NO_USAGE
        return reply

    def undo(self) -> List[JSON]:
        """Take the last turn back: what its user said, and all that came of it.  Returns these messages.

            talk.undo()

        Raises:
            RuntimeError: a turn of this conversation is under way.
        """
        alone = _Alone(self._running)
        with alone, alone:
            start = (_turns(self._told()) or [len(self.messages)])[-1]
            taken = self.messages[start:]
            del self.messages[start:]
        return taken

    def save(self, path: Union[str, _Path]) -> None:
        """Write it to a JSON file that its owner alone may read, at once or not at all.

            talk.save("talk.json")

        `Client.load_conversation` reads it from that path.  Tools and options are not saved, and no key: one that
        somebody said, or a server echoed, is "***" there.

        Raises:
            ConfigurationError: a message is none, or holds what JSON does not, bytes say.
            OSError: the file cannot be written.
        """
        _write_own(os.fsdecode(path), self._dumped())

    def _dumped(self, **more: Any) -> str:
        """What `save` writes, and what else is to stand in that file; no key is in it."""
        call = _call_of_turn(self.client, self.options)
        saved = {"llmlite": __version__, "conversation": _SAVED, "provider": self.client._provider.name,
                 "model": call.model, "system": self.system, "messages": self._told(),
                 "usage": dict(zip(Usage._fields, self.usage)), "compact_at": self.compact_at, **more}
        try:
            mask = _Mask(self.client._secrets(call))  # a server may have echoed its key
            return json.dumps(mask.of(saved), indent=1, default=_plain)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"the conversation cannot be written as JSON: {error}") from None

    def _told(self) -> List[JSON]:
        """The history, which anybody may have changed, as the usage; ConfigurationError if it is none."""
        if not isinstance(self.usage, Usage):
            raise ConfigurationError(f"usage is a {type(self.usage).__name__}: give a Usage")
        if not isinstance(self.messages, list):
            raise ConfigurationError(f"messages is a {type(self.messages).__name__}: give a list of message dicts")
        return _checked_messages(self.messages) if self.messages else []

    def _fill(self, saved: Any) -> None:
        """Take what `save` wrote; ValueError for anything else."""
        if not isinstance(_dict(saved).get("messages"), list):
            raise ValueError("it has no list of messages")
        version = saved.get("conversation", _SAVED)
        if version != _SAVED:
            raise ValueError(f"it is of form {version!r}, this version of llmlite reads {_SAVED}")
        usage = _dict(saved.get("usage"))
        self.usage = Usage(*(_checked(f"usage.{name}", usage.get(name, 0), (int,), 0) for name in Usage._fields))
        self._begin_with(saved.get("system") if self.system is None else self.system, saved["messages"],
                         saved.get("compact_at") if self.compact_at is None else self.compact_at)

    def __getstate__(self) -> JSON:
        return {**self.__dict__, "messages": list(self.messages), "tools": list(self.tools or ()),
                "options": dict(self.options), "_running": {}}

    def __repr__(self) -> str:
        model = self.options.get("model") or self.client.model
        return (f"<Conversation with {self.client._provider.name}/{model}, {len(self.messages)} messages, "
                f"{self.usage.total_tokens} tokens>")


_SAVED = 1  # the form of a saved conversation
_NOT_OF_SUMMARIES = ("tool_choice", "schema", "stop", "logprobs", "max_tokens", "max_rounds")
_SUMMARY = "Summary of the conversation so far:\n\n"  # how the message that holds one begins
_SUM_UP = ("Sum up the conversation above, so that it can go on from your summary alone. Keep the facts, names, "
           "numbers, decisions, results of tools and open questions. Answer with the summary and nothing else.")

_MAP_OPTIONS = frozenset(("workers", "executor", "ordered", "errors", "progress", "total"))  # beside those of chat


def _check_names(method: str, options: JSON, known: FrozenSet[str]) -> None:
    unknown = set(options) - known
    if unknown:
        raise _unexpected(method, min(unknown), known)


def _with_schema(options: Mapping[str, Any], schema: Any) -> JSON:
    """A turn's options; a schema that was not given leaves its conversation's."""
    return {**options} if schema is _UNSET else {**options, "schema": schema}


def _check_turn(client: Client, options: JSON) -> None:
    """Raise for options that no turn can take; what a provider does not take is said when it is asked."""
    _call_of_turn(client, options)
    _checked_rounds(options.get("max_rounds", 10))
    _checked_asked(options)


def _call_of_turn(client: Client, options: JSON) -> _Call:
    terms = {name: options[name] for name in ("model", "timeout", "deadline", "headers") if name in options}
    return client._call(client._chat, **terms)


def _is_summary(message: JSON) -> bool:
    return message.get("role") == "user" and _str(message.get("content")).startswith(_SUMMARY)


def _turns(messages: List[JSON]) -> List[int]:
    """Where turns begin: at user messages, of some in a row at the first; a summary is no turn."""
    asks = [message.get("role") == "user" and not _is_summary(message) for message in messages]
    return [at for at, asked in enumerate(asks) if asked and not (at and asks[at - 1])]


def _end_of_old(messages: List[JSON], keep: int) -> int:
    """Where what a compaction sums up ends; 0 if there is too little.  Calls that wait for their results stay."""
    starts = _turns(messages)
    keep = max(keep, int(_awaits_results(messages)))
    if keep >= len(starts):
        return 0
    return starts[-keep] if keep else len(messages)


def _awaits_results(messages: List[JSON]) -> bool:
    """Whether a history ends with tool calls that are not all answered."""
    results = list(itertools.takewhile(lambda message: message.get("role") in _RESULTS, reversed(messages)))
    answered = [message.get("tool_call_id") for message in results]
    before = messages[:len(messages) - len(results)][-1:]
    return any(call.get("id") not in answered for message in before for call in _list(message.get("tool_calls")))


def _summary_request(messages: List[JSON], prompt: Optional[str]) -> JSON:
    """What asks for a summary: all that was said as one user message, for calls go out only with tools declared."""
    parts: List[JSON] = [part for message in messages for part in _retold(message)]
    parts.append({"type": "text", "text": prompt or _SUM_UP})
    content: List[JSON] = []
    for is_text, group in itertools.groupby(parts, lambda part: part["type"] == "text"):
        run = list(group)
        content += [{"type": "text", "text": "\n\n".join(part["text"] for part in run)}] if is_text else run
    return {"role": "user", "content": content if len(content) > 1 else content[0]["text"]}


def _retold(message: JSON) -> Iterator[JSON]:
    """A message as text, its files as they are."""
    content: Any = message.get("content")
    who = f"{message['role']} {message.get('tool_call_id') or ''}".strip()
    for part in content if isinstance(content, list) else [content]:
        if _attached(_dict(part)) is not None:
            yield part
            continue
        said = part.get("text") if _dict(part).get("type") == "text" else part
        if said:
            yield {"type": "text", "text": f"{who}: {said if isinstance(said, str) else _json_text(said)}"}
    for call in _list(message.get("tool_calls")):
        function = _function_of(call)
        told = f"{who} calls {function.get('name')}({_json_text(_arguments_of(function))}) as {call.get('id')}"
        yield {"type": "text", "text": told}


def _alternating(messages: List[JSON]) -> List[JSON]:
    """A history as it is sent: the summary and the user's message after it as one, for some take no two in a row."""
    sent: List[JSON] = []
    for message in messages:
        if sent and message["role"] == "user" and _is_summary(sent[-1]):
            summary, content = sent.pop()["content"], message.get("content")
            head = {"type": "text", "text": summary}
            message = {**message, "content": f"{summary}\n\n{content}" if isinstance(content, str) else [
                head, *_list(content)]}
        sent.append(message)
    return sent


class _Alone:
    """While one turn of a conversation is under way no other may begin.

    It is entered twice, for Ctrl-C may come as it is left: then it is left once more.
    """

    def __init__(self, running: Dict[object, object]) -> None:
        self.running, self.here = running, _Process.here

    def __enter__(self) -> None:
        try:
            if self.running.setdefault(self.here, self) is not self:
                raise RuntimeError("a turn of this conversation is under way: wait for its reply, read its stream to "
                                   "the end or close() it; threads need a conversation each (copy.copy makes one)")
        except BaseException:  # Ctrl-C too
            self.__exit__()
            raise

    def __exit__(self, *exc: object) -> None:
        if self.running.get(self.here) is self:
            del self.running[self.here]


class _Turn:
    """A message of a conversation, and what comes of it."""

    def __init__(self, conversation: Conversation, method: str, content: Any, options: JSON) -> None:
        _check_names(method, options, _TURN_OPTIONS)
        asked = {"system": conversation.system, "tools": conversation.tools, **conversation.options, **options}
        given = _checked_messages(content, "content")
        self.conversation, self.asked = conversation, [dict(message) for message in given]
        sent = _alternating([*conversation._told(), *self.asked])
        self.rounds = _Rounds(conversation.client, sent, asked.pop("tools") or (), asked.pop("max_rounds", 10),
                              asked.pop("deadline", _UNSET))
        self.options, self.begun, self.kept = asked, len(sent), False

    def keep(self) -> None:
        """It has ended well."""
        self._put(self.rounds.history[self.begun:], self.rounds.replies)
        self.rounds.replies[-1].messages = list(self.conversation.messages)

    def keep_part(self, answered: int, pending: Optional[Response]) -> None:
        """What is whole of it: the rounds before `answered`, an index of the history, and a text that was begun."""
        text = pending.text if pending is not None else ""
        came = [*self.rounds.history[self.begun:answered], *([assistant(text)] if text.strip() else [])]
        replies = self.rounds.replies
        if came:
            self._put(came, replies if pending is None or pending in replies else [*replies, pending])

    def _put(self, came: List[JSON], replies: List[Response]) -> None:
        if self.kept:  # and Ctrl-C came then
            return
        self.kept = True
        self.conversation.messages += [*self.asked, *came]
        self.conversation.usage += sum((reply.usage for reply in replies), _NO_USAGE)


_Broken = Tuple[int, StreamError]  # which of the events of a whole answer is an error, and which it is


class Answer:
    """The answer to `Client.request`.

    Attributes:
        status_code, headers: as HTTP has them.
        request_id: the provider's id of the request, or None.
        attempts, elapsed: how many requests and seconds it took, up to its head if it is a stream.

    With `stream=True` the body comes as it is read, once: by `events()`, `iter_content()`, or at once by `content`.
    Leave such in a `with` block, or `close()` it.
    """

    def __init__(self, flow: Any = None, content: Optional[bytes] = b"", **told: Any) -> None:
        self.status_code: int = 0
        self.headers: Mapping[str, str] = {}
        self.request_id: Optional[str] = None
        self.attempts: int = 0
        self.elapsed: float = 0.0
        self._flow = flow
        self._content = content if flow is None else None
        self._broken: Optional[_Broken] = None
        if flow is not None:
            told = flow.told()
            self._pieces = flow.run()
            next(self._pieces)  # from here on it closes by itself, also when nobody reads it
        self.__dict__.update(told)

    @property
    def content(self) -> bytes:
        """The whole body, decoded from gzip."""
        if self._content is None:
            if self._flow.by_event is not None:
                raise RuntimeError("the body of this answer is being read, or has been")
            self._content = self._flow.whole(self._read(False))
            self._broken = self._flow.broken
        return self._content

    @property
    def text(self) -> str:
        """The body as text, in the character set that the answer names, else in UTF-8."""
        charset = re.search(r"(?i)charset\s*=\s*[\"']?([\w.:-]+)", self.headers.get("content-type", ""))
        try:
            return self.content.decode(charset[1] if charset else "utf-8-sig", "replace")
        except (LookupError, UnicodeError):  # no character set that Python knows, or none for this
            return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON.  Raises ResponseError where it is none.

            answer.json()["results"]
        """
        value = _json_or(_UNSET, self.content)
        if value is _UNSET:
            kind = self.headers.get("content-type", "no Content-Type")
            raise ResponseError(f"{self.status_code} but no JSON", why=f"{_quoted(kind)}, {len(self.content)} bytes",
                                status_code=self.status_code, headers=self.headers, request_id=self.request_id)
        return value

    def iter_content(self) -> Iterator[bytes]:
        """The body, piece by piece as it comes, however long it is.

            with llm.request("GET", "/files/file-1/content", stream=True) as answer:
                for piece in answer.iter_content():
                    file.write(piece)

        Raises:
            StreamError: it broke off.
            RuntimeError: it is being read, or has been.
        """
        if self._content is not None:
            return iter([self._content] * bool(self._content))
        self._flow.answer.most = math.inf
        return self._read(False)

    def events(self) -> Iterator[ServerSentEvent]:
        """The body's server-sent events as they come, up to "[DONE]", or its JSON values if it is a line each.

            for event in answer.events():
                print(event.event, event.json())

        Raises:
            StreamError: an event that is an error; `last_error` is the APIError that it stands for.
        """
        return self._read(True) if self._content is None else self._kept_events(self._content)

    def _kept_events(self, content: bytes) -> Iterator[ServerSentEvent]:
        decoder, at = _EventDecoder(), -1
        try:
            for at, event in enumerate(itertools.starmap(ServerSentEvent, _plain_events(decoder, iter([content])))):
                if self._broken is not None and at == self._broken[0]:
                    raise self._broken[1]
                yield event
        except _TooLarge as error:
            raise StreamError("a part of the answer is refused", why=str(error)) from None
        if at < 0 and decoder.stray:
            raise ResponseError(f"{self.status_code} but a stream without one event", status_code=self.status_code,
                                headers=self.headers, request_id=self.request_id)

    def _read(self, by_event: bool) -> Iterator[Any]:
        if self._flow.left or self._flow.done is not None and not self._flow.complete:
            raise RuntimeError("this answer was closed, or broke off")
        if self._flow.by_event not in (None, by_event):
            raise RuntimeError("the body of this answer is read in another way")
        self._flow.by_event = by_event
        return self._pieces  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connection of a stream; a thread that is reading it comes to its end.  Raises nothing.

            answer.close()   # or: with llm.request("GET", "/events", stream=True) as answer:
        """
        if self._flow is not None:
            self._flow.leave(self._pieces)

    def __getstate__(self) -> JSON:
        return self.__dict__ if self._content is None else {**_without(self.__dict__, "_pieces"), "_flow": None}

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Answer {self.status_code} {self.headers.get('content-type', '')}>"


def _read_on(flow: _Flow, events: Iterator[_Said], whole: bool = False) -> Iterator[Any]:
    """The events of a stream, as they are or as the pieces that a reader of text wants."""
    tokens = flow.call.reader.tokens
    try:
        for event in events:
            if type(event) is str:
                yield Event("text", event) if whole else event
            elif whole or tokens and type(event) is Event and event.type == "text":
                yield event if whole else event.token  # type: ignore[union-attr]
    except ValueError:  # another thread is inside
        if not flow.left:  # pragma: no branch: else it is there to close it, for a moment that no test can hold
            raise


def chat(messages: Messages, *, model: Optional[str] = None, provider: Optional[str] = None,
         base_url: Optional[str] = None, api_key: Key = None, schema: Schema[_Parsed] = None,
         **options: Unpack[_LoneOptions]) -> Response[_Parsed]:
    """One reply without a client of one's own: `Client(model, ...).chat(messages, **options)`.

        print(llmlite.chat("Why is the sky blue?", model="openai/gpt-5-mini"))

    Args:
        model, provider, base_url, api_key: as on `Client`.
        messages, schema, options: those of `Client.chat`.

    Raises:
        LLMError, TypeError: as `Client` and `Client.chat` do.
    """
    with Client(model, provider=provider, base_url=base_url, api_key=api_key) as client:
        return client.chat(messages, schema=schema, **options)


def stream(messages: Messages, *, model: Optional[str] = None, provider: Optional[str] = None,
           base_url: Optional[str] = None, api_key: Key = None, schema: Schema[_Parsed] = None,
           **options: Unpack[_LoneOptions]) -> Stream[str, _Parsed]:
    """One stream without a client of one's own: `Client(model, ...).stream(messages, **options)`.

        for text in llmlite.stream("Tell me a story", model="openai/gpt-5-mini"):
            print(text, end="", flush=True)

    Args:
        model, provider, base_url, api_key: as on `Client`.
        messages, schema, options: those of `Client.chat`.

    Raises:
        LLMError, TypeError: as `Client` and `Client.stream` do.
    """
    client = Client(model, provider=provider, base_url=base_url, api_key=api_key)
    return client.stream(messages, schema=schema, **options)


def replay(path: str, *, api_key: Key = None, **options: Any) -> Response:
    """Send a request that `save_failed` has saved once more, with today's key; `options` are those of `Client`.

        print(replay("failed/20250131-120000-1.json", timeout=60))

    Args:
        path: the file.
        api_key: as on `Client`; it must be given where the file names an address that is no provider's.

    The headers that the user had given go out again, those that may hold a secret excepted; `headers` replace them.

    Raises:
        ConfigurationError: the file is not one of those.
        LLMError: the request failed again.
    """
    try:
        with open(path, encoding="utf-8") as file:
            saved = json.load(file)
        request = _Request(str(saved["method"]), str(saved["path"]), saved["body"])
        if saved.get("uploaded"):
            raise ConfigurationError(f"{path} has no body", why="it was read as it was sent, and not kept")
        if saved.get("content") is not None:
            content = base64.b64decode(saved["content"])
            request.content = _Content(content, saved["content_type"])
        provider = saved["provider"] if saved["provider"] in _PROVIDERS else None
        if api_key is None and not _is_own_address(provider, str(saved["base_url"])):
            raise ConfigurationError(f"{path} names an address of its own, {_without_userinfo(str(saved['base_url']))}",
                                     hint="give api_key=: a file must not send your key where it likes")
        given = {name: value for name, value in _checked_headers(saved.get("given")).items() if value != "***"}
        options["headers"] = _with_headers(given, _checked_headers(options.get("headers")))
        client = Client(saved["model"], provider=provider, base_url=saved["base_url"], api_key=api_key, **options)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"{path} is no saved request: {error}") from None
    dialects = {"completion": client._raw, "responses": client._responses}
    dialect = dialects.get(saved.get("task")) or client._chat
    readers: Dict[Any, _Reader] = {"embeddings": _Vectors(), "models": _ModelList(), "request": _Anything(client._chat),
                                   **{name: _Value(name, request.path.endswith("tokenize")) for name in _VALUES}}
    reader = readers.get(saved.get("task"), dialect)
    with client:
        result = client._perform_alone(client._call(dialect).asks_for(request, reader, bool(saved.get("stream"))))
        if isinstance(result, Stream):
            deque(result.events(), maxlen=0)
            result = result.response
        if isinstance(result.parsed, Answer):
            result.text = result.parsed.text
        return result  # type: ignore[no-any-return]


def providers() -> List[Tuple[str, str, str]]:
    """The provider table: (name, base URL, environment variable of the key) of each.  Raises nothing.

        for name, base_url, variable in providers():
            print(name, base_url, variable)
    """
    return [(row.name, row.base_url, " ".join(row.keys)) for row in _PROVIDERS.values()]


# ---------------------------------------------------- tools: functions as tools, schemas, and what a model made of them


class _Schema(NamedTuple):
    """The shape asked of a reply; `json` is None for any JSON object."""

    name: str
    json: Optional[JSON]


class _GivenSchema(Dict[str, Any]):
    """A JSON schema out of a `response_format` of type json_schema, with its name, description and `strict`."""

    def __init__(self, given: JSON) -> None:
        super().__init__(given["schema"])
        self.given = given


def _as_dicts(asked: JSON) -> JSON:
    """What was asked, with functions and classes as the dicts that dialects know; an empty list asks for nothing."""
    if "stop" in asked and asked["stop"] in ([], ()):
        del asked["stop"]
    if "tools" in asked and asked["tools"] in ([], ()):
        asked = _without(asked, "tools", "tool_choice")
    if "tools" in asked:
        asked["tools"] = _tool_dicts(asked["tools"])
    choice = asked.get("tool_choice")
    if isinstance(choice, str) and choice not in ("auto", "none", "required"):
        asked["tool_choice"] = {"type": "function", "function": {"name": choice}}
    if "schema" in asked:
        asked["schema"] = _schema_dict(asked["schema"])
    return asked


def _tool_dicts(tools: Any) -> List[JSON]:
    """The tools of a call: dicts as they are, functions described."""
    if not isinstance(tools, (list, tuple)):
        raise ConfigurationError(f"tools is a {type(tools).__name__}: give a list of functions and tool dicts")
    dicts: List[JSON] = [tool if isinstance(tool, dict) else
                         dict(tool) if isinstance(tool, abc.Mapping) else _function_tool(tool) for tool in tools]
    names = [name for tool in dicts for name in _tool_names(tool)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"tools has {names.count(name)} tools named {name!r}: a name may stand there once")
    return dicts


def _tool_names(tool: JSON) -> List[str]:
    """The names under which a model can call a tool dict, in the shape of any provider."""
    inner = [tool, _dict(tool.get("function")), _dict(tool.get("custom")), *_list(tool.get("functionDeclarations"))]
    return [one["name"] for one in map(_dict, inner) if _str(one.get("name"))]


def _function_tool(function: Any) -> JSON:
    """A Python function as a tool dict; TypeError for a parameter that cannot be described to a model."""
    import inspect  # here, and below: its import takes nearly as long as ours
    target, bound, keywords = _unbound(function)
    name = _checked_tool(target, str(getattr(function, "__name__", getattr(target, "__name__", type(target).__name__))))
    routine = inspect.unwrap(target)
    if not hasattr(routine, "__globals__"):  # an object that has __call__
        routine = inspect.unwrap(type(routine).__call__)
    doc = inspect.cleandoc((target if hasattr(target, "__name__") else routine).__doc__ or target.__doc__ or "")
    try:
        signature = inspect.signature(target)
        given = signature.bind_partial(*bound, **keywords).arguments
    except (NameError, TypeError, ValueError) as error:
        raise TypeError(f"{name}(): its parameters cannot be read ({error}): wrap it in a function") from error
    texts, where = _doc_texts(doc), f"{name}(): parameter "
    members = {key: _parameter(parameter, where + key, texts.get(key, ""), routine)
               for key, parameter in signature.parameters.items() if key not in given}
    about = " ".join(re.split(_DOC_SECTION, doc, maxsplit=1, flags=re.M)[0].split())
    described = {"name": name, "description": about, "parameters": _fields_shape(members, _Spot(where))}
    return {"type": "function", "function": {key: value for key, value in described.items() if value}}


def _unbound(function: Any, /, *bound: Any, **keywords: Any) -> Tuple[Any, Tuple[Any, ...], JSON]:
    """What functools.partial wraps, and what it has bound: the model neither sees nor gives that."""
    if not isinstance(function, functools.partial):
        return function, bound, keywords
    return _unbound(function.func, *function.args, *bound, **{**function.keywords, **keywords})


def _checked_tool(target: Any, name: str) -> str:
    import inspect
    if isinstance(target, type) or not callable(target):
        raise TypeError(f"tools has {_shown(target)}: give a function or a tool dict")
    if inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(type(target).__call__):
        raise TypeError(f"{name}(): is async, this client is not: give a function that returns its result")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise TypeError(f"{name}(): providers take names of ASCII letters, digits, _ and -, 64 at most: use a def")
    return name


def _parameter(parameter: inspect.Parameter, where: str, about: str, routine: Any) -> _Field:
    """A parameter of a function, its annotation evaluated among the names of the module that has the function."""
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise TypeError(f"{where}: {parameter} is {parameter.kind.description}: a model gives arguments by name")
    hint = Any if parameter.annotation is parameter.empty else parameter.annotation
    shown = _spelled(hint)
    space = SimpleNamespace(__annotations__={"hint": hint})
    hint = _hints(space, f"{where}: {shown}", getattr(routine, "__globals__", {}))["hint"]
    return _Field(hint, parameter.default is parameter.empty, parameter.default, about)


# How Google, NumPy and reST docstrings list parameters: what holds the list, and one item of it.
_DOC_FORMS = (
    (r"^(?:Args|Arguments|Parameters|Params):\n((?:[ \t]+.*\n|\n)+)",
     r"^([ \t]+)(?P<names>\**\w+)[ \t]*(?:\(.*?\))?:(?P<text>.*(?:\n\1[ \t]+.*|\n(?=\n))*)"),
    (r"^Parameters\n-{3,}\n((?:(?!.+\n-{3,}\n).*\n)*)",
     r"^(?P<names>\**\w+(?:, *\**\w+)*)[ \t]*(?::.*)?\n(?P<text>(?:[ \t]+.*\n|\n)*)"),
    (r"([\s\S]+)", r"^:param[ \t]+(?:[^:\n]*[ \t])?(?P<names>\**\w+):(?P<text>.*(?:\n[ \t]+\S.*)*)"))
_DOC_SECTION = r"\n[ \t]*\n|^(?:Args|Arguments|Parameters|Params|Returns|Raises|Yields):?$|^:\w+[^:\n]*:"


def _doc_texts(doc: str) -> Dict[str, str]:
    """What a docstring says of each parameter."""
    texts: Dict[str, str] = {}
    for part, item in _DOC_FORMS:
        for found in (found for part in re.findall(part, doc + "\n", re.M) for found in re.finditer(item, part, re.M)):
            for name in re.findall(r"\w+", found["names"]):
                texts.setdefault(name, " ".join(found["text"].split()))
    return texts


def _schema_dict(schema: Any) -> _Schema:
    """A `schema` as its name and the JSON schema that is sent."""
    if schema is dict:
        return _Schema("answer", None)
    sent = _json_schema(schema)
    name = _str(sent.get("title")) if sent is schema else schema.__name__
    return _Schema(re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64].strip("_") or "answer", sent)


def _json_schema(schema: Any) -> JSON:
    """The JSON schema that an answer is held against."""
    if isinstance(schema, dict):
        return schema
    if schema is dict:
        return {"type": "object"}
    shape: Optional[JSON] = schema.model_json_schema() if _is_model(schema) else _object_shape(
        schema, _Spot("schema", strict=True))
    if shape is None:
        raise TypeError(f"schema is {_shown(schema)}: give a JSON-schema dict, dict, a dataclass, a TypedDict "
                        "or a class with model_json_schema and model_validate_json")
    return shape


def _is_model(schema: Any) -> bool:
    return isinstance(schema, type) and hasattr(schema, "model_json_schema") and hasattr(schema, "model_validate_json")


def _is_strict(schema: Any, depth: int = _MAX_DEPTH) -> bool:
    """Whether OpenAI's strict mode takes a schema: every object closed, with all of its keys required."""
    if isinstance(schema, list):
        return depth > 0 and all(_is_strict(part, depth - 1) for part in schema)
    if not isinstance(schema, dict):
        return True
    inner = [part for key, value in schema.items()
             for part in (_dict(value).values() if key in ("properties", "$defs", "definitions") else [value])]
    closed = schema.get("additionalProperties") is False and set(_dict(schema.get("properties"))) == set(
        map(_str, _list(schema.get("required"))))
    return (bool(schema) and "default" not in schema and (schema.get("type") != "object" or closed)
            and _is_strict(inner, depth - 1))


def _tool_call(id: Any, name: Any, arguments: Any) -> ToolCall:
    """A ToolCall from what came over the wire: arguments as JSON text, or as an object already."""
    raw = arguments if isinstance(arguments, str) else _json_text(arguments or {})
    decoded, invalid = _decode_arguments(raw)
    return ToolCall(_str(id), _str(name), decoded, raw, invalid)


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain_or_text)


def _plain_or_text(value: Any) -> Any:
    plain = _unboxed(value)
    return plain if isinstance(plain, (int, float)) else str(value)


def _decode_arguments(raw: str) -> Tuple[JSON, Optional[str]]:
    """A tool call's arguments: the dict, or why there is none."""
    try:
        arguments = json.loads(raw or "{}")
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)  # servers take no NaN, no half a surrogate
        if not _is_shallow(text.encode()):
            return {}, f"nested deeper than {_MAX_DEPTH} levels"
    except (ValueError, RecursionError) as error:
        return {}, f"not JSON: {error}"
    if not isinstance(arguments, dict):
        return {}, f"a JSON {type(arguments).__name__}, not an object"
    return arguments, None


def _arguments_of(function: JSON) -> JSON:
    """The arguments of a call in the history, as an object: an empty one for what is none."""
    given = function.get("arguments")
    return given if isinstance(given, dict) else _decode_arguments(_str(given))[0]


def _with_text(call: JSON, key: str) -> JSON:
    """What holds a call of the history, its arguments as an object's JSON text: on any other servers choke."""
    function = call.get(key)
    if not isinstance(function, dict):
        return call
    found = _arguments_of(function)
    whole = found and isinstance(function["arguments"], str)
    return call if whole else {**call, key: {**function, "arguments": _json_text(found)}}


def _with_object(call: JSON, key: str) -> JSON:
    """A call of the history in a provider's own words, its arguments an object: an empty one for what is none."""
    return call if isinstance(call.get(key, {}), dict) else {**call, key: _arguments_of({"arguments": call[key]})}


class _Rounds:
    """Requests that are one call of the user's, and between them the functions that the model asks for."""

    def __init__(self, client: Client, messages: Any, tools: Any, max_rounds: Any, deadline: Any) -> None:
        self.client, self.most, self.until = client, _checked_rounds(max_rounds), client._until(deadline)
        self.history, self.declared = _checked_messages(messages), _tool_dicts(tools)
        self.functions = {tool["function"]["name"]: (given, tool["function"]["parameters"])
                          for tool, given in zip(self.declared, tools) if callable(given)}
        self.others = {name for tool in self.declared for name in _tool_names(tool)} - set(self.functions)
        self.replies: List[Response] = []

    def run(self, options: JSON) -> Response:
        """Ask until there is an answer."""
        with self.client._as_one(self.replies, self.last):
            while True:
                reply = self.client.chat(self.history, tools=self.declared, deadline=self.until,  # type: ignore[arg-type]
                                         **options)
                if not self.goes_on(reply):
                    return reply
                self.answer()

    def last(self, reply: Optional[Response]) -> Response:
        """The reply of an error amid them: what had come of a round, or the last that is whole."""
        return reply or self.replies[-1]

    def goes_on(self, reply: Response) -> bool:
        """Take the reply of a round; whether it asks for functions, which can be run."""
        self.replies.append(reply)
        self.history.append(reply.message)
        reply.messages = self.history
        if not (reply.tool_calls and self.functions) or any(call.name in self.others for call in reply.tool_calls):
            return False
        provider = self.client._provider.name
        if len(self.replies) >= self.most:
            self.client.ledger._book_failure()
            raise ResponseError(f"{self.most} rounds of tools and no answer", provider=provider,
                                why="the model still asks for tools", hint="raise max_rounds=")
        if _now() >= self.until.end:  # no function runs whose result cannot be sent
            self.client.ledger._book_failure()
            raise self.until.error(provider=provider)
        return True

    def answer(self) -> None:
        """Run the functions that the last reply asks for."""
        self.history += [_answered(call, self.functions) for call in self.replies[-1].tool_calls]


def _checked_rounds(most: Any) -> int:
    if (_finite(most, int) or 0) < 1:
        raise ConfigurationError(f"max_rounds={most!r}: give a whole number, 1 or more")
    return most  # type: ignore[no-any-return]


def _answered(call: ToolCall, functions: Mapping[str, Tuple[Callable[..., Any], JSON]]) -> JSON:
    """The message that answers a call of one of the functions, each with its parameters: its result, or the error."""
    try:
        if call.name not in functions:
            raise LookupError(f"there is no tool {call.name!r}; there are {', '.join(functions)}")
        if call.invalid is not None:
            raise ValueError(f"the arguments are {call.invalid}")
        function, parameters = functions[call.name]
        return tool_result(call, function(**_fitted_arguments(call, parameters)))
    except Exception as error:  # whatever a tool raises is for the model to read
        return tool_result(call, f"{type(error).__name__}: {error}", is_error=True)


def _fitted_arguments(call: ToolCall, parameters: JSON) -> JSON:
    """A call's arguments as its function wants them; TypeError, in words the model can act on, where they misfit."""
    try:
        return _fitted(call.arguments, parameters)  # type: ignore[no-any-return]
    except ValueError as error:
        raise TypeError(f"{call.name}(): {error}") from None


def _read_schema(call: _Call, reply: Response) -> None:
    """Set `parsed`, where a schema was asked for and the reply is not about tools."""
    if call.schema is None or reply.tool_calls:
        return
    try:
        reply.parsed = _parse_as(call.schema, reply.text, call.deadline)
    except DeadlineExceededError as late:
        late.response = reply
        raise
    except ValueError as error:
        short = f" (it was {_CUT_BY[reply.finish_reason]})" if reply.finish_reason in _CUT_BY else ""
        raise SchemaError(f"the answer does not fit the schema{short}", why=call.quoted(str(error)),
                          response=reply) from None


def _parse_as(schema: Any, text: str, deadline: Optional[_Deadline] = None) -> Any:
    """The value that an answer's text holds, as `schema` wants it; ValueError says in one line what does not fit."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s(.*)```\s*", text, re.S | re.I)
    text = (fenced[1] if fenced else text).strip()
    if _is_model(schema):
        try:
            return schema.model_validate_json(text)
        except ValueError as error:
            raise ValueError(_quoted(str(error))) from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}" if text else "the answer is empty") from error
    return _fitted(value, _json_schema(schema), deadline)


# ---------------------------------------------------------- types: Python types as schemas, values held against schemas

_MAPPED = ("str, int, float, bool, None, Any, Literal, Enum, Optional, Union, list[T], tuple[T, ...], set[T], "
           "dict[str, T], a TypedDict or a dataclass")
_SCALARS: Dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_JSON_KINDS: Dict[str, List[type]] = {  # of Python, by the name of a JSON type
    **{name: [kind] for kind, name in _SCALARS.items()}, "number": [int, float], "array": [list], "object": [dict]}
_ARRAYS: Dict[Any, Any] = {list: list, tuple: tuple, set: set, frozenset: frozenset, abc.Set: set, abc.Sequence: list,
                           abc.MutableSequence: list, abc.Collection: list, abc.Iterable: list}
_DEEP = frozenset(("properties", "additionalProperties", "items", "allOf", "anyOf", "oneOf", "$ref"))  # of a schema
_QUALIFIERS = {"Required": True, "NotRequired": False, "ReadOnly": None}  # of a key in a TypedDict


class _Shape(Dict[str, Any]):
    """A type's JSON schema; what makes its object of a value that fits; keywords that count `here` and are not sent."""

    def __init__(self, schema: JSON, make: Optional[Callable[[Any], Any]] = None, **here: Any) -> None:
        super().__init__(schema)
        self.make, self.here = make, here


class _Field:
    """A parameter of a function, a field of a dataclass, a key of a TypedDict."""

    def __init__(self, hint: Any, required: bool, default: Any = _UNSET, about: str = "") -> None:
        self.hint, self.required, self.default, self.about = hint, required, default, about


class _Spot:
    """Where a hint stands, in words; whether its schema is for strict mode; the classes it stands in."""

    def __init__(self, where: str, strict: bool = False, inside: Tuple[Any, ...] = ()) -> None:
        self.where, self.strict, self.inside = where, strict, inside

    def at(self, where: str) -> _Spot:
        """A place in the same classes."""
        return _Spot(where, self.strict, self.inside)


def _shape(hint: Any, spot: _Spot) -> _Shape:
    """A type hint as JSON; TypeError if it has no such form."""
    bare, about, _ = _bare(hint)
    for make in (_alias_shape, _plain_shape, _union_shape, _choice_shape, _object_shape):
        shape = make(bare, spot)
        if shape is not None:
            if about:
                shape["description"] = about
            return shape
    raise TypeError(f"{spot.where}: {_spelled(hint)} has no JSON form: use {_MAPPED}")


def _spelled(hint: Any) -> str:
    import inspect
    return hint if isinstance(hint, str) else inspect.formatannotation(hint)


def _bare(hint: Any) -> Tuple[Any, str, Optional[bool]]:
    """A hint without Annotated and NotRequired; the description and the requirement that these gave."""
    about, required = "", None
    while True:
        form = _form(hint)
        if hasattr(hint, "__metadata__"):
            about = about or next((note for note in hint.__metadata__ if isinstance(note, str)), "")
            hint = hint.__origin__
        elif form in _QUALIFIERS:
            required = _QUALIFIERS[form] if required is None else required
            hint = get_args(hint)[0]
        elif hasattr(hint, "__supertype__"):  # a NewType
            hint = hint.__supertype__
        else:
            return hint, about, required


def _form(hint: Any) -> str:
    """The name of a special form, whether typing's or typing_extensions': "Literal" of Literal["a"]."""
    return repr(get_origin(hint)).rpartition(".")[2]


def _inside(kind: Any, spot: _Spot) -> _Spot:
    """A place inside a class or an alias; TypeError if it is there already."""
    if kind in spot.inside:
        raise TypeError(f"{spot.where}: {kind.__name__} holds itself, which has no JSON form here: use dict or Any")
    return _Spot(spot.where, spot.strict, (*spot.inside, kind))


def _alias_shape(hint: Any, spot: _Spot) -> Optional[_Shape]:
    """What a `type X = ...` of Python 3.12 stands for; of `X[int]`, with the int in its place."""
    alias, args = get_origin(hint) or hint, get_args(hint)
    if type(alias).__name__ != "TypeAliasType":
        return None
    try:
        meant = alias.__value__[args] if args else alias.__value__
    except Exception as error:  # the text of an alias is code: it may raise anything
        raise TypeError(f"{spot.where}: the alias {hint} cannot be read: {error}") from error
    return _shape(meant, _inside(hint, spot))


def _plain_shape(hint: Any, spot: _Spot) -> Optional[_Shape]:
    """The shape of what JSON has too: scalars, arrays, objects with any keys; of Any."""
    base, args = get_origin(hint) or (hint if isinstance(hint, type) else None), get_args(hint)
    if base in _SCALARS:
        return _Shape({"type": _SCALARS[base]}, make=int if base is int else None)  # of 2.0, which fits too
    if base in _ARRAYS and not (base is tuple and args and args[1:] != (...,)):
        return _Shape({"type": "array", "items": _shape(args[0] if args else Any, spot)}, make=_making(_ARRAYS[base]))
    if base in (dict, abc.Mapping, abc.MutableMapping):
        key, item = (_shape(part, spot) for part in args or (str, Any))
        if key.get("type") != "string" or "enum" in key:
            raise TypeError(f"{spot.where}: {_spelled(hint)}: the keys of a JSON object are str")
        return _Shape({"type": "object", "additionalProperties": item or True}, make=dict, additionalProperties=item)
    return _Shape({}) if hint is Any or hint is object else None


def _union_shape(hint: Any, spot: _Spot) -> Optional[_Shape]:
    if get_origin(hint) is not Union and type(hint).__name__ != "UnionType":
        return None
    return _any_of([_shape(arm, spot) for arm in get_args(hint)])


def _any_of(arms: List[_Shape]) -> _Shape:
    """What fits any of these; the first that fits reads it."""
    return _Shape({} if {} in arms else {"anyOf": arms}, anyOf=arms)


def _choice_shape(hint: Any, spot: _Spot) -> Optional[_Shape]:
    base = get_origin(hint) or hint
    members: List[Any] = list(base) if isinstance(base, enum.EnumMeta) else []
    known = [member.value for member in members]
    if _form(hint) == "Literal":
        members = known = list(get_args(hint))
    types = list(dict.fromkeys(_SCALARS.get(type(one)) for one in known))
    if not known or None in types:
        return None
    meant = dict(zip(map(_key, known), members))
    return _Shape({"type": types if len(types) > 1 else types[0], "enum": known}, lambda value: meant[_key(value)])


def _object_shape(hint: Any, spot: _Spot) -> Optional[_Shape]:
    if not isinstance(hint, type) or not (hasattr(hint, "__dataclass_fields__") or hasattr(hint, "__total__")):
        return None
    where = f"{spot.where}: {hint.__name__}"
    return _fields_shape(_class_fields(hint, where), _inside(hint, spot).at(where + "."),
                         _making(lambda values: hint(**values)))


def _class_fields(kind: Any, where: str) -> Dict[str, _Field]:
    """The fields of a dataclass or the keys of a TypedDict."""
    hints = _hints(kind, where)
    if hasattr(kind, "__dataclass_fields__"):
        from dataclasses import MISSING, fields
        return {field.name: _Field(hints[field.name], field.default is field.default_factory is MISSING, field.default)
                for field in fields(kind) if field.init}
    needed = getattr(kind, "__required_keys__", hints if kind.__total__ else ())
    said = {name: _bare(hint)[2] for name, hint in hints.items()}  # Python loses it when annotations are strings
    return {name: _Field(hint, name in needed if said[name] is None else bool(said[name]))
            for name, hint in hints.items()}


def _hints(thing: Any, where: str, names: Optional[JSON] = None) -> JSON:
    """The annotations of a class or namespace, evaluated."""
    options: JSON = {"include_extras": True} if sys.version_info >= (3, 9) else {}
    try:
        return get_type_hints(thing, names, **options)
    except Exception as error:  # the text of an annotation is code: it may raise anything
        raise TypeError(f"{where}: the annotation cannot be read ({error}): use a name of the module, "
                        f"and types that Python {sys.version_info[0]}.{sys.version_info[1]} has") from error


def _fields_shape(members: Dict[str, _Field], spot: _Spot, make: Optional[Callable[[JSON], Any]] = None) -> _Shape:
    """A closed object; in strict mode every key is required, also one with a default, because OpenAI wants it so."""
    needed = [name for name, field in members.items() if field.required]
    properties = {name: _field_shape(field, spot.at(spot.where + name)) for name, field in members.items()}
    return _Shape({"type": "object", "properties": properties, "required": list(members) if spot.strict else needed,
                   "additionalProperties": False}, required=needed, make=make)


def _field_shape(field: _Field, spot: _Spot) -> _Shape:
    """A field's shape with its description and, where strict mode does not forbid it, its default."""
    shape = _shape(field.hint, spot)
    if field.default is None and not _takes_null(shape):  # def f(x: int = None) means Optional[int]
        shape = _any_of([shape, _shape(type(None), spot)])
    if field.about and not _bare(field.hint)[1]:  # Annotated speaks before the docstring
        shape["description"] = field.about
    if not spot.strict:
        with contextlib.suppress(AttributeError, TypeError, ValueError):  # no default, or one that JSON cannot say
            shape["default"] = json.loads(json.dumps(field.default, default=lambda it: it.value, allow_nan=False))
    return shape


def _takes_null(shape: JSON) -> bool:
    return any(map(_takes_null, shape["anyOf"])) if "anyOf" in shape else "null" in shape.get("type", "null")


def _fitted(value: Any, schema: JSON, deadline: Optional[_Deadline] = None) -> Any:
    """What a schema makes of a value: the value itself, unless the schema is a type's; ValueError if it misfits."""
    fit = _Fit(schema, deadline or _Deadline())
    try:
        return fit.of(schema)(value)
    except RecursionError:
        raise ValueError("it is nested too deep to be held against the schema") from None
    finally:
        fit.made.clear()  # checks that lead back to it would hold it, and the value, in a cycle


_Check = Callable[[Any], Any]  # gives what is made of a value; raises _Misfit for one that does not fit


class _Fit:
    """Checks made of a JSON schema, as far as its keywords are known; each part of it is read once."""

    def __init__(self, root: JSON, deadline: _Deadline) -> None:
        self.root, self.deadline = root, deadline
        self.made: Dict[int, _Check] = {}  # by schema
        self.met: Dict[Tuple[int, int], Any] = {}  # what is made of a value or wrong with it, by schema and value

    def of(self, schema: Any) -> _Check:
        """What checks a value against a schema."""
        if id(schema) not in self.made:
            self.made[id(schema)] = self.make(schema)
        return self.made[id(schema)]

    def make(self, schema: Any) -> _Check:
        if schema is False:
            return _unless(lambda value: False, lambda value: f"nothing may stand here, but there is {_shown(value)}")
        keywords, make = {**_dict(schema), **getattr(schema, "here", {})}, getattr(schema, "make", None)
        deep = [] if _DEEP.isdisjoint(keywords) else [*self.parts(keywords), *self.others(keywords)]
        checks = [*_plain_checks(keywords), *deep, *([make] if make else [])]
        nullable, deadline, met = keywords.get("nullable") is True, self.deadline, self.met  # as OpenAPI has it

        def check(value: Any) -> Any:
            if _now() > deadline.end:
                raise deadline.error("the reply is here, but not held against its schema to the end")
            if not (nullable and value is None):
                for one in checks:
                    value = one(value)
            return value

        def check_once(value: Any) -> Any:
            pair = id(schema), id(value)
            if pair not in met:
                met[pair] = value  # a schema that leads back to itself asks nothing more of the same value
                try:
                    met[pair] = check(value)
                except _Misfit as misfit:
                    met[pair] = misfit.again()
            found = met[pair]
            if type(found) is _Misfit:
                raise found.again()
            return found

        return check_once if deep else check

    def parts(self, keywords: JSON) -> Iterator[_Check]:
        """What checks the members of an object and the items of an array."""
        if "properties" in keywords or "additionalProperties" in keywords:
            named = {name: self.of(part) for name, part in _dict(keywords.get("properties")).items()}
            rest = None if "patternProperties" in keywords else keywords.get("additionalProperties")
            other = self.of(rest) if isinstance(rest, dict) else None
            yield _each(lambda value: [(name, item, named.get(name, other)) for name, item in _dict(value).items()
                                       if other or name in named])
        if "items" in keywords:
            items, first = keywords["items"], len(_list(keywords.get("prefixItems")))
            checks = [self.of(part) for part in items] if isinstance(items, list) else itertools.repeat(self.of(items))
            yield _each(lambda value: zip(itertools.count(first), _list(value)[first:], checks))

    def others(self, keywords: JSON) -> Iterator[_Check]:
        """What holds the value itself against other schemas."""
        yield from map(self.of, _list(keywords.get("allOf")))
        for keyword, enough in ("anyOf", 1), ("oneOf", math.inf):
            if _list(keywords.get(keyword)):
                yield self.some_of(keywords[keyword], enough)
        ref = _str(keywords.get("$ref"))
        if ref == "#" or ref.startswith("#/"):  # any other points out of the schema
            target = _pointed(self.root, unquote(ref).split("/")[1:])
            lost = _unless(lambda value: False, lambda value: f"the $ref {_shown(ref)} of the schema leads nowhere")
            yield lost if target is _UNSET else lambda value: self.of(target)(value)  # made late: it may lead back here

    def some_of(self, schemas: List[Any], enough: float) -> _Check:
        """What fits one of the schemas, the first that does reads it; it is asked no further once it fits `enough`."""
        null = {"type": "null"}
        arms = sorted(((self.of(arm), bool(arm == null)) for arm in schemas), key=operator.itemgetter(1))

        def check(value: Any) -> Any:
            made: List[Any] = []
            misfits: List[_Misfit] = []
            for one, is_null in arms:
                try:
                    made.append(one(value))
                    if len(made) == enough:
                        break
                except _Misfit as misfit:
                    if not misfits or not is_null:  # what is wrong with an optional value is the other arm's word
                        misfits.append(misfit.again())
            if not made:
                raise _Misfit(misfits)
            if len(made) > 1:
                raise _Misfit(lambda: f"{_shown(value)} fits {len(made)} of the schemas of which it may fit one")
            return made[0]

        return check


class _Misfit(ValueError):
    """A value that does not fit: why, put into words if anybody asks, and where, from the outermost value down."""

    def __init__(self, why: Union[Callable[[], str], List[_Misfit]], at: str = "") -> None:
        self.why, self.at = why, at

    def __str__(self) -> str:
        return _quoted("; or ".join(itertools.islice(self.lines(""), _MAX_QUOTED)))

    def lines(self, above: str) -> Iterator[str]:
        if callable(self.why):
            yield f"{above}{self.at}: {self.why()}".lstrip(".: ")
        else:
            for one in self.why:
                yield from one.lines(above + self.at)

    def again(self) -> _Misfit:
        """The same, to be kept or raised elsewhere: without the frames that a raised one holds."""
        return _Misfit(self.why, self.at)


def _unless(fits: Callable[[Any], bool], why: Callable[[Any], str]) -> _Check:
    def check(value: Any) -> Any:
        if not fits(value):
            raise _Misfit(lambda: why(value))
        return value
    return check


def _each(parts: Callable[[Any], Iterable[Tuple[Any, Any, Any]]]) -> _Check:
    """What checks parts of a value; each has the name or the number under which it stands there."""
    def check(value: Any) -> Any:
        whole = value
        for step, part, one in parts(value):
            try:
                made = one(part)
            except _Misfit as misfit:
                misfit.at = (f"[{step}]" if type(step) is int else f".{step}") + misfit.at
                raise
            if made is not part:
                whole = value.copy() if whole is value else whole  # the answer stays as it came
                whole[step] = made
        return whole
    return check


def _making(make: Callable[[Any], Any]) -> _Check:
    """What makes an object of a value that fits; what the object's own checks say is a misfit too."""
    def check(value: Any) -> Any:
        try:
            return make(value)
        except (TypeError, ValueError) as error:
            why = str(error)
            raise _Misfit(lambda: why) from error
    return check


def _plain_checks(keywords: JSON) -> Iterator[_Check]:
    """What looks at no part of a value, and at no other schema."""
    choices, types = keywords.get("enum"), keywords.get("type")
    if isinstance(choices, list):
        yield _unless(_one_of(choices), lambda value: f"{_shown(value)} is not one of {_listed(choices)}")
    names: List[Any] = types if isinstance(types, list) else [types]
    if names and _JSON_KINDS.keys() >= set(map(_str, names)):  # Google's "STRING" says nothing
        yield _unless(_of_type(names), lambda value: f"{_shown(value)} is not of type {' or '.join(names)}")
    if "const" in keywords:
        yield _unless(_one_of([keywords["const"]]), lambda value: f"{_shown(value)} is not {_shown(keywords['const'])}")
    closed = keywords.get("additionalProperties") is False and "patternProperties" not in keywords  # not looked at
    if closed or "required" in keywords:
        yield _names_check(keywords, closed)


def _names_check(keywords: JSON, closed: bool) -> _Check:
    """What checks that an object has the names it must have; if it is closed, that it has no others than known ones."""
    needed = {name: True for name in _list(keywords.get("required")) if isinstance(name, str)}.keys()
    known = _dict(keywords.get("properties")).keys()

    def why(value: JSON) -> str:
        odd = {"missing": [name for name in needed if name not in value],
               "unexpected": [name for name in value if closed and name not in known]}
        return " and ".join(f"{what} {_listed(names)}" for what, names in odd.items() if names)

    return _unless(lambda value: type(value) is not dict or (
        needed <= value.keys() and (not closed or value.keys() <= known)), why)


def _of_type(names: List[str]) -> Callable[[Any], bool]:
    kinds, whole = {kind for name in names for kind in _JSON_KINDS[name]}, "integer" in names  # which 2.0 is too
    return lambda value: type(value) in kinds or (whole and type(value) is float and value.is_integer())


def _listed(values: List[Any]) -> str:
    return ", ".join(map(_shown, values[:20]))


def _one_of(choices: List[Any]) -> Callable[[Any], bool]:
    keys, flat = set(map(_key, choices)), not any(isinstance(one, (list, dict)) for one in choices)
    return lambda value: not (flat and isinstance(value, (list, dict))) and _key(value) in keys


def _key(value: Any) -> Any:
    """What two JSON values have in common if they are equal as JSON has it: True is not 1, but 1 is 1.0."""
    if isinstance(value, list):
        return tuple(map(_key, value))
    if isinstance(value, dict):
        return frozenset((name, _key(item)) for name, item in value.items())
    return isinstance(value, bool), value


def _pointed(root: Any, parts: List[str]) -> Any:
    for part in parts:
        members = _dict(root) or {str(at): item for at, item in enumerate(_list(root))}
        root = members.get(part.replace("~1", "/").replace("~0", "~"), _UNSET)
    return root


def _shown(value: Any) -> str:
    """The repr of a value, or how it begins: no more of it is written than is shown."""
    one_line = " ".join("".join(itertools.islice(_shown_pieces(value), 61)).split("\n"))
    text = re.sub(_KEY_SHAPE, "***", one_line)
    return text if len(text) <= 60 else text[:57] + "..."


def _shown_pieces(value: Any) -> Iterator[str]:
    if type(value) not in (list, dict) or not value:
        yield repr(value[:61] if type(value) is str else value)
        return
    first, last = "[]" if type(value) is list else "{}"
    for at, item in enumerate(value):
        yield ", " if at else first
        if type(value) is dict:
            yield f"{_shown(item)}: "
            item = value[item]
        yield from _shown_pieces(item)
    yield last


# --------------------------------------------------------------------------------------------------- calls and attempts

class _Request:
    """What is sent, less the address, the headers and the key; its `content` is instead of a body of ours."""

    def __init__(self, method: str, path: str, body: Optional[JSON] = None, content: Optional[_Content] = None) -> None:
        self.method, self.path, self.body, self.content = method, path, body, content


class _Content:
    """What a request's body is: bytes, or what is read as it is sent."""

    def __init__(self, payload: Optional[bytes], kind: Optional[str] = "application/json",
                 upload: Optional[_Upload] = None) -> None:
        self.payload, self.kind, self.upload = payload, kind, upload


class _Upload:
    """A body that is read as it is sent, from an iterator: once."""

    def __init__(self, source: Any) -> None:
        self.source, self.begun = source, False
        self.error: Optional[BaseException] = None  # of the source

    @property
    def spent(self) -> bool:
        """Whether it has been read, and cannot be again."""
        return self.begun

    def pieces(self) -> Iterator[Any]:
        yield from self.source

    def __iter__(self) -> Iterator[bytes]:
        self.begun = True
        try:
            for piece in self.pieces():
                piece = piece.encode() if isinstance(piece, str) else piece
                if not isinstance(piece, (bytes, bytearray, memoryview)):
                    raise ConfigurationError(f"data gives a {type(piece).__name__}: give bytes")
                if len(piece):  # an empty chunk would be the last
                    yield bytes(piece)
        except Exception as error:
            self.error = error
            raise


class _PipeUpload(_Upload):
    """One from a file that cannot seek."""

    def pieces(self) -> Iterator[Any]:
        while True:
            piece = self.source.read(_PIECE)
            if piece is not None and not len(piece):
                return
            yield piece


class _FileUpload(_PipeUpload):
    """One from a file, which is rewound for each attempt; requests sees how long it is."""

    def __init__(self, source: Any, start: int) -> None:
        super().__init__(source)
        source.seek(0, os.SEEK_END)
        self.start, self.size = start, max(0, source.tell() - start)
        source.seek(start)

    @property
    def spent(self) -> bool:
        return False

    def __len__(self) -> int:
        return int(self.size)

    def pieces(self) -> Iterator[Any]:
        self.source.seek(self.start)
        left = self.size  # what a file gains meanwhile does not belong to this request
        while left:
            piece = self.source.read(min(_PIECE, left))
            if not piece:
                raise ConfigurationError(f"the file in data ended {left} bytes before its end: who cut it?")
            left -= len(piece)
            yield piece


def _upload_of(source: Any) -> _Upload:
    """What sends an iterator, or a file that is open for reading bytes."""
    if not hasattr(source, "read"):
        return _Upload(source)
    try:
        if not isinstance(source.read(0), bytes):
            raise ConfigurationError("data is a file of text", hint='open it as bytes: open(path, "rb")')
        start = source.tell()
        return _FileUpload(source, start)
    except (OSError, AttributeError):
        return _PipeUpload(source)


class _Call:
    """One call of the user's: what is sent, how long it may take, what has happened so far."""

    cache: Any = None  # a mapping, where its answer is to come from or to go
    refreshes = False  # whether it goes there only
    entry = ""  # of the cache
    keep: Callable[[_Call, Response, JSON], None]
    reader: _Reader  # of the answer
    streams = False
    method, path, url = "POST", "", ""
    payload: Optional[bytes] = None
    kind: Optional[str] = None  # of content
    upload: Optional[_Upload] = None
    schema: Any = None
    asked: Optional[JSON] = None  # by the arguments of the method
    key: str
    connect: Optional[float] = None
    read: Optional[float] = None
    idle: Optional[float] = None
    policy: Optional[RetryPolicy] = None
    ledgers: Tuple[Ledger, ...] = ()  # this client's, and those of the clients that it is a fallback of
    after: Optional[_Call] = None  # the failed call of another client, which this one is a fallback for
    before = 0  # attempts of the clients before
    attempts = 0
    deadline = _NO_DEADLINE
    due = -math.inf  # when its next attempt is, by its own backoff
    turn, turned = 0, -math.inf  # of its attempt, among all of the client; when
    tokens: Optional[Tuple[float, float, float]] = None  # of what is sent; of its answer: the most, the usual
    last_error: Optional[LLMError] = None
    trusts_env = True  # the session does: then variables name its proxy

    def __init__(self, provider: _Provider, base_url: str, model: str, dialect: _Dialect) -> None:
        self.provider, self.base_url, self.model = provider, base_url, model
        self.key_headers = dialect.headers
        self.headers: Dict[str, Optional[str]] = {}
        self.keys: List[str] = []  # of attempts before
        self.retries: Dict[str, int] = {}  # by the kind of failure
        self.started = _now()
        self.stop = _STOP.get()

    def follows(self, after: Optional[_Call]) -> None:
        """Take over the story of the call that this one is a fallback for, if it is one."""
        if after is not None:
            self.after, self.before, self.started = after, after.before, after.started
            self.ledgers = tuple(dict.fromkeys(self.ledgers + after.ledgers))

    def asks_for(self, request: _Request, reader: _Reader, streams: bool = False) -> _Call:
        """Say what is sent, and who reads the answer: all is encoded before anything is sent."""
        self.method, self.path, body = request.method, request.path, request.body
        self.url = _joined(self.base_url, self.path, reader.at_root)
        self.reader, self.streams = reader, streams
        if body is not None:
            self.payload, self.kind, self.upload = _encode(body), "application/json", None
        else:
            content = request.content or _Content(None)
            self.payload, self.kind, self.upload = content.payload, content.kind, content.upload
            if self.payload is None and self.upload is None and self.method not in ("GET", "HEAD"):
                self.payload, self.kind = b"", None  # which says how long it is
        if self.payload and len(self.payload) > reader.most:
            raise ConfigurationError(f"a request of {len(self.payload) >> 20} MiB",
                                     why=f"{self.provider.name} takes {reader.most >> 20} MiB",
                                     hint="a file by its URL or id takes no room in it")
        return self

    def check(self) -> None:
        """Raises `_Stopped` if nothing more is to be sent."""
        if self.stop is not None and self.stop.is_set:
            raise _Stopped

    def sleep(self, seconds: float) -> None:
        """Wait, at most until nothing more is to be sent."""
        if self.stop is None:
            time.sleep(seconds)
        else:
            self.stop.wait(seconds)
            self.check()

    def cost(self, name: str, usual: float) -> float:
        """What it takes, as far as can be told beforehand, of a limit of this name: requests, or tokens in and out."""
        if "token" not in name:
            return 1.0
        if self.tokens is None:
            words = re.sub(rb"[\w+/=]{1000,}", b"", self.payload or b"")  # files have far fewer tokens than bytes
            usual = usual if self.asked else 0.0  # else it asks for no words
            self.tokens = len(words) / 4, float((self.asked or {}).get("max_tokens") or usual), usual
        sent, most, usual = self.tokens
        come = usual if name.startswith("anthropic-") else most  # which counts them as they come
        return sent * ("output" not in name) + come * ("input" not in name)

    def secrets(self) -> List[str]:
        """What must show nowhere: the key, and the values of headers that are named like one."""
        named = [value for name, value in self.headers.items() if value and _is_hidden(name, value)]
        return [word for value in (self.key, *self.keys, *named) for word in (value, value.rpartition(" ")[2])]

    def mask(self) -> _Mask:
        return _Mask(self.secrets())

    def quoted(self, text: Any) -> str:
        """The server's own words, fit for one line, without a key that it echoes."""
        return _quoted(self.mask().of(text, room=_MAX_MESSAGE))


class _Stopped(Exception):
    """A call has ended without its answer, for nothing more was to be sent, or nobody wants the answer any more."""


class _Stop:
    """Ends all calls of a kind, from another thread: first nothing more is sent, then what is under way is cut.

    The first step may be a signal's handler's, which comes inside any other: it takes no lock that might be held.
    """

    def __init__(self) -> None:
        self.is_set = self.cuts = False
        self.when: Optional[Callable[[], bool]] = None  # is asked after each call whether it is time
        self.attempts: Set[_Attempt] = set()  # under way; a WeakSet cannot be read while others put something there
        self._waking: Any = queue.SimpleQueue()  # holds something as soon as it is set

    def set(self) -> None:
        """Have nothing more sent: whoever waits to send something ends, and only what has been sent goes on."""
        self.is_set = True
        self._waking.put(None)

    def wait(self, seconds: float) -> None:
        """Wait, at most until it is set."""
        with contextlib.suppress(queue.Empty):
            self._waking.put(self._waking.get(timeout=seconds))  # for the next one

    def look(self) -> None:
        """A call has ended: it may be time."""
        if self.when is not None and self.when():
            self.set()

    def drop(self) -> None:
        """Once it is set: end also those that are still connecting."""
        for attempt in list(self.attempts):
            attempt.drop()

    def __call__(self) -> None:
        """Cut all that is under way."""
        self.cuts = True
        self.set()
        for attempt in list(self.attempts):
            attempt.cut()


_STOP: ContextVar[Optional[_Stop]] = ContextVar("llmlite stop", default=None)


class _Attempt:
    """One request: its clock, its socket, its place in the ledger."""

    def __init__(self, call: _Call) -> None:
        call.attempts += 1
        self.call = call
        self.number = call.attempts
        self.started = _now()
        self.deadline_at, self.read = call.deadline.end, call.read
        self.idle: Optional[float] = call.idle if call.streams else None
        self.idle_at = math.inf if self.idle is None else self.started + self.idle
        self.process = _Process.look()
        self.lock = threading.RLock()  # none cuts the connection of an attempt that has ended: it may be another's
        self.key = object()  # in the ledger
        self.ended = self.empty = False
        self.sent: Optional[bool] = None  # None: nobody has told
        self.sent_at = -math.inf
        self.head = b""  # the request's own, until its body goes out with it
        self.opened = 0.0  # when its connection was, if it needed a new one
        self.pool: Any = None  # urllib3's, if it was asked
        self.start = ""  # of the request's head, its first line and Host
        self.status = 0
        self.billed: Any = None  # what the ledger counts of its reply
        self.body: JSON = {}  # of a good reply
        self.answer: Optional[_Answer] = None
        self.wire: Union[None, _Wire, _Hidden] = None
        if call.stop is not None:
            call.stop.attempts.add(self)
            if call.stop.is_set:  # by now it may not be cut
                call.stop.attempts.discard(self)
                raise _Stopped

    def left(self, limit: Optional[float]) -> Optional[float]:
        """Seconds the next step may take: `limit`, or less where the deadline or the idle limit is nearer."""
        end = self.deadline_at if self.deadline_at < self.idle_at else self.idle_at
        if end == math.inf:
            return limit
        left = end - _now()
        if left <= 0:
            raise socket.timeout("out of time")
        return left if limit is None or left < limit else limit

    def holds(self, data: Any) -> bool:
        """Keep a request's head back for its body, if that is small: one packet is cheaper than two for both sides."""
        if len(self.call.payload or b"") in range(1, _PIECE) and data[-4:] == b"\r\n\r\n" and data[:8] != b"CONNECT ":
            self.head = data
        return self.head is data

    def begin(self, sends: bool) -> None:
        """From here on its request is sent, or a connection opened for it, unless nothing more is to be sent."""
        with self.lock:
            self.call.check()
            self.sent = sends

    def check(self) -> None:
        """Raises `_Stopped` if it was cut."""
        if self.deadline_at == -math.inf:
            raise _Stopped

    def drop(self) -> None:
        """End it if nothing has been sent."""
        with self.lock:
            if self.sent is False:
                self.cut()

    def cut(self) -> None:
        """End it, in whatever step another thread is with it."""
        with self.lock:
            if not self.ended:  # pragma: no branch: else it has ended at this very moment
                self.deadline_at = -math.inf
                if self.wire is not None:
                    self.wire.cut()

    def is_stale(self) -> bool:
        """Whether a pooled connection died at once, before one byte of an answer, as a closed one (RFC 9112, 9.3.1)."""
        return (not self.opened and "stale" not in self.call.retries and not (self.wire and self.wire.received)
                and _now() - self.sent_at < _STALE)

    def is_foreign(self) -> bool:
        """Whether this is a forked child, and the connection its parent's."""
        return self.process is not _Process.look()

    def booking(self) -> _Booking:
        """What the ledger counts of it."""
        retried, billed = int(self.number > 1), self.billed
        if billed is not None:
            return _Booking((1, 1, retried, int(self.empty), 0, 0, 0), billed.model, billed.usage)
        return _Booking((0, 1, retried, 0, 0, int(bool(self.sent and not self.status)), 0))

    def end(self) -> bool:
        """Book it, and let nobody cut its connection any more; False: that was done before."""
        with self.lock:
            ended = self.ended
            if not ended:
                for ledger in self.call.ledgers:
                    ledger._book(self.key, self.booking())
                self.ended = True
        if self.call.stop is not None:
            self.call.stop.attempts.discard(self)
        for ledger in self.call.ledgers:
            ledger._tidy()
        return not ended

    def give_back(self) -> None:
        """Give the connection back, if that has not been done."""
        with self.lock:  # they refer back, and a connection must not wait for the cycle collector
            answer, self.answer, self.wire = self.answer, None, None
        if answer is not None:
            answer.release()


# ----------------------------------------------------------------------------------------------------------- many calls

_Result = Union[Response, BaseException]
_Results = Dict[int, _Result]  # by the number of the prompt, in the order in which they came


class _Map(Iterator[_Each]):
    """What `Client.map` gives: it may be closed in any thread, also where another one is inside it."""

    def __init__(self, crew: Any, results: Iterator[Any], progress: Any) -> None:
        self.stop: Any = crew.stop
        self._crew, self._results, self._progress = crew, results, progress

    def __next__(self) -> _Each:
        try:
            result: _Each = next(self._results)
        except KeyboardInterrupt as stop:
            _shorten(stop, self._progress)
            raise
        return result

    def close(self) -> None:
        """Cut the calls under way, and send nothing more; who waits for the next result, anywhere, sees the end."""
        try:
            self._crew.end()
        finally:
            self._progress.end()

    def rest(self) -> Iterator[Tuple[int, Union[Response, LLMError]]]:
        """Close it, and have what had come by then, and was not given, with its prompt's number."""
        self.close()
        results = self._crew.results
        self._crew.collect(results, False)
        for nth, result in results.items():
            if isinstance(result, (Response, LLMError)):  # else it was cut
                yield nth, result


class _Window:
    """The prompts of a map that are in hand: of those that were read, at most `most` have not been given back."""

    def __init__(self, crew: _Crew, prompts: Iterator[Any], most: int, ordered: bool) -> None:
        self.crew, self.prompts, self.most, self.ordered = crew, prompts, most, ordered
        self.read = self.given = 0
        self.is_last = False  # no more are to be read
        self.error: Optional[Exception] = None  # the user's own, which the prompts ended with

    def is_open(self) -> bool:
        """Whether there is one to read or to give yet."""
        stop = self.crew.stop
        if stop.is_set:
            self.crew.drop()
            self.is_last = True
        return not stop.cuts and (not self.is_last or self.given < self.read)

    def widen(self) -> bool:
        """Give the crew one more, and tell whether there was room for that."""
        if self.is_last or self.read - self.given >= self.most or not self.crew.has_room():
            return False
        try:
            prompt = next(self.prompts)
        except StopIteration:
            self.is_last = True
        except Exception as error:
            self.is_last, self.error = True, error
        else:
            if not self.crew.stop.is_set:  # it may have come meanwhile
                self.crew.give(self.read, prompt)
                self.read += 1
        return True

    def due(self) -> Optional[int]:
        """The one whose result is next, be it there or not."""
        return self.given if self.ordered else next(iter(self.crew.results), None)


def _mapped(window: _Window, raises: bool, progress: _Progress) -> Iterator[Any]:
    """What `Client.map` yields."""
    crew, results = window.crew, window.crew.results
    result: Optional[_Result] = None
    try:
        while window.is_open():
            waits = not window.widen()
            crew.collect(results, waits and window.due() not in results)
            nth = window.due()
            if nth in results:
                result = results.pop(nth)
                window.given += 1
                if isinstance(result, _Stopped):
                    continue
                progress.count(result)
                if isinstance(result, BaseException) and (raises or not isinstance(result, LLMError)):
                    raise result
                yield result if window.ordered else (nth, result)
                result = None
        if window.error is not None:
            raise window.error
    finally:
        window.error = result = None  # an error that is raised here is not to be held by what it went through
        try:
            crew.end()
        finally:  # Ctrl-C may have hit there
            progress.end()


def _checked_workers(workers: Any) -> None:
    if (_finite(workers, int) or 0) < 1:
        raise ConfigurationError(f"workers={workers!r}: give a whole number, 1 or more")


def _chat_arguments(prompt: Any) -> JSON:
    """What `chat` is to be called with for a prompt of `Client.map`."""
    if not isinstance(prompt, abc.Mapping):
        return {"messages": prompt}
    unknown = set(prompt) - _CHAT_OPTIONS - {"messages"}
    if unknown or "messages" not in prompt:
        what = f"has {min(map(str, unknown))!r}" if unknown else "has no messages"
        hint = ('give arguments of chat(), {"messages": ...}, or a list of messages; extra= takes any other field'
                if "role" not in prompt else "a message: put it into a list")
        raise ConfigurationError(f"a dict among the prompts {what}", hint=hint)
    try:
        _described(prompt)
    except TypeError as error:  # which is the programmer's in a call, and in a prompt an error like others
        raise ConfigurationError(str(error)) from None
    return dict(prompt)


def _described(options: Mapping[str, Any]) -> JSON:
    """The tools and the schema among `chat`'s arguments as providers want them; TypeError where that cannot be."""
    return _as_dicts({name: options[name] for name in ("tools", "schema") if options.get(name) is not None})


def _one_of_many(client: Client, prompt: Any, options: JSON, stop: _Stop) -> _Result:
    if stop.is_set:
        return _Stopped()
    try:
        return client.chat(**{**options, **_chat_arguments(prompt)})
    except Exception as error:
        return error.with_traceback(None)  # its frames would keep all that the call had
    finally:
        stop.look()


class _Crew:
    """Who calls for a map, and what comes back."""

    threads: Sequence[threading.Thread] = ()

    def __init__(self, client: Client, options: JSON, workers: int) -> None:
        self.client, self.options, self.workers = client, options, workers
        self.process, self.stop = _Process.look(), _Stop()
        self.came: Any = queue.SimpleQueue()
        self.results: _Results = {}  # that were collected, and not given to whoever reads them
        self.open = 0  # prompts that were given, and whose results have not been collected

    def has_room(self) -> bool:
        """Whether one more prompt may be given."""
        raise NotImplementedError

    def give(self, nth: int, prompt: Any) -> None:
        """Call for a prompt some time; the result comes by `collect`."""
        raise NotImplementedError

    def begin(self) -> None:
        """Begin one more thread, if these are threads of ours."""

    def collect(self, results: _Results, waits: bool) -> None:
        """Put what has come into `results`; if that `waits`, one at least."""
        if waits and self.open > 4 and self.came.empty():
            time.sleep(_TOGETHER)
        while waits or not self.came.empty():
            try:
                nth, result = self.came.get(timeout=0.2 if len(self.threads) in (0, self.workers) else _BEGIN)
                self.open -= 1
                results[nth], waits = result, False
            except queue.Empty:  # in between Ctrl-C is heard, on Windows too
                if self.process is not _Process.look():  # pragma: no cover: in forked children
                    raise RuntimeError("map() goes on in the process that this one was forked from") from None
                if self.stop.is_set:
                    self.drop()
                for _ in range(min(self.workers, self.open) - len(self.threads)):
                    self.begin()

    def drop(self) -> None:
        """Nothing more is to be sent: have what has not been sent end soon."""
        self.stop.drop()

    def end(self) -> None:
        """Cut what is under way, in whatever thread, more than once too."""
        self.stop()
        self.came.put((-1, _Stopped()))  # for who waits there


class _Threads(_Crew):
    """Threads that call for a map: one, and more where it does not answer at once."""

    def __init__(self, client: Client, options: JSON, workers: int) -> None:
        super().__init__(client, options, workers)
        self.given: Any = queue.SimpleQueue()
        self.threads: List[threading.Thread] = []

    def has_room(self) -> bool:
        return True  # a thread that finds its next prompt waiting costs less than one that waits for it

    def give(self, nth: int, prompt: Any) -> None:
        self.given.put((nth, prompt))
        self.open += 1
        if not self.threads:
            self.begin()

    def begin(self) -> None:
        here: Any = copy_context()  # a tracer's span, for one
        work = _work, self.client, self.options, self.given, self.came, self.stop
        thread = threading.Thread(target=here.run, args=work, name="llmlite map", daemon=True)
        try:
            thread.start()
            self.threads.append(thread)
        except RuntimeError:  # there are no threads, as in WebAssembly, or no more
            self.workers = len(self.threads)
            if not self.threads:
                self.given.put(None)
                here.run(*work)

    def end(self) -> None:
        if self.process is not _Process.look():  # pragma: no cover: in forked children
            return
        super().end()
        self.given.put(None)
        end = _now() + 1
        for thread in list(self.threads):
            if thread is not threading.current_thread():  # in which the collector may have dropped the map
                thread.join(max(0.0, end - _now()))


def _work(client: Client, options: JSON, given: Any, came: Any, stop: _Stop) -> None:
    """What a thread of a map does."""
    _STOP.set(stop)
    for nth, prompt in iter(given.get, None):
        if stop.cuts:
            break
        try:
            result: Any = _one_of_many(client, prompt, options, stop)
        except BaseException as error:  # the key's source may want to end it all: then who waits does
            result = error.with_traceback(None)
        came.put((nth, result))
    if stop.cuts:
        given.put(None)  # for the next one


class _Executed(_Crew):
    """An executor that calls for a map; in another process it does so by a client of its own, made once there."""

    # No executor keeps anything for us between two calls in its process, and Dask pickles also what stays in this one.
    here: Any = weakref.WeakValueDictionary()  # by token: those of this process
    away: Dict[Tuple[object, str], _Away] = {}  # by process and token: those of others

    def __init__(self, client: Client, options: JSON, workers: int, executor: Any) -> None:
        super().__init__(client, options, workers)
        self.executor, self.token, self.futures = executor, os.urandom(8).hex(), set()  # type: Any, str, Set[Any]
        self.dask, self.told = getattr(executor, "_client", None), False  # its futures never tell that they run
        self.refused: Optional[Tuple[int, Exception]] = None  # the prompt that the executor did not take, and why
        self.here[self.token] = self
        self.sealed = _Sealed(client)

    def has_room(self) -> bool:
        return self.open < self.workers and self.refused is None

    def give(self, nth: int, prompt: Any) -> None:
        call = self.token, nth, self.sealed, prompt, self.options  # with its number: Dask does the same thing but once
        try:
            if getattr(self.dask, "status", "") == "closed":  # Dask's executor would take it, and never answer
                raise RuntimeError("the executor's Dask client is closed")
            future = self.executor.submit(_call_away, *call)
        except Exception as error:
            self._refuse(nth, error, _pickled((prompt, self.options))[1])
            return
        self.open += 1
        self.futures.add(future)
        future.add_done_callback(functools.partial(self._take, nth))

    def _refuse(self, nth: int, error: Exception, why: str) -> None:
        """The executor did not take a prompt: for what that is, or it takes none any more."""
        if why:
            self.open += 1
            self.came.put((nth, LLMError("the executor gave no reply back", why=why)))
        elif isinstance(error, RuntimeError):
            self.refused = nth, error
        else:  # its text may hold all that was to be sent, the key too
            self.refused = nth, RuntimeError(f"the executor takes no more calls: {type(error).__name__}")

    def collect(self, results: _Results, waits: bool) -> None:
        if self.refused is None or self.open:
            super().collect(results, waits)
        else:  # what it had taken before has come back
            results.setdefault(*self.refused)

    def _take(self, nth: int, future: Any) -> None:
        """In any thread: a call has ended, maybe long after the map has."""
        self.futures.discard(future)
        try:
            result, spent = future.result()
        except BaseException as error:  # of the executor, or the pickles between here and there
            why = _quoted(f"{type(error).__name__}: {error}")
            result, spent = LLMError("the executor gave no reply back", why=why), None
            if self.stop.is_set:  # cancelled, or ended by the same Ctrl-C, which a terminal sends to its process too
                result = _Stopped()
        if spent is not None:
            self.client.ledger._add(spent)
            self.stop.look()
        self.came.put((nth, result))

    def end(self) -> None:
        if self.process is not _Process.look():  # pragma: no cover: in forked children
            return
        super().end()
        self.drop()

    def drop(self) -> None:
        super().drop()
        if self.dask is None:
            for future in list(self.futures):
                future.cancel()
        elif self.futures and not self.told:  # cancelled, those that run would lose what they spent
            self.told = True  # by the loop, for this may be Dask's own thread
            self.dask.loop.add_callback(self.dask.run, _stop_away, self.token, on_error="ignore")


class _Sealed:
    """A client's pickle, or why there is none, that shows nothing of it: Dask logs what it calls with."""

    def __init__(self, client: Client) -> None:
        self.pickled, self.why = _pickled(client)  # none: the client's owner raises it; in this process nobody needs it

    def client(self) -> Client:
        """One more of it."""
        why = self.why
        if not why:
            import pickle
            try:
                return pickle.loads(self.pickled)  # type: ignore[no-any-return]
            except Exception as error:
                why = _quoted(f"{type(error).__name__}: {error}")
        raise ConfigurationError("the client cannot go to another process", why=why)


def _pickled(thing: Any) -> Tuple[bytes, str]:
    """Something as a pickle; or why it cannot be one."""
    import pickle
    try:
        return pickle.dumps(thing), ""
    except Exception as error:
        return b"", _quoted(f"{type(error).__name__}: {error}")


def _call_away(token: str, nth: int, sealed: _Sealed, prompt: Any, options: JSON) -> Tuple[_Result, Optional[JSON]]:
    """What an executor does for a map: the result, and what it cost, unless the caller's own ledger has that."""
    crew = _Executed.here.get(token)
    if crew is not None and crew.process is _Process.look():
        return _one_away(crew.stop, crew.client, prompt, options), None
    away = _away(token)
    if away.stop.is_set:
        return _Stopped(), None
    try:
        away.client = client = away.client or sealed.client()
    except LLMError as error:
        return error, None
    result = _one_away(away.stop, client, prompt, options)
    return _portable(result), client.ledger.reset()


def _one_away(stop: _Stop, client: Client, prompt: Any, options: JSON) -> _Result:
    """What comes of a prompt in a thread of somebody else's."""
    stopping = _STOP.set(stop)
    try:
        return _one_of_many(client, prompt, options, stop)
    finally:
        _STOP.reset(stopping)


class _Away:
    """What a process keeps between two calls for a map of another one."""

    def __init__(self) -> None:
        self.client: Optional[Client] = None  # made from a pickle
        self.stop = _Stop()


def _away(token: str) -> _Away:
    """What this process keeps for the map of this token."""
    key, known = (_Process.look(), token), _Executed.away
    found = known.get(key)
    if found is None:
        found = known.setdefault(key, _Away())
        for old in list(known)[:-8]:  # of maps long gone
            known.pop(old, None)
    return found


def _stop_away(token: str) -> None:
    """In another process, at once: nothing more is to be sent for a map."""
    _away(token).stop.set()


def _portable(result: _Result) -> _Result:
    """A result that another process can read: one that it cannot would break the executor, and lose what was spent."""
    if isinstance(result, LLMError) or isinstance(result, Response) and result.parsed is None:
        return result
    import pickle
    try:
        pickle.loads(pickle.dumps(result))
    except Exception as error:
        if isinstance(result, BaseException):
            why = _quoted(f"{type(result).__name__}: {result}")
            return LLMError("the call ended in an error that cannot go to another process", why=why)
        why = _quoted(f"{type(error).__name__}: {error}")
        return LLMError(f"a {type(result.parsed).__name__} cannot go to another process", why=why)
    return result


class _Progress:
    """What a map tells of how far it is."""

    def __init__(self, told: Any, total: Optional[int]) -> None:
        self.done = self.failed = 0
        self.usage = _NO_USAGE
        self.started = _now()
        self._end: Callable[[], Any] = int
        self.tell = told if callable(told) else self._shown(total) if told else None

    def count(self, result: _Result) -> None:
        if isinstance(result, Response):
            self.done += 1
            self.usage += result.usage
        else:
            self.failed += 1
        if self.tell is not None:
            self.tell(self.done, self.failed, self.usage)

    def end(self) -> None:
        """No more comes; told twice, it shows so once."""
        end, self._end = self._end, int
        end()

    def _shown(self, total: Optional[int]) -> Callable[[int, int, Usage], Any]:
        import importlib
        import warnings
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a notebook without ipywidgets: there the bar is text
                tqdm = importlib.import_module("tqdm.auto").tqdm  # the notebook's in notebooks
        except ImportError:
            self._end = functools.partial(print, file=sys.stderr)
            of = "" if total is None else f"/{total}"
            return lambda done, failed, usage: print(
                f"\r{done + failed}{of} done, {failed} failed, {usage.total_tokens} tokens", end="", file=sys.stderr,
                flush=True)
        bar = type("Bar", (tqdm,), {"monitor_interval": 0})(total=total, miniters=1)  # no thread of tqdm's
        self._end = bar.close

        def show(done: int, failed: int, usage: Usage) -> None:
            bar.set_postfix({"failed": failed, "tokens": usage.total_tokens}, refresh=False)
            bar.update()

        return show


_CHAT_OPTIONS = frozenset(Client.chat.__kwdefaults__ or ())
_TURN_OPTIONS = _CHAT_OPTIONS | {"max_rounds"}


class _Section:
    """A critical section: one thread at a time, in a forked child a new one, for its parent's may be held for ever.

    What a finalizer has to `run` in the very thread that is inside waits: else one of the two changes would be lost.
    Python's own locks alone say who is inside: Ctrl-C, which hits between any two steps of ours, leaves none held
    (before Python 3.10, which hears it between a `with` and its end too, hardly ever one).
    """

    def __init__(self) -> None:
        self._states: Dict[object, Any] = {}  # by process

    def _state(self) -> Any:
        here = _Process.here
        return self._states.get(here) or self._states.setdefault(
            here, SimpleNamespace(lock=threading.RLock(), changing=threading.Lock(), waiting=deque()))

    @property
    def lock(self) -> Any:
        """Held, it keeps other threads out."""
        return self._state().lock

    def run(self, change: Callable[..., None], *args: Any) -> None:
        """Make a change inside: now or, where this thread makes one already, right after that."""
        state = self._state()
        state.waiting.append((change, args))
        with state.lock:
            while state.waiting and not state.changing.locked():
                with state.changing:
                    each, given = state.waiting.popleft()
                    each(*given)


class _Process:
    """Which process this is, told by an object: numbers come again, and to ask for them each time is dear."""

    here: object
    _known: Dict[int, object] = {}

    @classmethod
    def look(cls) -> object:
        """Ask the system, for of some forks (uWSGI's) Python is not told."""
        cls.here = cls._known.setdefault(os.getpid(), object())
        return cls.here

    @classmethod
    def forked(cls) -> None:  # pragma: no cover: in forked children
        """Whatever has this process's number belongs to another that had it before."""
        cls._known.clear()
        cls.look()


_Process.look()
if hasattr(os, "register_at_fork"):  # pragma: no branch: not on Windows
    os.register_at_fork(after_in_child=_Process.forked)


# -------------------------------------------------------------------------------------------------------------- waiting


def _decide(policy: Optional[RetryPolicy], call: _Call, error: LLMError, paced: bool
            ) -> Tuple[Optional[LLMError], float, str]:
    """What follows a failed attempt: the error that is final, or None; the seconds to wait; a hint for the error.

    `paced` says that the client knows the pace of its server: a refusal that names no wait is none to back off far.
    """
    kind, wait = error._kind, error.retry_after
    if call.upload is not None and call.upload.spent:
        return error, 0.0, "its body cannot be read once more" if kind else error.hint
    if kind == "stale":
        return None, 0.0, ""
    retry = call.retries.get(kind, 0)
    if policy is None or retry >= policy._limits(kind)[0]:
        return error, 0.0, error.hint
    if wait is not None and wait > policy.retry_after_max:
        hint = f"the server asks to wait {wait:.0f} s, over retry_after_max={_brief(policy.retry_after_max)}"
        return error, 0.0, hint
    if wait is not None:
        delay = wait
    elif paced:
        delay = policy._delay("normal", retry) if retry < _BRIEFLY else policy._delay(kind, retry - _BRIEFLY)
    else:
        delay = policy._delay(kind, retry)
    if _now() + delay > call.deadline.end:
        due = "the next attempt is due in" if wait is None else "the server asks to wait"
        why = f"{due} {delay:.1f} s; {error.args[0]}: {error.why}"
        return call.deadline.error(why, "would pass", retry_after=wait, last_error=error), delay, _LATE
    return None, delay, ""


class _Span(NamedTuple):
    """What a server granted up to a refusal."""

    granted: float = 0.0
    seconds: float = 0.0  # since the refusal before
    waited: float = 0.0  # of these seconds, for that one had asked so


class _Pace:
    """How fast a server grants calls, learnt from what it refuses: arithmetic alone, told the time in seconds.

    A server is taken for a bucket that so many calls a second fill, the grant, up to its size.  Before the first
    refusal nothing is held back; that one tells the size: what was granted at once.  From then on calls go out at a
    rate that doubles up to the next refusal, which tells the grant: the bucket was empty both times, so what was
    granted in between is what had come in.  The rate stays below that for a while, the longer the dearer a refusal is,
    then grows until one tells the grant anew.  A refusal before it has grown, soon or twice, says that the grant has
    fallen: to what filled a bucket that was full, if that can be told; else the search begins again at half of it, or
    at what was granted of late: who refuses one in a hundred at random grants the others at any pace.  Where nothing at
    all is granted, the search goes on from where it was.
    """

    FIRST = 32.0, 100.0  # calls a second after the first refusal, at the least; where it told nothing
    LEAST = 0.25  # calls a second while the grant is not known
    DOUBLING = 0.3  # seconds, while the grant is not known; as long as four calls take where that is longer
    BELOW = 0.99  # of the grant: an error of one in a hundred is to be no refusal
    LATE = 0.98  # of what was granted of late: the search is no slower
    REST = 2.0, 60.0  # seconds before the rate grows again, at the least and the most,
    WORTH = 12.0  # or so many times what a refusal costs,
    CALLS = 50  # or as long as so many calls take, that refusals stay under 2 in 100
    GROWTH = 1.2  # seconds in which it doubles then
    FALLEN = 30.0  # seconds after a fall in which it grows again soon, whatever that costs: what fell may rise
    TOLD = 8  # calls granted between two refusals: fewer tell nothing
    SHORT = 2.0  # seconds: a span below it is taken together with those before
    LOOK = 0.25  # seconds: a shorter stretch tells nothing of a rate
    FORGET = 600.0  # seconds without a call: what was learnt is old
    SOON = 1.0  # seconds: a refusal as soon says that the grant has fallen; later once may be chance

    def __init__(self) -> None:
        self.sent = 0  # calls, refused ones too
        self.recent: Any = deque(maxlen=512)  # when, since the last refusal that told something
        self.until, self.wait = -math.inf, 0.0  # nothing goes out before; how long that is from that refusal on
        self.rate = math.inf  # calls a second
        self.spread, self.spread_end = 0.0, -math.inf  # calls a second that go out besides, after a wait; up to when
        self.level, self.at = 0.0, -math.inf  # calls that may go out at once, and when that was so
        self.held, self.used = False, 0.0  # whether calls wait for the rate; seconds in which they did
        self.start = self.grant = self.before = self.best = self.least = 0.0  # calls a second; 0: not known
        self.told, self.mark = -math.inf, 0  # when the last refusal came that told something; `sent` then
        self.span = self.pool = _Span()  # up to then; up to those before, if they were short
        self.late = _Span()  # those before the last, the older the less, until `TOLD` calls were granted in them
        self.first: Optional[_Span] = None
        self.fallen, self.doubted = -math.inf, False  # when the grant fell; whether the last refusal came too early
        self.learns = True  # whether the span tells the grant, which has not just fallen
        self.closed = 0.0  # calls a second while nothing is granted

    def size(self) -> float:
        """How many calls the bucket holds."""
        first = self.first or self.span
        return max(1.0, first.granted - self.grant * first.seconds)

    def is_known(self) -> bool:
        """Whether it tells better than a backoff when a refused call is due."""
        return self.grant > 0 or (self.first or self.span).granted >= self.TOLD

    def delay(self, now: float) -> float:
        """Seconds until a call may go out."""
        if now < self.until:
            return self.until - now
        if now - self.at > self.FORGET and self.told > -math.inf:
            sent = self.sent
            self.__init__()  # type: ignore[misc]
            self.sent = self.mark = sent
        if self.rate == math.inf and now >= self.spread_end:
            return 0.0
        self._advance(now)
        self.held = self.held or self.level < 1
        flow = (self.rate if self.rate < math.inf else 0.0) + self.spread * (now < self.spread_end)
        return max(0.0, (1 - self.level) / flow)

    def take(self, now: float) -> int:
        """A call goes out; returns its number."""
        self.level -= 1
        self.recent.append(now)
        self.sent += 1
        return self.sent

    def _advance(self, now: float) -> None:
        besides = max(0.0, min(now, self.spread_end) - self.at) * self.spread
        passed, self.at = max(0.0, now - self.at), max(now, self.at)
        tested = self.held * min(passed, max(1.0, 2 / self.rate))  # one that holds nobody back is not put to the test
        self.used += tested
        self.held = False
        if self.rate == math.inf:
            self.level += besides
            return
        self.level = min(self.level + self.rate * passed + besides, self.size())
        if self.grant:
            self.rate = self.grant * self.BELOW * 2 ** min(max(0.0, self.used - self._rest()) / self.GROWTH, 30)
        elif self.closed and self.sent - self.mark > 1:
            self.rate, self.closed = self.start, 0.0  # granted again
        else:
            doublings = tested / max(self.DOUBLING, 4 / self.rate)
            self.rate = min(self.rate * 2 ** doublings, self.start * 2 ** 30)

    def _rest(self) -> float:
        """Seconds before the rate grows again."""
        cost = self.wait - self.size() / self.grant if self.told - self.fallen >= self.FALLEN else 0.0
        least, most = self.REST
        return max(min(max(least, self.WORTH * cost), most), self.CALLS / self.grant)

    def refused(self, number: int, now: float, wait: Optional[float] = None) -> None:
        """The call of this number was refused, and told to wait so many seconds, or nothing."""
        if number > self.mark or self.told == -math.inf:
            self._begin(now)
        else:  # it had gone out before the last refusal came: up to now some of those may have been granted
            self.span, self.told = self.span._replace(seconds=self.span.seconds + now - self.told), now
        self.span = self.span._replace(granted=max(0.0, self.span.granted - 1))
        self._learn()
        if wait:
            self.wait = max(self.until, now + wait) - self.told
            self.pause(now, wait, min(self.size(), self.wait * (self.grant or self.start)) / 2)  # of what has come in

    def pause(self, now: float, wait: float, calls: float) -> None:
        """Nothing goes out for so many seconds; then so many calls go out a little apart, not as a herd."""
        self.until = self.at = max(self.until, now + wait)
        self.spread, self.spread_end = max(0.0, calls - 1) / (wait * _SPREAD), self.until + wait * _SPREAD
        self.level = 1.0

    def _begin(self, now: float) -> None:
        """A refusal that tells something: what has gone out since the one before was granted, but what is refused."""
        if self.told == -math.inf:
            times = [at for at in self.recent if at > now - 1.0]
            self.span = _Span(len(times), now - min(times, default=now))
        else:
            self._keep(self.span)
            self.span = _Span(self.sent - self.mark, now - self.told, self.wait)
            self._judge(now)
        self.told, self.mark, self.at = now, self.sent, now
        self.wait = self.used = self.level = 0.0
        self.recent.clear()

    def _keep(self, span: _Span) -> None:
        """A short span tells little: the next is taken together with it, unless the bucket was full in it."""
        if self.first is None:
            self.first = span
            return
        share = max(0.0, 0.5 - span.granted / self.TOLD / 2)
        self.late = _Span(span.granted + share * self.late.granted, span.seconds + share * self.late.seconds)
        if self.grant * span.waited < self.size():
            share = max(0.0, 1 - span.seconds / self.SHORT)
            self.pool = _Span(span.granted + share * self.pool.granted, span.seconds + share * self.pool.seconds)
        else:
            self.pool = _Span()

    def _judge(self, now: float) -> None:
        """Whether the grant has fallen; what it is at the least."""
        self.before, self.learns = self.grant or self.before, True
        sent, self.least = len(self.recent), 0.0
        closed, self.closed = self.closed, 0.0
        if not self.grant:
            if self.span.granted > 1 or not closed:
                self.start = max(self.LEAST, self.start / 2)  # it may tell too little again
            if self.span.granted <= 1:  # the refused one
                self.closed = max(self.LEAST, closed / 2 or self.start)
        elif self.used < self.SOON or self.used < self._rest() and self.doubted:
            self.start, self.grant, self.doubted = max(self.LEAST, self.grant / 2), self._come_in(now), False
            self.pool, self.fallen, self.learns = _Span(), now, False
            return
        else:
            self.doubted = self.used < self._rest()
        look = min(max(self.LOOK, (now - self.told - self.wait) / 2), self.SOON)
        for nth, at in enumerate(self.recent, 1):  # had the bucket been full then
            if now - at >= look:
                self.least = max(self.least, (sent - nth - self.size()) / (now - at))

    def _come_in(self, now: float) -> float:
        """Calls a second that filled the bucket from the end of a wait, when it was full, to now; 0 if too few tell."""
        more = self.span.granted - 1 - self.size()  # the refused one
        if more < self.TOLD / 2 or self.grant * self.wait < self.size():
            return 0.0
        return more / max(now - self.told - self.wait, 1e-3)

    def _learn(self) -> None:
        """What the span up to the last refusal tells."""
        if self.first is None:
            least = self.FIRST[self.span.granted < self.TOLD / 2]
            self.start = max(least, self.span.granted / max(1.0, self.span.seconds))
        elif self.learns:
            granted, seconds = self.span.granted + self.pool.granted, self.span.seconds + self.pool.seconds
            if granted >= self.TOLD and seconds - self.span.waited >= self.LOOK:
                self.grant = max(granted / max(seconds, 1e-6), self.least)
                self.best = max(self.best, self.before)
                if self.grant < 0.75 * self.before:
                    self.fallen = self.told
                elif self.grant > 0.9 * self.best:
                    self.fallen = -math.inf
        self.rate = self.grant * self.BELOW or self.closed or max(self.start, self.LATE * self._lately())

    def _lately(self) -> float:
        """Calls a second that were granted of late, if that can be told: what a full bucket gave is no rate."""
        if self.first is None or self.before * self.span.waited >= self.size():
            return 0.0
        return max(0.0, self.span.granted + self.late.granted - 1) / max(self.span.seconds + self.late.seconds, 1e-3)


class _Gate:
    """What holds a client's calls back: what its server grants, as it says and as it shows, and the user's `RateLimit`.

    Who has to wait stands in line, one for each model: the first sleeps as long as it must by what is known then, and
    looks again; nobody holds a turn that was given out by what was known before.
    """

    def __init__(self, limit: Optional[RateLimit], longest: float) -> None:
        self._section = _Section()
        self._lines: Dict[str, _Line] = {}  # by model: those in which somebody stands
        self._pace = _Pace()
        self._allowances: Dict[Tuple[str, str], _Allowance] = {}  # by model and name
        # seconds to sleep at most: tokens may be given back; and over the system's clock it is an OverflowError
        self._nap = 3600.0 if limit is None or limit.tokens_per_minute is None else 0.05
        self._longest = longest  # seconds: a longer wait by headers is not waited, for a refusal is to tell of it
        limit = limit or RateLimit()
        self._requests = _Bucket(limit.requests_per_minute, 0.05)
        self._tokens = _Bucket(limit.tokens_per_minute, 1.0)
        self._under_way: Any = weakref.WeakSet()  # calls that took of the tokens, and have not been answered
        self._answer = 0.0  # tokens: the mean of the answers so far

    def enter(self, call: _Call) -> None:
        """Wait for one's turn; DeadlineExceededError at once where that comes too late."""
        while call.due > _now():
            self._rest(call, call.due - _now())
        if call.model in self._lines or self._admit(call) > 0:
            self._stand_in_line(call)

    def _stand_in_line(self, call: _Call) -> None:
        try:
            with self._section.lock:
                line = self._lines.setdefault(call.model, _Line())
                ahead = len(line.calls)
                line.calls.add(call)
                wait = self._delay(call, _now()) + ahead / min(self._pace.grant or math.inf, self._requests.rate)
            if _now() + wait > call.deadline.end:
                raise self._too_late(call, wait)
            if wait > _LONG_WAIT:
                _log.info("%s %s: held back for %.1f s", call.provider.name, call.model, wait)
            with self._at_head(call, line):
                delay = self._admit(call)
                while delay > 0:
                    self._rest(call, delay)
                    delay = self._admit(call)
        finally:
            with self._section.lock:
                line = self._lines.get(call.model, _Line())
                line.calls.discard(call)
                if not line.calls:
                    self._lines.pop(call.model, None)

    @contextlib.contextmanager
    def _at_head(self, call: _Call, line: _Line) -> Iterator[None]:
        while not line.lock.acquire(timeout=max(0.0, min(call.deadline.end - _now(), 0.2))):
            call.check()  # in between Ctrl-C is heard, on Windows too
            if _now() >= call.deadline.end:
                raise self._too_late(call, self._delay_now(call))
        try:
            yield
        finally:
            line.lock.release()

    def _delay_now(self, call: _Call) -> float:
        with self._section.lock:
            return self._delay(call, _now())

    def _rest(self, call: _Call, delay: float) -> None:
        if _now() + delay > call.deadline.end:
            raise self._too_late(call, delay)
        call.sleep(max(0.0, min(delay, self._nap)))  # it may have passed since it was reckoned

    def _too_late(self, call: _Call, delay: float) -> DeadlineExceededError:
        why = f"the client's calls are held back for {delay:.1f} s more"
        return call.deadline.error(why, "would pass", retry_after=delay)

    def _admit(self, call: _Call) -> float:
        """Let the call go out, if it may: then 0; else the seconds until it may, by what is known now."""
        with self._section.lock:
            now = _now()
            delay = self._delay(call, now)
            if delay <= 0:
                self._section.run(self._take, call, now)
        return delay

    def _delay(self, call: _Call, now: float) -> float:
        delay = self._pace.delay(now)
        if self._requests.rate < math.inf or self._tokens.rate < math.inf:
            delay = max(delay, self._requests.delay(now), self._tokens.delay(now), self._alone(call))
        if self._allowances:
            waits = [allowance.delay(call.cost(name, self._answer), now)
                     for (model, name), allowance in self._allowances.items() if model == call.model]
            delay = max(delay, *(wait for wait in (0.0, *waits) if wait <= self._longest))
        return delay

    def _alone(self, call: _Call) -> float:
        """Above zero while there are calls beside one of more than a minute's tokens."""
        least = self._tokens.rate * 60
        large = [other for other in self._under_way if other.cost("tokens", self._answer) > least]
        return self._nap if large or self._under_way and call.cost("tokens", self._answer) > least else 0.0

    def _take(self, call: _Call, now: float) -> None:
        call.turn, call.turned = self._pace.take(now), now
        self._requests.take(1)
        if self._tokens.rate < math.inf:
            self._tokens.take(call.cost("tokens", self._answer))
            self._under_way.add(call)
        for (model, name), allowance in self._allowances.items():
            if model == call.model:
                allowance.take(call.cost(name, self._answer), now)

    def pause(self, delay: float) -> None:
        """Make every call of the client wait `delay` seconds from now."""
        self._section.run(lambda: self._pace.pause(_now(), delay, max(self._in_line(), 32)))

    def _in_line(self) -> int:
        return sum(len(line.calls) for line in list(self._lines.values()))

    def refused(self, call: _Call, wait: Optional[float]) -> bool:
        """A call was refused, and told to wait or not; returns whether the pace is known well enough to go on by it."""
        self._section.run(lambda: self._pace.refused(call.turn, _now(), wait))
        return self._pace.is_known()

    def told(self, call: _Call, headers: Mapping[str, str]) -> None:
        """Take what a good answer's headers say of the limits."""
        for name in headers:
            if "remaining" in name.lower():
                found = _allowed(headers, name.lower())
                if found is not None:
                    self._section.run(self._allow, call, name.lower(), found)

    def _allow(self, call: _Call, name: str, said: Tuple[float, Optional[float], float, float]) -> None:
        if len(self._allowances) > _MAX_ROADS:
            self._allowances.clear()
        since = 0 if "token" in name else self._pace.sent - call.turn
        self._allowances.setdefault((call.model, name), _Allowance()).tell(*said, since, call.turned, _now())

    def answered(self, call: _Call, usage: Optional[Usage]) -> None:
        """A call has its answer: its tokens are known, if that says them; without one it took none."""
        if self._tokens.rate < math.inf or self._allowances:
            self._section.run(self._correct, call, usage)

    def _correct(self, call: _Call, usage: Optional[Usage]) -> None:
        told = usage is None or usage.total_tokens > 0  # else it was cut, or its server never says: the estimate stands
        if call in self._under_way:
            self._under_way.discard(call)
            if told:
                self._tokens.take((usage or _NO_USAGE).total_tokens - call.cost("tokens", self._answer))
        if usage is not None and told:
            self._answer += (usage.output_tokens - self._answer) / 8


class _Line:
    """Calls that wait for their turn; who holds the lock is the first."""

    def __init__(self) -> None:
        self.calls: Set[_Call] = set()
        self.lock = threading.Lock()


class _Bucket:
    """A bucket that fills evenly and holds `slack` seconds' worth, or one: emptied below that, it makes calls wait."""

    def __init__(self, per_minute: Optional[float], slack: float) -> None:
        self.rate = (per_minute or math.inf) / 60
        self.slack = max(0.0, slack - 1 / self.rate)  # seconds: so long before it is full it holds one
        self.full_at = _now()

    def delay(self, now: float) -> float:
        return max(0.0, self.full_at - self.slack - now)

    def take(self, amount: float) -> None:
        self.full_at = max(self.full_at, _now()) + amount / self.rate


class _Allowance:
    """What a server's headers say of one of its limits: so much is left, and it fills evenly up to its reset."""

    def __init__(self) -> None:
        self.left = self.limit = math.inf
        self.rate, self.at, self.reset_at = 0.0, -math.inf, -math.inf

    def tell(self, left: float, limit: Optional[float], reset: float, rounded: float, since: int, sent: float,
             now: float) -> None:
        """Take what the answer to a request that was `sent` then says.

        With many under way that may be as old as the request: since then it has filled, and so many `since` have taken
        of it.  The reset is `rounded` up by as much as this: the limit may fill faster than it says.
        """
        self._fill(now)
        self.limit, self.reset_at = limit or math.inf, now + reset
        self.rate = max(0.0, limit - left) / max(reset - rounded, 1e-3) if limit else 0.0
        come = self.rate * (now - sent) - since if since else 0.0
        self.left = min(self.left, left + max(0.0, come))

    def _fill(self, now: float) -> None:
        passed, self.at = max(0.0, now - self.at), max(now, self.at)
        full = now >= self.reset_at
        self.left = self.limit if full else min(self.limit, self.left + self.rate * passed)

    def delay(self, amount: float, now: float) -> float:
        """Seconds until there is as much."""
        self._fill(now)
        short = min(amount, self.limit) - self.left
        if short <= 0:
            return 0.0
        return min(self.reset_at - now, short / self.rate if self.rate else math.inf)

    def take(self, amount: float, now: float) -> None:
        self._fill(now)
        self.left = max(0.0, self.left - amount)


def _allowed(headers: Mapping[str, str], name: str) -> Optional[Tuple[float, Optional[float], float, float]]:
    """What is left of a limit, the limit, the seconds until it is full again, and how far these may be rounded up.

    None where a header does not say.
    """
    if not re.match(_REMAINING, name):
        return None
    left, limit = _number(headers.get(name)), _number(headers.get(name.replace("remaining", "limit")))
    told = headers.get(name.replace("remaining", "reset"), "")
    reset = _reset_in(told, _server_now(headers))
    if left is None or reset is None or reset <= 0 or limit == 0:
        return None
    return left, limit, reset, 0.0 if re.search(r"\.|ms|us|ns", told) else 1.0


def _brief(seconds: Any) -> str:
    """A number of seconds as people write it.

        >>> [_brief(seconds) for seconds in (1800.0, 12.5, 0.25, 1 / 3, 0.0001)]
        ['1800', '12.5', '0.25', '0.333', '0.0001']
    """
    return f"{round(seconds, 3) or seconds:.15g}"


_SECONDS = r"(?a)\s*\+?(\d+\.?\d*|\.\d+)\s*"
_DURATION = r"(?a)\s*((?:\d+(?:\.\d*)?|\.\d+)(?:h|ms|m|s|us|\u00b5s|ns))+\s*"
_DURATION_PART = r"(?a)(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|\u00b5s|ns)"
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "ns": 1e-9}
_RFC3339 = r"(?a)(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(\.\d+)?(?:[Zz]|([+-])(\d\d):?(\d\d))"
_REMAINING = r"(?:x-|anthropic-)?ratelimit-(?:remaining(-.+)?|(.+-)remaining)$"
_IN_TEXT = r"(?i)(?:retry|try again) (?:in|after) ((?:[\d.]+(?:h|ms|m|s))+|[\d.]+ ?s(?:ec|econds?)?)\b"


def _retry_after(headers: Mapping[str, str], trouble: _Trouble) -> Optional[float]:
    """Seconds the server asks to wait, or None: zero, negative, past and unreadable asks are no asks."""
    return next((wait for wait in _waits(headers, trouble) if wait and wait > 0), None)


def _waits(headers: Mapping[str, str], trouble: _Trouble) -> Iterator[Optional[float]]:
    """Each way a server has to ask for a wait, the most exact one first."""
    after, now = headers.get("retry-after"), _server_now(headers)
    yield (_number(headers.get("retry-after-ms")) or 0) / 1000
    yield _seconds(after)
    yield (_timestamp(after) or -math.inf) - now
    yield _seconds(trouble.retry_delay)
    found = re.search(_IN_TEXT, trouble.message)
    yield _seconds(found[1].split(" ")[0].rstrip(".")) if found else _reset(headers, now)


def _number(value: Optional[str]) -> Optional[float]:
    """A plain decimal: float() alone would take "nan", "inf", "1_000" and foreign digits."""
    found = re.fullmatch(_SECONDS, value[:40]) if value else None
    return float(found.group(1)) if found else None


def _seconds(value: Optional[str]) -> Optional[float]:
    """Seconds from a decimal or a duration as Go writes it.

        >>> [_seconds(text) for text in ("12.5", "20ms", "1h2m3s", "soon")]
        [12.5, 0.02, 3723.0, None]
    """
    if value and re.fullmatch(_DURATION, value[:60]):
        return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_DURATION_PART, value))
    return _number(value)


def _timestamp(value: Optional[str]) -> Optional[float]:
    """An HTTP-date in any of its three forms."""
    try:
        parts = email.utils.parsedate_tz(value) if value else None
        if parts is None or not 0 < parts[2] < 32:  # the day; mktime_tz takes any
            return None
        return float(email.utils.mktime_tz(parts))
    except (ValueError, OverflowError, TypeError, IndexError):  # what the standard parser raises on odd dates
        return None


def _server_now(headers: Mapping[str, str]) -> float:
    """What a server's times are held against: its own clock, where its `Date` tells it; ours may be minutes off."""
    return _timestamp(headers.get("date")) or _wall()


def _reset(headers: Mapping[str, str], now: float) -> Optional[float]:
    """Seconds until the last of the spent limits is reset: those whose "remaining" header is 0."""
    waits = []
    for name, value in headers.items():
        name = name.lower()
        if re.match(_REMAINING, name) and _number(value) == 0:
            waits.append(_reset_in(headers.get(name.replace("remaining", "reset")), now) or 0.0)
    return max([0.0, *waits]) or None


def _reset_in(value: Optional[str], now: float) -> Optional[float]:
    """A reset header's seconds: a duration, seconds, RFC 3339, or Unix time in seconds or milliseconds."""
    seconds = _seconds(value)
    if seconds is None:
        seconds = _rfc3339(value)
        return None if seconds is None else seconds - now
    if seconds > 1e11:
        return seconds / 1000 - now
    return seconds - now if seconds > 1e8 else seconds


def _rfc3339(value: Optional[str]) -> Optional[float]:
    found = re.fullmatch(_RFC3339, value) if value else None
    if found is None:
        return None
    *parts, fraction, sign, hours, minutes = found.groups()
    try:
        at = calendar.timegm(tuple(int(part) for part in parts)) + float(fraction or 0)
    except ValueError:  # a thirteenth month
        return None
    shift = 3600 * int(hours or 0) + 60 * int(minutes or 0)
    return at + shift if sign == "-" else at - shift


# --------------------------------------------------------------------------------------------------------------- events


class _LineDecoder:
    """Bytes to lines, by the rules for event streams (WHATWG HTML, 9.2.6): CRLF, LF or CR, at once, ends a line."""

    def __init__(self) -> None:
        self._tail: List[bytes] = []
        self._size = 0
        self._after_cr = False
        self._first = True

    def feed(self, piece: bytes) -> List[bytes]:
        if self._after_cr and piece[:1] == b"\n":
            piece = piece[1:]
        last = piece[-1:]
        self._after_cr = last == b"\r"
        lines = piece.splitlines()  # of bytes: at CRLF, LF and CR only, never at U+2028
        ends = last == b"\n" or self._after_cr
        if self._tail and lines and (ends or len(lines) > 1):
            lines[0] = b"".join(self._tail) + lines[0]
            self._tail, self._size = [], 0
        if lines and not ends:
            self._tail.append(lines.pop())
            self._size += len(self._tail[-1])
            if self._size > _MAX_LINE:
                raise _TooLarge(f"a line of over {_MAX_LINE >> 20} MiB")
        if self._first and lines:
            self._first = False
            if lines[0][:3] == b"\xef\xbb\xbf":  # a byte order mark may open the stream
                lines[0] = lines[0][3:]
        return lines


class _EventDecoder:
    """Bytes to server-sent events (WHATWG HTML, 9.2.6), as (name, data, at_end); `_BARE` names bare JSON.

    Beyond the standard: an event the end of the stream cut off is handed on too, with `at_end`, and so is JSON that
    stands between events without "data:" (servers report errors so).  `stray` keeps the start of what is neither.
    `joined` makes data of several lines: the standard has them be one.
    """

    def __init__(self, joined: Callable[[bytes, List[bytes]], Iterable[bytes]] =
                 lambda name, lines: [b"\n".join(lines)]) -> None:
        self.joined = joined
        self.at_end = False
        self.stray = b""

    def decode(self, pieces: Iterable[bytes]) -> Iterator[Tuple[bytes, bytes, bool]]:
        """The events, each as soon as its bytes are here."""
        feed, bare = _LineDecoder().feed, _BareJSON()
        data: List[bytes] = []
        name, size = b"", 0
        for piece in self._to_the_end(pieces):
            for line in feed(piece):
                if line[:6] == b"data: " and not data:
                    data.append(line[6:])
                elif not line:
                    if len(data) == 1:
                        yield name, data.pop(), self.at_end
                    elif data:
                        yield from ((name, one, self.at_end) for one in self.joined(name, data))
                        data = []
                    name, size = b"", 0
                elif line[:6] == b"event:":
                    name = line[6:].strip()
                elif line[:5] == b"data:" or line == b"data":
                    data.append(line[6:] if line[5:6] == b" " else line[5:])
                    size += len(line)
                    if size > _MAX_LINE:
                        raise _TooLarge(f"an event of over {_MAX_LINE >> 20} MiB")
                elif line[:1] != b":" and line.partition(b":")[0] not in (b"id", b"retry", b"event"):
                    found = bare.feed(line)
                    if found is not None:
                        yield _BARE, found, self.at_end
                    self.stray += line[:max(0, 2048 - len(self.stray))]
        if bare.rest():
            yield _BARE, bare.rest(), True

    def _to_the_end(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        yield from pieces
        self.at_end = True
        yield b"\n\n"  # ends the line and the event that the stream's end cut off, if any


def _values_of(name: bytes, lines: List[bytes]) -> List[bytes]:
    """The data of an event of several lines: one value, or, of a proxy that leaves out the blank lines, one a line."""
    data = b"\n".join(lines)
    return [data] if name == b"error" or _json_or(_UNSET, data) is not _UNSET else lines


class _BareJSON:
    """Lines of JSON that stand where a field should, gathered until they parse."""

    def __init__(self) -> None:
        self._lines: List[bytes] = []
        self._size = self._tried = 0

    def feed(self, line: bytes) -> Optional[bytes]:
        """The whole JSON text, when `line` completes it."""
        if not self._lines and line.lstrip()[:1] not in (b"{", b"["):
            return None
        self._lines.append(line)
        self._size += len(line)
        if self._size > _MAX_LINE:
            raise _TooLarge(f"bare lines of over {_MAX_LINE >> 20} MiB")
        if line.rstrip()[-1:] not in (b"}", b"]") or self._tried > _MAX_ERROR:  # bytes: what the tries have cost
            return None
        self._tried += self._size
        text = self.rest()
        try:
            json.loads(text.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return None
        self._lines, self._size, self._tried = [], 0, 0
        return text

    def rest(self) -> bytes:
        return b"\n".join(self._lines)


# -------------------------------------------------------------------------------------------------------------- streams

_Said = Union[str, Event]  # what a chunk says: a plain str is text, by far the most frequent event
_OPENED = Event("opened")  # type: ignore[arg-type]  # none of these three is handed on
_FINISH = Event("finish")  # from parse_event: the finish reason is here
_END = Event("end")  # type: ignore[arg-type]  # from parse_event: the end mark is here
_BARE = b"\0"  # the name _EventDecoder gives to JSON that stands between events
_PINGS = frozenset(("ping", "keepalive", "heartbeat"))  # without what stands between the words
_PLAIN_NAMES = frozenset((b"response.output_text.delta", b"response.function_call_arguments.delta",
                          b"response.reasoning_text.delta", b"response.reasoning_summary_text.delta",
                          b"message", b"message_start", b"content_block_start", b"content_block_delta",
                          b"content_block_stop", b"message_delta", b"message_stop"))  # of events that are plain data
_FRAME = frozenset(("id", "object", "created", "model", "system_fingerprint", "service_tier", "provider", "index",
                    "type", "event"))  # what each chunk of a stream has around what it says


class _Flow:
    """An open stream: its connection, the reply folded so far, its counts.  It holds no reference to its `Stream`."""

    def __init__(self, call: _Call, attempt: _Attempt, answer: _Answer, skip_bad: bool,
                 settle: Callable[[_Attempt], None], break_off: Callable[[_Call, LLMError], None]) -> None:
        self.call, self.attempt, self.answer, self.skip_bad = call, attempt, answer, skip_bad
        self.settle, self.break_off = settle, break_off
        self.body: JSON = {}
        self.pieces = self.events = self.bad = 0
        self.opened = self.finished = self.ended = self.closed = self.left = self.spoke = False
        self.patchy = False  # whether an event was torn, or the end is missing
        self.done: Optional[Response] = None

    def run(self) -> Iterator[Any]:
        """The events; the first is `_OPENED`, once data has come."""
        error: Optional[LLMError] = None
        try:
            yield from self._folded()
            self.done = self.reply()
            self.attempt.empty = _is_empty(self.done)
            _read_schema(self.call, self.done)
            if self.call.cache is not None and not (self.closed or self.patchy):
                self.call.keep(self.call, self.done, _settled(self.body))
        except LLMError as caught:
            error = caught
        except _ErrorInside as caught:
            error = self._error_inside(caught.args[0])
        except _WIRE_ERRORS as caught:
            error = self._broken_off(caught)
        except KeyboardInterrupt as stop:
            _shorten(stop, self.call)
            raise
        finally:  # before the last events: who leaves at "finish" has left nothing behind
            try:
                self._end(error)
            finally:  # Ctrl-C, while that waits or in one of its steps, takes no reply away
                if not self.attempt.is_foreign():  # pragma: no branch: else in forked children
                    self._hand_over(self.attempt)
        try:
            if error is None:
                yield from self._closing()
            elif not self.closed:
                raise error
        finally:
            del error

    def _closing(self) -> Iterator[Any]:
        return _closing_events(self.reply(), self.spoke)

    def leave(self, events: Any) -> None:
        """Close the connection: nobody reads on."""
        self.left = True
        self.cancel()
        with contextlib.suppress(ValueError):  # another thread is inside: it has been woken, and closes
            events.close()

    def _folded(self) -> Iterator[Any]:
        reader, body, decoder, spoke = self.call.reader, self.body, _EventDecoder(self._values), False
        parse_event, mark, count = reader.parse_event, reader.mark, 0
        for name, data, at_end in decoder.decode(self._received()):
            chunk = _plain_chunk(name, data, mark)
            if chunk is None:
                kind, chunk = _classified(name, data, reader)
                if kind != "chunk":
                    self._take(kind, chunk, data, at_end)
                    if self.ended:
                        break
                    continue
            events = parse_event(chunk, body)
            opens = bool(events) or _str(chunk.get("type")) not in reader.opening
            if opens and not events and (_is_hollow(chunk, count > 0) or _is_ping(b"", chunk)):
                continue
            self.events = count = count + 1
            if opens and not self.opened:
                self.opened = True
                yield _OPENED
            for event in events:
                if event is _FINISH:
                    self.finished, self.attempt.idle = True, min(self.attempt.idle or _LINGER, _LINGER)
                elif event is _END:
                    self.ended = True
                else:
                    spoke = True
                    yield event
            if self.ended:
                break
        self.spoke = spoke
        self._check_end(decoder.stray)

    def _check_end(self, stray: bytes) -> None:
        """Raise for a stream that has said nothing at all, or has not come to its end."""
        if not self.events:
            raise _no_answer(self.call, self.answer, "a stream without one event", stray or self._counts().encode())
        if not (self.ended or self.finished):
            raise TruncatedStreamError("stream ended without a finish reason", why=self._counts())

    def _received(self) -> Iterator[bytes]:
        attempt, events = self.attempt, 0
        try:
            for piece in self.answer.pieces():
                self.pieces += 1
                yield piece
                if self.events != events and attempt.idle is not None:  # data has come: wait anew for the next
                    events, attempt.idle_at = self.events, _now() + attempt.idle
        except _WIRE_ERRORS as error:
            if not self.finished:
                raise
            self.patchy = True
            _log.debug("%s %s: the reply is whole, but its end was cut: %s", self.call.provider.name, self.call.model,
                       self.call.quoted(str(error)))

    def _values(self, name: bytes, lines: List[bytes]) -> Iterator[bytes]:
        """What `_values_of` tells: of a million values that are all here, none is handed on after the deadline."""
        for value in _values_of(name, lines):
            if _now() >= self.attempt.deadline_at:
                if self.finished:
                    return
                raise socket.timeout("out of time")
            yield value

    def _take(self, kind: str, said: Any, data: bytes, at_end: bool) -> None:
        """What an event means that is no chunk of the reply."""
        if kind == "end":
            self.ended = self.finished or self.call.reader.done_ends
        elif kind == "error":
            _put({name: said[name] for name in ("usage", "usageMetadata") if name in said}, self.body)
            raise _ErrorInside(said)
        elif kind == "no reply":
            raise _no_answer(self.call, self.answer, said, data)
        elif kind == "torn":
            self._torn(data, at_end)
        elif said:
            self._skip(data, said)

    def _torn(self, data: bytes, at_end: bool) -> None:
        what = "an event cut in two" if at_end else "a torn event"
        if not self.events:
            raise _no_answer(self.call, self.answer, f"a stream that begins with {what}", data)
        if at_end and self.finished:
            return
        if at_end:
            raise TruncatedStreamError("stream ended inside an event", why=self._counts())
        if not self.skip_bad:
            raise StreamError(f"{what} in the stream", why=self._counts(self.call.quoted(data)),
                              hint="Client(skip_bad_events=True) goes on without it")
        self.patchy = True
        self._skip(data, "is torn")

    def _skip(self, data: bytes, why: str) -> None:
        if not self.bad:
            _log.warning("%s %s: skipped an event that %s: %s", self.call.provider.name, self.call.model, why,
                         self.call.quoted(data))
        self.bad += 1

    def _error_inside(self, chunk: JSON) -> LLMError:
        error = _api_error(self.call, None, self.answer.headers, chunk)
        if not self.opened:
            reply = self.reply()
            self.attempt.billed = error.response = reply if reply.usage.total_tokens else None
            return error
        return StreamError(f"the provider broke the stream off with {error.args[0]}", why=self._counts(error.why),
                           last_error=_sealed(error, self.call))

    def _broken_off(self, caught: BaseException) -> LLMError:
        """What ended the reading, as the error it means after (or before) the first event."""
        self.call.check()
        error = _translated(caught, self.call, self.attempt)
        if not self.events:
            return error
        error.why = self._counts(error.why)
        if isinstance(error, (DeadlineExceededError, APITimeoutError)):
            return error
        kind = TruncatedStreamError if any(isinstance(item, _CUT) for item in _chain(caught)) else StreamError
        return kind(str(error.args[0]), why=error.why)

    def _counts(self, why: str = "") -> str:
        """What had come, after why it ended."""
        return (f"{why}{'; ' if why else ''}{self.pieces} chunks, {self.events} events and {self.bad} unreadable ones "
                f"had come in {_now() - self.attempt.started:.1f} s")

    def reply(self) -> Response:
        if self.done is not None:
            return self.done
        reply = self.call.reader.parse(_settled(self.body))
        calls = reply.tool_calls
        if calls and reply.finish_reason is None and (calls[-1].invalid or not calls[-1].raw_arguments):
            calls[-1] = _cut(calls[-1], "the stream ended inside it")
        return _completed(reply, self.call, self.answer)

    def text(self) -> str:
        """The text so far, without what else a reply has: it may be asked for at each piece."""
        return self.call.reader.text(self.body)

    def cancel(self) -> None:
        """Wake a thread that waits for the next bytes; it finds the stream at its end."""
        attempt = self.attempt
        if not attempt.is_foreign():  # pragma: no branch: else in forked children
            with attempt.lock:
                if not attempt.ended:
                    self.closed = True
                    if attempt.wire is not None:
                        attempt.wire.cut()

    def _end(self, error: Optional[LLMError]) -> None:
        """Settle the attempt, once, whichever way the stream ended, and tell the client what broke it off."""
        attempt = self.attempt
        if attempt.is_foreign():  # pragma: no cover: in forked children
            attempt.ended = True  # the connection stays open in the parent, and is neither read nor counted here
            if attempt.wire is not None:
                attempt.wire.leave()
            return
        if self.ended or self.finished:
            self.answer.drain()
        self._hand_over(attempt)
        if error is None:
            _log_reply(self.call, self.reply())
        elif self.opened and not self.closed:  # close() is no failure; before it says anything the client tries again
            error.response = self.reply()
            self.break_off(self.call, error)
        elif self.events and not isinstance(error, APIError):  # it had begun: only what a server tells is tried again
            error.response, error._kind = self.reply(), ""

    def _hand_over(self, attempt: _Attempt) -> None:
        """What has come is the reply, and what is billed; what was done before is not done again."""
        if not attempt.ended:
            self.done = self.reply()
            if attempt.billed is not None:
                attempt.billed = self.done
        self.settle(attempt)


class _AnyFlow(_Flow):
    """The open answer to a request of the user's own: its pieces, or its events."""

    by_event: Optional[bool] = None  # None: nobody has read it
    complete = kept = False
    broken: Optional[_Broken] = None

    def whole(self, pieces: Iterator[bytes]) -> bytes:
        """All of a body, if nobody closes it before."""
        self.kept = True
        content = b"".join(pieces)
        if self.left:
            raise RuntimeError("this answer was closed before all of it was read")
        return content

    def _as_one(self) -> Iterator[bytes]:
        """The body in one piece, read as that of an answer which was not to stream."""
        content = b"".join(self._as_pieces())
        body = _value_of(content)
        if _holds_error(body, self.call.reader):
            raise _ErrorInside(_dict(body[0] if isinstance(body, list) else body))
        told, self.broken = _looked_into(content, body, self.call, self.answer)
        self.body.update(told)
        yield content

    def told(self) -> JSON:
        """What is known by the head."""
        call, answer = self.call, self.answer
        return {"status_code": answer.status, "headers": answer.headers, "request_id": _request_id(answer.headers),
                "attempts": call.attempts, "elapsed": _now() - call.started}

    def _folded(self) -> Iterator[Any]:
        self.opened = True
        yield _OPENED
        if self.attempt.idle is not None:  # a pause before the first piece is the reader's
            self.attempt.idle_at = _now() + self.attempt.idle
        yield from self._as_events() if self.by_event else self._as_one() if self.kept else self._as_pieces()
        self.complete = True

    def _as_pieces(self) -> Iterator[bytes]:
        for piece in self._received():
            self.events += 1
            yield piece

    def _as_events(self) -> Iterator[ServerSentEvent]:
        decoder = _EventDecoder()
        for type_, data in _plain_events(decoder, self._received()):
            self.events += 1
            error = _error_of(type_, data, self.call.reader)
            if error is not None:
                raise _ErrorInside(error)
            _fold_usage(data, self.body)
            yield ServerSentEvent(type_, data)
        self.ended = True  # nothing is read after the end mark
        if not self.events and decoder.stray:
            raise _no_answer(self.call, self.answer, "a stream without one event", decoder.stray)

    def _closing(self) -> Iterator[Any]:
        return iter(())

    def _counts(self, why: str = "") -> str:
        return f"{why}{'; ' if why else ''}{self.pieces} chunks had come in {_now() - self.attempt.started:.1f} s"


class _TurnFlow:
    """The stream of a conversation's turn: a stream for each round, the functions run between."""

    turn: _Turn

    def __init__(self, conversation: Conversation, content: Any, options: JSON, keep_partial: bool) -> None:
        self.conversation, self.content, self.options, self.keep_partial = conversation, content, options, keep_partial
        self.inner: Any = None  # the stream of the round
        self.pending = self.left = False  # whether what it said is not yet answered; whether nobody reads on
        self.answered = 0  # how long the history of whole rounds is
        self.said, self.events, self.stop = "", 0, _Stop()

    @property
    def call(self) -> _Call:
        call: _Call = self.inner._flow.call
        return call

    def run(self) -> Iterator[Any]:
        """The events of all rounds; "finish" is the last one's.  Before that, the turn is in the history."""
        closing: List[Event] = []
        alone = _Alone(self.conversation._running)
        with alone, alone:
            self.turn = _Turn(self.conversation, "stream", self.content, self.options)
            self.answered, started = self.turn.begun, _now()
            try:
                closing = yield from self._rounds()
            except LLMError as error:
                _tell_of_all(error, self.turn.rounds.replies, self.turn.rounds.last, started)
                raise
            except _Stopped:  # close() came while a round was asked for
                pass
            finally:
                self._end(bool(closing))
        yield from closing

    def _rounds(self) -> Generator[Any, None, List[Event]]:
        """The events of the rounds, up to those that close the last; these are returned, none if it was closed."""
        rounds = self.turn.rounds
        while True:
            self._open()
            closing = yield from self._round()
            if not closing or self.left:
                return []
            if not rounds.goes_on(self.inner.response):
                self.turn.keep()
                return closing
            yield from closing[:-1]
            rounds.answer()
            self.pending, self.answered, self.said = False, len(rounds.history), self.text()

    def _open(self) -> None:
        """Ask for the next round; who closes the stream meanwhile ends that."""
        turn, token = self.turn, _STOP.set(self.stop)
        try:
            self.inner = turn.rounds.client.stream(
                turn.rounds.history, tools=turn.rounds.declared, deadline=turn.rounds.until,  # type: ignore[arg-type]
                **turn.options)
            self.pending = True
        finally:
            _STOP.reset(token)
            self.stop.attempts.clear()  # from here on the stream itself can be closed
        if self.left:
            self.inner.close()

    def _round(self) -> Generator[Any, None, List[Event]]:
        if not self.turn.rounds.replies:
            yield _OPENED
        for event in self.inner._events:
            if type(event) is Event and event.type not in ("text", "reasoning"):
                return [event, *self.inner._events]
            self.events += 1
            yield event
        return []

    def _end(self, well: bool) -> None:
        if self.inner is not None:
            self.inner.close()
        if self.keep_partial and not well:
            self.turn.keep_part(self.answered, self.inner.response if self.pending else None)

    def reply(self) -> Response:
        reply: Response = self.inner.response
        return reply

    def text(self) -> str:
        return self.said + (self.inner.text if self.pending else "")

    def leave(self, events: Any) -> None:
        self.left = True
        self.inner.close()
        self.stop()
        with contextlib.suppress(ValueError):  # another thread is inside
            events.close()


def _error_of(type_: str, data: str, reader: _Reader) -> Optional[JSON]:
    """The error that an event is, or None."""
    body = _dict(_json_or(None, data.encode())) if type_ == "error" or '"error"' in data else {}
    if type_ == "error" or _holds_error(body, reader):
        return body if "error" in body else {"error": body or data}
    return None


def _plain_events(decoder: _EventDecoder, pieces: Iterator[bytes]) -> Iterator[Tuple[str, str]]:
    """The events of a body, as (type, data), up to the end mark."""
    for name, data, at_end in decoder.decode(pieces):
        if at_end and data[:1] in (b"{", b"[") and _json_or(_UNSET, data) is _UNSET:
            raise TruncatedStreamError("stream ended inside an event", why=_quoted(data))
        text = data.decode("utf-8", "replace")
        if text.strip() == "[DONE]":
            return
        yield "message" if name in (b"", _BARE) else name.decode("utf-8", "replace"), text


def _plain_chunk(name: bytes, data: bytes, mark: str) -> Optional[JSON]:
    """The chunk that an event holds, if it is the usual one; of any other `_classified` tells what it is."""
    try:
        text = data.decode()
        chunk, end = _scan_json(text, 0)
    except (ValueError, StopIteration, RecursionError):
        return None
    if (type(chunk) is dict and mark in chunk and "error" not in chunk and end == len(text)
            and (not name or name in _PLAIN_NAMES) and (end <= _LARGE or _is_shallow(data))):
        return chunk
    return None


def _classified(name: bytes, data: bytes, reader: _Reader) -> Tuple[str, Any]:
    """What an event of a stream is, and what it says: a chunk, an error, the end mark, or nothing of the reply.

    The kinds: ("chunk", dict), ("error", dict), ("end", None), ("torn", None), ("skip", why, or "" for a mere sign of
    life), ("no reply", what a body is that is none).

        >>> _classified(b"", b'{"choices": []}', _OpenAI())
        ('chunk', {'choices': []})
        >>> _classified(b"", b"[DONE]", _OpenAI())
        ('end', None)
        >>> _classified(b"error", b"no room", _OpenAI())
        ('error', {'error': 'no room'})
    """
    data = data.strip()
    chunk = _json_or(_UNSET, data)
    if data.startswith(b"[DONE]"):
        return "end", None
    if chunk is _UNSET and name == b"error":
        return "error", {"error": data.decode("utf-8", "replace")}
    if chunk is _UNSET:
        return ("torn", None) if data[:1] in (b"{", b"[") else ("skip", "is no JSON" if data else "")
    if type(chunk) is list and chunk:
        chunk = chunk[0]
    if type(chunk) is not dict:
        return "skip", "" if chunk is None else "is no JSON object"
    if _is_ping(name, chunk) and not chunk.get("error"):
        return "skip", ""
    if name == b"error" and "error" not in chunk:
        chunk = {"error": chunk}
    if _holds_error(chunk, reader):
        return "error", chunk
    return _whole(chunk, reader) if name == _BARE else ("chunk", chunk)


def _whole(body: JSON, reader: _Reader) -> Tuple[str, Any]:
    """What JSON is that came where a stream was asked for: the chunk that holds it all, or no reply."""
    if not reader.answers(body):
        return "skip", ""
    try:
        reader.check(body)
        return "chunk", body
    except ResponseError as error:
        return "no reply", str(error.args[0])


def _is_ping(name: bytes, chunk: JSON) -> bool:
    """Whether an event is named as a mere sign of life, wherever servers put names."""
    names = (name.decode("latin-1"), *(_str(chunk.get(key)) for key in ("type", "event", "object")), *list(chunk)[:1])
    return any(re.sub("[-_]", "", each).lower() in _PINGS for each in names)


def _is_hollow(value: Any, begun: bool, depth: int = 8) -> bool:
    """Whether JSON holds nothing but its frame: with such, too, some servers keep a connection alive."""
    if type(value) is list:
        return depth > 0 and all(_is_hollow(item, begun, depth - 1) for item in value)
    return depth > 0 and all(key in _FRAME or key == "role" and begun or _is_hollow(item, begun, depth - 1)
                             for key, item in value.items()) if type(value) is dict else not value


def _closing_events(reply: Response, spoke: bool) -> Iterator[_Said]:
    if reply.text and not spoke:  # a server whose only choice is not the first
        yield reply.text
    yield from (Event("tool_call", tool_call=call) for call in reply.tool_calls)
    yield Event("usage", usage=reply.usage)
    yield Event("finish", usage=reply.usage, finish_reason=reply.finish_reason)


# -------------------------------------------------------------------------------------------------------- private names

# All that is touched of other packages without a promise of theirs: whose, which names, what for, what comes without.
_PRIVATE = (
    ("distributed.cfexecutor.ClientExecutor", "_client", "workers hear that a map is closed", "calls are cancelled"),
    ("http.client.HTTPConnection", "response_class", "an answer is read through a wire", "it is asked for in a thread"),
    ("http.client.HTTPConnection", "sock", "the time to send is bounded by itself", "by the connect timeout"),
    ("http.client.HTTPResponse", "fp", "the file that a body comes through", "each read is in a thread"),
    ("http.client.HTTPResponse", "begin _read_status chunked chunk_left length will_close",
     "a head is read without the email parser", "http.client reads it, which is dearer"),
    ("email.message.Message", "set_raw", "a head's fields are put in", "http.client reads the head"),
    ("json.JSONDecoder", "scan_once", "a chunk is read without a look for white space", "raw_decode looks for it"),
    ("os.environ", "_data", "whether the environment has changed is seen at a glance", "it is read name by name"),
    ("requests.Response", "_content _content_consumed", "whether a hook has read the body", "it counts as empty"),
    ("socket.SocketIO", "_sock", "the socket that a user's session reads a body from", "each read is in a thread"),
    ("urllib3.connection", "CertificateError", "which error another host's certificate is", "ssl's own is"),
    ("urllib3.connection.HTTPConnection", "_dns_host", "a host's name with its final dot", "without the dot"),
    ("urllib3.connection.HTTPConnection", "_new_conn", "an address after the other is tried, each within the limits",
     "all is sent in a thread"),
    ("urllib3.connectionpool.HTTPConnectionPool", "ConnectionCls", "connections are ours", "all is sent in a thread"),
    ("urllib3.connectionpool.HTTPConnectionPool", "QueueCls", "idle connections wait for no lock", "urllib3's own do"),
    ("urllib3.contrib.socks.SOCKSConnection", "_socks_options", "the proxy's greeting keeps to the limits",
     "it is in a thread"),
    ("urllib3.poolmanager", "pool_classes_by_scheme", "pools are ours", "all is sent in a thread"),
    ("urllib3.response.HTTPResponse", "_fp", "http.client's response under urllib3's", "each read is in a thread"),
    ("urllib3.util.connection", "create_connection", "whether somebody else says where names lead",
     "a connection is opened in a thread"),
)


# ------------------------------------------------------------------------------------------------------------ transport


class _TooLarge(Exception):
    """A line, head or body over its limit."""


class _Cut(Exception):
    """The body ended before its framing said it would."""


class _Hooked(OSError):
    """A response hook of the user's session failed: the request has been answered."""


class _Foreign(Exception):
    """A forked child reads from its parent's connection."""


_UNSENT = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError, ssl.SSLError,
           urllib3.exceptions.SSLError, urllib3.exceptions.ProxyError, urllib3.exceptions.ClosedPoolError)
_CUT = (_Cut, http.client.IncompleteRead)
_LOST = (ConnectionError, http.client.BadStatusLine, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_WIRE_ERRORS = (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError, zlib.error, _TooLarge, _Cut,
                _Foreign)

# The attempt that the current thread (or greenlet, whenever patched in) is at: how a connection learns its limits.
_CURRENT: ContextVar[Optional[_Attempt]] = ContextVar("llmlite attempt", default=None)


class _Transport:
    """Sends requests, over a session of its own or the user's; one for each process.

    A session asks its adapter, that urllib3's pool, that a connection, that a socket.  Of the way of our own session
    the last three keep to an attempt's limits: `_Pool` hands out `_Connection`s, these are opened address by address,
    send within what is left of the time, and have head and body read through a `_Wire`.  Of a user's session only the
    body is: `_reader` puts a wire under it.  Where our own session has been before, an idle connection of its pool is
    asked straight away: `_send_again`.
    """

    def __init__(self, session: Optional[requests.Session], policy: Optional[RetryPolicy],
                 parents: Sequence[_Transport]) -> None:
        self._roads: Dict[Any, Tuple[Any, str]] = {}
        self._environment: Tuple[Any, object] = None, None
        self._own = session is None
        self._session = requests.Session() if session is None else session
        for parent in parents:  # pragma: no cover: in forked children
            parent.forget()
        if self._own:
            retries = _Reconnect(total=None, connect=policy.connect_retries if policy else 0, read=0, redirect=0,
                                 status=0, other=0, backoff_factor=0, respect_retry_after_header=False)
            for prefix, adapter in list(self._session.adapters.items()):
                if type(adapter) is HTTPAdapter:  # else it is somebody else's
                    self._session.mount(prefix, _Adapter(retries))
            self._session.headers.clear()
            self._session.get_redirect_target = lambda response: None  # type: ignore  # else it reads the body first
            self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
            self._finalizer = weakref.finalize(self, _close_in, _Process.here, self._session, self._roads)

    def forget(self) -> None:  # pragma: no cover: in forked children
        """Let go of a parent's connections."""
        if self._own:
            self._finalizer.detach()
        self._roads.clear()
        for adapter in self._session.adapters.values():
            if isinstance(adapter, HTTPAdapter):
                adapter.__setstate__(adapter.__getstate__())  # new pools: the old ones hold the parent's sockets

    def close(self) -> None:
        """Close the pooled connections, where the session is our own."""
        self._environment = None, None  # a call that is under way leaves no road behind
        if self._own:
            _close_in(_Process.here, self._session, self._roads)

    def send(self, call: _Call, attempt: _Attempt) -> _Answer:
        """Send one request; the answer's head is here when this returns."""
        headers = _request_headers(call)
        is_usual = (self._own and call.upload is None and not _replaces_ours(call, headers)
                    and _is_untouched(self._session))
        asked = (call.method, call.url, self._era()) if is_usual else None
        road = self._roads.get(asked)
        attempt.left(None)
        token = _CURRENT.set(attempt)
        try:
            again = road and _send_again(*road, call, attempt, headers)
            attempt.answer = answer = again or self._send_anew(call, attempt, headers)
        except (OSError, urllib3.exceptions.HTTPError) as error:
            if attempt.sent is None:
                attempt.sent = not any(isinstance(item, _UNSENT) for item in _chain(error))
            raise
        finally:
            _CURRENT.reset(token)
            if asked is not None and asked[2] is self._environment[1] and attempt.pool is not None and attempt.start:
                if len(self._roads) >= _MAX_ROADS:
                    self._roads.clear()
                self._roads[asked] = attempt.pool, attempt.start
            attempt.pool = None
        if _log.isEnabledFor(logging.DEBUG):
            _log_head(call, attempt, answer)
        return answer

    def _era(self) -> object:
        """Another object whenever what names proxies and certificates has changed: the environment, or the system."""
        environment = getattr(os.environ, "_data", os.environ)
        system = urllib.request.getproxies() if sys.platform in ("darwin", "win32") else None
        known, era = self._environment
        if (environment, system) != known:
            era = object()
            self._environment = (dict(environment), system), era
        return era

    def _send_anew(self, call: _Call, attempt: _Attempt, headers: Dict[str, str]) -> _Answer:
        """Send through all of requests; a user's session has settings, an adapter and hooks of its own."""
        session = self._session
        auth = session.auth or (lambda request: request)  # an auth of any kind keeps ~/.netrc from replacing the key
        body = call.payload if call.upload is None else call.upload
        asked = requests.Request(call.method, call.url, headers, data=body, auth=auth)
        request, came = session.prepare_request(asked), []

        def look(response: requests.Response, **_: Any) -> None:
            """The first hook: what others read of the body, and requests does of a redirect, keeps to the limits."""
            came.append(response)
            _reader(getattr(response.raw, "_fp", None), attempt)

        hooks: List[Any] = request.hooks["response"]
        hooks.insert(0, look)
        call.trusts_env = session.trust_env
        timeout, settings = (attempt.left(call.connect), attempt.left(call.read)), _session_settings(session, call.url)
        send = functools.partial(session.send, request, timeout=timeout, allow_redirects=False, **settings)
        try:
            response = _in_time(attempt, send) if self._own and not _can_bind() else send()
        except OSError as error:
            if isinstance(error, requests.HTTPError) and error.response is not None:
                response = error.response  # a hook calls raise_for_status(): it is an answer all the same
            elif not came or len(hooks) < 2:
                raise
            else:
                came[0].close()
                raise _Hooked(f"{type(error).__name__}: {error}") from error
        except ValueError:
            if not came or len(hooks) > 1:
                raise
            response = came[0]  # a redirect, to what requests cannot read
        finally:
            came.clear()  # it refers back
        return _Answer(attempt, response.raw, response.status_code, response.headers, response)


def _send_again(pool: Any, start: str, call: _Call, attempt: _Attempt, headers: Dict[str, str]) -> Optional[_Answer]:
    """Ask over an idle connection as urllib3 has asked before, without requests and urllib3; None: there is none."""
    connection = pool.idle()
    if connection is None:
        return None
    payload = call.payload or b""
    if call.payload is not None:
        headers["Content-Length"] = str(len(payload))
    exchange = _Exchange(pool, connection)
    try:
        head = "\r\n".join((start, *map(": ".join, headers.items()), "", "")).encode("latin-1")
        response = exchange.ask(attempt, head, payload)
    except BaseException:
        exchange.close()
        raise
    merged: Any = requests.structures.CaseInsensitiveDict()
    for name, value in response.headers.items():
        merged[name] = f"{merged[name]}, {value}" if name in merged else value
    return _Answer(attempt, exchange, response.status, merged)


def _replaces_ours(call: _Call, headers: Dict[str, str]) -> bool:
    """Whether the user gives, or takes away, headers that requests and urllib3 write themselves."""
    return bool(call.headers) and (not {"content-length", "host", "transfer-encoding"}.isdisjoint(
        map(str.lower, call.headers)) or urllib3.util.SKIP_HEADER in headers.values())


class _Exchange:
    """A request and its answer over a connection that a pool had idle; it stands where urllib3's response would."""

    def __init__(self, pool: Any, connection: Any) -> None:
        self._pool, self._connection = pool, connection
        self._fp: Optional[http.client.HTTPResponse] = None

    def ask(self, attempt: _Attempt, head: bytes, payload: bytes) -> http.client.HTTPResponse:
        """Send a request, and read the head of its answer."""
        connection = self._connection
        with contextlib.suppress(BrokenPipeError):  # it may have answered already
            connection.send(head)
            if payload:
                connection.send(payload)
        response: http.client.HTTPResponse = connection.response_class(connection.sock, method=attempt.call.method)
        self._fp = response
        response.begin()
        if response.will_close:
            connection.close()  # the response goes on reading
        return response

    def release_conn(self) -> None:
        self._pool.put_back(self._connection)

    def close(self) -> None:
        if self._fp is not None:
            self._fp.close()
        self._connection.close()
        self.release_conn()


def _close_in(process: object, session: requests.Session, roads: Dict[Any, Tuple[Any, str]]) -> None:
    """Close a session in the process that made it: in a forked child its locks may be held for ever."""
    if process is _Process.look():  # pragma: no branch: else in forked children
        pools = [pool for pool, _ in list(roads.values())]
        roads.clear()
        session.close()  # which forgets its pools: whoever finds one closed gets another
        for pool in pools:
            pool.close()  # else a reply that somebody holds keeps it open


def _is_own(function: Any, *packages: str) -> bool:
    """Whether a function is a package's own: else a tracer, a mock or a cache has put itself there, to be asked."""
    return type(function) is FunctionType and function.__globals__.get("__package__") in packages


@functools.lru_cache(maxsize=4, typed=True)  # by type: wrapt's wrappers say that they equal what they wrap
def _are_own(*steps: Any) -> bool:
    return all(_is_own(step, requests.__name__, urllib3.__name__, "http") for step in steps)


_PLAIN_SESSION = requests.Session  # as it was at the import

# What asking over an idle connection leaves out of requests, urllib3 and http.client, two or more steps of each owner.
# Their classes for TLS have all that the plain ones have.
_STEPS = [(owner, operator.attrgetter(*(name for name in names.split() if hasattr(owner, name)))) for owner, names in (
    (requests.sessions, "dispatch_hook merge_cookies"),
    (_PLAIN_SESSION, "__init__ send get_adapter prepare_request merge_environment_settings"),
    (requests.PreparedRequest, "prepare prepare_method prepare_url prepare_headers prepare_cookies prepare_body "
     "prepare_content_length prepare_auth prepare_hooks"),
    (requests.Response, "__init__ close"),
    (HTTPAdapter, "send add_headers cert_verify build_response request_url build_connection_pool_key_attributes "
     "get_connection_with_tls_context get_connection"),
    (urllib3.PoolManager, "connection_from_host connection_from_pool_key connection_from_url"),
    (urllib3.HTTPSConnectionPool, "urlopen _make_request _get_conn _put_conn _validate_conn"),
    (urllib3.connection.HTTPSConnection, "request putrequest putheader endheaders send getresponse"),
    (http.client.HTTPConnection, "request putrequest putheader endheaders send getresponse _send_output"),
    (urllib3.HTTPResponse, "__init__ close"))]


def _is_untouched(session: requests.Session) -> bool:
    """Whether nobody has put himself between our session and the socket, before the import or after it."""
    try:
        return type(session) is _PLAIN_SESSION and _are_own(
            *itertools.chain.from_iterable([steps(owner) for owner, steps in _STEPS]))
    except TypeError:  # one that has no hash is nobody's own either
        return False


def _session_settings(session: requests.Session, url: str) -> JSON:
    """Proxies and certificates from the environment, as requests finds them; SSL_CERT_FILE besides."""
    settings: JSON = dict(session.merge_environment_settings(url, {}, True, None, None))
    if settings["verify"] is True and session.trust_env:
        settings["verify"] = os.environ.get("SSL_CERT_FILE") or True
    bundle = settings["verify"]
    if isinstance(bundle, str) and url.startswith("https") and not os.path.exists(bundle):
        raise ConfigurationError(f"no certificate authorities at {bundle}",
                                 hint="REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE or session.verify names it")
    return settings


def _request_headers(call: _Call) -> Dict[str, str]:
    """The headers of a request: ours, the key's, then the user's; theirs replace ours whatever their case."""
    headers: Dict[str, Optional[str]] = {
        "User-Agent": f"llmlite/{__version__}", "Accept-Encoding": "gzip, deflate",
        "Accept": call.reader.accept or ("text/event-stream" if call.streams else "application/json")}
    if call.kind and call.payload is not None:
        headers["Content-Type"] = call.kind
    headers.update(call.key_headers(call.key))
    headers = _with_headers(headers, call.headers)
    skipped = {name: urllib3.util.SKIP_HEADER for name, value in headers.items()
               if value is None and name.lower() in ("user-agent", "accept-encoding")}  # urllib3 would add its own
    return {**{name: value.strip() for name, value in headers.items() if value is not None}, **skipped}


def _with_headers(headers: Dict[str, Optional[str]], more: Dict[str, Optional[str]]) -> Dict[str, Optional[str]]:
    """Headers with others put in, which replace those of the same name whatever its case."""
    if not more:
        return headers
    theirs = {name.lower(): (name, value) for name, value in more.items()}  # of two that differ in case, the last
    return {**{name: value for name, value in headers.items() if name.lower() not in theirs}, **dict(theirs.values())}


class _Answer:
    """An answer whose head is here and whose body is still on the wire."""

    def __init__(self, attempt: _Attempt, raw: Any, status: int, headers: Any,
                 response: Any = None) -> None:
        self._attempt, self._raw, self._response = attempt, raw, response  # requests', where it was asked
        self.most: float = _MAX_BODY  # bytes of the body, decoded
        if status < 300:
            attempt.billed = SimpleNamespace(usage=_NO_USAGE, model=attempt.call.model)  # until it has said more
        self.status = attempt.status = status
        self.headers = headers
        consumed = getattr(response, "_content", False) is not False or getattr(response, "_content_consumed", False)
        self._body = None if consumed else _body(raw, status, attempt)

    def pieces(self) -> Iterator[bytes]:
        """The body, decoded, each piece as soon as its bytes are here, on any framing."""
        total = 0
        for piece in self._decoded():
            total += len(piece)
            if total > self.most:
                raise _TooLarge(f"a body of over {_MAX_BODY >> 20} MiB")
            self._attempt.left(None)
            yield piece

    def _decoded(self) -> Iterable[bytes]:
        if self._body is not None:
            encoding, pieces = self.headers.get("content-encoding", "").strip().lower(), iter(self._body.read, b"")
            return _inflated(pieces, encoding) if encoding else pieces
        if getattr(self._response, "_content", False) is not False:  # by a hook of the session
            return requests.utils.iter_slices(self._response.content, _PIECE)
        return self._response.iter_content(_PIECE)  # type: ignore[no-any-return]

    def read(self) -> bytes:
        """The body; of an error, or of what begins as one, the first MiB, for it may be without end."""
        body, enough = bytearray(), _MAX_ERROR
        try:
            for piece in self.pieces():
                body += piece
                if len(body) > enough:
                    if self.status >= 300 or _holds_error(_begun(bytes(body[:_PIECE])), self._attempt.call.reader):
                        break
                    enough = _MAX_BODY
        except _WIRE_ERRORS:
            if self.status < 300:
                raise
            # what is missing of an error's body must not hide the error
        return bytes(body)

    def drain(self) -> None:
        """Read what is left of a finished answer, if it comes at once: then the connection can be used again."""
        body, attempt = self._body, self._attempt
        if body is None or body.whole:
            return
        attempt.idle_at = min(attempt.idle_at, _now() + _DRAIN)
        with contextlib.suppress(*_WIRE_ERRORS):
            while body.read():
                pass

    def release(self) -> None:
        """Hand the connection back if the answer was read to its end, else close it."""
        if self._body is not None and self._body.whole:
            self._raw._fp.close()
            self._raw.release_conn()
        else:
            (self._raw if self._response is None else self._response).close()


def _body(raw: Any, status: int, attempt: _Attempt) -> Union[None, _Body, _Hidden]:
    """The body under urllib3's response; None: a mock's, a cassette's or a cache's, which is no wire's."""
    response = getattr(raw, "_fp", _UNSET)
    if response is not _UNSET and not isinstance(response, http.client.HTTPResponse):
        return None
    reader = _reader(response, attempt)
    if reader is not None:
        return _Body(reader, *_framing(response.headers, status, attempt.call.method))
    is_hidden = getattr(response, "fp", _UNSET) is not None and isinstance(raw, urllib3.HTTPResponse)
    return _Hidden(raw, attempt) if is_hidden else None


def _reader(response: Any, attempt: _Attempt) -> Any:
    """What an http.client response reads its body from, kept to the attempt's limits; None: out of reach."""
    reader = getattr(response, "fp", None)
    raw = getattr(reader, "raw", None)
    if isinstance(raw, _Wire) or isinstance(getattr(getattr(raw, "readinto", None), "__self__", None), _Wire):
        return reader
    sock = getattr(raw, "_sock", None)
    if raw is None or sock is None:
        return None
    attempt.wire = _Wire(sock, attempt, in_head=False)
    raw.readinto = attempt.wire.readinto  # somebody else's connection too keeps to the limits
    return reader


def _framing(headers: Any, status: int, method: str) -> Tuple[bool, Optional[int]]:
    """Whether a body comes in chunks, and its length where that is told (RFC 9112, 6.3)."""
    if status in (101, 204, 304) or method == "HEAD":
        return False, 0
    length = headers.get("content-length", "")
    chunked = headers.get("transfer-encoding", "").lower() == "chunked"
    return chunked, int(length) if not chunked and re.fullmatch("[0-9]{1,18}", length) else None


class _Body:
    """A body as its framing has it (RFC 9112, 6 and 7), each piece as soon as its bytes are here."""

    def __init__(self, source: io.BufferedReader, chunked: bool, length: Optional[int]) -> None:
        self._source, self._chunked = source, chunked
        self._left = 0 if chunked else length  # bytes still to come, of a chunk or of all; None: up to the end
        self._rest = b"\r\n"  # as after a chunk
        self._ended = False
        self.whole = False  # it ended as it should, and nothing came after it: its connection can be used again

    def read(self) -> bytes:
        """What is here; nothing at the end."""
        return b"" if self._ended else self._read_chunks() if self._chunked else self._read_plain()

    def _read_plain(self) -> bytes:
        left = self._left
        if left is not None and left <= 0:
            self._ended, self.whole = True, left == 0
            return b""
        piece = self._source.read1(_PIECE)
        if left is None:
            self._ended = self.whole = not piece
            return piece
        if not piece:
            raise _Cut(f"{left} bytes of the body are missing")
        self._left = left - len(piece)  # below zero where more has come
        return piece[:left]

    def _read_chunks(self) -> bytes:
        """All chunks that are here, at once: one after the other they cost half as much again."""
        piece = b""
        while not piece and not self._ended:
            if self._left == -1:
                raise _Cut("a chunk's size cannot be read")
            came = self._source.read1(_PIECE)
            rest = self._rest + came
            if self._left is not None:
                if not came:
                    raise _Cut("the last chunk is missing")
                piece, rest, self._left = _unchunked(rest, self._left)
            end = re.search(_TRAILERS_END, rest) if self._left is None else None
            self._ended, self.whole = not came or end is not None, end is not None and end.end() == len(rest)
            if len(rest) > _MAX_HEADER and not self._ended:
                raise http.client.LineTooLong("chunk size or trailer")
            self._rest = rest
        return piece


_CHUNK_SIZE = rb"\r?\n[ \t]*([0-9a-fA-F]{1,16})[ \t]*(?:;[^\n]*)?\r?\n"  # after the end of the one before
_TRAILERS_END = rb"\A\r?\n|\n\r?\n"  # an empty line


def _unchunked(data: bytes, left: int) -> Tuple[bytes, bytes, Optional[int]]:
    """What `data` has of chunks, what it has after them, and what of the last is missing.

    None: there are no more; -1: what follows is no chunk.
    """
    pieces, end, size_at = [data[:left]], left, re.compile(_CHUNK_SIZE).match
    while end < len(data):
        size = size_at(data, end)
        if size is None:
            if b"\n" in data[end:].lstrip(b"\r\n"):  # a whole line, and no size
                return b"".join(pieces), data[end:], -1
            break
        start = size.end()
        end = start + int(size[1], 16)
        if end == start:
            return b"".join(pieces), data[start:], None
        pieces.append(data[start:end])
    return b"".join(pieces), data[end:], max(0, end - len(data))


class _Hidden:
    """A body whose socket is out of reach: each read is in a thread, for a drip would hold it for ever."""

    whole = False  # its connection is not used again
    received = 0  # nobody knows

    def __init__(self, raw: Any, attempt: _Attempt) -> None:
        self._raw, self._attempt = raw, attempt
        attempt.wire = attempt.wire or self

    def read(self) -> bytes:
        """What is here; nothing at the end."""
        piece: bytes = _in_time(self._attempt, functools.partial(self._raw.read1, _PIECE, decode_content=False))
        return piece

    def cut(self) -> None:
        """End the reads of whichever thread is inside one."""
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # it is closed already
            self._raw.shutdown()

    def leave(self) -> None:  # pragma: no cover: in forked children
        """A parent's connection cannot be left by itself."""


def _inflated(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Undo a Content-Encoding: gzip (RFC 1952, several members too) or deflate (zlib's or raw)."""
    if encoding == "identity":
        yield from pieces
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise zlib.error(f"Content-Encoding {encoding!r} was not asked for")
    inflater: Any = None
    padding = b""
    for piece in pieces:
        piece = piece if inflater else piece.lstrip(padding)
        while piece:
            if inflater is None:
                raw = encoding == "deflate" and piece[0] & 15 != 8  # zlib's first byte names the method, 8
                inflater = zlib.decompressobj(-15 if raw else 47)
            out = inflater.decompress(piece, _PIECE)  # no more: between two pieces somebody looks at the clock
            if out:
                yield out
            piece = inflater.unconsumed_tail
            if inflater.eof:
                padding = b"\0"  # what some writers fill the rest of a block with
                piece, inflater = inflater.unused_data.lstrip(padding), None
    if inflater is not None:
        yield inflater.flush()
        if not inflater.eof:
            raise _Cut("the compressed body stops in the middle")


# urllib3's own for another host's certificate
_CertificateError: Any = getattr(urllib3.connection, "CertificateError", ssl.SSLCertVerificationError)
_CERTIFICATE_HINTS = (  # what mends it depends on what is wrong with it
    ("has expired|not yet valid", "it must be renewed there, or the clock of this machine is wrong"),
    ("mismatch|doesn't match", "it is for another host: check the base URL"),
    ("self.signed|unable to get local issuer", "REQUESTS_CA_BUNDLE or SSL_CERT_FILE names a file with the authorities "
     "to trust: the server's own, or those of your company's proxy"),
    ("", "REQUESTS_CA_BUNDLE or SSL_CERT_FILE names another set of authorities"))


def _hint_of_host(attempt: _Attempt, said: str) -> str:
    host = urlsplit(attempt.call.url).hostname or ""
    name, proxy = _proxy_of(attempt.call)
    if name and re.match("Failed to parse|Proxy URL", said):
        return _hint_of_proxy(attempt.call, said)
    if proxy[:7] == "socks5:":
        return f"{name}=socks5h://... has the proxy look the name up"
    known = (urlsplit(row.base_url).hostname or "" for row in _PROVIDERS.values() if "{" not in row.base_url)
    near = _near(host, known, least=0.8)
    if near and near[0] != host:
        return f"did you mean {near[0]}?"
    return "check the host name, the network and any proxy"


def _hint_of_tls(attempt: _Attempt, said: str) -> str:
    """What may be wrong where TLS does not begin; http:// is no cure where the address is known to be right."""
    call = attempt.call
    if "certificate verify failed" in said:
        return _CERTIFICATE_HINTS[-1][1]
    if re.search(r"\[X509|PEM", said):
        return "no certificate is in the file that REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or SSL_CERT_FILE names"
    if _proxy_of(call)[0]:
        return _hint_of_proxy(call, said)
    if re.search("(?i)alert", said):  # TLS's own word for no
        return "the server refuses: it may want a client's certificate, session.cert, or another version of TLS"
    if not call.url.startswith("https:") or _is_host(urlsplit(call.url).hostname, call.provider) and not _is_local(
            call.url):
        return "check the network, the firewall and any proxy"
    return f"is it an https address? without TLS it is http{_without_userinfo(call.base_url)[5:]}"


def _hint_of_loss(attempt: _Attempt, said: str) -> str:
    """What a server does that is spoken to in the wrong way: it hangs up before one byte of HTTP."""
    call = attempt.call
    if attempt.sent is False and call.url.startswith("https:"):
        return _hint_of_tls(attempt, said)
    has_begun = attempt.status or attempt.wire is not None and attempt.wire.received > _ALERT
    if has_begun or not call.url.startswith("http:"):
        return ""
    return f"has the server fallen over? or does it want https{_without_userinfo(call.base_url)[4:]}?"


_ALERT = 7  # bytes that TLS's own word of an error takes


def _hint_of_silence(attempt: _Attempt, said: str) -> str:
    is_early = "handshake" in said or attempt.sent is False  # what is sent to a proxy does not count
    return _hint_of_tls(attempt, said) if is_early else "raise timeout=, or stream the answer"


def _proxy_of(call: _Call) -> Tuple[str, str]:
    """The variable that names the proxy of a call, and what it says, less the password; nothing if none does."""
    names = (f"{urlsplit(call.url).scheme.upper()}_PROXY", "ALL_PROXY")
    name = next((form for name in names for form in (name.lower(), name) if os.environ.get(form)), "")
    if not name or not call.trusts_env or requests.utils.should_bypass_proxies(call.url, None):
        return "", ""
    return name, re.sub(r"(?s)^(\w+://)?.*@", r"\1", os.environ[name])


def _hint_of_proxy(call: _Call, said: str) -> str:
    """Which variable names the proxy; of what it wants, what to write there."""
    name, proxy = _proxy_of(call)
    if "407" in said:
        return f"the proxy wants a user: {name or 'HTTPS_PROXY'}=http://user:password@host:port"
    if not name:
        return "check HTTPS_PROXY and NO_PROXY"
    if proxy[:8].lower() == "https://" and re.search("(?i)ssl", said):
        return f"does the proxy itself speak TLS? most want {name}=http://..."
    return f"{name} names {_quoted(proxy)}; NO_PROXY={urlsplit(call.url).hostname} goes past it"


def _hint_of_refusal(attempt: _Attempt, said: str) -> str:
    call = attempt.call
    port = _PORTS.get(call.provider.name) or (urlsplit(call.url).port if _is_local(call.url) else None)
    command = _STARTED_BY.get(port or 0)
    return "is the server running there?" + (f" start it: {command}" if command else "")


_PORTS = {"ollama": 11434, "llamacpp": 8080, "vllm": 8000, "lmstudio": 1234}  # that they listen at
_STARTED_BY = {11434: "ollama serve", 8080: "llama-server -m MODEL.gguf", 8000: "vllm serve MODEL",
               1234: "lms server start"}
_HOOK_HINTS = (("^$", "let it read response.content, which keeps the body"), ("", ""))  # the first: it was read
_CAUSES: Tuple[Tuple[Tuple[Type[BaseException], ...], Type[LLMError], str, Any, str], ...] = (
    ((_Hooked, requests.exceptions.StreamConsumedError), ResponseError, "answer lost in a response hook of the session",
     _HOOK_HINTS, ""),
    ((_TooLarge,), ResponseError, "answer refused", "", ""),
    ((_Foreign,), APIConnectionError, "stream read in a forked child", "the process that opened it reads on", ""),
    (_CUT, APIConnectionError, "answer cut off", "", "normal"),
    ((zlib.error,), ResponseError, "answer's compression is broken", "", "empty"),
    ((ssl.SSLCertVerificationError, _CertificateError), APIConnectionError, "TLS certificate refused",
     _CERTIFICATE_HINTS, ""),
    ((ssl.SSLEOFError, ssl.SSLZeroReturnError), APIConnectionError, "connection lost", _hint_of_loss, "normal"),
    ((ssl.SSLError, urllib3.exceptions.SSLError, requests.exceptions.SSLError), APIConnectionError, "TLS failed",
     _hint_of_tls, ""),
    ((urllib3.exceptions.ProxyError, requests.exceptions.ProxyError), APIConnectionError, "proxy failed",
     lambda attempt, said: _hint_of_proxy(attempt.call, said), ""),
    ((socket.gaierror, urllib3.exceptions.LocationValueError), APIConnectionError, "host not found",
     _hint_of_host, ""),
    ((ConnectionRefusedError,), APIConnectionError, "connection refused", _hint_of_refusal, ""),
    ((urllib3.exceptions.NewConnectionError,), APIConnectionError, "cannot connect", "check the network and the VPN",
     ""),
    ((urllib3.exceptions.ConnectTimeoutError, requests.ConnectTimeout), APITimeoutError, "connect timed out",
     "check the address, the firewall and the VPN; timeout=(connect, read) says how long to wait", ""),
    ((socket.timeout, urllib3.exceptions.TimeoutError, requests.Timeout), APITimeoutError, "read timed out",
     _hint_of_silence, "normal"),
    ((http.client.RemoteDisconnected,), APIConnectionError, "connection closed without an answer", _hint_of_loss,
     "normal"),
    ((http.client.LineTooLong, http.client.BadStatusLine, http.client.UnknownProtocol), APIConnectionError,
     "answer is not HTTP", "", "normal"),
    ((ConnectionError,), APIConnectionError, "connection lost", _hint_of_loss, "normal"),
    ((BaseException,), APIConnectionError, "connection failed", "", "normal"))


def _chain(error: BaseException) -> List[BaseException]:
    """An error and what it wraps, as requests, urllib3 and Python nest them, the innermost last."""
    chain: List[BaseException] = []
    inner: Optional[BaseException] = error
    while inner is not None and inner not in chain:
        chain.append(inner)
        inner.__traceback__ = None  # its frames, urllib3's too, hold it: such cycles would keep all the call had
        wrapped = [inner.__dict__.get("reason"), *inner.args, inner.__cause__, inner.__context__]
        inner = next((item for item in wrapped if isinstance(item, BaseException)), None)
    return chain


def _translated(caught: BaseException, call: _Call, attempt: _Attempt) -> LLMError:
    """The one place that turns what requests, urllib3, http.client and the socket raise into our errors."""
    chain = _chain(caught)
    where, in_handshake = f"{call.method} {_shown_url(call)}", "handshake" in str(chain[-1])
    if _now() + _EPSILON >= attempt.deadline_at:
        late = call.deadline.error(where, last_error=call.last_error)
        late.hint = _hint_of_tls(attempt, "") if in_handshake else late.hint
        return late
    if _now() + _EPSILON >= attempt.idle_at and not in_handshake:
        return APITimeoutError(f"no data event for {_brief(attempt.idle)} s", why=where, hint="raise idle_timeout=",
                               _kind="normal")
    kinds, error, what, hint, retry = next(row for row in _CAUSES if any(isinstance(item, row[0]) for item in chain))
    cause = next(item for item in reversed(chain) if isinstance(item, kinds))
    if isinstance(cause, (urllib3.exceptions.ProxyError, requests.exceptions.ProxyError)):
        # urllib3 shows what it wraps as Python would; a mock's may say nothing at all
        cause = next((item for item in reversed(chain) if str(item)), cause)
    said = str(cause.args[-1] if len(cause.args) > 1 and isinstance(cause, urllib3.exceptions.HTTPError) else cause)
    if attempt.is_stale() and any(isinstance(item, _LOST) for item in chain):
        retry = "stale"
    if callable(hint):
        hint = hint(attempt, said)
    elif isinstance(hint, tuple):
        hint = next(advice for words, advice in hint if re.search(words, said))
    shown = call.quoted(_without_password(said)) or type(cause).__name__
    return error(what, why=f"{where}: {shown}", hint=hint, _kind=retry)


def _without_password(said: str) -> str:
    """An error's words less the password in a proxy's address, which urllib3 cuts at its first / ? or #."""
    head, mark, rest = said.partition("//")  # by hand: a pattern would take a second for 64 KiB of slashes
    return re.sub("(?s)^(Failed to parse: .).*:.*(?=. is not a valid host)", r"\1***",
                  head + mark + rest.rpartition("@")[2])


# -------------------------------------------------------------------------------------------------------- connections


class _Adapter(HTTPAdapter):
    """The session's adapter: bounded connections, TCP keepalive, a pool that fits many threads."""

    def __init__(self, retries: _Reconnect) -> None:
        super().__init__(pool_maxsize=_POOL_SIZE, max_retries=retries)

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        """As requests does, and once more where another thread has closed the pool before anything was sent."""
        try:
            return super().send(*args, **kwargs)
        except requests.ConnectionError as error:
            if not any(isinstance(item, urllib3.exceptions.ClosedPoolError) for item in _chain(error)):
                raise
        return super().send(*args, **kwargs)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, socket_options=_KEEPALIVE, **kwargs)
        _bind(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **{"socket_options": _KEEPALIVE, **kwargs})
        _bind(manager)  # each time: another thread may have made it just now
        return manager


@functools.lru_cache(maxsize=1)
def _can_bind() -> bool:
    """Whether limits reach our own session's connections: else its requests are sent in threads."""
    return all((hasattr(HTTPConnection, "_new_conn"), hasattr(HTTPConnection, "response_class"), hasattr(
        urllib3.HTTPConnectionPool, "ConnectionCls"), hasattr(urllib3.poolmanager, "pool_classes_by_scheme")))


def _bind(manager: Any) -> None:
    """Have a manager make bounded pools, of the classes that it had, which may be somebody's own."""
    manager.pool_classes_by_scheme = {
        scheme: _bounded(kind, _Pool) for scheme, kind in getattr(manager, "pool_classes_by_scheme", {}).items()}


@functools.lru_cache(maxsize=32)
def _bounded(kind: Any, limits: Any) -> Any:
    """A class of urllib3's that keeps to an attempt's limits."""
    return kind if issubclass(kind, limits) else type(kind.__name__, (limits, kind), {})


class _Reconnect(urllib3.Retry):
    """urllib3's `Retry` for connections that could not be opened; what happens after that is our own loop's."""

    def increment(self, method: Any = None, url: Any = None, response: Any = None, error: Any = None,
                  *args: Any, **kwargs: Any) -> _Reconnect:
        if isinstance(error, (urllib3.exceptions.ReadTimeoutError, urllib3.exceptions.ProtocolError)):
            raise error  # the request was on its way
        again: _Reconnect = super().increment(method, url, response, error, *args, **kwargs)
        _chain(error)  # which urllib3 keeps
        attempt: Any = _CURRENT.get()
        if attempt is not None:  # None: a wrapper sends from a thread of its own
            delay = attempt.call.policy._delay("normal", len(self.history))  # there is one: without, `super` raises
            attempt.call.sleep(min(delay, attempt.left(math.inf) or 0.0))
        return again


class _Idle(queue.LifoQueue):  # type: ignore[type-arg]
    """A pool's idle connections, the last used first; it waits for no lock, which a fork may have left held."""

    def get(self, block: bool = True, timeout: Optional[float] = None) -> Any:
        try:
            connection = self.queue.pop()
        except IndexError:
            raise queue.Empty from None
        sock = getattr(connection, "sock", None)
        if sock is not None and sock.fileno() < 0:  # the collector closed it with the stream that gave it back
            connection.close()
        return connection

    def put(self, item: Any, block: bool = True, timeout: Optional[float] = None) -> None:
        if len(self.queue) >= self.maxsize:
            raise queue.Full
        self.queue.append(item)


class _Kind:
    """The bounded kind of urllib3's own connections; any other kind (a cassette's, a test's) as it is."""

    def __get__(self, pool: Any, owner: Any) -> Any:
        kind = super(_Pool, owner).ConnectionCls  # type: ignore[misc]
        if not kind.__module__.startswith("urllib3."):
            return kind
        return _bounded(kind, _SOCKSConnection if kind.__module__ == "urllib3.contrib.socks" else _Connection)


class _Pool:
    """urllib3's pool, whose connections keep to limits, where nobody has put himself in their place."""

    ConnectionCls: Any = _Kind()
    QueueCls = _Idle

    def urlopen(self: Any, *args: Any, **options: Any) -> Any:
        attempt = _CURRENT.get()
        if attempt is not None:
            attempt.pool = self
        return super().urlopen(*args, **options)  # type: ignore[misc]

    def idle(self: Any) -> Any:
        """An open connection that waits for a request; None: there is none, or somebody else's classes are used."""
        try:
            connection = self.pool.get(block=False)
        except (AttributeError, queue.Empty):  # the first: the pool is closed
            return None
        is_ours = isinstance(connection, _Connection) and type(connection) is self.ConnectionCls
        if is_ours and not _wants_to_see(connection):
            if getattr(connection, "sock", None) and not urllib3.util.connection.is_connection_dropped(connection):
                return connection
            connection.close()
        if connection is not None:  # which stands for one that nobody has opened yet
            self.put_back(connection)
        return None

    def put_back(self: Any, connection: Any) -> None:
        """Give back what `idle` gave."""
        try:
            self.pool.put(connection, block=False)
        except (AttributeError, queue.Full):
            connection.close()


class _Connection:
    """urllib3's connection, whose every step, from the name's addresses to the answer's head, keeps to limits."""

    def connect(self: Any) -> None:
        attempt = _CURRENT.get()
        if attempt is not None:
            attempt.begin(False)
        try:
            if attempt is None or attempt.call.stop is None:
                super().connect()  # type: ignore[misc]
            else:  # in a thread, for no socket is known yet that another one could cut
                _in_time(attempt, super().connect, "connect")  # type: ignore[misc]
        finally:
            if attempt is not None:
                attempt.sent, attempt.opened = False, _now()  # what was sent was for a proxy

    def _new_conn(self: Any) -> Any:
        """The open socket: address by address, for urllib3 gives each the whole connect timeout."""
        attempt, error = _CURRENT.get(), None
        if attempt is None:
            return super()._new_conn()  # type: ignore[misc]
        host, port = self._named()
        if not host or not _is_own(getattr(urllib3.util.connection, "create_connection", None), "urllib3.util"):
            self.timeout = attempt.left(attempt.call.connect)
            return _in_time(attempt, super()._new_conn)  # type: ignore[misc]  # somebody says where names lead
        try:
            addresses = _addresses(host, port, attempt)
        except socket.gaierror as caught:
            raise urllib3.exceptions.NewConnectionError(self, str(caught)) from caught
        for address in addresses:
            self.timeout = attempt.left(attempt.call.connect)
            try:
                sock = self._opened(address, attempt)
                break
            except urllib3.exceptions.HTTPError as caught:
                error = caught
        else:
            raise error or OSError("no address")
        try:
            sock.settimeout(attempt.left(attempt.call.connect))  # for the TLS handshake
        except OSError:
            sock.close()
            raise
        return sock

    def _named(self: Any) -> Tuple[str, int]:
        return getattr(self, "_dns_host", self.host), self.port  # which keeps a final dot

    def _opened(self: Any, address: str, attempt: _Attempt) -> Any:
        name, self.host = self._named()[0], address
        try:
            return super()._new_conn()  # type: ignore[misc]
        finally:
            self.host = name

    def send(self: Any, data: Any) -> None:
        attempt = _CURRENT.get()
        if attempt is not None:
            if getattr(self, "sock", attempt) is None:
                self.connect()
            attempt.start = attempt.start or _start_of(data)
            if attempt.holds(data):
                return
            data, attempt.head = attempt.head + data if attempt.head else data, b""
            sock = getattr(self, "sock", None)
            if sock is not None:
                sock.settimeout(attempt.left(attempt.read))  # a large body may take longer than a connect
            if not attempt.sent:
                attempt.begin(True)
                attempt.sent_at, attempt.wire = _now(), sock and _Wire(sock, attempt)
        try:
            super().send(data)  # type: ignore[misc]
        except ConnectionResetError as error:  # urllib3 1.26 reads on only after a broken pipe
            raise BrokenPipeError(*error.args) from None

    def response_class(self: Any, sock: Any, *args: Any, **kwargs: Any) -> http.client.HTTPResponse:
        """http.client's response to this request, or to the one for a tunnel: read through the attempt's wire."""
        attempt: Any = _CURRENT.get()
        if attempt is None:
            return http.client.HTTPResponse(sock, *args, **kwargs)
        attempt.wire = attempt.wire or _Wire(sock, attempt)
        return _HTTPResponse(attempt.wire, *args, **kwargs)


def _wants_to_see(connection: Any) -> bool:
    """Whether somebody follows what http.client or urllib3 do, by their own means."""
    return connection.debuglevel > 0 or _URLLIB3_LOG.isEnabledFor(logging.DEBUG)


def _start_of(head: bytes) -> str:
    """A head's first line and its Host, if they are as for the server itself: a proxy's have more, that is not ours."""
    lines = re.match(rb"[A-Z]+ /[^ ]* HTTP/1.1\r\nHost: [^\r\n]*(?=\r\n)", head)
    return lines[0].decode("latin-1") if lines else ""


class _SOCKSConnection(_Connection):
    """A connection through a SOCKS proxy: PySocks gives each read of its greeting the whole connect timeout."""

    def _named(self: Any) -> Tuple[str, int]:
        options = getattr(self, "_socks_options", {"proxy_host": "", "proxy_port": 0})
        return options["proxy_host"], int(options["proxy_port"] or 1080)

    def _opened(self: Any, address: str, attempt: _Attempt) -> Any:
        socks, options = sys.modules["socks"], self._socks_options
        host = self.host if options["rdns"] else _addresses(self.host, self.port, attempt)[0]
        sock = socks.socksocket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        end = _now() + (math.inf if attempt.call.connect is None else attempt.call.connect)

        def recv_into(*args: Any) -> int:
            left = attempt.left(max(1e-6, end - _now()))
            socket.socket.settimeout(sock, None if left == math.inf else left)
            count: int = socket.socket.recv_into(sock, *args)
            return count

        try:
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            sock.settimeout(self.timeout)
            sock.set_proxy(options["socks_version"], address, self._named()[1], options["rdns"], options["username"],
                           options["password"])
            sock.recv_into = recv_into
            sock.connect((host, self.port))
            del sock.recv_into
            return sock
        except (OSError, UnicodeError) as error:
            sock.close()
            late = any(isinstance(item, socket.timeout) for item in _chain(error))
            kind: Any = urllib3.exceptions.ConnectTimeoutError if late else urllib3.exceptions.NewConnectionError
            down = isinstance(error, socks.ProxyConnectionError) and not late  # the proxy is, not the server
            raise kind(self, f"SOCKS proxy: {error}") from (
                urllib3.exceptions.ProxyError(str(error), error) if down else error)


def _addresses(host: str, port: int, attempt: _Attempt) -> List[str]:
    """The addresses of a host, in the system's order; its resolver takes no timeout."""
    def look_up() -> List[Any]:
        try:
            return socket.getaddrinfo(host.strip("[]"), port, 0, socket.SOCK_STREAM)
        except UnicodeError as error:  # a label that is empty, or too long
            raise socket.gaierror(socket.EAI_NONAME, str(error)) from None

    is_quick = attempt.deadline_at == math.inf or _is_numeric(host)
    found = look_up() if is_quick else _in_time(attempt, look_up, "name lookup")
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _is_numeric(host: str) -> bool:
    """Whether a host is an address, which nobody has to look up."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, UnicodeError):
            socket.inet_pton(family, host.strip("[]").partition("%")[0])
            return True
    return False


class _Wire(io.RawIOBase):
    """A socket whose reads end when the attempt's time is up, and whose head and bytes are counted."""

    _file: Any = None

    def __init__(self, sock: Any, attempt: _Attempt, in_head: bool = True) -> None:
        self.sock, self._attempt, self.in_head = sock, attempt, in_head
        self._timeout: Optional[float] = -1.0  # not known: some sockets cannot be asked
        self.received = 0

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        """What http.client reads from; a file of the socket keeps it open though the connection may let go of it."""
        self._file = self.sock.makefile("rb", buffering=0)
        return io.BufferedReader(self, _PIECE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read once, within what is left of the time."""
        if self._attempt.process is not _Process.here:  # pragma: no cover: in forked children
            raise _Foreign("it is open in the process that this one was forked from")
        timeout = self._attempt.left(self._attempt.read)
        if timeout != self._timeout:
            self.sock.settimeout(timeout)
            self._timeout = timeout
        try:
            count: int = self.sock.recv_into(buffer)
        except OSError:
            raise
        except Exception as error:  # what other TLS libraries and green sockets raise of their own
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        limit = _MAX_HEAD if self.in_head else _MAX_BODY
        if self.received > limit:
            raise _TooLarge(f"a {'head' if self.in_head else 'body'} of over {limit >> 20} MiB")
        if self.in_head and not count and self.received:  # http.client would take the half head for a whole one
            raise ConnectionResetError("connection closed inside the answer's head")
        self.received += count
        return count

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def cut(self) -> None:
        """End the reads of whichever thread is inside one."""
        try:
            with contextlib.suppress(OSError):  # closed already
                socket.SocketType.shutdown(self.sock, socket.SHUT_RDWR)  # TLS sockets' own drops their state as well
        except (AttributeError, TypeError):  # a green socket, another TLS library: over a twin, one descriptor more
            with contextlib.suppress(OSError, ValueError), contextlib.closing(
                    socket.fromfd(self.sock.fileno(), socket.AF_INET, socket.SOCK_STREAM)) as twin:
                twin.shutdown(socket.SHUT_RDWR)

    def leave(self) -> None:  # pragma: no cover: in forked children
        """Close this process's descriptor, and nothing else: a parent goes on reading from its own."""
        sock = self.sock
        with contextlib.suppress(OSError, AttributeError):  # closed already, or nothing that can be let go of
            while not hasattr(sock, "detach"):  # TLS within TLS, and another library's, stand around a socket
                sock = sock.socket
            os.close(sock.detach())


_HEAD_STATE = frozenset(("fp", "chunked", "chunk_left", "length", "will_close"))


class _HTTPResponse(http.client.HTTPResponse):
    """http.client's response, which reads its head without the email parser: that takes a seventh of a call's time."""

    fp: Any = None  # what Ctrl-C has stopped in its constructor is closed without it, too

    def begin(self) -> None:
        """Read the head; what is read from now on, by whomever, is the body."""
        attempt: Any = _CURRENT.get()
        if vars(self).keys() >= _HEAD_STATE and hasattr(self, "_read_status") and hasattr(
                http.client.HTTPMessage, "set_raw"):
            self._read_head(attempt.call.method)
        else:
            attempt.start = ""  # http.client is to send the next request too
            super().begin()
        attempt.wire.in_head = False

    def _read_head(self: Any, method: str) -> None:
        """As http.client does, over any number of interim answers (RFC 9110, 15.2) but a flood."""
        version, status, reason = self._read_status()
        for _ in range(_MAX_INTERIM):
            if not 100 <= status < 200 or status == 101:
                break
            self._read_headers()
            version, status, reason = self._read_status()
        else:
            raise _TooLarge(f"over {_MAX_INTERIM} interim answers")
        if not version.startswith(("HTTP/1.", "HTTP/0.9")):
            raise http.client.UnknownProtocol(version)
        self.code = self.status = status
        self.reason, self.version = reason.strip(), 10 if version in ("HTTP/1.0", "HTTP/0.9") else 11
        self.headers = self.msg = self._read_headers()
        self.chunked, self.length = _framing(self.headers, status, method)
        self.chunk_left, tokens = None, self.headers.get("connection", "").lower()
        self.will_close = status == 101 or ("close" in tokens if self.version == 11 else "keep-alive" not in tokens
                                            ) or not (self.chunked or self.length is not None)

    def flush(self) -> None:
        """Nothing, for it is read only: http.client's fails, loudly, where the collector has closed the file before."""

    def _read_headers(self) -> http.client.HTTPMessage:
        lines = [b" "]
        while lines[-1] not in (b"\r\n", b"\n", b""):
            lines.append(self.fp.readline(_MAX_HEADER + 1))
            if len(lines[-1]) > _MAX_HEADER or len(lines) > _MAX_HEADERS + 2:  # the first and the last are none
                raise http.client.LineTooLong("header line" if len(lines[-1]) > _MAX_HEADER else "list of headers")
        message = http.client.HTTPMessage()
        folded = re.sub("\r?\n[ \t]+", " ", b"".join(lines[1:]).decode("latin-1"))  # a line goes on with the next
        for name, colon, value in (line.partition(":") for line in folded.split("\n")):
            if colon and name.strip():
                message.set_raw(name.strip(), value.strip())
        return message


def _in_time(attempt: _Attempt, step: Callable[[], Any], name: str = "bounded step") -> Any:
    """Do what keeps to no limit in a thread: that is the only way to leave it when the time is up."""
    left, stop = attempt.left(None), attempt.call.stop
    end = math.inf if left is None else _now() + left
    if left is None and stop is None:
        return step()
    done: List[Any] = []

    def run() -> None:
        try:
            done.append(step())
        except BaseException as error:
            done.append(error)

    thread = threading.Thread(target=copy_context().run, args=(run,), name=name, daemon=True)
    try:
        thread.start()
        if stop is None:
            thread.join(left)
        while stop is not None and thread.is_alive() and _now() < end and attempt.deadline_at != -math.inf:
            thread.join(0.05)
    except RuntimeError:  # there are no threads, as in WebAssembly, or no more
        run()
    if not done:
        if attempt.wire is not None:
            attempt.wire.cut()
            thread.join(_DRAIN)  # else it could hand the connection back while we close it
        raise socket.timeout("out of time")
    if isinstance(done[0], BaseException):
        raise done[0]
    return done[0]


# -------------------------------------------------------------------------------------------------------------- answers


class _Trouble:
    """What an error body says, whichever provider wrote it, less the secrets: each text is masked before it is cut."""

    def __init__(self, body: Any, mask: _Mask) -> None:
        self.short = short = functools.partial(_short, mask)
        body = body[0] if isinstance(body, list) and body else body
        outer = _dict(body)
        error = outer.get("error")
        inner = error if isinstance(error, dict) else outer
        code, kind, status, details = map(inner.get, ("code", "type", "status", "details"))
        texts = (error, *map(inner.get, ("message", "detail", "title", "errorMessage")), outer.get("message"), body)
        self.message: str = mask.of(_first_text(*texts), room=_MAX_MESSAGE)
        self.code = _first(short(code), short(outer.get("code")))
        self.type = short(_str(kind) or _str(status) or None)
        self.request_id = short(_str(outer.get("request_id")) or _str(outer.get("responseId")) or None)
        self.numbers = (self.code, *map(short, (inner.get("status_code"), outer.get("status_code"), status)))
        self.metadata = _dict(inner.get("metadata"))
        self.size = (_int(inner.get("n_prompt_tokens")), _int(inner.get("n_ctx")))  # llama.cpp's
        self.retry_delay: Optional[str] = None
        more = (status, *map(self.metadata.get, ("error_type", "limit_source")), _dict(details).get("error_code"))
        self.marks = [str(mark) for mark in (self.code, self.type, *map(short, more))]  # the most exact one first
        for detail in map(_dict, _list(details)[:_MAX_DETAILS]):  # google.rpc's
            self.retry_delay = _str(detail.get("retryDelay")) or self.retry_delay
            self.marks.append(str(short(detail.get("reason"))))
            quotas = [_str(_dict(each).get("quotaId")) for each in _list(detail.get("violations"))[:_MAX_DETAILS]]
            self.marks += ["PerDay" for quota in quotas if "PerDay" in quota]

    def status(self) -> int:
        """The status an error object stands for where HTTP's own said 200."""
        if re.match("(?i)unexpected endpoint", self.message):  # LM Studio's
            return 404
        for number in self.numbers:
            if re.fullmatch("[45][0-9][0-9]", str(number)):
                return int(str(number))
        return next((_STATUS_OF[mark] for mark in self.marks if mark in _STATUS_OF), 500)


_STATUS_OF = {word: status for status, words in {
    400: "invalid_request_error INVALID_ARGUMENT FAILED_PRECONDITION context_length_exceeded BadRequestError "
    "invalid_prompt bio_policy misalignment_policy_violation data_residency_mismatch invalid_encrypted_content "
    "cancelled invalid_image invalid_image_format invalid_base64_image invalid_image_url invalid_image_mode "
    "image_too_large image_too_small image_parse_error image_content_policy_violation image_file_too_large "
    "image_file_not_found empty_image_file unsupported_image_media_type failed_to_download_image",
    401: "authentication_error UNAUTHENTICATED", 402: "billing_error", 403: "permission_error PERMISSION_DENIED",
    404: "not_found_error model_not_found NOT_FOUND NotFoundError", 413: "request_too_large",
    429: "rate_limit_error rate_limit_exceeded slow_down RESOURCE_EXHAUSTED insufficient_quota "
    "credit_balance_exhausted",
    500: "server_error api_error internal_server_error INTERNAL", 503: "service_unavailable_error unavailable_error "
    "server_is_overloaded UNAVAILABLE ServiceUnavailableError insufficient_system_resource",
    504: "timeout_error DEADLINE_EXCEEDED", 529: "overloaded_error"}.items() for word in words.split()}

_CLASS_OF: Dict[int, Type[APIError]] = {
    400: BadRequestError, 401: AuthenticationError, 402: PaymentRequiredError, 403: PermissionDeniedError,
    404: NotFoundError, 413: BadRequestError, 422: BadRequestError, 429: RateLimitError, 503: OverloadedError,
    529: OverloadedError}

_QUOTA = frozenset((
    "insufficient_quota", "credit_balance_exhausted", "organization_spend_limit_exceeded", "billing_hard_limit_reached",
    "project_spend_limit_exceeded", "organization_usage_limit_exceeded", "enforced_spend_limit_reached",
    "contract_spend_limit_reached", "PerDay"))
_QUOTA_TEXT = ("(?i)reached your specified API usage limits|free-models-per-day|"
               "exceeded your current quota, please check your plan|credit balance is too low|"
               "doesn't have any credits")
_TOO_MUCH_TEXT = r"(?i)request too large.{0,200}?\blimit (?P<n>\d+(?:,\d{3})*)"  # a minute: no wait makes it less
_KEY_TEXT = r"(?i)\b(?:incorrect|invalid) api key"
_MODEL_TEXT = r"(?i)^invalid model\b|\bis not a valid model|\bmodel not exist"
_GONE_TEXT = _MODEL_TEXT + "|decommissioned|does not exist"
_CONTEXT = frozenset(("context_length_exceeded", "exceed_context_size_error", "max_tokens_exceeded",
                      "token_limit_exceeded"))
_CONTEXT_TEXT = (
    r"(?i)maximum (?:context|prompt) length|context (?:length|window|size) (?:is |was )?exceeded|prompt is too long|"
    r"exceed context limit|exceeds? the (?:available |model'?s? |maximum )*(?:context|number of tokens)|"
    r"input token count.{0,40}exceeds|too many tokens|longer than the (?:model's context|maximum model) length|"
    r"input is too long for requested model|exceeded model token limit|range of input length|context length of only|"
    r"inputs`? (?:tokens \+ `?max_new_tokens`? must be <=|must have less than)|context shift is disabled")
_OVERLOAD_TEXT = r"(?i)overloaded|rate.?limit|too many requests|at capacity|no capacity"
_HINTS: Dict[Type[APIError], str] = {
    PaymentRequiredError: "add credit to the account", RateLimitError: "send less: fewer workers=, or rate_limit=",
    PermissionDeniedError: "check what the key, its project and its plan may use",
    OverloadedError: "try later, or name fallbacks=",
    QuotaExceededError: "waiting does not help: check plan, limits and billing"}
_HINTS_BY_WORDS = (  # status, what the server says -> what to try
    ("400", r"(?i)plain HTTP request was sent to HTTPS port|to an HTTPS server|HTTP to an SSL-enabled",
     "write the base URL with https://"),
    ("40[04]", r"(?i)try pulling it first|ollama pull", "ollama pull {model}"),
    ("400", "(?i)max_tokens.{0,60}max_completion_tokens",
     'give extra={{"max_completion_tokens": ...}} in place of max_tokens='),
    ("400", r"(?i)supports at most (?P<n>\d+)|max_tokens: \d+ > (?P<n2>\d+)", "max_tokens={n} at most"),
    ("413|429", _TOO_MUCH_TEXT, "it alone is over the limit of {n}: shorten the messages or lower max_tokens="),
    ("400", r"(?i)\blocation is not supported", "the provider does not serve this place"),
    ("400|422", r"(?i)(?:unsupported|unrecognized|unknown|unexpected) (?:\w+ ){0,2}(?:parameter|argument|value|field|"
     r"name|option|key)\w*[^\w'\"`]{1,3}['\"`](?P<n>[\w.]{1,40})['\"`]", "leave {n} out"),
    ("400|422", r"^(?P<n>[\w.]{1,40}): Extra inputs are not permitted", "leave {n} out"),
    ("403|451", r"(?i)\b(?:country|region|territory|location)\b", "the provider does not serve this place"),
    ("408|504", "", "try later, with a shorter request, or stream the answer"),
    ("413", "", "send less: a file by its URL or id takes no room"),
    ("422", "", "a field is not what this server takes: error.body says which"),
    ("501|505", "", "this server has no such endpoint"),
    ("5..", "", "the provider's own trouble: try later{request}"))


def _hint(error: APIError, trouble: _Trouble, call: _Call) -> str:
    """What to try: the last words of an error's line."""
    status, message, page = error.status_code, error.message, isinstance(error.body, str) and re.match(
        _PAGE, error.body)
    if isinstance(error, ContextLengthError):
        return _hint_of_length(message, *trouble.size)
    if status in (401, 403) and re.search(_QUOTA_TEXT, message):
        return _HINTS[QuotaExceededError]
    if isinstance(error, AuthenticationError):
        return _hint_of_key(call)
    if status < 400:
        return _hint_of_redirect(error.headers.get("location") or "", call)
    barred = page and (status == 403 or status >= 500) and call.url.startswith("http:")  # by the proxy itself?
    if status == 407 or barred and _proxy_of(call)[0]:
        return _hint_of_proxy(call, str(status))
    hint = _hint_by_words(error, call)
    gone = status == 400 and re.search(_GONE_TEXT, message[:4 * _MAX_QUOTED]) and _is_about_model(call, message)
    if (status in (404, 405) or gone) and not hint:
        return f"{_hint_of_place(message, call)}; asked {call.method} {_shown_url(call)}"
    return hint or (_hint_of_page(call) if page and 400 <= status < 429 else _HINTS.get(type(error), ""))


def _hint_of_redirect(location: str, call: _Call) -> str:
    """The base URL that a redirect stands for, where it leads to the same endpoint elsewhere."""
    base = call.base_url.partition("?")[0].rstrip("/")
    path = call.url.partition("?")[0][len(base):]
    with contextlib.suppress(ValueError):  # of what is no URL
        target = _without_userinfo(urljoin(call.url, location))
        if path and target.endswith(path) and target != base + path:
            return f"if that is the address, give base_url={call.quoted(target[:-len(path)])}"
    return _hint_of_page(call)


def _hint_of_page(call: _Call) -> str:
    """What to do where no API has answered."""
    asked = f"; asked {call.method} {_shown_url(call)}"
    return (_hint_of_version(call) or "is the base URL right? a proxy, a firewall or a login may have answered") + asked


def _hint_by_words(error: APIError, call: _Call) -> str:
    """What to try by the status and the server's words, or nothing."""
    known = type(error) in _HINTS  # then the status alone says less than the class
    said = error.body if error.status_code == 400 and isinstance(error.body, str) else error.message  # a page's title
    for statuses, words, hint in _HINTS_BY_WORDS:
        found = re.search(words, said[:4 * _MAX_QUOTED])
        if found and re.fullmatch(statuses, str(error.status_code)) and (words or not known):
            request = f"; its request {call.quoted(error.request_id)}" if error.request_id else ""
            told = call.quoted(next(filter(None, found.groupdict().values()), ""))
            return hint.format(model=_quoted(call.model), n=told, request=request)
    return ""


def _shown_url(call: _Call) -> str:
    return _without_userinfo(call.url)


def _hint_of_place(message: str, call: _Call) -> str:
    """What may be wrong with the model or the address of a request that leads nowhere."""
    other = _other_provider(call)
    if other and _is_about_model(call, message):
        return f'it is a model of {other}: Client("{other}/{_quoted(call.model)}")'
    if _is_about_model(call, message):
        return _NO_MODEL
    if "/v1/v1/" in call.url:
        return "the base URL has /v1 twice"
    return _hint_of_version(call) or "check the base URL and the model"


_NO_MODEL = "check the model: models() lists them"


def _hint_of_version(call: _Call) -> str:
    """The base URL with /v1, or what else its provider has there, where it has nothing of the kind."""
    lacks = "/v1" if call.provider is _COMPATIBLE else urlsplit(call.provider.base_url).path
    if "{" in lacks or not lacks or re.search(r"/(?:v\d|openai|api)", urlsplit(call.url).path):
        return ""
    return f"does the base URL lack {lacks}? {_without_userinfo(call.base_url)}{lacks}"


def _is_about_model(call: _Call, message: str) -> bool:
    """Whether an error's words are about the model: they name it, or say that it is none."""
    said, name = message[:4 * _MAX_QUOTED], rf"(?<![\w.-]){re.escape(call.model[:200])}(?![\w-])"
    named = call.model and "model" in message.lower() and re.search(name, said)
    return bool(call.model and re.search(_MODEL_TEXT, said) or named)


def _other_provider(call: _Call) -> str:
    """The provider that a model's name stands for, where one was asked that serves its own models only."""
    makers = {name for _, name in _MAKERS}
    return _maker_of(call.model) if call.provider.name in makers - {_maker_of(call.model)} else ""


def _hint_of_models(call: _Call, names: List[str]) -> str:
    """The names most like a model's, or all of a server that has few; they are the server's own words."""
    if call.model in names:  # then it is no name that is wrong
        return f"models() lists it: may this key use it, and here?; asked {call.method} {_shown_url(call)}"
    names = [call.quoted(name) for name in names[:_MAX_LISTED] if 0 < len(name) <= 100]
    near = _near(call.model, names, 3, 0.6)
    if not near and not 0 < len(names) <= 5:
        return ""
    found = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(names)}"
    return f"{found}; asked {call.method} {_shown_url(call)}"


def _hint_of_length(message: str, asked: int, limit: int) -> str:
    """By how much a request is too long, where the server says so."""
    number = r"(\d{1,3}(?:,\d{3})+|\d+)"
    said = message[:4 * _MAX_QUOTED]
    forms = (rf">\s*{number}", rf"{number} (?:tokens? )?(?:maximum|max\b|limit)",
             rf"(?i)(?:maximum|limit|window|context length|context size|at most|only)\D{{0,60}}?{number}")
    found = next(filter(None, (re.search(form, said) for form in forms)), None)
    counts = [_counted(word) for word in re.findall(rf"(?<![\w.-]){number}(?![\w-])", said)]
    sums = [_counted(a) + _counted(b) for a, b in re.findall(rf"{number} \+ {number} >", said)]
    limit = limit or (_counted(found[1]) if found else 0)
    asked = asked or max(counts + sums, default=0)
    both = re.search("(?i)max_(?:completion_)?tokens|in the completion", said)
    cure = "shorten the messages" + (" or lower max_tokens=" if both else "")
    return f"{asked} tokens, {limit} fit: {cure}" if asked > limit > 0 else cure


def _counted(word: str) -> int:
    return int(word.replace(",", "")[:15])


_KEY_FORMS = {  # how the keys of providers begin, where it tells them apart
    "sk-ant-": "anthropic", "sk-or-": "openrouter", "sk-proj-": "openai", "sk-svcacct-": "openai", "gsk_": "groq",
    "AIza": "gemini", "xai-": "xai", "hf_": "huggingface", "pplx-": "perplexity", "nvapi-": "nvidia",
    "csk-": "cerebras", "fw_": "fireworks", "tgp_": "together"}


_KEY_SHAPE = rf"(?<![\w-])(?:sk-|{'|'.join(_KEY_FORMS)})[\w-]{{12,}}"  # of one in another's place


def _hint_of_key(call: _Call) -> str:
    """Where a refused key is from, and whose it looks like; never the key."""
    row = call.provider
    if not call.key or row is _COMPATIBLE and call.key == "local":
        return f"no key was sent: give api_key=, or set {' or '.join((*row.keys, *row.optional_keys)) or 'a header'}"
    name = next((name for name in (*row.keys, *row.optional_keys) if os.environ.get(name, "").strip() == call.key), "")
    other = next((owner for form, owner in _KEY_FORMS.items() if call.key.startswith(form)), row.name)
    looks = "" if _PROVIDERS.get(other, row).keys == row.keys else f": it looks like one of {other}'s"
    given = "that api_key() returned" if isinstance(call.key, _Token) else "given as api_key="
    return f"check the key {f'in {name}' if name else given}{looks}"


def _error_class(status: int, trouble: _Trouble) -> Type[APIError]:
    """The class of an error, from its status and what its body says."""
    if status in (400, 413, 422, 500) and (
            _CONTEXT.intersection(trouble.marks) or re.search(_CONTEXT_TEXT, trouble.message)):
        return ContextLengthError
    if "API_KEY_INVALID" in trouble.marks or status == 400 and re.search(_KEY_TEXT, trouble.message):
        return AuthenticationError
    is_by_marks = status == 429 and "RESOURCE_EXHAUSTED" in trouble.marks  # Google's words for a minute's too
    if status in (400, 402, 429) and (_QUOTA.intersection(trouble.marks) or not is_by_marks and re.search(
            _QUOTA_TEXT, trouble.message)):
        return QuotaExceededError
    if status == 402 and "RESOURCE_EXHAUSTED" in trouble.marks:
        return QuotaExceededError
    return _CLASS_OF.get(status) or (ServerError if status >= 500 else APIError)


def _kind_of(status: int, error: Type[APIError], trouble: _Trouble, headers: Mapping[str, str]) -> str:
    """How an error is retried: "" never, "normal", or "rate" for what is about load."""
    kind = "rate" if status in _RATE_LIMITED or re.search(_OVERLOAD_TEXT, trouble.message) else "normal"
    wanted = headers.get("x-should-retry", "").strip().lower()
    if wanted in ("true", "false"):
        return kind if wanted == "true" else ""
    if "openrouter_in_flight_budget" in trouble.marks:
        return "rate"
    if status not in _RETRIED or issubclass(error, (ContextLengthError, QuotaExceededError)) or re.search(
            _TOO_MUCH_TEXT, trouble.message):
        return ""
    limit = [value for name, value in headers.items() if re.match("x-ratelimit-limit", name, re.I)]
    if status == 429 and limit and all(_number(value) == 0 for value in limit):
        return ""  # no allowance at all
    return kind


def _api_error(call: _Call, status: Optional[int], headers: Mapping[str, str], body: Any) -> APIError:
    """The error that a status of 300 or more, or an error object inside a 200 (`status` None), stands for."""
    mask = call.mask()
    trouble = _Trouble(body, mask)
    inside = status is None
    status = trouble.status() if status is None else status
    error = _error_class(status, trouble)
    routed = itertools.islice(_dict(trouble.metadata.get("headers")).items(), _MAX_DETAILS)  # of those behind a router
    known = requests.structures.CaseInsensitiveDict((name, str(trouble.short(value))) for name, value in routed)
    known.update(headers)
    message = mask.of(_readable(trouble.message))  # a page may have written a key in its own way
    if 300 <= status < 400:
        place = call.quoted(headers.get("location") or "")
        message = f"redirect to {place or 'nowhere'} is not followed" + ": it would carry the key there" * bool(place)
    what = f"{status} {http.client.responses.get(status, '')}".strip() + (" inside a 200" if inside else "")
    made = error(what, why=_quoted(message), status_code=status, message=message, code=trouble.code, type=trouble.type,
                 request_id=_request_id(headers) or trouble.request_id, headers=headers, body=body,
                 retry_after=_retry_after(known, trouble), _kind=_kind_of(status, error, trouble, known))
    made.hint = _hint(made, trouble, call)
    return made


def _request_id(headers: Mapping[str, str]) -> Optional[str]:
    names = ("x-request-id", "request-id", "apim-request-id", "x-generation-id")
    return next((headers[name] for name in names if name in headers), None)


def _json_or(other: Any, payload: bytes) -> Any:
    """What JSON says, or `other` if it is none."""
    try:
        value = json.loads(payload.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return other
    return value if _is_shallow(payload) else other


# A text, cut or not, with the colon before it if it is a member's value; or what holds values together.
_JSON_MARK = r'(?s)(:\s*)?"(?:[^"\\]+|\\(?:[^u]|u[0-9A-Fa-f]{4})){0,65536}("?)|[][{},]'


def _begun(payload: bytes) -> Any:
    """What the first members of a JSON say that was cut anywhere, or `_UNSET`; a text that was cut is kept as far."""
    text, ends, at, closed = payload.decode("utf-8-sig", "replace"), "", 0, ""
    for found in itertools.islice(re.finditer(_JSON_MARK, text), _MAX_MARKS):
        mark, end = found.group(), ""
        if mark in "{[":
            ends = ("}" if mark == "{" else "]") + ends
        elif mark in "}]":
            ends = ends[1:]
        elif mark != ",":
            if not found[1] and ends[:1] != "]":  # a member's name
                continue
            end = "" if found[2] else '"'
        if len(ends) > _MAX_DEPTH:
            break
        at, closed = found.start() if mark == "," else found.end(), end + ends
    return _json_or(_UNSET, (text[:at] + closed).encode("utf-8", "replace"))


def _json_of(payload: bytes, call: _Call) -> Any:
    """What JSON says; of an error that was cut, or not read to its end, what its first members say."""
    body = _json_or(_UNSET, payload)
    if body is _UNSET:
        begun = _begun(call.mask().of(payload[:_MAX_ERROR + 1], room=_MAX_ERROR))
        return begun if _holds_error(begun, call.reader) else _UNSET
    return body


def _holds_error(body: Any, reader: _Reader) -> bool:
    """Whether a body is an error, whatever its status: words are one where the answer itself is missing."""
    body = _dict(body[0] if isinstance(body, list) and body else body)
    if body.get("error"):
        return reader.fails(body)
    return not reader.answers(body) and (body.get("object") == "error" or any(
        isinstance(body.get(name), kind) for name, kind in (("message", str), ("detail", (str, list)))))


def _read_reply(call: _Call, attempt: _Attempt, answer: _Answer) -> Response:
    """The reply a 2xx holds, or the error that it is."""
    payload = answer.read()
    body = _json_of(payload, call)
    if isinstance(body, list) and body:  # an error in an array, or a bare list of models
        body = body[0] if call.reader.mark else {"data": body}
    if not isinstance(body, dict):
        if payload[:4096].lstrip()[:1] == b"<":
            raise _no_answer(call, answer, "an HTML page", payload)
        what = "an empty body" if not payload.strip() else "broken JSON" if body is _UNSET else "JSON of another kind"
        raise _no_answer(call, answer, what, payload)
    reply = _completed(call.reader.parse(body), call, answer)
    error: LLMError
    try:
        if _holds_error(body, call.reader):
            raise _ErrorInside(body)
        call.reader.check(body)
    except _ErrorInside as failed:
        attempt.billed, error = None, _api_error(call, None, answer.headers, failed.args[0])
    except ResponseError as odd:
        error = _no_answer(call, answer, str(odd.args[0]), payload)
        error.body = body
    else:
        attempt.billed, attempt.body = reply, body
        return reply
    if reply.usage.total_tokens:  # what it took is billed, whatever it says
        attempt.billed = error.response = reply
    raise error


def _read_any(call: _Call, attempt: _Attempt, answer: _Answer) -> Response:
    """The reply to a request of the user's own: its `parsed` is the `Answer`, whatever that holds."""
    payload = answer.read()
    body = _value_of(payload)
    if _holds_error(body, call.reader):
        attempt.billed = None
        raise _api_error(call, None, answer.headers, body)
    told, broken = _looked_into(payload, body, call, answer)
    reply = _completed(call.reader.parse(told), call, answer)
    found = Answer(content=payload, status_code=answer.status, headers=answer.headers, request_id=reply.request_id,
                   attempts=reply.attempts, elapsed=reply.elapsed)
    found._broken = broken
    reply.parsed, attempt.billed = found, reply
    return reply


_BLANKS = b"\xef\xbb\xbf \t\r\n"  # what may stand before a body
_EVENTS = rb"(?:data|event|id|retry)?:|[{[]"  # how a body of events, or of JSON a line each, begins


def _value_of(payload: bytes) -> Any:
    """What a body of whatever kind says, if it is JSON: an object or a list."""
    return _json_or(None, payload) if payload[:1000].lstrip(_BLANKS)[:1] in (b"{", b"[") else None


def _looked_into(payload: bytes, body: Any, call: _Call, answer: _Answer) -> Tuple[JSON, Optional[_Broken]]:
    """What a whole body, or the events that it holds, says of the tokens it cost; the first event that is an error."""
    kept: JSON = _dict(body)
    if body is not None or not re.match(_EVENTS, payload[:1000].lstrip(_BLANKS)):
        return kept, None
    with contextlib.suppress(TruncatedStreamError, _TooLarge):  # told by events()
        for at, (type_, data) in enumerate(_plain_events(_EventDecoder(), iter([payload]))):
            _fold_usage(data, kept)
            said = _error_of(type_, data, call.reader)
            if said is not None:
                error = _sealed(_api_error(call, None, answer.headers, said), call)
                what = f"the provider broke the stream off with {error.args[0]}"
                return kept, (at, StreamError(what, why=error.why, last_error=error))
    return kept, None


def _fold_usage(data: str, kept: JSON) -> None:
    """Keep what an event says of the tokens that its stream has cost."""
    body = _dict(_json_or(None, data.encode())) if '"usage' in data else {}
    for told in (_dict(body.get("message")), _dict(body.get("response")), body):
        _put(_dict(told.get("usage")), _under(kept, "usage", dict))
        _put({name: told[name] for name in ("usageMetadata", "model") if told.get(name)}, kept)


def _no_answer(call: _Call, answer: _Answer, what: str, body: bytes) -> ResponseError:
    kind = answer.headers.get("content-type", "no Content-Type")
    known = _is_host(urlsplit(call.url).hostname, call.provider)
    hint = "" if known else f"is it an API at {_shown_url(call)}?"
    hint = _hint_of_page(call) if body[:4096].lstrip()[:1] == b"<" else hint
    if "event-stream" in kind and not call.streams:
        hint = "that server streams, asked or not: stream the answer"
    why = ": ".join(filter(None, (call.quoted(kind), call.quoted(body))))
    return ResponseError(f"{answer.status} but {what}", why=why, hint=hint,
                         body=body, status_code=answer.status, headers=answer.headers,
                         request_id=_request_id(answer.headers), _kind="empty")


def _completed(reply: Response, call: _Call, answer: Optional[_Answer] = None) -> Response:
    """A reply with what is known of it beyond its body; a kept one's limits, cookies and dates are no longer true."""
    call.reader.stamp(reply, call.model)
    limit = call.asked.get("max_tokens") if call.asked else None
    if limit and not call.reader.tells_cut and reply.finish_reason and reply.usage.output_tokens >= limit:
        reply.finish_reason = "length"
        reply.tool_calls[-1:] = [_cut(last, _CUT_BY["length"]) for last in reply.tool_calls[-1:]]
    reply.model = reply.model or call.model
    if answer is not None:
        reply.headers = answer.headers
        reply.request_id = _request_id(answer.headers) or reply.request_id
    reply.attempts = call.before + call.attempts
    reply.elapsed = _now() - call.started
    return reply


def _sealed(error: LLMError, call: _Call) -> LLMError:
    """An error with the call's story on it and no key in what the server said; done once, for it may be dear."""
    error.provider, error.last_error = call.provider.name, error.last_error or call.last_error
    error.attempts, error.elapsed = call.before + call.attempts, _now() - call.started
    mask, said = call.mask(), vars(error)
    said.update({name: mask.of(said[name]) for name in _SERVER_FIELDS if name in said})
    if "body" in said:
        said["body"] = mask.of(said["body"], room=_MAX_ERROR)
    return error


_SERVER_FIELDS = ("message", "code", "type", "request_id", "headers", "response")  # what a server has said


# --------------------------------------------------------------------------------------------------------- kept answers

_ASIDE = frozenset(("baggage", "traceparent", "tracestate", "user-agent", "x-client-request-id", "x-correlation-id",
                    "x-request-id"))  # headers that tell requests apart which ask for the same


def _entry_of(call: _Call) -> str:
    """What an answer is found by: a hash of what is asked, of whom; a stream and a whole answer are the same.

    Of the user's headers those count that hold no secret: they may ask for another answer.  The key does not count.
    """
    url, payload = call.url, call.payload
    if call.streams and call.asked is not None and isinstance(call.reader, _Dialect):
        whole = call.reader.request(call.model, call.asked, False)
        url, payload = _joined(call.base_url, whole.path, call.reader.at_root), _encode(whole.body or {})
    if "?" in url or "@" in url:
        url = _open_part(url)
    headers = _open_headers(call.headers) if call.headers else []
    asked = f"llmlite 1\n{call.provider.name}\n{call.method} {url}\n{headers}\n".encode("utf-8", "backslashreplace")
    return hashlib.sha256(asked + (payload or b"")).hexdigest()


def _open_part(url: str) -> str:
    """A URL without what is secret in it."""
    base, _, query = url.partition("?")
    told = "&".join(part for part in query.split("&") if not _is_hidden(*part.split("=", 1)))
    return f"{_without_userinfo(base)}?{told}" if told else _without_userinfo(base)


def _open_headers(headers: Dict[str, Optional[str]]) -> List[Tuple[str, str]]:
    """Of the user's headers those that tell what is asked."""
    return sorted((name.lower(), str(value)) for name, value in headers.items()
                  if name.lower() not in _ASIDE and not _is_hidden(name, value))


def _is_to_keep(reply: Response) -> bool:
    """Whether an answer is whole; an end that nobody knows may be a cut, so may a call that cannot be read."""
    return (reply.finish_reason in ("stop", "tool_calls", None) and not _is_empty(reply)
            and not (reply.tool_calls and any(call.invalid for call in reply.tool_calls)))


def _kept_text(call: _Call, reply: Response, body: JSON) -> str:
    """An answer as JSON, fit to be read again by the same reader; no key in it."""
    kept: JSON = {"body": body, "request_id": reply.request_id}
    if call.streams and reply.tokens:  # which the pieces told, and the body does not
        kept["tokens"] = [list(token) for token in reply.tokens]
    return json.dumps(call.mask().of(kept), skipkeys=True, separators=(",", ":"))


def _kept_reply(call: _Call, text: Any) -> Optional[Response]:
    """The reply that a kept text holds; None if it holds none, or not what this call wants."""
    kept, reader = _value_in(text), call.reader
    body = kept.get("body")
    if type(body) is not dict or _holds_error(body, reader):
        return None
    reply = reader.parse(body)
    reply.request_id = _str(kept.get("request_id")) or None
    _completed(reply, call)
    reply.cached = True
    if not _is_to_keep(reply):  # somebody else has written it
        return None
    if "tokens" in kept:
        reply.tokens = [Token(*row) for row in _list(kept["tokens"]) if type(row) is list and len(row) == 3]
    try:
        reader.check(body)
        _read_schema(call, reply)
    except (LLMError, _ErrorInside):
        return None
    return reply


def _value_in(text: Any) -> JSON:
    """The object that a kept text says, or none: the mapping is the user's, and may hold anything."""
    if not isinstance(text, str):
        return {}
    try:
        value, end = _scan_json(text, 0)
    except (ValueError, StopIteration, RecursionError):
        return {}
    deep = text.count("[") + text.count("{") > _MAX_DEPTH and not _is_shallow(text.encode("utf-8", "replace"))
    return {} if deep or end < len(text) else _dict(value)


class _KeptFlow:
    """A stream of a reply that is all here."""

    events, left = 0, False

    def __init__(self, call: _Call, reply: Response) -> None:
        self.call, self.done = call, reply

    def run(self) -> Iterator[Any]:
        yield _OPENED
        tokens = [Event("text", token.text, token=token) for token in self.done.tokens]
        said = tokens or _said(self.done.reasoning, self.done.text)
        for event in itertools.chain(said, _closing_events(self.done, True)):
            self.events += 1
            yield event

    def reply(self) -> Response:
        return self.done

    def text(self) -> str:
        return self.done.text

    def leave(self, events: Any) -> None:
        self.left = True
        with contextlib.suppress(ValueError):  # another thread is inside
            events.close()


# -------------------------------------------------------------------------------------------------------------- secrets

_SECRET_NAME = (r"(?:\w*(?:token|secret|password|passwd|passphrase|cookie|credential|(?<!mon|tur|don|hoc|joc)key)|"
                r"o?auth|authorization|bearer|jwt|pass|pwd|signature)s?")  # a part of a header's name
_COUNTS = frozenset(("max", "min", "limit", "remaining", "count", "budget", "used"))  # with "tokens": how many
_PLAIN_TEXT = r"[A-Za-z]{1,15}(?:[ ./_-][A-Za-z]{1,15})*"
_ITEM = 16  # what an item of a list counts, in characters: about what it takes to look at
_LONG_SECRET = 16  # characters: a secret as long is masked inside of words too, for no word has it by chance
_PLACEHOLDERS = frozenset(("anything", "changeme", "lm-studio", "no-key", "no-key-required", "no_key", "none-needed",
                           "not-needed", "not-required", "not-used", "notneeded", "placeholder", "whatever"))


def _is_secret(key: str) -> bool:
    """Whether a key is one: not the "ollama" or "not-needed" that a local server is given, nor a short number.

        >>> [_is_secret(key) for key in ("sk-12ab", "correcthorse", "12345678" * 2, "ollama", "not-needed", "100000")]
        [True, True, True, False, False, False]
    """
    if key.lower() in _PLACEHOLDERS or key.lower() in _PROVIDERS or (key.isdigit() and len(key) < _LONG_SECRET):
        return False
    return len(key) >= 8 or (len(key) >= 6 and not (key.isalpha() and key.islower()))


def _secrecy(name: str) -> int:
    """Whether a header of this name holds a secret: 2 surely, 1 perhaps, 0 no.

        >>> [_secrecy(name) for name in ("X-AccountToken", "X-Api-Key-2", "X-Auth-Mode", "X-Max-Tokens", "X-Monkey")]
        [2, 2, 1, 0, 0]
    """
    parts = [part.lower() for part in re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
    counted = not _COUNTS.isdisjoint(parts)
    found = [bool(re.fullmatch(_SECRET_NAME, part)) and not (counted and part[:5] == "token") for part in parts]
    return any(found) + any(found[-1:])


def _is_hidden(name: str, value: Optional[str] = "") -> bool:
    """Whether a value is a secret by its name, and not by its own looks a mere word."""
    return _secrecy(name) > bool(re.fullmatch(_PLAIN_TEXT, value or ""))


def _hidden(headers: Mapping[str, Any]) -> JSON:
    """Headers without the values of those that may hold a secret."""
    return {name: "***" if value and _secrecy(name) else value for name, value in headers.items()}


class _Mask:
    """Replaces secrets by "***" wherever a server has echoed them: short ones as whole words only."""

    def __init__(self, keys: Iterable[str]) -> None:
        def written(each: Any) -> str:  # as it is, and as JSON or a form that nobody has decoded may have it
            return rf"(?:\\?{re.escape(each[0])}|\\u{ord(each[0]):04x}|%{ord(each[0]):02x})"

        found = {re.sub("[^A-Za-z0-9_-]", written, key): len(key) for key in keys if _is_secret(key)}
        self._longest = 6 * max(found.values(), default=0)  # "\u002f" for "/"
        forms = [form if size >= _LONG_SECRET else rf"(?<![^\W_]){form}(?![^\W_])" for form, size in found.items()]
        # a header's name comes back in lower case
        self._hide = functools.partial(re.compile("|".join(forms), re.I).sub, "***") if forms else None

    def of(self, value: Any, room: float = math.inf) -> Any:
        """`value` without them; no more than `room` characters of it, where a list item counts a few."""
        self._room = room
        return value if self._hide is None and room == math.inf else self._of(value, 0)

    def _of(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, bytes):
            return self._text(value.decode("latin-1")).encode("latin-1")
        if depth > 2 * _MAX_DEPTH:
            return "..."
        if isinstance(value, Response):
            vars(value).update({name: self._of(item, depth + 1) for name, item in vars(value).items()})
        elif isinstance(value, (list, tuple)):
            items = list(self._items(value, depth))
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        elif isinstance(value, (dict, requests.structures.CaseInsensitiveDict)):
            return type(value)(dict(zip(self._items(value, depth), self._items(value.values(), depth))))
        return value

    def _items(self, values: Iterable[Any], depth: int) -> Iterator[Any]:
        for value in values:
            if self._room <= 0:
                return
            self._room -= _ITEM
            yield value if type(value) in (int, float) else self._of(value, depth + 1)

    def _text(self, text: str) -> str:
        room, self._room = self._room, self._room - len(text)
        if room >= len(text):
            return self._hide(text) if self._hide else text
        text = text[:max(0, int(room))]
        return self._hide(text)[:-self._longest] if self._hide else text  # half a secret may stand at the cut


_SECRET_QUERY = r"(?i)^[^=]*(?:auth|key|token|cookie|secret|sig|pass|pwd|cred|\bcode)[^=]*=|=sk-|=.*[\w+/-]{32}"


def _without_userinfo(url: str) -> str:
    """A URL fit to be shown: without user:password@, and without its query."""
    return re.sub(r"//[^/@]*@", "//", url.split("?")[0])


def _fit_to_save(url: str) -> str:
    """A URL fit for a file: without user:password@, and without what looks like a secret in its query."""
    query = url.partition("?")[2]
    kept = "&".join(part for part in query.split("&") if not re.search(_SECRET_QUERY, unquote(part)))
    return _without_userinfo(url) + ("?" + kept if kept else "")


# ------------------------------------------------------------------------------------------------------------ arguments

_UNFIT = r"[^ -~\x80-\xff]"  # for a header: control characters, and what is not Latin
_OPTIONS: Dict[str, Tuple[type, ...]] = {
    "temperature": (float,), "top_p": (float,), "min_p": (float,), "top_k": (int,), "max_tokens": (int,),
    "seed": (int,), "priority": (int,), "logprobs": (int, bool), "system": (str, list), "stop": (str, list, tuple),
    "tool_choice": (str, dict), "reasoning_effort": (str,), "extra": (dict,)}
_LEAST = {"logprobs": 0}


def _checked_fallbacks(fallbacks: Any) -> Tuple[Union[str, Client], ...]:
    """Names and Clients; a str alone would be gone through letter by letter."""
    if isinstance(fallbacks, (str, bytes)) or not isinstance(fallbacks, abc.Iterable):
        raise ConfigurationError(f"fallbacks={_shown(fallbacks)}: give a list of models or Clients")
    return tuple(_checked(f"fallbacks[{at}]", item, (str, Client)) for at, item in enumerate(fallbacks))


def _checked_api(api: Any, row: _Provider) -> str:
    if api not in ("auto", "chat", "responses"):
        raise ConfigurationError(f'api={_shown(api)}: give "auto", "chat" or "responses"')
    if api == "responses" and row.responses() is None:
        raise ConfigurationError(f"{row.name} has no Responses", hint='leave api="responses" out')
    return str(api)


def _checked_prompt_cache(given: Any) -> Any:
    if given not in (None, True, False, "1h"):
        raise ConfigurationError(f'prompt_cache={_shown(given)}: give True, False or "1h"')
    return given


def _checked_cache(cache: Any) -> Any:
    """A mapping, whoever wrote it: what has the methods that are used."""
    if cache is not None and (isinstance(cache, type) or not all(hasattr(cache, name) for name in (
            "get", "__setitem__"))):
        raise ConfigurationError(f"cache={_shown(cache)}: give a dict, llmlite.Cache(path), or None",
                                 hint='for one call "refresh", too')
    return cache


def _checked_method(method: Any) -> str:
    if not isinstance(method, str) or not re.fullmatch("[A-Za-z]{1,20}", method):
        raise ConfigurationError(f"method={_shown(method)}: give GET, POST or the like")
    return method.upper()


def _with_params(path: Any, params: Any) -> str:
    """A path with a query: pairs, or a dict whose values are lists or None, as requests takes them."""
    if not isinstance(path, str) or not path or re.search(_NO_URL + "|#", path):
        raise ConfigurationError(f"path={_shown(path)}: give a path below the base URL, such as /files")
    try:
        query = requests.Request("GET", "http://localhost/", params=params).prepare().path_url.partition("?")[2]
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"params={_shown(params)}: {error}: give a dict") from None
    return path + (("&" if "?" in path else "?") + query if query else "")


def _content_of(given: Any, data: Any, files: Any) -> _Content:
    """The body that a user's own request is to have; forms are written by requests."""
    if given is not None and not (data is files is None):
        raise ConfigurationError("json with data or files: give one body")
    if given is not None:
        return _Content(_encode(given))
    try:
        if not files and (hasattr(data, "read") or isinstance(data, abc.Iterator)):
            upload = _upload_of(data)
            return _Content(b"", None) if isinstance(upload, _FileUpload) and not upload else _Content(
                None, None, upload)
        made = requests.Request("POST", "http://localhost/", data=data, files=files).prepare()
        body: Any = made.body or b""
        payload = body.encode() if isinstance(body, str) else b"".join((body,))  # of anything else a TypeError
    except (TypeError, ValueError, AttributeError, OSError, NotImplementedError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"{'files' if files else 'data'} cannot be sent: {error}",
                                 hint="give what requests takes") from None
    kind: Any = made.headers.get("Content-Type")
    return _Content(payload if body else None, kind)


def _checked_session(session: Any) -> Any:
    """A session, whoever wrote it: what has the methods that are used."""
    used = ("prepare_request", "merge_environment_settings", "send")
    if session is not None and (isinstance(session, type) or not all(hasattr(session, name) for name in used)):
        raise ConfigurationError(f"session={_shown(session)}: give a requests.Session, or None")
    return session


def _checked_folder(folder: Any) -> Optional[str]:
    path = os.fspath(folder) if isinstance(folder, os.PathLike) else folder
    return _checked("save_failed", path, (str, _NONE), form="the path of a folder, or None")  # type: ignore[no-any-return]


def _checked_seconds(name: str, value: Any) -> Any:
    return _checked(name, value, (float, _NONE), _ABOVE_ZERO, "seconds above zero, or None")


def _checked_timeout(timeout: Timeout) -> Tuple[Optional[float], Optional[float]]:
    pair = timeout if isinstance(timeout, (tuple, list)) else (timeout, timeout)
    if len(pair) != 2:
        raise ConfigurationError(f"timeout={timeout!r}: give seconds, (connect, read), or None")
    return _checked_seconds("timeout", pair[0]), _checked_seconds("timeout", pair[1])


def _checked_headers(headers: Headers) -> Dict[str, Optional[str]]:
    if headers is not None and not isinstance(headers, abc.Mapping):
        raise ConfigurationError(f"headers is a {type(headers).__name__}: give a dict")
    checked = dict(headers or {})
    for name, value in checked.items():
        if not isinstance(name, str) or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ConfigurationError(f"headers has the name {name!r}: it is no HTTP header name")
        if value is not None and (not isinstance(value, str) or re.search(_UNFIT, value)):
            raise ConfigurationError(f"headers[{name!r}]: give a str without control characters")
    return checked


def _checked_options(options: JSON) -> JSON:
    """A call's options, if each is of its kind; numbers as Python's own."""
    for name, value in options.items():
        if name in _OPTIONS:
            options[name] = _checked(name, value, _OPTIONS[name], _LEAST.get(name, -_LARGEST))
    if "system" in options:
        _check_dicts("system", options["system"], (str,), '{"type": "text", "text": "..."}')
    if "prompt_cache" in options:
        _checked_prompt_cache(options["prompt_cache"])
    return options


def _checked_key(key: Any, name: str = "api_key") -> str:
    """A key, if it can be one; `name` says where it is from."""
    if not isinstance(key, str):
        raise ConfigurationError(f"{name} is a {type(key).__name__}: give a str, or a function that returns one",
                                 hint=_hint_to_str(key))
    if re.search(_UNFIT, key):
        what = "a line end" if re.search("[\r\n]", key) else "control or foreign characters"
        raise ConfigurationError(f"{name} is not fit for a header: it has {what}", hint="strip() it: a line end may "
                                 "have come with it from a file" if name == "api_key" else "set it without that")
    if re.fullmatch(r"""\s*(["']).*\1\s*""", key):
        raise ConfigurationError(f"{name} has quotation marks around it", hint="leave them out")
    if re.match(r"\s*Bearer\s", key, re.I):
        raise ConfigurationError(f'{name} begins with "Bearer"', hint="leave that out: it is put before the key")
    return key.strip()


def _near(name: str, known: Iterable[str], most: int = 1, least: float = 0.7) -> List[str]:
    """Of known names those most like one, the nearest first, whatever the case."""
    import difflib  # here: only errors need it
    by_low = {one.lower(): one for one in sorted(known, reverse=True)}
    return [by_low[low] for low in difflib.get_close_matches(name.lower()[:100], by_low, most, least)]


_ALIASES = {"google": "gemini", "claude": "anthropic", "chatgpt": "openai", "gpt": "openai", "grok": "xai",
            "x-ai": "xai", "llama.cpp": "llamacpp", "llama-cpp": "llamacpp", "lm-studio": "lmstudio",
            "hf": "huggingface", "aws": "bedrock", "vertex-ai": "vertex", "azure-openai": "azure",
            "azure-ai": "azure", "kimi": "moonshot", "glm": "zai", "ibm": "watsonx",
            "mistralai": "mistral", "local": "ollama"}  # what others call a provider
_MAKERS = (("gpt-|chatgpt|o[1-9](?:-|$)|text-embedding-|codex", "openai"), ("claude", "anthropic"),
           ("gemini", "gemini"), ("grok", "xai"), ("deepseek-(?:chat|reasoner)", "deepseek"),
           ("(?:mi|mini|magi|code|dev)stral|pixtral", "mistral"), ("sonar", "perplexity"),
           ("kimi|moonshot", "moonshot"), ("glm-", "zai"))  # how the models of a provider begin


def _maker_of(model: str) -> str:
    return next((name for form, name in _MAKERS if re.match(form, model, re.I)), "")


def _provider_meant(name: str) -> str:
    """The provider whose name is most like one that is none, or nothing."""
    low = re.sub("[_ ]", "-", name.strip().lower())
    return low if low in _PROVIDERS else _ALIASES.get(low) or next(iter(_near(low, _PROVIDERS)), "")


def _model_meant(model: str) -> str:
    """The "provider/model" that a model without a known provider is likely to stand for, or nothing."""
    model = model.strip(" \t\r\n'\"")
    head, mark, rest = re.match("([^/:]*)([/:]?)(.*)", model, re.S).groups()  # type: ignore[union-attr]
    is_tag = mark == ":" and re.match(_TAG, rest)  # Ollama's
    provider, rest = "" if is_tag else _provider_meant(head) if rest else "", rest.strip()
    if not provider and model and "/" not in model:
        provider, rest = ("" if is_tag else _maker_of(model)) or ("ollama" if mark else ""), model
    return f"{provider}/{rest}" if provider and rest else ""


_TAG = r"(?i)(?:e?\d+(?:\.\d+)?[bm]|\d+x\d+b|latest|cloud|instruct|text|chat|code|mini|q\d)\b"


def _no_provider(model: str) -> ConfigurationError:
    if re.search(_KEY_SHAPE, model):
        return ConfigurationError("model='***' is a key", hint='write "provider/model"; set the key in OPENAI_API_KEY '
                                  "or its like, or give api_key=")
    if re.match(r"\s*(?:\w+://|(?:localhost|\d+(?:\.\d+){3}):\d)", model):
        return ConfigurationError(f"model={_shown(_without_userinfo(model))} is an address",
                                  hint="give it as base_url=, and the model's name as model=")
    meant = _model_meant(model)
    hint = f'did you mean "{_quoted(meant)}"? ' if meant else 'write "provider/model", such as "openai/gpt-5-mini"; '
    more = "" if model else "; LLMLITE_MODEL names one for all"
    lacks = "no model" if model.strip().rstrip("/") in _PROVIDERS else "no provider"
    return ConfigurationError(f"model={_shown(model)} names {lacks}", hint=f"{hint}with provider= or base_url= the "
                              f"model stands alone{more}")


_SCHEMA_INSTEAD = "give schema=: a dataclass, a pydantic class, a JSON schema, or dict"
_EACH_INSTEAD = "give each of them by its name, as temperature="
_FILES_INSTEAD = "write user(text, images=[...], files=[...]) for the message"
_INSTEAD = {name: here for here, names in {  # of chat and its like: an argument of another client -> what to give here
    "write llm.stream(messages), and iterate it": "stream streaming callback callbacks on_token stream_callback",
    "a stream asks for its usage by itself": "stream_options", _SCHEMA_INSTEAD: "response_format response_model "
    "response_schema json_schema json_mode output_format output_type output_schema format",
    "only one answer is read: write llm.map([prompt] * n)": "n", "write llm.map([prompt] * n)": "best_of",
    "give max_tokens=": "max_completion_tokens max_output_tokens max_new_tokens max_tokens_to_sample num_predict",
    "give tools=": "functions", "give tool_choice=": "function_call", "give stop=": "stop_sequences",
    "give system=": "system_prompt instructions system_instruction system_message",
    "it comes first, as messages": "prompt contents", "it comes first": "input",
    "give model=": "model_name engine deployment_id azure_deployment", "give reasoning_effort=": "reasoning thinking "
    "thinking_budget", "give logprobs=, the number": "top_logprobs", "give extra=": "extra_body",
    "give prompt_cache=": "cache_control", "give headers=": "extra_headers", "give timeout=": "request_timeout",
    _EACH_INSTEAD: "config generation_config options", _FILES_INSTEAD: "images image files file attachments",
    "give them as messages, or write llm.conversation()": "history chat_history",
    "write llm.map(prompts, workers=...)": "workers concurrency max_concurrency",
    "write llm.run_tools(messages, tools, max_rounds=...)": "max_turns max_iterations max_steps max_rounds",
    'give errors="return" or "raise"': "return_exceptions", "set LLMLITE_DEBUG=1": "verbose debug",
    "give retry= to Client": "max_retries num_retries retries", "give base_url= to Client":
    "api_base"}.items() for name in names.split()}
_INSTEAD_OF_STREAM = {  # of the methods that have a stream of their own
    "complete": "write llm.stream_tokens(prompt), and iterate it", "send": "write stream(content), and iterate it",
    "stream": "leave it out, it is one", "stream_tokens": "leave it out, it is one"}
_INSTEAD_AT_CLIENT = {name: here for here, names in {
    "give base_url=": "api_base url host endpoint azure_endpoint openai_api_base",
    "give api_key=": "key token apikey openai_api_key",
    'give base_url="https://.../v1", or its query, ?api-version=...': "api_version default_query",
    'give headers={"OpenAI-Organization": "..."}': "organization", 'give headers={"OpenAI-Project": "..."}': "project",
    "give retry=RetryPolicy(max_retries=...)": "max_retries num_retries retries",
    "give rate_limit=RateLimit(...)": "requests_per_minute tokens_per_minute rpm tpm",
    "give headers=": "default_headers", "give timeout=": "request_timeout", "give session=": "http_client trust_env",
    "give session=, or set HTTPS_PROXY": "proxies proxy",
    "give session=, or set REQUESTS_CA_BUNDLE": "verify cert ssl_verify verify_ssl"}.items() for name in names.split()}


def _instead(function: str, name: str) -> str:
    """What to give in place of an argument that a function does not have, or nothing."""
    of_client = {"model", *(Client.__init__.__kwdefaults__ or ())}
    if function == "Client":
        at_call = "give it to chat(), stream() or map()" if name in _CHAT_OPTIONS else _INSTEAD.get(name, "")
        at_call += " to chat()" if re.fullmatch(r"give \w+=", at_call) and at_call[5:-1] not in of_client else ""
        return _INSTEAD_AT_CLIENT.get(name, at_call)
    if name == "stream" and function in _INSTEAD_OF_STREAM:
        return _INSTEAD_OF_STREAM[function]
    if name in _INSTEAD:
        return _INSTEAD[name]
    if name in of_client:
        return f"give {name}= to Client"
    first, mark, more = _INSTEAD_AT_CLIENT.get(name, "").partition(",")
    return f"{first} to Client{mark}{more}" if first else ""


def _unexpected(function: str, name: str, known: Iterable[str]) -> TypeError:
    """The error of an argument that a function does not have, as Python words it, and what to give in its place."""
    instead = _instead(function, name)
    near = [] if instead else _near(name, set(known) - {"self"}, least=0.75)
    if near:
        instead = f"did you mean {near[0]}=?"
    elif not instead and function != "Client":
        instead = f'extra={{"{_quoted(name)}": ...}} sends it as it is'
    return TypeError(f"{function}() got an unexpected keyword argument {name!r}" + (f": {instead}" if instead else ""))


_NAMED = {"Client": "llm", "Response": "reply", "Usage": "usage", "ToolCall": "call", "Embeddings": "embeddings",
          "Event": "event", "Stream": "stream", "Conversation": "talk"}
_ATTRIBUTES_INSTEAD = {f"{kind}.{name}": here for kind, table in {  # what other clients have -> what to write here
    "Client": {
        "llm.chat(messages)": "messages responses generate generate_content generate_text invoke predict ask prompt "
        "create completion run beta chats", "llm.complete(prompt)": "completions text_completion",
        "llm.embed(texts)": "embeddings embedding embed_query embed_documents embed_content",
        "llm.stream(messages)": "generate_content_stream stream_chat chat_stream", "llm.chat(messages), in "
        "asyncio.to_thread()": "acompletion achat ainvoke agenerate astream acreate aio", "llm.map(prompts)": "batch "
        "abatch", "llm.models()": "list_models", "llm.count_tokens(messages)": "get_num_tokens",
        "llm.conversation()": "start_chat", "llm.chat(messages, schema=...)": "with_structured_output parse",
        "llm.run_tools(messages, tools)": "bind_tools", "llm.ledger": "usage", "llm.request(method, path)": "files "
        "images audio moderations fine_tuning vector_stores", "Client(...) anew": "with_options copy"},
    "Response": {
        "reply.text": "choices content output_text output candidates completion delta",
        "reply.finish_reason": "stop_reason", "reply.reasoning": "reasoning_content thinking thoughts",
        "reply.tool_calls": "tool_call function_call tool_use", "reply.usage": "usage_metadata token_usage",
        "reply.usage.input_tokens": "prompt_tokens input_tokens", "reply.usage.total_tokens": "total_tokens",
        "reply.usage.output_tokens": "completion_tokens output_tokens", "reply.parsed": "parsed_output output_parsed",
        "reply.files": "images audio", "reply.citations": "annotations",
        "reply.to_dict()": "json model_dump dict model_dump_json to_json"},
    "Usage": {
        "usage.input_tokens": "prompt_tokens prompt_token_count prompt_eval_count", "usage.total_tokens":
        "total_token_count", "usage.output_tokens": "completion_tokens candidates_token_count eval_count",
        "usage.cached_tokens": "prompt_tokens_details input_tokens_details cache_read_input_tokens "
        "cached_content_token_count", "usage.cache_write_tokens": "cache_creation_input_tokens cache_creation",
        "usage.reasoning_tokens": "completion_tokens_details output_tokens_details thoughts_token_count",
        "usage._asdict()": "model_dump dict to_dict"},
    "ToolCall": {"call.name and call.arguments": "function", "call.arguments": "input args parameters"},
    "Embeddings": {"embeddings.vectors": "data embeddings embedding"},
    "Event": {"event.text": "choices delta content"},
    "Stream": {
        "for text in stream": "text_stream choices iter_lines", "stream.text": "get_final_text", "stream.response":
        "get_final_message get_final_response get_final_completion until_done current_completion_snapshot",
        "stream.response.usage": "usage", "stream.response.finish_reason": "finish_reason"},
    "Conversation": {
        "talk.send(content)": "chat prompt ask say send_message invoke run", "talk.messages": "history get_history "
        "memory", "talk.messages.append(message)": "add_message append", "llm.conversation() anew": "clear reset"},
}.items() for here, names in table.items() for name in names.split()}


def _no_attribute(self: Any, name: str) -> Any:
    """Raise the error of an attribute that there is not: it says what stands here for another client's."""
    owner = type(self)
    said = f"{owner.__name__!r} object has no attribute {name!r}"
    if hasattr(owner, name):  # a property, whose own error Python has dropped
        return object.__getattribute__(self, name)
    kind = next(base.__name__ for base in owner.__mro__ if base.__name__ in _NAMED)
    instead = _ATTRIBUTES_INSTEAD.get(f"{kind}.{name}", "")
    if not instead and name[:1] != "_":
        near = _near(name, (one for one in dir(self) if one[:1] != "_"), least=0.75)
        instead = "".join(f"{_NAMED[kind]}.{one}" + "()" * callable(getattr(owner, one, None)) for one in near)
    raise AttributeError(f"{said}: write {instead}" if instead else said)


if not TYPE_CHECKING:  # pragma: no branch: to a type checker these are mistakes, of which it tells by itself
    Client.__getattr__ = Conversation.__getattr__ = Embeddings.__getattr__ = Event.__getattr__ = _no_attribute
    Response.__getattr__ = Stream.__getattr__ = ToolCall.__getattr__ = Usage.__getattr__ = _no_attribute


def _find_provider(model: Optional[str], provider: Optional[str], base_url: Optional[str],
                   session: Optional[requests.Session]) -> Tuple[_Provider, str, str]:
    """The provider, the address and the model's id that a client's arguments and the environment mean."""
    model = _checked("model", model, (str, _NONE)) or os.environ.get("LLMLITE_MODEL") or ""
    if provider is None and base_url is None:
        provider, _, rest = model.partition("/")
        if not rest or provider not in _PROVIDERS:
            raise _no_provider(model)
        model = rest
    if provider not in (None, *_PROVIDERS):
        meant = _provider_meant(provider) if isinstance(provider, str) else ""
        raise ConfigurationError(f"provider={_shown(provider)} is not known", hint=f'did you mean "{meant}"?' if meant
                                 else "known are openai, anthropic, gemini, ollama and more: providers() lists them")
    row = _PROVIDERS[provider] if provider else _provider_at(_checked_url(base_url or "", session))
    variable = _base_url_variable(row.name)
    url = base_url or _set(variable) or _set(row.blanks.get("", "")) or _filled(row, variable)
    name = variable if not base_url and _set(variable) else "base_url"
    return row, _checked_url(url, session, name).rstrip("/"), model


def _set(variables: str) -> str:
    """The value of the first of the environment's variables that is set; what follows "=" stands for itself."""
    found = (name[1:] if name[:1] == "=" else os.environ.get(name, "") for name in variables.split())
    return next(filter(None, found), "")


def _filled(row: _Provider, variable: str) -> str:
    """A provider's address, its blanks filled from the variables that the provider's own tools use."""
    url = row.base_url
    for blank in dict.fromkeys(re.findall(r"{(\w+)}", url)):
        value, names = _set(row.blanks[blank]), row.blanks[blank].split()
        if not value:
            raise ConfigurationError(f"{row.name} has an address for each {blank}", hint="give base_url=, or set "
                                     f"{variable} to {row.base_url} or {' or '.join(names)}")
        host, path = urlsplit(url).netloc, urlsplit(url).path
        tail = host.partition(f"{{{blank}}}")[2]
        if "://" in value and f"{{{blank}}}" in host:  # where the provider's tools have the whole address in it
            whole = value.partition("?")[0].rstrip("/")
            url = whole if whole.endswith(path) else whole + path
            continue
        value = value[:-len(tail)] if tail and value.endswith(tail) else value
        if not re.fullmatch(r"[\w.:-]+", value):
            raise ConfigurationError(f"{' or '.join(names)}: {_shown(value)} is no {blank}")
        url = url.replace(f"{{{blank}}}", value)
    host = urlsplit(url).hostname or ""
    return url.replace(host, row.hosts.get(host, host), 1) if host else url


def _checked_url(url: str, session: Optional[requests.Session], name: str = "base_url") -> str:
    """A base URL, if it is one: of http, or of what a session has an adapter for, as http+unix://."""
    if not isinstance(url, str):
        raise ConfigurationError(f"base_url is a {type(url).__name__}: give a str")
    try:
        parts = urlsplit(url)
        known = {"http", "https", *(prefix.partition(":")[0].lower() for prefix in getattr(session, "adapters", ()))}
        valid = parts.scheme in known and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or re.search(_NO_URL, url):
        shown, meant = (re.sub(_KEY_SHAPE, "***", text) for text in (_without_password(url), _url_meant(url)))
        raise ConfigurationError(f"{name}={shown!r} is not a URL", hint=f"did you mean {meant}?" if meant else
                                 "write it as https://host/v1 or http://localhost:8000/v1")
    end = re.search(_ENDPOINT, url.partition("?")[0].rstrip("/"))
    if end:
        raise ConfigurationError(f"{name}={_without_userinfo(url)!r} is the address of one endpoint",
                                 hint=f"leave {end[1]} out, it is put behind by each call")
    return url


def _url_meant(text: str) -> str:
    """The URL that a text which is none is likely to stand for, or nothing."""
    found: Any = re.match(r"[\s'\"]*(?:(https?)(?::/?|/)/?(?=\w))?(.*?)[\s'\"]*$", text, re.S)
    scheme, text = found.groups()
    bare = re.fullmatch(r"(?:[\w-]+\.)*[\w-]+(:\d{1,5})?(?:/[\w./-]*)?", text)
    if not bare or not scheme and re.fullmatch(r"[\w-]*", text) or not 0 < int((bare[1] or ":1")[1:]) < 65536:
        return ""
    return f"{scheme or ('http' if bare[1] or _is_local('//' + text) else 'https')}://{text}"


_ENDPOINT = (r"(/chat/completions|(?<=/v1)/(?:completions|responses|messages|embeddings|models|chat)|"
             r"/api/(?:chat|generate|tags)|/models/[^/]*:\w+)$")  # the third are Ollama's


_NO_URL = r'[\x00-\x20\x7f\\<>"^`]'  # what stands in no URL


def _joined(base_url: str, path: str, at_root: bool) -> str:
    """A path below a base URL, whose query (Azure's api-version) stays at the end; /v1 is not doubled.

    A path may be a whole URL, at the same host: else the key would go elsewhere.
    """
    base, _, query = base_url.partition("?")
    base = base.rstrip("/")
    if path[:1] != "/" and not re.match("[a-z][a-z+]*://", path, re.I):
        path = "/" + path
    if path[:1] != "/":
        ours, theirs = (re.match(r"[^/]*//[^/?#]*", url) for url in (base, path))
        if not ours or not theirs or ours[0].lower() != theirs[0].lower():
            raise ConfigurationError(f"{_without_userinfo(path)} is not at {_without_userinfo(base)}",
                                     why="the key is for that host alone", hint="give a path, or ask with requests")
        base = ""
    if (at_root or path.startswith("/v1/")) and base.endswith("/v1"):
        base = base[:-3]
    return base + path + (("&" if "?" in path else "?") + query if query else "")


def _provider_at(url: str) -> _Provider:
    """The known provider whose host and path an address has, else one that is merely compatible."""
    parts = urlsplit(url)
    host, asked = parts.hostname, parts.path.rstrip("/") + "/"

    def nearness(row: _Provider) -> Tuple[bool, int]:
        path = re.sub(_BLANK, "[^/]+", re.escape(urlsplit(row.base_url).path).replace(r"\{", "{").replace(r"\}", "}"))
        return bool(re.match(f"{path}/", asked)), len(row.base_url)

    known = [row for row in _PROVIDERS.values() if row.keys and _is_host(host, row)
             and (nearness(row)[0] or not row.by_path)]
    return max(known, key=nearness, default=_COMPATIBLE)


_BLANK = r"\{\w+\}"
_BLANK_OF = {"{region}": "[a-z]{2,}(?:-[a-z0-9]+)+"}  # as eu-west-1: no name of somebody's bucket


def _is_host(host: Optional[str], row: _Provider) -> bool:
    """Whether a host is one that a provider's key is meant for; a blank of its own stands for one label or more."""
    preset = urlsplit(row.base_url).hostname or ""
    if host == preset or host in row.hosts.values():
        return True
    if "{" not in preset or re.fullmatch(_BLANK, preset):
        return False
    named = r"(?:[\w-]+\.)*[\w-]+"
    pieces = (re.escape(piece) if at % 2 == 0 else _BLANK_OF.get(piece, named)
              for at, piece in enumerate(re.split(f"({_BLANK})", preset)))
    return bool(re.fullmatch("".join(pieces), host or ""))


_JWT = r"eyJ[\w-]+\.[\w-]+\."


class _Token(str):
    """A key that expires."""


class _TokenSource:
    """A token that a key is exchanged for, asked for anew when it has expired (IBM's IAM)."""

    def __init__(self, row: _Provider, key: str, how: JSON) -> None:
        self.key, self.held, self.due, self.section = key, "", -math.inf, _Section()
        # the key is known to be one, so that it shows nowhere, but goes out in the form alone
        self.client = Client(base_url=row.exchange, api_key=key, headers={"Authorization": None}, **how)
        self.client._provider = copy.copy(self.client._provider)
        self.client._provider.name = row.name  # which errors are to name

    def forget(self) -> None:
        self.due = -math.inf

    def __call__(self, deadline: _Deadline = _NO_DEADLINE) -> str:
        """The token, for a call that has so long; one thread asks for it, the others wait."""
        if not self.section.lock.acquire(timeout=min(max(0.0, deadline.end - _now()), 3600.0)):
            raise deadline.error("another call waits for a token", provider=self.client._provider.name)
        try:
            if _now() >= self.due:
                self.held, seconds = self._asked(deadline)
                self.due = _now() + seconds * 0.9
        finally:
            self.section.lock.release()
        return self.held

    def _asked(self, deadline: _Deadline) -> Tuple[str, int]:
        form = {"grant_type": "urn:ibm:params:oauth:grant-type:apikey", "apikey": self.key}
        name, url = self.client._provider.name, self.client._base_url
        answer = self.client.request("POST", url, data=form, deadline=deadline)  # type: ignore[arg-type]
        told = _dict(_json_or(None, answer.content))
        if not _str(told.get("access_token")):
            raise ResponseError("no access_token in the answer", why=_quoted(url), provider=name)
        return told["access_token"], _int(told.get("expires_in"))


def _find_key(row: _Provider, url: str, api_key: Key, how: JSON) -> Union[str, Callable[[], str]]:
    """The key to send: the one given, or the environment's for this very provider; never one for another host."""
    if callable(api_key):
        return api_key
    variable = next((name for name in (*row.keys, *row.optional_keys) if os.environ.get(name, "").strip()), None)
    variable = variable if api_key is None else None
    if variable is not None or api_key is not None:
        key = _checked_key(os.environ[variable] if variable else api_key, variable or "api_key")
        if variable and " " in key and _is_host(urlsplit(url).hostname, row):  # elsewhere it may be a placeholder
            raise ConfigurationError(f"{variable} has a space in it", hint="a key has none: has something been put "
                                     "before it, or behind it?")
        is_token = bool(variable and variable.endswith("TOKEN")) or bool(re.match(_JWT, key))
        exchanges = row.exchange and key and not is_token and _is_host(urlsplit(url).hostname, row)
        return _TokenSource(row, key, how) if exchanges else _Token(key) if is_token else key
    if getattr(how["session"], "auth", None) is not None:  # which signs, or has a key of its own
        return ""
    if row is _COMPATIBLE and _is_local(url):
        return "local"
    if row is _COMPATIBLE:
        raise ConfigurationError(f"no key for {_without_userinfo(url)}", hint='give api_key="..." or set '
                                 'LLMLITE_API_KEY; api_key="" if that server takes none')
    if row.keys:
        raise ConfigurationError(f"no key for {row.name}", hint=f"set {' or '.join(row.keys)}, or give api_key="
                                 + _near_variable(row))
    return ""


def _near_variable(row: _Provider) -> str:
    """A variable that was likely meant to be the one of a provider's key."""
    others = {name for one in _PROVIDERS.values() for name in one.keys}
    begins = "|".join(key[:3] for key in row.keys)
    found = [name for name in sorted(os.environ) if name not in others and os.environ[name]
             and re.match(f"(?i)(?:{begins}).*(?:KEY|TOKEN)", name) and _near(name, row.keys, least=0.8)]
    return f"; {found[0]} is set: rename it" if found else ""


def _is_own_address(provider: Optional[str], url: str) -> bool:
    """Whether an address is one that a provider's key from the environment is meant for."""
    parts = urlsplit(url)
    if provider is None or _is_local(url):
        return _is_local(url)
    row, own = _PROVIDERS[provider], urlsplit(_set(_base_url_variable(provider)))
    with contextlib.suppress(ConfigurationError):
        own = own if own.hostname else urlsplit(_set(row.blanks.get("", "")) or _filled(row, ""))
    named = bool(own.hostname) and (parts.scheme, parts.hostname) == (own.scheme, own.hostname)
    return named or parts.scheme == "https" and _is_host(parts.hostname, row)


def _base_url_variable(provider: str) -> str:
    return provider.upper().replace("-", "_") + "_BASE_URL"


def _is_local(url: str) -> bool:
    """Whether an address is on this machine: on a loopback host, or a socket in the file system."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme.endswith("unix") or host in ("localhost", "::1") or bool(
        re.fullmatch(r"127(\.\d{1,3}){3}", host))


# --------------------------------------------------------------------------------------------------- logging and saving

_PAGE = r"(?i)\s*<(?:!|\?xml|(?:html|head|body|title|center|h1)\b)"  # how HTML and XML begin


def _quoted(text: Any) -> str:
    """The server's own words, fit for one line of a terminal."""
    if isinstance(text, bytes):
        text = text[:_PIECE].decode("utf-8", "replace")
    text = _readable(text)
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:4 * _MAX_QUOTED]).split())
    return line if len(line) <= _MAX_QUOTED else line[:_MAX_QUOTED - 3] + "..."


def _readable(text: str) -> str:
    """The server's words: of a page its title, or else its text without the tags."""
    if not re.match(_PAGE, text):
        return text
    page = text[:_PIECE]
    title = page[page.lower().find("<title"):].partition(">")[2].partition("<")[0]  # where there is none: nothing
    shown = title if title.strip() else re.sub(r"<[^<>]*(?:>|$)", " ", page)
    from html import unescape  # here: its table of entities costs as much to import as a tenth of this module
    return " ".join(unescape(shown).split()) or text


def _debug_to_stderr() -> None:
    """LLMLITE_DEBUG=1 shows the log, unless the program has set up its own."""
    if os.environ.get("LLMLITE_DEBUG", "0") not in ("", "0") and not _log.handlers:
        _log.addHandler(logging.StreamHandler())
        _log.setLevel(logging.DEBUG)


def _log_head(call: _Call, attempt: _Attempt, answer: _Answer) -> None:
    opened = f"connected in {attempt.opened - attempt.started:.3f} s, " if attempt.opened else "pooled connection, "
    limits = {name.lower(): value for name, value in answer.headers.items() if "ratelimit" in name.lower()}
    _log.debug("%s %s: %s %s, %d bytes sent, %shead %d after %.3f s, request %s, limits %s", call.provider.name,
               call.model, call.method, _without_userinfo(call.url), len(call.payload or b""), opened, answer.status,
               _now() - attempt.started, call.quoted(_request_id(answer.headers) or "-"), call.quoted(str(limits)))


def _log_reply(call: _Call, reply: Response) -> None:
    if _log.isEnabledFor(logging.INFO):
        _log.info("%s %s: %s, %d+%d tokens, %d attempt(s), %.2f s, request %s", call.provider.name, reply.model,
                  reply.finish_reason, reply.usage.input_tokens, reply.usage.output_tokens, reply.attempts,
                  reply.elapsed, call.quoted(reply.request_id or "-"))


def _log_hit(call: _Call, reply: Response) -> None:
    if _log.isEnabledFor(logging.INFO):
        _log.info("%s %s: %s, from the cache, %d+%d tokens that are not billed", call.provider.name, reply.model,
                  reply.finish_reason, reply.usage.input_tokens, reply.usage.output_tokens)


def _save(folder: str, call: _Call, error: LLMError) -> None:
    """Write a failed request as one file; trouble with that never hides the call's own error."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{os.urandom(4).hex()}.json"
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        _write_json(os.path.join(folder, name), _record(call, error))
    except (OSError, ValueError, RecursionError) as problem:
        _log.warning("cannot save the failed request to %s: %s", folder, problem)


def _record(call: _Call, error: LLMError) -> JSON:
    """What is saved of a failed request: enough to send it again; no key."""
    own = call.reader.task == "request"  # whose query is the user's; all of its answer is read, stream or not
    return {
        "llmlite": __version__, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "provider": call.provider.name, "model": call.model, "base_url": _fit_to_save(call.base_url),
        "path": call.mask().of(_fit_to_save(call.path)) if own else call.path, "stream": call.streams and not own,
        "task": call.reader.task, "method": call.method,
        **call.mask().of({  # of all else what a server said is masked, and what we say needs no mask
            "headers": _hidden(_request_headers(call)),
            "given": _hidden(call.headers),  # of the headers those the user asked for, or away
            **_saved_content(call)}),
        "status": getattr(error, "status_code", None), "answer": getattr(error, "body", None),
        "partial": error.response.text if error.response else None,
        "error": {"class": type(error).__name__, "message": str(error)}, "attempts": error.attempts,
        "elapsed": round(error.elapsed, 3)}


def _saved_content(call: _Call) -> JSON:
    """The body of a request: JSON as such, else in base64; one that was read as it was sent is gone."""
    if call.upload is not None:
        return {"body": None, "uploaded": True}
    if not call.payload or call.kind == "application/json":
        return {"body": json.loads(call.payload) if call.payload else None}
    payload = call.mask().of(call.payload)
    return {"body": None, "content_type": call.kind, "content": base64.b64encode(payload).decode("ascii")}


def _write_json(path: str, value: Any) -> None:
    _write_own(path, json.dumps(value, indent=1, default=lambda value: (
        value.decode("utf-8", "replace") if isinstance(value, bytes) else repr(value))))


def _write_own(path: str, text: str) -> None:
    """Write a file that its owner alone may read, at once or not at all."""
    part = f"{path}.{os.urandom(4).hex()}.part"
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(part, path)
    except OSError as error:  # it tells of the file that was asked for
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        with contextlib.suppress(OSError, ValueError):  # gone where all went well, or never begun
            os.unlink(part)


# -------------------------------------------------------------------------------------------------------------- showing

# What ends a block of Markdown that this begins, and that holds all that follows if it is not ended.
_BLOCK = (r"(?i)(?P<indent>\s*(?:(?:[-*+]|\d+[.)])\s+)*)"
          r"(?P<opened>`{3,}(?=[^`]*$)|~{3,}|<!--|<\?|<!\[CDATA\[|<(?P<tag>script|pre|style|textarea)\b)")
_BLOCK_ENDS = {"<!--": "-->", "<?": "?>", "<![cdata[": "]]>"}
_CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\t"), ord("\n")})  # for str.translate: dropped
_WHY_EMPTY = {"length": "the token limit was reached before any text", "content_filter": "a content filter withheld it"}
_WHY_ENDED = {"length": "length: cut at the token limit", "content_filter": "content_filter: cut by a content filter",
              None: "not finished"}


def _shell() -> Any:
    """The IPython that this runs in, or None."""
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


def _is_notebook(shell: Any) -> bool:
    """Whether what is displayed can be changed later: everywhere but in IPython's own terminal."""
    return shell is not None and all(kind.__name__ != "TerminalInteractiveShell" for kind in type(shell).__mro__)


def _as_markdown(reply: Response, text: str) -> str:
    """A reply for a notebook: its text, what else it brought, and in small type what a text does not tell."""
    parts = [_fenced(text, "json") if reply.parsed is not None and text else text + _ending(text)]
    if reply.tool_calls:
        parts.append("*The model calls:*\n\n" + _fenced("\n".join(map(_as_call, reply.tool_calls)), "python"))
    parts += map(_as_image, reply.files)
    if not any(parts) and reply.finish_reason is not None:
        why = _WHY_EMPTY.get(reply.finish_reason, f"finish reason {_unmarked(reply.finish_reason)}")
        parts.append(f"*The answer is empty: {why}.*")
    return "\n\n".join(filter(None, (*parts, _small_print(reply)))).encode("utf-8", "replace").decode()


def _small_print(reply: Response) -> str:
    """Model, tokens, time, and how it ended, if not well; nothing of a reply that was made by hand."""
    usage, reason, raw = reply.usage, reply.finish_reason, reply.raw_finish_reason
    thought = f" ({usage.reasoning_tokens} reasoning)" if usage.reasoning_tokens else ""
    ended = "" if reason == "stop" else _WHY_ENDED.get(reason, reason or "")
    told = (reply.model, f"{usage.input_tokens} tokens in, {usage.output_tokens} out{thought}" if any(usage) else "",
            "from the cache" if reply.cached else f"{reply.elapsed:.1f} s" if reply.elapsed else "",
            f"{reply.attempts} attempts" if reply.attempts > 1 else "",
            ended + (f" ({raw})" if ended and raw not in (None, reason) else ""))
    return f"<small>{' · '.join(filter(None, map(_unmarked, told)))}</small>" if any(told[:-1]) else ""


def _unmarked(text: str) -> str:
    """A word of the provider's, in which neither HTML nor Markdown finds anything."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:_MAX_QUOTED]).split())
    return re.sub(r"[^\w\s.,/:()-]|:(?=//)", lambda found: f"&#{ord(found[0])};", line)


def _as_call(call: ToolCall) -> str:
    """A call as Python would have it; one that must not be run as the model wrote it."""
    if call.invalid:
        return f"{call.name}({call.raw_arguments})  # not to be run: {call.invalid}"
    return f"{call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})"


def _as_image(file: File) -> str:
    if file.mime_type in [f"image/{kind}" for kind in _IMAGES]:
        return f"![an image](data:{file.mime_type};base64,{base64.b64encode(file.data).decode()})"
    return f"*A file: {_unmarked(file.mime_type)}, {len(file.data)} bytes.*"


def _fenced(text: str, language: str) -> str:
    """A text as a block of code, which nothing in it ends."""
    ticks = "`" * max(2, *map(len, re.findall("`+", text)), 0) + "`"
    return f"{ticks}{language}\n{text}\n{ticks}"


def _ending(text: str) -> str:
    """What ends the block of code or HTML that a text, as one that was cut does, leaves open."""
    indent = end = ""
    for line in text.expandtabs(4).splitlines():
        begun = None if end else re.match(_BLOCK, line)
        if begun is not None:
            opened = begun["opened"].lower()
            end = f"</{begun['tag']}>" if begun["tag"] else _BLOCK_ENDS.get(opened, opened)
            indent, line = " " * len(begun["indent"]), line[begun.end():]
        if end and _ends(line.strip().lower(), end.lower()):
            end = ""
    return f"\n{indent}{end}" if end else ""


def _ends(line: str, end: str) -> bool:
    fences = end[0] in "`~"
    return line.startswith(end) and not line.strip(end[0]) if fences else end in line


def _show_in_cell(stream: Stream[Any, Any]) -> None:
    """Live Markdown, some ten times a second, in one place of a cell, whose own result does not show it again."""
    import importlib
    shown = importlib.import_module("IPython.display").display(_bundle("…"), raw=True, display_id=True)
    due = -math.inf
    try:
        for _ in stream.events():
            if _now() >= due:
                text = stream.text
                shown.update(_bundle(text or _as_thoughts(stream.response.reasoning)), raw=True)
                due = _now() + max(_LIVE, len(text) / _LIVE_MOST)
    finally:
        reply = stream.response
        shown.update(_bundle(_as_markdown(reply, stream.text), stream.text), raw=True)
        vars(reply)[_HOOK] = functools.partial(_show_once, _shell().execution_count)


def _show_once(cell: int) -> None:
    """Nothing in the cell that has shown a reply already; else IPython goes on to its Markdown."""
    if getattr(_shell(), "execution_count", None) != cell:
        raise NotImplementedError


def _as_thoughts(reasoning: str) -> str:
    return f"<small>… {_unmarked(reasoning[-_MAX_QUOTED:])}</small>"


def _bundle(markdown: str, text: str = "") -> JSON:
    """What is displayed, for notebooks and for those that show text alone, as terminals do."""
    return {name: shown.encode("utf-8", "replace").decode() for name, shown in (
        ("text/markdown", markdown), ("text/plain", (text or markdown).translate(_CONTROLS)))}


def _show_as_text(stream: Stream[Any, Any]) -> None:
    """Pieces onto stdout as they come, from the text's beginning; then the calls of tools."""
    last = "\n"
    try:
        for text in itertools.chain([stream.text], (event.text for event in stream.events() if event.type == "text")):
            _print_now(text)
            last = text or last
    finally:
        _print_now("" if last.endswith("\n") else "\n")
    _print_now("".join(f"{_as_call(call)}\n" for call in stream.response.tool_calls))


def _print_now(text: str) -> None:
    """Onto stdout at once; a terminal gets no control characters, for what a model says may come from anybody."""
    if sys.stdout is not None and sys.stdout.isatty():
        text = text.translate(_CONTROLS)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), end="", flush=True)


def _shown_error(error: LLMError) -> List[str]:
    """An error's line, the user's own lines that led to it, and where to find what had come."""
    if _handler().mode == "Verbose":  # as %tb or %xmode asks for
        import traceback
        return "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines()
    line = "".join(c if c.isprintable() else " " for c in str(error))
    come = len(error.response.text) if error.response is not None else 0
    held = [f"    {come} characters had come: sys.last_value.response"] if come else []
    return [f"{type(error).__name__}: {line}", *_own_lines(error), *held]


def _shown_stop(line: str) -> List[str]:
    _handler()
    return [line]


def _handler() -> Any:
    """What IPython shows errors by, told where %debug is to begin: it knows only those it renders."""
    handler = getattr(_shell(), "InteractiveTB", SimpleNamespace(mode=""))
    handler.tb = getattr(sys, "last_traceback", None)
    return handler


def _own_lines(error: BaseException) -> List[str]:
    """Where an error comes from: the lines of cells, and of what these call, up to this module."""
    import linecache
    import traceback
    found: List[str] = []
    inside = False
    for frame, number in traceback.walk_tb(error.__traceback__):
        module, path = frame.f_globals.get("__name__") or "", frame.f_code.co_filename
        if module == __name__ or module.startswith("llmlite."):
            break
        inside = inside or module == "__main__"
        line = "" if _is_library(path) else linecache.getline(path, number).strip()
        if inside and line and not line.startswith("get_ipython()."):  # a magic, whose line says nothing
            found.append(f"    {os.path.basename(path) if os.path.isfile(path) else 'cell'}, line {number}:  {line}")
    return found


def _is_library(path: str) -> bool:
    return "-packages" in path or path.startswith(os.path.dirname(os.__file__))


def _shorten(stop: KeyboardInterrupt, began: Union[_Call, _Progress]) -> None:
    """In IPython, show what Ctrl-C stopped as one line; it stays the same KeyboardInterrupt."""
    if _shell() is not None:
        what = f"{began.provider.name} {began.model}".strip() if isinstance(began, _Call) else f"map, {began.done} done"
        line = f"KeyboardInterrupt: {what}: stopped after {_now() - began.started:.1f} s"
        vars(stop).setdefault("_render_traceback_", functools.partial(_shown_stop, line))


# ----------------------------------------------------------------------------------------------------------------- json

_ALL_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_FRAME = bytes(range(256)).translate(None, b'[]{}"')


def _is_shallow(payload: bytes) -> bool:
    """Whether JSON is nested no deeper than what pickles, copies and prints; at a fraction of what reading it costs."""
    if payload.count(b"[") + payload.count(b"{") <= _MAX_DEPTH:
        return True
    quoted = payload.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_ALL_SQUARE, _NO_FRAME).replace(b'""', b"")
    brackets, size = b"".join(quoted.split(b'"')[::2]), -1  # those in texts left out
    for _ in range(_MAX_DEPTH):
        if len(brackets) in (0, size):
            break
        size = len(brackets)
        brackets = brackets.replace(b"[]", b"")
    return not brackets


def _plain(value: Any) -> Any:
    """A number, or a truth value, of another library (NumPy, say) as JSON has it."""
    plain = _unboxed(value)
    number = plain if isinstance(plain, bool) else _finite(plain)
    if number is None:
        raise TypeError(f"{_shown(value)} has no JSON form")
    return number


def _as_json(value: Any) -> Any:
    """Any value of a reply as JSON has it: objects as dicts of what they hold, bytes as base64, no NaN."""
    if isinstance(value, enum.Enum):
        return _as_json(value.value)
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, abc.Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, abc.Set)) and not hasattr(value, "_fields"):
        return [_as_json(item) for item in value]
    return _held_as_json(value)


def _held_as_json(value: Any) -> Any:
    """An object as a dict of its public fields; its text where it has none (a date)."""
    if hasattr(value, "model_dump"):
        return _as_json(value.model_dump(mode="json"))
    names: Any = getattr(value, "_fields", None) or getattr(value, "__dict__", None)
    if hasattr(value, "__dataclass_fields__"):
        from dataclasses import fields
        names = [field.name for field in fields(value)]
    if names is None:
        return str(value)
    return {name: _as_json(getattr(value, name)) for name in names if name[0] != "_"}


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False, default=_plain)


def _encoding() -> Callable[[Any, int], Iterable[str]]:
    """What JSONEncoder.encode makes anew for each text, which costs more than a short text does.

    It looks for no cycles: they are as deep as Python goes.
    """
    try:
        text: Any = json.encoder
        return text.c_make_encoder(  # type: ignore[no-any-return]
            None, _plain, text.encode_basestring, None, ":", ",", False, False, False)
    except (AttributeError, TypeError):  # pragma: no cover: another Python than CPython, or one to come
        return lambda value, level: _ENCODER.iterencode(value)


_json_pieces = _encoding()


def _encode(body: JSON) -> bytes:
    try:  # half a surrogate pair stays an escape, as in JSON
        return "".join(_json_pieces(body, 0)).encode("utf-8", "backslashreplace")
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the request cannot be written as JSON: {error}") from None
    except RecursionError:
        raise ConfigurationError("the request cannot be written as JSON: it holds itself, or is too deep") from None


def _dict(value: Any) -> JSON:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> List[Any]:
    return value if isinstance(value, list) else []


def _str(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _int(value: Any) -> int:
    return (value if value < 1 << 53 else 1 << 53) if isinstance(value, int) and value > 0 else 0


def _at(value: Any, path: str) -> Any:
    """What stands at a path such as "usage.prompt_tokens"; None where there is no such place."""
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _count(value: Any, *paths: str) -> int:
    """The first count above zero at one of these paths, or 0."""
    for path in paths:
        count = _int(_at(value, path))
        if count:
            return count
    return 0


def _first(*values: Any) -> Any:
    for value in values:
        if value is not None and value != "":
            return value
    return None


def _first_text(*values: Any) -> str:
    """The first that says something, as text; the start of it, if it is a long list."""
    value = next((value for value in values if value and not isinstance(value, dict)), "")
    pieces = (value,) if isinstance(value, str) else itertools.islice(_JSON_PIECES(value), _MAX_QUOTED)
    return "".join(pieces)


def _short(mask: _Mask, value: Any) -> Any:
    """A code, a type or an id of an error: a number, or the start of a text; None for anything else."""
    if isinstance(value, str):
        return mask.of(value, room=_MAX_MESSAGE)[:_MAX_QUOTED]
    return value if isinstance(value, (int, float)) else None


_JSON_PIECES = json.JSONEncoder(ensure_ascii=False, default=str).iterencode
_DECODER = json.JSONDecoder()
# json.loads without the search for white space at both ends
_scan_json: Callable[[str, int], Tuple[Any, int]] = getattr(_DECODER, "scan_once", _DECODER.raw_decode)


def _floats(value: Any) -> List[float]:
    """A vector: a list of numbers, or base64 of little-endian float32."""
    try:
        data = base64.b64decode(value) if isinstance(value, str) else b""
        return list(struct.unpack(f"<{len(data) // 4}f", data)) or _list(value)
    except (ValueError, struct.error):
        return []


def _without(value: JSON, *names: str) -> JSON:
    return {name: item for name, item in value.items() if name not in names}


def _merged(body: JSON, extra: JSON) -> JSON:
    """A body with `extra` in it: it wins, and of two objects the keys are merged."""
    both = {key: {**body[key], **value} for key, value in extra.items()
            if isinstance(value, dict) and isinstance(body.get(key), dict)}
    return {**body, **extra, **both}


def _put(new: JSON, kept: JSON) -> None:
    """Put what is new into what is kept; null and blank replace nothing that had come."""
    for key, value in new.items():
        if value or key not in kept:
            kept[key] = value


def _fold(piece: JSON, kept: JSON, grows: JSON) -> None:
    """Put a piece into what is kept; what `grows` names as a str or a list grows, and within a dict what that names.

    What should grow, and is of another kind, replaces nothing.

        >>> kept = {"index": 0, "function": {"name": "add"}, "tokens": [1]}
        >>> _fold({"index": 0, "function": {"name": ""}, "tokens": [2]}, kept, {"function": {}, "tokens": list})
        >>> kept
        {'index': 0, 'function': {'name': 'add'}, 'tokens': [1, 2]}
    """
    for key, value in piece.items():
        growth = grows.get(key)
        if growth is None:
            if value or key not in kept:
                kept[key] = value
        elif growth is str and type(value) is str:
            _gather(kept, key, value)
        elif growth is list and type(value) is list:
            _under(kept, key, list).extend(value)
        elif type(growth) is dict and type(value) is dict:
            _fold(value, _under(kept, key, dict), growth)
        elif key not in kept:
            kept[key] = value


def _gather(kept: JSON, key: str, piece: str) -> None:
    """Append to a text that grows piece by piece, at a cost that does not grow with it."""
    try:
        kept[key].write(piece)
    except (KeyError, AttributeError):  # the first, or the first that is a text
        before, kept[key] = _str(kept.get(key)), io.StringIO()
        kept[key].write(before + piece)


def _under(kept: JSON, key: str, kind: Type[Any]) -> Any:
    """What stands under a key, made anew where a server has put something else there."""
    if type(kept.get(key)) is not kind:
        kept[key] = kind()
    return kept[key]


def _member(kept: JSON, key: str, index: Any, id: Any = None) -> JSON:
    """The item of a list that a piece goes on: that of its index, else the last; a new id opens a new item."""
    try:
        last: JSON = kept[key][-1]
        if last["index"] == index and id is None:
            return last  # the usual, at once
    except (LookupError, TypeError):
        pass
    items: List[JSON] = _under(kept, key, list)
    for item in reversed(items):
        if index is None:
            if not id or item.get("id") == id:
                return item
            break
        if item.get("index") == index and (not id or item.get("id", id) == id):
            return item
    if len(items) >= _MAX_CALLS:
        raise _TooLarge(f"a reply of over {_MAX_CALLS} {key.replace('_', ' ')}")
    items.append({} if index is None else {"index": index})
    return items[-1]


def _settled(value: Any, depth: int = 8) -> Any:
    """What is kept as plain JSON: buffers become str; a copy, for another thread may be folding the next chunk in."""
    if isinstance(value, io.StringIO):
        return value.getvalue()
    if depth and isinstance(value, dict):
        return {key: _settled(item, depth - 1) for key, item in value.copy().items()}
    if depth and isinstance(value, list):
        return [_settled(item, depth - 1) for item in value.copy()]
    return value


# -------------------------------------------------------------------------------------------------------------- readers


class _ErrorInside(Exception):
    """A reply that says it failed; its argument is the error object."""


class _Reader:
    """What an answer means: pure functions over its decoded body."""

    task = "chat"  # what was asked for, in a saved request
    mark = ""  # the key that every good body and chunk has
    lists: Tuple[str, ...] = ()  # where there is no mark: the keys of which a good body has one
    at_root = False  # whether the path stands beside /v1, not below
    most = 1 << 62  # bytes that a request may have
    accept = ""  # what kind of answer is asked for, if not JSON or events
    opens: Tuple[Any, Any] = (Stream, _Flow)  # what a stream is handed out as, and what lives in it
    tokens = False  # whether a stream's pieces are Tokens
    opening: FrozenSet[str] = frozenset()  # types of events that come before anything is said
    tells_cut = True  # whether it says of an answer that the token limit has cut it
    done_ends = True  # whether [DONE] says that all is here

    def take(self, call: _Call, attempt: _Attempt, answer: _Answer) -> Response:
        """The reply that an answer holds, or the error that it is."""
        return _read_reply(call, attempt, answer)

    def fails(self, body: JSON) -> bool:
        """Whether a body that tells of an error is one."""
        return True

    def answers(self, body: JSON) -> bool:
        """Whether a body has what a good one has."""
        return self.mark in body or any(isinstance(body.get(name), list) for name in self.lists)

    def stamp(self, reply: Response, model: str) -> None:
        """Note in a reply's message which model was asked, where that matters when it goes back."""

    def otherwise(self, body: JSON, error: APIError) -> Optional[JSON]:
        """The body to send instead of one that a server has refused, where it tells which; None where it does not."""
        return None

    def check(self, body: JSON) -> None:
        """Raise ResponseError if a body holds no reply, _ErrorInside if it says that it failed."""

    def parse(self, body: JSON) -> Response:
        """The reply a body holds; of a body that is still being folded, the reply so far.  Raises nothing."""
        raise NotImplementedError

    def parse_event(self, chunk: JSON, body: JSON) -> List[_Said]:
        """Fold a stream's chunk into `body`, the reply's body so far, and return the events it stands for."""
        raise NotImplementedError

    def text(self, body: JSON) -> str:
        """The text of a body, also of one that is being folded."""
        raise NotImplementedError


class _ModelList(_Reader):
    """One page of the list of models."""

    task = "models"
    lists = ("data", "models")

    def check(self, body: JSON) -> None:
        if self.rows(body) is None:
            raise ResponseError("no list of models in the answer")

    def parse(self, body: JSON) -> Response:
        rows = [_dict(row) for row in self.rows(body) or []]
        names = [_str(row.get("id")) or _str(row.get("name")) for row in rows]
        return Response(parsed=[name[7:] if name.startswith("models/") else name for name in names], raw=body)

    def rows(self, body: JSON) -> Optional[List[Any]]:
        """The rows of a page, under any of the names they have."""
        return next((body[name] for name in self.lists if isinstance(body.get(name), list)), None)


def _next_page(body: JSON) -> str:
    """What asks for the page of models after this one; "" after the last."""
    more = body.get("last_id") if body.get("has_more") is True else None
    name = "pageToken" if body.get("nextPageToken") else "after_id" if more else ""
    value = str(body.get("nextPageToken") or more)
    return f"{name}={quote(value, safe='', errors='replace')}" if name else ""


class _Vectors(_Reader):
    """The embeddings of so many texts (0: of any number)."""

    task = "embeddings"
    lists = ("data", "embeddings")

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def check(self, body: JSON) -> None:
        vectors = self.parse(body).parsed
        if not vectors or not all(vectors):
            raise ResponseError("no embeddings in the answer")
        if self.count and len(vectors) != self.count:
            raise ResponseError(f"{len(vectors)} embeddings for {self.count} texts")

    def parse(self, body: JSON) -> Response:
        rows = sorted(map(_dict, _list(body.get("data"))), key=lambda row: _int(row.get("index")))
        vectors = [_floats(row.get("embedding")) for row in rows]
        vectors += [_floats(_dict(row).get("values")) for row in _list(body.get("embeddings"))]
        usage = Usage(_count(body, "usage.prompt_tokens", "usageMetadata.promptTokenCount"))
        return Response(parsed=vectors, raw=body, usage=usage, model=_str(body.get("model")))


_VALUES: Dict[str, Tuple[type, Tuple[str, ...]]] = {  # of what kind, and under which keys
    "count": (int, ("input_tokens", "totalTokens", "count")), "ids": (list, ("tokens",)),
    "text": (str, ("prompt", "content"))}


class _Value(_Reader):
    """The one value of an answer."""

    def __init__(self, task: str, at_root: bool = False) -> None:
        self.task, self.at_root = task, at_root
        self.kind, self.keys = _VALUES[task]

    def answers(self, body: JSON) -> bool:
        return any(type(body.get(key)) is self.kind for key in self.keys)

    def check(self, body: JSON) -> None:
        if not self.answers(body):
            raise ResponseError(f"no {self.keys[0]} in the answer")

    def parse(self, body: JSON) -> Response:
        value = next((body[key] for key in self.keys if type(body.get(key)) is self.kind), None)
        return Response(parsed=value, raw=body)


_ENVELOPE = frozenset(("error", "message", "code", "type", "status", "status_code", "metadata", "user_id", "request_id",
                       "success", "object"))  # what an error that is sent as an answer consists of


class _Anything(_Reader):
    """Whatever an endpoint answers that the user knows; what it cost is read as a dialect has it."""

    task = "request"
    accept = "*/*"
    opens = (Answer, _AnyFlow)

    def __init__(self, dialect: _Dialect) -> None:
        self.dialect = dialect

    def take(self, call: _Call, attempt: _Attempt, answer: _Answer) -> Response:
        return _read_any(call, attempt, answer)

    def answers(self, body: JSON) -> bool:
        return True

    def fails(self, body: JSON) -> bool:
        # a batch, say, has an error beside its id, a job beside its status: that is what was asked for
        return _ENVELOPE.issuperset(body) and _str(body.get("status")) in ("", "error")

    def parse(self, body: JSON) -> Response:
        told, usage = self.dialect.parse(body).usage, body.get("usage")
        if not told.input_tokens:  # another endpoint's
            told = Usage(_count(usage, "input_tokens", "total_tokens"), _count(usage, "output_tokens"),
                         _count(usage, "input_tokens_details.cached_tokens"),
                         _count(usage, "output_tokens_details.reasoning_tokens"))
        return Response(parsed=body, raw=body, usage=told, model=_str(body.get("model")))


_REFUSED_CALLS = "(?i)malformed|(?:unexpected|too_many)_tool_call|missing_thought_signature"  # in a finish reason
_CUT_BY = {"length": "cut at the token limit", "content_filter": "cut by the content filter"}
_FINISH_OF: Dict[str, Any] = {word: finish for finish, words in {  # unknown words are "other"
    "stop": "stop completed eos word end_turn stop_sequence STOP COMPLETE",
    "length": "length max_tokens max_output_tokens model_length model_context_window_exceeded MAX_TOKENS limit",
    "tool_calls": "tool_calls function_call tool_use",
    "content_filter": "content_filter refusal SAFETY RECITATION BLOCKLIST PROHIBITED_CONTENT SPII IMAGE_SAFETY "
                      "IMAGE_PROHIBITED_CONTENT IMAGE_RECITATION IMAGE_OTHER MODEL_ARMOR JAILBREAK",
}.items() for word in words.split()}


def _finish_of(raw: Any) -> Optional[FinishReason]:
    """The canonical finish reason; None while there is none."""
    finish: FinishReason = _FINISH_OF.get(raw if isinstance(raw, str) else "", "other")
    return None if raw is None else finish


def _cut(call: ToolCall, why: str) -> ToolCall:
    return call._replace(invalid=", ".join(filter(None, (call.invalid, why))))


def _finished(reply: Response, voice: str = "", verbatim: Any = None, customs: Sequence[bool] = ()) -> Response:
    """A reply with its message, and in it what the dialect of this voice wants back verbatim, if anything.

    Tool calls are why it ended, unless it was cut: then the last of them is.  `customs` says which are of custom tools.
    """
    calls, finish = reply.tool_calls, reply.finish_reason
    if calls and re.search(_REFUSED_CALLS, str(reply.raw_finish_reason)):
        why = f"refused by the provider: {_shown(reply.raw_finish_reason)}"
        calls[:] = [call._replace(invalid=why) for call in calls]
    if calls and finish in _CUT_BY:
        calls[-1] = _cut(calls[-1], _CUT_BY[finish])
    elif calls and finish is not None:
        reply.finish_reason = "tool_calls"
    reply.message = {"role": "assistant", "content": reply.text or (None if calls else "")}
    if calls:
        reply.message["tool_calls"] = [
            {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.raw_arguments}} if custom else
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.raw_arguments}}
            for call, custom in itertools.zip_longest(calls, customs)]
    if verbatim:
        reply.message["llmlite"] = {voice: verbatim}
    return reply


def _files(made: Iterable[Tuple[Any, Any]]) -> List[File]:
    """What a model made, of media types and base64; what has no data is left out."""
    files = (File(_str(kind) or "application/octet-stream", _unbased(data)) for kind, data in made)
    return [file for file in files if file.data]


def _made_images(images: Any) -> List[File]:
    """Images as OpenRouter has them, which are parts of a message."""
    found = filter(None, map(_attached, map(_dict, _list(images))))
    return _files((image.mime_type, image.data) for image in found)


def _logprobs(said: Any) -> List[Logprob]:
    """What log probabilities tell of tokens: a list of rows (chats), or lists side by side (raw completions)."""
    if type(said) is not dict:
        return []
    if said.get("content"):
        return _weighed_rows(said["content"])
    words, weights, tops = (_list(said.get(name)) for name in ("tokens", "token_logprobs", "top_logprobs"))
    return [Logprob(_str(word), weight, tuple(itertools.starmap(Logprob, _dict(top).items())))
            for word, weight, top in itertools.zip_longest(words, weights, tops)]


def _weighed_rows(rows: Any) -> List[Logprob]:
    return [Logprob(_str(row.get("token")), row.get("logprob"), tuple(_weighed_rows(row.get("top_logprobs"))))
            for row in map(_dict, _list(rows))]


def _said(thoughts: str, text: str) -> List[_Said]:
    """The events of what a piece says."""
    return [*([Event("reasoning", thoughts)] if thoughts else []), *([text] if text else [])]


# ------------------------------------------------------------------------------------------------------------- dialects


class _Dialect(_Reader):
    """A wire format, as pure functions over dicts; what differs within a family is an attribute or an override."""

    voice = ""  # the name under which its own words ride in a message of the history
    speech = "raw completions"  # what people call the wire format
    models_path = "/models"
    embeddings_at_once = 2048  # texts in one embeddings request
    auth_header, auth_scheme = "Authorization", "Bearer "
    takes_tokens = False  # whether a token goes another way than a key
    fixed_headers: Dict[str, str] = {}
    names: Dict[str, str] = {}  # our name of an option -> the provider's
    lacks: Tuple[str, ...] = ()  # options the provider has not
    keeps_whole = False  # whether a body may say of itself that it is to be kept
    counts = ""  # where tokens are counted, if not by itself: "items" at Responses, "tokens" at /tokenize
    kinds: Tuple[str, ...] = ()  # of files in a message
    ids = ""  # the form of the tool calls' ids that it takes; "": any

    def __init__(self, **quirks: Any) -> None:
        self.__dict__.update(quirks)

    def headers(self, key: str) -> Dict[str, Optional[str]]:
        if self.takes_tokens and key and isinstance(key, _Token):
            return {"Authorization": f"Bearer {key}", **self.fixed_headers}
        return {**({self.auth_header: self.auth_scheme + key} if key else {}), **self.fixed_headers}

    def request(self, model: str, asked: JSON, stream: bool) -> _Request:
        """What was asked of a model, as this provider takes it; `extra` wins."""
        for name in self.lacks:
            if name in asked:
                raise ConfigurationError(f"{name} is not an option of {self.voice}", hint="leave it out")
        asked = dict(asked)
        extra, kept = asked.pop("extra", None), asked.pop("prompt_cache", None)
        path, body = self.build(model, asked, stream)
        if kept:
            self.keep(body, {"type": "ephemeral", **({"ttl": "1h"} if kept == "1h" else {})})
        return _Request("POST", path, _merged(body, extra) if extra else body)

    def build(self, model: str, asked: JSON, stream: bool) -> Tuple[str, JSON]:
        """The path and the body for what was asked, which is a dict of the method's own."""
        raise NotImplementedError

    def with_ids(self, messages: List[JSON]) -> List[JSON]:
        """The history, the ids of others' calls in a form that this provider takes."""
        if not self.ids:
            return messages
        own = {str(call.get("id")) for message in messages if _verbatim(message, self.voice)
               for call in _list(message.get("tool_calls"))}

        def taken(holder: JSON, name: str) -> JSON:
            id = holder.get(name)
            return holder if str(id) in own else {**holder, name: _id_as(self.ids, id)}

        sent = [taken(message, "tool_call_id") if "tool_call_id" in message else message for message in messages]
        return [{**message, "tool_calls": [taken(call, "id") for call in message["tool_calls"]]}
                if message.get("tool_calls") else message for message in sent]

    def keep(self, body: JSON, mark: JSON) -> None:
        """Have a prompt kept by the provider's cache: where nothing is said here, it does so by itself, or never."""
        if self.keeps_whole:
            body["cache_control"] = mark

    def written(self, part: JSON) -> JSON:
        """A part of a message as this provider takes it; its own kinds go through as they are."""
        file = _attached(part)
        if file is None:
            return self.worded(part)
        if not (file.data or file.url or file.inner.get("file_id")):
            raise ConfigurationError(f"a part of a message is a {part['type']} without data", hint="give file_data, "
                                     "file_url or file_id, or let user(files=) write it")
        far = file.url and file.kind != "images" and _BY_URL not in self.kinds  # and nobody to fetch it
        if file.kind in self.kinds and not far or file.inner.get("file_id"):
            return self.attachment(part, file)
        if file.kind == "text":
            text = file.text()
            return self.worded({"type": "text", "text": f"{file.name}:\n\n{text}" if file.name else text})
        kind = _BY_URL if far and file.kind in self.kinds else file.kind
        raise ConfigurationError(f"a message to {self.speech} cannot hold {kind}",
                                 why=f"it takes {', '.join(self.kinds)}", hint=_TAKERS.get(kind, ""))

    def worded(self, part: JSON) -> JSON:
        """A part that is no file."""
        return part

    def attachment(self, part: JSON, file: _Attached) -> JSON:
        """A part that is a file."""
        return part

    def renamed(self, asked: JSON) -> JSON:
        return {self.names.get(name, name): value for name, value in asked.items()} if self.names else asked

    def models(self, page: str) -> _Request:
        """What asks for the list of models, or for a later page of it."""
        path = self.models_path
        if not path:
            raise _not_offered("models()")
        return _Request("GET", path + ("&" if "?" in path else "?") + page if page else path)

    def embeddings(self, model: str, texts: List[str], extra: JSON) -> _Request:
        path, body = self.embedding(model, texts)
        return _Request("POST", path, _merged(body, extra))

    def embedding(self, model: str, texts: List[str]) -> Tuple[str, JSON]:
        raise _not_offered("embed()")

    def counting(self, model: str, asked: JSON) -> Tuple[_Request, _Value]:
        """What asks for the number of tokens of a chat."""
        raise _not_offered("count_tokens()")

    def tokenizing(self, model: str, text: str) -> Tuple[_Request, _Value]:
        raise _not_offered("tokenize()")

    def detokenizing(self, model: str, ids: List[int]) -> Tuple[_Request, _Value]:
        raise _not_offered("detokenize()")


def _not_offered(what: str) -> ConfigurationError:
    return ConfigurationError(f"{what} asks for what this provider does not offer", hint="use a client of another")


_SYSTEM = ("system", "developer")  # roles of what goes before the history
_RESULTS = ("tool", "function")  # roles of what answers tool calls


def _id_as(form: str, id: Any) -> str:
    """A tool call's id in a form that a provider takes: a foreign one is hashed."""
    if isinstance(id, str) and re.fullmatch(form, id):
        return id
    return hashlib.sha256(str(id).encode("utf-8", "replace")).hexdigest()[:9]


def _verbatim(message: JSON, voice: str) -> Any:
    """What a dialect put into an assistant message to have it back unchanged; None in somebody else's message."""
    return _dict(message.get("llmlite")).get(voice)


def _prompts(asked: JSON) -> List[Any]:
    """The system prompts: the one asked for, which is taken out, and those of the history."""
    turns = [turn for turn in asked["messages"] if turn["role"] in _SYSTEM]
    return [prompt for prompt in (asked.pop("system", None), *(turn.get("content") for turn in turns)) if prompt]


class _Attached:
    """A file in a message: its kind, and its data or where it is."""

    def __init__(self, kind: str, mime_type: str, data: str, url: str, name: str, inner: JSON, given: str = "") -> None:
        self.kind = kind  # what people call such
        self.mime_type, self.name = mime_type, name
        self.data = data  # base64
        self.url, self.given = url, given  # where it is; its URL, of data too
        self.inner = inner  # all that the part says of it

    def text(self) -> str:
        """What a file of text says."""
        data, charset = _unbased(self.data), re.match(r"(?i)data:[^,]*charset=([\w.:-]+)", self.given[:1000])
        with contextlib.suppress(LookupError, UnicodeError):
            if data:
                return data.decode(charset[1] if charset else "utf-8")
        raise ConfigurationError("a file in a message is a text that cannot be read", hint="give base64 of UTF-8")


_BY_URL, _OTHERS = "documents by URL", "other files"
_TAKERS = {"audio": "chat completions and Gemini take it", _BY_URL: "Responses, Anthropic and Gemini take them",
           _OTHERS: "Responses and Gemini take them", "PDF": "OpenAI, Anthropic and Gemini take it"}


def _attached(part: JSON) -> Optional[_Attached]:
    """The file that a part is, as OpenAI's chat completions write it; None for text and a provider's own kinds."""
    kind = part.get("type")
    inner = part.get(kind) if kind in ("image_url", "file", "input_audio") else None
    if inner is None:
        return None
    inner = {"url": inner} if isinstance(inner, str) else _dict(inner)
    if kind == "input_audio":
        return _Attached("audio", f"audio/{_str(inner.get('format'))}", _str(inner.get("data")), "", "", inner)
    url, name = _str(_first(*map(inner.get, ("url", "file_url", "file_data")))), _str(inner.get("filename"))
    name = "" if name in _UNNAMED.values() else name
    if re.match("data:[^,]*,", url[:1000], re.I) and not re.match(_DATA_URI, url, re.I):
        url = _data_uri(url[5:1000].partition(",")[0] or "text/plain", _data_of(url))  # it was percent-encoded
    inline = re.match(_DATA_URI, url, re.I)
    bare = not inline and url == inner.get("file_data") and not re.match("https?:", url, re.I)  # base64 alone
    data = url[inline.end():] if inline else url if bare else ""
    type_ = (inline.group(1).lower() if inline else "") or _type_by_name(name or ("" if data else url)) or (
        "application/pdf" if bare else "")
    what = {"image": "images", "audio": "audio", "text": "text"}.get(type_.partition("/")[0], _OTHERS)
    what = "images" if kind == "image_url" else "PDF" if type_ == "application/pdf" else what
    what = _BY_URL if url and not data and what not in ("images", "audio") else what
    return _Attached(what, type_, data, "" if data else url, name, inner, url)


def _type_by_name(name: str) -> str:
    """The media type that the end of a path or a URL tells, or ""."""
    return mimetypes.guess_type(re.split("[?#]", name)[0].rpartition("/")[2])[0] or ""


def _weights_asked(asked: JSON) -> Optional[int]:
    """How many tokens a chat is to weigh beside each of its own, which is taken out of `asked`; None: not even that."""
    given = asked.pop("logprobs", None)
    return 0 if given is True else given


def _as_list(value: Any) -> List[Any]:
    return [value] if isinstance(value, str) else list(value)


class _Choices(_Dialect):
    """A wire format that answers with choices, under the key `mark`; the one of index 0 is the reply."""

    finish = "finish_reason"  # the key of why a choice ended
    grows: JSON = {}  # what of a choice grows in a stream, as `_fold` takes it

    def __init__(self, **quirks: Any) -> None:
        super().__init__(mark=self.mark, finish=self.finish, **quirks)  # on the object each chunk finds them sooner

    def parse_event(self, chunk: JSON, body: JSON) -> List[_Said]:
        choices = chunk.pop(self.mark, None)
        if all(chunk.values()):  # the usual, and quicker
            body.update(chunk)
        else:
            _put(chunk, body)
        events: List[_Said] = [] if choices else self.without_choices(chunk)
        known: List[JSON] = body.get(self.mark, ())
        for choice in choices if type(choices) is list else ():
            if type(choice) is dict:
                index, reason = choice.get("index"), choice.get(self.finish)
                if type(index) is not int:
                    index = choice["index"] = 0
                kept = known[-1] if known and known[-1]["index"] == index else _member(body, self.mark, index)
                self.fold(choice, kept, [] if index else events)
                if reason:
                    kept[self.finish] = reason
                    events.append(_FINISH)
                if reason or "error" in choice:
                    _raise_given_up(choice, reason)
        if not events:
            chunk[self.mark] = choices  # whether it holds anything is asked of the whole chunk
        return events

    def fold(self, choice: JSON, kept: JSON, events: List[_Said]) -> None:
        """Fold a choice into what is kept of it, and add what it says to the events."""
        raise NotImplementedError

    def without_choices(self, chunk: JSON) -> List[_Said]:
        """The events of a chunk that has no choice."""
        return []


def _raise_given_up(choice: JSON, reason: Any) -> None:
    """Raise for a choice that says the server gave up."""
    error = choice.get("error")
    if error or reason in ("error", "insufficient_system_resource", "abort"):
        raise _ErrorInside({"error": error or {"message": f"finish_reason {reason}", "code": reason}})


def _first_choice(choices: Any) -> JSON:
    """The choice that is the reply: of several, which may come in any order, the one of index 0."""
    if type(choices) is list and len(choices) == 1 and type(choices[0]) is dict:
        return choices[0]
    choices = [choice for choice in _list(choices) if isinstance(choice, dict)]
    return next((choice for choice in choices if not choice.get("index")), choices[0] if choices else {})


# OpenAI's chat completions, and who speaks as it does


class _OpenAI(_Choices):
    """OpenAI's chat completions, which most servers speak."""

    mark = "choices"
    path = "/chat/completions"
    speech = "chat completions"
    kinds: Tuple[str, ...] = ("images", "PDF", "audio", _OTHERS)
    url_key = ""  # where the URL of a document stands in a file's part
    stream_usage = True  # whether it knows stream_options.include_usage
    echo: Tuple[str, ...] = ()  # fields of an assistant message that the provider wants back verbatim
    modes: Dict[str, str] = {}  # our word for a tool choice -> the provider's
    grows = {"logprobs": {"content": list, "refusal": list}, "token_ids": list}

    def build(self, model: str, asked: JSON, stream: bool) -> Tuple[str, JSON]:
        messages, schema = self.with_ids(asked.pop("messages")), asked.pop("schema", None)
        if "system" in asked:
            messages = [system(asked.pop("system")), *messages]
        body: JSON = {"model": model, "messages": [self.message(message) for message in messages]}
        if "tool_choice" in asked:
            asked["tool_choice"] = self.tool_choice(asked["tool_choice"])
        if schema is not None:
            body["response_format"] = self.response_format(schema)
        weights = _weights_asked(asked)
        if weights is not None:
            body.update(logprobs=True, **({"top_logprobs": weights} if weights else {}))
        body.update(self.renamed(asked))
        body.update(self.streaming(stream))
        return self.path, body

    def streaming(self, stream: bool) -> JSON:
        """What asks for a stream, with its usage where the provider knows how."""
        if not stream:
            return {}
        return {"stream": True, **({"stream_options": {"include_usage": True}} if self.stream_usage else {})}

    def message(self, message: JSON) -> JSON:
        """A message of the history as this provider takes it: its own words back, nobody else's."""
        if len(message) == 2 and type(message.get("content")) is str:  # with its role
            return message
        sent = _without(message, "llmlite", "is_error")
        sent.update(_verbatim(message, self.voice) or {})
        if type(sent.get("content")) is list:
            sent["content"] = list(map(self.written, sent["content"]))
        if sent.get("tool_calls"):
            sent["tool_calls"] = [_with_text(call, "function") for call in sent["tool_calls"]]
        return _with_text(sent, "function_call")

    def attachment(self, part: JSON, file: _Attached) -> JSON:
        if part["type"] == "file" and file.given and file.kind == "images":
            return {"type": "image_url", "image_url": {"url": file.given}}
        if part["type"] == "file" and file.data and file.kind == "audio":
            known = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav", "vnd.wave": "wav"}
            format_ = file.mime_type.partition("/")[2]
            return {"type": "input_audio", "input_audio": {"data": file.data, "format": known.get(format_, format_)}}
        if self.url_key and "file_url" in file.inner:
            return {**part, "file": {**_without(file.inner, "file_url"), self.url_key: file.url}}
        return super().attachment(part, file)

    def tool_choice(self, choice: Any) -> Any:
        return self.modes.get(choice, choice) if isinstance(choice, str) else choice

    @staticmethod
    def response_format(schema: _Schema) -> JSON:
        """What asks for JSON; strict where the schema is closed, as strict mode wants it."""
        if schema.json is None:
            return {"type": "json_object"}
        more = {"strict": True} if _is_strict(schema.json) else {}
        if isinstance(schema.json, _GivenSchema):
            more = schema.json.given
        return {"type": "json_schema", "json_schema": {"name": schema.name, "schema": schema.json, **more}}

    def embedding(self, model: str, texts: List[str]) -> Tuple[str, JSON]:
        return "/embeddings", {"model": model, "input": texts, "encoding_format": "float"}

    def counting(self, model: str, asked: JSON) -> Tuple[_Request, _Value]:
        if self.counts == "tokens":
            body = _without(self.build(model, dict(asked), False)[1], "stream")
            return _Request("POST", "/tokenize", body), _Value("count", at_root=True)
        return super().counting(model, asked)

    def check(self, body: JSON) -> None:
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise ResponseError("no choices in the answer")
        _raise_given_up(choices[0], choices[0].get("finish_reason"))

    def parse(self, body: JSON) -> Response:
        choice = _first_choice(body.get("choices"))
        message = _dict(choice.get("message"))
        finish = _finish_of(choice.get("finish_reason"))
        thoughts = _first(message.get("reasoning_content"), message.get("reasoning"))
        made = _openai_calls(message)
        reply = self.reply(body, choice, tool_calls=made,
                           reasoning=_str(thoughts) or _content_text(message.get("content"))[1],
                           finish_reason="content_filter" if message.get("refusal") and finish == "stop" else finish,
                           citations=_list(_first(body.get("citations"), message.get("annotations"))),
                           files=_made_images(message["images"]) if "images" in message else [])
        if not made and not self.echo:
            return _finished(reply)
        calls = [_without(_dict(call), "index") for call in _list(message.get("tool_calls"))]
        words = {**message, "tool_calls": calls}
        return _finished(reply, self.voice, {key: words[key] for key in self.echo if message.get(key)},
                         ["custom" in call for call in calls])

    def reply(self, body: JSON, choice: JSON, **more: Any) -> Response:
        """A reply with what chats and raw completions have alike."""
        return Response(text=self.text_of(choice), raw=body, raw_finish_reason=choice.get("finish_reason"),
                        usage=_openai_usage(body, choice), model=_str(body.get("model")),
                        id=_str(body.get("id")) or None, logprobs=_logprobs(choice.get("logprobs")), **more)

    def text(self, body: JSON) -> str:
        return self.text_of(_first_choice(body.get("choices")))

    def text_of(self, choice: JSON) -> str:
        message = _dict(choice.get("message"))
        content, refusal = message.get("content"), message.get("refusal")
        if type(content) is str and not refusal:  # the usual, and quicker
            return content
        return _content_text(_settled(content))[0] + _str(_settled(refusal))

    def fold(self, choice: JSON, kept: JSON, events: List[_Said]) -> None:
        delta, message = choice.get("delta"), kept.get("message")
        if message is None:
            message = kept["message"] = {}
        if type(delta) is not dict:  # a server that sends whole messages
            delta = _dict(choice.get("message"))
        for key, value in delta.items():
            if not value:
                continue
            if type(value) is str and key in ("content", "refusal"):
                try:  # without a call: no piece is more frequent
                    message[key].write(value)
                except (KeyError, AttributeError):
                    _gather(message, key, value)
                events.append(value)
            elif type(value) is str and key in ("reasoning_content", "reasoning"):
                _gather(message, key, value)
                if key == "reasoning_content" or not delta.get("reasoning_content"):
                    events.append(Event("reasoning", value))
            elif key == "content":
                text, thoughts = _content_text(value)
                self.fold({"delta": {"reasoning": thoughts, "content": text}}, kept, events)
            elif key in ("tool_calls", "reasoning_details"):
                for piece in filter(None, map(_dict, _list(value))):
                    _fold(piece, _member(message, key, piece.get("index"), piece.get("id")), _GROWS)
            elif type(value) is list:
                _under(message, key, list).extend(value)
            else:
                _fold({key: value}, message, _GROWS)
        if choice.get("logprobs") or not _PLAIN.issuperset(choice):
            _fold(_without(choice, "delta", "message"), kept, self.grows)


_PLAIN = frozenset(("index", "delta", "logprobs", "finish_reason"))  # what a choice of a chat's chunk always has
_GROWS: JSON = {"function": {"arguments": str}, "custom": {"input": str},  # of a call, of a reasoning detail
                "function_call": {"arguments": str}, "text": str, "summary": str, "data": str}


def _content_text(content: Any) -> Tuple[str, str]:
    """Text and thoughts of a message's content: a str, or a list of parts, whose thoughts are such contents too."""
    if isinstance(content, str):
        return content, ""
    parts = [_dict(part) for part in _list(content)]
    thoughts = [_content_text(part.get("thinking"))[0] for part in parts if part.get("type") == "thinking"]
    return "".join(_str(part.get("text")) for part in parts if part.get("type") != "thinking"), "".join(thoughts)


def _openai_calls(message: JSON) -> List[ToolCall]:
    """The calls of a message; at servers of old there was one, without an id."""
    old = _dict(message.get("function_call"))
    calls = _list(message.get("tool_calls")) or ([{"function": old}] if old else [])
    return [_openai_call(_dict(call), f"call_{at}") for at, call in enumerate(calls)]


def _openai_call(call: JSON, spare_id: str) -> ToolCall:
    id = call.get("id") if call.get("id") not in (None, "", "null") else spare_id
    if "custom" in call:
        return _custom_call(id, _dict(call["custom"]))
    return _tool_call(id, _at(call, "function.name"), _at(call, "function.arguments"))


def _custom_call(id: Any, custom: JSON) -> ToolCall:
    """A call of a tool that takes a text, not arguments."""
    given = _str(custom.get("input"))
    return ToolCall(_str(id), _str(custom.get("name")), {"input": given}, given)


def _function_of(call: JSON) -> JSON:
    """Name and arguments of a call in the history; a custom tool's text stands under "input"."""
    custom = call.get("custom")
    if type(custom) is dict:
        return {"name": custom.get("name"), "arguments": {"input": custom.get("input")}}
    return _dict(call.get("function"))


def _openai_usage(body: JSON, choice: JSON) -> Usage:
    usage = body.get("usage")
    if type(usage) is not dict:
        usage = _dict(_first(usage, _at(body, "x_groq.usage"), choice.get("usage")))
    took, made = _dict(usage.get("prompt_tokens_details")), _dict(usage.get("completion_tokens_details"))
    read, written = _int(usage.get("prompt_tokens")), _int(usage.get("completion_tokens"))
    total = _int(usage.get("total_tokens"))
    reasoning = _int(made.get("reasoning_tokens")) or _int(usage.get("reasoning_tokens"))
    if total == read + written + reasoning or not written:  # some count reasoning apart, some leave the output out
        written = max(written, total - read)
    cached = _int(took.get("cached_tokens")) or _int(usage.get("prompt_cache_hit_tokens"))
    return Usage(read, written, cached, reasoning, _int(took.get("cache_write_tokens")))


class _DeepSeek(_OpenAI):
    """Wants its reasoning back with tool calls, be it empty, and not otherwise."""

    voice = "deepseek"
    echo = ("reasoning_content",)

    def message(self, message: JSON) -> JSON:
        sent = super().message(message)
        if sent.get("tool_calls"):
            return {"reasoning_content": "", **sent}
        return _without(sent, "reasoning_content")


class _Mistral(_OpenAI):
    """Says "any" for "required"; refuses an assistant message that says nothing, and a user's that follows results."""

    names = {"seed": "random_seed"}
    ids = "[A-Za-z0-9]{9}"
    modes = {"required": "any"}
    stream_usage = False

    def build(self, model: str, asked: JSON, stream: bool) -> Tuple[str, JSON]:
        turns: List[JSON] = []
        for message in asked["messages"]:
            if message["role"] == "user" and turns and turns[-1]["role"] in _RESULTS:
                turns.append(assistant("OK."))
            if message["role"] != "assistant" or message.get("content") or message.get("tool_calls"):
                turns.append(message)
        return super().build(model, {**asked, "messages": turns}, stream)


# Raw completions: text or token ids in, tokens out


class _Completions(_OpenAI):
    """Raw completions at OpenAI-compatible servers: a prompt of text or token ids, tokens back."""

    task = "completion"
    path = "/completions"
    tokens = True
    always: JSON = {}  # what a provider must be asked for so that token ids come
    grows = {"text": str, "token_ids": list, "logprobs": {
        "content": list, "tokens": list, "token_logprobs": list, "top_logprobs": list, "text_offset": list}}

    def build(self, model: str, asked: JSON, stream: bool) -> Tuple[str, JSON]:
        return self.path, {"model": model, "prompt": asked.pop("prompt"), **self.renamed(asked), **self.always,
                           **self.streaming(stream)}

    def parse(self, body: JSON) -> Response:
        choice = _first_choice(body.get("choices"))
        tokens = choice.pop(_TOKENS, None) or _tokens_of(choice)
        return self.reply(body, choice, tokens=tokens, finish_reason=_finish_of(choice.get("finish_reason")))

    def text_of(self, choice: JSON) -> str:
        return _str(_settled(choice.get("text")))

    def fold(self, choice: JSON, kept: JSON, events: List[_Said]) -> None:
        _fold(choice, kept, self.grows)
        if not kept["index"]:
            events += _heard(_tokens_of(choice), kept)


class _VLLM(_Completions):
    """vLLM's raw completions, which come with token ids, and its tokenizer."""

    always = {"return_token_ids": True}

    def tokenizing(self, model: str, text: str) -> Tuple[_Request, _Value]:
        asked = {"model": model, "prompt": text, "add_special_tokens": False}
        return _Request("POST", "/tokenize", asked), _Value("ids", at_root=True)

    def detokenizing(self, model: str, ids: List[int]) -> Tuple[_Request, _Value]:
        return _Request("POST", "/detokenize", {"model": model, "tokens": ids}), _Value("text", at_root=True)


class _LlamaCpp(_Dialect):
    """llama.cpp's own completion, which tells the token ids."""

    task = "completion"
    mark = "content"
    tokens = True
    path = "/completion"
    at_root = True
    names = {"max_tokens": "n_predict", "logprobs": "n_probs"}
    grows: JSON = {"content": str, "tokens": list, "completion_probabilities": list}

    def build(self, model: str, asked: JSON, stream: bool) -> Tuple[str, JSON]:
        return self.path, {"prompt": asked.pop("prompt"), "return_tokens": True, **self.renamed(asked),
                           "stream": stream}

    def tokenizing(self, model: str, text: str) -> Tuple[_Request, _Value]:
        return _Request("POST", "/tokenize", {"content": text, "add_special": False}), _Value("ids", at_root=True)

    def detokenizing(self, model: str, ids: List[int]) -> Tuple[_Request, _Value]:
        return _Request("POST", "/detokenize", {"tokens": ids}), _Value("text", at_root=True)

    def check(self, body: JSON) -> None:
        if not isinstance(body.get("content"), str):
            raise ResponseError("no content in the answer")

    def parse(self, body: JSON) -> Response:
        tokens = body.pop(_TOKENS, None) or self.tokens_of(body)
        finish = body.get("stop_type") or ("eos" if body.get("stop") is True else None)
        finish = "limit" if body.get("stopped_limit") else finish
        cached = _count(body, "timings.cache_n")  # of tokens_evaluated, which is the whole prompt
        return Response(text=self.text(body), tokens=tokens, raw=body, raw_finish_reason=finish,
                        finish_reason=_finish_of(finish), model=_str(body.get("model")),
                        usage=Usage(_count(body, "tokens_evaluated"), _count(body, "tokens_predicted"), cached),
                        logprobs=_logprobs({"content": body.get("completion_probabilities")}))

    def text(self, body: JSON) -> str:
        return _str(_settled(body.get("content")))

    def parse_event(self, chunk: JSON, body: JSON) -> List[_Said]:
        _fold(chunk, body, self.grows)
        events = _heard(self.tokens_of(chunk), body)
        return [*events, _FINISH, _END] if chunk.get("stop") is True else events

    @staticmethod
    def tokens_of(body: JSON) -> List[Token]:
        logprobs = {"content": _list(body.get("completion_probabilities"))}
        return _tokens_of({"text": body.get("content"), "token_ids": body.get("tokens"), "logprobs": logprobs})


_TOKENS: Any = _Unset()  # the key of a folded body's tokens; as no str it can be nobody else's, and JSON has none such


def _heard(tokens: List[Token], kept: JSON) -> List[_Said]:
    """Keep the tokens of a chunk; the events that they are."""
    _under(kept, _TOKENS, list).extend(tokens)
    return [Event("text", token.text, token=token) for token in tokens]


def _tokens_of(choice: JSON) -> List[Token]:
    """The tokens of a raw completion's choice: as many as there are ids, and their texts together are its text."""
    text, ids, logprobs = _str(choice.get("text")), _ids(choice.get("token_ids")), choice.get("logprobs")
    tokens = _weighed(logprobs) if type(logprobs) is dict else []
    if not tokens:  # a text stands with the last of its ids
        return [Token("", id) for id in ids[:-1]] + [Token(text, ids[-1])] if ids else [Token(text)] * bool(text)
    if len(tokens) != len(ids):  # with `echo` the prompt's tokens lead, or are all there is
        prompt = _ids(choice.get("prompt_token_ids"))
        ids = next((known for known in (prompt + ids, prompt) if len(known) == len(tokens)), ids)
    tokens = _placed(tokens, ids) if ids else tokens
    words = _spread([token.text for token in tokens], text)
    return [Token(word, token.id, token.logprob) for word, token in zip(words, tokens)]


def _ids(value: Any) -> List[int]:
    return [id for id in _list(value) if type(id) is int]


def _weighed(logprobs: JSON) -> List[Token]:
    """The tokens that log probabilities tell of: a list of rows (llama.cpp), or lists side by side (vLLM)."""
    rows = [_dict(row) for row in _list(logprobs.get("content"))]
    if rows:
        return [Token(_str(row.get("token")), row.get("id"), row.get("logprob")) for row in rows]
    words, weights = [_str(word) for word in _list(logprobs.get("tokens"))], _list(logprobs.get("token_logprobs"))
    weights = weights if len(weights) == len(words) else [None] * len(words)
    # with return_tokens_as_token_ids a word is an id
    return [Token("", int(word[9:]), weight) if re.fullmatch("token_id:[0-9]{1,18}", word) else
            Token(word, None, weight) for word, weight in zip(words, weights)]


def _placed(tokens: List[Token], ids: List[int]) -> List[Token]:
    """A token for each id; where there are fewer, each is that of the last of the ids that make one character."""
    if len(tokens) == len(ids) or tokens[0].id is None and abs(len(tokens) - len(ids)) == 1:  # an end of text or so
        tokens = tokens + [Token("")] * (len(ids) - len(tokens))
        return [Token(token.text, id, token.logprob) for token, id in zip(tokens, ids)]
    rest = deque(tokens)
    return [rest.popleft() if rest and rest[0].id == id else Token("", id) for id in ids]


def _spread(words: List[str], text: str) -> List[str]:
    """A text cut up among its tokens; what is in none of their own words stands with the last of those that make it."""
    if "".join(words) == text:
        return words
    parts = [""] * len(words)
    at = slack = heir = 0  # where in the text; how much of it may have no words of its own; whose that is
    for index, word in enumerate(words):
        start = text.find(word, at, at + slack + len(word)) if word else -1
        if start < 0:
            heir = index if not slack or "\ufffd" in word or "\ufffd" not in words[heir] else heir
            slack = min(slack + len(word), 100)
            continue
        parts[heir] += text[at:start]
        parts[index], at, slack = word, start + len(word), 0
    parts[heir if slack else -1] += text[at:]
    return parts


# OpenAI's Responses, and who else serves them

_SEALED = "reasoning.encrypted_content"  # what is asked for, so that reasoning can be sent back
_GROWING = {  # type of a delta -> the list of an item that holds the part and the key of its place; what grows there
    "response.output_text.delta": ("content", "content_index", "output_text", "text"),
    "response.refusal.delta": ("content", "content_index", "refusal", "refusal"),
    "response.reasoning_text.delta": ("content", "content_index", "reasoning_text", "text"),
    "response.reasoning_summary_text.delta": ("summary", "summary_index", "summary_text", "text"),
    "response.function_call_arguments.delta": ("", "", "function_call", "arguments"),
    "response.custom_tool_call_input.delta": ("", "", "custom_tool_call", "input")}
_THINKING = frozenset(("reasoning_text", "summary_text"))  # kinds of parts
_UNSEALED = ("encrypted.content|could not be verified|items are not persisted|"
             "required following item")  # what is said of reasoning that is refused
_NOT_YET = ("queued", "in_progress")  # a response that has no end


class _Responses(_Dialect):
    """OpenAI's Responses, without state: nothing is stored, and the whole history goes out each time."""

    mark = "type"
    lists = ("output",)
    opening = frozenset(("response.created", "response.queued", "response.in_progress", "response.output_item.added"))
    path = "/responses"
    speech = "Responses"
    kinds = ("images", "PDF", "text", _BY_URL, _OTHERS)
    names = {"max_tokens": "max_output_tokens"}
    lacks = ("stop", "seed", "top_k")
    ids = "(?s).{1,64}"
    task = "responses"
    done_ends = False  # which only routers send, and after the end
    alone = ""  # models that are served here only, if there are any
    alone_with_effort = ""  # models that are when they are given tools and an effort
    counts_calls = False  # whether the ids of calls begin anew with each response
    sealing = ""  # models that seal their reasoning, if they are asked to
    wanted: Tuple[str, ...] = ("content", "summary", "encrypted_content")  # reasoning without one is not taken back
    refused: Tuple[str, ...] = ()  # fields of an item that are not taken back

    def serves_alone(self, model: str, asked: JSON) -> bool:
        """Whether no chat completion does what is asked of a model."""
        if self.alone and re.search(self.alone, model):
            return True
        both = self.alone_with_effort and asked.get("tools") and asked.get("reasoning_effort") not in (None, "none")
        return bool(both and re.search(self.alone_with_effort, model))

    def request(self, model: str, asked: JSON, stream: bool) -> _Request:
        more = _dict(asked.get("extra")).get("include")
        if type(more) is list:  # beside what is asked for anyhow
            ours = _list(self.build(model, _without(asked, "extra", "prompt_cache"), stream)[1].get("include"))
            whole = [*ours, *(name for name in more if name not in ours)]
            asked = {**asked, "extra": {**asked["extra"], "include": whole}}
        return super().request(model, asked, stream)

    def build(self, model: str, asked: JSON, stream: bool) -> Tuple[str, JSON]:
        body: JSON = {"model": model, "input": self.items(self.with_ids(asked.pop("messages")), model), "store": False}
        prompt, schema = asked.pop("system", None), asked.pop("schema", None)
        if isinstance(prompt, str):
            body["instructions"] = prompt
        elif prompt:
            body["input"].insert(0, {"role": "system", "content": self.parts(prompt)})
        weights, seals = _weights_asked(asked), self.sealing and re.search(self.sealing, model)
        include = [_SEALED] * bool(seals) + ["message.output_text.logprobs"] * (weights is not None)
        body.update({name: value for name, value in (("include", include), ("top_logprobs", weights)) if value})
        if schema is not None:
            body["text"] = {"format": _flat(_OpenAI.response_format(schema))}
        if "reasoning_effort" in asked:
            body["reasoning"] = {"effort": asked.pop("reasoning_effort")}
        if "tools" in asked:
            asked["tools"] = [self.tool(tool) for tool in asked["tools"]]
        if "tool_choice" in asked:
            choice = asked["tool_choice"] = _flat(asked["tool_choice"])
            if type(choice) is dict and "tools" in choice:
                asked["tool_choice"] = {**choice, "tools": [_flat(tool) for tool in _list(choice["tools"])]}
        return self.path, {**body, **self.renamed(asked), **({"stream": True} if stream else {})}

    @staticmethod
    def tool(tool: JSON) -> JSON:
        """A tool without the dict inside; of a function of which nothing is said, `strict` would be true here."""
        flat = _flat({"type": "function", **tool} if "function" in tool else tool)
        if flat.get("type") == "function":
            return {**flat, "strict": flat.get("strict") or False}
        return {**flat, "format": _flat(flat["format"])} if "format" in flat else flat

    def counting(self, model: str, asked: JSON) -> Tuple[_Request, _Value]:
        body = _without(self.build(model, dict(asked), False)[1], "store", "include")
        return _Request("POST", "/responses/input_tokens", body), _Value("count")

    def items(self, messages: List[JSON], model: str) -> List[JSON]:
        """The history: a message, a call, a result and a piece of reasoning are an item each."""
        items: List[JSON] = []
        kinds: Dict[str, Any] = {}  # of the calls, by their ids
        for message in messages:
            if message["role"] in _RESULTS:
                id = _str(message.get("tool_call_id") or message.get("name"))
                kind = "custom_tool_call_output" if kinds.get(id) == "custom_tool_call" else "function_call_output"
                items.append({"type": kind, "call_id": id, "output": self.output(message.get("content"))})
            elif message["role"] == "assistant":
                said = self.said(message, model)
                kinds.update((_str(item.get("call_id")), item.get("type")) for item in said)
                items += said
            else:
                items.append({"role": message["role"], "content": self.parts(message.get("content"))})
        return items

    def said(self, message: JSON, model: str) -> List[JSON]:
        """What the model said: the very items of its answer, or such as say the same."""
        verbatim = _dict(_verbatim(message, self.voice))
        if verbatim:
            return [_without(item, *self.refused) for item in map(_dict, _list(verbatim.get("output")))
                    if item.get("type") != "reasoning" or self.takes(item, verbatim, model)]
        content, old = message.get("content") or "", message.get("function_call")
        calls = _list(message.get("tool_calls")) or ([{"id": _dict(old).get("name"), "function": old}] if old else [])
        if type(content) is list:
            content = [{**part, "type": "output_text"} if part.get("type") == "text" else part for part in content
                       if part.get("type") != "thinking"]
        if message.get("refusal"):
            text = [{"type": "output_text", "text": content}] if content and type(content) is str else content or []
            content = [*text, {"type": "refusal", "refusal": message["refusal"]}]
        items = [{"type": "message", "role": "assistant", "content": content}] if content or not calls else []
        for call in calls:
            kind = "custom" if "custom" in call else "function"
            inner = _dict(_with_text(call, "function").get(kind))
            name = "custom_tool_call" if kind == "custom" else "function_call"
            items.append({"type": name, "call_id": call.get("id"), **inner})
        return items

    def takes(self, reasoning: JSON, verbatim: JSON, model: str) -> bool:
        """Whether reasoning can go back to a model: what one has sealed no other opens."""
        sealed = bool(self.sealing and reasoning.get("encrypted_content"))
        own = model == verbatim.get("asked") or _family(model) == _family(_str(verbatim.get("model")))
        return any(reasoning.get(name) for name in self.wanted) and (own or not sealed)

    def stamp(self, reply: Response, model: str) -> None:
        verbatim = _verbatim(reply.message, self.voice)
        if verbatim:
            verbatim["asked"] = model

    def parts(self, content: Any) -> Any:
        return list(map(self.written, content)) if type(content) is list else content or ""

    def worded(self, part: JSON) -> JSON:
        kind = part.get("type")
        return {**part, "type": "input_text"} if kind == "text" else part

    def attachment(self, part: JSON, file: _Attached) -> JSON:
        if file.url and file.kind != "images":
            return {"type": "input_file", "file_url": file.url}
        if file.kind != "images" or not file.given:
            kind = "input_image" if file.kind == "images" else "input_file"
            return {**_without(_flat(part), *(("filename",) if kind == "input_image" else ())), "type": kind}
        detail = {"detail": file.inner["detail"]} if file.inner.get("detail") else {}
        return {"type": "input_image", "image_url": file.given, **detail}

    def output(self, content: Any) -> Any:
        """What a tool gave: text, or parts."""
        if type(content) is list and all(type(part) is dict and "type" in part for part in content):
            return self.parts(content)
        return content if type(content) is str else _json_text(content)

    def otherwise(self, body: JSON, error: APIError) -> Optional[JSON]:
        """What to ask instead, where a server refuses sealed reasoning: without asking for it, or without any."""
        said = f"{error.code} {error.message}".lower()
        if _SEALED in _list(body.get("include")) and "encrypted content is not supported" in said:
            include = [name for name in body["include"] if name != _SEALED]
            return {**_without(body, "include"), **({"include": include} if include else {})}
        items = [item for item in _list(body.get("input")) if _dict(item).get("type") != "reasoning"]
        if len(items) < len(_list(body.get("input"))) and re.search(_UNSEALED, said):
            return {**body, "input": items}
        return None

    def answers(self, body: JSON) -> bool:
        return isinstance(body.get("output"), list) or _str(body.get("type")).startswith("response.")

    def check(self, body: JSON) -> None:
        status = body.get("status")
        if status in ("failed", "cancelled"):
            raise _ErrorInside({"error": body.get("error") or {"message": f"the response is {status}", "code": status}})
        if not isinstance(body.get("output"), list):
            raise ResponseError("no output in the answer")
        if status in _NOT_YET:
            raise ResponseError(f"a response that is {status}")

    def parse(self, body: JSON) -> Response:
        items = [_without(_dict(item), "index") for item in _list(body.get("output"))]
        raw = {**body, "output": items}
        if self.counts_calls:
            last = re.sub("[^A-Za-z0-9_-]", "_", _str(body.get("id")))[-16:]  # short, and fit for all dialects
            items = [{**item, "call_id": f"{last}_{item['call_id']}"} if _str(item.get("call_id")) else item
                     for item in items]
        said = list(_parts_of(items, "message", "content"))
        status = _str(body.get("status"))
        raw_finish = None if not status or status in _NOT_YET else _at(body, "incomplete_details.reason") or status
        finish = _finish_of(raw_finish)
        finish = "other" if status == "incomplete" and finish == "stop" else finish
        refused = finish == "stop" and any(part.get("type") == "refusal" for part in said)
        usage = _dict(body.get("usage"))
        reply = Response(
            text=self.text(body), reasoning=self.thoughts(items), raw_finish_reason=raw_finish,
            finish_reason="content_filter" if refused else finish, model=_str(body.get("model")),
            id=_str(body.get("id")) or None, raw=raw,
            tool_calls=[self.call(item, f"call_{at}") for at, item in enumerate(items) if _is_call(item)],
            citations=[cited for part in said for cited in _list(part.get("annotations"))],
            logprobs=[row for part in said for row in _weighed_rows(part.get("logprobs"))],
            files=_files((f"image/{_str(item.get('output_format')) or 'png'}", item.get("result")) for item in items
                         if item.get("type") == "image_generation_call"),
            usage=Usage(_count(usage, "input_tokens"), _count(usage, "output_tokens"),
                        _count(usage, "input_tokens_details.cached_tokens"),
                        _count(usage, "output_tokens_details.reasoning_tokens"),
                        _count(usage, "input_tokens_details.cache_write_tokens")))
        plain = all(item.get("type") in ("message", "function_call") and "phase" not in item for item in items)
        customs = [item["type"] == "custom_tool_call" for item in items if _is_call(item)]
        return _finished(reply, self.voice, None if plain else {"model": reply.model, "output": items}, customs)

    @staticmethod
    def call(item: JSON, spare_id: str) -> ToolCall:
        id, name = item.get("call_id") or item.get("id") or spare_id, item.get("name")
        if item["type"] == "custom_tool_call":
            return _custom_call(id, item)
        return _tool_call(id, name, item.get("arguments"))

    def text(self, body: JSON) -> str:
        return self.text_of(body.get("output"))

    @staticmethod
    def text_of(output: Any) -> str:
        return "".join(_str(_settled(part.get("text"))) + _str(_settled(part.get("refusal")))
                       for part in _parts_of(output, "message", "content"))

    @staticmethod
    def thoughts(output: Any) -> str:
        """The reasoning, or the summaries of it, a paragraph each."""
        texts = ([_str(_settled(part.get("text"))) for part in _parts_of(output, "reasoning", where)]
                 for where in ("summary", "content"))
        return next(filter(None, ("\n\n".join(filter(None, some)) for some in texts)), "")

    @staticmethod
    def has_thought(output: Any) -> bool:
        return any(part.get("text") for where in ("summary", "content")
                   for part in _parts_of(output, "reasoning", where))

    def parse_event(self, chunk: JSON, body: JSON) -> List[_Said]:
        kind = chunk.get("type")
        growing = _GROWING.get(kind) if type(kind) is str else None
        if growing is not None:
            return self.grow(chunk, body, *growing)
        response, item = _dict(chunk.get("response")), chunk.get("item")
        if kind in ("error", "response.failed"):
            _put(_without(response, "output"), body)
            raise _ErrorInside({"error": response.get("error") or chunk.get("error") or _without(chunk, "type")})
        if kind in ("response.completed", "response.incomplete"):
            return self.ended(response, kind[9:], body)
        if not kind and self.answers(chunk):  # a whole response where a stream was asked for
            return self.ended(chunk, "", body)
        if type(item) is dict and kind in ("response.output_item.added", "response.output_item.done"):
            return self.put(item, kind.endswith("added"), self.item(chunk, body), body)
        if kind == "response.output_text.annotation.added":
            part = self.part(chunk, self.item(chunk, body), "content")
            _under(part, "annotations", list).append(chunk.get("annotation"))
        if _holds_error(chunk, self):
            raise _ErrorInside(chunk)
        _put(_without(response, "output"), body)
        return []

    def ended(self, whole: JSON, status: str, body: JSON) -> List[_Said]:
        """The end, with all that there was: what no delta has said of it is said now, and nothing said is lost."""
        output, said = _list(whole.get("output")), (self.thoughts(body.get("output")), self.text(body))
        told = _str(whole.get("status"))
        _put(_without(whole, "output"), body)
        body["status"] = status if told in ("", "completed", *_NOT_YET) and status else told
        events: List[_Said] = []
        if self.thoughts(output).startswith(said[0]) and self.text_of(output).startswith(said[1]) and output:
            body["output"] = output
            events = _said(self.thoughts(output)[len(said[0]):], self.text_of(output)[len(said[1]):])
        body.setdefault("output", output)
        self.check(body)
        return [*events, _FINISH, _END]

    def grow(self, chunk: JSON, body: JSON, where: str, at: str, kind: str, key: str) -> List[_Said]:
        """Add a delta to its item, or to that one's part which it belongs to."""
        piece, thinks = chunk.get("delta"), kind in _THINKING
        if type(piece) is not str or not piece:
            return []
        try:  # the usual, at once: a part that has begun, of the last item
            item = body["output"][-1]
            if item["index"] == chunk["output_index"] and not chunk.get("logprobs"):
                item[where][chunk[at]][key].write(piece)
                return [Event("reasoning", piece)] if thinks else [piece]
        except (LookupError, TypeError, AttributeError):
            pass
        kept, begins = self.item(chunk, body), False
        if where:
            kept.setdefault("type", "reasoning" if thinks else "message")
            kept = self.part(chunk, kept, where)
            begins = thinks and not kept.get(key) and self.has_thought(body["output"])
        kept.setdefault("type", kind)
        _gather(kept, key, piece)
        if chunk.get("logprobs"):
            _under(kept, "logprobs", list).extend(_list(chunk["logprobs"]))
        return [Event("reasoning", "\n\n" * begins + piece)] if thinks else [piece] if where else []

    def put(self, item: JSON, opens: bool, kept: JSON, body: JSON) -> List[_Said]:
        """Put an item that begins, or is whole, in its place; the events of what no delta had said of it."""
        thoughts, text, follows = self.thoughts([kept]), self.text_of([kept]), self.has_thought(body["output"])
        whole = {**item, "index": kept["index"]}
        if opens:
            whole.pop("encrypted_content", None)  # it is whole at the item's end only
        kept.update(whole)  # first: another thread may ask for the text
        for name in kept.keys() - whole.keys():
            del kept[name]
        after, words = self.thoughts([kept]), self.text_of([kept])
        unsaid = after[len(thoughts):] if after.startswith(thoughts) else ""
        return _said("\n\n" * bool(unsaid and follows and not thoughts) + unsaid,
                     words[len(text):] if words.startswith(text) else "")

    @staticmethod
    def item(chunk: JSON, body: JSON) -> JSON:
        """The item that an event is of, by its place; where a server tells none, by its id or its call's."""
        index, item = chunk.get("output_index"), _dict(chunk.get("item"))
        if type(index) is int:
            return _member(body, "output", index)
        items: List[JSON] = _under(body, "output", list)
        ids = {id for id in map(_str, (chunk.get("item_id"), item.get("id"), item.get("call_id"))) if id}
        known = (kept for kept in reversed(items)
                 if not (ids or item) or ids & {_str(kept.get("id")), _str(kept.get("call_id"))})
        last = items[-1] if items and _str(chunk.get("type")).endswith("done") else {}  # some end under another id
        return next(known, None) or (last if last.get("type") == item.get("type", "") else None) or _member(
            body, "output", len(items))

    @staticmethod
    def part(chunk: JSON, item: JSON, where: str) -> JSON:
        """The part of an item's content, or of its summary, that an event is of; the last, where it does not say."""
        parts, at = _under(item, where, list), chunk.get("content_index" if where == "content" else "summary_index")
        at = max(0, at if type(at) is int else len(parts) - 1)
        if at >= _MAX_CALLS:
            raise _TooLarge(f"a reply of over {_MAX_CALLS} parts")
        parts += [{} for _ in range(at + 1 - len(parts))]
        if type(parts[at]) is not dict:
            parts[at] = {}
        return parts[at]  # type: ignore[no-any-return]


def _flat(value: Any) -> Any:
    """What chat completions have as {"type": "a", "a": {...}} as Responses have it: without the dict inside."""
    kind = value.get("type") if type(value) is dict else None
    inner = value.get(kind) if type(kind) is str else None
    return {"type": kind, **inner} if type(inner) is dict else value


def _parts_of(output: Any, kind: str, where: str) -> Iterator[JSON]:
    """The parts of all items of a kind."""
    for item in _list(output):
        if type(item) is dict and item.get("type") == kind:
            content = item.get(where)
            yield from [{"text": content}] if type(content) is str else map(_dict, _list(content))


def _is_call(item: JSON) -> bool:
    return item.get("type") in ("function_call", "custom_tool_call")


def _family(model: str) -> str:
    """A model's name without who routes to it and the date of the version."""
    return re.sub(r".*/|-\d{4}-\d\d-\d\d$", "", model)


# Anthropic's Messages


class _Anthropic(_Dialect):
    """Anthropic's Messages."""

    voice = "anthropic"
    speech = "Anthropic"
    kinds = ("images", "PDF", "text", _BY_URL)
    mark = "type"
    path = "/v1/messages"
    models_path = "/v1/models?limit=1000"
    auth_header, auth_scheme = "x-api-key", ""
    fixed_headers = {"anthropic-version": "2023-06-01"}  # which compatible servers know; headers= asks for another
    names = {"stop": "stop_sequences"}
    lacks = ("seed", "logprobs")
    ids = "[A-Za-z0-9_-]{1,64}"
    most = 32 << 20
    keeps_whole = True

    def build(self, model: str, asked: JSON, stream: bool) -> Tuple[str, JSON]:
        prompts, schema = _prompts(asked), asked.pop("schema", None)
        body: JSON = {"model": model, "max_tokens": 4096, "messages": self.turns(self.with_ids(asked.pop("messages")))}
        body.update(self.thinking(asked.pop("reasoning_effort", None)))
        if schema is not None and schema.json is not None:
            body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": schema.json}
        elif schema is not None:
            prompts.append("Answer with one JSON object and nothing else.")
        if prompts:
            body["system"] = _joined_prompts([prompt if isinstance(prompt, str) else list(map(self.written, prompt))
                                              for prompt in prompts])
        if "tools" in asked:
            asked["tools"] = [self.tool(tool) for tool in asked["tools"]]
        if "tool_choice" in asked:
            asked["tool_choice"] = self.tool_choice(asked["tool_choice"])
        if "stop" in asked:
            asked["stop"] = _as_list(asked["stop"])
        return self.path, {**body, **self.renamed(asked), **({"stream": True} if stream else {})}

    def counting(self, model: str, asked: JSON) -> Tuple[_Request, _Value]:
        body = _without(self.build(model, dict(asked), False)[1], "max_tokens")
        return _Request("POST", self.path + "/count_tokens", body), _Value("count")

    def keep(self, body: JSON, mark: JSON) -> None:
        super().keep(body, mark)
        if not self.keeps_whole:  # somebody else's server: the last tool, system block and block of a message
            messages = [*body["messages"]]
            content = messages[-1]["content"]
            messages[-1] = {**messages[-1], "content": _marked(_blocks(content), mark) or content}
            system = {"system": _marked(_blocks(body["system"]), mark)} if "system" in body else {}
            tools = {"tools": _marked(body["tools"], mark)} if body.get("tools") else {}
            body.update(messages=messages, **system, **tools)

    @staticmethod
    def thinking(effort: Optional[str]) -> JSON:
        if effort == "none":
            return {"thinking": {"type": "disabled"}}
        return {"output_config": {"effort": "low" if effort == "minimal" else effort}} if effort else {}

    @staticmethod
    def tool(tool: JSON) -> JSON:
        """A tool as Anthropic declares it; its own kinds go through as they are."""
        function = tool.get("function")
        if not isinstance(function, dict):
            return tool
        declared = {"name": function.get("name"), "description": function.get("description"),
                    "input_schema": function.get("parameters") or {"type": "object", "properties": {}}}
        return {key: value for key, value in declared.items() if value is not None}

    def tool_choice(self, choice: Any) -> Any:
        if isinstance(choice, str):
            return {"type": {"required": "any"}.get(choice, choice)}
        name = _at(choice, "function.name")
        return {"type": "tool", "name": name} if name else choice

    def turns(self, messages: List[JSON]) -> List[JSON]:
        """The history: system messages left out, the results of a turn's tools in one user message, before text."""
        turns: List[JSON] = []
        for message in messages:
            role = "assistant" if message["role"] == "assistant" else "user"
            content = self.content(message)
            last = _list(turns[-1]["content"]) if turns and turns[-1]["role"] == role == "user" else []
            if message["role"] in _SYSTEM or not content and role == "assistant" and message is not messages[-1]:
                continue  # one that says nothing is refused, but for the last
            if any(_dict(block).get("type") == "tool_result" for block in last):
                last += _blocks(content)
            else:
                turns.append({"role": role, "content": content})
        return turns

    def content(self, message: JSON) -> Any:
        """What a message says: a plain text, or blocks."""
        verbatim = _verbatim(message, self.voice)
        if verbatim is not None:
            return [_with_object(_dict(block), "input") for block in _list(verbatim)]
        content = message.get("content")
        content = list(map(self.written, content)) if isinstance(content, list) else content or ""
        if message["role"] in _RESULTS:
            error = {"is_error": True} if message.get("is_error") else {}
            return [{"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": content, **error}]
        made = [(call.get("id"), _function_of(call)) for call in _list(message.get("tool_calls"))]
        calls = [{"type": "tool_use", "id": id, "name": function.get("name"), "input": _arguments_of(function)}
                 for id, function in made]
        return _blocks(content) + calls if calls else content

    def attachment(self, part: JSON, file: _Attached) -> JSON:
        if file.kind == "text" and file.data:
            source: JSON = {"type": "text", "media_type": "text/plain", "data": file.text()}
        elif file.data:
            source = {"type": "base64", "media_type": file.mime_type, "data": file.data}
        elif file.url:
            source = {"type": "url", "url": file.url}
        else:
            source = {"type": "file", "file_id": file.inner.get("file_id")}
        if file.kind == "images":
            return {"type": "image", "source": source}
        own: JSON = {name: file.inner[name] for name in ("title", "context", "citations", "cache_control")
               if name in file.inner}
        return {"type": "document", "source": source, **({"title": file.name} if file.name else {}), **own}

    def check(self, body: JSON) -> None:
        if not isinstance(body.get("content"), list):
            raise ResponseError("no content in the answer")

    def parse(self, body: JSON) -> Response:
        raw_finish = body.get("stop_reason")
        none = {} if raw_finish else ""  # which a stream may still fill
        blocks = [_without(_dict(block), "index") for block in _list(body.get("content"))]
        calls = [_tool_call(block.get("id"), block.get("name"), block.get("input") or none)
                 for block in blocks if block.get("type") == "tool_use"]
        blocks = [_with_object(block, "input") if isinstance(block.get("input"), str) else block
                  for block in blocks]  # what came as JSON text, piece by piece
        reply = Response(
            text=self.text(body), reasoning="".join(_str(block.get("thinking")) for block in blocks), tool_calls=calls,
            citations=[cited for block in blocks for cited in _list(block.get("citations"))],
            raw_finish_reason=raw_finish, finish_reason=_finish_of(raw_finish), raw={**body, "content": blocks},
            usage=_anthropic_usage(body.get("usage")), model=_str(body.get("model")), id=_str(body.get("id")) or None)
        plain = all(block.get("type") in ("text", "tool_use") and not block.get("citations") for block in blocks)
        return _finished(reply, self.voice, None if plain else blocks)

    def text(self, body: JSON) -> str:
        blocks = map(_dict, _list(body.get("content")))
        return "".join(_str(_settled(block.get("text"))) for block in blocks if block.get("type") == "text")

    def parse_event(self, chunk: JSON, body: JSON) -> List[_Said]:
        kind = chunk.get("type")
        if kind == "content_block_delta":
            delta = chunk.get("delta")
            return self.grow(_member(body, "content", chunk.get("index")), delta if type(delta) is dict else {})
        if kind == "content_block_start":
            at = len(body.get("content", ())) if chunk.get("index") is None else chunk["index"]
            return self.open(_member(body, "content", at), _dict(chunk.get("content_block")))
        if kind == "message_start":
            body.update(_dict(chunk.get("message")), content=[])
        elif kind == "message_delta":
            _put(_without(_dict(chunk.get("delta")), "content"), body)
            _put(_dict(chunk.get("usage")), _under(body, "usage", dict))
            return [_FINISH] if body.get("stop_reason") else []
        elif kind == "message_stop":
            return [_END]
        elif kind == "message":  # a whole reply where a stream was asked for
            body.update(chunk)
            reply = self.parse(body)
            return [*_said(reply.reasoning, reply.text), _FINISH, _END]
        return []

    @staticmethod
    def open(block: JSON, opened: JSON) -> List[_Said]:
        block.update(opened)
        if block.get("input") == {}:
            block["input"] = ""
        return _said(_str(opened.get("thinking")), _str(opened.get("text")))

    @staticmethod
    def grow(block: JSON, delta: JSON) -> List[_Said]:
        kind = delta.get("type")
        name, key = _ANTHROPIC_DELTAS.get(kind if isinstance(kind, str) else "", ("", ""))
        piece = delta.get(name)
        if piece and isinstance(piece, str):
            if "type" not in block:  # the event that opened the block was lost
                block["type"] = {"input": "tool_use"}.get(key, key)
            _gather(block, key, piece)
            if key == "text":
                return [piece]
            return [Event("reasoning", piece)] if key == "thinking" else []
        if kind == "citations_delta":
            block["citations"] = [*_list(block.get("citations")), delta.get("citation")]
        return []


_ANTHROPIC_DELTAS = {"text_delta": ("text", "text"), "thinking_delta": ("thinking", "thinking"),
                     "signature_delta": ("signature", "signature"), "input_json_delta": ("partial_json", "input")}


class _VertexAnthropic(_Anthropic):
    """Anthropic's Messages at Google Vertex AI, which has the model and the method in the path."""

    fixed_headers: Dict[str, str] = {}
    version = {"anthropic_version": "vertex-2023-10-16"}

    def build(self, model: str, asked: JSON, stream: bool) -> Tuple[str, JSON]:
        body = super().build(model, asked, stream)[1]
        path = f"/models/{quote(model, safe='@')}:{'streamRawPredict' if stream else 'rawPredict'}"
        return path, {**self.version, **_without(body, "model")}

    def counting(self, model: str, asked: JSON) -> Tuple[_Request, _Value]:
        body = {"model": model, **_without(self.build(model, dict(asked), False)[1], "max_tokens")}
        return _Request("POST", "/models/count-tokens:rawPredict", body), _Value("count")


def _joined_prompts(prompts: List[Any]) -> Any:
    """System prompts as one: text where all are text, else blocks."""
    if all(isinstance(prompt, str) for prompt in prompts):
        return "\n\n".join(prompts)
    return [block for prompt in prompts for block in _blocks(prompt)]


def _marked(blocks: List[Any], mark: JSON) -> List[Any]:
    """Blocks, the last one that takes a mark with one."""
    at = next((at for at in reversed(range(len(blocks))) if not re.search(
        "thinking", _str(_dict(blocks[at]).get("type")))), None)
    return blocks if at is None else [*blocks[:at], {**_dict(blocks[at]), "cache_control": mark}, *blocks[at + 1:]]


def _blocks(content: Any) -> List[Any]:
    """A content as a list of blocks; an empty text is none."""
    return [{"type": "text", "text": content}] if content and isinstance(content, str) else _list(content)


def _anthropic_usage(usage: Any) -> Usage:
    cached, kept = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
    return Usage(_count(usage, "input_tokens") + kept + cached, _count(usage, "output_tokens"), cached,
                 _count(usage, "output_tokens_details.thinking_tokens"), kept)


# Google's generateContent


class _Gemini(_Choices):
    """Google's generateContent."""

    voice = "gemini"
    speech = "Gemini"
    kinds = ("images", "PDF", "text", "audio", _BY_URL, _OTHERS)
    mark = "candidates"
    finish = "finishReason"
    models_path = "/models?pageSize=1000"
    at_vertex = False  # which counts a request as it is, and embeds in another way
    auth_header, auth_scheme = "x-goog-api-key", ""
    names = {"temperature": "temperature", "top_p": "topP", "top_k": "topK", "max_tokens": "maxOutputTokens",
             "stop": "stopSequences", "seed": "seed"}
    grows = {"logprobsResult": {"chosenCandidates": list, "topCandidates": list}}

    def build(self, model: str, asked: JSON, stream: bool) -> Tuple[str, JSON]:
        body: JSON = {"contents": self.contents(asked["messages"])}
        if re.search(_SIGNING, model):
            _sign(body["contents"])
        prompts = [part for prompt in _prompts(asked) for part in self.parts(prompt)]
        if prompts:
            body["systemInstruction"] = {"parts": prompts}
        config = self.config(model, asked)
        if config:
            body["generationConfig"] = config
        if "tools" in asked:
            body["tools"] = self.tools(asked["tools"])
        if "tool_choice" in asked:
            body["toolConfig"] = {"functionCallingConfig": self.tool_choice(asked["tool_choice"])}
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return f"/{self.resource(model)}:{method}", body

    @staticmethod
    def resource(model: str) -> str:
        """A model's resource name, quoted; a prefix such as "models/" is kept."""
        kind, _, name = model.rpartition("/") if re.match("(tunedM|m)odels/[^/]+$", model) else ("models", "", model)
        return f"{kind}/{quote(name, safe='')}"

    def embedding(self, model: str, texts: List[str]) -> Tuple[str, JSON]:
        if self.at_vertex:
            raise _not_offered("embed()")
        name = self.resource(model)
        requests_ = [{"model": name, "content": {"parts": [{"text": text}]}} for text in texts]
        return f"/{name}:batchEmbedContents", {"requests": requests_}

    def counting(self, model: str, asked: JSON) -> Tuple[_Request, _Value]:
        name, (_, body) = self.resource(model), self.build(model, dict(asked), False)
        whole = {"generateContentRequest": {"model": unquote(name), **body}}  # it alone may hold system and tools
        return _Request("POST", f"/{name}:countTokens", body if self.at_vertex else whole), _Value("count")

    def config(self, model: str, asked: JSON) -> JSON:
        config = {self.names[name]: value for name, value in asked.items() if name in self.names}
        if "stopSequences" in config:
            config["stopSequences"] = _as_list(config["stopSequences"])
        effort, schema, weights = asked.get("reasoning_effort"), asked.get("schema"), _weights_asked(asked)
        if weights is not None:
            config.update(responseLogprobs=True, **({"logprobs": weights} if weights else {}))
        if effort:
            budget, level = _GEMINI_EFFORTS.get(effort, (None, effort.upper()))
            by_budget = budget is not None and "gemini-2" in model  # which refuses a level, as later ones do a budget
            config["thinkingConfig"] = {"thinkingBudget": budget} if by_budget else {"thinkingLevel": level}
        if schema is not None:
            config["responseMimeType"] = "application/json"
            if schema.json is not None:
                config["responseJsonSchema"] = schema.json
        return config

    @staticmethod
    def tools(tools: List[JSON]) -> List[JSON]:
        """Functions gathered into one declaration list; Google's own kinds go through as they are."""
        functions = [_dict(tool.get("function")) for tool in tools if "function" in tool]
        names = (("name", "name"), ("description", "description"), ("parametersJsonSchema", "parameters"))
        declared = [{name: function[ours] for name, ours in names if function.get(ours)} for function in functions]
        others = [tool for tool in tools if "function" not in tool]
        return [{"functionDeclarations": declared}, *others] if declared else others

    def tool_choice(self, choice: Any) -> Any:
        if isinstance(choice, str):
            return {"mode": {"auto": "AUTO", "required": "ANY", "none": "NONE"}.get(choice, choice)}
        name = _at(choice, "function.name")
        return {"mode": "ANY", "allowedFunctionNames": [name]} if name else choice

    def contents(self, messages: List[JSON]) -> List[JSON]:
        """The history; the results of a turn's tools go into one content, in the order of the calls."""
        contents: List[JSON] = []
        calls: List[Tuple[str, JSON]] = []
        turns = [message for message in messages if message["role"] not in _SYSTEM]
        for of_tools, group in itertools.groupby(turns, lambda message: message["role"] in _RESULTS):
            if of_tools:
                contents.append({"role": "user", "parts": self.results(list(group), calls)})
                continue
            for message in group:
                if message["role"] == "assistant":
                    parts = self.spoken(message)
                    if parts == [{"text": ""}]:  # Vertex refuses a text that says nothing
                        continue
                    made = [part["functionCall"] for part in parts if "functionCall" in part]
                    calls = [(str(call.get("id")), one) for call, one in zip(_list(message.get("tool_calls")), made)]
                    contents.append({"role": "model", "parts": parts})
                else:
                    contents.append({"role": "user", "parts": self.parts(message.get("content"))})
        return contents

    def spoken(self, message: JSON) -> List[JSON]:
        """The parts of an assistant message: Google's own words, or what another dialect wrote."""
        verbatim = [_dict(part) for part in _list(_verbatim(message, self.voice))]
        if verbatim:
            return [{**part, "functionCall": _with_object(_dict(part["functionCall"]), "args")}
                    if "functionCall" in part else part for part in verbatim]
        functions = [_function_of(_dict(call)) for call in _list(message.get("tool_calls"))]
        calls = [{"functionCall": {"name": function.get("name"), "args": _arguments_of(function)}}
                 for function in functions]
        return (self.parts(message.get("content")) if message.get("content") or not calls else []) + calls

    def results(self, messages: List[JSON], calls: List[Tuple[str, JSON]]) -> List[JSON]:
        """The parts that answer a turn's calls, in their order; what answers none of them comes last."""
        answers: Dict[int, List[JSON]] = {}
        for message in messages:
            id = str(message.get("tool_call_id"))
            same = [at for at, (known, _) in enumerate(calls) if known == id] or [len(calls)]
            at = next((at for at in same if at not in answers), same[0])  # of calls with one id, each in its turn
            answers.setdefault(at, []).extend(self.result(message, calls[at][1] if at < len(calls) else {}))
        parts = [part for at in sorted(answers) for part in answers[at]]
        return sorted(parts, key=lambda part: "functionResponse" not in part)  # the files after all results

    def result(self, message: JSON, call: JSON) -> List[JSON]:
        """The result of a tool's call, and its files; the call's id goes back only where Google had given one."""
        content, files = message.get("content"), []
        value = _json_or(content, content.encode("utf-8", "replace")) if isinstance(content, str) else content
        if isinstance(content, list) and any(_attached(_dict(part)) for part in content):
            files = [self.written(part) for part in content if _attached(_dict(part))]
            rest = [part for part in content if not _attached(_dict(part))]
            is_text = all(_dict(part).get("type") == "text" for part in rest)
            content = value = "".join(_str(part.get("text")) for part in rest) if is_text else rest
        if isinstance(value, float) and not math.isfinite(value):  # "NaN" is JSON to Python only
            value = content
        response = {"error": content} if message.get("is_error") else {"output": value}
        answer = {"id": call.get("id"), "name": call.get("name") or message.get("name"), "response": response}
        return [{"functionResponse": {key: value for key, value in answer.items() if value is not None}}, *files]

    def parts(self, content: Any) -> List[JSON]:
        return list(map(self.written, content)) if isinstance(content, list) else [{"text": content or ""}]

    def worded(self, part: JSON) -> JSON:
        return {"text": part.get("text")} if part.get("type") == "text" else part

    def attachment(self, part: JSON, file: _Attached) -> JSON:
        kind = file.mime_type if file.kind != "text" or file.mime_type[:5] == "text/" else "text/plain"
        if file.data:
            return {"inlineData": {"mimeType": kind, "data": file.data}}
        spare = "image/jpeg" if file.kind == "images" else "application/pdf"
        return {"fileData": {"fileUri": file.url or file.inner.get("file_id"), "mimeType": kind or spare}}

    def check(self, body: JSON) -> None:
        if not _list(body.get("candidates")) and not isinstance(body.get("promptFeedback"), dict):
            raise ResponseError("no candidates in the answer")

    def parse(self, body: JSON) -> Response:
        candidate = _first_choice(body.get("candidates"))
        parts = _gemini_parts(candidate)
        id, raw_finish = _str(body.get("responseId")) or None, candidate.get("finishReason")
        calls = [_dict(part["functionCall"]) for part in parts if "functionCall" in part]
        blocked = _at(body, "promptFeedback.blockReason") if not candidate else None
        reply = Response(
            text=self.text(body), reasoning="".join(_str(part.get("text")) for part in parts if part.get("thought")),
            tool_calls=[_tool_call(call.get("id") or f"{id or 'call'}_{at}", call.get("name"), call.get("args"))
                        for at, call in enumerate(calls)],
            raw=body, id=id, request_id=id, model=_str(body.get("modelVersion")),
            raw_finish_reason=blocked or raw_finish,
            finish_reason="content_filter" if blocked else _finish_of(raw_finish),
            files=_files((_at(part, "inlineData.mimeType"), _at(part, "inlineData.data")) for part in parts
                         if "inlineData" in part and not part.get("thought")),
            logprobs=_gemini_logprobs(_dict(candidate.get("logprobsResult"))),
            citations=_list(_at(candidate, "citationMetadata.citationSources")),
            usage=_gemini_usage(body.get("usageMetadata")))
        return _finished(reply, self.voice, None if all(set(part) == {"text"} for part in parts) else parts)

    def text(self, body: JSON) -> str:
        parts = _gemini_parts(_first_choice(body.get("candidates")))
        return "".join(_str(_settled(part.get("text"))) for part in parts if not part.get("thought"))

    def without_choices(self, chunk: JSON) -> List[_Said]:
        return [_FINISH] if _at(chunk, "promptFeedback.blockReason") else []

    def fold(self, choice: JSON, kept: JSON, events: List[_Said]) -> None:
        if "content" not in kept:
            kept["content"] = {"role": "model", "parts": []}
        content, parts = choice.get("content"), kept["content"]["parts"]
        new = content.get("parts") if type(content) is dict else None
        for part in new if type(new) is list else ():
            if type(part) is not dict or not part:
                continue
            text, last = part.get("text"), parts[-1] if parts else {}
            if type(text) is str and "text" in last and (len(part) == len(last) == 1 or (
                    part.keys() == last.keys() == _THOUGHT and part["thought"] == last["thought"])):
                _gather(last, "text", text)
            else:  # one with a signature stays as it came
                parts.append(part)
            if text and type(text) is str:
                events.append(Event("reasoning", text) if part.get("thought") else text)
        if not _PLAIN_CANDIDATE.issuperset(choice):
            _fold(_without(choice, "content"), kept, self.grows)


_PLAIN_CANDIDATE = frozenset(("index", "content"))
_THOUGHT = {"text", "thought"}  # the keys of a part that is nothing but text
_GEMINI_EFFORTS: Dict[str, Tuple[Optional[int], str]] = {  # tokens to think with, or a level
    "none": (0, "MINIMAL"), "minimal": (512, "MINIMAL"), "low": (1024, "LOW"), "medium": (8192, "MEDIUM"),
    "high": (24576, "HIGH"), "xhigh": (24576, "XHIGH"), "max": (24576, "XHIGH")}


_SIGNING = "gemini-(?:[3-9]|(?:pro|flash|flash-lite)-latest)"  # models that refuse a call without a signature


def _sign(contents: List[JSON]) -> None:
    """The first call of each step, if it is not signed: with what Google gives for calls that another model made."""
    for parts in (content["parts"] for content in contents):
        first = next((at for at, part in enumerate(parts) if "functionCall" in part), None)
        if first is not None and not parts[first].get("thoughtSignature"):
            parts[first] = {**parts[first], "thoughtSignature": "skip_thought_signature_validator"}


def _gemini_parts(candidate: JSON) -> List[JSON]:
    return [_dict(part) for part in _list(_at(candidate, "content.parts"))]


def _gemini_logprobs(result: JSON) -> List[Logprob]:
    def heard(row: Any, top: Sequence[Any] = ()) -> Logprob:
        return Logprob(_str(_at(row, "token")), _at(row, "logProbability"), tuple(map(heard, top)))

    tops = [_list(_at(top, "candidates")) for top in _list(result.get("topCandidates"))]
    return list(itertools.starmap(heard, itertools.zip_longest(
        _list(result.get("chosenCandidates")), tops[:len(_list(result.get("chosenCandidates")))], fillvalue=())))


def _gemini_usage(usage: Any) -> Usage:
    thoughts = _count(usage, "thoughtsTokenCount")
    read = _count(usage, "promptTokenCount") + _count(usage, "toolUsePromptTokenCount")
    written = _count(usage, "candidatesTokenCount") + thoughts
    return Usage(read, written, _count(usage, "cachedContentTokenCount"), thoughts)


# ------------------------------------------------------------------------------------------------------------ providers


class _Provider:
    """A row of the table; `quirks` are attributes of its dialects."""

    def __init__(self, name: str, base_url: str, keys: str = "", kind: Type[_Dialect] = _OpenAI,
                 raw: Type[_Dialect] = _Completions, optional_keys: str = "", plain_ids: bool = False,
                 items: Optional[JSON] = None, blanks: Optional[Dict[str, str]] = None,
                 hosts: Optional[Dict[str, str]] = None, by_path: bool = False, exchange: str = "",
                 **quirks: Any) -> None:
        self.name, self.base_url, self.kind, self.raw, self.quirks = name, base_url, kind, raw, quirks
        self.keys = tuple(keys.split())  # the variables of which one must be set
        self.optional_keys = tuple(optional_keys.split())  # of a server that may have been started with a key
        self.plain_ids = plain_ids  # whether no model's id has a slash: then "anthropic/..." is none of its models
        self.items = items or {}  # attributes of its Responses, where it has them
        self.blanks = blanks or {}  # of its address -> the variables that fill them; "": variables of the whole address
        self.hosts = hosts or {}  # that its address would have -> that it has instead
        self.by_path = by_path  # whether its host speaks in other ways too, so that the path alone tells it
        self.exchange = exchange  # where its key is exchanged for a token

    def dialect(self) -> _Dialect:
        return self.kind(**self.quirks)

    def responses(self) -> Optional[_Responses]:
        """The dialect of its Responses, which whoever speaks OpenAI's may have."""
        shared = {name: quirk for name, quirk in self.quirks.items()
                  if name in ("auth_header", "auth_scheme", "takes_tokens")}
        own = {"voice": f"{self.name}-responses", **shared, **self.items}
        return _Responses(**own) if issubclass(self.kind, _OpenAI) else None

    def completions(self) -> _Dialect:
        return self.raw(**{name: quirk for name, quirk in self.quirks.items() if name != "names"})


_row = _Provider  # a short name, for the table
_NEW_CAP = {"max_tokens": "max_completion_tokens"}
_PDF_ALONE = ("images", "PDF", "audio")
_SHORT = "(?s).{1,40}"  # ids of calls; vLLM's have 46 characters
_SEALS = {"sealing": r"(?:^|/)(?:o\d|gpt-[5-9]|gpt-daybreak|codex|computer-use)(?!.*-chat)",
          "wanted": ("encrypted_content",)}
_BOTH = {"alone_with_effort": r"(?:^|[/.:])gpt-5\.6"}
_ONLY_ITEMS = {**_SEALS, "alone": "-pro(-|$)|-codex|-deep-research|^computer-use-|^gpt-daybreak-",
               **_BOTH}
_BEARER: JSON = {"auth_header": "Authorization", "auth_scheme": "Bearer "}
_AWS = {"region": "AWS_REGION AWS_DEFAULT_REGION"}
_GOOGLE = {"project": "GOOGLE_CLOUD_PROJECT", "region": "GOOGLE_CLOUD_LOCATION =global"}
_GOOGLE_HOSTS = {"global-aiplatform.googleapis.com": "aiplatform.googleapis.com",
                 **{f"{place}-aiplatform.googleapis.com": f"aiplatform.{place}.rep.googleapis.com"
                    for place in ("us", "eu")}}
_GOOGLE_TOKENS = "GOOGLE_OAUTH_ACCESS_TOKEN CLOUDSDK_AUTH_ACCESS_TOKEN"
_COMPATIBLE = _row("compatible", "", "LLMLITE_API_KEY")
_PROVIDERS = {row.name: row for row in (
    _row("openai", "https://api.openai.com/v1", "OPENAI_API_KEY", names=_NEW_CAP, plain_ids=True,
         items=_ONLY_ITEMS, counts="items", kinds=_PDF_ALONE, ids=_SHORT),
    _row("anthropic", "https://api.anthropic.com", "ANTHROPIC_API_KEY", _Anthropic, plain_ids=True),
    _row("gemini", "https://generativelanguage.googleapis.com/v1beta", "GOOGLE_API_KEY GEMINI_API_KEY", _Gemini,
         embeddings_at_once=100, plain_ids=True),
    _row("gemini-openai", "https://generativelanguage.googleapis.com/v1beta/openai", "GOOGLE_API_KEY GEMINI_API_KEY",
         voice="gemini-openai", echo=("tool_calls",), plain_ids=True),
    _row("vertex", "https://{region}-aiplatform.googleapis.com/v1beta1/projects/{project}/locations/{region}/"
         "publishers/google", _GOOGLE_TOKENS, _Gemini, blanks=_GOOGLE, hosts=_GOOGLE_HOSTS, by_path=True,
         plain_ids=True, at_vertex=True, models_path="", **_BEARER),
    _row("vertex-anthropic", "https://{region}-aiplatform.googleapis.com/v1/projects/{project}/locations/{region}/"
         "publishers/anthropic", _GOOGLE_TOKENS, _VertexAnthropic, hosts=_GOOGLE_HOSTS, by_path=True, plain_ids=True,
         blanks={"project": "ANTHROPIC_VERTEX_PROJECT_ID GOOGLE_CLOUD_PROJECT",
                 "region": "CLOUD_ML_REGION GOOGLE_CLOUD_LOCATION =global"},
         keeps_whole=False, models_path="", **_BEARER),
    _row("azure", "https://{resource}.openai.azure.com/openai/v1", "AZURE_OPENAI_API_KEY AZURE_OPENAI_AD_TOKEN",
         names=_NEW_CAP, auth_header="api-key", auth_scheme="", takes_tokens=True, plain_ids=True,
         items={**_SEALS, **_BOTH},
         counts="items", kinds=_PDF_ALONE, ids=_SHORT, blanks={"resource": "AZURE_OPENAI_ENDPOINT"}),
    _row("azure-anthropic", "https://{resource}.services.ai.azure.com/anthropic", "ANTHROPIC_FOUNDRY_API_KEY",
         _Anthropic, takes_tokens=True, by_path=True, plain_ids=True, blanks={
             "resource": "ANTHROPIC_FOUNDRY_RESOURCE", "": "ANTHROPIC_FOUNDRY_BASE_URL"}),
    _row("bedrock", "https://bedrock-runtime.{region}.amazonaws.com/openai/v1", "AWS_BEARER_TOKEN_BEDROCK",
         blanks=_AWS, by_path=True, plain_ids=True, names=_NEW_CAP,
         items={"sealing": "gpt-[5-9]", "wanted": ("encrypted_content",), "counts_calls": True, **_BOTH}),
    _row("bedrock-anthropic", "https://bedrock-mantle.{region}.api.aws/anthropic", "AWS_BEARER_TOKEN_BEDROCK",
         _Anthropic, blanks=_AWS, by_path=True, plain_ids=True, keeps_whole=False, **_BEARER),
    _row("databricks", "https://{workspace}/serving-endpoints", "DATABRICKS_TOKEN DATABRICKS_API_KEY", blanks={
        "workspace": "DATABRICKS_HOST", "": "DATABRICKS_API_BASE"}, plain_ids=True),
    _row("snowflake", "https://{account}.snowflakecomputing.com/api/v2/cortex/v1", "SNOWFLAKE_TOKEN",
         blanks={"account": "SNOWFLAKE_ACCOUNT"}, plain_ids=True),
    _row("cloudflare", "https://api.cloudflare.com/client/v4/accounts/{account}/ai/v1",
         "CLOUDFLARE_API_KEY CLOUDFLARE_API_TOKEN", blanks={"account": "CLOUDFLARE_ACCOUNT_ID"}),
    _row("watsonx", "https://{region}.ml.cloud.ibm.com/ml/gateway/v1", "WATSONX_APIKEY",
         blanks={"region": "WATSONX_URL"}, exchange="https://iam.cloud.ibm.com/identity/token"),
    _row("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY",
         voice="openrouter", echo=("reasoning_details",), items=_SEALS, keeps_whole=True,
         kinds=(*_PDF_ALONE, _BY_URL, _OTHERS), url_key="file_data"),
    _row("xai", "https://api.x.ai/v1", "XAI_API_KEY", plain_ids=True, items={**_SEALS, "sealing": "^grok-"}),
    _row("deepseek", "https://api.deepseek.com", "DEEPSEEK_API_KEY", _DeepSeek, plain_ids=True),
    _row("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    _row("mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY", _Mistral, plain_ids=True),
    _row("together", "https://api.together.ai/v1", "TOGETHER_API_KEY"),
    _row("fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    _row("cerebras", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY", plain_ids=True),
    _row("perplexity", "https://api.perplexity.ai", "PERPLEXITY_API_KEY"),
    _row("nvidia", "https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY"),
    _row("huggingface", "https://router.huggingface.co/v1", "HF_TOKEN"),
    _row("moonshot", "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY", plain_ids=True),
    _row("zai", "https://api.z.ai/api/paas/v4", "ZAI_API_KEY", plain_ids=True),
    _row("dashscope", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
    _row("minimax", "https://api.minimax.io/v1", "MINIMAX_API_KEY", plain_ids=True),
    _row("sambanova", "https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    _row("deepinfra", "https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    _row("nebius", "https://api.studio.nebius.ai/v1", "NEBIUS_API_KEY"),
    _row("hyperbolic", "https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY"),
    _row("novita", "https://api.novita.ai/v3/openai", "NOVITA_API_KEY"),
    _row("baseten", "https://inference.baseten.co/v1", "BASETEN_API_KEY"),
    _row("vercel", "https://ai-gateway.vercel.sh/v1", "VERCEL_AI_GATEWAY_API_KEY"),
    _row("meta", "https://api.meta.ai/v1", "META_API_KEY"),
    _row("crusoe", "https://api.inference.crusoecloud.com/v1", "CRUSOE_API_KEY"),
    _row("wandb", "https://api.inference.wandb.ai/v1", "WANDB_API_KEY"),
    _row("scaleway", "https://api.scaleway.ai/v1", "SCW_SECRET_KEY"),
    _row("venice", "https://api.venice.ai/api/v1", "VENICE_AI_API_KEY"),
    _row("poe", "https://api.poe.com/v1", "POE_API_KEY"),
    _row("chutes", "https://llm.chutes.ai/v1", "CHUTES_API_KEY"),
    _row("volcengine", "https://ark.cn-beijing.volces.com/api/v3", "VOLCENGINE_API_KEY"),
    _row("friendli", "https://api.friendli.ai/serverless/v1", "FRIENDLI_TOKEN"),
    _row("ollama-cloud", "https://ollama.com/v1", "OLLAMA_API_KEY"),
    _row("ollama", "http://localhost:11434/v1",   # OLLAMA_API_KEY is its cloud's
         items={"tells_cut": False, "kinds": ("images",)}),
    _row("lmstudio", "http://localhost:1234/v1", optional_keys="LMSTUDIO_API_KEY LM_API_TOKEN"),
    _row("vllm", "http://localhost:8000/v1", optional_keys="VLLM_API_KEY",
         voice="vllm", echo=("reasoning", "reasoning_content"), counts="tokens", raw=_VLLM, items={
             "wanted": ("content", "summary"), "refused": ("encrypted_content", "status"), "lacks": ()}),
    _row("llamacpp", "http://localhost:8080/v1", optional_keys="LLAMACPP_API_KEY", raw=_LlamaCpp, voice="llamacpp",
         echo=("reasoning_content",), counts="items", items={
             "wanted": ("content",), "refused": ("encrypted_content",), "tells_cut": False, "kinds": ("images",)}),
)}
