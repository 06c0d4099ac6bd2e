"""Routes: where an app shows a task's status, and which of its routes are marked for something."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar  # routes and scopes have attributes and values of any type
from urllib.parse import quote

from fastapi import routing

from framework._tasks.current import current_home
from framework.http._access.access import Access
from framework.http.views import TaskView

C = TypeVar("C", bound=Callable[..., Any])

_ACCESS: Final = "__asyncframe_access__"

AT_START: Final = "__asyncframe_at_start__"
"""The attribute of a route's function that is called with the app when its framework starts.

So it is for the routes of mounted apps, too, whose lifespans never run.
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A route of an app, with the prefixes of all routers and mounts around it.

    Attributes:
        path: Its full path inside the app, with the names of parameters in braces.
        endpoint: Its function.
        methods: Its methods.
        model: Its response model; None if it has none.
    """

    path: str
    endpoint: Any
    methods: frozenset[str]
    model: Any


def shows_status(access: Access) -> Callable[[C], C]:
    """Mark the function of the route that shows a task's status, as `task_router` has it."""

    def mark(endpoint: C) -> C:
        setattr(endpoint, _ACCESS, access)
        setattr(endpoint, AT_START, access.begin)
        return endpoint

    return mark


def routes_of(app: Any, prefix: str = "", *, all_hosts: bool = False) -> Iterator[Found]:
    """Yield the routes of an app, and of the apps that are mounted there, in their order.

    Args:
        app: The app.
        prefix: Where it is mounted.
        all_hosts: Whether to yield those for other hosts as well.
    """
    routes = list(getattr(app, "routes", None) or ())
    # From FastAPI 0.13x on, an included router is one route.
    contexts: Any = getattr(routing, "iter_route_contexts", iter)
    for route in contexts(routes):
        original = getattr(route, "original_route", route)
        path = getattr(route, "path_format", None)
        if path is not None and getattr(route, "endpoint", None) is not None:
            methods = frozenset(getattr(route, "methods", None) or ())
            model = getattr(route, "response_model", None)
            yield Found(prefix + path, route.endpoint, methods, model)
        elif hasattr(original, "routes") and hasattr(original, "path"):  # a mount
            yield from routes_of(original, prefix + original.path, all_hosts=all_hosts)
        elif all_hosts and hasattr(original, "routes") and hasattr(original, "host"):
            yield from routes_of(original, prefix, all_hosts=True)


@dataclass(frozen=True, slots=True)
class StatusRoute:
    """The route of an app that shows a task's status.

    Attributes:
        path: Its path inside the app, with its parameters.
        has_events: Whether there is a route for the task's events below it.
        access: What the routes of its `task_router` show; None for a route of the user's.
    """

    path: str
    has_events: bool
    access: Access | None

    def urls(
        self, root: str, task_id: str, parameters: Mapping[str, Any]
    ) -> tuple[str, str | None]:
        """Return the URLs of a task's status and events, without scheme and host.

        Args:
            root: The path of the app itself.
            task_id: The task.
            parameters: The values for other parameters, such as that of a router's prefix.

        Raises:
            KeyError: If one of them is missing.
        """
        known = {name: quote(str(value), safe="") for name, value in parameters.items()}
        known["task_id"] = quote(task_id, safe="")
        url = root.rstrip("/") + self.path.format_map(known)
        return url, f"{url}/events" if self.has_events else None


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
    routes = [route for route in routes_of(app, all_hosts=all_hosts) if "GET" in route.methods]
    paths = {route.path for route in routes}
    shown = [route for route in routes if "{task_id}" in route.path]
    found = [(route, getattr(route.endpoint, _ACCESS, None)) for route in shown]
    routers = [(route, access) for route, access in found if access is not None]
    own = [(route, access) for route, access in routers if access.owner is not None]
    views = [(route, None) for route in shown if _is_view(route.model)]
    for route, access in (*own, *routers, *views):
        return StatusRoute(route.path, f"{route.path}/events" in paths, access)
    return None


def _is_view(model: Any) -> bool:
    return isinstance(model, type) and issubclass(model, TaskView)


_KNOWN: Final[weakref.WeakKeyDictionary[Any, StatusRoute]] = weakref.WeakKeyDictionary()


def find_status_route(scope: MutableMapping[str, Any]) -> tuple[StatusRoute, str] | None:
    """Return the status route for the client of a request, and the path of its app.

    It is looked for in the app that handles the request, and then in the one around it that runs
    the framework. None if neither has one.
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
        return route, path
    return None
