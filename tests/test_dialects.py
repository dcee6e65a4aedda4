"""What is the same on every dialect: the exact JSON sent, the exact Response read from each body and stream, errors."""
import pytest

from tests import llmlite
from tests.dialects import CALLS, FAST, REPLIES, Column, both, check_reply, drained
from tests.dialects.anthropic import ANTHROPIC
from tests.dialects.gemini import GEMINI
from tests.dialects.openai import DEEPSEEK, MISTRAL, OPENAI
from tests.dialects.responses import RESPONSES

COLUMNS = (OPENAI, RESPONSES, ANTHROPIC, GEMINI)
SERVERS = (MISTRAL, DEEPSEEK)  # which are asked in words of their own


def each(rows, columns=COLUMNS):
    """The cells of a column: its provider's name and the row's make a test's."""
    return [pytest.param(column, cell, id=f"{column.name}-{cell if isinstance(cell, str) else at}")
            for column in columns for at, cell in enumerate(rows(column))]


@pytest.mark.parametrize("column, row", each(Column.calls, COLUMNS + SERVERS))
def test_request(server, column, row):
    """The whole body of a chat and of a stream, its path and its headers."""
    call, body = column.calls()[row]
    server.reply('{"x": 1}', times=2)
    with column.client(server) as llm:
        llm.chat(**{"messages": "hi", **call})
        list(llm.stream(**{"messages": "hi", **call}))
    chat, stream = server.requests
    assert chat.json == {**column.body, **body}
    assert stream.json == {**column.body, **body, **column.streamed}
    assert (chat.path, stream.path) == (column.path, column.stream_path or column.path)
    for request in server.requests:
        assert (request.method, request.headers["content-type"]) == ("POST", "application/json")
        assert {name: request.headers.get(name) for name in column.headers} == column.headers
        assert ("authorization" in request.headers) == ("authorization" in column.headers)


@pytest.mark.parametrize("column, row", each(Column.replies))
def test_reply(server, column, row):
    """A body and the stream of it give the same Response, field for field; the pieces make it up."""
    with column.client(server) as llm:
        check_reply(server, llm, *column.replies()[row])


def test_no_cell_is_empty():
    """Each dialect has all rows, but for those that it refuses."""
    for column in COLUMNS:
        assert CALLS.keys() - column.sent.keys() == set(column.lacks) and REPLIES.keys() <= column.said.keys()


@pytest.mark.parametrize("column, raw", each(lambda column: column.finishes))
def test_finish_reasons(server, column, raw):
    """Each word for how an answer ended under its canonical name."""
    body, events = column.hi(raw)
    server.json(body)
    server.sse(events)
    finish = column.finishes[raw]
    with column.client(server) as llm:
        for answer in both(llm):
            assert (answer.finish_reason, answer.raw_finish_reason, answer.text) == (finish, raw, "Hi")
            assert answer.truncated == (finish == "length")


@pytest.mark.parametrize("column, usage", each(lambda column: column.usages))
def test_usage(server, column, usage):
    """All that is billed is counted once, wherever the provider counts it; the ledger has the same."""
    told, counted = usage
    server.json(column.hi(None, usage=told)[0])
    with column.client(server) as llm:
        assert llm.chat("hi").usage == llm.ledger.usage == counted


@pytest.mark.parametrize("finish, words", [("length", "cut at the token limit"),
                                           ("content_filter", "cut by the content filter")])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_an_answer_cut_in_its_calls(server, column, count, finish, words):
    """What cuts the answer is its finish reason, and the last call is invalid, though its arguments be JSON."""
    raw = next(raw for raw, ours in column.finishes.items() if ours == finish)
    body, events = column.calling(raw, count)
    server.json(body)
    server.sse(events)
    with column.client(server) as llm:
        for answer in both(llm):
            assert (answer.finish_reason, answer.truncated) == (finish, finish == "length")
            assert [call.invalid for call in answer.tool_calls] == [None] * (count - 1) + [words]


@pytest.mark.parametrize("how", ["chat", "stream"])
@pytest.mark.parametrize("column, told", each(lambda column: column.errors))
def test_errors(server, column, told, how):
    """Each error under its class and with its words, tried again or not."""
    status, body, kind, attempts = told
    server.json(body, status=status, times=None)
    with column.client(server, FAST) as llm, pytest.raises(llmlite.APIError) as caught:
        getattr(llm, how)("hi")
    error, said = caught.value, body["error"]
    assert (type(error).__name__, error.status_code, error.message) == (kind, status, said["message"])
    assert error.type == said.get("type", said.get("status"))
    assert (error.attempts, len(server.requests)) == (attempts, attempts)


@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("column, late", each(lambda column: column.late))
def test_late_errors(server, column, late, framing):
    """After the first event an error is a StreamError, not tried again, with what had come."""
    told, kind, status = late
    server.sse([*column.said["text"][1][:-column.ending], told], framing=framing)
    with column.client(server, FAST) as llm, pytest.raises(llmlite.StreamError, match="no") as caught:
        drained(llm.stream("hi"))
    error = caught.value
    assert (type(error.last_error).__name__, error.last_error.status_code) == (kind, status)
    assert (error.response.text, len(server.requests)) == ("Hi there", 1)


@pytest.mark.parametrize("column, late", each(lambda column: column.late))
def test_errors_as_the_first_event(server, column, late):
    """The same as a stream's first event is that error, and tried again: nothing had been handed on."""
    told, kind, status = late
    server.sse([told])
    with column.client(server) as llm, pytest.raises(llmlite.APIError) as caught:
        llm.stream("hi")
    assert (type(caught.value).__name__, caught.value.status_code) == (kind, status)
    server.sse([told])
    server.sse(column.said["text"][1])
    with column.client(server, FAST) as llm:
        assert drained(llm.stream("hi")).text == "Hi there"
