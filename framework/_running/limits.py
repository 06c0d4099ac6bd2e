"""A task's limit while it runs: armed, suspended for a throttle's wait, and expired.

Relies on: `deadlines`, whose one timer for each distinct limit may fire on any thread.
Without the GIL: what is written of a limit is written by the task's own thread or loop; the
timer's thread reads `limit_key` only, and a deadline is taken out by one of them alone.
"""

from __future__ import annotations

from collections.abc import Callable

from framework._tasks.live import RUNNING, LiveTask
from framework._threads.deadlines import Deadlines
from framework.protocols import Clock


class Limits:
    """The limits of one manager's running tasks.

    Args:
        clock: Time for all of them.
        expire: Called with a task that has reached its limit, on any thread.
    """

    def __init__(self, clock: Clock, expire: Callable[[LiveTask], None]) -> None:
        self._monotonic = clock.monotonic
        self._deadlines: Deadlines[LiveTask] = Deadlines(clock, expire)
        self._expire = expire

    def arm(self, task: LiveTask, started: float) -> None:
        """Count a task's limit from *started*, unless a throttle has suspended it."""
        if task.limit is not None and task.limit_left is None:
            task.limit_key = task.limit
            self._deadlines.add(task, task.limit, started)

    def overrun(self, task: LiveTask, started: float) -> None:
        """Expire a task whose body has just ended, past a limit that was never armed."""
        limit = task.limit
        if limit is not None and task.limit_left is None and self._monotonic() - started >= limit:
            self._expire(task)

    def disarm(self, task: LiveTask) -> None:
        """Count a task's limit no more."""
        if task.limit_key is not None:
            self._deadlines.remove(task, task.limit_key)
            task.limit_key = None

    def suspend(self, task: LiveTask) -> None:
        """Stop the time of a running task's limit, since it waits for a throttle's slot."""
        if task.limit is None or task.started is None:
            return
        now = self._monotonic()
        deadline: float | None = task.started + task.limit
        if task.limit_key is not None:
            deadline = self._deadlines.remove(task, task.limit_key)
            task.limit_key = None
        # None: it fires right now, on another thread.
        task.limit_left = 0.0 if deadline is None else max(deadline - now, 1e-9)

    def resume(self, task: LiveTask) -> None:
        """Let the time of a running task's limit go on."""
        if task.limit_left and task.status is RUNNING:
            task.limit_key = task.limit_left
            self._deadlines.add(task, task.limit_left, self._monotonic())

    def close(self) -> None:
        """Expire nothing any more."""
        self._deadlines.close()
