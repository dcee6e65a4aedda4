"""Dask: Client.map and `llmlite batch --dask` on a real cluster of this machine, in processes and in threads."""
import json
import logging
import os
import re
import signal
import textwrap
import threading
import time

import pytest

from llmlite.__main__ import main
from tests import llmlite, testing
from tests.neighbours import ROOT

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("default")  # Dask's own
CLUSTER = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": ":0", "silence_logs": logging.CRITICAL}

RECIPE = r"^\.\. code:: python\n\n((?:    .*\n|\n)*?    .*get_executor.*\n(?:    .*\n|\n)+)"


@pytest.fixture(autouse=True)
def no_thread_left():
    """Dask keeps threads of its own."""


@pytest.fixture(scope="module")
def processes():
    with distributed.LocalCluster(processes=True, **CLUSTER) as cluster, distributed.Client(cluster) as dask:
        yield dask


@pytest.fixture(scope="module")
def threads():
    with distributed.LocalCluster(processes=False, **CLUSTER) as cluster, distributed.Client(cluster) as dask:
        yield dask


@pytest.fixture(params=["processes", "threads"])
def dask(request):
    """A client of a cluster: two workers of two threads each."""
    return request.getfixturevalue(request.param)


class Desk:
    """What a server does: the prompt back; "bad" is refused; "die" kills who asks, by `kill`."""

    def __init__(self, delay=0.0):
        self.delay, self.lock = delay, threading.Lock()
        self.now = self.most = 0

    def __call__(self, request):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.delay)
        with self.lock:
            self.now -= 1
        text = request.json["messages"][-1]["content"]
        if text == "die":
            self.kill()
        return testing.error(400) if text == "bad" else testing.reply(text, usage=(3, 2))


def client(server, **options):
    return llmlite.Client("m", base_url=server.url, retry=None, **options)


def text(result):
    return result.text if isinstance(result, llmlite.Response) else type(result).__name__


def until(true, limit=10.0):
    end = time.monotonic() + limit
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    return true()


def test_results_and_ledger(server, dask):
    """Results in order, also of equal prompts, errors in their place; the ledger is right to the last token."""
    server.handle(Desk(0.002))
    prompts = [str(nth) for nth in range(60)] + ["same"] * 40 + ["bad", {"nothing": 1}, "last"]
    with client(server) as llm:
        results = list(llm.map(prompts, executor=dask.get_executor(), workers=6))
        spent = llm.ledger.snapshot()
    expected = [*map(str, range(60)), *["same"] * 40, "BadRequestError", "ConfigurationError", "last"]
    assert [text(result) for result in results] == expected
    assert len(server.requests) == 102
    assert spent["usage"] == llmlite.Usage(303, 202)
    assert (spent["calls"], spent["attempts"], spent["failed"]) == (101, 102, 1)


def test_no_more_than_workers(server, dask):
    """`workers` bounds what is under way; ordered=False brings each once."""
    desk = Desk(0.02)
    server.handle(desk)
    with client(server) as llm:
        results = list(llm.map(map(str, range(30)), executor=dask.get_executor(), workers=3, ordered=False))
    assert sorted(nth for nth, _ in results) == list(range(30)) and 2 <= desk.most <= 3


def clients_here():
    from llmlite import client
    return len([one for one in client._Executed.away.values() if one.client is not None])


def test_one_client_a_worker(server, processes):
    """Each worker process makes one client for a map, which its threads share."""
    server.handle(Desk(0.002))
    before = sum(processes.run(clients_here).values())
    with client(server) as llm:
        list(llm.map(map(str, range(60)), executor=processes.get_executor(), workers=8))
    assert sum(processes.run(clients_here).values()) - before in (2, 16 - before)  # they keep eight each at the most
    assert server.connections <= 4


def test_closed_early(server, processes):
    """What has not begun is not sent; what runs ends, and what it spends still comes back."""
    server.handle(Desk(0.5))
    with client(server) as llm:
        results = llm.map(map(str, range(100)), executor=processes.get_executor(), workers=12, ordered=False)
        next(results)  # of the first four; the next four begin
        assert until(lambda: len(server.requests) > 4)
        started = time.monotonic()
        results.close()
        assert time.monotonic() - started < 1
        time.sleep(1.2)
        sent = len(server.requests)
        assert sent <= 8 and llm.ledger.calls == sent and llm.ledger.usage == llmlite.Usage(3 * sent, 2 * sent)
        assert text(next(llm.map(["again"], executor=processes.get_executor()))) == "again"


def test_closed_early_in_this_process(server, threads):
    """Calls of this process are cut."""
    server.handle(Desk(0.5))
    with client(server) as llm:
        results = llm.map(map(str, range(100)), executor=threads.get_executor(), workers=12, ordered=False)
        next(results)
        assert until(lambda: len(server.requests) > 4)
        results.close()
        assert until(lambda: llm.ledger.attempts >= len(server.requests), 0.3)
        time.sleep(0.6)
        assert len(server.requests) <= llm.ledger.attempts <= 8


def test_a_worker_that_dies(server):
    """Its call is an error in its place; the others are answered, by the worker that comes for it."""
    import dask
    desk = Desk()
    server.handle(desk)
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), \
            distributed.LocalCluster(**{**CLUSTER, "n_workers": 1}) as cluster, distributed.Client(cluster) as one:
        desk.kill = lambda: [os.kill(pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
                             for pid in one.run(os.getpid).values()]
        with client(server) as llm:
            results = list(llm.map(["a", "die", "b"], executor=one.get_executor(), workers=1))
            assert [text(result) for result in results] == ["a", "LLMError", "b"]
            assert "the executor gave no reply back: KilledWorker" in str(results[1])
            assert llm.ledger.calls == 2


def test_a_cluster_that_goes_away(server):
    """What was under way is an error in its place; then the map ends, for nobody takes its calls."""
    quick, slow = Desk(), Desk(1)
    server.handle(lambda request: (quick if b'"0"' in request.body else slow)(request))
    results = []
    with distributed.LocalCluster(**CLUSTER) as cluster, distributed.Client(cluster) as going, client(server) as llm:
        answers = llm.map(map(str, range(100)), executor=going.get_executor(), workers=4)
        results.append(next(answers))
        going.close()
        with pytest.raises(RuntimeError, match="Dask client is closed"):
            results.extend(answers)
    assert [text(result) for result in results] == ["0"] + ["LLMError"] * 3


def test_a_prompt_that_does_not_pickle(server, dask):
    """It is an error in its place; the others are answered."""
    server.handle(Desk())
    with client(server) as llm:
        prompts = ["a", {"messages": "b", "extra": {"lock": threading.Lock()}}, "c"]
        results = list(llm.map(prompts, executor=dask.get_executor(pure=False), workers=1))
    assert [text(result) for result in results][::2] == ["a", "c"] and isinstance(results[1], Exception)


def test_the_key_is_not_logged(server, processes):
    """Dask logs what a task that fails was called with."""
    server.handle(Desk())
    with client(server, api_key="sk-0123456789") as llm:
        list(llm.map(["a"], executor=processes.get_executor()))
        from llmlite import client as core
        crew = core._Executed(llm, {}, 1, processes.get_executor())
        assert "sk-0123456789" not in repr(crew.sealed) and b"sk-0123456789" in crew.sealed.pickled
    assert server.requests[0].headers["authorization"] == "Bearer sk-0123456789"


def test_recipe(server, processes):
    """The recipe of the README, word for word, with the addresses of this test."""
    server.handle(Desk())
    with open(os.path.join(ROOT, "README.rst"), encoding="utf-8") as file:
        found = re.search(RECIPE, file.read(), re.M)
    if found is None:
        pytest.skip("the README has no recipe for Dask yet")
    code = textwrap.dedent(found.group(1))
    address = processes.scheduler.address
    assert "tcp://scheduler:8786" in code and '"openai/gpt-5-mini"' in code
    code = code.replace("tcp://scheduler:8786", address)
    code = code.replace('"openai/gpt-5-mini"', f'"m", base_url={server.url!r}')
    shown = []
    exec(code, {"prompts": ["one", "two"], "print": lambda *words: shown.append(" ".join(map(str, words)))})
    assert shown == ["one", "two", "6 input tokens"]


def test_command(server, processes, tmp_path, capfd):
    """`llmlite batch --dask ADDRESS` asks on the cluster's workers."""
    server.handle(Desk())
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"prompt {nth}"}) + "\n" for nth in range(20)))
    words = "batch", str(source), "-o", str(output), "-m", "test", "--base-url", server.url
    assert main([*words, "--dask", processes.scheduler.address]) == 0
    said = capfd.readouterr().err
    assert said.startswith("llmlite: 20 done, 0 failed, 0 skipped; 60 input tokens, 40 output tokens; 0 retries; ")
    answers = {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
               for line in map(json.loads, output.read_text().splitlines())}
    assert answers == {f"line-{nth + 1}": f"prompt {nth}" for nth in range(20)}
    assert server.connections <= 4


def test_command_without_a_scheduler(tmp_path, capfd):
    """One line within some ten seconds; nothing is touched."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "a"}\n')
    started = time.monotonic()
    words = "batch", str(source), "-o", str(output), "-m", "test", "--base-url", "http://127.0.0.1:9/v1"
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        assert main([*words, "--dask", address]) == 1
        said = capfd.readouterr().err
        print(said)
        assert said.count("\n") == 1 and f"llmlite: --dask {address}: no scheduler answers there: " in said
    assert time.monotonic() - started < 15 and not output.exists()
