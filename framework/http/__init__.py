"""Routes for your app, and what they answer."""

from __future__ import annotations

from framework._records import exports
from framework.http.accepted import Accepted
from framework.http.health import health_router
from framework.http.router import task_router
from framework.http.views import Problem, TaskView

__all__ = ["Accepted", "Problem", "TaskView", "health_router", "task_router"]

exports.pin(globals())
