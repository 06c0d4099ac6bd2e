"""Tests that used InMemoryBroker before."""

from __future__ import annotations

import asyncio

import pytest

from framework import TaskStatus, background_task
from pytest_asyncframe.probe import Probe


@background_task
async def add_one(value: int) -> int:
    """Add one, in a second."""
    await asyncio.sleep(1)
    return value + 1


@background_task
async def add_two(value: int) -> None:
    """Add two, by submitting two other tasks."""
    add_one(value)
    add_one(value)


async def test_add_one(asyncframe: Probe) -> None:
    """Call the function instead of kiq(), and wait with completed()."""
    task = await asyncframe.completed(add_one(1))

    assert task.result == 2


async def test_add_two(asyncframe: Probe) -> None:
    """Use settled() instead of the broker's wait_all()."""
    add_two(1)
    await asyncframe.settled()

    asyncframe.assert_submitted(add_one, 1, times=2)


@pytest.mark.asyncframe(mode="manual")
async def test_before_it_runs(asyncframe: Probe) -> None:
    """Use the executor instead of await_inplace to decide when a task runs."""
    task_id = add_one(1)
    asyncframe.assert_transitions(task_id, "pending")

    asyncframe.executor.run_next()
    await asyncframe.clock.run_for(1)
    task = await asyncframe.completed(task_id)

    assert task.status is TaskStatus.COMPLETED
