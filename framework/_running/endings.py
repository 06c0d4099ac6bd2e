"""Endings: the only code that ends tasks, at their limits too, and what it does after that.

Guarantees: an error that a body raises ends its task and nothing else; a task ends once, and
then its waiters, sinks and hooks are called once, after it is in the store; an outcome that
comes later is counted and dropped.
Relies on: the ledger, which lets only one thread make a task final; `deadlines`, which has one
timer for each distinct limit; it fires on any thread.
Without the GIL: only the task's own thread or loop writes the fields of its limit, and the
timer's thread only reads `limit_key`; a deadline can be removed only once.
Lock order: none is held here; the store, sinks, waiters and hooks are called without one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from framework._records.statuses import (
    CANCELLED,
    COMPLETED,
    FAILED,
    FAILURES,
    FINAL,
    INTERRUPTED,
    RUNNING,
    TIMEOUT,
    TaskStatus,
)
from framework._running.ledger import Ledger
from framework._running.log import Failures
from framework._running.outcomes import PublishAgain, WorkerCrashError
from framework._running.retention import Retention
from framework._tasks.current import hook_owner
from framework._tasks.live import LiveTask, Waiter
from framework._tasks.mistakes import explain
from framework._tasks.options import SILENT
from framework._tasks.specs import Hook
from framework._tasks.task import Task
from framework._threads.deadlines import Deadlines
from framework._threads.frames import clear_frames
from framework._threads.loggers import SafeLogger
from framework._threads.user_threads import HOOK, call_on_thread
from framework._threads.waiters import wake_all
from framework.exceptions import TaskCancelledError, TaskInterruptedError, TaskTimeoutError
from framework.protocols import Clock, TaskEngine

_LOGGER = SafeLogger("asyncframe")

Report: TypeAlias = Callable[[LiveTask], object]
"""Logs the failure of a task."""


class Limits:
    """The limits of one manager's running tasks.

    Args:
        clock: Source of all time.
        expire: Called with a task that has reached its limit, on any thread.
    """

    def __init__(self, clock: Clock, expire: Callable[[LiveTask], None]) -> None:
        self._monotonic = clock.monotonic
        self._deadlines: Deadlines[LiveTask] = Deadlines(clock, expire)
        self._expire = expire

    def arm(self, task: LiveTask, started: float) -> None:
        """Start a task's limit at *started*, unless a throttle has suspended it."""
        # Most tasks have no `rest`, and a `Rare` field costs a call.
        if task.limit is not None and (task.rest is None or task.limit_left is None):
            task.limit_key = task.limit if task.rest is None else _left_at_start(task, task.limit)
            self._deadlines.add(task, task.limit_key, started)

    def overrun(self, task: LiveTask) -> None:
        """Expire a task whose body has ended too late, unless its limit was suspended."""
        if task.limit_left is None:
            self._expire(task)

    def disarm(self, task: LiveTask) -> None:
        """Cancel a task's limit."""
        if task.limit_key is not None:
            self._deadlines.remove(task, task.limit_key)
            task.limit_key = None

    def suspend(self, task: LiveTask) -> None:
        """Stop the time of a running task's limit while it waits for a throttle."""
        if task.limit is None or task.started is None:
            return
        now = self._monotonic()
        deadline: float | None = task.started + _left_at_start(task, task.limit)
        if task.limit_key is not None:
            deadline = self._deadlines.remove(task, task.limit_key)
            task.limit_key = None
        # No deadline: the limit expires right now, on another thread. That is recorded as 0.0,
        # so a limit with no time left, but a deadline, gets a little more.
        task.limit_left = 0.0 if deadline is None else max(deadline - now, 1e-9)

    def halt(self, task: LiveTask) -> float | None:
        """Stop the time of a running task's limit, and return how many seconds of it are left.

        Returns:
            0.0 if it expires right now, on another thread; None if the task has no limit.
        """
        self.suspend(task)
        left, task.limit_left = task.limit_left, None
        return left

    def resume(self, task: LiveTask) -> None:
        """Continue the time of a running task's limit."""
        if task.limit_left and task.status is RUNNING:
            task.limit_key = task.limit_left
            self._deadlines.add(task, task.limit_left, self._monotonic())

    def left_of(self, task: LiveTask, limit: float) -> float:
        """Return how many seconds of its *limit* a running task has left, 0.0 or less for none."""
        now, key = self._monotonic(), task.limit_key
        deadline = None if key is None else self._deadlines.of(task, key)
        if deadline is None:
            # It expires right now, or its coroutine takes its first step.
            deadline = (task.started or now) + _left_at_start(task, limit)
        return deadline - now

    def left(self) -> list[tuple[LiveTask, float]]:
        """Return the tasks whose limits go on, and the monotonic seconds at which they expire."""
        return self._deadlines.left()

    def close(self) -> None:
        """Expire no more tasks."""
        self._deadlines.close()


def _left_at_start(task: LiveTask, limit: float) -> float:
    """Return how many seconds of its limit a task had left when it started."""
    restart = task.restart
    return limit if restart is None else max(limit - restart.used, 1e-9)


class Ends(Protocol):
    """Is told what becomes of the tasks that may wait for their time or a place.

    It is a `waits.places.Places`.
    """

    def launches(self, task: LiveTask) -> bool:
        """Return whether a task is to be launched now; only once for each."""

    def leave(self, task: LiveTask) -> None:
        """Called when a task with places has ended, and its function does not run any more."""

    def forget_delay(self, task: LiveTask) -> None:
        """Called when a task will not be launched here."""

    def give_away(self, task: LiveTask) -> None:
        """Called when a task was given to another process."""


class Endings:
    """Ends the tasks of one manager.

    Args:
        ledger: Changes their status.
        engine: Abandons the thread of a task that is final before its body has ended.
        ends: Is told which tasks have ended.
        retention: Removes finished tasks.
        settle: Converts a result to what other processes will read; None if none do.
        workers_log: Whether a remote engine's workers log failures.

    Attributes:
        limits: The time limits of the tasks; a limit that expires ends its task.
        retention: As above.
        ends: As above.
    """

    def __init__(
        self,
        ledger: Ledger,
        engine: TaskEngine,
        ends: Ends,
        retention: Retention,
        settle: Callable[[LiveTask, Any], Any] | None,
        *,
        workers_log: bool,
    ) -> None:
        self.ledger = ledger
        self.limits = Limits(ledger.clock, self.time_out)
        self.retention = retention
        self.ends = ends
        self._settle = settle
        self._engine = engine
        self._workers_log = workers_log
        self._monotonic = ledger.clock.monotonic
        self._failures = Failures(self._monotonic)

    def complete(self, task: LiveTask, result: Any, now: float | None = None) -> bool:
        """End a task whose body returned *result*; False if that did not make it COMPLETED.

        Args:
            task: The task.
            result: What its body returned.
            now: Monotonic second at which it ended; None for now.
        """
        if self._settle is not None:
            try:
                result = self._settle(task, result)
            except Exception as error:  # no other process could read it
                self.end(task, FAILED, error=error, reason="its result cannot be kept")
                return False
        waiters = self.ledger.end(
            task, COMPLETED, self._monotonic() if now is None else now, result
        )
        if waiters is None:
            self._give_back(task)
            self.ledger.count_late(task)
            return False
        # None too, since a call with a default costs every task more.
        self._after_end(task, waiters, None)
        return True

    def body_failed(self, task: LiveTask, error: BaseException) -> None:
        """End a task whose body raised *error*.

        A `TaskCancelledError` makes it CANCELLED only if it names this task and somebody has
        requested its cancellation; otherwise it is an error like any other.
        """
        clear_frames(error)
        if isinstance(error, PublishAgain) and error.then is not None:
            error.then(task, error)
            return
        stopped_itself = (
            isinstance(error, TaskCancelledError)
            and error.task_id == task.task_id
            and task.cancel_requested
        )
        if stopped_itself:
            self.end(task, CANCELLED, error=error, reason="it stopped because it was cancelled")
        elif isinstance(error, WorkerCrashError):
            self._crash(task, str(error))
        else:
            explain(error)
            self.end(task, FAILED, error=error)

    def _crash(self, task: LiveTask, reason: str) -> None:
        """Make a task INTERRUPTED, and give up the thread that runs it."""
        if task.spec.kind == "thread":
            # First, so that the pool's figures agree with what waiters are told.
            self._engine.abandon(task)
        self.end(task, INTERRUPTED, TaskInterruptedError(task.task_id, task.name), reason)

    def time_out(self, task: LiveTask) -> None:
        """Make a task TIMEOUT that has reached its limit, even if its body keeps running."""
        assert task.limit is not None
        error = TaskTimeoutError(task.task_id, task.name, task.limit)
        self.end(task, TIMEOUT, error=error, reason="it ran past its time limit", body_ended=False)

    def end(
        self,
        task: LiveTask,
        status: TaskStatus,
        error: BaseException,
        reason: str = "",
        only_from: TaskStatus | None = None,
        body_ended: bool = True,
        now: float | None = None,
    ) -> bool:
        """Make a task final without a result; False if it is final or *only_from* forbids it.

        Args:
            task: The task.
            status: How it ended.
            error: Why it has no result.
            reason: Why it ended, for people.
            only_from: Do nothing if it has another status; None for any status.
            body_ended: Whether its body has ended or never started; if not, it is stopped.
            now: Monotonic second at which it ended; None for now.
        """
        # Before the task is final: then its coroutine, on another thread, may let go of it.
        driver = task.driver
        in_place = driver is not None and driver.in_place
        # Positional: keywords would cost more, and every task that fails passes here.
        waiters = self.ledger.end(
            task,
            status,
            self._monotonic() if now is None else now,
            None,
            error,
            reason,
            only_from,
            body_ended and only_from is None,
        )
        if waiters is None:
            self._give_back(task)
            is_late = status is FAILED and body_ended and only_from is None
            if is_late and not task.was_given_away:
                self.ledger.count_late(task)
            return False
        if not body_ended:
            # First of all, so that the pool's figures agree with what waiters are told.
            self.stop_body(task)
        unseen = status in FAILURES and self.is_unseen(task, waiters, in_place)
        self._after_end(task, waiters, self._failures.log if unseen else None)
        return True

    def is_unseen(self, task: LiveTask, waiters: dict[Waiter, None], in_place: bool) -> bool:
        """Return whether to log the failure of a task that has just ended, and note it if so.

        Args:
            task: The task.
            waiters: Its waiters.
            in_place: Whether its coroutine ran where it was awaited.
        """
        silent = task.spec.options["on_error"] is SILENT
        if silent or (task.remote and task.started is not None and self._workers_log):
            task.logged = True
            return False
        if in_place or task.read or any(waiter.reads for waiter in waiters):
            return False
        # Before the task can be evicted, which would log it as well.
        task.logged = True
        return True

    def stop_body(self, task: LiveTask) -> None:
        """Stop the body of a task that is final or being cancelled, as far as possible.

        A coroutine is cancelled. A thread cannot be stopped: its sleep in a retry or a
        throttle is interrupted, and if the task is final, the pool replaces the thread.
        """
        sleeper = task.sleeper
        if sleeper is not None:
            sleeper.interrupt()
        driver = task.driver
        if driver is not None:
            driver.request_cancel()
        elif task.status in FINAL:
            self._engine.abandon(task)

    def _give_back(self, task: LiveTask) -> None:
        """Give back a task's places, unless it lives or its function still runs."""
        if task.rest is None or task.places is None:
            return
        if task.status in FINAL and not task.bodies:
            self.ends.leave(task)

    def _after_end(
        self, task: LiveTask, waiters: dict[Waiter, None], report: Report | None
    ) -> None:
        """Publish the events of a task that has just ended, and wake its waiters.

        The order matters: a waiter finds the task in the store already, and may submit a unique
        task again; sinks are called before hooks, *report* after them, and a home is idle only
        after all of that.
        """
        ledger = self.ledger
        if task.limit_key is not None:
            self.limits.disarm(task)
        if task.outbox is not None:
            ledger.flush(task)
        retention = self.retention
        # Read without the lock: it does not matter which of several threads trims.
        if ledger.kept > retention.max_finished:
            retention.trim()
        if task.rest is None:
            if waiters:
                wake_all(waiters)
        else:
            self._give_back(task)
            if waiters:
                wake_all(waiters)
            if report is not None or task.hooks is not None:
                self._run_hooks(task, report)
        home = task.home
        on_idle = home.on_idle
        # Without a lock: two threads may see the home empty, and both call it.
        if on_idle is not None and not home.live:
            on_idle()

    def _run_hooks(self, task: LiveTask, report: Report | None) -> None:
        """Call the one of a task's hooks that fits its status, and then log its failure.

        Args:
            task: A final task; its hooks are removed from it, so that none is called twice.
            report: Called if the hook has not read its error; None for no call.
        """
        hook = None
        if task.hooks is not None:
            (on_complete, on_error), task.hooks = task.hooks, None
            hook = on_complete if task.status is COMPLETED else on_error
        if hook is None:
            if report is not None:
                report(task)
            return
        view = Task(self.ledger.snapshot(task), source=task)
        if task.status is not TIMEOUT and not task.remote:
            _call_hook(hook, view, task, report)
            return
        # A slow hook must not delay the thread of the timers, which has other limits to enforce,
        # nor the thread that reads the reports of remote tasks.
        call_on_thread(HOOK, _call_hook, hook, view, task, report)


def _call_hook(hook: Hook, view: Task, task: LiveTask, report: Report | None) -> None:
    token = hook_owner.set((task.owner,))
    try:
        hook(view)
    except BaseException:  # a user's hook must not end a thread or a loop
        _LOGGER.exception("a hook of task %s raised an error", task.task_id)
    finally:
        hook_owner.reset(token)
    if report is not None and not task.read:
        report(task)
