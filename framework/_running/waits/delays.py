"""Delays: tasks that are launched after a delay.

Relies on: the framework's clock, whose timers may fire on any thread.
Lock order: `_lock` guards the table; nothing else is called while it is held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from framework._records.statuses import FINAL
from framework._tasks.live import LiveTask
from framework.protocols import Clock


class Delays:
    """The delayed tasks of one manager.

    Args:
        clock: Has the timers.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._delayed: dict[LiveTask, None] = {}

    def __len__(self) -> int:
        return len(self._delayed)

    def __contains__(self, task: LiveTask) -> bool:
        with self._lock:
            return task in self._delayed

    def delay(self, task: LiveTask, when: float, due: Callable[[LiveTask], object]) -> None:
        """Call *due* with a task at monotonic second *when*, unless it is final then.

        Raises:
            Exception: If no timer can be set.
        """
        with self._lock:
            self._delayed[task] = None
        try:
            timer = self._clock.call_at(when, lambda: self._end(task, due))
        except Exception:
            self.forget(task)
            raise
        with self._lock:
            # Not if the timer has fired already: nobody would remove it from the task.
            if task in self._delayed:
                task.timer = timer
        if task.status in FINAL:
            # It was cancelled before its timer was set.
            timer.cancel()
            self.forget(task)

    def forget(self, task: LiveTask) -> None:
        """Forget the delay of a task that will not be launched here, if it waits for that."""
        if not task.spec.delay:
            return
        timer, task.timer = task.timer, None
        if timer is not None:
            timer.cancel()
        with self._lock:
            self._delayed.pop(task, None)

    def _end(self, task: LiveTask, due: Callable[[LiveTask], object]) -> None:
        with self._lock:
            self._delayed.pop(task, None)
            task.timer = None
        if task.status not in FINAL:
            task.reason = ""
            task.queued = self._clock.monotonic()
            due(task)
