"""Upserts: how a batch of rows is written, as one value that the database splits.

A driver releases the interpreter at each step of a statement. While other threads compute, it
gets the interpreter back after 5 ms, which would be 5 ms for each row. So a batch is one JSON
text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import bindparam

from framework._records.statuses import TaskStatus
from framework.stores.sql._dialects.dialect import Dialect
from framework.stores.sql._tables.rows import NEVER, WRITTEN, Written
from framework.stores.sql._tables.schema import TASKS, is_one_of

OWN: Final = ("version", "process")
"""The columns that are the same in all rows of a batch."""
_GIVEN: Final = tuple(bindparam(name, type_=TASKS.c[name].type) for name in OWN)
_ROWS: Final = bindparam("rows", type_=sa.Text())
_KEPT: Final = frozenset(
    {
        *("task_id", "name", "description", "remote", "created_at", "process", "owner"),
        *("level", "after", "label", "meta", "arguments"),
    }
)
"""The columns that stay as they are first written."""


def text_of(rows: Iterable[Written]) -> str:
    """Return rows as one JSON text, by their ids: each page of an index is changed in one go."""
    return f"[{','.join([row.text for row in sorted(rows, key=attrgetter('task_id'))])}]"


def upsert_of(
    dialect: Dialect,
    own: Sequence[sa.ColumnElement[Any]] = _GIVEN,
    *where: sa.ColumnElement[bool],
    hand_over: bool = False,
) -> Any:  # Any: a statement of the dialect
    """Return the statement that writes a batch from one JSON text, its parameter ``rows``.

    It leaves out a row that is there and is final, or has another process than the one that is its
    parameter ``owner``.

    Args:
        dialect: The kind of database.
        own: What `OWN` becomes; by default parameters of these names.
        where: When to write it; by default always.
        hand_over: Whether the rows change their owner.
    """
    batch, items = dialect.split(_ROWS, [TASKS.c[name].type for name in WRITTEN])
    # SQLite needs a condition to tell ON CONFLICT from the ON of a join.
    rows = sa.select(*items, *own).select_from(batch).where(sa.true(), *where)
    change = partial(_changed, hand_over=hand_over)
    return dialect.upsert(TASKS, [*WRITTEN, *OWN], rows, change)


def _changed(new: Any, *, hand_over: bool) -> tuple[dict[str, Any], sa.ColumnElement[bool]]:
    """Return what a row changes in one that is there, and whether; see `dialect.Change`."""
    changed = {name: new[name] for name in (*WRITTEN, *OWN) if name not in _KEPT}
    # Another process may have set it since this one looked.
    asked = TASKS.c.cancel_requested
    changed["cancel_requested"] = sa.case(
        (asked > new.cancel_requested, asked), else_=new.cancel_requested
    )
    # Written once, and of no use to anybody after the task is COMPLETED.
    changed["call"] = sa.case(
        (is_one_of(new.status, [TaskStatus.COMPLETED]), sa.null()),
        else_=sa.func.coalesce(new.call, TASKS.c.call),
    )
    # What others have decided stays, of a task that is not known here to wait no more.
    waits = new.due_at == sa.literal_column(repr(NEVER))
    for name in ("due_at", "restart", "reason"):
        changed[name] = sa.case((waits, TASKS.c[name]), else_=new[name])
    # Tasks on workers may be followed by several processes. Of a final one nothing changes
    # any more but that its body has let go.
    may_write = TASKS.c.process == bindparam("owner")
    if hand_over:
        changed["process"] = new.process
        # A submission that failed: its task may be free by now.
        withdrawn = sa.and_(TASKS.c.process == "", new.ended_at.is_not(None))
        may_write = sa.or_(may_write, withdrawn)
    else:
        may_write = sa.or_(may_write, TASKS.c.remote == 1)
    let_go = sa.and_(
        TASKS.c.status == new.status, TASKS.c.still_running == 1, new.still_running == 0
    )
    live = is_one_of(TASKS.c.status, [TaskStatus.PENDING, TaskStatus.RUNNING])
    return changed, sa.and_(may_write, sa.or_(live, let_go))
