"""Scripts that complete the command line's words in bash, zsh and fish, made from the parsers of its commands.

    >>> print(script("bash", {"": argparse.ArgumentParser("llmlite")}, {}))  # doctest: +ELLIPSIS
    # bash completion for llmlite ...
"""
from __future__ import annotations

import argparse
from typing import List, Mapping, NamedTuple, Optional, Sequence

from . import client

Values = Mapping[str, Sequence[str]]  # the words that may stand for a metavar
_FILES = ("FILE", "FILE.html", "IN.jsonl", "OUT.jsonl", "DEST", "SCHEMA")  # metavars of paths
_OPEN = ("/", "=")  # how words end that go on


class _Word(NamedTuple):
    """An option, or an argument that stands by its place (then it has no flags)."""

    flags: Sequence[str]
    metavar: str  # "" for an option without a value
    about: str
    repeats: bool
    words: Sequence[str]  # what may be its value, if that is known

    @property
    def is_file(self) -> bool:
        return self.metavar in _FILES


class _Command(NamedTuple):
    """A command, "" for none: its options, the first argument by its place, and what it does."""

    name: str
    options: List[_Word]
    argument: Optional[_Word]
    about: str


def script(shell: str, parsers: Mapping[str, argparse.ArgumentParser], values: Values) -> str:
    """The script for a shell; the parser under "" is that of the command line without a command."""
    commands = [_command(name, parser, values) for name, parser in parsers.items()]
    head = f'# {shell} completion for llmlite {client.__version__}: written by "llmlite completion {shell}"\n'
    first, body = {"bash": ("", _bash), "zsh": ("#compdef llmlite\n", _zsh), "fish": ("", _fish)}[shell]
    return first + head + body(commands)


def _command(name: str, parser: argparse.ArgumentParser, values: Values) -> _Command:
    words = [_Word(action.option_strings, _metavar(action), _brief(action.help or ""),
                   isinstance(action, argparse._AppendAction),
                   list(action.choices or values.get(_metavar(action), ())))
             for action in parser._actions if action.help != argparse.SUPPRESS]
    return _Command(name, [word for word in words if word.flags],
                    next((word for word in words if not word.flags), None), _brief(parser.description or ""))


def _metavar(action: argparse.Action) -> str:
    return "" if action.nargs == 0 else str(action.metavar)


def _brief(text: str) -> str:
    return text.partition(";")[0].partition("\n")[0].rstrip(".")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _names(commands: List[_Command]) -> List[str]:
    return [command.name for command in commands if command.name]


_BASH = r"""_llmlite() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
    local command= words= files=
    COMPREPLY=()
    if [ "$COMP_CWORD" -gt 1 ]; then
        case "${COMP_WORDS[1]}" in
            @NAMES@) command=${COMP_WORDS[1]} ;;
        esac
    fi
    case "$command $previous" in
@VALUES@
        *)
            case "$command $current" in
@WORDS@
            esac ;;
    esac
    if [ -n "$files" ]; then  # bash 3 has no compopt
        compopt -o default 2>/dev/null || COMPREPLY=($(compgen -f -- "$current"))
        return
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    case "${COMPREPLY[0]}" in
        @OPEN@) compopt -o nospace 2>/dev/null ;;
    esac
    return 0
}
complete -F _llmlite llmlite
"""


def _bash(commands: List[_Command]) -> str:
    values = [f"{'|'.join(_quoted(f'{command.name} {flag}') for flag in word.flags)}) {_given(word)} ;;"
              for command in commands for word in command.options if word.metavar]
    words = []
    for command in commands:
        flags = " ".join(flag for word in command.options for flag in word.flags)
        words.append(f"{_quoted(command.name + ' -')}*) words={_quoted(flags)} ;;")
    words.append(f"' '*) [ \"$COMP_CWORD\" -gt 1 ] || words={_quoted(' '.join(_names(commands)))} ;;")
    words += [f"{_quoted(command.name + ' ')}*) {_given(command.argument)} ;;"
              for command in commands if command.name and command.argument]
    return _filled(_BASH, NAMES="|".join(_names(commands)) or "-", VALUES=_indented(8, values),
                   WORDS=_indented(16, words), OPEN="|".join("*" + end for end in _OPEN))


def _filled(text: str, **parts: str) -> str:
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text


def _indented(depth: int, lines: List[str]) -> str:
    return "\n".join(" " * depth + line for line in lines)


def _given(word: _Word) -> str:
    """What bash is to offer as a word's value."""
    return "files=1" if word.is_file else f"words={_quoted(' '.join(word.words))}"


_ZSH = r"""_llmlite() {
    local -a commands
    commands=(
@COMMANDS@
    )
    if (( CURRENT == 2 )) && [[ "$words[2]" != -* ]]; then
        _describe command commands
        return
    fi
    case "$words[2]" in
@CASES@
    esac
}
if [[ "$funcstack[1]" == _llmlite ]]; then
    _llmlite "$@"
else
    compdef _llmlite llmlite
fi
"""


def _zsh(commands: List[_Command]) -> str:
    known = [_quoted(f"{command.name}:{command.about}") for command in commands if command.name]
    cases = []
    for command in sorted(commands, key=lambda command: not command.name):  # "*" comes last
        specs = [_zsh_option(word) for word in command.options]
        argument = command.argument
        if argument:  # ": " as the action would be listed beside a lone option
            offers = argument.words or argument.is_file
            specs.append(_quoted(f"1:{_zsh_value(argument)}" if offers else f"*:{argument.metavar}:{{true}}"))
        shift = "shift words; (( CURRENT-- )); " if command.name else ""
        cases.append(f"{command.name or '*'})\n            {shift}_arguments -S \\\n"
                     + " \\\n".join(" " * 16 + spec for spec in specs) + " ;;")
    return _filled(_ZSH, COMMANDS=_indented(8, known), CASES=_indented(8, cases))


def _zsh_option(word: _Word) -> str:
    about = word.about.translate({ord(mark): "\\" + mark for mark in "[]:\\"})
    rest = _quoted(f"[{about}]" + (f":{_zsh_value(word)}" if word.metavar else ""))
    flags = word.flags[0] if len(word.flags) == 1 else f"{{{','.join(word.flags)}}}"
    return ("'*'" if word.repeats else _quoted(f"({' '.join(word.flags)})")) + flags + rest


def _zsh_value(word: _Word) -> str:
    """What zsh is to call a word's value, and to offer for it."""
    name, words = word.metavar.replace(":", "\\:"), " ".join(word.words)
    if word.is_file:
        return f"{name}:_files"
    if words.endswith(_OPEN):
        return f"{name}:{{compadd -S '' -- {words}}}"
    return f"{name}:({words})" if words else f"{name}: "


_FISH = """function __llmlite_in  # whether this is the command that the words begin with
    set -l command
    set -l words (commandline -opc)
    if contains -- "$words[2]" @NAMES@
        set command $words[2]
    end
    test "$command" = "$argv[1]"
end
complete -c llmlite -f
@LINES@
"""


def _fish(commands: List[_Command]) -> str:
    lines = [f"complete -c llmlite -n 'test (count (commandline -opc)) -eq 1' -a {command.name} "
             f"-d {_fish_quoted(command.about)}" for command in commands if command.name]
    for command in commands:
        start = f"complete -c llmlite -n {_fish_quoted('__llmlite_in ' + _fish_quoted(command.name))}"
        for word in command.options:
            flags = " ".join(f"-l {flag[2:]}" if flag[:2] == "--" else f"-s {flag[1:]}" for flag in word.flags)
            value = " -r" * bool(word.metavar) + _fish_value(word)
            lines.append(f"{start} {flags}{value} -d {_fish_quoted(word.about)}")
        if command.name and command.argument:
            lines.append(start + _fish_value(command.argument))
    return _filled(_FISH, NAMES=" ".join(_names(commands)), LINES="\n".join(lines))


def _fish_value(word: _Word) -> str:
    """What fish is to offer as a word's value."""
    return " -F" if word.is_file else f" -f -a {_fish_quoted(' '.join(word.words))}" if word.metavar else ""


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
