"""Races with the end of a framework or a pool, each forced; the sequence is in steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from framework import FrameworkNotStartedError, get_task_manager, setup_async_framework
from framework._deadlines import Deadlines, _Queue
from framework._ledger import Home
from tests.framework.pools import clock_apart

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
        core.homes = homes
        with pytest.raises(FrameworkNotStartedError):
            manager.submit_nowait(int)
