"""Delays: tasks that are launched after a delay.

Relies on: the framework's clock, whose timers may fire on any thread.
Lock order: `_lock` guards the table; nothing else is called while it is held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from framework._records.statuses import FINAL
from framework._running.runner import Runner
from framework._tasks.live import LiveTask


class Delays:
    """The delayed tasks of one manager.

    Args:
        runner: Ends a task for which no timer can be set.
        launch: Launches a task that is due.
    """

    def __init__(self, runner: Runner, launch: Callable[[LiveTask], None]) -> None:
        self._runner = runner
        self._launch = launch
        self._clock = runner.ledger.clock
        self._lock = threading.Lock()
        self._delayed: dict[LiveTask, None] = {}

    def __len__(self) -> int:
        return len(self._delayed)

    def __contains__(self, task: LiveTask) -> bool:
        with self._lock:
            return task in self._delayed

    def delay(self, task: LiveTask, seconds: float) -> None:
        """Launch a task in *seconds*, above 0."""
        with self._lock:
            self._delayed[task] = None
        when = self._clock.monotonic() + seconds
        try:
            timer = self._clock.call_at(when, lambda: self._due(task))
        except Exception as error:  # its id is known already, so the task must end
            self.forget(task)
            self._runner.refuse(task, error)
            return
        with self._lock:
            # Not if the timer has fired already: nobody would remove it from the task.
            if task in self._delayed:
                task.timer = timer
        if task.status in FINAL:
            # It was cancelled before its timer was set.
            timer.cancel()
            self.forget(task)

    def forget(self, task: LiveTask) -> None:
        """Remove a delayed task that was cancelled."""
        with self._lock:
            self._delayed.pop(task, None)

    def _due(self, task: LiveTask) -> None:
        with self._lock:
            self._delayed.pop(task, None)
            task.timer = None
        if task.status not in FINAL:
            task.reason = ""
            task.queued = self._clock.monotonic()
            self._launch(task)
