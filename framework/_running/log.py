"""Log records that know their task, final states, and failures nobody read.

Everything goes to the logger ``asyncframe``: final states at DEBUG, unread failures at
ERROR, unfinished tasks at shutdown at WARNING.

Guarantees: what users and their clients chose (ids, names, texts of errors) forges no line
of the log and colours none: it is escaped here, for every record of that logger.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

from framework._tasks.current import current_record
from framework._tasks.jsonsafe import safe_str
from framework._tasks.records import TaskEvent, TaskRecord, TaskStatus

_LOGGER = logging.getLogger("asyncframe")
_FAILURES = (TaskStatus.FAILED, TaskStatus.TIMEOUT)


def escaped(text: str) -> str:
    """Return *text* with everything escaped that is not printable, line ends included."""
    if text.isprintable():
        return text
    return "".join(
        ch if ch.isprintable() else ch.encode("unicode_escape").decode("ascii") for ch in text
    )


class _Escaped:
    """Stands in for an argument of a log record."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        value = self._value
        if isinstance(value, str):
            return escaped(value)
        return escaped(safe_str(value) if isinstance(value, BaseException) else str(value))

    def __repr__(self) -> str:
        return escaped(repr(self._value))


class _EscapingFilter(logging.Filter):
    """Lets every record pass, with its arguments and its traceback escaped."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Escape what was put into the text; the text itself is the framework's."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                one if isinstance(one, (int, float)) else _Escaped(one) for one in record.args
            )
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            # Formatters print it in place of the exception, which stays for other handlers.
            record.exc_text = _traceback_text(record.exc_info[1], record.exc_info[2])
        return True


def _traceback_text(error: BaseException, raised: Any) -> str:  # Any: a traceback or None
    told = traceback.TracebackException(type(error), error, raised, compact=True)
    pending: list[traceback.TracebackException | None] = [told]
    while pending:
        one = pending.pop()
        if one is None:
            continue
        # The only place where a formatted traceback has the error's own text; not public.
        vars(one)["_str"] = escaped(str(vars(one).get("_str", "")))
        notes = getattr(one, "__notes__", None)
        if isinstance(notes, (list, tuple)):
            one.__notes__ = [escaped(safe_str(note)) for note in notes]
        pending += [one.__cause__, one.__context__, *(one.exceptions or ())]
    return "".join(told.format()).removesuffix("\n")


_LOGGER.addFilter(_EscapingFilter())


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
        record.origin or "an unknown line",
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
