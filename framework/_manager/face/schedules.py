"""ScheduleControl: shows the schedules, pauses them, and runs them by hand."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from functools import partial
from typing import Any

from framework._manager.core import Core
from framework._manager.scheduling.timetables import Timetable
from framework._records import checks
from framework._records.ids import TaskId
from framework._records.records import TaskRecord
from framework._records.schedules import ScheduleInfo, ScheduleState
from framework.exceptions import ScheduleBusyError, ScheduleNotFoundError


class ScheduleControl:
    """The schedules of a framework; see `TaskManager.schedules`.

    If processes share a store or an engine, a schedule is paused, resumed and run by hand for all
    of them, and stays paused over restarts. A schedule with *each_process* is this process's own.
    """

    def __init__(self, core: Any) -> None:  # Any: a core.Core, which is not public
        self._core: Core = core

    def snapshot(self) -> list[ScheduleInfo]:
        """Return the schedules that this process runs, as far as it knows; any thread.

        It never blocks. What other processes have done since this one last asked is not in it:
        runs of theirs, and a pause.
        """
        found = []
        for table in self._core.schedules.tables():
            state = table.known()
            found.append(_info(state, table, self._run_of(state)))
        return found

    def _run_of(self, state: ScheduleState) -> TaskRecord | None:
        return None if state.task_id is None else self._core.ledger.find(state.task_id)

    async def get_all(self) -> list[ScheduleInfo]:
        """Return the schedules of this process, and those of others that it shares.

        Raises:
            StoreUnavailableError: If a shared store cannot be read.
        """
        book, others = self._core.schedules.book, self._core.others
        shared: dict[str, ScheduleState] = {}
        if book is not None:
            shared = {state.name: state for state in await others.call(book.schedules)}
        found: list[tuple[ScheduleState, Timetable | None]] = []
        for table in self._core.schedules.tables():
            state = shared.pop(table.name, None) if table.is_shared else None
            found.append((state or table.known(), table))
        found += [(state, None) for state in shared.values()]
        infos = []
        for state, its in found:
            record = self._run_of(state)
            if record is None and state.task_id is not None:
                record = await others.find(state.task_id, patient=False)
            infos.append(_info(state, its, record))
        return infos

    async def pause(self, name: str) -> None:
        """Start no more runs of a schedule until it is resumed; one that runs goes on.

        Args:
            name: The schedule, see `ScheduleInfo.name`.

        Raises:
            ScheduleNotFoundError: If there is no such schedule.
            StoreUnavailableError: If a shared store does not answer.
        """
        await self._pause(name, True)

    async def resume(self, name: str) -> None:
        """Run a paused schedule again, from its next due time on; raises like `pause`.

        What was due during the pause was not missed, and is not made up for.
        """
        await self._pause(name, False)

    async def trigger(self, name: str) -> TaskId[Any]:
        """Run a schedule now, though it is paused; the due times stay as they are.

        Args:
            name: The schedule, which this process must have.

        Returns:
            The id of the task. Cancelling this call does not cancel the task.

        Raises:
            ScheduleNotFoundError: If this process has no such schedule.
            ScheduleBusyError: If a run of it has not ended, in any process.
            QueueFullError: If the queue is full.
            StoreUnavailableError: If a shared store does not answer.
        """
        schedules = self._core.schedules
        table = self._table(name)
        if table is None:
            raise self._not_found(name)
        # Here, so that the task sees the context of the caller.
        task = schedules.offer(table, None, sys._getframe(1))
        if table.is_shared:
            run = partial(schedules.run_by_hand, table, task)
            started = await self._core.others.call(run)
        else:
            started = schedules.run_by_hand(table, task)
        if not started:
            raise ScheduleBusyError(name)
        return TaskId(task.task_id)

    async def _pause(self, name: str, paused: bool) -> None:
        schedules, table = self._core.schedules, self._table(name)
        if table is not None and not table.is_shared:
            table.book.pause_schedule(name, paused, table.now())
        elif schedules.book is None or not await self._core.others.call(
            partial(schedules.book.pause_schedule, name, paused, self._core.clock.time())
        ):
            raise self._not_found(name)
        if table is not None:
            schedules.note_pause(table, paused)

    def _table(self, name: object) -> Timetable | None:
        checks.text("name", name)
        tables = self._core.schedules.tables()
        return next((table for table in tables if table.name == name), None)

    def _not_found(self, name: str) -> ScheduleNotFoundError:
        known = tuple(table.name for table in self._core.schedules.tables())
        return ScheduleNotFoundError(name, known)


async def scheduled_names(core: Core) -> frozenset[str]:
    """Return the names of the tasks that schedules run, of this process and of others.

    Raises:
        StoreUnavailableError: If a shared store cannot be read.
    """
    book, own = core.schedules.book, {table.spec.name for table in core.schedules.tables()}
    shared = [] if book is None else await core.others.call(book.schedules)
    return frozenset({*own, *(state.name for state in shared)})


def _info(state: ScheduleState, table: Timetable | None, record: TaskRecord | None) -> ScheduleInfo:
    due = None if table is None or state.paused else table.next_due()
    return ScheduleInfo(
        name=state.name,
        timing=state.timing,
        next_run=None if table is None or due is None else table.moment(due),
        last_run=None if state.ran_at is None else datetime.fromtimestamp(state.ran_at, UTC),
        last_task_id=None if state.task_id is None else TaskId(state.task_id),
        last_status=None if record is None else record.status,
        paused=state.paused,
        skipped=state.skipped,
        missed=0 if table is None else table.missed,
    )
