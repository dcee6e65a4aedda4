"""The page behind `llmlite batch --report`: what many calls did, as one HTML file that loads nothing and runs nothing.

    >>> report = Report("prompts.jsonl")
    >>> report.add("line-1", ended=1782900000.0, elapsed=1.5, attempts=1, model="gpt-5-mini", input_tokens=9,
    ...            output_tokens=120)
    >>> page = report.html({"total": 1, "done": 1, "failed": 0})

Of a million calls as much is kept as of a thousand: counts in bins, the slowest, the first and last failures.  Its
sections, top-down:

    report    Report: counts each call, writes the page
    counts    what is kept: a timeline, histograms, failures by class, models
    page      the page's parts, each a small function from counts to markup
    charts    bars on axes, as SVG
    ticks     where an axis has its marks
    words     numbers and times for people
    markup    elements; the one place where texts are escaped
"""
from __future__ import annotations

import bisect
import datetime
import heapq
import html
import itertools
import math
import threading
from collections import Counter, defaultdict, deque
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Sequence, Tuple, Union

_Cell = Union[str, int]
_Row = Sequence[_Cell]

_MAX_ID = 80  # characters shown of a call's id
_MAX_NAME = 60  # of a model or an error's class
_MAX_MESSAGE = 300  # of an error's message, and of any other text
_MAX_TOTALS = 24  # rows of the caller's
_MAX_KINDS = 12  # models, and error classes, counted by name: the rest are "other"
_MAX_KEPT = 12  # failures kept of a class: so many of the first, and so many of the last
_MAX_FAILURES = 36  # of the first, and as many of the last, shown over all classes
_MAX_SLOWEST = 20
_SHORT = 24  # characters that stay on one line in a table
_MAX_ATTEMPTS = 10  # counted one by one: calls that took more are counted together
_MAX_BUCKETS = 128  # of the timeline: one bar each
_MAX_BARS = 40  # of a histogram
_MIN_BARS = 12  # that a histogram has room for: a single bar must not fill it
_NARROWEST = 1 / 16  # seconds: a power of two, so that floats divide by it exactly
_PARTS = 16  # bins between a number and its double: the middle of one is right to 2.2 %
_LEAST = 1e-6  # what a histogram holds: a microsecond
_MOST = 1e9  # seconds of a call, or tokens
_LATEST = 1e11  # Unix time, in the year 5138: what calendars can show
_OTHER = "other"

# ---------------------------------------------------------------------------------------------------------------------
# report
# ---------------------------------------------------------------------------------------------------------------------


class Report:
    """Counts calls as they end, in bounded memory, and writes a page of them, headed `title`; threads may share it.

    >>> report = Report("prompts.jsonl")
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._lock = threading.Lock()
        self._count = 0
        self._timeline = _Timeline()
        self._done, self._failed = _Histogram(), _Histogram()  # of seconds
        self._input, self._output = _Histogram(), _Histogram()  # of tokens
        self._attempts: Counter[int] = Counter()
        self._models: Dict[str, _Model] = defaultdict(_Model)
        self._errors: Dict[str, _Failures] = defaultdict(_Failures)
        self._slowest: List[Tuple[float, int, _Call]] = []  # a heap, the quickest of them first

    def add(self, id: str, *, ended: float, elapsed: float, attempts: int, model: str, input_tokens: int,
            output_tokens: int, code: str = "", message: str = "") -> None:  # fmt: skip
        """Count a call that ended at `ended` (Unix time) after `elapsed` seconds; raises nothing.

        `code` is the error's class name ("": a good call), `message` its one line.  Numbers that cannot be (NaN, below
        zero) count as zero, and a call that ended at no usable time is left out of the timeline: the page says so.
        """
        if not 0 <= elapsed <= _MOST:
            elapsed = 0.0
        if not 0 <= input_tokens <= _MOST:
            input_tokens = 0
        if not 0 <= output_tokens <= _MOST:
            output_tokens = 0
        failed = bool(code)
        with self._lock:
            self._count += 1
            self._timeline.add(ended, elapsed, failed)
            (self._failed if failed else self._done).add(elapsed)
            self._input.add(input_tokens)
            self._output.add(output_tokens)
            self._attempts[min(max(attempts, 0), _MAX_ATTEMPTS)] += 1
            self._models[_kind(self._models, model)].add(input_tokens, output_tokens, failed)
            if failed or len(self._slowest) < _MAX_SLOWEST or elapsed > self._slowest[0][0]:
                self._keep(_call(id, ended, elapsed, attempts, model, code, message))

    def _keep(self, call: _Call) -> None:
        if call.code:
            self._errors[_kind(self._errors, call.code)].add(call)
        put = heapq.heappush if len(self._slowest) < _MAX_SLOWEST else heapq.heappushpop
        put(self._slowest, (call.elapsed, -self._count, call))  # of equals the first stay

    def html(self, totals: Mapping[str, Any]) -> str:
        """The page, to be written as UTF-8: `totals`, names and values as they stand, and all that was added.

        >>> page = Report("prompts.jsonl").html({"total": 2000, "done": 1990, "failed": 10, "stopped": None})
        """
        with self._lock:
            errors = sorted(self._errors.items(), key=lambda item: -item[1].count)
            parts = [
                _heading(self._title, self._count, self._timeline), _totals(totals),
                _over_time(self._timeline), _latency(self._done, self._failed), _tokens(self._input, self._output),
                _attempts_and_models(self._attempts, self._models, self._count), _error_classes(errors, self._count),
                _slowest_calls(self._slowest), _failed_calls(errors)]  # fmt: skip
        return _HEAD.format(title=_escape(self._title), style=_STYLE) + "\n".join(filter(None, parts)) + _FOOT


# ---------------------------------------------------------------------------------------------------------------------
# counts
# ---------------------------------------------------------------------------------------------------------------------


class _Timeline:
    """Calls done and failed a bucket of time; when a run has too many buckets, all double in width."""

    def __init__(self) -> None:
        self.width = _NARROWEST
        self.done: Counter[int] = Counter()
        self.failed: Counter[int] = Counter()
        self.outside = 0
        self.began, self.ended = math.inf, -math.inf  # when the first call began, when the last one ended
        self._full = -math.inf  # a call that ends then or later needs another width

    def add(self, ended: float, elapsed: float, failed: bool) -> None:
        if not 0 <= ended <= _LATEST:  # NaN too
            self.outside += 1
            return
        if ended > self.ended:
            self.ended = ended
        if ended - elapsed < self.began or ended >= self._full:
            self._reach(ended - elapsed)
        (self.failed if failed else self.done)[int(ended / self.width)] += 1

    def _reach(self, began: float) -> None:
        self.began = min(self.began, began)
        while self.bucket(self.ended) - self.bucket(self.began) >= _MAX_BUCKETS:
            self.width *= 2
            self.done, self.failed = _merged(self.done, 1), _merged(self.failed, 1)
        self._full = (self.bucket(self.began) + _MAX_BUCKETS) * self.width

    @property
    def known(self) -> bool:
        """Whether it holds any call."""
        return bool(self.done or self.failed)

    def bucket(self, moment: float) -> int:
        return math.floor(moment / self.width)


class _Histogram:
    """Numbers counted in bins, each a little wider than the one before; those too small are `none`."""

    def __init__(self) -> None:
        self.bins: Counter[int] = Counter()
        self.none = 0
        self.largest = 0.0

    def add(self, value: float) -> None:
        if value < _LEAST:
            self.none += 1
            return
        if value > self.largest:
            self.largest = value
        self.bins[math.floor(math.log2(value) * _PARTS)] += 1

    @property
    def count(self) -> int:
        return sum(self.bins.values())

    def quantile(self, share: float) -> float:
        """The middle of the bin in which lies the smallest number that at least this share do not exceed."""
        numbers = sorted(self.bins)
        seen = list(itertools.accumulate(self.bins[number] for number in numbers))
        return min(_edge(numbers[bisect.bisect_left(seen, share * self.count)] + 0.5), self.largest)


def _edge(number: float) -> float:
    """Where a bin begins: bin 0 at 1, bin 16 at 2, bin 32 at 4."""
    return math.pow(2, number / _PARTS)


def _merged(counts: Counter[int], times: int) -> Counter[int]:
    """The counts of bins 2**times as wide."""
    merged: Counter[int] = Counter()
    for number, count in counts.items():
        merged[number >> times] += count
    return merged


class _Model:
    """What one model was asked."""

    def __init__(self) -> None:
        self.calls = self.failed = self.input = self.output = 0

    def add(self, input_tokens: int, output_tokens: int, failed: bool) -> None:
        self.calls += 1
        self.failed += failed
        self.input += input_tokens
        self.output += output_tokens


class _Failures:
    """The failures of one class: how many, the first and the last of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: List[_Call] = []
        self.last: Deque[_Call] = deque(maxlen=_MAX_KEPT)

    def add(self, call: _Call) -> None:
        self.count += 1
        (self.first if len(self.first) < _MAX_KEPT else self.last).append(call)

    def ends(self, most: int) -> Tuple[List[_Call], List[_Call]]:
        """At most so many of the first, and so many of the last that come after these."""
        kept = [*self.first, *self.last]
        return kept[:most], kept[most:][-most:]


class _Call(NamedTuple):
    id: str
    ended: float
    elapsed: float
    attempts: int
    model: str
    code: str
    message: str


def _call(id: str, ended: float, elapsed: float, attempts: int, model: str, code: str, message: str) -> _Call:
    """A call to keep, its texts cut."""
    return _Call(_visible(id, _MAX_ID), ended, elapsed, attempts, _visible(model, _MAX_NAME), _visible(code, _MAX_NAME),
                 _visible(message, _MAX_MESSAGE))  # fmt: skip


def _kind(table: Mapping[str, Any], name: str) -> str:
    """The name under which something is counted: its own as long as there are few."""
    name = name[:_MAX_NAME]
    return name if name in table or len(table) < _MAX_KINDS else _OTHER


# ---------------------------------------------------------------------------------------------------------------------
# page
# ---------------------------------------------------------------------------------------------------------------------

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
"""
_FOOT = """
</main>
</body>
</html>
"""
_STYLE = """:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1d2126; --soft: #5b6470; --line: #d9dde2; --grid: #e8ebee; --done: #3a76b0; --failed: #d0452f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e3e6ea; --soft: #98a2ae; --line: #343b44; --grid: #262c33; --done: #6ba5dc;
    --failed: #f2795f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Helvetica, sans-serif;
}
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.5rem 3rem; }
h1 { margin: 0; font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.25rem 0 .5rem; font-size: 1.1rem; }
p { margin: .35rem 0 .5rem; color: var(--soft); font-size: .9rem; }
dl { display: flex; flex-wrap: wrap; gap: .75rem 2.25rem; margin: 1.25rem 0 0; }
dt { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
dd { margin: 0; font-size: 1.25rem; line-height: 1.3; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
figure { margin: 0; }
figcaption { margin-bottom: .25rem; font-size: .9rem; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, "Segoe UI", Helvetica, sans-serif; }
svg text { fill: var(--soft); font-variant-numeric: tabular-nums; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.grid { stroke: var(--grid); }
.axis { stroke: var(--soft); }
.done { fill: var(--done); background: var(--done); }
.failed { fill: var(--failed); background: var(--failed); }
.key { display: inline-block; width: .7em; height: .7em; margin: 0 .35em 0 1em; }
.key:first-child { margin-left: 0; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 0 2rem; }
.beside > * { min-width: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; line-height: 1.4; }
th, td {
  padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--grid); text-align: left; vertical-align: top;
  overflow-wrap: anywhere;
}
th { border-color: var(--line); color: var(--soft); font-weight: 500; white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
td { min-width: 6rem; }
.short, .number { min-width: 0; white-space: nowrap; font-variant-numeric: tabular-nums; }
.number { text-align: right; }
.more { color: var(--soft); font-style: italic; }
@media print {
  main { max-width: none; padding: 0; }
  body { font-size: 10pt; }
  table { font-size: 8pt; }
  .beside { grid-template-columns: 1fr 1fr; }
  h2 { break-after: avoid; }
  figure, tr, dl { break-inside: avoid; }
  rect { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .wide { overflow: visible; }
}
"""


def _heading(title: str, count: int, timeline: _Timeline) -> _Markup:
    if not count:
        told = "No call ended."
    elif not timeline.known:
        told = f"{_calls(count)} ended, at times unknown."
    else:
        told = (f"{_calls(count)} ended in {_span(timeline.ended - timeline.began)}, "
                f"from {_utc(timeline.began)} to {_utc(timeline.ended)} UTC.")  # fmt: skip
    return _element("header", _element("h1", title), _element("p", told))


def _totals(totals: Mapping[str, Any]) -> _Markup:
    """The caller's numbers, as they stand."""
    pairs = ((_visible(str(name), _MAX_NAME), _visible(_total(value), _MAX_ID)) for name, value in totals.items())
    terms = (_element("div", _element("dt", name), _element("dd", value)) for name, value in pairs)
    return _element("dl", *itertools.islice(terms, _MAX_TOTALS)) if totals else _Markup()


def _over_time(timeline: _Timeline) -> _Markup:
    outside = f"{_calls(timeline.outside)} at times unknown, left out." if timeline.outside else ""
    chart = _timeline_chart(timeline) if timeline.known else ""
    return _section("Calls over time", chart, outside and _element("p", outside))


def _latency(done: _Histogram, failed: _Histogram) -> _Markup:
    both = [(name, seconds) for name, seconds in (("done", done), ("failed", failed)) if seconds.bins]
    if not both:
        return _Markup()
    rows: List[_Row] = [(name, seconds.count, *_quantiles(seconds, _took)) for name, seconds in both]
    none = f" {_calls(done.none + failed.none)} without a usable time left out." if done.none + failed.none else ""
    unit = _Unit("latency", _seconds, False)
    return _section(
        "Latency", _histogram_chart("latency", done, failed, unit, 960, _legend(done.count, failed.count)),
        _table(("result", "calls", *_QUANTILES), rows),
        _element("p", f"From start to end of a call, retries and waits included. {_TOLD}{none}"))  # fmt: skip


def _tokens(asked: _Histogram, answered: _Histogram) -> _Markup:
    both = [(name, tokens) for name, tokens in (("input", asked), ("output", answered)) if tokens.bins]
    if not both:
        return _Markup()
    rows: List[_Row] = [(name, tokens.count, tokens.none, *_quantiles(tokens, _whole)) for name, tokens in both]
    units = (_Unit(f"{name} tokens of a call", _ceiling, True) for name, _ in both)
    charts = [_histogram_chart(name, tokens, _Histogram(), unit, 470, _calls(tokens.count))
              for (name, tokens), unit in zip(both, units)]  # fmt: skip
    table = _table(("tokens", "calls", "calls with none", *_QUANTILES), rows)
    return _section("Tokens", _element("div", *charts, class_="beside"), table, _element("p", _TOLD))


def _quantiles(histogram: _Histogram, words: Callable[[float], str]) -> List[_Number]:
    told = [histogram.quantile(share) for share in (0.5, 0.9, 0.99)]
    return [_Number(words(value)) for value in (*told, histogram.largest)]


def _attempts_and_models(attempts: Mapping[int, int], models: Mapping[str, _Model], count: int) -> _Markup:
    tried: List[_Row] = [
        (_Number(f"{number} or more" if number == _MAX_ATTEMPTS else number), calls, _share(calls, count))
        for number, calls in sorted(attempts.items())]  # fmt: skip
    asked = [(name, model.calls, model.failed, model.input, model.output)
             for name, model in sorted(models.items(), key=lambda item: -item[1].calls)]  # fmt: skip
    sections = (_section("Attempts", _table(("attempts", "calls", "of all calls"), tried)),
                _section("Models", _table(("model", "calls", "failed", "tokens in", "tokens out"), asked)))  # fmt: skip
    return _element("div", *sections, class_="beside") if count else _Markup()


def _error_classes(errors: Sequence[Tuple[str, _Failures]], count: int) -> _Markup:
    if not errors:
        return _section("Errors", _element("p", "No call failed.") if count else "")
    rows = [(code, kept.count, _share(kept.count, count), kept.first[0].message) for code, kept in errors]
    return _section("Errors", _table(("class", "calls", "of all calls", "for example"), rows))


def _slowest_calls(slowest: Iterable[Tuple[float, int, _Call]]) -> _Markup:
    rows = [(call.id, _took(call.elapsed), _utc(call.ended), call.attempts, call.model, call.code or "done")
            for _, _, call in sorted(slowest, reverse=True)]  # fmt: skip
    return _section("Slowest calls", _table(("id", "took", "ended, UTC", "attempts", "model", "result"), rows))


def _failed_calls(errors: Sequence[Tuple[str, _Failures]]) -> _Markup:
    most = min(_MAX_KEPT, _MAX_FAILURES // max(1, len(errors)))
    rows = [row for code, kept in errors for row in _failed_rows(code, kept, most)]
    return _section("Failed calls", _table(("id", "ended, UTC", "took", "attempts", "class", "message"), rows))


def _failed_rows(code: str, kept: _Failures, most: int) -> Iterator[_Row]:
    first, last = kept.ends(most)
    left = kept.count - len(first) - len(last)
    for number, call in enumerate(first + last):
        if left and number == len(first):
            yield _element("td", f"{_whole(left)} more of {code}", colspan=6, class_="more"),
        yield call.id, _utc(call.ended), _took(call.elapsed), call.attempts, call.code, call.message


def _section(title: str, *content: str) -> _Markup:
    """A part of the page; one with nothing to show is left out."""
    shown = [part for part in content if part]
    return _element("section", _element("h2", title), *shown) if shown else _Markup()


def _table(heads: Sequence[str], rows: Sequence[_Row]) -> _Markup:
    """Rows of texts, numbers and whole cells; a column of numbers has its head on the right too."""
    if not rows:
        return _Markup()
    right = [isinstance(cell, (int, _Number)) for cell in rows[0]]
    head = (_element("th", text, scope="col", class_="number" if number else "") for text, number in zip(heads, right))
    body = (_element("tr", *map(_cell, row)) for row in rows)
    return _element("div", _element("table", _element("thead", _element("tr", *head)), _element("tbody", *body)),
                    class_="wide")  # fmt: skip


def _cell(content: _Cell) -> _Markup:
    if isinstance(content, _Markup):
        return content
    if isinstance(content, int):
        content = _Number(_whole(content))
    kind = "number" if isinstance(content, _Number) else "short" if len(content) <= _SHORT else ""
    return _element("td", content, class_=kind)


# ---------------------------------------------------------------------------------------------------------------------
# charts
# ---------------------------------------------------------------------------------------------------------------------

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 24, 44  # pixels beside the plot: room for labels
_HEIGHT = 250  # of a chart


class _Bar(NamedTuple):
    low: float
    high: float
    done: float
    failed: float
    told: str


class _Axis(NamedTuple):
    """What stands below a chart: its label, its range, its ticks."""

    label: str
    low: float
    high: float
    ticks: Sequence[Tuple[float, str]]
    width: float
    log: bool = False

    def place(self, value: float) -> float:
        """Pixels from the chart's left edge."""
        low, high, value = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return _LEFT + (value - low) / (high - low) * (self.width - _LEFT - _RIGHT)


class _Unit(NamedTuple):
    """What a histogram is of."""

    label: str
    words: Callable[[float], str]
    whole: bool  # no tick stands between its whole numbers


def _timeline_chart(timeline: _Timeline) -> _Markup:
    width, done, failed = timeline.width, timeline.done, timeline.failed
    buckets = sorted({*done, *failed})
    unit, each = _rate(max(done[bucket] + failed[bucket] for bucket in buckets) / width)
    bars = [_Bar(bucket * width, (bucket + 1) * width, done[bucket] / width * each, failed[bucket] / width * each,
                 f"from {_seconds(max(0, bucket * width - timeline.began))}: {_outcomes(done[bucket], failed[bucket])}")
            for bucket in buckets]  # fmt: skip
    axis = _time_axis(timeline.began, timeline.bucket(timeline.began) * width, (buckets[-1] + 1) * width)
    counts = sum(done.values()), sum(failed.values())
    title, told = "Calls that ended over time", f"{_outcomes(*counts)}; a bar is {_seconds(width)} wide."
    label = f"calls per {unit} (a bar is {_seconds(width)} wide)"
    return _chart("time", title, told, bars, axis, label, _legend(*counts))


def _time_axis(began: float, low: float, high: float) -> _Axis:
    name, unit = _span_unit(high - low)
    ticks = [(began + mark * unit, _plain(mark)) for mark in _marks(0, (high - began) / unit, 12)]
    return _Axis(f"{name} since the first call began, {_utc(began)} UTC", low, high, ticks, 960)


def _histogram_chart(name: str, done: _Histogram, failed: _Histogram, unit: _Unit, width: float,
                     caption: str) -> _Markup:  # fmt: skip
    first, last = min({*done.bins, *failed.bins}), max({*done.bins, *failed.bins})
    times = next(times for times in itertools.count() if (last >> times) - (first >> times) < _MAX_BARS)
    first, last, good, bad = first >> times, last >> times, _merged(done.bins, times), _merged(failed.bins, times)
    bars = [_bar(_edge(number << times), _edge((number + 1) << times), good[number], bad[number], unit)
            for number in range(first, last + 1) if number in good or number in bad]  # fmt: skip
    room = max(1, (_MIN_BARS - (last - first)) // 2)
    axis = _log_axis(_edge((first - room) << times), _edge((last + 1 + room) << times), unit, width)
    told = f"{_told(done.count, failed.count)} between {unit.words(bars[0].low)} and {unit.words(bars[-1].high)}."
    return _chart(name, f"Calls by {unit.label}", told, bars, axis, "calls", caption)


def _bar(low: float, high: float, done: int, failed: int, unit: _Unit) -> _Bar:
    return _Bar(low, high, done, failed, f"{unit.words(low)} to below {unit.words(high)}: {_told(done, failed)}")


def _log_axis(low: float, high: float, unit: _Unit, width: float) -> _Axis:
    marks = _log_marks(low, high, int(width / 60))
    ticks = [(mark, unit.words(mark)) for mark in marks if not unit.whole or mark == int(mark)]
    return _Axis(f"{unit.label}, logarithmic scale", low, high, ticks, width, log=True)


def _chart(name: str, title: str, told: str, bars: Sequence[_Bar], axis: _Axis, label: str, caption: str) -> _Markup:
    """Stacked bars on two axes, what is done below what failed."""
    top = max(bar.done + bar.failed for bar in bars)
    title_id, told_id = f"{name}-title", f"{name}-told"
    svg = _element(
        "svg", _element("title", title, id=title_id), _element("desc", told, id=told_id),
        *_rulings(top, axis, label), *(_stack(bar, top, axis) for bar in bars), *_base(axis),
        viewBox=f"0 0 {_px(axis.width)} {_HEIGHT}", role="img", aria_labelledby=f"{title_id} {told_id}")  # fmt: skip
    return _element("figure", _element("figcaption", caption), svg)


def _rulings(top: float, axis: _Axis, label: str) -> Iterator[_Markup]:
    """The vertical axis: a line across and a number for each mark."""
    yield _element("text", label, x=0, y=_TOP - 10)
    for mark in _marks(0, top, max(1, min(5, int(top)))):  # no mark between two calls
        y = _px(_level(mark, top))
        yield _element("line", x1=_LEFT, x2=_px(axis.width - _RIGHT), y1=y, y2=y, class_="grid")
        yield _element("text", _plain(mark), x=_LEFT - 8, y=_px(_level(mark, top) + 4), class_="end")


def _stack(bar: _Bar, top: float, axis: _Axis) -> _Markup:
    """The two pieces of a bar; even one call among thousands is seen."""
    x, width = axis.place(bar.low), axis.place(bar.high) - axis.place(bar.low)
    pieces, foot = [], _level(0, top)
    for value, name in ((bar.done, "done"), (bar.failed, "failed")):
        if value:
            height = max(1.0, _level(0, top) - _level(value, top))
            foot -= height
            pieces.append(_element("rect", x=_px(x), y=_px(foot), width=_px(max(0.5, width - min(1.0, width / 5))),
                                   height=_px(height), class_=name))  # fmt: skip
    return _element("g", _element("title", bar.told), *pieces)


def _base(axis: _Axis) -> Iterator[_Markup]:
    """The horizontal axis: its line, its ticks, its label."""
    y = _level(0, 1)
    yield _element("line", x1=_LEFT, x2=_px(axis.width - _RIGHT), y1=_px(y), y2=_px(y), class_="axis")
    for value, text in axis.ticks:
        x = _px(axis.place(value))
        yield _element("line", x1=x, x2=x, y1=_px(y), y2=_px(y + 5), class_="axis")
        yield _element("text", text, x=x, y=_px(y + 18), class_="middle")
    yield _element("text", axis.label, x=_px((_LEFT + axis.width - _RIGHT) / 2), y=_HEIGHT - 6, class_="middle")


def _level(value: float, top: float) -> float:
    """Pixels from the chart's upper edge."""
    return _TOP + (1 - value / top) * (_HEIGHT - _TOP - _BOTTOM)


# ---------------------------------------------------------------------------------------------------------------------
# ticks
# ---------------------------------------------------------------------------------------------------------------------

_SLOP = 1e-9  # of floats: three tenths are three times one tenth
_DENSITIES = (range(1, 10), 1), ((1, 2, 5), 1), ((1,), 1), ((1,), 2), ((1,), 3)  # digits, of every how many-th power


def _marks(low: float, high: float, most: int) -> List[float]:
    """Round numbers evenly over a range, no more than so many steps."""
    magnitude = 10.0 ** math.floor(math.log10((high - low) / most))
    steps = (digit * magnitude for digit in (1, 2, 5))
    step = next((step for step in steps if step * most >= high - low), 10 * magnitude)
    first, last = math.ceil(low / step - _SLOP), math.floor(high / step + _SLOP)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _log_marks(low: float, high: float, most: int) -> List[float]:
    """Round numbers over a range on a logarithmic scale, nowhere closer than `most` at even distances would be."""
    closest = math.log(high / low) / most
    marks = next(marks for digits, apart in _DENSITIES for marks in [_powers(low, high, digits, apart)]
                 if all(math.log(after / mark) >= closest for mark, after in zip(marks, marks[1:])))  # fmt: skip
    return marks if len(marks) > 2 else _marks(low, high, min(most, 8))


def _powers(low: float, high: float, digits: Sequence[int], apart: int) -> List[float]:
    """These digits times those powers of ten that are so far apart."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [float(f"{digit}e{power}") for power in powers if power % apart == 0 for digit in digits]
    return [mark for mark in marks if low <= mark <= high]


# ---------------------------------------------------------------------------------------------------------------------
# words
# ---------------------------------------------------------------------------------------------------------------------

_SPANS = ("seconds", 1), ("minutes", 60), ("hours", 3600), ("days", 86400)
_QUANTILES = "median", "p90", "p99", "max"
_TOLD = "Median, p90 and p99 are read from bins and right to 2.2 %; max is exact."


def _whole(value: float) -> str:
    return f"{value:,.0f}" if abs(value) < 1e18 else "over 1e18"


def _plain(value: float) -> str:
    """A round number."""
    return f"{value:,.10g}"


def _ceiling(value: float) -> str:
    return _whole(math.ceil(value))


def _seconds(value: float, digits: str = ".3g") -> str:
    """Three digits and a unit."""
    number, unit = (value * 1000, "ms") if value < 0.9995 else (value, "s")
    return f"{_whole(number) if number >= 99.95 else format(number, digits)} {unit}"


def _took(value: float) -> _Number:
    """The same for a column, where 4 s are 4.00 s."""
    return _Number(_seconds(value, "#.3g"))


def _span(seconds: float) -> str:
    name, unit = _span_unit(seconds)
    return f"{seconds / unit:,.1f} {name}"


def _span_unit(seconds: float) -> Tuple[str, int]:
    """The unit for so long a time: 180 of the next smaller one are enough."""
    return next(span for span in _SPANS if seconds <= 180 * span[1] or span is _SPANS[-1])


def _total(value: object) -> str:
    """A value of the caller's: numbers for people, None as a dash, all else as it is."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return _whole(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _utc(moment: float) -> str:
    """Unix time for people; not by time.gmtime, which knows neither 1969 nor 3001 on Windows."""
    if not -_MOST <= moment <= _LATEST:
        return "–"
    return str(datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=math.floor(moment)))


def _share(part: int, whole: int) -> _Number:
    percent = 100 * part / whole
    return _Number("below 0.1 %" if percent < 0.1 else f"{percent:.1f} %")


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count:,} calls"


def _told(done: int, failed: int) -> str:
    return _outcomes(done, failed) if failed else _calls(done)


def _outcomes(done: int, failed: int) -> str:
    return f"{done:,} done, {failed:,} failed"


def _rate(a_second: float) -> Tuple[str, int]:
    """The unit of time in which such a rate is one or more, and its seconds."""
    name, each = next(span for span in _SPANS if a_second * span[1] >= 1 or span is _SPANS[-1])
    return name[:-1], each


# ---------------------------------------------------------------------------------------------------------------------
# markup
# ---------------------------------------------------------------------------------------------------------------------


class _Markup(str):
    """Markup of ours; any other string is a text, and escaped."""


class _Number(str):
    """The text of a number: in tables it stands on the right."""


def _element(tag: str, *content: str, **attributes: object) -> _Markup:
    """An element; texts in it are escaped, empty attributes left out."""
    named = "".join(f' {name.rstrip("_").replace("_", "-")}="{_escape(str(value))}"'
                    for name, value in attributes.items() if value != "")  # fmt: skip
    inner = "".join(part if isinstance(part, _Markup) else _escape(part) for part in content)
    return _Markup(f"<{tag}{named}>{inner}</{tag}>")


def _escape(text: str) -> str:
    return html.escape(_visible(text, _MAX_MESSAGE))


def _visible(text: str, most: int) -> str:
    """A text of so many characters, each of which can be seen: no control, no half of a surrogate pair."""
    text = text[: most + 1]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"


def _px(value: float) -> str:
    return f"{value:.6g}"


def _legend(done: int, failed: int) -> _Markup:
    counts = (("done", done), ("failed", failed))
    return _Markup("".join(_element("span", class_=f"key {name}") + f"{count:,} {name} " for name, count in counts))
