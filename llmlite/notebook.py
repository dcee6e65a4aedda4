"""`%load_ext llmlite`: the magics `%%llm` and `%llm`, which ask a model from a notebook's cell.

    %%llm -m openai/gpt-5-mini --to summary
    Sum up in one sentence: {text}

The reply is shown as it comes, and is in `_` then.  What notebooks show of replies, streams and errors without the
magics is in `llmlite.client`, section "showing".
"""
from __future__ import annotations

import contextlib
import io
import os
import re
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Dict, List, Match, Optional, Tuple

from . import client

if TYPE_CHECKING:
    import argparse

    from . import options

_USAGE = "%%%%llm [OPTIONS]\nPROMPT\n\n%%llm [OPTIONS] [--] PROMPT"
_MORE = """\
A {name} in the prompt, in TEXT or in MODEL is the variable of that name, as str.format has
it; {{ and }} are braces. The reply streams into the cell, and is in _ then."""


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext llmlite` calls."""
    from IPython.core.magic import needs_local_scope, no_var_expand

    def llm(line: str, cell: Optional[str] = None, local_ns: Any = ()) -> Optional[client.Response]:
        """Ask a language model; `%llm -h` lists the options."""
        return _ask(shell, line, cell, {**shell.user_ns, **dict(local_ns)})

    needs_local_scope(llm)  # a function's variables are there too
    no_var_expand(llm)  # IPython would look for variables in the JSON of options
    shell.register_magic_function(llm, "line_cell", "llm")
    shell.input_transformers_cleanup.append(_with_questions)


def unload_ipython_extension(shell: Any) -> None:
    """What `%unload_ext llmlite` calls."""
    for magics in shell.magics_manager.magics.values():
        magics.pop("llm", None)
    with contextlib.suppress(ValueError):  # it was not loaded
        shell.input_transformers_cleanup.remove(_with_questions)


def _with_questions(lines: List[str]) -> List[str]:
    """A cell's lines, in which a `%llm` that ends in a question mark does not ask IPython for help."""
    if lines and lines[0].startswith("%%"):
        return lines
    done: List[str] = []
    for line in lines:
        found = re.match(r"((?:[^=%#]+=)*\s*)%llm\s(.*\?)\s*$", line)
        done.append(_as_call(found) if found and not _ends_in_string("".join(done)) else line)
    return done


def _ends_in_string(code: str) -> bool:
    """Whether what comes next is text of a string of several lines."""
    import tokenize
    try:
        for _ in tokenize.generate_tokens(io.StringIO(code).readline):
            pass
    except (tokenize.TokenError, SyntaxError) as error:  # lines of magics are no Python
        return re.search("multi-line string|unterminated triple-quoted", str(error)) is not None
    return False


def _as_call(found: Match[str]) -> str:
    return f"{found[1]}get_ipython().run_line_magic('llm', {found[2]!r})\n"


def _ask(shell: Any, line: str, cell: Optional[str], names: Dict[str, Any]) -> Optional[client.Response]:
    """Ask as the line says, and show the reply; None where only the options were to be told."""
    words, prompt = _split(line.strip(), cell)
    args = _options(words)
    if args is None:
        return None
    if args.to is not None and (not args.to.isidentifier() or iskeyword(args.to)):
        raise client.ConfigurationError(f"--to {args.to}: that is no variable's name")
    reply = _answer(args, prompt, names)
    if args.to is not None:
        shell.user_ns[args.to] = reply
    return reply


def _split(line: str, cell: Optional[str]) -> Tuple[List[str], str]:
    """The words of a magic's line, and the prompt so far as it is no word: the cell, or all from `--` on."""
    if cell is not None:
        return _words(line), cell.strip()
    if not line.startswith("-"):
        return [], line
    words, _, prompt = f"{line} ".partition(" -- ")
    return _words(words.strip()), prompt.strip()


def _words(line: str) -> List[str]:
    import shlex
    words = shlex.shlex(line, posix=True)
    words.whitespace_split, words.commenters, words.escape = True, "", ""  # Windows has backslashes in paths
    try:
        return list(words)
    except ValueError as error:
        raise client.ConfigurationError(f"%llm {line}", why=str(error), hint='quotes go in pairs; after " -- ", and in '
                                        "a cell below %%llm, they are only text") from None


def _options(words: List[str]) -> Optional[argparse.Namespace]:
    """What the words say; None where they asked for help, which is shown."""
    from . import options  # here: the parser costs time, and an import has none to spare
    parser = options.Parser("%llm", "Ask a language model; the answer streams into the cell.", _USAGE, _MORE)
    _add_options(parser)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parser.parse_args(words)
    except SystemExit as leaving:
        if leaving.code:
            raise client.ConfigurationError(said.getvalue().strip()) from None
        return None


def _add_options(parser: options.Parser) -> None:
    from . import options
    parser.word("words", nargs="*", metavar="PROMPT", help="the question, or what goes before the cell's text")
    options.add_client_options(parser)
    parser.option("-c", "--client", metavar="NAME", help="ask by the Client in this variable, or go on with the "
                  "conversation in it")
    parser.option("-s", "--system", metavar="TEXT", help="the system prompt")
    parser.option("-f", "--file", metavar="FILE", dest="files", action="append", default=[],
                  help="an image, or text that goes before the prompt under its name; may be repeated")
    parser.option("-o", metavar="KEY=VALUE", dest="settings", type=options.setting, action="append", default=[],
                  help="temperature=0 and the like, or any other field of the request; may be repeated")
    parser.option("--schema", metavar="SCHEMA", help="a JSON schema, a file that holds one, or the variable of a dict, "
                  "dataclass or pydantic model: the value is in _.parsed")
    parser.option("--cache", metavar="FILE", help="keep answers there, and give them again, at once and unbilled "
                  "(default: LLMLITE_CACHE)")
    parser.option("--to", metavar="NAME", help="put the reply into this variable too")


def _answer(args: argparse.Namespace, prompt: str, names: Dict[str, Any]) -> client.Response:
    """Ask, all that is asked being checked before, and show the reply as it comes."""
    from . import options
    args.model, args.system = (value and _filled(value, names) for value in (args.model, args.system))
    known = _chat_options(args, names)
    texts, parts = options.contents(args.files)
    asked = "\n\n".join(filter(None, (*texts, _filled(" ".join(args.words), names), _filled(prompt, names))))
    if not asked:
        raise client.ConfigurationError("nothing to ask", hint="write the prompt below %%llm, or after %llm")
    message = options.message(asked, parts)
    if args.client is not None:
        own = {"model": args.model, "deadline": args.deadline}
        known.update({name: value for name, value in own.items() if value is not None})
        return _client_of(args, names).stream([message], **known).display()  # type: ignore[no-any-return]
    if not (args.model or os.environ.get("LLMLITE_MODEL")):
        raise client.ConfigurationError("no model", hint="give -m PROVIDER/MODEL, or -c with a client's variable, or "
                                        "set LLMLITE_MODEL")
    with options.opened_cache(args.cache) as answers, options.made_client(args, cache=answers) as llm:
        return llm.stream([message], **known).display()


def _chat_options(args: argparse.Namespace, names: Dict[str, Any]) -> Dict[str, Any]:
    """What -o, -s and --schema say; the schema may be what a variable holds."""
    from . import options
    word, schema = args.schema, names.get(args.schema or "")
    args.schema = word if schema is None else schema if isinstance(schema, str) else None
    known = {name: value for name, value in options.chat_options(args).items() if value is not None}
    if schema is None or isinstance(schema, str):
        return known
    try:
        client._described({"schema": schema})
    except TypeError as error:
        raise client.ConfigurationError(f"--schema {word}", why=str(error)) from None
    return {**known, "schema": schema}


def _client_of(args: argparse.Namespace, names: Dict[str, Any]) -> Any:
    """What is in the variable of -c: a client, or a conversation."""
    for name in ("provider", "base_url", "cache"):
        if getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise client.ConfigurationError(f"--{option} has no meaning with -c: the client has its own")
    if args.client not in names:
        raise client.ConfigurationError(f"-c {args.client}: there is no variable of this name")
    if not hasattr(type(names[args.client]), "stream"):  # a module may have one
        raise client.ConfigurationError(f"-c {args.client}: that is a {type(names[args.client]).__name__}",
                                        hint="give the variable of a Client or a conversation")
    return names[args.client]


def _filled(text: str, names: Dict[str, Any]) -> str:
    """The text with the notebook's variables in the place of their names."""
    return re.sub(_BRACES, lambda found: _value(found, names), text)


# A brace that is text, a field as str.format has it, or a brace alone.
_BRACES = r"\{\{|\}\}|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|[{}]"
_HINT = "{{ and }} stand for braces"


def _value(found: Match[str], names: Dict[str, Any]) -> str:
    """What stands in the place of braces. Raises ConfigurationError."""
    import string
    field = found[0]
    if field in ("{{", "}}"):
        return field[0]
    if len(field) == 1:
        what = "a { that nothing closes" if field == "{" else "a } that nothing opens"
        raise client.ConfigurationError(f"{what}: {_line_at(found)}", hint=_HINT)
    name, shown = re.split(r"[.\[!:}]", field[1:], maxsplit=1)[0], " ".join(field.split())
    shown = shown if len(shown) <= 60 else f"{shown[:58]}…}}"
    if name not in names:
        why = f"there is no variable {name!r}" if name.isidentifier() else "that is no variable's name"
        raise client.ConfigurationError(f"{shown}: {why}", hint=_HINT)
    try:
        return string.Formatter().vformat(field, (), names)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise client.ConfigurationError(f"{shown} cannot be filled in", why=f"{type(error).__name__}: {error}",
                                        hint=f"a variable, its .attribute or [key], but nothing to work out; {_HINT}"
                                        ) from None


def _line_at(found: Match[str]) -> str:
    """The line in which something was found, so far as it stands near."""
    before, after = found.string[:found.start()].split("\n")[-1], found.string[found.start():].split("\n")[0]
    return f"{before[-30:]}{after[:30]}".strip()
