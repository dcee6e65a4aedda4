"""Tests that mostly wait are run side by side; and how late the machine itself is meanwhile.

A function marked `@beside` takes its parameters, and, if it names them, a `server`, a `backup` (another one) and an
`llm` of its own. It takes no fixture of pytest, and touches nothing of the whole process: environment, patches,
captured output, signals, forks. When the first of a module's is due, all of them are played, a few at a time; each then
has its own outcome.
"""
import collections
import contextlib
import functools
import inspect
import itertools
import os
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import llmlite, testing
from tests.lateness import STEPS, TICK, Lateness, growth, queued

WORKERS = 8
LOOKING = threading.Lock()  # the meter has files open for a moment
SERVERS = weakref.WeakSet()  # those of tests that run beside others


def close_servers():
    """End the answers that anybody still waits for."""
    for server in list(SERVERS):
        server.close()


@contextlib.contextmanager
def untraced():
    """Without coverage's tracer in this thread: its lock stays held where a fork or an interrupt comes inside it."""
    tracing = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracing)


def once(server):
    """A client that tries once."""
    return llmlite.Client("test", base_url=server.url, retry=None)


def beside(function, client=once):
    """Mark a test that can run beside others of its module; `client` makes its `llm` of its `server`."""
    signature = inspect.signature(function)
    made = [name for name in ("server", "backup", "llm") if name in signature.parameters]

    @functools.wraps(function)
    def alone(**given):
        with contextlib.ExitStack() as stack:
            for name in made:
                given[name] = stack.enter_context(client(given["server"]) if name == "llm" else testing.Server())
            SERVERS.update(given[name] for name in made if name != "llm")
            function(**given)

    left = [value for name, value in signature.parameters.items() if name not in made]
    alone.__signature__ = signature.replace(parameters=left)
    return pytest.mark.beside(alone)


class Beside:
    """The plugin that plays them."""

    def __init__(self):
        self.outcomes = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem):
        """Play the whole module's, if that has not been done, and end as this one ended."""
        if not pyfuncitem.get_closest_marker("beside"):
            return None
        if pyfuncitem.nodeid not in self.outcomes:
            items = [item for item in pyfuncitem.session.items
                     if getattr(item, "module", None) is pyfuncitem.module and item.get_closest_marker("beside")]
            with ThreadPoolExecutor(WORKERS, thread_name_prefix="beside") as pool, contextlib.ExitStack() as stack:
                stack.callback(close_servers)  # where pytest-timeout ends this, nobody waits for an answer for ever
                self.outcomes = dict(zip([item.nodeid for item in items], pool.map(outcome, items)))
        error = self.outcomes.pop(pyfuncitem.nodeid)
        if error is not None:
            raise error
        return True


def outcome(item):
    """What a test raised, or None."""
    try:
        item.obj(**(item.callspec.params if hasattr(item, "callspec") else {}))
    except BaseException as error:  # pytest's own for skips and failures too
        return error
    return None


def descriptors():
    """How many descriptors are open, without the meter's."""
    with LOOKING:
        return len(os.listdir("/dev/fd"))


@contextlib.contextmanager
def timed(least, most):
    """Assert how many seconds the block takes, but for what the machine itself is late."""
    with Lateness() as late:
        yield
    assert least <= late.took < most + late.seconds, (least, late.took, most, late.seconds)


class Meter(threading.Thread):
    """How late the machine is for this process, all the time."""

    def __init__(self):
        super().__init__(name="meter", daemon=True)
        self.ticks = collections.deque(maxlen=5000)  # (when it ended, seconds late)
        self._queued, self._began = queued(), time.monotonic()

    def run(self):
        for tick in itertools.count():
            time.sleep(TICK)
            self._began = self._note(STEPS * self._over())
            if not tick % 10:  # to look at all threads is dear
                self._look()

    def _over(self):
        """Seconds that the tick under way is longer than it should be."""
        return max(0.0, time.monotonic() - self._began - TICK)

    def _note(self, seconds):
        now = time.monotonic()
        self.ticks.append((now, seconds))
        return now

    def _look(self):
        with LOOKING:
            before, self._queued = self._queued, queued()
        self._note(growth(before, self._queued))

    def late(self, since):
        """Seconds that have been lost since then."""
        self._look()
        return STEPS * self._over() + sum(seconds for ended, seconds in list(self.ticks) if ended > since)

    def stood_still(self, since, seconds):
        """Whether it was that late at once since then: what must go on within that time was not put to the test."""
        late = [self._over(), *(late / STEPS for ended, late in list(self.ticks) if ended > since)]
        return max(late) > seconds


METER = Meter()
METER.start()


def soon(reached, seconds=1.0):
    """Whether it comes to be so within some seconds, but for what the machine is late meanwhile."""
    started = time.monotonic()
    while not reached():
        waited = time.monotonic() - started
        if waited > seconds and waited > seconds + METER.late(started):
            return False
        time.sleep(0.002)
    return True


def idle(server, seconds=1.0):
    """Whether all connections of a server end that soon."""
    return soon(lambda: not server.open_connections, seconds)


def within(least, started, most, ended=None):
    """Whether a time from then to now (or `ended`) is so many seconds, but for what the machine is late meanwhile."""
    took, late = (time.monotonic() if ended is None else ended) - started, METER.late(started)
    assert least <= took < most + late, (least, took, most, late)
    return True
