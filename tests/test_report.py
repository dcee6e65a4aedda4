"""The page of a batch: its numbers, read back from its tables and bars, and that it runs nothing whatever it shows."""
import doctest
import html.parser
import math
import re
import shutil
import subprocess
import threading
import tracemalloc
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmlite import report

NOON = 1782907200.0  # 2026-07-01 12:00:00 UTC
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PLOT = report._HEIGHT - report._TOP - report._BOTTOM
HOSTILE = (
    "</title><script>document.title='owned'</script>", "\"><img src=x onerror=\"document.title='owned'\">",
    "' onmouseover='document.title=1' x='", "<svg onload=alert(1)>", "javascript:alert(1)", "]]><!--", "</style>",
    "&lt;b&gt;&#60;", "{title}%s{0}", "\x00\x07\x1b[31m\x7f\x85\n", "\ud800 lone \udfff", "\u202egnp.exe\u2066",
    "\ufffe\uffff\U0010ffff", "שלום", "z\u0334\u0335", "x" * (1 << 20), "\0" * (1 << 20), "'" * 1000, "")  # fmt: skip
TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "h1", "h2", "p", "section", "dl", "div", "dt",
    "dd", "figure", "figcaption", "span", "svg", "desc", "g", "rect", "line", "text", "table", "thead", "tbody", "tr",
    "th", "td"}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "scope", "colspan", "id", "viewbox", "role",
    "aria-labelledby", "x", "y", "x1", "x2", "y1", "y2", "width", "height"}  # fmt: skip


def call(made, id="line-1", **said):
    """One call, ended at noon after a second unless it is said otherwise."""
    made.add(id, **{**dict(ended=NOON, elapsed=1.0, attempts=1, model="m", input_tokens=10, output_tokens=20), **said})


class Page:
    """A page read as strictly as can be: nothing but the elements it may have, and well-formed as XML."""

    def __init__(self, made, totals=()):
        self.text = made.html(dict(totals))
        self.text.encode("utf-8")
        Strict().check(self.text)
        self.main = ElementTree.fromstring(self.text[self.text.index("<main>") : self.text.index("</body>")])
        self.sections = {section.findtext("h2"): section for section in self.main.iter("section")}
        self.charts = {svg.find("title").get("id")[: -len("-title")]: svg for svg in self.main.iter("svg")}

    def table(self, name):
        """Rows of a section's table, heads first."""
        return [["".join(cell.itertext()) for cell in row] for row in self.sections[name].iter("tr")]

    def totals(self):
        return {div.findtext("dt"): div.findtext("dd") for div in self.main.find("dl")}

    def bars(self, name):
        """What each bar of a chart says, and the heights of its pieces."""
        return [(bar.findtext("title"), {rect.get("class"): float(rect.get("height")) for rect in bar.iter("rect")})
                for bar in self.charts[name].iter("g")]  # fmt: skip

    def labels(self, name, kind):
        return [text.text for text in self.charts[name].iter("text") if text.get("class", "") == kind]


class Strict(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.texts = [], []

    def check(self, text):
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag in TAGS and {name for name, _ in attrs} <= ATTRIBUTES, (tag, attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_comment(self, data):
        raise AssertionError(data)

    handle_pi = unknown_decl = handle_comment


def test_doctests():
    assert doctest.testmod(report) == (0, 5)


def test_over_time():
    """Bars are as high as there were calls, and stand where these ended."""
    made = report.Report("prompts.jsonl")
    for second, done, failed in ((0, 10, 0), (1, 20, 5), (4, 4, 1)):
        for _ in range(done):
            call(made, ended=NOON + second, elapsed=0.5)
        for _ in range(failed):
            call(made, ended=NOON + second, elapsed=0.5, code="ServerError", message="500")
    page = Page(made)
    assert page.main.findtext("header/p") == (
        "40 calls ended in 4.5 seconds, from 2026-07-01 11:59:59 to 2026-07-01 12:00:04 UTC.")
    (first, ten), (second, both), (third, few) = page.bars("time")
    assert (first, second, third) == (
        "from 500 ms: 10 done, 0 failed", "from 1.5 s: 20 done, 5 failed", "from 4.5 s: 4 done, 1 failed")
    assert both["done"] + both["failed"] == pytest.approx(PLOT) and both["failed"] == pytest.approx(PLOT / 5)
    assert ten == {"done": pytest.approx(PLOT * 10 / 25)}
    assert few == {"done": pytest.approx(PLOT * 4 / 25), "failed": pytest.approx(PLOT / 25)}
    assert page.labels("time", "middle") == [
        "0", "0.5", "1", "1.5", "2", "2.5", "3", "3.5", "4", "4.5",
        "seconds since the first call began, 2026-07-01 11:59:59 UTC"]  # fmt: skip
    assert page.labels("time", "end") == ["0", "100", "200", "300", "400"]
    assert page.labels("time", "") == ["calls per second (a bar is 62.5 ms wide)"]
    xs = [float(bar.find("rect").get("x")) for bar in page.charts["time"].iter("g")]
    ticks = [float(line.get("x1")) for line in page.charts["time"].iter("line") if line.get("y2") == "211"]
    assert xs == [pytest.approx(ticks[index], abs=0.01) for index in (1, 3, 9)]
    assert page.charts["time"].findtext("desc") == "34 done, 6 failed; a bar is 62.5 ms wide."


def test_a_piece_stands_on_the_one_below():
    made = report.Report("x")
    for number in range(4):
        call(made, code="E" if number else "")
    for name in ("time", "latency"):
        done, failed = Page(made).charts[name].iter("rect")
        assert float(done.get("y")) + float(done.get("height")) == report._TOP + PLOT
        assert float(failed.get("y")) + float(failed.get("height")) == float(done.get("y"))
        assert float(failed.get("height")) == pytest.approx(3 * float(done.get("height")))


def test_one_failure_among_thousands_is_seen():
    made = report.Report("x")
    for number in range(5000):
        call(made, code="" if number else "E")
    page = Page(made)
    assert page.bars("time") == [("from 1 s: 4,999 done, 1 failed",
                                  {"done": pytest.approx(PLOT, abs=0.1), "failed": 1})]  # fmt: skip
    assert page.table("Errors")[1] == ["E", "1", "below 0.1 %", ""]


@pytest.mark.parametrize("seconds, label, unit, ticks", [
    (100, "seconds since", "calls per second (a bar is 1 s wide)", ["0", "10", "20"]),
    (3000, "minutes since", "calls per minute (a bar is 32 s wide)", ["0", "5", "10"]),
    (100_000, "hours since", "calls per hour (a bar is 1,024 s wide)", ["0", "5", "10"]),
    (9e8, "days since", "calls per day (a bar is 8,388,608 s wide)", ["0", "1,000", "2,000"])])  # fmt: skip
def test_units_of_time(seconds, label, unit, ticks):
    made = report.Report("x")
    call(made, elapsed=0)
    call(made, elapsed=0, ended=NOON + seconds)
    page = Page(made)
    *marks, told = page.labels("time", "middle")
    assert told.startswith(label) and marks[:3] == ticks
    assert page.labels("time", "") == [unit] and page.labels("time", "end")[0] == "0" and len(marks) <= 13


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e11), st.floats(0, 1e9), st.booleans()), min_size=1, max_size=60),
       st.sampled_from([1.0, 1e-3, 1e-6, 1e-9]))  # fmt: skip
@example([(NOON, 0.0, False), (0.0, 1e9, True), (1e11, 0.0, False)], 1.0)
def test_buckets_of_time(calls, scale):
    """However they were merged, buckets hold what a count at their last width gives; there are never too many."""
    line = report._Timeline()
    for ended, elapsed, failed in calls:
        line.add(ended * scale, elapsed * scale, failed)
    for counts, wanted in ((line.done, False), (line.failed, True)):
        ends = [math.floor(ended * scale / line.width) for ended, _, failed in calls if failed is wanted]
        assert dict(counts) == {bucket: ends.count(bucket) for bucket in ends}
    assert line.began == min(ended * scale - elapsed * scale for ended, elapsed, _ in calls)
    width = line.bucket(line.ended) - line.bucket(line.began)
    assert width < report._MAX_BUCKETS
    assert line.width == report._NARROWEST or width >= report._MAX_BUCKETS // 2 - 1  # no wider than it must be


def test_width_of_buckets():
    """It doubles when there is no room for one more bucket, at either end, and not before."""
    line = report._Timeline()
    for number in range(128):
        line.add(NOON + number / 16, 0, False)
    assert (line.width, len(line.done), line.ended) == (1 / 16, 128, NOON + 127 / 16)
    line.add(NOON + 8, 0, False)
    assert (line.width, len(line.done), line.done[int(NOON * 8)]) == (1 / 8, 65, 2)
    line.add(NOON + 8, 16, True)
    assert (line.width, len(line.done), line.began, line.ended) == (1 / 4, 33, NOON - 8, NOON + 8)
    assert sum(line.done.values()) == 129 and line.failed == {int((NOON + 8) * 4): 1}


def test_a_first_bucket_begins_with_the_run():
    made = report.Report("x")
    call(made, ended=NOON + 0.03, elapsed=0)
    assert Page(made).bars("time")[0][0] == "from 0 ms: 1 done, 0 failed"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=60))
@example([1.0])
@example([1e-6, 1e9])
def test_quantiles(values):
    """Quantiles are right to the share the page tells."""
    histogram = report._Histogram()
    for value in values:
        histogram.add(value)
    assert histogram.count == len(values) and histogram.largest == max(values)
    for share in (0.5, 0.9, 0.99):
        exact = sorted(values)[math.ceil(share * len(values)) - 1]
        assert histogram.quantile(share) == pytest.approx(exact, rel=0.0221)


@given(st.floats(1e-6, 1e9))
@example(1.0)
@example(2.0)
def test_bins(value):
    histogram = report._Histogram()
    histogram.add(value)
    (number,) = histogram.bins
    assert report._edge(number) * (1 - 1e-12) <= value <= report._edge(number + 1) * (1 + 1e-12)


def test_latency():
    made = report.Report("x")
    for number in range(1, 1001):
        call(made, elapsed=number / 100)
    call(made, elapsed=30, code="APITimeoutError")
    for elapsed in (0, -1, math.nan, math.inf, -math.inf, 1e300, 10**400):
        call(made, elapsed=elapsed)
    page = Page(made)
    heads, done, failed = page.table("Latency")
    assert heads == ["result", "calls", "median", "p90", "p99", "max"]
    assert done[:2] == ["done", "1,000"] and done[5] == "10.0 s"
    assert [float(cell.split()[0]) for cell in done[2:5]] == [pytest.approx(exact, rel=0.025) for exact in (5, 9, 9.9)]
    assert failed == ["failed", "1", "30.0 s", "30.0 s", "30.0 s", "30.0 s"]
    assert "7 calls without a usable time left out." in page.sections["Latency"].findtext("p")
    told = [re.search(": ([0-9]+) calls?$", text) for text, _ in page.bars("latency")]
    assert sum(int(match.group(1)) for match in told[:-1]) == 1000 and told[-1] is None
    assert page.bars("latency")[-1] == ("22.6 s to below 32 s: 0 done, 1 failed", {"failed": 1})
    assert page.labels("latency", "middle")[:4] == ["10 ms", "20 ms", "50 ms", "100 ms"]
    assert page.charts["latency"].findtext("title") == "Calls by latency"
    assert page.main.findtext("header/p").startswith("1,008 calls ended in 30.0 seconds")
    assert page.table("Slowest calls")[1][1] == "30.0 s"
    sides = [(float(rect.get("x")), float(rect.get("x")) + float(rect.get("width")))
             for rect in page.charts["latency"].iter("rect")]  # fmt: skip
    assert all(after[0] - before[1] > 0.5 for before, after in zip(sides, sides[1:]))  # they do not touch
    assert sides[0][0] > report._LEFT + 5 and sides[-1][1] < 960 - report._RIGHT - 5  # nor the ends


def test_a_time_below_zero():
    made = report.Report("x")
    call(made, elapsed=-5.0)
    page = Page(made)
    assert page.table("Slowest calls")[1][1] == "0.00 ms" and "Latency" not in page.sections
    assert page.main.findtext("header/p").startswith("1 call ended in 0.0 seconds")


def test_bars_of_a_histogram():
    """Bars are as high as there were calls, all of one width, and begin at their ticks."""
    made = report.Report("x")
    for tokens, calls in ((1, 6), (2, 3), (1024, 2)):
        for _ in range(calls):
            call(made, input_tokens=tokens, output_tokens=0)
    page = Page(made)
    assert list(page.charts) == ["time", "latency", "input"]
    assert page.bars("input") == [
        ("1 to below 2: 6 calls", {"done": pytest.approx(PLOT)}),
        ("2 to below 3: 3 calls", {"done": pytest.approx(PLOT / 2)}),
        ("1,024 to below 1,449: 2 calls", {"done": pytest.approx(PLOT / 3, abs=0.01)})]
    assert len({rect.get("width") for rect in page.charts["input"].iter("rect")}) == 1
    assert page.table("Tokens") == [["tokens", "calls", "calls with none", "median", "p90", "p99", "max"],
                                    ["input", "11", "0", "1", "1,024", "1,024", "1,024"]]  # fmt: skip


@pytest.mark.parametrize("count, labels", [(1, "01"), (2, "012"), (5, "012345"), (7, "0246")])
def test_no_mark_between_two_calls(count, labels):
    made = report.Report("x")
    for _ in range(count):
        call(made)
    assert "".join(Page(made).labels("latency", "end")) == labels


def test_no_tick_between_two_tokens():
    made = report.Report("x")
    call(made, input_tokens=4)
    assert Page(made).labels("input", "middle")[:-1] == ["4", "5"]


def test_tokens_that_cannot_be():
    made = report.Report("x")
    for tokens in (-1, 0, 10**400, 5):
        call(made, input_tokens=tokens, output_tokens=tokens)
    page = Page(made)
    assert [row[:3] for row in page.table("Tokens")[1:]] == [["input", "1", "3"], ["output", "1", "3"]]
    assert page.table("Models")[1] == ["m", "4", "0", "5", "5"]


def test_errors():
    """Classes by count, with an example; of each the first and the last calls, as many as fit."""
    made = report.Report("x")
    for number in range(100):
        call(made, f"line-{number}", code="RateLimitError", message=f"refused {number}", attempts=4)
    for number in range(2):
        call(made, f"slow-{number}", code="APITimeoutError", message="late", elapsed=30.0)
    call(made)
    page = Page(made)
    assert page.table("Errors") == [["class", "calls", "of all calls", "for example"],
                                    ["RateLimitError", "100", "97.1 %", "refused 0"],
                                    ["APITimeoutError", "2", "1.9 %", "late"]]  # fmt: skip
    heads, *rows = page.table("Failed calls")
    assert heads == ["id", "ended, UTC", "took", "attempts", "class", "message"]
    assert rows[0] == ["line-0", "2026-07-01 12:00:00", "1.00 s", "4", "RateLimitError", "refused 0"]
    assert [row[0] for row in rows] == (
        [f"line-{number}" for number in range(12)] + ["76 more of RateLimitError"]
        + [f"line-{number}" for number in range(88, 100)] + ["slow-0", "slow-1"])  # fmt: skip
    assert rows[-1][2:] == ["30.0 s", "1", "APITimeoutError", "late"]


@pytest.mark.parametrize("count, shown", [(1, 1), (12, 12), (13, 13), (24, 24), (25, 25)])
def test_failures_of_a_class(count, shown):
    made = report.Report("x")
    for number in range(count):
        call(made, str(number), code="E")
    ids = [row[0] for row in Page(made).table("Failed calls")[1:]]
    assert len(ids) == shown
    assert ids == [str(number) for number in range(count)] if count < 25 else ids[12] == "1 more of E"


def test_many_kinds():
    """Beyond so many, classes and models are counted together."""
    made = report.Report("x")
    for number in range(30):
        call(made, code=f"Error{number}", model=f"model-{number}", input_tokens=1)
        call(made, code="Error0", model="model-0")
    page = Page(made)
    errors = [row[:2] for row in page.table("Errors")[1:]]
    assert errors == [["Error0", "31"], ["other", "18"]] + [[f"Error{number}", "1"] for number in range(1, 12)]
    models = {row[0]: row[1:] for row in page.table("Models")[1:]}
    assert list(models)[:3] == ["model-0", "other", "model-1"]
    assert models["model-0"] == ["31", "31", "301", "620"]
    assert models["other"] == ["18", "18", "18", "360"] and len(models) == 13
    assert [row[0] for row in page.table("Failed calls")].count("27 more of Error0") == 1


@given(st.lists(st.floats(0, 100), max_size=60))
def test_slowest(times):
    """The slowest calls, good or failed, the slowest first; of equals the first."""
    made = report.Report("x")
    for number, elapsed in enumerate(times):
        call(made, str(number), elapsed=elapsed, code="E" if number % 3 == 1 else "")
    ranked = sorted(range(len(times)), key=lambda number: (-times[number], number))[:20]
    assert [call.id for _, _, call in sorted(made._slowest, reverse=True)] == [str(number) for number in ranked]


def test_slowest_calls():
    made = report.Report("x")
    call(made, "a", elapsed=0.25)
    call(made, "b", elapsed=123.4, attempts=3, code="E", model="other/m")
    assert Page(made).table("Slowest calls") == [
        ["id", "took", "ended, UTC", "attempts", "model", "result"],
        ["b", "123 s", "2026-07-01 12:00:00", "3", "other/m", "E"],
        ["a", "250 ms", "2026-07-01 12:00:00", "1", "m", "done"]]


def test_attempts():
    made = report.Report("x")
    for attempts in (1, 1, 1, 2, 10, 11, 10**400, -5):
        call(made, attempts=attempts)
    assert Page(made).table("Attempts") == [
        ["attempts", "calls", "of all calls"], ["0", "1", "12.5 %"], ["1", "3", "37.5 %"], ["2", "1", "12.5 %"],
        ["10 or more", "3", "37.5 %"]]


def test_short_texts_stay_on_one_line():
    made = report.Report("x")
    call(made, "i" * 25, model="m" * 24)
    kinds = [cell.get("class") for cell in list(Page(made).sections["Slowest calls"].iter("tr"))[1]]
    assert kinds == [None, "number", "short", "number", "short", "short"]


def test_totals():
    made = report.Report("x")
    call(made)
    totals = {"total": 2000, "seconds": 41.23, "stopped": None, "resumed": True, "where": "here", "huge": 10**400,
              "nan": math.nan, "cost": 0.01234, 5: -1234}  # fmt: skip
    assert Page(made, totals).totals() == {
        "total": "2,000", "seconds": "41.2", "stopped": "–", "resumed": "True", "where": "here", "huge": "over 1e18",
        "nan": "nan", "cost": "0.0123", "5": "-1,234"}
    assert len(Page(made, {str(number): number for number in range(100)}).totals()) == 24
    assert Page(made).main.find("dl") is None


def test_none_added():
    page = Page(report.Report("prompts.jsonl"), {"total": 0})
    assert page.main.findtext("header/h1") == "prompts.jsonl" and page.main.findtext("header/p") == "No call ended."
    assert page.totals() == {"total": "0"} and page.sections == {}


def test_none_failed():
    made = report.Report("x")
    call(made)
    page = Page(made)
    assert page.sections["Errors"].findtext("p") == "No call failed." and "Failed calls" not in page.sections
    assert page.main.findtext("header/p").startswith("1 call ended in 1.0 seconds, from 2026-07-01 11:59:59")


@pytest.mark.parametrize("ended", [math.nan, math.inf, -math.inf, -1e10, 1e300, 10**400])
def test_times_that_cannot_be(ended):
    """Such a call is counted, and its time said to be unknown."""
    made = report.Report("x")
    call(made, ended=ended, code="E")
    page = Page(made)
    assert page.main.findtext("header/p") == "1 call ended, at times unknown."
    assert page.sections["Calls over time"].findtext("p") == "1 call at times unknown, left out."
    assert "time" not in page.charts and page.table("Failed calls")[1][1] == "–"
    call(made)
    assert len(Page(made).bars("time")) == 1


def test_threads_may_share_it():
    made = report.Report("x")
    threads = [threading.Thread(target=lambda: [call(made) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Page(made).table("Attempts")[1] == ["1", "2,000", "100.0 %"]


def test_memory():
    """As much is kept of many calls as of few."""
    made = report.Report("x")
    tracemalloc.start()
    try:
        for number in range(20_000):
            name, long = f"Error{number}" + "r" * 20_000, f"{number} " * 1000
            call(made, long, ended=NOON + number, elapsed=number % 97, code=name, message=long, model=name,
                 input_tokens=number, output_tokens=number, attempts=number)  # fmt: skip
        made.html({})
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        assert max(map(len, [*made._models, *made._errors])) == 60
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------------------------------------------------------------
# words and ticks
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low, high, most, marks", [
    (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 84, 5, [0, 20, 40, 60, 80]), (0, 10, 5, [0, 2, 4, 6, 8, 10]),
    (0, 0.3, 3, [0, 0.1, 0.2, 0.3]), (0, 4.1, 12, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]),
    (0.52, 0.58, 3, [0.52, 0.54, 0.56, 0.58])])  # fmt: skip
def test_marks(low, high, most, marks):
    assert report._marks(low, high, most) == marks


@pytest.mark.parametrize("low, high, most, marks", [
    (0.2, 40, 15, [0.2, 0.5, 1, 2, 5, 10, 20]), (1, 10, 30, list(range(1, 11))), (5, 6000, 7, [10, 100, 1000]),
    (1e-6, 1e9, 7, [1e-6, 1e-3, 1, 1e3, 1e6, 1e9]), (10, 15, 7, [10, 11, 12, 13, 14, 15]),
    (1.9, 3.1, 7, [2, 2.2, 2.4, 2.6, 2.8, 3])])  # fmt: skip
def test_log_marks(low, high, most, marks):
    assert report._log_marks(low, high, most) == marks


@given(st.floats(1e-7, 1e9), st.floats(1.3, 1e16), st.integers(7, 16))
def test_there_are_ticks(low, ratio, most):
    """Some marks in every range, in order, and no more than can be read."""
    high = low * ratio
    even, log = report._marks(low, high, most), report._log_marks(low, high, most)
    for marks, slop in ((even, high * 1e-9), (log, low * 1e-9)):
        assert 1 <= len(marks) <= most + 1 and marks == sorted(set(marks))
        assert low - slop <= marks[0] and marks[-1] <= high * (1 + 1e-9)


@pytest.mark.parametrize("seconds, text, column", [
    (0, "0 ms", "0.00 ms"), (1e-6, "0.001 ms", "0.00100 ms"), (0.25, "250 ms", "250 ms"), (0.9996, "1 s", "1.00 s"),
    (4, "4 s", "4.00 s"), (99.96, "100 s", "100 s"), (12345.6, "12,346 s", "12,346 s")])  # fmt: skip
def test_seconds(seconds, text, column):
    assert report._seconds(seconds) == text and report._took(seconds) == column


# ---------------------------------------------------------------------------------------------------------------------
# texts from anybody
# ---------------------------------------------------------------------------------------------------------------------


def hostile(made=None):
    made = made or report.Report(HOSTILE[0])
    for text in HOSTILE:
        call(made, text, model=text, code=text, message=text)
        call(made, text, model=text, elapsed=5.0)
    return made


def test_hostile_texts():
    """Each is seen as it is, cut, what has no picture as its escape; the page is only elements of ours."""
    page = Page(hostile(), {HOSTILE[1]: HOSTILE[0]})
    assert page.main.findtext("header/h1") == HOSTILE[0]
    assert page.totals() == {HOSTILE[1]: HOSTILE[0]}
    ids = [row[0] for row in page.table("Slowest calls")[1:]]
    assert ids[:2] == list(HOSTILE[:2])
    assert r"\x00\x07\x1b[31m\x7f\x85\n" in ids and r"\ud800 lone \udfff" in ids and r"\u202egnp.exe\u2066" in ids
    assert "x" * 79 + "…" in ids and (r"\x00" * 20)[:79] + "…" in ids
    head = page.text[: page.text.index("<style>")]
    assert head.count("<title>") == 1
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    assert head.index(policy) < head.index("<title>")
    assert not re.search(r"url\(|@import|//", page.text[page.text.index("<style>") : page.text.index("</style>")])


def test_size_of_the_worst_page():
    made = report.Report("'" * 1000)
    for number in range(3000):
        name = f"{number:04}" + "'" * 1000
        call(made, name, model=name, code=name if number % 2 else "", message=name, elapsed=1.1 ** (number % 150) / 1e5,
             ended=NOON + number, attempts=number % 12, input_tokens=number**3, output_tokens=2 ** (number % 30))
    page = Page(made, {f"{number}{'<' * 99}": "'" * 1000 for number in range(99)})
    assert 100_000 < len(page.text.encode()) < 300_000
    assert {(len(name), len(value)) for name, value in page.totals().items()} == {(60, 80)}


ANY = st.text(st.characters(), max_size=30) | st.sampled_from(HOSTILE)
NUMBERS = st.floats() | st.floats(0, 100) | st.integers() | st.just(NOON)


@settings(max_examples=60, deadline=None)
@given(ANY, st.dictionaries(ANY, ANY | NUMBERS | st.none(), max_size=5), st.lists(st.fixed_dictionaries(
    dict(id=ANY, ended=NUMBERS, elapsed=NUMBERS, attempts=st.integers(), model=ANY, input_tokens=st.integers(),
         output_tokens=st.integers(0, 5000), code=ANY, message=ANY)), max_size=20))  # fmt: skip
def test_anything(title, totals, calls):
    """Whatever is added, the page is whole, small, and nothing but elements of ours."""
    made = report.Report(title)
    for each in calls:
        made.add(**each)
    assert len(Page(made, totals).text) < 300_000


# ---------------------------------------------------------------------------------------------------------------------
# a browser
# ---------------------------------------------------------------------------------------------------------------------


OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
           "--disable-background-networking", "--disable-component-update", "--dump-dom")  # fmt: skip


def browse(folder, pages):
    """The documents that a browser makes of some pages, all at once."""
    started = []
    for number, text in enumerate(pages):
        path = Path(folder, f"{number}.html")
        path.write_text(text, encoding="utf-8")
        command = [BROWSER, *OPTIONS, f"--user-data-dir={folder}/{number}", path.as_uri()]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
    try:
        return [process.communicate(timeout=40)[0].decode("utf-8") for process in started]
    finally:
        for process in started:
            process.kill()
            process.stdout.close()


@pytest.mark.skipif(not BROWSER, reason="no Chromium on PATH")
def test_in_a_browser(tmp_path):
    """No script runs: none is in the page, and none that were there would be run."""
    page = hostile().html({HOSTILE[1]: HOSTILE[0]})
    policy = re.search("<meta http-equiv.*>\n", page).group()
    script = "<script>document.title += ' and ours'</script>"
    page = page.replace("<main>", script + "<main>")
    unguarded, guarded = browse(tmp_path, [page.replace(policy, ""), page])
    title = "<title>&lt;/title&gt;&lt;script&gt;document.title='owned'&lt;/script&gt;%s</title>"
    assert title % " and ours" in unguarded  # so theirs would be seen too, of which none ran before or after
    assert title % "" in guarded
    for document in (unguarded, guarded):
        assert document.count("<svg") == 4 and "</svg>" in document and document.count("<rect") == page.count("<rect")
        assert "<img" not in document and document.rstrip().endswith("</html>")
        assert document.count("<script") == 1
