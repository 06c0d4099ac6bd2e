"""Back ends that keep tasks in a database, and run them in the process of the test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from pytest_asyncframe._backends.back_end import BackEnd, Parts, require_modules
from pytest_asyncframe._backends.names import Backend
from pytest_asyncframe._backends.session import Servers


class OnSQLite(BackEnd):
    """A file of SQLite."""

    name: ClassVar[Backend] = "sqlite"

    def __init__(self, _: Servers) -> None:
        require_modules("sql", "sqlalchemy")

    @contextmanager
    def opened(self) -> Iterator[Parts]:
        """Bring a store in a new file."""
        from framework.stores.sql import SQLStore  # only if it is used

        with tempfile.TemporaryDirectory(prefix="asyncframe-") as folder:
            yield Parts(SQLStore(f"sqlite:///{Path(folder, 'tasks.db')}"))


class OnPostgreSQL(BackEnd):
    """A database of PostgreSQL."""

    name: ClassVar[Backend] = "postgresql"

    def __init__(self, servers: Servers) -> None:
        require_modules("postgresql", "sqlalchemy", "psycopg")
        self._databases = servers.postgresql

    @contextmanager
    def opened(self) -> Iterator[Parts]:
        """Bring a store in an empty database."""
        from framework.stores.sql import SQLStore  # only if it is used

        with self._databases.database() as name:
            yield Parts(SQLStore(self._databases.url(name)))
