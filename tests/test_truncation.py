"""Streams cut at every single byte: never a success before the finish reason, never a lost or an invented word."""
import contextlib
import json
import re
import socket
import threading

import pytest

from tests import llmlite

SSE = {"Content-Type": "text/event-stream"}
CLOSED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def data(event, end="\n\n", name=""):
    """An event and how many of its bytes hold its data."""
    written = f"{name}data: {event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)}".encode()
    return written + end.encode(), len(written)


def openai(delta=None, finish=None, **more):
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return data({"id": "c", "choices": choices, **more})


def anthropic(kind, **fields):
    return data({"type": kind, **fields}, name=f"event: {kind}\n")


def delta(index, kind, **fields):
    return anthropic("content_block_delta", index=index, delta={"type": kind, **fields})


def item(kind, index, **fields):
    return data({"type": f"response.{kind}", "output_index": index, **fields}, name=f"event: response.{kind}\n")


def gemini(*parts, **more):
    return data({"candidates": [{"content": {"parts": list(parts)}, **more}], "usageMetadata": {"promptTokenCount": 3}},
                "\r\n\r\n")


def raw(text, finish=None, **more):
    return data({"choices": [{"index": 0, "text": text, "finish_reason": finish, **more}]})


def native(text, stop=False, **more):
    return data({"content": text, "tokens": [7], "stop": stop, **more})


GR, GOTT = "Gr\u00fc\u00df", " Gott\u2028"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
CALL = {"index": 0, "id": "call_1", "function": {"name": "f", "arguments": '{"x"'}}
MORE = {"index": 0, "function": {"arguments": ":1}"}}
LIST = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": GR}]
DONE = data("[DONE]")
FUNCTION = {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f"}
# Each row: an event, the text it adds, "finish" where the finish reason stands in it.
STREAMS = {
    "openai": [(openai({"role": "assistant", "content": ""}), ""), (openai({"content": GR}), GR),
               (openai({"content": GOTT}), GOTT), (openai({"tool_calls": [CALL]}), ""),
               (openai({"tool_calls": [MORE]}), ""), (openai({}, "tool_calls"), "", "finish"),
               (openai(usage=USAGE), ""), (DONE, "")],
    "deepseek": [(openai({"reasoning_content": "hm", "content": None}), ""), (openai({"content": GR}), GR),
                 (openai({"tool_calls": [CALL]}), ""), (openai({"tool_calls": [MORE]}), ""),
                 (openai({"content": ""}, "tool_calls", usage=USAGE), "", "finish"), (DONE, "")],
    "mistral": [(openai({"role": "assistant", "content": ""}), ""), (openai({"content": LIST}), GR),
                (openai({"content": GOTT}), GOTT),
                (openai({"tool_calls": [{"id": "aB3dE6gH9", "function": {"name": "f", "arguments": '{"x":1}'}}]},
                        "tool_calls", usage=USAGE), "", "finish"), (DONE, "")],
    "anthropic": [(anthropic("message_start", message={"id": "m", "content": [], "usage": {"input_tokens": 3}}), ""),
                  (anthropic("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}), ""),
                  (delta(0, "thinking_delta", thinking="hm"), ""), (anthropic("ping"), ""),
                  (anthropic("content_block_start", index=1, content_block={"type": "text", "text": ""}), ""),
                  (delta(1, "text_delta", text=GR), GR),
                  (anthropic("content_block_start", index=2, content_block={
                      "type": "tool_use", "id": "t", "name": "f", "input": {}}), ""),
                  (delta(2, "input_json_delta", partial_json='{"x":1}'), ""),
                  (anthropic("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 2}), "",
                   "finish"), (anthropic("message_stop"), "")],
    "responses": [(data({"type": "response.created", "response": {"id": "r", "output": []}}), ""),
                  (item("reasoning_summary_text.delta", 0, summary_index=0, delta="hm"), ""),
                  (item("output_item.added", 1, item={"id": "m", "type": "message", "content": []}), ""),
                  (item("output_text.delta", 1, content_index=0, delta=GR), GR),
                  (item("output_text.delta", 1, content_index=0, delta=GOTT), GOTT),
                  (item("output_item.added", 2, item={**FUNCTION, "arguments": ""}), ""),
                  (item("function_call_arguments.delta", 2, delta='{"x":1}'), ""),
                  (item("output_item.done", 2, item={**FUNCTION, "arguments": '{"x":1}'}), ""),
                  (data({"type": "response.completed", "response": {"id": "r", "status": "completed", "output": [],
                         "usage": {"input_tokens": 3, "output_tokens": 2}}}), "", "finish")],
    "gemini": [(gemini({"text": "hm", "thought": True}), ""), (gemini({"text": GR}), GR),
               (gemini({"functionCall": {"name": "f", "args": {"x": 1}}, "thoughtSignature": "c2ln"}), ""),
               (gemini({"text": GOTT}, finishReason="STOP"), GOTT, "finish")],
    "vllm": [(raw(GR, token_ids=[7], prompt_token_ids=[1]), GR), (raw(GOTT, token_ids=[8]), GOTT),
             (raw("", "stop", token_ids=[2]), "", "finish"), (data({"choices": [], "usage": USAGE}), ""), (DONE, "")],
    "llamacpp": [(native(GR), GR), (native(GOTT), GOTT),
                 (native("", True, stop_type="eos", tokens_predicted=2), "", "finish")],
}
TOKENS = ("vllm", "llamacpp")
CHUNKED = ("openai", "responses", "anthropic")


class Cuts:
    """What each cut of a stream may come to: offsets, and the text after each event."""

    def __init__(self, name):
        self.events, self.last = [], []  # (where its data ends, where it ends, the text so far)
        self.wire, self.finish, text, at = b"", None, "", 0
        for (written, size), adds, *mark in STREAMS[name]:
            text += adds
            self.events.append((at + size, at + len(written), text))
            if mark:
                self.finish = at + size
            at += len(written)
            self.wire += written
        self.text = text

    def after(self, size, whole):
        """The text of the events whose data (or, `whole`, whose blank line too) came with the first `size` bytes."""
        return next((text for data, end, text in reversed(self.events) if (end if whole else data) <= size), "")

    def chunked(self):
        """The same stream a chunk an event: (wire bytes, how many of the stream's bytes each prefix holds)."""
        wire, held, start = b"", [0], 0
        for _, end, _ in self.events:
            piece = self.wire[start:end]
            size = b"%x\r\n" % len(piece)
            wire += size + piece + b"\r\n"
            held += [start] * len(size) + list(range(start + 1, end + 1)) + [end] * 2
            start = end
        return wire + b"0\r\n\r\n", held


def read(llm, tokens):
    """What a stream comes to: pieces, and the Response or the error."""
    pieces = []
    try:
        stream = llm.stream_tokens("Hi") if tokens else llm.stream("Hi")
        for piece in stream:
            pieces.append(piece.text if tokens else piece)
    except llmlite.LLMError as error:
        return "".join(pieces), None, error
    return "".join(pieces), stream.response, None


def client(url, name):
    provider, api = ("openai", name) if name == "responses" else (name, "auto")
    return llmlite.Client("m", provider=provider, base_url=url, api_key="k", retry=None, api=api)


@contextlib.contextmanager
def answering(answer):
    """The address of a peer that sends each request what `answer()` gives, and closes: thousands cost it little."""
    over = False

    def serve():
        while not over:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):  # the client may be gone
                if is_whole(connection):
                    connection.sendall(answer())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, name="answering")
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            over = True
            socket.create_connection(listener.getsockname()).close()  # wakes it
            thread.join()


def is_whole(connection):
    """Read a request; whether all of it came."""
    connection.settimeout(10)
    data, size = b"", None
    while size is None or len(data) < size:
        part = connection.recv(65536)
        data += part
        if not part:
            return False
        if size is None and b"\r\n\r\n" in data:
            size = data.index(b"\r\n\r\n") + 4 + int(re.search(rb"(?i)\r\ncontent-length: *(\d+)", data)[1])
    return True


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_cut_at_every_byte(name):
    """Ended by a close that looks clean: an error with all that had come, or, once the finish reason is here, whole."""
    cuts, sent = Cuts(name), []
    with answering(lambda: CLOSED + cuts.wire[:sent[-1]]) as url, client(url, name) as llm:
        for size in range(len(cuts.wire) + 1):
            sent.append(size)
            text, reply, error = read(llm, name in TOKENS)
            assert text == cuts.after(size, whole=False), size
            if size < cuts.events[0][0]:
                assert type(error) is llmlite.ResponseError, size
            elif size < cuts.finish:
                assert type(error) is llmlite.TruncatedStreamError, (size, error)
                assert (error.response.text, error.response.finish_reason) == (text, None), size
            else:
                check_finished(cuts, size, reply, error)
    assert reply is not None and reply.text == cuts.text


def check_finished(cuts, size, reply, error):
    """The finish reason is here: the reply is whole, or a torn event behind it is told as one."""
    assert (reply or error.response).text == cuts.text, size
    assert (reply or error.response).finish_reason in ("stop", "tool_calls"), size
    assert reply or type(error) is llmlite.TruncatedStreamError, size
    inside = not any(data <= size <= end for data, end, _ in cuts.events)
    assert reply or inside, f"cut between events at {size}: {error}"


@pytest.mark.parametrize("name", CHUNKED)
def test_a_chunked_stream_cut_at_every_byte(name):
    """The same inside chunked framing, where the cut shows: never a success before the finish reason.

    Every byte of the framing and of an event's ends, and every fourth of what is between, which the test above has.
    """
    cuts, sent = Cuts(name), []
    wire, held = cuts.chunked()
    near = {at + beside for _, end, _ in cuts.events for at in (0, end) for beside in range(-4, 5)}
    with answering(lambda: HEAD + wire[:sent[-1]]) as url, client(url, name) as llm:
        for size, came in enumerate(held):
            if came not in near and size % 4:
                continue
            sent.append(size)
            text, reply, error = read(llm, False)
            assert text in (cuts.after(came, whole=True), cuts.after(came, whole=False)), size
            if came < cuts.finish:
                assert reply is None, size
                assert isinstance(error, (llmlite.StreamError if text else llmlite.LLMError)), size
                assert getattr(error.response, "text", "") == text, size
                assert getattr(error.response, "finish_reason", None) is None, size
            else:
                assert reply is None or reply.text == cuts.text, size
        sent.append(len(wire))
        assert read(llm, False)[1].text == cuts.text


@pytest.mark.parametrize("name", STREAMS)
def test_what_the_whole_stream_says(server, name):
    """The streams above hold what real ones do: text, reasoning, a tool call, usage."""
    server.body(Cuts(name).wire, headers=SSE, framing="close")
    _, reply, _ = read(client(server.url, name), name in TOKENS)
    if name not in TOKENS:
        assert [(call.name, call.arguments) for call in reply.tool_calls] == [("f", {"x": 1})]
    if name in ("deepseek", "mistral", "anthropic", "gemini", "responses"):
        assert reply.reasoning == "hm"
    assert reply.usage.total_tokens > 0
