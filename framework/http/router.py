"""task_router: routes that show, follow and cancel tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.params import Depends

from framework.http._access import Access
from framework.http._routes import shows_status
from framework.http._streams import add_stream
from framework.http.dashboard import add_dashboard
from framework.http.views import Problem, TaskView


def task_router(
    *,
    prefix: str = "/tasks",
    dependencies: Sequence[Depends] = (),
    owner: Callable[[Request], str | None] | None = None,
    expose_errors: bool = False,
    include_in_schema: bool = True,
    buttons: Mapping[str, str] | None = None,
) -> APIRouter:
    """Return a router with routes that show, follow and cancel tasks.

    Use it with ``app.include_router(task_router())``.

    Args:
        prefix: The beginning of all paths.
        dependencies: What each request must pass, such as a login check.
        owner: Returns whom the tasks of a request belong to; None to show all tasks.
        expose_errors: Whether the messages of errors are shown.
        include_in_schema: Whether the routes are in the OpenAPI schema.
        buttons: Buttons of the page: for each label the path of a POST route of the app that
            needs no body, such as ``{"Send a report": "/reports"}``; None for no buttons.
    """
    access = Access(owner, expose_errors)
    router = APIRouter(
        prefix=prefix,
        dependencies=list(dependencies),
        tags=["tasks"],
        include_in_schema=include_in_schema,
    )

    add_dashboard(router, access, buttons or {})

    @router.get("/{task_id}", responses={404: {"model": Problem}})
    @shows_status(access)
    async def get_task(task_id: str, request: Request) -> TaskView[Any]:
        """Return a task's state."""
        task = await access.task(request, task_id)
        return TaskView.of(task, expose_errors=access.expose_errors)

    add_stream(router, access)
    return router
