"""What the connections of an engine execute, also what SQLAlchemy's events do not tell of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from framework.stores.sql._dialects import direct


@contextmanager
def hearing(engine: sa.Engine, told: Callable[[str, Any], object]) -> Iterator[None]:
    """Call *told* with each statement and its values, before it is executed."""
    cursor_of = direct._cursor_of

    def note(_: Any, __: Any, statement: str, values: Any, *___: Any) -> None:
        told(statement, values)

    def heard(connection: sa.Connection) -> Any:
        cursor = cursor_of(connection)
        return _Heard(cursor, told) if connection.engine.pool is engine.pool else cursor

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(direct, "_cursor_of", heard)
            yield
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


class _Heard:
    """A cursor of a driver that tells what it executes."""

    def __init__(self, cursor: Any, told: Callable[[str, Any], object]) -> None:
        self._cursor = cursor
        self._told = told

    def execute(self, statement: str, values: Any) -> None:
        """Tell of a statement, and execute it."""
        self._told(statement, values)
        self._cursor.execute(statement, values)

    def executemany(self, statement: str, values: Any) -> None:
        """Tell of a statement with all its values, and execute it."""
        self._told(statement, values)
        self._cursor.executemany(statement, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)
