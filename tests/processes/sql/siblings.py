"""Processes that share a database, all in the test's own, driven step by step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from framework._records.ids import TaskId, random_id
from framework._records.records import Heading, Kind, TaskRecord
from framework._records.statuses import TaskStatus
from framework._tasks import registry
from framework._tasks.live import copy_record
from framework._threads.clock import SystemClock
from framework.protocols import Clock
from framework.stores.sql._backlog import Backlog
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._reading.history import History
from framework.stores.sql._reading.mirror import HELD_FREE, Mirror
from framework.stores.sql._shared.site import Pace, site_of
from framework.stores.sql._tables.database import Database
from framework.stores.sql._tables.schema import TASKS, prepare
from framework.stores.sql._writing.writer import Writer

PENDING, RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING
COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
INTERRUPTED = TaskStatus.INTERRUPTED

START = 1_800_000_000.0
"""The wall second at which a test begins; the monotonic clock is at 100 then."""


class TestClock(SystemClock):
    """A clock whose times a test sets; waits are real."""

    __test__ = False

    def __init__(self, wall: float = START, monotonic: float = 100.0) -> None:
        super().__init__()
        self.wall = wall
        self.now = monotonic
        self.time: Callable[[], float] = lambda: self.wall
        self.monotonic: Callable[[], float] = lambda: self.now

    def pass_time(self, seconds: float) -> None:
        """Let both clocks go on."""
        self.wall += seconds
        self.now += seconds


class Host:
    """What a store tells its framework."""

    def __init__(self, clock: TestClock) -> None:
        self.clock: Clock = clock
        self.cancelled: list[str] = []
        self.released: list[str] = []
        self.withdrawn: dict[str, str] = {}
        self.reasons: list[str] = []
        self.interrupted: list[str] = []
        self.adopted: list[str] = []
        self.gone: list[str] = []
        self.ended: list[str] = []
        self.call: str | None = None
        self.rooms = 0
        self.begins = False
        self.places = 4
        self.role = "app"
        self.taken_over: list[TaskRecord] = []
        self.line: list[TaskRecord] = []
        self.given_away: list[TaskRecord] = []

    def snapshot(self, record: TaskRecord) -> TaskRecord:
        """Return a copy."""
        return copy_record(record)

    def cancel(self, task_id: str, reason: str = "") -> None:
        """Note whose cancellation was asked for, and why."""
        self.cancelled.append(task_id)
        self.reasons.append(reason)

    def release(self, task_ids: Collection[str]) -> None:
        """Note which tasks may start."""
        self.released += task_ids

    def withdraw(self, task_id: str, reason: str) -> None:
        """Note which task has ended in the store, and why."""
        self.withdrawn[task_id] = reason

    def interrupt(self, reason: str) -> None:
        """Note that this process was given up."""
        self.interrupted.append(reason)

    def adopt(self, records: Sequence[TaskRecord]) -> None:
        """Note whose tasks are to be followed."""
        self.adopted += [record.task_id for record in records]

    def call_of(self, record: TaskRecord, most: int) -> str | None:
        """Return what the test has set."""
        return self.call

    def room(self) -> dict[Kind, int]:
        """Return what the test has set, for threads."""
        return {"thread": self.rooms} if self.rooms > 0 else {}

    def may_begin(self, record: TaskRecord) -> bool:
        """Return what the test has set."""
        return self.begins

    def in_line(self, most: int) -> list[TaskRecord]:
        """Return what the test has set."""
        return self.line[:most]

    def give_away(self, records: Sequence[TaskRecord]) -> None:
        """Note what is to be released."""
        self.given_away += records

    def functions(self) -> dict[Kind, list[str]]:
        """Return all functions, by where they run."""
        found: dict[Kind, list[str]] = {"thread": [], "loop": []}
        for name in registry.names():
            spec = registry.find_spec(name)
            if spec is not None:
                found[spec.kind].append(name)
        return found

    def take_over(self, records: Sequence[TaskRecord]) -> None:
        """Note what is to run here, for which there is less room then."""
        self.taken_over += records
        self.rooms -= len(records)

    def buried(self, records: Sequence[TaskRecord]) -> None:
        """Note which tasks of the dead have ended here."""
        self.ended += [record.task_id for record in records]

    def evicted(self, records: Sequence[TaskRecord]) -> None:
        """Note which tasks were removed."""
        self.gone += [record.task_id for record in records]


class Peer:
    """One process that shares a database, without its thread.

    Args:
        url: The database.
        capacity: How many records may wait.
        pace: The intervals of its thread.
        keep_arguments: Longest call to keep, in bytes; 0 for none.
        held_free: How many free tasks it holds in memory at most.
    """

    def __init__(
        self,
        url: str,
        *,
        capacity: int = 100_000,
        pace: Pace | None = None,
        keep_arguments: int = 0,
        held_free: int = HELD_FREE,
    ) -> None:
        self.clock = TestClock()
        self.host = Host(self.clock)
        self.database = Database(checked_url(url), False)
        prepare(self.database)
        self.backlog = Backlog(self.clock, capacity)
        self.mirror = Mirror(self.clock, self.backlog, held_free)
        site = site_of(self.database, self.backlog, self.host, self.clock, pace or Pace())
        self.link = site.link
        self.writer = Writer(site, self.mirror, keep_arguments)
        self.writer.enter()
        self.history = History(site, self.mirror, self.writer.follower, self.writer.pages)

    @property
    def process_id(self) -> str:
        """Who it is in the database."""
        return self.writer.membership.process_id

    def accept(self, task_id: str | None = None, **rest: Any) -> TaskRecord:
        """Take in a new task."""
        record = new_record(self.clock, task_id, **rest)
        self.backlog.note(record)
        return record

    def start(self, record: TaskRecord) -> None:
        """Let a task begin."""
        record.status, record.started, record.attempts = RUNNING, self.clock.now, 1
        self.backlog.note(record)

    def end(
        self, record: TaskRecord, status: TaskStatus = COMPLETED, result: Any = None
    ) -> TaskRecord:
        """Let a task end."""
        if status is COMPLETED and record.started is None:
            record.started = self.clock.now
        record.ended, record.result, record.status = self.clock.now, result, status
        if status is not COMPLETED:
            record.error = ValueError("told")
        self.mirror.put(record)
        self.backlog.put(record)
        return record

    def finished(self, count: int = 1, **rest: Any) -> list[TaskRecord]:
        """Take in tasks, let them end a second apart, and write them."""
        records = []
        for _ in range(count):
            records.append(self.end(self.accept(**rest)))
            self.clock.pass_time(1.0)
        self.writer.batches.write()
        return records

    def tick(self) -> None:
        """Give a sign of life and look whether the others gave theirs."""
        with self.database.writing() as connection:
            self.writer.membership.beat(connection)
        self.writer.follower.watch()
        while self.writer.follower.behind:
            self.writer.follower.go_on()

    def writer_reads(self, task_ids: list[str]) -> dict[str, TaskStatus]:
        """Return what the database says now of some tasks."""
        with self.database.reading() as connection:
            found = self.writer.follower.read(connection, task_ids)
        return {record.task_id: record.status for record in found}

    def row(self, record: TaskRecord) -> Any:
        """Return what the database has of a task; None if nothing."""
        with self.database.reading() as connection:
            found = connection.execute(sa.select(TASKS).where(TASKS.c.task_id == record.task_id))
            return found.one_or_none()

    def ids(self) -> list[str]:
        """Return the ids of all tasks that the database has."""
        with self.database.reading() as connection:
            return [row[0] for row in connection.execute(sa.select(TASKS.c.task_id))]

    def close(self) -> None:
        """Let go of the database, as a crash would."""
        self.link.close()
        self.clock.close()
        self.database.close()


def new_record(clock: SystemClock, task_id: str | None = None, **rest: Any) -> TaskRecord:
    """Return the record of a task that was accepted just now."""
    record = TaskRecord()
    record.task_id = random_id() if task_id is None else TaskId(task_id)
    record.heading = Heading("tests.task", "a task of the tests")
    record.status = PENDING
    record.created_at = clock.time()
    record.created = record.queued = clock.monotonic()
    record.started = record.ended = record.result = record.code = record.rest = None
    record.attempts = record.instruction = 0
    for name, value in rest.items():
        setattr(record, name, value)
    return record


@contextmanager
def peers(url: str, count: int = 2, **options: Any) -> Iterator[list[Peer]]:
    """Let some processes share a database."""
    made = [Peer(url, **options) for _ in range(count)]
    try:
        yield made
    finally:
        for peer in made:
            peer.close()
