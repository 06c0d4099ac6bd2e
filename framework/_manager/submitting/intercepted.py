"""Intercepted tasks: a test's interceptor sees each task before it is accepted."""

from __future__ import annotations

from framework._manager.submitting.partner import Joined, Partner
from framework._tasks.live import LiveTask
from framework.protocols import Interceptor


class Intercepted(Partner):
    """Shows tasks to an interceptor.

    Args:
        joined: The partners of all submissions.
        interceptor: Sees them, and may refuse them.
    """

    in_place = True

    def __init__(self, joined: Joined, interceptor: Interceptor) -> None:
        self._interceptor = interceptor
        joined.join(self)

    def enter(self, task: LiveTask, patient: bool) -> None:
        """Show a task; what the interceptor raises reaches the caller."""
        self._interceptor.before_accept(task)
