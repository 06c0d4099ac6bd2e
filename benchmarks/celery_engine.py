"""What a task on Celery workers costs, beside the same with bare Celery in the same run.

Both have workers with two processes on one broker, and results in one Redis.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, closing
from importlib import import_module
from time import perf_counter, process_time
from typing import Any

from benchmarks._measure import OURS, Samples, child, percentile
from benchmarks._rows import Goal, Row
from benchmarks._servers import spent
from framework import get_task_manager, setup_async_framework
from tests.processes.celery.workers import CeleryWorker
from tests.processes.servers import RabbitServer, RedisServer

BARE = "Celery"
SAFE = "Celery, set as safe as it can be"
BROKERS = {"redis": "Redis", "rabbitmq": "RabbitMQ"}

TASKS = 1_000
TRIPS = 100

_APPS = "benchmarks.celery_apps"
_APP_OF = {OURS: ("app", "engine"), BARE: ("bare", "bare"), SAFE: ("safe", "safe")}
"""The name of the app in its module, and its queue."""
_BURST = 50
_PATIENCE = 120.0
_WARM = 20

Figures = dict[str, float]
"""Microseconds by the name of a figure; each for one task."""


# -- one broker, in an interpreter of its own


# Any: the module of the apps is imported when there is a broker to connect to.
async def measure_ours(apps: Any, processes: list[int]) -> Figures:
    """Measure tasks of the engine.

    Args:
        apps: The module with the apps.
        processes: Those whose processor time counts beside this one's.
    """
    async with setup_async_framework(None, engine=apps.engine):
        manager = get_task_manager()

        async def trip(number: int) -> None:
            found = await manager.get_result(apps.number(number), timeout=_PATIENCE)
            _require(found, number)

        for number in range(_WARM):
            await trip(number)
        trips = [await _timed(trip(number)) for number in range(TRIPS)]
        before, began, calling = _spent(processes), perf_counter(), 0.0
        ids = []
        for first in range(0, TASKS, _BURST):
            called = perf_counter()
            ids += [apps.number(number) for number in range(first, first + _BURST)]
            calling += perf_counter() - called
            await asyncio.sleep(0)  # noqa: TID251 - other requests get their turn
        for number, task_id in enumerate(ids):
            _require(await manager.get_result(task_id, timeout=_PATIENCE), number)
        whole, usage = perf_counter() - began, _spent(processes) - before
    return _figures(trips, calling, whole, usage)


async def _timed(call: Coroutine[Any, Any, None]) -> float:
    began = perf_counter()
    await call
    return perf_counter() - began


def measure_bare(task: Any, processes: list[int]) -> Figures:  # Any: Celery has no types
    """Measure a task of bare Celery, as code without coroutines uses it; see `measure_ours`."""

    def trip(number: int) -> float:
        began = perf_counter()
        _require(task.delay(number).get(timeout=_PATIENCE), number)
        return perf_counter() - began

    for number in range(_WARM):
        trip(number)
    trips = [trip(number) for number in range(TRIPS)]
    before, began = _spent(processes), perf_counter()
    results = [task.delay(number) for number in range(TASKS)]
    calling = perf_counter() - began
    for number, result in enumerate(results):
        _require(result.get(timeout=_PATIENCE), number)
    whole, usage = perf_counter() - began, _spent(processes) - before
    return _figures(trips, calling, whole, usage)


def _spent(processes: list[int]) -> float:
    return process_time() + spent(processes)


def _require(found: object, number: int) -> None:
    if found != number:
        raise RuntimeError(f"a task returned {found!r} instead of {number}")


def _figures(trips: list[float], calling: float, whole: float, usage: float) -> Figures:
    return {
        "submit": calling / TASKS * 1e6,
        "run": whole / TASKS * 1e6,
        "trip": percentile(trips, 0.5) * 1e6,
        "cpu": usage / TASKS * 1e6,
    }


def _measured(broker: str, names: list[str]) -> dict[str, Figures]:
    """Start servers and workers, and measure one after the other."""
    with ExitStack() as stack:
        redis = stack.enter_context(closing(RedisServer("--appendonly", "no")))
        redis.start()
        servers, url = [redis.pid], redis.url
        if broker == "rabbitmq":
            rabbit = stack.enter_context(closing(RabbitServer()))
            rabbit.start()
            servers.append(rabbit.pid)
            url = rabbit.url
        os.environ |= {"BENCHMARKS_BROKER": url, "BENCHMARKS_REDIS": redis.url}
        apps = import_module(_APPS)
        workers = {}
        for name, (app, queue) in _APP_OF.items():
            options = ("--concurrency", "2", "--queues", queue, "--hostname", f"{queue}@localhost")
            worker = CeleryWorker(f"{_APPS}:{app}", redis.url, *options)
            workers[name] = stack.enter_context(closing(worker)).start()
        measure: Mapping[str, Callable[[list[int]], Figures]] = {
            OURS: lambda processes: asyncio.run(measure_ours(apps, processes)),
            BARE: lambda processes: measure_bare(apps.bare_number, processes),
            SAFE: lambda processes: measure_bare(apps.safe_number, processes),
        }
        return {name: measure[name]([*servers, workers[name].pid]) for name in names}


# -- rows


def rows(rounds: int, *, peers: bool) -> Iterator[Row]:
    """Measure the engine beside bare Celery, on each broker.

    Args:
        rounds: How many fresh interpreters, servers and workers for each, from 1 on.
        peers: Not looked at; Celery is what is stood on.
    """
    for broker, title in BROKERS.items():
        samples: dict[str, dict[str, Samples]] = {}
        for number in range(rounds):
            names = [OURS, SAFE, BARE] if number % 2 else [BARE, SAFE, OURS]
            found = child("benchmarks.celery_engine", "--child", broker, *names)
            for figure, floor in found[BARE].items():
                of_figure = samples.setdefault(figure, {name: Samples() for name in _APP_OF})
                for name, case in of_figure.items():
                    case.add(found[name][figure], floor)
        for figure, (words, at_most) in _ROWS.items():
            yield Row(
                key=f"celery_{broker}_{figure}",
                title=f"{words}, {title}",
                unit="µs",
                floor=BARE,
                samples=samples[figure],
                goals=[Goal(BARE, at_most)],
                note=_NOTES.get(figure, ""),
            )


_ROWS = {
    "submit": ("Submit a task to Celery workers: until the call returns", 0.2),
    "run": ("Run 1,000 tasks on Celery workers, from the first call to the last result: each", 1.5),
    "trip": ("Run tasks on a Celery worker one at a time: until the result, median", 1.5),
    "cpu": ("CPU time of a task on Celery workers: app, worker and servers together", 1.3),
}
"""Words of the title, and the goal beside bare Celery, by figure."""

_NOTES = {
    "submit": (
        "The engine's call leaves publishing to a thread; that of bare Celery waits for the broker."
    ),
    "run": (
        "On a worker with two processes, with results in Redis. The engine also keeps states and "
        "time limits there, and a task that its worker did not finish runs again. Celery itself is "
        "as safe as it can be with late acknowledgements, time limits, states of started tasks, "
        "and RabbitMQ's confirmations."
    ),
}


if __name__ == "__main__":
    print(json.dumps(_measured(sys.argv[2], sys.argv[3:])))  # noqa: T201  # what `child` reads
