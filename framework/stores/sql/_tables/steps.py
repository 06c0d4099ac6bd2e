"""The rows of steps, and what is read of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._records.steps import LEFT_BEHIND, StepRecord
from framework.stores.sql._dialects.dialect import Dialect
from framework.stores.sql._dialects.direct import Direct
from framework.stores.sql._tables.schema import MESSAGES, STEPS_OF_TASKS, TASKS
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


_FACTS: Final = ("function", "digest", "state", "answer", "code", "began", "ended")
_facts_of = attrgetter(*_FACTS)

_ROW: Final = ("task_id", "number", "branch", *_FACTS)
"""The columns of a row, in the order in which `row_of` writes them."""


def holding(dialect: Dialect) -> sa.Select[Any]:  # Any: of columns
    """Return the query for who has some tasks, whose rows it holds until the transaction ends.

    Nothing else is asked of them: a server that has not counted its rows yet may find them by an
    index of that instead, and read all that live.
    """
    wanted = dialect.among(TASKS.c.task_id, bindparam("task_ids", type_=sa.Text()))
    found = sa.select(TASKS.c.task_id, TASKS.c.process, TASKS.c.ended_at).where(wanted)
    # In their order, so that no two wait for each other.
    return found.order_by(TASKS.c.task_id).with_for_update(read=True)


@functools.lru_cache
def holder(dialect: Dialect) -> Direct:
    """Return the statement that executes `holding`; its value is ``task_ids``, a JSON list."""
    return Direct(holding(dialect))


@functools.lru_cache
def adding(dialect: Dialect) -> Direct:
    """Return the statement that stores steps of tasks that live and that a process has.

    Its values are ``own``, the process; ``task_ids``, the tasks as a JSON list; and ``rows``, a
    JSON list of what `row_of` returns. It holds the rows of the tasks, so that nobody takes one
    over before the steps are there.
    """
    # Within its SELECT: of what begins with WITH, SQLite's driver counts no rows.
    held = holding(dialect).cte("held", nesting=True)
    # SQLite would look for these first, by an index of all that live.
    process, ended = dialect.hidden(held.c.process), dialect.hidden(held.c.ended_at)
    mine = sa.select(held.c.task_id).where(process == bindparam("own"), ended.is_(None))
    types = [STEPS_OF_TASKS.c[name].type for name in _ROW]
    batch, items = dialect.split(bindparam("rows", type_=sa.Text()), types)
    rows = sa.select(*items).select_from(batch).where(items[0].in_(mine))
    return Direct(sa.insert(STEPS_OF_TASKS).from_select(_ROW, rows))


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


def row_of(task_id: str, record: StepRecord) -> str:
    """Return the row of a step as a JSON list."""
    branch = json.dumps([record.path, record.origins])
    return json.dumps([task_id, record.number, branch, *_facts_of(record)])


def _record(row: sa.Row[Any]) -> StepRecord:
    path, origins = json.loads(row.branch)
    known = tuple((name, digest) for name, digest in origins)
    number, answer = int(row.number), row.answer
    found = tuple(path), known, row.function, row.digest, number, row.state, answer, row.code
    return StepRecord(*found, row.began, row.ended)
