"""Fixtures for every test of the framework: a clock that stands still, and a framework on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from framework import TaskManager, get_task_manager
from framework.testing import override_framework
from tests.framework.clocks import ManualClock


@pytest.fixture
def manual_clock() -> ManualClock:
    """Return a clock that only the test moves."""
    return ManualClock()


@pytest.fixture
def task_manager(request: pytest.FixtureRequest) -> Iterator[TaskManager]:
    """Give the manager on `task_clock` where a test asks for that, else on `manual_clock`."""
    if "task_clock" in request.fixturenames:
        yield get_task_manager()
        return
    with override_framework(clock=request.getfixturevalue("manual_clock")) as manager:
        yield manager
