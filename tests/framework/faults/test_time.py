"""Faults of time: rows F1 to F8 of the project's fault table (there is no F7).

Time is virtual but in F3, and the wall clock can jump.
"""

from __future__ import annotations

import asyncio
import math
import threading
from datetime import UTC, datetime, timedelta

import pytest

from framework import (
    RateLimitExceededError,
    Task,
    TaskManager,
    TaskStatus,
    TaskTimeoutError,
    background_task,
    retry_task,
    setup_async_framework,
    throttled_task,
)
from framework.protocols import TaskEvent
from framework.testing import override_framework
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.probe import Probe
from tests.patience import PATIENCE

HOUR = 3_600.0

both_ways = pytest.mark.parametrize("jump", [HOUR, -HOUR])


def jump_wall(clock: VirtualClock, seconds: float) -> None:
    """Set the wall clock on or back, as an operator does; no public way leads there."""
    clock._wall += seconds


async def get(manager: TaskManager, task_id: str) -> Task:
    """Return a task that must be known."""
    task = await manager.get_task(task_id)
    assert task is not None
    return task


@both_ways
def test_f1_a_throttle_ignores_a_jump_of_the_wall_clock(
    task_manager: TaskManager, task_clock: VirtualClock, jump: float
) -> None:
    """A used up window is free again after its seconds, wherever the wall clock went."""

    @throttled_task(rate_limit=1, time_window=60)
    def limited() -> str:
        return "done"

    assert limited() == "done"
    jump_wall(task_clock, jump)
    with pytest.raises(RateLimitExceededError) as caught:
        limited()
    assert caught.value.retry_after == 60
    task_clock.advance(60)
    assert limited() == "done"


@both_ways
async def test_f1_a_limit_ignores_a_jump_of_the_wall_clock(
    task_manager: TaskManager, task_clock: VirtualClock, jump: float
) -> None:
    """A task times out when its seconds have passed, and not when the wall clock says so."""
    never = asyncio.Event()
    task_id = await task_manager.submit(never.wait, timeout=60)
    await task_clock.run_for(30)
    jump_wall(task_clock, jump)
    await task_clock.run_for(29)
    assert (await get(task_manager, task_id)).status is TaskStatus.RUNNING
    await task_clock.run_for(1)
    task = await get(task_manager, task_id)
    assert (task.status, task.duration) == (TaskStatus.TIMEOUT, 60)
    assert isinstance(task.error, TaskTimeoutError)


@both_ways
async def test_f1_a_retry_ignores_a_jump_of_the_wall_clock(
    task_manager: TaskManager, task_clock: VirtualClock, jump: float
) -> None:
    """A retry comes after its delay, wherever the wall clock went meanwhile."""
    attempts: list[float] = []

    @background_task
    @retry_task(max_retries=1, retry_delay=60)
    async def fails_once() -> None:
        attempts.append(task_clock.monotonic())
        if len(attempts) == 1:
            raise ConnectionError

    task_id = fails_once()
    await task_clock.run_for(30)
    jump_wall(task_clock, jump)
    await task_clock.run_for(30)
    await task_manager.get_result(task_id)
    assert attempts == [0, 60]


@both_ways
async def test_f1_a_clean_up_ignores_a_jump_of_the_wall_clock(
    task_manager: TaskManager, task_clock: VirtualClock, jump: float
) -> None:
    """What ended a minute ago is a minute old, whatever the wall clock shows."""
    await task_manager.submit(int, wait=True)
    jump_wall(task_clock, jump)
    await task_clock.run_for(60)
    assert task_manager.cleanup_completed_tasks(max_age=61) == 0
    assert task_manager.cleanup_completed_tasks(max_age=60) == 1


@both_ways
async def test_f1_durations_ignore_a_jump_of_the_wall_clock(
    task_manager: TaskManager, task_clock: VirtualClock, jump: float
) -> None:
    """A jump in the middle of a task makes neither its duration nor its stamps run back."""
    release = asyncio.Event()
    task_id = await task_manager.submit(release.wait, timeout=HOUR)
    await task_clock.run_for(2)
    jump_wall(task_clock, jump)
    await task_clock.run_for(3)
    release.set()
    await task_manager.get_result(task_id)
    task = await get(task_manager, task_id)
    assert task.duration == 5
    assert task.started_at is not None
    assert task.ended_at is not None
    assert task.ended_at - task.started_at == timedelta(seconds=5)


async def test_f2_time_in_the_queue_does_not_count_against_the_limit(asyncframe: Probe) -> None:
    """A task that waits longer than its limit is not TIMEOUT, and then runs and completes."""
    async with setup_async_framework(None, max_workers=1):
        await asyncframe.manager.submit(asyncframe.clock.sleep, (HOUR,))
        queued = await asyncframe.manager.submit(asyncframe.clock.sleep, (0.5,), timeout=1)
        done = await asyncframe.completed(queued)
    assert (done.queue_time, done.duration) == (HOUR, 0.5)
    asyncframe.assert_transitions(queued, "pending>running>completed")


@pytest.mark.soak
def test_f3_a_result_at_the_very_limit_has_one_outcome() -> None:
    """Each of 10,000 tasks that return as their limit passes has one final state and keeps it.

    `test_races` forces both orders, and `test_race_of_ends` the meeting of all ends.
    """
    rounds = 10_000
    # With a pool that is none of the plugin's own: it fires while threads work, so that they race.
    clock = VirtualClock()
    ready, meet = threading.Barrier(2), threading.Barrier(2)
    returning, late = threading.Semaphore(0), threading.Semaphore(0)
    heard = threading.Semaphore(0)
    finals: dict[str | None, list[str]] = {}

    def hear(event: TaskEvent) -> None:
        if event.kind in {"completed", "timed_out"}:
            finals.setdefault(event.task_id, []).append(event.kind)
            heard.release()
        if event.kind == "late_result":
            late.release()

    # Whoever is woken comes a little later: the body in one, the limit in the other.
    def woken() -> str:
        ready.wait(PATIENCE)
        meet.wait(PATIENCE)
        return "in time"

    def waking() -> str:
        returning.release()
        return "in time"

    with override_framework(clock=clock) as manager:
        manager.subscribe(hear)
        for turn in range(rounds):
            if turn % 2:
                task_id = manager.submit_nowait(woken, timeout=1)
                ready.wait(PATIENCE)
                meet.wait(PATIENCE)
            else:
                task_id = manager.submit_nowait(waking, timeout=1)
                assert returning.acquire(timeout=PATIENCE)
            clock.advance(1)
            try:
                assert manager.wait_result(task_id, timeout=PATIENCE) == "in time"
            except TaskTimeoutError:
                first = "timed_out"
                assert late.acquire(timeout=PATIENCE)
            else:
                first = "completed"
            # A task is final a moment before that is told.
            assert heard.acquire(timeout=PATIENCE)
            assert finals.pop(task_id) == [first]
        manager.pool.shutdown()
        stats = manager.get_stats()
    assert finals == {}
    assert stats["completed"] + stats["timeout"] == rounds
    assert min(stats["completed"], stats["timeout"]) > 0
    assert stats["late_results"] == stats["timeout"]


async def test_f4_a_late_result_is_dropped_and_counted(asyncframe: Probe) -> None:
    """A body that returns after its TIMEOUT changes nothing and calls no hook once more."""
    manager, hooks = asyncframe.manager, list[TaskStatus]()
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hook(task: Task) -> None:
        hooks.append(task.status)
        loop.call_soon_threadsafe(told.set)

    def body() -> str:
        asyncframe.clock.sleep(10)
        return "late"

    task_id = await manager.submit(body, timeout=1, on_complete=hook, on_error=hook)
    limited = await asyncframe.completed(task_id, check=False)
    assert (limited.status, limited.still_running) == (TaskStatus.TIMEOUT, True)
    assert limited.duration == 1
    await told.wait()
    await asyncframe.clock.asleep(10)
    late = await get(manager, task_id)
    assert (late.status, late.still_running, late.result) == (TaskStatus.TIMEOUT, False, None)
    assert isinstance(late.error, TaskTimeoutError)
    assert hooks == [TaskStatus.TIMEOUT]
    assert manager.get_stats()["late_results"] == 1


async def test_f5_a_clean_up_of_everything_leaves_what_runs(task_manager: TaskManager) -> None:
    """An age of 0 removes all that have ended, and none of 1,000 that run."""
    release = asyncio.Event()
    running = {await task_manager.submit(release.wait) for _ in range(1_000)}
    for _ in range(10):
        await task_manager.submit(int, wait=True)
    assert task_manager.cleanup_completed_tasks(max_age=0) == 10
    assert task_manager.get_all_tasks().keys() == running
    release.set()
    for task_id in running:
        assert await task_manager.get_result(task_id)


@pytest.mark.parametrize("age", [-1, -0.001, math.nan])
def test_f5_an_impossible_age_is_refused(task_manager: TaskManager, age: float) -> None:
    """A negative or undefined age is a ValueError that names it."""
    with pytest.raises(
        ValueError, match=rf"^max_age must be a number at least 0 or a timedelta, not {age!r}$"
    ):
        task_manager.cleanup_completed_tasks(max_age=age)


async def test_f6_a_limit_holds_for_all_attempts_together(asyncframe: Probe) -> None:
    """A task that retries every 40 s under a limit of 60 s ends at 60 s, in its second delay."""
    attempts: list[float] = []

    @background_task(timeout=60)
    @retry_task(max_retries=10, retry_delay=40)
    async def always_fails() -> None:
        attempts.append(asyncframe.clock.monotonic())
        raise ConnectionError

    task = await asyncframe.completed(always_fails(), check=False)
    assert isinstance(task.error, TaskTimeoutError)
    assert (task.duration, asyncframe.clock.monotonic()) == (60, 60)
    assert attempts == [0, 40]
    assert asyncframe.delays(always_fails) == [40, 40]


async def test_f8_stamps_are_aware_and_in_utc() -> None:
    """Stamps are aware datetimes in UTC, and ISO 8601 with an offset in JSON."""
    clock = VirtualClock(Sequencer(), wall=1_700_001_000)
    with override_framework(clock=clock) as manager:
        task_id = await manager.submit(int)
        await manager.get_result(task_id)
        task = await get(manager, task_id)
    now = datetime.fromtimestamp(1_700_001_000, UTC)
    assert (task.created_at, task.started_at, task.ended_at) == (now, now, now)
    shown = task.to_dict()
    stamps = [shown[key] for key in ("created_at", "start_time", "end_time")]
    assert stamps == ["2023-11-14T22:30:00+00:00"] * 3
