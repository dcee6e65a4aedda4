"""Which module the suite tests: the package, or (LLMLITE_UNDER_TEST=vendored) its client.py copied elsewhere, alone."""
import atexit
import importlib
import os
import re
import shutil
import sys
import tempfile

from llmlite import testing, vendor


def _vendored():
    """client.py under another name in another package, as people copy it into their own tools."""
    place = tempfile.mkdtemp(prefix="vendored")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    package = os.path.join(place, "some_tool", "vendor")
    os.makedirs(package)
    for folder in (os.path.dirname(package), package):
        open(os.path.join(folder, "__init__.py"), "w").close()
    vendor.copy(os.path.join(package, "little_llm.py"))
    sys.path.insert(0, place)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (place, os.environ.get("PYTHONPATH"))))
    return importlib.import_module("some_tool.vendor.little_llm")


VENDORED = os.environ.get("LLMLITE_UNDER_TEST") == "vendored"
llmlite = _vendored() if VENDORED else importlib.import_module("llmlite")


def named(value):
    """A test's name for a value: its repr, the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


__all__ = ["VENDORED", "llmlite", "named", "testing"]
