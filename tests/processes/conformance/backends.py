"""Stores and engines that the conformance suite runs on, and what a test may ask of them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from framework import TaskManager, get_task_manager, setup_async_framework
from framework._records.records import TaskEvent
from framework.protocols import TaskEngine, TaskStore
from tests.patience import PATIENCE

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"

NAMES = (
    "memory+local",
    "sqlite+local",
    "postgres+local",
    "sqlite+celery",
    "jsonl+local",
    "memory+subprocess",
)
"""Where a test of the suite runs: what keeps its tasks, and what runs them."""

CARRYING = tuple(name for name in NAMES if name != "memory+subprocess")
"""Those whose engine carries more than a task's call, and tells more than how it ended."""

SPAN = r"\d+(\.\d)? m?s"
"""Matches how long something has taken, in words."""

LIMIT = 15.0
"""Limit in seconds of tasks without one of their own; a remote engine needs one."""


def example(name: str) -> ModuleType:
    """Import an example of the documentation, once."""
    full = f"conformance_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


class Gate:
    """A named pipe that a task reads a line from, in whatever process it runs.

    Attributes:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        if not hasattr(os, "mkfifo"):
            pytest.skip("Windows has no named pipes in folders")
        os.mkfifo(path)
        self.path = str(path)
        # For reading as well, so that neither side need wait for the other to open it, and
        # a line stays in the pipe until somebody reads it.
        self._number: int | None = os.open(path, os.O_RDWR)

    def open(self, text: str = "") -> None:
        """Let one reader go on, with *text*."""
        assert self._number is not None
        os.write(self._number, f"{text}\n".encode())

    def close(self) -> None:
        """Let every reader go on, with nothing."""
        if self._number is not None:
            os.close(self._number)
            self._number = None


@dataclass
class Backend:
    """One way to keep and to run tasks.

    Attributes:
        name: What it is called in test ids and in the table of differences.
        store: Makes the store; None for memory.
        engine: The engine; None for the local one.
        folder: A folder of the test's own.
    """

    name: str
    folder: Path
    store: Callable[[], TaskStore] | None = None
    engine: TaskEngine | None = None
    gates: list[Gate] = field(default_factory=list)

    @property
    def keeps_json(self) -> bool:
        """Whether results are kept as JSON and read back by annotation."""
        return self.store is not None or self.remote

    @property
    def remote(self) -> bool:
        """Whether tasks run in worker processes."""
        return self.engine is not None

    @asynccontextmanager
    async def run(self, **options: Any) -> AsyncIterator[TaskManager]:
        """Run a framework on this backend."""
        made = None if self.store is None else self.store()
        async with setup_async_framework(
            None, store=made, engine=self.engine, graceful_shutdown_timeout=5.0,
            **({"task_timeout": LIMIT} | options),
        ):  # fmt: skip
            try:
                yield get_task_manager()
            finally:
                for gate in self.gates:
                    gate.close()

    def gate(self) -> Gate:
        """Make a gate, which opens at the end of the test at the latest."""
        made = Gate(self.folder / f"gate-{len(self.gates)}")
        self.gates.append(made)
        return made


class Heard:
    """The events of one manager, and a way to wait for one of them."""

    def __init__(self, manager: TaskManager) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self.events: list[TaskEvent] = []
        manager.subscribe(self._hear)

    def _hear(self, event: TaskEvent) -> None:
        self.events.append(event)
        self._loop.call_soon_threadsafe(self._changed.set)

    def of(self, task_id: str) -> list[str]:
        """Return the kinds of events of a task, in order."""
        return [event.kind for event in self.events if event.task_id == task_id]

    async def event(self, task_id: str, kind: str) -> TaskEvent:
        """Suspend until an event of this kind has come for a task."""
        async with asyncio.timeout(PATIENCE):
            while True:
                self._changed.clear()
                for event in list(self.events):
                    if event.task_id == task_id and event.kind == kind:
                        return event
                await self._changed.wait()
