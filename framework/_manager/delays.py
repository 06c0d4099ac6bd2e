"""Delayed tasks: each waits for its time, and is handed to the engine then.

Relies on: the framework's clock, whose timers may fire on any thread.
Lock order: `_lock` guards the table and is held while nothing but that is changed.
"""

from __future__ import annotations

import threading

from framework._running.runner import Runner
from framework._tasks.live import LiveTask
from framework._tasks.records import FINAL


class Delays:
    """The delayed tasks of one manager.

    Args:
        runner: Hands a task to the engine once it is due.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._clock = runner.ledger.clock
        self._lock = threading.Lock()
        self._delayed: dict[LiveTask, None] = {}

    def __len__(self) -> int:
        return len(self._delayed)

    def __contains__(self, task: LiveTask) -> bool:
        with self._lock:
            return task in self._delayed

    def delay(self, task: LiveTask, seconds: float) -> None:
        """Hand an accepted task to the engine in *seconds*, above 0."""
        with self._lock:
            self._delayed[task] = None
        when = self._clock.monotonic() + seconds
        try:
            timer = self._clock.call_at(when, lambda: self._due(task))
        except Exception as error:  # the id is given already: the task must end, with this
            self.forget(task)
            self._runner.refuse(task, error)
            return
        with self._lock:
            # The timer may have fired already; then it must not be found any more.
            if task in self._delayed:
                task.timer = timer
        if task.status in FINAL:
            # Cancelled before its timer could be seen.
            timer.cancel()
            self.forget(task)

    def forget(self, task: LiveTask) -> None:
        """Forget a delayed task that was cancelled."""
        with self._lock:
            self._delayed.pop(task, None)

    def _due(self, task: LiveTask) -> None:
        with self._lock:
            self._delayed.pop(task, None)
            task.timer = None
        if task.status not in FINAL:
            task.reason = ""
            task.queued = self._clock.monotonic()
            self._runner.launch(task)
