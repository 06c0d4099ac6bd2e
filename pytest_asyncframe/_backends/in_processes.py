"""Back ends whose tasks run in other processes, which import the test's app."""

from __future__ import annotations

import json
import threading
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import ClassVar

from framework import TaskManager
from framework.protocols import TaskRecord
from framework.testing import (
    bare_function,
    call_of,
    is_in_place,
    registered_functions,
    set_up_apps,
)
from pytest_asyncframe._backends.back_end import BackEnd
from pytest_asyncframe._backends.processes.apps import file_of, name_of_app, why_local
from pytest_asyncframe._backends.processes.task_process import TaskProcess
from pytest_asyncframe._backends.processes.working import KNOWN


class InProcesses(BackEnd):
    """A back end that starts a process for each app that a test sets up.

    Args:
        app: The app that they import, ``module:app``; "" for those of the test.
    """

    runs: ClassVar[str]
    """The command that runs tasks of an app, for messages."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._processes: dict[str, TaskProcess] = {}
        self._known: set[str] = set()
        self._used = ExitStack()

    @abstractmethod
    def start(self, what: str, app: str, file: str) -> TaskProcess:
        """Return the process of an app, which prints the names of its functions; see `working`.

        Args:
            what: What it is, for messages.
            app: The app, ``module:app``.
            file: The file of its module; "" if unknown.
        """

    @contextmanager
    def used(self) -> Iterator[ExitStack]:
        """Watch the processes inside the block; yield what is to be left with it."""
        with self._used:
            yield self._used

    @property
    def failure(self) -> str:
        """Which process has ended, and what it has written; "" if none has."""
        return next(filter(None, (one.failure for one in self._processes.values())), "")

    def admit(self, manager: TaskManager, record: TaskRecord) -> TaskRecord:
        """Start the process of the app, and refuse a task that it could not run.

        Raises:
            RuntimeError: If it could not, or does not start.
        """
        if is_in_place(record):
            return record
        fn = bare_function(call_of(record).fn)
        reason = why_local(fn)
        if reason:
            raise RuntimeError(
                f"{record.name} cannot run on {self.name}: {reason}, and another process could not "
                "import it; move it to a module that the app imports"
            )
        with self._lock:
            for app in self._apps(manager):
                if app not in self._processes:
                    self._start(app)
        if record.name in registered_functions() and record.name not in self._known:
            apps = " and ".join(self._processes)
            raise RuntimeError(
                f"{record.name} cannot run on {self.name}: '{self.runs} {apps}' does not import "
                f"{fn.__module__}, so it would never run; import it in the app's module"
            )
        return record

    def _apps(self, manager: TaskManager) -> list[str]:
        """Return the names of the apps that the test has set up.

        Raises:
            RuntimeError: If there is none, or one that no other process can import.
        """
        if self._app:
            return [self._app]
        apps = [(app, name_of_app(app)) for app in set_up_apps(manager)]
        names = [name for _, name in apps if name is not None]
        if not apps or len(names) < len(apps):
            what = "this test has set up no app" if not apps else "no module has the test's app"
            raise RuntimeError(
                f"{what}, so that no other process could import it: make it a variable of a "
                "module, or name the app in the ini file: asyncframe_app = shop.main:app"
            )
        return names

    def _start(self, app: str) -> None:
        file = "" if app == self._app else file_of(app)
        process = self._processes[app] = self.start(f"{self.runs} {app}", app, file)
        self._used.enter_context(process.watched(self.on_failure))
        self._known.update(json.loads(process.line(KNOWN)))
