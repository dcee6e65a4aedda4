"""Many prompts as files: a line of JSON for each prompt in, a line of JSON for each answer out.

    from llmlite import Client, batch

    summary = batch.run("in.jsonl", "out.jsonl", client=Client("openai/gpt-5-mini"), workers=16)

An input line is `{"prompt": "..."}` or `{"messages": [...]}` with arguments of `Client.chat` and an `"id"` beside, or
one of OpenAI's Batch API.  An output line is one of that API too, with a `chat.completion` of any provider.  A run that
was stopped, in whatever way, goes on where it was when it is started again.  Sections, top-down:

    running    run(): what is sent, what is counted, what the caller is told
    provider   the same through the provider's own Batch API
    source     the input's lines: found sound before anything is sent, then read again as they are sent
    lines in   what one of them asks for
    ids        which there are, and which are done, in 8 bytes each
    output     appended to line by line, synced, resumed
    lines out  an answer, or an error, as one of them
    lock       one run an output
    stopping   signals, and the tokens that may be spent
"""
from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import operator
import os
import re
import signal
import stat
import sys
import tempfile
import threading
import time
import weakref
import zlib
from array import array
from collections import Counter
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Callable, Dict, Iterable, Iterator, List, NamedTuple

# isort: split
from typing import Optional, Set, Tuple, Union

from . import client as core
from .client import JSON, Client, ConfigurationError, LLMError, Response, Usage

if sys.platform == "win32":  # pragma: no cover: Windows
    import msvcrt
else:
    import fcntl

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from . import jobs

__all__ = ["InputError", "Items", "Output", "Stop", "Summary", "cancel", "opened", "run", "run_until"]

Path = Union[str, "os.PathLike[str]"]
Result = Union[Response, LLMError]

_LONGEST = 512 << 20  # bytes of a line: what is longer has no line ends, and must not eat the memory
_PART = 500_000  # ids that are sorted at once: the numbers of more would take more memory than all the rest
_SLICE = 1 << 16  # ids of an output that are looked for at once
_SYNC = 0.5  # seconds from a line's write until it is synced: 1 s is promised, and a disk may take its time
_KINDS = 1000  # combinations of options that are known to be right: they repeat from line to line
_BINARY = getattr(os, "O_BINARY", 0)  # Windows would write line ends of its own
_DONE, _FAILED = 1, 2  # what became of an id; 0 is still to do


class InputError(ConfigurationError):
    """The source holds something that cannot be asked, or cannot be read.  Nothing was sent, unless it has changed."""


# -------------------------------------------------------------------------------------------------------------- running


class Summary(NamedTuple):
    """What a run came to.

    `total` are the input's prompts; `done` the good answers of this run; `failed` the failed lines of the output, those
    of earlier runs too; `skipped` the good ones of earlier runs.  `usage` and `retries` are what this run spent,
    `elapsed` its seconds.  `stopped` is None, "interrupted" (by a signal) or "budget" (`max_total_tokens`).
    """

    total: int
    done: int
    failed: int
    skipped: int
    usage: Usage
    retries: int
    elapsed: float
    stopped: Optional[str]


def run(source: Path, output: Path, *, client: Client, workers: int = 8, executor: Any = None,
        retry_failed: bool = False, max_total_tokens: Optional[int] = None, progress: Any = None,
        report: Optional[Path] = None, at_provider: bool = False, poll: Optional[jobs.Poll] = None,
        **options: Unpack[core._EachOptions]) -> Summary:
    """Ask every prompt of a file, and append each answer to another as it comes.

        summary = run("in.jsonl", "out.jsonl", client=Client("openai/gpt-5-mini"), workers=16, temperature=0)

    Started again with the same files it asks only what has no answer yet.  SIGINT and SIGTERM (in the main thread) stop
    it when what has been sent is answered, a second one at once; a call that waits to be sent again is left to the
    next run (in the processes of an executor, but for Dask's, it is sent again first).

    Args:
        source: the input's path; "-" is stdin.
        output: the output's path; "-" is stdout, which cannot be resumed.
        client: who is asked.
        workers: how many calls are under way at once; of no matter at the provider.
        executor: a `concurrent.futures.Executor` to make them on, as in `Client.map`.  Ctrl-C in a terminal reaches its
            processes too: what it ends there is left to the next run.
        retry_failed: ask again for what an earlier run has a failed line for; else that stays failed.
        max_total_tokens: stop when this run has spent as many.
        progress: True for a bar on stderr, or a callable that gets (done, failed, usage) after each line, or, at the
            provider, after each look at the jobs.
        report: the path of a page in HTML to write at the end: what happened when, how long it took, what failed.
        at_provider: have it done by the provider's own Batch API: half the price, within a day.  The jobs' ids stand in
            `output` + ".jobs.json", with what they hold in ".jobs.ids" beside it: started again, it submits nothing
            twice.  A signal ends the waiting; the jobs go on.  When all is answered both files are of no more use.
            Each look, upload and download is a call under the client's retries and deadline.
        poll: a `jobs.Poll`, how often to look at the jobs there; default: after 5 s, and then less often, up to 60 s.
        options: arguments of `Client.chat` for every prompt; a line's own win.

    Raises:
        InputError: a line is none, or an id stands twice; the message names file and line.  Nothing was sent.
        ConfigurationError: the output is another input's, no such file or in use; or it cannot be done at the provider;
            nothing of the output was touched.
        LLMError: the provider refuses a job or does not answer; or 100 calls in a row failed by what is no matter of
            their prompts (a wrong key, no money, no such model), and the rest was not sent.  The next run goes on.
        OSError: the output cannot be written, with its name; what was written before stays good.
        TypeError: an option is no argument of `Client.chat`.
        KeyboardInterrupt: a signal came before anything was sent.
    """
    with Stop() as until:
        return run_until(until, source, output, client=client, workers=workers, executor=executor,
                         retry_failed=retry_failed, max_total_tokens=max_total_tokens, progress=progress,
                         report=report, at_provider=at_provider, poll=poll, **options)


def run_until(until: Stop, source: Path, output: Path, *, client: Client, workers: int, executor: Any,
              retry_failed: bool, max_total_tokens: Optional[int], progress: Any, report: Optional[Path],
              at_provider: bool = False, poll: Optional[jobs.Poll] = None, **options: Any) -> Summary:
    """What `run` does, with a `Stop` of the caller's, who learns which signal it was."""
    started = time.monotonic()
    core._checked("client", client, (Client,))
    core._checked("max_total_tokens", max_total_tokens, (int, core._NONE), 1)
    core._checked_workers(workers)
    if at_provider:
        _check_at_provider(output, client, options, executor=executor, max_total_tokens=max_total_tokens)
    else:
        _check_no_jobs(output)
    with _page(report, source, output) as page, opened(source, output, client, options, retry_failed, at_provider) as (
            items, lines):
        spent = _Spent(client, max_total_tokens)
        counts = _Counts(items, lines, page)
        if at_provider:
            _ask_provider(until, counts, client, options, spent, progress, poll)
        else:
            _ask(until, counts, client, options, spent, progress, workers, executor)
        summary = counts.summary(spent, time.monotonic() - started, until.why)
        page.totals.update(summary._asdict())
    return summary


def _ask(until: Stop, counts: _Counts, client: Client, options: JSON, spent: _Spent, progress: Any, workers: int,
         executor: Any) -> None:
    """Have a client answer what is to be asked."""
    trend = _Trend()
    results: Any = client.map(counts.asked(), workers=workers, executor=executor, ordered=False, errors="return",
                              **options)
    if spent.limit is not None:
        results.stop.when = spent.too_much
    told = core._Progress(progress, counts.left)
    with contextlib.closing(results), contextlib.ExitStack() as at_end:
        at_end.callback(told.end)
        for index, result in itertools.chain(until.listening(results, results.stop.set), results.rest()):
            custom_id, names_model = counts.ids.pop(index)
            counts.add(custom_id, result)
            told.count(result)
            trend.add(result, names_model)
            if trend.is_hopeless:
                results.stop.set()
    if spent.too_much():
        until.why = until.why or "budget"
    if until.why is None:
        trend.check(counts.left - counts.done - counts.failed)


class _Trend:
    """Whether one call after the other fails by what is no matter of its line: a wrong key, no money, no such model."""

    def __init__(self) -> None:
        self.row = self.longest = 0
        self.last: Optional[LLMError] = None  # of the longest row

    def add(self, result: Result, names_model: bool) -> None:
        alike = isinstance(result, _NO_LINES_FAULT) and not (names_model and isinstance(result, core.NotFoundError))
        self.row = self.row + 1 if alike else 0
        if isinstance(result, LLMError) and self.row > self.longest:
            self.longest, self.last = self.row, result

    @property
    def is_hopeless(self) -> bool:
        """From the hundredth on, whatever comes of those that were under way."""
        return self.longest >= _IN_A_ROW

    def check(self, left: int) -> None:
        """Raises LLMError for the prompts that were not asked for that."""
        if self.is_hopeless and left:
            raise LLMError(f"stopped, with {left} left: {self.longest} calls in a row failed alike", why=str(self.last),
                           hint="mend that, and go on with --retry-failed (retry_failed=True)") from self.last


_NO_LINES_FAULT = (core.AuthenticationError, core.PaymentRequiredError, core.PermissionDeniedError, core.NotFoundError,
                   core.QuotaExceededError)
_IN_A_ROW = 100  # calls: a moderator's 403, a line's own address may come a few times


class _Counts:
    """What is asked, and what came of it."""

    def __init__(self, items: Items, lines: Output, page: _Page) -> None:
        self.items, self.lines, self.page = items, lines, page
        self.ids: Dict[int, Tuple[str, bool]] = {}  # of what is under way, and whether it names its model
        self.done = self.failed = 0
        self.left = len(items) - items.done - items.failed  # of the run's start

    def asked(self) -> Iterator[JSON]:
        """The prompts as `Client.map` takes them."""
        for index, (custom_id, model, arguments) in enumerate(self.items):
            self.ids[index] = custom_id, model is not None
            yield arguments if model is None else {**arguments, "model": model}

    def add(self, custom_id: str, result: Result) -> None:
        self.lines.write(custom_id, result)
        if isinstance(result, LLMError):
            self.failed += 1
        else:
            self.done += 1
        self.page.add(custom_id, result)

    def summary(self, spent: _Spent, elapsed: float, why: Optional[str]) -> Summary:
        items = self.items
        failed, usage, retries = items.failed + self.failed, *spent.now()
        complete = self.done + failed + items.done == len(items)
        return Summary(len(items), self.done, failed, items.done, usage, retries, elapsed,
                       None if why == "budget" and complete else why)


class _Spent:
    """What a client has spent since now, as its ledger has it."""

    def __init__(self, client: Client, limit: Optional[int]) -> None:
        self.ledger, self.limit = client.ledger, limit
        self.before = self.ledger.snapshot()

    def now(self) -> Tuple[Usage, int]:
        after = self.ledger.snapshot()
        return (Usage(*map(operator.sub, after["usage"], self.before["usage"])),
                after["retries"] - self.before["retries"])

    def too_much(self) -> bool:
        return self.limit is not None and self.now()[0].total_tokens >= self.limit


class _Page:
    """The report, if one is asked for: one that is not takes what it is told and is written nowhere."""

    def __init__(self, report: Any = None) -> None:
        self.report = report
        self.totals: Dict[str, Any] = {}
        self.has_any = False

    def add(self, custom_id: str, result: Result) -> None:
        if self.report is None:
            return
        self.has_any = True
        failed = isinstance(result, LLMError)
        reply = result.response if isinstance(result, LLMError) else result
        usage = reply.usage if reply is not None else Usage()
        self.report.add(custom_id, ended=time.time(), elapsed=result.elapsed, attempts=result.attempts,
                        model=reply.model if reply is not None else "", input_tokens=usage.input_tokens,
                        output_tokens=usage.output_tokens, code=type(result).__name__ if failed else "",
                        message=str(result) if failed else "")


@contextlib.contextmanager
def _page(path: Optional[Path], source: Path, output: Path) -> Iterator[_Page]:
    """A report that is written at the end, however that comes."""
    if path is None:
        yield _Page()
        return
    from . import report  # here, for most runs need none
    path = os.path.realpath(path)
    for name, what in ((source, "input"), (output, "output")):
        if name != "-" and os.path.realpath(name) == path:
            raise ConfigurationError(f"{os.fspath(name)} is the {what}", hint="give another file for the report")
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    tag = os.urandom(4).hex()
    with _naming(path), open(f"{path}.{tag}.tmp", "wb") as file:  # what stands in the way is told now
        os.remove(file.name)
    page = _Page(report.Report(f"llmlite batch {os.path.basename(os.fspath(source))}"))
    try:
        yield page
    finally:
        if page.has_any or page.totals:
            with _naming(path), _replaced(path, tag) as file:
                file.write(page.report.html(page.totals).encode("utf-8", "replace"))


# ------------------------------------------------------------------------------------------------------------- provider


def cancel(output: Path, *, client: Client) -> List[str]:
    """Cancel the jobs that a run at the provider has submitted for this output; a run that waits for them may go on.

        print("\\n".join(cancel("out.jsonl", client=Client("openai/gpt-5-mini"))))

    Returns a line for each that had not been fetched: what became of it.  The next run fetches what was done until
    then, which is paid for; the rest are failed lines.

    Args:
        output: the run's output's path.
        client: who asks, of the provider that has the jobs.

    Raises:
        ConfigurationError: there are no such jobs, or they are another provider's.
        LLMError: the provider does not answer.
    """
    from . import jobs
    return jobs.cancel(client, _jobs_of(output))


def _jobs_of(output: Path) -> str:
    """The file that tells of an output's jobs."""
    return os.path.realpath(output) + ".jobs.json"


def _check_at_provider(output: Path, client: Client, options: JSON, **refused: Any) -> None:
    """Refuse what does not go with the provider's Batch API before any file is touched."""
    from . import jobs
    refused.update((name, options[name]) for name in _HERE if name in options)
    for name, value in refused.items():
        if value is not None:
            raise ConfigurationError(f"{name} has no meaning at the provider", hint="leave it or at_provider out")
    if not Output(output).is_file:
        raise ConfigurationError(f"{Output(output).name} cannot be the output of a run at the provider",
                                 why="its jobs are kept in a file beside it", hint="give the name of a file")
    jobs.check(client, _jobs_of(output))


def _check_no_jobs(output: Path) -> None:
    """What is in a job under way would be paid for twice."""
    path = _jobs_of(output)
    if output != "-" and os.path.exists(path):
        from . import jobs
        left = jobs.pending(path)
        if left:
            raise ConfigurationError(
                f"{path} tells of {left} job(s) at the provider whose results are not here", why="they are paid for",
                hint="go on with --at-provider (at_provider=True), also after --cancel; or remove that file")


def _ask_provider(until: Stop, counts: _Counts, client: Client, options: JSON, spent: _Spent, progress: Any,
                  poll: Optional[jobs.Poll]) -> None:
    """Have the provider's Batch API answer what is to be asked, or go on with what it has begun."""
    from . import jobs

    def write(custom_id: str, result: Result) -> None:
        with until.whole():
            counts.add(custom_id, result)

    told, state = _Looks(progress, counts.left, spent), _jobs_of(counts.lines.path)
    with contextlib.closing(told), _naming_nameless(state), until.interruptible():
        jobs.run(client, counts.items, write, state=state, poll=poll or jobs.Poll(), progress=told.tell,
                 sync=counts.lines.sync, stopping=lambda: until.why is not None, **options)


@contextlib.contextmanager
def _naming_nameless(name: str) -> Iterator[None]:
    """Of an OSError that says no file: where there is no room."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or name) from None


class _Looks:
    """Tells what each look at the jobs has shown."""

    def __init__(self, progress: Any, total: int, spent: _Spent) -> None:
        self.progress, self.total, self.spent = progress, total, spent
        self.shown = False

    def tell(self, counts: jobs.Counts) -> None:
        if callable(self.progress):
            self.progress(counts.done, counts.failed, self.spent.now()[0])
        elif self.progress:
            self.shown = True
            over = min(counts.done + counts.failed, self.total)  # a job may hold lines that are written already
            print(f"\r{over}/{self.total} done, {counts.failed} failed, "
                  f"{counts.ended}/{counts.jobs} jobs ended", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.shown:
            print(file=sys.stderr)


# --------------------------------------------------------------------------------------------------------------- source


@contextlib.contextmanager
def opened(source: Path, output: Path, client: Client, options: JSON, retry_failed: bool = False,
           at_provider: bool = False) -> Iterator[Tuple[Items, Output]]:
    """The prompts that are to be asked, found sound, and the output that they go to, locked: all that a runner needs.

    Who asks them goes through the items, and calls `write(custom_id, result)` of the output for each, in any order.
    The `options` are arguments of `chat` for all of them: they are checked, and not in the items but for their `extra`.
    """
    check = _Check(client, options, at_provider)
    with contextlib.ExitStack() as stack:
        items = stack.enter_context(Items(source, check))
        lines = stack.enter_context(Output(output, retry_failed))
        lines.mask = core._Mask([client._key] if isinstance(client._key, str) else ())
        lines.check_apart(items)
        items.check()
        lines.resume(items)
        yield items, lines


class Items:
    """The prompts of a file that are to be asked: (custom_id, model or None, arguments of `chat`) of each.

    `len()` are all of them; `done` and `failed` those that the output has a line for, which are passed over.
    """

    def __init__(self, source: Path, check: _Check) -> None:
        self.name: str = "stdin" if source == "-" else os.fspath(source)
        self.ids: Ids = Ids()
        self._tags = array("I")  # by number, what tells a line that has no id from another
        self.done: int = 0
        self.failed: int = 0
        self._source, self._check = source, check
        self.file: BinaryIO

    def __enter__(self) -> Items:
        try:
            self.file = _kept(sys.stdin) if self._source == "-" else open(self._source, "rb")  # noqa: SIM115
            if not stat.S_ISREG(os.fstat(self.file.fileno()).st_mode):  # a pipe can be read but once
                with self.file as once:
                    self.file = _kept(once)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.name} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def __len__(self) -> int:
        return len(self.ids.hashes)

    def check(self) -> None:
        """Read all of it once.  Raises InputError, also for an id that stands twice."""
        add, check, moulds, number = self.ids.add, self._check, _Moulds(), 0
        with self._locating(lambda: number):
            for number, line in self._lines():
                custom_id = moulds.read(line, number)
                if custom_id is None:
                    custom_id = _asked(line, number, check)[0]
                    moulds.learn(line, number, custom_id)
                add(custom_id)
                if custom_id[:5] == "line-" and custom_id == f"line-{number}":
                    self._tags.frombytes(bytes(4 * (number - len(self._tags))))
                    self._tags.append(zlib.crc32(line))
        shared = self.ids.shared()
        if shared:
            self._look_closer(shared)

    def __iter__(self) -> Iterator[Tuple[str, Optional[str], JSON]]:
        ids, skipped = self.ids, itertools.chain(self.ids.skipped, itertools.repeat(0))
        for place, ((number, line), is_skipped) in enumerate(zip(self._lines(), skipped)):
            if is_skipped:  # which is told without reading the line
                continue
            custom_id, arguments = self._read(number, line)
            if not ids.stands_at(place, custom_id):
                raise InputError(f"{self.name}, line {number} has changed since the run began")
            yield custom_id, arguments.pop("model", None), arguments

    def tag(self, custom_id: str) -> int:
        """Tells the line that has this id for want of one from what stood there in another file; else 0."""
        found = re.fullmatch("line-([1-9][0-9]{0,11})", custom_id) if custom_id[:5] == "line-" else None
        number = int(found[1]) if found else 0
        return self._tags[number] if number < len(self._tags) else 0

    def _lines(self) -> Iterator[Tuple[int, bytes]]:
        """Each line that is not blank, and its number."""
        self.file.seek(0)
        try:
            for number, line in enumerate(iter(functools.partial(self.file.readline, _LONGEST), b""), 1):
                line = (line[3:] if number == 1 and line[:3] == b"\xef\xbb\xbf" else line).strip()
                if line:
                    yield number, line
        except OSError as error:
            raise InputError(f"{self.name} cannot be read: {error.strerror}") from None

    def _read(self, number: int, line: bytes) -> Tuple[str, JSON]:
        with self._locating(lambda: number):
            return _asked(line, number, self._check)

    @contextlib.contextmanager
    def _locating(self, number: Callable[[], int]) -> Iterator[None]:
        """What is wrong with a line, said with its number."""
        try:
            yield
        except InputError:  # of the file itself
            raise
        except (ValueError, TypeError) as error:  # TypeError: of a tool or a schema that is none
            where, known = f"{self.name}, line {number()}", isinstance(error, ConfigurationError)
            raise InputError(f"{where}: {error.args[0] if known else error}", why=getattr(error, "why", ""),
                             hint=getattr(error, "hint", "")) from None

    def _look_closer(self, shared: Set[int]) -> None:
        """Have the ids told apart that have one hash; an error if two are the same."""
        first: Dict[str, int] = {}
        places: Dict[str, int] = {}
        for place, (number, line) in enumerate(self._lines()):
            if self.ids.hashes[place] in shared:
                custom_id, _ = self._read(number, line)
                if custom_id in first:
                    raise InputError(f"{self.name}, line {number}: the id {core._shown(custom_id)} stands in line "
                                     f"{first[custom_id]} already", hint=_LINE_IDS if "line-" in custom_id else "")
                first[custom_id], places[custom_id] = number, place
        self.ids.tell_apart(places)


_LINE_IDS = "a line without an id is called line-N, by its number"


def _kept(stream: Any) -> BinaryIO:
    """What a stream holds, in a file that is gone when it is closed: it is read twice."""
    kept = tempfile.TemporaryFile(prefix="llmlite-")  # noqa: SIM115
    try:
        stream = getattr(stream, "buffer", stream)
        if stream is None:
            raise ValueError("there is no stdin")
        for piece in iter(functools.partial(stream.read1, 1 << 20), b""):  # read() would have a terminal end twice
            kept.write(piece)
    except BaseException:
        kept.close()
        raise
    return kept


# ------------------------------------------------------------------------------------------------------------- lines in

_CHAT = frozenset(Client.chat.__kwdefaults__ or ())
_OPTIONS = _CHAT - {"model", "timeout", "deadline", "headers"}  # which the request holds; the others the client sees to
_HERE = ("timeout", "deadline", "headers", "cache")  # which a batch at the provider has no place for
_PLAIN = {*_CHAT, "prompt", "messages"}
_BATCH = frozenset(("custom_id", "method", "url", "body"))
_SAME = frozenset(("messages", "model", "temperature", "top_p", "top_k", "max_tokens", "stop", "seed", "tools",
                   "tool_choice", "reasoning_effort"))  # of a body: what chat() calls by the same name
_EXTRA = 'put it under "extra" if it is a field of the request'
_A_LINE = "one object a line"
_SHAPES = 'give {"prompt": "..."}, {"messages": [...]} or a line of OpenAI\'s Batch API'


class _Check:
    """Finds what a prompt asks for wrong before anything is sent; what all prompts are asked with, at once."""

    def __init__(self, client: Client, options: JSON, at_provider: bool = False) -> None:
        unknown = sorted(set(options) - _CHAT)
        if unknown:
            raise TypeError(f"{unknown[0]!r} is no argument of Client.chat")
        self.client: Client = client
        self.extra: Optional[JSON] = options.get("extra")
        self.at_provider: bool = at_provider
        self.has_model: bool = bool(client.model or options.get("model"))
        self.known: Set[Any] = set()
        self._check_options(options)

    def arguments(self, asked: JSON) -> JSON:
        """What `chat` is to get, if it would take it; the `extra` of all prompts added to their own."""
        messages = asked.pop("messages")
        _check_messages(messages)
        if asked:
            self._check_kind(asked)
            self._check_place(asked)
        if not (self.has_model or asked.get("model")):
            raise ConfigurationError("no model", hint='give -m MODEL, or "model" in the line')
        if self.extra and asked.get("extra"):
            asked["extra"] = {**self.extra, **asked["extra"]}
        asked["messages"] = messages
        return asked

    def _check_place(self, options: JSON) -> None:
        if self.at_provider:
            for name in _HERE:
                if name in options:
                    raise ConfigurationError(f'"{name}" has no meaning at the provider', hint="leave it out")

    def _check_kind(self, options: JSON) -> None:
        kind = (*options.items(), *map(type, options.values()))
        try:
            if kind in self.known:
                return
            if len(self.known) < _KINDS:
                self.known.add(kind)  # what turns out wrong below is an end anyway
        except TypeError:  # of a list or a dict among them
            pass
        self._check_options(options)

    def _check_options(self, options: JSON) -> None:
        core._checked_asked({"messages": "", **{name: options[name] for name in options if name in _OPTIONS}})
        client = self.client
        client._call(client._chat, **{name: options[name] for name in options if name not in _OPTIONS})


def _check_messages(messages: Any) -> None:
    """What `chat` checks of messages; quicker where they are plain."""
    if type(messages) is list and messages:
        for message in messages:
            if type(message) is not dict or len(message) != 2 or type(message.get("content")) is not str or (
                    message.get("role") not in _ROLES):
                break
        else:
            return
    core._checked_messages(messages)


_ROLES = ("user", "assistant", "system", "developer")  # a tuple, for what is asked for may be of any type


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _once(pairs: List[Tuple[str, Any]]) -> JSON:
    """A JSON object, none of whose keys stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigurationError(f"the key {core._shown(twice)} stands twice in an object")
    return found


_scan = json.JSONDecoder(parse_constant=_refuse_constant).scan_once  # type: ignore[attr-defined]
_scan_strictly = json.JSONDecoder(  # type: ignore[attr-defined]
    parse_constant=_refuse_constant, object_pairs_hook=_once).scan_once


def _object(line: bytes) -> JSON:
    """The JSON object that a line is."""
    try:
        text = line.decode()
        value, end = _scan(text, 0)
        if type(value) is dict and line.count(b'":') != _keys(value):  # a key stands twice, or elsewhere
            _scan_strictly(text, 0)
    except UnicodeDecodeError as error:
        hint = "unpack the file first" if line[:2] == b"\x1f\x8b" else "write the file in UTF-8"
        raise ConfigurationError(f"byte {error.start + 1} is not UTF-8", hint=hint) from None
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"broken JSON: {error.msg} at column {error.colno}", hint=_A_LINE) from None
    except StopIteration:  # of scan_once
        raise ConfigurationError("broken JSON: no value at column 1", hint=_A_LINE) from None
    except RecursionError:
        raise ConfigurationError("broken JSON: nested too deep") from None
    except ConfigurationError:
        raise
    except ValueError as error:  # NaN, a number of too many digits
        raise ConfigurationError(f"broken JSON: {error}") from None
    if end < len(text):
        raise ConfigurationError(f"broken JSON: something follows at column {end + 1}", hint=_A_LINE)
    if type(value) is not dict:
        raise ConfigurationError(f"a JSON {core._SCALARS.get(type(value), 'array')} is no prompt", hint=_SHAPES)
    return value


def _keys(line: JSON) -> int:
    """How many keys most lines have that have these: two each message has."""
    count, body = len(line), line.get("body")
    if type(body) is dict:
        count, line = count + len(body), body
    messages = line.get("messages")
    return count + 2 * len(messages) if type(messages) is list else count


def _asked(line: bytes, number: int, check: _Check) -> Tuple[str, JSON]:
    """The id of a line, and the arguments of `chat` that it stands for."""
    given = _object(line)
    name = "custom_id" if "custom_id" in given else "id"
    custom_id = given.pop(name, None)
    if custom_id is None:
        custom_id = f"line-{number}"
    elif type(custom_id) is int:
        custom_id = str(custom_id)
    elif type(custom_id) is not str or not custom_id:
        raise ConfigurationError(f'"{name}" is {core._shown(custom_id)}', hint="give text, or a whole number")
    is_plain = not ("body" in given or "url" in given or "method" in given)
    asked = _plain_shape(given) if is_plain else _batch_shape(given)
    return custom_id, check.arguments(asked)


class _Moulds:
    """Knows lines that differ from one found good in nothing but their id and their texts: they are good too.

    That takes a third of the time of looking at each, which is done in any case when it is sent.
    """

    def __init__(self) -> None:
        self._matches: List[Callable[[bytes], Any]] = []
        self._missed = 0

    def read(self, line: bytes, number: int) -> Optional[str]:
        """The id of a line, or None for one that must be looked at."""
        for match in self._matches:
            found = match(line)
            if found is not None:
                with contextlib.suppress(UnicodeDecodeError):
                    line.decode()
                    return found[1].decode() if found.re.groups else f"line-{number}"
        return None

    def learn(self, line: bytes, number: int, custom_id: str) -> None:
        """Make a mould of a line that was found good, unless there are enough, or it is not plain where its id is."""
        self._missed += 1
        if self._missed == _MISSES:  # its lines are all different
            self._matches.clear()
        if self._missed > _MOULDS or len(line) > _MOULDED:
            return
        pieces, ids, at = [], [], 0
        for token in re.finditer(_TOKEN, line):
            kind = token.lastgroup
            if kind is not None:
                pieces += [re.escape(line[at:token.start(kind)]), _ID if kind == "id" else _TEXT]
                at = token.end(kind)
                ids += [token[kind]] if kind == "id" else []
        given = line.count(b'"id"') + line.count(b'"custom_id"')
        known = [] if custom_id == f"line-{number}" else [custom_id.encode("utf-8", "replace")]
        if ids == known and given == len(known):
            self._matches.append(re.compile(b"".join(pieces) + re.escape(line[at:])).fullmatch)


_MOULDS, _MOULDED, _MISSES = 4, 1 << 14, 10_000  # moulds, bytes of a line, lines that fit none
_TEXT = rb'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*"'
_ID = rb'([^"\\\x00-\x1f]+)'  # without its quotes
_TOKEN = rb'"(?:custom_id|id)"\s*:\s*"(?P<id>%b)"|"(?:content|prompt)"\s*:\s*(?P<text>%b)|%b' % (
    _ID[1:-1], _TEXT, _TEXT)


def _plain_shape(given: JSON) -> JSON:
    """{"prompt"} or {"messages"} with arguments of `chat` beside."""
    if not given.keys() <= _PLAIN:
        name = next(name for name in given if name not in _PLAIN)
        known = "prompt" in given or "messages" in given
        raise ConfigurationError(f"unknown field {core._shown(name)}", hint=_EXTRA if known else _SHAPES)
    if "prompt" not in given and "messages" not in given:
        raise ConfigurationError("no prompt", hint=_SHAPES)
    if "prompt" in given:
        if "messages" in given:
            raise ConfigurationError('both "prompt" and "messages"', hint="give one")
        if type(given["prompt"]) is not str:
            raise ConfigurationError(f'"prompt" is {core._shown(given["prompt"])}', hint="give text")
        given["messages"] = given.pop("prompt")
    return given


def _batch_shape(given: JSON) -> JSON:
    """A line of OpenAI's Batch API: the body is what goes over the wire."""
    if not given.keys() <= _BATCH:
        name = next(name for name in given if name not in _BATCH)
        raise ConfigurationError(f"unknown field {core._shown(name)} beside the body", hint="put it into the body")
    url, method, body = given.get("url", _URL), given.get("method", "POST"), given.get("body")
    if not isinstance(url, str) or not url.endswith("/chat/completions") or method != "POST":
        what = f"{core._shown(method)} {core._shown(url)}"
        raise ConfigurationError(f"{what} cannot be asked here", hint=f"POST {_URL} can")
    if type(body) is not dict or "messages" not in body:
        raise ConfigurationError('"body" is no object with "messages"', hint=_SHAPES)
    if not body.keys() <= _SAME:
        body = _arguments(body)
    return body


_URL = "/v1/chat/completions"


def _arguments(body: JSON) -> JSON:
    """The arguments of `chat` that a body of OpenAI's chat completions stands for; what has none goes as it is."""
    if body.pop("stream", None):
        raise ConfigurationError("a batch does not stream", hint='leave "stream" out')
    extra = {name: value for name, value in body.items() if name not in _SAME}
    asked = {name: value for name, value in body.items() if name in _SAME}
    if "max_completion_tokens" in extra:
        if asked.get("max_tokens") is not None:
            raise ConfigurationError('both "max_tokens" and "max_completion_tokens"', hint="give one")
        asked["max_tokens"] = extra.pop("max_completion_tokens")
    if "logprobs" in extra:
        weights = extra.pop("top_logprobs", None) if extra["logprobs"] else None
        asked["logprobs"] = weights or extra.pop("logprobs")
        extra.pop("logprobs", None)
    format_ = extra.get("response_format")
    if isinstance(format_, dict) and format_.get("type") in _FORMATS:
        asked["schema"] = _FORMATS[format_["type"]](extra.pop("response_format"))
    if extra:
        asked["extra"] = extra
    return asked  # also None, which is as good as any to win over an option for all lines


def _schema_of(format_: JSON) -> Any:
    given = core._dict(format_.get("json_schema"))
    if not isinstance(given.get("schema"), dict):
        raise ConfigurationError('"response_format" has no schema')
    return core._GivenSchema(given)


_FORMATS: Dict[str, Callable[[JSON], Any]] = {
    "text": lambda _: None, "json_object": lambda _: dict, "json_schema": _schema_of}

# ------------------------------------------------------------------------------------------------------------------ ids


class Ids:
    """Which ids a file has, in its order, and which of them are to be skipped.

    Held are 8 bytes of an id; of the few that have them in common, the ids themselves.
    """

    def __init__(self, hashed: Callable[[str], int] = hash) -> None:
        self.hashes: array[int] = array("q")
        self.hashed: Callable[[str], int] = hashed
        self.skipped: bytearray = bytearray()  # by place in the file; none at all before `skip`

    def add(self, custom_id: str) -> None:
        """Take the next line's id."""
        self.hashes.append(self.hashed(custom_id))

    def shared(self) -> Set[int]:
        """The hashes that several have, all being there."""
        found: Set[int] = set()
        for part in _parts(self.hashes):
            if len(set(part)) < len(part):
                found |= _several(part)
        return found

    def tell_apart(self, ids: Dict[str, int]) -> None:
        """Give ids that have a hash in common with another each a number of its own; `ids` are their places."""
        apart, hashed = {}, self.hashed
        for custom_id, place in ids.items():
            apart[custom_id] = self.hashes[place] = next(
                number for number in itertools.count(place) if number not in self.hashes)
        self.hashed = lambda custom_id: apart[custom_id] if custom_id in apart else hashed(custom_id)

    def stands_at(self, place: int, custom_id: str) -> bool:
        """Whether the id of this place in the file is still this one."""
        return place < len(self.hashes) and self.hashes[place] == self.hashed(custom_id)

    def skip(self, found: array[int], again: array[int]) -> Set[int]:
        """Set `skipped` for the hashes found in an output, but for those of lines that are to go.

        Returns those of both that no id has here, and those found twice.
        """
        wrong = {one for part in _slices(again) for one in set(part).difference(self.hashes)}
        self.skipped = bytearray(len(self.hashes))
        end = 0
        for part in _slices(found):
            low = max(0, end - _SLICE)
            here = self._here(part, low, end + 2 * _SLICE)  # where the most are: answers come nearly in their order
            if here.count(1) < len(part):
                low, here = 0, self._here(part, 0, len(self.hashes))
            before = self.skipped[low:low + len(here)]
            if here.count(1) < len(part) or any(map(operator.and_, here, before)):
                wrong |= _several(part) | set(part).difference(self.hashes)
                wrong.update(itertools.compress(self.hashes[low:], map(operator.and_, here, before)))
            self.skipped[low:low + len(here)] = bytes(map(operator.or_, here, before))
            end = low + here.rfind(1) + 1
        return wrong

    def _here(self, hashes: array[int], low: int, high: int) -> bytes:
        """Which of these places have one of the hashes."""
        return bytes(map(set(hashes).__contains__, self.hashes[low:high]))


def _slices(hashes: array[int]) -> Iterator[array[int]]:
    return (hashes[at:at + _SLICE] for at in range(0, len(hashes), _SLICE))


def _parts(hashes: array[int]) -> Iterator[List[int]]:
    """All of them, the lower ones first, as many at once as memory is to hold."""
    parts = len(hashes) // _PART + 1
    edges = [-(1 << 63) + (1 << 64) * part // parts for part in range(parts + 1)]
    for low, high in zip(edges, edges[1:]):
        yield [one for one in hashes if low <= one < high]


def _several(hashes: Iterable[int]) -> Set[int]:
    """Those that stand there more than once."""
    return {one for one, times in Counter(hashes).items() if times > 1}


# --------------------------------------------------------------------------------------------------------------- output


class Output:
    """The file that answers are appended to; nobody else's while it is open.

    What is no regular file (a pipe, a device, stdout for "-") is written to, and no more.
    """

    def __init__(self, path: Path, retry_failed: bool = False) -> None:
        self.name: str = "stdout" if path == "-" else os.fspath(path)
        self.path: str = os.path.realpath(self.name)  # what a link points at is replaced, not the link
        # not of self.path: /dev/stdout and a shell's >(...) lead to pipes, which have no path that can be opened
        self.is_file: bool = path != "-" and (os.path.isfile(self.name) or not os.path.exists(self.name))
        self._retry_failed = retry_failed
        self.mask: core._Mask = core._Mask(())
        self._stack = contextlib.ExitStack()
        self._is_stdout = path == "-"
        self._tail: Optional[_Tail] = None
        self._tag: Callable[[str], int] = lambda custom_id: 0
        self._fd: int

    def __enter__(self) -> Output:
        if self._is_stdout and sys.stdout is None:
            raise ConfigurationError("there is no stdout", hint="give a file for the output")
        if self.is_file:
            self._stack.enter_context(_Lock(self.path, self.name))
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stack.__exit__(*exc)

    def check_apart(self, items: Items) -> None:
        """Raises ConfigurationError where the output is the input."""
        with contextlib.suppress(OSError):
            if self.is_file and os.path.samestat(os.fstat(items.file.fileno()), os.stat(self.path)):
                raise ConfigurationError(f"{self.name} is the input", hint="give another file for the output")

    def resume(self, items: Items) -> None:
        """Look at what an earlier run has written, mark those ids, and get ready to append."""
        if self.is_file:
            with _naming(self.name):
                found = _Found(self.name)
                with contextlib.suppress(FileNotFoundError), open(self.path, "rb") as file:
                    found.read(file, items, self._retry_failed)
                if found.failed:
                    found.rewrite(self.path)
                self._tag = items.tag
                self._tail = self._stack.enter_context(_Tail(self.path, self.name, found))
        elif not self._is_stdout:
            with _naming(self.name):
                self._fd = os.open(self.name, os.O_WRONLY | _BINARY)
                self._stack.callback(os.close, self._fd)

    def sync(self) -> None:
        """Have what was written on disk now.  Raises OSError."""
        if self._tail is not None:  # pragma: no branch: who asks for it has a file
            self._tail.sync()

    def write(self, custom_id: str, result: Result) -> None:
        """Append the line of an answer, or of an error.  Raises OSError; what is there then are whole lines."""
        line = _sealed(self.mask.of(_line(custom_id, result, self._tag(custom_id))))  # a server may echo the key
        if self._tail is not None:
            self._tail.write(line)
        elif self._is_stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        else:
            with _naming(self.name):
                _write_all(self._fd, line)


class _Found:
    """What an output holds at the start of a run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = 0  # bytes that are whole lines, or one at the end that lacks its line end only
        self.open = False  # whether the last line lacks it
        self.has_any = False  # whether there is a whole line, so that it is the output of a batch
        self.failed = array("q")  # numbers of the lines that are to go
        self._hashes, self._again = array("q"), array("q")  # of the ids; of those whose lines are to go

    def read(self, file: BinaryIO, items: Items, retry_failed: bool) -> None:
        """Go through an earlier run's lines, all of them before anything is changed."""
        for number, line in enumerate(iter(functools.partial(file.readline, _LONGEST), b""), 1):
            said, self.open = _said(line), line[-1:] != b"\n"
            if said is None and self.open and (self.has_any or _is_torn(line)):
                self.open = False
                break
            self.size += len(line)
            if said is None and not line.strip():
                continue
            self.has_any = True
            if said is None:
                is_ours = number > 1 or line[:len(_START)] == _START
                raise self._error(number, "is no line of a batch's output", _DAMAGED if is_ours else _OTHER)
            self._take(number, said, items, retry_failed)
        wrong = items.ids.skip(self._hashes, self._again)
        if wrong:
            raise next(self._wrong(file, items, wrong))

    def _take(self, number: int, said: Tuple[str, int, int], items: Items, retry_failed: bool) -> None:
        custom_id, state, tag = said
        hashed = items.ids.hashed(custom_id)
        if state == _FAILED and retry_failed:
            self.failed.append(number)
            self._again.append(hashed)
            return
        self._hashes.append(hashed)
        items.done += state == _DONE
        items.failed += state == _FAILED
        if state == _DONE and tag and items.tag(custom_id) not in (0, tag):
            raise self._error(number, f"has the id {core._shown(custom_id)}, which is another prompt in {items.name}")

    def _wrong(self, file: BinaryIO, items: Items, wrong: Set[int]) -> Iterator[ConfigurationError]:
        """An error for each line that has an id which is not to be there."""
        once = wrong.intersection(items.ids.hashes)  # those that may stand there, once
        file.seek(0)
        for number, line in enumerate(iter(functools.partial(file.readline, _LONGEST), b""), 1):  # pragma: no branch
            said = _said(line)
            hashed = items.ids.hashed(said[0]) if said else None
            if said and hashed in wrong and hashed not in once:
                what = "stands there a second time" if hashed in items.ids.hashes else f"is not in {items.name}"
                yield self._error(number, f"has the id {core._shown(said[0])}, which {what}")
            once.discard(hashed)

    def _error(self, number: int, what: str, hint: str = "") -> ConfigurationError:
        return ConfigurationError(f"{self.name}, line {number} {what}", hint=hint or _OTHER)

    def rewrite(self, path: str) -> None:
        """Have the file be what it is without its failed lines, at one stroke."""
        failed, left = iter(self.failed), self.size
        next_failed, self.size, self.open = next(failed), 0, False
        with _replaced(path, "llmlite") as new, open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                left -= len(line)
                if left < 0:  # torn
                    break
                if number == next_failed:
                    next_failed = next(failed, 0)
                else:
                    self.size += new.write(line)
                    self.open = line[-1:] != b"\n"


_OTHER = "give another -o, or the input that it was made from"
_DAMAGED = "it may be damaged: without it, it is asked again"


def _said(line: bytes) -> Optional[Tuple[str, int, int]]:
    """The id of an output's line, whether it is good, and its tag or 0; None for what is no such line."""
    head = _HEAD(line)
    if head and line[-len(_GOOD_END):] == _GOOD_END and b"%08x" % zlib.crc32(line[head.end():-1]) == head[2]:
        return head[3].decode(), _DONE, int(head[1] or b"0", 16)  # as we wrote it to the bit, told without decoding it
    try:
        text = line.decode().strip()
        value, end = (_scan_anything if line.count(b'"custom_id"') == 1 else _scan_strictly)(text, 0)
    except (ValueError, RecursionError, StopIteration):
        return None
    if end < len(text) or type(value) is not dict or not {"response", "error"} <= value.keys() or (
            type(value.get("custom_id")) is not str):
        return None
    done = value["error"] is None and core._dict(value["response"]).get("status_code") in _GOOD_STATUS
    ours = _OUR_ID(str(value.get("id")).encode("utf-8", "replace"))
    tag, seal = ours.groups() if ours else (None, None)
    if done and seal and line[:len(_START)] == _START and seal != _seal(json.dumps(value).encode()):
        return None  # and that is not for other letters than ASCII
    return value["custom_id"], _DONE if done else _FAILED, int(tag or b"0", 16)


def _sealed(line: str) -> bytes:
    """A line as it is written: at the end of its "id" stands a checksum of what follows the custom id."""
    data = line.encode("ascii")
    at = data.index(b'"', len(_START))
    return b"%b-%b%b" % (data[:at], _seal(data), data[at:])


def _seal(line: bytes) -> bytes:
    return b"%08x" % zlib.crc32(line.partition(b'", "response": ')[2].rstrip(b"\n"))


_ID_AND_TAG = rb"batch_req_(?:[0-9a-f]{16}-([0-9a-f]{8})|[0-9a-f]{24})"
_OUR_ID = re.compile(rb"%b(?:-([0-9a-f]{8}))?" % _ID_AND_TAG).fullmatch
_HEAD = re.compile(rb'\{"id": "%b-([0-9a-f]{8})", "custom_id": "([ !#-\[\]-~]+)", "response": '
                   rb'(?=\{"status_code": 200, )' % _ID_AND_TAG).match
_GOOD_END = b'}}, "error": null}\n'
_GOOD_STATUS = range(200, 300)
_scan_anything = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # NaN, too


def _is_torn(line: bytes) -> bool:
    """Whether these bytes, which are no JSON, begin as our lines do: they may be anybody's text without a line end."""
    line = line.rstrip(b"\0")  # what some file systems leave when the power fails
    return line[:len(_START)] == _START[:len(line)]


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """An OSError that says which file it is about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None


@contextlib.contextmanager
def _replaced(path: str, tag: str) -> Iterator[IO[bytes]]:
    """A new file that takes another's place at the end, whole and synced; if it comes to that."""
    new = f"{path}.{tag}.tmp"
    try:
        with open(new, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.chmod(new, stat.S_IMODE(os.stat(path).st_mode))
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(new)
        raise
    _sync_folder(path)


def _sync_folder(path: str) -> None:
    """Have it last under which name a file stands, where the system can be told so."""
    with contextlib.suppress(OSError):  # Windows opens no folder
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write_all(fd: int, line: bytes) -> None:
    """One write; more only where it has no room at once."""
    written = os.write(fd, line)
    while written < len(line):
        written += os.write(fd, line[written:])


class _Tail:
    """The end of a file, where whole lines are appended; each is on disk a second later."""

    def __init__(self, path: str, name: str, found: _Found) -> None:
        self.name, self.size = name, found.size
        self.fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | _BINARY, 0o666)
        self._unsynced, self._ending = threading.Event(), threading.Event()
        self._trouble: Optional[OSError] = None
        try:
            os.ftruncate(self.fd, self.size)
            if found.open:
                self._append(b"\n")
            _sync_folder(path)
        except OSError:
            os.close(self.fd)
            raise

    def __enter__(self) -> _Tail:
        self._syncer = threading.Thread(target=self._sync, name="llmlite batch sync", daemon=True)
        self._syncer.start()
        return self

    def __exit__(self, kind: Any, *exc: object) -> None:
        self._ending.set()
        self._unsynced.set()
        self._syncer.join()
        os.close(self.fd)
        if kind is None:
            self._raise_trouble()

    def write(self, line: bytes) -> None:
        with _naming(self.name):
            self._raise_trouble()
            self._append(line)
        self._unsynced.set()

    def sync(self) -> None:
        with _naming(self.name):
            self._raise_trouble()
            os.fsync(self.fd)

    def _append(self, line: bytes) -> None:
        """Of a line that has no room nothing stays."""
        try:
            _write_all(self.fd, line)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, self.size)
            raise
        self.size += len(line)

    def _raise_trouble(self) -> None:
        if self._trouble is not None:
            raise OSError(self._trouble.errno, self._trouble.strerror, self.name)

    def _sync(self) -> None:
        """A thread's, that ends with the run: also the line before a long silence is to be synced."""
        ending = False
        while not ending:
            self._unsynced.wait()
            ending = self._ending.wait(_SYNC)
            self._unsynced.clear()
            try:
                os.fsync(self.fd)
                if not os.fstat(self.fd).st_nlink:  # what is written goes nowhere
                    raise FileNotFoundError(errno.ENOENT, "removed, or replaced, while it was written to")
            except OSError as error:
                self._trouble = error
                return


# ------------------------------------------------------------------------------------------------------------ lines out

_START = b'{"id": "batch_req_'
_FINISHES = frozenset(("stop", "length", "tool_calls", "content_filter", "function_call"))


def _line(custom_id: str, result: Result, tag: int = 0) -> str:
    """An output's line: ASCII, so that it is read alike in whatever encoding."""
    failed = isinstance(result, LLMError)
    end = f"-{tag:08x}" if tag else os.urandom(4).hex()
    said = {"id": f"batch_req_{os.urandom(8).hex()}{end}", "custom_id": custom_id,
            "response": _refusal(result) if isinstance(result, LLMError) else _answer(result),
            "error": {"code": type(result).__name__, "message": str(result)} if failed else None}
    try:
        text = json.dumps(said, default=_written, allow_nan=False)
    except ValueError:  # NaN is no JSON, though some servers send it
        text = json.dumps(json.loads(json.dumps(said, default=_written), parse_constant=lambda name: None))
    return text + "\n"


def _written(value: Any) -> str:
    """What is no JSON: the body of an answer that was none is bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _answer(reply: Response) -> JSON:
    return {"status_code": 200, "request_id": reply.request_id, "body": _completion(reply)}


def _refusal(error: Any) -> Optional[JSON]:
    """What the provider had said of a call that failed, if anything."""
    if error.response is not None:
        return _answer(error.response)
    status = getattr(error, "status_code", 0)
    return {"status_code": status, "request_id": error.request_id, "body": error.body} if status else None


def _completion(reply: Response) -> JSON:
    """A reply as OpenAI's chat.completion; what a provider that speaks so had said besides stays there."""
    raw = core._dict(reply.raw)
    choices = core._list(raw.get("choices"))
    raw = raw if choices else {}
    first = core._first_choice(choices)
    usage = reply.usage
    counts = {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens,
              "total_tokens": usage.total_tokens}
    details = {"prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
               "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens}}
    return {"id": reply.id, "object": "chat.completion", "created": int(time.time()), "model": reply.model,
            **({"citations": reply.citations} if reply.citations else {}), **raw,
            "choices": [_choice(reply, first), *(choice for choice in choices if choice is not first)],
            "usage": {**details, **core._dict(raw.get("usage")), **counts}}


def _choice(reply: Response, raw: JSON) -> JSON:
    said = core._dict(raw.get("message"))
    message: JSON = {**reply.message, **said}
    if not isinstance(message.get("content"), (str, core._NONE)):  # parts
        message["content"] = reply.text
    if reply.reasoning and not said:
        message["reasoning_content"] = reply.reasoning
    if reply.files and not said:
        message["images"] = [{"type": "image_url", "image_url": {"url": core._data_uri(*file)}} for file in reply.files]
    finish = raw.get("finish_reason")
    finish = finish if isinstance(finish, str) and finish in _FINISHES else reply.finish_reason
    weights = {"logprobs": {"content": list(map(_weight, reply.logprobs))}} if reply.logprobs else {}
    return {"index": 0, **weights, **raw, "message": message, "finish_reason": finish}


def _weight(token: core.Logprob) -> JSON:
    return {"token": token.token, "logprob": token.logprob, "top_logprobs": [
        {"token": other.token, "logprob": other.logprob} for other in token.top]}


# ----------------------------------------------------------------------------------------------------------------- lock


class _Lock:
    """Held by one run an output, and gone with its process: a lock of a file beside it, for the output is replaced."""

    def __init__(self, path: str, name: str) -> None:
        self.path, self.name = path + ".lock", name
        self.fd: Optional[int] = None

    def __enter__(self) -> _Lock:
        while self.fd is None:
            with _naming(self.name):
                self.fd = self._taken()
        if hasattr(os, "register_at_fork"):  # pragma: no branch: not on Windows
            os.register_at_fork(after_in_child=functools.partial(_forget, weakref.ref(self)))
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):  # Windows removes no open file
            os.remove(self.path)
        self.close()
        if sys.platform == "win32":  # pragma: no cover: Windows
            with contextlib.suppress(OSError):  # another run has it by now
                os.remove(self.path)

    def _taken(self) -> Optional[int]:
        """The file, locked; None if its last owner has removed it meanwhile."""
        fd, mine = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), False
        try:
            if not _lock(fd):
                raise ConfigurationError(f"{self.name} is in use", hint="another run is writing to it")
            mine = self._is_current(fd)
        finally:
            if not mine:
                os.close(fd)
        return fd if mine else None

    def _is_current(self, fd: int) -> bool:
        """Whether the file is still the one of that name: its last owner removes it."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        return False

    def close(self) -> None:
        fd, self.fd = self.fd, None
        if fd is not None:  # pragma: no branch: a forked child closes what is open
            os.close(fd)


def _forget(lock: Callable[[], Optional[_Lock]]) -> None:  # pragma: no cover: in forked children
    """A child must not hold on to what its parent locked: it may outlive it."""
    held = lock()
    if held is not None:
        held.close()


if sys.platform == "win32":  # pragma: no cover: Windows
    def _lock(fd: int) -> bool:
        """Whether the file is now ours."""
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    def _lock(fd: int) -> bool:
        """Whether the file is now ours."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


# ------------------------------------------------------------------------------------------------------------- stopping


class _Dropped(KeyboardInterrupt):
    """The second signal."""


class Stop:
    """Whether to send no more, and why; within it the first SIGINT or SIGTERM does not end the process.

    `why` is None, "interrupted" or "budget", `signal` the number of the first signal, or 0.
    """

    def __init__(self, notice: Callable[[], None] = lambda: None) -> None:
        self.why: Optional[str] = None
        self.signal: int = 0
        self._notice = notice  # called within the handler of the first signal
        self._dropped = self._listening = self._waiting = False
        self._stop: Callable[[], Any] = lambda: None  # sending
        self._before: Dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell's background jobs have it
                    self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def listening(self, results: Iterator[Any], first: Callable[[], Any]) -> Iterator[Any]:
        """The results, until a second signal comes while the next one is waited for; `first` is called at the first."""
        self._stop, self._listening = first, True
        with contextlib.suppress(_Dropped):
            while True:
                self._waiting = True
                if self._dropped:
                    return
                try:
                    result = next(results)
                except StopIteration:
                    return
                finally:
                    self._waiting = False
                yield result

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Something that looks at `why` itself; a second signal ends it at once."""
        self._listening = self._waiting = True
        with contextlib.suppress(_Dropped):
            try:
                yield
            finally:
                self._waiting = False

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """A part of it that a second signal does not break."""
        self._waiting = False
        yield
        self._waiting = True
        if self._dropped:
            raise _Dropped

    def _heard(self, number: int, frame: Optional[FrameType]) -> None:
        first = not self.signal
        self.signal, self.why = self.signal or number, "interrupted"
        if not self._listening or not first:
            self._dropped = True
        else:
            self._stop()
            self._notice()
        if not self._listening or self._dropped and self._waiting:
            raise _Dropped
