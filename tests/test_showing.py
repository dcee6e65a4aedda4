"""What a notebook and a terminal show: of a reply, of a stream as it comes, of an error, of Ctrl-C."""
import builtins
import contextlib
import io
import json
import os
import pickle
import signal
import sys
import threading
import time

import pytest

from tests import llmlite, testing
from tests.cells import cells

CALL = llmlite.ToolCall("1", "weather", {"city": "Bonn", "days": 2}, '{"city": "Bonn", "days": 2}')
USED = llmlite.Usage(12, 8)


@pytest.fixture
def book(tmp_path, llm):
    """A notebook, whose `llm` is the server's."""
    with cells(tmp_path) as found:
        found.names["llm"] = llm
        yield found


def made(text="", **told):
    usual = {"model": "m-1", "usage": USED, "elapsed": 1.26, "finish_reason": "stop"}
    return llmlite.Response(text=text, **{**usual, **told})


# --------------------------------------------------------------------------------------------------------- a reply


USUAL = "m-1 · 12 tokens in, 8 out · 1.3 s"
CALLED = '*The model calls:*\n\n```python\n%s\n```'


@pytest.mark.parametrize("reply, text, small", [
    (made("**Hi**"), "**Hi**", USUAL),
    (made("Hi", usage=llmlite.Usage()), "Hi", "m-1 · 1.3 s"),
    (made("Hi", usage=llmlite.Usage(1, 9, 0, 7)), "Hi", "m-1 · 1 tokens in, 9 out (7 reasoning) · 1.3 s"),
    (made("Hi", cached=True), "Hi", "m-1 · 12 tokens in, 8 out · from the cache"),
    (made("Hi", attempts=3), "Hi", USUAL + " · 3 attempts"),
    (made("Hi", finish_reason="length", raw_finish_reason="length"), "Hi", USUAL + " · length: cut at the token limit"),
    (made("Hi", finish_reason="content_filter", raw_finish_reason="SAFETY"), "Hi",
     USUAL + " · content_filter: cut by a content filter (SAFETY)"),
    (made("Hi", finish_reason="other", raw_finish_reason="pause"), "Hi", USUAL + " · other (pause)"),
    (made("Hi", finish_reason=None), "Hi", USUAL + " · not finished"),
    (made("", finish_reason=None), "", USUAL + " · not finished"),
    (made(""), "*The answer is empty: finish reason stop.*", USUAL),
    (made("", finish_reason="length"), "*The answer is empty: the token limit was reached before any text.*",
     USUAL + " · length: cut at the token limit"),
    (made("", finish_reason="content_filter"), "*The answer is empty: a content filter withheld it.*",
     USUAL + " · content_filter: cut by a content filter"),
    (made("", tool_calls=[CALL, CALL], finish_reason="tool_calls"),
     CALLED % "weather(city='Bonn', days=2)\nweather(city='Bonn', days=2)", USUAL + " · tool_calls"),
    (made("Let me see.", tool_calls=[CALL._replace(arguments={"text": "```"})], finish_reason="tool_calls"),
     "Let me see.\n\n*The model calls:*\n\n````python\nweather(text='```')\n````",
     USUAL + " · tool_calls"),
    (made("", tool_calls=[CALL._replace(arguments={}, raw_arguments='{"city', invalid="it was cut")]),
     CALLED % 'weather({"city)  # not to be run: it was cut', USUAL),
    (made('{"name": "_Bonn_"}', parsed={"name": "_Bonn_"}), '```json\n{"name": "_Bonn_"}\n```', USUAL),
    (made("Here:", files=[llmlite.File("image/png", b"\x89PNG")]),
     "Here:\n\n![an image](data:image/png;base64,iVBORw==)", USUAL),
    (made("", files=[llmlite.File("text/html<b>", b"123")]), "*A file: text/html&#60;b&#62;, 3 bytes.*", USUAL),
    (made("Hi", model="<script>*x*"), "Hi", USUAL.replace("m-1", "&#60;script&#62;&#42;x&#42;")),
    (made("Hi", model="![](http://x.example/a.png)\n\x1b[1m `q`"), "Hi", USUAL.replace(
        "m-1", "&#33;&#91;&#93;(http&#58;//x.example/a.png) &#91;1m &#96;q&#96;")),
    (made("Hi", model="qwen3:8b_q4"), "Hi", USUAL.replace("m-1", "qwen3:8b_q4")),
    (made("\ud800"), "?", USUAL),
])  # fmt: skip
def test_a_reply(reply, text, small):
    """Its text, calls and files, or that it is empty and why; then in small type what there is to know besides."""
    assert reply._repr_markdown_() == "\n\n".join(filter(None, (text, f"<small>{small}</small>")))


@pytest.mark.parametrize("reply, shown", [
    (llmlite.Response(), ""), (llmlite.Response(text="Hi"), "Hi"),
    (llmlite.Response(text="Hi", finish_reason="length"), "Hi"),
])  # fmt: skip
def test_a_reply_made_by_hand(reply, shown):
    """Of what nobody sent there is nothing more to tell."""
    assert reply._repr_markdown_() == shown and str(reply) == reply.text


@pytest.mark.parametrize("text, ending", [
    ("```python\nprint(1)", "\n```"),
    ("a\n````\n```\nb", "\n````"),
    ("~~~\n```", "\n~~~"),
    ("```\nprint(1)\n```", ""),
    ("```\nprint(1)\n`````", ""),
    ("```\na ``` b", "\n```"),
    ("``` a ``` b", ""),
    ("- item\n\n  ```python\n  x", "\n  ```"),
    ("1. ```\n   x", "\n   ```"),
    ("\t```\nx", "\n    ```"),
    ("<!-- hidden", "\n-->"),
    ("<!-- told --> and on", ""),
    ("a\n<PRE>\nb", "\n</PRE>"),
    ("<pre>\nb\n</Pre> c", ""),
    ("<script>alert(1)", "\n</script>"),
    ("<?php\necho", "\n?>"),
    ("<![CDATA[ a", "\n]]>"),
    ("<b>bold\n\ntext", ""),
    ("```\n<!--\n```\n~~~", "\n~~~"),
])  # fmt: skip
def test_a_reply_that_was_cut(text, ending):
    """A block of code or HTML that the text leaves open is ended: the small type is no part of it."""
    assert made(text)._repr_markdown_() == f"{text}{ending}\n\n<small>{USUAL}</small>"


def test_a_reply_in_a_cell(server, book):
    """A cell that ends in a reply shows it; print() and str() have the text alone."""
    server.reply("Hi *you*", model="served")
    shown = book.run("reply = llm.chat('Hi')\nprint(reply)\nreply")
    reply = book.names["reply"]
    assert shown.out.startswith("Hi *you*\n") and "<Response 'Hi *you*'" in shown.out
    data, _ = book.shell.display_formatter.format(reply)
    assert data == {"text/plain": repr(reply), "text/markdown": (
        f"Hi *you*\n\n<small>served · 10 tokens in, 5 out · {reply.elapsed:.1f} s</small>")}


# ------------------------------------------------------------------------------------------------------- a stream


def test_live_markdown(server, book):
    """One place in the cell, changed as text comes, not for every piece; the cell's result does not show it again."""
    pieces = [f"{number} " for number in range(60)]
    server.stream(pieces, gap=0.005)
    shown = book.run("llm.stream('Count').display()")
    text = "".join(pieces)
    ids = {name for _, name, _ in shown.displays}
    assert len(ids) == 1 and None not in ids
    assert [update for _, _, update in shown.displays] == [False] + [True] * (len(shown.displays) - 1)
    states = shown.markdown
    assert states[0] == "…" and all(text.startswith(state) for state in states[1:-1])
    assert 4 <= len(states) <= 12 and len(set(states)) == len(states)
    reply = book.names["_"]
    assert isinstance(reply, llmlite.Response) and reply.text == text and book.names["Out"]
    assert states[-1] == reply._repr_markdown_() and shown.displays[-1][0]["text/plain"] == text
    assert text not in shown.out and "<Response" not in shown.out
    assert "<Response" in book.run("_").out  # in another cell it is one like others
    assert "_ipython_display_" not in json.dumps(reply.to_dict())
    assert pickle.loads(pickle.dumps(reply)).text == text


def test_live_thoughts_and_calls(server, book):
    """Until the text begins the model's thoughts are shown; a call in the end."""
    call = {"name": "f", "arguments": {"a": 1}}
    server.stream([], reasoning=["Hm, ", "<b>"], tool_calls=[call], gap=0.11)
    states = book.run("reply = llm.stream('Go').display()").markdown
    assert "<small>… Hm, &#60;b&#62;</small>" in states
    assert "```python\nf(a=1)\n```" in states[-1] and states[-1].endswith("tool_calls</small>")


def test_a_stream_that_breaks(server, book):
    """What had come stays in sight; the error says where it is."""
    server.sse([{"choices": [{"delta": {"content": "one"}}]}, {"error": {"message": "overloaded"}}])
    shown = book.run("x = 1\n\nllm.stream('Hi').display()")
    assert shown.markdown[-1].startswith("one") and "not finished</small>" in shown.markdown[-1]
    lines = shown.out.splitlines()
    assert lines[0].startswith("StreamError: ") and lines[1] == "    cell, line 3:  llm.stream('Hi').display()"
    assert lines[2].endswith("characters had come: sys.last_value.response") and len(lines) == 3


def test_tokens_and_what_was_read_before(server, book):
    """The tokens of a raw completion are shown as its text; so is what was read before. Consoles get no controls."""
    server.stream(["a", "b\x1b[1m", "\ud800"])
    shown = book.run("stream = llm.stream_tokens('x')\nnext(stream)\nreply = stream.display()")
    assert book.names["reply"].text == "ab\x1b[1m\ud800" and shown.markdown[-1].startswith("ab\x1b[1m?\n\n")
    assert shown.displays[-1][0]["text/plain"] == "ab[1m?"


class Screen(io.StringIO):
    encoding = "ascii"

    def isatty(self):
        return True


@pytest.mark.parametrize("screen, said", [
    (io.StringIO, "a\x1b[1m\t\x7fé\x9f\n"), (Screen, "a[1m\t?\n")])
def test_live_text(server, llm, monkeypatch, screen, said):
    """Elsewhere it is text alone: a terminal gets no control characters, and what its encoding has not as a mark."""
    server.stream(["a\x1b[1m\t\x7f", "é\x9f"], reasoning=["Hm"])
    with contextlib.redirect_stdout(screen()) as out:
        reply = llm.stream("Hi").display()
    assert out.getvalue() == said and reply.text == "a\x1b[1m\t\x7fé\x9f" and reply.finish_reason == "stop"


def test_live_text_of_the_rest(server, llm, capsys, monkeypatch):
    """All of the text, also what was read before, its line ended once; calls after it; nothing without a stdout."""
    call = {"name": "f", "arguments": {"a": 1}}
    server.stream(["one ", "two\n"], tool_calls=[call])
    with llm.stream("Hi") as stream:
        next(stream)
        stream.display()
    assert capsys.readouterr().out == "one two\nf(a=1)\n"
    monkeypatch.setattr(sys, "stdout", None)
    server.reply("Hi")
    assert llm.stream("Hi").display().text == "Hi"


def test_live_text_in_a_terminal(server, llm, tmp_path):
    """IPython in a terminal cannot change what it has shown."""
    server.stream(["one ", "two"])
    with cells(tmp_path, terminal=True) as terminal:
        terminal.names["llm"] = llm
        shown = terminal.run("reply = llm.stream('Hi').display()")
    assert shown.out == "one two\n" and not shown.displays


# ------------------------------------------------------------------------------------------------ errors and Ctrl-C


def test_an_error(server, book):
    """Its line, and the lines of the cells that led to it."""
    for _ in range(3):
        server.error(404, "no such model")
    book.run("def ask():\n    return llm.chat('Hi')")
    shown = book.run("x = 1\n\nask()")
    assert shown.out.splitlines() == [f"NotFoundError: {shown.result.error_in_exec}", "    cell, line 3:  ask()",
                                      "    cell, line 2:  return llm.chat('Hi')"]
    assert book.run("%tb").out == shown.out
    verbose = book.run("%tb Verbose").out
    assert verbose.startswith("Traceback") and "in _perform" in verbose and "no such model" in verbose
    assert book.run("try:\n    llm.chat('Hi')\nexcept llmlite.NotFoundError as error:\n    print(error)").out == (
        f"{shown.result.error_in_exec}\n")
    assert llmlite.LLMError("a\nb")._render_traceback_() == ["LLMError: a b"]
    assert book.run("raise llmlite.LLMError('mine')").out == "LLMError: mine\n    cell, line 1:  " \
        "raise llmlite.LLMError('mine')\n"


@pytest.mark.skipif(os.name == "nt", reason="there os.kill ends the process")
def test_debug(server, book, monkeypatch):
    """%debug begins at this error, or at this Ctrl-C, whatever error was before it."""
    seen = []
    monkeypatch.setattr(builtins, "seen", seen, raising=False)
    server.error(404)
    server.reply("late", delay=5)
    for source in ("llm.chat('Hi')", "llm.chat('Ho')"):
        server.requests.clear()
        book.run("1 / 0")
        with pressing(server) if "Ho" in source else contextlib.nullcontext():
            book.run(source)
        monkeypatch.setattr(sys, "stdin", io.StringIO("!__import__('builtins').seen.append(__name__)\nq\n"))
        trace = sys.gettrace()
        book.run("%debug")
        sys.settrace(trace)  # which the debugger has taken away
    assert seen == [llmlite.Client.__module__, seen[1]] and seen[1] not in ("__main__", "builtins")


def test_an_error_from_a_module(server, book, tmp_path, monkeypatch):
    """Of the user's own modules the file is named; what lies in libraries is passed over."""
    (tmp_path / "x-packages").mkdir()
    (tmp_path / "x-packages" / "theirs.py").write_text("def call(f, llm):\n    return f(llm)\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "x-packages"), *sys.path])
    (tmp_path / "mine.py").write_text("def ask(llm):\n    return llm.chat('')\n")
    server.error(400, "line one\nline \x1b[1mtwo")
    lines = book.run("import mine, theirs\ntheirs.call(mine.ask, llm)").out.splitlines()
    assert lines[0].startswith("BadRequestError: ") and "\x1b" not in lines[0]
    assert lines[1:] == ["    cell, line 2:  theirs.call(mine.ask, llm)", "    mine.py, line 2:  return llm.chat('')"]
    for name in ("mine", "theirs"):
        del sys.modules[name]


@contextlib.contextmanager
def pressing(server):
    """Ctrl-C, once the server has been asked."""
    def press():
        while not server.requests:
            time.sleep(0.002)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    yield
    thread.join()


@pytest.mark.skipif(os.name == "nt", reason="there os.kill ends the process")
@pytest.mark.parametrize("source, what", [
    ("llm.chat('Hi')", "compatible test"), ("llm.stream('Hi').display()", "compatible test"),
    ("llm.models()", "compatible test"), ("''.join(llm.stream('Hi'))", "compatible test"),
    ("list(llm.request('POST', 'x', json={'stream': True}, stream=True).events())", "compatible test"),
    ("list(llm.map(['Hi'] * 3, workers=1))", "map, 0 done"),
])  # fmt: skip
def test_ctrl_c(server, book, source, what):
    """One line, of the same KeyboardInterrupt."""
    server.handle(lambda request: testing.stream(["a", "b"], gap=5) if b'"stream"' in request.body else testing.reply(
        "late", delay=5))
    with pressing(server):
        shown = book.run(source)
    error = shown.result.error_in_exec
    assert type(error) is KeyboardInterrupt
    line, = shown.out.splitlines()
    assert line.startswith(f"KeyboardInterrupt: {what}: stopped after 0.") and line.endswith(" s")
    assert type(pickle.loads(pickle.dumps(error))) is KeyboardInterrupt


@pytest.mark.skipif(os.name == "nt", reason="there os.kill ends the process")
def test_ctrl_c_elsewhere(server, llm):
    """Without IPython nothing is done to it."""
    server.reply("late", delay=5)
    with pressing(server), pytest.raises(KeyboardInterrupt) as caught:
        llm.chat("Hi")
    assert vars(caught.value) == {}
