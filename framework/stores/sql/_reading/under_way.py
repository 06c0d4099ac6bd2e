"""Tasks that are under way, with their calls and the steps that they have recorded.

The database reads them in pieces, each as it is at one moment, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._records.steps import StepRecord
from framework.stores.sql._reading.pages import Live, Pages
from framework.stores.sql._tables.schema import STEPS_OF_TASKS, TASKS
from framework.stores.sql._tables.statements import parts
from framework.stores.sql._tables.steps import read_of

FIRST: Final[Live] = ("", -1e300, "")
"""The place before all of them."""

_THESE: Final[sa.BindParameter[Any]] = bindparam("task_ids", expanding=True)
_CALLS: Final = sa.select(TASKS.c.task_id, TASKS.c.call).where(TASKS.c.task_id.in_(_THESE))
_WITH_STEPS: Final = (
    sa.select(STEPS_OF_TASKS.c.task_id).where(STEPS_OF_TASKS.c.task_id.in_(_THESE)).distinct()
)


@dataclass(frozen=True, slots=True)
class TaskUnderWay:
    """A task that has not ended.

    Attributes:
        task_id: Its id.
        name: The name of its function.
        status: What it does.
        attempts: How many it has made.
        call: Its arguments, as `wire.encode_call` returned them; None if they are not kept.
        steps: What is recorded of its steps, in the order in which they ended.
        run_again_of: The task that it goes on from; "" for none.
    """

    task_id: str
    name: str
    status: str
    attempts: int
    call: str | None
    steps: tuple[StepRecord, ...]
    run_again_of: str


def read_under_way(
    connection: Connection, pages: Pages, after: Live, names: Collection[str]
) -> tuple[list[TaskUnderWay], Live | None]:
    """Return some tasks that are under way, and the place of the last one; None at the end.

    Args:
        connection: A transaction that reads.
        pages: Reads the tasks.
        after: The place after which to begin.
        names: Of the functions whose tasks are returned also if they have no steps.
    """
    found = pages.live(connection, after)
    last = (found[-1].process, found[-1].created_at, found[-1].task_id) if found else None
    rows = [one for one in found if not one.remote]
    ids = [one.task_id for one in rows]
    with_steps = set(_ids(connection, ids))
    wanted = [one for one in rows if one.task_id in with_steps or one.name in names]
    calls = dict(_calls(connection, [one.task_id for one in wanted]))
    steps = read_of(connection, with_steps)
    return [
        TaskUnderWay(
            one.task_id,
            one.name,
            one.status,
            one.attempts,
            calls.get(one.task_id),
            tuple(steps.get(one.task_id, ())),
            one.run_again_of or "",
        )
        for one in wanted
    ], last


def _ids(connection: Connection, task_ids: Collection[str]) -> Iterator[str]:
    for some in parts(task_ids):
        yield from connection.execute(_WITH_STEPS, {"task_ids": some}).scalars()


def _calls(connection: Connection, task_ids: Collection[str]) -> Iterator[tuple[str, str | None]]:
    for some in parts(task_ids):
        for row in connection.execute(_CALLS, {"task_ids": some}):
            yield row.task_id, row.call
