"""What faults are tried with: one thread, threads aside, a held body, a clock for races."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from framework import TaskManager, ThreadPoolExecutorEnhanced
from framework.testing import override_framework
from tests.framework.bodies import Held
from tests.framework.racing import RacingClock


@pytest.fixture
def racing_clock() -> RacingClock:
    """Give a clock that waits for no thread."""
    return RacingClock()


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """Give threads that have nothing to do with the framework."""
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture
def one_worker() -> Iterator[TaskManager]:
    """Give a manager whose pool, a real one, has one thread."""
    with (
        ThreadPoolExecutorEnhanced(max_workers=1) as pool,
        override_framework(pool=pool) as manager,
    ):
        yield manager


@pytest.fixture
def held_body() -> Iterator[Held]:
    """Give a body that runs until the test ends at the latest."""
    held = Held()
    yield held
    held.go_on.set()
