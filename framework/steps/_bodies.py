"""Steps as they are declared, and who is told of their bodies: tracers, and a test's own code."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, ParamSpec, TypeVar

from framework._records.records import STEPS_CHANGED, Kind
from framework._running.events import Events
from framework._tasks.functions import name_of
from framework._tasks.live import LiveTask
from framework.protocols import Interceptor
from framework.steps._branches import current_branch

P = ParamSpec("P")
T = TypeVar("T")


class DeclaredStep(NamedTuple):
    """A function that is a step.

    Attributes:
        name: Its module and qualified name.
        fn: The function.
        key: Says of a call's arguments what its work is; None if they say it themselves.
        once: Whether it is not run again if it was cut off.
        starts_first: Whether its start is recorded before its body is run.
        twin: What a task of the other kind calls instead; "" for nothing.
    """

    name: str
    fn: Callable[..., Any]
    key: Callable[..., Any] | None = None
    once: bool = False
    starts_first: bool = False
    twin: str = ""

    def require_kind(self, task: LiveTask, kind: Kind) -> None:
        """Refuse to be called by a task of the other kind, whose branches nobody could order.

        Args:
            task: The task that calls it.
            kind: Its own kind.

        Raises:
            TypeError: If the task is not of that kind.
        """
        if kind == task.spec.kind:
            return
        here, there = ("async def", "def") if kind == "loop" else ("def", "async def")
        cure = f"call {self.twin} instead, or make the task {here}"
        if not self.twin:
            cure = (
                f"make the step {there}, or the task {here}; an async step can call blocking code "
                "by await asyncio.to_thread(...)"
            )
        raise TypeError(
            f"step {self.name} is {here}, and the task {name_of(task.spec.fn)} that calls it is "
            f"{there}: {cure}"
        )

    def require_loop(self, main: asyncio.Task[Any] | None) -> None:
        """Refuse to be called on another event loop, which could not be woken from its task's.

        Args:
            main: The asyncio task that runs the task's function.

        Raises:
            RuntimeError: If it runs on another loop.
        """
        if main is not None and main.get_loop() is not asyncio.get_running_loop():
            raise RuntimeError(
                f"step {self.name} was called on another event loop than that of its task: await "
                "it in a coroutine of the task; a thread calls it there by "
                "asyncio.run_coroutine_threadsafe(...)"
            )


def refused_in_sync_tasks(
    declared: DeclaredStep,
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Return a decorator: what it decorates raises where a sync task calls it, as for a step.

    Such a task cannot await it. Without an error it would go on with a coroutine that never runs.
    """

    def decorate(call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        @functools.wraps(call)
        def checked_inner(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
            branch = current_branch()
            if branch is not None:
                declared.require_kind(branch.run.task, "loop")
            return call(*args, **kwargs)

        return _marked_as_async(checked_inner)

    return decorate


def _marked_as_async(fn: Callable[P, T]) -> Callable[P, T]:
    """Let a sync function that returns a coroutine count as an ``async def`` one."""
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(fn)
    # Only `inspect` reads this flag: what makes a coroutine is an instruction of the code.
    code = fn.__code__
    fn.__code__ = code.replace(co_flags=code.co_flags | inspect.CO_COROUTINE)
    return fn


class Bodies:
    """Runs the bodies of steps.

    Args:
        events: Has the tracers.
        interceptor: Is called around the bodies; None for none.
    """

    def __init__(self, events: Events, interceptor: Interceptor | None) -> None:
        self._events = events
        self._interceptor = interceptor

    def run(self, task: LiveTask, name: str, body: Callable[[], Any]) -> Any:
        """Run the body of a sync step, and return its result."""
        with self._events.step(task, name):
            return self._intercepted(task, name, body)

    async def await_(self, task: LiveTask, name: str, body: Callable[[], Awaitable[Any]]) -> Any:
        """Run the body of an async step, and return its result."""
        with self._events.step(task, name):
            return await self._intercepted(task, name, body)

    def changed(self, task: LiveTask) -> None:
        """Tell those who follow the task that a step of it has begun or ended."""
        self._events.emit(STEPS_CHANGED, task, task.status, task.attempts)

    def _intercepted(self, task: LiveTask, name: str, body: Callable[[], Any]) -> Any:
        around = self._interceptor
        return body() if around is None else around.around_step(task, name, body)
