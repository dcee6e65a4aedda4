"""The mutation sample's own machinery, on a module of a few lines; the sample is `python -m tests.mutants`."""
import inspect

from tests import llmlite
from tests.mutants import kinds
from tests.mutants.__main__ import Run
from tests.mutants.equivalent import EQUIVALENT

MODULE = '''
"""A toy."""
LIMIT = 3

def is_big(number: int = 0) -> bool:
    """Whether it is."""
    if number > LIMIT:
        return True
    raise ValueError("small: " "not big")
'''
TEST = '''
import pytest, toy

def test_toy():
    assert toy.is_big(10)
    with pytest.raises(ValueError):
        toy.is_big(2)
'''


def changes(source):
    return [mutant.applied(source.encode()).decode() for mutant in kinds.mutants(source.encode())]


def test_what_is_mutated():
    """Operators, numbers, conditions, returns and statements are; docstrings, annotations and wording are not."""
    lines = {line for change in changes(MODULE) for line in change.splitlines()} - set(MODULE.splitlines())
    assert {line.strip() for line in lines} == {
        "LIMIT = 4", "def is_big(number: int = 1) -> bool:", "if number >= LIMIT:", "if True:", "if False:",
        "return False", "return None", "pass"}


def test_a_survivor_and_a_kill(tmp_path, monkeypatch):
    """What a test notices is killed by it, what none notices survives; a second run asks the state alone."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # which take longer than the toy's tests
    monkeypatch.setenv("PYTEST_PLUGINS", "pytest_timeout")
    (tmp_path / "kept").mkdir()
    root = tmp_path / "project" / "src"
    root.mkdir(parents=True)
    (root / "toy.py").write_text(MODULE)
    (root.parent / "test_toy_cache.py").write_text("import sys; sys.path.append('src')\n" + TEST)
    run = Run(str(root.parent), "src/toy.py", "test_*.py", str(tmp_path / "kept"))
    mutants = {mutant.new: mutant for mutant in run.sample(100, 1)}
    sample = [mutants[b">="], mutants[b"False"]]
    found = [killer for _, killer in run.outcomes(sample)]
    assert found == [None, "test_toy_cache.py::test_toy"]
    run.killer = None
    assert [killer for _, killer in run.outcomes(sample)] == found


def test_what_is_explained_is_a_change_of_the_client():
    """No explanation outlives the line that it was for."""
    source = inspect.getsource(inspect.getmodule(llmlite.Client)).encode()
    changes = [mutant.described(source) for mutant in kinds.mutants(source)]
    assert [start for start in EQUIVALENT if not any(change.startswith(start) for change in changes)] == []
