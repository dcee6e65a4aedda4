"""The README's tables for those who come from another client: each line of ours runs.

Theirs run in tests/neighbours/test_elsewhere.py, where their clients are installed.
"""
import ast
import contextlib
import io
import json
import re
import shlex
import textwrap
from typing import Any, List, NamedTuple, Tuple

import pytest

from tests import VENDORED, llmlite, testing
from tests.test_readme import README, SKY, as_module, section_of

pytestmark = pytest.mark.skipif(VENDORED, reason="the README is about the package")
MODELS = {"openai 1 and later": "gpt-5-mini", "openai 0.28": "gpt-5-mini", "anthropic": "claude-sonnet-4-5",
          "google-genai": "gemini-2.5-flash", "litellm": "gpt-5-mini"}
CITY = '{"name": "Rome"}'
TOOLS = [{"type": "function", "function": {"name": "temperature", "parameters": {"type": "object", "properties": {}}}}]


class Row(NamedTuple):
    """A line of theirs and ours; of ours, what a remark names beside."""

    theirs: str
    ours: str
    beside: Tuple[str, ...]


def tables():
    """The rows of each library's table, in order."""
    found = re.split(r"^\.\. list-table:: (.*)\n", section_of(README, "Coming from elsewhere"), flags=re.M)[1:]
    return {name: [row(cells) for cells in body.split("\n    * - ")[1:]] for name, body in zip(*[iter(found)] * 2)}


def row(cells):
    (theirs, *none), (ours, *beside) = map(codes, cells.split("\n      - "))
    assert not none, theirs
    return Row(theirs, ours, tuple(beside))


def codes(cell) -> List[str]:
    """The code in a cell: a block, or each piece within a line."""
    if cell.startswith("::"):
        return [textwrap.dedent(cell[2:]).strip()]
    return re.findall("``(.+?)``", cell)


def run(code, names) -> Any:
    """What an expression is, or what a statement prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            compiled = compile(code, "<README>", "eval")
        except SyntaxError:
            exec(code, names)
            return printed.getvalue() or None
        return eval(compiled, names)


def answer(request):
    """The sky's answer whoever is asked in whatever dialect, and what the others endpoints say."""
    if request.path.endswith("/models"):
        return testing.json_body({"object": "list", "data": [{"id": "a", "object": "model"}]})
    asked = request.json if request.body else {}
    if "tools" in asked and len(asked["messages"]) < 3:  # before there is a result
        return testing.reply("", tool_calls=[{"name": "temperature", "arguments": {"city": "Rome"}}])
    wants_city = "json_schema" in str(asked.get("response_format"))
    return None if "mbed" in request.path else testing.reply(CITY if wants_city else SKY)


class City:
    """As a pydantic class."""

    name = "Rome"

    @staticmethod
    def model_json_schema():
        return {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}

    @classmethod
    def model_validate_json(cls, text):
        assert text == CITY
        return cls()


@contextlib.contextmanager
def stage(library, monkeypatch):
    """A provider for all of them, in their variables' place, and the names that the tables take for granted."""
    with testing.Server() as server:
        server.handle(answer)
        for name in ("OPENAI", "ANTHROPIC", "GEMINI"):
            monkeypatch.setenv(name + "_API_KEY", "sk-test-key-of-no-use")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        for name in ("ANTHROPIC_BASE_URL", "GEMINI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"):
            monkeypatch.setenv(name, server.root)
        names = as_module(monkeypatch)
        names.update(model=MODELS[library], City=City, json=json, tools=TOOLS,
                     messages=[llmlite.user("Why is the sky blue?")])
        yield server, names


@pytest.mark.parametrize("library", MODELS)
def test_ours_runs(library, monkeypatch):
    """Each line of ours, one after the other; each expression has a value, and the reply's text is what was said."""
    with stage(library, monkeypatch) as (server, names):
        for row in tables()[library]:
            for code in (row.ours, *row.beside):
                value = run(code, names)
                assert value or " = " in code or code.startswith(("import ", "messages.append(")), code
                assert value == SKY or ".text" not in code or "[" in code or "print" in code, code
                assert "print" not in code or value.startswith((SKY, "Rome", "{'city': 'Rome'}")), code
        assert len(server.requests) > 2
        for client in names.values():
            if isinstance(client, llmlite.Client):
                client.close()


def test_the_commands_run(run, monkeypatch, tmp_path):
    """Each command that the README gives beside one of simonw's llm, in turn, in a folder that has their files."""
    rows = re.findall(r"^``(llm .+?)`` +``(.+?)``$", section_of(README, "Command line"), re.M)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "state"))
    (tmp_path / "sky.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "notes.txt").write_text("Blue.")
    (tmp_path / "clock.py").write_text('def now() -> str:\n    """The time."""\n    return "noon"\n')
    (tmp_path / "city.schema.json").write_text('{"type": "object"}')
    with stage("openai 1 and later", monkeypatch) as (server, _):
        for _, ours in rows:
            program, *words = shlex.split(ours)
            if program == "export":
                name, _, value = words[0].partition("=")
                monkeypatch.setenv(name, value)
                continue
            ran = run(*words)
            said = {"models": "a\n", "chat": "", "--schema": CITY + "\n"}.get(words[0], SKY + "\n")
            assert (program, ran.code, ran.out) == ("llmlite", 0, said), ours
        assert len(rows) == 11 and len(server.requests) == 9


def test_no_table_is_missing():
    """Each library that the issue names has its table, each line of theirs can be read, and asks for it by its name."""
    assert set(tables()) == set(MODELS)
    for library, rows in tables().items():
        assert re.sub("^google-", "", library.split()[0]) in rows[0].theirs and len(rows) > 7
        for each in rows:
            ast.parse(each.theirs)
