"""Mounted: where the routes of a router are in an app, and what is told about that at start."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any  # routes are whatever a router has put together

import fastapi.routing
from starlette.routing import Match

from framework._manager.frameworks import find_core
from framework._manager.hosting.role import ROLE
from framework._threads.loggers import SafeLogger

_LOGGER = SafeLogger("asyncframe")


def unfolded(app: Any) -> Iterator[Any]:
    """Yield the routes of an app in the order in which they are tried, each with its whole path.

    Those of included routers are among them, and those of mounted apps are not.
    """
    # Older versions of FastAPI copy the routes of included routers; from 0.13x on, an included
    # router is one route.
    unfold = getattr(fastapi.routing, "iter_route_contexts", iter)
    yield from unfold(list(getattr(app, "routes", None) or ()))


def warn_of_mistakes(app: Any, endpoints: Collection[Callable[..., Any]]) -> None:
    """Log what is wrong with how an app that starts has a router, one warning for each mistake.

    No framework runs; no dependency can refuse a request to some of the routes; or an earlier route
    of the app hides one. A worker process serves none, and logs nothing.

    Args:
        app: The app that has included the router.
        endpoints: The functions of the router's routes.
    """
    if ROLE.get() is not None:
        return
    if find_core() is None:
        _LOGGER.warning(
            "the app has task_router(), but no task framework: each request to it fails; use "
            "FastAPI(lifespan=setup_async_framework), or enter setup_async_framework(app) in your "
            "own lifespan"
        )
    earlier: list[Any] = []
    hidden: list[tuple[str, str, Any]] = []
    paths = []
    for route in unfolded(app):
        if getattr(route, "endpoint", None) not in endpoints:
            earlier.append(route)
            continue
        if not getattr(route, "dependencies", None):
            paths.append(route.path)
        parts = (_EXAMPLE if part.startswith("{") else part for part in route.path.split("/"))
        example = "/".join(parts)
        for method in sorted(route.methods or ()):
            hiding = _first_match(earlier, example, method)
            if hiding is not None:
                hidden.append((method, route.path, getattr(hiding, "path", hiding)))
    if paths:
        _LOGGER.warning(
            "%s has no dependencies, so everybody who reaches the app can see and cancel tasks: "
            "use task_router(dependencies=[Depends(...)]) with a function that refuses strangers",
            min(paths, key=len),
        )
    for one in hidden:
        _LOGGER.warning(
            "%s %s is answered by a route of yours, %s, since it was added before task_router()",
            *one,
        )


def _first_match(routes: list[Any], path: str, method: str) -> Any | None:
    scope = {"type": "http", "path": path, "method": method, "root_path": "", "headers": []}
    for route in routes:
        # A route of a class of the user's own may look for more in a request.
        with suppress(Exception):
            if route.matches(dict(scope))[0] is Match.FULL:
                return route
    return None


_EXAMPLE = "0" * 32
"""An id as tasks have it."""
