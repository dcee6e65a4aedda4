"""Anthropic's Messages."""
from tests import llmlite
from tests.dialects import ADD, CALLED, DOUBLED, HI, KEY, PARAMETERS, POINT, RESULTS, Column, Point

ToolCall, Usage = llmlite.ToolCall, llmlite.Usage

# --------------------------------------------------------------------------------------------------------- what is sent

TOOL = {"name": "add", "description": "Adds.", "input_schema": PARAMETERS}
NOW = {"name": "now", "input_schema": {"type": "object", "properties": {}}}
DOUBLE = {"name": "double", "description": "Doubles a number.", "input_schema": DOUBLED}
USES = [{"type": "tool_use", "id": "call_1", "name": "add", "input": {"a": 2}},
        {"type": "tool_use", "id": "call_2", "name": "mul", "input": {"a": 3}}]
TOLD = [HI, {"role": "assistant", "content": USES}]
BLOCKS = [{"type": "tool_result", "tool_use_id": "call_1", "content": '{"sum": 4}'},
          {"type": "tool_result", "tool_use_id": "call_2", "content": "boom", "is_error": True}]
TEXT = {"type": "text", "text": "Let me see."}


def image(**source):
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "look"},
                                                      {"type": "image", "source": source}]}]}


def choice(**choice):
    return {"tools": [TOOL], "tool_choice": choice}


def schema(schema):
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


SENT = {
    "plain": {},
    "system": {"system": "s"},
    "system-messages": {"system": "s\n\na\n\nb"},
    "turns": {"messages": [HI, {"role": "assistant", "content": "yes?"}, HI]},
    "image-data": image(type="base64", media_type="image/png", data="iVBORw0KGgo="),
    "image-url": image(type="url", url="https://x.example/a.png"),
    "tools": {"tools": [TOOL, NOW, DOUBLE]},
    "results": {"messages": [*TOLD, {"role": "user", "content": BLOCKS}]},
    "results-then-text": {"messages": [
        *TOLD, {"role": "user", "content": [*BLOCKS, {"type": "text", "text": "continue"}]}]},
    "text-and-calls": {"messages": [HI, {"role": "assistant", "content": [TEXT, USES[0]]}, {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "call_1", "content": "4 of them"}]}]},
    "choice-auto": choice(type="auto"),
    "choice-none": choice(type="none"),
    "choice-required": choice(type="any"),
    "choice-of-one": choice(type="tool", name="add"),
    "choice-of-one-dict": choice(type="tool", name="add"),
    "schema-dict": {"system": "Answer with one JSON object and nothing else."},
    "schema": schema(POINT),
    "schema-dataclass": schema(POINT),
    "sampling": {"temperature": 0.0, "top_p": 0.5, "top_k": 3, "max_tokens": 7, "stop_sequences": ["a", "b"]},
    "one-stop": {"stop_sequences": ["END"]},
    "effort": {"output_config": {"effort": "low"}},
    "no-logprobs": {},
    "extra": {"x": [1]},
}
PICTURE = image(type="url", url="https://x.example/a.png")["messages"][0]["content"]
SEARCHING = {"type": "web_search_20260209", "name": "web_search"}
OWN = {
    "system-blocks": ({"messages": [{"role": "system", "content": [
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}, HI], "system": "s"},
        {"system": [{"type": "text", "text": "s"},
                    {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}),
    "own-blocks": ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "text"}}]}]},
                   {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "text"}}]}]}),
    "own-tools": ({"tools": [ADD, SEARCHING]}, {"tools": [TOOL, SEARCHING]}),
    "own-choice": ({"tools": [ADD], "tool_choice": {"type": "tool", "name": "add"}}, choice(type="tool", name="add")),
    "results-then-parts": ({"messages": [*RESULTS, llmlite.user("look", images=["https://x.example/a.png"])]},
                           {"messages": [*TOLD, {"role": "user", "content": [*BLOCKS, *PICTURE]}]}),
    "one-call-at-most": ({"tools": [ADD], "tool_choice": "auto",
                          "extra": {"tool_choice": {"disable_parallel_tool_use": True}}},
                         choice(type="auto", disable_parallel_tool_use=True)),
    "schema-dict-and-system": ({"schema": dict, "system": "s"},
                               {"system": "s\n\nAnswer with one JSON object and nothing else."}),
    "schema-and-effort": ({"schema": Point, "reasoning_effort": "high"},
                          {"output_config": {"effort": "high", **schema(POINT)["output_config"]}}),
    "no-effort": ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
    "extra-merged": ({"reasoning_effort": "low", "extra": {
        "thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}, "metadata": {"user_id": "u"}}},
        {"output_config": {"effort": "max"}, "thinking": {"type": "adaptive"}, "metadata": {"user_id": "u"}}),
}

# --------------------------------------------------------------------------------------------------------- what is read

USAGE = {"input_tokens": 10, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 90,
         "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 0}, "output_tokens": 25,
         "output_tokens_details": {"thinking_tokens": 8}, "service_tier": "standard"}
COUNTED = Usage(103, 25, 90, 8, 3)
FIRST = {**USAGE, "output_tokens": 1, "output_tokens_details": {"thinking_tokens": 0}}


def body(*blocks, reason="end_turn", **more):
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "served", "content": list(blocks),
            "stop_reason": reason, "stop_sequence": None, "usage": USAGE, **more}


def event(kind, **fields):
    return kind, {"type": kind, **fields}


def start(**more):
    return event("message_start", message={**body(reason=None), "usage": FIRST, **more})


def block(index, opened, *deltas):
    yield event("content_block_start", index=index, content_block=opened)
    for delta in deltas:
        yield event("content_block_delta", index=index, delta=delta)
    yield event("content_block_stop", index=index)


def text_block(index, *pieces):
    return block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in pieces))


def use(index, id, *pieces, name="add"):
    return block(index, {"type": "tool_use", "id": id, "name": name, "input": {}},
                 *({"type": "input_json_delta", "partial_json": piece} for piece in pieces))


def end(reason="end_turn", usage=USAGE, **more):
    return [event("message_delta", delta={"stop_reason": reason, "stop_sequence": None, **more},
                  usage={name: usage[name] for name in ("output_tokens", "output_tokens_details") if name in usage}),
            event("message_stop")]


def said(text, *blocks, calls=()):
    """The message of the history; `blocks` are what must go back verbatim."""
    message = {"role": "assistant", "content": text}
    message.update({"tool_calls": list(calls)} if calls else {})
    return {**message, "llmlite": {"anthropic": list(blocks)}} if blocks else message


def hi(reason, **usage):
    return body({"type": "text", "text": "Hi"}, reason=reason, **usage), [start(), *text_block(0, "Hi"), *end(reason)]


def calling(reason, count):
    uses = [{"type": "tool_use", "id": f"toolu_{at}", "name": "f", "input": {}} for at in range(count)]
    return body(*uses, reason=reason), [start(), *(event for at, use in enumerate(uses) for event in block(at, use)),
                                        *end(reason)]


PING = event("ping")
THINKING = {"type": "thinking", "thinking": "hm, so", "signature": "c2ln/b64+=="}
REDACTED = {"type": "redacted_thinking", "data": "cmVkYWN0ZWQ="}
CITED = {"type": "char_location", "cited_text": "sky", "document_index": 0, "start_char_index": 0, "end_char_index": 3}
CALLING = {"raw_finish_reason": "tool_use"}
READ = [ToolCall("call_1", "add", {"a": 2}, '{"a": 2}'), ToolCall("call_2", "mul", {"a": 3}, '{"a": 3}')]
CALLS = [{**call, "function": {"name": read.name, "arguments": read.raw_arguments}}
         for call, read in zip(CALLED, READ)]
OMITTED = {"type": "thinking", "thinking": "", "signature": "b21pdHRlZA=="}
SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "sky"}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [
    {"type": "web_search_result", "url": "https://x.example", "encrypted_content": "ZW5j"}]}
SAID = {
    "text": (
        body({"type": "text", "text": "Hi there"}), [start(), PING, *text_block(0, "Hi", " there"), *end()],
        {"message": said("Hi there")}),
    "nothing": (body(), [start(), *end()], {"message": said("")}),
    "reasoning": (
        body(THINKING, REDACTED, {"type": "text", "text": "Hi"}),
        [start(), *block(0, {"type": "thinking", "thinking": "", "signature": ""}, {
            "type": "thinking_delta", "thinking": "hm, "}, {"type": "thinking_delta", "thinking": "so"}, {
            "type": "signature_delta", "signature": "c2ln/b64+=="}), *block(1, REDACTED), *text_block(2, "Hi"), *end()],
        {"message": said("Hi", THINKING, REDACTED, {"type": "text", "text": "Hi"})}),
    "tool": (
        body(USES[0], reason="tool_use"), [start(), *use(0, "call_1", "", '{"a": 2}'), *end("tool_use")],
        {**CALLING, "tool_calls": READ[:1], "message": said(None, calls=CALLS[:1])}),
    "two-tools": (
        body(TEXT, *USES, reason="tool_use"),
        [start(), *text_block(0, "Let me see."), *use(1, "call_1", "", '{"a"', ": 2}"), PING,
         *use(2, "call_2", '{"a": ', "3}", name="mul"), *end("tool_use")],
        {**CALLING, "tool_calls": READ, "message": said("Let me see.", calls=CALLS)}),
    "no-arguments": (
        body({**USES[0], "input": {}}, reason="tool_use"), [start(), *use(0, "call_1", ""), *end("tool_use")],
        {**CALLING, "tool_calls": [ToolCall("call_1", "add", {}, "{}")], "message": said(None, calls=[
            {**CALLS[0], "function": {"name": "add", "arguments": "{}"}}])}),
    "citations": (
        body({"type": "text", "text": "Hi", "citations": [CITED]}),
        [start(), *block(0, {"type": "text", "text": "", "citations": []}, {"type": "text_delta", "text": "Hi"},
                         {"type": "citations_delta", "citation": CITED}), *end()],
        {"citations": [CITED], "message": said("Hi", {"type": "text", "text": "Hi", "citations": [CITED]})}),
    # and what only it says:
    "stop-sequence": (
        body({"type": "text", "text": "Hi"}, reason="stop_sequence", stop_sequence="END"),
        [start(), *text_block(0, "Hi"), *end("stop_sequence", stop_sequence="END")],
        {"text": "Hi", "raw_finish_reason": "stop_sequence", "message": said("Hi")}),
    "omitted-thinking": (
        body(OMITTED, USES[0], reason="tool_use"),
        [start(), *block(0, {"type": "thinking", "thinking": "", "signature": ""},
                         {"type": "signature_delta", "signature": OMITTED["signature"]}),
         *use(1, "call_1", "", '{"a": 2}'), *end("tool_use")],
        {"tool_calls": READ[:1], "finish_reason": "tool_calls", **CALLING,
         "message": said(None, OMITTED, USES[0], calls=CALLS[:1])}),
    "citations-null": (
        body({"type": "text", "text": "Blue", "citations": [CITED]}),
        [start(), *block(0, {"type": "text", "text": "", "citations": None}, {"type": "text_delta", "text": "Blue"},
                         {"type": "citations_delta", "citation": CITED}), *end()],
        {"text": "Blue", "citations": [CITED],
         "message": said("Blue", {"type": "text", "text": "Blue", "citations": [CITED]})}),
    "server-tool": (
        body(SEARCH, FOUND, {"type": "text", "text": "Blue"}),
        [start(), *block(0, {**SEARCH, "input": {}}, {"type": "input_json_delta", "partial_json": '{"query":'},
                         {"type": "input_json_delta", "partial_json": '"sky"}'}), *block(1, FOUND),
         *text_block(2, "Blue"), *end()],
        {"text": "Blue", "message": said("Blue", SEARCH, FOUND, {"type": "text", "text": "Blue"})}),
    "pause": (
        body(SEARCH, reason="pause_turn"),
        [start(), *block(0, {**SEARCH, "input": {}}, {"type": "input_json_delta", "partial_json": '{"query":"sky"}'}),
         *end("pause_turn")],
        {"finish_reason": "other", "raw_finish_reason": "pause_turn", "message": said("", SEARCH)}),
    "refusal": (
        body(reason="refusal", stop_details={"type": "refusal", "category": "cyber", "explanation": None}),
        [start(), *end("refusal", stop_details={"type": "refusal", "category": "cyber", "explanation": None})],
        {"finish_reason": "content_filter", "raw_finish_reason": "refusal", "message": said("")}),
    "unknown": (
        body({"type": "text", "text": "Hi"}, {"type": "novel", "x": [1]}),
        [start(), event("novel_event", index=0, delta={"type": "text_delta", "text": "no"}),
         *block(0, {"type": "text", "text": "H"}, {"type": "novel_delta", "text": "no"},
                {"type": "text_delta", "text": "i"}), *block(1, {"type": "novel", "x": [1]}), *end()],
        {"text": "Hi", "message": said("Hi", {"type": "text", "text": "Hi"}, {"type": "novel", "x": [1]})}),
}
FINISHES = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length",
            "model_context_window_exceeded": "length", "tool_use": "tool_calls", "refusal": "content_filter",
            "pause_turn": "other", "compaction": "other", "novelty": "other"}
BARE = {"input_tokens": 10, "output_tokens": 5}
USAGES = [(BARE, Usage(10, 5)), ({**BARE, "cache_creation_input_tokens": None, "cache_read_input_tokens": None,
                                  "output_tokens_details": None}, Usage(10, 5)),
          (USAGE, COUNTED), ({}, Usage()), (None, Usage())]

# --------------------------------------------------------------------------------------------------------------- errors

LIMITS = "You have reached your specified API usage limits. You will regain access on 2026-12-01."


def error(kind, message="no", **details):
    told = {"type": kind, "message": message, **({"details": details} if details else {})}
    return {"type": "error", "error": told, "request_id": "req_1"}


ERRORS = [
    (400, error("invalid_request_error"), "BadRequestError", 1),
    (400, error("invalid_request_error", LIMITS), "QuotaExceededError", 1),
    (400, error("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"), "ContextLengthError", 1),
    (401, error("authentication_error"), "AuthenticationError", 1),
    (402, error("billing_error"), "PaymentRequiredError", 1),
    (403, error("permission_error"), "PermissionDeniedError", 1),
    (404, error("not_found_error"), "NotFoundError", 1),
    (409, error("conflict_error"), "APIError", 3),
    (413, error("request_too_large"), "BadRequestError", 1),
    (429, error("rate_limit_error"), "RateLimitError", 3),
    (429, error("rate_limit_error", error_code="enforced_spend_limit_reached"), "QuotaExceededError", 1),
    (429, error("rate_limit_error", error_code="contract_spend_limit_reached"), "QuotaExceededError", 1),
    (429, error("rate_limit_error", error_code="ramp_limit_exceeded"), "RateLimitError", 3),
    (500, error("api_error"), "ServerError", 3),
    (504, error("timeout_error"), "ServerError", 3),
    (529, error("overloaded_error"), "OverloadedError", 3),
]
LATE = [(event("error", error={"type": "overloaded_error", "message": "no"}), "OverloadedError", 529)]

ANTHROPIC = Column(
    provider="anthropic", lacks=("seed", "logprobs", "three-logprobs"), path="/v1/messages",
    headers={"x-api-key": KEY, "anthropic-version": "2023-06-01"},
    body={"model": "m", "max_tokens": 4096, "messages": [HI]}, streamed={"stream": True},
    sent=SENT, own=OWN, said=SAID, reply={"raw_finish_reason": "end_turn", "usage": COUNTED, "id": "msg_1"},
    hi=hi, calling=calling, ending=2, finishes=FINISHES, usages=USAGES, errors=ERRORS, late=LATE)
