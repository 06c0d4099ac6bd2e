"""Beats: what a process with nothing to do asks the database once a second, in one statement."""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy.engine import Connection

from framework.stores.sql._shared import places as _places
from framework.stores.sql._shared import submissions as _submissions
from framework.stores.sql._shared.free import claims as _claims
from framework.stores.sql._tables import free_rows as _free_rows
from framework.stores.sql._tables.statements import POSITION, Position


class State(NamedTuple):
    """What may be to do.

    Attributes:
        position: Where the database is.
        miscounted: Whether the number of free tasks is wrong.
        due_at: The wall second at which the next free task that sleeps is due; None for none.
        unwanted: Whether there are free tasks that are to be ended.
        homeless: Whether a place belongs to a process without a row, and to no live task.
        submissions: Whether apps have submitted tasks in transactions of their own.
    """

    position: Position
    miscounted: bool
    due_at: float | None
    unwanted: bool
    homeless: bool
    submissions: bool


def state_of(connection: Connection) -> State:
    """Return what may be to do."""
    version, removed, asked, free, least, due_at, *rest = connection.execute(_STATE).one()
    unwanted, homeless, submissions = map(bool, rest)
    position = Position(int(version), float(removed), int(asked), int(free))
    miscounted = _free_rows.is_wrong(position.free, int(least))
    return State(position, miscounted, due_at, unwanted, homeless, submissions)


_STATE: Final = POSITION.add_columns(
    _free_rows.LEAST,
    _claims.NEXT_DUE.scalar_subquery(),
    _claims.UNWANTED.order_by(None).exists(),
    _places.LOST.exists(),
    _submissions.ANY.exists(),
)
