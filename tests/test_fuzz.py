"""Hostile and battered answers: only LLMErrors come out, no text is lost or invented, and every call comes to its end.

The examples are the same in every run; LLMLITE_FUZZ_TIMES=20 takes as many times more, other ones each time.
"""
import contextlib
import copy
import functools
import gzip
import inspect
import json
import os
import pickle
import random
import re
import signal
import sys
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import fuzz, llmlite, testing
from tests.beside import timed

client = sys.modules[llmlite.Client.__module__]

TIMES = int(os.environ.get("LLMLITE_FUZZ_TIMES", "1"))
STREAMS, BODIES = fuzz.seeds("sse"), fuzz.seeds("json")
GOOD = [seed for seed in STREAMS if b'"error":{' not in seed.data]
READER = fuzz.Reader()


def examples(count):
    return settings(max_examples=count * TIMES, derandomize=TIMES == 1, database=None, deadline=None,
                    suppress_health_check=list(HealthCheck))


# ------------------------------------------------------------------------------------ streams whose events are intact

BETWEEN = (b"\n", b"\n\n\n", b": ping\n\n", b":\n", b": \xff\xfe\xe2\x80\n", b"id: 7\n", b"retry: 10\n\n",
           b"retry: soon\n",
           b"event: ping\n\n", b"event\n\n", b"event: error\n\n", b"data\n\n", b"data: ping\n\n", b"data: 5\n\n",
           b"data: null\n\n", b"data: []\n\n", b"data: {}\n\n", b'data: "x"\n\n', b"junk\n", b"junk: x\n\n", b"<hr>\n",
           b"data : x\n", b" data: x\n", b"DATA: x\n\n", "data\u2028: x\n".encode(), b"\0\n")
OFFSET = st.integers(0, 3000)


def whole(seed):
    """What the untouched stream comes to."""
    return READER.read(seed.dialect, "sse", seed.data)


def told(reply):
    """All that a reply says."""
    return (reply.text, reply.reasoning, reply.tool_calls, reply.usage, reply.finish_reason, reply.citations,
            reply.tokens, reply.message, reply.raw, reply.id, reply.model)


@pytest.mark.parametrize("seed", GOOD, ids=lambda seed: seed.name)
@examples(10)
@given(junk=st.lists(st.tuples(st.integers(0, 20), st.sampled_from(BETWEEN)), max_size=4),
       newline=st.sampled_from((b"\n", b"\r\n", b"\r")), bom=st.booleans(), offsets=st.lists(OFFSET, max_size=8))
def test_junk_between_events_changes_nothing(seed, junk, newline, bom, offsets):
    """Comments, other fields, data that is no answer, any line end, any packets: the same pieces, the same reply."""
    events = re.findall(rb"(?:.+\n)+\n", seed.data.replace(b"\r\n", b"\n"))
    for at, line in junk:
        events.insert(min(at, len(events)), line)
    if seed.dialect == "anthropic" and not events[0].startswith(b"event: message_start"):
        events = [event for event in events if event != b"data: {}\n\n"]  # which would be the first event
    data = (b"\xef\xbb\xbf" if bom else b"") + b"".join(events).replace(b"\n", newline)
    wanted, found = whole(seed), READER.read(seed.dialect, "sse", *fuzz.cut(data, offsets))
    assert found.error is None
    assert found.text == wanted.text
    assert told(found.reply) == told(wanted.reply)


@pytest.mark.parametrize("seed", GOOD, ids=lambda seed: seed.name)
@examples(12)
@given(size=OFFSET, offsets=st.lists(OFFSET, max_size=4), framing=st.sampled_from((b"\n", b"\r\n", b"\r")))
def test_a_cut_stream_is_a_prefix(seed, size, offsets, framing):
    """Cut anywhere, inside a character too: a prefix of the text and an error that holds it, or the whole text."""
    data = seed.data.replace(b"\r\n", b"\n").replace(b"\n", framing)
    wanted, found = whole(seed), READER.read(seed.dialect, "sse", *fuzz.cut(data[:size], offsets))
    assert wanted.text.startswith(found.text)
    if found.error is None:
        assert (found.text, found.reply.text) == (wanted.text, wanted.reply.text)
        assert found.reply.finish_reason == wanted.reply.finish_reason
    elif found.error.response is None:
        assert type(found.error) is llmlite.ResponseError
        assert found.text == ""
    else:
        assert type(found.error) is llmlite.TruncatedStreamError
        assert found.error.response.text == found.text


@pytest.mark.parametrize("seed", BODIES, ids=lambda seed: seed.name)
@examples(8)
@given(size=OFFSET, offsets=st.lists(OFFSET, max_size=3))
def test_a_cut_body_is_an_error(seed, size, offsets):
    """A body that stops early is a ResponseError, however plausible its start, or the error that it begins to tell."""
    found = READER.read(seed.dialect, "json", *fuzz.cut(seed.data[:min(size, len(seed.data) - 2)], offsets))
    assert type(found.error) is llmlite.ResponseError or (
        "error" in seed.name and isinstance(found.error, llmlite.APIError))


# ------------------------------------------------------------------------------------------------ any bytes whatever

@pytest.mark.parametrize("seed", STREAMS + BODIES, ids=lambda seed: seed.name)
@examples(14)
@given(start=st.integers(0, 1 << 32))
def test_mutated_answers(seed, start):
    """Flipped bits, swapped values, doubled and spliced pieces: a reply or an LLMError, and both agree on the text."""
    others = [other.data for other in STREAMS + BODIES if other.dialect == seed.dialect]
    data = fuzz.mutated(seed.data, random.Random(start), others)
    fuzz.check(seed.dialect, READER.read(seed.dialect, seed.kind, *fuzz.packets(data, start)))


@pytest.mark.parametrize("dialect", fuzz.PROVIDERS)
@examples(12)
@given(data=st.binary(max_size=200), kind=st.sampled_from(("sse", "json")), head=st.sampled_from((b"", b"data:", b"{")))
def test_any_bytes(dialect, data, kind, head):
    """Bytes of no meaning are an LLMError, in a stream and in a body."""
    assert READER.read(dialect, kind, head + data).error is not None


# -------------------------------------------------------------------------------------------------- any JSON whatever

ROWS = {name: client._PROVIDERS[name] for name in
        ("openai", "gemini-openai", "mistral", "anthropic", "gemini", "vllm", "llamacpp")}
WHO = {f"{name} {kind}": getattr(row, kind)() for name, row in ROWS.items() for kind in ("dialect", "completions")}
DIALECTS = {"openai": "openai dialect", "gemini-openai": "gemini-openai dialect", "mistral": "mistral dialect",
            "anthropic": "anthropic dialect", "gemini": "gemini dialect", "completions": "vllm completions",
            "llamacpp": "llamacpp completions"}
FAMILY = {"gemini-openai": "openai"}
REFUSALS = (client._ErrorInside, client._TooLarge, llmlite.ResponseError)
WORDS = ("", "text", "thinking", "tool_use", "custom", "message", "message_start", "message_delta",
         "content_block_delta", "content_block_start", "message_stop", "input_json_delta", "text_delta",
         "citations_delta", "stop", "error", "null", "2s", "\ud800", "AAAA", "A", "{}", "429", "PerDay")
NUMBERS = (0, 1, -1, 7, 10 ** 30, 10 ** 400, 0.5, float("nan"), float("inf"), -0.0)


@functools.lru_cache(maxsize=None)
def names_in(thing):
    """The words between quotes in some source code: the keys that it looks for are among them."""
    return set(re.findall(r'"(\w+)"', inspect.getsource(thing)))


def keys_of(value):
    """Every key in a JSON value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set(value if isinstance(value, dict) else ()).union(*map(keys_of, inner))


@functools.lru_cache(maxsize=None)
def hostile(names, leaves=12):
    """Any JSON whose keys are mostly these."""
    leaf = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(WORDS) | st.text(max_size=3)
    key = st.sampled_from(sorted(names))
    return st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(key, inner, max_size=4),
                        max_leaves=leaves)


def spots(value, path=()):
    """Where a JSON value can be changed: the path of each value in it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [spot for key, item in inner for spot in spots(item, (*path, key))]


def battered(values, names):
    """One of these values with other JSON in a place or two; or JSON of no sense."""
    return _battered(st.sampled_from(values), hostile(frozenset(names), 4), st.sampled_from(sorted(names)))


@st.composite
def _battered(draw, values, hostiles, names):
    value = copy.deepcopy(draw(values))
    for _ in range(draw(st.integers(0, 2))):
        path = draw(st.sampled_from(spots(value)))
        new = draw(hostiles)
        if not path:
            return new if isinstance(new, dict) else {"choices": new, "content": new, "candidates": new, "data": new}
        place = value
        for key in path[:-1]:
            place = place[key]
        if isinstance(place, dict) and draw(st.booleans()):
            place[draw(names)] = new
        else:
            place[path[-1]] = new
    return value


def chunks(name):
    """Battered chunks and bodies of a dialect."""
    family = FAMILY.get(name, name)
    found = [value for seed in STREAMS + BODIES if seed.dialect == family for value in fuzz.values(seed)]
    names = keys_of(found).union(*(names_in(kind) for kind in type(WHO[DIALECTS[name]]).__mro__[:-1]))
    return battered(found, names)


def fold(dialect, chunks):
    """The reply that chunks are folded to, and the text they told, up to the end mark or a refusal."""
    body, said = {}, []
    for chunk in chunks:
        try:
            events = dialect.parse_event(chunk, body)
        except REFUSALS:
            break
        said += [event if isinstance(event, str) else event.text for event in events
                 if isinstance(event, str) or event.type == "text"]
        if client._END in events:
            break
    return dialect.parse(client._settled(body)), said


def check_types(reply):
    """The fields of a reply are of the types that Response tells of."""
    assert all(type(getattr(reply, name)) is str for name in ("text", "reasoning", "model"))
    assert all(type(getattr(reply, name)) in (str, type(None)) for name in ("id", "request_id", "finish_reason"))
    assert all(type(item) is llmlite.Token and type(item.text) is str for item in reply.tokens)
    assert all(type(call.name) is type(call.id) is type(call.raw_arguments) is str for call in reply.tool_calls)
    assert all(type(call.arguments) is dict for call in reply.tool_calls)
    assert all(isinstance(count, int) and count >= 0 for count in reply.usage)
    assert type(reply.citations) is type(reply.tool_calls) is type(reply.tokens) is list
    json.dumps([reply.message, reply.raw])


@pytest.mark.parametrize("name", DIALECTS)
def test_any_json_as_a_body(name):
    """check() raises its own errors alone, parse() none at all, and a reply's fields are of their types."""
    dialect = WHO[DIALECTS[name]]

    @examples(35)
    @given(chunks(name))
    def run(body):
        with contextlib.suppress(*REFUSALS):
            dialect.check(copy.deepcopy(body))
        check_types(dialect.parse(body))

    run()


@pytest.mark.parametrize("name", DIALECTS)
def test_any_json_as_chunks(name):
    """parse_event() raises its own errors alone; what is folded can be parsed, and holds the text that was told."""
    dialect = WHO[DIALECTS[name]]

    @examples(35)
    @given(st.lists(chunks(name), max_size=4))
    def run(chunks):
        reply, said = fold(dialect, chunks)
        check_types(reply)
        assert all(type(text) is str for text in said)
        assert name in fuzz.AT_ODDS or not said or sorted("".join(said)) == sorted(reply.text)

    run()


LISTS = [{"data": [{"id": "m-1"}], "has_more": True, "last_id": "m-1"}, {"models": [{"name": "models/m-1"}],
         "nextPageToken": "x"}, {"data": [{"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": "AAAAPw=="}],
         "usage": {"prompt_tokens": 3}, "model": "m-1"}, {"embeddings": [{"values": [0.5]}],
         "usageMetadata": {"promptTokenCount": 3}}]


@examples(100)
@given(battered(LISTS, keys_of(LISTS)))
@example({"data": [{"embedding": "A"}]})
@example({"data": [{"embedding": "AAAAAAA="}]})
@example({"data": [], "nextPageToken": "\ud800"})
def test_any_json_as_a_list(body):
    """Lists of models and of embeddings: the same; and the next page is asked for by a str."""
    for reader in (client._ModelList(), client._Vectors(2)):
        with contextlib.suppress(*REFUSALS):
            reader.check(body)
        assert type(reader.parse(body).parsed) is list
    assert client._next_page(body).isascii()


ERRORS = [value for seed in STREAMS + BODIES if "error" in seed.name for value in fuzz.values(seed)]
TIMES_AS_TEXT = st.sampled_from((
    "3", "0", "-1", "1e9", "nan", "inf", "1h2m", "9" * 500 + "h", "Fri, 31 Dec 1999 23:59:59 GMT",
    "Fri, 99 Foo 0 99:99",
    "2026-13-45T99:99:99Z", "9999-12-31T23:59:59.999Z", "1999999999", "\u0663", "true", "false", "sk-secret-key"))
HEADERS = st.dictionaries(st.sampled_from((
    "Retry-After", "retry-after-ms", "Date", "x-should-retry", "X-RateLimit-Limit", "X-RateLimit-Remaining-Requests",
    "x-ratelimit-reset-requests", "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset",
    "Location", "x-request-id")), TIMES_AS_TEXT | st.text(max_size=12), max_size=5)


@examples(150)
@given(battered(ERRORS, keys_of(ERRORS) | names_in(client._Trouble)), HEADERS,
       st.sampled_from((None, 301, 400, 401, 402, 404, 413, 422, 429, 500, 503, 529, 599, 999)))
def test_any_json_as_an_error(body, headers, status):
    """Every body under every status is one APIError of one line, with a wait that makes sense, and no key."""
    call = client._Call(client._PROVIDERS["openai"], "http://localhost/v1", "m", WHO["openai dialect"])
    call.key = "sk-secret-key"
    error = client._sealed(client._api_error(call, status, headers, [body, "sk-secret-key"]), call)
    assert isinstance(error, llmlite.APIError)
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 600
    assert error.retry_after is None or error.retry_after > 0
    assert type(error.message) is str
    assert error.type is None or type(error.type) is str
    assert error.request_id is None or type(error.request_id) is str
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert "sk-secret-key" not in f"{error} {error.message} {error.code} {error.type} {error.request_id}"


# ----------------------------------------------------------------------------------------------------- over a socket

OK = json.dumps({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}).encode()
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nX-Request-Id: r1\r\n\r\n%s"
WIRES = [
    PLAIN % (len(OK), OK), b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n" + OK,
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n%s%x\r\n%s\r\n0\r\nX-Trailer: x\r\n\r\n" % (SSE, len(EVENT), EVENT),
    SSE + b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in fuzz.cut(EVENT, (7, 30, 60))) + b"0\r\n\r\n",
    b'HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 32\r\n\r\n{"error":{"message":"too many"}}',
    b'HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: a/b; c*0*="x\r\n y\r\n\r\n' + gzip.compress(OK, 9)]
HEAD_WORDS = (
    b"\r\n", b"\n", b"\r", b" ", b":", b"-", b"0x", b"-6", b"ffffffffffffffff", b"9" * 30, b"\xff", b"\0", b"x" * 70000,
    b"x: y\r\n" * 300, b"HTTP/1.1 100 C\r\n\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Content-Encoding: deflate\r\n", b"Content-Encoding: gzip, gzip\r\n",
    b"Location: http://\xff/\r\n", b"Connection: keep-alive\r\n", b"Content-Type: multipart/a; boundary*=a\0b'c'd\r\n")


def mangled(wire, drawn):
    """The bytes of an answer with words of HTTP put in, or taken out, or bits flipped."""
    for _ in range(drawn.randint(1, 4)):
        at = drawn.randrange(len(wire))
        part = drawn.choice((drawn.choice(HEAD_WORDS), bytes([wire[at] ^ 1 << drawn.randrange(8)]), b""))
        wire = wire[:at] + part + wire[at + drawn.choice((0, 1, 5)):]
    return wire


def ask(llm, stream):
    """The text of an answer, or the LLMError."""
    try:
        return "".join(llm.stream("Hi")) if stream else llm.chat("Hi").text
    except llmlite.LLMError as error:
        return error


def test_mangled_http(server):
    """Heads, framings and encodings with wrong bytes in them: an LLMError or a text, in time, over any of them."""
    drawn = random.Random(7 if TIMES == 1 else None)
    wire = []
    server.handle(lambda request: testing.raw(wire[-1]))
    with llmlite.Client("m", base_url=server.url, retry=None, deadline=1.0, timeout=0.5) as llm:
        for _ in range(120 * TIMES):
            wire.append(mangled(drawn.choice(WIRES), drawn))
            with timed(0, 1.25):
                outcome = ask(llm, drawn.randrange(2))
            assert isinstance(outcome, (str, llmlite.LLMError)), wire[-1]


@pytest.mark.parametrize("size", [b"-6", b"-1", b"+5", b" 5", b"0x5", b"1_0", b"", b"5 5", b"f" * 18])
@pytest.mark.timeout(10)
def test_chunk_sizes_that_are_none(server, size):
    """A chunk's size that is no plain hexadecimal number is an LLMError and no endless loop."""
    server.raw(SSE + b"1\r\nA\r\n" + size + b"\r\nAAAAA\r\n")
    with llmlite.Client("m", base_url=server.url, retry=None, deadline=2.0) as llm:
        assert isinstance(ask(llm, True), llmlite.LLMError)


# ------------------------------------------------------------------------------- answers that are dear to read, bounded


def dear_lines():
    return EVENT.replace(b'"stop"', b"null") + b"data:x\n" * 1_000_000 + b"\n"


def dear_choices(form=b'data: {"choices":[%s]}\n\n'):
    return form % b",".join(b'{"index":%d}' % at for at in range(100_000))


def dear_calls():
    return dear_choices(b'data: {"choices":[{"delta":{"tool_calls":[%s]}}]}\n\n')


def dear_gzip():
    return gzip.compress(EVENT.replace(b'"stop"', b"null") + b"data:x\n\n" * 3_000_000, 1)


def dear_json():
    return b"[" + b"1," * 2_000_000 + b'"\n' + b"]\n" * 100


def machine_needs(data):
    """Seconds this machine takes, now, to decode the bytes twice as JSON, and to wake from a sleep of a second's tenth.

    What cannot be interrupted is the standard library's decoder; a bound of fixed seconds would test the machine.
    """
    started = time.monotonic()
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(data)
    decoded = time.monotonic()
    time.sleep(0.1)
    return time.monotonic() - started + decoded - started


def assert_in_time(llm, data, stream):
    """A call with a deadline of 0.25 s fails, at the latest a grace and the machine's own need after it."""
    need = machine_needs(b"" if data[:2] == b"\x1f\x8b" else data)
    with timed(0, 0.25 + 0.25 + need):
        assert isinstance(ask(llm, stream), llmlite.LLMError)


@pytest.mark.parametrize("body", [b'{"error":{"a":[%s1]}}', b'{"choice":[%s1]}', b'{"error":[%s1]}',
                                  b'{"error":{"message":"no","code":[%s1],"details":[%s1]}}'],
                         ids=["error", "no reply", "list", "details"])
@pytest.mark.parametrize("item, status", [(b"1,", 200), (b"{},", 200), (b"{},", 400)],
                         ids=["numbers", "objects", "objects with 400"])
@pytest.mark.timeout(30)
def test_dear_bodies_keep_the_deadline(server, body, item, status):
    """A body of some megabytes that is no reply does not hold the caller long after the deadline."""
    data = body.replace(b"%s", item * (10_000_000 // len(item) ** 2 // body.count(b"%s")))
    server.body(data, status=status)
    with llmlite.Client("m", base_url=server.url, api_key="sk-secret-key", retry=None, deadline=0.25) as llm:
        assert_in_time(llm, data, False)


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("start", [b'{"error":{"message":"', b'{"error":{"message":"x', b'{"error":["'], ids=len)
@pytest.mark.timeout(30)
def test_dear_texts_keep_the_deadline(server, start, status):
    """A large error whose text is nothing but escapes is read in a moment, wherever it is cut."""
    data = start + b'\\"' * 600_000 + b'"}}'
    server.body(data, status=status)
    with llmlite.Client("m", base_url=server.url, api_key="sk-secret-key", retry=None, deadline=0.25) as llm:
        assert_in_time(llm, data, False)


class Woken(Exception):
    """A timer of the system went off."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
def test_a_wait_longer_than_the_clock(server):
    """A rate limit that holds a call back for longer than a clock can wait makes it wait, and raises nothing else."""
    def wake(number, frame):
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Woken

    server.body(json.dumps({**json.loads(OK), "usage": {"prompt_tokens": 10 ** 30}}).encode())
    limit = llmlite.RateLimit(tokens_per_minute=1e-9)
    before = signal.signal(signal.SIGALRM, wake)
    try:
        with llmlite.Client("m", base_url=server.url, retry=None, rate_limit=limit) as llm:
            assert llm.chat("Hi").text == "hi"
            signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)  # again, where another thread gets the first
            with pytest.raises(Woken):
                llm.chat("Hi")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("make", [dear_lines, dear_choices, dear_calls, dear_gzip, dear_json],
                         ids=lambda make: make.__name__[5:])
@pytest.mark.timeout(30)
def test_dear_answers_keep_the_deadline(server, make):
    """An event made to be dear to read, of some megabytes, does not hold the caller long after the deadline."""
    data = make()
    packed = {"Content-Encoding": "gzip"} if data[:2] == b"\x1f\x8b" else {}
    server.body(data, headers={"Content-Type": "text/event-stream", **packed})
    with llmlite.Client("m", base_url=server.url, retry=None, deadline=0.25) as llm:
        assert_in_time(llm, data, True)


WRAPPED = (b'"f"', b'{"x":1}', b'"hm"', b'"text"', b'"Gr\xc3\xbc\xc3\x9f"', b"9", b"503", b'"req_1"')


@pytest.mark.parametrize("depth", [100, 400, 850, 2000, 6000])  # decoders take 900, or some thousands
@pytest.mark.parametrize("stream", [False, True], ids=["chat", "stream"])
def test_deep_json(depth, stream):
    """JSON nested as deep as the decoder takes it, and deeper, under any key: a reply or an LLMError."""
    for seed in STREAMS if stream else BODIES:
        keys = [old for old in WRAPPED if old in seed.data]
        for old in keys if depth <= 2000 else keys[:1]:  # deeper than that the way is the same under each
            for start, end in ((b"[", b"]"), (b'{"function":', b"}"), (b'[{"type":"thinking","thinking":', b"}]")):
                levels = depth // start.count(b":") if b"," in start else depth
                data = seed.data.replace(old, start * levels + old + end * levels, 1)
                fuzz.check(seed.dialect, READER.read(seed.dialect, seed.kind, data))


def test_text_without_the_start_of_its_block(server):
    """Anthropic's text is on the reply as it was told, also where the event that opens its block was skipped."""
    seed = next(seed for seed in STREAMS if seed.name == "anthropic-text.sse")
    start = b'{"type":"text","text":""}}'
    assert start in seed.data
    server.body(seed.data.replace(start, b'{"type":'), headers={"Content-Type": "text/event-stream"})
    with llmlite.Client("m", provider="anthropic", base_url=server.url, api_key="k", skip_bad_events=True) as llm:
        stream = llm.stream("Hi")
        assert "".join(stream) == stream.response.text == "Gr\u00fc\u00df Gott\u2028"


def test_a_part_that_says_it_is_no_thought(server):
    """Gemini's `thought: false` is an answer, also right behind a thought: told and kept as text."""
    parts = [{"text": "hm", "thought": True}, {"text": "hi", "thought": False}]
    candidates = [{"content": {"parts": parts[:1]}}, {"content": {"parts": parts[1:]}, "finishReason": "STOP"}]
    events = [b"data: %s\n\n" % json.dumps({"candidates": [candidate]}).encode() for candidate in candidates]
    server.body(b"".join(events), headers={"Content-Type": "text/event-stream"})
    with llmlite.Client("m", provider="gemini", base_url=server.url, api_key="k") as llm:
        stream = llm.stream("Hi")
        assert "".join(stream) == stream.response.text == "hi"
        assert stream.response.reasoning == "hm"


@pytest.mark.parametrize("tokens", [10 ** 30, 10 ** 400])
def test_absurd_usage_with_a_rate_limit(server, tokens):
    """More tokens than any clock can wait for: the reply comes, and the next call is held back till its deadline."""
    server.body(json.dumps({**json.loads(OK), "usage": {"prompt_tokens": tokens}}).encode())
    limit = llmlite.RateLimit(tokens_per_minute=1000)
    with llmlite.Client("m", base_url=server.url, retry=None, rate_limit=limit) as llm:
        assert llm.chat("Hi").text == "hi"
        with pytest.raises(llmlite.DeadlineExceededError):
            llm.chat("Hi", deadline=0.5)
    assert len(server.requests) == 1


@pytest.mark.parametrize("id", [5, 1.5, True, [], {}, [5], {"a": 1}])
def test_an_id_of_another_type(server, id, caplog):
    """An id that is no str is none: the reply comes, and is logged."""
    caplog.set_level("INFO", "llmlite")
    candidate = {"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}
    server.body(json.dumps({"candidates": [candidate], "responseId": id}).encode())
    with llmlite.Client("m", provider="gemini", base_url=server.url, api_key="k", retry=None) as llm:
        reply = llm.chat("Hi")
    assert (reply.text, reply.id, reply.request_id) == ("hi", None, None)
    assert "request -" in caplog.text
