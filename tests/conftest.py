"""Fixtures for every test: a clock that stands still, and a framework on it."""

from __future__ import annotations

import faulthandler
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


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """End the process although a failed test has left a pool's thread blocked."""
    faulthandler.dump_traceback_later(60, exit=True)
