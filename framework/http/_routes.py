"""Routes: where an app shows a task's status, and which of its routes are marked for something."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias  # Any: attributes of routes and values of scopes
from urllib.parse import quote

from framework._app.endpoints import routes_within
from framework._tasks.live import current_home
from framework.http._access.access import Access
from framework.http._access.dependency import OwnerDependency
from framework.http._access.mounted import unfolded
from framework.http._access.routes import mark_changed
from framework.http.views import TaskResponse, TaskView

_ACCESS: Final = "__asyncframe_access__"

AT_START: Final = "__asyncframe_at_start__"
"""The attribute of a route's function that is called with the app when its framework starts.

So it is for the routes of mounted apps, too, whose lifespans never run.
"""


def mark_status(endpoint: object, access: Access) -> None:
    """Mark the function of the route that shows a task's status, as `task_router` has it."""
    setattr(endpoint, _ACCESS, access)
    setattr(endpoint, AT_START, partial(_begin, access))


def _begin(access: Access, app: object) -> None:
    """Called when the framework of an app starts that has the router, or mounts one with it."""
    access.begin(app)
    owner = access.owner
    routes = (route for _, route in routes_of(app, all_hosts=True))
    if isinstance(owner, OwnerDependency) and owner.keep_in(routes):
        mark_changed(route for _, route in routes_within(app))


def routes_of(app: Any, prefix: str = "", *, all_hosts: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield the HTTP routes of an app, and of the apps that are mounted there, in their order.

    Each with its full path inside the app, with the names of parameters in braces. Those of an app
    that is mounted in itself, or in one that it contains, come once.

    Args:
        app: The app.
        prefix: Where it is mounted.
        all_hosts: Whether to yield those for other hosts as well.
    """
    return _routes_within(app, prefix, all_hosts, (app,))


def _routes_within(
    app: Any, prefix: str, all_hosts: bool, around: tuple[Any, ...]
) -> Iterator[tuple[str, Any]]:
    for route in unfolded(app):
        original = getattr(route, "original_route", route)
        path = getattr(route, "path_format", None)
        if path is not None and getattr(route, "methods", None):
            yield prefix + path, route
        elif hasattr(original, "routes"):  # a mount, or one for a host
            inner = getattr(original, "app", original)
            at = getattr(original, "path", "" if all_hosts and hasattr(original, "host") else None)
            if at is not None and not any(inner is one for one in around):
                yield from _routes_within(original, prefix + at, all_hosts, (*around, inner))


@dataclass(frozen=True, slots=True)
class StatusRoute:
    """The route of an app that shows a task's status.

    Attributes:
        path: Its path inside the app, with its parameters.
        has_events: Whether there is a route for the task's events below it.
        access: What the routes of its `task_router` show; None for a route of the user's.
        view: The app's own response that shows a task there; None for a `TaskView`.
    """

    path: str
    has_events: bool
    access: Access | None
    view: type[TaskResponse] | None

    def urls(
        self, root: str, parameters: Mapping[str, Any], label: str, task_id: str
    ) -> tuple[str, str | None]:
        """Return the URLs of a task's status and events, without scheme and host.

        Args:
            root: The path of the app itself.
            parameters: The values for other parameters, such as that of a router's prefix.
            label: The route that accepts the task, for the message.
            task_id: The task.

        Raises:
            RuntimeError: If one of the parameters is missing.
        """
        known = {name: quote(str(value), safe="") for name, value in parameters.items()}
        known["task_id"] = quote(task_id, safe="")
        try:
            url = root.rstrip("/") + self.path.format_map(known)
        except KeyError as error:
            raise RuntimeError(
                f"{label} answers 202 with the URL of the task's status, {self.path}, but "
                f"has no parameter {error}: include a task_router() whose path has no such "
                "parameter, or the route below the same prefix"
            ) from None
        return url, f"{url}/events" if self.has_events else None


Urls: TypeAlias = Callable[[str], tuple[str, str | None]]
"""Returns the URLs of a task's status and events, by its id."""


def no_status_route(label: str) -> RuntimeError:
    """Return the error for an app that accepts tasks and does not show them.

    Args:
        label: A route that accepts tasks.
    """
    return RuntimeError(
        f"{label} answers 202 with the URL of the task's status, but this app has no route that "
        "shows it: add app.include_router(task_router()), with 'from framework.http import "
        "task_router', or a GET route with {task_id} in its path that returns a TaskView"
    )


def status_route_of(app: object, *, all_hosts: bool = False) -> StatusRoute | None:
    """Return the route of an app that shows a task's status.

    It is that of the first `task_router` with an owner, since others are for those who may see
    all tasks; or else of the first one; or else the first GET route that returns a `TaskView` and
    has a parameter ``task_id`` in its path. None if there is none of these.

    Args:
        app: The app.
        all_hosts: Whether a route for another host counts.
    """
    routes = [one for one in routes_of(app, all_hosts=all_hosts) if "GET" in one[1].methods]
    paths = {path for path, _ in routes}
    shown = [(path, route) for path, route in routes if "{task_id}" in path]
    found = [(path, getattr(route.endpoint, _ACCESS, None)) for path, route in shown]
    routers = [(path, access) for path, access in found if access is not None]
    own = [(path, access) for path, access in routers if access.owner is not None]
    for path, access in (*own, *routers):
        return StatusRoute(path, f"{path}/events" in paths, access, access.view)
    for path, route in shown:
        model = getattr(route, "response_model", None)
        if isinstance(model, type) and issubclass(model, (TaskView, TaskResponse)):
            view = model if issubclass(model, TaskResponse) else None
            return StatusRoute(path, f"{path}/events" in paths, None, view)
    return None


_KNOWN: Final[weakref.WeakKeyDictionary[Any, StatusRoute]] = weakref.WeakKeyDictionary()


def shown_at(scope: MutableMapping[str, Any], label: str) -> tuple[StatusRoute, Urls]:
    """Return the status route for the client of a request, and what makes its URLs.

    It is looked for in the app that handles the request, and then in the one around it that runs
    the framework.

    Args:
        scope: The request.
        label: Its route, for messages.

    Raises:
        RuntimeError: If neither has one.
    """
    root = scope.get("root_path", "")
    home = current_home.get()
    outer = None if home is None else home.app
    for app, path in ((scope.get("app"), root), (outer, scope.get("app_root_path", root))):
        if app is None:
            continue
        route = _KNOWN.get(app)
        if route is None:
            route = status_route_of(app)
            if route is None:
                continue
            _KNOWN[app] = route
        return route, partial(route.urls, path, scope.get("path_params", {}), label)
    raise no_status_route(label)
