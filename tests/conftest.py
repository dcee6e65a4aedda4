"""What every test starts from (no key, address or proxy in the environment) and what it leaves: no thread."""
import gc
import os
import signal
import sys
import threading
import time

import pytest

from tests import llmlite, testing
from tests.beside import Beside

ENDINGS = ("_API_KEY", "_BASE_URL", "_ENDPOINT", "_PROXY", "_CA_BUNDLE")
OTHERS = {"LM_API_TOKEN", "NETRC", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"}


# The processes that tests start would compile client.py anew each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background jobs have it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    config.addinivalue_line("markers", "beside: runs beside others of its module, in a thread")
    config.pluginmanager.register(Beside())
    pytest.register_assert_rewrite("tests.dialects")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite, which waits much, is shared by four processes, a file at a time, unless -n says otherwise."""
    whole = config.args_source is config.ArgsSource.TESTPATHS and "PYTEST_XDIST_WORKER" not in os.environ
    if whole and config.getoption("numprocesses", 0) is None and not config.getoption("usepdb"):
        config.option.numprocesses, config.option.dist = 4, "loadfile"


def pytest_collection_finish():
    """What stands now stands to the end: the collector need not look at it, which many tests call."""
    if "hypothesis" in sys.modules:  # at its first test it asks the collector who holds its generator of numbers
        hypothesis = sys.modules["hypothesis"]
        first = hypothesis.given(hypothesis.strategies.none())(lambda _: None)
        hypothesis.settings(max_examples=1, derandomize=True, database=None)(first)()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_thread_left():
    """A thread that the test started and that outlives it fails the test."""
    before = set(threading.enumerate())
    yield
    end = time.monotonic() + 2
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, end - time.monotonic()))
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert not left, f"threads left behind: {left}"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """Nothing of the developer's own environment reaches a client."""
    keys = {name for _, _, names in llmlite.providers() for name in names.split()}
    for name in list(os.environ):
        ours = name.startswith("LLMLITE_") and name != "LLMLITE_UNDER_TEST"  # which processes of a test need too
        if ours or name in keys or name in OTHERS or name.upper().endswith(ENDINGS):
            monkeypatch.delenv(name)


@pytest.fixture
def server():
    """A scripted provider; queue replies on it, or `server.handle(...)`."""
    with testing.Server() as server:
        yield server


@pytest.fixture
def llm(server):
    """A client of `server` that tries once."""
    with llmlite.Client("test", base_url=server.url, retry=None) as client:
        yield client
