"""Which processes share the database and are alive, by counters and not by clocks.

Each process has a row with a counter, which it increments while it lives, and watches the
counters of the others. A process is dead if its counter stands still while this process
increments its own six times. So clocks may differ and jump, and nobody counts as dead while
the database cannot be written or the machine is suspended.

With a server, each process also holds a lock by a session of its own while it lives, and its row
says in which run of the server. The server frees the lock at once when the process is killed. But a
free lock alone proves nothing: the session may have been lost, and when the server restarts all
locks are free while all processes live. So it counts only in the same run of the server, and then
lets a beat that stands still count three times. That takes two beats of this process with a free
lock: one that lives gets its lock back within moments, or beats once a second without it.

One whose counter stands still for a beat may hang. Until it moves, its row says that it has no free
thread, so that nobody is called, and nothing set free, for what it has said before.

One that ran on this machine, and has ended for sure, is dead at once: with a file, which no other
machine has, or if its lock is free. A copy of a running machine cannot be told from the first one,
but the process of the first one holds the lock.

Guarantees: a process whose row is gone writes no task before it has a new row. `_orphans` has
what becomes of its live tasks. So a verdict that is wrong may cost tasks, and starts none twice.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from framework._threads.loggers import SafeLogger
from framework._threads.watch import processes
from framework.stores.sql._dialects.dialect import Dialect
from framework.stores.sql._dialects.link import Link
from framework.stores.sql._dialects.session import key_of
from framework.stores.sql._tables.schema import PROCESSES, STEPS, newer_tables, version_of

_LOGGER = SafeLogger("asyncframe")

MISSED: Final = 6
"""Beats of this process within which another one's counter must move."""

FREED: Final = 3
"""For how many missed beats one counts while the lock of its process is free."""

_BEAT: Final = (
    sa.update(PROCESSES)
    .where(PROCESSES.c.process_id == sa.bindparam("own"))
    .values(beat=PROCESSES.c.beat + 1, presence=sa.bindparam("held", type_=sa.Text()))
)
_NOTHING: Final[Mapping[str, Any]] = {}
_ALL: Final = sa.select(PROCESSES.c.process_id, PROCESSES.c.beat, PROCESSES.c.pid)
_ALL_PRESENT: Final = _ALL.add_columns(PROCESSES.c.presence, PROCESSES.c.room)
_PASS_OVER: Final = (
    sa.update(PROCESSES)
    .where(PROCESSES.c.process_id == sa.bindparam("one"), PROCESSES.c.beat == sa.bindparam("at"))
    .values(room=0)
)


class GivenUpError(Exception):
    """The row of this process is gone, so its transaction must be rolled back."""


class Membership:
    """This process's row, and the counters that it has seen in the others'.

    Args:
        dialect: The kind of database.
        link: Holds this process's lock; None to look at tables of an older release only.

    Attributes:
        process_id: The id of this process since it last entered; "" before.
        identities: All ids that it has had.
        silent: Those that stand still, and have said that they have free threads, each with its
            counter.
    """

    def __init__(self, dialect: Dialect, link: Link | None = None) -> None:
        self._dialect = dialect
        self._link = link
        self.process_id = ""
        self.identities: list[str] = []
        self.silent: list[tuple[str, int]] = []
        self._seen: dict[str, tuple[int, int]] = {}
        # The same as the latest look has found it, whose transaction may yet fail.
        self._found: dict[str, tuple[int, int]] = {}

    def enter(
        self,
        connection: Connection,
        now: float,
        places: int | None = None,
        role: str | None = None,
    ) -> None:
        """Enter with a new id.

        Args:
            connection: A transaction that writes.
            now: In wall seconds, for people to read.
            places: How many tasks of each kind this process runs at a time, for people as well;
                None if that is not known.
            role: What it is, for people as well; None if that is not known.

        Raises:
            StoreUnavailableError: If a newer release has upgraded the tables.
        """
        self.process_id = processes.process_id()
        self.identities.append(self.process_id)
        if self._link is not None:
            self._link.belong(self.process_id)
        connection.execute(
            sa.insert(PROCESSES).values(
                process_id=self.process_id,
                host=socket.gethostname(),
                pid=os.getpid(),
                started_at=now,
                beat=0,
                places=places,
                role=role,
            )
        )
        # In this order: whoever upgrades them sees the row, or this one sees the upgrade.
        found = version_of(connection)
        if found > len(STEPS):
            raise newer_tables(found)
        self._seen.clear()

    def leave(self, connection: Connection) -> None:
        """Leave in order, with nothing left to write."""
        connection.execute(sa.delete(PROCESSES).where(PROCESSES.c.process_id == self.process_id))

    def beat(self, connection: Connection, said: Mapping[str, Any] = _NOTHING) -> None:
        """Increment this process's counter.

        Args:
            connection: A transaction that writes.
            said: What else its row says from now on, by column.

        Raises:
            GivenUpError: If another process has given it up.
        """
        held = None if self._link is None else self._link.presence
        beat = _BEAT.values({name: sa.bindparam(f"new_{name}") for name in said})
        values = {f"new_{name}": one for name, one in said.items()}
        done = connection.execute(beat, {**values, "own": self.process_id, "held": held})
        if done.rowcount == 0:
            raise GivenUpError

    def watch(self, connection: Connection) -> list[tuple[str, int]]:
        """Read the others' counters, once for each beat of this process.

        Returns:
            The dead ones, each with its counter.
        """
        rows = connection.execute(_ALL if self._link is None else _ALL_PRESENT).all()
        seen = {row.process_id: (row.beat, 0) for row in rows if row.process_id != self.process_id}
        # One that has given a sign of life since the last call need not be looked for.
        still = [
            row
            for row in rows
            if row.process_id in seen and self._last(row.process_id)[0] in {row.beat, -1}
        ]
        freed = set[str]() if self._link is None else freed_among(connection, self._dialect, still)
        for process_id, beat, pid, *_ in still:
            last, missed = self._last(process_id)
            is_free = process_id in freed
            if beat == last:
                seen[process_id] = beat, missed + (FREED if is_free else 1)
            if has_ended(self._dialect, process_id, pid, is_free=is_free):
                seen[process_id] = beat, MISSED
        self._found = seen
        self.silent = [(row.process_id, row.beat) for row in still if self._may_hang(row)]
        return [(one, beat) for one, (beat, missed) in seen.items() if missed >= MISSED]

    def _may_hang(self, row: Any) -> bool:
        # Of tables of an older release it is not read.
        room = None if self._link is None else row.room
        return self._last(row.process_id)[0] == row.beat and bool(room)

    def pass_over(self, connection: Connection) -> None:
        """Say of those that stand still that they have no free threads; each beat says it anew."""
        for process_id, beat in self.silent:
            connection.execute(_PASS_OVER, {"one": process_id, "at": beat})

    @property
    def has_others(self) -> bool:
        """Whether other processes had rows when this one looked last."""
        return bool(self._seen)

    def _last(self, process_id: str) -> tuple[int, int]:
        return self._seen.get(process_id, (-1, 0))

    def watched(self) -> None:
        """Count what the latest `watch` has found: its transaction is committed."""
        self._seen = self._found

    def is_alone(self, connection: Connection) -> bool:
        """Return whether no other process has a row; any thread."""
        others = sa.select(PROCESSES.c.process_id).where(PROCESSES.c.process_id != self.process_id)
        return connection.execute(others.limit(1)).first() is None

    def bury(self, connection: Connection, dead: Sequence[tuple[str, int]]) -> None:
        """Delete the rows of dead processes, unless their counters have moved since.

        In a transaction that adds to the version: whoever waits for its turn knows by that whether
        its row may be gone, see `Dialect.advancing`.
        """
        for process_id, beat in dead:
            done = connection.execute(
                sa.delete(PROCESSES).where(
                    PROCESSES.c.process_id == process_id, PROCESSES.c.beat == beat
                )
            )
            if done.rowcount:
                _LOGGER.warning(
                    "process %s is not responding: others take over its tasks that may run again, "
                    "and the rest end INTERRUPTED",
                    process_id,
                )


def freed_among(connection: Connection, dialect: Dialect, rows: Sequence[Any]) -> set[str]:
    """Return which of some processes hold their locks no more, in one run of the server.

    Args:
        connection: A transaction.
        dialect: The kind of database.
        rows: Rows with the id and the presence of each.
    """
    present = [row for row in rows if row.presence is not None]
    if not present:
        return set()
    run, held = dialect.holders(connection)
    return {
        row.process_id
        for row in present
        if row.presence == run and key_of(row.process_id) not in held
    }


def has_ended(dialect: Dialect, process_id: str, pid: int, *, is_free: bool) -> bool:
    """Return whether a process has ended for sure, by what this machine has.

    Args:
        dialect: The kind of database.
        process_id: Its id.
        pid: Its number.
        is_free: Whether its lock at the server is free.
    """
    return (is_free or dialect.is_local) and processes.has_ended(process_id, pid)
