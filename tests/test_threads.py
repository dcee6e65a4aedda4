"""One client, many threads: no answer to the wrong question, no connection too many, every call in the ledger."""
import gc
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import llmlite, testing
from tests.beside import descriptors, idle

FAST = llmlite.RetryPolicy(backoff=0.001, backoff_max=0.002)
THREADS, CALLS = 16, 125


def echo(request):
    """The question as the answer, in two pieces if it is streamed."""
    question = request.json["messages"][-1]["content"]
    return testing.stream([question[:3], question[3:]], usage=(10, 5))


def echo_together(number):
    """Echoes that wait until so many are asked for at once."""
    everybody = threading.Barrier(number)

    def answer(request):
        everybody.wait(10)
        return echo(request)

    return answer


def asking(llm, thread, calls, how="chat"):
    """Ask `calls` questions of one's own; the answers that do not belong to them."""
    wrong = []
    for number in range(calls):
        question = f"thread {thread} question {number}"
        if how == "chat":
            answer = llm.chat(question).text
        else:
            with llm.stream(question) as stream:
                answer = "".join(stream)
        if answer != question:
            wrong.append((question, answer))
    return wrong


def in_threads(count, function):
    """function(0) to function(count - 1), started together; what they return."""
    barrier = threading.Barrier(count)

    def start(number):
        barrier.wait(10)
        return function(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))


def test_one_client(server):
    """16 threads, 2,000 calls: no error, at most 16 connections, each answer its own question's, the ledger exact."""
    server.handle(echo)
    llm = llmlite.Client("m", base_url=server.url, retry=None)
    assert in_threads(THREADS, lambda number: asking(llm, number, CALLS)) == [[]] * THREADS
    total = THREADS * CALLS
    assert len(server.requests) == total and server.connections <= THREADS
    assert llm.ledger.snapshot() == {
        "usage": llmlite.Usage(10 * total, 5 * total), "calls": total, "attempts": total, "retries": 0, "empty": 0,
        "failed": 0, "unknown": 0, "cached": 0, "by_model": {"m": llmlite.Usage(10 * total, 5 * total)},
    }  # fmt: skip
    llm.close()
    assert idle(server, 2)


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="descriptors cannot be counted here")
def test_nothing_is_left():
    """After close() there are as many threads and descriptors as before."""
    gc.collect()
    before, threads = descriptors(), threading.active_count()
    with testing.Server() as server:
        server.handle(echo)
        with llmlite.Client("m", base_url=server.url, retry=None) as llm:
            in_threads(4, lambda number: asking(llm, number, 5))
            in_threads(4, lambda number: asking(llm, number, 5, "stream"))
        assert idle(server)
    gc.collect()
    assert (descriptors(), threading.active_count()) == (before, threads)


def test_streams(server):
    """Streams in 8 threads at once do not mix, and share the connections."""
    server.handle(echo)
    with llmlite.Client("m", base_url=server.url, retry=None) as llm:
        assert in_threads(8, lambda number: asking(llm, number, 15, "stream")) == [[]] * 8
        assert llm.ledger.calls == 120 and llm.ledger.usage.output_tokens == 600
    assert server.connections <= 8


def test_a_client_a_thread(server):
    """A client for each thread: each has its own connection and its own ledger."""
    server.handle(echo)

    def work(number):
        with llmlite.Client("m", base_url=server.url, retry=None) as llm:
            assert asking(llm, number, 20) == []
            return llm.ledger.calls

    assert in_threads(8, work) == [20] * 8
    assert server.connections == 8


def test_retries_are_counted_exactly(server):
    """With every third request failing, each call still gets its answer, and the ledger's sums are the server's."""
    failed, lock = [0], threading.Lock()

    def sometimes(request):
        with lock:
            failed[0] += 1
            if failed[0] % 3 == 0:
                return testing.error(500)
        return echo(request)

    server.handle(sometimes)
    policy = llmlite.RetryPolicy(max_retries=50, backoff=0.001, backoff_max=0.002)
    with llmlite.Client("m", base_url=server.url, retry=policy) as llm:
        assert in_threads(8, lambda number: asking(llm, number, 20)) == [[]] * 8
        ledger = llm.ledger.snapshot()
    assert (ledger["calls"], ledger["failed"], ledger["unknown"]) == (160, 0, 0)
    assert ledger["attempts"] == len(server.requests) and ledger["retries"] == len(server.requests) - 160


def test_reset_while_calls_run(server):
    """reset() loses no call: what it returns and what is left add up."""
    server.handle(echo)
    taken, running = [], threading.Event()
    with llmlite.Client("m", base_url=server.url, retry=None) as llm:

        def reset():
            while not running.wait(0.002):
                taken.append(llm.ledger.reset())

        resetting = threading.Thread(target=reset)
        resetting.start()
        in_threads(4, lambda number: asking(llm, number, 40))
        running.set()
        resetting.join()
        taken.append(llm.ledger.snapshot())
    assert sum(one["calls"] for one in taken) == 160 == sum(one["attempts"] for one in taken)
    assert sum(one["usage"].input_tokens for one in taken) == 1600


def test_more_threads_than_idle_connections(server):
    """Calls that all wait at once have a connection each, and none is thrown away afterwards."""
    server.handle(echo_together(40))
    with llmlite.Client("m", base_url=server.url, retry=None) as llm:
        for _ in range(2):
            assert in_threads(40, lambda number: asking(llm, number, 1)) == [[]] * 40
        assert server.connections == 40


def test_more_idle_connections_than_are_kept(server, monkeypatch):
    """After many calls at once no more connections are kept than a client keeps of a host."""
    monkeypatch.setattr(sys.modules[llmlite.Client.__module__], "_POOL_SIZE", 3)
    server.handle(echo_together(8))
    with llmlite.Client("m", base_url=server.url, retry=None) as llm:
        assert in_threads(8, lambda number: asking(llm, number, 1)) == [[]] * 8
        ended = time.monotonic() + 5
        while server.open_connections > 3 and time.monotonic() < ended:
            time.sleep(0.01)
        assert server.open_connections == 3


class Collecting(str):
    """A model's name that has the garbage collected whenever the ledger looks it up."""

    __slots__ = ()

    def __hash__(self):
        gc.collect()
        return super().__hash__()


def lose_a_stream(llm):
    """Leave a stream to the collector: only a cycle still holds it."""
    stream = llm.stream("hi")
    assert next(stream) == "a"
    cycle = [stream]
    cycle.append(cycle)


def nameless(request):
    """An answer that does not name its model, so that it is booked under the client's own name for it."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    if not request.json.get("stream"):
        return testing.json_body({"choices": [{"message": {"content": "ab"}, "finish_reason": "stop"}], "usage": usage})
    return testing.sse([{"choices": [{"index": 0, "delta": {"content": "a"}}], "usage": usage},
                        {"choices": [{"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}]}], gap=0.01)


@pytest.mark.timeout(20)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the collector may come to a socket before its stream
def test_a_stream_that_is_collected_while_its_ledger_is_reset(server):
    """A finalizer that books while the ledger sums up neither hangs nor takes anything away."""
    server.handle(nameless)
    told = []
    with llmlite.Client(Collecting("m"), base_url=server.url, retry=None) as llm:
        gc.disable()
        try:
            for _ in range(5):
                lose_a_stream(llm)
                assert llm.chat("hi").model == "m"
                told.append(llm.ledger.reset())
        finally:
            gc.enable()
        told.append(llm.ledger.reset())
        assert [sum(one[name] for one in told) for name in ("calls", "attempts")] == [10, 10]
        assert sum((one["usage"] for one in told), llmlite.Usage()) == llmlite.Usage(100, 50)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_stream_that_is_collected_when_all_of_it_had_come(server, framing):
    """A connection whose socket the collector closes with its stream is not used again."""
    events = [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]} for text in "ab"]
    whole = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)
    server.handle(lambda request: testing.body(whole, framing=framing) if request.json.get("stream") else None)
    with llmlite.Client("m", base_url=server.url, retry=None) as llm:
        for _ in range(5):
            lose_a_stream(llm)
            gc.collect()
            assert llm.chat("hi").text == "ok"


@pytest.mark.timeout(20)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_streams_that_are_collected_at_any_moment(server):
    """With a collector that runs all the time and a rate limit to keep, nothing hangs, and all is booked."""
    server.handle(lambda request: testing.stream(["a", "b"], usage=(10, 5)))
    limit = llmlite.RateLimit(requests_per_minute=1e9, tokens_per_minute=1e9)
    before = gc.get_threshold()
    with llmlite.Client("m", base_url=server.url, retry=None, rate_limit=limit) as llm:
        gc.set_threshold(1)
        try:
            for _ in range(40):
                lose_a_stream(llm)
                llm.chat("hi")
        finally:
            gc.set_threshold(*before)
        gc.collect()
        assert (llm.ledger.calls, llm.ledger.attempts, llm.ledger.failed) == (80, 80, 0)


def test_close_while_connections_are_made(server):
    """close() again and again, while threads open connections to ever other hosts, breaks nothing."""
    server.handle(lambda request: testing.reply("ok"))
    stop, clients = threading.Event(), []

    def work(number):
        done = 0
        while not stop.is_set():
            assert clients[number % 2].chat("hi").text == "ok"
            done += 1
        return done

    with ThreadPoolExecutor(6) as pool:
        clients += [llmlite.Client("m", base_url=server.url, retry=FAST) for _ in range(2)]
        futures = [pool.submit(work, number) for number in range(6)]
        for _ in range(200):
            time.sleep(0.001)
            for llm in clients:
                llm.close()
        stop.set()
        assert all(future.result(10) for future in futures)
    for llm in clients:
        llm.close()


@pytest.mark.parametrize("earlier", [0, 1], ids=["new", "idle"])
def test_close_while_a_call_runs(server, earlier):
    """A call that outlasts close() keeps its connection as long as it needs it, and no longer."""
    llm = llmlite.Client("m", base_url=server.url, retry=None)
    for _ in range(earlier):
        server.reply("early")
        llm.chat("hi")
    server.reply("late", delay=0.4)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(lambda: llm.chat("hi").text)
        server.wait_for(earlier + 1)
        llm.close()
        assert late.result() == "late"
    gc.collect()
    assert idle(server)


def test_close_while_calls_run(server):
    """close() in the middle of other threads' calls breaks none of them."""
    server.handle(lambda request: testing.stream(["a", "b"], gap=0.01))
    llm = llmlite.Client("m", base_url=server.url, retry=FAST)
    stop = threading.Event()

    def work(number):
        texts = []
        while not stop.is_set():
            texts.append(llm.chat("hi").text)
            with llm.stream("hi") as stream:
                texts.append("".join(stream))
        return texts

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work, number) for number in range(4)]
        for _ in range(10):
            time.sleep(0.01)
            llm.close()
        stop.set()
        texts = [text for future in futures for text in future.result(10)]
    llm.close()
    assert set(texts) == {"ab"} and idle(server)
