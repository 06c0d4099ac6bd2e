"""The back end of worker processes: the test only submits, and ``asyncframe worker`` runs."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from framework import TaskManager
from framework.protocols import TaskRecord
from framework.testing import bare_function, call_of, follow, is_in_place, mirror, set_up_apps
from pytest_asyncframe._backends.apps import file_of, name_of_app, why_local
from pytest_asyncframe._backends.back_end import BackEnd, Parts, require_modules
from pytest_asyncframe._backends.names import Backend
from pytest_asyncframe._backends.process import TaskProcess
from pytest_asyncframe._backends.session import Servers
from pytest_asyncframe._backends.working import KNOWN


class OnWorkers(BackEnd):
    """A file of SQLite, and a process of ``asyncframe worker`` for each app."""

    name: ClassVar[Backend] = "workers"

    def __init__(self, servers: Servers) -> None:
        require_modules("sql", "sqlalchemy")
        self._named = servers.app
        self._url = ""
        self._lock = threading.Lock()
        self._processes: dict[str, TaskProcess] = {}
        self._known: set[str] = set()
        self._unfollow: list[Callable[[], object]] = []

    @contextmanager
    def opened(self) -> Iterator[Parts]:
        """Bring a store in a new file, and end the processes that work on it."""
        from framework.stores.sql import SQLStore  # only if it is used

        with tempfile.TemporaryDirectory(prefix="asyncframe-") as folder:
            self._url = f"sqlite:///{Path(folder, 'tasks.db')}"
            try:
                yield Parts(SQLStore(self._url, durable=True), offers=True)
            finally:
                for stop in self._unfollow:
                    stop()
                for process in self._processes.values():
                    process.close()

    @property
    def failure(self) -> str:
        """Which worker process has ended, and what it has written; "" if none has."""
        return next(filter(None, (one.failure for one in self._processes.values())), "")

    def admit(self, manager: TaskManager, record: TaskRecord) -> TaskRecord:
        """Start the app's worker, and refuse a task that it could not run.

        Raises:
            RuntimeError: If it could not, or does not start.
        """
        if is_in_place(record):
            return record
        fn = bare_function(call_of(record).fn)
        reason = why_local(fn)
        if reason:
            raise RuntimeError(
                f"{record.name} cannot run on workers: {reason}, and a worker process could not "
                "import it; move it to a module that the app imports"
            )
        with self._lock:
            for name in self._names(manager):
                if name not in self._processes:
                    self._processes[name] = self._start(name)
        if record.name not in self._known:
            apps = " and ".join(self._processes)
            raise RuntimeError(
                f"{record.name} cannot run on workers: 'asyncframe worker {apps}' does not import "
                f"{fn.__module__}, so it would never run; import it in the app's module"
            )
        return mirror(record)

    def follow(self, manager: TaskManager, record: TaskRecord, told: Callable[[], object]) -> None:
        """Keep a task's record up to date, and call *told* after each change."""
        self._unfollow.append(follow(manager, record, told))

    def _names(self, manager: TaskManager) -> list[str]:
        """Return the names of the apps that the test has set up.

        Raises:
            RuntimeError: If there is none, or one that no other process can import.
        """
        if self._named:
            return [self._named]
        apps = [(app, name_of_app(app)) for app in set_up_apps(manager)]
        names = [name for _, name in apps if name is not None]
        if not apps or len(names) < len(apps):
            what = "this test has set up no app" if not apps else "no module has the test's app"
            raise RuntimeError(
                f"{what}, so that no worker process could import it: make it a variable of a "
                "module, or name the app in the ini file: asyncframe_app = shop.main:app"
            )
        return names

    def _start(self, name: str) -> TaskProcess:
        what = f"asyncframe worker {name}"
        file = "" if name == self._named else file_of(name)
        command = ["pytest_asyncframe._backends.working", name, file, self._url]
        process = TaskProcess(what, command, {}, self.on_failure)
        try:
            self._known.update(json.loads(process.line(KNOWN)))
        except BaseException:  # raised again
            process.close()
            raise
        return process
