"""Finished tasks in this process's memory: gone when the process is."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeAlias

from framework._records import TaskRecord, TaskStatus

_Packed: TypeAlias = tuple[str, str, str, float, float, float, float, float, int, Any]

_SHARDS = 64
"""A power of two. One dict of 100,000 is rebuilt every now and then, for 10 MB and 10 ms."""


class MemoryStore:
    """Keeps records in the order in which they ended.

    A task that simply COMPLETED, as most do, is packed into a tuple: less than half of a
    record's memory, and one that the garbage collector leaves alone if its result is a
    number or a string. All others are kept as they are.

    Cost: everything but `list` is independent of how many records are kept; `remove`
    grows with what it removes.
    """

    def __init__(self) -> None:
        # Guards the pair of order and index; both are only ever changed together.
        self._lock = threading.Lock()
        self._order: deque[TaskRecord | _Packed] = deque()
        self._index: tuple[dict[str, TaskRecord | _Packed], ...] = tuple({} for _ in range(_SHARDS))

    def __len__(self) -> int:
        return len(self._order)

    def put(self, record: TaskRecord) -> None:
        """Keep a record that has just become final."""
        entry = _pack(record)
        with self._lock:
            self._order.append(entry)
            self._index[hash(record.task_id) % _SHARDS][record.task_id] = entry

    def get(self, task_id: str) -> TaskRecord | None:
        """Return the record of a finished task, or None if it is not kept here."""
        entry = self._index[hash(task_id) % _SHARDS].get(task_id)
        return None if entry is None else _unpack(entry)

    def list(self, status: TaskStatus | None = None) -> list[TaskRecord]:
        """Return the kept records in the order in which they ended, as a snapshot."""
        with self._lock:
            entries = list(self._order)
        records = map(_unpack, entries)
        return [record for record in records if status is None or record.status is status]

    def remove(
        self, *, ended_before: float | None = None, keep: int | None = None
    ) -> Sequence[TaskRecord]:
        """Remove the oldest records and return them; see `protocols.TaskStore`."""
        removed: list[TaskRecord] = []
        with self._lock:
            while self._order:
                entry = self._order[0]
                too_many = keep is not None and len(self._order) > keep
                if not too_many and (ended_before is None or _ended(entry) > ended_before):
                    break
                self._order.popleft()
                record = _unpack(entry)
                del self._index[hash(record.task_id) % _SHARDS][record.task_id]
                removed.append(record)
        return removed


def _ended(entry: TaskRecord | _Packed) -> float:
    if isinstance(entry, tuple):
        return entry[7]
    assert entry.ended is not None
    return entry.ended


def _pack(record: TaskRecord) -> TaskRecord | _Packed:
    started, ended = record.started, record.ended
    plain = (
        record.status is TaskStatus.COMPLETED
        and record.progress is None
        and not record.cancel_requested
        and not record.still_running
    )
    if not plain or started is None or ended is None:
        return record
    return (
        record.task_id,
        record.name,
        record.description,
        record.created_at,
        record.created,
        record.queued,
        started,
        ended,
        record.attempts,
        record.result,
    )


def _unpack(entry: TaskRecord | _Packed) -> TaskRecord:
    if not isinstance(entry, tuple):
        return entry
    record = TaskRecord()
    record.task_id, record.name, record.description, record.created_at = entry[:4]
    record.created, record.queued, record.started, record.ended = entry[4:8]
    record.attempts, record.result = entry[8:]
    record.status = TaskStatus.COMPLETED
    record.error = record.traceback = record.progress = record.origin = None
    record.progress_message = record.reason = ""
    record.cancel_requested = record.still_running = False
    record.read = True
    return record
