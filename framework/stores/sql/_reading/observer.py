"""Observer: reads the tasks of a database from outside, and submits what others are to do.

Guarantees: it does not count as a process of the app. It makes no tables, takes over no tasks,
and gives no process up, however long it looks.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from framework._records.ids import following, random_id
from framework._records.pages import PageQuery
from framework._records.records import Restart, TaskRecord
from framework._records.schedules import ScheduleState
from framework._records.statuses import FINAL, TaskStatus
from framework._records.steps import StepRecord
from framework.exceptions import StoreUnavailableError
from framework.protocols import ProcessInfo
from framework.stores.sql._dialects.chosen import checked_url, shown
from framework.stores.sql._reading.pages import Live, pages_of
from framework.stores.sql._reading.roster import Roster, waiting
from framework.stores.sql._reading.shapes import may_have_rows
from framework.stores.sql._reading.under_way import FIRST, TaskUnderWay, read_under_way
from framework.stores.sql._shared import schedules as _schedules
from framework.stores.sql._tables import calls, free_rows
from framework.stores.sql._tables.database import FAULTS, Database, why
from framework.stores.sql._tables.rows import TaskRow, can_be_kept, readable, record_of
from framework.stores.sql._tables.schema import (
    PROCESSES,
    SCHEDULES,
    STEPS,
    STEPS_OF_TASKS,
    TASKS,
    version_of,
)
from framework.stores.sql._tables.statements import statements_of
from framework.stores.sql._tables.steps import carry, read

OUTSIDE: Final = "it was submitted from outside, and waits for a process that knows its function"
"""Reason of a task that no process has seen yet."""

AMBIGUOUS: Final = 5
"""How many ids with the same beginning are returned at most."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that shares the database.

    Attributes:
        host: The name of its machine.
        pid: Its number there.
    """

    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class Sight:
    """A task, as an observer sees it.

    Attributes:
        record: The task, with its result as JSON gives it.
        process: The process that has it; None if that has ended.
    """

    record: TaskRecord
    process: Process | None


class Observer:
    """Reads the tasks of one database.

    Args:
        url: The database, as `SQLStore` takes it.

    Raises:
        TypeError: If *url* is not a string or URL.
        ValueError: If it is for another database, or for one in memory.
        StoreUnavailableError: If the database has no tables of this release, or cannot be read.
    """

    def __init__(self, url: str | URL) -> None:
        self._url = checked_url(url)
        self._database = Database(self._url, durable=False)
        self._statements = statements_of(self._database.dialect)
        self._pages = pages_of(self._statements)
        try:
            self._require_file()
            with self._reading() as connection:
                self._require_tables(connection)
        except BaseException:
            self._database.close()
            raise

    def __repr__(self) -> str:
        # Without the driver, which the user need not have named.
        return shown(self._url.set(drivername=self._database.dialect.name))

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def _require_file(self) -> None:
        # SQLite would make an empty one.
        file = self._database.dialect.file_of(self._url)
        if file is not None and not file.is_file():
            raise StoreUnavailableError(f"there is no file {file}")

    def _require_tables(self, connection: Connection) -> None:
        found, needed = version_of(connection), len(STEPS)
        if found == needed:
            return
        if not found:
            raise StoreUnavailableError(
                f"{self!r} has no tasks: no app has used this database as its store yet"
            )
        cure = (
            "start the app once with this release, which upgrades them"
            if found < needed
            else "use the release of the app, or a newer one"
        )
        raise StoreUnavailableError(
            f"the tables of {self!r} have version {found}, and this release reads {needed}: {cure}"
        )

    # -- reading

    def page(self, query: PageQuery) -> list[TaskRecord]:
        """Return a page of the tasks of all processes.

        Raises:
            StoreUnavailableError: If the database fails.
        """
        if not may_have_rows(query):
            return []
        rows: list[TaskRow] = []
        # What to skip is known when both kinds are there.
        whole = replace(query, offset=0, limit=query.offset + query.limit)
        with self._reading() as connection:
            removed = self._statements.position(connection).removed
            if not FINAL.issuperset(query.chosen or TaskStatus):
                rows += self._pages.live_page(connection, whole)
            if any(map(query.has_status, FINAL)):
                rows += self._pages.page(connection, whole, removed)
        return query.first(self._record_of(row) for row in rows)

    def names(self) -> list[str]:
        """Return the names of all tasks.

        Raises:
            StoreUnavailableError: If the database fails.
        """
        with self._reading() as connection:
            return list(connection.scalars(_NAMES))

    def find(self, start: str) -> list[str]:
        """Return the ids that are *start*, or else begin with it; at most `AMBIGUOUS`.

        Raises:
            StoreUnavailableError: If the database fails.
        """
        if not can_be_kept(start):
            return []
        column = TASKS.c.task_id
        begins = sa.select(column).where(column.startswith(start, autoescape=True))
        with self._reading() as connection:
            exact = connection.execute(sa.select(column).where(column == start)).scalars().all()
            found = exact or connection.execute(begins.limit(AMBIGUOUS)).scalars().all()
        return [one for one in found if one.startswith(start)]

    def has_processes(self) -> bool:
        """Return whether a process of the app shares the database now.

        Raises:
            StoreUnavailableError: If the database fails.
        """
        with self._reading() as connection:
            query = sa.select(PROCESSES.c.process_id).limit(1)
            return connection.execute(query).first() is not None

    def processes(self) -> tuple[list[ProcessInfo], dict[str, int]]:
        """Return the processes of the app, the oldest first, and what waits in each.

        Returns:
            The processes, and by the id of each how many tasks wait there; "" has those that wait
            for a place in any process.

        Raises:
            StoreUnavailableError: If the database fails.
        """
        with self._reading() as connection:
            # It has looked at no time before, so any moment will do.
            return Roster(self._database).read(connection, 0.0), waiting(connection)

    def look(self, task_id: str) -> Sight | None:
        """Return a task; None if it is unknown.

        Raises:
            StoreUnavailableError: If the database fails.
        """
        with self._reading() as connection:
            row = next(iter(self._statements.of_ids(connection, [task_id])), None)
            if row is None:
                return None
            query = sa.select(PROCESSES.c.host, PROCESSES.c.pid)
            found = connection.execute(query.where(PROCESSES.c.process_id == row.process)).first()
        process = None if found is None else Process(found.host, found.pid)
        return Sight(self._record_of(row), process)

    def steps(self, task_id: str) -> list[StepRecord]:
        """Return the steps of a task that are stored, in the order in which they ended.

        Raises:
            StoreUnavailableError: If the database fails.
        """
        with self._reading() as connection:
            return read(connection, task_id)

    def under_way(self, names: Collection[str]) -> Iterator[list[TaskUnderWay]]:
        """Yield the tasks that have not ended and have recorded steps, some at a time.

        Not those of workers. The database refuses whatever would write meanwhile.

        Args:
            names: Of the functions whose tasks come also if they have no steps yet.

        Raises:
            StoreUnavailableError: If the database fails.
        """
        after: Live | None = FIRST
        while after is not None:
            with self._reading() as connection:
                self._database.dialect.only_read(connection)
                found, after = read_under_way(connection, self._pages, after, names)
            yield found

    def _record_of(self, row: TaskRow) -> TaskRecord:
        # Without an offset: its times are those of the wall clock.
        return readable(record_of(row, 0.0))

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._answering(), self._database.reading() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[tuple[Connection, int]]:
        """Open a transaction in a writer's turn; yield it with its version."""
        with self._answering(), self._database.writing() as connection:
            yield connection, self._statements.advance(connection, "").version

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except FAULTS as error:
            raise StoreUnavailableError(f"{self!r} cannot be read: {why(error)}") from error

    # -- asking

    def request_cancel(self, task_id: str, *, at_once: bool = False) -> bool:
        """Ask the process of a live task to cancel it.

        Args:
            task_id: The task.
            at_once: See `TaskManager.cancel_task`.

        Returns:
            False if no live task has this id.

        Raises:
            StoreUnavailableError: If the database fails.
        """
        with self._writing() as (connection, version):
            asked = self._statements.request_cancel
            return asked(connection, task_id, version, at_once=at_once) is not None

    def run_again(self, task_id: str, now: float) -> str:
        """Submit the call of a task that ended without a result again, as a new task.

        It belongs to no process: one that knows its function takes it over within a second or
        two, or when it starts. If the task has steps, the new one goes on from them; there is one
        such task only, which is returned if it has not ended.

        Args:
            task_id: The task.
            now: The wall time, in seconds since the epoch.

        Returns:
            The id of the new task.

        Raises:
            ValueError: If it cannot be run again; it says why.
            StoreUnavailableError: If the database fails.
        """
        with self._writing() as (connection, version):
            row = connection.execute(_CALL, {"task_id": task_id}).one_or_none()
            if row is None:
                raise ValueError("it was removed from the store")
            _require_call(row)
            last, again, found = _line(connection, row)
            if found is not None:
                return again
            texts = {name: getattr(row, name) for name in _TEXTS}
            old = last.task_id
            self._submit(connection, again, version, now, row.call, run_again_of=old, **texts)
            carry(connection, [(again, old)])
            return again

    def _submit(
        self,
        connection: Connection,
        task_id: str,
        version: int,
        now: float,
        call: str,
        **texts: str | None,
    ) -> None:
        """Write a task that belongs to no process."""
        connection.execute(
            sa.insert(TASKS).values(
                task_id=task_id,
                status=TaskStatus.PENDING.value,
                process="",
                remote=0,
                created_at=now,
                attempts=0,
                progress_message="",
                reason=OUTSIDE,
                cancel_requested=0,
                still_running=0,
                version=version,
                call=call,
                restart=Restart(call, fresh=True).facts(),
                **texts,
            )
        )
        free_rows.add(connection, 1)
        calls.call(connection, self._database.dialect, "", version)

    # -- schedules

    def schedules(self) -> list[ScheduleState]:
        """Return the schedules of all processes, by name.

        Raises:
            StoreUnavailableError: If the database fails.
        """
        with self._reading() as connection:
            return _schedules.read_all(connection)

    def pause_schedule(self, name: str, paused: bool, now: float) -> bool:
        """Pause a schedule for all processes, or resume it; False if the name is not known.

        Raises:
            StoreUnavailableError: If the database fails.
        """
        with self._writing() as (connection, _):
            return _schedules.pause(connection, name, paused, now)

    def trigger(self, name: str, now: float) -> str:
        """Run a schedule now, though it is paused; its due times stay as they are.

        The run belongs to no process, as that of `run_again`.

        Args:
            name: The schedule.
            now: The wall time, in seconds since the epoch.

        Returns:
            The id of the task.

        Raises:
            LookupError: If there is no such schedule.
            ValueError: If its last run has not ended, or was on a worker.
            StoreUnavailableError: If the database fails.
        """
        with self._writing() as (connection, version):
            task_id = random_id()
            if connection.execute(_LAST_IS_REMOTE, {"name": name}).first() is not None:
                raise ValueError("its runs are left to workers: trigger it in the app")
            started = _schedules.start_by_hand(connection, name, task_id, now)
            if started is None:
                raise LookupError(name)
            if not started:
                raise ValueError("its last run has not ended")
            texts = {"name": name, "description": ""}
            self._submit(connection, task_id, version, now, _NO_ARGUMENTS, **texts)
            return task_id


_NO_ARGUMENTS: Final = "[[], {}]"
"""The call of a function without arguments; see `wire.encode_call`."""

_TEXTS: Final = ("name", "description", "owner", "label", "meta", "arguments")
"""The columns that a task has of the one that it repeats."""

_NAMES: Final = sa.select(TASKS.c.name).distinct()

_CALL: Final = sa.select(TASKS).where(TASKS.c.task_id == sa.bindparam("task_id"))

_HAS_STEPS: Final = (
    sa.select(STEPS_OF_TASKS.c.number).where(STEPS_OF_TASKS.c.task_id == sa.bindparam("task_id"))
).limit(1)

_LAST_IS_REMOTE: Final = (
    sa.select(TASKS.c.task_id)
    .join(SCHEDULES, SCHEDULES.c.task_id == TASKS.c.task_id)
    .where(SCHEDULES.c.name == sa.bindparam("name"), TASKS.c.remote == 1)
)


def _line(connection: Connection, row: Any) -> tuple[Any, str, Any]:  # Any: rows of `_CALL`
    """Find out how a task that has ended is to go on; see `_manager.face.again`.

    Returns:
        The task that did so last, which has ended as well; the id of the next one; and that one, if
        it is there. The id is a random one if the task has no steps.

    Raises:
        ValueError: If it has gone on already, and completed.
    """
    last = row
    while True:
        again: str = following(last.task_id, goes_on=bool(last.run_again_of))
        found = connection.execute(_CALL, {"task_id": again}).one_or_none()
        if found is None:
            has_steps = connection.execute(_HAS_STEPS, {"task_id": row.task_id}).first() is not None
            return last, again if has_steps or last is not row else random_id(), None
        if found.ended_at is None:
            return last, again, found
        if found.status == TaskStatus.COMPLETED.value:
            raise ValueError(f"it has gone on as task {again}, which completed")
        last = found


def _require_call(row: Any) -> None:  # Any: a row of `_CALL`
    """Check that a task may be run again, and that its arguments were kept.

    Raises:
        ValueError: If not; it says why.
    """
    status = TaskStatus(row.status)
    if not status.is_final:
        raise ValueError(f"it is {status}: wait until it has ended, or cancel it")
    if status is TaskStatus.COMPLETED:
        raise ValueError("it completed, and the arguments of such tasks are not kept")
    if row.remote:
        raise ValueError("it ran on a worker: use manager.run_again(task_id) in the app")
    if row.call is None:
        raise ValueError("its arguments were not kept")
    if row.call.startswith('"'):
        raise ValueError(f"its arguments were not kept: {json.loads(row.call)}")
