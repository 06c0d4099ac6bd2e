"""Reads the finished tasks that memory does not hold: all of them, or a page.

Guarantees: what has ended in this process is listed from then on, written or not; what was
removed is not, deleted or not.
Relies on: calls on threads that may block.
Lock order: none is held here.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any, Final

from sqlalchemy.engine import Connection

from framework._records.pages import STATUS, Field, PageQuery, key_of, wall_end, with_own
from framework._records.records import TaskRecord
from framework._records.statuses import FINAL, TaskStatus
from framework.stores.sql._reading.follower import Follower
from framework.stores.sql._reading.mirror import Mirror
from framework.stores.sql._reading.pages import Pages, may_have_rows
from framework.stores.sql._shared.site import Site
from framework.stores.sql._tables.rows import TaskRow
from framework.stores.sql._tables.statements import End, in_steps


class History:
    """Reads finished tasks from memory and the database.

    Args:
        site: What it works with.
        mirror: Holds the latest, and the others' live ones.
        follower: Knows which were removed.
        pages: The SQL.
    """

    def __init__(self, site: Site, mirror: Mirror, follower: Follower, pages: Pages) -> None:
        self._database = site.database
        self._pages = pages
        self._backlog = site.backlog
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

            def step(after: End) -> list[TaskRow]:
                # One transaction for each: a long one would keep a file of SQLite growing.
                with self._database.reading() as connection:
                    return self._pages.history(connection, after, status)

            for rows in in_steps(step, (math.nextafter(self._follower.removed, math.inf), "")):
                found += self._mirror.read_only(rows)
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
                behind = self._unwritten(connection, behind)

            def fetch(page: PageQuery) -> list[TaskRecord]:
                if not page.search:
                    rows = self._pages.page(connection, page, removed)
                else:
                    rows, total = self._pages.searched(connection, page, removed)
                    self._searched = page.filters, total
                return self._mirror.read_only(rows)

            return with_own(query, behind, fetch)

    def count(self, query: PageQuery) -> int:
        """Return how many tasks match but this process's live ones; raises like `counts`."""
        return self.counts(query).total()

    def counts(self, query: PageQuery, field: Field | None = None) -> Counter[Any]:
        """Return how many tasks `count` counts for each value of *field*.

        Args:
            query: Which tasks.
            field: What to count by; None to count all together, as those of the value None.

        Raises:
            SQLAlchemyError: If the database fails.
        """
        if field in (None, STATUS) and replace(query, status=None, statuses=_ANY).filters == _ALL:
            figures = self._mirror.figures()
            found = Counter[Any]({one: figures[one.value] for one in query.chosen or TaskStatus})
            return found if field is not None else Counter({None: found.total()})
        removed = self._follower.removed
        own = self._held(query, removed)
        found = Counter()
        if _is_in_rows(query):
            searched, self._searched = self._searched, None
            with self._database.reading() as connection:
                if field is None and searched is not None and searched[0] == query.filters:
                    # The page, which was read just now, had to look at all rows.
                    found[None] = searched[1]
                else:
                    found = self._pages.counts(connection, query, removed, field)
                own = self._unwritten(connection, own)
        found.update(None if field is None else field.of(one) for one in own)
        return found

    def _unwritten(self, connection: Connection, records: list[TaskRecord]) -> list[TaskRecord]:
        """Return those records that the database does not have as final."""
        written = self._pages.ended(connection, [str(one.task_id) for one in records])
        return [one for one in records if one.task_id not in written]

    def _held(self, query: PageQuery, removed: float) -> list[TaskRecord]:
        """Return the tasks that match and that the database may not have, or not as they are."""
        waiting = [one for one in self._backlog.finals() if wall_end(one) > removed]
        found = {str(one.task_id): one for one in self._mirror.others(query.status)}
        found |= {str(one.task_id): one for one in waiting}
        return [one for one in found.values() if query.counts(one)]


_ALL: Final = PageQuery(1)
_ANY: Final = frozenset[TaskStatus]()


def _is_in_rows(query: PageQuery) -> bool:
    """Return whether there may be rows for a query: of final tasks, and with such texts."""
    return any(map(query.has_status, FINAL)) and may_have_rows(query)
