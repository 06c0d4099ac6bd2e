"""Claims: the tasks that no process has, and which of them a process takes.

A task is free while its row names no process. Its process has given it away, or has ended. It is
asleep if it is not due yet, and whoever looks when it is wakes it.

The rule: of the functions that a process takes, the tasks of the highest priority first, and of
these the oldest; as many as the process has places for.

Guarantees: each free task gets one owner, since every process takes its turn before it looks.
Relies on: calls within transactions of the store's own thread.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._records.records import OFFERED, Kind
from framework.stores.sql._dialects.dialect import Answer, Dialect
from framework.stores.sql._dialects.direct import Direct
from framework.stores.sql._tables import free_rows
from framework.stores.sql._tables.free_rows import IS_FREE, READY
from framework.stores.sql._tables.rows import NEVER, TaskRow
from framework.stores.sql._tables.schema import TASKS
from framework.stores.sql._tables.statements import ROW, parts

MOST: Final = 200
"""How many tasks a process takes in one transaction at most."""

MOST_TEXT: Final = 8_000_000
"""How many characters their arguments have together at most, unless a single one has more."""

_FEW: Final = 8
"""Of how many functions tasks are looked for at once, whether there are some or not."""

Names: TypeAlias = Mapping[Kind, Collection[str]]
"""The names of functions, by where they run."""


class Waiting(NamedTuple):
    """What decides when it is a task's turn, besides its id.

    Attributes:
        name: Its function.
        level: Its priority, 0 for high.
        created_at: When it was submitted, in wall seconds.
    """

    name: str
    level: int
    created_at: float

    def is_before(self, other: Waiting) -> bool:
        """Return whether it is this one's turn first, whoever waits where."""
        return (self.level, self.created_at) < (other.level, other.created_at)


class Picked(NamedTuple):
    """A free task that a process takes.

    Attributes:
        row: What is read of it.
        call: Its arguments; see `Restart.of`.
        restart: What else is needed to run it.
    """

    row: TaskRow
    call: str
    restart: str


# Literals, since databases choose the indexes of the few free tasks only for these.
_IS_UNWANTED: Final = sa.and_(
    IS_FREE,
    sa.or_(
        TASKS.c.cancel_requested == sa.literal_column("1"),
        TASKS.c.call.is_(None),
        TASKS.c.restart.is_(None),
    ),
)

_ORDER: Final = ("level", "created_at", "task_id")
"""The columns by which it is their turn."""
_INDEX: Final = "asyncframe_tasks_ready"
_MAY_START: Final = sa.text(READY)
# From one name to the next, past all of its tasks: there may be a million. For a minimum PostgreSQL
# reads them all while it has not counted them.
_PRESENT: Final = """
WITH RECURSIVE names (its_name) AS (
    SELECT * FROM (
        SELECT name FROM {free} WHERE {ready} AND name >= '' ORDER BY name LIMIT 1
    ) AS its_first
    UNION ALL
    SELECT (
        SELECT name FROM {free} WHERE {ready} AND name > names.its_name ORDER BY name LIMIT 1
    )
    FROM names WHERE its_name IS NOT NULL
)
SELECT its_name FROM names WHERE its_name IS NOT NULL
"""
_WAITED: Final = (
    sa.select(TASKS.c.task_id)
    .where(
        _MAY_START,
        TASKS.c.name.in_(bindparam("names", expanding=True)),
        TASKS.c.version <= bindparam("since"),
    )
    .limit(1)
)
_IS_ASLEEP: Final = sa.and_(IS_FREE, TASKS.c.due_at.is_not(None))
UNWANTED: Final = (
    sa.select(
        *(TASKS.c[name] for name in ("task_id", "name", "attempts", "reason", "cancel_requested")),
        TASKS.c.restart,
    )
    .where(_IS_UNWANTED)
    .order_by(TASKS.c.task_id)
)
"""Those that are to be cancelled, or can never run."""
NEXT_DUE: Final = sa.select(sa.func.min(TASKS.c.due_at)).where(
    _IS_ASLEEP, TASKS.c.due_at < sa.literal_column(repr(NEVER))
)
"""The wall second at which the next sleeping task is due; null if none sleeps."""
_NEXT_DUE: Final = Direct(NEXT_DUE)
_DUE: Final = sa.select(TASKS.c.task_id).where(_IS_ASLEEP, TASKS.c.due_at <= bindparam("now"))
_WAKE: Final = (
    sa.update(TASKS)
    .where(TASKS.c.task_id.in_(_DUE))
    .values(due_at=None, reason=OFFERED, version=bindparam("at_version"))
)


def next_due(connection: Connection) -> float | None:
    """Return the wall second at which the next sleeping task is due; None if none sleeps."""
    ((due,),) = _NEXT_DUE.all(connection)
    return None if due is None else float(due)


def wake(connection: Connection, now: float, version: int) -> None:
    """Wake the free tasks that are due at wall second *now*."""
    connection.execute(_WAKE, {"now": now, "at_version": version})


def waiting(
    connection: Connection,
    dialect: Dialect,
    names: Names,
    kinds: Collection[Kind],
    since: int | None = None,
) -> set[Kind]:
    """Return the kinds, of some, of which free tasks of some functions wait.

    Args:
        connection: A transaction.
        dialect: The kind of database.
        names: The functions.
        kinds: The kinds.
        since: The version in which the tasks waited already; None for any.
    """
    present_names = present(connection, dialect)
    found = {kind: present_names.intersection(names[kind]) for kind in kinds}
    return {
        kind
        for kind, some in found.items()
        if some and (since is None or _has_waited(connection, some, since))
    }


def _has_waited(connection: Connection, names: Collection[str], since: int) -> bool:
    values = {"names": list(names), "since": since}
    return connection.execute(_WAITED, values).first() is not None


def present(connection: Connection, dialect: Dialect) -> set[str]:
    """Return the names of the functions of which free tasks may start."""
    return {name for (name,) in _present(dialect).all(connection)}


@functools.lru_cache
def _present(dialect: Dialect) -> Direct:
    return Direct(sa.text(_PRESENT.format(free=dialect.by_index(TASKS, _INDEX), ready=READY)))


def in_line(connection: Connection, names: Collection[str], most: int) -> list[Waiting]:
    """Return the first free tasks of some functions, *most* at most."""
    found = _first(len(names)).all(connection, _values(names, most)) if names else ()
    return [Waiting(name, level, created_at) for name, level, created_at, *_ in found]


def choose(
    connection: Connection, dialect: Dialect, names: Names, room: Mapping[Kind, int]
) -> tuple[list[Picked], set[Kind]]:
    """Return the free tasks that a process takes, and the kinds of which there may be more.

    Args:
        connection: A transaction in the turn of that process.
        dialect: The kind of database.
        names: The functions whose tasks the process takes.
        room: How many tasks of each kind the process has places for.
    """
    chosen, more = list[Picked](), set[Kind]()
    found = set[str]().union(*(names[kind] for kind in room))
    if len(found) > _FEW:
        found = present(connection, dialect)
    for kind, places in room.items():
        most, wanted = min(places, MOST), found.intersection(names[kind])
        if most > 0 and wanted:
            first, is_all = pick(connection, dialect, wanted, most)
            chosen += first
            if not is_all:
                more.add(kind)
    return chosen, more


def pick(
    connection: Connection, dialect: Dialect, names: Collection[str], most: int
) -> tuple[list[Picked], bool]:
    """Return the free tasks of some functions that come first, and whether there are no more.

    Args:
        connection: A transaction.
        dialect: The kind of database.
        names: The functions, one or more.
        most: How many at most, 1 or more. There are fewer if their arguments are long, but one.
    """
    values = {**_values(names, most), "text": MOST_TEXT}
    found = _picked(dialect, len(names)).fetch(connection, values)
    picked = [Picked(TaskRow(*facts), call, restart) for *facts, call, restart, _ in found]
    return picked, not found or len(found) == found[0][-1] < most


def _values(names: Collection[str], most: int) -> dict[str, Any]:  # Any: of a column
    return {**{f"name_{at}": name for at, name in enumerate(names)}, "most": most}


@functools.lru_cache(maxsize=256)
def _first(many: int) -> Direct:
    """Return the query for what decides about the turn of those that come first."""
    return Direct(_firsts(many, [TASKS.c.name, *(TASKS.c[name] for name in _ORDER)]))


@functools.lru_cache(maxsize=256)
def _picked(dialect: Dialect, many: int) -> Answer:
    """Return the query for those that come first, as far as their arguments are not too long.

    The last column says how many there were before that.
    """
    facts = [*ROW, TASKS.c.version, TASKS.c.process, TASKS.c.call, TASKS.c.restart]
    size = sa.func.length(TASKS.c.call).label("size")
    first = _firsts(many, [*facts, TASKS.c.level, size]).subquery()
    order = [first.c[name] for name in _ORDER]
    total = sa.func.sum(first.c.size).over(order_by=order).label("total")
    found = sa.func.count().over().label("found")
    sized = sa.select(first, total, found).subquery()
    is_short = sa.or_(sized.c.total <= bindparam("text"), sized.c.total == sized.c.size)
    columns = [sized.c[one.name] for one in facts]
    query = sa.select(*columns, sized.c.found).where(is_short)
    return dialect.answer(query.order_by(*(sized.c[name] for name in _ORDER)))


def _firsts(many: int, columns: Sequence[Any]) -> sa.Select[Any]:
    """Return the query for the free tasks of *many* functions that come first.

    The first ones of each function, which its index has in order, and of these the first.
    The columns have those of the order among them.
    """
    order = [TASKS.c[name] for name in _ORDER]
    parts_of = [
        sa.select(*columns)
        # As in `Dialect.by_index`; PostgreSQL takes no hint, and needs none.
        .with_hint(TASKS, f"INDEXED BY {_INDEX}", "sqlite")
        .where(_MAY_START, TASKS.c.name == bindparam(f"name_{at}"))
        .order_by(*order)
        .limit(bindparam("most"))
        for at in range(many)
    ]
    if many == 1:
        return parts_of[0]
    found = sa.union_all(*(sa.select(one.subquery()) for one in parts_of)).subquery()
    in_order = sa.select(found).order_by(*(found.c[name] for name in _ORDER))
    return in_order.limit(bindparam("most"))


def give(connection: Connection, task_ids: Collection[str], process: str, version: int) -> None:
    """Give free tasks to a process, whose turn to write it is; there they wait on."""
    for some in parts(task_ids):
        given = (
            sa.update(TASKS)
            .where(TASKS.c.task_id.in_(some))
            .values(process=process, version=version)
        )
        free_rows.add(connection, -connection.execute(given).rowcount)
