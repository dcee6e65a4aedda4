"""Names of other packages that their documentation does not promise: all are in one table, and none is needed.

What the table says of a name that is gone is tried out: the other packages are read with that name changed, wherever it
is an attribute, and then a client must do all that it does, within its limits.
"""
import ast
import functools
import json
import os
import pydoc
import re
import subprocess
import sys

import pytest
import urllib3

from tests import llmlite, testing
from tests.beside import beside
from tests.test_socks import Socks

client = sys.modules[llmlite.Client.__module__]
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAMES = {name for _, names, _, _ in client._PRIVATE for name in names.split()}

# Python's reference promises these, of its data model, of modules, of typing and of named tuples; IPython's one.
DOCUMENTED = {
    "__annotations__", "__call__", "__cause__", "__code__", "__context__", "__dict__", "__doc__", "__file__",
    "__getattribute__", "__getstate__", "__globals__", "__init__", "__kwdefaults__", "__len__", "__main__",
    "__metadata__", "__module__", "__mro__", "__name__", "__origin__", "__package__", "__qualname__",
    "__required_keys__", "__self__", "__setattr__", "__setitem__", "__setstate__", "__supertype__", "__total__",
    "__traceback__", "__value__", "_fields", "_ipython_display_", "_replace"}


@functools.lru_cache(maxsize=None)
def tree():
    """The module, without the statement that is the table: what it says is no touch."""
    with open(client.__file__, encoding="utf-8") as source:
        module = ast.parse(source.read())
    module.body.remove(next(node for node in module.body if isinstance(node, ast.Assign)
                            and node.targets[0].id == "_PRIVATE"))
    return module


def own_names():
    """What the module defines: functions, classes, variables, and attributes of its own objects."""
    for node in ast.walk(tree()):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "self":
            yield node.attr


def touched():
    """All names that stand behind a dot, in a string by themselves (for getattr), or as methods of a class."""
    for node in ast.walk(tree()):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value


def test_every_private_name_is_in_the_table():
    """What begins with an underscore and is not the module's own is promised by Python's reference, or in the table."""
    private = {name for name in touched() if re.match("_[^_]|__[a-z_]+__$", name)}
    environment = {name for name in private if name.isupper()}  # the ends of variables' names
    assert private - set(own_names()) - DOCUMENTED - environment - NAMES == set()


def test_what_is_set_on_http_clients_response_is_in_the_table():
    """Our subclass of http.client's response gives values to its attributes: to no other than those of the table."""
    ours = next(node for node in tree().body if isinstance(node, ast.ClassDef) and node.name == "_HTTPResponse")
    promised = {"code", "headers", "msg", "reason", "status", "version"}
    used = {node.attr for node in ast.walk(ours) if isinstance(node, ast.Attribute) and
            isinstance(node.value, ast.Name) and node.value.id == "self"}
    defined = {node.name for node in ours.body if isinstance(node, ast.FunctionDef)}
    assert used - defined - promised <= NAMES


def test_every_name_of_the_table_is_touched():
    """A row that nothing touches any longer goes."""
    assert NAMES - set(touched()) == set()


# The other packages, in whose sources NAME is another name.
WITHOUT = r'''
import ast, importlib.abc, importlib.machinery, sys

NAME, OTHER = sys.argv[2], sys.argv[2] + "_as_it_is_now"
PACKAGES, OF_CLASS = sys.argv[3].split(), sys.argv[4] == "class"

counted = []


class Renaming(ast.NodeTransformer):
    def generic_visit(self, node):
        for field in ("attr",) if OF_CLASS else ("attr", "id", "arg", "name", "asname"):
            if getattr(node, field, None) == NAME:
                setattr(node, field, OTHER)
                counted.append(node)
        return super().generic_visit(node)

    def visit_ClassDef(self, node):
        for each in node.body if OF_CLASS else ():
            for target in getattr(each, "targets", [getattr(each, "target", each)]):
                for field in ("id", "name"):
                    if getattr(target, field, None) == NAME:
                        setattr(target, field, OTHER)
                        counted.append(node)
        return self.generic_visit(node)

    def visit_ImportFrom(self, node):
        if OF_CLASS:
            return node
        ours = node.level or node.module.split(".")[0] in PACKAGES
        for alias in node.names:
            if alias.name == NAME:
                alias.name, alias.asname = OTHER if ours else NAME, alias.asname or OTHER
        return node


class Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        source = self.get_data(self.path)
        if NAME.encode() not in source:  # nothing to rename: what Python has compiled before will do
            return super().get_code(fullname)
        tree = Renaming().visit(ast.parse(source))
        return compile(tree, self.path, "exec", dont_inherit=True)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        spec = None
        if fullname.split(".")[0] in PACKAGES:
            spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Loader(fullname, spec.origin)
        return spec


for module in [module for module in sys.modules if module.split(".")[0] in PACKAGES]:
    del sys.modules[module]
sys.meta_path.insert(0, Finder())
'''
ALL = r'''
import json, threading, time
from tests import llmlite
from tests.lateness import Lateness
import requests

def late(function, *args, **options):
    machine = Lateness()
    try:
        with machine:
            function(*args, **options)
        return "no error"
    except llmlite.LLMError as error:
        return [type(error).__name__, 0.39 <= machine.took <= 0.4 + 0.5 + machine.seconds or machine.took]

def close(stream):
    next(stream)
    threading.Timer(0.2, stream.close).start()
    started = time.monotonic()
    rest = list(stream)
    return time.monotonic() - started < 2

said = {"renamed": 0}
for kind in ("own", "theirs"):
    session = requests.Session() if kind == "theirs" else None
    with llmlite.Client("m", base_url=sys.argv[1], retry=None, session=session) as llm:
        said[kind] = [llm.chat("hi").text, llm.chat("hi").text, "".join(llm.stream("hi")), "".join(llm.stream("hi")),
                      late(llm.chat, "body", deadline=0.4), late(lambda: list(llm.stream("body", deadline=0.4))),
                      close(llm.stream("slow"))]
        if kind == "own":
            said["head"] = [late(llm.chat, "head", deadline=0.4), late(llm.stream, "head", deadline=0.4)]
            said["ledger"] = [llm.ledger.attempts, llm.ledger.failed]
print(json.dumps({**said, "renamed": len(counted) > 0}))
'''
DRIP = [step for byte in b"X: " + b"x" * 300 for step in (bytes([byte]), 0.02)]
HEAD = b"HTTP/1.1 200 OK\r\n"


def answer(request):
    """A reply in each framing, and what drips for seconds in its head or its body."""
    asked = request.json["messages"][0]["content"]
    if asked == "head":
        return testing.raw(HEAD, *DRIP)
    if asked == "body":
        return testing.raw(HEAD + b"Content-Type: text/event-stream\r\nContent-Length: 5000\r\n\r\n", *DRIP)
    if asked == "slow":
        return testing.stream(["a"] * 100, gap=0.05)
    return testing.stream(["o", "k"])


def test_whose_the_names_are():
    """The packages, classes and modules that the table names are there."""
    there = [owner for owner, *_ in client._PRIVATE if pydoc.locate(owner) is None]
    assert set(there) <= EXTRA


EXTRA = {"distributed.cfexecutor.ClientExecutor"}  # tests/neighbours/test_dask.py has what it does with the name
OWNERS = {name: owner for owner, names, _, _ in client._PRIVATE for name in names.split() if owner not in EXTRA}
ALSO = {"http": "http urllib3", "email": "email http"}  # the packages that share such an owner's names


@pytest.mark.skipif(urllib3.__version__ < "2.3", reason="a name cannot vanish from a release that is out")
@pytest.mark.parametrize("name", sorted(OWNERS))
@beside
def test_without_a_private_name(server, name):
    """With the name gone calls, streams, deadlines and closing are what they are with it, only slower."""
    server.handle(answer)
    kind = "class" if OWNERS[name].split(".")[-1][0].isupper() else "module"
    package = OWNERS[name].split(".")[0]
    with Socks() as proxy:
        road = {"ALL_PROXY": proxy.url} if "socks" in name else {}
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT + ALL, server.url, name, ALSO.get(package, package), kind], cwd=ROOT,
            env={**os.environ, **road}, timeout=60, text=True, capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    late = ["DeadlineExceededError", True]
    assert said == {"renamed": True, "own": ["ok"] * 4 + [late, late, True], "theirs": ["ok"] * 4 + [late, late, True],
                    "head": [late, late], "ledger": [9, 4]}
