"""Clients that travel: pickle, copy, fork, and pools of processes."""
import contextlib
import copy
import faulthandler
import gc
import multiprocessing
import os
import pickle
import signal
import ssl
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor

import pytest
import requests
import trustme

from tests import llmlite, testing
from tests.beside import beside, untraced
from tests.relays import Secure

KEY = "sk-0123456789"
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FAST = llmlite.RetryPolicy(backoff=0.001, max_retries=1)
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)


def the_key():
    return KEY + "-called"


def ask(llm, question):
    return llm.chat(question).text


def echo(request):
    return testing.reply(request.json["messages"][-1]["content"])


COPIES = {
    **{f"pickle{number}": lambda client, number=number: pickle.loads(pickle.dumps(client, number))
       for number in PROTOCOLS},
    "copy": copy.copy, "deepcopy": copy.deepcopy,
}  # fmt: skip
copied = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


# ------------------------------------------------------------------------------------------------------ pickle and copy


@copied
@beside
def test_explicit_settings_are_kept(server, copied):
    """What a client was made with goes along: model, address, key, headers, retries, timeouts."""
    client = copied(llmlite.Client("org/model", base_url=server.url, api_key=KEY, headers={"X-Team": "a"}, retry=FAST,
                                   timeout=(2, 1), deadline=30))  # fmt: skip
    server.error(500)
    server.reply("ok")
    assert client.chat("hi").text == "ok"
    headers = server.requests[1].headers
    assert (headers["authorization"], headers["x-team"]) == (f"Bearer {KEY}", "a")
    assert server.requests[1].json["model"] == "org/model"
    server.reply("late", delay=1.5, times=2)
    with pytest.raises(llmlite.APITimeoutError) as caught:
        client.chat("hi")
    assert caught.value.attempts == 2
    server.error(429, retry_after=60)
    with pytest.raises(llmlite.DeadlineExceededError, match="deadline of 30 s would pass"):
        client.chat("hi")


@copied
def test_copies_share_nothing(server, copied):
    """A copy has its own connections and its own ledger; closing one leaves the other alone."""
    server.handle(echo)
    first = llmlite.Client("m", base_url=server.url)
    first.chat("hi")
    second = copied(first)
    assert second.ledger.calls == 0
    second.chat("hi")
    second.close()
    first.chat("hi")
    assert [request.connection for request in server.requests] == [1, 2, 1]
    assert (first.ledger.calls, second.ledger.calls) == (2, 1)


def test_key_from_the_environment_is_not_carried(server, monkeypatch):
    """A key that was found in the environment is not in the pickle: it is looked up where the client arrives."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    client = llmlite.Client("m", provider="openai", base_url=server.url)
    pickled = [pickle.dumps(client, number) for number in PROTOCOLS]
    assert not any(KEY.encode() in data for data in pickled)
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    server.reply("ok")
    pickle.loads(pickled[0]).chat("hi")
    assert server.requests[0].headers["authorization"] == "Bearer another"
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(llmlite.ConfigurationError, match="OPENAI_API_KEY"):
        pickle.loads(pickled[0])


def test_callable_key_is_carried(server):
    """A callable key goes along as what it is, and is called there."""
    client = pickle.loads(pickle.dumps(llmlite.Client("m", base_url=server.url, api_key=the_key)))
    server.reply("ok")
    client.chat("hi")
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}-called"


def test_session_is_carried(server):
    """The user's session goes along with its headers."""
    with requests.Session() as session:
        session.headers["X-Team"] = "a"
        client = pickle.loads(pickle.dumps(llmlite.Client("m", base_url=server.url, session=session)))
    server.reply("ok", headers={"Connection": "close"})  # nobody could close what its session kept
    client.chat("hi")
    assert server.requests[0].headers["x-team"] == "a"


def test_pickling_after_calls(server):
    """A client that has been used, and has waited, pickles as well as a new one."""
    server.error(429, retry_after=0.01)
    server.handle(echo)
    client = llmlite.Client("m", base_url=server.url, rate_limit=llmlite.RateLimit(requests_per_minute=1e6))
    client.chat("hi")
    assert pickle.loads(pickle.dumps(client)).chat("again").text == "again"


def test_values_pickle(server, llm):
    """Replies and what they hold pickle: a pool of processes sends them home."""
    server.reply("ok", tool_calls=[{"name": "f", "arguments": {"a": 1}}])
    reply = llm.chat("hi")
    again = pickle.loads(pickle.dumps(reply))
    fields = ("text", "tool_calls", "usage", "finish_reason", "message", "model", "raw", "attempts")
    assert [getattr(again, name) for name in fields] == [getattr(reply, name) for name in fields]


# ----------------------------------------------------------------------------------------------------------------- fork


def forked(function):
    """Start `function` in a forked child; returns a way to get what it returns, which fails if the child hangs."""
    read, write = os.pipe()
    with warnings.catch_warnings(), untraced():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 says that threads and fork do not mix
        pid = os.fork()
        if not pid:
            _child(function, read, write)
    os.close(write)

    def result():
        with os.fdopen(read, "rb") as pipe:
            data = pipe.read()
        status = os.waitpid(pid, 0)[1]
        assert status == 0, f"the child ended with {status}: {data.decode(errors='replace')}"
        return pickle.loads(data)

    return result


def _child(function, read, write):
    code = 1
    try:
        threading.settrace(None)
        os.close(read)
        with os.fdopen(write, "wb") as pipe:
            faulthandler.unregister(signal.SIGALRM)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            faulthandler.register(signal.SIGALRM, file=pipe, chain=True)
            signal.alarm(10)  # a deadlock ends here, and the stacks of all threads tell where it was
            try:
                pipe.write(pickle.dumps(function()))
                code = 0
            except BaseException as error:
                pipe.write(repr(error).encode())
    finally:
        os._exit(code)


@forking
@pytest.mark.parametrize("own", [True, False], ids=["own", "theirs"])
def test_child_has_connections_of_its_own(server, own):
    """A child asks over a new connection; the parent's still serves the parent afterwards."""
    server.handle(echo)
    with requests.Session() as session:
        llm = llmlite.Client("m", base_url=server.url, retry=None, session=None if own else session)
        assert ask(llm, "parent") == "parent"
        assert forked(lambda: [ask(llm, "child"), ask(llm, "child again")])() == ["child", "child again"]
        assert ask(llm, "parent again") == "parent again"
        assert [request.connection for request in server.requests] == [1, 2, 2, 1]
        assert server.connections == 2 and llm.ledger.calls == 2
        llm.close()


@forking
def test_several_children_at_once(server):
    """Children of one parent, and a grandchild, each have their own connection."""
    server.handle(echo)
    with llmlite.Client("m", base_url=server.url, retry=None) as llm:
        ask(llm, "first")
        children = [forked(lambda number=number: [ask(llm, f"{number} {n}") for n in range(10)]) for number in range(3)]
        grandchild = forked(lambda: (ask(llm, "child"), forked(lambda: ask(llm, "grandchild"))(), ask(llm, "child")))
        assert [child() for child in children] == [[f"{number} {n}" for n in range(10)] for number in range(3)]
        assert grandchild() == ("child", "grandchild", "child")
        assert ask(llm, "last") == "last"
    assert server.connections == 6


@forking
def test_stream_that_is_open_across_a_fork(server):
    """A parent's open stream goes on after a child has used the client."""
    server.stream(["a", "b", "c"], gap=0.05)
    server.handle(echo)
    with llmlite.Client("m", base_url=server.url, retry=None) as llm, llm.stream("hi") as stream:
        assert next(stream) == "a"
        assert forked(lambda: ask(llm, "child"))() == "child"
        assert list(stream) == ["b", "c"] and stream.response.finish_reason == "stop"


def dropped(stream):
    del stream[:]
    gc.collect()


def read(stream):
    with contextlib.suppress(llmlite.LLMError):  # the parent's stream is not the child's to read
        list(stream[0])


LEAVING = {
    "close": lambda stream: stream[0].close(),
    "leave": lambda stream: stream[0].__exit__(None, None, None),
    "drop": dropped,
    "read": read,
}  # fmt: skip


def trusted(tmp_path, monkeypatch):
    """The TLS of a server whose authority the environment names."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    return context


@forking
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("own", [True, False], ids=["own", "theirs"])
def test_children_that_leave_the_parents_streams(tmp_path, monkeypatch, secure, own):
    """A child that closes, drops or reads the stream which its parent has open takes nothing away from the parent."""
    context = None
    if secure:
        context = trusted(tmp_path, monkeypatch)
    words = [str(number) for number in range(8)]
    with testing.Server(ssl_context=context) as server, requests.Session() as session:
        server.stream(words, gap=0.04, times=None)
        session = None if own else session
        with llmlite.Client("m", base_url=server.url, session=session, retry=None, timeout=5) as llm:
            streams = {way: [llm.stream("hi", deadline=5)] for way in LEAVING}
            texts = {way: [next(held[0])] for way, held in streams.items()}
            children = [forked(lambda way=way, held=held: LEAVING[way](held)) for way, held in streams.items()]
            assert [child() for child in children] == [None] * 4
            for way, held in streams.items():
                assert texts[way] + list(held[0]) == words, way
                assert held[0].response.finish_reason == "stop", way
            assert (llm.ledger.calls, llm.ledger.failed) == (4, 0)
            streams.clear()
            del held


@forking
@pytest.mark.parametrize("leaving", LEAVING.values(), ids=LEAVING)
def test_child_that_leaves_a_stream_within_a_tunnel(tmp_path, monkeypatch, leaving):
    """Nor where the connection is TLS within the TLS of a proxy."""
    context = trusted(tmp_path, monkeypatch)
    words = [str(number) for number in range(8)]
    with testing.Server(ssl_context=context) as server, Secure(context) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        server.stream(words, gap=0.03)
        with llmlite.Client("m", base_url=server.url, retry=None, timeout=5) as llm:
            streams = [llm.stream("hi", deadline=5)]
            texts = [next(streams[0])]
            forked(lambda: leaving(streams))()
            assert texts + list(streams[0]) == words and proxy.connections == 1
            streams.clear()


@forking
def test_child_that_closes_the_parents_client(server):
    """A child that closes the client, as leaving its `with` does, leaves the parent's stream and connections open."""
    server.handle(echo)
    server.stream(["a", "b", "c"], gap=0.1)
    with llmlite.Client("m", base_url=server.url, retry=None) as llm, llm.stream("hi") as stream:
        texts = [next(stream)]
        forked(llm.close)()
        assert texts + list(stream) == ["a", "b", "c"]
        forked(llm.close)()
        assert ask(llm, "again") == "again" and server.connections == 1


EXITING = """
import os, sys
from tests import llmlite

with llmlite.Client("m", base_url=sys.argv[1], retry=None, timeout=5) as llm:
    stream = llm.stream("hi")
    texts = [next(stream)]
    pid = os.fork()
    if not pid:
        sys.exit(3)  # with all the finalizers of a process that ends by itself
    ended = os.waitpid(pid, 0)[1]
    print(ended >> 8, *texts, *stream)
"""


@forking
def test_child_that_exits_beside_the_parents_stream(server):
    """A child that ends by itself, finalizers and all, leaves the parent's stream alone, and comes to its end."""
    server.stream(["a", "b", "c"], gap=0.12)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", EXITING, server.url], cwd=ROOT, timeout=20,
                          capture_output=True, text=True)  # fmt: skip
    assert (done.stdout.split(), done.stderr) == (["3", "a", "b", "c"], "")


UNTOLD = """
import ctypes, os, sys
from tests import llmlite

with llmlite.Client("m", base_url=sys.argv[1], retry=None, timeout=5) as llm:
    llm.chat("parent")
    pid = ctypes.PyDLL(None).fork()
    text = llm.chat("child" if not pid else "parent again").text
    if not pid:
        os._exit(text != "child")
    print(os.waitpid(pid, 0)[1] >> 8, text)
"""


@forking
def test_a_fork_that_python_is_not_told_of(server):
    """Nor does a child share connections whose fork runs none of Python's hooks, as uWSGI's by default does not."""
    server.handle(echo)
    done = subprocess.run([sys.executable, "-c", UNTOLD, server.url], cwd=ROOT, timeout=20, capture_output=True,
                          text=True)  # fmt: skip
    assert (done.stdout, done.stderr) == ("0 parent again\n", "")
    assert {(request.json["messages"][0]["content"] == "child", request.connection) for request in server.requests} == {
        (False, 1), (True, 2)}


@forking
@pytest.mark.parametrize("limit", [None, llmlite.RateLimit(requests_per_minute=1e7)], ids=["free", "limited"])
def test_fork_while_others_are_in_calls(server, limit):
    """Forked while four threads are in calls, a child's call works, and so do the threads' calls: no lock is lost."""
    server.handle(lambda request: testing.stream([request.json["messages"][-1]["content"]], delay=0.001))
    llm, stop = llmlite.Client("m", base_url=server.url, retry=None, rate_limit=limit), threading.Event()
    problems = []

    def work(number):
        count = 0
        while not stop.is_set():
            count += 1
            if ask(llm, f"{number} {count}") != f"{number} {count}":
                problems.append((number, count))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(6):
            time.sleep(0.013)
            assert forked(lambda number=number: [ask(llm, f"child {number}"), llm.ledger.snapshot()["failed"]])() == [
                f"child {number}", 0]
    finally:
        stop.set()
        for thread in threads:
            thread.join(5)
    assert not problems and llm.ledger.failed == 0 and llm.ledger.calls == len(server.requests) - 6
    llm.close()


@forking
def test_threads_of_a_child_never_use_the_parents_connection(server):
    """Threads of a child that all ask at once open connections of their own, also those that come second."""
    server.handle(echo)
    switch = sys.getswitchinterval()
    with llmlite.Client("m", base_url=server.url, retry=None) as llm:
        ask(llm, "parent")

        def child():
            start, found = threading.Barrier(8), []
            threads = [threading.Thread(target=lambda: (start.wait(5), found.append(ask(llm, "child"))))
                       for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(5)
            return found

        sys.setswitchinterval(1e-6)
        try:
            assert [forked(child)() for _ in range(10)] == [["child"] * 8] * 10
        finally:
            sys.setswitchinterval(switch)
        assert ask(llm, "parent again") == "parent again"
        used = {request.connection for request in server.requests if b"child" in request.body}
        assert 1 not in used and server.requests[-1].connection == 1


class Waiting(str):
    """A model's name that holds up whoever looks it up, when told to."""

    __slots__ = ()
    inside, go_on = threading.Event(), threading.Event()

    def __hash__(self):
        self.inside.set()
        assert self.go_on.wait(10)
        return super().__hash__()


@forking
def test_fork_while_the_ledger_is_reset(server):
    """A child whose parent summed up at the fork can read and reset the ledger, drop streams and ask."""
    answer = {"choices": [{"message": {"content": "ab"}, "finish_reason": "stop"}]}
    server.sse([{"choices": [{"index": 0, "delta": {"content": "ab"}, "finish_reason": "stop"}]}], gap=0.01)
    server.handle(lambda request: testing.json_body(answer))
    llm = llmlite.Client(Waiting("m"), base_url=server.url, retry=None)
    Waiting.go_on.set()
    streams, told = [llm.stream("hi")], []
    assert llm.chat("hi").text == "ab"
    Waiting.go_on.clear()
    Waiting.inside.clear()
    thread = threading.Thread(target=lambda: told.append(llm.ledger.reset()))
    thread.start()
    assert Waiting.inside.wait(5)

    def child():
        Waiting.go_on.set()
        before = llm.ledger.reset()["calls"]
        dropped(streams)
        return before, llm.chat("hi").text, llm.ledger.calls

    assert forked(child)() == (1, "ab", 1)
    Waiting.go_on.set()
    thread.join(5)
    assert told[0]["calls"] == 1 and "".join(streams[0]) == "ab" and llm.ledger.calls == 1
    llm.close()


# --------------------------------------------------------------------------------------------------- pools of processes


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_pool_of_processes(server, method):
    """A client goes to a pool's processes as an argument, and its replies come home."""
    server.handle(echo)
    questions = [f"question {number}" for number in range(6)]
    with llmlite.Client("m", base_url=server.url, retry=None) as llm, contextlib.ExitStack() as stack:
        ask(llm, "before")
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", DeprecationWarning)  # as above
        pool = stack.enter_context(ProcessPoolExecutor(2, multiprocessing.get_context(method)))
        replies = list(pool.map(llm.chat, questions))
        assert [reply.text for reply in replies] == questions
        assert ask(llm, "after") == "after"
        assert server.requests[-1].connection == 1
