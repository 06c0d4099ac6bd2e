"""One call, made again and again on one loop: round trips, batches, and the body's own time.

Guarantees: whatever a round submits has ended when the round has, failed or not; what its
tasks have submitted themselves is waited for at the end.
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
"""Finished tasks after which they are forgotten."""

_PATIENCE = 5.0
"""Seconds for tasks to end that the measured ones have left behind."""

_ENDS = ("completed", "failed", "timed_out", "cancelled", "interrupted")


@dataclass(frozen=True, slots=True)
class Call:
    """What is measured.

    Attributes:
        fn: The function, as the test has given it.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        by_id: Whether it is to be submitted even if it could be awaited.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    by_id: bool = False

    def bound(self) -> Callable[[], Any]:
        """Return the call with its arguments."""
        return functools.partial(self.fn, *self.args, **self.kwargs)

    def awaited(self) -> Callable[[], Awaitable[Any]] | None:
        """Return what gives an awaitable of the task's result, or None."""
        return self.bound() if self._layer() == "async_task" and not self.by_id else None

    def submitted_to(self, manager: TaskManager) -> Callable[[], str]:
        """Return what submits the task and gives its id."""
        if self._layer() == "background_task":
            return self.bound()
        return functools.partial(manager.submit_nowait, self.fn, self.args, self.kwargs)

    def _layer(self) -> object:
        fn = self.fn
        while isinstance(fn, functools.partial):
            fn = fn.func
        return layer_of(fn)


class Bench:
    """A call, a manager that is current for it, and the loop that it is made on.

    Args:
        runner: Has the loop.
        call: What is called.
        clock: Returns seconds.
        manager: The manager.
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
        """Threads of the pool."""
        threads: int = self._manager.pool.get_stats()["max_workers"]
        return threads

    def once(self) -> Any:
        """Make a round trip, and return the task's result."""
        return self._run(self._once(), 1)

    def round_trip(self) -> Timed:
        """Make a round trip, and return how long it took."""
        result = self.once()
        return self._taken["round_trip"][-1], result

    def submission(self) -> Timed:
        """Make a round trip, and return how long the submission took."""
        result = self.once()
        return self._taken["submit"][-1], result

    def batch(self, tasks: int) -> Timed:
        """Run so many tasks together, and return how long it took for each of them."""
        self._batch = tasks
        result = self._run(self._many(tasks), tasks)
        return self._taken["per_task"][-1], result

    def apart(self, bodies: Bodies) -> None:
        """Make a round trip, and tell the function's own time from the rest.

        Args:
            bodies: The interceptor of the manager.
        """
        whole, _ = self.round_trip()
        own = bodies.take()
        self._take("body", own)
        self._take("framework", whole - own)

    def figures(self) -> Figures:
        """Return the medians of what has been measured, but for the first, which warms up."""
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
            # All of them end before the first failure is told: none is left behind.
            try:
                result = await awaitable
            except Exception as error:
                failed = failed or error
        self._take("per_task", (self._clock() - begun) / tasks)
        if failed is not None:
            raise failed
        return result


def repeat(step: Callable[[], T], seconds: float) -> list[T]:
    """Call *step* for so many seconds, once at least; return what it gave."""
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
    """Give a bench with a framework of its own, which is current inside."""
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
        except Exception:
            runner.run(_settled(manager))
            raise
        runner.run(_settled(manager))


async def _settled(manager: TaskManager) -> None:
    """Wait until every task has ended: those, too, that tasks have submitted."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    unsubscribe = manager.subscribe(lambda _: loop.call_soon_threadsafe(ended.set), kinds=_ENDS)
    try:
        async with asyncio.timeout(_PATIENCE):
            while manager.get_active_count():
                await ended.wait()
                ended.clear()
    except TimeoutError:
        names = sorted({str(task["name"]) for task in manager.get_active_tasks().values()})
        warnings.warn(
            f"task_benchmark: {', '.join(names)} had not ended {_PATIENCE:g} s after the tasks "
            "that were measured",
            ResourceWarning,
            stacklevel=1,
        )
    finally:
        unsubscribe()


class Bodies(Interceptor):
    """Takes the time of functions: of the tasks that were measured, not of their own tasks.

    Args:
        clock: Returns seconds; called on any thread.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._measured: set[str] = set()
        self._taken: list[float] = []

    def take(self) -> float:
        """Return the seconds since the last call, all attempts together."""
        taken, self._taken = self._taken, []
        self._measured.clear()
        return sum(taken)

    def before_accept(self, record: TaskRecord) -> None:
        """Note a task that no other task submits."""
        if current_task() is None:
            self._measured.add(record.task_id)

    def around_attempt(self, record: TaskRecord, attempt: int, call: Callable[[], Any]) -> Any:
        """Make an attempt, and take its time."""
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
