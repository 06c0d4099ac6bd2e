"""Logging: the task in log records, failures, final states.

Everything goes to the logger ``asyncframe``: failures at ERROR, unfinished tasks at shutdown at
WARNING, final states and failed attempts that are repeated at DEBUG.

A failure is logged once, at the moment when the task ends, by the process that ran it. If
somebody waits for the task then, the failure is theirs; if they do not take it, it is logged
when the task is forgotten or the framework stops. The outcome of a body that ends after its
task is only counted, in ``late_results``: the task's TIMEOUT was logged before.

Guarantees: text from users and their clients (ids, names, messages of errors) cannot forge,
colour or flood lines of the log: it is escaped and cut here, in every record of that logger.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

from framework._records.jsonsafe import cut, safe_str
from framework._records.records import TaskEvent, TaskRecord, is_unseen
from framework._records.statuses import TaskStatus
from framework._tasks.live import LiveTask, current_record
from framework._threads.loggers import SafeLogger
from framework.exceptions import TaskTimeoutError

_LOGGER = SafeLogger("asyncframe")

_OURS: Final = tuple(
    str(Path(__file__).parent.parent / room) + os.sep for room in ("_running", "_decorators")
)
"""Folders whose frames come before those of a task's function in a traceback."""

_WHOLE: Final = 10
"""How many failures of one kind are logged with their tracebacks in a minute."""

_MINUTE: Final = 60.0
_KINDS: Final = 1_000
_FAILED: Final = "task %s (%s) failed%s%s%s%s%s"
_TIMED_OUT: Final = "task %s (%s) timed out%s%s%s%s%s"
_LEFT_OUT: Final = "; without its traceback, as ten of this kind were logged in this minute"

_LONGEST: Final = 4_000
"""Characters of a value in a line, or of a message in a traceback, at most."""

_WIDTH: Final = 150
"""Characters after which a list of ids goes on in the next line."""


def escaped(text: str) -> str:
    """Return *text* with all unprintable characters escaped, line ends included."""
    if text.isprintable():
        return text
    return "".join(
        ch if ch.isprintable() else ch.encode("unicode_escape").decode("ascii") for ch in text
    )


def _shown(text: str) -> str:
    """Return *text* escaped, and cut to a length that a log can bear."""
    # Cut first as well, since a megabyte takes a while to escape.
    return cut(escaped(cut(text, _LONGEST)), _LONGEST)


class _Escaped:
    """An argument of a log record whose text is escaped and cut."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        value = self._value
        if isinstance(value, str):
            return _shown(value)
        return _shown(safe_str(value) if isinstance(value, BaseException) else str(value))

    def __repr__(self) -> str:
        return _shown(repr(self._value))


class _EscapingFilter(logging.Filter):
    """Escapes the arguments and the traceback of every record; rejects none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Escape what is put into the message; the message itself is the framework's."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                one if isinstance(one, (int, float)) else _Escaped(one) for one in record.args
            )
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            # Formatters use this text; the exception itself stays as it is for other handlers.
            record.exc_text = _traceback_text(record.exc_info[1], record.exc_info[2])
        return True


def _traceback_text(error: BaseException, raised: Any) -> str:  # Any: a traceback or None
    whole = traceback.TracebackException(type(error), error, raised, compact=True)
    pending: list[traceback.TracebackException | None] = [whole]
    while pending:
        one = pending.pop()
        if one is None:
            continue
        # Not public, but the only place where a TracebackException keeps the error's message.
        vars(one)["_str"] = _shown(str(vars(one).get("_str", "")))
        # Of a SyntaxError, whose text is that of the code.
        for name in ("msg", "text", "filename"):
            if isinstance(vars(one).get(name), str):
                vars(one)[name] = _shown(vars(one)[name].rstrip("\n"))
        notes = getattr(one, "__notes__", None)
        if isinstance(notes, (list, tuple)):
            one.__notes__ = [_shown(safe_str(note)) for note in notes]
        pending += [one.__cause__, one.__context__, *(one.exceptions or ())]
    return "".join(whole.format()).removesuffix("\n")


logging.getLogger("asyncframe").addFilter(_EscapingFilter())


def log_final(event: TaskEvent) -> None:
    """Log at DEBUG how a task ended; subscribed to the final events if DEBUG is enabled."""
    assert event.status is not None
    reason = f": {event.message}" if event.message else ""
    _LOGGER.debug("task %s (%s) %s%s", event.task_id, event.name, event.status.value, reason)


def log_attempt(event: TaskEvent) -> None:
    """Log at DEBUG that an attempt failed and is repeated; subscribed like `log_final`."""
    error = event.error
    _LOGGER.debug(
        "attempt %d of %s failed and is repeated in %g s: %s: %s (task %s)",
        event.attempt,
        event.name,
        event.delay,
        type(error).__name__,
        "" if error is None else safe_str(error),
        event.task_id,
    )


class Failures:
    """Logs failures, and leaves out the tracebacks if many tasks fail for one reason.

    Ten tasks of one function that fail with one type of error are logged with their tracebacks,
    and those that follow in the same minute with a line each. A database that is down would
    write millions of lines otherwise. Any thread, without a lock: two that count at once log a
    traceback more.

    Args:
        monotonic: Reads the framework's clock.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        # By kind, when its minute began, and how many have failed in it.
        self._counts: dict[tuple[str, type], tuple[float, int]] = {}

    def log(self, task: TaskRecord) -> None:
        """Log the failure of a task that has just ended."""
        kind, now = (task.name, type(task.error)), self._monotonic()
        began, count = self._counts.get(kind, (now, 0))
        if now - began >= _MINUTE:
            began, count = now, 0
        if not count and len(self._counts) >= _KINDS:
            self._counts.clear()
        self._counts[kind] = began, count + 1
        log_failure(task, whole=count < _WHOLE)


def log_failure(record: TaskRecord, told: str = "", *, whole: bool = True) -> None:
    """Log at ERROR that a task has failed, with its traceback; raises nothing.

    It is called on the thread or event loop that ended the task, without a lock. A handler
    that blocks blocks them too, as it would for any line that the task writes.

    Args:
        record: The task.
        told: What to add to the line.
        whole: Whether to log its traceback.
    """
    error = record.error
    if error is None or not _LOGGER.isEnabledFor(logging.ERROR):
        return
    origin, raised = record.origin, users_frames(record.traceback)
    # As in the task itself, so that handlers find the id where the task's own lines have it.
    token = current_record.set(record if isinstance(record, LiveTask) else None)
    try:
        _LOGGER.error(
            _TIMED_OUT if record.status is TaskStatus.TIMEOUT else _FAILED,
            record.task_id,
            record.name,
            f" after {record.attempts} attempts" if record.attempts > 1 else "",
            _said(error),
            told,
            "" if origin is None else f" (submitted at {origin})",
            "" if whole or raised is None else _LEFT_OUT,
            exc_info=(type(error), error, raised) if whole and raised is not None else None,
        )
    finally:
        current_record.reset(token)


def _said(error: BaseException) -> str:
    """Return what a line says of an error; a time limit has no more to say than the limit."""
    if isinstance(error, TaskTimeoutError):
        return f" at its limit of {error.limit:g} s"
    text = safe_str(error)
    return f": {type(error).__name__}: {text}" if text else f": {type(error).__name__}"


def users_frames(raised: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the framework's frames that come first."""
    while (
        raised is not None
        and raised.tb_next is not None
        and raised.tb_frame.f_code.co_filename.startswith(_OURS)
    ):
        raised = raised.tb_next
    return raised


def report_unread(records: Iterable[TaskRecord]) -> None:
    """Log failures at ERROR that nobody has read, unless they were logged before."""
    for record in records:
        if is_unseen(record):
            record.logged = True
            log_failure(record, "; nobody read its error")


class Tally:
    """Counts tasks by state and function, for lines of the log that a person can read.

    Args:
        ids: For each state, in words and in the order of the lines, how many ids of one
            function to name, 1 or more.

    Attributes:
        total: How many tasks were counted.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.total = 0
        self._most = ids
        # By state and function.
        self._counts: Counter[tuple[str, str]] = Counter()
        self._ids: defaultdict[tuple[str, str], list[str]] = defaultdict(list)

    def add(self, state: str, task: TaskRecord) -> None:
        """Count *task* under *state*, one of those that the tally was made for."""
        self.total += 1
        group = state, task.name
        self._counts[group] += 1
        if len(self._ids[group]) < self._most[state]:
            self._ids[group].append(task.task_id)

    def _in(self, state: str) -> list[tuple[str, int]]:
        """Return the functions of the tasks in a state, and how many of each, the most first."""
        found = self._counts.most_common()
        return [(name, count) for (its, name), count in found if its == state]

    def __str__(self) -> str:
        """Return how many there are, and how many in each state."""
        counts = {state: sum(count for _, count in self._in(state)) for state in self._most}
        told = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
        return f"{self.total:,} {'task' if self.total == 1 else 'tasks'} ({told})"

    def lines(self, most: int) -> Iterator[str]:
        """Yield what to log about the tasks of each function, and about others than *most*."""
        found = [(state, *one) for state in self._most for one in self._in(state)]
        for state, name, count in found[:most]:
            yield from _lines(f"{name} {state}", count, self._ids[state, name])
        others = sum(count for _, _, count in found[most:])
        if others:
            yield f"{others:,} more, of other functions"


def _lines(what: str, count: int, ids: list[str]) -> Iterator[str]:
    """Yield lines with the count of some tasks, and ids; most have `_WIDTH` characters at most."""
    head = f"{count:,} of {what}: "
    row: list[str] = []
    for task_id in ids:
        if row and len(head) + sum(len(one) + 2 for one in row) + len(task_id) > _WIDTH:
            yield head + ", ".join(row)
            head, row = f"more of {what}: ", []
        row.append(task_id)
    left = count - len(ids)
    if left:
        row.append(f"and {left:,} more")
    yield head + ", ".join(row)


class _TaskFields:
    """A log record factory that adds the task to the records of another one."""

    def __init__(self, inner: Callable[..., logging.LogRecord]) -> None:
        self._inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # Any: logging's own
        made = self._inner(*args, **kwargs)
        fields = vars(made)
        task = current_record.get()
        if task is None:
            fields.update(_OUTSIDE)
        else:
            fields["task_id"] = str(task.task_id)
            fields["task_name"] = task.name
            fields["task_attempt"] = task.attempts
            fields["task_label"] = task.label
        # A logger refuses an `extra` with a name that the record has already.
        extra = _extra(sys._getframe(1))
        if extra:
            for name in _OUTSIDE.keys() & extra.keys():
                del fields[name]
        return made


_OUTSIDE: Final = dict.fromkeys(("task_id", "task_name", "task_attempt", "task_label"))
"""The fields of a record that was not made in a task."""

_FACTORIES: Final = 5
"""How many factories between the logger and this one are looked through."""


def _extra(frame: FrameType | None) -> Mapping[str, object] | None:
    """Return the *extra* of the call that makes a record, which a factory is not given.

    If the logger does not make it in a ``makeRecord``, it is not found: an *extra* with one of
    these names is refused then, as one with ``message`` is.
    """
    for _ in range(_FACTORIES):
        if frame is None:
            break
        if frame.f_code.co_name == "makeRecord":
            extra = frame.f_locals.get("extra")
            return extra if isinstance(extra, Mapping) else None
        frame = frame.f_back
    return None


def install_task_fields() -> None:
    """Give every log record ``task_id``, ``task_name``, ``task_attempt`` and ``task_label``.

    They are of the task that logs, and None outside a task. A value that the caller passes in
    ``extra`` stays as it is. The factory is never removed: when the framework stops, another
    library may have wrapped it. May be called twice.
    """
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _TaskFields):
        logging.setLogRecordFactory(_TaskFields(factory))
