"""A new task has all its fields: one that is not set raises AttributeError when it is read."""

from __future__ import annotations

from contextvars import copy_context

from framework import TaskManager
from framework._records.ids import TaskId
from framework._records.records import TaskRecord
from framework._tasks.live import LiveTask, new_task


def unset(task: LiveTask) -> list[str]:
    """Return the names of the fields that are not set."""
    names = [*TaskRecord.__slots__, *LiveTask.__slots__]
    return [name for name in names if not hasattr(task, name)]


async def test_every_field_is_set(task_manager: TaskManager) -> None:
    """A task of this process has every field, and so has one of another process."""
    core = task_manager._core
    task_id = task_manager.submit_nowait(print, delay=5.0)
    own = core.ledger.find_live(task_id)
    assert own is not None
    other = new_task(TaskId("other"), own.spec, copy_context(), own.home, 1.0, 2.0)

    # Given to it, read where it is submitted, or of the delay and the sinks.
    differ = {"task_id", "context", "created", "queued", "created_at", "code", "instruction"}
    differ |= {"loop", "rest", "outbox"}

    assert (unset(own), unset(other)) == ([], [])
    names = {*TaskRecord.__slots__, *LiveTask.__slots__} - differ
    assert [name for name in names if getattr(own, name) != getattr(other, name)] == []
    assert unset(LiveTask()) == [*TaskRecord.__slots__, *LiveTask.__slots__]
    assert await task_manager.cancel_task(task_id)
