"""The fault matrix as tests: each fault in OpenAI's dialect, and in the others those that their own code meets."""
import logging

import pytest

from tests.faults.runner import ROWS, played

# In the dialects other than OpenAI's: what is read out of bodies and events, one of each kind of the rest.
OTHERS = {
    "reset after the request", "reset after the finish reason", "no answer", "half a body, then nothing",
    "after the first event, chunked", "inside an event or object, chunked", "inside an event or object, close",
    "after the finish reason, chunked", "after the finish reason, close", "before the last chunk", "204",
    "307 elsewhere", "402", "429", "500", "529", "HTML with 200", "HTML with 502", "100,000 levels in a field", "1e400",
    "huge usage", "odd usage", "lone surrogate", "error inside a 200", "bad request inside a 200",
    "error as the first event", "error in the middle", "torn event", "empty 200", "empty text", "200 with {}",
    '200 with {"choices": []}', '200 with {"candidates": []}', '200 with {"type": "message"}', "RetryInfo in the body"}
ROWS = [row for row in ROWS if row.dialect == "openai" or row.fault.name in OTHERS]


@pytest.fixture(scope="module")
def outcomes(request):
    """The outcomes of the rows that are to be tested."""
    items = [item for item in request.session.items if getattr(item, "originalname", "") == "test_fault"]
    rows = [item.callspec.params["row"] for item in items]
    logger = logging.getLogger("llmlite")
    level, logger.level = logger.level, logging.CRITICAL
    found = played(rows)
    logger.setLevel(level)
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" | ", "-"))
def test_fault(outcomes, row):
    """Error or reply, requests, ledger, time, what is left open and the next call are as they must be."""
    assert outcomes[row.name].wrong == []
