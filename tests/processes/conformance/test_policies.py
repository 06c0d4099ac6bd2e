"""Retries and throttles, on every backend."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from framework import RateLimitExceededError, TaskManager, TaskStatus
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import Heard
from tests.processes.conformance.tasks import ShopError


async def test_retried_until_it_succeeds(manager: TaskManager) -> None:
    """A function that fails twice and then succeeds has succeeded, at its third attempt."""
    task_id = tasks.flaky(2)
    assert await manager.get_result(task_id, timeout=PATIENCE) == 3
    task = await manager.get_task(task_id)
    assert task is not None
    assert (task.status, task.attempts) == (TaskStatus.COMPLETED, 3)


async def test_retried_coroutine(manager: TaskManager) -> None:
    """A coroutine function is retried as well."""
    assert await manager.get_result(tasks.flaky_on_loop(1), timeout=PATIENCE) == 2


async def test_not_failing(manager: TaskManager) -> None:
    """A function that succeeds at once is run once."""
    assert await manager.get_result(tasks.flaky(0), timeout=PATIENCE) == 1


async def test_retries_run_out(manager: TaskManager) -> None:
    """The last attempt's error is the task's."""
    task_id = tasks.flaky(9)
    with pytest.raises(ConnectionError, match="attempt 4"):
        await manager.get_result(task_id, timeout=PATIENCE)
    task = await manager.get_task(task_id)
    assert task is not None
    assert (task.status, task.attempts) == (TaskStatus.FAILED, 4)


async def test_retries_of_a_coroutine_run_out(manager: TaskManager) -> None:
    """The same for a coroutine function."""
    with pytest.raises(ConnectionError, match="attempt 3"):
        await manager.get_result(tasks.flaky_on_loop(9), timeout=PATIENCE)


async def test_what_is_not_retried(manager: TaskManager) -> None:
    """An error of another class ends the task at its first attempt."""
    task_id = tasks.stubborn()
    with pytest.raises(ShopError):
        await manager.get_result(task_id, timeout=PATIENCE)
    task = await manager.get_task(task_id)
    assert task is not None
    assert task.attempts == 1


async def test_delays(manager: TaskManager, heard: Heard) -> None:
    """Retries have events with the delays of the policy, and are counted."""
    task_id = tasks.flaky(3)
    await heard.event(task_id, "completed")
    told = [event for event in heard.events if event.kind == "retrying"]
    assert [event.delay for event in told] == pytest.approx([0.02, 0.04, 0.08])
    assert [str(event.error) for event in told] == ["attempt 1", "attempt 2", "attempt 3"]
    assert manager.get_stats()["retrying"] == 3
    assert heard.of(task_id).count("started") == 1


async def test_over_the_rate(manager: TaskManager) -> None:
    """A call over the rate fails with when to come back."""
    key = uuid4().hex
    ids = [tasks.limited(key) for _ in range(3)]
    ended = await asyncio.gather(
        *(manager.get_result(one, timeout=PATIENCE) for one in ids), return_exceptions=True
    )
    refused = [one for one in ended if isinstance(one, RateLimitExceededError)]
    assert len(refused) == 1
    assert (refused[0].rate_limit, refused[0].time_window) == (2, 600.0)
    assert 0 < refused[0].retry_after <= 600.0
    assert sorted(map(str, (one for one in ended if one not in refused))) == [key, key]


async def test_waiting_for_a_place(manager: TaskManager) -> None:
    """Calls that wait all come through, never more than the rate in any window."""
    key = uuid4().hex
    ids = [tasks.patient(key) for _ in range(6)]
    moments = sorted(
        await asyncio.gather(*(manager.get_result(one, timeout=PATIENCE) for one in ids))
    )
    assert all(
        # Counted a moment before the body reads the clock.
        later - earlier >= 0.2 - 0.05
        for earlier, later in zip(moments, moments[2:], strict=False)
    )


async def test_waiting_coroutines(manager: TaskManager, heard: Heard) -> None:
    """Coroutines wait for a throttle's slot too, and have an event for it."""
    key = uuid4().hex
    ids = [tasks.patient_on_loop(key) for _ in range(3)]
    await asyncio.gather(*(manager.get_result(one, timeout=PATIENCE) for one in ids))
    throttled = {event.task_id for event in heard.events if event.kind == "throttled"}
    # The first waits too if a shared store answers so late that its call is counted anew.
    assert len(throttled) >= 2
