"""Many requests through the provider's own Batch API: half the price, done within a day.

    items = [("a", None, {"messages": "Why is the sky blue?"}), ("b", None, {"messages": "And the sea?"})]
    jobs.run(llm, items, lambda custom_id, result: print(custom_id, result), state="answers.jobs.json")

A run may be killed at any moment and started again with the same state file: nothing is submitted twice.  What a job is
to hold, and the mark by which it is found again, stand in the state file before it is created; its id as soon as it is
told.  Where it was not told, the provider's list of jobs says whether there is such a job.  Anthropic's list does not
tell what a batch holds: of those that may be ours, the results tell, once one has ended.  What cannot be known: whether
a provider will list a job later than `Poll.settle` seconds after it was asked for it; such a one is created again.

How it works, top down: `run` and `cancel`; a `_Run`, which submits, waits and fetches; what it keeps (the state file,
the part of the input that becomes the next job, a table of the lines); requests; the Batch APIs, which differ in data
and small overrides.
"""
from __future__ import annotations

import contextlib
import hashlib
import inspect
import itertools
import json
import logging
import os
import re
import secrets
import sqlite3
import tempfile
import time
from collections import Counter
from types import SimpleNamespace
from typing import IO, Any, Callable, Dict, Generator, Iterable, Iterator, List, NamedTuple, Optional, Tuple, Union
from urllib.parse import quote, urlsplit

from requests.structures import CaseInsensitiveDict

from . import client
from .client import JSON, APIError, Client, ConfigurationError, LLMError

__all__ = ["Counts", "Limits", "Poll", "cancel", "check", "pending", "run"]

Item = Tuple[str, Optional[str], JSON]  # custom_id, model, what `chat` takes
Result = Union[client.Response, LLMError]

_log = logging.getLogger("llmlite")
_UNREADY = 20  # polls that find a job completed, but no results: then it has none
_OUTAGE = 30  # polls of every job in turn that find nobody who answers: then nobody will
_MOST_PARTS = 50  # models whose requests are gathered at a time: each takes a file
_LONGEST = 512 << 20  # bytes: a line of results, files made by a model included


class Limits(NamedTuple):
    """What one job may hold: `lines`, `size` bytes of them, and `inline` bytes in the request that creates it."""

    lines: int
    size: int
    inline: int = 0


class Poll(NamedTuple):
    """Seconds from one look at the jobs to the next, at first and at most; those after which a list shows a new job."""

    first: float = 5.0
    most: float = 60.0
    settle: float = 60.0


class Counts(NamedTuple):
    """How far a run is: requests in all, done, failed (as the provider counts them); jobs, and those at their end."""

    total: int = 0
    done: int = 0
    failed: int = 0
    jobs: int = 0
    ended: int = 0


_POLL = Poll()


def run(llm: Client, items: Iterable[Item], write: Callable[[str, Result], Any], *,
        state: Union[str, os.PathLike[str]], poll: Poll = _POLL, limits: Optional[Limits] = None,
        progress: Optional[Callable[[Counts], Any]] = None, sync: Callable[[], Any] = lambda: None,
        stopping: Callable[[], bool] = lambda: False, **options: Any) -> bool:
    """Have requests done by the provider's Batch API, and hand out each result; may take a day.

        jobs.run(llm, [("a", None, {"messages": "Hello"})], results.__setitem__, state="out.jobs.json", temperature=0)

    Args:
        llm: whose provider, key, retries and limits.
        items: (custom_id, model or None, dict of what `chat` takes) each, read as they are submitted.  Of a run that is
            gone on with: those that have no result yet; results for others are passed over.
        write: called with a custom_id and its `Response`, or the `LLMError` in its place; once each.
        state: the file of the jobs' ids; beside it stands one of the custom ids.  For one run at a time.
        poll: a `Poll`, how often to look.
        limits: a `Limits`, in place of the provider's own.
        progress: called with `Counts` after each look.
        sync: called before a job counts as fetched: what `write` was given must be on the disk when it returns.
        stopping: asked between steps, and five times a second between looks; True ends the run, the jobs go on.
        options: of `chat`, for every item that has none of its own.

    Returns True; False if it was stopped before all results were there.  Each look, upload and download is a call under
    the client's retries and limits; the ledger counts as calls what the provider has done.

    Raises:
        ConfigurationError: a provider without a Batch API, another's state file, a request that has changed.
        LLMError: the provider refuses a job, or does not answer.  Started again, it goes on.
    """
    _asked(options, {})
    with contextlib.closing(_Run(llm, write, os.fspath(state), poll, limits, progress, sync, stopping)) as going:
        try:
            going.take_up()
            going.submit(items, options)
            going.wait()
        except _Stopped:
            return False
    return True


def check(llm: Client, state: Union[str, os.PathLike[str]]) -> None:
    """Raise what `run` would at its start: a ConfigurationError for no Batch API, or for another's state file."""
    _api_of(llm)
    _State(os.fspath(state), llm)


def pending(state: Union[str, os.PathLike[str]]) -> int:
    """How many jobs of a state file, whoever's, have results that were not fetched.  Raises ConfigurationError."""
    return sum(not job["fetched"] for job in _read_state(os.fspath(state))[1])


def cancel(llm: Client, state: Union[str, os.PathLike[str]]) -> List[str]:
    """Cancel the jobs of a state file that are not at their end; returns a line for each job: what became of it.

    What was done until then is paid for; `run` fetches it.  A run on the same file may be under way.

    Raises:
        ConfigurationError: there is no such file, or it is another provider's.
        LLMError: the provider does not answer.
    """
    path = os.fspath(state)
    if not os.path.exists(path):
        raise ConfigurationError(f"{path} is not there", hint="it stands beside the output of a run at the provider")
    api, kept = _api_of(llm), _State(path, llm)
    return [_cancelled(llm, api, job, kept) for job in kept.jobs if not job["fetched"]]


def _cancelled(llm: Client, api: _Api, job: JSON, kept: _State) -> str:
    if not job["id"]:
        if job.get("deferred"):
            return f"{job['mark']}: waits for room; it is given up once a run finds another one cancelled"
        job["id"], found = _searched(llm, api, job, kept)
        if not job["id"]:
            among = f"it may be {' or '.join(found)}" if found else "no such job is listed"
            return f"{job['mark']}: its id was never told; {among}"
    told = api.look(llm, job)
    if told.end:
        return f"{job['id']}: {told.end} before"
    try:
        api.ask_to_cancel(llm, job)
    except APIError as error:
        told = api.look(llm, job)
        if not told.end:
            raise
        return f"{job['id']}: {told.end} before: {error.message}"
    return f"{job['id']}: cancelled"


def _searched(llm: Client, api: _Api, job: JSON, kept: _State) -> Tuple[Optional[str], List[str]]:
    """The id of a job that was never told, by the provider's list, or else None; and those that it may be."""
    found = []
    for id, certain in api.search(llm, job, [*kept.ids(), *job.get("past", [])]):
        found.append(id)
        if certain:
            return id, found
    return None, found


class _Stopped(Exception):
    """Whoever started the run wants it to stop."""


# ---------------------------------------------------------------------------------------------------------------- a run


class _Run:
    """One run: submits what is not submitted, waits for the jobs, fetches their results."""

    def __init__(self, llm: Client, write: Callable[[str, Result], Any], path: str, poll: Poll,
                 limits: Optional[Limits], progress: Optional[Callable[[Counts], Any]],
                 sync: Callable[[], Any], stopping: Callable[[], bool]) -> None:
        self.llm, self.write, self.poll, self.sync, self.stopping = llm, write, Poll(*poll), sync, stopping
        self.api = _api_of(llm)
        self.limits = Limits(*limits or self.api.limits)
        self.progress = progress or (lambda counts: None)
        self.state = _State(path, llm)
        self.table = _Table()
        self.parts: Dict[Tuple[str, str], _Part] = {}  # by model and path: what the next jobs will hold
        self.waiting: Dict[str, _Part] = {}  # by mark: what may have to be submitted once more
        self.told: Dict[str, _Told] = {}  # by mark: what was last heard of a job
        self.unready: Counter[str] = Counter()  # by mark: polls that found a job completed, but no results
        self.schemas: List[Any] = []
        self.numbers: Dict[Any, int] = {}  # of the schemas
        self.total = self.done = self.failed = self.misses = 0

    def close(self) -> None:
        for part in [*self.parts.values(), *self.waiting.values()]:
            part.close()
        self.table.end()

    @property
    def jobs(self) -> List[JSON]:
        """Those whose results are not here."""
        return [job for job in self.state.jobs if not job["fetched"]]

    def take_up(self) -> None:
        """Go on with what an earlier run has left: find the jobs whose ids it was never told."""
        for job in self.jobs:
            is_unknown = not (job["id"] or job.get("candidates") or job.get("deferred"))
            if is_unknown and self.is_absent(job):
                self.state.drop(job)
                continue
            self.table.add(job["mark"], self.state.lines(job))
            if job.get("candidates") and not job["id"]:  # nobody knows yet: its lines are kept as they come by
                self.waiting[job["mark"]] = _Part(self.state.folder, job["model"], job["path"], job["mark"])

    def submit(self, items: Iterable[Item], options: JSON) -> None:
        """Put each request that is in no job yet into one."""
        for custom_id, model, asked in items:
            self.check()
            try:
                line = self.line_of(custom_id, model, _asked(options, asked))
            except ConfigurationError as unfit:
                if self.table.find(custom_id):
                    raise self.changed(custom_id) from None
                self.total += 1
                self.hand_out(custom_id, unfit)
                continue
            self.total += 1
            known = self.table.find(custom_id)
            if known is None:
                self.put(line)
            elif known.open:
                raise ConfigurationError(f"the custom_id {custom_id!r} is there twice", hint="give each its own")
            elif known.digest != line.digest:
                raise self.changed(custom_id)
            else:
                self.table.open(custom_id, line.schema)
                if known.mark in self.waiting:
                    self.waiting[known.mark].add(line)
        self.create_all()

    def create_all(self) -> None:
        """Make a job of each part, full or not."""
        while self.parts:
            self.create(self.parts.pop(next(iter(self.parts))))

    def changed(self, custom_id: str) -> ConfigurationError:
        return ConfigurationError(
            f"the request {custom_id!r} is not the one that was submitted", why=f"{self.state.path} has it in a job "
            "whose results are not here yet", hint="give the former input, or cancel the jobs and use another output")

    def line_of(self, custom_id: str, model: Optional[str], asked: JSON) -> _Line:
        """A request as the provider takes it.  Raises ConfigurationError."""
        if not isinstance(custom_id, str) or not custom_id:
            raise ConfigurationError(f"custom_id={custom_id!r}: give a str")
        request, model = _built(self.llm, model, asked)
        body = client._encode(self.api.body(request.body or {}))
        if len(body) + len(_json(custom_id)) + 1000 > self.limits.size:  # 1000: more than stands around it
            raise ConfigurationError(f"a request of {len(body)} bytes", why=f"a job of {self.llm._provider.name} may "
                                     f"have {self.limits.size}", hint="shorten the messages")
        digest = hashlib.blake2b(_json([model, request.path]) + body, digest_size=8).hexdigest()
        return _Line(custom_id, digest, self.noted(asked.get("schema")), body, model, request.path)

    def noted(self, schema: Any) -> int:
        """The number of a schema; the same for equal ones."""
        key = client._encode(schema) if isinstance(schema, dict) else id(schema)
        if key not in self.numbers:
            self.numbers[key] = len(self.schemas)
            self.schemas.append(schema)
        return self.numbers[key]

    def put(self, line: _Line) -> None:
        """Add a request to the job that will hold it; one that is full is created."""
        place = line.model, line.path
        if place not in self.parts and len(self.parts) >= _MOST_PARTS:
            self.create(self.parts.pop(next(iter(self.parts))))
        part = self.parts.get(place) or _Part(self.state.folder, line.model, line.path)
        self.parts[place] = part
        size = len(self.api.line(part, line, part.count)) + 1
        if part.count >= self.limits.lines or part.count and part.size + size > self.limits.size:
            self.create(self.parts.pop(place))
            part = self.parts[place] = _Part(self.state.folder, line.model, line.path)
        self.table.add(part.mark, [(line.custom_id, line.digest)], part.count)
        self.table.open(line.custom_id, line.schema)
        part.add(line, size)

    def create(self, part: _Part) -> None:
        """Make a job of a part.  It stands in the state file before the provider hears of it."""
        with contextlib.ExitStack() as until_known:
            until_known.callback(part.close)
            self.check()
            job: JSON = {"mark": part.mark, "id": None, "model": part.model, "path": part.path, "fetched": False,
                         **self.api.prepare(self.llm, part, self.limits), "sent": time.time()}
            for _ in range(_UNREADY * 10):
                if self.api.is_ready(self.llm, job):
                    break
                self.pause(self.poll.first)
            job.pop("is_ready", None)
            self.state.add(job, part)
            self.send(job, part)
            if not job["id"]:
                self.waiting[part.mark] = part
                until_known.pop_all()
        self.tell()

    def send(self, job: JSON, part: Optional[_Part]) -> None:
        """Create a job, at most once: what may have been taken is looked for, and never simply sent again."""
        tried: Counter[str] = Counter()
        while True:
            error, taken = self.send_once(job, part)
            if error is None or taken and not self.is_absent(job):
                return
            wait = self.wait_after(error, taken, tried)
            if wait is None:
                self.state.drop(job)
                raise error
            self.pause(wait)

    def send_once(self, job: JSON, part: Optional[_Part]) -> Tuple[Optional[LLMError], bool]:
        """Why a job may not have been created, if so, and whether it may have been all the same."""
        body = self.api.creation(job, part)
        job["sent"] = time.time()
        self.state.save()
        try:
            answer = _ask(self.llm, "POST", self.api.place_of(job), body, headers=_JSON_KIND)
            job["id"] = self.api.id_of(answer.json())
        except LLMError as caught:
            error = _without_hint(caught)
            refused = isinstance(error, APIError) and error.status_code < 500 and error.status_code != 408
            return error, body.begun and not refused
        self.state.save()
        return None, True

    def wait_after(self, error: LLMError, taken: bool, tried: Counter[str]) -> Optional[float]:
        """Seconds after which a creation that has failed is tried again; None: it is not."""
        policy, limited = self.llm._retry, isinstance(error, client.RateLimitError)
        kind = "rate" if limited else "normal"
        if isinstance(error, client.AuthenticationError) and callable(self.llm._key) and policy and not tried["key"]:
            tried["key"] += 1
            return 0.0  # a new one may do
        if policy is None or not (limited or taken) or tried[kind] >= policy._limits(kind)[0]:
            return None
        wait = policy._delay(kind, tried[kind]) if error.retry_after is None else error.retry_after
        tried[kind] += 1
        return wait if wait <= policy.retry_after_max else None

    def is_absent(self, job: JSON) -> bool:
        """Whether a job whose id nobody has told was not created; if it was, note its id.

        Where the list cannot tell, those that it may be are noted: their results will tell.
        """
        until = client._now() + self.poll.settle
        _log.warning("%s: looking for a batch whose creation was not answered", self.llm._provider.name)
        while True:
            late = client._now() >= until
            certain, found = _searched(self.llm, self.api, job, self.state)
            if certain or late:
                break
            self.pause(min(max(until - client._now(), 0.0), self.poll.first))
        if certain:
            job["id"] = certain
        elif found:
            job["candidates"] = found
        self.state.save()
        return not found

    def wait(self) -> None:
        """Look at the jobs until all are at their end, and fetch what each has."""
        interval = self.poll.first
        while True:
            room = not self.under_way
            for job in self.under_way:
                self.check()
                ended = self.look(job)
                if ended is not None and not self.defers(job, ended):
                    self.fetch(job, ended)
                    interval, room = self.poll.first, True
                    self.give_up(ended)
            self.tell()
            if room:
                self.resume()
            if not any(self.table.is_open(job["mark"]) for job in self.jobs):
                return
            self.pause(interval)
            interval = min(interval * 1.5, max(self.poll.most, self.poll.first))

    @property
    def under_way(self) -> List[JSON]:
        """The jobs that the provider has, or may have."""
        return [job for job in self.jobs if not job.get("deferred")]

    def defers(self, job: JSON, told: _Told) -> bool:
        """Whether a job was refused for want of room, which jobs before it take: then it is created later."""
        codes = [problem.get("code") for problem in self.api.problems(told.body)]
        if told.end != "failed" or "token_limit_exceeded" not in codes or job.get("alone"):
            return False
        _log.warning("%s: the provider has no room for it yet; it is created again later", job["id"])
        job.update(id=None, deferred=True, past=[*job.get("past", []), job["id"]])
        self.told.pop(job["mark"])
        self.state.save()
        return True

    @property
    def deferred(self) -> List[JSON]:
        """The jobs that the provider had no room for."""
        return [job for job in self.jobs if job.get("deferred")]

    def give_up(self, ended: _Told) -> None:
        """Who has cancelled a job does not want those that come after it either."""
        for job in self.deferred if ended.end == "cancelled" else []:
            self.fetch(job, _Told("cancelled", 0, 0, {}))

    def resume(self) -> None:
        """Create a job for which there was no room, of the file that is there, now that there may be some."""
        if self.deferred:
            job = self.deferred[0]
            job.update(deferred=False, alone=not self.under_way)
            self.send(job, None)

    def patiently(self, ask: Callable[[Client, JSON], Any], job: JSON) -> Any:
        """What the provider says of a job; None while it cannot be reached, as long as that may pass."""
        try:
            told = ask(self.llm, job)
        except _PASSING as error:
            self.misses += 1
            if self.misses >= _OUTAGE * len(self.under_way) or self.llm._retry is None:
                raise
            _log.warning("%s; it is asked again", error)
            return None
        self.misses = 0
        return told

    def look(self, job: JSON) -> Optional[_Told]:
        """What the provider says of a job that is at its end; None while it is not, or nobody knows which it is."""
        if not job["id"]:
            self.recognise(job)
        told = self.patiently(self.api.look, job) if job["id"] else None
        if told is None:
            return None
        self.told[job["mark"]] = told._replace(body={})  # which may hold all the results
        has_results = self.api.inside(told.body) or self.api.sources(job, told.body)
        if (told.end == "completed" or told.end and told.done) and not has_results:
            self.unready[job["mark"]] += 1
            return told if self.unready[job["mark"]] >= _UNREADY else None
        return told if told.end else None

    def recognise(self, job: JSON) -> None:
        """Tell by the results of those that have ended which of them a job is; if none, it was never created."""
        for id in list(job["candidates"]):
            ours = self.patiently(self.api.is_ours, {**job, "id": id})
            if ours:
                job["id"] = id
                self.state.save()
                return
            if ours is False:
                job["candidates"].remove(id)
        if not job["candidates"]:
            self.state.drop(job)
            self.table.forget(job["mark"])
            with contextlib.closing(self.waiting.pop(job["mark"])) as part:
                for line in part.lines():
                    self.put(line)
            self.create_all()

    def fetch(self, job: JSON, told: _Told) -> None:
        """Hand out a job's results; those that are not there as what has become of them."""
        mark = job["mark"]
        unread = self.read_again(job, told) if self.table.is_open(mark) else 0
        for row in self.table.rows(mark):
            self.hand_out(row.custom_id, self.result(job, self.api.missing(told, row.place, unread)))
        self.sync()
        job.update(fetched=True, end=told.end)
        self.state.save()
        self.table.forget(mark)
        if mark in self.waiting:
            self.waiting.pop(mark).close()

    def read_again(self, job: JSON, told: _Told) -> int:
        """Read what a job's files hold, from the start again where they broke off: what was handed out is passed."""
        policy = self.llm._retry
        for again in itertools.count():
            try:
                return self.read(job, told)
            except (client.APIConnectionError, client.StreamError, client.ServerError) as error:
                if policy is None or again >= policy.max_retries:
                    raise
                _log.warning("%s; the results are fetched again", error)
            self.pause(policy._delay("normal", again))
        raise AssertionError

    def read(self, job: JSON, told: _Told) -> int:
        """Hand out what a job's files hold; returns how many of their lines nobody can read."""
        unread = 0
        with contextlib.closing(self.api.read(self.llm, job, told.body)) as lines:
            for line in lines:
                self.check()
                said = self.api.outcome(line, job)
                if said is None:
                    unread += 1
                    _log.warning("%s: a line of its results cannot be read: %s", job["id"], client._quoted(str(line)))
                else:
                    self.take(job, said)
        return unread

    def take(self, job: JSON, said: _Outcome) -> None:
        """Hand out a line's result, if it is one that is wanted."""
        row = self.table.find(said.custom_id) if said.place is None else self.table.at(job["mark"], said.place)
        if row is not None and row.open and row.mark == job["mark"]:
            self.hand_out(row.custom_id, self.result(job, said, self.schemas[row.schema]))

    def result(self, job: JSON, said: _Outcome, schema: Any = None) -> Result:
        """A line's outcome as what `chat` would have returned or raised."""
        call = _call_for(self.llm, job, schema)
        try:
            return _parsed(call, said)
        except LLMError as error:
            return error.with_traceback(None)

    def hand_out(self, custom_id: str, result: Result) -> None:
        """Give the caller a result, and book it."""
        self.write(custom_id, result)
        self.table.close(custom_id)
        failed = isinstance(result, LLMError)
        self.done, self.failed = self.done + (not failed), self.failed + failed
        _book(self.llm.ledger, result)

    def tell(self) -> None:
        """Report how far it is."""
        heard = [self.told[job["mark"]] for job in self.jobs if job["mark"] in self.told]
        self.progress(Counts(self.total, self.done + sum(told.done for told in heard),
                             self.failed + sum(told.failed for told in heard), len(self.state.jobs),
                             len(self.state.jobs) - len(self.jobs)))

    def check(self) -> None:
        if self.stopping():
            raise _Stopped

    def pause(self, seconds: float) -> None:
        """Sleep, and wake up soon when the run is to stop."""
        end = client._now() + seconds
        self.check()
        while client._now() < end:
            time.sleep(max(0.0, min(end - client._now(), 0.2)))
            self.check()


# ------------------------------------------------------------------------------------------------------- what is kept


class _Line(NamedTuple):
    """A request as the provider takes it."""

    custom_id: str
    digest: str  # of its body
    schema: int  # its number
    body: bytes  # JSON
    model: str
    path: str


class _Part:
    """What the next job will hold, in a file without a name."""

    def __init__(self, folder: str, model: str, path: str, mark: str = "") -> None:
        self.mark = mark or "llmlite-" + secrets.token_hex(8)  # by which the job is found again
        self.model, self.path = model, path
        self.count = self.size = 0
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def close(self) -> None:
        self.file.close()

    def add(self, line: _Line, size: int = 0) -> None:
        """Add a request, which will take so many bytes."""
        self.size += size
        self.count += 1
        head = json.dumps([line.custom_id, line.digest, line.schema]).encode()
        self.file.write(head + b"\t" + line.body + b"\n")

    def lines(self) -> Iterator[_Line]:
        """All of it, from the start."""
        self.file.seek(0)
        for text in self.file:
            head, _, body = text[:-1].partition(b"\t")
            custom_id, digest, schema = json.loads(head)
            yield _Line(custom_id, digest, schema, body, self.model, self.path)


class _Row(NamedTuple):
    """Where a request is."""

    custom_id: str
    digest: str
    mark: str  # of its job
    place: int  # in its job, from 0
    schema: int  # its number
    open: bool  # whether its result is wanted: it is among the items, and was not handed out


class _Table:
    """Which request is in which job: a million of them take no memory, but a file without a name."""

    def __init__(self) -> None:
        self.base = sqlite3.connect("", isolation_level=None)
        for statement in ("PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", "BEGIN",
                          "CREATE TABLE lines (custom_id TEXT PRIMARY KEY, digest, mark, place, schema, open) "
                          "WITHOUT ROWID", "CREATE INDEX places ON lines (mark, place)"):
            self.base.execute(statement)

    def end(self) -> None:
        self.base.close()

    def add(self, mark: str, ids: Iterable[Tuple[str, str]], first: int = 0) -> None:
        """Note the requests of a job, by custom id and digest."""
        self.base.executemany("INSERT OR REPLACE INTO lines VALUES (?, ?, ?, ?, 0, 0)", (
            (_stored(custom_id), digest, mark, place) for place, (custom_id, digest) in enumerate(ids, first)))

    def open(self, custom_id: str, schema: int) -> None:
        self.base.execute("UPDATE lines SET open = 1, schema = ? WHERE custom_id = ?", (schema, _stored(custom_id)))

    def close(self, custom_id: str) -> None:
        self.base.execute("UPDATE lines SET open = 0 WHERE custom_id = ?", (_stored(custom_id),))

    def forget(self, mark: str) -> None:
        self.base.execute("DELETE FROM lines WHERE mark = ?", (mark,))

    def find(self, custom_id: str) -> Optional[_Row]:
        return next(self._rows("custom_id = ?", _stored(custom_id)), None)

    def at(self, mark: str, place: int) -> Optional[_Row]:
        return next(self._rows("mark = ? AND place = ?", mark, place), None)

    def is_open(self, mark: str) -> bool:
        """Whether any result of a job is wanted still."""
        return next(self._rows("mark = ? AND open LIMIT 1", mark), None) is not None

    def rows(self, mark: str) -> List[_Row]:
        """Those of a job whose results are wanted still."""
        return list(self._rows("mark = ? AND open ORDER BY place", mark))

    def _rows(self, which: str, *values: Any) -> Iterator[_Row]:
        for custom_id, *rest in self.base.execute(f"SELECT * FROM lines WHERE {which}", values):
            yield _Row(json.loads(custom_id), *rest)


def _stored(custom_id: str) -> str:
    """An id as ASCII: half of a surrogate pair would fit neither the table nor a file."""
    return json.dumps(custom_id)


class _State:
    """The state file: a line a job, in the order of their creation; the custom ids stand in a file beside it."""

    def __init__(self, path: str, llm: Client) -> None:
        self.path, self.folder = path, os.path.dirname(os.path.abspath(path))
        self.ids_path = os.path.splitext(path)[0] + ".ids"
        told = (1, llm._provider.name, client._fit_to_save(llm._base_url))
        self.head: JSON = dict(zip(_HEAD, told))
        self.jobs: List[JSON] = self._read() if os.path.exists(path) else []

    def _read(self) -> List[JSON]:
        head, jobs = _read_state(self.path)
        if head != self.head:
            raise ConfigurationError(
                f"{self.path} tells of jobs of {head['provider']} at {head['base_url']}", why=f"this client is "
                f"{self.head['provider']}'s at {self.head['base_url']}", hint="use the same client, or another output")
        return jobs

    def ids(self) -> List[str]:
        """The ids of all its jobs."""
        return [job["id"] for job in self.jobs if job["id"]]

    def add(self, job: JSON, part: _Part) -> None:
        """Note a job that is about to be created, and what it holds; to be saved."""
        start = max([job["ids"][1] for job in self.jobs], default=0)
        with open(os.open(self.ids_path, os.O_RDWR | os.O_CREAT | _BINARY, 0o600), "r+b") as file:
            file.seek(start)  # what a killed run has left behind it is no job's
            file.writelines(json.dumps([line.custom_id, line.digest]).encode() + b"\n" for line in part.lines())
            file.flush()
            os.fsync(file.fileno())
            job.update(count=part.count, ids=[start, file.tell()])
        self.jobs.append(job)

    def drop(self, job: JSON) -> None:
        """Forget a job that was not created."""
        self.jobs.remove(job)
        self.save()

    def lines(self, job: JSON) -> Iterator[Tuple[str, str]]:
        """The custom ids of a job, and the digests of what is asked."""
        start, end = job["ids"]
        try:
            with open(self.ids_path, "rb") as file:
                file.seek(start)
                while file.tell() < end:
                    custom_id, digest = json.loads(file.readline())
                    yield custom_id, digest
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(f"{self.ids_path} cannot be read", why=f"{type(error).__name__}: {error}",
                                     hint=f"it belongs to {self.path}") from None

    def save(self) -> None:
        """Write it anew, at once or not at all; only its owner may read it."""
        part = self.path + ".part"
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o600), "wb") as file:
            jobs = ",\n  ".join(map(json.dumps, self.jobs))
            file.write(f"{json.dumps(self.head)[:-1]}, \"jobs\": [\n  {jobs}\n]}}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.path)


_HEAD = "llmlite", "provider", "base_url"  # whose jobs they are


def _read_state(path: str) -> Tuple[JSON, List[JSON]]:
    """What a state file says: whose the jobs are, and they.  Raises ConfigurationError."""
    try:
        with open(path, encoding="utf-8") as file:
            kept = json.load(file)
        jobs = [dict(job) for job in kept["jobs"]]
        for job in jobs:
            _checked_job(**job)
        return {name: kept[name] for name in _HEAD}, jobs
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be read", why=f"{type(error).__name__}: {error}",
                                 hint="it tells which jobs are paid for: mend it, or use another output") from None


def _checked_job(*, mark: str, id: Optional[str], model: str, path: str, fetched: bool, file: Optional[str], count: int,
                 ids: List[int], sent: float, candidates: Optional[List[str]] = None, **others: Any) -> None:
    """Raise ValueError or TypeError if a job of a state file is none."""
    start, end = ids
    texts = [mark, model, path, *(value for value in (id, file) if value is not None), *(candidates or [])]
    if not all(isinstance(text, str) for text in texts) or not 0 <= start <= end or count < 0:
        raise ValueError(f"{mark} is no job")


_BINARY = getattr(os, "O_BINARY", 0)  # of Windows


# ------------------------------------------------------------------------------------------------------------ requests

_JSON_KIND = {"Content-Type": "application/json"}
_PASSING = (  # what may be over by the next poll
    client.APIConnectionError, client.DeadlineExceededError, client.ServerError, client.RateLimitError,
    client.ResponseError)
_OWN = ("self", "model", "timeout", "deadline", "headers", "cache")  # arguments of chat() that no line has
_ARGUMENTS = frozenset(inspect.signature(Client.chat).parameters).difference(_OWN)


def _asked(options: JSON, asked: Any) -> JSON:
    """What one item asks for.  Raises ConfigurationError for what is no argument of `chat`."""
    if not isinstance(asked, dict):
        raise ConfigurationError(f"an item is a {type(asked).__name__}: give a dict of what chat() takes")
    merged = {**options, **asked}
    unknown = sorted(map(str, set(merged) - _ARGUMENTS))
    if unknown:
        raise ConfigurationError(f"a batch at the provider takes no {unknown[0]}",
                                 hint="give what chat() takes but for model, timeout, deadline, headers and cache")
    return merged


def _built(llm: Client, model: Optional[str], asked: JSON) -> Tuple[client._Request, str]:
    """What `chat` would send, and which model it asks."""
    model = llm._model_for(model)
    given = client._checked_asked({"messages": None, **asked})
    given.setdefault("prompt_cache", llm._prompt_cache)
    return llm._dialect("_chat", model, given).request(model, given, False), model


class _Free(client._Anything):
    """The answer to a request that costs nothing: the ledger counts it as a request, but as no call."""

    def take(self, call: Any, attempt: Any, answer: Any) -> client.Response:
        reply = super().take(call, attempt, answer)
        attempt.billed = None
        return reply


def _ask(llm: Client, method: str, path: str, body: Any = None, *, headers: Optional[Dict[str, str]] = None,
         stream: bool = False) -> client.Answer:
    """Ask the provider, as `Client.request` does, with a body that may be a `_Body`."""
    call = llm._call(llm._chat, headers=headers)
    content = client._Content(None, None, body) if isinstance(body, _Body) else client._content_of(body, None, None)
    reply = llm._perform_alone(call.asks_for(client._Request(method, path, None, content), _Free(llm._chat), stream))
    answer: client.Answer = reply if isinstance(reply, client.Answer) else reply.parsed
    if stream:
        answer._flow.attempt.billed = None
    return answer


def _without_hint(error: LLMError) -> LLMError:
    """An error without the hint that its body cannot be sent again: it was not to be."""
    error.hint = "" if error.hint == "its body cannot be read once more" else error.hint
    return error


class _Body(client._Upload):
    """A request's body, made of a part's lines as it is sent: it is never in memory as a whole.

    With `once` it is sent once at most: not again over another connection, and not by a retry.
    """

    def __init__(self, lines: Callable[[], Iterable[bytes]], before: bytes = b"", between: bytes = b"\n",
                 after: bytes = b"\n", once: bool = False) -> None:
        super().__init__(lines)
        self.before, self.between, self.after, self.once = before, between, after, once
        self.size = sum(map(len, self.pieces()))

    @property
    def spent(self) -> bool:
        return self.once and self.begun

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[bytes]:
        if self.spent:  # by an adapter of the user's own, which tries again by itself
            raise client.APIConnectionError("the request was sent, and is not sent again")
        return super().__iter__()

    def pieces(self) -> Iterator[bytes]:
        pieces, size = [self.before], len(self.before)
        for at, line in enumerate(self.source()):
            if size > client._PIECE:
                yield b"".join(pieces)
                pieces, size = [], 0
            pieces += [self.between, line] if at else [line]
            size += len(line)
        yield b"".join([*pieces, self.after])


def _lines_of(answer: client.Answer) -> Iterator[JSON]:
    """The JSON values of a file, one a line; what is none as its bytes."""
    rest: List[bytes] = []
    with answer:
        for piece in itertools.chain(answer.iter_content(), [b"\n"]):
            *whole, last = piece.split(b"\n")
            for line in whole:
                rest.append(line)
                text, rest = b"".join(rest), []
                if text.strip():
                    yield client._json_or({"unreadable": text[:1000]}, text)
            rest.append(last)
            if sum(map(len, rest)) > _LONGEST:
                raise client.ResponseError(f"a line of over {_LONGEST >> 20} MiB in a batch's results")


# ------------------------------------------------------------------------------------------------------------- results


class _Outcome(NamedTuple):
    """What came of one line; by its place in the job, or by its custom id."""

    custom_id: str = ""
    place: Optional[int] = None
    status: Optional[int] = None  # None: the provider has told none
    body: Any = None  # the answer, or the error
    end: str = ""  # what became of a line that was not answered: "expired", "cancelled", "failed", "missing"
    message: str = ""
    code: Any = None
    request_id: Any = None


def _call_for(llm: Client, job: JSON, schema: Any = None) -> client._Call:
    """The call that a line of a job would have been."""
    dialect = llm._responses if llm._responses is not None and job["path"] == llm._responses.path else llm._chat
    call = llm._call(dialect, deadline=None)
    call.model, call.reader, call.schema, call.attempts = job["model"], dialect, schema, 1
    return call


def _parsed(call: client._Call, said: _Outcome) -> client.Response:
    """The reply that a line holds.  Raises the error that it is."""
    headers = CaseInsensitiveDict({"x-request-id": str(said.request_id)} if said.request_id else {})
    if said.end:
        raise client._sealed(_unanswered(said), call)
    if said.status is None or said.status >= 300:
        error = client._api_error(call, said.status, headers, said.body)
        error.args = (f"{said.status or 'an error'} in the batch",)
        raise client._sealed(error, call)
    payload = json.dumps(said.body).encode()
    attempt: Any = SimpleNamespace(billed=None)
    answer: Any = SimpleNamespace(read=lambda: payload, status=said.status, headers=headers)
    try:
        reply = client._read_reply(call, attempt, answer)
        client._read_schema(call, reply)
    except LLMError as error:
        raise client._sealed(error, call) from None
    reply.elapsed = 0.0
    return reply


_ENDS = {"expired": "the batch expired before this request was done",
         "cancelled": "the batch was cancelled before this request was done",
         "failed": "the provider refused the batch", "missing": "no result in the batch's files"}


def _unanswered(said: _Outcome) -> LLMError:
    """The error of a line that was not answered."""
    if said.end == "missing":
        return client.ResponseError(_ENDS[said.end], why=said.message)
    kind = APIError
    if said.end == "failed":
        kind = client.RateLimitError if "limit" in str(said.code) else client.BadRequestError
    return kind(_ENDS[said.end], why=client._quoted(said.message), message=said.message, body=said.body,
                code=said.code or f"batch_{said.end}")


def _book(ledger: client.Ledger, result: Result) -> None:
    """Count a result: a reply is a billed call, also one that an error is about."""
    reply = result.response if isinstance(result, LLMError) else result
    if reply is not None:
        counts = {"calls": 1, "empty": int(client._is_empty(reply))}
        ledger._book(object(), client._Booking(
            tuple(counts.get(name, 0) for name in client._COUNTED), reply.model, reply.usage))
    if isinstance(result, LLMError):
        ledger._book_failure()
    ledger._tidy()


# ---------------------------------------------------------------------------------------------------------- batch APIs


class _Told(NamedTuple):
    """What a provider says of a job."""

    end: str  # "" while it is under way; "completed", "failed", "expired" or "cancelled"
    done: int
    failed: int
    body: JSON


_END_OF = {word: end for end, words in {
    "completed": "completed succeeded success ended", "failed": "failed", "expired": "expired timeout_exceeded",
    "cancelled": "cancelled canceled"}.items() for word in words.split()}


class _Api:
    """OpenAI's Batch API: a file of requests, a job, two files of results."""

    limits = Limits(50_000, 200_000_000)
    jobs_path, purpose = "/batches", "batch"
    id_key, state_key = "id", "status"
    output_keys: Tuple[str, ...] = ("output_file_id", "error_file_id")
    counts: Tuple[str, str] = ("request_counts.completed", "request_counts.failed")
    page_query, after = "limit=100", "after"

    # what is sent

    def body(self, body: JSON) -> JSON:
        """A request's body as it stands in a line."""
        return body

    def line(self, part: _Part, line: _Line, place: int) -> bytes:
        """A request as a line of what is submitted."""
        url = "/v1" + part.path
        return b'{"custom_id":%b,"method":"POST","url":%b,"body":%b}' % (_json(line.custom_id), _json(url), line.body)

    def all(self, part: _Part) -> Callable[[], Iterable[bytes]]:
        return lambda: (self.line(part, line, place) for place, line in enumerate(part.lines()))

    def prepare(self, llm: Client, part: _Part, limits: Limits) -> JSON:
        """Do what comes before a job is created; returns what the state file is to tell of it."""
        boundary = secrets.token_hex(16)
        form = (f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{self.purpose}\r\n'
                f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{part.mark}.jsonl"\r\n'
                "Content-Type: application/jsonl\r\n\r\n")
        body = _Body(self.all(part), form.encode(), after=f"\n\r\n--{boundary}--\r\n".encode())
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        file = _ask(llm, "POST", "/files", body, headers=kind).json()
        return {"file": self.id_of(file), "is_ready": self.is_processed(file)}

    def is_processed(self, file: Any) -> bool:
        """Whether a file can be used: Azure takes its time."""
        return client._dict(file).get("status") not in ("pending", "running", "notRunning", "uploading")

    def is_ready(self, llm: Client, job: JSON) -> bool:
        """Whether a job's file can be used; asked until it can."""
        if job.get("is_ready") is False:
            job["is_ready"] = self.is_processed(_ask(llm, "GET", f"/files/{quote(job['file'], safe='')}").json())
        return job.get("is_ready") is not False

    def creation(self, job: JSON, part: Any) -> _Body:
        """What creates a job, to be sent once."""
        return _Body(lambda: [], _json(self.order(job)), after=b"", once=True)

    def order(self, job: JSON) -> JSON:
        return {"input_file_id": job["file"], "endpoint": "/v1" + job["path"], "completion_window": "24h",
                "metadata": {"llmlite": job["mark"]}}

    def place_of(self, job: JSON) -> str:
        """Where a job is created."""
        return self.jobs_path

    # what is told

    def id_of(self, body: Any) -> str:
        """The id of a job or a file.  Raises ResponseError."""
        id = client._dict(self.inner(body)).get(self.id_key)
        if not isinstance(id, str) or not id:
            raise client.ResponseError("an answer without an id", why=client._quoted(str(body)), body=body)
        return id

    def inner(self, body: Any) -> Any:
        """A job, out of what is around it."""
        return body

    def look(self, llm: Client, job: JSON) -> _Told:
        return self.told(_ask(llm, "GET", self.address(job)).json())

    def address(self, job: JSON) -> str:
        return f"{self.jobs_path}/{quote(job['id'], safe='')}"

    def told(self, body: Any) -> _Told:
        body = client._dict(self.inner(body))
        done, failed = (_number(client._at(body, path)) for path in self.counts)
        return _Told(_END_OF.get(self.state(body), ""), done, failed, body)

    def state(self, body: JSON) -> str:
        return str(body.get(self.state_key)).lower()

    def ask_to_cancel(self, llm: Client, job: JSON) -> None:
        _ask(llm, "POST", self.address(job) + "/cancel")

    # which job is ours

    def search(self, llm: Client, job: JSON, known: List[str]) -> Iterator[Tuple[str, bool]]:
        """The ids of jobs in the provider's list that may be this one, and whether that is certain."""
        for body in self.listed(llm):
            if self.is_marked(body, job) and self.id_of(body) not in known:
                yield self.id_of(body), True

    def listed(self, llm: Client, query: str = "") -> Iterator[JSON]:
        """All the jobs that a provider lists, the newest first."""
        query, seen = query or self.page_query, set()
        while query and query not in seen:  # a server whose pages never end must not hold the caller for ever
            seen.add(query)
            page = _ask(llm, "GET", f"{self.jobs_path}?{query}").json()
            rows = [client._dict(row) for row in self.rows(page)]
            yield from rows
            query = self.next_page(client._dict(page), rows, len(seen))

    def rows(self, page: Any) -> List[Any]:
        return client._list(page if isinstance(page, list) else client._dict(page).get("data"))

    def next_page(self, page: JSON, rows: List[JSON], number: int) -> str:
        """The query of the next page, or ""."""
        last = quote(str(rows[-1].get("id")), safe="") if rows and page.get("has_more") else ""
        return f"{self.page_query}&{self.after}={last}" if last else ""

    def is_marked(self, body: JSON, job: JSON) -> bool:
        return bool(client._at(body, "metadata.llmlite") == job["mark"] or body.get("input_file_id") == job["file"])

    def is_ours(self, llm: Client, job: JSON) -> Optional[bool]:
        """Whether a job that may be this one is it; None: that cannot be told yet."""
        raise NotImplementedError

    # results

    def sources(self, job: JSON, body: JSON) -> List[str]:
        """Where the results are."""
        ids = [body.get(key) for key in self.output_keys]
        return [f"/files/{quote(id, safe='')}/content" for id in ids if isinstance(id, str) and id]

    def inside(self, body: JSON) -> List[Any]:
        """The results that stand in the job itself."""
        return []

    def read(self, llm: Client, job: JSON, body: JSON) -> Generator[Any, None, None]:
        """The results, line by line."""
        yield from self.inside(body)
        for path in self.sources(job, body):
            yield from _lines_of(_ask(llm, "GET", path, stream=True))

    def outcome(self, line: Any, job: JSON) -> Optional[_Outcome]:
        """What a line says; None if it cannot be read."""
        line = client._dict(line)
        custom_id, response, error = line.get("custom_id"), client._dict(line.get("response")), line.get("error")
        if not isinstance(custom_id, str):
            return None
        if response and (response.get("body") or not error):
            status = response.get("status_code")
            return _Outcome(custom_id, status=status if type(status) is int else 200,
                            body=response.get("body", response), request_id=response.get("request_id"))
        code, message = client._dict(error).get("code"), client._dict(error).get("message")
        end = next((end for end in ("expired", "cancelled") if str(code).endswith(end)), "")
        return _Outcome(custom_id, body={"error": error}, end=end, code=code, message=str(message))

    def missing(self, told: _Told, place: int, unread: int) -> _Outcome:
        """What became of a line that no result is there for."""
        if told.end == "completed":
            return _Outcome(end="missing", message=f"{unread} lines of them cannot be read" if unread else "")
        problems = self.problems(told.body)
        mine = [problem for problem in problems if problem.get("line") == place + 1] or problems or [{}]
        return _Outcome(end=told.end, body=problems or None, code=mine[0].get("code"),
                        message=str(mine[0].get("message") or ""))

    def problems(self, body: JSON) -> List[JSON]:
        """Why a job has failed."""
        return [client._dict(problem) for problem in client._list(client._at(body, "errors.data"))]


class _Groq(_Api):
    limits = Limits(50_000, 100_000_000)


class _Together(_Api):
    """Together's: no metadata; a new job comes in a wrapper."""

    limits = Limits(50_000, 100_000_000)
    purpose = "batch-api"
    page_query = ""
    counts = ("", "")

    def order(self, job: JSON) -> JSON:
        return {"input_file_id": job["file"], "endpoint": "/v1" + job["path"], "completion_window": "24h"}

    def inner(self, body: Any) -> Any:
        return client._dict(body).get("job", body)

    def listed(self, llm: Client, query: str = "") -> Iterator[JSON]:
        yield from map(client._dict, self.rows(_ask(llm, "GET", self.jobs_path).json()))

    def problems(self, body: JSON) -> List[JSON]:
        return [{"message": body["error"]}] if body.get("error") else []


class _Mistral(_Api):
    """Mistral's: the model stands on the job."""

    limits = Limits(50_000, 200_000_000)
    jobs_path = "/batch/jobs"
    output_keys = ("output_file", "error_file")
    counts = ("succeeded_requests", "failed_requests")
    page_query = "page_size=100"

    def body(self, body: JSON) -> JSON:
        return client._without(body, "model")

    def line(self, part: _Part, line: _Line, place: int) -> bytes:
        return b'{"custom_id":%b,"body":%b}' % (_json(line.custom_id), line.body)

    def order(self, job: JSON) -> JSON:
        return {"model": job["model"], "endpoint": "/v1" + job["path"], "input_files": [job["file"]],
                "timeout_hours": 24, "metadata": {"llmlite": job["mark"]}}

    def next_page(self, page: JSON, rows: List[JSON], number: int) -> str:
        return f"{self.page_query}&page={number}" if rows else ""

    def is_marked(self, body: JSON, job: JSON) -> bool:
        return super().is_marked(body, job) or job["file"] in client._list(body.get("input_files"))

    def inside(self, body: JSON) -> List[Any]:
        return client._list(body.get("outputs"))

    def problems(self, body: JSON) -> List[JSON]:
        return [client._dict(problem) for problem in client._list(body.get("errors"))]


class _Anthropic(_Api):
    """Anthropic's Message Batches: no files, no metadata; custom ids of few letters, and so our own."""

    limits = Limits(100_000, 256_000_000)
    jobs_path = "/v1/messages/batches"
    state_key, after = "processing_status", "after_id"
    counts = ("request_counts.succeeded", "request_counts.errored")

    def line(self, part: _Part, line: _Line, place: int) -> bytes:
        return b'{"custom_id":%b,"params":%b}' % (_json(f"{part.mark}-{place}"), line.body)

    def prepare(self, llm: Client, part: _Part, limits: Limits) -> JSON:
        newest = next(self.listed(llm, "limit=1"), {})  # no clock is asked what is newer than this
        return {"file": None, "before": newest.get("id")}

    def creation(self, job: JSON, part: Any) -> _Body:
        return _Body(self.all(part), b'{"requests":[', b",", b"]}", once=True)

    def search(self, llm: Client, job: JSON, known: List[str]) -> Iterator[Tuple[str, bool]]:
        for body in self.listed(llm):
            if body.get("id") == job.get("before"):
                return
            counts = client._dict(body.get("request_counts"))
            if sum(map(_number, counts.values())) in (0, job["count"]) and body.get("id") not in known:
                yield self.id_of(body), False

    def is_ours(self, llm: Client, job: JSON) -> Optional[bool]:
        try:
            told = self.look(llm, job)
            if not told.end:
                return None
            if not self.sources(job, told.body) and not told.body.get("archived_at"):
                return None
            with contextlib.closing(self.read(llm, job, told.body)) as lines:
                first = client._dict(next(lines, None))
        except client.NotFoundError:  # somebody has deleted it
            return False
        return str(first.get("custom_id")).startswith(job["mark"] + "-")

    def sources(self, job: JSON, body: JSON) -> List[str]:
        return [self.address(job) + "/results"] if body.get("results_url") else []

    def outcome(self, line: Any, job: JSON) -> Optional[_Outcome]:
        line = client._dict(line)
        mark, _, place = str(line.get("custom_id")).rpartition("-")
        result = client._dict(line.get("result"))
        if mark != job["mark"] or not re.fullmatch("[0-9]{1,9}", place):
            return None
        said = _Outcome(place=int(place), body=line)
        if result.get("type") == "succeeded":
            return said._replace(status=200, body=result.get("message"))
        end = {"expired": "expired", "canceled": "cancelled"}.get(str(result.get("type")), "")
        return said._replace(end=end, body=line if end else result.get("error"))


class _Gemini(_Api):
    """Gemini's: operations; requests and results are inside them, or, where they are large, in files."""

    # 20 MB may be inline; but then the answers come in one piece too, with each look at a job that has ended
    limits = Limits(50_000, 1_000_000_000, 1_000_000)
    id_key = "name"
    page_query = "pageSize=10"
    counts = ("metadata.batchStats.successfulRequestCount", "metadata.batchStats.failedRequestCount")

    def line(self, part: _Part, line: _Line, place: int) -> bytes:
        return b'{"key":%b,"request":%b}' % (_json(line.custom_id), line.body)

    def inline(self, part: _Part) -> Callable[[], Iterable[bytes]]:
        return lambda: (b'{"request":%b,"metadata":{"key":%b}}' % (line.body, _json(line.custom_id))
                        for line in part.lines())

    def prepare(self, llm: Client, part: _Part, limits: Limits) -> JSON:
        if part.size <= limits.inline and len(_Body(self.inline(part))) <= limits.inline:
            return {"file": None}
        body, base = _Body(self.all(part)), urlsplit(llm._base_url)
        version = base.path.rpartition("/")
        start = _ask(llm, "POST", f"{base.scheme}://{base.netloc}{version[0]}/upload/{version[2]}/files",
                     {"file": {"displayName": part.mark}}, headers={
                         "X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start",
                         "X-Goog-Upload-Header-Content-Length": str(len(body)),
                         "X-Goog-Upload-Header-Content-Type": "application/jsonl"})
        place = start.headers.get("x-goog-upload-url")
        if not place:
            raise client.ResponseError("an upload without a place for the file", why="no X-Goog-Upload-URL")
        answer = _ask(llm, "POST", place, body, headers={
            "X-Goog-Upload-Offset": "0", "X-Goog-Upload-Command": "upload, finalize"})
        return {"file": self.id_of(client._dict(answer.json()).get("file"))}

    def creation(self, job: JSON, part: Any) -> _Body:
        if job["file"]:
            batch = {"displayName": job["mark"], "inputConfig": {"fileName": job["file"]}}
            return _Body(lambda: [], _json({"batch": batch}), after=b"", once=True)
        before = b'{"batch":{"displayName":%b,"inputConfig":{"requests":{"requests":[' % _json(job["mark"])
        return _Body(self.inline(part), before, b",", b"]}}}}", once=True)

    def place_of(self, job: JSON) -> str:
        return str(job["path"]).rpartition(":")[0] + ":batchGenerateContent"

    def address(self, job: JSON) -> str:
        return "/" + quote(job["id"], safe="/")

    def state(self, body: JSON) -> str:
        return str(client._at(body, "metadata.state")).rpartition("STATE_")[2].lower()

    def ask_to_cancel(self, llm: Client, job: JSON) -> None:
        _ask(llm, "POST", self.address(job) + ":cancel")

    def rows(self, page: Any) -> List[Any]:
        return client._list(client._dict(page).get("operations"))

    def next_page(self, page: JSON, rows: List[JSON], number: int) -> str:
        token = page.get("nextPageToken")
        return f"{self.page_query}&pageToken={quote(str(token), safe='')}" if token else ""

    def is_marked(self, body: JSON, job: JSON) -> bool:
        return bool(client._at(body, "metadata.displayName") == job["mark"])

    @staticmethod
    def output(body: JSON) -> JSON:
        return client._dict(client._at(body, "metadata.output")) or client._dict(body.get("response"))

    def sources(self, job: JSON, body: JSON) -> List[str]:
        file = self.output(body).get("responsesFile")
        return [f"/{quote(file, safe='/')}:download?alt=media"] if isinstance(file, str) else []

    def inside(self, body: JSON) -> List[Any]:
        found: Any = self.output(body).get("inlinedResponses")
        rows = found if isinstance(found, list) else client._list(client._dict(found).get("inlinedResponses"))
        return [{**client._dict(row), "place": place} for place, row in enumerate(rows)]  # in the requests' order

    def outcome(self, line: Any, job: JSON) -> Optional[_Outcome]:
        line = client._dict(line)
        key = line.get("key", client._at(line, "metadata.key"))
        said = _Outcome(key, body=line) if isinstance(key, str) else _Outcome(place=line.get("place"), body=line)
        if not said.custom_id and said.place is None:
            return None
        if isinstance(line.get("response"), dict):
            return said._replace(status=200, body=line["response"])
        error = client._dict(line.get("error") or line.get("status"))
        return said._replace(status=_STATUS_OF.get(_number(error.get("code")), 500), body={"error": error})

    def problems(self, body: JSON) -> List[JSON]:
        return [body["error"]] if isinstance(body.get("error"), dict) else []


_STATUS_OF = {  # of google.rpc's codes
    1: 499, 3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 11: 400, 13: 500, 14: 503, 16: 401}
_APIS: Dict[str, _Api] = {
    "openai": _Api(), "azure": _Api(), "groq": _Groq(), "together": _Together(), "mistral": _Mistral(),
    "anthropic": _Anthropic(), "gemini": _Gemini(),
    "compatible": _Api(),  # a gateway may have it; who has not says so
}


def _api_of(llm: Client) -> _Api:
    """The Batch API of a client's provider.  Raises ConfigurationError."""
    name = llm._provider.name
    if name not in _APIS:
        raise ConfigurationError(f"{name} has no Batch API that is known here", hint="these have one: "
                                 f"{', '.join(known for known in _APIS if known != 'compatible')}")
    return _APIS[name]


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _number(value: Any) -> int:
    """A count, which Google writes as text."""
    return int(value) if re.fullmatch("[0-9]{1,15}", str(value)) else 0
