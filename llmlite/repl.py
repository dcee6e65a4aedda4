"""The REPL, `llmlite chat`: a conversation over the lines of a terminal, or of whatever stdin is.

A line is one of the commands in the table at the end, or goes to the model.  What a failed turn had said stays at hand
for /retry, what was said before it stays as it was, and what came of a turn that was stopped stays too.
"""
from __future__ import annotations

import base64
import contextlib
import difflib
import glob
import json
import locale
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, TextIO, Tuple
from urllib.parse import urlsplit

from . import client, options

_JSON = Dict[str, Any]
_QUOTES = '"""'
_MOST_KEPT = 1000  # entries of the history's file
_END = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D"
_DIM, _BOLD, _RED, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[0m"
_REMARKS = {"length": "the answer was cut at the token limit",
            "content_filter": "the answer was cut or withheld by a content filter"}


class _Leave(Exception):
    """/quit."""


class Repl:
    """A conversation with whoever is at the terminal, or with the lines of a pipe; `run()` is all of it.

    Args:
        talk: the `Conversation` to begin with.
        connect: makes the client of a model; it stays open, for its ledger is read.
        verbatim: whether a model's name is its id as it is, not provider/model.
        attached: the parts of a message (files) that go with the first words.
        history: the file that keeps what was typed, or None.
        keep: called with the conversation whenever there is more or less of it.
        words: makes an error a line.
        verbose: whether the model's thinking shows.
    """

    def __init__(self, talk: client.Conversation, connect: Callable[[str], client.Client], *, verbatim: bool,
                 attached: Sequence[_JSON], history: Optional[str], keep: Callable[[client.Conversation], None],
                 words: Callable[[client.LLMError], str], verbose: bool) -> None:
        self.keep: Callable[[client.Conversation], None] = keep
        self.words: Callable[[client.LLMError], str] = words
        self.connect: Callable[[str], client.Client] = connect
        self.talk: client.Conversation = talk
        self.verbatim: bool = verbatim
        self.verbose: bool = verbose
        self.clients: List[client.Client] = [talk.client]
        self.attached: List[_JSON] = list(attached)
        self.unsent: List[_JSON] = []  # the messages of a turn of which nothing came
        self.path: Optional[str] = None  # where it was saved last
        self.saved: int = len(talk.messages)  # how many of its messages are in a file
        self.warned: str = ""  # which /load was refused for the rest
        self.failed: bool = False
        self.summed_up: bool = False
        self.began: str = time.strftime("%H:%M")
        self.screen: _Screen = _Screen()
        self.lines: _Lines = _Lines(self.screen, history, _Completions(self).of)

    def run(self) -> int:
        """Hear and answer until the end of the lines; returns the exit code."""
        before = f", {_count(self.saved, 'message')} before" if self.saved else ""
        self.screen.hint(f"{self._who()}{before}; /help lists the commands, {_END} ends")
        with contextlib.suppress(EOFError, _Leave):
            while self._turn():
                pass
            return 130
        return int(self.failed and not self.screen.is_terminal)

    def _turn(self) -> bool:
        """One thing that is said, and what is said to it; whether to go on."""
        text, quoted = self.lines.read()
        if text is None:
            return False
        try:
            self._hear(text, quoted)
        except client.LLMError as error:
            self._fail(self._words(error))
        except KeyboardInterrupt:  # of a command: an answer has its own
            if not self.screen.is_terminal:
                raise
            self.screen.interrupted("stopped")
        return True

    def _hear(self, text: str, quoted: bool) -> None:
        command = None if quoted else re.fullmatch(r"/([\w?-]*)(?:\s+(.*))?", text.rstrip(), re.S)
        if command is not None and ("\n" not in text or command[1] in _COMMANDS):
            self._command(command[1], command[2] or "")
        elif not quoted and text.strip() in ("exit", "quit") and self.screen.is_terminal:
            raise _Leave
        elif text.strip():
            parts, self.attached = self.attached, []
            content = [{"type": "text", "text": text}, *parts] if parts else text
            self._ask([{"role": "user", "content": content}])

    def _command(self, name: str, argument: str) -> None:
        command = _COMMANDS.get(name)
        if command is None:
            near = " or ".join(f"/{known}" for known in _near(name.lower()))
            asks = f": {near}?" if near else ""
            self._fail(f"there is no /{name}{asks} (/help lists them; a space before it sends it)")
        elif argument and not command.argument:
            self._fail(f"/{name} stands alone")
        elif not argument and command.argument == "PATH":
            self._fail(f"/{name} {command.argument}: give one")
        else:
            command.run(self, argument)

    def _fail(self, text: str) -> None:
        self.failed = True
        self.screen.note(text, _RED)

    def _words(self, error: client.LLMError) -> str:
        """An error's line, which names what was typed here."""
        return re.sub("^-([mf]) ", lambda found: {"m": "/model ", "f": "/file "}[found[1]], self.words(error))

    def _who(self) -> str:
        llm = self.talk.client
        name = llm._provider.name
        return f"{llm.model} at {name if name in _provider_names() else urlsplit(llm._base_url).netloc}"

    # ------------------------------------------------------------------------------------------------------ a turn

    def _ask(self, asked: List[_JSON], **options: Any) -> bool:
        """Send messages and show the answer as it comes; whether anything of it is in the history now."""
        before, was_full, self.unsent = len(self.talk.messages), self.talk.should_compact, asked
        try:
            with self.talk.stream(asked, keep_partial=True, **options) as stream:
                self._show(stream)
                self._remark(stream.response)
        except client.LLMError as error:
            self._fail(f"{self._words(error)}; {self._kept(before)}{self._cure(error)}")
        except KeyboardInterrupt:
            if not self.screen.is_terminal:
                raise
            self.screen.interrupted(f"stopped; {self._kept(before)}")
        finally:
            self.unsent = [] if len(self.talk.messages) > before else asked
        self.keep(self.talk)
        if self.talk.should_compact and not was_full:
            self.screen.hint(f"this conversation has used {self.talk.usage.total_tokens:,} tokens; /compact sums it up")
        return not self.unsent

    def _show(self, stream: client.Stream) -> None:
        for event in stream.events():
            if event.type == "text":
                self.screen.write(event.text)
            elif event.type == "reasoning" and self.verbose:
                self.screen.aside(event.text)
            elif event.tool_call is not None:
                self.screen.note(_call(event.tool_call))
        self.screen.end_line()

    def _remark(self, reply: client.Response) -> None:
        """What the text alone does not tell."""
        if reply.tool_calls:  # of a tool that is no function: a history must not end with what nobody answers
            self.talk.undo()
            self._fail("the model calls what nobody here can answer; the turn is taken back")
        elif reply.finish_reason in _REMARKS:
            self.screen.note(_REMARKS[reply.finish_reason])
        elif not reply.text:
            self.screen.note("the answer is empty")

    def _kept(self, before: int) -> str:
        kept = len(self.talk.messages) > before
        return "what came is kept, /retry asks again" if kept else "/retry sends it again"

    @staticmethod
    def _cure(error: client.LLMError) -> str:
        return ", /compact makes room" if isinstance(error, client.ContextLengthError) else ""

    # ---------------------------------------------------------------------------------------------------- commands

    def _model(self, name: str) -> None:
        if name:
            known = self.verbatim or name.partition("/")[0] in _provider_names()
            self.talk.client = self.connect(name if known else f"{self.talk.client._provider.name}/{name}")
            self.clients.append(self.talk.client)
        self.screen.note(self._who())

    def _system(self, text: str) -> None:
        if text:
            self.talk.system = None if text == "-" else text
        self.screen.note(f"system: {self.talk.system or 'none'}")

    def _file(self, word: str) -> None:
        if word:
            path = _path(word)
            self.attached += client.user("", files=[path])["content"][1:]
            self.screen.note(f"{path} goes with your next message")
        else:
            self.screen.note(f"{_count(len(self.attached), 'file')} with your next message")

    def _save(self, word: str) -> None:
        path = _path(word) if word else self.path or time.strftime("chat-%Y%m%d-%H%M%S.json")
        if os.path.exists(path) and path != self.path:
            try:
                self.talk.client.load_conversation(path)
            except client.ConfigurationError as error:
                raise client.ConfigurationError(f"{error}; it stays as it is") from None
        try:
            self.talk.save(path)
        except OSError as error:
            raise client.ConfigurationError(f"{path}: {error.strerror or error}") from None
        self.path, self.saved = path, len(self.talk.messages)
        self.screen.note(f"{_count(self.saved, 'message')} saved in {path}")

    def _load(self, word: str) -> None:
        if len(self.talk.messages) != self.saved and self.warned != word:
            self.warned = word
            raise client.ConfigurationError("what was said here is not saved: /save it, or the same again drops it")
        path, last = _path(word), self.talk
        self.talk = last.client.load_conversation(path, tools=last.tools, **last.options)
        self.talk.compact_at = self.talk.compact_at or last.compact_at
        self.path, self.saved, self.unsent, self.summed_up = path, len(self.talk.messages), [], False
        self.keep(self.talk)
        self.screen.note(f"{_count(self.saved, 'message')} loaded from {path}")

    def _usage(self, _: str) -> None:
        ledgers = [llm.ledger for llm in self.clients]
        spent = sum((ledger.usage for ledger in ledgers), client.Usage())
        calls, cached, failed = (sum(getattr(ledger, name) for ledger in ledgers)
                                 for name in ("calls", "cached", "failed"))
        others = ((cached, "from the cache"), (failed, "failed"))
        more = "".join(f", {number:,} {what}" for number, what in others if number)
        self.screen.note(f"since {self.began}: {_count(calls, 'call')}{more}; {_tokens(spent)}")
        said = f"{_count(len(self.talk.messages), 'message')}; {_tokens(self.talk.usage)}"
        self.screen.note(f"this conversation{', since it was summed up' if self.summed_up else ''}: {said}")

    def _retry(self, _: str) -> None:
        taken = [] if self.unsent else self.talk.undo()
        asked = self.unsent or [message for message in taken if message["role"] == "user"]
        if not asked:
            raise client.ConfigurationError("nothing was said that could be sent again")
        self.screen.hint(f"again: {_shortened(_text_of(asked[-1]))}")
        if not self._ask(asked, **({"cache": "refresh"} if taken else {})):
            self.talk.messages += taken  # as it was
            self.unsent = [] if taken else asked

    def _undo(self, _: str) -> None:
        taken, self.unsent = self.unsent or self.talk.undo(), []
        self.keep(self.talk)
        self.screen.note(f"taken back: {_shortened(_text_of(taken[0]))}" if taken else "nothing to take back")

    def _compact(self, _: str) -> None:
        before = len(self.talk.messages)
        self.screen.hint("summing up ...")
        reply = self.talk.compact()
        if reply is None:
            self.screen.note("too little was said to sum it up")
        else:
            self.summed_up = True
            self.keep(self.talk)
            now, cost = len(self.talk.messages), _tokens(reply.usage)
            self.screen.note(f"{_count(before, 'message')} are {now:,} now; the summary took {cost}")

    def _copy_last(self, _: str) -> None:
        answers = [_text_of(message) for message in self.talk.messages if message["role"] == "assistant"]
        text = next(filter(None, reversed(answers)), None)
        if text is None:
            raise client.ConfigurationError("there is no answer to copy")
        where = _copied(text) or self.screen.copied(text)
        if where is None:
            raise client.ConfigurationError("no clipboard here: wl-copy, xclip, xsel or pbcopy is needed")
        self.screen.note(f"{_count(len(text), 'character')} copied ({where})")

    def _help(self, _: str) -> None:
        for name, command in _COMMANDS.items():
            self.screen.note(f"{f'/{name} {command.argument}':<16} {command.help}")
        self.screen.note('A line that ends in "\\" goes on with the next; what stands between """ and\n'
                         f'""" is one message. Ctrl-C stops an answer and keeps what came; {_END} ends.')

    def _quit(self, _: str) -> None:
        raise _Leave


# ---------------------------------------------------------------------------------------------------------------------
# the terminal
# ---------------------------------------------------------------------------------------------------------------------


def _is_tty(stream: Any) -> bool:
    return stream is not None and stream.isatty()


class _Screen:
    """What shows where: on a terminal all on stdout, ours in colour; elsewhere answers on stdout, the rest on stderr.

    A terminal gets no control characters of others, for what a model says may come from anybody.
    """

    def __init__(self) -> None:
        self.is_terminal: bool = _is_tty(sys.stdin) and _is_tty(sys.stdout)
        self.paints: bool = self.is_terminal and not os.environ.get("NO_COLOR") and (
            os.environ.get("TERM") != "dumb" and (os.name != "nt" or "WT_SESSION" in os.environ))
        self.aside_on: TextIO = sys.stdout if self.is_terminal else sys.stderr
        self.in_line: bool = False  # whether a line is begun
        self.thinking: bool = False  # whether what came last was thinking

    def write(self, text: str) -> None:
        """A piece of an answer."""
        if self.thinking:
            self.end_line()
            self._put("\n", "", self.aside_on)
        self.thinking = False
        self._piece(text, "", sys.stdout)

    def aside(self, text: str) -> None:
        """A piece of the model's thinking."""
        if not self.thinking:
            self.end_line()
        self.thinking = True
        self._piece(text, _DIM, self.aside_on)

    def _piece(self, text: str, colour: str, stream: Any) -> None:
        self._put(text, colour, stream)
        self.in_line = not text.endswith("\n") if text else self.in_line

    def end_line(self) -> None:
        if self.in_line:
            self._put("\n", "", self.aside_on if self.thinking else sys.stdout)
        self.in_line = False

    def note(self, text: str, colour: str = _DIM) -> None:
        """A line of ours."""
        self.end_line()
        self.thinking = False
        if self.is_terminal:
            self._put(text, colour, sys.stdout)
            self._put("\n", "", sys.stdout)
        else:
            self._put("".join(f"llmlite: {line}\n" for line in text.split("\n")), "", sys.stderr)

    def interrupted(self, text: str) -> None:
        """A line of ours below the "^C" that the terminal shows."""
        self.in_line = True
        self.note(text)

    def hint(self, text: str) -> None:
        """A line that is of no use but to who types."""
        if self.is_terminal:
            self.note(text)

    def _put(self, text: str, colour: str, stream: Any) -> None:
        if _is_tty(stream):
            text = text.translate(client._CONTROLS)
        if stream is not None:  # for which print() would take stdout
            print(f"{colour}{text}{_PLAIN}" if colour and self.paints else text, end="", file=stream, flush=True)

    def copied(self, text: str) -> Optional[str]:
        """Have the terminal itself take a text to its clipboard, wherever it is; many do."""
        if not self.is_terminal:
            return None
        print(f"\x1b]52;c;{base64.b64encode(text.encode('utf-8', 'replace')).decode()}\x07", end="", flush=True)
        return "by the terminal, if it does that"


class _Lines:
    """What is typed, with readline where that is, or piped in."""

    def __init__(self, screen: _Screen, history: Optional[str], complete: Callable[[str], List[str]]) -> None:
        self.screen: _Screen = screen
        self.history: Optional[str] = history
        self.last: str = ""
        self.readline: Any = _readline(complete) if screen.is_terminal else None
        self.interrupted: bool = False  # by Ctrl-C, at a line on which there was nothing
        if self.readline is not None:
            for entry in self._entries():
                self._remember(entry)

    def read(self) -> Tuple[Optional[str], bool]:
        """What is said next, and whether it stood in quotes; None after Ctrl-C, twice.  Raises EOFError at the end."""
        while True:
            self.screen.hint("")
            try:
                text, quoted = self._message()
                self.interrupted = False
                self._keep(text)
                return text, quoted
            except EOFError:
                self.screen.hint("")
                raise
            except client.ConfigurationError as error:  # no text: of a file the rest is none either
                if not self.screen.is_terminal:
                    raise
                self.screen.note(str(error), _RED)
            except KeyboardInterrupt:
                if not self.screen.is_terminal:
                    raise
                if self._is_second():
                    return None, False

    def _is_second(self) -> bool:
        """Whether Ctrl-C came twice; the first clears what is typed, and if there is nothing says how to end."""
        typed = self.readline is not None and bool(self.readline.get_line_buffer())
        again, self.interrupted = self.interrupted and not typed, not typed
        if not typed:
            self.screen.hint("")
        if not typed and not again:
            self.screen.hint(f"Ctrl-C again, or {_END}, ends this")
        return again

    def _message(self) -> Tuple[str, bool]:
        """A line; or several, of which all but the last end in a backslash, or that stand between quotes."""
        text = ""
        while not text.strip():
            text = self._line("> ")
        if text.lstrip().startswith(_QUOTES):
            return self._quoted(text.lstrip()[len(_QUOTES):]), True
        while text.endswith("\\"):
            text = f"{text[:-1]}\n{self._more() or ''}"
        return text, False

    def _quoted(self, text: str) -> str:
        while not text.rstrip().endswith(_QUOTES):
            more = self._more()
            if more is None:
                return text.strip("\n")
            text += "\n" + more
        return text.rstrip()[:-len(_QUOTES)].strip("\n")

    def _more(self) -> Optional[str]:
        """The next line of a message, or None at the end of all: what was said until then is said."""
        with contextlib.suppress(EOFError):
            return self._line(". ")
        return None

    def _line(self, prompt: str) -> str:
        line = self._typed(prompt) if self.screen.is_terminal else self._piped(prompt)
        return options.piped_text(line.encode("utf-8", "surrogateescape"), "/file takes images, PDF and sound")

    @staticmethod
    def _piped(prompt: str) -> str:
        if _is_tty(sys.stdin) and sys.stderr is not None:  # and stdout is a file
            print(prompt, end="", file=sys.stderr, flush=True)
        line = "" if sys.stdin is None else sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")

    def _typed(self, prompt: str) -> str:
        """A line of the terminal's, in bold letters."""
        if not self.screen.paints or _is_libedit(self.readline):  # which would count the escapes as columns
            return input(prompt)
        try:
            return input(prompt + (_BOLD if self.readline is None else f"\001{_BOLD}\002"))
        finally:
            print(_PLAIN, end="", flush=True)

    def _entries(self) -> List[str]:
        """What the history's file holds; one that has grown long is cut."""
        entries: List[str] = []
        with self._history() as path, open(path, encoding="utf-8") as file:
            for line in file:
                with contextlib.suppress(ValueError):  # torn by a crash, or of somebody else: nothing to recall
                    entries.append(str(json.loads(line)))
            if len(entries) > 2 * _MOST_KEPT:
                client._write_own(path, "".join(f"{json.dumps(entry)}\n" for entry in entries[-_MOST_KEPT:]))
        return entries[-_MOST_KEPT:]

    def _keep(self, text: str) -> None:
        """Have a message in the history, and in its file, which other terminals write to as well."""
        if self.readline is None or text == self.last:
            return
        self._remember(text)
        with self._history() as path:
            os.makedirs(os.path.dirname(os.path.abspath(path)), 0o700, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
                file.write(json.dumps(text) + "\n")

    def _remember(self, text: str) -> None:
        self.last = text
        with contextlib.suppress(UnicodeError):  # a system without a locale that has these letters
            self.readline.add_history(text)

    @contextlib.contextmanager
    def _history(self) -> Iterator[str]:
        """The history's file; one that cannot be read or written is told of once, and left alone."""
        try:
            yield self.history or os.devnull
        except FileNotFoundError:  # the first time
            pass
        except OSError as error:
            self.screen.note(f"{self.history}: {error.strerror}; what you type is not kept", _RED)
            self.history = None


def _is_libedit(readline: Any) -> bool:
    return "libedit" in (getattr(readline, "__doc__", None) or "")


def _readline(complete: Callable[[str], List[str]]) -> Any:
    """The module, ready for use, or None where there is none, as on Windows."""
    _take_utf8()
    try:
        import readline
    except ImportError:
        return None
    found: List[str] = []

    def completed(_: str, state: int) -> Optional[str]:
        if state == 0:
            begun = readline.get_line_buffer()[:readline.get_endidx()]
            found[:] = [line[readline.get_begidx():] for line in complete(begun) if line.startswith(begun)]
        return found[state] if state < len(found) else None

    readline.set_auto_history(False)
    readline.set_completer_delims(" ")
    readline.set_completer(completed)
    for setting in ("bind ^I rl_complete",) if _is_libedit(readline) else (
            "tab: complete", "set enable-bracketed-paste on"):  # a text that is pasted is one message
        readline.parse_and_bind(setting)
    return readline


def _take_utf8() -> None:
    """Have readline take UTF-8 in a locale without it, for that is what the terminals of today send.

    It asks the environment, as it is imported and at each line, and this process, for its history.
    """
    name = next(filter(_speaks_utf8, ("", "C.UTF-8", "en_US.UTF-8")), "")
    os.environ.update({"LC_ALL": name} if name else {})


def _speaks_utf8(name: str) -> bool:
    try:
        return "utf8" in locale.setlocale(locale.LC_CTYPE, name).lower().replace("-", "")
    except locale.Error:  # there is none of this name
        return False


# ---------------------------------------------------------------------------------------------------------------------
# completion
# ---------------------------------------------------------------------------------------------------------------------


class _Completions:
    """What the Tab key can make of a line: commands, names of models, paths."""

    def __init__(self, repl: Repl) -> None:
        self.repl = repl
        self.ids: Dict[client.Client, List[str]] = {}

    def of(self, line: str) -> List[str]:
        name, space, argument = line.partition(" ")
        if not space:
            return [f"/{known} " if command.argument else f"/{known}" for known, command in _COMMANDS.items()]
        command = _COMMANDS.get(name[1:]) if name.startswith("/") else None
        complete = {"PATH": _paths, "NAME": self._models}.get(command.argument.strip("[]")) if command else None
        return [f"{name} {word}" for word in complete(argument)] if complete else []

    def _models(self, begun: str) -> List[str]:
        """Names as /model takes them: ids, with their provider where they need it."""
        llm = self.repl.talk.client
        ids, known = self._ids(llm), _provider_names()
        if self.repl.verbatim:
            return ids
        names = [f"{llm._provider.name}/{name}" for name in ids]
        bare = [name for name in ids if name.partition("/")[0] not in known]
        return [*names, *bare, *(f"{name}/" for name in known)] if begun else names

    def _ids(self, llm: client.Client) -> List[str]:
        """What the provider offers, asked for once; one that does not tell in time has nothing to offer."""
        if llm not in self.ids:
            self.ids[llm] = []
            with contextlib.suppress(client.LLMError):
                self.ids[llm] = llm.models(deadline=3)
        return self.ids[llm]


def _provider_names() -> List[str]:
    return [name for name, _, _ in client.providers()]


def _paths(begun: str) -> List[str]:
    """The files and folders whose paths begin so."""
    whole = os.path.expanduser(begun)
    found = sorted(glob.glob(glob.escape(whole) + "*"))
    return [begun + path[len(whole):] + (os.sep if os.path.isdir(path) else "") for path in found]


# ---------------------------------------------------------------------------------------------------------------------
# words
# ---------------------------------------------------------------------------------------------------------------------


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _tokens(usage: client.Usage) -> str:
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    return f"{usage.input_tokens:,} input tokens{cached}, {usage.output_tokens:,} output tokens"


def _shortened(text: str, most: int = 70) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most - 3] + "..."


def _text_of(message: _JSON) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def _call(call: client.ToolCall) -> str:
    """A tool call as it would stand in Python."""
    given = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call.arguments.items())
    return _shortened(f"{call.name}({given})", 200)


def _near(word: str) -> List[str]:
    """The commands that somebody may have meant: they begin so, or are nearly so, or their help has the word."""
    return [name for name in _COMMANDS if word and name.startswith(word)] or difflib.get_close_matches(
        word, _COMMANDS, 3, 0.6) or [name for name, command in _COMMANDS.items()
                                     if len(word) > 2 and word in re.findall(r"\w+", command.help)]


def _path(word: str) -> str:
    """A path as it is typed, pasted, or dropped onto a terminal, which quotes it as a shell wants it."""
    words = [word]
    if not os.path.exists(os.path.expanduser(word)):
        with contextlib.suppress(ValueError):  # no quoting
            words = [word.strip('"')] if os.name == "nt" else shlex.split(word)
    return os.path.expanduser(words[0] if len(words) == 1 else word)


_CLIPBOARDS = (  # program, the variable without which it cannot work, what it reads
    ("wl-copy", "WAYLAND_DISPLAY", "utf-8"), ("xclip -selection clipboard", "DISPLAY", "utf-8"),
    ("xsel -bi", "DISPLAY", "utf-8"), ("pbcopy", "PATH", "utf-8"), ("clip.exe", "PATH", "utf-16"))


def _copied(text: str) -> Optional[str]:
    """Put a text onto the clipboard; returns the program that took it, or None."""
    for line, variable, encoding in _CLIPBOARDS:
        words = line.split()
        program = shutil.which(words[0]) if os.environ.get(variable) else None
        if program is not None:
            with contextlib.suppress(OSError, subprocess.SubprocessError):  # the next one may do
                subprocess.run([program, *words[1:]], input=text.encode(encoding, "replace"), timeout=5, check=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                return words[0]
    return None


class _Command(NamedTuple):
    run: Callable[[Repl, str], None]
    argument: str  # as the help shows it: "" takes none, "PATH" needs one
    help: str


_COMMANDS: Dict[str, _Command] = {
    "model": _Command(Repl._model, "[NAME]", "go on with another model, or say which it is"),
    "system": _Command(Repl._system, "[TEXT]", 'set the system prompt ("-": none), or show it'),
    "file": _Command(Repl._file, "[PATH]", "send an image, PDF, sound or text with the next message"),
    "save": _Command(Repl._save, "[PATH]", "write the conversation to a file"),
    "load": _Command(Repl._load, "PATH", "go on with one that was saved"),
    "usage": _Command(Repl._usage, "", "calls and tokens"),
    "retry": _Command(Repl._retry, "", "send the last message again"),
    "undo": _Command(Repl._undo, "", "take the last turn back"),
    "compact": _Command(Repl._compact, "", "have the model sum up all but the last turns"),
    "copy-last": _Command(Repl._copy_last, "", "copy the last answer to the clipboard"),
    "help": _Command(Repl._help, "", "show this"),
    "quit": _Command(Repl._quit, "", "end; so do exit and quit"),
}
