"""The SQL for which rows a page has, and in which order: so that an index has them together.

SQLite chooses an index by rules, mostly without looking at the data. So each statement is made for
one index, and the columns of others are hidden from the choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy import bindparam

from framework._records.pages import SEARCHED_LABEL, STATUS, Field, PageQuery
from framework._records.statuses import TaskStatus
from framework.stores.sql._dialects.dialect import Dialect
from framework.stores.sql._tables.rows import can_be_kept
from framework.stores.sql._tables.schema import TASKS
from framework.stores.sql._tables.statements import is_one_of

By: TypeAlias = str
"""What finds the rows.

The index that begins with a field, which has its name, or with "created"; all "rows" one after the
other; or whether they are "live".
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a statement for a query depends on; all else are its values.

    Attributes:
        statuses: Those that match; None for all.
        given: The fields of labels that it has a value for.
        search: How to search: not, for ASCII letters, or for others too.
        oldest_first: Whether the order begins with the oldest submission.
    """

    statuses: tuple[TaskStatus, ...] | None
    given: tuple[Field, ...]
    search: Literal["", "ascii", "other"]
    oldest_first: bool

    @property
    def by(self) -> By:
        """Which condition finds the rows fastest."""
        if self.given:
            return self.given[0].name
        # Most have completed: then all rows are read more quickly in their own order.
        if self.statuses is not None and (
            not self.search or TaskStatus.COMPLETED not in self.statuses
        ):
            return STATUS.name
        return "rows" if self.search else "created"


def shape_of(query: PageQuery) -> Shape:
    """Return what a statement for *query* depends on."""
    return Shape(
        statuses=query.chosen,
        given=query.given,
        search="" if not query.search else "ascii" if query.search.isascii() else "other",
        oldest_first=query.oldest_first,
    )


def where(dialect: Dialect, shape: Shape, by: By) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for the rows that match, found by one index."""

    def column(name: str) -> Any:
        found = TASKS.c[name]
        return found if by == name else dialect.hidden(found)

    wanted: list[sa.ColumnElement[bool]]
    if by == "live":
        wanted = [TASKS.c.ended_at.is_(None)]
    else:
        ended_at = column("ended_at")
        # The first one is for the indexes, which have only those.
        wanted = [] if by == "rows" else [TASKS.c.ended_at.is_not(None)]
        wanted.append(ended_at > bindparam("removed"))
    if shape.statuses is not None:
        wanted.append(is_one_of(column(STATUS.name), shape.statuses))
    wanted += [column(one.name) == bindparam(one.name) for one in shape.given]
    if shape.search:
        is_ascii = shape.search == "ascii"
        search: Any = bindparam("search")
        texts = (*SEARCHED_LABEL, "task_id")
        wanted.append(sa.or_(*(dialect.has(TASKS.c[one], search, is_ascii) for one in texts)))
    return wanted


def may_have_rows(query: PageQuery) -> bool:
    """Return whether the database can keep the texts that a query looks for."""
    return all(map(can_be_kept, query.texts))


class Order:
    """The order of submissions.

    Args:
        dialect: The kind of database.
        shape: What is asked for.
        rows: The columns of the rows to order.
    """

    def __init__(self, dialect: Dialect, shape: Shape, rows: Any = TASKS.c) -> None:
        self._created_at = rows.created_at
        # By code points, as Python and SQLite do it, whatever the language of the database.
        self._task_id = dialect.by_code_points(rows.task_id)
        self._oldest_first = shape.oldest_first

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
