"""`llmlite completion SHELL`: the scripts, in the shells that are here."""
import contextlib
import os
import re
import select
import shutil
import subprocess
import time

import pytest

from llmlite import completion
from tests import VENDORED
from tests.cli import one_line

pytestmark = pytest.mark.skipif(VENDORED, reason="the command line is no part of client.py")

LINES = [  # what is typed, what can follow
    ("mod", {"models"}),
    ("comp", {"completion"}),
    ("help re", {"replay"}),
    ("completion z", {"zsh"}),
    ("--sch", {"--schema"}),
    ("Hi --no-s", {"--no-stream"}),
    ("--no-stream --sch", {"--schema"}),
    ("models -p lmst", {"lmstudio"}),
    ("models --provider lmst", {"lmstudio"}),
    ("-m openr", {"openrouter/"}),
    ("-o temp", {"temperature="}),
    ("batch --retry", {"--retry-failed"}),
    ("batch odd", {"odd name.jsonl"}),
    ("replay odd", {"odd name.jsonl"}),
    ("-f odd", {"odd name.jsonl"}),
    ("--schema odd", {"odd name.jsonl"}),
    ("batch -o odd", {"odd name.jsonl"}),
    ("batch --report odd", {"odd name.jsonl"}),
    ("vendor odd", {"odd name.jsonl"}),
    ("models odd", set()),
    ("odd", set()),
    ("-s odd", set()),
]
BASH = """
source ./script
complete() {{ :; }}
compopt() {{ [ "$2" = default ] && FILES=1; [ "$2" = nospace ] && OPEN=+; return 0; }}
COMP_WORDS=({words}) COMP_CWORD={index} FILES= OPEN=
_llmlite
[ -n "$FILES" ] && compgen -f -- "${{COMP_WORDS[COMP_CWORD]}}"
printf '%s\\n' "${{COMPREPLY[@]/%/$OPEN}}"
"""


@pytest.fixture
def script(run, tmp_path, monkeypatch):
    """A folder with a shell's script in it, and a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd name.jsonl").write_text("")

    def script(shell):
        if shutil.which(shell) is None or os.name != "posix":
            pytest.skip(f"{shell} is not here")
        code, out, err = run("completion", shell)
        assert (code, err) == (0, "")
        (tmp_path / "script").write_text(out)
    return script


def shell(*words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_bash(script):
    """bash offers what fits, files where a file is to stand, and puts no space behind what goes on."""
    script("bash")
    tests = []
    for line, _ in LINES:
        words = ["llmlite", *line.split()]
        tests.append(BASH.format(words=" ".join(words), index=len(words) - 1) + "echo =====\n")
    found = shell("bash", "--norc", "-c", "".join(tests)).split("=====\n")
    assert [set(filter(None, text.splitlines())) for text in found[:-1]] == [
        {re.sub("(?<=[/=])$", "+", word) for word in wanted} for _, wanted in LINES]


def test_bash_3(script):
    """bash 3, which macOS has, knows no compopt: it offers files by itself."""
    script("bash")
    text = "source ./script; compopt() { return 1; }; COMP_WORDS=(llmlite -f odd) COMP_CWORD=2; _llmlite; "
    text += "echo ${COMPREPLY[*]}"
    assert shell("bash", "--norc", "-c", text) == "odd name.jsonl\n"


def test_fish(script):
    """fish offers the same, with what each is for."""
    script("fish")
    lines = "".join(f"complete -C 'llmlite {line}'; echo =====;" for line, _ in LINES)
    found = shell("fish", "--no-config", "-c", f"source ./script; {lines}").split("=====\n")
    assert [{row.partition("\t")[0] for row in text.splitlines()} for text in found[:-1]] == [
        {name.replace(" ", "\\ ") if "complete -C" == "" else name for name in wanted} for _, wanted in LINES]
    assert "Ask many prompts" in shell("fish", "--no-config", "-c", "source ./script; complete -C 'llmlite bat'")


@contextlib.contextmanager
def terminal(*words):
    """A shell in a terminal of its own; `until(text)` is what it has written when that has come."""
    import pty
    pid, end = pty.fork()
    if not pid:  # pragma: no cover
        os.execvp(words[0], words)
    came = b""

    def until(text, typed=""):
        nonlocal came
        os.write(end, typed.encode())
        stop = time.monotonic() + 20
        while text.encode() not in came and time.monotonic() < stop:
            if select.select([end], [], [], 1)[0]:
                came += os.read(end, 4096)
        head, found, came = came.partition(text.encode())
        assert found, head
        return head.decode()

    try:
        yield until
    finally:
        os.close(end)
        os.waitpid(pid, 0)


def test_zsh(script):
    """zsh, in a terminal: Tab writes the one word that fits, and a space if it goes on no more."""
    script("zsh")
    with terminal("zsh", "-f", "-i") as until:
        until("ready:", "PS1=; unsetopt zle_bracketed_paste; stty -echo; autoload -U compinit; compinit -u -D; "
              "source ./script; llmlite() { print -rl -- said: $@ end:; }; LISTMAX=9999; print rea''dy:\n")
        for line, wanted in LINES:
            until("said:", f"llmlite {line}\t+\n")
            words = until("end:").split("\r\n")[1:-1]
            *before, typed = line.split()
            word = min(wanted, default=typed)
            assert words == [*before, *([word, "+"] if wanted and word[-1] not in "/=" else [word + "+"])]


def test_an_unknown_shell(run):
    """Exit 2 and one line that names those there are."""
    code, out, err = run("completion", "tcsh")
    assert (code, out) == (2, "") and one_line(err) and all(name in err for name in ("bash", "zsh", "fish"))


def test_examples():
    """The examples in the docstrings do what they say."""
    import doctest
    result = doctest.testmod(completion)
    assert result.attempted >= 1 and result.failed == 0
