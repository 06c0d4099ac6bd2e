"""The connection to one database, and how its transactions begin.

Guarantees: a transaction that writes takes the write lock when it begins, so it never fails
half-way without it; no call waits for the database longer than a few seconds; nothing is
written into a SQLite file that was moved or replaced.
Relies on: calls on threads that may block, in the process that opened it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    SQLAlchemyError,
    StatementError,
)

from framework._records import checks
from framework._threads.clock import SystemClock

Dialect: TypeAlias = Literal["sqlite", "postgresql"]

FAULTS: Final = (SQLAlchemyError, OSError)
"""The exceptions of a database that is full, locked, broken or gone."""

_RECORDS_STATES: Final = ("22", "23", "54")
"""SQLSTATE classes that blame the data: invalid, in conflict, or too large."""

_RECORDS_CODES: Final = (18, 19, 20)
"""The same for SQLite: TOOBIG, CONSTRAINT and MISMATCH."""

_LOCKED_STATE: Final = "55P03"
"""The SQLSTATE of a lock that was not to be had in time."""

_LOCKED_CODES: Final = (5, 6)
"""The same for SQLite: BUSY and LOCKED."""

LOCK_PATIENCE: Final = 2.0
"""Seconds to wait for a lock that another process has, each time."""

_LOCK_LOOKS: Final = 20
"""Milliseconds after which SQLite is asked anew for the write lock, with short pauses."""

_DRIVERS: Final = {
    "sqlite": ("sqlite", "sqlite+pysqlite"),
    "postgresql": ("postgresql", "postgresql+psycopg"),
}
_ALIASES: Final = {"postgres": "postgresql"}
"""Names of databases that other libraries and hosts use in their URLs."""

_LIBRARIES: Final = {"sqlite": "sqlite3", "postgresql": "psycopg"}
"""The driver of each."""

_WRITES: Final = "asyncframe_writes"
_POOLED: Final = "asyncframe_pooled"

_BESIDE: Final = {
    "-wal": "what was written last",
    "-shm": "the locks of those that write",
}
"""The endings of SQLite's files beside the database, and what is gone with each."""

# Of a server that is gone without a word, the network itself tells only after minutes.
_POSTGRESQL: Final = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
    "application_name": "asyncframe",
}
_OF_SEVERAL: Final = {"target_session_attrs": "read-write"}
"""What else is asked of the server if the URL names several, of which one can be written."""

_POSTGRESQL_SETTINGS: Final = {
    "lock_timeout": "'2s'",
    "statement_timeout": "'10s'",
    # Ends the transaction of a process that was suspended in it: it has the lock that every
    # writer needs.
    "idle_in_transaction_session_timeout": "'5s'",
    # Also without durability: a server that crashes must not take a version back that others
    # have read up to. One flush for each batch costs no task anything.
    "synchronous_commit": "on",
}


def checked_url(url: object) -> URL:
    """Return *url* with the driver to use, if its database is supported.

    Raises:
        TypeError: If it is neither a string nor a URL of SQLAlchemy's.
        ValueError: If it is no URL, or one of another database, driver, or of no file.
    """
    if not isinstance(url, (str, URL)):
        raise TypeError(
            "url must be a string such as 'sqlite:///tasks.db', or a sqlalchemy.URL, not "
            f"{checks.show(url)}"
        )
    try:
        made = sa.make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(
            f"url must be like 'sqlite:///tasks.db' or 'postgresql://host/name', not "
            f"{checks.show(url)}"
        ) from None
    allowed = _DRIVERS.get(made.get_backend_name(), ())
    if made.drivername not in allowed:
        if made.get_backend_name() in (*_DRIVERS, *_ALIASES):
            raise ValueError(_other_driver(made))
        names = ", ".join(name for names in _DRIVERS.values() for name in names)
        raise ValueError(
            f"url must start with one of {names}, not with {made.drivername!r}: no other "
            "database or driver is supported"
        )
    if made.get_backend_name() == "sqlite":
        _check_file(made)
        return made.set(drivername="sqlite+pysqlite")
    return made.set(drivername="postgresql+psycopg")


def _other_driver(url: URL) -> str:
    """Return what is wrong with a URL whose database is supported, and its driver is not."""
    backend, _, driver = url.drivername.partition("+")
    dialect = _ALIASES.get(backend, backend)
    app = f"; your app may go on using {driver}" if driver else ""
    return (
        f"url must start with '{dialect}://', not with '{url.drivername}://': write "
        f"{dialect}://...; the store has a driver of its own, {_LIBRARIES[dialect]}{app}"
    )


def _check_file(url: URL) -> None:
    name = url.database or ""
    if name in {"", ":memory:"} or "mode=memory" in name or url.query.get("mode") == "memory":
        raise ValueError(
            f"url must name a file, like 'sqlite:///tasks.db', not {str(url)!r}: a database "
            "in memory belongs to one process; to keep tasks in memory, do not pass 'store'"
        )


class Database:
    """Connections to one database; opens none before the first transaction.

    Args:
        url: Which, as `checked_url` returned it.
        durable: Whether a commit waits for the disk.

    Raises:
        ImportError: If the database's driver is not installed.
    """

    def __init__(self, url: URL, durable: bool) -> None:
        self.dialect: Dialect = "sqlite" if url.get_backend_name() == "sqlite" else "postgresql"
        options: dict[str, Any] = {"connect_args": {"timeout": LOCK_PATIENCE}}
        if self.dialect == "postgresql":
            wanted = _POSTGRESQL | (_OF_SEVERAL if _has_several_hosts(url) else {})
            given = {name: value for name, value in wanted.items() if name not in url.query}
            options = {
                "connect_args": given,
                "isolation_level": "READ COMMITTED",
                "pool_pre_ping": True,
            }
        try:
            # One for the store's own thread, the others for those who ask.
            self._engine: Engine = sa.create_engine(
                url,
                poolclass=sa.QueuePool,
                pool_size=2,
                max_overflow=2,
                pool_timeout=LOCK_PATIENCE,
                **options,
            )
        except ModuleNotFoundError as error:
            raise ImportError(
                "a store on PostgreSQL needs psycopg 3: install the extra 'postgresql' of "
                "asyncframe"
            ) from error
        event.listen(self._engine, "connect", self._on_connect)
        self._readers: Engine = self._engine
        if self.dialect == "postgresql":
            # SQLite's transactions see one moment by themselves.
            self._readers = self._engine.execution_options(isolation_level="REPEATABLE READ")
        self._clock = SystemClock()
        self._durable = durable
        # SQLite's file, and which one it was when it was opened.
        self._file: tuple[str, tuple[int, int] | None] | None = None
        if self.dialect == "sqlite":
            event.listen(self._engine, "do_connect", self._before_connect)
            event.listen(self._engine, "begin", self._begin)
        else:
            event.listen(self._engine, "begin", self._begin_pooled)

    @property
    def is_local(self) -> bool:
        """Whether all processes that share it run on one machine."""
        return self.dialect == "sqlite"

    def _on_connect(self, connection: Any, entry: Any) -> None:  # Any: of a driver, of the pool
        if self.dialect == "sqlite":
            self._prepare_file(connection)
        else:
            connection.autocommit = True
            self._prepare_session(connection, entry)
            connection.autocommit = False

    def _prepare_file(self, connection: Any) -> None:
        # So that the driver begins no transactions; `_begin` does.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        if self._file is None:
            file = connection.execute("PRAGMA database_list").fetchone()[2]
            self._file = file, _identity(file)

    def _prepare_session(self, connection: Any, entry: Any) -> None:
        """Make the session's settings, unless a pooler gives each transaction another one.

        A pooler has no process, so what it tells as the number of one is not the server's.
        """
        server = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
        if server != connection.info.backend_pid:
            entry.info[_POOLED] = True
            # What one session has prepared, another one does not know, or knows as something else.
            connection.prepare_threshold = None
        else:
            connection.execute(_set("SET"))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that only reads, and sees the database as it is at its first look."""
        with (
            self._closed_late(),
            self._readers.connect() as connection,
            self._dropping(connection),
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction that is committed at the end, or rolled back on an error."""
        with (
            self._closed_late(),
            self._engine.connect().execution_options(**{_WRITES: True}) as connection,
            self._dropping(connection),
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _dropping(self, connection: Connection) -> Iterator[None]:
        """Drop a server's connection after a fault that may be its own.

        One that was opened while the server could only be read stays so for ever, and one to a
        server that has become a standby never writes again. The next one may do better.
        """
        try:
            yield
        except FAULTS as error:
            if self.dialect == "postgresql" and not (is_data_fault(error) or is_busy(error)):
                connection.invalidate(error)
            raise

    @contextmanager
    def _closed_late(self) -> Iterator[None]:
        """Close the connection that was in use when `close` was called, once it is not."""
        pool = self._engine.pool
        try:
            yield
        finally:
            # `close` has put another one in its place.
            if self._engine.pool is not pool:
                pool.dispose()

    def close(self) -> None:
        """Close every connection; one that is in use, once it is not."""
        self._engine.dispose()
        self._file = None

    def _before_connect(self, *_: object) -> None:
        # A connection to a file that is gone would make a new one, without tables.
        self._require_file()

    def _begin(self, connection: Connection) -> None:
        self._require_file()
        self._require_log(connection)
        if connection.get_execution_options().get(_WRITES, False):
            self._begin_to_write(connection)
        else:
            connection.exec_driver_sql("BEGIN")

    def _begin_pooled(self, connection: Connection) -> None:
        if connection.connection.info.get(_POOLED, False):
            driver: Any = connection.connection.driver_connection  # a module's without types
            driver.execute(_set("SET LOCAL"))

    def _begin_to_write(self, connection: Connection) -> None:
        """Begin a transaction with SQLite's write lock.

        SQLite has no queue: who waits looks again after pauses that grow to 100 ms, in which
        busy processes overtake it. So the pauses begin anew after `_LOCK_LOOKS` milliseconds.
        """
        driver: Any = connection.connection.driver_connection  # a module's without types
        until = self._clock.monotonic() + LOCK_PATIENCE
        driver.execute(f"PRAGMA busy_timeout = {_LOCK_LOOKS}")
        try:
            while self._clock.monotonic() < until:
                try:
                    driver.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                        break
                else:
                    return
            # Once more, for an error of SQLAlchemy's.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        finally:
            driver.execute(f"PRAGMA busy_timeout = {LOCK_PATIENCE * 1_000:.0f}")

    def _require_file(self) -> None:
        """Check that the file is still the one that was opened.

        Raises:
            OSError: If it is not there, or is another one.
        """
        if self._file is not None and _identity(self._file[0]) != self._file[1]:
            raise OSError(
                f"the file {self._file[0]} was removed or replaced while in use: put it "
                "back, or restart all processes of this app to create a new one"
            )

    def _require_log(self, connection: Connection) -> None:
        """Check that SQLite's log and its index are still those that this connection uses.

        SQLite removes them when nobody has a connection any more, and never before. Others make
        new ones. Nobody finds what stands in the old log alone; and whoever has another index has
        other locks too, and overwrites what the others append to the log.

        Raises:
            OSError: If one of them is not there, or is another one.
        """
        assert self._file is not None
        info = connection.connection.info
        for ending, holds in _BESIDE.items():
            file = self._file[0] + ending
            found, known = _identity(file), info.get(file)
            if known is None:
                info[file] = found
            elif found != known:
                raise OSError(
                    f"the file {file} was removed or replaced while in use, and with it {holds}: "
                    "put it back, or restart all processes of this app"
                )


def _has_several_hosts(url: URL) -> bool:
    hosts = [url.host or "", *url.normalized_query.get("host", ())]
    return len([one for host in hosts for one in host.split(",") if one]) > 1


def _set(command: str) -> str:
    return "; ".join(f"{command} {name} = {value}" for name, value in _POSTGRESQL_SETTINGS.items())


def _identity(file: str) -> tuple[int, int] | None:
    """Return what identifies a file at a path, as device and inode; None without one."""
    try:
        # Not of a `Path`, which takes longer to make: each transaction asks for three.
        found = os.stat(file)  # noqa: PTH116
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def is_data_fault(error: BaseException) -> bool:
    """Return whether the database refused the data itself, and would refuse it again.

    When in doubt the database is at fault: missing permissions, missing tables, a full disk.
    Such faults pass.
    """
    cause = getattr(error, "orig", None)
    state = getattr(cause, "sqlstate", None)
    if state:
        return str(state)[:2] in _RECORDS_STATES
    code = getattr(cause, "sqlite_errorcode", None)
    if code:
        # The low byte is the code, the others say more about it.
        return code & 0xFF in _RECORDS_CODES
    # The last is the base of the others, but itself only for what cannot be bound or encoded.
    return isinstance(error, DataError) or type(error) is StatementError


def is_busy(error: BaseException) -> bool:
    """Return whether another process has the lock that was needed."""
    cause = getattr(error, "orig", None)
    code = getattr(cause, "sqlite_errorcode", None) or 0
    return getattr(cause, "sqlstate", None) == _LOCKED_STATE or code & 0xFF in _LOCKED_CODES


def why(error: BaseException) -> str:
    """Return the message of a database error in one line."""
    cause: object = getattr(error, "orig", None) or error
    text = str(cause).strip() or type(cause).__name__
    return text.splitlines()[0][:300]
