"""What counts against a task's limit, and what does not."""

from __future__ import annotations

import asyncio
import threading

import pytest

from framework import (
    TaskManager,
    TaskStatus,
    TaskTimeoutError,
    async_task,
    background_task,
    throttled_task,
)
from tests.framework.clocks import ManualClock

PATIENCE = 10.0
"""Real seconds after which a wait for another thread is a failure."""


async def test_waiting_for_a_slot_does_not_count_on_a_loop(
    task_manager: TaskManager, manual_clock: ManualClock
) -> None:
    """A coroutine with a limit of 5 s may wait a minute for its slot, and then run 4.9 s."""
    passed = asyncio.Event()

    @background_task(timeout=5.0)
    @throttled_task(rate_limit=1, time_window=60.0, when_limited="wait")
    async def limited() -> str:
        passed.set()
        await task_manager.clock.asleep(4.9)
        return "done"

    first = limited()
    await passed.wait()
    await asyncio.to_thread(manual_clock.advance, 4.9)
    assert await task_manager.get_result(first) == "done"
    passed.clear()
    second = limited()
    await asyncio.to_thread(manual_clock.wait_for_timers)
    await asyncio.to_thread(manual_clock.advance, 55.1)
    await passed.wait()
    await asyncio.to_thread(manual_clock.advance, 4.9)
    assert await task_manager.get_result(second) == "done"


async def test_what_was_left_of_a_limit_goes_on_after_the_slot(
    task_manager: TaskManager, manual_clock: ManualClock
) -> None:
    """Of a limit of 5 s, 2 s used before the wait leave 3 s after it."""
    steps: asyncio.Queue[str] = asyncio.Queue()
    waits = asyncio.Event()
    task_manager.subscribe(lambda event: waits.set() if event.kind == "throttled" else None)

    @throttled_task(rate_limit=1, time_window=60.0, when_limited="wait")
    async def slot() -> None:
        steps.put_nowait("slot")

    @background_task(timeout=5.0)
    async def body() -> None:
        steps.put_nowait("started")
        await task_manager.clock.asleep(2.0)
        await slot()
        await asyncio.Event().wait()

    await slot()
    task_id = body()
    assert [await steps.get() for _ in range(2)] == ["slot", "started"]
    await asyncio.to_thread(manual_clock.wait_for_timers, 2)
    await asyncio.to_thread(manual_clock.advance, 2.0)
    await waits.wait()
    await asyncio.to_thread(manual_clock.advance, 58.0)
    assert await steps.get() == "slot"
    await asyncio.to_thread(manual_clock.advance, 2.9)
    task = await task_manager.get_task(task_id)
    assert task is not None
    assert task.status is TaskStatus.RUNNING
    await asyncio.to_thread(manual_clock.advance, 0.2)
    with pytest.raises(TaskTimeoutError):
        await task_manager.get_result(task_id)


def test_waiting_for_a_slot_does_not_count_on_a_thread(
    task_manager: TaskManager, manual_clock: ManualClock
) -> None:
    """A thread with a limit of 5 s may wait a minute for its slot."""
    started, go_on = threading.Event(), threading.Event()

    @throttled_task(rate_limit=1, time_window=60.0, when_limited="wait")
    def slot() -> None:
        """Take the slot."""

    @background_task(timeout=5.0)
    def body() -> str:
        started.set()
        assert go_on.wait(PATIENCE)
        slot()
        return "done"

    waits = threading.Event()
    task_manager.subscribe(lambda event: waits.set() if event.kind == "throttled" else None)
    slot()
    task_id = body()
    assert started.wait(PATIENCE)
    manual_clock.wait_for_timers()
    manual_clock.advance(4.0)
    go_on.set()
    assert waits.wait(PATIENCE)
    manual_clock.advance(56.0)
    assert task_manager.wait_result(task_id, PATIENCE) == "done"


async def test_a_body_that_never_suspends_is_over_its_limit_when_it_ends(
    task_manager: TaskManager, manual_clock: ManualClock
) -> None:
    """An awaited body that blocks past its limit is TIMEOUT, whatever it returns."""

    @async_task(timeout=5.0)
    async def blocks() -> str:
        manual_clock.advance(5.0)
        return "late"

    with pytest.raises(TaskTimeoutError):
        await blocks()
    assert task_manager.get_stats()["timeout"] == 1
    assert task_manager.get_stats()["late_results"] == 1


async def test_a_body_that_never_suspends_and_fails_past_its_limit_is_timeout(
    task_manager: TaskManager, manual_clock: ManualClock
) -> None:
    """A background body that blocks past its limit is TIMEOUT, whatever it raises."""

    @background_task(timeout=5.0)
    async def blocks() -> None:
        manual_clock.advance(5.1)
        raise ValueError

    with pytest.raises(TaskTimeoutError):
        await task_manager.get_result(blocks())
