"""The tasks of all processes in memory, so that nobody waits for the database.

Of many finished tasks it holds the latest; of the others it knows when and how they ended.

Guarantees: a task is counted here from the moment it ends in this process, or is read from
the database, until it is removed; a final status stays, unless the database had another one
first. What is not written yet is held here.
Lock order: `_keeping`, under which a finished task is added only once, moved or removed, and
the memory store takes its own lock; then `_lock`, for the counts and the others' live tasks.
"""

from __future__ import annotations

import math
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from framework._records.pages import wall_end
from framework._records.records import TaskRecord, is_unseen
from framework._records.statuses import FAILURES, FINAL, TaskStatus
from framework.protocols import Clock
from framework.stores.memory import MemoryStore
from framework.stores.sql._backlog import Backlog
from framework.stores.sql._dialects.dialect import TICKS
from framework.stores.sql._tables.rows import TaskRow, Written, readable, record_of
from framework.stores.sql._tables.statements import just_before

_COMPLETED = TaskStatus.COMPLETED

STATUSES: Final = tuple(sorted(FINAL))
"""The final statuses; the place of one here is its code."""

_CODE_OF: Final = {status: code for code, status in enumerate(STATUSES)}
_BITS: Final = 3
"""The bits of a mark that are the code; the others are the ticks."""

CODES: Final = 2**_BITS
"""What a mark's ticks are multiplied by."""

_SAME: Final = 1e-3
"""By how many seconds the ends of one task may differ: the database rounds them."""

HELD: Final = 10_000
"""How many finished tasks are held in memory: a few megabytes, and the tasks of the last minutes,
which are asked for most. The database is asked for the others."""

_SLACK: Final = 1_024
"""By how many they may be more before the oldest are moved."""

_MOVED: Final = 256
"""How many are moved at once, which takes half a millisecond."""


HELD_FREE: Final = 2_000
"""How many free tasks are held in memory at most. The database is asked for those that are not."""


class Older:
    """When and how the tasks ended that only the database holds, the oldest first.

    That is nine bytes for each. It is enough to count tasks, and to know at once how many of them
    a clean-up removes, whoever asks and whatever the database does meanwhile. Not thread-safe.
    """

    def __init__(self) -> None:
        self._ends = array("d")
        self._codes = bytearray()
        # The place of the oldest. Those before it were dropped: to take them out costs as much
        # as there are tasks behind them, so that is done when they are half of all.
        self._begin = 0

    def __len__(self) -> int:
        return len(self._ends) - self._begin

    def add(self, ended_at: float, status: TaskStatus) -> None:
        """Add a task that ended at a wall second."""
        stamp, code = _exact(ended_at), _CODE_OF[status]
        ends = self._ends
        if not len(self) or stamp >= ends[-1]:
            ends.append(stamp)
            self._codes.append(code)
            return
        place = bisect_right(ends, stamp, self._begin)
        ends.insert(place, stamp)
        self._codes.insert(place, code)

    def remove(self, ended_at: float, status: TaskStatus) -> None:
        """Take out a task that was added with this end and status."""
        stamp, code = _exact(ended_at), _CODE_OF[status]
        place = bisect_left(self._ends, stamp, self._begin)
        while self._codes[place] != code:
            place += 1
        del self._ends[place], self._codes[place]

    def extend(self, marks: Iterable[int]) -> None:
        """Add tasks that ended later than all others.

        Args:
            marks: For each its ticks times `CODES`, plus the code of its status; in order.
        """
        marks = list(marks)
        self._ends.extend([(mark >> _BITS) / TICKS for mark in marks])
        self._codes.extend([mark & (CODES - 1) for mark in marks])

    def counts(self) -> Counter[TaskStatus]:
        """Return how many ended in each status."""
        return _counts(self._codes[self._begin :])

    @property
    def first(self) -> float | None:
        """The wall second at which the oldest ended; None if there is none."""
        return self._ends[self._begin] if len(self) else None

    @property
    def last(self) -> float | None:
        """The wall second at which the last one ended; None if there is none."""
        return self._ends[-1] if len(self) else None

    def has(self, ended_at: float) -> bool:
        """Return whether a task ended at this very moment, give or take a tick."""
        # Databases read the number from a text, and some are a tick off.
        place = bisect_left(self._ends, ended_at - 2 / TICKS, self._begin)
        return place < len(self._ends) and self._ends[place] <= ended_at + 1 / TICKS

    def bound(self, ended_by: float, at_least: int) -> float:
        """Return up to which wall second to drop: *ended_by*, or later for *at_least* tasks.

        Tasks that ended at the same moment are dropped together.
        """
        if at_least <= 0 or not len(self):
            return ended_by
        return max(ended_by, self._ends[self._begin + min(at_least, len(self)) - 1])

    def drop(self, bound: float) -> Counter[TaskStatus]:
        """Drop the tasks that ended by wall second *bound*; return how many of each status."""
        end = bisect_right(self._ends, bound, self._begin)
        gone = _counts(self._codes[self._begin : end])
        self._begin = end
        if 2 * end >= len(self._ends):
            del self._ends[:end], self._codes[:end]
            self._begin = 0
        return gone


def _exact(stamp: float) -> float:
    return math.floor(stamp * TICKS) / TICKS


def _counts(codes: bytearray) -> Counter[TaskStatus]:
    return Counter({status: codes.count(code) for status, code in _CODE_OF.items()})


class Mirror:
    """Finished tasks of all processes, and the live ones of the others.

    Args:
        clock: The framework's: records have its monotonic stamps.
        backlog: Knows which live tasks are this process's own, and what waits to be written.
        held_free: How many free tasks are held at most.

    Attributes:
        held: How many finished tasks are held whole.
        held_free: Like the argument.
        asked: A number that changes when somebody has asked for lists or counters.
    """

    def __init__(self, clock: Clock, backlog: Backlog, held_free: int = HELD_FREE) -> None:
        self._clock = clock
        self._backlog = backlog
        self.held = HELD
        self.held_free = held_free
        self.asked = 0
        self._finished = MemoryStore()
        self._older = Older()
        # Of the older ones: those that wait to be written, failures that nobody knows of, and
        # those whose rows will change once more, when their bodies let go of them.
        self._pinned: dict[str, TaskRecord] = {}
        # Of the older ones only their wall seconds are known. If the wall clock jumps, they are
        # removed later, and never too early: see `remove`.
        self._first_offset = self.offset
        # Of the older ones that ended by this wall second, rows may be read again.
        self._again_by = -math.inf
        self._moving = False
        self._others: dict[str, TaskRecord] = {}
        # Free tasks, and how many more there are, as far as is known: see `see_free`.
        self._free: dict[str, TaskRecord] = {}
        self._unheld = 0
        self._counts: Counter[TaskStatus] = Counter()
        self._lock = threading.Lock()
        self._keeping = threading.Lock()

    @property
    def offset(self) -> float:
        """Wall clock minus monotonic clock, in seconds."""
        return self._clock.time() - self._clock.monotonic()

    # -- any thread

    def put(self, record: TaskRecord) -> None:
        """Add a task that has become final in this process."""
        self._finished.put(record)
        status = record.status
        with self._lock:
            self._counts[status] += 1
        if self._others or self._free:
            self.forget(record.task_id)

    def get(self, task_id: str) -> TaskRecord | None:
        """Return a finished task's record, or None if it is not held here."""
        record = self._finished.get(task_id) or self._pinned.get(task_id)
        return None if record is None else readable(record)

    @property
    def is_whole(self) -> bool:
        """Whether all tasks are held here, and the database has no others."""
        return not self._older and self.holds_free

    @property
    def holds_free(self) -> bool:
        """Whether all free tasks are held here."""
        return not self._unheld

    def records(self, status: TaskStatus | None = None) -> list[TaskRecord]:
        """Return held finished tasks in the order of their end, then the others' live ones."""
        return self.ended(status) + self.others(status)

    def ended(self, status: TaskStatus | None = None) -> list[TaskRecord]:
        """Return held finished tasks in the order of their end."""
        with self._keeping:
            pinned = list(self._pinned.values())
            found = self._finished.list(status)
        older = [one for one in pinned if status is None or one.status is status]
        return [readable(one) for one in [*older, *found]]

    def others(self, status: TaskStatus | None = None, *, free: bool = True) -> list[TaskRecord]:
        """Return the live tasks of other processes, and with *free* those held of none."""
        self.asked += 1
        with self._lock:
            others = list(self._others.values())
            if free and (status is None or status is TaskStatus.PENDING):
                others += self._free.values()
        return [one for one in others if status is None or one.status is status]

    def has_other(self, task_id: str) -> bool:
        """Return whether a held live task of another process, or of none, has this id."""
        return task_id in self._others or task_id in self._free

    def unread(self) -> list[TaskRecord]:
        """Return the failures of this process that nobody has read, and that were not logged."""
        with self._keeping:
            found = list(self._pinned.values())
            # By status, since most tasks have completed and would be unpacked in vain.
            found += [one for status in FAILURES for one in self._finished.list(status)]
        return [record for record in found if is_unseen(record)]

    def figures(self) -> dict[str, int]:
        """Return the number of tasks of each status."""
        self.asked += 1
        with self._lock:
            counts = self._counts.copy()
            counts[TaskStatus.PENDING] += len(self._free) + self._unheld
        return {status.value: counts[status] for status in TaskStatus}

    def remove(
        self, *, ended_before: float | None, keep: int | None, completed: bool
    ) -> tuple[int, Sequence[TaskRecord], float | None]:
        """Remove the oldest tasks; see `protocols.TaskStore`.

        Returns:
            Their number, the records, and the wall second up to which other processes must
            remove theirs; None for nothing.
        """
        now, offset = self._clock.time(), self.offset
        with self._keeping:
            # The clock of the machine where they ended may be ahead of this one's.
            now = max(now, self._older.last or 0.0)
            surplus = 0 if keep is None else len(self._older) + len(self._finished) - keep
            wall = 0.0
            if ended_before is not None:
                wall = ended_before + min(self._first_offset, offset)
            removed, told = self._drop(
                ended_before=ended_before,
                keep=keep,
                completed=completed,
                older_by=self._older.bound(wall, surplus),
            )
            oldest = self._oldest()
        if not removed:
            return 0, told, None
        # By the stamps of what is left, so that a wall clock that has jumped removes no
        # more elsewhere than it does here.
        bound = now if oldest is None else just_before(oldest)
        if ended_before is not None and keep is None:
            bound = min(bound, ended_before + offset)
        return removed, [readable(record) for record in told], bound

    def _oldest(self) -> float | None:
        """Return the wall second at which the task ended that would be removed first."""
        older, held = self._older.first, self._finished.oldest()
        stamps = [older] if older is not None else []
        return min(stamps if held is None else [*stamps, wall_end(held)], default=None)

    # -- the store's own thread

    def drop_by(self, bound: float) -> None:
        """Remove what another process has removed: all that ended by wall second *bound*."""
        with self._keeping:
            self._drop(ended_before=bound - self.offset, keep=None, completed=False, older_by=bound)

    def add_older(self, older: Older) -> None:
        """Count tasks that only the database holds; called once, before all else."""
        with self._lock:
            self._older = older
            self._counts.update(older.counts())
        # What changes while they are counted is read again.
        self.expect_again()

    def expect_again(self) -> None:
        """Prepare for rows of older tasks that are counted already."""
        with self._keeping:
            self._again_by = max(self._again_by, self._older.last or -math.inf)

    def move(self) -> bool:
        """Let go of the oldest tasks if there are too many; return whether some are left.

        Failures that nobody has read or logged are kept: their own process logs them in the end.
        """
        if len(self._finished) <= self.held + _SLACK and not self._moving:
            return False
        with self._keeping:
            left = max(self.held, len(self._finished) - _MOVED)
            _, moved = self._finished.remove(keep=left)
            for record in moved:
                self._older.add(wall_end(record), record.status)
                if self._must_stay(record):
                    self._pinned[record.task_id] = record
            self._moving = left > self.held
        if not self._moving:
            self._unpin()
        return self._moving

    def _must_stay(self, record: TaskRecord) -> bool:
        return self._backlog.holds(record.task_id) or is_unseen(record) or record.still_running

    def _unpin(self) -> None:
        """Let go of older tasks that no longer have to stay."""
        with self._keeping:
            for task_id, record in list(self._pinned.items()):
                if not self._must_stay(record):
                    del self._pinned[task_id]

    def add(self, rows: Iterable[TaskRow]) -> None:
        """Add rows that other processes have written."""
        offset = self.offset
        final: list[tuple[TaskRecord, float]] = []
        for row in rows:
            if row.task_id in self._backlog.live:
                continue
            if row.ended_at is not None:
                final.append((record_of(row, offset), row.ended_at))
            elif self._finished.get(row.task_id) is None:
                self._add_live(row, offset)
        self._keep(final)

    def set_free(self, rows: Iterable[Written], version: int) -> None:
        """Add rows that this process has just set free with *version*.

        They are read as if others had written them, and not at all if they are only counted.
        """
        self.add(
            row.as_read(version)
            for row in rows
            if row.ended_at is not None
            or row.task_id in self._backlog.live
            or not self._is_only_counted(row.task_id)
        )

    def _is_only_counted(self, task_id: str) -> bool:
        """Only count a free task if enough are held already; return whether that is so."""
        if task_id in self._free or len(self._free) < self.held_free:
            return False
        self.forget(task_id)
        with self._lock:
            self._unheld += 1
        return True

    def _add_live(self, row: TaskRow, offset: float) -> None:
        task_id, is_free = row.task_id, not row.process
        if is_free and self._is_only_counted(task_id):
            return
        record = record_of(row, offset)
        with self._lock:
            self._count_other(task_id, -1)
            here, there = (self._free, self._others) if is_free else (self._others, self._free)
            there.pop(task_id, None)
            here[task_id] = record
            self._count_other(task_id, 1)

    def see_free(self, many: int) -> None:
        """Note how many tasks are free, once all is added that was read with that number."""
        with self._lock:
            self._unheld = max(0, many - len(self._free))

    def take(self, task_id: str) -> None:
        """Drop a task that was free, which belongs to this process from now on."""
        with self._lock:
            # The last one that is not held stays, until the next look tells that there is none.
            if self._unheld > 1 and not self.has_other(task_id):
                self._unheld -= 1
            self._forget(task_id)

    def _keep(self, final: Iterable[tuple[TaskRecord, float]]) -> list[TaskRecord]:
        """Add final records of the database once; return the records that are kept.

        One that differs from what is held counts more: this process was given up, perhaps while
        it stood still, and somebody else has ended the task before its own end was written.

        Args:
            final: Each with the wall second of its row at which it ended.
        """
        kept, new = [], []
        with self._keeping:
            for record, ended_at in final:
                task_id = record.task_id
                known = self._finished.get(task_id) or self._pinned.get(task_id)
                counted = ended_at <= self._again_by and self._older.has(ended_at)
                if known is None and not counted:
                    self._finished.put(record)
                    new.append(record)
                elif known is not None and _differs(known, record):
                    self._replace(known, record)
                    known = record
                kept.append(known or record)
        with self._lock:
            for record in new:
                self._counts[record.status] += 1
                self._forget(record.task_id)
        return kept

    def _replace(self, known: TaskRecord, record: TaskRecord) -> None:
        """Keep what the database says of a task that has ended otherwise here; `_keeping` held."""
        if known.task_id in self._pinned:
            self._older.remove(wall_end(known), known.status)
            self._older.add(wall_end(record), record.status)
            self._pinned[known.task_id] = record
        else:
            self._finished.replace(record)
        with self._lock:
            self._counts[known.status] -= 1
            self._counts[record.status] += 1

    def forget(self, task_id: str) -> None:
        """Drop another process's live task, which has ended or now belongs to this process."""
        with self._lock:
            self._forget(task_id)

    def _forget(self, task_id: str) -> None:
        self._count_other(task_id, -1)
        self._others.pop(task_id, None)
        self._free.pop(task_id, None)

    def read(self, rows: Iterable[TaskRow]) -> list[TaskRecord]:
        """Return the records of rows that were just read; any thread.

        Final ones are added, so that lists agree with this answer from now on.
        """
        offset = self.offset
        found = []
        for row in rows:
            record = record_of(row, offset)
            if row.ended_at is not None and record.task_id not in self._backlog.live:
                (record,) = self._keep([(record, row.ended_at)])
            found.append(readable(record))
        return found

    def read_only(self, rows: Iterable[TaskRow]) -> list[TaskRecord]:
        """Return the records of rows, and add none of them; any thread.

        For a task that is held here, its own record, which knows whether its error was read.
        """
        offset = self.offset
        return [self.get(row.task_id) or readable(record_of(row, offset)) for row in rows]

    def _count_other(self, task_id: str, by: int) -> None:
        record = self._others.get(task_id)
        if record is not None:
            self._counts[record.status] += by

    def _drop(
        self, *, ended_before: float | None, keep: int | None, completed: bool, older_by: float
    ) -> tuple[int, Sequence[TaskRecord]]:
        """Remove tasks, of `_older` those that ended by wall second *older_by*; `_keeping` held."""
        removed, told = self._finished.remove(
            ended_before=ended_before, keep=keep, completed=completed
        )
        gone = Counter(record.status for record in told)
        if not completed:
            gone[_COMPLETED] = removed - (gone.total() - gone[_COMPLETED])
        dropped = self._older.drop(older_by)
        if dropped.total():
            pinned = [one for one in self._pinned.values() if wall_end(one) <= older_by]
            for record in pinned:
                del self._pinned[record.task_id]
            told = [*pinned, *told]
            removed += dropped.total()
            gone += dropped
        if removed:
            with self._lock:
                self._counts.subtract(gone)
        return removed, told


def _differs(known: TaskRecord, record: TaskRecord) -> bool:
    """Return whether two final records of a task tell of two ends."""
    if known.status is not record.status:
        return True
    return abs(wall_end(known) - wall_end(record)) > _SAME
