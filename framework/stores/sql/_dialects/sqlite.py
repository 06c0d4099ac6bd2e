"""SQLite: a file that the processes of one machine share.

A driver releases the interpreter at each step of a statement. While other threads compute, it
gets the interpreter back after 5 ms, which would be 5 ms for each row. So rows are returned as
one text. That would round timestamps, so they are returned as ticks.

Guarantees: a transaction that writes takes the write lock when it begins; nothing is written into
a file that was moved or replaced.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.sql.operators import custom_op

from framework._records.pages import variants
from framework._threads.clock import SystemClock
from framework.stores.sql._dialects import dialect
from framework.stores.sql._dialects.board import Board, BoardLink
from framework.stores.sql._dialects.dialect import (
    STAMPS,
    TICKS,
    WRITES,
    Answer,
    Dialect,
    Row,
)
from framework.stores.sql._dialects.link import Link, Linked, Told

_RECORDS_CODES: Final = (18, 19, 20)
"""The errors that blame the data: TOOBIG, CONSTRAINT and MISMATCH."""

_LOCKED_CODES: Final = (5, 6)
"""The errors of a lock that was not to be had in time: BUSY and LOCKED."""

_LOCK_LOOKS: Final = 20
"""Milliseconds after which SQLite is asked anew for the write lock, with short pauses."""

_WAITS: Final = "asyncframe.waits"
"""The key of a connection's information for how long it waits for locks."""

_BESIDE: Final = {
    "-wal": "what was written last",
    "-shm": "the locks of those that write",
}
"""The endings of SQLite's files beside the database, and what is gone with each."""


class SQLite(Dialect):
    """SQLite, by the driver of the standard library."""

    name = "sqlite"
    drivers: ClassVar[tuple[str, ...]] = ("sqlite", "sqlite+pysqlite")
    library = "sqlite3"
    example = "sqlite:///tasks.db"
    needs = "a store on SQLite needs the module sqlite3, which this Python was built without"
    is_local = True

    # -- connections

    def check(self, url: URL) -> None:
        """Check that it names a file."""
        name = url.database or ""
        if name in {"", ":memory:"} or "mode=memory" in name or url.query.get("mode") == "memory":
            raise ValueError(
                f"url must name a file, like '{self.example}', not {str(url)!r}: a database "
                "in memory belongs to one process; to keep tasks in memory, do not pass 'store'"
            )

    def file_of(self, url: URL) -> Path | None:
        """Return the file, unless SQLite has to read its name as a URI."""
        return None if url.query.get("uri") else Path(url.database or "").absolute()

    def options(self, url: URL) -> dict[str, Any]:
        """Return the patience with locks."""
        return {"connect_args": {"timeout": dialect.LOCK_PATIENCE}}

    def attach(self, engine: Engine, durable: bool) -> Linked:
        """Watch over the file, and let queries name their indexes."""
        engine.dialect.statement_compiler = _WithHints
        return _File(engine, durable).link

    def only_read(self, connection: Connection) -> None:
        """Refuse it, as long as there is the connection."""
        connection.exec_driver_sql("PRAGMA query_only = ON")

    # -- errors

    def blames_data(self, cause: object) -> bool | None:
        """Look at the code."""
        code = getattr(cause, "sqlite_errorcode", None)
        # The low byte is the code, the others say more about it.
        return code & 0xFF in _RECORDS_CODES if code else None

    def is_busy(self, cause: object) -> bool:
        """Look at the code."""
        code = getattr(cause, "sqlite_errorcode", None) or 0
        return code & 0xFF in _LOCKED_CODES

    def lacks_table(self, cause: object) -> bool:
        """Look at the message, since the code is that of any error."""
        return "no such table" in str(cause)

    # -- SQL

    def answer(self, query: sa.Select[Any]) -> _Text:
        """Return it as a query for one text."""
        return _Text(query)

    def split(
        self, text: Any, types: Sequence[Any]
    ) -> tuple[sa.FromClause, Sequence[sa.ColumnElement[Any]]]:
        """Take the text apart."""
        batch = sa.func.json_each(text).table_valued("value", name="batch")
        items = [sa.func.json_extract(batch.c.value, f"$[{at}]") for at in range(len(types))]
        return batch, items

    def among(self, column: Any, text: Any) -> sa.ColumnElement[bool]:
        """Take the text apart."""
        found = sa.func.json_each(text).table_valued("value", name="some")
        return column.in_(sa.select(found.c.value))  # type: ignore[no-any-return]

    def insert(self, table: sa.Table) -> Any:
        """Return the insert of the dialect."""
        return sqlite.insert(table)

    def microsecond(self, connection: Connection, clock: SystemClock) -> int:
        """Return that of the machine."""
        return int(clock.time() * 1_000_000)

    def tell(self, process: Any, version: Any, asked: Any, free: Any) -> sa.ColumnElement[Any]:
        """Say it on the board."""
        return sa.func.asyncframe_say(version, asked, free)

    def whole(self, number: Any) -> sa.ColumnElement[Any]:
        """Cut the fraction off, as SQLite does by itself."""
        return sa.cast(number, sa.BigInteger)

    def joined(self, column: Any) -> sa.ColumnElement[Any]:
        """Return the text."""
        return sa.func.group_concat(column, ",")

    def hidden(self, column: Any) -> Any:
        """Return it with a plus in front, since SQLite chooses an index by rules."""
        return sa.UnaryExpression(column, operator=custom_op("+"), type_=column.type)

    def by_index(self, table: sa.Table, index: str) -> str:
        """Name the index, since SQLite does not look at the data to choose one."""
        return f"{table.name} INDEXED BY {index}"

    def has(self, text: Any, search: Any, is_ascii: bool) -> sa.ColumnElement[bool]:
        """Compare by LIKE or GLOB, which ignore the case of ASCII letters or of none."""
        if is_ascii:
            return text.like(search, escape="\\")  # type: ignore[no-any-return]
        return text.op("GLOB", is_comparison=True)(search)  # type: ignore[no-any-return]

    def expression(self, search: str) -> str:
        """Return a pattern of GLOB."""
        return f"*{''.join(_in_glob(one) for one in variants(search))}*"


def _in_glob(some: str) -> str:
    return f"[{some}]" if len(some) > 1 or some in "*?[" else some


class _WithHints(SQLiteCompiler):
    """Writes the hints of queries, as SQLAlchemy does for other databases."""

    def get_from_hint_text(self, table: sa.FromClause, text: str | None) -> str | None:
        """Return what follows the name of a table."""
        return text


class _Text(Answer):
    """A query whose rows come as one JSON text.

    Args:
        query: The query.
    """

    def __init__(self, query: sa.Select[Any]) -> None:
        inner = query.subquery()
        self._stamps = [at for at, one in enumerate(inner.c) if one.name in STAMPS]
        columns = [
            sa.cast(one * TICKS, sa.BigInteger) if one.name in STAMPS else one for one in inner.c
        ]
        super().__init__(sa.select(sa.func.json_group_array(sa.func.json_array(*columns))))

    def fetch(self, connection: Connection, values: dict[str, Any]) -> list[Row]:
        """Return its rows."""
        ((text,),) = self._query.all(connection, values)
        rows: list[list[Any]] = json.loads(text)
        for row in rows:
            for at in self._stamps:
                if row[at] is not None:
                    row[at] /= TICKS
        return list(rows)


class _File:
    """The file of one database, and how its transactions begin.

    Args:
        engine: Opens it.
        durable: Whether a commit waits for the disk.
    """

    def __init__(self, engine: Engine, durable: bool) -> None:
        self._durable = durable
        self._clock = SystemClock()
        # Its path, and which one it was when it was opened.
        self._file: tuple[str, tuple[int, int] | None] | None = None
        self._board: Board | None = None
        event.listen(engine, "connect", self._on_connect)
        # A connection to a file that is gone would make a new one, without tables.
        event.listen(engine, "do_connect", self._require_file)
        event.listen(engine, "begin", self._begin)
        event.listen(engine, "engine_disposed", self._forget)

    def _forget(self, _: object) -> None:
        self._file = None

    def _on_connect(self, connection: Any, _: object) -> None:  # Any: of a driver
        # So that the driver begins no transactions; `_begin` does.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        if self._file is None:
            file = connection.execute("PRAGMA database_list").fetchone()[2]
            self._file = file, _identity(file)
            self._board = Board(file)
        assert self._board is not None
        connection.create_function("asyncframe_say", 3, self._board.say)

    def link(self, clock: SystemClock, told: Told) -> Link:
        """Return what a process learns from the board."""
        assert self._board is not None, "there was no transaction yet"
        return BoardLink(self._board, clock)

    def _begin(self, connection: Connection) -> None:
        self._require_file()
        self._require_log(connection)
        if connection.get_execution_options().get(WRITES, False):
            self._begin_to_write(connection)
        else:
            _wait_for_locks(connection, round(dialect.LOCK_PATIENCE * 1_000))
            connection.exec_driver_sql("BEGIN")

    def _begin_to_write(self, connection: Connection) -> None:
        """Begin a transaction with SQLite's write lock.

        SQLite has no queue: who waits looks again after pauses that grow to 100 ms, in which
        busy processes overtake it. So the pauses begin anew after `_LOCK_LOOKS` milliseconds.
        """
        driver: Any = connection.connection.driver_connection  # a module's without types
        until = self._clock.monotonic() + dialect.LOCK_PATIENCE
        _wait_for_locks(connection, _LOCK_LOOKS)
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

    def _require_file(self, *_: object) -> None:
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


def _wait_for_locks(connection: Connection, milliseconds: int) -> None:
    """Let SQLite wait for its locks for so long."""
    fairy = connection.connection
    if fairy.info.get(_WAITS) != milliseconds:
        driver: Any = fairy.driver_connection
        driver.execute(f"PRAGMA busy_timeout = {milliseconds}")
        fairy.info[_WAITS] = milliseconds


def _identity(file: str) -> tuple[int, int] | None:
    """Return what identifies a file at a path, as device and inode; None without one."""
    try:
        # Not of a `Path`, which takes longer to make: each transaction asks for three.
        found = os.stat(file)  # noqa: PTH116
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
