"""Apps whose routes may return `Accepted`: what is changed of them, and of no others.

An app is adopted when a `task_router` is included in it, when one that is mounted in an adopted
one is found, or when a framework starts for it.
"""

from __future__ import annotations

import re
import weakref
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from framework._app.endpoints import routes_within
from framework.http._accepting.contract import ACCEPTS, accept
from framework.http._access.routes import mark_changed
from framework.http._routes import routes_of, status_route_of

_ADOPTED: Final[weakref.WeakSet[Any]] = weakref.WeakSet()


def adopt(app: Any) -> None:  # Any: an app of any kind, a router, or None
    """Set up an app so that its routes may return `Accepted`, also those added before it starts.

    Does nothing for what is no app of FastAPI.
    """
    if not isinstance(app, FastAPI) or app in _ADOPTED:
        return
    _ADOPTED.add(app)
    made = app.openapi

    def openapi() -> dict[str, Any]:
        accept_routes(app)
        document = made()
        _add_links(app, document)
        return document

    # The way that FastAPI documents to change the document of one app.
    app.openapi = openapi  # type: ignore[method-assign]
    if app.middleware_stack is None:
        app.add_middleware(_prepared, whole=app)
    accept_routes(app)


def _prepared(app: ASGIApp, whole: FastAPI) -> ASGIApp:
    """Called as middleware is: when the app gets its first request, or starts."""
    accept_routes(whole)
    return app


def accept_routes(app: Any) -> None:  # Any: as above
    """Set up the routes that an app has by now, and those of apps that are mounted there."""
    adopt(app)
    routes = [route for _, route in routes_within(app)]
    for route in routes:
        adopt(getattr(route, "app", None))
    status = status_route_of(app, all_hosts=True)
    changed = [accept(route, status) for route in routes if isinstance(route, APIRoute)]
    if any(changed):
        mark_changed(routes)
        app.openapi_schema = None


_PARAMETER: Final = re.compile(r"{(\w+)}")


def _add_links(app: FastAPI, document: dict[str, Any]) -> None:
    """Add to the OpenAPI document of *app* a link for each route that accepts tasks.

    Nothing is added if the document does not have the operation that shows a task's status, or if
    the app has a response of its own: nobody knows where that has the id.
    """
    status, paths = status_route_of(app), document.get("paths", {})
    operation = {} if status is None else paths.get(status.path, {}).get("get", {})
    if status is None or status.view is not None or "operationId" not in operation:
        return
    for path, route in routes_of(app):
        code = getattr(route.endpoint, ACCEPTS, None)
        for method in route.methods if code is not None else ():
            described = paths.get(path, {}).get(method.lower(), {})
            response = described.get("responses", {}).get(str(code))
            if response is None:
                continue
            own = _PARAMETER.findall(path)
            given = {
                name: "$response.body#/task_id" if name == "task_id" else f"$request.path.{name}"
                for name in _PARAMETER.findall(status.path)
                if name == "task_id" or name in own
            }
            link = {
                "operationId": operation["operationId"],
                "parameters": given,
                "description": "The task's status, and its result.",
            }
            response.setdefault("links", {}).setdefault("status", link)


class StatusRoute(APIRoute):
    """A route of a `task_router`.

    Up to 0.12x FastAPI copies the routes of a router that is included, and tells the copies the
    app.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        adopt(self.dependency_overrides_provider)


class StatusRouter(APIRouter):
    """A `task_router`.

    From 0.13x on FastAPI keeps a router that is included, and asks it, and those that it is
    included in, whether it has the new one inside. Nothing public tells it the app before the app
    starts, and OpenAPI is also made offline.
    """

    def _contains_router(self, router: APIRouter, seen: set[int] | None = None) -> bool:
        adopt(router.dependency_overrides_provider)
        return super()._contains_router(router, seen)
