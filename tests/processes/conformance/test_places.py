"""Unique tasks, and limits on how many run, on every backend."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from framework import DuplicateTaskError, TaskManager, TaskStatus
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import Backend, Heard


async def test_a_unique_task_is_shared(manager: TaskManager, backend: Backend) -> None:
    """Submissions with the same arguments give one task, until it has ended."""
    key, gate = uuid4().hex, backend.gate()
    first = await manager.submit(tasks.only_one, (key, gate.path))
    again = await manager.submit(tasks.only_one, kwargs={"key": key, "pipe": gate.path})
    other = await manager.submit(tasks.only_one, (f"not {key}", gate.path), delay=60)
    assert first == again
    assert first != other
    assert await manager.cancel_task(other)
    gate.open("done")
    assert await manager.get_result(first, timeout=PATIENCE) == "done"
    gate.open("anew")
    assert await manager.submit(tasks.only_one, (key, gate.path), wait=True) == "anew"


async def test_a_call_is_shared_too(manager: TaskManager, backend: Backend) -> None:
    """A decorated call on the loop gives the id of the task that this process has already."""
    key, gate = uuid4().hex, backend.gate()
    first = tasks.only_one_on_loop(key, gate.path)
    second = tasks.only_one_on_loop(key, gate.path)
    assert first == second
    gate.open("done")
    assert await manager.get_result(first, timeout=PATIENCE) == "done"


async def test_a_duplicate_is_refused(manager: TaskManager, backend: Backend) -> None:
    """With "raise" the error has the id of the task that is there."""
    key, gate = uuid4().hex, backend.gate()
    first = await manager.submit(tasks.only_one, (key, gate.path))
    with pytest.raises(DuplicateTaskError) as caught:
        await manager.submit(tasks.only_one, (key, gate.path), on_duplicate="raise")
    assert caught.value.task_id == first
    gate.open()
    await manager.get_result(first, timeout=PATIENCE)


async def test_a_pending_task_is_replaced(manager: TaskManager, backend: Backend) -> None:
    """With "replace" a task that waits never starts, and the new one runs."""
    key, gate = uuid4().hex, backend.gate()
    first = await manager.submit(tasks.only_one, (key, gate.path), delay=60)
    second = await manager.submit(tasks.only_one, (key, gate.path), on_duplicate="replace")
    gate.open("second")
    assert await manager.get_result(second, timeout=PATIENCE) == "second"
    task = await manager.get_task(first)
    assert task is not None
    assert (task.status, task.started_at) == (TaskStatus.CANCELLED, None)


async def test_only_as_many_run(
    manager: TaskManager, heard: Heard, backend: Backend, tmp_path: Path
) -> None:
    """Of the tasks of a key as many run as it may have, in the order of their submission."""
    key, log = uuid4().hex, tmp_path / "log"
    gates = [backend.gate() for _ in range(4)]
    ids = [
        await manager.submit(tasks.two_of_a_key, (key, number, gate.path, str(log)))
        for number, gate in enumerate(gates)
    ]
    await heard.event(ids[0], "started")
    waiting = await manager.get_task(ids[-1])
    assert waiting is not None
    assert waiting.status is TaskStatus.PENDING
    assert waiting.reason.startswith("waits for a place")
    for gate in gates:
        gate.open()
    for task_id in ids:
        await manager.get_result(task_id, timeout=PATIENCE)
    running = most = 0
    for line in log.read_text("utf-8").splitlines():
        running += 1 if line.startswith("start") else -1
        most = max(most, running)
    assert most <= 2
