"""Reads what the other processes write, and notices which of them die.

Guarantees: every change that another process commits is read; versions are assigned in the
order of the commits, so none is skipped.
Relies on: calls on the store's own thread, except for `Follower.read` and `Follower.forget`.
Lock order: `_lock` is innermost, and held for one comparison.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

from sqlalchemy.engine import Connection

from framework._records.records import Kind, TaskRecord
from framework._records.statuses import TaskStatus
from framework._threads.loggers import SafeLogger
from framework.stores.sql._dialects.link import Read
from framework.stores.sql._reading.arrivals import Arrivals, Claimed
from framework.stores.sql._reading.beats import state_of
from framework.stores.sql._reading.chained import Chained
from framework.stores.sql._reading.mirror import Mirror, Older
from framework.stores.sql._reading.pages import BEFORE_FREE, BEHIND_FREE, Pages, live_in_steps
from framework.stores.sql._shared import places as _places
from framework.stores.sql._shared.free import orphans as _orphans
from framework.stores.sql._shared.free.sharing import Sharing
from framework.stores.sql._shared.site import Site
from framework.stores.sql._shared.submissions import Submissions
from framework.stores.sql._tables import free_rows
from framework.stores.sql._tables.rows import TaskRow, Written
from framework.stores.sql._tables.statements import CHUNK, in_steps

_LOGGER = SafeLogger("asyncframe")

BREATH: Final = 0.0001
"""Seconds for which the thread releases the interpreter between two steps."""

IN_TIME: Final = 0.05
"""Seconds after which the thread takes no more breaths. While other threads compute, each
breath takes long, and whatever waits for this thread would wait for all of them. From then on
the others wait for the interpreter for up to 5 ms."""

_CATCHING_UP: Final = 0.5
"""For how many seconds whoever asks waits for a look at most."""

_MOST: Final = 5_000
"""Rows after which the thread does what else is due, such as a sign of life."""

_NAMED: Final = 10
"""How many functions a line of the log names."""

_SLICE: Final = 64
"""Rows to read before the next breath."""


class _VainError(Exception):
    """A transaction has claimed nothing, and is rolled back: nobody need hear of it."""


class Follower:
    """Follows the other processes.

    Args:
        site: What it works with.
        mirror: Receives what is read.
        sharing: Says what this process has places for.

    Attributes:
        version: The version up to which all changes were read.
        removed: The wall second up to which ended tasks were removed.
        asked: The number of the latest inquiry to all processes at the last look.
        moved: Whether there was something to look at when the others were watched last.
        is_close: Whether it reads at once what others have written; otherwise once a second.
        told: Called with the ids of tasks of other processes that have changed; None for nobody.
        submissions: The tasks that apps submit in transactions of their own.
        arrivals: The free tasks that this process takes over.
        chained: The tasks of this process that wait for others.
    """

    def __init__(self, site: Site, mirror: Mirror, sharing: Sharing) -> None:
        self._site = site
        self._database = site.database
        self._statements = site.statements
        self._membership = site.membership
        self._mirror = mirror
        self._sharing = sharing
        self._host = site.host
        self._clock = site.clock
        self.submissions = Submissions(site.statements, site.backlog.wake)
        self.arrivals = Arrivals(site, mirror, sharing, self.submissions)
        self.told: Callable[[Collection[str] | None], object] | None = None
        # Until there is a thread that could read anything.
        self.is_close = True
        self.chained = Chained(site.host)
        self._awaited = deque[threading.Event]()
        self.version = 0
        self.removed = 0.0
        self.asked = 0
        self.moved = False
        # Whether the latest look at orphans has left some for the next one, or there are more.
        self._unsettled = self._hinted = False
        # Nothing fails without it while there is a global lock: threads are not switched between
        # a comparison of numbers and the assignment.
        self._lock = threading.Lock()

    @property
    def read_to(self) -> Read:
        """Up to where it has read."""
        return self.version, self.asked

    def tell(self, told: Callable[[Collection[str] | None], object]) -> Callable[[], None]:
        """Call *told* from now on, until what is returned is called; any thread."""
        self.told = told
        # The store's thread may sleep for longer than it should from now on.
        self._site.backlog.wake()

        def stop() -> None:
            self.told = None

        return stop

    def settle_soon(self) -> None:
        """Settle what becomes of orphans and of free tasks that are cancelled; any thread."""
        self._hinted = True
        self._site.backlog.wake()

    def forget(self, bound: float) -> bool:
        """Stop returning tasks that ended by wall second *bound*; False if it has; any thread."""
        # 1 one thread sees an earlier bound, 2 another sets a later one, 3 the first sets its
        # own: what was removed by 2 would come back.
        with self._lock:
            later = bound > self.removed
            if later:
                self.removed = bound
        return later

    def wrote(self, version: int) -> None:
        """Note that this process itself has written *version*."""
        if version <= self.version:
            self._go_back(version)
        elif version == self.version + 1:
            # Nobody else has written in between, so there is nothing to read either.
            self.version = version

    def look(self) -> None:
        """Read what other processes have written since the last call."""
        self.moved = False
        # First: those that come meanwhile wait for the next look.
        awaited = len(self._awaited)
        self._site.link.looks()
        with self._database.reading() as connection:
            version, removed, asked, free = self._statements.position(connection)
            if version < self.version:
                self._go_back(version)
            found, reached = self._since(connection, version)
            over = self.chained.see(connection, found)
            self.submissions.see(connection)
        self._take_in(found)
        self.chained.end(over)
        if reached == version:
            self._mirror.see_free(free)
        self.version, self.asked = reached, asked
        if self.forget(removed):
            self._mirror.drop_by(removed)
        for _ in range(awaited):
            self._awaited.popleft().set()

    def catch_up(self) -> None:
        """Wait until all is read that is committed now; any thread, blocks.

        It does not wait while the others are followed closely, nor long for a database that fails.
        """
        if not self.is_close:
            looked = threading.Event()
            self._awaited.append(looked)
            self._site.backlog.wake()
            looked.wait(_CATCHING_UP)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for a look."""
        return bool(self._awaited)

    def _go_back(self, version: int) -> None:
        """Let all be read anew: the database has less than was read or written before."""
        _LOGGER.error(
            "the database of the store has gone back to an earlier state, version %d after %d: a "
            "backup was put back, or a standby that lagged behind has taken over; what it lacks "
            "is lost: restart all processes of this app",
            version,
            self.version,
        )
        self.version = -1
        self._mirror.expect_again()

    def _since(self, connection: Connection, version: int) -> tuple[list[TaskRow], int]:
        """Return the rows up to *version*, and that version.

        Of many rows only the first, and their version; the next look reads the others.
        """
        found: list[TaskRow] = []
        if version <= self.version:
            return found, version
        first, process = self.version + 1, self._membership.process_id
        for rows in self._statements.since(connection, first, process):
            found += rows
            if len(found) >= _MOST and len(rows) == CHUNK and rows[-1].version > first:
                # Of the last version there may be more.
                return found, rows[-1].version - 1
        return found, version

    def _take_in(self, rows: list[TaskRow]) -> None:
        own = self._membership.process_id
        others = []
        for row in rows:
            if row.process != own:
                if self._is_kept(row):
                    others.append(row)
                if not row.process and row.ended_at is None and not self._site.link.is_called:
                    self.arrivals.note(row)
            elif row.ended_at is None and row.cancel_requested:
                self.cancel(row.task_id)
        # In the order of their end: the oldest are removed first.
        others.sort(key=lambda row: row.ended_at or 0.0)
        until = self._clock.monotonic() + IN_TIME
        for at in range(0, len(others), _SLICE):
            if at and self._clock.monotonic() < until:
                self._clock.sleep(BREATH)
            self._mirror.add(others[at : at + _SLICE])
        if others:
            self._tell([row.task_id for row in others])

    def cancel(self, task_id: str, reason: str = "") -> None:
        """Cancel a live task of this process, unless that was requested before."""
        record = self._site.backlog.live.get(task_id)
        if record is not None and not record.cancel_asked:
            self._host.cancel(task_id, reason)

    def _tell(self, task_ids: Collection[str]) -> None:
        told = self.told
        if told is not None:
            told(task_ids)

    def watch(self, opened: AbstractContextManager[Connection] | None = None) -> None:
        """Check that the others live; end the tasks of dead ones, follow them or set them free.

        Also check that the number of free tasks is right.

        Args:
            opened: A transaction to read in; None for one of its own.
        """
        with opened or self._database.reading() as connection:
            dead = self._membership.watch(connection)
            state = state_of(connection)
            position = state.position
            orphans = state.unwanted or _orphans.are_lost(connection, self._database.dialect)
            self.arrivals.watch(connection, position.version, state.due_at)
            self.submissions.waits = state.submissions
            self.moved = (position.version, position.asked) != self.read_to
            # Before a beat at the end of this transaction, which says anew how far it is.
            self._site.link.check(self.moved, self.read_to)
        self._membership.watched()
        if state.miscounted or self._membership.silent:
            with self._database.writing() as connection:
                self._membership.pass_over(connection)
                if state.miscounted:
                    free_rows.mend(connection)
        # If the answer of the last transaction was lost, it may have had its effect.
        if dead or orphans or state.homeless or self.arrivals.are_open:
            self._bury(dead)

    @property
    def behind(self) -> bool:
        """Whether submissions or orphans wait, or free tasks for which this process has places."""
        is_unsettled = self._unsettled or self._hinted
        return is_unsettled or self.has_submissions or bool(self.arrivals.room())

    @property
    def has_submissions(self) -> bool:
        """Whether submissions wait, or may wait, to be set free."""
        return self.submissions.hinted or self.submissions.waits

    def go_on(self) -> None:
        """Set submissions and orphans free, and claim the tasks for which there are places."""
        # First: what is cancelled meanwhile is settled once more.
        hinted, self._hinted = self._hinted, False
        if self._unsettled or hinted:
            self._bury(())
        kinds = self._host.room().keys()
        # First: what is committed after the look is hinted at after it, too.
        hinted, self.submissions.hinted = self.submissions.hinted, False
        # If this process is called, there is something to claim.
        if hinted or not self.arrivals.is_called:
            with self._database.reading() as connection:
                self.arrivals.see(connection, kinds)
                if hinted:
                    self.submissions.see(connection)
        # Most often another process was first, and nothing need be written.
        if self.has_submissions or self.arrivals.room():
            self._claim()

    def share(self) -> None:
        """Let others have what waits here for a thread, or claim what should start before it."""
        take = self._sharing.go_on("thread" in self.arrivals.waiting)
        if take:
            self._sharing.took(self._claim({"thread": take}))

    def _claim(self, beside: Mapping[Kind, int] | None = None) -> list[str]:
        try:
            with self._site.turn() as (connection, version, turn):
                claimed = self.arrivals.claim(connection, version, turn.free, beside=beside)
                if claimed.is_vain:
                    raise _VainError
        except _VainError:
            self.arrivals.take(claimed)
            return []
        self.arrive(claimed)
        return [str(record.task_id) for record in claimed.records]

    def arrive(self, claimed: Claimed) -> None:
        """Take what a transaction has claimed that is committed."""
        self.arrivals.take(claimed)
        # Of free tasks that are not held, only a look tells how many are left.
        if claimed.is_own and self._mirror.holds_free:
            self.wrote(claimed.version)
        if claimed.records:
            # Whoever follows them finds them in this process from now on.
            self._tell([str(record.task_id) for record in claimed.records])

    def _bury(self, dead: Sequence[tuple[str, int]]) -> None:
        """Bury the *dead*, and settle what becomes of their tasks."""
        membership, arrivals = self._membership, self.arrivals
        were_open = arrivals.are_open
        with self._site.turn() as (connection, version, turn):
            membership.bury(connection, dead)
            arrivals.put_back(connection, version)
            own, now = membership.process_id, self._host.clock.time()
            settled = _orphans.settle(
                connection, self._database.dialect, own, version, now, chained=turn.chained
            )
            _places.inherit(connection, version)
            remote = self._mirror.read(self._statements.in_order(connection, settled.remote))
            ended = self._statements.of_ids(connection, settled.ended)
            # Before the commit, as above.
            arrivals.adopted = [*arrivals.adopted, *settled.remote]
        self._unsettled = settled.more
        for record in remote:
            self._mirror.forget(record.task_id)
        if remote:
            self._host.adopt(remote)
        arrivals.settled()
        if settled.freed or were_open:
            arrivals.note_all()
        self._tell_of_ended(self._mirror.read(ended))
        if remote:
            self._tell([record.task_id for record in remote])

    def bury_free(self, task_ids: Collection[str]) -> None:
        """Tell of tasks that nobody had, and that this process has ended."""
        with self._database.reading() as connection:
            ended = self._statements.of_ids(connection, task_ids)
        self._tell_of_ended(self._mirror.read(ended))

    def _tell_of_ended(self, records: Sequence[TaskRecord]) -> None:
        """Count and name the tasks that this process has ended, and that no other one has."""
        if not records:
            return
        self._host.buried(records)
        lost = Counter(one.name for one in records if one.status is TaskStatus.INTERRUPTED)
        if lost:
            names = ", ".join(f"{name} ({count})" for name, count in lost.most_common(_NAMED))
            _LOGGER.warning(
                "tasks that ended INTERRUPTED with their process: %d, of %s%s",
                lost.total(),
                names,
                " and others" if len(lost) > _NAMED else "",
            )

    def read(self, connection: Connection, task_ids: Collection[str]) -> list[TaskRecord]:
        """Return the records of some ids from the database; any thread.

        Of this process's own tasks it may not have heard yet how they ended, or that they
        were removed since.
        """
        own = self._membership.identities
        rows, counted, ended = [], [], []
        for row in filter(self._is_kept, self._statements.of_ids(connection, task_ids)):
            is_own = row.process in own
            if row.ended_at is not None and (is_own or row.version <= self.version):
                counted.append(row)
            elif row.ended_at is not None or not is_own or self._is_live(row.task_id):
                rows.append(row)
            elif (known := self._mirror.get(row.task_id)) is not None:
                ended.append(known)
            elif row.process != self._membership.process_id:
                # The others have given this process up, and the task will be taken over.
                rows.append(row)
        found = ended + self._mirror.read_only(counted) + self._mirror.read(rows)
        missing = set(task_ids).difference(record.task_id for record in found)
        return found + self._mirror.read(self.submissions.rows(connection, missing))

    def changed(self, connection: Connection, version: int) -> Iterator[TaskRow]:
        """Yield what others have changed since *version*, each with its process; any thread."""
        own = self._membership.process_id
        for rows in self._statements.since(connection, version + 1, own):
            yield from (row for row in rows if row.process != own)

    def ended_before(
        self, connection: Connection, rows: Iterable[Written], version: int
    ) -> list[TaskRow]:
        """Return what the database has of tasks in *rows* that had ended before *version*."""
        ended = [row.task_id for row in rows if row.ended_at is not None]
        found = self._statements.of_ids(connection, ended)
        return [row for row in found if row.ended_at is not None and row.version < version]

    def _is_live(self, task_id: str) -> bool:
        return self.arrivals.has(task_id) or self._site.backlog.has(task_id)

    def _is_kept(self, row: TaskRow) -> bool:
        """Whether no clean-up has removed the task of a row."""
        return row.ended_at is None or row.ended_at > self.removed

    def load(self, pages: Pages, pause: Callable[[], None]) -> None:
        """Read the history; called before everything else.

        Few finished tasks are read whole; of many, only when and how they ended.

        Args:
            pages: The SQL that reads it.
            pause: Called between two steps, outside a transaction.
        """
        with self._database.reading() as connection:
            self.version, self.removed, _, free = self._statements.position(connection)
            start = math.nextafter(self.removed, math.inf), ""
            many = pages.end(connection, start, self._mirror.held) is not None
            if not many:
                for rows in in_steps(lambda after: pages.history(connection, after), start):
                    self._mirror.add(rows)
        older, place = Older(), start if many else None
        while place is not None:
            # Not in one transaction: what ends or is removed meanwhile is read afterwards.
            pause()
            with self._database.reading() as connection:
                marks, place = pages.marks(connection, place)
            older.extend(marks)
        self._mirror.add_older(older)
        with self._database.reading() as connection:
            begin = BEFORE_FREE if free <= self._mirror.held_free else BEHIND_FREE
            for rows in live_in_steps(partial(pages.live, connection), begin):
                self._mirror.add(rows)
        self._mirror.see_free(free)
