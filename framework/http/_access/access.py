"""Access: which tasks a request may see, and how much of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any  # the fields of a query

from fastapi import Request

from framework._manager.face.listing import TaskPage, checked_query, counts_of
from framework._manager.face.looking import find_task
from framework._manager.frameworks import get_task_manager, require_core
from framework._manager.inside import without_places
from framework._records.pages import FIELDS
from framework._records.records import TaskRecord
from framework._tasks.task import Task
from framework.exceptions import TaskNotFoundError
from framework.http._access.owners import OwnerFunction, answer_of, use


@dataclass(frozen=True, slots=True)
class Access:
    """What the routes of one router show.

    Attributes:
        owner: Returns whom the tasks of a request belong to; None if all tasks are shown.
        expose_errors: Whether the messages of errors are shown.
    """

    owner: OwnerFunction | None = None
    expose_errors: bool = False

    def begin(self, app: object) -> None:
        """Called when the framework of *app* starts, which has the router or mounts one with it.

        Raises:
            ValueError: If another router there has another function.
        """
        if self.owner is not None:
            use(self.owner)

    def owner_of(self, request: Request) -> str | None:
        """Return whom the tasks of a request belong to; None for no owner.

        Raises:
            TypeError: If that is not a string.
            ValueError: If it is no possible owner, or another router of the app has another
                function.
        """
        if self.owner is None:
            return None
        use(self.owner, late=True)
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

    async def tasks(self, owner: str | None, **query: Any) -> TaskPage:
        """Return a page of the tasks that *owner* sees; see `TaskManager.list_tasks`."""
        own = self._query_of(owner)
        if own is None:
            return TaskPage([], None, 0)
        page = await get_task_manager().list_tasks(**{**query, **own})
        return replace(page, tasks=[self.shown(task) for task in page.tasks])

    async def counts(self, owner: str | None) -> dict[Any, int]:
        """Return how many tasks of each status *owner* sees."""
        own = self._query_of(owner)
        if own is None:
            return dict.fromkeys(FIELDS["status"].values, 0)
        return await counts_of(require_core(), checked_query(**own), "status")

    def _query_of(self, owner: str | None) -> dict[str, Any] | None:
        """Return what all queries of *owner* ask for; None if they see no task, as nobody does."""
        if self.owner is None:
            return {}
        return None if owner is None else {"owner": owner}


def _belongs_to(owner: str | None) -> Callable[[TaskRecord], bool]:
    """Return a test for the tasks of *owner*; without an owner no task passes it."""
    return lambda record: owner is not None and record.owner == owner
