"""What help() says: every public method documents each argument, what it raises, and shows a line of use."""
import ast
import inspect
import pydoc
import re
import sys
import textwrap
import types

import pytest

import llmlite as package
from llmlite import batch, cache
from tests import llmlite, testing

CLIENT = sys.modules[llmlite.Client.__module__]
PUBLIC = {CLIENT: CLIENT.__all__, testing: testing.__all__, batch: ("Summary", "cancel", "run"), cache: ("Cache",)}
NAMED = {"testing.Batches.play", "testing.Batches.keep", "testing.Batches.add", "testing.Batches.advance",
         "testing.Batches.answer"}  # what the server itself calls


def public():
    """Every public class, function and method, by its name."""
    for module, names in PUBLIC.items():
        short = module.__name__.rpartition(".")[2] if module is not CLIENT else "client"
        for name in names:
            thing = getattr(module, name)
            if isinstance(thing, (type, types.FunctionType)):
                yield f"{short}.{name}", thing
            for key, value in vars(thing).items() if isinstance(thing, type) else ():
                value = getattr(value, "__func__", value)
                if key[0] != "_" and isinstance(value, types.FunctionType) and value.__module__ == module.__name__:
                    yield f"{short}.{name}.{key}", value


THINGS = {name: thing for name, thing in public() if name not in NAMED}
CALLS = {name: thing for name, thing in THINGS.items() if isinstance(thing, types.FunctionType)}
for name, thing in THINGS.items():  # those whose making takes arguments of their own
    if isinstance(thing, type) and isinstance(vars(thing).get("__init__"), types.FunctionType):
        CALLS[name] = thing
CALLS = {name: thing for name, thing in CALLS.items() if name not in (
    "client.LLMError", "client.Stream", "client.Answer", "client.Response", "client.Ledger", "client.Conversation",
    "testing.Batches", "testing.Job", "testing.Line", "testing.Reply", "testing.Request")}  # which we make


def documented(name):
    """The words of a docstring, and of those that it says its other arguments are like."""
    doc = inspect.getdoc(THINGS[name]) or ""
    words = set(re.findall(r"\w+", doc))
    for other in re.findall(r"(?:those of|what|what the module's|as on) `([\w.]+)`", doc):
        found = [key for key in THINGS if key.endswith("." + other) and key != name]
        found.sort(key=lambda key: (key.partition(".")[0] != name.partition(".")[0], len(key)))
        words |= documented(found[0]) if found else set()
    return words


@pytest.mark.parametrize("name", sorted(CALLS))
def test_arguments(name):
    """Each argument is told of, here or where the docstring says."""
    call = CALLS[name].__init__ if isinstance(CALLS[name], type) else CALLS[name]
    given = set(inspect.signature(call).parameters) - {"self", "options", "said", "how", "script"}
    assert given - documented(name) == set()


@pytest.mark.parametrize("name", sorted(CALLS))
def test_errors(name):
    """What is raised is told, or that it is what another one raises, or nothing."""
    assert re.search(r"\bRaises\b", inspect.getdoc(CALLS[name]))


@pytest.mark.parametrize("name", sorted(THINGS))
def test_shown_code_is_code(name):
    """What is indented before the arguments can be copied and run: no line of it is broken, nor is any of help()."""
    told = (inspect.getdoc(THINGS[name]) or "").partition("\nArgs:")[0] + "\n"
    for block in re.findall(r"\n\n((?:    .*\n|\n)+)", told):
        code = textwrap.dedent(block).strip()
        assert code.startswith(">>> ") or ast.parse(code)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_example(name):
    """A line of use: below the first one, before the arguments are listed, code that calls it."""
    lines = inspect.getdoc(CALLS[name]).partition("\nArgs:")[0].split("\n")[1:]
    assert any(re.search(rf"(?<!`)\b{name.rpartition('.')[2]}\(", line) for line in lines)


def test_help_of_the_package():
    """help(llmlite) lists every public name, the submodules that one imports, and shows how to begin."""
    text = pydoc.plain(pydoc.render_doc(package))
    told = set(re.findall(r"\w+", text.partition("PACKAGE CONTENTS")[0]))
    assert {*CLIENT.__all__, "Cache", "batch", "testing", "__version__"} - told == set()
    assert 'llm = llmlite.Client("openai/gpt-5-mini")' in text
    methods = {name for name in vars(llmlite.Client) if name[0] != "_" and callable(getattr(llmlite.Client, name))}
    assert methods - told == set()


def test_the_face_defines_nothing():
    """__init__.py hands names on, and stays short."""
    with open(package.__file__, encoding="utf-8") as file:
        lines = file.read().splitlines()
    assert len(lines) < 60 and not [line for line in lines if re.match(r"(?:async )?(?:def|class)\b", line)]
