"""Convert records to plain JSON and back, to store them or send them to another process."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Protocol

from framework._records.chains import After
from framework._records.ids import TaskId
from framework._records.records import TaskRecord, heading_of
from framework._records.statuses import COMPLETED, TaskStatus
from framework._tasks import registry
from framework._tasks.errors.kept import decode_error, encode_error, reported_error
from framework._tasks.wire import decode_result, encode_result


class _Times(Protocol):
    """The two times of a `protocols.Clock`."""

    def time(self) -> float:
        """Return the wall clock in seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        ...


def dump_record(record: TaskRecord) -> dict[str, Any]:
    """Return a record as a dict for ``json.dumps``.

    It always has ``task_id``, ``name``, ``status`` and ``created_at``. It has ``description``,
    ``started_at``, ``ended_at``, ``slept``, ``attempts``, ``result``, ``error``, ``reason``,
    ``progress``, ``progress_message``, ``cancel_requested``, ``still_running``, ``remote``,
    ``run_again_of``, ``after``, ``owner``, ``label``, ``meta`` and ``arguments`` only if they are
    set. Timestamps are in seconds since the epoch; ``result`` and ``error`` are the texts of
    `encode_result` and `encode_error`, ``meta`` that of `meta_text`, ``arguments`` that of
    `arguments_text`, and ``after`` is what `After.text` returns.

    Args:
        record: A final record, or a snapshot of a live one: it must not change meanwhile.

    Raises:
        TypeError: If JSON cannot represent the result.
        ValueError: If the result is too long.
    """
    completed, error = record.status is COMPLETED, record.error
    function = registry.find_function(record.name)
    facts = {
        "task_id": str(record.task_id),
        "name": record.name,
        "status": record.status.value,
        "created_at": record.created_at,
    }
    optional = {
        "description": record.description,
        "started_at": _seconds(record.wall(record.started)),
        "ended_at": _seconds(record.wall(record.ended)),
        "slept": record.slept or None,
        "attempts": record.attempts or None,
        "result": encode_result(function, record.result) if completed else None,
        "error": None if error is None else encode_error(error),
        "owner": record.owner,
        "label": record.label,
        "meta": record.meta,
        "arguments": record.arguments,
        "after": None if record.after is None else record.after.text(),
        **{name: getattr(record, name) for name in _RARE},
        "cancel_requested": record.cancel_asked,
    }
    return facts | {
        name: value
        for name, value in optional.items()
        if value is not None and value is not False and value != ""
    }


_RARE: Final = (
    "reason",
    "progress",
    "progress_message",
    "cancel_requested",
    "still_running",
    "remote",
    "run_again_of",
)
"""Attributes that few tasks have, and that JSON has as they are."""


def _seconds(stamp: datetime | None) -> float | None:
    return None if stamp is None else stamp.timestamp()


def load_record(facts: Mapping[str, Any], clock: _Times) -> TaskRecord:
    """Return the record of a dict from `dump_record`.

    Result and error have their original types if these are known in this process; see
    `decode_result` and `decode_error`. A failure counts as read, because the task's own process
    reports it.

    Args:
        facts: The dict.
        clock: The framework's clock; the timestamps are converted to its monotonic seconds.

    Raises:
        KeyError: If one of the four keys that are always there is missing.
        ValueError: If a value is not one that `dump_record` returns.
    """
    record = TaskRecord()
    record.task_id = TaskId(facts["task_id"])
    about, owner = facts.get("description") or "", facts.get("owner") or None
    said = [facts.get(one) or None for one in ("label", "meta", "arguments")]
    record.heading = heading_of(facts["name"], about, owner, *said)
    record.status = TaskStatus(facts["status"])
    record.created_at = float(facts["created_at"])
    record.created = record.queued = clock.monotonic() - (clock.time() - record.created_at)
    record.started = _stamp(record, facts.get("started_at"))
    record.ended = _stamp(record, facts.get("ended_at"))
    record.attempts = facts.get("attempts") or 0
    record.result = record.code = record.rest = None
    record.instruction = 0
    if facts.get("result"):
        record.result = decode_result(registry.find_function(record.name), facts["result"])
    if record.status.is_final and record.status is not COMPLETED:
        text = facts.get("error")
        record.error = decode_error(text) if text else reported_error(record, record.status, None)
        record.read = True
    if facts.get("slept"):
        record.slept = float(facts["slept"])
    if facts.get("after"):
        record.after = After.of(facts["after"])
    for name in _RARE:
        if facts.get(name) is not None:
            setattr(record, name, facts[name])
    return record


def _stamp(record: TaskRecord, at: float | None) -> float | None:
    # The clocks of two machines may differ, but no duration may be negative.
    return None if at is None else record.created + max(0.0, at - record.created_at)
