"""`request()`: any other endpoint with the client's key, retries, limits and errors."""
import base64
import email.parser
import email.policy
import gc
import io
import json
import os
import pickle
import socket
import sys
import threading
import time

import pytest

from tests import llmlite, testing
from tests.beside import METER, soon
from tests.dialects import FAST, KEY

SPEECH = [{"type": "transcript.text.delta", "delta": "Hel"},
          {"type": "transcript.text.done", "text": "Hello", "usage": {"input_tokens": 7, "output_tokens": 2}}]


def client(server, **options):
    own = {"provider": "openai", "base_url": server.url, "api_key": KEY, "retry": FAST}
    return llmlite.Client("m", **{**own, **options})


@pytest.fixture
def llm(server):
    with client(server) as llm:
        yield llm


def form(request):
    """A multipart body's fields: name -> (file name, content)."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.body)
    return {part.get_param("name", header="content-disposition"): (part.get_filename(), part.get_payload(decode=True))
            for part in message.iter_parts()}


# --------------------------------------------------------------------------------------------------------- what is sent


@pytest.mark.parametrize("method, path, options, sent", [
    ("POST", "/moderations", {"json": {"input": "caf\u00e9"}}, ("/v1/moderations", b'{"input":"caf\xc3\xa9"}',
                                                               "application/json")),
    ("post", "rerank", {"json": [1]}, ("/v1/rerank", b"[1]", "application/json")),
    ("GET", "/files", {"params": {"a": ["1", "2"], "b": None, "c": "x y"}}, ("/v1/files?a=1&a=2&c=x+y", b"", None)),
    ("GET", "/files?z=1", {"params": [("a", 1)]}, ("/v1/files?z=1&a=1", b"", None)),
    ("DELETE", "/files/f 1", None, None), ("DELETE", "/files/f1", {}, ("/v1/files/f1", b"", None)),
    ("POST", "/batches/b/cancel", {}, ("/v1/batches/b/cancel", b"", None)),
    ("POST", "/form", {"data": {"a": "1", "b": ["2", "3"]}}, ("/v1/form", b"a=1&b=2&b=3",
                                                             "application/x-www-form-urlencoded")),
    ("PUT", "/raw", {"data": b"\0bytes"}, ("/v1/raw", b"\0bytes", None)),
    ("PATCH", "/raw", {"data": "caf\u00e9", "headers": {"content-type": "text/plain"}}, (
        "/v1/raw", b"caf\xc3\xa9", "text/plain"))])
@pytest.mark.parametrize("again", [False, True])
def test_what_is_sent(server, llm, method, path, options, sent, again):
    """Path, query, body and its kind; the same over a connection that is there already."""
    if sent is None:
        with pytest.raises(llmlite.ConfigurationError, match="^path="):
            llm.request(method, path)
        return
    server.json({"ok": True}, times=1 + again)
    for _ in range(1 + again):
        assert llm.request(method, path, **options).json() == {"ok": True}
    for request in server.requests:
        assert (request.method, request.path, request.body) == (method.upper(), *sent[:2])
        assert request.headers.get("content-type") == sent[2]
        assert request.headers["authorization"] == f"Bearer {KEY}" and request.headers["accept"] == "*/*"
        length = None if method == "GET" else str(len(sent[1]))
        assert request.headers.get("content-length") == length and "transfer-encoding" not in request.headers


def test_a_form_with_files(server, llm):
    """It is written by requests: file names, fields, bytes and open files; a retry sends the very same."""
    server.error(500, "again")
    server.json({"text": "Hello"})
    audio = io.BytesIO(b"RIFF\0\1")
    fields = {"model": "whisper-1", "timestamp_granularities[]": "word"}
    reply = llm.request("POST", "/audio/transcriptions", data=fields,
                        files={"file": ("a.wav", audio, "audio/wav"), "more": b"x"})
    assert reply.json() == {"text": "Hello"} and reply.attempts == 2
    first, second = server.requests
    assert first.body == second.body and form(first) == {
        "model": (None, b"whisper-1"), "timestamp_granularities[]": (None, b"word"), "file": ("a.wav", b"RIFF\0\1"),
        "more": ("more", b"x")}
    assert llm.ledger.by_model.keys() == {"whisper-1"}


@pytest.mark.parametrize("provider, name, value", [
    ("anthropic", "x-api-key", KEY), ("gemini", "x-goog-api-key", KEY), ("azure", "api-key", KEY)])
def test_each_provider_has_its_own_key(server, provider, name, value):
    server.json({}, times=2)
    with client(server, provider=provider, headers={"X-Mine": "1"}) as llm:
        llm.request("GET", "/files", headers={"X-Too": "2"})
    headers = server.requests[0].headers
    assert (headers[name], headers["x-mine"], headers["x-too"]) == (value, "1", "2")
    assert headers.get("anthropic-version") == ("2023-06-01" if provider == "anthropic" else None)


def test_a_whole_url(server, llm):
    """At the client's own host it is asked as it stands; the key goes nowhere else."""
    server.json({"at": "root"})
    url = server.root.replace("http", "HTTP") + "/tokenize?a=1"
    assert llm.request("POST", url, json={}).json()["at"] == "root"
    assert server.requests[0].path == "/tokenize?a=1"
    host = server.root[7:]
    for url in ("https://evil.example/v1", f"https://{host}/v1/files", f"http://{host}@evil.example/", f"http://{host}0/",
                f"http://me@{host}/", "ftp://x/", "//evil.example/v1".replace("//", "http://", 1)):
        with pytest.raises(llmlite.ConfigurationError, match="^.* is not at .*: the key is for that host alone"):
            llm.request("GET", url)
    server.json({})
    llm.request("GET", "//evil.example/v1")
    assert len(server.requests) == 2 and server.requests[1].path == "/v1//evil.example/v1"


@pytest.mark.parametrize("how", ["first", "later"])
@pytest.mark.parametrize("answer", [testing.body(b"", headers={"Content-Length": "7"}, truncate=0), testing.body(b"")])
def test_head(server, llm, how, answer):
    """HEAD has no body, whatever length its answer names."""
    if how == "later":
        server.json({})
        llm.request("GET", "/files")
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nX-Size: 7\r\n\r\n" if answer.end else b"HTTP/1.1 200 OK\r\n\r\n"
    server.raw(head)
    reply = llm.request("HEAD", "/files/1", deadline=5)
    assert (reply.status_code, reply.content, reply.headers.get("x-size")) == (
        200, b"", "7" if answer.end else None)


@pytest.mark.parametrize("how", [
    {"method": "GET /"}, {"method": 5}, {"path": ""}, {"path": None}, {"path": "/a b"}, {"path": "/a\n"},
    {"path": "/a#b"}, {"data": iter([b""]), "files": {"a": b""}},
    {"json": {}, "data": b""}, {"json": {}, "files": {}}, {"json": {"a": {1}}}, {"data": 5}, {"data": object()},
    {"files": {"a": object()}},
    {"params": 5}, {"stream": "yes"}, {"headers": {"a": 1}}, {"timeout": "x"}, {"deadline": 0}])
def test_bad_arguments(server, llm, how):
    """One line, before anything is sent."""
    with pytest.raises(llmlite.ConfigurationError) as caught:
        llm.request(**{"method": "POST", "path": "/x", **how})
    assert "\n" not in str(caught.value) and server.requests == []


# ----------------------------------------------------------------------------------------- bodies read as they are sent


def pieces(*texts):
    yield from texts


class Pipe(io.RawIOBase):
    """A file that cannot seek."""

    def __init__(self, data):
        self.data = io.BytesIO(data)

    def read(self, size=-1):
        return self.data.read(size)

    def readable(self):
        return True


def test_an_iterator_goes_out_in_chunks(server, llm):
    server.json({"ok": 1}, times=2)
    llm.request("POST", "/up", data=pieces(b"a" * 70000, b"b"), headers={"Content-Type": "audio/wav"})
    llm.request("POST", "/up", data=Pipe(b"c" * 70000))
    first, second = server.requests
    assert first.body == b"a" * 70000 + b"b" and second.body == b"c" * 70000
    assert first.headers["transfer-encoding"] == "chunked" and first.headers["content-type"] == "audio/wav"


def test_a_file_is_sent_once_more_from_where_it_stood(server, llm, tmp_path):
    """With its length, for some servers take no chunks."""
    (tmp_path / "a").write_bytes(b"head" + b"x" * 70000)
    server.error(503, "busy")
    server.json({"ok": 1})
    with open(tmp_path / "a", "rb") as file:
        file.seek(4)
        assert llm.request("POST", "/up", data=file).attempts == 2
    for request in server.requests:
        assert request.body == b"x" * 70000 and request.headers["content-length"] == "70000"


@pytest.mark.parametrize("make", [pieces, lambda *texts: Pipe(b"".join(texts))], ids=["iterator", "pipe"])
@pytest.mark.parametrize("fault", ["status", "lost", "stale"])
def test_what_cannot_be_read_again_is_not_retried(server, llm, make, fault):
    """Once it has been read; the error says so."""
    if fault == "stale":
        server.json({})
        llm.request("GET", "/files")
    server.error(500, "again") if fault == "status" else server.raw(testing.RESET)
    before = len(server.requests)
    with pytest.raises(llmlite.LLMError, match="cannot be read once more") as caught:
        llm.request("POST", "/up", data=make(b"a", b"b"))
    assert len(server.requests) == before + 1 and caught.value.attempts == 1


@pytest.mark.parametrize("make, error", [
    (lambda: io.StringIO("caf\u00e9"), "data is a file of text"), (lambda: iter([b"a", 5]), "data gives a int"),
    (lambda: Blocked(b""), "data gives a NoneType"), (lambda: closed(), "cannot be sent: I/O operation on closed")])
def test_data_that_gives_no_bytes(server, llm, make, error):
    """One line says so; it neither hangs nor sends another text than it seems."""
    with pytest.raises(llmlite.ConfigurationError, match=error):
        llm.request("POST", "/x", data=make(), deadline=5)
    server.json({"ok": 1})
    assert llm.request("GET", "/y").json() == {"ok": 1}


class Blocked(Pipe):
    """A file that has nothing now."""

    def read(self, size=-1):
        return b"" if size == 0 else None


def closed():
    file = io.BytesIO(b"a")
    file.close()
    return file


def test_empty_pieces_end_nothing(server, llm):
    """Nor does a text among them: it goes out in UTF-8."""
    server.json({})
    llm.request("POST", "/x", data=iter([b"ab", b"", "caf\u00e9", bytearray(b"cd"), memoryview(b"e")]))
    assert server.requests[0].body == b"abcaf\xc3\xa9cde"


def past_its_end():
    file = io.BytesIO(b"abc")
    file.seek(10)
    return file


@pytest.mark.parametrize("data, sized", [
    (io.BytesIO(b""), True), (past_its_end(), True), (iter([]), False), (Pipe(b""), False)])
def test_nothing_to_send(server, llm, data, sized):
    """A file says how little it is; what is read as it is sent ends at once."""
    server.json({}, times=2)
    llm.request("POST", "/x", data=data)
    llm.request("GET", "/y")
    assert [request.body for request in server.requests] == [b"", b""] and server.connections == 1
    assert server.requests[0].headers.get("content-length") == ("0" if sized else None)


def test_a_file_that_grows_as_it_is_sent(server, llm):
    """What it gains is no part of this request, nor of the next one over the connection."""
    class Growing(io.BytesIO):
        def read(self, size=-1):
            if size > 0 and len(self.getvalue()) < 400_000:
                at = self.tell()
                self.seek(0, io.SEEK_END)
                self.write(b"GET /smuggled HTTP/1.1\r\n\r\n" * 3000)
                self.seek(at)
            return super().read(size)

    server.json({"ok": 1}, times=None)
    llm.request("POST", "/x", data=Growing(b"x" * 100_000))
    llm.request("GET", "/y")
    assert [request.path for request in server.requests] == ["/v1/x", "/v1/y"]
    assert server.requests[0].body == b"x" * 100_000


def test_a_file_that_shrinks_as_it_is_sent(server, llm):
    """It is said at once: the server would wait for the rest."""
    class Shrinking(io.BytesIO):
        def read(self, size=-1):
            if size > 0:
                self.truncate(70_000)
            return super().read(size)

    with pytest.raises(llmlite.ConfigurationError, match="the file in data ended 30000 bytes before its end"):
        llm.request("POST", "/x", data=Shrinking(b"x" * 100_000), deadline=10)


def test_the_cause_of_what_a_source_raises_stays(server, llm):
    def broken():
        yield b"a"
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError as error:
            raise OSError("disk") from error

    with pytest.raises(OSError, match="disk") as caught:
        llm.request("POST", "/x", data=broken())
    assert type(caught.value.__cause__) is ZeroDivisionError and llm.ledger.failed == 1


@pytest.mark.parametrize("error", [OSError("disk"), TimeoutError("mine"), ConnectionResetError("me"), KeyError("k")])
@pytest.mark.parametrize("kind", ["iterator", "pipe", "file"])
def test_what_a_source_raises_is_its_owners(server, llm, error, kind):
    """It is no trouble of the provider's, whatever it looks like."""
    def broken():
        yield b"a"
        raise error

    class Broken(io.BytesIO):
        def read(self, size=-1):
            if size:
                raise error
            return b""

        def seekable(self):
            return kind == "file"

        def tell(self):
            if kind == "pipe":
                raise OSError("no seeking")
            return super().tell()

    with pytest.raises(type(error)) as caught:
        llm.request("POST", "/x", data=broken() if kind == "iterator" else Broken(b"abc"), deadline=10)
    assert caught.value is error


def test_what_was_not_read_is_there():
    """A refused connection has taken nothing of it, however often it was tried."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        given = pieces(b"a")
        with llmlite.Client("m", base_url=f"http://127.0.0.1:{sock.getsockname()[1]}", retry=FAST) as llm:
            with pytest.raises(llmlite.APIConnectionError) as caught:
                llm.request("POST", "/up", data=given)
        assert caught.value.attempts == 1 and next(given) == b"a"


def test_an_iterator_that_raises(server, llm):
    """What the user's own code raises comes through."""
    def broken():
        yield b"a"
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        llm.request("POST", "/up", data=broken())
    server.json({"ok": 1})
    assert llm.request("GET", "/files").json() == {"ok": 1}


# --------------------------------------------------------------------------------------------------------- what is read


def test_an_answer(server, llm):
    server.body(b"\xff\0", headers={"Content-Type": "audio/mpeg", "X-Request-Id": "r1"}, framing="gzip")
    answer = llm.request("POST", "/audio/speech", json={"model": "tts", "input": "Hi"})
    assert (answer.status_code, answer.content, answer.request_id, answer.attempts) == (200, b"\xff\0", "r1", 1)
    assert list(answer.iter_content()) == [b"\xff\0"] and answer.elapsed > 0
    assert repr(answer) == "<Answer 200 audio/mpeg>"
    with answer:
        answer.close()
    with pytest.raises(llmlite.ResponseError, match="^200 but no JSON: audio/mpeg, 2 bytes") as caught:
        answer.json()
    assert (caught.value.status_code, caught.value.request_id) == (200, "r1")
    assert llm.ledger.by_model.keys() == {"tts"} and llm.ledger.calls == 1


@pytest.mark.parametrize("content, kind, text", [
    (b"caf\xe9", "text/plain; charset=latin-1", "caf\u00e9"), (b"\xef\xbb\xbfcaf\xc3\xa9", "text/plain", "caf\u00e9"),
    (b"\xff", "text/vtt", "\ufffd"), (b"a", "text/plain; charset=nonsense", "a"), (b"", "text/plain", ""),
    (b"caf\xe9", 'text/plain; Charset="ISO-8859-1"', "caf\u00e9"), (b"a", None, "a"),
    (b"a\xff..", "text/plain; charset=idna", "a\ufffd.."), (b"a", "text/plain; charset=undefined", "a")])
def test_text(server, llm, content, kind, text):
    server.body(content, headers={"Content-Type": kind})
    answer = llm.request("GET", "/x")
    assert answer.text == text and list(answer.iter_content()) == ([content] if content else [])


def test_answers_without_a_body(server, llm):
    server.raw(b"HTTP/1.1 204 No Content\r\n\r\n")
    answer = llm.request("DELETE", "/files/1")
    assert (answer.status_code, answer.content, answer.text) == (204, b"", "")


@pytest.mark.parametrize("usage, found", [
    ({"input_tokens": 7, "output_tokens": 2}, (7, 2)), ({"prompt_tokens": 7, "total_tokens": 7}, (7, 0)),
    ({"total_tokens": 9}, (9, 0)), ({"type": "duration", "seconds": 3}, (0, 0)), (None, (0, 0))])
def test_usage_is_in_the_ledger(server, llm, usage, found):
    server.json({"text": "a", "usage": usage, "model": "served"})
    llm.request("POST", "/x", json={"model": "asked"})
    assert (llm.ledger.usage[:2], llm.ledger.calls) == (found, 1) and llm.ledger.by_model.keys() == {"served"}


@pytest.mark.parametrize("status, error, attempts", [
    (400, llmlite.BadRequestError, 1), (401, llmlite.AuthenticationError, 1), (404, llmlite.NotFoundError, 1),
    (429, llmlite.RateLimitError, 3), (500, llmlite.ServerError, 3), (503, llmlite.OverloadedError, 3)])
@pytest.mark.parametrize("stream", [False, True])
def test_statuses(server, llm, status, error, attempts, stream):
    """The errors, and what is retried, are those of `chat`."""
    server.error(status, "no", times=None)
    with pytest.raises(error, match=f"^openai: {status} ") as caught:
        llm.request("POST", "/x", json={}, stream=stream)
    assert caught.value.attempts == len(server.requests) == attempts and caught.value.message == "no"
    assert (llm.ledger.failed, llm.ledger.calls) == (1, 0)


def test_a_redirect_is_not_followed(server, llm):
    server.body(b"", status=302, headers={"Location": "https://cdn.example/file"})
    with pytest.raises(llmlite.APIError, match="redirect to https://cdn.example/file is not followed"):
        llm.request("GET", "/files/1/content")


@pytest.mark.parametrize("body, fails", [
    ({"error": {"message": "no", "code": 502}}, True), ({"error": "no", "code": "x"}, True),
    ([{"error": {"message": "no", "code": 502}}], True), ({"error": None, "id": "b1"}, False), ({"error": ""}, False),
    ({"id": "b1", "object": "batch", "error": {"message": "line 3"}}, False), ({"message": "fine"}, False),
    ({"status": "failed", "error": "bad file"}, False), ({"status": 502, "error": "no"}, True),
    ({"status": "error", "error": "no"}, True)])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("before", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_error_inside_a_200(server, body, fails, stream, before):
    """One that is nothing else is raised; a job that tells of its own is what was asked for."""
    server.body(before + json.dumps(body).encode())
    with client(server, retry=None) as llm:
        if fails:
            with pytest.raises(llmlite.LLMError, match="inside a 200: no|with 50. .*no") as caught:
                llm.request("GET", "/batches/b1", stream=stream).json()
            assert isinstance(caught.value.last_error if stream else caught.value, llmlite.APIError)
        else:
            assert llm.request("GET", "/batches/b1", stream=stream).json() == body
        assert llm.ledger.calls == (stream or not fails) and llm.ledger.failed == fails


def test_a_cool_down_holds_it_back(server, llm):
    """What one call is told to wait, the next waits too."""
    server.error(429, "slow", headers={"retry-after-ms": "150"})
    server.json({}, times=2)
    llm.request("GET", "/a")
    assert server.requests[1].time - server.requests[0].time >= 0.15


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline(server, llm, stream):
    server.body(b"x" * 50, split=1, gap=0.1)
    started = time.monotonic()
    with pytest.raises(llmlite.DeadlineExceededError):
        llm.request("GET", "/slow", deadline=0.3, stream=stream).content  # noqa: B018
    assert time.monotonic() - started < 3
    assert llm.ledger.failed == 1


# -------------------------------------------------------------------------------------------------------------- streams


def test_events(server, llm):
    """They are the same of an answer that is whole and of one that streams; usage is in the ledger."""
    expected = [("message", json.dumps(each, separators=(",", ":"))) for each in SPEECH]
    expected[1] = ("done", expected[1][1])
    wire = f"data: {expected[0][1]}\n\n: ping\n\nevent: done\ndata: {expected[1][1]}\n\ndata: [DONE]\n\ndata: x\n\n"
    for _ in range(2):
        server.body(wire.encode(), headers={"Content-Type": "text/event-stream"}, framing="chunked", split=9)
    found = [list(llm.request("POST", "/audio/transcriptions", json={"stream": True}, stream=stream).events())
             for stream in (False, True)]
    assert found == [expected, expected] and found[1][1].json() == SPEECH[1]
    assert found[1][0].event == "message" and found[1][1].event == "done"
    assert llm.ledger.usage[:2] == (14, 4) and llm.ledger.calls == 2


def test_each_event_comes_at_once(server, llm):
    server.sse([SPEECH[0]], end="stall")
    with llm.request("POST", "/x", json={}, stream=True) as answer:
        assert next(answer.events()).json() == SPEECH[0]
    assert soon(lambda: server.open_connections == 0)


def test_lines_of_json(server, llm):
    """Values a line each, as Ollama's own endpoints send them, are events too."""
    server.body(b'{"a":1}\n{"a":2}\n')
    assert [event.json() for event in llm.request("POST", "/api/chat", json={}, stream=True).events()] == [
        {"a": 1}, {"a": 2}]


@pytest.mark.parametrize("read", ["content", "text", "json", "iter_content"])
def test_a_stream_is_read_once(server, llm, read):
    """In whichever way; what was read as a whole is kept."""
    server.body(b'{"a": 1}', split=3, gap=0.01)
    with llm.request("GET", "/x", stream=True) as answer:
        if read == "iter_content":
            assert b"".join(answer.iter_content()) == b'{"a": 1}' and list(answer.iter_content()) == []
            with pytest.raises(RuntimeError, match="is being read, or has been"):
                answer.content  # noqa: B018
        else:
            value = getattr(answer, read)
            assert (value() if read == "json" else value) in (b'{"a": 1}', '{"a": 1}', {"a": 1})
            assert answer.content == b'{"a": 1}' == b"".join(answer.iter_content())
        if read == "iter_content":
            with pytest.raises(RuntimeError, match="is read in another way"):
                answer.events()
        else:
            assert [event.data for event in answer.events()] == ['{"a": 1}']
    server.json({})
    llm.request("GET", "/y")
    assert server.connections == 1  # read to its end, its connection serves again


def test_an_error_in_a_whole_answer(server, llm):
    """It stands where it stood among the events; nothing that came before it is lost."""
    server.body(b'data: {"a": 1}\n\nevent: error\ndata: {"error": {"message": "no room for %b", "code": 503}}\n\n'
                % KEY.encode(), headers={"Content-Type": "text/event-stream"})
    answer = llm.request("POST", "/x", json={})
    events = answer.events()
    assert next(events).json() == {"a": 1}
    with pytest.raises(llmlite.StreamError, match=r"broke the stream off .*no room for \*\*\*") as caught:
        next(events)
    assert type(caught.value.last_error) is llmlite.OverloadedError
    assert KEY not in str(pickle.dumps(caught.value)) and pickle.loads(pickle.dumps(answer)).status_code == 200
    server.body(b"<html>")
    with pytest.raises(llmlite.ResponseError, match="^200 but a stream without one event"):
        list(llm.request("POST", "/x", json={}).events())


def test_an_error_in_a_stream_that_is_read_as_one(server, llm):
    """Its content is there; its events are as they are of any."""
    server.body(b'data: {"a": 1}\n\nevent: error\ndata: {"error": {"message": "no room", "code": 503}}\n\n')
    with llm.request("POST", "/x", json={}, stream=True) as answer:
        assert answer.content.startswith(b"data: ")
        events = answer.events()
    assert next(events).json() == {"a": 1}
    with pytest.raises(llmlite.StreamError, match="no room"):
        next(events)


@pytest.mark.parametrize("stream", [False, True])
def test_a_line_without_end_in_an_answer(server, llm, monkeypatch, stream):
    monkeypatch.setattr(sys.modules[llmlite.Client.__module__], "_MAX_LINE", 1000)
    server.body(b"data: " + b"x" * 2000)
    with pytest.raises(llmlite.LLMError, match="a line of over"):
        list(llm.request("POST", "/x", json={}, stream=stream).events())


def test_the_end_mark_ends_it(server, llm):
    """What follows it is not waited for; the connection serves again."""
    server.body(b'data: {"a": 1}\n\ndata: [DONE]\n\n', framing="chunked")
    server.json({})
    assert len(list(llm.request("POST", "/x", json={}, stream=True).events())) == 1
    llm.request("GET", "/y")
    assert server.connections == 1

@pytest.mark.parametrize("end, raises", [(b'data: {"error": {"mess', True), (b'data: {"b": 2}', False)])
def test_the_word_error_in_a_whole_answer(server, llm, end, raises):
    """Where no event is an error, or its end is cut, what came before comes."""
    server.body(b'data: {"a": "no error"}\n\n' + end)
    events = llm.request("POST", "/x", json={}).events()
    assert next(events).json() == {"a": "no error"}
    if raises:
        with pytest.raises(llmlite.TruncatedStreamError, match="ended inside an event"):
            next(events)
    else:
        assert [event.json() for event in events] == [{"b": 2}]


@pytest.mark.parametrize("provider, body, found", [
    ("anthropic", {"type": "message", "usage": {"input_tokens": 3, "cache_read_input_tokens": 100, "output_tokens": 5}},
     (103, 5, 100)),
    ("gemini", {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 5}}, (3, 5, 0)),
    ("openai", {"usage": {"input_tokens": 3, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 2}}},
     (3, 5, 2))])
@pytest.mark.parametrize("stream", ["", "events", "content", "whole"])
def test_usage_as_each_provider_has_it(server, provider, body, found, stream):
    """From a body, and from events: read as such, as one piece, or as an answer that was not to stream."""
    events = [{"type": "message_start", "message": {"usage": {"input_tokens": 3, "cache_read_input_tokens": 100}}},
              {"type": "message_delta", "usage": {"output_tokens": 5}}] if provider == "anthropic" else [
                  {"type": "response.completed", "response": body} if provider == "openai" else body]
    server.sse(events) if stream else server.json(body)
    with client(server, provider=provider) as llm:
        answer = llm.request("POST", "/x", json={}, stream=stream in ("events", "content"))
        if stream == "content":
            assert answer.content
        assert len(list(answer.events())) == (len(events) if stream else 0 if provider == "x" else 1)
        assert llm.ledger.usage[:3] == found
        kept = pickle.loads(pickle.dumps(answer)) if stream != "events" else answer
        assert kept.status_code == 200


@pytest.mark.parametrize("event, error, words", [
    (("error", {"error": {"message": "no room", "code": 503}}), llmlite.OverloadedError, "no room"),
    ({"error": {"message": "no", "type": "rate_limit_error"}}, llmlite.RateLimitError, "no"),
    (("error", {"message": "flat"}), llmlite.ServerError, "flat"),
    ("event: error\ndata: words\n\n", llmlite.ServerError, "words")])
def test_an_event_that_is_an_error(server, llm, event, error, words):
    events = [SPEECH[0], event]
    if isinstance(event, str):
        server.body(b'data: {"a": 1}\n\n' + event.encode())
    else:
        server.sse(events)
    with pytest.raises(llmlite.StreamError, match="broke the stream off") as caught:
        list(llm.request("POST", "/x", json={}, stream=True).events())
    assert type(caught.value.last_error) is error and caught.value.last_error.message == words
    assert (llm.ledger.failed, len(server.requests)) == (1, 1)


@pytest.mark.parametrize("read", ["events", "iter_content", "content"])
def test_a_cut_stream(server, llm, read):
    """What came comes, then the error; it does not look whole afterwards."""
    server.sse([SPEECH[0], SPEECH[1]], framing="chunked", truncate=80, end="close")
    answer, found = llm.request("POST", "/x", json={}, stream=True), []
    with pytest.raises(llmlite.TruncatedStreamError):
        for each in answer.content if read == "content" else getattr(answer, read)():
            found.append(each)
    assert read == "content" or found
    with pytest.raises(RuntimeError):
        answer.content  # noqa: B018
    with pytest.raises(RuntimeError, match="closed, or broke off"):
        getattr(answer, "iter_content" if read == "content" else read)()
    assert llm.ledger.failed == 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_event_that_the_end_cut(server, llm, stream):
    """Half of its JSON is no event, where nothing else tells that more was to come."""
    server.body(b'data: {"a": 1}\n\ndata: {"a": ', framing="close")
    events = llm.request("POST", "/x", json={}, stream=stream).events()
    assert next(events).json() == {"a": 1}
    with pytest.raises(llmlite.TruncatedStreamError, match='ended inside an event.*{"a":'):
        next(events)
    assert llm.ledger.failed == stream


def test_an_event_that_is_no_json(server, llm):
    server.body(b"data: ping\n\n")
    event, = llm.request("POST", "/x", json={}, stream=True).events()
    with pytest.raises(llmlite.ResponseError, match="^an event that is no JSON: ping$"):
        event.json()


def test_a_page_is_no_stream(server, llm):
    server.body(b"<html>Not here</html>", headers={"Content-Type": "text/html"})
    with pytest.raises(llmlite.ResponseError, match="200 but a stream without one event: text/html: Not here"):
        list(llm.request("POST", "/x", json={}, stream=True).events())
    server.body(b"")
    assert list(llm.request("POST", "/x", json={}, stream=True).events()) == []


@pytest.mark.parametrize("how", ["drop", "close", "with", "generator"])
def test_leaving_a_stream_closes_it(server, llm, how):
    """At once, whichever way it is left; nothing failed by that."""
    server.body(b"x" * 9, headers={"Content-Length": "99"}, end="stall")
    answer = llm.request("GET", "/x", stream=True)
    if how == "with":
        with answer:
            next(answer.iter_content())
    elif how == "close":
        answer.close()
    else:
        if how == "generator":
            read = answer.iter_content()
            next(read)
            del read
        gc.disable()
        try:
            del answer
        finally:
            gc.enable()
    assert soon(lambda: server.open_connections == 0)
    assert llm.ledger.failed == 0 and llm.ledger.calls == 1


def test_close_frees_a_blocked_reader_of_bytes(server, llm):
    server.body(b"x" * 9, headers={"Content-Length": "99"}, end="stall")
    answer, found = llm.request("GET", "/x", stream=True), []
    reader = threading.Thread(target=lambda: found.extend(answer.iter_content()))
    reader.start()
    assert soon(lambda: found == [b"x" * 9])
    answer.close()
    reader.join(5)
    assert not reader.is_alive()
    with pytest.raises(RuntimeError, match="closed, or broke off"):
        answer.iter_content()


@pytest.mark.parametrize("read", ["content", "text", "json", "events", "iter_content"])
def test_what_was_closed_does_not_look_empty(server, llm, read):
    server.body(b'{"a": 1}')
    with llm.request("GET", "/x", stream=True) as answer:
        pass
    with pytest.raises(RuntimeError, match="this answer was closed"):
        found = getattr(answer, read)
        found()


def test_content_that_another_thread_closes(server, llm):
    """Half of it is not handed out as the whole."""
    server.body(b"x" * 9, headers={"Content-Length": "99"}, end="stall")
    answer, found = llm.request("GET", "/x", stream=True), []

    def read():
        try:
            found.append(answer.content)
        except RuntimeError as error:
            found.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    assert soon(lambda: answer._flow.pieces)
    answer.close()
    reader.join(5)
    assert found == ["this answer was closed before all of it was read"]


def test_a_pause_before_the_first_piece_is_the_readers(server):
    server.body(b'data: {"a": 1}\n\n', framing="chunked")
    with client(server, idle_timeout=0.5) as llm:
        answer = llm.request("GET", "/x", stream=True)
        time.sleep(0.6)
        assert [event.json() for event in answer.events()] == [{"a": 1}]


def test_pieces_have_no_limit_a_whole_has(server, llm, monkeypatch):
    """What is read piece by piece may be longer than what is kept as a whole."""
    monkeypatch.setattr(sys.modules[llmlite.Client.__module__], "_MAX_BODY", 1000)
    server.body(b"x" * 2000, times=None)
    assert sum(map(len, llm.request("GET", "/x", stream=True).iter_content())) == 2000
    for stream in (True, False):
        with pytest.raises(llmlite.ResponseError, match="answer refused: .*a body of over"):
            llm.request("GET", "/x", stream=stream).content  # noqa: B018


def test_no_timeout_at_all(server):
    server.body(b"abc", split=1, gap=0.01)
    with client(server, timeout=None) as llm:
        assert llm.request("GET", "/x", stream=True).content == b"abc"


def test_idle_timeout(server):
    """Pings do not count where events are read; each piece does where bytes are."""
    server.body([b'data: {"a": 1}\n\n', *[b": ping\n\n"] * 60], gap=0.05)
    with client(server, idle_timeout=1) as llm:
        found = []
        with pytest.raises(llmlite.APITimeoutError):
            for event in llm.request("GET", "/x", stream=True).events():
                found.append(event.json())
        assert found == [{"a": 1}]
        server.body([b"x"] * 24, gap=0.05)
        started = time.monotonic()
        try:
            assert llm.request("GET", "/x", stream=True).content == b"x" * 24
        except llmlite.APITimeoutError:
            assert METER.stood_still(started, 0.5)  # then none may have come in a second


# ------------------------------------------------------------------------------------------------- saved and sent again


@pytest.mark.parametrize("options", [{"json": {"a": [1]}}, {"data": {"a": "1"}}, {"files": {"f": b"\xff"}}, {},
                                     {"json": {}, "stream": True}])
def test_a_failed_request_is_saved_and_sent_again(server, tmp_path, options):
    """Any body but one that was read as it was sent; no key in the file."""
    server.error(400, "no")
    with client(server, save_failed=tmp_path) as llm, pytest.raises(llmlite.BadRequestError):
        llm.request("POST", "/x", params={"q": "1"}, **options)
    saved, = tmp_path.iterdir()
    assert KEY not in saved.read_text() and os.stat(saved).st_mode & 0o777 == 0o600
    server.json({"ok": 1})
    reply = llmlite.replay(str(saved), api_key=KEY)
    assert reply.parsed.json() == {"ok": 1} and reply.text == reply.parsed.text
    first, second = server.requests
    assert (first.method, first.path, first.body) == (second.method, second.path, second.body)
    assert first.headers.get("content-type") == second.headers.get("content-type")


@pytest.mark.parametrize("key", ["sk-own/key+with=signs", KEY])
def test_the_key_in_a_form_or_path_is_not_saved(server, tmp_path, key):
    """Nor as forms have it, percent-encoded."""
    server.error(400, "no")
    with client(server, api_key=key, save_failed=tmp_path) as llm, pytest.raises(llmlite.BadRequestError):
        llm.request("POST", f"/x/{key}", data={"apikey": key})
    saved, = tmp_path.iterdir()
    record = json.loads(saved.read_text())
    assert base64.b64decode(record["content"]) == b"apikey=***" and record["path"] == "/x/***"


def test_secrets_in_a_query_are_not_saved(server, tmp_path):
    """What looks like one is left out, as it is of the base URL's."""
    server.error(400, "no")
    with client(server, save_failed=tmp_path) as llm, pytest.raises(llmlite.BadRequestError):
        llm.request("GET", "/x", params={"token": "my-own-1234", "page": "2"})
    saved, = tmp_path.iterdir()
    assert json.loads(saved.read_text())["path"] == "/x?page=2" and "my-own-1234" not in saved.read_text()


def test_an_upload_is_not_saved(server, tmp_path):
    server.error(400, "no")
    with client(server, save_failed=tmp_path) as llm, pytest.raises(llmlite.BadRequestError):
        llm.request("POST", "/x", data=pieces(b"a"))
    saved, = tmp_path.iterdir()
    with pytest.raises(llmlite.ConfigurationError, match="has no body: it was read as it was sent, and not kept$"):
        llmlite.replay(str(saved), api_key=KEY)
    assert len(server.requests) == 1


def test_a_file_names_no_other_host(server, tmp_path):
    """A saved request whose path is a URL elsewhere is refused."""
    server.error(400, "no")
    with client(server, save_failed=tmp_path) as llm, pytest.raises(llmlite.BadRequestError):
        llm.request("GET", "/x")
    saved, = tmp_path.iterdir()
    saved.write_text(saved.read_text().replace('"/x"', '"https://evil.example/x"'))
    with pytest.raises(llmlite.ConfigurationError, match="is not at"):
        llmlite.replay(str(saved), api_key=KEY)
