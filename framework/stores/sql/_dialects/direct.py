"""Statements that a driver executes by itself: those of each batch, of each claim and each look.

SQLAlchemy writes their SQL once. From then on it would only look the text up again and wrap the
answer, which takes as long as the driver itself; on PostgreSQL that was a fifth of the CPU time of
a worker.

Relies on: parameters and columns that the driver takes and returns as they are. A transaction that
SQLAlchemy has begun and ends, so that nothing else differs for whoever uses it; only its events do
not tell of these statements.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

Values: TypeAlias = Mapping[str, Any]  # Any: of a column

_NONE: Final[Values] = {}

NUMBERED: Final = "asyncframe_numbered"
"""An option of an engine: makes a cursor of a connection of its driver that takes values by their
numbers, ``$1``, as the server does. Other cursors of psycopg take a statement of more than 4,096
characters apart each time, which was a tenth of the CPU time of a submission."""

_CURSOR: Final = "asyncframe_cursor"
"""Of what is known of a connection, the cursor for its statements: to make one for each took
psycopg half of the time of a short statement."""

_MANY: Final = 64
"""From how many rows on a cursor is not used again, since it holds what it has found."""


class _Text(NamedTuple):
    """A statement in the words of one driver.

    Attributes:
        words: The statement.
        known: The values that are part of it.
        order: The names of its values in their order; None if the driver takes them by name.
    """

    words: str
    known: Values
    order: Sequence[str] | None

    def given(self, values: Values) -> Any:  # Any: as the driver takes them
        """Return all values for the driver."""
        all_values = {**self.known, **values}
        return all_values if self.order is None else tuple([all_values[one] for one in self.order])


class Direct:
    """One statement. SQLAlchemy executes it all the same if it has lists among its values.

    Args:
        statement: The statement.
    """

    def __init__(self, statement: Any) -> None:  # Any: what can be executed
        self._statement = statement
        # By the name of a dialect; None if the text depends on the values.
        self._texts: dict[str, _Text | None] = {}

    def all(self, connection: Connection, values: Values = _NONE) -> list[Any]:
        """Execute it in a transaction, and return the rows that it finds.

        Raises:
            DBAPIError: If the database fails, as SQLAlchemy raises it.
        """
        found: list[Any] = self._execute(connection, values, _fetched)
        return found

    def count(self, connection: Connection, values: Values = _NONE) -> int:
        """Execute it in a transaction, and return how many rows it has inserted or changed.

        Raises:
            DBAPIError: If the database fails, as SQLAlchemy raises it.
        """
        return int(self._execute(connection, values, _counted))

    def _execute(self, connection: Connection, values: Values, take: Callable[[Any], Any]) -> Any:
        text = self._text(connection)
        if text is None:
            return take(connection.execute(self._statement, values))
        given, dialect = text.given(values), connection.dialect
        try:
            cursor = _cursor_of(connection)
            cursor.execute(text.words, given)
            # SQLite finds a row when it is fetched, and may fail then.
            found = take(cursor)
        except dialect.loaded_dbapi.Error as error:
            is_lost = dialect.is_disconnect(error, connection.connection.driver_connection, None)
            if is_lost:
                connection.invalidate(error)
            raise _wrapped(error, text.words, given, dialect, is_lost) from error
        if cursor.rowcount >= _MANY:
            del connection.info[_CURSOR]
        return found

    def _text(self, connection: Connection) -> _Text | None:
        dialect = connection.dialect
        try:
            return self._texts[dialect.name]
        except KeyError:
            is_numbered = NUMBERED in connection.get_execution_options()
            writer = _numbering(dialect) if is_numbered else dialect
            text = self._texts[dialect.name] = _text_of(self._statement, writer)
            return text


def _cursor_of(connection: Connection) -> Any:  # Any: a module's without types
    cursor = connection.info.get(_CURSOR)
    if cursor is None:
        made, numbered = connection.connection, connection.get_execution_options().get(NUMBERED)
        cursor = made.cursor() if numbered is None else numbered(made.driver_connection)
        connection.info[_CURSOR] = cursor
    return cursor


def _numbering(dialect: sa.Dialect) -> sa.Dialect:
    """Return what writes the same SQL, but for its values."""
    made: Any = copy.copy(dialect)  # Any: of attributes that SQLAlchemy sets when it makes one
    made.paramstyle, made.positional = "numeric_dollar", True
    # It doubles percent signs, or does not.
    made.identifier_preparer = made.preparer(made)
    return made  # type: ignore[no-any-return]


def _fetched(cursor: Any) -> Any:
    return cursor.fetchall()


def _counted(cursor: Any) -> Any:
    return cursor.rowcount


def _text_of(statement: Any, dialect: sa.Dialect) -> _Text | None:
    compiled = statement.compile(dialect=dialect)
    if any(one.expanding for one in compiled.binds.values()):
        return None
    known = {name: value for name, value in compiled.params.items() if value is not None}
    return _Text(str(compiled), known, compiled.positiontup if compiled.positional else None)


def _wrapped(
    error: Exception, words: str, given: Any, dialect: sa.Dialect, is_lost: bool
) -> BaseException:
    """Return an error of a driver as SQLAlchemy would raise it."""
    base = dialect.loaded_dbapi.Error
    return DBAPIError.instance(
        words, given, error, base, connection_invalidated=is_lost, dialect=dialect
    )
