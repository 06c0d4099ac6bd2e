"""What the curves of `growth` measure: each from its least point to its greatest, once.

Every run of a task is counted, so that a case that skips some raises.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from time import perf_counter
from typing import NoReturn

from benchmarks._measure import OURS
from benchmarks.floors import THREADS
from framework import (
    TaskManager,
    TaskStatus,
    async_task,
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from framework.protocols import Clock, TaskStore

BURST = 5_000
SLEEPERS = 256

# Names of series that are held against others.
NO_OP_STANDARD = "no-op, ThreadPoolExecutor"
EXECUTOR = "run_in_executor"
EVENT = "asyncio.Event"
ONE_TASK = "for one task"
A_TASK_EACH = "for a task each"

BATCHES = 9
"""How often a point is measured; the median counts."""

_MORE_THAN_ANY = 2_000_000
_DRAINED_AT_MOST = 100_000
_TURN_EVERY = 1_000
_TRIPS = 1_000
_WAITS = 10_000
_PATIENCE = 120.0

Costs = dict[str, list[float | None]]
"""Microseconds by the name of a series, one for each point; None where there is none."""

ran: list[None] = []
"""One entry for each run of a task below; appending needs no lock."""


# -- tasks


@background_task
def noop() -> None:
    """Do nothing, on a thread."""
    ran.append(None)


@background_task
def _pause() -> None:
    time.sleep(0.001)  # noqa: TID251 - a task that blocks its thread is what is measured
    ran.append(None)


@background_task
def _block(gate: threading.Event) -> None:
    gate.wait(_PATIENCE)


@async_task
async def in_place() -> str:
    """Return the id of this task, which is run by its caller."""
    ran.append(None)
    task = current_task()
    assert task is not None
    return task.task_id


@async_task
def _in_pool() -> None:
    ran.append(None)


# -- measuring


@asynccontextmanager
async def framework(
    max_workers: int = THREADS, clock: Clock | None = None, store: TaskStore | None = None
) -> AsyncIterator[TaskManager]:
    """Start a framework that refuses and forgets nothing by itself."""
    async with setup_async_framework(
        None,
        max_workers=max_workers,
        queue_size=_MORE_THAN_ANY,
        max_finished_tasks=_MORE_THAN_ANY,
        cleanup_interval=math.inf,
        clock=clock,
        store=store,
    ):
        yield get_task_manager()


async def turn() -> None:
    """Let the loop go round once."""
    turned = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turned.set_result, None)
    await turned


async def until(reached: Callable[[], bool], what: str) -> None:
    """Go round the loop until *reached*, or raise that *what* was not."""
    end = perf_counter() + _PATIENCE
    while not reached():
        if perf_counter() > end:
            raise RuntimeError(f"{what} was not reached")
        await turn()


async def _until_ran(count: int) -> None:
    await until(lambda: len(ran) >= count, f"the run of {count} tasks")
    if len(ran) != count:
        raise RuntimeError(f"{len(ran)} tasks have run instead of {count}")


async def _occupied(manager: TaskManager) -> threading.Event:
    """Give every thread something to wait for, and return what lets them go on."""
    gate = threading.Event()
    for _ in range(THREADS):
        _block(gate)
    await until(lambda: manager.get_stats()["running"] == THREADS, "a busy pool")
    return gate


async def _submitted(count: int) -> list[str]:
    """Submit *count* tasks that do nothing, and return their ids."""
    ids: list[str] = []
    while len(ids) < count:
        ids += [noop() for _ in range(min(_TURN_EVERY, count - len(ids)))]
        await turn()
    return ids


async def find(manager: TaskManager, ids: Sequence[str], status: TaskStatus) -> float:
    """Return the microseconds that a look-up of each of *ids* takes."""
    begin = perf_counter()
    for task_id in ids:
        task = await manager.get_task(task_id)
    spent = perf_counter() - begin
    if task is None or task.status is not status:
        raise RuntimeError(f"expected a task that is {status}, not {task!r}")
    return spent / len(ids) * 1e6


def some(ids: Sequence[str]) -> Sequence[str]:
    """Return at most 200 ids from all over *ids*."""
    return ids[:: math.ceil(len(ids) / 200)]


def per_call(call: Callable[[], object], count: int) -> float:
    """Return the microseconds that a call takes."""
    begin = perf_counter()
    for _ in range(count):
        call()
    return (perf_counter() - begin) / count * 1e6


class Medians:
    """Collects the samples of the current point and keeps the medians of all points."""

    def __init__(self, *names: str) -> None:
        self.costs: Costs = {name: [] for name in names}
        self._samples: dict[str, list[float]] = {name: [] for name in names}

    def add(self, name: str, cost: float) -> None:
        """Add a sample in microseconds."""
        self._samples[name].append(cost)

    def close(self) -> None:
        """End the current point."""
        for name, samples in self._samples.items():
            self.costs[name].append(statistics.median(samples) if samples else None)
            samples.clear()


# -- the curves


async def _drain(manager: TaskManager, count: int) -> float:
    """Return the microseconds per task in which a busy pool gets through *count* tasks."""
    before = len(ran)
    gate = await _occupied(manager)
    ids = await _submitted(count)
    gc.collect()
    begin = perf_counter()
    gate.set()
    await manager.get_result(ids[-1])
    spent = perf_counter() - begin
    await _until_ran(before + count)
    return spent / count * 1e6


async def pending(points: Sequence[int]) -> Costs:
    """Measure calls while tasks wait for a thread."""
    found = Medians("submit", "get_task", "get_stats", "cancel_task", "run")
    async with framework() as manager:
        drained: dict[int, float] = {}
        for count in points:
            if count <= _DRAINED_AT_MOST:
                times = min(BATCHES, math.ceil(20_000 / count))
                drained[count] = statistics.median(
                    [await _drain(manager, count) for _ in range(times)]
                )
    before = len(ran)
    async with framework() as manager, AsyncExitStack() as stack:
        stack.callback((await _occupied(manager)).set)
        waiting = 0
        for count in points:
            ids = some(await _submitted(count - waiting))
            waiting = count
            gc.collect()
            for _ in range(BATCHES):
                begin = perf_counter()
                late = [noop() for _ in range(20)]
                found.add("submit", (perf_counter() - begin) / len(late) * 1e6)
                await turn()
                found.add("get_task", await find(manager, ids, TaskStatus.PENDING))
                found.add("get_stats", per_call(manager.get_stats, 20))
                begin = perf_counter()
                cancelled = [await manager.cancel_task(task_id) for task_id in late]
                found.add("cancel_task", (perf_counter() - begin) / len(late) * 1e6)
                if not all(cancelled) or manager.get_stats()["pending"] != count:
                    raise RuntimeError(f"not {count} tasks are waiting: {manager.get_stats()}")
            if count in drained:
                found.add("run", drained[count])
            found.close()
        if len(ran) != before:
            raise RuntimeError("tasks have run while the pool was busy")
        finish(found.costs)


async def burst(
    manager: TaskManager,
    task: Callable[[], str],
    count: int,
    max_workers: int,
    told: list[str] | None = None,
) -> float:
    """Return the microseconds per task in which *count* are submitted and have run.

    Args:
        manager: The framework's.
        task: Submits one, and returns its id.
        count: How many to submit.
        max_workers: Threads of the pool.
        told: Is given the ids in place of what it has; None for no list.
    """
    before = len(ran)
    begin = perf_counter()
    ids = [task() for _ in range(count)]
    # Each thread is at one of the last when the others have ended.
    for task_id in ids[-max_workers:]:
        await manager.get_result(task_id)
    await _until_ran(before + count)
    spent = perf_counter() - begin
    if told is not None:
        told[:] = ids
    return spent / count * 1e6


async def workers(points: Sequence[int]) -> Costs:
    """Measure bursts of tasks with more and more threads."""
    found = Medians("no-op", NO_OP_STANDARD, "sleep of 1 ms")
    for count in points:
        async with framework(count) as manager:
            await burst(manager, _pause, 2 * count, count)
            for _ in range(3):
                found.add("no-op", await burst(manager, noop, BURST, count))
            found.add("sleep of 1 ms", await burst(manager, _pause, SLEEPERS, count))
        with ThreadPoolExecutor(count) as pool:
            for _ in range(3):
                found.add(NO_OP_STANDARD, _standard_burst(pool))
        found.close()
    return found.costs


def _standard_burst(pool: ThreadPoolExecutor) -> float:
    before = len(ran)
    begin = perf_counter()
    wait([pool.submit(noop.fn) for _ in range(BURST)])
    spent = perf_counter() - begin
    if len(ran) != before + BURST:
        raise RuntimeError(f"{len(ran) - before} calls have run instead of {BURST}")
    return spent / BURST * 1e6


async def waiters(points: Sequence[int]) -> Costs:
    """Measure how many coroutines wait for one task, and for a task each."""
    cases: dict[str, Callable[[TaskManager, int], Awaitable[float]]] = {
        ONE_TASK: partial(_wait, share=True),
        EVENT: _wait_for_event,
        A_TASK_EACH: partial(_wait, share=False),
        EXECUTOR: _wait_for_executor,
    }
    found = Medians(*cases)
    async with framework() as manager:
        for count in points:
            for _ in range(min(50, math.ceil(_WAITS / count))):
                gc.collect()
                for name, case in cases.items():
                    found.add(name, await case(manager, count))
            found.close()
    return found.costs


async def _wait(manager: TaskManager, waiters: int, *, share: bool) -> float:
    """Return the microseconds that a waiter costs, from its call until all have results.

    Submitting and running the tasks is in it, with all threads busy until everybody waits.
    """
    tasks = 1 if share else waiters
    gate = await _occupied(manager)
    before = len(ran)
    begin = perf_counter()
    ids = [noop() for _ in range(tasks)]
    waiting = [asyncio.create_task(manager.get_result(ids[n % tasks])) for n in range(waiters)]
    await turn()
    gate.set()
    await asyncio.gather(*waiting)
    spent = perf_counter() - begin
    await _until_ran(before + tasks)
    return spent / waiters * 1e6


async def _wait_for_event(_manager: TaskManager, waiters: int) -> float:
    """Return the same where all wait for an event that a thread sets."""
    loop, event, gate = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def run() -> None:
        gate.wait(_PATIENCE)
        loop.call_soon_threadsafe(event.set)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(run)
        begin = perf_counter()
        waiting = [asyncio.create_task(event.wait()) for _ in range(waiters)]
        await turn()
        gate.set()
        if not all(await asyncio.gather(*waiting)):
            raise RuntimeError("a coroutine did not wait for the event")
        return (perf_counter() - begin) / waiters * 1e6


async def _wait_for_executor(_manager: TaskManager, waiters: int) -> float:
    """Return the same where each waits for a call of its own in a bare pool."""
    before, gate = len(ran), threading.Event()
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(THREADS):
            pool.submit(gate.wait, _PATIENCE)
        begin = perf_counter()
        waiting = [asyncio.create_task(_call_in(pool)) for _ in range(waiters)]
        await turn()
        gate.set()
        await asyncio.gather(*waiting)
        spent = perf_counter() - begin
    await _until_ran(before + waiters)
    return spent / waiters * 1e6


async def loops(points: Sequence[int]) -> Costs:
    """Measure round trips from several event loops, each in a thread of its own."""
    found = Medians(OURS, EXECUTOR)
    with ThreadPoolExecutor(THREADS) as pool:
        async with framework():
            for count in points:
                for _ in range(3):
                    found.add(OURS, await _trips(_in_pool, count))
                    found.add(EXECUTOR, await _trips(partial(_call_in, pool), count))
                found.close()
    return found.costs


async def _call_in(pool: ThreadPoolExecutor) -> None:
    await asyncio.get_running_loop().run_in_executor(pool, noop.fn)


async def _trips(call: Callable[[], Awaitable[None]], loops: int) -> float:
    """Return the microseconds per round trip with as many loops at it at the same time."""
    trips = _TRIPS // loops
    barrier = threading.Barrier(loops)
    before = len(ran)

    async def go() -> tuple[float, float]:
        await call()
        # It blocks this loop alone, which has nothing else to do.
        barrier.wait(_PATIENCE)
        begin = perf_counter()
        for _ in range(trips):
            await call()
        return begin, perf_counter()

    with ThreadPoolExecutor(loops) as threads:
        here = asyncio.get_running_loop()
        spans = await asyncio.gather(
            *[here.run_in_executor(threads, lambda: asyncio.run(go())) for _ in range(loops)]
        )
    if len(ran) != before + loops * (trips + 1):
        raise RuntimeError(f"{len(ran) - before} calls have run in {loops} x {trips + 1} trips")
    begin, end = min(span[0] for span in spans), max(span[1] for span in spans)
    return (end - begin) / (loops * trips) * 1e6


def finish(costs: Costs) -> NoReturn:
    """Print the costs and end the process at once: a million tasks take long to let go."""
    sys.stdout.write(json.dumps(costs) + "\n")
    sys.stdout.flush()
    os._exit(0)
