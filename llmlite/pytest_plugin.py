"""The fixture `llm_server` for pytest, which finds this module by its entry point; `-p no:llmlite` keeps it out."""
from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Iterator, Tuple
from urllib.parse import urlsplit

import pytest

from . import client

if TYPE_CHECKING:
    from . import testing


@pytest.fixture
def llm_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[testing.Server]:
    """A started llmlite.testing.Server; the variables of all providers (OPENAI_BASE_URL, ...) lead there for the test.

    Keys are "test". After a test that passed, a reply that was never asked for, and a request that had none, fail it.
    """
    from llmlite import testing

    with testing.Server() as server:
        for name, value in _environment(server.root):
            monkeypatch.setenv(name, value)
        yield server
        if not getattr(request.node, _PASSED, False):  # its own error, or why it was skipped, is what to look at
            return
        try:
            server.check()
        except AssertionError as wrong:
            raise pytest.fail.Exception(str(wrong), pytrace=False) from None  # the line says it all


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Let the fixture know how its test ended."""
    outcome: Any = yield
    if call.when == "call":
        setattr(item, _PASSED, outcome.get_result().passed)


_PASSED = "_llmlite_passed"  # of a test


def _environment(root: str) -> Iterator[Tuple[str, str]]:
    """What sends every provider's calls to a server, for llmlite and for the providers' own packages."""
    for name, url, keys in client.providers():
        path = re.sub(r"[{}]", "", urlsplit(url).path)
        yield f"{name.upper().replace('-', '_')}_BASE_URL", root + path
        yield from ((key, "test") for key in keys.split())
    yield "GOOGLE_GEMINI_BASE_URL", root
    yield "LLMLITE_API_KEY", "test"
    for name in ("no_proxy", "NO_PROXY"):
        yield name, ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
