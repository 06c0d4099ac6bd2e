"""The one way in which a task ends, and what follows from it.

Guarantees: whatever a body raises ends its task and nothing else; a task ends once, and its
waiters, sinks and hooks hear of it once, after the store has it; an outcome that comes after
the end is dropped and counted.
Relies on: the ledger, which lets one thread alone make a task final.
"""

from __future__ import annotations

from typing import Any

from framework._running.hooks import run_hooks
from framework._running.ledger import Ledger
from framework._running.limits import Limits
from framework._running.outcomes import clear_frames
from framework._running.retention import Retention
from framework._tasks.ids import explain_await
from framework._tasks.live import LiveTask, Move, Waiter
from framework._tasks.records import FINAL, TaskStatus
from framework._threads.waiters import wake_all
from framework.exceptions import TaskCancelledError, TaskTimeoutError
from framework.protocols import TaskEngine


class Endings:
    """Ends the tasks of one manager.

    Args:
        ledger: Where tasks move.
        engine: Gives up the thread of a task that has ended before its body.
        max_finished: How many finished tasks are kept, from 0 on.

    Attributes:
        limits: The tasks' limits; one that expires ends its task.
        retention: Forgets finished tasks.
        settle: Makes of a result what every process will read; None if only this one does.
    """

    def __init__(self, ledger: Ledger, engine: TaskEngine, max_finished: int) -> None:
        self.ledger = ledger
        self.limits = Limits(ledger.clock, self.time_out)
        self.retention = Retention(ledger, max_finished)
        self.settle = None if ledger.shared is None else ledger.shared.settle
        self._engine = engine
        self._monotonic = ledger.clock.monotonic

    def complete(self, task: LiveTask, result: Any, now: float | None = None) -> bool:
        """End a task whose body returned *result*; False if it is not COMPLETED by this.

        Args:
            task: The task.
            result: What it returned.
            now: Monotonic second of its end; None for now.
        """
        if self.settle is not None:
            try:
                result = self.settle(task, result)
            except Exception as error:  # nobody else could read it: the task has no result
                self.end(task, "fail", error=error, reason="its result cannot be kept")
                return False
        waiters = self.ledger.end(
            task, "complete", self._monotonic() if now is None else now, result
        )
        if waiters is None:
            self.ledger.count_late(task)
            return False
        self._after_end(task, waiters)
        return True

    def body_failed(self, task: LiveTask, error: BaseException) -> None:
        """End a task whose body raised *error*.

        A `TaskCancelledError` of its own counts as giving way to a cancellation only if
        somebody has asked for one; any other is an error like others.
        """
        clear_frames(error)
        gave_way = (
            isinstance(error, TaskCancelledError)
            and error.task_id == task.task_id
            and task.cancel_requested
        )
        if gave_way:
            self.end(task, "cancel", error=error, reason="it gave way to a cancellation")
        else:
            explain_await(error)
            self.end(task, "fail", error=error)

    def time_out(self, task: LiveTask) -> None:
        """End a task TIMEOUT that has reached its limit, whatever its body goes on to do."""
        assert task.limit is not None
        error = TaskTimeoutError(task.task_id, task.name, task.limit)
        self.end(task, "time_out", error=error, reason="it ran past its limit", body_ended=False)

    def end(
        self,
        task: LiveTask,
        move: Move,
        error: BaseException,
        reason: str = "",
        only_from: TaskStatus | None = None,
        body_ended: bool = True,
        now: float | None = None,
    ) -> bool:
        """Make a task final without a result; False if it is, or may not be, already.

        Args:
            task: The task.
            move: How it ended.
            error: Why it has no result.
            reason: For people.
            only_from: Do nothing if the status is another one; None for any.
            body_ended: Whether its body has ended, or there was none; else it is stopped.
            now: Monotonic second of its end; None for now.
        """
        waiters = self.ledger.end(
            task,
            move,
            self._monotonic() if now is None else now,
            None,
            error,
            error.__traceback__,
            reason,
            only_from,
            body_ended and only_from is None,
        )
        if waiters is None:
            if move == "fail" and body_ended and only_from is None:
                self.ledger.count_late(task)
            return False
        if not body_ended:
            # Before anyone hears of it: the pool's figures then tell the same.
            self.stop_body(task)
        self._after_end(task, waiters)
        return True

    def stop_body(self, task: LiveTask) -> None:
        """Ask the body of a task that is final, or shall be, to stop.

        A coroutine is cancelled. A thread cannot be stopped: its sleep in a retry or a
        throttle ends, and if the task is final its place in the pool is given to another.
        """
        sleeper = task.sleeper
        if sleeper is not None:
            sleeper.interrupt()
        if task.driver is not None:
            task.driver.request_cancel()
        elif task.status in FINAL:
            self._engine.abandon(task)

    def _after_end(self, task: LiveTask, waiters: dict[Waiter, None]) -> None:
        """Hand a task that has just ended to the store, and wake and call who waits for that.

        In this order: whoever is woken finds the task in the store, sinks hear of its end
        before hooks do, and a home is idle only once all that has been done.
        """
        ledger = self.ledger
        if task.limit_key is not None:
            self.limits.disarm(task)
        ledger.keep(task)
        if task.outbox is not None:
            ledger.flush(task)
        retention = self.retention
        if ledger.kept > retention.max_finished:
            retention.trim()
        if waiters:
            wake_all(waiters)
        if task.rest is not None and task.hooks is not None:
            run_hooks(task, ledger.snapshot)
        home = task.home
        on_idle = home.on_idle
        if on_idle is not None and not home.live:
            on_idle()
