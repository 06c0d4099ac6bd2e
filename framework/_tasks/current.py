"""The current framework, the current request and the current task.

They are context variables, so they follow a request or a task wherever its context goes.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, Final  # an ASGI scope has values of any type

from framework._records import checks
from framework._records.jsonsafe import LONGEST_TEXT, cut
from framework._tasks.live import Home, LiveTask
from framework._tasks.task import Task, TaskControl
from framework.exceptions import TaskCancelledError

current_home: ContextVar[Home | None] = ContextVar("asyncframe_home", default=None)
"""The home of the app whose request or task runs here, or None."""

current_record: ContextVar[LiveTask | None] = ContextVar("asyncframe_task", default=None)
"""The task that runs here, or None."""

current_scope: ContextVar[MutableMapping[str, Any] | None] = ContextVar(
    "asyncframe_scope", default=None
)
"""The ASGI scope of the request or connection that is handled here, or None.

Tasks are made with a copy of their request's context, so they see the scope of a request that
may be over: where `current_record` is set, the scope says nothing about the present. The same holds
where it has `OVER`: for what a request has started and left running.
"""

OVER: Final = "asyncframe.over"
"""A key that is in a scope once its response, and all that runs after it, has ended."""

hook_owner: ContextVar[tuple[str | None] | None] = ContextVar("asyncframe_hook_owner", default=None)
"""In a hook, the owner of the task that has ended, whoever has ended it; None elsewhere."""


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
        told = cut(checks.text("message", message), LONGEST_TEXT)
        record.home.core.ledger.progress(record, share, told)

    def check_cancelled() -> None:
        if record.cancel_requested or record.status.is_final:
            raise TaskCancelledError(record.task_id, record.name)

    return Task(record, control=TaskControl(report_progress, check_cancelled))
