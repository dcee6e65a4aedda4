"""The paced server of the benchmarks, and what is made of what it says."""
import json
import os
import subprocess
import sys
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests import VENDORED
from tests.benchmarks import server

pytestmark = pytest.mark.skipif(VENDORED or os.name != "posix", reason="the benchmarks, which need a Unix")


@pytest.fixture(scope="module")
def url():
    command = [sys.executable, server.__file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()


def asked(url):
    """Status, headers and body."""
    try:
        answer = urlopen(url, timeout=5)
    except HTTPError as error:
        answer = error
    with answer:
        return answer.code, answer.headers, json.loads(answer.read().decode())


def refused(url, mode):
    """The headers of the first refusal, after as many calls as the bucket holds."""
    codes = []
    while 429 not in codes and len(codes) < 1000:
        code, headers, _ = asked(f"{url}/paced/openai/{mode}/{mode}/x")
        codes.append(code)
    assert codes[:server.BURST] == [200] * server.BURST and codes[-1] == 429
    return headers


@pytest.mark.parametrize("mode, names", [
    ("seconds", {"retry-after"}), ("ms", {"retry-after-ms"}), ("nothing", set()),
    ("headers", {"retry-after"} | {f"x-ratelimit-{name}-requests" for name in ("limit", "remaining", "reset")})])
def test_what_a_refusal_says(url, mode, names):
    """In each mode the headers of that mode, and no others of the kind."""
    headers = refused(url, mode)
    assert {name.lower() for name in headers} - {"content-type", "content-length"} == names
    assert headers.get("retry-after", "1") == "1"
    assert 1 <= int(headers.get("retry-after-ms", 1)) <= 20


def test_good_answers_say_what_is_left(url):
    """The bucket holds 10; the 20 ms to the next are told as a Go duration."""
    code, headers, body = asked(f"{url}/paced/anthropic/left/headers/x")
    assert (code, body["type"]) == (200, "message")
    assert headers["x-ratelimit-limit-requests"] == "10"
    assert headers["x-ratelimit-remaining-requests"] == "9"
    assert headers["x-ratelimit-reset-requests"] == "20ms"


def test_what_was_granted(url):
    """A client can ask what its own bucket has granted and refused, and when."""
    for name in ("mine", "mine", "another"):
        asked(f"{url}/paced/openai/{name}/nothing/x")
    seen = asked(f"{url}/granted/any/mine/any")[2]
    assert len(seen["granted"]) == 2 and seen["refused"] == []
    assert 0 <= seen["granted"][0] < seen["granted"][1] < 5


def test_a_grant_that_changes():
    """Half as many from the change on, as many as before after twice the time."""
    bucket, rates = server.Bucket("seconds-10"), []
    for bucket.at in (9.9, 10, 19.9, 20):
        rates.append(bucket.rate())
    assert rates == [server.RATE, server.RATE / 2, server.RATE / 2, server.RATE]
    assert server.Bucket("seconds").rate() == server.RATE


def test_followed():
    """The end of the first two seconds that are near the new rate."""
    from tests.benchmarks.__main__ import followed, share  # not on Windows
    slow, fast = [n / 10 for n in range(100)], [n / 50 for n in range(500)]
    assert share(fast, 2, 8, 50) == pytest.approx(1, abs=0.01)
    assert followed(fast, 0, 10, 50) == 2
    assert followed(slow, 0, 10, 50) == 10
    assert followed(slow[:30] + [at for at in fast if at >= 3], 0, 10, 50) == pytest.approx(4.5, abs=0.2)
