"""Libraries that change how requests, urllib3, sockets or the clock behave, beside ours: `pytest tests/neighbours`.

They need the extras "neighbours" and "dask"; a file whose library is not installed is skipped.
"""
import json
import os
import subprocess
import sys
import textwrap

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
METHODS = pytest.mark.parametrize("method", ["chat", "stream"])


def ask(llm, method="chat", **options):
    """The text of a reply, by chat() or stream()."""
    if method == "chat":
        return llm.chat("hi", **options).text
    with llm.stream("hi", **options) as stream:
        return "".join(stream)


def run(code, *args, start="", limit=30.0):
    """What `code`, after `start`, prints last, as JSON, in a process of its own: most neighbours change all of it."""
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(start) + textwrap.dedent(code), *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
