"""Offered tasks: those of a process without workers, which others run."""

from __future__ import annotations

from framework._manager.submitting.partner import GoOn, Joined, Partner
from framework._manager.submitting.requeued import Requeued
from framework._records.records import OFFERED
from framework._tasks.live import LiveTask
from framework._tasks.places import Existing
from framework._threads.waiters import Steps
from framework.exceptions import NoWorkersError


class Offered(Partner):
    """Gives each task to the processes that share the store, as soon as it is submitted.

    Args:
        joined: The partners of all submissions.
        requeued: Gives tasks away.
    """

    def __init__(self, joined: Joined, requeued: Requeued) -> None:
        self._requeued = requeued
        joined.join(self)

    def make(self, task: LiveTask) -> None:
        """Refuse a task that no other process may run.

        Raises:
            NoWorkersError: If it is one.
        """
        if not task.spec.requeue:
            raise NoWorkersError(task.name)

    def secure(self, task: LiveTask | Existing, own: bool) -> Steps[None]:
        """Offer a task before its first row is written, if its caller waits for that."""
        if own and isinstance(task, LiveTask):
            self._offer(task)
        yield from ()

    def hold(self, task: LiveTask, go_on: GoOn) -> bool:
        """Offer a task instead of launching it."""
        self._offer(task)
        return True

    def _offer(self, task: LiveTask) -> None:
        self._requeued.let_go(task, OFFERED, offered=True)
