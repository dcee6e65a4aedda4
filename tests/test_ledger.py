"""The ledger: every billed call, every request, every failure, counted exactly."""
import contextlib
import gc
import itertools
import socket
import sys
import threading

import pytest

from tests import llmlite, testing
from tests.beside import untraced

QUICK = llmlite.RetryPolicy(max_retries=2, backoff=0.001, rate_limit_max_retries=2, rate_limit_backoff=0.001)
EMPTY = llmlite.RetryPolicy(max_retries=2, backoff=0.001, retry_empty=True)
NOTHING = {"usage": llmlite.Usage(), "calls": 0, "attempts": 0, "retries": 0, "empty": 0, "failed": 0, "unknown": 0,
           "cached": 0, "by_model": {}}
EARLY = {"model": "test", "choices": [{"index": 0, "delta": {"content": "Hi"}}],
         "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
BARE = {"model": "test", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}


def client(url, **options):
    options.setdefault("retry", QUICK)
    return llmlite.Client("test", base_url=url, api_key="sk-test-0001", **options)


def expected(calls=0, attempts=1, tokens=(0, 0), model="test", **counts):
    """A snapshot of calls that all got the same model."""
    usage = llmlite.Usage(*tokens)
    return {**NOTHING, "calls": calls, "attempts": attempts, "usage": usage, **counts,
            "by_model": {model: usage} if calls else {}}


def chat(llm):
    return llm.chat("hello")


def stream(llm):
    with llm.stream("hello") as pieces:
        return list(pieces)


def close_early(llm):
    with llm.stream("hello") as pieces:
        next(pieces)


def drop(llm):
    pieces = llm.stream("hello")
    next(pieces)
    del pieces
    gc.collect()


def untouched(llm):
    llm.stream("hello").close()


def closed_at_the_end(llm):
    pieces = llm.stream("hello")
    list(pieces)
    pieces.close()
    pieces.close()


HTML = testing.body(b"<html>", headers={"Content-Type": "text/html"})
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
OK, NONE, DOWN = testing.reply("ok"), testing.reply(""), testing.error(500)
RESET, STALL = testing.raw(testing.RESET), testing.raw(testing.STALL)
IN_200 = testing.json_body({"error": {"message": "no", "code": 500}})

CASES = {
    # what happens: (policy, the call, the server's answers, what the ledger says)
    "ok": (QUICK, chat, [OK], expected(1, tokens=(10, 5))),
    "ok, streamed": (QUICK, stream, [testing.stream(["a", "b"])], expected(1, tokens=(10, 5))),
    "ok, without usage": (QUICK, chat, [testing.reply("ok", usage=None)], expected(1)),
    "the model that answered": (QUICK, chat, [testing.reply("ok", model="test-2026")],
                                expected(1, tokens=(10, 5), model="test-2026")),
    "empty": (QUICK, chat, [NONE], expected(1, tokens=(10, 5), empty=1)),
    "empty, streamed": (QUICK, stream, [testing.stream([])], expected(1, tokens=(10, 5), empty=1)),
    "filtered": (QUICK, chat, [testing.reply("", finish_reason="content_filter")],
                 expected(1, tokens=(10, 5), empty=1)),
    "tool calls are not empty": (QUICK, chat, [testing.reply("", tool_calls=[{"name": "add"}])],
                                 expected(1, tokens=(10, 5))),
    "empty, then ok": (EMPTY, chat, [NONE, NONE, OK], expected(3, 3, (30, 15), retries=2, empty=2)),
    "empty to the end": (EMPTY, chat, [NONE, NONE, NONE], expected(3, 3, (30, 15), retries=2, empty=3, failed=1)),
    "refused request": (QUICK, chat, [testing.error(400)], expected(failed=1)),
    "refused request, streamed": (QUICK, stream, [testing.error(400)], expected(failed=1)),
    "redirect": (QUICK, chat, [testing.error(302)], expected(failed=1)),
    "down, then ok": (QUICK, chat, [DOWN, DOWN, OK], expected(1, 3, (10, 5), retries=2)),
    "down, then streamed": (QUICK, stream, [DOWN, testing.stream(["a"])], expected(1, 2, (10, 5), retries=1)),
    "down": (QUICK, chat, [DOWN, DOWN, DOWN], expected(attempts=3, retries=2, failed=1)),
    "error in a 200": (None, chat, [IN_200], expected(failed=1)),
    "error in a 200, then ok": (QUICK, chat, [IN_200, OK], expected(1, 2, (10, 5), retries=1)),
    "error as first event": (None, stream, [testing.sse([{"error": {"message": "no"}}])], expected(failed=1)),
    "error event later": (QUICK, stream, [testing.sse([EARLY, {"error": {"message": "no"}}])],
                          expected(1, tokens=(9, 1), failed=1)),
    "cut stream": (QUICK, stream, [testing.sse([EARLY], end="close")], expected(1, tokens=(9, 1), failed=1)),
    "cut stream that reported nothing": (QUICK, stream, [testing.sse([BARE], end="reset")], expected(1, failed=1)),
    "ended without a finish": (QUICK, stream, [testing.sse([EARLY])], expected(1, tokens=(9, 1), failed=1)),
    "silent stream": (QUICK, stream, [testing.sse([EARLY], end="stall")], expected(1, tokens=(9, 1), failed=1)),
    "torn event": (QUICK, stream, [testing.sse([EARLY, "data: {torn\n\n", BARE])],
                   expected(1, tokens=(9, 1), failed=1)),
    "closed early": (QUICK, close_early, [testing.sse([EARLY, BARE], end="stall")], expected(1, tokens=(9, 1))),
    "dropped early": (QUICK, drop, [testing.sse([EARLY, BARE], end="stall")], expected(1, tokens=(9, 1))),
    "closed before reading": (QUICK, untouched, [testing.sse([EARLY, BARE], end="stall")], expected(1, tokens=(9, 1))),
    "closed at the end, twice": (QUICK, closed_at_the_end, [testing.stream(["a"])], expected(1, tokens=(10, 5))),
    "read timeout": (None, chat, [STALL], expected(failed=1, unknown=1)),
    "read timeout, streamed": (None, stream, [STALL], expected(failed=1, unknown=1)),
    "read timeouts, then ok": (QUICK, chat, [STALL, STALL, OK], expected(1, 3, (10, 5), retries=2, unknown=2)),
    "reset": (QUICK, chat, [RESET, RESET, RESET], expected(attempts=3, retries=2, failed=1, unknown=3)),
    "half a head": (None, chat, [testing.raw(b"HTTP/1.1 200")], expected(failed=1, unknown=1)),
    "half a body": (None, chat, [testing.raw(HEAD)], expected(1, failed=1)),
    "half an error": (None, chat, [testing.error(500, truncate=5)], expected(failed=1)),
    "silent body": (None, chat, [testing.raw(HEAD, testing.STALL)], expected(1, failed=1)),
    "HTML": (QUICK, chat, [HTML], expected(1, failed=1)),
    "HTML, then ok": (EMPTY, chat, [HTML, OK], expected(2, 2, (10, 5), retries=1)),
    "no choices": (QUICK, chat, [testing.json_body({"choices": []})], expected(1, failed=1)),
    "no events": (QUICK, stream, [testing.sse([])], expected(1, failed=1)),
}


def snapshot_of(llm):
    """The ledger's numbers, by its documented attributes alone."""
    return {name: getattr(llm.ledger, name) for name in NOTHING}


@pytest.mark.parametrize("case", CASES)
def test_case(server, case):
    """Each way a call can go leaves exactly its numbers."""
    policy, call, answers, numbers = CASES[case]
    answers = iter(answers)
    server.handle(lambda request: next(answers))
    waits = "timeout" in case or "silent" in case
    with client(server.url, retry=policy, timeout=(5, 0.3 if waits else 5)) as llm:
        try:
            call(llm)
        except llmlite.LLMError:
            assert numbers["failed"]
        else:
            assert not numbers["failed"]
        assert snapshot_of(llm) == numbers
        assert llm.ledger.snapshot() == numbers
    assert server.wait_for(numbers["attempts"]) and len(server.requests) == numbers["attempts"]


def test_all_of_it(server):
    """One client's ledger is the sum of everything that happened to it."""
    total = dict(NOTHING, by_model={})
    with client(server.url, timeout=(5, 0.4)) as llm:
        for policy, call, answers, numbers in CASES.values():
            if policy is not QUICK:
                continue
            answers = iter(answers)
            server.handle(lambda request, answers=answers: next(answers))
            llm.close()  # a reset on a pooled connection would be taken for a stale one
            with contextlib.suppress(llmlite.LLMError):
                call(llm)
            total["by_model"] = {**total["by_model"], **{
                model: total["by_model"].get(model, llmlite.Usage()) + usage
                for model, usage in numbers["by_model"].items()}}
            total.update({name: total[name] + numbers[name] for name in NOTHING if name != "by_model"})
        assert total["failed"] > 9 and total["calls"] > 9
        assert llm.ledger.snapshot() == total


def test_refused_connection():
    """A refused connection is a failed call, and no request whose answer is unknown: none was sent."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with client(f"http://127.0.0.1:{held.getsockname()[1]}/v1") as llm:
            with pytest.raises(llmlite.APIConnectionError):
                llm.chat("hello")
            assert llm.ledger.snapshot() == expected(failed=1)


def test_stale_connection(server):
    """A request on a pooled connection that died under it is booked: nobody knows whether the server has read it."""
    server.reply("ok")
    server.raw(testing.CLOSE)
    server.reply("ok")
    with client(server.url) as llm:
        llm.chat("hello")
        llm.chat("hello")
        assert llm.ledger.snapshot() == expected(2, 3, (20, 10), retries=1, unknown=1)


def test_deadline(server):
    """A call that the deadline ends while the answer is awaited failed, and its request may be billed."""
    server.raw(testing.STALL)
    with client(server.url, deadline=0.4) as llm:
        with pytest.raises(llmlite.DeadlineExceededError):
            llm.chat("hello")
        assert llm.ledger.snapshot() == expected(failed=1, unknown=1)


def test_held_back_past_the_deadline(server):
    """A call that a rate limit holds back past its deadline failed, too, with no request."""
    server.reply("ok")
    with client(server.url, rate_limit=llmlite.RateLimit(requests_per_minute=1)) as llm:
        llm.chat("hello")
        with pytest.raises(llmlite.DeadlineExceededError):
            llm.chat("hello", deadline=0.1)
        assert llm.ledger.snapshot() == expected(1, 1, (10, 5), failed=1)


def test_bad_arguments(server):
    """A call that is refused before anything is sent is no attempt."""
    with client(server.url) as llm:
        with pytest.raises(llmlite.ConfigurationError):
            llm.chat([])
        assert (llm.ledger.attempts, llm.ledger.calls, llm.ledger.unknown) == (0, 0, 0)


def test_answer_that_does_not_fit_the_schema(server):
    """A reply that does not fit the schema was billed all the same."""
    server.reply("no JSON")
    with client(server.url) as llm:
        with pytest.raises(llmlite.SchemaError):
            llm.chat("hello", schema=dict)
        assert llm.ledger.snapshot() == expected(1, tokens=(10, 5), failed=1)


def test_model_list(server):
    """A list of models costs nothing and is not an empty reply."""
    server.reply("unused")
    with client(server.url) as llm:
        llm.models()
        assert (llm.ledger.attempts, llm.ledger.empty, llm.ledger.failed) == (1, 0, 0)
        assert llm.ledger.usage == llmlite.Usage()


def test_cached_and_reasoning_tokens(server):
    """Cached and reasoning tokens are summed as well."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
             "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 3}}
    server.reply("ok", usage=usage, times=2)
    with client(server.url) as llm:
        llm.chat("hello")
        llm.chat("hello")
        assert llm.ledger.usage == llmlite.Usage(20, 10, 8, 6)
        assert llm.ledger.usage.total_tokens == 30


def test_by_model(server):
    """Usage is kept for each model that answered, whichever was asked for."""
    server.handle(lambda request: testing.reply("ok", model={"a": "a-2026"}.get(request.json["model"])))
    with client(server.url) as llm:
        for model in ("a", "b", "a", None):
            llm.chat("hello", model=model)
        assert llm.ledger.by_model == {"a-2026": llmlite.Usage(20, 10), "b": llmlite.Usage(10, 5),
                                       "test": llmlite.Usage(10, 5)}


def test_fallbacks(server):
    """What a fallback spends is in the same ledger, under the model that answered."""
    server.handle(lambda request: testing.error(404) if request.json["model"] == "test" else testing.reply("ok"))
    with client(server.url, fallbacks=("other",)) as llm:
        assert llm.chat("hello").model == "other"
        assert (llm.ledger.calls, llm.ledger.attempts, llm.ledger.by_model) == (1, 2, {"other": llmlite.Usage(10, 5)})


def test_ledgers_are_apart(server):
    """Each client has a ledger of its own."""
    server.reply("ok")
    with client(server.url) as one, client(server.url) as two:
        one.chat("hello")
        assert one.ledger.calls == 1
        assert two.ledger.snapshot() == NOTHING


# ---------------------------------------------------------------------------------------------- snapshot and reset


def test_snapshot_does_not_change(server):
    """A snapshot stays as it is while the ledger goes on, and changing it changes nothing."""
    server.reply("ok", times=2)
    with client(server.url) as llm:
        llm.chat("hello")
        first = llm.ledger.snapshot()
        llm.chat("hello")
        assert first == expected(1, 1, (10, 5))
        first["by_model"].clear()
        assert llm.ledger.snapshot() == expected(2, 2, (20, 10))


def test_reset(server):
    """A reset returns the last numbers and starts again from zero."""
    server.reply("ok", times=2)
    with client(server.url) as llm:
        assert llm.ledger.snapshot() == NOTHING
        llm.chat("hello")
        assert llm.ledger.reset() == expected(1, 1, (10, 5))
        assert llm.ledger.snapshot() == NOTHING
        llm.chat("hello")
        assert llm.ledger.snapshot() == expected(1, 1, (10, 5))


def test_stream_counts_when_it_ends(server):
    """A running stream is not counted yet; when it ends it is, once."""
    server.stream(["a", "b"])
    with client(server.url) as llm:
        pieces = llm.stream("hello")
        next(pieces)
        assert llm.ledger.snapshot() == NOTHING
        list(pieces)
        assert llm.ledger.snapshot() == expected(1, tokens=(10, 5))


def test_repr(server):
    """The ledger's repr shows its sums."""
    server.reply("ok")
    with client(server.url) as llm:
        llm.chat("hello")
        assert "1 calls, 1 attempts, 0 failed" in repr(llm.ledger)


# -------------------------------------------------------------------------------------------------------- threads


def mixed(request):
    """An answer by the request's own words."""
    word = request.json["messages"][0]["content"]
    answers = {"ok": testing.reply("ok"), "empty": testing.reply(""), "bad": testing.error(400),
               "stream": testing.stream(["a", "b"]), "cut": testing.sse([EARLY], end="close"), "html": HTML}
    return answers[word]


def work(llm, words, problems):
    for word in words:
        try:
            if word in ("stream", "cut"):
                list(llm.stream(word))
            else:
                llm.chat(word)
        except llmlite.LLMError:
            pass
        except BaseException as problem:
            problems.append(problem)


def test_threads(server):
    """Eight threads of mixed calls are counted to the last token, and by snapshots and resets none is lost."""
    server.handle(mixed)
    words = ["ok", "empty", "bad", "stream", "cut", "html"] * 5
    problems, parts = [], []
    with client(server.url) as llm:
        threads = [threading.Thread(target=work, args=(llm, words, problems)) for _ in range(8)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            parts.append(llm.ledger.reset())
            threads[0].join(0.01)
            threads[-1].join(0.01)
        parts.append(llm.ledger.reset())
    assert problems == []
    each = 8 * 5
    sums = {name: sum(part[name] for part in parts) for name in NOTHING if name not in ("usage", "by_model")}
    assert sums == {"calls": 5 * each, "attempts": 6 * each, "retries": 0, "empty": each, "failed": 3 * each,
                    "unknown": 0, "cached": 0}
    usage = sum((part["usage"] for part in parts), llmlite.Usage())
    assert usage == llmlite.Usage((3 * 10 + 9) * each, (3 * 5 + 1) * each)
    assert sum((part["by_model"].get("test", llmlite.Usage()) for part in parts), llmlite.Usage()) == usage


TOLD = {"prompt_tokens": 500, "completion_tokens": 30, "total_tokens": 530}
PART = {"index": 0, "message": {"role": "assistant", "content": "part"}}
BILLED = {  # a 200 that is an error, and tells what it took
    "no choices": {"choices": []}, "null": {"choices": None}, "no dict": {"choices": [5]},
    "error": {"choices": [{**PART, "finish_reason": "error"}]},
    "abort": {"choices": [{**PART, "finish_reason": "abort"}]},
    "error in a choice": {"choices": [{**PART, "error": {"message": "x"}, "finish_reason": "stop"}]},
    "error beside": {"error": {"message": "bad"}, "choices": [PART]}, "error alone": {"error": {"message": "bad"}}}


@pytest.mark.parametrize("body", BILLED.values(), ids=BILLED)
def test_what_a_failed_answer_took_is_booked(server, body):
    """What the server says was used is on the ledger and on the error's response, whatever else the answer says."""
    server.json({"model": "test", **body, "usage": TOLD})
    with client(server.url, retry=None) as llm:
        with pytest.raises(llmlite.LLMError) as caught:
            llm.chat("hello")
        assert llm.ledger.snapshot() == expected(1, tokens=(500, 30), failed=1)
        assert caught.value.response.usage == llmlite.Usage(500, 30)


@pytest.mark.parametrize("begun", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("last", [
    {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]},
    {"error": {"message": "bad"}}, {"error": {"message": "bad"}, "choices": []}], ids=["reason", "error", "beside"])
def test_what_a_failed_stream_took_is_booked(server, last, begun):
    """The same where a stream breaks off, at its first event or later."""
    server.sse([*[BARE] * begun, {**last, "model": "test", "usage": TOLD}])
    with client(server.url, retry=None) as llm:
        with pytest.raises(llmlite.LLMError) as caught:
            stream(llm)
        assert llm.ledger.snapshot() == expected(1, tokens=(500, 30), failed=1)
        assert (caught.value.response.usage, caught.value.response.text) == (llmlite.Usage(500, 30), "Hi" * begun)


def test_an_error_that_tells_of_no_tokens_is_not_billed(server):
    """An error object alone is no billed call, in a body and in a stream."""
    server.json({"error": {"message": "bad"}})
    server.sse([{"error": {"message": "bad"}}])
    with client(server.url, retry=None) as llm:
        for ask in (chat, stream):
            with pytest.raises(llmlite.ServerError) as caught:
                ask(llm)
            assert caught.value.response is None
        assert llm.ledger.snapshot() == expected(attempts=2, failed=2)


def each_step(work, *names, between=None, steps=()):
    """Do a piece of work again and again, with Ctrl-C (or `between`) one step later each time, until it is over first.

    Or, to begin with, at these `steps`, and then at each behind the last of them.

    Python looks for signals as a function begins, and when one that is written in C is done. Only those of the client
    count, or of these names in it; not a generator's start, where older Pythons would leave it without its `finally`.
    """
    module = vars(sys.modules[llmlite.Client.__module__])

    def interrupting(left):
        def profile(frame, event, arg):
            nonlocal where
            if event == "c_call" or event == "return":  # most of all: the quickest way out
                return
            mine = frame.f_globals is module and (not names or frame.f_code.co_name in names)
            looks = event in ("c_return", "c_exception") or event == "call" and not frame.f_code.co_flags & 0x20
            if mine and looks and next(left, None) is None:
                sys.setprofile(None)
                where = f"{event} at line {frame.f_lineno}"
                if between is None:
                    raise KeyboardInterrupt
                between()
        return profile

    for step in itertools.chain(steps, itertools.count(steps[-1] + 1 if steps else 0)):
        where = ""
        sys.setprofile(interrupting(iter(range(step))))
        try:
            with contextlib.suppress(KeyboardInterrupt):
                work()
        finally:
            sys.setprofile(None)
        if not where:
            assert step > 5
            return
        yield where


@pytest.mark.parametrize("other", ["reset", "_sum_up", "_book_failure"])
@pytest.mark.parametrize("work", ["snapshot", "reset", "_sum_up"])
def test_a_ledger_that_is_changed_while_it_is_read(server, work, other):
    """Whatever another thread, or a finalizer, does to it between two steps of its own: the numbers are right."""
    ledger, told = client(server.url).ledger, []

    def failed(name):
        found = getattr(ledger, name)()
        return found["failed"] if name == "reset" else 0

    def change():
        told.append(failed(other))

    def look():
        ledger._book_failure()
        found = getattr(ledger, work)()
        told.append(found["failed"] if work == "reset" else 0)
        assert work != "snapshot" or 0 <= found["failed"] <= 2

    for step in each_step(look, between=change):
        assert sum(told) + failed("reset") == 1 + (other == "_book_failure"), step
        told.clear()


@untraced()
def test_ctrl_c_while_the_ledger_sums_up(server):
    """Wherever it hits, nothing is lost, nothing counts twice, and other threads can still read and reset."""
    ledger = client(server.url).ledger
    for count, step in enumerate(each_step(ledger._sum_up)):
        assert ledger.snapshot()["failed"] == count, step
        ledger._book_failure()
        other = threading.Thread(target=ledger.snapshot, daemon=True)
        other.start()
        other.join(5)
        assert not other.is_alive(), step
    sums = [ledger.reset() for _ in each_step(ledger.snapshot)]
    assert sum(one["failed"] for one in sums) == count + 1 and ledger.snapshot() == NOTHING


ANSWERS = {  # by how it is asked
    "chat": (chat, testing.reply("ok")), "streamed": (stream, testing.stream(["a", "b"])),
    "left": (close_early, testing.stream(["a", "b"])), "refused": (chat, testing.error(400)),
    "broken": (chat, testing.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"))}
STEPS = ("_perform", "_attempt", "_settle", "end", "give_back", "booking", "_book", "__init__", "_read_reply", "_end",
         "_hand_over", "reply", "run", "close", "_completed", "parse", "release", "drain")


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # a connection may be left to the collector
@pytest.mark.parametrize("kind", ANSWERS)
@untraced()
def test_ctrl_c_at_any_step_of_a_call(server, kind):
    """Wherever it hits: a request that the server has answered is in the ledger, once."""
    ask, answer = ANSWERS[kind]
    server.handle(lambda request: answer)

    def call():
        nonlocal before
        before = len(server.requests)
        with contextlib.suppress(llmlite.LLMError):
            ask(llm)

    before = 0
    with client(server.url, retry=None) as llm:
        for step in each_step(call, *STEPS):
            gc.collect()
            booked, asked = llm.ledger.reset(), len(server.requests) - before
            told = asked if kind == "refused" else booked["calls"] + booked["unknown"]
            assert asked <= told <= booked["attempts"] <= 1 + booked["retries"], (step, booked)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("kind", ["chat", "streamed"])
@untraced()
def test_ctrl_c_as_the_ledger_fills(server, kind):
    """Wherever it hits while a booking has all others summed up: each call counts once."""
    ask, answer = ANSWERS[kind]
    server.handle(lambda request: answer)
    with client(server.url, retry=None) as llm:
        def fill():
            while len(llm.ledger._booked) < 500:
                llm.ledger._book_failure()
            return len(server.requests)

        before = fill()
        # Five hundred steps are one line, which takes the bookings away: its first and its last ones, some between.
        some = [*range(60), *range(60, 460, 10)]
        names, tried = ("end", "_book", "_tidy", "_sum_up", "_settle", "_hand_over"), 0
        for step in each_step(lambda: ask(llm), *names, steps=some):
            tried += 1
            booked, asked = llm.ledger.reset(), len(server.requests) - before
            assert booked["calls"] + booked["unknown"] == booked["attempts"] == asked == 1, (step, booked)
            before = fill()
        assert tried > len(some) + 40


def test_many_bookings(server):
    """What is booked is summed up now and then: the ledger does not grow with the calls."""
    ledger = client(server.url).ledger
    for _ in range(2500):
        ledger._book_failure()
    assert ledger.failed == 2500 and len(ledger._booked) < 1000
    assert ledger.reset()["failed"] == 2500 and ledger.snapshot() == NOTHING


def test_a_reset_inside_a_reset(server):
    """What resets a ledger while it is reset, as a finalizer may: each number is in one of the two."""
    found, armed = [], False

    class Resetting(str):
        """A model's name that resets the ledger whenever that looks it up."""

        __slots__ = ()

        def __hash__(self):
            nonlocal armed
            if armed:
                armed = False
                found.append(llm.ledger.reset())
            return super().__hash__()

    server.json({"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": 3}})
    llm = llmlite.Client(Resetting("m"), base_url=server.url, api_key="")
    llm.chat("hi")
    armed = True
    assert llm.ledger.reset() == NOTHING and found[0]["attempts"] == found[0]["calls"] == 1
    assert found[0]["by_model"] == {"m": llmlite.Usage(3)} and llm.ledger.snapshot() == NOTHING
