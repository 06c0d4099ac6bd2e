"""A test with the probe that sleeps; `sleeps` has it run by pytest, as a user would."""

from __future__ import annotations

import pytest

from benchmarks import sleeps
from pytest_asyncframe.probe import Probe


@pytest.mark.parametrize("tasks", [1, sleeps.MANY])
async def test_sleeps(asyncframe: Probe, tasks: int) -> None:
    """Sleeping in virtual time takes exactly the time that it should."""
    sleeps.report(await sleeps.on_asyncio(tasks))
