"""Free rows: the tasks that no process has, and how many there are.

There may be a million, too many to be counted at each look. So their number is kept beside the
version.

The invariant: whoever makes rows free, takes them or ends them adds that to the number, in the same
transaction, in a writer's turn. Rows that somebody has changed by hand break it, so processes look
whether few are as many as they are said to be, and count them all if not.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection
from typing import Final

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework.stores.sql._dialects.dialect import Dialect
from framework.stores.sql._dialects.direct import Direct, Values
from framework.stores.sql._tables.schema import META, TASKS

# Literals, since databases choose the indexes of the few free tasks only for these.
IS_FREE: Final = sa.and_(TASKS.c.process == sa.literal_column("''"), TASKS.c.ended_at.is_(None))

IS_LISTED_FREE: Final = sa.and_(
    sa.func.length(TASKS.c.process) == sa.literal_column("0"), TASKS.c.ended_at.is_(None)
)
"""The same in the words of the indexes for lists by a text, which serve nothing else."""

READY: Final = (
    "process = '' AND ended_at IS NULL AND due_at IS NULL"
    " AND call IS NOT NULL AND restart IS NOT NULL AND cancel_requested <> 1"
)
"""Those that may start now; in words, for what is not a query of columns as well."""

KEPT: Final = sa.select(META.c.free)
"""How many there are, as it is kept."""

_SURE: Final = 1_000
"""Up to how many are counted to see whether the number is right; looked at once a beat."""

_SOME: Final = sa.select(TASKS.c.created_at).where(IS_FREE).limit(_SURE).subquery()
LEAST: Final = sa.select(sa.func.count()).select_from(_SOME).scalar_subquery()
"""How many there are at least, by a count of few."""

_TAKE_TURN: Final = sa.update(META).values(version=META.c.version)
_ARE: Final = sa.select(sa.func.count()).select_from(TASKS).where(IS_FREE).scalar_subquery()
_MEND: Final = sa.update(META).values(free=_ARE)

_ADD: Final = Direct(sa.update(META).values(free=META.c.free + bindparam("by")))


def add(connection: Connection, by: int) -> None:
    """Add to the number of free tasks, in a writer's turn."""
    if by:
        _ADD.count(connection, {"by": by})


def taking(dialect: Dialect, change: sa.Update) -> Callable[[Connection, Values], object]:
    """Return what executes a statement that takes free tasks, and takes their number off."""
    both = dialect.followed(change, lambda many: sa.update(META).values(free=META.c.free - many))
    if both is not None:
        return Direct(both).count
    alone = Direct(change)
    return lambda connection, values: add(connection, -alone.count(connection, values))


def is_wrong(kept: int, least: int) -> bool:
    """Return whether the number is seen to be wrong; of many it is only seen when few are left.

    Args:
        kept: The number.
        least: What `LEAST` finds, by the same statement: at the same moment.
    """
    return min(kept, _SURE) != least


def mend(connection: Connection) -> None:
    """Keep the number that a count finds, in a transaction that writes."""
    # In two statements: the second one sees what those have done that had their turn before.
    connection.execute(_TAKE_TURN)
    connection.execute(_MEND)


def count_among(connection: Connection, dialect: Dialect, task_ids: Collection[str]) -> int:
    """Return how many of some tasks are free."""
    ids = json.dumps([[task_id] for task_id in task_ids])
    ((many,),) = _among(dialect).all(connection, {"ids": ids})
    return int(many)


@functools.lru_cache
def _among(dialect: Dialect) -> Direct:
    """Return the query for how many of some tasks are free."""
    batch, ids = dialect.split(bindparam("ids", type_=sa.Text()), [sa.Text()])
    # One by one by its id: a plan that was made while there were few tasks would read all of them
    # for each batch, and one by an index of what is free all that was.
    is_free = sa.select(sa.func.count().filter(IS_FREE)).where(TASKS.c.task_id == ids[0])
    total = sa.func.coalesce(sa.func.sum(is_free.correlate(batch).scalar_subquery()), 0)
    return Direct(sa.select(sa.cast(total, sa.Integer)).select_from(batch))
