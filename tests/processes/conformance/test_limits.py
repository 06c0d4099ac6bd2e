"""Limits and cancellation, on every backend."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from framework import TaskCancelledError, TaskManager, TaskStatus, TaskTimeoutError
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import Backend, Heard


async def status(manager: TaskManager, task_id: str) -> TaskStatus:
    """Return where a known task stands."""
    task = await manager.get_task(task_id)
    assert task is not None
    return task.status


async def test_coroutine_over_its_limit(manager: TaskManager) -> None:
    """A coroutine over its limit is TIMEOUT, and says which limit."""
    task_id = await manager.submit(tasks.hold_on_loop, timeout=0.3)
    with pytest.raises(TaskTimeoutError) as caught:
        await manager.get_result(task_id, timeout=PATIENCE)
    assert (caught.value.task_id, caught.value.limit) == (task_id, 0.3)
    assert await status(manager, task_id) is TaskStatus.TIMEOUT


async def test_blocking_over_its_limit(backend: Backend, manager: TaskManager) -> None:
    """Blocking code over its limit is TIMEOUT at the limit, whatever becomes of it."""
    task_id = await manager.submit(tasks.hold, (backend.gate().path,), timeout=0.3)
    with pytest.raises(TaskTimeoutError):
        await manager.get_result(task_id, timeout=PATIENCE)
    assert await status(manager, task_id) is TaskStatus.TIMEOUT


async def test_within_its_limit(manager: TaskManager) -> None:
    """A limit that is not reached changes nothing."""
    found: Any = await manager.submit(tasks.add, (1,), timeout=10, wait=True)
    assert found == 11


async def test_timed_out_event(manager: TaskManager, heard: Heard) -> None:
    """The event of a passed limit has its error."""
    task_id = await manager.submit(tasks.hold_on_loop, timeout=0.3)
    event = await heard.event(task_id, "timed_out")
    assert isinstance(event.error, TaskTimeoutError)


async def test_waiting_has_its_own_limit(
    backend: Backend, manager: TaskManager, heard: Heard
) -> None:
    """A wait that times out leaves the task as it is."""
    gate = backend.gate()
    task_id = tasks.hold(gate.path)
    await heard.event(task_id, "started")
    with pytest.raises(TimeoutError, match="it goes on"):
        await manager.get_result(task_id, timeout=0.02)
    assert await status(manager, task_id) is TaskStatus.RUNNING
    gate.open("later")
    assert await manager.get_result(task_id, timeout=PATIENCE) == "later"


async def test_cancelled_waiter(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """Cancelling a waiter does not cancel the task."""
    gate = backend.gate()
    task_id = tasks.hold(gate.path)
    await heard.event(task_id, "started")
    waiter = asyncio.ensure_future(manager.get_result(task_id))
    await asyncio.wait([waiter], timeout=0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    gate.open("still")
    assert await manager.get_result(task_id, timeout=PATIENCE) == "still"


async def test_cancel_before_the_start(manager: TaskManager, heard: Heard) -> None:
    """A task that has not begun is CANCELLED, and never begins."""
    task_id = await manager.submit(tasks.add, (1,), delay=60)
    assert await manager.cancel_task(task_id) is True
    assert await status(manager, task_id) is TaskStatus.CANCELLED
    with pytest.raises(TaskCancelledError):
        await manager.get_result(task_id, timeout=PATIENCE)
    assert heard.of(task_id) == ["submitted", "cancelled"]


@pytest.mark.usefixtures("patient_cancel")
async def test_cancel_a_coroutine(manager: TaskManager, heard: Heard) -> None:
    """A running coroutine is cancelled and waited for."""
    task_id = tasks.hold_on_loop()
    await heard.event(task_id, "started")
    assert await manager.cancel_task(task_id) is True
    assert await status(manager, task_id) is TaskStatus.CANCELLED


async def test_cancel_blocking_code(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """Running blocking code is asked and not stopped; what it returns counts."""
    gate = backend.gate()
    task_id = tasks.hold(gate.path)
    await heard.event(task_id, "started")
    assert await manager.cancel_task(task_id) is False
    task = await manager.get_task(task_id)
    assert task is not None
    assert (task.status, task.cancel_requested) == (TaskStatus.RUNNING, True)
    gate.open("anyway")
    assert await manager.get_result(task_id, timeout=PATIENCE) == "anyway"


@pytest.mark.usefixtures("patient_cancel")
async def test_give_way(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """Blocking code that asks, and is not wanted any more, ends CANCELLED."""
    gate = backend.gate()
    task_id = tasks.give_way(gate.path)
    await heard.event(task_id, "started")
    assert await manager.cancel_task(task_id) is False
    gate.open()
    with pytest.raises(TaskCancelledError):
        await manager.get_result(task_id, timeout=PATIENCE)
    assert await status(manager, task_id) is TaskStatus.CANCELLED


async def test_cancel_what_has_ended(manager: TaskManager) -> None:
    """A task that has ended cannot be cancelled, and stays as it is."""
    task_id = tasks.add(1)
    await manager.get_result(task_id, timeout=PATIENCE)
    assert await manager.cancel_task(task_id) is False
    assert await status(manager, task_id) is TaskStatus.COMPLETED


async def test_cancel_what_is_unknown(manager: TaskManager) -> None:
    """An unknown task cannot be cancelled."""
    assert await manager.cancel_task("0" * 32) is False
