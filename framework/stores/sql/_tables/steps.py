"""The rows of steps, and what is read of them."""

from __future__ import annotations

import json
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._records.steps import StepRecord
from framework.stores.sql._tables.schema import STEPS_OF_TASKS

_ALL: Final = (
    sa.select(STEPS_OF_TASKS)
    .where(STEPS_OF_TASKS.c.task_id == bindparam("of_task"))
    .order_by(STEPS_OF_TASKS.c.number)
)


def read(connection: Connection, task_id: str) -> list[StepRecord]:
    """Return the steps of a task, in the order in which they ended."""
    return [_record(row) for row in connection.execute(_ALL, {"of_task": task_id})]


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
