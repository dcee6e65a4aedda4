"""A batch that is killed with `kill -9` at random moments until it is done, and the start of one of a million lines.

The server is this process; it counts what comes in by the prompt.  Of each kill the moment is drawn by the seed: some
soon after the start, while the files are looked at, the most after some more requests have come in.  At the end each id
must stand in the output once, with its own answer, no line may be torn, and what was sent twice is at most what was
under way at the kills.  Before each start, what the last kill left must be whole lines, but for the last one.

A million lines: until the first request comes in, and the most memory that the process ever had, some thousand answers
later.  Then the same with the first 900,000 answered in an earlier run.

At a provider: see at_provider.py.

`python -m tests.kills [--kills N] [--lines N] [--workers N] [--seed N] [--at-provider NAME [--size N] [--faults]]
[--million]` prints what it finds, and exits 1 if anything is off.
"""
import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter

from llmlite import batch
from tests import testing
from tests.kills import at_provider
from tests.kills.fire import Fire, lines_of, started


def answer_to(prompt):
    return f"the answer to {prompt}"


def command(folder, url, *words):
    return [sys.executable, "-m", "llmlite", "batch", os.path.join(folder, "in.jsonl"), "-o",
            os.path.join(folder, "out.jsonl"), "-m", "test", "--base-url", url, *words]


class Killed:
    """A batch under fire."""

    def __init__(self, folder, lines, workers, seed):
        self.folder, self.lines, self.workers, self.chance = folder, lines, workers, random.Random(seed)
        self.asked, self.kills, self.torn = Counter(), 0, 0
        with open(os.path.join(folder, "in.jsonl"), "w") as file:
            for n in range(lines):
                file.write(json.dumps({"id": f"id-{n}", "prompt": f"prompt {n}"}) + "\n")

    def answer(self, request):
        prompt = request.json["messages"][0]["content"]
        self.asked[prompt] += 1
        return testing.reply(answer_to(prompt), delay=0.03, usage=(1, 1))

    def run(self, kills):
        """So many kills, and then in peace to the end; returns what is wrong."""
        with testing.Server() as server:
            server.handle(self.answer)
            fire = Fire(command(self.folder, server.url, "--workers", str(self.workers)),
                        lambda: len(server.requests), self.chance)
            fire.play(kills, self.left)
        self.kills = fire.kills
        return [*fire.wrong, *self.check()]

    def left(self):
        """How many ids have no line; all lines but the last must be whole."""
        lines = lines_of(self.folder)
        if lines and not lines[-1].endswith(b"\n"):
            self.torn += 1
            lines.pop()
        for line in lines:
            json.loads(line)
        return self.lines - len(lines)

    def check(self):
        found = [json.loads(line) for line in lines_of(self.folder)]
        ids = Counter(line["custom_id"] for line in found)
        if ids != Counter(f"id-{n}" for n in range(self.lines)):
            yield f"{len(ids)} ids in {len(found)} lines, not {self.lines}"
        for line in found:
            text = line["response"]["body"]["choices"][0]["message"]["content"]
            if text != answer_to(line["custom_id"].replace("id-", "prompt ")) or line["error"] is not None:
                yield f"{line['custom_id']} has {text!r}"
        if self.twice() > self.kills * self.workers:
            yield f"{self.twice()} sent twice in {self.kills} kills of {self.workers} workers"
        left = sorted(set(os.listdir(self.folder)) - {"in.jsonl", "out.jsonl"})
        if left:
            yield f"left behind: {left}"

    def twice(self):
        return sum(self.asked.values()) - len(self.asked)


# ----------------------------------------------------------------------------------------------------- a million lines


def prompt_line(n):
    """About 200 bytes."""
    text = f"Which of these is the number {n}? " + "x" * 20
    return json.dumps({"custom_id": f"request-{n}", "method": "POST", "url": "/v1/chat/completions", "body": {
        "model": "test", "messages": [{"role": "user", "content": text}], "max_tokens": 100}}) + "\n"


def most_memory(process):
    """MiB that a process has had at most, where the system tells."""
    with open(f"/proc/{process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def million(folder, lines, done=0, answers=2000):
    """Seconds to the first request, and the memory after so many."""
    with open(os.path.join(folder, "in.jsonl"), "w") as file:
        file.writelines(map(prompt_line, range(lines)))
    with open(os.path.join(folder, "out.jsonl"), "wb") as file:
        body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "test", "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "x" * 100}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
        for n in range(done):
            line = json.dumps({"id": f"batch_req_{n:024x}", "custom_id": f"request-{n}", "response": {
                "status_code": 200, "request_id": None, "body": body}, "error": None}) + "\n"
            file.write(batch._sealed(line))  # as a run does
    size = os.path.getsize(os.path.join(folder, "in.jsonl")) / lines
    with testing.Server() as server:
        server.handle(lambda request: testing.reply("x" * 100, usage=(1, 1)))
        begun = time.monotonic()
        with started(*command(folder, server.url)) as process:
            while not server.requests and process.poll() is None:
                time.sleep(0.002)
            first = time.monotonic() - begun
            while len(server.requests) < answers and process.poll() is None:
                time.sleep(0.01)
            memory = most_memory(process) if os.path.exists("/proc/self/status") else 0.0
            rate = len(server.requests) / (time.monotonic() - begun - first)
            process.kill()
    return size, first, memory, rate


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--lines", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-provider", metavar="NAME", choices=at_provider.PLACES, help="at a provider's Batch API: "
                        f"{', '.join(at_provider.PLACES)}")
    parser.add_argument("--size", type=int, default=20, help="lines of a job there")
    parser.add_argument("--faults", action="store_true", help="which fails now and then too")
    parser.add_argument("--million", action="store_true", help="the start of a million lines instead")
    args = parser.parse_args()
    if args.million:
        return started_with_a_million()
    begun = time.monotonic()
    if args.at_provider:
        kills, steps = at_provider.play(args.at_provider, args.kills, random.Random(args.seed), args.lines, args.size,
                                        args.faults)
        print(f"{args.lines} lines in jobs of {args.size} at {args.at_provider}: {kills} kills in "
              f"{time.monotonic() - begun:.0f} s, after {dict(steps.most_common())}\n"
              "no job twice, no line submitted or paid twice, each id once, with its own answer")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        killed = Killed(folder, args.lines, args.workers, args.seed)
        wrong = killed.run(args.kills)
    print(f"{args.lines} lines, {args.workers} workers: {killed.kills} kills in {time.monotonic() - begun:.0f} s, "
          f"{killed.torn} left a torn line, {killed.twice()} requests sent twice")
    print("\n".join(wrong[:20]) or "each id once, with its own answer")
    return bool(wrong)


def started_with_a_million():
    for done in (0, 900_000):
        with tempfile.TemporaryDirectory() as folder:
            size, first, memory, rate = million(folder, 1_000_000, done)
        print(f"1,000,000 lines of {size:.0f} bytes, {done:,} done: the first request after {first:.2f} s, "
              f"{memory:.0f} MiB at most, {rate:.0f} calls/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
