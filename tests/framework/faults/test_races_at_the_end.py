"""Races with the end of a framework or a pool, each forced; the sequence is in steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from types import SimpleNamespace
from typing import Any

import pytest

from framework import (
    FrameworkNotStartedError,
    TaskStatus,
    ThreadPoolExecutorEnhanced,
    get_task_manager,
    setup_async_framework,
)
from framework._tasks.live import Home
from framework._threads.deadlines import Deadlines, _Queue
from framework._threads.pool_threads import PoolThread
from framework.protocols._engines import Item
from tests.framework.pools import clock_apart, start_stuck
from tests.framework.running.messages import STOPPED
from tests.patience import PATIENCE

LIMIT = 5.0


class _FiringQueue(_Queue[str]):
    """A queue of deadlines whose timer fires right after it was read for the first time."""

    fire: Callable[[_FiringQueue], None] | None = None
    _timer: Any = None

    @property
    def timer(self) -> Any:  # a timer or None
        """The timer as it was before it fired."""
        timer, fire = self._timer, self.fire
        if fire is not None:
            self.fire = None
            fire(self)
        return timer

    @timer.setter
    def timer(self, timer: Any) -> None:
        self._timer = timer


def test_a_deadline_fires_while_they_are_closed() -> None:
    """A timer that fires while the deadlines are closed breaks nothing, and nothing expires."""
    # 1 close sees that there is a timer, 2 it fires, so that there is none, 3 close cancels
    # what it saw. Only whoever holds the lock keeps 2 from coming in between.
    clock, expired = clock_apart(), list[str]()
    deadlines: Deadlines[str] = Deadlines(clock, expired.append)

    def fire(queue: _FiringQueue) -> None:
        if not deadlines._lock.locked():
            deadlines._fire(queue, LIMIT)

    queue = deadlines._queues[LIMIT] = _FiringQueue()
    deadlines.add("one", LIMIT, clock.monotonic())
    queue.fire = fire
    deadlines.close()
    clock.advance(2 * LIMIT)
    assert expired == []


class _LeavingHomes(list[Home]):
    """Homes of which the last one leaves right after somebody asked whether there is one."""

    def __bool__(self) -> bool:
        found = len(self) > 0
        self.clear()
        return found


async def test_the_last_app_leaves_while_a_task_is_submitted() -> None:
    """A submission while the last app leaves gets FrameworkNotStartedError, and nothing else."""
    # 1 the submission sees that there is an app, 2 the app leaves, 3 the submission takes it.
    async with setup_async_framework(None):
        manager = get_task_manager()
    core = manager._core
    leaving = _LeavingHomes([Home(core, None, asyncio.get_running_loop())])
    for homes in (leaving, list[Home]()):
        core.intake.homes = homes
        with pytest.raises(FrameworkNotStartedError, match=STOPPED):
            manager.submit_nowait(int)


class _CountingStack(list[Item]):
    """A thread's stack: right after it was read, the thread counts what has ended on it."""

    thread: PoolThread

    def __iter__(self) -> Iterator[Item]:
        return iter(self.copy())

    def copy(self) -> list[Item]:
        """Return what is on the stack, and let the thread count it."""
        items = [self[place] for place in range(len(self))]
        if items:
            self.thread.count()
        return items


class _Busy(PoolThread):
    """A thread that was never started and counts as alive."""

    def is_alive(self) -> bool:
        """Say that it is."""
        return True


def test_a_call_is_counted_while_the_figures_are_read() -> None:
    """A call that is counted while `get_stats` reads is counted once."""
    # 1 get_stats reads what is on a thread's stack, 2 the call there, which has ended, is
    # counted and leaves the stack, 3 get_stats reads the counts.
    pool = ThreadPoolExecutorEnhanced(1, clock=clock_apart())
    thread = _Busy(pool._crew, "busy")
    stack = thread.stack = _CountingStack()
    stack.thread = thread
    pool.submit(int).result(PATIENCE)
    pool.shutdown()
    call: Any = SimpleNamespace(
        name="call", status=TaskStatus.COMPLETED, queued=0.0, started=0.0, ended=1.0, handler=None
    )
    stack.append(call)
    pool._crew.threads = pool._crew.threads | {thread}
    assert pool.get_stats()["completed"] == 2


def test_a_call_is_cancelled_while_a_shutdown_drops_it() -> None:
    """A call that is cancelled while a shutdown drops it is reported as done once."""
    # 1 the shutdown takes the call off the queue, 2 the caller cancels it and finds nothing
    # to take off, 3 the shutdown drops it, and is the one that tells.
    pool = ThreadPoolExecutorEnhanced(1)
    stuck, _ = start_stuck(pool)
    queued = pool.submit(int)
    told: list[object] = []
    queued.add_done_callback(told.append)
    close = pool._crew.close

    def close_and_cancel(*, drop: bool) -> list[Item]:
        dropped = close(drop=drop)
        assert queued.cancel()
        return dropped

    pool._crew.close = close_and_cancel  # type: ignore[method-assign]  # the race's second step
    pool.shutdown(wait=False, cancel_futures=True)
    assert wait([queued], PATIENCE).done == {queued}
    assert told == [queued]
    assert pool.get_stats()["cancelled"] == 1
    stuck.let_go_and_join()
