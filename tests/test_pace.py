"""The pace that a client learns: thousands of servers and threads in virtual time, then some over real sockets."""
import heapq
import itertools
import math
import random
import statistics
import sys
import threading
import time

import pytest

from tests import llmlite, testing
from tests.benchmarks.__main__ import followed
from tests.beside import METER, beside, within

Pace = vars(sys.modules[llmlite.Client.__module__])["_Pace"]


class Bucket:
    """A server that grants so many calls a second, and so many at once after a rest."""

    def __init__(self, rate, size):
        self.rate, self.size, self.level, self.at = rate, size, size, 0.0

    def ask(self, now):
        """The seconds until the next grant; 0: granted."""
        self.level, self.at = min(self.size, self.level + (now - self.at) * self.rate), now
        if self.level < 1 - 1e-9:
            return (1 - self.level) / self.rate
        self.level -= 1
        return 0.0


class Window:
    """A server that grants so many calls in each stretch of so many seconds."""

    def __init__(self, calls, seconds):
        self.calls, self.seconds, self.begun, self.used = calls, seconds, 0.0, 0

    def ask(self, now):
        if now >= self.begun + self.seconds:
            self.begun, self.used = now // self.seconds * self.seconds, 0
        self.used += 1
        return self.begun + self.seconds - now if self.used > self.calls else 0.0


ASKS = {  # what a refusal asks for
    "seconds": math.ceil,
    "milliseconds": lambda wait: max(1, math.ceil(wait * 1000)) / 1000,
    "nothing": lambda wait: None,
}


class World:
    """Threads of one client that call a server, in virtual time; the client does as `_Gate` and RetryPolicy() do."""

    def __init__(self, server, asks, calls, threads, latency, changes=(), seed=1):
        self.server, self.asks, self.latency, self.left = server, ASKS[asks], latency, calls
        self.random, self.pace, self.count = random.Random(seed), Pace(), itertools.count()
        self.events, self.line, self.asleep = [], [], False
        self.granted, self.refused, self.ended = [], [], 0.0
        for at, rate in changes:
            self.later(at, self.change, rate)
        for _ in range(min(threads, calls)):
            self.call(0.0)
        while self.events:
            now, _, step, given = heapq.heappop(self.events)
            step(now, *given)

    def later(self, at, step, *given):
        heapq.heappush(self.events, (at, next(self.count), step, given))

    def change(self, now, rate):
        self.server.ask(now)
        self.server.rate = rate

    def call(self, now):
        if self.left:
            self.left -= 1
            self.enter(now, 0)

    def enter(self, now, tries):
        self.line.append(tries)
        self.pump(now)

    def pump(self, now):
        while self.line and not self.asleep:
            delay = self.pace.delay(now)
            if delay > 0:
                self.asleep = True
                self.later(now + max(delay, 1e-6) + self.random.random() * 5e-4, self.wake)
                return
            turn = self.pace.take(now)
            self.later(now + 5e-4 + self.random.random() * 2e-3, self.arrive, turn, self.line.pop(0))

    def wake(self, now):
        self.asleep = False
        self.pump(now)

    def arrive(self, now, turn, tries):
        wait = self.server.ask(now)
        if wait:
            self.refused.append(now)
            self.later(now + 0.005 * (0.5 + self.random.random()), self.refuse, turn, tries, self.asks(wait))
        else:
            self.granted.append(now)
            self.later(now + self.latency * (0.5 + self.random.random()), self.done)

    def done(self, now):
        self.ended = now
        self.call(now)
        self.pump(now)

    def refuse(self, now, turn, tries, ask):
        self.pace.refused(turn, now, ask)
        retry = tries - self.pace.is_known()
        backoff = 0.0 if ask else 0.25 if retry < 0 else min(5.0 * 2 ** retry, 60.0)
        self.later(now + backoff * (0.5 + self.random.random()), self.enter, tries + 1)
        self.pump(now)

    def rate(self, begin, end):
        return sum(begin <= at < end for at in self.granted) / (end - begin)


@pytest.mark.parametrize("asks, most", [("seconds", 1.2), ("milliseconds", 1.05), ("nothing", 1.05)])
@pytest.mark.parametrize("threads", [16, 32, 100])
@pytest.mark.parametrize("latency", [0.002, 0.02, 0.1])
def test_fifty_a_second(asks, most, threads, latency):
    """1,000 calls at 50/s, 10 at once: little slower than that, few refused but those in flight at first."""
    for seed in range(3):
        world = World(Bucket(50, 10), asks, 1000, threads, latency, seed=seed)
        assert len(world.granted) == 1000
        assert world.ended / ((1000 - 10) / 50) < most
        assert len(world.refused) <= threads + 20


@pytest.mark.parametrize("asks, rate, begin, end", [
    *itertools.product(["milliseconds", "nothing"], [40, 50, 100], [8, 10.3], [20, 21.5]),
    *itertools.product(["seconds"], [50, 100], [8, 10.3], [20, 21.5])])
def test_a_grant_that_halves_and_doubles_is_followed(asks, rate, begin, end):
    """5 s after each change the calls go out at about what is granted then."""
    changes = (begin, rate / 2), (end, rate)
    worlds = [World(Bucket(rate, 10), asks, rate * 45, 32, 0.02, changes, seed) for seed in range(3)]
    least = 0.55 if asks == "seconds" else 0.9  # a wait of a whole second may lie in the three that are looked at
    assert all(world.rate(begin + 5, begin + 8) > least * rate / 2 for world in worlds)
    assert all(world.rate(end + 5, end + 8) > least * rate for world in worlds)
    assert statistics.mean(world.rate(end + 5, end + 11) for world in worlds) > 0.8 * rate
    assert all(len(world.refused) <= 32 + 0.02 * len(world.granted) for world in worlds)


@pytest.mark.parametrize("asks", ASKS)
def test_a_change_is_followed_within_five_seconds_whenever_it_comes(asks):
    """Whatever the pace was at when the grant of 50 a second changed: two seconds within a fifth of it end by then."""
    for step in range(12):
        begin, end = 6 + step * 1.7, 14 + step * 2.3
        world = World(Bucket(50, 10), asks, int(50 * (end + 7)), 32, 0.02, ((begin, 25), (end, 50)), step)
        assert followed(world.granted, begin, end, 25) <= 5, begin
        assert followed(world.granted, end, end + 8, 50) <= 5, end


SERVERS = [*itertools.product([0.5, 2, 10, 50, 300], [1, 5, 20, 100])]


@pytest.mark.parametrize("asks", ASKS)
def test_any_server_is_kept_busy(asks):
    """Over servers of all sizes, threads and latencies: hardly slower than they allow, never more than thrice."""
    slower, refused = [], []
    for (rate, size), threads, latency in itertools.product(SERVERS, [1, 8, 32, 200], [0.005, 0.3, 3.0]):
        calls = int(min(2000, max(rate * 60 + size, 100)))
        world = World(Bucket(rate, size), asks, calls, threads, latency)
        assert len(world.granted) == calls
        slower.append(world.ended / (max((calls - size) / rate, calls * latency / threads) + latency))
        refused.append(max(0, len(world.refused) - threads) / calls)
    assert len(slower) == 240
    assert statistics.median(slower) < 1.05 and max(slower) < 3
    assert statistics.median(refused) < 0.02 and max(refused) < 0.25  # the most: 0.5 a second, no word


@pytest.mark.parametrize("asks, most", [("seconds", 1.5), ("milliseconds", 1.4), ("nothing", 4)])
@pytest.mark.parametrize("calls, seconds", [(10, 1), (100, 10), (60, 60), (1000, 60)])
@pytest.mark.parametrize("threads", [4, 32])
def test_windows_are_kept_busy(asks, most, calls, seconds, threads):
    """A server that grants so many calls a minute, and no more until the next one."""
    world = World(Window(calls, seconds), asks, calls * 6, threads, 0.05)
    assert len(world.granted) == calls * 6
    assert world.ended < 5 * seconds * most + 1


class Outage:
    """A server without a limit that refuses all for some seconds."""

    def __init__(self, begin, end):
        self.begin, self.end = begin, end

    def ask(self, now):
        return 1.0 if self.begin <= now < self.end else 0.0


@pytest.mark.parametrize("asks", ["seconds", "nothing"])
@pytest.mark.parametrize("threads", [8, 32, 200])
@pytest.mark.parametrize("lasts", [3, 20, 60])
def test_an_outage_is_soon_forgotten(asks, threads, lasts):
    """Half a minute after a server has refused all for some time the calls go out as before."""
    world = World(Outage(10, 10 + lasts), asks, threads * 150, threads, 1.0)
    assert world.rate(10 + lasts + 30, 10 + lasts + 40) > 0.8 * threads


class Odd:
    """A server without a limit that refuses so many in a hundred, whatever goes out."""

    def __init__(self, refuses):
        self.refuses, self.random = refuses, random.Random(3)

    def ask(self, now):
        return 1.0 if self.random.random() < self.refuses else 0.0


@pytest.mark.parametrize("asks, refuses, seconds", [
    ("seconds", 0.01, 180), ("seconds", 0.03, 900), ("seconds", 0.1, 5000),  # nothing goes out as long as each asks
    ("nothing", 0.01, 60), ("nothing", 0.03, 100), ("nothing", 0.1, 1800)])
def test_odd_refusals_do_not_bring_it_to_a_stand(asks, refuses, seconds):
    """Refusals that have nothing to do with the pace make it slow, and no slower with each; it is 47 s without any."""
    assert World(Odd(refuses), asks, 5000, 32, 0.3).ended < seconds


@pytest.mark.parametrize("asks, recovers", [("seconds", 3), ("nothing", 8)])
@pytest.mark.parametrize("threads", [8, 32])
def test_an_outage_of_ten_seconds_leaves_the_pace_as_it_was(asks, recovers, threads):
    """What refuses all tells no pace: soon after its end the calls go out as before."""
    world = World(Outage(10, 20), asks, threads * 200, threads, 0.2)
    assert world.rate(20 + recovers, 22 + recovers) > 0.8 * threads / 0.2


def test_nothing_is_held_back_before_a_refusal():
    """Whatever goes out, the pace of a client that was never refused holds nothing back."""
    pace = Pace()
    assert [pace.delay(now * 1e-6) for now in range(5000) if pace.take(now * 1e-6)] == [0.0] * 5000


def test_after_an_idle_hour_nothing_is_held_back():
    """What was learnt long ago is forgotten; a refusal of then, which comes only now, begins anew."""
    pace, now = Pace(), 0.0
    for turn in range(1, 200):
        delay = pace.delay(now)
        now += max(delay, 0.05)
        pace.take(now)
        if turn % 2:
            pace.refused(turn, now, 1.0)
    assert pace.delay(now + 0.5) == pytest.approx(0.5) and pace.rate < 100
    later = now + 3600
    assert [pace.delay(later) for _ in range(100) if pace.take(later)] == [0.0] * 100
    pace.refused(1, later, 1.0)
    assert pace.delay(later) == 1.0


def starts_of(pace):
    """When calls go out in the tenth of a second after the first one."""
    now, starts = 1.0, []
    while now < 1.1:
        delay = pace.delay(now)
        if delay <= 0:
            starts.append(now)
            pace.take(now)
        now += max(delay, 1e-6)
    return starts


def test_after_a_wait_calls_start_apart():
    """Those that may go out at once after a wait do within a tenth of it, one after the other."""
    pace = Pace()
    for _ in range(11):
        pace.take(0.0)
    pace.refused(11, 0.0, 1.0)
    assert (pace.delay(0.0), pace.delay(0.9)) == (1.0, pytest.approx(0.1))
    starts = starts_of(pace)
    assert 6 <= len(starts) <= 10  # half of the ten that were granted at once, and what comes in meanwhile
    assert min(later - earlier for earlier, later in zip(starts, starts[1:])) > 0.008


def test_after_a_wait_that_was_no_refusal_calls_start_apart():
    """A server that is down for a while tells nothing of a pace: after the tenth nothing is held back."""
    pace = Pace()
    pace.pause(0.0, 1.0, 5)
    assert pace.delay(0.0) == 1.0
    starts = starts_of(pace)
    assert starts == pytest.approx([1.0, 1.025, 1.05, 1.075], abs=0.001)
    assert [pace.delay(1.11) for _ in range(100) if pace.take(1.11)] == [0.0] * 100


# ----------------------------------------------------------------------------------------------------- real sockets


class Granting:
    """Answers as a bucket grants; with headers, if asked for."""

    def __init__(self, rate, size, headers, status=429):
        self.bucket, self.headers, self.lock, self.status = Bucket(rate, size), headers, threading.Lock(), status
        self.granted, self.refused = [], []

    def __call__(self, request):
        with self.lock:
            now = time.monotonic()
            wait = self.bucket.ask(now)
            (self.refused if wait else self.granted).append(now)
            headers = self.headers(self.bucket, wait)
        return testing.error(self.status, headers=headers) if wait else testing.reply("ok", headers=headers)


def limits(bucket, wait):
    full = math.ceil((bucket.size - bucket.level) / bucket.rate * 1000)
    return {"x-ratelimit-limit-requests": str(bucket.size), "x-ratelimit-remaining-requests": str(int(bucket.level)),
            "x-ratelimit-reset-requests": f"{full}ms", **({"Retry-After": "1"} if wait else {})}


HEADERS = {
    "milliseconds": lambda bucket, wait: {"retry-after-ms": str(max(1, math.ceil(wait * 1000)))} if wait else {},
    "nothing": lambda bucket, wait: {},
    "headers": limits,
}


@pytest.mark.parametrize("how", HEADERS)
@beside
def test_many_calls_over_many_threads(server, how):
    """600 calls over 16 threads at 200/s: no failure, hardly slower than granted, few refused."""
    granting = Granting(200, 20, HEADERS[how])
    server.handle(granting)
    with llmlite.Client("m", base_url=server.url) as llm:
        started = time.monotonic()
        replies = list(llm.map(["hello"] * 600, workers=16))
        assert within(0, started, (600 - 20) / 200 * 1.1 + 1.2 * (how == "headers") + 0.3)
    assert [reply.text for reply in replies] == ["ok"] * 600
    assert len(granting.refused) <= 16 + 0.02 * 600
    assert llm.ledger.retries == len(granting.refused)


@beside
def test_a_declared_limit_is_never_refused(server):
    """With what the server grants declared no call is refused, and none too late."""
    granting = Granting(50, 10, HEADERS["nothing"])
    server.handle(granting)
    with llmlite.Client("m", base_url=server.url, rate_limit=llmlite.RateLimit(requests_per_minute=3000)) as llm:
        started = time.monotonic()
        assert sum(reply.text == "ok" for reply in llm.map(["hello"] * 90, workers=16)) == 90
        assert within(1.6, started, 1.9)
    assert granting.refused == [] or METER.stood_still(started, 0.1)  # then they came in a herd


@pytest.mark.parametrize("more, wait", [
    ({}, 0.4), ({"x-ratelimit-limit-requests": "4"}, 0.1),
    ({"Date": "Sun, 06 Nov 1994 08:49:07 GMT", "x-ratelimit-reset-requests": "1994-11-06T08:49:07.4Z"}, 0.4)])
@beside
def test_what_a_good_answer_says_counts_at_once(server, more, wait):
    """Nothing left: the next call waits for the reset or, where the limit is said, for its part of it."""
    spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "400ms", **more}
    server.reply("first", headers=spent)
    server.reply("ok", times=None)
    with llmlite.Client("m", base_url=server.url) as llm:
        llm.chat("hello")
        llm.chat("hello", model="another")  # has limits of its own
        llm.chat("hello")
    first, other, second = server.requests
    assert within(0, first.time, 0.08, other.time)
    assert within(wait - 0.02, first.time, wait + 0.1, second.time)


@beside
def test_models_stand_in_lines_of_their_own(server):
    """A call that waits for its model's limit does not hold up those of another model."""
    spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "600ms"}
    server.reply("first", headers=spent)
    server.reply("ok", times=None)
    with llmlite.Client("m", base_url=server.url) as llm:
        llm.chat("hello")
        thread = threading.Thread(target=llm.chat, args=("held",))
        thread.start()
        while not llm._gate._in_line():
            time.sleep(0.001)
        llm.chat("free", model="another", deadline=0.3)
        thread.join()
        assert llm._gate._in_line() == 0
    assert [request.json["messages"][0]["content"] for request in server.requests] == ["hello", "free", "held"]


@beside
def test_tokens_that_are_left_count(server):
    """A call that needs more tokens than are left waits until they have come in."""
    spent = {"x-ratelimit-limit-tokens": "1000", "x-ratelimit-remaining-tokens": "100",
             "x-ratelimit-reset-tokens": "900ms"}
    server.reply("first", headers=spent)
    server.reply("ok", times=None)
    with llmlite.Client("m", base_url=server.url) as llm:
        llm.chat("hello")
        llm.chat("hello", max_tokens=10)
        llm.chat("hello", max_tokens=330)
    first, small, large = server.requests
    assert within(0, first.time, 0.08, small.time)
    assert within(0.2, first.time, 0.45, large.time)  # 300 at 1,000 a second


@beside
def test_anthropic_counts_answers_as_they_come(server):
    """There max_tokens counts nothing: what answers took so far does."""
    def answer(request):
        reset = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
        left = "0" if len(server.requests) == 10 else "7000"
        return testing.reply("ok", usage=(1, 50), headers={
            "anthropic-ratelimit-output-tokens-limit": "8000", "anthropic-ratelimit-output-tokens-remaining": left,
            "anthropic-ratelimit-output-tokens-reset": reset})

    server.handle(answer)
    with llmlite.Client("anthropic/m", base_url=server.root, api_key="sk-test-0001") as llm:
        for _ in range(11):
            llm.chat("hello", max_tokens=8000)
    first, last, held = server.requests[0], server.requests[9], server.requests[10]
    assert within(0, first.time, 0.5, last.time)
    assert within(0.15, last.time, 0.6, held.time)  # for some 35, which come in at 8000 / 60 a second


@pytest.mark.parametrize("headers", [
    {"x-ratelimit-remaining-requests": "0"},
    {"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "1s"},
    {"x-ratelimit-remaining-requests": "0", "x-ratelimit-limit-requests": "0", "x-ratelimit-reset-requests": "1s"},
    {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"},
    {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "-1"},
    {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6h"},  # over retry_after_max
    {"x-budget-remaining": "0", "x-budget-reset": "1s"},
], ids=str)
@pytest.mark.parametrize("retry", [llmlite.RetryPolicy(), None], ids=["retries", "no retries"])
@beside
def test_headers_that_say_nothing(server, headers, retry):
    """What cannot be read, or is too long to wait, holds nothing back."""
    server.reply("ok", headers=headers, times=None)
    with llmlite.Client("m", base_url=server.url, retry=retry) as llm:
        for _ in range(3):
            llm.chat("hello")
    assert within(0, server.requests[0].time, 0.3, server.requests[2].time)


@beside
def test_models_without_number(server):
    """Of many models only so many limits are kept."""
    server.reply("ok", headers={"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "1s"}, times=None)
    with llmlite.Client("m", base_url=server.url) as llm:
        for nth in range(140):
            llm.chat("hello", model=f"m{nth}")
        assert len(llm._gate._allowances) < 131


@pytest.mark.parametrize("status", [429, 503, 529])
@beside
def test_a_known_pace_needs_no_backoff(server, status):
    """Where a server has granted many calls at once and refuses without a word, the refused ones wait a moment only."""
    come, ten = itertools.count(1), threading.Event()

    def answer(request):
        nth = next(come)
        if nth == 10:
            ten.set()
        if 10 < nth <= 15:
            return testing.error(status)
        assert ten.wait(5)  # so many are granted at once, however slow the machine is
        return testing.reply("ok")

    server.handle(answer)
    with llmlite.Client("m", base_url=server.url) as llm:  # with RetryPolicy() the backoff would be 2.5 s at the least
        started = time.monotonic()
        assert len(list(llm.map(["hello"] * 30, workers=15))) == 30
        assert within(0.1, started, 2.2)
        assert llm.ledger.retries == 5


@beside
def test_a_pace_is_learnt_anew_by_a_copy(server):
    """A pickled client starts afresh."""
    import pickle
    server.error(429, retry_after=0.4)
    server.reply("ok", times=None)
    with llmlite.Client("m", base_url=server.url) as llm:
        thread = threading.Thread(target=llm.chat, args=("told",))
        thread.start()
        while not llm._gate._pace.until > 0:
            time.sleep(0.001)
        with pickle.loads(pickle.dumps(llm)) as copy:
            copy.chat("free")
        thread.join()
    assert within(0, server.requests[0].time, 0.3, server.requests[1].time)
