"""Clouds: addresses filled from their own variables, keys that are tokens, requests that a session signs."""
import datetime
import hashlib
import hmac
import io
import json
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from requests.adapters import BaseAdapter
from requests_aws4auth import AWS4Auth

from tests import llmlite, testing
from tests.dialects import ADD, FAST, HI, KEY, PARAMETERS, drained

VARIABLES = ("GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "ANTHROPIC_VERTEX_PROJECT_ID", "CLOUD_ML_REGION",
             "AWS_REGION", "AWS_DEFAULT_REGION", "ANTHROPIC_FOUNDRY_RESOURCE", "DATABRICKS_HOST", "DATABRICKS_API_BASE",
             "SNOWFLAKE_ACCOUNT", "CLOUDFLARE_ACCOUNT_ID", "WATSONX_URL")
VERTEX = "https://{}/v1beta1/projects/p/locations/{}/publishers/google"
CLAUDE = "https://{}/v1/projects/p/locations/{}/publishers/anthropic"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def no_cloud(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


class Answers(BaseAdapter):
    """Stands where a provider's own host would; keeps what was sent."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.sent, self.limits = answer, [], []

    def send(self, request, timeout=None, **options):
        self.sent.append(request)
        self.limits.append(timeout)
        response = requests.Response()
        status, body = self.answer(request)
        response.status_code, response.url, response.request = status, request.url, request
        response._content = json.dumps(body).encode()
        return response

    def close(self):
        pass


@pytest.fixture
def session():
    with requests.Session() as session:
        yield session


def hi(request):
    """A good answer in any dialect."""
    return 200, {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "type": "message",
                 "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}


# ------------------------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize("name, environment, url", [
    ("vertex", {"GOOGLE_CLOUD_PROJECT": "p"}, VERTEX.format("aiplatform.googleapis.com", "global")),
    ("vertex", {"GOOGLE_CLOUD_PROJECT": "p", "GOOGLE_CLOUD_LOCATION": "europe-west4"},
     VERTEX.format("europe-west4-aiplatform.googleapis.com", "europe-west4")),
    ("vertex", {"GOOGLE_CLOUD_PROJECT": "p", "GOOGLE_CLOUD_LOCATION": "eu"},
     VERTEX.format("aiplatform.eu.rep.googleapis.com", "eu")),
    ("vertex-anthropic", {
        "ANTHROPIC_VERTEX_PROJECT_ID": "p", "GOOGLE_CLOUD_PROJECT": "x", "CLOUD_ML_REGION": "us-east5"},
     CLAUDE.format("us-east5-aiplatform.googleapis.com", "us-east5")),
    ("vertex-anthropic", {"GOOGLE_CLOUD_PROJECT": "p", "GOOGLE_CLOUD_LOCATION": "us"},
     CLAUDE.format("aiplatform.us.rep.googleapis.com", "us")),
    ("bedrock", {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "x"},
     "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1"),
    ("bedrock", {"AWS_DEFAULT_REGION": "us-gov-west-1"},
     "https://bedrock-runtime.us-gov-west-1.amazonaws.com/openai/v1"),
    ("bedrock-anthropic", {"AWS_REGION": "us-east-1"}, "https://bedrock-mantle.us-east-1.api.aws/anthropic"),
    ("azure", {"AZURE_OPENAI_ENDPOINT": "mine"}, "https://mine.openai.azure.com/openai/v1"),
    ("azure", {"AZURE_OPENAI_ENDPOINT": "mine.openai.azure.com"}, "https://mine.openai.azure.com/openai/v1"),
    ("azure", {"AZURE_OPENAI_ENDPOINT": "https://mine.openai.azure.com/openai/v1/?api-version=preview"},
     "https://mine.openai.azure.com/openai/v1"),
    ("azure", {"AZURE_OPENAI_ENDPOINT": "https://gateway.example/azure"}, "https://gateway.example/azure/openai/v1"),
    ("databricks", {"DATABRICKS_HOST": "https://adb.example/serving-endpoints/"},
     "https://adb.example/serving-endpoints"),
    ("snowflake", {"SNOWFLAKE_ACCOUNT": "org-acc.snowflakecomputing.com"},
     "https://org-acc.snowflakecomputing.com/api/v2/cortex/v1"),
    ("watsonx", {"WATSONX_URL": "eu-de.ml.cloud.ibm.com"}, "https://eu-de.ml.cloud.ibm.com/ml/gateway/v1"),
    ("azure-anthropic", {"ANTHROPIC_FOUNDRY_RESOURCE": "mine"}, "https://mine.services.ai.azure.com/anthropic"),
    ("azure-anthropic", {"ANTHROPIC_FOUNDRY_BASE_URL": "https://own.example/a/", "ANTHROPIC_FOUNDRY_RESOURCE": "x"},
     "https://own.example/a"),
    ("databricks", {"DATABRICKS_HOST": "https://adb-1.2.azuredatabricks.net/"},
     "https://adb-1.2.azuredatabricks.net/serving-endpoints"),
    ("databricks", {"DATABRICKS_HOST": "adb-1.2.azuredatabricks.net"},
     "https://adb-1.2.azuredatabricks.net/serving-endpoints"),
    ("databricks", {"DATABRICKS_API_BASE": "https://own.example/x"}, "https://own.example/x"),
    ("snowflake", {"SNOWFLAKE_ACCOUNT": "org-acc"}, "https://org-acc.snowflakecomputing.com/api/v2/cortex/v1"),
    ("cloudflare", {"CLOUDFLARE_ACCOUNT_ID": "0a1b"}, "https://api.cloudflare.com/client/v4/accounts/0a1b/ai/v1"),
    ("watsonx", {"WATSONX_URL": "https://eu-de.ml.cloud.ibm.com"}, "https://eu-de.ml.cloud.ibm.com/ml/gateway/v1"),
    ("watsonx", {"WATSONX_URL": "us-south"}, "https://us-south.ml.cloud.ibm.com/ml/gateway/v1")])
def test_an_address_is_filled(monkeypatch, name, environment, url):
    """From the variables that each cloud's own tools use; a provider's own BASE_URL is over them."""
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert repr(llmlite.Client(f"{name}/m", api_key=KEY)) == f"<Client {name}/m at {url}>"
    monkeypatch.setenv(name.upper().replace("-", "_") + "_BASE_URL", "https://mine.example/v9/")
    assert repr(llmlite.Client(f"{name}/m", api_key=KEY)) == f"<Client {name}/m at https://mine.example/v9>"
    given = llmlite.Client("m", provider=name, api_key=KEY, base_url="http://x.example")
    assert repr(given) == f"<Client {name}/m at http://x.example>"


@pytest.mark.parametrize("name, words", [
    ("vertex", "each project .*VERTEX_BASE_URL .*GOOGLE_CLOUD_PROJECT"),
    ("vertex-anthropic", "each project .*ANTHROPIC_VERTEX_PROJECT_ID or GOOGLE_CLOUD_PROJECT"),
    ("bedrock", "each region .*AWS_REGION or AWS_DEFAULT_REGION"),
    ("bedrock-anthropic", "each region .*BEDROCK_ANTHROPIC_BASE_URL .*AWS_REGION"),
    ("azure-anthropic", "each resource .*ANTHROPIC_FOUNDRY_RESOURCE"),
    ("databricks", "each workspace .*DATABRICKS_HOST"),
    ("snowflake", "each account .*SNOWFLAKE_ACCOUNT"), ("cloudflare", "each account .*CLOUDFLARE_ACCOUNT_ID"),
    ("watsonx", "each region .*WATSONX_URL")])
def test_an_address_that_lacks_something(name, words):
    """One line that names what is missing and the variable."""
    with pytest.raises(llmlite.ConfigurationError, match=f"^{name} has an address for {words}") as caught:
        llmlite.Client(f"{name}/m", api_key=KEY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["us east", "a/b", "evil.example/", "a@b", "a#b", "a?b"])
def test_a_variable_that_is_no_such_thing(monkeypatch, value):
    monkeypatch.setenv("AWS_REGION", value)
    with pytest.raises(llmlite.ConfigurationError, match="^AWS_REGION or AWS_DEFAULT_REGION: .* is no region"):
        llmlite.Client("bedrock/m", api_key=KEY)
    monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", f"https://{value}")
    with pytest.raises(llmlite.ConfigurationError, match="^CLOUDFLARE_ACCOUNT_ID: .* is no account"):
        llmlite.Client("cloudflare/m", api_key=KEY)


@pytest.mark.parametrize("url, name", [
    ("https://bedrock-runtime.us-east-1.amazonaws.com/openai/v1", "bedrock"),
    ("https://bedrock-mantle.us-east-1.api.aws/anthropic", "bedrock-anthropic"),
    (VERTEX.format("europe-west4-aiplatform.googleapis.com", "europe-west4"), "vertex"),
    (VERTEX.format("aiplatform.googleapis.com", "global"), "vertex"),
    (CLAUDE.format("aiplatform.eu.rep.googleapis.com", "eu"), "vertex-anthropic"),
    ("https://mine.services.ai.azure.com/anthropic", "azure-anthropic"),
    ("https://org-acc.snowflakecomputing.com/api/v2/cortex/v1", "snowflake"),
    ("https://api.cloudflare.com/client/v4/accounts/0a1b/ai/v1", "cloudflare"),
    # other doors of these hosts, and hosts that only look like them
    ("https://bedrock-runtime.us-east-1.amazonaws.com/anthropic", "compatible"),
    ("https://bedrock-mantle.us-east-1.api.aws/v1", "compatible"),
    ("https://europe-west4-aiplatform.googleapis.com/v1/projects/p/locations/l/endpoints/openapi", "compatible"),
    ("https://mine.services.ai.azure.com/openai/v1", "compatible"),
    ("https://mine.openai.azure.com/openai/deployments/d", "azure"),
    ("https://bedrock-runtime.s3.amazonaws.com/openai/v1", "compatible"),
    ("https://bedrock-runtime.us-east-1.amazonaws.com.evil.example/openai/v1", "compatible"),
    ("https://evil.example-aiplatform.googleapis.com" + VERTEX.format("", "l")[8:], "compatible"),
    ("https://evil.example/serving-endpoints", "compatible"),
    ("https://snowflakecomputing.com/api/v2/cortex/v1", "compatible")])
def test_a_cloud_is_known_by_host_and_path(monkeypatch, url, name):
    """So that a key in the environment goes to its own host alone."""
    for variable in (variable for _, _, names in llmlite.providers() for variable in names.split()):
        monkeypatch.setenv(variable, "k-" + variable.lower())
    monkeypatch.setenv("LLMLITE_API_KEY", "k-own")
    assert repr(llmlite.Client("m", base_url=url)) == f"<Client {name}/m at {url}>"


# ----------------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize("provider, header", [("azure", "api-key"), ("azure-anthropic", "x-api-key")])
@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("given, is_token", [
    (KEY, False), (JWT, True), (lambda: "short-lived", True), (lambda: JWT, True)],
    ids=["key", "jwt", "callable", "both"])
def test_a_token_of_entra(server, provider, header, api, given, is_token):
    """A token goes out as a bearer's, a key in the header of its own: in each dialect."""
    if provider == "azure-anthropic" and api == "responses":
        return
    server.reply("ok")
    base = server.root if provider == "azure-anthropic" else server.url
    with llmlite.Client("m", provider=provider, base_url=base, api_key=given, api=api) as llm:
        assert llm.chat("hi").text == "ok"
    headers, key = server.requests[0].headers, given() if callable(given) else given
    assert headers.get("authorization") == (f"Bearer {key}" if is_token else None)
    assert headers.get(header) == (None if is_token else key)


def test_an_empty_key_of_azure_is_none(server):
    server.reply("ok")
    with llmlite.Client("m", provider="azure", base_url=server.url, api_key=lambda: "") as llm:
        llm.chat("hi")
    assert "authorization" not in server.requests[0].headers and "api-key" not in server.requests[0].headers


def test_tokens_of_attempts_before_show_nowhere(server):
    keys = iter(["token-000000000001", "token-000000000002"])
    server.error(401, "expired")
    server.error(400, "you sent token-000000000001, then token-000000000002")
    with llmlite.Client("m", base_url=server.url, api_key=lambda: next(keys), retry=FAST) as llm:
        with pytest.raises(llmlite.BadRequestError, match=r"you sent \*\*\*, then \*\*\*") as caught:
            llm.chat("hi")
    assert "token-0" not in repr(vars(caught.value))


def test_azures_token_from_the_environment(server, monkeypatch):
    """A key goes first, where both are set."""
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", "short-lived")
    server.reply("ok", times=2)
    llmlite.Client("m", provider="azure", base_url=server.url).chat("hi")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    llmlite.Client("m", provider="azure", base_url=server.url).chat("hi")
    first, second = (request.headers for request in server.requests)
    assert (first["authorization"], first.get("api-key")) == ("Bearer short-lived", None)
    assert (second.get("authorization"), second["api-key"]) == (None, KEY)


SLOW = llmlite.RetryPolicy(backoff=4, rate_limit_backoff=4)
CALLS = {"chat": lambda llm: llm.chat("hi"), "stream": lambda llm: drained(llm.stream("hi")),
         "models": lambda llm: llm.models(), "request": lambda llm: llm.request("POST", "/x", json={}),
         "embed": lambda llm: llm.embed("hi")}


@pytest.mark.parametrize("ask", CALLS)
def test_a_refused_token_is_asked_for_once_more(server, ask):
    """A callable is asked again after a 401, once and at once; each attempt is in the ledger."""
    keys = iter(["old-token", "new-token", "newer-token"])
    good = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
            "data": [{"id": "m", "embedding": [1]}]}

    def answer(request):
        if request.headers["authorization"] == "Bearer old-token":
            return testing.error(401, "expired")
        return testing.stream(["Hi"]) if ask == "stream" else testing.json_body(good)

    server.handle(answer)
    with llmlite.Client("m", base_url=server.url, api_key=lambda: next(keys), retry=SLOW) as llm:
        CALLS[ask](llm)
        assert server.requests[1].time - server.requests[0].time < 1.5  # of a backoff of two seconds and more
        assert (llm.ledger.attempts, llm.ledger.calls, llm.ledger.failed, llm.ledger.retries) == (2, 1, 0, 1)
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer old-token", "Bearer new-token"]


@pytest.mark.parametrize("key, retry, requests_", [
    (lambda: "token", FAST, 2), (lambda: "token", None, 1), ("token-123456", FAST, 1)], ids=["callable", "once", "str"])
def test_a_token_that_stays_refused(server, key, retry, requests_):
    server.error(401, "no", times=None)
    with llmlite.Client("m", base_url=server.url, api_key=key, retry=retry) as llm:
        with pytest.raises(llmlite.AuthenticationError) as caught:
            llm.chat("hi")
    assert len(server.requests) == caught.value.attempts == requests_


def test_a_body_that_is_spent_is_not_sent_with_a_new_token(server):
    server.error(401, "no", times=None)
    with llmlite.Client("m", base_url=server.url, api_key=lambda: "token", retry=FAST) as llm:
        with pytest.raises(llmlite.AuthenticationError, match="401 Unauthorized: no"):
            llm.request("POST", "/x", data=iter([b"a"]))
    assert len(server.requests) == 1


# --------------------------------------------------------------------------------------------------------------- vertex


def test_anthropic_at_vertex(server):
    """The model and the method are in the path, the version in the body; all else is Anthropic's."""
    server.reply("ok")
    server.stream(["o", "k"])
    server.json({"input_tokens": 9})
    model = "claude-opus-5@20260401"
    with llmlite.Client(model, provider="vertex-anthropic", base_url=server.root, api_key=KEY) as llm:
        assert llm.chat("hi", system="s").text == "ok" and drained(llm.stream("hi", tools=[ADD])).text == "ok"
        assert llm.count_tokens("hi", system="s") == 9
    chat, stream, count = server.requests
    assert chat.path == "/models/claude-opus-5@20260401:rawPredict"
    assert stream.path == "/models/claude-opus-5@20260401:streamRawPredict"
    assert count.path == "/models/count-tokens:rawPredict"
    version = {"anthropic_version": "vertex-2023-10-16"}
    assert chat.json == {**version, "max_tokens": 4096, "messages": [HI], "system": "s"}
    assert stream.json == {**version, "max_tokens": 4096, "messages": [HI], "stream": True, "tools": [
        {"name": "add", "description": "Adds.", "input_schema": PARAMETERS}]}
    assert count.json == {"model": "claude-opus-5@20260401", **version, "messages": [HI], "system": "s"}
    assert "anthropic-version" not in chat.headers and chat.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("provider, ask", [
    ("vertex", "models"), ("vertex-anthropic", "models"), ("vertex", "embed"), ("vertex-anthropic", "embed")])
def test_what_vertex_has_elsewhere(server, provider, ask):
    """It is not asked at an address that is another API's."""
    with llmlite.Client("m", provider=provider, base_url=server.root, api_key=KEY) as llm:
        with pytest.raises(llmlite.ConfigurationError, match=rf"^{ask}\(\) asks for what this provider does not offer"):
            llm.models() if ask == "models" else llm.embed("hi")
    assert server.requests == []


def test_gemini_at_vertex_counts_a_request_as_it_is(server):
    server.json({"totalTokens": 9, "totalBillableCharacters": 2})
    with llmlite.Client("gemini-3-pro", provider="vertex", base_url=server.root, api_key=KEY) as llm:
        assert llm.count_tokens("hi", system="s") == 9
    assert server.requests[0].path == "/models/gemini-3-pro:countTokens"
    assert server.requests[0].json == {"contents": [{"role": "user", "parts": [{"text": "hi"}]}],
                                       "systemInstruction": {"parts": [{"text": "s"}]}}


@pytest.mark.parametrize("name, environment, whole", [
    ("azure-anthropic", {"ANTHROPIC_FOUNDRY_RESOURCE": "mine"}, True),
    ("bedrock-anthropic", {"AWS_REGION": "us-east-1"}, False),
    ("vertex-anthropic", {"GOOGLE_CLOUD_PROJECT": "p"}, False)])
def test_prompt_cache(monkeypatch, session, name, environment, whole):
    """Azure knows a mark on the whole body; at Bedrock and Vertex it stands on blocks."""
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    answers = Answers(hi)
    session.mount("https://", answers)
    with llmlite.Client(f"{name}/m", api_key=KEY, session=session) as llm:
        llm.chat("hi", prompt_cache=True)
    body, mark = json.loads(answers.sent[0].body), {"type": "ephemeral"}
    assert body.get("cache_control") == (mark if whole else None)
    assert body["messages"] == [HI if whole else {"role": "user", "content": [
        {"type": "text", "text": "hi", "cache_control": mark}]}]


# -------------------------------------------------------------------------------------------------------------- bedrock

ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def signature(request, region, service):
    """The signature that a request must have (AWS Signature Version 4), by the names that it says are signed."""
    said = dict(part.strip().split("=", 1) for part in request.headers["authorization"].partition(" ")[2].split(","))
    names, date = said["SignedHeaders"].split(";"), request.headers["x-amz-date"]
    path, _, query = request.path.partition("?")
    headers = "".join(f"{name}:{request.headers[name].strip()}\n" for name in names)
    canonical = "\n".join((request.method, urllib.parse.quote(path, safe="/%-_.~"), query, headers, ";".join(names),
                           hashlib.sha256(request.body).hexdigest()))
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = ("AWS4" + SECRET).encode()
    for part in (*scope.split("/"), text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    assert said["Credential"] == f"{ACCESS}/{scope}"
    assert {"host", "x-amz-date"} <= set(names)
    age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.strptime(
        date + "+0000", "%Y%m%dT%H%M%SZ%z")
    assert abs(age.total_seconds()) < 60
    return said["Signature"], key.hex()


@pytest.mark.parametrize("provider, base", [("bedrock", "/openai/v1"), ("bedrock-anthropic", "/anthropic")])
@pytest.mark.parametrize("ask", ["chat", "stream", "request"])
def test_a_session_that_signs(server, session, provider, base, ask):
    """It signs the bytes that go out, each attempt anew, without a key of ours beside."""
    session.auth = AWS4Auth(ACCESS, SECRET, "us-east-1", "bedrock")
    found = []

    def answer(request):
        found.append(signature(request, "us-east-1", "bedrock"))
        if len(found) < 3:
            return testing.error(503 if len(found) == 1 else 429, "again")
        return testing.stream(["o", "k"]) if ask == "stream" else testing.reply("ok")

    server.handle(answer)
    with llmlite.Client("m", provider=provider, base_url=server.root + base, session=session, retry=FAST) as llm:
        if ask == "chat":
            assert llm.chat("h\u00e9", temperature=0.5).text == "ok"
        elif ask == "stream":
            assert drained(llm.stream("h\u00e9")).text == "ok"
        else:
            path = "/chat/completions" if provider == "bedrock" else "/v1/messages"
            assert "ok" in llm.request("POST", path, json={"a": "h\u00e9"}).text
    assert len(found) == 3 and all(theirs == ours for theirs, ours in found)
    assert all(request.headers["authorization"].startswith("AWS4-HMAC-SHA256 ") for request in server.requests)


@pytest.mark.parametrize("data", [iter([b"a", b"b"]), io.BytesIO(b"ab")])
def test_what_is_read_as_it_is_sent_is_signed_too(server, session, data):
    """It is read before, for the signature is of all of it."""
    session.auth, found = AWS4Auth(ACCESS, SECRET, "us-east-1", "bedrock"), []
    server.handle(lambda request: found.append(signature(request, "us-east-1", "bedrock")) or testing.json_body({}))
    with llmlite.Client("m", provider="bedrock", base_url=server.root, session=session) as llm:
        llm.request("POST", "/files", data=data)
    assert server.requests[0].body == b"ab" and found[0][0] == found[0][1]


def test_a_session_with_auth_needs_no_key(session):
    """A session without is told what is missing."""
    with pytest.raises(llmlite.ConfigurationError, match="no key for bedrock.*AWS_BEARER_TOKEN_BEDROCK"):
        llmlite.Client("m", provider="bedrock", base_url="https://x.example", session=session)


def test_responses_of_bedrock(server):
    """`data:` may come before `event:`; the ids of calls begin anew with each response, and are told apart here."""
    def event(type_, **data):
        return f"data: {json.dumps({'type': type_, **data})}\nevent: {type_}\n\n".encode()

    def call(index):
        return {"id": f"fc_{index}", "type": "function_call", "call_id": f"call_{index}", "name": "add",
                "arguments": "{}", "status": "completed"}

    def answer(id, *items):
        return {"id": id, "object": "response", "status": "completed", "output": list(items)}

    long = "resp_" + "0" * 40
    server.json(answer(long + "/1", call(0), call(1), {**call(2), "call_id": None}))
    whole = answer("resp_2", call(0))
    server.body(b"".join([
        event("response.created", response={**whole, "output": [], "status": "in_progress"}),
        event("response.output_item.added", output_index=0, item={**call(0), "arguments": ""}),
        event("response.output_item.done", output_index=0, item=call(0)),
        event("response.completed", response=whole)]), headers={"Content-Type": "text/event-stream"})
    server.reply("ok")
    with llmlite.Client("openai.gpt-5.5", provider="bedrock", base_url=server.url, api_key=KEY, api="responses") as llm:
        first = llm.chat("hi", tools=[ADD])
        history = [HI, first.message, *(llmlite.tool_result(one, "1") for one in first.tool_calls)]
        second = drained(llm.stream(history, tools=[ADD]))
        history += [second.message, *(llmlite.tool_result(one, "2") for one in second.tool_calls)]
        llm.chat(json.loads(json.dumps(history)), tools=[ADD])
    ids = [one.id for one in first.tool_calls[:2] + second.tool_calls]
    assert ids == ["00000000000000_1_call_0", "00000000000000_1_call_1", "resp_2_call_0"]  # fit for Anthropic too
    items = server.requests[2].json["input"]
    assert [item["call_id"] for item in items if "call_id" in item] == [
        *ids[:2], "fc_2", *ids[:2], "fc_2", ids[2], ids[2]]
    assert first.raw["output"][0]["call_id"] == "call_0"
    assert server.requests[0].json["include"] == ["reasoning.encrypted_content"]


@pytest.mark.parametrize("name, environment, url, own", [
    ("azure", {"AZURE_OPENAI_ENDPOINT": "https://own.gateway.example"}, "https://own.gateway.example/openai/v1", True),
    ("azure", {"AZURE_OPENAI_ENDPOINT": "https://own.gateway.example"}, "https://other.example/openai/v1", False),
    ("azure", {"AZURE_BASE_URL": "http://own.example/v1"}, "http://own.example/v1", True),
    ("azure", {"AZURE_BASE_URL": "https://own.example/v1"}, "http://own.example/v1", False),
    ("azure", {"AZURE_BASE_URL": "https://own.example/v1", "AZURE_OPENAI_ENDPOINT": "https://x.example"},
     "https://own.example/v1", True),
    ("azure", {}, "https://mine.openai.azure.com/openai/v1", True),
    ("azure", {}, "http://mine.openai.azure.com/", False),
    ("databricks", {"DATABRICKS_HOST": "https://adb.example"}, "https://adb.example/serving-endpoints", True),
    ("databricks", {}, "https://adb.example/serving-endpoints", False),
    ("bedrock", {}, "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1", True), ("databricks", {}, "", False)])
def test_a_saved_request_goes_where_its_key_is_meant_for(monkeypatch, tmp_path, name, environment, url, own):
    """A file that names another address does not get the key of the environment."""
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    variables, = (keys for row, _, keys in llmlite.providers() if row == name)
    monkeypatch.setenv(variables.split()[0], KEY)
    path = tmp_path / "saved.json"
    path.write_text(json.dumps({"provider": name, "model": "m", "base_url": url, "path": "/x", "method": "GET",
                                "body": None, "task": "models", "given": {"Content-Length": 5}}))
    words = r"headers\['Content-Length'\]" if own else "names an address of its own"
    with pytest.raises(llmlite.ConfigurationError, match=words):
        llmlite.replay(str(path))


# -------------------------------------------------------------------------------------------------------------- watsonx


class IBM:
    """IAM and watsonx: a token is good for so many calls."""

    def __init__(self, calls=99, expires_in=3600, refuse=0):
        self.tokens, self.calls, self.expires_in, self.refuse, self.seen = 0, calls, expires_in, refuse, []

    def __call__(self, request):
        if request.url == "https://iam.cloud.ibm.com/identity/token":
            form = urllib.parse.parse_qs(request.body.decode())
            assert form == {"grant_type": ["urn:ibm:params:oauth:grant-type:apikey"], "apikey": [KEY]}
            assert "Authorization" not in request.headers
            if self.refuse:
                self.refuse -= 1
                return 400, {"errorCode": "BXNIM0415E", "errorMessage": f"API key {KEY} could not be found."}
            self.tokens += 1
            return 200, {"access_token": f"token-{self.tokens}", "expires_in": self.expires_in, "token_type": "Bearer"}
        assert request.url == "https://us-south.ml.cloud.ibm.com/ml/gateway/v1/chat/completions"
        self.seen.append(request.headers["Authorization"])
        good = request.headers["Authorization"] == f"Bearer token-{self.tokens}" and self.calls
        self.calls -= bool(good)
        return hi(request) if good else (401, {"error": {"message": "expired"}})


@pytest.fixture
def watsonx(session, monkeypatch):
    monkeypatch.setenv("WATSONX_URL", "https://us-south.ml.cloud.ibm.com")
    monkeypatch.setenv("WATSONX_APIKEY", KEY)

    def client(ibm, **options):
        session.mount("https://", Answers(ibm))
        return llmlite.Client("watsonx/m", session=session, retry=FAST, **options)

    return client


def test_ibms_key_is_exchanged_for_a_token(watsonx):
    """Once for all calls until it is about to expire; the key itself goes to IAM alone."""
    ibm = IBM()
    with watsonx(ibm) as llm:
        assert [llm.chat("hi").text for _ in range(3)] == ["Hi"] * 3
        assert llm.ledger.calls == llm.ledger.attempts == 3
    assert ibm.seen == ["Bearer token-1"] * 3
    ibm = IBM(expires_in=0)
    with watsonx(ibm) as llm:
        assert [llm.chat("hi").text for _ in range(2)] == ["Hi"] * 2
    assert ibm.seen == ["Bearer token-1", "Bearer token-2"]


def test_a_token_is_not_held_to_its_very_end(watsonx):
    """One that is good for a second is asked for anew before that is over."""
    ibm = IBM(expires_in=1)
    with watsonx(ibm) as llm:
        llm.chat("hi")
        time.sleep(0.95)
        assert llm.chat("hi").text == "Hi" and ibm.seen == ["Bearer token-1", "Bearer token-2"]


def test_ibms_token_is_asked_for_anew_when_it_is_refused(watsonx):
    ibm = IBM()
    with watsonx(ibm) as llm:
        llm.chat("hi")
        ibm.tokens += 1  # the first one is no longer good
        assert llm.chat("hi").text == "Hi"
    assert ibm.seen == ["Bearer token-1", "Bearer token-1", "Bearer token-3"]


def test_ibms_key_that_is_refused(watsonx):
    """The error is IAM's, without the key; nothing was asked of watsonx."""
    ibm = IBM(refuse=1)
    with watsonx(ibm) as llm, pytest.raises(llmlite.BadRequestError, match="^watsonx: 400 .*could not be") as caught:
        llm.chat("hi")
    assert KEY not in str(caught.value) + repr(caught.value.body) and ibm.seen == [] and llm.ledger.failed == 1


@pytest.mark.parametrize("answer", [{}, {"access_token": 5}, [], "<html>"])
def test_iam_that_gives_no_token(watsonx, answer):
    """Nothing is asked without one."""
    seen = []
    with watsonx(lambda request: seen.append(request.url) or (200, answer)) as llm:
        with pytest.raises(llmlite.ResponseError, match="^watsonx: no access_token in the answer: https://iam"):
            llm.chat("hi")
    assert seen == ["https://iam.cloud.ibm.com/identity/token"] and llm.ledger.attempts == 0


def test_iam_keeps_to_the_clients_terms(session, monkeypatch):
    """Its retries and the call's deadline."""
    monkeypatch.setenv("WATSONX_URL", "us-south")
    answers = Answers(lambda request: (503, {"errorMessage": "busy"}))
    session.mount("https://", answers)
    with llmlite.Client("watsonx/m", api_key=KEY, session=session, retry=None) as llm:
        with pytest.raises(llmlite.OverloadedError, match="^watsonx: 503 .*busy"):
            llm.chat("hi", deadline=3)
    assert len(answers.sent) == 1 and all(0 < limit <= 3 for limit in answers.limits[0])


def test_many_threads_ask_iam_once(watsonx):
    """The others wait for the one that asks."""
    ibm = IBM()
    with watsonx(ibm) as llm, ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: llm.chat("hi").text, range(16))) == {"Hi"}
    assert ibm.tokens == 1


def test_a_call_waits_for_another_ones_token_within_its_deadline(watsonx):
    asked, go, ibm = threading.Event(), threading.Event(), IBM()

    def slow(request):
        if "iam" in request.url:
            asked.set()
            go.wait(20)
        return ibm(request)

    with watsonx(slow) as llm, ThreadPoolExecutor(1) as pool:
        first = pool.submit(llm.chat, "hi")
        assert asked.wait(20)
        with pytest.raises(llmlite.DeadlineExceededError, match="^watsonx: .* another call waits for a token"):
            llm.chat("hi", deadline=0.2)
        go.set()
        assert first.result().text == "Hi" and ibm.tokens == 1


def test_ibms_key_stays_with_a_gateway(session, monkeypatch):
    """At another host the key is what that host is to have: IAM hears nothing of it."""
    answers = Answers(hi)
    session.mount("https://", answers)
    url = "https://gateway.example/v1"
    with llmlite.Client("m", provider="watsonx", base_url=url, api_key=KEY, session=session) as llm:
        llm.chat("hi")
    assert [request.url for request in answers.sent] == ["https://gateway.example/v1/chat/completions"]
    assert answers.sent[0].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key, sent", [(JWT, JWT), (lambda: "own-token", "own-token")], ids=["jwt", "callable"])
def test_what_is_a_token_already(watsonx, key, sent):
    ibm = IBM(calls=0)
    with watsonx(ibm, api_key=key) as llm, pytest.raises(llmlite.AuthenticationError):
        llm.chat("hi")
    assert set(ibm.seen) == {f"Bearer {sent}"} and ibm.tokens == 0


# ----------------------------------------------------------------------------------------------- what only Responses do


@pytest.mark.parametrize("model, options, path", [
    ("gpt-5.6", {"tools": [ADD], "reasoning_effort": "low"}, "/v1/responses"),
    ("gpt-5.6-mini", {"tools": [ADD], "reasoning_effort": "low"}, "/v1/responses"),
    ("ft:gpt-5.6:mine", {"tools": [ADD], "reasoning_effort": "low"}, "/v1/responses"),
    ("gpt-5.6", {"tools": [ADD], "extra": {"reasoning_effort": "low"}}, "/v1/chat/completions"),  # a chat's own words
    ("gpt-5.6", {"tools": [ADD], "reasoning_effort": "none"}, "/v1/chat/completions"),
    ("gpt-5.6", {"tools": [ADD]}, "/v1/chat/completions"),
    ("gpt-5.6", {"reasoning_effort": "low"}, "/v1/chat/completions"),
    ("gpt-5.5", {"tools": [ADD], "reasoning_effort": "low"}, "/v1/chat/completions")])
@pytest.mark.parametrize("provider, prefix", [("openai", ""), ("azure", ""), ("bedrock", "openai.")])
def test_tools_with_an_effort(server, provider, prefix, model, options, path):
    """GPT-5.6 takes both in Responses only."""
    server.reply("ok", times=2)
    with llmlite.Client(prefix + model, provider=provider, base_url=server.url, api_key=KEY) as llm:
        assert llm.chat("hi", **options).text == "ok" == drained(llm.stream("hi", **options)).text
    assert [request.path for request in server.requests] == [path] * 2
