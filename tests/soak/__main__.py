"""The chaos soak: many calls over many threads to a server that fails one request in five, chat and stream mixed.

The server, a process of its own, draws a fault for each request by the seed and logs it.  From its log follows, to the
last unit, what the client must have seen and booked; nothing is compared "about":

- An attempt is a request that came in.  The first of a call that is reset before its head on a connection that had
  served a request before is a stale pooled connection to the client: it is replaced beyond what the policy allows.
- Billed is an attempt that got a whole head of status 2xx, unless the answer is an error object, or an event stream
  whose first event is one.  So HTML, broken JSON, empty, cut, torn and silent bodies are billed.
- Tokens count where the answer came whole: the usage stands in the JSON body, or in the event after the finish reason.
  Of all the others nothing was reported.
- Unknown is an attempt that came in and got no head: reset before it, or silent.
- Retries are attempts after a call's first; failed are calls that ended in an error; empty is a billed answer that
  came whole and holds no text.

Each call must end as the last fault it was dealt says, with its own answer: texts hold the question's number.  At the
end no descriptor and no thread may be left, and memory must not have grown.

`python -m tests.soak [--calls N] [--threads N] [--seed N]` prints a summary, and exits 1 if anything is off.
"""
import argparse
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter

from tests import llmlite

from . import server

READ_TIMEOUT = 2.0  # seconds: longer than a busy machine takes for an answer
GROWTH = 8.0  # MiB that memory may grow from a fifth of the calls to the end
NORMAL, RATE = 4, 8  # attempts of each kind until a call is given up
POLICY = llmlite.RetryPolicy(max_retries=NORMAL - 1, backoff=0.002, backoff_max=0.01, rate_limit_max_retries=RATE - 1,
                             rate_limit_backoff=0.002, rate_limit_backoff_max=0.01)
WHOLE = {"good", "dripped", "empty"}
NEVER_BILLED = {"429", "500", "503", "reset before the head", "error in a 200", "silent"}
UNKNOWN = {"reset before the head", "silent"}
ERRORS = {"429": "RateLimitError", "500": "ServerError", "503": "OverloadedError", "HTML": "ResponseError",
          "error in a 200": "ServerError", "silent": "APITimeoutError", "silent in the body": "APITimeoutError",
          "broken JSON": "ResponseError", "reset before the head": "APIConnectionError"}
STREAM_ERRORS = {"reset in the body": "StreamError", "cut body": "TruncatedStreamError", "torn event": "StreamError",
                 "error in the middle": "StreamError"}


def is_stream(number):
    return number % 2 == 1


# ------------------------------------------------------------------------------------------- what the log makes certain


def outcome_of(fault, number):
    """How a call ends whose last fault this is: a text, or an error's class."""
    if fault in WHOLE:
        return "" if fault == "empty" else server.answer(number)
    if is_stream(number) and fault in STREAM_ERRORS:
        return STREAM_ERRORS[fault]
    return ERRORS.get(fault, "APIConnectionError")


def kind_of(fault, number):
    """How a fault is retried: "normal", "rate", or "" for never."""
    if fault in WHOLE or fault in ("HTML", "broken JSON", "torn event", "error in the middle"):
        return ""
    if is_stream(number) and fault in ("reset in the body", "cut body", "silent in the body"):
        return ""
    return "rate" if fault in ("429", "503") else "normal"


def given_up(dealt, number):
    """After how many attempts the call must have ended."""
    met = Counter()
    for at, (fault, reused) in enumerate(dealt, 1):
        kind = "stale" if reused and fault == "reset before the head" and not met["stale"] else kind_of(fault, number)
        met[kind] += 1
        if not kind or met[kind] == {"rate": RATE, "normal": NORMAL}.get(kind):
            return at
    return None


def expected(log):
    """The ledger that the server's log means."""
    attempts = [(int(number), fault) for number, dealt in log.items() for fault, _ in dealt]
    billed = [fault for _, fault in attempts if fault not in NEVER_BILLED]
    tokens = [server.usage(number) for number, fault in attempts if fault in WHOLE]
    return {"attempts": len(attempts), "retries": len(attempts) - len(log), "calls": len(billed),
            "unknown": sum(fault in UNKNOWN for _, fault in attempts), "empty": billed.count("empty"),
            "failed": sum(dealt[-1][0] not in WHOLE for dealt in log.values()),
            "input": sum(read for read, _ in tokens), "output": sum(written for _, written in tokens)}


# ------------------------------------------------------------------------------------------------------------ the calls


def ask(llm, number):
    """A call's outcome: its text, or its error's class; and how many attempts it took."""
    question = f"question {number}"
    try:
        if not is_stream(number):
            reply = llm.chat(question)
            return reply.text, reply.attempts
        with llm.stream(question) as stream:
            text = "".join(stream)
        return text, stream.response.attempts
    except llmlite.LLMError as error:
        return type(error).__name__, error.attempts
    except Exception as error:  # which no call may raise
        return repr(error), 0


def descriptors():
    """How many file descriptors are open, where the system tells."""
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    return len(os.listdir(folder))


def memory():
    """Resident memory in MiB, where the system tells."""
    try:
        with open("/proc/self/status") as file:
            return int(file.read().split("VmRSS:")[1].split()[0]) / 1024
    except OSError:
        return 0.0


def played(llm, calls, threads):
    """Every call's outcome by number, and memory after a fifth of them and at the end."""
    outcomes, numbers, sizes = [None] * calls, iter(range(calls)), {}
    lock = threading.Lock()

    def work():
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            if number == calls // 5:
                sizes["first"] = memory()
            outcomes[number] = ask(llm, number)

    workers = [threading.Thread(target=work, name="soak") for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return outcomes, (sizes["first"], memory())


# ------------------------------------------------------------------------------------------------------------ the check


def wrong_calls(log, outcomes):
    """Yield the calls that did not end as they must."""
    for number, (outcome, attempts) in enumerate(outcomes):
        dealt = log.get(str(number), [])
        faults = [fault for fault, _ in dealt]
        wanted = outcome_of(faults[-1], number) if faults else "an answer"
        if (outcome, attempts) != (wanted, len(faults)) or given_up(dealt, number) != len(faults):
            yield f"call {number}: {outcome!r} after {attempts} attempts, not {wanted!r}, dealt {faults}"


def wrong_sums(ledger, wanted):
    found = {name: ledger.get(name) for name in wanted}
    found.update(input=ledger["usage"].input_tokens, output=ledger["usage"].output_tokens)
    for name, value in wanted.items():
        if found[name] != value:
            yield f"ledger: {name} {found[name]}, by the server's log {value}"
    if set(ledger["by_model"]) != {"soak"} or ledger["by_model"]["soak"] != ledger["usage"]:
        yield "ledger: by_model {}".format(ledger["by_model"])


def started(seed):
    """The server's process, and its port."""
    process = subprocess.Popen([sys.executable, "-m", "tests.soak.server", str(seed)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, universal_newlines=True,
                               cwd=os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    return process, int(process.stdout.readline())


def soak(calls, threads, seed):
    """Run it; returns what is wrong, and the summary's fields."""
    process, port = started(seed)
    with process:
        before = descriptors(), threading.active_count()
        begun = time.monotonic()
        llm = llmlite.Client("soak", base_url=f"http://127.0.0.1:{port}/v1", retry=POLICY,
                             timeout=(10, READ_TIMEOUT), deadline=60)
        outcomes, (first, last) = played(llm, calls, threads)
        seconds = time.monotonic() - begun
        llm.close()
        after = descriptors(), threading.active_count()
        told = json.loads(process.communicate()[0])
    ledger, wanted = llm.ledger.snapshot(), expected(told["log"])
    wrong = [*wrong_calls(told["log"], outcomes), *wrong_sums(ledger, wanted)]
    if any(now > then for now, then in zip(after, before)):  # fewer: somebody else's garbage has gone
        wrong.append("left: {} descriptors, {} threads, {} and {} before".format(*after, *before))
    if last - first > GROWTH:
        wrong.append(f"memory grew from {first:.1f} to {last:.1f} MiB")
    faults = Counter(fault for dealt in told["log"].values() for fault, _ in dealt)
    return wrong, {"seconds": seconds, "requests": told["requests"], "connections": told["connections"],
                   "faults": faults, "ledger": wanted, "memory": (first, last)}


def summary(calls, threads, seed, found):
    yield "{} calls over {} threads, seed {}: {:.1f} s, {} requests on {} connections".format(
        calls, threads, seed, found["seconds"], found["requests"], found["connections"])
    yield "ledger, equal to the server's: " + ", ".join("{} {}".format(*item) for item in found["ledger"].items())
    yield "faults: " + ", ".join("{} {}".format(*item) for item in found["faults"].most_common())
    yield "memory: {:.1f} MiB after a fifth, {:.1f} at the end".format(*found["memory"])


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="The chaos soak.")
    parser.add_argument("--calls", type=int, default=20000)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    logging.getLogger("llmlite").setLevel(logging.ERROR)
    wrong, found = soak(args.calls, args.threads, args.seed)
    print("\n".join(summary(args.calls, args.threads, args.seed, found)))
    print("\n".join([f"WRONG: {len(wrong)}", *wrong[:50]]) if wrong else "all right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
