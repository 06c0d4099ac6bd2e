"""What an engine runs: a task's thread body, or its coroutine step by step.

Guarantees: a coroutine that swallows its cancellation can be let go, so that nothing
keeps its loop from closing; cancelling a task that is awaited in place cancels its
coroutine and not its awaiter.
Relies on: the runner for every beginning and end.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import types
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any

from framework._running.outcomes import clear_frames, raise_or_return
from framework._running.runner import Runner, enter
from framework._tasks.live import PENDING, LiveTask
from framework._tasks.records import FINAL
from framework.exceptions import TaskCancelledError, TaskInterruptedError
from framework.protocols import Kind, Run

_LOGGER = logging.getLogger("asyncframe")


class _Run:
    """What an engine does with a task; see `protocols.Run`."""

    def __init__(self, runner: Runner, deliver: Callable[[LiveTask], bool]) -> None:
        self._runner = runner
        self._deliver = deliver

    def __call__(self, task: Any, /) -> bool:  # Any: a LiveTask, as it was handed out
        """Begin with a task, with the interceptor around it if there is one."""
        runner = self._runner
        try:
            if runner.interceptor is None:
                return self._deliver(task)
            return runner.interceptor.around_delivery(task, partial(self._deliver, task))
        except Exception as error:  # an interceptor's or a closed loop's; the task must end
            runner.endings.end(task, "fail", error=error, reason="its delivery failed")
            return False
        finally:
            if runner.accounts:
                runner.release_clock(task)

    def drop(self, task: Any, error: BaseException | None, /) -> None:  # Any: as above
        """End a task that will never run."""
        runner = self._runner
        if error is not None:
            runner.refuse(task, error)
            return
        told = TaskCancelledError(task.task_id, task.name)
        reason = "its pool was shut down"
        runner.endings.end(task, "cancel", error=told, reason=reason, only_from=PENDING)
        runner.release_clock(task)


def runs_of(runner: Runner) -> dict[Kind, Run]:
    """Return what an engine does with the tasks of *runner*, for threads and for loops."""

    def start_coroutine(task: LiveTask) -> bool:
        if task.status in FINAL or task.loop is None:
            return False
        driver = Drive(runner, task, False)
        task.driver = driver
        # Kept by the task's driver: the loop itself holds its tasks weakly.
        driver.owner = task.loop.create_task(driver.main(), name=f"asyncframe {task.name}")
        return True

    return {"thread": _Run(runner, runner.run_body), "loop": _Run(runner, start_coroutine)}


class Drive:
    """Steps a task's coroutine in its own context, inside whatever awaits this object.

    Since it hands on each step itself, it can let a coroutine go that swallows its
    cancellation: nothing then keeps the loop from closing.

    Args:
        runner: Begins and ends the task.
        task: The task.
        in_place: Whether somebody awaits this who is to see the outcome.

    Attributes:
        owner: The asyncio task that awaits; known when the first step is made.
        suspended: Whether its coroutine has been suspended and has not ended.
    """

    __slots__ = (
        "_asked",
        "_baseline",
        "_closing",
        "_coroutine",
        "_in_place",
        "_abandoned",
        "_raised",
        "_run",
        "_runner",
        "_task",
        "_value",
        "owner",
        "suspended",
    )

    def __init__(self, runner: Runner, task: LiveTask, in_place: bool) -> None:
        self._in_place = in_place
        self._runner = runner
        self._task = task
        self.owner: asyncio.Task[Any] | None = None
        self._asked = self._abandoned = self._closing = self.suspended = False
        self._baseline = 0
        # What the coroutine has yielded while it is suspended, and then what its awaiter gets.
        self._value: Any = None
        self._raised: BaseException | None = None

    async def main(self) -> None:
        """Drive the task as an asyncio task of its own, which never fails."""
        started = self._runner.start(self._task)
        if started is None:
            return
        self.first_step(started)
        try:
            if self.suspended:
                await self
        except BaseException:  # told to the task's waiters; one task must not end the loop
            if self._closing:
                raise

    def request_cancel(self, *, abandon: bool = False) -> None:
        """Cancel the coroutine from any thread; with *abandon* do not wait for it to end."""
        task = self._task
        if task.loop is not None:
            self._runner.boxes.of(task.loop).post(partial(self._cancel, abandon))

    def _cancel(self, abandon: bool) -> None:
        if self.owner is None or not self._task.bodies:
            return
        self._abandoned = abandon
        self._asked = True
        self.owner.cancel()

    def first_step(self, started: float) -> None:
        """Take the first step of a task that is RUNNING since monotonic second *started*."""
        task, runner = self._task, self._runner
        context = task.context
        assert context is not None
        owner = self.owner = asyncio.current_task(task.loop)
        if owner is not None:
            self._baseline = owner.cancelling()
        if task.bodies > 1:
            context = context.copy()
        run = self._run = context.run
        try:
            coroutine = self._coroutine = self._called(task, run)
            try:
                self._value = run(coroutine.send, None)
            except StopIteration as stop:
                if task.limit is not None:
                    runner.limits.overrun(task, started)
                if not runner.endings.complete(task, stop.value) or self._asked:
                    self._keep(self._given_up, None)
                else:
                    self._value = task.result
            else:
                self.suspended = True
                # Not before: most bodies that never suspend need neither.
                runner.drives.add(self, task.home)
                if task.limit is not None:
                    runner.limits.arm(task, started)
                return
        except BaseException as error:  # a body may raise anything; its awaiter is told
            self._first_failed(error, started)
        # Each knows the other: without this, only the garbage collector would free them.
        task.driver = self.owner = None

    def _first_failed(self, error: BaseException, started: float) -> None:
        """End a task whose first step raised, or what came right after it."""
        if self.suspended:
            self.suspended = False
            self._runner.drives.remove(self)
        elif self._task.limit is not None:
            self._runner.limits.overrun(self._task, started)
        self._keep(self._failed, error)

    def _called(self, task: LiveTask, run: Callable[..., Any]) -> Any:
        """Call the task's function in its context and return its coroutine."""
        args, kwargs, fn = task.args, task.kwargs, task.spec.fn
        assert args is not None
        if self._runner.interceptor is not None:
            coroutine = run(self._runner.attempt_async, task, args, kwargs)
        else:
            run(enter, task)
            coroutine = run(fn, *args, **kwargs) if kwargs else run(fn, *args)
        return coroutine if type(coroutine) is types.CoroutineType else _coroutine(coroutine)

    def _keep(self, give: Callable[[Any], Any], value: Any) -> None:
        """Keep for `outcome` what *give* returns or raises."""
        try:
            self._value = give(value)
        except BaseException as error:
            self._raised = error

    def outcome(self) -> Any:
        """Return or raise what the awaiter gets of a coroutine that was never suspended."""
        raised = self._raised
        if raised is None:
            return self._value
        # The error's traceback holds this frame, and the frame must not hold it.
        self._raised = None
        try:
            raise raised
        finally:
            del raised

    def __await__(self) -> Generator[Any, Any, Any]:
        """Go on with a coroutine that is suspended, to its end."""
        run, coroutine = self._run, self._coroutine
        yielded, self._value = self._value, None
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
                except BaseException as error:  # handed on to the coroutine as it is
                    thrown = error
                if thrown is None:
                    yielded = run(coroutine.send, value)
                else:
                    yielded = run(coroutine.throw, thrown)
                if self._abandoned:
                    _abandon_coroutine(run, coroutine, self._task)
                    raise asyncio.CancelledError
        except StopIteration as stop:
            if self._runner.endings.complete(self._task, stop.value) and not self._asked:
                self.owner = None
                return self._task.result
            return self._given_up(None)
        except BaseException as error:
            if self._closing:
                task = self._task
                told = TaskInterruptedError(task.task_id, task.name)
                self._runner.endings.end(task, "interrupt", error=told, reason="its loop closed")
                raise
            return self._failed(error)
        finally:
            self.suspended = False
            self._runner.drives.remove(self)
            self._task.driver = None

    def _failed(self, error: BaseException) -> Any:
        """End the task whose coroutine raised, and raise what its awaiter is to see."""
        task, endings = self._task, self._runner.endings
        if not isinstance(error, asyncio.CancelledError):
            endings.body_failed(task, error)
            return self._given_up(error)
        clear_frames(error)
        told = TaskCancelledError(task.task_id, task.name)
        if self._asked:
            endings.end(task, "cancel", error=told, reason=task.reason or "it was cancelled")
        elif self.owner is not None and self.owner.cancelling() > self._baseline:
            reason = "what awaited it" if self._in_place else "its asyncio task"
            endings.end(task, "cancel", error=told, reason=f"{reason} was cancelled")
        else:
            # Its own doing: it raised this, or awaited something that was cancelled.
            endings.end(task, "fail", error=error)
        return self._given_up(error)

    def _given_up(self, error: BaseException | None) -> Any:
        """Give the direct awaiter its answer, unless somebody cancels it as well."""
        # A kept failure must not keep the awaiter's asyncio task with all that it knows.
        owner, self.owner = self.owner, None
        if owner is not None:
            if self._asked and owner.cancelling() > self._baseline:
                owner.uncancel()
            if self._in_place and owner.cancelling() > self._baseline:
                cancelled = isinstance(error, asyncio.CancelledError)
                raise error if cancelled and error is not None else asyncio.CancelledError
        return self._answer()

    def _answer(self) -> Any:
        """Return or raise the outcome to a direct awaiter; nobody hears of it otherwise."""
        return raise_or_return(self._task) if self._in_place else None


def _coroutine(awaitable: Any) -> Any:
    """Return something with ``send``, ``throw`` and ``close`` for any awaitable."""
    if inspect.iscoroutine(awaitable):
        return awaitable

    async def wait(inner: Awaitable[Any]) -> Any:
        return await inner

    return wait(awaitable)


def _abandon_coroutine(run: Callable[..., Any], coroutine: Any, task: LiveTask) -> None:
    """Close a coroutine that swallowed its cancellation; it may resist that as well."""
    try:
        run(coroutine.close)
    except BaseException:  # it did not even let itself be closed; the process goes on
        _LOGGER.warning("task %s (%s) resists being closed", task.task_id, task.name, exc_info=True)
