"""Against a real llama.cpp (its address in LLMLITE_TEST_LLAMACPP): nonsense in the text, truth in the protocol."""
import contextlib
import json
import os

import pytest

from tests import llmlite

URL = os.environ.get("LLMLITE_TEST_LLAMACPP", "")
THINKING = os.environ.get("LLMLITE_TEST_LLAMACPP_THINKING", "")  # one whose template thinks
pytestmark = pytest.mark.skipif(not URL, reason="LLMLITE_TEST_LLAMACPP is not set")


@pytest.fixture
def llama():
    """A client of the server's chat and of its own completion."""
    with llmlite.Client("tiny", provider="llamacpp", base_url=URL + "/v1", retry=None, deadline=50) as llm:
        yield llm


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


def drained(stream):
    list(stream.events())
    return stream.response


def asked(llm, how, *args, **options):
    return drained(llm.stream(*args, **options)) if how == "stream" else llm.chat(*args, **options)


@pytest.mark.parametrize("how", ["chat", "stream"])
def test_calls_cut_by_the_limit(llama, how):
    """Cut in its calls, an answer says length; the last call is invalid, and the history with it can be sent."""
    replies = (asked(llama, how, "Add", tools=[add], seed=seed, max_tokens=40) for seed in range(1, 20))
    reply = next(reply for reply in replies if reply.tool_calls and reply.raw_finish_reason == "length")
    assert (reply.finish_reason, reply.truncated) == ("length", True)
    assert [bool(call.invalid) for call in reply.tool_calls] == [False] * (len(reply.tool_calls) - 1) + [True]
    results = [llmlite.tool_result(call, 3) for call in reply.tool_calls]
    again = llama.chat([llmlite.user("Add"), reply.message, *results], tools=[add], seed=2, max_tokens=5)
    assert again.finish_reason in ("stop", "length", "tool_calls")


@pytest.mark.parametrize("arguments", ['{"a": 1, "b', '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud83d"}', "", "{}",
                                       "null", "[1]", {"a": 1, "b": 2}])
def test_arguments_in_a_history(llama, arguments):
    """Whatever the arguments of a call are, the server takes the history."""
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    history = [llmlite.user("Add"), {"role": "assistant", "content": None, "tool_calls": [call]},
               llmlite.tool_result("c1", "3")]
    assert llama.chat(history, tools=[add], seed=1, max_tokens=5).usage.output_tokens == 5


def test_a_loop_of_tools(llama):
    """run_tools comes to an end, whatever the model calls: with an answer, or after its rounds."""
    ran = []

    def note(a: int) -> int:
        ran.append(a)
        return a

    try:
        reply = llama.run_tools("Note", [note], max_rounds=2, max_tokens=150, seed=2)
    except llmlite.ResponseError as error:
        reply = error.response
        assert error.attempts == 2
    assert [turn["role"] for turn in reply.messages].count("assistant") <= 2
    told = [turn for turn in reply.messages if turn["role"] == "tool"]
    assert len([turn for turn in told if not turn.get("is_error")]) == len(ran)


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_long_conversation(api, tmp_path):
    """Turns with a tool, a part of one, a summary, another turn, saved between: the server takes each history."""
    with llmlite.Client("tiny", provider="llamacpp", base_url=URL + "/v1", api=api, retry=None, deadline=50) as llm:
        talk = llm.conversation(system="Be brief.", tools=[add], max_tokens=20, max_rounds=3)
        with contextlib.suppress(llmlite.ResponseError):
            talk.send("Add 1 and 2")
        for text in ("Hello", "And?", "So?"):
            talk.send(text, tools=None)
        with talk.stream("Tell me", keep_partial=True, tools=None) as stream:
            next(stream)
        assert talk.messages[-2] == llmlite.user("Tell me") and talk.messages[-1]["content"]
        talk.save(tmp_path / "talk.json")
        talk = llm.load_conversation(tmp_path / "talk.json", max_tokens=20, tools=[add])
        reply = talk.compact(keep=1, max_tokens=300, extra={"grammar": 'root ::= "They talked."'})
        assert "They talked." in reply.text and len(talk.messages) == 3 and talk.usage.total_tokens == 0
        last = talk.stream("Well?", tools=None)
        assert "".join(last) == last.text and len(talk.messages) == 5
        assert last.response.usage.input_tokens > 20


GRAMMAR = {"grammar": 'root ::= "a\u03c9\U0001f419b"'}


@pytest.mark.parametrize("logprobs", [None, 1])
def test_characters_of_several_tokens(llama, logprobs):
    """As many tokens as ids, their texts together the text, their ids what the server makes of the text."""
    reply = llama.complete("Once", max_tokens=20, logprobs=logprobs, seed=1, extra=GRAMMAR)
    assert reply.text == "".join(token.text for token in reply.tokens) == "a\u03c9\U0001f419b"
    assert len(reply.tokens) == reply.usage.output_tokens == len(reply.raw["tokens"])
    assert [token.id for token in reply.tokens] == reply.raw["tokens"]
    if logprobs:
        assert [token.text for token in reply.tokens if token.logprob] == ["a", "\u03c9", "\U0001f419", "b", ""]
        assert all(token.logprob < 0 for token in reply.tokens if token.text)


@pytest.mark.parametrize("logprobs", [None, 1])
def test_a_stream_of_tokens(llama, logprobs):
    """A stream gives the same tokens as the whole answer, and the same `raw` but for how long it took."""
    args = {"max_tokens": 12, "logprobs": logprobs, "seed": 5, "temperature": 0}
    whole = llama.complete("Hello there world", **args)
    streamed = drained(llama.stream_tokens("Hello there world", **args))
    assert [token.id for token in streamed.tokens] == [token.id for token in whole.tokens]
    assert streamed.text == whole.text and set(streamed.raw) == set(whole.raw)
    assert (streamed.finish_reason, streamed.usage.output_tokens) == (whole.finish_reason, whole.usage.output_tokens)
    if logprobs:
        assert [token.text for token in streamed.tokens] == [token.text for token in whole.tokens]
        assert len(streamed.logprobs) == len(whole.logprobs) == 12


def test_cached_tokens(llama):
    """The input is the whole prompt, what of it lay in the cache too, in its own completion as in a chat."""
    prompt = "the water of the city " * 10
    first, again = (llama.complete(prompt, max_tokens=1, extra={"id_slot": 0}).usage for _ in "ab")
    assert first.input_tokens == again.input_tokens > again.cached_tokens > 0
    assert len(llama.complete(prompt, max_tokens=1, extra={"n_predict": 1}).raw["tokens"]) == 1


def test_log_probabilities_of_a_chat(llama):
    """Those of a streamed chat are those of a whole one."""
    args = {"logprobs": 2, "max_tokens": 6, "temperature": 0, "seed": 1}
    whole, streamed = llama.chat("Hi", **args), drained(llama.stream("Hi", **args))
    assert [row.token for row in streamed.logprobs] == [row.token for row in whole.logprobs]
    assert len(whole.logprobs) == 6 and len(streamed.logprobs[0].top) == 2
    assert all(row.logprob <= 0 and row.top[0].logprob >= row.top[1].logprob for row in streamed.logprobs)
    assert len(streamed.raw["choices"][0]["logprobs"]["content"]) == 6
    alone = llama.chat("Hi", **{**args, "logprobs": True}).logprobs
    assert [row.logprob for row in alone] == pytest.approx([row.logprob for row in whole.logprobs], abs=0.01)


@pytest.mark.parametrize("how", ["chat", "stream"])
def test_schemas(llama, how):
    """An answer that a grammar has forced into a schema is held against it, and fits unless it was cut."""
    schema = {"type": "object", "required": ["color", "n"], "additionalProperties": False, "properties": {
        "color": {"enum": ["red", "blue"]}, "n": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"enum": [1, 2, 3]}}}
    reply = asked(llama, how, "A color", schema=schema, max_tokens=300, seed=1)
    assert reply.parsed["color"] in ("red", "blue") and reply.parsed["n"] in (1, 2, 3)
    assert json.loads(reply.text) == reply.parsed


def test_text_of_any_script(llama):
    """A prompt in UTF-8 arrives as it is; half of a surrogate pair is the server's to refuse."""
    assert llama.complete("\u4e16\U0001f44d", max_tokens=1).raw["prompt"].endswith("\u4e16\U0001f44d")
    try:
        llama.complete("\ud83d", max_tokens=1)
    except llmlite.LLMError as error:
        assert not isinstance(error, llmlite.ConfigurationError)


@pytest.mark.skipif(not THINKING, reason="LLMLITE_TEST_LLAMACPP_THINKING is not set")
@pytest.mark.parametrize("how", ["chat", "stream"])
def test_reasoning_goes_back(how):
    """The server's template finds the reasoning in the history: the prompt is longer by it."""
    with llmlite.Client("tiny", provider="llamacpp", base_url=THINKING + "/v1", retry=None, deadline=50) as llm:
        reply = asked(llm, how, "Hi", max_tokens=40, seed=1)
        assert reply.reasoning
        bare = {key: value for key, value in reply.message.items() if key != "llmlite"}
        asks = ([llmlite.user("Hi"), message, llmlite.user("go on")] for message in (reply.message, bare))
        told, untold = (llm.chat(ask, max_tokens=1).usage.input_tokens for ask in asks)
    assert told - untold > 20


@pytest.mark.parametrize("how", ["chat", "stream"])
@pytest.mark.parametrize("url", [URL, THINKING], ids=["plain", "thinking"])
def test_responses(url, how):
    """A conversation with a tool in Responses: what was said goes back and is taken, reasoning too."""
    if not url:
        pytest.skip("LLMLITE_TEST_LLAMACPP_THINKING is not set")
    with llmlite.Client("tiny", provider="llamacpp", base_url=url + "/v1", api="responses", deadline=50,
                        retry=None) as llm:
        first = asked(llm, how, "Hello there", max_tokens=30, temperature=0)
        assert (first.finish_reason, first.usage.output_tokens) == ("length", 30)
        assert bool(first.reasoning) == (url == THINKING) and first.id.startswith("resp_")
        history = [llmlite.user("Hello"), first.message, llmlite.user("and?")]
        again = asked(llm, how, history, tools=[add], max_tokens=60, temperature=0)
        assert again.usage.input_tokens > first.usage.input_tokens + 20
        results = [llmlite.tool_result(call, 3) for call in again.tool_calls]
        history = [llmlite.user("Add"), again.message, *results]
        assert asked(llm, how, history, tools=[add], max_tokens=5).usage.output_tokens == 5


@pytest.mark.parametrize("how", ["chat", "stream"])
def test_the_pieces_of_responses(how):
    """What the stream says is what the reply holds; a refused request is the same error as elsewhere."""
    with llmlite.Client("tiny", provider="llamacpp", base_url=URL + "/v1", api="responses", retry=None) as llm:
        stream = llm.stream("Hello there", max_tokens=40)
        assert "".join(stream) == stream.response.text != ""
        with pytest.raises(llmlite.APIError):
            asked(llm, how, [llmlite.user("a"), {"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}])


def test_counts(llama):
    """What is counted is what a chat then reads, tools and system included; a text's tokens make it up again."""
    history = [llmlite.user("Add"), llmlite.assistant("What?"), llmlite.user("1 and 2")]
    for options in ({}, {"system": "Be short."}, {"system": "Be short.", "tools": [add]}):
        count = llama.count_tokens(history, **options)
        assert count == llama.chat(history, max_tokens=1, **options).usage.input_tokens
    ids = llama.tokenize("Hello there, \u03c9")
    assert len(ids) > 3 and llama.detokenize(ids) == "Hello there, \u03c9"


def test_other_endpoints(llama):
    """Below the base URL and beside it; a stream's events are those of its chat; a wrong path is the server's 404."""
    assert llama.request("GET", URL + "/health").json() == {"status": "ok"}
    body = {"messages": [llmlite.user("Hi")], "max_tokens": 5, "seed": 1, "temperature": 0}
    whole = llama.request("POST", "/chat/completions", json=body).json()
    with llama.request("POST", "/chat/completions", json={**body, "stream": True}, stream=True) as answer:
        chunks = [event.json() for event in answer.events()]
    pieces = [_["choices"][0]["delta"].get("content") or "" for _ in chunks if _["choices"]]
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert llama.request("POST", URL + "/tokenize", json={"content": "Hi", "add_special": False}).json()["tokens"] == (
        llama.tokenize("Hi"))
    with pytest.raises(llmlite.NotFoundError):
        llama.request("GET", "/nowhere")


def test_a_text_file(llama):
    """It goes in as text, in chats and in Responses."""
    message = llmlite.user("What is in it?", files=b"the water of the city")
    with llmlite.Client("tiny", provider="llamacpp", base_url=URL + "/v1", api="responses", retry=None) as items:
        counts = [llm.chat([message], max_tokens=1).usage.input_tokens for llm in (llama, items)]
    alone = llama.chat([llmlite.user("What is in it?")], max_tokens=1).usage.input_tokens
    assert min(counts) > alone
