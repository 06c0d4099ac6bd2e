"""Access: which tasks a request may see, and how much of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from framework._manager.face.manager import TaskManager
from framework._manager.frameworks import require_core
from framework._tasks.task import Task
from framework.exceptions import TaskNotFoundError


@dataclass(frozen=True, slots=True)
class Access:
    """What the routes of one router show.

    Attributes:
        owner: Returns whom the tasks of a request belong to; None if all tasks are shown.
        expose_errors: Whether the messages of errors are shown.
    """

    owner: Callable[[Request], str | None] | None = None
    expose_errors: bool = False

    def manager(self) -> TaskManager:
        """Return the manager of the request's app."""
        manager = require_core().manager
        assert isinstance(manager, TaskManager)
        return manager

    def owner_of(self, request: Request) -> str | None:
        """Return whom the tasks of a request belong to; None for nobody."""
        return None if self.owner is None else self.owner(request)

    async def task(self, request: Request, task_id: str) -> Task:
        """Return a task that the request may see.

        Raises:
            TaskNotFoundError: If the id is unknown, or the task belongs to somebody else.
        """
        task = await self.manager().get_task(task_id)
        if task is None:
            raise TaskNotFoundError(task_id)
        return task
