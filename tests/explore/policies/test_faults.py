"""Faults in explored tests: they are planned anew in each run, and a replay repeats them."""

from __future__ import annotations

import pytest

from tests.explore.sessions import replay_line, run

HEAD = """
import threading
import pytest
from framework import QueueFullError, current_task, retry_task
"""

CHARGES = (
    HEAD
    + """
def careless(order, paid, lock):
    if order not in paid:
        current_task().report_progress(0.5)
        paid.append(order)

def careful(order, paid, lock):
    with lock:
        if order not in paid:
            paid.append(order)

@pytest.mark.interleave(seeds=100, level="locks")
@pytest.mark.parametrize("charge", [careless, careful])
def test_it(asyncframe, charge):
    paid, lock = [], threading.Lock()
    asyncframe.faults.deliver_twice(charge)
    for order in (7, 8):
        asyncframe.manager.submit_nowait(charge, (order, paid, lock))
    asyncframe.run_until_idle()
    assert sorted(paid) == [7, 8]
"""
)


@pytest.mark.extended("time")
def test_second_deliveries_overlap(pytester: pytest.Pytester) -> None:
    """Exploring finds a task that is charged twice, and every run follows its schedule."""
    result = run(pytester, CHARGES, "-v")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.re_match_lines_random(
        [
            r".*::test_it\[careless\] FAILED",
            r".*::test_it\[careful\] PASSED \(.*, none fails\) .*",
            r"minimised: \d+ switch.*",
        ]
    )


CHAOS = (
    HEAD
    + """
@retry_task(max_retries=1, retry_delay=1)
def charge(order, paid):
    if order not in paid:
        current_task().report_progress(0.5)
        paid.append(order)

@pytest.mark.interleave(seeds=200)
def test_it(asyncframe):
    paid = []
    asyncframe.faults.chaos(0.4, kinds=["fail", "deliver_twice", "queue_full"])
    for order in range(10):
        try:
            asyncframe.manager.submit_nowait(charge, (order, paid))
        except QueueFullError:
            pass
    asyncframe.run_until_idle()
    print("took place:", [firing.text for firing in asyncframe.faults.fired])
    for task in asyncframe.submitted(charge):
        task.error
    assert len(set(paid)) == len(paid)
"""
)


@pytest.mark.extended("time")
def test_a_replay_repeats_chaos(pytester: pytest.Pytester) -> None:
    """The same random faults take place in a replay of the run that has failed."""
    first = run(pytester, CHAOS)
    again = run(pytester, CHAOS, replay_line(first))

    again.assert_outcomes(failed=1)
    (told,) = [line for line in first.outlines if line.startswith("took place:")]

    assert told.count("is delivered twice") >= 1
    assert told.count("fails with") >= 1
    assert [line for line in again.outlines if line.startswith("took place:")] == [told]


NEVER = (
    HEAD
    + """
@pytest.mark.interleave(seeds=20)
def test_it(asyncframe):
    def charge(): pass
    asyncframe.faults.fail(charge, on=[1, 2])
    task_id = asyncframe.manager.submit_nowait(charge)
    asyncframe.run_until_complete(task_id, check=False)
"""
)


def test_a_fault_that_never_fires_fails_the_first_run(pytester: pytest.Pytester) -> None:
    """The finding is that of a test which is not explored, with no schedule to blame."""
    result = run(pytester, NEVER)

    result.stdout.re_match_lines_random(
        [r"fault never fired: fail\(charge, on=\[1, 2\]\), .* attempt 2 of charge never came, .*"]
    )
    assert "minimised" not in str(result.stdout)
