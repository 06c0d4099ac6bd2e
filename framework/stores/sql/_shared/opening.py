"""Opens the database of a store: waits until it works, and until older processes have ended.

Processes of an older release know nothing of what newer ones write: they would end tasks that wait,
or write rows that newer ones misread.

Guarantees: the tables are upgraded only while no older process beats; one that stood still until
then has no row any more, so it writes nothing before it has noticed (see `Membership.enter`).
Relies on: calls on one thread, before this process has a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from framework._threads.clock import SystemClock
from framework._threads.loggers import SafeLogger
from framework.exceptions import StoreUnavailableError
from framework.stores.sql._shared.membership import Membership
from framework.stores.sql._shared.site import Pace
from framework.stores.sql._tables.database import FAULTS, Database
from framework.stores.sql._tables.schema import (
    META,
    PROCESSES,
    STEPS,
    is_outdated,
    prepare,
    version_of,
)

_LOGGER = SafeLogger("asyncframe")

OPEN_PATIENCE: Final = 5.0
"""Seconds for which opening a database is retried."""

UPGRADE_PATIENCE: Final = 300.0
"""The same while another process upgrades its tables, which makes indexes of all rows."""

PATIENCE: Final = 60.0
"""Seconds to wait for processes of an older release to end."""

_NAMED: Final = 10
"""How many of them a message names."""


class Predecessors:
    """Lets the processes of an older release end before the tables are upgraded.

    Args:
        database: The database that they use.
        clock: Measures the patience.
        patience: For how many seconds, above 0.
    """

    def __init__(self, database: Database, clock: SystemClock, patience: float = PATIENCE) -> None:
        self._database = database
        self._clock = clock
        self._patience = patience
        self._seen = Membership(database.dialect)
        self._version = 0
        self._until: float | None = None
        self._left: list[str] = []

    def let_upgrade(self) -> bool:
        """Create or upgrade the tables, unless older processes run; called once a second.

        Returns:
            Whether the tables are those of this release.

        Raises:
            StoreUnavailableError: If older processes still run when the patience is over, or if
                the tables are of a newer release.
            SQLAlchemyError: If the database fails.
        """
        try:
            if prepare(self._database, STEPS, self._have_ended):
                return True
        except FAULTS:
            # What was not committed is no sign that the others could have given one.
            self._seen = Membership(self._database.dialect)
            raise
        now = self._clock.monotonic()
        if self._until is None:
            self._until = now + self._patience
            _LOGGER.warning(
                "the tables of the store are of an older release, whose processes may still be "
                "running: %s; this process starts when they have ended, or gives up after %g s",
                self._names(),
                self._patience,
            )
        if now >= self._until:
            raise StoreUnavailableError(
                f"the tables of this database have version {self._version}, and processes of the "
                f"release that made them are still running: {self._names()}; this release needs "
                f"version {len(STEPS)}: stop them, then start this process again"
            )
        return False

    def _have_ended(self, connection: Connection) -> bool:
        """Return whether all older processes have ended or died; bury the dead ones then."""
        # Who writes shows that the others could have given a sign of life since the last call.
        connection.execute(sa.update(META).values(version=META.c.version + 1))
        # Whoever enters waits, and looks at the version then.
        self._database.dialect.keep_out(connection, PROCESSES)
        dead = self._seen.watch(connection)
        # Even if this is not committed: then a new one looks.
        self._seen.watched()
        rows = connection.execute(
            sa.select(PROCESSES.c.process_id, PROCESSES.c.host, PROCESSES.c.pid).order_by(
                PROCESSES.c.host, PROCESSES.c.pid
            )
        )
        gone = {process_id for process_id, _ in dead}
        self._left = [f"{host} (pid {pid})" for one, host, pid in rows if one not in gone]
        self._version = version_of(connection)
        if not self._left:
            self._seen.bury(connection, dead)
        return not self._left

    def _names(self) -> str:
        further = len(self._left) - _NAMED
        named = ", ".join(self._left[:_NAMED])
        return f"{named} and {further} more" if further > 0 else named


def open_in_time(
    database: Database, clock: SystemClock, pace: Pace, enter: Callable[[], None]
) -> None:
    """Create or upgrade the tables, and call *enter*, until both succeed; blocks.

    Raises:
        StoreUnavailableError: If the tables are of a newer release, or older processes stay.
        SQLAlchemyError: If the database still fails after five seconds, its latest error.
        OSError: The same.
    """
    older = Predecessors(database, clock)
    begun = clock.monotonic()
    while True:
        try:
            if older.let_upgrade():
                enter()
                return
            clock.sleep(pace.beat)
            begun = clock.monotonic()
        except FAULTS as error:
            if clock.monotonic() >= begun + _patience(database, error):
                raise
            clock.sleep(pace.look)


def _patience(database: Database, error: BaseException) -> float:
    """Return for how many seconds to try to open the database, after an error."""
    with suppress(*FAULTS):
        if database.is_busy(error) and is_outdated(database):
            return UPGRADE_PATIENCE
    return OPEN_PATIENCE
