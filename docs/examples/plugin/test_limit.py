"""Tasks with a time limit, and tests for them."""

from __future__ import annotations

import asyncio
import time

import pytest

from framework import TaskStatus, TaskTimeoutError, background_task
from pytest_asyncframe.probe import Probe


@background_task(timeout=5)
def render(seconds: float) -> str:
    """Sleep on a thread."""
    time.sleep(seconds)
    return "a picture"


@background_task(timeout=5)
async def fetch(seconds: float) -> str:
    """Sleep in a coroutine."""
    await asyncio.sleep(seconds)
    return "a page"


def test_in_time(asyncframe: Probe) -> None:
    """A task that takes less than 5 seconds completes."""
    assert asyncframe.run_until_complete(render(4.9)).result == "a picture"


def test_too_late(asyncframe: Probe) -> None:
    """A task that takes longer is TIMEOUT after exactly 5 seconds."""
    with pytest.raises(TaskTimeoutError):
        asyncframe.run_until_complete(render(60))

    assert asyncframe.clock.monotonic() == 5


async def test_too_late_as_a_coroutine(asyncframe: Probe) -> None:
    """A coroutine is cancelled at its limit; with check=False nothing is raised."""
    asyncframe.expect_failure(fetch, TaskTimeoutError)
    task = await asyncframe.completed(fetch(60), check=False)

    assert task.status is TaskStatus.TIMEOUT
    assert task.duration == 5
