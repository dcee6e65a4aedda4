"""The command line as tests run it: in this process by the fixtures `run` and `ask`, or in one of its own."""
import contextlib
import io
import os
import subprocess
import sys
from typing import NamedTuple

from llmlite.__main__ import main as main

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def piped(content):
    """A stdin that is no terminal, in the wrong encoding where it is bytes."""
    return io.TextIOWrapper(io.BytesIO(content), "ascii") if isinstance(content, bytes) else io.StringIO(content)


def command(*words):
    return [sys.executable, "-m", "llmlite", *words]


def environment(**more):
    path = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **more}


@contextlib.contextmanager
def started(*words, **how):
    """The command line in a process of its own."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command(*words), **{**pipes, "env": environment(), **how}) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(*words, stdin=b"", **env):
    done = subprocess.run(command(*words), input=stdin, capture_output=True, env=environment(**env), timeout=30)
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def at(server):
    return ["-m", "test", "--base-url", server.url]


def one_line(text):
    return text.startswith("llmlite") and text.endswith("\n") and text.count("\n") == 1
