"""The current framework and the current task.

Both are context variables, so they follow a request or a task wherever its context goes.
"""

from __future__ import annotations

from contextvars import ContextVar

from framework._tasks import checks
from framework._tasks.live import Home, LiveTask
from framework._tasks.task import Task, TaskControl
from framework.exceptions import TaskCancelledError

current_home: ContextVar[Home | None] = ContextVar("asyncframe_home", default=None)
"""The home of the app whose request or task runs here, or None."""

current_record: ContextVar[LiveTask | None] = ContextVar("asyncframe_task", default=None)
"""The task that runs here, or None."""


def current_task() -> Task | None:
    """Return the task that is running here; None outside a task.

    It also works in coroutines that the task starts, and in threads that copy its
    context.
    """
    record = current_record.get()
    if record is None:
        return None

    def report_progress(progress: float, message: str) -> None:
        share = checks.number("progress", progress, at_least=0, at_most=1)
        record.home.core.ledger.progress(record, share, checks.text("message", message))

    def check_cancelled() -> None:
        if record.cancel_requested or record.status.is_final:
            raise TaskCancelledError(record.task_id, record.name)

    return Task(record, control=TaskControl(report_progress, check_cancelled))
