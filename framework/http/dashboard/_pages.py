"""Pages of the list, filtered."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from framework._manager.face.manager import TaskManager
from framework._tasks.records import TaskStatus
from framework._tasks.task import Task


@dataclass(frozen=True, slots=True)
class Found:
    """Some of the tasks that match.

    Attributes:
        tasks: The tasks, the newest first.
        total: How many match in all.
    """

    tasks: list[Task]
    total: int


async def find(
    manager: TaskManager,
    *,
    status: Collection[TaskStatus] = (),
    name: str | None = None,
    search: str | None = None,
    offset: int = 0,
    limit: int,
) -> Found:
    """Return tasks among the newest 1,000; an empty *status* stands for all."""
    text = (search or "").casefold()
    page = await manager.list_tasks(name=name or None, limit=1_000)
    matching = [
        task
        for task in page.tasks
        if (not status or task.status in status)
        and text in f"{task.task_id}\n{task.name}\n{task.description}".casefold()
    ]
    return Found(matching[offset : offset + limit], len(matching))
