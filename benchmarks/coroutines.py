"""A tracked coroutine that is awaited in place: what its id, record and limit cost."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

from benchmarks._measure import OURS, Case, Samples, interleave
from benchmarks._rows import Goal, Row
from framework import async_task, get_task_manager, setup_async_framework

T = TypeVar("T")

Function: TypeAlias = Callable[..., int]
AsyncFunction: TypeAlias = Callable[..., Coroutine[Any, Any, int]]
AsyncCall: TypeAlias = Callable[[], Awaitable[object]]

LIMIT = 5.0
"""Seconds; never reached."""

BARE = "bare await"
WAIT_FOR = "asyncio.wait_for"
TIMEOUT = "asyncio.timeout"
TASKIQ = "taskiq in place"

ANSWER = 42
"""What every body returns, and so every call."""

MICROSECONDS = "µs"  # the sign that keyboards have

CALLS = 10_000
"""How many are timed at once, but for peers that take longer."""


class FrameworkLoop:
    """An event loop with a framework on it, on which cases take turns.

    Args:
        options: Of `setup_async_framework`.

    Attributes:
        ending: Closed on the loop at the end, before the framework.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._runner = asyncio.Runner()
        self._context = copy_context()
        self.ending = AsyncExitStack()

    def __enter__(self) -> FrameworkLoop:
        self.run(self.ending.enter_async_context(setup_async_framework(None, **self._options)))
        return self

    def __exit__(self, *_: object) -> None:
        with self._runner:
            self.run(self.ending.aclose())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, in the framework's context."""
        return self._runner.run(coroutine, context=self._context)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the framework's context while no loop runs, as on a thread."""
        return self._context.run(function)


def time_sync_calls(call: Callable[[], object], calls: int) -> float:
    """Return the microseconds that one of *calls* takes, each giving `ANSWER`."""
    require(call(), ANSWER)
    begin = perf_counter()
    for _ in range(calls):
        answer = call()
    spent = perf_counter() - begin
    require(answer, ANSWER)
    return spent / calls * 1e6


async def time_calls(call: AsyncCall, calls: int) -> float:
    """Return the microseconds that one of *calls* takes, each awaited for `ANSWER`."""
    require(await call(), ANSWER)
    begin = perf_counter()
    for _ in range(calls):
        answer = await call()
    spent = perf_counter() - begin
    require(answer, ANSWER)
    return spent / calls * 1e6


def take_turns(cases: Mapping[str, Case], floor: str, rounds: int) -> dict[str, Samples]:
    """Do as `interleave`, with all that is there before out of the collector's sight.

    Some peers make cycles at every call, so what they cost would depend on what else was
    imported and measured in this process.
    """
    gc.collect()
    gc.freeze()
    try:
        return interleave(cases, floor, rounds)
    finally:
        gc.unfreeze()


def require(found: object, expected: object) -> None:
    """Raise ``RuntimeError`` if a case did not do its work."""
    if found != expected:
        raise RuntimeError(f"the case gave {found!r} in place of {expected!r}")


# -- bodies


def function() -> int:
    """Return `ANSWER`."""
    return ANSWER


async def plain() -> int:
    """Return `ANSWER` at once."""
    return ANSWER


async def suspends() -> int:
    """Return `ANSWER` one turn of the loop later."""
    await asyncio.sleep(0)  # noqa: TID251  # gives way once; no time has to pass
    return ANSWER


# -- what is put around them


def bare(body: AsyncFunction) -> AsyncCall:
    """Return a coroutine function that awaits *body* and does nothing else."""

    async def call() -> int:
        return await body()

    return call


def tracked(body: AsyncFunction) -> AsyncCall:
    """Return *body* as a tracked task with a limit, awaited in place."""
    return async_task(timeout=LIMIT)(body)


def stdlib_calls(body: AsyncFunction) -> dict[str, AsyncCall]:
    """Return what asyncio has for a limit or a task of its own; nothing is tracked."""

    async def wait_for() -> int:
        return await asyncio.wait_for(body(), LIMIT)

    async def timeout() -> int:
        async with asyncio.timeout(LIMIT):
            return await body()

    async def create_task() -> int:
        return await asyncio.create_task(body())

    return {WAIT_FOR: wait_for, TIMEOUT: timeout, "asyncio.create_task": create_task}


async def peer_calls(body: AsyncFunction, ending: AsyncExitStack) -> dict[str, AsyncCall]:
    """Return what other packages have for it; *ending* closes them."""
    anyio: Any = import_module("anyio")
    aiojobs: Any = import_module("aiojobs")
    taskiq: Any = import_module("taskiq")

    scheduler = aiojobs.Scheduler(limit=None)
    ending.push_async_callback(scheduler.close)
    broker = taskiq.InMemoryBroker(await_inplace=True)
    ending.push_async_callback(broker.shutdown)
    kiq = broker.register_task(body, task_name=body.__name__).kiq

    async def fail_after() -> int:
        with anyio.fail_after(LIMIT):
            return await body()

    async def spawn() -> object:
        return await (await scheduler.spawn(body())).wait()

    async def in_place() -> object:
        return (await (await kiq()).get_result()).return_value

    return {"anyio.fail_after": fail_after, "aiojobs spawn + wait": spawn, TASKIQ: in_place}


# -- rows


@dataclass(frozen=True)
class _Subject:
    key: str
    title: str
    body: AsyncFunction
    goals: Sequence[Goal]


_SUBJECTS = (
    _Subject(
        "coroutine_plain",
        "tracked coroutine with a limit, not suspending",
        plain,
        (
            Goal(BARE, 28.0),
            Goal(WAIT_FOR, 0.12, 0.55),
            Goal(TIMEOUT, 0.35, 0.55),
            Goal(TASKIQ, 0.06),
        ),
    ),
    _Subject(
        "coroutine_suspends",
        "tracked coroutine with a limit, suspending once",
        suspends,
        (Goal(BARE, 3.5), Goal(WAIT_FOR, 0.40, 0.85), Goal(TIMEOUT, 0.75, 0.85)),
    ),
)


def rows(rounds: int, *, peers: bool) -> Iterator[Row]:
    """Measure a coroutine that suspends and one that does not."""
    with FrameworkLoop() as loop:
        for subject in _SUBJECTS:
            calls = {BARE: bare(subject.body), OURS: tracked(subject.body)}
            calls |= stdlib_calls(subject.body)
            if peers:
                calls |= loop.run(peer_calls(subject.body, loop.ending))
            yield Row(
                key=subject.key,
                title=subject.title,
                unit=MICROSECONDS,
                floor=BARE,
                samples=take_turns(_cases(loop, calls), BARE, rounds),
                goals=subject.goals,
                note="The bare await is one coroutine that awaits another. Only asyncframe and "
                "taskiq give an id and keep the result. aiojobs and create_task set no time "
                "limit.",
            )


def _cases(loop: FrameworkLoop, calls: Mapping[str, AsyncCall]) -> dict[str, Case]:
    def measure(name: str) -> float:
        if name == OURS:
            return loop.run(_time_tracked(calls[name]))
        return loop.run(time_calls(calls[name], CALLS // 10 if name == TASKIQ else CALLS))

    return {name: partial(measure, name) for name in calls}


async def _time_tracked(call: AsyncCall) -> float:
    """Time calls of a task, beginning without finished ones, and see that all were kept."""
    manager = get_task_manager()
    manager.cleanup_completed_tasks(0)
    before = manager.get_stats()["completed"]
    spent = await time_calls(call, CALLS)
    stats = manager.get_stats()
    require(stats["completed"] - before, CALLS + 1)
    require(stats["kept"], CALLS + 1)
    return spent
