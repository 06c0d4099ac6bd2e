"""Handing tasks to the engine, and running the body of one on a thread.

Guarantees: a task that was handed over is run, or ends FAILED; what the clock was told of
queued work is taken back once.
Relies on: the ledger for the beginning, the endings for the end.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Any

from framework._running.drives import Drives
from framework._running.endings import Endings
from framework._tasks.current import current_record
from framework._tasks.live import PENDING, LiveTask
from framework._tasks.records import FINAL, Kind
from framework._threads.clock import SystemClock
from framework._threads.waiters import Mailboxes
from framework.protocols import Interceptor, Run, TaskEngine


class Runner:
    """Runs the tasks of one manager.

    Args:
        endings: How tasks end, and the ledger in which they move.
        boxes: The loops' mailboxes.
        engine: Where tasks run.
        interceptor: Takes part in deliveries and attempts; None for nobody.

    Attributes:
        runs: What the engine does with a task of each kind; see `coroutines.runs_of`.
        drives: The coroutines whose bodies have not ended.
        accounts: Whether the clock is told of queued work.
    """

    def __init__(
        self,
        endings: Endings,
        boxes: Mailboxes,
        engine: TaskEngine,
        interceptor: Interceptor | None,
    ) -> None:
        self.endings = endings
        self.limits = endings.limits
        self.ledger = endings.ledger
        self.boxes = boxes
        self.engine = engine
        self.interceptor = interceptor
        self.runs: dict[Kind, Run] = {}
        self.drives = Drives()
        # Real time stands still for nobody, so nobody need tell it of queued work.
        self.accounts = not isinstance(self.ledger.clock, SystemClock)
        self._monotonic = self.ledger.clock.monotonic

    def launch(self, task: LiveTask) -> None:
        """Hand an accepted task to the engine."""
        if self.accounts:
            self._hold_clock(task)
        kind = task.spec.kind
        try:
            self.engine.start(task, kind, self.runs[kind])
        except Exception as error:  # the id is given already: the task must end, with this
            self.refuse(task, error)
        # 1 a task that is cancelled lets go, 2 it is held, 3 the engine finds that it ended
        # and never runs it, so nobody else lets go.
        if self.accounts and task.status in FINAL and not task.bodies:
            self.release_clock(task)

    def refuse(self, task: LiveTask, error: BaseException) -> None:
        """End a task FAILED that could not be started."""
        reason = "it could not be started"
        self.endings.end(task, "fail", error=error, reason=reason, only_from=PENDING)
        self.release_clock(task)

    def start(self, task: LiveTask) -> float | None:
        """Move a task to RUNNING and return its start, or None if it has ended."""
        now = self._monotonic()
        if not self.ledger.start(task, now):
            return None
        if task.outbox is not None:
            self.ledger.flush(task)
        return now

    def run_body(self, task: LiveTask) -> bool:
        """Run a task's function on this thread, to its end; False if it has ended."""
        context, args, kwargs = task.context, task.args, task.kwargs
        if context is None or args is None:
            return False
        # As `start` does it: every task that runs on a thread would pay for the call.
        now = self._monotonic()
        if not self.ledger.start(task, now):
            return False
        if task.outbox is not None:
            self.ledger.flush(task)
        if task.bodies > 1:
            # A context can be entered only once; a further delivery gets its own.
            context = context.copy()
        if task.limit is not None:
            self.limits.arm(task, now)
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
                    f"{task.name} is not an async function but returned a coroutine, which nobody "
                    "would await: submit the async function itself"
                )
        except BaseException as error:  # a body may raise anything; the thread lives on
            self.endings.body_failed(task, error)
        else:
            self.endings.complete(task, result)
        return True

    # -- attempts, with an interceptor

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

    # -- what the clock knows of queued work

    def _hold_clock(self, task: LiveTask) -> None:
        task.held = True
        self.ledger.clock.hold()

    def release_clock(self, task: LiveTask) -> None:
        """Release what `launch` held of the clock; harmless to call twice."""
        if not self.accounts:
            return
        with self.ledger.lock:
            held, task.held = task.held, False
        if held:
            self.ledger.clock.release()


enter = current_record.set
"""Makes a task the current one, in the context that it is called in."""
