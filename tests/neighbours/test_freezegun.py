"""freezegun: calls come back though the clock stands still, and a client goes on working once it runs again.

Waits and limits are of real time: the server and its limits are outside.
"""
import time

import pytest

from tests import llmlite, testing
from tests.neighbours import METHODS, ask, run

freezegun = pytest.importorskip("freezegun")
FAST = llmlite.RetryPolicy(backoff=0.05, rate_limit_backoff=0.05)
real = time.clock_gettime  # freezegun leaves it alone


def now():
    return real(time.CLOCK_MONOTONIC)


@pytest.fixture(params=["2020-01-01", "2040-01-01"])
def frozen(request):
    """The clock stands still, in the past or in the future."""
    return lambda **how: freezegun.freeze_time(request.param, **how)


def client(server, **options):
    return llmlite.Client("m", base_url=server.url, **{"retry": FAST, "timeout": 5, **options})


# What hangs today would hang the whole run: each of these runs in a process of its own, which is ended.
START = """
    import json, sys, time, freezegun
    from tests import llmlite, testing
    from tests.neighbours import ask

    FAST = llmlite.RetryPolicy(backoff=0.05, rate_limit_backoff=0.05)
    url, method, moment = sys.argv[1:]
    clock = lambda: time.clock_gettime(time.CLOCK_MONOTONIC)
    started = clock()

    def client(**options):
        return llmlite.Client("m", base_url=url, **{"retry": FAST, "timeout": 5, **options})

    def answer(*values):
        print(json.dumps([clock() - started, *values]))

"""
MOMENTS = pytest.mark.parametrize("moment", ["2020-01-01", "2040-01-01"])


def within(code, server, method, moment, limit=8.0):
    """What the code answers: the seconds it took, and more."""
    return run(code, server.url, method, moment, start=START, limit=limit)


@METHODS
@MOMENTS
def test_rate_limited_call(server, method, moment):
    """A 429 with Retry-After is waited for, in real seconds."""
    server.error(429, retry_after=0.3)
    server.reply("ok")
    seconds, text = within("""
        with freezegun.freeze_time(moment), client() as llm:
            answer(ask(llm, method))
    """, server, method, moment)  # fmt: skip
    assert text == "ok" and server.requests[1].time - server.requests[0].time >= 0.3 and seconds < 5


@METHODS
def test_rate_limited_call_with_a_date(server, method):
    """A Retry-After that is a date is held against the server's own date, not against the frozen clock."""
    server.error(429, retry_after="Wed, 21 Oct 2015 07:28:01 GMT", headers={"Date": "Wed, 21 Oct 2015 07:28:00 GMT"})
    server.reply("ok")
    seconds, text = within("""
        with freezegun.freeze_time(moment), client() as llm:
            answer(ask(llm, method))
    """, server, method, "2020-01-01")  # fmt: skip
    assert text == "ok" and 0.9 <= server.requests[1].time - server.requests[0].time < 4.5


@METHODS
def test_declared_limit(server, method):
    """A RateLimit holds calls back in real seconds."""
    server.handle(lambda request: testing.reply("ok"))
    seconds, texts = within("""
        with freezegun.freeze_time(moment), client(rate_limit=llmlite.RateLimit(requests_per_minute=300)) as llm:
            answer([ask(llm, method) for _ in range(9)])
    """, server, method, "2040-01-01")  # fmt: skip
    assert texts == ["ok"] * 9 and server.requests[-1].time - server.requests[0].time > 0.5


@METHODS
@MOMENTS
def test_client_of_the_frozen_time_works_after_it(server, method, moment):
    """A client that was told to wait while the clock stood does not wait for years when it runs again."""
    server.error(429, retry_after=0.2)
    server.handle(lambda request: testing.reply("ok"))
    seconds, first, second, third = within("""
        limit = llmlite.RateLimit(requests_per_minute=6000, tokens_per_minute=6000000)
        with client(rate_limit=limit) as llm:
            with freezegun.freeze_time(moment):
                try:
                    first = ask(llm, method, deadline=5)
                except llmlite.LLMError as error:
                    first = str(error)
            second = ask(llm, method, deadline=5)
            with freezegun.freeze_time("2030-01-01"):
                third = ask(llm, method, deadline=5)
            answer(first, second, third)
    """, server, method, moment)  # fmt: skip
    assert (first, second, third) == ("ok", "ok", "ok") and seconds < 5


@METHODS
def test_client_that_is_made_before(server, method):
    """A client that is made and used before works while the clock stands, and after it."""
    server.handle(lambda request: testing.reply("ok"))
    seconds, *texts = within("""
        with client(rate_limit=llmlite.RateLimit(requests_per_minute=6000)) as llm:
            first = ask(llm, method)
            with freezegun.freeze_time(moment):
                second = ask(llm, method, deadline=5)
            answer(first, second, ask(llm, method, deadline=5))
    """, server, method, "2040-01-01")  # fmt: skip
    assert texts == ["ok"] * 3


@METHODS
@pytest.mark.parametrize("steps", [(testing.STALL,), tuple(x for n in range(60) for x in (b"H", 0.05))],
                         ids=["silent", "dripping"])  # fmt: skip
def test_deadline(server, method, steps):
    """A deadline is real time: it passes while the clock stands."""
    server.raw(*steps)
    seconds, kind, taken = within("""
        with freezegun.freeze_time(moment), client(retry=None) as llm:
            began = clock()
            try:
                ask(llm, method, deadline=0.5)
            except llmlite.LLMError as error:
                answer(type(error).__name__, clock() - began)
    """, server, method, "2040-01-01")  # fmt: skip
    assert kind == "DeadlineExceededError" and taken < 2


@METHODS
def test_deadline_that_spans_the_end(server, method):
    """A stream that was opened while the clock stood keeps its deadline when it runs again."""
    server.stream(["a"] * 40, gap=0.05)
    seconds, kind, taken = within("""
        with client(retry=None) as llm:
            began = clock()
            with freezegun.freeze_time(moment):
                stream = llm.stream("hi", deadline=0.6)
                next(stream)
            try:
                list(stream)
            except llmlite.LLMError as error:
                answer(type(error).__name__, clock() - began)
    """, server, method, "2040-01-01")  # fmt: skip
    assert kind == "DeadlineExceededError" and 0.3 < taken < 1.6


@METHODS
def test_clock_that_is_moved(server, method):
    """A clock that a test moves by hand moves no deadline and no wait."""
    server.error(429, retry_after=0.2)
    server.reply("ok")
    seconds, text = within("""
        with freezegun.freeze_time(moment, auto_tick_seconds=3600), client() as llm:
            answer(ask(llm, method, deadline=5))
    """, server, method, "2040-01-01")  # fmt: skip
    assert text == "ok" and server.requests[1].time - server.requests[0].time >= 0.2


@METHODS
def test_import_while_the_clock_stands(server, method):
    """A module that is imported while the clock stands has the true one as well."""
    server.error(429, retry_after=0.2)
    server.handle(lambda request: testing.reply("ok"))
    assert run("""
        import json, sys, freezegun
        url, method = sys.argv[1:]
        with freezegun.freeze_time("2040-01-01"):
            from tests import llmlite
            from tests.neighbours import ask
            with llmlite.Client("m", base_url=url, timeout=5) as llm:
                first = ask(llm, method, deadline=5)
                second = ask(llm, method, deadline=5)
        print(json.dumps([first, second]))
    """, server.url, method, limit=8) == ["ok", "ok"]  # fmt: skip


@METHODS
def test_replies_know_how_long_they_took(server, method, frozen):
    """`elapsed` of an error is real time."""
    server.error(400, delay=0.2)
    with frozen(), client(server) as llm:
        began = now()
        with pytest.raises(llmlite.BadRequestError) as caught:
            ask(llm, method)
        assert 0.2 <= caught.value.elapsed <= now() - began
