"""Faults that an explored test searches together with schedules."""

from __future__ import annotations

import pytest

from tests.explore.sessions import replay_line, run

pytestmark = pytest.mark.extended("time")

HEAD = """
import asyncio
import pytest
from framework import background_task, current_task, retry_task
from pytest_asyncframe.probe import Probe
"""

CLAIMS = (
    HEAD
    + """
class Bank:
    def __init__(self, careful):
        self.careful, self.charges, self.claimed, self.done = careful, [], set(), set()

    def charge(self, order):
        if not (self.careful and order in self.charges):
            self.charges.append(order)

bank = Bank(True)

@background_task(on_restart="requeue", idempotent=True)
def charge(order: int) -> None:
    if order in bank.claimed:
        return  # another process does it
    bank.claimed.add(order)
    bank.charge(order)
    current_task().report_progress(0.5)
    bank.done.add(order)

@background_task
def sweep():
    # Of processes that died.
    bank.claimed &= bank.done

def sell(asyncframe, careful):
    global bank
    bank = Bank(careful)
    for order in (7, 8):
        charge(order)
    sweep()
    asyncframe.run_until_idle()
    assert sorted(bank.charges) == [7, 8]

@pytest.mark.interleave(faults=True, level="framework", seeds=120)
@pytest.mark.parametrize("careful", [False, True])
def test_it(asyncframe, careful):
    sell(asyncframe, careful)

@pytest.mark.interleave(level="framework", seeds=40)
def test_without_faults(asyncframe):
    sell(asyncframe, False)
"""
)


def test_a_crash_and_a_switch(pytester: pytest.Pytester) -> None:
    """A charge that is made twice after a crash and a switch is found; its careful twin passes."""
    result = run(pytester, CLAIMS, "-v")
    again = run(pytester, CLAIMS, replay_line(result))

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.re_match_lines_random(
        [
            r".*::test_it\[False\] FAILED",
            r".*\[True\] PASSED \(all \d+ schedules and faults of level framework .* fails\) .*",
            r".*::test_without_faults PASSED \(.*, none fails\) .*",
            r"run \d+ of at most 120 fails: policy delays, level framework, seed \d+, with faults",
            r"minimised: 1 fault and 1 switch \(from \d\)",
            r"  charge#\d: (its worker died after it had reported progress|it was delivered twice)",
            r".* fault: charge: .*",
        ]
    )
    again.assert_outcomes(failed=1)
    again.stdout.re_match_lines_random([r"It fails with the schedule of the replay line\."])


RETRIES = (
    HEAD
    + """
paid = []

def pay(key):
    if key is None or key not in paid:
        paid.append(key)

@background_task
@retry_task(max_retries=1, retry_delay=1, exceptions=(ConnectionError,))
def once(key):
    pay(key)

@background_task
@retry_task(max_retries=2, retry_delay=1)
async def twice(key):
    pay(key)

@background_task
def plain(key):
    pay(key)

async def run(asyncframe, task, key=7):
    paid.clear()
    await asyncframe.completed(task(key))
    assert len(paid) == 1

@pytest.mark.interleave(faults=True, policy="exhaustive", level="framework")
@pytest.mark.parametrize("task", [once, twice, plain], ids=["once", "twice", "plain"])
async def test_all(asyncframe, task):
    await run(asyncframe, task)

@pytest.mark.interleave(faults=True, policy="exhaustive:1", level="framework")
async def test_up_to_one(asyncframe):
    await run(asyncframe, twice)

@pytest.mark.interleave(faults=True, policy="pct:3", level="framework", seeds=50)
async def test_drawn(asyncframe):
    await run(asyncframe, twice)

@pytest.mark.interleave(faults=True)
@pytest.mark.parametrize("task", [once, twice, plain], ids=["once", "twice", "plain"])
async def test_without_a_key(asyncframe, task):
    await run(asyncframe, task, None)

@pytest.mark.interleave(faults=3)
async def test_wrong(asyncframe):
    pass
"""
)


def test_attempts_fail_where_another_one_follows(pytester: pytest.Pytester) -> None:
    """An attempt fails before or after its work: 3 ways, in 5 orders, with one retry."""
    result = run(pytester, RETRIES, "-v")

    result.assert_outcomes(passed=6, failed=2, errors=1)
    result.stdout.re_match_lines_random(
        [
            r".*::test_all\[once\] PASSED \(all 15 schedules and faults of level .*, none .*\) .*",
            r".*::test_all\[twice\] PASSED \(all 7 schedules and faults of level .*, none .*\) .*",
            r".*\[plain\] PASSED \(no fault was possible: all 5 schedules of level .*\) .*",
            r".*up_to_one PASSED \(all 3 .* with up to 1 preemption or fault, none fails\) .*",
            r".*drawn PASSED \(50 runs of .* with faults and priorities drawn at random .*\) .*",
            r".*::test_without_a_key\[once\] FAILED .*",
            r".*::test_without_a_key\[twice\] FAILED .*",
            r"minimised: 1 fault \(from 1\)",
            r"  once#1: an attempt failed after its work was done \(ConnectionError\)",
            r"  \w+#1: an attempt failed after its work was done \(InjectedError\)",
            r".*@pytest.mark.interleave\(faults=3\): faults must be True or False",
        ]
    )


IDEMPOTENT = (
    HEAD
    + """
@background_task(on_restart="requeue", idempotent=True)
def sync(order: int) -> str:
    current_task().report_progress(0.5)
    return "done"

@background_task(on_restart="requeue", idempotent=True)
@retry_task(max_retries=1, retry_delay=1)
async def coroutine(order: int) -> str:
    await asyncio.sleep(1)
    current_task().report_progress(0.5)
    await asyncio.sleep(1)
    return "done"

@pytest.mark.interleave(faults=True, seeds=40)
@pytest.mark.parametrize("task", [sync, coroutine], ids=["sync", "coroutine"])
async def test_it(asyncframe: Probe, task):
    assert (await asyncframe.completed(task(7))).result == "done"
    print([firing.text for firing in asyncframe.faults.fired])
"""
)


def test_no_fault_makes_a_test_fail(pytester: pytest.Pytester) -> None:
    """Tasks that run again complete, in the same steps each time, and nothing is left behind."""
    result = run(pytester, IDEMPOTENT, "--asyncframe-check-determinism", "-s")

    result.assert_outcomes(passed=2)
