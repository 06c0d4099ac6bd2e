"""Marker: the header of requests that change something, which other sites' pages cannot send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final  # what OpenAPI has

from fastapi import Depends, HTTPException, Request

from framework.http.views import Problem

HEADER: Final = "X-Requested-With"


def marked(
    responses: Mapping[int | str, dict[str, Any]], *, csrf_header: bool
) -> dict[str, Any]:  # Any: options of a route
    """Return the options of a route that changes something.

    Args:
        responses: What OpenAPI has about its other responses.
        csrf_header: Whether its requests must have the header.
    """
    if not csrf_header:
        return {"responses": dict(responses)}
    return {
        "responses": {**responses, 403: _REFUSED},
        "dependencies": [Depends(_require)],
        # As a parameter of the function, the answer without it would be 422.
        "openapi_extra": {"parameters": [_PARAMETER]},
    }


def _require(request: Request) -> None:
    if not request.headers.get(HEADER):
        raise HTTPException(403, _WHY)


_WHY: Final = (
    f"Send the header {HEADER}, with any value: it shows that the request does not come from a "
    "page of another site"
)
_REFUSED: Final[dict[str, Any]] = {
    "model": Problem,
    "description": f"The header {HEADER} is missing",
}
_PARAMETER: Final[dict[str, Any]] = {
    "name": HEADER,
    "in": "header",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
    "description": "Any value; other sites' pages cannot send it",
}
