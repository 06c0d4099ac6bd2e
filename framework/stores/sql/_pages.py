"""The SQL that reads finished tasks: in the order of their end, or by pages.

A page is read from where the last one ended, and not by counting rows that come before it. So
the last page costs what the first one does, and rows that come or go in between do not shift it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._tasks.pages import PageQuery
from framework._tasks.records import TaskStatus
from framework.stores.sql._database import Dialect
from framework.stores.sql._older import CODES, STATUSES, TICKS
from framework.stores.sql._schema import TASKS
from framework.stores.sql._statements import CHUNK, ROW, Row, fetch, just_before, packed

MARKS: Final = 50_000
"""How many marks are read at once, which takes some 20 ms."""

End: TypeAlias = tuple[float, str]
"""Where a task is in the order of their end: its wall second, and its id."""

_END: Final = sa.tuple_(TASKS.c.ended_at, TASKS.c.task_id)
_PLACE: Final = sa.tuple_(bindparam("ended_at"), bindparam("task_id"))
_AFTER: Final = _END > _PLACE


class Pages:
    """Reads finished tasks; each method within a transaction that may only read.

    Args:
        dialect: SQLAlchemy's name of the database.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect: Dialect = dialect
        self._history = {status: packed(dialect, _history(status)) for status in (None, *STATUSES)}
        self._marks = {last: _marks(dialect, last) for last in (False, True)}

    def history(
        self, connection: Connection, after: End, status: TaskStatus | None = None
    ) -> list[Row]:
        """Return the next rows in the order of their end, at most `CHUNK`."""
        values = {"ended_at": after[0], "task_id": after[1]}
        return fetch(self._dialect, connection, self._history[status], values)

    def has_more(self, connection: Connection, after: End, than: int) -> bool:
        """Return whether more than *than* tasks ended after that moment."""
        return self._end(connection, after, than) is not None

    def marks(self, connection: Connection, after: End) -> tuple[Sequence[int], End | None]:
        """Return when and how the next tasks ended, at most `MARKS`.

        Returns:
            For each what `Older.extend` takes, and the last one's place; None if there are no
            more.
        """
        last = self._end(connection, after, MARKS - 1)
        values: dict[str, Any] = {"ended_at": after[0], "task_id": after[1]}
        if last is not None:
            values |= {"last_ended_at": last[0], "last_task_id": last[1]}
        text = connection.execute(self._marks[last is None], values).scalar()
        return sorted(map(int, text.split(","))) if text else (), last

    def _end(self, connection: Connection, after: End, number: int) -> End | None:
        values = {"ended_at": after[0], "task_id": after[1], "number": number}
        row = connection.execute(_NTH, values).one_or_none()
        return None if row is None else (row[0], row[1])

    def page(self, connection: Connection, query: PageQuery, removed: float) -> list[Row]:
        """Return the rows of a page, without those that ended by wall second *removed*."""
        after = query.after
        if query.ended_since is not None:
            removed = max(removed, just_before(query.ended_since))
        statement = _page(
            self._dialect,
            query.status,
            query.name is not None,
            after is not None,
            query.oldest_first,
        )
        values = {"name": query.name, "limit": query.limit, "removed": removed}
        if after is not None:
            values |= {"created_at": after[0], "task_id": after[1]}
        return fetch(self._dialect, connection, statement, values)

    def live_page(self, connection: Connection, query: PageQuery) -> list[Row]:
        """Return the rows of a page of live tasks."""
        order = _Order(self._dialect, query.oldest_first, TASKS.c.created_at, TASKS.c.task_id)
        chosen = sa.select(*ROW).where(TASKS.c.ended_at.is_(None))
        if query.status is not None:
            chosen = chosen.where(_is(query.status))
        if query.name is not None:
            chosen = chosen.where(TASKS.c.name == query.name)
        values: dict[str, Any] = {}
        if query.after is not None:
            chosen = chosen.where(*order.behind())
            values = {"created_at": query.after[0], "task_id": query.after[1]}
        chosen = chosen.order_by(*order.columns()).limit(query.limit)
        return fetch(self._dialect, connection, packed(self._dialect, chosen), values)


_NTH: Final = (
    sa.select(TASKS.c.ended_at, TASKS.c.task_id)
    .where(_AFTER)
    .order_by(TASKS.c.ended_at, TASKS.c.task_id)
    .offset(bindparam("number"))
    .limit(1)
)


def _history(status: TaskStatus | None) -> sa.Select[Any]:
    query = sa.select(*ROW).where(_AFTER)
    if status is not None:
        query = query.where(_is(status))
    return query.order_by(TASKS.c.ended_at, TASKS.c.task_id).limit(CHUNK)


def _is(status: TaskStatus) -> sa.ColumnElement[bool]:
    # Not a parameter: PostgreSQL then plans for this status, and not for an average one.
    return TASKS.c.status == sa.literal_column(f"'{status.value}'")


def _marks(dialect: Dialect, last: bool) -> sa.Select[Any]:
    """Return the query for marks up to a place; with *last* for all that are left."""
    ticks = TASKS.c.ended_at * TICKS
    if dialect == "sqlite":
        # It cuts the fraction off, where PostgreSQL would round it.
        whole: Any = sa.cast(ticks, sa.BigInteger)
    else:
        whole = sa.cast(sa.func.floor(ticks), sa.BigInteger)
    code = sa.case(
        *((_is(status), sa.literal_column(str(code))) for code, status in enumerate(STATUSES))
    )
    query = sa.select((whole * CODES + code).label("mark")).where(_AFTER)
    if not last:
        end = sa.tuple_(bindparam("last_ended_at"), bindparam("last_task_id"))
        query = query.where(end >= _END)
    marks = query.subquery()
    if dialect == "sqlite":
        return sa.select(sa.func.group_concat(marks.c.mark, ","))
    return sa.select(sa.func.string_agg(sa.cast(marks.c.mark, sa.Text), ","))


@functools.lru_cache(maxsize=128)
def _page(
    dialect: Dialect, status: TaskStatus | None, by_name: bool, goes_on: bool, oldest_first: bool
) -> sa.Select[Any]:
    """Return the query for a page: the first rows of each status, and of those the first.

    So that an index has each status in order, whatever else is asked for.
    """
    own = _Order(dialect, oldest_first, TASKS.c.created_at, TASKS.c.task_id)
    parts = []
    for one in STATUSES if status is None else (status,):
        part = sa.select(TASKS.c.task_id, TASKS.c.created_at).where(
            _is(one), TASKS.c.ended_at > bindparam("removed")
        )
        if by_name:
            part = part.where(TASKS.c.name == bindparam("name"))
        if goes_on:
            part = part.where(*own.behind())
        parts.append(sa.select(part.order_by(*own.columns()).limit(bindparam("limit")).subquery()))
    found = (parts[0] if len(parts) == 1 else sa.union_all(*parts)).subquery()
    of_found = _Order(dialect, oldest_first, found.c.created_at, found.c.task_id)
    chosen = sa.select(found.c.task_id).order_by(*of_found.columns()).limit(bindparam("limit"))
    rows = sa.select(*ROW).where(TASKS.c.task_id.in_(chosen)).order_by(*own.columns())
    return packed(dialect, rows)


class _Order:
    """The order of submissions, by two columns of a query."""

    def __init__(self, dialect: Dialect, oldest_first: bool, created_at: Any, task_id: Any) -> None:
        self._created_at = created_at
        # By code points, as Python and SQLite do it, whatever the language of the database.
        self._task_id = task_id.collate("C") if dialect == "postgresql" else task_id
        self._oldest_first = oldest_first

    def columns(self) -> list[Any]:
        """Return what to order by."""
        keys = [self._created_at, self._task_id]
        return keys if self._oldest_first else [key.desc() for key in keys]

    def behind(self) -> list[sa.ColumnElement[bool]]:
        """Return the conditions for what comes after a task; the first one is for the index."""
        at, task_id = self._created_at, self._task_id
        created_at: Any = bindparam("created_at")
        after: Any = bindparam("task_id")
        if self._oldest_first:
            return [at >= created_at, sa.or_(at > created_at, task_id > after)]
        return [at <= created_at, sa.or_(at < created_at, task_id < after)]
