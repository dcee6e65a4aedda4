"""`llmlite batch`: what it takes, what it says, how it exits."""
import concurrent.futures
import io
import json
import os
import signal
import subprocess
import sys
import time
import types

import pytest

from llmlite.__main__ import main
from tests import VENDORED, testing
from tests.beside import within
from tests.cli import Ran, command, environment, one_line
from tests.test_batch import echo
from tests.test_cli import POSIX

pytestmark = pytest.mark.skipif(VENDORED, reason="the command line is no part of client.py")


@pytest.fixture
def files(tmp_path):
    """An input of 9 prompts, and where the output goes."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"id": f"id-{n}", "prompt": f"prompt {n}"}) + "\n" for n in range(9)))
    return source, output


@pytest.fixture
def run(monkeypatch, capfd, server, files):
    """`llmlite batch` in this process with the server as the provider, and stdin that is no terminal."""
    server.handle(echo)

    def run(*words, stdin=b"", at=True):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin))
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(os.fdopen(os.dup(1), "wb")))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(os.fdopen(os.dup(2), "wb"), line_buffering=True))
        code = main(["batch", *map(str, words), *(["-m", "test", "--base-url", server.url] if at else [])])
        sys.stdout.close()
        sys.stderr.close()
        return Ran(code, *capfd.readouterr())
    return run


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_all_is_answered(run, files):
    """Exit 0, the answers in the file, one line on stderr and nothing on stdout."""
    source, output = files
    code, out, err = run(source, "-o", output)
    assert (code, out) == (0, "") and one_line(err)
    assert err.startswith("llmlite: 9 done, 0 failed, 0 skipped; 27 input tokens, 36 output tokens; 0 retries; ")
    assert sorted(line["custom_id"] for line in lines(output)) == [f"id-{n}" for n in range(9)]
    code, _, err = run(source, "-o", output)
    assert code == 0 and err.startswith("llmlite: 0 done, 0 failed, 9 skipped; 0 input tokens")


def test_failed_lines(run, files, server):
    """Exit 1, also when they are an earlier run's, and a line that names --retry-failed."""
    source, output = files
    source.write_text('{"prompt": "fail"}\n{"prompt": "a"}\n')
    for done, skipped in ((1, 0), (0, 1)):
        code, _, err = run(source, "-o", output)
        assert code == 1 and one_line(err) and f"{done} done, 1 failed, {skipped} skipped" in err
        assert err.endswith("; --retry-failed asks the failed ones again\n")
    server.handle(lambda request: testing.reply("now"))
    assert run(source, "-o", output, "--retry-failed").code == 0
    assert len(lines(output)) == 2


def test_settings(run, files, server, tmp_path):
    """-o with a key is for every line, as --schema, -s and --deadline are; what chat() does not know goes out as is."""
    source, output = files
    source.write_text('{"prompt": "{}"}\n{"prompt": "{}", "temperature": 1}\n')
    server.handle(lambda request: testing.reply("{}"))
    ran = run(source, "-o", "temperature=0", "-o", output, "-o", 'extra={"user": "me"}', "-s", "be kind",
              "--deadline", "20", "--schema", '{"type": "object"}', "--workers", "1", "--rpm", "60000", "--tpm",
              "1000000")
    assert ran.code == 0
    first, second = (request.json for request in server.requests)
    assert (first["temperature"], second["temperature"], first["user"]) == (0, 1, "me")
    assert first["messages"][0] == {"role": "system", "content": "be kind"}
    assert first["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_a_rate_limit_holds_back(run, files, server):
    """--rpm: not sooner than that."""
    source, output = files
    source.write_text('{"prompt": "a"}\n' * 7)
    begun = time.monotonic()
    assert run(source, "-o", output, "--rpm", "300").code == 0
    assert time.monotonic() - begun > 0.3


@pytest.mark.parametrize("words, code, written", [
    (["--output", "a=1.jsonl"], 0, "a=1.jsonl"),
    (["-o", "./a=1.jsonl"], 0, "a=1.jsonl"),
    (["-o", "a-b=1.jsonl"], 0, "a-b=1.jsonl"),
    (["-o", "=1.jsonl"], 0, "=1.jsonl"),
    (["-o", "a=1.jsonl"], 2, 'no output: give -o OUT.jsonl (a name with "=" in it as --output)'),
    (["-o", "a", "-o", "b"], 2, "several outputs: a, b"),
    (["-o", "a", "--output", "b"], 2, "several outputs: a, b"),
    ([], 2, "no output: give -o OUT.jsonl"),
    (["-o", ""], 2, "no output: give -o OUT.jsonl"),
    (["-o", "a", "-o", "temperature=hot"], 2, "argument -o: 'temperature=hot': temperature takes a number"),
    (["-o", "a", "-o", "system=be kind"], 2, "argument -o: system=...: give -s"),
    (["-o", "a", "-o", "model=m"], 2, "argument -o: model=...: give -m"),
    (["-o", "a", "-o", "deadline=5"], 2, "argument -o: deadline=...: give --deadline"),
    (["-o", "a", "-o", "extra=5"], 2, "argument -o: 'extra=5': extra takes a JSON object"),
    (["-o", "a", "--workers", "0"], 2, "argument --workers: '0' is no whole number above zero"),
    (["-o", "a", "--max-total-tokens", "many"], 2, "'many' is no whole number above zero"),
    (["-o", "a", "--rpm", "-1"], 2, "--rpm"),
])
def test_which_o_is_the_output(run, files, monkeypatch, tmp_path, words, code, written):
    """One with a word before its first "=" is a setting; a wrong usage is one line, and nothing is sent."""
    monkeypatch.chdir(tmp_path)
    ran = run("in.jsonl", *words)
    assert ran.code == code and one_line(ran.err)
    if code:
        assert written in ran.err and "llmlite batch --help" in ran.err
    else:
        assert len(lines(tmp_path / written)) == 9


def test_a_wrong_input(run, files, server):
    """Exit 2, one line with file and line, nothing sent."""
    source, output = files
    for line, what in (("", "broken JSON"), (', "top_p": "x"}', "top_p='x': give a finite number"),
                       (', "prompt_cache": "x"}', "prompt_cache='x': give true, false or \"1h\"")):
        source.write_text(f'{{"prompt": "a"}}\n{{"prompt": "a"{line}\n')
        code, out, err = run(source, "-o", output)
        assert (code, out) == (2, "") and one_line(err) and f"{source}, line 2: {what}" in err
    code, _, err = run(str(source) + "x", "-o", output)
    assert code == 2 and one_line(err) and "No such file" in err
    assert not server.requests and not output.exists()


def test_a_wrong_output(run, files, server, tmp_path):
    """Exit 1, one line with the file, nothing sent, nothing touched."""
    source, output = files
    output.write_text("my notes\n")
    code, _, err = run(source, "-o", output)
    assert code == 1 and one_line(err) and f"{output}, line 1 is no line of a batch's output" in err
    assert output.read_text() == "my notes\n"
    code, _, err = run(source, "-o", tmp_path / "none" / "out.jsonl")
    assert (code, err) == (1, f"llmlite: {tmp_path / 'none' / 'out.jsonl'}: No such file or directory\n")
    assert not server.requests


def test_no_provider(run, files):
    """Exit 1 and one line, as with the other commands; what a line names alone is no provider."""
    source, output = files
    source.write_text('{"prompt": "a", "model": "openai/gpt-5-mini"}\n')
    code, _, err = run(source, "-o", output, at=False)
    assert code == 1 and one_line(err) and "no model" in err and "-m PROVIDER/MODEL" in err and "LLMLITE_MODEL" in err
    code, _, err = run(source, "-o", output, "-m", "gpt-5-mini", at=False)
    assert code == 1 and one_line(err) and "names no provider" in err
    code, _, err = run(source, "-o", output, "-p", "openai", at=False)
    assert code == 1 and one_line(err) and "no key for openai" in err


def test_without_stderr(files, server):
    """What there is to say is not said on stdout, between the answers."""
    server.handle(echo)
    words = command("batch", str(files[0]), "-o", "-", "-m", "test", "--base-url", server.url)
    code = "import sys; from llmlite.__main__ import main; sys.stderr = None; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, *words[words.index("batch"):]],
                          stdout=subprocess.PIPE, env=environment(), timeout=20)
    assert done.returncode == 0 and len(list(map(json.loads, done.stdout.splitlines()))) == 9


def test_the_tokens_are_spent(run, files):
    """Exit 3, and a line that says how to go on."""
    source, output = files
    code, _, err = run(source, "-o", output, "--max-total-tokens", "20", "--workers", "1")
    assert code == 3 and len(lines(output)) == 3
    assert err.startswith("llmlite: the tokens are spent: 6 left; the same command goes on with them\n"
                          "llmlite: 3 done, 0 failed, 0 skipped; ")
    assert run(source, "-o", output).code == 0


def test_pipes(run, files):
    """"-" is stdin, and stdout: there is nothing to go on with."""
    code, out, err = run("-", "-o", "-", stdin=b'{"prompt": "a"}\n{"prompt": "fail"}\n')
    assert code == 1 and len(out.splitlines()) == 2 and one_line(err) and "--retry-failed" not in err
    assert {json.loads(line)["custom_id"] for line in out.splitlines()} == {"line-1", "line-2"}
    code, _, err = run("-", "-o", "-", "--max-total-tokens", "1", "--workers", "1", stdin=b'{"prompt": "a"}\n' * 3)
    assert code == 3 and err.startswith("llmlite: the tokens are spent: 2 left\n")


class Typed(io.RawIOBase):
    """A terminal's lines, and its end, which is said once."""

    def __init__(self, *lines):
        self.lines = [*lines, b""]

    def readable(self):
        return True

    def readinto(self, room):
        line = self.lines.pop(0)
        room[:len(line)] = line
        return len(line)


def test_lines_that_are_typed(run):
    """One Ctrl-D ends them."""
    assert run("-", "-o", "-", stdin=io.BufferedReader(Typed(b'{"prompt": "a"}\n', b'{"prompt": "b"}\n'))).code == 0


@POSIX
def test_stdout_that_is_closed_or_full(files, server):
    """A closed pipe is silent; a full one is a line, and exit 1."""
    server.handle(echo)
    words = command("batch", str(files[0]), "-o", "-", "-m", "test", "--base-url", server.url)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(20) == 0
    if os.path.exists("/dev/full"):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, env=environment(), timeout=20)
        assert done.returncode == 1 and one_line(done.stderr.decode()) and b"No space left" in done.stderr


@POSIX
def test_no_room(run, files):
    """Exit 1 and one line that says that what is there is good."""
    import resource
    source, output = files
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        code, _, err = run(source, "-o", output, "--workers", "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert code == 1 and one_line(err)
    assert err.startswith(f"llmlite: {output}: File too large (what was answered is kept; ")
    assert 0 < len(lines(output)) < 9
    assert run(source, "-o", output).code == 0
    if os.path.exists("/dev/full"):  # which keeps nothing
        code, _, err = run(source, "-o", "/dev/full")
        assert (code, err) == (1, "llmlite: /dev/full: No space left on device\n")


def test_calls_that_all_fail(run, files, server):
    """Exit 1, and one line that says why nothing more is sent, and how to go on."""
    source, output = files
    source.write_text('{"prompt": "a"}\n' * 130)
    server.handle(lambda request: testing.error(401, "Incorrect API key"))
    code, _, err = run(source, "-o", output)
    assert code == 1 and one_line(err) and err.startswith("llmlite: stopped, with ")
    assert "in a row failed alike" in err and "Incorrect API key" in err and "--retry-failed" in err
    assert 100 <= len(lines(output)) == len(server.requests) < 120


def test_a_report(run, files, tmp_path):
    """--report writes a page."""
    source, output = files
    assert run(source, "-o", output, "--report", tmp_path / "page.html").code == 0
    assert "id-8" in (tmp_path / "page.html").read_text()
    code, _, err = run(source, "-o", tmp_path / "other", "--report", tmp_path / "none" / "page.html")
    assert code == 1 and one_line(err) and "none" in err


@POSIX
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal(run, files, server, number, code):
    """What is under way is finished and written; one line says how to go on, one what was done."""
    source, output = files
    server.handle(lambda request: testing.reply("x", delay=0.3))
    words = command("batch", str(source), "-o", str(output), "-m", "test", "--base-url", server.url, "--workers", "2")
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=environment()) as process:
        assert server.wait_for(4, 20)
        process.send_signal(number)
        err = process.stderr.read().decode()
        assert process.wait(20) == code
    done = len(lines(output))
    assert len(server.requests) == done <= 6
    assert err.startswith(f"llmlite: interrupted: {9 - done} left; the same command goes on with them\n"
                          f"llmlite: {done} done, 0 failed, 0 skipped; ")
    assert sorted(os.listdir(os.path.dirname(output))) == ["in.jsonl", "out.jsonl"]
    code, _, err = run(source, "-o", output)
    assert code == 0 and f"{9 - done} done, 0 failed, {done} skipped" in err


@POSIX
def test_a_signal_while_calls_wait(files, server):
    """Where all wait to be sent again it ends at once, and sends nothing."""
    source, output = files
    server.handle(lambda request: testing.error(429, retry_after=30))
    words = command("batch", str(source), "-o", str(output), "-m", "test", "--base-url", server.url, "--workers", "2")
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=environment()) as process:
        assert server.wait_for(1, 20)
        time.sleep(0.2)
        sent, started = len(server.requests), time.monotonic()
        process.send_signal(signal.SIGINT)
        err = process.stderr.read().decode()
        assert process.wait(20) == 130 and within(0, started, 2)
    assert "llmlite: interrupted: 9 left" in err and len(server.requests) == sent and lines(output) == []


@POSIX
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_anything_is_sent(files, server, number, code, tmp_path):
    """It ends at once; here, while the input is waited for."""
    os.mkfifo(tmp_path / "pipe")
    words = command("batch", str(tmp_path / "pipe"), "-o", str(files[1]), "-m", "test", "--base-url", server.url)
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=environment()) as process:
        with open(tmp_path / "pipe", "wb"):  # it is there, then
            time.sleep(0.1)
            process.send_signal(number)
            assert process.wait(20) == code
        assert process.stderr.read() == b""
    assert not server.requests and not files[1].exists()


@POSIX
def test_progress_on_a_terminal(files, server):
    """It shows there and only there, unless --no-progress; so does a word about Ctrl-C."""
    import pty
    server.handle(lambda request: testing.reply("x", delay=0.2))
    shown = {}
    for more in ([], ["--no-progress"]):
        ours, theirs = pty.openpty()
        words = command("batch", str(files[0]), "-o", str(files[1]), "-m", "test", "--base-url", server.url,
                        "--workers", "1", *more)
        with subprocess.Popen(words, stderr=theirs, env=environment()) as process:
            os.close(theirs)
            before = len(server.requests)
            assert server.wait_for(before + 2, 20)
            process.send_signal(signal.SIGINT)
            text = b""
            while True:
                try:
                    piece = os.read(ours, 4096)
                except OSError:  # the other end is closed
                    break
                text += piece
                if not piece:
                    break
            assert process.wait(20) == 130
        os.close(ours)
        shown[bool(more)] = text.decode()
    assert "stopping when what is under way is answered" in shown[False]
    assert "stopping" not in shown[True] and shown[True].count("\n") == 2


class Cluster:
    """`distributed` with a scheduler at one address; its executor's threads are here."""

    def __init__(self, address, timeout, set_as_default):
        self.executor = concurrent.futures.ThreadPoolExecutor(2)
        if "gone" in address:
            self.executor.shutdown()
        if "not" in address:
            raise OSError(f"Timed out trying to connect to {address} after {timeout} s")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.executor.shutdown()

    def get_executor(self, pure):
        assert pure is False
        return self.executor


def test_on_dask(run, files, monkeypatch):
    """--dask asks from a cluster's workers; without distributed or a scheduler one line says so."""
    source, output = files
    monkeypatch.setitem(sys.modules, "distributed", types.SimpleNamespace(Client=Cluster))
    code, _, err = run(source, "-o", output, "--dask", "tcp://not:2")
    assert code == 1 and one_line(err) and not output.exists()
    assert err.startswith("llmlite: --dask tcp://not:2: no scheduler answers there: Timed out trying")
    code, _, err = run(source, "-o", output, "--dask", "tcp://gone:3")
    assert code == 1 and one_line(err) and "goes on" in err
    assert err.startswith("llmlite: --dask tcp://gone:3: cannot schedule new futures")
    assert run(source, "-o", output, "--dask", "tcp://there:1").code == 0
    assert len(lines(output)) == 9
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, _, err = run(source, "-o", output, "--dask", "tcp://there:1")
    assert code == 1 and one_line(err) and "--dask needs distributed" in err and "pip install 'llmlite[dask]'" in err
