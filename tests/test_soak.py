"""The chaos soak in short: one request in five fails, and every call, the ledger and what is left behind are right."""
import logging

from tests.soak.__main__ import soak


def test_soak(caplog):
    """600 calls over 8 threads: each ends in its own answer or its right error, the ledger is the server's log."""
    caplog.set_level(logging.CRITICAL, "llmlite")
    wrong, found = soak(calls=600, threads=8, seed=1)
    assert not wrong
    assert found["requests"] > 650
    assert len(found["faults"]) > 10
