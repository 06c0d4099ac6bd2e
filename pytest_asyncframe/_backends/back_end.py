"""What one test runs on: which parts its framework has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

import pytest

from framework import TaskManager
from framework.protocols import Interceptor, TaskEngine, TaskRecord, TaskStore
from pytest_asyncframe._backends.names import Backend


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of the framework of one test that its back end brings.

    Attributes:
        store: Where its tasks are kept; None for memory.
        engine: What runs them; None for the process of the test.
        offers: Whether it leaves them to other processes; see `override_framework`.
        interceptor: Takes part in them; None for the recorder of the test.
    """

    store: TaskStore | None = None
    engine: TaskEngine | None = None
    offers: bool = False
    interceptor: Interceptor | None = None

    @property
    def are_elsewhere(self) -> bool:
        """Whether its tasks run in other processes."""
        return self.offers or self.engine is not None


class BackEnd:
    """What one test runs on; this one is memory."""

    name: ClassVar[Backend] = "memory"
    """What it is called in the marker."""
    on_failure: Callable[[], object] = staticmethod(lambda: None)
    """Called on another thread when `failure` is set."""

    @property
    def failure(self) -> str:
        """Why tasks will not end any more; "" while they may."""
        return ""

    def require_end(self, has_ended: bool) -> None:
        """Check after a wait that what it was for has ended.

        Raises:
            RuntimeError: If it never will.
        """
        failure = self.failure
        if failure and not has_ended:
            raise RuntimeError(f"tasks of this test will not end: {failure}")

    @contextmanager
    def opened(self) -> Iterator[Parts]:
        """Bring its parts, which are new, empty and nobody else's; called once."""
        yield Parts()

    def admit(self, manager: TaskManager, record: TaskRecord) -> TaskRecord:
        """Return the record to keep of a task that is about to be accepted.

        What it raises refuses the task.
        """
        return record

    def follow(self, manager: TaskManager, record: TaskRecord, told: Callable[[], object]) -> None:
        """Keep the record of an accepted task up to date, if that runs in another process.

        Args:
            manager: The manager of the test.
            record: What `admit` has returned.
            told: Called after each change, on any thread.
        """


def require_modules(extra: str, *names: str) -> None:
    """Skip the test if a module is not installed, which an extra of asyncframe brings."""
    for name in names:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed: install the extra '{extra}' of asyncframe")
