"""The runner: environments, the server, interleaved rounds, the table of measures.

Each round runs every library once, one after another, each in a process of its own; what counts is the median of the
ratios within the rounds, for a busy machine slows the neighbours of a round alike. Needs a Unix.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from . import report
from .report import Row
from .server import BURST, RATE

HERE = Path(__file__).resolve().parent
PEERS = {"openai": ["openai==3.52.0"], "anthropic": ["anthropic==2.11.0"], "genai": ["google-genai==3.4.0"],
         "litellm": ["litellm==1.109.1"], "httpx": ["httpx"]}
SDKS = ("openai", "anthropic", "genai", "litellm")
SHAPES = {"openai": "openai", "anthropic": "anthropic", "genai": "gemini", "litellm": "openai"}
MODULES = {"genai": "google.genai", "http_client": "http.client, json"}
IMPORT = """import sys, time
wall, cpu = time.perf_counter(), time.process_time()
import {module}
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
status = open("/proc/self/status").read() if sys.platform == "linux" else "VmHWM: 0"
print('{{"wall": %f, "cpu": %f, "modules": %d, "peak": %f}}' % (
    wall, cpu, len(sys.modules), int(status.split("VmHWM:")[1].split()[0]) / 1024))"""
VERSIONS = """import importlib.metadata as m, sys
print(", ".join(name + " " + m.version(name) for name in sys.argv[1:]))"""


class Job(NamedTuple):
    """What one process measures."""

    library: str
    measure: str
    options: Tuple[str, ...] = ()


Found = Dict[str, List[Optional[Dict[str, Any]]]]  # by label, a result (or None) for each round


class Lab:
    """The environments, the server, and how a process is run against them."""

    core: Optional[int] = None  # the server's

    def __init__(self, args: argparse.Namespace, envs: Path, home: str) -> None:
        self.quick, self.envs, self.home = args.quick, envs, home  # home has no ~/.netrc and no settings
        self.rounds, self.once = args.rounds or (3 if args.quick else 9), args.rounds or 1  # `once`: what takes long
        self.python, self.bare = args.python, [f"{name}=={version}" if version else name for name, version in (
            ("requests", args.requests), ("urllib3", args.urllib3))]
        minor = self._output([self.python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
        self.peers = args.peers and tuple(map(int, minor.split("."))) >= (3, 10)
        self.tag = "-".join(filter(None, (minor, args.requests, args.urllib3)))
        hidden = ("_PROXY", "_KEY", "_BASE_URL")
        self.environ = {name: value for name, value in os.environ.items()
                        if not name.startswith("PYTHON") and not name.upper().endswith(hidden)}
        self.environ.update(HOME=home, LITELLM_LOCAL_MODEL_COST_MAP="True", PYTHONHASHSEED="0")
        self.url, self.broken = "", set()

    @staticmethod
    def _output(command: List[str]) -> str:
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def interpreter(self, library: str) -> str:
        """The Python of a library's environment."""
        name = library if library in PEERS else "bare"
        return str(self.envs / f"{name}-{self.tag}" / "bin" / "python")

    def make_environments(self) -> str:
        """Make those that are missing; returns the versions in all of them."""
        wanted = {"bare": self.bare, **(PEERS if self.peers else {})}
        versions = []
        for library, packages in wanted.items():
            python = Path(self.interpreter(library))
            if not (python.parent / "complete").exists():
                print(f"making {python.parent.parent}", file=sys.stderr)
                subprocess.run([self.python, "-m", "venv", "--clear", str(python.parent.parent)], check=True)
                self._install(library, str(python), packages)
            names = [package.partition("==")[0] for package in packages]
            if (python.parent / "complete").exists():
                versions.append(self._output([str(python), "-c", VERSIONS, *names]))
        site = self._output([self.interpreter("bare"), "-c", "import site; print(site.getsitepackages()[0])"])
        Path(site, "llmlite.pth").write_text(f"{HERE.parent.parent}\n")  # as an editable install would
        return ", ".join(versions)

    @staticmethod
    def _install(library: str, python: str, packages: List[str]) -> None:
        for names in (packages, [name.partition("==")[0] for name in packages]):  # else the newest there is
            if not subprocess.run([python, "-m", "pip", "install", "-q", *names]).returncode:
                Path(python).with_name("complete").touch()
                return
        print(f"n/a: {library} cannot be installed", file=sys.stderr)

    @contextlib.contextmanager
    def server(self) -> Iterator[None]:
        """Run the server on a core of its own."""
        command = [sys.executable, str(HERE / "server.py"), *([] if self.core is None else [str(self.core)])]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            self.url = f"http://127.0.0.1:{process.stdout.readline().strip()}"  # type: ignore[union-attr]
            yield
            process.stdin.close()  # type: ignore[union-attr]

    def run(self, job: Job) -> Optional[Dict[str, Any]]:
        """One process; None (and never again in this run) when it fails."""
        if job in self.broken:
            return None
        url = self.url + "/{kind}/{shape}/{count}/{framing}"
        argv = [self.interpreter(job.library), str(HERE / "clients.py"), job.library, job.measure, url, *job.options]
        if job.measure == "import":
            argv[1:] = ["-c", IMPORT.format(module=MODULES.get(job.library, job.library))]
        if job.measure == "batch":
            argv[1:] = ["-c", MILLION, *job.options]
        with tempfile.TemporaryFile("w+") as errors:
            started = time.perf_counter()
            process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, env=self.environ, cwd=self.home)
            alarm = threading.Timer(300, process.kill)
            alarm.start()
            output = process.stdout.read()  # type: ignore[union-attr]
            _, process.returncode, used = os.wait4(process.pid, 0)
            wall = time.perf_counter() - started
            alarm.cancel()
            process.stdout.close()  # type: ignore[union-attr]
            if not process.returncode:
                whole = {"wall": wall, "cpu": used.ru_utime + used.ru_stime}
                return json.loads(output.splitlines()[-1]) or whole  # litellm prints of errors; a cold start has {}
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no words"])[-1]
        self.broken.add(job)
        print(f"n/a: {job.library} {job.measure} {' '.join(job.options)}: {last[:200]}", file=sys.stderr)
        return None

    def interleave(self, jobs: Dict[str, Job], rounds: Optional[int] = None) -> Found:
        """A B C, A B C, ...; the slow SDKs only in every third round."""
        found: Found = {label: [] for label in jobs}
        for at in range(rounds or self.rounds):
            for label, job in jobs.items():
                skipped = (job.library in SDKS and (at % 3 or not self.peers)) or (
                    job.library == "httpx" and not self.peers)
                found[label].append(None if skipped else self.run(job))
        return {label: results for label, results in found.items() if jobs[label].library not in PEERS or self.peers}


def rows(measure: str, found: Found, base: str, unit: str, bars: Dict[str, float], key: str = "cpu",
         more: bool = False, note: str = "") -> List[Row]:
    """A row for each label: its median, and the median of its ratios to `base` (inverted when more is better)."""
    made = []
    for label, results in found.items():
        pairs = [(own[key], other[key]) for own, other in zip(results, found[base]) if own and other]
        ratios = sorted(other / own if more else own / other for own, other in pairs)
        quarter = len(ratios) // 4
        row = Row(measure, label, unit, bars.get(label), more)
        made.append(row if not pairs else row._replace(
            value=statistics.median(own for own, _ in pairs), ratio=statistics.median(ratios), low=ratios[quarter],
            high=ratios[-1 - quarter], note=note.format(**next(result for result in reversed(results) if result))))
    return made


def pick(measure: str, libraries: str, *options: str) -> Dict[str, Job]:
    """Jobs, labelled by their libraries; an SDK gets the answers of its own provider."""
    return {library: Job(library, measure, (f"shape={SHAPES.get(library, 'openai')}", *options))
            for library in libraries.split()}


ALL = "requests llmlite urllib3 http_client httpx openai anthropic genai litellm"  # the base first


def import_time(lab: Lab) -> List[Row]:
    """`import X`, in a fresh process."""
    found = lab.interleave(pick("import", ALL), 3 * lab.rounds)
    return rows("import", found, "requests", "ms", {"llmlite": 1.10}, "wall", note="{modules} modules, {peak:.0f} MB") \
        + rows("import, CPU", found, "requests", "ms", {"llmlite": 1.10})


def cold_start(lab: Lab) -> List[Row]:
    """A whole process: start, import, client, first call."""
    found = lab.interleave(pick("cold", ALL), 2 * lab.rounds)
    return rows("cold start", found, "requests", "ms", {"llmlite": 1.15}, key="wall") + rows(
        "cold start, CPU", found, "requests", "ms", {"llmlite": 1.15})


def one_call(lab: Lab) -> List[Row]:
    """CPU of a call with an answer of 1 KB, on a kept connection."""
    found = lab.interleave(pick("call", ALL.replace("llmlite", "llmlite llmlite_deadline")))
    with_deadline = {name: found[name] for name in ("llmlite", "llmlite_deadline")}
    return rows("call", found, "requests", "us", {"llmlite": 0.60}) + rows(
        "call with a deadline / without", with_deadline, "llmlite", "us", {"llmlite_deadline": 1.15})[1:]


def one_chunk(lab: Lab) -> List[Row]:
    """CPU of a streamed chunk of 250 bytes, by shape and framing."""
    made = []
    for shape, framing, libraries in (
            ("openai", "chunked", "requests llmlite urllib3 http_client httpx openai litellm"),
            ("openai", "closed", "requests llmlite http_client"),
            ("anthropic", "chunked", "requests llmlite anthropic"), ("anthropic", "closed", "requests llmlite"),
            ("responses", "chunked", "requests llmlite"), ("responses", "closed", "requests llmlite"),
            ("gemini", "chunked", "requests llmlite genai"), ("gemini", "closed", "requests llmlite")):
        jobs = pick("chunk", libraries, f"shape={shape}", f"framing={framing}")  # the last shape counts
        for sdk in set(jobs) & set(SDKS):
            jobs[sdk] = jobs[sdk]._replace(options=(*jobs[sdk].options, "few=500", "many=2000", "pairs=1"))
        made += rows(f"chunk, {shape}, {framing}", lab.interleave(jobs), "requests", "us", {"llmlite": 0.85})
    return made


def first_text(lab: Lab) -> List[Row]:
    """Wall from the call to the first piece."""
    found = lab.interleave(pick("first", ALL))
    return rows("first text", found, "requests", "us", {"llmlite": 0.75}, key="wall")


def lateness(lab: Lab) -> List[Row]:
    """How late each piece is, of a stream that sends one each 5 ms."""
    made = []
    for framing, libraries in (("chunked", "http_client llmlite llmlite_deadline requests urllib3 openai"),
                               ("closed", "http_client llmlite llmlite_deadline requests")):
        found = lab.interleave(pick("late", libraries, f"framing={framing}"))
        made += rows(f"delay of a chunk, {framing}", found, "http_client", "us", {"llmlite": 1.10}, key="wall")
    return made


def sixteen_threads(lab: Lab) -> List[Row]:
    """Throughput of 2,000 calls over 16 threads on one client."""
    jobs = pick("threads", "requests_pool llmlite requests urllib3 httpx openai anthropic genai litellm")
    for sdk in SDKS:
        jobs[sdk] = jobs[sdk]._replace(options=(*jobs[sdk].options, "calls=400"))
    found = lab.interleave(jobs)
    made = rows("16 threads, throughput", found, "requests_pool", "us a call", {"llmlite": 1.8}, "wall", more=True)
    plain = {name: found[name] for name in ("requests", "llmlite")}
    made += rows("16 threads / requests' own pool", plain, "requests", "us a call", {"llmlite": 1.8}, "wall", True)[1:]
    best = [min((found[sdk][at] for sdk in SDKS if found.get(sdk) and found[sdk][at]), default=None,  # type: ignore
                key=lambda got: got["wall"]) for at in range(lab.rounds)]
    versus = {"best SDK": best, "llmlite": found["llmlite"]}
    return made + rows("16 threads / best SDK", versus, "best SDK", "us a call", {"llmlite": 3.0}, "wall", True)[1:]


def growth(lab: Lab) -> List[Row]:
    """CPU of a chunk and peak memory, by the length of the stream."""
    sizes = [1_000, 10_000, 100_000] + ([] if lab.quick else [1_000_000])
    made = []
    for library in ("llmlite", "requests"):
        found = lab.interleave({f"{library}, {size:,} chunks": Job(library, "whole", (f"count={size}",))
                                for size in sizes}, 1 if lab.quick else 3)
        made += rows("length of a stream", found, f"{library}, 10,000 chunks", "us a chunk", {},
                     note="peak {peak:.1f} MB, {grown:+.1f} by the stream, whose text has {text:.2f} MB")
    return made


def linear(lab: Lab) -> List[Row]:
    """CPU of a unit at n and at 2n: 1.0 is linear."""
    made = []
    for what, measure, option, count in (
            ("tool-call pieces", "whole", "kind=tools", 50_000),
            ("reasoning pieces", "whole", "kind=reasoning", 50_000),
            ("messages of a history", "send", "what=history", 2_000), ("MB of an image", "send", "what=image", 10)):
        jobs = {f"{library}, {size:,} {what}": Job(library, measure, (option, f"count={size}")) for library, size in (
            ("llmlite", count), ("llmlite", 2 * count), ("requests", count))}
        made += rows("linear", lab.interleave(jobs, 3), next(iter(jobs)), "us a unit", {}, note="peak {peak:.0f} MB")
    return made


MODES = {"seconds": "whole-second waits", "ms": "waits in ms", "nothing": "no word", "headers": "headers on answers"}
FOLLOWED = 5.0  # seconds that a client may take to follow a new grant


def pace(lab: Lab) -> List[Row]:
    """Calls over 32 threads to a server that grants 50 a second, 10 at once; then a grant that halves and doubles."""
    calls = 300 if lab.quick else 1000
    ideal = {"wall": (calls - BURST) / RATE, "said": ""}
    made = []
    for mode, name in MODES.items():
        options = (f"framing={mode}", f"calls={calls}")
        jobs = pick("pace", "llmlite openai anthropic genai litellm", *options)
        jobs = {"llmlite, map": Job("llmlite", "pace", ("way=map", *options)), **jobs}
        if mode == "seconds":
            jobs["llmlite, map, declared"] = Job("llmlite_declared", "pace", ("way=map", *options))
            jobs["llmlite, declared"] = Job("llmlite_declared", "pace", options)
        found = {label: [got and {**got, "said": refusals(label, got)} for got in results]
                 for label, results in lab.interleave(jobs, lab.once).items()}
        bars = {label: 1.05 if "declared" in label else 1.20 if mode == "seconds" else 1.10 for label in found}
        own = {label: bar for label, bar in bars.items() if "llmlite" in label and not lab.quick}  # bars of 1,000 calls
        made += rows(f"pace, {name}", {"ideal": [ideal] * lab.once, **found}, "ideal", "s", own, "wall", note="{said}")
    return made + changes(lab, 6 if lab.quick else 10)


def refusals(label: str, got: Dict[str, Any]) -> str:
    """How many calls were refused and failed; for llmlite, beside the bar."""
    refused, most = len(got["refused"]), 0 if "declared" in label else 32 + len(got["granted"]) // 50
    verdict = f" (at most {most}: {'met' if refused <= most else 'MISSED'})" if "llmlite" in label else ""
    return f"{refused:,} refused{verdict}, {got['failed']:,} failed"


def changes(lab: Lab, change: int) -> List[Row]:
    """How long until a client follows a grant that halves, and doubles as long after."""
    calls = int(RATE * change * 2.5 + BURST + RATE * 4)  # goes on for 4 s after what must be seen
    options = (f"framing=seconds-{change}", f"calls={calls}")
    found = lab.interleave({"llmlite, map": Job("llmlite", "pace", ("way=map", *options)),
                            **pick("pace", "llmlite", *options)}, lab.once)
    made = []
    for name, begin, rate in (("halves", change, RATE / 2), ("doubles", 2 * change, RATE)):
        span = (begin, begin + change, rate)
        took: Found = {label: [got and {"wall": followed(got["granted"], *span), "said": (
            f"{share(got['granted'], *span):.0%} of it taken, " + refusals("", got))} for got in results]
            for label, results in found.items()}
        own = {label: 1.0 for label in took if "llmlite" in label}
        allowed: Found = {"allowed": [{"wall": FOLLOWED, "said": ""}] * lab.once}
        made += rows(f"pace, a grant that {name}", {**allowed, **took}, "allowed", "s", own, "wall", note="{said}")
    return made


def share(granted: List[float], begin: float, end: float, rate: float) -> float:
    """What was taken of a grant of `rate` a second."""
    return sum(begin <= at < end for at in granted) / (end - begin) / rate


def followed(granted: List[float], begin: float, end: float, rate: float) -> float:
    """Seconds from `begin` to the end of the first 2 s with a grant within 20 % of `rate`; all there are, if none."""
    for step in range(round((end - begin - 2) * 10) + 1):
        if abs(share(granted, begin + step / 10, begin + step / 10 + 2, rate) - 1) <= 0.2:
            return 2 + step / 10
    return end - begin


def mapped(lab: Lab) -> List[Row]:
    """CPU of a prompt through map with 8 workers, beside that of a plain chat in the same process."""
    made = []
    for cores in ("one", "all"):
        for size, rounds in ((1_000, lab.rounds), (10_000 if lab.quick else 100_000, lab.once)):
            label = f"llmlite, {size:,} prompts"
            job = Job("llmlite", "map", (f"count={size}", f"cores={cores}"))
            found = lab.interleave({label: job}, rounds)
            found["a chat"] = [got and {**got, "cpu": got["plain"]} for got in found[label]]
            made += rows(f"map, CPU, {cores} core{'s' * (cores == 'all')}", found, "a chat", "us", {label: 1.25},
                         note="{grown:+.1f} MB (at most 30) after the first 1,000, {rate:,.0f} prompts/s")[:1]
    return made


MILLION = """import json, sys, tempfile
from tests.kills.__main__ import million
lines, done = map(int, sys.argv[1:])
with tempfile.TemporaryDirectory() as folder:
    size, first, memory, rate = million(folder, lines, done)
print(json.dumps({"wall": first, "memory": memory, "rate": rate, "size": size}))"""


def batch(lab: Lab) -> List[Row]:
    """From the start of `llmlite batch` on a long file to its first request; and its memory, 2,000 answers later."""
    lines, made = 100_000 if lab.quick else 1_000_000, []
    for done in (0, lines * 9 // 10):
        found = lab.interleave({"llmlite": Job("llmlite", "batch", (str(lines), str(done)))}, lab.once)
        allowed: Found = {"allowed": [{"wall": 5.0, "memory": 150.0}] * lab.once}
        made += rows(f"batch of {lines:,}, {done:,} done", {**allowed, **found}, "allowed", "s", {"llmlite": 1.0},
                     "wall", note="{memory:.0f} MiB at most")
    return made


def cache(lab: Lab) -> List[Row]:
    """A hit beside a call over loopback."""
    found = lab.interleave(pick("call", "llmlite llmlite_dict llmlite_cache"))
    bars = {"llmlite_dict": 0.10, "llmlite_cache": 0.10}
    return rows("cache, wall", found, "llmlite", "us", bars, "wall") + rows("cache, CPU", found, "llmlite", "us", bars)


MEASURES: Dict[str, Callable[[Lab], List[Row]]] = {
    "import": import_time, "cold": cold_start, "call": one_call, "chunk": one_chunk, "first": first_text,
    "late": lateness, "threads": sixteen_threads, "growth": growth, "linear": linear, "pace": pace, "map": mapped,
    "batch": batch, "cache": cache}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and calls, no stream of 1,000,000 chunks")
    parser.add_argument("--only", action="append", choices=MEASURES, help="this measure (may be given again)")
    parser.add_argument("--peers", dest="peers", action="store_true", default=True, help="other clients too (default)")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="only requests, urllib3, http.client")
    parser.add_argument("--rounds", type=int, help="rounds of each measure (9; with --quick 3; 1 of what takes long)")
    parser.add_argument("--envs", type=Path, help="folder of the environments, to use them again")
    parser.add_argument("--out", type=Path, help="folder for the table and the plots (default: a new one)")
    parser.add_argument("--python", default=sys.executable, help="the Python that is measured")
    parser.add_argument("--requests", metavar="VERSION", help="default: the newest")
    parser.add_argument("--urllib3", metavar="VERSION", help="default: the newest")
    return parser.parse_args()


def pin() -> Optional[int]:
    """Keep this process and the clients on one core; returns another for the server, if there is one."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None
    os.sched_setaffinity(0, {cores[0]})
    return cores[1]


def main() -> None:
    """Run the measures and write what they found."""
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        lab = Lab(args, (args.envs or Path(scratch)).resolve(), scratch)
        versions = lab.make_environments()
        lab.core = pin()
        out = args.out or Path(tempfile.mkdtemp(prefix="benchmarks"))
        out.mkdir(parents=True, exist_ok=True)
        with lab.server():
            ceiling = lab.run(Job("requests", "ceiling")) or {}
            about = [f"Python {lab.tag.partition('-')[0]}; {versions}.",
                     f"{lab.rounds} rounds; load at the start {os.getloadavg()[0]:.1f}. The server alone: " + ", ".join(
                         f"{value:,.0f} {name} a second" for name, value in ceiling.items()) + "."]
            made: List[Row] = []
            for name in args.only or MEASURES:
                started = time.monotonic()
                made += MEASURES[name](lab)
                print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        print(report.write(out, about, made))
        print(f"written to {out}")


if __name__ == "__main__":
    main()
