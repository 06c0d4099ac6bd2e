"""taskiq on streams of a Redis that writes each command to the disk.

Its command starts a process that starts the one that works, as its users run it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from benchmarks.queueing import _marks

broker: Any = import_module("taskiq_redis").RedisStreamBroker(os.environ[_marks.URL])


async def _ready(_: object) -> None:
    _marks.ready()


async def _note(number: int) -> None:
    _marks.note(number)


broker.on_event(import_module("taskiq").TaskiqEvents.WORKER_STARTUP)(_ready)
note = broker.register_task(_note, task_name="note")


def prepare() -> None:
    """Do nothing: the broker makes its stream."""


@asynccontextmanager
async def submitting() -> AsyncIterator[_marks.Submit]:
    """Send messages, one by one: there is no way to send some together."""
    await broker.startup()

    async def many(numbers: Sequence[int]) -> None:
        for number in numbers:
            await note.kiq(number)

    yield _marks.Submit(note.kiq, many)
    await broker.shutdown()


def left() -> int:
    """Return how many messages nobody has read, or not acknowledged."""
    with import_module("redis").Redis.from_url(os.environ[_marks.URL]) as client:
        groups = client.xinfo_groups("taskiq")
    return sum(int(one["pending"]) + int(one["lag"] or 0) for one in groups)


def work() -> None:
    """Run ``taskiq worker``."""
    options = ["--workers", "1", "--max-async-tasks", str(_marks.PLACES), "--log-level", "ERROR"]
    sys.argv[1:] = ["worker", f"{__name__}:broker", *options]
    import_module("taskiq.__main__").main()
