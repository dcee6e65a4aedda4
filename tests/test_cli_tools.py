"""`llmlite --tool module:function`, and what -v shows beside the answer."""
import json
import os
import sys

import pytest

from tests import VENDORED, testing
from tests.cli import one_line

pytestmark = pytest.mark.skipif(VENDORED, reason="the command line is no part of client.py")

CLOCK = '''
import sys

class Zone:
    @staticmethod
    def shift(hours: int) -> int:
        """Shift."""
        return hours + 1

def now(place: str) -> str:
    """The time at a place."""
    return f"5 o'clock in {place}"

def odd(value: sys):
    """It cannot be described."""

number = 5
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a module in it, which is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "its_clock.py").write_text(CLOCK)
    (tmp_path / "its_trouble.py").write_text("raise ValueError('no\\nbattery')")
    (tmp_path / "its_script.py").write_text("import sys; sys.exit(0)")
    before = list(sys.path)
    yield tmp_path
    assert sys.path == before
    for name in ("its_clock", "its_trouble", "its_script"):
        sys.modules.pop(name, None)


def call(name="now", **arguments):
    return {"id": "c1", "name": name, "arguments": arguments}


@pytest.mark.parametrize("how", [[], ["--no-stream"]])
def test_tool(ask, server, here, how):
    """A function of a module in this folder is called, and its result sent; --usage tells of both requests."""
    server.reply("", tool_calls=[call(place="Bern")], usage=(10, 2))
    server.reply("It is five.", usage=(20, 4))
    code, out, err = ask("What time is it?", "--tool", "its_clock:now", "--usage", *how)
    assert (code, out) == (0, "It is five.\n")
    assert one_line(err) and "30 input tokens" in err and "6 output tokens" in err and "2 attempt(s)" in err
    first, second = server.requests
    assert first.json["tools"][0]["function"]["description"] == "The time at a place."
    assert second.json["messages"][-1]["content"] == "5 o'clock in Bern"


def test_several_tools_and_their_json(ask, server, here):
    """--tool may be given again, for a method too; the one object has the whole exchange."""
    server.reply("", tool_calls=[call("shift", hours=4)])
    server.reply("Five")
    ran = ask("And later?", "--tool", "its_clock:now", "--tool", "its_clock:Zone.shift", "--json")
    told = json.loads(ran.out)
    assert [message["role"] for message in told["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert [tool["function"]["name"] for tool in server.requests[0].json["tools"]] == ["now", "shift"]
    assert told["messages"][2]["content"] == "5"


@pytest.mark.parametrize("word, words", [
    ("its_clock", "--tool its_clock: no such function (give MODULE:FUNCTION"),
    ("its_clock:", "--tool its_clock:: no such function"),
    ("its_clock:then", "--tool its_clock:then: no such function: AttributeError: module 'its_clock' has no attribute"),
    ("its_watch:now", "--tool its_watch:now: no such function: ModuleNotFoundError: No module named 'its_watch'"),
    ("its_trouble:now", "--tool its_trouble:now: no such function: ValueError: no battery"),
    ("its_script:now", "--tool its_script:now: no such function: SystemExit: 0"),
    (".:now", "--tool .:now: no such function: "),
    (":now", "--tool :now: no such function: ValueError: Empty module name (give MODULE:FUNCTION"),
    ("../its_clock.py:now", "--tool ../its_clock.py:now: no such function: "),
    ("its_clock:number", "--tool its_clock:number: 5: give a function\n"),
    ("its_clock:Zone", "--tool its_clock:Zone: <class 'its_clock.Zone'>: give a function\n"),
    ("its_clock:odd", "--tool its_clock:odd: odd(): "),
])
def test_what_is_no_tool(ask, server, here, word, words):
    """A word that leads to no function that a model can call: exit 1, one line that names the flag, nothing is sent."""
    code, out, err = ask("Hi", "--tool", word)
    assert (code, out, server.requests) == (1, "", []) and one_line(err) and err.startswith(f"llmlite: {words}")


@pytest.mark.parametrize("word, meant", [
    ("its_clock.py:now", "its_clock:now"), ("its_clock.py", "its_clock:FUNCTION"), ("./its_clock:now", "its_clock:now"),
    ("a/its_clock.py:Zone.shift", "a.its_clock:Zone.shift")])
def test_a_tools_path(ask, here, word, meant):
    """Who gives a file's path is told what to write."""
    assert ask("Hi", "--tool", word).err.endswith(f" (write {meant})\n")


def test_rounds_that_do_not_end(ask, server, here):
    """-o max_rounds bounds the rounds; the error names it as it is given here."""
    for _ in range(2):
        server.reply("", tool_calls=[call(place="Bern")])
    code, out, err = ask("Hi", "--tool", "its_clock:now", "-o", "max_rounds=2")
    assert (code, out) == (1, "") and one_line(err) and "2 rounds of tools and no answer" in err
    assert "(raise -o max_rounds=)" in err and "max_rounds" not in server.requests[0].json


def test_text_between_rounds_has_a_line_of_its_own(ask, server, here):
    """What a model says before a call is a line."""
    server.reply("Let me see.", tool_calls=[call(place="Bern")])
    server.reply("It is five.")
    assert ask("What time is it?", "--tool", "its_clock:now").out == "Let me see.\nIt is five.\n"


@pytest.mark.parametrize("how, shown", [
    ([], "Five.\n"), (["--no-stream"], "Five.\n"), (["--schema", "{}"], '"Five."\n')])
def test_thoughts(ask, server, how, shown):
    """-v shows on stderr what the model thinks, whatever goes to stdout; without it nothing is there."""
    for _ in range(2):
        server.reply('"Five."' if how[:1] == ["--schema"] else "Five.", reasoning="It is\nlate.")
    assert ask("What time is it?", *how) == (0, shown, "")
    assert ask("What time is it?", "-v", *how) == (0, shown, "It is\nlate.\n")


def test_calls_and_retries_are_shown(ask, server, here):
    """-v shows each function that is called, with what, and each retry, where stderr is no terminal too."""
    server.error(429, retry_after=0.01)
    server.reply("Let me see.", reasoning="Hm", tool_calls=[call(place="Bern")])
    server.reply("Five", reasoning="Ah")
    code, out, err = ask("What time is it?", "--tool", "its_clock:now", "--verbose")
    retry, *rest = err.splitlines()
    assert (code, out) == (0, "Let me see.\nFive\n")
    assert "retry 1 in" in retry and retry.endswith("(send less: fewer --workers, or --rpm)")
    assert rest == ["Hm", 'now({"place": "Bern"})', "Ah"]


@pytest.mark.parametrize("environment, begin, end", [
    ({}, "\x1b[2m", "\x1b[0m"), ({"NO_COLOR": "1"}, "", ""), ({"TERM": "dumb", "WT_SESSION": ""}, "", "")])
def test_thoughts_are_dim_on_a_terminal(ask, server, monkeypatch, environment, begin, end):
    """On a terminal they are dim, if it can and may show that, without the model's own control characters."""
    for name in ("TERM", "WT_SESSION"):
        monkeypatch.setenv(name, "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    server.reply("Five", reasoning="Hm\x1b[31m\x07")
    assert ask("Hi", "-v").err == f"{begin}Hm[31m{end}\n"


def test_text_after_which_thoughts_come(ask, server):
    """Thoughts in between do not stand on the text's line, nor it on theirs."""
    pieces = [{"content": "One"}, {"reasoning_content": "Two"}, {"content": ""}, {"content": "Three"}]
    server.sse([*({"choices": [{"index": 0, "delta": delta}]} for delta in pieces),
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, "[DONE]"])
    assert ask("Hi", "-v") == (0, "One\nThree\n", "Two\n")


def test_a_batch_has_no_rounds(run, tmp_path):
    """-o max_rounds is refused where no functions run: exit 2 and one line."""
    code, out, err = run("batch", "in.jsonl", "-o", str(tmp_path / "out.jsonl"), "-o", "max_rounds=3", "-m", "ollama/x")
    assert (code, out) == (2, "") and one_line(err) and "max_rounds has no meaning in a batch" in err


def test_this_folder_is_on_the_path_for_tools_alone(ask, server, here):
    """A folder's modules are not imported unasked: they may be anybody's."""
    found = []

    def provider(request):
        found.append(sys.path[0])
        return testing.reply("ok")

    server.handle(provider)
    assert ask("Hi").code == ask("Hi", "--tool", "its_clock:now").code == 0
    assert [os.path.samefile(path or os.sep, here) for path in found] == [False, True]


def test_a_module_that_puts_the_path_in_order(ask, server, here):
    """What a module has done to the path is left to it."""
    (here / "its_clock.py").write_text(CLOCK + "\nsys.path.pop(0)\n")
    server.reply("ok")
    assert ask("Hi", "--tool", "its_clock:now").code == 0
