"""Free rows: the tasks that no process has, and how many there are.

There may be a million, too many to be counted at each look. So their number is kept beside the
version.

The invariant: whoever makes rows free, takes them or ends them adds that to the number, in the same
transaction, in a writer's turn.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection
from typing import Final

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework.stores.sql._dialects.dialect import Dialect
from framework.stores.sql._tables.schema import META, TASKS

# Literals, since databases choose the indexes of the few free tasks only for these.
IS_FREE: Final = sa.and_(TASKS.c.process == sa.literal_column("''"), TASKS.c.ended_at.is_(None))

_ADD: Final = sa.update(META).values(free=META.c.free + bindparam("by"))


def add(connection: Connection, by: int) -> None:
    """Add to the number of free tasks, in a writer's turn."""
    if by:
        connection.execute(_ADD, {"by": by})


def count_among(connection: Connection, dialect: Dialect, task_ids: Collection[str]) -> int:
    """Return how many of some tasks are free."""
    ids = json.dumps([[task_id] for task_id in task_ids])
    return connection.execute(_among(dialect), {"ids": ids}).scalar_one()


@functools.lru_cache
def _among(dialect: Dialect) -> sa.Select[int]:
    """Return the query for how many of some tasks are free."""
    batch, ids = dialect.split(bindparam("ids", type_=sa.Text()), [sa.Text()])
    # By their ids, and not by what is free.
    free = sa.and_(dialect.hidden(TASKS.c.process) == "", TASKS.c.ended_at.is_(None))
    some = TASKS.c.task_id.in_(sa.select(*ids).select_from(batch))
    return sa.select(sa.func.count()).select_from(TASKS).where(some, free)
