"""The tasks of all processes in memory, so that nobody waits for the database.

Guarantees: a task is known here from the moment it ends in this process, or is read from
the database, until it is removed; a final status stays.
Lock order: `_keeping`, under which a task of another process is added only once, and the
memory store takes its own lock; then `_lock`, for the counts and the others' live tasks.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from framework._tasks.records import TaskRecord, TaskStatus
from framework.protocols import Clock
from framework.stores.memory import MemoryStore
from framework.stores.sql._rows import Reader, readable
from framework.stores.sql._statements import Row, just_before

_COMPLETED = TaskStatus.COMPLETED


class Mirror:
    """Finished tasks of all processes, and the live ones of the others.

    Args:
        clock: The framework's: records have its monotonic stamps.
        is_own: Whether a task is one of this process's own live ones.
    """

    def __init__(self, clock: Clock, is_own: Callable[[str], bool]) -> None:
        self._clock = clock
        self._is_own = is_own
        self._reader = Reader()
        self._finished = MemoryStore()
        self._others: dict[str, TaskRecord] = {}
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
        if self._others:
            self.forget(record.task_id)

    def get(self, task_id: str) -> TaskRecord | None:
        """Return a finished task's record, or None if it is unknown or live."""
        record = self._finished.get(task_id)
        return None if record is None else readable(record)

    def records(self, status: TaskStatus | None = None) -> list[TaskRecord]:
        """Return finished tasks in the order of their end, then the others' live ones."""
        found = [readable(record) for record in self._finished.list(status)]
        with self._lock:
            others = list(self._others.values())
        return found + [one for one in others if status is None or one.status is status]

    def figures(self) -> dict[str, int]:
        """Return the number of tasks of each status."""
        with self._lock:
            counts = self._counts.copy()
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
        removed, told = self._drop(ended_before=ended_before, keep=keep, completed=completed)
        if not removed:
            return 0, told, None
        oldest = self._finished.oldest()
        # By the stamps of what is left, so that a wall clock that has jumped removes no
        # more elsewhere than it does here.
        bound = now if oldest is None else just_before(_wall_end(oldest))
        if ended_before is not None and keep is None:
            bound = min(bound, ended_before + offset)
        return removed, [readable(record) for record in told], bound

    # -- the store's own thread

    def follow(self, bound: float) -> None:
        """Remove what another process has removed: all that ended by wall second *bound*."""
        self._drop(ended_before=bound - self.offset, keep=None, completed=False)

    def absorb(self, rows: Iterable[Row]) -> None:
        """Add rows that other processes have written."""
        offset = self.offset
        for row in rows:
            task_id: str = row[0]
            if self._is_own(task_id) or self._finished.get(task_id) is not None:
                continue
            record = self._reader.record_of(row, offset)
            if record.status.is_final:
                self._keep(record)
                continue
            with self._lock:
                self._count_other(task_id, -1)
                self._others[task_id] = record
                self._count_other(task_id, 1)

    def _keep(self, record: TaskRecord) -> TaskRecord:
        """Add a final record of another process once; return the record that is kept."""
        task_id = record.task_id
        with self._keeping:
            known = self._finished.get(task_id)
            if known is not None:
                return known
            self._finished.put(record)
        with self._lock:
            self._counts[record.status] += 1
        self.forget(task_id)
        return record

    def forget(self, task_id: str) -> None:
        """Drop another process's live task, which has ended or now belongs to this process."""
        with self._lock:
            self._count_other(task_id, -1)
            self._others.pop(task_id, None)

    def read(self, rows: Iterable[Row]) -> list[TaskRecord]:
        """Return the records of rows that were just read; any thread.

        Final ones are added, so that lists agree with this answer from now on.
        """
        offset = self.offset
        found = []
        for row in rows:
            record = self._reader.record_of(row, offset)
            if record.status.is_final and not self._is_own(record.task_id):
                record = self._keep(record)
            found.append(readable(record))
        return found

    def _count_other(self, task_id: str, by: int) -> None:
        record = self._others.get(task_id)
        if record is not None:
            self._counts[record.status] += by

    def _drop(
        self, *, ended_before: float | None, keep: int | None, completed: bool
    ) -> tuple[int, Sequence[TaskRecord]]:
        removed, told = self._finished.remove(
            ended_before=ended_before, keep=keep, completed=completed
        )
        if removed:
            gone = Counter(record.status for record in told)
            if not completed:
                gone[_COMPLETED] = removed - (gone.total() - gone[_COMPLETED])
            with self._lock:
                self._counts.subtract(gone)
        return removed, told


def _wall_end(record: TaskRecord) -> float:
    assert record.ended is not None
    return record.created_at + (record.ended - record.created)
