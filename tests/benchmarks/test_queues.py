"""The measurement of queues, made small: each task runs once, and its costs are found."""

from __future__ import annotations

import sys

import pytest

from benchmarks import queues
from benchmarks._servers import databases
from benchmarks.queueing import _marks


@pytest.mark.extended("servers")
@pytest.mark.skipif(
    sys.platform != "linux", reason="the CPU time of other processes is read as Linux tells it"
)
@pytest.mark.parametrize("case", queues.CASES)
def test_costs_of_a_queue(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers take tasks that waited, and tasks that come one by one, and each once."""
    for variable in (_marks.URL, _marks.MARKS):
        # They are set for this process as well.
        monkeypatch.setenv(variable, "")
    with databases("sqlite") as places:
        url, _ = next(places)
        costs = queues.measured("ours", (url, []), case, 2, 30)

    assert costs.workers > 0
    assert costs.submits > 0
