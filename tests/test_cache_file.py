"""llmlite.Cache: one SQLite file that threads, processes and forks share, and that nothing breaks."""
import copy
import logging
import os
import pickle
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time

import pytest

import llmlite
from llmlite.cache import Cache, _Open, is_foreign
from tests.beside import within

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "answers.sqlite")


@pytest.fixture
def cache(path):
    cache = Cache(path)
    yield cache
    cache.close()


def started(code, *words):
    """A process of its own that runs this, line by line heard."""
    return subprocess.Popen([sys.executable, "-c", code, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)


# ------------------------------------------------------------------------------------------------- a mapping


def test_a_mapping(cache):
    """What a MutableMapping does."""
    assert (len(cache), list(cache), cache.get("a"), cache.get("a", "x"), "a" in cache) == (0, [], None, "x", False)
    cache["a"] = "1"
    cache["a"] = "2"
    cache["b"] = "\0 é \U0001f600"
    assert dict(cache) == {"a": "2", "b": "\0 é \U0001f600"} and len(cache) == 2 and cache["a"] == "2"
    assert cache.pop("b") and cache.setdefault("c", "3") == "3"
    del cache["a"]
    for wrong in (lambda: cache["a"], lambda: cache.__delitem__("a")):
        with pytest.raises(KeyError, match="a"):
            wrong()
    cache.clear()
    assert len(cache) == 0


@pytest.mark.parametrize("key, value", [(1, "a"), ("a", 1), ("a", b"a"), ("a", None)])
def test_only_str(cache, key, value):
    with pytest.raises(TypeError, match="nothing but str"):
        cache[key] = value
    assert len(cache) == 0


def test_it_lasts(path):
    """Another object, another process: all of it is there."""
    one = Cache(path)
    one["a"] = "1"
    assert dict(Cache(path)) == {"a": "1"}
    code = "import sys, llmlite; cache = llmlite.Cache(sys.argv[1]); print(cache['a']); cache['b'] = '2'; cache.close()"
    assert started(code, path).communicate(timeout=30)[0] == "1\n"
    assert one["b"] == "2"
    one.close()
    assert dict(one) == {"a": "1", "b": "2"}  # opens again
    one.close()


def test_nothing_is_opened_before_the_first_use(path):
    """Nor is sqlite3 imported by `import llmlite`."""
    Cache(path)
    assert not os.path.exists(path)
    code = ("import sys; [sys.modules.pop(name) for name in list(sys.modules) if 'sqlite3' in name]\n"  # coverage's
            "import llmlite; llmlite.Cache(sys.argv[1]); print('sqlite3' in sys.modules)")
    assert started(code, path).communicate(timeout=30)[0] == "False\n"


@pytest.mark.skipif(os.name == "nt", reason="modes are of Unix")
def test_its_owner_alone_reads_it(tmp_path):
    before = os.umask(0)
    try:
        cache = Cache(tmp_path / "answers.sqlite")
        cache["a"] = "1"
        modes = {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {0o600} and len(list(tmp_path.iterdir())) == 3
    cache.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_the_path_is_where_it_was(tmp_path, monkeypatch):
    """A relative path, bytes, a path object; a change of the folder changes nothing."""
    monkeypatch.chdir(tmp_path)
    caches = [Cache("a"), Cache(b"a"), Cache(tmp_path / "a")]
    monkeypatch.chdir(ROOT)
    caches[0]["x"] = "1"
    assert [cache["x"] for cache in caches] == ["1"] * 3
    assert {repr(cache) for cache in caches} == {f"Cache({str(tmp_path / 'a')!r})"}
    assert repr(Cache("a", 5)) == f"Cache({os.path.join(ROOT, 'a')!r}, max_age=5.0)"


def test_bad_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"No such folder.*{tmp_path.name}"):
        Cache(tmp_path / "nowhere" / "a")
    with pytest.raises(IsADirectoryError, match="to be a file"):
        Cache(tmp_path)
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="max_age=.*seconds above zero"):
            Cache(tmp_path / "a", max_age=wrong)
    for wrong in ("1", True):
        with pytest.raises(TypeError, match="max_age=.*seconds, or None"):
            Cache(tmp_path / "a", max_age=wrong)
    with pytest.raises(TypeError):
        Cache(None)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_copies(cache, copied):
    """They go by the path."""
    cache["a"] = "1"
    other = copied(cache)
    assert other["a"] == "1" and other.path == cache.path and other.max_age is None
    other.close()
    assert cache["a"] == "1"


def test_a_pickle_goes_where_the_folder_is_not(tmp_path):
    """It fails at the first use, where a client goes on without it."""
    folder = tmp_path / "there"
    folder.mkdir()
    carried = pickle.dumps(Cache(folder / "a", max_age=3))
    folder.rmdir()
    other = pickle.loads(carried)
    assert other.max_age == 3
    with pytest.raises(OSError):
        other.get("a")


# ------------------------------------------------------------------------------------------------- age


def test_max_age(path):
    """What is older is not found, and removed by the next write."""
    long, all_of_it = Cache(path, max_age=60), Cache(path)
    long["a"] = "1"
    assert long["a"] == "1" and len(long) == 1 and list(long) == ["a"]
    time.sleep(0.11)
    young = Cache(path, max_age=0.1)
    assert young.get("a") is None and "a" not in young and len(young) == 0 and list(young) == []
    assert all_of_it["a"] == "1" and len(all_of_it) == 1
    young["b"] = "2"
    assert dict(all_of_it) == {"b": "2"}
    long["b"] = "3"
    assert long["b"] == "3"
    long.close()
    young.close()
    all_of_it.close()


# ------------------------------------------------------------------------------------------------- threads, processes


def test_threads(cache):
    """Each has a connection of its own, which ends with it."""
    problems = []

    def use(name):
        try:
            for number in range(60):
                cache[f"{name}-{number}"] = "x" * number
                assert cache[f"{name}-{number}"] == "x" * number
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=use, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [] and len(cache) == 480


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_no_connection_outlives_its_thread(cache):
    def use():
        cache["a"] = "1"

    use()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    cache.close()
    assert len(os.listdir("/proc/self/fd")) < before


def test_closed_while_another_thread_reads(cache):
    """It opens again."""
    problems, end = [], time.monotonic() + 0.5
    cache["a"] = "1"

    def use():
        try:
            while time.monotonic() < end:
                assert cache["a"] == "1"
        except Exception as problem:
            problems.append(problem)

    thread = threading.Thread(target=use)
    thread.start()
    while time.monotonic() < end:
        cache.close()
    thread.join()
    assert problems == []


WRITE = """
import sys, llmlite
cache = llmlite.Cache(sys.argv[1])
for number in range(int(sys.argv[3])):
    cache[f"{sys.argv[2]}-{number}"] = "x" * 2000
    print(number, flush=True)
"""


def test_processes(path):
    """Four that begin the same file at once, and write: nothing is lost."""
    writers = [started(WRITE, path, str(name), "150") for name in range(4)]
    for writer in writers:
        assert len(writer.communicate(timeout=50)[0].split()) == 150 and writer.returncode == 0
    cache = Cache(path)
    assert len(cache) == 600
    cache.close()


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_kill_while_writing(path):
    """What a killed process was told is written is there; the file is whole, and the others go on."""
    other, told = started(WRITE, path, "other", "100000"), {}
    for round_ in range(6):
        writer = started(WRITE, path, str(round_), "100000")
        for line in writer.stdout:
            told[round_] = int(line)
            if told[round_] == 7 * round_ + 3:
                writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    other.send_signal(signal.SIGKILL)
    told["other"] = [int(line) for line in other.communicate()[0].split("\n")[:-1]][-1]
    cache = Cache(path)
    for name, last in told.items():
        assert all(cache[f"{name}-{number}"] == "x" * 2000 for number in range(last + 1))
    cache.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    assert not os.path.exists(path + ".broken-1")


@forking
def test_forks(cache):
    """A child opens its own; what both write is there; a fork amid another thread's writes harms nothing."""
    cache["parent"] = "1"
    end, written = time.monotonic() + 1, []

    def write():
        while time.monotonic() < end:
            cache[f"thread-{len(written)}"] = "x" * 1000
            written.append(1)

    thread = threading.Thread(target=write)
    thread.start()
    children = []
    for number in range(8):
        child = os.fork()
        if not child:
            status = 1
            try:
                assert cache["parent"] == "1"
                for each in range(20):
                    cache[f"child-{number}-{each}"] = "y"
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    thread.join()
    assert len(cache) == 1 + len(written) + 160


FORK = """
import os, sys, llmlite
cache = llmlite.Cache(sys.argv[1])
cache["a"] = "1"
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    cache["b"] = "2"
    assert dict(llmlite.Cache(sys.argv[1])) == {"a": "1", "b": "2"}
sys.exit(0)
"""


@forking
def test_a_child_that_ends_as_programs_do(path):
    """Its end closes nothing of the parent's."""
    parent = started(FORK, path)
    parent.communicate(timeout=30)
    assert parent.returncode == 0 and dict(Cache(path)) == {"a": "1", "b": "2"}


# ------------------------------------------------------------------------------------------------- broken files


def torn(path):
    """A good file of which the middle is lost."""
    cache = Cache(path)
    for number in range(200):
        cache[str(number)] = "x" * 3000
    cache.close()
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 65536)


def text(path):
    with open(path, "w") as file:
        file.write("no database, but a long enough text that SQLite looks at it\n" * 100)


@pytest.mark.parametrize("broken", [torn, text])
def test_a_broken_file_is_moved_aside(path, broken, caplog):
    """Nothing of it is lost; a new one is begun; the log says where it is."""
    for number in (1, 2):
        broken(path)
        with open(path, "rb") as file:
            before = file.read()
        cache = Cache(path)
        with caplog.at_level(logging.WARNING, "llmlite"):
            cache["a"] = "1"
            assert dict(cache) == {"a": "1"}
        cache.close()
        with open(f"{path}.broken-{number}", "rb") as file:
            assert file.read() == before
        assert "answers.sqlite is broken (" in caplog.messages[-1] and f".broken-{number}, " in caplog.messages[-1]
        os.unlink(path)
    assert len(caplog.messages) == 2


def damaged(path, change):
    torn(path)
    with open(path, "rb") as file:
        data = change(file.read())
    with open(path, "wb") as file:
        file.write(data)


NOTES = b"- buy milk\n\r\x05\x02" + b"\n" * 5000 + b"- buy bread\n" * 1000
DAMAGED = {"torn": lambda data: data, "cut": lambda data: data[:5000], "cut in its head": lambda data: data[:9],
           "an empty file": lambda data: b"", "zeros": lambda data: bytes(len(data)),
           "its head is lost": lambda data: b"x" * 4096 + data[4096:], "a text over its head": lambda data: (
               NOTES + data[len(NOTES):])}
FOREIGN = {"notes": lambda data: NOTES, "a short one": lambda data: b"x", "a page": lambda data: b"\n" * 4096,
           "an image": lambda data: b"\x89PNG\r\n\x1a\n" + bytes(9000),
           "the end of one, shifted": lambda data: b"\x00\x01" + data[4096 * 17:],
           "too short for a page": lambda data: b"\x0d\0\0\0\0\x10\0\0"}
NO_PAGES = [b"\x0d\x20\0\0\0\x10\0\0", b"\x0d\0\0\0\0\x20\0\0", b"\x0d\0\0\x08\0\x10\0\0",
            b"\x0d\0\0\0\0\x10\0\x50", b"\x0e\0\0\0\0\x10\0\0"]


@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_cache_is_one_still(path, change):
    """Whatever a crash does to it."""
    damaged(path, change)
    assert not is_foreign(path)


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_was_never_a_cache(path, change):
    damaged(path, change)
    assert is_foreign(path)


@pytest.mark.parametrize("start", NO_PAGES, ids=range(len(NO_PAGES)))
def test_what_is_no_page_of_a_database(path, start):
    """Each number that tells of a page counts."""
    damaged(path, lambda data: b"x" * 4096 + start.ljust(4096, b"x"))
    assert is_foreign(path)


def test_no_file_is_nobody_s(path, tmp_path):
    assert not is_foreign(path) and not is_foreign(str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX's pipes")
def test_a_pipe_is_not_waited_for(path):
    """Nor a device read that has no end."""
    os.mkfifo(path)
    asked = []
    thread = threading.Thread(target=lambda: asked.append(is_foreign(path)))
    thread.start()
    thread.join(5)
    if thread.is_alive():  # have it end
        os.close(os.open(path, os.O_WRONLY))
        thread.join()
        pytest.fail("it waits for a writer")
    assert asked == [False]


def test_a_broken_file_met_by_many(path, caplog):
    """Processes and threads that find it at the same time move it once, and lose nothing of the new one."""
    text(path)
    writers = [started(WRITE, path, str(name), "40") for name in range(4)]
    for writer in writers:
        writer.communicate(timeout=50)
        assert writer.returncode == 0
    cache = Cache(path)
    assert len(cache) == 160 and not os.path.exists(path + ".broken-2")
    cache.close()


def test_a_file_that_was_moved_by_another(path):
    """Who has it open goes to the new one, also where somebody has simply removed it."""
    if os.name == "nt":
        pytest.skip("nobody removes an open file there")
    cache = Cache(path)
    cache["a"] = "1"
    for end in ("", "-wal", "-shm"):
        os.unlink(path + end)
    assert cache.get("a") is None
    cache["b"] = "2"
    cache.close()
    assert dict(Cache(path)) == {"b": "2"}


def test_another_program_s_database(path):
    """It is not touched."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE answers (key TEXT)")
    connection.commit()
    connection.close()
    with open(path, "rb") as file:
        before = file.read()
    cache = Cache(path)
    with pytest.raises(ValueError, match="answers.sqlite is a database of another program's"):
        cache["a"] = "1"
    with open(path, "rb") as file:
        assert file.read() == before


def test_an_empty_file(path):
    """What a process killed at its very beginning leaves."""
    open(path, "w").close()
    cache = Cache(path)
    cache["a"] = "1"
    assert cache["a"] == "1"
    cache.close()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is closed to root")
def test_a_file_that_cannot_be_opened(path):
    open(path, "w").close()
    os.chmod(path, 0)
    with pytest.raises(sqlite3.OperationalError):
        Cache(path).get("a")
    assert not os.path.exists(path + ".broken-1")


def test_a_locked_file_is_waited_for(path):
    """Another writer's lock: the write comes through when it goes; a read does not wait."""
    cache = Cache(path)
    cache["a"] = "1"
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: connection.execute("COMMIT"))
    started_at = time.monotonic()
    timer.start()
    assert cache["a"] == "1" and within(0, started_at, 0.2)
    cache["b"] = "2"
    assert time.monotonic() - started_at > 0.25 and cache["b"] == "2"
    timer.join()
    connection.close()
    cache.close()


def begun(path):
    """A file of ours that is no write-ahead database yet, and a connection that reads it."""
    cache = Cache(path)
    cache["a"] = "1"
    cache.close()
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM answers").fetchall()
    return connection


def test_a_file_that_another_process_begins(path):
    """SQLite itself does not wait there: we do."""
    connection = begun(path)
    timer = threading.Timer(0.2, lambda: connection.execute("COMMIT"))
    timer.start()
    cache = Cache(path)
    assert cache["a"] == "1"
    timer.join()
    connection.close()
    cache.close()


def test_a_file_that_stays_locked(path, monkeypatch):
    """It fails, and is not taken for a broken one."""
    monkeypatch.setattr("llmlite.cache._PATIENCE", 0.05)
    connection = begun(path)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        Cache(path).get("a")
    connection.close()
    assert os.listdir(os.path.dirname(path)) == ["answers.sqlite"]


def test_two_that_begin_a_file_at_once():
    """SQLite refuses one of them at once, where both hold what the other wants: that one tries again."""
    tries = []

    def step():
        tries.append(1)
        if len(tries) < 3:
            raise sqlite3.OperationalError("database is locked")

    _Open._until_free(step)
    assert len(tries) == 3


def test_a_file_that_is_broken_no_more(cache):
    """What another process has put in its place stays."""
    cache["a"] = "1"
    cache._move_aside((0, 0), sqlite3.DatabaseError("it was"))
    assert cache["a"] == "1"


def test_a_reader_that_does_not_end(cache, monkeypatch):
    """close() and a fork wait for it only so long."""
    monkeypatch.setattr("llmlite.cache._LINGER", 0.05)
    cache["a"] = "1"
    with cache._mine.open.lock:
        cache.close()
    assert cache["a"] == "1"


def test_the_face_hands_it_on():
    assert llmlite.Cache is Cache
