"""What retries and throttles have to say of the task that they act in.

An attempt is counted, a wait is told of, and who sleeps is known to whoever ends the task.
"""

from __future__ import annotations

from framework._running.ledger import Ledger
from framework._running.limits import Limits
from framework._tasks.jsonsafe import safe_str
from framework._tasks.live import RUNNING, LiveTask, Sleeper
from framework._tasks.records import TaskEvent


class Pauses:
    """The pauses in the tasks of one manager.

    Args:
        ledger: Where tasks change.
        limits: Stand still while a task waits for a throttle's slot.
    """

    def __init__(self, ledger: Ledger, limits: Limits) -> None:
        self._ledger = ledger
        self.limits = limits

    def announce(
        self, kind: str, name: str, task: LiveTask | None, delay: float, error: BaseException | None
    ) -> None:
        """Count a retry's or throttle's wait and tell the sinks of it.

        Args:
            kind: ``retrying`` or ``throttled``.
            name: Of the retried or throttled function.
            task: The task that waits; None outside any task.
            delay: Seconds that it is about to wait.
            error: What ended the attempt before, or refused the call; None for neither.
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
        """Note who sleeps in a task, and why; interrupt it if the task is not wanted any more.

        Args:
            task: The task.
            sleeper: Who sleeps, to be interrupted when the task is not wanted.
            reason: Why, for people.
            error: What ended the attempt before; None for a throttle.
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
        """Forget who slept, and why, unless there is another reason by now."""
        with self._ledger.lock:
            task.sleeper = None
            ours = task.status is RUNNING and task.reason is reason
            if ours:
                task.reason = ""
                task.last_error = None
        if ours:
            self._ledger.share(task)
