"""The soak's server, a process of its own: fails one request in five, by the seed, and keeps count of what it did.

Prints its port; when its input ends, prints its log as JSON: for each question the faults it was dealt, in order, and
for each of these whether the connection had served a request before.
"""
import json
import random
import sys
import threading
from collections import Counter

from tests import testing

# What befalls a request. "good", "dripped" and "empty" are answers, all the others failures.
CHAT = ("429", "500", "503", "reset before the head", "reset in the body", "cut body", "HTML", "error in a 200",
    "empty",
        "silent", "silent in the body", "broken JSON", "dripped")
STREAM = ("429", "500", "503", "reset before the head", "reset in the body", "cut body", "HTML", "error in a 200",
    "empty",
          "silent", "silent in the body", "torn event", "error in the middle", "cut before the first event", "dripped")
RARE = ("silent", "silent in the body")  # each costs a read timeout


def usage(number):
    """(input, output) tokens of a question's answer."""
    return number % 97 + 1, number % 13 + 1


def answer(number):
    return f"answer {number}"


def pieces(number):
    return ["answer", " ", str(number)]


class Chaos:
    """The handler: what befalls the requests, and the log of it."""

    def __init__(self, seed):
        self.seed, self.lock = seed, threading.Lock()
        self.log = {}
        self.served = Counter()

    def __call__(self, request):
        asked = request.json
        number, streams = int(asked["messages"][0]["content"].split()[-1]), asked.get("stream") is True
        with self.lock:
            dealt = self.log.setdefault(number, [])
            fault = self.deal(number, len(dealt), streams)
            dealt.append((fault, self.served[request.connection] > 0))
            self.served[request.connection] += 1
        return play(fault, number, streams, testing.shape_of(request))

    def deal(self, number, attempt, streams):
        """The fault of a question's attempt: the same for the same seed."""
        dice = random.Random(f"{self.seed}/{number}/{attempt}")
        if dice.random() >= 0.2:
            return "good"
        fault = dice.choice(STREAM if streams else CHAT)
        return fault if fault not in RARE or dice.random() < 0.2 else "500"


def play(fault, number, streams, shape):
    """The reply that a fault is."""
    good = testing.stream(pieces(number), usage=usage(number), framing="chunked")
    parts = good.content(shape).pieces
    kind = "text/event-stream" if streams else "application/json"
    begun = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    half = b"".join(parts[:3]) if streams else parts[0][:len(parts[0]) // 2]
    half = b"%x\r\n%b\r\n" % (len(half), half)
    if fault in ("429", "500", "503"):
        return testing.error(int(fault), retry_after=0.01 if fault == "429" else None)
    replies = {
        "good": good,
        "dripped": testing.stream(pieces(number), usage=usage(number), framing="chunked", split=97, gap=0.002),
        "empty": testing.stream([], usage=usage(number)),
        "reset before the head": testing.raw(testing.RESET),
        "reset in the body": testing.raw(begun + half, 0.01, testing.RESET),
        "cut body": testing.raw(begun + half),
        "cut before the first event": testing.raw(begun + b"5\r\ndata:\r\n"),
        "HTML": testing.body(b"<html>Sign in</html>", headers={"Content-Type": "text/html"}),
        "error in a 200": testing.json_body({"error": {"message": "overheated", "type": "server_error"}}),
        "error in the middle": testing.sse([*parts[:3], 'data: {"error": {"message": "overheated"}}\n\n']),
        "torn event": testing.sse([*parts[:3], 'data: {"choices": [{"del\n\n', *parts[3:]]),
        "broken JSON": testing.body(parts[0][:-3], headers={"Content-Type": "application/json"}),
        "silent": testing.raw(testing.STALL),
        "silent in the body": testing.raw(begun + half, testing.STALL)}
    return replies[fault]


def main():
    chaos = Chaos(int(sys.argv[1]))
    with testing.Server() as server:
        server.handle(chaos)
        print(server.port, flush=True)
        sys.stdin.read()
        server.wait_idle(5)
    print(json.dumps({"log": chaos.log, "requests": len(server.requests), "connections": server.connections}))


if __name__ == "__main__":
    main()
