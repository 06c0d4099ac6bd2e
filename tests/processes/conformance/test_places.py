"""Unique tasks, and tasks of which only some run at a time, on every backend."""

from __future__ import annotations

import pytest

from framework import Task, TaskManager, TaskStatus
from framework.exceptions import DuplicateTaskError, TaskCancelledError
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import Backend, Heard


def key(pipe: str) -> str:
    """Return the key of all calls."""
    return "key"


async def known(manager: TaskManager, task_id: str) -> Task:
    """Return a task that is known."""
    task = await manager.get_task(task_id)
    assert task is not None
    return task


async def test_one_at_a_time(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """A unique call that has not ended is used instead of another one, and then there is a new."""
    gate = backend.gate()
    first = await manager.submit(tasks.hold, (gate.path,), unique=True)
    await heard.event(first, "started")
    assert await manager.submit(tasks.hold, (gate.path,), unique=True) == first
    gate.open("one")
    assert await manager.get_result(first, timeout=PATIENCE) == "one"
    second = await manager.submit(tasks.hold, (gate.path,), unique=True)
    assert second != first
    gate.open("two")
    assert await manager.get_result(second, timeout=PATIENCE) == "two"


async def test_other_arguments(backend: Backend, manager: TaskManager) -> None:
    """Calls with other arguments are other tasks."""
    gates = backend.gate(), backend.gate()
    ids = [await manager.submit(tasks.hold, (gate.path,), unique=True) for gate in gates]
    assert len(set(ids)) == 2
    for task_id, gate in zip(ids, gates, strict=True):
        gate.open()
        await manager.get_result(task_id, timeout=PATIENCE)


async def test_a_duplicate_is_refused(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """The error of a duplicate names the task that exists."""
    gate = backend.gate()
    first = await manager.submit(tasks.hold, (gate.path,), unique=True)
    await heard.event(first, "started")
    with pytest.raises(DuplicateTaskError) as caught:
        await manager.submit(tasks.hold, (gate.path,), unique=True, on_duplicate="raise")
    assert caught.value.task_id == first
    gate.open()
    await manager.get_result(first, timeout=PATIENCE)


@pytest.mark.usefixtures("patient_cancel")
async def test_a_task_is_replaced(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """A task that replaces another one starts when that one has ended CANCELLED."""
    first = await manager.submit(tasks.hold_on_loop, unique=True)
    await heard.event(first, "started")
    second = await manager.submit(tasks.hold_on_loop, unique=True, on_duplicate="replace")
    assert second != first
    with pytest.raises(TaskCancelledError):
        await manager.get_result(first, timeout=PATIENCE)
    await heard.event(second, "started")
    kinds = [(event.task_id, event.kind) for event in heard.events]
    assert kinds.index((first, "cancelled")) < kinds.index((second, "started"))
    await manager.cancel_task(second)


async def test_some_at_a_time(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """Of the tasks of one key, as many run as may; the next one starts when one has ended."""
    gates = [backend.gate() for _ in range(3)]
    first, second = [
        await manager.submit(tasks.hold, (gate.path,), max_running=1, key=key) for gate in gates[:2]
    ]
    await heard.event(first, "started")
    assert (await known(manager, second)).status is TaskStatus.PENDING
    other = await manager.submit(tasks.hold, (gates[2].path,), max_running=1, key=str)
    if backend.name != "memory+subprocess":  # its child runs one task at a time
        await heard.event(other, "started")
        assert (await known(manager, second)).status is TaskStatus.PENDING
    for task_id, number in ((first, 0), (other, 2), (second, 1)):
        gates[number].open()
        await manager.get_result(task_id, timeout=PATIENCE)


@pytest.mark.usefixtures("patient_cancel")
async def test_cancelled_while_it_waits(
    backend: Backend, manager: TaskManager, heard: Heard
) -> None:
    """A task that is cancelled while it waits for a place never starts, and holds up nobody."""
    gates = [backend.gate() for _ in range(3)]
    first, second, third = [
        await manager.submit(tasks.hold, (gate.path,), max_running=1, key=key) for gate in gates
    ]
    await heard.event(first, "started")
    assert await manager.cancel_task(second) is True
    gates[0].open()
    gates[2].open()
    await manager.get_result(third, timeout=PATIENCE)
    assert "started" not in heard.of(second)


async def test_a_failure_gives_its_place_back(manager: TaskManager) -> None:
    """Tasks that fail give their places back."""
    ids = [await manager.submit(tasks.fail, max_running=1) for _ in range(3)]
    for task_id in ids:
        with pytest.raises(ValueError, match=r"no such thing"):
            await manager.get_result(task_id, timeout=PATIENCE)
