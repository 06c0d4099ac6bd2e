"""current_task: a task seen from inside."""

from __future__ import annotations

from framework._tasks import checks
from framework._tasks.context import current_record
from framework._tasks.live import LiveTask
from framework._tasks.task import Task, TaskControl
from framework.exceptions import TaskCancelledError


def current_task() -> Task | None:
    """Return the task that runs here, live; None outside any task.

    It follows the task wherever its context goes: into coroutines it starts, and into
    threads that copy the context.
    """
    record = current_record.get()
    if not isinstance(record, LiveTask):
        return None

    def report_progress(progress: float, message: str) -> None:
        share = checks.number("progress", progress, at_least=0, at_most=1)
        record.home.core.ledger.progress(record, share, checks.text("message", message))

    def check_cancelled() -> None:
        if record.cancel_requested or record.status.is_final:
            raise TaskCancelledError(record.task_id, record.name)

    return Task(record, control=TaskControl(report_progress, check_cancelled))
