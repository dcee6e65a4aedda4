"""vcrpy and pytest-recording: what goes over the wire is on the cassette, and what is on it needs no wire."""
import json
import os
import subprocess
import sys
import textwrap

import pytest
import requests

from tests import llmlite, testing
from tests.neighbours import METHODS, ROOT, ask, run

vcr = pytest.importorskip("vcr")
KEY = "sk-0123456789"


@pytest.fixture
def cassette(tmp_path):
    """A way to record and to play: cassette(mode) is a context."""
    recorder = vcr.VCR(filter_headers=["authorization"], match_on=["method", "uri", "body"])
    return lambda mode: recorder.use_cassette(str(tmp_path / "tape.yaml"), record_mode=mode)


@pytest.fixture
def tape(tmp_path):
    """The text of the cassette."""
    return lambda: (tmp_path / "tape.yaml").read_text()


@pytest.fixture(params=["own", "theirs"])
def sessions(request):
    """What to make a client with: nothing, or a session of the user's."""
    with requests.Session() as session:
        yield {} if request.param == "own" else {"session": session}


def client(url, **options):
    return llmlite.Client("m", base_url=url, **{"api_key": KEY, "retry": None, "timeout": 3, **options})


@METHODS
@pytest.mark.parametrize("framing", ["length", "chunked", "gzip", "close"])
def test_record_and_play(cassette, tape, sessions, framing, method):
    """A recorded call is played back with the server gone; the key goes out while recording, and only then."""
    with testing.Server() as server:
        server.stream(["o", "k"], framing=framing)
        with cassette("once"), client(server.url, **sessions) as llm:
            assert ask(llm, method) == "ok"
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert "/v1/chat/completions" in tape() and KEY not in tape()
    with cassette("none") as played, client(server.url, **sessions) as llm:
        assert ask(llm, method) == "ok"
        assert played.play_count == 1 and llm.ledger.calls == 1


@METHODS
def test_nothing_leaves_while_playing(cassette, server, sessions, method):
    """With record_mode="none" a request that is not on the cassette is refused, and does not go out."""
    with cassette("once"):
        server.reply("ok")
        requests.post(server.url, json={})
    with cassette("none"), client(server.url, **sessions) as llm:
        with pytest.raises(Exception, match="(?i)cassette"):
            ask(llm, method)
    assert len(server.requests) == 1


@METHODS
def test_client_that_is_older_than_the_cassette(cassette, server, sessions, method):
    """A client with a connection in its pool records and plays too, and goes on by itself afterwards."""
    server.handle(lambda request: testing.stream([str(len(server.requests))]))
    with client(server.url, **sessions) as llm:
        assert ask(llm, method) == "1"
        with cassette("once"):
            assert ask(llm, method) == "2"
        assert ask(llm, method) == "3"
        with cassette("none"):
            assert ask(llm, method) == "2"
        assert ask(llm, method) == "4" and len(server.requests) == 4


def test_errors_and_retries_are_recorded(cassette, server, sessions):
    """A refused attempt and its retry are both on the cassette, and play in their order."""
    server.error(429, retry_after=0.01)
    server.reply("ok")
    policy = llmlite.RetryPolicy(backoff=0.01, rate_limit_backoff=0.01)
    for mode in ("once", "none"):
        with cassette(mode) as tape, client(server.url, retry=policy, **sessions) as llm:
            assert (llm.chat("hi").text, llm.ledger.attempts, len(tape)) == ("ok", 2, 2)
    assert len(server.requests) == 2


@METHODS
def test_deadline_beside_a_cassette(cassette, server, sessions, method):
    """A deadline does no harm to recording and playing."""
    server.reply("ok")
    for mode in ("once", "none"):
        with cassette(mode), client(server.url, **sessions) as llm:
            assert ask(llm, method, deadline=5) == "ok"
    assert len(server.requests) == 1


def test_import_inside_a_cassette(tmp_path, server):
    """A module that is imported while a cassette runs records, and works without one afterwards."""
    server.reply("ok", times=2)
    assert run("""
        import json, sys, vcr
        url, tape = sys.argv[1:]
        with vcr.use_cassette(tape) as cassette:
            from tests import llmlite
            with llmlite.Client("m", base_url=url, retry=None) as llm:
                inside, recorded = llm.chat("hi").text, len(cassette)
        with llmlite.Client("m", base_url=url, retry=None, deadline=5) as llm:
            outside = llm.chat("hi").text
        print(json.dumps([inside, recorded, outside, len(cassette)]))
    """, server.url, tmp_path / "tape.yaml") == ["ok", 1, "ok", 1]  # fmt: skip


TESTS = """
    import pytest
    from tests import llmlite
    from tests.neighbours import ask

    @pytest.fixture(scope="module")
    def vcr_config():
        return {"filter_headers": ["authorization"]}

    @pytest.mark.vcr
    @pytest.mark.parametrize("method", ["chat", "stream"])
    def test_call(method):
        with llmlite.Client("m", base_url="URL", api_key="KEY", retry=None, timeout=3) as llm:
            assert ask(llm, method) == "ok"
"""


def inner(folder, *options):
    """Run pytest on the tests in `folder`; whether they passed, and what it said."""
    command = [sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder),
               *options, str(folder)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": ROOT}
    done = subprocess.run(command, cwd=str(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=60, env=environment)  # fmt: skip
    return done.returncode == 0, done.stdout


def test_pytest_recording(tmp_path):
    """A test with pytest-recording's marker records, and passes again with the network blocked and the server gone."""
    pytest.importorskip("pytest_recording")
    with testing.Server() as server:
        server.reply("ok", times=2)
        code = textwrap.dedent(TESTS).replace("URL", server.url).replace("KEY", KEY)
        (tmp_path / "test_recorded.py").write_text(code)
        passed, said = inner(tmp_path, "--record-mode=once")
        assert passed, said
        assert [request.headers["authorization"] for request in server.requests] == [f"Bearer {KEY}"] * 2
    tapes = list(tmp_path.glob("cassettes/**/*.yaml"))
    assert len(tapes) == 2 and not any(KEY in tape.read_text() for tape in tapes)
    passed, said = inner(tmp_path, "--record-mode=none", "--block-network")
    assert passed, said


def test_body_on_the_cassette_is_json(cassette, server, sessions):
    """The request's body is on the cassette as it was sent, so that match_on=["body"] can tell requests apart."""
    server.handle(lambda request: testing.reply(request.json["messages"][0]["content"].upper()))
    for mode in ("once", "none"):
        with cassette(mode) as tape, client(server.url, **sessions) as llm:
            assert [llm.chat(word).text for word in ("a", "b")] == ["A", "B"]
            assert [json.loads(request.body)["messages"][0]["content"] for request in tape.requests] == ["a", "b"]
    assert len(server.requests) == 2
