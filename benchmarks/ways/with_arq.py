"""Tasks of ARQ; workers import this module, and so does the app."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from benchmarks.ways import _task

_settings: Any = import_module("arq.connections").RedisSettings.from_dsn(os.environ[_task.URL])


async def note(_: object, number: int) -> int:
    """Mark that a task has run."""
    return _task.note(number)


class Default:
    """A worker that looks for tasks every 0.5 s."""

    functions = (note,)
    redis_settings = _settings
    max_jobs = _task.AT_ONCE


class Fast:
    """A worker that looks for tasks every 5 ms."""

    # ARQ does not look at what a class inherits.
    functions = (note,)
    redis_settings = _settings
    max_jobs = _task.AT_ONCE
    poll_delay = 0.005


def _polling(interval: float) -> _task.MakeWay:
    @asynccontextmanager
    async def way(_: Any) -> AsyncIterator[_task.Way]:
        pool = await import_module("arq").create_pool(_settings)

        async def result(job: Any) -> int:
            found: int = await job.result(poll_delay=interval)
            return found

        yield _task.of_calls(
            lambda number: pool.enqueue_job("note", number), lambda job: str(job.job_id), result
        )
        await pool.aclose()

    return way


default = _polling(0.5)
fast = _polling(0.001)
