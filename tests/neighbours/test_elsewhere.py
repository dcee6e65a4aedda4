"""What the README says of other clients, where they are installed: their lines beside ours, what they make of faults.

    pip install openai anthropic google-genai litellm && python -m pytest tests/neighbours/test_elsewhere.py -rs
"""
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import time

import pytest

from tests import llmlite, testing
from tests.test_elsewhere import MODELS, run, stage, tables
from tests.test_readme import README, section_of

MODULES = {name: name.split()[0] for name in MODELS}
MODULES.update({"openai": "openai", "google-genai": "google.genai", "llmlite": "llmlite"})
OTHER_VERSION = 77  # a child's exit code



def apart(function, library):
    """Have a function of this module look at a library, in a process of its own: some leave sockets behind."""
    try:
        found = importlib.util.find_spec(MODULES[library])
    except ImportError:
        found = None
    if found is None:
        pytest.skip(f"{library} is not installed")
    code = f"from tests.neighbours import test_elsewhere as it; it.{function.__name__}({library!r})"
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"})
    if ran.returncode == OTHER_VERSION:
        pytest.skip(ran.stdout.decode())
    assert ran.returncode == 0, ran.stdout.decode()


@pytest.mark.parametrize("library", MODELS)
def test_theirs_is_ours(library):
    """Each pair of lines: what they say is what we say, value for value and printed letter for letter."""
    apart(compare, library)


def compare(library):
    with pytest.MonkeyPatch.context() as monkeypatch, stage(library, monkeypatch) as (server, names):
        module = importlib.import_module(MODULES[library])
        old = library.startswith("openai") and importlib.import_module("openai.version").VERSION.startswith("0.")
        if old != library.endswith("0.28"):
            print(f"another version than {library}", end="")
            sys.exit(OTHER_VERSION)
        if old:
            module.api_base = server.url
        else:
            names["City"] = importlib.import_module("pydantic").create_model("City", name=(str, ...))
        theirs, ours = ({**names, "messages": list(names["messages"])} for _ in range(2))
        for row in tables()[library]:
            told, said = run(row.theirs, theirs), run(row.ours, ours)
            if isinstance(told, tuple) and inspect.isclass(told[0]):
                assert all(issubclass(kind, Exception) for kind in told), row
                assert all(issubclass(kind, llmlite.LLMError) for kind in said), row
            else:  # a dict of theirs has more than was sent
                assert told == said or isinstance(told, dict), f"{row}\n{told}\n{said}"
        assert len(theirs["messages"]) == len(ours["messages"]) and server.requests


# the faults: each client asks one server, which answers all in their own words


ASKED = {"messages": [{"role": "user", "content": "Hi"}]}
CLIENTS = {  # (what makes a client, what asks, what streams), each an expression
    "llmlite": ("llmlite.Client('m', base_url=url, deadline=1)", "c.chat('Hi').text", "''.join(c.stream('Hi'))"),
    "openai": (
        "module.OpenAI(base_url=url, api_key=key, timeout=1)",
        "c.chat.completions.create(model='m', **ASKED).choices[0].message.content",
        "''.join(x.choices[0].delta.content or ''"
        " for x in c.chat.completions.create(model='m', stream=True, **ASKED))"),
    "anthropic": (
        "module.Anthropic(base_url=root, api_key=key, timeout=1)",
        "c.messages.create(model='m', max_tokens=9, **ASKED).content[0].text",
        "''.join(c.messages.stream(model='m', max_tokens=9, **ASKED).__enter__().text_stream)"),
    "google-genai": (
        "module.Client(api_key=key, http_options={'base_url': root, 'timeout': 1000})",
        "c.models.generate_content(model='m', contents='Hi').text",
        "''.join(x.text or '' for x in c.models.generate_content_stream(model='m', contents='Hi'))"),
    "litellm": (
        "lambda **how: module.completion('openai/m', api_base=url, api_key=key, timeout=1, **how, **ASKED)",
        "c().choices[0].message.content", "''.join(x.choices[0].delta.content or '' for x in c(stream=True))"),
}
PIECE = {"anthropic": {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Half an"}},
         "google-genai": {"candidates": [{"content": {"parts": [{"text": "Half an"}], "role": "model"}, "index": 0}]}}
START = [{"type": "message_start", "message": {
    "id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
    "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}]


def cut(library):
    """A stream that ends in the middle of the answer, with neither a finish reason nor an end mark."""
    piece = PIECE.get(library, {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [
        {"index": 0, "delta": {"role": "assistant", "content": "Half an"}, "finish_reason": None}]})
    events = [*START, piece] if library == "anthropic" else [piece]
    lines = "".join((f"event: {event['type']}\n" if "type" in event else "") + f"data: {json.dumps(event)}\n\n"
                    for event in events)
    return testing.body(lines.encode(), headers={"Content-Type": "text/event-stream"}, times=None)


@pytest.mark.parametrize("library", CLIENTS)
def test_faults(library):
    """The README's table of what each client makes of three faults, in the version that it names."""
    apart(play, library)


def play(library):
    name, *told = re.search(rf"^({library}[ .0-9]*?)  +(\S+.*?)  +(\S+.*?)  +(\S+.*)$",
                            section_of(README, "What it promises, in figures"), re.M).groups()
    module, wanted = importlib.import_module(MODULES[library]), name[len(library) + 1:]
    if wanted and not importlib.import_module("importlib.metadata").version(library).startswith(wanted + "."):
        print(f"another version than {name}", end="")
        sys.exit(OTHER_VERSION)
    with testing.Server() as server:
        names = dict(module=module, key="sk-test-key-of-no-use", url=server.url, root=server.root, ASKED=ASKED,
                     llmlite=llmlite)
        make, ask, stream = CLIENTS[library]
        names["c"] = eval(make, names)
        page = testing.body(b"<html>Log in</html>", headers={"Content-Type": "text/html"}, times=None)
        drops = testing.stream(["drop "] * 15, gap=0.2, times=None)
        said = [outcome(server, reply, how, names) for reply, how in ((cut(library), stream), (page, ask))]
        started = time.monotonic()
        said.append(outcome(server, drops, stream, names).replace("drop " * 15, "all of it"))
        seconds = time.monotonic() - started
    assert said == told, (said, told)
    assert (1 <= seconds < 1.5) if library == "llmlite" else seconds > 2.5, seconds


def outcome(server, reply, how, names):
    """What comes of it: the text, or the error's class."""
    server.handle(lambda request: reply)
    try:
        return eval(how, names)
    except Exception as error:
        return type(error).__name__
