"""Links in OpenAPI: from a 202 response to the operation that shows the task's status."""

from __future__ import annotations

import re
from typing import Any, Final

from fastapi import FastAPI

from framework.http._routes import routes_of, status_route_of

ACCEPTS: Final = "__asyncframe_accepts__"
"""The attribute of an accepting route's function that has the status of its response."""

_PARAMETER: Final = re.compile(r"{(\w+)}")


def add_links(app: FastAPI, document: dict[str, Any]) -> None:
    """Add to the OpenAPI document of *app* a link for each route that accepts tasks.

    Nothing is added if the document does not have the operation that shows a task's status.
    """
    status, paths = status_route_of(app), document.get("paths", {})
    operation = {} if status is None else paths.get(status.path, {}).get("get", {})
    if status is None or "operationId" not in operation:
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
