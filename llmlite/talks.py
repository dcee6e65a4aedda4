"""The last talk of the command line, with which `llmlite --continue` goes on: one file that its owner alone may read.

    llmlite/last.json below $XDG_STATE_HOME (else ~/.local/state), on Windows below %LOCALAPPDATA%

It is a saved conversation, which `Client.load_conversation` reads too, and beside it the -m, -p and --base-url it was
asked with. LLMLITE_NO_HISTORY=1 keeps none.
"""
from __future__ import annotations

import contextlib
import errno
import json
import os
from typing import Any, Dict, Optional

from . import client

Asked = Dict[str, Optional[str]]  # model, provider and base_url, as they were given


def folder() -> str:
    """Where the command line keeps what it is to know another time. Raises FileNotFoundError without a home."""
    name, home = ("LOCALAPPDATA", ("AppData", "Local")) if os.name == "nt" else ("XDG_STATE_HOME", (".local", "state"))
    given = os.environ.get(name, "")
    base = given if os.path.isabs(given) else os.path.join(os.path.expanduser("~"), *home)
    if not os.path.isabs(base):  # "~", for a user who has none
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), base)
    return os.path.join(base, "llmlite")


def path() -> str:
    """The file of the last talk."""
    return os.path.join(folder(), "last.json")


def history() -> Optional[str]:
    """The file that keeps what is typed into a chat, or None: there is to be none."""
    with contextlib.suppress(FileNotFoundError):  # no home, no history
        return os.path.join(folder(), "history") if are_kept() else None
    return None


def are_kept() -> bool:
    """Whether talks are to be kept."""
    return os.environ.get("LLMLITE_NO_HISTORY", "0") in ("", "0")


def keep(talk: client.Conversation, asked: Asked) -> None:
    """Put a talk in the place of the last one, at once or not at all. Raises OSError."""
    os.makedirs(folder(), 0o700, exist_ok=True)
    url = asked["base_url"]
    client._write_own(path(), talk._dumped(asked={**asked, "base_url": url and client._fit_to_save(url)}))


def last() -> Dict[str, Any]:
    """The last talk, as it was saved; its `asked` tells where. Raises ConfigurationError."""
    try:
        with open(path(), encoding="utf-8") as file:
            saved: Dict[str, Any] = json.load(file)
        if not all(isinstance(saved["asked"][name], (str, type(None))) for name in ("model", "provider", "base_url")):
            raise TypeError
    except FileNotFoundError:
        why = "" if are_kept() else "LLMLITE_NO_HISTORY is set"
        raise client.ConfigurationError("there is no last talk to go on with", why=why,
                                        hint="ask without --continue") from None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise broken(error) from None
    return saved


def broken(error: Exception) -> client.ConfigurationError:
    """What there is to say of a file that holds no talk."""
    why = (error.strerror or "") if isinstance(error, OSError) else "it is no talk that was saved"
    return client.ConfigurationError(f"{path()} cannot be gone on with", why=why, hint="ask without --continue")
