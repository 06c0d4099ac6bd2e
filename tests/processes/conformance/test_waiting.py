"""Why tasks wait, and what a request to cancel one is answered, on every backend."""

from __future__ import annotations

import re
from uuid import uuid4

import pytest

from framework import CancelOutcome, Task, TaskCancelledError, TaskManager, TaskStatus
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import CARRYING, SPAN, Backend, Heard
from tests.tiers import back_ends
from tests.words import timeless

# The engine of the documentation does not pass on why its child waits.
TELLS_OF_PAUSES = pytest.mark.parametrize("backend", back_ends(CARRYING), indirect=True)


async def known(manager: TaskManager, task_id: str) -> Task:
    """Return a task that is known."""
    task = await manager.get_task(task_id)
    assert task is not None
    return task


async def told(manager: TaskManager, task_id: str) -> str:
    """Return why a task waits, which to_dict() and get_all_tasks() say as well."""
    task = await known(manager, task_id)
    assert task.to_dict()["reason"] == task.reason
    return timeless(task.reason)


async def test_delayed(manager: TaskManager, heard: Heard) -> None:
    """A delayed task says until when; a request to cancel it is answered at once, and it ends."""
    task_id = await manager.submit(tasks.add, (1,), delay=30)
    assert (await known(manager, task_id)).status is TaskStatus.PENDING
    assert re.fullmatch(f"delayed until T, in {SPAN}", await told(manager, task_id))
    answer = await manager.request_cancel(task_id)
    assert str(answer) == "cancelled: it had not started, and never will"
    task = await known(manager, task_id)
    assert (task.status, task.to_dict()["cancel"]) == (TaskStatus.CANCELLED, "cancelled")
    with pytest.raises(TaskCancelledError, match=f"^task '{task_id}' .*was cancelled$"):
        await manager.get_result(task_id, timeout=PATIENCE)
    assert heard.of(task_id) == ["submitted", "cancelled"]


@pytest.mark.usefixtures("patient_cancel")
@TELLS_OF_PAUSES
async def test_between_attempts(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """A task between two attempts says which failed with what, and when the next is due."""
    task_id = tasks.soon_again()
    await heard.event(task_id, "retrying")
    words = rf"attempt 1 of 4 failed with ConnectionError{{}}; the next at T, in {SPAN}"
    assert re.fullmatch(words.format(""), await told(manager, task_id))
    task = await known(manager, task_id)
    assert re.fullmatch(words.format(": smtp is down"), timeless(task.explain()))
    assert task.last_error == "ConnectionError: smtp is down"
    assert task.to_dict()["last_error_type"] == "ConnectionError"
    answer = await manager.request_cancel(task_id)
    ended = await known(manager, task_id)
    assert (ended.to_dict()["cancel"], answer.outcome) == ("cancelled", CancelOutcome.CANCELLED)


@pytest.mark.usefixtures("patient_cancel")
@TELLS_OF_PAUSES
async def test_throttled(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """A task that waits for a throttle names it, and says when its slot is free."""
    key = uuid4().hex
    await manager.get_result(tasks.now_and_then(key), timeout=PATIENCE)
    second = tasks.now_and_then(key)
    await heard.event(second, "throttled")
    name = re.escape(f"{tasks.__name__}.now_and_then")
    words = rf"throttle {name} 1/59 s is full; next slot in {SPAN}"
    assert re.fullmatch(words, await told(manager, second))
    assert (await manager.request_cancel(second)).outcome is CancelOutcome.CANCELLED


@pytest.mark.usefixtures("patient_cancel")
async def test_a_thread_is_asked(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """A function on a thread is asked to stop; if it does, the task shows it afterwards."""
    gate = backend.gate()
    task_id = tasks.give_way(gate.path)
    await heard.event(task_id, "started")
    answer = await manager.request_cancel(task_id)
    asked = "its thread cannot be stopped; it stops where it calls check_cancelled()"
    assert str(answer) == f"asked: {asked}"
    task = await known(manager, task_id)
    assert (task.reason, task.to_dict()["cancel"]) == (f"asked to cancel: {asked}", "asked")
    gate.open()
    with pytest.raises(TaskCancelledError, match=f"^task '{task_id}' .*was cancelled$"):
        await manager.get_result(task_id, timeout=PATIENCE)
    ended = await known(manager, task_id)
    assert (ended.status, ended.to_dict()["cancel"]) == (TaskStatus.CANCELLED, "cancelled")
    again = await manager.request_cancel(task_id)
    assert str(again) == "cancelled: it was cancelled before"
    assert await manager.cancel_task(task_id) is False


@pytest.mark.usefixtures("patient_cancel")
async def test_a_thread_goes_on(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """A function that does not ask completes; the request was in vain, and the task shows it."""
    gate = backend.gate()
    task_id = tasks.hold(gate.path)
    await heard.event(task_id, "started")
    assert (await manager.request_cancel(task_id)).outcome is CancelOutcome.ASKED
    gate.open()
    await manager.get_result(task_id, timeout=PATIENCE)
    assert (await known(manager, task_id)).to_dict()["cancel"] == "cannot"
    answer = await manager.request_cancel(task_id)
    assert str(answer) == "cannot: it has ended: completed"


@pytest.mark.usefixtures("patient_cancel")
async def test_a_coroutine_is_cancelled(manager: TaskManager, heard: Heard) -> None:
    """A running coroutine is cancelled and waited for, and the answer and the task agree."""
    task_id = tasks.hold_on_loop()
    await heard.event(task_id, "started")
    answer = await manager.request_cancel(task_id)
    assert str(answer) == "cancelled: it was running, and has stopped"
    task = await known(manager, task_id)
    assert (task.status, task.to_dict()["cancel"]) == (TaskStatus.CANCELLED, "cancelled")
