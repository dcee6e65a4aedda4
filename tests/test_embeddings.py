"""embed() in every dialect, and the pages of models()."""
import logging
import time

import pytest

from tests import llmlite, testing
from tests.beside import beside, within

DIALECTS = {None: "/v1", "gemini": "/v1beta"}


def client(server, provider=None, **options):
    base = server.root + DIALECTS[provider]
    return llmlite.Client("m", provider=provider, base_url=base, api_key="k-123456", retry=None, **options)


def test_request_and_vectors(server):
    """Texts go out as one list; the vectors come back in the texts' order, with usage and model."""
    server.json({"data": [{"index": 1, "embedding": [2, 3.5]}, {"index": 0, "embedding": [0.25, 1]}],
                 "model": "served", "usage": {"prompt_tokens": 4, "total_tokens": 4}})
    with client(server) as llm:
        found = llm.embed(["a", "b"], extra={"dimensions": 2})
        assert found == ([[0.25, 1.0], [2.0, 3.5]], llmlite.Usage(4, 0), "served")
        assert (llm.ledger.calls, llm.ledger.empty, llm.ledger.usage) == (1, 0, llmlite.Usage(4, 0))
    request = server.requests[0]
    assert (request.method, request.path) == ("POST", "/v1/embeddings")
    assert request.json["model"] == "m" and request.json["input"] == ["a", "b"] and request.json["dimensions"] == 2


def test_one_text(server):
    """A str is one text."""
    server.json({"data": [{"index": 0, "embedding": [1]}], "model": "m"})
    with client(server) as llm:
        assert llm.embed("a").vectors == [[1.0]]
    assert server.requests[0].json["input"] == ["a"]


def test_gemini(server):
    """Gemini is asked for a batch, in its own shape."""
    server.json({"embeddings": [{"values": [1, 2]}, {"values": [3, 4]}]})
    with client(server, "gemini") as llm:
        assert llm.embed(["a", "b"]).vectors == [[1.0, 2.0], [3.0, 4.0]]
    request = server.requests[0]
    assert request.path == "/v1beta/models/m:batchEmbedContents"
    assert request.json == {
        "requests": [{"model": "models/m", "content": {"parts": [{"text": text}]}} for text in "ab"]}


def test_as_many_requests_as_the_limit_makes_it(server):
    """250 texts for Gemini, which takes 100 at once, are three requests; the vectors are one list in order."""
    def answer(request):
        texts = [item["content"]["parts"][0]["text"] for item in request.json["requests"]]
        return testing.json_body({"embeddings": [{"values": [float(text)]} for text in texts]})
    server.handle(answer)
    with client(server, "gemini") as llm:
        assert llm.embed([str(n) for n in range(250)]).vectors == [[float(n)] for n in range(250)]
        assert llm.ledger.calls == 3
    assert [len(request.json["requests"]) for request in server.requests] == [100, 100, 50]


@beside
def test_one_deadline_for_all_requests(server):
    """The deadline bounds the requests of one call together."""
    server.json({"embeddings": [{"values": [0]}] * 100}, delay=0.4)
    server.raw(testing.STALL)
    start = time.monotonic()
    with client(server, "gemini") as llm, pytest.raises(llmlite.DeadlineExceededError):
        llm.embed(["a"] * 150, deadline=1)
    assert within(0.95, start, 1.25)


@pytest.mark.parametrize("data", [[], [{"index": 0, "embedding": [1]}]])
def test_fewer_vectors_than_texts(server, data):
    """An answer that lacks a vector is a ResponseError, not a shorter list."""
    server.json({"data": data, "model": "m"})
    with client(server) as llm, pytest.raises(llmlite.ResponseError):
        llm.embed(["a", "b"])


@pytest.mark.parametrize("texts", [[], "", ["a", ""], [1], [None]])
def test_what_is_no_text(server, texts):
    """No texts, empty ones and what is no str are refused before anything is sent."""
    with client(server) as llm, pytest.raises(llmlite.ConfigurationError):
        llm.embed(texts)
    assert server.requests == []


def test_pages_of_models(server):
    """models() reads page after page, by Anthropic's last_id and by Gemini's nextPageToken."""
    server.json({"data": [{"id": "a"}], "has_more": True, "last_id": "a"})
    server.json({"data": [{"id": "b"}], "has_more": False, "last_id": "b"})
    with llmlite.Client("m", provider="anthropic", base_url=server.root, api_key="k-123456", retry=None) as llm:
        assert llm.models() == ["a", "b"]
    assert "after_id=a" in server.requests[1].path and "after_id" not in server.requests[0].path
    server.json({"models": [{"name": "models/a"}], "nextPageToken": "t/1"})
    server.json({"models": [{"name": "models/b"}]})
    with client(server, "gemini") as llm:
        assert llm.models() == ["a", "b"]
    assert "pageToken=t%2F1" in server.requests[3].path


def test_a_provider_without_embeddings(server):
    """A provider that offers none is told apart before anything is sent."""
    llm = llmlite.Client("m", provider="anthropic", base_url=server.url, api_key="k-123456")
    with pytest.raises(llmlite.ConfigurationError, match="embed"):
        llm.embed(["a"])
    assert not server.requests


def batches(*replies):
    """A server's answers to embed() at Gemini, 100 texts a request: a number is the first value of 100 vectors."""
    answers = iter(replies)

    def answer(request):
        reply = next(answers, replies[-1])
        if isinstance(reply, testing.Reply):
            return reply
        count = len(request.json["requests"])
        return testing.json_body({"embeddings": [{"values": [reply]}] * count,
                                  "usageMetadata": {"promptTokenCount": count}})
    return answer


@pytest.mark.parametrize("trouble, kind", [
    (testing.error(404), "NotFoundError"), (testing.raw(testing.RESET), "APIConnectionError"),
    (testing.raw(testing.STALL), "DeadlineExceededError"),
    (testing.json_body({"embeddings": [{"values": [9]}]}), "ResponseError")], ids=["404", "reset", "stall", "too few"])
@beside
def test_finished_batches_are_on_the_error(server, trouble, kind):
    """What was paid for before a later request failed is on the error: the first texts' vectors, and their usage."""
    server.handle(batches(1.0, 2.0, trouble))
    started = time.monotonic()
    with client(server, "gemini") as llm, pytest.raises(llmlite.LLMError) as caught:
        llm.embed(["a"] * 250, deadline=1)
    error = caught.value
    assert type(error) is getattr(llmlite, kind)
    assert error.response.parsed == llmlite.Embeddings([[1.0]] * 100 + [[2.0]] * 100, llmlite.Usage(200), "m")
    assert error.response.usage == llmlite.Usage(200)
    attempts = 3 + (trouble.steps == (testing.RESET, testing.CLOSE))  # it might have been a stale connection: once more
    assert (error.attempts, error.response.attempts, llm.ledger.failed) == (attempts, 2, 1)
    assert 0 < error.elapsed <= time.monotonic() - started


def test_a_first_batch_that_fails_leaves_nothing(server):
    """Where no batch was finished there is no response."""
    server.error(404)
    with client(server, "gemini") as llm, pytest.raises(llmlite.NotFoundError) as caught:
        llm.embed(["a"] * 250)
    assert (caught.value.response, caught.value.attempts) == (None, 1)


def test_attempts_of_all_batches_are_on_the_error(server):
    """The error's attempts are those of the whole call, retries of the batches before it included."""
    server.handle(batches(testing.error(500), 1.0, testing.error(500), testing.error(500)))
    with llmlite.Client("m", provider="gemini", base_url=server.root + "/v1beta", api_key="k-123456",
                        retry=llmlite.RetryPolicy(max_retries=1, backoff=0.001)) as llm, \
            pytest.raises(llmlite.ServerError, match="after 4 attempts") as caught:
        llm.embed(["a"] * 150)
    assert (caught.value.attempts, llm.ledger.attempts) == (4, 4)


class Slow(logging.Handler):
    """A program's own log handler that takes its time over each call's line."""

    def emit(self, record):
        if "attempt(s)" in record.msg:
            time.sleep(0.9)


@pytest.fixture
def slow_log():
    log, handler = logging.getLogger("llmlite"), Slow()
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    yield
    log.removeHandler(handler)
    log.setLevel(level)


def test_the_deadline_after_the_last_batch(server, slow_log):
    """A deadline that passes once the last vectors are here takes nothing away."""
    server.handle(batches(1.0))
    with client(server, "gemini") as llm:
        assert llm.embed(["a"] * 10, deadline=0.8).vectors == [[1.0]] * 10


def test_the_deadline_between_two_batches(server, slow_log):
    """One that passes between two requests sends no more, counts as a failed call, and keeps what is here."""
    server.handle(batches(1.0))
    with client(server, "gemini") as llm, pytest.raises(llmlite.DeadlineExceededError) as caught:
        llm.embed(["a"] * 110, deadline=0.8)
    error = caught.value
    assert (error.attempts, len(error.response.parsed.vectors), llm.ledger.failed) == (1, 100, 1)
    assert "gemini: deadline of 0.8 s ran out" in str(error)


@beside
def test_the_deadline_of_a_later_batch_is_told_as_it_was_given(server):
    """A later request that runs out of time says the deadline that the user gave, not what was left of it."""
    slow = testing.json_body({"embeddings": [{"values": [1.0]}] * 100}, delay=0.3)
    server.handle(batches(slow, testing.raw(testing.STALL)))
    with client(server, "gemini") as llm, pytest.raises(llmlite.DeadlineExceededError, match="deadline of 1 s"):
        llm.embed(["a"] * 150, deadline=1)


def test_pages_where_the_path_has_no_query(server):
    """The question mark stands there whether the provider's list has a query of its own or not."""
    server.json({"data": [{"id": "a"}], "has_more": True, "last_id": "a/1"})
    server.json({"data": [{"id": "b"}], "has_more": True})
    with client(server) as llm:
        assert llm.models() == ["a", "b"]
    assert [request.path for request in server.requests] == ["/v1/models", "/v1/models?after_id=a%2F1"]


@pytest.mark.parametrize("more", [{"message": "success"}, {"detail": "ok"}, {"message": "OK", "code": 0}],
                         ids=["message", "detail", "code"])
def test_friendly_words_are_no_error(server, more):
    """A list that comes with a word of success is a list; an embedding too."""
    server.json({"data": [{"id": "a"}], **more})
    server.json({"data": [{"index": 0, "embedding": [1]}], **more})
    with client(server) as llm:
        assert llm.models() == ["a"]
        assert llm.embed("a").vectors == [[1]]
    assert llm.ledger.failed == 0


@pytest.mark.parametrize("data", [{}, {"data": None}], ids=["none", "null"])
def test_words_without_a_list_are_an_error(server, data):
    """Words where the list should be are the provider's refusal."""
    server.json({"message": "no such tenant", "code": 404, **data}, times=2)
    with client(server) as llm:
        for call in (llm.models, lambda: llm.embed("a")):
            with pytest.raises(llmlite.NotFoundError, match="no such tenant"):
                call()


@pytest.mark.parametrize("texts", [5, None, object(), 0.5])
def test_texts_that_are_no_list(llm, texts):
    """What cannot be gone through is refused like what holds no text."""
    with pytest.raises(llmlite.ConfigurationError, match="texts"):
        llm.embed(texts)


@pytest.mark.parametrize("before", [0, 2])
def test_the_tokens_of_a_batch_that_lacks_vectors(server, before):
    """An answer with too few vectors was billed: its tokens are on the error as they are on the ledger."""
    few = testing.json_body({"embeddings": [{"values": [9]}], "usageMetadata": {"promptTokenCount": 7}})
    server.handle(batches(*[1.0] * before, few))
    with client(server, "gemini") as llm, pytest.raises(llmlite.ResponseError) as caught:
        llm.embed(["a"] * 250)
    assert caught.value.response.usage == llm.ledger.usage == llmlite.Usage(7 + 100 * before)
    assert len(caught.value.response.parsed.vectors if before else []) == 100 * before
