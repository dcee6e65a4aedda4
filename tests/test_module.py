"""The module as a whole: what importing it does, what it imports and exports, its examples, and that it works alone."""
import ast
import contextlib
import doctest
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import types
import typing

import pytest
import urllib3

from llmlite import vendor
from tests import llmlite, testing

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CLIENT = sys.modules[llmlite.Client.__module__]
SOURCE = inspect.getsourcefile(CLIENT)

WATCH = """
import json, logging, os, signal, socket, sys, threading
import requests, urllib3
seen = []
def hook(event, args):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.fork", "os.putenv", "signal.", "ctypes.")):
        seen.append(event)
    if event == "open" and args[1] and set("wax+") & set(args[1]) and not (
            isinstance(args[0], int) or "__pycache__" in str(args[0])):  # Python's own, of what it has compiled
        seen.append(f"open {args[0]}")
def state():
    loggers = [logging.getLogger(), *map(logging.getLogger, ("llmlite", "urllib3", "requests"))]
    return [[(log.level, len(log.handlers), log.propagate) for log in loggers], threading.active_count(),
            dict(os.environ), socket.getdefaulttimeout(), signal.getsignal(signal.SIGINT) is signal.default_int_handler,
            sorted(vars(requests.Session)), id(requests.Session.send), id(requests.adapters.HTTPAdapter.send),
            id(urllib3.HTTPResponse.read), id(urllib3.connection.HTTPConnection.connect)]
modules, before = set(sys.modules), repr(state())
sys.addaudithook(hook)
import MODULE
found = {name: getattr(sys.modules[name], "__file__", None) or "" for name in set(sys.modules) - modules}
print(json.dumps({"seen": seen, "same": repr(state()) == before, "found": found}))
"""


def run(*args, **environment):
    """Python with these arguments, from the repository's root; what it wrote to stdout."""
    done = subprocess.run([sys.executable, *args], cwd=ROOT, env={**os.environ, **environment}, timeout=50,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_import_has_no_side_effects():
    """Importing opens nothing, starts nothing, sets nothing, and brings in no third-party module of its own."""
    found = json.loads(run("-c", WATCH.replace("MODULE", llmlite.__name__)))
    assert found["seen"] == [] and found["same"]
    ours = {name for name in found["found"] if name.partition(".")[0] == llmlite.__name__.partition(".")[0]}
    assert llmlite.__name__ in ours
    foreign = {name for name, path in found["found"].items() if "site-packages" in path and name not in ours}
    assert {name.partition(".")[0] for name in foreign} <= {"requests", "urllib3"}
    assert not {"asyncio", "dataclasses", "inspect"} & set(found["found"])


def tree():
    with open(SOURCE, encoding="utf-8") as file:
        return ast.parse(file.read())


def is_for_checkers(node):
    return isinstance(node, ast.If) and ast.dump(node.test) == ast.dump(ast.parse("TYPE_CHECKING", mode="eval").body)


def imported():
    """The top-level names of all that the source imports, in functions too; a relative import is "."."""
    source = tree()
    for node in filter(is_for_checkers, ast.walk(source)):
        node.body = []  # which nothing runs
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else (node.module or "").partition(".")[0]


def is_standard(name):
    if name in sys.builtin_module_names:
        return True
    if hasattr(sys, "stdlib_module_names"):
        return name in sys.stdlib_module_names
    spec = importlib.util.find_spec(name)
    origin = (spec and spec.origin) or ""
    return origin == "frozen" or (origin.startswith(sysconfig.get_path("stdlib")) and "site-packages" not in origin)


def needed():
    """What setup.cfg asks for, by name."""
    with open(os.path.join(ROOT, "setup.cfg"), encoding="utf-8") as file:
        return dict(re.findall(r"^\s+(requests|urllib3)>=([\d.]+),", file.read(), re.M))


def test_import_with_older_packages():
    """The import says in one line which versions are needed, those of setup.cfg, and which are there."""
    script = f"import requests; requests.__version__ = '2.20.0'; import {CLIENT.__name__}"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=20, stderr=subprocess.PIPE, text=True)
    wanted = " and ".join(f"{name} {version}" for name, version in needed().items())
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == (
        f"ImportError: llmlite {llmlite.__version__} needs {wanted} or later, and finds requests 2.20.0 and "
        f"urllib3 {urllib3.__version__}: pip install -U requests urllib3")


@pytest.mark.parametrize("name, version, old", [
    ("requests", "2.25.0", True), ("requests", "2.25.0rc1", True), ("requests", "2.25", True),
    ("urllib3", "1.26.14", True), ("urllib3", "1.9.99", True), ("requests", "2.25.1", False),
    ("requests", "2.32.0.dev1", False), ("requests", "2.100", False), ("urllib3", "2.0a1", False),
    ("urllib3", "3", False), ("urllib3", "unknown", False), ("urllib3", "", False), ("requests", None, False),
    ("urllib3", (1, 0), False), ("requests", "1" * 5000 + ".0", False)], ids=lambda value: str(value)[:12])
def test_versions_of_all_forms(monkeypatch, name, version, old):
    """Versions are told apart by their numbers; one that cannot be read passes."""
    monkeypatch.setattr(sys.modules[name], "__version__", version)
    with pytest.raises(ImportError, match=f"finds .*{name} {version}\\b") if old else contextlib.nullcontext():
        CLIENT._need(**needed())


def test_imports():
    """client.py imports the standard library, requests and urllib3, and nothing of ours."""
    names = set(imported())
    assert {"requests", "urllib3", "json"} <= names
    assert [name for name in sorted(names - {"requests", "urllib3"}) if not is_standard(name)] == []
    assert "asyncio" not in names


def test_no_async():
    """client.py has no coroutine."""
    nodes = [type(node) for node in ast.walk(tree())]
    assert ast.FunctionDef in nodes
    assert not {ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await} & set(nodes)


def test_all():
    """__all__ is every public class and function that client.py defines, each once; the package hands them on."""
    public = {name for name, value in vars(CLIENT).items() if not name.startswith("_")
              and isinstance(value, (type, types.FunctionType)) and value.__module__ == CLIENT.__name__}  # fmt: skip
    assert sorted(CLIENT.__all__) == sorted(public)
    assert all(getattr(llmlite, name) is getattr(CLIENT, name) for name in CLIENT.__all__)
    assert llmlite.__version__ == CLIENT.__version__


def test_public_things_have_docstrings():
    """Every public name, and every public method of a public class, says what it is."""
    things = [getattr(CLIENT, name) for name in CLIENT.__all__]
    methods = [value for thing in things if isinstance(thing, type) for name, value in vars(thing).items()
               if isinstance(value, (types.FunctionType, property)) and not name.startswith("_")]  # fmt: skip
    assert CLIENT.__doc__ and len(methods) > 10
    silent = [thing for thing in things + methods if not (inspect.getdoc(thing) or "").strip()]
    assert [getattr(thing, "__qualname__", thing) for thing in silent] == []


def test_public_annotations_can_be_evaluated():
    """typing.get_type_hints knows every public class, function and method, on every Python: documenters ask it."""
    public = {name: value for name, value in vars(CLIENT).items() if name in CLIENT.__all__}
    for thing in public.values():
        for one in (thing, *(vars(thing).values() if isinstance(thing, type) else ())):
            one = getattr(one, "fget", getattr(one, "__func__", one))
            if isinstance(one, (type, types.FunctionType)) and one.__module__ == CLIENT.__name__:
                assert isinstance(typing.get_type_hints(one), dict)
    assert typing.get_type_hints(CLIENT.Client.__init__)["fallbacks"]


def test_defaults():
    """What holds where nothing is said."""
    given = {name: parameter.default for name, parameter in inspect.signature(llmlite.Client).parameters.items()}
    assert {name: given[name] for name in ("timeout", "retry", "fallbacks", "skip_bad_events")} == {
        "timeout": (10, 600), "retry": llmlite.RetryPolicy(), "fallbacks": (), "skip_bad_events": False}
    assert inspect.signature(llmlite.Client.run_tools).parameters["max_rounds"].default == 10


def test_values_made_by_hand_are_empty():
    """What users make themselves, in their own tests say, has all of its fields, and they hold nothing."""
    assert vars(llmlite.Response()) == {
        "text": "", "reasoning": "", "tool_calls": [], "finish_reason": None, "raw_finish_reason": None,
        "usage": (0, 0, 0, 0, 0), "model": "", "id": None, "request_id": None, "citations": [], "parsed": None,
        "tokens": [], "logprobs": [], "files": [], "message": {}, "messages": [], "raw": None, "headers": {},
        "attempts": 0, "elapsed": 0.0, "cached": False}
    assert llmlite.Usage() == (0, 0, 0, 0, 0) and llmlite.Token("a") == ("a", None, None)
    assert llmlite.ToolCall("1", "f", {}, "{}").invalid is None
    assert llmlite.Event("finish") == ("finish", "", None, None, None, None)
    error = llmlite.APIError("no")
    assert str(error) == "no" and (error.provider, error.attempts, error.elapsed, error.hint) == ("", 0, 0.0, "")
    assert (error.response, error.last_error, error.retry_after, error.request_id) == (None, None, None, None)
    assert (error.status_code, error.message, error.code, error.type) == (0, "", None, None)
    for one in (error, llmlite.ResponseError("no")):
        assert (one.status_code, one.headers, one.body, one.request_id) == (0, {}, None, None)
    assert vars(llmlite.RateLimit()) == {"requests_per_minute": None, "tokens_per_minute": None}


@pytest.mark.parametrize("module", [CLIENT, testing, vendor], ids=["client", "testing", "vendor"])
def test_examples(module):
    """The examples in the docstrings do what they say."""
    result = doctest.testmod(module)
    assert result.attempted >= 3 and result.failed == 0


def test_under_another_name():
    """LLMLITE_UNDER_TEST=vendored runs tests against a copy of client.py under another name in another package."""
    words = "from tests import llmlite, VENDORED; print(VENDORED, llmlite.__name__, llmlite.Client.__module__)"
    seen = run("-c", words, LLMLITE_UNDER_TEST="vendored").split()
    assert seen == ["True", "some_tool.vendor.little_llm", "some_tool.vendor.little_llm"]
    assert run("-c", words, LLMLITE_UNDER_TEST="").split()[:2] == ["False", "llmlite"]


def test_suite_under_another_name():
    """A test file passes against the vendored copy."""
    command = ["-m", "pytest", "-p", "no:cacheprovider", "tests/test_keys.py"]
    assert " passed" in run(*command, LLMLITE_UNDER_TEST="vendored", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
                            PYTEST_PLUGINS="pytest_timeout")  # the one that setup.cfg has a setting for


def test_alone(tmp_path, server):
    """One copied file is enough: it works where there is no package, and its errors and clients pickle there."""
    shutil.copy(SOURCE, tmp_path / "little.py")
    server.reply("ok")
    server.error(404)
    script = f"""
import pickle, sys, little
client = pickle.loads(pickle.dumps(little.Client("m", base_url={server.url!r})))
print(client.chat("hi").text)
try:
    client.chat("hi")
except little.NotFoundError as error:
    print(type(pickle.loads(pickle.dumps(error))).__module__)
print(any(name.partition(".")[0] == "llmlite" for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=str(tmp_path), timeout=20, stdout=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)}, text=True)  # fmt: skip
    assert done.stdout.split() == ["ok", "little", "False"]
