"""What starts by itself: scheduled functions and delayed tasks, on a virtual clock."""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from fastapi import FastAPI

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
from framework._tasks.live import LiveTask
from framework.testing import lasting_schedules
from pytest_asyncframe.probe import Probe
from tests.framework.pools import clock_apart
from tests.framework.running.messages import CANCELLED, QUEUE_FULL
from tests.patience import PATIENCE
from tests.words import timeless


@pytest.fixture
def no_schedules() -> None:
    """Let go of the schedules of earlier tests."""
    gc.collect()


@pytest.fixture
async def manager(no_schedules: None, asyncframe: Probe) -> AsyncIterator[TaskManager]:
    """Give the manager of a running framework on the test's clock, with two threads."""
    async with setup_async_framework(None, max_workers=2):
        yield get_task_manager()


async def test_schedules_start_in_their_order(no_schedules: None, asyncframe: Probe) -> None:
    """Schedules of one interval run in the order in which they were declared."""
    runs: list[int] = []

    def declared(number: int) -> Callable[[], None]:
        return scheduled_task(every=10)(lambda: runs.append(number))

    with lasting_schedules():
        kept = [declared(number) for number in range(20)]
    async with setup_async_framework(None, max_workers=1):
        await asyncframe.clock.run_for(15)
    assert runs == list(range(20))
    assert len(kept) == 20


async def test_a_schedule_runs_at_fixed_distances(manager: TaskManager, asyncframe: Probe) -> None:
    """Runs come every ten seconds, counted from when the schedule began."""
    clock = asyncframe.clock
    await clock.run_for(3)
    runs = []

    @scheduled_task(every=10)
    def tick() -> None:
        runs.append(clock.monotonic())
        clock.sleep(4)

    await clock.run_for(35)
    assert runs == [13, 23, 33]
    assert callable(tick)


async def test_a_schedule_made_before_the_framework_starts_with_it(no_schedules: None) -> None:
    """A function scheduled at import is run by every framework that starts later."""
    runs: list[TaskManager] = []
    ran = threading.Semaphore(0)

    @scheduled_task(every=10, run_at_start=True)
    def tick() -> None:
        runs.append(get_task_manager())
        ran.release()

    managers = []
    for _ in range(2):
        # A clock of its own: under a test's override all apps would share one framework.
        async with setup_async_framework(None, clock=clock_apart()):
            managers.append(get_task_manager())
            assert await asyncio.to_thread(ran.acquire, timeout=PATIENCE)
    assert runs == managers
    assert managers[0] is not managers[1]
    assert callable(tick)


_ticks: list[float] = []
_kept: list[object] = []


def tick_of_the_module() -> None:
    """Be scheduled again and again, by each lifespan."""
    _ticks.append(get_task_manager().clock.monotonic())


def app_with_a_schedule() -> FastAPI:
    """Return an app whose lifespan schedules a function of the module, and keeps the schedule."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with setup_async_framework(app):
            _kept.append(scheduled_task(every=10)(tick_of_the_module))
            yield

    return FastAPI(lifespan=lifespan)


@pytest.mark.parametrize("test", ["one", "next"])
async def test_a_lifespans_schedule_ends_with_it(
    no_schedules: None, asyncframe: Probe, test: str
) -> None:
    """A schedule that a lifespan makes ends with that lifespan, also across tests."""
    _ticks.clear()
    for begun in (0, 35):
        async with asyncframe.client(app_with_a_schedule()):
            await asyncframe.clock.run_for(35)
        assert _ticks == [begun + 10, begun + 20, begun + 30]
        _ticks.clear()
        assert "Schedules" not in asyncframe.clock.explain()
    await asyncframe.clock.run_for(35)
    assert _ticks == []


@pytest.mark.parametrize("test", ["one", "next"])
async def test_a_tests_schedule_ends_with_it(
    no_schedules: None, asyncframe: Probe, test: str
) -> None:
    """A schedule that a test makes before its app starts is run by it, and by no other test."""
    _ticks.clear()
    _kept.append(scheduled_task(every=10)(tick_of_the_module))
    async with setup_async_framework(None):
        await asyncframe.clock.run_for(35)
    assert _ticks == [10, 20, 30]


async def test_a_frameworks_schedule_ends_with_it(no_schedules: None) -> None:
    """A schedule made inside a framework ends with it, also without a test's override."""
    counts = []
    for _ in range(2):
        async with setup_async_framework(None, clock=clock_apart()):
            counts.append(get_task_manager().get_stats()["scheduled"])
            _kept.append(scheduled_task(every=10)(tick_of_the_module))
            counts.append(get_task_manager().get_stats()["scheduled"])

    assert counts[:2] == counts[2:]
    assert counts[1] == counts[0] + 1


async def test_an_imports_schedule_lasts(
    no_schedules: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schedule of a module lasts as long as the module, also if a running app imports it."""
    name = "scheduled_by_an_import"
    text = """
        from framework import scheduled_task

        def make():
            return scheduled_task(every=10)(print)

        tick = make()
    """
    (tmp_path / f"{name}.py").write_text(dedent(text), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    counts = []
    for _ in range(2):
        async with setup_async_framework(None, clock=clock_apart()):
            importlib.import_module(name)
            counts.append(get_task_manager().get_stats()["scheduled"])
    del sys.modules[name]
    gc.collect()
    async with setup_async_framework(None, clock=clock_apart()):
        counts.append(get_task_manager().get_stats()["scheduled"])

    assert counts[0] == counts[1] == counts[2] + 1


async def test_an_async_schedule_runs_on_the_frameworks_loop(
    manager: TaskManager, asyncframe: Probe
) -> None:
    """An async def function is run on the loop, as a task with a name and a description."""
    loops: list[asyncio.AbstractEventLoop] = []

    @scheduled_task(every=10, name="ticking")
    async def tick() -> None:
        loops.append(asyncio.get_running_loop())

    await asyncframe.clock.run_for(10)
    assert loops == [asyncio.get_running_loop()]
    assert [task.name for task in asyncframe.submitted("ticking")] == ["ticking"]
    shown = [task for task in manager.get_all_tasks().values() if task["name"] == "ticking"]
    assert [task["description"] for task in shown] == ["every 10 s"]
    assert callable(tick)


async def test_a_run_that_is_still_going_has_the_next_one_skipped_and_counted(
    manager: TaskManager, asyncframe: Probe
) -> None:
    """Runs never overlap: a run that is due meanwhile is skipped and counted."""
    clock, runs = asyncframe.clock, []

    @scheduled_task(every=10)
    def tick() -> None:
        runs.append(clock.monotonic())
        if len(runs) == 1:
            clock.sleep(22)

    await clock.run_for(35)
    assert manager.get_stats()["scheduled_skipped"] == 2
    await clock.run_for(10)
    assert runs == [10, 40]
    assert manager.get_stats()["scheduled_skipped"] == 2
    assert callable(tick)


async def test_an_error_does_not_end_a_schedule(manager: TaskManager, asyncframe: Probe) -> None:
    """A run that fails is a FAILED task, and the next one is made all the same."""

    @scheduled_task(every=10, name="failing")
    def tick() -> None:
        raise ConnectionError

    asyncframe.expect_failure("failing", ConnectionError, times=3)
    await asyncframe.clock.run_for(35)
    assert [task.status for task in asyncframe.submitted("failing")] == [TaskStatus.FAILED] * 3
    assert callable(tick)


async def test_a_full_queue_skips_a_run_and_does_not_end_the_schedule(
    no_schedules: None, asyncframe: Probe
) -> None:
    """A run for which there is no room is counted as skipped, and the next one is made."""
    clock, runs = asyncframe.clock, []

    @scheduled_task(every=10)
    def tick() -> None:
        runs.append(clock.monotonic())

    async with setup_async_framework(None, max_workers=1, queue_size=1):
        manager = get_task_manager()
        await manager.submit(clock.sleep, (15,))
        await clock.run_for(1)
        await manager.submit(int)
        await clock.run_for(10)
        assert manager.get_stats()["scheduled_skipped"] == 1
        await clock.run_for(10)
    assert runs == [20]
    assert callable(tick)


async def test_schedules_are_visible_in_the_figures(manager: TaskManager) -> None:
    """get_stats() counts the schedules that wait for their next run."""
    before = manager.get_stats()["scheduled"]

    @scheduled_task(every=10)
    def tick() -> None:
        """Have nothing to do."""

    assert manager.get_stats()["scheduled"] == before + 1
    assert callable(tick)


async def test_a_stopped_framework_runs_no_schedule(no_schedules: None) -> None:
    """Once the framework has been left, moving its clock starts nothing and fires no timer."""
    clock = clock_apart()  # of its own: a test's override is not left
    ran = threading.Semaphore(0)

    @scheduled_task(every=10)
    def tick() -> None:
        ran.release()

    async with setup_async_framework(None, clock=clock):
        clock.advance(10)
        assert await asyncio.to_thread(ran.acquire, timeout=PATIENCE)
    assert clock.explain() == "no pending timers"
    clock.advance(100)
    assert not ran.acquire(blocking=False)
    assert callable(tick)


async def test_a_schedule_ends_with_its_function(manager: TaskManager, asyncframe: Probe) -> None:
    """A scheduled function that nobody refers to any more is not run again."""
    runs = []
    before = manager.get_stats()["scheduled"]

    def tick() -> None:
        runs.append(1)

    scheduled: Callable[[], None] | None = scheduled_task(every=10)(tick)
    await asyncframe.clock.run_for(10)
    assert callable(scheduled)
    del scheduled
    manager.cleanup_completed_tasks(max_age=0)
    gc.collect()
    await asyncframe.clock.run_for(100)
    assert runs == [1]
    assert manager.get_stats()["scheduled"] == before


async def test_jitter_puts_a_run_off_by_at_most_its_share(
    manager: TaskManager, asyncframe: Probe
) -> None:
    """With a jitter of 0.5 each run comes up to half an interval late, never early."""
    clock, runs = asyncframe.clock, []

    @scheduled_task(every=10, jitter=0.5)
    def tick() -> None:
        runs.append(clock.monotonic())

    await clock.run_for(1_000)
    late = [at - 10 * (number + 1) for number, at in enumerate(runs)]
    assert len(runs) >= 99
    assert min(late) >= 0
    assert max(late) <= 5
    assert len({round(one, 1) for one in late}) > 3
    assert callable(tick)


async def test_a_delayed_task_is_pending_with_a_reason_until_it_is_due(
    manager: TaskManager, asyncframe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """submit(delay=30) starts a task 30 s later and not before, and its reason says so.

    However long the rest of the submission takes.
    """
    ledger = manager._core.ledger
    add = ledger.add

    def add_slowly(task: LiveTask, *how: Any) -> None:
        add(task, *how)
        asyncframe.clock.advance(5)

    monkeypatch.setattr(ledger, "add", add_slowly)
    task_id = await manager.submit(int, delay=30)
    await asyncframe.clock.run_for(24)
    waiting = await manager.get_task(task_id)
    assert waiting is not None
    told = timeless(waiting.reason)
    assert (waiting.status, told) == (TaskStatus.PENDING, "delayed until T, in 1 s")
    assert manager.get_stats()["delayed"] == 1
    done = await asyncframe.completed(task_id)
    assert asyncframe.clock.monotonic() == 30
    assert (done.result, done.reason, done.queue_time) == (0, "", 30)
    assert manager.get_stats()["delayed"] == 0


async def test_options_delay_a_background_task(manager: TaskManager, asyncframe: Probe) -> None:
    """A copy made with .options(delay=30) is delayed, and the original is not."""

    @background_task
    async def work() -> float:
        return asyncframe.clock.monotonic()

    now, later = work(), work.options(delay=30)()
    assert (await asyncframe.completed(now)).result == 0
    assert (await asyncframe.completed(later)).result == 30


async def test_options_delay_an_awaited_task(manager: TaskManager, asyncframe: Probe) -> None:
    """Awaiting a delayed async task gives its result once the delay has passed."""

    @async_task
    async def work() -> float:
        return asyncframe.clock.monotonic()

    assert await work.options(delay=30)() == 30


async def test_a_cancelled_delayed_task_never_starts(
    manager: TaskManager, asyncframe: Probe
) -> None:
    """Cancelling a delayed task ends it at once, and it never runs."""
    runs: list[int] = []
    task_id = await manager.submit(runs.append, (1,), delay=30)
    assert await manager.cancel_task(task_id)
    await asyncframe.clock.run_for(60)
    assert runs == []
    assert manager.get_stats()["delayed"] == 0
    with pytest.raises(TaskCancelledError, match=CANCELLED):
        await manager.get_result(task_id)


async def test_a_delayed_task_takes_a_place_in_the_queue(asyncframe: Probe) -> None:
    """Delayed tasks count against the bound of the queue."""
    async with setup_async_framework(None, queue_size=2):
        manager = get_task_manager()
        for _ in range(2):
            await manager.submit(int, delay=30)
        with pytest.raises(QueueFullError, match=QUEUE_FULL):
            await manager.submit(int, delay=30)
        await asyncframe.settled()


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf")])
async def test_an_impossible_delay_is_refused(manager: TaskManager, delay: float) -> None:
    """A delay that is negative, undefined or endless is a ValueError that names it."""
    told = rf"^delay must be a number at least 0 or a timedelta, not {delay!r}$"
    with pytest.raises(ValueError, match=told):
        await manager.submit(int, delay=delay)


# -- the end of a drain


@pytest.mark.asyncframe(leaks="off")
async def test_the_last_chance_of_a_drain_passes_on_the_clock(
    asyncframe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    """A coroutine that swallows its cancellation is given up when its last chance has passed."""
    stop = asyncio.Event()

    async def swallow() -> None:
        while not stop.is_set():
            with suppress(asyncio.CancelledError):
                await stop.wait()

    async with setup_async_framework(None, graceful_shutdown_timeout=1.0):
        task_id = await asyncframe.manager.submit(swallow)
    assert asyncframe.clock.monotonic() == 1.25
    task = await asyncframe.manager.get_task(task_id)
    assert task is not None
    assert (task.status, task.still_running) == (TaskStatus.INTERRUPTED, False)
    assert f"swallow interrupted: {task_id}" in caplog.text
    stop.set()


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
