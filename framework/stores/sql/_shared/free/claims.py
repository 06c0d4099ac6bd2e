"""Claims: the tasks that no process has, and which of them a process takes.

A task is free while its row names no process. Its process has given it away, or has ended. It is
asleep if it is not due yet, and whoever looks when it is wakes it.

The rule: of the functions that a process takes, the tasks of the highest priority first, and of
these the oldest; as many as the process has places for.

Guarantees: each free task gets one owner, since every process takes its turn before it looks.
Relies on: calls within transactions of the store's own thread.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import accumulate
from typing import Final, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._records.records import OFFERED, Kind
from framework.stores.sql._tables.schema import TASKS
from framework.stores.sql._tables.statements import parts

MOST: Final = 200
"""How many tasks a process takes in one transaction at most."""

MOST_TEXT: Final = 8_000_000
"""How many characters their arguments have together at most, unless a single one has more."""

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


# Literals, since databases choose the indexes of the few free tasks only for these.
IS_FREE: Final = sa.and_(TASKS.c.process == sa.literal_column("''"), TASKS.c.ended_at.is_(None))
_IS_UNWANTED: Final = sa.and_(
    IS_FREE,
    sa.or_(
        TASKS.c.cancel_requested == sa.literal_column("1"),
        TASKS.c.call.is_(None),
        TASKS.c.restart.is_(None),
    ),
)

_MAY_START: Final = sa.and_(
    IS_FREE,
    TASKS.c.due_at.is_(None),
    TASKS.c.call.is_not(None),
    TASKS.c.restart.is_not(None),
    TASKS.c.cancel_requested == 0,
    TASKS.c.name.in_(bindparam("names", expanding=True)),
)
_IS_ASLEEP: Final = sa.and_(IS_FREE, TASKS.c.due_at.is_not(None))
UNWANTED: Final = (
    sa.select(TASKS.c.task_id, TASKS.c.name, TASKS.c.cancel_requested)
    .where(_IS_UNWANTED)
    .order_by(TASKS.c.task_id)
)
"""Those that are to be cancelled, or can never run."""
# In the order of their index, by which databases find it.
_ORDER: Final = (TASKS.c.level, TASKS.c.created_at, TASKS.c.task_id)
_WAITS: Final = sa.select(TASKS.c.task_id).where(_MAY_START).order_by(*_ORDER).limit(1)
_FIRST: Final = (
    sa.select(TASKS.c.task_id, sa.func.length(TASKS.c.call))
    .where(_MAY_START)
    .order_by(*_ORDER)
    .limit(bindparam("most"))
)
_LINE: Final = (
    sa.select(TASKS.c.name, TASKS.c.level, TASKS.c.created_at)
    .where(_MAY_START)
    .order_by(*_ORDER)
    .limit(bindparam("most"))
)
_NEXT_DUE: Final = sa.select(sa.func.min(TASKS.c.due_at)).where(_IS_ASLEEP)
_DUE: Final = sa.select(TASKS.c.task_id).where(_IS_ASLEEP, TASKS.c.due_at <= bindparam("now"))
_WAKE: Final = (
    sa.update(TASKS)
    .where(TASKS.c.task_id.in_(_DUE))
    .values(due_at=None, reason=OFFERED, version=bindparam("at_version"))
)


def next_due(connection: Connection) -> float | None:
    """Return the wall second at which the next sleeping task is due; None if none sleeps."""
    due: float | None = connection.execute(_NEXT_DUE).scalar_one()
    return due


def wake(connection: Connection, now: float, version: int) -> None:
    """Wake the free tasks that are due at wall second *now*."""
    connection.execute(_WAKE, {"now": now, "at_version": version})


def waiting(connection: Connection, names: Names, kinds: Collection[Kind]) -> set[Kind]:
    """Return the kinds, of some, of which free tasks of some functions wait."""

    def waits(known: Collection[str]) -> bool:
        found = connection.execute(_WAITS, {"names": list(known)}) if known else None
        return found is not None and found.first() is not None

    return {kind for kind in kinds if waits(names[kind])}


def in_line(connection: Connection, names: Collection[str], most: int) -> list[Waiting]:
    """Return the first free tasks of some functions, *most* at most."""
    found = connection.execute(_LINE, {"names": list(names), "most": most}) if names else ()
    return [Waiting(*row) for row in found]


def choose(
    connection: Connection, names: Names, room: Mapping[Kind, int]
) -> tuple[list[str], set[Kind]]:
    """Return the free tasks that a process takes, whose turn to write it is.

    Also the kinds of which there may be more.

    Args:
        connection: A transaction that writes.
        names: The functions whose tasks the process takes.
        room: How many tasks of each kind the process has places for.
    """
    chosen, more = list[str](), set[Kind]()
    for kind, places in room.items():
        most = min(places, MOST)
        if most > 0 and names[kind]:
            first, is_all = pick(connection, names[kind], most)
            chosen += first
            if not is_all:
                more.add(kind)
    return chosen, more


def pick(connection: Connection, names: Collection[str], most: int) -> tuple[list[str], bool]:
    """Return the free tasks of some functions that come first, and whether there are no more.

    Args:
        connection: A transaction.
        names: The functions.
        most: How many at most, 1 or more. There are fewer if their arguments are long, but one.
    """
    first = connection.execute(_FIRST, {"names": list(names), "most": most}).all()
    sizes = accumulate(size for _, size in first)
    picked = [
        task_id
        for (task_id, size), total in zip(first, sizes, strict=True)
        if total <= MOST_TEXT or total == size
    ]
    return picked, len(picked) == len(first) < most


def give(connection: Connection, task_ids: Collection[str], process: str, version: int) -> None:
    """Give free tasks to a process, whose turn to write it is; there they wait on."""
    for some in parts(task_ids):
        connection.execute(
            sa.update(TASKS)
            .where(TASKS.c.task_id.in_(some))
            .values(process=process, version=version)
        )
