"""Cancellations that are asked for, as they stand in the rows of tasks until these have ended.

A task whose code has begun, and that goes on from its steps, is not ended as a row: whoever has a
place goes on with it, and the cancellation is raised where its code stands, so that it makes up for
what it has done. `RAISES` stands in its row until it ends, whoever dies meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._records.records import Restart
from framework._records.statuses import TaskStatus
from framework.stores.sql._tables.rows import ENDS, RAISES
from framework.stores.sql._tables.schema import TASKS

_ASKED: Final = (
    sa.update(TASKS)
    .where(TASKS.c.task_id == bindparam("of_task"))
    .values(cancel_requested=bindparam("mark"), version=bindparam("at_version"))
)
# It keeps its reason, by which everybody sees that it has begun.
_WAKE: Final = (
    sa.update(TASKS)
    .where(TASKS.c.task_id.in_(bindparam("task_ids", expanding=True)))
    .values(due_at=None)
)


def ask(
    connection: Connection,
    which: sa.ColumnElement[bool],
    version: int,
    *,
    at_once: bool = False,
) -> tuple[list[str], Collection[str]]:
    """Mark live tasks as to be cancelled, and wake those that go on for it.

    Args:
        connection: A transaction in a writer's turn.
        which: Which tasks; few.
        version: The version of the turn.
        at_once: Whether a free one that waits to go on ends as it is: its code does not run.

    Returns:
        Whose they are, "" for one that is free; and those that are free and may start now.
    """
    rows = connection.execute(live(which)).all()
    woken = list[str]()
    for row in rows:
        mark = _mark_of(row, at_once)
        values = {"of_task": row.task_id, "mark": mark, "at_version": version}
        connection.execute(_ASKED, values)
        if mark == RAISES and not row.process:
            woken.append(row.task_id)
    if woken:
        connection.execute(_WAKE, {"task_ids": woken})
    return [row.process for row in rows], woken


def live(which: sa.ColumnElement[bool]) -> sa.Select[Any]:  # Any: of columns
    """Return the query for what decides how live tasks are cancelled."""
    columns = TASKS.c.task_id, TASKS.c.process, TASKS.c.status, TASKS.c.restart
    return sa.select(*columns).where(which, TASKS.c.ended_at.is_(None))


def _mark_of(row: Any, at_once: bool) -> int:  # Any: a row of the columns above
    if row.restart is None:
        return ENDS
    restart = Restart.of("", row.restart)
    if row.status == TaskStatus.RUNNING.value:
        return RAISES if restart.resumes else ENDS
    # One that has a process goes on in a moment.
    return RAISES if restart.stands and (row.process or not at_once) else ENDS
