"""Counting tokens, and texts as tokens: what each provider is asked, and what its answer is read as."""
import pytest

from tests import llmlite
from tests.dialects import ADD, HI, KEY, PARAMETERS

TOOL = {"name": "add", "description": "Adds."}
TEXT = [{"type": "text", "text": "hi"}]


def client(server, provider, **options):
    base = {"gemini": server.root + "/v1beta"}.get(provider, server.root if "anthropic" in provider else server.url)
    return llmlite.Client("m", provider=provider, base_url=base, api_key=KEY, retry=None, **options)


COUNTED = {  # provider -> path, what is sent of a prompt, what more of system and tools, the answer
    "openai": ("/v1/responses/input_tokens", {"model": "m", "input": [HI]}, {
        "instructions": "s", "tools": [{"type": "function", **TOOL, "parameters": PARAMETERS, "strict": True}]},
        {"object": "response.input_tokens", "input_tokens": 51}),
    "anthropic": ("/v1/messages/count_tokens", {"model": "m", "messages": [HI]}, {
        "system": "s", "tools": [{**TOOL, "input_schema": PARAMETERS}]}, {"input_tokens": 51}),
    "gemini": ("/v1beta/models/m:countTokens", {"model": "models/m", "contents": [
        {"role": "user", "parts": [{"text": "hi"}]}]}, {"systemInstruction": {"parts": [{"text": "s"}]}, "tools": [
            {"functionDeclarations": [{**TOOL, "parametersJsonSchema": PARAMETERS}]}]},
        {"totalTokens": 51, "promptTokensDetails": []}),
    "vllm": ("/tokenize", {"model": "m", "messages": [HI]}, {
        "messages": [{"role": "system", "content": "s"}, HI], "tools": [ADD]},
        {"count": 51, "max_model_len": 4096, "tokens": [1, 2]})}
COUNTED["azure"] = COUNTED["openai"]
COUNTED["bedrock-anthropic"] = COUNTED["azure-anthropic"] = COUNTED["anthropic"]
COUNTED["llamacpp"] = COUNTED["openai"]


@pytest.mark.parametrize("provider", COUNTED)
def test_count(server, provider):
    """The same prompt, system and tools as a chat's, without what only an answer needs."""
    path, prompt, more, answer = COUNTED[provider]
    server.json(answer, times=2)
    with client(server, provider) as llm:
        assert llm.count_tokens("hi") == llm.count_tokens([HI], system="s", tools=[ADD]) == 51
    plain, full = (request.json for request in server.requests)
    if provider == "gemini":
        plain, full = plain["generateContentRequest"], full["generateContentRequest"]
    assert plain == prompt and full == {**prompt, **more}
    assert {(request.method, request.path) for request in server.requests} == {("POST", path)}


def test_files_are_counted_as_the_server_takes_them(server):
    """llama.cpp's Responses take texts as text alone, and so does its count."""
    server.json({"input_tokens": 3})
    with client(server, "llamacpp") as llm:
        assert llm.count_tokens([llmlite.user("hi", files=b"text")]) == 3
    assert server.requests[0].json["input"][0]["content"][1] == {"type": "input_text", "text": "text"}


@pytest.mark.parametrize("provider, call, asked, answer, found", [
    ("vllm", "tokenize", {"model": "m", "prompt": "hi", "add_special_tokens": False}, {"count": 2, "tokens": [7, 8]},
     [7, 8]),
    ("llamacpp", "tokenize", {"content": "hi", "add_special": False}, {"tokens": [7, 8]}, [7, 8]),
    ("vllm", "detokenize", {"model": "m", "tokens": [7, 8]}, {"prompt": "hi"}, "hi"),
    ("llamacpp", "detokenize", {"tokens": [7, 8]}, {"content": "hi"}, "hi")])
def test_tokens_of_a_text(server, provider, call, asked, answer, found):
    server.json(answer)
    with client(server, provider) as llm:
        assert getattr(llm, call)("hi" if call == "tokenize" else [7, 8]) == found
    assert (server.requests[0].path, server.requests[0].json) == (f"/{call}", asked)


@pytest.mark.parametrize("provider, call, given", [
    ("mistral", "count_tokens", "hi"), ("openai", "tokenize", "hi"), ("anthropic", "detokenize", [1]),
    ("gemini", "tokenize", "hi")])
def test_what_a_provider_has_not(server, provider, call, given):
    """It is said before anything is sent, with the method's name."""
    with client(server, provider) as llm, pytest.raises(llmlite.ConfigurationError, match=rf"^{call}\(\) asks for"):
        getattr(llm, call)(given)
    assert server.requests == []


@pytest.mark.parametrize("call, given, words", [
    ("tokenize", b"hi", "text=b'hi': give a str"), ("tokenize", None, "text=None: give a str"),
    ("detokenize", "hi", "ids='hi': give a list"), ("detokenize", [1, "a"], r"ids\[1\]='a': give a whole number"),
    ("detokenize", [-1], r"ids\[0\]=-1: give"), ("count_tokens", 5, "messages is a int")])
def test_bad_input(server, call, given, words):
    with client(server, "vllm") as llm, pytest.raises(llmlite.ConfigurationError, match=words):
        getattr(llm, call)(given)
    assert server.requests == []


@pytest.mark.parametrize("answer", [
    {}, {"input_tokens": "51"}, {"input_tokens": None}, {"input_tokens": True}, [], "x"])
def test_an_answer_without_a_count(server, answer):
    """It is an error with the body, and the call is in the ledger."""
    server.json(answer)
    with client(server, "openai") as llm:
        with pytest.raises(llmlite.ResponseError):
            llm.count_tokens("hi")
        assert (llm.ledger.attempts, llm.ledger.failed) == (1, 1)


@pytest.mark.parametrize("provider", COUNTED)
def test_the_scripted_provider_counts(server, provider):
    """`llmlite.testing` answers these paths with the first number of `usage`."""
    server.reply("", usage=(7, 0))
    server.reply("", usage=None)
    with client(server, provider) as llm:
        assert [llm.count_tokens("hi"), llm.count_tokens("hi")] == [7, 0]


def test_it_is_retried_and_bounded_as_a_chat(server):
    """Retries, the deadline, the headers and the model of one call hold here too."""
    server.error(503, times=2)
    server.json({"input_tokens": 3})
    policy = llmlite.RetryPolicy(rate_limit_backoff=0.001)
    with llmlite.Client("m", provider="anthropic", base_url=server.root, api_key=KEY, retry=policy) as llm:
        assert llm.count_tokens("hi", model="n", headers={"X-A": "b"}, deadline=30) == 3
        assert (llm.ledger.attempts, llm.ledger.retries) == (3, 2)
        server.body(b"", delay=30)
        with pytest.raises(llmlite.DeadlineExceededError):
            llm.count_tokens("hi", deadline=0.1)
    assert server.requests[0].json["model"] == "n" and server.requests[0].headers["x-a"] == "b"


@pytest.mark.parametrize("provider, call, given, answer", [
    ("openai", "count_tokens", "hi", {"input_tokens": 51}), ("vllm", "count_tokens", "hi", {"count": 51}),
    ("llamacpp", "tokenize", "hi", {"tokens": [7]}), ("vllm", "detokenize", [7], {"prompt": "hi"})])
def test_a_saved_request_is_sent_again(server, tmp_path, provider, call, given, answer):
    """A failed request of these is replayed at the same address, and read as what it asked for."""
    server.error(400)
    with client(server, provider, save_failed=str(tmp_path)) as llm, pytest.raises(llmlite.BadRequestError):
        getattr(llm, call)(given)
    (saved,) = tmp_path.iterdir()
    server.json(answer)
    assert llmlite.replay(str(saved), api_key=KEY).parsed == next(iter(answer.values()))
    assert server.requests[0].json == server.requests[1].json
    assert server.requests[0].path == server.requests[1].path
