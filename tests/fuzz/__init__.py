"""Fuzzing the reading of answers: what the tests and `python -m tests.fuzz` share.

The corpus holds whole answers as servers write them, a file each: `DIALECT-what.sse` is a stream, `DIALECT-what.json` a
body.  They reach the client over a session whose adapter has no socket, so an example costs less than a millisecond.
"""
import glob
import json
import os
import pickle
import random
import re
from collections import namedtuple

import requests
from requests.adapters import BaseAdapter

from tests import llmlite

CORPUS = os.path.join(os.path.dirname(__file__), "corpus")
PROVIDERS = {"openai": "openai", "responses": "openai", "anthropic": "anthropic", "gemini": "gemini",
             "mistral": "mistral", "completions": "vllm", "llamacpp": "llamacpp"}
TOKENS = ("completions", "llamacpp")
AT_ODDS = ("completions", "llamacpp", "anthropic", "responses")  # whose events can be at odds on what the text is
KINDS = {"sse": "text/event-stream", "json": "application/json"}

Seed = namedtuple("Seed", "name dialect kind data")
Outcome = namedtuple("Outcome", "text reply error")  # the pieces joined; then the Response, or the LLMError


def seeds(kind):
    """The corpus' answers of one kind, "sse" or "json"."""
    found = []
    for path in sorted(glob.glob(os.path.join(CORPUS, f"*.{kind}"))):
        name = os.path.basename(path)
        with open(path, "rb") as file:
            found.append(Seed(name, name.partition("-")[0], kind, file.read()))
    return found


def values(seed):
    """The JSON values that an answer holds, an event each."""
    lines = re.findall(rb"^data: (\{.*)$", seed.data, re.M) if seed.kind == "sse" else [seed.data]
    return [json.loads(line) for line in lines]


class _Raw:
    """As much of urllib3's response as requests needs: the packets of a body."""

    def __init__(self, pieces):
        self.pieces = pieces

    def stream(self, size, decode_content=None):
        yield from self.pieces

    def close(self):
        pass

    release_conn = close


class _Adapter(BaseAdapter):
    """Answers each request with the same packets."""

    def __init__(self):
        super().__init__()
        self.pieces, self.kind = [], ""

    def send(self, request, **options):
        response = requests.Response()
        response.status_code, response.url, response.request = 200, request.url, request
        response.headers["Content-Type"] = KINDS[self.kind]
        response.raw = _Raw(self.pieces)
        return response

    def close(self):
        pass


class Reader:
    """A client of each dialect that reads packets from memory."""

    def __init__(self):
        self._adapter = _Adapter()
        session = requests.Session()
        session.trust_env = False
        session.mount("http://", self._adapter)
        self._clients = {name: llmlite.Client("m", provider=provider, base_url="http://localhost:1", api_key="a key",
                                              session=session, retry=None, timeout=None,
                                              api="responses" if name == "responses" else "auto")
                         for name, provider in PROVIDERS.items()}

    def read(self, dialect, kind, *pieces):
        """What the packets of an answer come to; whatever is raised and is no LLMError comes through."""
        self._adapter.pieces, self._adapter.kind = pieces, kind
        client, raw, said = self._clients[dialect], dialect in TOKENS, []
        try:
            if kind == "json":
                reply = client.complete("Hi") if raw else client.chat("Hi")
                return Outcome(reply.text, reply, None)
            stream = client.stream_tokens("Hi") if raw else client.stream("Hi")
            for piece in stream:
                said.append(piece.text if raw else piece)
        except llmlite.LLMError as error:
            return Outcome("".join(said), None, error)
        return Outcome("".join(said), stream.response, None)


def check(dialect, found):
    """What holds of every outcome: what was said is what is kept; an error is one line, and pickles."""
    kept = found.reply or found.error.response
    if dialect not in AT_ODDS:
        assert found.text == "" or sorted(found.text) == sorted(kept.text)  # sorted: parts may come in any order
    if found.error is not None:
        assert len(str(found.error).splitlines()) == 1
        assert str(pickle.loads(pickle.dumps(found.error))) == str(found.error)


def cut(data, offsets):
    """The data in packets that end at these offsets."""
    ends = sorted({min(offset, len(data)) for offset in offsets} | {0, len(data)})
    return [data[start:end] for start, end in zip(ends, ends[1:])]


WORDS = (b"\n\n", b"\r", b"\r\n", b"data: ", b"data:", b"event: error\n", b"event: ", b": ", b"[DONE]", b"{", b"}",
         b"[", b"]", b"[[[[", b'"', b"\\u", b"\\ud800", b"null", b"true", b"-1", b"1e400", b"{}", b"[]", b'""',
         b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xff", b"\0", b'"error":', b'"error":{"code":429},', b'"index":',
         b"9" * 400)


def mutated(data, random, others=()):
    """The data after a few random changes: bits, bytes, words that mean something, pieces of other data."""
    data = bytearray(data)
    for _ in range(random.randint(1, 6)):
        at, size = random.randint(0, len(data)), random.choice((1, 1, 2, 8, 40))
        change = random.randrange(7)
        if change == 0 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif change == 1:
            del data[at:at + size]
        elif change == 2:
            data[at:at] = data[at:at + size] * random.choice((1, 2, 20))
        elif change == 3:
            data[at:at + random.choice((0, size))] = random.choice(WORDS)
        elif change == 4 and others:
            other = random.choice(others)
            start = random.randint(0, len(other))
            data[at:at] = other[start:start + random.choice((8, 60, 400))]
        elif change == 5 and not random.randrange(4):
            del data[at:]
        else:
            _swap_value(data, random)
    return bytes(data)


def _swap_value(data, random):
    """Another JSON value where one stands."""
    values = re.finditer(rb'[:,\[]\s*("[^"\n]*"|-?\d+|true|false|null|\{\}|\[\])', bytes(data))
    spots = [found.span(1) for found in values]
    if spots:
        start, end = random.choice(spots)
        data[start:end] = random.choice((b"null", b"0", b"-1", b"7", b'"x"', b'""', b"[]", b"{}", b"[5]", b'{"text":1}',
                                         b"true", b"1e999", b'"\\ud800"', b"9" * 400, data[start:end] * 2))


def packets(data, seed):
    """The data cut into a few packets; the same ones for the same seed."""
    drawn = random.Random(seed)
    return cut(data, [drawn.randint(0, len(data)) for _ in range(drawn.choice((0, 1, 3, 30)))])
