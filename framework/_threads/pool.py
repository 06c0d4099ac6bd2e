"""ThreadPoolExecutorEnhanced: the standard thread pool with limits, bounds and figures.

Guarantees: all that `concurrent.futures.ThreadPoolExecutor` guarantees (CPython's own tests
of it pass). A call over its limit gets `TaskTimeoutError` at once, and its late outcome is
dropped. A call that waits for a queued call of its own pool runs that call itself.

Relies on: `crew` for the threads and the queue, `futures` for the calls.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, ParamSpec

from framework._records import checks
from framework._records.statuses import FINAL, TRAITS
from framework._threads.clock import SystemClock, join_all
from framework._threads.crew import Crew
from framework._threads.futures import Call, Calls, T
from framework._threads.pool_threads import PoolThread
from framework._threads.watch.outflow import Outflow
from framework.protocols import Clock
from framework.protocols._engines import Item

P = ParamSpec("P")


class ThreadPoolExecutorEnhanced(ThreadPoolExecutor):
    """A `concurrent.futures.ThreadPoolExecutor` with time limits, a bounded queue and figures.

    It does all that the standard class does. At interpreter exit it finishes queued calls,
    unless `shutdown` cancelled them. In a forked child, an inherited pool refuses calls.

    A call may wait for the future of another call of its pool. Without a timeout, it runs
    the other call on its own thread if that is still queued; a wait that could never end
    raises `DeadlockError`. With a timeout, an extra thread beside *max_workers* runs the
    other call. ``concurrent.futures.wait`` and other ways to wait do neither.

    Args:
        max_workers: Threads that work at once, 1 or more; None for the standard default.
        thread_name_prefix: Threads are named ``<prefix>_<n>``; "" for the standard name.
        initializer: Called first on each thread with *initargs*; None for none.
        initargs: Arguments for *initializer*.
        task_timeout: Time limit of each call in seconds or as a timedelta, above 0, from its
            start; None or infinity for no limit. At the limit its future gets
            `TaskTimeoutError`, and callbacks of the future run on a separate thread. The call's
            thread cannot be stopped: it counts as abandoned, and is replaced while at most
            *max_workers* threads are abandoned.
        queue_size: How many calls may wait, 1 or more; None for no bound.
        clock: The clock for limits and figures; None for the system clock.

    Raises:
        TypeError: If a parameter is of the wrong type.
        ValueError: If a number is out of range.
    """

    _crew_type: ClassVar[type[Crew]] = Crew

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        task_timeout: float | timedelta | None = None,
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
            # Attributes of the standard pool that the interface of this one shows as well.
            self._max_workers,
            str(self._thread_name_prefix),
            None if initializer is None else partial(initializer, *initargs),
            queue_size,
            Outflow(self._clock.monotonic),
        )
        self._calls = Calls(self._clock, self._limit, self._crew)
        # A method of the crew: one of the pool would keep the pool alive.
        self._release = weakref.finalize(self, self._crew.release)
        # At interpreter exit the standard library ends the threads; see `crew`.
        self._release.atexit = False

    @property
    def task_timeout(self) -> float | None:
        """Time limit of each call in seconds; None for no limit."""
        return self._limit

    @property
    def queue_size(self) -> int | None:
        """How many calls may wait; None for no bound."""
        return self._crew.queue_size

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue ``fn(*args, **kwargs)`` and return its future; from any thread.

        All keyword arguments are passed to *fn*.

        Raises:
            QueueFullError: If *queue_size* calls wait.
            BrokenThreadPool: If the initializer failed.
            RuntimeError: After shutdown, in a forked child, or if no thread can be started.
        """
        call = Call(fn, args, kwargs, self._crew, self._calls)
        call.queued = self._clock.monotonic()
        self._crew.put(call)
        return call

    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> None:
        """Refuse further calls, as the standard ``shutdown`` does; from any thread.

        A call of this pool may shut it down, and waits only if *timeout* is given, since
        other calls may wait for that call. A signal handler may do so too, and does not
        wait if it interrupted code of this pool.

        Args:
            wait: Whether to return only when all calls have ended.
            cancel_futures: Whether to cancel queued calls.
            timeout: Longest wait in seconds, 0 or more; None for as long as it takes. A
                thread that is still stuck then does not keep the process from ending.

        Raises:
            TypeError: If *timeout* is not a number.
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
                self._crew.skip_at_exit(thread)
            if not stuck:
                self._calls.close()

    def get_stats(self) -> dict[str, Any]:
        """Return the pool's figures as a JSON-safe dict; from any thread.

        It has ``max_workers``, ``threads`` (alive, including abandoned ones), ``busy``,
        ``idle``, ``queued``, ``abandoned`` (threads that run a call past its limit),
        ``degraded`` (whether more are abandoned than replaced), and the counters
        ``submitted``, ``completed``, ``failed``, ``cancelled``, ``timed_out`` and
        ``rejected``. ``wait_time`` and ``run_time`` are dicts of ``count``, ``mean``, ``min``,
        ``max``, ``p50``, ``p95`` and ``p99`` in seconds over the latest 2,048 calls; all but
        the count are None if there were none.
        """
        crew = self._crew
        with crew.lock:
            ended = crew.ended.copy()
            fresh: list[Item] = []
            for thread in crew.threads:
                counts, uncounted = thread.tally()
                fresh += uncounted
                for status, count in counts.items():
                    ended[status] += count
            for item in fresh:
                ended[item.status] += 1
            timings = [*crew.timings, *map(_timing, fresh)]
            figures: dict[str, Any] = thread_figures(crew)
            figures["submitted"] = crew.submitted
            figures["rejected"] = crew.rejected
            cancelled = crew.cancelled
        figures |= {"completed": 0, "failed": 0, "cancelled": cancelled, "timed_out": 0}
        for status in FINAL:
            figures[TRAITS[status].figure or TRAITS[status].event] += ended[status]
        figures["wait_time"] = summary([started - queued for queued, started, _ in timings])
        figures["run_time"] = summary([end - started for _, started, end in timings])
        return figures

    def get_active_tasks(self) -> list[dict[str, Any]]:
        """Return the calls that run now, as JSON-safe dicts; from any thread.

        Each dict has ``name``, ``thread``, ``run_time`` in seconds and ``abandoned``.
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
        """Ignore the empty set that the standard constructor sets."""

    @property
    def _broken(self) -> Any:  # a bool or a text, as in the standard class
        return self._crew.broken or False

    @_broken.setter
    def _broken(self, _: object) -> None:
        """Ignore the False that the standard constructor sets."""

    @property
    def _shutdown(self) -> bool:
        return self._crew.queue.closed

    @_shutdown.setter
    def _shutdown(self, _: object) -> None:
        """Ignore the False that the standard constructor sets."""


# -- figures, read under the lock of the crew


def thread_figures(crew: Crew) -> dict[str, int | bool]:
    """Return the figures of a pool's threads and queue, quickly."""
    with crew.lock:
        alive = [thread for thread in crew.threads if thread.is_alive()]
        busy = sum(1 for thread in alive if (thread.stack or thread.first) and not thread.abandoned)
        abandoned = crew.abandoned
        return {
            "max_workers": crew.max_workers,
            "threads": len(alive),
            "busy": busy,
            "idle": len(alive) - busy - abandoned,
            "queued": crew.queued,
            "abandoned": abandoned,
            "degraded": crew.degraded,
        }


def _timing(item: Item) -> tuple[float, float, float]:
    assert item.started is not None and item.ended is not None
    return item.queued, item.started, item.ended


def summary(seconds: list[float]) -> dict[str, float | int | None]:
    """Return count, mean, min, max and percentiles of *seconds*.

    Percentiles are nearest ranks, so each is one of the durations. All but the count are
    None for an empty list.

    Source:
        NIST/SEMATECH e-Handbook of Statistical Methods, 7.2.6.2, first definition, with the
        rank rounded up.
    """
    if not seconds:
        return {"count": 0} | dict.fromkeys(("mean", "min", "max", "p50", "p95", "p99"))
    ordered = sorted(seconds)

    def rank(share: float) -> float:
        return ordered[math.ceil(share * len(ordered)) - 1]

    return {
        "count": len(ordered),
        "mean": math.fsum(ordered) / len(ordered),
        "min": ordered[0],
        "max": ordered[-1],
        "p50": rank(0.50),
        "p95": rank(0.95),
        "p99": rank(0.99),
    }
