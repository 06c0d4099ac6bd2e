"""on_complete and on_error: what a submission wants called at its task's end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from framework._tasks.live import LiveTask
from framework._tasks.records import TaskRecord, TaskStatus
from framework._tasks.task import Task
from framework._threads import thread_names

_LOGGER = logging.getLogger("asyncframe")


def run_hooks(task: LiveTask, snapshot: Callable[[TaskRecord], TaskRecord]) -> None:
    """Call the hook for how a task has ended, once.

    Args:
        task: The task, which is final and has hooks.
        snapshot: Copies its record.
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
    # The thread that ends tasks over their limit has other deadlines to keep, and the one
    # that hears of remote tasks others to hear of.
    thread = threading.Thread(target=_call, args=(hook, view), name=thread_names.HOOK, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # too many threads in the process; late deadlines are better
        _call(hook, view)


def _call(hook: Callable[[Task], object], task: Task) -> None:
    try:
        hook(task)
    except BaseException:  # a hook is a guest; it may end neither thread nor loop
        _LOGGER.exception("a hook of task %s raised an error", task.task_id)
