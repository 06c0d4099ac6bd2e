"""Reads the finished tasks that memory does not hold: all of them, or a page.

Guarantees: what has ended in this process is listed from then on, written or not; what was
removed is not, deleted or not.
Relies on: calls on threads that may block.
Lock order: none is held here.
"""

from __future__ import annotations

import math

from framework._tasks.pages import PageQuery
from framework._tasks.records import TaskRecord, TaskStatus
from framework.stores.sql._backlog import Backlog
from framework.stores.sql._database import Database
from framework.stores.sql._follower import Follower
from framework.stores.sql._mirror import Mirror
from framework.stores.sql._pages import Pages
from framework.stores.sql._rows import can_be_kept, wall_end
from framework.stores.sql._statements import CHUNK


class History:
    """Reads finished tasks from memory and the database.

    Args:
        database: Holds all that were written.
        backlog: Holds those that wait to be written.
        mirror: Holds the latest, and the others' live ones.
        follower: Knows which were removed.
        pages: The SQL.
    """

    def __init__(
        self,
        database: Database,
        backlog: Backlog,
        mirror: Mirror,
        follower: Follower,
        pages: Pages,
    ) -> None:
        self._database = database
        self._pages = pages
        self._backlog = backlog
        self._mirror = mirror
        self._follower = follower

    def records(self, status: TaskStatus | None) -> list[TaskRecord]:
        """Return all finished tasks in the order of their end, then the others' live ones.

        Raises:
            SQLAlchemyError: If the database fails.
        """
        # First: what ends or is written from now on is in the database then.
        held = {str(record.task_id): record for record in self._mirror.records(status)}
        found: list[TaskRecord] = []
        if status is None or status.is_final:
            place, more = (math.nextafter(self._follower.removed, math.inf), ""), True
            while more:
                # One transaction for each step: a long one would keep a file of SQLite growing.
                with self._database.reading() as connection:
                    rows = self._pages.history(connection, place, status)
                found += self._mirror.read_only(rows)
                more = len(rows) == CHUNK
                if more:
                    place = rows[-1][7], rows[-1][0]
        for record in found:
            held.pop(record.task_id, None)
        return found + list(held.values())

    def page(self, query: PageQuery) -> list[TaskRecord]:
        """Return a page of all tasks but this process's live ones.

        Raises:
            SQLAlchemyError: If the database fails.
        """
        removed = self._follower.removed
        # First: what ends or is written from now on is in the database then.
        found = {str(one.task_id): one for one in self._mirror.others(query.status)}
        waiting = [one for one in self._backlog.finals() if wall_end(one) > removed]
        if query.status is None or query.status.is_final:
            found |= {str(one.task_id): one for one in self._written(query, removed)}
        found |= {str(one.task_id): one for one in waiting}
        return query.first(found.values())

    def _written(self, query: PageQuery, removed: float) -> list[TaskRecord]:
        if query.name is not None and not can_be_kept(query.name):
            return []
        with self._database.reading() as connection:
            rows = self._pages.page(connection, query, removed)
        return self._mirror.read_only(rows)
