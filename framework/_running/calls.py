"""Calls: the arguments of tasks that did not complete, so that they can run again.

They are kept by reference, and never leave the process from here: neither logs nor `to_dict()`
nor HTTP show them.

Lock order: `_lock` is innermost.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from framework._records.records import TaskRecord
from framework._tasks.live import LiveTask


class Calls:
    """Keeps the arguments of the latest tasks that did not complete; any thread.

    Args:
        most: Of how many tasks at most, 0 for none.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._tasks: dict[str, LiveTask] = {}

    def keep(self, task: LiveTask) -> None:
        """Let a task that has just ended keep its arguments, unless its options forbid it."""
        if not self.most or not task.spec.options["keep_arguments"]:
            _drop(task)
            return
        with self._lock:
            self._tasks[task.task_id] = task
            oldest = next(iter(self._tasks)) if len(self._tasks) > self.most else None
            spare = None if oldest is None else self._tasks.pop(oldest)
        if spare is not None:
            _drop(spare)

    def forget(self, records: Iterable[TaskRecord]) -> None:
        """Drop the arguments of tasks that are removed from the store."""
        with self._lock:
            found = [self._tasks.pop(record.task_id, None) for record in records]
        for task in found:
            if task is not None:
                _drop(task)


def _drop(task: LiveTask) -> None:
    # A body that still runs has its own references.
    task.args = task.kwargs = None
