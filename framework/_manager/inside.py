"""Inside: what other rooms may see of the objects that users have, and users may not."""

from __future__ import annotations

from typing import Any  # JSON

from framework._manager.core import Core
from framework._manager.face.manager import TaskManager
from framework._records.jsonsafe import jsonable
from framework._records.reasons import facts_of, reason_of
from framework._records.records import TaskRecord
from framework._tasks.task import Task
from framework._threads.crew import Crew
from framework._threads.pool import ThreadPoolExecutorEnhanced


def core_of(manager: TaskManager) -> Core:
    """Return the core of a manager."""
    return manager._core


def crew_of(pool: ThreadPoolExecutorEnhanced) -> Crew:
    """Return the threads of a pool."""
    return pool._crew


def record_of(task: Task) -> TaskRecord:
    """Return the record that a task shows, which is a copy."""
    return task._record


def source_of(task: Task) -> TaskRecord:
    """Return the record that a task is a snapshot of, which changes while the task is live."""
    return task._source


def without_places(task: Task) -> Task:
    """Return a task whose reason does not tell how many tasks of others wait before it."""
    if task._scene is None:
        return task
    scene = task._scene.of_an_owner()
    return Task(task._record, source=task._source, control=task._control, scene=scene)


def short_reason(task: Task) -> str:
    """Return why a task waits or how it ended, without the message of an error."""
    return reason_of(task._record, task._scene, details=False)


def seconds_left(task: Task) -> float | None:
    """Return after how many seconds the wait of a task ends; None if that is unknown."""
    facts = facts_of(task._record.reason)
    if facts is None or facts.until is None or task._scene is None:
        return None
    left: float = facts.until - task._record.wall_second(task._scene.monotonic())
    return left


def state_of(task: Task, *, expose_errors: bool) -> dict[str, Any]:
    """Return a task's state without its result, as valid JSON.

    Args:
        task: The task.
        expose_errors: Whether it has the messages of errors.
    """
    shown = task._state()
    if not expose_errors:
        shown["error_message"] = None
        shown["reason"] = jsonable(short_reason(task))
    return shown
