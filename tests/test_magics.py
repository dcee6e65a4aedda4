"""%load_ext llmlite: %%llm and %llm, their options, what they fill in, and what they refuse before they send."""
import dataclasses
import json
import re

import pytest

import llmlite
from tests import VENDORED
from tests.cells import cells

pytestmark = pytest.mark.skipif(VENDORED, reason="the extension is the package's")


@pytest.fixture
def book(tmp_path, llm, server):
    """A notebook with the extension, and with `llm`, a client of the server."""
    with cells(tmp_path) as found:
        found.names.update(llm=llm, llmlite=llmlite, url=server.url)
        assert found.run("%load_ext llmlite").out == ""
        yield found


def asked(server):
    return server.requests[-1].json["messages"][-1]["content"]


def test_a_cell(server, book):
    """The cell is the prompt, the notebook's variables in it; the reply is shown once, and is in `_` and in --to."""
    server.reply("Blue *light*")
    book.names.update(what="sky", sizes={"a": [1.5]})
    shown = book.run('%%llm -c llm --to told\nWhy is the {what} {sizes[a]}, {{x}}?\n\n"It\'s" {url!r:.5}')
    assert asked(server) == "Why is the sky [1.5], {x}?\n\n\"It's\" 'http"
    assert server.requests[0].json["stream"] is True
    reply = book.names["told"]
    assert reply is book.names["_"] and reply.text == "Blue *light*"
    assert shown.markdown[-1] == reply._repr_markdown_() and "<Response" not in shown.out
    server.reply("More")
    book.run("%%llm -c llm\nOn with it: {_}")
    assert asked(server) == "On with it: Blue *light*"


def test_a_client_of_its_own(server, book, monkeypatch, tmp_path):
    """Without -c the options, or the environment, say whom to ask, as on the command line; a cache answers again."""
    server.reply("one")
    book.names["kind"] = "large"
    options = "-m {kind}-1 --deadline 9 -s 'Be {kind}.' -o temperature=0 -o top_k=3"
    book.run(f"%%llm {options} --base-url {server.url}\nHi")
    assert server.requests[0].json == {
        "model": "large-1", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0, "top_k": 3,
        "messages": [{"role": "system", "content": "Be large."}, {"role": "user", "content": "Hi"}]}
    monkeypatch.setenv("LLMLITE_MODEL", "m")
    server.reply("two")
    for cached in (False, True):
        book.run(f"%%llm --base-url {server.url} --cache {tmp_path}/kept.sqlite -o max_tokens=9\nAgain")
        assert (book.names["_"].text, book.names["_"].cached) == ("two", cached)
    assert len(server.requests) == 2


@pytest.mark.parametrize("line, prompt", [
    ("%llm -c llm Hi there", "Hi there"),
    ("%llm -c llm Hi there?", "Hi there?"),
    ("%llm -c llm $x is {{x}}", "$x is {x}"),
    ("%llm -c llm -- What's {x}?  -- \"Well", "What's 5?  -- \"Well"),
    ("%llm -c llm 'quoted -x' {x}", "quoted -x 5"),
    ("%llm -c llm first -- second", "first\n\nsecond"),
    ("%llm -c llm -- {{{x:{x}}}} {x!r:>{x}}", "{    5}     5"),
    ("%%llm -c llm Translate {x}:\n  {x} -- y  ", "Translate 5:\n\n5 -- y"),
])  # fmt: skip
def test_a_line(server, book, line, prompt):
    """The question stands behind the options, with quotes of its own behind --; in a cell, what goes before it."""
    server.reply("ok")
    book.names["x"] = 5
    assert book.run(line).result.success
    assert asked(server) == prompt and None not in book.names


def test_a_line_without_options(server, book, monkeypatch):
    """Nothing in it is an option, or a quote."""
    for name, value in (("LLMLITE_MODEL", "openai/m"), ("OPENAI_API_KEY", "k"), ("OPENAI_BASE_URL", server.url)):
        monkeypatch.setenv(name, value)
    server.reply("ok", times=3)
    book.run("reply = %llm What's up -c?\nfor {x} in [1]:\n    %llm Is it {x}?  \n".replace("{x}", "x", 1))
    assert [request.json["messages"][0]["content"] for request in server.requests] == ["What's up -c?", "Is it 1?"]
    assert book.names["reply"].text == "ok"
    book.run("%%llm\n%llm why?")
    assert asked(server) == "%llm why?"


def test_a_question(server, book):
    """It is no call for IPython's help, wherever the reply goes; in a string of several lines it is only text."""
    server.reply("ok", times=3)
    book.run("kept = {}\nkept['a'] = %llm -c llm Why?\nkept['b'] = kept['c'] = %llm -c llm -- What's up?\n"
             "  # a comment\n%llm -c llm And then?")
    told = [request.json["messages"][0]["content"] for request in server.requests]
    assert told == ["Why?", "What's up?", "And then?"]
    assert {name: reply.text for name, reply in book.names["kept"].items()} == dict.fromkeys("abc", "ok")
    text = 'text = """\n%llm why?\nx = %llm why?\n"""\n'
    book.run(text)
    assert book.names["text"] == "\n%llm why?\nx = %llm why?\n"
    shown = book.run("if True:\n        pass\n    x = 1\n%llm -c llm why?")
    assert "IndentationError" in shown.out and len(server.requests) == 3


def test_a_line_in_a_function(server, book):
    """It sees the function's variables too; what they are called before the notebook's."""
    server.reply("ok")
    book.names.update(word="outer", kind="notebook's")
    book.run("def ask(word, talk):\n    reply = %llm -c talk The {kind} {word}\n    return reply\n"
             "reply = ask('inner', llm)")
    assert asked(server) == "The notebook's inner" and book.names["reply"].text == "ok"


def test_files_and_schemas(server, book, tmp_path):
    """As on the command line; a schema may be what a variable holds."""
    @dataclasses.dataclass
    class City:
        name: str

    (tmp_path / "a.txt").write_text("text {of} a file")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    book.names["City"] = City
    server.reply('{"name": "Bonn"}', times=3)
    book.run(f"%%llm -c llm -f {tmp_path}/a.txt -f {tmp_path}/b.png --schema City\nWhere?")
    assert book.names["_"].parsed == City("Bonn")
    text, image = asked(server)
    assert text["text"] == f"{tmp_path}/a.txt:\n\ntext {{of}} a file\n\nWhere?" and image["type"] == "image_url"
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    book.run(f"%%llm -c llm -m other --deadline 9 --schema '{json.dumps(schema)}'\nWhere?")
    assert book.names["_"].parsed == {"name": "Bonn"} and server.requests[-1].json["model"] == "other"
    book.names["schema"] = json.dumps(schema)
    book.run("%%llm -c llm --schema schema\nWhere?")
    assert book.names["_"].parsed == {"name": "Bonn"}
    assert server.requests[-1].json["response_format"]["json_schema"]["schema"]["required"] == ["name"]


@pytest.mark.parametrize("source, words", [
    ("%%llm -c llm\n{missing.x}", "{missing.x}: there is no variable 'missing' ({{ and }} stand for braces)"),
    ("%%llm -c llm -s {nope[0]}\nHi", "{nope[0]}: there is no variable 'nope' ({{ and }} stand for braces)"),
    ("%%llm -c llm\n{}", "{}: that is no variable's name ({{ and }} stand for braces)"),
    ("%%llm -c llm\n{\n  \"a\": {\"b\": 1}\n}", "{ \"a\": {\"b\": 1} }: that is no variable's name ("),
    ("%%llm -c llm\n{" + 20 * "long " + "}", "{" + 11 * "long " + "lo…}: that is no variable's name ("),
    ("%%llm -c llm\none\nif (x) { return;\n", "a { that nothing closes: if (x) { return; ({{ and }} stand for braces)"),
    ("%%llm -c llm\n{x} }", "a } that nothing opens: {x} } ({{ and }} stand for braces)"),
    ("%%llm -c llm\n{llm.nothing}", "{llm.nothing} cannot be filled in: AttributeError: "),
    ("%%llm -c llm\n{x.pop()}", "{x.pop()} cannot be filled in: AttributeError: 'list' object has no attribute "
     "'pop()' (a variable, its .attribute or [key], but nothing to work out; {{ and }} stand for braces)"),
    ("%%llm -c llm\n{llm[0]}", "{llm[0]} cannot be filled in: TypeError: "),
    ("%%llm -c llm\n{x[9]}", "{x[9]} cannot be filled in: IndexError: "),
    ("%%llm -c llm\n{x:.z}", "{x:.z} cannot be filled in: "),
    ("%%llm -c llm --to 1x\nHi", "--to 1x: that is no variable's name"),
    ("%%llm -c llm --to class\nHi", "--to class: that is no variable's name"),
    ("%%llm -c llmlite\nHi", "-c llmlite: that is a module (give the variable of a Client or a conversation)"),
    ("%%llm -c other\nHi", "-c other: there is no variable of this name"),
    ("%%llm -c x\nHi", "-c x: that is a list (give the variable of a Client or a conversation)"),
    ("%%llm -c llm -p openai\nHi", "--provider has no meaning with -c: the client has its own"),
    ("%%llm -c llm --base-url http://a\nHi", "--base-url has no meaning with -c"),
    ("%%llm -c llm --cache x\nHi", "--cache has no meaning with -c"),
    ("%%llm --what\nHi", "%llm: unrecognized arguments: --what (see %llm --help)"),
    ("%%llm -c llm -o temperature=x\nHi", "%llm: argument -o: 'temperature=x': temperature takes a number"),
    ("%%llm -c llm -f nothing.txt\nHi", "file 'nothing.txt': No such file"),
    ("%%llm -c llm --schema nothing.json\nHi", "nothing.json: No such file"),
    ("%%llm -c llm --schema x\nHi", "--schema x: schema is [1]: give a JSON-schema dict"),
    ("%%llm -s What's\nHi", "%llm -s What's: No closing quotation (quotes go in pairs"),
    ("%%llm\nHi", "no model (give -m PROVIDER/MODEL, or -c with a client's variable, or set LLMLITE_MODEL)"),
    ("%llm", "nothing to ask (write the prompt below %%llm, or after %llm)"),
    ("%%llm -c llm\n  ", "nothing to ask ("),
])  # fmt: skip
def test_refusals(server, book, source, words):
    """One line, and nothing is sent."""
    book.names["x"] = [1]
    line, = book.run(source).out.splitlines()
    assert line.startswith(f"ConfigurationError: {words}")
    assert not server.requests


def test_a_failed_call(server, book):
    """Its line alone: the cell is the prompt. `_` and --to are as they were."""
    server.error(401, "bad key")
    book.names["told"] = 7
    line, = book.run("%%llm -c llm --to told\nHi").out.splitlines()
    assert line.startswith("AuthenticationError: ") and "bad key" in line and book.names["told"] == 7


def test_help_and_unloading(book):
    """-h lists the options; the extension leaves nothing behind."""
    shown = book.run("%llm -h")
    usage = "usage: %%llm [OPTIONS]\nPROMPT\n\n%llm [OPTIONS] [--] PROMPT\n"
    assert shown.result.success and shown.out.startswith(usage)
    assert "{{ and }} are braces" in shown.out
    assert re.findall(r"(?m)^  (-.+?)  +\S+", shown.out) == [
        "-h, --help", "-m, --model MODEL", "-p, --provider NAME", "--base-url URL", "--deadline SECONDS",
        "-c, --client NAME", "-s, --system TEXT", "-f, --file FILE", "-o KEY=VALUE", "--schema SCHEMA", "--cache FILE",
        "--to NAME"]
    assert book.run("%reload_ext llmlite").out == ""
    book.run("%unload_ext llmlite")
    assert not any("llm" in magics for magics in book.shell.magics_manager.magics.values())
    assert "`%llm` not found" in book.run("%llm -h").out and "`%llm` not found" in book.run("%llm a b").out
    llmlite.unload_ipython_extension(book.shell)
