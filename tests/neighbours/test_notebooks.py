"""A real notebook, run by nbclient in a kernel of its own: what stands below its cells."""
import sys

import pytest

from tests import VENDORED, llmlite, testing

nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipywidgets")
pytest.importorskip("tqdm")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

pytestmark = pytest.mark.skipif(VENDORED, reason="the extension is the package's")

# (source, the kinds of its outputs, words in them); a cell that has an error is meant to
CELLS = [
    ("import llmlite\nllm = llmlite.Client('m', base_url=URL, retry=None)\ntopic = 'sky'", [], []),
    ("llm.chat('markdown')", ["execute_result"],
     ["**Bold** <b>text</b>\n\n<small>m · 10 tokens in, 5 out · ", "<Response '**Bold** <b>text</b>'"]),
    ("print(_)", ["stream"], ["**Bold** <b>text</b>\n"]),
    ("llm.chat('calls')", ["execute_result"], ["weather(city='Bonn')", " · tool_calls</small>"]),
    ("llm.chat('empty')", ["execute_result"], ["*The answer is empty: a content filter withheld it.*"]),
    ("llm.stream('count').display()", ["display_data"], ["0 1 2 3 4 5 6 7 8 9 \n\n<small>m · "]),
    ("_.usage.total_tokens", ["execute_result"], ["15"]),
    ("def ask():\n    return llm.chat('refuse')\n\nask()", ["error"],
     ["AuthenticationError: compatible: 401 ", "no such key",
      "\n    cell, line 4:  ask()\n    cell, line 2:  return llm.chat('refuse')"]),
    ("import os, signal, threading\nthreading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
     "llm.chat('hang')", ["error"], ["KeyboardInterrupt: compatible m: stopped after 0."]),
    ("%load_ext llmlite", [], []),
    ("%%llm -c llm --to told -o temperature=0\nSay {topic} {{}}", ["display_data"], ["echo: Say sky {}\n\n<small>"]),
    ("_ is told, told.text", ["execute_result"], ["(True, 'echo: Say sky {}')"]),
    ("%%llm -c llm\nSay {nothing}", ["error"], ["ConfigurationError: {nothing}: there is no variable 'nothing'"]),
    ("%llm -c llm Well?", ["display_data"], ["echo: Well?"]),
    ("[reply.text for reply in llm.map(['a', 'b'], progress=True)]", None, ["['echo: a', 'echo: b']"]),
    ("import sys; sys.modules['ipywidgets'] = None\n"
     "for name in [name for name in sys.modules if name.startswith('tqdm')]: del sys.modules[name]\n"
     "len(list(llm.map(['a', 'b'], progress=True)))", None, ["2/2", "tokens=30"]),
    ("reply = llm.stream('break').display()", ["display_data", "error"],
     ["half\n\n<small>", "not finished</small>", "StreamError", "4 characters had come: sys.last_value.response"]),
    ("import threading; [one.name for one in threading.enumerate() if 'tqdm' in one.name]", ["execute_result"], ["[]"]),
    ("llm.close()", [], []),
]


def answer(request):
    said = request.json["messages"][-1]["content"]
    if said == "refuse":
        return testing.error(401, "no such key")
    if said == "calls":
        return testing.stream([], tool_calls=[{"name": "weather", "arguments": {"city": "Bonn"}}])
    if said == "break":
        return testing.sse([{"choices": [{"delta": {"content": "half"}}]}, {"error": {"message": "overloaded"}}])
    if said == "count":
        return testing.stream([f"{number} " for number in range(10)], gap=0.03)
    return testing.reply({"markdown": "**Bold** <b>text</b>", "empty": ""}.get(said, f"echo: {said}"),
                         finish_reason="content_filter" if said == "empty" else None, delay=9 if said == "hang" else 0)


def shown(output):
    """All that an output shows."""
    if output.output_type == "stream":
        return output.text
    return "\n".join(output.traceback if output.output_type == "error" else map(str, output.data.values()))


@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(sys.platform == "win32", reason="there os.kill ends the kernel")
def test_a_notebook(tmp_path, monkeypatch):
    """Each cell shows what it should, and no more."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    new = nbformat.v4
    with testing.Server() as server:
        server.handle(answer)
        sources = [source.replace("URL", repr(server.url)) for source, _, _ in CELLS]
        book = new.new_notebook(cells=[new.new_code_cell(source) for source in sources])
        nbclient.NotebookClient(book, timeout=40, allow_errors=True, kernel_name="python3").execute()
    for cell, (_, kinds, words) in zip(book.cells, CELLS):
        text = "\n".join(map(shown, cell.outputs))
        assert kinds is None or [output.output_type for output in cell.outputs] == kinds, (cell.source, text)
        assert [word for word in words if word not in text] == [], (cell.source, text)
        errors = [output for output in cell.outputs if output.output_type == "error"]
        assert all(len(shown(error).splitlines()) <= 3 for error in errors), text
        assert "Warning" not in text
    bar, = (cell.outputs[0].data for cell in book.cells if "widget" in str(cell.outputs))
    assert "application/vnd.jupyter.widget-view+json" in bar
    assert "2/2" in str(book.metadata.widgets) and "tokens=30" in str(book.metadata.widgets)
    assert issubclass(getattr(llmlite, book.cells[7].outputs[0].ename), llmlite.LLMError)
