"""Batches: the transactions that write records, and what becomes of those that are refused.

Guarantees: every record that was queued is written in the end, or counted and logged; a caller
hears that a record is safe only after its commit.
Relies on: calls on the store's own thread; rows that may be written twice, since a commit that
failed may have had its effect. In the database every writer takes its turn first (`Site.turn`), so
that no two processes wait for each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, NamedTuple

from sqlalchemy.engine import Connection

from framework._records.records import TaskRecord
from framework._threads.loggers import SafeLogger
from framework.exceptions import StoreUnavailableError
from framework.stores.sql._backlog import GROUP
from framework.stores.sql._reading.arrivals import Claimed
from framework.stores.sql._reading.follower import IN_TIME, Follower
from framework.stores.sql._reading.mirror import Mirror
from framework.stores.sql._shared import places as _places
from framework.stores.sql._shared.free.sharing import Sharing
from framework.stores.sql._shared.membership import GivenUpError
from framework.stores.sql._shared.places import SharedLines
from framework.stores.sql._shared.site import Site
from framework.stores.sql._tables.chains import NOTHING, Settled
from framework.stores.sql._tables.database import FAULTS, why
from framework.stores.sql._tables.rows import NOT_WHOLE, TaskRow, Written
from framework.stores.sql._tables.steps import carry
from framework.stores.sql._writing.chained import ChainedRows
from framework.stores.sql._writing.drafts import Drafts
from framework.stores.sql._writing.messages import wake_beside
from framework.stores.sql._writing.pulse import Pulse
from framework.stores.sql._writing.removal import Deleted, Removal

_LOGGER = SafeLogger("asyncframe")

BATCH: Final = 500
"""Maximum number of records in one transaction."""

ROUNDS: Final = 20
"""Maximum number of batches before the thread reads what the others have written."""


class _Parts(NamedTuple):
    """The rows of a batch.

    Attributes:
        own: Those of tasks that stay with this process.
        new: Those that nobody has, and of which nothing was written before.
        freed: Those that nobody has from now on.
        placed: The ids of those among the last two that may have places.
    """

    own: Sequence[Written]
    new: Sequence[Written]
    freed: Sequence[Written]
    placed: Sequence[str]


class Batches:
    """Writes what waits, one transaction for each batch.

    Args:
        site: What it works with.
        mirror: The tasks of all processes in memory.
        follower: Reads what the others write.
        lines: Where a task leaves once its end is written.
        sharing: Says what this process has places for.
        keep_arguments: Longest call to keep, in bytes; 0 for none.
        rest: Waits for some seconds, or until the store closes.

    Attributes:
        drafts: Makes the rows.
        removal: Which rows are to be deleted.
        pulse: Whose beat may go with a batch.
    """

    def __init__(
        self,
        site: Site,
        mirror: Mirror,
        follower: Follower,
        lines: SharedLines,
        sharing: Sharing,
        keep_arguments: int,
        rest: Callable[[float], object],
    ) -> None:
        self._site = site
        self._mirror = mirror
        self._database = site.database
        self._backlog = site.backlog
        self._clock = site.clock
        self._follower = follower
        self._lines = lines
        self._sharing = sharing
        self.drafts = Drafts(site, keep_arguments)
        self._chained = ChainedRows(site, follower)
        self.removal = Removal(site.statements, site.clock)
        self.pulse = Pulse(site, sharing)
        self._rest = rest
        # Maximum size of a batch, and of the next one: halved after a fault, to find the record at
        # fault.
        self._largest = self._most = BATCH
        # Whether nothing else goes on in this process.
        self._hurries = False
        # Whether the latest batch came as far as its rows: otherwise none of them is at fault.
        self._reached = False
        # The number of written batches, and what it was when a record failed by itself.
        self._written = 0
        self._alone: dict[str, int] = {}
        self._tried_aside = 0.0

    @property
    def claims(self) -> bool:
        """Whether the next batch claims free tasks as well.

        Not while a record is looked for that is at fault: what is claimed may not be.
        """
        return self._most == self._largest

    def write(self) -> None:
        """Write everything that waits, one transaction for each batch.

        Raises:
            GivenUpError: If the others consider this process dead.
            SQLAlchemyError: If the database fails; what was not written is kept.
        """
        until = -math.inf if self._hurries else self._clock.monotonic() + IN_TIME
        for _ in range(ROUNDS):
            # Whoever waits for their places need not wait for all that is older. One that the
            # database refuses by itself waits for its turn, or no other would have one.
            first = [one for one in self._lines.leaving() if one not in self._alone]
            records = self._backlog.take(self._most, first, divide=not self.claims)
            rows = self._drafted(records, until)
            bound = self.removal.bound
            if not rows and bound is None:
                return
            claims = self.claims and bool(self._follower.arrivals.room())
            try:
                more, claimed = self._write_batch(list(rows.values()), bound, claims)
            except FAULTS as error:
                if not rows:
                    raise
                if not self._database.is_data_fault(error):
                    if self._reached and not self._database.is_busy(error):
                        self._narrow(records, error)
                    raise
                self._write_halves(records, rows, error)
                continue
            self._safe(records, rows)
            self._most = min(2 * self._most, self._largest)
            self._written += 1
            if claimed is not None:
                # Not before: what was set free by this batch may come back.
                self._follower.arrive(claimed)
                return
            if not more and not len(self._backlog):
                return

    def _drafted(self, records: list[TaskRecord], until: float) -> dict[str, Written]:
        """Return the rows of the first records; the others are deleted from *records*."""
        rows, refused = self.drafts.rows_of(records, until)
        for record, error in refused:  # these cannot be written, but others can
            self._give_up(record, error)
        records[:] = [record for record in records if record.task_id in rows]
        return rows

    def _write_batch(
        self, rows: list[Written], bound: float | None, claims: bool
    ) -> tuple[bool, Claimed | None]:
        """Write rows, remove old ones, and claim free tasks if there may be room for some.

        Returns:
            Whether there is more to remove, and what was claimed.
        """
        parts = self._parts_of(rows)
        if bound is None and not parts.placed and self._only_offers(rows):
            self._offer(parts.new)
            return False, None
        gone = Deleted()
        self._reached = False
        with self._database.writing() as connection:
            # There is a connection, and new rows are written with the turn.
            self._reached = bool(parts.new)
            turn = self._site.take(connection, parts.new)
            version, self._reached = turn.version, True
            beats = self.pulse.is_due()
            if beats:
                self.pulse.give_in(connection)
            with self._noted(rows):
                started, ended = self._put(connection, parts, version)
            carry(connection, [(row.task_id, row.goes_on_from) for row in rows if row.goes_on_from])
            settled = self._chained.settle(connection, version, rows, chained=turn.chained)
            claimed = self._claimed(connection, version, turn.free, rows if claims else None)
            asleep = [row.task_id for row in rows if row.is_free and row.sleeps]
            tell = self._lines.let_leave(connection, version, {row.task_id for row in rows}, asleep)
            latest = turn.removed if bound is None else max(turn.removed, bound)
            # A clean-up may have removed tasks that ended before it and are written only now.
            if bound is not None or any(
                row.ended_at is not None and row.ended_at <= latest for row in rows
            ):
                gone = self.removal.delete(connection, latest)
        # After the commit: a beat that was rolled back was not seen by anybody.
        if beats:
            self.pulse.given()
        claimed = self._note(rows, version, settled, claimed)
        self._follower.arrivals.see_free(turn.free)
        self._let_go([*parts.new, *parts.freed], version)
        if ended:
            # In memory they ended otherwise: the others had given this process up before that.
            self._mirror.read(ended)
        tell()
        for row in rows:
            if row.starts or (row.restart is not None and row.ended_at is not None):
                self._backlog.permit(row.task_id, row.task_id in started)
        if gone.rows:
            self._site.host.evicted(self._mirror.read_only(gone.rows))
        if gone.left:
            # As long as it took, so that the others get the database half of the time.
            self._rest(gone.seconds)
        return self.removal.committed(bound, gone), claimed

    def _only_offers(self, rows: Sequence[Written]) -> bool:
        """Return whether rows need no transaction: all are new tasks of others, by themselves."""
        submits = not self._site.host.places and not self.pulse.is_due()
        return submits and all(row.is_offer for row in rows)

    def _offer(self, rows: Sequence[Written]) -> None:
        """Write new tasks for others, in one statement where the database can."""
        self._reached, process = False, self._site.membership.process_id
        with self._database.alone() as connection, self._noted(rows):
            self._reached = True
            turn = self._site.statements.advance(connection, process, rows)
            if not turn.wrote:
                raise GivenUpError
        self._note(rows, turn.version, NOTHING, None)
        self._follower.arrivals.see_free(turn.free)
        self._let_go(rows, turn.version)

    @contextmanager
    def _noted(self, rows: Sequence[Written]) -> Iterator[None]:
        """Note that rows may be written from now on, unless the database refuses them."""
        new = [row.restart for row in rows if row.restart and not row.restart.written]
        for restart in new:
            # Before the attempt, since a commit that fails may have had its effect.
            restart.written.append(self._site.membership.process_id)
        try:
            yield
        except (*FAULTS, GivenUpError) as error:
            if isinstance(error, GivenUpError) or self._is_refused(error):
                for restart in new:
                    restart.written.clear()
            raise

    def _is_refused(self, error: BaseException) -> bool:
        """Return whether nothing of what was to be written can be in the database."""
        return self._database.is_data_fault(error) or self._database.is_busy(error)

    def _note(
        self, rows: Sequence[Written], version: int, settled: Settled, claimed: Claimed | None
    ) -> Claimed | None:
        """Note what a transaction has written that is committed, and return what it has claimed."""
        is_own = self._chained.committed(rows, settled)
        # Whether one that was withdrawn had been free, only a look tells.
        known = self._mirror.holds_free or not any(row.is_free and row.ended_at for row in rows)
        if claimed is not None:
            # What has changed of others' tasks is read as if they had written it.
            return claimed if is_own else replace(claimed, is_own=False)
        if is_own and known:
            self._follower.wrote(version)
        return None

    def _claimed(
        self, connection: Connection, version: int, free: int, rows: Sequence[Written] | None
    ) -> Claimed | None:
        """Claim free tasks after *rows* were written; if None, only say for how many is room."""
        if rows is None:
            self._sharing.tell(connection)
            return None
        gone = {row.task_id for row in rows if row.ended_at is not None or row.is_free}
        free += sum(row.is_free for row in rows)
        return self._follower.arrivals.claim(connection, version, free, gone)

    def _let_go(self, freed: Sequence[Written], version: int) -> None:
        """Let go of tasks that were set free with *version*."""
        if freed:
            self._lines.forget([row.task_id for row in freed])
            self._mirror.set_free(freed, version)

    def _parts_of(self, rows: Sequence[Written]) -> _Parts:
        free = [row for row in rows if row.is_free]
        own = [row for row in rows if not row.is_free] if free else rows
        # A new task can only have places for which it has asked here.
        placed = [
            row.task_id
            for row in free
            if (row.restart and row.restart.written) or self._lines.has(row.task_id)
        ]
        new = [row for row in free if row.is_new]
        return _Parts(own, new, [row for row in free if not row.is_new], placed)

    def _put(
        self, connection: Connection, parts: _Parts, version: int
    ) -> tuple[Collection[str], Collection[TaskRow]]:
        """Write the rows of a batch, but for the new ones.

        Returns:
            The ids of the tasks that start by it, and what the database has of those that have
            ended, but whose rows it refuses, since they had ended before.
        """
        process, statements = self._site.membership.process_id, self._site.statements
        own, refused, whole = list(parts.own), list[TaskRow](), True
        if own:
            if statements.put(connection, own, process, version) < len(own):
                whole, refused = False, self._follower.ended_before(connection, own, version)
            self._tell_of_strangers(connection, own)
        if parts.freed:
            statements.hand_over(connection, parts.freed, process, "", version)
            if wake_beside(connection, parts.freed, version):
                # If nothing is committed, it looks in vain.
                self._follower.arrivals.note_all()
        _places.set_free(connection, version, parts.placed, process)
        starting = [row.task_id for row in own if row.starts]
        # If all rows were written, these tasks belong to this process, and run.
        if starting and not whole:
            return statements.started(connection, starting, process), refused
        return starting, refused

    def _tell_of_strangers(self, connection: Connection, rows: list[Written]) -> None:
        """Log the tasks whose chosen id another process has used before."""
        chosen = [row.task_id for row in rows if row.has_chosen_id and row.ended_at is not None]
        own = self._site.membership.identities
        for task_id in self._site.statements.strangers(connection, chosen, own):
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
            refused = self._refused([rows[record.task_id] for record in part])
            if refused is None:
                self._safe(part, rows)
            else:
                self._write_halves(part, rows, refused)

    def _refused(self, rows: list[Written]) -> BaseException | None:
        """Write rows; return the error with which the database refuses what they have.

        Raises:
            SQLAlchemyError: If the database fails otherwise.
        """
        try:
            self._write_batch(rows, None, False)
        except FAULTS as error:
            if not self._database.is_data_fault(error):
                raise
            return error
        return None

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

    def try_aside(self) -> None:
        """Try the records that were set aside, up to the first that fails again; now and then."""
        if self._clock.monotonic() < self._tried_aside + self._site.pace.aside:
            return
        self._tried_aside = self._clock.monotonic()
        for record in self._backlog.aside:
            try:
                error = self._refused(list(self._drafted([record], 0.0).values()))
                if error is None:
                    _LOGGER.info("task %s is now written to the store", record.task_id)
                else:
                    self._give_up(record, error)
            except FAULTS:
                self._backlog.errors += 1
                self._backlog.tried(record, again=True)
                return
            self._backlog.tried(record, again=False)

    def hurry(self) -> None:
        """Write what is left as fast as possible from now on, since this process ends.

        Batches are as large as a group, and the interpreter is not released in between. It is the
        last chance for records that were set aside, however long ago they were tried.
        """
        self._tried_aside = -math.inf
        self._hurries = True
        # Not while a record is looked for that is at fault.
        if self.claims:
            self._most = GROUP
        self._largest = GROUP

    def _give_up(self, record: TaskRecord, error: BaseException) -> None:
        """Write a shorter row of a record whose contents the database refuses.

        Raises:
            SQLAlchemyError: If the database fails meanwhile; the record is kept.
        """
        said, told = why(error), "task %s is written to the store without what it refuses: %s"
        row = self.drafts.bare_row_of(record, error, said)
        if self._refused([row]) is not None:
            told = "task %s cannot be written to the store: %s"
            # If there is no row, nobody else can have the task.
            restart = row.restart
            self._backlog.permit(record.task_id, restart is not None and not restart.written)
        _LOGGER.error(told, record.task_id, said)
        self._backlog.errors += 1
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
