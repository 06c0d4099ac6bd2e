"""Removal: the rows of removed tasks, which are deleted a few in each transaction.

Guarantees: all of them are deleted in the end, others can write meanwhile, and the framework is
told of each row that it wants to know of.
Relies on: calls on the store's own thread, except for `Removal.ask`.
Lock order: its lock is innermost.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from sqlalchemy.engine import Connection

from framework._threads.clock import SystemClock
from framework.stores.sql._tables.rows import TaskRow
from framework.stores.sql._tables.statements import DELETED, Statements

_QUICK: Final = 0.008
"""Seconds that a transaction should take to delete old tasks: nobody else can write meanwhile."""

_FEW: Final = 16
"""How many tasks are deleted in a transaction at least."""


class Deleted(NamedTuple):
    """What a transaction has deleted.

    Attributes:
        left: Whether there may be more to delete.
        seconds: How long it took.
        rows: The deleted rows of which the framework is to be told.
    """

    left: bool = False
    seconds: float = 0.0
    rows: Sequence[TaskRow] = ()


class Removal:
    """Which rows are to be deleted, and how many of them at once.

    Args:
        statements: The SQL.
        clock: Real time.
    """

    def __init__(self, statements: Statements, clock: SystemClock) -> None:
        self._statements = statements
        self._clock = clock
        self._lock = threading.Lock()
        self._bound: float | None = None
        # The ids of removed tasks of which the framework knows; None if it wants to know none.
        self._told: set[str] | None = None
        # How many rows the next transaction deletes.
        self._many = 16 * _FEW

    @property
    def bound(self) -> float | None:
        """The wall second up to which ended tasks are to be deleted; None if all are."""
        with self._lock:
            return self._bound

    def ask(self, bound: float, told: Collection[str] | None = None) -> None:
        """Delete what ended by wall second *bound*; any thread.

        Args:
            bound: The wall second.
            told: The ids of removed tasks of which the framework knows; it is told of all
                others. None to tell it of none.
        """
        with self._lock:
            self._bound = max(bound, self._bound or 0.0)
            if told is not None:
                self._told = {*(self._told or ()), *told}

    def delete(self, connection: Connection, bound: float) -> Deleted:
        """Delete some of the tasks that ended by wall second *bound*."""
        with self._lock:
            told = None if self._told is None else set(self._told)
        begun, many = self._clock.monotonic(), self._many
        rows = []
        if told is not None:
            ended = self._statements.ended(connection, bound, many)
            rows = [row for row in ended if row.task_id not in told]
        left = self._statements.remove(connection, bound, many)
        seconds = self._clock.monotonic() - begun
        if seconds > _QUICK:
            self._many = max(_FEW, many // 2)
        elif left and seconds < _QUICK / 2:
            self._many = min(DELETED, 2 * many)
        return Deleted(left, seconds, rows)

    def committed(self, bound: float | None, gone: Deleted) -> bool:
        """Note what a transaction deleted up to *bound*; return whether there is more to delete."""
        with self._lock:
            # Unless a later clean-up has moved it meanwhile.
            if self._bound == bound and not gone.left:
                self._bound = self._told = None
            return self._bound is not None
