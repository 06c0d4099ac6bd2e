"""Runner: launches tasks at the engine, and runs the body of a task on a thread.

Guarantees: a task that is launched runs or ends FAILED; each hold of the clock for a queued
task is released once.
Relies on: the ledger to start tasks, the endings to end them.
Lock order: the ledger's lock is taken to decide who releases a hold; the clock is called
without it.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from framework._records.records import Kind
from framework._records.statuses import CANCELLED, FAILED, FINAL, PENDING
from framework._running.endings import Endings
from framework._tasks.functions import Args, Kwargs
from framework._tasks.live import Driver, Home, LiveTask, current_record
from framework._tasks.options import NORMAL
from framework._threads.clock import SystemClock
from framework._threads.waiters import Mailboxes
from framework.exceptions import TaskCancelledError
from framework.protocols import Run, TaskEngine

NOT_STARTED: Final = "it could not be started"
"""The reason of a task that ends FAILED although its submission was checked and found good."""


class Runner:
    """Runs the tasks of one manager.

    Args:
        endings: Ends the tasks; has their ledger and their limits.
        boxes: The mailboxes of the event loops.
        engine: Where tasks run.
        runs_of: Makes `runs`; see `coroutines.runs_of`.
        use_levels: Called before a task is launched whose priority is not normal; see
            `ItemQueue.use_levels`.
        around_resumed: Is called around each attempt of a task that goes on from its steps, as
            `Interceptor.around_attempt` is.

    Attributes:
        interceptor: Is called around deliveries and attempts; None for none.
        runs: What the engine calls with a task of each kind.
        monotonic: Reads the framework's clock.
        drives: The coroutines that have been suspended and have not ended.
        holds_clock: Whether the clock is held while tasks are queued.
    """

    def __init__(
        self,
        endings: Endings,
        boxes: Mailboxes,
        engine: TaskEngine,
        runs_of: Callable[[Runner], dict[Kind, Run]],
        use_levels: Callable[[], None],
        around_resumed: Callable[[LiveTask, int, Callable[[], Any]], Any],
    ) -> None:
        self.endings = endings
        self.limits = endings.limits
        self.ledger = endings.ledger
        self.boxes = boxes
        self.engine = engine
        self.interceptor = endings.ledger.interceptor
        self._use_levels = use_levels
        self._around_resumed = around_resumed
        self.drives = Drives()
        # Only virtual time can be held; in real time each task saves the calls.
        self.holds_clock = not isinstance(self.ledger.clock, SystemClock)
        self.monotonic = self.ledger.clock.monotonic
        self.runs = runs_of(self)

    def launch(self, task: LiveTask, runs: dict[Kind, Run] | None = None) -> None:
        """Hand a task to the engine.

        Args:
            task: The task.
            runs: What the engine calls with it; None for `runs`.
        """
        if self.holds_clock:
            self._hold_clock(task)
        spec = task.spec
        if spec.level != NORMAL:
            self._use_levels()
        kind = spec.kind
        try:
            self.engine.start(task, kind, (runs or self.runs)[kind])
        except Exception as error:  # its id is known already, so the task must end
            self.refuse(task, error)
        # For this order: 1 another thread cancels the task and releases the clock, 2 it is
        # held here, 3 the engine drops the task, since it is final. Then nobody else releases.
        if self.holds_clock and task.status in FINAL and not task.bodies:
            self.release_clock(task)

    def refuse(self, task: LiveTask, error: BaseException) -> None:
        """Make a task FAILED that could not be started."""
        self.endings.end(task, FAILED, error=error, reason=NOT_STARTED, only_from=PENDING)
        if task.kept:
            self.engine.withdraw(task)
        self.release_clock(task)

    def cancel_pending(self, task: LiveTask, reason: str, *, at_once: bool = False) -> bool:
        """Make a task CANCELLED if it is still PENDING; it never starts then.

        One whose code stands somewhere goes on instead, unless it is to end *at_once*: see
        `Ledger.request_cancel`.
        """
        if task.cancel_waits and not at_once:
            return False
        error = TaskCancelledError(task.task_id, task.name)
        if not self.endings.end(task, CANCELLED, error=error, reason=reason, only_from=PENDING):
            return False
        self.endings.ends.forget_delay(task)
        self.engine.withdraw(task)
        self.release_clock(task)
        return True

    def cancel(self, task: LiveTask, reason: str, stopped: str = "") -> None:
        """Cancel a task whose cancellation was requested: it never starts, or its body is stopped.

        Args:
            task: The task.
            reason: Why, for people, if it has not started.
            stopped: The same if it has; "" to leave its reason as it is.
        """
        if not self.cancel_pending(task, reason):
            # Set before the cancellation, which ends the task with this reason.
            task.reason = stopped or task.reason
            if not task.cancel_waits:
                self.endings.stop_body(task)

    def start(self, task: LiveTask) -> float | None:
        """Make a task RUNNING and return the monotonic second; None if it is final."""
        now = self.monotonic()
        if not self.ledger.start(task, now):
            return None
        if task.outbox is not None:
            self.ledger.flush_started(task)
        return now

    def body_runner(self) -> Callable[[LiveTask], bool]:
        """Return the function that runs a task's body on the calling thread until it ends.

        It returns False if the task is final. A function and not a method, since an engine
        calls it for each task: a thread then spends less on the call.
        """
        ledger, limits, endings, monotonic = self.ledger, self.limits, self.endings, self.monotonic
        watched = self.interceptor is not None
        attempt = self._attempt

        def run_body(task: LiveTask) -> bool:
            context, args, kwargs = task.context, task.args, task.kwargs
            try:
                # The lines of `start` again: every task on a thread would pay for the call.
                now = monotonic()
                if context is None or args is None or not ledger.start(task, now):
                    return False
                if task.outbox is not None:
                    ledger.flush_started(task)
                if task.bodies > 1:
                    # A context can only be entered once at a time: a further delivery gets a copy.
                    context = context.copy()
                if task.limit is not None:
                    limits.arm(task, now)
                run = context.run
                run(set_current, task)
                if watched or task.spec.resumes:
                    result = run(attempt, task, args, kwargs)
                else:
                    fn = task.spec.fn
                    result = run(fn, *args, **kwargs) if kwargs else run(fn, *args)
                if type(result) is types.CoroutineType:
                    result.close()
                    raise TypeError(
                        f"{task.name} is not an async function but returned a coroutine, which "
                        "nobody would await: submit the async function itself"
                    )
            except BaseException as error:  # a body may raise anything, and must not end the thread
                endings.body_failed(task, error)
            else:
                endings.complete(task, result)
            return True

        return run_body

    # -- attempts with something around them

    def attempt_here(self, task: LiveTask, args: Args, kwargs: Kwargs | None) -> Any:
        """Make an attempt as it is watched, or start that of an async task, in its context."""
        set_current(task)
        return self._attempt(task, args, kwargs)

    def _around(self, task: LiveTask, attempt: int, call: Callable[[], Any]) -> Any:
        """Make an attempt with the interceptor around it, and inside with the steps of a task."""
        if task.spec.resumes:
            call = partial(self._around_resumed, task, attempt, call)
        if self.interceptor is None:
            return call()
        return self.interceptor.around_attempt(task, attempt, call)

    def _attempt(self, task: LiveTask, args: Args, named: Kwargs | None) -> Any:
        """Call the function, with what is to be around each attempt."""
        kwargs = named or {}
        around = self._around
        fn: Any = task.spec.fn  # only a retried function has __asyncframe_attempts__
        if task.spec.attempts_inside:

            def attempt(call: Callable[[], Any]) -> Any:
                return around(task, task.attempts, call)

            if isinstance(fn, types.MethodType):
                # Its attribute is the function's, which does not know the object.
                args = (fn.__self__, *args)
            return fn.__asyncframe_attempts__(attempt, args, kwargs)
        return around(task, task.attempts, partial(fn, *args, **kwargs))

    # -- further deliveries

    def deliver_again(self, task: LiveTask) -> Callable[[], Any] | None:
        """Count a further delivery of a task; return what runs its function, or None if it ended.

        What is returned runs a sync function on the calling thread, and returns an asyncio task
        that runs an ``async def`` function, in a copy of the task's context.
        """
        context, args, kwargs = task.context, task.args, task.kwargs
        if context is None or args is None or self.start(task) is None:
            return None
        context = context.copy()
        if task.spec.kind == "thread":
            return partial(context.run, self._run_again, task, args, kwargs)
        create = asyncio.get_running_loop().create_task
        return lambda: create(self._await_again(task, args, kwargs), context=context)

    def _run_again(self, task: LiveTask, args: Args, kwargs: Kwargs | None) -> None:
        try:
            result = self.attempt_here(task, args, kwargs)
        except BaseException as error:  # a body may raise anything, and must not end the thread
            self.endings.body_failed(task, error)
        else:
            self.endings.complete(task, result)

    async def _await_again(self, task: LiveTask, args: Args, kwargs: Kwargs | None) -> None:
        try:
            result = await self.attempt_here(task, args, kwargs)
        except asyncio.CancelledError as error:
            self.endings.body_failed(task, error)
            raise
        except BaseException as error:  # a body may raise anything; a SystemExit ends no loop
            self.endings.body_failed(task, error)
        else:
            self.endings.complete(task, result)

    # -- holding the clock while a task is queued

    def _hold_clock(self, task: LiveTask) -> None:
        task.held = True
        self.ledger.clock.hold()

    def release_clock(self, task: LiveTask) -> None:
        """Release the clock that `launch` held for a task; may be called twice."""
        if not self.holds_clock:
            return
        with self.ledger.lock:
            held, task.held = task.held, False
        if held:
            self.ledger.clock.release()


set_current = current_record.set
"""Makes a task the current one in the context in which it is called."""


class Drives:
    """The coroutines of one manager's tasks that have been suspended and have not ended."""

    def __init__(self) -> None:
        self._homes: dict[Driver, Home] = {}
        self._watchers: dict[Driver, Callable[[Driver], None]] = {}

    def add(self, driver: Driver, home: Home) -> None:
        """Add a coroutine that has been suspended; called on its loop."""
        self._homes[driver] = home

    def remove(self, driver: Driver) -> None:
        """Remove a coroutine that has ended, and call its watcher; called on its loop."""
        self._homes.pop(driver, None)
        if self._watchers:
            self._call_watcher(driver)

    def of(self, home: Home) -> list[Driver]:
        """Return the coroutines of *home*; may be called from any thread."""
        return [driver for driver, its in self._homes.copy().items() if its is home]

    def when_ended(self, driver: Driver, call: Callable[[Driver], None]) -> None:
        """Call *call* when a coroutine has ended; at once if it has ended already."""
        self._watchers[driver] = call
        # It may have ended in between. Removing the watcher decides who calls it.
        if driver not in self._homes:
            self._call_watcher(driver)

    def _call_watcher(self, driver: Driver) -> None:
        call = self._watchers.pop(driver, None)
        if call is not None:
            call(driver)
