"""OpenAI's Responses: which models are asked in them, what is taken back, and what their servers do differently."""
import json

import pytest

from tests import llmlite, testing
from tests.dialects import FAST, HI, KEY, drained
from tests.dialects.openai import DONE
from tests.dialects.responses import (
    LATE,
    OPEN,
    SEALED,
    THOUGHT,
    TWO,
    body,
    call_item,
    called,
    end,
    event,
    message,
    start,
    text_item,
    thought_item,
    written,
)

ONLY = {"error": {"message": "This model is only supported in v1/responses and not in v1/chat/completions.",
                  "type": "invalid_request_error", "param": "model", "code": None}}
UNKNOWN = {"error": {"message": "The model does not exist", "type": "invalid_request_error", "code": "model_not_found"}}
TURN = message("Hi", verbatim=[THOUGHT, text_item("Hi")])


def client(server, provider="openai", model="m", **options):
    return llmlite.Client(model, provider=provider, base_url=server.url, api_key=KEY, **{"retry": None, **options})


def sent_for(server, provider="openai", history=(HI, TURN, HI), **options):
    """The body of a request for Responses."""
    server.reply("ok")
    with client(server, provider, api="responses", **options) as llm:
        llm.chat(list(history))
    return server.requests[-1].json


# ------------------------------------------------------------------------------------------------ which models, and how


@pytest.mark.parametrize("model, path", [
    ("gpt-5-mini", "chat/completions"), ("gpt-5-pro", "responses"), ("o1-pro", "responses"),
    ("gpt-5.1-codex-mini", "responses"), ("o3-deep-research", "responses"), ("computer-use-preview", "responses"),
    ("gpt-4-problem", "chat/completions"), ("o3-pro-2025-06-10", "responses")])
def test_models_that_are_served_there_only(server, model, path):
    """Without a word they are asked in Responses, all others in chat completions."""
    server.reply("ok")
    with client(server, model=model) as llm:
        assert llm.chat("hi").text == "ok"
    assert server.requests[0].path == f"/v1/{path}"


@pytest.mark.parametrize("provider", ["xai", "vllm", "groq"])
def test_of_other_providers_the_name_says_nothing(server, provider):
    server.reply("ok")
    with client(server, provider, "x-pro") as llm:
        llm.chat("hi")
    assert server.requests[0].path == "/v1/chat/completions"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", ["openai", "azure", "groq"])
def test_a_model_that_turns_out_to_be(server, provider, stream):
    """Refused with the words for it, the same is asked in Responses, once; the next call knows."""
    server.json(ONLY, status=404)
    server.reply("ok", times=3)
    with client(server, provider) as llm:
        for _ in range(2):
            reply = drained(llm.stream("hi", temperature=0)) if stream else llm.chat("hi", temperature=0)
            assert reply.text == "ok"
        assert (llm.ledger.calls, llm.ledger.attempts, llm.ledger.failed) == (2, 3, 0)
        assert llm.chat("hi", model="other").text == "ok"
    assert [request.path.rpartition("v1/")[2] for request in server.requests] == [
        "chat/completions", "responses", "responses", "chat/completions"]
    assert server.requests[1].json == {"model": "m", "input": [HI], "store": False, "temperature": 0,
                                       **({"stream": True} if stream else {})}


@pytest.mark.parametrize("api, status, refusal", [("chat", 404, ONLY), ("auto", 404, UNKNOWN), ("auto", 400, ONLY)])
def test_other_refusals_are_final(server, api, status, refusal):
    server.json(refusal, status=status, times=2)
    with client(server, api=api) as llm, pytest.raises(llmlite.APIError):
        llm.chat("hi")
    assert len(server.requests) == 1


def test_the_same_after_that_is_final(server):
    """What is refused in Responses too is not asked a third time, and what cannot be asked there says so."""
    server.json(ONLY, status=404, times=3)
    with client(server) as llm:
        with pytest.raises(llmlite.NotFoundError):
            llm.chat("hi")
        assert len(server.requests) == 2
        with pytest.raises(llmlite.ConfigurationError, match="stop is not an option of"):
            llm.chat("hi", stop="x")
    assert len(server.requests) == 2


@pytest.mark.parametrize("given, words", [
    ({"api": "batch"}, "api='batch': give"), ({"api": None}, "api=None: give"),
    ({"api": "responses", "provider": "anthropic"}, "anthropic has no Responses"),
    ({"api": "responses", "provider": "gemini"}, "gemini has no Responses")])
def test_an_api_that_is_none(server, given, words):
    with pytest.raises(llmlite.ConfigurationError, match=words):
        client(server, **given)


@pytest.mark.parametrize("asked", [{"stop": "x"}, {"seed": 1}, {"top_k": 3}, {"messages": [
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]}]}])
def test_what_responses_do_not_take(server, asked):
    """One line, before anything is sent."""
    with client(server, api="responses") as llm, pytest.raises(llmlite.ConfigurationError) as caught:
        llm.chat(**{"messages": "hi", **asked})
    assert "\n" not in str(caught.value) and server.requests == []


def test_vllm_takes_more(server):
    assert sent_for(server, "vllm", [HI], model="m") == {"model": "m", "input": [HI], "store": False}
    server.reply("ok")
    with client(server, "vllm", api="responses") as llm:
        llm.chat("hi", stop="x", seed=1, top_k=3)
    assert {"stop": "x", "seed": 1, "top_k": 3}.items() <= server.requests[-1].json.items()


def test_a_fallback_of_another_provider_has_its_own_api(server, monkeypatch):
    """What is asked in Responses here is asked there as that provider wants it."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.root)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, KEY)
    server.error(500)
    server.reply("ok")
    with llmlite.Client("openai/m", api="responses", fallbacks=["anthropic/claude"], retry=None) as llm:
        assert llm.chat("hi").text == "ok"
    assert [request.path for request in server.requests] == ["/v1/responses", "/v1/messages"]


def test_a_saved_request_is_sent_again(server, tmp_path):
    """A failed request for Responses is replayed as such."""
    server.error(400)
    with client(server, api="responses", save_failed=str(tmp_path)) as llm, pytest.raises(llmlite.BadRequestError):
        llm.chat("hi")
    (saved,) = tmp_path.iterdir()
    server.reply("ok")
    assert llmlite.replay(str(saved), api_key=KEY).text == "ok"
    assert server.requests[0].json == server.requests[1].json


# --------------------------------------------------------------------------------------------- reasoning that goes back


@pytest.mark.parametrize("model, asks", [
    ("gpt-5-mini", True), ("o3", True), ("gpt-5-chat-latest", False), ("gpt-4.1", False), ("openai/gpt-5.2", True)])
def test_sealed_reasoning_is_asked_for(server, model, asks):
    sent = sent_for(server, history=[HI], model=model)
    assert sent.get("include") == (["reasoning.encrypted_content"] if asks else None)


OPENED = {**OPEN, "encrypted_content": ""}


@pytest.mark.parametrize("provider, reasoning, goes", [
    ("openai", THOUGHT, THOUGHT), ("openai", thought_item("hm"), None), ("openai", OPENED, None),
    ("vllm", {**OPEN, **SEALED, "status": None}, OPEN), ("vllm", thought_item(**SEALED), None),
    ("llamacpp", OPENED, OPEN), ("llamacpp", THOUGHT, None),
    ("ollama", thought_item(**SEALED), thought_item(**SEALED))])
def test_each_server_takes_its_own(server, provider, reasoning, goes):
    """Reasoning goes back where the server can read it, and without what it refuses."""
    turn = message("Hi", verbatim=[reasoning, text_item("Hi")])
    turn["llmlite"] = {f"{provider}-responses": turn["llmlite"]["openai-responses"]}
    said = [item for item in sent_for(server, provider, [HI, turn, HI])["input"] if item.get("type") == "reasoning"]
    assert said == ([goes] if goes else [])


@pytest.mark.parametrize("model, told, asked, goes", [
    ("gpt-5", "gpt-5-2025-08-07", None, True), ("openai/gpt-5", "gpt-5-2025-08-07", None, True),
    ("gpt-5-mini", "gpt-5", "gpt-5", False), ("gpt-4.1", "o3", "o3", False), ("grok-4", "grok-4-0709", "grok-4", True),
    ("my-deployment", "gpt-5-2025-08-07", "my-deployment", True), ("m", "", "m", True)])
def test_reasoning_belongs_to_a_model(server, model, told, asked, goes):
    """What one model has sealed does not go to another; one is known by its own name, or by that it was asked by."""
    turn = json.loads(json.dumps(TURN))
    turn["llmlite"]["openai-responses"].update(model=told, asked=asked)
    sent = sent_for(server, history=[HI, turn, HI], model=model)
    assert (THOUGHT in sent["input"]) == goes and text_item("Hi") in sent["input"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("message, code", [
    ("Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.", None),
    ("The encrypted content gAAA could not be verified.", "invalid_encrypted_content")])
def test_reasoning_that_is_refused(server, message, code, stream):
    """The same goes out once more without any."""
    server.error(404 if code is None else 400, message, code=code)
    server.reply("ok")
    with client(server, api="responses") as llm:
        reply = drained(llm.stream([HI, TURN, HI])) if stream else llm.chat([HI, TURN, HI])
        assert (reply.text, reply.attempts, llm.ledger.failed) == ("ok", 2, 0)
    first, second = (request.json for request in server.requests)
    assert second == {**first, "input": [item for item in first["input"] if item.get("type") != "reasoning"]}
    assert len(second["input"]) == len(first["input"]) - 1


@pytest.mark.parametrize("more, left", [([], {}), (["message.output_text.logprobs"],
                                                   {"include": ["message.output_text.logprobs"]})])
def test_a_model_that_seals_nothing(server, more, left):
    """Sealed reasoning is asked for no more where that is refused."""
    include = ["reasoning.encrypted_content", *more]
    server.error(400, "Encrypted content is not supported with this model.")
    server.reply("ok")
    with client(server, model="gpt-5-mini", api="responses") as llm:
        assert llm.chat("hi", extra={"include": include}).text == "ok"
    first, second = (request.json for request in server.requests)
    assert first.pop("include") == include and second == {**first, **left}


def test_the_same_refusal_twice_is_final(server):
    server.error(400, "Encrypted content is not supported with this model.", times=3)
    with client(server, model="gpt-5-mini", api="responses") as llm, pytest.raises(llmlite.BadRequestError):
        llm.chat("hi")
    assert len(server.requests) == 2


# --------------------------------------------------------------------------------------------------- how servers differ


def test_llamacpp_names_no_places(server):
    """Its events tell the item's id, of arguments the call's, and no place."""
    call = {"type": "function_call", "call_id": "fc_1", "name": "f", "arguments": '{"x":1}'}
    server.sse([
        event("response.created", response={"id": "resp_1", "object": "response", "status": "in_progress"}),
        event("response.output_item.added", item={"id": "rs_1", "type": "reasoning", "summary": [], "content": []}),
        event("response.reasoning_text.delta", item_id="rs_1", delta="hm, "),
        event("response.reasoning_text.delta", item_id="rs_1", delta="so"),
        event("response.output_item.done", item=OPENED),
        event("response.output_item.added", item={"id": "msg_1", "type": "message", "content": []}),
        event("response.content_part.added", item_id="msg_1", part={"type": "output_text", "text": ""}),
        event("response.output_text.delta", item_id="msg_1", delta="Hi"),
        event("response.output_text.delta", item_id="msg_1", delta=" there"),
        event("response.output_item.done", item=text_item("Hi there")),
        event("response.output_item.added", item={**call, "arguments": ""}),
        event("response.function_call_arguments.delta", item_id="fc_1", delta='{"x"'),
        event("response.function_call_arguments.delta", item_id="fc_1", delta=":1}"),
        event("response.output_item.done", item=call),
        event("response.completed", response={"id": "resp_1", "status": "completed", "model": "served",
                                              "usage": {"input_tokens": 3, "output_tokens": 2}})])
    with client(server, "llamacpp", api="responses") as llm:
        stream = llm.stream("hi")
        assert "".join(stream) == "Hi there"
    reply = stream.response
    assert (reply.reasoning, reply.text, reply.finish_reason) == ("hm, so", "Hi there", "tool_calls")
    assert reply.tool_calls == [llmlite.ToolCall("fc_1", "f", {"x": 1}, '{"x":1}')]
    assert reply.usage == llmlite.Usage(3, 2)


@pytest.mark.parametrize("provider, limit, finish", [
    ("llamacpp", 25, "length"), ("llamacpp", 26, "stop"), ("llamacpp", None, "stop"), ("ollama", 20, "length"),
    ("openai", 20, "stop")])
def test_some_never_tell_of_the_limit(server, provider, limit, finish):
    """As many tokens as were asked for at most: the answer is cut, whatever its server says."""
    call = call_item("c", "f", "{}")
    server.json(body(text_item("Hi")))
    server.sse([*start(), *called(0, "c", "f", "{}"), *end(call)])
    with client(server, provider, api="responses") as llm:
        assert llm.chat("hi", max_tokens=limit).finish_reason == finish
        reply = drained(llm.stream("hi", max_tokens=limit))
    assert reply.finish_reason == (finish if finish == "length" else "tool_calls")
    assert bool(reply.tool_calls[0].invalid) == (finish == "length")


def bare(events):
    """Events without names, as OpenRouter has them."""
    return [fields for _, fields in events]


def test_openrouter_sends_data_alone(server):
    """Comments, no names, and an end mark after the end."""
    server.sse([b": OPENROUTER PROCESSING\n\n", *bare([*start(), *written(0, "Hi"), *end(text_item("Hi", id="other"))]),
                DONE])
    server.reply("ok")
    with client(server, "openrouter", api="responses") as llm:
        assert drained(llm.stream("hi")).text == "Hi" and llm.chat("hi").text == "ok"
    assert server.connections == 1


def test_bedrock_sends_data_before_names(server):
    def turned(kind, fields):
        return b"data: %b\nevent: %b\n\n" % (json.dumps(fields).encode(), kind.encode())

    server.sse([turned(*one) for one in [*start(), *written(0, "Hi", " there"), *end(text_item("Hi there"))]])
    with client(server, api="responses") as llm:
        stream = llm.stream("hi")
        assert list(stream) == ["Hi", " there"] and stream.response.finish_reason == "stop"


def test_deepseek_sends_errors_as_bytes(server):
    """The body of a refusal is JSON, whatever its type says."""
    server.body(b'{"error":{"message":"No tool output found for function call c.","type":"invalid_request_error"}}',
                status=400, headers={"Content-Type": "application/octet-stream"})
    with client(server, "deepseek", api="responses") as llm, pytest.raises(llmlite.BadRequestError, match="No tool"):
        llm.chat("hi")


# ---------------------------------------------------------------------------------------------------- how a stream ends


@pytest.mark.parametrize("said", [event for event, *_ in LATE], ids=range(len(LATE)))
def test_an_error_before_anything_is_said(server, said):
    """What comes after the events that merely open the response is tried again; its tokens are not lost."""
    server.sse([*start(), event("response.output_item.added", output_index=0, item=text_item()), said])
    server.reply("ok")
    with client(server, api="responses", retry=FAST) as llm:
        assert drained(llm.stream("hi")).text == "ok"
        assert (llm.ledger.attempts, llm.ledger.failed) == (2, 0)


def test_a_failure_that_was_billed(server):
    """The tokens of a response that failed are in the ledger and on the error."""
    failed = {**body(status="failed"), "error": {"code": "server_error", "message": "no"}}
    server.sse([*start(), event("response.failed", response=failed)])
    server.json(failed)
    with client(server, api="responses") as llm:
        for ask in (lambda: drained(llm.stream("hi")), lambda: llm.chat("hi")):
            with pytest.raises(llmlite.ServerError) as caught:
                ask()
            assert caught.value.response.usage.input_tokens == 9
        assert (llm.ledger.calls, llm.ledger.failed, llm.ledger.usage.output_tokens) == (2, 2, 50)


@pytest.mark.parametrize("status, error", [
    ("cancelled", llmlite.APIError), ("failed", llmlite.APIError), ("queued", llmlite.ResponseError),
    ("in_progress", llmlite.ResponseError)])
def test_a_response_that_has_no_end(server, status, error):
    server.json(body(status=status))
    with client(server, api="responses") as llm, pytest.raises(error, match=status):
        llm.chat("hi")


@pytest.mark.parametrize("asked", ["chat", "stream"])
def test_no_response(server, asked):
    """A body without output is no reply; where a stream was asked for, a whole response is one."""
    server.json({"id": "resp_1", "status": "completed"})
    server.json(body(text_item("Hi")))
    with client(server, api="responses") as llm:
        with pytest.raises(llmlite.ResponseError):
            llm.chat("hi") if asked == "chat" else list(llm.stream("hi"))
        assert drained(llm.stream("hi")).text == "Hi"


def test_what_only_the_end_tells(server):
    """Text that no delta has said, in an item or in the whole at the end, is said then."""
    first, second = text_item("Hi"), text_item(" there", id="msg_2")
    server.sse([*start(), *written(0, "Hi"), *end(first, second)])
    server.sse([*start(), *written(0, "Hi"), event("response.output_item.done", output_index=1, item=second), *end()])
    with client(server, api="responses") as llm:
        for _ in range(2):
            stream = llm.stream("hi")
            assert list(stream) == ["Hi", " there"] and stream.response.text == "Hi there"


def test_an_input_of_ones_own(server):
    """What `extra` puts in the place of the items is sent as it is, also where the server refuses it."""
    server.error(400, times=2)
    with client(server, api="responses") as llm:
        for given in ("hi", ["hi"]):
            with pytest.raises(llmlite.BadRequestError):
                llm.chat("hi", extra={"input": given})
            assert server.requests[-1].json["input"] == given


def test_paragraphs_of_thought(server):
    """Summaries come a paragraph each, from the deltas as from the items."""
    server.sse([*start(), event("response.output_item.done", output_index=0, item=TWO), *written(1, "Hi"), *end()])
    with client(server, api="responses") as llm:
        stream = llm.stream("hi")
        thoughts = [one.text for one in stream.events() if one.type == "reasoning"]
    assert "".join(thoughts) == stream.response.reasoning == "One.\n\nTwo."


def test_hostile_places(server):
    """Items and parts beyond any measure, and such as are of another kind, are no harm."""
    delta = {"item_id": "m", "output_index": 0, "delta": "x"}
    server.sse([*start(), event("response.output_text.delta", content_index=10 ** 9, **delta)])
    server.sse([*start(), event("response.output_text.delta", content_index=-1, **delta),
                event("response.output_item.added", output_index=1, item={"type": "message", "content": [3]}),
                event("response.output_text.delta", output_index=1, content_index=0, delta="y"),
                event("response.output_text.delta", output_index=1, content_index=0, delta=None), *end()])
    with client(server, api="responses") as llm:
        with pytest.raises(llmlite.LLMError, match="over 1000 parts"):
            list(llm.stream("hi"))
        assert list(llm.stream("hi")) == ["x", "y"]


def test_a_cut_reply_says_what_it_asked(server):
    """Of reasoning that was not whole nothing sealed is kept, and a call that was not is invalid."""
    opened = event("response.output_item.added", output_index=0, item=thought_item(**SEALED))
    server.sse([*start(), opened, *called(1, "c", "f", '{"x"')[:2]])
    with client(server, api="responses") as llm, pytest.raises(llmlite.TruncatedStreamError) as caught:
        list(llm.stream("hi"))
    reply = caught.value.response
    assert "encrypted_content" not in json.dumps(reply.message) and reply.tool_calls[0].invalid


def test_log_probabilities(server):
    """They are the reply's, from a body and from a stream."""
    row = {"token": "Hi", "logprob": -0.1, "top_logprobs": [{"token": "Ho", "logprob": -2.5}]}
    item = text_item("Hi")
    item["content"][0]["logprobs"] = [row]
    server.json(body(item))
    server.sse([*start(), event("response.output_text.delta", output_index=0, content_index=0, item_id="msg_1",
                                delta="Hi", logprobs=[row]), *end()])
    with client(server, api="responses") as llm:
        assert llm.chat("hi").logprobs == drained(llm.stream("hi")).logprobs == [
            llmlite.Logprob("Hi", -0.1, (llmlite.Logprob("Ho", -2.5),))]


def test_the_scripted_provider_speaks_it(server):
    """`llmlite.testing` answers /responses: text, reasoning, calls, how it ends."""
    calls = [{"name": "f", "arguments": {"x": 1}}]
    said = {"reasoning": ["hm, ", "so"], "tool_calls": calls}
    server.stream(["a", "b"], **said, times=2)
    server.reply("cut", finish_reason="length", times=2)
    with client(server, api="responses") as llm:
        for ask in (llm.chat, lambda prompt: drained(llm.stream(prompt))):
            reply = ask("hi")
            assert (reply.text, reply.reasoning, reply.finish_reason) == ("ab", "hm, so", "tool_calls")
            assert reply.tool_calls == [llmlite.ToolCall("call_1", "f", {"x": 1}, '{"x": 1}')]
            assert reply.usage == llmlite.Usage(10, 5)
        for ask in (llm.chat, lambda prompt: drained(llm.stream(prompt))):
            assert (ask("hi").finish_reason, call_item("c", "f", "{}")["type"]) == ("length", "function_call")
        server.stream([], tool_calls=calls)
        server.stream(["a"], done=False)
        assert [item["type"] for item in drained(llm.stream("hi")).raw["output"]] == ["function_call"]
        with pytest.raises(llmlite.TruncatedStreamError):
            list(llm.stream("hi"))
    assert testing.shape_of(server.requests[0]).model == "m"


def streamed(server, *events, **options):
    """The pieces of a stream, and its reply."""
    server.sse([*start(), *events])
    with client(server, api="responses", **options) as llm:
        stream = llm.stream("hi")
        return list(stream), stream.response


ODD = [{}, {"obfuscation": "x"}, {"type": None}, {"type": 5}, {"id": "x"}, {"type": "response.novelty"},
       {"item": {"a": 1}}, {"type": "response.output_item.done", "item": {"id": ["x"], "call_id": {}}},
       {"type": "response.output_text.delta", "item_id": [1], "delta": 5}]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_events_of_no_meaning(server, odd):
    """They neither end the stream nor break it."""
    events = written(0, "Hi", " there")
    pieces, reply = streamed(server, *events[:3], odd, *events[3:], *end(text_item("Hi there")))
    assert (pieces, reply.text, reply.finish_reason) == (["Hi", " there"], "Hi there", "stop")


@pytest.mark.parametrize("kind, response, finish", [
    ("completed", {}, "stop"), ("completed", {"status": "incomplete"}, "other"), ("incomplete", {}, "other"),
    ("incomplete", {"status": "completed"}, "other"),
    ("incomplete", {"status": "incomplete", "incomplete_details": {"reason": "stop"}}, "other"),
    ("incomplete", {"status": "completed", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
    ("completed", {"output": "x"}, "stop"), ("completed", {"output": [text_item("other words")]}, "stop")])
def test_what_the_end_says_of_itself(server, kind, response, finish):
    """The event's own name counts where the response in it says less; an answer that was cut is never whole."""
    early = event("response.in_progress", response={"usage": {"input_tokens": 7}})
    pieces, reply = streamed(server, early, *written(0, "Hi"), event(f"response.{kind}", response={
        **response, "usage": None}))
    assert (pieces, reply.text, reply.finish_reason, reply.usage.input_tokens) == (["Hi"], "Hi", finish, 7)


@pytest.mark.parametrize("status, error", [("failed", "500 Internal"), ("cancelled", "400 Bad Request")])
def test_an_end_that_is_none(server, status, error):
    """A response that says it failed has failed, whatever the event is called."""
    with pytest.raises(llmlite.StreamError, match=error):
        streamed(server, *written(0, "Hi"), *end(text_item("Hi"), status=status))


def test_done_alone_is_no_end(server):
    """Routers send [DONE] after the end; before it, the stream was cut."""
    with pytest.raises(llmlite.TruncatedStreamError) as caught:
        streamed(server, *written(0, "Hi"), DONE)
    assert caught.value.response.text == "Hi"


def test_text_that_comes_late(server):
    """After reasoning alone, and in an item whose end comes after another's words."""
    thought = event("response.reasoning_text.delta", output_index=0, content_index=0, item_id="rs_1", delta="hm")
    assert streamed(server, thought, *end(OPEN, text_item("Hi")))[0] == ["Hi"]
    first, second = text_item("A"), text_item("B", id="msg_2")
    late = event("response.output_item.done", output_index=0, item=first)
    opened = event("response.output_item.added", output_index=0, item={**first, "content": [], "draft": True})
    pieces, reply = streamed(server, opened, *written(1, "B", id="msg_2"), late, *end())
    assert pieces == ["B", "A"] and reply.raw["output"] == [first, second]


def test_an_id_that_changes(server):
    """Without a place, an item that ends under another id is the last one all the same."""
    bare_events = [(kind, {name: value for name, value in fields.items() if name not in (
        "output_index", "content_index")}) for kind, fields in written(0, "Hi")]
    bare_events[-1][1]["item"] = {**bare_events[-1][1]["item"], "id": "other"}
    assert streamed(server, *bare_events, *end())[0] == ["Hi"]


FLAT = {"object": "error", "message": "engine died", "type": "InternalServerError", "code": 500}


def test_flat_errors(server):
    """vLLM's of old, in a body and as an event, are the errors they stand for."""
    server.json(FLAT)
    server.sse([*start(), FLAT])
    with client(server, api="responses") as llm:
        for ask in (llm.chat, lambda prompt: drained(llm.stream(prompt))):
            with pytest.raises(llmlite.ServerError, match="engine died"):
                ask("hi")
        assert llm.ledger.calls == 0


@pytest.mark.parametrize("code, error", [
    ("invalid_prompt", llmlite.BadRequestError), ("bio_policy", llmlite.BadRequestError),
    ("failed_to_download_image", llmlite.BadRequestError), ("credit_balance_exhausted", llmlite.QuotaExceededError)])
@pytest.mark.parametrize("ask", ["chat", "stream"])
def test_failures_that_no_retry_mends(server, code, error, ask):
    """They come with status 200, and are final all the same."""
    failed = body(status="failed", error={"code": code, "message": "no"}, usage=None)
    server.handle(lambda request: testing.sse([*start(), event("response.failed", response=failed)])
                  if ask == "stream" else testing.json_body(failed))
    with client(server, api="responses", retry=FAST) as llm, pytest.raises(error):
        getattr(llm, ask)("hi")
    assert len(server.requests) == 1


def test_sealed_reasoning_refused_inside_a_200(server):
    """Reasoning is dropped there too."""
    failed = body(status="failed", error={"code": "invalid_encrypted_content", "message": "no"}, usage=None)
    server.json(failed)
    server.reply("ok")
    with client(server, api="responses") as llm:
        assert llm.chat([HI, TURN, HI]).text == "ok"


@pytest.mark.parametrize("words", ["Encrypted content is not supported with this model.",
                                   "Item 'rs_1' was provided without its required following item."])
def test_other_words_for_it(server, words):
    server.error(400, words)
    server.reply("ok")
    with client(server, api="responses") as llm:
        assert llm.chat([HI, TURN, HI]).text == "ok"


def test_a_call_that_only_chat_takes(server):
    """Where Responses do not take it either, the refusal stands and says why, and a fallback is asked."""
    server.json(ONLY, status=404, times=2)
    server.reply("ok")
    with client(server) as llm:
        with pytest.raises(llmlite.NotFoundError, match="Responses do not take this call: stop is not an option"):
            llm.chat("hi", stop="x")
    backup = client(server, "groq")
    with backup, client(server, fallbacks=[backup]) as llm:
        assert llm.chat("hi", stop="x").text == "ok"


def test_ones_own_include_and_the_sealed_one(server):
    """What `extra` asks to be included comes beside the reasoning that goes back."""
    server.reply("ok")
    with client(server, model="gpt-5-mini", api="responses") as llm:
        llm.chat("hi", extra={"include": ["message.output_text.logprobs"]})
    assert server.requests[0].json["include"] == ["reasoning.encrypted_content", "message.output_text.logprobs"]


def test_ids_that_come_again(server):
    """A result goes to the last call of its id, of whichever kind that was."""
    calls = [{"id": "call_0", "type": "custom", "custom": {"name": "c", "input": "x"}},
             {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    history = [HI, *(turn for call in calls for turn in (
        {"role": "assistant", "content": None, "tool_calls": [call]}, llmlite.tool_result("call_0", "4")))]
    assert [item["type"] for item in sent_for(server, history=history)["input"][1:]] == [
        "custom_tool_call", "custom_tool_call_output", "function_call", "function_call_output"]


def test_tools_of_every_shape(server):
    """Flat ones, such without a type, and those in a list of allowed ones."""
    server.reply("ok")
    flat = {"type": "function", "name": "f", "parameters": {}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [
        {"type": "function", "function": {"name": "f"}}]}}
    with client(server, api="responses") as llm:
        llm.chat("hi", tools=[flat, {"function": {"name": "g", "strict": None}}], tool_choice=allowed)
    sent = server.requests[0].json
    assert sent["tools"] == [{**flat, "strict": False}, {"type": "function", "name": "g", "strict": False}]
    assert sent["tool_choice"] == {
        "type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}


def test_many_items_cost_no_more_each(server):
    """The work an item takes does not grow with what came before it: a deadline holds."""
    item = {"type": "web_search_call"}
    server.sse([*start(), *written(0, "x" * 1_000_000), *(
        event("response.output_item.added", output_index=at, item=item) for at in range(1, 900)), *end()])
    with client(server, api="responses", deadline=5) as llm:
        assert len(drained(llm.stream("hi")).text) == 1_000_000
