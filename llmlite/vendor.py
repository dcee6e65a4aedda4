"""Copies of client.py in other projects: each begins with its origin, version, checksum and licence.

    >>> mine = made()
    >>> found = read(mine)
    >>> found.version == client.__version__, found.edited
    (True, False)
    >>> read(mine + b"# a change").edited
    True
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import pkgutil
import re
import shutil
from typing import List, NamedTuple, Optional

from . import client

ORIGIN = "https://github.com/llmlite/llmlite"
LICENSE = """\
MIT License

Copyright (c) 2026 llmlite contributors

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
_LINE = b"# " + 118 * b"-" + b"\n"
_HEAD = re.compile(rb"# llmlite (\S+): .*\n# origin: .*\n# sha256: ([0-9a-f]{64}) .*\n")


class Copy(NamedTuple):
    """A file that `made` wrote, as it is now."""

    version: str
    edited: bool
    checksum: str  # of client.py as it was copied

    @property
    def current(self) -> bool:
        """Whether it is client.py as it is here."""
        return not self.edited and self.checksum == checksum()

    @property
    def newer(self) -> bool:
        """Whether it is of a later version than this."""
        return _release(self.version) > _release(client.__version__)

    @property
    def state(self) -> str:
        """How it stands to what it was, and to client.py as it is here."""
        another = "another " if self.version == client.__version__ else ""
        here = "" if self.checksum == checksum() else f"; {another}{client.__version__} is here"
        return ("edited" if self.edited else "as it was written") + here


def checksum() -> str:
    """The sha256 of client.py here."""
    return _digest(_source())


def made() -> bytes:
    """client.py with the lines that say where it is from, and under which licence."""
    lines = [
        f'llmlite {client.__version__}: client.py as it is there; "llmlite vendor FILE" brings it up to date',
        f"origin: {ORIGIN}",
        f"sha256: {checksum()} (of all below the line; llmlite vendor --check FILE)",
        "SPDX-License-Identifier: MIT", "", *LICENSE.splitlines()]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines).encode() + _LINE + _source()


def read(content: bytes) -> Optional[Copy]:
    """What a file is a copy of; None if it is none."""
    head, line, rest = content.replace(b"\r\n", b"\n").partition(_LINE)  # as git may write it on Windows
    found = _HEAD.match(head) if line else None
    return found and Copy(found[1].decode(), _digest(rest) != found[2].decode(), found[2].decode())


def at(path: str) -> Copy:
    """What the file there is a copy of. Raises ValueError if it is none."""
    with open(path, "rb") as file:
        found = read(file.read())
    if found is None:
        raise ValueError("no copy that llmlite vendor made")
    return found


def copy(path: str, force: bool = False) -> None:
    """Write the file, at once or not at all, unless it is there already.

    An older copy that was not edited is replaced. Raises ValueError for any other file, unless `force`.
    """
    path = os.path.realpath(path)  # a link stays one
    if os.path.exists(path):
        with open(path, "rb") as file:
            found = read(file.read())
        if found and found.current:
            return
        if not force and (found is None or found.edited or found.newer):
            why = "differs" if found is None else "was edited" if found.edited else f"is newer: {found.version}"
            raise ValueError(f"the file is there and {why}; --force overwrites it")
        with open(path, "ab"):  # or one that must not be written would be replaced all the same
            pass
    _replace(path, made())


def _replace(path: str, content: bytes) -> None:
    """Write a file at once or not at all, with the mode that it had."""
    part = f"{path}.{os.urandom(4).hex()}.part"
    try:
        with open(part, "xb") as file:
            file.write(content)
        if os.path.exists(path):
            shutil.copymode(path, part)
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):  # gone where all went well, or never begun
            os.unlink(part)


def _release(version: str) -> List[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def _source() -> bytes:
    return (pkgutil.get_data(client.__name__, "client.py") or b"").replace(b"\r\n", b"\n")


def _digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()
