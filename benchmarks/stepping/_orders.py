"""How a process of `benchmarks.steps` is told what to run, whichever system it has."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable

URL = "BENCHMARKS_URL"


async def serve(
    task: Callable[[int], Awaitable[object]], sleeper: Callable[[], Awaitable[object]]
) -> None:
    """Run orders until there are no more.

    Args:
        task: Runs a task with so many steps to its end.
        sleeper: Starts a task that sleeps.
    """
    while line := await asyncio.to_thread(sys.stdin.readline):
        order, *values = line.split()
        began = time.perf_counter()
        if order == "run":
            lanes, tasks, steps = map(int, values)
            await _run(task, lanes, tasks, steps)
        elif order == "sleep":
            for _ in range(int(values[0])):
                await sleeper()
            # Until the last one sleeps, and what its start has caused is over.
            await asyncio.sleep(10)  # noqa: TID251 - nothing tells of it in both systems
        else:
            await asyncio.sleep(float(values[0]))  # noqa: TID251 - it is watched meanwhile
        os.write(1, f"answer: {time.perf_counter() - began}\n".encode())


async def _run(
    task: Callable[[int], Awaitable[object]], lanes: int, tasks: int, steps: int
) -> None:
    left = iter(range(tasks))

    async def lane() -> None:
        for _ in left:
            await task(steps)

    await asyncio.gather(*(lane() for _ in range(lanes)))
