"""What the log says of a call, at which level, and what it never says."""
import contextlib
import logging
import os
import re
import subprocess
import sys

import pytest

from tests import llmlite, testing

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KEY = "sk-test-5ecre7-0123456789abcdef"
QUICK = llmlite.RetryPolicy(max_retries=2, backoff=0.001, rate_limit_max_retries=2, rate_limit_backoff=0.001, jitter=0)
EVENT = {"model": "test", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}


@pytest.fixture
def log(caplog):
    """Every record of every logger, from DEBUG up."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="llmlite")
    return caplog


def client(server, **options):
    options.setdefault("retry", QUICK)
    return llmlite.Client("test", provider="openai", base_url=server.url, api_key=KEY, **options)


def lines(log, level):
    """The messages of this level."""
    return [record.getMessage() for record in log.records if record.name == "llmlite" and record.levelno == level]


def chat(llm):
    return llm.chat("a secret prompt")


def stream(llm):
    with llm.stream("a secret prompt") as pieces:
        return list(pieces)


def close_early(llm):
    with llm.stream("a secret prompt") as pieces:
        next(pieces)


# --------------------------------------------------------------------------------------------------------------- INFO


@pytest.mark.parametrize("call", [chat, stream])
def test_a_line_a_call(server, log, call):
    """A call that went well is one INFO line: provider, model, finish, tokens, attempts, seconds, request id."""
    server.stream(["Paris"], model="test-2026", headers={"x-request-id": "req-7"})
    with client(server) as llm:
        call(llm)
    info, = lines(log, logging.INFO)
    assert re.fullmatch(r"openai test-2026: stop, 10\+5 tokens, 1 attempt\(s\), 0\.\d\d s, request req-7", info)
    assert lines(log, logging.WARNING) == []


@pytest.mark.parametrize("call, reply", [
    (chat, testing.error(400, "no such thing")), (chat, testing.raw(testing.RESET)), (chat, testing.body(b"<html>")),
    (stream, testing.error(400, "no such thing")), (stream, testing.sse([{"error": {"message": "no"}}])),
    (stream, testing.sse([EVENT], end="close")), (stream, testing.sse([EVENT, {"error": {"message": "no"}}])),
    (stream, testing.sse([EVENT, "data: {torn\n\n", EVENT]))])
def test_a_line_a_failed_call(server, log, call, reply):
    """A call that failed is one INFO line as well: the error's."""
    server.handle(lambda request: reply)
    with client(server, retry=None) as llm, pytest.raises(llmlite.LLMError) as caught:
        call(llm)
    assert lines(log, logging.INFO) == [str(caught.value)]


def test_a_line_a_retried_call(server, log):
    """However many attempts a call took, it is one INFO line."""
    server.error(500, times=2)
    server.reply("ok")
    with client(server) as llm:
        llm.chat("hello")
    info, = lines(log, logging.INFO)
    assert "3 attempt(s)" in info


def test_a_line_a_closed_stream(server, log):
    """So is a stream that the reader left early."""
    server.sse([EVENT], end="stall")
    with client(server) as llm:
        close_early(llm)
    assert len(lines(log, logging.INFO)) == 1


# ------------------------------------------------------------------------------------------------------------ WARNING


@pytest.mark.parametrize("reply, delay, reason", [
    (testing.error(500, "it fell over"), "0.00", "500 Internal Server Error: it fell over"),
    (testing.error(429, "slow down", retry_after=0.03), "0.03", "429 Too Many Requests: slow down"),
    (testing.json_body({"error": {"message": "gone", "code": 502}}), "0.00", "502 Bad Gateway inside a 200: gone"),
    (testing.raw(testing.RESET), "0.00", "connection lost: POST http://")])
def test_retries_are_warnings(server, log, reply, delay, reason):
    """Each retry is one WARNING with its number, the delay and the reason."""
    replies = iter([reply, reply, testing.reply("ok")])
    server.handle(lambda request: next(replies))
    with client(server) as llm:
        llm.chat("hello")
    first, second = lines(log, logging.WARNING)
    assert first.startswith(f"openai test: retry 1 in {delay} s: openai: {reason}")
    assert second.startswith("openai test: retry 2 in 0.0")
    assert reason.split(":")[0] in second and "after 2 attempts" in second


def test_the_last_failure_is_no_retry(server, log):
    """The attempt after which the call gives up is not announced as one to be retried."""
    server.error(500, times=None)
    with client(server) as llm, pytest.raises(llmlite.ServerError):
        llm.chat("hello")
    assert len(lines(log, logging.WARNING)) == 2


def test_skipped_events_are_warned_of_once(server, log):
    """Data that is no JSON is skipped with one WARNING for the stream."""
    server.sse(["data: ping\n\n", EVENT, "data: ping\n\n", "data: pong\n\n",
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, "data: [DONE]\n\n"])
    with client(server) as llm:
        assert stream(llm) == ["Hi"]
    warning, = lines(log, logging.WARNING)
    assert "skipped" in warning and "ping" in warning


# -------------------------------------------------------------------------------------------------------------- DEBUG


@pytest.mark.parametrize("call", [chat, stream])
def test_details_at_debug(server, log, call):
    """DEBUG tells the payload's size, the answer's rate-limit headers and the request's id."""
    server.stream(["Paris"], headers={"x-request-id": "req-7", "x-ratelimit-remaining-tokens": "4711"})
    with client(server) as llm:
        call(llm)
    debug = "\n".join(lines(log, logging.DEBUG))
    assert str(len(server.requests[0].body)) in debug
    assert "x-ratelimit-remaining-tokens" in debug.lower() and "4711" in debug
    assert "req-7" in debug


def test_details_of_a_refusal(server, log):
    """So it does for a call that is refused."""
    server.error(429, headers={"x-request-id": "req-8", "x-ratelimit-remaining-tokens": "0"})
    with client(server, retry=None) as llm, pytest.raises(llmlite.RateLimitError):
        llm.chat("hello")
    debug = "\n".join(lines(log, logging.DEBUG))
    assert "req-8" in debug and "x-ratelimit-remaining-tokens" in debug.lower()


# -------------------------------------------------------------------------------------------------------------- never


ECHOES = {
    "error": testing.error(401, f"Incorrect API key provided: {KEY}", headers={"x-ratelimit-echo": KEY}),
    "end of 300 characters": testing.error(500, f"{'x' * 280} {KEY}"), "HTML": testing.body(f"<html>{KEY}".encode()),
    "not HTTP": testing.raw(f"{KEY}\r\n".encode()), "redirect": testing.error(302, headers={"Location": KEY}),
    "request id": testing.reply("ok", headers={"x-request-id": KEY, "x-ratelimit-remaining": KEY}),
    "error event": testing.sse([EVENT, {"error": {"message": KEY, "code": 401}}]),
    "skipped event": testing.sse([f"data: {KEY}\n\n", EVENT]),
    "torn event": testing.sse([EVENT, f'data: {{"torn": "{KEY}\n\n', EVENT])}


@pytest.mark.parametrize("call", [chat, stream])
@pytest.mark.parametrize("how", ECHOES)
def test_no_key(server, log, call, how):
    """No stretch of the key is in any record of any logger, also where the server echoes it."""
    server.handle(lambda request: ECHOES[how])
    with client(server) as llm:
        with contextlib.suppress(llmlite.LLMError):
            call(llm)
    assert log.records
    for record in log.records:
        text = record.getMessage() + repr(record.args) + str(record.exc_text)
        assert not any(KEY[at:at + 12] in text for at in range(len(KEY) - 11))


@pytest.mark.parametrize("reply", [testing.stream(["a secret answer"]), testing.error(500), testing.error(400)])
def test_no_prompt(server, log, reply):
    """Neither prompt nor answer is in the log."""
    server.handle(lambda request: reply)
    with client(server) as llm:
        with contextlib.suppress(llmlite.LLMError):
            chat(llm)
    assert log.records
    assert "secret" not in log.text


def test_lines_are_lines(server, log):
    """What a server says cannot forge a line of the log."""
    server.error(500, "no\nINFO openai: all is well\r\n\x1b[2K", times=None)
    with client(server) as llm, pytest.raises(llmlite.ServerError):
        llm.chat("hello")
    for level in (logging.INFO, logging.WARNING):
        assert all(line.isprintable() for line in lines(log, level))


# ------------------------------------------------------------------------------------------------------ LLMLITE_DEBUG


PROGRAM = """
import importlib, logging, sys
if "handler" in sys.argv:
    logging.getLogger("llmlite").addHandler(logging.StreamHandler(sys.stdout))
llmlite = importlib.import_module(sys.argv[1])
for _ in range(2):
    with llmlite.Client("test", base_url=sys.argv[2], api_key="sk-0123456789") as llm:
        llm.chat("hello")
"""


def run(server, setting, *arguments):
    """Two calls in a program of their own; its stdout and stderr."""
    server.reply("ok", times=2)
    environment = {**os.environ, "LLMLITE_DEBUG": setting}
    if setting is None:
        del environment["LLMLITE_DEBUG"]
    command = [sys.executable, "-c", PROGRAM, llmlite.__name__, server.url, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=30)
    assert len(server.requests) == 2
    return done.stdout, done.stderr


def test_debug_variable(server):
    """LLMLITE_DEBUG=1 shows the log on stderr, each line once however many clients there are, and no key."""
    out, err = run(server, "1")
    assert out == ""
    assert len(re.findall(r"10\+5 tokens", err)) == 2
    assert "sk-0123456789" not in err


@pytest.mark.parametrize("setting", [None, "", "0"])
def test_no_debug_variable(server, setting):
    """Without it nothing is shown."""
    assert run(server, setting) == ("", "")


def test_debug_variable_beside_a_handler(server):
    """A program that has set up this log itself is left alone."""
    assert run(server, "1", "handler")[1] == ""
