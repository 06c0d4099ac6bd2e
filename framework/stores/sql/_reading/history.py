"""Reads the finished tasks that memory does not hold: all of them, or a page.

Guarantees: what has ended in this process is listed from then on, written or not; what was
removed is not, deleted or not.
Relies on: calls on threads that may block.
Lock order: none is held here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from framework._records.pages import PageQuery, key_of, with_own
from framework._records.records import TaskRecord
from framework._records.statuses import FINAL, TaskStatus
from framework.stores.sql._backlog import Backlog
from framework.stores.sql._reading.follower import Follower
from framework.stores.sql._reading.mirror import Mirror
from framework.stores.sql._reading.pages import Pages
from framework.stores.sql._tables.database import Database
from framework.stores.sql._tables.rows import ENDED_AT, TASK_ID, can_be_kept, wall_end
from framework.stores.sql._tables.statements import CHUNK


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
        # What the latest search asked for, and how many rows it has found.
        self._searched: tuple[PageQuery, int] | None = None

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
                    place = rows[-1][ENDED_AT], rows[-1][TASK_ID]
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
        own = self._held(query, removed)
        behind = query.in_order([one for one in own if query.is_behind(key_of(one))])
        if not _is_in_rows(query):
            return with_own(query, behind, lambda _: [])
        with self._database.reading() as connection:
            if query.offset:
                written = self._pages.ended(connection, [str(one.task_id) for one in behind])
                behind = [one for one in behind if one.task_id not in written]

            def fetch(page: PageQuery) -> list[TaskRecord]:
                if not page.search:
                    rows = self._pages.page(connection, page, removed)
                else:
                    rows, total = self._pages.searched(connection, page, removed)
                    self._searched = _filters(page), total
                return self._mirror.read_only(rows)

            return with_own(query, behind, fetch)

    def count(self, query: PageQuery) -> int:
        """Return how many tasks match but this process's live ones.

        Raises:
            SQLAlchemyError: If the database fails.
        """
        if _filters(replace(query, status=None, statuses=frozenset())) == _ALL:
            figures = self._mirror.figures()
            return sum(figures[status.value] for status in TaskStatus if query.has_status(status))
        removed = self._follower.removed
        own = [str(one.task_id) for one in self._held(query, removed)]
        if not _is_in_rows(query):
            return len(own)
        searched, self._searched = self._searched, None
        with self._database.reading() as connection:
            if searched is not None and searched[0] == _filters(query):
                # The page, which was read just now, had to look at all rows.
                total = searched[1]
            else:
                total = self._pages.count(connection, query, removed)
            return total + len(own) - len(self._pages.ended(connection, own))

    def _held(self, query: PageQuery, removed: float) -> list[TaskRecord]:
        """Return the tasks that match and that the database may not have, or not as they are."""
        waiting = [one for one in self._backlog.finals() if wall_end(one) > removed]
        found = {str(one.task_id): one for one in self._mirror.others(query.status)}
        found |= {str(one.task_id): one for one in waiting}
        return [one for one in found.values() if query.counts(one)]


def _filters(query: PageQuery) -> PageQuery:
    """Return a query with its filters alone."""
    return replace(query, limit=1, offset=0, after=None, oldest_first=False)


_ALL: Final = PageQuery(1)


def _is_in_rows(query: PageQuery) -> bool:
    """Return whether there may be rows for a query: of final tasks, and with such texts."""
    texts = (query.name or "", query.owner or "", query.search)
    return any(map(query.has_status, FINAL)) and all(map(can_be_kept, texts))
