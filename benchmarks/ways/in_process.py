"""What others offer to run tasks in the app's own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any

from benchmarks.ways._task import AT_ONCE, Way, async_note, note, of_calls


@asynccontextmanager
async def create_task(_: Any) -> AsyncIterator[Way]:
    """``asyncio.create_task``, held until done, as asyncio asks for."""
    tasks: set[asyncio.Task[int]] = set()

    def start(number: int) -> str:
        task = asyncio.create_task(async_note(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return ""

    async def settle() -> None:
        await asyncio.gather(*tasks)

    yield Way(start, result=lambda n: asyncio.create_task(async_note(n)), settle=settle)


def _taskiq(fn: Callable[..., Any], name: str) -> Any:
    @asynccontextmanager
    async def way(_: Any) -> AsyncIterator[Way]:
        broker = import_module("taskiq").InMemoryBroker(sync_tasks_pool_size=AT_ONCE)
        task = broker.register_task(fn, task_name=name)

        async def result(handle: Any) -> int:
            found: int = (await handle.wait_result(check_interval=0.001)).return_value
            return found

        await broker.startup()
        yield of_calls(task.kiq, lambda handle: str(handle.task_id), result)
        await broker.shutdown()

    return way


taskiq = _taskiq(async_note, "async_note")
taskiq_sync = _taskiq(note, "note")


@asynccontextmanager
async def docket(_: Any) -> AsyncIterator[Way]:
    """Docket in memory, with a worker in this process that looks every 5 ms."""
    package, often = import_module("docket"), timedelta(milliseconds=5)
    async with package.Docket(name="adopters", url="memory://") as queue:
        queue.register(async_note)
        worker = package.Worker(
            queue, concurrency=AT_ONCE, minimum_check_interval=often, scheduling_resolution=often
        )

        async def start(number: int) -> Any:
            # What `add` returns starts one task, however often it is called.
            return await queue.add(async_note)(number)

        async with worker:
            running = asyncio.create_task(worker.run_forever())
            yield of_calls(
                start,
                lambda handle: str(handle.key),
                lambda handle: handle.get_result(),
            )
            running.cancel()
            await asyncio.wait([running])
