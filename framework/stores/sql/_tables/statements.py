"""The SQL statements about tasks: a batch is written as one value, and read as one if need be.

See `upserts` for what is written, and `Dialect.answer` for what is read.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from framework._records.statuses import TaskStatus
from framework.stores.sql._dialects.dialect import Answer, Dialect
from framework.stores.sql._dialects.direct import Direct
from framework.stores.sql._tables import calls, cancelling, free_rows
from framework.stores.sql._tables.rows import COLUMNS, TaskRow, Written
from framework.stores.sql._tables.schema import MESSAGES, META, STEPS_OF_TASKS, TASKS
from framework.stores.sql._tables.turns import Turn, Turns
from framework.stores.sql._tables.upserts import OWN, text_of, upsert_of

CHUNK: Final = 256
"""Maximum number of rows to read at once; each result may be a megabyte."""

DELETED: Final = 2_000
"""Maximum number of rows to delete in one transaction."""

BY_END: Final = (TASKS.c.ended_at, TASKS.c.task_id)
"""The order in which tasks ended."""
End: TypeAlias = tuple[float, str]
"""Where a task is in the order of their end: its wall second, and its id."""

POSITION: Final = sa.select(META.c.version, META.c.removed_before, META.c.asked, META.c.free)
_POSITION: Final = Direct(POSITION)
_OWN_COLUMNS: Final = tuple(TASKS.c[name] for name in OWN)
ROW: Final = tuple(TASKS.c[name] for name in COLUMNS)
_WITHOUT_RESULT: Final = tuple(
    sa.null().label(column.name) if column.name == "result" else column for column in ROW
)

_REMOVED: Final = (
    sa.update(META)
    .where(META.c.removed_before < bindparam("bound"))
    .values(removed_before=bindparam("bound"))
)
_OLDEST: Final = (
    sa.select(TASKS.c.task_id)
    .where(TASKS.c.ended_at <= bindparam("bound"))
    .order_by(*BY_END)
    .limit(bindparam("most"))
)
_REMOVE: Final = sa.delete(TASKS).where(TASKS.c.task_id.in_(_OLDEST))
_REMOVE_PARTS: Final = [
    sa.delete(table).where(table.c.task_id.in_(_OLDEST)) for table in (STEPS_OF_TASKS, MESSAGES)
]
_SINCE: Final = (
    sa.select(*ROW, *_OWN_COLUMNS)
    .where(
        sa.tuple_(TASKS.c.version, TASKS.c.task_id)
        > sa.tuple_(bindparam("version"), bindparam("task_id")),
        sa.or_(
            TASKS.c.process != bindparam("process"),
            TASKS.c.cancel_requested != 0,
            # Others may have ended what it waited for.
            TASKS.c.after.is_not(None),
        ),
    )
    .order_by(TASKS.c.version, TASKS.c.task_id)
    .limit(bindparam("most"))
)


class Position(NamedTuple):
    """Where a database is.

    Attributes:
        version: The latest version.
        removed: The wall second up to which tasks are removed.
        asked: The number of the latest inquiry to all processes.
        free: How many tasks no process has.
    """

    version: int
    removed: float
    asked: int
    free: int


class Statements:
    """All statements about tasks, in the dialect of one database.

    Args:
        dialect: The kind of database.

    Attributes:
        dialect: Like the argument.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        there = META.c.version, META.c.asked, META.c.free
        self._tell = sa.select(dialect.tell("", *there))
        self._turns = Turns(dialect)
        self._put = Direct(upsert_of(dialect))
        self._hand_over = Direct(upsert_of(dialect, hand_over=True))
        self._begin = free_rows.taking(dialect, _begin_of(dialect))
        self._ended = dialect.answer(
            sa.select(*_WITHOUT_RESULT).where(TASKS.c.task_id.in_(_OLDEST)).order_by(*BY_END)
        )
        self._since = dialect.answer(_SINCE)
        these = TASKS.c.task_id.in_(bindparam("task_ids", expanding=True))
        self._of_ids = dialect.answer(sa.select(*ROW, *_OWN_COLUMNS).where(these))

    # -- writing; each within a transaction of `Database.writing`

    def advance(self, connection: Connection, process: str, new: Sequence[Written] = ()) -> Turn:
        """Wait for this writer's turn; the others hear of it when it is committed.

        Args:
            connection: A transaction that writes; see `Database.alone` for *new* ones.
            process: The id of this process; "" if all others must hear of it.
            new: Live rows that nobody has from now on, and that were never written before. They are
                written if the process is present.
        """
        return self._turns.take(connection, process, new)

    def tell(self, connection: Connection) -> None:
        """Tell the others anew how far the database is."""
        connection.execute(self._tell)

    def put(
        self, connection: Connection, rows: Sequence[Written], process: str, version: int
    ) -> int:
        """Write rows of *process*, and return how many; one that is final or others' stays.

        Args:
            connection: A transaction in a writer's turn.
            rows: What to write.
            process: Whose they are.
            version: The version of the turn.
        """
        values = {"owner": process, "process": process, "version": version}
        return self._put.count(connection, {"rows": text_of(rows), **values})

    def hand_over(
        self,
        connection: Connection,
        rows: Sequence[Written],
        before: str,
        process: str,
        version: int,
    ) -> None:
        """Write rows that change their owner; one that is final or others' stays.

        Args:
            connection: A transaction in a writer's turn.
            rows: What to write.
            before: Whose they are until now; "" for free ones, which nobody has.
            process: Whose they are from now on; "" to set them free.
            version: The version of the turn.
        """
        task_ids = [row.task_id for row in rows]
        free = free_rows.count_among(connection, self.dialect, task_ids)
        self._write_over(connection, rows, before, process, version)
        free_now = free_rows.count_among(connection, self.dialect, task_ids)
        free_rows.add(connection, free_now - free)
        if free_now > free:
            calls.call(connection, self.dialect, before, version, task_ids)

    def begin(
        self,
        connection: Connection,
        tasks: Mapping[str, str | None],
        process: str,
        version: int,
        now: float,
    ) -> None:
        """Give free tasks to *process*, found free in this turn; from wall second *now* they run.

        Args:
            connection: A transaction in a writer's turn.
            tasks: By their ids, what another process needs to run each once more; see
                `Restart.facts`. None if no other may.
            process: Who takes them.
            version: The version of the turn.
            now: The wall second.
        """
        kept = [one for one in tasks.items() if one[1] is not None]
        values = {"process": process, "at_version": version, "now": now}
        lists = {"ids": json.dumps(list(tasks)), "kept": json.dumps(kept)}
        self._begin(connection, {**values, **lists})

    def _write_over(
        self,
        connection: Connection,
        rows: Sequence[Written],
        before: str,
        process: str,
        version: int,
    ) -> int:
        values = {"owner": before, "process": process, "version": version}
        return self._hand_over.count(connection, {"rows": text_of(rows), **values})

    def started(self, connection: Connection, task_ids: Collection[str], process: str) -> set[str]:
        """Return which of some tasks are RUNNING and belong to *process*."""
        found = connection.execute(
            sa.select(TASKS.c.task_id).where(
                TASKS.c.task_id.in_(task_ids),
                TASKS.c.process == process,
                TASKS.c.status == TaskStatus.RUNNING.value,
            )
        )
        return set(found.scalars())

    def strangers(
        self, connection: Connection, task_ids: Collection[str], own: Collection[str]
    ) -> list[str]:
        """Return the ids that tasks of other processes than *own* have, workers aside."""
        if not task_ids:
            return []
        found = connection.execute(
            sa.select(TASKS.c.task_id).where(
                TASKS.c.task_id.in_(task_ids), TASKS.c.process.not_in(own), TASKS.c.remote == 0
            )
        )
        return list(found.scalars())

    def request_cancel(
        self, connection: Connection, task_id: str, version: int, *, at_once: bool = False
    ) -> str | None:
        """Mark a live task; return whose it is, "" for a free one, None if unknown or final.

        Args:
            connection: A transaction in a writer's turn.
            task_id: The task.
            version: The version of the turn.
            at_once: Whether a task that waits to go on ends as it is, and its code does not run.
        """
        whose, woken = cancelling.ask(
            connection, TASKS.c.task_id == task_id, version, at_once=at_once
        )
        if woken:
            calls.call(connection, self.dialect, "", version, woken)
        return whose[0] if whose else None

    def remove(self, connection: Connection, bound: float, most: int) -> bool:
        """Delete tasks that ended by wall second *bound*; True if some may be left.

        Args:
            connection: A transaction that writes.
            bound: Also noted for the other processes.
            most: How many to delete, `DELETED` at most.
        """
        most = min(most, DELETED)
        connection.execute(_REMOVED, {"bound": bound})
        for remove in _REMOVE_PARTS:
            connection.execute(remove, {"bound": bound, "most": most})
        done = connection.execute(_REMOVE, {"bound": bound, "most": most})
        return done.rowcount >= most

    # -- reading

    def ended(self, connection: Connection, bound: float, most: int) -> list[TaskRow]:
        """Return the rows that `remove` would delete, without their results."""
        return fetch(connection, self._ended, bound=bound, most=min(most, DELETED))

    def has_ended(self, connection: Connection, bound: float) -> bool:
        """Return whether there is a task that ended by wall second *bound*."""
        return connection.execute(_OLDEST, {"bound": bound, "most": 1}).first() is not None

    def position(self, connection: Connection) -> Position:
        """Return where the database is now."""
        ((version, removed, asked, free),) = _POSITION.all(connection)
        return Position(int(version), float(removed), int(asked), int(free))

    def since(self, connection: Connection, version: int, process: str) -> Iterator[list[TaskRow]]:
        """Yield the rows from *version* on, in its order, at most `CHUNK` at once.

        Each has its version and process. Rows of *process* itself are left out, unless
        cancellation was requested, or others may change them as well.
        """
        some = partial(fetch, connection, self._since, process=process, most=CHUNK)
        return in_steps(
            lambda last: some(version=last[0], task_id=last[1]),
            (version, ""),
            by=attrgetter("version"),
        )

    def call(self, connection: Connection, task_id: str) -> str | None:
        """Return the kept call of a task as JSON; None if it has none.

        Raises:
            ValueError: If it was not kept, with the reason.
        """
        found = connection.execute(sa.select(TASKS.c.call).where(TASKS.c.task_id == task_id))
        text: str | None = found.scalar_one_or_none()
        if text is not None and text.startswith('"'):
            raise ValueError(json.loads(text))
        return text

    def of_ids(self, connection: Connection, task_ids: Collection[str]) -> list[TaskRow]:
        """Return the rows of some ids, each with its version and process; in no order."""
        return [
            row
            for some in parts(task_ids)
            for row in fetch(connection, self._of_ids, task_ids=some)
        ]

    def in_order(self, connection: Connection, task_ids: Collection[str]) -> list[TaskRow]:
        """Return the same in the order of the ids, without those that are not there."""
        rows = {row.task_id: row for row in self.of_ids(connection, task_ids)}
        return [rows[task_id] for task_id in task_ids if task_id in rows]


@functools.lru_cache
def statements_of(dialect: Dialect) -> Statements:
    """Return the statements for one kind of database, which all its stores share."""
    return Statements(dialect)


def fetch(connection: Connection, answer: Answer, **values: Any) -> list[TaskRow]:
    """Return the rows of tasks that a query finds with some *values*."""
    return [TaskRow(*row) for row in answer.fetch(connection, values)]


def in_steps(
    read: Callable[[End], list[TaskRow]],
    after: End,
    by: Callable[[TaskRow], float] = attrgetter("ended_at"),
) -> Iterator[list[TaskRow]]:
    """Yield the rows of a query that returns at most `CHUNK` of them.

    Args:
        read: Returns the next ones after a number and an id.
        after: Those of the task to begin behind.
        by: Returns the number of a row, by which they are in order.
    """
    while True:
        rows = read(after)
        yield rows
        if len(rows) < CHUNK:
            return
        after = by(rows[-1]), rows[-1].task_id


def parts(task_ids: Collection[str], size: int = CHUNK) -> Iterator[list[str]]:
    """Yield some ids, at most *size* at once."""
    wanted = list(task_ids)
    return (wanted[at : at + size] for at in range(0, len(wanted), size))


def _begin_of(dialect: Dialect) -> sa.Update:
    """Return the statement by which free tasks run, of their ids and of what is kept of some."""
    batch, (task_id, facts) = dialect.split(bindparam("kept", type_=sa.Text()), [sa.Text()] * 2)
    kept = sa.select(facts).select_from(batch).where(task_id == TASKS.c.task_id)
    # As the row of the record would be: see `rows.row_of`, for a task that is RUNNING.
    values = {
        "process": bindparam("process"),
        "version": bindparam("at_version"),
        "status": TaskStatus.RUNNING.value,
        "started_at": bindparam("now"),
        "attempts": TASKS.c.attempts + 1,
        "restart": kept.scalar_subquery(),
        "reason": "",
        "due_at": sa.null(),
    }
    # By the ids alone: an index of what is free has all that was, too.
    is_free = dialect.hidden(TASKS.c.process) == ""
    these = dialect.among(TASKS.c.task_id, bindparam("ids", type_=sa.Text()))
    return sa.update(TASKS).values(values).where(these, is_free)


def just_before(stamp: float) -> float:
    """Return the latest wall second before *stamp*."""
    return math.nextafter(stamp, -math.inf)
