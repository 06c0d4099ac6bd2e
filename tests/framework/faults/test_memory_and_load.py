"""Faults of memory and load: rows G1 to G7 of the project's fault table.

`test_bounded.py` shows the large figures in processes of their own.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from framework import (
    QueueFullError,
    TaskManager,
    TaskStatus,
    background_task,
    get_task_manager,
    get_thread_pool,
    retry_task,
    setup_async_framework,
    throttled_task,
)
from framework.testing import override_framework
from pytest_asyncframe.clock import VirtualClock
from tests.framework.running.messages import QUEUE_FULL
from tests.patience import PATIENCE


class Large:
    """Something whose end can be seen; it stands for megabytes."""


async def test_g1_finished_tasks_are_bounded_by_number() -> None:
    """Of 5,000 finished tasks that nobody asks for, the 100 latest are kept."""
    async with setup_async_framework(None, max_finished_tasks=100, max_workers=1):
        manager = get_task_manager()
        ids = [await manager.submit(int) for _ in range(5_000)]
        for task_id in ids[-100:]:
            await manager.get_result(task_id)
        # A result is there a moment before its thread has let go of the oldest one; by its
        # next call it has.
        await asyncio.wrap_future(manager.pool.submit(int))
        stats = manager.get_stats()
        assert (stats["completed"], stats["kept"], stats["evicted"]) == (5_000, 100, 4_900)
        assert len(manager.get_all_tasks()) == 100


async def test_g1_finished_tasks_are_bounded_by_age(
    task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """What ended longer ago than the time to live is let go by itself."""
    async with setup_async_framework(None, result_ttl=60, cleanup_interval=10):
        for _ in range(100):
            await task_manager.submit(int, wait=True)
        await task_clock.run_for(59)
        before = task_manager.get_stats()["kept"]
        await task_clock.run_for(11)
        assert (before, task_manager.get_stats()["kept"]) == (100, 0)


async def test_g2_results_are_let_go_with_their_tasks() -> None:
    """The memory of large results is that of the tasks which are kept."""
    results: list[weakref.ref[Large]] = []

    def make() -> Large:
        large = Large()
        results.append(weakref.ref(large))
        return large

    async with setup_async_framework(None, max_workers=1, max_finished_tasks=5):
        for _ in range(50):
            await get_task_manager().submit(make, wait=True)
        assert [reference() is not None for reference in results] == [False] * 45 + [True] * 5


@pytest.mark.parametrize("kind", ["thread", "loop"])
async def test_g3_a_failure_does_not_keep_the_locals_of_its_frames(kind: str) -> None:
    """An error that is kept keeps none of what the failing code held in its variables."""
    locals_of: list[weakref.ref[Large]] = []

    def fail() -> None:
        large = Large()
        locals_of.append(weakref.ref(large))
        raise ValueError("no")

    async def fail_on_the_loop() -> None:
        fail()

    async with setup_async_framework(None):
        manager = get_task_manager()
        task_id = await manager.submit(fail if kind == "thread" else fail_on_the_loop)
        with pytest.raises(ValueError, match=r"^no$"):
            await manager.get_result(task_id)
        task = await manager.get_task(task_id)
        assert task is not None
        assert isinstance(task.error, ValueError)
        assert locals_of[0]() is None


@pytest.mark.parametrize("kind", ["thread", "loop"])
def test_g3_errors_that_were_retried_are_freed_at_once(kind: str) -> None:
    """After a retry that succeeds, failed attempts are freed without a garbage collection."""
    locals_of: list[weakref.ref[Large]] = []

    @retry_task(max_retries=2, retry_delay=0.0)
    def third_time() -> int:
        large = Large()
        locals_of.append(weakref.ref(large))
        if len(locals_of) < 3:
            raise ValueError("no")
        return len(locals_of)

    @retry_task(max_retries=2, retry_delay=0.0)
    async def third_time_on_the_loop() -> int:
        large = Large()
        locals_of.append(weakref.ref(large))
        if len(locals_of) < 3:
            raise ValueError("no")
        return len(locals_of)

    gc.disable()
    try:
        if kind == "thread":
            assert third_time() == 3
        else:
            assert asyncio.run(third_time_on_the_loop()) == 3
        assert [reference() for reference in locals_of] == [None] * 3
    finally:
        gc.enable()


async def test_g4_blocked_threads_are_sent_no_more_than_the_queue_holds() -> None:
    """With both threads stuck, 10 tasks are queued and every further one is refused."""
    release = threading.Event()
    started = threading.Barrier(3)

    def block() -> None:
        started.wait(PATIENCE)
        release.wait()

    async with setup_async_framework(None, max_workers=2, queue_size=10):
        manager = get_task_manager()
        for _ in range(2):
            await manager.submit(block)
        await asyncio.to_thread(started.wait, PATIENCE)
        for _ in range(10):
            await manager.submit(int)
        for _ in range(1_000):
            with pytest.raises(QueueFullError) as caught:
                await manager.submit(int)
        stats = manager.get_stats()
        release.set()
    assert caught.value.queue_size == 10
    assert (stats["pending"], stats["rejected"], stats["submitted"]) == (10, 1_000, 12)


async def test_g5_a_cancelled_task_gives_its_place_in_the_queue_back() -> None:
    """Behind a full queue, cancelling one that waits makes room for exactly one more."""
    release, started = threading.Event(), threading.Event()

    def block() -> None:
        started.set()
        release.wait()

    async with setup_async_framework(None, max_workers=1, queue_size=3):
        manager = get_task_manager()
        await manager.submit(block)
        await asyncio.to_thread(started.wait, PATIENCE)
        waiting = [await manager.submit(int) for _ in range(3)]
        assert await manager.cancel_task(waiting[1])
        await manager.submit(int)
        with pytest.raises(QueueFullError, match=QUEUE_FULL):
            await manager.submit(int)
        release.set()


async def test_g5_a_submitter_that_is_cancelled_while_waiting_leaks_no_place() -> None:
    """Giving up on wait=True leaves the task alone, and its place is free once it has run."""
    release, started = threading.Event(), threading.Event()

    def block() -> None:
        started.set()
        release.wait()

    async with setup_async_framework(None, max_workers=1, queue_size=1):
        manager = get_task_manager()
        blocker = await manager.submit(block)
        await asyncio.to_thread(started.wait, PATIENCE)
        submitter = asyncio.ensure_future(manager.submit(int, wait=True, task_id="given up"))
        # Its turn: the submission needs no further one to be taken in.
        reached = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(reached.set_result, None)
        await reached
        submitter.cancel()
        with pytest.raises(asyncio.CancelledError, match=r"^$"):
            await submitter
        with pytest.raises(QueueFullError, match=QUEUE_FULL):
            await manager.submit(int)
        release.set()
        await manager.get_result(blocker)
        assert await manager.get_result("given up") == 0
        assert await manager.submit(int, wait=True) == 0


@pytest.mark.extended("time")
def test_g6_keys_of_a_throttle_are_forgotten_once_their_window_has_passed(
    task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """Of 100,000 keys used one after the other, about those of one window are kept."""

    class Key(str):
        __slots__ = ("__weakref__",)

    @throttled_task(rate_limit=1, time_window=1, key=lambda key: key)
    def limited(key: Key) -> None:
        """Have nothing to do."""

    alive: weakref.WeakSet[Key] = weakref.WeakSet()
    most = 0
    for number in range(100_000):
        key = Key(number)
        alive.add(key)
        limited(key)
        most = max(most, len(alive))
        if number % 100 == 99:
            task_clock.advance(1)
    # A hundred keys to a window; idle ones are looked for from a thousand on.
    assert most < 2_000


async def test_g7_stuck_threads_hold_up_neither_the_loop_nor_the_figures() -> None:
    """With every thread stuck, async def tasks run, and the state of all is still told."""
    release = threading.Event()
    started = threading.Barrier(3)

    def block() -> None:
        started.wait(PATIENCE)
        release.wait()

    @background_task
    async def quick() -> str:
        return "done"

    async with setup_async_framework(None, max_workers=2):
        manager = get_task_manager()
        for _ in range(2):
            await manager.submit(block)
        await asyncio.to_thread(started.wait, PATIENCE)
        queued = await manager.submit(int)
        assert await manager.get_result(quick()) == "done"
        assert manager.get_stats()["running"] == 2
        assert get_thread_pool().get_stats()["busy"] == 2
        task = await manager.get_task(queued)
        assert task is not None
        assert task.status is TaskStatus.PENDING
        release.set()


async def test_g7_threads_given_up_at_their_limit_are_replaced_and_told() -> None:
    """Threads stuck past their limit give their place to others, and are counted."""
    clock = VirtualClock()
    release = threading.Event()
    started = threading.Barrier(3)

    def block() -> None:
        started.wait(PATIENCE)
        release.wait(PATIENCE)

    with override_framework(clock=clock) as manager:
        async with setup_async_framework(None, max_workers=2, graceful_shutdown_timeout=0):
            stuck = [await manager.submit(block, timeout=1) for _ in range(2)]
            await asyncio.to_thread(started.wait, PATIENCE)
            clock.advance(1)
            assert await manager.submit(int, wait=True) == 0
            assert manager.pool.get_stats()["abandoned"] == 2
            release.set()
            for task_id in stuck:
                task = await manager.get_task(task_id)
                assert task is not None
                assert task.status is TaskStatus.TIMEOUT
