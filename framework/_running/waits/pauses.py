"""Pauses: what retries and throttles do to the task in which they run.

They count attempts, publish waits, and register who sleeps, so that ending the task can wake
it.
"""

from __future__ import annotations

from framework._records.jsonsafe import safe_str
from framework._records.records import TaskEvent
from framework._records.statuses import RUNNING
from framework._running.ledger import Ledger
from framework._running.limits import Limits
from framework._tasks.live import LiveTask, Sleeper


class Pauses:
    """The pauses in the tasks of one manager.

    Args:
        ledger: Changes the tasks.
        limits: Are suspended while a task waits for a throttle.
    """

    def __init__(self, ledger: Ledger, limits: Limits) -> None:
        self._ledger = ledger
        self.limits = limits

    def announce(
        self, kind: str, name: str, task: LiveTask | None, delay: float, error: BaseException | None
    ) -> None:
        """Count and publish a wait for a retry or a throttle.

        Args:
            kind: ``retrying`` or ``throttled``.
            name: Name of the retried or throttled function.
            task: The task that waits; None outside a task.
            delay: Seconds that it is going to wait.
            error: The error of the last attempt or of the refused call; None if there is none.
        """
        ledger = self._ledger
        if task is not None:
            ledger.announce(kind, task, delay, error)
            return
        ledger.count(kind)
        if not ledger.sinks:
            return
        clock = ledger.clock
        ledger.publish(
            TaskEvent(kind, None, name, clock.monotonic(), clock.time(), delay=delay, error=error)
        )

    def count_attempt(self, task: LiveTask) -> None:
        """Count a further attempt of a running task."""
        with self._ledger.lock:
            task.attempts += 1
        self._ledger.share(task)

    def begin_sleep(
        self, task: LiveTask, sleeper: Sleeper, reason: str, error: BaseException | None
    ) -> None:
        """Register what sleeps in a task, or interrupt it if the task is being cancelled.

        Args:
            task: The task.
            sleeper: Is interrupted when the task is cancelled or ends.
            reason: Why it sleeps, for people.
            error: The error of the last attempt; None for a throttle.
        """
        text = None if error is None else f"{type(error).__name__}: {safe_str(error)}"
        with self._ledger.lock:
            task.sleeper = sleeper
            unwanted = task.cancel_requested or task.status is not RUNNING
            if not unwanted:
                task.reason = reason
                task.last_error = text
        if unwanted:
            sleeper.interrupt()
        else:
            self._ledger.share(task)

    def end_sleep(self, task: LiveTask, reason: str) -> None:
        """Unregister what slept, and remove its reason unless another one has replaced it."""
        with self._ledger.lock:
            task.sleeper = None
            ours = task.status is RUNNING and task.reason is reason
            if ours:
                task.reason = ""
                task.last_error = None
        if ours:
            self._ledger.share(task)
