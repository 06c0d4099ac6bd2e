"""In an explored test, what must always hold is checked at each point."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework import background_task, get_task_manager
from pytest_asyncframe._explore.schedule import Default
from pytest_asyncframe._explore.telling.entries import Ran
from pytest_asyncframe.probe import Probe
from tests.explore.one_run import Wanted, one_run, told_run


def test_a_point_without_an_event() -> None:
    """A predicate that is false only while a task is at a point is found to be broken there."""
    whole = True
    told: list[str] = []

    @background_task
    def mend() -> None:
        nonlocal whole
        whole = False
        get_task_manager().get_stats()
        whole = True

    def body(probe: Probe) -> None:
        probe.always(lambda: whole)
        mend()
        probe.run_until_idle()
        told.append(probe._toolkit.invariants.end(check=True))

    one_run(body, Default())

    when, line, _ = told[0].splitlines()
    assert when.startswith(
        "always() is false before get_stats() of mend#task-1, 0 s after the test began, at "
    )
    assert line == "    probe.always(lambda: whole)"


def test_nobody_else_runs_inside_a_predicate() -> None:
    """A predicate that reaches points itself sees one state, whatever the schedule prefers."""
    sold = 0
    seen: list[tuple[int, int]] = []

    @background_task
    def buy() -> None:
        nonlocal sold
        sold += 1

    def predicate() -> bool:
        before = sold
        get_task_manager().get_stats()
        seen.append((before, sold))
        return True

    def body(probe: Probe) -> None:
        probe.always(predicate)
        for _ in range(3):
            buy()
        get_task_manager().get_stats()
        probe.run_until_idle()

    steps = one_run(body, Wanted("buy#2", "buy#1", "buy#3"))

    assert sold == 3
    assert [step for step in steps if step.preempted]
    assert all(before == after for before, after in seen)


@pytest.mark.usefixtures("untraced")
def test_the_story_leaves_predicates_out() -> None:
    """The lines of a predicate are not told: they are no part of what the test does."""
    sold = 0

    def buy() -> None:
        nonlocal sold
        sold += 1

    def predicate() -> bool:
        limit = 5
        return sold < limit

    def body(probe: Probe) -> None:
        probe.always(predicate)
        probe.manager.submit_nowait(buy)
        probe.run_until_idle()

    entries = told_run(body, Default(), Path(__file__).parent, "line")

    sources = [entry.source for entry in entries if isinstance(entry, Ran)]
    assert "sold += 1" in sources
    assert "return sold < limit" not in sources
