"""Exchanges with a provider: recorded once, given again, and nothing secret kept; what `check` finds."""
import contextlib
import json
import os
import socket
import threading
import time

import pytest
import trustme

from tests import llmlite, testing

KEY = "sk-proj-0123456789abcdefghij"
CHAT = "/v1/chat/completions"


@pytest.fixture
def tape(tmp_path):
    return tmp_path / "tape.json"


@contextlib.contextmanager
def recorder(server, **how):
    """A recording server in front of the scripted one, and a client of it."""
    with testing.record(server.url, **how) as recording:
        with client(recording) as llm:
            yield recording, llm


def client(server, **how):
    return llmlite.Client("test", base_url=server.url, api_key=KEY, **{"retry": None, **how})


def recorded(tape):
    return json.loads(tape.read_text(encoding="utf-8"))


def record_paris(server, tape):
    """A tape of one exchange: "hi" is answered by "Paris"."""
    server.reply("Paris")
    with recorder(server) as (recording, llm):
        llm.chat("hi")
        recording.save(tape)


def edit(tape, change):
    told = recorded(tape)
    change(told["exchanges"])
    tape.write_text(json.dumps(told), encoding="utf-8")


def test_recorded_and_replayed(server, tape):
    """What a provider answered once is answered again without it: texts, tools, streams, errors, embeddings, models."""
    server.reply("Paris")
    server.stream(["Größe ", "42 ", "€"], usage=(7, 3))
    server.error(429, "slow down", retry_after=0.01)
    server.reply("", tool_calls=[{"name": "add", "arguments": {"a": 2}}])
    server.body(b'{"data": [{"index": 0, "embedding": [0.25, -1e-9]}]}')
    server.json({"data": [{"id": "one"}, {"id": "two"}]})

    def program(llm):
        yield llm.chat("What is the capital of France?").text
        stream = llm.stream("How large?")
        yield [*stream], stream.response.usage
        with pytest.raises(llmlite.RateLimitError) as caught:
            llm.chat("again")
        yield caught.value.message, caught.value.retry_after
        yield llm.chat("2 + 2").tool_calls
        yield llm.embed(["x"]).vectors
        yield llm.models()

    with recorder(server) as (recording, llm):
        live = list(program(llm))
        recording.save(tape)
        recording.check()
    server.close()
    with testing.replay(tape) as replaying, client(replaying) as llm:
        assert list(program(llm)) == live
        replaying.check()
    assert live[0] == "Paris" and live[1][0] == ["Größe ", "42 ", "€"]


@pytest.mark.parametrize("name, path", [("openai", "/openai/v1"), ("anthropic", ""), ("gemini", "/v1beta")])
def test_recorded_under_the_providers_own_path(server, tape, name, path):
    """`url` ends as the provider's own address does, in a recording and in a replay of it."""
    server.reply("hello", times=None)
    with testing.record(server.root + path + "/") as recording:
        assert recording.url == recording.root + path
        with llmlite.Client("m", provider=name, base_url=recording.url, api_key=KEY) as llm:
            assert llm.chat("hi").text == "hello"
        recording.save(tape)
    assert server.requests[0].path.startswith(path)
    with testing.replay(tape) as replaying:
        assert replaying.url == replaying.root + path
        with llmlite.Client("m", provider=name, base_url=replaying.url, api_key="another") as llm:
            assert llm.chat("hi").text == "hello"


def test_request_goes_on_as_it_came(server):
    """The provider gets the client's method, path, headers and body, but its own host and no compression."""
    server.reply("ok")
    with recorder(server) as (recording, llm):
        llm.chat("hi", headers={"X-Mine": "yes"})
        passed, came = server.requests[0], recording.requests[0]
    assert (passed.method, passed.path, passed.body) == (came.method, came.path, came.body)
    own = {"host", "accept-encoding", "connection", "content-length"}
    assert {**passed.headers, **dict.fromkeys(own)} == {**came.headers, **dict.fromkeys(own)}
    assert passed.headers["host"] == f"{server.host}:{server.port}"
    assert passed.headers["accept-encoding"] == "identity" and passed.headers["x-mine"] == "yes"


def test_stream_is_passed_on_piece_by_piece(server):
    """The client has an event before the provider sends the next."""
    server.stream(["one ", "two"], gap=0.2)
    with recorder(server) as (_, llm):
        with llm.stream("hi") as stream:
            assert next(iter(stream)) == "one "
            sent = len(server.requests[0].sent)
            assert "".join(stream) == "two"
    assert sent < len(server.requests[0].sent)


def test_file_is_to_be_read(server, tape):
    """The file is JSON a person can read and edit: decoded bodies, a stream's events, few headers."""
    server.stream(["Grüß ", "Gott"], headers={"Set-Cookie": "a=b", "X-Request-Id": "r1", "X-RateLimit-Remaining": "0"})
    with recorder(server) as (recording, llm):
        "".join(llm.stream("hi"))
        recording.save(tape)
    told = recorded(tape)
    assert told["recorded"] == server.url
    question, answer = told["exchanges"][0]["request"], told["exchanges"][0]["reply"]
    assert (question["method"], question["path"]) == ("POST", CHAT)
    assert question["json"]["messages"] == [{"role": "user", "content": "hi"}]
    assert answer["headers"] == {"content-type": "text/event-stream", "x-request-id": "r1"}
    assert answer["events"][-1] == "data: [DONE]\n\n" and "end" not in answer
    text = tape.read_bytes().decode()
    assert "Grüß " in text and text.endswith("}\n") and text.count("\n") > 20 and "\r" not in text


def test_no_key_in_the_file(server, tape):
    """Keys are masked in paths, bodies and headers, those of others too, and a replay still finds its answers."""
    others = ["AIzaSyA-0123456789abcdefghijklmnopqrs", "gsk_0123456789abcdefghij", "ya29.a0AfH6SMBx0123456789",
              "AKIAIOSFODNN7EXAMPLE", "eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeKKF2QT4"]  # fmt: skip
    server.error(401, f"Incorrect API key provided: {KEY}", headers={"X-Request-Id": KEY})
    server.reply(" ".join(others))
    server.json({}, times=2)
    with recorder(server) as (recording, llm):
        with pytest.raises(llmlite.AuthenticationError):
            llm.chat(f"my key is {KEY}, not sk-short or a task-management-tool-of-mine")
        llm.chat("others")
        llm.request("POST", "/x", params={"key": "AIzaNo", "page": "2"}, json={})
        secrets = {"X-Custom-Auth": "hunter2/hunter2", "X-Signature": "0123456789"}
        params = {"subscription-key": "sub/one+two", "X-Amz-Signature": "feed0123", "pageToken": "a-page"}
        words = [*secrets.values(), *params.values()]
        llm.request("POST", "/y", params=params, json=words, headers=secrets)
        recording.save(tape)
    text = tape.read_text(encoding="utf-8")
    assert not [key for key in (KEY, "AIzaNo", *others, *words[:-1]) if key in text]
    assert "Bearer" not in text and "uthorization" not in text
    asked = [exchange["request"] for exchange in recorded(tape)["exchanges"]]
    assert asked[0]["json"]["messages"][0]["content"] == (
        "my key is ***, not sk-short or a task-management-tool-of-mine")
    assert asked[2]["path"] == "/v1/x?key=***&page=2"
    assert asked[3]["path"] == "/v1/y?subscription-key=***&X-Amz-Signature=***&pageToken=a-page"
    assert asked[3]["json"] == ["***"] * 4 + ["a-page"]
    with testing.replay(tape) as replaying:
        with llmlite.Client("test", base_url=replaying.url, api_key="sk-another-0123456789", retry=None) as llm:
            with pytest.raises(llmlite.AuthenticationError):
                llm.chat("my key is sk-another-0123456789, not sk-short or a task-management-tool-of-mine")
            assert llm.chat("others").text == " ".join(["***"] * len(others))
            llm.request("POST", "/x", params={"key": "AIzaOther", "page": "2"}, json={})


@pytest.mark.parametrize("spelt", [
    lambda key: key.replace("/", "\\/"), lambda key: "".join(f"\\u{ord(char):04X}" for char in key),
    lambda key: key.replace("/", "%2F").replace("+", "%2b"), lambda key: json.dumps(key.replace("/", "\\/"))[1:-1]],
    ids=["slashes", "escapes", "percents", "in a string of JSON"])  # fmt: skip
def test_no_key_in_another_spelling(server, tape, spelt):
    """Servers echo keys as their JSON writes them, and as they stand in an address."""
    key = "abc/def+0123456789=x"
    server.body(b'{"error": {"message": "bad: %b"}}' % spelt(key).encode(), status=401)
    with testing.record(server.url) as recording:
        with llmlite.Client("m", base_url=recording.url, api_key=key, retry=None) as llm:
            with pytest.raises(llmlite.AuthenticationError):
                llm.chat("hi")
        recording.save(tape)
    assert recorded(tape)["exchanges"][0]["reply"]["json"] == {"error": {"message": "bad: ***"}}


@pytest.mark.parametrize("key, kept", [("secret7", "is it secret7?"), ("secret88", "is it ***?")])
def test_short_keys_are_words(server, tape, key, kept):
    """A local server's "key" is a word that may stand in any text: it is left there; one of eight letters is a key."""
    server.reply("yes")
    with testing.record(server.url) as recording:
        with llmlite.Client("m", base_url=recording.url, api_key=key) as llm:
            llm.chat(f"is it {key}?")
        recording.save(tape)
    assert recorded(tape)["exchanges"][0]["request"]["json"]["messages"][0]["content"] == kept


def test_matched_by_what_is_asked(server, tape):
    """Requests find their own answers, in any order and from threads; the same request gets its answers in turn."""
    server.handle(lambda request: testing.reply(request.json["messages"][0]["content"] + f" {len(server.requests)}"))
    with recorder(server) as (recording, llm):
        for word in ("a", "b", "b", "c"):
            llm.chat(word)
        recording.save(tape)
    with testing.replay(tape) as replaying, client(replaying) as llm:
        said = {}
        threads = [threading.Thread(target=lambda word=word: said.update({word: llm.chat(word).text}))
                   for word in ("c", "a")]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert said == {"c": "c 4", "a": "a 1"}
        assert [llm.chat("b").text for _ in range(2)] == ["b 2", "b 3"]
        replaying.check()


@pytest.mark.parametrize("asked, why", [
    ({"messages": "Which is the largest city of Italy?"},
     "json.messages[0].content was 'the largest city of France?', is 'the largest city of Italy?'"),
    ({"messages": "Which is the largest city of France?", "temperature": 0},
     "json.temperature was '(nothing)', is 0"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]},
     "json.messages was [{'content': 'Which is the largest city of France?', 'role': 'user'}], is [{"),
], ids=["text", "option", "length"])
def test_mismatch_says_what_differs(server, tape, asked, why):
    """A request that was not recorded is a 501 that names the first difference, for the client and for `check`."""
    server.reply("Paris")
    with recorder(server) as (recording, llm):
        llm.chat("Which is the largest city of France?")
        recording.save(tape)
    with testing.replay(tape) as replaying, client(replaying) as llm:
        with pytest.raises(llmlite.ServerError) as caught:
            llm.chat(**asked)
        assert f"tape.json has no answer left to POST {CHAT}: {why}" in caught.value.message
        assert caught.value.message.endswith("; record it anew, or replay(in_order=True)")
        with pytest.raises(AssertionError, match=r"^llmlite\.testing: never asked for: POST .* of tape\.json; tape\.j"):
            replaying.check()


def test_used_up(server, tape):
    """An answer is given once; another path was never recorded."""
    server.reply("Paris", times=2)
    with recorder(server) as (recording, llm):
        llm.chat("hi")
        llm.chat("ho")
        recording.save(tape)
    with testing.replay(tape) as replaying, client(replaying) as llm:
        for _ in range(2):
            assert llm.chat("hi" if replaying.requests == [] else "ho").text == "Paris"
            with pytest.raises(llmlite.ServerError, match=f"no answer left to POST {CHAT}: it was recorded 1 times"):
                llm.chat("hi")
        with pytest.raises(llmlite.ServerError, match=r"json.messages\[0\].content was 'hi', is 'he'"):
            llm.chat("he")
        with pytest.raises(llmlite.ServerError, match="no answer left to GET /v1/models: it was recorded 0 times"):
            llm.models()


def test_in_order(server, tape):
    """in_order: another body gets the next answer, another path none, though its answer comes later."""
    server.reply("one")
    server.json({"data": [{"id": "m"}]})
    server.reply("two")
    with recorder(server) as (recording, llm):
        llm.chat("a")
        llm.models()
        llm.chat("b")
        recording.save(tape)
    with testing.replay(tape, in_order=True) as replaying, client(replaying) as llm:
        with pytest.raises(llmlite.ServerError, match=f"GET /v1/models: next is POST {CHAT}"):
            llm.models()
        assert llm.chat("x").text == "one"
        assert llm.models() == ["m"]
        assert llm.chat("y").text == "two"
        with pytest.raises(llmlite.ServerError, match="it is at its end"):
            llm.chat("z")


def test_gap(server, tape):
    """A replayed stream comes at once, or with the gaps asked for."""
    server.stream(["a", "b"], gap=0.05)
    with recorder(server) as (recording, llm):
        "".join(llm.stream("hi"))
        recording.save(tape)
    times = []
    for gap in (0.0, 0.1):
        with testing.replay(tape, gap=gap) as replaying, client(replaying) as llm:
            start = time.monotonic()
            assert "".join(llm.stream("hi")) == "ab"
            times.append(time.monotonic() - start)
    assert times[0] < 0.1 < 0.2 < times[1]


def test_queued_replies_come_before_recorded_ones(server, tape):
    """A replay can be given a fault besides; two recordings serve one server."""
    server.reply("one")
    server.reply("two")
    for number, word in enumerate(("a", "b")):
        with recorder(server) as (recording, llm):
            llm.chat(word)
            recording.save(f"{tape}{number}")
    with testing.replay(f"{tape}0").replay(f"{tape}1") as replaying, client(replaying, retry=None) as llm:
        replaying.error(500)
        with pytest.raises(llmlite.ServerError):
            llm.chat("b")
        assert [llm.chat(word).text for word in "ba"] == ["two", "one"]
        replaying.check()


def test_edited(server, tape):
    """What a person writes into the file is what is answered."""
    record_paris(server, tape)
    edit(tape, lambda exchanges: exchanges[0]["reply"]["json"]["choices"][0]["message"].update(content="Rome"))
    with testing.replay(tape) as replaying, client(replaying) as llm:
        assert llm.chat("hi").text == "Rome"


def test_cut_answers_stay_cut(server, tape):
    """A stream or body that broke off is passed on, kept and given again as such."""
    server.stream(["some ", "text"], end="reset", done=False, finish_reason="")
    server.reply("cut", truncate=20, framing="length")

    def program(llm):
        with pytest.raises(llmlite.StreamError) as caught:
            "".join(llm.stream("hi"))
        assert caught.value.response.text == "some text"
        with pytest.raises(llmlite.APIConnectionError):
            llm.chat("hi")

    with recorder(server) as (recording, llm):
        program(llm)
        recording.save(tape)
        recording.check()
    assert [exchange["reply"]["end"] for exchange in recorded(tape)["exchanges"]] == ["close", "close"]
    with testing.replay(tape) as replaying, client(replaying) as llm:
        program(llm)


@pytest.mark.parametrize("framing", ["chunked", "close", "length", "gzip"])
def test_framings(server, tape, framing):
    """However the provider frames its answer, all of it comes, on a connection that lives on."""
    server.reply("x" * 100_000, framing=framing, times=2)
    with recorder(server) as (recording, llm):
        assert [len(llm.chat("hi").text) for _ in range(2)] == [100_000] * 2
        assert recording.connections == 1
        recording.save(tape)
    assert len(recorded(tape)["exchanges"][1]["reply"]["json"]["choices"][0]["message"]["content"]) == 100_000


def test_any_bytes(server, tape):
    """Answers and requests that are no JSON: text stays text, bytes are kept too; a form's boundary may differ."""
    sound = bytes(range(256))
    server.body(sound, headers={"Content-Type": "audio/mpeg"})
    server.body(b"plain", headers={"Content-Type": None})
    server.sse([b"data: \xff\n\n"])

    def program(llm):
        form = {"file": ("talk.wav", b"RIFF\xff", "audio/wav")}
        yield llm.request("POST", "/audio", files=form).content
        answer = llm.request("POST", "/text", data=b"words")
        yield answer.content, answer.headers.get("Content-Type")
        yield llm.request("GET", "/events").content

    with recorder(server) as (recording, llm):
        live = list(program(llm))
        recording.save(tape)
    assert live == [sound, (b"plain", None), b"data: \xff\n\n"]
    kinds = [sorted(each["reply"].keys() & {"text", "base64", "events"}) for each in recorded(tape)["exchanges"]]
    assert kinds == [["base64"], ["text"], ["base64"]]
    with testing.replay(tape) as replaying, client(replaying) as llm:
        assert list(program(llm)) == live


def test_what_is_no_unicode_and_no_gzip(server, tape):
    """Half a character, as models cut it, and gzip that is none: both are kept, and given again as they came."""
    server.reply("half \ud83d")
    server.body(b"\x1f\x8b\x08broken", headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})

    def program(llm):
        yield llm.chat("a\ud800b").text
        with pytest.raises(llmlite.ResponseError) as caught:
            llm.chat("hi")
        yield str(caught.value).partition(" (")[0]

    with recorder(server) as (recording, llm):
        live = list(program(llm))
        recording.save(tape)
    assert live[0] == "half \ud83d"
    with testing.replay(tape) as replaying, client(replaying) as llm:
        assert [words.replace(replaying.url, server.url) for words in program(llm)] == [
            words.replace(recording.url, server.url) for words in live]


def test_over_tls(tape):
    """The provider is asked over TLS, and a certificate that is not trusted is refused."""
    import ssl

    ca, theirs, ours = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    ca.issue_cert("127.0.0.1").configure_cert(theirs)
    ca.configure_trust(ours)
    with testing.Server(theirs) as server:
        server.reply("ok")
        with recorder(server, ssl_context=ours) as (_, llm):
            assert llm.chat("hi").text == "ok"
        with recorder(server) as (recording, llm):
            with pytest.raises(llmlite.ServerError, match=r"gave no answer: SSLCertV.* \(SSL_CERT_FILE names "):
                llm.chat("hi")
            with pytest.raises(ValueError, match="nothing was recorded"):
                recording.save(tape)


def test_a_provider_that_speaks_no_http(server, tape):
    """It is told as no answer."""
    server.raw(b"SSH-2.0-x\r\n", testing.CLOSE)
    with recorder(server) as (_, llm):
        with pytest.raises(llmlite.ServerError, match="gave no answer: BadStatusLine: SSH-2.0-x"):
            llm.chat("hi")


def test_no_provider(tape):
    """A provider that is not there: a 502 that says so, nothing in the file, and `check` fails."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with testing.record(url) as recording, client(recording) as llm:
            with pytest.raises(llmlite.ServerError, match=f"{url[:-3]} gave no answer: ConnectionRefusedError"):
                llm.chat("hi")
            with pytest.raises(AssertionError, match="gave no answer"):
                recording.check()
            with pytest.raises(ValueError, match="nothing was recorded"):
                recording.save(tape)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n\r\n{", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"],
                         ids=["head", "body", "length"])
def test_closing_ends_what_is_under_way(server, head):
    """close() wakes a request that waits for the provider; no thread or connection is left."""
    server.raw(head, testing.STALL)
    with recorder(server) as (recording, llm):
        thread = threading.Thread(target=lambda: pytest.raises(llmlite.LLMError, llm.chat, "hi"))
        thread.start()
        assert server.wait_for(1)
        while not server.requests[0].sent:
            time.sleep(0.01)
        start = time.monotonic()
        recording.close()
        thread.join()
        assert time.monotonic() - start < 1
    assert server.wait_idle()


def test_client_that_leaves_a_stream(server, tape):
    """A stream that the program leaves is kept as far as it came."""
    server.stream(["one "] + ["two "] * 50, gap=0.05)
    with recorder(server) as (recording, llm):
        with llm.stream("hi") as stream:
            assert next(iter(stream)) == "one "
        recording.save(tape)
    reply = recorded(tape)["exchanges"][0]["reply"]
    assert reply["end"] == "close" and 1 <= len(reply["events"]) < 50


@pytest.mark.parametrize("upstream", ["", "api.openai.com", "ftp://x/v1", "https://", "https://me:secret@x/v1", 5, None,
                                      b"https://x/v1", "https://x/v1?api-version=1"])
def test_upstream_that_is_none(upstream):
    """What is no base URL is refused, and not shown: it may hold a password."""
    with pytest.raises(ValueError, match="^upstream is a base URL, such as https://api.openai.com/v1, with "):
        testing.record(upstream)


def test_upstream_with_a_bad_port():
    """It is refused at once, not when it is asked."""
    with pytest.raises(ValueError, match="Port could not be cast"):
        testing.record("http://localhost:80x/v1")


QUESTION = {"method": "POST", "path": CHAT}
ANSWER = {"status": 200, "headers": {}, "text": ""}


def exchanges(*each):
    return json.dumps({"recorded": "", "exchanges": each})


@pytest.mark.parametrize("content, why", [
    ("", "Expecting value: line 1 column 1 (char 0)"), ("\ud800", "Expecting value"),
    pytest.param("[" * 200_000, "maximum recursion depth exceeded", id="deep"),
    ("[]", 'there is no "recorded" that is a string'), ('{"recorded": ""}', 'there is no "exchanges" that is an array'),
    ('{"recorded": 1, "exchanges": []}', 'there is no "recorded" that is a string'),
    (exchanges(5), 'exchange 1: there is no "request" that is an object'),
    (exchanges({"request": QUESTION, "reply": ANSWER}, {"request": {"method": "POST"}, "reply": ANSWER}),
     'exchange 2: there is no "path" that is a string'),
    *((exchanges({"request": QUESTION, "reply": {**ANSWER, **wrong}}), f"exchange 1: {why}") for wrong, why in [
        ({"status": "200"}, 'there is no "status" that is a number'),
        ({"headers": []}, 'there is no "headers" that is an object'),
        ({"text": 5}, 'there is no "text" that is a string'), ({"base64": "abc"}, "Incorrect padding"),
        ({"end": "late"}, "unknown end 'late'")]),
    *((exchanges({"request": QUESTION, "reply": {"status": 200, "headers": {}, **events}}), f"exchange 1: {why}")
      for events, why in [({}, 'there is no "events" that is an array'),
                          ({"events": [5]}, 'there is no "events" that is a string')]),
])  # fmt: skip
def test_file_that_is_no_recording(tape, content, why):
    """Another file is refused with its name, and where what is wrong."""
    tape.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError) as caught:
        testing.replay(tape)
    assert str(caught.value).startswith(f"{tape} is no recording of llmlite.testing: {why}")


def test_file_that_is_not_there(tape):
    """As any other is not."""
    with pytest.raises(FileNotFoundError):
        testing.replay(os.path.join(str(tape), "missing") if os.name == "nt" else f"{tape}.missing")


def test_save_needs_a_recording(tape):
    """Nothing recorded, nothing written."""
    with pytest.raises(ValueError, match="nothing was recorded"):
        testing.Server().save(tape)
    assert not tape.exists()


# ------------------------------------------------------------------------------------------------------------- check


def told(server):
    with pytest.raises(AssertionError) as caught:
        server.check()
    return str(caught.value)


def test_check_of_a_script_that_was_played(server, llm):
    """Nothing left, nothing missed: nothing is said."""
    server.check()
    server.reply("one", times=2)
    server.reply("more", times=None)
    assert [llm.chat("hi").text for _ in range(4)] == ["one", "one", "more", "more"]
    server.check()


def test_check_names_unused_replies(server, llm):
    """Each reply that was not asked for is named by what made it, briefly."""
    server.reply("used")
    server.reply("Paris")
    server.reply("x" * 1000)
    server.reply("", tool_calls=[{"name": "add"}])
    server.stream(["a", "b"])
    server.error(429)
    server.json({"a": 1})
    server.sse(["data: 1\n\n"])
    server.body([b"bytes", b"more"])
    server.raw(b"HTTP", testing.RESET)
    server.reply("often", times=3)
    server.reply("endless", times=None)
    llm.chat("hi")
    assert told(server) == (
        "llmlite.testing: never asked for: reply 'Paris', reply 'xxxxxxxxxxxx...xxxxxxxxxxxxx', reply {'tool_calls': "
        "['add']}, stream ['a', 'b'], error 429, json {'a': 1}, sse [b'data: 1\\n\\n'], body [b'bytes', b'more'], "
        "raw (b'HTTP', <Signal.RESET: 'reset'>), "
        "reply 'often' (3 of 3 times), reply 'endless'")


def test_check_counts_times(server, llm):
    """A reply that was to be asked for more often says how often it still is."""
    server.reply("often", times=3)
    llm.chat("hi")
    assert told(server) == "llmlite.testing: never asked for: reply 'often' (2 of 3 times)"


def test_check_names_requests_without_a_reply(server, llm, capsys):
    """A request that nothing was queued for fails, however the program took its error; so does a failing handler."""
    with pytest.raises(llmlite.ServerError):
        llm.chat("hi")
    server.handle(lambda request: 1 / 0)
    with pytest.raises(llmlite.ServerError):
        llm.chat("hi")
    assert told(server) == (f"llmlite.testing: no reply was queued for POST {CHAT}; "
                            "ZeroDivisionError while answering: division by zero")  # fmt: skip
    assert "Traceback" in capsys.readouterr().err


def test_check_shows_no_key(server):
    """A key in a path is masked."""
    with pytest.raises(llmlite.ServerError), llmlite.Client("m", base_url=server.url, retry=None) as llm:
        llm.request("GET", "/x", params={"key": "AIzaNo"})
    assert told(server) == "llmlite.testing: no reply was queued for GET /v1/x?key=***"


def test_check_of_batches(server):
    """A batch API's fault that no request met is named too."""
    batches = server.batches()
    server.check()
    batches.fault("create", testing.error(500), after=True)
    assert told(server) == "llmlite.testing: never asked for: error 500 as a fault of 'create'"
