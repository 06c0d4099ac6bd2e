"""The backend of a conformance test: each test runs once on each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework import TaskManager
from framework.protocols import RemoteEngine
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import NAMES, Backend, Heard, example
from tests.tiers import back_ends


@pytest.fixture(params=back_ends(NAMES))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """One way to keep and to run tasks."""
    name: str = request.param
    kept, run = name.split("+")
    made = Backend(name, tmp_path)
    if kept == "jsonl":
        made.store = lambda: example("jsonl_store").JsonLinesStore(tmp_path / "tasks.jsonl")
    elif kept != "memory":
        from framework.stores.sql import SQLStore

        url: str = request.getfixturevalue(f"{kept}_url")
        made.store = lambda: SQLStore(url)
    if run != "local":
        made.engine = request.getfixturevalue(f"{run}_conformance_engine")
    return made


@pytest.fixture
async def manager(backend: Backend) -> AsyncIterator[TaskManager]:
    """The manager of a framework that runs on the backend."""
    async with backend.run() as manager:
        yield manager


@pytest.fixture
async def heard(manager: TaskManager) -> Heard:
    """What the manager tells of its tasks."""
    return Heard(manager)


@pytest.fixture(scope="session")
def spare_children() -> Iterator[list[Any]]:
    """Child processes of the documentation's engine that have nothing to do."""
    spare: list[Any] = []
    yield spare
    for child in spare:
        child.kill()
        child.join()


@pytest.fixture
def subprocess_conformance_engine(spare_children: list[Any]) -> RemoteEngine:
    """The documentation's engine, whose child goes on from one test to the next.

    One child, since the windows of throttles are each child's own.
    """
    module: Any = example("subprocess_engine")

    class Engine(module.SubprocessEngine):  # type: ignore[misc]  # imported by its path
        def start_child(self) -> Any:
            child = spare_children.pop() if spare_children else super().start_child()
            child.engine = self
            return child

        def stop_child(self, child: Any) -> None:
            if child.task is None and not child.inner:
                spare_children.append(child)
            else:
                super().stop_child(child)

    engine: RemoteEngine = Engine([tasks.__name__], processes=1)
    return engine
