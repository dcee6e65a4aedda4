"""What README.rst and CHANGELOG.rst say is so."""
import html
import inspect
import io
import os
import re
import sys
import textwrap
import types

import pytest

from llmlite import batch
from llmlite.__main__ import main
from tests import VENDORED, llmlite, testing

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

pytestmark = pytest.mark.skipif(VENDORED, reason="the README is about the package")


def text_of(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return file.read()


def section_of(text, title):
    """The text below a heading, up to the next one."""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^[^\n]+\n[-=]{{3,}}\n|\Z)", text, re.M | re.S)
    assert found, title
    return found.group(1)


def blocks_of(text, language):
    """The indented blocks below `.. code:: language`."""
    found = re.findall(rf"^\.\. code:: {language}\n\n((?:    .*\n|\n)+)", text, re.M)
    return [textwrap.dedent(block) for block in found]


README = text_of("README.rst")
SKY = "Air scatters blue light more than red."
WARM = testing.reply("It is 21.5 degrees in Rome.", times=None)
ANSWERS = {
    "Why is the sky blue?": testing.reply(SKY, times=None),
    "And at sunset?": testing.reply("Then only the red is left.", times=None),
    "Tell me a story": testing.stream(["Once ", "upon ", "a ", "time."], times=None),
    "Tell me a long story": testing.sse([{"choices": [{"index": 0, "delta": {"content": piece}}]}
                                         for piece in ("Once ", "upon ")]),
    "How warm is it in Rome?": testing.reply("", tool_calls=[{"name": "temperature", "arguments": {"city": "Rome"}}]),
    "21.5": WARM,
    "How many r are in strawberry?": testing.stream(["Three."], reasoning=["s-t-r-a-w ", "b-e-r-r-y"]),
    "Which is the largest city of Italy?": testing.reply('{"name": "Rome", "people": 2750000}'),
    "What is in the pictures?": testing.reply("The sky and the sea."),
    "What is due?": testing.reply("40 euros, on Friday."),
    "Yes or no?": testing.json_body({"choices": [{
        "message": {"content": "Yes"}, "finish_reason": "stop", "logprobs": {"content": [
            {"token": "Yes", "logprob": -0.2, "top_logprobs": [{"token": "Yes"}, {"token": "No"}]}]}}]}),
    "Once upon": testing.reply(" a time"),
    "What is the capital of France?": testing.reply("Paris"),
}


OTHERS = {
    "/v1/moderations": testing.json_body({"results": [{"flagged": False}]}),
    "/v1/audio/transcriptions": testing.json_body({"text": "Good morning."}),
    "/v1/audio/speech": testing.body([b"ID3", b"..."], headers={"Content-Type": "audio/mpeg"})}


def asked(request):
    """The last words of a request, in whichever dialect."""
    body = request.json
    if "prompt" in body:
        return body["prompt"]
    message = (body.get("messages") or body.get("input") or body["contents"])[-1]
    content = message.get("content") or message["parts"]
    return content if isinstance(content, str) else content[0]["text"]


def provider():
    """The function that answers as the README's providers do."""
    everything = iter([testing.error(400, "too much"), testing.reply("Where to begin?")])
    kept = ({"content": [{"type": "text", "text": SKY}], "stop_reason": "end_turn", "usage": {
        "input_tokens": 10, name: 3120}} for name in ("cache_creation_input_tokens", "cache_read_input_tokens"))

    def answer(request):
        if request.path == "/v1/embeddings":
            return None
        if request.path == "/v1/models":
            return testing.json_body({"data": [{"id": name} for name in ("a", "b", "c")]})
        if request.path in OTHERS:
            return OTHERS[request.path]
        if "cache_control" in str(request.json):
            return testing.json_body(next(kept))
        if request.json.get("model") == "gpt-retired":
            return testing.error(404)
        if asked(request) == [9707, 11]:
            return testing.stream([("Once", 1), (" upon", 2)])
        return next(everything) if asked(request) == "Tell me everything" else ANSWERS[asked(request)]
    return answer


def as_module(monkeypatch):
    """A module for the README's code to be in, as classes and functions are."""
    module = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    return module.__dict__


def test_python_blocks_run_in_order(monkeypatch, capsys, tmp_path):
    """Every Python block runs, one after the other, against a server; each prints what its comments say."""
    monkeypatch.chdir(tmp_path)
    for name, data in (("sky.png", b"\x89PNG\r\n\x1a\n"), ("invoice.pdf", b"%PDF-1.7"), ("talk.wav", b"RIFF")):
        (tmp_path / name).write_bytes(data)
    with testing.Server() as server:
        server.handle(provider())
        for name in ("OPENAI", "ANTHROPIC", "GEMINI", "VERTEX_ANTHROPIC", "BEDROCK"):
            monkeypatch.setenv(name + "_API_KEY", "sk-test-key")
            monkeypatch.setenv(name + "_BASE_URL", server.url)
        monkeypatch.setenv("VLLM_BASE_URL", server.url)
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", "sk-test-key")
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.root)
        names = as_module(monkeypatch)
        blocks = blocks_of(README, "python")
        for block in blocks:
            if "import distributed" in block:  # tests/neighbours/test_dask.py runs it
                continue
            for address in ("http://localhost:8000/v1", "https://api.openai.com/v1"):
                block = block.replace(address, server.url)
            exec(block, names)
            printed = capsys.readouterr().out
            for comment in re.findall(r"^ *print\(.*\) +# (.*)$", block, re.M):
                _, found, printed = printed.partition(comment)
                assert found, comment
        assert (tmp_path / "said.mp3").read_bytes() == b"ID3..."
        for name in ("llm", "local", "raw", "claude", "signed", "session"):
            names[name].close()
        assert len(blocks) == README.count("\n.. code:: python\n") and len(server.requests) > len(blocks)
        sent = server.requests[2].json  # the tour's third: with options
        assert {key: sent[key] for key in ("temperature", "max_completion_tokens", "service_tier")} == {
            "temperature": 0, "max_completion_tokens": 100, "service_tier": "flex"}


def test_it_opens_with_the_two_commands():
    """The first two indented lines are the demo and the tests, each in a block of its own."""
    opening = re.findall(r"::\n\n    (\S.*)\n\n", README[:README.index("\n.. contents::")])
    assert opening == [
        "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/llmlite demo",
        "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest"]


def test_it_renders_without_a_warning():
    """docutils, which PyPI and others show it by, finds nothing to say, and every reference leads somewhere."""
    core = pytest.importorskip("docutils.core")
    said, writer = io.StringIO(), pytest.importorskip("docutils.writers").get_writer_class("html5")()
    page = core.publish_string(README, writer=writer, settings_overrides={
        "report_level": 1, "halt_level": 5, "warning_stream": said, "syntax_highlight": "none"}).decode()
    assert said.getvalue() == ""
    shown = re.findall(r"^([^\n]+)\n(?:-{3,}|={3,})\n\n", README, re.M)[1:]
    assert len(shown) > 30 and all(html.escape(title, quote=False) in page for title in shown)


def test_it_says_how_many_providers():
    """The number of providers that it opens with is that of the table."""
    assert f"It speaks to {len(llmlite.providers())} providers" in README[:README.index("::")]


def test_figures_are_told_once():
    """Each figure of the promises' table stands in the section that says how it was measured."""
    table, _, _ = section_of(README, "What it promises, in figures").partition("`The promises in full`_")
    below = " ".join(section_of(README, title) for title in (
        "The fault matrix", "Speed", "A million prompts a day", "The promises in full"))
    figures = re.findall(r"\b0 to 15\b|\b99 MiB|\d[\d,.]*\d", table)
    assert {"2,198", "0.02", "0.40", "1.16", "1.17", "99 MiB"} <= set(figures)
    assert not [figure for figure in figures if figure not in below.replace("a quarter", "0.25")]


def fields_of(kind):
    """The public attributes of a class, those included that only its objects have."""
    made = {"Response": llmlite.Response(), "Ledger": llmlite.Ledger(), "Server": testing.Server()}.get(
        kind.__name__, kind)
    return {name for name in dir(made) if name[0] != "_"} - set(dir(tuple)) - set(dir(Exception))


def test_the_reference_is_whole():
    """The page of all public names has each name, method, argument and field, and no name that is not there."""
    page = section_of(README, "All public names")
    named = set(re.findall(r"[A-Za-z_]\w+|\bid\b", " ".join(re.findall("``([^`]+)``", page))))
    errors = {name for name in llmlite.client.__all__ if name.endswith("Error")} - {"LLMError"}  # a table of their own
    public = {*llmlite.client.__all__, "Cache", *batch.__all__, *testing.__all__} - errors
    for kind in (llmlite.Client, llmlite.Response, llmlite.Stream, llmlite.Event, llmlite.Usage, llmlite.ToolCall,
                 llmlite.Token, llmlite.Logprob, llmlite.File, llmlite.Answer, llmlite.Ledger,
                 llmlite.Conversation, llmlite.Embeddings, llmlite.ServerSentEvent, testing.Server, batch.Summary):
        public |= fields_of(kind)
    # Which a Client, a Conversation and an Answer get as they are made:
    public |= {"client", "compact_at", "ledger", "messages", "model", "options", "status_code", "system", "tools",
               "usage"}
    client = llmlite.Client
    for function in (client, client.chat, client.complete, client.run_tools, client.map, client.request, client.embed,
                     client.detokenize, client.conversation, client.load_conversation, llmlite.Conversation.stream,
                     llmlite.Conversation.compact, testing.record, testing.replay, llmlite.chat, llmlite.user,
                     llmlite.tool_result, llmlite.replay, llmlite.RetryPolicy, llmlite.RateLimit,
                     batch.run, testing.Server):
        public |= {name for name, parameter in inspect.signature(function).parameters.items()
                   if parameter.kind is not parameter.VAR_KEYWORD} - {"self"}
    assert not sorted(public - named)
    known = public | errors | {word for _, _, words in llmlite.providers() for word in words.split()}
    known |= fields_of(llmlite.Cache) | fields_of(testing.Request) | {"max_age", "name", "llmlite", "batch", "testing"}
    known |= {"NAME_API_KEY", "NAME_BASE_URL", "function", "help", "progress", "query", "with", "providers"}
    assert not sorted(word for word in named - known if not word.startswith("LLMLITE_"))


def test_the_help_shown_is_the_real_one(capsys):
    """The help in the README is what `llmlite --help` prints, on every Python."""
    assert main(["--help"]) == 0
    shown, = (block for block in blocks_of(README, "text") if block.startswith("$ llmlite --help\n"))
    assert shown.partition("\n")[2].strip("\n") == capsys.readouterr().out.strip("\n")


def test_errors_table_lists_every_error():
    """The table of errors has a row for each public error class, and for nothing else, with its family named."""
    rows = re.findall(r"^``(\w+)`` ", section_of(README, "Errors"), re.M)
    public = [name for name in llmlite.client.__all__ if inspect.isclass(getattr(llmlite, name))
              and issubclass(getattr(llmlite, name), llmlite.LLMError)]
    assert sorted(rows) == sorted(set(public) - {"LLMError"})
    start = rows.index("APIError")
    assert all(issubclass(getattr(llmlite, name), llmlite.APIError) for name in rows[start:start + 11])
    assert sum(issubclass(getattr(llmlite, name), llmlite.APIError) for name in rows) == 11


def test_error_fields_exist():
    """Every field that the errors' section names is one of the errors' own."""
    named = set(re.findall(r"``([a-z_]+)``", section_of(README, "Errors")))
    options = {"timeout", "idle_timeout", "rate_limit", "retry_empty"}
    assert named >= options | {"status_code", "request_id", "response", "last_error", "retry_after"}
    for name in named - options:
        assert hasattr(llmlite.APIError, name), name


def test_retry_fields_exist():
    """Every option that the retries' section names is one of RetryPolicy's or Client's."""
    named = set(re.findall(r"``([a-z_]+?)(?:=\w+)?``", section_of(README, "Retries and deadlines")))
    known = {*inspect.signature(llmlite.RetryPolicy).parameters, *inspect.signature(llmlite.Client).parameters}
    assert named and named <= known


def test_providers_listed_are_the_known_ones():
    """The list of providers has every one, in the table's order."""
    listed = re.search(r"^::\n\n((?:    .*\n)+)", section_of(README, "Providers"), re.M)[1].split()
    assert listed == [name for name, _, _ in llmlite.providers()]


def test_clouds_are_the_tables():
    """Each cloud's variables, of its address and of its key, are those it has."""
    rows = re.findall(r"^(``[a-z-]+``|  ) +(``.*)$", section_of(README, "Clouds"), re.M)
    shown = {}
    for name, rest in rows:
        last = name.strip("`") if name.strip() else last  # noqa: F821
        shown.setdefault(last, []).extend(re.findall("``([A-Z_]+)``", rest))
    for name, variables in shown.items():
        row = llmlite.client._PROVIDERS[name]
        blanks = [word for words in row.blanks.values() for word in words.split() if word[0] != "="]
        keys = row.keys if name != "vertex-anthropic" else ()  # "the same"
        assert sorted(variables) == sorted([*blanks, *keys]), name
    clouds = {name: row.base_url for name, row in llmlite.client._PROVIDERS.items() if row.blanks}
    addresses = re.findall(r"^    (\S+) +(https://\S+)$", section_of(README, "Clouds"), re.M)
    assert set(shown) == set(clouds) and dict(addresses) == clouds


def test_the_kinds_of_files_are_those_it_has():
    """The table of what each wire format takes in a message."""
    rows = re.findall(r"^(chat completions|[A-Z]\w+) +((?:yes|no|as text)[a-z ]+)$",
                      section_of(README, "Images, documents, audio"), re.M)
    dialects = {kind.speech: kind for kind in (llmlite.client._OpenAI, llmlite.client._Responses,
                                               llmlite.client._Anthropic, llmlite.client._Gemini)}
    kinds = ("images", "PDF", "text", "audio", "documents by URL")
    assert {name: re.findall("yes|no|as text", cells) for name, cells in rows} == {
        name: ["yes" if kind in dialect.kinds else "as text" if kind == "text" else "no" for kind in kinds]
        for name, dialect in dialects.items()}


def test_modules_shown_are_there():
    """Every `python -m tests.…` of the README is a package that can be run, and its options are its own."""
    lines = "".join(blocks_of(README, "console")).splitlines()
    shown = [line.split() for line in lines if "-m tests." in line]
    assert [words[3] for words in shown] == ["tests.faults", "tests.soak", "tests.benchmarks"]
    for words in shown:
        source = text_of(os.path.join(*words[3].split("."), "__main__.py"))
        assert all(f'"{option}"' in source for option in words[4:] if option.startswith("--"))


def test_requirements_are_setup_cfgs():
    """The versions that the README asks for are those of setup.cfg."""
    asked = re.findall(r"``(\w+)`` ([\d.]+) or later", section_of(README, "Requirements"))
    assert asked == re.findall(r"^\s+(requests|urllib3)>=([\d.]+),", text_of("setup.cfg"), re.M)  # tabs in the sdist


def test_changelog_has_unreleased_on_top():
    """The changelog's first section is Unreleased."""
    titles = re.findall(r"^(.+)\n-+$", text_of("CHANGELOG.rst"), re.M)
    assert titles[0] == "Unreleased"
