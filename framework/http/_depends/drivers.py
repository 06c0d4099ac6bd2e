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
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, TypeVar  # dependencies return anything

from framework._manager.core import Core
from framework._tasks.live import current_record
from framework._threads.user_threads import DEPENDENCY, call_on_thread
from framework._threads.waiters import ThreadWaiter
from framework.http._depends.scope import Scope, Step
from framework.protocols import Clock

T = TypeVar("T")

_MOST_OPENING: Final = 40
"""How many threads of one loop open dependencies at a time."""

_MISSING: Final = object()


def carry(source: Context) -> None:
    """Set the context variables of *source* here, where they differ."""
    for variable, value in source.items():
        if variable.get(_MISSING) is not value:
            variable.set(value)


# -- a task on a thread


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends to its end, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("the coroutine suspended")


class Companion:
    """Runs the async dependencies of one attempt on a loop, for a task on a thread.

    In one asyncio task, since a timeout or a task group must be left where it was entered.
    """

    __slots__ = ("_errands", "_loop", "_task")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        # None comes last.
        self._errands: asyncio.Queue[_Errand | None] = asyncio.Queue()

    async def take(self, step: Step) -> Any:
        """Take a step, a sync one in place; never suspends, but blocks the thread."""
        return self._run(step.call) if step.is_async else step.call()

    def _run(self, call: Callable[[], Awaitable[Any]]) -> Any:
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
            self._loop.call_soon_threadsafe(self._errands.put_nowait, None)

    # -- on the loop

    def _take(self, errand: _Errand, name: str) -> None:
        assert self._loop is not None
        self._errands.put_nowait(errand)
        if self._task is None:
            self._task = self._loop.create_task(self._serve(), name=name, context=errand.context)
            self._task.add_done_callback(self._fail_rest)
        elif self._task.done():
            self._fail_rest(self._task)

    async def _serve(self) -> None:
        while (errand := await self._errands.get()) is not None:
            await errand.run()

    def _fail_rest(self, _: object) -> None:
        """Fail the errands that nobody runs any more, since the loop has cancelled its tasks."""
        while not self._errands.empty():
            if (errand := self._errands.get_nowait()) is not None:
                errand.fail(RuntimeError("the event loop of the task's app has ended"))


class _Call:
    """A call that is made elsewhere.

    Attributes:
        error: What it has raised; None while it runs, and if it returned.
        value: What it has returned.
    """

    __slots__ = ("error", "value")

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None

    def outcome(self) -> Any:
        """Return or raise the outcome of the call."""
        if self.error is None:
            return self.value
        try:
            raise self.error
        finally:
            # Its traceback refers to this frame: a reference back would make a cycle.
            self.error = None


class _Errand(_Call):
    """One call on a loop for which a thread waits.

    Attributes:
        context: The variables that the thread has, and later those that the call has.
    """

    __slots__ = ("_call", "_waiter", "context")

    def __init__(self, call: Callable[[], Awaitable[Any]], clock: Clock) -> None:
        super().__init__()
        self._call = call
        self._waiter = ThreadWaiter(clock)
        self.context = copy_context()

    async def run(self) -> None:
        """Make the call, on the loop; raises nothing.

        Not even a cancellation by a loop that ends: it waits while the others are closed.
        """
        carry(self.context)
        try:
            self.value = await self._call()
        except BaseException as error:  # raised on the thread
            self.error = error
        finally:
            self.context = copy_context()
            self._waiter.wake()

    def fail(self, error: BaseException) -> None:
        """End the call without making it."""
        self.error = error
        self._waiter.wake()

    def outcome(self) -> Any:
        """Block until the call has ended, on the thread, and return or raise its outcome."""
        while self._waiter.wait(None) is None:
            pass
        carry(self.context)
        return super().outcome()


# -- a task on a loop


def close_later(scope: Scope, closed: GeneratorExit) -> None:
    """Close the scope of a coroutine that is being closed, and so must not wait for that.

    An asyncio task does it, which the loop waits for when it ends. Without a running loop
    only sync steps are taken, here: async generators are then left to the collector.

    Args:
        scope: The scope.
        closed: What the coroutine got.
    """
    if asyncio._get_running_loop() is None:
        finish(scope.close(closed))
        return
    closing = asyncio.get_running_loop().create_task(_close(scope, closed))
    # A loop has only weak references to its tasks.
    _CLOSING.add(closing)
    closing.add_done_callback(_CLOSING.discard)


_CLOSING: Final[set[asyncio.Task[None]]] = set()


async def _close(scope: Scope, closed: GeneratorExit) -> None:
    error = await scope.close(closed)
    if error is not None and error is not closed:
        # The loop logs it, since nobody awaits this.
        raise error


class Threads:
    """Runs the sync dependencies of one attempt on threads, for a task on a loop.

    All in one context, so that a variable can be reset where it was set.
    """

    __slots__ = ("_context",)

    def __init__(self) -> None:
        self._context: Context | None = None

    async def take(self, step: Step) -> Any:
        """Take a step, an async one in place.

        If the task is cancelled during a sync one, it waits for that all the same, and undoes it.
        Without a running loop, an async step is left out, and a sync one is taken here.
        """
        if asyncio._get_running_loop() is None:
            return None if step.is_async else step.call()
        if step.is_async:
            return await step.call()
        if step.closes:
            return await self._run(step)
        limit = asyncio.Semaphore(_MOST_OPENING)
        async with _LIMITS.setdefault(asyncio.get_running_loop(), limit):
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


class _ThreadCall(_Call):
    """One call on a thread of its own, which a coroutine waits for."""

    __slots__ = ("_context", "_future", "_loop", "_step")

    def __init__(self, step: Step, context: Context) -> None:
        super().__init__()
        self._step = step
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()
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
                if self._future.done():
                    self._undo()
                else:
                    self._future.add_done_callback(self._undo_later)
                raise
        return cancelled

    def _make(self) -> None:
        try:
            self.value = self._context.run(self._step.call)
        except BaseException as error:  # raised in the coroutine
            self.error = error
        try:
            self._loop.call_soon_threadsafe(self._future.set_result, None)
        except RuntimeError:  # the loop is closed, and nobody waits any more
            self._undo()

    def _undo_later(self, _: object) -> None:
        call_on_thread(DEPENDENCY, self._undo)

    def _undo(self) -> None:
        if self.error is None and self._step.undo is not None:
            self._context.run(self._step.undo, GeneratorExit())


_LIMITS: Final[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]] = (
    weakref.WeakKeyDictionary()
)
