"""Google's generateContent: the exact JSON sent, the exact Response read, signatures that go back unchanged."""
import json
from dataclasses import dataclass

import pytest

from tests import llmlite, testing

ToolCall, Usage = llmlite.ToolCall, llmlite.Usage
FAST = llmlite.RetryPolicy(max_retries=2, backoff=0.001, rate_limit_max_retries=2, rate_limit_backoff=0.001)
FIELDS = ("text", "reasoning", "tool_calls", "finish_reason", "raw_finish_reason", "usage", "model", "id", "citations",
          "message")
HI = {"role": "user", "content": "hi"}
SAID = {"role": "user", "parts": [{"text": "hi"}]}
PARAMETERS = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"],
              "additionalProperties": False}
ADD = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": PARAMETERS,
                                        "strict": True}}
TOOLS = [{"functionDeclarations": [{"name": "add", "description": "Adds.", "parametersJsonSchema": PARAMETERS}]}]
CALLS = [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":2}'}},
         {"id": "call_2", "type": "function", "function": {"name": "mul", "arguments": '{"a":3}'}}]
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}


@dataclass
class Point:
    x: int


def client(server, model="m", retry=None, **options):
    options = {"api_key": "k-123456", **options}
    return llmlite.Client(model, provider="gemini", base_url=server.root + "/v1beta", retry=retry, **options)


@pytest.fixture
def llm(server):
    with client(server) as llm:
        yield llm


def seen(reply):
    return {name: getattr(reply, name) for name in FIELDS}


def drained(stream):
    list(stream.events())
    return stream.response


# --------------------------------------------------------------------------------------------------------- what is sent


def config(**fields):
    return {"contents": [SAID], "generationConfig": fields}


def calling(mode):
    return {"contents": [SAID], "tools": TOOLS, "toolConfig": {"functionCallingConfig": mode}}


RESULTS = [{"functionResponse": {"name": "add", "response": {"output": {"sum": 4}}}},
           {"functionResponse": {"name": "mul", "response": {"error": "boom"}}}]
CALLED = [SAID, {"role": "model", "parts": [{"functionCall": {"name": "add", "args": {"a": 2}}},
                                            {"functionCall": {"name": "mul", "args": {"a": 3}}}]}]
SENT = {
    "plain": ({}, {"contents": [SAID]}),
    "system": ({"system": "s"}, {"contents": [SAID], "systemInstruction": {"parts": [{"text": "s"}]}}),
    "system-messages": ({"messages": [llmlite.system("a"), {"role": "developer", "content": "b"}, HI], "system": "s"},
                        {"contents": [SAID],
                         "systemInstruction": {"parts": [{"text": "s"}, {"text": "a"}, {"text": "b"}]}}),
    "turns": ({"messages": [HI, llmlite.assistant("yes?"), HI]},
              {"contents": [SAID, {"role": "model", "parts": [{"text": "yes?"}]}, SAID]}),
    "image-data": ({"messages": [llmlite.user("look", images=[b"\x89PNG\r\n\x1a\n"])]}, {"contents": [
        {"role": "user", "parts": [{"text": "look"},
                                   {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}]}]}),
    "image-url": ({"messages": [llmlite.user("look", images=["https://x.example/a.png?b=c", "https://x.example/"])]},
                  {"contents": [{"role": "user", "parts": [
                      {"text": "look"},
                      {"fileData": {"fileUri": "https://x.example/a.png?b=c", "mimeType": "image/png"}},
                      {"fileData": {"fileUri": "https://x.example/", "mimeType": "image/jpeg"}}]}]}),
    "own-parts": ({"messages": [{"role": "user", "content": [{"fileData": {"fileUri": "gs://x"}}]}]},
                  {"contents": [{"role": "user", "parts": [{"fileData": {"fileUri": "gs://x"}}]}]}),
    "tools": ({"tools": [ADD, {"googleSearch": {}}, {"type": "function", "function": {"name": "now"}}]},
              {"contents": [SAID], "tools": [
                  {"functionDeclarations": [*TOOLS[0]["functionDeclarations"], {"name": "now"}]},
                  {"googleSearch": {}}]}),
    "results": ({"messages": [HI, {"role": "assistant", "content": None, "tool_calls": CALLS},
                              llmlite.tool_result("call_1", {"sum": 4}),
                              llmlite.tool_result("call_2", "boom", is_error=True), HI]},
                {"contents": [*CALLED, {"role": "user", "parts": RESULTS}, SAID]}),
    "text-and-calls": ({"messages": [HI, {"role": "assistant", "content": "Let me see.", "tool_calls": CALLS[:1]},
                                     llmlite.tool_result("call_1", "4 of them")]},
                       {"contents": [SAID, {"role": "model", "parts": [
                           {"text": "Let me see."}, CALLED[1]["parts"][0]]}, {"role": "user", "parts": [
                               {"functionResponse": {"name": "add", "response": {"output": "4 of them"}}}]}]}),
    "choice-auto": ({"tools": [ADD], "tool_choice": "auto"}, calling({"mode": "AUTO"})),
    "choice-none": ({"tools": [ADD], "tool_choice": "none"}, calling({"mode": "NONE"})),
    "choice-required": ({"tools": [ADD], "tool_choice": "required"}, calling({"mode": "ANY"})),
    **{f"choice-of-one-{at}": ({"tools": [ADD], "tool_choice": choice},
                               calling({"mode": "ANY", "allowedFunctionNames": ["add"]}))
       for at, choice in enumerate(("add", {"type": "function", "function": {"name": "add"}},
                                    {"mode": "ANY", "allowedFunctionNames": ["add"]}))},
    "schema-dict": ({"schema": dict}, config(responseMimeType="application/json")),
    "schema": ({"schema": POINT}, config(responseMimeType="application/json", responseJsonSchema=POINT)),
    "schema-dataclass": ({"schema": Point}, config(responseMimeType="application/json", responseJsonSchema=POINT)),
    "sampling": ({"temperature": 0.0, "top_p": 0.5, "top_k": 3, "max_tokens": 7, "stop": ["a", "b"], "seed": 0},
                 config(temperature=0.0, topP=0.5, topK=3, maxOutputTokens=7, stopSequences=["a", "b"], seed=0)),
    "one-stop": ({"stop": "END"}, config(stopSequences=["END"])),
    "effort": ({"reasoning_effort": "low", "model": "gemini-3-pro"}, config(thinkingConfig={"thinkingLevel": "LOW"})),
    "extra": ({"temperature": 1, "extra": {"safetySettings": [{"category": "c"}],
                                           "generationConfig": {"presencePenalty": 1}}},
              {**config(temperature=1, presencePenalty=1), "safetySettings": [{"category": "c"}]}),
}


@pytest.mark.parametrize("name", SENT)
def test_request(server, llm, name):
    """The whole body of a chat and of a stream, its path and its headers."""
    args, body = SENT[name]
    server.reply('{"x": 1}', times=2)
    llm.chat(**{"messages": "hi", **args})
    list(llm.stream(**{"messages": "hi", **args}))
    chat, stream = server.requests
    model = f"/v1beta/models/{args.get('model', 'm')}"
    assert chat.json == stream.json == body
    assert chat.path == model + ":generateContent"
    assert stream.path == model + ":streamGenerateContent?alt=sse"
    for request in server.requests:
        assert request.method == "POST"
        assert request.headers["x-goog-api-key"] == "k-123456"
        assert request.headers["content-type"] == "application/json"
        assert "authorization" not in request.headers


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "models/gemini-2.5-pro"])
@pytest.mark.parametrize("effort", ["low", "high", "xhigh", "max"])
def test_effort_before_gemini_3_is_a_budget(server, model, effort):
    """The 2.5 models refuse a thinking level and take a budget of tokens."""
    server.reply("ok")
    client(server, model).chat("hi", reasoning_effort=effort)
    thinking = server.requests[0].json["generationConfig"]["thinkingConfig"]
    assert set(thinking) == {"thinkingBudget"}
    assert thinking["thinkingBudget"] > 0


@pytest.mark.parametrize("effort, level", [
    ("minimal", "MINIMAL"), ("medium", "MEDIUM"), ("xhigh", "XHIGH"), ("max", "XHIGH")])
def test_effort_since_gemini_3_is_a_level(server, effort, level):
    """Each effort under Google's own word; there is no level above XHIGH."""
    server.reply("ok")
    client(server, "gemini-3-pro").chat("hi", reasoning_effort=effort)
    assert server.requests[0].json["generationConfig"] == {"thinkingConfig": {"thinkingLevel": level}}


@pytest.mark.parametrize("model, path", [
    ("gemini-3-pro", "models/gemini-3-pro"), ("models/m", "models/m"), ("tunedModels/m", "tunedModels/m"),
    ("../x", "models/..%2Fx"), ("a?b#c", "models/a%3Fb%23c"), ("a/b", "models/a%2Fb"), ("a%2fb", "models/a%252fb"),
    ("models/../x", "models/models%2F..%2Fx"), ("gr\u00f6\u00dfe", "models/gr%C3%B6%C3%9Fe"), ("a b", "models/a%20b"),
])  # fmt: skip
def test_the_model_is_quoted_in_the_path(server, model, path):
    """A model's name cannot leave its place in the path, and "models/" is not doubled."""
    server.reply("ok", times=2)
    llm = client(server, model)
    llm.chat("hi")
    list(llm.stream("hi"))
    assert [request.path for request in server.requests] == [
        f"/v1beta/{path}:generateContent", f"/v1beta/{path}:streamGenerateContent?alt=sse"]


@pytest.mark.parametrize("variables, key", [
    ({"GEMINI_API_KEY": "gemini"}, "gemini"), ({"GOOGLE_API_KEY": "google"}, "google"),
    ({"GEMINI_API_KEY": "gemini", "GOOGLE_API_KEY": "google"}, "google"),
])  # fmt: skip
def test_keys_of_the_environment(server, monkeypatch, variables, key):
    """Either variable holds the key; GOOGLE_API_KEY wins."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    server.reply("ok")
    client(server, api_key=None).chat("hi")
    assert server.requests[0].headers["x-goog-api-key"] == key


def test_no_key(server):
    """Without a key the error names both variables."""
    with pytest.raises(llmlite.ConfigurationError, match="GOOGLE_API_KEY or GEMINI_API_KEY"):
        client(server, api_key=None)


@pytest.mark.parametrize("key", ["anything", ""])
def test_a_proxy_with_credentials_of_its_own(server, key):
    """A proxy takes any key, or none."""
    server.reply("ok")
    llmlite.Client("m", provider="gemini", base_url=server.root + "/proxy/", api_key=key).chat("hi")
    assert server.requests[0].path == "/proxy/models/m:generateContent"
    assert server.requests[0].headers.get("x-goog-api-key", "") == key


# --------------------------------------------------------------------------------------------------------- what is read

USAGE = {"promptTokenCount": 29, "candidatesTokenCount": 12, "thoughtsTokenCount": 69, "totalTokenCount": 110,
         "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 29}]}
COUNTED = Usage(29, 81, 0, 69)


def body(*parts, reason="STOP", **more):
    """A reply; in a stream each event has this form."""
    candidate = {"index": 0, "content": {"role": "model", "parts": list(parts)}}
    return {"candidates": [{**candidate, "finishReason": reason} if reason else candidate], "usageMetadata": USAGE,
            "modelVersion": "served", "responseId": "r", **more}


EARLY = {"promptTokenCount": 29, "totalTokenCount": 34, "thoughtsTokenCount": 5}


def piece(*parts, **more):
    return body(*parts, reason=None, usageMetadata=EARLY, **more)


def crlf(*events):
    """A stream as Google writes it."""
    return [b"data: %b\r\n\r\n" % json.dumps(event).encode() for event in events]


def reply(**fields):
    return {"text": "", "reasoning": "", "tool_calls": [], "finish_reason": "stop", "raw_finish_reason": "STOP",
            "usage": COUNTED, "model": "served", "id": "r", "citations": [], **fields}


def said(text, *parts, calls=()):
    """The message of the history; `parts` are what must go back verbatim."""
    message = {"role": "assistant", "content": text}
    told = [{"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.raw_arguments}}
            for call in calls]
    message.update({"tool_calls": told} if told else {})
    return {**message, "llmlite": {"gemini": list(parts)}} if parts else message


SIGNED = {"functionCall": {"id": "ab12", "name": "add", "args": {"a": 2}}, "thoughtSignature": "c2ln/b64+=="}
UNSIGNED = {"functionCall": {"id": "cd34", "name": "mul", "args": {}}}
NAMELESS = [{"functionCall": {"name": "add", "args": {"a": 2}}, "thoughtSignature": "c2ln"},
            {"functionCall": {"name": "now"}}]
THOUGHT = {"text": "hm, so", "thought": True}
LAST = {"text": "", "thoughtSignature": "bGFzdA=="}
READ = [ToolCall("ab12", "add", {"a": 2}, '{"a": 2}'), ToolCall("cd34", "mul", {}, "{}")]
SOURCES = [{"startIndex": 0, "endIndex": 2, "uri": "https://x.example"}]
CASES = {
    "text": (body({"text": "Hi there"}), [piece({"text": "Hi"}), piece({"text": " there"}), body({"text": ""})],
             reply(text="Hi there", message=said("Hi there"))),
    "last-without-content": (
        body({"text": "Hi"}),
        [piece({"text": "Hi"}), {**body(), "candidates": [{"finishReason": "STOP", "index": 0}]}],
        reply(text="Hi", message=said("Hi"))),
    "no-index": (
        {**body(), "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]},
        [{**piece(), "candidates": [{"content": {"parts": [{"text": "H"}]}}]},
         {**body(), "candidates": [{"content": {"parts": [{"text": "i"}]}, "finishReason": "STOP"}]}],
        reply(text="Hi", message=said("Hi"))),
    "thoughts": (
        body(THOUGHT, {"text": "Hi"}, LAST),
        [piece({"text": "hm, ", "thought": True}), piece({"text": "so", "thought": True}), piece({"text": "Hi"}),
         body(LAST)],
        reply(text="Hi", reasoning="hm, so", message=said("Hi", THOUGHT, {"text": "Hi"}, LAST))),
    "signed-text": (
        body({"text": "H", "thoughtSignature": "YQ=="}, {"text": "i", "thoughtSignature": "Yg=="}, {"text": "!"}),
        [piece({"text": "H", "thoughtSignature": "YQ=="}), piece({"text": "i", "thoughtSignature": "Yg=="}),
         body({"text": "!"})],
        reply(text="Hi!", message=said("Hi!", {"text": "H", "thoughtSignature": "YQ=="},
                                       {"text": "i", "thoughtSignature": "Yg=="}, {"text": "!"}))),
    "two-tools": (
        body(SIGNED, UNSIGNED), [piece(SIGNED), piece(UNSIGNED),
                                 {**body(), "candidates": [{"finishReason": "STOP", "index": 0}]}],
        reply(tool_calls=READ, finish_reason="tool_calls", message=said(None, SIGNED, UNSIGNED, calls=READ))),
    "tools-without-ids": (
        body(*NAMELESS), [piece(*NAMELESS), {**body(), "candidates": [{"finishReason": "STOP", "index": 0}]}],
        reply(tool_calls=[ToolCall("r_0", "add", {"a": 2}, '{"a": 2}'), ToolCall("r_1", "now", {}, "{}")],
              finish_reason="tool_calls", message=said(None, *NAMELESS, calls=[
                  ToolCall("r_0", "add", {"a": 2}, '{"a": 2}'), ToolCall("r_1", "now", {}, "{}")]))),
    "cap-without-parts": (
        {**body(reason="MAX_TOKENS"), "candidates": [{"finishReason": "MAX_TOKENS", "index": 0}]},
        [{**body(), "candidates": [{"finishReason": "MAX_TOKENS", "index": 0}]}],
        reply(finish_reason="length", raw_finish_reason="MAX_TOKENS", message=said(""))),
    "cap-without-text": (
        {**body(), "candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}]},
        [{**body(), "candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}]}],
        reply(finish_reason="length", raw_finish_reason="MAX_TOKENS", message=said(""))),
    "blocked-prompt": (
        {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4},
         "modelVersion": "served", "responseId": "r"},
        [{"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4},
          "modelVersion": "served", "responseId": "r"}],
        reply(finish_reason="content_filter", raw_finish_reason="SAFETY", usage=Usage(4), message=said(""))),
    "citations": (
        {**body(), "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP", "index": 0,
                                   "citationMetadata": {"citationSources": SOURCES}}]},
        [piece({"text": "Hi"}), {**body(), "candidates": [{"finishReason": "STOP", "index": 0,
                                                           "citationMetadata": {"citationSources": SOURCES}}]}],
        reply(text="Hi", citations=SOURCES, message=said("Hi"))),
    "code": (
        body({"executableCode": {"code": "1"}}, {"codeExecutionResult": {"output": "1"}}, {"text": "Hi"}),
        [piece({"executableCode": {"code": "1"}}), piece({"codeExecutionResult": {"output": "1"}}),
         body({"text": "Hi"})],
        reply(text="Hi", message=said("Hi", {"executableCode": {"code": "1"}}, {"codeExecutionResult": {"output": "1"}},
                                      {"text": "Hi"}))),
}


@pytest.mark.parametrize("name", CASES)
def test_reply(server, llm, name):
    """A body and the stream of it give the same Response, field for field; the pieces make up its text."""
    whole, events, want = CASES[name]
    server.json(whole)
    server.sse(crlf(*events))
    assert seen(llm.chat("hi")) == want
    stream = llm.stream("hi")
    pieces = list(stream.events())
    assert seen(stream.response) == want
    for kind, text in (("text", want["text"]), ("reasoning", want["reasoning"])):
        assert "".join(piece.text for piece in pieces if piece.type == kind) == text
    assert [piece.tool_call for piece in pieces if piece.type == "tool_call"] == want["tool_calls"]
    assert [piece.usage for piece in pieces if piece.type == "usage"] == [want["usage"]]


FILTERED = ("SAFETY RECITATION BLOCKLIST PROHIBITED_CONTENT SPII IMAGE_SAFETY IMAGE_PROHIBITED_CONTENT IMAGE_OTHER "
            "IMAGE_RECITATION MODEL_ARMOR")
OTHER = ("FINISH_REASON_UNSPECIFIED LANGUAGE OTHER MALFORMED_FUNCTION_CALL UNEXPECTED_TOOL_CALL TOO_MANY_TOOL_CALLS "
         "MISSING_THOUGHT_SIGNATURE MALFORMED_RESPONSE ESCALATION CONTINUATION NOVELTY")


@pytest.mark.parametrize("raw, finish", [
    ("STOP", "stop"), ("MAX_TOKENS", "length"), *((raw, "content_filter") for raw in FILTERED.split()),
    *((raw, "other") for raw in OTHER.split())])
def test_finish_reasons(server, llm, raw, finish):
    """Each finish reason under its canonical name."""
    server.json(body({"text": "Hi"}, reason=raw))
    server.sse(crlf(piece({"text": "Hi"}), {**body(), "candidates": [{"finishReason": raw, "index": 0}]}))
    for answer in (llm.chat("hi"), drained(llm.stream("hi"))):
        assert (answer.finish_reason, answer.raw_finish_reason, answer.text) == (finish, raw, "Hi")


@pytest.mark.parametrize("raw", ["SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "JAILBREAK", "NOVELTY"])
def test_every_blocked_prompt_is_filtered(server, llm, raw):
    """A prompt blocked for whatever reason is a filtered reply, billed for its input."""
    server.json({"promptFeedback": {"blockReason": raw}, "usageMetadata": {"promptTokenCount": 4}})
    answer = llm.chat("hi")
    assert (answer.finish_reason, answer.raw_finish_reason, answer.text) == ("content_filter", raw, "")
    assert (llm.ledger.calls, llm.ledger.empty, llm.ledger.usage) == (1, 1, Usage(4))


@pytest.mark.parametrize("usage", [
    USAGE, {"promptTokenCount": 4, "candidatesTokenCount": 3, "totalTokenCount": 7},
    {"promptTokenCount": 29, "toolUsePromptTokenCount": 100, "candidatesTokenCount": 12, "thoughtsTokenCount": 69,
     "cachedContentTokenCount": 8, "totalTokenCount": 210},
    {"promptTokenCount": 4, "thoughtsTokenCount": 6, "totalTokenCount": 10}, {"totalTokenCount": 0},
])  # fmt: skip
def test_usage_adds_up_to_googles_total(server, llm, usage):
    """Thoughts count as output, what tools put into the prompt as input: the total is the provider's own."""
    server.json(body({"text": "Hi"}, usageMetadata=usage))
    found = llm.chat("hi").usage
    assert found.total_tokens == usage["totalTokenCount"]
    assert found.cached_tokens == usage.get("cachedContentTokenCount", 0)
    assert found.reasoning_tokens == usage.get("thoughtsTokenCount", 0)


def test_the_last_usage_counts(server, llm):
    """Usage is on every event and cumulative."""
    server.sse(crlf(piece({"text": "H"}), piece({"text": "i"}), body({"text": ""})))
    assert drained(llm.stream("hi")).usage == COUNTED


# ------------------------------------------------------------------------------------------------------- what goes back


@pytest.mark.parametrize("how", ["chat", "stream"])
@pytest.mark.parametrize("parts", [[SIGNED, UNSIGNED], NAMELESS, [THOUGHT, {"text": "Let me see."}, SIGNED, LAST]],
                         ids=["ids", "no-ids", "thoughts"])
def test_parts_go_back_unchanged(server, llm, how, parts):
    """Signed parts return in their places through a saved history; an id goes back only if one came."""
    server.json(body(*parts)) if how == "chat" else server.sse(crlf(*(piece(part) for part in parts), {
        **body(), "candidates": [{"finishReason": "STOP", "index": 0}]}))
    first = llm.chat("hi") if how == "chat" else drained(llm.stream("hi"))
    history = [HI, first.message, *(llmlite.tool_result(call, {"ok": call.name}) for call in first.tool_calls)]
    server.reply("ok")
    llm.chat(json.loads(json.dumps(history)))
    sent = server.requests[1].json["contents"]
    assert sent[1] == {"role": "model", "parts": parts}
    assert json.dumps(sent[1]["parts"]) == json.dumps(parts)
    told = [part["functionCall"] for part in parts if "functionCall" in part]
    assert sent[2] == {"role": "user", "parts": [{"functionResponse": {
        **({"id": call["id"]} if "id" in call else {}), "name": call["name"],
        "response": {"output": {"ok": call["name"]}}}} for call in told]}
    assert len(sent) == 3


def test_sequential_signatures(server, llm):
    """Each step of a turn has a signature of its own; all go back."""
    history, parts = [HI], []
    for step in ("one", "two"):
        parts.append({"functionCall": {"name": step, "args": {}}, "thoughtSignature": f"sig-{step}"})
        server.json(body(parts[-1], responseId=step))
        answer = llm.chat(history)
        history += [answer.message, llmlite.tool_result(answer.tool_calls[0], step)]
    server.reply("done")
    assert llm.chat(json.loads(json.dumps(history))).text == "done"
    contents = server.requests[2].json["contents"]
    assert [content["parts"] for content in contents[1::2]] == [[part] for part in parts]
    assert [content["parts"][0]["functionResponse"]["name"] for content in contents[2::2]] == ["one", "two"]


def test_results_go_back_in_the_order_of_the_calls(server, llm):
    """Without ids results are matched by their order: that of the calls, whichever tool ended first."""
    twice = [{"functionCall": {"name": "add", "args": {"a": a}}} for a in (1, 2)]
    server.json(body(*twice))
    server.reply("ok")
    first = llm.chat("hi")
    one, two = (llmlite.tool_result(call, {"was": call.arguments["a"]}) for call in first.tool_calls)
    llm.chat([HI, first.message, two, one])
    assert server.requests[1].json["contents"][2]["parts"] == [
        {"functionResponse": {"name": "add", "response": {"output": {"was": was}}}} for was in (1, 2)]


@pytest.mark.parametrize("content, output", [
    ("4", 4), ("[1]", [1]), ("null", None), ("four", "four"), ("", ""), ("NaN", "NaN"), ("-Infinity", "-Infinity"),
    ("1e999", "1e999"), ("[" * 5000, "[" * 5000),
], ids=["number", "list", "null", "text", "empty", "nan", "infinity", "overflow", "deep"])
def test_any_result_can_be_sent(server, llm, content, output):
    """A tool's text goes back as JSON where it is JSON, else as text; it cannot break the request."""
    server.reply("ok")
    llm.chat([HI, {"role": "assistant", "content": None, "tool_calls": CALLS[:1]},
              llmlite.tool_result("call_1", content)])
    assert server.requests[0].json["contents"][2]["parts"][0]["functionResponse"]["response"] == {"output": output}


# --------------------------------------------------------------------------------------------------------------- errors


def error(code, status, message="no", *details):
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def retry_info(delay):
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def quota(id):
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [
        {"quotaMetric": "m", "quotaId": id, "quotaDimensions": {}, "quotaValue": "50"}]}


BAD_KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
PER_DAY, PER_MINUTE = "GenerateRequestsPerDayPerProject", "GenerateRequestsPerMinutePerProject"
ERRORS = [
    (400, error(400, "INVALID_ARGUMENT"), "BadRequestError", 1),
    (400, error(400, "FAILED_PRECONDITION"), "BadRequestError", 1),
    (400, error(400, "INVALID_ARGUMENT", "API key not valid.", BAD_KEY), "AuthenticationError", 1),
    (403, error(403, "PERMISSION_DENIED"), "PermissionDeniedError", 1),
    (402, error(402, "RESOURCE_EXHAUSTED"), "QuotaExceededError", 1),
    (404, error(404, "NOT_FOUND"), "NotFoundError", 1),
    (429, error(429, "RESOURCE_EXHAUSTED"), "RateLimitError", 3),
    (429, error(429, "RESOURCE_EXHAUSTED", "no", quota(PER_MINUTE), retry_info("0.01s")), "RateLimitError", 3),
    (429, error(429, "RESOURCE_EXHAUSTED", "no", quota(PER_DAY), retry_info("0.01s")), "QuotaExceededError", 1),
    (500, error(500, "INTERNAL"), "ServerError", 3),
    (503, error(503, "UNAVAILABLE", "The model is overloaded."), "OverloadedError", 3),
    (504, error(504, "DEADLINE_EXCEEDED"), "ServerError", 3),
]


@pytest.mark.parametrize("how", ["object", "array", "inside", "raw-stream", "raw-array"])
@pytest.mark.parametrize("status, answer, kind, attempts", ERRORS)
def test_errors(server, status, answer, kind, attempts, how):
    """Each error under its class: as an object, in an array, by its status, inside a 200, as a stream's raw JSON."""
    written = json.dumps([answer] if how.endswith("array") else answer, indent=2).replace("\n", "\r\n").encode()
    inside = how in ("inside", "raw-stream")
    server.body(written, status=200 if inside else status, times=None, headers={"Content-Type": "application/json"})
    llm = client(server, retry=FAST)
    with pytest.raises(llmlite.APIError) as caught:
        llm.stream("hi") if how.startswith("raw") else llm.chat("hi")
    assert type(caught.value).__name__ == kind
    assert (caught.value.status_code, caught.value.type) == (status, answer["error"]["status"])
    assert caught.value.message == answer["error"]["message"]
    assert (caught.value.attempts, len(server.requests)) == (attempts, attempts)


LATE = error(503, "UNAVAILABLE", "The model is overloaded.")


@pytest.mark.parametrize("late", [
    *crlf(LATE), json.dumps(LATE, indent=2).replace("\n", "\r\n").encode(),
    json.dumps([LATE], indent=1).encode() + b"\n\n", json.dumps([LATE]).encode(),
], ids=["data", "raw", "raw-array", "raw-line"])
@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_late_error_in_the_stream(server, late, framing):
    """After the first event: a StreamError that keeps what had come, whether the error is an event or raw JSON."""
    server.sse([*crlf(piece({"text": "Hi"})), late], framing=framing)
    with pytest.raises(llmlite.StreamError, match="overloaded") as caught:
        list(client(server, retry=FAST).stream("hi"))
    assert caught.value.response.text == "Hi"
    assert (type(caught.value.last_error), caught.value.last_error.status_code) == (llmlite.OverloadedError, 503)
    assert len(server.requests) == 1


@pytest.mark.parametrize("details, message, seconds", [
    ([retry_info("0.08s")], "no", 0.08), ([retry_info("0.080000001s")], "no", 0.08),
    ([], "Please retry in 0.08s.", 0.08), ([], "Please retry in 80ms.", 0.08),
])  # fmt: skip
def test_retry_info_is_waited_for(server, details, message, seconds):
    """The wait Google asks for stands in the body, and is kept."""
    server.json(error(429, "RESOURCE_EXHAUSTED", message, *details), status=429)
    server.json(body({"text": "Hi"}))
    assert client(server, retry=FAST).chat("hi").text == "Hi"
    first, second = server.requests
    assert second.time - first.time >= seconds


@pytest.mark.parametrize("delay, seconds", [("37s", 37.0), ("45.837906927s", 45.837906927), ("10h17m5.7s", 37025.7)])
def test_retry_info_on_the_error(server, llm, delay, seconds):
    """The error tells the wait."""
    server.json(error(429, "RESOURCE_EXHAUSTED", "no", retry_info(delay)), status=429)
    with pytest.raises(llmlite.RateLimitError) as caught:
        llm.chat("hi")
    assert caught.value.retry_after == pytest.approx(seconds)


def test_a_stream_without_its_last_blank_line(server, llm):
    """The last event counts also when the stream ends right behind it."""
    server.body(b"".join(crlf(piece({"text": "H"}), body({"text": "i"})))[:-4], framing="close")
    assert drained(llm.stream("hi")).text == "Hi"


def test_every_tear_of_the_stream(server, llm):
    """A CRLF stream torn anywhere reads the same."""
    events = crlf(piece(THOUGHT), piece({"text": "gr\u00fc\u00df"}), body(LAST))
    server.handle(lambda request: testing.sse(events, split=1))
    assert drained(llm.stream("hi")).message == said("gr\u00fc\u00df", THOUGHT, {"text": "gr\u00fc\u00df"}, LAST)


def test_two_results_of_one_id(server, llm):
    """Of several calls with one id each has its own result; more results than calls are all sent."""
    calls = [{"id": "c", "type": "function", "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]
    server.reply("ok")
    llm.chat([HI, {"role": "assistant", "content": None, "tool_calls": calls}, llmlite.tool_result("d", 0),
              *(llmlite.tool_result("c", number) for number in (1, 2, 3))])
    assert [part["functionResponse"] for part in server.requests[0].json["contents"][2]["parts"]] == [
        {"name": "a", "response": {"output": 1}}, {"name": "a", "response": {"output": 3}},
        {"name": "b", "response": {"output": 2}}, {"response": {"output": 0}}]


def test_a_stream_keeps_its_log_probabilities(server, llm):
    """Each event has those of its own tokens; `raw` and `logprobs` have them all, as of a whole reply."""
    def weighed(word, reason):
        rows = {"topCandidates": [{"candidates": [{"token": word}]}],
                "chosenCandidates": [{"token": word, "logProbability": -0.5}]}
        whole = body({"text": word}, reason=reason)
        whole["candidates"][0].update(logprobsResult=rows, avgLogprobs=-0.5)
        return whole

    server.sse([weighed("He", None), weighed("llo", "STOP")])
    answer = drained(llm.stream("hi"))
    assert [row["token"] for row in answer.logprobs] == ["He", "llo"]
    found = answer.raw["candidates"][0]["logprobsResult"]
    assert found["chosenCandidates"] == answer.logprobs and len(found["topCandidates"]) == 2


@pytest.mark.parametrize("raw", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS",
                                 "MALFORMED_RESPONSE", "MISSING_THOUGHT_SIGNATURE"])
def test_calls_that_google_refuses_are_not_run(server, llm, raw):
    """A finish reason that says the calls are no good makes each of them invalid: run_tools sends that back instead."""
    def wipe(path: str = "/"):
        ran.append(path)
    ran, call = [], {"functionCall": {"name": "wipe", "args": {}}}
    server.json(body(call, call, reason=raw))
    server.sse(crlf(piece(call), {**body(), "candidates": [{"finishReason": raw, "index": 0}]}))
    for answer, count in ((llm.chat("hi"), 2), (drained(llm.stream("hi")), 1)):
        assert [call.invalid for call in answer.tool_calls] == [f"refused by the provider: {raw!r}"] * count
    server.json(body(call, reason=raw))
    server.json(body({"text": "ok"}))
    assert llm.run_tools("hi", [wipe]).text == "ok" and ran == []
    told = server.requests[-1].json["contents"][-1]["parts"][0]["functionResponse"]["response"]
    assert raw in told["error"]


def test_a_call_cut_by_the_limit(server, llm):
    """MAX_TOKENS is the finish reason, with calls too, and the last of them is not to be run."""
    calls = [{"functionCall": {"name": name, "args": {}}} for name in ("a", "b")]
    server.json(body(*calls, reason="MAX_TOKENS"))
    answer = llm.chat("hi")
    assert (answer.finish_reason, answer.truncated) == ("length", True)
    assert [call.invalid for call in answer.tool_calls] == [None, "cut at the token limit"]
