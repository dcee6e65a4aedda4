"""Client.map: order, reading ahead, errors in their place, stopping, executors, progress."""
import concurrent.futures
import contextlib
import gc
import itertools
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import types

import pytest
import requests

from tests import llmlite, testing
from tests.beside import beside, soon, untraced, within


def client(server, **options):
    options.setdefault("retry", None)
    return llmlite.Client("m", base_url=server.url, **options)


def prompt(request):
    return request.json["messages"][-1]["content"]


def echo(request, **said):
    return testing.reply(prompt(request), usage=(3, 2), **said)


def threads():
    return [thread for thread in threading.enumerate() if thread.name in ("llmlite map", "connect")]


def text(result):
    return result.text if isinstance(result, llmlite.Response) else type(result).__name__


# --------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("workers", [1, 3, 16])
@beside
def test_in_the_order_of_the_prompts(server, workers):
    """Each reply stands in the place of its prompt, however long others take."""
    server.handle(lambda request: echo(request, delay=0.03 * (prompt(request) == "0")))
    with client(server) as llm:
        assert [reply.text for reply in llm.map(map(str, range(40)), workers=workers)] == [str(n) for n in range(40)]
    assert len(server.requests) == 40


@beside
def test_as_they_end(server):
    """With ordered=False each comes with the number of its prompt, the quick ones first."""
    server.handle(lambda request: testing.reply("ok", delay=0.4 * (prompt(request) == "1")))
    with client(server) as llm:
        results = list(llm.map(list("0123456789"), workers=4, ordered=False))
    assert sorted(nth for nth, _ in results) == list(range(10))
    assert [nth for nth, _ in results].index(1) > 3  # a busy machine may hold up some others as long
    assert {reply.text for _, reply in results} == {"ok"}


@beside
def test_prompts_of_all_forms(server):
    """A str, a list of messages, a dict of chat's arguments, which win over the options."""
    server.handle(echo)
    prompts = ["one", [{"role": "user", "content": "two"}], {"messages": "three", "temperature": 0, "model": "other"}]
    with client(server) as llm:
        replies = list(llm.map(prompts, workers=1, temperature=1, system="Short."))
    assert [reply.text for reply in replies] == ["one", "two", "three"]
    assert [request.json["temperature"] for request in server.requests] == [1, 1, 0]
    assert [request.json["model"] for request in server.requests] == ["m", "m", "other"]
    assert all(request.json["messages"][0] == {"role": "system", "content": "Short."} for request in server.requests)


@beside
def test_errors_stand_in_their_place(server):
    """A failed call, and a prompt that is none, are errors where their replies would be; nothing else is lost."""
    server.handle(lambda request: testing.error(400) if b"bad" in request.body else echo(request))
    prompts = ["a", "bad", {"prompt": "b"}, {"role": "user", "content": "c"}, b"bytes", {"messages": "d", 5: 6}, "e"]
    with client(server) as llm:
        results = list(llm.map(prompts))
    assert [text(result) for result in results] == [
        "a", "BadRequestError", *["ConfigurationError"] * 4, "e"]
    assert "'prompt'" in str(results[2]) and '{"messages": ...}' in str(results[2])
    assert results[1].__traceback__ is None
    assert llm.ledger.failed == 1 and llm.ledger.calls == 2
    assert len(server.requests) == 3


def tool(amount: complex):
    """No provider takes it."""


@pytest.mark.parametrize("wrong", [{"tools": [tool]}, {"schema": 5}], ids=["tool", "schema"])
@beside
def test_a_tool_or_schema_that_none_takes(server, wrong):
    """Among the prompts it is an error in its place; as an option of all it is told at once."""
    server.handle(echo)
    with client(server) as llm:
        results = list(llm.map(["a", {"messages": "b", **wrong}, "c"]))
        assert [text(result) for result in results] == ["a", "ConfigurationError", "c"]
        with pytest.raises(TypeError, match="complex|schema"):
            llm.map(["a"], **wrong)


@beside
def test_errors_are_raised_in_their_place(server):
    """With errors="raise" what comes before is yielded, then the error is raised, and the map is at its end."""
    server.handle(lambda request: testing.error(400) if b"bad" in request.body else echo(request))
    with client(server) as llm:
        results, seen = llm.map(["a", "bad", "c"], errors="raise", workers=3), []
        with pytest.raises(llmlite.BadRequestError):
            for reply in results:
                seen.append(reply.text)
        assert seen == ["a"]
        assert next(results, "end") == "end"


@beside
def test_what_is_no_error_of_ours_is_raised(server):
    """An exception of the user's own, of a key's source, comes through, whatever `errors` says."""
    server.handle(echo)

    def key():
        raise ZeroDivisionError("no key today")

    with client(server, api_key=key) as llm:
        with pytest.raises(ZeroDivisionError, match="no key today"):
            list(llm.map(["a"]))


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
@beside
def test_what_ends_a_thread_does_not_hold_the_map(server, kind):
    """A key's source that wants to end it all ends the map, which waits for no result that never comes."""
    def key():
        raise kind("enough")

    def ask():
        try:
            list(llm.map(["a", "b"], workers=2))
        except BaseException as error:
            caught.append(type(error))

    caught = []
    with client(server, api_key=key) as llm:
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(5)
    assert caught == [kind]


def test_an_error_of_the_prompts_comes_through(server):
    """What the iterable raises is raised in its place: nothing that was asked before is lost."""
    def prompts():
        yield from "abc"
        raise KeyError("lost")

    server.handle(lambda request: echo(request, delay=0.1))
    seen = []
    with client(server) as llm:
        with pytest.raises(KeyError, match="lost"):
            for reply in llm.map(prompts()):
                seen.append(reply.text)
    assert seen == ["a", "b", "c"]
    assert threads() == []


def test_no_prompts(server):
    """Nothing comes of nothing, and no thread begins."""
    with client(server) as llm:
        assert list(llm.map([])) == []
        assert threads() == []


@pytest.mark.parametrize("arguments, words", [
    (dict(prompts="hello"), "prompts is a str"),
    (dict(prompts={"messages": "hello"}), "prompts is a dict"),
    (dict(prompts=5), "prompts is a int"),
    (dict(prompts=[], workers=0), "workers=0"),
    (dict(prompts=[], workers=True), "workers=True"),
    (dict(prompts=[], workers=1.5), "workers=1.5"),
    (dict(prompts=[], errors="ignore"), "errors='ignore'"),
])
def test_bad_arguments_at_once(server, arguments, words):
    """They are refused before anything is read."""
    with client(server) as llm, pytest.raises(llmlite.ConfigurationError, match=words):
        llm.map(**arguments)


def test_unknown_option_at_once(server):
    """An option that chat() does not take is a TypeError at the call, as chat() has it."""
    with client(server) as llm, pytest.raises(TypeError, match="'temprature'"):
        llm.map(["hello"], temprature=0)


# ---------------------------------------------------------------------------------------------------- reading ahead


@pytest.mark.parametrize("ordered", [True, False])
@beside
def test_reads_so_far_ahead(server, ordered):
    """At most 2 * workers prompts are read beyond the one that is yielded next; the iterable may be endless."""
    server.handle(echo)
    read = []

    def prompts():
        for nth in itertools.count():
            read.append(nth)
            yield str(nth)

    with client(server) as llm:
        results = llm.map(prompts(), workers=3, ordered=ordered)
        assert read == []
        for yielded in range(50):
            next(results)
            assert len(read) <= yielded + 6
        so_far = len(read)
        time.sleep(0.05)
        assert len(read) == so_far  # none is read by itself
        results.close()
    assert 50 <= len(server.requests) <= so_far


@beside
def test_a_slow_head_holds_back_the_rest(server):
    """In order, a prompt that takes long holds the reading at 2 * workers; no result is lost."""
    server.handle(lambda request: testing.reply("ok", delay=0.3 * (prompt(request) == "0")))
    with client(server) as llm:
        results = llm.map(map(str, range(100)), workers=4)
        next(results)
        assert len(server.requests) <= 9
        assert len(list(results)) == 99


@beside
def test_a_result_is_not_kept_back_by_slow_prompts(server):
    """A reply that is here is yielded before a second prompt is read after it."""
    server.handle(echo)

    def prompts():
        for nth in range(4):
            time.sleep(0.2)
            yield str(nth)

    with client(server) as llm:
        started, times = time.monotonic(), []
        for _ in llm.map(prompts(), workers=8):
            times.append(time.monotonic() - started)
    assert within(0, started, 0.5, started + times[0])


def test_workers_at_once(server):
    """As many calls are under way as there are workers, and no more; then no thread is left."""
    at_once, most, lock, full = [0], [0], threading.Lock(), threading.Event()

    def answer(request):
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
            if at_once[0] == 5:
                full.set()
        full.wait(10)
        time.sleep(0.02)  # for one more, if there were any
        with lock:
            at_once[0] -= 1
        return echo(request)

    server.handle(answer)
    with client(server) as llm:
        assert len(list(llm.map(["hello"] * 30, workers=5))) == 30
    assert most[0] == 5
    assert threads() == []


# --------------------------------------------------------------------------------------------------------- stopping


def close(llm):
    results = llm.map(map(str, range(100)), workers=4)
    next(results)
    yield
    results.close()


def forget(llm):
    results = llm.map(map(str, range(100)), workers=4)
    next(results)
    yield
    del results


def fail(llm):
    with pytest.raises(ZeroDivisionError):
        for _ in llm.map(map(str, range(100)), workers=4):
            yield
            raise ZeroDivisionError


@pytest.mark.parametrize("how", [close, forget, fail])
@pytest.mark.parametrize("answer", [lambda: testing.reply("late", delay=30), lambda: testing.error(503, retry_after=30),
                                    lambda: testing.stream(["a"], delay=30)], ids=["answer", "wait", "stream"])
def test_stopped_within_a_second(server, how, answer):
    """Calls that wait for an answer, and calls that wait to be sent again, end; nothing more is sent."""
    server.handle(lambda request: echo(request, delay=0.1) if prompt(request) == "0" else answer())
    with client(server, retry=llmlite.RetryPolicy()) as llm:
        steps = how(llm)
        next(steps)
        while len(server.requests) < 2:  # of those that are told to wait only the first may have been sent
            time.sleep(0.001)
        started = time.monotonic()
        next(steps, None)
        assert within(0, started, 1)
        assert threads() == []
        time.sleep(0.1)  # for the server to read what was sent before
        sent = len(server.requests)
        time.sleep(0.1)
        assert len(server.requests) == sent


def test_stopped_calls_are_in_the_ledger(server):
    """What was sent, and cut, may be billed: it is counted as unknown."""
    server.handle(lambda request: echo(request, delay=0.1 if prompt(request) == "0" else 30))
    with client(server) as llm:
        results = llm.map(["0", "a", "b"], workers=3)
        next(results)
        while len(server.requests) < 3:
            time.sleep(0.001)
        results.close()
        assert (llm.ledger.calls, llm.ledger.attempts, llm.ledger.unknown) == (1, 3, 2)


@pytest.mark.parametrize("softly", [False, True])
def test_stopped_while_standing_in_line(server, softly):
    """Threads that wait for their turn under a limit end too, also where only nothing more is to be sent."""
    server.reply("ok", delay=0.1, times=None)
    with client(server, rate_limit=llmlite.RateLimit(requests_per_minute=6)) as llm:
        results = llm.map(["hello"] * 8, workers=8)
        next(results)
        while llm._gate._in_line() < 7:
            time.sleep(0.001)
        started = time.monotonic()
        if softly:
            results.stop.set()
            assert list(results) == []
        else:
            results.close()
        assert within(0, started, 1)
        assert threads() == []
    assert len(server.requests) == 1


def test_stopped_while_calls_begin():
    """All that is under way is cut, whatever begins in other threads meanwhile."""
    class Attempt:
        cut = int

    def begin():
        while not ended:
            some = [Attempt() for _ in range(50)]
            stop.attempts.update(some)
            stop.attempts.difference_update(some)

    stop, ended, switches = vars(sys.modules[llmlite.Client.__module__])["_Stop"](), [], sys.getswitchinterval()
    others = [threading.Thread(target=begin) for _ in range(4)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in others:
            thread.start()
        for _ in range(5000):
            stop()
    finally:
        sys.setswitchinterval(switches)
        ended.append(True)
        for thread in others:
            thread.join()


class Consumer(threading.Thread):
    """Takes all that a map yields, in a thread."""

    def __init__(self, results):
        super().__init__(name="consumer", daemon=True)
        self.results, self.came, self.error = results, [], None
        self.start()

    def run(self):
        try:
            for result in self.results:
                self.came.append(result)
        except BaseException as error:
            self.error = error

    def ends(self):
        """Whether it has ended within a second, by the end of the map and nothing else."""
        started = time.monotonic()
        self.join(10)
        assert within(0, started, 1) and not self.is_alive()
        assert self.error is None and not any(isinstance(result, Exception) for result in self.came), self.came
        return True


@contextlib.contextmanager
def unaccepted():
    """The base URL of a server that nobody gets through to."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(full.getsockname())  # the queue is full: the next one hangs
            yield f"http://127.0.0.1:{full.getsockname()[1]}/v1"


def connecting(results, count):
    """Wait until so many calls of a map are about to open a connection."""
    while sum(attempt.sent is False for attempt in list(results.stop.attempts)) < count:
        time.sleep(0.001)
    time.sleep(0.05)


@pytest.mark.parametrize("retry", [None, llmlite.RetryPolicy()])
@pytest.mark.parametrize("softly", [False, True])
@beside
def test_stopped_while_connecting(softly, retry):
    """A connection that nobody accepts does not hold the map, nor one of which nothing more is sent."""
    with unaccepted() as url, llmlite.Client("m", base_url=url, retry=retry) as llm:
        results = llm.map(["hello"] * 2, workers=2)
        consumer = Consumer(results)
        connecting(results, 2)
        started = time.monotonic()
        (results.stop.set if softly else results.close)()
        assert within(0, started, 1)
        assert consumer.ends() and consumer.came == []


@pytest.mark.parametrize("executor", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("calm", [False, True], ids=["answered", "waiting"])
def test_closed_in_another_thread(server, calm, ordered, executor):
    """Who waits for the next result sees the end; close() just returns."""
    server.handle(lambda request: echo(request, delay=30 if calm and prompt(request) != "0" else 0.002))
    with client(server) as llm, concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(1 if calm else 10):
            results = llm.map(map(str, itertools.count()), workers=4, ordered=ordered,
                              executor=pool if executor else None)
            consumer = Consumer(results)
            while not consumer.came:
                time.sleep(0.001)
            if calm:
                time.sleep(0.1)
            results.close()
            assert consumer.ends() and soon(lambda: not threads())
            assert next(results, "end") == "end"
            results.close()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_closed_in_a_signals_handler(server):
    """The loop that it interrupts just ends."""
    import signal
    server.handle(lambda request: echo(request, delay=30 if prompt(request) == "9" else 0))
    before = signal.signal(signal.SIGUSR1, lambda *_: results.close())
    try:
        with client(server) as llm:
            results = llm.map(map(str, range(99)), workers=4)
            came = []
            for reply in results:
                came.append(reply.text)
                if len(came) == 9:
                    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
                    started = time.monotonic()
            assert within(0.1, started, 1.1)
            assert came == list("012345678") and threads() == []
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_closed_by_its_own_prompts(server):
    """Who is asked for the next prompt may end it all."""
    server.handle(echo)

    def prompts():
        yield "a"
        results.close()
        yield "b"

    with client(server) as llm:
        results = llm.map(prompts(), workers=1)
        assert len(list(results)) <= 1
    assert soon(lambda: not threads()) and len(server.requests) <= 1


def test_closed_before_it_began(server):
    """Nothing is sent."""
    with client(server) as llm:
        results = llm.map(["a"])
        results.close()
        assert list(results) == []
    assert not server.requests


# nothing more is sent, what was sent goes on


def test_nothing_is_sent_at_all(server):
    """A map that is stopped while nothing is under way is at its end."""
    with client(server) as llm:
        results = llm.map(["a"])
        results.stop.set()
        assert Consumer(results).ends()
    assert not server.requests


@pytest.mark.parametrize("executor", [False, True])
def test_nothing_more_is_sent(server, executor):
    """What was sent is answered, for good or ill; no error is tried again, and no prompt in the queue is begun."""
    answered = threading.Event()

    def answer(request):
        assert answered.wait(20)
        status = {"0": 503, "1": 400}.get(prompt(request))
        return echo(request) if status is None else testing.error(status)

    server.handle(answer)
    with client(server, retry=llmlite.RetryPolicy()) as llm, concurrent.futures.ThreadPoolExecutor(3) as pool:
        results = llm.map(map(str, range(40)), workers=3, ordered=False, executor=pool if executor else None)
        consumer = Consumer(results)
        server.wait_for(3)
        results.stop.set()
        answered.set()
        consumer.join(5)
        assert {nth: text(result) for nth, result in consumer.came} == {1: "BadRequestError", 2: "2"}
        assert threads() == [] and len(server.requests) == 3 and llm.ledger.retries == 0


@pytest.mark.parametrize("status, retry_after", [(429, 0.4), (503, None)])
@pytest.mark.parametrize("executor", [False, True])
@beside
def test_what_waits_to_be_sent_again_is_not_sent(server, executor, status, retry_after):
    """It ends at once, and is no error: nothing had come of it."""
    server.handle(lambda request: testing.error(status, retry_after=retry_after))
    with client(server, retry=llmlite.RetryPolicy()) as llm, concurrent.futures.ThreadPoolExecutor(3) as pool:
        results = llm.map(list("abc"), workers=3, executor=pool if executor else None)
        consumer = Consumer(results)
        while not llm.ledger.attempts:
            time.sleep(0.001)
        time.sleep(0.1)
        sent = len(server.requests)
        started = time.monotonic()
        results.stop.set()
        consumer.join(5)
        assert within(0, started, 0.3)
        assert consumer.came == [] and consumer.error is None
        time.sleep(max(0.0, started + 0.6 - time.monotonic()))
        assert len(server.requests) == sent


def test_a_call_that_is_about_to_be_sent(server, monkeypatch):
    """Whatever it is at, up to the moment at which it would be sent: it is not."""
    def key():
        if len(keys) > 1:
            results.stop.set()
        keys.append("sk-test-0001")
        return keys[-1]

    def look_up(*args):
        results.stop.set()
        return looked_up(*args)

    looked_up, keys = socket.getaddrinfo, []
    with client(server, api_key=key, rate_limit=llmlite.RateLimit(requests_per_minute=60000)) as llm:
        server.handle(echo)
        results = llm.map(list("abcde"), workers=1)
        assert [reply.text for reply in results] == ["a", "b"] and len(keys) == 3
        llm.close()
        keys.clear()
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        results = llm.map(list("abc"), workers=1)
        assert list(results) == [] and len(keys) == 1
        assert len(server.requests) == 2 and not llm.ledger.unknown


PROGRAM = """
import importlib, sys, time
llmlite = importlib.import_module(sys.argv[1])
llm = llmlite.Client("m", base_url=sys.argv[2], retry=None)
try:
    for reply in llm.map(map(str, range(1000)), workers=4):
        print(reply.text, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_interrupted(server):
    """Ctrl-C ends it at once, and Python too: no thread holds the process."""
    import signal
    server.handle(lambda request: echo(request, delay=0.1 if prompt(request) == "0" else 60))
    with subprocess.Popen([sys.executable, "-c", PROGRAM, llmlite.__name__, server.url], stdout=subprocess.PIPE,
                          env=os.environ) as child:
        assert child.stdout.readline() == b"0\n"
        while len(server.requests) < 5:
            time.sleep(0.001)
        started = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.stdout.read() == b"interrupted\n"
        assert child.wait(10) == 0
        assert within(0, started, 2)


def test_left_open_at_the_end_of_the_program(server):
    """A map that nobody closes does not hold the process at its end."""
    server.reply("first", times=None)
    program = PROGRAM.replace("        print(reply.text, flush=True)\n",
                              "        print(reply.text, flush=True)\n        break\n").replace(
        "for reply in llm.map(map(str, range(1000)), workers=4)",
        "kept = llm.map(map(str, range(1000)), workers=4)\n    for reply in kept")
    done = subprocess.run([sys.executable, "-c", program, llmlite.__name__, server.url], stdout=subprocess.PIPE,
                          timeout=30)
    assert (done.returncode, done.stdout) == (0, b"first\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_in_a_forked_child(server):
    """A child has no threads of its parent's map: it says so, and leaves the parent's connections alone."""
    server.handle(echo)
    with client(server) as llm:
        results = llm.map(map(str, range(50)), workers=2)
        next(results)
        read, write = os.pipe()
        with untraced():
            child = os.fork()
            if child == 0:
                try:
                    list(results)
                    told = "no error"
                except RuntimeError as error:
                    told = str(error)
                finally:
                    os.write(write, told.encode())
                    os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        with open(read) as pipe:
            assert "forked from" in pipe.read()
        assert [reply.text for reply in results] == [str(nth) for nth in range(1, 50)]


def test_without_threads(server, few_threads):
    """Where no thread can begin, as in WebAssembly, the caller's own thread does the work."""
    server.handle(echo)
    few_threads("llmlite map")
    with client(server) as llm:
        assert [reply.text for reply in llm.map(["a", "b", "c"], workers=3)] == ["a", "b", "c"]


def test_with_fewer_threads_than_workers(server, few_threads):
    """Where only some threads can begin, these do all the work."""
    server.handle(lambda request: echo(request, delay=0.03))
    few_threads("llmlite map", after=1)
    with client(server) as llm:
        assert [reply.text for reply in llm.map(list("abcdef"), workers=3)] == list("abcdef")


def test_dropped_by_the_collector_in_a_worker(server):
    """A map that the cycle collector finds in one of its own threads ends without waiting for that one."""
    server.handle(echo)
    with client(server) as llm:
        results = llm.map(map(str, range(9)), workers=1)
        next(results)
        crew = results._crew
        ended = threading.Thread(target=crew.end, name="other")
        crew.threads.append(ended)
        started = time.monotonic()
        ended.start()
        ended.join(5)
        assert within(0, started, 1)
        results.close()


# -------------------------------------------------------------------------------------------------------- executors


def test_on_threads_of_an_executor(server):
    """An executor of this process takes the very client: one pace, one ledger, and it is cut like own threads."""
    server.handle(echo)
    with client(server) as llm, concurrent.futures.ThreadPoolExecutor(3) as pool:
        llm.lock = threading.Lock()  # it cannot be pickled, and need not be
        assert [reply.text for reply in llm.map(map(str, range(20)), executor=pool)] == [str(n) for n in range(20)]
        assert llm.ledger.calls == 20
        server.handle(lambda request: testing.reply("late", delay=30))
        results = llm.map(["a"] * 9, executor=pool, workers=5)
        consumer = Consumer(results)
        while len(server.requests) < 23:
            time.sleep(0.001)
        started = time.monotonic()
        results.close()
        assert consumer.ends()
    assert within(0, started, 1)
    assert len(server.requests) == 23


def in_flight(results):
    return results._crew.open


def test_no_more_than_workers_in_an_executor(server):
    """What an executor has to do at once is bounded by `workers`."""
    server.handle(echo)
    with client(server) as llm, concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = llm.map(map(str, range(40)), executor=pool, workers=2)
        most = 0
        for _ in results:
            most = max(most, in_flight(results))
    assert most <= 2


@pytest.fixture(scope="module")
def processes():
    import multiprocessing
    how = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=how) as pool:
        assert pool.submit(abs, -1).result() == 1  # its threads have begun: they are no test's
        yield pool


def test_on_processes(server, processes):
    """What processes spend is in the caller's ledger to the last token; errors come back with their class."""
    server.handle(lambda request: testing.error(400) if b"bad" in request.body else echo(request))
    prompts = [str(nth) for nth in range(20)] + ["bad", {"nothing": 1}]
    with client(server) as llm:
        results = list(llm.map(prompts, executor=processes, workers=4))
        assert [text(result) for result in results] == [*map(str, range(20)), "BadRequestError", "ConfigurationError"]
        spent = llm.ledger.snapshot()
    assert spent["usage"] == llmlite.Usage(60, 40)
    assert (spent["calls"], spent["attempts"], spent["failed"]) == (20, 21, 1)
    assert list(spent["by_model"].values()) == [llmlite.Usage(60, 40)]
    assert server.connections <= 2  # a client a process


def test_a_client_that_does_not_pickle(server, processes):
    """It is an error in the place of each result, that says why."""
    session = requests.Session()
    session.auth = lambda request: request
    with client(server, session=session) as llm:
        result, = llm.map(["hello"], executor=processes)
    assert isinstance(result, llmlite.ConfigurationError)
    assert "cannot go to another process" in str(result) and "pickle" in str(result)


def test_a_prompt_that_does_not_pickle(server, processes):
    """It is an error in its place; the others are answered."""
    server.handle(echo)
    with client(server) as llm:
        results = list(llm.map(["a", {"messages": "b", "schema": lambda: 0}, "c"], executor=processes))
    assert [text(result) for result in results] == ["a", "LLMError", "c"]
    assert "the executor gave no reply back" in str(results[1])


class Stubborn(Exception):
    """It pickles, and cannot be made again."""

    def __init__(self, one, two):
        super().__init__(one)


class Value:
    """What stands for an answer that fits a schema, and does not pickle."""

    @classmethod
    def model_json_schema(cls):
        return {"type": "object"}

    @classmethod
    def model_validate_json(cls, text, **options):
        value = cls()
        value.lock = threading.Lock()
        return value


def no_key():
    raise Stubborn(1, 2)


@pytest.mark.parametrize("key, options, calls, name", [
    (no_key, {}, 0, "Stubborn"), ("", {"schema": Value}, 1, "Value")])
def test_results_that_cannot_go_back(server, key, options, calls, name):
    """They are errors in their place, and break no executor; what they took is counted."""
    server.reply("{}", usage=(3, 2), times=None)
    with client(server, api_key=key) as llm:
        module = vars(sys.modules[llmlite.Client.__module__])
        result, spent = module["_call_away"](name, 0, module["_Sealed"](llm), "hello", options)
    assert type(result) is llmlite.LLMError and name in str(result)
    assert spent["calls"] == calls
    assert pickle.loads(pickle.dumps(result)).args == result.args


def test_a_parsed_value_goes_back(server):
    """An answer that fits a schema comes back from another process with its value."""
    server.reply('{"a": 1}')
    module = vars(sys.modules[llmlite.Client.__module__])
    with client(server) as llm:
        result, _ = module["_call_away"]("parsed", 0, module["_Sealed"](llm), "hello", {"schema": dict})
    assert result.parsed == {"a": 1}


def test_a_key_that_is_not_there(server, monkeypatch):
    """A client that looks its key up in the environment, and does not find it in the other process, says so."""
    monkeypatch.setenv("LLMLITE_API_KEY", "sk-test-0001")
    with llmlite.Client("m", base_url=f"http://[::ffff:127.0.0.1]:{server.port}/v1", retry=None) as llm:
        module = vars(sys.modules[llmlite.Client.__module__])
        sealed = module["_Sealed"](llm)
        monkeypatch.delenv("LLMLITE_API_KEY")
        result, spent = module["_call_away"]("token", 0, sealed, "hello", {})
    assert spent is None
    assert "api_key" in str(result)


def needs_main():
    """A key that only the module of the name it has here knows."""
    return "sk-test-0001"


def test_a_client_that_does_not_load(server, monkeypatch):
    """A client that was pickled, and cannot be made in the other process, is an error that says why."""
    module = vars(sys.modules[llmlite.Client.__module__])
    with client(server, api_key=needs_main) as llm:
        sealed = module["_Sealed"](llm)
        monkeypatch.delattr(sys.modules[__name__], "needs_main")
        result, spent = module["_call_away"]("token", 0, sealed, "hello", {})
    assert isinstance(result, llmlite.ConfigurationError) and spent is None
    assert "cannot go to another process: AttributeError: " in str(result) and "needs_main" in str(result)


def test_a_sealed_client_shows_nothing(server):
    """What an executor logs of its tasks' arguments holds no key."""
    with client(server, api_key="sk-test-0001") as llm:
        sealed = vars(sys.modules[llmlite.Client.__module__])["_Sealed"](llm)
    assert b"sk-test-0001" in sealed.pickled and "sk-test-0001" not in f"{sealed} {sealed!r}"


class Odd(Exception):
    """An exception that pickles, and does not load again."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class OddAdapter(requests.adapters.HTTPAdapter):
    """An adapter whose errors are no errors of requests."""

    def send(self, *args, **options):
        raise Odd("this", "that")


def test_an_error_that_does_not_load(server, processes):
    """It would break the pool: in its place comes an error that can; the next call goes on."""
    server.handle(echo)
    session = requests.Session()
    session.mount("http://", OddAdapter())
    with session, client(server, session=session) as llm:
        results = list(llm.map(["a", "b"], executor=processes))
    assert [text(result) for result in results] == ["LLMError"] * 2
    assert "cannot go to another process: Odd: this and that" in str(results[0])


def test_an_executor_that_takes_no_more(server):
    """What it had taken before is yielded; then its error is raised, and nothing hangs."""
    server.handle(lambda request: echo(request, delay=0.1))
    pool = concurrent.futures.ThreadPoolExecutor(2)

    def prompts():
        yield from "abc"
        pool.shutdown(wait=False)
        yield from "def"

    with client(server) as llm:
        for ordered in (True, False):
            results, replies = llm.map(prompts(), executor=pool, ordered=ordered), []
            with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
                for result in results:
                    replies.append(text(result if ordered else result[1]))
            assert sorted(replies) == list("abc")
            pool = concurrent.futures.ThreadPoolExecutor(2)
        pool.shutdown()


class Dask(concurrent.futures.ThreadPoolExecutor):
    """What Dask's executor shows of itself: a client, whose loop and run() reach the workers."""

    def __init__(self, refuses=""):
        super().__init__(1)
        self._client = self.loop = self
        self.status, self.refuses, self.told = "running", refuses, []

    def submit(self, function, *args):
        if args[3] == self.refuses:
            raise OSError(f"Tried sending {args!r}")
        return super().submit(function, *args)

    def add_callback(self, call, *args, **options):
        call(*args, **options)

    def run(self, function, *args, on_error):
        self.told.append((args, on_error))
        function(*args)


def test_closing_on_dask(server):
    """Its workers are told that nothing more is to begin: a future that is cancelled could have begun."""
    module = vars(sys.modules[llmlite.Client.__module__])
    server.handle(lambda request: echo(request, delay=0.1))
    with client(server) as llm, Dask() as executor:
        results = llm.map(map(str, range(9)), executor=executor, workers=3)
        next(results)
        crew = results._crew
        results.close()
        assert executor.told == [((crew.token,), "ignore")]
        del module["_Executed"].here[crew.token]  # as in the other process
        sent = len(server.requests)
        result, spent = module["_call_away"](crew.token, 0, crew.sealed, "a", {})
        assert type(result).__name__ == "_Stopped" and spent is None and len(server.requests) == sent
        list(llm.map(["a"], executor=executor))
        assert len(executor.told) == 1  # not where all has ended
    module["_Executed"].away.clear()


def test_what_waits_in_a_queue_of_an_executor(server, processes):
    """Nothing more is to be sent: what its processes have not begun they do not begin."""
    answered = threading.Event()
    server.handle(lambda request: echo(request, delay=0.0 if answered.wait(20) else 0))
    with client(server) as llm:
        results = llm.map(map(str, range(50)), executor=processes, workers=12, ordered=False)
        consumer = Consumer(results)
        server.wait_for(2, 20)
        results.stop.set()
        time.sleep(0.3)
        answered.set()
        assert consumer.ends()
    assert len(consumer.came) == len(server.requests) < 8  # a pool hands a few on before they are begun
    assert llm.ledger.calls == len(consumer.came)


def test_what_waits_there_while_others_answer(server, processes):
    """It does not begin either where an answer comes every moment, as it does where none comes for long."""
    server.handle(lambda request: echo(request, delay=0.02))
    with client(server) as llm:
        results = llm.map(map(str, range(60)), executor=processes, workers=40, ordered=False)
        came = [next(results)]
        results.stop.set()
        came.extend(results)
    assert len(came) == len(server.requests) == llm.ledger.calls < 20


def test_a_prompt_that_comes_when_it_has_been_stopped(server):
    """An executor does not even get it."""
    given = []

    class Executor(concurrent.futures.ThreadPoolExecutor):
        def submit(self, *call):
            given.append(call[4])
            return super().submit(*call)

    def prompts():
        yield "a"
        results.stop.set()
        yield "b"

    server.handle(echo)
    with client(server) as llm, Executor(1) as executor:
        results = llm.map(prompts(), executor=executor)
        assert len(list(results)) <= 1
    assert given == ["a"]


def test_a_future_that_somebody_else_cancels(server):
    """It is an error in its place."""
    server.handle(lambda request: echo(request, delay=0.1))
    with client(server) as llm, concurrent.futures.ThreadPoolExecutor(1) as pool:
        results = llm.map(["a", "b"], executor=pool, workers=2)
        consumer = Consumer(results)
        server.wait_for(1)
        while not any(future.cancel() for future in list(results._crew.futures)):
            time.sleep(0.001)
        consumer.join(5)
    assert [text(result) for result in consumer.came] == ["a", "LLMError"]
    assert "gave no reply back: CancelledError" in str(consumer.came[1])


@pytest.mark.parametrize("stopped, came", [(True, []), (False, ["LLMError"])])
def test_an_executor_that_is_interrupted_too(server, stopped, came):
    """A terminal sends Ctrl-C to the executor's processes also: after it, what that ended has no result."""
    future = concurrent.futures.Future()
    with client(server) as llm:
        results = llm.map(["a"], executor=types.SimpleNamespace(submit=lambda *call: future), workers=2)
        consumer = Consumer(results)
        assert soon(lambda: results._crew.futures)
        future.set_running_or_notify_cancel()
        if stopped:
            results.stop.set()
        future.set_exception(KeyboardInterrupt())
        consumer.join(5)
    assert [text(result) for result in consumer.came] == came


def test_stopped_in_another_process(server):
    """Where a process can be told, as Dask's can, what waits there to be sent again ends too."""
    server.handle(lambda request: testing.error(429, retry_after=20))
    module, came = vars(sys.modules[llmlite.Client.__module__]), []
    with client(server, retry=llmlite.RetryPolicy()) as llm:
        sealed = module["_Sealed"](llm)
        thread = threading.Thread(target=lambda: came.append(module["_call_away"]("waits", 0, sealed, "hello", {})))
        thread.start()
        server.wait_for(1)
        time.sleep(0.1)
        module["_stop_away"]("waits")
        started = time.monotonic()
        thread.join(5)
        assert within(0, started, 1)
    (result, spent), = came
    assert type(result).__name__ == "_Stopped" and spent["attempts"] == len(server.requests) == 1
    module["_Executed"].away.clear()


@pytest.mark.parametrize("status, why", [("closed", "Dask client is closed"), ("running", "no more calls: OSError$")])
def test_a_dask_client_that_is_closed(server, status, why):
    """Nothing hangs, and an error that quotes what was to be sent is not passed on."""
    server.handle(echo)
    with client(server) as llm, Dask(refuses="b") as executor:
        results = llm.map(list("ab"), executor=executor, workers=1)
        assert next(results).text == "a"
        executor.status = status
        with pytest.raises(RuntimeError, match=why):
            next(results)


def test_a_prompt_that_an_executor_does_not_take(server):
    """Dask's pickles while it submits: it is an error in its place, and the others are answered."""
    server.handle(echo)
    odd = {"messages": "b", "extra": {"lock": threading.Lock()}}
    with client(server) as llm, Dask(refuses=odd) as executor:
        results = list(llm.map(["a", odd, "c"], executor=executor))
    assert [text(result) for result in results] == ["a", "LLMError", "c"]
    assert "gave no reply back: TypeError: " in str(results[1])


def test_clients_of_other_processes_are_few(server):
    """A process that serves many maps keeps a few clients of them."""
    module = sys.modules[llmlite.Client.__module__]
    call_away, kept = vars(module)["_call_away"], vars(module)["_Executed"].away
    server.handle(echo)
    with client(server) as llm:
        sealed = vars(module)["_Sealed"](llm)
    for nth in range(20):
        result, spent = call_away(f"token {nth}", 0, sealed, "hello", {})
        assert (result.text, spent["calls"]) == ("hello", 1)
        assert len(kept) <= 8
    for one in kept.values():
        one.client.close()
    kept.clear()


# --------------------------------------------------------------------------------------------------------- progress


@beside
def test_progress_to_a_function(server):
    """It is told after each result: how many are done, how many failed, what they took."""
    server.handle(lambda request: testing.error(400) if b"bad" in request.body else echo(request))
    told = []
    with client(server) as llm:
        list(llm.map(["a", "bad", "c"], progress=lambda *what: told.append(what)))
    assert told == [(1, 0, llmlite.Usage(3, 2)), (1, 1, llmlite.Usage(3, 2)), (2, 1, llmlite.Usage(6, 4))]


@pytest.mark.parametrize("total, of", [(None, 2), (7, 7)])
def test_progress_without_tqdm(server, monkeypatch, capsys, total, of):
    """A count on stderr, in one line."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    server.handle(echo)
    with client(server) as llm:
        list(llm.map(["a", "b"], progress=True, total=total))
    assert capsys.readouterr().err.split("\r")[-1] == f"2/{of} done, 0 failed, 10 tokens\n"


def test_progress_without_a_total(server, monkeypatch, capsys):
    """Of an iterable without a length the count alone."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    server.handle(echo)
    with client(server) as llm:
        list(llm.map(iter(["a"]), progress=True))
    assert capsys.readouterr().err.split("\r")[-1] == "1 done, 0 failed, 5 tokens\n"


def test_progress_with_tqdm(server, monkeypatch):
    """tqdm's bar, the notebook's in notebooks."""
    said = []

    class Bar:
        def __init__(self, total, miniters):
            said.append((total, miniters, self.monitor_interval))

        def set_postfix(self, what, refresh):
            said.append((what, refresh))

        def update(self):
            said.append("update")

        def close(self):
            said.append("close")

    monkeypatch.setitem(sys.modules, "tqdm", types.ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))
    server.handle(echo)
    with client(server) as llm:
        list(llm.map(["a"], progress=True))
    assert said == [(1, 1, 0), ({"failed": 0, "tokens": 5}, False), "update", "close"]


# ------------------------------------------------------------------------------------------------------------- cost


def test_memory_stays_flat(server):
    """1,000 prompts leave no more behind than 200."""
    import tracemalloc
    server.handle(echo)
    with client(server) as llm, untraced():
        sizes = []
        tracemalloc.start()
        for many in (200, 200, 1000):
            for nth, _ in enumerate(llm.map(map(str, range(many)), workers=4)):
                if nth % 100 == 0:
                    server.requests.clear()
            server.requests.clear()
            gc.collect()
            ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, testing.__file__)])
            sizes.append(sum(found.size for found in ours.statistics("filename")))  # less the server's own buffers
        tracemalloc.stop()
    assert sizes[2] - sizes[1] < 100_000


def test_context_goes_to_the_workers(server):
    """What the caller's context holds, a tracer's span for one, is there in the threads."""
    import contextvars
    span = contextvars.ContextVar("span", default="none")
    seen = []
    server.handle(echo)

    def key():
        seen.append(span.get())
        return "sk-test-0001"

    with client(server, api_key=key) as llm:
        span.set("mine")
        list(llm.map(["a", "b"], workers=2))
    assert seen == ["mine", "mine"]


def test_late_results_of_an_executor_still_count(server):
    """What another process spends after the map was closed is in the ledger as soon as it is known."""
    module = vars(sys.modules[llmlite.Client.__module__])
    with client(server) as llm:
        crew = module["_Executed"](llm, {}, 1, None)
        future = concurrent.futures.Future()
        crew.end()
        future.set_result((None, {**llm.ledger.snapshot(), "calls": 2, "by_model": {"m": llmlite.Usage(5, 6)}}))
        crew._take(0, future)
        assert (llm.ledger.calls, llm.ledger.usage) == (2, llmlite.Usage(5, 6))


def test_printed_count_ends_its_line(monkeypatch, capsys):
    """A map that is stopped ends the line of its count too, once."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with testing.Server() as server, client(server) as llm:
        server.handle(echo)
        results = llm.map(["a"] * 9, progress=True, workers=1)
        next(results)
        results.close()
        del results
    assert capsys.readouterr().err.endswith("1/9 done, 0 failed, 5 tokens\n")


def test_nothing_is_printed_unasked(server, capsys):
    """Without progress a map prints nothing."""
    server.handle(echo)
    with client(server) as llm:
        list(llm.map(["a"]))
    assert capsys.readouterr() == ("", "")
