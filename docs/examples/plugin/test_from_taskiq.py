"""A test that used InMemoryBroker, as it is written here."""

from __future__ import annotations

import asyncio

import pytest

from framework import TaskStatus, background_task
from pytest_asyncframe.probe import Probe


@background_task
async def add_one(value: int) -> int:
    """Take a second."""
    await asyncio.sleep(1)
    return value + 1


@background_task
async def add_two(value: int) -> None:
    """Have it added by two tasks of its own."""
    add_one(value)
    add_one(value)


async def test_add_one(asyncframe: Probe) -> None:
    """Where kiq() gave a task and wait_result() its result, the call gives an id."""
    task = await asyncframe.completed(add_one(1))

    assert task.result == 2


async def test_add_two(asyncframe: Probe) -> None:
    """Where the broker's wait_all() was awaited, settled() is."""
    add_two(1)
    await asyncframe.settled()

    asyncframe.assert_submitted(add_one, 1, times=2)


@pytest.mark.asyncframe(mode="manual")
async def test_before_it_runs(asyncframe: Probe) -> None:
    """Where await_inplace decided when a task runs, the executor does."""
    task_id = add_one(1)
    asyncframe.assert_transitions(task_id, "pending")

    asyncframe.executor.run_next()
    await asyncframe.clock.run_for(1)
    task = await asyncframe.completed(task_id)

    assert task.status is TaskStatus.COMPLETED
