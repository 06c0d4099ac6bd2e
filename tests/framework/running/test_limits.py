"""What counts against a task's limit, and what does not."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from framework import (
    TaskCancelledError,
    TaskTimeoutError,
    async_task,
    background_task,
    throttled_task,
)
from framework.testing import override_framework
from pytest_asyncframe.probe import Probe
from tests.framework.exact import ExactClock
from tests.framework.running.messages import TIMED_OUT


async def test_waiting_for_a_slot_does_not_count_on_a_loop(asyncframe: Probe) -> None:
    """A coroutine with a limit of 5 s may wait a minute for its slot, and then run 4.9 s."""
    clock = asyncframe.clock

    @background_task(timeout=5.0)
    @throttled_task(rate_limit=1, time_window=60.0, when_limited="wait")
    async def limited() -> float:
        started = clock.monotonic()
        await clock.asleep(4.9)
        return started

    results = [(await asyncframe.completed(limited())).result for _ in range(2)]
    assert results == [0.0, 60.0]
    assert clock.monotonic() == 64.9


async def test_what_was_left_of_a_limit_goes_on_after_the_slot(asyncframe: Probe) -> None:
    """Of a limit of 5 s, 2 s used before the wait leave 3 s after it."""
    clock = asyncframe.clock
    slots: list[float] = []

    @throttled_task(rate_limit=1, time_window=60.0, when_limited="wait")
    async def slot() -> None:
        slots.append(clock.monotonic())

    @background_task(timeout=5.0)
    async def body() -> None:
        await clock.asleep(2.0)
        await slot()
        await asyncio.Event().wait()

    await slot()
    with pytest.raises(TaskTimeoutError, match=TIMED_OUT):
        await asyncframe.completed(body())
    assert slots == [0.0, 60.0]
    assert clock.monotonic() == 63.0


def test_waiting_for_a_slot_does_not_count_on_a_thread(asyncframe: Probe) -> None:
    """A thread with a limit of 5 s may wait a minute for its slot, and then use what is left."""
    clock = asyncframe.clock

    @throttled_task(rate_limit=1, time_window=60.0, when_limited="wait")
    def slot() -> None:
        """Take the slot."""

    @background_task(timeout=5.0)
    def body() -> float:
        clock.sleep(4.0)
        slot()
        clock.sleep(0.9)
        return clock.monotonic()

    slot()
    assert asyncframe.run_until_complete(body()).result == 60.9


async def test_a_body_that_never_suspends_is_over_its_limit_when_it_ends(
    asyncframe: Probe,
) -> None:
    """An awaited body that blocks past its limit is TIMEOUT, whatever it returns."""

    @async_task(timeout=5.0)
    async def blocks() -> str:
        asyncframe.clock.sleep(5.0)
        return "late"

    with pytest.raises(TaskTimeoutError, match=TIMED_OUT):
        await blocks()
    assert asyncframe.manager.get_stats()["timeout"] == 1
    assert asyncframe.manager.get_stats()["late_results"] == 1


async def test_a_body_that_never_suspends_and_fails_past_its_limit_is_timeout(
    asyncframe: Probe,
) -> None:
    """A background body that blocks past its limit is TIMEOUT, whatever it raises."""

    @background_task(timeout=5.0)
    async def blocks() -> None:
        asyncframe.clock.sleep(5.1)
        raise ValueError

    with pytest.raises(TaskTimeoutError, match=TIMED_OUT):
        await asyncframe.completed(blocks())


async def test_no_deadline_is_left_of_a_task_that_has_ended() -> None:
    """However a task ends before its limit, no timer waits for the limit any more."""
    clock = ExactClock()
    left: dict[str, list[float]] = {}

    def returns() -> None: ...

    def fails() -> None:
        raise ValueError

    async def returns_on_loop() -> None:
        await asyncio.to_thread(int)

    async def fails_on_loop() -> None:
        await asyncio.to_thread(int)
        raise ValueError

    suspended = asyncio.Event()

    async def hangs() -> None:
        asyncio.get_running_loop().call_soon(suspended.set)
        await asyncio.Event().wait()

    with override_framework(clock=clock) as manager:
        for body in (returns, fails, returns_on_loop, fails_on_loop, hangs):
            task_id = await manager.submit(body, timeout=3_600)
            if body is hangs:
                await suspended.wait()
                assert await manager.cancel_task(task_id)
            with contextlib.suppress(ValueError, TaskCancelledError):
                await manager.get_result(task_id)
            if clock.timers:
                left[body.__name__] = clock.timers
    assert left == {}
