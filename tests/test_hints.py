"""What the one line of an error says to do: the commonest failures, those of the README's table "When it fails"."""
import asyncio
import contextlib
import copy
import inspect
import io
import os
import pickle
import re
import socket
import threading
import time
from typing import Any, Callable, NamedTuple

import pytest
import requests
import urllib3

from tests import VENDORED, llmlite, testing

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KEY = "sk-not-to-be-shown-1234"
PAGE = testing.body(b"<!doctype html><title>Sign in</title>", headers={"Content-Type": "text/html"})
TOO_LONG = "This model's maximum context length is 8192 tokens. However, your messages resulted in 10000 tokens."


class Bench:
    """A scripted provider, and calls to it that fail."""

    def __init__(self, server, monkeypatch):
        self.server, self.setenv = server, monkeypatch.setenv

    def client(self, model="gpt-5", provider="openai", base_url=None, api_key=KEY, **options):
        return llmlite.Client(model, provider=provider, base_url=base_url or self.server.url, api_key=api_key,
                              retry=None, **options)

    def chat(self, *args, method="chat", **options):
        with self.client(*args, **options) as llm:
            list(getattr(llm, method)("hi").text)

    def refused(self, status, message=None, *args, reply=None, **options):
        """A chat that is answered with this error."""
        self.server.error(status, message, **options.pop("how", {}))
        if reply is not None:
            self.server.json(reply)
        self.chat(*args, **options)

    def answered(self, reply, **options):
        self.server.handle(lambda request: reply)
        self.chat(**options)

    def unserved(self, provider):
        """A chat with a provider whose server does not run."""
        with free_port() as port:
            self.chat("m", provider, f"http://127.0.0.1:{port}/v1")

    def keyed(self, key, **options):
        self.setenv("OPENAI_API_KEY", key)
        self.refused(401, api_key=None, **options)

    def called(self, **options):
        with self.client() as llm:
            llm.chat("hi", **options)

    def of(self, path):
        """An attribute of a client, as other clients have them."""
        with self.client() as llm:
            found: Any = llm
            for name in path.split("."):
                found = getattr(found, name)

    def replied(self, path):
        """The same of a reply."""
        found: Any = llmlite.Response(text="hi")
        for name in path.split("."):
            found = getattr(found, name)

    def awaited(self, method):
        self.server.reply("ok")
        with self.client() as llm:
            reply = getattr(llm, method)("hi")
            str(reply.text) if method == "chat" else list(reply)
            with contextlib.closing(asyncio.new_event_loop()) as loop:
                loop.run_until_complete(reply)

    def through_proxy(self, answer, scheme="https", proxy="http://127.0.0.1"):
        """A chat through a proxy that answers so, or does not run."""
        with answering(answer) if answer else free_port() as port:
            self.setenv(f"{scheme}_proxy", f"{proxy}:{port}")
            self.chat(base_url=f"{scheme}://llm.example/v1", timeout=5)

    def hung_up_on(self, words=b"", scheme="http"):
        """A chat with a server that says this at once, and no more."""
        with answering(words) as port:
            self.chat(base_url=f"{scheme}://127.0.0.1:{port}/v1", timeout=5)

    def shaken_by_nobody(self, **options):
        """A chat with a server that never answers, not even TLS's first word."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.chat(base_url=f"https://127.0.0.1:{listener.getsockname()[1]}/v1", **options)

    def answered_plainly(self):
        with answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") as port:
            self.chat(base_url=f"https://127.0.0.1:{port}/v1", timeout=5)

    def self_signed(self):
        trustme = pytest.importorskip("trustme")
        ssl = pytest.importorskip("ssl")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        with testing.Server(ssl_context=context) as server:
            self.chat(base_url=server.url)

    def silent(self, method="chat", **options):
        self.server.raw(testing.STALL)
        self.chat(method=method, **options)


@contextlib.contextmanager
def free_port():
    """A port at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextlib.contextmanager
def answering(words):
    """A port at which whoever connects is told this."""
    def answer():
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(words)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


class Row(NamedTuple):
    """What fails, the words that stand in its line, and the failure."""

    what: str
    says: str
    fail: Callable[[Bench], Any]


def made(*args, **options):
    """A client that cannot be made."""
    return lambda bench: llmlite.Client(*args, **options)


def with_key(key, **options):
    def fail(bench):
        bench.setenv("OPENAI_API_KEY", key)
        llmlite.Client("openai/gpt-5", **options)
    return fail


def under_another_name(bench):
    bench.setenv("OPENAI_KEY", KEY)
    llmlite.Client("openai/gpt-5")


def names(*ids):
    return {"object": "list", "data": [{"id": id} for id in ids]}


GROUPS = {
    "The model's name": [
        Row('Client("opnai/gpt-5")', 'did you mean "openai/gpt-5"?', made("opnai/gpt-5")),
        Row('Client("OpenAI/gpt-5")', 'did you mean "openai/gpt-5"?', made("OpenAI/gpt-5")),
        Row('Client("openai:gpt-5")', 'did you mean "openai/gpt-5"?', made("openai:gpt-5")),
        Row('Client("gpt-5-mini")', 'did you mean "openai/gpt-5-mini"?', made("gpt-5-mini")),
        Row('Client("google/gemini-2.5-pro")', 'did you mean "gemini/gemini-2.5-pro"?', made("google/gemini-2.5-pro")),
        Row('Client("qwen3:8b")', 'did you mean "ollama/qwen3:8b"?', made("qwen3:8b")),
        Row('Client("gpt-5", provider="OpenAI")', 'did you mean "openai"?', made("gpt-5", provider="OpenAI")),
        Row("Client()", "LLMLITE_MODEL names one for all", made()),
        Row("a model that is not there", "did you mean gpt-5-mini?", lambda bench: bench.refused(
            404, "The model `gpt-5-mni` does not exist", "gpt-5-mni", reply=names("gpt-4.1", "gpt-5-mini", "tts-1"))),
        Row("a model that your own server does not have", "it has qwen3-8b", lambda bench: bench.refused(
            404, "The model `llama` does not exist.", "llama", "vllm", reply=names("qwen3-8b"))),
        Row("a model that Ollama has not pulled", "ollama pull llama9", lambda bench: bench.refused(
            404, 'model "llama9" not found, try pulling it first', "llama9", "ollama")),
        Row("another provider's model", 'it is a model of anthropic: Client("anthropic/claude-x")',
            lambda bench: bench.refused(404, "The model `claude-x` does not exist", "claude-x"))],
    "The address": [
        Row('base_url="localhost:8000/v1"', "did you mean http://localhost:8000/v1?", made(
            "m", base_url="localhost:8000/v1")),
        Row('base_url="http://localhost:8000/v1/chat/completions"', "leave /chat/completions out", made(
            "m", base_url="http://localhost:8000/v1/chat/completions")),
        Row("a base URL without /v1", "does the base URL lack /v1?", lambda bench: bench.refused(
            404, "404 page not found", "m", None, bench.server.root)),
        Row("a base URL with /v1 twice", "the base URL has /v1 twice", lambda bench: bench.refused(
            404, "Not Found", "m", None, bench.server.url + "/v1")),
        Row("404", "check the base URL and the model; asked POST http://", lambda bench: bench.refused(404)),
        Row("405", "/v1/chat/completions", lambda bench: bench.refused(405)),
        Row("a redirect", "if that is the address, give base_url=https://llm.example/v1", lambda bench: bench.answered(
            testing.body(b"", status=308, headers={"Location": "https://llm.example/v1/chat/completions"}))),
        Row("a web page for an answer", "is the base URL right? a proxy, a firewall or a login may have answered",
            lambda bench: bench.answered(PAGE)),
        Row("a web page for a stream", "is the base URL right?", lambda bench: bench.answered(PAGE, method="stream")),
        Row("an answer of another kind", "is it an API at http://", lambda bench: bench.answered(
            testing.json_body({"hello": "world"})))],
    "The key": [
        Row("no key", "set OPENAI_API_KEY, or give api_key=", with_key(" ")),
        Row("the key in OPENAI_KEY", "OPENAI_KEY is set: rename it", under_another_name),
        Row("a key with a line end", "OPENAI_API_KEY is not fit for a header: it has a line end", with_key(KEY + "\n")),
        Row("a key with a space in it", "OPENAI_API_KEY has a space in it", with_key(KEY + " # mine")),
        Row("a key in quotation marks", "OPENAI_API_KEY has quotation marks around it", with_key(f'"{KEY}"')),
        Row('api_key="Bearer sk-..."', 'api_key begins with "Bearer" (leave that out: it is put before the key)',
            with_key("", api_key="Bearer " + KEY)),
        Row("your own server in the LAN, no key", 'api_key="" if that server takes none', made(
            "m", base_url="http://192.168.1.5:8000/v1")),
        Row("401", "check the key in OPENAI_API_KEY", lambda bench: bench.keyed(KEY)),
        Row("401, a key for another provider", "it looks like one of anthropic's", lambda bench: bench.keyed(
            "sk-ant-" + KEY)),
        Row("401 from your own server", "no key was sent: give api_key=, or set LLMLITE_API_KEY", lambda bench:
            bench.refused(401, None, "m", None, api_key=None))],
    "The request": [
        Row("a context that is too long", "10000 tokens, 8192 fit: shorten the messages", lambda bench: bench.refused(
            400, TOO_LONG)),
        Row("too large a max_tokens=", "max_tokens=16384 at most", lambda bench: bench.refused(
            400, "max_tokens is too large: 100000. This model supports at most 16384 completion tokens")),
        Row("an option that the model does not take", "leave temperature out", lambda bench: bench.refused(
            400, "Unsupported value: 'temperature' does not support 0 with this model.")),
        Row("413", "send less: a file by its URL or id takes no room", lambda bench: bench.refused(413)),
        Row("422", "error.body says which", lambda bench: bench.refused(422))],
    "The account, and the provider": [
        Row("402", "add credit to the account", lambda bench: bench.refused(402)),
        Row("a quota that is used up", "waiting does not help: check plan, limits and billing", lambda bench:
            bench.refused(429, how={"code": "insufficient_quota"})),
        Row("403", "check what the key, its project and its plan may use", lambda bench: bench.refused(403)),
        Row("403 for where you are", "the provider does not serve this place", lambda bench: bench.refused(
            403, "Country, region, or territory not supported")),
        Row("429, after all retries", "send less: fewer workers=, or rate_limit=", lambda bench: bench.refused(429)),
        Row("500, after all retries", "the provider's own trouble: try later; its request req-7", lambda bench:
            bench.refused(500, how={"headers": {"x-request-id": "req-7"}})),
        Row("503 or 529, after all retries", "try later, or name fallbacks=", lambda bench: bench.refused(529))],
    "The network": [
        Row("Ollama does not run", "is the server running there? start it: ollama serve", lambda bench:
            bench.unserved("ollama")),
        Row("llama.cpp does not run", "start it: llama-server -m MODEL.gguf", lambda bench: bench.unserved("llamacpp")),
        Row("vLLM does not run", "start it: vllm serve MODEL", lambda bench: bench.unserved("vllm")),
        Row("LM Studio does not run", "start it: lms server start", lambda bench: bench.unserved("lmstudio")),
        Row("a host that is misspelt", "did you mean generativelanguage.googleapis.com?", lambda bench: bench.chat(
            base_url="https://generativelanguage.googleapis.invalid/v1")),
        Row("no network", "check the host name, the network and any proxy", lambda bench: bench.chat(
            base_url="https://llmlite.invalid/v1")),
        Row("a proxy that does not run", "NO_PROXY=llm.example goes past it", lambda bench: bench.through_proxy(None)),
        Row("a proxy that wants a password", "https_proxy=http://user:password@host:port", lambda bench:
            bench.through_proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")),
        Row("a certificate that nobody knows", "REQUESTS_CA_BUNDLE or SSL_CERT_FILE names a file with the authorities "
            "to trust", lambda bench: bench.self_signed()),
        Row("https:// where http:// is spoken", "is it an https address? without TLS it is http://127.0.0.1",
            lambda bench: bench.answered_plainly()),
        Row("http:// where https:// is spoken", "or does it want https://127.0.0.1", lambda bench: bench.hung_up_on()),
        Row("no answer in time", "raise timeout=, or stream the answer", lambda bench: bench.silent(timeout=0.1)),
        Row("a stream that falls silent", "raise idle_timeout=", lambda bench: bench.silent(
            "stream", idle_timeout=0.1)),
        Row("a deadline that is too short", "raise deadline=", lambda bench: bench.silent(deadline=0.1))],
    "The habits of other clients": [
        Row("llm.chat.completions.create(...)", "write llm.chat(messages, ...)", lambda bench: bench.of(
            "chat.completions.create")),
        Row("llm.messages.create(...)", "write llm.chat(messages)", lambda bench: bench.of("messages.create")),
        Row("llm.embeddings.create(...)", "write llm.embed(texts)", lambda bench: bench.of("embeddings.create")),
        Row("llm.generate_content(...)", "write llm.chat(messages)", lambda bench: bench.of("generate_content")),
        Row("await llm.chat(...)", "leave await out; in a coroutine, write await asyncio.to_thread(llm.chat, ...)",
            lambda bench: bench.awaited("chat")),
        Row("reply.choices[0].message.content", "write reply.text", lambda bench: bench.replied("choices")),
        Row("reply.usage.prompt_tokens", "write usage.input_tokens", lambda bench: bench.replied(
            "usage.prompt_tokens")),
        Row("llm.chat(..., max_retries=5)", "give retry= to Client", lambda bench: bench.called(max_retries=5)),
        Row("llm.chat(..., stream=True)", "write llm.stream(messages)", lambda bench: bench.called(stream=True)),
        Row("response_format=", "give schema=", lambda bench: bench.called(response_format={"type": "json_object"})),
        Row("n=", "only one answer is read: write llm.map([prompt] * n)", lambda bench: bench.called(n=3)),
        Row("max_completion_tokens=", "give max_tokens=", lambda bench: bench.called(max_completion_tokens=9)),
        Row("functions=", "give tools=", lambda bench: bench.called(functions=[])),
        Row("temprature=", "did you mean temperature=?", lambda bench: bench.called(temprature=0)),
        Row("service_tier=", 'extra={"service_tier": ...} sends it as it is', lambda bench: bench.called(
            service_tier="flex")),
        Row("Client(..., api_base=...)", "give base_url=", lambda bench: bench.client(api_base="http://localhost/v1")),
        Row("Client(..., organization=...)", 'give headers={"OpenAI-Organization": "..."}', lambda bench: bench.client(
            organization="org-1")),
        Row("Client(..., temperature=0)", "give it to chat(), stream() or map()", lambda bench: bench.client(
            temperature=0))],
}
ROWS = [row for rows in GROUPS.values() for row in rows]


def line_of(fail, bench):
    """The one line of the error that a failure raises, which holds no key."""
    with pytest.raises((llmlite.LLMError, TypeError, AttributeError)) as caught:
        fail(bench)
    error = caught.value
    line = str(error)
    assert "\n" not in line and KEY not in line + repr(error)
    if isinstance(error, llmlite.LLMError):
        assert KEY.encode() not in pickle.dumps(error)
    return line


@pytest.fixture
def bench(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "no_proxy", "OPENAI_KEY"):
        monkeypatch.delenv(name, raising=False)
    return Bench(server, monkeypatch)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_the_line_says_what_to_do(bench, row):
    """Each of the commonest failures says in its one line what to do."""
    assert row.says in line_of(row.fail, bench)


def test_there_are_many():
    """As many as the table is to have, and none twice."""
    assert len({row.what for row in ROWS}) == len(ROWS) >= 40


@pytest.mark.skipif(VENDORED, reason="the README is about the package")
def test_the_readme_has_the_table():
    """The README's rows are these, in this order, and say what the lines say."""
    with open(os.path.join(ROOT, "README.rst"), encoding="utf-8") as file:
        text = file.read().partition("\nWhen it fails\n-------------\n")[2].partition("\n\n\n")[0]
    rows = re.split(r"^    \* - ", text, flags=re.M)[1:]
    cells = [cell.strip() for row in rows for cell in re.split(r"\n      - ?", row)]
    shown = [" ".join(re.sub(r"``|\*\*", "", cell).split()) for cell in cells]
    told = []
    for group, rows in GROUPS.items():
        told += [group, "", *(word for row in rows for word in (row.what, row.says))]
    assert shown == told


@pytest.mark.parametrize("call, meant", [
    (lambda llm: llm.map(["hi"], worker=3), "workers"), (lambda llm: llm.map(["hi"], order=False), "ordered"),
    (lambda llm: llm.conversation(compactat=9), "compact_at"),
    (lambda llm: llm.run_tools("hi", [], max_round=3), "max_rounds")])
def test_a_misspelt_argument_of_one_method(bench, call, meant):
    """What a method takes beside chat's options is among the near names."""
    with bench.client() as llm, pytest.raises(TypeError, match=rf"did you mean {meant}=\?"):
        call(llm)


CALL = llmlite.ToolCall("c", "f", {}, "{}")


class Mine(llmlite.Response):
    """A class of the user's."""


@pytest.mark.parametrize("held, name, instead", [
    *((llmlite.Response(text="hi"), name, instead) for name, instead in (
        ("choices", "reply.text"), ("content", "reply.text"), ("stop_reason", "reply.finish_reason"),
        ("reasoning_content", "reply.reasoning"), ("model_dump", "reply.to_dict()"), ("txt", "reply.text"),
        ("prompt_tokens", "reply.usage.input_tokens"), ("to_dct", "reply.to_dict()"), ("other", None),
        ("__deepcopy__", None))),
    *((llmlite.Usage(1, 2), name, instead) for name, instead in (
        ("prompt_tokens", "usage.input_tokens"), ("completion_tokens", "usage.output_tokens"),
        ("prompt_tokens_details", "usage.cached_tokens"), ("total_token_count", "usage.total_tokens"),
        ("ouput_tokens", "usage.output_tokens"), ("other", None), ("__array__", None))),
    (CALL, "function", "call.name and call.arguments"), (CALL, "input", "call.arguments"), (CALL, "zzz", None),
    (llmlite.Embeddings([[1.0]], llmlite.Usage(), "m"), "data", "embeddings.vectors"),
    (llmlite.Event("text", "hi"), "delta", "event.text"), (Mine(text="hi"), "choices", "reply.text"),
    (Mine(text="hi"), "reasonin", "reply.reasoning")])
def test_what_another_client_has(held, name, instead):
    """Where it is here is told, or a near name; the rest is no attribute, as ever."""
    said = f": write {instead}" if instead else ""
    with pytest.raises(AttributeError) as caught:
        getattr(held, name)
    assert str(caught.value) == f"'{type(held).__name__}' object has no attribute '{name}'{said}"
    for same in (pickle.loads(pickle.dumps(held)), copy.deepcopy(held)):
        assert same == held or same.text == "hi"


class Counted(llmlite.Client):
    """A client of the user's, one of whose properties looks for what there is not."""

    @property
    def spent(self):
        return self.ledger.dollars


def test_a_property_that_fails_tells_of_itself(bench):
    """An attribute that there is, is not said to be none."""
    llm = Counted("m", base_url=bench.server.url)
    with llm, pytest.raises(AttributeError, match="'Ledger' object has no attribute 'dollars'$"):
        print(llm.spent)
    talk = llm.conversation(compact_at=9)
    talk.usage = {}
    with pytest.raises(AttributeError, match="'dict' object has no attribute 'total_tokens'$"):
        print(talk.should_compact)


def test_a_stream_and_a_conversation_of_another_client(bench):
    bench.server.reply("ok")
    with bench.client() as llm, llm.stream("hi") as stream:
        talk = llm.conversation()
        for held, name, instead in ((talk, "history", "talk.messages"), (talk, "masages", "talk.messages"),
                                    (stream, "get_final_message", "stream.response"),
                                    (stream, "text_stream", "for text in stream"), (talk, "ask", "talk.send(content)"),
                                    (stream, "respons", "stream.response")):
            with pytest.raises(AttributeError, match=f"write {re.escape(instead)}$"):
                getattr(held, name)
        assert stream.response.text == "" and copy.copy(talk).messages == []


@pytest.mark.parametrize("method, name, says", [
    ("chat", "http_client", "give session= to Client"), ("chat", "host", "give base_url= to Client"),
    ("chat", "proxies", "give session= to Client, or set HTTPS_PROXY"),
    ("chat", "fallbacks", "give fallbacks= to Client"), ("chat", "api_key", "give api_key= to Client"),
    ("chat", "images", "write user(text, images=[...], files=[...]) for the message"),
    ("chat", "response_model", "give schema=: a dataclass"), ("chat", "workers", "write llm.map(prompts, workers=...)"),
    ("chat", "logit_bias", 'extra={"logit_bias": ...} sends it as it is'),
    ("complete", "stream", "write llm.stream_tokens(prompt), and iterate it"), ("stream", "stream", "leave it out"),
    ("run_tools", "max_turns", "max_rounds=...)"), ("Client", "system_prompt", "give system= to chat()"),
    ("Client", "engine", "give model="), ("Client", "extra_headers", "give headers="),
    ("Client", "max_new_tokens", "give max_tokens= to chat()"), ("Client", "rpm", "give rate_limit=RateLimit(...)"),
    ("Client", "streaming", "write llm.stream(messages), and iterate it"), ("Client", "verbose", "set LLMLITE_DEBUG=1"),
    ("Client", "temprature", "temprature'")])
def test_arguments_of_other_clients(bench, method, name, says):
    """Those of the Client are no fields to be sent on; those of chat are none of the Client."""
    with pytest.raises(TypeError, match=re.escape(says)) as caught:
        if method == "Client":
            bench.client(**{name: 5})
        with bench.client() as llm:
            getattr(llm, method)("hi", *[[]] * (method == "run_tools"), **{name: 5})
    line = str(caught.value)
    assert line.startswith(f"{method}() got an unexpected keyword argument '{name}'") and line.endswith(says) | (
        "schema" in says or "leave" in says)
    assert not bench.server.requests


def test_a_conversation_that_is_asked_to_stream(bench):
    with bench.client() as llm, pytest.raises(TypeError, match="write stream.content., and iterate it"):
        llm.conversation().send("hi", stream=True)


# ------------------------------------------------------------------------------------------- near names of a model


MISSING = "The model `gpt-5-mni` does not exist"
LISTED = names("gpt-5-mini", "whisper-1")


def not_found(client, **options):
    """The error of a model that is not there."""
    with pytest.raises(llmlite.NotFoundError) as caught:
        client.chat("hi", **options)
    return caught.value


@pytest.mark.parametrize("method", ["chat", "stream", "complete", "stream_tokens"])
def test_the_list_is_asked_for_once_a_model(bench, method):
    """One GET, with the call's key and headers, that no ledger counts; later errors say the same without it."""
    bench.server.error(404, MISSING)
    bench.server.json(LISTED)
    bench.server.error(404, MISSING)
    with bench.client("gpt-5-mni") as llm:
        for _ in range(2):
            with pytest.raises(llmlite.NotFoundError, match=r"did you mean gpt-5-mini\?; asked POST") as caught:
                getattr(llm, method)("hi", headers={"X-Team": "a"})
            assert caught.value.attempts == 1
        assert (llm.ledger.attempts, llm.ledger.calls, llm.ledger.failed) == (2, 0, 2)
    assert [request.method for request in bench.server.requests] == ["POST", "GET", "POST"]
    listing = bench.server.requests[1]
    assert (listing.path, listing.headers["authorization"], listing.headers["x-team"]) == (
        "/v1/models", f"Bearer {KEY}", "a")


@pytest.mark.parametrize("reply", [
    testing.error(500), testing.error(401), testing.raw(testing.RESET), PAGE, testing.json_body({"a": 1}),
    testing.json_body({"data": []}), testing.json_body(names(*"abcdef")), testing.json_body(names("", "x" * 101)),
    testing.body(b"{", headers={"Content-Type": "application/json"})], ids=range(9))
def test_without_a_list_the_error_stays(bench, reply):
    """Whatever becomes of the list, the error is the call's own, and the list is asked for once."""
    bench.server.error(404, MISSING)
    bench.server.handle(lambda request: reply)
    with bench.client("gpt-5-mni") as llm:
        error = not_found(llm)
    assert (error.status_code, error.message, error.attempts) == (404, MISSING, 1)
    assert "models() lists them; asked POST" in error.hint
    assert len(bench.server.requests) == 2


def test_a_model_that_is_on_the_list_is_not_asked_about(bench):
    """Where the provider has the model itself, neither it nor its neighbours are what was meant."""
    bench.server.error(404, "The model `gpt-5` does not exist or you do not have access to it")
    bench.server.json(names("gpt-5", "gpt-5-mini"))
    with bench.client("gpt-5") as llm:
        hint = not_found(llm).hint
    assert "did you mean" not in hint and "models() lists it: may this key use it, and here?; asked POST" in hint


def test_the_list_takes_no_longer_than_the_deadline(bench):
    """A list that does not come is waited for no longer than the call would be."""
    bench.server.error(404, MISSING)
    bench.server.raw(testing.STALL)
    with bench.client("gpt-5-mni", deadline=0.3) as llm:
        error = not_found(llm)
    assert "check the model" in error.hint and 0.25 < error.elapsed < 1


@pytest.mark.parametrize("message", [
    "invalid model ID", "{} is not a valid model ID", "Invalid model: {}", "Model Not Exist",
    "The model `{}` has been decommissioned and is no longer supported"])
def test_a_model_refused_by_a_400(bench, message):
    """Some providers have no 404 for it; a bad request costs no other one."""
    for model, says in (("gpt-5-mni", "check the model: models() lists them; asked POST"),
                        ("claude-x", 'it is a model of anthropic: Client("anthropic/claude-x")')):
        assert says in line_of(lambda bench: bench.refused(400, message.format(model), model), bench)  # noqa: B023
    assert len(bench.server.requests) == 2


@pytest.mark.parametrize("message", ["Not Found", "no such model", "The model `gpt-5-mnix` does not exist",
                                     "the model my-gpt-5-mni is gone", "gpt-5-mni"])
def test_the_list_is_asked_for_only_where_the_model_is_named(bench, message):
    """A 404 that says nothing of this model costs no request more."""
    bench.server.error(404, message)
    with bench.client("gpt-5-mni") as llm:
        assert "did you mean" not in not_found(llm).hint
    assert len(bench.server.requests) == 1


def test_with_fallbacks_no_list_is_asked_for(bench, server):
    """The next client is asked at once."""
    server.error(404, MISSING)
    server.reply("ok")
    with bench.client("gpt-5-mni", fallbacks=["gpt-5"]) as llm:
        assert llm.chat("hi").text == "ok"
    assert [request.method for request in server.requests] == ["POST", "POST"]


def test_a_provider_that_lists_no_models(bench):
    """Where no list can be asked for, the error stays as it is."""
    bench.server.error(404, "The model `m1` does not exist")
    with bench.client("m1", "vertex") as llm:
        assert "check the model" in not_found(llm).hint
    assert len(bench.server.requests) == 1


def test_names_of_a_list_are_masked_and_fit_for_a_line(bench):
    """They are the server's words: no key that it echoes, no line end."""
    bench.server.error(404, "The model `llama` does not exist")
    bench.server.json(names(f"a {KEY}", "b\nc", "d", "e", "f"))
    with bench.client("llama", "vllm") as llm:
        assert "it has a ***, b c, d, e, f; asked POST" in not_found(llm).hint


def test_so_many_models_are_remembered(bench):
    """Of more models than a client remembers, no list is asked for."""
    bench.server.handle(lambda request: testing.json_body(LISTED) if request.method == "GET" else testing.error(
        404, f"The model `{request.json['model']}` does not exist"))
    with bench.client() as llm:
        for number in range(130):
            not_found(llm, model=f"gpt-5-mini-{number}")
    assert [request.method for request in bench.server.requests].count("GET") == 128


# ------------------------------------------------------------------------------------------- what else a line may say


@pytest.mark.parametrize("message, says", [
    ("prompt is too long: 200082 tokens > 200000 maximum", "(200082 tokens, 200000 fit: shorten the messages)"),
    ("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length",
     "(210000 tokens, 200000 fit: shorten the messages or lower max_tokens=)"),
    ("The input token count (1,200,000) exceeds the maximum number of tokens allowed (1,048,576).",
     "(1200000 tokens, 1048576 fit: shorten the messages)"),
    ("Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
     "(40000 tokens, 32768 fit: shorten the messages)"),
    ("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4000 in the messages, "
     "1000 in the completion).", "(5000 tokens, 4096 fit: shorten the messages or lower max_tokens=)"),
    ("This model's maximum prompt length is 131072 but the request contains 150000 tokens.",
     "(150000 tokens, 131072 fit: shorten the messages)"),
    ("Your input exceeds the context window of this model.", "(shorten the messages)"),
    ("The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
     "(5000 tokens, 4096 fit: shorten the messages)"),
    ("The input (5000 tokens) is longer than the model's context length (4096 tokens).",
     "(5000 tokens, 4096 fit: shorten the messages)"),
    ("Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context "
     "length of only 4096 tokens, which is not enough.", "(5000 tokens, 4096 fit: shorten the messages)"),
    ("Input is too long for requested model.", "(shorten the messages)"),
    ("Invalid request: Your request exceeded model token limit: 8192", "(shorten the messages)"),
    ("Range of input length should be [1, 30720]", "(shorten the messages)"),
    ("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and 1000 "
     "`max_new_tokens`", "(shorten the messages)"),
    ("Input validation error: `inputs` must have less than 8193 tokens. Given: 9000", "(shorten the messages)"),
    ("context shift is disabled", "(shorten the messages)"),
    ("maximum context length is 9 for gpt-4-32", "(shorten the messages)"),
    ("gpt-oss-20: too many tokens", "(shorten the messages)")])
def test_the_numbers_of_a_context(bench, message, says):
    """The tokens asked for and those that fit, where a server tells both."""
    assert line_of(lambda bench: bench.refused(400, message), bench).endswith(says)


def test_the_numbers_of_llamacpp(bench):
    """llama.cpp tells them beside its words."""
    bench.server.json({"error": {"code": 400, "message": "the request exceeds the available context size", "type":
                       "exceed_context_size_error", "n_prompt_tokens": 5000, "n_ctx": 4096}}, status=400)
    assert "5000 tokens, 4096 fit" in line_of(lambda bench: bench.chat(provider="llamacpp"), bench)


@pytest.mark.parametrize("status, message, says", [
    (400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
     '(give extra={"max_completion_tokens": ...} in place of max_tokens=)'),
    (400, "seed: Extra inputs are not permitted", "(leave seed out)"),
    (400, 'Invalid JSON payload received. Unknown name "seed": Cannot find field.', "(leave seed out)"),
    (400, "Unknown model 'x'", "Unknown model 'x'"),
    (400, "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens",
     "(max_tokens=8192 at most)"),
    (400, "The file `f` does not exist", "`f` does not exist"),
    (400, "Incorrect API key provided: x***y", "(check the key given as api_key=)"),
    (400, "User location is not supported for the API use.", "(the provider does not serve this place)"),
    (400, "Your credit balance is too low to access the Anthropic API.", "check plan, limits and billing)"),
    (403, "Your newly created team doesn't have any credits or licenses yet.", "check plan, limits and billing)"),
    (401, "You exceeded your current quota, please check your plan", "check plan, limits and billing)"),
    (413, "Request too large for model `x` on tokens per minute (TPM): Limit 6,000, Requested 9000",
     "(it alone is over the limit of 6,000: shorten the messages or lower max_tokens=)"),
    (400, "The plain HTTP request was sent to HTTPS port", "(write the base URL with https://)"),
    (400, "." * 900 + "The plain HTTP request was sent to HTTPS port", "(write the base URL with https://)"),
    (407, None, "HTTPS_PROXY=http://user:password@host:port)"), (501, None, "(this server has no such endpoint)"),
    (504, None, "(try later, with a shorter request, or stream the answer)"),
    (418, "teapot", "teapot"),
    (500, "no id", "(the provider's own trouble: try later)")])
def test_hints_by_words(bench, status, message, says):
    """What the status and the server's words say to do."""
    assert line_of(lambda bench: bench.refused(status, message), bench).lower().endswith(says.lower())


def test_a_request_larger_than_its_limit(bench):
    """It is not tried again: no wait makes it smaller, nor do fewer workers."""
    bench.server.error(429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 54321.")
    with llmlite.Client("m", base_url=bench.server.url, api_key=KEY) as llm:
        with pytest.raises(llmlite.RateLimitError, match="it alone is over the limit of 30000: shorten") as caught:
            llm.chat("hi")
    assert caught.value.attempts == 1


def test_an_endpoint_that_lm_studio_does_not_have(bench):
    """It says so with a 200: no trouble of the provider's, and no reason to ask again."""
    reply = testing.json_body({"error": "Unexpected endpoint or method. (POST /chat/completions)"})
    bench.server.handle(lambda request: reply)
    with llmlite.Client("m", base_url=bench.server.root) as llm:
        with pytest.raises(llmlite.NotFoundError, match="does the base URL lack /v1?") as caught:
            llm.chat("hi")
    assert caught.value.attempts == 1


def test_a_server_that_streams_unasked(bench):
    """There is an answer, for those who ask for it as it comes."""
    bench.server.handle(lambda request: testing.body(
        b'data: {"choices": []}\n\n', headers={"Content-Type": "text/event-stream"}))
    assert line_of(lambda bench: bench.chat(), bench).endswith("(that server streams, asked or not: stream the answer)")
    assert "asked or not" not in line_of(lambda bench: bench.chat(method="stream"), bench)


@pytest.mark.parametrize("status, says", [
    (400, "a proxy, a firewall or a login"), (403, "a proxy, a firewall or a login"), (404, "asked POST"),
    (413, "send less"), (429, "rate_limit="),
    (502, "the provider's own trouble")])
def test_web_pages_with_a_status(bench, status, says):
    """A page with a status of its own says by that what to do."""
    assert says in line_of(lambda bench: bench.answered(testing.body(
        b"<html><title>Sorry</title>", status=status, headers={"Content-Type": "text/html"})), bench)


@pytest.mark.parametrize("location, says", [
    ("/v2/v1/chat/completions", "give base_url={root}/v2/v1)"),
    ("https://u:p@h/v1/chat/completions?a=b", "give base_url=https://h/v1)"),
    ("/login?next=/v1/chat/completions", "is the base URL right?"), ("/v1/chat/completions/", "is the base URL right?"),
    ("{root}/v1/chat/completions", "is the base URL right?"), ("http://[::1", "is the base URL right?"),
    ("", "308 Permanent Redirect: redirect to nowhere is not followed (is the base URL right?")])
def test_redirects(bench, location, says):
    """The base URL that one stands for is told; a login's page is no such address."""
    root = bench.server.root
    reply = testing.body(b"", status=308, headers={"Location": location.format(root=root)} if location else {})
    says, line = says.format(root=root), line_of(lambda bench: bench.answered(reply), bench)
    assert says in line and "None" not in line and ("give" in says or "asked POST http://" in line)


@pytest.mark.parametrize("provider, path, says", [
    (None, "", "does the base URL lack /v1? {root}/v1"), ("ollama", "", "does the base URL lack /v1? {root}/v1"),
    ("azure", "", "lack /openai/v1?"), ("gemini", "", "lack /v1beta?"), (None, "/v2", "check the base URL"),
    ("anthropic", "", "check the base URL"), ("vertex", "", "check the base URL")])
def test_base_urls_without_a_version(bench, provider, path, says):
    """What its provider has there is named, for a page too, which a server may give in place of a 404."""
    root = bench.server.root
    for reply in (testing.error(404, "Not Found"), PAGE):
        line = line_of(lambda bench: bench.answered(reply, model="m", provider=provider,  # noqa: B023
                                                    base_url=root + path), bench)
        assert says.format(root=root) in line or reply is PAGE and "is the base URL right?" in line


@pytest.mark.parametrize("options", [{"timeout": 0.1}, {"deadline": 0.1}, {"idle_timeout": 0.1, "method": "stream"}])
def test_a_handshake_that_nobody_answers(bench, options):
    """It is the address that is looked at, whichever limit has run out."""
    says = line_of(lambda bench: bench.shaken_by_nobody(**options), bench)
    assert "is it an https address? without TLS it is http://127.0.0.1" in says and "raise" not in says


@pytest.mark.parametrize("words, scheme, says", [
    (b"", "http", "has the server fallen over? or does it want https://127.0.0.1"),
    (b"\x15\x03\x01\x00\x02\x02\x46", "http", "or does it want https://127.0.0.1"),
    (b"HTTP/1.1 200 OK\r\n", "http", "inside the answer's head"),
    (b"", "https", "is it an https address? without TLS it is http://127.0.0.1"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n<html><title>400</title>You're speaking plain HTTP to an SSL-enabled server",
     "http", "(write the base URL with https://)")])
def test_servers_that_hang_up(bench, words, scheme, says):
    """Who is spoken to in the wrong way says nothing, or little; what has begun to answer speaks HTTP."""
    line = line_of(lambda bench: bench.hung_up_on(words, scheme), bench)
    assert says in line and line.endswith("head") == ("head" in says)


SQUID = b"HTTP/1.1 503 Sorry\r\nContent-Length: 14\r\n\r\n<html>Sorry..."


@pytest.mark.parametrize("answer, scheme, proxy, says", [
    (SQUID, "http", "http://127.0.0.1", "(http_proxy names http://127.0.0.1:"),
    (SQUID.replace(b"503", b"404"), "http", "http://127.0.0.1", "(check the base URL and the model; asked POST"),
    (b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", "http", "http://127.0.0.1", "http_proxy=http://user:password@"),
    (SQUID, "https", "http://me:pa55word@127.0.0.1", "(https_proxy names http://127.0.0.1:"),
    (None, "https", "http://proxy.invalid", "proxy failed: POST"),
    (None, "https", "http://me:pa55word@127.0.0.1:1", "host not found: POST https://llm.example"),
    (b"HTTP/1.1 400 No\r\n\r\n", "https", "https://127.0.0.1", "does the proxy itself speak TLS? most want https_p"),
    (None, "https", "http://me:pa55word@127.0.0.1", "(https_proxy names http://127.0.0.1:")])
def test_proxies_that_fail(bench, answer, scheme, proxy, says):
    """The variable and the proxy are named, whatever goes wrong with it; never its password."""
    line = line_of(lambda bench: bench.through_proxy(answer, scheme, proxy), bench)
    assert says in line and "pa55word" not in line and " at 0x" not in line


def test_a_socks_proxy_that_looks_up_no_names(bench):
    pytest.importorskip("socks")
    says = line_of(lambda bench: bench.through_proxy(None, "https", "socks5://me:pa55word@127.0.0.1"), bench)
    assert says.endswith("(https_proxy=socks5h://... has the proxy look the name up)") and "pa55word" not in says


def test_authorities_that_are_none(bench, tmp_path):
    """Nobody is sent to http:// for a file that is none."""
    (tmp_path / "ca.pem").write_text("not a certificate")
    bench.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    says = line_of(lambda bench: bench.shaken_by_nobody(timeout=5), bench)
    assert "(no certificate is in the file that REQUESTS_CA_BUNDLE" in says and "http://" not in says


class Failing(requests.adapters.BaseAdapter):
    """What stands in a session in the place of a network, and fails."""

    def __init__(self, error):
        self.error = error

    def send(self, request, **options):
        raise self.error

    def close(self):
        pass


@pytest.mark.parametrize("error", [requests.exceptions.ProxyError(), urllib3.exceptions.ProxyError("", OSError())])
def test_a_proxy_that_fails_without_a_word(bench, error):
    """A mock's error may say nothing: its class stands there then."""
    with requests.Session() as session:
        session.mount("http://", Failing(error))
        says = line_of(lambda bench: bench.chat(session=session), bench)
    assert "proxy failed: POST http" in says and ": ProxyError (check HTTPS_PROXY and NO_PROXY)" in says


@pytest.mark.parametrize("words, hint", [
    ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "check the network, the firewall and any proxy"),
    ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required",
     "the server refuses: it may want a client's certificate, session.cert, or another version of TLS"),
    ("certificate verify failed", "REQUESTS_CA_BUNDLE or SSL_CERT_FILE names another set of authorities")])
def test_at_a_providers_own_host_nobody_is_sent_to_http(bench, words, hint):
    """There the key would go out in the clear."""
    with requests.Session() as session:
        session.mount("https://", Failing(requests.exceptions.SSLError(words)))
        says = line_of(lambda bench: bench.chat(base_url="https://api.openai.com/v1", session=session), bench)
    assert says.endswith(f"({hint})")


def test_an_answer_of_a_session_that_breaks_off(bench):
    """What has begun to answer, by whomever it is read, has not refused to speak."""
    bench.server.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf", testing.RESET)
    with requests.Session() as session:
        assert "want https" not in line_of(lambda bench: bench.chat(session=session), bench)


def test_the_proxy_of_a_session(bench):
    """Where no variable names the proxy, none is named."""
    with free_port() as port, requests.Session() as session:
        session.proxies = {"https": f"http://127.0.0.1:{port}"}
        says = line_of(lambda bench: bench.chat(base_url="https://llm.example/v1", session=session), bench)
    assert says.endswith("(check HTTPS_PROXY and NO_PROXY)")


def test_a_session_that_reads_no_variables(bench):
    """What they name is not its proxy, and not to blame."""
    bench.setenv("https_proxy", "http://proxy.example:3128")
    with requests.Session() as session:
        session.trust_env = False
        base_url = bench.server.url.replace("http:", "https:")
        says = line_of(lambda bench: bench.chat(base_url=base_url, session=session), bench)
    assert "proxy" not in says and "is it an https address?" in says


@pytest.mark.parametrize("password", ["pass/word", "pass?word", "pass#word", "pass'/word", "pass\nword"])
def test_the_password_of_a_proxy(bench, password):
    """It is not shown, also where a sign that should have been quoted ends the address in the midst of it."""
    says = line_of(lambda bench: bench.through_proxy(None, "http", f"http://me:{password}@127.0.0.1"), bench)
    assert "pass" not in says.replace("goes past", "") and "word" not in says
    assert "http_proxy names http://127.0.0.1:" in says


def test_a_line_of_nothing_but_slashes(bench):
    """What looks for a password in it takes no time: each slash might begin one."""
    bench.server.raw(b"/" * 65000 + b"\r\n\r\n")
    began = time.process_time()
    says = line_of(lambda bench: bench.chat(), bench)
    assert time.process_time() - began < 0.5
    assert "answer is not HTTP" in says and "///" in says


@pytest.mark.parametrize("host", ["api.openai.example", "bedrock-runtime.region.amazonaws.test"])
def test_hosts_that_are_near_none(bench, host):
    """A host that is merely like another, or like one with a blank in it, is no misspelling."""
    assert line_of(lambda bench: bench.chat(base_url=f"https://{host}/v1"), bench).endswith(
        "(check the host name, the network and any proxy)")


def test_a_refused_key_that_a_function_gave(bench):
    """Of a function's key, the function is named."""
    says = line_of(lambda bench: bench.refused(401, api_key=lambda: KEY), bench)
    assert says.endswith("(check the key that api_key() returned)")


def test_a_key_of_the_same_owner(bench):
    """A key that looks as its provider's do is not said to be another's."""
    for provider, key in (("gemini-openai", "AIza" + KEY), ("anthropic", "sk-ant-" + KEY), (None, KEY)):
        assert "looks like" not in line_of(lambda bench: bench.refused(
            401, None, "m", provider, api_key=key), bench)  # noqa: B023


def test_keys_that_tell_whose_they_are(bench):
    """By how it begins a key is known for another provider's."""
    for form, owner in {
            "sk-ant-": "anthropic", "sk-or-": "openrouter", "gsk_": "groq", "AIza": "gemini", "xai-": "xai",
            "hf_": "huggingface", "pplx-": "perplexity", "nvapi-": "nvidia", "csk-": "cerebras", "fw_": "fireworks",
            "tgp_": "together", "sk-proj-": "openai", "sk-svcacct-": "openai"}.items():
        says = line_of(lambda bench: bench.refused(401, None, "m", "mistral", api_key=form + KEY), bench)  # noqa: B023
        assert says.endswith(f": it looks like one of {owner}'s)")


@pytest.mark.parametrize("variable, model, says", [
    ("GEMNI_API_KEY", "gemini/m", "; GEMNI_API_KEY is set: rename it)"), ("XAI_API_KEY", "zai/m", "api_key=)"),
    ("openai_key", "openai/m", "; openai_key is set: rename it)"), ("GROK_KEY", "xai/m", "api_key=)"),
    ("OPENAI_API_BASE", "openai/m", "api_key=)"), ("OPENAI_ORG_KEY", "openai/m", "api_key=)")])
def test_variables_that_were_meant(monkeypatch, variable, model, says):
    """A variable with a name like that of the key is told of, not one of another provider's."""
    monkeypatch.setenv(variable, KEY)
    with pytest.raises(llmlite.ConfigurationError) as caught:
        llmlite.Client(model)
    assert str(caught.value).lower().endswith(says.lower())  # Windows has variables in capitals


def test_a_provider_that_serves_others_models(bench):
    """Clouds and gateways serve the models of others: nothing is said of their makers."""
    bench.server.handle(lambda request: testing.json_body(LISTED) if request.method == "GET" else testing.error(
        404, "The model `claude-x` does not exist"))
    for provider in ("bedrock", "openrouter"):
        assert "model of" not in line_of(lambda bench: bench.chat("claude-x", provider), bench)  # noqa: B023


class Odd(requests.adapters.BaseAdapter):
    """Answers whatever is asked by JSON that is no reply."""

    def send(self, request, **options):
        response = requests.Response()
        response.status_code, response.url, response.request = 200, request.url, request
        response.raw, response.headers["Content-Type"] = io.BytesIO(b'{"hello": "world"}'), "application/json"
        return response

    def close(self):
        pass


def test_at_a_providers_own_host_nobody_is_asked_for_an_api(bench):
    """What its own host answers is odd, but the address is right."""
    with requests.Session() as session:
        session.mount("https://", Odd())
        says = line_of(lambda bench: bench.chat(base_url="https://api.openai.com/v1", session=session), bench)
    assert "no choices" in says and "is it an API" not in says


@pytest.mark.parametrize("url, says", [
    ("api.openai.com/v1", "did you mean https://api.openai.com/v1?"), ("192.168.1.5:8000", "http://192.168.1.5:8000?"),
    ("http://h/v1/responses?a=b", "leave /responses out"),
    ("https://h/v1beta/models/gemini-x:generateContent", "leave /models/gemini-x:generateContent out"),
    ("http://h/v1/messages/", "leave /messages out"), ("http://h/v1/models", "leave /models out"),
    ("http://h:11434/api/generate", "leave /api/generate out"), ("nonsense", "write it as https://host/v1"),
    (" http://h:8000/v1\n", "did you mean http://h:8000/v1?"), ("'https://h/v1'", "did you mean https://h/v1?"),
    ("http:/h/v1", "did you mean http://h/v1?"), ("https//h/v1", "did you mean https://h/v1?"),
    ("httpbin.org/v1", "did you mean https://httpbin.org/v1?"),
    ("http://h:99999/v1", "write it as"), ("http://h:0/v1", "write it as"), ("ftp://h/v1", "write it as"),
    ("http://", "write it as"),
    ("http://me:pa/55word@h/v1", "base_url='http://h/v1'"), ("http://me:pa\n55word@h/v1", "base_url='http://h/v1'"),
    (f" http://h/{KEY}", "did you mean http://h/***?"), (KEY, "'***' is not a URL")])
def test_base_urls(monkeypatch, url, says):
    """What stands where a base URL belongs, by whichever way it came; the variable is named."""
    for name, options in (("base_url", {"base_url": url}), ("OPENAI_BASE_URL", {})):
        if not options:
            monkeypatch.setenv(name, url)
        with pytest.raises(llmlite.ConfigurationError) as caught:
            llmlite.Client("m" if options else "openai/m", api_key=KEY, **options)
        line = str(caught.value)
        assert line.startswith((f"{name}='", f'{name}="')) and says.replace("base_url", name) in line
        assert "55word" not in line and KEY not in line


@pytest.mark.parametrize("model, says", [
    ("Qwen/Qwen3", 'write "provider/model"'), ("grok/x", '"xai/x"'), ("o3", '"openai/o3"'),
    ("vertex_ai/g", '"vertex/g"'), ("llama3.2:1b", '"ollama/llama3.2:1b"'), ("mistral:7b", '"ollama/mistral:7b"'),
    ("deepseek-r1:latest", '"ollama/deepseek-r1:latest"'), (" 'openai / gpt-5' ", '"openai/gpt-5"'),
    ("http://u:55word@h:8000/v1", "model='http://h:8000/v1' is an address (give it as base_url="),
    ("localhost:8000", "is an address"), ("10.0.0.1:80/v1", "is an address"), ("openai", "'openai' names no model ("),
    ("my-sk-learn-classifier", "'my-sk-learn-classifier' names no provider"),
    (f"openai:{KEY}", "model='***' is a key"), (KEY, "set the key in OPENAI_API_KEY or its like, or give api_key=)"),
    ("a\nb:c", '"ollama/a b:c"'), ("llama3", 'write "provider/model"'), ("openai/", 'write "provider/model"')])
def test_models_without_a_provider(model, says):
    """A near name where there is one, in one line."""
    with pytest.raises(llmlite.ConfigurationError) as caught:
        llmlite.Client(model)
    line = str(caught.value)
    assert says in line and "\n" not in line and KEY not in line and "55word" not in line


@pytest.mark.parametrize("name", ["provider", "fallbacks", "api", "deadline", "retry", "cache"])
def test_a_key_in_anothers_place(name):
    """Wherever it was written by mistake, it shows nowhere."""
    with pytest.raises(llmlite.ConfigurationError, match=re.escape("***")) as caught:
        llmlite.Client("m", **{"provider": "openai", "api_key": KEY, name: KEY})
    assert KEY not in str(caught.value)


def test_what_others_call_a_provider():
    """A provider by another's name for it is told by its own."""
    for alias, name in {
            "google": "gemini", "claude": "anthropic", "chatgpt": "openai", "gpt": "openai", "grok": "xai",
            "x-ai": "xai", "llama.cpp": "llamacpp", "llama_cpp": "llamacpp", "lm-studio": "lmstudio",
            "hf": "huggingface", "aws": "bedrock", "vertex_ai": "vertex", "azure_openai": "azure", "azure_ai": "azure",
            "kimi": "moonshot", "glm": "zai", "ibm": "watsonx", "mistralai": "mistral", "local": "ollama"}.items():
        with pytest.raises(llmlite.ConfigurationError, match=re.escape(f'did you mean "{name}/m"?')):
            llmlite.Client(f"{alias}/m")


def test_whose_a_model_is():
    """A model without a provider is told with the one whose models are named so."""
    for maker, models in {
            "openai": "gpt-5 chatgpt-4o o3 o4-mini text-embedding-3 codex-mini", "anthropic": "claude-x",
            "gemini": "gemini-x", "xai": "grok-4", "deepseek": "deepseek-chat deepseek-reasoner",
            "mistral": "mistral-l ministral-3b magistral-m codestral-2 devstral-s pixtral-l", "perplexity": "sonar-pro",
            "moonshot": "kimi-k2 moonshot-v1", "zai": "glm-4.6"}.items():
        for model in models.split():
            with pytest.raises(llmlite.ConfigurationError, match=rf'did you mean "{maker}/{re.escape(model)}"\?'):
                llmlite.Client(model)
    for model in ("deepseek-r1", "o3x", "my-gpt-5"):
        with pytest.raises(llmlite.ConfigurationError, match='[(]write "provider/model"'):
            llmlite.Client(model)


@pytest.mark.parametrize("key, says", [
    (b"sk-1", "api_key is a bytes: give a str, or a function that returns one (.decode()"), (5, "api_key is a int"),
    ("sk-\u2026", "api_key is not fit for a header: it has control or foreign"), ("'k'", "quotation marks")])
def test_keys_that_are_none(key, says):
    """A key that cannot be one says what it is instead."""
    with pytest.raises(llmlite.ConfigurationError) as caught:
        llmlite.Client("openai/m", api_key=key)
    assert says in str(caught.value)


def test_spaces_around_a_key(bench):
    """They are no part of it: neither sent, nor a way around the mask; placeholders may have some in them."""
    bench.setenv("OPENAI_API_KEY", f" {KEY}  ")
    says = line_of(lambda bench: bench.refused(401, f"no: {KEY}", api_key=None), bench)
    assert says.endswith("no: *** (check the key in OPENAI_API_KEY)")
    assert bench.server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    bench.server.reply("ok")
    with bench.client("m", None, api_key="not needed") as llm:
        assert llm.chat("hi").text == "ok"
    assert llmlite.Client("openai/m", api_key="none needed").model == "m"  # behind somebody's mock


def test_a_stream_is_not_awaited(bench):
    assert "llm.stream, ..." in line_of(lambda bench: bench.awaited("stream"), bench)


def test_arguments_that_nothing_is_known_of(bench):
    """A TypeError of the call itself comes through as it is; one of an unknown argument is worded as Python does."""
    for call in (lambda bench: bench.client(nonsense=1), lambda bench: bench.client().chat(),
                 lambda bench: bench.called(schema=5)):
        says = line_of(call, bench)
        assert "unexpected" not in says or says == "Client() got an unexpected keyword argument 'nonsense'"
    with bench.client() as llm:
        for method, options in (("map", {"stream": True}), ("embed", {"dimensions": 5}), ("complete", {"echo": True})):
            with pytest.raises(TypeError, match=f"^{method}.. got an unexpected keyword argument '{min(options)}': "):
                getattr(llm, method)(["a"], **options)
        with pytest.raises(TypeError, match="give it to chat|write llm.stream"):
            llmlite.chat("hi", model="openai/m", api_key=KEY, stream=True)
    assert not bench.server.requests


OF_CALLS = {  # what is told: the arguments of other clients' calls
    "give max_tokens=": "max_completion_tokens max_output_tokens max_new_tokens max_tokens_to_sample",
    "write llm.stream(messages), and iterate it": "stream", "a stream asks for its usage by itself": "stream_options",
    "give schema=: a dataclass, a pydantic class, a JSON schema, or dict": "response_format",
    "write llm.map([prompt] * n)": "n best_of", "give tools=": "functions", "give tool_choice=": "function_call",
    "give stop=": "stop_sequences", "give system=": "system_prompt instructions system_instruction",
    "it comes first, as messages": "prompt contents", "it comes first": "input",
    "give model=": "model_name engine deployment_id", "give logprobs=, the number": "top_logprobs",
    "give reasoning_effort=": "reasoning thinking thinking_budget", "give extra=": "extra_body",
    "give headers=": "extra_headers", "give timeout=": "request_timeout",
    "give each of them by its name, as temperature=": "config generation_config",
    "give retry= to Client": "max_retries num_retries", "give base_url= to Client": "api_base base_url",
    "give api_key= to Client": "api_key"}
OF_CLIENTS = {
    "give base_url=": "api_base url host endpoint azure_endpoint openai_api_base",
    "give api_key=": "key token apikey openai_api_key", "give headers=": "default_headers",
    'give base_url="https://.../v1", or its query, ?api-version=...': "api_version",
    'give headers={"OpenAI-Organization": "..."}': "organization", 'give headers={"OpenAI-Project": "..."}': "project",
    "give retry=RetryPolicy(max_retries=...)": "max_retries num_retries", "give timeout=": "request_timeout",
    "give session=": "http_client", "give session=, or set HTTPS_PROXY": "proxies proxy",
    "give session=, or set REQUESTS_CA_BUNDLE": "verify", "give model=": "model_name engine",
    "give it to chat(), stream() or map()": "temperature top_p max_tokens seed tools system schema"}
OF_OBJECTS = {
    "write llm.chat(messages)": "messages responses generate generate_content invoke predict ask prompt create "
    "completion run beta chats", "write llm.complete(prompt)": "completions text_completion",
    "write llm.embed(texts)": "embeddings embedding embed_query embed_documents embed_content",
    "write llm.stream(messages)": "generate_content_stream stream_chat chat_stream",
    "write llm.chat(messages), in asyncio.to_thread()": "acompletion achat ainvoke agenerate astream aio",
    "write llm.map(prompts)": "batch abatch", "write llm.models()": "list_models",
    "write llm.count_tokens(messages)": "get_num_tokens", "write Client(...) anew": "with_options copy"}


def test_what_other_clients_have(bench):
    """Their arguments and methods are told with what to write here, which is there."""
    ours = [*inspect.signature(llmlite.Client.chat).parameters, *inspect.signature(llmlite.Client).parameters]
    with bench.client() as llm:
        for table, use in (
                (OF_CALLS, lambda name: llm.chat("hi", **{name: 1})), (OF_OBJECTS, lambda name: getattr(llm, name)),
                (OF_CLIENTS, lambda name: bench.client(**{name: 1}))):
            for told, name in [(told, name) for told, names in table.items() for name in names.split()]:
                assert line_of(lambda bench: use(name), bench).endswith(f": {told}"), name  # noqa: B023
                assert set(re.findall(r"give (\w+)=", told)) <= set(ours)
    assert not bench.server.requests


def test_attributes_that_are_not_there(bench):
    """Near names, words of other clients, else Python's own; private names cost nothing."""
    with bench.client() as llm:
        for name, says in (("cht", "write llm.chat()"), ("with_options", "write Client(...) anew"), ("zzz", "'zzz'"),
                           ("_chatt", "'_chatt'"), ("_repr_html_", "'_repr_html_'")):
            assert not hasattr(llm, name)
            with pytest.raises(AttributeError, match=re.escape(says) + "$"):
                getattr(llm, name)
        assert "write" not in line_of(lambda bench: llm.zzz, bench)
    assert "chat" in llmlite.Client.chat.__name__ and "temperature" in str(inspect.signature(llmlite.Client.chat))
