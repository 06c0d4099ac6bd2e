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
    driver_of = direct._driver_of

    def note(_: Any, __: Any, statement: str, values: Any, *___: Any) -> None:
        told(statement, values)

    def heard(connection: sa.Connection) -> Any:
        driver = driver_of(connection)
        return _Heard(driver, told) if connection.engine.pool is engine.pool else driver

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(direct, "_driver_of", heard)
            yield
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


class _Heard:
    """A connection of a driver that tells what it executes."""

    def __init__(self, driver: Any, told: Callable[[str, Any], object]) -> None:
        self._driver = driver
        self._told = told

    def execute(self, statement: str, values: Any) -> Any:
        """Tell of a statement, and execute it."""
        self._told(statement, values)
        return self._driver.execute(statement, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)
