"""Log records that know their task, final states, and failures nobody read.

Everything goes to the logger ``asyncframe``: final states at DEBUG, unread failures at
ERROR, unfinished tasks at shutdown at WARNING.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from framework._context import current_record
from framework._jsonsafe import safe_str
from framework._records import TaskEvent, TaskRecord, TaskStatus

_LOGGER = logging.getLogger("asyncframe")
_FAILURES = (TaskStatus.FAILED, TaskStatus.TIMEOUT)


def log_final(event: TaskEvent) -> None:
    """Log at DEBUG how a task ended; a sink of the final events, where DEBUG is on."""
    assert event.status is not None
    reason = f": {event.message}" if event.message else ""
    _LOGGER.debug("task %s (%s) %s%s", event.task_id, event.name, event.status.value, reason)


def report_unread(record: TaskRecord) -> None:
    """Log at ERROR a failure that nobody has read; once for each task."""
    if record.read or record.error is None or record.status not in _FAILURES:
        return
    record.read = True
    _LOGGER.error(
        "task %s (%s) %s and nobody read its error: %s: %s (submitted at %s)",
        record.task_id,
        record.name,
        record.status.value,
        type(record.error).__name__,
        safe_str(record.error),
        record.origin or "an unknown place",
        exc_info=record.error.with_traceback(record.traceback),
    )


class _TaskIds:
    """A log record factory that adds ``task_id`` to what another one makes."""

    def __init__(self, inner: Callable[..., logging.LogRecord]) -> None:
        self._inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # Any: logging's own
        made = self._inner(*args, **kwargs)
        record = current_record.get()
        made.task_id = None if record is None else str(record.task_id)
        return made


def install_task_ids() -> None:
    """Give every log record a ``task_id``: that of the task it was made in, else None.

    Stays for the life of the process, since another library may have wrapped it by the
    time a framework stops; harmless to call twice.
    """
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _TaskIds):
        logging.setLogRecordFactory(_TaskIds(factory))
