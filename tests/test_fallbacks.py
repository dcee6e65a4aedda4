"""Fallbacks: who is asked next, when nobody is, and what bounds them all."""
import pickle
import time

import pytest

from tests import llmlite, named, testing
from tests.beside import beside, within

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


@beside
def test_one_deadline_for_all(server):
    """The deadline bounds all of them together."""
    server.error(500, delay=0.3)
    server.raw(testing.STALL)
    start = time.monotonic()
    with client(server, "second", "third", retry=None, deadline=1) as llm, \
            pytest.raises(llmlite.DeadlineExceededError):
        llm.chat("hi")
    assert within(0.95, start, 1.25)
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


@pytest.fixture
def backup():
    """A second provider."""
    with testing.Server() as other:
        yield other


def other_client(server, *fallbacks, **options):
    """A Client of the caller's own, to fall back on."""
    return llmlite.Client("other", base_url=server.url, fallbacks=fallbacks, **{"retry": None, **options})


def raised(llm, method="chat", **options):
    with pytest.raises(llmlite.LLMError) as caught:
        reply = getattr(llm, method)("hi", **options)
        if method == "stream":
            list(reply)
    return caught.value


# ------------------------------------------------------------------------------------------- who cannot take a request


@pytest.mark.parametrize("method", ["chat", "stream"])
def test_one_that_cannot_take_the_request_is_passed_over(server, method):
    """A fallback whose provider lacks what is asked for is passed over, and the next one answers."""
    server.error(404)
    server.reply("ok")
    deaf = llmlite.Client("claude", provider="anthropic", base_url=server.root, api_key="k-123456")
    with client(server, deaf, "third") as llm, deaf:
        reply = getattr(llm, method)("hi", seed=1)
        assert (reply.text if method == "chat" else "".join(reply)) == "ok"
    assert models_asked(server) == ["first", "third"]
    assert (llm.ledger.attempts, llm.ledger.calls, llm.ledger.failed, deaf.ledger.attempts) == (2, 1, 0, 0)


def test_the_error_of_the_last_one_asked_is_raised(server):
    """Where the last fallback cannot take the request, what the one before it said comes out, and counts as failed."""
    server.error(404, "no model of that name")
    deaf = llmlite.Client("claude", provider="anthropic", base_url=server.root, api_key="k-123456")
    with client(server, deaf) as llm, deaf:
        error = raised(llm, seed=1)
    assert type(error) is llmlite.NotFoundError and "no model of that name" in str(error)
    assert (llm.ledger.attempts, llm.ledger.failed, deaf.ledger.failed) == (1, 1, 0)


def test_a_request_the_first_cannot_take(server):
    """What the client itself cannot take is refused before anything is sent, whoever stands behind it."""
    server.reply("ok")
    with llmlite.Client("claude", provider="anthropic", base_url=server.root, api_key="k-123456",
                        fallbacks=[other_client(server)]) as llm:
        assert type(raised(llm, seed=1)) is llmlite.ConfigurationError
    assert not server.requests and llm.ledger.failed == 0


@pytest.mark.parametrize("key", ["bad\n", 5])
def test_one_without_a_key_is_passed_over(server, backup, key):
    """So is a fallback whose key turns out to be none when it is asked for."""
    server.error(404)
    with client(server, other_client(backup, api_key=lambda: key)) as llm:
        assert type(raised(llm)) is llmlite.NotFoundError
    assert not backup.requests and llm.ledger.failed == 1


class Relogin(llmlite.LLMError):
    """What a program may make of our errors."""


@pytest.mark.parametrize("method", ["chat", "stream"])
@pytest.mark.parametrize("problem", [OSError("no token server"), Relogin("log in again"), StopIteration()], ids=repr)
def test_one_whose_key_cannot_be_had_is_passed_over(server, backup, problem, method):
    """A fallback whose api_key() raises is passed over: the next answers, or the error before it comes out."""
    def key():
        raise problem
    answer = {"first": testing.error(404, "no model of that name")}
    server.handle(lambda request: answer.get(request.json["model"], testing.reply("ok")))
    locked = other_client(backup, api_key=key)
    with client(server, locked, "third") as llm, locked:
        reply = getattr(llm, method)("hi")
        assert (reply.text if method == "chat" else "".join(reply)) == "ok"
        assert (llm.ledger.failed, locked.ledger.failed) == (0, 1)
    with client(server, locked) as llm, locked:
        error = raised(llm, method)
        assert type(error) is llmlite.NotFoundError and "no model of that name" in str(error)
        assert (llm.ledger.failed, llm.ledger.attempts, locked.ledger.failed) == (1, 1, 2)
    assert not backup.requests


def test_one_by_name_whose_key_cannot_be_had(server):
    """A fallback given by name asks the same api_key(): where that raises it is passed over, and one call failed."""
    keys = iter(["the-first-key"])
    server.error(404)
    with client(server, "second", api_key=lambda: next(keys)) as llm:
        assert type(raised(llm)) is llmlite.NotFoundError
    assert (llm.ledger.failed, llm.ledger.attempts, models_asked(server)) == (1, 1, ["first"])


@pytest.mark.parametrize("problem", [OSError("no token server"), Relogin("log in again")], ids=repr)
def test_what_the_first_clients_key_raises(server, problem):
    """What the client's own api_key() raises comes through, whoever stands behind it, and counts as a failed call."""
    def key():
        raise problem
    with client(server, "second", api_key=key) as llm, pytest.raises(type(problem)) as caught:
        llm.chat("hi")
    assert caught.value is problem and not server.requests and llm.ledger.failed == 1


# ------------------------------------------------------------------------------------- a fallback Client's own settings


@beside
def test_the_own_deadline_of_a_fallback(server, backup):
    """A fallback Client's own deadline bounds its share; there is time left for the next."""
    server.handle(lambda request: testing.error(404) if request.json["model"] == "first" else testing.reply("ok"))
    backup.raw(testing.STALL)
    slow = other_client(backup, deadline=1)
    start = time.monotonic()
    with client(server, slow, "third", deadline=5) as llm, slow:
        assert llm.chat("hi").model == "third"
    assert within(0.95, start, 1.3)
    assert (llm.ledger.failed, slow.ledger.failed, llm.ledger.unknown) == (0, 1, 1)


@beside
def test_the_callers_deadline_bounds_a_fallback_with_a_longer_one(server, backup):
    """The caller's deadline holds, however long the fallback Client's own is."""
    server.error(404)
    backup.raw(testing.STALL)
    slow = other_client(backup, deadline=60)
    start = time.monotonic()
    with client(server, slow, "third", deadline=1) as llm, slow:
        assert type(raised(llm)) is llmlite.DeadlineExceededError
    assert within(0.95, start, 1.25)
    assert models_asked(server) == ["first"] and llm.ledger.failed == 1


@pytest.mark.parametrize("own, shown", [(None, "5"), (60, "5"), (0.2, "0.2")])
def test_a_deadline_is_told_as_it_was_given(server, backup, own, shown):
    """A fallback that runs out of time says what the user gave, not what the client before it had left."""
    server.error(404, delay=0.1)
    backup.error(429, retry_after=30)
    other = other_client(backup, deadline=own, retry=QUICK)
    with client(server, other, deadline=5) as llm, other:
        assert f"deadline of {shown} s would pass" in str(raised(llm))


@beside
def test_a_deadline_of_one_call_is_not_cut_to_the_clients(server):
    """A fallback given by name has no deadline of its own: the one of the call holds."""
    server.handle(lambda request: testing.error(404) if request.json["model"] == "first"
                  else testing.reply("ok", delay=0.3))
    with client(server, "second", deadline=0.1) as llm:
        assert llm.chat("hi", deadline=5).text == "ok"


def test_a_wait_past_the_deadline_is_for_the_next(server, backup):
    """A server that asks for longer than the deadline has failed for good; the next one has the time that is left."""
    server.error(429, retry_after=30)
    backup.reply("ok")
    other = other_client(backup)
    with client(server, other, deadline=5) as llm, other:
        assert llm.chat("hi").text == "ok"


@pytest.mark.parametrize("method", ["chat", "stream"])
def test_the_own_fallbacks_of_a_fallback(server, backup, method):
    """A fallback Client's own fallbacks are asked after it; the caller's ledger has them all."""
    server.error(404)
    backup.error(500)
    backup.reply("ok")
    other = other_client(backup, "spare")
    with client(server, other) as llm, other:
        reply = getattr(llm, method)("hi")
        assert (reply.text if method == "chat" else "".join(reply)) == "ok"
    assert models_asked(backup) == ["other", "spare"]
    assert (llm.ledger.attempts, llm.ledger.calls, llm.ledger.failed) == (3, 1, 0)
    assert (other.ledger.attempts, other.ledger.calls, other.ledger.failed) == (2, 1, 0)


# ------------------------------------------------------------------------------------- what the reply and the error say


@pytest.mark.parametrize("method", ["chat", "stream"])
def test_attempts_and_seconds_are_the_whole_calls(server, backup, method):
    """A fallback's reply tells the attempts and the seconds of the call, those of the clients before it included."""
    answer = {"first": testing.error(500, delay=0.1), "second": testing.error(404)}
    server.handle(lambda request: answer[request.json["model"]])
    backup.error(500)
    backup.reply("ok")
    with client(server, "second", other_client(backup, retry=QUICK)) as llm:
        reply = getattr(llm, method)("hi")
        if method == "stream":
            assert list(reply) == ["ok"]
            reply = reply.response
    assert (reply.attempts, llm.ledger.attempts, llm.ledger.retries) == (5, 5, 2)
    assert reply.elapsed > 0.2


def test_attempts_of_the_whole_call_are_on_the_error(server, backup):
    """So does the last one's error, also where a fallback has fallbacks of its own."""
    server.error(500, times=2)
    backup.error(401, times=2)
    server.error(404)
    with client(server, other_client(backup, "spare"), "third") as llm:
        error = raised(llm)
    assert (type(error), error.attempts, llm.ledger.attempts) == (llmlite.NotFoundError, 5, 5)
    assert [error.last_error.attempts, error.last_error.last_error.attempts] == [4, 3]
    assert "after 5 attempts" in str(error)


# --------------------------------------------------------------------------------------------------------- the ledger


@pytest.mark.parametrize("method", ["chat", "stream"])
def test_a_fallback_client_books_for_the_caller(server, backup, method):
    """What a fallback Client spends stands in the caller's ledger, and in its own."""
    server.error(404)
    backup.reply("ok", usage=(7, 3), model="served")
    other = other_client(backup)
    with client(server, other) as llm, other:
        reply = getattr(llm, method)("hi")
        assert (reply.text if method == "chat" else "".join(reply)) == "ok"
    for ledger in (llm.ledger, other.ledger):
        assert (ledger.calls, ledger.failed, ledger.usage) == (1, 0, llmlite.Usage(7, 3))
        assert ledger.by_model == {"served": llmlite.Usage(7, 3)}
    assert (llm.ledger.attempts, other.ledger.attempts) == (2, 1)


def test_each_ledger_counts_its_own_failed_call(server, backup):
    """When all fail, one call of the caller's has failed, and one of each Client that was asked."""
    server.error(404)
    backup.error(401, times=2)
    other = other_client(backup, "spare")
    with client(server, other) as llm, other:
        assert type(raised(llm)) is llmlite.AuthenticationError
    assert (llm.ledger.failed, llm.ledger.attempts) == (1, 3)
    assert (other.ledger.failed, other.ledger.attempts) == (1, 2)


@pytest.mark.parametrize("named", [True, False], ids=["a name", "a Client"])
@pytest.mark.parametrize("end, kind", [("close", "TruncatedStreamError"), ("stall", "APITimeoutError")])
@beside
def test_a_stream_of_a_fallback_that_breaks(server, backup, named, end, kind):
    """A stream that fails after its first event has failed once in every ledger, whoever it came from."""
    server.error(404)
    half = testing.sse([{"choices": [{"index": 0, "delta": {"content": "Half"}}]}], end=end)
    (server if named else backup).handle(lambda request: half if request.json["model"] != "first" else
                                         testing.error(404))
    other = other_client(backup, "spare", idle_timeout=0.6)
    with client(server, "second" if named else other, "third", idle_timeout=0.6) as llm, other:
        assert type(raised(llm, "stream")) is getattr(llmlite, kind)
    assert (llm.ledger.failed, llm.ledger.calls) == (1, 1)
    assert other.ledger.failed == (0 if named else 1)


@beside
def test_a_stream_of_the_first_that_breaks(server):
    """So has one of the first client, though there are fallbacks."""
    server.sse([{"choices": [{"index": 0, "delta": {"content": "Half"}}]}], end="stall")
    with client(server, "second", idle_timeout=0.6) as llm:
        assert type(raised(llm, "stream")) is llmlite.APITimeoutError
    assert llm.ledger.failed == 1


@beside
def test_a_deadline_that_leaves_no_time_for_the_next(server):
    """A call whose time is up before the next could be asked has failed once, and the error knows what came before."""
    server.error(500, delay=0.4)
    server.raw(testing.STALL)
    with client(server, "second", "third", retry=None, deadline=1) as llm:
        error = raised(llm)
    assert type(error) is llmlite.DeadlineExceededError
    assert type(error.last_error) is llmlite.ServerError
    assert (llm.ledger.failed, llm.ledger.attempts) == (1, 2)


# ------------------------------------------------------------------------------------------------------------- the rest


def test_close_closes_the_fallbacks_made_here(server, backup):
    """close() leaves no connection of a fallback given by name; a Client of the caller's stays the caller's."""
    answer = {"first": testing.error(404), "second": testing.error(401)}
    server.handle(lambda request: answer.get(request.json["model"], testing.reply("ok")))
    backup.reply("ok", times=2)
    other = other_client(backup)
    with other:
        with client(server, "second", other, retry=None) as llm:
            llm.chat("hi")
            assert (server.open_connections, backup.open_connections) == (2, 1)
        assert server.wait_idle() and server.open_connections == 0
        other.chat("hi")
        assert backup.connections == 1


def test_headers_of_a_call_do_not_go_elsewhere(server, backup):
    """The headers of one call, which may hold a key, go to fallbacks at the same address only."""
    server.handle(lambda request: testing.error(404))
    backup.reply("ok")
    other = other_client(backup, headers={"X-Theirs": "yes"})
    with client(server, "second", other, retry=None) as llm, other:
        assert llm.chat("hi", headers={"X-Token": "mine"}).text == "ok"
    assert [request.headers["x-token"] for request in server.requests] == ["mine", "mine"]
    assert "x-token" not in backup.requests[0].headers and backup.requests[0].headers["x-theirs"] == "yes"


@pytest.mark.parametrize("fallbacks", ["second", b"second", 5, None, [5], [None], ["second", 5], [("a", "b")],
                                       {"a": 1}.values()], ids=named)
def test_what_is_no_list_of_fallbacks(fallbacks):
    """A str is one name, not a list of letters: that, and what is neither a name nor a Client, is refused at once."""
    with pytest.raises(llmlite.ConfigurationError, match="fallbacks"):
        llmlite.Client("m", base_url="http://localhost", fallbacks=fallbacks)


def test_one_client_is_no_list_of_fallbacks():
    """Neither is a Client."""
    with llmlite.Client("m", base_url="http://localhost") as other, \
            pytest.raises(llmlite.ConfigurationError, match="fallbacks"):
        llmlite.Client("m", base_url="http://localhost", fallbacks=other)


def test_fallbacks_from_a_generator(server):
    """Any iterable of names will do, also for a copy made by pickling."""
    server.handle(lambda request: testing.reply("ok") if request.json["model"] == "third" else testing.error(404))
    llm = llmlite.Client("first", base_url=server.url, retry=None, fallbacks=(name for name in ("second", "third")))
    with llm, pickle.loads(pickle.dumps(llm)) as copy:
        assert llm.chat("hi").model == copy.chat("hi").model == "third"
