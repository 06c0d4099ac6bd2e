"""Rows: tasks as the page lists them, in few bytes, and the wait of a task as a picture."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from framework._manager.inside import record_of, short_reason
from framework._records.jsonsafe import cut, jsonable
from framework._records.reasons import facts_of
from framework._tasks.task import Task

_LONGEST: Final = 300
"""Characters of a text that a row shows; the task's details have all of it."""

_WAITS: Final = ("delayed", "retrying", "throttled")
"""The kinds of waits whose end is known, so that the page counts the seconds itself."""


def row_of(task: Task) -> dict[str, Any]:
    """Return a task as a row of the list; times in seconds since the epoch.

    Nothing in it changes while only time passes, so that a list without news is not sent again.
    """
    record = record_of(task)
    wait = _wait_of(record.reason)
    error = record.error
    return {
        "id": jsonable(str(record.task_id)),
        "name": _short(record.name),
        "text": _short(record.description),
        "status": record.status.value,
        "created": second(task.created_at),
        "started": second(task.started_at),
        "ended": second(task.ended_at),
        "attempts": record.attempts,
        "progress": record.progress,
        "message": _short(record.progress_message),
        "wait": wait,
        "reason": "" if wait and not record.status.is_final else _short(short_reason(task)),
        "error": None if error is None else type(error).__name__,
        "asked": record.cancel_requested,
        "lingers": record.still_running,
    }


def _wait_of(reason: str) -> dict[str, Any] | None:
    """Return what a task waits for, if that ends at a known time."""
    facts = facts_of(reason)
    if facts is None or facts.kind not in _WAITS or facts.until is None:
        return None
    wait = {"kind": facts.kind, "until": round(facts.until, 3)}
    if facts.kind == "retrying":
        attempt, attempts, error = facts.values[:3]
        wait |= {"attempt": attempt, "attempts": attempts}
        wait["error"] = None if error is None else error.partition(":")[0]
    elif facts.kind == "throttled":
        wait["name"] = _short(facts.values[0])
    return wait


def second(moment: datetime | None) -> float | None:
    """Return a moment in seconds since the epoch, to the microsecond; None for None."""
    return None if moment is None else moment.timestamp()


def _short(text: str) -> Any:  # Any: JSON
    return jsonable(cut(text, _LONGEST))
