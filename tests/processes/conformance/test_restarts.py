"""Tasks that another process may run if their own ends, on every backend."""

from __future__ import annotations

import pytest

from framework import TaskManager, TaskStatus
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import Backend, Heard

AFTER_A_RESTART = {
    "memory+local": None,
    "sqlite+local": TaskStatus.COMPLETED,
    "postgres+local": TaskStatus.COMPLETED,
    "sqlite+celery": TaskStatus.COMPLETED,
    "jsonl+local": TaskStatus.CANCELLED,
    "memory+subprocess": None,
}
"""How a task has ended that was delayed when the app was stopped and started again.

A SQL store keeps it for the next process, and Redis for a worker. Memory forgets, and a file of
JSON lines is only read.
"""


async def test_runs_as_any_other(manager: TaskManager, heard: Heard) -> None:
    """A task that others may run starts, ends and is cancelled as any other."""
    task_id = tasks.requeued(3)
    assert await manager.get_result(task_id, timeout=PATIENCE) == 3
    task = await manager.get_task(task_id)
    assert task is not None
    assert (task.status, task.attempts, task.reason) == (TaskStatus.COMPLETED, 1, "")
    await heard.event(task_id, "completed")
    assert heard.of(task_id) == ["submitted", "started", "completed"]
    delayed = await manager.submit(tasks.requeued, (1,), delay=3_600)
    assert await manager.cancel_task(delayed)
    task = await manager.get_task(delayed)
    assert task is not None
    assert task.status is TaskStatus.CANCELLED


async def test_arguments_that_are_no_json(manager: TaskManager) -> None:
    """What no other process could be told is refused in the caller."""
    with pytest.raises(TypeError, match=r"^argument 'number' of \S+\.requeued does not fit: "):
        tasks.requeued(object())  # type: ignore[arg-type]
    assert manager.get_stats()["submitted"] == 0


@pytest.mark.extended("time")
async def test_delayed_at_a_restart(backend: Backend) -> None:
    """What becomes of a delayed task, and of its meta, when the app stops and starts again."""
    expected = AFTER_A_RESTART[backend.name]
    # Where it is not to run, it may not be due before the app has stopped.
    delay = 1.0 if expected is TaskStatus.COMPLETED else 3_600.0
    async with backend.run() as manager:
        task_id = await manager.submit(tasks.requeued, (4,), delay=delay, meta={"kind": "kept"})
    async with backend.run() as manager:
        if expected is TaskStatus.COMPLETED:
            assert await manager.get_result(task_id, timeout=PATIENCE) == 4
        task = await manager.get_task(task_id)
        assert (None if task is None else task.status) is expected
        assert task is None or task.meta == {"kind": "kept"}
