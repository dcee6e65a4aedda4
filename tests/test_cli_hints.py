"""Errors on the command line name flags and variables where the client names arguments."""
import ast
import inspect
import re
import socket
import sys

import pytest

from tests import VENDORED, llmlite
from tests.cli import one_line

pytestmark = pytest.mark.skipif(VENDORED, reason="the command line is no part of client.py")

CLIENT = sys.modules[llmlite.Client.__module__]
ARGUMENTS = {name for function in (llmlite.Client, llmlite.Client.chat, llmlite.Client.run_tools, llmlite.user,
                                   llmlite.RetryPolicy)
             for name in inspect.signature(function).parameters} - {"self"}
OUT_OF_REACH = {  # of the command line: who meets these words writes Python
    "api": "it has no flag", "errors": "of map()", "workers": "of map(); llmlite batch checks its own",
    "fallbacks": "no flag", "method": "of request()", "path": "of request()", "params": "of request()",
    "session": "no flag", "jitter": "no flag", "prompt_cache": "a flag takes true, false or text",
    "extra": "of map()"}
UNKNOWN = r"give \w+=(?:RetryPolicy\(.*|,.*| to Client)?$"  # what a keyword argument that there is not is told


def words_of_errors():
    """Every text that client.py makes an error of, or a hint; "{}" is what is filled in."""
    def text(node):
        if isinstance(node, ast.JoinedStr):
            return "".join(map(text, node.values))
        if isinstance(node, ast.BinOp):
            return text(node.left) + text(node.right)
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "'{}'"

    with open(inspect.getsourcefile(CLIENT), encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("Error"):
            yield from map(text, [*node.args[:1], *(word.value for word in node.keywords if word.arg == "hint")])
        elif isinstance(node, ast.Assign) and any(getattr(name, "id", "") == "hint" for name in node.targets):
            yield text(node.value)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, (ast.Dict, ast.Tuple)):
            yield from (text(item) for item in ast.walk(node.value) if isinstance(item, ast.Constant)
                        and isinstance(item.value, str) and " " in item.value and "(?" not in item.value)


def test_every_hint_names_flags():
    """No text of an error names an argument of Python's, but for those that nobody meets who writes no Python."""
    from llmlite.__main__ import _flagged
    found = sorted(set(words_of_errors()))
    assert len(found) > 150 and any("give api_key=" in text for text in found)
    left = {}
    for text in found:
        shown = _flagged(text)
        if re.match(UNKNOWN, text):
            continue
        for name in re.findall(r"(?<!-o )\b(\w+)=", shown):
            if name in ARGUMENTS and name not in OUT_OF_REACH:
                left.setdefault(name, []).append(shown)
    assert left == {}


@pytest.mark.parametrize("text, shown", [
    ("set X_API_KEY, or give api_key=", "set X_API_KEY"),
    ('give api_key="..." or set LLMLITE_API_KEY; api_key="" if that server takes none',
     "set LLMLITE_API_KEY, to any word if that server takes none"),
    ("check the model: models() lists them", 'check the model: "llmlite models" lists them'),
    ("ollama and more: providers() lists them", 'ollama and more: "llmlite providers" lists them'),
    ("raise timeout=, or stream the answer", "raise -o timeout=, or stream the answer"),
    ("raise idle_timeout=", "raise -o timeout="),
    ("timeout=(connect, read) says how long to wait", "-o timeout=SECONDS says how long to wait"),
    ("send less: fewer workers=, or rate_limit=", "send less: fewer --workers, or --rpm"),
    ("try later, or name fallbacks=", "try later, or ask another model"),
    ("give max_tokens=5 at most", "give -o max_tokens=5 at most"),
    ("try again, or another model=", "try again, or another -m"),
    ("ask Client('groq/x'); Client(..., provider='openai') sends any id as it is", "-p openai sends any id as it is"),
    ('it is a model of anthropic: Client("anthropic/claude-x"); asked POST', "it is a model of anthropic: -m "
     "anthropic/claude-x; asked POST"),
    ("go on with --retry-failed (retry_failed=True)", "go on with --retry-failed"),
])
def test_wordings(text, shown):
    """What is said of arguments, and what is said here instead."""
    from llmlite.__main__ import _flagged
    assert _flagged(text) == shown


def test_names_of_others_stay():
    """What stands in a URL, a path or quotes is nobody's argument."""
    from llmlite.__main__ import _flagged
    for text in ("http://x/v1?model=5&cache=1", "/tmp/model=5/a", "'model=5'", "server.model=5", "other=5"):
        assert _flagged(text) == text


@pytest.mark.parametrize("words, hint", [
    (["-m", "gpt-test"], "llmlite: -m 'gpt-test' names no provider ("),
    (["-m", "x", "-p", "opnai"], "llmlite: -p 'opnai' is not known ("),
    (["-m", "x", "-p", "nope"], "llmlite: -p 'nope' is not known (known are openai, anthropic, gemini, ollama and more"
     ': "llmlite providers" lists them)\n'),
    (["-m", "x", "--base-url", "localhost:8000"], "llmlite: --base-url 'localhost:8000' is not a URL ("),
    (["-m", "openai/gpt-test"], "llmlite: no key for openai (set OPENAI_API_KEY)\n"),
    (["-m", "azure/gpt-test"], "llmlite: azure has an address for each resource (give --base-url, or set AZURE_"),
    (["-m", "ollama/x", "-o", "timeout=-1"], "llmlite: -o timeout=-1: give seconds above zero\n"),
    (["-m", "ollama/x", "-o", "temperature=NaN"], "llmlite: -o temperature=nan: give a"),
    (["-m", "ollama/x", "-o", "prompt_cache=2h"], "llmlite: -o prompt_cache='2h': give true, false or \"1h\"\n"),
    (["-m", "ollama/x", "-f", "missing"], "llmlite: -f 'missing': No such file or directory: give a path or a URL\n"),
    (["-m", "ollama/x", "--schema", '{"type": 5}', "-o", "max_rounds=0"], "llmlite: -o max_rounds=0: give a whole"),
])
def test_hints_name_flags(run, monkeypatch, tmp_path, words, hint):
    """What is wrong with a word is told with its flag."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run("Hi", *words)
    assert (code, out) == (1, "") and one_line(err) and err.startswith(hint)


@pytest.mark.parametrize("words, says", [
    (["--temperature", "1"], "--temperature 1: give -o temperature=... ("),
    (["--max-tokens=5"], "--max-tokens=5: give -o max_tokens=... ("),
    (["--api-key", "abcdef0123456789"], '--api-key: set it in the variable that "llmlite providers" names ('),
    (["--token=abcdef0123456789"], '--token: set it in the variable that "llmlite providers" names ('),
    (["--url", "http://x/v1"], "--url http://x/v1: give --base-url ("), (["--stream"], "stream by themselves ("),
    (["--no-strem"], "--no-strem: did you mean --no-stream? ("), (["--nonsense"], "--nonsense (see"),
    (["-x", "sk-not-to-be-shown-1234"], "-x *** (see"),
    (["-o", "api_key=abcdef0123456789"], 'api_key: set it in the variable that "llmlite providers" names ('),
    (["-o", "base_url=http://x/v1"], "'base_url=http://x/v1': give --base-url (")])
def test_flags_of_other_programs(run, words, says):
    """What stands here for them is told, or a near name; a key that is given by a flag shows nowhere."""
    code, out, err = run("Hi", "-m", "ollama/x", *words)
    assert (code, out) == (2, "") and one_line(err) and says in err
    assert "abcdef" not in err and "shown" not in err


def test_settings_of_commands_without_o(run):
    err = run("models", "--temperature", "1").err
    assert one_line(err) and "unrecognized arguments: --temperature (see" in err


def test_a_wait_that_is_too_long(ask, server):
    """It has no flag to raise it by: the line says what holds here."""
    server.error(429, "slow", retry_after=500)
    code, out, err = ask("Hi")
    assert (code, out) == (1, "") and one_line(err)
    assert "the server asks to wait 500 s, over the 120 s that are waited here" in err


def test_an_event_that_cannot_be_read(ask, server):
    """The cure is a flag."""
    server.sse([{"choices": [{"index": 0, "delta": {"content": "Half"}}]}, 'data: {"choi\n\n', {}, "[DONE]"])
    err = ask("Hi").err
    assert one_line(err) and "--no-stream asks for the answer in one piece" in err


def test_the_servers_own_words_stay(ask, server):
    """What a server says is shown as it says it, whatever it looks like."""
    server.error(400, "set model= and api_key= and deadline=5")
    assert "set model= and api_key= and deadline=5" in ask("Hi").err


@pytest.mark.parametrize("key", ["sk-1\n", "\u20ac"])
def test_a_key_that_is_none(run, monkeypatch, key):
    """There is no flag for a key: the line says nothing of api_key and of Python."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    err = run("Hi", "-m", "openai/x").err
    assert one_line(err) and "api_key" not in err and "strip()" not in err and key.strip() not in err


def test_replay_of_a_request_to_another_host(run, tmp_path):
    """The line names the variable that says whose an address is."""
    import json
    path = tmp_path / "saved.json"
    path.write_text(json.dumps({"method": "POST", "path": "/x", "body": {}, "provider": "openai", "model": "x",
                                "base_url": "https://evil.example/v1"}))
    err = run("replay", str(path)).err
    assert one_line(err) and "..._BASE_URL to it if it is yours: a file must not send your key" in err


def test_models_where_there_are_none(run, monkeypatch):
    """A provider without a list: no Python in the line."""
    monkeypatch.setenv("GOOGLE_OAUTH_ACCESS_TOKEN", "sk-test-key")
    err = run("models", "-p", "vertex-anthropic", "--base-url", "http://127.0.0.1:9/v1").err
    assert one_line(err) and "models asks for" in err and "give another -p" in err


def test_unreachable_server(run):
    """A refused connection is one line, with the address."""
    with socket.socket() as held:  # a port that is free might be another test's server soon
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        err = run("Hi", "-m", "x", "--base-url", url, "--deadline", "5").err
    assert one_line(err) and "connection refused" in err and url in err
