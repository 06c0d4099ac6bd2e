"""The store's own thread: it alone writes, and follows what the other processes write.

Guarantees: what was put in is written in the end, in batches, or counted and logged; the
thread ends for nothing but `Writer.close`, whatever the database does.
Relies on: `_backlog` for what to write; nothing else writes this process's tasks.
Lock order: none of its own; no lock is held while the database is spoken to.
"""

from __future__ import annotations

import logging
import math
import threading
from dataclasses import dataclass
from typing import Final

from sqlalchemy.engine import Connection

from framework._tasks.records import TaskRecord
from framework._threads.clock import SystemClock
from framework.exceptions import StoreUnavailableError
from framework.protocols import StoreHost
from framework.stores.sql._backlog import Backlog
from framework.stores.sql._database import FAULTS, Database, is_data_fault, why
from framework.stores.sql._follower import BREATH, IN_TIME, Follower
from framework.stores.sql._membership import GivenUpError, Membership
from framework.stores.sql._mirror import Mirror
from framework.stores.sql._rows import NOT_WHOLE, Written, bare_row_of, row_of
from framework.stores.sql._statements import Statements

_LOGGER = logging.getLogger("asyncframe")

BATCH: Final = 500
"""Most records in one transaction."""

_SLICE: Final = 8
"""Records that are made into rows before the thread takes a breath of `BREATH` seconds."""

_MAX_TEXT: Final = 8_000_000
"""Characters after which a batch takes in no further record; a result may be a million."""

_ROUNDS: Final = 20
"""Most batches before the thread looks at what the others do."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the thread does what, in seconds above 0.

    Attributes:
        gather: How long to let records come together before a batch.
        hurry: The same while somebody waits until a record is safe.
        look: From one look at what others have written to the next.
        beat: From one sign of life to the next.
        pause_min: After the first fault; doubled after each further one.
        pause_max: Longest pause after a fault.
        aside: From one attempt at what the database takes no other way to the next.
    """

    gather: float = 0.02
    hurry: float = 0.002
    look: float = 0.1
    beat: float = 1.0
    pause_min: float = 0.05
    pause_max: float = 1.0
    aside: float = 5.0


class Writer:
    """Writes one process's tasks and follows those of the others.

    Args:
        database: Where.
        backlog: What waits to be written.
        mirror: What is known of all tasks.
        host: The framework.
        clock: Real time, whatever time the framework has.
        pace: How often what is done.

    Attributes:
        errors: How often the database has failed.
        membership: This process among the others.
        follower: What it knows of them.
    """

    def __init__(
        self,
        database: Database,
        backlog: Backlog,
        mirror: Mirror,
        host: StoreHost,
        clock: SystemClock,
        pace: Pace,
    ) -> None:
        self._database = database
        self._backlog = backlog
        self._host = host
        self._clock = clock
        self._pace = pace
        self.statements = Statements(database.dialect)
        self.membership = Membership(self.statements)
        self.follower = Follower(
            database, self.statements, self.membership, backlog, mirror, host, clock
        )
        self.errors = 0
        self._failing_since: float | None = None
        self._pause = pace.pause_min
        self._lock = threading.Lock()
        self._remove_up_to: float | None = None
        self._looked = self._beaten = self._watched = self._tried_aside = 0.0
        # How many records go into the next batch; fewer after a fault.
        self._most = BATCH
        # Batches that were written, and at which of them a record failed all alone.
        self._written = 0
        self._alone: dict[str, int] = {}
        self._end: float | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    # -- any thread

    def enter(self) -> None:
        """Come in and take in the history; blocks.

        Raises:
            SQLAlchemyError: If the database fails.
        """
        with self._database.writing() as connection:
            self.membership.enter(connection, self._host.clock.time())
        self.follower.load()

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="asyncframe-store", daemon=True)
        self._thread.start()

    def remove(self, bound: float) -> None:
        """Have what ended by wall second *bound* removed from the database as well."""
        self.follower.forget(bound)
        with self._lock:
            self._remove_up_to = max(bound, self._remove_up_to or 0.0)
        self._backlog.wake()

    def close(self, patience: float) -> bool:
        """Write what waits and leave, within *patience* seconds; False if that was too short."""
        self._end = self._clock.monotonic() + patience
        self._closing.set()
        self._backlog.wake()
        thread = self._thread
        if thread is None:
            return True
        thread.join(min(patience + 0.05, threading.TIMEOUT_MAX))
        return not thread.is_alive() and not len(self._backlog)

    # -- the thread

    def _run(self) -> None:
        while not self._closing.is_set():
            waits = self._backlog.sleep(self._until_due())
            if self._closing.is_set():
                break
            if waits and len(self._backlog) < BATCH:
                pace = self._pace
                self._closing.wait(pace.hurry if self._backlog.waited_for else pace.gather)
            self.attempt()
        self._finish()

    def _until_due(self) -> float:
        """Return how many seconds there are until something is to be done anyway."""
        now, pace = self._clock.monotonic(), self._pace
        return max(0.0, min(self._looked + pace.look, self._beaten + pace.beat) - now)

    def _finish(self) -> None:
        """Write what is left, as long as there is time, and go."""
        end = self._end or 0.0
        # For what was set aside it is the last chance.
        self._tried_aside = -math.inf
        while self._clock.monotonic() < end:
            if self.attempt(following=False) and not self._backlog.waits:
                try:
                    with self._database.writing() as connection:
                        self.membership.leave(connection)
                except FAULTS as error:
                    _LOGGER.warning("the store could not be closed cleanly: %s", why(error))
                return

    def attempt(self, *, following: bool = True) -> bool:
        """Do what is due once; after a fault wait a little. True if all went well."""
        fault: BaseException | None = None
        try:
            fault = self._try_to_write()
            # Also after a fault: who cannot write tasks may be able to show that it lives.
            if following and not self._closing.is_set():
                self.follow()
            if fault is None:
                self._try_aside()
        except GivenUpError:
            self._come_back()
        except FAULTS as error:
            fault = fault or error
        except Exception:  # a fault of ours must not end the thread either
            _LOGGER.exception("unexpected error in the store's thread")
            self.errors += 1
            self._closing.wait(self._pace.pause_max)
            return False
        if fault is not None:
            self._failed(fault)
            return False
        self._recovered()
        return True

    def _try_to_write(self) -> BaseException | None:
        """Write what waits; return why that failed, if it did."""
        try:
            self.write()
        except FAULTS as error:
            return error
        return None

    def _failed(self, error: BaseException) -> None:
        self.errors += 1
        self._backlog.fault = why(error)
        if self._failing_since is None:
            self._failing_since = self._clock.monotonic()
            _LOGGER.error(
                "the store fails and is retried until it works; records are kept meanwhile: %s",
                why(error),
            )
        now = self._clock.monotonic()
        pause = self._pause if self._end is None else min(self._pause, max(0.0, self._end - now))
        self._pause = min(2 * self._pause, self._pace.pause_max)
        self._closing.wait(pause) if self._end is None else threading.Event().wait(pause)

    def _recovered(self) -> None:
        self._pause = self._pace.pause_min
        if self._failing_since is None:
            return
        seconds = self._clock.monotonic() - self._failing_since
        self._failing_since = None
        self._backlog.fault = ""
        _LOGGER.info("the store works again after %.1f s", seconds)

    # -- writing

    def write(self) -> None:
        """Write everything that waits, one transaction for each batch.

        Raises:
            GivenUpError: If this process has been given up.
            SQLAlchemyError: If the database fails; what was not written is kept.
        """
        until = self._clock.monotonic() + IN_TIME
        for _ in range(_ROUNDS):
            records = self._backlog.take(self._most)
            rows = self._rows_of(records, until)
            with self._lock:
                bound = self._remove_up_to
            if not rows and bound is None:
                return
            try:
                more = self._write_batch(list(rows.values()), bound)
            except FAULTS as error:
                if not rows:
                    raise
                if not is_data_fault(error):
                    self._narrow(records, error)
                    raise
                self._write_halves(records, rows, error)
                continue
            self._safe(records, rows)
            self._most = min(2 * self._most, BATCH)
            self._written += 1
            if not more and not len(self._backlog):
                return

    def _rows_of(self, records: list[TaskRecord], until: float) -> dict[str, Written]:
        """Return the rows of the first records, as many as make no huge batch.

        Takes its time up to the monotonic second *until*.
        """
        rows: dict[str, Written] = {}
        size = 0
        for number, record in enumerate(records, 1):
            if size > _MAX_TEXT:
                del records[number - 1 :]
                break
            if number % _SLICE == 0 and self._clock.monotonic() < until:
                # Whoever waits for the interpreter, a loop say, gets it now and not 5 ms later.
                self._clock.sleep(BREATH)
            try:
                # A final one does not change any more.
                still = record if record.status.is_final else self._host.snapshot(record)
                row = rows[record.task_id] = row_of(still)
            except Exception as error:  # this one cannot be written, the others can
                self._give_up(record, error)
            else:
                size += len(row.text)
        records[:] = [record for record in records if record.task_id in rows]
        return rows

    def _write_batch(self, rows: list[Written], bound: float | None) -> bool:
        """Write rows, and remove what is to be; True if there is more to remove."""
        with self._database.writing() as connection:
            version, removed = self.membership.turn(connection)
            beats = self._beat_is_due()
            if beats:
                self.membership.beat(connection)
            if rows:
                self.statements.put(connection, rows, self.membership.process_id, version)
                self._tell_of_strangers(connection, rows)
            left = False
            if bound is not None:
                removed = max(removed, bound)
            # A clean-up may have passed what ended before it and is written only now.
            if bound is not None or any(
                row.ended_at is not None and row.ended_at <= removed for row in rows
            ):
                left = self.statements.remove(connection, removed)
        if beats:
            self._beaten = self._clock.monotonic()
        self.follower.wrote(version)
        with self._lock:
            if self._remove_up_to == bound and not left:
                self._remove_up_to = None
            return self._remove_up_to is not None

    def _beat_is_due(self) -> bool:
        return self._clock.monotonic() >= self._beaten + self._pace.beat

    def _tell_of_strangers(self, connection: Connection, rows: list[Written]) -> None:
        """Log whose chosen id another process has given to a task of its own before."""
        chosen = [row.chosen_id for row in rows if row.chosen_id and row.ended_at is not None]
        for task_id in self.statements.strangers(connection, chosen, self.membership.identities):
            _LOGGER.error(
                "task %r of this process is not stored: another process has already used its id "
                "for a task",
                task_id,
            )

    # -- what the database does not take

    def _write_halves(
        self, records: list[TaskRecord], rows: dict[str, Written], error: BaseException
    ) -> None:
        """Write a batch that was refused for something in it, without what that is."""
        if len(records) == 1:
            self._give_up(records[0], error)
            return
        half = len(records) // 2
        for part in (records[:half], records[half:]):
            try:
                self._write_batch([rows[record.task_id] for record in part], None)
            except FAULTS as fault:
                if not is_data_fault(fault):
                    raise
                self._write_halves(part, rows, fault)
            else:
                self._safe(part, rows)

    def _narrow(self, records: list[TaskRecord], error: BaseException) -> None:
        """Take fewer next time: perhaps the database fails at a single record.

        One that fails all alone goes behind the others. If it does so once more, and others
        were written meanwhile, it is set aside.
        """
        if len(records) > 1:
            self._most = len(records) // 2
            return
        (record,) = records
        if self._alone.setdefault(record.task_id, self._written) == self._written:
            self._backlog.postpone(record)
            return
        del self._alone[record.task_id]
        _LOGGER.error(
            "task %s cannot be written to the store, but others can; it is kept and retried: %s",
            record.task_id,
            why(error),
        )
        told = f"the database does not take the task's record: {why(error)}; it is tried again"
        self._backlog.set_aside(record, StoreUnavailableError(told))

    def _try_aside(self) -> None:
        """Try what was set aside once more, up to the first that fails again."""
        if self._clock.monotonic() < self._tried_aside + self._pace.aside:
            return
        self._tried_aside = self._clock.monotonic()
        for record in self._backlog.aside:
            try:
                self._write_alone(record)
            except FAULTS:
                self.errors += 1
                self._backlog.tried(record, again=True)
                return
            self._backlog.tried(record, again=False)

    def _write_alone(self, record: TaskRecord) -> None:
        rows = list(self._rows_of([record], 0.0).values())
        try:
            self._write_batch(rows, None)
        except FAULTS as error:
            if not is_data_fault(error):
                raise
            self._give_up(record, error)
        else:
            _LOGGER.info("task %s is now written to the store", record.task_id)

    def _give_up(self, record: TaskRecord, error: BaseException) -> None:
        """Write what can be written of a record that is refused for what is in it.

        Raises:
            SQLAlchemyError: If the database fails at that; the record is kept.
        """
        said, told = why(error), "task %s is written to the store without what it refuses: %s"
        row = bare_row_of(self._host.snapshot(record), error, said)
        try:
            self._write_batch([row], None)
        except FAULTS as fault:
            if not is_data_fault(fault):
                raise
            told = "task %s cannot be written to the store: %s"
        _LOGGER.error(told, record.task_id, said)
        self.errors += 1
        self._alone.pop(record.task_id, None)
        if NOT_WHOLE not in record.reason:
            record.reason = f"{record.reason}; {NOT_WHOLE}{said}".removeprefix("; ")
        self._backlog.written([record], error)

    def _safe(self, records: list[TaskRecord], rows: dict[str, Written]) -> None:
        for record in records:
            # It may have ended since; then the text is still to be written.
            row = rows.get(record.task_id)
            if row is not None and row.ended_at is not None and record.rest:
                record.store_note = None
        if self._alone:
            for record in records:
                self._alone.pop(record.task_id, None)
        self._backlog.written(records)

    # -- following the others

    def follow(self) -> None:
        """Look at what the others have written, and whether they live, if it is time."""
        monotonic, pace = self._clock.monotonic, self._pace
        if self._beat_is_due():
            with self._database.writing() as connection:
                self.membership.beat(connection)
            self._beaten = monotonic()
        # The time is taken afterwards: after a lock that took long, the others get theirs.
        if monotonic() >= self._watched + pace.beat:
            self.follower.watch()
            self._watched = monotonic()
        if monotonic() >= self._looked + pace.look:
            self.follower.look()
            self._looked = monotonic()

    def _come_back(self) -> None:
        """Go on as somebody new: the others have given this process up, and its tasks."""
        _LOGGER.error(
            "this process was not running for so long that the others that share the store "
            "consider it dead: its unfinished tasks end INTERRUPTED"
        )
        self._host.interrupt("the process stood still, and the others gave it up")
        try:
            with self._database.writing() as connection:
                self.membership.enter(connection, self._host.clock.time())
        except FAULTS as error:
            self._failed(error)
