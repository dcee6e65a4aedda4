"""A server that is never the bottleneck: a thread a connection, answers made ahead, sent in large pieces.

The address says what is wanted, so that every client can be pointed at it by its base URL alone:

    /KIND/SHAPE/COUNT/FRAMING/...     such as /text/openai/5000/chunked/v1/chat/completions

KIND is call (one body), text, reasoning, tools (streams), tick (a stream with an event each 5 ms, which holds the time
it was sent); SHAPE is openai, responses, anthropic or gemini; FRAMING is chunked (an HTTP chunk for each event) or
closed. KIND paced is a call that a bucket named COUNT must grant; FRAMING is what the server tells of it (see Bucket).
KIND granted is what the bucket COUNT has done.
Run as `server.py [CORE]` it prints its port, and ends when its standard input does.
"""
from __future__ import annotations

import functools
import json
import math
import os
import socket
import sys
import threading
import time
from typing import Dict, List

BLOCK = 256  # events in one send, about 64 KiB
TICK = 0.005  # seconds
RATE, BURST = 50, 10  # what a bucket grants: requests a second, and at once
HEADERS = b"".join(line + b"\r\n" for line in (
    b"date: Fri, 20 Nov 2026 12:00:00 GMT", b"server: cloudflare", b"x-request-id: req_011CUxyzabcdefghijklmnop",
    b"openai-organization: example-org", b"openai-processing-ms: 412", b"openai-version: 2020-10-01",
    b"x-ratelimit-limit-requests: 10000", b"x-ratelimit-remaining-requests: 9999", b"x-ratelimit-reset-requests: 6ms",
    b"strict-transport-security: max-age=31536000; includeSubDomains", b"x-content-type-options: nosniff",
    b"cf-ray: 8f2c5d2b9c1a2b3c-FRA"))
ANSWER = ("The sky is blue because air scatters short wavelengths more than long ones. " * 8).strip()
PROSE = " and so the light that reaches us from all over the sky, away from the sun, is the blue that air sent astray,"
ABOUT = '"created":1760000000,"model":"gpt-5-mini","system_fingerprint":"fp_44709d6fcb"'
USAGE = '"usage":{"prompt_tokens":12,"completion_tokens":200,"total_tokens":212}'
GOOGLE = ('"usageMetadata": {"promptTokenCount": 12, "totalTokenCount": 12}, "modelVersion": "gemini-3-flash", '
          '"responseId": "aB3dE5fG"')
BODIES = {  # about 1 KB each
    "openai": '{"id":"chatcmpl-C1x2y3z4","object":"chat.completion",' + ABOUT + ',"choices":[{"index":0,"message":'
              '{"role":"assistant","content":"' + ANSWER + '","refusal":null,"annotations":[]},"logprobs":null,'
              '"finish_reason":"stop"}],' + USAGE + "}",
    "anthropic": '{"id":"msg_01XF","type":"message","role":"assistant","model":"claude","content":[{"type":"text",'
                 '"text":"' + ANSWER + '"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":12,'
                 '"output_tokens":200,"cache_read_input_tokens":0}}',
    "responses": '{"id":"resp_1","object":"response","status":"completed","model":"m","output":[{"id":"msg_1",'
                 '"type":"message","role":"assistant","content":[{"type":"output_text","annotations":[],"text":"'
                 + ANSWER + '"}]}],"usage":{"input_tokens":12,"output_tokens":200,"total_tokens":212}}',
    "gemini": '{"candidates": [{"content": {"parts": [{"text": "' + ANSWER + '"}], "role": "model"}, '
              '"finishReason": "STOP", "index": 0}], ' + GOOGLE + "}"}
REFUSAL = '{"error":{"code":429,"type":"requests","status":"RESOURCE_EXHAUSTED","message":"Rate limit reached"}}'
EVENTS = {  # about 250 bytes each, once filled: with a delta, with text, with text
    "openai": 'data: {"id":"chatcmpl-C1x2y3z4w5v6u7t8s9r0q1p2","object":"chat.completion.chunk",' + ABOUT
              + ',"choices":[{"index":0,"delta":%s,"logprobs":null,"finish_reason":null}]}\n\n',
    "anthropic": 'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":'
                 '"text_delta","text":"%s"}    }\n\n',
    "responses": 'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":4,'
                 '"item_id":"msg_68af0d1c2b3a4e5f","output_index":0,"content_index":0,"delta":"%s","logprobs":[],'
                 '"obfuscation":"aZ3kQ9xYp1"}\n\n',
    "gemini": 'data: {"candidates": [{"content": {"parts": [{"text": "%s"}], "role": "model"}, "index": 0}], '
              + GOOGLE + "}\r\n\r\n"}
STOP = EVENTS["openai"].replace("%s", "{}").replace('"finish_reason":null', '"finish_reason":"stop"')
CALL = ('{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"add",'
        '"arguments":"{\\"digits\\": \\""}}]}')
ARGUMENTS = '{"tool_calls":[{"index":0,"function":{"arguments":"%s"}}]}'
FIRST = {  # what comes before the many events, and after them
    "openai": [EVENTS["openai"] % '{"role":"assistant","content":""}'], "gemini": [], "responses": [
        'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1","status":"in_progress",'
        '"output":[]}}\n\n', 'event: response.output_item.added\ndata: {"type":"response.output_item.added",'
        '"output_index":0,"item":{"id":"msg_68af0d1c2b3a4e5f","type":"message","content":[]}}\n\n'], "anthropic": [
        'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_01X","type":"message",'
        '"role":"assistant","model":"claude","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":12,'
        '"output_tokens":1}}}\n\n', 'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
        '"content_block":{"type":"text","text":""}}\n\n']}
LAST = {
    "openai": [STOP, 'data: {"id":"chatcmpl-C1","object":"chat.completion.chunk",' + ABOUT + ',"choices":[],' + USAGE
               + "}\n\n", "data: [DONE]\n\n"],
    "anthropic": ['event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
                  'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn",'
                  '"stop_sequence":null},"usage":{"output_tokens":200}}\n\n',
                  'event: message_stop\ndata: {"type":"message_stop"}\n\n'],
    "responses": ['event: response.completed\ndata: {"type":"response.completed","response":'
                  '{"id":"resp_1","status":"completed","output":[],"usage":{"input_tokens":12,"output_tokens":200}}}\n\n'],
    "gemini": [EVENTS["gemini"].replace('"index": 0', '"finishReason": "STOP", "index": 0') % "."]}
FIRST["tools"] = [*FIRST["openai"], EVENTS["openai"] % CALL]
LAST["tools"] = [EVENTS["openai"] % ARGUMENTS % '\\"}', STOP.replace('"stop"', '"tool_calls"'), *LAST["openai"][1:]]


def piece(kind: str, shape: str, at: int) -> str:
    """One of the many events in the middle of a stream."""
    text = f"{time.monotonic():.9f}" if kind == "tick" else f" word {at % 1000:03d} of many"
    if shape == "openai":
        delta = {"tools": ARGUMENTS % (at % 10), "reasoning": f'{{"reasoning_content":"{text}"}}'}
        return EVENTS[shape] % delta.get(kind, f'{{"content":"{text}"}}')
    return EVENTS[shape] % (text + (PROSE if shape == "anthropic" else ""))


def framed(events: List[str], framing: str) -> bytes:
    """Events (in ASCII) as they stand in the body."""
    return "".join(events if framing == "closed" else [f"{len(event):x}\r\n{event}\r\n" for event in events]).encode()


@functools.lru_cache(None)
def block_of(kind: str, shape: str, framing: str, count: int) -> bytes:
    """So many pieces on end."""
    return framed([piece(kind, shape, at) for at in range(count)], framing)


@functools.lru_cache(None)
def whole_answer(shape: str) -> bytes:
    """Head and body of an answer to a call."""
    reply = BODIES[shape].encode()
    return b"HTTP/1.1 200 OK\r\n%scontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        HEADERS, len(reply), reply)


def send_stream(sock: socket.socket, kind: str, shape: str, count: int, framing: str) -> None:
    """The head and the first events at once, then the many, then the last."""
    ends = "tools" if kind == "tools" else shape
    how = b"connection: close" if framing == "closed" else b"transfer-encoding: chunked"
    head = b"HTTP/1.1 200 OK\r\n%scontent-type: text/event-stream\r\n%s\r\n\r\n" % (HEADERS, how)
    sock.sendall(head + framed(FIRST[ends], framing) + (b"" if kind == "tick" else block_of(kind, shape, framing, 1)))
    if kind == "tick":
        for at in range(count):
            time.sleep(TICK)
            sock.sendall(framed([piece(kind, shape, at)], framing))
    else:
        whole, rest = divmod(count - 1, BLOCK)
        for _ in range(whole):
            sock.sendall(block_of(kind, shape, framing, BLOCK))
        sock.sendall(block_of(kind, shape, framing, rest))
    sock.sendall(framed(LAST[ends], framing) + (b"" if framing == "closed" else b"0\r\n\r\n"))


class Bucket:
    """A token bucket, which tells its callers what `mode` says.

    seconds: a refusal has Retry-After, in whole seconds; ms: retry-after-ms; nothing: nothing; headers: as seconds, and
    every answer has x-ratelimit-limit-, -remaining- and -reset-requests. After "-10" it grants half as many a second
    from 10 s on, and as before from 20 s on.
    """

    def __init__(self, mode: str) -> None:
        self.lock = threading.Lock()
        self.mode, _, change = mode.partition("-")
        self.change = float(change or "inf")
        self.level, self.granted, self.refused = float(BURST), [], []  # type: float, List[float], List[float]
        self.begun, self.at = time.monotonic(), 0.0

    def rate(self) -> float:
        """What it grants a second now."""
        return RATE / 2 if self.change <= self.at < 2 * self.change else RATE

    def answer(self, shape: str) -> bytes:
        """Head and body of the answer to a call that comes now."""
        with self.lock:
            before, self.at = self.at, time.monotonic() - self.begun
            self.level = min(BURST, self.level + (self.at - before) * self.rate())
            good = self.level >= 1
            self.level -= good
            (self.granted if good else self.refused).append(self.at)
            told = b"".join(line.encode() + b"\r\n" for line in self.told(good))
        reply = (BODIES[shape] if good else REFUSAL).encode()
        status = b"200 OK" if good else b"429 Too Many Requests"
        return b"HTTP/1.1 %s\r\n%scontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
            status, told, len(reply), reply)

    def told(self, good: bool) -> List[str]:
        """The headers about the pace."""
        wait, lines = (1 - self.level) / self.rate(), []
        if self.mode == "headers":
            lines = [f"x-ratelimit-limit-requests: {BURST}", f"x-ratelimit-remaining-requests: {int(self.level)}",
                     f"x-ratelimit-reset-requests: {math.ceil((BURST - self.level) / self.rate() * 1000)}ms"]
        if not good and self.mode in ("seconds", "headers"):
            lines.append(f"retry-after: {math.ceil(wait)}")
        if not good and self.mode == "ms":
            lines.append(f"retry-after-ms: {math.ceil(wait * 1000)}")
        return lines

    def seen(self) -> bytes:
        """When it granted and refused, in seconds since the first call."""
        with self.lock:
            reply = json.dumps({"granted": self.granted, "refused": self.refused}).encode()
        return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
            len(reply), reply)


BUCKETS: Dict[str, Bucket] = {}  # by name
LOCK = threading.Lock()


def read_request(sock: socket.socket, buffer: bytearray) -> List[str]:
    """The parts of the next request's path, its body thrown away; empty when the client has gone."""
    view = memoryview(buffer)
    got, end = 0, -1
    while end < 0:
        count = sock.recv_into(view[got:])
        if not count:
            return []
        got += count
        end = buffer.find(b"\r\n\r\n", 0, got)
    head = bytes(view[:end])
    at = head.lower().find(b"content-length:")
    left = int(head[at + 15:].split(b"\r\n", 1)[0]) - (got - end - 4) if at > 0 else 0
    while left > 0:
        left -= sock.recv_into(view, min(left, len(buffer))) or left
    return head.split(b" ", 2)[1].decode().split("/")


def serve(sock: socket.socket) -> None:
    """One connection, to its end."""
    buffer = bytearray(1 << 18)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            path = read_request(sock, buffer)
            if not path:
                break
            kind, shape, count, framing = path[1:5]
            if kind == "call":
                sock.sendall(whole_answer(shape))
                continue
            if kind in ("paced", "granted"):
                with LOCK:
                    bucket = BUCKETS.get(count) or BUCKETS.setdefault(count, Bucket(framing))
                sock.sendall(bucket.answer(shape) if kind == "paced" else bucket.seen())
                continue
            send_stream(sock, kind, shape, int(count), framing)
            if framing == "closed":
                break
    except OSError:  # the client has gone
        pass
    finally:
        sock.close()


def main() -> None:
    """Serve until standard input ends."""
    if sys.argv[1:]:
        os.sched_setaffinity(0, {int(sys.argv[1])})
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
