"""What the command line and the notebook's magics share: options, and what they come to as arguments of the client."""
from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
from typing import Any, Callable, Dict, Iterable, Iterator, List, NoReturn, Optional, Tuple

from . import cache, client

OPTIONS: Dict[str, Tuple[type, ...]] = {  # what chat() takes by name; all the rest goes into the body as it is
    "temperature": (int, float), "top_p": (int, float), "top_k": (int,), "max_tokens": (int,), "stop": (str, list),
    "seed": (int,), "reasoning_effort": (str,), "logprobs": (int, bool), "tools": (list,), "tool_choice": (str, dict),
    "prompt_cache": (bool, str), "extra": (dict,), "headers": (dict,), "timeout": (int, float), "max_rounds": (int,)}
_KINDS = {int: "a whole number", float: "a number", dict: "a JSON object", list: "a JSON list of objects"}
_ELSEWHERE = {"system": "give -s", "model": "give -m", "schema": "give --schema", "deadline": "give --deadline",
              "cache": "give --cache", "provider": "give -p", "base_url": "give --base-url",
              "api_key": 'set it in the variable that "llmlite providers" names',
              "messages": "the prompt is what is asked", "stream": "it is no setting"}
_FLAGS_INSTEAD = {name: here for here, names in {  # of other programs
    _ELSEWHERE["api_key"]: "api_key key token", "give --base-url": "url api_base endpoint host",
    "give -f": "image images attachment", "give --schema": "json_schema response_format",
    "answers stream by themselves": "stream"}.items() for name in names.split()}


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help that reads the same on every Python and every terminal, for the README shows it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=24, width=88)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(action.metavar)
        names = ", ".join(action.option_strings)  # before 3.13 argparse says "-m MODEL, --model MODEL"
        return names if action.nargs == 0 else f"{names} {action.metavar}"


class Parser(argparse.ArgumentParser):
    """argparse with headings of its own (they differ between Pythons) and one line for a wrong usage."""

    def __init__(self, name: str, about: str, usage: str, epilog: str) -> None:
        super().__init__(name, usage or f"{name} [OPTIONS]", about, epilog, add_help=False, allow_abbrev=False,
                         formatter_class=_Help)
        self.word: Callable[..., argparse.Action] = self.add_argument_group("arguments").add_argument
        self.option: Callable[..., argparse.Action] = self.add_argument_group("options").add_argument
        self.option("-h", "--help", action="help", help="show this text")

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one line, in which no key shows."""
        flag = re.match("unrecognized arguments: --([a-z-]+)", message)
        if flag:
            name, text = flag[1].replace("-", "_"), self.format_help()
            cure = _FLAGS_INSTEAD.get(name) or (f"give -o {name}=..." if name in OPTIONS and " -o " in text else "")
            near = [] if cure else client._near(flag[1], re.findall(r" --([a-z-]+)", text))
            cure = cure or "".join(f"did you mean --{one}?" for one in near)
            message = (flag.group() if cure == _ELSEWHERE["api_key"] else message) + f": {cure}" * bool(cure)
        message = re.sub(client._KEY_SHAPE, "***", message)
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_client_options(parser: Parser, bounded: str = "everything") -> None:
    """Who is asked, and for how long; `bounded` is what the deadline is for."""
    parser.option("-m", "--model", metavar="MODEL", help="provider/model; with -p or --base-url the model's id "
                  "as it is (default: LLMLITE_MODEL)")
    parser.option("-p", "--provider", metavar="NAME", help='one that "llmlite providers" lists')
    parser.option("--base-url", metavar="URL", help="the API's address (default: the provider's)")
    add_deadline(parser, bounded)


def add_deadline(parser: Parser, bounded: str = "everything") -> None:
    """For how long alone."""
    parser.option("--deadline", metavar="SECONDS", type=_seconds, help=f"for {bounded}, retries and waits included")


def _seconds(word: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(word) < math.inf:
            return float(word)
    raise argparse.ArgumentTypeError(f"{word!r} is no number of seconds above zero")


def setting(word: str) -> Tuple[str, Any]:
    """A -o as (key, value)."""
    key, equals, text = utf8(word).partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{word!r} is not KEY=VALUE")
    if key in _ELSEWHERE:
        raise argparse.ArgumentTypeError(f"{key}=...: {_ELSEWHERE[key]}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    kinds = OPTIONS.get(key)
    if kinds is None or value is None or type(value) in kinds and (
            key != "tools" or all(isinstance(tool, dict) for tool in value)):
        return key, value
    if str in kinds:
        return key, text
    kind = _KINDS[float if float in kinds else kinds[0]]
    raise argparse.ArgumentTypeError(f"{word!r}: {key} takes {kind}")


def utf8(word: str) -> str:
    """A word of the command line as UTF-8, whatever the locale took it for. Not for paths: they are what they are."""
    try:
        return os.fsencode(word).decode("utf-8", "replace")
    except UnicodeEncodeError:  # the words are a program's own
        return word


def piped_text(data: bytes, hint: str) -> str:
    """The text that stdin holds. Raises ConfigurationError where a model would not be told what was written."""
    try:
        if b"\0" not in data:
            return data.decode("utf-8-sig")
        at = data.index(b"\0")
    except UnicodeDecodeError as error:
        at = error.start
    kind = client._contents("stdin", data)[2]
    raise client.ConfigurationError(f"stdin is {kind}", why=f"byte {at + 1} is no text in UTF-8", hint=hint)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """A file that cannot be read or written is an error that names it (main() takes a bare OSError for a lost pipe)."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise client.ConfigurationError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _schema(word: Optional[str]) -> Optional[Dict[str, Any]]:
    """A --schema: the JSON itself, or the file that holds it."""
    if word is None:
        return None
    text = word
    with naming("--schema" if word.lstrip().startswith("{") else word):
        if not word.lstrip().startswith("{"):
            with open(word, encoding="utf-8-sig") as file:
                text = file.read()
        schema = json.loads(text)
        if not isinstance(schema, dict):
            raise ValueError("a JSON schema is an object")
    return schema


def chat_options(args: argparse.Namespace) -> Dict[str, Any]:
    """The arguments of chat() that -o, -s and --schema are; what chat() does not know by name goes under `extra`."""
    known: Dict[str, Any] = {key: value for key, value in args.settings if key in OPTIONS and value is not None}
    extra = {**known.get("extra", {}), **{key: value for key, value in args.settings if key not in OPTIONS}}
    known.update(system=args.system, schema=_schema(args.schema), extra=extra or None)
    return known


def made_client(args: argparse.Namespace, **options: Any) -> client.Client:
    """The client that the options of `add_client_options` ask for."""
    return client.Client(args.model, provider=args.provider, base_url=args.base_url, deadline=args.deadline, **options)


@contextlib.contextmanager
def opened_cache(path: Optional[str]) -> Iterator[Optional[cache.Cache]]:
    """The file of --cache or LLMLITE_CACHE, if there is to be one."""
    path = path or os.environ.get("LLMLITE_CACHE")
    if not path:
        yield None
        return
    with naming(path):
        answers = cache.Cache(path)
    if cache.is_foreign(path):
        raise client.ConfigurationError(f"{path}: this file is no cache", why="it stays as it is", hint="give --cache "
                                        "or LLMLITE_CACHE a file of its own: one that is not there is made")
    with contextlib.closing(answers):
        yield answers


def contents(paths: Iterable[str]) -> Tuple[List[str], List[Dict[str, Any]]]:
    """The text files, each under its name, and the parts of a message that all others are."""
    texts, parts = [], []
    for path in paths:
        part = client.user("", files=path)["content"][1]
        file = client._attached(part)
        if file and file.kind == "text" and file.data:
            texts.append(f"{utf8(path)}:\n\n{file.text().rstrip()}")
        else:
            parts.append(part)
    return texts, parts


def message(text: str, parts: List[Dict[str, Any]]) -> Dict[str, Any]:
    """What a user says: a text, and files after it."""
    if not parts:
        return client.user(text)
    return {"role": "user", "content": [{"type": "text", "text": text}] * bool(text) + parts}
