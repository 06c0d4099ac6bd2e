"""Routes of the user's that are made a second time, in their place, with something more.

FastAPI has no hook for what its routes return, or for what a dependency has found out.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, Final  # routes are whatever a router has put together

from fastapi.routing import APIRoute

_OPTIONS: Final = tuple(inspect.signature(APIRoute.__init__).parameters)[3:]
"""The parameters of a route but its path and endpoint; it has an attribute for each."""


def options_of(route: APIRoute) -> dict[str, Any]:
    """Return the options that a route was made with."""
    return {name: getattr(route, name) for name in _OPTIONS}


def remake(route: APIRoute, endpoint: Any, options: dict[str, Any]) -> None:
    """Make a route again, with another endpoint or other options."""
    # Not that of its own class, which may take something else, and has done so.
    APIRoute.__init__(route, route.path, endpoint, **options)


def mark_changed(routes: Iterable[Any]) -> None:
    """Let the routers among some routes know that theirs have changed."""
    # From 0.13x on FastAPI keeps what it has made of an included router's routes, and has no
    # public way to say that one of them has changed.
    for router in (getattr(route, "original_router", None) for route in routes):
        getattr(router, "_mark_routes_changed", bool)()
