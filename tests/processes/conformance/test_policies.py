"""Retries and throttles, on every backend."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from framework import RateLimitExceededError, TaskManager, TaskStatus
from framework._manager.inside import record_of
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import Heard
from tests.processes.conformance.tasks import ShopError

WINDOW = 0.2
"""Seconds of the window of `tasks.patient`, which lets two calls through."""

CLOCKS = 0.01
"""Seconds by which the clocks of a throttle and of a task may disagree."""


async def test_retried_until_it_succeeds(manager: TaskManager) -> None:
    """A function is run again until it succeeds, and no more often."""
    ids = {
        "succeeds at once": tasks.flaky(0),
        "fails twice": tasks.flaky(2),
        "fails once, on a loop": tasks.flaky_on_loop(1),
    }
    attempts = {"succeeds at once": 1, "fails twice": 3, "fails once, on a loop": 2}
    found = {name: await manager.get_result(one, timeout=PATIENCE) for name, one in ids.items()}
    assert found == attempts
    for name, task_id in ids.items():
        task = await manager.get_task(task_id)
        assert task is not None
        assert (task.status, task.attempts) == (TaskStatus.COMPLETED, attempts[name])


async def test_retries_run_out(manager: TaskManager) -> None:
    """The last attempt's error is the task's; one that is not retried is so at the first."""
    expected: dict[str, tuple[type[Exception], str, int]] = {
        tasks.flaky(9): (ConnectionError, r"^attempt 4$", 4),
        tasks.flaky_on_loop(9): (ConnectionError, r"^attempt 3$", 3),
        tasks.stubborn(): (ShopError, r"^\('tea', 1\)$", 1),
    }
    for task_id, (error, words, attempts) in expected.items():
        with pytest.raises(error, match=words):
            await manager.get_result(task_id, timeout=PATIENCE)
        task = await manager.get_task(task_id)
        assert task is not None
        assert (task.status, task.attempts) == (TaskStatus.FAILED, attempts)


async def test_delays(manager: TaskManager, heard: Heard) -> None:
    """Retries have events with the delays of the policy, and are counted; they count as waited."""
    task_id = tasks.flaky(3)
    await heard.event(task_id, "completed")
    told = [event for event in heard.events if event.kind == "retrying"]
    assert [event.delay for event in told] == pytest.approx([0.02, 0.04, 0.08])
    assert [str(event.error) for event in told] == ["attempt 1", "attempt 2", "attempt 3"]
    assert manager.get_stats()["retrying"] == 3
    assert heard.of(task_id).count("started") == 1
    task = await manager.get_task(task_id)
    assert task is not None
    assert task.duration is not None
    assert 0.14 - CLOCKS <= record_of(task).slept <= task.duration + CLOCKS


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


@pytest.mark.extended("time")
async def test_waiting_for_a_place(manager: TaskManager) -> None:
    """Calls that wait all come through, in no less time than the rate allows."""
    before = datetime.now(UTC).timestamp()
    for function in (tasks.patient, tasks.patient_on_loop):
        key = uuid4().hex
        ids = [function(key) for _ in range(6)]
        found = await asyncio.gather(*(manager.get_result(one, timeout=PATIENCE) for one in ids))
        # A body may read the clock late, and never before its slot.
        earliest = [before + number // 2 * WINDOW - CLOCKS for number in range(6)]
        assert [one for one in zip(sorted(found), earliest, strict=True) if one[0] < one[1]] == []


async def test_waiting_is_told(manager: TaskManager, heard: Heard) -> None:
    """A call that waits for a throttle's slot has an event for it, on a thread and on a loop."""
    for function in (tasks.now_and_then, tasks.now_and_then_on_loop):
        key = uuid4().hex
        await manager.get_result(function(key), timeout=PATIENCE)
        second = function(key)
        await heard.event(second, "throttled")
        await manager.cancel_task(second)
