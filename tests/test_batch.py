"""Many prompts as files: what is read, what is sent, what is written, and what a second run makes of it."""
import array
import concurrent.futures
import contextlib
import inspect
import io
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from llmlite import batch
from llmlite.batch import InputError
from tests import VENDORED, llmlite, testing
from tests.beside import soon, within

pytestmark = pytest.mark.skipif(VENDORED, reason="batches are no part of client.py")

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX's files, limits and signals")
ONCE = llmlite.RetryPolicy(max_retries=0, rate_limit_max_retries=0)


def echo(request):
    """The last message back, upside down; "fail ..." is refused."""
    text = request.json["messages"][-1]["content"]
    if text.startswith("fail"):
        return testing.error(400, f"no: {text}")
    return testing.reply(text[::-1], usage=(3, 4))


class Place:
    """An input, an output and who is asked."""

    def __init__(self, folder, server):
        self.source, self.output, self.server = str(folder / "in.jsonl"), str(folder / "out.jsonl"), server
        self.llm = llmlite.Client("test", base_url=server.url, retry=ONCE)
        server.handle(echo)

    def write(self, *lines, end="\n"):
        with open(self.source, "wb") as file:
            file.write(b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + end.encode()
                                for line in lines))

    def prompts(self, count):
        self.write(*({"id": f"id-{n}", "prompt": f"prompt {n}"} for n in range(count)))

    def run(self, **options):
        return batch.run(self.source, self.output, **{"client": self.llm, **options})

    def refused(self, **options):
        """The error of a run that sends nothing."""
        before = len(self.server.requests)
        with pytest.raises(llmlite.ConfigurationError) as caught:
            self.run(**options)
        assert len(self.server.requests) == before
        assert "\n" not in str(caught.value)
        return caught.value

    @property
    def bytes(self):
        with open(self.output, "rb") as file:
            return file.read()

    @property
    def lines(self):
        return [json.loads(line) for line in self.bytes.splitlines()]

    @property
    def texts(self):
        return {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in self.lines}

    @property
    def sent(self):
        return [request.json["messages"][-1]["content"] for request in self.server.requests]


@pytest.fixture
def place(tmp_path, server):
    place = Place(tmp_path, server)
    yield place
    place.llm.close()
    assert not [name for name in os.listdir(tmp_path) if name.endswith((".tmp", ".lock"))]


# what is sent


def test_prompts_become_answers(place):
    """Each line is asked once, and its answer stands under its id; the summary counts it all."""
    place.prompts(20)
    summary = place.run(workers=4)
    assert summary[:6] == (20, 20, 0, 0, llmlite.Usage(60, 80), 0) and summary.stopped is None
    assert 0 < summary.elapsed < 20
    assert place.texts == {f"id-{n}": f"prompt {n}"[::-1] for n in range(20)}
    assert sorted(place.sent) == sorted(f"prompt {n}" for n in range(20))


@pytest.mark.parametrize("line, sent", [
    ({"prompt": "a"}, {}),
    ({"prompt": ""}, {"messages": [{"role": "user", "content": ""}]}),
    ({"messages": [{"role": "user", "content": "a"}], "temperature": 0, "model": "other"},
     {"temperature": 0, "model": "other"}),
    ({"prompt": "a", "system": "b", "extra": {"n": 1}, "max_tokens": 5, "top_p": None, "deadline": 20, "timeout": 9},
     {"messages": [{"role": "system", "content": "b"}, {"role": "user", "content": "a"}], "n": 1, "max_tokens": 5}),
    ({"prompt": "a", "headers": {"X-Tag": "1"}, "id": None}, {}),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
     {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}),
    ({"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": {
        "model": "other", "messages": [{"role": "user", "content": "a"}], "temperature": 0.5, "seed": 1}},
     {"model": "other", "temperature": 0.5, "seed": 1}),
    ({"body": {"messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 7, "stream": False,
               "top_p": None, "user": "me", "n": 2}},
     {"max_tokens": 7, "user": "me", "n": 2}),
    ({"body": {"messages": [{"role": "user", "content": "a"}], "logprobs": True, "top_logprobs": 2}},
     {"logprobs": True, "top_logprobs": 2}),
    ({"body": {"messages": [{"role": "user", "content": "a"}], "logprobs": True}}, {"logprobs": True}),
    ({"body": {"messages": [{"role": "user", "content": "a"}], "logprobs": False}}, {}),
    ({"body": {"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "text"}}}, {}),
    ({"body": {"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "grammar"}}},
     {"response_format": {"type": "grammar"}}),
])
def test_what_a_line_asks_for(place, line, sent):
    """A line's fields are arguments of chat(); a body's are those of the same meaning, or go as they are."""
    place.write(line)
    place.run()
    body = place.server.requests[0].json
    assert body == {"model": "test", "messages": [{"role": "user", "content": "a"}], **sent}


@pytest.mark.parametrize("format_, answer, parsed", [
    ({"type": "json_object"}, '{"a": 1}', True),
    ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "required": ["b"]}}},
     '{"a": 1}', False),
])
def test_a_bodys_response_format(place, format_, answer, parsed):
    """It is a schema, also with providers that write it otherwise: an answer that does not fit is a failed line."""
    place.server.handle(lambda request: testing.reply(answer, usage=(1, 1)))
    place.write({"custom_id": "a", "body": {"messages": [{"role": "user", "content": "a"}],
                                            "response_format": format_}})
    assert place.run().failed == (not parsed)
    assert place.server.requests[0].json["response_format"]["type"] == format_["type"]
    line, = place.lines
    assert (line["error"] or {}).get("code") == (None if parsed else "SchemaError")
    assert line["response"]["body"]["choices"][0]["message"]["content"] == answer  # what came is not lost


GIVEN = {"description": "d", "name": "n", "schema": {"type": "object", "properties": {}, "required": [],
                                                     "additionalProperties": False, "title": "t"}}


@pytest.mark.parametrize("more", [{"strict": True}, {"strict": False}, {"strict": None}, {}, {"other": [1]}])
def test_a_bodys_schema_goes_as_it_was_written(place, more):
    """Its name, description and `strict` too, whatever we would have said."""
    given = {"type": "json_schema", "json_schema": {**GIVEN, **more}}
    place.server.handle(lambda request: testing.reply("{}"))
    place.write({"body": {"messages": GOOD, "response_format": given}})
    assert place.run().done == 1
    assert place.server.requests[0].json["response_format"] == given


@pytest.mark.parametrize("where, found", [
    ({"provider": "openai", "api": "responses"}, lambda sent: sent["text"]["format"] == {
        "type": "json_schema", "strict": False, **GIVEN}),
    ({"provider": "anthropic"}, lambda sent: sent["output_config"]["format"]["schema"] == GIVEN["schema"]),
    ({"provider": "gemini"}, lambda sent: sent["generationConfig"]["responseJsonSchema"] == GIVEN["schema"]),
])
def test_a_bodys_schema_at_other_dialects(place, where, found):
    """They get what they have a word for, and nothing else; also from another process."""
    given = {"type": "json_schema", "json_schema": {**GIVEN, "strict": False}}
    place.write({"body": {"messages": GOOD, "response_format": given}})
    url = place.server.url[:-len("/v1")] if where["provider"] == "gemini" else place.server.url
    place.llm = llmlite.Client("m", base_url=url, api_key="sk-test", retry=None, **where)
    place.server.handle(lambda request: testing.reply("no JSON"))
    assert place.run().failed == 1
    sent, = (request.json for request in place.server.requests)
    assert found(sent) and "response_format" not in sent
    schema = pickle.loads(pickle.dumps(batch._schema_of(given)))
    assert schema == GIVEN["schema"] and schema.given == given["json_schema"]


def test_options_are_for_all_lines_and_a_lines_own_win(place):
    """What run() is given holds for each line; `extra` of both is sent."""
    place.write({"prompt": "a"}, {"prompt": "b", "temperature": 1, "extra": {"n": 2}, "model": "mine"})
    place.run(temperature=0, extra={"n": 1, "user": "me"}, model="all", system="s", stop=["x"])
    a, b = sorted((request.json for request in place.server.requests), key=lambda sent: sent["temperature"])
    assert (a["temperature"], a["n"], a["user"], a["model"], a["stop"]) == (0, 1, "me", "all", ["x"])
    assert (b["temperature"], b["n"], b["user"], b["model"]) == (1, 2, "me", "mine")
    assert a["messages"][0] == b["messages"][0] == {"role": "system", "content": "s"}


@pytest.mark.parametrize("more", [{}, {"user": "me"}])
def test_a_bodys_own_win_also_as_none(place, more):
    """A body that asks for text is no matter of the schema for all lines, nor is its null of their temperature."""
    messages = [{"role": "user", "content": "a"}]
    place.write({"body": {"messages": messages, "temperature": None, "response_format": {"type": "text"}, **more}})
    assert place.run(schema={"type": "object"}, temperature=1).done == 1
    assert place.server.requests[0].json == {"model": "test", "messages": messages, **more}


def test_ids(place):
    """Of a line without one it is line-N by the file's own count; a whole number is its digits."""
    place.write({"prompt": "a"}, b"", {"prompt": "b"}, b" \t", {"prompt": "c", "id": 7},
                {"prompt": "d", "custom_id": "x"})
    place.run()
    assert place.texts == {"line-1": "a", "line-3": "b", "7": "c", "x": "d"}


@pytest.mark.parametrize("data", [
    b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n{"prompt": "\xc3\xa4"}\r\n',
    b'{"prompt": "a"}\n\n{"prompt": "\xc3\xa4"}',
    b'  {"prompt" : "a"}  \n \n{"prompt": "\\u00e4", "extra": {"a": {"b": 1}}}\n\n\n',
])
def test_how_lines_end(place, data):
    """A BOM, CRLF, blanks around, blank lines and a missing last line end do no harm."""
    with open(place.source, "wb") as file:
        file.write(data)
    place.run()
    assert place.texts == {"line-1": "a", "line-3": "\u00e4"}


def test_a_long_line(place):
    """A prompt of 16 MiB goes through."""
    place.write({"prompt": "a" * (16 << 20)}, {"prompt": "b"})
    assert place.run().done == 2


def test_nothing_to_ask(place):
    """An empty input is no error."""
    place.write()
    assert place.run()[:4] == (0, 0, 0, 0)
    assert place.bytes == b""


# what is wrong with the input


CHAT = "/v1/chat/completions"
DIGITS = "broken JSON" if hasattr(sys, "set_int_max_str_digits") else "seed"
A_FOLDER = "s a directory" if os.name == "posix" else "ermission denied"
GOOD = [{"role": "user", "content": "a"}]


@pytest.mark.parametrize("line, complaint", [
    (b'{"prompt": "a"', "broken JSON: Expecting ',' delimiter at column 15"),
    (b"{'prompt': 'a'}", "broken JSON: Expecting property name"),
    (b"hello", "broken JSON: no value at column 1 (one object a line)"),
    (b"\x1f\x8b\x08\x00", "byte 2 is not UTF-8 (unpack the file first)"),
    (b'{"prompt": "a"} {"prompt": "b"}', "something follows at column 16 (one object a line)"),
    (b'{"prompt": "a", "temperature": NaN}', "NaN is no JSON"),
    (b'{"prompt": "a", "seed": ' + b"1" * 5000 + b"}", DIGITS),
    (b'{"prompt": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deep"),
    (b'{"prompt": "\xff"}', "byte 13 is not UTF-8 (write the file in UTF-8)"),
    (b'{"prompt": "a", "prompt": "b"}', "the key 'prompt' stands twice"),
    (b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "the key 'content' stands twice"),
    (b"[1]", "a JSON array is no prompt"),
    (b"null", "a JSON null is no prompt"),
    ({"text": "a"}, "unknown field 'text' (give {\"prompt\""),
    ({"id": "a"}, "no prompt"),
    ({"prompt": "a", "temprature": 1}, "unknown field 'temprature' (put it under \"extra\""),
    ({"prompt": "a", "messages": GOOD}, 'both "prompt" and "messages"'),
    ({"prompt": ["a"]}, '"prompt" is [\'a\']'),
    ({"messages": []}, "messages is empty"),
    ({"messages": {"role": "user"}}, "messages[0].content is None"),
    ({"messages": [{"role": "usr", "content": "a"}]}, "messages[0] has role 'usr'"),
    ({"messages": [{"role": ["user"], "content": "a"}]}, "messages[0] has role ['user']"),
    ({"messages": ["a"]}, "messages[0] is a str"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content is a int"),
    ({"prompt": "a", "temperature": "hot"}, "temperature"),
    ({"prompt": "a", "max_tokens": True}, "max_tokens"),
    ({"prompt": "a", "deadline": -1}, "deadline"),
    ({"prompt": "a", "schema": 5}, "schema is 5"),
    ({"prompt": "a", "tools": [5]}, "5"),
    ({"prompt": "a", "id": ""}, "\"id\" is ''"),
    ({"prompt": "a", "id": 1.5}, '"id" is 1.5'),
    ({"prompt": "a", "id": True}, '"id" is True'),
    ({"prompt": "a", "custom_id": "b", "id": "c"}, "unknown field 'id'"),
    ({"body": {"messages": GOOD}, "url": "/v1/embeddings"}, "'POST' '/v1/embeddings' cannot be asked here"),
    ({"body": {"messages": GOOD}, "url": 5}, "'POST' 5 cannot be asked here"),
    ({"body": {"messages": GOOD}, "method": "GET"}, f"(POST {CHAT} can)"),
    ({"url": CHAT}, '"body" is no object with "messages"'),
    ({"body": {"input": "a"}, "url": CHAT}, '"body" is no object with "messages"'),
    ({"body": {"messages": GOOD}, "temperature": 1}, "unknown field 'temperature' beside the body"),
    ({"body": {"messages": GOOD, "stream": True}}, "a batch does not stream"),
    ({"body": {"messages": GOOD, "max_tokens": 1, "max_completion_tokens": 2}}, 'both "max_tokens"'),
    ({"body": {"messages": GOOD, "response_format": {"type": "json_schema"}}}, '"response_format" has no schema'),
])
def test_a_line_that_is_wrong(place, line, complaint):
    """One line that names file, line and what; nothing is sent, and there is no output."""
    place.write({"prompt": "good"}, {"prompt": "good", "max_tokens": 1}, b"", line, {"prompt": "good"})
    error = place.refused()
    assert isinstance(error, InputError)
    assert str(error).startswith(f"{place.source}, line 4: ") and complaint in str(error)
    assert not os.path.exists(place.output)


@pytest.mark.parametrize("lines, complaint", [
    ([{"id": "a", "prompt": "1"}, {"id": "b", "prompt": "2"}, {"id": "a", "prompt": "3"}],
     "line 3: the id 'a' stands in line 1 already"),
    ([{"id": "line-2", "prompt": "1"}, {"prompt": "2"}],
     "line 2: the id 'line-2' stands in line 1 already (a line without an id is called line-N"),
    ([{"id": 5, "prompt": "1"}, {"id": "5", "prompt": "2"}], "the id '5' stands in line 1 already"),
])
def test_an_id_that_stands_twice(place, lines, complaint):
    """It is an error before anything is sent, with both lines."""
    place.write(*lines)
    assert complaint in str(place.refused())


@pytest.mark.parametrize("lines, ids", [
    ([b'{"id": "%d", "prompt": "a%d"}' % (n, n) for n in range(9)], [str(n) for n in range(9)]),
    ([b'{"prompt": "a \\n\\u00e4 \xc3\xa4 %d"}' % n for n in range(9)], [f"line-{n}" for n in range(1, 10)]),
    ([b'{"id":%d,"prompt":"a"}' % n for n in range(9)], [str(n) for n in range(9)]),
    ([b'{"id": "\\u0041%d", "prompt": "a"}' % n for n in range(9)], [f"A{n}" for n in range(9)]),
    ([b'{"id": "\xc3\xa4%d", "prompt": "a"}' % n for n in range(9)], [f"\u00e4{n}" for n in range(9)]),
    ([b'{"prompt": "a", "extra": {"id": "%d"}}' % n for n in range(9)], [f"line-{n}" for n in range(1, 10)]),
    ([b'{"id": "%d", "prompt": "a", "extra": {"id": "x"}}' % n for n in range(9)], [str(n) for n in range(9)]),
    ([b'{"prompt": "\\"id\\": \\"5\\"", "id": "%d"}' % n for n in range(9)], [str(n) for n in range(9)]),
    ([b'{"id": "%d", "prompt": "a", "seed": %d}' % (n, n) for n in range(20)], [str(n) for n in range(20)]),
    ([b'{"id": "%d", "prompt": "%s"}' % (n, b"a" * 20_000) for n in range(4)], [str(n) for n in range(4)]),
])
def test_lines_that_are_much_alike(place, lines, ids):
    """Most of them are not decoded to be checked; their ids are right all the same."""
    place.write(*lines)
    assert place.run().done == len(ids)
    assert sorted(place.texts) == sorted(ids)


@pytest.mark.parametrize("line", [
    b'{"id": "x", "prompt": "a\xff"}', b'{"id": "x", "prompt": "a\\q"}', b'{"id": "x", "prompt": "a\\u00g0"}',
    b'{"id": "x", "prompt": "a\x01"}', b'{"id": "", "prompt": "a"}', b'{"id": "x", "prompt": "a", "prompt": "b"}',
    b'{"id": "x", "prompt": "a"}}', b'{"id": "x", "prompt": "a"', b'{"id": "4", "prompt": "a"}',
    b'{"id": "x", "prompt": "a", "seed": "b"}', b'{"id": "\xff", "prompt": "a"}', b'{"id": "x\x02", "prompt": "a"}'])
def test_a_line_that_is_nearly_like_those_before(place, line):
    """What is wrong with it is found."""
    place.write(*({"id": str(n), "prompt": "a"} for n in range(9)), line)
    assert "line 10: " in str(place.refused())


def test_lines_that_are_all_different(place):
    """Also of very many none is lost."""
    check = batch._Check(place.llm, {})
    place.write(*({"id": str(n), "prompt": "a", "seed": n} for n in range(10_050)))
    with batch.Items(place.source, check) as items:
        items.check()
        assert len(items) == 10_050


def test_many_ids_one_of_them_twice(place):
    """Also where there are so many that they are looked through in parts."""
    place.write(*({"id": f"id-{n}", "prompt": ""} for n in range(300)), {"id": "id-41", "prompt": ""})
    assert "line 301: the id 'id-41' stands in line 42 already" in str(place.refused())


def test_no_model(place, monkeypatch):
    """A client without a model is an error where a line has none, and none where all have."""
    place.llm = llmlite.Client(base_url=place.server.url)
    place.write({"prompt": "a", "model": "m"}, {"prompt": "b"})
    assert "line 2: no model (give -m MODEL" in str(place.refused())
    assert place.run(model="n").done == 2
    assert {request.json["model"] for request in place.server.requests} == {"m", "n"}


def test_a_model_of_another_provider(tmp_path):
    """It is found before anything is sent."""
    llm = llmlite.Client("openai/gpt-5-mini", api_key="sk-test")
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "model": "anthropic/claude"}\n')
    with pytest.raises(InputError, match="line 1: model='anthropic/claude' names a model of another provider"):
        batch.run(tmp_path / "in.jsonl", tmp_path / "out.jsonl", client=llm)


def test_every_option_of_chat_may_be_given():
    """None has the name of another argument."""
    names = set(inspect.signature(batch.run_until).parameters) | set(inspect.signature(batch.run).parameters)
    assert not names & set(inspect.signature(llmlite.Client.chat).parameters)


@pytest.mark.parametrize("options, error, complaint", [
    ({"temprature": 1}, TypeError, "'temprature' is no argument of Client.chat"),
    ({"temperature": "hot"}, llmlite.ConfigurationError, "temperature"),
    ({"deadline": "soon"}, llmlite.ConfigurationError, "deadline"),
    ({"max_total_tokens": 0}, llmlite.ConfigurationError, "max_total_tokens"),
])
def test_options_that_are_wrong(place, options, error, complaint):
    """They are an error at once, not one for each line."""
    place.prompts(3)
    with pytest.raises(error, match=complaint):
        place.run(**options)
    assert not place.server.requests


@pytest.mark.parametrize("name, complaint", [
    ("missing.jsonl", "No such file or directory"), ("", A_FOLDER)])
def test_an_input_that_cannot_be_read(place, tmp_path, name, complaint):
    """An error with its name."""
    place.source = os.path.join(str(tmp_path), name)
    error = place.refused()
    assert isinstance(error, InputError) and place.source in str(error) and complaint in str(error)


@POSIX
def test_an_input_that_cannot_be_read_on(place):
    """An error with its name, too."""
    place.source = "/proc/self/mem"
    if not os.path.exists(place.source):
        pytest.skip("no /proc here")
    assert str(place.refused()) == "/proc/self/mem cannot be read: Input/output error"


@pytest.mark.parametrize("at", [200_000, None])
def test_an_input_that_changes_meanwhile(place, at):
    """What no longer is what was checked is not asked; what was asked before is answered and written."""
    def answer(request):
        with open(place.source, "r+b") as file:
            file.seek(0 if at is None else at, os.SEEK_END if at is None else os.SEEK_SET)
            file.write(b'{"id": "new", "prompt": "new"}\n' if at is None else b'"}\n{"id": "new", "prompt": "')
        return testing.reply("x")

    place.server.handle(answer)
    place.write(*({"id": f"id-{n}", "prompt": f"prompt {n} " + "x" * 9000} for n in range(30)))
    with pytest.raises(InputError, match="line .* has changed since the run began"):
        place.run(workers=1)
    assert len(place.server.requests) == len(place.lines) == (30 if at is None else 23)
    assert all(line["response"]["status_code"] == 200 for line in place.lines)


# what is written


def test_a_key_that_a_server_echoes(place):
    """It is in no line of the output, good or failed."""
    key = "sk-test-secret-0123456789"
    place.server.handle(lambda request: testing.error(400, f"no {key}") if b"bad" in request.body else testing.reply(
        f"your key is {key}"))
    place.write({"id": "good", "prompt": "a"}, {"id": "bad", "prompt": "bad"})
    place.run(client=llmlite.Client("m", base_url=place.server.url, api_key=key, retry=None))
    with open(place.output, encoding="ascii") as file:
        text = file.read()
    assert key not in text and text.count("***") >= 2
    assert sorted(line["custom_id"] for line in place.lines) == ["bad", "good"]


@pytest.mark.parametrize("given, words", [({"workers": 0}, "workers=0"), ({"client": "openai/m"}, "client='openai/m'")])
def test_bad_arguments_at_once(place, given, words):
    """They are refused before a file is touched."""
    place.prompts(1)
    with pytest.raises(llmlite.ConfigurationError, match=words):
        place.run(**given)
    assert not os.path.exists(place.output)


def test_an_output_line(place):
    """It is a line of OpenAI's Batch API, in ASCII, with all that the provider had said."""
    said = {"id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "test-2", "service_tier": "x"}
    choices = [{"index": 0, "message": {"role": "assistant", "content": "\u2028\U0001f600", "refusal": None},
                "finish_reason": "stop", "logprobs": None}, {"index": 1, "message": {"content": "2"}}]
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cost": 0.5}
    place.server.handle(lambda request: testing.json_body({**said, "choices": choices, "usage": usage}, headers={
        "x-request-id": "req-1"}))
    place.write({"id": "\u00e4", "prompt": "a"})
    place.run()
    assert place.bytes.isascii() and place.bytes.endswith(b"}\n") and place.bytes.count(b"\n") == 1
    line, = place.lines
    assert list(line) == ["id", "custom_id", "response", "error"] and line["id"].startswith("batch_req_")
    details = {"prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}}
    assert (line["custom_id"], line["error"]) == ("\u00e4", None)
    assert line["response"] == {"status_code": 200, "request_id": "req-1", "body": {
        **said, "choices": choices, "usage": {**usage, **details}}}


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "mistral"])
def test_one_form_whoever_answers(place, provider):
    """Every dialect's answer is a chat.completion: text, tool calls, finish reason, usage."""
    def answer(request):
        calls = [{"name": "add", "arguments": {"a": 1}, "id": "call_1"}]
        if "call" in json.dumps(request.json):
            return testing.reply("", tool_calls=calls, usage=(5, 6))
        return testing.reply("said", finish_reason="length", usage=(5, 6), reasoning="thought")

    place.server.handle(answer)
    place.llm = llmlite.Client("m", provider=provider, base_url=place.server.url, api_key="k")
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    place.write({"id": "text", "prompt": "a"}, {"id": "call", "prompt": "call", "tools": [tool]})
    place.run()
    bodies = {line["custom_id"]: line["response"]["body"] for line in place.lines}
    for body in bodies.values():
        assert body["object"] == "chat.completion" and body["model"] and isinstance(body["created"], int)
        assert [body["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")] == [5, 6, 11]
    text, call = (bodies[name]["choices"][0] for name in ("text", "call"))
    assert (text["index"], text["message"]["role"], text["message"]["content"]) == (0, "assistant", "said")
    assert (text["finish_reason"], call["finish_reason"]) == ("length", "tool_calls")
    assert call["message"]["tool_calls"][0]["type"] == "function"
    assert json.loads(call["message"]["tool_calls"][0]["function"]["arguments"]) == {"a": 1}
    if provider != "mistral":
        assert text["message"]["reasoning_content"] == "thought"


def test_what_else_a_native_answer_holds(place):
    """Files, citations and weights of a provider that has no chat.completion stand where others have them."""
    place.server.handle(lambda request: testing.json_body({
        "candidates": [{"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": [
            {"text": "see"}, {"inlineData": {"mimeType": "image/png", "data": "aGk="}}]},
            "citationMetadata": {"citationSources": [{"uri": "https://a.example"}]},
            "logprobsResult": {"chosenCandidates": [{"token": "see", "logProbability": -0.5}],
                               "topCandidates": [{"candidates": [{"token": "sea", "logProbability": -2.0}]}]}}],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2}, "modelVersion": "m"}))
    place.llm = llmlite.Client("m", provider="gemini", base_url=place.server.url, api_key="k")
    place.write({"prompt": "a"})
    place.run()
    body = place.lines[0]["response"]["body"]
    choice = body["choices"][0]
    assert choice["message"]["images"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]
    assert choice["logprobs"]["content"] == [
        {"token": "see", "logprob": -0.5, "top_logprobs": [{"token": "sea", "logprob": -2.0}]}]
    assert body["citations"]


@pytest.mark.parametrize("choice, content, finish", [
    ({"message": {"content": [{"type": "text", "text": "a"}]}, "finish_reason": "stop"}, "a", "stop"),
    ({"message": {"content": "a"}, "finish_reason": "eos"}, "a", "stop"),
    ({"message": {"content": None, "refusal": "no"}, "finish_reason": "stop"}, None, "stop"),
    ({"message": {"content": "a"}, "finish_reason": "odd"}, "a", "other"),
])
def test_a_compatible_servers_own_ways(place, choice, content, finish):
    """Parts become text, and finish reasons OpenAI's words."""
    place.server.handle(lambda request: testing.json_body({"choices": [choice]}))
    place.write({"prompt": "a"})
    place.run()
    body = place.lines[0]["response"]["body"]
    assert body["object"] == "chat.completion" and body["usage"]["total_tokens"] == 0
    assert body["choices"][0]["message"]["content"] == content
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["choices"][0]["finish_reason"] == finish


def test_no_nan(place):
    """What a server says that is no JSON is null in the output."""
    place.server.handle(lambda request: testing.body(
        b'{"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "odd": [NaN, -Infinity, 1.5]}'))
    place.write({"prompt": "a"})
    place.run()
    for line in place.bytes.splitlines():
        body = json.loads(line, parse_constant=pytest.fail)["response"]["body"]
    assert body.get("odd", [None, None, 1.5]) == [None, None, 1.5]


def test_failed_calls_are_lines_too(place):
    """With the status and the provider's body where there is one, and the error's class and words."""
    place.write({"id": "a", "prompt": "fail a"}, {"id": "b", "prompt": "b"})
    summary = place.run()
    assert summary[:4] == (2, 1, 1, 0)
    failed, = (line for line in place.lines if line["error"])
    assert failed["custom_id"] == "a" and failed["id"].startswith("batch_req_")
    assert failed["response"]["status_code"] == 400
    assert failed["response"]["body"]["error"]["message"] == "no: fail a"
    assert failed["error"]["code"] == "BadRequestError" and "no: fail a" in failed["error"]["message"]


def test_a_call_without_an_answer(place):
    """Its line has no response."""
    place.server.handle(lambda request: testing.raw(testing.RESET))
    place.write({"prompt": "a"})
    place.run()
    line, = place.lines
    assert line["response"] is None and line["error"]["code"] == "APIConnectionError"


def test_an_answer_that_is_none(place):
    """HTML with status 200 is a failed line that has it, as text."""
    place.server.handle(lambda request: testing.body("<html>caf\u00e9".encode() + b"\xff"))
    place.write({"prompt": "a"})
    place.run()
    line, = place.lines
    assert line["response"] == {"status_code": 200, "request_id": None, "body": "<html>caf\u00e9\ufffd"}
    assert line["error"]["code"] == "ResponseError"


def test_answers_are_there_at_once_and_synced_within_a_second(place, monkeypatch):
    """Each line is whole in the file when its call has ended, and on disk a second later, also before a silence."""
    synced, answered, seen = [], [], []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append((time.monotonic(), os.fstat(fd).st_size)), fsync(fd)))

    def answer(request):
        if request.json["messages"][0]["content"] == "prompt 1":
            while not os.path.exists(place.output) or not place.bytes:
                time.sleep(0.005)
            answered.append((time.monotonic(), len(place.bytes)))
            seen.extend(place.bytes.splitlines(True))
            time.sleep(1.2)
        return testing.reply("x")

    place.server.handle(answer)
    place.prompts(2)
    place.run(workers=2)
    (when, size), = answered
    assert len(seen) == 1 and seen[0].endswith(b"}\n") and json.loads(seen[0])
    assert any(length == size and within(-1, when, 1.0, at) for at, length in synced)
    assert synced[-1][1] == len(place.bytes)


def test_an_executor(place):
    """It is handed on to Client.map."""
    place.prompts(5)
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        assert place.run(executor=executor).done == 5


def test_progress(place):
    """A callable hears of each call."""
    heard = []
    place.prompts(3)
    place.run(progress=lambda *told: heard.append(told))
    assert [told[0] + told[1] for told in heard] == [1, 2, 3]
    assert heard[-1] == (3, 0, llmlite.Usage(9, 12))


def test_a_report(place, tmp_path):
    """It is written at the end, in place of an older one, with what was done and what failed."""
    page = tmp_path / "page.html"
    page.write_text("old")
    place.write({"id": "good-1", "prompt": "a"}, {"id": "bad-1", "prompt": "fail"})
    place.run(report=page)
    text = page.read_text()
    assert "good-1" in text and "bad-1" in text and "BadRequestError" in text and not text.startswith("old")


def test_a_report_of_a_run_that_breaks(place, tmp_path):
    """It is written then too, once anything was asked; one that sends nothing leaves an older one alone."""
    page = tmp_path / "page.html"
    page.write_text("old")
    place.write(b"broken")
    place.refused(report=page)
    assert page.read_text() == "old"

    place.prompts(3)
    with pytest.raises(OSError) as caught:
        place.run(report=str(tmp_path / "none" / "page.html"))
    assert caught.value.filename == str(tmp_path / "none" / "page.html") and not place.server.requests
    with pytest.raises(RuntimeError):
        place.run(progress=stop_at_the_second(), report=page, workers=1)
    assert "id-0" in page.read_text()


def test_a_report_takes_no_other_files_place(place, tmp_path):
    """Neither the input's nor the output's, which it would be written over, nor a folder's: told before any call."""
    place.prompts(2)
    assert str(place.refused(report=place.source)).startswith(f"{place.source} is the input (")
    assert str(place.refused(report=place.output)).startswith(f"{place.output} is the output (")
    with pytest.raises(IsADirectoryError) as caught:
        place.run(report=tmp_path)
    assert caught.value.filename == str(tmp_path) and not place.server.requests
    assert os.listdir(tmp_path) == ["in.jsonl"]


def stop_at_the_second():
    def progress(done, failed, usage):
        if done == 2:
            raise RuntimeError("enough")
    return progress


# going on


def test_a_second_run_asks_nothing_again(place):
    """Good ids are skipped, failed ones stay failed; the file stays as it is, to the byte."""
    place.write({"id": "a", "prompt": "fail"}, {"id": "b", "prompt": "b"}, {"id": "c", "prompt": "c"})
    assert place.run()[:4] == (3, 2, 1, 0)
    before, asked = place.bytes, len(place.server.requests)
    assert place.run()[:4] == (3, 0, 1, 2)
    assert place.bytes == before and len(place.server.requests) == asked == 3


def test_what_has_no_line_is_asked(place):
    """Lines that were added to the input since are asked, in their order."""
    place.prompts(3)
    place.run()
    place.prompts(6)
    assert place.run(workers=1)[:4] == (6, 3, 0, 3)
    assert place.sent[3:] == ["prompt 3", "prompt 4", "prompt 5"]


def test_failed_lines_are_retried_when_asked_for(place):
    """The new line takes the failed one's place; the good ones stay, to the byte, and so do the file's permissions."""
    place.write({"id": "a", "prompt": "fail 1"}, {"id": "b", "prompt": "b"}, {"id": "c", "prompt": "fail 2"})
    place.run(workers=1)
    os.chmod(place.output, 0o640)
    good = [line for line in place.bytes.splitlines(True) if b'"b"' in line]
    place.server.handle(lambda request: testing.reply("now"))
    assert place.run(retry_failed=True)[:4] == (3, 2, 0, 1)
    assert place.bytes.splitlines(True)[:1] == good and sorted(place.texts) == ["a", "b", "c"]
    assert place.sent[3:] == ["fail 1", "fail 2"]
    if os.name == "posix":
        assert stat.S_IMODE(os.stat(place.output).st_mode) == 0o640


@pytest.mark.parametrize("retry_failed", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 10, 19, 60, -3, -1])
def test_a_torn_last_line_is_cut_off(place, cut, retry_failed):
    """Whatever is left of it goes, and its id is asked again; a whole one that lacks its line end stays."""
    place.write({"id": "a", "prompt": "fail"}, *({"id": f"id-{n}", "prompt": f"prompt {n}"} for n in range(3)))
    place.run(workers=1)
    lines = place.bytes.splitlines(True)
    with open(place.output, "wb") as file:
        file.write(b"".join(lines[:-1]) + lines[-1][:cut])
    again = cut != -1
    summary = place.run(retry_failed=retry_failed)
    assert summary[:4] == (4, again, 1, 2 + (not again))
    assert sorted(line["custom_id"] for line in place.lines) == ["a", "id-0", "id-1", "id-2"]
    assert place.bytes.endswith(b"}\n") and b"".join(lines[1:-1]) in place.bytes
    assert len(place.server.requests) == 4 + again + retry_failed


@pytest.mark.parametrize("tail", [b"x", b'{"custom_id": "id-', b'{"custom_id": "id-1"}', b"\xff", b"  {"])
def test_whatever_ends_an_output_without_a_line_end(place, tail):
    """After whole lines of ours it is a torn one."""
    place.prompts(2)
    place.run()
    before = place.bytes
    with open(place.output, "ab") as file:
        file.write(tail)
    assert place.run()[:4] == (2, 0, 0, 2)
    assert place.bytes == before


@pytest.mark.parametrize("tail", [b"{", b'{"id": "batch_req_5", "cust', b"\0\0\0"])
def test_an_output_that_is_one_torn_line(place, tail):
    """The first line of a run that was killed at once."""
    with open(place.output, "wb") as file:
        file.write(tail)
    place.prompts(2)
    assert place.run()[:4] == (2, 2, 0, 0)
    assert len(place.lines) == 2


def test_a_failed_last_line_without_its_end_is_retried(place):
    """It is removed as any other; what is left has line ends."""
    place.write({"id": "a", "prompt": "a"}, {"id": "b", "prompt": "fail"})
    place.run(workers=1)
    with open(place.output, "r+b") as file:
        file.truncate(len(place.bytes) - 1)
    place.server.handle(lambda request: testing.reply("now"))
    assert place.run(retry_failed=True)[:4] == (2, 1, 0, 1)
    assert len(place.lines) == 2 and b"\n\n" not in place.bytes


def test_zeros_where_the_power_failed(place):
    """They are a torn line."""
    place.prompts(2)
    place.run()
    with open(place.output, "ab") as file:
        file.write(b'{"id": "bat' + b"\0" * 50)
    assert place.run()[:4] == (2, 0, 0, 2)
    assert len(place.lines) == 2


@pytest.mark.parametrize("data, complaint", [
    (b"my notes\n", "line 1 is no line of a batch's output"),
    (b"my notes, without a line end", "line 1 is no line of a batch's output"),
    (b'{"prompt": "a"}\n', "line 1 is no line of a batch's output"),
    (b'{"id": "a", "prompt": "b"}', "line 1 is no line of a batch's output"),  # an input's only line, without its end
    (b'{"id": "a", "pro', "line 1 is no line of a batch's output"),
    (b'{"custom_id": 5, "response": null, "error": {}}\n', "line 1 is no line of a batch's output"),
    (b"[" * 100_000 + b"\n", "line 1 is no line of a batch's output"),
    (b'{"custom_id": "id-9", "response": null, "error": {}}\n', "line 1 has the id 'id-9', which is not in "),
    (b'{"custom_id": "id-0", "response": null, "error": {}}\n{"id": "batch_req_\n', "line 2 is no line"),
    (b'{"custom_id": "id-0", "response": null, "error": {}}\n' * 2,
     "line 2 has the id 'id-0', which stands there a second time"),
    (b'\xff\xfe\n', "line 1 is no line of a batch's output"),
])
def test_an_output_that_is_something_else(place, data, complaint):
    """It is an error, with file and line, and nothing of it is touched."""
    place.prompts(3)
    with open(place.output, "wb") as file:
        file.write(data)
    for retry_failed in (False, True) if "second" not in complaint else (False,):
        error = place.refused(retry_failed=retry_failed)
        assert place.output in str(error) and complaint in str(error) and not isinstance(error, InputError)
        assert place.bytes == data


@pytest.mark.parametrize("ours", [True, False])
def test_an_output_of_another_input_without_ids(place, ours):
    """Its good answers are of other prompts: an error, and nothing is touched; a failed one may be mended."""
    place.write({"prompt": "a"}, b"", {"prompt": "fail"}, {"prompt": "c"})
    place.run(workers=1)
    if not ours:  # as somebody's tool wrote it anew
        lines = [json.dumps(line, separators=(",", ":")) + "\n" for line in place.lines]
        with open(place.output, "w") as file:
            file.writelines(lines)
    before = place.bytes
    place.write({"prompt": "a"}, b"", {"prompt": "b"}, {"prompt": "d"})
    assert "line 3 has the id 'line-4', which is another prompt in " in str(place.refused())
    assert place.bytes == before
    place.write({"prompt": "a"}, b"", {"prompt": "b"}, {"prompt": "c"}, {"prompt": "d"}, end="\r\n")
    assert place.run(retry_failed=True)[:4] == (4, 2, 0, 2)
    assert place.texts == {"line-1": "a", "line-3": "b", "line-4": "c", "line-5": "d"}


def flipped(lines):
    """A bit of the answer's text."""
    at = lines[1].index(b"1 tpmorp") + 3
    return [lines[0], lines[1][:at] + bytes([lines[1][at] ^ 1]) + lines[1][at + 1:], *lines[2:]]


def joined(lines):
    """The second's first half with the third's other, cut within their answers' texts: JSON of the right shape."""
    first, second = lines[1].index(b"1 tpmorp"), lines[2].index(b"2 tpmorp")
    return [lines[0], lines[1][:first] + lines[2][second:], *lines[3:]]


@pytest.mark.parametrize("damage", [
    flipped, joined,
    lambda lines: [lines[0], lines[1][:200] + b"\0" * 20 + lines[1][220:], *lines[2:]],
    lambda lines: [lines[0], lines[1][:200] + lines[1][220:], *lines[2:]],
    lambda lines: [lines[0], lines[1][:150] + lines[2], *lines[3:]],
    lambda lines: [lines[0], lines[1].replace(b'"status_code": 200', b'"status_code": 201'), *lines[2:]],
    lambda lines: [lines[0], lines[1][:100] + b"\n" + lines[1][100:], *lines[2:]],
])
def test_a_line_that_was_damaged(place, damage):
    """It is an error, with file and line, and nothing is touched: its answer is never taken for good."""
    place.prompts(5)
    place.run(workers=1)
    with open(place.output, "r+b") as file:
        lines = damage(file.read().splitlines(True))
        file.seek(0)
        file.truncate()
        file.writelines(lines)
    before = place.bytes
    error = place.refused()
    assert f"{place.output}, line 2 is no line of a batch's output (it may be damaged" in str(error)
    assert place.bytes == before


def test_a_first_line_that_was_damaged(place):
    """It still begins as ours do: the output is no other one."""
    place.prompts(2)
    place.run(workers=1)
    with open(place.output, "r+b") as file:
        file.seek(200)
        file.write(b"\0\0")
    error = place.refused()
    assert f"{place.output}, line 1 is no line of a batch's output (it may be damaged" in str(error)


def test_lines_that_a_tool_has_written_anew(place):
    """In other letters, with other blanks, in another order, as failed ones, without our id: they are what they say."""
    place.write(*({"id": f"id-{n} \u00e4", "prompt": f"\u00e4 {n}"} for n in range(6)))
    place.run(workers=1)
    lines = place.lines
    del lines[3]["id"]
    lines[3]["response"]["body"]["choices"] = []
    lines[4].update(error={"code": "mine", "message": "not good enough"})
    written = [json.dumps(lines[0], ensure_ascii=False), json.dumps(lines[1], separators=(",", ":")),
               json.dumps(lines[2], sort_keys=True), *map(json.dumps, lines[3:])]
    with open(place.output, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in written)
    assert place.run()[:4] == (6, 0, 1, 5)
    assert place.run(retry_failed=True)[:4] == (6, 1, 0, 5)
    assert len(place.server.requests) == 7


def test_failed_lines_that_stand_there_twice(place):
    """Asked again both go, also beside a good one."""
    place.prompts(2)
    place.run(workers=1)
    with open(place.output, "a") as file:
        for n in (0, 1, 1):
            file.write(json.dumps({"custom_id": f"id-{n}", "response": None, "error": {}}) + "\n")
    assert "line 3 has the id 'id-0', which stands there a second time" in str(place.refused())
    assert place.run(retry_failed=True)[:4] == (2, 0, 0, 2)
    assert len(place.lines) == 2


def test_the_input_as_the_output(place):
    """It is an error, and the input is whole."""
    place.prompts(3)
    place.output = place.source
    before = place.bytes
    assert "is the input" in str(place.refused())
    assert place.bytes == before


def test_an_output_of_openais_own(place):
    """Its lines count as they say, also an error in a body without an error."""
    place.prompts(3)
    with open(place.output, "w") as file:
        file.write('{"id":"batch_req_1","custom_id":"id-0","response":{"status_code":200,"body":{}},"error":null}\n\n'
                   '{"id":"batch_req_2","custom_id":"id-1","response":{"status_code":400,"body":{}},"error":null}\n')
    assert place.run()[:4] == (3, 1, 1, 1)
    assert place.sent == ["prompt 2"]


def test_ids_that_have_a_hash_in_common():
    """They are told apart by themselves, from each other and from one that is not there."""
    ids = batch.Ids(lambda custom_id: len(custom_id))
    names = ["a", "b", "cc", "dddd"]
    for name in names:
        ids.add(name)
    assert ids.shared() == {1}
    ids.tell_apart({"a": 0, "b": 1})
    assert not ids.shared() and all(ids.stands_at(at, name) for at, name in enumerate(names))

    def hashes(*names):
        return array.array("q", map(ids.hashed, names))

    assert ids.skip(hashes("a", "cc"), hashes()) == set() and list(ids.skipped) == [1, 0, 1, 0]
    assert ids.skip(hashes("b", "dddd"), hashes("a", "a")) == set() and list(ids.skipped) == [0, 1, 0, 1]
    for wrong in ("e", "eeeee"):
        assert ids.skip(hashes("a", wrong), hashes()) == ids.skip(hashes("a"), hashes(wrong)) == set(hashes(wrong))
    assert ids.skip(hashes("a", "b", "a"), hashes()) == set(hashes("a"))


def test_an_input_whose_ids_have_a_hash_in_common(place):
    """Each is asked, and skipped, by itself."""
    place.prompts(12)
    check = batch._Check(place.llm, {})
    with batch.Items(place.source, check) as items:
        items.ids = batch.Ids(lambda custom_id: int(custom_id[3:]) % 5)
        items.check()
        assert len(items) == 12
        assert [custom_id for custom_id, _, _ in items] == [f"id-{n}" for n in range(12)]
        assert not items.ids.skip(array.array("q", map(items.ids.hashed, ("id-3", "id-7"))), array.array("q"))
        assert [custom_id for custom_id, _, _ in items] == [f"id-{n}" for n in range(12) if n not in (3, 7)]


def test_an_output_of_very_many_lines(place, monkeypatch):
    """Also where their ids are looked at in parts, none is lost."""
    monkeypatch.setattr(batch, "_SLICE", 3)
    place.write(*({"id": f"id-{n}", "prompt": "fail" if n % 3 == 0 else "a"} for n in range(30)))
    place.run()
    place.write(*({"id": f"id-{n}", "prompt": "now"} for n in range(40)))
    assert place.run()[:4] == (40, 10, 10, 20)
    assert place.run(retry_failed=True)[:4] == (40, 10, 0, 30)
    assert len(place.server.requests) == 50 and sorted(place.texts) == sorted(f"id-{n}" for n in range(40))
    lines = place.bytes.splitlines(True)
    for at in (0, 38):  # in whatever order they stand there
        with open(place.output, "wb") as file:
            file.writelines([*lines[:0:-1], lines[at]])
        if at == 0:
            assert place.run().skipped == 40
    assert "line 40 has the id " in str(place.refused()) and "a second time" in str(place.refused())


def test_a_link_as_the_output(place, tmp_path):
    """What it points at is written, also where failed lines are taken out."""
    if os.name != "posix":
        pytest.skip("links need rights on Windows")
    os.symlink("real.jsonl", place.output)
    place.write({"prompt": "fail"})
    place.run()
    place.run(retry_failed=True)
    assert os.path.islink(place.output) and len((tmp_path / "real.jsonl").read_bytes().splitlines()) == 1


# calls that all fail


@pytest.mark.parametrize("status, code", [(401, "AuthenticationError"), (402, "PaymentRequiredError"),
                                          (403, "PermissionDeniedError"), (404, "NotFoundError")])
def test_calls_that_all_fail_stop_it(place, status, code):
    """A hundred of them, and those under way: the rest is not sent; with a new key it goes on."""
    place.server.handle(lambda request: testing.error(status, "no way"))
    place.prompts(150)
    with pytest.raises(llmlite.LLMError, match="left: 1.. calls in a row failed alike: .*no way") as caught:
        place.run(workers=4)
    assert "--retry-failed" in str(caught.value)
    assert type(caught.value.__cause__).__name__ == code and "\n" not in str(caught.value)
    assert 100 <= len(place.lines) == len(place.server.requests) <= 112
    assert f"with {150 - len(place.lines)} left" in str(caught.value)
    assert {line["error"]["code"] for line in place.lines} == {code}
    place.server.handle(echo)
    assert place.run(retry_failed=True)[:4] == (150, 150, 0, 0)


def test_an_answer_that_comes_late_hides_nothing(place):
    """A call that was under way when the hundredth failed may be answered: the rest was not sent, and that is told."""
    def answer(request):
        if b"prompt 0" not in request.body:
            return testing.error(401, "no way")
        assert soon(lambda: len(place.lines) >= 100, 20)
        return testing.reply("late", delay=0.1)

    place.server.handle(answer)
    place.prompts(150)
    with pytest.raises(llmlite.LLMError, match="with 4[0-9] left: 10[0-9] calls in a row failed alike: .*no way"):
        place.run(workers=2)
    assert [line["custom_id"] for line in place.lines if not line["error"]] == ["id-0"]


def test_a_quota_that_is_used_up_on_the_way_stops_it(place):
    """After good answers too; what is left is asked by the next run, the failed ones only if they are to be."""
    place.server.handle(lambda request: echo(request) if len(place.server.requests) <= 20 else testing.error(
        429, "You exceeded your current quota", code="insufficient_quota"))
    place.prompts(140)
    with pytest.raises(llmlite.LLMError, match="with (20|1[6-9]) left: 10[0-4] calls in a row failed alike"):
        place.run(workers=1)
    place.server.handle(echo)
    left = 140 - len(place.lines)
    assert place.run()[:4] == (140, left, 120 - left, 20)


@pytest.mark.parametrize("line, status", [({"model": "mine"}, 404), ({}, 400), ({}, 500)])
def test_what_may_be_a_lines_own_fault_stops_nothing(place, line, status):
    """A model that a line names, a bad request, a server's trouble: each line is asked."""
    place.server.handle(lambda request: testing.error(status, "no way"))
    place.write(*({"id": f"id-{n}", "prompt": "a", **line} for n in range(110)))
    assert place.run()[:3] == (110, 0, 110)


def test_few_calls_that_all_fail(place):
    """All of them are sent; so are those between which one is answered."""
    place.server.handle(lambda request: echo(request) if b"prompt 60" in request.body else testing.error(401, "no"))
    place.prompts(100)
    assert place.run(workers=1)[:3] == (100, 1, 99)
    place.prompts(150)
    assert place.run(workers=1)[:3] == (150, 0, 149)


# one run an output


def test_an_output_in_use(place):
    """A second run is refused at once, sends nothing and does no harm to the first."""
    place.prompts(4)
    errors = []

    def answer(request):
        if not errors:
            with pytest.raises(llmlite.ConfigurationError) as caught:
                batch.run(place.source, place.output, client=place.llm)
            errors.append(str(caught.value))
        return testing.reply("x")

    place.server.handle(answer)
    assert place.run(workers=1).done == 4
    assert errors == [f"{place.output} is in use (another run is writing to it)"]
    assert len(place.server.requests) == 4


@POSIX
def test_a_lock_dies_with_its_process(place):
    """A child that outlives a killed run does not hold the output."""
    place.prompts(1)
    code = f"""if True:
        import os, sys, time
        from llmlite import batch
        with batch.Output({place.output!r}):
            if os.fork() == 0:
                print(os.getpid(), flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        child = int(process.stdout.readline())
        assert "is in use" in str(place.refused())
        process.kill()
        process.wait()
        try:
            assert place.run().done == 1
        finally:
            os.kill(child, signal.SIGKILL)


@POSIX
def test_a_lock_whose_file_is_gone(tmp_path):
    """Who opened it before its owner removed it tries again with the new one."""
    path = str(tmp_path / "out")
    taken = []

    class Late(batch._Lock):
        def _is_current(self, fd):
            if not taken:
                os.remove(self.path)
                taken.append(fd)
            return super()._is_current(fd)

    with Late(path, "out") as lock:
        assert lock.fd is not None and os.path.exists(path + ".lock") and taken
    assert not os.path.exists(path + ".lock")


# pipes


def test_stdin_and_stdout(place, monkeypatch, capfdbinary):
    """Both are "-"; what came in is checked whole before anything is sent."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt": "a"}\n{"prompt": "b"}\n')))
    place.source = place.output = "-"
    assert place.run()[:4] == (2, 2, 0, 0)
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert sorted(line["custom_id"] for line in lines) == ["line-1", "line-2"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt": "a"}\nbroken\n')))
    assert str(place.refused()).startswith("stdin, line 2: broken JSON")
    monkeypatch.setattr(sys, "stdin", None)
    assert "there is no stdin" in str(place.refused())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt": "a"}\n')))
    monkeypatch.setattr(sys, "stdout", None)
    assert "there is no stdout" in str(place.refused())


@POSIX
def test_named_pipes(place, tmp_path):
    """An input that can be read but once, and an output that cannot be read at all."""
    os.mkfifo(tmp_path / "in")
    os.mkfifo(tmp_path / "out")
    place.source, place.output, got = str(tmp_path / "in"), str(tmp_path / "out"), []

    def write():
        with open(place.source, "w") as file:
            file.write('{"prompt": "a"}\n')

    def read():
        with open(place.output) as file:
            got.append(file.read())

    threads = [threading.Thread(target=write), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    assert place.run().done == 1
    for thread in threads:
        thread.join()
    assert json.loads(got[0])["custom_id"] == "line-1"


@POSIX
def test_a_pipe_without_a_name(place):
    """Such as /dev/stdout before a "|", or a shell's >(...): what it links to cannot be opened by that name."""
    place.prompts(1)
    reads, writes = os.pipe()
    place.output = f"/dev/fd/{writes}"
    if not os.path.exists(place.output):
        pytest.skip("no /dev/fd here")
    assert place.run().done == 1
    os.close(writes)
    with open(reads) as file:
        assert json.loads(file.read())["custom_id"] == "id-0"


# no room


@POSIX
@pytest.mark.parametrize("other", [False, True])
def test_an_output_that_is_removed_meanwhile(place, other):
    """An error soon, not answers that nobody finds and a summary that all is done; as where an editor replaces it."""
    place.prompts(200)

    def answer(request):
        if len(place.server.requests) == 4:
            if other:
                os.replace(place.source + ".other", place.output)
            else:
                os.remove(place.output)
        return testing.reply("x", delay=0.05)

    if other:
        with open(place.source + ".other", "w"):
            pass
    place.server.handle(answer)
    with pytest.raises(FileNotFoundError) as caught:
        place.run(workers=2)
    assert caught.value.filename == place.output and len(place.server.requests) < 100


@POSIX
def test_a_full_device(place):
    """An OSError that names it."""
    place.prompts(3)
    place.output = "/dev/full"
    if not os.path.exists(place.output):
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError) as caught:
        place.run()
    assert caught.value.filename == "/dev/full"


@POSIX
def test_no_room(place):
    """What was written stays good: whole lines only, and the next run goes on from there."""
    import resource
    place.prompts(40)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limit[1]))
    try:
        with pytest.raises(OSError) as caught:
            place.run(workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.filename == place.output and caught.value.strerror
    assert 4000 < len(place.bytes) <= 5000 and place.bytes.endswith(b"}\n")
    written = len(place.lines)
    assert place.run()[:4] == (40, 40 - written, 0, written)
    assert len(place.texts) == len(place.lines) == 40


@POSIX
def test_no_room_to_take_failed_lines_out(place):
    """The file stays as it was, with the failed ones."""
    import resource
    place.write(*({"prompt": "fail" if n == 5 else "a"} for n in range(10)))
    place.run()
    before, asked, limit = place.bytes, len(place.server.requests), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError) as caught:
            place.run(retry_failed=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.filename == place.output
    assert place.bytes == before and len(place.server.requests) == asked


@POSIX
def test_no_room_for_a_line_end(place):
    """An earlier run's last line that lacks its end is left as it is."""
    import resource
    place.prompts(2)
    place.run()
    with open(place.output, "r+b") as file:
        file.truncate(len(place.bytes) - 1)
    before, limit = place.bytes, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), limit[1]))
    try:
        with pytest.raises(OSError):
            place.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert place.bytes == before


@POSIX
@pytest.mark.parametrize("at_end", [False, True])
def test_a_disk_that_does_not_sync(place, monkeypatch, at_end):
    """It is an error of the run: what is not on disk is not done."""
    def fsync(fd):
        if not os.path.isdir(f"/dev/fd/{fd}"):
            raise OSError(5, "Input/output error")

    if not at_end:
        place.server.handle(lambda request: testing.reply("x", delay=0.0 if "prompt 0" in str(request.json) else 0.8))
    monkeypatch.setattr(os, "fsync", fsync)
    place.prompts(1 if at_end else 3)
    with pytest.raises(OSError) as caught:
        place.run(workers=1)
    assert (caught.value.errno, caught.value.filename) == (5, place.output)


@pytest.mark.parametrize("name", ["none/out.jsonl", ""])
def test_an_output_that_cannot_be_written(place, tmp_path, name):
    """A folder that is missing, or is the output itself."""
    place.prompts(1)
    place.output = os.path.join(str(tmp_path), name)
    with pytest.raises(OSError) as caught:
        place.run()
    assert caught.value.filename == place.output and not place.server.requests


# an end before the end


def full(place, workers, then):
    """Have all workers' calls under way, and as many prompts wait in the queue; then do something, and answer them."""
    answered = threading.Event()

    def answer(request):
        assert answered.wait(20)
        return testing.reply("x", usage=(3, 4))

    def act():
        place.server.wait_for(workers, 20)
        time.sleep(0.1)
        then()
        time.sleep(0.2)  # until a signal's handler has run
        answered.set()

    place.server.handle(answer)
    place.prompts(40)
    actor = threading.Thread(target=act)
    actor.start()
    return actor


@pytest.mark.parametrize("executor", [False, True])
@pytest.mark.parametrize("why", ["budget", pytest.param("interrupted", marks=POSIX)])
def test_what_waits_in_a_queue_is_not_sent(place, why, executor):
    """After a signal, and where the tokens are spent, nothing goes out beyond what is under way; nor is it counted."""
    heard = []
    under_way = 3 if executor else 8
    actor = full(place, under_way, lambda: os.kill(os.getpid(), signal.SIGINT) if why == "interrupted" else None)
    with concurrent.futures.ThreadPoolExecutor(under_way) as pool:
        summary = place.run(workers=8, max_total_tokens=7 if why == "budget" else None,
                            executor=pool if executor else None, progress=lambda *told: heard.append(told))
    actor.join()
    assert summary[:4] == (40, under_way, 0, 0) and summary.stopped == why
    assert len(place.server.requests) == len(place.lines) == len(heard) == under_way
    assert heard[-1] == (under_way, 0, llmlite.Usage(3 * under_way, 4 * under_way))
    place.server.handle(echo)
    assert place.run()[:4] == (40, 40 - under_way, 0, under_way)


@pytest.mark.parametrize("executor", [False, True])
@pytest.mark.parametrize("why", ["budget", pytest.param("interrupted", marks=POSIX)])
def test_what_waits_to_be_sent_again_is_not_sent(place, why, executor):
    """A call that was refused, and waits, has no line: the next run asks for it; what was sent is finished."""
    begun, answered = threading.Event(), threading.Event()

    def answer(request):
        if "prompt 0" not in str(request.json):
            assert begun.wait(20)
            return testing.error(429, retry_after=0.6)
        begun.set()
        assert answered.wait(20)
        return testing.reply("x", usage=(3, 4))

    def act():
        while not place.llm.ledger.attempts:  # one was refused
            time.sleep(0.001)
        time.sleep(0.1)
        if why == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        answered.set()

    place.llm = llmlite.Client("test", base_url=place.server.url, retry=llmlite.RetryPolicy())
    place.server.handle(answer)
    place.prompts(9)
    actor, started = threading.Thread(target=act), time.monotonic()
    actor.start()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        summary = place.run(workers=4, max_total_tokens=7 if why == "budget" else None,
                            executor=pool if executor else None)
    assert within(0, started, 0.6)
    actor.join()
    assert summary[:4] == (9, 1, 0, 0) and summary.stopped == why and list(place.texts) == ["id-0"]
    sent = place.sent
    assert len(sent) == len(set(sent)) <= 4
    time.sleep(max(0.0, started + 0.9 - time.monotonic()))
    assert len(place.server.requests) == len(sent)
    place.server.handle(echo)
    assert place.run()[:4] == (9, 8, 0, 1)


def test_the_tokens_are_spent(place):
    """No more is sent once the run has spent them, and all that was answered is written; the next run goes on."""
    place.prompts(20)
    summary = place.run(workers=1, max_total_tokens=30)
    assert summary[:4] == (20, 5, 0, 0) and summary.stopped == "budget"  # 7 tokens each
    assert len(place.server.requests) == len(place.lines) == 5
    place.llm.chat("prompt 99")  # what others spend before is not the run's
    assert place.run(max_total_tokens=1000)[:4] == (20, 15, 0, 5)


def test_the_tokens_are_spent_by_the_last_line(place):
    """Then nothing was stopped."""
    place.prompts(2)
    assert place.run(workers=1, max_total_tokens=14).stopped is None


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_cleanly(place, number):
    """Nothing new is sent, what is under way is finished and written, and handlers are those of before."""
    before, once = signal.getsignal(number), [number]

    def answer(request):
        if len(place.server.requests) >= 3:
            with contextlib.suppress(IndexError):  # threads come here at once
                os.kill(os.getpid(), once.pop())
        return testing.reply("x", delay=0.1)

    place.server.handle(answer)
    place.prompts(30)
    summary = place.run(workers=3)
    assert summary.stopped == "interrupted"
    assert 3 <= summary.done == len(place.lines) == len(place.server.requests) <= 6
    assert signal.getsignal(number) is before
    place.server.handle(echo)
    assert place.run()[:4] == (30, 30 - summary.done, 0, summary.done)


@POSIX
def test_a_second_signal_drops_what_is_under_way(place):
    """It ends within a second; what was written is good."""
    place.server.handle(lambda request: testing.reply(
        "x", delay=0.0 if "prompt 0" in str(request.json) else 3.0))
    place.prompts(30)

    def kill():
        place.server.wait_for(3)
        assert soon(lambda: os.path.exists(place.output) and place.lines, 5)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)  # two of one number would be one, if the first had not been heard yet

    killer = threading.Thread(target=kill)
    killer.start()
    started = time.monotonic()
    summary = place.run(workers=2)
    assert within(0, started, 2)
    killer.join()
    assert summary[:2] == (30, 1) and summary.stopped == "interrupted" and len(place.lines) == 1


@POSIX
@pytest.mark.parametrize("executor", [False, True])
def test_what_has_arrived_at_a_second_signal_is_written(place, executor):
    """It was paid for: only what is not answered yet is dropped."""
    fast = {f"prompt {n}" for n in range(5)}

    def answer(request):
        place.server.wait_for(5, 20)
        return testing.reply("x", delay=0.0 if request.json["messages"][-1]["content"] in fast else 3.0)

    def progress(done, failed, usage):
        if done == 1:
            assert soon(lambda: place.llm.ledger.calls == 5, 20)
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)

    place.server.handle(answer)
    place.prompts(20)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        summary = place.run(workers=6, progress=progress, executor=pool if executor else None)
    assert summary[:4] == (20, 5, 0, 0) and summary.stopped == "interrupted"
    assert set(place.texts) == {f"id-{n}" for n in range(5)}


@POSIX
def test_a_second_signal_while_a_line_is_written(place):
    """The line is written whole, and then it ends."""
    place.prompts(9)
    output, write = batch.Output, batch.Output.write

    class Slow(output):
        def write(self, custom_id, result):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            write(self, custom_id, result)

    with batch.Stop() as stop, batch.opened(place.source, place.output, place.llm, {}) as (items, lines):
        lines.__class__ = Slow
        counts = batch._Counts(items, lines, batch._Page())
        results = place.llm.map(counts.asked(), workers=1, ordered=False)
        for index, result in stop.listening(results, lambda: None):
            counts.add(counts.ids[index], result)
        results.close()
    assert counts.done == 1 and len(place.lines) == 1


@POSIX
def test_a_signal_before_anything_is_sent(place):
    """It ends the run at once."""
    with pytest.raises(KeyboardInterrupt), batch.Stop():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


@POSIX
def test_an_ignored_signal_stays_ignored(place):
    """As in a shell's background jobs."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with batch.Stop():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_in_another_thread(place):
    """There are no signals to take there; the rest is the same."""
    place.prompts(3)
    found = []
    thread = threading.Thread(target=lambda: found.append(place.run()))
    thread.start()
    thread.join()
    assert found[0].done == 3
