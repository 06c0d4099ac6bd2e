"""Which events of a run come before which, checked by the graph of the run's own log."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Collection
from pathlib import Path

import pytest

from framework import background_task
from pytest_asyncframe._explore.races.effects import Item
from pytest_asyncframe._explore.races.pairs import are_unordered
from pytest_asyncframe._explore.races.watching import Done
from pytest_asyncframe.probe import Probe
from tests.explore.found.happening import APP, HIDDEN, Event, Operation, before, drawn
from tests.explore.modules import Names, module
from tests.explore.one_run import watched_run

pytestmark = pytest.mark.usefixtures("untraced")

ROUNDS = 15
"""How many programs one test runs, one after the other, in one process."""


def happened(
    root: Path, app: str, programs: list[list[Operation]]
) -> tuple[list[Event], dict[str, Done]]:
    """Run a program; return its log, and the accesses that were seen at its marks."""
    file = root / "app.py"
    file.write_text(app)
    linecache.checkcache(str(file))
    names: Names = {}

    @background_task
    def main() -> None:
        names["work"](0)

    def body(probe: Probe) -> None:
        # In the run, so that its locks and queues are made there.
        names.update(module(root, app))
        names["programs"].extend(programs)
        main()
        probe.run_until_idle()

    places = watched_run(body, root)
    marks = {
        str(one.part.key): one
        for done in places.values()
        for one in done
        if isinstance(one.part, Item) and str(one.part.key).startswith("m")
    }
    return [Event(*one) for one in names["log"]], marks


def pairs(log: list[Event], locked: Collection[str] = ()) -> set[tuple[str, str]]:
    """Return the marks of different threads of which none comes before the other, by the log."""
    earlier = before(log, locked)
    marks = [number for number, event in enumerate(log) if event.kind == "mark"]
    return {
        (log[one].what, log[other].what)
        for one, other in itertools.combinations(marks, 2)
        if log[one].thread != log[other].thread and one not in earlier[other]
    }


@pytest.mark.extended("time")
@pytest.mark.parametrize(
    ("app", "locked"),
    # Where a line names a queue in C, it is taken for one that has a lock.
    [(APP, ["q0", "q1", "q2", "q3", "e0", "e1"]), (HIDDEN, ["q0", "q1", "e0", "e1"])],
    ids=["named", "hidden"],
)
def test_order_by_the_log(tmp_path: Path, app: str, locked: list[str]) -> None:
    """In random programs, those marks are in no order that no chain of events connects."""
    unordered = 0
    for seed in range(ROUNDS):
        log, marks = happened(tmp_path, app, drawn(seed))
        assert {event.what for event in log if event.kind == "mark"} == set(marks)
        seen = {
            (one, other)
            for one, other in itertools.combinations(marks, 2)
            if marks[one].actor != marks[other].actor and are_unordered(marks[one], marks[other])
        }
        assert seen <= pairs(log)
        assert seen == pairs(log, locked)
        unordered += len(seen)
    assert unordered > 100
