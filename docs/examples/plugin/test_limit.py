"""Tasks with a limit, and tests of what becomes of them."""

from __future__ import annotations

import asyncio
import time

import pytest

from framework import TaskStatus, TaskTimeoutError, background_task
from pytest_asyncframe.probe import Probe


@background_task(timeout=5)
def render(seconds: float) -> str:
    """Take so long."""
    time.sleep(seconds)
    return "a picture"


@background_task(timeout=5)
async def fetch(seconds: float) -> str:
    """Take so long, as a coroutine."""
    await asyncio.sleep(seconds)
    return "a page"


def test_in_time(asyncframe: Probe) -> None:
    """What takes less than 5 seconds is done."""
    assert asyncframe.run_until_complete(render(4.9)).result == "a picture"


def test_too_late(asyncframe: Probe) -> None:
    """What takes longer is given up after 5 seconds, to the digit."""
    with pytest.raises(TaskTimeoutError):
        asyncframe.run_until_complete(render(60))

    assert asyncframe.clock.monotonic() == 5


async def test_too_late_as_a_coroutine(asyncframe: Probe) -> None:
    """A coroutine is cancelled at its limit; check=False gives the task and raises nothing."""
    asyncframe.expect_failure(fetch, TaskTimeoutError)
    task = await asyncframe.completed(fetch(60), check=False)

    assert task.status is TaskStatus.TIMEOUT
    assert task.duration == 5
