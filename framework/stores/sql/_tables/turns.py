"""Turns: a writer waits for its own, gets the next version, and writes what is new with it.

All writers change one row first, so that only one has a turn at a time, until its commit. New tasks
that no process has come into that statement where the database can do it, since most of what an app
submits is one such task: with statements of its own in a transaction each took half as long again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework.stores.sql._dialects.dialect import Dialect, Row
from framework.stores.sql._tables import calls, free_rows
from framework.stores.sql._tables.rows import Written
from framework.stores.sql._tables.schema import META, PROCESSES
from framework.stores.sql._tables.upserts import text_of, upsert_of

# Made once: making them takes as long as half a transaction.
# By its key: what reads a table whole is planned anew each time, see the settings there.
_THE_ONE: Final = META.c.one == sa.literal_column("1")
_ADVANCE: Final = sa.update(META).where(_THE_ONE).values(version=META.c.version + 1)
_PRESENT: Final = (
    sa.select(sa.func.count())
    .select_from(PROCESSES)
    .where(PROCESSES.c.process_id == bindparam("process"))
    .scalar_subquery()
)
# Of a process that was given up nothing is written.
_ADD: Final = _ADVANCE.values(
    free=META.c.free + bindparam("freed", type_=sa.BigInteger()) * _PRESENT
)


class Turn(NamedTuple):
    """A writer's turn.

    Attributes:
        version: Its version.
        removed: The wall second up to which tasks are removed.
        free: How many tasks no process had before it.
        present: Whether the process of the writer has a row.
        chained: Whether tasks wait for others to end.
        wrote: Whether new rows are written with it. That can be of a process that is not present:
            others gave it up while it waited for its turn.
    """

    version: int
    removed: float
    free: int
    present: bool
    chained: bool = False
    wrote: bool = False


class Turns:
    """Takes the turns of one process.

    Args:
        dialect: The kind of database.
    """

    def __init__(self, dialect: Dialect) -> None:
        told = dialect.tell(bindparam("process"), META.c.version, META.c.asked, META.c.free)
        turn = (META.c.version, META.c.removed_before, META.c.free, _PRESENT, META.c.chained, told)
        found = sa.select(*turn).where(_THE_ONE)
        self._advance = dialect.advancing(_ADVANCE, found)
        insert, call = partial(_insert_of, dialect), partial(calls.new, dialect)
        self._add = dialect.adding(_ADD, found, insert, call)

    def take(self, connection: Connection, process: str, new: Sequence[Written]) -> Turn:
        """Wait for a turn, and write new rows in it; see `Statements.advance`."""
        if not new:
            return _turn_of(self._advance(connection, {"process": process}))
        values = {"process": process, "owner": process, "freed": len(new), "rows": text_of(new)}
        done = self._add(connection, values | calls.of_new(process, new))
        turn = _turn_of(done.seen)
        if turn.present:
            # Chosen ids that others had: the number is right again, and is mended if that fails.
            free_rows.add(connection, done.many - len(new))
            turn = turn._replace(free=turn.free - len(new), wrote=True)
        return turn._replace(present=_turn_of(done.now).present)


def _turn_of(found: Row) -> Turn:
    version, removed, free, present, chained, _ = found
    return Turn(int(version), float(removed), int(free), present > 0, chained > 0)


def _insert_of(dialect: Dialect, version: sa.ColumnElement[int]) -> Any:  # Any: of the dialect
    """Return the statement that writes new rows, which nobody has."""
    return upsert_of(dialect, (version, sa.literal_column("''")), _PRESENT > 0, hand_over=True)
