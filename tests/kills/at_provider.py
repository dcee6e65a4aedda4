"""A batch of files at a scripted provider, in many jobs, that is killed with `kill -9` at random moments.

The moments are spread over all of it: reading the input, uploads, creations, looks and downloads.  At the end every
request was submitted once and paid for once, no job was created twice, and each id stands in the output once, with its
own answer.  The provider may fail now and then too, and somebody else may use it.
"""
import collections
import json
import os
import re
import sys
import tempfile

from llmlite import Client, RetryPolicy, batch, jobs, testing
from tests.kills.fire import Fire, lines_of

PLACES = {"openai": "/v1", "azure": "/openai/v1", "groq": "/openai/v1", "together": "/v1", "mistral": "/v1",
          "anthropic": "", "gemini": "/v1beta"}
KEY = "sk-a-secret-key"
STATES = ["in_progress"] * 6


def child(provider, url, folder, size):
    """One run."""
    jobs._APIS[provider].limits = jobs.Limits(int(size), 1 << 20, int(size) * 40)  # the provider's own are too large
    retry = RetryPolicy(max_retries=3, backoff=0.01, rate_limit_backoff=0.01)
    with Client("m", provider=provider, base_url=url, api_key=KEY, retry=retry) as llm:
        summary = batch.run(os.path.join(folder, "in.jsonl"), os.path.join(folder, "out.jsonl"), client=llm,
                            at_provider=True, poll=jobs.Poll(0.02, 0.05, 0.3))
    assert summary.failed == 0 and summary.done + summary.skipped == summary.total, summary


def said(body):
    """What a request of any provider says."""
    turn = (body.get("messages") or body.get("contents"))[-1]
    return turn["content"] if "content" in turn else turn["parts"][0]["text"]


class There:
    """The batch, and the provider that has it."""

    def __init__(self, server, provider, folder, chance, lines, size):
        self.server, self.provider, self.folder, self.chance = server, provider, folder, chance
        self.lines, self.size, self.most = lines, size, -(-lines // size)
        self.batches = server.batches(delay=0.01, states=STATES)
        self.looked, self.count, self.last = 0, 0, "nothing"  # of the requests
        self.steps = collections.Counter()  # what was asked last before a kill
        with open(os.path.join(folder, "in.jsonl"), "w", encoding="utf-8") as file:
            for n in range(lines):
                file.write(json.dumps({"id": f"id {n}", "prompt": f"say id {n}"}) + "\n")

    @property
    def jobs(self):
        return [job for job in self.batches.jobs if not said(job.lines[0].body).startswith("foreign")]

    def left(self):
        """How many requests it takes still, about."""
        made = self.jobs
        fetched = len(lines_of(self.folder)) // self.size
        return (self.most - len(made)) * (len(STATES) + 4) + sum(len(job.states) + 1 for job in made if not job.ended
                                                                  ) + len(made) - fetched

    def seen(self):
        """How many requests have come in that bring the batch on: not the looks at lists."""
        for request in self.server.requests[self.looked:]:
            path = f"{request.method} {request.path.partition('?')[0]}"
            self.last = next(step for pattern, step, _ in testing._BATCH_ROUTES if re.search(pattern, path))
            self.looked += 1
            self.count += self.last != "list"
        return self.count

    def before(self):
        self.batches.listed_after = self.chance.uniform(0, 0.1)
        self.seen()
        self.last = "nothing"

    def after(self):
        """Note what the run that was killed had asked for last."""
        self.seen()
        self.steps[self.last] += 1

    def upset(self):
        """Have the provider fail in one way or another; somebody else uses it too."""
        step = self.chance.choice(["upload", "create", "create", "create", "poll", "results"])
        reply = self.chance.choice([testing.raw(testing.RESET), testing.raw(testing.CLOSE), testing.error(500),
                                    testing.error(429, retry_after=0.01)])
        after = reply.status != 429 and self.chance.random() < 0.7  # who refuses a request has not done it
        self.batches.fault(step, reply, after=after)
        if self.chance.random() < 0.5 and self.provider == "anthropic":
            lines = [testing.Line(f"foreign-{n}", {"messages": [{"content": f"foreign {n}"}]}, "/v1/messages")
                     for n in range(self.size)]
            self.batches.add(testing._ANTHROPIC, {"root": self.server.root}, lines)

    def check(self):
        """What must be so at the end."""
        sent = collections.Counter(said(line.body) for job in self.jobs for line in job.lines)
        assert sent == {f"say id {n}": 1 for n in range(self.lines)}, sent
        ours = {line.custom_id for job in self.jobs for line in job.lines}
        paid = {custom_id: self.batches.paid[custom_id] for custom_id in ours}
        assert paid == dict.fromkeys(ours, 1) and len(self.jobs) == self.most, (paid, self.jobs)
        answers = [json.loads(line) for line in lines_of(self.folder)]
        assert collections.Counter(answer["custom_id"] for answer in answers) == {
            f"id {n}": 1 for n in range(self.lines)}, len(answers)
        for answer in answers:
            text = answer["response"]["body"]["choices"][0]["message"]["content"]
            assert text == f"say {answer['custom_id']}" and answer["error"] is None, answer
        names = sorted(os.listdir(self.folder))
        assert names == ["in.jsonl", "out.jsonl", "out.jsonl.jobs.ids", "out.jsonl.jobs.json"], names
        for name in names:
            with open(os.path.join(self.folder, name), "rb") as file:
                assert KEY.encode() not in file.read(), name


def play(provider, kills, chance, lines=60, size=20, faults=False):
    """Kill a batch so many times, then let it come to its end; returns how often it was killed, after which steps.

    Raises AssertionError unless every request was submitted once, and its answer stands in the output once.
    """
    with testing.Server() as server, tempfile.TemporaryDirectory() as folder:
        there = There(server, provider, folder, chance, lines, size)

        def before():
            there.before()
            if faults:
                there.upset()

        fire = Fire([sys.executable, "-m", "tests.kills.at_provider", provider, server.root + PLACES[provider], folder,
                     str(size)], there.seen, chance)
        fire.play(kills, there.left, before, there.after)
        assert not fire.wrong, fire.wrong
        there.check()
    return fire.kills, there.steps


if __name__ == "__main__":
    child(*sys.argv[1:])
