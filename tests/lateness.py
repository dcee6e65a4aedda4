"""How late the machine itself is while something runs; without pytest, for the processes that tests start."""
import contextlib
import functools
import glob
import threading
import time

TICK = 0.03  # seconds that a meter waits at a time
STEPS = 5  # a call hands over to the server's threads and back some times, each as late as a bare wait


def queued(threads="self/task/*"):
    """Seconds that threads have waited for a processor so far, by the system's own count: all of this process's."""
    waited = {}
    for path in glob.glob(f"/proc/{threads}/schedstat"):
        with contextlib.suppress(OSError), open(path) as file:  # or the thread has ended meanwhile
            waited[path] = int(file.read().split()[1]) / 1e9
    return waited


def growth(before, after):
    """By how much that has grown, over all threads."""
    return sum(max(0.0, seconds - before.get(path, 0.0)) for path, seconds in after.items())


class Lateness:
    """How late the machine itself is while a block runs: `seconds`, complete at its end; and how long it `took`.

    Late is what bare waits outlast their time by, a few times, and what the block's own thread waited for a processor.
    Less the processor time that it had: where it is the client's work that holds everybody up, nothing is allowed for.
    """

    def __enter__(self):
        self.seconds, self._over, self._used = 0.0, threading.Event(), clock_of_this_thread()
        self._queued = queued("thread-self")
        self.started = time.monotonic()
        self._thread = threading.Thread(target=self._measure, name="lateness", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self.took, waited = time.monotonic() - self.started, growth(self._queued, queued("thread-self"))
        self._over.set()
        self._thread.join()
        self.seconds += waited  # not before: the other thread counts too

    def _measure(self):
        ended, used, over = self.started, self._used(), False
        while not over:  # no moment is left out: a machine may stand still between two waits too
            over = self._over.wait(TICK)
            began, before, ended, used = ended, used, time.monotonic(), self._used()
            self.seconds += STEPS * max(0.0, ended - began - TICK - (used - before))


def clock_of_this_thread():
    """A function that tells, in any thread, the processor time of this one; of the process where there is no such."""
    if hasattr(time, "pthread_getcpuclockid"):
        return functools.partial(time.clock_gettime, time.pthread_getcpuclockid(threading.get_ident()))
    return time.process_time
