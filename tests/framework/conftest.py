"""The example app, for tests of several folders."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

from framework._tasks import registry


@pytest.fixture
def example() -> Iterator[ModuleType]:
    """Give the example app; its schedule is run while the test lasts, and not for others."""
    module = importlib.import_module("framework.example")
    schedule = module.heartbeat.__asyncframe_schedule__
    registry.add_schedule(schedule)
    yield module
    registry._SCHEDULES.pop(schedule, None)
