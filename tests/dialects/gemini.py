"""Google's generateContent."""
import json

from tests import llmlite
from tests.dialects import ADD, DOUBLED, KEY, PARAMETERS, POINT, Column

ToolCall, Usage = llmlite.ToolCall, llmlite.Usage

# --------------------------------------------------------------------------------------------------------- what is sent

SAID_HI = {"role": "user", "parts": [{"text": "hi"}]}
DECLARED = {"name": "add", "description": "Adds.", "parametersJsonSchema": PARAMETERS}
DOUBLE = {"name": "double", "description": "Doubles a number.", "parametersJsonSchema": DOUBLED}
OURS = {"functionCall": {"name": "add", "args": {"a": 2}},  # a call that was made elsewhere
        "thoughtSignature": "skip_thought_signature_validator"}
TOLD = [SAID_HI, {"role": "model", "parts": [OURS, {"functionCall": {"name": "mul", "args": {"a": 3}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "add", "response": {"output": {"sum": 4}}}},
                                   {"functionResponse": {"name": "mul", "response": {"error": "boom"}}}]}]


def contents(*turns):
    return {"contents": [{"role": role, "parts": list(parts)} for role, *parts in turns]}


def config(**fields):
    return {"generationConfig": fields}


def choice(**mode):
    return {"tools": [{"functionDeclarations": [DECLARED]}], "toolConfig": {"functionCallingConfig": mode}}


SENT = {
    "plain": {},
    "system": {"systemInstruction": {"parts": [{"text": "s"}]}},
    "system-messages": {"systemInstruction": {"parts": [{"text": "s"}, {"text": "a"}, {"text": "b"}]}},
    "turns": contents(("user", {"text": "hi"}), ("model", {"text": "yes?"}), ("user", {"text": "hi"})),
    "image-data": contents(("user", {"text": "look"}, {"inlineData": {"mimeType": "image/png",
                                                                      "data": "iVBORw0KGgo="}})),
    "image-url": contents(("user", {"text": "look"}, {"fileData": {"mimeType": "image/png",
                                                                   "fileUri": "https://x.example/a.png"}})),
    "tools": {"tools": [{"functionDeclarations": [DECLARED, {"name": "now"}, DOUBLE]}]},
    "results": {"contents": TOLD},
    "results-then-text": {"contents": [*TOLD, {"role": "user", "parts": [{"text": "continue"}]}]},
    "text-and-calls": contents(
        ("user", {"text": "hi"}),
        ("model", {"text": "Let me see."}, OURS),
        ("user", {"functionResponse": {"name": "add", "response": {"output": "4 of them"}}})),
    "choice-auto": choice(mode="AUTO"),
    "choice-none": choice(mode="NONE"),
    "choice-required": choice(mode="ANY"),
    "choice-of-one": choice(mode="ANY", allowedFunctionNames=["add"]),
    "choice-of-one-dict": choice(mode="ANY", allowedFunctionNames=["add"]),
    "schema-dict": config(responseMimeType="application/json"),
    "schema": config(responseMimeType="application/json", responseJsonSchema=POINT),
    "schema-dataclass": config(responseMimeType="application/json", responseJsonSchema=POINT),
    "sampling": config(temperature=0.0, topP=0.5, topK=3, maxOutputTokens=7, stopSequences=["a", "b"]),
    "one-stop": config(stopSequences=["END"]),
    "seed": config(seed=0),
    "effort": config(thinkingConfig={"thinkingLevel": "LOW"}),
    "logprobs": config(responseLogprobs=True),
    "three-logprobs": config(responseLogprobs=True, logprobs=3),
    "no-logprobs": {},
    "extra": {"x": [1]},
}
OWN = {
    "image-urls": ({"messages": [llmlite.user("look", images=["https://x.example/a.png?b=c", "https://x.example/"])]},
                   contents(("user", {"text": "look"},
                             {"fileData": {"fileUri": "https://x.example/a.png?b=c", "mimeType": "image/png"}},
                             {"fileData": {"fileUri": "https://x.example/", "mimeType": "image/jpeg"}}))),
    "model-of-the-call": ({"model": "gemini-3-pro", "temperature": 1}, config(temperature=1)),
    "own-parts": ({"messages": [{"role": "user", "content": [{"fileData": {"fileUri": "gs://x"}}]}]},
                  contents(("user", {"fileData": {"fileUri": "gs://x"}}))),
    "own-tools": ({"tools": [ADD, {"googleSearch": {}}]},
                  {"tools": [{"functionDeclarations": [DECLARED]}, {"googleSearch": {}}]}),
    "own-choice": ({"tools": [ADD], "tool_choice": {"mode": "ANY", "allowedFunctionNames": ["add"]}},
                   choice(mode="ANY", allowedFunctionNames=["add"])),
    "extra-merged": ({"temperature": 1, "extra": {"safetySettings": [{"category": "c"}],
                                           "generationConfig": {"presencePenalty": 1}}},
              {**config(temperature=1, presencePenalty=1), "safetySettings": [{"category": "c"}]}),
}

# --------------------------------------------------------------------------------------------------------- what is read

USAGE = {"promptTokenCount": 29, "candidatesTokenCount": 12, "thoughtsTokenCount": 69, "totalTokenCount": 110,
         "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 29}]}
COUNTED = Usage(29, 81, 0, 69)
EARLY = {"promptTokenCount": 29, "totalTokenCount": 34, "thoughtsTokenCount": 5}


def body(*parts, reason="STOP", **more):
    """A reply; in a stream each event has this form."""
    candidate = {"index": 0, "content": {"role": "model", "parts": list(parts)}}
    return {"candidates": [{**candidate, "finishReason": reason} if reason else candidate], "usageMetadata": USAGE,
            "modelVersion": "served", "responseId": "r", **more}


def piece(*parts, **more):
    return body(*parts, reason=None, usageMetadata=EARLY, **more)


def last(reason="STOP", **more):
    """The end of a stream, which has no content."""
    return {**body(), "candidates": [{"finishReason": reason, "index": 0, **more}]}


def crlf(*events):
    """A stream as Google writes it."""
    return [b"data: %b\r\n\r\n" % json.dumps(event).encode() for event in events]


def said(text, *parts, calls=()):
    """The message of the history; `parts` are what must go back verbatim."""
    message = {"role": "assistant", "content": text}
    told = [{"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.raw_arguments}}
            for call in calls]
    message.update({"tool_calls": told} if told else {})
    return {**message, "llmlite": {"gemini": list(parts)}} if parts else message


def hi(reason, usage=USAGE):
    return body({"text": "Hi"}, reason=reason, usageMetadata=usage), crlf(piece({"text": "Hi"}), last(reason))


def calling(reason, count):
    parts = [{"functionCall": {"name": "f", "args": {}}}] * count
    return body(*parts, reason=reason), crlf(piece(*parts), last(reason))


SIGNED = {"functionCall": {"id": "ab12", "name": "add", "args": {"a": 2}}, "thoughtSignature": "c2ln/b64+=="}
UNSIGNED = {"functionCall": {"id": "cd34", "name": "mul", "args": {}}}
THOUGHT = {"text": "hm, so", "thought": True}
LAST = {"text": "", "thoughtSignature": "bGFzdA=="}
READ = [ToolCall("ab12", "add", {"a": 2}, '{"a": 2}'), ToolCall("cd34", "mul", {}, "{}")]
SOURCES = [{"startIndex": 0, "endIndex": 2, "uri": "https://x.example"}]
SEEN = {"text": "Let me see."}
NAMELESS = [{"functionCall": {"name": "add", "args": {"a": 2}}, "thoughtSignature": "c2ln"},
            {"functionCall": {"name": "now"}}]
READ_NAMELESS = [ToolCall("r_0", "add", {"a": 2}, '{"a": 2}'), ToolCall("r_1", "now", {}, "{}")]
CAPPED = {"finish_reason": "length", "raw_finish_reason": "MAX_TOKENS", "message": said("")}
BLOCKED = {"promptFeedback": {"blockReason": "SAFETY"}, "modelVersion": "served", "responseId": "r",
           "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4}}
SAID = {
    "text": (
        body({"text": "Hi there"}), crlf(piece({"text": "Hi"}), piece({"text": " there"}), body({"text": ""})),
        {"message": said("Hi there")}),
    "nothing": (body({"text": ""}), crlf(body({"text": ""})), {"message": said("")}),
    "reasoning": (
        body(THOUGHT, {"text": "Hi"}, LAST),
        crlf(piece({"text": "hm, ", "thought": True}), piece({"text": "so", "thought": True}), piece({"text": "Hi"}),
             body(LAST)), {"message": said("Hi", THOUGHT, {"text": "Hi"}, LAST)}),
    "tool": (body(SIGNED), crlf(body(SIGNED)), {"tool_calls": READ[:1], "message": said(None, SIGNED, calls=READ[:1])}),
    "two-tools": (
        body(SEEN, SIGNED, UNSIGNED), crlf(piece(SEEN), piece(SIGNED), piece(UNSIGNED), last()),
        {"tool_calls": READ, "message": said("Let me see.", SEEN, SIGNED, UNSIGNED, calls=READ)}),
    "no-arguments": (
        body(UNSIGNED), crlf(piece(UNSIGNED), last()),
        {"tool_calls": READ[1:], "message": said(None, UNSIGNED, calls=READ[1:])}),
    "citations": (
        {**body(), "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP", "index": 0,
                                   "citationMetadata": {"citationSources": SOURCES}}]},
        crlf(piece({"text": "Hi"}), last(citationMetadata={"citationSources": SOURCES})),
        {"citations": SOURCES, "message": said("Hi")}),
    # and what only it says:
    "last-without-content": (
        body({"text": "Hi"}),
        [piece({"text": "Hi"}), last()],
        {"text": "Hi", "message": said("Hi")}),
    "no-index": (
        {**body(), "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]},
        [{**piece(), "candidates": [{"content": {"parts": [{"text": "H"}]}}]},
         {**body(), "candidates": [{"content": {"parts": [{"text": "i"}]}, "finishReason": "STOP"}]}],
        {"text": "Hi", "message": said("Hi")}),
    "signed-text": (
        body({"text": "H", "thoughtSignature": "YQ=="}, {"text": "i", "thoughtSignature": "Yg=="}, {"text": "!"}),
        [piece({"text": "H", "thoughtSignature": "YQ=="}), piece({"text": "i", "thoughtSignature": "Yg=="}),
         body({"text": "!"})],
        {"text": "Hi!", "message": said("Hi!", {"text": "H", "thoughtSignature": "YQ=="},
                                       {"text": "i", "thoughtSignature": "Yg=="}, {"text": "!"})}),
    "tools-without-ids": (
        body(*NAMELESS), [piece(*NAMELESS), last()],
        {"tool_calls": READ_NAMELESS, "finish_reason": "tool_calls",
         "message": said(None, *NAMELESS, calls=READ_NAMELESS)}),
    "cap-without-parts": (last("MAX_TOKENS"), [last("MAX_TOKENS")], {**CAPPED}),
    "cap-without-text": (last("MAX_TOKENS", content={"role": "model"}), [last("MAX_TOKENS")], {**CAPPED}),
    "blocked-prompt": (
        BLOCKED, [BLOCKED], {"finish_reason": "content_filter", "raw_finish_reason": "SAFETY", "usage": Usage(4),
        "message": said("")}),
    "code": (
        body({"executableCode": {"code": "1"}}, {"codeExecutionResult": {"output": "1"}}, {"text": "Hi"}),
        [piece({"executableCode": {"code": "1"}}), piece({"codeExecutionResult": {"output": "1"}}),
         body({"text": "Hi"})],
        {"text": "Hi",
         "message": said("Hi", {"executableCode": {"code": "1"}}, {"codeExecutionResult": {"output": "1"}},
                                      {"text": "Hi"})}),
}
FILTERED = ("SAFETY RECITATION BLOCKLIST PROHIBITED_CONTENT SPII IMAGE_SAFETY IMAGE_PROHIBITED_CONTENT IMAGE_OTHER "
            "IMAGE_RECITATION MODEL_ARMOR")
OTHER = ("FINISH_REASON_UNSPECIFIED LANGUAGE OTHER MALFORMED_FUNCTION_CALL UNEXPECTED_TOOL_CALL TOO_MANY_TOOL_CALLS "
         "MISSING_THOUGHT_SIGNATURE MALFORMED_RESPONSE ESCALATION CONTINUATION NOVELTY")
FINISHES = {"STOP": "stop", "MAX_TOKENS": "length", **dict.fromkeys(FILTERED.split(), "content_filter"),
            **dict.fromkeys(OTHER.split(), "other")}
USAGES = [  # thoughts count as output, what tools put into the prompt as input
    (USAGE, COUNTED),
    ({"promptTokenCount": 4, "candidatesTokenCount": 3, "totalTokenCount": 7}, Usage(4, 3)),
    ({"promptTokenCount": 29, "toolUsePromptTokenCount": 100, "candidatesTokenCount": 12, "thoughtsTokenCount": 69,
      "cachedContentTokenCount": 8, "totalTokenCount": 210}, Usage(129, 81, 8, 69)),
    ({"promptTokenCount": 4, "thoughtsTokenCount": 6, "totalTokenCount": 10}, Usage(4, 6, 0, 6)),
    ({"totalTokenCount": 0}, Usage()), ({}, Usage()), (None, Usage()),
]

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
BUSY = error(503, "UNAVAILABLE", "no")
LATE = [(late, "OverloadedError", 503) for late in (  # an event, and raw JSON in the stream
    *crlf(BUSY), json.dumps(BUSY, indent=2).replace("\n", "\r\n").encode(),
    json.dumps([BUSY], indent=1).encode() + b"\n\n", json.dumps([BUSY]).encode())]

GEMINI = Column(
    provider="gemini", base="/v1beta", path="/v1beta/models/gemini-3-pro:generateContent",
    stream_path="/v1beta/models/gemini-3-pro:streamGenerateContent?alt=sse", model="gemini-3-pro",
    headers={"x-goog-api-key": KEY}, body={"contents": [SAID_HI]}, streamed={},
    sent=SENT, own=OWN, said=SAID, reply={"raw_finish_reason": "STOP", "usage": COUNTED, "id": "r"},
    hi=hi, calling=calling, ending=1, finishes=FINISHES, usages=USAGES, errors=ERRORS, late=LATE)
