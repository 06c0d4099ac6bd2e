"""Opens the database of a store: waits for older processes, and for a database that fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from framework._threads.clock import SystemClock
from framework.stores.sql._pace import Pace
from framework.stores.sql._shared.predecessors import Predecessors
from framework.stores.sql._tables.database import FAULTS, Database
from framework.stores.sql._tables.schema import is_outdated

OPEN_PATIENCE: Final = 5.0
"""Seconds for which opening a database is retried."""

UPGRADE_PATIENCE: Final = 300.0
"""The same while another process upgrades its tables, which makes indexes of all rows."""


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
