"""Routes that run a function itself, since they were registered before it was a task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, get_origin, get_type_hints  # routes are whatever a router has put together

from framework._manager.request_bound.kinds import refused
from framework._records.exports import provided
from framework._records.ids import TaskId
from framework._tasks import registry
from framework._tasks.functions import bare_function, layer_of, one_line, optional_of
from framework._threads.loggers import SafeLogger

_LOGGER = SafeLogger("asyncframe")


def warn_of_plain_endpoints(app: object) -> None:
    """Warn of each route of *app* that was registered before its function became a task.

    The route was given the plain function then, and runs it as part of the request.
    """
    decorated: dict[FunctionType, Any] = {}
    for function in registry.functions():
        plain = bare_function(function)
        # A scheduled function that is an endpoint too is called as it is in any case.
        if isinstance(plain, FunctionType) and layer_of(function) != "scheduled_task":
            decorated[plain] = function
    for path, route in routes_within(app):
        endpoint = getattr(route, "endpoint", None)
        # What the user has written, behind a function that was put around it.
        endpoint = getattr(endpoint, "__asyncframe_endpoint__", endpoint)
        if not isinstance(endpoint, FunctionType):
            continue
        _warn_of_refused_arguments(path, endpoint)
        _warn_of_lost_parameters(path, endpoint)
        _warn_of_plain_id(path, route, endpoint)
        stacked = decorated.get(endpoint)
        if stacked is not None and _is_in_place_of(stacked, endpoint):
            layer = layer_of(stacked)
            _LOGGER.warning(
                "the route %s runs %s directly, without %s, because it was registered first: "
                "put @%s below the route's decorator",
                one_line(path),
                one_line(endpoint.__qualname__),
                layer,
                layer,
            )


def _warn_of_refused_arguments(path: str, endpoint: Any) -> None:
    """Warn of a parameter because of which a route that is a task refuses each call."""
    spec = getattr(endpoint, "__asyncframe_spec__", None)
    if layer_of(endpoint) != "background_task" or spec is None:
        return
    try:
        hints = get_type_hints(endpoint)
    except Exception:  # a name that FastAPI finds elsewhere; the calls are refused all the same
        return
    for name, hint in hints.items():
        why = refused(hint) if isinstance(hint, type) and name != "return" else None
        if why is not None and spec.options["check_arguments"]:
            _LOGGER.warning(
                "each request to the route %s fails, since its task takes %s in %r: take it in "
                "a route of its own, which calls the task; there, %s",
                one_line(path),
                why.what,
                name,
                why.cure,
            )


def _warn_of_plain_id(path: str, route: Any, endpoint: Any) -> None:
    """Warn of a route that returns the id of a task, and was given no status.

    FastAPI answers 200 then, as if the work were done. Who wants that says ``status_code=200``.
    A GET may show the id of a task that has been there before.
    """
    model = getattr(route, "response_model", None)
    if TaskId not in (model, get_origin(model)) or layer_of(endpoint) is not None:
        return
    shows = "GET" in (getattr(route, "methods", None) or ())
    if getattr(route, "status_code", 200) is None and not shows:
        _LOGGER.warning(
            "the route %s returns the id of a task with status 200: annotate it with "
            "'-> Accepted[...]' of framework.http, which answers 202 and says where to ask, or "
            "give it a status_code",
            one_line(path),
        )


def _warn_of_lost_parameters(path: str, endpoint: Any) -> None:
    """Warn of what the dependencies of a route that is a task do not get of a request."""
    lost = optional_of(endpoint)
    if lost:
        told = ", ".join(f"{what} of {one_line(dependency)}" for dependency, what in lost)
        _LOGGER.warning(
            "the route %s ignores %s: its dependencies run in the task, not in the request, and "
            "take their defaults there; use them in a route of its own, which passes their values "
            "to the task",
            one_line(path),
            told,
        )


def prepare_endpoints(app: object, is_apart: Callable[[object], bool]) -> None:
    """Run the checks that endpoints of *app* have for its start.

    Args:
        app: The app.
        is_apart: Whether an app that is mounted in it has a framework of its own.

    Raises:
        RuntimeError: If one of them lacks something.
        ValueError: If what two of them need excludes each other.
    """
    provided.accept_routes(app)
    for _, route in routes_within(app, is_apart=is_apart):
        check = getattr(getattr(route, "endpoint", None), "__asyncframe_at_start__", None)
        if check is not None:
            check(app)


def routes_within(
    inner: Any,
    prefix: str = "",
    around: tuple[int, ...] = (),
    *,
    is_apart: Callable[[object], bool] = lambda _: False,
) -> Iterator[Any]:
    """Yield the routes of a router or app, and of those inside it, with their full paths.

    Args:
        inner: The router or app; nothing is yielded for anything else.
        prefix: The path before its routes.
        around: The ids of those that it is in.
        is_apart: Whether an app that is mounted there is left out.
    """
    if id(inner) in around or (around and is_apart(inner)):
        return
    for route in list(getattr(inner, "routes", None) or ()):
        path = prefix + getattr(route, "path", "")
        yield path, route
        # Of a mounted app, perhaps behind middleware, and of an included router in newer versions
        # of FastAPI.
        mounted = getattr(route, "app", None)
        if not hasattr(mounted, "routes"):
            mounted = route
        yield from routes_within(mounted, path, (*around, id(inner)), is_apart=is_apart)
        include = getattr(getattr(route, "include_context", None), "prefix", "")
        router = getattr(route, "original_router", None)
        yield from routes_within(router, prefix + include, (*around, id(inner)), is_apart=is_apart)


def _is_in_place_of(function: Any, endpoint: FunctionType) -> bool:
    """Whether the name of *endpoint* stands for *function*, as a decorator's syntax makes it.

    Of a local function nobody can know; of a module's the plain one may be meant, if its
    name still stands for that.
    """
    module, name = sys.modules.get(endpoint.__module__), endpoint.__qualname__
    return "." in name or getattr(module, name, function) is function
