"""Batches of files at a scripted provider, killed with `kill -9` at random moments, again and again.

    python -m tests.kills.at_provider [KILLS [SEED [LINES]]]

Each batch is killed some times, and then comes to its end.  At the end every request was submitted once and paid for
once, and each id stands in the output once, with its own answer.
"""
import collections
import json
import os
import random
import subprocess
import sys
import tempfile
import time

from llmlite import Client, RetryPolicy, batch, jobs, testing
from tests.kills.jobs import KEY, PLACES, ROOT, said

POLL = jobs.Poll(0.02, 0.05, 0.3)


def child(provider, url, folder):
    """One run."""
    retry = RetryPolicy(max_retries=3, backoff=0.01, rate_limit_backoff=0.01)
    with Client("m", provider=provider, base_url=url, api_key=KEY, retry=retry) as llm:
        print("begun", flush=True)
        summary = batch.run(os.path.join(folder, "in.jsonl"), os.path.join(folder, "out.jsonl"), client=llm,
                            at_provider=True, poll=POLL)
    assert summary.failed == 0 and summary.done + summary.skipped == summary.total, summary


def killed(words, seconds):
    """Whether a run had to be killed after so many seconds.  Raises AssertionError if it fails by itself."""
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n", process.stderr.read()
        try:
            errors = process.communicate(timeout=seconds)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return True
    assert process.returncode == 0, errors.decode()
    return False


def play(provider, kills, chance, lines=60):
    """Kill a batch up to so many times, then let it come to its end; returns how often it was killed.

    Raises AssertionError unless every request was submitted once, and its answer stands in the output once.
    """
    count = 0
    with testing.Server() as server, tempfile.TemporaryDirectory() as folder:
        batches = server.batches(delay=0.01, listed_after=chance.uniform(0, 0.1), states=["in_progress"] * 6)
        with open(os.path.join(folder, "in.jsonl"), "w", encoding="utf-8") as file:
            for n in range(lines):  # a job for each model
                file.write(json.dumps({"id": f"id {n}", "prompt": f"say id {n}", "model": f"m{n % 3}"}) + "\n")
        words = [sys.executable, "-m", "tests.kills.at_provider", "child", provider, server.root + PLACES[provider],
                 folder]
        while killed(words, chance.uniform(0, 0.8) if count < kills else 30):
            count += 1
            assert count <= kills, "it does not come to its end"
        check(batches, folder, lines)
    return count


def check(batches, folder, lines):
    """What must be so at the end."""
    sent = collections.Counter(said(line.body) for job in batches.jobs for line in job.lines)
    assert sent == {f"say id {n}": 1 for n in range(lines)}, sent
    assert set(batches.paid.values()) == {1} and len(batches.jobs) == 3, batches.paid
    with open(os.path.join(folder, "out.jsonl"), encoding="utf-8") as file:
        answers = [json.loads(line) for line in file]
    assert len(answers) == lines, len(answers)
    for answer in answers:
        text = answer["response"]["body"]["choices"][0]["message"]["content"]
        assert text == f"say {answer['custom_id']}" and answer["error"] is None, answer
    names = sorted(os.listdir(folder))
    assert names == ["in.jsonl", "out.jsonl", "out.jsonl.jobs.ids", "out.jsonl.jobs.json"], names


def main(kills=200, seed=None, lines=60):
    seed = int(seed) if seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}")
    chance, total, begun = random.Random(seed), 0, time.monotonic()
    while total < int(kills):
        for provider in PLACES:
            total += play(provider, chance.randint(1, 6), chance, int(lines))
    print(f"{total} kills in {time.monotonic() - begun:.0f} s, no request submitted twice, each answered once")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
