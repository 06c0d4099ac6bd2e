"""Tasks that a fault delivers twice: both runs, the one outcome, and who waits for what."""

from __future__ import annotations

from typing import Any

import pytest

from framework import Task, TaskStatus, async_task, background_task
from pytest_asyncframe.probe import Probe
from tests.plugin.clock.waits import asleep, sleep

MODES = ("manual", "auto", "virtual", "seeded", "threads")
each_mode = pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=pytest.mark.asyncframe(mode=mode)) for mode in MODES]
)


@background_task
async def triple(number: int) -> int:
    """Return three times the number."""
    return number * 3


async def ended(asyncframe: Probe, task_id: str, mode: str) -> Task:
    """Return a task when it has ended."""
    if mode == "manual":
        asyncframe.executor.drain()
        await asyncframe.clock.run_for(0)
    return await asyncframe.completed(task_id)


@each_mode
async def test_a_task_that_is_delivered_twice(asyncframe: Probe, mode: str) -> None:
    """The function runs twice, and the task has one result, though it is over in no time."""
    calls: list[str] = []

    def count() -> int:
        calls.append("thread")
        return len(calls)

    async def async_count() -> int:
        calls.append("loop")
        return len(calls)

    for fn in (count, async_count):
        fault = asyncframe.faults.deliver_twice(fn)
        task = await ended(asyncframe, await asyncframe.manager.submit(fn), mode)
        await asyncframe.settled()

        assert (task.status, task.attempts) == (TaskStatus.COMPLETED, 2)
        assert len(fault.fired) == 1
        (now,) = asyncframe.submitted(fn)
        assert (now.result, now.still_running) == (task.result, False)
    assert calls == ["thread", "thread", "loop", "loop"]


async def test_a_call_in_place_that_is_delivered_twice(asyncframe: Probe) -> None:
    """The second run of an awaited coroutine goes on beside the one that awaits it."""
    ends: list[float] = []

    @async_task
    async def once() -> None:
        await asleep(10)
        ends.append(asyncframe.clock.monotonic())

    asyncframe.faults.deliver_twice(once)
    await once()
    await asyncframe.settled()

    assert ends == [10, 10]


@pytest.mark.parametrize("is_async", [False, True])
async def test_settled_waits_for_both_runs(asyncframe: Probe, is_async: bool) -> None:
    """completed() returns with the first result, and settled() when the second run has ended."""
    lengths = [30, 50]
    length = iter(lengths)

    def work() -> int:
        seconds = next(length)
        sleep(seconds)
        return seconds

    async def async_work() -> int:
        seconds = next(length)
        await asleep(seconds)
        return seconds

    fn: Any = async_work if is_async else work
    asyncframe.faults.deliver_twice(fn)
    task = await asyncframe.completed(await asyncframe.manager.submit(fn))
    assert (task.result, asyncframe.clock.monotonic(), task.still_running) == (30, 30, True)
    again = await asyncframe.completed(task)
    assert (again.result, asyncframe.clock.monotonic()) == (30, 30)
    await asyncframe.settled()
    assert asyncframe.clock.monotonic() == 50


def test_run_until_idle_waits_for_both_runs(asyncframe: Probe) -> None:
    """run_until_idle() returns when the second run has ended, in a test that is no coroutine."""
    length = iter([50, 30])

    def work() -> None:
        sleep(next(length))

    asyncframe.faults.deliver_twice(work)
    asyncframe.run_until_complete(asyncframe.manager.submit_nowait(work))
    assert asyncframe.clock.monotonic() == 30
    asyncframe.run_until_idle()
    assert asyncframe.clock.monotonic() == 50


async def test_the_first_outcome_counts(asyncframe: Probe) -> None:
    """If the run that ends first fails, so does the task, though the other one completes."""
    asyncframe.faults.deliver_twice(triple)
    asyncframe.faults.fail(triple, on=1)
    task = await asyncframe.completed(triple(5), check=False)
    await asyncframe.settled()

    assert task.status is TaskStatus.FAILED
    assert asyncframe.manager.get_stats()["late_results"] == 1
