"""What starts by itself: scheduled functions and delayed tasks, on a clock that is moved."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest

from framework import (
    QueueFullError,
    TaskCancelledError,
    TaskManager,
    TaskStatus,
    async_task,
    background_task,
    get_task_manager,
    scheduled_task,
    setup_async_framework,
)
from framework.testing import override_framework
from tests.framework.clocks import ManualClock

PATIENCE = 10.0


@pytest.fixture
async def manager(manual_clock: ManualClock) -> AsyncIterator[TaskManager]:
    """Give the manager of a running framework on `manual_clock`, with two threads."""
    gc.collect()  # the schedules of earlier tests
    async with setup_async_framework(None, clock=manual_clock, max_workers=2):
        yield get_task_manager()


async def pass_time(clock: ManualClock, seconds: float) -> None:
    """Move the clock, and wait until everything that this started has ended."""
    clock.advance(seconds)
    await asyncio.to_thread(clock.wait_until_released)


async def test_a_schedule_runs_at_fixed_distances(
    manager: TaskManager, manual_clock: ManualClock
) -> None:
    """Runs come every ten seconds, counted from when the schedule began."""
    begun, runs = manual_clock.monotonic(), []

    @scheduled_task(every=10)
    def tick() -> None:
        runs.append(manual_clock.monotonic() - begun)

    for _ in range(35):
        await pass_time(manual_clock, 1)
    assert runs == [10, 20, 30]
    assert callable(tick)


async def test_a_schedule_made_before_the_framework_starts_with_it(
    manual_clock: ManualClock,
) -> None:
    """A function scheduled at import is run by every framework that starts later."""
    runs: list[TaskManager] = []

    @scheduled_task(every=10, run_at_start=True)
    def tick() -> None:
        runs.append(get_task_manager())

    managers = []
    for _ in range(2):
        async with setup_async_framework(None, clock=manual_clock):
            managers.append(get_task_manager())
            await pass_time(manual_clock, 0)
    assert runs == managers
    assert callable(tick)


async def test_an_async_schedule_runs_on_the_frameworks_loop(
    manager: TaskManager, manual_clock: ManualClock
) -> None:
    """An async def function is run on the loop, as a task with a name and a description."""
    loops: list[asyncio.AbstractEventLoop] = []

    @scheduled_task(every=10, name="ticking")
    async def tick() -> None:
        loops.append(asyncio.get_running_loop())

    await asyncio.to_thread(manual_clock.advance, 10)
    await asyncio.to_thread(manual_clock.wait_until_released)
    assert loops == [asyncio.get_running_loop()]
    shown = [task for task in manager.get_all_tasks().values() if task["name"] == "ticking"]
    assert [task["description"] for task in shown] == ["every 10 s"]
    assert callable(tick)


async def test_a_run_that_is_still_going_has_the_next_one_skipped_and_counted(
    manager: TaskManager, manual_clock: ManualClock
) -> None:
    """Never do two runs overlap; what is left out is counted, and the next one comes."""
    release, runs = threading.Event(), []

    @scheduled_task(every=10)
    def tick() -> None:
        runs.append(manual_clock.monotonic())
        release.wait()

    begun = manual_clock.monotonic()
    manual_clock.advance(10)
    manual_clock.advance(20)
    assert manager.get_stats()["scheduled_skipped"] == 2
    release.set()
    await asyncio.to_thread(manual_clock.wait_until_released)
    await pass_time(manual_clock, 10)
    assert [at - begun for at in runs][1:] == [40]
    assert len(runs) == 2
    assert callable(tick)


async def test_missed_runs_are_not_made_up(manager: TaskManager, manual_clock: ManualClock) -> None:
    """After the process stood still for 95 s there is one run, and the next is due at 100 s."""
    begun, runs = manual_clock.monotonic(), []

    @scheduled_task(every=10)
    def tick() -> None:
        runs.append(manual_clock.monotonic() - begun)

    manual_clock._now += 95  # all at once, as a suspended machine does
    await pass_time(manual_clock, 0)
    assert runs == [95]
    await pass_time(manual_clock, 5)
    assert runs == [95, 100]
    assert callable(tick)


async def test_an_error_does_not_end_a_schedule(
    manager: TaskManager, manual_clock: ManualClock
) -> None:
    """A run that fails is a FAILED task, and the next one is made all the same."""

    @scheduled_task(every=10, name="failing")
    def tick() -> None:
        raise ConnectionError

    for _ in range(3):
        await pass_time(manual_clock, 10)
    shown = [task for task in manager.get_all_tasks().values() if task["name"] == "failing"]
    assert [task["status"] for task in shown] == ["failed"] * 3
    assert callable(tick)


async def test_a_full_queue_skips_a_run_and_does_not_end_the_schedule(
    manual_clock: ManualClock,
) -> None:
    """A run for which there is no room is counted as skipped, and the next one is made."""
    started, release, runs = threading.Event(), threading.Event(), []

    def block() -> None:
        started.set()
        release.wait()

    @scheduled_task(every=10)
    def tick() -> None:
        runs.append(1)

    async with setup_async_framework(None, clock=manual_clock, max_workers=1, queue_size=1):
        manager = get_task_manager()
        await manager.submit(block)
        await asyncio.to_thread(started.wait, PATIENCE)
        await manager.submit(int)
        manual_clock.advance(10)
        assert manager.get_stats()["scheduled_skipped"] == 1
        release.set()
        await asyncio.to_thread(manual_clock.wait_until_released)
        await pass_time(manual_clock, 10)
    assert runs == [1]
    assert callable(tick)


async def test_schedules_are_visible_in_the_figures(
    manager: TaskManager, manual_clock: ManualClock
) -> None:
    """get_stats() tells how many schedules wait for their time."""
    before = manager.get_stats()["scheduled"]

    @scheduled_task(every=10)
    def tick() -> None:
        """Have nothing to do."""

    assert manager.get_stats()["scheduled"] == before + 1
    assert callable(tick)


async def test_a_stopped_framework_runs_no_schedule(manual_clock: ManualClock) -> None:
    """Once the framework has been left, moving its clock starts nothing and fires no timer."""
    runs = []

    @scheduled_task(every=10)
    def tick() -> None:
        runs.append(1)

    async with setup_async_framework(None, clock=manual_clock):
        await pass_time(manual_clock, 10)
    await pass_time(manual_clock, 100)
    assert runs == [1]
    assert manual_clock._heap == []
    assert callable(tick)


async def test_a_schedule_ends_with_its_function(
    manager: TaskManager, manual_clock: ManualClock
) -> None:
    """A scheduled function that nobody refers to any more is not run again."""
    runs = []
    before = manager.get_stats()["scheduled"]

    def tick() -> None:
        runs.append(1)

    scheduled: Callable[[], None] | None = scheduled_task(every=10)(tick)
    await pass_time(manual_clock, 10)
    assert callable(scheduled)
    del scheduled
    manager.cleanup_completed_tasks(max_age=0)
    gc.collect()
    await pass_time(manual_clock, 100)
    assert runs == [1]
    assert manager.get_stats()["scheduled"] == before


async def test_jitter_puts_a_run_off_by_at_most_its_share(manual_clock: ManualClock) -> None:
    """With a jitter of 0.5 each run comes up to half an interval late, never early."""
    begun, runs = manual_clock.monotonic(), []

    @scheduled_task(every=10, jitter=0.5)
    def tick() -> None:
        runs.append(manual_clock.monotonic() - begun)

    with override_framework(clock=manual_clock, rng=random.Random(7)):
        async with setup_async_framework(None):
            for _ in range(1_000):
                await pass_time(manual_clock, 0.1)
    late = [at - 10 * (number + 1) for number, at in enumerate(runs)]
    assert len(runs) >= 9
    assert min(late) >= 0
    assert max(late) <= 5.1  # the clock is moved by a tenth
    assert len({round(one, 1) for one in late}) > 3
    assert callable(tick)


async def test_a_delayed_task_is_pending_with_a_reason_until_it_is_due(
    manager: TaskManager, manual_clock: ManualClock
) -> None:
    """submit(delay=30) starts after 30 s and not before, and says why it waits."""
    task_id = await manager.submit(int, delay=30)
    await pass_time(manual_clock, 29)
    waiting = await manager.get_task(task_id)
    assert waiting is not None
    assert (waiting.status, waiting.reason) == (TaskStatus.PENDING, "delayed by 30 s")
    assert manager.get_stats()["delayed"] == 1
    manual_clock.advance(1)
    assert await manager.get_result(task_id) == 0
    done = await manager.get_task(task_id)
    assert done is not None
    assert (done.reason, done.queue_time) == ("", 30)
    assert manager.get_stats()["delayed"] == 0


async def test_options_delay_a_background_task(
    manager: TaskManager, manual_clock: ManualClock
) -> None:
    """A copy made with .options(delay=30) is delayed, and the original is not."""

    @background_task
    async def work() -> str:
        return "done"

    now, later = work(), work.options(delay=30)()
    assert await manager.get_result(now) == "done"
    task = await manager.get_task(later)
    assert task is not None
    assert task.status is TaskStatus.PENDING
    manual_clock.advance(30)
    assert await manager.get_result(later) == "done"


async def test_options_delay_an_awaited_task(
    manager: TaskManager, manual_clock: ManualClock
) -> None:
    """Awaiting a delayed async task gives its result once the delay has passed."""

    @async_task
    async def work() -> str:
        return "done"

    call = asyncio.ensure_future(work.options(delay=30)())
    await asyncio.to_thread(manual_clock.wait_for_timers)
    assert not call.done()
    manual_clock.advance(30)
    assert await call == "done"


async def test_a_cancelled_delayed_task_never_starts(
    manager: TaskManager, manual_clock: ManualClock
) -> None:
    """Cancelling a delayed task ends it at once, and its time passes without a run."""
    runs: list[int] = []
    task_id = await manager.submit(runs.append, (1,), delay=30)
    assert await manager.cancel_task(task_id)
    await pass_time(manual_clock, 60)
    assert runs == []
    assert manager.get_stats()["delayed"] == 0
    with pytest.raises(TaskCancelledError):
        await manager.get_result(task_id)


async def test_a_delayed_task_takes_a_place_in_the_queue(manual_clock: ManualClock) -> None:
    """Delayed tasks wait as others do, so the bound of the queue holds for them, too."""
    async with setup_async_framework(None, clock=manual_clock, queue_size=2):
        manager = get_task_manager()
        for _ in range(2):
            await manager.submit(int, delay=30)
        with pytest.raises(QueueFullError):
            await manager.submit(int, delay=30)


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf")])
async def test_an_impossible_delay_is_refused(manager: TaskManager, delay: float) -> None:
    """A delay that is negative, undefined or endless is a ValueError that names it."""
    with pytest.raises(ValueError, match=r"^delay must be .*"):
        await manager.submit(int, delay=delay)


# -- the end of a drain


async def test_the_last_chance_of_a_drain_passes_on_the_clock(
    manual_clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A coroutine that swallows its cancellation is let go when the clock says so."""
    started = asyncio.Event()

    async def swallow() -> None:
        started.set()
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    setup = setup_async_framework(None, clock=manual_clock, graceful_shutdown_timeout=0.0)
    await setup.__aenter__()
    manager = get_task_manager()
    task_id = await manager.submit(swallow)
    await started.wait()
    leaving = asyncio.create_task(setup.__aexit__(None, None, None))
    await asyncio.to_thread(manual_clock.wait_for_timers)
    assert not leaving.done()
    await asyncio.to_thread(manual_clock.advance, 0.25)
    await leaving
    task = await manager.get_task(task_id)
    assert task is not None
    assert (task.status, task.still_running) == (TaskStatus.INTERRUPTED, False)
    assert f"{task_id} " in caplog.text


async def test_a_coroutine_that_ends_well_in_its_last_chance_is_not_unfinished(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A task that returns after the grace is COMPLETED and not in the warning."""
    started = asyncio.Event()

    async def end_well() -> str:
        started.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "saved"

    async with setup_async_framework(None, graceful_shutdown_timeout=0.0):
        manager = get_task_manager()
        task_id = await manager.submit(end_well)
        await started.wait()
    task = await manager.get_task(task_id)
    assert task is not None
    assert (task.status, task.result) == (TaskStatus.COMPLETED, "saved")
    assert "unfinished" not in caplog.text
