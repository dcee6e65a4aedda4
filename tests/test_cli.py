"""The command line: what it sends, what it prints, how it exits."""
import argparse
import ast
import base64
import contextlib
import hashlib
import importlib.util
import inspect
import io
import json
import os
import pkgutil
import re
import signal
import stat
import subprocess
import sys
import time

import pytest

from llmlite import options
from llmlite.__main__ import main
from tests import VENDORED, llmlite, testing
from tests.beside import beside, idle, within
from tests.cli import ROOT, at, command, environment, finished, one_line, started

pytestmark = pytest.mark.skipif(VENDORED, reason="the command line is no part of client.py")

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX's signals, terminals and descriptors")


# what is asked


def test_prompt_streams_to_stdout(ask, server):
    """A prompt is sent as one user message; the streamed text and a line end are all that is printed."""
    server.stream(["Hello", " world"])
    assert ask("Say hello") == (0, "Hello world\n", "")
    sent = server.requests[0].json
    assert sent["messages"] == [{"role": "user", "content": "Say hello"}]
    assert sent["model"] == "test" and sent["stream"] is True


def test_a_line_end_of_the_models_own_is_not_doubled(ask, server):
    """An answer that ends its line gets no second line end."""
    server.stream(["one\n", "two\n"])
    assert ask("Count").out == "one\ntwo\n"


@pytest.mark.parametrize("words, stdin, prompt", [
    (["Sum this up:"], "the text\n", "Sum this up:\n\nthe text"),
    ([], "  indented\ntext\n\n", "  indented\ntext"),
    (["Alone"], "\n", "Alone"),
])
def test_stdin_is_read(ask, server, words, stdin, prompt):
    """Text on stdin follows the prompt after a blank line, or stands alone; an empty stdin adds nothing."""
    server.reply("ok")
    assert ask(*words, stdin=stdin).code == 0
    assert server.requests[0].json["messages"][0]["content"] == prompt


def test_options(ask, server):
    """-o takes JSON or text; what chat() knows goes by its name, the rest into the body; -s is the system prompt."""
    server.reply("ok")
    assert ask("Hi", "-s", "Be brief", "-o", "temperature=0", "-o", "max_tokens=7", "-o", "top_p=0.5", "-o", "user=a=b",
               "-o", 'search={"mode": "on"}', "-o", "n=", "-o", "seed=null", "-o", "stop=3",
               "-o", "deep=" + "[" * 9000).code == 0
    sent = server.requests[0].json
    assert sent["messages"][0] == {"role": "system", "content": "Be brief"}
    assert {key: sent[key] for key in sent.keys() - {"messages", "model", "stream", "stream_options"}} == {
        "temperature": 0, "max_tokens": 7, "top_p": 0.5, "user": "a=b", "search": {"mode": "on"}, "n": "",
        "stop": "3", "deep": "[" * 9000}


def test_options_that_are_arguments_of_chat(ask, server):
    """-o works for all of them that have no flag, as the arguments they are, not as fields of the body."""
    server.reply("ok")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    assert ask("Hi", "--no-stream", "-o", 'extra={"n": 1, "user": "me"}', "-o", "user=you", "-o", "tool_choice=f",
               "-o", f"tools={json.dumps([tool])}", "-o", 'headers={"X-Tag": "1"}', "-o", "timeout=20",
               "-o", "logprobs=2", "-o", "prompt_cache=null").code == 0
    request, = server.requests
    sent = {key: request.json[key] for key in request.json.keys() - {"messages", "model"}}
    assert sent == {"n": 1, "user": "you", "tools": [tool], "logprobs": True, "top_logprobs": 2,
                    "tool_choice": {"type": "function", "function": {"name": "f"}}}
    assert request.headers["x-tag"] == "1"


def test_known_options_go_by_the_providers_own_name(run, server, monkeypatch):
    """-o max_tokens is max_completion_tokens at OpenAI: known options pass through chat(), not around it."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-key")
    server.reply("ok")
    assert run("Hi", "-m", "gpt-test", "-p", "openai", "--base-url", server.url, "-o", "max_tokens=7").code == 0
    assert server.requests[0].json["max_completion_tokens"] == 7
    assert server.requests[0].headers["authorization"] == "Bearer sk-test-key"


def test_no_stream(ask, server):
    """--no-stream asks for one piece: the body is the model and the messages alone."""
    server.reply("In one piece")
    assert ask("Hi", "--no-stream") == (0, "In one piece\n", "")
    assert server.requests[0].json.keys() == {"model", "messages"}


def test_a_command_name_as_prompt(run, server, monkeypatch):
    """After "--" a command's name is a prompt; the model and the address may come from the environment."""
    monkeypatch.setenv("LLMLITE_MODEL", "openai/gpt-test")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-key")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    server.reply("They are many")
    assert run("--", "models") == (0, "They are many\n", "")
    sent = server.requests[0].json
    assert sent["messages"][0]["content"] == "models" and sent["model"] == "gpt-test"


PNG = b"\x89PNG\r\n\x1a\n\0\0"
GIF = b"GIF89a\1\0"


def data_uri(kind, data):
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64," + base64.b64encode(data).decode()}}


def test_text_files(ask, server, tmp_path, monkeypatch):
    """-f puts text files before prompt and stdin, each under its name, in their order, without their last line end."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_bytes(b"\xef\xbb\xbf  caf\xc3\xa9\nline\n\n")
    (tmp_path / "page.png").write_bytes(b"<svg>no image that models take</svg>")
    server.reply("ok")
    assert ask("Compare", "-f", "notes.txt", "--file", "page.png", stdin="piped\n").code == 0
    assert server.requests[0].json["messages"] == [{"role": "user", "content": (
        "notes.txt:\n\n  caf\u00e9\nline\n\npage.png:\n\n<svg>no image that models take</svg>\n\nCompare\n\npiped")}]


def test_text_file_alone(ask, server, tmp_path):
    """A text file is enough to ask with."""
    (tmp_path / "question").write_text("Why?")
    server.reply("ok")
    assert ask("-f", str(tmp_path / "question")).code == 0
    assert server.requests[0].json["messages"][0]["content"] == f"{tmp_path / 'question'}:\n\nWhy?"


@pytest.mark.parametrize("how", [[], ["--no-stream"]])
def test_images(ask, server, tmp_path, how):
    """-f sends an image, known by its bytes whatever its name, as an image after the text, beside text files."""
    for name, data in (("photo.txt", PNG), ("move", GIF), ("hint", b"a hint")):
        (tmp_path / name).write_bytes(data)
    server.reply("ok")
    words = [word for name in ("photo.txt", "hint", "move") for word in ("-f", str(tmp_path / name))]
    assert ask("What is this?", *words, *how).code == 0
    assert server.requests[0].json["messages"] == [{"role": "user", "content": [
        {"type": "text", "text": f"{tmp_path / 'hint'}:\n\na hint\n\nWhat is this?"},
        data_uri("png", PNG), data_uri("gif", GIF)]}]


@pytest.mark.parametrize("data, words", [
    (b"PK\x03\x04", " is ZIP: models take PDF, text in UTF-8, images (PNG, JPEG, GIF, WebP), WAV and MP3"),
    (b"text\0", " is of unknown type ("),
    (b"", " is empty: models take"),
    (None, ": No such file or directory: give a path or a URL"),
])
def test_files_that_cannot_be_sent(ask, server, tmp_path, data, words):
    """A file that is neither text nor an image, or is not there: exit 1, one line that names it, nothing is sent."""
    path = tmp_path / "thing"
    if data is not None:
        path.write_bytes(data)
    code, out, err = ask("Hi", "-f", str(path))
    assert (code, out) == (1, "")
    assert one_line(err) and err.startswith(f"llmlite: -f {str(path)!r}{words}")
    assert not server.requests


CITY = {"title": "city", "type": "object", "required": ["name"], "additionalProperties": False,
        "properties": {"name": {"type": "string"}}}


@pytest.mark.parametrize("how", [[], ["--no-stream"]])
@pytest.mark.parametrize("where", ["word", "file"])
def test_schema(ask, server, tmp_path, where, how):
    """--schema takes a JSON schema or its file, sends it, and prints the value alone, as one line of JSON."""
    word = " " + json.dumps(CITY)
    if where == "file":
        (tmp_path / "city.json").write_text("\ufeff" + word, encoding="utf-8")
        word = str(tmp_path / "city.json")
    server.reply('```json\n{\n "name": "Z\u00fcrich\x9b"\n}\n```')
    assert ask("Where?", "--schema", word, *how) == (0, '{"name": "Z\\u00fcrich\\u009b"}\n', "")
    assert server.requests[0].json["response_format"] == {
        "type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}


def test_schema_and_json(ask, server):
    """With --json the value is one of the fields."""
    server.reply('{"name": "Bern"}')
    out = ask("Where?", "--schema", json.dumps(CITY), "--json").out
    assert json.loads(out)["parsed"] == {"name": "Bern"} and json.loads(out)["text"] == '{"name": "Bern"}'


def test_answer_that_does_not_fit_the_schema(ask, server):
    """An answer without the value: exit 1, nothing on stdout, one line that says what is missing, and the answer."""
    long = "a" * 5000
    server.reply('{"nom":\n"model=Bern", "long": "' + long + '"}')
    code, out, err = ask("Where?", "--schema", json.dumps(CITY))
    assert (code, out) == (1, "")
    assert one_line(err) and "does not fit the schema: missing 'name'" in err
    assert err.endswith('; the answer is "{"nom": "model=Bern", "long": "' + long + '"}"\n')


@pytest.mark.parametrize("how", [["--json"], ["--schema", json.dumps(CITY)]])
def test_what_came_of_an_answer_that_was_cut(ask, server, how):
    """With --json and --schema, which show no text as it comes, the error's line has it; if none came it does not."""
    server.stream(['{"name": ', '"Be'], done=False, finish_reason="")
    code, out, err = ask("Where?", *how)
    assert (code, out) == (1, "") and one_line(err) and err.endswith('; what came is "{"name": "Be"\n')
    server.error(400, "no")
    assert "what came" not in ask("Where?", *how).err
    server.stream(["Half an"], done=False, finish_reason="")
    assert "what came" not in ask("Where?").err


@pytest.mark.parametrize("word, words", [
    ('{"type": ', "--schema: "),
    ("missing.json", "missing.json: No such file or directory"),
    ("list.json", "list.json: a JSON schema is an object"),
    ("bytes.json", "bytes.json: "),
])
def test_what_is_no_schema(ask, server, tmp_path, monkeypatch, word, words):
    """A --schema that is no JSON object: exit 1, one line, nothing is sent."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "bytes.json").write_bytes(b"\xff")
    code, out, err = ask("Hi", "--schema", word)
    assert (code, out) == (1, "")
    assert one_line(err) and err.startswith(f"llmlite: {words}")
    assert not server.requests


# what is shown


@pytest.mark.parametrize("how", [[], ["--no-stream"]])
def test_json(ask, server, how):
    """--json prints one line, one object, the reply's `to_dict()`, on either way of asking."""
    server.reply("Paris \u2028", reasoning="Hm", tool_calls=[{"id": "c1", "name": "find", "arguments": {"q": 1}}],
                 usage=(12, 3), headers={"x-request-id": "req-7"})
    code, out, err = ask("Hi", "--json", *how)
    shown = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert 0 < shown.pop("elapsed") < 5
    call = {"id": "c1", "name": "find", "arguments": {"q": 1}, "raw_arguments": '{"q": 1}', "invalid": None}
    assert shown.pop("message")["content"] == "Paris \u2028"
    assert shown == {
        "text": "Paris \u2028", "reasoning": "Hm", "tool_calls": [call], "finish_reason": "tool_calls",
        "raw_finish_reason": "tool_calls", "parsed": None,
        "usage": {"input_tokens": 12, "output_tokens": 3, "cached_tokens": 0, "reasoning_tokens": 0,
                  "cache_write_tokens": 0, "total_tokens": 15},
        "model": "test", "id": "chatcmpl-1", "request_id": "req-7", "attempts": 1, "cached": False,
        "citations": [], "files": [], "logprobs": [], "messages": [], "tokens": []}


def test_cache(ask, server, tmp_path, monkeypatch):
    """--cache FILE, or LLMLITE_CACHE: the second time nothing is sent; --usage and --json say so."""
    path = str(tmp_path / "answers.sqlite")
    server.reply("Hello", usage=(12, 3))
    assert ask("Hi", "--cache", path) == (0, "Hello\n", "")
    code, out, err = ask("Hi", "--cache", path, "--no-stream", "--usage")
    assert (code, out) == (0, "Hello\n") and re.search(r", from the cache, 0\.\d\d s, test\n", err)
    monkeypatch.setenv("LLMLITE_CACHE", path)
    assert json.loads(ask("Hi", "--json")[1])["cached"] is True
    assert len(server.requests) == 1 and os.listdir(tmp_path) == ["answers.sqlite"]


def test_cache_in_no_folder(ask, server, tmp_path):
    """A folder that is not there is told before anything is sent."""
    path = str(tmp_path / "nowhere" / "answers.sqlite")
    code, out, err = ask("Hi", "--cache", path)
    assert (code, out, server.requests) == (1, "", []) and one_line(err) and path in err and "No such" in err


def test_a_file_that_is_no_cache(ask, server, tmp_path, monkeypatch):
    """It is not touched, and nothing is sent."""
    path = tmp_path / "notes.txt"
    path.write_text("- buy milk\n")
    monkeypatch.setenv("LLMLITE_CACHE", str(path))
    code, out, err = ask("Hi")
    assert (code, out, server.requests) == (1, "", []) and one_line(err)
    assert f"{path}: this file is no cache" in err and "--cache or LLMLITE_CACHE" in err
    assert os.listdir(tmp_path) == ["notes.txt"] and path.read_text() == "- buy milk\n"


@pytest.mark.parametrize("how", ["ask", "batch"])
def test_a_broken_cache(ask, server, tmp_path, how):
    """One line on stderr, be it a terminal or not, says where it is now; the call goes on."""
    path, source, target = tmp_path / "answers.sqlite", tmp_path / "in.jsonl", str(tmp_path / "out.jsonl")
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    source.write_text('{"prompt": "Hi"}\n')
    server.reply("Hello")
    words = ["Hi"] if how == "ask" else ["batch", str(source), "-o", target, "--no-progress"]
    code, out, err = ask(*words, "--cache", str(path))
    assert code == 0 and len(server.requests) == 1
    assert f"the cache {path} is broken (" in err.splitlines()[0] and len(err.splitlines()) == 1 + (how == "batch")
    assert (tmp_path / "answers.sqlite.broken-1").read_bytes()[16:] == b"\xff" * 5000


def test_usage(ask, server):
    """--usage adds one line on stderr, and nothing to stdout."""
    server.stream(["ok"], usage={"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15,
                                 "prompt_tokens_details": {"cached_tokens": 8}})
    code, out, err = ask("Hi", "--usage")
    assert (code, out) == (0, "ok\n")
    assert one_line(err)
    assert "12 input tokens (8 cached), 3 output tokens (0 reasoning), 1 attempt(s), 0." in err
    assert err.endswith("s, test\n")


@pytest.mark.parametrize("reply, remark", [
    ({"text": "Half an ans", "finish_reason": "length"}, "token limit"),
    ({"text": "", "finish_reason": "content_filter"}, "content filter"),
    ({"text": "", "tool_calls": [{"name": "find"}]}, "calls find"),
    ({"text": ""}, "empty"),
])
def test_what_the_text_does_not_tell_is_said(ask, server, reply, remark):
    """An answer that is cut, withheld, empty or a tool call leaves a line on stderr; --json says it in its fields."""
    for _ in range(2):
        server.reply(**reply)
    code, out, err = ask("Hi")
    assert code == 0 and out.strip() == reply["text"]
    assert one_line(err) and remark in err
    assert ask("Hi", "--json").err == ""


@beside
def test_pieces_are_flushed_as_they_come(server):
    """Each piece is in the pipe when it has come, not at the end."""
    server.stream(["one ", "two ", "three"], gap=0.15)
    pieces = []
    with started("Count", *at(server)) as process:
        while True:
            piece = os.read(process.stdout.fileno(), 100)
            if not piece:
                break
            pieces.append((time.monotonic(), piece))
        assert process.wait(30) == 0
    assert pieces[0][1] == b"one "
    assert b"".join(piece for _, piece in pieces).split() == [b"one", b"two", b"three"]
    assert pieces[-1][0] - pieces[0][0] > 0.25


@beside
def test_text_that_stdout_cannot_encode(server):
    """What an encoding cannot hold is replaced: neither a traceback nor the end of the answer."""
    server.stream(["caf\u00e9 ", "\ud83d ", "end"])
    assert finished("Hi", *at(server), PYTHONIOENCODING="ascii") == (0, "caf\u00e9 ? end\n", "")


def on_terminal(*words, **env):
    """What a terminal shows of the command line, and the exit code."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    shown = b""
    try:
        with started(*words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**env)) as process:
            os.close(theirs)
            with contextlib.suppress(OSError):  # Linux: the last writer has left
                while True:
                    piece = os.read(ours, 1000)
                    if not piece:
                        break
                    shown += piece
            return process.wait(30), shown.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)


@POSIX
def test_terminal_gets_no_control_characters(server):
    """A model's escape sequences do not reach a terminal; a pipe gets the answer as it is."""
    server.stream(["red: \x1b[31m", "\x07\x9b bell\tand\nline"], times=2)
    assert on_terminal("Hi", *at(server)) == (0, "red: [31m bell\tand\nline\n")
    assert finished("Hi", *at(server)).out == "red: \x1b[31m\x07\x9b bell\tand\nline\n"


@POSIX
def test_retries_show_on_a_terminal_only(server):
    """On a terminal a wait is announced; stderr elsewhere stays empty when the call succeeds."""
    for _ in range(2):
        server.error(429, "slow down", retry_after=0.05)
        server.reply("ok")
    code, shown = on_terminal("Hi", *at(server))
    assert code == 0
    assert re.fullmatch(r".*retry 1 in 0\.05 s.*429.*slow down.*\nok\n", shown)
    assert finished("Hi", *at(server)) == (0, "ok\n", "")
    assert len(server.requests) == 4


@beside
def test_debug_shows_each_line_once(server):
    """LLMLITE_DEBUG=1 shows the log on stderr wherever it goes, each line once."""
    server.error(429, retry_after=0.05)
    server.reply("ok")
    ran = finished("Hi", *at(server), LLMLITE_DEBUG="1")
    assert ran[:2] == (0, "ok\n")
    assert ran.err.count("retry 1 in") == 1


# how it ends


def test_server_errors_exit_1(ask, server):
    """A refused call: exit 1, one line on stderr, nothing on stdout."""
    server.error(401, "Incorrect key")
    code, out, err = ask("Hi")
    assert (code, out) == (1, "")
    assert one_line(err) and "401 Unauthorized: Incorrect key" in err


def test_control_characters_of_an_error_do_not_get_through(ask, server):
    """Whatever a server writes into its error, stderr gets one line without control characters."""
    server.error(400, "\x1b[2Jgone\x07\r\nllmlite: all is well\u2028\x9b1m\u202e")
    code, _, err = ask("Hi")
    assert code == 1 and one_line(err)
    assert err[:-1].isprintable() and "gone" in err


def test_a_servers_model_name_cannot_forge_lines(ask, server):
    """A reply's model name with control characters in it is one line of --usage."""
    server.reply("ok", model="m\nllmlite: x\x1b[1m")
    err = ask("Hi", "--usage").err
    assert one_line(err) and err[:-1].isprintable()


def test_cut_stream_exits_1_after_its_text(ask, server):
    """A stream cut in the middle: what came is shown, its line ended, and exit 1 says that it is not all."""
    server.sse([{"choices": [{"index": 0, "delta": {"content": "Half an "}}]}])
    code, out, err = ask("Hi")
    assert code == 1 and out == "Half an \n"
    assert one_line(err) and "stream ended without a finish reason" in err


def test_deadline(ask, server):
    """--deadline bounds a server that never answers: exit 1, one line that says so."""
    server.raw(testing.STALL)
    start = time.monotonic()
    code, out, err = ask("Hi", "--deadline", "0.3")
    assert within(0.3, start, 0.6)
    assert (code, out) == (1, "")
    assert one_line(err) and "deadline of 0.3 s" in err


@pytest.mark.parametrize("words, complaint", [
    ([], "nothing to ask"),
    ([" "], "nothing to ask"),
    (["-o", "temperature"], "'temperature' is not KEY=VALUE"),
    (["-o", "=1"], "'=1' is not KEY=VALUE"),
    (["-o", "temperature=hot"], "temperature takes a number"),
    (["-o", "seed=true"], "seed takes a whole number"),
    (["-o", "max_tokens=1.5"], "max_tokens takes a whole number"),
    (["-o", "extra=1"], "'extra=1': extra takes a JSON object"),
    (["-o", 'tools={"a": 1}'], "tools takes a JSON list of objects"),
    (["-o", "tools=[5]"], "tools takes a JSON list of objects"),
    (["-o", "system=Be brief"], "system=...: give -s"),
    (["-o", "model=m"], "model=...: give -m"),
    (["-o", "api_key=sk-1"], "-o: api_key=...: set it in the variable that"),
    (["-o", "schema={}"], "schema=...: give --schema"),
    (["-o", "messages=[]"], "messages=...: the prompt is what is asked"),
    (["-o", "stream=true"], "stream=...: it is no setting"),
    (["--deadline", "soon"], "'soon' is no number of seconds above zero"),
    (["--deadline", "-1"], "'-1' is no number of seconds above zero"),
    (["--deadline", "nan"], "'nan' is no number of seconds above zero"),
    (["why", "is", "that"], "unrecognized arguments: is that"),
    (["Hi", "--no-str"], "unrecognized arguments: --no-str"),
    (["Hi", "-m"], "expected one argument"),
    (["models", "--usage"], "unrecognized arguments: --usage"),
    (["demo", "fast"], "unrecognized arguments: fast"),
    (["-f"], "expected one argument"),
    (["replay"], "arguments are required: FILE"),
    (["replay", "x", "-m", "y"], "unrecognized arguments: -m y"),
    (["vendor"], "arguments are required: DEST"),
])
def test_wrong_usage_exits_2(run, words, complaint):
    """Wrong usage: exit 2 and one line on stderr that names the help."""
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert one_line(err) and complaint in err and "--help" in err


KINDS = {  # of options of a chat: the JSON that is taken for them; all else is text, if they take that
    "temperature top_p timeout": "5 0.5", "top_k max_tokens seed max_rounds": "5", "logprobs": "5 true", "stop": "[{}]",
    "tools": "[{}]", "extra headers": "{}", "tool_choice": "{}", "prompt_cache": "true", "reasoning_effort": ""}
TEXTS = "stop reasoning_effort tool_choice prompt_cache"


def test_what_the_options_of_a_chat_take():
    """Each by its own kind, as chat() does; null leaves one out, and what chat() does not know is taken as it is."""
    takes = {name: json for names, json in KINDS.items() for name in names.split()}
    known = {*inspect.signature(llmlite.Client.chat).parameters} - {"self"}
    assert {*takes, *options._ELSEWHERE} == known | {"max_rounds", "stream", "provider", "base_url", "api_key"}
    for name in [*takes, "any"]:
        for word in ("5", "0.5", "true", "{}", "[{}]", '"word"', "word", "null"):
            if name == "any" or word == "null" or word in takes[name].split():
                wanted = json.loads(word) if word != "word" else word
            elif name in TEXTS.split():
                wanted = "word" if word == '"word"' else word
            else:
                with pytest.raises(argparse.ArgumentTypeError, match=f": {name} takes "):
                    options.setting(f"{name}={word}")
                continue
            found = options.setting(f"{name}={word}")
            assert found == (name, wanted) and type(found[1]) is type(wanted)


@pytest.mark.parametrize("words, hints", [
    (["Hi"], ["no model", "LLMLITE_MODEL", "-m PROVIDER/MODEL"]),
    (["Hi", "-p", "ollama"], ["no model", "LLMLITE_MODEL", "-m PROVIDER/MODEL"]),
    (["Hi", "-m", "openai/gpt-test"], ["no key for openai", "OPENAI_API_KEY"]),
    (["Hi", "-m", "gpt-test"], ["'gpt-test' names no provider", "openai/"]),
    (["Hi", "-m", "x", "--base-url", "localhost:8000"], ["'localhost:8000' is not a URL"]),
    (["models"], ["no provider", "-p NAME"]),
    (["models", "-p", "nobody"], ["'nobody' is not known", "openai"]),
])
def test_missing_configuration_exits_1(run, words, hints):
    """A missing model, key or provider: exit 1 and one line that says what to do."""
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert one_line(err) and all(hint in err for hint in hints)


@POSIX
def test_interrupt_exits_130(server):
    """Ctrl-C: exit 130 at once, nothing on stderr, and the connection is closed."""
    server.stream(["piece "] * 5000, gap=0.02)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here, and so in the child
    try:
        with started("Hi", *at(server)) as process:
            assert process.stdout.read(6) == b"piece "
            sent = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130 and within(0, sent, 3)
            assert process.stderr.read() == b""
    finally:
        signal.signal(signal.SIGINT, before)
    assert idle(server)


@beside
def test_closed_pipe_is_silent(server):
    """A reader that leaves ends the stream: exit 0, nothing on stderr, the connection is closed long before its end."""
    server.stream(["a line\n"] * 5000, gap=0.02)
    with started("Hi", *at(server)) as process:
        assert process.stdout.readline() == b"a line\n"
        left = time.monotonic()
        process.stdout.close()
        assert process.wait(30) == 0 and within(0, left, 3)
        assert process.stderr.read() == b""
    assert idle(server)


@pytest.mark.parametrize("words", [["providers"], ["--help"], ["demo"]])
@beside
def test_closed_pipe_is_silent_when_it_was_closed_before(words):
    """A reader that never read: the other commands leave no traceback either, not even at the interpreter's end."""
    with started(*words) as process:
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@beside
def test_full_disk_exits_1():
    """Output that cannot be written is an error of one line."""
    with open("/dev/full", "wb") as full, started("providers", stdout=full) as process:
        assert process.wait(30) == 1
        assert one_line(process.stderr.read().decode())


def test_unreadable_stdin_exits_1(monkeypatch, capsys):
    """A stdin that fails to read is an error of one line, also where stdout is no file."""
    class Broken(io.StringIO):
        def read(self, *args):
            raise OSError(5, "Input/output error")
    monkeypatch.setattr(sys, "stdin", Broken())
    assert main(["Hi"]) == 1
    assert one_line(capsys.readouterr().err)


@POSIX
def test_without_stdin_and_stdout(server):
    """Closed descriptors, as a daemon may have them: the call is made, and nothing breaks."""
    server.reply("ok")
    words = ["sh", "-c", 'exec "$@" <&- >&-', "sh", *command("Hi", *at(server))]
    done = subprocess.run(words, stderr=subprocess.PIPE, env=environment(), timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(server.requests) == 1


# commands


def test_help_and_version(run):
    """--help lists every command; a command has help of its own; --version is the package's."""
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for name in ("models", "providers", "demo", "replay", "vendor"):
        assert re.search(rf"^  {name} +\S", out, re.M)
        theirs = run(name, "--help")
        assert theirs.code == 0 and theirs.out.startswith(f"usage: llmlite {name} ")
    assert run("--version") == (0, f"llmlite {llmlite.__version__}\n", "")


@pytest.mark.parametrize("words", [["-p", "openai"], ["-m", "openai/any"]])
def test_models(run, server, monkeypatch, words):
    """`models` prints an id a line, of the provider that -p or -m names."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-key")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    server.json({"object": "list", "data": [{"id": "small"}, {"id": "large"}]})
    assert run("models", *words) == (0, "small\nlarge\n", "")
    assert (server.requests[0].method, server.requests[0].path) == ("GET", "/v1/models")


def test_models_at_an_address(ask, server):
    """`models --base-url` asks the server there."""
    server.json({"object": "list", "data": [{"id": "local"}]})
    assert ask("models").out == "local\n"


@beside
def test_demo():
    """The demo: asked, refused with 429, waits as told, retries, streams, tells the cost, whatever the environment."""
    start = time.monotonic()
    ran = finished("demo", LLMLITE_API_KEY="sk-private-key", LLMLITE_DEBUG="1", LLMLITE_MODEL="no/such",
                   HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9", ALL_PROXY="http://127.0.0.1:9",
                   NO_PROXY="example.com", no_proxy="example.com")
    assert within(0, start, 10)
    assert ran.code == 0 and ran.err == "" and "sk-private-key" not in ran.out
    steps = re.findall(r"^ *([\d.]+) s  (\w+) +(.*)$", ran.out, re.M)
    assert [who for _, who, _ in steps] == ["ask", "server", "log", "server", "answer", "usage", "ledger"]
    times = [float(seconds) for seconds, _, _ in steps]
    said = [text for _, _, text in steps]
    assert "429" in said[1] and "retry 1 in 1.00 s" in said[2] and "429" in said[2] and "200" in said[3]
    assert said[4] == "Air scatters blue light far more than red, so blue comes from every side."
    assert times[3] - times[1] >= 0.99  # of times rounded to 0.01
    assert times[5] - times[4] >= 0.5  # the pieces had gaps between them
    assert said[5] == "14 input tokens, 14 output tokens"
    assert said[6] == "calls 1, attempts 2, retries 1, failed 0"


def test_demo_leaves_the_environment_alone(run, monkeypatch):
    """main(["demo"]) in a program of one's own puts the environment back."""
    monkeypatch.setenv("LLMLITE_MODEL", "no/such")
    before = dict(os.environ)
    assert run("demo").code == 0
    assert dict(os.environ) == before


def saved(ask, server, folder, monkeypatch, *words):
    """The file of a call that failed."""
    monkeypatch.setenv("LLMLITE_SAVE_FAILED", str(folder))
    server.error(400, "no")
    assert ask(*words).code == 1
    monkeypatch.delenv("LLMLITE_SAVE_FAILED")
    path, = folder.iterdir()
    return str(path)


@pytest.mark.parametrize("how", [[], ["--no-stream"]])
def test_replay(ask, run, server, tmp_path, monkeypatch, how):
    """`replay` sends a saved request again, byte for byte, and prints the answer; --usage adds its line."""
    path = saved(ask, server, tmp_path, monkeypatch, "Hi", "-o", "temperature=0", *how)
    server.stream(["Now it ", "works"])
    code, out, err = run("replay", path, "--usage")
    assert (code, out) == (0, "Now it works\n")
    assert one_line(err) and "10 input tokens" in err
    first, second = server.requests
    assert (second.method, second.path, second.body) == (first.method, first.path, first.body)


def test_replay_json(ask, run, server, tmp_path, monkeypatch):
    """`replay --json` prints the one object and nothing else."""
    path = saved(ask, server, tmp_path, monkeypatch, "Hi")
    server.reply("ok")
    code, out, err = run("replay", path, "--json")
    assert (code, err) == (0, "") and json.loads(out)["text"] == "ok"


def test_replay_fails_again(ask, run, server, tmp_path, monkeypatch):
    """A request that is refused again: exit 1, one line; so is a server that outlasts --deadline."""
    path = saved(ask, server, tmp_path, monkeypatch, "Hi")
    server.error(404, "still no")
    code, out, err = run("replay", path)
    assert (code, out) == (1, "") and one_line(err) and "404 Not Found: still no" in err
    server.raw(testing.STALL)
    code, out, err = run("replay", path, "--deadline", "0.2")
    assert (code, out) == (1, "") and one_line(err) and "deadline of 0.2 s" in err


@pytest.mark.parametrize("content", [None, "{}", "no JSON"])
def test_replay_of_another_file(run, tmp_path, content):
    """A file that is no saved request, or is not there: exit 1, one line that names it."""
    path = tmp_path / "thing.json"
    if content is not None:
        path.write_text(content)
    code, out, err = run("replay", str(path))
    assert (code, out) == (1, "")
    assert one_line(err) and f"{path} is no saved request" in err


SOURCE = os.path.join(ROOT, "llmlite", "client.py")


@pytest.mark.parametrize("name", ["", "little_llm.py"])
def test_vendor(run, tmp_path, name):
    """`vendor` copies client.py into a folder or to a name; the line has its version and checksum."""
    target = tmp_path / (name or "client.py")
    digest = hashlib.sha256(open_bytes(SOURCE)).hexdigest()
    line = f"{target}: llmlite {llmlite.__version__}, sha256 {digest}\n"
    assert run("vendor", str(tmp_path / name)) == (0, line, "")
    assert open_bytes(target).endswith(open_bytes(SOURCE))
    spec = importlib.util.spec_from_file_location("vendored_by_the_command", target)
    assert spec.loader.get_code("vendored_by_the_command")


def test_vendored_file_says_what_it_is(run, tmp_path):
    """Above client.py, byte for byte, stand version, origin, checksum and the whole licence; its docstring lives on."""
    run("vendor", str(tmp_path))
    head, _, rest = open_bytes(tmp_path / "client.py").decode().partition("# " + 118 * "-" + "\n")
    assert rest == open_bytes(SOURCE).decode()
    words = [line[2:] for line in head.splitlines()]
    assert words[0].startswith(f"llmlite {llmlite.__version__}: client.py")
    assert words[1] == "origin: https://github.com/llmlite/llmlite"
    assert words[2].startswith(f"sha256: {hashlib.sha256(rest.encode()).hexdigest()} ")
    assert words[3:5] == ["SPDX-License-Identifier: MIT", ""]
    with open(os.path.join(ROOT, "LICENSE"), encoding="utf-8") as file:
        assert words[5:] == file.read().splitlines()
    assert ast.get_docstring(ast.parse(head + rest)) == sys.modules[llmlite.Client.__module__].__doc__.strip()


def test_vendored_from_a_checkout_of_windows(run, tmp_path, monkeypatch):
    """A client.py with the line ends of Windows makes the same copy."""
    run("vendor", str(tmp_path / "a.py"))
    monkeypatch.setattr(pkgutil, "get_data", lambda *_: open_bytes(SOURCE).replace(b"\n", b"\r\n"))
    run("vendor", str(tmp_path / "b.py"))
    assert open_bytes(tmp_path / "a.py") == open_bytes(tmp_path / "b.py")


def open_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def test_vendor_again(run, tmp_path):
    """A copy that is there already is left as it is, its time too."""
    target = tmp_path / "client.py"
    first = run("vendor", str(target))
    os.utime(target, (1, 1))
    assert run("vendor", str(target)) == first
    assert os.stat(target).st_mtime == 1


def test_vendor_does_not_overwrite(run, tmp_path):
    """Another file is overwritten with --force only."""
    target = tmp_path / "client.py"
    target.write_text("mine")
    code, out, err = run("vendor", str(tmp_path))
    assert (code, out) == (1, "") and one_line(err)
    assert f"{target}: the file is there and differs; --force overwrites it" in err
    assert target.read_text() == "mine"
    assert run("vendor", str(tmp_path), "--force").code == 0
    assert open_bytes(target).endswith(open_bytes(SOURCE))


def of_version(version, path):
    """Makes of a copy one of another version, as it was written then."""
    head, line, rest = open_bytes(path).partition(b"# " + 118 * b"-" + b"\n")
    rest += b"# as it was\n"
    head = head.replace(b"llmlite " + llmlite.__version__.encode(), b"llmlite " + version.encode())
    head = re.sub(b"[0-9a-f]{64}", hashlib.sha256(rest).hexdigest().encode(), head)
    path.write_bytes(head + line + rest)


def test_vendor_updates_a_copy_that_was_not_edited(run, tmp_path):
    """An older copy is replaced; one that somebody has edited is not, but for --force."""
    target = tmp_path / "client.py"
    run("vendor", str(target))
    of_version("0.0.9", target)
    assert run("vendor", str(target)).code == 0
    assert open_bytes(target).endswith(open_bytes(SOURCE))
    target.write_bytes(open_bytes(target) + b"# mine\n")
    code, out, err = run("vendor", str(target))
    assert (code, out) == (1, "") and one_line(err)
    assert f"{target}: the file is there and was edited; --force overwrites it" in err
    assert open_bytes(target).endswith(b"# mine\n")


def test_vendor_check(run, tmp_path):
    """--check says whether a copy is current, old or edited, whatever its line ends, and writes nothing."""
    target, version = tmp_path / "client.py", llmlite.__version__
    run("vendor", str(target))
    current = (0, f"{target}: llmlite {version}, as it was written\n", "")
    assert run("vendor", "--check", str(tmp_path)) == current
    target.write_bytes(open_bytes(target).replace(b"\n", b"\r\n"))  # as git may write it on Windows
    assert run("vendor", "--check", str(target)) == current
    target.write_bytes(open_bytes(target) + b"# mine\r\n")
    assert run("vendor", "--check", str(target)) == (1, f"{target}: llmlite {version}, edited\n", "")
    run("vendor", "--force", str(target))
    of_version("0.0.9", target)
    before = open_bytes(target)
    line = f"{target}: llmlite 0.0.9, as it was written; {version} is here\n"
    assert run("vendor", "--check", str(target)) == (1, line, "")
    assert open_bytes(target) == before


def test_vendor_and_other_copies(run, tmp_path):
    """A copy of the same version with another content is replaced; a newer one with --force only, and --check tells."""
    target, version = tmp_path / "client.py", llmlite.__version__
    run("vendor", str(target))
    of_version(version, target)
    line = f"{target}: llmlite {version}, as it was written; another {version} is here\n"
    assert run("vendor", "--check", str(target)) == (1, line, "")
    assert run("vendor", str(target)).code == 0 and open_bytes(target).endswith(open_bytes(SOURCE))
    of_version("10.0", target)
    newer = open_bytes(target)
    code, out, err = run("vendor", str(target))
    assert (code, out) == (1, "") and f"{target}: the file is there and is newer: 10.0; --force overwrites it" in err
    assert open_bytes(target) == newer and run("vendor", "--force", str(target)).code == 0
    assert open_bytes(target).endswith(open_bytes(SOURCE))


@pytest.mark.skipif(os.name == "nt", reason="there are no limits and modes, and links need a right")
def test_vendor_writes_at_once_or_not_at_all(run, tmp_path):
    """What stops the writing leaves the old file; a link and a mode stay, and nothing else is left."""
    import resource

    target, link = tmp_path / "client.py", tmp_path / "link.py"
    run("vendor", str(target))
    of_version("0.0.9", target)
    old = open_bytes(target)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        code, out, err = run("vendor", str(target))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (code, out) == (1, "") and one_line(err) and f"{target}: File too large" in err
    assert open_bytes(target) == old and list(tmp_path.iterdir()) == [target]
    link.symlink_to(target)
    target.chmod(0o640)
    assert run("vendor", str(link)).code == 0
    assert link.is_symlink() and open_bytes(target).endswith(open_bytes(SOURCE))
    assert stat.S_IMODE(target.stat().st_mode) == 0o640 and len(list(tmp_path.iterdir())) == 2
    of_version("0.0.9", target)
    target.chmod(0o440)
    if not os.access(target, os.W_OK):  # root may write all
        assert f"{target}: Permission denied" in run("vendor", str(target)).err


@pytest.mark.parametrize("content, why", [
    (None, "No such file or directory"), (b"mine", "no copy that llmlite vendor made"),
    (b"mine\n# " + 118 * b"-" + b"\n", "no copy that llmlite vendor made")], ids=["nothing", "another", "a line"])
def test_vendor_check_of_another_file(run, tmp_path, content, why):
    """A file that is no copy, or is not there: exit 1, one line that names it."""
    if content is not None:
        (tmp_path / "client.py").write_bytes(content)
    code, out, err = run("vendor", "--check", str(tmp_path))
    assert (code, out) == (1, "") and one_line(err)
    assert f"{tmp_path / 'client.py'}: {why}" in err


def test_vendor_into_nowhere(run, tmp_path):
    """A folder that is not there is not made: exit 1, one line."""
    code, out, err = run("vendor", str(tmp_path / "missing"))
    assert (code, out) == (1, "")
    assert one_line(err) and "client.py: No such file or directory" in err
    assert list(tmp_path.iterdir()) == []
