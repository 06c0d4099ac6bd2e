"""on_complete and on_error: functions that are called when a task has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable

from framework._tasks.live import LiveTask
from framework._tasks.records import TaskRecord, TaskStatus
from framework._tasks.task import Task
from framework._threads.user_threads import HOOK, call_on_thread

_LOGGER = logging.getLogger("asyncframe")


def run_hooks(task: LiveTask, snapshot: Callable[[TaskRecord], TaskRecord]) -> None:
    """Call the one of a task's hooks that fits its status.

    Args:
        task: A final task with hooks; they are removed from it, so that none is called twice.
        snapshot: Returns a copy of its record.
    """
    assert task.hooks is not None
    (on_complete, on_error), task.hooks = task.hooks, None
    hook = on_complete if task.status is TaskStatus.COMPLETED else on_error
    if hook is None:
        return
    view = Task(snapshot(task), source=task)
    if task.status is not TaskStatus.TIMEOUT and not task.remote:
        _call(hook, view)
        return
    # A slow hook must not delay the thread of the timers, which has other limits to enforce,
    # nor the thread that reads the reports of remote tasks.
    call_on_thread(HOOK, _call, hook, view)


def _call(hook: Callable[[Task], object], task: Task) -> None:
    try:
        hook(task)
    except BaseException:  # a user's hook must not end a thread or a loop
        _LOGGER.exception("a hook of task %s raised an error", task.task_id)
