"""task_router: routes that show, follow and cancel tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response, params
from fastapi.routing import APIRoute

from framework._manager.face.names import SeveralNamesError
from framework._manager.frameworks import get_task_manager
from framework._manager.inside import state_of
from framework._records import checks
from framework._records.statuses import TaskStatus
from framework.exceptions import FrameworkNotStartedError, RunAgainError, TaskNotFoundError
from framework.http._accepting.apps import StatusRoute, StatusRouter
from framework.http._access.access import Access, checked_owner
from framework.http._access.dependency import OwnerDependency
from framework.http._access.marker import marked
from framework.http._access.mounted import warn_of_mistakes
from framework.http._messages import UnknownMessageRoute, add_messages, checked_messages
from framework.http._responses import (
    answer,
    answer_of_task,
    checked_meta,
    ended,
    refused_query,
)
from framework.http._routes import mark_status
from framework.http._streaming.streams import add_stream
from framework.http.dashboard._routes import add_dashboard
from framework.http.views import (
    CancelResult,
    Problem,
    StepList,
    TaskList,
    TaskResponse,
    TaskStarted,
    TaskStats,
    TaskView,
    steps_view,
    unfilled,
)
from framework.steps import Message


def task_router(
    *,
    prefix: str = "/tasks",
    dependencies: Sequence[params.Depends] = (),
    owner: Callable[[Request], str | None] | params.Depends | None = None,
    expose_errors: bool = False,
    csrf_header: bool = True,
    include_in_schema: bool = True,
    buttons: Mapping[str, str] | None = None,
    messages: Sequence[Message[Any]] = (),
    view: type[TaskResponse] | None = None,
) -> APIRouter:
    """Return a router with routes that show, follow and cancel tasks.

    Use it with ``app.include_router(task_router(dependencies=[Depends(...)]))``. Its paths, with
    the default *prefix*, are:

    - ``GET /tasks``: a page of tasks, the newest first.
    - ``GET /tasks/stats``: how many tasks there are of each status.
    - ``GET /tasks/{task_id}``: a task's state and result, see `TaskView`. With ``?wait=10`` it
      answers when the task has ended, after 10 seconds at most, and 60 are allowed.
    - ``GET /tasks/{task_id}/steps``: the task's steps, see `TaskManager.get_steps`.
    - ``GET /tasks/dashboard``: a page that shows all of this in a browser.
    - ``GET /tasks/{task_id}/events``: a stream of the task's states, until it has ended.
    - ``DELETE /tasks/{task_id}``: cancels a task, see `TaskManager.request_cancel`.
    - ``POST /tasks/{task_id}/run-again``: submits the task's call again, see
      `TaskManager.run_again`.

    - ``POST /tasks/{task_id}/messages/{name}``: sends one of *messages* to the task; its body is
      the value in JSON, and a header ``Idempotency-Key`` its key; see `framework.steps.Message`.
      Any other name is answered 404 with the names that there are.

    The last three require the header ``X-Requested-With``, with any value, and answer 403 without
    it. A page of another site cannot send it, so it cannot use a visitor's cookies to cancel tasks.

    Tracebacks and the lines that submitted tasks are never shown, and arguments only where the
    function has ``show_arguments``. Any result is shown as valid JSON. At start, a warning in the
    log names routes without dependencies, and routes that are hidden by earlier ones of the app.

    Args:
        prefix: The beginning of all paths: a path such as ``/tasks``, or "" if you include the
            router with a prefix.
        dependencies: What each request must pass, such as ``[Depends(require_login)]``.
        owner: Says whom the tasks of a request belong to: 1 to 255 printable characters, or None
            for no owner. Either ``Depends(current_user_id)``, for which these routes call the
            function, and those of the app that depend on it; or a plain function of the request,
            which is called where a request submits a task, and by these routes. They show the
            tasks of that owner alone. A task of another owner, or without an owner, is answered
            as if it did not exist. None to show all tasks.
        expose_errors: Whether the messages of errors are shown, and not only their types. They
            may have secrets.
        csrf_header: Whether the routes that change something require ``X-Requested-With``. False is
            safe if every client logs in by a header that it adds itself, such as ``Authorization:
            Bearer ...``; not with cookies, HTTP Basic or client certificates, which browsers send
            on their own, and not if the network alone protects the routes.
        include_in_schema: Whether the routes are in the OpenAPI schema.
        buttons: Buttons of the page: for each label the path of a POST route of the app that
            needs no body, such as ``{"Send a report": "/reports"}``; None for no buttons.
            Everyone who sees the page sees all of them, and the routes say who may use them.
        messages: The kinds of messages that clients may send to their tasks. The page asks for
            them, with a button for each answer if there are few, as of a ``bool``, an ``Enum`` or
            a ``Literal``.
        view: The response of your own that shows a task, see `TaskResponse`, in place of
            `TaskView` and of what `Accepted` has; None for these. Lists and the page show what
            they always do.

    Raises:
        TypeError: If a parameter is of the wrong type, or *owner* is an async function, has
            ``Depends``, or is a dependency that returns no string.
        ValueError: If *prefix* or a path in *buttons* is no path, or two *messages* have one name.
    """
    found = checked_owner(owner)
    keeping = [found.keeping] if isinstance(found, OwnerDependency) else []
    access = Access(
        found,
        checks.flag("expose_errors", expose_errors),
        checks.flag("csrf_header", csrf_header),
        _checked_view(view),
    )
    messages = checked_messages(messages)
    prefix = checks.path_prefix("prefix", prefix)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:  # Any: an app of any kind
        """Tell what is wrong with how the router is mounted, once the app's own lifespan runs."""
        routes = [route for route in router.routes if isinstance(route, APIRoute)]
        # Routes of the app may well come before the refusal of other messages.
        endpoints = {one.endpoint for one in routes if not isinstance(one, UnknownMessageRoute)}
        warn_of_mistakes(app, endpoints)
        yield

    router = StatusRouter(
        prefix=prefix,
        dependencies=[*_checked_dependencies(dependencies), *keeping],
        tags=["tasks"],
        include_in_schema=checks.flag("include_in_schema", include_in_schema),
        generate_unique_id_function=_operation_ids(prefix),
        route_class=StatusRoute,
        lifespan=lifespan,
    )
    add_dashboard(router, access, {} if buttons is None else buttons, messages)
    _add_lists(router, access)
    _add_task(router, access)
    _add_changes(router, access)
    add_messages(router, access, messages)
    add_stream(router, access)
    return router


def _checked_view(view: object) -> type[TaskResponse] | None:
    if view is None:
        return None
    if not (isinstance(view, type) and issubclass(view, TaskResponse)):
        raise TypeError(
            "view must be a model that is derived from framework.http.TaskResponse, or None, not "
            f"{checks.show(view)}"
        )
    if names := unfilled(view):
        raise TypeError(
            f"view must have fields that a task has, not {', '.join(names)} of "
            f"{view.__qualname__}: override from_view, or give the field a default or "
            "validation_alias='task_id'"
        )
    return view


def _checked_dependencies(dependencies: object) -> list[params.Depends]:
    if not isinstance(dependencies, Sequence):
        raise TypeError(
            "dependencies must be a list such as [Depends(require_login)], not "
            f"{checks.show(dependencies)}"
        )
    for one in dependencies:
        if not isinstance(one, params.Depends):
            raise TypeError(
                f"dependencies must be a list of Depends, but {checks.show(one)} is in it: use "
                "Depends(...) with your function"
            )
    return list(dependencies)


def _operation_ids(prefix: str) -> Callable[[APIRoute], str]:
    """Return what names the routes in OpenAPI: ``get_task``, or ``v1_get_task`` below ``/v1``.

    So the names are unique if an app has two routers, and clients generated from them read well.

    Args:
        prefix: The router's own prefix.
    """

    def operation_id(route: APIRoute) -> str:
        tasks = route.path_format.partition("/{task_id}")[0].removesuffix("/stats")
        before = tasks.rpartition(prefix)[0] + prefix if prefix else tasks
        words = "".join(char if char.isalnum() else " " for char in before.removesuffix("/tasks"))
        return "_".join([*words.split(), route.name])

    return operation_id


# -- what OpenAPI has about the routes

_Responses = dict[int | str, dict[str, Any]]

_UNKNOWN: Final[_Responses] = {404: {"model": Problem, "description": "No task has this id"}}
_UNAVAILABLE: Final[_Responses] = {
    503: {"model": Problem, "description": "The store or the broker does not answer"}
}
_REFUSED: Final[_Responses] = {
    409: {"model": Problem, "description": "The task cannot be run again"},
    503: {"model": Problem, "description": "The queue is full, or tasks are unavailable"},
}
_TASK_LOCATION: Final = {
    "Location": {"description": "The URL of the new task", "schema": {"type": "string"}}
}

_Id = Annotated[str, Path(description="The id of a task")]
_AtOnce = Annotated[
    bool, Query(description="Whether one that waits to go on ends as it is: its code does not run")
]
_Wait = Annotated[
    float,
    Query(ge=0, le=60, allow_inf_nan=False, description="Seconds to wait for the task's end"),
]
_Statuses = Annotated[
    list[TaskStatus] | None, Query(description="Only tasks with one of these; may be repeated")
]
_Name = Annotated[
    str | None,
    Query(description="Only tasks of this name, or of the one that ends with it after a dot"),
]
_Label = Annotated[str | None, Query(description="Only tasks with exactly this label")]
_Meta = Annotated[
    str | None,
    Query(
        max_length=2_000,
        description='Only tasks whose meta has all of this JSON object, such as `{"tenant_id": 7}`',
    ),
]
_Search = Annotated[
    str | None,
    Query(max_length=255, description="Only tasks with this in id, name, description or label"),
]
_Limit = Annotated[int, Query(ge=1, le=1_000, description="How many tasks at most")]
_Offset = Annotated[
    int, Query(ge=0, le=1_000_000_000, description="How many of the newest tasks to leave out")
]
_After = Annotated[str | None, Query(description="The `next` of the page before")]


# -- the routes


def _add_lists(router: APIRouter, access: Access) -> None:
    @router.get("", response_model=TaskList, responses=_UNAVAILABLE)
    async def list_tasks(
        request: Request,
        status: _Statuses = None,
        name: _Name = None,
        label: _Label = None,
        meta: _Meta = None,
        search: _Search = None,
        limit: _Limit = 50,
        offset: _Offset = 0,
        after: _After = None,
    ) -> Response:
        """Return a page of tasks, the newest first, without their results."""
        owner, pairs = access.owner_of(request), checked_meta(meta)
        try:
            page = await access.tasks(
                owner,
                status=status or None,
                name=name or None,
                label=label or None,
                meta=pairs,
                search=search,
                limit=limit,
                offset=offset,
                after=after or None,
            )
        except SeveralNamesError as error:
            raise refused_query("name", str(error), name) from None
        except ValueError as error:
            raise refused_query("after", str(error), after) from None
        if name and not page.total:
            told = await access.unknown_name(owner, name)
            if told is not None:
                raise refused_query("name", told, name)
        shown = [state_of(task, expose_errors=access.expose_errors) for task in page.tasks]
        return answer({"tasks": shown, "total": page.total, "next": page.next})

    @router.get("/stats", response_model=TaskStats, responses=_UNAVAILABLE)
    async def get_task_stats(request: Request) -> Response:
        """Return how many tasks there are of each status.

        For an owner these are the tasks that are kept; otherwise all since the app has started.
        """
        owner = access.owner_of(request)
        if access.owner is None:
            figures = get_task_manager().get_stats()
            counts = {status.value: figures[status] for status in TaskStatus}
        else:
            counts = await access.counts(owner)
        return answer({"submitted": sum(counts.values()), **counts})


def _add_task(router: APIRouter, access: Access) -> None:
    @router.get(
        "/{task_id}",
        response_model=access.view or TaskView,
        responses={**_UNKNOWN, **_UNAVAILABLE},
    )
    async def get_task(task_id: _Id, request: Request, wait: _Wait = 0.0) -> Response:
        """Return a task's state and result, at once or when it has ended."""
        task = await access.task(request, task_id)
        if wait and not task.status.is_final:
            task = access.shown(await ended(request, get_task_manager(), task, wait))
        return await answer_of_task(task, expose_errors=access.expose_errors, view=access.view)

    mark_status(get_task, access)

    @router.get("/{task_id}/steps", response_model=StepList, responses={**_UNKNOWN, **_UNAVAILABLE})
    async def get_task_steps(task_id: _Id, request: Request) -> Response:
        """Return the steps of a task that goes on where it stopped, without their results."""
        await access.task(request, task_id)
        steps = await get_task_manager().get_steps(task_id)
        return answer(steps_view(steps, expose_errors=access.expose_errors))


def _add_changes(router: APIRouter, access: Access) -> None:
    @router.delete(
        "/{task_id}",
        response_model=CancelResult,
        **marked({**_UNKNOWN, **_UNAVAILABLE}, csrf_header=access.csrf_header),
    )
    async def cancel_task(task_id: _Id, request: Request, at_once: _AtOnce = False) -> Response:
        """Cancel a task, if it can be cancelled, and say what came of it."""
        await access.task(request, task_id)
        manager = get_task_manager()
        said = await manager.request_cancel(task_id, at_once=at_once)
        task = await manager.get_task(task_id)
        if task is None:
            raise TaskNotFoundError(task_id)
        return answer(
            {
                "cancelled": task.status is TaskStatus.CANCELLED,
                "status": task.status,
                "outcome": said.outcome,
                "why": said.why,
            }
        )

    @router.post(
        "/{task_id}/run-again",
        status_code=202,
        response_model=TaskStarted,
        **marked(
            {202: {"headers": _TASK_LOCATION}, **_UNKNOWN, **_REFUSED},
            csrf_header=access.csrf_header,
        ),
    )
    async def run_task_again(task_id: _Id, request: Request) -> Response:
        """Submit the call of a task again that has ended without a result, as a new task."""
        await access.task(request, task_id)
        try:
            new_id = await get_task_manager().run_again(task_id)
        except RunAgainError as error:
            # What follows the colon is the message of another error.
            why = error.reason.partition(":")[0]
            raise HTTPException(409, f"This task cannot be run again: {why}") from None
        except FrameworkNotStartedError as error:
            if error.state not in ("stopping", "stopped"):
                raise
            raise HTTPException(503, "Tasks are unavailable", {"Retry-After": "1"}) from None
        url = _url_beside(request, new_id)
        body = {"task_id": new_id, "status": TaskStatus.PENDING, "status_url": url}
        return answer(body, 202, {"Location": url, "Retry-After": "1"})


def _url_beside(request: Request, task_id: str) -> str:
    """Return the URL of another task, in a request for ``.../{task_id}/run-again``."""
    path, root = request.scope["path"], request.scope.get("root_path", "")
    # Some servers have the root in the path, and some have not.
    whole = path if path.startswith(f"{root}/") else root + path
    return quote(f"{whole.rsplit('/', 2)[0]}/{task_id}")
