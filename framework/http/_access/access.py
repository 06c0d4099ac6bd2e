"""Access: which tasks a request may see, and how much of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from framework._manager.face.looking import find_task
from framework._manager.face.manager import TaskManager
from framework._manager.frameworks import require_core
from framework._manager.inside import without_places
from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus
from framework._tasks.task import Task
from framework.exceptions import TaskNotFoundError
from framework.http._access.owners import answer_of, is_used, use, use_late


@dataclass(frozen=True, slots=True)
class Access:
    """What the routes of one router show.

    Attributes:
        owner: Returns whom the tasks of a request belong to; None if all tasks are shown.
        expose_errors: Whether the messages of errors are shown.
    """

    owner: Callable[[Request], str | None] | None = None
    expose_errors: bool = False

    def begin(self, app: object) -> None:
        """Called when the framework of *app* starts, which has the router or mounts one with it.

        Raises:
            ValueError: If another router there has another function.
        """
        if self.owner is not None:
            use(self.owner)

    def manager(self) -> TaskManager:
        """Return the manager of the request's app."""
        manager = require_core().manager
        assert isinstance(manager, TaskManager)
        return manager

    def owner_of(self, request: Request) -> str | None:
        """Return whom the tasks of a request belong to; None for no owner.

        Raises:
            TypeError: If that is not a string.
            ValueError: If it is no possible owner, or another router of the app has another
                function.
        """
        if self.owner is None:
            return None
        if not is_used(self.owner):
            use_late(self.owner)
        return answer_of(self.owner, request)

    async def task(self, request: Request, task_id: str) -> Task:
        """Return a task that the request may see.

        Its reason is as `shown` has it.

        Raises:
            TaskNotFoundError: If the id is unknown, or the task belongs to somebody else.
        """
        sees = None if self.owner is None else _belongs_to(self.owner_of(request))
        task = await find_task(require_core(), task_id, sees)
        if task is None:
            raise TaskNotFoundError(task_id)
        return self.shown(task)

    def shown(self, task: Task) -> Task:
        """Return a task as the router shows it: to owners without its position in the queue."""
        return task if self.owner is None else without_places(task)

    async def stats(self, request: Request) -> dict[str, int]:
        """Return how many tasks there are of each status that the request may see, and in all."""
        counts = dict.fromkeys(map(str, TaskStatus), 0)
        manager, owner = self.manager(), self.owner_of(request)
        if self.owner is None:
            figures = manager.get_stats()
            counts = {status: figures[status] for status in counts}
        elif owner is not None:
            for status in counts:
                page = await manager.list_tasks(status=status, owner=owner, limit=1)
                counts[status] = page.total
        return {"submitted": sum(counts.values()), **counts}


def _belongs_to(owner: str | None) -> Callable[[TaskRecord], bool]:
    """Return a test for the tasks of *owner*; without an owner no task passes it."""
    return lambda record: owner is not None and record.owner == owner
