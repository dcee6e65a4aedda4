"""Commands by their names: nearly right ones, `help`, `models`, `providers`, and what starting imports."""
import re

import pytest

from tests import VENDORED, llmlite
from tests.beside import beside
from tests.cli import finished, one_line

pytestmark = pytest.mark.skipif(VENDORED, reason="the command line is no part of client.py")


@pytest.mark.parametrize("word, near", [
    ("hlep", "help"), ("modles", "models"), ("batch-", "batch"), ("Models", "models"), ("provider", "providers"),
    ("complete", "completion"), ("verdor", "vendor")])
@pytest.mark.parametrize("more", [[], ["gpt"], ["--usage"], ["in.jsonl", "-o", "out.jsonl"],
                                  ["in.jsonl", "--report", "r.html", "-o", "n=1"]])
def test_a_word_that_is_nearly_a_command(ask, server, word, near, more):
    """It is not sent: exit 2, and one line that tells the command, and how it is sent as a prompt."""
    assert ask(word, *more) == (2, "", f'llmlite: "{word}" is no command: did you mean "llmlite {near}"? To send it as '
                                       f"a prompt: llmlite -- {word}\n")
    assert not server.requests


@pytest.mark.parametrize("words", [
    ["hello"], ["why?"], ["hlep", "-s", "Correct the spelling"], ["hlep me"], ["--json", "hlep"],
    ["hlep", "-o", "temperature=0"]])
def test_other_words_are_prompts(ask, server, words):
    """A word unlike a command, one after options, or with options that only a prompt has, is sent."""
    server.reply("ok")
    assert ask(*words).code == 0 and len(server.requests) == 1


def test_nearly_a_command_after_two_dashes(run, server):
    """As the line says."""
    server.reply("ok")
    assert run("-m", "test", "--base-url", server.url, "--", "hlep").code == 0
    assert server.requests[0].json["messages"][0]["content"] == "hlep"


def test_several_words_without_quotes(run):
    """They get the cure beside the complaint."""
    code, _, err = run("why", "is", "that")
    assert code == 2 and one_line(err) and 'is that: a prompt of several words goes in "..." (see' in err


def test_help(run):
    """`help` is --help, `help COMMAND` is COMMAND --help."""
    assert run("help") == run("--help") and run("help").code == 0
    for name in re.findall(r"^  (\w+) +\S.*\.$", run("help").out, re.M):
        ran = run("help", name)
        assert ran == run(name, "--help") and ran.out.startswith(f"usage: llmlite {name} [")


@pytest.mark.parametrize("word, words", [
    ("modles", 'there is no command "modles": did you mean "models"?'), ("", 'there is no command ""'),
    ("xyz", 'there is no command "xyz": there are chat, batch, ')])
def test_help_of_what_is_no_command(run, word, words):
    """Exit 2 and one line."""
    code, out, err = run("help", word)
    assert (code, out) == (2, "") and words in err and one_line(err)


@pytest.mark.parametrize("pattern, found", [
    ("GPT", ["gpt-5", "gpt-5-mini", "ft:gpt-4"]), ("gpt-*", ["gpt-5", "gpt-5-mini"]), ("*-?", ["gpt-5", "ft:gpt-4"]),
    ("Large", ["Llama-large"]), ("[lL]lama*", ["Llama-large"]),
    ("", ["gpt-5", "gpt-5-mini", "ft:gpt-4", "Llama-large"])])
def test_models_of_a_pattern(ask, server, pattern, found):
    """Part of a name, or a glob for the whole of it; upper case is lower case."""
    server.json({"object": "list", "data": [{"id": id} for id in ("gpt-5", "gpt-5-mini", "ft:gpt-4", "Llama-large")]})
    assert ask("models", pattern) == (0, "".join(f"{name}\n" for name in found), "")


def test_no_model_of_a_pattern(ask, server):
    """Exit 1 and one line; a provider that has no models at all is none of that."""
    for ids in (["small"], ["small"], []):
        server.json({"object": "list", "data": [{"id": name} for name in ids]})
    assert ask("models", "gpt*") == (1, "", 'llmlite: none of 1 models is like "gpt*"\n')
    assert ask("models", "xai").err == 'llmlite: none of 1 models is like "xai": llmlite models -p xai\n'
    assert ask("models") == (0, "", "")


def test_models_of_a_provider_that_stands_as_a_pattern(run):
    """`models openai` says how it is written."""
    code, out, err = run("models", "openai")
    assert (code, out) == (1, "") and one_line(err) and "-p NAME" in err and err.endswith("models -p openai)\n")


def test_providers(run, monkeypatch):
    """A row for each: name, whether the key is set, its variables, base URL; no key is shown."""
    monkeypatch.setenv("GROQ_API_KEY", "gsk-secret")
    monkeypatch.setenv("GEMINI_API_KEY", "AIza-secret")
    code, out, _ = run("providers")
    assert code == 0 and "secret" not in out
    head, *rows = [re.split(" {2,}", line) for line in out.splitlines()]
    assert head == ["NAME", "SET", "KEY VARIABLE", "BASE URL"]
    assert [(row[0], *row[3:]) for row in rows if row[0]] == [
        (name, url or "-") for name, url, _ in llmlite.providers()]
    assert [row[2] for row in rows if row[2] != "-"] == " ".join(names for *_, names in llmlite.providers()).split()
    found = {row[0]: row[1:] for row in rows}
    assert found["groq"][:2] == ["yes", "GROQ_API_KEY"] and found["openai"][:2] == ["no", "OPENAI_API_KEY"]
    assert found["ollama"][:2] == ["-", "-"]
    assert ["", "yes", "GEMINI_API_KEY"] in rows
    assert max(map(len, [line for line in out.splitlines() if "{" not in line])) <= 120


def test_providers_of_a_pattern(run):
    """PATTERN picks rows; none: exit 1 and one line."""
    rows = run("providers", "Olla*").out.splitlines()
    assert [row.split()[0] for row in rows] == ["NAME", "ollama-cloud", "ollama"]
    code, out, err = run("providers", "opnai")
    assert (code, out) == (1, "") and one_line(err) and re.search(r'none of \d+ providers is like "opnai"', err)


@beside
def test_what_starting_imports():
    """--version brings in none of what only some commands need."""
    ran = finished("--version", PYTHONPROFILEIMPORTTIME="1")
    found = set(re.findall(r"\| +([\w.]+)$", ran.err, re.M))
    assert "llmlite.client" in found
    rare = {"asyncio", "difflib", "distributed", "tqdm", *(() if "coverage" in found else ("sqlite3",)),
            *(f"llmlite.{name}" for name in ("batch", "jobs", "report", "testing", "vendor", "completion"))}
    assert sorted(rare & found) == []
