"""What waits to be written, and who waits until it is.

Guarantees: a record that changes while it is being written is written once more; whoever
waits is told once. Putting something in takes about half a microsecond.
Lock order: its lock is innermost, and held for a few steps without a call.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final, TypeAlias

from framework._tasks.records import TaskRecord, TaskStatus
from framework._threads.clock import SystemClock
from framework.exceptions import StoreUnavailableError

_LOGGER = logging.getLogger("asyncframe")
_PENDING: Final = TaskStatus.PENDING
_RUNNING: Final = TaskStatus.RUNNING

CAPACITY: Final = 100_000
"""How many records may wait before new tasks are refused."""

SECURE_PATIENCE: Final = 5.0
"""Seconds after which those who wait for a record to be safe are told that it is not."""

Told: TypeAlias = Callable[[BaseException | None], None]


class _Waiter:
    """One who waits until a record is safe; told once, by whoever comes first."""

    __slots__ = ("_lock", "_told", "deadline")

    def __init__(self, told: Told, deadline: float) -> None:
        self._lock = threading.Lock()
        self._told: Told | None = told
        self.deadline = deadline

    @property
    def waits(self) -> bool:
        """Whether it has not been told."""
        return self._told is not None

    def tell(self, error: BaseException | None) -> None:
        """Say that the record is safe, or why not."""
        with self._lock:
            told, self._told = self._told, None
        if told is None:
            return
        try:
            told(error)
        except Exception:  # a guest on the store's thread
            _LOGGER.exception("a callback for a stored record raised an error")


class Backlog:
    """Records that wait to be written by one thread.

    Args:
        clock: For how long one may wait.
        capacity: How many records may wait before new tasks are refused, from 1 on.

    Attributes:
        live: This process's tasks that are not final, as far as the store was told.
        fault: What the database said last; "" while all is well.
    """

    def __init__(self, clock: SystemClock, capacity: int = CAPACITY) -> None:
        self._clock = clock
        self._capacity = capacity
        self._lock = threading.Lock()
        self._dirty: dict[str, TaskRecord] = {}
        # What the writer has taken and not written yet; its thread alone changes it.
        self._taken: dict[str, TaskRecord] = {}
        # What the database does not take while it takes others; the writer's as well.
        self._aside: dict[str, tuple[TaskRecord, BaseException]] = {}
        self._waiters: dict[str, list[_Waiter]] = {}
        self._taken_waiters: dict[str, list[_Waiter]] = {}
        self._deadlines: deque[_Waiter] = deque()
        self._timed = False
        self._wake = threading.Event()
        self._idle = True
        self.live: dict[str, TaskRecord] = {}
        self.fault = ""

    def __len__(self) -> int:
        return len(self._dirty) + len(self._taken) + len(self._aside)

    # -- any thread

    def note(self, record: TaskRecord) -> None:
        """Take in that a record is new or has changed.

        Raises:
            StoreUnavailableError: If it is new and too many wait to be written.
            ValueError: If it is new and its id cannot be kept by every database.
        """
        task_id = record.task_id
        with self._lock:
            # 1 it ends, 2 its end is put in, 3 somebody notes an earlier change: then it is
            # not live any more.
            if task_id not in self.live and (
                record.status is _PENDING or record.status is _RUNNING
            ):
                if "\0" in task_id:
                    raise ValueError(
                        "task_id must not contain NUL, which databases cannot store, not "
                        f"{task_id!r}"
                    )
                # What was set aside is not looked at: it is little, and this is done often.
                if len(self._dirty) + len(self._taken) >= self._capacity:
                    raise self._full()
                self.live[task_id] = record
            self._dirty[task_id] = record
        if self._idle:
            self._wake.set()

    def put(self, record: TaskRecord) -> None:
        """Take in that a record has become final."""
        task_id = record.task_id
        with self._lock:
            self.live.pop(task_id, None)
            self._dirty[task_id] = record
        if self._idle:
            self._wake.set()

    def secure(self, record: TaskRecord, told: Told) -> None:
        """Have *told* called once the record as it is now is written, or cannot be."""
        waiter = _Waiter(told, self._clock.monotonic() + SECURE_PATIENCE)
        with self._lock:
            self._waiters.setdefault(record.task_id, []).append(waiter)
            self._dirty[record.task_id] = record
            self._deadlines.append(waiter)
            timed, self._timed = self._timed, True
        if not timed:
            self._clock.call_at(waiter.deadline, self._expire, background=True)
        if self._idle:
            self._wake.set()

    def wake(self) -> None:
        """Have the writer look at once."""
        self._wake.set()

    def _full(self) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"{self._capacity:,} task records wait to be written to the store and no more "
            f"may: {self.fault or 'it is too slow'}; submit again later, or answer 503"
        )

    def _expire(self) -> None:
        """Tell those who have waited too long, and come back for the next; a timer."""
        now, late = self._clock.monotonic(), []
        with self._lock:
            while self._deadlines:
                first = self._deadlines[0]
                if first.waits and first.deadline > now:
                    break
                late.append(self._deadlines.popleft())
            again = self._deadlines[0].deadline if self._deadlines else None
            self._timed = again is not None
        for waiter in late:
            waiter.tell(self.late())
        if again is not None:
            self._clock.call_at(again, self._expire, background=True)

    def late(self) -> StoreUnavailableError:
        """Return what those are told who have waited in vain."""
        return StoreUnavailableError(
            f"the store has not written the task within {SECURE_PATIENCE:g} s: "
            f"{self.fault or 'it is too slow'}; it goes on trying"
        )

    # -- the writer's thread

    def sleep(self, seconds: float) -> bool:
        """Sleep until something is put in, for at most *seconds*; return whether it is."""
        self._idle = True
        # After that, so that what is put in now is either seen here or wakes.
        woken = self.waits or self._wake.wait(seconds)
        self._idle = False
        self._wake.clear()
        return woken

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits until something is safe."""
        return bool(self._waiters or self._taken_waiters)

    def take(self, most: int) -> list[TaskRecord]:
        """Return the next records to write, those longest here first, until `written`."""
        if not self._taken:
            with self._lock:
                self._taken, self._dirty = self._dirty, {}
                self._taken_waiters, self._waiters = self._waiters, {}
            for task_id in self._aside.keys() & self._taken.keys():
                self.set_aside(self._taken[task_id], self._aside[task_id][1])
        return list(islice(self._taken.values(), most))

    def written(self, records: Iterable[TaskRecord], error: BaseException | None = None) -> None:
        """Forget records that are safe, or, with an *error*, never will be; tell who waits."""
        for record in records:
            self._taken.pop(record.task_id, None)
            for waiter in self._taken_waiters.pop(record.task_id, ()):
                waiter.tell(error)

    def postpone(self, record: TaskRecord) -> None:
        """Have a record that was taken written after all others that wait."""
        task_id = record.task_id
        with self._lock:
            self._dirty.setdefault(task_id, record)
            waiters = self._taken_waiters.pop(task_id, [])
            if waiters:
                self._waiters[task_id] = waiters + self._waiters.get(task_id, [])
            del self._taken[task_id]

    def set_aside(self, record: TaskRecord, error: BaseException) -> None:
        """Keep a record that was taken apart from the others; tell who waits for it."""
        self._aside[record.task_id] = record, error
        self.written([record], error)

    @property
    def aside(self) -> list[TaskRecord]:
        """What was set aside and is not safe, those first that were tried longest ago."""
        return [record for record, _ in self._aside.values()]

    def tried(self, record: TaskRecord, *, again: bool) -> None:
        """Forget a record that was set aside, or try it *again* after the others."""
        kept = self._aside.pop(record.task_id)
        if again:
            self._aside[record.task_id] = kept

    @property
    def waits(self) -> bool:
        """Whether something waits to be written that was not set aside."""
        return bool(self._dirty or self._taken)

    def close(self) -> None:
        """Tell all who still wait that it is too late."""
        with self._lock:
            left = list(self._deadlines)
            self._deadlines.clear()
        for waiter in left:
            waiter.tell(self.late())
