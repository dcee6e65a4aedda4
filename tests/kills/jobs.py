"""Batches at a scripted provider whose process is killed at random moments, again and again.

    python -m tests.kills.jobs [KILLS [SEED [LINES [LINES OF A JOB]]]]

Each batch is killed some times at random moments, while the provider fails now and then. At the end every request was
submitted once, and has one answer, the right one.
"""
import collections
import json
import os
import random
import subprocess
import sys
import tempfile
import time

from llmlite import Client, RetryPolicy, jobs, testing

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PLACES = {"openai": "/v1", "azure": "/openai/v1", "groq": "/openai/v1", "together": "/v1", "mistral": "/v1",
          "anthropic": "", "gemini": "/v1beta"}
KEY = "sk-a-secret-key"
POLL = jobs.Poll(0.02, 0.05, 0.3)


def child(provider, url, output, lines, size):
    """One run: submits, waits, appends each answer to the output, as a batch of files does."""
    written = set()
    if os.path.exists(output):
        with open(output, encoding="utf-8") as file:
            written = {json.loads(line)["custom_id"] for line in file}
    out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(custom_id, result):
        os.write(out, json.dumps({"custom_id": custom_id, "text": getattr(result, "text", repr(result))}).encode()
                 + b"\n")

    ids = (f"id {number}" for number in range(int(lines)))
    items = ((custom_id, None, {"messages": f"say {custom_id}"}) for custom_id in ids if custom_id not in written)
    retry = RetryPolicy(max_retries=3, backoff=0.01, rate_limit_backoff=0.01)
    with Client("m", provider=provider, base_url=url, api_key=KEY, retry=retry) as llm:
        print("begun", flush=True)
        jobs.run(llm, items, write, state=f"{output}.jobs.json", poll=POLL,
                 limits=jobs.Limits(int(size), 1 << 20, int(size) * 40))
    os.close(out)


def said(body):
    """What a request of any provider says."""
    turn = (body.get("messages") or body.get("contents"))[-1]
    return turn["content"] if "content" in turn else turn["parts"][0]["text"]


def play(provider, kills, chance, lines=60, size=20, faults=True):
    """Kill a batch so often, then let it come to its end; returns how many runs were killed, in how many seconds.

    Raises AssertionError unless every request was submitted once, and answered once.
    """
    began, killed = time.monotonic(), 0
    with testing.Server() as server, tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "out.jsonl")
        batches = server.batches(delay=0.01, listed_after=chance.uniform(0, 0.1), states=["in_progress"] * 6)
        words = [sys.executable, "-m", "tests.kills.jobs", "child", provider, server.root + PLACES[provider], output]
        while True:
            if faults:
                upset(batches, provider, chance, size)
            with subprocess.Popen([*words, str(lines), str(size)], cwd=ROOT, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE) as process:
                assert process.stdout.readline() == b"begun\n", process.stderr.read()
                try:
                    errors = process.communicate(timeout=chance.uniform(0, 0.8) if killed < kills else 30)[1]
                except subprocess.TimeoutExpired:
                    process.kill()
                    killed += 1
                    assert killed <= kills, "it does not come to its end"
                    continue
            assert process.returncode == 0, errors.decode()
            break
        with open(output, encoding="utf-8") as file:
            answers = [json.loads(line) for line in file]
        ours = collections.Counter(said(line.body) for job in batches.jobs for line in job.lines)
        ours = {text: count for text, count in ours.items() if not text.startswith("foreign")}
        assert ours == {f"say id {number}": 1 for number in range(lines)}, ours
        assert len(answers) == lines, len(answers)
        assert {answer["custom_id"]: answer["text"] for answer in answers} == {
            f"id {number}": f"say id {number}" for number in range(lines)}, answers
        for name in os.listdir(folder):
            with open(os.path.join(folder, name), "rb") as file:
                assert KEY.encode() not in file.read(), name
    return killed, time.monotonic() - began


def upset(batches, provider, chance, size):
    """Have the provider fail in one way or another; somebody else uses it too."""
    step = chance.choice(["upload", "create", "create", "create", "poll", "results"])
    reply = chance.choice([testing.raw(testing.RESET), testing.raw(testing.CLOSE), testing.error(500),
                           testing.error(429, retry_after=0.01)])
    after = reply.status != 429 and chance.random() < 0.7  # who refuses a request has not done it
    batches.fault(step, reply, after=after)
    if chance.random() < 0.5:
        api = {"anthropic": testing._ANTHROPIC}.get(provider)
        if api is not None:
            lines = [testing.Line(f"foreign-{n}", {"messages": [{"content": f"foreign {n}"}]}, "/v1/messages")
                     for n in range(size)]
            batches.add(api, {"root": batches._server.root}, lines)


def main(kills=200, seed=None, lines=60, size=20):
    seed = int(seed) if seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}")
    chance, total, runs = random.Random(seed), 0, collections.Counter()
    while total < int(kills):
        for provider in PLACES:
            killed, seconds = play(provider, chance.randint(1, 6), chance, int(lines), int(size))
            total += killed
            runs[provider] += killed
            print(f"{provider}: {killed} kills, {seconds:.1f} s", flush=True)
    print(f"{total} kills, no request submitted twice, each answered once: {dict(runs)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
