"""Records that wait to be written, and the callers that wait until one is safe.

Guarantees: a record that changes while it is being written is written once more; each
caller is answered once; what came `together` is taken together. Adding a record takes about half a
microsecond.
Lock order: its lock is innermost, and held for a few steps without a call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import Final, TypeAlias, TypeVar

from framework._records.checks import id_in_use
from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus
from framework._threads.clock import SystemClock
from framework._threads.loggers import SafeLogger
from framework.exceptions import StoreUnavailableError
from framework.stores.sql._gathering import Gathering

_LOGGER = SafeLogger("asyncframe")
_PENDING: Final = TaskStatus.PENDING
_RUNNING: Final = TaskStatus.RUNNING

CAPACITY: Final = 100_000
"""How many records may wait before new tasks are refused."""

GROUP: Final = 5_000
"""How many records are written in one transaction at most because they came together."""

SECURE_PATIENCE: Final = 5.0
"""Seconds after which a caller that waits for a safe record gets an error instead."""

Told: TypeAlias = Callable[[BaseException | None], None]
Permitted: TypeAlias = Callable[[bool], None]
V = TypeVar("V")


class _Waiter:
    """A caller that waits until a record is safe; answered once, by whoever is first."""

    __slots__ = ("_lock", "_told", "deadline")

    def __init__(self, told: Told, deadline: float) -> None:
        # Nothing fails without it while there is a global lock: threads are not switched while
        # two values are exchanged.
        self._lock = threading.Lock()
        self._told: Told | None = told
        self.deadline = deadline

    @property
    def waits(self) -> bool:
        """Whether it still waits for its answer."""
        return self._told is not None

    def tell(self, error: BaseException | None) -> None:
        """Answer that the record is safe, or with the reason why not."""
        with self._lock:
            told, self._told = self._told, None
        if told is None:
            return
        try:
            told(error)
        except Exception:  # its error must not end the store's thread
            _LOGGER.exception("a callback for a stored record raised an error")


class Backlog:
    """Records that wait to be written by one thread.

    Args:
        clock: Measures how long a caller waits.
        capacity: How many records may wait before new tasks are refused, from 1 on.

    Attributes:
        live: This process's tasks that are not final, as far as the store knows.
        fault: The last message of the failing database; "" while it works.
        errors: How often it has failed.
        gathering: How long the writer waits for more.
        owes: Whether a task has ended that was claimed here, and that is not taken yet.
    """

    def __init__(self, clock: SystemClock, capacity: int = CAPACITY) -> None:
        self._clock = clock
        self._capacity = capacity
        self._lock = threading.Lock()
        self._dirty: dict[str, TaskRecord] = {}
        # What the writer has taken and not written yet; its thread alone changes it.
        self._taken: dict[str, TaskRecord] = {}
        # Records that the database refuses while it accepts others; the writer's thread alone
        # changes it as well.
        self._aside: dict[str, tuple[TaskRecord, BaseException]] = {}
        self._waiters: dict[str, list[_Waiter]] = {}
        self._taken_waiters: dict[str, list[_Waiter]] = {}
        self._deadlines: deque[_Waiter] = deque()
        # The ids of those that come together: still, all, and all of those that were taken.
        self._coming: list[Collection[str]] = []
        self._came: list[Collection[str]] = []
        self._groups: list[Collection[str]] = []
        # Of tasks that may start only once that is written.
        self._starts: dict[str, Permitted] = {}
        # Of those that were claimed here, and have not begun yet, what is noted next.
        self._begin: dict[str, TaskStatus] = {}
        # What other processes find as it is written once this one has ended.
        self._left = set[str]()
        # How often all that waited was taken.
        self._fills = 0
        self._closed = False
        self._timed = False
        self._wake = threading.Event()
        self._idle = True
        self.live: dict[str, TaskRecord] = {}
        self.fault = ""
        self.errors = 0
        self.gathering = Gathering(self.__len__)
        self.owes = False

    def __len__(self) -> int:
        return len(self._dirty) + len(self._taken) + len(self._aside)

    # -- any thread

    def note(self, record: TaskRecord) -> None:
        """Queue a record that is new or has changed.

        Raises:
            StoreUnavailableError: If it is new and too many records wait already.
            ValueError: If it is new and not every database can store its id, or if one with its
                id was given away a moment ago.
        """
        task_id = record.task_id
        with self._lock:
            # 1 it ends, 2 its end is put in, 3 somebody notes an earlier change: then it is
            # not live any more.
            if task_id not in self.live:
                if record.status is _PENDING or record.status is _RUNNING:
                    self._admit(record)
                elif _was_given_away(record):
                    return
            if self._begin and self._has_begun(record):
                return
            self._dirty[task_id] = record
        # Not while some come together: nothing is written before the last of them.
        if self._idle and not self._coming:
            self._wake.set()

    def _admit(self, record: TaskRecord) -> None:
        """Add a live task, with the lock held."""
        task_id = record.task_id
        _require_storable(task_id)
        if self.free(task_id) is not None:
            raise id_in_use(task_id)
        # What was set aside is not looked at: it is little, and this is done often.
        if len(self._dirty) + len(self._taken) >= self._capacity:
            raise _full(self._capacity, self.fault)
        self.live[task_id] = record
        if record.status is _PENDING and _is_claimed(record):
            self._begin[task_id] = _PENDING

    def _has_begun(self, record: TaskRecord) -> bool:
        """Return whether all that is noted of a task is what its claim has stored."""
        expected = self._begin.pop(record.task_id, None)
        if record.status is not expected or record.cancel_requested:
            return False
        if expected is _PENDING:
            # The claim has stored that it runs, which is noted next.
            self._begin[record.task_id] = _RUNNING
        return True

    @contextmanager
    def together(self, task_ids: Collection[str]) -> Iterator[None]:
        """Let what comes meanwhile be written at once; see `protocols.BatchingStore`."""
        with self._lock:
            self._coming.append(task_ids)
        try:
            yield
        finally:
            with self._lock:
                # By identity: two that are still empty are equal.
                self._coming = [one for one in self._coming if one is not task_ids]
                if 1 < len(task_ids) <= GROUP:
                    self._came.append(task_ids)
            self._hurry()

    def put(self, record: TaskRecord) -> None:
        """Queue a record that this process changes no more."""
        task_id = record.task_id
        with self._lock:
            self.live.pop(task_id, None)
            self._begin.pop(task_id, None)
            self._dirty[task_id] = record
            self.owes |= _is_claimed(record)
        self.gathering.ended()
        if self._idle:
            self._wake.set()

    def secure(self, record: TaskRecord, told: Told) -> None:
        """Call *told* once the current state of the record is written, or has failed."""
        waiter = _Waiter(told, self._clock.monotonic() + SECURE_PATIENCE)
        with self._lock:
            self._waiters.setdefault(record.task_id, []).append(waiter)
            if _was_given_away(record):
                # Not in place of the copy that says so.
                self._dirty.setdefault(record.task_id, record)
            else:
                self._dirty[record.task_id] = record
            self._deadlines.append(waiter)
            timed, self._timed = self._timed, True
        if not timed:
            self._clock.call_at(waiter.deadline, self._expire, background=True)
        self._hurry()

    def start(self, record: TaskRecord, told: Permitted) -> None:
        """Queue the start of a task, and call *told* once it is written, or refused."""
        with self._lock:
            # 1 it is given away, 2 it asks for its start: not in place of the copy that says so.
            if not self._closed and not _was_given_away(record):
                self._starts[record.task_id] = told
                self._dirty[record.task_id] = record
                told = _ignore
        told(False)
        self._hurry()

    def release(self, record: TaskRecord) -> None:
        """Queue the copy that sets a task free for any process."""
        self.put(record)
        self.permit(record.task_id, False)

    def leave(self, record: TaskRecord) -> bool:
        """Leave a task as it is written; False if something of it is still to be written."""
        task_id, restart = record.task_id, record.restart
        with self._lock:
            known = task_id in self._dirty or task_id in self._starts or self.holds(task_id)
            if known or restart is None or restart.started is not None or not restart.written:
                return False
            if self.live.pop(task_id, None) is None:
                return False
            self._left.add(task_id)
        return True

    @property
    def has_left(self) -> bool:
        """Whether a task was left as it is written."""
        return bool(self._left)

    def finals(self) -> list[TaskRecord]:
        """Return the finished tasks that wait to be written."""
        with self._lock:
            waiting = [*self._dirty.values(), *self._taken.values()]
        waiting += self.aside
        return [one for one in waiting if one.status.is_final and not _was_given_away(one)]

    def gone(self) -> list[TaskRecord]:
        """Return the tasks that others may run, and that have ended or were given away here.

        The database does not know yet, and takes them for live ones of this process. Those that
        it refuses are not among them.
        """
        with self._lock:
            waiting = [*self._dirty.values(), *self._taken.values()]
            some = [one for one in waiting if one.restart is not None]
            return [one for one in some if one.task_id not in self.live]

    def has(self, task_id: str) -> bool:
        """Return whether a task is live, or is being given away."""
        if task_id in self.live or task_id in self._left:
            return True
        record = self._dirty.get(task_id) or self._taken.get(task_id)
        return record is not None and record.restart is not None and not record.status.is_final

    def free(self, task_id: str) -> TaskRecord | None:
        """Return the copy that waits to be written and sets a task free; None if none does."""
        record = self._dirty.get(task_id) or self._taken.get(task_id)
        restart = None if record is None else record.restart
        return record if restart is not None and restart.state == "free" else None

    def let_write(self, task_ids: Iterable[str]) -> None:
        """Wait until the tasks among some that are set free are written, or cannot be."""
        for record in list(filter(None, map(self.free, task_ids))):
            answered = threading.Event()
            self.secure(record, partial(_set, answered))
            # It is answered in time, whatever the database does.
            answered.wait()

    def wake(self) -> None:
        """Wake the writer, and let it gather no more records: somebody waits."""
        self._wake.set()
        self.gathering.hurry()

    def _hurry(self) -> None:
        self.gathering.hurry()
        if self._idle and not self._coming:
            self._wake.set()

    def _expire(self) -> None:
        """Answer callers that waited too long, and set a timer for the next one."""
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
            waiter.tell(_late(self.fault))
        if again is not None:
            self._clock.call_at(again, self._expire, background=True)

    # -- the writer's thread

    def holds(self, task_id: str) -> bool:
        """Return whether a record of this task waits to be written."""
        return task_id in self._dirty or task_id in self._taken or task_id in self._aside

    def sleep(self, seconds: float) -> bool:
        """Wait for a record, for at most *seconds*; return whether there is one."""
        self._idle = True
        # In this order: a record that is queued meanwhile is either seen here or wakes us.
        woken = (self.waits and not self._coming) or self._wake.wait(seconds)
        self._idle = False
        # Not if the time is over: whoever wakes it just then would be missed.
        if woken:
            self._wake.clear()
        return woken

    @property
    def waiters(self) -> int:
        """For how many records a caller waits."""
        return len(self._waiters) + len(self._taken_waiters) + len(self._starts)

    def starts(self, task_id: str) -> bool:
        """Return whether a task waits for its start to be written."""
        return task_id in self._starts

    def permit(self, task_id: str, permitted: bool) -> None:
        """Answer whether a task may start, if it waits for that."""
        with self._lock:
            told = self._starts.pop(task_id, _ignore)
        told(permitted)

    def refuse_starts(self) -> None:
        """Answer all that wait for their start that they must not."""
        with self._lock:
            starts, self._starts = self._starts, {}
        for told in starts.values():
            told(False)

    def comes(self, task_id: str) -> bool:
        """Return whether a record of this task is to be written, and was not set aside."""
        return task_id not in self._aside and (task_id in self._dirty or task_id in self._taken)

    def take(
        self, most: int, first: Iterable[str] = (), *, divide: bool = False
    ) -> list[TaskRecord]:
        """Return the next records to write, each until `written`.

        Args:
            most: How many at most, without those that came together with the last ones.
            first: The ids of those that come first, if they wait; then the oldest ones.
            divide: Whether what came together may be divided.
        """
        if not self._taken:
            with self._lock:
                coming = self._coming
                # In this order: at any moment others find a record in one of both.
                self._taken, self._dirty = _divided(self._dirty, coming)
                self._taken_waiters, self._waiters = _divided(self._waiters, coming)
                self._groups, self._came = self._came, []
                self.owes = False
            self._fills += 1
            for task_id in self._aside.keys() & self._taken.keys():
                self.set_aside(self._taken[task_id], self._aside[task_id][1])
        # What could not be set free, and is withdrawn by now, must not be free for a moment.
        first = chain(_withdrawn(self._dirty.copy(), self._taken), first)
        chosen = {one: self._taken[one] for one in filter(self._pull, islice(first, most))}
        chosen |= islice(self._taken.items(), most)
        chosen = dict(islice(chosen.items(), most))
        if not divide:
            # Those that fail are taken once more, and again together.
            self._groups = [one for one in self._groups if not self._taken.keys().isdisjoint(one)]
            for group in self._groups:
                if not chosen.keys().isdisjoint(group):
                    chosen |= {one: self._taken[one] for one in group if one in self._taken}
        return list(chosen.values())

    def _pull(self, task_id: str) -> bool:
        """Take a record before its turn; return whether it is taken."""
        with self._lock:
            held = any(task_id in group for group in (*self._coming, *self._came))
            record = None if held or task_id in self._aside else self._dirty.get(task_id)
            if record is not None:
                # In this order: at any moment others find it in one of both.
                self._taken[task_id] = record
                del self._dirty[task_id]
                if task_id in self._waiters:
                    known = self._taken_waiters.get(task_id, [])
                    self._taken_waiters[task_id] = known + self._waiters.pop(task_id)
        return task_id in self._taken

    def mark(self) -> int:
        """Return a number for `is_past` that stands for all records that wait now."""
        return self._fills + bool(self._dirty)

    def is_past(self, mark: int) -> bool:
        """Return whether all that waited at a `mark` was written, set aside or postponed."""
        return self._fills > mark or (self._fills == mark and not self._taken)

    def written(self, records: Iterable[TaskRecord], error: BaseException | None = None) -> None:
        """Drop records that are safe, or lost with *error*, and answer their callers."""
        for record in records:
            self._taken.pop(record.task_id, None)
            for waiter in self._taken_waiters.pop(record.task_id, ()):
                waiter.tell(error)

    def postpone(self, record: TaskRecord) -> None:
        """Move a taken record behind all others that wait."""
        task_id = record.task_id
        with self._lock:
            self._dirty.setdefault(task_id, record)
            waiters = self._taken_waiters.pop(task_id, [])
            if waiters:
                self._waiters[task_id] = waiters + self._waiters.get(task_id, [])
            del self._taken[task_id]

    def set_aside(self, record: TaskRecord, error: BaseException) -> None:
        """Set a taken record aside from the others, and answer its callers with *error*."""
        self._aside[record.task_id] = record, error
        self.written([record], error)

    @property
    def aside(self) -> list[TaskRecord]:
        """The records that were set aside, those tried longest ago first."""
        return [record for record, _ in list(self._aside.values())]

    def tried(self, record: TaskRecord, *, again: bool) -> None:
        """Drop a record that was set aside, or keep it to be tried *again*."""
        kept = self._aside.pop(record.task_id)
        if again:
            self._aside[record.task_id] = kept

    @property
    def waits(self) -> bool:
        """Whether a record waits that was not set aside."""
        return bool(self._dirty or self._taken)

    def close(self) -> None:
        """Answer all callers that still wait with an error, and permit no more starts."""
        with self._lock:
            self._closed = True
        self.refuse_starts()
        with self._lock:
            left = list(self._deadlines)
            self._deadlines.clear()
        for waiter in left:
            waiter.tell(_late(self.fault))


def _was_given_away(record: TaskRecord) -> bool:
    """Return whether another process may run the task, so that this one must not write it."""
    return record.restart is not None and record.restart.state == "left"


def _withdrawn(waiting: dict[str, TaskRecord], taken: dict[str, TaskRecord]) -> list[str]:
    """Return the ids of taken tasks that nobody may run, since their submission has failed."""
    again = [waiting[one] for one in taken.keys() & waiting.keys()]
    free = [one for one in again if one.restart is not None and one.restart.state == "free"]
    return [one.task_id for one in free if one.status.is_final]


def _require_storable(task_id: str) -> None:
    if "\0" in task_id:
        raise ValueError(
            f"task_id must not contain NUL, which databases cannot store, not {task_id!r}"
        )


def _full(capacity: int, fault: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"{capacity:,} task records wait to be written to the store and no more may: "
        f"{fault or 'it is too slow'}; submit again later, or answer 503"
    )


def _late(fault: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the store has not written the task within {SECURE_PATIENCE:g} s: "
        f"{fault or 'it is too slow'}"
    )


def _is_claimed(record: TaskRecord) -> bool:
    """Return whether the transaction that has claimed a task has stored its start as well."""
    restart = record.restart
    return restart is not None and restart.permitted


def _divided(
    waiting: dict[str, V], coming: Collection[Collection[str]]
) -> tuple[dict[str, V], dict[str, V]]:
    """Return what can be taken, and what is kept since it comes together with others."""
    if not coming:
        return waiting, {}
    kept = {one: waiting[one] for one in waiting if any(one in group for group in coming)}
    return {one: waiting[one] for one in waiting if one not in kept}, kept


def _set(answered: threading.Event, _: BaseException | None) -> None:
    answered.set()


def _ignore(_: bool) -> None:
    """Take an answer that nobody waits for."""
