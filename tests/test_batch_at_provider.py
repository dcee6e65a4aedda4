"""Batches of files through the provider's own Batch API: the same files, lines and exits; nothing is paid for twice."""
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests import VENDORED, llmlite, testing
from tests.beside import within
from tests.cli import command, environment, one_line
from tests.test_batch import POSIX, Place

if VENDORED:
    pytest.skip("batches are no part of client.py", allow_module_level=True)

from llmlite import batch, jobs  # noqa: E402
from llmlite.__main__ import main  # noqa: E402
from tests.kills import at_provider as kills  # noqa: E402

POLL = jobs.Poll(0.01, 0.02, 0.05)
SLOW = jobs.Poll(60, 60, 60)


class There(Place):
    """An input, an output, and a provider with a Batch API."""

    def run(self, **options):
        return super().run(**{"at_provider": True, "poll": POLL, **options})

    @property
    def state(self):
        return self.output + ".jobs.json"

    @property
    def jobs(self):
        with open(self.state, encoding="utf-8") as file:
            return json.load(file)["jobs"]

    @property
    def created(self):
        return [request for request in self.server.requests if request.path.endswith("/batches") and request.body]

    def stopped(self, **options):
        """A run that is left while its job is under way."""
        assert self.batches(states=["in_progress"] * 3)

        def leave(done, failed, usage):
            if self.batch.jobs:
                raise RuntimeError("enough")

        with pytest.raises(RuntimeError):
            self.run(progress=leave, **options)

    def batches(self, **script):
        self.batch = self.server.batches(**{"states": ["in_progress"], **script})
        return self.batch


@pytest.fixture
def there(tmp_path, server):
    there = There(tmp_path, server)
    yield there
    there.llm.close()
    assert not [name for name in os.listdir(tmp_path) if name.endswith((".tmp", ".lock", ".part"))]


# what is done there


def test_prompts_become_answers(there):
    """The same lines as here; the summary counts what the ledger does; the jobs' files stay."""
    batches = there.batches()
    there.write(*({"id": f"id-{n}", "prompt": f"prompt {n}", "model": f"m{n % 2}"} for n in range(5)), {"prompt": "x"})
    summary = there.run(workers=3, seed=5)
    assert summary[:6] == (6, 6, 0, 0, llmlite.Usage(18, 24), 0) and summary.stopped is None
    assert there.texts == {**{f"id-{n}": f"prompt {n}"[::-1] for n in range(5)}, "line-6": "x"}
    assert {line["response"]["body"]["object"] for line in there.lines} == {"chat.completion"}
    assert [len(job.lines) for job in batches.jobs] == [3, 2, 1] and set(batches.submitted.values()) == {1}
    assert batches.jobs[0].lines[0].body["seed"] == 5
    assert [job["fetched"] for job in there.jobs] == [True] * 3 and os.path.exists(there.output + ".jobs.ids")
    before = len(there.server.requests)
    assert there.run()[:4] == (6, 0, 0, 6)
    assert len(there.server.requests) == before


def test_failed_lines_and_no_others_are_retried(there):
    """With `retry_failed`, in a job of their own; without it they stay failed; here or there."""
    batches = there.batches()
    there.write({"id": "a", "prompt": "fail 1"}, {"id": "b", "prompt": "b"}, {"id": "c", "prompt": "fail 2"})
    assert there.run()[:4] == (3, 1, 2, 0)
    failed = [line for line in there.lines if line["error"]]
    assert [line["error"]["code"] for line in failed] == ["BadRequestError"] * 2
    assert failed[0]["response"]["status_code"] == 400 and "no: fail" in failed[0]["error"]["message"]
    assert there.run()[:4] == (3, 0, 2, 1) and len(batches.jobs) == 1
    assert there.run(retry_failed=True)[:4] == (3, 0, 2, 1)
    assert [line.custom_id for line in batches.jobs[1].lines] == ["a", "c"]
    there.server.handle(lambda request: testing.reply("now"))
    assert there.run(retry_failed=True, at_provider=False)[:4] == (3, 2, 0, 1)
    assert len(there.lines) == 3


def test_expired_lines_are_failed_lines(there):
    """What the provider did not come to within its day."""
    there.batches(end="expired", left=lambda line: line.custom_id != "id-0")
    there.prompts(3)
    assert there.run()[:4] == (3, 1, 2, 0)
    codes = {line["custom_id"]: line["error"] and line["error"]["code"] for line in there.lines}
    assert codes == {"id-0": None, "id-1": "APIError", "id-2": "APIError"}
    there.batch.end = "completed"
    assert there.run(retry_failed=True)[:4] == (3, 2, 0, 1)
    assert there.batch.submitted == {"id-0": 1, "id-1": 2, "id-2": 2}


def test_a_report(there, tmp_path):
    """It tells of every line."""
    there.batches()
    there.write({"id": "good-1", "prompt": "a"}, {"id": "bad-1", "prompt": "fail"})
    there.run(report=tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "good-1" in text and "bad-1" in text and "BadRequestError" in text


def test_progress(there, capfd):
    """A callable hears of each look, what the provider says; True shows it on stderr."""
    heard = []
    there.batches()
    there.prompts(3)
    there.run(progress=lambda *told: heard.append(told))
    assert heard[0] == (0, 0, llmlite.Usage()) and heard[-1] == (3, 0, llmlite.Usage(9, 12))
    assert capfd.readouterr().err == ""
    there.prompts(5)
    there.run(progress=True)
    shown = capfd.readouterr().err
    assert shown.startswith("\r0/2 done, 0 failed, 1/2 jobs ended\r")
    assert shown.endswith("\r2/2 done, 0 failed, 2/2 jobs ended\n")


def test_lines_are_on_disk_before_their_job_counts_as_fetched(there, monkeypatch):
    """Else a power cut would lose what nobody fetches again."""
    there.batches()
    there.prompts(3)
    fsync, seen = os.fsync, []

    def watched(fd):
        fsync(fd)
        if os.path.exists(there.output) and os.path.samestat(os.fstat(fd), os.stat(there.output)):
            with open(there.state) as file:
                seen.append((os.fstat(fd).st_size, '"fetched": true' in file.read()))

    monkeypatch.setattr(os, "fsync", watched)
    there.run()
    assert (len(there.bytes), False) in seen


# what is refused


@pytest.mark.parametrize("options, complaint", [
    ({"max_total_tokens": 9}, "max_total_tokens has no meaning at the provider"),
    ({"executor": object()}, "executor has no meaning at the provider"),
    ({"deadline": 5}, "deadline has no meaning at the provider"),
    ({"timeout": 5}, "timeout has no meaning at the provider"),
    ({"headers": {"X-Tag": "1"}}, "headers has no meaning at the provider"),
    ({"cache": "refresh"}, "cache has no meaning at the provider"),
])
def test_options_that_have_no_meaning_there(there, options, complaint):
    """They are an error before anything is touched."""
    there.prompts(2)
    assert complaint in str(there.refused(**options))
    assert os.listdir(os.path.dirname(there.output)) == ["in.jsonl"]


@pytest.mark.parametrize("name", ["timeout", "deadline", "headers"])
def test_lines_that_have_no_meaning_there(there, name):
    """An error that names file and line, as for any wrong line."""
    there.write({"prompt": "a"}, {"prompt": "a", name: {"X-Tag": "1"} if name == "headers" else 5})
    error = there.refused()
    assert isinstance(error, batch.InputError)
    assert str(error).startswith(f'{there.source}, line 2: "{name}" has no meaning at the provider')
    there.write({"prompt": "a", "temperature": 0})
    there.batches()
    assert there.run(top_p=None).done == 1


@pytest.mark.parametrize("output", ["-", "/dev/null"])
def test_an_output_that_is_no_file(there, output):
    """There is nothing to keep the jobs by."""
    there.prompts(1)
    there.output = output
    name = "stdout" if output == "-" else output
    assert f"{name} cannot be the output of a run at the provider" in str(there.refused())


def test_a_provider_that_cannot_do_it(there):
    """Nothing is touched, not even failed lines that were to be asked again."""
    there.write({"prompt": "fail"})
    assert there.run(at_provider=False).failed == 1
    before = there.bytes
    with llmlite.Client("m", provider="perplexity", api_key="x") as other:
        assert "perplexity has no Batch API" in str(there.refused(client=other, retry_failed=True))
    with open(there.state, "w") as file:
        file.write("{")
    assert "jobs.json cannot be read" in str(there.refused(retry_failed=True))
    assert "jobs.json cannot be read" in str(there.refused(retry_failed=True, at_provider=False))
    assert there.bytes == before


def test_what_is_in_a_job_under_way_is_not_asked_here(there):
    """It would be paid for twice."""
    there.prompts(3)
    there.stopped()
    error = there.refused(at_provider=False)
    assert str(error).startswith(f"{there.state} tells of 1 job(s) at the provider whose results are not here")
    assert there.run()[:4] == (3, 3, 0, 0)
    there.prompts(4)
    assert there.run(at_provider=False)[:4] == (4, 1, 0, 3)
    assert set(there.batch.submitted.values()) == {1}


def test_an_input_that_has_changed_meanwhile(there):
    """A request that is under way is not given another one's answer."""
    there.prompts(2)
    there.stopped()
    there.write({"id": "id-0", "prompt": "another"}, {"id": "id-1", "prompt": "prompt 1"})
    assert "the request 'id-0' is not the one that was submitted" in str(caught(there.run))
    assert len(there.created) == 1


def caught(act):
    with pytest.raises(llmlite.LLMError) as found:
        act()
    return found.value


def test_a_provider_that_refuses(there):
    """The error is raised; the next run begins anew."""
    there.batches().fault("create", testing.error(401, "who are you?"))
    there.prompts(2)
    assert isinstance(caught(there.run), llmlite.AuthenticationError)
    assert there.bytes == b"" and there.run().done == 2
    assert set(there.batch.submitted.values()) == {1}


@POSIX
@pytest.mark.parametrize("limit", [10, 700])
def test_no_room(there, limit):
    """For the jobs' files, or for the answers: an OSError that names a file; the next run goes on."""
    import resource
    there.batches()
    there.prompts(3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError) as error:
            there.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.filename == (there.state if limit == 10 else there.output) and error.value.strerror
    assert there.run().failed == 0
    assert len(there.texts) == len(there.lines) == 3 and set(there.batch.submitted.values()) == {1}


# stopped


@POSIX
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_waiting(there, run, number, code):
    """At once; the jobs go on, and the same command too."""
    batches = there.batches(states=["in_progress"] * 2)
    there.prompts(3)
    words = [there.source, "-o", there.output, "-m", "test", "--base-url", there.server.url, "--at-provider"]
    with subprocess.Popen(command("batch", *words), stderr=subprocess.PIPE, env=environment()) as process:
        assert there.server.wait_for(3, 20)
        time.sleep(0.1)
        process.send_signal(number)
        sent = time.monotonic()
        assert process.wait(20) == code and within(0, sent, 2)
        err = process.stderr.read().decode()
    assert err.startswith("llmlite: interrupted: 3 left; the jobs go on at the provider; the same command goes on with "
                          "them\nllmlite: 0 done, 0 failed, 0 skipped; ")
    batches.jobs[0].states = []
    code, _, err = run("--at-provider")
    assert code == 0 and one_line(err) and err.startswith("llmlite: 3 done, 0 failed, 0 skipped; 9 input")
    assert set(batches.submitted.values()) == {1} and set(batches.paid.values()) == {1}


@POSIX
def test_a_second_signal_ends_it_at_once(there):
    """Also while the provider does not answer."""
    there.batches().fault("poll", testing.reply("x", delay=20))
    there.prompts(2)

    def kill():
        there.server.wait_for(3)
        for number in (signal.SIGINT, signal.SIGTERM):  # two of one number may be one, if the first is not heard yet
            time.sleep(0.1)
            os.kill(os.getpid(), number)

    killer = threading.Thread(target=kill)
    killer.start()
    started = time.monotonic()
    summary = there.run()
    killer.join()
    assert within(0, started, 5)
    assert summary[:2] == (2, 0) and summary.stopped == "interrupted"
    assert there.run().done == 2 and len(there.created) == 1


@POSIX
@pytest.mark.parametrize("signals", [1, 2])
def test_signals_while_a_line_is_written(there, signals):
    """The line is written whole; then it ends."""
    there.batches()
    there.prompts(9)

    class Slow(batch.Output):
        def write(self, custom_id, result):
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGINT)
            super().write(custom_id, result)

    with batch.Stop() as stop, batch.opened(there.source, there.output, there.llm, {}) as (items, lines):
        lines.__class__ = Slow
        counts = batch._Counts(items, lines, batch._Page())
        batch._ask_provider(stop, counts, there.llm, {}, batch._Spent(there.llm, None), None, POLL)
        os.kill(os.getpid(), signal.SIGINT)  # which ends nothing that is over
    assert counts.done == 1 and len(there.lines) == 1 and stop.why == "interrupted"
    assert there.run()[:4] == (9, 8, 0, 1) and len(there.created) == 1


# cancelled


def test_cancel(there):
    """The jobs are ended, by the provider; the next run has what was done, the rest are failed lines."""
    there.prompts(3)
    there.stopped()
    there.batch.left = lambda line: line.custom_id != "id-0"
    id, = (job["id"] for job in there.jobs)
    assert batch.cancel(there.output, client=there.llm) == [f"{id}: cancelled"]
    assert there.run()[:4] == (3, 1, 2, 0)
    assert batch.cancel(there.output, client=there.llm) == []
    assert there.run(retry_failed=True).skipped == 1


def test_cancel_without_jobs(there):
    """An error that names the file."""
    assert f"{there.state} is not there" in str(caught(lambda: batch.cancel(there.output, client=there.llm)))


# the command


@pytest.fixture
def run(monkeypatch, capfd, there):
    """`llmlite batch` in this process."""
    def run(*words):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(os.fdopen(os.dup(1), "wb")))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(os.fdopen(os.dup(2), "wb"), line_buffering=True))
        code = main(["batch", there.source, "-o", there.output, *words, "-m", "test", "--base-url", there.server.url])
        sys.stdout.close()
        sys.stderr.close()
        return (code, *capfd.readouterr())
    return run


def test_the_command(run, there):
    """Exits as ever: 0, and 1 while there are failed lines."""
    there.batches(states=[])
    there.write({"prompt": "fail"}, {"prompt": "b"})
    code, out, err = run("--at-provider", "-o", "temperature=0", "--workers", "4")
    assert (code, out) == (1, "") and one_line(err) and "1 done, 1 failed, 0 skipped" in err and "--retry-failed" in err
    assert there.batch.jobs[0].lines[0].body["temperature"] == 0
    there.server.handle(lambda request: testing.reply("now"))
    assert run("--at-provider", "--retry-failed")[0] == 0
    assert [len(job.lines) for job in there.batch.jobs] == [2, 1]


@pytest.mark.parametrize("word, value", [
    ("--rpm", "60"), ("--tpm", "60"), ("--max-total-tokens", "60"), ("--deadline", "60"), ("--cache", "x")])
def test_a_wrong_usage(run, there, word, value):
    """One line, exit 2."""
    there.prompts(1)
    code, _, err = run("--at-provider", word, value)
    assert code == 2 and one_line(err) and f"{word} has no meaning with --at-provider" in err
    assert not there.server.requests


def test_a_wrong_line_and_a_wrong_output(run, there):
    """Exit 2 and 1, one line."""
    there.write({"prompt": "a", "timeout": 5})
    code, _, err = run("--at-provider")
    assert code == 2 and one_line(err) and f'{there.source}, line 1: "timeout" has no meaning' in err
    there.output = "-"
    code, _, err = run("--at-provider")
    assert code == 1 and one_line(err) and "stdout cannot be the output" in err


@POSIX
def test_cancelled_while_a_run_waits(run, there):
    """It says what became of each job, exit 0; the run then ends by itself, with failed lines."""
    batches = there.batches(states=["in_progress"] * 99)
    there.prompts(2)
    assert run("--cancel")[0] == 1 and not there.server.requests
    ended = []
    waiting = threading.Thread(target=lambda: ended.append(there.run()))
    waiting.start()
    assert there.server.wait_for(4, 20)
    code, out, err = run("--cancel")
    assert (code, out, err) == (0, f"{batches.jobs[0].id}: cancelled\n", "")
    waiting.join(20)
    assert ended[0][:4] == (2, 0, 2, 0)
    assert {line["error"]["code"] for line in there.lines} == {"APIError"}
    assert run("--cancel") == (0, "", "llmlite: no job is under way: all were fetched\n")


def test_a_cache(run, there, tmp_path, monkeypatch):
    """--cache and LLMLITE_CACHE are heeded here, and the answers given again at once."""
    there.prompts(3)
    assert run("--cache", str(tmp_path / "answers"))[0] == 0
    os.remove(there.output)
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path / "answers"))
    code, _, err = run()
    assert code == 0 and "3 done, 0 failed, 0 skipped; 0 input tokens" in err
    assert len(there.server.requests) == len(there.lines) == 3
    os.remove(there.output)
    there.batches(states=[])
    assert run("--at-provider")[0] == 0 and len(there.created) == 1


@POSIX
def test_the_word_about_ctrl_c_on_a_terminal(there):
    """It says what is waited for."""
    import pty
    there.batches(states=["in_progress"] * 9)
    there.prompts(2)
    ours, theirs = pty.openpty()
    words = command("batch", there.source, "-o", there.output, "-m", "test", "--base-url", there.server.url,
                    "--at-provider")
    with subprocess.Popen(words, stderr=theirs, env=environment()) as process:
        os.close(theirs)
        assert there.server.wait_for(3, 20)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    text = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "\r0/2 done, 0 failed, 0/1 jobs ended" in text
    assert "stopping when this request is answered; again: at once" in text


# killed


@POSIX
@pytest.mark.parametrize("number", [1, 2, 3, 4], ids=["upload", "creation", "look", "results"])
def test_killed_while_a_request_is_under_way(there, run, number):
    """The same command goes on: nothing is submitted twice, whatever the provider had not said yet."""
    batches = there.batches(states=[], delay=0.4)
    there.prompts(5)
    words = ["batch", there.source, "-o", there.output, "-m", "test", "--base-url", there.server.url, "--at-provider"]
    with subprocess.Popen(command(*words), env=environment()) as process:
        assert there.server.wait_for(number, 20)
        time.sleep(0.1)
        process.kill()
    batches.delay = 0.0
    code, _, err = run("--at-provider")
    assert code == 0 and "5 done, 0 failed, 0 skipped" in err
    assert batches.submitted == batches.paid == {f"id-{n}": 1 for n in range(5)}
    assert len(there.texts) == len(there.lines) == 5


@POSIX
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_killed_at_random(provider):
    """The same, at any moment, with several jobs."""
    assert kills.play(provider, 4, random.Random(provider))[0] <= 4
