"""A batch under kill -9, in short."""
import os

import pytest

from tests import VENDORED
from tests.kills.__main__ import Killed

pytestmark = pytest.mark.skipif(VENDORED or os.name != "posix", reason="kill -9, and batches")


def test_kills(tmp_path):
    """Six kills over 300 lines: each id stands there once, and little is asked twice."""
    killed = Killed(str(tmp_path), lines=300, workers=4, seed=2)
    assert killed.run(kills=6) == []
    assert killed.kills == 6
