"""What a task's end leads to: its hooks, and the line in the log about its failure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus
from framework._tasks.current import hook_owner
from framework._tasks.live import LiveTask
from framework._tasks.task import Task
from framework._threads.user_threads import HOOK, call_on_thread

_LOGGER = logging.getLogger("asyncframe")


Report: TypeAlias = Callable[[LiveTask], object]
"""Logs the failure of a task."""


def run_hooks(
    task: LiveTask, snapshot: Callable[[TaskRecord], TaskRecord], report: Report | None
) -> None:
    """Call the one of a task's hooks that fits its status, and then log its failure.

    Args:
        task: A final task; its hooks are removed from it, so that none is called twice.
        snapshot: Returns a copy of its record.
        report: Called if the hook has not read its error; None for no call.
    """
    hook = None
    if task.hooks is not None:
        (on_complete, on_error), task.hooks = task.hooks, None
        hook = on_complete if task.status is TaskStatus.COMPLETED else on_error
    if hook is None:
        if report is not None:
            report(task)
        return
    view = Task(snapshot(task), source=task)
    if task.status is not TaskStatus.TIMEOUT and not task.remote:
        _call(hook, view, task, report)
        return
    # A slow hook must not delay the thread of the timers, which has other limits to enforce,
    # nor the thread that reads the reports of remote tasks.
    call_on_thread(HOOK, _call, hook, view, task, report)


def _call(
    hook: Callable[[Task], object], view: Task, task: LiveTask, report: Report | None
) -> None:
    token = hook_owner.set((task.owner,))
    try:
        hook(view)
    except BaseException:  # a user's hook must not end a thread or a loop
        _LOGGER.exception("a hook of task %s raised an error", task.task_id)
    finally:
        hook_owner.reset(token)
    if report is not None and not task.read:
        report(task)
