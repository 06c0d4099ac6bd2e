"""The tables, and the steps that create and upgrade them.

The steps are written here, one for each version, and not with alembic. There are a few tables
with one history that never branches, all processes of an app run the same steps when they
start, and users should not need a tool for tables that belong to the library. Which columns a table
has is said by the steps alone.

Guarantees: each step runs once, however many processes start at the same time; a database of
a newer release is refused and not changed. `_shared.opening` has what precedes an upgrade.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Double, Integer, MetaData, Table, Text
from sqlalchemy.engine import Connection

from framework._records.statuses import TaskStatus
from framework._threads.loggers import SafeLogger
from framework.exceptions import StoreUnavailableError
from framework.stores.sql._dialects.dialect import Dialect
from framework.stores.sql._tables.database import Database

_LOGGER = SafeLogger("asyncframe")

STEPS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """
        CREATE TABLE asyncframe_tasks (
            task_id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            description TEXT NOT NULL,
            status TEXT NOT NULL,
            process TEXT NOT NULL,
            remote INTEGER NOT NULL,
            created_at DOUBLE PRECISION NOT NULL,
            started_at DOUBLE PRECISION,
            ended_at DOUBLE PRECISION,
            attempts INTEGER NOT NULL,
            progress DOUBLE PRECISION,
            progress_message TEXT NOT NULL,
            result TEXT,
            error TEXT,
            reason TEXT NOT NULL,
            cancel_requested INTEGER NOT NULL,
            still_running INTEGER NOT NULL,
            version BIGINT NOT NULL
        )
        """,
        "CREATE INDEX asyncframe_tasks_version ON asyncframe_tasks (version, task_id)",
        "CREATE INDEX asyncframe_tasks_ended ON asyncframe_tasks (ended_at, task_id)",
        "CREATE INDEX asyncframe_tasks_live ON asyncframe_tasks (process) WHERE ended_at IS NULL",
        """
        CREATE TABLE asyncframe_processes (
            process_id TEXT PRIMARY KEY,
            host TEXT NOT NULL,
            pid INTEGER NOT NULL,
            started_at DOUBLE PRECISION NOT NULL,
            beat BIGINT NOT NULL
        )
        """,
        """
        CREATE TABLE asyncframe_meta (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            schema_version INTEGER NOT NULL,
            version BIGINT NOT NULL,
            removed_before DOUBLE PRECISION NOT NULL
        )
        """,
        "INSERT INTO asyncframe_meta VALUES (1, 0, 0, 0)",
    ),
    (
        # With the status, so that when and how all tasks ended is read from the index alone.
        "DROP INDEX asyncframe_tasks_ended",
        "CREATE INDEX asyncframe_tasks_ended ON asyncframe_tasks (ended_at, task_id, status)",
        # For pages. Without live tasks: a change of theirs does not touch these indexes.
        """
        CREATE INDEX asyncframe_tasks_status ON asyncframe_tasks (status, created_at, ended_at)
        WHERE ended_at IS NOT NULL
        """,
        """
        CREATE INDEX asyncframe_tasks_name
        ON asyncframe_tasks (name, status, created_at, ended_at)
        WHERE ended_at IS NOT NULL
        """,
    ),
    (
        "ALTER TABLE asyncframe_tasks ADD COLUMN call TEXT",
        "ALTER TABLE asyncframe_tasks ADD COLUMN restart TEXT",
        "ALTER TABLE asyncframe_tasks ADD COLUMN run_again_of TEXT",
        """
        CREATE TABLE asyncframe_schedules (
            name TEXT PRIMARY KEY,
            timing TEXT NOT NULL,
            last_due DOUBLE PRECISION NOT NULL,
            ran_at DOUBLE PRECISION,
            task_id TEXT,
            paused INTEGER NOT NULL,
            skipped BIGINT NOT NULL
        )
        """,
        """
        CREATE TABLE asyncframe_places (
            line TEXT NOT NULL,
            task_id TEXT NOT NULL,
            process TEXT NOT NULL,
            places BIGINT NOT NULL,
            place_rank INTEGER NOT NULL,
            position BIGINT NOT NULL,
            granted INTEGER NOT NULL,
            version BIGINT NOT NULL,
            PRIMARY KEY (line, task_id)
        )
        """,
        # A line in its order.
        """
        CREATE INDEX asyncframe_places_line
        ON asyncframe_places (line, granted, place_rank, position)
        """,
        """
        CREATE TABLE asyncframe_windows (
            line TEXT NOT NULL,
            entry TEXT NOT NULL,
            counted_at BIGINT NOT NULL,
            leaves_at BIGINT NOT NULL,
            PRIMARY KEY (line, entry)
        )
        """,
        "CREATE INDEX asyncframe_windows_line ON asyncframe_windows (line, counted_at)",
        "CREATE INDEX asyncframe_windows_left ON asyncframe_windows (leaves_at)",
        "CREATE INDEX asyncframe_places_task ON asyncframe_places (task_id)",
        "CREATE INDEX asyncframe_places_process ON asyncframe_places (process, granted, version)",
    ),
    (
        "ALTER TABLE asyncframe_tasks ADD COLUMN owner TEXT",
        # With all that a page or its total asks for, so that rows are not read to be skipped.
        """
        CREATE INDEX asyncframe_tasks_owner
        ON asyncframe_tasks (owner, created_at, status, name, ended_at)
        WHERE owner IS NOT NULL AND ended_at IS NOT NULL
        """,
        # In the order of submission, whatever the status: a page far behind skips in one index.
        """
        CREATE INDEX asyncframe_tasks_created ON asyncframe_tasks (created_at, status, ended_at)
        WHERE ended_at IS NOT NULL
        """,
        "DROP INDEX asyncframe_tasks_name",
        """
        CREATE INDEX asyncframe_tasks_name
        ON asyncframe_tasks (name, created_at, status, ended_at)
        WHERE ended_at IS NOT NULL
        """,
    ),
    (
        "ALTER TABLE asyncframe_places ADD COLUMN replaced_by TEXT",
        # Of the few that are to be cancelled: each process looks for its own again and again.
        """
        CREATE INDEX asyncframe_places_replaced ON asyncframe_places (process)
        WHERE replaced_by IS NOT NULL
        """,
    ),
    (
        "ALTER TABLE asyncframe_meta ADD COLUMN asked BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE asyncframe_processes ADD COLUMN answered BIGINT",
    ),
    ("ALTER TABLE asyncframe_processes ADD COLUMN presence TEXT",),
    (
        # What waited before the upgrade has the normal priority, and whoever takes it knows when
        # it is due.
        "ALTER TABLE asyncframe_tasks ADD COLUMN level INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE asyncframe_tasks ADD COLUMN due_at DOUBLE PRECISION",
        # With the process, though it is the same in all: SQLite prefers an index that begins with
        # what is asked for.
        """
        CREATE INDEX asyncframe_tasks_free ON asyncframe_tasks (process, level, created_at, task_id)
        WHERE process = '' AND ended_at IS NULL AND due_at IS NULL
        """,
        """
        CREATE INDEX asyncframe_tasks_asleep ON asyncframe_tasks (process, due_at)
        WHERE process = '' AND ended_at IS NULL AND due_at IS NOT NULL
        """,
        """
        CREATE INDEX asyncframe_tasks_unwanted ON asyncframe_tasks (process, task_id)
        WHERE process = '' AND ended_at IS NULL
        AND (cancel_requested = 1 OR call IS NULL OR restart IS NULL)
        """,
        "ALTER TABLE asyncframe_processes ADD COLUMN places INTEGER",
    ),
    (
        """
        CREATE TABLE asyncframe_submissions (
            task_id TEXT PRIMARY KEY,
            written TEXT NOT NULL
        )
        """,
    ),
    ("ALTER TABLE asyncframe_processes ADD COLUMN role TEXT",),
    (
        "ALTER TABLE asyncframe_processes ADD COLUMN room INTEGER",
        "ALTER TABLE asyncframe_processes ADD COLUMN takes TEXT",
    ),
    (
        # By the name, so that nobody reads past tasks of functions that it does not take. Without
        # the process, which all have in common: PostgreSQL would read the whole index.
        "DROP INDEX asyncframe_tasks_free",
        """
        CREATE INDEX asyncframe_tasks_ready
        ON asyncframe_tasks (name, level, created_at, task_id)
        WHERE process = '' AND ended_at IS NULL AND due_at IS NULL
        AND call IS NOT NULL AND restart IS NOT NULL AND cancel_requested = 0
        """,
    ),
    (
        # For pages of live tasks of one process, or of none.
        "DROP INDEX asyncframe_tasks_live",
        """
        CREATE INDEX asyncframe_tasks_live
        ON asyncframe_tasks (process, created_at, task_id, name, owner) WHERE ended_at IS NULL
        """,
        "ALTER TABLE asyncframe_meta ADD COLUMN free BIGINT NOT NULL DEFAULT 0",
        """
        UPDATE asyncframe_meta SET free =
        (SELECT count(*) FROM asyncframe_tasks WHERE process = '' AND ended_at IS NULL)
        """,
    ),
    (
        # For pages and totals of free tasks by a label, of which there may be a million.
        """
        CREATE INDEX asyncframe_tasks_free_name ON asyncframe_tasks (name, created_at)
        WHERE process = '' AND ended_at IS NULL
        """,
        """
        CREATE INDEX asyncframe_tasks_free_owner ON asyncframe_tasks (owner, created_at, name)
        WHERE owner IS NOT NULL AND process = '' AND ended_at IS NULL
        """,
    ),
    (
        # In words that only lists use. PostgreSQL took these for claims as well while it had not
        # counted the rows, and read all that waited for each of them.
        "DROP INDEX asyncframe_tasks_free_name",
        "DROP INDEX asyncframe_tasks_free_owner",
        """
        CREATE INDEX asyncframe_tasks_free_name ON asyncframe_tasks (name, created_at)
        WHERE length(process) = 0 AND ended_at IS NULL
        """,
        """
        CREATE INDEX asyncframe_tasks_free_owner ON asyncframe_tasks (owner, created_at, name)
        WHERE owner IS NOT NULL AND length(process) = 0 AND ended_at IS NULL
        """,
    ),
    (
        """
        CREATE TABLE asyncframe_steps (
            task_id TEXT NOT NULL,
            number BIGINT NOT NULL,
            branch TEXT NOT NULL,
            function TEXT NOT NULL,
            digest TEXT NOT NULL,
            state TEXT NOT NULL,
            answer TEXT,
            code TEXT NOT NULL,
            PRIMARY KEY (task_id, number)
        )
        """,
    ),
    (
        """
        CREATE TABLE asyncframe_chains (
            parent TEXT NOT NULL,
            task_id TEXT NOT NULL,
            on_failure TEXT NOT NULL,
            PRIMARY KEY (parent, task_id)
        )
        """,
        "CREATE INDEX asyncframe_chains_task ON asyncframe_chains (task_id)",
        "ALTER TABLE asyncframe_meta ADD COLUMN chained BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE asyncframe_tasks ADD COLUMN after TEXT",
    ),
    (
        """
        CREATE TABLE asyncframe_messages (
            task_id TEXT NOT NULL,
            number BIGINT NOT NULL,
            name TEXT NOT NULL,
            key TEXT,
            value TEXT NOT NULL,
            taken INTEGER NOT NULL,
            PRIMARY KEY (task_id, number)
        )
        """,
    ),
    (
        "ALTER TABLE asyncframe_steps ADD COLUMN began DOUBLE PRECISION",
        "ALTER TABLE asyncframe_steps ADD COLUMN ended DOUBLE PRECISION",
    ),
    (
        "ALTER TABLE asyncframe_tasks ADD COLUMN label TEXT",
        # Like those of owners, of which a label has fewer tasks still.
        """
        CREATE INDEX asyncframe_tasks_label
        ON asyncframe_tasks (label, created_at, status, owner, name, ended_at)
        WHERE label IS NOT NULL AND ended_at IS NOT NULL
        """,
        """
        CREATE INDEX asyncframe_tasks_free_label
        ON asyncframe_tasks (label, created_at, owner, name)
        WHERE label IS NOT NULL AND length(process) = 0 AND ended_at IS NULL
        """,
    ),
    ("ALTER TABLE asyncframe_tasks ADD COLUMN slept DOUBLE PRECISION",),
    (
        # With the start, so that what started when is read from the index alone, too.
        "DROP INDEX asyncframe_tasks_ended",
        """
        CREATE INDEX asyncframe_tasks_ended
        ON asyncframe_tasks (ended_at, task_id, status, started_at)
        """,
    ),
    ("ALTER TABLE asyncframe_tasks ADD COLUMN meta TEXT",),
    ("ALTER TABLE asyncframe_tasks ADD COLUMN arguments TEXT",),
    (
        # With those whose cancellation is raised where they go on: 2, and 1 for those that end.
        "DROP INDEX asyncframe_tasks_ready",
        """
        CREATE INDEX asyncframe_tasks_ready
        ON asyncframe_tasks (name, level, created_at, task_id)
        WHERE process = '' AND ended_at IS NULL AND due_at IS NULL
        AND call IS NOT NULL AND restart IS NOT NULL AND cancel_requested <> 1
        """,
    ),
)
"""The steps from each version of the schema to the next; the first creates it."""

_METADATA: Final = MetaData()
_TYPES: Final = {"TEXT": Text, "INTEGER": Integer, "BIGINT": BigInteger, "DOUBLE": Double}
_COLUMN: Final = re.compile(rf"(\w+) ({'|'.join(_TYPES)})\b( PRIMARY KEY)?")
_KEYS: Final = re.compile(r"PRIMARY KEY \((.*)\)")


def _table(name: str) -> Table:
    """Return a table with the columns that the steps give it."""
    shapes = re.compile(rf"\s*(CREATE|ALTER) TABLE {name}\b")
    text = "\n".join(filter(shapes.match, chain.from_iterable(STEPS)))
    keys = ", ".join(_KEYS.findall(text)).split(", ")
    columns = [
        Column(column, _TYPES[kind], primary_key=bool(key) or column in keys)
        for column, kind, key in _COLUMN.findall(text)
    ]
    return Table(name, _METADATA, *columns)


TASKS: Final = _table("asyncframe_tasks")
"""One row for each task. ``ended_at`` is null until it has ended.

``call`` has the arguments while somebody may need them again; see `protocols.CallStore`.
``restart`` has the rest that another process needs to run the task if its own ends now; it is null
if none may run it. ``level`` is its priority, 0 for high, and ``due_at`` the wall second before
which it must not start; null if there is none, or a free task was woken since. ``process`` is empty
while a task is free; see `_shared.free.claims`. ``after`` says which tasks it was submitted
after, ``slept`` for how many seconds it has waited since its start, and ``meta`` is a JSON object.
``arguments`` is one of what people see of ``call``.
``cancel_requested`` is 0, or what `rows.ENDS` and `rows.RAISES` say.
"""

PROCESSES: Final = _table("asyncframe_processes")
"""One row for each running process; without it, its tasks are not live.

``answered`` is the number of the latest inquiry that it has answered, see `_shared.inquiries`;
null while it has no tasks. ``presence`` is the run of the server in which it holds its lock, see
`_shared.membership`; null while it has none. ``room`` is for how many more tasks it has threads,
and ``takes`` has the names of the functions that it runs there; see `_shared.free.sharing`.
``places`` is how many tasks of each kind it runs at a time, and ``role`` what it is, see
`protocols.StoreHost`; both are for people.
"""

META: Final = _table("asyncframe_meta")
"""One row. Writers increment ``version`` first, which makes them take turns.

``asked`` is the number of inquiries to all processes, see `_shared.inquiries`. ``free`` is how many
tasks no process has, see `free_rows`, and ``chained`` how many rows `CHAINS` has.
"""

SCHEDULES: Final = _table("asyncframe_schedules")
"""One row for each schedule that a process has run; see `protocols.ScheduleState`."""

PLACES: Final = _table("asyncframe_places")
"""One row for each task in a line; ``version`` is that of the last change of ``granted``.

``replaced_by`` is the task that wants it cancelled; it is null if none does.
"""

WINDOWS: Final = _table("asyncframe_windows")
"""One row for each call in a window that is shared, in microseconds since the epoch."""

SUBMISSIONS: Final = _table("asyncframe_submissions")
"""One row for each task that an app has submitted in a transaction of its own, until it is moved.

``written`` is its row in JSON, in the order of `WRITTEN`: a step that changes that order has to
change the rows that are here. All else is said by `_shared.submissions`.
"""


def is_one_of(column: Any, statuses: Sequence[TaskStatus]) -> sa.ColumnElement[bool]:
    """Return the condition that a column has one of some statuses."""
    # Not parameters: PostgreSQL then plans for these, and not for average ones.
    literals: list[Any] = [sa.literal_column(f"'{one.value}'") for one in statuses]
    found: sa.ColumnElement[bool]
    found = column == literals[0] if len(literals) == 1 else column.in_(literals)
    return found


CHAINS: Final = _table("asyncframe_chains")
"""One row for each task that waits, and each one that it waits for: ``parent``; see `chains`."""

STEPS_OF_TASKS: Final = _table("asyncframe_steps")
"""One row for each step of a task that has ended; ``branch`` has its path and origins as JSON."""


MESSAGES: Final = _table("asyncframe_messages")
"""One row for each message to a task; ``taken`` is 1 once a step of it has received it."""


def prepare(
    database: Database,
    steps: tuple[tuple[str, ...], ...] = STEPS,
    may_upgrade: Callable[[Connection], bool] = lambda _: True,
) -> bool:
    """Create the tables, or upgrade them.

    Args:
        database: The database.
        steps: The steps from each version to the next.
        may_upgrade: Asked in the transaction that would upgrade tables that are there.

    Returns:
        Whether the tables are of the last step; False if they may not be upgraded yet.

    Raises:
        StoreUnavailableError: If they are of a newer release.
        SQLAlchemyError: If the database cannot be reached or written.
    """
    with database.reading() as connection:
        found = version_of(connection)
    if found < len(steps):
        with database.writing() as connection:
            database.dialect.lock_upgrade(connection)
            # Once more, now that nobody else is at it.
            found = version_of(connection)
            if 0 < found < len(steps) and not may_upgrade(connection):
                return False
            if found < len(steps):
                database.dialect.allow_time(connection)
                _take(connection, database.dialect, found, steps)
    if found > len(steps):
        raise newer_tables(found, len(steps))
    return True


def _take(
    connection: Connection, dialect: Dialect, found: int, steps: tuple[tuple[str, ...], ...]
) -> None:
    """Take the steps from version *found* on."""
    for statement in (*_left_out(connection, found), *chain.from_iterable(steps[found:])):
        connection.exec_driver_sql(dialect.step(statement))
    connection.execute(sa.update(META).values(schema_version=len(steps)))
    if found:
        told = "the tables of the store are upgraded from version %d to %d"
        _LOGGER.info(told, found, len(steps))


def newer_tables(found: int, supported: int = len(STEPS)) -> StoreUnavailableError:
    """Return the error for tables of a newer release, with version *found*."""
    return StoreUnavailableError(
        f"the tables of this database have version {found}, but this release supports "
        f"{supported}: use the release that created them, or a newer one"
    )


_GREW: Final = 3
"""The version whose step grew while it was the latest one: databases were made by each form of it.

Since then a step does not change once it has landed; what it lacks is a step of its own.
"""

_MAKES: Final = re.compile(r"\s*(?:ALTER TABLE (\w+) ADD COLUMN|CREATE TABLE|CREATE INDEX) (\w+)")


def _left_out(connection: Connection, version: int) -> list[str]:
    """Return the statements of a database's last step that it was made without."""
    if version != _GREW:
        return []
    found, there = sa.inspect(connection), set[tuple[str | None, str]]()
    for table in found.get_table_names():
        there.add((None, table))
        there |= {(table, str(column["name"])) for column in found.get_columns(table)}
        there |= {(None, str(index["name"])) for index in found.get_indexes(table)}
    made = [(statement, _MAKES.match(statement)) for statement in STEPS[_GREW - 1]]
    return [one for one, what in made if what is not None and what.groups() not in there]


def is_outdated(database: Database) -> bool:
    """Return whether there are tables of an older release; another process may upgrade them.

    Raises:
        SQLAlchemyError: If the database cannot be read.
    """
    with database.reading() as connection:
        return 0 < version_of(connection) < len(STEPS)


def version_of(connection: Connection) -> int:
    """Return the version of the tables; 0 if there are none."""
    if not sa.inspect(connection).has_table(META.name):
        return 0
    return int(connection.execute(sa.select(META.c.schema_version)).scalar_one())
