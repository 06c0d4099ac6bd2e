"""Calls: whoever sets tasks free calls one process that has places for them.

Not all, since one takes them, and the others would look in vain. Where all processes read of what
is free, nobody is called; see `Dialect.call`.

The invariant: a free task is known at once to one process that takes tasks, the one that has said
that it has the most free threads; to each process when it writes how a task ended, at most 10 ms
later; and to all of them with their second beat from then on, whoever was called and
has died, or hangs. One that hangs is called for two beats at most: from then on it counts as full,
see `membership`.

A process that is called and leaves some, since it has no more places or does not take them, calls
the next one in the order of their ids, until each has been called once. If some of the same
function waited before, a process was called for those, and is not called again.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework.stores.sql._dialects.dialect import Dialect
from framework.stores.sql._dialects.direct import Direct
from framework.stores.sql._tables.free_rows import READY
from framework.stores.sql._tables.rows import Written
from framework.stores.sql._tables.schema import PROCESSES, TASKS

# One without a free thread may have a place for an ``async def`` task.
_ABLE: Final = (
    PROCESSES.c.process_id != bindparam("own"),
    PROCESSES.c.places > 0,
    PROCESSES.c.room.is_not(None),
)
_EMPTIEST: Final = (
    sa.select(PROCESSES.c.process_id)
    .where(*_ABLE)
    .order_by(PROCESSES.c.room.desc(), PROCESSES.c.process_id)
    .limit(1)
)
_NEXT: Final = (
    sa.select(PROCESSES.c.process_id)
    .where(*_ABLE)
    .order_by((PROCESSES.c.process_id > bindparam("own")).desc(), PROCESSES.c.process_id)
    .limit(1)
)
_MANY: Final = (
    sa.select(sa.func.count())
    .select_from(PROCESSES)
    .where(*_ABLE)
    .having(sa.func.count() > bindparam("before", type_=sa.Integer()))
)
# By a name of its own, since the words are about the columns of the other.
_MINE: Final = TASKS.alias("mine")
_ITS_NAME: Final = (
    sa.select(_MINE.c.name)
    .where(_MINE.c.task_id == bindparam("task_id"), _MINE.c.due_at.is_(None))
    .scalar_subquery()
)


def _waited(version: sa.ColumnElement[int], name: sa.ColumnElement[str]) -> sa.Exists:
    """Return the condition that tasks of a function may have started before a version."""
    some = sa.select(TASKS.c.task_id).where(sa.text(READY), TASKS.c.name == name)
    return some.where(TASKS.c.version < version).exists()


_WAITED: Final = _waited(bindparam("version", type_=sa.BigInteger()), _ITS_NAME)


def new(dialect: Dialect, version: sa.ColumnElement[int]) -> sa.Select[Any] | None:
    """Return the query that calls the process with the most places to take new tasks.

    Its values are those of `of_new`. None where nobody is called.

    Args:
        dialect: The kind of database.
        version: With which they are written.
    """
    query = _query(dialect, _EMPTIEST)
    name = bindparam("new_name", type_=sa.Text())
    return None if query is None else query.where(~_waited(version, name))


def of_new(own: str, rows: Sequence[Written]) -> dict[str, Any]:
    """Return the values of what calls a process to take *rows*, which process *own* writes."""
    (first, *others) = rows
    is_ready = first.restart is not None and first.restart.due is None
    # Somebody is called for several, and for one that sleeps, whatever waited before.
    name = first.name if is_ready and not others else None
    return {"own": own, "payload": "0", "new_name": name}


def call(
    connection: Connection, dialect: Dialect, own: str, version: int, freed: Collection[str] = ()
) -> None:
    """Call the process with the most places to take what was set free.

    Args:
        connection: A transaction that writes.
        dialect: The kind of database.
        own: The process that has set it free, which is not called.
        version: Of this transaction.
        freed: What was set free, if that is known.
    """
    query = _called(dialect, is_one=len(freed) == 1)
    if query is None:
        return
    values: dict[str, Any] = {"own": own, "payload": "0"}
    if len(freed) == 1:
        (task_id,) = freed
        values |= {"task_id": task_id, "version": version}
    query.all(connection, values)


def call_next(connection: Connection, dialect: Dialect, own: str, before: int) -> bool:
    """Call the next process, after *own* has left some; return whether there is one.

    Args:
        connection: A transaction that writes.
        dialect: The kind of database.
        own: This process.
        before: How many were called before this one.
    """
    query = _passed_on(dialect)
    if query is None:
        return False
    values = {"own": own, "payload": str(before + 1), "before": before}
    return bool(query.all(connection, values))


@functools.lru_cache
def _called(dialect: Dialect, *, is_one: bool) -> Direct | None:
    query = _query(dialect, _EMPTIEST)
    if query is None:
        return None
    return Direct(query.where(~_WAITED) if is_one else query)


@functools.lru_cache
def _passed_on(dialect: Dialect) -> Direct | None:
    query = _query(dialect, _NEXT)
    return None if query is None else Direct(query.where(_MANY.exists()))


def _query(dialect: Dialect, chosen: sa.Select[Any]) -> sa.Select[Any] | None:
    one = chosen.subquery("one")
    calls = dialect.call(one.c.process_id, bindparam("payload", type_=sa.Text()))
    return None if calls is None else sa.select(calls).select_from(one)
