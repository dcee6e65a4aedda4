"""A client's cache: what is kept, what comes of it, what it must never cost."""
import contextlib
import copy
import logging
import pickle
import shelve
from dataclasses import dataclass

import pytest

from llmlite.cache import Cache
from tests import llmlite, testing
from tests.dialects import KEY, Column, drained
from tests.dialects.anthropic import ANTHROPIC
from tests.dialects.gemini import GEMINI
from tests.dialects.openai import OPENAI
from tests.dialects.responses import RESPONSES

SECRET = "sk-0123456789abcdefghij"
NOTHING = {"calls": 0, "attempts": 0, "retries": 0, "empty": 0, "failed": 0, "unknown": 0}
COLUMNS = (OPENAI, RESPONSES, ANTHROPIC, GEMINI)
CELLS = [pytest.param(column, row, id=f"{column.name}-{row}") for column in COLUMNS for row in Column.replies(column)]
OF_THE_REQUEST = ("headers", "attempts", "elapsed", "cached")  # all else of a reply is as it was
HOWS = ("chat", "stream")


@pytest.fixture
def server():
    """A scripted provider that says "ok" where nothing else is queued."""
    with testing.Server() as server:
        server.handle(lambda request: None)
        yield server


def client(server, cache, **options):
    options = {"base_url": server.url, "api_key": SECRET, "retry": None, "cache": cache, **options}
    return llmlite.Client("test", **options)


def ask(llm, how="chat", question="hi", **options):
    reply = getattr(llm, how)(question, **options)
    return drained(reply) if how in ("stream", "stream_tokens") else reply


def said(reply):
    """All of a reply but what is of its request."""
    return {name: value for name, value in vars(reply).items() if name not in OF_THE_REQUEST}


class Failing(dict):
    """A mapping that raises."""

    def __init__(self, *methods):
        super().__init__()
        self.methods = methods

    def get(self, *args):
        if "get" in self.methods:
            raise OSError("no disk")
        return super().get(*args)

    def __setitem__(self, *args):
        if "set" in self.methods:
            raise OSError("no space left")
        super().__setitem__(*args)


# ---------------------------------------------------------------------- what comes of a hit


@pytest.mark.parametrize("how", HOWS)
def test_the_same_request_is_not_sent_again(server, how):
    """A second call with the same request gets the same answer, and the server sees none."""
    server.reply("Hello", usage=(12, 3), headers={"x-request-id": "req-7", "x-ratelimit-remaining-requests": "9"})
    with client(server, {}) as llm:
        first, second = ask(llm, how), ask(llm, how)
    assert len(server.requests) == 1 and server.connections == 1
    assert said(second) == said(first) and second.text == "Hello" and second.request_id == "req-7"
    assert (first.cached, second.cached, first.attempts, second.attempts) == (False, True, 1, 0)
    assert second.usage == (12, 3, 0, 0, 0) and second.headers == {} and second.rate_limits == {}
    assert second.elapsed < 1


@pytest.mark.parametrize("column, row", CELLS)
@pytest.mark.parametrize("how", HOWS)
def test_every_dialect(server, column, row, how):
    """A kept answer, whole or streamed, gives the same reply field for field, and its events are those of the reply."""
    body, events, _ = column.replies()[row]
    server.json(body) if how == "chat" else server.sse(events)
    cache = {}
    with column.client(server, cache=cache) as llm:
        first, second = ask(llm, how), ask(llm, how)
        good = first.finish_reason in ("stop", "tool_calls") and (first.text or first.tool_calls or first.reasoning)
        assert (second.cached, len(server.requests)) == ((True, 1) if good else (False, 2))
        if good:
            assert said(second) == said(first)
            told = list(llm.stream("hi").events())
            assert "".join(event.text for event in told if event.type == "text") == first.text
            assert "".join(event.text for event in told if event.type == "reasoning") == first.reasoning
            assert [event.tool_call for event in told if event.type == "tool_call"] == first.tool_calls
            assert [event.type for event in told[-2:]] == ["usage", "finish"]
            assert (told[-2].usage, told[-1].finish_reason) == (first.usage, first.finish_reason)
            assert len(server.requests) == 1


@pytest.mark.parametrize("first, then", [HOWS, HOWS[::-1]])
@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_chat_and_stream_share_an_answer(server, column, first, then):
    """A stream is the same question as a chat."""
    body, events, _ = column.replies()["tool"]
    server.json(body) if first == "chat" else server.sse(events)
    with column.client(server, cache={}) as llm:
        one, other = ask(llm, first, temperature=0.5), ask(llm, then, temperature=0.5)
        assert one.tool_calls
    assert said(one) == said(other) and other.cached and len(server.requests) == 1


IDS = [("He", 11), ("llo", 12), (" you", 13)]


@pytest.mark.parametrize("provider", ["vllm", "llamacpp"])
@pytest.mark.parametrize("first", ["complete", "stream_tokens"])
@pytest.mark.parametrize("then", ["complete", "stream_tokens"])
def test_raw_completions(server, provider, first, then):
    """Tokens come again, with their ids, one by one."""
    server.stream(IDS)
    with client(server, {}, provider=provider) as llm:
        one, other = ask(llm, first, [1, 2, 3]), ask(llm, then, [1, 2, 3])
        assert said(one) == said(other) and other.cached and one.tokens and len(server.requests) == 1
        assert list(llm.stream_tokens([1, 2, 3])) == one.tokens
        assert "".join(token.text for token in one.tokens) == "Hello you"


def test_embeddings(server):
    """Each request of embed() is kept by itself."""
    with client(server, {}) as llm:
        first = llm.embed(["a", "b"])
        assert llm.embed(["a", "b"]) == first and len(server.requests) == 1
        assert llm.embed(["a", "b"], cache="refresh") == first and len(server.requests) == 2
        assert llm.embed(["a", "c"]).vectors and len(server.requests) == 3
        assert llm.ledger.cached == 1 and llm.ledger.calls == 3


def test_embeddings_from_the_cache(server):
    """`cached` says so, where each of their requests was; they are the same to whoever compares or unpacks them."""
    with llmlite.Client("m", provider="gemini", base_url=server.root + "/v1beta", api_key=SECRET, cache={}) as llm:
        texts = [f"t{at}" for at in range(101)]
        found = [llm.embed(texts[:100]), llm.embed(texts), llm.embed(texts)]
        assert [each.cached for each in found] == [False, False, True] and len(server.requests) == 2
        assert found[1] == found[2] and hash(found[1][1:]) == hash(found[2][1:]) and "cached=True)" in repr(found[2])
        vectors, usage, model = found[2]
        assert (len(vectors), len(found[2]), usage, model) == (101, 3, found[1].usage, found[1].model)


@pytest.mark.parametrize("cached", [False, True])
def test_copies_of_embeddings(cached):
    """Pickled, copied, with another model: what they say of the cache stays, unless it is replaced."""
    found = llmlite.Embeddings([[1.0]], llmlite.Usage(3), "m", cached)
    copies = [copy.copy(found), copy.deepcopy(found), *(
        pickle.loads(pickle.dumps(found, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1))]
    assert [each.cached for each in copies] == [cached] * len(copies) and set(map(repr, copies)) == {repr(found)}
    assert all(each == found == ([[1.0]], (3, 0, 0, 0, 0), "m") for each in copies)
    other = found._replace(model="n")
    assert (other.model, other.cached, type(other)) == ("n", cached, llmlite.Embeddings)
    assert found._replace(cached=not cached).cached is not cached
    assert found.__replace__(model="n") == other and found._asdict() == dict(zip(found._fields, found))
    assert llmlite.Embeddings._make(found).cached is llmlite.Embeddings(*found).cached is False
    with pytest.raises(TypeError):
        found._replace(nothing=1)


def test_gemini_embeddings(server):
    with llmlite.Client("m", provider="gemini", base_url=server.root + "/v1beta", api_key=SECRET, cache={}) as llm:
        assert llm.embed(["a", "b"]) == llm.embed(["a", "b"]) and len(server.requests) == 1


def test_what_is_not_kept_by_its_nature(server):
    """models(), request() and count_tokens() always ask."""
    cache = {}
    with client(server, cache, provider="vllm") as llm:
        for _ in range(2):
            llm.models()
            llm.request("POST", "/chat/completions", json={"model": "test", "messages": []})
    assert len(server.requests) == 4 and cache == {}


@dataclass
class Point:
    x: int


def test_schema(server):
    """`parsed` is made anew; an answer that does not fit another reading of the same schema is asked for again."""
    server.reply('{"x": 1}')
    with client(server, {}) as llm:
        assert [llm.chat("hi", schema=Point).parsed for _ in range(2)] == [Point(1)] * 2
        assert len(server.requests) == 1


def test_a_schema_that_reads_otherwise(server):
    """What fits no longer is no hit."""
    class Strict:
        least = 0

        @staticmethod
        def model_json_schema():
            return {"title": "Strict", "type": "object", "properties": {"x": {"type": "integer"}}}

        @classmethod
        def model_validate_json(cls, text):
            if cls.least:
                raise ValueError("too small")
            return text

    server.reply('{"x": 1}', times=2)
    with client(server, {}) as llm:
        llm.chat("hi", schema=Strict)
        Strict.least = 1
        with pytest.raises(llmlite.SchemaError):
            llm.chat("hi", schema=Strict)
    assert len(server.requests) == 2 and llm.ledger.cached == 0


def test_a_hit_is_a_copy(server):
    """What a caller does to a reply does nothing to the next one."""
    server.reply("Hello")
    with client(server, {}) as llm:
        for _ in range(3):
            reply = llm.chat("hi")
            reply.raw["choices"][0]["message"]["content"] = "changed"
            reply.message["content"], reply.headers["x"] = "changed", "y"
            assert reply.text == "Hello"
        assert llm.chat("hi").headers == {}


def test_a_replayed_stream(server):
    """It closes, leaves a `with`, and is dropped like any other; its pieces come once."""
    server.stream(["Hel", "lo"])
    with client(server, {}) as llm:
        drained(llm.stream("hi"))
        with llm.stream("hi") as stream:
            assert (stream.text, stream.response.text, next(stream)) == ("Hello", "Hello", "Hello")
            assert list(stream) == [] and list(stream.events()) == []
        stream = llm.stream("hi")
        stream.close()
        stream.close()
        assert list(stream) == [] and "1 events" not in repr(stream)
        for text in llm.stream("hi"):
            assert text == "Hello"
            break
    assert len(server.requests) == 1


def test_run_tools(server):
    """A run of tools that is run again asks for nothing, and calls the functions again."""
    called = []

    def add(a: int, b: int) -> int:
        """Adds."""
        called.append((a, b))
        return a + b

    server.reply("", tool_calls=[{"id": "c1", "name": "add", "arguments": {"a": 1, "b": 2}}])
    server.reply("3")
    with client(server, {}) as llm:
        assert [llm.run_tools("1+2?", [add]).text for _ in range(2)] == ["3", "3"]
    assert called == [(1, 2)] * 2 and len(server.requests) == 2


# ---------------------------------------------------------------------- what a hit costs


@pytest.mark.parametrize("how", HOWS)
def test_a_hit_is_unbilled(server, how):
    """The ledger counts it by itself; nothing else."""
    server.reply("Hello", usage=(12, 3))
    with client(server, {}) as llm:
        ask(llm, how)
        llm.ledger.reset()
        for _ in range(3):
            ask(llm, how)
        shot = llm.ledger.snapshot()
        assert shot == {**NOTHING, "cached": 3, "usage": llmlite.Usage(), "by_model": {}} and llm.ledger.cached == 3
        assert llm.ledger.reset() == shot and llm.ledger.cached == 0


def test_many_hits_are_summed_up():
    """More than a ledger holds singly."""
    with testing.Server() as server, client(server, {}) as llm:
        server.reply("Hello")
        for _ in range(1201):
            llm.chat("hi")
        assert (llm.ledger.cached, llm.ledger.calls) == (1200, 1)


def test_a_hit_waits_for_nothing(server):
    """Neither a cool-down, nor a rate limit, nor a key, nor a deadline that is over, nor a server that is gone."""
    keys = []

    def key():
        keys.append(SECRET)
        return SECRET

    server.reply("Hello")
    server.error(429, retry_after=60)
    limit = llmlite.RateLimit(requests_per_minute=600)
    policy = llmlite.RetryPolicy(rate_limit_max_retries=0)
    with client(server, {}, api_key=key, rate_limit=limit, retry=policy) as llm:
        llm.chat("hi")
        with pytest.raises(llmlite.RateLimitError):
            llm.chat("other")
        server.close()
        for _ in range(20):
            assert llm.chat("hi", deadline=1e-9).cached
    assert len(keys) == 2 and llm.ledger.attempts == 2


def test_the_log_says_so(server, caplog):
    """One INFO line a hit."""
    with client(server, {}) as llm:
        llm.chat("hi")
        with caplog.at_level(logging.INFO, "llmlite"):
            llm.chat("hi")
    line, = caplog.messages
    assert line == "compatible test: stop, from the cache, 10+5 tokens that are not billed"


# ---------------------------------------------------------------------- per call, what differs


def test_per_call(server):
    """None passes the cache by, "refresh" asks anew and keeps the new answer, a mapping is used in place."""
    for text in "abc":
        server.reply(text)
    own = {}
    with client(server, {}) as llm:
        assert [llm.chat("hi").text, llm.chat("hi").text] == ["a", "a"]
        assert [llm.chat("hi", cache=None).text, llm.chat("hi").text] == ["b", "a"]
        assert [llm.chat("hi", cache="refresh").text, llm.chat("hi").text] == ["c", "c"]
        assert not llm.chat("hi", cache=own).cached and llm.chat("hi", cache=own).cached and len(own) == 1


def test_per_call_without_a_cache(server):
    """"refresh" is no more than a call where there is none to refresh."""
    with client(server, None) as llm:
        assert not llm.chat("hi", cache="refresh").cached and not llm.chat("hi", cache="refresh").cached
        with llm.stream("hi", cache=None) as stream:
            list(stream)


@pytest.mark.parametrize("bad", ["answers.sqlite", 7, dict, [], ("a",)])
def test_bad_caches(server, bad):
    """One line that says what to give."""
    with pytest.raises(llmlite.ConfigurationError, match=r"cache=.*: give a dict, llmlite.Cache\(path\), or None"):
        client(server, bad)
    with client(server, None) as llm, pytest.raises(llmlite.ConfigurationError, match="refresh"):
        llm.chat("hi", cache=bad)


OTHERS = {
    "question": ({}, {"question": "ho"}), "temperature": ({}, {"temperature": 0.1}), "model": ({}, {"model": "other"}),
    "extra": ({}, {"extra": {"x": 1}}), "address": ({"base_url": "/v2"}, {}), "system": ({}, {"system": "s"}),
    "provider": ({"provider": "mistral"}, {}), "header": ({"headers": {"anthropic-beta": "b"}}, {}),
    "header per call": ({}, {"headers": {"X-Mode": "fast"}}), "header away": ({"headers": {"Accept": None}}, {}),
    "query": ({"base_url": "/v1?api-version=2"}, {}),
}
SAME = {
    "key": ({"api_key": "sk-another-key-0001"}, {}), "no key": ({"api_key": ""}, {}), "timeout": ({}, {"timeout": 5}),
    "secret header": ({"headers": {"X-Api-Key": "abcdefgh-1234"}}, {}),
    "header of this request": ({}, {"headers": {"traceparent": "00-1-1-01", "X-Request-ID": "7"}}),
}


def asked_twice(server, options, how):
    """The requests that two clients with one cache have sent: a plain one, and one with these options."""
    cache = {}
    if "base_url" in options:
        options = {**options, "base_url": server.root + options["base_url"]}
    with client(server, cache) as llm, client(server, cache, **options) as other:
        llm.chat("hi")
        ask(other, **how)
    assert not any(SECRET in text for text in [*cache, *cache.values()])
    return len(server.requests)


@pytest.mark.parametrize("options, how", OTHERS.values(), ids=OTHERS)
def test_another_request_is_another_answer(server, options, how):
    """Whatever may change an answer: the body, the address, the provider, the user's headers."""
    assert asked_twice(server, options, how) == 2


@pytest.mark.parametrize("options, how", SAME.values(), ids=SAME)
def test_the_same_request_of_another(server, options, how):
    """A key is no part of the question, nor what only marks a request."""
    assert asked_twice(server, options, how) == 1


@pytest.mark.parametrize("one, other, count", [
    ("//me:pass@word@HOST/v1", "//HOST/v1", 1), ("/v1?token=abc-12345678", "/v1?token=def-12345678", 1),
    ("/v1?api-version=1&sig=1", "/v1?api-version=2&sig=1", 2)])
def test_secrets_in_an_address(server, one, other, count):
    """Neither a password nor a token of the address is a part of the question."""
    def url(form):
        host = server.root.partition("//")[2]
        return "http:" + form.replace("HOST", host) if form.startswith("//") else server.root + form

    cache = {}
    for form in (one, other):
        with client(server, cache, base_url=url(form.replace("me:pass@word", "me:password"))) as llm:
            llm.chat("hi")
    assert len(server.requests) == count == len(cache)


# ---------------------------------------------------------------------- never kept

CUT = {
    "length": lambda: testing.reply("Hel", finish_reason="length"),
    "content filter": lambda: testing.reply("Hel", finish_reason="content_filter"),
    "an end nobody knows": lambda: testing.reply("Hel", finish_reason="abort"),
    "empty": lambda: testing.reply(""),
    "a broken call": lambda: testing.reply("", tool_calls=[{"name": "f", "arguments": '{"a": '}]),
    "error": lambda: testing.error(500),
    "error inside": lambda: testing.json_body({"error": {"message": "no", "code": 500}}),
    "HTML": lambda: testing.body(b"<html>"),
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
def test_never_kept(server, answer, how):
    """Errors, and answers that were cut, withheld or empty."""
    cache = {}
    with client(server, cache) as llm:
        for _ in range(2):
            server.handle(lambda request: answer())
            with contextlib.suppress(llmlite.LLMError):
                ask(llm, how)
    assert cache == {} and len(server.requests) == 2 and llm.ledger.cached == 0


def test_an_answer_that_does_not_fit_is_not_kept(server):
    server.reply('{"y": 1}', times=None)
    cache = {}
    with client(server, cache) as llm:
        for how in HOWS:
            with pytest.raises(llmlite.SchemaError):
                ask(llm, how, schema=Point)
    assert cache == {}


@pytest.mark.parametrize("limit, kept", [(5, 0), (6, 1)])
def test_max_tokens_at_a_server_that_does_not_tell(server, limit, kept):
    """A cut that only the count of tokens shows is one."""
    cache = {}
    with client(server, cache, provider="ollama", api="responses") as llm:
        assert [llm.chat("hi", max_tokens=limit).truncated for _ in range(2)] == [not kept] * 2
    assert len(cache) == kept and len(server.requests) == 2 - kept


CHUNK = {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


@pytest.mark.parametrize("steps", [
    {"truncate": 60}, {"truncate": 60, "end": "reset"}, {"done": False, "finish_reason": ""}])
def test_a_torn_stream_is_not_kept(server, steps):
    cache = {}
    server.stream(["Hello", " you", " there"], **steps)
    with client(server, cache) as llm, pytest.raises(llmlite.LLMError):
        ask(llm, "stream")
    assert cache == {}


def test_a_stream_without_its_end_is_not_kept(server):
    """The text is whole, but what comes after the finish reason was cut off: the usage may be missing."""
    cache = {}
    server.sse([CHUNK, END], truncate=None)
    server.stream(["Hello"], truncate=None, end="reset", done=False)
    with client(server, cache) as llm:
        ask(llm, "stream", "whole")
        assert len(cache) == 1
        assert ask(llm, "stream", "cut").text == "Hello"
    assert len(cache) == 1


def test_a_skipped_event_may_have_held_text(server):
    cache = {}
    server.sse([CHUNK, b"data: {\"choices\": [torn\n\n", END, "[DONE]"])
    server.sse([CHUNK, b"data: no JSON\n\n", END, "[DONE]"])
    with client(server, cache, skip_bad_events=True) as llm:
        assert ask(llm, "stream", "torn").text == "Hi" and cache == {}
        assert ask(llm, "stream", "a ping").text == "Hi" and len(cache) == 1


def test_a_stream_that_was_left_is_not_kept(server):
    cache = {}
    server.stream(["Hello", " you"], times=None)
    with client(server, cache) as llm:
        with llm.stream("hi") as stream:
            next(stream)
        llm.stream("hi").close()
        stream = llm.stream("hi")
        next(stream)
        del stream
    assert cache == {} and len(server.requests) == 3


# ---------------------------------------------------------------------- fallbacks, Responses


def test_fallbacks(server):
    """The answer of a fallback is that of its own request: the first is asked again, and the fallback is not."""
    server.handle(lambda request: testing.error(500) if request.json["model"] == "test" else testing.reply("two"))
    cache = {}
    with client(server, cache, fallbacks=["other"]) as llm:
        first, second = llm.chat("hi"), llm.chat("hi")
        assert (first.text, second.text, second.cached, second.attempts) == ("two", "two", True, 1)
        assert [request.json["model"] for request in server.requests] == ["test", "other", "test"]
        assert (llm.ledger.cached, llm.ledger.calls, llm.ledger.failed) == (1, 1, 0)
        assert llm.chat("hi", cache=None).cached is False  # for the fallback, too
    assert len(server.requests) == 5 and len(cache) == 1


def test_a_fallback_client_has_its_own(server):
    """A Client among the fallbacks has its own cache; both ledgers count its hit."""
    server.handle(lambda request: testing.error(500) if request.json["model"] == "test" else testing.reply("two"))
    mine, its = {}, {}
    with llmlite.Client("b", base_url=server.url, api_key=SECRET, cache=its) as spare:
        with client(server, mine, fallbacks=[spare]) as llm:
            assert [llm.chat("hi").cached for _ in range(2)] == [False, True]
            assert (len(mine), len(its), llm.ledger.cached, spare.ledger.cached) == (0, 1, 1, 1)


def test_a_model_that_moved_to_responses(server):
    """The refused question and the answer of Responses: a new client asks the first, and finds the second."""
    refusal = {"error": {"message": "This model is only supported in v1/responses", "code": "404"}}

    def answer(request):
        if request.path.endswith("/responses"):
            return testing.reply("moved")
        return testing.json_body(refusal, status=404)

    server.handle(answer)
    cache, paths = {}, []
    for _ in range(2):
        with llmlite.Client("m", provider="openai", base_url=server.url, api_key=SECRET, cache=cache) as llm:
            for how in HOWS:
                assert ask(llm, how).text == "moved"
        paths.append([request.path for request in server.requests])
    assert paths[0] == ["/v1/chat/completions", "/v1/responses"] and paths[1] == paths[0] + paths[0][:1]


def test_a_retried_call_is_kept(server):
    cache = {}
    server.error(500)
    server.reply("Hello")
    policy = llmlite.RetryPolicy(backoff=0.001)
    with client(server, cache, retry=policy) as llm:
        assert (llm.chat("hi").attempts, llm.chat("hi").cached) == (2, True)


# ---------------------------------------------------------------------- caches that fail


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("methods", [("get",), ("set",), ("get", "set")])
def test_a_cache_that_fails(server, caplog, how, methods):
    """It never fails a call; one WARNING a client."""
    with client(server, Failing(*methods)) as llm:
        for _ in range(3):
            assert ask(llm, how).text
    line, = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "the cache fails, and calls go on without it: OSError: no " in line.getMessage()
    assert len(server.requests) == 3 and llm.ledger.failed == 0


GARBAGE = [None, "", "null", "[]", "{}", "{", '{"body": 7}', '{"body": {}}', '{"body": {"error": {"message": "no"}}}',
           '{"body": {"choices": []}}', b"bytes", b"{}", 7, "[" * 100000, '{"body": ' + '{"a":' * 200 + "1" + "}" * 201,
           '{"body": {"choices": [{"message": {"content": "x"}, "finish_reason": "error"}]}', "\udcff", "\0",
           '{"body": {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}} {}',
           '{"body": {"choices": [{"message": {"content": 5}}]}}',
           '{"body": {"choices": [{"message": {"content": "x"}, "finish_reason": "length"}]}}']


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_a_miss(server, garbage, how):
    """What cannot be read is asked for again, and kept anew."""
    cache = {}
    with client(server, cache) as llm:
        ask(llm, how)
        good, = cache.values()
        cache.update(dict.fromkeys(cache, garbage))
        assert not ask(llm, how).cached and list(cache.values()) == [good] and ask(llm, how).cached
    assert len(server.requests) == 2


def test_odd_members_are_passed_over(server):
    """A kept text that somebody has changed gives a reply, not an exception."""
    cache = {}
    server.stream(IDS)
    with client(server, cache, provider="vllm") as llm:
        ask(llm, "stream_tokens", "hi")
        (entry, text), = cache.items()
        assert '"tokens":[["He",11,' in text
        cache[entry] = text.replace('"tokens":[["He",11,null]', '"tokens":[7,[],["He",11]').replace(
            '"request_id":null', '"request_id":[7]')
        reply = ask(llm, "complete", "hi")
        assert reply.cached and reply.request_id is None and [token.id for token in reply.tokens] == [12, 13]


# ---------------------------------------------------------------------- keys and files


def test_no_key_in_the_file(server, tmp_path):
    """Not even where a server echoes it, in any spelling; nor that of a header or of an earlier attempt."""
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in SECRET)
    keys = iter(["sk-the-first-key-000", SECRET])

    def answer(request):
        if "first" in request.headers["authorization"]:
            return testing.error(401)
        text = f'{SECRET} {SECRET.upper()} sk-the-first-key-000 {request.headers["x-account-token"]} {escaped}'
        content = '{"choices": [{"message": {"content": "' + text + '"}, "finish_reason": "stop"}], "id": "' + SECRET
        return testing.body(content.encode() + b'"}', headers={"x-request-id": SECRET})

    server.handle(answer)
    path = tmp_path / "answers.sqlite"
    token = "account-token-4711"
    with client(server, Cache(path), api_key=lambda: next(keys), headers={"X-Account-Token": token},
                retry=llmlite.RetryPolicy(backoff=0.001)) as llm:
        assert SECRET in llm.chat("hi").text
    with client(server, Cache(path), headers={"X-Account-Token": token}) as llm:
        reply = llm.chat("hi")
        assert reply.cached and reply.text == "*** *** *** *** ***"
        data = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert b"choices" in data
    for secret in (SECRET, SECRET.upper(), "sk-the-first-key-000", token):
        assert secret.encode() not in data and secret.lower().encode() not in data.lower()


def test_the_key_in_a_stream_s_pieces(server):
    """A key that comes in two events is masked in what is kept."""
    server.stream([f"my {SECRET[:9]}", f"{SECRET[9:]} key"])
    cache = {}
    with client(server, cache) as llm:
        assert ask(llm, "stream").text == f"my {SECRET} key"
        assert ask(llm, "stream").text == "my *** key" and ask(llm).cached
    assert SECRET[:9] not in "".join(cache.values())


def test_a_file(server, tmp_path):
    """Another client, another day: the answers are there; a client travels with its cache."""
    path = str(tmp_path / "answers.sqlite")
    with client(server, Cache(path)) as llm:
        llm.chat("hi")
        again = pickle.loads(pickle.dumps(llm))
    with again, client(server, Cache(path)) as other:
        assert again.chat("hi").cached and other.chat("hi").cached
    assert len(server.requests) == 1


def test_surrogates(server, tmp_path):
    """Half a character, which a model may send, is kept as it came."""
    server.body(b'{"choices": [{"message": {"content": "a\\ud800b"}, "finish_reason": "stop"}]}', times=None)
    with client(server, Cache(tmp_path / "a")) as llm:
        assert [llm.chat("\ud800").text for _ in range(2)] == ["a\ud800b"] * 2
    assert len(server.requests) == 1


def test_shelve(server, tmp_path):
    """Any mapping will do."""
    with shelve.open(str(tmp_path / "shelf")) as shelf, client(server, shelf) as llm:
        assert [llm.chat("hi").cached for _ in range(2)] == [False, True]


def test_a_client_without_cache_keeps_nothing(server):
    with client(server, None) as llm:
        assert [llm.chat("hi").cached for _ in range(2)] == [False, False]


def test_key_of_the_dialects_stays_out(server):
    """However a dialect sends its key."""
    for column in COLUMNS:
        cache = {}
        with column.client(server, cache=cache) as llm:
            llm.chat("hi")
        assert cache and KEY not in str(cache)
