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
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from functools import partial
from typing import Any

from framework._outcomes import clear_frames, raise_or_return
from framework._records import TaskRecord
from framework._running import Runner
from framework._task import PENDING, LiveTask, live
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
            runner.end(task, "fail", error=error, reason="its delivery failed")
            return False
        finally:
            if runner.accounts:
                runner.let_go(task)

    def drop(self, record: TaskRecord, error: BaseException | None, /) -> None:
        """End a task that will never run."""
        runner, task = self._runner, live(record)
        if error is not None:
            runner.refuse(task, error)
            return
        told = TaskCancelledError(task.task_id, task.name)
        runner.end(task, "cancel", error=told, reason="its pool was shut down", only_from=PENDING)
        runner.let_go(task)


def runs_of(runner: Runner) -> dict[Kind, Run]:
    """Return what an engine does with the tasks of *runner*, for threads and for loops."""

    def start_coroutine(task: LiveTask) -> bool:
        if task.status.is_final or task.loop is None:
            return False
        driver = Drive(runner, task, in_place=False)
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
    """

    __slots__ = (
        "_asked",
        "_baseline",
        "_closing",
        "_in_place",
        "_let_go",
        "_runner",
        "_task",
        "owner",
    )

    def __init__(self, runner: Runner, task: LiveTask, *, in_place: bool) -> None:
        self._in_place = in_place
        self._runner = runner
        self._task = task
        self.owner: asyncio.Task[Any] | None = None
        self._baseline = 0
        self._asked = False
        self._let_go = False
        self._closing = False

    async def main(self) -> None:
        """Drive the task as an asyncio task of its own, which never fails."""
        try:
            await self
        except BaseException:  # told to the task's waiters; one task must not end the loop
            if self._closing:
                raise

    def request_cancel(self, *, let_go: bool = False) -> None:
        """Cancel the coroutine from any thread; with *let_go* do not wait for it to end."""
        task = self._task
        if task.loop is not None:
            self._runner.boxes.of(task.loop).post(partial(self._cancel, let_go))

    def _cancel(self, let_go: bool) -> None:
        if self.owner is None or not self._task.bodies:
            return
        self._let_go = let_go
        self._asked = True
        self.owner.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        task, runner = self._task, self._runner
        context, args, kwargs = task.context, task.args, task.kwargs
        self.owner = asyncio.current_task()
        if self.owner is not None:
            self._baseline = self.owner.cancelling()
        now = runner.begin(task)
        if now is None or context is None or args is None:
            return self._answer()
        if task.bodies > 1:
            context = context.copy()
        runner.add_driver(self, task.home)
        try:
            result = yield from self._steps(context, args, kwargs, now)
        except BaseException as error:
            if self._closing:
                told = TaskInterruptedError(task.task_id, task.name)
                runner.end(task, "interrupt", error=told, reason="its loop closed")
                raise
            return self._failed(error)
        else:
            if runner.end(task, "complete", result=result) and not self._asked:
                self.owner = None
                return result
            return self._given_up(None)
        finally:
            runner.remove_driver(self)

    def _steps(
        self, context: Context, args: tuple[Any, ...], kwargs: dict[str, Any] | None, started: float
    ) -> Generator[Any, Any, Any]:
        run = context.run
        coroutine = _coroutine(run(self._runner.call, self._task, args, kwargs))
        try:
            yielded = run(coroutine.send, None)
        except StopIteration as stop:
            self._runner.overrun(self._task, started)
            return stop.value
        except BaseException:
            self._runner.overrun(self._task, started)
            raise
        # Not before: most bodies that never suspend need no timer at all.
        self._runner.arm(self._task, started)
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
            try:
                if thrown is None:
                    yielded = run(coroutine.send, value)
                else:
                    yielded = run(coroutine.throw, thrown)
            except StopIteration as stop:
                return stop.value
            if self._let_go:
                _abandon_coroutine(run, coroutine, self._task)
                raise asyncio.CancelledError

    def _failed(self, error: BaseException) -> Any:
        """End the task whose coroutine raised, and raise what its awaiter is to see."""
        task, runner = self._task, self._runner
        if not isinstance(error, asyncio.CancelledError):
            runner.body_failed(task, error)
            return self._given_up(error)
        clear_frames(error)
        told = TaskCancelledError(task.task_id, task.name)
        if self._asked:
            runner.end(task, "cancel", error=told, reason=task.reason or "it was cancelled")
        elif self.owner is not None and self.owner.cancelling() > self._baseline:
            runner.end(task, "cancel", error=told, reason="what awaited it was cancelled")
        else:
            # Its own doing: it raised this, or awaited something that was cancelled.
            runner.end(task, "fail", error=error)
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
        _LOGGER.warning("task %s (%s) did not let go", task.task_id, task.name, exc_info=True)
