"""Orphans: live tasks whose process has ended, and what becomes of them.

Those that run on workers are followed by another process. Those that may run again belong to a
process that knows their function, or wait for one. All others end INTERRUPTED.

Guarantees: each gets one new owner, since every process takes its turn before it looks.
Relies on: calls within transactions of the store's own thread.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import accumulate
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from framework._records.records import WAITS
from framework._records.statuses import TaskStatus
from framework._tasks import registry
from framework._tasks.wire import encode_error
from framework.exceptions import TaskCancelledError
from framework.stores.sql._tables.schema import PROCESSES, TASKS
from framework.stores.sql._tables.statements import parts

REASON: Final = "its process ended or hung before the task could end"
CANCELLED: Final = "it was cancelled before another process took it over"

MOST: Final = 200
"""How many tasks a process takes over in one transaction at most."""

MOST_TEXT: Final = 8_000_000
"""How many characters their arguments have together at most, unless a single one has more."""

_ORPHANED: Final = sa.and_(
    TASKS.c.ended_at.is_(None), TASKS.c.process.not_in(sa.select(PROCESSES.c.process_id))
)
_REMOTE: Final = TASKS.c.remote == 1
_MAY_RUN: Final = sa.and_(TASKS.c.restart.is_not(None), TASKS.c.call.is_not(None))
_WAITING: Final = sa.and_(_ORPHANED, TASKS.c.remote == 0, _MAY_RUN)
_LOST: Final = sa.and_(_ORPHANED, TASKS.c.remote == 0, sa.not_(_MAY_RUN))

_GROUPS: Final = (
    sa.select(
        TASKS.c.name,
        sa.func.max(TASKS.c.cancel_requested),
        sa.func.max(sa.case((TASKS.c.reason == WAITS, 0), else_=1)),
    )
    .where(_WAITING)
    .group_by(TASKS.c.name)
)


class Found(NamedTuple):
    """What there is to do for orphans.

    Attributes:
        lost: Whether some are to be ended, or followed on their workers.
        cancelled: Whether the cancellation of a waiting one was requested.
        known: The names of waiting ones whose functions this process knows.
        unknown: The names of the others, as far as they do not say yet why they wait.
    """

    lost: bool
    cancelled: bool
    known: Collection[str]
    unknown: Collection[str]

    def __bool__(self) -> bool:
        return bool(self.lost or self.cancelled or self.known or self.unknown)


class TakenOver(NamedTuple):
    """What this process has taken over.

    Attributes:
        remote: The ids of tasks that run on workers.
        waiting: The ids of tasks that this process is to run, each with its call and restart.
        more: Whether there may be more for which there is room.
        ended: The ids of tasks that have ended by this, belonging to nobody.
    """

    remote: Collection[str]
    waiting: dict[str, tuple[str, str]]
    more: bool
    ended: Collection[str] = ()


def find(connection: Connection, room: int) -> Found:
    """Return what there is to do.

    Args:
        connection: A transaction.
        room: How many tasks this process can run.
    """
    if not _exists(connection, _ORPHANED):
        return Found(False, False, (), ())
    cancelled, known, unknown = False, [], []
    for name, to_cancel, is_new in connection.execute(_GROUPS):
        cancelled = cancelled or bool(to_cancel)
        if _is_known(name):
            if room > 0:
                known.append(name)
        elif is_new:
            unknown.append(name)
    lost = _exists(connection, sa.or_(_LOST, sa.and_(_ORPHANED, _REMOTE)))
    return Found(lost, cancelled, known, unknown)


def _exists(connection: Connection, which: sa.ColumnElement[bool]) -> bool:
    found = connection.execute(sa.select(TASKS.c.task_id).where(which).limit(1))
    return found.first() is not None


def take_over(
    connection: Connection, found: Found, process: str, version: int, now: float, room: int
) -> TakenOver:
    """End orphans, or give them to *process*, whose turn to write it is.

    Args:
        connection: A transaction that writes.
        found: What `find` has found.
        process: The id of this process.
        version: Its version.
        now: The wall second.
        room: How many tasks this process can run.
    """
    ended = _cancel(connection, version, now) if found.cancelled else []
    if found.unknown:
        _mark(connection, found.unknown, version)
    waiting, more = _take(connection, found.known, process, version, min(room, MOST))
    remote = _adopt(connection, process, version)
    lost = connection.execute(sa.select(TASKS.c.task_id).where(_LOST)).scalars()
    ended += lost
    _end(connection, _LOST, TaskStatus.INTERRUPTED, version, now, REASON)
    return TakenOver(remote, waiting, more, ended)


def put_back(connection: Connection, task_ids: Collection[str], process: str) -> None:
    """Set free the tasks that *process* may have taken over and does not run."""
    for some in parts(task_ids):
        own = sa.and_(TASKS.c.task_id.in_(some), TASKS.c.process == process)
        connection.execute(
            sa.update(TASKS).where(own, TASKS.c.ended_at.is_(None)).values(process="")
        )


def _is_known(name: str) -> bool:
    return registry.find_spec(name) is not None


def _cancel(connection: Connection, version: int, now: float) -> list[str]:
    """End the orphans whose cancellation was requested, and return their ids."""
    rows = connection.execute(
        sa.select(TASKS.c.task_id, TASKS.c.name).where(_WAITING, TASKS.c.cancel_requested == 1)
    ).all()
    for task_id, name in rows:
        error = encode_error(TaskCancelledError(task_id, name))
        own = TASKS.c.task_id == task_id
        _end(connection, own, TaskStatus.CANCELLED, version, now, CANCELLED, error=error)
    return [task_id for task_id, _ in rows]


def _mark(connection: Connection, names: Collection[str], version: int) -> None:
    """Write into tasks whose function no process knows why they wait."""
    connection.execute(
        sa.update(TASKS)
        .where(_WAITING, TASKS.c.name.in_(names), TASKS.c.reason != WAITS)
        .values(reason=WAITS, version=version)
    )


def _take(
    connection: Connection, names: Collection[str], process: str, version: int, most: int
) -> tuple[dict[str, tuple[str, str]], bool]:
    """Give waiting tasks to *process*, the oldest first; return whether there may be more."""
    if not names or most <= 0:
        return {}, False
    oldest = connection.execute(
        sa.select(TASKS.c.task_id, sa.func.length(TASKS.c.call))
        .where(_WAITING, TASKS.c.name.in_(names))
        .order_by(TASKS.c.created_at, TASKS.c.task_id)
        .limit(most)
    ).all()
    sizes = accumulate(size for _, size in oldest)
    task_ids = [
        task_id
        for (task_id, size), total in zip(oldest, sizes, strict=True)
        if total <= MOST_TEXT or total == size
    ]
    taken: dict[str, tuple[str, str]] = dict.fromkeys(task_ids, ("", ""))
    for some in parts(task_ids):
        own = TASKS.c.task_id.in_(some)
        values = {"process": process, "status": TaskStatus.PENDING.value, "started_at": None}
        connection.execute(sa.update(TASKS).where(own).values(**values, version=version))
        rows = connection.execute(
            sa.select(TASKS.c.task_id, TASKS.c.call, TASKS.c.restart).where(own)
        )
        taken.update({task_id: (call, restart) for task_id, call, restart in rows})
    return taken, len(oldest) == most or len(taken) < len(oldest)


def _adopt(connection: Connection, process: str, version: int) -> list[str]:
    """Give tasks that run on workers to *process*."""
    remote = sa.and_(_ORPHANED, _REMOTE)
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
