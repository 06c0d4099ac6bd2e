"""Routes for your app, and what they answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framework._records import exports
from framework._records.exports import provided
from framework.http._accepting.apps import accept_routes
from framework.http.health import health_router
from framework.http.router import task_router
from framework.http.views import Problem, TaskResponse, TaskView

if TYPE_CHECKING:
    from framework._records.ids import Accepted
else:
    from framework.http._accepting.answer import Accepted

__all__ = ["Accepted", "Problem", "TaskResponse", "TaskView", "health_router", "task_router"]

exports.pin(globals())

# Called for the app of a framework that starts.
provided.accept_routes = accept_routes
