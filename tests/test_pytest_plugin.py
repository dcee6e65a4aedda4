"""The fixture `llm_server`: what tests of users get from it, what fails them, and what pytest's start loads of it."""
import configparser
import os
import re
import subprocess
import sys
import textwrap

import pytest

from tests import VENDORED, llmlite

pytestmark = pytest.mark.skipif(VENDORED, reason="the fixture is about the package")

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run pytest, in this process, over a test file, as a user of llmlite does; returns its exit code and output."""
    def run(text, *options):
        path = tmp_path / "test_mine.py"
        path.write_text("import os\nimport pytest\nimport llmlite\n" + text)
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        words = ["-p", "llmlite.pytest_plugin", "-p", "no:cacheprovider", "-c", os.devnull,
                 f"--rootdir={tmp_path}", "-rA"]
        code = pytest.main([*words, *options, str(path)])
        sys.modules.pop("test_mine")
        return code, capsys.readouterr().out

    return run


def test_server_is_there(run):
    """The fixture is a started server; a test that uses up its replies passes, and the server is closed."""
    code, out = run("""
def test_capital(llm_server):
    llm_server.reply("Paris")
    assert llmlite.Client("m", base_url=llm_server.url).chat("France?").text == "Paris"
    assert "France" in llm_server.requests[0].json["messages"][0]["content"]
    test_capital.server = llm_server

def test_it_is_closed():
    assert test_capital.server._listener is None
""")
    assert code == 0 and "2 passed" in out


def test_unused_reply_fails_the_test(run):
    """The line names what was not asked for, and no traceback hides it."""
    code, out = run("""
def test_capital(llm_server):
    llm_server.reply("Paris")
    llm_server.error(429)
""")
    assert code == 1 and "1 passed, 1 error" in out
    told = "\nllmlite.testing: never asked for: reply 'Paris', error 429\n"
    assert out.count(told) == 1
    assert "def " not in out and "testing.py" not in out


def test_check_in_a_test(run):
    """Where a test asks by itself, the line is told below its own, not below those of check()."""
    code, out = run("""
def test_capital(llm_server):
    llm_server.reply("Paris")
    llm_server.check()
""")
    assert code == 1 and "never asked for: reply 'Paris'" in out
    assert "testing.py" not in out


def test_request_without_a_reply_fails_the_test(run):
    """Also where the program swallows its error."""
    code, out = run("""
def test_capital(llm_server):
    with pytest.raises(llmlite.LLMError):
        llmlite.chat("hi", model="openai/gpt-5-mini")
""")
    assert code == 1 and "1 passed, 1 error" in out
    assert "\nllmlite.testing: no reply was queued for POST /v1/chat/completions\n" in out


def test_own_failure_is_the_one_told(run):
    """A test that fails anyway, or is expected to, gets no second error."""
    code, out = run("""
def test_capital(llm_server):
    llm_server.reply("Paris")
    assert 1 == 2

def test_next(llm_server):
    llm_server.reply("Rome")
""")
    assert code == 1 and "1 failed, 1 passed, 1 error" in out
    assert "'Paris'" not in out.partition("short test summary")[2] and "'Rome'" in out


def test_skipped_and_expected_failures_stay_that(run):
    """What was queued before a test went no further is no error of it, wherever it stopped."""
    code, out = run("""
import unittest

def test_skip(llm_server):
    llm_server.reply("Paris")
    pytest.skip("no France here")

@pytest.mark.xfail
def test_expected(llm_server):
    llm_server.reply("Paris")
    assert 1 == 2

@pytest.fixture
def other(llm_server):
    llm_server.reply("Paris")
    pytest.skip("no France here")

def test_never_begun(llm_server, other):
    pass

class TestOldStyle(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def server(self, llm_server):
        llm_server.reply("Paris")

    def test_skip(self):
        self.skipTest("no France here")

    def test_unused(self):
        pass
""")
    assert code == 1 and "1 passed, 3 skipped, 1 xfailed, 1 error" in out, out


def test_every_provider_leads_there(run, monkeypatch):
    """Clients of all providers, made as in production, ask the server; the real keys are out of reach, then back."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real")
    monkeypatch.setenv("GEMINI_API_KEY", "real")
    monkeypatch.setenv("LLMLITE_API_KEY", "real")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "intranet.example")
    code, out = run("""
@pytest.mark.parametrize("name", [name for name, *_ in llmlite.providers()])
def test_provider(llm_server, name):
    llm_server.reply("hello")
    with llmlite.Client(f"{name}/m", retry=None) as llm:
        assert llm.chat("hi").text == "hello"
    assert "real" not in str(llm_server.requests[0].headers)
    assert os.environ["LLMLITE_API_KEY"] == "test" and os.environ["GOOGLE_GEMINI_BASE_URL"] == llm_server.root
    assert os.environ["no_proxy"].startswith("intranet.example,")
""")
    assert code == 0, out
    assert f"{len(llmlite.providers())} passed" in out
    assert (os.environ["OPENAI_API_KEY"], os.environ["no_proxy"]) == ("sk-real", "intranet.example")
    assert "OPENAI_BASE_URL" not in os.environ


def test_replay_in_the_fixture(run, tmp_path, server):
    """A recording serves the fixture: the paths are those that the providers' own addresses have."""
    from llmlite import testing

    server.reply("hello")
    with testing.record(server.root + "/v1beta") as recording:
        llmlite.Client("m", provider="gemini", base_url=recording.url, api_key="x").chat("hi")
        recording.save(tmp_path / "hi.json")
    code, out = run("""
def test_hi(llm_server):
    llm_server.replay(os.path.join(os.path.dirname(__file__), "hi.json"))
    assert llmlite.chat("hi", model="gemini/m").text == "hello"
""")
    assert code == 0, out


def test_readme(run, server, tmp_path, monkeypatch):
    """The README's examples: a server of one's own, the fixture, a recording and its replay."""
    with open(os.path.join(ROOT, "README.rst"), encoding="utf-8") as file:
        section = file.read().partition("\nTesting your own code\n---")[2].partition("\n\n\n")[0]
    blocks = re.findall(r"^\.\. code:: python\n\n((?:    .*\n|\n)+)", section, re.M)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real")
    server.reply("Paris")
    code, out = run("\n".join(map(textwrap.dedent, blocks)).replace("https://api.openai.com/v1", server.url))
    assert code == 0 and "3 passed" in out, out
    assert len(server.requests) == 1  # at the recording
    assert "sk-real" not in (tmp_path / "capital.json").read_text()


def test_the_entry_point():
    """pytest finds the module by it; that brings in no more than llmlite itself does, the scripted server neither."""
    config = configparser.ConfigParser()
    config.read(os.path.join(ROOT, "setup.cfg"))
    assert config["options.entry_points"]["pytest11"].split() == ["llmlite", "=", "llmlite.pytest_plugin"]
    words = ("import sys, pytest, llmlite; before = set(sys.modules); import llmlite.pytest_plugin; "
             "print(*set(sys.modules) - before)")
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, stdout=subprocess.PIPE, timeout=30, text=True)
    assert done.stdout.split() == ["llmlite.pytest_plugin"]
