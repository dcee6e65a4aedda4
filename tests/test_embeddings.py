"""embed() in every dialect, and the pages of models()."""
import time

import pytest

from tests import llmlite, testing

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
    assert [item["content"]["parts"] for item in request.json["requests"]] == [[{"text": "a"}], [{"text": "b"}]]


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


def test_one_deadline_for_all_requests(server):
    """The deadline bounds the requests of one call together."""
    server.json({"embeddings": [{"values": [0]}] * 100}, delay=0.2)
    server.raw(testing.STALL)
    start = time.monotonic()
    with client(server, "gemini") as llm, pytest.raises(llmlite.DeadlineExceededError):
        llm.embed(["a"] * 150, deadline=0.4)
    assert 0.35 < time.monotonic() - start < 0.65


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
