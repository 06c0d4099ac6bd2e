"""Routes for your app, and what they answer."""

from __future__ import annotations

from framework._tasks import exports
from framework.http.health import health_router

__all__ = ["health_router"]

exports.pin(globals())
