"""Orphans: live tasks whose process has ended, and what becomes of them.

Those that run on workers are followed by another process. Those that may run again are free from
then on; see `claims`. All others end INTERRUPTED.

Guarantees: each gets one new owner, since every process takes its turn before it looks.
Relies on: calls within transactions of the store's own thread.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from framework._records.reasons import cancelled, has_begun
from framework._records.records import WAITS, Restart
from framework._records.statuses import TaskStatus
from framework._tasks.errors.kept import encode_error
from framework.exceptions import TaskCancelledError
from framework.stores.sql._dialects.dialect import Dialect
from framework.stores.sql._shared.free.claims import UNWANTED
from framework.stores.sql._tables import calls, chains, free_rows
from framework.stores.sql._tables.schema import TASKS
from framework.stores.sql._tables.statements import parts

MOST: Final = 5_000
"""How many tasks are set free in one transaction at most: nobody else can write meanwhile."""

REASON: Final = "its process ended or hung before the task could end"

# From one process to the next, past all of its tasks: there may be a million that are free.
_LOST: Final = """
WITH RECURSIVE owners (its_id) AS (
    SELECT min(process) FROM {live} WHERE ended_at IS NULL AND process > ''
    UNION ALL
    SELECT (SELECT min(process) FROM {live} WHERE ended_at IS NULL AND process > owners.its_id)
    FROM owners WHERE its_id IS NOT NULL
)
SELECT its_id FROM owners
WHERE its_id IS NOT NULL AND its_id NOT IN (SELECT process_id FROM asyncframe_processes)
"""
_REMOTE: Final = TASKS.c.remote == 1
_MAY_RUN: Final = sa.and_(
    TASKS.c.remote == 0, TASKS.c.restart.is_not(None), TASKS.c.call.is_not(None)
)


class Settled(NamedTuple):
    """What has become of orphans.

    Attributes:
        remote: The ids of tasks that run on workers, and that this process follows from now on.
        freed: Whether some are free now.
        ended: The ids of tasks that have ended by this, belonging to nobody.
        more: Whether there are more to set free; then the rest of their process waits, too.
    """

    remote: Collection[str]
    freed: bool
    ended: Collection[str]
    more: bool


def are_lost(connection: Connection, dialect: Dialect) -> bool:
    """Return whether a process without a row has live tasks."""
    return bool(_lost(connection, dialect))


def _lost(connection: Connection, dialect: Dialect) -> list[str]:
    """Return the processes that have live tasks, and no row."""
    live = dialect.by_index(TASKS, "asyncframe_tasks_live")
    return list(connection.exec_driver_sql(_LOST.format(live=live)).scalars())


def settle(
    connection: Connection,
    dialect: Dialect,
    process: str,
    version: int,
    now: float,
    *,
    chained: bool,
) -> Settled:
    """End orphans, set them free, or give them to *process*, whose turn to write it is.

    Args:
        connection: A transaction that writes.
        dialect: The kind of database.
        process: The id of this process.
        version: Its version.
        now: The wall second.
        chained: Whether tasks wait for others to end.
    """
    # One process after the other: databases use the index of live tasks only for one.
    orphaned = [
        sa.and_(TASKS.c.ended_at.is_(None), TASKS.c.process == lost)
        for lost in _lost(connection, dialect)
    ]
    freed, remote, rest = 0, list[str](), list[sa.ColumnElement[bool]]()
    for one in orphaned:
        many = _free(connection, one, version, now)
        freed += many
        if many < MOST:
            remote += _adopt(connection, one, process, version)
            rest.append(one)
    ended = _end_unwanted(connection, version, now)
    free_rows.add(connection, freed - len(ended))
    if freed:
        calls.call(connection, dialect, process, version)
    for one in rest:
        ended += connection.execute(sa.select(TASKS.c.task_id).where(one)).scalars()
        _end(connection, one, TaskStatus.INTERRUPTED, version, now, REASON)
    if chained and ended:
        over = chains.settle(connection, dialect, process, version, now, ended)
        # Processes that live tell of their own.
        ended += over.cancelled.get("", ())
        freed += "" in over.released
    return Settled(remote, freed > 0, ended, len(rest) < len(orphaned))


def _free(
    connection: Connection, orphaned: sa.ColumnElement[bool], version: int, now: float
) -> int:
    """Set those free that may run again, `MOST` at most, and return how many."""
    some = sa.select(TASKS.c.task_id).where(orphaned, _MAY_RUN).limit(MOST)
    return connection.execute(
        sa.update(TASKS)
        .where(TASKS.c.task_id.in_(some))
        .values(
            process="",
            status=TaskStatus.PENDING.value,
            started_at=None,
            reason=sa.case((TASKS.c.due_at > now, TASKS.c.reason), else_=WAITS),
            version=version,
        )
    ).rowcount


def leave(connection: Connection, dialect: Dialect, process: str, version: int, now: float) -> bool:
    """Set tasks free that *process* leaves as they wait, `MOST` at most.

    Args:
        connection: A transaction that writes.
        dialect: The kind of database.
        process: The id of this process, which writes none of its tasks any more.
        version: Its version.
        now: The wall second.

    Returns:
        Whether there may be more.
    """
    waits = sa.and_(TASKS.c.ended_at.is_(None), TASKS.c.status == TaskStatus.PENDING.value)
    many = _free(connection, sa.and_(TASKS.c.process == process, waits), version, now)
    free_rows.add(connection, many)
    if many:
        calls.call(connection, dialect, process, version)
    return many == MOST


def put_back(connection: Connection, task_ids: Collection[str], process: str) -> None:
    """Set free the tasks that *process* may have taken over and does not run."""
    for some in parts(task_ids):
        own = sa.and_(TASKS.c.task_id.in_(some), TASKS.c.process == process)
        freed = sa.update(TASKS).where(own, TASKS.c.ended_at.is_(None)).values(process="")
        free_rows.add(connection, connection.execute(freed).rowcount)


def _end_unwanted(connection: Connection, version: int, now: float) -> list[str]:
    """End free tasks that were cancelled or can never run, and return their ids."""
    rows = connection.execute(UNWANTED).all()
    for row in rows:
        own = TASKS.c.task_id == row.task_id
        if row.cancel_requested:
            error = encode_error(TaskCancelledError(row.task_id, row.name))
            stands = row.restart is not None and Restart.of("", row.restart).stands
            reason = cancelled(stands or has_begun(row.attempts, row.reason))
            _end(connection, own, TaskStatus.CANCELLED, version, now, reason, error=error)
        else:
            _end(connection, own, TaskStatus.INTERRUPTED, version, now, REASON)
    return [row.task_id for row in rows]


def _adopt(
    connection: Connection, orphaned: sa.ColumnElement[bool], process: str, version: int
) -> list[str]:
    """Give those that run on workers to *process*."""
    remote = sa.and_(orphaned, _REMOTE)
    task_ids = list(connection.execute(sa.select(TASKS.c.task_id).where(remote)).scalars())
    if task_ids:
        connection.execute(sa.update(TASKS).where(remote).values(process=process, version=version))
    return task_ids


def _end(
    connection: Connection,
    which: sa.ColumnElement[bool],
    status: TaskStatus,
    version: int,
    now: float,
    reason: str,
    **values: Any,
) -> None:
    # Clocks differ: no end may come before its start.
    last = sa.func.coalesce(TASKS.c.started_at, TASKS.c.created_at)
    connection.execute(
        sa.update(TASKS)
        .where(which)
        .values(
            status=status.value,
            ended_at=sa.case((last > now, last), else_=now),
            reason=reason,
            restart=None,
            version=version,
            **values,
        )
    )
