"""One reader for every provider's error body: class, message, code, type, request id, wait, and what is sent again."""
import json
import time

import pytest

from tests import llmlite, testing
from tests.beside import within

POLICY = llmlite.RetryPolicy(max_retries=1, backoff=0, rate_limit_max_retries=2, rate_limit_backoff=0)
ONCE, NORMAL, RATE = 1, 2, 3  # requests that POLICY makes of each kind
EVENT = {"model": "test", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
FIELDS = {"code": None, "type": None, "request_id": None, "retry_after": None, "headers": {}}


def openai(message, type=None, code=None, **more):
    return {"error": {"message": message, "type": type, "param": None, "code": code, **more}}


def anthropic(type, message, **more):
    return {"type": "error", "error": {"type": type, "message": message, **more}, "request_id": "req_011"}


def google(code, status, message, *details):
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def info(kind, **fields):
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **fields}


def quota(id):
    return info("QuotaFailure", violations=[{"quotaMetric": "m", "quotaId": id, "quotaValue": "50"}])


CASES = {
    # OpenAI
    "openai parameter": (400, openai("Unsupported parameter", "invalid_request_error", "unsupported_parameter"),
                         "BadRequestError", "Unsupported parameter", ONCE,
                         {"type": "invalid_request_error", "code": "unsupported_parameter"}),
    "openai context": (400, openai("too long", "invalid_request_error", "context_length_exceeded"),
                       "ContextLengthError", "too long", ONCE,
                       {"type": "invalid_request_error", "code": "context_length_exceeded"}),
    "openai context, by words": (400, openai("This model's maximum context length is 8192 tokens.",
                                             "invalid_request_error"), "ContextLengthError",
                                 "This model's maximum context length is 8192 tokens.", ONCE,
                                 {"type": "invalid_request_error"}),
    "openai key": (401, openai("Incorrect API key provided", "invalid_request_error", "invalid_api_key"),
                   "AuthenticationError", "Incorrect API key provided", ONCE,
                   {"type": "invalid_request_error", "code": "invalid_api_key"}),
    "openai region": (403, openai("Country not supported", "request_forbidden"), "PermissionDeniedError",
                      "Country not supported", ONCE, {"type": "request_forbidden"}),
    "openai model": (404, openai("No such model", "invalid_request_error", "model_not_found"), "NotFoundError",
                     "No such model", ONCE, {"type": "invalid_request_error", "code": "model_not_found"}),
    "openai rate": (429, openai("Rate limit reached. Please try again in 20ms.", "requests", "rate_limit_exceeded"),
                    "RateLimitError", "Rate limit reached. Please try again in 20ms.", RATE,
                    {"type": "requests", "code": "rate_limit_exceeded", "retry_after": 0.02}),
    "openai ramp": (429, openai("Slow down", "rate_limit_error", "slow_down"), "RateLimitError", "Slow down", RATE,
                    {"type": "rate_limit_error", "code": "slow_down"}),
    "openai quota": (429, openai("You exceeded your current quota", "insufficient_quota", "insufficient_quota"),
                     "QuotaExceededError", "You exceeded your current quota", ONCE,
                     {"type": "insufficient_quota", "code": "insufficient_quota"}),
    "openai credit": (429, openai("No credit", "insufficient_quota", "credit_balance_exhausted"),
                      "QuotaExceededError", "No credit", ONCE,
                      {"type": "insufficient_quota", "code": "credit_balance_exhausted"}),
    "openai overloaded": (503, openai("Overloaded", "service_unavailable_error", "server_is_overloaded"),
                          "OverloadedError", "Overloaded", RATE,
                          {"type": "service_unavailable_error", "code": "server_is_overloaded"}),
    "openai 500": (500, openai("The server had an error", "server_error"), "ServerError", "The server had an error",
                   NORMAL, {"type": "server_error", "request_id": "req-1", "headers": {"x-request-id": "req-1"}}),
    # Anthropic
    "anthropic request": (400, anthropic("invalid_request_error", "max_tokens: Field required"), "BadRequestError",
                          "max_tokens: Field required", ONCE,
                          {"type": "invalid_request_error", "request_id": "req_011"}),
    "anthropic context": (400, anthropic("invalid_request_error", "prompt is too long: 200082 tokens > 200000 maximum"),
                          "ContextLengthError", "prompt is too long: 200082 tokens > 200000 maximum", ONCE,
                          {"type": "invalid_request_error", "request_id": "req_011"}),
    "anthropic own limit": (400, anthropic("invalid_request_error",
                                           "You have reached your specified API usage limits."), "QuotaExceededError",
                            "You have reached your specified API usage limits.", ONCE,
                            {"type": "invalid_request_error", "request_id": "req_011"}),
    "anthropic key": (401, anthropic("authentication_error", "invalid x-api-key"), "AuthenticationError",
                      "invalid x-api-key", ONCE, {"type": "authentication_error", "request_id": "req_011"}),
    "anthropic billing": (402, anthropic("billing_error", "No credit"), "PaymentRequiredError", "No credit", ONCE,
                          {"type": "billing_error", "request_id": "req_011"}),
    "anthropic conflict": (409, anthropic("conflict_error", "Conflict"), "APIError", "Conflict", NORMAL,
                           {"type": "conflict_error", "request_id": "req_011"}),
    "anthropic large": (413, anthropic("request_too_large", "Request exceeds the maximum size"), "BadRequestError",
                        "Request exceeds the maximum size", ONCE,
                        {"type": "request_too_large", "request_id": "req_011"}),
    "anthropic rate": (429, anthropic("rate_limit_error", "Tokens a minute"), "RateLimitError", "Tokens a minute", RATE,
                       {"type": "rate_limit_error", "request_id": "req_9", "retry_after": 0.01,
                        "headers": {"request-id": "req_9", "retry-after": "0.01"}}),
    "anthropic spend": (429, anthropic("rate_limit_error", "no", details={
        "error_code": "enforced_spend_limit_reached"}), "QuotaExceededError", "no", ONCE, {
            "type": "rate_limit_error", "request_id": "req_011"}),
    "anthropic ramp": (429, anthropic("rate_limit_error", "no", details={"error_code": "ramp_limit_exceeded"}),
                       "RateLimitError", "no", RATE, {"type": "rate_limit_error", "request_id": "req_011"}),
    "anthropic 500": (500, anthropic("api_error", "Internal server error"), "ServerError", "Internal server error",
                      NORMAL, {"type": "api_error", "request_id": "req_011"}),
    "anthropic timeout": (504, anthropic("timeout_error", "Timed out"), "ServerError", "Timed out", NORMAL,
                          {"type": "timeout_error", "request_id": "req_011"}),
    "anthropic overloaded": (529, anthropic("overloaded_error", "Overloaded"), "OverloadedError", "Overloaded", RATE,
                             {"type": "overloaded_error", "request_id": "req_011"}),
    # Gemini
    "google argument": (400, google(400, "INVALID_ARGUMENT", "Unknown name"), "BadRequestError", "Unknown name", ONCE,
                        {"code": 400, "type": "INVALID_ARGUMENT"}),
    "google key": (400, google(400, "INVALID_ARGUMENT", "API key not valid.",
                               info("ErrorInfo", reason="API_KEY_INVALID", domain="googleapis.com")),
                   "AuthenticationError", "API key not valid.", ONCE, {"code": 400, "type": "INVALID_ARGUMENT"}),
    "google context": (400, google(400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of "
                                                            "tokens allowed (8)."), "ContextLengthError",
                       "The input token count (9) exceeds the maximum number of tokens allowed (8).", ONCE,
                       {"code": 400, "type": "INVALID_ARGUMENT"}),
    "google prepaid": (402, google(402, "RESOURCE_EXHAUSTED", "Prepaid balance is empty"), "QuotaExceededError",
                       "Prepaid balance is empty", ONCE, {"code": 402, "type": "RESOURCE_EXHAUSTED"}),
    "google permission": (403, google(403, "PERMISSION_DENIED", "No"), "PermissionDeniedError", "No", ONCE,
                          {"code": 403, "type": "PERMISSION_DENIED"}),
    "google model": (404, google(404, "NOT_FOUND", "models/x is not found"), "NotFoundError", "models/x is not found",
                     ONCE, {"code": 404, "type": "NOT_FOUND"}),
    "google rate": (429, google(429, "RESOURCE_EXHAUSTED", "Please retry in 37.2s.", quota("RequestsPerMinute-Free"),
                                info("Help", links=[]), info("RetryInfo", retryDelay="0.02s")), "RateLimitError",
                    "Please retry in 37.2s.", RATE, {"code": 429, "type": "RESOURCE_EXHAUSTED", "retry_after": 0.02}),
    "google day": (429, google(429, "RESOURCE_EXHAUSTED", "quota", quota("GenerateRequestsPerDayPerProjectPerModel"),
                               info("RetryInfo", retryDelay="0.02s")), "QuotaExceededError", "quota", ONCE,
                   {"code": 429, "type": "RESOURCE_EXHAUSTED", "retry_after": 0.02}),
    "google 500": (500, google(500, "INTERNAL", "An internal error"), "ServerError", "An internal error", NORMAL,
                   {"code": 500, "type": "INTERNAL"}),
    "google 503": (503, google(503, "UNAVAILABLE", "The model is overloaded."), "OverloadedError",
                   "The model is overloaded.", RATE, {"code": 503, "type": "UNAVAILABLE"}),
    "google 504": (504, google(504, "DEADLINE_EXCEEDED", "Too slow"), "ServerError", "Too slow", NORMAL,
                   {"code": 504, "type": "DEADLINE_EXCEEDED"}),
    "google, in a list": (429, [google(429, "RESOURCE_EXHAUSTED", "slow", info("RetryInfo", retryDelay="0.01s"))],
                          "RateLimitError", "slow", RATE,
                          {"code": 429, "type": "RESOURCE_EXHAUSTED", "retry_after": 0.01}),
    # OpenRouter
    "openrouter": (502, {"error": {"code": 502, "message": "Provider returned error", "metadata": {
        "provider_name": "X", "raw": "{}"}}, "user_id": "u"}, "ServerError", "Provider returned error", NORMAL,
        {"code": 502}),
    "openrouter credit": (402, {"error": {"code": 402, "message": "Insufficient credits"}}, "PaymentRequiredError",
                          "Insufficient credits", ONCE, {"code": 402}),
    "openrouter in flight": (402, {"error": {"code": 402, "message": "Too much at once", "metadata": {
        "limit_source": "openrouter_in_flight_budget"}}}, "PaymentRequiredError", "Too much at once", RATE,
        {"code": 402, "retry_after": 0.01, "headers": {"Retry-After": "0.01"}}),
    "openrouter day": (429, {"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-day", "metadata": {
        "headers": {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "0.01"}}}},
        "QuotaExceededError", "Rate limit exceeded: free-models-per-day", ONCE, {"code": 429, "retry_after": 0.01}),
    "openrouter minute": (429, {"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-min",
                                          "metadata": {"headers": {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining":
                                                                   "0", "X-RateLimit-Reset": "0.02"}}}},
                          "RateLimitError", "Rate limit exceeded: free-models-per-min", RATE,
                          {"code": 429, "retry_after": 0.02}),
    "openrouter context": (400, {"error": {"code": 400, "message": "no", "metadata": {
        "error_type": "context_length_exceeded"}}}, "ContextLengthError", "no", ONCE, {"code": 400}),
    "openrouter moderation": (403, {"error": {"code": 403, "message": "Input was flagged", "metadata": {
        "reasons": ["violence"], "flagged_input": "x"}}}, "PermissionDeniedError", "Input was flagged", ONCE,
        {"code": 403}),
    "openrouter id": (500, {"error": {"code": 500, "message": "no"}}, "ServerError", "no", NORMAL, {
        "code": 500, "request_id": "gen-1", "headers": {"X-Generation-Id": "gen-1"}}),
    # other compatible servers
    "xai": (400, {"code": "Client specified an invalid argument", "error": "Model not found: x"}, "BadRequestError",
            "Model not found: x", ONCE, {"code": "Client specified an invalid argument"}),
    "groq": (400, openai("Failed to call a function", "invalid_request_error", "tool_use_failed",
                         failed_generation="x"), "BadRequestError", "Failed to call a function", ONCE,
             {"type": "invalid_request_error", "code": "tool_use_failed"}),
    "mistral": (400, {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "param": None,
                      "code": "1500"}, "BadRequestError", "Invalid model: x", ONCE,
                {"type": "invalid_model", "code": "1500"}),
    "mistral 422": (422, {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}, "BadRequestError",
                    '[{"loc": ["body", "messages"], "msg": "field required"}]', ONCE, {}),
    "mistral no allowance": (429, {"object": "error", "message": "no", "type": "rate_limited", "code": 1300},
                             "RateLimitError", "no", ONCE, {
                                 "type": "rate_limited", "code": 1300,
                                 "headers": {"x-ratelimit-limit-req-minute": "0", "x-ratelimit-limit-tokens": "0"}}),
    "together": (429, {"id": "x", "error": {"message": "slow", "type": "model_rate_limit", "param": None, "code": None,
                                            "error_type": "dynamic_request_limited"}}, "RateLimitError", "slow", RATE,
                 {"type": "model_rate_limit"}),
    "cerebras": (500, {"error": {"message": "boom", "type": "server_error"}, "status_code": 500}, "ServerError", "boom",
                 NORMAL, {"type": "server_error"}),
    "ollama": (404, openai("model 'x' not found", "not_found_error"), "NotFoundError", "model 'x' not found", ONCE,
               {"type": "not_found_error"}),
    "ollama native": (404, {"error": "model 'x' not found"}, "NotFoundError", "model 'x' not found", ONCE, {}),
    "vllm": (400, {"object": "error", "message": "This model's maximum context length is 5 tokens.",
                   "type": "BadRequestError", "param": None, "code": 400}, "ContextLengthError",
             "This model's maximum context length is 5 tokens.", ONCE, {"type": "BadRequestError", "code": 400}),
    "llama.cpp": (400, {"error": {"code": 400, "message": "the request exceeds the available context size",
                                  "type": "exceed_context_size_error", "n_ctx": 512}}, "ContextLengthError",
                  "the request exceeds the available context size", ONCE,
                  {"type": "exceed_context_size_error", "code": 400}),
    "llama.cpp loading": (503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
                          "OverloadedError", "Loading model", RATE, {"type": "unavailable_error", "code": 503}),
    "azure filter": (400, {"error": {"message": "The response was filtered", "type": None, "param": "prompt",
                                     "code": "content_filter", "status": 400, "innererror": {"code": "Responsible"}}},
                     "BadRequestError", "The response was filtered", ONCE, {
                         "code": "content_filter", "request_id": "apim-1", "headers": {"apim-request-id": "apim-1"}}),
    "nvidia": (429, {"status": 429, "title": "Too Many Requests"}, "RateLimitError", "Too Many Requests", RATE, {}),
    "nvidia 404": (404, {"status": 404, "title": "Not Found", "detail": "Function 'x': Not found"}, "NotFoundError",
                   "Function 'x': Not found", ONCE, {}),
    "cohere": (401, {"id": "x", "message": "invalid api token"}, "AuthenticationError", "invalid api token", ONCE, {}),
    "voyage": (400, {"detail": "Argument 'input' is empty"}, "BadRequestError", "Argument 'input' is empty", ONCE, {}),
    "bedrock": (400, {"message": "The provided model identifier is invalid."}, "BadRequestError",
                "The provided model identifier is invalid.", ONCE, {}),
    # no JSON at all
    "html": (502, b"<html><h1>502 Bad Gateway</h1></html>", "ServerError", "502 Bad Gateway", NORMAL, {}),
    "title": (403, b'<!DOCTYPE html>\n<html><TITLE lang="en">\n Just a moment&hellip;\n</TITLE><style>x{}</style>',
              "PermissionDeniedError", "Just a moment\u2026", ONCE, {}),
    "title without end": (502, b"<html><title>Bad", "ServerError", "Bad", NORMAL, {}),
    "title that is empty": (502, b"<html><title> </title><body><p>no <b>upstream</b>", "ServerError", "no upstream",
                            NORMAL, {}),
    "tag without end": (502, b"<html><title", "ServerError", "<html><title", NORMAL, {}),
    "xml": (403, b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>No &amp; never</Message></Error>',
            "PermissionDeniedError", "AccessDenied No & never", ONCE, {}),
    "html in json": (502, {"error": {"message": "<html><head><title>502 Bad Gateway</title></head></html>"}},
                     "ServerError", "502 Bad Gateway", NORMAL, {}),
    "angle brackets": (400, {"error": {"message": "<model> is not known"}}, "BadRequestError", "<model> is not known",
                       ONCE, {}),
    "html about load": (500, b"<html><title>Sorry</title><body>We are overloaded", "ServerError", "Sorry", RATE, {}),
    "edge 413": (413, b"Request Entity Too Large", "BadRequestError", "Request Entity Too Large", ONCE, {}),
    "edge 520": (520, b"error code: 520", "ServerError", "error code: 520", NORMAL, {}),
    "nothing": (503, b"", "OverloadedError", "", RATE, {}),
    "byte order mark": (400, b'\xef\xbb\xbf{"error":{"message":"no"}}', "BadRequestError", "no", ONCE, {}),
    "null": (400, b"null", "BadRequestError", "", ONCE, {}),
    "a string": (400, b'"no such thing"', "BadRequestError", "no such thing", ONCE, {}),
    "an empty list": (500, b"[]", "ServerError", "", NORMAL, {}),
    "an empty object": (500, b"{}", "ServerError", "", NORMAL, {}),
}


def check(error, expected, status, name, message):
    fields = {**FIELDS, **expected}
    del fields["headers"]
    assert {field: getattr(error, field) for field in fields} == fields
    assert (type(error), error.message, error.status_code) == (getattr(llmlite, name), message, status)


def fails(server, method="chat", retry=None):
    with llmlite.Client("test", base_url=server.url, api_key="", retry=retry) as llm, \
            pytest.raises(llmlite.LLMError) as caught:
        getattr(llm, method)("hello")
    return caught.value


def answer(body, status, **how):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return testing.body(raw, status=status, **how)


@pytest.mark.parametrize("case", CASES)
def test_body(server, case):
    """Each provider's error is read to its class and fields, its body kept, and it is retried as its kind, or not."""
    status, body, name, message, requests, expected = CASES[case]
    server.handle(lambda request: answer(body, status, headers=expected.get("headers", {})))
    error = fails(server)
    check(error, expected, status, name, message)
    if not isinstance(body, bytes):
        assert error.body == body
    server.requests.clear()
    error = fails(server, "stream", POLICY)
    assert (len(server.requests), error.attempts, type(error).__name__) == (requests, requests, name)


# ---------------------------------------------------------------------------------------- where no status tells


def where_200(case):
    """Whether an error says by itself which status it stands for."""
    body = CASES[case][1]
    if isinstance(body, (bytes, list)) or not isinstance(body.get("error"), dict) or "headers" in CASES[case][-1]:
        return False
    error = body["error"]
    says = {str(error.get(name)) for name in ("code", "type", "status")}
    return bool(says & SAY) or isinstance(error.get("code"), int)


SAY = {
    "invalid_request_error", "authentication_error", "billing_error", "request_too_large", "rate_limit_error",
    "rate_limit_exceeded", "slow_down", "insufficient_quota", "server_error", "api_error", "service_unavailable_error",
    "server_is_overloaded", "timeout_error", "overloaded_error"}
SELF_SAID = [case for case in CASES if where_200(case) and case not in ("openai key", "openai model")]


@pytest.mark.parametrize("method", ["chat", "stream"])
@pytest.mark.parametrize("case", SELF_SAID)
def test_body_inside_a_200(server, case, method):
    """The same error inside a 200, or as a stream's first event, is the same error, retried the same way."""
    status, body, name, message, requests, expected = CASES[case]
    server.handle(lambda request: testing.json_body(body) if method == "chat" else testing.sse([("error", body)]))
    check(fails(server, method), expected, status, name, message)
    server.requests.clear()
    error = fails(server, method, POLICY)
    assert (len(server.requests), type(error).__name__) == (requests, name)
    assert "inside a 200" in str(error)


@pytest.mark.parametrize("case", SELF_SAID)
def test_body_after_an_event(server, case):
    """After an event it breaks the stream off: the StreamError holds what came and the error."""
    status, body, name, message, _, expected = CASES[case]
    server.sse([EVENT, body])
    with llmlite.Client("test", base_url=server.url, api_key="", retry=POLICY) as llm, \
            pytest.raises(llmlite.StreamError) as caught:
        list(llm.stream("hello"))
    check(caught.value.last_error, expected, status, name, message)
    assert caught.value.response.text == "Hi"
    assert len(server.requests) == 1


@pytest.mark.parametrize("error, status", [
    ({"code": 400}, 400), ({"code": 599}, 599), ({"code": "429"}, 429), ({"code": 200}, 500), ({"code": 399}, 500),
    ({"code": 600}, 500), ({"code": -429}, 500), ({"code": 429.5}, 500), ({"code": True}, 500), ({"code": None}, 500),
    ({"code": "000000429" + "9" * 5000}, 500), ({"code": "\u0664\u0662\u0669"}, 500),
    ({"code": [429]}, 500), ({"code": {}}, 500), ({"type": "not_found_error"}, 404),
    ({"type": "permission_error"}, 403), ({"type": "authentication_error"}, 401), ({"type": "billing_error"}, 402),
    ({"type": "request_too_large"}, 413), ({"code": "model_not_found"}, 404), ({"status": "UNAUTHENTICATED"}, 401),
    ({"status": "PERMISSION_DENIED"}, 403),
    ({"status": "NOT_FOUND"}, 404), ({"status": "FAILED_PRECONDITION"}, 400), ({"status": "RESOURCE_EXHAUSTED"}, 429),
    ({"status": "INTERNAL"}, 500), ({"status": "UNAVAILABLE"}, 503), ({"status": "DEADLINE_EXCEEDED"}, 504),
    ({"type": "unavailable_error"}, 503), ({"type": "internal_server_error"}, 500), ({"type": "tornado"}, 500),
    ({"type": 5}, 500), ({}, 500), ({"type": "invalid_request_error", "code": "model_not_found"}, 404),
    ({"type": "server_error", "code": "rate_limit_exceeded"}, 429),
    ({"status": "UNAVAILABLE", "type": "permission_error"}, 403)])
@pytest.mark.parametrize("streams", [False, True])
def test_status_it_stands_for(server, error, status, streams):
    """An error inside a 200 stands for its code where that is a status of 400 to 599, else for its words, else 500.

    Where words differ the code's is taken, then the type's.
    """
    body = {"error": {"message": "no", **error}}
    server.handle(lambda request: testing.sse([body]) if streams else testing.json_body(body))
    raised = fails(server, "stream" if streams else "chat")
    assert isinstance(raised, llmlite.APIError)
    assert raised.status_code == status


@pytest.mark.parametrize("body", [
    {"object": "error", "message": "Invalid model", "code": 500}, {"error": "went down"}, {"message": "went down"},
    {"detail": "went down"}, {"detail": [{"msg": "went down"}]}, {"error": ["went down"]},
    [{"error": {"message": "went down"}}], {"code": "x", "error": "went down"}])
@pytest.mark.parametrize("method", ["chat", "stream"])
def test_odd_errors_inside_a_200(server, body, method):
    """Errors of other shapes inside a 200 are errors as well, not empty replies."""
    server.json(body, times=None)
    error = fails(server, method)
    assert (type(error), error.status_code) == (llmlite.ServerError, 500)
    assert "went down" in str(error) or "Invalid model" in str(error)


def test_details_are_shown_in_their_own_letters(server):
    """Of an error that is a list, too, the words are shown as they are, not by their numbers."""
    server.json({"detail": [{"msg": "Feld größe fehlt"}]}, status=422)
    assert "Feld größe fehlt" in str(fails(server, "chat"))


@pytest.mark.parametrize("nothing", [None, False, "", {}, [], 0])
@pytest.mark.parametrize("streams", [False, True])
def test_an_error_of_nothing(server, nothing, streams):
    """A good body that has an `error` of nothing is good."""
    reply = {"model": "m", "error": nothing, "choices": [{
        "index": 0, "message": {"role": "assistant", "content": "Paris"}, "delta": {"content": "Paris"},
        "finish_reason": "stop"}]}
    with llmlite.Client("test", base_url=server.url, api_key="", retry=None) as llm:
        if streams:
            server.sse([reply, "data: [DONE]\n\n"])
            assert "".join(llm.stream("hello")) == "Paris"
        else:
            server.json(reply)
            assert llm.chat("hello").text == "Paris"


# ------------------------------------------------------------------------------------------------- hostile bodies


ODD = [None, True, 0, -1, 1.5, "", "x", [], [None], {}, {"a": None}, [[]], "\ud83d", "9" * 5000]
SHAPES = [
    lambda odd: {"error": odd}, lambda odd: {"error": {"message": odd}},
    lambda odd: {"error": {"message": "m", "code": odd}},
    lambda odd: {"error": {"message": "m", "type": odd}}, lambda odd: {"error": {"message": "m", "status": odd}},
    lambda odd: {"error": {"message": "m", "details": odd}}, lambda odd: {"error": {"message": "m", "details": [odd]}},
    lambda odd: {"error": {"message": "m", "details": [{"violations": odd}]}},
    lambda odd: {"error": {"message": "m", "details": [{"violations": [{"quotaId": odd}]}]}},
    lambda odd: {"error": {"message": "m", "details": [{"reason": odd, "retryDelay": odd}]}},
    lambda odd: {"error": {"message": "m", "metadata": odd}},
    lambda odd: {"error": {"message": "m", "metadata": {"headers": odd, "error_type": odd, "limit_source": odd}}},
    lambda odd: {"error": {"message": "m", "metadata": {"headers": {"ratelimit-remaining": odd, "retry-after": odd}}}},
    lambda odd: {"message": odd, "detail": odd, "title": odd},
    lambda odd: {"error": "m", "request_id": odd, "code": odd},
    lambda odd: [odd], lambda odd: odd]


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_hostile_errors(server, shape):
    """Whatever stands where in an error's body, an APIError with one line comes out."""
    with llmlite.Client("test", base_url=server.url, api_key="sk-0123456789", retry=None) as llm:
        for odd in ODD:
            server.json(SHAPES[shape](odd), status=429)
            with pytest.raises(llmlite.APIError) as caught:
                llm.chat("hello")
            assert str(caught.value).isprintable()
            assert isinstance(caught.value.message, str)


@pytest.mark.parametrize("shape", range(len(SHAPES)))
@pytest.mark.parametrize("streams", [False, True])
def test_hostile_errors_inside_a_200(server, shape, streams):
    """Inside a 200, whole or streamed, nothing but our errors comes out."""
    with llmlite.Client("test", base_url=server.url, api_key="sk-0123456789", retry=None) as llm:
        for odd in ODD:
            body = SHAPES[shape](odd)
            if streams:
                server.sse([b"data: " + json.dumps(body).encode() + b"\n\n"])
            else:
                server.json(body)
            with pytest.raises(llmlite.LLMError) as caught:
                list(llm.stream("hello")) if streams else llm.chat("hello")
            assert str(caught.value).isprintable()


@pytest.mark.parametrize("body", [b"[" * 100000, b'{"error":' * 20000, b"\xff\xfe\x00", b"1" * 10000,
                                  b'{"error":{"message":' + b"[" * 500 + b"]" * 500 + b"}}"])
@pytest.mark.parametrize("status", [200, 400])
def test_hostile_bytes(server, body, status):
    """Nor out of bytes that break a JSON parser."""
    server.body(body, status=status)
    error = fails(server)
    kinds = (llmlite.ResponseError, llmlite.ServerError) if status == 200 else (llmlite.BadRequestError,)
    assert type(error) in kinds
    assert len(str(error)) < 500


@pytest.mark.parametrize("page", ["<html>" + "<title" * 200_000, "<html>" + "<title>" * 200_000, "<!--" + "<" * 900_000,
                                  "<html>" + "<a <" * 200_000], ids=["open", "tags", "comment", "attributes"])
def test_hostile_pages_take_no_time(server, page):
    """However a page is made, its title is looked for in a moment."""
    server.body(page.encode(), status=502)
    started = time.monotonic()
    assert type(fails(server)) is llmlite.ServerError
    assert within(0, started, 1)


def test_the_line_of_a_page(server):
    """The one line shows the page's title, and no tag; the whole page is on the error."""
    page = "<html><head><title>Sign in to Acme</title></head><body>" + "<div>" * 100
    for status in (200, 502):
        server.body(page.encode(), status=status, headers={"Content-Type": "text/html"})
        error = fails(server)
        assert "Sign in to Acme" in str(error) and "<" not in str(error)
        assert error.body in (page, page.encode())
