"""Shapes: which rows match a query, and the index by which they are found.

SQLite chooses an index by rules, mostly without looking at the data. So each condition is made for
one index, which has its rows together, and the columns of others are hidden from the choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy import bindparam

from framework._records.pages import SEARCHED_HEADING, STATUS, Field, PageQuery
from framework._records.statuses import TaskStatus
from framework.stores.sql._dialects.dialect import Dialect
from framework.stores.sql._tables.free_rows import IS_FREE, IS_LISTED_FREE
from framework.stores.sql._tables.rows import can_be_kept
from framework.stores.sql._tables.schema import TASKS, is_one_of

By: TypeAlias = str
"""What finds the rows.

The index that begins with a field, which has its name, with "created" or with "ended_at"; all
"rows" one after the other; or whether they are "live" or "free".
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a statement for a query depends on; all else are its values.

    Attributes:
        statuses: Those that match; None for all.
        given: The fields of labels that it has a value for.
        search: How to search: not, for ASCII letters, or for others too.
        oldest_first: Whether the order begins with the oldest submission.
        free: Whether free tasks match, besides those that have ended.
        until: Whether only tasks match that ended before some moment.
        without: Whether tasks with some names do not match.
        meta: How many pairs of meta are asked for.
    """

    statuses: tuple[TaskStatus, ...] | None
    given: tuple[Field, ...]
    search: Literal["", "ascii", "other"]
    oldest_first: bool
    free: bool = False
    until: bool = False
    without: bool = False
    meta: int = 0

    @property
    def looks_inside(self) -> bool:
        """Whether rows match by parts of their texts; see `PageQuery.looks_inside`."""
        return bool(self.search or self.meta)

    @property
    def by(self) -> By:
        """Which condition finds the rows fastest."""
        if self.given:
            return self.given[0].name
        # Most have completed: then all rows are read more quickly in their own order.
        if self.statuses is not None and (
            not self.looks_inside or TaskStatus.COMPLETED not in self.statuses
        ):
            return STATUS.name
        return "rows" if self.looks_inside else "created"


def shape_of(query: PageQuery, free: bool = False) -> Shape:
    """Return what a statement for *query* depends on.

    Args:
        query: What is asked for.
        free: Whether free tasks are, too, if they match.
    """
    return Shape(
        statuses=query.chosen,
        given=query.given,
        search="" if not query.search else "ascii" if query.search.isascii() else "other",
        oldest_first=query.oldest_first,
        free=free and query.has_status(TaskStatus.PENDING) and not query.asks_for_ends,
        until=query.ended_before is not None,
        without=bool(query.without),
        meta=len(query.meta),
    )


def matching(dialect: Dialect, shape: Shape, by: By) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for the rows that match, found by one index."""
    index = shape.given[0].name if by == "free" and shape.given else by

    def column(name: str) -> Any:
        found = TASKS.c[name]
        return found if index == name else dialect.hidden(found)

    wanted: list[sa.ColumnElement[bool]]
    statuses = shape.statuses
    if by == "live":
        wanted = [TASKS.c.ended_at.is_(None)]
    elif by == "free":
        # All of them are PENDING.
        wanted, statuses = [IS_LISTED_FREE if shape.given else IS_FREE], None
    else:
        ended_at = column("ended_at")
        # The first one is for the indexes, which have only those.
        wanted = [] if by == "rows" else [TASKS.c.ended_at.is_not(None)]
        wanted.append(ended_at > bindparam("removed"))
        if shape.until:
            wanted.append(ended_at < bindparam("before"))
    if statuses is not None:
        wanted.append(is_one_of(column(STATUS.name), statuses))
    wanted += [column(one.name) == bindparam(one.name) for one in shape.given]
    if shape.without:
        # Not negated: SQLAlchemy would make "is not any of them" of it.
        wanted.append(dialect.among(column("name"), bindparam("without")).is_(sa.false()))
    if shape.search:
        is_ascii = shape.search == "ascii"
        search: Any = bindparam("search")
        texts = (*SEARCHED_HEADING, "task_id")
        wanted.append(sa.or_(*(dialect.has(TASKS.c[one], search, is_ascii) for one in texts)))
    if shape.meta:
        # As `meta.holds` does it. "Without it, the text is another one" is what both databases can
        # say of any text, without characters that mean something else.
        meta = TASKS.c.meta
        pairs = sa.literal(",") + sa.func.substr(meta, 2, sa.func.length(meta) - 2) + ","
        wanted += [
            sa.func.replace(pairs, bindparam(f"meta_{place}"), "") != pairs
            for place in range(shape.meta)
        ]
    return wanted


def may_have_rows(query: PageQuery) -> bool:
    """Return whether the database can keep the texts that a query looks for."""
    return all(map(can_be_kept, query.texts))
