"""What is asked there. Both sides read this file: the provider, outside, answers as a check's last message says."""
import itertools
import json
import sys
import time

import urllib3

from tests import llmlite, testing

ANSWERS = {  # what is asked -> the answers, in turn
    "chat": [testing.reply("Paris", usage=(7, 3))],
    "stream": [testing.stream(["Par", "is"])],
    "busy": [testing.error(429, retry_after=0.05), testing.reply("Rome")],
    "silent": [testing.raw(testing.STALL)],
    "denied": [testing.error(401)],
    "add it": [testing.reply("", tool_calls=[{"name": "add", "arguments": {"a": "forty", "b": "two"}}])],
    "fortytwo": [testing.reply("It is 42.")],
    "cut": [testing.stream(["Par", "is"], truncate=300)],
}
PROVIDERS = ("openai", "anthropic", "gemini")


def provider():
    """A function that answers requests, for `Server.handle`."""
    answers = {text: itertools.cycle(replies) for text, replies in ANSWERS.items()}
    return lambda request: next(answers[asked(request.json)])


def asked(body):
    """The text of a request's last message, in whichever form it stands there."""
    last = json.dumps((body.get("messages") or body["contents"])[-1])
    return next(text for text in ANSWERS if f'"{text}"' in last)


def raised(kind, call, *args, **options):
    """The error of that class that the call ends with."""
    try:
        call(*args, **options)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def check_chat(llm):
    """The answer and its usage."""
    reply = llm.chat("chat")
    assert (reply.text, reply.usage.input_tokens, reply.usage.output_tokens) == ("Paris", 7, 3)


def check_stream(llm):
    """The pieces as they came, and the whole."""
    with llm.stream("stream") as stream:
        assert list(stream) == ["Par", "is"]
    assert (stream.response.text, stream.response.finish_reason) == ("Paris", "stop")


def check_retry(llm):
    """A 429 is waited out, as long as the server says."""
    started = time.monotonic()
    reply = llm.chat("busy")
    assert (reply.text, reply.attempts) == ("Rome", 2)
    assert time.monotonic() - started >= 0.05


def check_deadline(llm):
    """A server that never answers is left in time."""
    started = time.monotonic()
    raised(llmlite.DeadlineExceededError, llm.chat, "silent", deadline=0.5)
    assert 0.5 <= time.monotonic() - started < 5


def check_error(llm):
    """A refusal is the error of its status."""
    assert raised(llmlite.AuthenticationError, llm.chat, "denied").status_code == 401


def check_tools(llm):
    """The model calls a function, and gets its value."""
    def add(a: str, b: str) -> str:
        return a + b
    assert llm.run_tools("add it", [add]).text == "It is 42."


def check_cut_stream(llm):
    """A stream that is cut says so, and keeps what came."""
    pieces = []
    error = raised(llmlite.TruncatedStreamError, pieces.extend, llm.stream("cut"))
    assert error.response.text == "".join(pieces) != "Paris"


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]


def main(url):
    """Each check with each provider's dialect."""
    assert urllib3.HTTPConnectionPool.ConnectionCls.__module__ == "urllib3.connection", "these are no sockets"
    for name in PROVIDERS:
        with llmlite.Client("m", provider=name, base_url=url, api_key="k") as llm:
            for check in CHECKS:
                check(llm)
    print(f"Python {sys.version.split()[0]}: passed {len(CHECKS)} checks over sockets with {', '.join(PROVIDERS)}")
