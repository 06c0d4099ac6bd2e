"""The back end of worker processes: the test only submits, and ``asyncframe worker`` runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from framework import TaskManager
from framework.protocols import TaskRecord
from framework.testing import follow, is_in_place, mirror
from pytest_asyncframe._backends.back_end import Parts, require_modules
from pytest_asyncframe._backends.in_processes import InProcesses
from pytest_asyncframe._backends.names import Backend
from pytest_asyncframe._backends.processes.task_process import TaskProcess
from pytest_asyncframe._backends.session import Servers


class OnWorkers(InProcesses):
    """A file of SQLite, and a process of ``asyncframe worker`` for each app."""

    name: ClassVar[Backend] = "workers"
    runs = "asyncframe worker"

    def __init__(self, servers: Servers) -> None:
        require_modules("sql", "sqlalchemy")
        super().__init__(servers.app)
        self._url = ""

    @contextmanager
    def opened(self) -> Iterator[Parts]:
        """Bring a store in a new file, and end the processes that work on it."""
        from framework.stores.sql import SQLStore  # only if it is used

        with tempfile.TemporaryDirectory(prefix="asyncframe-") as folder, self.used():
            self._url = f"sqlite:///{Path(folder, 'tasks.db')}"
            yield Parts(SQLStore(self._url, durable=True), offers=True)

    def start(self, what: str, app: str, file: str) -> TaskProcess:
        """Start a worker on the store."""
        command = ["pytest_asyncframe._backends.processes.working", app, file, self._url]
        process = TaskProcess(what, command)
        self._used.callback(process.close)
        return process

    def admit(self, manager: TaskManager, record: TaskRecord) -> TaskRecord:
        """Return a record that lasts: that of the manager ends with the submission."""
        kept = super().admit(manager, record)
        return kept if is_in_place(record) else mirror(kept)

    def follow(self, manager: TaskManager, record: TaskRecord, told: Callable[[], object]) -> None:
        """Keep a task's record up to date, and call *told* after each change."""
        self._used.callback(follow(manager, record, told))
