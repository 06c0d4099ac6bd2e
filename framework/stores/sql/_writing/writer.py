"""The store's thread: it alone writes, and it reads what other processes write.

Guarantees: every record that was queued is written in the end, in batches, or counted and
logged; a caller hears that a record is safe only after its commit; the thread ends only by
`Writer.close`, whatever the database does.
Relies on: `_backlog` for what to write; no other thread writing this process's tasks; rows
that may be written twice, since a commit that failed may have had its effect.
Lock order: none of its own; all state belongs to the thread. No lock is held during a
transaction. In the database every writer takes its turn first (`Membership.turn`), so that no
two processes wait for each other.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Collection
from typing import Final

from sqlalchemy.engine import Connection

from framework._records.records import TaskRecord
from framework._threads.clock import SystemClock
from framework.exceptions import StoreUnavailableError
from framework.protocols import StoreHost
from framework.stores.sql._backlog import Backlog
from framework.stores.sql._dialects.dialect import Row
from framework.stores.sql._pace import Pace
from framework.stores.sql._reading.follower import BREATH, IN_TIME, Follower
from framework.stores.sql._reading.mirror import Mirror
from framework.stores.sql._reading.pages import Pages
from framework.stores.sql._shared.inquiries import InquiryRows
from framework.stores.sql._shared.membership import GivenUpError, Membership
from framework.stores.sql._shared.places import SharedLines, inherit, is_held_on
from framework.stores.sql._shared.schedules import ScheduleRows
from framework.stores.sql._shared.windows import WindowRows
from framework.stores.sql._tables.database import FAULTS, Database, why
from framework.stores.sql._tables.rows import NOT_WHOLE, Written
from framework.stores.sql._tables.statements import Statements
from framework.stores.sql._writing.drafts import Drafts
from framework.stores.sql._writing.removal import Deleted, Removal

_LOGGER = logging.getLogger("asyncframe")

BATCH: Final = 500
"""Maximum number of records in one transaction."""

_ROUNDS: Final = 20
"""Maximum number of batches before the thread reads what the others have written."""


class Writer:
    """Writes one process's tasks, and reads those of the others.

    Args:
        database: Where to write.
        backlog: The records that wait to be written.
        mirror: The tasks of all processes.
        host: The framework.
        clock: Real time: the other processes live in it, also if a test moves this one's.
        pace: The intervals.
        keep_arguments: Longest call to keep, in bytes; 0 for none.

    Attributes:
        errors: How often the database has failed.
        membership: This process's row, and the others'.
        drafts: The rows of records, before they are written.
        follower: Reads what the others write.
        pages: The SQL that reads the history.
        removal: Which rows are to be deleted.
        lines: The places of unique and limited tasks.
        windows: The windows of throttles.
        schedules: The book of schedules; called on other threads.
        inquiries: Those of other processes, and this one's.
    """

    def __init__(
        self,
        database: Database,
        backlog: Backlog,
        mirror: Mirror,
        host: StoreHost,
        clock: SystemClock,
        pace: Pace,
        keep_arguments: int = 0,
    ) -> None:
        self._database = database
        self._backlog = backlog
        self._mirror = mirror
        self._host = host
        self._clock = clock
        self._pace = pace
        self.statements = Statements(database.dialect)
        self.pages = Pages(database.dialect)
        self.removal = Removal(self.statements, clock)
        self.membership = Membership(self.statements, database.dialect.is_local)
        self.drafts = Drafts(backlog, self.membership, host, clock, keep_arguments)
        self.follower = Follower(
            database, self.statements, self.membership, backlog, mirror, host, clock
        )
        self.lines = SharedLines(database, self.membership, backlog, self.follower.cancel)
        self.windows = WindowRows(database, self.membership, clock, backlog.wake)
        self.schedules = ScheduleRows(
            database, self.membership, self.statements, self.drafts.call_of
        )
        self.inquiries = InquiryRows(database, self.membership, backlog)
        self.errors = 0
        self._failing_since: float | None = None
        # Whether the others consider this process dead, and it has no new id yet.
        self._given_up = False
        self._pause = pace.pause_min
        self._looked = self._beaten = self._tried_aside = 0.0
        # At once: what a process left that was killed is taken over by the next one that starts.
        self._watched = -math.inf
        # Maximum size of the next batch; halved after a fault, to find the record at fault.
        self._most = BATCH
        # Whether the latest batch came as far as its rows: otherwise none of them is at fault.
        self._reached = False
        # How many waited for the latest batch.
        self._crowd = 0
        # The number of written batches, and what it was when a record failed by itself.
        self._written = 0
        self._alone: dict[str, int] = {}
        self._end: float | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    # -- any thread

    def enter(self) -> None:
        """Enter, and read the history; blocks.

        Raises:
            SQLAlchemyError: If the database fails.
        """
        with self._database.writing() as connection:
            self.membership.enter(connection, self._host.clock.time())
        self._beaten = self._clock.monotonic()
        self.follower.load(self.pages, self._beat)
        with self._database.writing() as connection:
            self.inquiries.enter(connection)
            if self.statements.has_ended(connection, self.follower.removed):
                # A process has died, or ended, before all of these were deleted.
                self.removal.ask(self.follower.removed)

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="asyncframe-store", daemon=True)
        self._thread.start()

    def remove(self, bound: float, told: Collection[str] | None = None) -> None:
        """Remove what ended by wall second *bound* from the database as well; see `Removal.ask`."""
        # First, so that a read in progress does not bring a removed task back.
        self.follower.forget(bound)
        self.removal.ask(bound, told)
        self._backlog.wake()

    def close(self, patience: float) -> bool:
        """Write what waits and leave within *patience* seconds; False if time ran out."""
        # In this order: the thread reads the end when it sees that it is to close.
        self._end = self._clock.monotonic() + patience
        self._closing.set()
        self._backlog.wake()
        thread = self._thread
        if thread is None:
            return True
        # A little longer than the thread has, so that a commit at the last moment counts.
        thread.join(min(patience + 0.05, threading.TIMEOUT_MAX))
        return not thread.is_alive() and not len(self._backlog)

    # -- the thread

    def _run(self) -> None:
        while not self._closing.is_set():
            waits = self._backlog.sleep(self._until_due())
            if self._closing.is_set():
                break
            if waits and len(self._backlog) < BATCH:
                self._gather()
            self.attempt()
        self._finish()

    def _gather(self) -> None:
        """Wait a moment, since records come in bursts: that makes one transaction of many."""
        pace = self._pace
        # While a transaction is under way, others gather by themselves: whoever waits, and came
        # alone before, need not wait for them.
        if self._backlog.gather(pace.gather, self._is_waited_for) and self._crowd > 1:
            self._closing.wait(pace.hurry)
        self._crowd = self._backlog.waiters + len(self.lines.requests)

    def _is_waited_for(self) -> bool:
        return self._backlog.waited_for or bool(self.lines.requests or self.windows.requests)

    def _until_due(self) -> float:
        """Return the seconds until the next look or beat, or until more is to be claimed."""
        if self.follower.behind or self.inquiries.waits:
            return 0.0
        now, pace = self._clock.monotonic(), self._pace
        return max(0.0, min(self._looked + self._between_looks(), self._beaten + pace.beat) - now)

    def _between_looks(self) -> float:
        look, watch = self._pace.look, self._pace.watch
        return look if self.follower.told is None else min(watch, look)

    def _finish(self) -> None:
        """Write what is left while there is time, and leave."""
        end = self._end or 0.0
        # The last chance for records that were set aside, however long ago they were tried.
        self._tried_aside = -math.inf
        while self._clock.monotonic() < end:
            if self.attempt(following=False) and not (self._backlog.waits or self.lines.requests):
                try:
                    with self._database.writing() as connection:
                        version, _ = self.membership.turn(connection)
                        # Those places are free when this process counts as dead: its threads
                        # end with it.
                        if not is_held_on(connection, self.membership.process_id):
                            self.membership.leave(connection)
                            inherit(connection, version)
                except GivenUpError:  # its row is gone already
                    pass
                except FAULTS as error:
                    _LOGGER.warning("the store could not be closed cleanly: %s", why(error))
                return

    def attempt(self, *, following: bool = True) -> bool:
        """Do once what is due; pause after a fault. True if all went well."""
        fault: BaseException | None = None
        try:
            fault = self._try_to_write()
            if fault is None:
                self.inquiries.settle()
            # Also after a fault: a process that cannot write tasks can perhaps still beat.
            if following and not self._closing.is_set():
                self.follow()
            self._move()
            if fault is None:
                self._try_aside()
        except GivenUpError:
            fault = self._come_back()
        except FAULTS as error:
            fault = fault or error
        except Exception:  # a fault of our own must not end the thread either
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
        """Answer and write what waits; return the database's error, if any."""
        fault: BaseException | None = None
        # A task leaves its lines in the transaction that writes how it ended, or after it: nobody
        # who got its place finds it running. What was asked after that is answered at last.
        for step in (self.lines.settle, self.windows.settle, self.write, self.lines.settle):
            try:
                step()
            except FAULTS as error:
                fault = fault or error
        return fault

    def _move(self) -> None:
        """Let go of finished tasks that only the database has to hold from now on."""
        for _ in range(_ROUNDS):
            if not self._mirror.move():
                return
            self._clock.sleep(BREATH)

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
        # Closing ends a pause. Once it has begun, that event is set and would not pause at all.
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
            GivenUpError: If the others consider this process dead.
            SQLAlchemyError: If the database fails; what was not written is kept.
        """
        until = self._clock.monotonic() + IN_TIME
        for _ in range(_ROUNDS):
            # Whoever waits for their places need not wait for all that is older. One that the
            # database refuses by itself waits for its turn, or no other would have one.
            first = [one for one in self.lines.leaving() if one not in self._alone]
            records = self._backlog.take(self._most, first)
            rows = self._drafted(records, until)
            bound = self.removal.bound
            if not rows and bound is None:
                return
            try:
                more = self._write_batch(list(rows.values()), bound)
            except FAULTS as error:
                if not rows:
                    raise
                if not self._database.is_data_fault(error):
                    if self._reached:
                        self._narrow(records, error)
                    raise
                self._write_halves(records, rows, error)
                continue
            self._safe(records, rows)
            self._most = min(2 * self._most, BATCH)
            self._written += 1
            if not more and not len(self._backlog):
                return

    def _drafted(self, records: list[TaskRecord], until: float) -> dict[str, Written]:
        """Return the rows of the first records; the others are deleted from *records*."""
        rows, refused = self.drafts.rows_of(records, until)
        for record, error in refused:  # these cannot be written, but others can
            self._give_up(record, error)
        records[:] = [record for record in records if record.task_id in rows]
        return rows

    def _write_batch(self, rows: list[Written], bound: float | None) -> bool:
        """Write rows and remove old ones; True if there is more to remove."""
        gone = Deleted()
        self._reached = False
        with self._database.writing() as connection:
            # First of all: the row that this locks makes writers take turns.
            version, removed = self.membership.turn(connection)
            self._reached = True
            beats = self._beat_is_due()
            if beats:
                self.membership.beat(connection)
            started, ended = self._put(connection, rows, version)
            tell = self.lines.let_leave(connection, version, {row.task_id for row in rows})
            if bound is not None:
                removed = max(removed, bound)
            # A clean-up may have removed tasks that ended before it and are written only now.
            if bound is not None or any(
                row.ended_at is not None and row.ended_at <= removed for row in rows
            ):
                gone = self.removal.delete(connection, removed)
        # After the commit: a beat that was rolled back was not seen by anybody.
        if beats:
            self._beaten = self._clock.monotonic()
        self.follower.wrote(version)
        if ended:
            # In memory they ended otherwise: the others had given this process up before that.
            self._mirror.read(ended)
        tell()
        for row in rows:
            if row.starts or (row.restart is not None and row.ended_at is not None):
                self._backlog.permit(row.task_id, row.task_id in started)
        if gone.rows:
            self._host.evicted(self._mirror.read_only(gone.rows))
        if gone.left:
            # As long as it took, so that the others get the database half of the time.
            self._closing.wait(gone.seconds)
        return self.removal.committed(bound, gone)

    def _put(
        self, connection: Connection, rows: list[Written], version: int
    ) -> tuple[Collection[str], Collection[Row]]:
        """Write rows.

        Returns:
            The ids of the tasks that start by it, and what the database has of those that have
            ended, but whose rows it refuses, since they had ended before.
        """
        process = self.membership.process_id
        others_may = [row for row in rows if row.restart is not None]
        free = [row for row in others_may if row.is_free]
        own = [row for row in rows if not row.is_free] if free else rows
        new = [row.restart for row in others_may if row.restart and not row.restart.written]
        for restart in new:
            # Before the attempt, since a commit that fails may have had its effect.
            restart.written.append(process)
        try:
            refused: Collection[Row] = ()
            whole = not free
            if own:
                if self.statements.put(connection, own, process, version) < len(own):
                    whole, refused = False, self.follower.ended_before(connection, own, version)
                self._tell_of_strangers(connection, own)
            if free:
                self.statements.release(connection, free, process, version)
        except FAULTS as error:
            if self._database.is_data_fault(error):
                for restart in new:
                    restart.written.clear()
            raise
        starting = [row.task_id for row in others_may if row.starts]
        # If all rows were written, these tasks belong to this process, and run.
        if starting and not whole:
            return self.statements.started(connection, starting, process), refused
        return starting, refused

    def _beat_is_due(self) -> bool:
        return self._clock.monotonic() >= self._beaten + self._pace.beat

    def _tell_of_strangers(self, connection: Connection, rows: list[Written]) -> None:
        """Log the tasks whose chosen id another process has used before."""
        chosen = [row.task_id for row in rows if row.has_chosen_id and row.ended_at is not None]
        for task_id in self.statements.strangers(connection, chosen, self.membership.identities):
            _LOGGER.error(
                "task %r of this process is not stored: another process has already used its id "
                "for a task",
                task_id,
            )

    # -- what the database refuses

    def _write_halves(
        self, records: list[TaskRecord], rows: dict[str, Written], error: BaseException
    ) -> None:
        """Write a batch again without the records for which the database refuses it."""
        if len(records) == 1:
            self._give_up(records[0], error)
            return
        half = len(records) // 2
        for part in (records[:half], records[half:]):
            try:
                self._write_batch([rows[record.task_id] for record in part], None)
            except FAULTS as fault:
                if not self._database.is_data_fault(fault):
                    raise
                self._write_halves(part, rows, fault)
            else:
                self._safe(part, rows)

    def _narrow(self, records: list[TaskRecord], error: BaseException) -> None:
        """Make the next batch smaller: perhaps the database fails at a single record.

        A record that fails by itself goes behind the others. If it fails again, and others
        were written in between, it is set aside.
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
        """Try the records that were set aside, up to the first that fails again."""
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
        rows = list(self._drafted([record], 0.0).values())
        try:
            self._write_batch(rows, None)
        except FAULTS as error:
            if not self._database.is_data_fault(error):
                raise
            self._give_up(record, error)
        else:
            _LOGGER.info("task %s is now written to the store", record.task_id)

    def _give_up(self, record: TaskRecord, error: BaseException) -> None:
        """Write a shorter row of a record whose contents the database refuses.

        Raises:
            SQLAlchemyError: If the database fails meanwhile; the record is kept.
        """
        said, told = why(error), "task %s is written to the store without what it refuses: %s"
        row = self.drafts.bare_row_of(record, error, said)
        try:
            self._write_batch([row], None)
        except FAULTS as fault:
            if not self._database.is_data_fault(fault):
                raise
            told = "task %s cannot be written to the store: %s"
            # If there is no row, nobody else can have the task.
            restart = row.restart
            self._backlog.permit(record.task_id, restart is not None and not restart.written)
        _LOGGER.error(told, record.task_id, said)
        self.errors += 1
        self._alone.pop(record.task_id, None)
        if NOT_WHOLE not in record.reason:
            record.reason = f"{record.reason}; {NOT_WHOLE}{said}".removeprefix("; ")
        self._backlog.written([record], error)

    def _safe(self, records: list[TaskRecord], rows: dict[str, Written]) -> None:
        for record in records:
            row = rows.get(record.task_id)
            if row is not None:
                self.drafts.written(record, row)
        if self._alone:
            for record in records:
                self._alone.pop(record.task_id, None)
        self._backlog.written(records)

    # -- following the others

    def follow(self) -> None:
        """Read what the others have written, and whether they live, if it is time."""
        monotonic = self._clock.monotonic
        self._beat()
        # Times are taken after each step: while this process waited for a lock, the others may
        # have waited, too, and must get their time to beat.
        if monotonic() >= self._watched + self._pace.beat:
            self.follower.watch()
            self._watched = monotonic()
        elif self.follower.behind:
            self.follower.go_on()
        if monotonic() >= self._looked + self._between_looks():
            self.follower.look()
            self.inquiries.hear(self.follower.asked)
            self.lines.look(self.follower.version)
            self._looked = monotonic()

    def _beat(self) -> None:
        """Give a sign of life, if it is time."""
        if self._beat_is_due():
            with self._database.writing() as connection:
                self.membership.beat(connection)
            self._beaten = self._clock.monotonic()

    def _come_back(self) -> BaseException | None:
        """Continue under a new id, since the others consider this process dead.

        Returns:
            Why it cannot yet; None if it does.
        """
        if not self._given_up:
            self._given_up = True
            _LOGGER.error(
                "this process was not running for so long that the others that share the store "
                "consider it dead: its unfinished tasks end INTERRUPTED"
            )
            self._backlog.refuse_starts()
            self._host.interrupt("the process stood still, and the others gave it up")
        try:
            with self._database.writing() as connection:
                self.membership.enter(connection, self._host.clock.time())
                self.inquiries.enter(connection)
        except (*FAULTS, StoreUnavailableError) as error:
            return error
        self._given_up = False
        return None
