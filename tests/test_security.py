"""Attacks, each tried: keys that would leak, requests that would stray, servers that mean harm, files that tell."""
import copy
import glob
import json
import logging
import os
import pickle
import random
import re
import socket
import stat
import subprocess
import sys
import threading
import traceback

import pytest
import requests
import urllib3

from tests import llmlite, named, testing

KEY = "sk-Secret0123456789"
BASES = {"openai": "/v1", "anthropic": "", "gemini": "/v1beta", "completions": "/v1", "llamacpp": "/v1"}
HEADERS = {"openai": "Authorization", "completions": "Authorization", "llamacpp": "Authorization",
           "anthropic": "x-api-key", "gemini": "x-goog-api-key", "azure": "api-key"}
EVERY = pytest.mark.parametrize("dialect", list(BASES))
BOTH = pytest.mark.parametrize("mode", ["chat", "stream"])


def client(server, dialect="openai", key=KEY, **options):
    provider = "openai" if dialect == "completions" else dialect
    options.setdefault("retry", None)
    return llmlite.Client("m", provider=provider, base_url=server.root + BASES.get(dialect, "/v1"), api_key=key,
        **options)


def ask(llm, dialect="openai", mode="chat", text="Hi", **options):
    """The reply, whole, in any dialect."""
    raw = dialect in ("completions", "llamacpp")
    if mode == "chat":
        return (llm.complete if raw else llm.chat)(text, **options)
    stream = (llm.stream_tokens if raw else llm.stream)(text, **options)
    for _ in stream.events():
        pass
    return stream.response


def fails(llm, *args, **options):
    with pytest.raises(llmlite.LLMError) as caught:
        ask(llm, *args, **options)
    return caught.value


# ---------------------------------------------------------------------------------------------------- where keys may go


@BOTH
@pytest.mark.parametrize("own", [True, False], ids=["own", "theirs"])
@pytest.mark.parametrize("dialect", [*BASES, "azure"])
def test_redirects_go_nowhere(server, dialect, own, mode):
    """A redirect to another host is an error, in each dialect, over a user's session too: nobody there is asked."""
    with testing.Server() as other, requests.Session() as session:
        with client(server, dialect, session=None if own else session) as llm:
            for count, status in enumerate([301, 302, 303, 307, 308], 1):
                server.body(b"", status=status, headers={"Location": other.url + "/chat/completions"})
                error = fails(llm, dialect, mode)
                assert (type(error), error.status_code) == (llmlite.APIError, status)
                assert server.requests[-1].headers[HEADERS[dialect]].endswith(KEY)
                assert (other.connections, len(server.requests)) == (0, count), status


@pytest.mark.parametrize("own", [True, False], ids=["own", "theirs"])
@EVERY
def test_netrc(server, monkeypatch, tmp_path, dialect, own):
    """~/.netrc neither replaces the key nor adds a login beside it."""
    (tmp_path / "netrc").write_text("default login eve password stolen\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.reply("ok")
    with requests.Session() as session, client(server, dialect, session=None if own else session) as llm:
        ask(llm, dialect)
    sent = server.requests[0].headers
    assert sent[HEADERS[dialect]].endswith(KEY)
    assert sent.get("Authorization", "").endswith(KEY) or "Authorization" not in sent


@pytest.mark.parametrize("url", [
    "http://localhost.evil.example/v1", "http://127.0.0.1.evil.example/v1", "http://localhost@evil.example/v1",
    "http://127.0.0.1:80@evil.example/v1", "http://evil.example/localhost", "http://evil.example?localhost",
    "http://evil.example#@localhost/", "http://localhost-evil.example/", "http://127.evil.example", "http://localhost.",
    "http://0x7f.evil.example", "http://xn--localhost.example", "http://evil.example\\@localhost/v1",
    "http://localhost\\@evil.example/v1", "http://localhost%2eevil.example/v1", "http://evil.example:80\t@localhost/",
    "https://api.openai.com.evil.example/v1", "https://api.openai.com@evil.example/v1",
    "https://evil.example/api.openai.com", "https://api-openai.com/v1", "https://api.openai.com%2eevil.example/v1"])
def test_look_alikes_get_no_key(monkeypatch, url):
    """A host that only looks like this machine, or like a provider, is given no key: the client is refused."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(llmlite.ConfigurationError) as caught:
        llmlite.Client("m", base_url=url)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", [
    "http://localhost:8000/v1", "http://LOCALHOST/", "http://127.0.0.1:1/", "http://127.9.9.9/", "http://[::1]:80/v1",
    "http://u:p@localhost/", "http://localhost?x=@evil.example", "http://localhost#@evil.example",
    "http://localhost:80?@evil.example/", "http://localhost;evil.example", "http://localhost/\\@evil.example/"])
def test_parsers_agree_on_this_machine(url):
    """What passes for this machine is this machine for urllib3 too, which connects."""
    try:
        llmlite.Client("m", base_url=url).close()
    except llmlite.ConfigurationError:
        return
    host = urllib3.util.parse_url(url).host.strip("[]")
    assert host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host)


# --------------------------------------------------------------------------------------------- what goes into a request


@pytest.mark.parametrize("tail", ["\r\nX-Evil: 1", "\n", "\r", "\0", "\x7f", "\u2028", "\u20ac"])
@pytest.mark.parametrize("late", [False, True], ids=["given", "asked for"])
@EVERY
def test_key_with_control_characters(server, dialect, tail, late):
    """A key that would begin a header of its own is refused without being shown; nothing is sent."""
    with pytest.raises(llmlite.ConfigurationError) as caught:
        ask(client(server, dialect, key=(lambda: KEY + tail) if late else KEY + tail), dialect)
    assert KEY not in "".join(traceback.format_exception_only(type(caught.value), caught.value))
    assert not server.requests


@pytest.mark.parametrize("headers", [
    {"X-A": "a\r\nX-Evil: 1"}, {"X-A": "a\n b"}, {"X-A": "\0"}, {"X-A\r\nX-Evil": "1"}, {"X-A: b\r\nX-Evil": "1"},
    {"": "a"}, {"X A": "a"}, {"X-A": "\u20ac"}, {"X:A": "b"}])
@pytest.mark.parametrize("once", [False, True], ids=["client", "call"])
def test_header_injection(server, headers, once):
    """A header's name or value that would begin another one is refused; nothing is sent."""
    with pytest.raises(llmlite.ConfigurationError):
        if once:
            client(server).chat("Hi", headers=headers)
        client(server, headers=headers)
    assert not server.requests


NAMES = ["../../../v1/files", "..", ".", "a/../../b", "m?key=stolen", "m#frag", "m\r\nX-Evil: 1",
    "m\r\n\r\nGET /evil HTTP/1.1",
         "m%2f..%2f", "m:generateContent?x=", "m\0", "m n", "//evil.example/x", "http://evil.example", "m\u2028",
         "\u00fc", "models/../x", "models/x?y", "tunedModels/../../x", "@evil.example", "m;p", "m&n=1", "\\..\\m"]


@BOTH
@EVERY
def test_model_names(server, dialect, mode):
    """A model's name cannot leave its place: one request, to the dialect's own path, the name where it belongs."""
    server.handle(lambda request: testing.reply("ok"))
    with client(server, dialect) as llm:
        for count, name in enumerate(NAMES, 1):
            ask(llm, dialect, mode, model=name)
            assert len(server.requests) == count, name
    for name, sent in zip(NAMES, server.requests):
        check_place(name, sent, dialect, mode)


def check_place(name, sent, dialect, mode):
    """The name stands where it belongs, and nowhere else."""
    assert len(sent.head.split(b"\r\n")[0].split(b" ")) == 3
    assert not {"x-evil", "evil"} & set(sent.headers)
    path, _, query = sent.path.partition("?")
    if dialect != "gemini":
        assert re.fullmatch("/v1/(chat/completions|completions|messages)|/completion", sent.path)
        assert dialect == "llamacpp" or sent.json["model"] == name
        return
    assert re.fullmatch(r"/v1beta/(models|tunedModels)/[^/?#]+:(stream)?[gG]enerateContent", path)
    assert query == ("alt=sse" if mode == "stream" else "")
    assert requests.utils.unquote(path[len("/v1beta/"):].rpartition(":")[0]) in (name, "models/" + name)


# ------------------------------------------------------------------------------------------------------ hostile servers

EVIL = "\x1b[2J\x1b]0;owned\x07\r\nERROR root: forged\x00\x08\u202e\x9b31m\u2028"


def evil_replies(text):
    """Ways to bring a text in front of somebody's eyes."""
    data = json.dumps(text).encode()
    good = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    raw = text.encode("utf-8", "surrogateescape")
    return {
        "error": testing.error(400, text), "code": testing.error(400, "x", code=text, type=text),
        "bytes": testing.body(raw, status=500), "page": testing.body(b"<html>" + raw),
        "not JSON": testing.body(raw), "inside": testing.json_body({"error": text}),
        "event": testing.sse([good, b"event: error\ndata: " + data + b"\n\n"]),
        "torn": testing.sse([good, b'data: {"' + raw.replace(b"\r\n", b"") + b"\n\n"]),
        "stray": testing.sse([raw]), "keys": testing.json_body({"error": {text: text}, text: text}, status=401),
        "finish": testing.json_body({"choices": [{"finish_reason": "error", "error": {"message": text}}]})}


@BOTH
@pytest.mark.parametrize("name", evil_replies(""))
def test_control_characters(server, caplog, name, mode):
    """No control character of a server's reaches a terminal: errors and log records are one printable line."""
    caplog.set_level(logging.DEBUG)
    server.handle(lambda request: evil_replies(EVIL)[name])
    with client(server, retry=llmlite.RetryPolicy(max_retries=1, backoff=0.001)) as llm:
        error = fails(llm, mode=mode)
    lines = [str(error), *(record.getMessage() for record in caplog.records if record.name == "llmlite")]
    assert all(line.isprintable() for line in lines), lines


@pytest.mark.parametrize("header", [b"Retry-After: \x1b[2J", b"x-request-id: \x1b[2J\xff",
    b"x-ratelimit-remaining: \x1b[2J",
                                    b"Location: \x1b[2J\xff", b"Content-Type: \x1b[2J\xff"])
@pytest.mark.parametrize("status", [b"200", b"302", b"429"])
def test_control_characters_in_headers(server, caplog, header, status):
    """Nor of its headers."""
    caplog.set_level(logging.DEBUG)
    server.raw(b"HTTP/1.1 " + status + b" \x1b[2J\r\n" + header + b"\r\nContent-Length: 1\r\n\r\nx")
    with client(server) as llm:
        error = fails(llm)
    lines = [str(error), *(record.getMessage() for record in caplog.records if record.name == "llmlite")]
    assert all(line.isprintable() for line in lines), lines


def traces(error):
    """All that an error shows or carries, as text."""
    shown = [str(error), repr(error), "".join(traceback.format_exception(type(error), error, error.__traceback__))]
    held = [repr(vars(item)) + repr(item.args) for item in (error, error.last_error) if item is not None]
    kept = [repr(vars(error.response))] if error.response is not None else []
    headers = [repr(dict(getattr(error, "headers", {})))]
    return "\n".join([*shown, *held, *kept, *headers, pickle.dumps(error).decode("latin-1")])


@BOTH
@pytest.mark.parametrize("name", evil_replies(""))
def test_the_key_sent_back(server, caplog, tmp_path, name, mode):
    """A server that sends the key back, in body and headers, finds it masked in every place a text can get to."""
    caplog.set_level(logging.DEBUG)
    echo = {"x-request-id": KEY, "X-" + KEY: KEY, "x-ratelimit-limit": KEY, "www-authenticate": "Bearer " + KEY}

    def answer(request):
        shape = testing.shape_of(request)
        reply = evil_replies("your key " + KEY + " is bad")[name]
        content = reply.content(shape)
        return testing.body(content.pieces, status=reply.status, headers={**echo, "Content-Type": content.content_type})

    server.handle(answer)
    with client(server, retry=llmlite.RetryPolicy(max_retries=1, backoff=0.001), save_failed=str(tmp_path)) as llm:
        error = fails(llm, mode=mode)
        assert KEY not in repr(llm) + repr(llm.ledger)
    assert KEY.lower() not in traces(error).lower()
    assert KEY.lower() not in caplog.text.lower()
    saved, = glob.glob(str(tmp_path / "*"))
    with open(saved) as file:
        assert KEY.lower() not in file.read().lower()


PLACEHOLDERS = ["ollama", "lm-studio", "not-needed", "EMPTY", "local", "none", "vllm", "test", "12345678", "anything",
                "changeme", "no-key", "no-key-required", "no_key", "none-needed", "not-required", "not-used",
                "notneeded", "placeholder", "Whatever"]


@pytest.mark.parametrize("key", PLACEHOLDERS)
def test_a_placeholder_is_no_secret(server, key):
    """The "ollama" that a local server is given is an ordinary word, in the provider's words and in ours."""
    words = f"model {key!r} not found, try {key} pull qwen3"
    server.error(404, words, headers={"X-Note": key})
    error = fails(client(server, key=key))
    assert (error.message, error.body["error"]["message"], error.headers["X-Note"]) == (words, words, key)
    assert error.provider == "openai" and words in str(error)


def test_a_key_that_is_also_a_provider_masks_none_of_our_own_words(server):
    """What we say ourselves is never masked: provider, what, hint."""
    server.error(401, "no: unauthorized, provider, the-key")
    error = fails(client(server, key="unauthorized"))
    assert str(error).startswith("openai: 401 Unauthorized: no: ***, provider, the-key (check the key given")


TOKEN, PLAIN = "tok-9f8e7d6c5b4a3928", "research-team"
SURE = ["X-Auth-Token", "X-AccessToken", "X-Accesstoken", "X-Access-Tokens", "x_api_key", "X-ApiKey", "X-APIKEY",
        "apikey", "X-Client-Secret", "Cookie", "Set-Cookie", "Authorization", "Proxy-Authorization", "X-Account-Token",
        "CF-Account-Key", "X-Accounts-Api-Key", "X-Max-Key", "X-CSRFToken", "X-Password", "X-Token-2", "X-Signature",
        "Ocp-Apim-Subscription-Key", "X-Vault-Token", "X-Jwt", "X-Masterkey", "X-User-Credentials"]
DOUBTFUL = ["X-Auth-Account", "X-Auth-Mode", "Accept-Token-Format", "X-Key-Id", "AWSAccessKeyId", "X-Auth-Provider"]
HARMLESS = ["X-Max-Tokens", "X-Token-Limit", "X-Token-Budget", "X-RateLimit-Remaining-Tokens", "X-Token-Count",
            "X-Min-Tokens", "X-Tokens-Used", "X-Author",
            "X-Tokenizer", "X-Monkey", "X-Authenticated-User", "X-Keyboard", "X-Passage", "X-Secretary", "X-Team"]


@pytest.mark.parametrize("name, value, masked, saved", [
    *((name, value, True, False) for name in SURE for value in (TOKEN, PLAIN)),
    *((name, TOKEN, True, False) for name in DOUBTFUL), *((name, PLAIN, False, False) for name in DOUBTFUL),
    *((name, value, False, True) for name in HARMLESS for value in (TOKEN, PLAIN)),
    ("X-Max-Tokens", "100000", False, True), ("X-Token-Limit", "100000", False, True),
    ("X-Auth-Token", "1234567890123456", True, False), ("Accept-Token-Format", "application/json", False, False),
    ("X-Auth-Mode", "standard", False, False), ("Cookie", "id=" + TOKEN, True, False),
    ("Proxy-Authorization", "Basic abc-123-def", True, False)])
def test_which_headers_hold_secrets(server, tmp_path, name, value, masked, saved):
    """A header is secret by the words of its name: surely by the last, perhaps by another, a count of tokens is none.

    What is perhaps one is in no saved file; in an error it is masked, unless it is made of plain words.
    """
    said = f"I got {value} of you"
    server.handle(lambda request: testing.error(400, said, code=value))
    with client(server, headers={name: value}, save_failed=str(tmp_path)) as llm:
        error = fails(llm)
    assert error.message == ("I got *** of you" if masked else said)
    assert (value in traces(error)) is not masked
    path, = tmp_path.iterdir()
    sent = json.loads(path.read_text())
    assert (sent["headers"][name], sent["given"][name]) == ((value, value) if saved else ("***", "***"))


LONG_KEY = "sk-proj-" + "ABCDEFGHIJ0123456789" * 5


@pytest.mark.parametrize("form", [
    '{"error": {"message": "m", "code": "%s"}}', '{"error": {"message": "m", "type": "%s"}}',
    '{"error": {"message": "%s"}}', '{"error": {"message": "m"}, "request_id": "%s"}',
    '{"error": {"message": "m", "status": "%s", "metadata": {"headers": {"x": "%s"}}}}', '{"error": {"%s": "%s"}}',
    '{"error": {"message": ["%s"]}}', "<html><body>%s", "<html><title>%s", "%s", "<p>&#115;%s"])
@pytest.mark.parametrize("status", [200, 400])
def test_no_half_of_a_key_is_left_where_something_is_cut(server, status, form):
    """Wherever a code, a text or a page is cut short, no part of a key is left at the cut."""
    with client(server, key=LONG_KEY) as llm:
        for start in (0, 200, 280, 297, 65_480, (1 << 20) - 50):
            server.body(form.replace("%s", "A " * (start // 2) + LONG_KEY + "z" * (start + 5)).encode(), status=status)
            assert LONG_KEY[:9] not in traces(fails(llm)), start


@pytest.mark.parametrize("key, said, shown", [
    ("hunter-2", "hunter-2 hunter-22 xhunter-2 (hunter-2)", "*** hunter-22 xhunter-2 (***)"),
    ("Hunter2", "HUNTER2, hunter2", "***, ***"),
    ("sk-0123456789abcdef", "xsk-0123456789abcdefx", "x***x")])
def test_short_keys_are_masked_as_whole_words(server, key, said, shown):
    """A key of few characters may be a part of a word by chance; a long one is masked wherever it stands."""
    server.error(400, said)
    assert fails(client(server, key=key)).message == shown


@pytest.mark.parametrize("written", [
    "ab/cd+ef.gh", r"ab\/cd+ef.gh", r"ab\u002fcd\u002bef.gh", r"ab\u002Fcd+ef\u002egh"])
@pytest.mark.parametrize("key", ["ab/cd+ef.gh", "0123456789" + "ab/cd+ef.gh"], ids=["short", "long"])
def test_a_key_as_json_writes_it(server, key, written):
    """A key is masked in JSON that nobody has decoded too, however its characters are written there."""
    said = '{"bad key": "' + key.replace("ab/cd+ef.gh", written) + '", '
    server.body(said.encode(), status=400)
    server.body(said.encode())
    llm = client(server, key=key)
    for error in (fails(llm), fails(llm)):
        text = traces(error)
        assert written not in text and '"bad key": "***"' in str(error)


@pytest.mark.parametrize("key", ["completions", "127.0.0.1", "read timed out", "POST http"])
def test_our_own_words_are_not_masked(server, tmp_path, key):
    """A key that is an ordinary word hides nothing of what we say: address, path, what happened, what was sent."""
    server.raw(testing.STALL)
    server.error(400, f"no: {key}")
    server.reply("again")
    with client(server, key=key, save_failed=str(tmp_path / key[:4])) as llm:
        assert f"read timed out: POST {server.url}/chat/completions" in str(fails(llm, timeout=0.5))
        assert fails(llm).message == "no: ***"
    paths = list((tmp_path / key[:4]).iterdir())
    saved = [json.loads(path.read_text()) for path in paths]
    assert {(one["base_url"], one["path"], one["provider"], one["model"]) for one in saved} == {
        (server.url, "/chat/completions", "openai", "m")}
    assert llmlite.replay(str(paths[0]), api_key=key).text == "again"


@pytest.mark.parametrize("schema, said", [(dict, "[]"), ({"const": 1}, KEY)])
def test_the_key_in_what_does_not_fit(server, schema, said):
    """Nor is the key in what we say of a server's words: where it would send us, what does not fit a schema."""
    server.error(302, headers={"Location": f"https://evil.example/?{KEY}"})
    server.reply(json.dumps(said + KEY))
    with client(server) as llm:
        for options in ({}, {"schema": schema}):
            error = fails(llm, **options)
            assert KEY not in traces(error) and "***" in traces(error)


@BOTH
@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_large_error_object_is_read_in_part(server, status, mode):
    """Of an error object of many megabytes the first members are read: what they say is on the error, less the key."""
    said = {"message": f"no {KEY}", "code": "big", "type": "invalid_request_error", "x": [1, {}]}
    start = json.dumps({"error": said})
    body = start[:-2] + ', "more": [' + f'"{KEY * 10}, \\"{{",' * 20_000 + "1]}}"
    server.body(body.encode(), status=status, times=None)
    error = fails(client(server), mode=mode)
    assert (error.message, error.code, error.type) == ("no ***", "big", "invalid_request_error")
    assert error.body["error"]["x"] == [1, {}] and error.body["error"]["more"][0] == "***" * 10 + ', "{'
    assert KEY[:12] not in repr(error.body) and len(repr(error.body)) < 1 << 20


LONG, ROWS = b"x" * (2 << 20), b",".join([b'{"a":1,"b":"x"}'] * 150_000)
LARGE = {  # body, the message's start, the code
    "text": (b'{"error":{"message":"' + LONG + b'","code":429}}', "xxx", None),
    "no object": (b'{"error":"' + LONG + b'"}', "xxx", None),
    "text after the code": (b'{"error":{"code":429,"message":"' + LONG + b'"}}', "xxx", 429),
    "text of 100 KB": (b'{"error":{"message":"' + LONG[:100_000] + b'","code":429,"d":[' + ROWS + b"]}}", "xxx", 429),
    "list": (b'[{"error":{"message":"no","code":429,"details":[' + ROWS + b"]}}]", "no", 429),
    "id before": (b'{"request_id":"r","error":{"message":"no","code":429,"details":[' + ROWS + b"]}}", "no", 429),
    "no choices": (b'{"choices":null,"error":{"message":"no","code":429,"d":[' + ROWS + b"]}}", "no", 429),
    "spaces before": (b" \n" * 600 + b'{"error":{"message":"no","code":429,"d":[' + ROWS + b"]}}", "no", 429),
    "byte order mark": (b'\xef\xbb\xbf{"error":{"message":"no","code":429,"d":[' + ROWS + b"]}}", "no", 429),
    "words": (b'{"object":"error","message":"no","code":429,"d":[' + ROWS + b"]}", "no", 429),
    "words alone": (b'{"message":"' + LONG + b'"}', "xxx", None),
    "list of words": (b'{"detail":[{"msg":"no"},' + ROWS + b"]}", '[{"msg": "no"}', None),
    "escapes": (b'{"error":{"code":429,"message":"' + b"\\u00fc\\n" * 200_000 + b'"}}', "\u00fc\n\u00fc\n", 429)}


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize("name", LARGE)
def test_a_large_error_says_what_its_first_members_say(server, name, status):
    """Of a large error 1 MiB is read, whatever its form and status: message and code are told, and it costs nothing."""
    body, message, code = LARGE[name]
    server.body(body, status=status, times=None)
    with client(server, retry=llmlite.RetryPolicy(max_retries=1, rate_limit_max_retries=1, backoff=0,
                                                  rate_limit_backoff=0)) as llm:
        error = fails(llm)
        assert (llm.ledger.calls, error.attempts, len(server.requests)) == (0, 2, 2)
    assert error.status_code == (429 if code or status == 429 else 500)
    assert error.message.startswith(message) and error.code == code


@pytest.mark.parametrize("status", [200, 400])
def test_an_error_cut_anywhere(server, status):
    """An error that was cut says what had come of it: of a text its start, of a number nothing."""
    body = b'{"error": {"message": "n\\u00fc\\"", "x": [{}, "a"], "code": 429}}'
    server.handle(lambda request: testing.body(body[:len(server.requests)], status=status))
    llm = client(server)
    for size in range(1, len(body)):
        error = fails(llm)
        if size < body.index(b"n\\u"):
            assert type(error) is llmlite.ResponseError if status == 200 else error.body == body[:size].decode()
        else:
            assert 'n\u00fc"'.startswith(error.message) and isinstance(error.body["error"], dict)
            assert error.code is None or size > body.index(b"429}") + 2
            assert error.status_code == (429 if error.code else 500) or status == 400
    assert (error.message, error.code, error.body["error"]["x"]) == ('n\u00fc"', 429, [{}, "a"])


@pytest.mark.parametrize("start", [b'{"choices":[{"message":{"content":"hi"}}],', b'{"id":"a","model":"m",'])
@pytest.mark.parametrize("beside", [b'"error":null', b'"error":{}', b'"x":{"error":"no"}', b'"d":[{"message":"no"}]'])
def test_a_large_reply_is_no_error(server, start, beside):
    """A large reply is read whole, whatever beside it looks like an error."""
    server.body(start + beside + b',"more":"' + LONG + b'","choices":[{"message":{"content":"hi"}}]}')
    assert client(server).chat("hi").text == "hi"


@pytest.mark.parametrize("body", [
    b'{"error":{"a":[[[[[' + b"1," * (1 << 20), b"<p>" + LONG, b'{"error":' + b"[" * (2 << 20), b"]]]],,," + LONG,
    b'{"error":["' + b"}" * (2 << 20), b'{"error":' + b'"\\u' * (1 << 19), b'{"error' + LONG, b"9" * (2 << 20)])
@pytest.mark.parametrize("status", [200, 400])
def test_a_large_error_of_any_form(server, status, body):
    """A large error whose start says nothing that can be read, or is no JSON, is an error all the same."""
    server.body(body, status=status)
    error = fails(client(server))
    kinds = (llmlite.ResponseError, llmlite.ServerError) if status == 200 else (llmlite.BadRequestError,)
    assert type(error) in kinds


def test_an_error_of_many_small_items_is_kept_in_part(server):
    """An item counts a few characters, however short it is: a body of numbers alone is not kept whole either."""
    server.json({"error": {"message": "no", "more": [0] * 300_000}}, status=400)
    error = fails(client(server))
    assert error.message == "no" and 10_000 < len(error.body["error"]["more"]) < 100_000


def test_an_error_page_is_kept_to_a_mebibyte(server):
    """Of a larger error that is no JSON the first part is kept, and no half of a key that stands at the cut."""
    server.body(KEY.encode() * 100_000, status=400)
    error = fails(client(server))
    assert 100_000 < len(error.body) < 1 << 20 and set(error.body) == {"*"}


@EVERY
def test_the_key_is_in_no_url(server, caplog, dialect):
    """The key travels in one header, whatever the dialect."""
    server.handle(lambda request: testing.reply("ok"))
    with client(server, dialect) as llm:
        ask(llm, dialect)
        ask(llm, dialect, "stream")
    for request in server.requests:
        assert KEY not in request.path and KEY.encode() not in request.body
        assert request.head.count(KEY.encode()) == 1


ODD = [None, [], {}, "", 0, -1, 1.5, True, "x", ["x"], [None], {"a": 1}, [[]], [{}], 10 ** 400, float("inf"), "\ud800",
       "9" * 5000, {"error": "x"}, [{"error": 1}]]


def places(value, path=()):
    """The path of every value inside a value."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(item, (*path, key))


def mangled(value, dice):
    """The value with one to three of the values in it odd, or gone."""
    value = copy.deepcopy(value)
    for _ in range(dice.choice([1, 1, 2, 3])):
        found = list(places(value))
        if found:
            *way, last = dice.choice(found)
            inner = value
            for key in way:
                inner = inner[key]
            inner[last] = copy.deepcopy(dice.choice(ODD))
    return value


def mangled_answer(request, dice):
    """A good answer, or an error, with odd values in it."""
    shape = testing.shape_of(request)
    if dice.random() < 0.25:
        error = testing.error(dice.choice([400, 429, 500]), retry_after=1).content(shape)
        return testing.json_body(mangled(json.loads(error.pieces[0]), dice), status=dice.choice([200, 400, 429, 500]))
    raw = shape.dialect.__class__.__name__ in ("_Text", "_Native")
    more = {} if raw else {"tool_calls": [{"name": "f", "arguments": {"a": 1}}], "reasoning": ["hm"]}
    content = testing.stream([("He", 1), ("llo", 2)], **more).content(shape)
    if not shape.stream:
        return testing.json_body(mangled(json.loads(content.pieces[0]), dice))
    return testing.sse([mangled_event(event, dice) for event in content.pieces])


def mangled_event(event, dice):
    head, mark, data = event.partition(b"data: ")
    if dice.random() < 0.6 or not data.startswith(b"{"):
        return event
    return head + mark + json.dumps(mangled(json.loads(data), dice)).encode() + b"\n\n"


@pytest.mark.parametrize("seed", range(2))
@EVERY
def test_odd_values(server, dialect, seed):
    """From JSON with odd values in odd places come replies of the right types or LLMErrors, which pickle."""
    dice = random.Random(seed)
    server.handle(lambda request: mangled_answer(request, dice))
    with client(server, dialect) as llm:
        for number in range(150):
            try:
                reply = ask(llm, dialect, "stream" if number % 2 else "chat")
            except llmlite.LLMError as error:
                assert str(pickle.loads(pickle.dumps(error))) == str(error)
            else:
                assert isinstance(reply.text, str) and isinstance(reply.usage.total_tokens, int)
                assert reply.finish_reason is None or isinstance(reply.finish_reason, str)
                assert isinstance(json.dumps(reply.message) + repr(reply) + repr(reply.tool_calls), str)


@BOTH
@pytest.mark.parametrize("shape", [
    '{"error": %s}', '{"error": {"message": %s}}', '{"error": {"details": %s}}', '{"message": %s}', "%s",
    '{"choices": [{"message": {"content": %s}, "finish_reason": "stop"}]}', '{"choices": [{"delta": %s}]}',
    '{"choices": [{"delta": {"tool_calls": %s}}]}', '{"choices": [{"message": {"tool_calls": %s}}], "usage": %s}'])
@pytest.mark.parametrize("status", [200, 400])
def test_deep_json(server, tmp_path, shape, status, mode):
    """JSON nested as deep as it still can be read, or too deep, gives replies and LLMErrors, also with save_failed."""
    depths = [10, 99, 100, 101, *range(120, 1001, 110), *range(930, 1000, 18), 3000, 20000]

    def answer(request):
        depth = depths[len(server.requests) - 1]
        return testing.body(shape.replace("%s", "[" * depth + "]" * depth).encode(), status=status)

    server.handle(answer)
    with client(server, save_failed=str(tmp_path)) as llm:
        for _ in depths:
            try:
                ask(llm, mode=mode)
            except llmlite.LLMError as error:
                assert len(str(error)) < 700


@pytest.mark.parametrize("opening, closing", [('["]\\\\",', ',"["]'), ('{"\\"}":', ',"{":1}'), ('[{"a":', "}]")])
@BOTH
def test_depth_hidden_by_brackets_in_texts(server, mode, opening, closing):
    """Brackets in texts, which seem to pair off with the others, let nothing through that cannot be pickled."""
    deep = opening * 450 + "1" + closing * 450
    server.body(f'{{"choices":[{{"message":{{"content":"hi"}},"finish_reason":"stop"}}],"z":{deep}}}'.encode())
    with client(server) as llm, pytest.raises(llmlite.LLMError) as caught:
        pickle.dumps(ask(llm, mode=mode).raw)
    assert pickle.loads(pickle.dumps(caught.value)).body == caught.value.body


# -------------------------------------------------------------------------------------------------------------- proxies


@BOTH
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("how", ["refused", "407", "garbage"])
def test_proxy_credentials(server, monkeypatch, caplog, tmp_path, scheme, how, mode):
    """A proxy's password is in no text, however the proxy fails."""
    caplog.set_level(logging.DEBUG)
    replies = {"407": testing.error(407), "garbage": testing.raw(b"nonsense\r\n"),
        "echo": testing.error(502, "for eve:hunter2345")}
    server.handle(lambda request: replies[how])
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1] if how == "refused" else server.port
        monkeypatch.setenv(scheme + "_proxy", f"http://eve:hunter2345@127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "")
        with llmlite.Client("m", base_url=scheme + "://api.example/v1", api_key=KEY, save_failed=str(tmp_path),
                            retry=None) as llm:
            error = fails(llm, mode=mode)
    texts = [traces(error), caplog.text, *(open_text(path) for path in tmp_path.iterdir())]
    assert not any("hunter2345" in text or KEY in text for text in texts)
    if how in ("407", "garbage") and scheme == "https":
        assert b"CONNECT" in server.requests[0].head and KEY.encode() not in server.requests[0].head


def open_text(path):
    return path.read_text()


@BOTH
def test_userinfo_of_the_base_url(server, caplog, tmp_path, mode):
    """A password in the base URL is in no text and no saved file."""
    caplog.set_level(logging.DEBUG)
    server.error(500)
    with llmlite.Client("m", base_url=server.url.replace("//", "//eve:hunter2345@"), api_key=KEY, retry=None,
                        save_failed=str(tmp_path)) as llm:
        error = fails(llm, mode=mode)
        assert "hunter2345" not in repr(llm)
    texts = [traces(error), caplog.text, *(open_text(path) for path in tmp_path.iterdir())]
    assert not any("hunter2345" in text for text in texts)


# ---------------------------------------------------------------------------------------------------------- saved files


@BOTH
@EVERY
def test_saved_files(server, tmp_path, dialect, mode):
    """A failed request's file is its owner's alone, whole, and without the key; its folder is made."""
    server.error(400)
    folder = tmp_path / "a" / "b"
    with client(server, dialect, save_failed=str(folder), headers={"X-Auth-Token": KEY + "-too",
            "X-Plain": "yes"}) as llm:
        error = fails(llm, dialect, mode)
    path, = folder.iterdir()
    assert path.suffix == ".json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert KEY not in text and '"yes"' in text
    saved = json.loads(text)
    assert saved["body"] == server.requests[0].json
    assert (saved["status"], saved["attempts"], saved["elapsed"]) == (400, 1, round(error.elapsed, 3))
    assert set(saved) == {"llmlite", "time", "provider", "model", "base_url", "path", "stream", "task", "method",
                          "headers", "given", "body", "status", "answer", "partial", "error", "attempts", "elapsed"}


def test_a_saved_request_nested_deeper_than_is_masked(server, tmp_path):
    """What no mask has looked at is not in the file: dots stand for it."""
    deep = KEY
    for _ in range(300):
        deep = [deep]
    server.error(400)
    with client(server, save_failed=str(tmp_path)) as llm:
        fails(llm, extra={"deep": deep})
    path, = tmp_path.iterdir()
    held = json.loads(path.read_text())["body"]["deep"]
    while isinstance(held, list):
        held, = held
    assert held == "..."


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_saved_files_under_a_umask(server, tmp_path, umask):
    """Nobody else can read it even where the umask would let them."""
    server.error(400)
    before = os.umask(umask)
    try:
        with client(server, save_failed=str(tmp_path)) as llm:
            fails(llm)
    finally:
        os.umask(before)
    path, = tmp_path.iterdir()
    assert not stat.S_IMODE(path.stat().st_mode) & 0o177


@pytest.mark.parametrize("folder", ["file", "file/below", "/dev/full", "/proc/nowhere", "no\0name", "x" * 300, "link"])
@BOTH
def test_a_folder_that_cannot_be_written(server, tmp_path, caplog, folder, mode):
    """The call's own error comes out, the log says why there is no file, and nothing half-written lies about."""
    (tmp_path / "file").write_text("taken")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "deeper")
    server.error(402, "no money")
    with client(server, save_failed=os.path.join(str(tmp_path), folder)) as llm:
        error = fails(llm, mode=mode)
    assert type(error) is llmlite.PaymentRequiredError and "no money" in str(error)
    assert error.__cause__ is None and error.__context__ is None
    assert "cannot save" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


FULL = """
import resource, signal, sys
from tests import llmlite
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
try:
    llmlite.Client("m", base_url=sys.argv[1], save_failed=sys.argv[2], retry=None).chat("Hi")
except llmlite.PaymentRequiredError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)  # what measures coverage writes a file at the end
    sys.exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file sizes are a Unix's")
def test_a_disk_that_is_full(server, tmp_path):
    """A file that cannot be written to its end is not there at all, and the call's own error comes out."""
    server.error(402)
    done = subprocess.run([sys.executable, "-c", FULL, server.url, str(tmp_path)], capture_output=True,
                          cwd=os.path.dirname(os.path.dirname(__file__)))
    assert (done.returncode, b"cannot save" in done.stderr) == (7, True)
    assert list(tmp_path.iterdir()) == []


def test_saved_files_appear_whole(server, tmp_path):
    """However many calls fail at once, each has its own file, and no reader ever sees half of one."""
    server.handle(lambda request: testing.error(400, "x" * 100_000))
    with client(server, save_failed=str(tmp_path)) as llm:
        stop, torn, seen = threading.Event(), [], set()
        reader = reading(tmp_path, stop, torn, seen)
        for _ in range(40):
            fails(llm)
        stop.set()
        reader.join()
    assert not torn
    assert seen and len(list(tmp_path.glob("*.json"))) == 40
    assert not list(tmp_path.glob("*.part"))


def reading(folder, stop, torn, seen):
    """A thread that reads every file that appears."""
    def read():
        while not stop.is_set():
            for path in set(folder.glob("*.json")) - seen:
                seen.add(path)
                try:
                    json.loads(path.read_text())
                except ValueError:
                    torn.append(path)

    thread = threading.Thread(target=read)
    thread.start()
    return thread


@BOTH
@EVERY
def test_replay(server, monkeypatch, tmp_path, dialect, mode):
    """replay() sends the same bytes to the same path, with today's key, and hands back the reply."""
    server.error(500)
    with client(server, dialect, key=KEY, save_failed=str(tmp_path)) as llm:
        fails(llm, dialect, mode, text="Gr\u00fc\u00dfe \U0001f600 \u2028", max_tokens=7, extra={"custom": [1, None]})
    path, = tmp_path.iterdir()
    server.reply("again")
    reply = llmlite.replay(str(path), api_key="sk-Today00000000")
    first, second = server.requests
    assert (second.body, second.path, second.method) == (first.body, first.path, first.method)
    assert second.headers[HEADERS[dialect]].endswith("sk-Today00000000")
    assert KEY.encode() not in second.head
    assert reply.text == "again"


def test_replay_takes_the_key_of_the_environment(server, monkeypatch, tmp_path):
    """Without api_key= the provider's variable is asked."""
    server.error(500)
    with client(server, save_failed=str(tmp_path)) as llm:
        fails(llm)
    path, = tmp_path.iterdir()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-Fresh0000000")
    server.reply("again")
    assert llmlite.replay(str(path)).text == "again"
    assert server.requests[1].headers["authorization"] == "Bearer sk-Fresh0000000"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"nonsense", b'{"path": 1}', b"\xff\xfe", b"null",
    b"[" * 100_000,
                                     b'{"path": "/x", "body": {}, "provider": "openai", "model": "m", "base_url": "x"}',
                                     b'{"path": "/x", "body": {}, "provider": [], "model": "m", "base_url": "http://x"}',
                                     b'{"path": "/x", "body": 3, "provider": "openai", "model": "m", "base_url": "http://x"}'],
                         ids=lambda content: content[:60].decode("latin-1"))
def test_replay_of_another_file(tmp_path, content):
    """A file that is no saved request is a ConfigurationError that names it."""
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(llmlite.ConfigurationError):
        llmlite.replay(str(path), api_key=KEY)
    with pytest.raises(llmlite.ConfigurationError, match="missing"):
        llmlite.replay(str(tmp_path / "missing"), api_key=KEY)


def test_replay_sends_no_key_where_a_file_likes(server, monkeypatch, tmp_path):
    """A file that names another address gets no key from the environment, unless its owner gives one."""
    path = tmp_path / "theirs.json"
    saved = {"provider": "openai", "model": "m", "base_url": "https://evil.example/v1", "method": "POST",
             "path": "/chat/completions", "body": {"model": "m", "messages": []}, "stream": False, "task": "chat"}
    path.write_text(json.dumps(saved))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(llmlite.ConfigurationError, match="evil.example.*api_key=") as caught:
        llmlite.replay(str(path))
    assert KEY not in str(caught.value)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    path.write_text(json.dumps({**saved, "base_url": server.url}))
    server.reply("again")
    assert llmlite.replay(str(path)).text == "again"


@pytest.mark.parametrize("call, answer", [
    (lambda llm: llm.embed(["a"]), {"data": [{"index": 0, "embedding": [1]}]}),
    (lambda llm: llm.models(), {"data": [{"id": "m"}]}),
    (lambda llm: llm.complete("a"), {"choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]}),
], ids=["embed", "models", "complete"])
def test_replay_of_every_kind_of_call(server, tmp_path, call, answer):
    """Whatever call was saved goes out again as it was, and its answer is read as what it is."""
    server.error(400)
    server.json(answer)
    llm = llmlite.Client("m", base_url=server.url, save_failed=str(tmp_path))
    with pytest.raises(llmlite.BadRequestError):
        call(llm)
    reply = llmlite.replay(str(next(tmp_path.iterdir())))
    first, again = server.requests
    assert (first.method, first.path, first.body) == (again.method, again.path, again.body)
    assert reply.parsed in ([[1]], ["m"], None) and reply.text in ("", "b")


@pytest.mark.parametrize("call", [lambda llm: llm.chat("Hi"), lambda llm: llm.models()], ids=["chat", "models"])
def test_replay_keeps_the_query_and_the_headers(server, tmp_path, call):
    """What the user had put into the base URL's query and the headers goes out again; what is secret is not there."""
    server.error(400)
    url = f"{server.url.replace('//', '//ann:pa55word@')}?api-version=2024-10-21&sig=aB3dE6&k=sk-hidden-77&plain=&flag"
    with llmlite.Client("m", base_url=url, api_key=KEY, save_failed=str(tmp_path), headers={
            "X-Team": "blue", "X-Api-Token": "tok-98765432", "User-Agent": None, "X-Blank": ""}) as llm:
        with pytest.raises(llmlite.BadRequestError):
            call(llm)
    path, = tmp_path.iterdir()
    text = path.read_text()
    assert not [word for word in ("pa55word", "aB3dE6", "sk-hidden-77", "tok-98765432", KEY) if word in text]
    server.json({"data": [], "choices": [{"message": {}}]})
    llmlite.replay(str(path), api_key="sk-Today00000000", headers={"X-More": "1"})
    first, again = server.requests
    assert again.path == first.path.replace("&sig=aB3dE6&k=sk-hidden-77", "")
    assert again.path.endswith("?api-version=2024-10-21&plain=&flag")
    assert (again.headers["x-team"], again.headers["x-blank"], again.headers["x-more"]) == ("blue", "", "1")
    assert "user-agent" not in again.headers and "x-api-token" not in again.headers
    assert again.headers["authorization"] == "Bearer sk-Today00000000"


def test_replay_takes_headers_of_today(server, tmp_path):
    """A header given to replay() stands for the one in the file, whatever its case; ours are today's."""
    server.error(400)
    with client(server, save_failed=str(tmp_path), headers={"X-Team": "blue"}) as llm:
        fails(llm)
    path, = tmp_path.iterdir()
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "headers": {**saved["headers"], "User-Agent": "llmlite/0.0.1"}}))
    server.reply("again")
    llmlite.replay(str(path), api_key=KEY, headers={"x-team": "red"})
    assert server.requests[1].headers["x-team"] == "red"
    assert server.requests[1].headers["user-agent"] == server.requests[0].headers["user-agent"]


@pytest.mark.parametrize("given", [5, ["X"], {"X": 5}, {"X Y": "1"}], ids=named)
def test_replay_of_a_file_with_other_headers(server, tmp_path, given):
    """Headers that are none make it a file that is no saved request."""
    server.error(400)
    with client(server, save_failed=str(tmp_path)) as llm:
        fails(llm)
    path, = tmp_path.iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "given": given}))
    with pytest.raises(llmlite.ConfigurationError):
        llmlite.replay(str(path), api_key=KEY)
    assert len(server.requests) == 1


def test_replay_of_a_file_of_before(server, tmp_path):
    """A file that does not tell which headers were the user's is replayed without them."""
    server.error(400)
    with client(server, save_failed=str(tmp_path)) as llm:
        fails(llm)
    path, = tmp_path.iterdir()
    saved = json.loads(path.read_text())
    del saved["given"]
    path.write_text(json.dumps(saved))
    server.reply("again")
    assert llmlite.replay(str(path), api_key=KEY).text == "again"
