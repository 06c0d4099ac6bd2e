"""Tests of the markers crash_points and interleave together."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

RACES = Path(__file__).with_name("races.py")

CRASHES = "pytest.mark.crash_points"
ORDERS = "pytest.mark.interleave(level='framework', seeds={})"


@pytest.fixture
def races(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder for the module of bugs that need an order and a crash, and of their cures."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    return pytester


def write(races: pytest.Pytester, *marks: str) -> None:
    """Write the module, with marks for all of its tests."""
    races.makepyfile(test_races=f"{RACES.read_text()}\npytestmark = [{', '.join(marks)}]\n")


@pytest.mark.extended("time")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mark", [CRASHES, ORDERS.format(100)])
def test_neither_finds_these_bugs_alone(races: pytest.Pytester, mark: str) -> None:
    """With one of the two markers, each bug passes as its cure does."""
    write(races, mark)
    races.runpytest("-p", "no:randomly", "--timeout=600").assert_outcomes(passed=5)


@pytest.mark.extended("time")
@pytest.mark.timeout(600)
def test_both_find_a_bug_and_repeat_it(races: pytest.Pytester) -> None:
    """A failure tells the order and the crash, and one line runs it again."""
    write(races, CRASHES, ORDERS.format(200))
    result = races.runpytest("-p", "no:randomly", "--timeout=600", "-k", "bug_of_a_coupon")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            "^run [0-9]+ of at most 200 fails: policy delays, level framework",
            "^The process dies ",
            "^minimised: ",
            "^  the process: it dies ",
            "^  uses_coupon_first#[0-9] ran",
            "^  it fails at `assert sorted",
        ]
    )
    found = re.search("^replay: pytest (.*)$", result.stdout.str(), re.MULTILINE)
    assert found is not None
    again = races.runpytest(*shlex.split(found[1]), "-p", "no:randomly")
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(
        ["E*assert [[]5, 5[]] == [[]5, 10[]]", "It fails with the schedule of the replay line."]
    )


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["test_bug_of_a_copy", "test_bug_of_a_copy_on_a_thread"])
def test_a_copy_that_is_written_late_is_found(races: pytest.Pytester, name: str) -> None:
    """What is right in memory and wrong on the disk is seen after a crash."""
    write(races, CRASHES, ORDERS.format(600))
    result = races.runpytest("-p", "no:randomly", "--timeout=600", f"test_races.py::{name}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["  the process: it dies *"])


@pytest.mark.extended("time")
@pytest.mark.timeout(600)
def test_a_cure_passes_and_says_what_that_proves(races: pytest.Pytester) -> None:
    """Its summary has the points, and under how many schedules the process has died there."""
    write(races, CRASHES, ORDERS.format(80))
    result = races.runpytest("-v", "-p", "no:randomly", "--timeout=600", "-k", "cure")
    result.assert_outcomes(passed=2)
    proof = "*PASSED (all * crash points under * schedules each of level framework, none fails)*"
    result.stdout.fnmatch_lines([proof, proof])


@pytest.mark.extended("time")
def test_what_needs_no_order_is_found_by_a_crash(races: pytest.Pytester) -> None:
    """A bug of crashes alone fails under the default schedule, and its line needs no schedule."""
    write(races, CRASHES, ORDERS.format(200))
    with (races.path / "test_races.py").open("a") as module:
        module.write("""

@background_task(on_restart="resume")
async def counts(order: str) -> None:
    await write_all(order)
    disk.paid[f"{order} {len(disk.paid)}"] = 1
    await write_all(order)

COUNTED = app_of(counts)

async def test_counted(asyncframe: Probe) -> None:
    async with asyncframe.client(COUNTED, on_crash="again") as client:
        answer = await client.post("/orders/a", headers={"Idempotency-Key": "a"})
        await asyncframe.completed(answer)
    assert len(disk.paid) == 1
""")
    result = races.runpytest("-p", "no:randomly", "-k", "test_counted")
    result.assert_outcomes(failed=1)
    found = re.search("^replay: pytest (.*)$", result.stdout.str(), re.MULTILINE)
    assert found is not None
    words = shlex.split(found[1])
    assert words[1] == "--asyncframe-crash"
    assert len(words) == 3
    races.runpytest(*words, "-p", "no:randomly").assert_outcomes(failed=1)


@pytest.mark.extended("time")
@pytest.mark.timeout(300)
def test_a_lock_of_the_dead_is_free_in_the_next_life(races: pytest.Pytester) -> None:
    """A lock of a module, which a thread of the dead process has, keeps nobody out after that."""
    write(races, CRASHES, ORDERS.format(40))
    with (races.path / "test_races.py").open("a") as module:
        module.write("""
import threading

lock = threading.Lock()

@step
def note(order: str) -> None:
    disk.paid[order] = 1

@background_task(on_restart="resume")
def locks(order: str) -> None:
    with lock:
        note(order)

LOCKED = app_of(locks)

async def test_locked(asyncframe: Probe) -> None:
    async with asyncframe.client(LOCKED, on_crash="again") as client:
        await place_both(asyncframe, client)
    assert disk.paid == {"a": 1, "b": 1}
""")
    result = races.runpytest("-v", "-p", "no:randomly", "-k", "test_locked")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*PASSED (all * crash points under *"])


@pytest.mark.extended("time")
def test_a_small_budget_is_spent_on_the_default_schedule(races: pytest.Pytester) -> None:
    """No deeper level is begun before each point has had a crash, and the summary says how far."""
    write(races, "pytest.mark.crash_points(most=15)", "pytest.mark.interleave")
    result = races.runpytest("-v", "-p", "no:randomly", "-k", "cure_of_a_copy")
    result.assert_outcomes(passed=1)
    proof = "*PASSED (14 of 23 crash points under the default schedule of level framework, none*"
    result.stdout.fnmatch_lines([proof])


@pytest.mark.extended("time")
def test_pairs_of_crashes_are_rows_of_their_own(races: pytest.Pytester) -> None:
    """With depth=2 the summary says how many pairs have had a schedule."""
    write(races, "pytest.mark.crash_points(depth=2)", ORDERS.format(40))
    result = races.runpytest("-v", "-p", "no:randomly", "-k", "cure_of_a_copy")
    result.assert_outcomes(passed=1)
    proof = "*PASSED (all 23 crash points and 1? of * pairs of them under the default schedule*"
    result.stdout.fnmatch_lines([proof])
