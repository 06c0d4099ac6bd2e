"""Chained tasks: those of this process that wait for others, as the database knows them.

Whoever ends what they wait for decides what becomes of them; see `chains`. Here that is read, and
the framework is told.

Relies on: calls on the store's own thread.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy.engine import Connection

from framework._records.statuses import TaskStatus
from framework.protocols import StoreHost
from framework.stores.sql._tables import chains
from framework.stores.sql._tables.rows import TaskRow


class Over(NamedTuple):
    """What has become of tasks of this process.

    Attributes:
        released: The ids of those that wait for others no more.
        cancelled: Why each of those was cancelled that have ended by that, by their ids.
    """

    released: Collection[str]
    cancelled: Mapping[str, str]


class Chained:
    """The tasks of one process that wait for others.

    Args:
        host: Is told what has become of them.

    Attributes:
        waiting: Their ids, from the commit on that has stored it.
    """

    def __init__(self, host: StoreHost) -> None:
        self._host = host
        self.waiting = set[str]()

    def see(self, connection: Connection, rows: Sequence[TaskRow]) -> Over:
        """Return what has become of those among some rows that have changed."""
        own = [row for row in rows if row.task_id in self.waiting] if self.waiting else ()
        live = [row.task_id for row in own if row.ended_at is None]
        released = chains.released_among(connection, live) if live else ()
        ended = [row for row in own if row.status == TaskStatus.CANCELLED.value]
        return Over(released, {row.task_id: row.reason for row in ended})

    def end(self, over: Over) -> None:
        """Tell the framework what has become of some, once that is safe."""
        self.waiting.difference_update(over.released, over.cancelled)
        if over.released:
            self._host.release(over.released)
        for task_id, reason in over.cancelled.items():
            self._host.withdraw(task_id, reason)
