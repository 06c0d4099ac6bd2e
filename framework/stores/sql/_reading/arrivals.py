"""Arrivals: the free tasks that this process takes over.

A task that would begin here at once, since it waits for nothing but a place, is RUNNING from the
transaction that claims it. All others are claimed as they wait, and ask for their start later.

Guarantees: the framework gets a task after the commit that made it this process's. If the answer of
that commit is lost, the task is set free again before anything else is claimed. What is claimed and
has not ended never exceeds the places, as the database has it, whatever calls, looks and ends come
in between; only `sharing` claims as much again, which waits here beside own tasks.
Relies on: calls on the store's own thread; `claims` for which tasks they are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy.engine import Connection

from framework._records.records import KINDS, Kind, Restart, TaskRecord
from framework._tasks import registry
from framework._tasks.live import copy_record
from framework._threads.loggers import SafeLogger
from framework.stores.sql._reading.mirror import Mirror
from framework.stores.sql._shared import places as _places
from framework.stores.sql._shared.free import claims as _claims
from framework.stores.sql._shared.free import orphans as _orphans
from framework.stores.sql._shared.free.claims import Picked
from framework.stores.sql._shared.free.sharing import Sharing
from framework.stores.sql._shared.site import Site
from framework.stores.sql._shared.submissions import Submissions
from framework.stores.sql._tables import calls as _calls
from framework.stores.sql._tables.rows import TaskRow, Written, row_of

_LOGGER = SafeLogger("asyncframe")

_NONE: Final[Mapping[Kind, int]] = {}


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a transaction has claimed, for `Arrivals.take` after its commit.

    Attributes:
        version: That of the transaction.
        records: The tasks, PENDING, each with its restart.
        room: For how many of each kind there were places.
        more: The kinds of which there may be more.
        moved: Whether submissions were set free by it.
        is_own: Whether it has written nothing but these tasks.
        is_vain: Whether it has written nothing at all: another process was first.
    """

    version: int
    records: Sequence[TaskRecord]
    room: Mapping[Kind, int]
    more: set[Kind]
    moved: bool
    is_own: bool
    is_vain: bool


class Arrivals:
    """Claims free tasks for which this process has places, and hands them to the framework.

    Args:
        site: What it works with.
        mirror: Lets go of the tasks that arrive.
        sharing: Says what this process has places for.
        submissions: The tasks that apps submit in transactions of their own.

    Attributes:
        waiting: The kinds of which free tasks may wait. All at first: the app may start later
            than the store.
        many: How many the latest transaction has claimed.
    """

    def __init__(
        self, site: Site, mirror: Mirror, sharing: Sharing, submissions: Submissions
    ) -> None:
        self._site = site
        self._statements = site.statements
        self._membership = site.membership
        self._host = site.host
        self._mirror = mirror
        self._sharing = sharing
        self._submissions = submissions
        self.waiting = set[Kind](KINDS)
        self.many = 0
        # How many were called before this process, if it is to call the next one.
        self._called: int | None = None
        # When it has claimed some last, or was called and found none.
        self._claimed_at = -math.inf
        # The version at the last beat.
        self._watched = -1
        # How many tasks were free at the latest turn, and when there were none for this process.
        self._free = self._left = 0
        # The wall second at which the next free task that sleeps is due.
        self._due_at: float | None = None
        # What this process has claimed, or adopted, and may not know yet.
        self._claimed: Mapping[str, TaskRecord] = {}
        self.adopted: Collection[str] = ()

    def has(self, task_id: str) -> bool:
        """Return whether a task arrives right now."""
        return task_id in self._claimed or task_id in self.adopted

    @property
    def are_open(self) -> bool:
        """Whether some may be this process's, and are not known here: an answer was lost."""
        return bool(self._claimed or self.adopted)

    # -- what waits

    def see(self, connection: Connection, kinds: Collection[Kind]) -> None:
        """Find out of which kinds there are free tasks, and when the next one is due."""
        self._due_at = _claims.next_due(connection)
        names = self._host.functions()
        found = _claims.waiting(connection, self._site.database.dialect, names, kinds)
        self.waiting = self.waiting.difference(kinds) | found
        if not self.waiting:
            self._left = self._free

    def watch(self, connection: Connection, version: int, due_at: float | None) -> None:
        """Do so once for each beat, whoever is called.

        Those that have become free since the last time are left to whom is called for them.

        Args:
            connection: A transaction.
            version: Its version.
            due_at: The wall second at which the next free task that sleeps is due; None for none.
        """
        self._due_at = due_at
        names, dialect = self._host.functions(), self._site.database.dialect
        is_called = self._site.link.is_called
        since = self._watched if is_called else None
        found = _claims.waiting(connection, dialect, names, KINDS, since)
        self._watched = version
        if not is_called:
            self.waiting = found
        elif found:
            self.waiting |= found
            if self._called is None and self.room():
                # Whoever was called for them has not come.
                self._called = 0

    def note(self, row: TaskRow) -> None:
        """Note a task that has become free."""
        spec = registry.find_spec(row.name)
        if spec is not None:
            self.waiting.add(spec.kind)

    def note_all(self) -> None:
        """Note that tasks of any kind may have become free."""
        self.waiting = set(KINDS)

    def hear(self) -> None:
        """Note whether this process is called, unless it has claimed a moment ago.

        Raises:
            SQLAlchemyError: If it has no place, and the next one cannot be called.
        """
        link = self._site.link
        called = link.called
        if called is None or not self._is_time:
            return
        link.answers()
        self.note_all()
        self._called = called
        if not self.room():
            self._claimed_at = self._site.clock.monotonic()
            with self._site.database.writing() as connection:
                self._call_next(connection)
            self._called = None

    @property
    def due_at(self) -> float:
        """The monotonic second at which to claim, for a call or what wakes then; never for none."""
        monotonic, now = self._site.clock.monotonic(), self._host.clock.time()
        wakes_at = math.inf
        if self._due_at is not None and self._due_at > now:
            wakes_at = monotonic + (self._due_at - now)
        if self._site.link.called is None:
            return wakes_at
        return min(wakes_at, self._claimed_at + self._site.pace.claim)

    @property
    def _is_time(self) -> bool:
        """Whether it has not claimed a moment ago: those that come one by one share one claim."""
        return self._site.clock.monotonic() >= self._claimed_at + self._site.pace.claim

    @property
    def is_called(self) -> bool:
        """Whether it was called, and has not claimed since."""
        return self._called is not None

    def see_free(self, many: int) -> None:
        """Note how many tasks were free when this process had its turn last.

        It may have been full when others were called, or have been called by nobody for that.
        """
        self._free = many
        if many > 0 and many != self._left and self._is_time:
            self.note_all()

    def room(self) -> Mapping[Kind, int]:
        """Return the places that this process has, if free tasks may wait for one of them.

        Some may only be free once it is written what has ended in them.
        """
        waiting: Collection[Kind] = self.waiting
        if self._is_due(self._host.clock.time()):
            waiting = KINDS
        if not waiting:
            return _NONE
        room = self._host.room()
        return _NONE if room.keys().isdisjoint(waiting) else room

    def _places(self, written: Collection[str]) -> Mapping[Kind, int]:
        """Return for how many more tasks of each kind there are places in the database.

        Args:
            written: The tasks whose end, or that they are free, is written in this transaction.
        """
        # In this order: 1 a task ends, 2 the backlog has it, 3 the framework gives its place back.
        places = Counter(self._host.room())
        for record in self._site.backlog.gone():
            spec = registry.find_spec(record.name)
            if spec is not None and record.task_id not in written:
                places[spec.kind] -= 1
        return +places

    def _is_due(self, now: float) -> bool:
        return self._due_at is not None and self._due_at <= now

    # -- claiming

    def claim(
        self,
        connection: Connection,
        version: int,
        free: int,
        written: Collection[str] = (),
        beside: Mapping[Kind, int] | None = None,
    ) -> Claimed:
        """Claim the free tasks whose turn it is; they arrive by `take`, after the commit.

        Args:
            connection: A transaction of this process's turn.
            version: Its version.
            free: How many tasks are free in it at most, those that sleep too; without submissions.
            written: The tasks whose end, or that they are free, is written in it.
            beside: How many of each kind to claim that wait here beside own tasks; None for those
                that begin at once, as many as there are places.
        """
        room = self._places(written) if beside is None else beside
        own, now = self._membership.process_id, self._host.clock.time()
        were_open = self.are_open
        self.put_back(connection, version)
        wakes = self._is_due(now)
        if wakes:
            _claims.wake(connection, now, version)
        moved = self._submissions.waits and self._submissions.move(connection, version)
        names, dialect = self._host.functions(), self._site.database.dialect
        chosen, more = _claims.choose(connection, dialect, names, room)
        has_left = moved or were_open or free > len(chosen)
        records = self._read(chosen)
        if records or self.is_called:
            self._claimed_at = self._site.clock.monotonic()
        begun, others = dict[str, str | None](), list[str]()
        for record in records:
            if beside is None and self._host.may_begin(record):
                begun[str(record.task_id)] = self._begun(record)
            else:
                others.append(str(record.task_id))
        if others:
            _claims.give(connection, others, own, version)
        if begun:
            self._statements.begin(connection, begun, own, version, now)
        told = self._sharing.tell(connection, records)
        # One that waits for nothing but a place in a process has none in a line.
        inherits = bool(others) and _places.inherit(connection, version)
        if wakes or not self.waiting.intersection(room).issubset(more):
            # Perhaps all that is left sleeps.
            self._due_at = _claims.next_due(connection) if has_left else None
        calls = has_left and self._pass_on(connection)
        # Before the commit, from which on the rows are this process's.
        self._claimed = {**self._claimed, **{str(one.task_id): one for one in records}}
        is_own = not (wakes or moved or inherits)
        is_vain = is_own and not (records or were_open or told or calls)
        return Claimed(version, records, room, more, moved, is_own, is_vain)

    def _pass_on(self, connection: Connection) -> bool:
        """Call the next process for what may start and was not taken; return whether there is one.

        Only if this one was called.
        """
        left = self.is_called and _claims.present(connection, self._site.database.dialect)
        return bool(left) and self._call_next(connection)

    def _call_next(self, connection: Connection) -> bool:
        """Call the next process if this one was called, and return whether there is one."""
        called, own = self._called, self._membership.process_id
        if called is None:
            return False
        return _calls.call_next(connection, self._site.database.dialect, own, called)

    def _begun(self, record: TaskRecord) -> str | None:
        """Note that a task begins as it is claimed; return what another process needs to run it.

        None if no other may. The task itself still waits.
        """
        restart: Restart | None = record.restart
        assert restart is not None
        restart.begin(self._host.clock.monotonic())
        return replace(restart, offered=False).facts() if restart.idempotent else None

    def _read(self, chosen: Sequence[Picked]) -> list[TaskRecord]:
        records = self._mirror.read(one.row for one in chosen)
        for record, one in zip(records, chosen, strict=True):
            # It is awake, though its facts may name a later time: a message has come.
            record.restart = replace(Restart.of(one.call, one.restart), due=None)
            record.restart.written.append(self._membership.process_id)
        return records

    def take(self, claimed: Claimed) -> None:
        """Hand what was claimed to the framework."""
        records = claimed.records
        if claimed.moved:
            self.note_all()
        self.waiting = (self.waiting - claimed.room.keys()) | claimed.more
        self._called = None
        self.many = len(records)
        left = 0
        for record in records:
            self._mirror.take(record.task_id)
            restart: Restart | None = record.restart
            assert restart is not None
            restart.permitted = restart.started is not None
            left += not restart.offered
        if left:
            _LOGGER.info("taking over %d tasks of processes that have ended", left)
        if records:
            self._host.take_over(records)
        self.settled()

    def settled(self) -> None:
        """Note that nothing is open any more: all was put back, or is known here."""
        self._claimed, self.adopted = {}, ()

    def put_back(self, connection: Connection, version: int) -> None:
        """Set free what this process may have taken, and does not run.

        Args:
            connection: A transaction of this process's turn.
            version: Its version.
        """
        own = self._membership.process_id
        _orphans.put_back(connection, self.adopted, own)
        rows = [_freed(one) for one in self._claimed.values()]
        if rows:
            self._statements.hand_over(connection, rows, own, "", version)


def _freed(record: TaskRecord) -> Written:
    """Return the row of a task that is free again, as if it had not been claimed."""
    restart: Restart | None = record.restart
    assert restart is not None
    free = copy_record(record)
    free.restart = restart.free_copy()
    return row_of(free)
