"""What the parts of one process's store work with, and how often its thread does what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from framework._threads.clock import SystemClock
from framework.protocols import StoreHost
from framework.stores.sql._backlog import Backlog
from framework.stores.sql._dialects.link import Link
from framework.stores.sql._shared.membership import GivenUpError, Membership
from framework.stores.sql._tables.database import Database
from framework.stores.sql._tables.rows import Written
from framework.stores.sql._tables.statements import Statements, statements_of
from framework.stores.sql._tables.turns import Turn


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the store's thread writes, reads and gives a sign of life, in seconds above 0.

    Attributes:
        gather: How long records are collected before a batch is written, while no caller waits
            until a record is safe.
        hurry: The same at most while callers wait, and come in bursts; less if as many have come as
            the last time.
        answer: The same for the end of a task that this process has claimed: where it was submitted
            somebody may wait for it.
        claim: Between two claims for which this process is called: at some hundred tasks a second
            several share one, and each costs less.
        look: Between two reads of what others have written.
        glance: Between two looks at a link that does not tell of that, which cost next to nothing.
        watch: Between two reads, and two looks, while somebody waits for a change of another
            process's task. Longer if reads take long, so that they take a fifth of the time.
        beat: Between two increments of this process's counter.
        pause_min: After the first fault; doubled after each further one.
        pause_max: The longest pause after a fault.
        aside: Between two attempts to write records that were set aside.
    """

    gather: float = 0.02
    hurry: float = 0.001
    answer: float = 0.01
    claim: float = 0.01
    look: float = 0.1
    glance: float = 0.015
    watch: float = 0.005
    beat: float = 1.0
    pause_min: float = 0.05
    pause_max: float = 1.0
    aside: float = 5.0


@dataclass(frozen=True, slots=True)
class Site:
    """What the parts of one process's store work with.

    Attributes:
        database: The database that several processes share.
        statements: Its SQL.
        link: What it has with the others beside its transactions.
        membership: This process among the others.
        backlog: The records of this process that wait to be written, and its live tasks.
        host: The framework.
        clock: Real time: the other processes live in it, also if a test moves this one's.
        pace: The intervals.
    """

    database: Database
    statements: Statements
    link: Link
    membership: Membership
    backlog: Backlog
    host: StoreHost
    clock: SystemClock
    pace: Pace

    @contextmanager
    def turn(self) -> Iterator[tuple[Connection, int, Turn]]:
        """Open a transaction in this process's turn to write, for which it waits.

        All writers of the database take turns. It is yielded with its version, and what else is
        known then.

        Raises:
            GivenUpError: If the others have given this process up.
        """
        with self.database.writing() as connection:
            turn = self.take(connection)
            yield connection, turn.version, turn

    def take(self, connection: Connection, new: Sequence[Written] = ()) -> Turn:
        """Take this process's turn in a transaction that writes.

        Args:
            connection: The transaction.
            new: What is written with it; see `Statements.advance`.

        Raises:
            GivenUpError: If the others have given this process up.
        """
        turn = self.statements.advance(connection, self.membership.process_id, new)
        if not turn.present:
            raise GivenUpError
        return turn


def site_of(
    database: Database, backlog: Backlog, host: StoreHost, clock: SystemClock, pace: Pace
) -> Site:
    """Return what the parts of a store work with, for a process that enters anew."""
    link = database.link(clock, backlog.wake)
    membership = Membership(database.dialect, link)
    statements = statements_of(database.dialect)
    return Site(database, statements, link, membership, backlog, host, clock, pace)
