"""Rows: tasks as the page lists them, in few bytes, and the wait of a task as a picture."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from framework._manager.inside import record_of, state_of
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
    state, wait = state_of(task, expose_errors=False), _wait_of(record_of(task).reason)
    return {
        "id": state["task_id"],
        "name": cut(state["name"], _LONGEST),
        "text": cut(state["description"], _LONGEST),
        "status": state["status"],
        "created": second(task.created_at),
        "started": second(task.started_at),
        "ended": second(task.ended_at),
        "attempts": state["attempts"],
        "progress": state["progress"],
        "message": cut(state["progress_message"], _LONGEST),
        "wait": wait,
        "reason": "" if wait and task.ended_at is None else cut(state["reason"], _LONGEST),
        "error": state["error_type"],
        "asked": state["cancel_requested"],
        "lingers": state["still_running"],
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
        wait["name"] = jsonable(cut(facts.values[0], _LONGEST))
    return wait


def second(moment: datetime | None) -> float | None:
    """Return a moment in seconds since the epoch, to the microsecond; None for None."""
    return None if moment is None else moment.timestamp()
