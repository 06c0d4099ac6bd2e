"""Links in OpenAPI: from a 202 response to the operation that shows the task's status."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

from fastapi import FastAPI

from framework.http._routes import routes_of, status_route_of

ACCEPTS: Final = "__asyncframe_accepts__"
"""The attribute of an accepting route's function that has the status of its response."""

_PARAMETER: Final = re.compile(r"{(\w+)}")


def install() -> None:
    """Wrap the method of apps that makes OpenAPI documents; does nothing the second time.

    Only the app knows the operations and their ids, so a route cannot link to another by itself.
    """
    made: Any = FastAPI.openapi
    if getattr(made, "__asyncframe__", False):
        return

    @functools.wraps(made)
    def openapi(self: FastAPI) -> dict[str, Any]:
        document: dict[str, Any] = made(self)
        # FastAPI keeps the document until there are other routes.
        if vars(self).get("_asyncframe_linked") is not document:
            add_links(self, document)
            vars(self)["_asyncframe_linked"] = document
        return document

    openapi.__asyncframe__ = True  # type: ignore[attr-defined]  # so that it is wrapped once
    FastAPI.openapi = openapi  # type: ignore[method-assign]


def add_links(app: FastAPI, document: dict[str, Any]) -> None:
    """Add to the OpenAPI document of *app* a link for each route that accepts tasks.

    Nothing is added if the document does not have the operation that shows a task's status.
    """
    status, paths = status_route_of(app), document.get("paths", {})
    operation = {} if status is None else paths.get(status.path, {}).get("get", {})
    if status is None or "operationId" not in operation:
        return
    for route in routes_of(app):
        code = getattr(route.endpoint, ACCEPTS, None)
        for method in route.methods if code is not None else ():
            described = paths.get(route.path, {}).get(method.lower(), {})
            response = described.get("responses", {}).get(str(code))
            if response is None:
                continue
            own = _PARAMETER.findall(route.path)
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
