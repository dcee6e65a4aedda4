"""The errors themselves: classes, fields, the one line, pickling, and that no key is ever in them."""
import concurrent.futures
import copy
import json
import multiprocessing
import pickle
import re
import socket
import threading
import time
import traceback

import pytest
import requests

from tests import llmlite, testing
from tests.beside import within

KEY = "sk-test-5ecre7-0123456789abcdef-ABCDEFGHIJKLMNOP"
QUICK = llmlite.RetryPolicy(max_retries=2, backoff=0.001, rate_limit_max_retries=2, rate_limit_backoff=0.001)
EVENT = {"model": "test", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}


def client(url, **options):
    options.setdefault("retry", None)
    return llmlite.Client("test", provider="openai", base_url=url, api_key=KEY, **options)


def fails(url, method="chat", call=None, **options):
    """The error that a call, or reading its stream, ends in."""
    with client(url, **options) as llm, pytest.raises(llmlite.LLMError) as caught:
        reply = getattr(llm, method)("hello", **(call or {}))
        if method == "stream":
            list(reply)
    return caught.value


# ------------------------------------------------------------------------------------------------------------ classes


@pytest.mark.parametrize("status, name, above", [
    (400, "BadRequestError", "APIError"), (413, "BadRequestError", "APIError"), (422, "BadRequestError", "APIError"),
    (401, "AuthenticationError", "APIError"), (402, "PaymentRequiredError", "APIError"),
    (403, "PermissionDeniedError", "APIError"), (404, "NotFoundError", "APIError"),
    (429, "RateLimitError", "APIError"), (500, "ServerError", "APIError"), (501, "ServerError", "APIError"),
    (502, "ServerError", "APIError"), (504, "ServerError", "APIError"), (599, "ServerError", "APIError"),
    (503, "OverloadedError", "ServerError"), (529, "OverloadedError", "ServerError"),
    (405, "APIError", "LLMError"), (408, "APIError", "LLMError"), (409, "APIError", "LLMError"),
    (410, "APIError", "LLMError"), (418, "APIError", "LLMError"), (304, "APIError", "LLMError")])
def test_class_of_status(server, status, name, above):
    """Each status has its class, and each class its place."""
    server.error(status, "no", headers={"Content-Length": "0"} if status == 304 else {}, end="close")
    error = fails(server.url)
    assert type(error) is getattr(llmlite, name)
    assert isinstance(error, getattr(llmlite, above))
    assert (error.status_code, str(status) in str(error)) == (status, True)


@pytest.mark.parametrize("name, above", [
    ("ConfigurationError", "LLMError"), ("APIConnectionError", "LLMError"), ("APITimeoutError", "APIConnectionError"),
    ("DeadlineExceededError", "LLMError"), ("APIError", "LLMError"), ("ContextLengthError", "APIError"),
    ("QuotaExceededError", "APIError"), ("ResponseError", "LLMError"), ("EmptyResponseError", "ResponseError"),
    ("SchemaError", "ResponseError"), ("StreamError", "LLMError"), ("TruncatedStreamError", "StreamError")])
def test_tree(name, above):
    """The classes form the documented tree."""
    assert issubclass(getattr(llmlite, name), getattr(llmlite, above))


def test_what_is_not_below():
    """A timeout, a deadline, a bad answer and a torn stream are told apart; bad arguments are ValueErrors."""
    assert issubclass(llmlite.ConfigurationError, ValueError)
    assert not issubclass(llmlite.DeadlineExceededError, llmlite.APITimeoutError)
    assert not issubclass(llmlite.ResponseError, llmlite.APIError)
    assert not issubclass(llmlite.StreamError, (llmlite.APIError, llmlite.APIConnectionError))


# ------------------------------------------------------------------------------------------------------------- fields


def test_fields(server):
    """An APIError carries all that the server said, and the call's own story."""
    server.error(429, "Rate limit reached", type="tokens", code="rate_limit_exceeded", retry_after=0.01, times=None,
                 headers={"x-request-id": "req-77", "x-ratelimit-remaining-tokens": "0"})
    error = fails(server.url, retry=QUICK)
    assert (error.status_code, error.code, error.type, error.message, error.request_id, error.retry_after) == (
        429, "rate_limit_exceeded", "tokens", "Rate limit reached", "req-77", 0.01)
    assert error.headers["X-RateLimit-Remaining-Tokens"] == "0"
    assert error.body == {"error": {"message": "Rate limit reached", "type": "tokens", "param": None,
                                    "code": "rate_limit_exceeded"}}
    assert (error.provider, error.attempts) == ("openai", 3)
    assert 0.02 <= error.elapsed < 2
    assert (error.last_error.status_code, error.last_error.attempts) == (429, 2)


def test_fields_of_a_first_attempt(server):
    """An error of the first attempt has no error before it."""
    server.error(400)
    error = fails(server.url)
    assert (error.attempts, error.last_error, error.retry_after, error.request_id) == (1, None, None, None)


@pytest.mark.parametrize("name", ["x-request-id", "request-id", "apim-request-id", "X-Generation-Id"])
def test_request_id(server, name):
    """The request's id is read from whichever header the provider uses."""
    server.error(500, headers={name: "abc"})
    assert fails(server.url).request_id == "abc"


def test_whole_body(server):
    """The whole body is on the error, however little of it the line shows."""
    server.body(b"<html>" + b"x" * 50000, status=502)
    error = fails(server.url)
    assert error.body == "<html>" + "x" * 50000
    assert len(str(error)) < 450


@pytest.mark.parametrize("code, kept", [
    ({"a": 1}, None), (["a"], None), (None, None), ("", None), (7, 7), (7.5, 7.5), ("x" * 301, "x" * 300)])
def test_code_is_a_word_or_a_number(server, code, kept):
    """A code is a number or the start of a text; whatever else a server puts there is on `body` alone."""
    server.json({"error": {"message": "no", "code": code}}, status=400)
    error = fails(server.url)
    assert (error.code, error.body["error"]["code"], error.message) == (kept, code, "no")


def test_message_cut_short(server):
    """Of a long message 64 Ki characters are kept, the whole of it on `body`."""
    server.error(400, "x" * 100_000)
    with llmlite.Client("test", base_url=server.url) as llm, pytest.raises(llmlite.BadRequestError) as caught:
        llm.chat("hello")
    error = caught.value
    assert (error.message, len(error.body["error"]["message"])) == ("x" * 65_536, 100_000)


def test_body_cut_short(server):
    """An error whose body is cut short is still that error, with what came."""
    server.error(401, "Incorrect key", truncate=20)
    error = fails(server.url)
    assert (type(error), error.body) == (llmlite.AuthenticationError, '{"error":{"message":')


# ------------------------------------------------------------------------------- what had arrived is on the error


def test_response_of_a_torn_stream(server):
    """A stream that is cut off leaves what had arrived on the error."""
    server.sse([EVENT, EVENT], end="close")
    error = fails(server.url, "stream")
    assert type(error) is llmlite.TruncatedStreamError
    assert (error.response.text, error.response.model, error.attempts) == ("HiHi", "test", 1)


def test_response_of_a_broken_stream(server):
    """An error event leaves it too, and the APIError that it stands for, finished like any other."""
    server.sse([EVENT, {"error": {"message": "went down", "code": 502, "type": "server_error"}}])
    error = fails(server.url, "stream")
    assert type(error) is llmlite.StreamError
    assert (error.response.text, type(error.last_error), error.last_error.status_code) == (
        "Hi", llmlite.ServerError, 502)
    assert (error.last_error.code, error.last_error.type, error.last_error.message) == (
        502, "server_error", "went down")
    assert (error.last_error.provider, error.last_error.attempts) == ("openai", 1)
    assert "went down" in str(error)


def test_response_of_a_silent_stream(server):
    """So does a stream that falls silent."""
    server.sse([EVENT], end="stall")
    error = fails(server.url, "stream", idle_timeout=0.5)
    assert (type(error), error.response.text) == (llmlite.APITimeoutError, "Hi")


def test_response_at_the_deadline(server):
    """So does a deadline that runs out in a stream."""
    server.sse([EVENT], end="stall")
    error = fails(server.url, "stream", deadline=0.5)
    assert (type(error), error.response.text) == (llmlite.DeadlineExceededError, "Hi")


def test_response_of_an_empty_reply(server):
    """An empty reply that is an error is on it."""
    server.reply("", times=None)
    error = fails(server.url, retry=llmlite.RetryPolicy(max_retries=0, retry_empty=True))
    assert (type(error), error.response.finish_reason) == (llmlite.EmptyResponseError, "stop")


@pytest.mark.parametrize("content, what", [
    (b"<!DOCTYPE html><title>Sign in</title>", "HTML"), (b'{"choices": [{"me', "broken JSON"), (b"", "empty body"),
    (b'{"id":"x","choices":[]}', "no choices"), (b'"hello"', "200"), (b"[]", "200"), (b"null", "200")])
def test_not_an_answer(server, content, what):
    """A 200 that is no answer says what it is instead, and keeps the body."""
    server.body(content, headers={"Content-Type": "text/html", "x-request-id": "r-1"})
    error = fails(server.url)
    assert type(error) is llmlite.ResponseError
    assert what in str(error)
    assert error.body == (json.loads(content) if what == "no choices" else content)
    assert (error.status_code, error.request_id, error.headers["content-type"]) == (200, "r-1", "text/html")


# ----------------------------------------------------------------------------------------------------------- one line


@pytest.mark.parametrize("retry, words", [(None, ""), (QUICK, " after 3 attempts in {:.1f} s")])
def test_the_line(server, retry, words):
    """The line says provider, status, attempts and seconds, the server's words and what to try."""
    server.error(401, "Incorrect API key provided.", headers={"x-should-retry": "true"}, times=None)
    error = fails(server.url, retry=retry)
    words = words.format(error.elapsed)
    said = "Incorrect API key provided."
    assert str(error) == f"openai: 401 Unauthorized{words}: {said} (check the key given as api_key=)"


def test_the_line_of_a_refused_connection():
    """A refused connection says where, and asks whether the server runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        error = fails(url)
    assert type(error) is llmlite.APIConnectionError
    assert str(error).startswith(f"openai: connection refused: POST {url}/chat/completions: ")
    assert str(error).endswith("(is the server running there?)")


def test_the_line_of_an_unknown_host():
    """A host that is not found is said to be that."""
    error = fails("http://llmlite.invalid/v1")
    assert type(error) is llmlite.APIConnectionError
    assert str(error).startswith("openai: host not found: POST http://llmlite.invalid/v1/chat/completions: ")
    assert "check the host name" in str(error)


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".example"])
@pytest.mark.parametrize("own", [True, False], ids=["own", "theirs"])
@pytest.mark.parametrize("deadline", [None, 2])
def test_a_host_that_is_no_name(host, own, deadline):
    """So is one that cannot be looked up: a label of it is empty, or too long."""
    with requests.Session() as session, llmlite.Client(
            "m", base_url=f"http://{host}/v1", api_key="none", session=None if own else session, retry=None) as llm:
        with pytest.raises(llmlite.APIConnectionError, match="host not found: POST http://a") as caught:
            llm.chat("hi", deadline=deadline)
    assert len(str(caught.value)) < 400



def test_the_line_of_plain_http():
    """TLS to a server that speaks none is said to be that."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plain = threading.Thread(target=answer_plainly, args=(listener,))
        plain.start()
        error = fails(f"https://127.0.0.1:{listener.getsockname()[1]}/v1", timeout=5)
        plain.join(10)
    assert type(error) is llmlite.APIConnectionError
    assert str(error).startswith("openai: TLS failed: POST https://127.0.0.1:")
    assert "(is it an https address? without TLS it is http://127.0.0.1:" in str(error)


def answer_plainly(listener):
    """What a server without TLS says to one who begins with it."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


HANGS_UP = "has the server fallen over? or does it want {url}?"


@pytest.mark.parametrize("steps, what, kind, hint", [
    ((testing.RESET,), "connection lost", "APIConnectionError", HANGS_UP),
    ((testing.STALL,), "read timed out", "APITimeoutError", "raise timeout=, or stream the answer"),
    ((testing.CLOSE,), "connection closed without an answer", "APIConnectionError", HANGS_UP),
    ((b"SSH-2.0-OpenSSH\r\n",), "answer is not HTTP", "APIConnectionError", ""),
    ((b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf",), "answer cut off", "APIConnectionError", "")])
def test_the_line_of_a_lost_connection(server, steps, what, kind, hint):
    """A lost connection says how, and where it led."""
    server.raw(*steps)
    error = fails(server.url, timeout=(5, 0.3))
    assert (type(error).__name__, error.hint) == (kind, hint.format(url=server.url.replace("http", "https")))
    assert str(error).startswith(f"openai: {what}: POST {server.url}/chat/completions: ")


def test_the_line_of_a_stream(server):
    """A stream's error says how many chunks, events and unreadable events had come."""
    server.sse([EVENT, "data: ping\n\n", EVENT], end="close")
    error = fails(server.url, "stream")
    assert re.search(r"2 events and 1 unreadable ones had come in [0-9]\.[0-9] s", str(error))


def test_url_without_its_secrets(server):
    """Where an error shows the URL, user, password and query stay out of it."""
    server.raw(testing.RESET)
    error = fails(f"http://ann:pa55word@127.0.0.1:{server.port}/v1")
    for text in (str(error), repr(error), repr(client(f"http://ann:pa55word@127.0.0.1:{server.port}/v1"))):
        assert "pa55word" not in text
    assert f"http://127.0.0.1:{server.port}/v1" in str(error)


@pytest.mark.parametrize("words", [
    "line one\nline two\r\n\r\nthree", "\x1b[31mred\x1b[0m \x07\x00\x7f\x9b", "a\u2028b\u2029c\u0085d\x0be\x0cf",
    "\u202eright to left\u202c \u200b\ufeff", "\ud83d half a pair", "x" * 20000, "word " * 5000, "\n" * 5000,
    "ÄÖÜ" * 999])
@pytest.mark.parametrize("where", ["message", "body", "event", "html"])
def test_hostile_words(server, words, where):
    """Whatever the server says, the line is one printable line with at most 300 characters of it."""
    if where == "message":
        server.error(400, words)
    elif where == "body":
        server.body(words.encode("utf-8", "surrogatepass"), status=400)
    elif where == "event":
        server.sse([EVENT, {"error": {"message": words}}])
    else:
        server.body(b"<html>" + words.encode("utf-8", "surrogatepass"))
    error = fails(server.url, "stream" if where == "event" else "chat")
    line = str(error)
    assert line.isprintable()
    assert len(error.why) <= 300 + (100 if where == "event" else 30)
    assert len(line) <= 520


def test_what_cannot_be_printed_is_a_space(server):
    """Control characters and line ends of the server's words are single spaces in the one line."""
    server.error(400, "a\x1b[2Jb\n\tc\u2028d\x00")
    assert str(fails(server.url)) == "openai: 400 Bad Request: a [2Jb c d"


def test_words_of_300(server):
    """Just 300 characters are shown whole; of more the end is left out, and the line says so."""
    server.error(400, "x" * 300)
    server.error(400, "x" * 301)
    assert fails(server.url).why == "x" * 300
    assert fails(server.url).why == "x" * 297 + "..."


# ---------------------------------------------------------------------------------------------------------- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["chat", "stream"])
def test_redirects_are_not_followed(server, status, method):
    """A redirect is an error that names its target, which gets no request: the key would go along."""
    with testing.Server() as other:
        other.reply("stolen", times=None)
        server.error(status, headers={"Location": other.url + "/chat/completions"})
        error = fails(server.url, method, retry=QUICK)
        assert (len(server.requests), len(other.requests), other.connections) == (1, 0, 0)
        assert (type(error), error.status_code) == (llmlite.APIError, status)
        assert other.url + "/chat/completions" in str(error)


def test_redirect_to_nowhere(server):
    """A redirect without a target is an error all the same."""
    server.error(302)
    error = fails(server.url)
    assert (type(error), error.status_code) == (llmlite.APIError, 302)


# ----------------------------------------------------------------------------------------------------------- pickling


def everything(error):
    """An error's class and all that is on it, comparable."""
    fields = dict(vars(error), args=error.args)
    for name, value in fields.items():
        if isinstance(value, llmlite.LLMError):
            fields[name] = everything(value)
        elif isinstance(value, llmlite.Response):
            fields[name] = vars(value)
    return type(error), fields


COPIES = [copy.copy, copy.deepcopy, *[
    lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]]


def kinds(above=llmlite.LLMError):
    below = [kind for kind in above.__subclasses__() if kind.__module__ == above.__module__]
    return [above] + [kind for each in below for kind in kinds(each)]


@pytest.mark.parametrize("kind", sorted(set(kinds()), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_every_class_pickles(kind):
    """Every class goes through pickle and copy with its class, arguments and fields."""
    inner = llmlite.RateLimitError("429 Too Many Requests", status_code=429, body=[1, {"a": None}])
    error = kind("it failed", provider="openai", why="no luck", hint="try", attempts=3, elapsed=1.5, retry_after=2.0,
                 response=llmlite.Response(text="Hi", usage=llmlite.Usage(1, 2)), last_error=inner)
    for copied in COPIES:
        again = copied(error)
        assert everything(again) == everything(error)
        assert str(again) == str(error)


def real_errors(server):
    """One error of each way to fail, as calls raise them."""
    server.error(429, "slow", retry_after=0.001, headers={"x-request-id": "r"}, times=3)
    yield fails(server.url, retry=QUICK)
    server.error(400, "This model's maximum context length is 5 tokens")
    yield fails(server.url)
    server.error(429, code="insufficient_quota")
    yield fails(server.url)
    server.body(b"<html>")
    yield fails(server.url)
    server.raw(testing.RESET)
    yield fails(server.url)
    server.raw(testing.STALL)
    yield fails(server.url, timeout=(5, 0.3))
    server.raw(testing.STALL)
    yield fails(server.url, deadline=0.3)
    for how in ({"end": "close"}, {"end": "reset"}):
        server.sse([EVENT], **how)
        yield fails(server.url, "stream")
    server.sse([EVENT, {"error": {"message": "down"}}])
    yield fails(server.url, "stream")
    server.sse([EVENT, "data: {torn\n\n", EVENT])
    yield fails(server.url, "stream")
    server.reply("", tool_calls=(), times=1)
    yield fails(server.url, retry=llmlite.RetryPolicy(max_retries=0, retry_empty=True))


def test_real_errors_pickle(server):
    """So do errors as calls raise them, with headers, bodies and replies."""
    names = []
    for error in real_errors(server):
        names.append(type(error).__name__)
        for copied in COPIES:
            assert everything(copied(error)) == everything(error)
    assert names == [
        "RateLimitError", "ContextLengthError", "QuotaExceededError", "ResponseError", "APIConnectionError",
        "APITimeoutError", "DeadlineExceededError", "TruncatedStreamError", "StreamError", "StreamError", "StreamError",
        "EmptyResponseError"]


def ask(url):
    """What the other process does."""
    with client(url, retry=QUICK) as llm:
        return llm.chat("hello").text


def test_errors_cross_processes(server):
    """An error raised in another process comes back with its class and fields."""
    server.error(429, "slow down", retry_after=0.01, headers={"x-request-id": "r-9"}, times=None)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool, \
            pytest.raises(llmlite.RateLimitError) as caught:
        pool.submit(ask, server.url).result(30)
    error = caught.value
    assert (error.message, error.attempts, error.request_id, error.retry_after) == ("slow down", 3, "r-9", 0.01)
    assert error.headers["X-Request-Id"] == "r-9"


# --------------------------------------------------------------------------------------------------------- no key


def chain(error):
    """An error and all that hangs on it."""
    found, todo = [], [error]
    while todo:
        item = todo.pop()
        if isinstance(item, BaseException) and not any(item is other for other in found):
            found.append(item)
            todo += [item.__cause__, item.__context__, *item.args, *vars(item).values()]
    return found


def pieces_of(secret, size=12):
    return [secret[at:at + size] for at in range(len(secret) - size + 1)]


def assert_no_key(error, secret=KEY):
    """No stretch of the key is in anything an error shows or carries."""
    shown = [pickle.dumps(error).decode("latin-1"),
             "".join(traceback.format_exception(type(error), error, error.__traceback__))]
    for item in chain(error):
        shown += [str(item), repr(item), repr(item.args), repr(vars(item)), repr(getattr(item, "message", ""))]
        for name in ("headers", "body"):
            shown.append(repr(getattr(item, name, None)))
        if isinstance(getattr(item, "response", None), llmlite.Response):
            shown.append(repr(vars(item.response)))
        assert getattr(item, "request", None) is None
    for text in shown:
        for piece in pieces_of(secret):
            assert piece not in text


def nested(value, depth):
    for _ in range(depth):
        value = [value]
    return value


ECHOES = {
    "message": lambda key: testing.error(401, f"Incorrect API key provided: {key}."),
    "code": lambda key: testing.error(401, "no", code=key, type=key),
    "raw body": lambda key: testing.body(f"bad key {key}".encode(), status=401),
    "broken JSON": lambda key: testing.body(f'{{"key": "{key}'.encode(), status=401),
    "field": lambda key: testing.json_body({"error": {"message": "no", "request": {"headers": [key]}}}, status=401),
    "deep field": lambda key: testing.json_body({"error": {"message": "no", "deep": nested(key, 80)}}, status=401),
    "name of a field": lambda key: testing.json_body({"error": {"message": "no", key: 1}}, status=401),
    "header": lambda key: testing.error(401, headers={"x-echo": f"Bearer {key}"}),
    "name of a header": lambda key: testing.error(401, headers={f"x-{key}": "1"}),
    "request id": lambda key: testing.error(401, headers={"x-request-id": key}),
    "cookie": lambda key: testing.error(401, headers={"Set-Cookie": f"key={key}"}),
    "location": lambda key: testing.error(302, headers={"Location": f"http://127.0.0.1:9/?key={key}"}),
    "end of 300 characters": lambda key: testing.error(401, "x" * 270 + key),
    "end of 1200 characters": lambda key: testing.error(401, " " * 1170 + key),
    "list": lambda key: testing.json_body([{"error": {"message": key, "code": 401}}], status=401),
    "inside a 200": lambda key: testing.json_body({"error": {"message": key, "code": 401}}),
    "no JSON": lambda key: testing.body(f"hello {key}".encode()),
    "HTML": lambda key: testing.body(f"<html>{'x' * 250} {key}".encode()),
    "no choices": lambda key: testing.json_body({"choices": [], "you": key}),
    "not HTTP": lambda key: testing.raw(f"{key}\r\n\r\n".encode()),
    "status line": lambda key: testing.raw(f"HTTP/1.1 401 {key}\r\nContent-Length: 0\r\n\r\n".encode()),
    "content encoding": lambda key: testing.reply("hi", headers={"Content-Encoding": key}),
}


@pytest.mark.parametrize("how", ECHOES)
def test_echoed_key(server, how):
    """A server that echoes the key finds it masked, whole and in part, wherever it put it."""
    server.handle(lambda request: ECHOES[how](KEY))
    assert_no_key(fails(server.url))


def test_echoed_key_of_a_callable(server):
    """So does one that echoes a key that a callable gave."""
    server.error(401, f"Incorrect API key provided: {KEY}.", headers={"x-echo": KEY})
    with llmlite.Client("test", provider="openai", base_url=server.url, retry=None, api_key=lambda: KEY) as llm, \
            pytest.raises(llmlite.AuthenticationError) as caught:
        llm.chat("hello")
    assert_no_key(caught.value)


TORN = f'data: {{"torn": "{KEY}\n\n'
STREAM_ECHOES = {
    "first error": [{"error": {"message": KEY, "code": 401}}],
    "later error": [EVENT, {"error": {"message": KEY, "code": 401, "more": [KEY]}}],
    "text": [{"choices": [{"index": 0, "delta": {"content": f"You sent {KEY}"}}]}],
    "text in two": [{"choices": [{"index": 0, "delta": {"content": KEY[:9]}}]},
                    {"choices": [{"index": 0, "delta": {"content": KEY[9:]}}]}],
    "reasoning": [{"choices": [{"index": 0, "delta": {"reasoning": KEY}}]}],
    "tool call": [{"choices": [{"index": 0, "delta": {"tool_calls": [
        {"index": 0, "id": KEY, "function": {"name": KEY, "arguments": json.dumps({"key": KEY})}}]}}]}],
    "torn": [EVENT, TORN, EVENT],
    "torn at once": [TORN, EVENT],
    "stray": [f"{KEY}\n\n"],
}


@pytest.mark.parametrize("how", STREAM_ECHOES)
def test_key_echoed_in_a_stream(server, how):
    """So does a server that echoes it in a stream."""
    server.sse(STREAM_ECHOES[how], headers={"x-echo": KEY})
    assert_no_key(fails(server.url, "stream"))


@pytest.mark.parametrize("echo", ["Bearer sk-other-0123456789-ABCDEFGHI", "sk-other-0123456789-ABCDEFGHI"])
@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "api-key", "X-Auth-Token"])
def test_echoed_header_of_the_user(server, name, echo):
    """A key that came by `headers=` is masked as well, with and without its scheme."""
    server.error(401, f"Bad key: {echo}!")
    error = fails(server.url, call={"headers": {name: "Bearer sk-other-0123456789-ABCDEFGHI"}})
    assert_no_key(error, "sk-other-0123456789-ABCDEFGHI")


def test_no_key_in_the_last_error(server):
    """The error before the last is masked too."""
    server.error(429, f"slow down, {KEY}", headers={"x-echo": KEY}, times=None, retry_after=0.001)
    error = fails(server.url, retry=QUICK)
    assert error.last_error is not None
    assert_no_key(error)
    server.error(429, f"slow down, {KEY}", headers={"x-echo": KEY}, retry_after=9)
    with testing.Server() as other:
        other.error(429, f"slow down, {KEY}", headers={"x-echo": KEY}, retry_after=9)
        error = fails(other.url, retry=llmlite.RetryPolicy(), deadline=1)
    assert type(error) is llmlite.DeadlineExceededError
    assert_no_key(error)


def test_no_key_without_an_echo(server):
    """No error holds the key or the request, whichever way the call failed."""
    for error in real_errors(server):
        assert_no_key(error)
        assert all(isinstance(item, llmlite.LLMError) for item in chain(error))


@pytest.mark.parametrize("key", [KEY + "\n", KEY + "\x00", KEY + "\u20ac"])
def test_key_that_is_refused(key):
    """A key that cannot go into a header is refused without showing it, given or asked for."""
    with pytest.raises(llmlite.ConfigurationError) as caught:
        llmlite.Client("test", base_url="http://127.0.0.1:9/v1", api_key=key)
    assert_no_key(caught.value)
    with llmlite.Client("test", base_url="http://127.0.0.1:9/v1", api_key=lambda: key, retry=None) as llm, \
            pytest.raises(llmlite.ConfigurationError) as caught:
        llm.chat("hello")
    assert_no_key(caught.value)


def test_masked_places_keep_the_rest(server):
    """Masking takes the key out and leaves the words around it."""
    server.error(401, f"Incorrect API key provided: {KEY}. See the docs.", headers={"x-echo": f"<{KEY}>"})
    error = fails(server.url)
    assert error.message == "Incorrect API key provided: ***. See the docs."
    assert error.body["error"]["message"] == error.message
    assert error.headers["X-Echo"] == "<***>"


def test_short_keys_are_no_secrets(server):
    """A stand-in key such as "local" is no secret: masking it would spoil the server's words."""
    server.error(400, "local models only, at localhost")
    with llmlite.Client("test", base_url=server.url, api_key="local", retry=None) as llm, \
            pytest.raises(llmlite.BadRequestError) as caught:
        llm.chat("hello")
    assert caught.value.message == "local models only, at localhost"


# ----------------------------------------------------------------------------------------------- the client goes on


def test_client_after_errors(server):
    """After errors of every kind the client answers the next call."""
    with client(server.url, timeout=(5, 0.3)) as llm:
        for trouble in (testing.error(500), testing.raw(testing.RESET), testing.raw(testing.STALL),
                        testing.body(b"<html>"), testing.error(400, truncate=3)):
            server.handle(lambda request, trouble=trouble: trouble)
            with pytest.raises(llmlite.LLMError):
                llm.chat("hello")
            server.handle(lambda request: testing.reply("fine"))
            assert llm.chat("hello").text == "fine"


def test_error_body_keeps_the_connection(server):
    """An error's body is read to its end, so that the connection can be used again."""
    server.error(404, "x" * 5000, times=5)
    with client(server.url) as llm:
        for _ in range(5):
            with pytest.raises(llmlite.NotFoundError):
                llm.chat("hello")
    assert server.connections == 1


def test_endless_error_body(server):
    """An error with an endless body ends with what came by then."""
    server.body([b"x" * 1000] * 20000, status=500, framing="chunked")
    started = time.monotonic()
    error = fails(server.url)
    assert within(0, started, 5)
    assert type(error) is llmlite.ServerError
    assert len(error.body) < 2 << 20
