"""Threads and a clock for races that a test forces."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

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
