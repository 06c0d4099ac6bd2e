"""The connection to one database, and how its transactions begin.

Guarantees: a transaction that writes takes the write lock when it begins, so it never fails
half-way without it; no call waits for the database longer than a few seconds.
Relies on: calls on threads that may block, in the process that opened it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DataError, SQLAlchemyError, StatementError

from framework._threads.clock import SystemClock
from framework.stores.sql._dialects import dialect as _dialect
from framework.stores.sql._dialects.chosen import dialect_of
from framework.stores.sql._dialects.link import Link, Told

FAULTS: Final = (SQLAlchemyError, OSError)
"""The exceptions of a database that is full, locked, broken or gone."""


class Database:
    """Connections to one database; opens none before the first transaction.

    Args:
        url: Which, as `checked_url` returned it.
        durable: Whether a commit waits for the disk.

    Attributes:
        dialect: What kind of database it is.

    Raises:
        ImportError: If the database's driver is not installed.
    """

    def __init__(self, url: URL, durable: bool) -> None:
        self.dialect = dialect_of(url)
        try:
            # One for the store's own thread, the others for those who ask.
            self._engine: Engine = sa.create_engine(
                url,
                poolclass=sa.QueuePool,
                pool_size=2,
                max_overflow=2,
                pool_timeout=_dialect.LOCK_PATIENCE,
                **self.dialect.options(url),
            )
        except ModuleNotFoundError as error:
            raise ImportError(self.dialect.needs) from error
        self._closed = False
        self._linked = self.dialect.attach(self._engine, durable)
        self._readers = self.dialect.readers(self._engine)
        self._writers = self._engine.execution_options(**{_dialect.WRITES: True})
        self._alone = self.dialect.alone(self._writers)

    def reading(self) -> AbstractContextManager[Connection]:
        """Open a transaction that only reads, and sees the database as it is at its first look."""
        return self._transaction(self._readers)

    def writing(self) -> AbstractContextManager[Connection]:
        """Open a transaction that is committed at the end, or rolled back on an error."""
        return self._transaction(self._writers)

    def alone(self) -> AbstractContextManager[Connection]:
        """Open a connection that executes one statement, which commits by itself if it can."""
        return self._transaction(self._alone)

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        try:
            with engine.connect() as connection:
                try:
                    with connection.begin():
                        yield connection
                except FAULTS as error:
                    self._drop(connection, error)
                    raise
        finally:
            # Whichever comes later, this or the other call in `close`, finds the connection.
            if self._closed:
                self._engine.pool.dispose()

    def _drop(self, connection: Connection, error: Exception) -> None:
        """Drop a server's connection after a fault that may be its own.

        One that was opened while the server could only be read stays so for ever, and one to a
        server that has become a standby never writes again. The next one may do better.
        """
        if not (self.dialect.is_local or self.is_data_fault(error) or self.is_busy(error)):
            connection.invalidate(error)

    def link(self, clock: SystemClock, told: Told) -> Link:
        """Return this process's link, which calls *told* when it hears that others have committed.

        There must have been a transaction before.
        """
        return self._linked(clock, told)

    def close(self) -> None:
        """Close every connection; one that is in use, once it is not."""
        self._closed = True
        # Of the pool, not of the engine, which would have another pool from then on: one for each
        # transaction that ends, or begins, at this moment.
        self._engine.pool.dispose()

    def is_data_fault(self, error: BaseException) -> bool:
        """Return whether the database refused the data itself, and would refuse it again.

        When in doubt the database is at fault: missing permissions, missing tables, a full disk.
        Such faults pass.
        """
        told = self.dialect.blames_data(getattr(error, "orig", None))
        if told is not None:
            return told
        # The last is the base of the others, but itself only for what cannot be bound or encoded.
        return isinstance(error, DataError) or type(error) is StatementError

    def is_busy(self, error: BaseException) -> bool:
        """Return whether another process has the lock that was needed."""
        return self.dialect.is_busy(getattr(error, "orig", None))


def why(error: BaseException) -> str:
    """Return the message of a database error in one line."""
    cause: object = getattr(error, "orig", None) or error
    text = str(cause).strip() or type(cause).__name__
    return text.splitlines()[0][:300]
