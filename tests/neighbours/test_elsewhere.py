"""What the README says of other clients, run by these where they are installed, and held against ours.

    pip install openai anthropic google-genai litellm && python -m pytest tests/neighbours/test_elsewhere.py -rs
"""
import importlib.util
import inspect
import os
import subprocess
import sys

import pytest

from tests import llmlite
from tests.test_elsewhere import MODELS, run, stage, tables

MODULES = {name: name.split()[0] for name in MODELS}
MODULES["google-genai"] = "google.genai"


@pytest.mark.parametrize("library", MODELS)
def test_theirs_is_ours(library):
    """Each pair of lines: what they say is what we say, value for value and printed letter for letter.

    In a process of its own, for some leave sockets and event loops behind.
    """
    try:
        found = importlib.util.find_spec(MODULES[library])
    except ImportError:
        found = None
    if found is None:
        pytest.skip(f"{library} is not installed")
    code = f"from tests.neighbours import test_elsewhere as it; it.compare({library!r})"
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"})
    if ran.returncode == 77:
        pytest.skip(ran.stdout.decode())
    assert ran.returncode == 0, ran.stdout.decode()


def compare(library):
    with pytest.MonkeyPatch.context() as monkeypatch, stage(library, monkeypatch) as (server, names):
        module = importlib.import_module(MODULES[library])
        old = library.startswith("openai") and importlib.import_module("openai.version").VERSION.startswith("0.")
        if old != library.endswith("0.28"):
            print(f"another version than {library}", end="")
            sys.exit(77)
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
