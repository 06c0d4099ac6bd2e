"""Fixtures for every test of the framework: a clock that stands still, and a framework on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from framework import TaskManager
from framework.testing import override_framework
from tests.framework.clocks import ManualClock


@pytest.fixture
def manual_clock() -> ManualClock:
    """Return a clock that only the test moves."""
    return ManualClock()


@pytest.fixture
def task_manager(manual_clock: ManualClock) -> Iterator[TaskManager]:
    """Give a manager on `manual_clock` and real threads, current for this test."""
    with override_framework(clock=manual_clock) as manager:
        yield manager
