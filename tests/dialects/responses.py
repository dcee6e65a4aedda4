"""OpenAI's Responses."""
from tests import llmlite
from tests.dialects import ADD, DOUBLED, HI, KEY, PARAMETERS, POINT, Column
from tests.dialects.openai import ERRORS

ToolCall, Usage = llmlite.ToolCall, llmlite.Usage

# --------------------------------------------------------------------------------------------------------- what is sent

TOOL = {"type": "function", "name": "add", "description": "Adds.", "parameters": PARAMETERS, "strict": True}
NOW = {"type": "function", "name": "now", "strict": False}
DOUBLE = {"type": "function", "name": "double", "description": "Doubles a number.", "parameters": DOUBLED,
          "strict": False}
CALLS = [{"type": "function_call", "call_id": "call_1", "name": "add", "arguments": '{"a":2}'},
         {"type": "function_call", "call_id": "call_2", "name": "mul", "arguments": '{"a":3}'}]
TOLD = [HI, *CALLS, {"type": "function_call_output", "call_id": "call_1", "output": '{"sum": 4}'},
        {"type": "function_call_output", "call_id": "call_2", "output": "boom"}]
ONE = {"tools": [TOOL], "tool_choice": {"type": "function", "name": "add"}}


def said(content):
    return {"type": "message", "role": "assistant", "content": content}


def image(url):
    return {"input": [{"role": "user", "content": [{"type": "input_text", "text": "look"},
                                                   {"type": "input_image", "image_url": url}]}]}


def schema(name, schema, **more):
    return {"text": {"format": {"type": "json_schema", "name": name, "schema": schema, **more}}}


SENT = {
    "plain": {},
    "system": {"instructions": "s"},
    "system-messages": {"instructions": "s", "input": [
        {"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, HI]},
    "turns": {"input": [HI, said("yes?"), HI]},
    "image-data": image("data:image/png;base64,iVBORw0KGgo="),
    "image-url": image("https://x.example/a.png"),
    "tools": {"tools": [TOOL, NOW, DOUBLE]},
    "results": {"input": TOLD},
    "results-then-text": {"input": [*TOLD, {"role": "user", "content": "continue"}]},
    "text-and-calls": {"input": [HI, said("Let me see."), CALLS[0],
                                 {"type": "function_call_output", "call_id": "call_1", "output": "4 of them"}]},
    **{f"choice-{choice}": {"tools": [TOOL], "tool_choice": choice} for choice in ("auto", "none", "required")},
    "choice-of-one": ONE,
    "choice-of-one-dict": ONE,
    "schema-dict": {"text": {"format": {"type": "json_object"}}},
    "schema": schema("answer", POINT, strict=True),
    "schema-dataclass": schema("Point", POINT, strict=True),
    "effort": {"reasoning": {"effort": "low"}},
    "logprobs": {"include": ["message.output_text.logprobs"]},
    "three-logprobs": {"include": ["message.output_text.logprobs"], "top_logprobs": 3},
    "no-logprobs": {},
    "extra": {"x": [1]},
}
GRAMMAR = {"syntax": "lark", "definition": "start: X"}
DETAILED_IMAGE = {"type": "image_url", "image_url": {"url": "https://x.example/a.png", "detail": "low"}}
PDF = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}}
CUSTOM = {"id": "c1", "type": "custom", "custom": {"name": "c", "input": "x = 1"}}
OWN = {
    "limits": ({"temperature": 0.0, "top_p": 0.5, "max_tokens": 70},
               {"temperature": 0.0, "top_p": 0.5, "max_output_tokens": 70}),
    "system-parts": ({"system": [{"type": "text", "text": "s"}]},
                     {"input": [{"role": "system", "content": [{"type": "input_text", "text": "s"}]}, HI]}),
    "own-tools": ({"tools": [ADD, {"type": "web_search"}, {"type": "custom", "custom": {
        "name": "c", "format": {"type": "grammar", "grammar": GRAMMAR}}}]},
        {"tools": [TOOL, {"type": "web_search"}, {"type": "custom", "name": "c",
                                                  "format": {"type": "grammar", **GRAMMAR}}]}),
    "own-choice": ({"tools": [ADD], "tool_choice": {"type": "web_search"}},
                   {"tools": [TOOL], "tool_choice": {"type": "web_search"}}),
    "own-parts": ({"messages": [{"role": "user", "content": [
        DETAILED_IMAGE, PDF, {"type": "input_text", "text": "a"}, {"text": "b"}]}]},
        {"input": [{"role": "user", "content": [
            {"type": "input_image", "image_url": "https://x.example/a.png", "detail": "low"},
            {"type": "input_file", **PDF["file"]}, {"type": "input_text", "text": "a"}, {"text": "b"}]}]}),
    "custom-call": ({"messages": [HI, {"role": "assistant", "content": None, "tool_calls": [CUSTOM]},
                                  llmlite.tool_result("c1", "done")]},
                    {"input": [HI, {"type": "custom_tool_call", "call_id": "c1", "name": "c", "input": "x = 1"},
                               {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"}]}),
    "function-call": ({"messages": [HI, {"role": "assistant", "content": None, "function_call": {
        "name": "f", "arguments": "{}"}}, {"role": "function", "name": "f", "content": {"sum": 4}}]},
        {"input": [HI, {"type": "function_call", "call_id": "f", "name": "f", "arguments": "{}"},
                   {"type": "function_call_output", "call_id": "f", "output": '{"sum": 4}'}]}),
    "parts-back": ({"messages": [HI, {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
                                 {"role": "assistant", "content": None, "refusal": "no"},
                                 {"role": "assistant", "content": None},
                                 {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "4"}]}]},
                   {"input": [HI, said([{"type": "output_text", "text": "a"}]),
                              said([{"type": "refusal", "refusal": "no"}]), said(""),
                              {"type": "function_call_output", "call_id": "c",
                               "output": [{"type": "input_text", "text": "4"}]}]}),
    "schema-open": ({"schema": {"type": "object"}}, schema("answer", {"type": "object"})),
    "extra-merged": ({"reasoning_effort": "low", "schema": POINT, "extra": {
        "reasoning": {"summary": "auto"}, "text": {"verbosity": "low"}, "store": True}},
        {"reasoning": {"effort": "low", "summary": "auto"}, "store": True, "text": {
            **schema("answer", POINT, strict=True)["text"], "verbosity": "low"}}),
}

# --------------------------------------------------------------------------------------------------------- what is read

USAGE = {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0}, "output_tokens": 25,
         "output_tokens_details": {"reasoning_tokens": 20}, "total_tokens": 34}
COUNTED = Usage(9, 25, 4, 20)


def body(*items, status="completed", **more):
    return {"id": "resp_1", "object": "response", "created_at": 1, "status": status, "error": None, "model": "served",
            "incomplete_details": None, "output": list(items), "usage": USAGE, **more}


def event(kind, **fields):
    return kind, {"type": kind, "sequence_number": 3, **fields}


def start():
    opened = {**body(status="in_progress"), "usage": None}
    return [event("response.created", response=opened), event("response.in_progress", response=opened)]


def text_item(*pieces, id="msg_1", **more):
    return {"id": id, "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "".join(pieces), "annotations": [], "logprobs": []}], **more}


def written(index, *pieces, **more):
    """The events of a message."""
    item, at = text_item(*pieces, **more), {"item_id": "msg_1", "output_index": index, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    return [event("response.output_item.added", output_index=index, item={**item, "content": []}),
            event("response.content_part.added", part=part, **at),
            *(event("response.output_text.delta", delta=piece, logprobs=[], **at) for piece in pieces),
            event("response.output_text.done", text="".join(pieces), **at),
            event("response.content_part.done", part=item["content"][0], **at),
            event("response.output_item.done", output_index=index, item=item)]


def call_item(id, name, arguments, **more):
    return {"id": "f" + id, "type": "function_call", "status": "completed", "call_id": id, "name": name,
            "arguments": arguments, **more}


def called(index, id, name, *pieces):
    """The events of a call."""
    item, at = call_item(id, name, "".join(pieces)), {"item_id": "f" + id, "output_index": index}
    return [event("response.output_item.added", output_index=index, item={**item, "arguments": ""}),
            *(event("response.function_call_arguments.delta", delta=piece, **at) for piece in pieces),
            event("response.function_call_arguments.done", arguments="".join(pieces), **at),
            event("response.output_item.done", output_index=index, item=item)]


def end(*items, **more):
    whole = body(*items, **more)
    return [event("response." + ("incomplete" if whole["status"] == "incomplete" else "completed"), response=whole)]


def ended(reason):
    """What tells a finish reason."""
    return {"status": "completed"} if reason == "completed" else {
        "status": "incomplete", "incomplete_details": {"reason": reason}}


def hi(reason, **usage):
    how = {**(ended(reason) if reason else {}), **usage}
    return body(text_item("Hi"), **how), [*start(), *written(0, "Hi"), *end(text_item("Hi"), **how)]


def calling(reason, count):
    arguments = ['{"x": 1}', '{"x": 2}', ""][:count]
    items = [call_item(f"c{at}", "f", given) for at, given in enumerate(arguments)]
    return body(*items, **ended(reason)), [*start(), *(
        event for at, given in enumerate(arguments) for event in called(at, f"c{at}", "f", given)),
        *end(*items, **ended(reason))]


def message(text=None, *calls, verbatim=()):
    turn = {"role": "assistant", "content": text, **({"tool_calls": list(calls)} if calls else {})}
    told = {"model": "served", "output": list(verbatim), "asked": "m"}
    return {**turn, "llmlite": {"openai-responses": told}} if verbatim else turn


def call(id, name, arguments):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def thought_item(*texts, **more):
    return {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": text} for text in texts],
            **more}


SEALED = {"encrypted_content": "gAAA="}
AT = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
THOUGHT = thought_item("hm, so", **SEALED)
TWO = thought_item("One.", "Two.", **SEALED)
OPEN = {"id": "rs_1", "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm, so"}]}
CITED = {"type": "url_citation", "start_index": 0, "end_index": 2, "url": "https://x.example", "title": "X"}
CITING = text_item("Hi")
CITING["content"][0]["annotations"] = [CITED]
REFUSED = {**text_item(), "content": [{"type": "refusal", "refusal": "I cannot."}]}
TYPED = {"id": "ctc_1", "type": "custom_tool_call", "call_id": "c1", "name": "c", "input": "x = 1"}
WRITING = {"id": "c1", "type": "custom", "custom": {"name": "c", "input": "x = 1"}}
SEARCHED = {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}}
FIRST_CALLS = [call_item("call_1", "add", '{"a":2}'), call_item("call_2", "mul", '{"a":3}')]
SEEN = [ToolCall("call_1", "add", {"a": 2}, '{"a":2}'), ToolCall("call_2", "mul", {"a": 3}, '{"a":3}')]
SAID = {
    "text": (body(text_item("Hi there")), [*start(), *written(0, "Hi", " there"), *end(text_item("Hi there"))],
             {"message": message("Hi there")}),
    "nothing": (body(), [*start(), *end()], {"message": message("")}),
    "reasoning": (
        body(THOUGHT, text_item("Hi")),
        [*start(), event("response.output_item.added", output_index=0, item=thought_item(encrypted_content="part")),
         event("response.reasoning_summary_part.added", part={"type": "summary_text", "text": ""}, **AT),
         event("response.reasoning_summary_text.delta", delta="hm, ", obfuscation="x", **AT),
         event("response.reasoning_summary_text.delta", delta="so", obfuscation="yz", **AT),
         event("response.reasoning_summary_text.done", text="hm, so", **AT),
         event("response.output_item.done", output_index=0, item=THOUGHT),
         *written(1, "Hi"), *end(THOUGHT, text_item("Hi"))],
        {"message": message("Hi", verbatim=[THOUGHT, text_item("Hi")])}),
    "tool": (
        body(call_item("call_1", "f", '{"x":1}')),
        [*start(), *called(0, "call_1", "f", '{"x"', ":1}"), *end(call_item("call_1", "f", '{"x":1}'))],
        {"tool_calls": [ToolCall("call_1", "f", {"x": 1}, '{"x":1}')],
         "message": message(None, call("call_1", "f", '{"x":1}'))}),
    "two-tools": (
        body(text_item("Let me see."), *FIRST_CALLS),
        [*start(), *written(0, "Let me see."), *called(2, "call_2", "mul", '{"a"', ":3}"),
         *called(1, "call_1", "add", '{"a":2}'), *end(text_item("Let me see."), *FIRST_CALLS)],
        {"tool_calls": SEEN, "message": message("Let me see.", call("call_1", "add", '{"a":2}'),
                                                call("call_2", "mul", '{"a":3}'))}),
    "no-arguments": (
        body(call_item("c", "f", "")), [*start(), *called(0, "c", "f"), *end(call_item("c", "f", ""))],
        {"tool_calls": [ToolCall("c", "f", {}, "")], "message": message(None, call("c", "f", ""))}),
    "citations": (
        body(CITING), [*start(), *written(0, "Hi")[:-1],
                       event("response.output_text.annotation.added", output_index=0, content_index=0,
                             item_id="msg_1", annotation_index=0, annotation=CITED), *end(CITING)],
        {"citations": [CITED], "message": message("Hi")}),
    # and what only it says:
    "two-thoughts": (
        body(TWO, text_item("Hi")),
        [*start(), event("response.reasoning_summary_text.delta", delta="One.", **AT),
         event("response.reasoning_summary_text.delta", delta="Two.", **{**AT, "summary_index": 1}),
         *written(1, "Hi"), *end(TWO, text_item("Hi"))],
        {"text": "Hi", "reasoning": "One.\n\nTwo.", "message": message("Hi", verbatim=[TWO, text_item("Hi")])}),
    "open-reasoning": (
        body(OPEN, text_item("Hi")),
        [*start(), *(event("response.reasoning_text.delta", delta=piece, item_id="rs_1", output_index=0,
                           content_index=0) for piece in ("hm, ", "so")),
         *written(1, "Hi"), *end(OPEN, text_item("Hi"))],
        {"text": "Hi", "reasoning": "hm, so", "message": message("Hi", verbatim=[OPEN, text_item("Hi")])}),
    "refusal": (
        body(REFUSED),
        [*start(), *(event("response.refusal.delta", delta=piece, item_id="msg_1", output_index=0, content_index=0)
                     for piece in ("I ", "cannot.")), *end(REFUSED)],
        {"text": "I cannot.", "finish_reason": "content_filter", "message": message("I cannot.")}),
    "custom-tool": (
        body(TYPED),
        [*start(), event("response.output_item.added", output_index=0, item={**TYPED, "input": ""}),
         *(event("response.custom_tool_call_input.delta", delta=piece, item_id="ctc_1", output_index=0)
           for piece in ("x =", " 1")), *end(TYPED)],
        {"tool_calls": [ToolCall("c1", "c", {"input": "x = 1"}, "x = 1")], "finish_reason": "tool_calls",
         "message": message(None, WRITING, verbatim=[TYPED])}),
    "searched": (
        body(SEARCHED, text_item("Hi", phase="final_answer")),
        [*start(), event("response.output_item.added", output_index=0, item={**SEARCHED, "status": "in_progress"}),
         event("response.web_search_call.searching", output_index=0, item_id="ws_1"),
         event("response.output_item.done", output_index=0, item=SEARCHED),
         *written(1, "Hi", phase="final_answer"), *end(SEARCHED, text_item("Hi", phase="final_answer"))],
        {"text": "Hi", "message": message("Hi", verbatim=[SEARCHED, text_item("Hi", phase="final_answer")])}),
    "without-deltas": (
        body(text_item("Hi there")),
        [*start(), event("response.output_item.done", output_index=0, item=text_item("Hi there")),
         *end(text_item("Hi there"))], {"text": "Hi there", "message": message("Hi there")}),
    "empty-at-the-end": (
        body(text_item("Hi")), [*start(), *written(0, "Hi"), *end()], {"text": "Hi", "message": message("Hi")}),
}
FINISHES = {"completed": "stop", "max_output_tokens": "length", "content_filter": "content_filter", "steered": "other"}
USAGES = [(USAGE, COUNTED), ({"input_tokens": 9, "output_tokens": 5}, Usage(9, 5)), ({}, Usage()), (None, Usage())]

# --------------------------------------------------------------------------------------------------------------- errors

LATE = [
    (b'event: error\ndata: {"type":"error","code":"server_error","message":"no","param":null}\n\n', "ServerError", 500),
    (b'data: {"type":"error","code":"server_error","message":"no","param":null}\n\n', "ServerError", 500),
    (b'data: {"type":"error","error":{"type":"tokens","code":"rate_limit_exceeded","message":"no"}}\n\n',
     "RateLimitError", 429),
    (b'event: response.failed\ndata: {"type":"response.failed","response":{"status":"failed","error":'
     b'{"code":"server_error","message":"no"},"output":[]}}\n\n', "ServerError", 500)]

RESPONSES = Column(
    provider="openai", api="responses", lacks=("sampling", "one-stop", "seed"), base="/v1", path="/v1/responses",
    headers={"authorization": "Bearer " + KEY},
    body={"model": "m", "input": [HI], "store": False}, streamed={"stream": True},
    sent=SENT, own=OWN, said=SAID, reply={"raw_finish_reason": "completed", "usage": COUNTED, "id": "resp_1"},
    hi=hi, calling=calling, ending=1, finishes=FINISHES, usages=USAGES, errors=ERRORS, late=LATE)
