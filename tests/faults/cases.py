"""The faults, and what must come of each: data only.

A fault is a function of what was asked (`Asked`) that returns the scripted reply, and what a chat and a stream have to
make of it (`Expect`).  The policy of every row: one retry of server errors and lost connections, two of rate limits,
one of connects.
"""
import dataclasses
import gzip
import time
import zlib
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Tuple, Type

from tests import testing
from tests.packed import bomb

from . import peers

QUIET, PATIENT = 0.6, 5.0  # seconds: the deadline where the fault is silence, and everywhere else
NORMAL, RATE = 2, 3  # requests until a lasting fault is given up
MB = 1 << 20
FINISHES = (b'"finish_reason":"stop"', b'"stop_reason":"end_turn"', b'"finishReason":"STOP"',
            b'"type":"response.completed"')
MODES = "chat", "stream"
DIALECTS = "openai", "responses", "anthropic", "gemini", "completions"


class Asked:
    """One request, and the good answer to it."""

    def __init__(self, request, number, peer):
        self.request, self.number, self.peer = request, number, peer
        self.shape = testing.shape_of(request)
        content = testing.stream(["He", "llo"]).content(self.shape)
        self.pieces, self.kind = list(content.pieces), content.content_type
        self.body = b"".join(self.pieces)

    @property
    def finish(self):
        """How many pieces there are up to the finish reason."""
        return 1 + next(at for at, piece in enumerate(self.pieces) if any(word in piece for word in FINISHES))

    @property
    def torn(self):
        """The body up to the middle of an event (of a chat: of the body)."""
        at = next(at for at, piece in enumerate(self.pieces) if b"llo" in piece)
        return b"".join(self.pieces[:at]) + self.pieces[at][:len(self.pieces[at]) // 2]

    def head(self, *headers, status="200 OK"):
        return ("\r\n".join(["HTTP/1.1 " + status, "Content-Type: " + self.kind,
            *headers]) + "\r\n\r\n").encode("latin-1")

    def whole(self, *headers, status="200 OK"):
        """The whole answer on the wire, sized."""
        return self.head(f"Content-Length: {len(self.body)}", *headers, status=status) + self.body

    def begun(self, framing, body):
        """The head, and the start of the body in one packet; the rest is up to the fault."""
        if framing == "chunked":
            return self.head("Transfer-Encoding: chunked") + (chunk(body) if body else b"")
        if framing == "length":
            return self.head(f"Content-Length: {len(self.body) + 9}") + body
        return self.head("Connection: close") + body

    def with_body(self, body, **how):
        how.setdefault("headers", {"Content-Type": self.kind})
        return testing.body(body, **how)

    def changed(self, change):
        """The good answer with every JSON object in it changed."""
        marks = (b"data: {", b"{") if self.shape.stream else (b"{", b"{")
        return self.with_body([piece.replace(marks[0], marks[0] + change, 1) for piece in self.pieces])


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


class Expect(NamedTuple):
    """What must come of a row."""

    outcome: str  # "ok" or the error's class
    requests: int = 1  # that the server sees
    calls: int = 0  # billed
    unknown: int = 0
    attempts: Optional[int] = None  # None: one for each request
    status: Optional[int] = None  # on the error
    says: str = ""  # in the error's line
    empty: int = 0
    invalid: Optional[str] = None  # on the last of the tool calls


OK = Expect("ok", calls=1)
EMPTY = Expect("ok", calls=1, empty=1)
AGAIN = Expect("ok", requests=2, calls=1)
NO_ANSWER = Expect("ResponseError", calls=1)
LOST = Expect("APIConnectionError", requests=NORMAL, unknown=NORMAL)
CUT = Expect("APIConnectionError", requests=NORMAL, calls=NORMAL, says="cut off|lost")
BROKEN = Expect("StreamError", calls=1)
TRUNCATED = Expect("TruncatedStreamError", calls=1)
LATE = Expect("DeadlineExceededError", unknown=1, says="deadline of 0.6 s")
LATE_BODY = Expect("DeadlineExceededError", calls=1, says="deadline of 0.6 s")
TIMEOUT = Expect("APITimeoutError", requests=NORMAL, unknown=NORMAL)


class Fault(NamedTuple):
    """A fault, and what a chat and a stream must make of it; None: it does not concern them."""

    group: str
    name: str
    play: Callable[[Asked], Any]
    chat: Optional[Expect]
    stream: Optional[Expect]
    of: Mapping[str, Expect] = {}  # where a dialect differs
    dialects: Tuple[str, ...] = DIALECTS
    peer: Type[peers.Peer] = peers.Scripted
    deadline: float = PATIENT
    limit: Optional[float] = None  # seconds the call may take; None: its deadline
    options: Mapping[str, Any] = {}  # of the client
    waits: Optional[float] = None  # seconds the server asks for between the first two requests
    after: bool = True  # whether the next call can be a good one
    alone: bool = False  # too heavy to run beside others
    among: str = ""  # runs beside those alone that say the same: they share a part of the environment

    def expected(self, dialect, mode):
        return self.of.get(dialect) or getattr(self, mode)


ALL = []


def add(group, name, play, chat, stream=..., **more):
    ALL.append(Fault(group, name, play, chat, chat if stream is ... else stream, **more))


def silent(group, name, play, chat=LATE, stream=..., **more):
    add(group, name, play, chat, stream, deadline=QUIET, **more)


def raw(*steps):
    """A fault that needs not know what was asked."""
    return lambda asked: testing.raw(*steps)


# --------------------------------------------------------------------------------------------------- before any request

NOT_SENT = Expect("APIConnectionError", requests=0, attempts=1)
ALONE = {"after": False}

add("connect", "connection refused", None, NOT_SENT._replace(says="refused.*server running"), peer=peers.Refusing,
    **ALONE)
add("connect", "refused, then up", None, OK, peer=peers.Late, options={"connects": 20}, **ALONE)
add("connect", "host not found", None, NOT_SENT._replace(
    outcome="APIConnectionError|DeadlineExceededError", says="host not found|deadline"), peer=peers.Nowhere, **ALONE)
silent("connect", "connect swallowed", None, Expect("DeadlineExceededError", requests=0, attempts=1), peer=peers.Full,
    **ALONE)
add("connect", "connect swallowed, connect timeout", None,
    Expect("APITimeoutError", requests=0, attempts=1, says="connect timed out"), peer=peers.Full,
    options={"timeout": (0.1, 600)}, limit=0.21, **ALONE)
add("connect", "TLS, unknown authority", None, NOT_SENT._replace(says="certificate refused.*SSL_CERT_FILE"),
    peer=peers.Untrusted, **ALONE)
add("connect", "TLS to a plain port", None, NOT_SENT._replace(says="TLS failed.*https"), peer=peers.Plain, **ALONE)
silent("connect", "TLS to a mute port", None, Expect("DeadlineExceededError", requests=0, attempts=1),
    peer=peers.TLSToMute, **ALONE)
add("connect", "plain HTTP to a TLS port", None, LOST._replace(requests=0, attempts=NORMAL), peer=peers.PlainToTLS,
    **ALONE)
add("connect", "reset before the request", None, LOST._replace(requests=0, attempts=-1, unknown=-1),
    peer=peers.Resetting, **ALONE)
add("connect", "server neither reads nor answers", None, LATE._replace(  # to make such a request takes time, too
    requests=0, attempts=1, says="deadline of 1.2 s"), peer=peers.Deaf, deadline=2 * QUIET,
    options={"prompt": "x" * (8 * MB)}, alone=True, **ALONE)

# ----------------------------------------------------------------------------------------------------- lost connections

add("lost", "reset after the request", raw(testing.RESET), LOST)
add("lost", "closed after the request", raw(testing.CLOSE), LOST)
add("lost", "EOF in the status line", raw(b"HTTP/1.1 20"), LOST)
add("lost", "EOF after the status line", raw(b"HTTP/1.1 200 OK\r\n"), LOST)
add("lost", "EOF in a header", raw(b"HTTP/1.1 200 OK\r\nContent-Ty"), LOST)
add("lost", "EOF before the blank line", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"), LOST)
add("lost", "reset in the headers", raw(b"HTTP/1.1 200 OK\r\nContent-Ty", 0.02, testing.RESET), LOST)
for framing in ("length", "chunked", "close"):
    add("lost", "reset after the head, " + framing,
        lambda asked, framing=framing: testing.raw(asked.begun(framing, b""), 0.02, testing.RESET), CUT)
    add("lost", "reset in the body, " + framing,
        lambda asked, framing=framing: testing.raw(asked.begun(framing, asked.torn), 0.02, testing.RESET), CUT, BROKEN)
add("lost", "reset in a chunk", lambda asked: testing.raw(
    asked.begun("chunked", asked.pieces[0]) + chunk(asked.body)[:40], 0.02, testing.RESET), CUT, BROKEN)
add("lost", "reset after the finish reason", lambda asked: testing.raw(
    asked.begun("chunked", b"".join(asked.pieces[:asked.finish])), 0.02, testing.RESET), None, OK)
add("lost", "stale pooled connection", lambda asked: testing.reply("Hello"), OK._replace(requests=2, calls=2),
    options={"before": "drop"})
for how in ("CLOSE", "RESET"):
    add("lost", f"pooled connection, {how.lower()} as we send",
        lambda asked, how=how: testing.raw(getattr(testing, how)) if asked.number == 2 else testing.reply("Hello"),
        OK._replace(requests=3, calls=2, unknown=1), options={"before": "call"})

# ---------------------------------------------------------------------------------------------------------- SOCKS proxy

SOCKS = {"peer": peers.ThroughSocks, "among": "SOCKS", "dialects": ("openai",)}
add("socks", "good answer", lambda asked: testing.stream(["He", "llo"]), OK, **SOCKS)
add("socks", "closed after the request", raw(testing.CLOSE), LOST, **SOCKS)
add("socks", "reset after the request", raw(testing.RESET), LOST, **SOCKS)
add("socks", "pooled connection, closed as we send",
    lambda asked: testing.raw(testing.CLOSE) if asked.number == 2 else testing.reply("Hello"),
    OK._replace(requests=3, calls=2, unknown=1), options={"before": "call"}, **SOCKS)
add("socks", "cut in the middle", lambda asked: testing.raw(asked.begun("chunked", asked.torn)), CUT, TRUNCATED,
    **SOCKS)
silent("socks", "no answer", raw(testing.STALL), **SOCKS)
silent("socks", "head dripped", lambda asked: testing.raw(*drip(asked.head("X: " + "x" * 200), 1)), **SOCKS)
silent("socks", "half a body, then nothing",
       lambda asked: testing.raw(asked.begun("chunked", asked.torn), testing.STALL), LATE_BODY, **SOCKS)
for kind, name in ((peers.MuteSocks, "mute"), (peers.DrippingSocks, "dripping")):
    silent("socks", name + " proxy", None, Expect("DeadlineExceededError", requests=0, attempts=1),
           **{**SOCKS, **ALONE, "peer": kind, "among": name})
add("socks", "proxy that refuses", None, NOT_SENT,
    **{**SOCKS, **ALONE, "peer": peers.RefusingSocks, "among": "refusing"})

# -------------------------------------------------------------------------------------------------------------- silence

silent("silence", "no answer", raw(testing.STALL))
add("silence", "no answer, read timeout", raw(testing.STALL), TIMEOUT, options={"timeout": (10, 0.2)}, limit=0.42)
silent("silence", "head dripped", lambda asked: testing.raw(*drip(asked.head("X: " + "x" * 200), 1)))
for form in (b'event: ping\ndata: {"type": "ping"}\n\n', b'data: {"type": "ping"}\n\n'):
    add("silence", f"a provider's pings for ever, {'named' if form[:1] == b'e' else 'plain'}",
        lambda asked, form=form: asked.with_body([*asked.pieces[:2], *[form] * 100], framing="close", gap=0.05),
        None, Expect("APITimeoutError", calls=1, says="no data event"), options={"idle_timeout": 0.7})
silent("silence", "100 Continue for ever", raw(*[b"HTTP/1.1 100 Continue\r\n\r\n", 0.02] * 200))
silent("silence", "head, then nothing", lambda asked: testing.raw(asked.begun("length", b""), testing.STALL), LATE_BODY)
add("silence", "head, then nothing, read timeout",
    lambda asked: testing.raw(asked.begun("length", b""), testing.STALL), TIMEOUT._replace(unknown=0, calls=NORMAL),
    options={"timeout": (10, 0.2)}, limit=0.42)
silent("silence", "half a body, then nothing",
       lambda asked: testing.raw(asked.begun("chunked", asked.torn), testing.STALL), LATE_BODY)
add("silence", "half a body, then nothing, read timeout",
    lambda asked: testing.raw(asked.begun("chunked", asked.torn), testing.STALL),
    Expect("APITimeoutError", requests=NORMAL, calls=NORMAL), Expect("APITimeoutError", calls=1),
    options={"timeout": (10, 0.3)}, limit=0.62)
for framing in ("length", "chunked", "close", "gzip", "gzip-length"):
    silent("silence", "body dripped, " + framing,
           lambda asked, framing=framing: asked.with_body(asked.body, framing=framing, split=1, gap=0.05), LATE_BODY)
silent("silence", "trailers for ever",
       lambda asked: testing.raw(asked.begun("chunked", asked.body) + b"0\r\n",
           *drip(b"X-Y: z\r\n" * 99, 8)), LATE_BODY, OK)
silent("silence", "pings for ever", lambda asked: testing.raw(
    asked.begun("close", asked.pieces[0]), *[b": ping\n\n", 0.03] * 99), None, LATE_BODY)
add("silence", "pings for ever, idle timeout", lambda asked: testing.raw(
    asked.begun("close", asked.pieces[0]), *[b": ping\n\n", 0.03] * 99), None, Expect("APITimeoutError", calls=1),
    options={"idle_timeout": 0.7}, limit=0.71)
silent("silence", "pings and no event", lambda asked: testing.raw(
    asked.begun("close", b""), *[b": ping\n\n", 0.03] * 99), None, LATE_BODY)
silent("silence", "blank lines for ever", lambda asked: testing.raw(asked.begun("close", b""), *[b"\n", 0.03] * 99),
    LATE_BODY)
silent("silence", "nothing after the finish reason", lambda asked: testing.raw(
    asked.begun("chunked", b"".join(asked.pieces[:asked.finish])), testing.STALL), None, OK)
silent("silence", "an error's body dripped", lambda asked: testing.error(400, "x" * 300, split=1, gap=0.02),
       Expect("DeadlineExceededError|BadRequestError"))


def drip(data, size, gap=0.03):
    """Bytes a few at a time."""
    steps = []
    for at in range(0, len(data), size):
        steps += [data[at:at + size], gap]
    return steps


# ----------------------------------------------------------------------------------------------------------- truncation

for framing in ("chunked", "length", "close"):
    by_end = framing == "close"  # then only the content tells of a cut
    cut, no_event = (NO_ANSWER, NO_ANSWER) if by_end else (CUT, CUT)
    add("cut", "after the head, " + framing, lambda asked, framing=framing: testing.raw(asked.begun(framing, b"")),
        cut, no_event)
    add("cut", "after the first event, " + framing,
        lambda asked, framing=framing: testing.raw(asked.begun(framing, asked.pieces[0])), None, TRUNCATED)
    add("cut", "in the first event, " + framing,
        lambda asked, framing=framing: testing.raw(asked.begun(framing, asked.pieces[0][:30])), cut, no_event)
    add("cut", "inside an event or object, " + framing,
        lambda asked, framing=framing: testing.raw(asked.begun(framing, asked.torn)), cut, TRUNCATED)
    add("cut", "after the finish reason, " + framing,
        lambda asked, framing=framing: testing.raw(asked.begun(framing,
            b"".join(asked.pieces[:asked.finish]))), None, OK)
add("cut", "in a chunk's size", lambda asked: testing.raw(asked.begun("chunked", asked.torn) + b"4"), CUT, TRUNCATED)
add("cut", "before the last chunk", lambda asked: testing.raw(asked.begun("chunked", asked.body)), CUT, OK)
add("cut", "a byte too few", lambda asked: testing.raw(asked.begun("length", asked.body + b"\n" * 8)), CUT, OK)

# ---------------------------------------------------------------------------------------------------------- compression

GZIP = {"Content-Encoding": "gzip"}


def gzipped(data):
    """All of the data, and no end."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)


def unpacks_to(filler):
    """300 MiB of it."""
    return lambda asked: asked.with_body(bomb(filler * (MB // len(filler)), 300), headers={
        "Content-Type": asked.kind, **GZIP})


TOO_LARGE = Expect("ResponseError", calls=1, says="refused.*over")
add("gzip", "wrong gzip", lambda asked: asked.with_body(asked.body, headers={"Content-Type": asked.kind, **GZIP}),
    NO_ANSWER)
add("gzip", "cut gzip, length", lambda asked: asked.with_body(asked.body, framing="gzip-length", truncate=25,
    end="close"), CUT)
add("gzip", "cut gzip, close", lambda asked: testing.raw(
    asked.head("Content-Encoding: gzip", "Connection: close") + gzipped(asked.torn)), CUT, TRUNCATED)
add("gzip", "cut gzip trailer", lambda asked: testing.raw(
    asked.head("Content-Encoding: gzip", "Connection: close") + gzip.compress(asked.body)[:-4]), CUT, OK)
add("gzip", "broken gzip in the middle", lambda asked: asked.with_body(
    [gzip.compress(asked.pieces[0]), b"no gzip"], headers={"Content-Type": asked.kind,
        **GZIP}, gap=0.02), NO_ANSWER, BROKEN)
add("gzip", "an encoding nobody asked for", lambda asked: asked.with_body(
    asked.body, headers={"Content-Type": asked.kind, "Content-Encoding": "br"}), NO_ANSWER)
add("gzip", "decompression bomb, one line", unpacks_to(b"x" * 64), TOO_LARGE, alone=True, deadline=30.0)
add("gzip", "decompression bomb, comments", unpacks_to(b": " + b"x" * 1021 + b"\n"), None, TOO_LARGE, alone=True,
    deadline=30.0)  # to chat both are but bytes

# ----------------------------------------------------------------------------------------------------------------- size

add("size", "status line of 100 KB", raw(b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n"), LOST)
add("size", "header of 100 KB", raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"), LOST)
add("size", "1,000 headers", lambda asked: testing.raw(asked.whole(*["X: y"] * 1000)),
    LOST._replace(says="not HTTP"))
add("size", "head of 4 MB", raw(b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"x" * 60_000 + b"\r\n") * 70 + b"\r\n"),
    Expect("ResponseError", unknown=1, says="refused"))
add("size", "head of 100 Continue", raw(*[b"HTTP/1.1 100 Continue\r\n\r\n" * 1000] * 100),
    Expect("ResponseError", unknown=1, says="refused"))
add("size", "line without end", lambda asked: testing.raw(
    asked.begun("close", b""), b"data: ", *[b"x" * MB] * 20), None, TOO_LARGE, alone=True)
add("size", "line without end, later", lambda asked: testing.raw(
    asked.begun("close", asked.pieces[0]), b"data: ", *[b"x" * MB] * 20), None,
    Expect("StreamError", calls=1, says="refused"), alone=True)
add("size", "body of 257 MB", lambda asked: testing.raw(
    asked.begun("close", b""), *[b" " * (MB - 1) + b"\n"] * 260), TOO_LARGE, alone=True, deadline=30.0)
add("size", "an error of 4 MB", lambda asked: asked.with_body(b"x" * (4 * MB), status=400),
    Expect("BadRequestError", status=400))
HUGE = b'{"error":{"message":"no","more":"' + b"x" * (50 * MB) + b'"}}'
silent("size", "an error object of 50 MB with 200", lambda asked: asked.with_body(HUGE),
       Expect("ServerError|DeadlineExceededError", requests=-1, attempts=-1, calls=-1, unknown=-1),
       Expect("ResponseError|DeadlineExceededError", requests=-1, attempts=-1, calls=-1, unknown=-1), alone=True)
silent("size", "an error object of 50 MB with 400", lambda asked: asked.with_body(HUGE, status=400),
       Expect("BadRequestError", status=400), alone=True)

# ------------------------------------------------------------------------------------------------------ status and head


def status(number, *words, **how):
    return lambda asked: testing.error(number, *words, **how)


def then_good(first):
    """The fault once, then the good answer."""
    return lambda asked: first(asked) if asked.number == 1 else testing.stream(["He", "llo"])


for code in ("100 Continue", "102 Processing", "103 Early Hints"):
    early = f"HTTP/1.1 {code}\r\nLink: </x>\r\n\r\n".encode()
    add("status", code + ", then 200", lambda asked, early=early: testing.raw(early + asked.whole()), OK)
    add("status", code + ", later 200", lambda asked, early=early: testing.raw(early, 0.05, asked.whole()), OK)
for number in (204, 205):
    add("status", str(number), raw(f"HTTP/1.1 {number} Nothing\r\nContent-Length: 0\r\n\r\n".encode()),
        NO_ANSWER._replace(status=number))
for number in (301, 302, 303, 307, 308):
    add("status", f"{number} elsewhere", lambda asked, number=number: testing.body(
        b"", status=number, headers={"Location": asked.peer.other.root + "/v1/chat/completions"}),
        Expect("APIError", status=number, says="redirect to http://127.0.0.1.*not followed"), peer=peers.Elsewhere)
add("status", "304", raw(b"HTTP/1.1 304 Not Modified\r\n\r\n"), Expect("APIError", status=304))

STATUSES: Dict[int, Tuple[str, int]] = {
    400: ("BadRequestError", 1), 401: ("AuthenticationError", 1), 402: ("PaymentRequiredError", 1),
    403: ("PermissionDeniedError", 1), 404: ("NotFoundError", 1), 408: ("APIError", NORMAL), 409: ("APIError", NORMAL),
    410: ("APIError", 1), 413: ("BadRequestError", 1), 422: ("BadRequestError", 1), 425: ("APIError", NORMAL),
    429: ("RateLimitError", RATE), 500: ("ServerError", NORMAL), 501: ("ServerError", 1), 502: ("ServerError", NORMAL),
    503: ("OverloadedError", RATE), 504: ("ServerError", NORMAL), 505: ("ServerError", 1),
    520: ("ServerError", NORMAL), 521: ("ServerError", NORMAL), 522: ("ServerError", NORMAL),
    523: ("ServerError", NORMAL), 524: ("ServerError", NORMAL), 529: ("OverloadedError", RATE)}
for number, (error, requests) in STATUSES.items():
    wanted = Expect(error, requests=requests, status=number)
    quota = {"gemini": wanted._replace(outcome="QuotaExceededError")} if number == 402 else {}  # it says so by the word
    add("status", str(number), status(number), wanted, of=quota)
add("status", "500 once", then_good(status(500)), AGAIN)
add("status", "400, x-should-retry: true", status(400, headers={"x-should-retry": "true"}),
    Expect("BadRequestError", requests=NORMAL))
add("status", "500, x-should-retry: false", status(500, headers={"x-should-retry": "false"}), Expect("ServerError"))
add("status", "429, quota used up", status(429, code="insufficient_quota"), Expect("QuotaExceededError"),
    dialects=("openai", "responses", "anthropic", "completions"))
add("status", "400, context too long", status(400, "This model's maximum context length is 8192 tokens."),
    Expect("ContextLengthError", status=400))
HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
PAGE = {"Content-Type": "text/html"}
add("status", "HTML with 200", lambda asked: testing.body(HTML, headers=PAGE), NO_ANSWER._replace(says="HTML|html"))
add("status", "HTML with 502", lambda asked: testing.body(HTML, headers=PAGE, status=502),
    Expect("ServerError", requests=NORMAL, status=502))
add("status", "HTTP/1.0", lambda asked: testing.raw(
    asked.head("Connection: close").replace(b"HTTP/1.1", b"HTTP/1.0") + asked.body), OK)
add("status", "no HTTP at all", raw(b"SSH-2.0-OpenSSH_9.6\r\n"), LOST._replace(says="not HTTP"))
add("status", "wrong status line", raw(b"HTTP/1.1 abc\r\n\r\n"), LOST._replace(says="not HTTP"))

# ---------------------------------------------------------------------------------------------------------- odd headers

add("headers", "wrong Content-Type", lambda asked: asked.with_body(asked.body, headers={"Content-Type": "image/png"}),
    OK)
add("headers", "no Content-Type", lambda asked: asked.with_body(asked.body, headers={"Content-Type": None}), OK)
add("headers", "wrong charset", lambda asked: asked.with_body(
    asked.body, headers={"Content-Type": asked.kind + "; charset=utf-16"}), OK)
add("headers", "UTF-16", lambda asked: asked.with_body(asked.body.decode().encode("utf-16")), NO_ANSWER)
add("headers", "bytes that are no UTF-8", lambda asked: asked.with_body(asked.body.replace(b'"model":"',
    b'"model":"\xff\xfe')), OK)
add("headers", "NUL bytes", lambda asked: asked.with_body(b"\0" * 4096), NO_ANSWER)
add("headers", "NUL in a header", lambda asked: testing.raw(asked.whole("X-Y: a\0b")), OK)
add("headers", "header without a colon", lambda asked: testing.raw(asked.whole("nonsense")),
    Expect("ok|ResponseError", calls=1))
add("headers", "same Content-Length twice", lambda asked: testing.raw(
    asked.whole(f"Content-Length: {len(asked.body)}")), OK)
add("headers", "two Content-Lengths", lambda asked: testing.raw(asked.whole("Content-Length: 5"), 0.3),
    Expect("APIConnectionError|ResponseError", requests=-1, calls=-1, unknown=-1))
add("headers", "Content-Length and chunked", lambda asked: testing.raw(
    asked.head("Content-Length: 5", "Transfer-Encoding: chunked") + chunk(asked.body) + testing.LAST_CHUNK), OK)
add("headers", "negative Content-Length", lambda asked: testing.raw(asked.head("Content-Length: -5") + asked.body), OK)
add("headers", "Content-Length of words", lambda asked: testing.raw(asked.head("Content-Length: many") + asked.body),
    OK)
add("headers", "Content-Length too small", lambda asked: testing.raw(
    asked.head(f"Content-Length: {len(asked.torn)}") + asked.body, 0.3), NO_ANSWER, TRUNCATED)
add("headers", "more than the answer", lambda asked: testing.raw(asked.whole() + asked.whole(), 0.3), OK)
add("headers", "more than the answer, later", lambda asked: testing.raw(asked.whole(), 0.02, asked.whole(), 2), OK,
    options={"pause": 0.5})
add("headers", "chunk of a negative size", lambda asked: testing.raw(
    asked.head("Transfer-Encoding: chunked") + b"-5\r\n" + asked.body), CUT)
add("headers", "chunk size of words", lambda asked: testing.raw(
    asked.head("Transfer-Encoding: chunked") + b"many\r\n" + asked.body), CUT)

# ------------------------------------------------------------------------------------------------------------- odd JSON

add("JSON", "100,000 levels", lambda asked: asked.with_body(
    (b"data: " if asked.shape.stream else b"") + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n\n"), NO_ANSWER)
add("JSON", "100,000 levels in a field", lambda asked: asked.changed(
    b'"deep":' + b"[" * 100_000 + b"]" * 100_000 + b","), NO_ANSWER)
add("JSON", "1e400", lambda asked: asked.changed(b'"number":1e400,'), OK)
add("JSON", "NaN", lambda asked: asked.changed(b'"number":NaN,'), OK)
add("JSON", "number of 10,000 digits", lambda asked: asked.changed(b'"number":' + b"9" * 10_000 + b","), NO_ANSWER)
add("JSON", "huge usage", lambda asked: testing.stream(["He", "llo"], usage=(10 ** 300, 10 ** 300)), OK)
add("JSON", "odd usage", lambda asked: testing.stream(["He", "llo"], usage=dict.fromkeys((
    "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "promptTokenCount"), "many")), OK)
add("JSON", "lone surrogate", lambda asked: asked.with_body(asked.body.replace(b"He", b"He\\ud800", 1)), OK)
add("JSON", "error inside a 200", lambda asked: dataclasses.replace(testing.error(500), status=200),
    Expect("ServerError", requests=NORMAL, status=500, says="inside a 200"))
add("JSON", "rate limit inside a 200", lambda asked: dataclasses.replace(testing.error(429), status=200),
    Expect("RateLimitError", requests=RATE, status=429))
add("JSON", "bad request inside a 200", lambda asked: dataclasses.replace(testing.error(400), status=200),
    Expect("BadRequestError", status=400))
add("JSON", "error as the first event", lambda asked: testing.sse([
    b"event: error\ndata: " + testing.error(500).content(asked.shape).pieces[0] + b"\n\n"]), None,
    Expect("ServerError", requests=NORMAL, status=500))
add("JSON", "error in the middle", lambda asked: testing.sse([
    *asked.pieces[:asked.finish - 1],
    b"event: error\ndata: " + testing.error(529).content(asked.shape).pieces[0] + b"\n\n"]), None,
    BROKEN._replace(says="broke the stream off"))
add("JSON", "error between events, bare", lambda asked: testing.sse([
    *asked.pieces[:asked.finish - 1], testing.error(529).content(asked.shape).pieces[0] + b"\n"]), None, BROKEN)
add("JSON", "torn event", lambda asked: testing.sse([
    *asked.pieces[:asked.finish - 1], b'data: {"choices": [{"del\n\n', *asked.pieces[asked.finish - 1:]]), None,
    BROKEN._replace(says="torn"))
for reason in ("length", "content_filter"):
    add("JSON", "a tool call cut by " + reason, lambda asked, reason=reason: testing.stream(
        ["He", "llo"], tool_calls=[{"name": "wipe", "arguments": {}}], finish_reason=reason),
        OK._replace(invalid="cut"), dialects=("openai", "responses", "anthropic", "gemini"))
add("JSON", "empty 200", lambda asked: asked.with_body(b""), NO_ANSWER)
add("JSON", "blank 200", lambda asked: asked.with_body(b"\n \n\n"), NO_ANSWER)
for text in ("{}", "[]", "null", "3", '"Hello"', '{"choices": []}', '{"candidates": []}', '{"type": "message"}',
        "[null]"):
    add("JSON", "200 with " + text, lambda asked, text=text: testing.body(
        text.encode(), headers={"Content-Type": "application/json"}),
        Expect("ResponseError|TruncatedStreamError", calls=1))
add("JSON", "empty text", lambda asked: testing.stream([]), EMPTY)

# ---------------------------------------------------------------------------------------------------------- Retry-After

DATE = "Sun, 06 Nov 1994 08:49:36 GMT"


def asks(name, headers, seconds, body=None, **more):
    """A 429 that asks for so many seconds (0: for nothing), then the good answer."""
    def play(asked):
        given = headers() if callable(headers) else headers
        return testing.error(429, body, headers=given)

    add("Retry-After", name, then_good(play), AGAIN, waits=seconds, **more)


def soon():
    now = time.time() + 0.3
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f"{now % 1:.3f}Z"[1:]


asks("seconds", {"Retry-After": "1"}, 1)
asks("a fraction", {"Retry-After": "0.12"}, 0.12)
asks("milliseconds", {"retry-after-ms": "120"}, 0.12)
asks("IMF date", {"Date": DATE, "Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, 1)
asks("RFC 850 date", {"Date": DATE, "Retry-After": "Sunday, 06-Nov-94 08:49:37 GMT"}, 1)
asks("asctime date", {"Date": DATE, "Retry-After": "Sun Nov  6 08:49:37 1994"}, 1)
asks("a duration", {"Retry-After": "120ms"}, 0.12)
asks("in words", {}, 0.12, "Rate limit reached. Please try again in 120ms.")
asks("x-ratelimit-reset", {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "120ms"}, 0.12)
asks("anthropic-ratelimit-reset", lambda: {
    "anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": soon()}, 0.25)
for value in ("0", "-5", "nan", "soon", "", "Sun, 06 Nov 1994 08:49:00 GMT"):
    asks("none: " + (value or "blank"), {"Date": DATE, "Retry-After": value}, 0.0)
add("Retry-After", "RetryInfo in the body", then_good(lambda asked: testing.json_body({"error": {
    "code": 429, "status": "RESOURCE_EXHAUSTED", "message": "slow down", "details": [{
        "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.12s"}]}}, status=429)), AGAIN, waits=0.12)
add("Retry-After", "over retry_after_max", status(429, retry_after=200),
    Expect("RateLimitError", says="retry_after_max"),
    options={"deadline": 300})
add("Retry-After", "past the deadline", status(429, retry_after=60),
    Expect("DeadlineExceededError", says="asks to wait 60"), after=False)
add("Retry-After", "of a 503", then_good(status(503, retry_after=0.12)), AGAIN, waits=0.12)
