"""Every server's own habits: OpenRouter, xAI, DeepSeek, Groq, Mistral, vLLM, llama.cpp, Ollama, Azure and the rest."""
import json
import re

import pytest

from tests import llmlite
from tests.dialects import FAST, HI, check_reply, drained
from tests.dialects.openai import DONE, USAGE

ToolCall, Usage = llmlite.ToolCall, llmlite.Usage


def client(server, provider=None, retry=None, **options):
    return llmlite.Client("m", provider=provider, base_url=server.url, api_key="k-123456", retry=retry, **options)


def body(message, finish="stop", **more):
    return {"id": "gen-1", "object": "chat.completion", "model": "served",
            "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}],
            "usage": USAGE, **more}


def chunk(delta, finish=None, **more):
    return {"id": "gen-1", "object": "chat.completion.chunk", "model": "served",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def late(usage=USAGE):
    return {"id": "gen-1", "model": "served", "choices": [], "usage": usage}


def call(id="call_1", name="add", arguments='{"a":2}', **more):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


ADD = ToolCall("call_1", "add", {"a": 2}, '{"a":2}')
COUNTED = Usage(9, 5)


def said(finish="stop", usage=COUNTED, **fields):
    raw = {"raw_finish_reason": finish, "finish_reason": finish, "usage": usage, "model": "served", "id": "gen-1"}
    return {"text": "", "reasoning": "", "tool_calls": [], "citations": [], **raw, **fields}


# ------------------------------------------------------------------------------------- each server's bodies and streams

XAI = {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135, "num_sources_used": 0,
       "prompt_tokens_details": {"text_tokens": 32, "cached_tokens": 6},
       "completion_tokens_details": {"reasoning_tokens": 94}, "cost_in_usd_ticks": 1}
DEEPSEEK = {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50, "prompt_cache_hit_tokens": 12,
            "prompt_cache_miss_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 25}}
GROQ = {"queue_time": 0.1, "prompt_tokens": 9, "prompt_time": 0.1, "completion_tokens": 5, "completion_time": 0.1,
        "total_tokens": 14, "total_time": 0.2}
COST = {**USAGE, "cost": 0.001, "is_byok": False, "cost_details": {"upstream_inference_cost": None},
        "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 3}}
SONAR = {**USAGE, "citation_tokens": 7, "num_search_queries": 1, "reasoning_tokens": 2, "cost": {"total_cost": 0.1}}
BLANK_AZURE = {"id": "", "object": "", "model": "", "created": 0, "choices": [],
               "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}
CONTENT_LIST = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Hi"}]
REASONED = {"reasoning": "hm", "reasoning_details": [
    {"type": "reasoning.text", "text": "hm", "id": "r1", "index": 0, "format": "unknown"}]}
PROCESSING = b": OPENROUTER PROCESSING\n\n"
LINKS = ["https://x.example", "https://y.example"]
FOUND = [{"title": "X", "url": "https://x.example", "date": None, "snippet": "s", "source": "web"}]
CASES = {
    "openrouter": (
        "openrouter",
        body({"content": "Hi", **REASONED}, usage=COST, provider="X"),
        [PROCESSING, PROCESSING, chunk({"role": "assistant", "content": "", **REASONED}, provider="X"),
         PROCESSING, chunk({"role": "assistant", "content": "Hi"}),
         chunk({"role": "assistant", "content": ""}, "stop"),
         chunk({"role": "assistant", "content": ""}, "stop", usage=COST), DONE],
        said(text="Hi", reasoning="hm", usage=Usage(9, 5, 2, 3, 1))),
    "openrouter-usage-without-finish": (
        "openrouter", body({"content": "Hi"}),
        [chunk({"role": "assistant", "content": "Hi"}), chunk({"role": "assistant", "content": ""}, "stop"),
         chunk({"role": "assistant", "content": ""}, None, usage=USAGE), DONE], said(text="Hi")),
    "xai": (
        "xai", body({"content": "Hi", "reasoning_content": "hm", "refusal": None}, usage=XAI, citations=LINKS),
        [chunk({"role": "assistant", "content": "", "reasoning_content": "hm"}), chunk({"content": "Hi"}),
         chunk({}, "stop", citations=LINKS), late(XAI), DONE],
        said(text="Hi", reasoning="hm", usage=Usage(32, 103, 6, 94), citations=LINKS)),
    "deepseek": (
        "deepseek", body({"content": "Hi", "reasoning_content": "hm"}, usage=DEEPSEEK),
        [b": keep-alive\n\n", chunk({"role": "assistant", "content": None, "reasoning_content": ""}),
         chunk({"content": None, "reasoning_content": "hm"}), b": keep-alive\n\n",
         chunk({"content": "Hi", "reasoning_content": None}), chunk({"content": "", "reasoning_content": None}, "stop",
                                                                    usage=DEEPSEEK), DONE],
        said(text="Hi", reasoning="hm", usage=Usage(20, 30, 12, 25))),
    "groq": (
        "groq", body({"content": "Hi", "reasoning": "hm"}, usage=GROQ, x_groq={"id": "req_1", "seed": 1}),
        [chunk({"role": "assistant", "content": ""}, x_groq={"id": "req_1", "seed": 1}),
         chunk({"reasoning": "hm", "channel": "analysis"}), chunk({"content": "Hi", "channel": "final"}),
         chunk({}, "stop", x_groq={"id": "req_1", "usage": GROQ}), DONE],
        said(text="Hi", reasoning="hm")),
    "groq-tools": (
        "groq", body({"tool_calls": [call()]}, "tool_calls"),
        [chunk({"role": "assistant", "tool_calls": [call(index=0)]}), chunk({}, "tool_calls", usage=GROQ), DONE],
        said("tool_calls", tool_calls=[ADD])),
    "mistral": (
        "mistral", body({"content": CONTENT_LIST, "tool_calls": None}),
        [chunk({"role": "assistant", "content": ""}), chunk({"content": CONTENT_LIST[:1]}),
         chunk({"content": CONTENT_LIST[1:]}), chunk({"content": ""}, "stop", usage=USAGE), DONE],
        said(text="Hi", reasoning="hm")),
    "mistral-length": (
        "mistral", body({"content": "Hi"}, "model_length"),
        [chunk({"role": "assistant", "content": "Hi"}), chunk({"content": ""}, "model_length", usage=USAGE), DONE],
        said(text="Hi", finish_reason="length", raw_finish_reason="model_length")),
    "mistral-null-id": (
        "mistral", body({"content": "", "tool_calls": [{"id": "null", "function": {"name": "add",
                                                                                   "arguments": '{"a":2}'}}]},
                        "tool_calls"),
        [chunk({"role": "assistant", "content": ""}),
         chunk({"content": "", "tool_calls": [{"id": "null", "index": 0, "function": {
             "name": "add", "arguments": '{"a":2}'}}]}, "tool_calls", usage=USAGE), DONE],
        said("tool_calls", tool_calls=[ADD._replace(id="call_0")])),
    "vllm": (
        "vllm", body({"content": None, "reasoning": "hm", "tool_calls": [call()]}, stop_reason=None),
        [chunk({"role": "assistant", "content": ""}), chunk({"reasoning": "hm"}),
         chunk({"tool_calls": [call(arguments="", index=0)]}),
         chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":2}'}}]}), chunk({}, "stop"), late(), DONE],
        said(tool_calls=[ADD], reasoning="hm", finish_reason="tool_calls", raw_finish_reason="stop")),
    "vllm-plain": (
        "vllm", body({"content": "Hi", "reasoning": None, "tool_calls": []}),
        [chunk({"role": "assistant", "content": ""}), chunk({"content": "Hi"}), chunk({}, "stop"), late(), DONE],
        said(text="Hi")),
    "vllm-older": (
        "vllm", body({"content": "Hi", "reasoning_content": "hm", "tool_calls": []}),
        [chunk({"role": "assistant", "content": ""}), chunk({"reasoning_content": "hm"}), chunk({"content": "Hi"}),
         chunk({}, "stop"), late(), DONE], said(text="Hi", reasoning="hm")),
    "llamacpp": (
        "llamacpp", body({"content": "Hi", "reasoning_content": "hm"}, timings={"predicted_n": 5}),
        [chunk({"role": "assistant", "content": None}), b":\n\n", chunk({"reasoning_content": "hm"}),
         chunk({"content": "Hi"}), chunk({}, "stop", timings={"predicted_n": 5}), late(), DONE],
        said(text="Hi", reasoning="hm")),
    "llamacpp-without-done": (
        "llamacpp", body({"content": "Hi"}),
        [chunk({"role": "assistant", "content": None}), chunk({"content": "Hi"}), chunk({}, "stop"), late()],
        said(text="Hi")),
    "ollama": (
        "ollama", body({"content": "", "reasoning": "hm", "tool_calls": [call(index=0)]}, "tool_calls"),
        [chunk({"role": "assistant", "content": "", "reasoning": "hm"}),
         chunk({"role": "assistant", "content": "", "tool_calls": [call(index=0)]}),
         chunk({"role": "assistant", "content": ""}, "tool_calls"), late(), DONE],
        said("tool_calls", tool_calls=[ADD], reasoning="hm")),
    "azure": (
        "azure", {**body({"content": "Hi"}), "prompt_filter_results": []},
        [BLANK_AZURE, chunk({"role": "assistant", "content": ""}), chunk({"content": "Hi"}), chunk({}, "stop"), late(),
         DONE], said(text="Hi")),
    "azure-async-filter": (  # annotations come late, in chunks that name neither id nor model
        "azure", body({"content": "Hi"}),
        [BLANK_AZURE, chunk({"role": "assistant", "content": ""}), chunk({"content": "Hi"}), chunk({}, "stop"), late(),
         {**BLANK_AZURE, "choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {},
                                      "content_filter_results": {"error": {"code": "content_filter_error"}}}]}, DONE],
        said(text="Hi")),
    "azure-filtered": (
        "azure", body({}, "content_filter"), [BLANK_AZURE, chunk({}, "content_filter"), late(), DONE],
        said("content_filter")),
    "perplexity": (
        "perplexity", body({"content": "Hi there"}, citations=LINKS, search_results=FOUND, usage=SONAR),
        [{**chunk({"role": "assistant", "content": "Hi"}, type="message", citations=LINKS, search_results=FOUND),
          "choices": [{"index": 0, "finish_reason": None, "message": {"role": "assistant", "content": "Hi"},
                       "delta": {"role": "assistant", "content": "Hi"}}]},
         {**chunk({}, type="end_of_stream", usage=SONAR, citations=LINKS, search_results=FOUND),
          "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi there"},
                       "delta": {"role": "assistant", "content": " there"}}]}],
        said(text="Hi there", citations=LINKS, usage=Usage(9, 5, 0, 2))),
    "cerebras": (
        "cerebras", body({"reasoning": "hm", "tool_calls": [call()]}, "tool_calls", time_info={"total_time": 0.1}),
        [chunk({"role": "assistant"}), chunk({"reasoning": "hm"}), chunk({"tool_calls": [call(index=0)]}),
         chunk({}, "tool_calls", usage=USAGE, time_info={"total_time": 0.1}), DONE],
        said("tool_calls", tool_calls=[ADD], reasoning="hm")),
    "together": (
        "together", body({"content": "Hi", "reasoning": "hm"}, "eos"),
        [{**chunk({"role": "assistant", "content": "Hi", "reasoning": "hm"}), "choices": [
            {"index": 0, "text": "Hi", "seed": None, "finish_reason": None,
             "delta": {"role": "assistant", "content": "Hi", "reasoning": "hm"}}]},
         chunk({"content": ""}, "eos", usage=USAGE), DONE],
        said(text="Hi", reasoning="hm", finish_reason="stop", raw_finish_reason="eos")),
    "gemini-openai": (
        "gemini-openai", body({"content": "Hi"}, usage={"prompt_tokens": 9, "total_tokens": 14}),
        [chunk({"role": "assistant", "content": "Hi"}),
         chunk({"role": "assistant"}, "stop", usage={"prompt_tokens": 9, "total_tokens": 14}), DONE],
        said(text="Hi")),
    "gemini-openai-without-message": (
        "gemini-openai", {**body({}), "choices": [{"index": 0, "finish_reason": "length"}],
                          "usage": {"prompt_tokens": 9, "total_tokens": 14}},
        [{**chunk({}, usage={"prompt_tokens": 9, "total_tokens": 14}),
          "choices": [{"index": 0, "finish_reason": "length"}]}, DONE], said("length")),
    "fireworks": (
        "fireworks", body({"content": "Hi", "reasoning_content": "hm"}),
        [chunk({"role": "assistant"}), chunk({"reasoning_content": "hm"}), chunk({"content": "Hi"}),
         chunk({}, "stop", usage=USAGE), DONE], said(text="Hi", reasoning="hm")),
    "zai": (  # the finish_reason key is absent until the end, each delta has a role
        "zai", body({"content": "Hi", "reasoning_content": "hm"}),
        [{"id": "gen-1", "model": "served", "choices": [{"index": 0, "delta": {
            "role": "assistant", "reasoning_content": "hm"}}]},
         {"id": "gen-1", "model": "served", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}}]},
         chunk({"role": "assistant", "content": ""}, "stop", usage=USAGE), DONE], said(text="Hi", reasoning="hm")),
    "no-index": (  # fragments without index: a new id starts a new call
        None, body({"content": "", "tool_calls": [call(), call("call_2", "mul", "{}")]}, "tool_calls"),
        [chunk({"tool_calls": [call(arguments="")]}), chunk({"tool_calls": [{"function": {"arguments": '{"a"'}}]}),
         chunk({"tool_calls": [{"index": None, "id": "call_1", "function": {"name": "add", "arguments": ":2}"}}]}),
         chunk({"tool_calls": [call("call_2", "mul", "{}")]}), chunk({}, "tool_calls"), late(), DONE],
        said("tool_calls", tool_calls=[ADD, ToolCall("call_2", "mul", {}, "{}")])),
}


@pytest.mark.parametrize("name", CASES)
def test_reply(server, name):
    """A server's body and its stream give the same Response, field for field; the pieces make it up."""
    provider, *cells = CASES[name]
    check_reply(server, client(server, provider), *cells)


@pytest.mark.parametrize("usage", [XAI, DEEPSEEK, GROQ, COST, SONAR, USAGE, {"prompt_tokens": 9, "total_tokens": 14}])
def test_usage_adds_up_to_the_providers_total(server, usage):
    """Whether reasoning is counted apart, inside, or the output left out: the total is the provider's own."""
    server.json(body({"content": "Hi"}, usage=usage))
    llm = client(server)
    assert llm.chat("hi").usage.total_tokens == llm.ledger.usage.total_tokens == usage["total_tokens"]


# --------------------------------------------------------------------------------------------------------- what is sent

HISTORY = [HI, {"role": "assistant", "content": None, "tool_calls": [call(), call("chatcmpl-tool-99")]},
           llmlite.tool_result("call_1", "4"), llmlite.tool_result("chatcmpl-tool-99", "5", is_error=True)]


def test_mistral_ids(server):
    """Foreign tool-call ids become nine letters and digits, the same each time, in calls and results; its own stay."""
    server.reply("ok", times=2)
    for _ in range(2):
        own = {"role": "assistant", "content": "", "tool_calls": [call("aB3dE6gH9")]}
        client(server, "mistral").chat([*HISTORY, own, llmlite.tool_result("aB3dE6gH9", "6")])
    first, second = (request.json["messages"] for request in server.requests)
    assert first == second
    one, two = (told["id"] for told in first[1]["tool_calls"])
    assert one != two and all(re.fullmatch("[A-Za-z0-9]{9}", id) for id in (one, two))
    assert [message.get("tool_call_id") for message in first[2:]] == [one, two, None, "aB3dE6gH9"]
    assert first[4]["tool_calls"][0]["id"] == "aB3dE6gH9"
    assert set(first[3]) == {"role", "tool_call_id", "content"}


@pytest.mark.parametrize("how", ["chat", "stream"])
@pytest.mark.parametrize("reasoning", ["hm", "", None])
def test_deepseek_wants_its_reasoning_back(server, how, reasoning):
    """A turn with tool calls goes back with its reasoning_content, be it empty; a turn without goes back bare."""
    server.json(body({"content": "", "reasoning_content": reasoning, "tool_calls": [call()]}, "tool_calls")) if (
        how == "chat") else server.sse([chunk({"role": "assistant", "content": None, "reasoning_content": reasoning}),
                                        chunk({"tool_calls": [call(index=0)]}),
                                        chunk({}, "tool_calls", usage=USAGE), DONE])
    server.json(body({"content": "4", "reasoning_content": "so"}))
    server.reply("ok")
    llm = client(server, "deepseek")
    first = llm.chat("hi") if how == "chat" else drained(llm.stream("hi"))
    history = [HI, first.message, llmlite.tool_result("call_1", "4")]
    history.append(llm.chat(json.loads(json.dumps(history))).message)
    llm.chat([*json.loads(json.dumps(history)), HI])
    asking = {"role": "assistant", "content": None, "tool_calls": [call()], "reasoning_content": reasoning or ""}
    assert server.requests[1].json["messages"][1] == asking
    assert server.requests[2].json["messages"] == [
        HI, asking, {"role": "tool", "tool_call_id": "call_1", "content": "4"},
        {"role": "assistant", "content": "4"}, HI]


DETAILS = [{"type": "reasoning.text", "text": "hm, so", "signature": "c2ln", "id": "r1", "index": 0, "format": "f"},
           {"type": "reasoning.summary", "summary": "in short", "id": "r2", "index": 1, "format": "f"},
           {"type": "reasoning.encrypted", "data": "ZW5jcnlwdGVk", "id": "r3", "index": 2, "format": "f"}]


@pytest.mark.parametrize("how", ["chat", "stream"])
def test_openrouter_wants_its_reasoning_details_back(server, how):
    """The details go back unmodified; in a stream their pieces are joined by index."""
    pieces = [{**DETAILS[0], "text": "hm, ", "signature": None}, {**DETAILS[1], "summary": "in "},
              {"type": "reasoning.text", "text": "so", "index": 0, "format": "f"}, {**DETAILS[1], "summary": "short"},
              {"type": "reasoning.text", "signature": "c2ln", "index": 0, "format": "f"}, DETAILS[2]]
    server.json(body({"content": None, "reasoning_details": DETAILS, "tool_calls": [call()]}, "tool_calls")) if (
        how == "chat") else server.sse([
            *(chunk({"role": "assistant", "content": "", "reasoning_details": [piece]}) for piece in pieces),
            chunk({"role": "assistant", "tool_calls": [call(index=0)]}), chunk({}, "tool_calls", usage=USAGE), DONE])
    server.reply("ok")
    llm = client(server, "openrouter")
    first = llm.chat("hi") if how == "chat" else drained(llm.stream("hi"))
    llm.chat(json.loads(json.dumps([HI, first.message, llmlite.tool_result("call_1", "4")])))
    assert server.requests[1].json["messages"][1] == {
        "role": "assistant", "content": None, "tool_calls": [call()], "reasoning_details": DETAILS}


SIGNATURE = {"google": {"thought_signature": "c2ln/b64+=="}}


@pytest.mark.parametrize("how", ["chat", "stream"])
def test_geminis_signatures_on_the_openai_path(server, how):
    """A signature rides in extra_content of the call that has one, and is echoed."""
    calls = [call(extra_content=SIGNATURE), call("call_2", "mul", "{}")]
    server.json(body({"content": None, "tool_calls": calls}, "tool_calls")) if how == "chat" else server.sse([
        chunk({"role": "assistant", "tool_calls": [{"index": at, **told}]}) for at, told in enumerate(calls)] + [
            chunk({"role": "assistant"}, "stop", usage=USAGE), DONE])
    server.reply("ok")
    llm = client(server, "gemini-openai")
    first = llm.chat("hi") if how == "chat" else drained(llm.stream("hi"))
    llm.chat(json.loads(json.dumps([HI, first.message, *(llmlite.tool_result(c, "x") for c in first.tool_calls)])))
    assert server.requests[1].json["messages"][1] == {"role": "assistant", "content": None, "tool_calls": calls}


@pytest.mark.parametrize("base, path", [
    ("/openai/v1", "/openai/v1/chat/completions"), ("/openai/v1/", "/openai/v1/chat/completions"),
    ("/openai/deployments/d?api-version=2024-10-21", "/openai/deployments/d/chat/completions?api-version=2024-10-21"),
])  # fmt: skip
def test_azure(server, base, path):
    """Azure's key goes in api-key; a query of the base URL stays behind the path."""
    server.reply("ok")
    llm = llmlite.Client("dep", provider="azure", base_url=server.root + base, api_key="k-123456", retry=None)
    llm.chat("hi", max_tokens=5)
    request = server.requests[0]
    assert (request.path, request.headers["api-key"]) == (path, "k-123456")
    assert "authorization" not in request.headers
    assert request.json == {"model": "dep", "messages": [HI], "max_completion_tokens": 5}


@pytest.mark.parametrize("slash", ["", "/"])
def test_azures_endpoint_from_the_environment(server, monkeypatch, slash):
    """AZURE_OPENAI_ENDPOINT is the resource's address, AZURE_OPENAI_API_KEY its key."""
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.root + slash)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k-azure")
    server.reply("ok")
    assert llmlite.Client("azure/dep", retry=None).chat("hi").text == "ok"
    assert server.requests[0].path == "/openai/v1/chat/completions"
    assert server.requests[0].headers["api-key"] == "k-azure"


def test_azure_without_an_address(monkeypatch):
    """Without an address the error names the variable."""
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k-azure")
    monkeypatch.delenv("AZURE_OPENAI_ENDPOINT", raising=False)
    with pytest.raises(llmlite.ConfigurationError, match="AZURE_OPENAI_ENDPOINT"):
        llmlite.Client("azure/dep")


# --------------------------------------------------------------------------------------------------------------- errors


def outcome(server, llm, how):
    """The error a call ends in, and how many requests that took."""
    with pytest.raises(llmlite.LLMError) as caught:
        llm.chat("hi") if how == "chat" else drained(llm.stream("hi"))
    return caught.value, len(server.requests)


def openrouter(code, message="no", **metadata):
    return {"error": {"code": code, "message": message, "metadata": metadata}, "user_id": "u"}


VLLM = {"error": {"message": "no", "type": "ServiceUnavailableError", "param": None, "code": 503}}
LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
TOO_LONG = {"error": {"code": 400, "message": "no", "type": "exceed_context_size_error", "n_prompt_tokens": 9,
                      "n_ctx": 8}}
BLOCKED = {"error": {"message": "no", "type": None, "param": "prompt", "code": "content_filter", "status": 400,
                     "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}}}}
FREE = {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "4102444800000"}
ERRORS = {  # provider, status, body, headers; class, words, requests
    "openrouter-200": ("openrouter", 200, openrouter(502, "Upstream closed"), {}, "ServerError", "Upstream closed", 3),
    "openrouter-200-moderated": ("openrouter", 200, openrouter(403, reasons=["x"]), {}, "PermissionDeniedError", "no",
                                 1),
    "openrouter-200-context": ("openrouter", 200, openrouter(400, error_type="context_length_exceeded"), {},
                               "ContextLengthError", "no", 1),
    "openrouter-402": ("openrouter", 402, openrouter(402), {}, "PaymentRequiredError", "no", 1),
    "openrouter-402-in-flight": ("openrouter", 402, openrouter(402, limit_source="openrouter_in_flight_budget"), {},
                                 "PaymentRequiredError", "no", 3),
    "openrouter-429": ("openrouter", 429, openrouter(429), {}, "RateLimitError", "no", 3),
    "openrouter-free-day": ("openrouter", 429, openrouter(429, "Exceeded: free-models-per-day", headers=FREE), {},
                            "QuotaExceededError", "free-models-per-day", 1),
    "openrouter-524": ("openrouter", 524, openrouter(524), {}, "ServerError", "no", 3),
    "xai-text": ("xai", 200, {"code": "Some text", "error": "overtaxed"}, {}, "ServerError", "overtaxed", 3),
    "xai-text-400": ("xai", 400, {"code": "Client specified an invalid argument", "error": "bad"}, {},
                     "BadRequestError", "bad", 1),
    "xai-gone": ("xai", 410, {"error": "Live search is gone"}, {}, "APIError", "Live search is gone", 1),
    "deepseek-402": ("deepseek", 402, {"error": {"message": "Insufficient Balance", "type": "unknown_error",
                                                 "code": "invalid_request_error"}}, {}, "PaymentRequiredError",
                     "Insufficient Balance", 1),
    "groq-tool": ("groq", 400, {"error": {"message": "no", "type": "invalid_request_error", "code": "tool_use_failed",
                                          "failed_generation": "x"}}, {}, "BadRequestError", "no", 1),
    "mistral-flat": ("mistral", 400, {"object": "error", "message": "no", "type": "invalid_function_call",
                                      "param": None, "code": "3280"}, {}, "BadRequestError", "no", 1),
    "mistral-flat-200": ("mistral", 200, {"object": "error", "message": "busy", "type": "service_unavailable_error",
                                          "param": None, "code": 3505}, {}, "OverloadedError", "busy", 3),
    "mistral-422": ("mistral", 422, {"detail": [{"loc": ["body", "x"], "msg": "extra"}]}, {}, "BadRequestError",
                    "extra", 1),
    "mistral-no-allowance": ("mistral", 429, {"message": "no"}, {"x-ratelimit-limit-req-minute": "0"},
                             "RateLimitError", "no", 1),
    "vllm-401": ("vllm", 401, {"error": "Unauthorized"}, {}, "AuthenticationError", "Unauthorized", 1),
    "vllm-503": ("vllm", 503, VLLM, {}, "OverloadedError", "no", 3),
    "llamacpp-loading": ("llamacpp", 503, LOADING, {}, "OverloadedError", "Loading model", 3),
    "llamacpp-context": ("llamacpp", 400, TOO_LONG, {}, "ContextLengthError", "no", 1),
    "llamacpp-501": ("llamacpp", 501, {"error": {"code": 501, "message": "no", "type": "not_supported_error"}}, {},
                     "ServerError", "no", 1),
    "ollama-404": ("ollama", 404, {"error": {"message": "model \"x\" not found", "type": "not_found_error",
                                             "param": None, "code": None}}, {}, "NotFoundError", "not found", 1),
    "azure-blocked": ("azure", 400, BLOCKED, {}, "BadRequestError", "no", 1),
    "nvidia": ("nvidia", 429, {"status": 429, "title": "Too Many Requests"}, {}, "RateLimitError", "Too Many Requests",
               3),
    "together-busy": ("together", 503, {"error": {"message": "no", "type": "x", "code": None}}, {}, "OverloadedError",
                      "no", 3),
    "gemini-openai": ("gemini-openai", 400, [{"error": {"code": 400, "message": "Unknown name \"x\"",
                                                        "status": "INVALID_ARGUMENT"}}], {}, "BadRequestError",
                      "Unknown name", 1),
    "gemini-openai-200": ("gemini-openai", 200, [{"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}],
                          {}, "OverloadedError", "busy", 3),
    "cohere": (None, 429, {"id": "x", "message": "trial key"}, {}, "RateLimitError", "trial key", 3),
    "detail": (None, 404, {"detail": "no such thing"}, {}, "NotFoundError", "no such thing", 1),
}


@pytest.mark.parametrize("how", ["chat", "stream"])
@pytest.mark.parametrize("name", ERRORS)
def test_errors(server, name, how):
    """A server's error body under its class and with its words, for a chat and where a stream was asked for."""
    provider, status, answer, headers, kind, words, requests = ERRORS[name]
    server.json(answer, status=status, headers=headers, times=None)
    error, made = outcome(server, client(server, provider, FAST), how)
    assert (type(error).__name__, made) == (kind, requests)
    assert words in error.message and words in str(error)


SOME = chunk({"role": "assistant", "content": "Hi"})
BESIDE = {**chunk({"role": "assistant", "content": ""}, "error"), "provider": "X", "error": {
    "code": 502, "message": "Upstream closed", "metadata": {"error_type": "provider_unavailable"}}}
IN_CHOICE = {**chunk({}), "choices": [{"index": 0, "delta": {}, "finish_reason": None, "error": {
    "code": 502, "message": "Upstream closed"}}]}
TOOL_FAILED = (b'event: error\ndata: {"error":{"message":"bad call","type":"invalid_request_error",'
               b'"code":"tool_use_failed","failed_generation":"x","status_code":400}}\n\n')
LATE = {
    "openrouter": ("openrouter", [BESIDE, DONE], 502, "Upstream closed"),
    "openrouter-null-finish": ("openrouter", [{**BESIDE, "choices": [{"index": 0, "delta": {}, "finish_reason": None}]},
                                              DONE], 502, "Upstream closed"),
    "openrouter-in-choice": ("openrouter", [IN_CHOICE, DONE], 502, "Upstream closed"),
    "openrouter-finish-alone": ("openrouter", [chunk({"content": ""}, "error"), DONE], 500, "error"),
    "deepseek": ("deepseek", [chunk({"content": ""}, "insufficient_system_resource"), DONE], 503,
                 "insufficient_system_resource"),
    "groq": ("groq", [TOOL_FAILED], 400, "bad call"),
    "groq-status": ("groq", [("error", {"error": {"message": "no", "type": "x", "status_code": 422}})], 422, "no"),
    "vllm": ("vllm", [{"error": {"message": "died", "type": "InternalServerError", "param": None, "code": 500}}, DONE],
             500, "died"),
    "llamacpp": ("llamacpp", [{"error": {"code": 500, "message": "died", "type": "server_error"}}], 500, "died"),
    "cerebras": ("cerebras", [{"error": {"message": "died", "type": "x"}, "status_code": 503}], 503, "died"),
    "mistral": ("mistral", [chunk({"content": ""}, "error"), DONE], 500, "error"),
    "xai": ("xai", [{"code": "Some text", "error": "died"}], 500, "died"),
    "lmstudio": ("lmstudio", [{"error": {"message": "died"}}], 500, "died"),
    "huggingface": ("huggingface", [b'event: error\ndata: out of memory\n\n'], 500, "out of memory"),
}


@pytest.mark.parametrize("name", LATE)
def test_late_errors(server, name):
    """An error after the first event, however it is written, is a StreamError with what had come; never tried again."""
    provider, ending, status, words = LATE[name]
    server.sse([SOME, *ending])
    error, made = outcome(server, client(server, provider, FAST), "stream")
    assert (type(error), error.response.text, made) == (llmlite.StreamError, "Hi", 1)
    assert error.last_error.status_code == status
    assert words in str(error)


@pytest.mark.parametrize("name", [name for name in LATE if LATE[name][2] >= 500])
def test_errors_as_the_first_event(server, name):
    """The same as a stream's first event is tried again: nothing had been handed on."""
    provider, ending, *_ = LATE[name]
    server.sse(ending)
    server.sse([SOME, chunk({}, "stop"), DONE])
    assert drained(client(server, provider, FAST).stream("hi")).text == "Hi"
    assert len(server.requests) == 2


@pytest.mark.parametrize("provider, choice, attempts", [
    ("deepseek", {"finish_reason": "insufficient_system_resource"}, 2), ("openrouter", {"finish_reason": "error"}, 2),
    ("openrouter", {"finish_reason": None, "error": {"code": 502, "message": "no"}}, 2),
    ("mistral", {"finish_reason": "error"}, 2),
])  # fmt: skip
def test_a_choice_that_gave_up_is_tried_again(server, provider, choice, attempts):
    """A whole answer whose choice says that the server gave up is no answer."""
    server.json({**body({}), "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, **choice}]})
    server.json(body({"content": "Hi"}))
    assert client(server, provider, FAST).chat("hi").attempts == attempts
    assert len(server.requests) == attempts


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_ollama_breaks_off(server, framing):
    """An empty chunk, no finish reason, no end mark: truncated, not a short success."""
    server.sse([SOME, chunk({"role": "assistant", "content": ""})], framing=framing)
    error, _ = outcome(server, client(server, "ollama"), "stream")
    assert (type(error), error.response.text) == (llmlite.TruncatedStreamError, "Hi")


def test_deepseeks_blank_lines(server):
    """Blank lines that keep a slow answer's connection alive are no part of it."""
    server.body([b"\n", b"\n\n", json.dumps(body({"content": "Hi"})).encode()], framing="chunked", gap=0.01)
    assert client(server, "deepseek").chat("hi").text == "Hi"


def test_openrouters_headers(server):
    """The generation's id is the request's id; the app names itself by headers of its own."""
    server.json(body({"content": "Hi"}), headers={"X-Generation-Id": "gen-9"})
    llm = client(server, "openrouter", headers={"HTTP-Referer": "https://x.example", "X-OpenRouter-Title": "X"})
    assert llm.chat("hi").request_id == "gen-9"
    headers = server.requests[0].headers
    assert (headers["http-referer"], headers["x-openrouter-title"]) == ("https://x.example", "X")


# --------------------------------------------------------------------------------------------------- the provider table

OPENAI, ANTHROPIC, GEMINI = "/chat/completions", "/v1/messages", "/models/m:generateContent"
BEARER = ("authorization", "Bearer k-123456")
TABLE = """
openai https://api.openai.com/v1 OPENAI_API_KEY
anthropic https://api.anthropic.com ANTHROPIC_API_KEY
gemini https://generativelanguage.googleapis.com/v1beta GOOGLE_API_KEY GEMINI_API_KEY
gemini-openai https://generativelanguage.googleapis.com/v1beta/openai GOOGLE_API_KEY GEMINI_API_KEY
vertex https://G/v1beta1/projects/{project}/locations/{region}/publishers/google T
vertex-anthropic https://G/v1/projects/{project}/locations/{region}/publishers/anthropic T
azure https://{resource}.openai.azure.com/openai/v1 AZURE_OPENAI_API_KEY AZURE_OPENAI_AD_TOKEN
azure-anthropic https://{resource}.services.ai.azure.com/anthropic ANTHROPIC_FOUNDRY_API_KEY
bedrock https://bedrock-runtime.{region}.amazonaws.com/openai/v1 AWS_BEARER_TOKEN_BEDROCK
bedrock-anthropic https://bedrock-mantle.{region}.api.aws/anthropic AWS_BEARER_TOKEN_BEDROCK
databricks https://{workspace}/serving-endpoints DATABRICKS_TOKEN DATABRICKS_API_KEY
snowflake https://{account}.snowflakecomputing.com/api/v2/cortex/v1 SNOWFLAKE_TOKEN
cloudflare https://api.cloudflare.com/client/v4/accounts/{account}/ai/v1 CLOUDFLARE_API_KEY CLOUDFLARE_API_TOKEN
watsonx https://{region}.ml.cloud.ibm.com/ml/gateway/v1 WATSONX_APIKEY
openrouter https://openrouter.ai/api/v1 OPENROUTER_API_KEY
xai https://api.x.ai/v1 XAI_API_KEY
deepseek https://api.deepseek.com DEEPSEEK_API_KEY
groq https://api.groq.com/openai/v1 GROQ_API_KEY
mistral https://api.mistral.ai/v1 MISTRAL_API_KEY
together https://api.together.ai/v1 TOGETHER_API_KEY
fireworks https://api.fireworks.ai/inference/v1 FIREWORKS_API_KEY
cerebras https://api.cerebras.ai/v1 CEREBRAS_API_KEY
perplexity https://api.perplexity.ai PERPLEXITY_API_KEY
nvidia https://integrate.api.nvidia.com/v1 NVIDIA_API_KEY
huggingface https://router.huggingface.co/v1 HF_TOKEN
moonshot https://api.moonshot.ai/v1 MOONSHOT_API_KEY
zai https://api.z.ai/api/paas/v4 ZAI_API_KEY
dashscope https://dashscope-intl.aliyuncs.com/compatible-mode/v1 DASHSCOPE_API_KEY
minimax https://api.minimax.io/v1 MINIMAX_API_KEY
sambanova https://api.sambanova.ai/v1 SAMBANOVA_API_KEY
deepinfra https://api.deepinfra.com/v1/openai DEEPINFRA_API_KEY
nebius https://api.studio.nebius.ai/v1 NEBIUS_API_KEY
hyperbolic https://api.hyperbolic.xyz/v1 HYPERBOLIC_API_KEY
novita https://api.novita.ai/v3/openai NOVITA_API_KEY
baseten https://inference.baseten.co/v1 BASETEN_API_KEY
vercel https://ai-gateway.vercel.sh/v1 VERCEL_AI_GATEWAY_API_KEY
meta https://api.meta.ai/v1 META_API_KEY
crusoe https://api.inference.crusoecloud.com/v1 CRUSOE_API_KEY
wandb https://api.inference.wandb.ai/v1 WANDB_API_KEY
scaleway https://api.scaleway.ai/v1 SCW_SECRET_KEY
venice https://api.venice.ai/api/v1 VENICE_AI_API_KEY
poe https://api.poe.com/v1 POE_API_KEY
chutes https://llm.chutes.ai/v1 CHUTES_API_KEY
volcengine https://ark.cn-beijing.volces.com/api/v3 VOLCENGINE_API_KEY
friendli https://api.friendli.ai/serverless/v1 FRIENDLI_TOKEN
ollama http://localhost:11434/v1
ollama-cloud https://ollama.com/v1 OLLAMA_API_KEY
lmstudio http://localhost:1234/v1
vllm http://localhost:8000/v1
llamacpp http://localhost:8080/v1
""".replace("//G/", "//{region}-aiplatform.googleapis.com/").replace(
    " T\n", " GOOGLE_OAUTH_ACCESS_TOKEN CLOUDSDK_AUTH_ACCESS_TOKEN\n")
ROWS = {name: (url, " ".join(keys)) for name, url, *keys in map(str.split, TABLE.strip().splitlines())}
SPEAKS = {"anthropic": (ANTHROPIC, ("x-api-key", "k-123456")), "gemini": (GEMINI, ("x-goog-api-key", "k-123456")),
          "azure": (OPENAI, ("api-key", "k-123456")), "azure-anthropic": (ANTHROPIC, ("x-api-key", "k-123456")),
          "bedrock-anthropic": (ANTHROPIC, BEARER), "vertex": (GEMINI, BEARER),
          "vertex-anthropic": ("/models/m:rawPredict", BEARER)}


def test_the_table():
    """At least forty providers, each with its address and the variable of its key."""
    found = {name: (url, keys) for name, url, keys in llmlite.providers()}
    assert len(found) >= 40
    assert {name: found.get(name) for name in ROWS} == ROWS


@pytest.mark.parametrize("name", ROWS)
def test_each_row_speaks_its_dialect(server, name):
    """Each provider is asked at its dialect's path, with the key in its dialect's header, below its base URL's path."""
    path, (header, value) = SPEAKS.get(name, (OPENAI, BEARER))
    below = re.sub(r"https?://[^/]+|[{}]", "", ROWS[name][0])
    server.reply("ok")
    llm = llmlite.Client("m", provider=name, base_url=server.root + below, api_key="k-123456", retry=None)
    assert llm.chat("hi").text == "ok"
    request = server.requests[0]
    assert (request.path, request.headers[header]) == (below + path, value)
