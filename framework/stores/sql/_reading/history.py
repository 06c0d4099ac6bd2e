"""Reads the finished tasks that memory does not hold: all of them, or a page.

Guarantees: what has ended in this process is listed from then on, written or not; what was
removed is not, deleted or not.
Relies on: calls on threads that may block.
Lock order: none is held here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from sqlalchemy.engine import Connection

from framework._records.pages import (
    STATUS,
    Field,
    PageQuery,
    Spans,
    key_of,
    span_of,
    start_spans,
    wall_end,
    with_own,
)
from framework._records.records import TaskRecord
from framework._records.statuses import FINAL, TaskStatus
from framework.stores.sql._reading.follower import Follower
from framework.stores.sql._reading.mirror import Mirror
from framework.stores.sql._reading.pages import (
    BEFORE_FREE,
    Live,
    Pages,
    live_in_steps,
)
from framework.stores.sql._reading.shapes import may_have_rows
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
        # What the latest search asked for, whether of free tasks too, and how many rows it found.
        self._searched: tuple[PageQuery, bool, int] | None = None

    def records(self, status: TaskStatus | None) -> list[TaskRecord]:
        """Return all finished tasks in the order of their end, then the others' live ones.

        Raises:
            SQLAlchemyError: If the database fails.
        """
        self._follower.catch_up()
        if self._mirror.is_whole:
            records = self._mirror.records(status)
            # In this order: they may have been moved out of memory meanwhile.
            if self._mirror.is_whole:
                return records
        live = self.live(status)
        # First: what ends or is written from now on is in the database then.
        held = _by_id([*self._mirror.ended(status), *live])
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

    def live(self, status: TaskStatus | None = None) -> list[TaskRecord]:
        """Return the live tasks of other processes, and of none.

        Raises:
            SQLAlchemyError: If the database fails; it is not asked if all are held.
        """
        if self._mirror.holds_free:
            return self._mirror.others(status)
        found = dict[str, TaskRecord]()
        if status is None or status is TaskStatus.PENDING:

            def step(after: Live) -> list[TaskRow]:
                with self._database.reading() as connection:
                    rows = self._pages.live(connection, after)
                return [row for row in rows if not row.process]

            for rows in live_in_steps(step, BEFORE_FREE):
                found |= _by_id(self._mirror.read_only(rows))
        # Then: what was taken before it was read is found there.
        version, taken = self._follower.version, self._mirror.others(free=False)
        with self._database.reading() as connection:
            found |= self._changed(connection, _by_id(taken), version)
        return [one for one in found.values() if status is None or one.status is status]

    def page(self, query: PageQuery) -> list[TaskRecord]:
        """Return a page of all tasks but this process's live ones.

        Raises:
            SQLAlchemyError: If the database fails.
        """
        self._follower.catch_up()
        removed, version = self._follower.removed, self._follower.version
        # First: what ends or is written from now on is in the database then.
        free = not self._mirror.holds_free
        own = self._held(query, removed, free)
        if not _is_in_rows(query, free):
            return with_own(query, _behind(query, own), lambda _: [])
        with self._database.reading() as connection:
            if free:
                own = self._up_to_now(connection, query, own, version)
            behind = _behind(query, own)
            if query.offset:
                behind = self._unwritten(connection, behind, free)

            def fetch(page: PageQuery) -> list[TaskRecord]:
                if not page.looks_inside:
                    rows = self._pages.page(connection, page, removed, free)
                else:
                    rows, total = self._pages.searched(connection, page, removed, free)
                    self._searched = page.filters, free, total
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
        self._follower.catch_up()
        if field in (None, STATUS) and replace(query, status=None, statuses=_ANY).filters == _ALL:
            figures = self._mirror.figures()
            found = Counter[Any]({one: figures[one.value] for one in query.chosen or TaskStatus})
            return found if field is not None else Counter({None: found.total()})
        removed, version = self._follower.removed, self._follower.version
        free = not self._mirror.holds_free
        own = self._held(query, removed, free)
        found = Counter()
        if _is_in_rows(query, free):
            searched, self._searched = self._searched, None
            with self._database.reading() as connection:
                if free:
                    own = self._up_to_now(connection, query, own, version)
                asked = query.filters, free
                if field is None and searched is not None and searched[:2] == asked:
                    # The page, which was read just now, had to look at all rows.
                    found[None] = searched[2]
                else:
                    found = self._pages.counts(connection, query, removed, field, free)
                own = self._unwritten(connection, own, free)
        found.update(None if field is None else field.of(one) for one in own)
        return found

    def ends(self, query: PageQuery, width: float) -> Spans:
        """Return how many tasks that match ended in each span of time; raises like `counts`."""
        self._follower.catch_up()
        since = query.ended_since or 0.0
        own = self._held(query, self._follower.removed, False)
        found = Spans()
        if _is_in_rows(query, False):
            with self._database.reading() as connection:
                found = self._pages.ends(connection, query, self._follower.removed, width)
                own = self._unwritten(connection, own, False)
        found.update(span_of(one, since, width) for one in own)
        return found

    def starts(self, query: PageQuery, since: float, width: float) -> Counter[int]:
        """Return how many tasks that match started in each span of time; raises like `counts`."""
        self._follower.catch_up()
        own = self._held(query, self._follower.removed, False)
        found = Counter[int]()
        if _is_in_rows(query, False):
            with self._database.reading() as connection:
                removed = self._follower.removed
                found = self._pages.starts(connection, query, removed, since, width)
                own = self._unwritten(connection, own, False)
        found.update(start_spans(own, since, width))
        return found

    def _unwritten(
        self, connection: Connection, records: list[TaskRecord], free: bool
    ) -> list[TaskRecord]:
        """Return those records that the database does not have as final; with *free* as free."""
        written = self._pages.ended(connection, [str(one.task_id) for one in records], free)
        return [one for one in records if one.task_id not in written]

    def _up_to_now(
        self, connection: Connection, query: PageQuery, records: list[TaskRecord], version: int
    ) -> list[TaskRecord]:
        """Return records with what others have taken that were free when *version* was read.

        Otherwise a task that is taken before the page is read would be missing in both.
        """
        found = self._changed(connection, _by_id(records), version)
        return [one for one in found.values() if query.counts(one)]

    def _changed(
        self, connection: Connection, found: dict[str, TaskRecord], version: int
    ) -> dict[str, TaskRecord]:
        """Return live tasks of other processes as they are now, from those when *version* was."""
        rows = list(self._follower.changed(connection, version))
        for row in rows:
            found.pop(row.task_id, None)
        taken = [row for row in rows if row.process and row.ended_at is None]
        return found | _by_id(self._mirror.read_only(taken))

    def _held(self, query: PageQuery, removed: float, free: bool) -> list[TaskRecord]:
        """Return the tasks that match and that the database may not have, or not as they are.

        With *free* it has the free ones.
        """
        waiting = [one for one in self._backlog.finals() if wall_end(one) > removed]
        others = self._mirror.others(query.status, free=not free)
        found = _by_id(others)
        found |= _by_id(waiting)
        return [one for one in found.values() if query.counts(one)]


_ALL: Final = PageQuery(1)
_ANY: Final = frozenset[TaskStatus]()


def _is_in_rows(query: PageQuery, free: bool) -> bool:
    """Return whether there may be rows for a query: of final or *free* tasks, with such texts."""
    wanted = (*FINAL, TaskStatus.PENDING) if free else FINAL
    return any(map(query.has_status, wanted)) and may_have_rows(query)


def _behind(query: PageQuery, records: list[TaskRecord]) -> list[TaskRecord]:
    return query.in_order([one for one in records if query.is_behind(key_of(one))])


def _by_id(records: Iterable[TaskRecord]) -> dict[str, TaskRecord]:
    return {str(one.task_id): one for one in records}
