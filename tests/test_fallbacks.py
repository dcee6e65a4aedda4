"""Fallbacks: who is asked next, when nobody is, and what bounds them all."""
import time

import pytest

from tests import llmlite, testing

QUICK = llmlite.RetryPolicy(max_retries=1, backoff=0.01, rate_limit_max_retries=1, rate_limit_backoff=0.01)


def client(server, *fallbacks, retry=QUICK, **options):
    return llmlite.Client("first", base_url=server.url, retry=retry, fallbacks=fallbacks, **options)


def models_asked(server):
    return [request.json["model"] for request in server.requests]


@pytest.mark.parametrize("status, tries", [(404, 1), (401, 1), (500, 2), (429, 2)])
@pytest.mark.parametrize("method", ["chat", "stream"])
def test_the_next_is_asked(server, method, status, tries):
    """What is refused for good, or still after its retries, is asked of the next model in turn."""
    server.handle(lambda request: testing.reply("ok") if request.json["model"] == "third" else testing.error(status))
    with client(server, "second", "third") as llm:
        reply = getattr(llm, method)("hi")
        assert (reply.text if method == "chat" else "".join(reply)) == "ok"
        assert (llm.ledger.calls, llm.ledger.failed) == (1, 0)
    assert models_asked(server) == ["first"] * tries + ["second"] * tries + ["third"]


def test_a_refused_connection(server):
    """A server that is not there is a reason to ask another client."""
    server.reply("ok")
    other = llmlite.Client("other", base_url=server.url, retry=None)
    with llmlite.Client("m", base_url="http://127.0.0.1:1/v1", retry=None, fallbacks=[other]) as llm, other:
        assert llm.chat("hi").model == "other"
    assert models_asked(server) == ["other"]


def test_a_bad_request_is_not_asked_elsewhere(server):
    """A bad request is raised at once."""
    server.error(400, "no such field")
    with client(server, "second") as llm, pytest.raises(llmlite.BadRequestError):
        llm.chat("hi")
    assert models_asked(server) == ["first"]


def test_too_long_for_one_may_fit_another(server):
    """A context that is too long here is asked elsewhere."""
    server.error(400, "too long", code="context_length_exceeded")
    server.reply("ok")
    with client(server, "second") as llm:
        assert llm.chat("hi").model == "second"


def test_the_last_error_is_raised(server):
    """When all fail, the last one's error comes out, and one call has failed."""
    server.error(401)
    server.error(404)
    with client(server, "second") as llm:
        with pytest.raises(llmlite.NotFoundError):
            llm.chat("hi")
        assert (llm.ledger.failed, llm.ledger.attempts) == (1, 2)


def test_a_stream_that_has_begun_is_not_asked_again(server):
    """After a stream's first event its failure is the caller's."""
    server.sse([{"choices": [{"index": 0, "delta": {"content": "Half"}}]}])
    with client(server, "second") as llm, pytest.raises(llmlite.TruncatedStreamError):
        list(llm.stream("hi"))
    assert models_asked(server) == ["first"]


def test_one_deadline_for_all(server):
    """The deadline bounds all of them together."""
    server.error(500, delay=0.2)
    server.raw(testing.STALL)
    start = time.monotonic()
    with client(server, "second", "third", retry=None, deadline=0.4) as llm, \
            pytest.raises(llmlite.DeadlineExceededError):
        llm.chat("hi")
    assert 0.35 < time.monotonic() - start < 0.65
    assert models_asked(server) == ["first", "second"]


def test_no_key_goes_to_another_provider(server, monkeypatch):
    """A fallback at another provider is asked with that provider's own key, and without the first one's headers."""
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(name + "_BASE_URL", server.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-theirs")
    server.error(404)
    server.reply("ok")
    with llmlite.Client("openai/gpt-x", api_key="sk-openai-mine", headers={"X-Team": "a"}, retry=None,
                        fallbacks=["anthropic/claude-x"]) as llm:
        assert llm.chat("hi").text == "ok"
    first, second = server.requests
    assert first.headers["authorization"] == "Bearer sk-openai-mine" and first.headers["x-team"] == "a"
    assert (second.path, second.headers["x-api-key"]) == ("/v1/messages", "sk-ant-theirs")
    assert b"sk-openai-mine" not in second.head and "x-team" not in second.headers
