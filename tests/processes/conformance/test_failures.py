"""What becomes of failures on every backend: one line in the log, and another run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from framework import TaskManager, TaskNotFoundError, TaskStatus
from framework.exceptions import RunAgainError
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import Backend, Heard
from tests.processes.conformance.tasks import ShopError


async def test_a_failure_is_logged_once(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """A failure for which nobody waits has one line at ERROR, in the process that ran the task.

    A worker that has a log writes it there, and the app writes none.
    """
    async with backend.run() as manager:
        heard = Heard(manager)
        task_id = tasks.fail("own")
        await heard.event(task_id, "failed")
        manager.cleanup_completed_tasks(0)
    lines = [one for one in caplog.records if task_id in one.getMessage()]
    errors = [one.getMessage() for one in lines if one.levelno >= logging.ERROR]
    assert len(errors) == (0 if getattr(backend.engine, "logs_failures", False) else 1)
    assert all("fail) failed: ShopError: ('tea', 3)" in line for line in errors)


async def test_a_failed_task_runs_again(manager: TaskManager, tmp_path: Path) -> None:
    """A new task has the arguments and the options of the old one, and says which it repeats."""
    first = await manager.submit(
        tasks.fail_once, (tmp_path / "marker", 7), {"factor": 3}, description="the first"
    )
    with pytest.raises(ShopError, match=r"^\('not yet', 7\)$"):
        await manager.get_result(first, timeout=PATIENCE)
    second = await manager.run_again(first)
    assert await manager.get_result(second, timeout=PATIENCE) == 21
    old, new = await manager.get_task(first), await manager.get_task(second)
    assert old is not None
    assert new is not None
    assert second != first
    assert (new.run_again_of, old.run_again_of) == (first, None)
    assert (new.name, new.description) == (old.name, "the first")
    assert old.status is TaskStatus.FAILED
    page = await manager.failed()
    assert [task.task_id for task in page.tasks if task.task_id in (first, second)] == [first]


async def test_what_cannot_run_again(manager: TaskManager) -> None:
    """A task that completed or is live, and an id that is unknown, are refused."""
    done = await manager.submit(tasks.add, (1,))
    await manager.get_result(done, timeout=PATIENCE)
    with pytest.raises(
        RunAgainError,
        match=r"^task '\w{32}' \(.*\.add\) cannot be run again: it completed, and the "
        r"arguments of such tasks are not kept$",
    ):
        await manager.run_again(done)
    waiting = await manager.submit(tasks.add, (1,), delay=3_600)
    with pytest.raises(
        RunAgainError,
        match=r"^task '\w{32}' \(.*\.add\) cannot be run again: it is pending; wait until "
        r"it has ended$",
    ):
        await manager.run_again(waiting)
    assert await manager.cancel_task(waiting)
    with pytest.raises(TaskNotFoundError, match=r"^task 'unknown' is unknown: the id is wrong, "):
        await manager.run_again("unknown")
    again = await manager.run_again(waiting)
    assert await manager.get_result(again, timeout=PATIENCE) == 11
