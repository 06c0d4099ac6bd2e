"""Chains: which tasks wait for others to end, and what becomes of them in the database.

There is a row of `CHAINS` for each task that waits and each one that it waits for. Its row among
the tasks is due `NEVER` until then, so that it is asleep for all who look for what may start, as
long as nobody has it. Its number of rows is kept beside the version, so that nobody who ends a task
asks for them in vain.

A task that has left its process and waits for the result of another one has such a row, too, with
`WAKES`: its code runs again once one of those has ended, however. It is due, and sleeps, as one
that waits for a message. A row of one that goes on for another reason is left until then, and
wakes nobody.

The invariants:

1. A task that is due `NEVER` waits for one at least that has not ended, or that its process has yet
   to write. Each transaction that commits leaves it so.
2. Both whoever begins to wait and whoever ends a task does so in a writer's turn, and looks for the
   other after its own change: the later of the two finds the earlier. So no end is missed.
3. What an end decides is written with it: the tasks that may start by it, and those that are
   cancelled, down to the last that waits for these. Their own processes only hear of it. So whoever
   dies, in between or later, nothing has to be looked at again. So it is with those that it wakes.
4. A process that has such a task neither starts it nor changes until when it waits. So the row may
   be changed by others, though it is not theirs, until it is released or has ended.

Relies on: calls in a writer's turn, after all else that ends tasks or writes new ones in it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._records.chains import After, why_cancelled
from framework._records.reasons import awaited_tasks, delayed
from framework._records.records import OFFERED, Restart
from framework._records.statuses import TaskStatus
from framework.stores.sql._dialects.dialect import Dialect
from framework.stores.sql._tables import calls, free_rows
from framework.stores.sql._tables.rows import NEVER
from framework.stores.sql._tables.schema import CHAINS, META, SUBMISSIONS, TASKS

WAKES: Final = "wake"
"""What becomes of a task that waits for a result, instead of "cancel" or "run"."""

_CHUNK: Final = 500
"""How many ids a statement names at most."""

_THESE: Final[sa.BindParameter[Any]] = bindparam("task_ids", expanding=True)
_COUNT: Final = sa.update(META).values(chained=META.c.chained + bindparam("by"))
_ENDED: Final = (
    sa.select(CHAINS.c.parent, TASKS.c.status)
    .distinct()
    .select_from(CHAINS.outerjoin(TASKS, TASKS.c.task_id == CHAINS.c.parent))
    .where(
        CHAINS.c.parent.in_(_THESE),
        sa.or_(
            TASKS.c.ended_at.is_not(None),
            sa.and_(
                TASKS.c.task_id.is_(None),
                # One that an app has submitted in a transaction, and that nobody has moved yet.
                CHAINS.c.parent.not_in(sa.select(SUBMISSIONS.c.task_id)),
            ),
        ),
    )
)
_OF_PARENTS: Final = sa.select(CHAINS.c.task_id, CHAINS.c.parent).where(
    CHAINS.c.parent.in_(_THESE), CHAINS.c.on_failure != WAKES
)
_AWAITED: Final = sa.select(CHAINS.c.task_id, CHAINS.c.parent).where(
    CHAINS.c.parent.in_(_THESE), CHAINS.c.on_failure == WAKES
)
_CANCELS: Final = CHAINS.c.on_failure == "cancel"
_FIRST: Final = (
    sa.select(CHAINS.c.task_id, CHAINS.c.parent)
    .where(CHAINS.c.parent.in_(_THESE), _CANCELS)
    .cte("cancelled", recursive=True)
)
# In one statement: a chain may have thousands of tasks, and nobody else can write meanwhile.
_ALL_CANCELLED: Final = sa.select(
    _FIRST.union(
        sa.select(CHAINS.c.task_id, CHAINS.c.parent).where(
            CHAINS.c.parent == _FIRST.c.task_id, _CANCELS
        )
    )
)
_LEFT: Final = sa.select(CHAINS.c.task_id).distinct().where(CHAINS.c.task_id.in_(_THESE))
_DROP_PARENTS: Final = sa.delete(CHAINS).where(CHAINS.c.parent.in_(_THESE))
_DROP_TASKS: Final = sa.delete(CHAINS).where(CHAINS.c.task_id.in_(_THESE))
_WAITS: Final = sa.and_(
    TASKS.c.status == TaskStatus.PENDING.value, TASKS.c.due_at == sa.literal_column(repr(NEVER))
)
_WAITING: Final = sa.select(
    TASKS.c.task_id, TASKS.c.process, TASKS.c.restart, TASKS.c.level, TASKS.c.created_at
).where(TASKS.c.task_id.in_(_THESE), _WAITS)
_RELEASED: Final = sa.select(TASKS.c.task_id).where(
    TASKS.c.task_id.in_(_THESE),
    TASKS.c.ended_at.is_(None),
    sa.or_(TASKS.c.due_at.is_(None), TASKS.c.due_at < NEVER),
)
_AWAY: Final = sa.select(TASKS.c.task_id, TASKS.c.reason).where(
    TASKS.c.task_id.in_(_THESE), free_rows.IS_FREE, TASKS.c.due_at.is_not(None)
)
WAKE: Final = (
    sa.update(TASKS)
    .where(
        TASKS.c.task_id.in_(_THESE),
        free_rows.IS_FREE,
        TASKS.c.due_at.is_not(None),
    )
    .values(due_at=None, reason=OFFERED, version=bindparam("at_version"))
)
"""Lets tasks go on that sleep, and that no process has."""

_CANCEL: Final = (
    sa.update(TASKS)
    .where(TASKS.c.task_id == bindparam("its_id"))
    .values(
        status=TaskStatus.CANCELLED.value,
        ended_at=sa.case(
            (TASKS.c.created_at > bindparam("now"), TASKS.c.created_at), else_=bindparam("now")
        ),
        reason=bindparam("why"),
        due_at=None,
        restart=None,
        version=bindparam("at_version"),
    )
)
_RELEASE: Final = (
    sa.update(TASKS)
    .where(TASKS.c.task_id == bindparam("its_id"))
    .values(
        due_at=bindparam("due"),
        reason=bindparam("why"),
        restart=bindparam("facts"),
        version=bindparam("at_version"),
    )
)


class Settled(NamedTuple):
    """What has become of tasks that waited for others.

    Attributes:
        released: The ids of those that may start now, by the process that has them; "" for none.
        cancelled: The same for those that have ended by it, each with the reason.
    """

    released: Mapping[str, Sequence[str]]
    cancelled: Mapping[str, Mapping[str, str]]


NOTHING: Final = Settled({}, {})


def begin(
    connection: Connection, dialect: Dialect, links: Collection[tuple[str, str, str]]
) -> None:
    """Let tasks wait for others.

    Args:
        connection: A transaction in a writer's turn, in which their rows were written.
        dialect: The kind of database.
        links: For each its id, one that it waits for, and what becomes of it if that has no result.
    """
    # Those that are there are of a commit whose answer was lost.
    values = {"links": json.dumps(list(links))}
    _add(connection, connection.execute(_begin(dialect), values).rowcount)


@functools.lru_cache
def _begin(dialect: Dialect) -> Any:  # Any: a statement of the dialect
    batch, items = dialect.split(bindparam("links", type_=sa.Text()), [sa.Text()] * 3)
    # SQLite needs the condition to tell ON CONFLICT from the ON of a join.
    rows = sa.select(*items).select_from(batch).where(sa.true())
    names = ["task_id", "parent", "on_failure"]
    made = dialect.insert(CHAINS).from_select(names, rows).on_conflict_do_nothing()
    return made.execution_options(preserve_rowcount=True)


def settle(
    connection: Connection,
    dialect: Dialect,
    process: str,
    version: int,
    now: float,
    ended: Collection[str],
    begun: Collection[str] = (),
    is_coming: Callable[[str], bool] = lambda _: False,
) -> Settled:
    """Release or cancel what waits for tasks that have ended.

    Args:
        connection: A transaction in a writer's turn.
        dialect: The kind of database.
        process: The id of this process.
        version: Its version.
        now: The wall second.
        ended: Tasks of which this transaction has written that they have ended.
        begun: Tasks for which others wait since this transaction.
        is_coming: Returns whether a task without a row is still to be written.
    """
    statuses = {
        parent: None if status is None else TaskStatus(status)
        for parent, status in _rows(connection, _ENDED, {*ended, *begun})
        if status is not None or not is_coming(parent)
    }
    cancelled = _unwanted(connection, statuses)
    parents = {*statuses, *cancelled}
    touched = {one for one, _ in _rows(connection, _OF_PARENTS, parents)}.difference(cancelled)
    woken = _wake(connection, parents, version)
    # Those that have ended otherwise wait for nothing any more.
    _drop(connection, _DROP_TASKS, {*ended, *cancelled})
    _drop(connection, _DROP_PARENTS, parents)
    if not touched and not cancelled and not woken:
        return NOTHING
    left = {task_id for (task_id,) in _rows(connection, _LEFT, touched)}
    waiting = _rows(connection, _WAITING, {*cancelled, *touched.difference(left)})
    # In the order in which they would start.
    waiting.sort(key=attrgetter("level", "created_at", "task_id"))
    ended_by_it, released = dict[str, dict[str, str]](), dict[str, list[str]]()
    if woken:
        released[""] = woken
    ends, starts = list[dict[str, Any]](), list[dict[str, Any]]()
    for row in waiting:
        why = cancelled.get(row.task_id)
        if why is None:
            starts.append(_released(row, now))
            released.setdefault(row.process, []).append(row.task_id)
        else:
            ends.append({"its_id": row.task_id, "why": why})
            ended_by_it.setdefault(row.process, {})[row.task_id] = why
    if ends:
        _each(connection, _CANCEL, ends, now=now, at_version=version)
        free_rows.add(connection, -len(ended_by_it.get("", ())))
    if starts:
        _each(connection, _RELEASE, starts, at_version=version)
    if "" in released:
        calls.call(connection, dialect, process, version, released[""])
    return Settled(released, ended_by_it)


def _wake(connection: Connection, parents: Collection[str], version: int) -> list[str]:
    """Wake those that are out of memory and wait for the results of some tasks that have ended."""
    links = {(one, parent) for one, parent in _rows(connection, _AWAITED, parents)}
    if not links:
        return []
    woken = list[str]()
    for task_id, reason in _rows(connection, _AWAY, {one for one, _ in links}):
        if any((task_id, one) in links for one in awaited_tasks(reason)):
            woken.append(task_id)
    for some in _parts(woken):
        connection.execute(WAKE, {"task_ids": some, "at_version": version})
    return woken


def released_among(connection: Connection, task_ids: Collection[str]) -> list[str]:
    """Return which of some tasks do not wait for others any more, and have not ended."""
    return [task_id for (task_id,) in _rows(connection, _RELEASED, task_ids)]


def _unwanted(connection: Connection, statuses: Mapping[str, TaskStatus | None]) -> dict[str, str]:
    """Return why tasks are cancelled, by their ids, if some others have ended so."""
    failed = [one for one, status in statuses.items() if After(()).cancels(status)]
    found = dict[str, str]()
    for task_id, parent in _rows(connection, _ALL_CANCELLED, failed):
        status = statuses.get(parent, TaskStatus.CANCELLED)
        found.setdefault(task_id, why_cancelled(parent, status))
    return found


def _released(row: sa.Row[Any], now: float) -> dict[str, Any]:
    """Return what changes in the row of a task that may start from now on."""
    due, facts = None, row.restart
    if facts is not None:
        restart = Restart.of("", facts)
        if restart.delay:
            restart.due, restart.delay = now + restart.delay, 0.0
            due, facts = restart.due, restart.facts()
    # Its own process knows why it waits from then on.
    why = delayed(due) if due is not None else "" if row.process else OFFERED
    return {"its_id": row.task_id, "due": due, "why": why, "facts": facts}


def _rows(connection: Connection, query: sa.Select[Any], task_ids: Iterable[str]) -> list[Any]:
    return [
        row for some in _parts(task_ids) for row in connection.execute(query, {"task_ids": some})
    ]


def _drop(connection: Connection, statement: sa.Delete, task_ids: Iterable[str]) -> None:
    _add(
        connection,
        -sum(
            connection.execute(statement, {"task_ids": some}).rowcount for some in _parts(task_ids)
        ),
    )


def _add(connection: Connection, by: int) -> None:
    if by:
        connection.execute(_COUNT, {"by": by})


def _each(
    connection: Connection, statement: sa.Update, values: Sequence[dict[str, Any]], **same: Any
) -> None:
    connection.execute(statement, [{**one, **same} for one in values])


def _parts(task_ids: Iterable[str]) -> Iterable[list[str]]:
    wanted = list(task_ids)
    return (wanted[at : at + _CHUNK] for at in range(0, len(wanted), _CHUNK))
