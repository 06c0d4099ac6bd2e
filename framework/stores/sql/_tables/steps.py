"""The rows of steps, and what is read of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._records.steps import LEFT_BEHIND, StepRecord
from framework.stores.sql._tables.schema import MESSAGES, STEPS_OF_TASKS
from framework.stores.sql._tables.statements import parts

_ALL: Final = (
    sa.select(STEPS_OF_TASKS)
    .where(STEPS_OF_TASKS.c.task_id == bindparam("of_task"))
    .order_by(STEPS_OF_TASKS.c.number)
)

_OF_SOME: Final = (
    sa.select(STEPS_OF_TASKS)
    .where(STEPS_OF_TASKS.c.task_id.in_(bindparam("task_ids", expanding=True)))
    .order_by(STEPS_OF_TASKS.c.task_id, STEPS_OF_TASKS.c.number)
)


def _copying(table: sa.Table, wanted: sa.ColumnElement[bool]) -> sa.Insert:
    """Return what gives wanted rows of one task to another one as well, unless that has some."""
    names = [one.name for one in table.columns if one.name != "task_id"]
    new, others = sa.cast(bindparam("new", type_=sa.Text()), sa.Text), table.alias()
    rows = sa.select(new, *(table.c[name] for name in names)).where(
        table.c.task_id == bindparam("old"),
        wanted,
        ~sa.exists().where(others.c.task_id == bindparam("new")),
    )
    return sa.insert(table).from_select(["task_id", *names], rows)


_CARRY: Final = (
    _copying(STEPS_OF_TASKS, STEPS_OF_TASKS.c.state != LEFT_BEHIND),
    _copying(MESSAGES, sa.true()),
)


def read(connection: Connection, task_id: str) -> list[StepRecord]:
    """Return the steps of a task, in the order in which they ended."""
    return [_record(row) for row in connection.execute(_ALL, {"of_task": task_id})]


def carry(connection: Connection, tasks: Iterable[tuple[str, str]]) -> None:
    """Let tasks go on from the steps of others, and get the messages to these.

    Args:
        connection: The transaction in which their rows are first written, or again since nobody
            knows whether an earlier one had its effect.
        tasks: Each, and the one that it goes on from, which has ended.
    """
    for new, old in tasks:
        for copy in _CARRY:
            connection.execute(copy, {"new": new, "old": old})


def read_of(
    connection: Connection, task_ids: Collection[str]
) -> Mapping[str, Sequence[StepRecord]]:
    """Return the steps of some tasks, of each in the order in which they ended."""
    found: dict[str, list[StepRecord]] = {}
    for some in parts(task_ids):
        for row in connection.execute(_OF_SOME, {"task_ids": some}):
            found.setdefault(row.task_id, []).append(_record(row))
    return found


def row_of(task_id: str, record: StepRecord) -> dict[str, Any]:
    """Return the row of a step."""
    return {
        "task_id": task_id,
        "number": record.number,
        "branch": json.dumps([record.path, record.origins]),
        "function": record.function,
        "digest": record.digest,
        "state": record.state,
        "answer": record.answer,
        "code": record.code,
        "began": record.began,
        "ended": record.ended,
    }


def _record(row: sa.Row[Any]) -> StepRecord:
    path, origins = json.loads(row.branch)
    known = tuple((name, digest) for name, digest in origins)
    number, answer = int(row.number), row.answer
    found = tuple(path), known, row.function, row.digest, number, row.state, answer, row.code
    return StepRecord(*found, row.began, row.ended)
