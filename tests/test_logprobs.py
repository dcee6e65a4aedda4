"""`logprobs`: how likely each token was, from a chat and from raw completions; and all choices, where several come."""
import pytest

from tests import llmlite
from tests.dialects import KEY, drained
from tests.dialects.gemini import body as gemini_body

Logprob = llmlite.Logprob
ROWS = [{"token": "He", "logprob": -0.5, "bytes": [72, 101], "top_logprobs": [
    {"token": "He", "logprob": -0.5, "bytes": None}, {"token": "Ho", "logprob": -2.5, "bytes": None}]},
    {"token": "y", "logprob": -1.5, "bytes": None, "top_logprobs": []}]
HEARD = [Logprob("He", -0.5, (Logprob("He", -0.5), Logprob("Ho", -2.5))), Logprob("y", -1.5)]


def client(server, provider, **options):
    base = {"gemini": server.root + "/v1beta", "anthropic": server.root}.get(provider, server.url)
    return llmlite.Client("m", provider=provider, base_url=base, api_key=KEY, retry=None, **options)


@pytest.mark.parametrize("provider", ["openai", "vllm", "llamacpp"])
def test_of_a_chat(server, provider):
    """OpenAI's shape, which vLLM and llama.cpp share: a body and a stream tell the same."""
    def choice(rows, **more):
        return {"choices": [{"index": 0, "finish_reason": "stop", "logprobs": {"content": rows}, **more}]}

    server.json(choice(ROWS, message={"role": "assistant", "content": "Hey"}))
    server.sse([choice(ROWS[:1], delta={"content": "He"}, finish_reason=None), choice(ROWS[1:], delta={"content": "y"}),
                "[DONE]"])
    with client(server, provider) as llm:
        assert llm.chat("hi", logprobs=2).logprobs == drained(llm.stream("hi", logprobs=2)).logprobs == HEARD
    assert [(sent.json["logprobs"], sent.json["top_logprobs"]) for sent in server.requests] == [(True, 2)] * 2


def test_of_gemini(server):
    """What was chosen and what was likely stand side by side there, the one perhaps without the other."""
    whole = gemini_body({"text": "Hey"})
    chosen = [{"token": "He", "tokenId": 7, "logProbability": -0.5}, {"token": "y", "logProbability": -1.5}]
    tops = [{"candidates": [chosen[0], {"token": "Ho", "logProbability": -2.5}]}]
    results = [{"chosenCandidates": chosen, "topCandidates": tops}, {"chosenCandidates": chosen},
               {"topCandidates": tops}, {"chosenCandidates": "x", "topCandidates": 5}]
    for result in results:
        whole["candidates"][0]["logprobsResult"] = result
        server.json(whole)
    with client(server, "gemini") as llm:
        found = [llm.chat("hi", logprobs=2).logprobs for _ in results]
    assert found == [HEARD, [Logprob("He", -0.5), Logprob("y", -1.5)], [], []]


def test_of_raw_completions(server):
    """Lists side by side, of which one may be short."""
    logprobs = {"tokens": ["He", "y"], "token_logprobs": [-0.5], "top_logprobs": [{"He": -0.5, "Ho": -2.5}, None]}
    server.json({"choices": [{"index": 0, "text": "Hey", "finish_reason": "stop", "logprobs": logprobs}]})
    with client(server, "openai") as llm:
        reply = llm.complete("Say", logprobs=2)
    assert reply.logprobs == [HEARD[0], Logprob("y")] and server.requests[0].json["logprobs"] == 2


def test_anthropic_has_none(server):
    with client(server, "anthropic") as llm, pytest.raises(llmlite.ConfigurationError, match="^logprobs is not an opt"):
        llm.chat("hi", logprobs=True)
    assert server.requests == []


@pytest.mark.parametrize("given", ["2", 1.5, -1])
def test_what_is_no_number(server, given):
    with client(server, "openai") as llm, pytest.raises(llmlite.ConfigurationError, match="^logprobs="):
        llm.chat("hi", logprobs=given)


def test_all_choices(server):
    """`n` through `extra`: the reply is the first of them, `raw` has all, of a stream too."""
    def choice(index, **more):
        return {"index": index, "finish_reason": None, **more}

    whole = [choice(at, message={"role": "assistant", "content": text}, finish_reason="stop")
             for at, text in enumerate(("one", "two"))]
    server.json({"choices": whole})
    server.sse([{"choices": [choice(1, delta={"content": "t"})]}, {"choices": [choice(0, delta={"content": "one"})]},
                {"choices": [choice(1, delta={"content": "wo"})]},
                {"choices": [choice(0, delta={}, finish_reason="stop")]},
                {"choices": [choice(1, delta={}, finish_reason="stop")]}, "[DONE]"])
    with client(server, "openai") as llm:
        replies = llm.chat("hi", extra={"n": 2}), drained(llm.stream("hi", extra={"n": 2}))
    for reply in replies:
        texts = {each["index"]: each["message"]["content"] for each in reply.raw["choices"]}
        assert reply.text == "one" and texts == {0: "one", 1: "two"}
    assert server.requests[0].json == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 2}
