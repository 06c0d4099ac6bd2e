"""The locks of SQLite's databases: an actor waits for them on the clock, and not in C.

SQLite waits for a lock by sleeping and trying again, for as long as the timeout of the connection
says. So the connections that actors make during a run do not wait, and a call that finds the
database locked is made again when another connection has let go of it.

Guarantees: a call waits where SQLite would, and otherwise fails at once as it does there. On
    threads that are no actors, between runs, and for locks that others hold, SQLite itself waits.
Relies on: SQLite waiting for no lock in a transaction that has read, but for its commit: whoever
    has the lock may be waiting for the end of that transaction.
"""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from sqlite3 import dbapi2
from typing import Any, TypeVar
from weakref import WeakSet

import pytest

from pytest_asyncframe._explore.locks import model
from pytest_asyncframe.clock._clock import nanoseconds

Result = TypeVar("Result")

_TIMEOUT = 5.0
"""Seconds that a connection waits by default."""

_IS_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY)

_READS_NOTHING = re.compile(r"\s*(begin|savepoint|pragma)\b", re.IGNORECASE)
"""Statements that may open a transaction, or come in one, without reading any data."""

_SETS_TIMEOUT = re.compile(r"\s*pragma\s+busy_timeout\s*[=(]", re.IGNORECASE)


class _Transactions:
    """The transactions of all modelled connections.

    Attributes:
        ended: How many have ended, and how often something was read outside of one.
        connections: The connections.
    """

    def __init__(self) -> None:
        self.ended: int = 0
        self.connections: WeakSet[ModelConnection] = WeakSet()

    def are_open_beside(self, connection: ModelConnection) -> bool:
        """Whether another connection is in a transaction."""
        return any(one.is_open for one in self.connections if one is not connection)


_transactions = _Transactions()


class ModelCursor(sqlite3.Cursor):
    """A cursor of a modelled connection."""

    connection: ModelConnection

    def execute(self, sql: str, *args: Any) -> Any:
        """Execute a statement; see `sqlite3.Cursor.execute`."""
        connection = self.connection
        result = connection.waiting(functools.partial(super().execute, sql, *args))
        connection.has_executed(sql)
        return result

    def executemany(self, sql: str, parameters: Any, /) -> Any:
        """Execute a statement several times; see `sqlite3.Cursor.executemany`."""
        connection = self.connection
        result = connection.waiting(functools.partial(super().executemany, sql, [*parameters]))
        connection.has_executed(sql)
        return result

    def executescript(self, script: str, /) -> Any:
        """Execute statements; see `sqlite3.Cursor.executescript`."""
        # A part of it may have been executed when it finds a lock.
        return self.connection.waiting_in_c(functools.partial(super().executescript, script))

    def fetchone(self) -> Any:
        """Return the next row; see `sqlite3.Cursor.fetchone`."""
        return self.connection.noticed(super().fetchone())

    def fetchmany(self, *args: Any, **options: Any) -> Any:
        """Return the next rows; see `sqlite3.Cursor.fetchmany`."""
        return self.connection.noticed(super().fetchmany(*args, **options))

    def fetchall(self) -> Any:
        """Return all rows that are left; see `sqlite3.Cursor.fetchall`."""
        return self.connection.noticed(super().fetchall())

    def close(self) -> None:
        """Close the cursor; see `sqlite3.Cursor.close`."""
        self.connection.noticed(super().close())


class ModelConnection(sqlite3.Connection):
    """A connection that is made on an actor.

    Attributes:
        is_open: Whether it is in a transaction, as far as it is known.
    """

    is_open: bool = False
    _has_read = False
    _timeout = _TIMEOUT

    def begin(self, timeout: float) -> None:
        """Let calls wait for *timeout* seconds at most; called once, after it is made."""
        self._timeout = timeout
        _transactions.connections.add(self)
        # Nothing has to outlive a failure of the machine, and each commit would wait for the disk.
        with suppress(sqlite3.Error):
            sqlite3.Connection.cursor(self).execute("pragma synchronous = off")

    def cursor(self, factory: Any = ModelCursor) -> Any:
        """Return a new cursor; see `sqlite3.Connection.cursor`."""
        return super().cursor(factory)

    def execute(self, *args: Any) -> Any:
        """Execute a statement; see `sqlite3.Connection.execute`."""
        return self.cursor().execute(*args)

    def executemany(self, *args: Any) -> Any:
        """Execute a statement several times; see `sqlite3.Connection.executemany`."""
        return self.cursor().executemany(*args)

    def executescript(self, *args: Any) -> Any:
        """Execute statements; see `sqlite3.Connection.executescript`."""
        return self.cursor().executescript(*args)

    def commit(self) -> None:
        """Commit the transaction; see `sqlite3.Connection.commit`."""
        self.waiting(super().commit, is_commit=True)
        self._has_read = False

    def rollback(self) -> None:
        """Roll the transaction back; see `sqlite3.Connection.rollback`."""
        self.noticed(super().rollback())
        self._has_read = False

    def close(self) -> None:
        """Close the connection; see `sqlite3.Connection.close`."""
        super().close()
        self.is_open = False
        _transactions.ended += 1

    def __exit__(self, kind: Any, *error: Any) -> Any:
        if kind is not None:
            self.rollback()
            return False
        try:
            self.commit()
        except BaseException:
            self.rollback()
            raise
        return False

    def noticed(self, result: Result) -> Result:
        """Take note that a call has ended, and return its result."""
        self.is_open = self.in_transaction
        if not self.is_open:
            self._has_read = False
            _transactions.ended += 1
        return result

    def has_executed(self, sql: str) -> None:
        """Take note of a statement that was executed."""
        if not _READS_NOTHING.match(sql):
            self._has_read = self.in_transaction
        elif _SETS_TIMEOUT.match(sql):
            ((found,),) = sqlite3.Connection.cursor(self).execute("pragma busy_timeout")
            self._timeout = found / 1000
            self._let_c_wait(0)

    def waiting(self, call: Callable[[], Result], *, is_commit: bool = False) -> Result:
        """Return what *call* returns, which waits for the lock of the database if it has to."""
        changes, until = self.total_changes, None
        control = model.current.control
        actor = None if control is None else control.actor()
        in_time = True
        while True:
            seen = _transactions.ended
            try:
                return self.noticed(call())
            except sqlite3.OperationalError as error:
                self.is_open = self.in_transaction
                waits = self._timeout and (is_commit or not self._has_read)
                is_locked = error.sqlite_errorcode in _IS_LOCKED
                if not (waits and is_locked) or self.total_changes != changes:
                    raise
                if control is None or actor is None:
                    return self.waiting_in_c(call)
                if not in_time:
                    if _transactions.are_open_beside(self):
                        raise
                    control.sequencer.outside.met[_BY_OTHERS] = None
                    return self.waiting_in_c(call)
            if until is None:
                until = control.sequencer.now + nanoseconds(self._timeout)
            # One more attempt follows in any case: a cursor may have ended unseen.
            ended = functools.partial(_have_ended_since, seen)
            in_time = control.sequencer.block(actor, ended, until, _WANTS)

    def waiting_in_c(self, call: Callable[[], Result]) -> Result:
        """Return what *call* returns, in which SQLite itself waits for locks."""
        self._let_c_wait(self._timeout)
        try:
            return self.noticed(call())
        finally:
            self._let_c_wait(0)

    def _let_c_wait(self, seconds: float) -> None:
        sqlite3.Connection.cursor(self).execute(f"pragma busy_timeout = {round(seconds * 1000)}")


_WANTS = "for the lock of a database"

_BY_OTHERS = "a database that something else has locked"


def _have_ended_since(seen: int) -> bool:
    return _transactions.ended != seen


@contextmanager
def controlled() -> Iterator[None]:
    """Let the connections that actors make inside the block wait on the clock."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (sqlite3, dbapi2):
            patch.setattr(module, "connect", _connect(module.connect))
        yield


def _connect(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def connect(*args: Any, **options: Any) -> Any:
        control = model.current.control
        has_factory = len(args) > _FACTORY or "factory" in options
        if has_factory or control is None or control.actor() is None:
            return real(*args, **options)
        # As many by position as the caller gave: Python warns of these.
        if len(args) > _TIMES_OUT:
            timeout, args = args[_TIMES_OUT], (*args[:_TIMES_OUT], 0, *args[_TIMES_OUT + 1 :])
        else:
            timeout, options = options.get("timeout", _TIMEOUT), {**options, "timeout": 0}
        connection = real(*args, factory=ModelConnection, **options)
        connection.begin(timeout)
        return connection

    return connect


_TIMES_OUT, _FACTORY = 1, 5
"""The positions of the timeout and the factory."""
