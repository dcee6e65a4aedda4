"""python -m tests.typed: what mypy and pyright say of right.py and wrong.py, for the llmlite that is installed.

Each is to complain of the lines of wrong.py that end in "# error", and of nothing else. --mypy or --pyright runs one.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = ("right.py", "wrong.py")


def told(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode > 1:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def by_mypy(folder):
    """Yields (file, line, message)."""
    output = told(folder, sys.executable, "-m", "mypy", "--strict", "--strict-equality", *PROGRAMS)
    for name, line, message in re.findall(r"^(\w+\.py):(\d+): error: (.*)", output, re.M):
        yield name, int(line), message


def by_pyright(folder):
    with open(os.path.join(folder, "pyrightconfig.json"), "w", encoding="utf-8") as file:
        json.dump({"typeCheckingMode": "strict", "reportUnusedExpression": "none"}, file)
    output = json.loads(told(folder, "pyright", "--pythonpath", sys.executable, "--outputjson", *PROGRAMS))
    for one in output["generalDiagnostics"]:
        if one["severity"] == "error":
            yield os.path.basename(one["file"]), one["range"]["start"]["line"] + 1, one["message"].split("\n")[0]


def marked():
    """Yields (file, line) of what is to be complained of."""
    with open(os.path.join(HERE, "wrong.py"), encoding="utf-8") as file:
        yield from (("wrong.py", at) for at, line in enumerate(file, 1) if line.rstrip().endswith("  # error"))


def main(argv):
    checkers = {"--mypy": by_mypy, "--pyright": by_pyright}
    wanted, amiss = set(marked()), 0
    for option in argv or checkers:
        with tempfile.TemporaryDirectory() as folder:  # not here, where llmlite is a folder beside and no package
            for name in PROGRAMS:
                shutil.copy(os.path.join(HERE, name), folder)
            found = {(name, line): message for name, line, message in checkers[option](folder)}
        for name, line in sorted(wanted ^ set(found)):
            amiss += 1
            print(f"{option[2:]}: {name}:{line}: {found.get((name, line), 'no complaint')}")
        print(f"{option[2:]}: {len(found)} complaints, {len(wanted)} wanted")
    return 1 if amiss else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
