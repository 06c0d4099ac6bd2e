"""Routes: where an app shows a task's status, and which of its routes are marked for something."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar  # routes and scopes have attributes and values of any type
from urllib.parse import quote

from fastapi import routing

from framework._tasks.current import current_home
from framework.http.views import TaskView

C = TypeVar("C", bound=Callable[..., Any])

_SHOWS_STATUS: Final = "__asyncframe_shows_status__"


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


def shows_status(endpoint: C) -> C:
    """Mark the function of the route that shows a task's status, as `task_router` has it."""
    setattr(endpoint, _SHOWS_STATUS, True)
    return endpoint


def routes_of(app: Any, prefix: str = "") -> Iterator[Found]:
    """Yield the routes of an app, and of the apps that are mounted there, in their order."""
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
            yield from routes_of(original, prefix + original.path)


def status_path(app: object) -> str | None:
    """Return the path of an app's route that shows a task's status, with its parameters.

    It is that of the first `task_router`, or else of the first GET route that returns a
    `TaskView` and has a parameter ``task_id`` in its path. None if there is neither.
    """
    own = None
    for route in routes_of(app):
        if "GET" not in route.methods or "{task_id}" not in route.path:
            continue
        if getattr(route.endpoint, _SHOWS_STATUS, False):
            return route.path
        if own is None and isinstance(route.model, type) and issubclass(route.model, TaskView):
            own = route.path
    return own


@dataclass(frozen=True, slots=True)
class StatusUrls:
    """The URLs of a task's status and events, without the task's id.

    Attributes:
        path: The path of the status route, with its parameters.
        has_events: Whether there is a route for events below it.
    """

    path: str
    has_events: bool

    @classmethod
    def of_app(cls, app: object) -> StatusUrls | None:
        """Return those of an app; None if it shows no status."""
        path = status_path(app)
        if path is None:
            return None
        events = f"{path}/events"
        return cls(path, any(route.path == events for route in routes_of(app)))

    def fill(self, root: str, task_id: str, parameters: dict[str, Any]) -> tuple[str, str | None]:
        """Return both URLs of a task, each beginning with a slash; None for no events.

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


_KNOWN: Final[weakref.WeakKeyDictionary[Any, StatusUrls]] = weakref.WeakKeyDictionary()


def status_urls(scope: MutableMapping[str, Any], task_id: str) -> tuple[str, str | None] | None:
    """Return the URLs of a task's status and events for the client of a request.

    They are looked for in the app that handles the request, and then in the one around it that
    runs the framework.

    Args:
        scope: The request's scope.
        task_id: The task.

    Returns:
        The URLs, without scheme and host; None if neither app shows the status of tasks.
    """
    app, root = scope.get("app"), scope.get("root_path", "")
    home = current_home.get()
    outer = None if home is None else home.app
    for one, path in ((app, root), (outer, scope.get("app_root_path", root))):
        urls = _KNOWN.get(one) if one is not None else None
        if urls is None and one is not None:
            urls = StatusUrls.of_app(one)
            if urls is not None:
                _KNOWN[one] = urls
        if urls is not None:
            return urls.fill(path, task_id, scope.get("path_params", {}))
    return None
