"""One cool-down for all threads of a client, and the user's own RateLimit; measured at the server."""
import functools
import logging
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import llmlite, testing
from tests.beside import METER, beside, within

POLICY = llmlite.RetryPolicy(rate_limit_backoff=30)


def client(server, **options):
    options.setdefault("retry", POLICY)
    return llmlite.Client("test", base_url=server.url, api_key="sk-test-0001", **options)


class Threads:
    """Runs functions in threads of their own; an exception in one is raised at the end."""

    def __init__(self):
        self.threads, self.errors = [], []

    def start(self, function, *arguments):
        thread = threading.Thread(target=self._run, args=(function, arguments))
        self.threads.append(thread)
        thread.start()
        return thread

    def _run(self, function, arguments):
        try:
            function(*arguments)
        except BaseException as error:
            self.errors.append(error)

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        for thread in self.threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in self.threads)
        if kind is None and self.errors:
            raise self.errors[0]


def refusing_once(at, seconds, busy=0.005):
    """An answer function: request number `at` is told to wait, the others are answered after a moment."""
    lock, seen = threading.Lock(), []

    def answer(request):
        with lock:
            seen.append(request)
            refused = len(seen) == at
        return testing.error(429, retry_after=seconds) if refused else testing.reply("ok", delay=busy)

    return answer


def told_to_wait(server, at=1):
    """When the answer that asks to wait was sent."""
    return server.requests[at - 1].sent[0][0]


class Heeded(logging.Handler):
    """Knows the threads whose calls have begun to wait: the client logs it."""

    def __init__(self):
        super().__init__()
        self.threads = set()

    def emit(self, record):
        if " retry " in record.getMessage():
            self.threads.add(record.threadName)


HEEDED = Heeded()


@pytest.fixture(scope="module", autouse=True)
def heeding():
    logging.getLogger("llmlite").addHandler(HEEDED)
    yield
    logging.getLogger("llmlite").removeHandler(HEEDED)


def wait_until_heeded(thread):
    """Until the thread's call has read that it was refused, and waits."""
    while thread.name not in HEEDED.threads:
        time.sleep(0.001)


def hold_back(server, llm, threads, seconds):
    """Have one thread of the client told to wait, and return when it has been."""
    server.error(429, retry_after=seconds)
    server.reply("ok", times=None)
    thread = threads.start(llm.chat, "told")
    wait_until_heeded(thread)
    return told_to_wait(server)


# -------------------------------------------------------------------------------------------------------- cool-down


@beside
def test_all_threads_wait(server):
    """When one of 8 threads is told to wait, none sends until then, and they start again spread, not in a herd."""
    server.handle(refusing_once(at=20, seconds=0.3))

    def work(llm):
        for _ in range(8):
            llm.chat("hello")

    with client(server) as llm, Threads() as threads:
        for _ in range(8):
            threads.start(work, llm)
    told = told_to_wait(server, 20)
    after = [request.time - told for request in server.requests if request.time > told + 0.1]  # others were under way
    assert len(server.requests) == 65
    assert len(after) >= 30  # the pause came in the middle of the work
    assert min(after) >= 0.3
    first = sorted(after)[:8]
    assert first[-1] - first[0] > 0.004
    assert within(0, told, 0.3 + 0.03 + 0.2, told + first[-1])


@beside
def test_they_start_spread(server):
    """The starts lie within a tenth of the wait after its end."""
    with client(server) as llm, Threads() as threads:
        told = hold_back(server, llm, threads, 0.3)
        for _ in range(9):
            threads.start(llm.chat, "held")
    starts = sorted(request.time - told for request in server.requests[1:])
    assert len(starts) == 10
    assert starts[0] >= 0.3
    assert within(0.3, told, 0.3 + 0.03 + 0.1, told + starts[4])  # half of them; a busy machine may hold up the others
    assert starts[-1] - starts[0] > 0.006


@pytest.mark.parametrize("how", ["stream", "models"])
@beside
def test_streams_and_model_lists_wait(server, how):
    """Streams and other calls are held back like chats."""
    with client(server) as llm, Threads() as threads:
        told = hold_back(server, llm, threads, 0.2)
        if how == "stream":
            with llm.stream("held") as pieces:
                assert "".join(pieces) == "ok"
        else:
            llm.models()
    assert [request.time - told >= 0.2 for request in server.requests] == [False, True, True]


@beside
def test_other_clients_do_not_wait(server):
    """The cool-down is the client's: another one sends at once."""
    with client(server) as llm, client(server) as other, Threads() as threads:
        told = hold_back(server, llm, threads, 0.3)
        other.chat("free")
    assert server.requests[1].json["messages"][0]["content"] == "free"
    assert within(0, told, 0.25, server.requests[1].time)


@beside
def test_own_backoff_holds_back_nobody(server):
    """Where the server asked for nothing, only the refused call backs off."""
    server.error(429)
    server.reply("ok", times=None)
    policy = llmlite.RetryPolicy(rate_limit_backoff=0.3, jitter=0)
    with client(server, retry=policy) as llm, Threads() as threads:
        wait_until_heeded(threads.start(llm.chat, "told"))
        llm.chat("free")
    first, free, again = server.requests
    assert within(0, first.time, 0.25, free.time)
    assert again.time - first.time >= 0.3


@pytest.mark.parametrize("asks", [(0.5, 0.8), (0.8, 0.5)])  # both must have been read before the shorter one ends
@beside
def test_longest_ask_counts(server, asks):
    """Of two asks the one that ends later counts, whichever came first."""
    together, number = threading.Barrier(2), iter(range(9))

    def answer(request):
        nth = next(number)
        if nth > 1:
            return testing.reply("ok")
        together.wait(5)
        return testing.error(429, retry_after=asks[nth], delay=0.02 * nth)

    server.handle(answer)
    with client(server) as llm, Threads() as threads:
        threads.start(llm.chat, "one")
        threads.start(llm.chat, "two")
    told = max(request.time for request in server.requests[:2])
    assert [request.time - told >= 0.77 for request in server.requests] == [False, False, True, True]


@beside
def test_held_back_past_the_deadline(server):
    """A call whose deadline comes before the end of the cool-down fails at once and sends nothing."""
    with client(server) as llm, Threads() as threads:
        hold_back(server, llm, threads, 1)
        started = time.monotonic()
        with pytest.raises(llmlite.DeadlineExceededError) as caught:
            llm.chat("held", deadline=0.2)
        assert within(0, started, 0.15)
    assert not any(b"held" in request.body for request in server.requests)
    assert 0.15 < caught.value.retry_after <= 1 * 1.1
    assert caught.value.attempts == 0


@beside
def test_fits_into_the_deadline(server):
    """A call whose deadline comes later waits, and is answered."""
    with client(server) as llm, Threads() as threads:
        told = hold_back(server, llm, threads, 0.15)
        assert llm.chat("held", deadline=3).text == "ok"
    assert min(request.time - told for request in server.requests[1:]) >= 0.15


@beside
def test_cooldown_ends(server):
    """After the wait nothing is held back any more."""
    server.error(429, retry_after=0.05)
    server.reply("ok", times=None)
    with client(server) as llm:
        llm.chat("told")
        started = time.monotonic()
        for _ in range(10):
            llm.chat("free")
    assert within(0, started, 0.2)


# -------------------------------------------------------------------------------------------------------- RateLimit


def times(server):
    return [request.time - server.requests[0].time for request in server.requests]


@pytest.mark.parametrize("threads_", [1, 4])
@beside
def test_requests_a_minute(server, threads_):
    """Requests are sent one by one at the rate, evenly, by however many threads."""
    server.reply("ok", times=None)
    with client(server, rate_limit=llmlite.RateLimit(requests_per_minute=1200)) as llm, Threads() as threads:
        for _ in range(threads_):
            threads.start(lambda: [llm.chat("hello") for _ in range(28 // threads_)])
    sent, late = times(server), METER.late(server.requests[0].time)
    assert len(sent) == 28
    for start in range(28):
        for end in range(start, 28):  # in no stretch of time more than 20 a second (some are late)
            assert end - start <= (sent[end] - sent[start] + late) * 20 + 2
    assert within(1.25, server.requests[0].time, 1.75, server.requests[-1].time)


@beside
def test_slow_limit_has_no_burst(server):
    """Under one a second the first call goes at once; the next one waits its whole turn, or says that it cannot."""
    server.reply("ok", times=None)
    with client(server, rate_limit=llmlite.RateLimit(requests_per_minute=6)) as llm:
        llm.chat("hello")
        started = time.monotonic()
        with pytest.raises(llmlite.DeadlineExceededError) as caught:
            llm.chat("hello", deadline=1)
    assert within(0, started, 0.2)
    assert 9 < caught.value.retry_after <= 10
    assert len(server.requests) == 1


@pytest.mark.parametrize("how", ["chat", "stream"])
@beside
def test_tokens_a_minute(server, how):
    """Tokens spent over a second's worth are waited for before the next call."""
    server.stream(["ok"], usage=(100, 20), times=None)

    def call(llm):
        if how == "chat":
            return llm.chat("hello")
        with llm.stream("hello") as pieces:
            return list(pieces)

    with client(server, rate_limit=llmlite.RateLimit(tokens_per_minute=6000)) as llm:
        call(llm)  # 120 of the 100 that are there
        call(llm)
    assert within(0.15, server.requests[0].time, 0.6, server.requests[1].time)


@beside
def test_tokens_of_answers_that_do_not_fit(server):
    """Those of an answer that does not fit its schema count too."""
    server.reply("no JSON", usage=(100, 20), times=None)
    with client(server, rate_limit=llmlite.RateLimit(tokens_per_minute=6000)) as llm:
        for _ in range(2):
            with pytest.raises(llmlite.SchemaError):
                llm.chat("hello", schema=dict)
    assert within(0.15, server.requests[0].time, 0.6, server.requests[1].time)


@beside
def test_both_limits(server):
    """Of both limits the slower one holds."""
    server.reply("ok", usage=(100, 20), times=None)
    limit = llmlite.RateLimit(requests_per_minute=60000, tokens_per_minute=6000)
    with client(server, rate_limit=limit) as llm:
        llm.chat("hello")
        llm.chat("hello")
    assert within(0.15, server.requests[0].time, 0.6, server.requests[1].time)


@beside
def test_retries_count_as_requests(server):
    """A retry takes its turn too."""
    server.error(500, times=12)
    server.reply("ok")
    policy = llmlite.RetryPolicy(max_retries=12, backoff=0)
    with client(server, retry=policy, rate_limit=llmlite.RateLimit(requests_per_minute=600)) as llm:
        llm.chat("hello")
    assert len(server.requests) == 13
    assert times(server)[-1] >= 0.15


@beside
def test_tokens_are_taken_beforehand(server):
    """max_tokens and the size of what is sent count before the answer tells what it took, and then no more."""
    answers = iter([1.0, 0, 0])
    server.handle(lambda request: testing.reply("ok", usage=(10, 10), delay=next(answers)))
    with client(server, rate_limit=llmlite.RateLimit(tokens_per_minute=60000)) as llm, Threads() as threads:
        threads.start(functools.partial(llm.chat, "a" * 400, max_tokens=1400))  # 1.5 s of them, less the one in hand
        while not server.requests:
            time.sleep(0.001)
        llm.chat("hello")
        llm.chat("hello")
    first, second, third = sorted(request.time for request in server.requests)
    assert within(0.45, first, 0.75, second)  # of 0.5 s
    assert within(0, second, 0.7, third)


@beside
def test_a_request_of_more_than_a_minutes_tokens_runs_alone(server):
    """It waits until nothing is in flight; nothing goes out until it is answered."""
    server.handle(lambda request: testing.reply("ok", usage=(1, 1), delay=0.3))
    with client(server, rate_limit=llmlite.RateLimit(tokens_per_minute=6e4)) as llm, Threads() as threads:
        threads.start(llm.chat, "small")
        while not server.requests:
            time.sleep(0.001)
        threads.start(functools.partial(llm.chat, "large", max_tokens=70000))
        while len(server.requests) < 2:
            time.sleep(0.001)
        llm.chat("small")
    first, large, last = server.requests
    assert large.json["messages"][0]["content"] == "large"
    assert within(0.3, first.time, 0.6, large.time)
    assert within(0.3, large.time, 0.6, last.time)  # its tokens were given back


@beside
def test_tokens_of_a_key_that_was_not_there_are_given_back(server):
    """A call that ends before it is sent, because its key's source fails, has taken nothing."""
    server.reply("ok", times=None)
    keys = iter([None, None, "sk-test-0001"])

    def key():
        found = next(keys)
        if found is None:
            raise ZeroDivisionError
        return found

    limit = llmlite.RateLimit(tokens_per_minute=6000)
    with llmlite.Client("m", base_url=server.url, api_key=key, rate_limit=limit) as llm:
        started = time.monotonic()
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                llm.chat("hello", max_tokens=1000)
        llm.chat("hello")
    assert within(0, started, 1)


@pytest.mark.parametrize("how", ["no usage", "cut"])
@beside
def test_tokens_that_nobody_tells(server, how):
    """Where an answer does not say what it took, what was taken beforehand stands."""
    server.stream(["ok"], usage=None, times=None)
    with client(server, rate_limit=llmlite.RateLimit(tokens_per_minute=6000)) as llm:
        for _ in range(2):
            with llm.stream("hello", max_tokens=120) as pieces:
                list(pieces) if how == "no usage" else next(iter(pieces))
    assert within(0.15, server.requests[0].time, 0.7, server.requests[1].time)


@beside
def test_a_call_that_asks_for_no_words_takes_none(server):
    """A list of models is not held against the limit of tokens."""
    server.reply("ok", usage=(1, 80), times=None)
    with client(server, rate_limit=llmlite.RateLimit(tokens_per_minute=6000)) as llm:
        llm.chat("hello")
        started = time.monotonic()
        for _ in range(12):
            llm.models()
    assert within(0, started, 0.5)


@beside
def test_files_are_no_tokens(server):
    """The bytes of a file are not taken for words: a call with a large one is held back by nothing."""
    server.reply("ok", times=None)
    picture = llmlite.user("What is it?", images=b"\x89PNG\r\n\x1a\n" + bytes(300_000))
    with client(server, rate_limit=llmlite.RateLimit(tokens_per_minute=6000)) as llm:
        llm.chat([picture])
        llm.chat([picture])
    assert len(server.requests[1].body) > 400_000
    assert within(0, server.requests[0].time, 0.5, server.requests[1].time)


@beside
def test_who_stands_in_line_and_comes_too_late(server):
    """With many in line the one whose turn is after its deadline is told at once, and sends nothing."""
    server.reply("ok", times=None)
    with client(server, rate_limit=llmlite.RateLimit(requests_per_minute=300)) as llm, Threads() as threads:
        for _ in range(7):
            threads.start(llm.chat, "hello")
        while llm._gate._in_line() < 5:
            time.sleep(0.001)
        started = time.monotonic()
        with pytest.raises(llmlite.DeadlineExceededError, match="held back") as caught:
            llm.chat("late", deadline=0.5)
        assert within(0, started, 0.3)
    assert caught.value.retry_after > 0.5
    assert len(server.requests) == 7


@beside
def test_held_up_in_line_up_to_the_deadline(server):
    """A call that stands behind another, which is told to wait longer than it looked, ends at its deadline."""
    waits = {"slow": dict(retry_after=1.6, delay=0.5), "told": dict(retry_after=0.7)}
    asked = set()

    def answer(request):
        words = request.json["messages"][0]["content"]
        first = words not in asked
        asked.add(words)
        return testing.error(429, **waits[words]) if first and words in waits else testing.reply("ok")

    server.handle(answer)
    with client(server) as llm, Threads() as threads:
        threads.start(llm.chat, "slow")
        while not server.requests:
            time.sleep(0.001)
        wait_until_heeded(threads.start(llm.chat, "told"))
        started = time.monotonic()
        with pytest.raises(llmlite.DeadlineExceededError, match="held back"):
            llm.chat("late", deadline=1)
        assert within(0, started, 1.25)  # at its deadline; earlier, where it comes to be the first in line before
    assert "late" not in asked


@beside
def test_behind_one_that_does_not_move(server):
    """A call that stands behind another ends at its deadline, wherever that one is."""
    server.reply("ok", times=None)
    with client(server) as llm:
        line = llm._gate._lines.setdefault("test", vars(sys.modules[llmlite.Client.__module__])["_Line"]())
        line.calls.add(llm)  # anybody
        line.lock.acquire()
        started = time.monotonic()
        errors = []

        def ask():
            with pytest.raises(llmlite.DeadlineExceededError, match="held back") as caught:
                llm.chat("hello", deadline=0.3)
            errors.append(caught.value)

        with Threads() as threads:
            threads.start(ask)
        line.lock.release()
    assert within(0.3, started, 0.55)
    assert errors[0].attempts == 0 and server.requests == []


def test_a_wait_that_has_passed_since_it_was_reckoned(server):
    """It is no wait, and no error."""
    with client(server) as llm:
        call = llm._call(llm._chat)
        llm._gate._rest(call, -1e-9)
        assert call.attempts == 0


@beside
def test_told_to_wait_longer_while_first_in_line(server):
    """The first in line looks again when its wait is over; where it would come too late now, it says so at once."""
    waits = {"slow": dict(retry_after=2, delay=0.35), "told": dict(retry_after=0.6)}
    server.handle(lambda request: testing.error(429, **waits[request.json["messages"][0]["content"]]))

    def late(words, seconds):
        with pytest.raises(llmlite.DeadlineExceededError):
            llm.chat(words, deadline=seconds)

    with client(server) as llm, Threads() as threads:
        threads.start(late, "slow", 1)
        while not server.requests:
            time.sleep(0.001)
        late("told", 0.2)
        started = time.monotonic()
        with pytest.raises(llmlite.DeadlineExceededError, match="held back for 1"):
            llm.chat("hello", deadline=1)
        assert within(0, started, 0.9)
    assert len(server.requests) == 2


def test_a_long_wait_is_logged(server, caplog):
    """A call that is held back for over half a second says so; one that is for less does not."""
    server.reply("ok", times=None)
    with caplog.at_level(logging.INFO, "llmlite"), client(
            server, rate_limit=llmlite.RateLimit(requests_per_minute=90)) as llm:
        llm.chat("hello")
        llm.chat("hello")
        time.sleep(0.4)
        llm.chat("hello")
    said, = (record.getMessage() for record in caplog.records if "held back" in record.getMessage())
    assert re.fullmatch(r"compatible test: held back for 0\.[567] s", said)


@beside
def test_no_limit(server):
    """Without a limit nothing is held back."""
    server.reply("ok", times=None)
    with client(server, rate_limit=llmlite.RateLimit()) as llm:
        for _ in range(30):
            llm.chat("hello")
    assert within(0, server.requests[0].time, 1, server.requests[-1].time)


@pytest.mark.parametrize("field", ["requests_per_minute", "tokens_per_minute"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_limit_is_checked(field, value):
    """A limit of nothing, or of no number, is refused and named."""
    with pytest.raises(llmlite.ConfigurationError, match=field):
        llmlite.RateLimit(**{field: value})


@beside
def test_the_spread_leaves_a_deadline_its_time(server):
    """A wait that fits into the deadline is waited: the spread after it is cut to what is left, not held against it."""
    asked = set()

    def answer(request):
        again = request.body in asked
        asked.add(request.body)
        return testing.reply("ok") if again else testing.error(429, retry_after=6)

    def call(number):
        began = time.monotonic()
        try:
            return llmlite.Client("m", base_url=server.url).chat(number, deadline=6.4).text == "ok"
        except llmlite.DeadlineExceededError:
            return METER.stood_still(began, 0.1)

    server.handle(answer)
    with ThreadPoolExecutor(6) as pool:  # uncut, each would fail in a third of the cases
        assert all(pool.map(call, "123456"))
