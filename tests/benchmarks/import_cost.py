"""What `import llmlite` costs beside `import requests`: the median ratio over pairs of fresh processes.

    python tests/benchmarks/import_cost.py [PAIRS]
"""
import os
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TIMED = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(module):
    """The seconds that a fresh interpreter takes for the import alone."""
    command = [sys.executable, "-c", TIMED.format(module)]
    return float(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


def main(pairs):
    seconds("llmlite"), seconds("requests")  # so that all is compiled and in the page cache
    times = []
    for pair in range(pairs):  # in turn, and the first place changes: a busy machine slows both
        first, second = ("llmlite", "requests")[:: -1 if pair % 2 else 1]
        took = {first: seconds(first), second: seconds(second)}
        times.append((took["llmlite"], took["requests"]))
    ours, theirs = (statistics.median(column) * 1e3 for column in zip(*times))
    ratio = statistics.median(ours / theirs for ours, theirs in times)
    print(f"import llmlite {ours:.1f} ms, import requests {theirs:.1f} ms, median ratio {ratio:.3f} of {pairs} pairs")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
