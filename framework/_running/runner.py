"""Running a task's body on a thread, its limit, and the one way in which a task ends.

Guarantees: whatever a body raises ends its task and nothing else; a task ends once, and
its waiters, sinks and hooks hear of it once; an outcome that comes after the end is
dropped and counted.
Relies on: the ledger for every move.
"""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from framework._running.hooks import run_hooks
from framework._running.ledger import Ledger
from framework._running.log import report_unread
from framework._running.outcomes import clear_frames
from framework._tasks.current import current_record
from framework._tasks.ids import explain_await
from framework._tasks.jsonsafe import safe_str
from framework._tasks.live import PENDING, RUNNING, Home, LiveTask, Move, Sleeper, live
from framework._tasks.records import TaskEvent, TaskRecord, TaskStatus
from framework._threads.clock import SystemClock
from framework._threads.deadlines import Deadlines
from framework._threads.waiters import Mailboxes, wake_all
from framework.exceptions import TaskCancelledError, TaskTimeoutError
from framework.protocols import Interceptor, Kind, Run, TaskEngine

_LOGGER = logging.getLogger("asyncframe")

_SPARE = 128
"""One in so many finished tasks is forgotten at once when there are too many."""


class Driver(Protocol):
    """What drives a coroutine; see `coroutines.Drive`."""

    owner: asyncio.Task[Any] | None

    def request_cancel(self, *, let_go: bool = False) -> None:
        """Cancel the coroutine from any thread; with *let_go* do not wait for it to end."""


class Runner:
    """Runs the tasks of one manager.

    Args:
        ledger: Where tasks move.
        boxes: The loops' mailboxes.
        engine: Where tasks run.
        interceptor: Takes part in deliveries and attempts; None for nobody.
        max_finished: How many finished tasks are kept, from 0 on.
    """

    def __init__(
        self,
        ledger: Ledger,
        boxes: Mailboxes,
        engine: TaskEngine,
        interceptor: Interceptor | None,
        max_finished: int,
    ) -> None:
        self.ledger = ledger
        self.boxes = boxes
        self.engine = engine
        self.interceptor = interceptor
        self.max_finished = max_finished
        self.monotonic = ledger.clock.monotonic
        # Real time stands still for nobody, so nobody need tell it of queued work.
        self.accounts = not isinstance(ledger.clock, SystemClock)
        # Makes of a result what every process will read; None if only this one does.
        self.settle = None if ledger.shared is None else ledger.shared.settle
        self.deadlines: Deadlines[LiveTask] = Deadlines(ledger.clock, self._expire)
        # Has finished tasks forgotten where else they are known; None if nowhere.
        self.forget: Callable[[list[str]], None] | None = None
        self.runs: dict[Kind, Run] = {}
        self._drivers: dict[Driver, Home] = {}
        self._watchers: dict[Driver, Callable[[Driver], None]] = {}

    # -- beginning

    def launch(self, task: LiveTask) -> None:
        """Hand an accepted task to the engine."""
        if self.accounts:
            self._hold(task)
        kind = task.spec.kind
        try:
            self.engine.start(task, kind, self.runs[kind])
        except Exception as error:  # the id is given already: the task must end, with this
            self.refuse(task, error)
        # 1 a task that is cancelled lets go, 2 it is held, 3 the engine finds that it ended
        # and never runs it, so nobody else lets go.
        if self.accounts and task.status.is_final and not task.bodies:
            self.let_go(task)

    def refuse(self, task: LiveTask, error: BaseException) -> None:
        """End a task FAILED that could not be started."""
        self.end(task, "fail", error=error, reason="it could not be started", only_from=PENDING)
        self.let_go(task)

    def begin(self, task: LiveTask) -> float | None:
        """Move a task to RUNNING and return its start, or None if it has ended."""
        now = self.monotonic()
        if not self.ledger.start(task, now):
            return None
        if task.outbox is not None:
            self.ledger.tell(task)
        return now

    def add_driver(self, driver: Driver, home: Home) -> None:
        """Note a coroutine whose body begins, until `remove_driver`; on its loop."""
        self._drivers[driver] = home

    def remove_driver(self, driver: Driver) -> None:
        """Forget a coroutine whose body has ended."""
        self._drivers.pop(driver, None)
        if self._watchers:
            self._tell_watcher(driver)

    def when_ended(self, driver: Driver, call: Callable[[Driver], None]) -> None:
        """Have *call* called once a coroutine's body has ended, at once if it has."""
        self._watchers[driver] = call
        # It may have ended before it was watched; whoever takes the watcher out calls it.
        if driver not in self._drivers:
            self._tell_watcher(driver)

    def _tell_watcher(self, driver: Driver) -> None:
        call = self._watchers.pop(driver, None)
        if call is not None:
            call(driver)

    def drivers_of(self, home: Home) -> list[Driver]:
        """Return the coroutines of *home* whose bodies have not ended; any thread."""
        return [driver for driver, its in self._drivers.copy().items() if its is home]

    # -- a body on a thread

    def run_body(self, task: LiveTask) -> bool:
        """Run a task's function on this thread, to its end; False if it has ended."""
        context, args, kwargs = task.context, task.args, task.kwargs
        if context is None or args is None:
            return False
        now = self.monotonic()
        if not self.ledger.start(task, now):
            return False
        if task.outbox is not None:
            self.ledger.tell(task)
        if task.bodies > 1:
            # A context can be entered only once; a further delivery gets its own.
            context = context.copy()
        if task.limit is not None:
            self.arm(task, now)
        run = context.run
        try:
            run(enter, task)
            if self.interceptor is None:
                fn = task.spec.fn
                result = run(fn, *args, **kwargs) if kwargs else run(fn, *args)
            else:
                result = run(self._attempt, task, args, kwargs)
            if type(result) is types.CoroutineType:
                result.close()
                raise TypeError(
                    f"{task.name} is no async function but returned a coroutine, which nobody "
                    "would await: submit the async function itself"
                )
        except BaseException as error:  # a body may raise anything; the thread lives on
            self.body_failed(task, error)
        else:
            self.complete(task, result)
        return True

    def attempt_async(
        self, task: LiveTask, args: tuple[Any, ...], kwargs: dict[str, Any] | None
    ) -> Any:
        """Call an async task's function with the interceptor, in the task's context."""
        enter(task)
        return self._attempt(task, args, kwargs)

    def _attempt(self, task: LiveTask, args: tuple[Any, ...], named: dict[str, Any] | None) -> Any:
        """Run the function with the interceptor around each attempt."""
        assert self.interceptor is not None
        kwargs = named or {}
        around = self.interceptor.around_attempt
        fn: Any = task.spec.fn  # with an attribute that only a retried function has
        if task.spec.attempts_inside:

            def attempt(call: Callable[[], Any]) -> Any:
                return around(task, task.attempts, call)

            return fn.__asyncframe_attempts__(attempt, args, kwargs)
        return around(task, task.attempts, partial(fn, *args, **kwargs))

    # -- what policies need of the tasks they act in; see `policies.PolicyHost`

    def announce(
        self,
        kind: str,
        name: str,
        record: TaskRecord | None,
        delay: float,
        error: BaseException | None,
    ) -> None:
        """Count a retry's or throttle's wait and tell the sinks of it."""
        if record is not None:
            self.ledger.announce(kind, live(record), delay, error)
            return
        self.ledger.count(kind)
        if not self.ledger.sinks:
            return
        clock = self.ledger.clock
        self.ledger.publish(
            TaskEvent(kind, None, name, clock.monotonic(), clock.time(), delay=delay, error=error)
        )

    def begin_attempt(self, record: TaskRecord) -> None:
        """Count one more attempt of a running task."""
        with self.ledger.lock:
            record.attempts += 1
        self.ledger.changed(live(record))

    def begin_sleep(
        self, record: TaskRecord, sleeper: Sleeper, reason: str, error: BaseException | None
    ) -> None:
        """Note who sleeps in a task, and why; interrupt at once if the task is not wanted."""
        task = live(record)
        text = None if error is None else f"{type(error).__name__}: {safe_str(error)}"
        with self.ledger.lock:
            task.sleeper = sleeper
            unwanted = task.cancel_requested or task.status is not RUNNING
            if not unwanted:
                task.reason = reason
                task.last_error = text
        if unwanted:
            sleeper.interrupt()
        else:
            self.ledger.changed(task)

    def end_sleep(self, record: TaskRecord, reason: str) -> None:
        """Forget who slept, and why, unless there is another reason by now."""
        task = live(record)
        with self.ledger.lock:
            task.sleeper = None
            ours = task.status is RUNNING and task.reason is reason
            if ours:
                task.reason = ""
                task.last_error = None
        if ours:
            self.ledger.changed(task)

    # -- limits

    def arm(self, task: LiveTask, started: float) -> None:
        """Let a task's limit count from *started*."""
        if task.limit is not None and task.limit_left is None:
            task.limit_key = task.limit
            self.deadlines.add(task, task.limit, started)

    def overrun(self, task: LiveTask, started: float) -> None:
        """End a task TIMEOUT whose body has just ended, past its limit and never armed."""
        limit = task.limit
        if limit is not None and task.limit_left is None and self.monotonic() - started >= limit:
            self._expire(task)

    def disarm(self, task: LiveTask) -> None:
        """Let a task's limit count no more."""
        if task.limit_key is not None:
            self.deadlines.remove(task, task.limit_key)
            task.limit_key = None

    def suspend_limit(self, record: TaskRecord) -> None:
        """Stop the time of a running task's limit."""
        task = live(record)
        if task.limit is None or task.started is None:
            return
        now = self.monotonic()
        deadline: float | None = task.started + task.limit
        if task.limit_key is not None:
            deadline = self.deadlines.remove(task, task.limit_key)
            task.limit_key = None
        # None: it fires right now, on another thread.
        task.limit_left = 0.0 if deadline is None else max(deadline - now, 1e-9)

    def resume_limit(self, record: TaskRecord) -> None:
        """Let the time of a running task's limit go on."""
        task = live(record)
        if task.limit_left and task.status is RUNNING:
            task.limit_key = task.limit_left
            self.deadlines.add(task, task.limit_left, self.monotonic())

    def _expire(self, task: LiveTask) -> None:
        assert task.limit is not None
        error = TaskTimeoutError(task.task_id, task.name, task.limit)
        self.end(task, "time_out", error=error, reason="it ran past its limit", body_ended=False)

    def stop_body(self, task: LiveTask) -> None:
        """Ask the body of a task that is final, or shall be, to stop.

        A coroutine is cancelled. A thread cannot be stopped: its sleep in a retry or a
        throttle ends, and if the task is final its place in the pool is given to another.
        """
        sleeper: Sleeper | None = task.sleeper
        if sleeper is not None:
            sleeper.interrupt()
        if task.driver is not None:
            task.driver.request_cancel()
        elif task.status.is_final:
            self.engine.abandon(task)

    # -- ending

    def body_failed(self, task: LiveTask, error: BaseException) -> None:
        """End a task whose body raised; told by who did it, not by the error's type."""
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
            task, "complete", self.monotonic() if now is None else now, result
        )
        if waiters is None:
            self._late(task)
            return False
        self._let_know(task, waiters)
        return True

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
            self.monotonic() if now is None else now,
            None,
            error,
            error.__traceback__,
            reason,
            only_from,
            body_ended and only_from is None,
        )
        if waiters is None:
            if move == "fail" and body_ended and only_from is None:
                self._late(task)
            return False
        if not body_ended:
            # Before anyone hears of it: the pool's figures then tell the same.
            self.stop_body(task)
        self._let_know(task, waiters)
        return True

    def _let_know(self, task: LiveTask, waiters: dict[Any, None]) -> None:
        """Keep a task that has just ended, and tell everyone."""
        ledger = self.ledger
        if task.limit_key is not None:
            self.disarm(task)
        ledger.keep(task)
        if task.outbox is not None:
            ledger.tell(task)
        if ledger.kept > self.max_finished:
            # Some more than it must, so that not every further task has to.
            self.evict(keep=self.max_finished - self.max_finished // _SPARE)
        if waiters:
            wake_all(waiters)
        if task.rest is not None and task.hooks is not None:
            run_hooks(task, ledger.snapshot)
        home = task.home
        on_idle = home.on_idle
        if on_idle is not None and not home.live:
            on_idle()

    def evict(self, *, ended_before: float | None = None, keep: int | None = None) -> int:
        """Remove finished tasks from the store; return how many."""
        ledger = self.ledger
        wanted = self.forget is not None or "evicted" in ledger.sinks
        removed, records = ledger.store.remove(
            ended_before=ended_before, keep=keep, completed=wanted
        )
        ids = []
        for record in records:
            report_unread(record)
            ids.append(str(record.task_id))
            if ledger.sinks:
                ledger.tell_evicted(record)
        if ids and self.forget is not None:
            self.forget(ids)
        if removed:
            with ledger.lock:
                # What others have put there is removed as well, and was never counted.
                ledger.kept = max(0, ledger.kept - removed)
                ledger.extra["evicted"] += removed
        return removed

    def _late(self, task: LiveTask) -> None:
        self.ledger.count_late(task)

    # -- the clock's account of queued work

    def _hold(self, task: LiveTask) -> None:
        task.held = True
        self.ledger.clock.hold()

    def let_go(self, task: LiveTask) -> None:
        """Give back what `launch` took from the clock; harmless to call twice."""
        if not self.accounts:
            return
        with self.ledger.lock:
            held, task.held = task.held, False
        if held:
            self.ledger.clock.release()


enter = current_record.set
"""Makes a task the current one, in the context that it is called in."""
