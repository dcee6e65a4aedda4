"""OpenAI's chat completions."""
from dataclasses import replace

from tests import llmlite
from tests.dialects import ADD, CALLED, DOUBLED, HI, KEY, NOW, POINT, RESULTS, Column

ToolCall, Usage = llmlite.ToolCall, llmlite.Usage

# --------------------------------------------------------------------------------------------------------- what is sent

SYSTEM, DEVELOPER = {"role": "system", "content": "s"}, {"role": "developer", "content": "b"}
DOUBLE = {"type": "function", "function": {"name": "double", "description": "Doubles a number.", "parameters": DOUBLED}}
TOLD = [*RESULTS[:2], {"role": "tool", "tool_call_id": "call_1", "content": '{"sum": 4}'},
        {"role": "tool", "tool_call_id": "call_2", "content": "boom"}]
ONE = {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "add"}}}


def image(url):
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "look"},
                                                      {"type": "image_url", "image_url": {"url": url}}]}]}


def schema(name, schema, **more):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": schema, **more}}}


SENT = {
    "plain": {},
    "system": {"messages": [SYSTEM, HI]},
    "system-messages": {"messages": [SYSTEM, llmlite.system("a"), DEVELOPER, HI]},
    "turns": {"messages": [HI, {"role": "assistant", "content": "yes?"}, HI]},
    "image-data": image("data:image/png;base64,iVBORw0KGgo="),
    "image-url": image("https://x.example/a.png"),
    "tools": {"tools": [ADD, NOW, DOUBLE]},
    "results": {"messages": TOLD},
    "results-then-text": {"messages": [*TOLD, {"role": "user", "content": "continue"}]},
    "text-and-calls": {"messages": [HI, {"role": "assistant", "content": "Let me see.", "tool_calls": CALLED[:1]},
                                    {"role": "tool", "tool_call_id": "call_1", "content": "4 of them"}]},
    **{f"choice-{choice}": {"tools": [ADD], "tool_choice": choice} for choice in ("auto", "none", "required")},
    "choice-of-one": ONE,
    "choice-of-one-dict": ONE,
    "schema-dict": {"response_format": {"type": "json_object"}},
    "schema": schema("answer", POINT, strict=True),
    "schema-dataclass": schema("Point", POINT, strict=True),
    "sampling": {"temperature": 0.0, "top_p": 0.5, "top_k": 3, "max_completion_tokens": 7, "stop": ["a", "b"]},
    "one-stop": {"stop": "END"},
    "seed": {"seed": 0},
    "effort": {"reasoning_effort": "low"},
    "logprobs": {"logprobs": True},
    "three-logprobs": {"logprobs": True, "top_logprobs": 3},
    "no-logprobs": {},
    "extra": {"x": [1]},
}
OPEN = {"title": "A point!", "type": "object", "properties": {"x": {"type": "integer"}}}
CUSTOM_TOOL = {"type": "custom", "custom": {"name": "c"}}
OWN = {
    "own-tools": ({"tools": [ADD, CUSTOM_TOOL]}, {"tools": [ADD, CUSTOM_TOOL]}),
    "schema-open": ({"schema": OPEN}, schema("A_point", OPEN)),
    "extra-merged": ({"schema": POINT, "extra": {"verbosity": "low", "response_format": {"type": "text"}}},
              {"verbosity": "low", "response_format": {
                  "type": "text", "json_schema": {"name": "answer", "schema": POINT, "strict": True}}}),
}

# --------------------------------------------------------------------------------------------------------- what is read

USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
DETAILED = {**USAGE, "completion_tokens": 25, "total_tokens": 34,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 0, "accepted_prediction_tokens": 0,
                                          "rejected_prediction_tokens": 0}}
NULLS = {**USAGE, "prompt_tokens_details": None, "completion_tokens_details": None}
DONE = b"data: [DONE]\n\n"
ROLE = {"role": "assistant", "content": "", "refusal": None}
CITED = [{"type": "url_citation", "url_citation": {"url": "https://x.example", "title": "X"}}]


def body(message, finish="stop", **more):
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "served",
            "service_tier": "default", "system_fingerprint": None,
            "choices": [{"index": 0, "finish_reason": finish, "logprobs": None,
                         "message": {"role": "assistant", "content": None, "refusal": None, **message}}],
            "usage": USAGE, **more}


def chunk(delta=None, finish=None, **more):
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "served",
            "choices": choices, "usage": None, **more}


def end(finish="stop", usage=USAGE):
    return [chunk({}, finish), chunk(usage=usage), DONE]


def call(id, name, arguments):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def fragment(index, arguments, id=None, name=None):
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    return chunk({"tool_calls": [{"index": index, **({"id": id, "type": "function"} if id else {}),
                                  "function": function}]})


def message(text=None, *calls):
    return {"role": "assistant", "content": text, **({"tool_calls": list(calls)} if calls else {})}


def hi(finish, **usage):
    return (body({"content": "Hi"}, finish, **usage),
            [chunk(ROLE), chunk({"content": "Hi"}), *end(finish, **usage)])


def calling(finish, count):
    calls = [{"index": at, **call(f"c{at}", "f", arguments)}
             for at, arguments in enumerate(['{"x": 1}', '{"x": 2}', ""][:count])]
    return body({"tool_calls": calls}, finish), [chunk({"tool_calls": calls}), *end(finish)]


CALL = call("call_1", "f", '{"x":1}')
CALLING = {"raw_finish_reason": "tool_calls"}
SAID = {
    "text": (
        body({"content": "Hi there", "annotations": []}),
        [chunk(ROLE), chunk({"content": "Hi"}), chunk({"content": " there"}), *end()],
        {"message": message("Hi there")}),
    "nothing": (body({"content": ""}), [chunk(ROLE), *end()], {"message": message("")}),
    "reasoning": (
        body({"content": "Hi", "reasoning_content": "hm, so"}),
        [chunk(ROLE), chunk({"reasoning_content": "hm, "}), chunk({"reasoning_content": "so"}),
         chunk({"content": "Hi"}), *end()], {"message": message("Hi")}),
    "tool": (
        body({"annotations": [], "tool_calls": [CALL]}, "tool_calls"),
        [chunk({"role": "assistant", "content": None, "tool_calls": [{"index": 0, **call("call_1", "f", "")}]}),
         fragment(0, '{"x"'), fragment(0, ":1}"), *end("tool_calls")],
        {**CALLING, "tool_calls": [ToolCall("call_1", "f", {"x": 1}, '{"x":1}')], "message": message(None, CALL)}),
    "two-tools": (
        body({"content": "Let me see.", "tool_calls": CALLED}, "tool_calls"),
        [chunk(ROLE), chunk({"content": "Let me see."}), fragment(0, "", "call_1", "add"),
         fragment(1, '{"a"', "call_2", "mul"), fragment(0, '{"a":2}'), fragment(1, ":3}"), *end("tool_calls")],
        {**CALLING, "tool_calls": [ToolCall("call_1", "add", {"a": 2}, '{"a":2}'),
                                   ToolCall("call_2", "mul", {"a": 3}, '{"a":3}')],
         "message": message("Let me see.", *CALLED)}),
    "no-arguments": (
        body({"tool_calls": [call("c", "f", "")]}, "tool_calls"), [fragment(0, "", "c", "f"), *end("tool_calls")],
        {**CALLING, "tool_calls": [ToolCall("c", "f", {}, "")], "message": message(None, call("c", "f", ""))}),
    "citations": (
        body({"content": "Hi", "annotations": CITED}),
        [chunk(ROLE), chunk({"content": "Hi"}), chunk({"annotations": CITED}), *end()],
        {"citations": CITED, "message": message("Hi")}),
    # and what only it says:
    "details": (
        body({"content": "Hi"}, "length", usage=DETAILED),
        [chunk(ROLE, obfuscation="x"), chunk({"content": "Hi"}, obfuscation="yz"), chunk({}, "length"),
         chunk(usage=DETAILED), chunk(moderation={"flagged": False}), DONE],
        {"text": "Hi", "finish_reason": "length", "raw_finish_reason": "length", "usage": Usage(9, 25, 4, 20),
         "message": message("Hi")}),
    "null-details": (
        body({"content": "Hi"}, usage=NULLS), [chunk({"content": "Hi"}), *end(usage=NULLS)],
        {"text": "Hi", "message": message("Hi")}),
    "refusal": (
        body({"refusal": "I cannot."}),
        [chunk(ROLE), chunk({"refusal": "I "}), chunk({"refusal": "cannot."}), *end()],
        {"text": "I cannot.", "finish_reason": "content_filter", "message": message("I cannot.")}),
    "function-call": (
        body({"function_call": {"name": "f", "arguments": '{"x":1}'}}, "function_call"),
        [chunk({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}}),
         chunk({"function_call": {"arguments": '{"x":'}}), chunk({"function_call": {"arguments": "1}"}}),
         *end("function_call")],
        {"tool_calls": [ToolCall("call_0", "f", {"x": 1}, '{"x":1}')], "finish_reason": "tool_calls",
         "raw_finish_reason": "function_call", "message": message(None, call("call_0", "f", '{"x":1}'))}),
}
FINISHES = {"stop": "stop", "length": "length", "content_filter": "content_filter", "tool_calls": "tool_calls",
            "function_call": "tool_calls", "novelty": "other"}
USAGES = [(USAGE, Usage(9, 5)), (NULLS, Usage(9, 5)), (DETAILED, Usage(9, 25, 4, 20)), ({}, Usage()), (None, Usage())]


# --------------------------------------------------------------------------------------------------------------- errors


def error(kind, code=None):
    return {"error": {"message": "no", "type": kind, "param": None, "code": code}}


ERRORS = [
    (400, error("invalid_request_error"), "BadRequestError", 1),
    (400, error("invalid_request_error", "context_length_exceeded"), "ContextLengthError", 1),
    (401, error("invalid_request_error", "invalid_api_key"), "AuthenticationError", 1),
    (403, error("invalid_request_error"), "PermissionDeniedError", 1),
    (404, error("invalid_request_error", "model_not_found"), "NotFoundError", 1),
    (429, error("requests", "rate_limit_exceeded"), "RateLimitError", 3),
    (429, error("insufficient_quota", "insufficient_quota"), "QuotaExceededError", 1),
    (500, error("server_error"), "ServerError", 3),
    (503, error("server_error"), "OverloadedError", 3),
]
LATE = [(b'data: {"error":{"message":"no","type":"server_error","param":null,"code":null}}\n\n', "ServerError", 500),
        (b'event: error\ndata: {"error":{"message":"no","type":"server_error"}}\n\n', "ServerError", 500)]

OPENAI = Column(
    provider="openai", base="/v1", path="/v1/chat/completions", headers={"authorization": "Bearer " + KEY},
    body={"model": "m", "messages": [HI]}, streamed={"stream": True, "stream_options": {"include_usage": True}},
    sent=SENT, own=OWN, said=SAID, reply={"raw_finish_reason": "stop", "usage": Usage(9, 5), "id": "chatcmpl-1"},
    hi=hi, calling=calling, ending=3, finishes=FINISHES, usages=USAGES, errors=ERRORS, late=LATE)
SAMPLING = {"sampling": {**SENT["sampling"], "max_tokens": 7}}
del SAMPLING["sampling"]["max_completion_tokens"]
BARE = {name: sent for name, sent in SENT.items() if name not in ("results", "results-then-text", "text-and-calls")}


def thought(name):
    """A history whose calls come with their reasoning, be it empty."""
    return {"messages": [{**turn, "reasoning_content": ""} if "tool_calls" in turn else turn
                         for turn in SENT[name]["messages"]]}


DEEPSEEK = replace(OPENAI, provider="deepseek", sent={
    **SENT, **SAMPLING, **{name: thought(name) for name in ("results", "results-then-text", "text-and-calls")}})
MISTRAL = replace(OPENAI, provider="mistral", streamed={"stream": True}, sent={
    **BARE, **SAMPLING, "seed": {"random_seed": 0}, "choice-required": {"tools": [ADD], "tool_choice": "any"}})
