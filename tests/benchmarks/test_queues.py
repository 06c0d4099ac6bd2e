"""The measurement of queues, made small: each task runs once, and its costs are found."""

from __future__ import annotations

import sys

import pytest

from benchmarks import queues
from benchmarks._servers import databases


@pytest.mark.extended("servers")
@pytest.mark.skipif(
    sys.platform != "linux", reason="the CPU time of other processes is read as Linux tells it"
)
def test_costs_of_a_queue() -> None:
    """Workers take tasks that waited, that come one by one, and after pauses, each of them once."""
    found = queues.Found()
    with databases("sqlite") as places:
        # Linux counts CPU time in hundredths of a second, of which few tasks may take none.
        queues.measured("ours", next(places), 2, queues.CASES[1], 300, found, starts=3)

    assert list(found.costs) == [("backlog", 2), ("one by one", 2)]
    assert all(part > 0 for costs in found.costs.values() for part in costs[0]._replace(server=1.0))
    assert {case: len(times) for case, times in found.starts.items()} == {"start": 3, "stream": 3}
    assert all(min(times) > 0 for times in found.starts.values())


@pytest.mark.extended("servers")
@pytest.mark.skipif(sys.platform != "linux", reason="as above")
def test_a_queue_that_fails_beside_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A queue that is not installed is named with the reason, and the next one is measured."""
    missing = queues.Queue("Missing {} in a database", "missing-queue")
    monkeypatch.setattr(queues, "QUEUES", {"missing": missing, "ours": queues.QUEUES["ours"]})
    monkeypatch.setattr(queues, "CASES", {1: ("backlog",)})
    monkeypatch.setattr(queues, "databases", lambda _: databases("sqlite"))
    queues.main(["--tasks", "30", "--minutes", "0"])

    *_, ours, told = [line for line in capsys.readouterr().out.splitlines() if line]
    assert ours.startswith("| asyncframe on PostgreSQL | ")
    assert told == (
        "Missing not installed in a database, 1 worker: "
        "its last line: ModuleNotFoundError: No module named 'benchmarks.queueing.missing'"
    )
