"""A sample of small changes to the client: how many of them does the suite notice?

`python -m tests.mutants [--count N] [--seed N] [--jobs N]` draws mutants by a seed and plays, for each, the tests that
run its lines, quickest first, until one fails; a failure counts when the test fails again alone, and passes without the
change.  Printed are the survivors and the score: killed, of all but those whose change is none (EQUIVALENT).

First each test file is played once under coverage, one test after the other, which takes minutes; that and every
outcome is kept in a folder (--state): a run that was broken off goes on, and after new tests the survivors alone are
played again.  What is explained is not played.  Lines that no test runs here are another Python's or urllib3's: no
mutant of them is drawn.
"""
import argparse
import contextlib
import glob
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor

import coverage

from . import kinds
from .equivalent import EQUIVALENT

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SECONDS = 30  # for one test; what hangs is killed
MEMORY = 8 << 30  # bytes of address space, for mutants that gather without end
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*cache", "*.egg-info", ".hypothesis")


def content(*path):
    with open(os.path.join(*path), "rb") as file:
        return file.read()


def digest(*parts):
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def pytest(place, tests, limit, *more, before=(), **environment):
    """Run tests in a copy of the project: whether they passed, or None if they had to be killed."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE_", "LLMLITE_"))}
    with tempfile.TemporaryDirectory() as temporary:
        run = subprocess.Popen(
            [sys.executable, "-m", *before, "pytest", "-p", "tests.mutants.plugin", "-p", "no:cacheprovider", *more,
             *tests], cwd=place, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
            env={**outer, **environment, "PYTHONPATH": os.pathsep.join((place, ROOT)), "TMPDIR": temporary})
        try:
            return run.wait(limit) == 0
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()


class Run:
    """A module, its tests and the lines they run, and the outcomes so far."""

    def __init__(self, root, module, tests, state):
        self.root, self.module, self.state, self.source = root, module, state, content(root, module)
        self.files = sorted(os.path.relpath(path, root) for path in glob.glob(os.path.join(root, tests)))
        self.version = digest(self.source, *(content(root, file) for file in self.files))
        self.weights, self.by_line = {}, defaultdict(set)
        os.makedirs(state, exist_ok=True)
        with self.copy() as place:
            for file in self.files:
                self.look(place, file)

    @contextlib.contextmanager
    def copy(self):
        with tempfile.TemporaryDirectory() as folder:
            yield shutil.copytree(self.root, os.path.join(folder, "copy"), ignore=NOT_COPIED)

    def look(self, place, file):
        """Learn how long the tests of a file take, and which lines they run."""
        kept = os.path.join(self.state, digest(self.source, content(self.root, file)) + ".json")
        if not os.path.exists(kept):
            print("looking at", file, flush=True)
            found = self.looked(place, file)
            with open(kept, "w") as out:
                json.dump(found, out)
        for test, (weight, lines) in json.loads(content(kept)).items():
            self.weights[test] = weight
            for line in lines:
                self.by_line[line].add(test)

    def looked(self, place, file):
        lines = defaultdict(set)
        with tempfile.TemporaryDirectory() as folder:
            note, data = os.path.join(folder, "note"), os.path.join(folder, "data")
            measured = "coverage", "run", "-p", f"--data-file={data}", f"--source={os.path.dirname(self.module)}", "-m"
            pytest(place, [file], 1800, "--timeout=0", before=measured, MUTANTS_NOTE=note)
            for path in glob.glob(data + ".*"):
                found = coverage.CoverageData(path)
                found.read()
                for line, tests in found.contexts_by_lineno(os.path.join(place, self.module)).items():
                    for test in tests:
                        lines[test].add(line)
            tests = json.loads(content(note))
        beside = sum(seconds for seconds, _, is_beside in tests.values() if is_beside)
        return {test: [beside if is_beside else seconds, sorted(lines[test])]
                for test, (seconds, passed, is_beside) in tests.items() if passed}

    def tests_of(self, mutant):
        """Those that can notice it, the quickest first; those that run beside others stay together."""
        tests = set().union(*(self.by_line.get(line, ()) for line in mutant.lines or self.by_line))
        return sorted(tests & set(self.weights), key=lambda test: (self.weights[test], test.split("::")[0], test))

    def sample(self, count, seed):
        found = kinds.mutants(self.source)
        random.Random(seed).shuffle(found)
        good = (mutant for mutant in found if self.tests_of(mutant) and kinds.compiles(mutant, self.source))
        return [mutant for _, mutant in zip(range(count), good)]

    def killer(self, place, mutant):
        """The test that kills a mutant; None for a survivor."""
        self.put(place, mutant.applied(self.source))
        for tests in self.batches(self.tests_of(mutant)):
            while tests:
                failed = self.failing(place, tests)
                if failed is not None and (failed not in tests or self.is_told_by(failed, place, mutant)):
                    return failed
                tests = tests[tests.index(failed) + 1:] if failed else []
        return None

    def put(self, place, source):
        shutil.rmtree(os.path.join(place, os.path.dirname(self.module), "__pycache__"), ignore_errors=True)
        with open(os.path.join(place, self.module), "wb") as file:
            file.write(source)

    def is_told_by(self, test, place, mutant):
        """Whether a test that failed once tells the mutant from the module: a busy machine fails some tests too."""
        if self.failing(place, [test]) is None:
            return False
        self.put(place, self.source)
        passes = self.failing(place, [test]) is None
        self.put(place, mutant.applied(self.source))
        return passes

    def batches(self, tests):
        """Tests of ever more files, for to collect all takes seconds: first those that are most about the change."""
        chosen, whole = (Counter(test.split("::")[0] for test in each) for each in (tests, self.weights))
        slow = {file: sum({self.weights[test] for test in tests if test.split("::")[0] == file}) for file in chosen}
        files = sorted(chosen, key=lambda file: -chosen[file] / whole[file] / (1 + slow[file]))
        for first, last in ((0, 2), (2, 8), (8, len(files))):
            if files[first:last]:
                yield [test for test in tests if test.split("::")[0] in files[first:last]]

    def failing(self, place, tests):
        """The first of these that fails, or what else is wrong; None if all pass."""
        order = os.path.join(place, "order.json")
        with open(order, "w") as file:
            json.dump(tests, file)
        files = sorted({test.split("::")[0] for test in tests})
        limit = 60 + 3 * sum({self.weights[test] for test in tests})
        passed = pytest(place, files, limit, "-x", f"--timeout={SECONDS}", MUTANTS_PLAY=order)
        found = json.loads(content(order))
        return None if passed else found if isinstance(found, str) else "it hangs" if passed is None else "no test runs"

    def outcomes(self, sample, jobs=1):
        """Each mutant and the test that kills it, as they come."""
        path = os.path.join(self.state, "outcomes.jsonl")
        kept = [json.loads(line) for line in content(path).splitlines()] if os.path.exists(path) else []
        known = {key: by for key, by, version in kept if by or version == self.version}
        with contextlib.ExitStack() as stack, open(path, "a", buffering=1) as out, ThreadPoolExecutor(jobs) as pool:
            places = [stack.enter_context(self.copy()) for _ in range(jobs)]

            def outcome(mutant):
                key = digest(self.source, repr(mutant[:4]).encode())
                if key not in known:
                    place = places.pop()
                    known[key] = self.killer(place, mutant)
                    places.append(place)
                    out.write(json.dumps([key, known[key], self.version]) + "\n")
                return mutant, known[key]

            yield from pool.map(outcome, sample)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="how many mutants to draw")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="how many to try at a time")
    parser.add_argument("--state", default=os.path.join(tempfile.gettempdir(), "llmlite-mutants"))
    given = parser.parse_args()
    run, counted = Run(ROOT, "llmlite/client.py", "tests/test_*.py", given.state), Counter()

    def report(word, mutant, why):
        counted[word] += 1
        print(f"{word:10} {mutant.line:5} {mutant.described(run.source)} [{why}]", flush=True)

    left = []
    for mutant in run.sample(given.count, given.seed):
        said = mutant.described(run.source)
        reason = next((reason for start, reason in EQUIVALENT.items() if said.startswith(start)), None)
        if reason:
            report("equivalent", mutant, reason)
        else:
            left.append(mutant)
    for mutant, killer in run.outcomes(left, given.jobs):
        tests = run.tests_of(mutant)
        files = {test.split("::")[0] for test in tests}
        report("killed" if killer else "survived", mutant, killer or f"{len(tests)} tests of {len(files)} files")
    share = 100 * counted["killed"] / max(1, counted["killed"] + counted["survived"])
    print(", ".join(f"{count} {word}" for word, count in counted.items()) + f": {share:.1f} %")


if __name__ == "__main__":
    main()
