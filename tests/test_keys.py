"""Keys: found in the environment, sent in a header, and never sent to a host their owner did not name."""
import pytest

from tests import llmlite, testing

ROWS = llmlite.providers()
WITH_KEYS = [(name, variable) for name, _, variables in ROWS for variable in variables.split()]
WITHOUT = [name for name, _, variables in ROWS if not variables]
SECRET = "sk-0123456789"
FAST = llmlite.RetryPolicy(backoff=0.001, rate_limit_backoff=0.001)


@pytest.fixture
def all_keys(monkeypatch):
    """A different key in every provider's variable; LLMLITE_API_KEY is not set."""
    for number, (_, variable) in enumerate(WITH_KEYS):
        monkeypatch.setenv(variable, f"{SECRET}-{number:03}")


def anywhere(server):
    """Whether any key reached the server, in any form."""
    return [request for request in server.requests if SECRET.encode() in request.head + request.body]


@pytest.mark.parametrize("name, variable", WITH_KEYS, ids=[f"{name}-{variable}" for name, variable in WITH_KEYS])
def test_key_of_a_named_provider(server, monkeypatch, name, variable):
    """A provider's variable is its key, also when base_url= points it elsewhere; it goes out once, in a header."""
    monkeypatch.setenv(variable, SECRET)
    server.reply("ok")
    assert llmlite.Client("m", provider=name, base_url=server.root).chat("hi").text == "ok"
    head, path = server.requests[0].head, server.requests[0].path
    assert head.count(SECRET.encode()) == 1 and SECRET not in path


@pytest.mark.parametrize("name, variable", WITH_KEYS, ids=[f"{name}-{variable}" for name, variable in WITH_KEYS])
def test_missing_key(server, monkeypatch, name, variable):
    """Without its key a provider is refused at once, with the variable's name; an empty variable is no key."""
    monkeypatch.setenv("LLMLITE_API_KEY", SECRET)  # is for servers without a name, never for a named provider
    monkeypatch.setenv(variable, "")
    with pytest.raises(llmlite.ConfigurationError, match=rf"{name}.*{variable}.*api_key"):
        llmlite.Client("m", provider=name, base_url=server.url)
    assert not server.connections


def test_first_variable_wins(server, monkeypatch):
    """Of a provider's several variables the first that is set counts."""
    for name, _, variables in ROWS:
        monkeypatch.setenv(variables.split()[-1] if variables else "X_API_KEY", SECRET + "-last")
        monkeypatch.setenv(variables.split()[0] if variables else "X_API_KEY", SECRET + "-first")
        if variables:
            server.reply("ok")
            llmlite.Client("m", provider=name, base_url=server.root).chat("hi")
            assert (SECRET + "-first").encode() in server.requests[-1].head
    assert len(server.requests) == len(ROWS) - len(WITHOUT)


@pytest.mark.parametrize("name", WITHOUT)
def test_local_providers_need_no_key(server, all_keys, monkeypatch, name):
    """A provider on this machine needs no key, gets none from the environment, and takes one that is given."""
    server.reply("ok", times=2)
    llmlite.Client("m", provider=name, base_url=server.url).chat("hi")
    assert "authorization" not in server.requests[0].headers and not anywhere(server)
    llmlite.Client("m", provider=name, base_url=server.url, api_key=SECRET).chat("hi")
    assert server.requests[1].headers["authorization"] == f"Bearer {SECRET}"


LOCAL_KEYS = [("vllm", "VLLM_API_KEY"), ("llamacpp", "LLAMACPP_API_KEY"), ("lmstudio", "LMSTUDIO_API_KEY"),
              ("lmstudio", "LM_API_TOKEN")]


@pytest.mark.parametrize("name, variable", LOCAL_KEYS)
def test_local_providers_take_a_key_of_their_own(server, all_keys, monkeypatch, name, variable):
    """A server on this machine that was started with a key gets the one in its own variable, and no other server."""
    monkeypatch.setenv(variable, "own-key-1234")
    server.reply("ok", times=3)
    llmlite.Client("m", provider=name, base_url=server.url).chat("hi")
    llmlite.Client("m", provider=name, base_url=server.url, api_key="").chat("hi")
    llmlite.Client("m", base_url=server.url).chat("hi")
    sent = [request.headers.get("authorization") for request in server.requests]
    assert sent == ["Bearer own-key-1234", None, "Bearer local"]
    assert not anywhere(server)


def test_the_key_of_ollamas_cloud_stays_there(server, monkeypatch):
    """OLLAMA_API_KEY is ollama.com's: an Ollama on this machine does not get it."""
    monkeypatch.setenv("OLLAMA_API_KEY", SECRET)
    server.reply("ok")
    llmlite.Client("m", provider="ollama", base_url=server.url).chat("hi")
    assert "authorization" not in server.requests[0].headers and not anywhere(server)


# ------------------------------------------------------------------------------------------------- hosts without a name

LOOPBACK = ["localhost", "LocalHost", "127.0.0.1", "127.1.2.3", "[::1]"]
FOREIGN = [
    "localhost.evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "localhost:80@evil.example",
    "127.0.0.1@evil.example", "api.openai.com@evil.example", "api.openai.com:443@evil.example",
    "api.openai.com.evil.example", "evil.example", "xlocalhost", "notapi.openai.com", "10.0.0.1", "0.0.0.0",
    "127.evil.example", "[::2]", "evil.example/localhost", "evil.example/@localhost",
]  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_needs_no_key(all_keys, host):
    """On a loopback host a client without a key is fine."""
    assert llmlite.Client("m", base_url=f"http://{host}/v1").model == "m"


def test_loopback_gets_the_word_local(server, all_keys):
    """A nameless server on loopback gets "local" for a key, and no provider's key."""
    server.reply("ok")
    llmlite.Client("m", base_url=server.url).chat("hi")
    assert server.requests[0].headers["authorization"] == "Bearer local"
    assert not anywhere(server)


@pytest.mark.parametrize("host", FOREIGN)
def test_foreign_host_gets_no_key(all_keys, host):
    """A host that nobody named a key for is refused: look-alikes and userinfo tricks do not help."""
    with pytest.raises(llmlite.ConfigurationError, match="LLMLITE_API_KEY.*api_key="):
        llmlite.Client("m", base_url=f"http://{host}/v1")


@pytest.mark.parametrize("host", FOREIGN)
def test_foreign_host_gets_only_the_key_named_for_it(server, all_keys, monkeypatch, host):
    """LLMLITE_API_KEY is the key of a nameless server; what goes on the wire (to a proxy here) holds no other."""
    monkeypatch.setenv("HTTP_PROXY", server.root)
    monkeypatch.setenv("LLMLITE_API_KEY", "named-for-it")
    server.reply("ok")
    assert llmlite.Client("m", base_url=f"http://{host}/v1").chat("hi").text == "ok"
    assert server.requests[0].headers["authorization"] == "Bearer named-for-it"
    assert not anywhere(server)


@pytest.mark.parametrize("host, variable", [
    ("api.openai.com", "OPENAI_API_KEY"), ("openrouter.ai", "OPENROUTER_API_KEY"),
])  # fmt: skip
def test_known_host_gets_its_own_key(server, all_keys, monkeypatch, host, variable):
    """A known provider's host gets that provider's key, and no other."""
    monkeypatch.setenv("HTTP_PROXY", server.root)
    monkeypatch.setenv("LLMLITE_API_KEY", "named-for-others")
    monkeypatch.setenv(variable, "its-own-key")
    server.reply("ok")
    llmlite.Client("m", base_url=f"http://{host}/v1").chat("hi")
    assert server.requests[0].path == f"http://{host}/v1/chat/completions"
    assert server.requests[0].headers["authorization"] == "Bearer its-own-key"
    assert not anywhere(server)


def test_known_host_without_its_key(monkeypatch):
    """A known provider's host is refused without that provider's key, whatever other keys there are."""
    monkeypatch.setenv("LLMLITE_API_KEY", SECRET)
    with pytest.raises(llmlite.ConfigurationError, match="OPENAI_API_KEY"):
        llmlite.Client("m", base_url="https://api.openai.com/v1")


def test_loopback_prefers_the_key_named_for_it(server, monkeypatch):
    """LLMLITE_API_KEY goes to a nameless server on loopback too."""
    monkeypatch.setenv("LLMLITE_API_KEY", SECRET)
    server.reply("ok")
    llmlite.Client("m", base_url=server.url).chat("hi")
    assert server.requests[0].headers["authorization"] == f"Bearer {SECRET}"


# -------------------------------------------------------------------------------------------------------- keys as given


@pytest.mark.parametrize("provider", [None, "openai"])
@pytest.mark.parametrize("key", ["", lambda: ""], ids=["str", "callable"])
def test_empty_key(server, all_keys, monkeypatch, provider, key):
    """api_key="" sends no Authorization, whatever the environment holds."""
    monkeypatch.setenv("LLMLITE_API_KEY", SECRET)
    server.reply("ok")
    llmlite.Client("m", provider=provider, base_url=server.url, api_key=key).chat("hi")
    assert "authorization" not in server.requests[0].headers and not anywhere(server)


def test_argument_beats_environment(server, all_keys):
    """api_key= is what is sent."""
    server.reply("ok")
    llmlite.Client("m", provider="openai", base_url=server.url, api_key="given").chat("hi")
    assert server.requests[0].headers["authorization"] == "Bearer given" and not anywhere(server)


def test_callable_is_asked_again_for_each_attempt(server):
    """A key that is a callable is asked for every attempt, so a retry goes out with a fresh token."""
    keys = iter(["one", "two", "three", "four"])
    server.error(500)
    server.error(429, retry_after=0.01)
    server.reply("ok", times=2)
    client = llmlite.Client("m", base_url=server.url, api_key=lambda: next(keys), retry=FAST)
    client.chat("hi")
    client.chat("hi")
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == ["Bearer one", "Bearer two", "Bearer three", "Bearer four"]


def test_callable_is_not_asked_before_a_call():
    """Making a client asks a callable nothing: a token may cost a request."""
    asked = []
    llmlite.Client("m", base_url="http://localhost", api_key=lambda: asked.append(1) or "key")
    assert not asked


def test_callable_that_fails(server):
    """What a callable raises is the caller's own: it comes through, and nothing is sent."""

    class Expired(Exception):
        pass

    def key():
        raise Expired("log in again")

    client = llmlite.Client("m", base_url=server.url, api_key=key)
    for call in (client.chat, client.stream):
        with pytest.raises(Expired, match="log in again"):
            call("hi")
    assert not server.connections


class Relogin(llmlite.LLMError):
    """What a program may make of our errors."""


@pytest.mark.parametrize("error", [
    FileNotFoundError(2, "No such file", "token.json"), ConnectionRefusedError(111, "no token server"),
    TimeoutError("token server"), Relogin("log in again", _kind="normal"),
], ids=lambda error: type(error).__name__)  # fmt: skip
def test_callable_that_fails_like_a_lost_connection(server, error):
    """Whatever a callable raises comes through as it is: no lost connection, not tried again, and no request."""
    asked = []

    def key():
        asked.append(1)
        raise error

    client = llmlite.Client("m", base_url=server.url, api_key=key, retry=FAST)
    for call in (client.chat, client.stream):
        with pytest.raises(type(error)) as caught:
            call("hi")
        assert caught.value is error
    assert len(asked) == 2 and not server.connections
    assert (client.ledger.attempts, client.ledger.unknown) == (0, 0)


@pytest.mark.parametrize("key", ["bad\n", KeyError("token")], ids=repr)
@pytest.mark.parametrize("call", [lambda llm: llm.chat("hi"), lambda llm: llm.stream("hi"), lambda llm: llm.embed("hi"),
                                  lambda llm: llm.models()], ids=["chat", "stream", "embed", "models"])
def test_a_call_without_its_key_has_failed(server, call, key):
    """A call of any kind whose key cannot be had is a failed one, whatever its callable does."""
    def rotating():
        if isinstance(key, str):
            return key
        raise key
    client = llmlite.Client("m", base_url=server.url, api_key=rotating)
    with pytest.raises((KeyError, llmlite.ConfigurationError)):
        call(client)
    assert (client.ledger.failed, client.ledger.attempts, server.connections) == (1, 0, 0)


def test_callable_that_fails_at_a_retry(server):
    """So does what it raises later; the requests before it stay booked."""
    keys = iter(["one"])
    server.error(500)
    client = llmlite.Client("m", base_url=server.url, api_key=lambda: next(keys), retry=FAST)
    with pytest.raises(StopIteration):
        client.chat("hi")
    assert (client.ledger.attempts, len(server.requests)) == (1, 1)


def test_callable_whose_later_key_is_none(server):
    """A key that no header can hold is a ConfigurationError, which tells what had been sent before."""
    keys = iter(["one", "two\n"])
    server.error(500)
    client = llmlite.Client("m", base_url=server.url, api_key=lambda: next(keys), retry=FAST)
    with pytest.raises(llmlite.ConfigurationError, match="compatible: api_key") as caught:
        client.chat("hi")
    assert (caught.value.attempts, type(caught.value.last_error)) == (1, llmlite.ServerError)


# --------------------------------------------------------------------------------------------------- nowhere to be seen


@pytest.mark.parametrize("key", [SECRET, lambda: SECRET], ids=["str", "callable"])
def test_key_is_in_no_repr(server, key):
    """repr and str of a client, its ledger, its stream and its replies show no key."""
    server.reply("ok", times=2)
    client = llmlite.Client("m", base_url=server.url, api_key=key, headers={"X-Secret": SECRET})
    with client.stream("hi") as stream:
        seen = [client, client.ledger, client.chat("hi"), stream, stream.response]
        assert SECRET not in "".join(f"{item!r}{item!s}" for item in seen)


@pytest.mark.parametrize("echo", [
    lambda: testing.error(401, f"Incorrect API key provided: {SECRET}"),
    lambda: testing.error(400, "bad", headers={"X-Echo": SECRET}),
    lambda: testing.json_body({"error": {"message": SECRET, "seen": [{"deep": SECRET}]}}, status=403),
    lambda: testing.body(b"<html>" + SECRET.encode(), status=200),
    lambda: testing.json_body({"error": {"message": SECRET, "code": 400}}),
], ids=["message", "header", "body", "page", "inside"])  # fmt: skip
@pytest.mark.parametrize("method", ["chat", "stream"])
def test_echoed_key_is_masked(server, echo, method):
    """A server that sends the key back finds it masked in the error's text and fields."""
    server.handle(lambda request: echo())
    client = llmlite.Client("m", base_url=server.url, api_key=SECRET, retry=None)
    with pytest.raises(llmlite.LLMError) as caught:
        getattr(client, method)("hi")
    assert SECRET not in str(caught.value)
    assert SECRET not in repr({name: str(value) for name, value in vars(caught.value).items()})
