"""Limits and cancellation, on every backend."""

from __future__ import annotations

import asyncio

import pytest

from framework import TaskManager, TaskStatus, TaskTimeoutError
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import Backend, Heard

PASSED = r"^task .* ran past its time limit of 0\.3 s$"


async def status(manager: TaskManager, task_id: str) -> TaskStatus:
    """Return where a known task stands."""
    task = await manager.get_task(task_id)
    assert task is not None
    return task.status


async def test_coroutine_over_its_limit(manager: TaskManager, heard: Heard) -> None:
    """A coroutine over its limit is TIMEOUT; the waiter and the event say which limit."""
    task_id = await manager.submit(tasks.hold_on_loop, timeout=0.3)
    with pytest.raises(TaskTimeoutError, match=PASSED) as caught:
        await manager.get_result(task_id, timeout=PATIENCE)
    assert (caught.value.task_id, caught.value.limit) == (task_id, 0.3)
    assert await status(manager, task_id) is TaskStatus.TIMEOUT
    event = await heard.event(task_id, "timed_out")
    assert isinstance(event.error, TaskTimeoutError)


async def test_blocking_over_its_limit(backend: Backend, manager: TaskManager) -> None:
    """Blocking code over its limit is TIMEOUT at the limit, whatever becomes of it."""
    task_id = await manager.submit(tasks.hold, (backend.gate().path,), timeout=0.3)
    with pytest.raises(TaskTimeoutError, match=PASSED):
        await manager.get_result(task_id, timeout=PATIENCE)
    assert await status(manager, task_id) is TaskStatus.TIMEOUT


async def test_waiters_that_give_up(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """A wait that times out or is cancelled leaves the task as it is."""
    gate = backend.gate()
    task_id = tasks.hold(gate.path)
    await heard.event(task_id, "started")
    with pytest.raises(
        TimeoutError,
        match=r"^task \w{32} \(.*\.hold\) is running after 0 s of waiting; it goes on$",
    ):
        await manager.get_result(task_id, timeout=0)
    waiter = asyncio.ensure_future(manager.get_result(task_id))
    await asyncio.wait([waiter], timeout=0)
    waiter.cancel()
    await asyncio.wait([waiter])
    assert waiter.cancelled()
    assert await status(manager, task_id) is TaskStatus.RUNNING
    gate.open("later")
    assert await manager.get_result(task_id, timeout=PATIENCE) == "later"


@pytest.mark.usefixtures("patient_cancel")
async def test_cancel(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """cancel_task() says whether the task has stopped; `test_waiting` asks for the rest."""
    gate = backend.gate()
    done, delayed = tasks.add(1), await manager.submit(tasks.add, (1,), delay=3_600)
    await manager.get_result(done, timeout=PATIENCE)
    assert (await manager.cancel_task(done), await manager.cancel_task(delayed)) == (False, True)
    on_loop = tasks.hold_on_loop()
    await heard.event(on_loop, "started")
    assert await manager.cancel_task(on_loop) is True
    on_thread = tasks.hold(gate.path)
    await heard.event(on_thread, "started")
    assert await manager.cancel_task(on_thread) is False
    stopped, blocked = await manager.get_task(on_loop), await manager.get_task(on_thread)
    assert stopped is not None
    assert blocked is not None
    assert (stopped.status, stopped.cancel_requested) == (TaskStatus.CANCELLED, True)
    assert (blocked.status, blocked.cancel_requested) == (TaskStatus.RUNNING, True)
    assert await status(manager, done) is TaskStatus.COMPLETED
    gate.open("anyway")
    assert await manager.get_result(on_thread, timeout=PATIENCE) == "anyway"
