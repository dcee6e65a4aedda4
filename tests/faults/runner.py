"""One row of the matrix: a fault, a dialect, chat or stream; what came of it, and what of that is wrong."""
import itertools
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, Dict, List, NamedTuple, Optional

from tests import llmlite, testing
from tests.beside import Lateness, soon

from . import cases

WORKERS = 8  # rows played at a time: most of them wait
GRACE = 0.25  # seconds a call may take longer than its limit, beside what the machine itself is late
BASES = {"anthropic": "", "gemini": "/v1beta",
         **dict.fromkeys(("openai", "responses", "completions", "request"), "/v1")}
CLOSED = ("APIConnectionError", "APITimeoutError", "DeadlineExceededError", "StreamError", "TruncatedStreamError")
TRANSPORT = ("connect", "lost", "silence", "cut")
ASKED = (*TRANSPORT, "status", "headers", "Retry-After")  # groups that `request()` meets, too
# But it does not know what a good body is; and a stream of it is handed out once its head is here, and has no end mark.
NOT_ASKED = ", close$|^20[45]$|HTML with 200|UTF-16|NUL bytes|Content-Length too small"
NOT_STREAMED = "after the head|first event|finish reason|provider's pings|head, then nothing, read|^chunk "
COUNTED = ("calls", "attempts", "unknown", "failed", "empty")


class Row(NamedTuple):
    """What is run."""

    fault: cases.Fault
    dialect: str
    mode: str

    @property
    def name(self):
        return f"{self.fault.group} | {self.fault.name} | {self.dialect} | {self.mode}"

    @property
    def expected(self):
        return self.fault.expected(self.dialect, self.mode)


class Outcome(NamedTuple):
    """What came of it."""

    outcome: str
    says: str
    status: Optional[int]
    requests: int
    seconds: float
    over: float
    ledger: Dict[str, int]
    open: int  # connections, right after the call
    left: int  # connections, after close()
    threads: int
    next: str
    wrong: List[str]


ROWS = [Row(fault, dialect, mode) for fault in cases.ALL for dialect in fault.dialects for mode in cases.MODES
        if fault.expected(dialect, mode) is not None and getattr(fault, mode) is not None]
ROWS += [Row(fault, "request", mode) for fault in cases.ALL for mode in cases.MODES
         if fault.group in ASKED and fault.dialects == cases.DIALECTS and getattr(fault, mode) is not None
         and not re.search(NOT_ASKED if mode == "chat" else NOT_ASKED + "|" + NOT_STREAMED, fault.name)]


class Caller:
    """A client of a peer in a dialect, and the two ways to ask."""

    def __init__(self, row, peer):
        options = dict(row.fault.options)
        self.row, self.peer = row, peer
        self.prompt, self.before = options.pop("prompt", "Hi"), options.pop("before", None)
        self.pause = options.pop("pause", 0)
        policy = llmlite.RetryPolicy(
            max_retries=1, backoff=0.01, backoff_max=0.01, rate_limit_max_retries=2, rate_limit_backoff=0.01,
            rate_limit_backoff_max=0.01, jitter=0, connect_retries=options.pop("connects", 1))
        provider = "openai" if row.dialect in ("completions", "responses", "request") else row.dialect
        self.deadline = options.pop("deadline", row.fault.deadline)
        self.client = llmlite.Client("test", provider=provider, base_url=peer.root + BASES[row.dialect], retry=policy,
                                     api_key="sk-0123456789", deadline=self.deadline,
                                     api="responses" if row.dialect == "responses" else "auto", **options)

    def ask(self, deadline=None):
        """The reply, whole."""
        how = {} if deadline is None else {"deadline": deadline}
        raw, client = self.row.dialect == "completions", self.client
        if self.row.dialect == "request":
            return self.asked_by_hand(**how)
        if self.row.mode == "chat":
            return (client.complete if raw else client.chat)(self.prompt, **how)
        stream = (client.stream_tokens if raw else client.stream)(self.prompt, **how)
        for _ in stream.events():
            pass
        return stream.response

    def asked_by_hand(self, **how):
        """The same by `request()`."""
        streams = self.row.mode == "stream"
        body = {"model": "test", "messages": [{"role": "user", "content": self.prompt}], "stream": streams}
        answer = self.client.request("POST", "/chat/completions", json=body, stream=streams, **how)
        chunks = [event.json() for event in answer.events()] if streams else [answer.json()]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        text = "".join(choice.get("delta", choice.get("message"))["content"] for choice in choices
                       if choice.get("finish_reason") is None or "message" in choice)
        return SimpleNamespace(text=text, tool_calls=[])

    def failure(self):
        """The error of the call, or None, and the reply."""
        try:
            reply = self.ask()
        except Exception as error:
            return error, None
        return None, reply


class Script:
    """Plays the fault until `good` is set, then good answers that say "next"."""

    def __init__(self, row, peer):
        self.row, self.peer, self.good, self.numbers = row, peer, False, itertools.count(1)

    def __call__(self, request):
        if self.good:
            return testing.reply("next")
        return self.row.fault.play(cases.Asked(request, next(self.numbers), self.peer))


def played(rows):
    """The rows' outcomes by name: the heavy ones alone, those that share an environment together, then all others."""
    found = {row.name: run(row) for row in rows if row.fault.alone}
    rest = [row for row in rows if not row.fault.alone]
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="faults") as pool:
        for name in sorted({row.fault.among for row in rest}, reverse=True):
            among = [row for row in rest if row.fault.among == name]
            found.update(zip([row.name for row in among], pool.map(run, among)))
    return found


def run(row):
    """Play a row and judge it."""
    known = set(threading.enumerate())
    with row.fault.peer() as peer:
        script = Script(row, peer)
        if hasattr(peer, "server"):
            peer.server.handle(script)
        caller = Caller(row, peer)
        if caller.before:
            caller.ask()
            if caller.before == "drop":
                peer.server.drop_connections()
        with Lateness() as late:
            error, reply = caller.failure()
        ledger, requests = caller.client.ledger.snapshot(), peer.requests
        times = [request.time for request in peer.server.requests] if hasattr(peer, "server") else []
        open_ = settled(peer, most_open(row, type(error).__name__))
        script.good = True
        time.sleep(caller.pause)
        follows = next_of(caller) if row.fault.after else "-"
        caller.client.close()
        left = settled(peer, 0)
        stolen = len(peer.other.requests) if hasattr(peer, "other") else 0
    outcome = Outcome("ok" if error is None else type(error).__name__, "" if error is None else str(error),
                      getattr(error, "status_code", None), requests, late.took,
                      max(0.0, late.took - late.seconds - (row.fault.limit or caller.deadline)),
                      {name: ledger[name] for name in COUNTED}, open_, left, strays(known), follows, [])
    outcome.wrong.extend(judged(row, outcome, reply, times, stolen, late.seconds))
    return outcome


def most_open(row, outcome):
    """How many connections may be kept for the next call: none after a failure of the transport."""
    return int(row.fault.group not in TRANSPORT or outcome not in CLOSED)


def settled(peer, most):
    """How many connections are open, once the closing ones have had the time to close."""
    soon(lambda: peer.open <= most)
    return peer.open


def next_of(caller):
    """What a good answer to the same client's next call comes out as."""
    try:
        return caller.ask(deadline=cases.PATIENT).text
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def strays(known):
    """Threads that are nobody's: neither a server's nor a row's."""
    ours = ("llmlite.testing", "faults", "lateness", "relay", "name lookup")  # the last ends when the resolver does
    return sum(thread not in known and not thread.name.startswith(ours) for thread in threading.enumerate())


def judged(row, found, reply, times, stolen, late):
    """Yield what is not as it must be."""
    expected = row.expected
    if found.outcome not in expected.outcome.split("|"):
        yield f"outcome {found.outcome}"
    yield from differs("requests", found.requests, expected.requests)
    yield from ledger_of(expected, found)
    if expected.status is not None:
        yield from differs("status", found.status, expected.status)
    if not re.search(expected.says, found.says):
        yield f"the error's line lacks {expected.says!r}: {found.says}"
    if found.outcome == "ok" and reply.text.replace("\ud800", "") != ("" if expected.empty else "Hello"):
        yield f"text {reply.text!r}"
    if expected.invalid and expected.invalid not in str([call.invalid for call in reply.tool_calls][-1:]):
        yield f"tool calls {reply.tool_calls}, the last is not {expected.invalid}"
    if found.over > GRACE:
        yield f"{found.over:.2f} s over its limit"
    if found.open > most_open(row, found.outcome) or found.left or found.threads or stolen:
        yield (f"left: {found.open} connections, {found.left} after close(), {found.threads} threads, "
               f"{stolen} requests elsewhere")
    if found.next not in ("-", "next"):
        yield f"the next call: {found.next}"
    if row.fault.waits is not None:
        yield from waited(row.fault.waits, times, late)


def differs(what, found, wanted):
    if found != wanted and wanted != -1:  # -1: any
        yield f"{what} {found}, not {wanted}"


def ledger_of(expected, found):
    attempts = max(found.requests, 1) if expected.attempts is None else expected.attempts
    wanted = {"calls": expected.calls, "attempts": attempts, "unknown": expected.unknown,
              "failed": int(found.outcome != "ok"), "empty": expected.empty}
    for name, value in wanted.items():
        yield from differs(name, found.ledger[name], value)


def waited(seconds, times, late):
    if len(times) > 1 and not seconds - 0.002 <= times[1] - times[0] <= seconds * 1.1 + 0.3 + late:
        yield f"waited {times[1] - times[0]:.3f} s, not {seconds}"


def as_cells(row, found: Outcome) -> List[Any]:
    """A row of the table."""
    ledger = "/".join(str(found.ledger[name]) for name in COUNTED[:4])
    return [row.fault.group, row.fault.name, row.dialect, row.mode, found.outcome, found.status or "", found.requests,
            f"{found.seconds:.2f}", f"{found.over:.2f}", ledger, found.open, found.left, found.threads,
            found.next[:12], "; ".join(found.wrong) or "right"]
