"""Calls of a pool: each is its own future, and is run, dropped or expired.

Guarantees: a call is settled once, as it ends or at its limit, whichever comes first. The
future of a cancelled call is notified once.

Relies on: the crew, which says which thread runs or drops a call.

Lock order: the crew's lock is held to settle a call. Futures are completed without it,
since their callbacks are user code.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

from framework._records.statuses import TaskStatus
from framework._tasks.functions import name_of
from framework._threads.crew import Crew
from framework._threads.deadlines import Deadlines
from framework._threads.frames import clear_frames
from framework._threads.pool_threads import PoolThread, current_pool_thread
from framework._threads.user_threads import CALLBACKS, call_on_thread
from framework.exceptions import TaskTimeoutError
from framework.protocols import Clock

T = TypeVar("T")


class Call(Future[T]):
    """A submitted call: its own future, and the item that the crew runs."""

    def __init__(
        self,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        crew: Crew,
        handler: Calls,
    ) -> None:
        super().__init__()
        self.fn: Callable[..., T] | None = fn
        self.args: tuple[Any, ...] | None = args
        self.kwargs: dict[str, Any] | None = kwargs
        self.crew = crew
        self.handler = handler
        self.status = TaskStatus.PENDING
        self.queued = 0.0
        self.started: float | None = None
        self.ended: float | None = None
        self.watched = False

    @property
    def name(self) -> str:
        """The function's name, for figures and messages."""
        return "a finished call" if self.fn is None else name_of(self.fn)

    def cancel(self) -> bool:
        """Cancel the call as ``Future.cancel`` does, and make room in the queue."""
        cancelled = super().cancel()
        # Only the thread that picked it may notify: a second notification raises an error.
        if cancelled and self.crew.discard(self):
            self.notify_cancelled()
        return cancelled

    def notify_cancelled(self) -> None:
        """Notify waiters of a cancelled call; only for the thread that picked it."""
        # Without this, ``concurrent.futures.wait`` and ``as_completed`` never see it done.
        self.set_running_or_notify_cancel()
        self.forget()

    def result(self, timeout: float | None = None) -> T:
        """Wait as ``Future.result`` does.

        If a thread of the same pool waits, the call can run all the same: on that thread, or
        on a spare one.
        """
        end_wait = self._begin_wait(timeout)
        try:
            value = super().result(timeout)
        finally:
            end_wait()
        # Before 3.13.4 a future drops an error whose truth value is False (gh-132063).
        error = super().exception()
        if error is not None:
            try:
                raise error
            finally:
                # The error's traceback refers to this frame: a cycle would keep both alive.
                del error
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as ``Future.exception`` does, otherwise like `result`."""
        end_wait = self._begin_wait(timeout)
        try:
            return super().exception(timeout)
        finally:
            end_wait()

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Add a callback as ``Future.add_done_callback`` does."""
        # First, so that `_expire` does not run the callback on the clock's thread.
        self.watched = True
        super().add_done_callback(fn)

    def settle(self, status: TaskStatus, now: float) -> bool:
        """Set the final status of a running call; False if it was set before."""
        with self.crew.lock:
            if self.status is not TaskStatus.RUNNING:
                return False
            self.status = status
            self.ended = now
            return True

    def complete(self, result: T | None, error: BaseException | None) -> None:
        """Complete the future with *error* or, if that is None, with *result*."""
        try:
            if error is None:
                self.set_result(result)  # type: ignore[arg-type]  # None belongs to an error
            else:
                self.set_exception(error)
        except InvalidStateError:  # the user has completed the future
            pass

    def forget(self) -> None:
        """Drop the function and its arguments, which are no longer needed."""
        self.fn = self.args = self.kwargs = None

    def _begin_wait(self, timeout: float | None) -> Callable[[], object]:
        """Prepare a wait, so that a thread of the pool does not block the call itself.

        Returns:
            A function to call when the wait has ended.
        """
        thread, crew = current_pool_thread(), self.crew
        if thread is None or not thread.stack or self.done():
            return _nothing
        if timeout is None:
            return self._begin_endless_wait(thread)
        if thread.crew is not crew or timeout <= 0:
            return _nothing
        if not crew.step_aside(thread, self):
            # This may exceed the timeout, but without a thread the call would never run.
            crew.run_inline(self)
        return lambda: crew.step_back(thread, self)

    def _begin_endless_wait(self, thread: PoolThread) -> Callable[[], object]:
        waiter, crew = thread.stack[-1], self.crew
        # First, since it raises if the wait would be a deadlock.
        crew.waits.enter(waiter, self)
        aside = not crew.run_inline(self) and thread.crew is crew
        if aside:
            crew.step_aside(thread, self, inline=True)

        def end_wait() -> None:
            if aside:
                crew.step_back(thread, self)
            crew.waits.leave(waiter)

        return end_wait


def _nothing() -> None:
    """Do nothing."""


class Calls:
    """The crew's handler for calls."""

    def __init__(self, clock: Clock, limit: float | None, crew: Crew) -> None:
        self._clock = clock
        self._limit = limit
        self._crew = crew
        self._deadlines: Deadlines[Call[Any]] = Deadlines(clock, self._expire)

    def __call__(self, call: Call[Any], /) -> bool:
        """Run *call* to its end; False if it was cancelled before."""
        if not call.set_running_or_notify_cancel():
            call.forget()
            return False
        call.started = now = self._clock.monotonic()
        call.status = TaskStatus.RUNNING
        self._run(call, now)
        return True

    def drop(self, call: Call[Any], error: BaseException | None, /) -> None:
        """Fail *call*, which will never run, with *error*, or cancel it if that is None."""
        if error is None:
            if call.cancel():
                call.notify_cancelled()
        elif call.set_running_or_notify_cancel():
            call.status = TaskStatus.FAILED
            call.complete(None, error)
        call.forget()

    def close(self) -> None:
        """Cancel the timers of all limits, when no call runs any more."""
        self._deadlines.close()

    def _run(self, call: Call[Any], started: float) -> None:
        result: Any = None
        error: BaseException | None = None
        assert call.fn is not None and call.args is not None and call.kwargs is not None
        try:
            # Inside: a call whose timer cannot be set fails, and does not run without a limit.
            if self._limit is not None:
                self._deadlines.add(call, self._limit, started)
            result = call.fn(*call.args, **call.kwargs)
        except StopIteration as stop:
            # An asyncio future refuses it, and its awaiter would never wake up.
            error = RuntimeError(f"{call.name} raised StopIteration")
            error.__cause__ = stop
        except BaseException as raised:  # the future gets it, and the thread lives on
            error = raised
        if error is not None:
            # A kept error must not keep the locals of the function alive.
            clear_frames(error)
        if self._limit is not None:
            self._deadlines.remove(call, self._limit)
        call.forget()
        status = TaskStatus.COMPLETED if error is None else TaskStatus.FAILED
        if call.settle(status, self._clock.monotonic()):
            call.complete(result, error)
        # The error's traceback refers to this frame: a cycle would keep both alive.
        error = None

    def _expire(self, call: Call[Any]) -> None:
        assert self._limit is not None
        error = TaskTimeoutError("", call.name, self._limit)
        if not call.settle(TaskStatus.TIMEOUT, self._clock.monotonic()):
            return
        self._crew.abandon(call)
        if call.watched:
            # Callbacks may be slow, and other deadlines wait for the clock's thread.
            call_on_thread(CALLBACKS, call.complete, None, error)
        else:
            call.complete(None, error)
