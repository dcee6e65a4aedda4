"""Answers kept in one SQLite file, for `Client(cache=Cache("answers.sqlite"))`.

A client takes any mapping of str to str; this one outlives the program, and threads, processes and forks share it.
`import llmlite` does not load sqlite3: the first use of a Cache does.
"""
from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import stat
import struct
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Iterator, List, MutableMapping, Optional, Tuple, Union

if TYPE_CHECKING:
    import sqlite3
    _Path = os.PathLike[str]
else:  # which Python 3.8 cannot evaluate
    _Path = os.PathLike
try:
    import fcntl
except ImportError:  # pragma: no cover: Windows, where nobody can move a file that another process has open
    fcntl = None  # type: ignore[assignment]

_ID = 0x6C6C6D63  # "llmc": SQLite's application_id, which tells this file from another program's database
_PATIENCE = 5.0  # seconds to wait for another writer: a write takes less than a millisecond
_LINGER = 1.0  # seconds to wait for a reader before its connection is left to close by itself
_HEAD = b"SQLite format 3\0"
_PAGE = 4096  # bytes, of a file of ours
_log = logging.getLogger("llmlite.cache")
_Found = Optional[Tuple[int, int]]  # which file stands under a path, if any


class Cache(MutableMapping[str, str]):
    """A mapping of str to str in one SQLite file, to give to `Client(cache=...)`.

        llm = Client("openai/gpt-5-mini", cache=Cache("answers.sqlite", max_age=86400))

    Threads, processes and forked children may use the same file at the same time, and one of these objects may be
    shared by threads and forks, pickled and copied (it goes by its path).  What was written survives `kill -9`.  A file
    that is no database, or a damaged one, is renamed to "answers.sqlite.broken-1", with a warning in the log.

    Args:
        path: the file, made with mode 0600 at the first use.  "answers.sqlite-wal" and "-shm" stand beside it.
        max_age: seconds; what is older is not found, and removed by the next write.  None: kept for ever.

    Raises:
        TypeError, ValueError: `path` is no path, or `max_age` no number above zero.
        OSError: the folder is not there, or `path` is one.
        sqlite3.Error: at use: the file cannot be opened, read or written.
    """

    def __init__(self, path: Union[str, _Path], max_age: Optional[float] = None) -> None:
        self.path: str = os.path.realpath(os.fsdecode(path))
        self.max_age: Optional[float] = _checked_age(max_age)
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, "No such folder for the cache", folder)
        if os.path.isdir(self.path):
            raise IsADirectoryError(errno.EISDIR, "The cache is to be a file", self.path)
        self._mine = threading.local()  # `.open`: this thread's connection

    def __getitem__(self, key: str) -> str:
        value: Optional[str] = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or `default`.  Raises sqlite3.Error.

            cache.get("no such key")   # None
        """
        rows = self._run("SELECT value FROM answers WHERE key = ? AND kept_at > ?", key, self._oldest())
        return rows[0][0] if rows else default

    def __setitem__(self, key: str, value: str) -> None:
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError("a Cache holds nothing but str, under str")
        if self.max_age is not None:
            self._run("DELETE FROM answers WHERE kept_at <= ?", self._oldest(), writes=True)
        self._run("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", key, value, time.time(), writes=True)

    def __delitem__(self, key: str) -> None:
        self[key]  # which raises KeyError, and is quicker than counting
        self._run("DELETE FROM answers WHERE key = ?", key, writes=True)

    def __iter__(self) -> Iterator[str]:
        return iter([key for key, in self._run("SELECT key FROM answers WHERE kept_at > ?", self._oldest())])

    def __len__(self) -> int:
        (count,), = self._run("SELECT count(*) FROM answers WHERE kept_at > ?", self._oldest())
        return int(count)

    def clear(self) -> None:
        """Remove everything; the file keeps its size, and fills again.  Raises sqlite3.Error.

            cache.clear()
        """
        self._run("DELETE FROM answers", writes=True)

    def close(self) -> None:
        """Close this object's connections, those of all threads; what is used afterwards opens anew.  Raises nothing.

            cache.close()
        """
        with _Fork.writing:
            mine = [each for each in _Fork.open if each.owner() is self]
        for each in mine:
            each.close()

    def __repr__(self) -> str:
        return f"Cache({self.path!r}" + (")" if self.max_age is None else f", max_age={self.max_age!r})")

    def __getstate__(self) -> Any:
        return {"path": self.path, "max_age": self.max_age}

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state, _mine=threading.local())  # the folder may be missing here: told at the first use

    def _oldest(self) -> float:
        return -1.0 if self.max_age is None else time.time() - self.max_age

    def _run(self, statement: str, *values: Any, writes: bool = False) -> List[Any]:
        """The rows of a statement; where the file turns out to be broken, those of a new one."""
        moved = False
        while True:
            found = _found(self.path)
            try:
                return self._connection(found).run(statement, values, writes)
            except _Closed:
                continue
            except Exception as error:
                if moved or not _is_broken(error):
                    raise
                self._move_aside(found, error)
                moved = True

    def _connection(self, found: _Found) -> _Open:
        """This thread's, in this process, to the file that stands there now."""
        mine: Optional[_Open] = getattr(self._mine, "open", None)
        if (mine is None or found is None or mine.found != found or mine.connection is None
                or mine.process != os.getpid()):
            self._mine.open = None  # the last one closes before the next one opens
            self._mine.open = mine = _Open(self)
        return mine

    def _move_aside(self, found: _Found, error: Exception) -> None:
        """Rename a broken file, unless somebody has done so."""
        self.close()  # Windows renames no open file
        with _alone_in(os.path.dirname(self.path)):
            if _found(self.path) != found:
                return
            aside = next(name for name in map(f"{self.path}.broken-{{}}".format, itertools.count(1))
                         if not os.path.exists(name))
            for end in ("-wal", "-shm", ""):  # the file last: none of the next one's is taken away
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.path + end, aside + end)
        _log.warning("the cache %s is broken (%s): it is now %s, and a new one is begun", self.path, error, aside)


def is_foreign(path: str) -> bool:
    """Whether a file was never a cache, nor another database: it holds something, and not one page of SQLite's.

    A cache that lost its head or its end still has others.  For before the first use: to close a file frees its locks.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            return False
        with open(path, "rb") as file:
            page, found = file.read(_PAGE), False
            if _HEAD.startswith(page[:len(_HEAD)]):
                return False
            while page and not _is_page(page):
                found = found or bool(page.strip(b"\0"))  # a crash may leave a file of zeros
                page = file.read(_PAGE)
            return found and not page
    except OSError:  # it is not there, or cannot be read: told when it is used
        return False


def _is_page(page: bytes) -> bool:
    """Whether it begins as a page of a table or an index does."""
    if len(page) < _PAGE:
        return False
    kind, gap, cells, start, loose = struct.unpack(">BHHHB", page[:8])
    return kind in (2, 5, 10, 13) and max(gap, start) <= _PAGE and 8 + 2 * cells <= start and loose <= 60


def _checked_age(max_age: Any) -> Optional[float]:
    if max_age is None:
        return None
    if isinstance(max_age, bool) or not isinstance(max_age, (int, float)):
        raise TypeError(f"max_age={max_age!r}: give seconds, or None")
    if not 0 < max_age < float("inf"):
        raise ValueError(f"max_age={max_age!r}: give seconds above zero, or None")
    return float(max_age)


def _found(path: str) -> _Found:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _is_broken(error: Exception) -> bool:
    """Whether the file is no database or torn; locked, full, read-only, which have types of their own, are no such."""
    with _Fork.writing:
        import sqlite3
    return type(error) is sqlite3.DatabaseError


@contextlib.contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """While this process alone moves a broken file there; the lock dies with it."""
    if fcntl is None:  # pragma: no cover: Windows
        yield
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


class _Closed(Exception):
    """Another thread has closed the connection, or forked, in between."""


class _Open:
    """A connection: of one thread, in one process, to one file."""

    def __init__(self, cache: Cache) -> None:
        self.owner, self.process, self.lock = weakref.ref(cache), os.getpid(), threading.Lock()
        self.connection: Optional[sqlite3.Connection] = None
        with contextlib.suppress(FileExistsError):  # one that is there is not opened: to close it frees SQLite's locks
            os.close(os.open(cache.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        self.found = _found(cache.path)
        with _Fork.writing:
            import sqlite3  # here: a child forked amid an import would wait for its end for ever
            self.connection = sqlite3.connect(
                cache.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            _Fork.open.add(self)
            try:
                self._prepare(cache.path)
                if _found(cache.path) != self.found:  # pragma: no cover: moved in this moment, which no test can hold
                    self.found = None  # so that the next use looks for the next one
            except BaseException:
                self.close()
                raise

    def _prepare(self, path: str) -> None:
        """Make it a write-ahead database with our table, if it is not yet."""
        ask: Any = self.connection.execute  # type: ignore[union-attr]
        if ask("PRAGMA application_id").fetchone() != (_ID,):
            ask("BEGIN IMMEDIATE")
            if ask("PRAGMA application_id").fetchone() != (_ID,):  # pragma: no branch: else another was quicker
                self._begin(path, ask)
            ask("COMMIT")
        if ask("PRAGMA journal_mode").fetchone() != ("wal",):
            self._until_free(lambda: ask("PRAGMA journal_mode = WAL"))
        ask("PRAGMA synchronous = NORMAL")  # a commit is the system's before it is the disk's: kill -9 takes none

    @staticmethod
    def _begin(path: str, ask: Any) -> None:
        if ask("SELECT name FROM sqlite_master").fetchone():
            raise ValueError(f"{path} is a database of another program's: give the cache a file of its own")
        ask("CREATE TABLE answers (key TEXT PRIMARY KEY, value TEXT NOT NULL, kept_at REAL NOT NULL)")
        ask("CREATE INDEX by_age ON answers (kept_at)")
        ask(f"PRAGMA application_id = {_ID}")

    @staticmethod
    def _until_free(step: Any) -> None:
        """SQLite does not wait by itself where two processes begin the same file."""
        import sqlite3
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                step()
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
            time.sleep(0.005)

    def run(self, statement: str, values: Tuple[Any, ...], writes: bool) -> List[Any]:
        if writes:
            with _Fork.writing:
                return self.run(statement, values, False)
        with self.lock:
            if self.connection is None:
                raise _Closed
            return self.connection.execute(statement, values).fetchall()

    def close(self, here: Any = os.getpid) -> None:
        if self.process == here():  # pragma: no branch: else in forked children
            # in time: a thread that reads waits for us, if the collector has it close what another thread has left
            with _Fork.writing:
                if self.lock.acquire(timeout=_LINGER):
                    connection, self.connection = self.connection, None
                    self.lock.release()
                    if connection is not None:
                        connection.close()

    def __del__(self) -> None:
        self.close()


class _Fork:
    """What a fork waits for: SQLite keeps accounts of its locks, and a child would take its parent's for its own.

    So every connection is closed before, and opens again when it is used.  Of a fork that Python is not told of (a C
    extension's) this knows nothing: make the Cache after it.
    """

    writing = threading.RLock()  # who opens, writes or closes
    open: weakref.WeakSet[_Open] = weakref.WeakSet()

    @classmethod
    def before(cls) -> None:
        cls.writing.acquire()
        for each in list(cls.open):
            each.close()


if hasattr(os, "register_at_fork"):  # pragma: no branch: not on Windows
    os.register_at_fork(before=_Fork.before, after_in_parent=_Fork.writing.release,
                        after_in_child=_Fork.writing.release)
