"""A program that runs very many tasks, whose results nobody asks for, and prints the cost.

``many.py finished <n> <kept>`` runs n that succeed, of which so many are kept,
``many.py failed <n>`` n that fail with a megabyte in their locals, ``many.py refused <n>``
offers n to a queue that is full.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from time import perf_counter

import psutil

from framework import QueueFullError, get_task_manager, setup_async_framework

_BATCH = 1_000


def succeed(number: int) -> int:
    """Give back what was given."""
    return number


def fail(number: int) -> None:
    """Fail with a megabyte in a local variable."""
    large = b"x" * (1_000_000 + number)  # written to, so that it is really there
    raise ValueError(number, len(large))


async def run(first: int, last: int, fn: Callable[[int], object]) -> None:
    """Run *fn* with every number; wait at the end of each batch, or the queue would be full.

    The pool must have one thread: then all have ended when the last one has.
    """
    manager = get_task_manager()
    for start in range(first, last, _BATCH):
        for number in range(start, min(start + _BATCH, last)):
            task_id = await manager.submit(fn, (number,))
        with suppress(ValueError):
            await manager.get_result(task_id)


def memory() -> float:
    """Return the resident memory of this process in millions of bytes."""
    gc.collect()
    return psutil.Process().memory_info().rss / 1e6


async def finished(count: int, kept: int) -> dict[str, object]:
    """Measure tasks that succeed, from the end of the first third on."""
    async with setup_async_framework(None, max_workers=1, max_finished_tasks=kept):
        begun = perf_counter()  # steady: told, never compared
        after = []
        for sixth in range(6):
            await run(count * sixth // 6, count * (sixth + 1) // 6, succeed)
            after.append(memory())
        took = perf_counter() - begun  # steady: told, never compared
        # What tasks leave behind shows in each; a larger burst than any before shows once.
        grown = 4 * min(later - earlier for earlier, later in pairwise(after[1:]))
        return {"grown": grown, "took": took, **get_task_manager().get_stats()}


async def failed(count: int) -> dict[str, object]:
    """Measure tasks that fail."""
    async with setup_async_framework(None, max_workers=1):
        await run(0, 20, fail)
        base = memory()
        await run(20, count + 20, fail)
        return {"grown": memory() - base, **get_task_manager().get_stats()}


async def refused(count: int) -> dict[str, object]:
    """Measure submissions to a queue of 1,000 behind workers that are stuck."""
    started, release = threading.Barrier(3), threading.Event()

    def block() -> None:
        started.wait()
        release.wait()

    async with setup_async_framework(None, max_workers=2, queue_size=1_000):
        manager = get_task_manager()
        for _ in range(2):
            await manager.submit(block)
        await asyncio.to_thread(started.wait)
        for number in range(1_000):
            await manager.submit(succeed, (number,))
        base, times = memory(), []
        for number in range(count):
            begun = perf_counter()  # steady: told, never compared
            try:
                await manager.submit(succeed, (number,))
            except QueueFullError:
                times.append(perf_counter() - begun)  # steady: told, never compared
        figures = {"grown": memory() - base, **manager.get_stats()}
        release.set()
    times.sort()
    p50, p99 = times[len(times) // 2], times[-len(times) // 100]
    return {**figures, "p50_us": p50 * 1e6, "p99_us": p99 * 1e6}


if __name__ == "__main__":
    logging.getLogger("asyncframe").setLevel(logging.CRITICAL)
    measure = {"finished": finished, "failed": failed, "refused": refused}[sys.argv[1]]
    figures = asyncio.run(measure(*map(int, sys.argv[2:])))  # type: ignore[operator]  # each its own
    print(json.dumps(figures))  # noqa: T201  # what the test reads
