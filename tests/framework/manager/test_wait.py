"""TaskManager.wait: the end of a task, whatever it is, and nothing raised or read."""

from __future__ import annotations

import asyncio
import logging

import pytest

from framework import TaskManager, TaskNotFoundError, TaskStatus, background_task
from pytest_asyncframe.probe import Probe
from tests.framework.running.messages import UNKNOWN


@background_task
async def fail() -> None:
    """Fail."""
    raise LookupError("no such user")


async def test_it_returns_how_the_task_ended(asyncframe: Probe) -> None:
    """The wait suspends until the task has ended, and returns it with its result."""

    async def body() -> int:
        await asyncframe.clock.asleep(30.0)
        return 7

    task = await asyncframe.manager.wait(await asyncframe.manager.submit(body))
    assert (task.status, task.result) == (TaskStatus.COMPLETED, 7)
    assert asyncframe.clock.monotonic() == 30.0


async def test_it_does_not_raise_what_the_task_raised(
    asyncframe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that fails is returned, and its failure counts as unread and is logged."""
    asyncframe.expect_failure(fail, LookupError)
    with caplog.at_level(logging.ERROR, "asyncframe"):
        task = await asyncframe.manager.wait(fail())
    assert task.status is TaskStatus.FAILED
    assert [one.levelname for one in caplog.records] == ["ERROR"]


async def test_it_returns_the_state_when_the_timeout_has_passed(asyncframe: Probe) -> None:
    """After the timeout the task is returned as it is, and nothing waits for it any more."""
    release = asyncio.Event()
    task_id = await asyncframe.manager.submit(release.wait)
    task = await asyncframe.manager.wait(task_id, timeout=5.0)
    assert task.status is TaskStatus.RUNNING
    assert asyncframe.clock.monotonic() == 5.0
    live = asyncframe.manager._core.ledger.find_live(task_id)
    assert live is not None
    assert not live.waiters
    release.set()


async def test_a_cancelled_wait_leaves_nothing(task_manager: TaskManager) -> None:
    """A wait that is cancelled leaves no waiter, and the task goes on."""
    started, release = asyncio.Event(), asyncio.Event()

    async def body() -> str:
        started.set()
        await release.wait()
        return "done"

    task_id = await task_manager.submit(body)
    waiting = asyncio.create_task(task_manager.wait(task_id))
    await started.wait()
    live = task_manager._core.ledger.find_live(task_id)
    assert live is not None
    assert live.waiters
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError, match=r"^$"):
        await waiting
    assert not live.waiters
    release.set()
    assert await task_manager.get_result(task_id) == "done"


async def test_a_finished_task_is_returned_at_once(task_manager: TaskManager) -> None:
    """A task that has ended is returned, also with a timeout of 0."""
    task_id = await task_manager.submit(int, wait=False)
    await task_manager.get_result(task_id)
    assert (await task_manager.wait(task_id, timeout=0)).result == 0


async def test_an_unknown_id(task_manager: TaskManager) -> None:
    """An id that is not known raises TaskNotFoundError."""
    with pytest.raises(TaskNotFoundError, match=UNKNOWN):
        await task_manager.wait("nobody")


@pytest.mark.parametrize("timeout", [-1, float("nan")])
async def test_a_bad_timeout(task_manager: TaskManager, timeout: float) -> None:
    """A timeout that is negative or NaN is refused."""
    with pytest.raises(
        ValueError, match=rf"^timeout must be a number at least 0 or a timedelta, not {timeout!r}$"
    ):
        await task_manager.wait("x", timeout=timeout)
