"""Raw completions at OpenAI-compatible servers, vLLM and llama.cpp: what is sent, and every token that is read."""
import contextlib
import fractions

import pytest

from tests import llmlite
from tests.stand_ins import Whole

Token, Usage = llmlite.Token, llmlite.Usage
FAST = llmlite.RetryPolicy(max_retries=2, backoff=0.001, rate_limit_max_retries=2, rate_limit_backoff=0.001)
FIELDS = ("text", "finish_reason", "raw_finish_reason", "usage", "model", "id", "reasoning", "tool_calls")
DONE = b"data: [DONE]\n\n"


def client(server, provider=None, retry=None):
    return llmlite.Client("m", provider=provider, base_url=server.url, api_key="k-123456", retry=retry)


def seen(reply):
    return {name: getattr(reply, name) for name in FIELDS}


def drained(stream):
    list(stream.events())
    return stream.response


# --------------------------------------------------------------------------------------------------------- what is sent

EVERYTHING = {"temperature": 0.0, "top_p": 0.5, "top_k": 0, "min_p": 0.1, "max_tokens": 7, "stop": ["a", "b"],
              "seed": 0, "priority": -3, "logprobs": 2, "extra": {"ignore_eos": True}}
ALL_SENT = {"temperature": 0.0, "top_p": 0.5, "top_k": 0, "min_p": 0.1, "max_tokens": 7, "stop": ["a", "b"], "seed": 0,
            "priority": -3, "logprobs": 2, "ignore_eos": True}
ASKED = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("provider, extra", [(None, {}), ("openai", {}), ("azure", {}), ("together", {}),
                                             ("ollama", {}), ("vllm", {"return_token_ids": True})])
@pytest.mark.parametrize("prompt", ["Once", [1, 2, 3], (1, 2)], ids=["text", "ids", "tuple"])
@pytest.mark.parametrize("args, sent", [({}, {}), (EVERYTHING, ALL_SENT)], ids=["plain", "everything"])
def test_request(server, provider, extra, prompt, args, sent):
    """The whole body of a completion and of a stream of tokens: names are those of the legacy endpoint everywhere."""
    server.reply("ok", times=2)
    llm = client(server, provider)
    llm.complete(prompt, **args)
    list(llm.stream_tokens(prompt, **args))
    whole = {"model": "m", "prompt": prompt if isinstance(prompt, str) else list(prompt), **sent, **extra}
    assert [request.json for request in server.requests] == [whole, {**whole, **ASKED}]
    assert {(request.method, request.path) for request in server.requests} == {("POST", "/v1/completions")}


@pytest.mark.parametrize("prompt", ["Once", [1, 2, 3]], ids=["text", "ids"])
def test_request_of_llama_cpp(server, prompt):
    """llama.cpp is asked at its own endpoint, beside /v1, which tells the token ids."""
    server.reply("ok", times=2)
    llm = client(server, "llamacpp")
    llm.complete(prompt, **EVERYTHING)
    list(llm.stream_tokens(prompt))
    whole = {"prompt": prompt, "return_tokens": True}
    everything = {name: value for name, value in ALL_SENT.items() if name not in ("max_tokens", "logprobs")}
    first, second = (request.json for request in server.requests)
    assert {name: first.get(name) for name in everything} == everything
    assert first["n_predict"] == 7 and first["stream"] is False and "max_tokens" not in first
    assert second == {**whole, "stream": True}
    assert {(request.method, request.path) for request in server.requests} == {("POST", "/completion")}


def test_logprobs_of_llama_cpp(server):
    """What others call logprobs is n_probs there."""
    server.reply("ok")
    client(server, "llamacpp").complete("Once", logprobs=2)
    assert server.requests[0].json == {"prompt": "Once", "return_tokens": True, "n_probs": 2, "stream": False}


KINDS = {"another library": Whole}
with contextlib.suppress(ImportError):
    import numpy
    KINDS["numpy"] = numpy.int64


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("provider", [None, "llamacpp"])
def test_token_ids_of_another_library(server, provider, kind):
    """Whole numbers of any library are token ids, and numbers wherever a request has some."""
    server.reply("ok")
    client(server, provider).complete([1, kind(2)], extra={"logit_bias": {"7": kind(-1)}, "stop_token_ids": [kind(3)]})
    sent = server.requests[0].json
    assert (sent["prompt"], sent["logit_bias"], sent["stop_token_ids"]) == ([1, 2], {"7": -1}, [3])


@pytest.mark.parametrize("value", [object(), {1}, b"x", 1j, fractions.Fraction(10) ** 400],
                         ids=["object", "set", "bytes", "complex", "beyond floats"])
def test_what_json_cannot_say(server, value):
    """What is no number of any kind is refused before anything is sent, in one line that shows it."""
    with pytest.raises(llmlite.ConfigurationError, match="cannot be written as JSON: .* has no JSON form"):
        client(server).complete("a", extra={"x": [value]})
    assert server.requests == []


def test_what_json_cannot_hold(server):
    """Nor is what holds itself, or is nested deeper than Python goes; the next call is as good as any."""
    cycle, deep = {}, []
    cycle["again"] = [cycle]
    for _ in range(200000):
        deep = [deep]
    llm = client(server)
    for value in (cycle, deep):
        with pytest.raises(llmlite.ConfigurationError, match="cannot be written as JSON: it holds itself, or is too"):
            llm.complete("a", extra={"x": value})
    assert server.requests == []
    cycle["again"] = float("nan")
    with pytest.raises(llmlite.ConfigurationError, match="cannot be written as JSON: Out of range"):
        llm.complete("a", extra=cycle)
    server.reply("ok")
    assert llm.complete("a", extra={"x": [1]}).text == "ok"


@pytest.mark.parametrize("prompt", ["", [], None, ["a"], [1, "a"], [True], 7, b"x"])
@pytest.mark.parametrize("provider", [None, "llamacpp"])
def test_prompts_that_are_none(server, provider, prompt):
    """An empty prompt, and what is neither text nor token ids, is refused before anything is sent."""
    with pytest.raises(llmlite.ConfigurationError, match="prompt"):
        client(server, provider).complete(prompt)
    assert server.requests == []


# --------------------------------------------------------------------------------------------------------- what is read

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def body(text, finish="stop", usage=USAGE, **choice):
    choices = [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish, **choice}]
    whole = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "served", "choices": choices}
    return {**whole, "usage": usage} if usage else whole


def chunk(text, finish=None, usage=None, **choice):
    return body(text, finish, usage, **choice)


LAST = {**body(""), "choices": []}


def row(token, id, logprob):
    return {"id": id, "token": token, "bytes": list(token.encode()), "logprob": logprob, "top_logprobs": []}


def reply(text, finish="stop", **fields):
    return {"text": text, "finish_reason": finish, "raw_finish_reason": finish, "usage": Usage(3, 2),
            "model": "served", "id": "cmpl-1", "reasoning": "", "tool_calls": [], **fields}


LEGACY = {"tokens": [" hi", "!"], "token_logprobs": [-0.5, None], "top_logprobs": [{" hi": -0.5}, None],
          "text_offset": [0, 3]}
CASES = {
    "plain": (body(" hi!"), [chunk(" hi"), chunk("!"), chunk("", "stop"), LAST, DONE], reply(" hi!"),
              [Token(" hi!")], [Token(" hi"), Token("!")]),
    "length": (body(" hi!", "length"), [chunk(" hi"), chunk("!", "length"), LAST, DONE], reply(" hi!", "length"),
               [Token(" hi!")], [Token(" hi"), Token("!")]),
    "vllm": (body(" hi!", token_ids=[7, 8, 2], prompt_token_ids=[1, 2], stop_reason=None),
             [chunk(" hi", token_ids=[7], prompt_token_ids=[1, 2], stop_reason=None), chunk("!", token_ids=[8]),
              chunk("", "stop", token_ids=[2], stop_reason=None), LAST, DONE], reply(" hi!"),
             [Token("", 7), Token("", 8), Token(" hi!", 2)], [Token(" hi", 7), Token("!", 8), Token("", 2)]),
    "vllm-null-ids": (body(" hi", token_ids=None, prompt_token_ids=None),
                      [chunk(" hi", token_ids=None), chunk("", "stop", token_ids=None), LAST, DONE], reply(" hi"),
                      [Token(" hi")], [Token(" hi")]),
    "vllm-held-back": (body("\U0001f600", token_ids=[7, 8]),
                       [chunk("", token_ids=[7]), chunk("\U0001f600", token_ids=[8]), chunk("", "stop"), LAST, DONE],
                       reply("\U0001f600"), [Token("", 7), Token("\U0001f600", 8)],
                       [Token("", 7), Token("\U0001f600", 8)]),
    "legacy-logprobs": (
        body(" hi!", logprobs=LEGACY, token_ids=[7, 8]),
        [chunk(" hi", token_ids=[7], logprobs={"tokens": [" hi"], "token_logprobs": [-0.5], "text_offset": [0]}),
         chunk("!", token_ids=[8], logprobs={"tokens": ["!"], "token_logprobs": [None], "text_offset": [3]}),
         chunk("", "stop"), LAST, DONE],
        reply(" hi!"), [Token(" hi", 7, -0.5), Token("!", 8)], [Token(" hi", 7, -0.5), Token("!", 8)]),
    "llama-on-v1": (  # its usage stands in the finish chunk, its log probabilities are a list
        body(" hi!", logprobs={"content": [row(" hi", 7, -0.5), row("!", 8, -1.5)]}, id=None),
        [chunk(" hi", logprobs={"content": [row(" hi", 7, -0.5)]}),
         chunk("!", logprobs={"content": [row("!", 8, -1.5)]}), chunk("", "stop", USAGE), DONE],
        reply(" hi!"), [Token(" hi", 7, -0.5), Token("!", 8, -1.5)], [Token(" hi", 7, -0.5), Token("!", 8, -1.5)]),
    "special-tokens": (  # vLLM leaves them out of the text, not out of the log probabilities
        body(" hi", logprobs={"tokens": ["<s>", " hi", "</s>"], "token_logprobs": [None, -0.5, -1.5]},
             token_ids=[1, 7, 2]),
        [chunk("", token_ids=[1], logprobs={"tokens": ["<s>"], "token_logprobs": [None]}),
         chunk(" hi", token_ids=[7], logprobs={"tokens": [" hi"], "token_logprobs": [-0.5]}),
         chunk("", "stop", token_ids=[2], logprobs={"tokens": ["</s>"], "token_logprobs": [-1.5]}), LAST, DONE],
        reply(" hi"), [Token("", 1), Token(" hi", 7, -0.5), Token("", 2, -1.5)],
        [Token("", 1), Token(" hi", 7, -0.5), Token("", 2, -1.5)]),
    "torn-character": (
        body("a\U0001f600 b", logprobs={"tokens": ["a", "\ufffd", "\ufffd", " b"],
                                        "token_logprobs": [-1.0, -2.0, -3.0, -4.0]}, token_ids=[5, 6, 7, 8]),
        [chunk("a", token_ids=[5], logprobs={"tokens": ["a"], "token_logprobs": [-1.0]}),
         chunk("", token_ids=[6], logprobs={"tokens": ["\ufffd"], "token_logprobs": [-2.0]}),
         chunk("\U0001f600", token_ids=[7], logprobs={"tokens": ["\ufffd"], "token_logprobs": [-3.0]}),
         chunk(" b", "stop", token_ids=[8], logprobs={"tokens": [" b"], "token_logprobs": [-4.0]}), LAST, DONE],
        reply("a\U0001f600 b"),
        [Token("a", 5, -1.0), Token("", 6, -2.0), Token("\U0001f600", 7, -3.0), Token(" b", 8, -4.0)],
        [Token("a", 5, -1.0), Token("", 6, -2.0), Token("\U0001f600", 7, -3.0), Token(" b", 8, -4.0)]),
    "torn-at-the-end": (  # the character is not the special token's
        body("a\U0001f600", logprobs={"tokens": ["a", "\ufffd", "\ufffd", "</s>"],
                                      "token_logprobs": [-1.0, -2.0, -3.0, -4.0]}, token_ids=[5, 6, 7, 2]),
        [chunk("a", token_ids=[5], logprobs={"tokens": ["a"], "token_logprobs": [-1.0]}),
         chunk("\U0001f600", "stop", token_ids=[6, 7, 2], logprobs={
             "tokens": ["\ufffd", "\ufffd", "</s>"], "token_logprobs": [-2.0, -3.0, -4.0]}), LAST, DONE],
        reply("a\U0001f600"),
        [Token("a", 5, -1.0), Token("", 6, -2.0), Token("\U0001f600", 7, -3.0), Token("", 2, -4.0)],
        [Token("a", 5, -1.0), Token("", 6, -2.0), Token("\U0001f600", 7, -3.0), Token("", 2, -4.0)]),
    "stop-string-of-tokens": (  # the text is cut before it, the tokens are not
        body("ab", logprobs={"tokens": ["ab", ".\n", "END"], "token_logprobs": [-1.0, -2.0, -3.0]},
             token_ids=[5, 6, 7]),
        [chunk("ab", token_ids=[5], logprobs={"tokens": ["ab"], "token_logprobs": [-1.0]}),
         chunk("", "stop", token_ids=[6, 7], logprobs={"tokens": [".\n", "END"], "token_logprobs": [-2.0, -3.0]}),
         LAST, DONE],
        reply("ab"), [Token("ab", 5, -1.0), Token("", 6, -2.0), Token("", 7, -3.0)],
        [Token("ab", 5, -1.0), Token("", 6, -2.0), Token("", 7, -3.0)]),
    "echo": (  # ids of the prompt stand apart, its log probabilities lead
        body("On hi", "length", logprobs={"tokens": ["<s>", "On", " hi"], "token_logprobs": [None, -1.0, -2.0]},
             prompt_token_ids=[1, 2], token_ids=[7]),
        [chunk("On hi", "length", token_ids=[7], prompt_token_ids=[1, 2],
               logprobs={"tokens": ["<s>", "On", " hi"], "token_logprobs": [None, -1.0, -2.0]}), LAST, DONE],
        reply("On hi", "length"), [Token("", 1), Token("On", 2, -1.0), Token(" hi", 7, -2.0)],
        [Token("", 1), Token("On", 2, -1.0), Token(" hi", 7, -2.0)]),
    "echo-alone": (  # with max_tokens=0
        body("On", "length", logprobs={"tokens": ["<s>", "On"], "token_logprobs": [None, -1.0]},
             prompt_token_ids=[1, 2], token_ids=[7]),
        [chunk("On", "length", prompt_token_ids=[1, 2], token_ids=[],
               logprobs={"tokens": ["<s>", "On"], "token_logprobs": [None, -1.0]}), LAST, DONE],
        reply("On", "length"), [Token("", 1), Token("On", 2, -1.0)], [Token("", 1), Token("On", 2, -1.0)]),
    "ids-as-words": (  # return_tokens_as_token_ids
        body(" hi!", logprobs={"tokens": ["token_id:7", "token_id:8"], "token_logprobs": [-1.0, -2.0]}),
        [chunk(" hi", logprobs={"tokens": ["token_id:7"], "token_logprobs": [-1.0]}),
         chunk("!", "stop", logprobs={"tokens": ["token_id:8"], "token_logprobs": [-2.0]}), LAST, DONE],
        reply(" hi!"), [Token("", 7, -1.0), Token(" hi!", 8, -2.0)], [Token(" hi", 7, -1.0), Token("!", 8, -2.0)]),
    "fewer-weights": (
        body(" hi!", logprobs={"tokens": [" hi", "!"], "token_logprobs": [-1.0]}, token_ids=[7, 8]),
        [chunk(" hi!", "stop", token_ids=[7, 8], logprobs={"tokens": [" hi", "!"], "token_logprobs": [-1.0]}), LAST,
         DONE], reply(" hi!"), [Token(" hi", 7), Token("!", 8)], [Token(" hi", 7), Token("!", 8)]),
    "words-that-do-not-count": (  # neither of the answer's ids, nor with the prompt's
        body(" hi!", logprobs={"tokens": [" hi", "!", "?", "."], "token_logprobs": [-1.0] * 4}, token_ids=[7, 8]),
        [chunk(" hi!", "stop", token_ids=[7, 8], logprobs={"tokens": [" hi", "!", "?", "."]}), LAST, DONE],
        reply(" hi!"), [Token("", 7), Token(" hi!", 8)], [Token("", 7), Token(" hi!", 8)]),
    "one-word-more": (
        body(" hi!", logprobs={"tokens": [" hi", "!", "</s>"], "token_logprobs": [-1.0, -2.0, -3.0]},
             token_ids=[7, 8]),
        [chunk(" hi!", "stop", token_ids=[7, 8], logprobs={
            "tokens": [" hi", "!", "</s>"], "token_logprobs": [-1.0, -2.0, -3.0]}), LAST, DONE],
        reply(" hi!"), [Token(" hi", 7, -1.0), Token("!", 8, -2.0)], [Token(" hi", 7, -1.0), Token("!", 8, -2.0)]),
    "one-word-less": (
        body(" hi!", logprobs={"tokens": [" hi", "!"], "token_logprobs": [-1.0, -2.0]}, token_ids=[7, 8, 2]),
        [chunk(" hi!", "stop", token_ids=[7, 8, 2], logprobs={
            "tokens": [" hi", "!"], "token_logprobs": [-1.0, -2.0]}), LAST, DONE],
        reply(" hi!"), [Token(" hi", 7, -1.0), Token("!", 8, -2.0), Token("", 2)],
        [Token(" hi", 7, -1.0), Token("!", 8, -2.0), Token("", 2)]),
    "usage-on-each": (
        body(" hi"), [chunk(" hi", usage={"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}),
                      chunk("", "stop", USAGE), LAST, DONE], reply(" hi"), [Token(" hi")], [Token(" hi")]),
    "stop-string": (body(" hi", stop_reason="END"), [chunk(" hi"), chunk("", "stop", stop_reason="END"), LAST, DONE],
                    reply(" hi"), [Token(" hi")], [Token(" hi")]),
    "no-end-mark": (body(" hi"), [chunk(" hi"), chunk("", "stop", USAGE)], reply(" hi"), [Token(" hi")],
                    [Token(" hi")]),
    "nothing": (body("", "length"), [chunk("", "length"), LAST, DONE], reply("", "length"), [], []),
    "repetition": (body(" hi", "repetition"), [chunk(" hi"), chunk("", "repetition"), LAST, DONE],
                   reply(" hi", finish_reason="other", raw_finish_reason="repetition"), [Token(" hi")],
                   [Token(" hi")]),
}


@pytest.mark.parametrize("name", CASES)
def test_reply(server, name):
    """A body and the stream of it give the same Response; the stream hands its tokens on one by one."""
    whole, chunks, want, tokens, streamed = CASES[name]
    server.json(whole)
    server.sse(chunks)
    llm = client(server)
    answer = llm.complete("Once")
    assert (seen(answer), answer.tokens) == (want, tokens)
    with llm.stream_tokens("Once") as stream:
        assert list(stream) == streamed
    assert (seen(stream.response), stream.response.tokens) == (want, streamed)
    assert stream.text == want["text"]


def native(content, tokens=(), stop=False, **more):
    return {"index": 0, "content": content, "tokens": list(tokens), "stop": stop, "tokens_predicted": 2,
            "tokens_evaluated": 3, "model": "served", **more}


def ended(content="", tokens=(), kind="eos", **more):
    return native(content, tokens, True, stop_type=kind, stopping_word="", truncated=False, tokens_cached=4,
                  generation_settings={}, prompt="Once", timings={}, **more)


PROBS = [{"id": 7, "token": " hi", "logprob": -0.5, "top_logprobs": []}]


@pytest.mark.parametrize("kind, finish", [("eos", "stop"), ("word", "stop"), ("limit", "length"), ("none", "other")])
def test_reply_of_llama_cpp(server, kind, finish):
    """llama.cpp's own completion: text, ids, usage, how it ended; its stream has no end mark but its last object."""
    server.json(ended(" hi!", [7, 8], kind))
    server.sse([native(" hi", [7]), native("!", [8]), ended(kind=kind)], framing="close")
    llm = client(server, "llamacpp")
    want = reply(" hi!", finish_reason=finish, raw_finish_reason=kind, id=None)
    whole = llm.complete("Once")
    assert (seen(whole), whole.tokens) == (want, [Token("", 7), Token(" hi!", 8)])
    stream = llm.stream_tokens("Once")
    assert list(stream) == [Token(" hi", 7), Token("!", 8)]
    assert (seen(stream.response), stream.response.tokens) == (want, [Token(" hi", 7), Token("!", 8)])


@pytest.mark.parametrize("said, raw, finish", [
    ({"stopped_limit": True}, "limit", "length"), ({"stopped_limit": False, "stopped_eos": True}, "eos", "stop")])
def test_how_an_older_llama_cpp_ends(server, said, raw, finish):
    """Before it had a word for how it stopped, it had a flag for each way."""
    server.json(native(" hi!", [7], True, **said))
    answer = client(server, "llamacpp").complete("Once")
    assert (answer.raw_finish_reason, answer.finish_reason) == (raw, finish)


def test_log_probabilities_of_llama_cpp(server):
    """With n_probs each token has its log probability."""
    server.json(ended(" hi", [7], completion_probabilities=PROBS))
    server.sse([native(" hi", [7], completion_probabilities=PROBS), ended()])
    llm = client(server, "llamacpp")
    assert llm.complete("Once").tokens == list(llm.stream_tokens("Once")) == [Token(" hi", 7, -0.5)]


def test_a_character_of_several_tokens(server):
    """llama.cpp tells the log probability of a character, and the ids of all the tokens it is made of: all are kept."""
    rows = [row("a", 5, -0.5), row("\u03c9", 7, -1.5), row("b", 8, -2.5)]
    server.json(ended("a\u03c9b", [5, 6, 7, 8], completion_probabilities=rows))
    answer = client(server, "llamacpp").complete("Once", logprobs=1)
    assert answer.tokens == [Token("a", 5, -0.5), Token("", 6), Token("\u03c9", 7, -1.5), Token("b", 8, -2.5)]
    assert answer.logprobs == [llmlite.Logprob("a", -0.5), llmlite.Logprob("\u03c9", -1.5), llmlite.Logprob("b", -2.5)]


def test_cached_tokens_of_llama_cpp(server):
    """tokens_evaluated is the whole prompt; how much of it lay in the cache is among the timings."""
    last = {**ended(" hi", [7]), "tokens_evaluated": 7, "timings": {"cache_n": 6, "prompt_n": 1}}
    server.json(last)
    server.sse([last])
    llm = client(server, "llamacpp")
    want = Usage(7, 2, 6)
    assert llm.complete("Once").usage == drained(llm.stream_tokens("Once")).usage == want


def keys_of(value):
    """All keys of a JSON value, at any depth."""
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("provider", ["vllm", "llamacpp"])
def test_raw_of_a_stream(server, provider):
    """`raw` of a stream is what the body of a whole answer would have been, and JSON."""
    if provider == "vllm":
        logprobs = {"tokens": [" hi", "!"], "token_logprobs": [-0.5, -1.5], "text_offset": [0, 3]}
        whole = body(" hi!", token_ids=[7, 8], prompt_token_ids=[1], logprobs=logprobs, stop_reason=None)
        pieces = [{name: values[at:at + 1] for name, values in logprobs.items()} for at in (0, 1)]
        chunks = [chunk(" hi", token_ids=[7], prompt_token_ids=[1], logprobs=pieces[0], stop_reason=None),
                  chunk("!", "stop", token_ids=[8], prompt_token_ids=None, logprobs=pieces[1], stop_reason=None), LAST,
                  DONE]
    else:
        whole = ended(" hi!", [7, 8], completion_probabilities=[row(" hi", 7, -0.5), row("!", 8, -1.5)])
        chunks = [native(" hi", [7], completion_probabilities=[row(" hi", 7, -0.5)]),
                  native("!", [8], completion_probabilities=[row("!", 8, -1.5)]), ended()]
    server.json(whole)
    server.sse(chunks)
    llm = client(server, provider)
    answer, streamed = llm.complete("Once"), drained(llm.stream_tokens("Once"))
    assert streamed.raw == answer.raw == whole
    assert keys_of(streamed.raw) == keys_of(whole)
    assert streamed.tokens == answer.tokens and streamed.logprobs == answer.logprobs


def test_tokens_of_a_hostile_body(server):
    """Keys that the module might use for itself are any other keys in a server's body."""
    server.json(body(" hi", tokens=[1, {}], told=["x"]))
    server.json({**ended(" hi", [7]), "told": [1]})
    assert client(server).complete("Once").tokens == [Token(" hi")]
    assert client(server, "llamacpp").complete("Once").tokens == [Token(" hi", 7)]


def test_the_first_choice_is_the_completion(server):
    """Choices come in any order; the one with index 0 is the reply."""
    def part(index, text, finish=None):
        return {**chunk(text, finish), "choices": [{"index": index, "text": text, "finish_reason": finish}]}

    server.sse([part(1, "b"), part(0, "a"), part(1, "B", "length"), part(0, "A", "stop"), LAST, DONE])
    stream = client(server).stream_tokens("Once", extra={"n": 2})
    assert "".join(token.text for token in stream) == stream.response.text == "aA"
    assert stream.response.finish_reason == "stop"


# --------------------------------------------------------------------------------------------------------------- errors

VLLM_ERROR = {"error": {"message": "engine died", "type": "InternalServerError", "param": None, "code": 500}}
LLAMA_ERROR = {"error": {"code": 500, "message": "engine died", "type": "server_error"}}


@pytest.mark.parametrize("provider, early, late", [
    ("vllm", chunk(" hi", token_ids=[7]), [VLLM_ERROR, DONE]), ("vllm", chunk(" hi", token_ids=[7]), [LLAMA_ERROR]),
    (None, chunk(" hi"), [LLAMA_ERROR]), ("llamacpp", native(" hi", [7]), [LLAMA_ERROR]),
], ids=["vllm", "eof", "compatible", "llamacpp"])
def test_a_late_error(server, provider, early, late):
    """After the first token an error ends the stream in a StreamError, whether an end mark follows or not."""
    server.sse([early, *late])
    with pytest.raises(llmlite.StreamError, match="engine died") as caught:
        list(client(server, provider, FAST).stream_tokens("Once"))
    assert caught.value.response.text == " hi"
    assert caught.value.last_error.status_code == 500
    assert len(server.requests) == 1


@pytest.mark.parametrize("finish", ["error", "abort"])
def test_a_completion_that_gave_up(server, finish):
    """A finish reason that says the engine gave up is an error: tried again while nothing was handed on."""
    server.json(body(" hi", finish))
    server.json(body(" hi!"))
    server.sse([chunk(" hi"), chunk("", finish), LAST, DONE])
    llm = client(server, retry=FAST)
    assert llm.complete("Once").text == " hi!"
    with pytest.raises(llmlite.StreamError, match=finish) as caught:
        list(llm.stream_tokens("Once"))
    assert caught.value.response.text == " hi"
    assert len(server.requests) == 3


@pytest.mark.parametrize("provider, ending", [
    ("vllm", [chunk(" hi", token_ids=[7])]), (None, [chunk(" hi")]), ("llamacpp", [native(" hi", [7])])])
def test_a_cut_completion(server, provider, ending):
    """An end without finish reason is no success."""
    server.sse(ending)
    with pytest.raises(llmlite.TruncatedStreamError) as caught:
        list(client(server, provider).stream_tokens("Once"))
    assert (caught.value.response.text, caught.value.response.finish_reason) == (" hi", None)


def test_an_answer_without_text(server):
    """A chat's answer to a completion has choices but no text: an empty completion, counted as one."""
    server.json({"id": "c", "model": "m", "choices": [{"index": 0, "message": {"content": "Hi"},
                                                       "finish_reason": "stop"}]})
    llm = client(server)
    assert llm.complete("Once").text == ""
    assert llm.ledger.empty == 1
