"""chat() against golden JSON: exactly what is sent, exactly what is read; models(), message helpers, one-liners."""
import http.client
import json
import math
import socket

import pytest

from tests import llmlite, named, testing
from tests.beside import idle

HI = [{"role": "user", "content": "hi"}]
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
SEARCH = {"type": "web_search"}
PARTS = [{"type": "text", "text": "b"}]


def body(message=None, finish_reason="stop", **more):
    """A chat completion's body."""
    message = {"role": "assistant", "content": "hello", **(message or {})}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "served", "choices": [choice], **more}


def read(server, llm, answer, **how):
    """The Response that an answer's body becomes."""
    server.json(answer, **how)
    return llm.chat("hi")


# --------------------------------------------------------------------------------------------------------- what is sent


def test_plain_chat_on_the_wire(server, llm):
    """A plain chat's body is the model and the messages, to the byte, with its length told."""
    server.reply("ok")
    llm.chat("hi")
    request = server.requests[0]
    assert request.body == b'{"model":"test","messages":[{"role":"user","content":"hi"}]}'
    assert (request.method, request.path, request.version) == ("POST", "/v1/chat/completions", "HTTP/1.1")
    assert request.headers["content-length"] == str(len(request.body))


@pytest.mark.parametrize("asked, sizes", [
    (lambda llm: llm.chat("hi"), ["head and body"]),
    (lambda llm: llm.stream("hi").text, ["head and body"]),
    (lambda llm: llm.models(), ["head"]),
    (lambda llm: llm.chat("x" * 100_000), ["head", "body"]),
], ids=["chat", "stream", "no body", "large"])
def test_a_small_request_goes_out_in_one_piece(server, llm, monkeypatch, asked, sizes):
    """Head and body of a small request are one packet; a large body is not copied for that."""
    sent = []

    class Socket(socket.socket):
        def sendall(self, data, *flags):
            if self.getpeername()[1] == server.port:
                parts = {"head": b"HTTP/1.1\r\n" in data, "body": data.endswith(b"}")}
                sent.append(" and ".join(name for name, held in parts.items() if held))
            super().sendall(data, *flags)

    monkeypatch.setattr(socket, "socket", Socket)
    server.json({"data": []}) if sizes == ["head"] else server.reply("ok")
    asked(llm)
    assert sent == sizes
    assert len(server.requests) == 1


OWN_HEADERS = [
    {}, {"X-Team": "größe", "user-agent": "mine"}, {"Host": "elsewhere"}, {"content-length": "3"}, {"User-Agent": None},
    {"ACCEPT-ENCODING": None, "accept": "*/*"}, {"Connection": "close"}, {"Authorization": None}, {"X-Empty": ""},
    {"X-Team": "a", "Authorization": "Bearer a", "x-team": "b", "authorization": "Bearer b"}]


@pytest.mark.parametrize("headers", OWN_HEADERS, ids=str)
@pytest.mark.parametrize("asked", [
    lambda llm, **options: llm.chat("hi", **options), lambda llm, **options: list(llm.stream("hi", **options)),
    lambda llm, **options: llm.chat("x" * 100_000, **options), lambda llm, **options: llm.models(),
], ids=["chat", "stream", "large", "models"])
def test_each_connection_is_asked_for_the_same(server, asked, headers):
    """What goes out over a connection that was idle is, byte for byte, what went out over a new one."""
    server.handle(lambda request: testing.reply("ok") if request.body else testing.json_body({"data": []}))
    with llmlite.Client("m", base_url=server.url, api_key="sk-1", retry=None) as llm:
        asked(llm)
        asked(llm, headers=headers)
        server.drop_connections()
        assert idle(server)
        asked(llm, headers=headers)
    _, again, new = server.requests
    assert (again.connection, new.connection) == (1, 2)
    assert (again.head, again.body) == (new.head, new.body)


def test_a_host_for_one_call_is_that_calls_alone(server, llm):
    """Wherever it stands in the head, the next call has the address's own again."""
    server.reply("ok", times=3)
    bare = dict.fromkeys(("User-Agent", "Accept-Encoding", "Accept", "Content-Type", "Authorization"))
    llm.chat("hi", headers={"Host": "tenant-a.example", **bare})
    llm.chat("hi")
    llm.chat("hi")
    own = f"{server.host}:{server.port}"
    assert [request.headers["host"] for request in server.requests] == ["tenant-a.example", own, own]


def test_a_connection_that_the_server_closes_after_its_answer(server, llm):
    """What an idle connection's last answer says of its end is believed, and the answer is read whole."""
    server.reply("ok")
    server.reply("o" * 100_000, headers={"Connection": "close"})
    server.reply("ok")
    assert [len(llm.chat("hi").text) for _ in range(3)] == [2, 100_000, 2]
    assert [request.connection for request in server.requests] == [1, 1, 2]


def test_a_connection_that_switches_to_another_protocol(server, llm):
    """After a 101, which nobody asked for, there are no more answers of HTTP on it."""
    server.reply("ok")
    server.raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n\r\n", 0.2)
    server.reply("ok")
    llm.chat("hi")
    with pytest.raises(llmlite.LLMError):
        llm.chat("hi")
    llm.chat("hi")
    assert [request.connection for request in server.requests] == [1, 1, 2]


@pytest.mark.parametrize("see", ["urllib3", "http.client"])
def test_who_follows_what_is_sent_sees_each_request(server, llm, monkeypatch, capsys, caplog, see):
    """urllib3's log and http.client's debug output tell of requests over a connection that was idle too."""
    server.reply("ok", times=3)
    llm.chat("hi")
    if see == "urllib3":
        caplog.set_level("DEBUG", "urllib3.connectionpool")
    else:
        monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    llm.chat("hi")
    llm.chat("hi")
    told = caplog.text.count('"POST /v1/chat/completions HTTP/1.1" 200') or capsys.readouterr().out.count("send: ")
    assert told == 2 and server.connections == 1


@pytest.mark.parametrize("args, sent", [
    ({"messages": HI}, {"messages": HI}),
    ({"messages": tuple(HI)}, {"messages": HI}),
    ({"messages": ""}, {"messages": [{"role": "user", "content": ""}]}),
    ({"messages": "größe \u2028 \U0001f600"}, {"messages": [{"role": "user", "content": "größe \u2028 \U0001f600"}]}),
    ({"messages": "hi", "system": "Be brief."}, {"messages": [{"role": "system", "content": "Be brief."}, *HI]}),
    ({"messages": [llmlite.system("a"), *HI], "system": "b"},
     {"messages": [{"role": "system", "content": "b"}, {"role": "system", "content": "a"}, *HI]}),
    ({"messages": [llmlite.user("a"), llmlite.assistant("b"), llmlite.user("c")]},
     {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                   {"role": "user", "content": "c"}]}),
    ({"messages": [{"role": "developer", "content": "a"}, {"role": "user", "content": PARTS}]},
     {"messages": [{"role": "developer", "content": "a"}, {"role": "user", "content": PARTS}]}),
    ({"temperature": 0.0}, {"temperature": 0.0}),
    ({"temperature": 0, "top_p": 0.5, "top_k": 0, "seed": 0}, {"temperature": 0, "top_p": 0.5, "top_k": 0, "seed": 0}),
    ({"temperature": None, "top_p": None, "top_k": None, "max_tokens": None, "stop": None, "seed": None, "tools": None,
      "tool_choice": None, "schema": None, "reasoning_effort": None, "extra": None, "system": None}, {}),
    ({"max_tokens": 7}, {"max_tokens": 7}),
    ({"stop": "END"}, {"stop": "END"}),
    ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
    ({"stop": [], "tools": []}, {}),
    ({"stop": (), "tools": ()}, {}),
    ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
    ({"tools": [ADD, SEARCH], "tool_choice": "auto"}, {"tools": [ADD, SEARCH], "tool_choice": "auto"}),
    ({"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "add"}}},
     {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "add"}}}),
    ({"extra": {"priority": 3, "nested": {"a": [None]}, "logit_bias": {7: -1}}},
     {"priority": 3, "nested": {"a": [None]}, "logit_bias": {"7": -1}}),
    ({"temperature": 0.5, "extra": {"temperature": 0.9, "model": "x"}}, {"temperature": 0.9, "model": "x"}),
    ({"extra": {"null": None}}, {"null": None}),
])  # fmt: skip
def test_request_body(server, llm, args, sent):
    """What is asked for is sent under its name, and nothing else: None is not 0."""
    server.reply("ok")
    llm.chat(**{"messages": "hi", **args})
    assert server.requests[0].json == {"model": "test", "messages": HI, **sent}


def test_nothing_of_the_callers_is_changed(server, llm):
    """Messages, tools and extra are the caller's: a call leaves them as they were."""
    server.reply("ok")
    history = [{"role": "tool", "tool_call_id": "1", "content": "x", "is_error": True}]
    extra, before = {"a": {"b": 1}}, json.dumps(history)
    llm.chat(history, system="s", extra=extra)
    assert json.dumps(history) == before and extra == {"a": {"b": 1}}


@pytest.mark.parametrize("provider, name", [
    ("openai", "max_completion_tokens"), ("openrouter", "max_tokens"), ("groq", "max_tokens"), ("vllm", "max_tokens"),
    ("ollama", "max_tokens"), ("mistral", "max_tokens"),
])  # fmt: skip
def test_max_tokens_by_the_providers_name(server, provider, name):
    """max_tokens goes out under the one name that the provider knows."""
    server.reply("ok")
    llmlite.Client("m", provider=provider, base_url=server.url, api_key="k").chat("hi", max_tokens=5)
    assert server.requests[0].json == {"model": "m", "messages": HI, name: 5}


@pytest.mark.parametrize("provider, extra, sent", [
    (None, None, {"stream_options": {"include_usage": True}}),
    ("openai", None, {"stream_options": {"include_usage": True}}),
    ("mistral", None, {}),
    (None, {"stream_options": {"include_obfuscation": False}},
     {"stream_options": {"include_usage": True, "include_obfuscation": False}}),
    (None, {"stream_options": {"include_usage": False}}, {"stream_options": {"include_usage": False}}),
])  # fmt: skip
def test_stream_body(server, provider, extra, sent):
    """A stream asks for its usage where the provider knows how; extra= has the last word."""
    server.stream(["o", "k"])
    with llmlite.Client("m", provider=provider, base_url=server.url, api_key="k").stream("hi", extra=extra) as stream:
        assert "".join(stream) == "ok"
    assert server.requests[0].json == {"model": "m", "messages": HI, "stream": True, **sent}


# -------------------------------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize("method, accept", [("chat", "application/json"), ("stream", "text/event-stream")])
def test_default_headers(server, llm, method, accept):
    """These headers are sent and no others."""
    server.reply("ok")
    str(getattr(llm, method)("hi").text)
    headers = dict(server.requests[0].headers)
    assert headers.pop("content-length").isdigit()
    assert headers == {
        "host": f"127.0.0.1:{server.port}", "user-agent": f"llmlite/{llmlite.__version__}", "accept": accept,
        "accept-encoding": "gzip, deflate", "content-type": "application/json", "authorization": "Bearer local",
    }  # fmt: skip


@pytest.mark.parametrize("own, call, sent", [
    ({"X-Team": "a"}, None, {"x-team": "a"}),
    (None, {"X-Team": "b"}, {"x-team": "b"}),
    ({"X-Team": "a", "X-More": "m"}, {"X-Team": "b"}, {"x-team": "b", "x-more": "m"}),
    ({"X-Team": "a"}, {"x-team": "b"}, {"x-team": "b"}),
    ({"X-Team": "a"}, {"X-Team": None}, {"x-team": None}),
    ({"X-Team": "a"}, {"x-team": None}, {"x-team": None}),
    ({"Authorization": "Basic abc"}, None, {"authorization": "Basic abc"}),
    ({"authorization": None}, None, {"authorization": None}),
    ({"authorization": None}, {"Authorization": "Basic abc"}, {"authorization": "Basic abc"}),
    (None, {"ACCEPT": None}, {"accept": None}),
    ({"user-agent": "mine/1"}, None, {"user-agent": "mine/1"}),
    ({"User-Agent": None}, None, {"user-agent": None}),
    ({"content-type": "application/json; charset=utf-8"}, None, {"content-type": "application/json; charset=utf-8"}),
    ({"X-Empty": ""}, None, {"x-empty": ""}),
    ({"X-Latin": "\xfc"}, None, {"x-latin": "\xfc"}),
    ({"content-length": "3"}, None, {"content-length": "57"}),
])  # fmt: skip
def test_headers_of_ones_own(server, own, call, sent):
    """A call's headers beat the client's, which beat the default ones, in any case of letters; None leaves one out."""
    server.reply("ok")
    llmlite.Client("m", base_url=server.url, headers=own).chat("hi", headers=call)
    headers = server.requests[0].headers
    assert {name: headers.get(name) for name in sent} == sent
    assert all(server.requests[0].head.lower().count(f"\r\n{name}:".encode()) <= 1 for name in headers)


def test_headers_of_one_call_do_not_stay(server, llm):
    """A header given to one call is not on the next."""
    server.reply("ok", times=2)
    llm.chat("hi", headers={"X-Team": "a"})
    llm.chat("hi")
    assert [request.headers.get("x-team") for request in server.requests] == ["a", None]


# --------------------------------------------------------------------------------------------------------- what is read


def test_every_field(server, llm):
    """Every field of a Response, from a full body and its headers."""
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    answer = body(usage=usage, citations=["https://x.example"])
    headers = {"x-request-id": "req-7", "X-RateLimit-Remaining-Requests": "59", "x-ratelimit-reset-tokens": "6m0s"}
    reply = read(server, llm, answer, headers=headers)
    assert (reply.text, reply.reasoning, reply.tool_calls, reply.tokens, reply.parsed) == ("hello", "", [], [], None)
    assert (reply.finish_reason, reply.raw_finish_reason, reply.truncated) == ("stop", "stop", False)
    assert (reply.model, reply.id, reply.request_id) == ("served", "chatcmpl-1", "req-7")
    assert reply.usage == llmlite.Usage(9, 5) and reply.usage.total_tokens == 14
    assert reply.citations == ["https://x.example"] and reply.raw == answer
    assert reply.message == {"role": "assistant", "content": "hello"}
    assert reply.rate_limits == {"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-tokens": "6m0s"}
    assert reply.headers["X-Request-ID"] == "req-7" and reply.attempts == 1 and 0 < reply.elapsed < 5


@pytest.mark.parametrize("header", ["x-request-id", "request-id", "apim-request-id"])
def test_request_id(server, llm, header):
    """The request's id is found under the names that providers use."""
    assert read(server, llm, body(), headers={header: "abc"}).request_id == "abc"


@pytest.mark.parametrize("missing", ["id", "object", "model", "usage"])
@pytest.mark.parametrize("how", ["absent", "null"])
def test_absent_and_null_fields(server, llm, missing, how):
    """A field that is absent or null is no error; the model is then the one asked for."""
    answer = body(usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})
    answer[missing] = None
    if how == "absent":
        del answer[missing]
    reply = read(server, llm, answer)
    assert reply.text == "hello" and reply.model == ("test" if missing == "model" else "served")
    assert reply.id == (None if missing == "id" else "chatcmpl-1")


@pytest.mark.parametrize("usage, counted", [
    ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}, (9, 5, 0, 0)),
    ({"prompt_tokens": 9, "completion_tokens": 5}, (9, 5, 0, 0)),
    ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "prompt_tokens_details": {"cached_tokens": 4},
      "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 0}}, (9, 5, 4, 3)),
    ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "prompt_tokens_details": None,
      "completion_tokens_details": None}, (9, 5, 0, 0)),
    ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "prompt_tokens_details": {"cached_tokens": None},
      "completion_tokens_details": {}}, (9, 5, 0, 0)),
    ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135,  # xAI counts reasoning apart
      "completion_tokens_details": {"reasoning_tokens": 94}}, (32, 103, 0, 94)),
    ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "prompt_cache_hit_tokens": 6}, (9, 5, 6, 0)),
    ({"prompt_tokens": 9, "completion_tokens": 5, "reasoning_tokens": 2, "total_tokens": 14}, (9, 5, 0, 2)),
    ({"prompt_tokens": 9, "total_tokens": 12}, (9, 3, 0, 0)),
    ({"prompt_tokens": 9, "total_tokens": 9}, (9, 0, 0, 0)),
    ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (0, 0, 0, 0)),
    ({"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}, (0, 0, 0, 0)),
    ({"prompt_tokens": "9", "completion_tokens": [], "total_tokens": {}}, (0, 0, 0, 0)),
    ({"prompt_tokens": -9, "completion_tokens": 5}, (0, 5, 0, 0)),
    ({}, (0, 0, 0, 0)), (None, (0, 0, 0, 0)), ([], (0, 0, 0, 0)), ("9", (0, 0, 0, 0)),
])  # fmt: skip
def test_usage(server, llm, usage, counted):
    """Usage is the whole input and the whole output, whichever way the server counts; nonsense counts nothing."""
    reply = read(server, llm, body(usage=usage))
    assert reply.usage == llmlite.Usage(*counted)
    assert llm.ledger.usage == reply.usage and llm.ledger.calls == 1


@pytest.mark.parametrize("place", ["x_groq", "choice"])
def test_usage_elsewhere(server, llm, place):
    """Usage is also found where Groq and Moonshot put it."""
    usage, answer = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, body()
    (answer if place == "x_groq" else answer["choices"][0]).update(
        {"x_groq": {"usage": usage}} if place == "x_groq" else {"usage": usage})
    assert read(server, llm, answer).usage == llmlite.Usage(3, 4)


def test_usage_adds_up():
    """Usages add field by field."""
    total = llmlite.Usage(1, 2, 3, 4) + llmlite.Usage(10, 20, 30, 40)
    assert total == llmlite.Usage(11, 22, 33, 44) and total.total_tokens == 33


def function(name, arguments, **more):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


DEEP = '{"a": ' + "[" * 900 + "]" * 900 + "}"


@pytest.mark.parametrize("message, calls", [
    ({"tool_calls": [function("add", '{"a": 1}', id="c1")]}, [("c1", "add", {"a": 1}, '{"a": 1}', None)]),
    ({"tool_calls": [function("add", '{"a":1}', id="c1"), function("now", "{}", id="c2")]},
     [("c1", "add", {"a": 1}, '{"a":1}', None), ("c2", "now", {}, "{}", None)]),
    ({"tool_calls": [function("now", "", id="c1")]}, [("c1", "now", {}, "", None)]),
    ({"tool_calls": [function("add", {"a": 1}, id="c1")]}, [("c1", "add", {"a": 1}, '{"a": 1}', None)]),
    ({"tool_calls": [function("now", None, id="c1")]}, [("c1", "now", {}, "{}", None)]),
    ({"tool_calls": [function("add", '{"a": 1', id="c1")]}, [("c1", "add", {}, '{"a": 1', "not JSON")]),
    ({"tool_calls": [function("add", "[1]", id="c1")]}, [("c1", "add", {}, "[1]", "a JSON list")]),
    ({"tool_calls": [function("add", "null", id="c1")]}, [("c1", "add", {}, "null", "a JSON NoneType")]),
    ({"tool_calls": [function("add", "[" * 100000, id="c1")]}, [("c1", "add", {}, "[" * 100000, "not JSON")]),
    ({"tool_calls": [function("add", DEEP, id="c1")]}, [("c1", "add", {}, DEEP, "nested deeper")]),
    ({"tool_calls": [function("a", "{}"), function("b", "{}", id=None), function("c", "{}", id="")]},
     [("call_0", "a", {}, "{}", None), ("call_1", "b", {}, "{}", None), ("call_2", "c", {}, "{}", None)]),
    ({"tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}]},
     [("c1", "sql", {"input": "SELECT 1"}, "SELECT 1", None)]),
    ({"function_call": {"name": "add", "arguments": '{"a":1}'}}, [("call_0", "add", {"a": 1}, '{"a":1}', None)]),
    ({"tool_calls": [], "function_call": None}, []), ({"tool_calls": None}, []), ({"tool_calls": "x"}, []),
])  # fmt: skip
def test_tool_calls(server, llm, message, calls):
    """Tool calls are read from every form; arguments that are no JSON object are {} and say why."""
    reply = read(server, llm, body({"content": None, **message}, finish_reason="tool_calls"))
    assert [tuple(call[:4]) for call in reply.tool_calls] == [call[:4] for call in calls]
    for call, (*_, invalid) in zip(reply.tool_calls, calls):
        assert call.invalid is None if invalid is None else call.invalid.startswith(invalid)


@pytest.mark.parametrize("calls", [
    [None], [5], [{}], [{"function": None}], [{"function": {"name": 5, "arguments": 7}}],
])  # fmt: skip
def test_tool_calls_of_nonsense(server, llm, calls):
    """Malformed tool calls do not break the reading of a reply."""
    reply = read(server, llm, body({"tool_calls": calls}))
    assert [(type(call.id), type(call.name), type(call.arguments)) for call in reply.tool_calls] == [(str, str, dict)]


@pytest.mark.parametrize("raw, finish", [
    ("stop", "stop"), ("length", "length"), ("tool_calls", "tool_calls"), ("function_call", "tool_calls"),
    ("content_filter", "content_filter"), ("end_turn", "stop"), ("stop_sequence", "stop"), ("STOP", "stop"),
    ("max_tokens", "length"), ("model_context_window_exceeded", "length"), ("MAX_TOKENS", "length"),
    ("tool_use", "tool_calls"), ("refusal", "content_filter"), ("SAFETY", "content_filter"), ("eos", "stop"),
    ("RECITATION", "content_filter"), ("BLOCKLIST", "content_filter"), ("PROHIBITED_CONTENT", "content_filter"),
    ("SPII", "content_filter"), ("IMAGE_SAFETY", "content_filter"), ("pause_turn", "other"), ("CONTINUATION", "other"),
    ("model_length", "length"), ("flummoxed", "other"), ("", "other"), (5, "other"), ({}, "other"),
])  # fmt: skip
def test_finish_reasons(server, llm, raw, finish):
    """Every word that providers use has its canonical one; what is not known is "other", with the raw word kept."""
    reply = read(server, llm, body(finish_reason=raw))
    assert (reply.finish_reason, reply.raw_finish_reason) == (finish, raw)
    assert reply.truncated is (finish == "length")


@pytest.mark.parametrize("how", ["null", "absent"])
def test_no_finish_reason(server, llm, how):
    """Where the provider gives no finish reason there is none."""
    answer = body(finish_reason=None)
    if how == "absent":
        del answer["choices"][0]["finish_reason"]
    reply = read(server, llm, answer)
    assert reply.text == "hello" and reply.finish_reason is None and reply.raw_finish_reason is None


@pytest.mark.parametrize("raw", ["stop", "tool_calls", "other"])
def test_any_tool_call_decides_the_finish_reason(server, llm, raw):
    """A reply with a tool call finished for tool calls, whatever the server calls it, unless it was cut."""
    reply = read(server, llm, body({"tool_calls": [function("now", "{}", id="c")]}, finish_reason=raw))
    assert (reply.finish_reason, reply.raw_finish_reason) == ("tool_calls", raw)


@pytest.mark.parametrize("choice, status", [
    ({"finish_reason": "error"}, 500), ({"finish_reason": "insufficient_system_resource"}, 503),
    ({"finish_reason": "error", "error": {"code": 502, "message": "upstream died"}}, 502),
    ({"finish_reason": "stop", "error": {"code": 429, "message": "slow"}}, 429),
])  # fmt: skip
def test_choice_that_failed(server, llm, choice, status):
    """A choice that says it failed is an APIError, not an answer, and not a billed call."""
    answer = body()
    answer["choices"][0].update(choice)
    with pytest.raises(llmlite.APIError) as caught:
        read(server, llm, answer)
    assert caught.value.status_code == status and llm.ledger.calls == 0 and llm.ledger.failed == 1


@pytest.mark.parametrize("message, text, reasoning", [
    ({"content": None}, "", ""), ({"content": ""}, "", ""), ({"content": 5}, "", ""), ({"content": {}}, "", ""),
    ({"content": "4", "reasoning_content": "2 and 2"}, "4", "2 and 2"),
    ({"content": "4", "reasoning": "2 and 2"}, "4", "2 and 2"),
    ({"content": "4", "reasoning": "2 and 2", "reasoning_content": "2 and 2"}, "4", "2 and 2"),
    ({"content": "4", "reasoning_content": None, "reasoning": "2 and 2"}, "4", "2 and 2"),
    ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", ""),
    ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]},
     "a", "hm"),
    ({"content": [None, 5, {"type": "image"}, {"type": "text", "text": None}, {"type": "text", "text": "a"}]}, "a", ""),
    ({"content": "\U0001f600 \u2028 größe"}, "\U0001f600 \u2028 größe", ""),
])  # fmt: skip
def test_text_and_reasoning(server, llm, message, text, reasoning):
    """Text is always a str, from a str or parts; reasoning is kept apart, under either name."""
    reply = read(server, llm, body(message))
    assert (reply.text, reply.reasoning) == (text, reasoning) and isinstance(reply.text, str)


def test_refusal(server, llm):
    """A refusal is the text, and the finish reason says content_filter."""
    reply = read(server, llm, body({"content": None, "refusal": "I can't help with that."}))
    assert (reply.text, reply.finish_reason) == ("I can't help with that.", "content_filter")
    assert reply.raw_finish_reason == "stop"


@pytest.mark.parametrize("where", ["body", "message"])
def test_citations(server, llm, where):
    """Citations come as the provider sent them, from the body or the message's annotations."""
    cited = [{"type": "url_citation", "url_citation": {"url": "https://x.example"}}]
    answer = body(citations=cited) if where == "body" else body({"annotations": cited})
    assert read(server, llm, answer).citations == cited


def test_other_choices_are_in_raw(server, llm):
    """With n=2 the reply is the first choice; the second one is in raw."""
    answer = body()
    answer["choices"].append({"index": 1, "message": {"content": "other"}, "finish_reason": "length"})
    reply = read(server, llm, answer)
    assert (reply.text, reply.finish_reason) == ("hello", "stop")
    assert reply.raw["choices"][1]["message"]["content"] == "other"


@pytest.mark.parametrize("framing", ["length", "chunked", "close", "gzip", "gzip-length"])
def test_framings(server, llm, framing):
    """A body is read whole on every framing, compressed or not."""
    text = "größe " * 5000
    assert read(server, llm, body({"content": text}), framing=framing).text == text


def test_whitespace_and_mark_before_the_body(server, llm):
    """Blank lines before the JSON (DeepSeek keeps connections alive so) and a byte order mark do no harm."""
    server.body(b"\xef\xbb\xbf" + b"\n" * 50 + json.dumps(body()).encode())
    assert llm.chat("hi").text == "hello"


def test_lone_surrogate(server, llm):
    """Half a surrogate pair goes out escaped and comes back as it is."""
    server.body(json.dumps(body({"content": "\ud83d"})).encode())
    assert llm.chat("\ud83d").text == "\ud83d"
    assert b'"\\ud83d"' in server.requests[0].body


# ----------------------------------------------------------------------------------------------------------- a Response


@pytest.mark.parametrize("text, shown", [
    ("", "''"), ("short", "'short'"), ("x" * 60, "'" + "x" * 60 + "'"), ("x" * 61, "'" + "x" * 57 + "...'"),
])  # fmt: skip
def test_response_shows_itself(server, llm, text, shown):
    """str is the text, repr is one short line."""
    reply = read(server, llm, body({"content": text}))
    assert str(reply) == f"{reply}" == text
    assert repr(reply).startswith(f"<Response {shown} finish_reason='stop' model='served' Usage(")


@pytest.mark.parametrize("message", [
    {}, {"content": ""}, {"content": None}, {"content": [{"type": "text", "text": "a"}]},
    {"content": None, "refusal": "no"}, {"content": None, "tool_calls": [function("add", '{"a": 1}', id="c1")]},
    {"content": "both", "tool_calls": [function("add", '{"a": 1', id="c1")]},
    {"content": None, "function_call": {"name": "add", "arguments": "{}"}},
    {"content": "4", "reasoning_content": "2 and 2"},
])  # fmt: skip
def test_message_for_the_history(server, llm, message):
    """reply.message goes back with the next call, also after a trip through JSON."""
    first = read(server, llm, body(message))
    again = json.loads(json.dumps(first.message))
    assert again == first.message
    results = [llmlite.tool_result(call, "1") for call in first.tool_calls]
    server.reply("ok")
    llm.chat([llmlite.user("hi"), again, *results, llmlite.user("go on")])
    sent = server.requests[1].json["messages"][1]
    assert sent["role"] == "assistant" and (sent["content"] or "") == first.text
    assert [call["function"] for call in sent.get("tool_calls", [])] == [
        {"name": call.name, "arguments": "{}" if call.invalid else call.raw_arguments} for call in first.tool_calls]


def test_round_trip_of_a_tool(server, llm):
    """The whole exchange about a tool, golden."""
    first = read(server, llm, body({"content": None, "tool_calls": [function("add", '{"a":2,"b":2}', id="call_1")]}))
    server.reply("4")
    llm.chat([llmlite.user("2+2?"), first.message, llmlite.tool_result(first.tool_calls[0], 4)], tools=[ADD])
    assert server.requests[1].json["messages"] == [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": None, "tool_calls": [function("add", '{"a":2,"b":2}', id="call_1")]},
        {"role": "tool", "tool_call_id": "call_1", "content": "4"},
    ]


# --------------------------------------------------------------------------------------- helpers, models and one-liners


@pytest.mark.parametrize("made, message", [
    (lambda: llmlite.user("a"), {"role": "user", "content": "a"}),
    (lambda: llmlite.system("a"), {"role": "system", "content": "a"}),
    (lambda: llmlite.assistant("a"), {"role": "assistant", "content": "a"}),
    (lambda: llmlite.tool_result("c1", "x"), {"role": "tool", "tool_call_id": "c1", "content": "x"}),
    (lambda: llmlite.tool_result(llmlite.ToolCall("c1", "f", {}, "{}"), {"ü": [1]}),
     {"role": "tool", "tool_call_id": "c1", "content": '{"ü": [1]}'}),
    (lambda: llmlite.tool_result("c1", None), {"role": "tool", "tool_call_id": "c1", "content": "null"}),
    (lambda: llmlite.tool_result("c1", ""), {"role": "tool", "tool_call_id": "c1", "content": ""}),
    (lambda: llmlite.tool_result("c1", Exception("no")), {"role": "tool", "tool_call_id": "c1", "content": '"no"'}),
    (lambda: llmlite.tool_result("c1", "x", is_error=True),
     {"role": "tool", "tool_call_id": "c1", "content": "x", "is_error": True}),
])  # fmt: skip
def test_helpers(made, message):
    """The helpers make messages in OpenAI's shape; a tool's result may be any value."""
    assert made() == message


def test_our_own_keys_stay_here(server, llm):
    """What only we know of a message (is_error) is not sent to a server that does not know it."""
    server.reply("ok")
    llm.chat([llmlite.user("hi"), llmlite.tool_result("c1", "failed", is_error=True)])
    assert server.requests[0].json["messages"][1] == {"role": "tool", "tool_call_id": "c1", "content": "failed"}


def test_models(server, llm):
    """models() is the ids of GET /models, asked without a body, and costs nothing."""
    server.json({"object": "list", "data": [{"id": "a/b"}, {"id": "c", "object": "model"}]})
    assert llm.models() == ["a/b", "c"]
    request = server.requests[0]
    assert (request.method, request.path, request.body) == ("GET", "/v1/models", b"")
    assert "content-type" not in request.headers and "content-length" not in request.headers
    assert request.headers["accept"] == "application/json" and request.headers["authorization"] == "Bearer local"


def test_models_in_a_bare_list(server, llm):
    """A server that sends the list alone is understood."""
    server.json([{"id": "a"}, {"id": "b"}])
    assert llm.models() == ["a", "b"]


def test_models_may_be_none(server, llm):
    """A server that offers no model has an empty list."""
    server.json({"object": "list", "data": []})
    assert llm.models() == []


@pytest.mark.parametrize("answer", [{}, {"data": None}, {"data": {"id": "a"}}, 5, "a", None], ids=named)
def test_models_of_nonsense(server, llm, answer):
    """What is no list of models is a ResponseError."""
    server.json(answer)
    with pytest.raises(llmlite.ResponseError):
        llm.models()


def test_models_takes_options(server, llm):
    """models() takes headers= and timeout= for one call."""
    server.reply("", delay=1)
    with pytest.raises(llmlite.APITimeoutError):
        llm.models(timeout=0.4, headers={"X-Team": "a"})
    assert server.requests[0].headers["x-team"] == "a"


def test_chat_in_one_line(server):
    """llmlite.chat() makes a client, asks, and leaves no connection open."""
    server.reply("ok")
    options = {"system": "s", "temperature": 0.0, "headers": {"X-A": "b"}}
    reply = llmlite.chat("hi", model="test", base_url=server.url, api_key="k", **options)
    assert reply.text == "ok" and idle(server)
    assert server.requests[0].json == {
        "model": "test", "messages": [{"role": "system", "content": "s"}, *HI], "temperature": 0.0}
    assert server.requests[0].headers["x-a"] == "b" and server.requests[0].headers["authorization"] == "Bearer k"


def test_stream_in_one_line(server):
    """llmlite.stream() streams to the end though nobody holds its client, and leaves no connection open."""
    server.stream(["a", "b", "c"], gap=0.01)
    pieces = list(llmlite.stream("hi", model="test", base_url=server.url))
    assert pieces == ["a", "b", "c"] and idle(server)


def test_one_liners_use_the_environment(server, monkeypatch):
    """LLMLITE_MODEL is the model of the one-liners too."""
    monkeypatch.setenv("LLMLITE_MODEL", "openai/gpt")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    server.reply("ok")
    assert llmlite.chat("hi").text == "ok" and server.requests[0].json["model"] == "gpt"


def test_elapsed_is_the_calls_time(server, llm):
    """elapsed is the seconds the call took."""
    server.reply("ok", delay=0.1)
    assert 0.1 <= llm.chat("hi").elapsed < 2


def test_attempts_are_counted(server):
    """attempts is how many requests it took."""
    server.error(500, times=2)
    server.reply("ok")
    client = llmlite.Client("m", base_url=server.url, retry=llmlite.RetryPolicy(backoff=0.001))
    assert client.chat("hi").attempts == 3 == len(server.requests)


def test_numbers_beyond_floats(server, llm):
    """NaN, infinity and huge numbers in an answer are read, not choked on."""
    choice = b'{"message":{"content":"a"},"finish_reason":"stop","score":NaN}'
    server.body(b'{"choices":[' + choice + b'],"big":1e999,"n":' + b"9" * 4000 + b"}")
    reply = llm.chat("hi")
    assert reply.text == "a" and math.isinf(reply.raw["big"])


@pytest.mark.parametrize("text, sent", [
    ("\u4e2d" * 1000, b"\xe4\xb8\xad" * 1000), ("\ud83d", b"\\ud83d"), ("\U0001f600", b"\xf0\x9f\x98\x80"),
    ("\ud83d\ude00", b"\\ud83d\\ude00"), ('"\\\0\x7f\u2028', b'\\"\\\\\\u0000\x7f\xe2\x80\xa8')
], ids=["cjk", "half", "emoji", "halves", "escapes"])
def test_text_goes_out_as_utf8(server, llm, text, sent):
    """A body is UTF-8, no more bytes than the text has; half of a surrogate pair stays an escape, which is JSON."""
    server.reply("ok")
    llm.chat(text)
    request, = server.requests
    assert request.body == b'{"model":"test","messages":[{"role":"user","content":"' + sent + b'"}]}'
    assert request.headers["content-length"] == str(len(request.body))


ODD_SCHEMA = {"type": "object", "properties": {"trips": {"type": "array", "items": {"$ref": "#/$defs/trip"}}},
              "$defs": {"trip": {"type": "object", "required": ["days"], "properties": {"days": {"enum": [1, 2]}}}}}


@pytest.mark.parametrize("how", ["chat", "stream"])
@pytest.mark.parametrize("answer, words", [
    ('{"trips": [{"days": 1}, {}]}', "trips[1]: missing 'days'"),
    ('{"trips": [{"days": true}]}', "trips[0].days: True is not one of 1, 2")])
def test_where_an_answer_does_not_fit(server, llm, how, answer, words):
    """SchemaError says where in the answer and what; the answer is on it."""
    server.reply(answer)
    with pytest.raises(llmlite.SchemaError) as caught:
        llm.chat("hi", schema=ODD_SCHEMA) if how == "chat" else list(llm.stream("hi", schema=ODD_SCHEMA))
    assert str(caught.value) == f"compatible: the answer does not fit the schema: {words}"
    assert caught.value.response.text == answer


@pytest.mark.parametrize("finish, words", [("length", "cut at the token limit"),
                                           ("content_filter", "cut by the content filter")])
def test_why_an_answer_is_too_short_for_its_schema(server, llm, finish, words):
    """An answer that was cut is no model's mistake: SchemaError says by what."""
    server.reply('{"trips": [', finish_reason=finish)
    with pytest.raises(llmlite.SchemaError) as caught:
        llm.chat("hi", schema=ODD_SCHEMA)
    assert f"does not fit the schema (it was {words}): not JSON" in str(caught.value)


def endless():
    schema = {"anyOf": []}
    schema["anyOf"] += [schema, schema]
    return schema


@pytest.mark.parametrize("schema", [
    {"type": "object", "properties": {}, "additionalProperties": False, "required": [{}]}, {"type": {"a": []}},
    {"properties": [[[]]], "required": 5}])
def test_broken_schemas_are_sent(server, llm, schema):
    """What is wrong with a schema is the provider's to say; the answer fits, or it does not."""
    server.reply("{}")
    try:
        assert llm.chat("hi", schema=schema).parsed == {}
    except llmlite.SchemaError as error:
        assert error.response.text == "{}"
    assert server.requests[0].json["response_format"]["json_schema"]["schema"] == schema


def test_schemas_that_cannot_be_sent(server, llm):
    """A schema that holds itself, or what JSON has not, is refused before anything is sent."""
    for schema in (endless(), {"enum": [{1}]}, {"minimum": math.inf}):
        with pytest.raises(llmlite.ConfigurationError, match="JSON"):
            llm.chat("hi", schema=schema)
    assert server.requests == []
