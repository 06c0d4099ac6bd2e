"""Access: whom tasks belong to, which of them a request may see, and how much of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeAlias, cast, get_origin, get_type_hints

from fastapi import Request, params

from framework._manager.face.listing import (
    TaskPage,
    checked_query,
    counts_of,
    ended_between,
    ends_of,
    page_of,
    starts_of,
)
from framework._manager.face.looking import find_task
from framework._manager.face.names import full_name, is_end, unknown_name
from framework._manager.frameworks import require_core
from framework._manager.inside import without_places
from framework._records import checks
from framework._records.ids import TaskId
from framework._records.pages import FIELDS, PageQuery
from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus
from framework._tasks import registry
from framework._tasks.current import OVER, current_scope
from framework._tasks.functions import is_async
from framework._tasks.live import Home, current_home
from framework._tasks.task import Task
from framework._threads.loggers import SafeLogger
from framework.exceptions import TaskNotFoundError
from framework.http._access.dependency import OwnerDependency
from framework.http.views import TaskResponse

_LOGGER = SafeLogger("asyncframe")

OwnerFunction: TypeAlias = Callable[[Request], str | None]


@dataclass(frozen=True, slots=True)
class Access:
    """What the routes of one router show.

    Attributes:
        owner: Returns whom the tasks of a request belong to; None if all tasks are shown.
        expose_errors: Whether the messages of errors are shown.
        csrf_header: Whether requests that change something must have a header, see `marker`.
        view: The app's own response that shows a task; None for a `TaskView`.
    """

    owner: OwnerFunction | None = None
    expose_errors: bool = False
    csrf_header: bool = True
    view: type[TaskResponse] | None = None

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

    async def tasks(self, owner: str | None, /, **query: Any) -> TaskPage:
        """Return a page of the tasks that *owner* sees.

        Args:
            owner: Who asks.
            query: What `TaskManager.list_tasks` takes, and ``without``: names that none has.
        """
        wanted = self._query_of(owner, query)
        if wanted is None:
            return TaskPage([], None, 0)
        page = await page_of(require_core(), wanted)
        return replace(page, tasks=[self.shown(task) for task in page.tasks])

    async def counts(
        self, owner: str | None, by: str = "status", /, **query: Any
    ) -> dict[Any, int]:
        """Return how many tasks of each status *owner* sees, or of each value of another field.

        Args:
            owner: Who asks.
            by: The field; see `counts_of`.
            query: As for `tasks`.
        """
        wanted = self._query_of(owner, query)
        if wanted is None:
            return dict.fromkeys(FIELDS[by].values, 0)
        return await counts_of(require_core(), wanted, by)

    async def ends(
        self, owner: str | None, since: float, width: float, /, **query: Any
    ) -> dict[tuple[int, TaskStatus], int]:
        """Return how many tasks that *owner* sees ended in each span; see `listing.ends_of`."""
        wanted = self._query_of(owner, query)
        if wanted is None:
            return {}
        return await ends_of(require_core(), replace(wanted, ended_since=since), width)

    async def starts(
        self, owner: str | None, since: float, width: float, /, **query: Any
    ) -> dict[int, int]:
        """Return how many tasks that *owner* sees started in each span; see `starts_of`."""
        wanted = self._query_of(owner, query)
        if wanted is None:
            return {}
        return await starts_of(require_core(), wanted, since, width)

    async def unknown_name(self, owner: str | None, name: str) -> str | None:
        """Return the message that nobody knows a name; None if it may be that of a task.

        Owners are told the names of their own tasks alone.
        """
        wanted = self._query_of(owner, {})
        if wanted is None:
            return None
        seen = await counts_of(require_core(), wanted, "name")
        registered = registry.names()
        if full_name(name, seen) is not None or any(is_end(name, one) for one in registered):
            return None
        return unknown_name(name, {*registered, *seen} if self.owner is None else seen)

    def _query_of(self, owner: str | None, asked: Mapping[str, Any]) -> PageQuery | None:
        """Return what *owner* asks for; None if they see no task, as nobody does."""
        query = {"limit": 50, **asked}
        if self.owner is not None:
            if owner is None:
                return None
            query["owner"] = owner
        since, before = query.pop("ended_since", None), query.pop("ended_before", None)
        without = query.pop("without", frozenset())
        wanted = ended_between(require_core(), checked_query(**query), since, before)
        return replace(wanted, without=without)


def _belongs_to(owner: str | None) -> Callable[[TaskRecord], bool]:
    """Return a test for the tasks of *owner*; without an owner no task passes it."""
    return lambda record: owner is not None and record.owner == owner


# -- the owners of tasks that requests submit


class Owners:
    """Finds out whom a new task belongs to, by the owner function of the current app.

    It is installed in a framework. Apps of one test share that, and each has its own function.
    """

    def __init__(self) -> None:
        self.functions: dict[Home | None, OwnerFunction] = {}
        self._has_warned = False
        self._told: set[str] = set()

    def __call__(self) -> str | None:
        """Return the owner of the current request; None without one, and outside of requests."""
        owner, scope = self.functions.get(current_home.get()), current_scope.get()
        if owner is None or scope is None:
            return None
        if OVER in scope:
            # Logged once: a request has started what submits the task.
            if not self._has_warned:
                self._has_warned = True
                _LOGGER.warning(
                    "a task has no owner, since it was submitted by code that a request has "
                    "started and that goes on after its response, perhaps for other users: give it "
                    "an owner, as in submit(..., owner=user)"
                )
            return None
        if scope["type"] != "http":
            # A WebSocket is opened by a GET request: the server leaves out only that it is one.
            scope = {**scope, "type": "http", "method": "GET"}
        found = answer_of(owner, Request(scope))
        route = scope.get("route")
        # Others do not say what they return, and may well start what nobody asks for.
        if found is None and TaskId in (model := _model_of(route), get_origin(model)):
            label = f"{scope['method']} {getattr(route, 'path', scope['path'])}"
            if label not in self._told:
                self._told.add(label)
                _LOGGER.warning(
                    "%s: the task that it has started has no owner, so its id is unknown to "
                    "everybody: %s, or the task an owner, as in "
                    "make_report.options(owner=user)(...)",
                    label,
                    why_nobody(owner),
                )
        return found


def _model_of(route: object) -> object:
    return getattr(route, "response_model", None)


def use(owner: OwnerFunction, *, late: bool = False) -> None:
    """From now on give each task that a request to the current app submits the owner from *owner*.

    Args:
        owner: The function; if it is used already, nothing happens.
        late: Whether this is a request, and not the start: tasks before it had no owner, which is
            logged. While the framework shuts down it accepts no tasks, so that nothing happens.

    Raises:
        FrameworkNotStartedError: If no framework is running here.
        ValueError: If the app, or one that is mounted in it, has another function already.
    """
    core, home = require_core(), current_home.get()
    owners = core.owners.whose
    if isinstance(owners, Owners) and owners.functions.get(home) == owner:
        return
    if late and core.ledger.state != "running":
        return
    if not isinstance(owners, Owners):
        owners = Owners()
        core.owners.own_by(owners)
    if owners.functions.setdefault(home, owner) != owner:
        raise ValueError(
            "the task routers of this app, and of the apps that are mounted in it, have different "
            "functions as owner, but a task has one owner: use the same function for all of them, "
            f"not also {checks.show(owner)}"
        )
    if late:
        _LOGGER.warning(
            "tasks that were submitted until now have no owner, since task_router(owner=...) is "
            "not in the app that the framework was set up for: include it there, and pass that "
            "app to setup_async_framework()"
        )


def answer_of(owner: OwnerFunction, request: Request) -> str | None:
    """Return what a user's function says: whom the tasks of a request belong to.

    Raises:
        TypeError: If that is neither a string nor None.
        ValueError: If the string is empty, too long or not printable.
    """
    found: object = owner(request)
    if inspect.iscoroutine(found):
        found.close()
    return checks.owner("what owner returns", found)


def why_nobody(owner: OwnerFunction | None) -> str:
    """Return why a task may have no owner that a route has accepted, and what the route needs."""
    if isinstance(owner, OwnerDependency):
        return (
            f"the route does not depend on {owner}, or that returned None; give the route "
            f"dependencies=[Depends({owner})]"
        )
    return (
        "the function owner returned None for this request; give the route the same login "
        "dependency as task_router()"
    )


def _cure(owner: object) -> str:
    name = getattr(owner, "__name__", "current_user_id")
    return (
        "it is also called where a task is submitted, with the request alone; for a dependency "
        f"use owner=Depends({name})"
    )


def checked_owner(owner: object) -> OwnerFunction | None:
    """Return *owner* as a function of a request, or None.

    Raises:
        TypeError: If it is neither a plain function of a request, nor a dependency.
    """
    if owner is None:
        return None
    if isinstance(owner, params.Depends):
        return OwnerDependency(owner)
    # What annotates a parameter can be called as well: it would make a string of each request.
    if get_origin(owner) is Annotated:
        names = [
            getattr(one.dependency, "__name__", "current_user_id")
            for one in getattr(owner, "__metadata__", ())
            if isinstance(one, params.Depends)
        ]
        raise TypeError(
            f"owner must be Depends(...) itself, not {checks.show(owner)}, which annotates a "
            f"parameter: use owner=Depends({(names or ['current_user_id'])[0]})"
        )
    if not callable(owner):
        raise TypeError(
            f"owner must be a function of a request, Depends(...) or None, not {checks.show(owner)}"
        )
    if is_async(owner):
        raise TypeError(
            f"owner must be a plain function, not the async {checks.show(owner)}: {_cure(owner)}"
        )
    if _has_depends(owner):
        raise TypeError(f"owner cannot have Depends, as {checks.show(owner)} has: {_cure(owner)}")
    try:
        inspect.signature(owner).bind(None)
    except TypeError as error:
        raise TypeError(
            f"owner must take one argument, the request, not as {checks.show(owner)} does "
            f"({error}): {_cure(owner)}"
        ) from None
    except ValueError:  # a built-in function without a signature
        pass
    return cast(OwnerFunction, owner)


def _has_depends(call: Any) -> bool:
    hints: dict[str, Any] = {}
    # A name may not exist at runtime, and an object has none.
    with suppress(Exception):
        hints = get_type_hints(getattr(call, "__wrapped__", call), include_extras=True)
    extras = [extra for hint in hints.values() for extra in getattr(hint, "__metadata__", ())]
    with suppress(TypeError, ValueError):
        extras += [one.default for one in inspect.signature(call).parameters.values()]
    return any(isinstance(extra, params.Depends) for extra in extras)
