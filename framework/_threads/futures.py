"""Calls of a pool: each is its own future, and is run, dropped or expired."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

from framework._tasks.functions import name_of
from framework._tasks.records import TaskStatus
from framework._threads import thread_names
from framework._threads.crew import Crew
from framework._threads.deadlines import Deadlines
from framework._threads.pool_threads import PoolThread, current_pool_thread
from framework.exceptions import TaskTimeoutError
from framework.protocols import Clock

T = TypeVar("T")


class Call(Future[T]):
    """A submitted call: its own future, and the item that the crew works on."""

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
        """Name of the function, for figures and messages."""
        return "a finished call" if self.fn is None else name_of(self.fn)

    def cancel(self) -> bool:
        """Cancel as ``Future.cancel``, and free the place in the queue."""
        cancelled = super().cancel()
        if cancelled and self.crew.discard(self):
            self.notify_cancelled()
        return cancelled

    def notify_cancelled(self) -> None:
        """Tell those who wait for a cancelled call; only by whoever took it off the queue."""
        # Without this, ``concurrent.futures.wait`` and ``as_completed`` never see it done.
        self.set_running_or_notify_cancel()
        self.forget()

    def result(self, timeout: float | None = None) -> T:
        """Wait as ``Future.result``; on a thread of the same pool, have it run if it is queued."""
        end_wait = self._begin_wait(timeout)
        try:
            value = super().result(timeout)
        finally:
            end_wait()
        # Before 3.13.4 the standard's future drops an error that is false (gh-132063).
        error = super().exception()
        if error is not None:
            try:
                raise error
            finally:
                # The error's traceback holds this frame, and the frame must not hold it.
                del error
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as ``Future.exception``; as `result`."""
        end_wait = self._begin_wait(timeout)
        try:
            return super().exception(timeout)
        finally:
            end_wait()

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Add a callback as ``Future.add_done_callback``."""
        self.watched = True
        super().add_done_callback(fn)

    def settle(self, status: TaskStatus, now: float) -> bool:
        """Decide how a running call ends; False if that was decided before."""
        with self.crew.lock:
            if self.status is not TaskStatus.RUNNING:
                return False
            self.status = status
            self.ended = now
            return True

    def tell(self, result: T | None, error: BaseException | None) -> None:
        """Hand the outcome to those who wait."""
        try:
            if error is None:
                self.set_result(result)  # type: ignore[arg-type]  # None belongs to an error
            else:
                self.set_exception(error)
        except InvalidStateError:  # the user settled the future by hand
            pass

    def forget(self) -> None:
        """Drop the function and its arguments, which nobody needs any more."""
        self.fn = self.args = self.kwargs = None

    def _begin_wait(self, timeout: float | None) -> Callable[[], object]:
        """See to it that a thread of the pool does not wait in vain; return what ends that."""
        thread, crew = current_pool_thread(), self.crew
        if thread is None or not thread.stack or self.done():
            return _nothing
        if timeout is None:
            return self._begin_wait_with_all_time(thread)
        if thread.crew is not crew or timeout <= 0:
            return _nothing
        if not crew.step_aside(thread, self):
            # Late, if it takes longer than the timeout; without a thread, it would be never.
            crew.run_inline(self)
        return lambda: crew.step_back(thread, self)

    def _begin_wait_with_all_time(self, thread: PoolThread) -> Callable[[], object]:
        waiter, crew = thread.stack[-1], self.crew
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
        """Run a call to its end; False if it was cancelled before."""
        if not call.set_running_or_notify_cancel():
            call.forget()
            return False
        call.started = now = self._clock.monotonic()
        call.status = TaskStatus.RUNNING
        self._settle(call, now)
        return True

    def drop(self, call: Call[Any], error: BaseException | None, /) -> None:
        """Cancel a call that will never run, or let it fail with *error*."""
        if error is None:
            if call.cancel():
                call.notify_cancelled()
        elif call.set_running_or_notify_cancel():
            call.status = TaskStatus.FAILED
            call.tell(None, error)
        call.forget()

    def close(self) -> None:
        """Let go of the timers; nothing runs any more."""
        self._deadlines.close()

    def _settle(self, call: Call[Any], started: float) -> None:
        result: Any = None
        error: BaseException | None = None
        assert call.fn is not None and call.args is not None and call.kwargs is not None
        try:
            if self._limit is not None:
                self._deadlines.add(call, self._limit, started)
            result = call.fn(*call.args, **call.kwargs)
        except StopIteration as stop:
            # asyncio cannot carry it: whoever awaits would never wake.
            error = RuntimeError(f"{call.name} raised StopIteration")
            error.__cause__ = stop
        except BaseException as raised:  # kept for whoever asks; the thread lives on
            error = raised
        if error is not None:
            traceback.clear_frames(error.__traceback__)
        if self._limit is not None:
            self._deadlines.remove(call, self._limit)
        call.forget()
        status = TaskStatus.COMPLETED if error is None else TaskStatus.FAILED
        if call.settle(status, self._clock.monotonic()):
            call.tell(result, error)
        # The exception's traceback holds this frame; without this, the frame the exception.
        error = None

    def _expire(self, call: Call[Any]) -> None:
        assert self._limit is not None
        error = TaskTimeoutError("", call.name, self._limit)
        if not call.settle(TaskStatus.TIMEOUT, self._clock.monotonic()):
            return
        self._crew.abandon(call)
        if not call.watched:
            call.tell(None, error)
            return
        # Callbacks may take their time, and the clock's thread has other deadlines.
        thread = threading.Thread(
            target=call.tell, args=(None, error), name=thread_names.CALLBACKS, daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # too many threads in the process; late deadlines are better
            call.tell(None, error)
