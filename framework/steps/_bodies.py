"""The bodies of steps, and who is told of them: tracers, and the interceptor of a test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from framework._records.records import STEPS_CHANGED
from framework._running.events import Events
from framework._tasks.live import LiveTask
from framework.protocols import Interceptor


class Bodies:
    """Runs the bodies of steps.

    Args:
        events: Has the tracers.
        interceptor: Is called around the bodies; None for none.
    """

    def __init__(self, events: Events, interceptor: Interceptor | None) -> None:
        self._events = events
        self._interceptor = interceptor

    def run(self, task: LiveTask, name: str, body: Callable[[], Any]) -> Any:
        """Run the body of a sync step, and return its result."""
        with self._events.step(task, name):
            return self._intercepted(task, name, body)

    async def await_(self, task: LiveTask, name: str, body: Callable[[], Awaitable[Any]]) -> Any:
        """Run the body of an async step, and return its result."""
        with self._events.step(task, name):
            return await self._intercepted(task, name, body)

    def changed(self, task: LiveTask) -> None:
        """Tell those who follow the task that a step of it has begun or ended."""
        self._events.emit(STEPS_CHANGED, task, task.status, task.attempts)

    def _intercepted(self, task: LiveTask, name: str, body: Callable[[], Any]) -> Any:
        around = self._interceptor
        return body() if around is None else around.around_step(task, name, body)
