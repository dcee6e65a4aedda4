"""CPython as pyodide brings it, which is how a Python can be had that no machine has yet.

It needs npm, and the registry or npm's cache: node and pyodide are installed into a temporary folder.
"""
import pathlib
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests import testing
from tests.pyodide import checks

HERE = pathlib.Path(__file__).parent
PYTHONS = {"3.14.2": "314.0.7", "3.15.0rc1": "315.0.0-alpha.2"}  # and the pyodide that has it
NODE = "node@24"  # the first whose WebAssembly can wait for JavaScript
pytestmark = pytest.mark.timeout(300)  # the first time, 70 MB come from the registry


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder with node and the pyodides in it."""
    if not shutil.which("npm"):
        pytest.skip("there is no npm here")
    folder = tmp_path_factory.mktemp("node")
    packages = [NODE, *(f"pyodide-{python}@npm:pyodide@{version}" for python, version in PYTHONS.items())]
    options = ["--prefix", str(folder), "--no-audit", "--no-fund", "--fetch-retries=0", "--fetch-timeout=20000"]
    npm = ended([shutil.which("npm"), "install", *options, *packages], timeout=120)
    if npm.returncode:
        errors = [line for line in npm.stdout.splitlines() if "npm err" in line.lower()]
        pytest.skip(f"npm cannot install {' '.join(packages)}: {errors[0]}")
    return folder / "node_modules"


@pytest.fixture(scope="module")
def outputs(installed):
    """Each Python's output, all of them having run at the same time."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(PYTHONS, pool.map(lambda python: output(installed, python), PYTHONS)))


def output(installed, python):
    """What the checks print there, over a provider of their own in this process."""
    packages = pathlib.Path(requests.__file__).parents[1]  # of which nothing that is needed has to be compiled
    command = [installed / ".bin" / "node", "--experimental-wasm-jspi", HERE / "run.mjs",
               installed / f"pyodide-{python}", HERE.parents[1], packages]
    with testing.Server() as server:
        server.handle(checks.provider())
        return ended([*map(str, command), server.url], timeout=120).stdout


def ended(command, timeout):
    """A command that has ended, with all that it has written."""
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=timeout)


@pytest.mark.parametrize("python", PYTHONS)
def test_the_client_over_sockets(outputs, python):
    """Calls, streams, retries, deadlines, errors and tools are on that Python what they are on any."""
    print(outputs[python])
    assert f"Python {python}: passed" in outputs[python]
