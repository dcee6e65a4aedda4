"""Who is asked, under which name and address; and bad input, which is refused before anything is sent."""
import fractions
import os
import pathlib
import pickle
import re
from urllib.parse import urlsplit

import pytest
import requests

from tests import llmlite, named, testing
from tests.stand_ins import Real, Whole

ROWS = llmlite.providers()
PRESET = [row for row in ROWS if row[1] and "{" not in row[1]]  # azure has an address for each resource
ON_THE_NET = [row for row in PRESET if row[1].startswith("https://")]
LOOP = []
LOOP.append(LOOP)
NAN, INF = float("nan"), float("inf")
NUMBERS = [0, 0.0, -1, NAN, INF, -INF, "10", True, [1]]


def names(rows):
    return [row[0] for row in rows]


def refused(words, function, *args, **options):
    """`function` raises a ConfigurationError that says `words`; returns its text."""
    with pytest.raises(llmlite.ConfigurationError, match=words) as caught:
        function(*args, **options)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, llmlite.LLMError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --------------------------------------------------------------------------------------------------------- who is meant


@pytest.mark.parametrize("model, options, environment, meant", [
    ("openai/gpt-5-mini", {}, {}, "openai/gpt-5-mini at https://api.openai.com/v1"),
    ("openrouter/meta-llama/llama-3:free", {}, {},
     "openrouter/meta-llama/llama-3:free at https://openrouter.ai/api/v1"),
    ("openai/gpt-5", {"provider": "openrouter"}, {}, "openrouter/openai/gpt-5 at https://openrouter.ai/api/v1"),
    ("gpt-5", {"provider": "openai"}, {}, "openai/gpt-5 at https://api.openai.com/v1"),
    ("Qwen/Qwen3", {"provider": "vllm"}, {}, "vllm/Qwen/Qwen3 at http://localhost:8000/v1"),
    ("gpt", {"base_url": "http://localhost:8000/v1"}, {}, "compatible/gpt at http://localhost:8000/v1"),
    ("openai/gpt", {"base_url": "http://localhost:8000/v1"}, {}, "compatible/openai/gpt at http://localhost:8000/v1"),
    ("m", {"base_url": "http://[::1]:8000/v1/"}, {}, "compatible/m at http://[::1]:8000/v1"),
    ("m", {"base_url": "http://localhost:8000/v1///"}, {}, "compatible/m at http://localhost:8000/v1"),
    ("m", {"base_url": "http://localhost"}, {}, "compatible/m at http://localhost"),
    ("m", {"provider": "groq", "base_url": "http://localhost/g/"}, {}, "groq/m at http://localhost/g"),
    ("m", {"base_url": "https://API.OpenAI.com/v1"}, {}, "openai/m at https://API.OpenAI.com/v1"),
    ("openai/m", {}, {"OPENAI_BASE_URL": "http://localhost:1/x/"}, "openai/m at http://localhost:1/x"),
    ("m", {"provider": "openai"}, {"OPENAI_BASE_URL": "http://localhost:1"}, "openai/m at http://localhost:1"),
    ("openai/m", {}, {"OPENAI_BASE_URL": ""}, "openai/m at https://api.openai.com/v1"),
    ("openai/m", {}, {"GROQ_BASE_URL": "http://localhost:1"}, "openai/m at https://api.openai.com/v1"),
    ("m", {"provider": "openai", "base_url": "http://localhost:2"}, {"OPENAI_BASE_URL": "http://localhost:1"},
     "openai/m at http://localhost:2"),
    (None, {}, {"LLMLITE_MODEL": "groq/llama"}, "groq/llama at https://api.groq.com/openai/v1"),
    ("openai/m", {}, {"LLMLITE_MODEL": "groq/llama"}, "openai/m at https://api.openai.com/v1"),
    (None, {"base_url": "http://localhost:1"}, {"LLMLITE_MODEL": "groq/llama"},
     "compatible/groq/llama at http://localhost:1"),
    (None, {"provider": "openrouter"}, {"LLMLITE_MODEL": "groq/llama"},
     "openrouter/groq/llama at https://openrouter.ai/api/v1"),
])  # fmt: skip
def test_who_is_meant(model, options, environment, meant, monkeypatch):
    """Arguments beat the environment, which beats the table; with provider= or base_url= a model's id is verbatim."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert repr(llmlite.Client(model, api_key="key", **options)) == f"<Client {meant}>"


@pytest.mark.parametrize("model", [
    "test", "meta-llama/Llama-3.1-8B:free", "openai/gpt-5", "vllm/qwen", "größe 模型",
])  # fmt: skip
def test_model_id_is_sent_verbatim(server, model):
    """With base_url= the string is the model's id, slashes and all."""
    server.reply("ok")
    llmlite.Client(model, base_url=server.url).chat("hi")
    assert server.requests[0].json["model"] == model


@pytest.mark.parametrize("slashes", ["", "/", "///"])
@pytest.mark.parametrize("prefix", ["", "/v1", "/openai/deployments/x"])
def test_paths_are_joined(server, prefix, slashes):
    """The base URL's path is kept as it is, a trailing slash does no harm, and no /v1 is put in."""
    server.reply("ok")
    llmlite.Client("m", base_url=server.root + prefix + slashes).chat("hi")
    assert server.requests[0].path == prefix + "/chat/completions"


def test_environment_moves_a_provider(server, monkeypatch):
    """OPENAI_BASE_URL is where "openai/..." goes, with openai's key and openai's names."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1234567")
    server.reply("ok")
    llmlite.Client("openai/m").chat("hi", max_tokens=1)
    assert server.requests[0].path == "/v1/chat/completions"
    assert server.requests[0].headers["authorization"] == "Bearer sk-1234567"
    assert server.requests[0].json["max_completion_tokens"] == 1


@pytest.mark.parametrize("options, model, sent", [
    ({"provider": "openai"}, "other", "other"),
    ({"provider": "openai"}, "openai/other", "openai/other"),
    ({"base_url": ""}, "org/other", "org/other"),
    ({}, "other", "other"),
    ({}, "openai/other", "other"),
    ({}, "org/other", "org/other"),
    ({}, None, "first"),
])  # fmt: skip
def test_model_for_one_call(server, monkeypatch, options, model, sent):
    """model= on a call is for that call only, and may repeat the prefix the client was made with."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    server.reply("ok", times=2)
    if "base_url" in options:
        options = {"base_url": server.url}
    client = llmlite.Client("first" if options else "openai/first", api_key="key", **options)
    client.chat("hi", model=model)
    client.chat("hi")
    assert [request.json["model"] for request in server.requests] == [sent, "first"]


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini", "azure", "xai", "deepseek", "mistral", "cerebras",
                                  "moonshot"])
@pytest.mark.parametrize("other", ["anthropic/claude-x", "groq/llama", "openai/gpt-x"])
def test_model_of_another_provider(server, monkeypatch, name, other):
    """A client that was named by its provider does not send another provider's "provider/model" there as an id."""
    if other.startswith(name):
        return
    monkeypatch.setenv(name.upper() + "_BASE_URL", server.url)
    with llmlite.Client(name + "/first", api_key="key") as client:
        for method in (client.chat, client.stream, client.embed):
            words = refused(f"model='{other}'.*{name}", method, "hi", model=other)
            assert f"provider={name!r}" in words and f"Client({other!r})" in words
        assert client.ledger.failed == 0
    assert not server.connections


@pytest.mark.parametrize("name", ["openrouter", "together", "fireworks", "huggingface", "nvidia", "deepinfra", "novita",
                                  "baseten", "vercel", "chutes", "groq", "nebius", "hyperbolic", "friendli", "wandb",
                                  "ollama", "lmstudio", "vllm", "llamacpp", "perplexity", "dashscope"])
def test_ids_with_a_slash(server, monkeypatch, name):
    """Where ids have slashes, one that begins like a provider's name is the server's own."""
    monkeypatch.setenv(name.upper() + "_BASE_URL", server.url)
    server.reply("ok")
    with llmlite.Client(name + "/first", api_key="key") as client:
        client.chat("hi", model="openai/gpt-oss-120b")
    assert server.requests[0].json["model"] == "openai/gpt-oss-120b"


@pytest.mark.parametrize("options", [{"provider": "openai"}, {"base_url": ""}], ids=named)
def test_ids_that_are_verbatim(server, monkeypatch, options):
    """With provider= or base_url= an id is what the server calls it, also behind a router."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    server.reply("ok")
    options = {name: value or server.url for name, value in options.items()}
    with llmlite.Client("first", api_key="key", **options) as client:
        client.chat("hi", model="anthropic/claude-x")
    assert server.requests[0].json["model"] == "anthropic/claude-x"


# --------------------------------------------------------------------------------------------------- the provider table


def test_table():
    """The table is (name, base URL, key variables) rows with the providers people ask for, no name twice."""
    assert len(set(names(ROWS))) == len(ROWS)
    assert set(names(ROWS)) >= {"openai", "openrouter", "groq", "mistral", "deepseek", "ollama", "vllm", "llamacpp"}
    assert all(name == name.lower() and "/" not in name for name in names(ROWS))


@pytest.mark.parametrize("name, url, variables", ROWS, ids=names(ROWS))
def test_row(name, url, variables):
    """A preset is an https URL without a trailing slash, or on this machine; a key variable is a variable's name."""
    parts = urlsplit(url)
    if url:
        assert parts.scheme == "https" or parts.hostname == "localhost"
        assert parts.hostname and not parts.query and not url.endswith("/")
    for variable in variables.split():
        assert variable.isidentifier() and variable.isupper()
    assert bool(variables) or parts.hostname == "localhost"


@pytest.mark.parametrize("name, url, variables", PRESET, ids=names(PRESET))
def test_row_by_prefix(name, url, variables, monkeypatch):
    """ "name/model" means the row, and takes its key from the row's variable."""
    for variable in variables.split()[:1]:
        monkeypatch.setenv(variable, "key")
    assert repr(llmlite.Client(name + "/some/model")) == f"<Client {name}/some/model at {url}>"


@pytest.mark.parametrize("tail", ["", "/", "/deeper"])
@pytest.mark.parametrize("name, url, variables", ON_THE_NET, ids=names(ON_THE_NET))
def test_known_address_is_recognised(name, url, variables, tail):
    """A base URL at a known provider's host is that provider; among those on one host the longest path decides."""
    shown = repr(llmlite.Client("m", base_url=url + tail, api_key="key"))
    assert shown == f"<Client {name}/m at {(url + tail).rstrip('/')}>"


@pytest.mark.parametrize("url, name", [
    ("https://api.openai.com", "openai"), ("https://api.openai.com/v2", "openai"),
    ("https://openai.com/v1", "compatible"),
    ("https://api.openai.com.evil.example/v1", "compatible"), ("https://evil.example/api.openai.com", "compatible"),
    ("https://openai.azure.com/openai/v1", "compatible"), ("https://x.openai.azure.com.evil.example/", "compatible"),
    ("https://xopenai.azure.com/openai/v1", "compatible"), ("https://api.openai.com@evil.example/v1", "compatible"),
    ("https://xapi.openai.com/v1", "compatible"),
])  # fmt: skip
def test_host_is_compared_whole(url, name):
    """What decides is the parsed host: another path on it is still the provider, a look-alike is not."""
    assert repr(llmlite.Client("m", base_url=url, api_key="key")).startswith(f"<Client {name}/m at ")


@pytest.mark.parametrize("environment, options, url", [
    ({"AZURE_OPENAI_ENDPOINT": "https://mine.openai.azure.com/"}, {}, "https://mine.openai.azure.com/openai/v1"),
    ({"AZURE_OPENAI_ENDPOINT": "https://mine.example", "AZURE_BASE_URL": "https://base.example/v1"}, {},
     "https://base.example/v1"),
    ({}, {"base_url": "https://mine.openai.azure.com/openai/v1"}, "https://mine.openai.azure.com/openai/v1"),
])  # fmt: skip
def test_azure(monkeypatch, environment, options, url):
    """Azure has an address for each resource: from its variables, or recognised by what follows the resource."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "key")
    assert repr(llmlite.Client("m" if options else "azure/m", **options)) == f"<Client azure/m at {url}>"


def test_azure_without_an_address():
    """Azure without a resource is refused with what to set, never asked at a made-up host."""
    refused("AZURE_BASE_URL.*AZURE_OPENAI_ENDPOINT", llmlite.Client, "azure/m", api_key="key")


@pytest.mark.parametrize("query", ["?api-version=1", "/?api-version=1"])
def test_query_of_a_base_url(server, query):
    """A query in the base URL (Azure's api-version) stays behind the path."""
    server.reply("ok")
    llmlite.Client("m", base_url=server.url + query).chat("hi")
    assert server.requests[0].path == "/v1/chat/completions?api-version=1"


# --------------------------------------------------------------------------------------------------- bad input: clients


@pytest.mark.parametrize("url", [
    "localhost:8000", "localhost", "", "//localhost/v1", "ftp://localhost/v1", "file:///etc/passwd", "http://",
    "http:///v1", "http://[::1", "http://localhost:port/v1", "http://localhost:99999/v1",
    "http://localhost:-1/v1", "http://ex ample.com/v1", "http://localhost/v1\r\nX-Evil: 1", "http://local\thost/v1",
    " http://localhost/v1", "http://localhost\x00/v1", "http://evil.example\\@localhost/v1",
])  # fmt: skip
def test_malformed_base_url(url):
    """A base URL that is none, or that two parsers would read differently, is refused, and shown without a user."""
    shown = url.replace("evil.example\\@", "")
    refused(re.escape(f"base_url={shown!r} is not a URL"), llmlite.Client, "m", base_url=url, api_key="key")


@pytest.mark.parametrize("url", [5, b"http://localhost/v1", ["http://localhost/v1"]])
def test_base_url_of_a_wrong_type(url):
    """A base URL that is no str is refused like a malformed one."""
    refused("base_url", llmlite.Client, "m", base_url=url, api_key="key")


def test_malformed_base_url_from_the_environment(monkeypatch):
    """A base URL from the environment is checked too, and shown."""
    monkeypatch.setenv("OPENAI_BASE_URL", "nonsense")
    refused("nonsense", llmlite.Client, "openai/m", api_key="key")


def test_base_url_is_shown_without_its_password():
    """A password in a base URL stays out of the error and of repr."""
    assert "hunter2" not in refused("base_url", llmlite.Client, "m", base_url="ftp://me:hunter2@host/v1", api_key="k")
    assert "hunter2" not in repr(llmlite.Client("m", base_url="http://me:hunter2@localhost/v1"))


@pytest.mark.parametrize("model, options, words", [
    ("gpt-5", {}, "model='gpt-5'.*\"openai/gpt-5\""), (None, {}, "model=''"),
    ("nobody/gpt-5", {}, "model='nobody/gpt-5'"),
    ("openai/", {}, "model='openai/'"), ("/gpt-5", {}, "model='/gpt-5'"), ("OpenAI/gpt-5", {}, "model='OpenAI/gpt-5'"),
    ("gpt-5", {"provider": "nobody"}, "provider='nobody'.*openai, "), ("gpt-5", {"provider": ""}, "provider=''"),
    ("gpt-5", {"provider": "nobody", "base_url": "http://localhost"}, "provider='nobody'"),
])  # fmt: skip
def test_unknown_provider(model, options, words):
    """A provider that is not in the table, or none at all, is refused with what is known."""
    refused(words, llmlite.Client, model, api_key="key", **options)


@pytest.mark.parametrize("name", ["timeout", "deadline", "idle_timeout"])
@pytest.mark.parametrize("value", NUMBERS)
def test_seconds(name, value):
    """timeout, deadline and idle_timeout are finite numbers above zero."""
    refused(name, llmlite.Client, "m", base_url="http://localhost", **{name: value})


@pytest.mark.parametrize("value", [(), (1,), (1, 2, 3), (0, 1), (1, 0), (NAN, 1), (1, "2"), {}])
def test_timeout_pairs(value):
    """A timeout pair is (connect, read), both above zero."""
    refused("timeout", llmlite.Client, "m", base_url="http://localhost", timeout=value)


@pytest.mark.parametrize("value", [None, 3, 0.5, (1, 2), [1, 2], (None, 5), (5, None)])
def test_timeouts_that_mean_something(server, value):
    """A timeout is seconds, (connect, read), either of which may be None, or None."""
    server.reply("ok")
    assert llmlite.Client("m", base_url=server.url, timeout=value).chat("hi").text == "ok"


@pytest.mark.parametrize("name", [
    "max_retries", "backoff", "backoff_max", "rate_limit_max_retries", "rate_limit_backoff", "rate_limit_backoff_max",
    "jitter", "retry_after_max", "connect_retries",
])  # fmt: skip
@pytest.mark.parametrize("value", [-1, -0.5, NAN, INF, "3", None])
def test_retry_policy_numbers(name, value):
    """Every number of a RetryPolicy is finite, zero or more."""
    refused(name, llmlite.RetryPolicy, **{name: value})


@pytest.mark.parametrize("value", [1.01, 2, 100])
def test_jitter(value):
    """Jitter is a share, from 0 to 1."""
    refused("jitter", llmlite.RetryPolicy, jitter=value)


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute"])
@pytest.mark.parametrize("value", [0, -1, NAN, INF, "60"])
def test_rate_limit_numbers(name, value):
    """A RateLimit's numbers are finite, above zero."""
    refused(name, llmlite.RateLimit, **{name: value})


def test_no_model_at_all(server):
    """Without a model none is made up: nobody is asked by no name; a server of one's own is asked for none."""
    assert refused("names no provider", llmlite.Client).startswith("model='' names no provider")
    server.reply("ok")
    with llmlite.Client(base_url=server.url) as llm:
        assert (llm.model, llm.chat("Hi").text, server.requests[0].json["model"]) == ("", "ok", "")


@pytest.mark.parametrize("options, words", [({"retry": 3}, "retry"), ({"rate_limit": 60}, "rate_limit")])
def test_bare_number_for_a_policy(options, words):
    """A number where a RetryPolicy or a RateLimit belongs is refused by its name."""
    refused(words, llmlite.Client, "m", base_url="http://localhost", **options)


@pytest.mark.parametrize("options", [
    {"session": 5}, {"session": "s"}, {"session": object()}, {"session": requests.Session},
    {"save_failed": 5}, {"save_failed": b"folder"}, {"save_failed": ["folder"]}, {"save_failed": True},
    {"skip_bad_events": 5}, {"skip_bad_events": "no"}, {"retry": llmlite.RetryPolicy}, {"rate_limit": (60, 60)},
    {"provider": 5}, {"headers": 5}, {"deadline": "5"}, {"timeout": (1, 10 ** 400)},
], ids=named)  # fmt: skip
def test_options_of_a_client_of_a_wrong_kind(options):
    """What could not work later is refused when the client is made, by its name."""
    model = None if "provider" in options else "m"
    refused(next(iter(options)), llmlite.Client, model, base_url="http://localhost", **options)


class Wrapped:
    """Somebody's own session, which is none of requests' classes."""

    def __init__(self):
        self.session = requests.Session()

    def __getattr__(self, name):
        return getattr(self.session, name)


@pytest.mark.parametrize("kind", [Wrapped, type("Own", (requests.Session,), {})])
def test_sessions_of_any_kind(server, kind):
    """A session is what has a session's methods."""
    server.reply("ok")
    session = kind()
    assert llmlite.Client("m", base_url=server.url, session=session).chat("hi").text == "ok"
    session.close()


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_folders_of_any_kind(server, tmp_path, kind):
    """save_failed is a str or a path, and the client can be pickled with it."""
    server.error(400, times=2)
    llm = llmlite.Client("m", base_url=server.url, save_failed=kind(tmp_path / "a"))
    for client in (llm, pickle.loads(pickle.dumps(llm))):
        with pytest.raises(llmlite.BadRequestError):
            client.chat("hi")
    assert len(list((tmp_path / "a").iterdir())) == 2


@pytest.mark.parametrize("options", [
    {"max_retries": 2.5}, {"max_retries": 2.0}, {"rate_limit_max_retries": 1.5}, {"connect_retries": 0.5},
    {"max_retries": True}, {"backoff": True}, {"retry_empty": 5}, {"retry_empty": None}, {"retry_empty": "yes"},
    {"jitter": 1j}, {"backoff": 10 ** 400},
], ids=named)  # fmt: skip
def test_retry_policy_kinds(options):
    """Retries are counted in whole numbers, seconds in real ones; retry_empty is a bool."""
    refused(next(iter(options)), llmlite.RetryPolicy, **options)


def test_what_a_policy_takes_is_said():
    """The error says what to give."""
    refused(r"retry_empty='no': give True or False$", llmlite.RetryPolicy, retry_empty="no")
    refused(r"max_retries=1.5: give a whole number, zero or more$", llmlite.RetryPolicy, max_retries=1.5)


def test_rate_limit_kinds():
    """True is no number."""
    refused("requests_per_minute", llmlite.RateLimit, True)
    refused("tokens_per_minute", llmlite.RateLimit, None, 10 ** 400)


@pytest.mark.parametrize("method", ["chat", "stream"])
def test_numbers_of_other_libraries(server, method):
    """Numbers of any library that says they are numbers are sent as JSON's own."""
    server.reply("ok")
    with llmlite.Client("m", base_url=server.url, timeout=(Real(5.0), Whole(9)), deadline=fractions.Fraction(19, 2),
                        idle_timeout=Real(4.0), rate_limit=llmlite.RateLimit(Whole(6000), Real(6e6)),
                        retry=llmlite.RetryPolicy(max_retries=Whole(1), backoff=fractions.Fraction(1, 100),
                                                  jitter=Real(0.5))) as llm:
        list(getattr(llm, method)("hi", temperature=Real(0.25), top_p=fractions.Fraction(1, 2), max_tokens=Whole(7),
                                  seed=Whole(1), top_k=Whole(3), deadline=Whole(5), timeout=Real(3.0)).text)
    sent = server.requests[0].json
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["seed"]) == (0.25, 0.5, 7, 1)
    assert type(sent["max_tokens"]) is int and type(sent["temperature"]) is float


def test_numbers_of_other_libraries_that_are_none(llm):
    """Complex numbers and what overflows are refused; so is a real number where a whole one belongs."""
    for options in ({"temperature": 1j}, {"max_tokens": Real(5.0)}, {"top_p": fractions.Fraction(10 ** 400)}):
        refused(next(iter(options)), llm.chat, "hi", **options)


def test_policies_of_other_libraries_numbers_are_plain():
    """A policy made from them is one made from Python's own: equal, and shown the same."""
    assert llmlite.RetryPolicy(max_retries=Whole(2), jitter=Real(0.25)) == llmlite.RetryPolicy(2, jitter=0.25)
    assert repr(llmlite.RateLimit(Whole(60))) == repr(llmlite.RateLimit(60))


BAD_HEADERS = [
    {"X-Team": "a\r\nX-Evil: 1"}, {"X-Team": "a\nb"}, {"X-Team": "a\rb"}, {"X-Team": "a\x00"}, {"X-Team": "✓"},
    {"X-Team": 5}, {"X-Team": b"a"}, {"": "a"}, {"X Team": "a"}, {"X-Team:": "a"}, {"X-Team\r\n": "a"}, {"Ü": "a"},
    {5: "a"}, "X-Team: a", ["X-Team"],
]  # fmt: skip


@pytest.mark.parametrize("headers", BAD_HEADERS, ids=named)
def test_headers_of_a_client(headers):
    """A header with a line end, a foreign character or a bad name is refused."""
    refused("headers", llmlite.Client, "m", base_url="http://localhost", headers=headers)


BAD_KEYS = ["sk-123\n", "sk-123\r\nX-Evil: 1", "\tsk-123", "sk-\x00", "sk-\x7f", "sk-✓123", 5, b"sk-123"]


@pytest.mark.parametrize("key", BAD_KEYS, ids=named)
def test_key_that_is_no_header(key):
    """A key with a line end, a control character or a foreign one is refused, and not shown."""
    assert "123" not in refused("api_key", llmlite.Client, "m", base_url="http://localhost", api_key=key)


def test_key_from_the_environment_that_is_no_header(monkeypatch):
    """A key that came with its file's line end is refused wherever it comes from."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-123\n")
    assert "123" not in refused("OPENAI_API_KEY", llmlite.Client, "openai/m")


# ----------------------------------------------------------------------------------------------------- bad input: calls


METHODS = pytest.mark.parametrize("method", ["chat", "stream"])


@METHODS
@pytest.mark.parametrize("messages", [
    [], (), None, 5, {}, {"content": "hi"}, b"hi", iter(["hi"]), iter([]), ["hi"], [None], [{}],
    [{"content": "hi"}], [{"role": "alien", "content": "hi"}], [{"role": None, "content": "hi"}],
    [{"role": ["user"], "content": "hi"}], [llmlite.user("hi"), "there"],
], ids=named)  # fmt: skip
def test_messages(server, llm, method, messages):
    """What is neither a str nor a list of message dicts with known roles is refused."""
    refused("messages", getattr(llm, method), messages)
    assert not server.requests and not server.connections


def test_the_message_that_is_wrong_is_named(llm):
    """The error tells which message, and what it may be."""
    words = refused("messages", llm.chat, [llmlite.user("hi"), {"role": "alien", "content": ""}])
    assert "messages[1]" in words and "'alien'" in words and "assistant" in words and "tool" in words


@METHODS
@pytest.mark.parametrize("extra", [
    {"x": object()}, {"x": {1, 2}}, {"x": b"bytes"}, {"x": NAN}, {"x": [INF]}, {"x": LOOP}, {(1, 2): 3},
], ids=["object", "set", "bytes", "nan", "inf", "circle", "key"])  # fmt: skip
def test_extra_that_is_no_json(server, llm, method, extra):
    """What JSON cannot hold is refused; NaN is no JSON either."""
    refused("JSON", getattr(llm, method), "hi", extra=extra)
    assert not server.connections


@METHODS
@pytest.mark.parametrize("extra", ["abc", [1], 5])
def test_extra_that_is_no_dict(server, llm, method, extra):
    """extra= is a dict."""
    refused("extra", getattr(llm, method), "hi", extra=extra)
    assert not server.connections


@METHODS
@pytest.mark.parametrize("options", [
    {"temperature": NAN}, {"top_p": INF}, {"max_tokens": NAN}, {"stop": {"a"}}, {"seed": object()}, {"seed": "1"},
    {"max_tokens": "5"}, {"temperature": "0"}, {"system": 5}, {"stop": 5}, {"temperature": True},
], ids=named)  # fmt: skip
def test_options_of_a_wrong_kind(server, llm, method, options):
    """An option of another type is refused, and so are NaN and infinity in every option."""
    refused(f"JSON|{next(iter(options))}=", getattr(llm, method), "hi", **options)
    assert not server.connections


@pytest.mark.parametrize("method", ["chat", "stream", "models"])
@pytest.mark.parametrize("options, words", [
    *[({"timeout": value}, "timeout") for value in (0, -1, NAN, "10", (1, 2, 3))],
    *[({"deadline": value}, "deadline") for value in (0, -1, NAN, INF, "10")],
    *[({"headers": value}, "headers") for value in BAD_HEADERS[:3] + BAD_HEADERS[7:9]],
], ids=named)  # fmt: skip
def test_options_of_one_call(server, llm, method, options, words):
    """timeout=, deadline= and headers= of a call are checked like the client's."""
    refused(words, getattr(llm, method), *([] if method == "models" else ["hi"]), **options)
    assert not server.connections


@pytest.mark.parametrize("function, args", [
    (lambda llm: llm.chat, ["hi"]), (lambda llm: llm.stream, ["hi"]), (lambda llm: llm.models, []),
    (lambda llm: llmlite.Client, ["openai/m"]), (lambda llm: llmlite.RetryPolicy, []),
    (lambda llm: llmlite.RateLimit, []),
], ids=["chat", "stream", "models", "Client", "RetryPolicy", "RateLimit"])  # fmt: skip
def test_unexpected_keyword(server, llm, function, args):
    """A misspelt option is a TypeError, never swallowed."""
    with pytest.raises(TypeError, match="temprature"):
        function(llm)(*args, temprature=0)
    assert not server.connections


def test_a_callable_key_is_checked_before_it_is_sent(server):
    """What a callable returns is checked too: nothing is sent."""
    for key in ("sk-123\n", None, 5):
        client = llmlite.Client("m", base_url=server.url, api_key=lambda key=key: key)
        assert "123" not in refused("api_key", client.chat, "hi")
    assert not server.connections


def test_bad_input_is_not_counted(server, llm):
    """A call that was never made is not in the ledger."""
    refused("messages", llm.chat, [])
    assert (llm.ledger.calls, llm.ledger.attempts, llm.ledger.unknown) == (0, 0, 0)


def test_configuration_error_pickles():
    """A ConfigurationError survives pickling with class and words."""
    with pytest.raises(llmlite.ConfigurationError) as caught:
        llmlite.Client("gpt-5")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is llmlite.ConfigurationError and str(again) == str(caught.value)


def test_the_environment_is_read_when_the_client_is_made(server, monkeypatch):
    """A client keeps what it was made with: later changes of the environment do not move it."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-first")
    client = llmlite.Client("openai/m")
    os.environ.update(OPENAI_BASE_URL="http://localhost:1", OPENAI_API_KEY="sk-second")
    server.handle(lambda request: testing.reply("ok"))
    client.chat("hi")
    assert server.requests[0].headers["authorization"] == "Bearer sk-first"
