"""Waits that end at exactly the right moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, as_completed

import pytest

from framework import (
    RateLimitExceededError,
    TaskManager,
    TaskTimeoutError,
    throttled_task,
)
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.probe import Probe
from tests.plugin.clock.waits import asleep


@pytest.mark.parametrize(
    ("begin", "limit"), [(0.1, 0.2), (1.1, 2.2), (0, 1 / 3), (1e6, 1e-3), (0, 1e-12)]
)
async def test_limits_that_are_no_whole_nanoseconds(
    asyncframe: Probe, begin: float, limit: float
) -> None:
    """A time limit fires once, at the first nanosecond that is not too early."""
    await asleep(begin)
    task_id = await asyncframe.manager.submit(asyncio.Event().wait, timeout=limit)
    with pytest.raises(
        TaskTimeoutError,
        match=r"^task '\w+' \(asyncio\.locks\.Event\.wait\) ran past its time limit of ",
    ):
        await asyncframe.completed(task_id)

    late = asyncframe.clock.monotonic() - begin - limit
    assert 0 <= late + 1e-15 * begin <= 2e-9


def test_a_time_to_retry_after(task_clock: VirtualClock, task_manager: TaskManager) -> None:
    """A call is allowed once the clock has moved by retry_after."""

    @throttled_task(rate_limit=1, time_window=1 / 3)
    def call() -> int:
        return 1

    call()
    with pytest.raises(RateLimitExceededError) as caught:
        call()
    task_clock.advance(caught.value.retry_after)

    assert call() == 1


async def repeat(clock: VirtualClock, every: float, told: list[float]) -> None:
    """Record the time periodically, with a timer that sets itself again."""

    def tick() -> None:
        told.append(clock.monotonic())
        clock.call_at(clock.monotonic() + every, tick)

    clock.call_at(every, tick)


async def sleep_again(clock: VirtualClock, every: float, told: list[float]) -> None:
    """Record the time periodically, in a coroutine."""

    async def go_on() -> None:
        while True:
            await asleep(every)
            told.append(clock.monotonic())

    told_by = asyncio.create_task(go_on())
    told_by.add_done_callback(lambda _: None)


@pytest.mark.asyncframe(leaks="off")
@pytest.mark.parametrize("start", [repeat, sleep_again])
async def test_timers_due_at_the_end_of_run_for(
    task_clock: VirtualClock, start: Callable[..., object]
) -> None:
    """Timers due at the very end of run_for() have fired when it returns."""
    told: list[float] = []
    await start(task_clock, 10, told)  # type: ignore[misc]  # one of the two above
    await task_clock.run_for(30)

    assert told == [10, 20, 30]


def test_as_completed_with_a_timeout(asyncframe: Probe) -> None:
    """as_completed() raises exactly when its timeout is over."""
    with pytest.raises(TimeoutError, match=r"^1 \(of 1\) futures unfinished$"):
        list(as_completed([Future[None]()], 0.3))

    assert asyncframe.clock.monotonic() == 0.3


def test_a_clock_of_its_own() -> None:
    """A clock created without arguments is moved by advance()."""
    clock = VirtualClock()
    fired: list[float] = []
    clock.call_at(2, lambda: fired.append(clock.monotonic()))
    clock.advance(3)

    assert (fired, clock.monotonic()) == ([2], 3)
