"""Who keeps finished tasks: ourselves, the usual record, and what other packages have."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import import_module
from time import perf_counter
from typing import Any, TypeAlias
from uuid import uuid4

from benchmarks.coroutines import require
from framework import background_task, get_task_manager
from framework.protocols import TaskEvent

RECORDS = "dataclass(slots) records"
CELERY = "celery"
TASKIQ = "taskiq"
HUEY = "huey"

WARM_UP = 100
"""How many tasks are finished before those that count."""

PORTION = 1_000
"""How many tasks are submitted at once; the queue has room for them."""

Keeper: TypeAlias = Callable[[int], object]
"""Finishes so many tasks with small numbers as results, and returns what keeps them."""


@dataclass(slots=True)
class Record:
    """A finished task as it is usually kept; times are seconds of `perf_counter`."""

    task_id: str
    name: str
    status: int
    result: object
    created: float
    started: float
    ended: float


def keep_records(count: int) -> object:
    """Keep records under their ids, and in the order in which they ended."""
    known: dict[str, Record] = {}
    ended: deque[Record] = deque()
    for number in range(count):
        task_id = f"{number:024x}"
        times = perf_counter(), perf_counter(), perf_counter()
        known[task_id] = record = Record(task_id, "body", 2, number, *times)
        ended.append(record)
    return known, ended


def keep_futures(count: int) -> object:
    """Keep what the standard pool returns, under ids."""
    known: dict[str, Future[int]] = {}
    for number in range(count):
        known[str(uuid4())] = future = Future[int]()
        future.set_result(number)
    return known


def keep_with_taskiq(count: int) -> object:
    """Run tasks in place, with all results stored."""
    inmemory: Any = import_module("taskiq.brokers.inmemory_broker")
    backend = inmemory.InmemoryResultBackend(max_stored_results=-1)
    broker = inmemory.InMemoryBroker(await_inplace=True).with_result_backend(backend)

    async def body(number: int) -> int:
        return number

    task = broker.register_task(body, task_name="body")

    async def run() -> None:
        for number in range(count):
            await task.kiq(number)

    asyncio.run(run())
    require(len(backend.results), count)
    return broker


def keep_with_huey(count: int) -> object:
    """Run tasks at once, with all results stored."""
    huey = import_module("huey").MemoryHuey("bench", immediate=True)

    @huey.task()
    def body(number: int) -> int:
        return number

    for number in range(count):
        body(number)
    require(huey.storage.result_store_size(), count)
    return huey


def keep_with_celery(count: int) -> object:
    """Store results as a worker does, in a cache that is made large enough."""
    celery: Any = import_module("celery")
    cache: Any = import_module("celery.backends.cache")
    cache._DUMMY_CLIENT_CACHE.limit = count + WARM_UP + 1
    app = celery.Celery("bench", broker="memory://", backend="cache+memory://")
    before = len(cache._DUMMY_CLIENT_CACHE)
    for number in range(count):
        app.backend.store_result(str(uuid4()), number, "SUCCESS")
    require(len(cache._DUMMY_CLIENT_CACHE) - before, count)
    return app


def keep_with_dramatiq(count: int) -> object:
    """Store results as its middleware does, for ten minutes."""
    dramatiq: Any = import_module("dramatiq")
    backend: Any = import_module("dramatiq.results.backends").StubBackend()
    before = len(backend.results)
    for number in range(count):
        message = dramatiq.Message(
            queue_name="default", actor_name="body", args=(number,), kwargs={}, options={}
        )
        backend.store_result(message, number, 600_000)
    require(len(backend.results) - before, count)
    return backend


@background_task
def body(number: int) -> int:
    """Return *number*."""
    return number


_NUMBERS = itertools.count()


def _with_options(number: int) -> object:
    return body.options(timeout=30)(number)


def _with_id(number: int) -> object:
    return body.options(task_id=f"order {next(_NUMBERS)}")(number)


WAYS: Mapping[str, Callable[[int], object]] = {
    "decorated": body,
    "undecorated": lambda number: get_task_manager().submit_nowait(body.fn, args=(number,)),
    "a lambda each": lambda number: get_task_manager().submit_nowait(lambda: number),
    "options": _with_options,
    "an id each": _with_id,
    "a description each": lambda number: body.options(description=f"order {number}")(number),
}
"""How a task with a number may be submitted, by name."""


async def run_tasks(count: int, way: str = "decorated") -> None:
    """Submit tasks to the current framework, and return when all of them are kept.

    Each portion is waited for as a whole.

    Args:
        count: How many.
        way: How, by its name in `WAYS`.
    """
    submit = WAYS[way]
    loop, manager = asyncio.get_running_loop(), get_task_manager()
    portion = asyncio.Event()
    ended = itertools.count(1).__next__
    submitted = 0

    def sink(event: TaskEvent) -> None:
        if event.kind == "completed" and ended() == submitted:
            loop.call_soon_threadsafe(portion.set)

    unsubscribe = manager.subscribe(sink)
    before = manager.get_stats()["kept"]
    for start in range(0, count, PORTION):
        numbers = range(start, min(count, start + PORTION))
        # Before the first of them is submitted, since the last may end at any time.
        submitted += len(numbers)
        portion.clear()
        for number in numbers:
            submit(number)
        await portion.wait()
    unsubscribe()
    require(manager.get_stats()["kept"] - before, count)


KEEPERS: Mapping[str, Keeper] = {RECORDS: keep_records, "concurrent Future": keep_futures}

PEER_KEEPERS: Mapping[str, Keeper] = {
    TASKIQ: keep_with_taskiq,
    HUEY: keep_with_huey,
    CELERY: keep_with_celery,
    "dramatiq": keep_with_dramatiq,
}
