"""Fuzzes the reading of answers: `python -m tests.fuzz [--seconds N] [--seed N] [--save FOLDER]`.

With atheris installed (it is no requirement) coverage guides the search; without it, or with --plain, answers of the
corpus are changed at random.  A finding is any exception that is no LLMError, and any read that takes over two seconds:
its bytes are written to a file of FOLDER, its traceback is printed, and the program exits 1.

An input's first byte chooses the target and the second how its bytes are cut into packets.  The targets: the decoder of
events alone; a stream and a body in each dialect; an answer's whole HTTP, head and framing, from a pair of sockets.
"""
import argparse
import hashlib
import logging
import os
import random
import socket
import sys
import tempfile
import time
import traceback
import types

try:
    import atheris
except ImportError:
    atheris = None

from tests import fuzz, llmlite

client = sys.modules[llmlite.Client.__module__]

SLOW = 2.0  # seconds for one input of some kilobytes
HEADS = (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
         b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nX: a\r\n b\r\n\r\n",
         b"HTTP/1.0 200 OK\r\nContent-Length: 40\r\n\r\n")


def target_events(pieces):
    """The decoder gives the same events however the bytes are cut."""
    found = list(client._EventDecoder().decode(pieces))
    whole = list(client._EventDecoder().decode([b"".join(pieces)]))
    assert found == whole, "the packets change the events"


def target_http(pieces):
    """Head, framing and encoding of an answer, up to its last byte."""
    here, there = socket.socketpair()
    with here, there:
        there.settimeout(5)
        there.sendall(b"".join(pieces)[:60000])
        there.shutdown(socket.SHUT_WR)
        call = client._Call(client._PROVIDERS["openai"], "", "m", client._OpenAI())
        call.read, call.deadline = 5.0, client._Deadline(client._now() + 5.0, 5.0)
        attempt = client._Attempt(call)
        attempt.wire = client._Wire(here, attempt)
        answer = client._HTTPResponse(attempt.wire, method="POST")
        token = client._CURRENT.set(attempt)
        try:
            answer.begin()
            body = client._Body(answer.fp, *client._framing(answer.headers, answer.status, "POST"))
            pieces = iter(body.read, b"")
            for _ in client._inflated(pieces, answer.headers.get("content-encoding", "identity")):
                pass
        except client._WIRE_ERRORS:
            pass
        finally:
            client._CURRENT.reset(token)
            answer.close()


def targets():
    """What an input's first byte chooses from."""
    reader = fuzz.Reader()

    def reads(dialect, kind):
        return lambda pieces: fuzz.check(dialect, reader.read(dialect, kind, *pieces))

    reading = {f"{dialect} {kind}": reads(dialect, kind) for dialect in fuzz.PROVIDERS for kind in fuzz.KINDS}
    return {"events": target_events, "http": target_http, **reading}


def inputs(names):
    """The corpus as inputs: (target, bytes)."""
    answers = [*fuzz.seeds("sse"), *fuzz.seeds("json")]
    found = [(f"{seed.dialect} {seed.kind}", seed.data) for seed in answers]
    found += [("events", seed.data) for seed in answers if seed.kind == "sse"]
    found += [("http", head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(seed.data), seed.data))
              for head in HEADS for seed in answers[:4]]
    return [(names.index(name), data) for name, data in found]


class Formatting(logging.Handler):
    """Writes nothing, and fails where a record cannot be written."""

    def emit(self, record):
        record.getMessage()


class Runner:
    """Runs inputs, counts them, and keeps what they find."""

    def __init__(self, folder):
        self.targets = targets()
        self.names, self.folder = list(self.targets), folder
        self.count, self.found = 0, {}

    def run(self, data):
        """One input; a finding of the same place is told once."""
        self.count += 1
        if len(data) < 2:
            return
        name, started = self.names[data[0] % len(self.names)], time.monotonic()
        try:
            self.targets[name](fuzz.packets(data[2:], data[1]))
            took = time.monotonic() - started
            if took > SLOW:
                self.tell(name, data, f"took {took:.1f} s\n", "slow")
        except llmlite.LLMError:
            pass
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            self.tell(name, data, traceback.format_exc(), f"{type(error).__name__} {place.name} {place.lineno}")

    def tell(self, name, data, story, place):
        """Print a finding and keep its bytes."""
        if (name, place) in self.found:
            return
        path = os.path.join(self.folder, f"{name.replace(' ', '-')}-{hashlib.sha256(data).hexdigest()[:12]}")
        self.found[name, place] = path
        with open(path, "wb") as file:
            file.write(data)
        print(f"FOUND: {name}: {path}\n{story}{data[2:400]!r}", flush=True)


def plain(runner, seconds, seed):
    """Random changes of the corpus."""
    drawn = random.Random(seed)
    corpus = inputs(runner.names)
    others = [data for _, data in corpus]
    end = time.monotonic() + seconds
    for target, data in corpus:
        runner.run(bytes((target, 0)) + data)
    while time.monotonic() < end:
        target, data = drawn.choice(corpus)
        runner.run(bytes((target, drawn.randrange(256))) + fuzz.mutated(data, drawn, others))


def instrument(module):
    """Have atheris see which lines of a module run; it is imported long since, so function by function."""
    for thing in list(vars(module).values()):
        for item in list(vars(thing).values()) if isinstance(thing, type) else [thing]:
            function = getattr(item, "__func__", getattr(item, "fget", item))
            if isinstance(function, types.FunctionType) and function.__module__ == module.__name__:
                atheris.instrument_func(function)


def guided(runner, seconds, seed):
    """Changes that reach new code are built on; libFuzzer ends the process itself."""
    instrument(client)
    place = tempfile.mkdtemp(prefix="fuzz")
    for at, (target, data) in enumerate(inputs(runner.names)):
        with open(os.path.join(place, str(at)), "wb") as file:
            file.write(bytes((target, at)) + data)

    def one(data):
        runner.run(data)
        if time.monotonic() > end:
            os._exit(report(runner))

    atheris.Setup([sys.argv[0], place, f"-seed={seed}", "-max_len=8192", "-verbosity=0"], one)
    end = time.monotonic() + seconds
    atheris.Fuzz()


def report(runner):
    """The last line, and the exit code."""
    print(f"{runner.count} inputs, {len(runner.found)} findings", flush=True)
    return 1 if runner.found else 0


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30, help="default 30")
    parser.add_argument("--seed", type=int, default=1, help="of the random choices; default 1")
    parser.add_argument("--save", metavar="FOLDER", help="where findings go; default: a new one, which is told")
    parser.add_argument("--plain", action="store_true", help="no atheris, also where it is installed")
    asked = parser.parse_args()
    folder = asked.save or tempfile.mkdtemp(prefix="findings")
    os.makedirs(folder, exist_ok=True)
    logger = logging.getLogger("llmlite")  # what it formats comes from answers too
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Formatting())
    logger.propagate = False
    runner = Runner(folder)
    if atheris is None:
        print("atheris is not installed: changing the corpus at random")
    if atheris is None or asked.plain:
        plain(runner, asked.seconds, asked.seed)
        return report(runner)
    return guided(runner, asked.seconds, asked.seed)


if __name__ == "__main__":
    sys.exit(main())
