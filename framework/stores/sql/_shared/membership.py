"""Which processes share the database and are alive, by counters and not by clocks.

Each process has a row with a counter, which it increments while it lives, and watches the
counters of the others. A process is dead if its counter stands still while this process
increments its own six times. So clocks may differ and jump, and nobody counts as dead while
the database cannot be written or the machine is suspended.

One that runs on this machine, and has ended for sure, is dead at once. Only a database that no
other machine has is asked so: a copy of a running machine cannot be told from the first one.

Guarantees: a process whose row is gone writes no task before it has a new row. `_orphans` has
what becomes of its live tasks.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from framework._threads.watch import processes
from framework.stores.sql._tables.schema import PROCESSES, STEPS, newer_tables, version_of

_LOGGER = logging.getLogger("asyncframe")

MISSED: Final = 6
"""Beats of this process within which another one's counter must move."""

_BEAT: Final = (
    sa.update(PROCESSES)
    .where(PROCESSES.c.process_id == sa.bindparam("own"))
    .values(beat=PROCESSES.c.beat + 1)
)


class GivenUpError(Exception):
    """The row of this process is gone, so its transaction must be rolled back."""


class Membership:
    """This process's row, and the counters that it has seen in the others'.

    Args:
        local: Whether all processes that share the database run on one machine.

    Attributes:
        process_id: The id of this process since it last entered; "" before.
        identities: All ids that it has had.
    """

    def __init__(self, local: bool) -> None:
        self._local = local
        self.process_id = ""
        self.identities: list[str] = []
        self._seen: dict[str, tuple[int, int]] = {}

    def enter(self, connection: Connection, now: float) -> None:
        """Enter with a new id; *now* is in wall seconds, for people to read.

        Raises:
            StoreUnavailableError: If a newer release has upgraded the tables.
        """
        self.process_id = processes.process_id()
        self.identities.append(self.process_id)
        connection.execute(
            sa.insert(PROCESSES).values(
                process_id=self.process_id,
                host=socket.gethostname(),
                pid=os.getpid(),
                started_at=now,
                beat=0,
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

    def beat(self, connection: Connection) -> None:
        """Increment this process's counter; part of every transaction that writes.

        Raises:
            GivenUpError: If another process has given it up.
        """
        done = connection.execute(_BEAT, {"own": self.process_id})
        if done.rowcount == 0:
            raise GivenUpError

    def watch(self, connection: Connection) -> list[tuple[str, int]]:
        """Read the others' counters, once for each beat of this process.

        Returns:
            The dead ones, each with its counter.
        """
        found = connection.execute(
            sa.select(PROCESSES.c.process_id, PROCESSES.c.beat, PROCESSES.c.pid)
        )
        seen: dict[str, tuple[int, int]] = {}
        for process_id, beat, pid in found:
            if process_id == self.process_id:
                continue
            last, missed = self._seen.get(process_id, (-1, 0))
            seen[process_id] = (beat, missed + 1) if beat == last else (beat, 0)
            # One that has given a sign of life since the last call need not be looked for.
            if self._local and last in {beat, -1} and processes.has_ended(process_id, pid):
                seen[process_id] = beat, MISSED
        self._seen = seen
        return [(one, beat) for one, (beat, missed) in seen.items() if missed >= MISSED]

    def is_alone(self, connection: Connection) -> bool:
        """Return whether no other process has a row; any thread."""
        others = sa.select(PROCESSES.c.process_id).where(PROCESSES.c.process_id != self.process_id)
        return connection.execute(others.limit(1)).first() is None

    def bury(self, connection: Connection, dead: Sequence[tuple[str, int]]) -> None:
        """Delete the rows of dead processes, unless their counters have moved since."""
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
