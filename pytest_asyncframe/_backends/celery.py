"""The back end of Celery: the test's process publishes to a broker, and a Celery worker runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from pytest_asyncframe._backends.back_end import Parts, require_modules
from pytest_asyncframe._backends.in_processes import InProcesses
from pytest_asyncframe._backends.names import Backend
from pytest_asyncframe._backends.processes.task_process import TaskProcess
from pytest_asyncframe._backends.session import Servers


class OnCelery(InProcesses):
    """A Redis, a file of SQLite, and for each app a Celery worker, which the tests share."""

    name: ClassVar[Backend] = "celery"
    runs = "celery worker of"

    def __init__(self, servers: Servers) -> None:
        require_modules("celery", "celery", "redis")
        require_modules("sql", "sqlalchemy")
        super().__init__(servers.app)
        self._servers = servers
        self._redis = servers.redis

    @contextmanager
    def opened(self) -> Iterator[Parts]:
        """Bring a store in a new file, and an engine whose tasks the workers run."""
        from framework.stores.sql import SQLStore  # only if it is used
        from pytest_asyncframe._backends.processes.celery_side import engine_at  # as above

        with tempfile.TemporaryDirectory(prefix="asyncframe-") as folder, self.used():
            store = SQLStore(f"sqlite:///{Path(folder, 'tasks.db')}")
            yield Parts(store, engine_at(self._redis, self._servers.token))

    def start(self, what: str, app: str, file: str) -> TaskProcess:
        """Return the worker of an app, which is started if no test before has."""
        from pytest_asyncframe._backends.processes.celery_side import (
            environment,
        )  # only if it is used

        module = "pytest_asyncframe._backends.processes.celery_side:celery_app"
        command = ["celery", "-A", module, "worker", "--loglevel", "WARNING", "--concurrency", "2"]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        variables = environment(self._redis, self._servers.token, app, file)
        return self._servers.kept((self.name, app), lambda: TaskProcess(what, command, variables))
