"""docket on streams of a Redis that writes each command to the disk."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from benchmarks.queueing import _marks


async def note(number: int) -> None:
    """Note that it runs."""
    _marks.note(number)


@asynccontextmanager
async def _made() -> AsyncIterator[Any]:  # Any: of a package that may not be installed
    package = import_module("docket")
    async with package.Docket(name="bench", url=os.environ[_marks.URL]) as queue:
        queue.register(note)
        yield queue


def prepare() -> None:
    """Do nothing: a worker makes its stream."""


@asynccontextmanager
async def submitting() -> AsyncIterator[_marks.Submit]:
    """Add tasks."""
    async with _made() as queue:

        async def one(number: int) -> None:
            await queue.add(note)(number)

        async def many(numbers: Sequence[int]) -> None:
            await queue.add_many(queue.call(note)(number) for number in numbers)

        yield _marks.Submit(one, many)


def left() -> int:
    """Return how many tasks are in its stream, which they leave when they have ended."""
    with import_module("redis").Redis.from_url(os.environ[_marks.URL]) as client:
        return sum(int(client.xlen(key)) for key in client.scan_iter("*:stream", _type="stream"))


def work() -> None:
    """Run a worker until this process is asked to end."""

    async def run() -> None:
        async with (
            _made() as queue,
            import_module("docket").Worker(queue, concurrency=_marks.PLACES) as worker,
        ):
            running = asyncio.create_task(worker.run_forever())
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, running.cancel)
            loop.call_later(0.5, _marks.ready)
            await asyncio.wait([running])

    asyncio.run(run())
