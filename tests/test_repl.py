"""`llmlite chat`: what it sends, what it shows on a terminal and over pipes, how it ends."""
import base64
import contextlib
import io
import json
import os
import re
import select
import stat
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

from llmlite.__main__ import main
from tests import VENDORED, testing

pytestmark = pytest.mark.skipif(VENDORED, reason="the command line is no part of client.py")

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PNG = b"\x89PNG\r\n\x1a\n"
POSIX = pytest.mark.skipif(os.name != "posix", reason="terminals, modes and programs of POSIX")


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys):
    """`llmlite chat` in this process, with these lines on stdin."""
    def run(*lines, words=(), stdin=None):
        monkeypatch.setattr(sys, "stdin", stdin or io.StringIO("".join(f"{line}\n" for line in lines)))
        code = main(["chat", *words])
        return Ran(code, *capsys.readouterr())
    return run


@pytest.fixture
def say(run, server):
    """The same, with the server as the provider."""
    def say(*lines, words=(), **how):
        return run(*lines, words=["-m", "test", "--base-url", server.url, *words], **how)
    return say


def messages(request):
    """What a request says, as (role, content)."""
    return [(message["role"], message["content"]) for message in request.json["messages"]]


def asked(server):
    """The last words of each request."""
    return [messages(request)[-1][1] for request in server.requests]


# lines


def test_each_line_is_a_turn(say, server):
    """Lines that are piped in go out one by one, each with all that was said before; answers alone are on stdout."""
    server.stream(["Hello", "."])
    server.reply("Bye.\n")
    assert say("Hi", "", "  ", "And now?") == (0, "Hello.\nBye.\n", "")
    assert messages(server.requests[1]) == [("user", "Hi"), ("assistant", "Hello."), ("user", "And now?")]
    assert server.requests[0].json["stream"] is True


@pytest.mark.parametrize("typed, text", [
    ("a\\\nb\\\n\\\nc", "a\nb\n\nc"),
    ('"""\na\n\n b\n"""', "a\n\n b"),
    ('"""a\nb"""', "a\nb"),
    ('"""a"""', "a"),
    ('  """\na\n  """  ', "a\n  "),
    ('"""\n/quit\n"""', "/quit"),
    ("a\\", "a\n"),
    ('"""\na\nb', "a\nb"),
    (" /quit", " /quit"),
    ("/etc/hosts has what?", "/etc/hosts has what?"),
    ("// why?", "// why?"),
    ("/etc\\\n/usr", "/etc\n/usr"),
    ("quit", "quit"),
    ("größe 日本 \U0001f600", "größe 日本 \U0001f600"),
])
def test_what_is_a_message(say, server, typed, text):
    """Lines that end in a backslash go on, quotes hold many; what is no command goes out as it is."""
    server.reply("ok")
    assert say(typed).code == 0
    assert asked(server) == [text]


@pytest.mark.parametrize("data", [b"Hi\n\x89PNG\r\n\x1a\n\0\n", b"Hi\n\\\ncaf\xe9\nHi\n", b"Hi\n\0\nHi\n"])
def test_what_is_no_text_is_not_sent(say, server, data):
    """It ends a pipe, with one line: what follows is of the same file."""
    server.reply("ok", times=None)
    code, out, err = say(stdin=io.TextIOWrapper(io.BytesIO(data), "ascii"))
    assert (code, out, asked(server)) == (1, "ok\n", ["Hi"])
    assert err.startswith("llmlite: stdin is of unknown type (b'") and err.endswith(
        " is no text in UTF-8 (/file takes images, PDF and sound)\n") and err.count("\n") == 1


def test_blank_messages_are_not_sent(say, server):
    """Quotes around nothing are nothing."""
    assert say('""""""', '"""', '"""', "\\", "") == (0, "", "")
    assert not server.requests


@pytest.mark.parametrize("typed, says", [
    ("/modle", "there is no /modle: /model? (/help lists them; a space before it sends it)"),
    ("/co", "there is no /co: /compact or /copy-last? (/help"),
    ("/HLEP", "there is no /HLEP: /help? (/help"),
    ("/exit", "there is no /exit: /quit? (/help"),
    ("/nope", "there is no /nope (/help"),
    ("/to", "there is no /to (/help"),
    ("/xyzzy now", "there is no /xyzzy (/help"),
    ("/", "there is no / (/help"),
    ("/undo it", "/undo stands alone"),
    ("/load", "/load PATH: give one"),
    ("/file nowhere.png", "llmlite: /file 'nowhere.png': No such file"),
    ("/load nowhere.json", "nowhere.json is no saved conversation: No such file"),
    ("/retry", "nothing was said that could be sent again"),
    ("/copy-last", "there is no answer to copy"),
])
def test_what_cannot_be_done(say, server, typed, says):
    """It is one line on stderr, nothing is sent, and the exit code tells in the end."""
    code, out, err = say(typed)
    assert (code, out) == (1, "") and err.startswith("llmlite: ") and err.count("\n") == 1
    assert says in err
    assert not server.requests


def test_nothing_on_stdin(say):
    """No line, or no stdin at all, is the end."""
    assert say() == (0, "", "")


def test_no_stdin(monkeypatch, say, server):
    """A process without a stdin has nothing to say."""
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["chat", "-m", "test", "--base-url", server.url]) == 0


class Keyboard(io.StringIO):
    """A terminal's end, where stdout is none."""

    def isatty(self):
        return True


@pytest.mark.parametrize("stderr", [True, False])
def test_stdout_is_a_file(say, server, monkeypatch, stderr):
    """Who types while stdout goes elsewhere is asked on stderr, if there is one."""
    server.reply("ok")
    if not stderr:
        monkeypatch.setattr(sys, "stderr", None)
    ran = say(stdin=Keyboard("Hi\\\nyou\n/system\n"))
    assert ran.out == "ok\n"
    assert ran.err == ("> . > llmlite: system: none\n> " if stderr else "")
    assert asked(server) == ["Hi\nyou"]


def test_quit_and_help(say, server):
    """/quit ends before the rest; /help names every command."""
    code, out, err = say("/help", "/quit", "Hi")
    assert (code, out, server.requests) == (0, "", [])
    assert re.findall(r"^llmlite: /([\w-]+) ", err, re.M) == [
        "model", "system", "file", "save", "load", "usage", "retry", "undo", "compact", "copy-last", "help", "quit"]
    assert 'ends in "\\"' in err and "llmlite: /save [PATH]     write the conversation to a file\n" in err


def test_a_model_is_needed(run):
    """Without one a line says where to give it."""
    code, _, err = run("Hi")
    assert code == 1 and err.count("\n") == 1 and "give -m PROVIDER/MODEL" in err


def test_options(say, server, tmp_path):
    """-s, -o and -f are heeded; the file goes with the first message only."""
    server.reply("ok", times=2)
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    assert say("Hi", "you", words=["-s", "Short.", "-o", "temperature=0", "-o", "foo=1", "-f", str(path)]).code == 0
    first, second = server.requests
    assert first.json["temperature"] == 0 and first.json["foo"] == 1
    assert messages(first)[0] == ("system", "Short.")
    assert [part["type"] for part in messages(first)[1][1]] == ["text", "image_url"]
    assert messages(second)[-1] == ("user", "you")


# turns


def test_a_failed_turn(say, server):
    """It is one line, the talk goes on without it, and /retry sends it again, with its files; the exit code is 1."""
    server.reply("one")
    server.error(400, "no such\nthing")
    server.reply("two")
    code, out, err = say("a", "b", "/retry")
    assert (code, out) == (1, "one\ntwo\n")
    assert re.fullmatch(r"llmlite: .*400.*no such thing.*; /retry sends it again\n", err)
    assert asked(server) == ["a", "b", "b"]
    assert messages(server.requests[2]) == [("user", "a"), ("assistant", "one"), ("user", "b")]


def test_a_failed_turn_and_another(say, server):
    """What is said next goes out without what failed; after that there is nothing left of it."""
    server.error(400)
    server.reply("ok", times=2)
    assert say("a", "b", "/retry").code == 1
    assert [messages(request) for request in server.requests] == [[("user", "a")], [("user", "b")], [("user", "b")]]


def test_an_answer_that_breaks(say, server):
    """What came of it stays; /retry takes it back and asks again."""
    server.sse([{"choices": [{"index": 0, "delta": {"content": "half"}}]}])
    server.reply("whole")
    server.reply("ok")
    code, out, err = say("a", "/retry", "b")
    assert (code, out) == (1, "half\nwhole\nok\n")
    assert err.count("\n") == 1 and err.endswith("; what came is kept, /retry asks again\n")
    assert messages(server.requests[2]) == [("user", "a"), ("assistant", "whole"), ("user", "b")]


def test_too_long(say, server):
    """Where the history does not fit any more, the line names /compact."""
    server.error(400, "too long", code="context_length_exceeded")
    assert say("a").err.endswith("; /retry sends it again, /compact makes room\n")


@pytest.mark.parametrize("how, says", [
    ({"finish_reason": "length"}, "the answer was cut at the token limit"),
    ({"finish_reason": "content_filter"}, "the answer was cut or withheld by a content filter"),
    ({"text": ""}, "the answer is empty"),
])
def test_what_the_text_does_not_tell(say, server, how, says):
    """An answer that is cut, withheld or empty leaves a line."""
    server.reply(**{"text": "ok", **how})
    assert say("a").err == f"llmlite: {says}\n"


def test_thinking(say, server):
    """It shows with -v, and never on stdout of a pipe."""
    server.stream(["The ", "answer."], reasoning=["Let ", "me see."], times=2)
    assert say("a") == (0, "The answer.\n", "")
    assert say("a", words=["-v"]) == (0, "The answer.\n", "Let me see.\n\n")


def test_a_tool(say, server, tmp_path, monkeypatch):
    """A function of the current folder's is run, with a line that says so."""
    (tmp_path / "my_tools_of_chat.py").write_text('def add(a: int, b: int) -> int:\n    """Add."""\n    return a + b\n')
    monkeypatch.chdir(tmp_path)
    server.reply("Let me see.", tool_calls=[{"name": "add", "arguments": {"a": 1, "b": 2}}])
    server.reply("3")
    ran = say("1 + 2?", words=["--tool", "my_tools_of_chat:add"])
    assert ran == (0, "Let me see.\n3\n", "llmlite: add(a=1, b=2)\n")
    assert messages(server.requests[1])[-1] == ("tool", "3")


def test_a_tool_that_nobody_runs(say, server):
    """A call of a tool that is no function here takes the turn back: no history may end so."""
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    server.reply("", tool_calls=[{"name": "add", "arguments": {}}])
    server.reply("ok")
    code, out, err = say("a", "b", words=["-o", "tools=" + json.dumps([tool])])
    assert (code, out) == (1, "ok\n")
    assert err.endswith("llmlite: the model calls what nobody here can answer; the turn is taken back\n")
    assert messages(server.requests[1]) == [("user", "b")]


def test_interrupted_in_a_pipe(say, server, tmp_path, monkeypatch):
    """Ctrl-C ends it where no terminal is, in an answer and in a command."""
    (tmp_path / "tools_that_stop.py").write_text("def stop() -> int:\n    raise KeyboardInterrupt\n")
    monkeypatch.chdir(tmp_path)
    server.reply("", tool_calls=[{"name": "stop", "arguments": {}}], times=2)
    assert say("a", "b", words=["--tool", "tools_that_stop:stop"]).code == 130
    assert len(server.requests) == 1


class Interrupted(io.StringIO):
    """Lines that somebody waits for in vain."""

    def readline(self, size=-1):
        raise KeyboardInterrupt


def test_interrupted_between_lines(say):
    """So does Ctrl-C while the next line is waited for."""
    assert say(stdin=Interrupted()) == (130, "", "")


# commands


def test_model(run, server, monkeypatch):
    """/model takes provider/model, or a model of the same provider; one that cannot be had changes nothing."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("MISTRAL_API_KEY", "sk-2")
    monkeypatch.setenv("MISTRAL_BASE_URL", server.url)
    server.reply("ok", times=4)
    code, _, err = run("Hi", "/model b", "Hi", "/model anthropic/c", "Hi", "/model mistral/d", "Hi", "/model",
                       words=["-m", "openai/a"])
    assert code == 1
    assert [(request.json["model"], request.headers["authorization"]) for request in server.requests] == [
        ("a", "Bearer sk-1"), ("b", "Bearer sk-1"), ("b", "Bearer sk-1"), ("d", "Bearer sk-2")]
    first, missing, *rest = err.splitlines()
    assert first == "llmlite: b at openai" and "ANTHROPIC_API_KEY" in missing
    assert rest == ["llmlite: d at mistral"] * 2
    assert len(messages(server.requests[3])) == 7


def test_model_at_a_base_url(say, server):
    """With --base-url the name is the model's id as it is."""
    server.reply("ok")
    assert say("/model openai/b", "Hi").err == f"llmlite: openai/b at {server.url.split('/')[2]}\n"
    assert server.requests[0].json["model"] == "openai/b"


def test_system(say, server):
    """/system sets, shows and drops the system prompt."""
    server.reply("ok", times=2)
    assert say("/system  Be\\", "short. ", "a", "/system", "/system -", "b").err.splitlines() == [
        "llmlite: system: Be", "llmlite: short.", "llmlite: system: Be", "llmlite: short.", "llmlite: system: none"]
    assert messages(server.requests[0])[0] == ("system", "Be\nshort.")
    assert messages(server.requests[1])[0] == ("user", "a")


@pytest.mark.parametrize("typed", [
    "{}/a b.txt", "{}/it's.txt", '"{}/a b.txt"', pytest.param("'{}/a b.txt'", marks=POSIX),
    pytest.param("{}/a\\ b.txt", marks=POSIX)])
def test_file(say, server, tmp_path, typed):
    """/file takes a path as it is, quoted, or escaped as a terminal does it; the next message carries it, once."""
    (tmp_path / "a b.txt").write_text("text of the file")
    (tmp_path / "it's.txt").write_text("text of the file")
    server.reply("ok", times=2)
    ran = say("/file " + typed.format(tmp_path), "/file", "what?", "/file", "b", "/undo", "/undo")
    assert ran.err.endswith("llmlite: taken back: b\nllmlite: taken back: what?\n")
    assert ran.code == 0 and ran.err.count("1 file with") == 1 and ran.err.count("0 files with") == 1
    content = asked(server)[0]
    assert content[0] == {"type": "text", "text": "what?"} and "text of the file" in json.dumps(content[1])
    assert asked(server)[1] == "b"


def test_save_and_load(say, server, tmp_path):
    """What is saved is loaded, with its system prompt; the file is the owner's alone."""
    path = tmp_path / "talk one.json"
    server.reply("ok", times=2)
    ran = say("/system Short.", "a", f"/save {path}", "/system -", f"/load {path}", "b", "/save")
    assert ran.err.splitlines()[1:] == [
        f"llmlite: 2 messages saved in {path}", "llmlite: system: none", f"llmlite: 2 messages loaded from {path}",
        f"llmlite: 4 messages saved in {path}"]
    assert messages(server.requests[1]) == [("system", "Short."), ("user", "a"), ("assistant", "ok"), ("user", "b")]
    assert len(json.loads(path.read_text())["messages"]) == 4
    assert os.name != "posix" or stat.S_IMODE(path.stat().st_mode) == 0o600


def test_save_without_a_name(say, server, tmp_path, monkeypatch):
    """The file's name is the time's then."""
    monkeypatch.chdir(tmp_path)
    assert say("/save").code == 0
    name, = os.listdir(tmp_path)
    assert re.fullmatch(r"chat-\d{8}-\d{6}\.json", name)


def test_save_onto_others(say, server, tmp_path):
    """What is no saved conversation is not overwritten; what cannot be written is told."""
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    code, _, err = say(f"/save {path}", f"/save {tmp_path}/no/a.json")
    assert code == 1 and path.read_text() == "mine"
    first, second = err.splitlines()
    assert "notes.txt is no saved conversation" in first and first.endswith("; it stays as it is")
    assert second.startswith(f"llmlite: {tmp_path}/no/a.json: No such file")


def test_load_drops_nothing_unasked(say, server, tmp_path):
    """/load onto what is not saved needs to be said twice; what counts as long stays, if the file does not tell."""
    path = tmp_path / "a.json"
    path.write_text('{"messages": []}')
    server.reply("ok", times=2)
    err = say("a", f"/load {path}", f"/load {path}", "b", "/save", words=["--compact-at", "77"]).err.splitlines()
    assert err[0].startswith("llmlite: what was said here is not saved") and err[1].startswith("llmlite: 0 messages")
    assert messages(server.requests[1]) == [("user", "b")]
    assert json.loads(path.read_text())["compact_at"] == 77


def test_usage(say, server):
    """/usage sums up all clients' calls, and the conversation's since it was last summed up."""
    server.reply("ok", usage={"prompt_tokens": 1200, "completion_tokens": 3,
                              "prompt_tokens_details": {"cached_tokens": 1000}}, times=2)
    server.error(400)
    err = say("/usage", "a", "/model other", "b", "c", "/usage").err.splitlines()
    assert re.fullmatch(r"llmlite: since \d\d:\d\d: 0 calls; 0 input tokens, 0 output tokens", err[0])
    assert err[1] == "llmlite: this conversation: 0 messages; 0 input tokens, 0 output tokens"
    assert re.fullmatch(r"llmlite: since \d\d:\d\d: 2 calls, 1 failed; 2,400 input tokens "
                        r"\(2,000 cached\), 6 output tokens", err[-2])
    assert err[-1] == "llmlite: this conversation: 4 messages; 2,400 input tokens (2,000 cached), 6 output tokens"


def test_retry(say, server, tmp_path):
    """/retry asks for another answer to the same, the cache's not; one that fails leaves the first."""
    server.reply("one", usage=(5, 1))
    server.reply("two")
    server.error(400)
    server.reply("three")
    code, out, err = say("a", "/retry", "/retry", "b", "/usage", words=["--cache", str(tmp_path / "cache.db")])
    assert (code, out) == (1, "one\ntwo\nthree\n") and "/retry sends it again" in err
    assert [len(messages(request)) for request in server.requests] == [1, 1, 1, 3]
    assert messages(server.requests[3])[1] == ("assistant", "two")


def test_undo(say, server):
    """/undo takes the last turn back, first what failed of it."""
    server.reply("ok", times=3)
    server.error(400)
    server.reply("ok")
    text = "a long question: " + "why " * 30
    err = say("a", text, "/undo", "b", "c", "/undo", "/undo", "/undo", "/undo", "d").err.splitlines()
    assert err[0] == "llmlite: taken back: " + text[:67] + "..."
    assert [line.partition(": ")[2] for line in err[2:]] == [
        "taken back: c", "taken back: b", "taken back: a", "nothing to take back"]
    assert messages(server.requests[-1]) == [("user", "d")]


def test_compact(say, server):
    """/compact sums up all but the last two turns; a failure leaves all as it was."""
    server.reply("ok", times=3)
    server.error(400)
    server.reply("They talked.", usage=(9, 2))
    server.reply("ok")
    code, out, err = say("/compact", "a", "b", "c", "/compact", "/compact", "/usage", "d")
    assert (code, out) == (1, "ok\n" * 4)
    lines = err.splitlines()
    assert lines[0] == "llmlite: too little was said to sum it up" and "400" in lines[1]
    assert lines[2] == "llmlite: 6 messages are 5 now; the summary took 9 input tokens, 2 output tokens"
    assert lines[4] == ("llmlite: this conversation, since it was summed up: 5 messages; 0 input tokens, "
                        "0 output tokens")
    assert "They talked." in messages(server.requests[-1])[0][1]


@pytest.fixture
def clipboard(tmp_path, monkeypatch):
    """Programs that write what they are called with, and what they get, into files."""
    def clipboard(**programs):
        for name, code in programs.items():
            path = tmp_path / "bin" / name.replace("wl_", "wl-").replace("_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\necho ${{0##*/}} $* >{tmp_path}/called\n"
                            f"/bin/cat >{tmp_path}/clipboard\nexit {code}\n")
            path.chmod(0o700)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
        monkeypatch.delenv("DISPLAY", raising=False)
        return tmp_path / "clipboard"
    return clipboard


@POSIX
@pytest.mark.parametrize("programs, display, taker", [
    ({"wl_copy": 0, "pbcopy": 0}, "", "wl-copy"), ({"wl_copy": 1, "pbcopy": 0}, "", "pbcopy"),
    ({"xsel": 0, "pbcopy": 0}, "", "pbcopy"), ({"xsel": 0, "pbcopy": 0}, ":0", "xsel -bi"),
    ({"xclip": 0, "xsel": 0}, ":0", "xclip -selection clipboard"), ({"clip_exe": 0}, "", "clip.exe")])
def test_copy_last(say, server, clipboard, tmp_path, monkeypatch, programs, display, taker):
    """/copy-last gives the last answer to the first program that takes it."""
    server.reply("größe")
    server.reply("")
    held = clipboard(**programs)
    monkeypatch.setenv("DISPLAY", display)
    assert say("a", "b", "/copy-last").err.splitlines()[-1] == f"llmlite: 5 characters copied ({taker.split()[0]})"
    assert held.read_text(encoding="utf-16" if taker == "clip.exe" else "utf-8") == "größe"
    assert (tmp_path / "called").read_text() == f"{taker}\n"


@POSIX
def test_no_clipboard(say, server, clipboard):
    """Without such a program, and no terminal, a line says what is missing."""
    server.reply("ok")
    clipboard()
    code, _, err = say("a", "/copy-last")
    assert code == 1 and "no clipboard here: wl-copy, xclip, xsel or pbcopy is needed" in err


# another time


def test_continue(say, server, tmp_path, monkeypatch):
    """The talk as it is in the end is the last one, for prompts and chats that go on with it, and its model."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    server.reply("ok", times=7)
    assert say("a", "/model other", "b", "c", "/undo").code == 0
    assert main(["--continue", "d"]) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("e\n"))
    assert main(["chat", "-c"]) == 0
    assert [text for role, text in messages(server.requests[-1]) if role == "user"] == ["a", "b", "d", "e"]
    assert [request.json["model"] for request in server.requests] == ["test", "other", "other", "other", "other"]
    monkeypatch.setenv("LLMLITE_NO_HISTORY", "1")
    assert say("f").code == 0
    monkeypatch.setenv("LLMLITE_NO_HISTORY", "0")
    assert main(["-c", "g"]) == 0
    assert [text for role, text in messages(server.requests[-1]) if role == "user"] == ["a", "b", "d", "e", "g"]


def test_continue_after_load_and_compact(say, server, tmp_path, monkeypatch):
    """So it is after /load and /compact, and a failed turn leaves it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    server.reply("ok", times=3)
    server.reply("They talked.")
    server.error(400)
    server.reply("ok", times=2)
    path = tmp_path / "talk.json"
    assert say("a", "b", "c", "/compact", f"/save {path}", "no").code == 1
    assert main(["-c", "d"]) == 0
    assert [len(messages(request)) for request in server.requests[-2:]] == [5, 5]
    assert say(f"/load {path}").code == 0
    assert main(["-c", "e"]) == 0
    assert [text for _, text in messages(server.requests[-1])][1:] == ["ok", "c", "ok", "e"]


def test_errors_name_what_was_typed(run, say, monkeypatch):
    """What is wrong with an option is told in the command line's words, with a command in the command's."""
    code, _, err = say(words=["-f", "nowhere.png"])
    assert code == 1 and err.startswith("llmlite: -f 'nowhere.png'") and err.count("\n") == 1
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    err = run("/model openai", words=["-m", "openai/a"]).err
    assert err.startswith("llmlite: /model 'openai' names no model (") and "base_url=" not in err


def test_without_a_home(say, server, monkeypatch):
    """Nothing is kept where there is no place for it."""
    monkeypatch.setenv("HOME", "~")
    for name in ("XDG_STATE_HOME", "LOCALAPPDATA", "USERPROFILE", "HOMEPATH"):
        monkeypatch.delenv(name, raising=False)
    server.reply("ok")
    code, out, err = say("a")
    assert (code, out) == (0, "ok\n")


# a terminal


class Terminal:
    """The command line on a terminal of its own."""

    def __init__(self, *words, before="", **env):
        self.pty = pytest.importorskip("pty")
        self.ours, theirs = self.pty.openpty()
        code = f"import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); {before}\n" \
               "from llmlite.__main__ import main; sys.exit(main())"
        path = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))
        given = {**os.environ, "PYTHONPATH": path, "TERM": "xterm", "LLMLITE_NO_HISTORY": "1", **env}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "chat", *words], stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True, env={name: value for name, value in given.items() if value is not None})
        os.close(theirs)
        self.bytes, self.seen = b"", 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0] is None and self.process.returncode is None:
            while not self.screen.endswith("> "):  # for what is typed before is lost
                assert self.read(20), self.screen
            self.type("\x04")
            self.end()
        self.process.kill()
        self.process.wait()
        os.close(self.ours)

    @property
    def screen(self):
        """What it shows, without colours and the like."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x07", "", self.bytes.decode("utf-8", "replace"))
        return text.replace("\r\n", "\n").replace("\r", "")

    def read(self, seconds):
        if select.select([self.ours], [], [], seconds)[0]:
            with contextlib.suppress(OSError):  # Linux: the last writer has left
                piece = os.read(self.ours, 10_000)
                self.bytes += piece
                return bool(piece)
        return False

    def wait_for(self, text, seconds=20):
        """Read on until the screen shows this, below where it was found before."""
        end = time.monotonic() + seconds
        while text not in self.screen[self.seen:]:
            assert self.read(max(0.0, end - time.monotonic())), f"{text!r} did not come:\n{self.screen}"
        self.seen = self.screen.index(text, self.seen) + len(text)

    def type(self, keys):
        os.write(self.ours, keys.encode())

    def interrupt(self, shows):
        """Ctrl-C; again, if Python had the first before it waited for keys, where it notices none."""
        time.sleep(0.03)
        self.type("\x03")
        try:
            self.wait_for(shows, 3)
        except AssertionError:
            self.type("\x03")
            self.wait_for(shows)

    def enter(self, line, shows="\n\n> "):
        self.type(line + "\r")
        self.wait_for(shows)

    def end(self):
        """The exit code."""
        while self.read(20):
            pass
        return self.process.wait(20)


@contextlib.contextmanager
def terminal(server, *words, **how):
    with Terminal("-m", "test", "--base-url", server.url, *words, **how) as shown:
        shown.wait_for("ends\n\n> ")
        yield shown


SCREEN = """\
test at HOST; /help lists the commands, Ctrl-D ends

> Why is the sky blue?
Air scatters blue light.

> And at\\
. dusk?
Let me see.

Then only red is left.

> What is 1 + 2?
add(a=1, b=2)
3

> fail
compatible: 400 Bad Request: no such thing; /retry sends it again

> /modle
there is no /modle: /model? (/help lists them; a space before it sends it)

> /usage
since HH:MM: 4 calls, 1 failed; 60 input tokens, 12 output tokens
this conversation: 8 messages; 60 input tokens, 12 output tokens

> Go on
ok
this conversation has used 90 tokens; /compact sums it up

>"""


@POSIX
def test_the_screen(server, tmp_path):
    """A talk as it shows: what is said in bold, answers plain, all else dim, errors red."""
    (tmp_path / "tools_of_screen.py").write_text("def add(a: int, b: int) -> int:\n    return a + b\n")
    server.stream(["Air ", "scatters ", "blue \x1b[31mlight."], usage=(10, 2))
    server.stream(["Then only red is left."], reasoning=["Let ", "me see."], usage=(10, 2))
    server.reply("", tool_calls=[{"name": "add", "arguments": {"a": 1, "b": 2}}], usage=(20, 4))
    server.reply("3", usage=(20, 4))
    server.error(400, "no such thing")
    server.reply("ok", usage=(10, 8))
    path = os.pathsep.join((ROOT, str(tmp_path)))
    with terminal(server, "-v", "--tool", "tools_of_screen:add", "--compact-at", "90", PYTHONPATH=path) as shown:
        shown.enter("Why is the sky blue?")
        shown.enter("And at\\", ". ")
        for line in ("dusk?", "What is 1 + 2?", "fail", "/modle", "/usage", "Go on"):
            shown.enter(line)
        shown.type("\x04")
        assert shown.end() == 0
    screen = re.sub(r"since \d\d:\d\d", "since HH:MM", shown.screen.replace(server.url.split("/")[2], "HOST"))
    assert screen.rstrip() == SCREEN.replace("blue light", "blue [31mlight")
    for piece in (b"> \x1b[1m", b"\x1b[2mme see.\x1b[0m", b"\x1b[2madd(a=1, b=2)\x1b[0m", b"\x1b[31mcompatible: 400",
                  b"scatters blue [31mlight."):
        assert piece in shown.bytes


@POSIX
def test_ctrl_c(server):
    """It stops an answer and keeps what came, stops a command, clears a line; twice at an empty one it ends."""
    server.stream(["one ", "two ", *["more "] * 100], gap=0.05)
    server.reply("ok", times=2)
    server.reply("late", delay=20, times=2)
    with terminal(server) as shown:
        shown.enter("a", "two ")
        shown.interrupt("\nstopped; what came is kept, /retry asks again\n\n> ")
        shown.enter("b")
        shown.enter("c")
        shown.type("half a line")
        shown.wait_for("half a line")
        shown.interrupt("\n> ")
        assert "Ctrl-C again" not in shown.screen
        shown.enter("/compact", "summing up ...")
        assert server.wait_for(4, 20)
        shown.interrupt("\nstopped\n\n> ")
        shown.enter("d", "d\n")
        assert server.wait_for(5, 20)
        shown.interrupt("\nstopped; /retry sends it again\n\n> ")
        shown.interrupt("Ctrl-C again, or Ctrl-D, ends this\n\n> ")
        shown.enter("/undo", "taken back: d\n\n> ")
        shown.interrupt("Ctrl-C again, or Ctrl-D, ends this\n\n> ")
        shown.interrupt("\n")
        assert shown.end() == 130
    (_, first), (_, kept), (_, second) = messages(server.requests[1])
    assert (first, second) == ("a", "b") and re.fullmatch("one two (more )*", kept)


@POSIX
def test_tab(server, tmp_path):
    """The Tab key completes commands, the provider's models, which are asked for once, and paths."""
    (tmp_path / "some folder").mkdir()
    (tmp_path / "some folder" / "sky.txt").write_text("blue")
    server.handle(lambda request: testing.json_body({"data": [{"id": "gpt-a"}, {"id": "org/b"}, {"id": "openai/c"}]})
                  if request.method == "GET" else testing.reply("ok"))
    env = {"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": server.url, "HOME": str(tmp_path)}
    with Terminal("-m", "openai/x", **env) as shown:
        shown.wait_for("ends\n\n> ")
        for keys, line, says in (
                ("/us\t", "/usage", "this conversation: 0"), ("/model gp\t", "/model gpt-a", "gpt-a at openai"),
                ("/mode\tor\t", "/model org/b", "org/b at openai"),
                ("/model openai/op\t", "/model openai/openai/c", "openai/c at openai"),
                ("/model groq\tx", "/model groq/x", "GROQ_API_KEY"),
                ("/file ~/so\tsk\t", "/file ~/some folder/sky.txt", "sky.txt goes with"),
                ("/nothing ~/so\t", "/nothing ~/so", "there is no"), ("no ~/so\t", "no ~/so", "ok")):
            shown.enter(keys, says)
            assert line + "\n" in shown.screen
            shown.wait_for("\n> ")


@POSIX
def test_tab_where_models_cannot_be_listed(server):
    """Then there is nothing to complete, and nothing is said."""
    server.error(404)
    with terminal(server) as shown:
        shown.enter("/model a\tb\t", "ab at ")
        assert " 404" not in shown.screen  # a port may have these digits
    assert len(server.requests) == 1


@POSIX
def test_history(server, tmp_path):
    """What was typed is there again, messages of several lines as one, in a file of its owner's alone."""
    path = tmp_path / "state" / "llmlite" / "history"
    server.reply("ok", times=None)
    env = {"LLMLITE_NO_HISTORY": "0", "XDG_STATE_HOME": str(tmp_path / "state")}
    with terminal(server, **env) as shown:
        for line in ("first", "second", "second"):
            shown.enter(line)
        shown.enter("a\\", ". ")
        shown.enter("b")
    assert [json.loads(line) for line in path.read_text().splitlines()] == ["first", "second", "a\nb"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.write_text('"torn\n' + '"gone"\n' * 1002 + '"old"\n' * 998 + '"second"\n')
    with terminal(server, **env) as shown:
        shown.enter("\x1b[A")  # the arrow
        shown.enter("\x1b[A\x1b[A again")
    assert asked(server)[-2:] == ["second", "old again"]
    entries = path.read_text().splitlines()
    assert entries == ['"old"'] * 998 + ['"second"', '"old again"'] or entries[-1] == '"old again"'


@POSIX
def test_history_that_cannot_be_kept(server, tmp_path):
    """It is told once; all else goes on."""
    server.reply("ok", times=2)
    path = tmp_path / "llmlite" / "history"
    path.mkdir(parents=True)
    env = {"LLMLITE_NO_HISTORY": "", "XDG_STATE_HOME": str(tmp_path)}
    with Terminal("-m", "test", "--base-url", server.url, **env) as shown:
        shown.wait_for(f"{path}: Is a directory; what you type is not kept\n")
        shown.wait_for("\n> ")
        shown.enter("a")
        shown.enter("b")
        assert shown.screen.count("Is a directory") == 1
    assert asked(server) == ["a", "b"]


@POSIX
@pytest.mark.parametrize("env", [{"LC_ALL": "C"}, {"LC_ALL": "xx_YY"}, {"LC_ALL": None, "LANG": "C.UTF-8"}], ids=str)
def test_all_letters_in_every_locale(server, env):
    """UTF-8 is typed, edited and shown whatever the locale."""
    server.reply("größe \U0001f600", times=None)
    with terminal(server, **env) as shown:
        shown.enter("gr\u00f6\u00dfe \u65e5\u672c\x7f\x7f\u672c\x1b[D\u65e5", "größe \U0001f600")
    assert asked(server) == ["größe 日本"]


@POSIX
def test_without_readline(server):
    """Where Python has none (Windows), or no colours are wanted, lines are read and answers shown all the same."""
    server.reply("ok", times=2)
    no_readline = "sys.modules['readline'] = None"
    with terminal(server, before=no_readline) as shown:
        shown.enter("a")
        assert b"> \x1b[1m" in shown.bytes
        shown.enter("exit", "\n")
        assert shown.end() == 0
    with terminal(server, before=no_readline, NO_COLOR="1") as shown:
        os.write(shown.ours, b"caf\xe9\r")  # which readline would drop
        shown.wait_for("byte 4 is no text in UTF-8 (/file takes images, PDF and sound)\n\n> ")
        shown.enter("a")
        assert b"\x1b" not in shown.bytes
        shown.interrupt("Ctrl-C again, or Ctrl-D, ends this\n\n> ")


@POSIX
def test_the_terminals_own_clipboard(server):
    """Without a program for it /copy-last asks the terminal; where libedit counts columns no line is bold."""
    server.reply("größe")
    with terminal(server, PATH="/nowhere", before="import readline; readline.__doc__ = 'libedit'") as shown:
        shown.enter("a")
        assert b"\x1b[1m" not in shown.bytes
        shown.enter("/copy-last", "5 characters copied (by the terminal, if it does that)\n")
        assert b"\x1b]52;c;" + base64.b64encode("größe".encode()) + b"\x07" in shown.bytes
