"""What every test starts from (no key, address or proxy in the environment) and what it leaves: no thread."""
import contextlib
import gc
import glob
import importlib
import os
import signal
import sys
import threading
import time

import pytest

from tests import llmlite, testing
from tests.beside import Beside

HERE = os.path.dirname(os.path.abspath(__file__))
ENDINGS = ("_API_KEY", "_BASE_URL", "_ENDPOINT", "_PROXY", "_CA_BUNDLE")
OTHERS = {"LM_API_TOKEN", "NETRC", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"}
KEYS = {name for _, _, names in llmlite.providers() for name in names.split()}
# The files that take longest, the longest first: a process that came to one of them last would end long after the rest.
LONG = ("fuzz", "security", "faults", "cli", "batch_at_provider", "private_names", "deadlines", "processes", "pace",
        "socks", "map", "leaks", "jobs", "batch", "truncation", "retries", "hooks", "cooldown", "batch_cli", "mutants",
        "errors", "cache_file", "streams", "report", "request", "soak", "error_bodies", "tls", "ledger", "files",
        "module")
WORKER = "PYTEST_XDIST_WORKER"

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
    whole = config.args_source is config.ArgsSource.TESTPATHS and WORKER not in os.environ
    if whole and config.getoption("numprocesses", 0) is None and not config.getoption("usepdb"):
        config.option.numprocesses, config.option.dist, config.option.loadscopereorder = 4, "loadfile", False


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session):
    """Processes that share the suite begin to import it at different files: pytest's rewriting is kept, and done once.

    What cannot be imported is told by the collection.
    """
    if WORKER in os.environ and list(session.config.args) == session.config.getini("testpaths"):
        number, count = int(os.environ[WORKER].strip("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        names = sorted(os.path.basename(path)[:-3] for path in glob.glob(os.path.join(HERE, "test_*.py")))
        first = len(names) * number // count
        for name in names[first:] + names[:first]:
            with contextlib.suppress(Exception, pytest.skip.Exception):
                importlib.import_module(f"tests.{name}")


def pytest_collection_modifyitems(items):
    """The long files first, where processes take a file each."""
    if WORKER in os.environ:
        place = {f"test_{name}.py": number for number, name in enumerate(LONG)}
        items.sort(key=lambda item: place.get(item.path.name, len(LONG)))


def pytest_collection_finish():
    """At its first test hypothesis asks the collector who holds its generator of numbers: before that forgets it."""
    if "hypothesis" in sys.modules:
        hypothesis = sys.modules["hypothesis"]
        first = hypothesis.given(hypothesis.strategies.none())(lambda _: None)
        hypothesis.settings(max_examples=1, derandomize=True, database=None)(first)()


@pytest.fixture(autouse=True, scope="module")
def nothing_to_collect():
    """What stands as a module's tests begin outlives them: the collector need not look at it, which many tests call."""
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


@pytest.fixture(autouse=True, scope="session")
def clean_environment(tmp_path_factory):
    """Nothing of the developer's own environment reaches a client, and nothing is left in his folders."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_STATE_HOME", "LOCALAPPDATA"):
            patch.setenv(name, str(tmp_path_factory.mktemp("state")))
        for name in list(os.environ):
            ours = name.startswith("LLMLITE_") and name != "LLMLITE_UNDER_TEST"  # which processes of a test need too
            if ours or name in KEYS or name in OTHERS or name.upper().endswith(ENDINGS):
                patch.delenv(name)
        yield


@pytest.fixture
def few_threads(monkeypatch):
    """Has only so many threads of a name begin."""
    begin = threading.Thread.start

    def refuse(name, after=0):
        begun = []

        def start(thread):
            if thread.name == name:
                begun.append(thread)
                if len(begun) > after:
                    raise RuntimeError("can't start new thread")
            begin(thread)

        monkeypatch.setattr(threading.Thread, "start", start)

    return refuse


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


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process, with a stdin that is no terminal: text, or bytes."""
    from tests.cli import Ran, main, piped

    def run(*words, stdin=""):
        monkeypatch.setattr(sys, "stdin", piped(stdin))
        return Ran(main(words), *capsys.readouterr())

    return run


@pytest.fixture
def ask(run, server):
    """The same, with the server as the provider."""
    def ask(*words, stdin=""):
        return run(*words, "-m", "test", "--base-url", server.url, stdin=stdin)

    return ask
