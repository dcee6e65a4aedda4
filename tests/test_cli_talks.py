"""`llmlite --continue`: what is kept of a talk, and how it goes on."""
import json
import os
import stat

import pytest

from tests import VENDORED, llmlite, testing
from tests.cli import one_line

pytestmark = pytest.mark.skipif(VENDORED, reason="the command line is no part of client.py")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The file of the last talk, which is not there yet."""
    for name in ("XDG_STATE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "state"))
    return tmp_path / "state" / "llmlite" / "last.json"


def contents(request):
    return [message["content"] for message in request.json["messages"]]


def test_continue(ask, run, server, home):
    """-c sends what was said before, to the same model at the same address; the system prompt stays, or is another."""
    for text in ("Blue", "Red", "Dark", "Black"):
        server.reply(text)
    assert ask("The sky?", "-s", "Be brief").out == "Blue\n"
    assert run("-c", "And at dusk?") == (0, "Red\n", "")
    assert run("--continue", "And at night?", "--no-stream", "-s", "Be sad").out == "Dark\n"
    assert run("-c", stdin="And in space?").out == "Black\n"
    assert contents(server.requests[2]) == ["Be sad", "The sky?", "Blue", "And at dusk?", "Red", "And at night?"]
    assert contents(server.requests[1])[0] == "Be brief" and contents(server.requests[3])[0] == "Be sad"
    assert {request.json["model"] for request in server.requests} == {"test"}


def test_the_model_of_a_talk(run, server, monkeypatch, home):
    """-m beats the last talk's model, its provider and its address; these beat LLMLITE_MODEL."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-key")
    monkeypatch.setenv("GROQ_API_KEY", "gsk-test-key")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("GROQ_BASE_URL", server.url)
    for _ in range(5):
        server.reply("ok")
    assert run("Hi", "-m", "small", "-p", "groq").code == 0
    monkeypatch.setenv("LLMLITE_MODEL", "openai/other")
    assert run("-c", "Hi").code == 0
    assert run("-c", "Hi", "-m", "openai/large").code == 0
    assert run("-c", "Hi").code == 0
    assert run("-c", "Hi", "-p", "groq").code == 0  # then the whole word is the model's id
    asked = [(request.json["model"], request.headers["authorization"][7:10]) for request in server.requests]
    assert asked == [("small", "gsk"), ("small", "gsk"), ("large", "sk-"), ("large", "sk-"), ("openai/large", "gsk")]
    assert contents(server.requests[4]) == ["Hi", "ok"] * 4 + ["Hi"]


def test_another_providers_key_does_not_go_to_the_last_address(ask, run, server, monkeypatch, home):
    """-p alone does not go on at the last talk's own address, which would be told its key; the same one does."""
    monkeypatch.setenv("GROQ_API_KEY", "gsk-test-key")
    with testing.Server() as groq:
        monkeypatch.setenv("GROQ_BASE_URL", groq.url)
        groq.reply("Red")
        for _ in range(3):
            server.reply("Blue")
        assert ask("The sky?").code == 0
        assert run("-c", "And at dusk?", "-p", "groq").out == "Red\n"
        assert run("-c", "Hi", "-p", "groq", "--base-url", server.url).code == 0
        assert run("-c", "Hi", "-p", "groq").out == "Blue\n"
    assert [request.headers["authorization"][:10] for request in server.requests[1:]] == ["Bearer gsk"] * 2


def test_a_failed_call_leaves_the_last_talk(ask, run, server, home):
    """A refused call and a cut stream change nothing."""
    server.reply("Blue")
    ask("The sky?")
    before = home.read_bytes()
    server.error(400, "no")
    server.sse([{"choices": [{"index": 0, "delta": {"content": "Half"}}]}])
    assert [run("-c", "More").code, ask("Something else").code, home.read_bytes()] == [1, 1, before]


def test_the_file(run, server, home, llm, monkeypatch):
    """It is its owner's alone, has no key, also none of the address or an answer, and is a conversation to load."""
    monkeypatch.setenv("LLMLITE_API_KEY", "sk-private-0123456789")
    server.reply("Blue, not sk-private-0123456789")
    address = server.url.replace("//", "//me:secret-word@") + "?key=secret-word&a=1"
    assert run("The sky?", "-m", "test", "--base-url", address).code == 0
    text = home.read_text(encoding="utf-8")
    assert "sk-private" not in text and "secret-word" not in text
    saved = json.loads(text)
    assert saved["asked"] == {"model": "test", "provider": None, "base_url": server.url + "?a=1"}
    assert saved["conversation"] == 1 and saved["usage"]["output_tokens"] == 5
    assert os.listdir(home.parent) == ["last.json"]
    if os.name == "posix":
        assert stat.S_IMODE(home.stat().st_mode) == 0o600 and stat.S_IMODE(home.parent.stat().st_mode) == 0o700
    assert llm.load_conversation(home).messages == [
        llmlite.user("The sky?"), {"role": "assistant", "content": "Blue, not ***"}]


@pytest.mark.parametrize("content, why", [
    ("{", "it is no talk"), ("[]", "it is no talk"), ("\xff", "it is no talk"), ("[" * 9999, "it is no talk"),
    ('{"asked": {"model": 1, "provider": null, "base_url": null}, "messages": []}', "it is no talk"),
    ('{"asked": {"model": "test", "provider": null, "base_url": "http://127.0.0.1/v1"}, "messages": 5}', "no talk"),
    (None, "there is no last talk to go on with (ask without --continue)"),
    ("folder", "irectory"),
])
def test_no_talk_to_go_on_with(run, ask, server, home, content, why):
    """A file that is not there, or holds none: exit 1 and one line; the next prompt puts its own there."""
    home.parent.mkdir(parents=True)
    if content == "folder":
        home.mkdir()
    elif content is not None:
        home.write_bytes(content.encode("latin-1"))
    code, out, err = run("-c", "More")
    assert (code, out) == (1, "") and one_line(err) and why in err and "--continue" in err
    assert content is None or str(home) in err
    server.reply("Blue")
    assert ask("The sky?").code == 0
    assert content == "folder" or json.loads(home.read_text())["messages"]


def test_nothing_is_kept(ask, run, server, home, monkeypatch):
    """LLMLITE_NO_HISTORY=1 keeps no talk, and --continue says so."""
    monkeypatch.setenv("LLMLITE_NO_HISTORY", "1")
    server.reply("Blue")
    assert ask("The sky?").code == 0 and not home.exists()
    err = run("-c", "More").err
    assert one_line(err) and "LLMLITE_NO_HISTORY is set" in err


def test_a_disk_that_is_full_fails_no_call(ask, server, home):
    """Where the talk cannot be kept, the answer is the answer all the same; -v says what is wrong."""
    home.parent.parent.write_text("a file where a folder should be")
    server.reply("Blue")
    server.reply("Red")
    assert ask("The sky?") == (0, "Blue\n", "")
    code, out, err = ask("And at dusk?", "-v")
    assert (code, out) == (0, "Red\n") and "this talk is not kept for --continue: " in err and err.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="POSIX's home folders")
def test_where_it_is(ask, server, home, tmp_path, monkeypatch):
    """Without XDG_STATE_HOME, or where that is no whole path, it is ~/.local/state; without a home there is none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    server.reply("Blue")
    assert ask("The sky?").code == 0
    assert (tmp_path / ".local" / "state" / "llmlite" / "last.json").exists()
    monkeypatch.setenv("HOME", "~")
    monkeypatch.chdir(tmp_path)
    server.reply("Blue")
    assert ask("The sky?") == (0, "Blue\n", "")
    assert sorted(os.listdir(tmp_path)) == [".local"]


def test_calls_that_wait_for_a_result_are_not_kept(ask, server, home):
    """A talk that ends with calls nobody answers could not go on: it does not become the last one."""
    server.reply("", tool_calls=[{"id": "c1", "name": "find", "arguments": {}}])
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
    code, _, err = ask("Hi", "-o", f"tools={json.dumps([tool])}")
    assert code == 0 and "the model calls find" in err and not home.exists()


def test_json_of_a_talk(ask, run, server, home):
    """With --continue the one object has all messages."""
    server.reply("Blue")
    server.reply("Red")
    assert json.loads(ask("The sky?", "--json").out)["messages"] == []
    told = json.loads(run("-c", "And at dusk?", "--json").out)["messages"]
    assert [message["content"] for message in told] == ["The sky?", "Blue", "And at dusk?", "Red"]
