"""How long is waited before a retry: what servers ask for, read off the error; delays, measured at the server."""
import datetime
import email.utils
import time

import pytest

from tests import llmlite, testing
from tests.beside import METER, beside, within

SLOW = llmlite.RetryPolicy(max_retries=2, backoff=30, backoff_max=30, rate_limit_max_retries=2, rate_limit_backoff=30)
DATE = "Sun, 06 Nov 1994 08:49:07 GMT"  # 30 s before the dates below
SLACK = 0.2  # seconds a busy machine may be late


def client(server, retry, **options):
    return llmlite.Client("test", base_url=server.url, api_key="sk-test-0001", retry=retry, **options)


def fails(server, retry, **options):
    with client(server, retry, **options) as llm, pytest.raises(llmlite.LLMError) as caught:
        llm.chat("hello")
    return caught.value


def gaps(server):
    """Seconds between the requests, as they came in."""
    times = [request.time for request in server.requests]
    return [after - before for before, after in zip(times, times[1:])]


def slack(server):
    """Seconds that a gap may be longer: what a busy machine needs, and what it has been late so far."""
    return SLACK + METER.late(server.requests[0].time)


# --------------------------------------------------------------------------------------------------- what is asked for


def asked(server, headers, body):
    """The `retry_after` of the error that a 429 with these headers and this body is."""
    server.json(body or {"error": {"message": "slow down"}}, status=429, headers=headers)
    error = fails(server, None)
    assert type(error) is llmlite.RateLimitError
    return error.retry_after


def delay(value):
    """A body with Google's RetryInfo."""
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": value}
    return {"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED", "details": [detail]}}


def says(message):
    return {"error": {"message": message}}


@pytest.mark.parametrize("value, seconds", [
    ("2", 2), ("120", 120), ("0.25", 0.25), ("12.5", 12.5), (".5", 0.5), ("5.", 5), ("1s", 1), ("20ms", 0.02),
    ("2m59.56s", 179.56), ("1h2m3s", 3723), ("6m0s", 360), ("500us", 0.0005), ("1000000ns", 0.001),
    ("Sun, 06 Nov 1994 08:49:37 GMT", 30), ("Sunday, 06-Nov-94 08:49:37 GMT", 30), ("Sun Nov  6 08:49:37 1994", 30)])
def test_retry_after(server, value, seconds):
    """Retry-After is read as seconds, fractions, durations and all three HTTP-dates, by the server's own clock."""
    assert asked(server, {"Retry-After": value, "Date": DATE}, None) == pytest.approx(seconds)


@pytest.mark.parametrize("value, seconds", [("150", 0.15), ("1500.5", 1.5005), ("1", 0.001)])
def test_retry_after_ms(server, value, seconds):
    """`retry-after-ms` is in milliseconds."""
    assert asked(server, {"retry-after-ms": value}, None) == pytest.approx(seconds)


def test_date_without_a_clock(server):
    """Where the server gives no Date, an HTTP-date is taken by our own clock."""
    when = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 58 < asked(server, {"Retry-After": when}, None) <= 60


@pytest.mark.parametrize("value, seconds", [
    ("37s", 37), ("45.837906927s", 45.837906927), ("0.050s", 0.05), ("1.000000001s", 1.000000001)])
def test_retry_info(server, value, seconds):
    """Google's RetryInfo in the body is read, also when the body is a list of one."""
    assert asked(server, {}, delay(value)) == pytest.approx(seconds)
    assert asked(server, {}, [delay(value)]) == pytest.approx(seconds)


@pytest.mark.parametrize("message, seconds", [
    ("Rate limit reached. Please try again in 20ms. Visit us.", 0.02), ("Please retry in 43.71s.", 43.71),
    ("Please retry in 10h17m5.7s.", 37025.7), ("try again in 6m0s", 360), ("Please try again in 7.66s", 7.66),
    ("Retry after 10 seconds.", 10), ("Please try again in 1.5 seconds", 1.5),
    ("Please try again later", None), ("try again in a minute", None), ("Please retry in 1.2.3s", None)])
def test_words(server, message, seconds):
    """What the message asks for in words is read where nothing else is said."""
    assert asked(server, {}, says(message)) == (seconds and pytest.approx(seconds))


NOTHING = ["0", "0.0", "-5", "-0.5", "+-1", "nan", "NaN", "inf", "-inf", "Infinity", "1_000", "1e3", "0x10", "\u00b2",
           "soon", "", " ", "60, 60", "1 2", "s", "1y", "1s2", "-1s", "0s", "0ms", "true", "None", ".", "1..5",
           "Sun, 06 Nov 1994 08:49:07 GMT", "Sun, 06 Nov 1994 08:48:00 GMT", "Sunday, 06-Nov-94 08:48:37 GMT",
           "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 36 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 99999 08:49:37 GMT",
           "Sun, 06 Nov 1994 08:49:37 +99999999999999999999", "06 Nov", ",,,", "1994-11-06T08:49:37Z"]


@pytest.mark.parametrize("value", NOTHING)
def test_no_ask(server, value):
    """Zero, negative, past and unreadable values are no asks; float()'s own "nan", "inf" and "1_000" are unreadable."""
    server.handle(lambda request: testing.error(429, headers={"Date": DATE, request.headers["x-name"]: value}))
    with client(server, None) as llm:
        for name in ("Retry-After", "retry-after-ms"):
            with pytest.raises(llmlite.RateLimitError) as caught:
                llm.chat("hello", headers={"x-name": name})
            assert caught.value.retry_after is None


@pytest.mark.parametrize("value", ["0s", "-3s", "nans", "1_0s", "\u0661\u0662s", "\u0661\u0662", "", "soon", 12, None,
                                   [1], {}])
def test_no_retry_info(server, value):
    """Nor are a body's zero, negative or unreadable delays: foreign digits are no number either."""
    assert asked(server, {}, delay(value)) is None


@pytest.mark.parametrize("headers, body, seconds", [
    ({"retry-after-ms": "50", "Retry-After": "9"}, delay("7s"), 0.05),
    ({"retry-after-ms": "soon", "Retry-After": "9"}, delay("7s"), 9),
    ({"retry-after-ms": "0", "Retry-After": "0"}, delay("7s"), 7),
    ({"Retry-After": "9"}, says("try again in 3s"), 9),
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "5s"}, delay("7s"), 7),
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "5s"}, says("try again in 3s"), 3),
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "5s", "Retry-After": "-1"}, None, 5)])
def test_order_of_asks(server, headers, body, seconds):
    """First come milliseconds, then Retry-After, the body's delay, its words, reset headers; bad ones are passed."""
    assert asked(server, headers, body) == pytest.approx(seconds)


# -------------------------------------------------------------------------------------------------------- reset headers


def limits(**rows):
    """x-ratelimit-* headers; a row is name=(remaining, reset)."""
    headers = {}
    for name, (remaining, reset) in rows.items():
        headers["x-ratelimit-remaining-" + name] = remaining
        headers["x-ratelimit-reset-" + name] = reset
    return headers


@pytest.mark.parametrize("headers, seconds", [
    (limits(requests=("0", "1s")), 1), (limits(requests=("0", "6m0s")), 360), (limits(tokens=("0", "7.66s")), 7.66),
    (limits(tokens=("0", "20ms")), 0.02), (limits(tokens=("0", "1h2m3s")), 3723), (limits(tokens=("0", "59")), 59),
    (limits(tokens=("0", "11.38286")), 11.38286), (limits(tokens=("0.0", "3")), 3),
    (limits(requests=("0", "2s"), tokens=("900", "5m0s")), 2),  # only the spent one counts
    (limits(requests=("99", "8s"), tokens=("0", "3s")), 3),
    (limits(requests=("0", "2s"), tokens=("0", "9s")), 9),  # all that are spent must have come back
    (limits(requests=("0", "-1"), tokens=("0", "9s")), 9),
    ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "4"}, 4),
    ({"ratelimit-remaining": "0", "ratelimit-reset": "4"}, 4),
    ({"X-RateLimit-Remaining-Requests": "0", "X-RateLimit-Reset-Requests": "4s"}, 4),
    (limits(requests=("7", "8s"), tokens=("1", "3s")), None), (limits(requests=("-1", "8s")), None),
    (limits(requests=("", "8s")), None), (limits(requests=("0", "-1")), None), (limits(requests=("0", "0s")), None),
    (limits(requests=("0", "soon")), None), ({"x-ratelimit-reset-requests": "8s"}, None),
    ({"x-ratelimit-remaining-requests": "0"}, None), (limits(requests=("0", "nan")), None),
    (limits(requests=("0", "2026-13-45T99:00:00Z")), None), (limits(requests=("0", "0000-01-01T00:00:00Z")), None),
    (limits(requests=("0", "1994-11-06T08:49:37Z")), None), (limits(requests=("0", "784111777")), None)])
def test_reset_headers(server, headers, seconds):
    """Where nothing else is said, the reset of the limits that are spent is waited for; of the others never."""
    assert asked(server, headers, None) == (seconds and pytest.approx(seconds))


def rfc3339(seconds, zone=datetime.timezone.utc, form="%Y-%m-%dT%H:%M:%S"):
    when = datetime.datetime.now(zone) + datetime.timedelta(seconds=seconds)
    return when.strftime(form) + "." + format(when.microsecond, "06d")


EAST = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
WEST = datetime.timezone(datetime.timedelta(hours=-8))


@pytest.mark.parametrize("make", [
    lambda: rfc3339(60) + "Z", lambda: rfc3339(60) + "+00:00", lambda: rfc3339(60, EAST) + "+05:30",
    lambda: rfc3339(60, WEST) + "-08:00", lambda: rfc3339(60, WEST) + "-0800", lambda: rfc3339(60).lower() + "z",
    lambda: str(int(time.time()) + 60), lambda: str(time.time() + 60), lambda: str(int(time.time() * 1000) + 60000)])
@pytest.mark.parametrize("remaining, reset", [
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")])
def test_reset_times(server, remaining, reset, make):
    """A reset may be a time: RFC 3339 in any zone, or Unix time in seconds or milliseconds."""
    assert 57 < asked(server, {remaining: "0", reset: make()}, None) <= 60.1


@pytest.mark.parametrize("date, seconds", [(DATE, 30), ("soon", None)])
@pytest.mark.parametrize("reset", ["1994-11-06T08:49:37Z", "784111777", "784111777000"])
def test_reset_times_by_the_clock_of_the_server(server, reset, date, seconds):
    """A time is held against the answer's Date: the clock here may be wrong."""
    headers = {"Date": date, "anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": reset}
    assert asked(server, headers, None) == seconds


def test_a_reset_on_the_second(server):
    """A time without a fraction is that very second."""
    began = time.time()
    at = int(began) + 60
    reset = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))}
    wait = asked(server, reset, None)
    assert at - time.time() <= wait <= at - began


def test_reset_headers_in_the_body(server):
    """A router repeats the headers of the provider behind it in its error's metadata."""
    told = {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "4"}
    assert asked(server, {}, {"error": {"message": "no", "code": 429, "metadata": {"headers": told}}}) == 4


# -------------------------------------------------------------------------------------------------- asks are kept to


def google(seconds):
    return {"obj": delay(f"{seconds}s"), "status": 429}


@pytest.mark.parametrize("make", [
    lambda server: server.error(429, headers={"retry-after-ms": "100"}),
    lambda server: server.error(503, retry_after="0.1"), lambda server: server.error(500, retry_after="100ms"),
    lambda server: server.error(429, retry_after=0.1), lambda server: server.json(delay("0.1s"), status=429),
    lambda server: server.json(delay("0.1s")), lambda server: server.error(429, "Please try again in 100ms."),
    lambda server: server.error(429, headers=limits(requests=("0", "100ms"), tokens=("9", "60s")))],
    ids=["ms", "fraction", "duration", "429", "RetryInfo", "RetryInfo in a 200", "words", "reset"])
@beside
def test_waits_as_asked(server, make):
    """What the server asks for is waited, not less, and hardly more, however long our own backoff is."""
    make(server)
    server.reply("ok")
    with client(server, SLOW) as llm:
        assert llm.chat("hello").attempts == 2
    assert 0.1 <= gaps(server)[0] < 0.1 + slack(server)


@beside
def test_never_sooner_than_asked(server):
    """No jitter makes a wait shorter than the server asked."""
    policy = llmlite.RetryPolicy(rate_limit_max_retries=6, rate_limit_backoff=0.001, jitter=1)
    server.error(429, retry_after=0.03, times=6)
    server.reply("ok")
    with client(server, policy) as llm:
        llm.chat("hello")
    assert len(gaps(server)) == 6
    assert min(gaps(server)) >= 0.03


@pytest.mark.parametrize("make", [
    lambda server: server.error(429, retry_after=0.5), lambda server: server.error(500)], ids=["ask", "own"])
def test_waiting_takes_no_processor_time(server, make):
    """A call that waits sleeps."""
    make(server)
    server.reply("ok")
    policy = llmlite.RetryPolicy(backoff=0.5, jitter=0)
    with client(server, policy) as llm:
        before = time.thread_time()
        assert llm.chat("hello").attempts == 2
        assert time.thread_time() - before < 0.25
    assert gaps(server)[0] >= 0.5


def test_asks_in_a_stream(server):
    """An ask in a stream's first event is kept to as well."""
    server.sse([delay("0.1s")])
    server.stream(["ok"])
    with client(server, SLOW) as llm, llm.stream("hello") as pieces:
        assert "".join(pieces) == "ok"
    assert 0.1 <= gaps(server)[0] < 0.1 + slack(server)


def test_asks_of_a_good_answer(server):
    """A Retry-After of a 200 asks for nothing, nor does a limit of which something is left."""
    server.reply("ok", headers={"Retry-After": "30", **limits(requests=("1", "30s"))}, times=2)
    with client(server, SLOW) as llm:
        llm.chat("hello")
        llm.chat("hello")
    assert gaps(server)[0] < slack(server)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "1_000", "Sun, 06 Nov 1994 08:49:37 GMT"])
@beside
def test_bad_ask_is_our_own_backoff(server, value):
    """Where the ask says nothing our own backoff is taken, not none."""
    server.error(429, retry_after=value)
    server.reply("ok")
    with client(server, llmlite.RetryPolicy(rate_limit_backoff=0.04, jitter=0)) as llm:
        llm.chat("hello")
    assert 0.04 <= gaps(server)[0] < 0.04 + slack(server)


# ----------------------------------------------------------------------------------------------------- our own backoff


@pytest.mark.parametrize("status, fields", [
    (500, {"max_retries": 4, "backoff": 0.02, "backoff_max": 0.07, "rate_limit_backoff": 30}),
    (429, {"rate_limit_max_retries": 4, "rate_limit_backoff": 0.02, "rate_limit_backoff_max": 0.07, "backoff": 30})])
@beside
def test_backoff_doubles_up_to_its_maximum(server, status, fields):
    """The backoff doubles from retry to retry up to its maximum; rate limits have numbers of their own."""
    server.error(status, times=None)
    fails(server, llmlite.RetryPolicy(jitter=0, **fields))
    measured = gaps(server)
    assert len(measured) == 4
    for gap, least in zip(measured, (0.02, 0.04, 0.07, 0.07)):
        assert least <= gap < least + slack(server)


def test_backoff_stays_at_its_maximum(server):
    """After many retries the delay is still the maximum."""
    server.error(500, times=None)
    fails(server, llmlite.RetryPolicy(max_retries=70, backoff=0.0005, backoff_max=0.001, jitter=0))
    assert len(gaps(server)) == 70
    assert sorted(gaps(server))[35] < 0.02 + METER.late(server.requests[0].time)


@beside
def test_jitter(server):
    """Delays are drawn from [1 - jitter, 1 + jitter] times the backoff, and differ."""
    server.error(500, times=None)
    fails(server, llmlite.RetryPolicy(max_retries=16, backoff=0.02, backoff_max=0.02, jitter=0.5))
    measured = sorted(gaps(server))
    assert measured[0] >= 0.01
    late = METER.late(server.requests[0].time)
    assert measured[8] < 0.03 + 0.02 + late
    assert measured[-1] - measured[0] > 0.003
    assert measured[0] < 0.02 + late


def test_no_backoff(server):
    """A backoff of zero does not wait."""
    server.error(500, times=None)
    fails(server, llmlite.RetryPolicy(max_retries=5, backoff=0))
    assert sum(gaps(server)) < slack(server)


@pytest.mark.parametrize("status, message", [(429, "no"), (503, "no"), (529, "no"), (500, "We are overloaded")])
@beside
def test_rate_limit_numbers(server, status, message):
    """429, 503, 529 and words of overload take the rate limit's backoff."""
    server.error(status, message)
    server.reply("ok")
    with client(server, llmlite.RetryPolicy(backoff=0, rate_limit_backoff=0.05, jitter=0)) as llm:
        llm.chat("hello")
    assert 0.05 <= gaps(server)[0] < 0.05 + slack(server)


@pytest.mark.parametrize("status", [408, 409, 425, 500, 502, 504, 520, 524])
def test_other_numbers(server, status):
    """The others take the short one."""
    server.error(status)
    server.reply("ok")
    with client(server, llmlite.RetryPolicy(backoff=0, rate_limit_backoff=30)) as llm:
        llm.chat("hello")
    assert gaps(server)[0] < slack(server)


@beside
def test_lost_connections_back_off(server):
    """A lost connection and a read timeout take the short one too."""
    server.raw(testing.RESET)
    server.raw(testing.STALL)
    server.reply("ok")
    with client(server, llmlite.RetryPolicy(backoff=0.4, jitter=0, rate_limit_backoff=30), timeout=(5, 0.1)) as llm:
        llm.chat("hello")
    first, second = gaps(server)
    assert 0.4 <= first < 0.4 + slack(server)
    assert 0.1 + 0.6 <= second < 0.9 + slack(server)  # the timeout began before the server saw the request


# ---------------------------------------------------------------------------------------------------------- too long


@pytest.mark.parametrize("headers, seconds", [
    ({"Retry-After": "1.5"}, 1.5), ({"retry-after-ms": "1500"}, 1.5), ({"Retry-After": "99999999999"}, 99999999999),
    ({"Retry-After": "1h0m0s"}, 3600), (limits(requests=("0", "24h0m0s")), 86400)])
def test_ask_over_the_maximum(server, headers, seconds):
    """An ask over `retry_after_max` fails the call at once; the error says how long, and what the limit is."""
    server.error(429, headers=headers, times=None)
    started = time.monotonic()
    error = fails(server, llmlite.RetryPolicy(retry_after_max=1))
    assert within(0, started, SLACK)
    assert (type(error), error.retry_after, len(server.requests)) == (llmlite.RateLimitError, seconds, 1)
    assert "retry_after_max" in str(error)


@pytest.mark.parametrize("value", ["9" * 400, "9" * 400 + "s", "1" + "0" * 39 + "h", "9" * 5000,
                                   "Sun, 99 Nov 9999 99:99:99 GMT"])
def test_endless_ask(server, value):
    """A number too long to be meant neither waits for ever nor breaks the reader."""
    server.error(429, retry_after=value, times=None)
    error = fails(server, llmlite.RetryPolicy(rate_limit_max_retries=1, rate_limit_backoff=0))
    assert type(error) is llmlite.RateLimitError


def test_ask_at_the_maximum(server):
    """An ask of just the maximum is waited for."""
    server.error(429, retry_after=0.05)
    server.reply("ok")
    with client(server, llmlite.RetryPolicy(retry_after_max=0.05)) as llm:
        assert llm.chat("hello").attempts == 2


def test_ask_past_the_deadline(server):
    """An ask that ends past the deadline is a DeadlineExceededError now, which says how long and what was met."""
    server.error(429, "slow down", retry_after=5, times=None)
    started = time.monotonic()
    error = fails(server, SLOW, deadline=1)
    assert within(0, started, SLACK)
    assert (type(error), error.retry_after, error.attempts) == (llmlite.DeadlineExceededError, 5, 1)
    assert type(error.last_error) is llmlite.RateLimitError
    assert error.last_error.status_code == 429
    assert "slow down" in str(error)


def test_backoff_past_the_deadline(server):
    """So is our own backoff past the deadline; nobody asked then."""
    server.error(500, times=None)
    started = time.monotonic()
    error = fails(server, SLOW, deadline=1)
    assert within(0, started, SLACK)
    assert (type(error), error.retry_after) == (llmlite.DeadlineExceededError, None)
    assert error.last_error.status_code == 500


@beside
def test_deadline_between_waits(server):
    """Waits that fit into the deadline are made; the first that does not fit ends the call."""
    server.error(429, retry_after=0.4, times=None)
    started = time.monotonic()
    error = fails(server, llmlite.RetryPolicy(), deadline=1)
    assert within(0.4, started, 1 + SLACK)
    assert type(error) is llmlite.DeadlineExceededError
    assert len(server.requests) in (2, 3) or METER.stood_still(started, 0.3)


def test_ask_over_both_limits(server):
    """An ask over both limits ends the call at once too, and the error says how long it is."""
    server.error(429, retry_after=500, times=None)
    error = fails(server, llmlite.RetryPolicy(), deadline=1)
    assert error.retry_after == 500
    assert len(server.requests) == 1
