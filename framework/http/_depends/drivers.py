"""Drivers: take the steps of a scope on a thread or on an event loop, wherever they belong.

An ``async def`` task takes async steps in place and sync ones on threads of their own: not on
the pool, whose threads may wait for this very task, and not on the threads of FastAPI, of which
there are as few as there are requests at a time. A task on a thread takes sync steps in place,
and async ones in an asyncio task on its app's loop, in which they are opened and closed.

Guarantees: what a step sets in context variables is seen by the steps after it and by the task's
function. Closing never waits for a free thread.
Relies on: the clock's waits, so that virtual time knows who waits.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final  # dependencies return anything

from framework._manager.core import Core
from framework._tasks.current import current_record
from framework._threads.user_threads import DEPENDENCY, call_on_thread
from framework._threads.waiters import ThreadWaiter
from framework.http._depends.scope import Step, Steps
from framework.protocols import Clock

_MOST_OPENING: Final = 40
"""How many threads of one loop open dependencies at a time."""

_MISSING: Final = object()


def carry(source: Context) -> None:
    """Set the context variables of *source* here, where they differ."""
    for variable, value in source.items():
        if variable.get(_MISSING) is not value:
            variable.set(value)


# -- a task on a thread


def take_steps(steps: Steps, companion: Companion) -> Any:
    """Take sync steps in place and async ones on the loop; return the result of *steps*."""
    value: Any = None
    error: BaseException | None = None
    try:
        while True:
            try:
                step = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as stop:
                return stop.value
            value = error = None
            try:
                value = companion.run(step.call) if step.is_async else step.call()
            except BaseException as raised:  # thrown into the steps
                error = raised
    finally:
        # Its traceback refers to this frame: a reference back would make a cycle.
        del error


class Companion:
    """Runs the async dependencies of one attempt on a loop, for a task on a thread.

    In one asyncio task, since a timeout or a task group must be left where it was entered.
    """

    __slots__ = ("_errands", "_idle", "_is_over", "_loop", "_task")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._errands: deque[_Errand] = deque()
        self._idle: asyncio.Future[None] | None = None
        self._is_over = False

    def run(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Await *call* on the loop; block until it has ended, and return or raise its outcome.

        Raises:
            RuntimeError: If the task's app has no running loop.
        """
        task = current_record.get()
        loop = self._loop = None if task is None else task.loop
        if task is None or loop is None or loop.is_closed():
            raise RuntimeError(
                "an async dependency needs the event loop of an app, but there is none here: set "
                "up the framework on an event loop, or make the dependency a plain function"
            )
        core = task.home.core
        assert isinstance(core, Core)
        errand = _Errand(call, core.clock)
        loop.call_soon_threadsafe(partial(self._take, errand, f"asyncframe {task.name}: Depends"))
        return errand.outcome()

    def end(self) -> None:
        """End the asyncio task, if there is one; it has closed its dependencies by now."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._finish)

    # -- on the loop

    def _take(self, errand: _Errand, name: str) -> None:
        assert self._loop is not None
        self._errands.append(errand)
        if self._task is None:
            self._task = self._loop.create_task(self._serve(), name=name, context=errand.context)
            self._task.add_done_callback(self._fail_rest)
        elif self._task.done():
            self._fail_rest(self._task)
        else:
            self._awaken()

    def _finish(self) -> None:
        self._is_over = True
        self._awaken()

    def _awaken(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def _serve(self) -> None:
        assert self._loop is not None
        while not self._is_over:
            while self._errands:
                await self._errands.popleft().run()
            self._idle = self._loop.create_future()
            await self._idle

    def _fail_rest(self, _: object) -> None:
        """Fail the errands that nobody runs any more, since the loop has cancelled its tasks."""
        while self._errands:
            self._errands.popleft().fail(RuntimeError("the event loop of the task's app has ended"))


class _Errand:
    """One call on a loop for which a thread waits.

    Attributes:
        context: The variables that the thread has, and later those that the call has.
    """

    __slots__ = ("_call", "_error", "_value", "_waiter", "context")

    def __init__(self, call: Callable[[], Awaitable[Any]], clock: Clock) -> None:
        self._call = call
        self._value: Any = None
        self._error: BaseException | None = None
        self._waiter = ThreadWaiter(clock)
        self.context = copy_context()

    async def run(self) -> None:
        """Make the call, on the loop; raises nothing.

        Not even a cancellation by a loop that ends: it waits while the others are closed.
        """
        carry(self.context)
        try:
            self._value = await self._call()
        except BaseException as error:  # raised on the thread
            self._error = error
        finally:
            self.context = copy_context()
            self._waiter.wake()

    def fail(self, error: BaseException) -> None:
        """End the call without making it."""
        self._error = error
        self._waiter.wake()

    def outcome(self) -> Any:
        """Block until the call has ended, on the thread, and return or raise its outcome."""
        while self._waiter.wait(None) is None:
            pass
        carry(self.context)
        if self._error is None:
            return self._value
        try:
            raise self._error
        finally:
            # Its traceback refers to this frame: a reference back would make a cycle.
            self._error = None


# -- a task on a loop


async def await_steps(steps: Steps, threads: Threads) -> Any:
    """Take async steps in place and sync ones on threads; return the result of *steps*."""
    value: Any = None
    error: BaseException | None = None
    try:
        while True:
            try:
                step = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as stop:
                return stop.value
            value = error = None
            try:
                value = await step.call() if step.is_async else await threads.run(step)
            except BaseException as raised:  # thrown into the steps
                error = raised
    finally:
        # Its traceback refers to this frame: a reference back would make a cycle.
        del error


def close_later(steps: Steps, threads: Threads, closed: GeneratorExit) -> None:
    """Take steps for a coroutine that is being closed, and so must not wait for them.

    An asyncio task takes them, which the loop waits for when it ends. Without a running loop
    only sync steps are taken, here: async generators are then left to the collector.

    Args:
        steps: What closes the scope of the coroutine.
        threads: Its threads.
        closed: What the coroutine got.
    """
    if asyncio._get_running_loop() is not None:
        closing = asyncio.get_running_loop().create_task(_close(steps, threads, closed))
        # A loop has only weak references to its tasks.
        _CLOSING.add(closing)
        closing.add_done_callback(_CLOSING.discard)
        return
    step = next(steps, None)
    while step is not None:
        try:
            if not step.is_async:
                step.call()
        except BaseException as error:  # told to the others
            step = _thrown(steps, error)
        else:
            step = next(steps, None)


_CLOSING: Final[set[asyncio.Task[None]]] = set()


async def _close(steps: Steps, threads: Threads, closed: GeneratorExit) -> None:
    error = await await_steps(steps, threads)
    if error is not None and error is not closed:
        # The loop logs it, since nobody awaits this.
        raise error


def _thrown(steps: Steps, error: BaseException) -> Step | None:
    try:
        return steps.throw(error)
    except StopIteration:
        return None


class Threads:
    """Runs the sync dependencies of one attempt on threads, for a task on a loop.

    All in one context, so that a variable can be reset where it was set.
    """

    __slots__ = ("_context",)

    def __init__(self) -> None:
        self._context: Context | None = None

    async def run(self, step: Step) -> Any:
        """Make a call on a thread, and return or raise its outcome.

        If the task is cancelled meanwhile, it waits for the call all the same, and undoes it.
        """
        if step.closes:
            return await self._run(step)
        async with _limit(asyncio.get_running_loop()):
            return await self._run(step)

    async def _run(self, step: Step) -> Any:
        if self._context is None:
            self._context = copy_context()
        else:
            self._context.run(carry, copy_context())
        call = _ThreadCall(step, self._context)
        cancelled = await call.ended()
        carry(self._context)
        if cancelled is None:
            return call.outcome()
        try:
            if call.error is None and step.undo is not None:
                undo = Step(partial(step.undo, cancelled), is_async=False, closes=True)
                await _ThreadCall(undo, self._context).ended()
            raise cancelled
        finally:
            del cancelled


class _ThreadCall:
    """One call on a thread of its own, which a coroutine waits for.

    Attributes:
        error: What it has raised; None while it runs, and if it returned.
    """

    __slots__ = ("_abandoned", "_context", "_future", "_loop", "_step", "_value", "error")

    def __init__(self, step: Step, context: Context) -> None:
        self._step = step
        self._context = context
        self._value: Any = None
        self.error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()
        # Read and written on the loop only.
        self._abandoned = False
        call_on_thread(DEPENDENCY, self._make)

    async def ended(self) -> asyncio.CancelledError | None:
        """Suspend until the call has ended; return the cancellation that came meanwhile."""
        cancelled = None
        while not self._future.done():
            try:
                await asyncio.wait((self._future,))
            except asyncio.CancelledError as error:
                cancelled = error
            except BaseException:  # the coroutine is closed
                self._abandon()
                raise
        return cancelled

    def outcome(self) -> Any:
        """Return or raise the outcome of the call."""
        if self.error is None:
            return self._value
        try:
            raise self.error
        finally:
            # Its traceback refers to this frame: a reference back would make a cycle.
            self.error = None

    def _make(self) -> None:
        try:
            self._value = self._context.run(self._step.call)
        except BaseException as error:  # raised in the coroutine
            self.error = error
        try:
            self._loop.call_soon_threadsafe(self._resolve)
        except RuntimeError:  # the loop is closed, and nobody waits any more
            self._undo()

    def _resolve(self) -> None:
        if self._abandoned:
            call_on_thread(DEPENDENCY, self._undo)
        elif not self._future.done():
            self._future.set_result(None)

    def _abandon(self) -> None:
        self._abandoned = True
        if self._future.done():
            self._undo()

    def _undo(self) -> None:
        if self.error is None and self._step.undo is not None:
            self._context.run(self._step.undo, GeneratorExit())


def _limit(loop: asyncio.AbstractEventLoop) -> asyncio.Semaphore:
    found = _LIMITS.get(loop)
    if found is None:
        found = _LIMITS[loop] = asyncio.Semaphore(_MOST_OPENING)
    return found


_LIMITS: Final[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]] = (
    weakref.WeakKeyDictionary()
)
