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
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, ParamSpec

from framework._tasks import checks
from framework._threads.clock import SystemClock, join_all
from framework._threads.crew import Crew
from framework._threads.figures import pool_figures
from framework._threads.futures import Call, Calls, T
from framework._threads.pool_threads import PoolThread
from framework.protocols import Clock

P = ParamSpec("P")


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
        # An int of 0 or less gets the standard error below, which programs may match. The
        # standard check accepts 2.5 and True, so they are refused here.
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
        self._calls = Calls(self._clock, self._limit, self._crew)
        # A method of the crew: one of the pool would keep the pool alive.
        self._release = weakref.finalize(self, self._crew.release)
        self._release.atexit = False
        # At interpreter exit the standard library ends the threads; see `crew`.

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
        call = Call(fn, args, kwargs, self._crew, self._calls)
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
        # The crew is released already; a finalizer that stayed would keep it alive, and a
        # controlled crew keeps its pool alive.
        self._release.detach()
        me = threading.current_thread()
        inside = isinstance(me, PoolThread) and me.crew is self._crew
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
        return pool_figures(self._crew)

    def get_active_tasks(self) -> list[dict[str, Any]]:
        """Return what runs now, as JSON-safe dicts; from any thread.

        Each has ``name``, ``thread``, ``run_time`` in seconds and ``abandoned``.
        """
        now = self._clock.monotonic()
        with self._crew.lock:
            return [
                {
                    "name": item.name,
                    "thread": thread.name,
                    "run_time": now - item.started if item.started is not None else 0.0,
                    "abandoned": thread.abandoned,
                }
                for thread in self._crew.threads
                for item in thread.stack
            ]

    # Attributes of the standard class that other programs and CPython's tests read.

    @property
    def _threads(self) -> set[PoolThread]:
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
