"""ARQ on a Redis that writes each command to the disk; its workers look twice a second.

That is its default. It keeps no results here, as the others do not.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from benchmarks.queueing import _marks

_settings: Any = import_module("arq.connections").RedisSettings.from_dsn(os.environ[_marks.URL])


async def note(_: object, number: int) -> None:
    """Note that it runs."""
    _marks.note(number)


async def _ready(_: object) -> None:
    _marks.ready()


class _Worker:
    functions = (note,)
    redis_settings = _settings
    max_jobs = _marks.PLACES
    keep_result = 0
    on_startup = _ready


def prepare() -> None:
    """Do nothing: there are no tables."""


@asynccontextmanager
async def submitting() -> AsyncIterator[_marks.Submit]:
    """Enqueue jobs, one by one: there is no way to enqueue some together."""
    pool = await import_module("arq").create_pool(_settings)

    async def one(number: int) -> None:
        await pool.enqueue_job("note", number)

    async def many(numbers: Sequence[int]) -> None:
        for number in numbers:
            await pool.enqueue_job("note", number)

    yield _marks.Submit(one, many)
    await pool.aclose()


def left() -> int:
    """Return how many jobs are in the queue, which they leave when they have ended."""
    with import_module("redis").Redis.from_url(os.environ[_marks.URL]) as client:
        return int(client.zcard("arq:queue"))


def work() -> None:
    """Run a worker."""
    import_module("arq").run_worker(_Worker)
