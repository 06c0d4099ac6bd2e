"""The backend of a conformance test: each test runs once on each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from framework import TaskManager
from tests.processes.conformance.backends import Backend, Heard

NAMES = ("memory+local", "sqlite+local", "postgres+local", "sqlite+celery")


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """One way to keep and to run tasks."""
    name: str = request.param
    kept, run = name.split("+")
    made = Backend(name, tmp_path)
    if kept != "memory":
        from framework.stores.sql import SQLStore

        url: str = request.getfixturevalue(f"{kept}_url")
        made.store = lambda: SQLStore(url)
    if run == "celery":
        made.engine = request.getfixturevalue("conformance_engine")
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
