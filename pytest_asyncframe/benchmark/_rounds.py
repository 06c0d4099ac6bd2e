"""The rounds of a benchmark: round trips, batches, and the time of the function itself.

Guarantees: all tasks that a round submits end within the round, even if one fails. Tasks that
these submit themselves are waited for at the end.
Relies on: `framework.testing.override_framework`, which makes the manager current.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import statistics
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

from framework import TaskManager, ThreadPoolExecutorEnhanced, current_task
from framework.protocols import Interceptor, TaskRecord
from framework.testing import layer_of, override_framework

T = TypeVar("T")
Timed: TypeAlias = tuple[float, Any]  # seconds, and whatever the task returned
Figures: TypeAlias = dict[str, float]

_MOST_REPEATED = 1_000

_KEPT = 1_000
"""Number of finished tasks after which they are removed."""

_PATIENCE = 5.0
"""Seconds that tasks submitted by the measured ones have to end."""


@dataclass(frozen=True, slots=True)
class Call:
    """The call to measure.

    Attributes:
        fn: The function, as the test has passed it.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        by_id: Whether to submit it even if it could be awaited.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    by_id: bool = False

    def bound(self) -> Callable[[], Any]:
        """Return the call with its arguments."""
        return functools.partial(self.fn, *self.args, **self.kwargs)

    def awaited(self) -> Callable[[], Awaitable[Any]] | None:
        """Return a function that returns an awaitable of the result; None to submit instead."""
        return self.bound() if self._layer() == "async_task" and not self.by_id else None

    def submitted_to(self, manager: TaskManager) -> Callable[[], str]:
        """Return a function that submits the task and returns its id."""
        if self._layer() == "background_task":
            return self.bound()
        return functools.partial(manager.submit_nowait, self.fn, self.args, self.kwargs)

    def _layer(self) -> object:
        fn = self.fn
        while isinstance(fn, functools.partial):
            fn = fn.func
        return layer_of(fn)


class Bench:
    """Runs rounds of one call on one event loop and collects their times.

    Args:
        runner: Runs the event loop.
        call: The call to measure.
        clock: Returns the time in seconds.
        manager: The manager, which is current.
    """

    def __init__(
        self,
        runner: asyncio.Runner,
        call: Call,
        clock: Callable[[], float],
        manager: TaskManager,
    ) -> None:
        self._taken: dict[str, list[float]] = {}
        self._runner = runner
        self._clock = clock
        self._manager = manager
        self._awaited = call.awaited()
        self._submit = call.submitted_to(manager)
        self._batch = 0
        self._ended = 0

    @property
    def workers(self) -> int:
        """The number of threads of the pool."""
        threads: int = self._manager.pool.get_stats()["max_workers"]
        return threads

    def once(self) -> Any:
        """Run a round trip, and return the result of the task."""
        return self._run(self._once(), 1)

    def round_trip(self) -> Timed:
        """Run a round trip, and return its time."""
        result = self.once()
        return self._taken["round_trip"][-1], result

    def submission(self) -> Timed:
        """Run a round trip, and return the time of the submission."""
        result = self.once()
        return self._taken["submit"][-1], result

    def batch(self, tasks: int) -> Timed:
        """Run a number of tasks together, and return the time for each of them."""
        self._batch = tasks
        result = self._run(self._many(tasks), tasks)
        return self._taken["per_task"][-1], result

    def split(self, bodies: Bodies) -> None:
        """Run a round trip, and split its time into the function's own and the rest.

        Args:
            bodies: The interceptor of the manager.
        """
        whole, _ = self.round_trip()
        own = bodies.take()
        self._take("body", own)
        self._take("framework", whole - own)

    def figures(self) -> Figures:
        """Return the medians of the times, without the first of each, a warm-up."""
        found = {name: statistics.median(all_[1:] or all_) for name, all_ in self._taken.items()}
        return found | {"tasks": self._batch} if self._batch else found

    def _run(self, coroutine: Coroutine[Any, Any, Any], tasks: int) -> Any:
        result = self._runner.run(coroutine)
        self._ended += tasks
        if self._ended >= _KEPT:
            self._ended = 0
            self._manager.cleanup_completed_tasks(0)
        return result

    def _take(self, name: str, seconds: float) -> None:
        self._taken.setdefault(name, []).append(seconds)

    async def _once(self) -> Any:
        clock = self._clock
        if self._awaited is not None:
            begun = clock()
            result = await self._awaited()
            ended = clock()
        else:
            begun = clock()
            task_id = self._submit()
            submitted = clock()
            result = await self._manager.get_result(task_id)
            ended = clock()
            self._take("submit", submitted - begun)
        self._take("round_trip", ended - begun)
        return result

    async def _many(self, tasks: int) -> Any:
        begun = self._clock()
        awaitables: Iterable[Awaitable[Any]]
        if self._awaited is not None:
            awaitables = [asyncio.ensure_future(self._awaited()) for _ in range(tasks)]
        else:
            ids = [self._submit() for _ in range(tasks)]
            awaitables = (self._manager.get_result(task_id) for task_id in ids)
        failed: BaseException | None = None
        result = None
        for awaitable in awaitables:
            # All of them end before an error is raised, so that none is left behind.
            try:
                result = await awaitable
            except Exception as error:  # a task's own error, which is raised once all have ended
                failed = failed or error
        self._take("per_task", (self._clock() - begun) / tasks)
        if failed is not None:
            raise failed
        return result


def repeat(step: Callable[[], T], seconds: float) -> list[T]:
    """Call *step* repeatedly for *seconds*, at least once; return its results."""
    end = perf_counter() + seconds
    found = [step()]
    while perf_counter() < end and len(found) < _MOST_REPEATED:
        found.append(step())
    return found


@contextmanager
def opened(
    runner: asyncio.Runner,
    call: Call,
    clock: Callable[[], float],
    max_workers: int | None,
    interceptor: Interceptor | None = None,
) -> Iterator[Bench]:
    """Yield a bench with a framework of its own, which is current inside the block."""
    with ExitStack() as stack:
        pool = ThreadPoolExecutorEnhanced(max_workers, "asyncframe-")
        stack.callback(pool.shutdown, cancel_futures=True, timeout=1.0)
        manager = stack.enter_context(
            override_framework(
                pool=pool, interceptor=interceptor, loop=runner.get_loop(), nested=True
            )
        )
        try:
            yield Bench(runner, call, clock, manager)
        except Exception:  # of a test; raised again once its tasks have ended
            runner.run(_settled(manager))
            raise
        runner.run(_settled(manager))


async def _settled(manager: TaskManager) -> None:
    """Wait until all tasks have ended, including those that tasks have submitted."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    unsubscribe = manager.subscribe(lambda _: loop.call_soon_threadsafe(ended.set))
    try:
        async with asyncio.timeout(_PATIENCE):
            while manager.get_active_count():
                await ended.wait()
                ended.clear()
    except TimeoutError:
        names = sorted({str(task["name"]) for task in manager.get_active_tasks().values()})
        warnings.warn(
            f"task_benchmark: {', '.join(names)} had not ended {_PATIENCE:g} s after the measured "
            "tasks",
            ResourceWarning,
            stacklevel=1,
        )
    finally:
        unsubscribe()


class Bodies(Interceptor):
    """Times the functions of the measured tasks, not of tasks that these submit.

    Args:
        clock: Returns the time in seconds; called on any thread.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._measured: set[str] = set()
        self._taken: list[float] = []

    def take(self) -> float:
        """Return the seconds measured since the last call, all attempts together."""
        taken, self._taken = self._taken, []
        self._measured.clear()
        return sum(taken)

    def before_accept(self, record: TaskRecord) -> None:
        """Remember a task that was not submitted by another task."""
        if current_task() is None:
            self._measured.add(record.task_id)

    def around_attempt(self, record: TaskRecord, attempt: int, call: Callable[[], Any]) -> Any:
        """Run an attempt, and measure its time."""
        if record.task_id not in self._measured:
            return call()
        begun = self._clock()
        try:
            result = call()
        finally:
            seconds = self._clock() - begun
            self._taken.append(seconds)
        if inspect.isawaitable(result) and asyncio._get_running_loop() is not None:
            return self._around(result)
        return result

    async def _around(self, awaitable: Awaitable[Any]) -> Any:
        begun = self._clock()
        try:
            return await awaitable
        finally:
            self._taken.append(self._clock() - begun)
