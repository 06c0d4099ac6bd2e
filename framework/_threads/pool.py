"""ThreadPoolExecutorEnhanced: the standard thread pool with limits, bounds and figures.

Guarantees: what `concurrent.futures.ThreadPoolExecutor` guarantees (CPython's own tests
of it pass); a call over its limit gets `TaskTimeoutError` at once and its late outcome
is dropped; a call that waits for another queued call of its own pool runs it.
Relies on: `crew` for threads and queue.
Lock order: the crew's lock decides who settles a call; futures are settled without it.
"""

from __future__ import annotations

import math
import threading
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from typing import Any, ClassVar, ParamSpec, TypeVar

from framework._tasks import checks
from framework._tasks.functions import name_of
from framework._tasks.records import TaskStatus
from framework._threads import thread_names
from framework._threads.clock import SystemClock, join_all
from framework._threads.crew import Crew
from framework._threads.deadlines import Deadlines
from framework._threads.figures import summary
from framework._threads.pool_threads import Item, Worker, current_worker
from framework.exceptions import TaskTimeoutError
from framework.protocols import Clock

P = ParamSpec("P")
T = TypeVar("T")


class _Call(Future[T]):
    """A submitted call: its own future, and the item that the crew works on."""

    def __init__(
        self,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        crew: Crew,
        handler: _Calls,
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
        worker, crew = current_worker(), self.crew
        if worker is None or not worker.stack or self.done():
            return _nothing
        if timeout is None:
            return self._begin_wait_with_all_time(worker)
        if worker.crew is not crew or timeout <= 0:
            return _nothing
        if not crew.step_aside(worker, self):
            # Late, if it takes longer than the timeout; without a thread, it would be never.
            crew.run_inline(self)
        return lambda: crew.step_back(worker, self)

    def _begin_wait_with_all_time(self, worker: Worker) -> Callable[[], object]:
        waiter, crew = worker.stack[-1], self.crew
        crew.waits.enter(waiter, self)
        aside = not crew.run_inline(self) and worker.crew is crew
        if aside:
            crew.step_aside(worker, self, inline=True)

        def end_wait() -> None:
            if aside:
                crew.step_back(worker, self)
            crew.waits.leave(waiter)

        return end_wait


def _nothing() -> None:
    """Do nothing."""


class _Calls:
    """The crew's handler for calls."""

    def __init__(self, clock: Clock, limit: float | None, crew: Crew) -> None:
        self._clock = clock
        self._limit = limit
        self._crew = crew
        self._deadlines: Deadlines[_Call[Any]] = Deadlines(clock, self._expire)

    def __call__(self, call: _Call[Any], /) -> bool:
        """Run a call to its end; False if it was cancelled before."""
        if not call.set_running_or_notify_cancel():
            call.forget()
            return False
        call.started = now = self._clock.monotonic()
        call.status = TaskStatus.RUNNING
        self._settle(call, now)
        return True

    def drop(self, call: _Call[Any], error: BaseException | None, /) -> None:
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

    def _settle(self, call: _Call[Any], started: float) -> None:
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

    def _expire(self, call: _Call[Any]) -> None:
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


class ThreadPoolExecutorEnhanced(ThreadPoolExecutor):
    """A `concurrent.futures.ThreadPoolExecutor` with limits, a bound and figures.

    Everything of the standard class holds. At interpreter exit queued calls are finished,
    unless `shutdown` gave them up. A pool inherited by a forked child refuses work there.

    A call that waits, without a timeout, for the future of another call of its own pool
    runs it on its own thread if it is still queued; one that can never end raises
    `DeadlockError`. With a timeout, which must be kept, a thread beside *max_workers* runs
    it. ``concurrent.futures.wait`` and other ways of waiting do neither.

    Args:
        max_workers: Threads that work at once, from 1 on; None for the standard's default.
        thread_name_prefix: Threads are named ``<prefix>_<n>``; "" for the standard's name.
        initializer: Called first on each thread with *initargs*; None for none.
        initargs: Arguments for *initializer*.
        task_timeout: Limit of each call in seconds, above 0, from its start; None or
            infinity for none. At the limit its future gets `TaskTimeoutError`. Its thread
            cannot be stopped: it counts as abandoned and is replaced, while at most
            *max_workers* are; callbacks of the future then run on a thread of their own.
        queue_size: How many calls may wait, from 1 on; None for any number.
        clock: Time for limits and figures; None for the system's.

    Raises:
        TypeError: If a parameter is of the wrong type.
        ValueError: If a number is out of its range.
    """

    _crew_type: ClassVar[type[Crew]] = Crew

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        task_timeout: float | None = None,
        queue_size: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        # The standard's wording, which programs may match; its check lets 2.5 and True pass.
        given: object = max_workers
        if given is not None and not (isinstance(given, int) and given <= 0):
            checks.integer("max_workers", max_workers, at_least=1)
        limit = checks.limit("task_timeout", task_timeout)
        if queue_size is not None:
            checks.integer("queue_size", queue_size, at_least=1)
        checks.text("thread_name_prefix", thread_name_prefix)
        arguments: object = initargs
        if not isinstance(arguments, (tuple, list)):
            raise TypeError(f"initargs must be a tuple or list, not {checks.show(arguments)}")
        checks.clock(clock)
        super().__init__(max_workers, thread_name_prefix, initializer, initargs)
        self._clock = SystemClock() if clock is None else clock
        self._limit = None if limit == math.inf else limit
        self._crew = self._crew_type(
            self._max_workers,
            str(self._thread_name_prefix),
            initializer,
            tuple(initargs),
            queue_size,
        )
        self._calls = _Calls(self._clock, self._limit, self._crew)
        # Bound to the crew alone: a callback that knew the pool would keep it alive.
        self._release = weakref.finalize(self, self._crew.release)
        self._release.atexit = False

    @property
    def task_timeout(self) -> float | None:
        """Limit of each call in seconds; None for none."""
        return self._limit

    @property
    def queue_size(self) -> int | None:
        """How many calls may wait; None for any number."""
        return self._crew.queue_size

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue ``fn(*args, **kwargs)`` and return its future; from any thread.

        All keywords belong to *fn*.

        Raises:
            QueueFullError: If *queue_size* calls wait.
            BrokenThreadPool: If the initializer failed.
            RuntimeError: After shutdown, in a forked child, or if no thread can start.
        """
        call = _Call(fn, args, kwargs, self._crew, self._calls)
        call.queued = self._clock.monotonic()
        self._crew.put(call)
        return call

    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> None:
        """Take no more calls, as the standard's ``shutdown``.

        May be called from any thread, from a call of this pool (which waits only if
        *timeout* is given, since other calls may wait for it) and from a signal handler
        (which, if it interrupted this pool's own code, does not wait).

        Args:
            wait: Whether to return only when all calls have ended.
            cancel_futures: Whether to cancel those that are queued.
            timeout: Most seconds to wait, 0 or more; None for as long as it takes. A
                thread that is stuck after it no longer keeps the process from ending.

        Raises:
            TypeError: If *timeout* is no number.
            ValueError: If it is negative or NaN.
        """
        if timeout is not None:
            timeout = checks.number("timeout", timeout, at_least=0, finite=False)
        interrupted = self._crew.lock._is_owned()  # type: ignore[attr-defined]  # as Condition does
        for item in self._crew.close(drop=cancel_futures):
            item.handler.drop(item, None)
        # Nothing is left to release, and a crew whose control knows the pool would keep it.
        self._release.detach()
        me = threading.current_thread()
        inside = isinstance(me, Worker) and me.crew is self._crew
        if wait and not interrupted and not (inside and timeout is None):
            stuck = join_all(self._crew.others(me), timeout)
            for thread in stuck:
                self._crew.let_go(thread)
            if not stuck:
                self._calls.close()

    def get_stats(self) -> dict[str, Any]:
        """Return the pool's figures as a JSON-safe dict; from any thread.

        ``max_workers``, ``threads`` (alive, abandoned ones too), ``busy``, ``idle``,
        ``queued``, ``abandoned`` (threads running on past a limit), ``degraded`` (more
        abandoned than replaced), the counters ``submitted``, ``completed``, ``failed``,
        ``cancelled``, ``timed_out``, ``rejected``, and ``wait_time`` and ``run_time``: dicts
        of ``count``, ``mean``, ``min``, ``max``, ``p50``, ``p95``, ``p99`` in seconds over
        the latest 2,048 calls (None where there were none).
        """
        crew = self._crew
        with crew.lock:
            alive = [worker for worker in crew.threads if worker.is_alive()]
            ended = crew.ended.copy()
            fresh: list[Item] = []
            for worker in crew.threads:
                counts, uncounted = worker.tally()
                fresh += uncounted
                for status, count in counts.items():
                    ended[status] += count
            for item in fresh:
                ended[item.status] += 1
            timings = [*crew.timings, *map(_timing, fresh)]
            busy = sum(
                1 for worker in alive if (worker.stack or worker.first) and not worker.abandoned
            )
            abandoned = crew.abandoned
            figures: dict[str, Any] = {
                "max_workers": crew.max_workers,
                "threads": len(alive),
                "busy": busy,
                "idle": len(alive) - busy - abandoned,
                "queued": crew.queued,
                "abandoned": abandoned,
                "degraded": crew.degraded,
                "submitted": crew.submitted,
                "rejected": crew.rejected,
            }
            cancelled = crew.cancelled
        figures["completed"] = ended[TaskStatus.COMPLETED]
        figures["failed"] = ended[TaskStatus.FAILED] + ended[TaskStatus.INTERRUPTED]
        figures["cancelled"] = cancelled + ended[TaskStatus.CANCELLED]
        figures["timed_out"] = ended[TaskStatus.TIMEOUT]
        figures["wait_time"] = summary([started - queued for queued, started, _ in timings])
        figures["run_time"] = summary([end - started for _, started, end in timings])
        return figures

    def get_active_tasks(self) -> list[dict[str, Any]]:
        """Return what runs now, as JSON-safe dicts; from any thread.

        Each has ``name``, ``thread``, ``run_time`` in seconds and ``abandoned``.
        """
        now = self._clock.monotonic()
        with self._crew.lock:
            return [
                {
                    "name": item.name,
                    "thread": worker.name,
                    "run_time": now - item.started if item.started is not None else 0.0,
                    "abandoned": worker.abandoned,
                }
                for worker in self._crew.threads
                for item in worker.stack
            ]

    # Names that the standard class has and that programs and CPython's tests read.

    @property
    def _threads(self) -> set[Worker]:
        return self._crew.threads

    @_threads.setter
    def _threads(self, _: object) -> None:
        """Ignore the standard constructor's own empty set."""

    @property
    def _broken(self) -> Any:  # a bool or a text, as in the standard class
        return self._crew.broken or False

    @_broken.setter
    def _broken(self, _: object) -> None:
        """Ignore the standard constructor's own False."""

    @property
    def _shutdown(self) -> bool:
        return self._crew.closed

    @_shutdown.setter
    def _shutdown(self, _: object) -> None:
        """Ignore the standard constructor's own False."""


def _timing(item: Item) -> tuple[float, float, float]:
    assert item.started is not None and item.ended is not None
    return item.queued, item.started, item.ended
