"""Google's generateContent: what only they send and say. What all dialects share is in test_dialects.py."""
import json

import pytest

from tests import llmlite, testing
from tests.dialects import CALLED, FAST, HI, drained

from tests.dialects.gemini import (  # isort: skip
    COUNTED, ERRORS, GEMINI, LAST, NAMELESS, SIGNED, THOUGHT, UNSIGNED, body, crlf, error, last, piece, retry_info,
    said,
)

ToolCall, Usage = llmlite.ToolCall, llmlite.Usage
client = GEMINI.client


@pytest.fixture
def llm(server):
    with client(server, model="m") as llm:
        yield llm


# --------------------------------------------------------------------------------------------------------- what is sent


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "models/gemini-2.5-pro"])
@pytest.mark.parametrize("effort", ["low", "high", "xhigh", "max"])
def test_effort_before_gemini_3_is_a_budget(server, model, effort):
    """The 2.5 models refuse a thinking level and take a budget of tokens."""
    server.reply("ok")
    client(server, model=model).chat("hi", reasoning_effort=effort)
    thinking = server.requests[0].json["generationConfig"]["thinkingConfig"]
    assert set(thinking) == {"thinkingBudget"}
    assert thinking["thinkingBudget"] > 0


@pytest.mark.parametrize("effort, level", [
    ("minimal", "MINIMAL"), ("medium", "MEDIUM"), ("xhigh", "XHIGH"), ("max", "XHIGH")])
def test_effort_since_gemini_3_is_a_level(server, effort, level):
    """Each effort under Google's own word; there is no level above XHIGH."""
    server.reply("ok")
    client(server).chat("hi", reasoning_effort=effort)
    assert server.requests[0].json["generationConfig"] == {"thinkingConfig": {"thinkingLevel": level}}


@pytest.mark.parametrize("model, path", [
    ("gemini-3-pro", "models/gemini-3-pro"), ("models/m", "models/m"), ("tunedModels/m", "tunedModels/m"),
    ("../x", "models/..%2Fx"), ("a?b#c", "models/a%3Fb%23c"), ("a/b", "models/a%2Fb"), ("a%2fb", "models/a%252fb"),
    ("models/../x", "models/models%2F..%2Fx"), ("gr\u00f6\u00dfe", "models/gr%C3%B6%C3%9Fe"), ("a b", "models/a%20b"),
])  # fmt: skip
def test_the_model_is_quoted_in_the_path(server, model, path):
    """A model's name cannot leave its place in the path, and "models/" is not doubled."""
    server.reply("ok", times=2)
    llm = client(server, model=model)
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


@pytest.mark.parametrize("raw", ["SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "JAILBREAK", "NOVELTY"])
def test_every_blocked_prompt_is_filtered(server, llm, raw):
    """A prompt blocked for whatever reason is a filtered reply, billed for its input."""
    server.json({"promptFeedback": {"blockReason": raw}, "usageMetadata": {"promptTokenCount": 4}})
    answer = llm.chat("hi")
    assert (answer.finish_reason, answer.raw_finish_reason, answer.text) == ("content_filter", raw, "")
    assert (llm.ledger.calls, llm.ledger.empty, llm.ledger.usage) == (1, 1, Usage(4))


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
    server.json(body(*parts)) if how == "chat" else server.sse(crlf(*(piece(part) for part in parts), last()))
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
    llm.chat([HI, {"role": "assistant", "content": None, "tool_calls": CALLED[:1]},
              llmlite.tool_result("call_1", content)])
    assert server.requests[0].json["contents"][2]["parts"][0]["functionResponse"]["response"] == {"output": output}


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("how", ["array", "inside", "raw-stream", "raw-array"])
@pytest.mark.parametrize("status, answer, kind, attempts", ERRORS)
def test_errors(server, status, answer, kind, attempts, how):
    """Each error under its class also in an array, inside a 200, and as a stream's raw JSON."""
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
    Logprob = llmlite.Logprob
    assert answer.logprobs == [Logprob("He", -0.5, (Logprob("He"),)), Logprob("llo", -0.5, (Logprob("llo"),))]
    found = answer.raw["candidates"][0]["logprobsResult"]
    assert len(found["chosenCandidates"]) == len(found["topCandidates"]) == 2


@pytest.mark.parametrize("raw", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS",
                                 "MALFORMED_RESPONSE", "MISSING_THOUGHT_SIGNATURE"])
def test_calls_that_google_refuses_are_not_run(server, llm, raw):
    """A finish reason that says the calls are no good makes each of them invalid: run_tools sends that back instead."""
    def wipe(path: str = "/"):
        ran.append(path)
    ran, call = [], {"functionCall": {"name": "wipe", "args": {}}}
    server.json(body(call, call, reason=raw))
    server.sse(crlf(piece(call), last(raw)))
    for answer, count in ((llm.chat("hi"), 2), (drained(llm.stream("hi")), 1)):
        assert [call.invalid for call in answer.tool_calls] == [f"refused by the provider: {raw!r}"] * count
    server.json(body(call, reason=raw))
    server.json(body({"text": "ok"}))
    assert llm.run_tools("hi", [wipe]).text == "ok" and ran == []
    told = server.requests[-1].json["contents"][-1]["parts"][0]["functionResponse"]["response"]
    assert raw in told["error"]
