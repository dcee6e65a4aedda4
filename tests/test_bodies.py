"""Answers to chat(): whatever comes with a status of 2xx is either a reply or an error that says what it is."""
import gzip
import json
import tracemalloc
import zlib

import pytest

from tests import llmlite, testing
from tests.packed import bomb

FAST = llmlite.RetryPolicy(max_retries=2, backoff=0.001, rate_limit_max_retries=2, rate_limit_backoff=0.001)
GZIP = {"Content-Encoding": "gzip"}
JSON = {"Content-Type": "application/json"}
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MB = 1 << 20


def completion(content="Hello", **fields):
    message = {"role": "assistant", "content": content}
    return {"id": "c", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **fields}


WHOLE = json.dumps(completion()).encode()


@pytest.fixture
def llm(server):
    with llmlite.Client("test", base_url=server.url, retry=FAST) as llm:
        yield llm


# ------------------------------------------------------------------------------------------------------- good answers


@pytest.mark.parametrize("torn", [None, 1], ids=["whole", "torn"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close", "gzip", "gzip-length"])
def test_an_answer_on_every_framing(server, llm, framing, torn):
    """Sized, chunked, close-delimited, compressed, in one packet or in many: the same reply."""
    server.json(completion("Hell\u00f6 \u2028\U0001f600"), framing=framing, split=torn)
    assert llm.chat("Hi").text == "Hell\u00f6 \u2028\U0001f600"
    assert len(server.requests) == 1


@pytest.mark.parametrize("encoding, packed", [
    ("deflate", zlib.compress(WHOLE)), ("deflate", zlib.compress(WHOLE)[2:-4]), ("x-gzip", gzip.compress(WHOLE)),
    ("GZIP", gzip.compress(WHOLE)), ("identity", WHOLE), ("", WHOLE),
    ("gzip", gzip.compress(WHOLE[:20]) + gzip.compress(WHOLE[20:]) + gzip.compress(b"")),
    ("gzip", gzip.compress(WHOLE) + b"\0" * 20),
    ("gzip", gzip.compress(WHOLE[:20]) + b"\0" * 20 + gzip.compress(WHOLE[20:]) + b"\0"),
], ids=["deflate", "raw-deflate", "x-gzip", "GZIP", "identity", "none", "members", "padded", "padded members"])
def test_an_answer_in_every_compression(server, llm, encoding, packed):
    """What servers call gzip and deflate is undone: zlib's and raw deflate, several gzip members."""
    server.body(packed, headers={"Content-Encoding": encoding}, split=7)
    assert llm.chat("Hi").text == "Hello"


@pytest.mark.parametrize("headers, body", [
    ({"Content-Type": None}, WHOLE), ({"Content-Type": "text/html"}, WHOLE),
    ({"Content-Type": "application/json; charset=latin-1"}, WHOLE),
    (JSON, b"\n\n\n\n" + WHOLE + b"\r\n"), (JSON, b"\xef\xbb\xbf" + WHOLE), (JSON, b"[" + WHOLE + b"]"),
    (JSON, WHOLE.replace(b'"id"', b'"error": null, "id"')), (JSON, json.dumps(completion(), indent=2).encode()),
    ({**JSON, "Transfer-Encoding": None, "Content-Length": None}, WHOLE),
], ids=["no-type", "html-type", "charset", "blank-lines", "bom", "list", "error-null", "indented", "no-length"])
def test_odd_but_good_answers(server, llm, headers, body):
    """A wrong or missing Content-Type, blank lines to keep alive, a BOM and the like do not hide a good reply."""
    server.body(body, headers=headers)
    assert llm.chat("Hi").text == "Hello"
    assert len(server.requests) == 1


# ---------------------------------------------------------------------------------------------- answers that are none


SSE = b"data: " + WHOLE + b"\n\ndata: [DONE]\n\n"
NONE = {
    "html": (testing.body(b"\n<html>Sign in</html>", headers={"Content-Type": "text/html"}), "an HTML page.*Sign in"),
    "text": (testing.body(b"It works!", headers={"Content-Type": "text/plain"}), "broken JSON.*text/plain: It works"),
    "empty": (testing.body(b""), "an empty body"),
    "empty-chunked": (testing.body(b"", framing="chunked"), "an empty body"),
    "empty-gzip": (testing.body(b"", headers=GZIP), "an empty body"),
    "blank": (testing.body(b"\n\n"), "an empty body"),
    "204": (testing.raw(b"HTTP/1.1 204 No Content\r\n\r\n"), "204 but an empty body"),
    "broken": (testing.body(WHOLE[:-9], headers=JSON), "broken JSON"),
    "two": (testing.body(WHOLE + WHOLE, headers=JSON), "broken JSON"),
    "deep": (testing.body(b"[" * 100000, headers=JSON), "broken JSON"),
    "events": (testing.body(SSE, headers={"Content-Type": "text/event-stream"}), "broken JSON"),
    "null": (testing.json_body(None), "200 but"),
    "number": (testing.json_body(3), "200 but"),
    "string": (testing.json_body("Hello"), "200 but"),
    "list-empty": (testing.json_body([]), "200 but"),
    "object-empty": (testing.json_body({}), "no choices"),
    "no-choices": (testing.json_body({"choices": []}), "no choices"),
    "null-choices": (testing.json_body({"choices": None}), "no choices"),
    "text-choices": (testing.json_body({"choices": "Hello"}), "no choices"),
    "odd-choice": (testing.json_body({"choices": ["Hello"]}), "no choices"),
    "no-gzip": (testing.body(WHOLE, headers=GZIP), "compression is broken"),
    "no-deflate": (testing.body(b"\xff" * 9, headers={"Content-Encoding": "deflate"}), "compression is broken"),
    "gzip-and-more": (testing.body(gzip.compress(WHOLE) + b"more", headers=GZIP), "compression is broken"),
    "unknown-encoding": (testing.body(WHOLE, headers={"Content-Encoding": "br"}), "Content-Encoding 'br'"),
}


@pytest.mark.parametrize("name", NONE)
def test_a_2xx_that_is_no_answer(server, llm, name):
    """It raises ResponseError, which says what came, and is not tried again: it may have been billed."""
    reply, words = NONE[name]
    server.handle(lambda request: reply)
    with pytest.raises(llmlite.ResponseError, match=words) as caught:
        llm.chat("Hi")
    assert type(caught.value) is llmlite.ResponseError
    assert (caught.value.attempts, len(server.requests)) == (1, 1)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("name", ["html", "object-empty", "204"])
def test_an_answer_that_is_none_is_kept_on_the_error(server, llm, name):
    """The error has the status, the headers and the whole body."""
    server.handle(lambda request: NONE[name][0])
    with pytest.raises(llmlite.ResponseError) as caught:
        llm.chat("Hi")
    assert caught.value.body == {"html": b"\n<html>Sign in</html>", "object-empty": {}, "204": b""}[name]
    assert caught.value.status_code == (204 if name == "204" else 200)
    assert caught.value.headers.get("content-type") == {
        "html": "text/html", "object-empty": "application/json", "204": None}[name]


@pytest.mark.parametrize("name", ["html", "empty", "object-empty", "no-gzip", "broken"])
def test_an_answer_that_is_none_is_retried_where_asked_for(server, name):
    """retry_empty tries it again, as often as the policy says."""
    llm = llmlite.Client("test", base_url=server.url,
                         retry=llmlite.RetryPolicy(max_retries=2, backoff=0.001, retry_empty=True))
    answers = iter([NONE[name][0], NONE[name][0], testing.reply("Hello")])
    server.handle(lambda request: next(answers, NONE[name][0]))
    assert llm.chat("Hi").attempts == 3
    with pytest.raises(llmlite.ResponseError) as caught:
        llm.chat("Hi")
    assert (caught.value.attempts, len(server.requests)) == (3, 6)


# -------------------------------------------------------------------------------------------------- errors inside a 200


INSIDE = {
    "object": ({"error": {"message": "Slow down", "code": 429}}, llmlite.RateLimitError, 429),
    "type": ({"error": {"message": "Slow down", "type": "rate_limit_error"}}, llmlite.RateLimitError, 429),
    "string": ({"error": "Slow down"}, llmlite.ServerError, 500),
    "string-and-code": ({"error": "Slow down", "code": 503}, llmlite.OverloadedError, 503),
    "list": ([{"error": {"message": "Slow down", "status": "RESOURCE_EXHAUSTED"}}], llmlite.RateLimitError, 429),
    "flat": ({"object": "error", "message": "Slow down", "code": "rate_limit_exceeded"}, llmlite.RateLimitError, 429),
    "detail": ({"detail": "Slow down"}, llmlite.ServerError, 500),
    "beside-choices": ({**completion(), "error": {"message": "Slow down", "code": 502}}, llmlite.ServerError, 502),
    "choice": ({"choices": [{"error": {"message": "Slow down", "code": 502}, "message": {"content": "He"},
                             "finish_reason": "error"}]}, llmlite.ServerError, 502),
}


@pytest.mark.parametrize("name", INSIDE)
def test_an_error_inside_a_200(server, llm, name):
    """An error object with status 200 is the error it stands for: retried, and raised by its class."""
    body, kind, status = INSIDE[name]
    server.json(body)
    server.reply("Hello")
    assert llm.chat("Hi").attempts == 2
    server.json(body, times=3)
    with pytest.raises(llmlite.APIError) as caught:
        llm.chat("Hi")
    error = caught.value
    assert (type(error), error.status_code, error.message) == (kind, status, "Slow down")
    assert (error.attempts, len(server.requests)) == (3, 5)
    assert error.headers["content-type"] == "application/json"
    assert llm.ledger.calls == 1


@pytest.mark.parametrize("code, kind", [
    ("invalid_request_error", llmlite.BadRequestError), ("insufficient_quota", llmlite.QuotaExceededError),
    ("context_length_exceeded", llmlite.ContextLengthError), (401, llmlite.AuthenticationError),
    ("model_not_found", llmlite.NotFoundError),
])
def test_an_error_inside_a_200_that_cannot_be_mended(server, llm, code, kind):
    """What no retry mends is raised at once."""
    server.json({"error": {"message": "No", "code": code}})
    with pytest.raises(kind) as caught:
        llm.chat("Hi")
    assert (caught.value.code, len(server.requests)) == (code, 1)


# -------------------------------------------------------------------------------------------------------- cut answers


CUT = {
    "short-length": testing.body(WHOLE, truncate=30),
    "no-body": testing.body(WHOLE, truncate=0),
    "no-last-chunk": testing.body(WHOLE, framing="chunked", end="close"),
    "inside-a-chunk": testing.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n", WHOLE[:20]),
    "reset": testing.body(WHOLE, truncate=30, end="reset"),
    "reset-close-delimited": testing.body(WHOLE, framing="close", end="reset"),
    "cut-gzip": testing.body(gzip.compress(WHOLE)[:-20], headers=GZIP),
    "cut-gzip-trailer": testing.body(gzip.compress(WHOLE)[:-1], headers=GZIP),
    "short-gzip": testing.body(WHOLE, framing="gzip-length", truncate=30),
    "cut-head": testing.raw(b"HTTP/1.1 200 OK\r\nContent-Type: appl"),
    "cut-head-at-a-line": testing.raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"),
    "cut-status-line": testing.raw(b"HTTP/1.1 20"),
    "no-head": testing.raw(testing.CLOSE),
    "no-http": testing.raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "other-http": testing.raw(b"HTTP/2 200 OK\r\n\r\n"),
    "long-header": testing.raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000 + b"\r\n\r\n"),
}


@pytest.mark.parametrize("name", CUT)
def test_a_cut_answer_is_retried(server, llm, name):
    """An answer that stops before its framing says so is no reply: the call is made again, then fails."""
    answers = iter([CUT[name], testing.reply("Hello")])
    server.handle(lambda request: next(answers, CUT[name]))
    assert llm.chat("Hi").attempts == 2
    with pytest.raises(llmlite.APIConnectionError) as caught, \
            llmlite.Client("test", base_url=server.url, retry=FAST) as other:
        other.chat("Hi")
    assert (caught.value.attempts, len(server.requests)) == (3, 5)
    assert server.url in str(caught.value)


@pytest.mark.parametrize("chunks", [
    b"%x\r\n%bextra\r\n0\r\n\r\n", b"%x\r\n%b0\r\n\r\n", b"%x\r\n%babc\r\n0\r\n\r\n",
], ids=["longer", "no-end", "hexadecimal"])
def test_a_chunk_that_is_not_as_long_as_it_says(server, chunks):
    """Where a chunk does not end where it should, what follows is not taken for the size of the next."""
    server.raw(CHUNKED + chunks % (len(WHOLE), WHOLE))
    with llmlite.Client("test", base_url=server.url, retry=None) as llm:
        with pytest.raises(llmlite.APIConnectionError, match="a chunk's size cannot be read"):
            llm.chat("Hi")


def test_a_cut_close_delimited_answer_is_no_reply(server, llm):
    """Where only the end of the connection ends the body, broken JSON tells of the cut."""
    server.body(WHOLE[:-9], framing="close")
    with pytest.raises(llmlite.ResponseError, match="broken JSON"):
        llm.chat("Hi")


@pytest.mark.parametrize("how", [{"truncate": 30}, {"end": "reset", "truncate": 30}, {"headers": GZIP},
                                 {"headers": {"Content-Encoding": "br"}}, {"framing": "chunked", "end": "close"}],
                         ids=["cut", "reset", "no-gzip", "unknown-encoding", "no-last-chunk"])
def test_a_broken_error_body_does_not_hide_the_error(server, llm, how):
    """The status says what happened, however little of the body can be read; it is retried by the status."""
    server.error(503, "Slow down, please, there are many of you", **how)
    server.reply("Hello")
    assert llm.chat("Hi").attempts == 2
    server.error(400, "Slow down, please, there are many of you", **how)
    with pytest.raises(llmlite.BadRequestError) as caught:
        llm.chat("Hi")
    assert caught.value.status_code == 400


# ------------------------------------------------------------------------------------------------------------- limits


def test_a_decompression_bomb_is_refused(server, llm):
    """A small body that unpacks to over 256 MiB ends in an error, once."""
    packed = bomb(b" " * MB, 1000)
    assert len(packed) < 2 * MB
    server.body(packed, headers=GZIP)
    with pytest.raises(llmlite.ResponseError, match="256 MiB") as caught:
        llm.chat("Hi")
    assert caught.value.attempts == 1


def test_a_decompression_bomb_of_an_error_is_cut_short(server, llm):
    """Of an error's body no more than a little is read: the error is raised with the start of it."""
    server.body(bomb(b"x" * MB, 1000), status=400, headers=GZIP)
    tracemalloc.start()
    try:
        with pytest.raises(llmlite.BadRequestError) as caught:
            llm.chat("Hi")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 20 * MB
    assert caught.value.message.startswith("xxx")


def test_a_body_over_the_limit_is_refused(server, llm):
    """A body of over 256 MiB on the wire is not read to its end."""
    block = b" " * MB
    server.handle(lambda request: testing.raw(b"HTTP/1.1 200 OK\r\n\r\n", *[block] * 400))
    with pytest.raises(llmlite.ResponseError, match="256 MiB"):
        llm.chat("Hi")
    assert server.wait_idle()
    assert sum(size for _, size in server.requests[0].sent) < 300 * MB


@pytest.mark.parametrize("line", [b"X: y\r\n" * 1000, b"x" * 6000], ids=["lines", "line"])
def test_trailers_without_end_are_refused(server, line):
    """A flood after the last chunk ends the call, also where it has no deadline."""
    server.raw(CHUNKED + b"%x\r\n%b\r\n0\r\n" % (len(WHOLE), WHOLE), *[line] * 2000)
    with llmlite.Client("test", base_url=server.url, retry=None) as llm:
        with pytest.raises(llmlite.APIConnectionError, match="not HTTP"):
            llm.chat("Hi")
    assert server.wait_idle() and sum(size for _, size in server.requests[0].sent) < 11 * MB


@pytest.mark.parametrize("head", [
    b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 60000) for n in range(90)),
    b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 10000,
    b"HTTP/1.1 100 Continue\r\n\r\n" * 100000,
], ids=["large", "many", "continue"])
def test_a_head_over_the_limit_is_refused(server, llm, head):
    """A head that is too large, or "100 Continue" without end, is no answer and no hang."""
    server.handle(lambda request: testing.raw(head + b"\r\n" + WHOLE))
    with pytest.raises(llmlite.LLMError) as caught:
        llm.chat("Hi")
    assert isinstance(caught.value, (llmlite.ResponseError, llmlite.APIConnectionError))
    assert len(server.requests) == caught.value.attempts
