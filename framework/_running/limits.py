"""Limits: the time limits of running tasks, armed, suspended for a throttle, and expired.

Relies on: `deadlines`, which has one timer for each distinct limit; it fires on any thread.
Without the GIL: only the task's own thread or loop writes the fields of its limit, and the
timer's thread only reads `limit_key`; a deadline can be removed only once.
"""

from __future__ import annotations

from collections.abc import Callable

from framework._records.statuses import RUNNING
from framework._tasks.live import LiveTask
from framework._threads.deadlines import Deadlines
from framework.protocols import Clock


class Limits:
    """The limits of one manager's running tasks.

    Args:
        clock: Source of all time.
        expire: Called with a task that has reached its limit, on any thread.
    """

    def __init__(self, clock: Clock, expire: Callable[[LiveTask], None]) -> None:
        self._monotonic = clock.monotonic
        self._deadlines: Deadlines[LiveTask] = Deadlines(clock, expire)
        self._expire = expire

    def arm(self, task: LiveTask, started: float) -> None:
        """Start a task's limit at *started*, unless a throttle has suspended it."""
        # Most tasks have no `rest`, and a `Rare` field costs a call.
        if task.limit is not None and (task.rest is None or task.limit_left is None):
            task.limit_key = task.limit
            self._deadlines.add(task, task.limit, started)

    def overrun(self, task: LiveTask) -> None:
        """Expire a task whose body has ended too late, unless its limit was suspended."""
        if task.limit_left is None:
            self._expire(task)

    def disarm(self, task: LiveTask) -> None:
        """Cancel a task's limit."""
        if task.limit_key is not None:
            self._deadlines.remove(task, task.limit_key)
            task.limit_key = None

    def suspend(self, task: LiveTask) -> None:
        """Stop the time of a running task's limit while it waits for a throttle."""
        if task.limit is None or task.started is None:
            return
        now = self._monotonic()
        deadline: float | None = task.started + task.limit
        if task.limit_key is not None:
            deadline = self._deadlines.remove(task, task.limit_key)
            task.limit_key = None
        # No deadline: the limit expires right now, on another thread. That is recorded as 0.0,
        # so a limit with no time left, but a deadline, gets a little more.
        task.limit_left = 0.0 if deadline is None else max(deadline - now, 1e-9)

    def resume(self, task: LiveTask) -> None:
        """Continue the time of a running task's limit."""
        if task.limit_left and task.status is RUNNING:
            task.limit_key = task.limit_left
            self._deadlines.add(task, task.limit_left, self._monotonic())

    def close(self) -> None:
        """Expire no more tasks."""
        self._deadlines.close()
