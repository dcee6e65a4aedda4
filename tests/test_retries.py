"""What is sent again, how often, and what is sent once: counted at the server."""
import dataclasses
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import llmlite, testing
from tests.beside import beside, within

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
QUICK = llmlite.RetryPolicy(max_retries=2, backoff=0.001, rate_limit_max_retries=3, rate_limit_backoff=0.001)
NORMAL, RATE, ONCE = 3, 4, 1  # requests: the first, and the retries that QUICK allows to each kind
EVENT = {"object": "chat.completion.chunk", "model": "test", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}


def client(server, retry=QUICK, **options):
    return llmlite.Client("test", base_url=server.url, api_key="sk-test-0001", retry=retry, **options)


def chat(llm):
    return llm.chat("hello")


def stream(llm):
    with llm.stream("hello") as pieces:
        return "".join(pieces)


BOTH = pytest.mark.parametrize("call", [chat, stream])


def fails(server, call=chat, retry=QUICK, **options):
    """The error of a call and the number of requests it took."""
    with client(server, retry, **options) as llm, pytest.raises(llmlite.LLMError) as caught:
        call(llm)
    server.wait_for(caught.value.attempts)  # a busy one may not have seen the last yet, when that timed out
    return caught.value, len(server.requests)


# ------------------------------------------------------------------------------------------------------ by status


@BOTH
@pytest.mark.parametrize("status, requests", [
    *[(status, NORMAL) for status in (408, 409, 425, 500, 502, 504, 520, 521, 522, 523, 524)],
    *[(status, RATE) for status in (429, 503, 529)]])
def test_retried_status(server, call, status, requests):
    """Passing failures are tried again as often as their kind allows, then raised with the number of attempts."""
    server.error(status, "down", times=None)
    error, count = fails(server, call)
    assert (count, error.attempts, error.status_code) == (requests, requests, status)


@BOTH
@pytest.mark.parametrize("status", [
    300, 301, 302, 303, 307, 308, 400, 401, 402, 403, 404, 405, 406, 410, 413, 415, 418, 422, 451, 499, 501, 505, 508])
def test_final_status(server, call, status):
    """What cannot succeed is sent once."""
    server.error(status, "no", headers={"Location": server.root + "/elsewhere"}, times=None)
    error, count = fails(server, call)
    assert (count, error.attempts, error.status_code) == (ONCE, ONCE, status)


@BOTH
@pytest.mark.parametrize("status", [408, 429, 500, 503, 529])
def test_no_policy(server, call, status):
    """`retry=None` sends once."""
    server.error(status, headers={"x-should-retry": "true"}, retry_after=0.01, times=None)
    assert fails(server, call, retry=None)[1] == ONCE


@pytest.mark.parametrize("field, status", [("max_retries", 500), ("rate_limit_max_retries", 429)])
def test_no_retries_allowed(server, field, status):
    """Zero retries of a kind is one request."""
    server.error(status, times=None)
    assert fails(server, retry=dataclasses.replace(QUICK, **{field: 0}))[1] == ONCE


@pytest.mark.parametrize("status", [500, 429])
def test_comes_right(server, status):
    """The reply that a retry got is the call's, and says how many attempts it took."""
    server.error(status, times=2)
    server.reply("Paris")
    with client(server) as llm:
        reply = llm.chat("hello")
    assert (reply.text, reply.attempts, len(server.requests)) == ("Paris", 3, 3)


def test_kinds_are_counted_apart(server):
    """Rate limits do not use up the retries of server errors, nor the other way round."""
    for status in (500, 429, 500, 429, 429, 500):
        server.error(status)
    server.reply("not reached")
    error, count = fails(server)
    assert (count, error.status_code) == (6, 500)


@pytest.mark.parametrize("steps", [
    (testing.RESET,), (testing.CLOSE,), (testing.STALL,), (b"SSH-2.0-OpenSSH\r\n",),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf",),
    (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: ping\n\n", testing.STALL)],
    ids=["reset", "close", "silence", "no HTTP", "half a body", "pings"])
def test_failures_of_all_sorts_use_up_the_same_retries(server, steps):
    """A lost connection, half an answer and a silent server are of one kind with server errors."""
    server.raw(*steps)
    server.error(500, times=2)
    server.reply("not reached")
    error, count = fails(server, stream, timeout=(5, 0.5))
    assert (count, error.attempts) == (NORMAL, NORMAL)


def test_same_request_again(server):
    """A retry sends the same bytes."""
    server.error(500, times=2)
    server.reply("ok")
    with client(server) as llm:
        llm.chat([llmlite.user("grüße")], temperature=0.0, extra={"priority": 3})
    assert len({(request.head, request.body) for request in server.requests}) == 1


def test_key_is_asked_again(server):
    """A callable key is asked for each attempt: its token may have been renewed."""
    keys = iter(["sk-old-token", "sk-new-token"])
    server.error(500)
    server.reply("ok")
    with llmlite.Client("test", base_url=server.url, api_key=lambda: next(keys), retry=QUICK) as llm:
        llm.chat("hello")
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer sk-old-token",
                                                                                 "Bearer sk-new-token"]


def test_model_list_is_retried(server):
    """The list of models is asked for again like any call."""
    server.error(500, times=2)
    server.reply("unused")
    with client(server) as llm:
        assert llm.models() == ["test"]
    assert [request.method for request in server.requests] == ["GET"] * 3


# -------------------------------------------------------------------------------------------- overloaded, by words


@pytest.mark.parametrize("status, message, requests", [
    (500, "The engine is currently overloaded, please try again later", RATE),
    (500, "Rate limit reached for requests", RATE),
    (500, "Too Many Requests", RATE),
    (502, "all workers are at capacity", RATE),
    (500, "internal error", NORMAL),
    (400, "the model is overloaded with images", ONCE)])
def test_words_of_load(server, status, message, requests):
    """A passing failure whose message speaks of load is retried as a rate limit, whatever its status."""
    server.error(status, message, times=None)
    assert fails(server)[1] == requests


# --------------------------------------------------------------------------------------------- what waiting cannot mend


@BOTH
@pytest.mark.parametrize("status, error", [
    (429, {"type": "insufficient_quota", "code": "insufficient_quota"}),
    (429, {"type": "insufficient_quota", "code": "credit_balance_exhausted"}),
    (429, {"code": "organization_spend_limit_exceeded"}), (429, {"code": "project_spend_limit_exceeded"}),
    (429, {"code": "organization_usage_limit_exceeded"}), (429, {"code": "insufficient_quota"}),
    (429, {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}}),
    (429, {"type": "rate_limit_error", "details": {"error_code": "contract_spend_limit_reached"}}),
    (429, {"message": "Rate limit exceeded: free-models-per-day"}), (402, {"code": "insufficient_quota"}),
    (429, {"code": "billing_hard_limit_reached"}),
    (400, {"message": "You have reached your specified API usage limits."}),
    (429, {"message": "You exceeded your current quota, please check your plan and billing details."}),
    (429, {"status": "RESOURCE_EXHAUSTED", "details": [{"violations": [{"quotaId": "RequestsPerDayPerModel"}]}]})])
def test_quota_is_final(server, call, status, error):
    """A quota that is used up is not asked for again."""
    server.json({"error": {"message": "no more", **error}}, status=status, headers={"Retry-After": "0.01"}, times=None)
    raised, count = fails(server, call)
    assert (count, type(raised)) == (ONCE, llmlite.QuotaExceededError)


@pytest.mark.parametrize("error", [
    {"type": "rate_limit_error", "details": {"error_code": "ramp_limit_exceeded"}}, {"code": "slow_down"},
    {"status": "RESOURCE_EXHAUSTED", "details": [{"violations": [{"quotaId": "RequestsPerMinutePerModel"}]}]},
    {"status": "RESOURCE_EXHAUSTED", "message": "You exceeded your current quota, please check your plan and billing "
     "details. Quota exceeded for metric: generate_content_free_tier_requests, limit: 5"}])
def test_limit_that_passes(server, error):
    """A limit by the minute is no quota: it is tried again."""
    server.json({"error": {"message": "slower", **error}}, status=429, times=None)
    raised, count = fails(server)
    assert (count, type(raised)) == (RATE, llmlite.RateLimitError)


@pytest.mark.parametrize("status", [400, 413, 500])
def test_context_overflow_is_final(server, status):
    """Messages longer than the model's context stay so: sent once, also where the server calls it its own failure."""
    server.error(status, "This model's maximum context length is 8192 tokens.", code="context_length_exceeded",
                 times=None)
    raised, count = fails(server)
    assert (count, type(raised)) == (ONCE, llmlite.ContextLengthError)


def test_no_allowance_is_final(server):
    """A 429 whose limit is 0 says that there is no allowance at all."""
    server.error(429, headers={"x-ratelimit-limit-req-minute": "0", "x-ratelimit-limit-tokens-minute": "0"}, times=None)
    assert fails(server)[1] == ONCE


def test_one_limit_of_zero_among_others(server):
    """A limit of 0 beside another that is not does not stop the retries."""
    server.error(429, headers={"x-ratelimit-limit-requests": "0", "x-ratelimit-limit-tokens": "100"}, times=None)
    assert fails(server)[1] == RATE


# ------------------------------------------------------------------------------------------------- x-should-retry


@BOTH
@pytest.mark.parametrize("status, code, word, requests", [
    (400, None, "true", NORMAL), (404, None, "TRUE", NORMAL), (501, None, "true", NORMAL),
    (429, "insufficient_quota", "true", RATE), (400, "context_length_exceeded", "true", NORMAL),
    (500, None, "false", ONCE), (429, None, "False", ONCE), (529, None, " false ", ONCE),
    (500, None, "maybe", NORMAL), (400, None, "", ONCE)])
def test_should_retry_header(server, call, status, code, word, requests):
    """`x-should-retry: true` and `false` overrule status and code; other words mean nothing."""
    server.error(status, code=code, headers={"x-should-retry": word}, times=None)
    assert fails(server, call)[1] == requests


# -------------------------------------------------------------------------------------------------- inside a 200


INSIDE = [
    ({"code": 500}, 500, NORMAL), ({"code": "502"}, 502, NORMAL), ({"code": 429}, 429, RATE),
    ({"code": 503}, 503, RATE), ({"code": 529}, 529, RATE), ({"code": 400}, 400, ONCE), ({"code": 401}, 401, ONCE),
    ({"code": 402}, 402, ONCE), ({"code": 501}, 501, ONCE),
    ({"type": "server_error"}, 500, NORMAL), ({"type": "overloaded_error"}, 529, RATE),
    ({"type": "timeout_error"}, 504, NORMAL), ({"code": "rate_limit_exceeded"}, 429, RATE),
    ({"code": "server_is_overloaded"}, 503, RATE), ({"type": "invalid_request_error"}, 400, ONCE),
    ({"type": "insufficient_quota", "code": "insufficient_quota"}, 429, ONCE),
    ({"code": "context_length_exceeded"}, 400, ONCE), ({"code": 418}, 418, ONCE), ({"code": "odd"}, 500, NORMAL)]


@BOTH
@pytest.mark.parametrize("error, status, requests", INSIDE)
def test_error_inside_a_200(server, call, error, status, requests):
    """An error object in a 200's body is retried as the status it stands for."""
    server.json({"error": {"message": "sorry", **error}}, times=None)
    raised, count = fails(server, call)
    assert (raised.status_code, count) == (status, requests)
    assert isinstance(raised, llmlite.APIError)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("error, status, requests", INSIDE)
def test_error_as_first_event(server, error, status, requests, named):
    """So is one that is a stream's first event, named "error" or not, also after comments."""
    body = {"error": {"message": "sorry", **error}}
    server.sse([": ping\n\n", ("error", body) if named else body], times=None)
    raised, count = fails(server, stream)
    assert (raised.status_code, count) == (status, requests)
    assert isinstance(raised, llmlite.APIError)


def test_error_beside_choices(server):
    """An error beside choices counts as one."""
    server.json({"error": {"message": "upstream", "code": 502}, "choices": [{"index": 0, "message": {}}]}, times=None)
    assert fails(server)[1] == NORMAL


def test_finish_reason_that_is_an_error(server):
    """A finish reason by which the server gives up is retried like a server error."""
    server.json({"choices": [{"index": 0, "message": {"content": ""}, "finish_reason": "error"}]}, times=None)
    assert fails(server)[1] == NORMAL


# ----------------------------------------------------------------------------------------------- never after an event


@pytest.mark.parametrize("end", [
    [{"error": {"message": "down", "code": 500}}], [("error", {"error": {"message": "slow", "code": 429}})], []])
def test_not_after_the_first_event(server, end):
    """Once a stream has yielded an event nothing is sent again."""
    server.sse([EVENT, *end], times=None)
    error, count = fails(server, stream)
    assert (count, type(error).__name__) == (ONCE, "StreamError" if end else "TruncatedStreamError")
    assert error.response.text == "Hi"


@pytest.mark.parametrize("how", [{"end": "reset"}, {"end": "close"}, {"end": "stall"}])
@beside
def test_not_after_a_cut(server, how):
    """Nor when the connection is lost or falls silent in the middle."""
    server.sse([EVENT], times=None, **how)
    error, count = fails(server, stream, timeout=(5, 1))
    assert (count, error.response.text) == (ONCE, "Hi")


# ----------------------------------------------------------------------------------------------------- empty answers


USELESS = {
    "html": testing.body(b"<html>please log in</html>", headers={"Content-Type": "text/html"}),
    "broken JSON": testing.body(b'{"choices": ['),
    "nothing": testing.body(b""),
    "no choices": testing.json_body({"id": "x", "choices": []}),
    "a string": testing.json_body("hello")}


@pytest.mark.parametrize("retry_empty, requests", [(False, ONCE), (True, NORMAL)])
@pytest.mark.parametrize("useless", USELESS)
def test_useless_answers(server, useless, retry_empty, requests):
    """A 2xx that is no answer is retried only with `retry_empty`."""
    server.handle(lambda request: USELESS[useless])
    error, count = fails(server, retry=dataclasses.replace(QUICK, retry_empty=retry_empty))
    assert (count, type(error)) == (requests, llmlite.ResponseError)


@pytest.mark.parametrize("retry_empty, requests", [(False, ONCE), (True, NORMAL)])
@pytest.mark.parametrize("events", [[], [": ping\n\n"], ["data: ping\n\n"], ["data: [DONE]\n\n"]])
def test_stream_without_events(server, events, retry_empty, requests):
    """So is a stream that holds no event."""
    server.sse(events, times=None)
    error, count = fails(server, stream, retry=dataclasses.replace(QUICK, retry_empty=retry_empty))
    assert (count, type(error)) == (requests, llmlite.ResponseError)


def test_empty_reply(server):
    """An empty reply is a reply, unless `retry_empty` asks for another; after the last it is an error that holds it."""
    server.reply("", times=None)
    with client(server) as llm:
        assert llm.chat("hello").text == ""
    error, count = fails(server, retry=dataclasses.replace(QUICK, retry_empty=True))
    assert (count, type(error), error.attempts) == (ONCE + NORMAL, llmlite.EmptyResponseError, NORMAL)
    assert error.response.usage == llmlite.Usage(10, 5)


def test_empty_reply_then_text(server):
    """With `retry_empty` the first reply that says something is the call's."""
    server.reply("", times=2)
    server.reply("Paris")
    with client(server, dataclasses.replace(QUICK, retry_empty=True)) as llm:
        assert llm.chat("hello").text == "Paris"


@pytest.mark.parametrize("reply", [{"tool_calls": [{"name": "add", "arguments": {}}]}, {"reasoning": "Hm."}])
def test_not_empty(server, reply):
    """A reply of tool calls or thoughts alone is not empty."""
    server.reply("", **reply)
    with client(server, dataclasses.replace(QUICK, retry_empty=True)) as llm:
        llm.chat("hello")
    assert len(server.requests) == ONCE


def test_model_list_is_not_empty(server):
    """A list of models has no text, and is no empty reply."""
    server.reply("unused", times=None)
    with client(server, dataclasses.replace(QUICK, retry_empty=True)) as llm:
        assert llm.models() == ["test"]
    assert len(server.requests) == ONCE


# ------------------------------------------------------------------------------------------- timeouts, lost connections


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 900\r\n\r\n"


@BOTH
@pytest.mark.parametrize("steps, what", [
    ((testing.CLOSE,), "nothing"), ((testing.RESET,), "a reset"), ((b"HTTP/1.1 200 OK\r\nCont",), "half a head"),
    ((HEAD,), "no body"), ((HEAD, testing.RESET), "a reset body"), ((HEAD + b": ping\n\n",), "a comment"),
    ((b"not HTTP at all\r\n\r\n",), "noise")])
def test_lost_connection(server, call, steps, what):
    """A connection lost before the first event is retried, each time over a new connection."""
    server.raw(*steps, times=None)
    error, count = fails(server, call)
    assert isinstance(error, llmlite.APIConnectionError), what
    assert (count, server.connections, error.attempts) == (NORMAL, NORMAL, NORMAL)


@pytest.mark.parametrize("steps", [(testing.RESET,), (testing.CLOSE,)])
def test_fresh_connection_is_an_attempt(server, steps):
    """A fresh connection that is closed at once is an attempt of our own loop: without a policy nothing follows."""
    server.raw(*steps, times=None)
    error, count = fails(server, retry=None)
    assert (count, server.connections, error.attempts) == (ONCE, ONCE, ONCE)


@BOTH
@pytest.mark.parametrize("steps", [(testing.STALL,), (HEAD, testing.STALL), (b"HTTP/1.1 200", testing.STALL)])
@beside
def test_read_timeout(server, call, steps):
    """A read timeout is retried."""
    server.raw(*steps, times=None)
    error, count = fails(server, call, timeout=(5, 0.2))
    assert (type(error), error.attempts, count) == (llmlite.APITimeoutError, NORMAL, NORMAL)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("retry", [None, dataclasses.replace(QUICK, max_retries=0, connect_retries=9)])
@beside
def test_read_timeout_is_not_multiplied(server, retry, pooled):
    """What retries connections leaves a read timeout alone: one request, and one timeout's worth of time."""
    with client(server, retry, timeout=(5, 0.5)) as llm:
        if pooled:
            server.reply("ok")
            llm.chat("hello")
        server.raw(testing.STALL, times=None)
        started = time.monotonic()
        with pytest.raises(llmlite.APITimeoutError) as caught:
            llm.chat("hello")
        assert within(0.5, started, 0.9)
    assert (len(server.requests), caught.value.attempts) == (ONCE + pooled, ONCE)


@beside
def test_timeout_for_one_call(server):
    """A timeout given to one call bounds each of its attempts."""
    server.raw(testing.STALL, times=None)
    with client(server) as llm, pytest.raises(llmlite.APITimeoutError):
        llm.chat("hello", timeout=(5, 0.4))
    assert server.wait_for(3)
    gaps = [after.time - before.time for before, after in zip(server.requests, server.requests[1:])]
    assert len(gaps) == 2 and min(gaps) >= 0.3  # the server may see one of them late
    assert within(0.7, server.requests[0].time, 1.5, server.requests[2].time)


# ---------------------------------------------------------------------------------------------------- stale connections


POLICIES = pytest.mark.parametrize("retry", [None, QUICK, dataclasses.replace(QUICK, connect_retries=0)])


@BOTH
@POLICIES
def test_dropped_connection_is_replaced(server, call, retry):
    """A pooled connection that the server has closed meanwhile is replaced, and nobody notices."""
    server.reply("ok", times=None)
    with client(server, retry) as llm:
        llm.chat("hello")
        assert server.drop_connections() == 1
        call(llm)
        assert (llm.ledger.attempts, llm.ledger.retries, llm.ledger.unknown) == (2, 0, 0)
    assert (len(server.requests), server.connections) == (2, 2)


@POLICIES
@pytest.mark.parametrize("end", [testing.CLOSE, testing.RESET])
def test_connection_dropped_as_we_send(server, retry, end):
    """So is one that the server closes while the next request is on its way; the request is booked as unknown."""
    server.reply("one")
    server.raw(end)
    server.reply("two")
    with client(server, retry) as llm:
        llm.chat("hello")
        reply = llm.chat("hello")
        assert (reply.text, reply.attempts) == ("two", 2)
        assert (llm.ledger.attempts, llm.ledger.retries, llm.ledger.unknown) == (3, 1, 1)
    assert (len(server.requests), server.connections) == (3, 2)


@pytest.mark.parametrize("earlier", [0, 1], ids=["new", "idle"])
@pytest.mark.parametrize("delay", [0, 0.4], ids=["at-once", "later"])
def test_an_answer_that_comes_before_all_is_sent(delay, earlier):
    """A server may refuse a large request unread, over a pooled connection too: that is the answer."""
    def serve():
        with listener.accept()[0] as sock:
            for _ in range(earlier):
                sock.recv(1 << 16)
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(REPLY), REPLY))
            sock.recv(1000)
            time.sleep(delay)
            sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
            time.sleep(0.1)  # the client sends meanwhile, and meets a reset

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(5)
        served = pool.submit(serve)
        with llmlite.Client("test", base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1", retry=QUICK) as llm:
            for _ in range(earlier):
                llm.chat("hello")
            with pytest.raises(llmlite.APIError) as caught:
                llm.chat("x" * (24 << 20))
            served.result()
            assert (caught.value.status_code, caught.value.attempts) == (413, 1)
            assert (llm.ledger.attempts, llm.ledger.unknown) == (earlier + 1, 0)


def test_a_second_stale_connection_is_not_replaced(server):
    """One replacement a call: where every pooled connection dies, the call ends after two requests, not after all."""
    with client(server, None) as llm, ThreadPoolExecutor(4) as pool:
        server.handle(lambda request: testing.reply("ok", delay=0.05))
        list(pool.map(llm.chat, ["hello"] * 4))
        server.handle(lambda request: testing.raw(testing.CLOSE))
        with pytest.raises(llmlite.APIConnectionError) as caught:
            llm.chat("hello")
        assert caught.value.attempts == 2
        assert (llm.ledger.attempts, llm.ledger.unknown) == (6, 2)
    assert len(server.requests) == 6


def test_a_server_that_had_worked_on_a_request_is_not_asked_again(server):
    """A pooled connection that dies after half a second was no stale one: without retries the call has failed."""
    server.reply("one")
    server.raw(0.5, testing.CLOSE)
    server.reply("two")
    with client(server, None) as llm:
        llm.chat("hello")
        with pytest.raises(llmlite.APIConnectionError):
            llm.chat("hello")
        assert (llm.ledger.attempts, llm.ledger.unknown) == (2, 1)
    assert len(server.requests) == 2


def test_stale_then_refused(server):
    """The connection that takes a stale one's place is fresh: if it is closed too, that is a failed attempt."""
    server.reply("one")
    server.raw(testing.CLOSE, times=None)
    with client(server, None) as llm:
        llm.chat("hello")
        with pytest.raises(llmlite.APIConnectionError):
            llm.chat("hello")
    assert (len(server.requests), server.connections) == (3, 2)


def test_answer_begun_on_a_pooled_connection(server):
    """A pooled connection that breaks inside an answer was not stale: that is an attempt."""
    server.reply("one")
    server.raw(b"HTTP/1.1 200 OK\r\n", testing.CLOSE)
    server.reply("two")
    with client(server) as llm:
        llm.chat("hello")
        reply = llm.chat("hello")
    assert (reply.text, reply.attempts) == ("two", 2)


def test_many_stale_connections(server):
    """However many pooled connections are stale, a call gets through."""
    together = threading.Barrier(4)

    def answer(request):
        together.wait(5)
        return testing.reply("ok")

    server.handle(answer)
    with client(server, None) as llm:
        threads = [threading.Thread(target=llm.chat, args=("hello",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert server.drop_connections() == 4
        server.reply("again")
        assert llm.chat("hello").text == "again"
    assert len(server.requests) == 5


# -------------------------------------------------------------------------------------------------- refused connections


REPLY = (b'{"choices":[{"index":0,"message":{"role":"assistant","content":"up"},"finish_reason":"stop"}],'
         b'"usage":{"prompt_tokens":1,"completion_tokens":1}}')


@pytest.fixture
def closed_port():
    """A socket that holds a port and does not listen: connections to it are refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held


def open_late(held, delay):
    """Begin to listen after so many seconds, and answer one request."""
    time.sleep(delay)
    held.listen(1)
    held.settimeout(5)
    connection, _ = held.accept()
    with connection:
        connection.recv(65536)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(REPLY)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + REPLY)


def test_refused_then_up(closed_port):
    """A server that comes up late is reached: the connection is tried again, and all of it is one attempt."""
    policy = llmlite.RetryPolicy(connect_retries=20, max_retries=0, backoff=0.04, backoff_max=0.04, jitter=0)
    opener = threading.Thread(target=open_late, args=(closed_port, 0.1))
    opener.start()
    port = closed_port.getsockname()[1]
    with llmlite.Client("test", base_url=f"http://127.0.0.1:{port}/v1", api_key="", retry=policy) as llm:
        reply = llm.chat("hello")
        ledger = llm.ledger
    opener.join(10)
    assert (reply.text, reply.attempts, ledger.attempts, ledger.retries) == ("up", 1, 1, 0)


COUNT = """
import sys, importlib
llmlite = importlib.import_module(sys.argv[1])
connects = []
sys.addaudithook(lambda event, arguments: connects.append(arguments) if event == "socket.connect" else None)
for retries in (None, 0, 2):
    retry = retries if retries is None else llmlite.RetryPolicy(connect_retries=retries, backoff=0.001)
    connects.clear()
    with llmlite.Client("test", base_url=sys.argv[2], api_key="", retry=retry) as llm:
        try:
            llm.chat("hello")
        except llmlite.APIConnectionError as error:
            print(len(connects), error.attempts)
"""


def test_refused_connections_are_counted(closed_port):
    """A refused connection is tried `connect_retries` times more, inside one attempt; without a policy never."""
    url = f"http://127.0.0.1:{closed_port.getsockname()[1]}/v1"
    done = subprocess.run([sys.executable, "-c", COUNT, llmlite.__name__, url], cwd=ROOT, stdout=subprocess.PIPE,
                          text=True, timeout=30, check=True)
    assert done.stdout.split("\n") == ["1 1", "1 1", "3 1", ""]


def test_refused_ends_at_the_deadline(closed_port):
    """Connections are not tried again past the deadline."""
    url = f"http://127.0.0.1:{closed_port.getsockname()[1]}/v1"
    policy = llmlite.RetryPolicy(connect_retries=1000, backoff=0.05, backoff_max=0.05)
    started = time.monotonic()
    with llmlite.Client("test", base_url=url, api_key="", retry=policy, deadline=0.2) as llm, \
            pytest.raises(llmlite.LLMError) as caught:
        llm.chat("hello")
    assert within(0.1, started, 0.45)
    assert isinstance(caught.value, llmlite.DeadlineExceededError)


# ------------------------------------------------------------------------------------------------------- the policy


@pytest.mark.parametrize("wrong", [
    {"max_retries": -1}, {"backoff": float("nan")}, {"backoff_max": float("inf")}, {"rate_limit_backoff": -0.1},
    {"retry_after_max": float("inf")}, {"jitter": 1.5}, {"jitter": -0.1}, {"connect_retries": -1}])
def test_policy_is_checked(wrong):
    """A policy of negative, infinite or nonsensical numbers is refused where it is made, and names the field."""
    with pytest.raises(llmlite.ConfigurationError, match=next(iter(wrong))):
        llmlite.RetryPolicy(**wrong)


def test_policy_is_a_value():
    """A policy has the documented defaults, compares by value, and cannot be changed under a running client."""
    assert dataclasses.asdict(llmlite.RetryPolicy()) == {
        "max_retries": 3, "backoff": 0.25, "backoff_max": 5.0, "rate_limit_max_retries": 7, "rate_limit_backoff": 5.0,
        "rate_limit_backoff_max": 60.0, "jitter": 0.5, "retry_after_max": 120.0, "retry_empty": False,
        "connect_retries": 2}
    policy, default = llmlite.RetryPolicy(5, retry_empty=True), llmlite.RetryPolicy()
    assert policy == dataclasses.replace(default, max_retries=5, retry_empty=True) != default
    assert policy != (5,) and len({policy, llmlite.RetryPolicy(5, retry_empty=True), default}) == 2
    assert repr(policy).startswith("RetryPolicy(max_retries=5, backoff=0.25, ") and eval(
        repr(policy), {"RetryPolicy": llmlite.RetryPolicy}) == policy
    for change in (lambda: setattr(policy, "max_retries", 9), lambda: delattr(policy, "max_retries")):
        with pytest.raises(dataclasses.FrozenInstanceError, match="max_retries"):
            change()
    assert dataclasses.is_dataclass(llmlite.RetryPolicy) and pickle.loads(pickle.dumps(policy)) == policy
    with pytest.raises(llmlite.ConfigurationError, match="max_retries"):
        dataclasses.replace(policy, max_retries=-1)


def test_policy_is_what_a_dataclass_is():
    """It is matched, replaced and listed as one; a class below it may have attributes of its own."""
    policy = llmlite.RetryPolicy(5)
    assert llmlite.RetryPolicy.__match_args__ == tuple(field.name for field in dataclasses.fields(policy))
    assert dataclasses.fields(policy)[0] is dataclasses.fields(llmlite.RetryPolicy)[0]
    assert policy.__replace__(jitter=0) == dataclasses.replace(policy, jitter=0) != policy

    class Mine(llmlite.RetryPolicy):
        pass

    mine = Mine(5)
    mine.name = "x"
    assert (mine.name, mine == Mine(5), mine == policy) == ("x", True, False) and repr(mine).endswith(
        "Mine(" + repr(policy).partition("(")[2])
    with pytest.raises(dataclasses.FrozenInstanceError):
        mine.jitter = 0


def test_policy_is_extended():
    """A policy of one's own adds fields as those of a dataclass; all are checked and compared."""
    @dataclasses.dataclass(frozen=True)
    class Named(llmlite.RetryPolicy):
        name: str = ""

    named = Named(max_retries=1, name="night")
    assert (named.max_retries, named.backoff, named.name) == (1, 0.25, "night") and named != Named(1)
    with pytest.raises(llmlite.ConfigurationError, match="jitter"):
        Named(jitter=2)
