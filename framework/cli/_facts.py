"""What is shown of a task: as JSON, and as text for people."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final

from framework._records import reasons
from framework._records.records import TaskRecord
from framework._records.statuses import FAILURES
from framework._running.log import escaped
from framework._tasks.task import Task
from framework._threads.clock import SystemClock
from framework.exceptions import RemoteTaskError

_SHORT: Final = 12
"""Characters of a random id that are shown in a table; commands take the beginning of an id."""

_RANDOM: Final = 32
_LONGEST: Final = 2_000
"""Characters of a value that are shown to people, such as a result; it may have a million."""


def facts_of(record: TaskRecord) -> dict[str, Any]:  # Any: JSON
    """Return a task as JSON, in the form of `Task.to_dict`, with its owner."""
    facts = seen(record).to_dict() | {"owner": record.owner}
    error = record.error
    if isinstance(error, RemoteTaskError):
        # The class of the exception is known to the app, and not here.
        facts["error_type"] = error.type_name.rpartition(".")[2]
        facts["error_message"] = error.text
    return facts


def seen(record: TaskRecord) -> Task:
    """Return a task as it is seen from outside, so that its reason says how long it waits."""
    return Task(record, scene=_OUTSIDE)


class _Outside:
    """The scene of tasks whose processes are other ones; see `reasons.Scene`."""

    def __init__(self) -> None:
        # The stamps of a record that is seen from outside are those of the wall clock.
        self.monotonic = SystemClock().time

    def queued(self, record: TaskRecord) -> str:
        """Return that it waits: only its process knows its position."""
        return "queued"

    def kind(self, record: TaskRecord) -> None:
        """Return None: the app is not imported."""


_OUTSIDE: Final = _Outside()


def short_id(task_id: str) -> str:
    """Return the beginning of a random id, or the whole of a chosen one."""
    return task_id[:_SHORT] if len(task_id) == _RANDOM else escaped(task_id)


def note_of(facts: dict[str, Any]) -> str:
    """Return what else there is to say about a task in one line."""
    if facts["error_message"] is not None and facts["status"] in FAILURES:
        return escaped(f"{facts['error_type']}: {facts['error_message']}")
    parts = []
    if facts["progress"] is not None and facts["end_time"] is None:
        parts.append(f"{facts['progress']:.0%} {facts['progress_message']}".strip())
    if facts["reason"]:
        parts.append(facts["reason"])
    return escaped("; ".join(parts))


def span(seconds: float | None) -> str:
    """Return a duration for people, such as ``1.5 s`` or ``3 h 20 min``; "" for None."""
    return "" if seconds is None else reasons.span(seconds)


def moment(stamp: str | None) -> str:
    """Return a timestamp in the time zone of this machine; "" for None."""
    if stamp is None:
        return ""
    return f"{datetime.fromisoformat(stamp).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def lines_of(facts: dict[str, Any], process: str) -> list[tuple[str, str]]:
    """Return the labels and values of a task, without those that are empty."""
    error = None
    if facts["has_error"]:
        error = f"{facts['error_type']}: {facts['error_message']}"
    progress = facts["progress"]
    lines = [
        ("id", facts["task_id"]),
        ("name", facts["name"]),
        ("description", facts["description"]),
        ("label", facts["label"] or ""),
        ("meta", json.dumps(facts["meta"], ensure_ascii=False) if facts["meta"] else ""),
        ("arguments", json.dumps(facts["arguments"]) if facts["arguments"] else ""),
        ("owner", facts["owner"] or ""),
        ("status", facts["status"]),
        ("submitted", moment(facts["created_at"])),
        ("started", moment(facts["start_time"])),
        ("ended", moment(facts["end_time"])),
        ("waited", span(facts["queue_time"])),
        ("ran", span(facts["duration"])),
        ("attempts", str(facts["attempts"] or "")),
        ("progress", "" if progress is None else f"{progress:.0%} {facts['progress_message']}"),
        ("process", process),
        ("repeats", facts["run_again_of"] or ""),
        ("after", ", ".join(facts["after"])),
        ("cancel", "requested" if facts["cancel_requested"] else ""),
        ("function", "still runs" if facts["still_running"] else ""),
        ("reason", facts["reason"]),
        ("error", error or ""),
        ("result", "" if facts["status"] != "completed" else json.dumps(facts["result"])),
    ]
    return [(label, _cut(escaped(value))) for label, value in lines if value]


def _cut(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}… ({len(text):,} characters; --json prints all)"
