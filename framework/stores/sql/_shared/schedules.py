"""The schedules of all processes: who runs which due time, and what is paused.

Guarantees: each due time is claimed once, in one transaction with the row of its task.
Relies on: `Site.turn`, which makes all writers of the database take turns. So what a
transaction has read here stays true until it is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from framework._records.records import TaskRecord
from framework._records.schedules import (
    RunClaim,
    ScheduleState,
    answer_to,
    is_taken,
    state_after,
    state_entered,
    state_paused,
)
from framework.exceptions import StoreUnavailableError
from framework.stores.sql._shared.membership import GivenUpError
from framework.stores.sql._shared.site import Site
from framework.stores.sql._tables.rows import clean, row_of
from framework.stores.sql._tables.schema import PROCESSES, SCHEDULES, TASKS

_ROW: Final = tuple(SCHEDULES.c)
# Nobody writes that a body has let go whose process died.
_BODY_RUNS: Final = sa.and_(
    TASKS.c.still_running == 1, TASKS.c.process.in_(sa.select(PROCESSES.c.process_id))
)
_RUNS: Final = sa.or_(TASKS.c.ended_at.is_(None), _BODY_RUNS)


class ScheduleRows:
    """The book of schedules in one database; see `protocols.ScheduleBook`. Every method blocks.

    Args:
        site: What it works with; the runs become tasks of this process.
        call_of: Returns the call to write of a task.

    Raises:
        SQLAlchemyError: Each method, if the database fails.
        StoreUnavailableError: If the others have given this process up; it comes back soon.
    """

    def __init__(self, site: Site, call_of: Callable[[TaskRecord], str | None]) -> None:
        self._site = site
        self._database = site.database
        self._call_of = call_of

    def enter(self, name: str, timing: str, now: float) -> ScheduleState:
        """Enter a schedule that this process runs; see `ScheduleBook.enter_schedule`."""
        with self._turn() as (connection, _):
            found = _read(connection, name)
            state = state_entered(found, clean(name), clean(timing), now)
            if state != found:
                _write(connection, state, new=found is None)
        return state

    def claim(self, name: str, due: float | None, record: TaskRecord, skip: bool) -> RunClaim:
        """Claim one run; see `ScheduleBook.claim_run`."""
        # Without a turn: of many processes all but one come too late, and need not write.
        with self._database.reading() as connection:
            if is_taken(_read(connection, name), due, record.task_id):
                return "taken"
        row = row_of(record, self._call_of(record))
        with self._turn() as (connection, version):
            found, now = _read(connection, name), record.created_at
            answer = _claim(connection, found, name, due, record.task_id, now, skip=skip)
            if answer == "claimed" and (found is None or found.task_id != record.task_id):
                process = self._site.membership.process_id
                self._site.statements.put(connection, [row], process, version)
        return answer

    def pause(self, name: str, paused: bool, now: float) -> bool:
        """Pause or resume a schedule; see `ScheduleBook.pause_schedule`."""
        with self._turn() as (connection, _):
            return pause(connection, name, paused, now)

    def all(self) -> Sequence[ScheduleState]:
        """Return all schedules by name."""
        with self._database.reading() as connection:
            return read_all(connection)

    @contextmanager
    def _turn(self) -> Iterator[tuple[Connection, int]]:
        """Open a transaction that writes; yield it with its version."""
        try:
            with self._site.turn() as (connection, version, _):
                yield connection, version
        except GivenUpError:
            raise StoreUnavailableError(
                "the processes that share the store consider this one dead; it comes back soon"
            ) from None


def pause(connection: Connection, name: str, paused: bool, now: float) -> bool:
    """Pause or resume a schedule, in a writer's turn; False if the name is not known."""
    found = _read(connection, name)
    if found is None:
        return False
    after = state_paused(found, paused, now)
    if after != found:
        _write(connection, after, new=False)
    return True


def start_by_hand(connection: Connection, name: str, task_id: str, now: float) -> bool | None:
    """Note that a task is the next run of a schedule, in a writer's turn.

    Returns:
        False if the last run has not ended; None if the name is not known.
    """
    found = _read(connection, name)
    if found is None:
        return None
    return _claim(connection, found, name, None, task_id, now, skip=False) == "claimed"


def _claim(
    connection: Connection,
    found: ScheduleState | None,
    name: str,
    due: float | None,
    task_id: str,
    now: float,
    *,
    skip: bool,
) -> RunClaim:
    """Answer a claim in a writer's turn, and write what it changes but for the task."""
    state = found or ScheduleState(clean(name), "", now if due is None else due)
    answer = answer_to(found, due, task_id, lambda: _is_running(connection, state.task_id))
    after = state_after(state, answer, due, task_id, now, skip=skip)
    if after != found:
        _write(connection, after, new=found is None)
    return answer


def read_all(connection: Connection) -> list[ScheduleState]:
    """Return all schedules by name."""
    rows = connection.execute(sa.select(*_ROW).order_by(SCHEDULES.c.name))
    return [_state_of(row) for row in rows]


def _read(connection: Connection, name: str) -> ScheduleState | None:
    query = sa.select(*_ROW).where(SCHEDULES.c.name == clean(name))
    row = connection.execute(query).first()
    return None if row is None else _state_of(row)


def _state_of(row: sa.Row[tuple[object, ...]]) -> ScheduleState:
    values = dict(row._mapping)
    return ScheduleState(**{**values, "paused": bool(values["paused"])})


def _write(connection: Connection, state: ScheduleState, *, new: bool) -> None:
    values = {**asdict(state), "paused": int(state.paused)}
    if new:
        connection.execute(sa.insert(SCHEDULES).values(values))
    else:
        connection.execute(
            sa.update(SCHEDULES).where(SCHEDULES.c.name == state.name).values(values)
        )


def _is_running(connection: Connection, task_id: str | None) -> bool:
    """Return whether a task is live in any process, or its body has not let go."""
    if task_id is None:
        return False
    query = sa.select(TASKS.c.task_id).where(TASKS.c.task_id == task_id, _RUNS)
    return connection.execute(query).first() is not None
