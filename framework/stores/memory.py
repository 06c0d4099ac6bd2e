"""Finished tasks in this process's memory: gone when the process is."""

from __future__ import annotations

import math
import struct
import threading
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from framework._ids import TaskId
from framework._records import TaskRecord, TaskStatus

_BLOCK: Final = 256
"""How many records are packed at once."""

_SHARDS: Final = 64
"""A power of two. One dict of 100,000 is rebuilt every now and then, for 10 MB and 10 ms."""

_ID_BYTES: Final = 16
_DOUBLE: Final = struct.Struct("d")
_COMPLETED: Final = TaskStatus.COMPLETED


class MemoryStore:
    """Keeps records in the order in which they ended.

    The latest are kept whole. The others are packed into columns, 256 at a time: what a
    task that simply COMPLETED, as most do, leaves behind then takes about 150 bytes beside
    its result, none of which the garbage collector looks at one by one. Tasks that ended in
    any other way stay whole.

    Cost: everything but `list` is independent of how many records are kept; `remove`
    grows with what it removes.

    Guarantees: a record is found from `put` on until it is removed.
    Without the GIL: `put` relies on dict operations being atomic, which they are there,
    and on a dict's first items being read in one step, for which a lock would be needed.
    """

    def __init__(self) -> None:
        # Guards the blocks, and who packs or removes; `put` does without.
        self._lock = threading.Lock()
        self._latest: dict[str, TaskRecord] = {}
        self._blocks: deque[_Block] = deque()
        # By the hash of the id, which takes a quarter of the id's memory.
        self._index: tuple[dict[int, _Block], ...] = tuple({} for _ in range(_SHARDS))
        # By id: those whose hash was taken, one in 10^19 pairs.
        self._clashing: dict[str, _Block] = {}

    def __len__(self) -> int:
        with self._lock:
            return self._count()

    def put(self, record: TaskRecord) -> None:
        """Keep a record that has just become final."""
        latest = self._latest
        latest[record.task_id] = record
        if len(latest) >= 2 * _BLOCK:
            self._pack()

    def get(self, task_id: str) -> TaskRecord | None:
        """Return the record of a finished task, or None if it is not kept here."""
        record = self._latest.get(task_id)
        if record is not None:
            return record
        key = hash(task_id)
        block = self._index[key % _SHARDS].get(key)
        found = None if block is None else block.find(task_id)
        if found is None and task_id in self._clashing:
            found = self._clashing[task_id].find(task_id)
        return found

    def list(self, status: TaskStatus | None = None) -> list[TaskRecord]:
        """Return the kept records in the order in which they ended, as a snapshot."""
        with self._lock:
            records = [record for block in self._blocks for record in block.records()]
            records += list(self._latest.values())
        return [record for record in records if status is None or record.status is status]

    def remove(
        self,
        *,
        ended_before: float | None = None,
        keep: int | None = None,
        completed: bool = True,
    ) -> tuple[int, Sequence[TaskRecord]]:
        """Remove the oldest records; see `protocols.TaskStore`."""
        bound = -math.inf if ended_before is None else ended_before
        removed = 0
        told: list[TaskRecord] = []
        with self._lock:
            surplus = 0 if keep is None else self._count() - keep
            while self._blocks:
                block = self._blocks[0]
                many = block.ended_by(bound, surplus - removed)
                removed += many
                told += block.pop_oldest(many, self._unindex, completed=completed)
                if len(block):
                    return removed, told
                self._blocks.popleft()
            for record in list(self._latest.values()):
                if removed >= surplus and (record.ended is None or record.ended > bound):
                    break
                del self._latest[record.task_id]
                removed += 1
                if completed or record.status is not _COMPLETED:
                    told.append(record)
        return removed, told

    def _count(self) -> int:
        blocks = self._blocks
        # All but the oldest are full.
        packed = len(blocks[0]) + _BLOCK * (len(blocks) - 1) if blocks else 0
        return packed + len(self._latest)

    def _pack(self) -> None:
        """Pack the older half of the latest records."""
        with self._lock:
            latest = self._latest
            if len(latest) < 2 * _BLOCK:  # another thread was quicker
                return
            records = list(islice(latest.values(), _BLOCK))
            ids = [record.task_id for record in records]
            block = _Block(ids, records)
            self._blocks.append(block)
            # Indexed first and then dropped, so that each can be found at any moment.
            for key, task_id in zip(block.keys, ids, strict=True):
                shard = self._index[key % _SHARDS]
                if key in shard:
                    self._clashing[task_id] = block
                else:
                    shard[key] = block
            for task_id in ids:
                del latest[task_id]

    def _unindex(self, block: _Block, place: int) -> None:
        key = block.keys[place]
        if self._clashing and self._clashing.pop(block.task_id(place), None) is not None:
            return
        del self._index[key % _SHARDS][key]


class _Block:
    """Finished tasks in the order in which they ended, as columns.

    What does not fit into the columns is kept whole, by its place.

    Attributes:
        keys: The hashes of the ids.
    """

    __slots__ = (
        "_attempts",
        "_first",
        "_ids",
        "_labels",
        "_results",
        "_stamps",
        "_whole",
        "keys",
    )

    def __init__(self, ids: list[str], records: list[TaskRecord]) -> None:
        self._first = 0
        self._whole = {
            place: record
            for place, record in enumerate(records)
            if record.status is not _COMPLETED or record.rest
        }
        self._ids = _packed_ids(ids)
        self.keys = array("q", list(map(hash, ids)))
        self._results = [record.result for record in records]
        self._labels = [record.label for record in records]
        # Tasks that were begun more than once are rare, and then few of a block.
        attempts = [record.attempts for record in records]
        self._attempts = None if attempts.count(1) == len(attempts) else attempts
        self._stamps = struct.pack(
            f"{4 * len(records)}d",
            *[record.created_at for record in records],
            *[record.created for record in records],
            *[record.started or 0.0 for record in records],
            *[record.ended or 0.0 for record in records],
        )

    def __len__(self) -> int:
        return len(self._labels) - self._first

    def find(self, task_id: str) -> TaskRecord | None:
        """Return the record with this id, or None if it is not here, or not any more."""
        place = _place(self._ids, task_id)
        if place is None or place < self._first:
            return None
        return self._record(place)

    def records(self) -> list[TaskRecord]:
        """Return all records."""
        return [self._record(place) for place in range(self._first, len(self._labels))]

    def task_id(self, place: int) -> str:
        """Return the id at *place*."""
        ids = self._ids
        if isinstance(ids, bytes):
            return TaskId(ids[_ID_BYTES * place : _ID_BYTES * (place + 1)].hex())
        return ids[place]

    def ended_by(self, bound: float, at_least: int) -> int:
        """Return how many of the oldest ended by *bound*, and at least so many."""
        size = len(self._labels)
        place = min(self._first + max(at_least, 0), size)
        while place < size and self._ended(place) <= bound:
            place += 1
        return place - self._first

    def pop_oldest(
        self, many: int, unindex: Callable[[_Block, int], None], *, completed: bool
    ) -> list[TaskRecord]:
        """Remove the oldest *many* and return them; without *completed* only the others."""
        places = range(self._first, self._first + many)
        told = [self._record(place) for place in places if completed or place in self._whole]
        for place in places:
            unindex(self, place)
            self._results[place] = None
            self._whole.pop(place, None)
        self._first += many
        return told

    def _ended(self, place: int) -> float:
        whole = self._whole.get(place)
        return self._stamp(3, place) if whole is None else whole.ended or 0.0

    def _stamp(self, column: int, place: int) -> float:
        stamp: float
        (stamp,) = _DOUBLE.unpack_from(
            self._stamps, _DOUBLE.size * (column * len(self._labels) + place)
        )
        return stamp

    def _record(self, place: int) -> TaskRecord:
        whole = self._whole.get(place)
        if whole is not None:
            return whole
        record = TaskRecord()
        record.task_id = self.task_id(place)
        record.label = self._labels[place]
        record.status = _COMPLETED
        record.created_at, record.created = self._stamp(0, place), self._stamp(1, place)
        record.started, record.ended = self._stamp(2, place), self._stamp(3, place)
        record.queued = record.created
        record.attempts = 1 if self._attempts is None else self._attempts[place]
        record.result = self._results[place]
        record.code = record.rest = None
        record.instruction = 0
        return record


def _packed_ids(ids: list[str]) -> bytes | list[str]:
    """Return random ids, which are 32 hexadecimal digits, as 16 bytes each; others as they are."""
    digits = "".join(ids)
    if len(digits) == 2 * _ID_BYTES * len(ids):
        try:
            packed = bytes.fromhex(digits)
        except ValueError:
            return ids
        # Capital letters and blanks are read as well, and would not be given back.
        if packed.hex() == digits and set(map(len, ids)) == {2 * _ID_BYTES}:
            return packed
    return ids


def _place(ids: bytes | list[str], task_id: str) -> int | None:
    """Return where *task_id* is among packed *ids*; None if it is not."""
    if not isinstance(ids, bytes):
        return ids.index(task_id) if task_id in ids else None
    try:
        sought = bytes.fromhex(task_id)
    except ValueError:
        return None
    if len(sought) != _ID_BYTES or sought.hex() != task_id:
        return None
    at = ids.find(sought)
    while at > 0 and at % _ID_BYTES:
        at = ids.find(sought, at + 1)
    return None if at < 0 else at // _ID_BYTES
