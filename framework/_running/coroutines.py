"""Coroutines: what an engine calls to run a task, and `Drive`, which steps a coroutine.

Guarantees: a coroutine that swallows its cancellation can be abandoned, so that its loop can
close; cancelling a task that is awaited in place cancels its coroutine and not its awaiter.
Relies on: the runner to start tasks, the endings to end them; a `Drive` is only used on its
task's loop, except for `request_cancel`.
Lock order: none is held here.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, cast

from framework._records.statuses import CANCELLED, FAILED, FINAL, INTERRUPTED, PENDING
from framework._running.log import report_unread
from framework._running.outcomes import raise_or_return
from framework._running.runner import Runner, set_current
from framework._tasks.live import LiveTask
from framework._threads.frames import clear_frames
from framework._threads.loggers import SafeLogger
from framework.exceptions import TaskCancelledError, TaskInterruptedError
from framework.protocols import Kind, Run

_LOGGER = SafeLogger("asyncframe")


class _Starter:
    """Starts coroutines in asyncio tasks of their loops."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def start(self, task: LiveTask) -> bool:
        """Start a task in an asyncio task of its own; False if it is final."""
        if task.status in FINAL or task.loop is None:
            return False
        self._start_alone(Drive(self._runner, task, False))
        return True

    def together(self, first: LiveTask, tasks: Iterator[LiveTask]) -> asyncio.Task[None]:
        """Start *tasks*, of which one is the *first*, in the asyncio task that is returned.

        A task that is suspended keeps that for itself, and those after it get their own.
        *tasks* is read when the loop runs the asyncio task.
        """
        drives = (Drive(self._runner, task, False) for task in tasks)
        return _asyncio_task(first, self._run_in_turn(drives))

    def _start_alone(self, drive: Drive) -> None:
        drive._task.driver = drive
        # The driver keeps the asyncio task alive: a loop has only weak references to its tasks.
        drive.asyncio_task = _asyncio_task(drive._task, self._run_in_turn(iter((drive,))))

    async def _run_in_turn(self, drives: Iterator[Drive]) -> None:
        runner, awaiter = self._runner, asyncio.current_task()
        assert awaiter is not None
        drive: Drive | None = None
        try:
            for place, drive in enumerate(drives):
                task = drive._task
                started = runner.start(task)
                if started is None:
                    continue
                if place:
                    awaiter.set_name(_name(task))
                task.driver = drive
                drive.first_step(started)
                # Nor may one that has cancelled its asyncio task leave it to the others.
                if drive.suspended or awaiter.cancelling():
                    break
        finally:
            for other in drives:
                self._start_alone(other)
        if drive is not None and drive.suspended:
            await drive.end()


def _asyncio_task(task: LiveTask, steps: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Return a new asyncio task on the loop of *task*, named after it, that runs *steps*."""
    assert task.loop is not None
    return task.loop.create_task(steps, name=_name(task))


def _name(task: LiveTask) -> str:
    return f"asyncframe {task.name}"


def runs_of(runner: Runner) -> dict[Kind, Run]:
    """Return what an engine calls with the tasks of *runner*, for threads and for loops.

    In real time, without an interceptor, the run for loops has an attribute ``together``; see
    `_Starter.together`.
    """
    starter = _Starter(runner)
    run_body = runner.body_runner()
    watched = runner.interceptor is not None or runner.holds_clock
    runs = {
        "thread": _watched(runner, run_body) if watched else run_body,
        "loop": _watched(runner, starter.start),
    }
    for run in runs.values():
        # A function with an attribute, since an object with `__call__` takes twice as long to call.
        run.drop = partial(_drop, runner)  # type: ignore[attr-defined]
    if not watched:
        runs["loop"].together = starter.together  # type: ignore[attr-defined]
    return cast("dict[Kind, Run]", runs)


def _watched(runner: Runner, deliver: Callable[[LiveTask], bool]) -> Callable[[LiveTask], bool]:
    """Return *deliver* inside the interceptor's `around_delivery`; its errors end the task."""

    def run(task: LiveTask) -> bool:
        try:
            if runner.interceptor is None:
                return deliver(task)
            return runner.interceptor.around_delivery(task, partial(deliver, task))
        except Exception as error:  # of an interceptor or a closed loop; the task must end
            runner.endings.end(task, FAILED, error=error, reason="its delivery failed")
            return False
        finally:
            if runner.holds_clock:
                runner.release_clock(task)

    return run


def _drop(runner: Runner, task: LiveTask, error: BaseException | None) -> None:
    """End a task that will never run."""
    if error is not None:
        runner.refuse(task, error)
        return
    cancelled = TaskCancelledError(task.task_id, task.name)
    reason = "its pool was shut down"
    runner.endings.end(task, CANCELLED, error=cancelled, reason=reason, only_from=PENDING)
    runner.release_clock(task)


class Drive:
    """Steps a task's coroutine in the task's context; an asyncio task awaits this object.

    Since it passes on each step itself, it can abandon a coroutine that swallows its
    cancellation: its loop can then close.

    Args:
        runner: Starts and ends the task.
        task: The task.
        in_place: Whether the code that awaits this object gets the outcome.

    Attributes:
        in_place: Like the argument.
        asyncio_task: The asyncio task that awaits this object; set at the first step at the latest.
        suspended: Whether the coroutine has been suspended by its first step.
        value: What it has yielded while it is suspended; later what its awaiter gets, unless
            `raised` is set.
        raised: What its awaiter gets raised if it was never suspended; None for nothing.
    """

    __slots__ = (
        "_abandoned",
        "_baseline",
        "_cancel_requested",
        "_closing",
        "_coroutine",
        "_run",
        "_runner",
        "_task",
        "in_place",
        "asyncio_task",
        "raised",
        "suspended",
        "value",
    )

    def __init__(self, runner: Runner, task: LiveTask, in_place: bool) -> None:
        self.in_place = in_place
        self._runner = runner
        self._task = task
        self.asyncio_task: asyncio.Task[Any] | None = None
        self._cancel_requested = self._abandoned = False
        self._closing = self.suspended = False
        # How often the awaiter had been cancelled before the first step.
        self._baseline = 0
        self.value: Any = None
        self.raised: BaseException | None = None

    async def end(self) -> None:
        """Wait until the suspended coroutine has ended; raises nothing."""
        # The waiters get it; a SystemExit here would end the loop.
        with suppress(BaseException):
            await self

    def request_cancel(self, *, abandon: bool = False) -> None:
        """Cancel the coroutine from any thread; with *abandon* do not wait for it to end."""
        task = self._task
        if task.loop is not None:
            self._runner.boxes.of(task.loop).post(partial(self._cancel, abandon))

    def _cancel(self, abandon: bool) -> None:
        if self.asyncio_task is None or not self._task.bodies:
            return
        self._abandoned = abandon
        self._cancel_requested = True
        self.asyncio_task.cancel()

    def first_step(self, started: float) -> None:
        """Take the first step of a task that is RUNNING since monotonic second *started*."""
        task, runner = self._task, self._runner
        context = task.context
        assert context is not None
        awaiter = self.asyncio_task = asyncio.current_task(task.loop)
        if awaiter is not None:
            self._baseline = awaiter.cancelling()
        if task.bodies > 1:
            context = context.copy()
        run = context.run
        try:
            coroutine = self._call_function(task, run)
            try:
                self.value = run(coroutine.send, None)
            except StopIteration as stop:
                now = runner.monotonic()
                if task.limit is not None and now - started >= task.limit:
                    runner.limits.overrun(task)
                if not runner.endings.complete(task, stop.value, now) or self._cancel_requested:
                    self._keep_outcome(self._answer, None)
                else:
                    self.value = task.result
            else:
                self.suspended = True
                self._run, self._coroutine = run, coroutine
                # Only now: a coroutine that is never suspended needs neither.
                runner.drives.add(self, task.home)
                if task.limit is not None:
                    runner.limits.arm(task, started)
                return
        except BaseException as error:  # a body may raise anything; its awaiter gets it
            self._first_step_failed(error, started)
        # Break the cycle of task, driver and awaiter, which would wait for a garbage collection.
        task.driver = self.asyncio_task = None

    def _first_step_failed(self, error: BaseException, started: float) -> None:
        """End a task whose first step raised, or what followed it in `first_step`."""
        limit = self._task.limit
        if self.suspended:
            self._runner.drives.remove(self)
        elif limit is not None and self._runner.monotonic() - started >= limit:
            self._runner.limits.overrun(self._task)
        self._keep_outcome(self._failed, error)

    def _call_function(self, task: LiveTask, run: Callable[..., Any]) -> Any:
        """Call the task's function in its context and return its coroutine."""
        args, kwargs, fn = task.args, task.kwargs, task.spec.fn
        assert args is not None
        if self._runner.interceptor is not None or task.spec.resumes:
            coroutine = run(self._runner.attempt_here, task, args, kwargs)
        else:
            run(set_current, task)
            coroutine = run(fn, *args, **kwargs) if kwargs else run(fn, *args)
        return coroutine if type(coroutine) is types.CoroutineType else _coroutine(coroutine)

    def _keep_outcome(self, of: Callable[[Any], Any], value: Any) -> None:
        """Keep for `outcome` what ``of(value)`` returns or raises."""
        try:
            self.value = of(value)
        except BaseException as error:
            self.raised = error

    def outcome(self) -> Any:
        """Return or raise what the awaiter gets if the coroutine was never suspended."""
        raised = self.raised
        if raised is None:
            return self.value
        # Its traceback refers to this frame: a reference back would make a cycle.
        self.raised = None
        try:
            raise raised
        finally:
            del raised

    def __await__(self) -> Generator[Any, Any, Any]:
        """Step a suspended coroutine until it ends."""
        run, coroutine = self._run, self._coroutine
        yielded, self.value = self.value, None
        try:
            while True:
                thrown: BaseException | None = None
                value = None
                try:
                    value = yield yielded
                except GeneratorExit:
                    self._closing = True
                    run(coroutine.close)
                    raise
                except BaseException as error:  # passed on to the coroutine as it is
                    thrown = error
                if thrown is None:
                    yielded = run(coroutine.send, value)
                else:
                    yielded = run(coroutine.throw, thrown)
                if self._abandoned:
                    _abandon_coroutine(run, coroutine, self._task)
                    raise asyncio.CancelledError
        except StopIteration as stop:
            if self._runner.endings.complete(self._task, stop.value) and not self._cancel_requested:
                self.asyncio_task = None
                return self._task.result
            return self._answer(None)
        except BaseException as error:
            if self._closing:
                task = self._task
                closed = TaskInterruptedError(task.task_id, task.name)
                self._runner.endings.end(
                    task, INTERRUPTED, error=closed, reason="its event loop was closed"
                )
                raise
            return self._failed(error)
        finally:
            self._runner.drives.remove(self)
            self._task.driver = None

    def _failed(self, error: BaseException) -> Any:
        """End the task whose coroutine raised *error*, and answer its awaiter."""
        task, endings = self._task, self._runner.endings
        if not isinstance(error, asyncio.CancelledError):
            endings.body_failed(task, error)
            return self._answer(error)
        clear_frames(error)
        cancelled = TaskCancelledError(task.task_id, task.name)
        if self._cancel_requested:
            endings.end(task, CANCELLED, error=cancelled, reason=task.reason or "it was cancelled")
        elif self.asyncio_task is not None and self.asyncio_task.cancelling() > self._baseline:
            reason = "the coroutine that awaited it" if self.in_place else "its asyncio task"
            endings.end(task, CANCELLED, error=cancelled, reason=f"{reason} was cancelled")
        else:
            # Nobody cancelled the task: it raised this, or awaited something cancelled.
            endings.end(task, FAILED, error=error)
        return self._answer(error)

    def _answer(self, error: BaseException | None) -> Any:
        """Return or raise the task's outcome, if it runs in place.

        If the awaiter itself was cancelled too, its CancelledError is raised instead.
        """
        # Not kept: an error that is stored would keep the asyncio task of the awaiter alive.
        awaiter, self.asyncio_task = self.asyncio_task, None
        if awaiter is not None:
            if self._cancel_requested and awaiter.cancelling() > self._baseline:
                awaiter.uncancel()
            if self.in_place and awaiter.cancelling() > self._baseline:
                # It was left to a waiter which then did not read it.
                report_unread((self._task,))
                cancelled = isinstance(error, asyncio.CancelledError)
                raise error if cancelled and error is not None else asyncio.CancelledError
        return raise_or_return(self._task) if self.in_place else None


async def _coroutine(awaitable: Awaitable[Any]) -> Any:
    """Make a coroutine, with ``send``, ``throw`` and ``close``, of any awaitable."""
    return await awaitable


def _abandon_coroutine(run: Callable[..., Any], coroutine: Any, task: LiveTask) -> None:
    """Close a coroutine that swallowed its cancellation; it may refuse to be closed, too."""
    try:
        run(coroutine.close)
    except BaseException:  # it refused to be closed, too: log it and go on
        _LOGGER.warning("task %s (%s) resists being closed", task.task_id, task.name, exc_info=True)
