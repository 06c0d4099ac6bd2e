"""The SQL that reads finished tasks: in the order of their end, or by pages.

A page is read from where the last one ended, and not by counting rows that come before it. So
the last page costs what the first one does, and rows that come or go in between do not shift it.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._records.pages import FIELDS, STATUS, Field, Key, PageQuery, Spans
from framework._records.statuses import FINAL, TaskStatus
from framework.stores.sql._dialects.dialect import TICKS, Answer, Dialect
from framework.stores.sql._reading.mirror import CODES, STATUSES
from framework.stores.sql._reading.shapes import Shape, matching, shape_of
from framework.stores.sql._tables.free_rows import IS_LISTED_FREE, KEPT
from framework.stores.sql._tables.rows import TaskRow, can_be_kept
from framework.stores.sql._tables.schema import TASKS, is_one_of
from framework.stores.sql._tables.statements import (
    BY_END,
    CHUNK,
    ROW,
    End,
    Statements,
    fetch,
    just_before,
    parts,
)

MARKS: Final = 50_000
"""How many marks are read at once, which takes some 20 ms."""

_FEW: Final = 1_000
"""How many rows are skipped, or found by a search, one by one; more are counted first."""

_FEW_FREE: Final = (10_000, 100_000)
"""Up to how many free tasks of a name, or of others, are counted, in turn: some 1 and 10 ms."""

Live: TypeAlias = tuple[str, float, str]
"""Where a live task is: its process, when it was submitted, and its id."""

_FAR: Final = 1e300
"""Farther than every wall second."""

BEFORE_FREE: Final[Live] = ("", -_FAR, "")
BEHIND_FREE: Final[Live] = ("", _FAR, "")
"""Before and behind all free tasks, which come first among live ones."""

_END: Final = sa.tuple_(*BY_END)
_PLACE_OF_LIVE: Final = (TASKS.c.process, TASKS.c.created_at, TASKS.c.task_id)
_PLACE: Final = sa.tuple_(bindparam("ended_at"), bindparam("task_id"))
_AFTER: Final = _END > _PLACE


class Pages:
    """Reads finished tasks; each method within a transaction that may only read.

    Args:
        statements: The SQL of the tasks.
    """

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._dialect = dialect = statements.dialect
        self._history = {one: dialect.answer(_history(one)) for one in (None, *STATUSES)}
        self._marks = {last: _marks(dialect, last) for last in (False, True)}
        self._live = dialect.answer(_BY_PROCESS)

    def history(
        self, connection: Connection, after: End, status: TaskStatus | None = None
    ) -> list[TaskRow]:
        """Return the next rows in the order of their end, at most `CHUNK`."""
        return fetch(connection, self._history[status], ended_at=after[0], task_id=after[1])

    def marks(self, connection: Connection, after: End) -> tuple[Sequence[int], End | None]:
        """Return when and how the next tasks ended, at most `MARKS`.

        Returns:
            For each what `Older.extend` takes, and the last one's place; None if there are no
            more.
        """
        last = self.end(connection, after, MARKS - 1)
        values: dict[str, Any] = {"ended_at": after[0], "task_id": after[1]}
        if last is not None:
            values |= {"last_ended_at": last[0], "last_task_id": last[1]}
        text = connection.execute(self._marks[last is None], values).scalar()
        return sorted(map(int, text.split(","))) if text else (), last

    def end(self, connection: Connection, after: End, number: int) -> End | None:
        """Return the place of the task that ended after *number* others; None if there is none."""
        values = {"ended_at": after[0], "task_id": after[1], "number": number}
        row = connection.execute(_NTH, values).one_or_none()
        return None if row is None else (row[0], row[1])

    def live(self, connection: Connection, after: Live) -> list[TaskRow]:
        """Return the next live rows by process, each with its process, at most `CHUNK`."""
        return fetch(
            connection, self._live, process=after[0], created_at=after[1], task_id=after[2]
        )

    def page(
        self, connection: Connection, query: PageQuery, removed: float, free: bool = False
    ) -> list[TaskRow]:
        """Return the rows of a page.

        Args:
            connection: A transaction.
            query: Which page.
            removed: The wall second up to which ended tasks are removed.
            free: Whether free tasks are asked for as well.
        """
        if query.looks_inside:
            return self.searched(connection, query, removed, free)[0]
        if query.offset > _FEW and query.after is None and not shape_of(query, free).free:
            query = self._begun(connection, query, removed)
        return self._rows(connection, query, removed, free)

    def searched(
        self, connection: Connection, query: PageQuery, removed: float, free: bool = False
    ) -> tuple[list[TaskRow], int]:
        """Return the rows of a page of a search, and how many rows it finds in all.

        It looks at every row once, unless it finds many; then the page is near, from one end or
        the other.
        """
        values = _values(self._dialect, query, removed)
        statement = _places(self._dialect, shape_of(query, free))
        found = statement.fetch(connection, {**values, "limit": _FEW + 1})
        if len(found) <= _FEW:
            keys: list[Key] = [(created_at, task_id) for created_at, task_id in found]
            places = sorted(filter(query.is_behind, keys), reverse=not query.oldest_first)
            page = places[query.offset : query.offset + query.limit]
            return self._statements.in_order(connection, [one for _, one in page]), len(found)
        total = self.counts(connection, query, removed, None, free).total()
        left = total - query.offset
        if query.after is not None or left > total / 2 or left <= 0:
            return self._rows(connection, query, removed, free) if left > 0 else [], total
        limit = min(query.limit, left)
        back = replace(query, oldest_first=not query.oldest_first, offset=left - limit, limit=limit)
        return self._rows(connection, back, removed, free)[::-1], total

    def count(self, connection: Connection, query: PageQuery, removed: float) -> int:
        """Return how many rows match, without those that ended by wall second *removed*."""
        return self.counts(connection, query, removed, None)[None]

    def counts(
        self,
        connection: Connection,
        query: PageQuery,
        removed: float,
        field: Field | None,
        free: bool = False,
    ) -> Counter[Any]:
        """Return how many of these rows have each value of a field; None counts them together."""
        values, shape = _values(self._dialect, query, removed), shape_of(query, free)

        def counted(statement: sa.Select[Any]) -> Counter[Any]:
            rows = connection.execute(statement, values)
            return Counter[Any]({of[0] if of else None: many for many, *of in rows})

        found = counted(_count(self._dialect, shape, field))
        if field is not None and field.optional:
            found[None] += self.count(connection, query, removed) - found.total()
        if shape.free:
            few = self._few_free(connection, shape, values) if field is None else None
            if few is None:
                found += counted(_count_free(self._dialect, shape, field))
            else:
                found[None] += few
        return found

    def ends(self, connection: Connection, query: PageQuery, removed: float, width: float) -> Spans:
        """Return how many of the rows that match ended in each span; see `span_of`."""
        values = {**_values(self._dialect, query, removed), "width": width}
        values["since"] = query.ended_since or 0.0
        rows = connection.execute(_ends(self._dialect, shape_of(query)), values)
        return Counter({(int(at), TaskStatus(status)): many for many, at, status in rows})

    def starts(
        self, connection: Connection, query: PageQuery, removed: float, since: float, width: float
    ) -> Counter[int]:
        """Return how many of the rows that match started in each span; see `start_spans`."""
        # What has ended before has started before.
        values = _values(self._dialect, query, max(removed, just_before(since)))
        values |= {"since": since, "width": width}
        rows = connection.execute(_starts(self._dialect, shape_of(query)), values)
        return Counter({int(at): many for many, at in rows})

    def _few_free(self, connection: Connection, shape: Shape, values: dict[str, Any]) -> int | None:
        """Return how many free tasks have a name, if few have it, or few another one; else None.

        Most often all of a million are of one function, or of many.
        """
        if shape.given != (FIELDS["name"],) or shape.looks_inside or shape.without:
            return None
        of_name, before, behind = _FEW_FREE_OF
        for most in _FEW_FREE:
            some = {**values, "most": most}
            found: int = connection.execute(of_name, some).scalar_one()
            if found < most:
                return found
            others: int = connection.execute(before, some).scalar_one()
            others += connection.execute(behind, some).scalar_one()
            if others < most:
                # Within one transaction, which sees all as they were at one moment.
                kept: int = connection.execute(KEPT).scalar_one()
                return kept - others
        return None

    def ended(
        self, connection: Connection, task_ids: Collection[str], free: bool = False
    ) -> set[str]:
        """Return those of some ids whose rows are final; with *free* those that are free, too."""
        found: set[str] = set()
        for some in parts(list(filter(can_be_kept, task_ids)), MARKS):
            rows = _ended(self._dialect, free).fetch(
                connection, {"ids": json.dumps([[one] for one in some])}
            )
            found.update(task_id for (task_id,) in rows)
        return found

    def live_page(self, connection: Connection, query: PageQuery) -> list[TaskRow]:
        """Return the rows of a page of live tasks."""
        statement = _live(self._dialect, shape_of(query))
        return fetch(connection, statement, **_values(self._dialect, query, 0.0))

    def _begun(self, connection: Connection, query: PageQuery, removed: float) -> PageQuery:
        """Return the same query, but one that begins at its page.

        An index alone tells when the first task of the page was submitted.
        """
        shape, values = shape_of(query), _values(self._dialect, query, removed)
        skip, (at, tied, before) = {**values, "limit": 1}, _skip(self._dialect, shape)
        moment = connection.execute(at, skip).scalar()
        if moment is None:
            return replace(query, limit=0)
        values["moment"] = moment
        skipped = query.offset
        if connection.execute(tied, values).scalar_one() > 1:
            # It may be any of those that were submitted at once.
            skipped = int(connection.execute(before, values).scalar_one())
        after = query.begin_at(float(moment))
        return replace(query, after=after, offset=query.offset - skipped)

    def _rows(
        self, connection: Connection, query: PageQuery, removed: float, free: bool = False
    ) -> list[TaskRow]:
        if not query.limit:
            return []
        statement = _page(self._dialect, shape_of(query, free))
        return fetch(connection, statement, **_values(self._dialect, query, removed))


_BY_PROCESS: Final = (
    sa.select(*ROW, TASKS.c.version, TASKS.c.process)
    .where(
        TASKS.c.ended_at.is_(None),
        sa.tuple_(*_PLACE_OF_LIVE) > sa.tuple_(*(bindparam(one.name) for one in _PLACE_OF_LIVE)),
    )
    .order_by(*_PLACE_OF_LIVE)
    .limit(CHUNK)
)


@functools.lru_cache
def pages_of(statements: Statements) -> Pages:
    """Return what reads by some statements, which all stores of that kind share."""
    return Pages(statements)


def live_in_steps(read: Callable[[Live], list[TaskRow]], after: Live) -> Iterator[list[TaskRow]]:
    """Yield live rows by process, as far as `Pages.live` returns them.

    Args:
        read: Returns the next ones behind a place.
        after: Where to begin.
    """
    while rows := read(after):
        yield rows
        last = rows[-1]
        after = last.process, last.created_at, last.task_id


_NTH: Final = (
    sa.select(*BY_END).where(_AFTER).order_by(*BY_END).offset(bindparam("number")).limit(1)
)


def _history(status: TaskStatus | None) -> sa.Select[Any]:
    query = sa.select(*ROW).where(_AFTER)
    if status is not None:
        query = query.where(is_one_of(TASKS.c.status, [status]))
    return query.order_by(*BY_END).limit(CHUNK)


def _values(dialect: Dialect, query: PageQuery, removed: float) -> dict[str, Any]:
    """Return the values of the statements for a query."""
    if query.ended_since is not None:
        removed = max(removed, just_before(query.ended_since))
    created_at, task_id = query.after or query.begin_at(query.distance(-_FAR))
    return {
        "removed": removed,
        **{one.name: getattr(query, one.name) for one in query.given},
        "search": dialect.pattern(query.search) if query.search else "",
        "created_at": created_at,
        "task_id": task_id,
        "limit": query.limit,
        "offset": query.offset,
        "most": query.limit + query.offset,
        "before": query.ended_before,
        **{f"meta_{place}": pair for place, pair in enumerate(query.meta)},
        "without": json.dumps(sorted(filter(can_be_kept, query.without))),
    }


def _marks(dialect: Dialect, last: bool) -> sa.Select[Any]:
    """Return the query for marks up to a position; with *last* for all that are left."""
    whole = dialect.whole(TASKS.c.ended_at * TICKS)
    code = sa.case(
        *(
            (is_one_of(TASKS.c.status, [status]), sa.literal_column(str(code)))
            for code, status in enumerate(STATUSES)
        )
    )
    query = sa.select((whole * CODES + code).label("mark")).where(_AFTER)
    if not last:
        end = sa.tuple_(bindparam("last_ended_at"), bindparam("last_task_id"))
        query = query.where(end >= _END)
    return sa.select(dialect.joined(query.subquery().c.mark))


# -- the statements for pages, by what is asked for


def _order(
    dialect: Dialect, shape: Shape, rows: Any = TASKS.c
) -> tuple[list[Any], list[sa.ColumnElement[bool]]]:
    """Return by what some rows are in the order of submissions, and what is behind a task.

    Args:
        dialect: The kind of database.
        shape: What is asked for.
        rows: The columns of the rows to order.

    Returns:
        What to order by, and conditions, of which the first one is for the index.
    """
    # By code points, as Python and SQLite do it, whatever the language of the database.
    at, task_id = rows.created_at, dialect.by_code_points(rows.task_id)
    created_at: Any = bindparam("created_at")
    after: Any = bindparam("task_id")
    if shape.oldest_first:
        behind = [at >= created_at, sa.or_(at > created_at, task_id > after)]
        return [at, task_id], behind
    return [at.desc(), task_id.desc()], [at <= created_at, sa.or_(at < created_at, task_id < after)]


@functools.lru_cache(maxsize=256)
def _page(dialect: Dialect, shape: Shape) -> Answer:
    """Return the query for a page.

    For some statuses: the first rows of each status, and of those the first, so that an index
    has each status in order. For all else an index has all rows in order.
    """
    order, behind = _order(dialect, shape)
    by = "created" if shape.by in ("status", "rows") and shape.looks_inside else shape.by
    shapes = [replace(shape, statuses=(one,)) for one in shape.statuses or () if one in FINAL]
    found_by = [(one, by) for one in (shapes if by == "status" else [shape])]
    if shape.free:
        found_by.append((shape, "free"))
    parts = []
    for one, index in found_by:
        part = sa.select(TASKS.c.task_id, TASKS.c.created_at)
        part = part.where(*matching(dialect, one, index), *behind)
        part = _by_heading(part, one) if index == "free" else part
        parts.append(sa.select(part.order_by(*order).limit(bindparam("most")).subquery()))
    found = (parts[0] if len(parts) == 1 else sa.union_all(*parts)).subquery()
    chosen = sa.select(found.c.task_id).order_by(*_order(dialect, shape, found.c)[0])
    chosen = chosen.limit(bindparam("limit")).offset(bindparam("offset"))
    rows = sa.select(*ROW).where(TASKS.c.task_id.in_(chosen)).order_by(*order)
    return dialect.answer(rows)


@functools.lru_cache(maxsize=256)
def _skip(dialect: Dialect, shape: Shape) -> tuple[sa.Select[Any], sa.Select[Any], sa.Select[Any]]:
    """Return queries for the moment of a row of a page, for how many have it, and come before."""
    # Rows of several statuses are in order only in the index that has all.
    many = shape.by == "status" and len(shape.statuses or ()) > 1
    wanted, created_at = (
        matching(dialect, shape, "created" if many else shape.by),
        TASKS.c.created_at,
    )
    order, behind = _order(dialect, shape)
    at = sa.select(created_at).where(*wanted, behind[0]).order_by(order[0])
    at = at.limit(bindparam("limit")).offset(bindparam("offset"))
    moment: Any = bindparam("moment")
    count = sa.select(sa.func.count()).select_from(TASKS)
    before = created_at < moment if shape.oldest_first else created_at > moment
    return at, count.where(*wanted, created_at == moment), count.where(*wanted, before)


def _is_by_name(shape: Shape) -> bool:
    """Return whether rows are counted without some names, for which only that index is needed."""
    return shape.without and not shape.given and not shape.looks_inside


@functools.lru_cache(maxsize=256)
def _count(dialect: Dialect, shape: Shape, field: Field | None = None) -> sa.Select[Any]:
    """Return the query for how many rows match.

    With *field* for each of its values; without None, if the index of the field is.
    """
    query = sa.select(sa.func.count()).select_from(TASKS)
    if field is None and not _is_by_name(shape):
        return query.where(*matching(dialect, shape, shape.by))
    # The index of a field has all else that is asked for as well.
    by = shape.by if field is None or shape.given or shape.looks_inside else field.name
    if _is_by_name(shape) and field in (None, STATUS):
        by = "name"
        query = query.with_hint(TASKS, "INDEXED BY asyncframe_tasks_name", "sqlite")
    if field is None:
        return query.where(*matching(dialect, shape, by))
    column = TASKS.c[field.name] if by == field.name else dialect.hidden(TASKS.c[field.name])
    query = query.add_columns(column).where(*matching(dialect, shape, by)).group_by(column)
    return query.where(column.is_not(None)) if by == field.name and field.optional else query


@functools.lru_cache(maxsize=256)
def _ends(dialect: Dialect, shape: Shape) -> sa.Select[Any]:
    """Return the query for how many rows ended in each span of time, by their status."""
    since: Any = bindparam("since", type_=sa.Double())
    width: Any = bindparam("width", type_=sa.Double())
    number = dialect.whole((TASKS.c.ended_at - since) / width).label("number")
    # The index by the end has the status as well.
    rows = sa.select(number, TASKS.c.status).where(*matching(dialect, shape, "ended_at")).subquery()
    found = sa.select(sa.func.count(), rows.c.number, rows.c.status)
    return found.group_by(rows.c.number, rows.c.status)


@functools.lru_cache(maxsize=256)
def _starts(dialect: Dialect, shape: Shape) -> sa.Select[Any]:
    """Return the query for how many rows started in each span of time."""
    since: Any = bindparam("since", type_=sa.Double())
    width: Any = bindparam("width", type_=sa.Double())
    number = dialect.whole((TASKS.c.started_at - since) / width).label("number")
    # The index by the end has the start as well.
    wanted = *matching(dialect, shape, "ended_at"), TASKS.c.started_at >= since
    rows = sa.select(number).where(*wanted).subquery()
    return sa.select(sa.func.count(), rows.c.number).group_by(rows.c.number)


@functools.lru_cache(maxsize=256)
def _count_free(dialect: Dialect, shape: Shape, field: Field | None) -> sa.Select[Any]:
    """Return the same query for free tasks."""
    query = sa.select(sa.func.count()).select_from(TASKS).where(*matching(dialect, shape, "free"))
    query = _by_heading(query, shape)
    if field is None:
        return query
    column = dialect.hidden(TASKS.c[field.name])
    return query.add_columns(column).group_by(column)


_FREE_BY: Final = {
    "name": "asyncframe_tasks_free_name",
    "owner": "asyncframe_tasks_free_owner",
    "label": "asyncframe_tasks_free_label",
}


def _by_heading(query: sa.Select[Any], shape: Shape) -> sa.Select[Any]:
    """Return a query for free tasks with the index of the first text that it gives, if any.

    As in `Dialect.by_index`; PostgreSQL takes no hint, and needs none.
    """
    if not shape.given:
        return query
    return query.with_hint(TASKS, f"INDEXED BY {_FREE_BY[shape.given[0].name]}", "sqlite")


def _some_free(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Return the query for how many free tasks there are of some names, at most so many."""
    some = sa.select(TASKS.c.created_at).where(IS_LISTED_FREE, condition).limit(bindparam("most"))
    some = some.with_hint(TASKS, f"INDEXED BY {_FREE_BY['name']}", "sqlite")
    return sa.select(sa.func.count()).select_from(some.subquery())


_ITS_NAME: Final[Any] = bindparam("name")
# Two ranges of the index for those that have another name, which is in order by names.
_FEW_FREE_OF: Final = (
    _some_free(TASKS.c.name == _ITS_NAME),
    _some_free(TASKS.c.name < _ITS_NAME),
    _some_free(TASKS.c.name > _ITS_NAME),
)


@functools.lru_cache(maxsize=256)
def _places(dialect: Dialect, shape: Shape) -> Answer:
    """Return the query for the positions of the rows that match, in no order."""
    parts = [
        sa.select(TASKS.c.created_at, TASKS.c.task_id)
        .where(*matching(dialect, shape, by))
        .limit(bindparam("limit"))
        for by in (shape.by, "free")[: 1 + shape.free]
    ]
    if len(parts) == 1:
        return dialect.answer(parts[0])
    both = sa.union_all(*(sa.select(one.subquery()) for one in parts)).subquery()
    return dialect.answer(sa.select(both).limit(bindparam("limit")))


@functools.lru_cache(maxsize=256)
def _live(dialect: Dialect, shape: Shape) -> Answer:
    """Return the query for a page of live rows, which are few."""
    order, behind = _order(dialect, shape)
    chosen = sa.select(*ROW).where(*matching(dialect, shape, "live"), *behind)
    chosen = chosen.order_by(*order).limit(bindparam("most"))
    return dialect.answer(chosen)


@functools.lru_cache
def _ended(dialect: Dialect, free: bool) -> Answer:
    """Return the query for those of some ids that are final, or with *free* also free."""
    batch, ids = dialect.split(bindparam("ids", type_=sa.Text()), [sa.Text()])
    some = sa.select(*ids).select_from(batch)
    wanted: sa.ColumnElement[bool] = TASKS.c.ended_at.is_not(None)
    if free:
        wanted = sa.or_(wanted, dialect.hidden(TASKS.c.process) == "")
    return dialect.answer(sa.select(TASKS.c.task_id).where(TASKS.c.task_id.in_(some), wanted))
