"""The command line: `llmlite "prompt"`, or one of the commands in the table at the end; also `python -m llmlite`.

A command is one function that takes its words and returns the exit code; the first line of its docstring is its help.
Exit codes: 0, 1 (failed), 2 (wrong usage), 3 (a budget is spent), 130 (interrupted), 143 (terminated).
What is read and written is UTF-8, whatever the locale says.
"""
from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import importlib
import io
import json
import logging
import os
import re
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Dict, Iterable, Iterator, List, Mapping, Match

# isort: split
from typing import NoReturn, Optional, Sequence, Tuple

from . import client, options, talks

if TYPE_CHECKING:
    from . import batch, vendor

_log = logging.getLogger("llmlite")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line with these words (default: those of the process) and return the exit code."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        with contextlib.suppress(io.UnsupportedOperation):  # a stdin that a program has begun to read
            if hasattr(stream, "reconfigure"):  # half a surrogate pair must not stop the rest
                stream.reconfigure(encoding="utf-8", errors=errors)
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        print(end="", flush=True)  # here, where a closed pipe can still be caught
        return code
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # of stdin or stdout: the client's are LLMErrors
        _abandon_stdout()
        return 0 if isinstance(error, BrokenPipeError) else _fail(error)


def _run(words: List[str]) -> int:
    command = _COMMANDS.get(words[0]) if words else None
    try:
        return _ask(words) if command is None else command(words[1:])
    except client.LLMError as error:
        return _fail(error)
    except SystemExit as leaving:  # how argparse ends: --help, --version, wrong usage
        return int(leaving.code or 0)


def _fail(error: Exception) -> int:
    _say(_in_flags(error))
    return 1


def _worded(text: str) -> str:
    for pattern, instead in _WORDINGS:
        text = re.sub(pattern, instead, text)
    return text


def _flagged(text: str) -> str:
    return re.sub(r"(?<![\w.?&/'\"-])(\w+)=(?=(['\"\w])?)", _flag_of, _worded(text))


def _in_flags(error: Exception, words: Callable[[str], str] = _flagged) -> str:
    """An error's line, in which what we say names flags where the client says arguments; others' words stay."""
    if isinstance(error, client.LLMError):
        error = copy.copy(error)  # the log's are on their way to others
        error.args = (words(str(error.args[0])), *error.args[1:])
        error.hint = words(error.hint)
    return str(error)


def _flag_of(found: Match[str]) -> str:
    """The flag for an argument, with what parts it from a value that follows."""
    flag = _FLAGS.get(found[1], "")
    return flag + (" " if found[2] else "") if flag else f"-o {found[0]}" if found[1] in options.OPTIONS else found[0]


_FLAGS = {"model": "-m", "provider": "-p", "base_url": "--base-url", "deadline": "--deadline", "system": "-s",
          "schema": "--schema", "cache": "--cache", "files": "-f", "images": "-f", "tools": "--tool"}
_WORDINGS = (  # how else a line of the client's is worded here
    (r",? or give api_key=|\bgive api_key=, or |, or let user\(files=\) write it", ""),
    (r"\bgiven as api_key=", "that was sent"),
    (r"^give api_key=(?=: a file)", "set its provider's ..._BASE_URL to it if it is yours"),
    (r"^api_key is not a str fit", "the key is not fit"),
    (r": strip\(\) it$", ""),
    (r"\bover retry_after_max=(\S+)", r"over the \1 s that are waited here"),
    (r"Client\(skip_bad_events=True\) goes on without it", "--no-stream asks for the answer in one piece"),
    (r"ask Client\(.+?\); Client\(\.\.\., provider='(.+?)'\) sends", r"-p \1 sends"),
    (r'\bClient\("(.+?)"\)', r"-m \1"),
    (r'\bextra=\{"(\w+)": \.\.\.\}', r"-o \1=..."),
    (r" or session\.verify names it", " names it"),
    (r"^(?:file|image) (?=['\"])", "-f "),
    (r"give a path, a URL or bytes", "give a path or a URL"),
    (r"^schema is ", "--schema: "),
    (r'(?<=: )Client\("(\S+?)"\)', r"-m \1"),
    (r'^give api_key="\.\.\." or (set \w+); api_key=""', r"\1, to any word"),
    (r"\bseconds, \(connect, read\)", "seconds"),
    (r"\btimeout=\(connect, read\)", "timeout=SECONDS"),
    (r"\bidle_timeout=", "timeout="),
    (r"\bfewer workers=, or rate_limit=", "fewer --workers, or --rpm"),
    (r", or name fallbacks=", ", or ask another model"),
    (r": error\.body says which", ""),
    (r",? or None$", ""),
    (r"\bgive True, False or", "give true, false or"),
    (r"\bmodels\(\) asks", "models asks"),
    (r"\b(models|providers)\(\) list", r'"llmlite \1" list'),
    (r"^use a client of another$", "give another -p"),
    (r" \((?:retry_failed|at_provider)=True\)", ""))


def _abandon_stdout() -> None:
    """Without this the interpreter would write what is left at its end, and complain."""
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:  # OSError: a stdout that is no file
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


# ---------------------------------------------------------------------------------------------------------------------
# the terminal
# ---------------------------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    """One line on stderr, whatever the text holds."""
    if sys.stderr is not None:  # for which print() would take stdout
        print("llmlite:", "".join(c if c.isprintable() else " " for c in text), file=sys.stderr)


def _write(text: str) -> None:
    """Onto stdout at once; a terminal gets no control characters, for what a model says may come from anybody."""
    if sys.stdout is not None and sys.stdout.isatty():
        text = text.translate(client._CONTROLS)
    print(text, end="", flush=True)


class _Screen:
    """An answer as it comes: its text on stdout, and if asked for its thoughts and calls on stderr, dim."""

    def __init__(self, text: bool, thoughts: bool) -> None:
        self.text, self.thoughts = text, thoughts and sys.stderr is not None
        self.open = ""  # whose line is begun: "text" or "reasoning"

    def show(self, events: Iterable[client.Event]) -> None:
        """Show each event as it comes, and end the line however they end."""
        try:
            for event in events:
                self.take(event)
        finally:
            self.turn("")

    def take(self, event: client.Event) -> None:
        if event.type == "text" and self.text and event.text:
            self.turn("text")
            _write(event.text)
            self.open = "" if event.text.endswith("\n") else "text"
        elif event.type == "reasoning" and self.thoughts and event.text:
            self.turn("reasoning")
            self.aside(event.text)
        elif event.type == "tool_call":
            self.turn("")  # what is said after it is another line
            if self.thoughts and event.tool_call:
                self.turn("reasoning")
                self.aside(f"{event.tool_call.name}({event.tool_call.raw_arguments})")
                self.turn("")

    def turn(self, whose: str) -> None:
        """End the line that is another's."""
        if self.open == "text" != whose:
            _write("\n")
        elif self.open == "reasoning" != whose:
            print("\x1b[0m" if _shows_dim() else "", file=sys.stderr, flush=True)
        if whose == "reasoning" != self.open and _shows_dim():
            print("\x1b[2m", end="", file=sys.stderr)
        self.open = whose

    def aside(self, text: str) -> None:
        text = text.translate(client._CONTROLS) if sys.stderr.isatty() else text
        print(text, end="", file=sys.stderr, flush=True)


def _shows_dim() -> bool:
    """Whether stderr is a terminal that shows text dim, and may (see no-color.org)."""
    able = "WT_SESSION" in os.environ if os.name == "nt" else os.environ.get("TERM") != "dumb"
    return able and not os.environ.get("NO_COLOR") and sys.stderr.isatty()


@contextlib.contextmanager
def _logging_to(handler: logging.Handler) -> Iterator[None]:
    _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)


class _Notices(logging.StreamHandler):  # type: ignore[type-arg]  # which it takes at run time from Python 3.11 on
    """The log on stderr, its errors in the command line's words."""

    def format(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)
        record.args = tuple(_in_flags(arg) if isinstance(arg, client.LLMError) else arg for arg in record.args or ())
        return super().format(record)


def _notices(shown: bool = True, always: bool = False) -> ContextManager[None]:
    """The log's warnings (retries, skipped events) on a terminal; elsewhere a failed call leaves its one line alone.

    Those of the cache are shown wherever it is: its user's file may have been moved.
    """
    if _log.handlers:  # LLMLITE_DEBUG shows more
        return contextlib.nullcontext()
    handler = _Notices()
    if not (always or shown and sys.stderr is not None and sys.stderr.isatty()):
        handler.addFilter(logging.Filter("llmlite.cache"))
    return _logging_to(handler)


# ---------------------------------------------------------------------------------------------------------------------
# parsers
# ---------------------------------------------------------------------------------------------------------------------


_SHOW_PARSER = "--\0"  # an option that no shell can give


class _Shown(Exception):
    """A command's parser, as it is asked for."""

    def __init__(self, parser: _Parser) -> None:
        self.parser = parser


class _ShowParser(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> NoReturn:
        raise _Shown(parser)  # type: ignore[arg-type]


class _Parser(options.Parser):
    """The parser of a command, which the table at the end names."""

    first: str = ""  # the word that may be a command's, misspelt

    def __init__(self, command: Callable[[List[str]], int], usage: str = "", epilog: str = "") -> None:
        name = next((f"llmlite {name}" for name, function in _COMMANDS.items() if function is command), "llmlite")
        super().__init__(name, command.__doc__ or "", usage, epilog)
        self.option(_SHOW_PARSER, action=_ShowParser, nargs=0, help=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        """A command's options are wrong ones to a prompt, which is not what is to be said of them."""
        self.ask_back()
        super().error(message)

    def ask_back(self) -> None:
        """End with exit code 2 if the first word is nearly a command."""
        near = _near_command(self.first)
        if near:
            _say(f'"{self.first}" is no command: did you mean "llmlite {near}"? To send it as a prompt: '
                 f"llmlite -- {shlex.quote(self.first)}")
            self.exit(2)


# ---------------------------------------------------------------------------------------------------------------------
# asking
# ---------------------------------------------------------------------------------------------------------------------


def _ask(words: List[str]) -> int:
    """Ask a language model; the answer streams to stdout."""
    args, message = _asked(words)
    saved = talks.last() if args.go_on else {}
    _go_on(args, saved.get("asked", {}))
    started = time.monotonic()
    with _here(args.tools), options.opened_cache(args.cache) as kept, options.made_client(
            args, cache=kept) as llm, _notices(True, args.verbose):
        talk = _talk(llm, args, saved)
        reply = _answer(talk, message, args)
        if not (args.tools or args.go_on):
            reply.messages = []  # a file, say, that was sent is not to be printed by --json
        _keep(talk, args)
        seconds = time.monotonic() - started
        _report(reply, args, {**llm.ledger.snapshot(), "elapsed": seconds} if args.tools else {})
    return 0


def _asked(words: List[str]) -> Tuple[argparse.Namespace, Dict[str, Any]]:
    """The options, and the message to send."""
    commands = "".join(f"  {name:<19}  {_summary(function)}\n" for name, function in _COMMANDS.items())
    parser = _Parser(_ask, "llmlite [OPTIONS] [PROMPT]\n       llmlite COMMAND [OPTIONS]", f"""\
commands, which come first (for help: llmlite help COMMAND):
{commands}
A prompt that is a command's name, or begins with "-", goes after "--": llmlite -- models""")
    parser.word("prompt", nargs="?", metavar="PROMPT", type=options.utf8,
                help="the question; text on stdin is added, or stands alone; an image, PDF or sound there is attached")
    options.add_client_options(parser)
    _add_ask_options(parser)
    parser.first = words[0] if words else ""
    args, more = parser.parse_known_args(words)
    if words[:1] == [args.prompt] and not (args.system or args.files or args.settings or args.schema or args.tools
                                           or args.go_on):
        parser.ask_back()
    if more:
        cure = "" if any(word.startswith("-") for word in more) else ': a prompt of several words goes in "..."'
        parser.error(f"unrecognized arguments: {' '.join(more)}{cure}")
    texts, parts = options.contents(args.files)
    text, piped = _piped()
    prompt = "\n\n".join(filter(None, (*texts, args.prompt, text)))
    if not prompt.strip() and not parts + piped:
        parser.error("nothing to ask: give a prompt, or text on stdin")
    return args, options.message(prompt, parts + piped)


def _near_command(word: str) -> str:
    """The command that somebody may have meant, or ""."""
    import difflib  # here, for nothing else needs it
    return next(iter(difflib.get_close_matches(word.lower(), _COMMANDS, 1, 0.75)), "")


def _add_message_options(parser: _Parser) -> None:
    parser.option("-s", "--system", metavar="TEXT", type=options.utf8, help="the system prompt")
    parser.option("-f", "--file", metavar="FILE", dest="files", action="append", default=[],
                  help="an image, PDF or sound, or text that goes before the prompt under its name; a path or a URL; "
                  "may be repeated")
    parser.option("-c", "--continue", dest="go_on", action="store_true",
                  help="go on with the last talk, and its model if none is given")
    parser.option("-o", metavar="KEY=VALUE", dest="settings", type=options.setting, action="append", default=[],
                  help="temperature=0 and the like, or any other field of the request; the value is JSON if it "
                  "parses, else text; may be repeated")


def _add_tool(parser: _Parser) -> None:
    parser.option("--tool", metavar="MOD:FUNC", dest="tools", action="append", default=[],
                  help="a function that the model may call, module:function of a module in this folder or an "
                  "installed one; may be repeated")


def _add_cache(parser: _Parser) -> None:
    parser.option("--cache", metavar="FILE", help="keep answers there, and give them again, at once and unbilled "
                  "(default: LLMLITE_CACHE)")


def _add_ask_options(parser: _Parser) -> None:
    _add_message_options(parser)
    parser.option("--schema", metavar="SCHEMA", help="a JSON schema, or a file that holds one: print the answer as "
                  "the JSON value it asks for")
    _add_tool(parser)
    parser.option("--no-stream", action="store_true", help="ask for the answer in one piece")
    parser.option("-v", "--verbose", action="store_true", help="show on stderr what the model thinks, which functions "
                  "it calls, and retries")
    _add_cache(parser)
    _add_report_options(parser)
    parser.option("--version", action="version", version=f"llmlite {client.__version__}", help="show the version")


def _add_report_options(parser: _Parser) -> None:
    parser.option("--json", action="store_true", help="print one JSON object: text, usage, finish_reason and more")
    parser.option("--usage", action="store_true", help="one line on stderr: tokens, attempts, seconds")


def _summary(command: Callable[[List[str]], int]) -> str:
    return (command.__doc__ or "").partition("\n")[0]


def _piped() -> Tuple[str, List[Dict[str, Any]]]:
    """What stdin holds, unless it is a terminal: its text, or the part of a message that it is."""
    if sys.stdin is None or sys.stdin.isatty():
        return "", []
    if not hasattr(sys.stdin, "buffer"):  # a program's own
        return sys.stdin.read().rstrip(), []
    data = sys.stdin.buffer.read()
    if client._contents("stdin", data)[2] in _ATTACHED:
        return "", [client._file_part(data)]
    return options.piped_text(data, "models take text in UTF-8, PNG, JPEG, GIF, WebP, PDF, WAV and MP3").rstrip(), []


_ATTACHED = {*client._IMAGES, "PDF", "WAV", "MP3"}


def _go_on(args: argparse.Namespace, asked: talks.Asked) -> None:
    """Take the model of the last talk, and where it is, if no other is given."""
    if args.model is None and asked:
        args.model = asked["model"]
        if args.provider in (None, asked["provider"]):  # another's key is not for that address
            args.base_url = args.base_url or asked["base_url"]
        args.provider = args.provider or asked["provider"]
    args.model = args.model or os.environ.get("LLMLITE_MODEL")
    if not args.model:
        raise client.ConfigurationError("no model", hint='give -m PROVIDER/MODEL, or set LLMLITE_MODEL; '
                                        '"llmlite providers" lists the providers')


@contextlib.contextmanager
def _here(tools: List[str]) -> Iterator[None]:
    """For --tool this folder's modules can be imported, as with python -m; else not, for they may be anybody's."""
    added = [os.getcwd()] if tools else []
    sys.path[:0] = added
    try:
        yield
    finally:
        for path in added:
            with contextlib.suppress(ValueError):  # a module has put the path in order
                sys.path.remove(path)


def _tool(word: str) -> Callable[..., Any]:
    """The function of a --tool."""
    name, _, path = word.partition(":")
    try:
        found: Any = importlib.import_module(name) if path else None
        for step in path.split("."):
            found = getattr(found, step)
    except (Exception, SystemExit) as error:  # whatever the module does as it is imported
        why = f"{type(error).__name__}: {error}" if path else ""
        raise client.ConfigurationError(f"--tool {word}: no such function", why=why, hint=_tool_form(
            name, path)) from None
    try:
        client._tool_dicts([found])
    except TypeError as error:  # it cannot be described to a model
        what = str(error).replace("tools has ", "").replace(" or a tool dict", "")
        raise client.ConfigurationError(f"--tool {word}: {what}") from None
    return found  # type: ignore[no-any-return]


def _tool_form(name: str, path: str) -> str:
    """What to write for a --tool that is none: it may be a file's path."""
    steps = re.split(r"[/\\]", os.path.normpath(re.sub(r"\.py$", "", name)))
    if steps == [name] or not all(map(str.isidentifier, steps)):
        return "give MODULE:FUNCTION, of a module in this folder or an installed one"
    return f"write {'.'.join(steps)}:{path or 'FUNCTION'}"


def _talk(llm: client.Client, args: argparse.Namespace, saved: Dict[str, Any], **options: Any) -> client.Conversation:
    """A new conversation, or the saved one."""
    tools = [*map(_tool, args.tools), *(tool for key, given in args.settings if key == "tools" for tool in given or ())]
    talk = llm.conversation(system=args.system, tools=tools, **options)
    if saved:
        try:
            talk._fill(saved)
        except ValueError as error:
            raise talks.broken(error) from None
        talk.system = args.system or talk.system
    return talk


def _answer(talk: client.Conversation, message: Dict[str, Any], args: argparse.Namespace) -> client.Response:
    """Ask, and show the text as it comes."""
    screen, known = _Screen(not (args.json or args.schema), args.verbose), options.chat_options(args)
    known = {name: value for name, value in known.items() if name not in ("system", "tools")}
    with _nothing_lost(screen):
        if args.no_stream:
            reply = talk.send([message], **known)
            screen.show([client.Event("reasoning", reply.reasoning), client.Event("text", reply.text)])
            return reply
        with talk.stream([message], **known) as stream:
            screen.show(stream.events())
            return stream.response


@contextlib.contextmanager
def _nothing_lost(screen: _Screen) -> Iterator[None]:
    """Have an error's line hold what came of an answer that is not shown as it comes."""
    try:
        yield
    except client.LLMError as error:
        if error.response and error.response.text and not screen.text:
            what = "the answer" if isinstance(error, client.SchemaError) else "what came"
            error.why += f'; {what} is "{error.response.text.strip()}"'
        raise


def _keep(talk: client.Conversation, args: argparse.Namespace) -> None:
    """Make this the last talk, unless it waits for a function that is not here; a disk that is full fails no call."""
    if not talks.are_kept() or client._awaits_results(talk.messages):
        return
    try:
        talks.keep(talk, {"model": args.model, "provider": args.provider, "base_url": args.base_url})
    except OSError as error:
        _log.warning("this talk is not kept for --continue: %s: %s", error.filename, error.strerror)


def _report(reply: client.Response, args: argparse.Namespace, spent: Mapping[str, Any]) -> None:
    """What there is to say after the answer; `spent` is what all rounds of it took, if there were several."""
    remark = "" if args.json else _remark(reply)
    if args.json:
        print(json.dumps(reply.to_dict()))
    elif args.schema:
        print(json.dumps(reply.parsed))
    if remark:
        _say(remark)
    if args.usage:
        _say(_cost(reply, spent))


def _remark(reply: client.Response) -> str:
    """What the text alone does not tell."""
    if reply.tool_calls:
        return f"the model calls {', '.join(call.name for call in reply.tool_calls)}; --json shows with what"
    if reply.truncated:
        return "the answer was cut at the token limit"
    if reply.finish_reason == "content_filter":
        return "the answer was cut or withheld by a content filter"
    return "" if reply.text else "the answer is empty"


def _cost(reply: client.Response, spent: Mapping[str, Any]) -> str:
    usage, attempts, elapsed = (spent.get(name, getattr(reply, name)) for name in ("usage", "attempts", "elapsed"))
    counts = f"{usage.input_tokens} input tokens ({usage.cached_tokens} cached), " \
             f"{usage.output_tokens} output tokens ({usage.reasoning_tokens} reasoning)"
    came = "from the cache" if reply.cached else f"{attempts} attempt(s)"
    return f"{counts}, {came}, {elapsed:.2f} s, {reply.model}"


# ---------------------------------------------------------------------------------------------------------------------
# a conversation
# ---------------------------------------------------------------------------------------------------------------------


def _chat(words: List[str]) -> int:
    """Talk with a model, turn by turn; /help there lists what else it does."""
    parser = _Parser(_chat, epilog=_CHAT_HELP)
    options.add_client_options(parser, "each turn")
    _add_chat_options(parser)
    args = parser.parse_args(words)
    saved = talks.last() if args.go_on else {}
    _go_on(args, saved.get("asked", {}))
    from . import repl  # here, for nothing else needs it
    parts = client.user("", files=args.files)["content"][1:]
    with contextlib.ExitStack() as stack:
        answers = stack.enter_context(options.opened_cache(args.cache))
        stack.enter_context(_here(args.tools))
        stack.enter_context(_notices(always=args.verbose))

        def connect(model: str) -> client.Client:
            llm = stack.enter_context(options.made_client(
                argparse.Namespace(**{**vars(args), "model": model}), cache=answers))
            args.model = model  # for --continue, another time
            return llm

        talk = _talk(connect(args.model), args, saved, **_turn_options(args))
        talk.compact_at = args.compact_at
        return repl.Repl(
            talk, connect, verbatim=bool(args.provider or args.base_url), attached=parts, history=talks.history(),
            keep=lambda talk: _keep(talk, args), words=_in_flags, verbose=args.verbose).run()


def _turn_options(args: argparse.Namespace) -> Dict[str, Any]:
    """What -o sets for every turn."""
    return {name: value for name, value in options.chat_options(args).items()
            if value is not None and name not in ("system", "tools")}


def _add_chat_options(parser: _Parser) -> None:
    _add_message_options(parser)
    _add_tool(parser)
    parser.option("-v", "--verbose", action="store_true", help="show what the model thinks")
    _add_cache(parser)
    parser.option("--compact-at", metavar="TOKENS", type=_whole, default=100_000, help="remind of /compact when the "
                  "conversation has used as many (default: 100000)")
    parser.set_defaults(schema=None)


_CHAT_HELP = """\
What is typed is kept in llmlite/history below $XDG_STATE_HOME (else ~/.local/state), on
Windows below %LOCALAPPDATA%, for the arrow keys of another time, and the talk beside it, for
--continue; LLMLITE_NO_HISTORY=1 keeps neither. Of what is piped in each line is a message or
a command, and the answers alone go to stdout."""


# ---------------------------------------------------------------------------------------------------------------------
# a batch
# ---------------------------------------------------------------------------------------------------------------------


def _batch(words: List[str]) -> int:
    """Ask many prompts, a JSON line each; goes on where it was stopped."""
    parser = _Parser(_batch, "llmlite batch [OPTIONS] IN.jsonl -o OUT.jsonl", _BATCH_HELP)
    parser.word("source", metavar="IN.jsonl", help='the prompts; "-" is stdin')
    _add_batch_options(parser)
    args = parser.parse_args(words)
    _sort_settings(parser, args)
    _check_place(parser, args)
    if not (args.model or args.provider or args.base_url or os.environ.get("LLMLITE_MODEL")):
        raise client.ConfigurationError("no model", hint="give -m PROVIDER/MODEL, or set LLMLITE_MODEL; with -p or "
                                        "--base-url the lines may name theirs")
    limit = client.RateLimit(args.rpm, args.tpm) if args.rpm or args.tpm else None
    keeps = contextlib.nullcontext() if args.at_provider or args.cancel else options.opened_cache(args.cache)
    with keeps as answers, options.made_client(args, rate_limit=limit, cache=answers) as llm, _quiet():
        return _cancel_batch(llm, args) if args.cancel else _run_batch(llm, args)


def _run_batch(llm: client.Client, args: argparse.Namespace) -> int:
    from . import batch  # here, for nothing else needs it
    asked = {name: value for name, value in options.chat_options(args).items() if value is not None}
    with _dask(args.dask) as executor, batch.Stop(functools.partial(_stopping, args)) as stop:
        try:
            summary = batch.run_until(
                stop, args.source, args.output, client=llm, workers=args.workers, executor=executor,
                retry_failed=args.retry_failed, max_total_tokens=args.max_total_tokens, progress=_is_watched(args),
                report=args.report, at_provider=args.at_provider, **asked)
        except batch.InputError as error:
            _say(_in_flags(error, _worded))  # what a line of JSON has is no flag
            return 2
        except KeyboardInterrupt:  # before anything was sent
            return 128 + stop.signal
        except OSError as error:
            if error.filename is None:  # stdout's: main() knows it
                raise
            kept = llm.ledger.attempts and os.path.isfile(args.output)  # no device, and not removed
            _say(f"{error.filename}: {error.strerror}"
                 + (" (what was answered is kept; the same command goes on)" if kept else ""))
            return 1
    return _batch_end(summary, stop.signal, args)


def _cancel_batch(llm: client.Client, args: argparse.Namespace) -> int:
    from . import batch
    lines = batch.cancel(args.output, client=llm)
    _write("".join(f"{line}\n" for line in lines))
    if not lines:
        _say("no job is under way: all were fetched")
    return 0


_BATCH_HELP = """\
A line of IN.jsonl is {"prompt": "..."} or {"messages": [...]}, with any option of a chat beside
(temperature, model, system, extra, ...) and an "id"; or a line of OpenAI's Batch API. The
id of a line without one is line-N. Each answer is appended to OUT.jsonl as it comes, as a
line of OpenAI's Batch API with a chat.completion, whoever the provider is.

Stopped, killed or out of space: the same command goes on and asks what has no line yet.
Ctrl-C waits for the calls under way; again, and they are dropped.

With --at-provider the provider's Batch API does it (OpenAI, Azure, Anthropic, Gemini, Groq,
Mistral, Together): half the price, within a day. The jobs' ids stand in OUT.jsonl.jobs.json
as soon as they exist, what they hold in OUT.jsonl.jobs.ids. The same command goes on with
them after Ctrl-C, which they do not notice, and after a crash: nothing is submitted twice.
When all is answered both files may go. --cancel ends the jobs; what was done until then is
paid for, and the same command with --at-provider fetches it: the rest are failed lines.

Exit codes: 0 all is answered; 1 some lines failed, in this run or before; 2 the input is
wrong, nothing was sent; 3 the tokens are spent; 130, 143 stopped by a signal."""


def _add_batch_options(parser: _Parser) -> None:
    parser.option("-o", metavar="OUT.jsonl", dest="words", action="append", default=[],
                  help='the answers; "-" is stdout, where nothing is resumed. With a word before its first "=" it is '
                  "a setting for all lines instead, -o temperature=0 and the like; a line's own wins; may be repeated")
    parser.option("--output", metavar="OUT.jsonl", help='the answers too, for a name that has a "="')
    options.add_client_options(parser, "each call")
    parser.option("-s", "--system", metavar="TEXT", type=options.utf8, help="the system prompt")
    parser.option("--schema", metavar="SCHEMA", help="a JSON schema that answers are to fit, or a file that holds one")
    parser.option("--workers", metavar="N", type=_whole, default=8, help="calls under way at once (default: 8)")
    parser.option("--dask", metavar="ADDRESS", help="ask from a Dask cluster, whose scheduler is there "
                  "(tcp://host:8786); its workers need llmlite and the key's variable; --rpm and --tpm hold for each")
    parser.option("--rpm", metavar="N", type=_whole, help="requests a minute at most")
    parser.option("--tpm", metavar="N", type=_whole, help="tokens a minute at most")
    parser.option("--max-total-tokens", metavar="N", type=_whole, help="stop when this run has spent as many")
    parser.option("--cache", metavar="FILE", help="keep answers there, and give them again, at once and unbilled "
                  "(default: LLMLITE_CACHE); not with --at-provider")
    parser.option("--at-provider", action="store_true", help="have it done by the provider's Batch API: half the "
                  "price, within a day; --workers is of no matter then")
    parser.option("--cancel", action="store_true", help="cancel the jobs at the provider that are under way, say what "
                  "became of each, and do no more; another run may wait for them meanwhile")
    parser.option("--retry-failed", action="store_true", help="ask again for the lines that failed before")
    parser.option("--report", metavar="FILE.html", help="write a page at the end: times, tokens, errors")
    parser.option("--no-progress", action="store_true", help="no progress on stderr, as where that is no terminal")


@contextlib.contextmanager
def _dask(address: Optional[str]) -> Iterator[Any]:
    """The executor of the Dask cluster at an address, if there is one; else None."""
    if address is None:
        yield None
        return
    try:
        import distributed
        cluster = distributed.Client(address, timeout=10, set_as_default=False)
    except ImportError as error:
        raise client.ConfigurationError("--dask needs distributed", why=str(error),
                                        hint="pip install 'llmlite[dask]'") from None
    except (OSError, ValueError) as error:
        raise client.ConfigurationError(f"--dask {address}: no scheduler answers there", why=str(error),
                                        hint="give its address, as tcp://host:8786") from None
    with cluster:
        try:
            yield cluster.get_executor(pure=False)
        except RuntimeError as error:  # it takes no more calls
            hint = "what was answered is kept; the same command goes on"
            raise client.LLMError(f"--dask {address}", why=str(error), hint=hint) from None


def _whole(word: str) -> int:
    with contextlib.suppress(ValueError):
        if int(word) > 0:
            return int(word)
    raise argparse.ArgumentTypeError(f"{word!r} is no whole number above zero")


def _sort_settings(parser: _Parser, args: argparse.Namespace) -> None:
    """Tell the settings among the -o from the output: a setting has a name before its first "="."""
    names = [word for word in args.words if not ("=" in word and word.partition("=")[0].isidentifier())]
    try:
        args.settings = [options.setting(word) for word in args.words if word not in names]
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument -o: {error}")
    if any(key == "max_rounds" for key, _ in args.settings):
        parser.error("argument -o: max_rounds has no meaning in a batch")
    names += [] if args.output is None else [args.output]
    if len(names) != 1 or not names[0]:
        parser.error("no output: give -o OUT.jsonl (a name with \"=\" in it as --output)" if not any(names) else
                     f"several outputs: {', '.join(names)}")
    args.output = names[0]


def _check_place(parser: _Parser, args: argparse.Namespace) -> None:
    """Refuse what the provider's Batch API would not heed."""
    for name in ("rpm", "tpm", "max_total_tokens", "deadline", "cache", "dask") if args.at_provider else ():
        if getattr(args, name) is not None:
            parser.error(f"--{name.replace('_', '-')} has no meaning with --at-provider")


def _quiet() -> ContextManager[None]:
    """The log's warnings are counted in the end's line: of thousands of calls they would bury everything."""
    return _notices(shown=False)


def _is_watched(args: argparse.Namespace) -> bool:
    return not args.no_progress and sys.stderr is not None and sys.stderr.isatty()


def _stopping(args: argparse.Namespace) -> None:
    """Within a signal's handler, where print() might be at work already."""
    if _is_watched(args):
        word = "this request" if args.at_provider else "what is under way"
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), f"\nllmlite: stopping when {word} is answered; again: at once\n".encode())


def _batch_end(summary: batch.Summary, number: int, args: argparse.Namespace) -> int:
    """What a batch came to, in words and as the exit code."""
    total, done, failed, skipped, usage, retries, elapsed, stopped = summary
    resumes = args.output != "-"
    if stopped is not None:
        left = total - done - failed - skipped
        why = "interrupted" if stopped == "interrupted" else "the tokens are spent"
        there = "; the jobs go on at the provider" if args.at_provider else ""
        _say(f"{why}: {left} left" + (f"{there}; the same command goes on with them" if left and resumes else ""))
    again = "; --retry-failed asks the failed ones again" if failed and resumes else ""
    _say(f"{done} done, {failed} failed, {skipped} skipped; {usage.input_tokens} input tokens, {usage.output_tokens} "
         f"output tokens; {retries} retries; {elapsed:.1f} s{again}")
    codes = {"interrupted": 128 + number, "budget": 3}
    return codes[stopped] if stopped is not None else 1 if failed else 0


# ---------------------------------------------------------------------------------------------------------------------
# commands
# ---------------------------------------------------------------------------------------------------------------------


def _models(words: List[str]) -> int:
    """List the models that a provider offers, or those like a PATTERN."""
    parser = _Parser(_models, "llmlite models [OPTIONS] [PATTERN]")
    parser.word("pattern", nargs="?", metavar="PATTERN", help='part of a name, or a glob such as "gpt-*-mini"; upper '
                "case is lower case")
    options.add_client_options(parser)
    args = parser.parse_args(words)
    named = next((f": llmlite models -p {name}" for name, _, _ in client.providers() if name == args.pattern), "")
    if not (args.model or args.provider or args.base_url or os.environ.get("LLMLITE_MODEL")):
        raise client.ConfigurationError("no provider", hint=f"give -p NAME, -m PROVIDER/MODEL or --base-url URL{named}")
    with options.made_client(args) as llm, _notices():
        names = llm.models()
    return _list(names, args.pattern, "models", _write_line, named)


def _write_line(text: str) -> None:
    _write(text + "\n")


def _list(names: Iterable[str], pattern: Optional[str], what: str, show: Callable[[str], None], hint: str = "") -> int:
    """Show the names that have the pattern in them, or all of which it, a glob, is true; 1 if there is none."""
    import fnmatch  # here, for nothing else needs it
    names, wanted = list(names), (pattern or "").lower()
    wanted = wanted if any(mark in wanted for mark in "*?[") else f"*{wanted}*"
    found = [name for name in names if fnmatch.fnmatchcase(name.lower(), wanted)]
    for name in found:
        show(name)
    if not found and pattern:
        _say(f'none of {len(names)} {what} is like "{pattern}"{hint}')
    return 1 if pattern and not found else 0


def _providers(words: List[str]) -> int:
    """List the known providers, and whether their keys are set."""
    parser = _Parser(_providers, "llmlite providers [OPTIONS] [PATTERN]")
    parser.word("pattern", nargs="?", metavar="PATTERN", help="part of a name, or a glob")
    args = parser.parse_args(words)
    rows = {name: (variables.split() or ["-"], url) for name, url, variables in client.providers()}
    widths = max(map(len, rows)), max(len(name) for names, _ in rows.values() for name in names)
    head = [("NAME", "SET", "KEY VARIABLE", "BASE URL")]

    def show(name: str) -> None:
        variables, url = rows[name]
        lines = [*head, *((name if not at else "", _is_set(variable), variable, "" if at else url or "-")
                          for at, variable in enumerate(variables))]
        head.clear()
        for first, is_set, variable, last in lines:
            _write_line(f"{first:<{widths[0]}}  {is_set:<3}  {variable:<{widths[1]}}  {last}".rstrip())

    return _list(rows, args.pattern, "providers", show)


def _is_set(variable: str) -> str:
    return "-" if variable == "-" else "yes" if os.environ.get(variable) else "no"


def _help(words: List[str]) -> int:
    """Show what a command takes."""
    parser = _Parser(_help, "llmlite help [COMMAND]")
    parser.word("command", nargs="?", metavar="COMMAND", help="one of those that llmlite --help lists")
    name = parser.parse_args(words).command
    if name is not None and name not in _COMMANDS:
        near = _near_command(name)
        parser.error(f'there is no command "{name}": ' + (
            f'did you mean "{near}"?' if near else f"there are {', '.join(_COMMANDS)}"))
    return _run([name, "--help"] if name else ["--help"])


def _completion(words: List[str]) -> int:
    """Write the script that completes llmlite's words in a shell."""
    parser = _Parser(_completion, "llmlite completion [OPTIONS] SHELL", """\
bash: llmlite completion bash > ~/.local/share/bash-completion/completions/llmlite
zsh:  llmlite completion zsh > DIR/_llmlite, where DIR is a folder of $fpath
fish: llmlite completion fish > ~/.config/fish/completions/llmlite.fish
or, for the shell that runs: eval "$(llmlite completion bash)"; llmlite completion fish | source""")
    parser.word("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
    shell = parser.parse_args(words).shell
    from . import completion  # here, for nothing else needs it
    commands = {"": _parser_of(_ask), **{name: _parser_of(function) for name, function in _COMMANDS.items()}}
    values = {"NAME": [name for name, _, _ in client.providers()], "COMMAND": list(_COMMANDS),
              "MODEL": [f"{name}/" for name, _, _ in client.providers()],
              "KEY=VALUE": [f"{key}=" for key in sorted(options.OPTIONS)]}
    _write(completion.script(shell, commands, values))
    return 0


def _parser_of(command: Callable[[List[str]], int]) -> _Parser:
    """The parser that a command makes."""
    try:
        command([_SHOW_PARSER])
    except _Shown as shown:
        return shown.parser
    raise AssertionError


def _demo(words: List[str]) -> int:
    """Show a rate-limited call wait, retry and stream; no key, no network."""
    _Parser(_demo).parse_args(words)
    from . import testing  # here, for nothing else needs it

    stage = _Stage()

    def provider(request: testing.Request) -> testing.Reply:
        if len(server.requests) == 1:
            stage.say("server", f"{request.method} {request.path}: 429, Retry-After: 1")
            return testing.error(429, "Rate limit reached, slow down", retry_after=1)
        stage.say("server", f"{request.method} {request.path}: 200, a stream")
        return testing.stream(_DEMO_ANSWER, gap=0.06, usage=(14, len(_DEMO_ANSWER)))

    with testing.Server() as server, _demo_environment(), _logging_to(stage):
        server.handle(provider)
        _play(stage, server.url)
    return 0


def _play(stage: _Stage, url: str) -> None:
    print("A scripted provider on loopback will refuse the first request. The client, the call and its log are real.")
    print(f'\n    llm = llmlite.Client("demo", base_url="{url}")\n    stream = llm.stream("{_DEMO_PROMPT}")\n')
    with client.Client("demo", base_url=url) as llm:
        stage.say("ask", _DEMO_PROMPT)
        with llm.stream(_DEMO_PROMPT) as stream:
            stage.say("answer", "", end="")
            _Screen(True, False).show(stream.events())
        usage, spent = stream.response.usage, llm.ledger.snapshot()
    stage.say("usage", f"{usage.input_tokens} input tokens, {usage.output_tokens} output tokens")
    stage.say("ledger", ", ".join(f"{name} {spent[name]}" for name in ("calls", "attempts", "retries", "failed")))


class _Stage(logging.Handler):
    """Prints who does what, and when; the client's log lines too."""

    def __init__(self) -> None:
        super().__init__()
        self.started = time.monotonic()

    def say(self, who: str, text: str, end: str = "\n") -> None:
        with contextlib.suppress(BrokenPipeError):  # the server's thread comes here too; main() meets it again
            print(f"{time.monotonic() - self.started:5.2f} s  {who:<7} {text}", end=end, flush=True)

    def emit(self, record: logging.LogRecord) -> None:
        self.say("log", record.getMessage())


@contextlib.contextmanager
def _demo_environment() -> Iterator[None]:
    """No settings of the user's, and no proxy between the demo and its own server."""
    before = dict(os.environ)
    for name in before:
        if name.upper().startswith("LLMLITE_"):
            del os.environ[name]
    os.environ["no_proxy"] = "127.0.0.1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _replay(words: List[str]) -> int:
    """Send a failed request again, from the file that save_failed wrote."""
    parser = _Parser(_replay, "llmlite replay [OPTIONS] FILE")
    parser.word("file", metavar="FILE", help="it says where to send it; the key is today's")
    options.add_deadline(parser)
    _add_report_options(parser)
    parser.set_defaults(schema=None)
    args = parser.parse_args(words)
    with _notices():
        reply = client.replay(args.file, deadline=args.deadline)
    if not args.json:
        _Screen(True, False).show([client.Event("text", reply.text)])
    _report(reply, args, {})
    return 0


def _vendor(words: List[str]) -> int:
    """Copy client.py, which works alone, into a project."""
    parser = _Parser(_vendor, "llmlite vendor [OPTIONS] DEST")
    parser.word("dest", metavar="DEST", help="a folder, or a name that ends in .py")
    parser.option("--check", action="store_true", help="say whether the copy there is current; write nothing")
    parser.option("--force", action="store_true", help="overwrite a file that differs")
    args = parser.parse_args(words)
    from . import vendor  # here, for nothing else needs it

    path = args.dest if args.dest.endswith(".py") else os.path.join(args.dest, "client.py")
    with options.naming(path):
        if args.check:
            return _check_copy(vendor.at(path), path)
        vendor.copy(path, args.force)
    _write(f"{path}: llmlite {client.__version__}, sha256 {vendor.checksum()}\n")
    return 0


def _check_copy(found: vendor.Copy, path: str) -> int:
    """Say what a vendored file is; 1 if it is not as `vendor` would write it."""
    _write(f"{path}: llmlite {found.version}, {found.state}\n")
    return 0 if found.current else 1


_DEMO_PROMPT = "Why is the sky blue?"
_DEMO_ANSWER = ("Air ", "scatters ", "blue ", "light ", "far ", "more ", "than ", "red, ", "so ", "blue ", "comes ",
                "from ", "every ", "side.")

_COMMANDS: Dict[str, Callable[[List[str]], int]] = {
    "chat": _chat,
    "batch": _batch,
    "models": _models,
    "providers": _providers,
    "demo": _demo,
    "replay": _replay,
    "vendor": _vendor,
    "completion": _completion,
    "help": _help,
}

if __name__ == "__main__":
    sys.exit(main())
