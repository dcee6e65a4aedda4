"""The pytest plugin of a mutation run: it notes which lines each test runs, or plays chosen tests in a chosen order.

MUTANTS_NOTE names the file for what is noted, {test: [seconds, passed, beside]}; lines go to coverage, each test's own.
MUTANTS_PLAY names a file with the tests to play, a JSON list; the first that fails is written to the same place.
"""
import json
import os
import time

import pytest

from tests import beside


def name_of(item):
    """What a test is known by: its id; its file where a fixture plays all of the file's tests at once."""
    return item.nodeid.split("::")[0] if "outcomes" in item.fixturenames else item.nodeid


class Note:
    """Each test's lines, also of the processes it starts; those that run beside others go one by one."""

    def __init__(self, path):
        import coverage

        self.path, self.coverage, self.found = path, coverage.Coverage.current(), {}
        self.outcome, beside.outcome, beside.WORKERS = beside.outcome, self.alone, 1

    def begin(self, name):
        self.coverage.switch_context(name)
        if "COVERAGE_PROCESS_CONFIG" in os.environ:  # what children take their settings from
            self.coverage.config.context = name
            os.environ["COVERAGE_PROCESS_CONFIG"] = self.coverage.config.serialize()
        return time.monotonic()

    def alone(self, item):
        """Stands in for the function that plays a test in a thread."""
        began = self.begin(name_of(item))
        error = self.outcome(item)
        self.found[name_of(item)] = [time.monotonic() - began, error is None, True]
        return error

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        began, self.failed = self.begin(name_of(item)), False
        yield
        if not item.get_closest_marker("beside"):
            seconds, passed, _ = self.found.get(name_of(item), [0.0, True, False])
            self.found[name_of(item)] = [seconds + time.monotonic() - began, passed and not self.failed, False]

    def pytest_runtest_logreport(self, report):
        self.failed |= report.failed

    def pytest_sessionfinish(self):
        with open(self.path, "w") as file:
            json.dump(self.found, file)


class Play:
    """Some tests in the order given, and the first that fails."""

    def __init__(self, path):
        self.path = path
        with open(path) as file:
            self.order = {name: number for number, name in enumerate(json.load(file))}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = sorted((item for item in items if name_of(item) in self.order),
                          key=lambda item: self.order[name_of(item)])

    def pytest_runtest_logreport(self, report):
        if report.failed:
            with open(self.path, "w") as file:
                json.dump(report.nodeid if report.nodeid in self.order else report.nodeid.split("::")[0], file)


def pytest_configure(config):
    for variable, plugin in (("MUTANTS_NOTE", Note), ("MUTANTS_PLAY", Play)):
        if variable in os.environ:
            config.pluginmanager.register(plugin(os.environ.pop(variable)))
