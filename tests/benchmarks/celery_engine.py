"""What publishing costs the caller and the loop, and how many tasks Celery workers get done.

``python -m tests.benchmarks.celery_engine`` starts a Redis and a worker of its own and
prints a table; a minute on a quiet machine. ``--rounds`` repeats each measurement.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from contextlib import closing

from framework import get_task_manager, setup_async_framework
from framework.engines.celery import CeleryEngine
from tests.benchmarks._measure import percentile
from tests.processes import celery_tasks
from tests.processes.celery_app import make
from tests.processes.servers import RedisServer
from tests.processes.workers import CeleryWorker

_TASKS = 1_000
_TICK = 0.001
_PATIENCE = 120.0


async def measure(engine: CeleryEngine, submit: Callable[[], str]) -> dict[str, float]:
    """Submit many tasks at once, from a coroutine, and wait for all of them."""
    async with setup_async_framework(None, engine=engine):
        manager = get_task_manager()
        for _ in range(20):
            await manager.get_result(submit(), timeout=_PATIENCE)
        late: list[float] = []
        watch = asyncio.create_task(_watch(late))
        costs, ids = [], []
        began = time.perf_counter()
        for number in range(_TASKS):
            before = time.perf_counter()
            ids.append(submit())
            costs.append(time.perf_counter() - before)
            if number % 50 == 49:
                # A handler that submits, and not one that keeps the loop for a second.
                await asyncio.wait([asyncio.ensure_future(_nothing())])
        for task_id in ids:
            await manager.get_result(task_id, timeout=_PATIENCE)
        whole = time.perf_counter() - began
        watch.cancel()
        return {
            "call, median us": statistics.median(costs) * 1e6,
            "mean us": statistics.fmean(costs) * 1e6,
            "call, p99 us": percentile(costs, 0.99) * 1e6,
            "loop lag, p99 ms": percentile(late, 0.99) * 1e3,
            "loop lag, max ms": max(late) * 1e3,
            "tasks/s end to end": _TASKS / whole,
        }


async def _nothing() -> None:
    """Give the loop a turn."""


async def _watch(late: list[float]) -> None:
    """Note by how much the loop is late, again and again."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _TICK
        woken = loop.create_future()
        timer = loop.call_at(due, woken.set_result, None)
        try:
            await woken
        finally:
            timer.cancel()
        late.append(loop.time() - due)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--processes", type=int, default=2, help="of the worker's pool")
    options = parser.parse_args()
    kinds: dict[str, Callable[[], str]] = {
        "def": celery_tasks.context,
        "async def": celery_tasks.awaited,
    }
    with closing(RedisServer("--appendonly", "no")) as server:
        server.start()
        arguments = ("--concurrency", str(options.processes))
        app = "tests.processes.celery_app:celery_app"
        with closing(CeleryWorker(app, server.url, *arguments)) as worker:
            worker.start()
            for kind, submit in kinds.items():
                for number in range(options.rounds):
                    found = asyncio.run(measure(make(server.url), submit))
                    told = ", ".join(f"{name} {value:,.1f}" for name, value in found.items())
                    print(f"{kind}, round {number + 1}: {told}")  # noqa: T201  # a program


if __name__ == "__main__":
    main()
