"""Leaving a stream, in every way: the connection closes at once and nothing is left; a finished one is used again."""
import gc
import json
import os
import queue
import sys
import threading
import time

import pytest
import requests
import urllib3

from tests import llmlite, testing
from tests.beside import METER, descriptors, idle, soon, within

DONE = b"data: [DONE]\n\n"
LAST_CHUNK = b"0\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LEFT_OPEN = ["chunked", "length", "close", "gzip"]
REUSABLE = ["chunked", "length", "gzip", "gzip-length"]


def data(content=None, finish=None):
    delta = {} if content is None else {"content": content}
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


HE, LLO, STOP = data("He"), data("llo"), data(finish="stop")
HELLO = [HE, LLO, STOP, DONE]


def in_chunks(*events):
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)


def unfinished(framing="chunked"):
    """A stream that stalls inside its second event."""
    return testing.sse(HELLO, framing=framing, truncate=len(HE) + 9, end="stall")


# ---------------------------------------------------------------------------------------------------- ways to leave it


def break_in_with(llm):
    with llm.stream("Hi") as stream:
        for _ in stream:
            break


def break_alone(llm):
    for _ in llm.stream("Hi"):
        break


def break_of_events(llm):
    for _ in llm.stream("Hi").events():
        break


def delete(llm):
    stream = llm.stream("Hi")
    next(stream)
    del stream


def delete_unread(llm):
    stream = llm.stream("Hi")
    del stream


def delete_after_a_look(llm):
    stream = llm.stream("Hi")
    next(iter(stream))
    assert (stream.text, stream.response.text, repr(stream)[:7]) == ("He", "He", "<Stream")
    del stream


def close(llm):
    stream = llm.stream("Hi")
    next(stream)
    stream.close()
    stream.close()


def close_unread(llm):
    llm.stream("Hi").close()


def error_in_with(llm):
    with pytest.raises(ZeroDivisionError), llm.stream("Hi") as stream:
        for _ in stream:
            raise ZeroDivisionError


def error_alone(llm):
    try:
        for _ in llm.stream("Hi"):
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass


def own_generator(llm):
    def shouted():
        for piece in llm.stream("Hi"):
            yield piece.upper()
    for piece in shouted():
        assert piece == "HE"
        break


WAYS = [break_in_with, break_alone, break_of_events, delete, delete_unread, delete_after_a_look, close, close_unread,
        error_in_with, error_alone, own_generator]


@pytest.mark.parametrize("framing", LEFT_OPEN)
@pytest.mark.parametrize("leave", WAYS, ids=lambda way: way.__name__)
def test_leaving_a_stream_closes_its_connection_at_once(server, llm, leave, framing):
    """Not the garbage collector's next round, nor a timeout: the server sees the end now, and no descriptor is left."""
    server.handle(lambda request: unfinished(framing))
    gc.collect()
    gc.disable()
    try:
        before = descriptors()
        leave(llm)
        assert idle(server, 0.5)
        assert soon(lambda: descriptors() == before, 0.5)  # threads have some of their own
    finally:
        gc.enable()
    assert len(server.requests) == 1


@pytest.mark.parametrize("leave", [break_alone, delete, close, error_in_with], ids=lambda way: way.__name__)
def test_leaving_a_stream_over_a_session_of_the_users(server, leave):
    """The same over the user's own requests.Session."""
    server.handle(lambda request: unfinished())
    with requests.Session() as session:
        leave(llmlite.Client("test", base_url=server.url, session=session))
        assert idle(server, 0.5)


def test_a_stream_that_was_left_is_billed(server, llm):
    """A stream left in the middle counts as one call that did not fail."""
    server.handle(lambda request: unfinished())
    for leave in (break_in_with, delete, close):
        leave(llm)
    ledger = llm.ledger.snapshot()
    assert (ledger["calls"], ledger["attempts"], ledger["failed"], ledger["unknown"]) == (3, 3, 0, 0)


def test_a_closed_stream_is_at_its_end(server, llm):
    """Iterating after close() ends at once, and what had come can still be read."""
    server.handle(lambda request: unfinished())
    stream = llm.stream("Hi")
    pieces = iter(stream)
    assert next(pieces) == "He"
    stream.close()
    assert (list(pieces), list(stream), list(stream.events()), next(stream, "end")) == ([], [], [], "end")
    assert (stream.text, stream.response.finish_reason) == ("He", None)
    stream.close()


def test_closing_a_finished_stream_does_nothing(server, llm):
    """After the end, close() leaves the connection to the next call, and the reply as it was."""
    server.sse(HELLO, times=2)
    for _ in range(2):
        with llm.stream("Hi") as stream:
            assert "".join(stream) == "Hello"
            assert list(stream) == []
        stream.close()
        assert (stream.text, stream.response.finish_reason) == ("Hello", "stop")
    assert server.connections == 1


def read(stream, how, seen):
    """A reader's thread: what it meets goes into a queue, at the last how it ended."""
    try:
        for item in stream if how == "text" else stream.events():
            seen.put(item if how == "text" else item.text)
        seen.put("end")
    except BaseException as error:
        seen.put(error)


def being_read(stream, how):
    """A thread that reads a stream, and waits for its second text, and the queue of what it meets."""
    seen = queue.Queue()
    reader = threading.Thread(target=read, args=(stream, how, seen))
    reader.start()
    assert seen.get(timeout=5) == "He"
    return reader, seen


def close_beside_a_reader(stream, how="text"):
    """Close a stream while another thread waits for its next bytes, which comes to a quiet end at once."""
    reader, seen = being_read(stream, how)
    time.sleep(0.02)  # until it waits in its read
    started = time.monotonic()
    stream.close()
    assert seen.get(timeout=5) == "end"
    assert within(0, started, 0.2)
    reader.join(5)


@pytest.mark.parametrize("how", ["text", "events"])
@pytest.mark.parametrize("framing", LEFT_OPEN)
def test_close_from_another_thread(server, llm, framing, how):
    """close() wakes a reader that waits for the next bytes: the reader comes to a quiet end, both at once."""
    server.handle(lambda request: unfinished(framing))
    stream = llm.stream("Hi")
    close_beside_a_reader(stream, how)
    assert idle(server, 0.5)
    assert (stream.text, list(stream)) == ("He", [])


def test_close_from_another_thread_is_no_failure(server, tmp_path, caplog):
    """A stream that another thread closes has not failed: nothing is counted as failed, saved or said."""
    server.handle(lambda request: unfinished())
    with llmlite.Client("test", base_url=server.url, save_failed=str(tmp_path)) as llm:
        stream = llm.stream("Hi")
        close_beside_a_reader(stream)
        assert (llm.ledger.failed, llm.ledger.calls, list(tmp_path.iterdir()), caplog.text) == (0, 1, [], "")
        assert stream.response.text == "He"


def test_close_from_another_thread_over_a_session_of_the_users(server):
    """The same over the user's own requests.Session."""
    server.handle(lambda request: unfinished())
    with requests.Session() as session:
        close_beside_a_reader(llmlite.Client("test", base_url=server.url, session=session).stream("Hi"))
        assert idle(server, 0.5)


def test_close_at_any_moment_is_quiet(server, llm):
    """Whatever a reader is just at when another thread closes: it ends without an error, and the connection with it."""
    server.handle(lambda request: testing.sse([data("x")] * 3000 + [STOP, DONE], gap=0.0002))
    for number in range(12):
        stream, seen = llm.stream("Hi"), queue.Queue()
        reader = threading.Thread(target=read, args=(stream, "text", seen))
        reader.start()
        time.sleep(0.003 * number)
        stream.close()
        reader.join(5)
        assert not reader.is_alive()
        met = [seen.get_nowait() for _ in range(seen.qsize())]
        assert met[-1] == "end"
        assert set(met[:-1]) <= {"x"}
    assert idle(server)


@pytest.mark.parametrize("how", ["text", "events"])
def test_a_reader_that_asks_for_more_while_another_thread_closes(server, llm, how):
    """It is at the end of the stream, though the other is still at it."""
    server.handle(lambda request: testing.body([data("x" * 700) * 1000], framing="close", end="stall"))
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(30):
            stream, seen = llm.stream("Hi"), queue.Queue()
            reader = threading.Thread(target=read, args=(stream, how, seen))
            reader.start()
            time.sleep(0.0002 * number)
            stream.close()
            reader.join(5)
            assert [seen.get_nowait() for _ in range(seen.qsize())][-1] == "end"
    finally:
        sys.setswitchinterval(switching)


class Foreign:
    """A socket that is none of Python's own, as green ones and those of other TLS libraries are."""

    def __init__(self, sock):
        self.sock = sock

    def __getattr__(self, name):
        return getattr(self.sock, name)


def test_close_from_another_thread_over_a_foreign_socket(server, llm, monkeypatch):
    """close() wakes a reader of such a socket too."""
    connect = urllib3.util.connection.create_connection
    monkeypatch.setattr(urllib3.util.connection, "create_connection",
                        lambda *args, **options: Foreign(connect(*args, **options)))
    server.handle(lambda request: unfinished())
    close_beside_a_reader(llm.stream("Hi"))
    assert idle(server, 0.5)


def test_close_as_the_stream_ends_cuts_nobody_elses_connection(server, llm, monkeypatch):
    """close() looks, is held up, and cuts: meanwhile the stream ends, and its connection may be the next call's."""
    closing, over = threading.Event(), threading.Event()

    class Slow(Foreign):
        def fileno(self):
            if threading.current_thread().name == "closer":
                closing.set()
                over.wait(0.5)
            return self.sock.fileno()

    def answer(request):
        if b"other" in request.body:
            over.set()
            return testing.reply("ok", delay=0.2)
        return testing.sse(HELLO)

    connect = urllib3.util.connection.create_connection
    monkeypatch.setattr(urllib3.util.connection, "create_connection",
                        lambda *args, **options: Slow(connect(*args, **options)))
    server.handle(answer)
    stream = llm.stream("Hi")
    assert next(stream) == "He"
    closer = threading.Thread(target=stream.close, name="closer")
    closer.start()
    assert closing.wait(5)
    assert "".join(stream) in ("", "llo")
    assert llm.chat("other").text == "ok"
    closer.join(5)
    assert len(server.requests) == 2 and llm.ledger.unknown == 0


@pytest.mark.parametrize("how", ["text", "events"])
def test_a_stream_is_not_for_two_readers_at_once(server, llm, how):
    """Who reads a stream while another thread waits in it, and nobody closes it, is told so as with any generator."""
    server.handle(lambda request: unfinished())
    stream = llm.stream("Hi")
    reader, seen = being_read(stream, "events")
    time.sleep(0.05)
    with pytest.raises(ValueError, match="already executing"):
        next(stream if how == "text" else stream.events())
    stream.close()
    assert seen.get(timeout=5) == "end"
    reader.join(5)


@pytest.mark.skipif(os.name != "posix", reason="no such limit")
def test_close_from_another_thread_without_a_descriptor_left(server, llm):
    """A process that may open no more files can still close a stream."""
    import resource
    server.handle(lambda request: unfinished())
    stream = llm.stream("Hi")
    reader, seen = being_read(stream, "text")
    time.sleep(0.02)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        stream.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert seen.get(timeout=5) == "end"
    reader.join(5)


# ------------------------------------------------------------------------------------------- the connection, used again


@pytest.mark.parametrize("framing", REUSABLE)
def test_a_finished_stream_hands_its_connection_on(server, llm, framing):
    """Streams read to their end, and chats between them, share one connection."""
    server.handle(lambda request: testing.stream(["He", "llo"], framing=framing))
    for _ in range(3):
        assert "".join(llm.stream("Hi")) == "Hello"
        assert llm.chat("Hi").text == "Hello"
    assert (server.connections, len(server.requests)) == (1, 6)


def test_who_leaves_at_the_finish_event_leaves_nothing_behind(server, llm):
    """When the last events are told, the connection is free and the call is counted, though nobody reads on."""
    server.handle(lambda request: testing.stream(["He", "llo"], usage=(3, 2)))
    streams = [llm.stream("Hi") for _ in range(2)]
    for number, stream in enumerate(streams, 1):
        for event in stream.events():
            if event.type == "usage":
                break
        assert (llm.ledger.calls, llm.ledger.usage) == (number, llmlite.Usage(3 * number, 2 * number))
    assert llm.chat("Hi").text == "Hello"
    assert server.connections == 2


def test_a_last_chunk_that_comes_late(server, llm):
    """The end of the framing may come some milliseconds after [DONE]: the connection is used again all the same."""
    wire = in_chunks(*HELLO) + LAST_CHUNK
    server.sse(HELLO, split=[len(wire) - 2], gap=0.02, times=3)
    began = time.monotonic()
    for _ in range(3):
        assert "".join(llm.stream("Hi")) == "Hello"
    assert server.connections == 1 or METER.stood_still(began, 0.05)
    assert [len(request.sent) for request in server.requests] == [3, 3, 3]


@pytest.mark.parametrize("end", [
    [testing.STALL], [b"8\r\n: ping\n\n\r\n", 0.02] * 50, [0.4, LAST_CHUNK],
], ids=["silence", "pings", "late"])
def test_a_server_that_goes_on_after_the_end_mark(server, llm, end):
    """After [DONE] the reader is soon done, whatever the server does; the connection is not used again."""
    server.raw(CHUNKED, in_chunks(*HELLO), *end)
    server.sse(HELLO)
    started = time.monotonic()
    assert "".join(llm.stream("Hi")) == "Hello"
    assert within(0, started, 0.25)
    assert "".join(llm.stream("Hi")) == "Hello"
    assert server.connections == 2


BROKEN = {
    "error": [HE, b'data: {"error": {"message": "No"}}\n\n', LLO, STOP, DONE],
    "torn": [HE, b'data: {"x\n\n', LLO, STOP, DONE],
    "cut": [HE],
    "nothing": [b"<html>", b"Hello"],
}


@pytest.mark.parametrize("framing", REUSABLE)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_stream_leaves_nothing_to_the_next_call(server, llm, name, framing):
    """After an error in a stream the next call starts clean: it never sees the rest of the last answer."""
    server.sse(BROKEN[name], framing=framing)
    server.sse([data("Good"), STOP, DONE])
    with pytest.raises(llmlite.LLMError) as caught:
        list(llm.stream("Hi"))
    assert isinstance(caught.value, (llmlite.StreamError, llmlite.ResponseError))
    assert "".join(llm.stream("Hi")) == "Good"
    assert len(server.requests) == 2


@pytest.mark.parametrize("how", [{"end": "close"}, {"truncate": len(HE) + 9, "framing": "length"}],
                         ids=["no-last-chunk", "short-length"])
def test_a_cut_connection_is_not_used_again(server, llm, how):
    """A connection whose answer was cut is closed, and the next call opens its own."""
    server.sse([HE, LLO], **how)
    server.sse(HELLO)
    with pytest.raises(llmlite.StreamError):
        list(llm.stream("Hi"))
    assert idle(server, 0.5)
    assert "".join(llm.stream("Hi")) == "Hello"
    assert server.connections == 2


@pytest.mark.parametrize("gap", [0, 0.02], ids=["at-once", "later"])
@pytest.mark.parametrize("how", ["chat", "stream"])
def test_bytes_after_an_answer_are_nobodys_answer(server, llm, how, gap):
    """What a server sends beyond the length it gave is not taken for the answer to the next request."""
    evil = json.dumps({"choices": [{"message": {"content": "Evil"}, "finish_reason": "stop"}]}).encode()
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(evil), evil)
    good = b"".join(HELLO)
    if how == "chat":
        good = json.dumps({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}).encode()
    server.body([good, evil], headers={"Content-Length": str(len(good))}, gap=gap)
    server.reply("Good")
    first = llm.chat("Hi").text if how == "chat" else "".join(llm.stream("Hi"))
    assert first == "Hello"
    while len(server.requests[0].sent) < 3:  # head, body, and what is too much: all of it must be on its way
        time.sleep(0.005)
    time.sleep(0.02)
    assert llm.chat("Hi").text == "Good"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_the_rest_of_an_answer_that_nobody_asked_for(server, llm, framing):
    """A connection whose server sends more than an answer is left: what is still to come would be the next answer's."""
    good = json.dumps({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}).encode()
    length = b"Content-Length: %d\r\n\r\n%b" % (len(good), good)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(good), good)
    answer = b"HTTP/1.1 200 OK\r\n" + (length if framing == "length" else chunked)
    server.raw(answer + b"HTTP/1.1 200 OK\r\nContent-", 0.1, b"Length: 0\r\n\r\n")
    server.reply("Good", delay=0.2)
    assert [llm.chat("Hi").text, llm.chat("Hi").text] == ["Hello", "Good"]
    assert (server.connections, len(server.requests)) == (2, 2)


def test_closing_the_client_closes_what_is_idle(server):
    """Client.close() and leaving its `with` close the pooled connections."""
    server.handle(lambda request: testing.stream(["Hello"]))
    with llmlite.Client("test", base_url=server.url) as llm:
        "".join(llm.stream("Hi"))
        assert not server.wait_idle(0.02)
    assert idle(server, 0.5)
    llm.chat("Hi")
    llm.close()
    assert idle(server, 0.5)


def test_a_client_that_is_dropped_leaves_no_connection(server):
    """Nobody has to close a client: with its last reference its connections go."""
    server.handle(lambda request: testing.stream(["Hello"]))
    llm = llmlite.Client("test", base_url=server.url)
    "".join(llm.stream("Hi"))
    del llm
    gc.collect()
    assert idle(server, 0.5)


def test_a_stream_outlives_its_client(server):
    """A stream can be read after the last reference to its client is gone, as llmlite.stream() needs it."""
    server.sse(HELLO, gap=0.02)
    stream = llmlite.stream("Hi", model="test", base_url=server.url)
    gc.collect()
    assert "".join(stream) == "Hello"
    del stream
    gc.collect()
    assert idle(server, 0.5)
