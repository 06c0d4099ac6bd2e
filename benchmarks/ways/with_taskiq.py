"""Tasks of taskiq through Redis; workers import this module, and so does the app."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from benchmarks.ways import _task

_redis: Any = import_module("taskiq_redis")
_url = os.environ[_task.URL]
broker = _redis.RedisStreamBroker(_url).with_result_backend(_redis.RedisAsyncResultBackend(_url))
note = broker.register_task(_task.async_note, task_name="note")


def _polling(interval: float) -> _task.MakeWay:
    @asynccontextmanager
    async def way(_: Any) -> AsyncIterator[_task.Way]:
        async def result(handle: Any) -> int:
            found: int = (await handle.wait_result(check_interval=interval)).return_value
            return found

        await broker.startup()
        yield _task.of_calls(note.kiq, lambda handle: str(handle.task_id), result)
        await broker.shutdown()

    return way


default = _polling(0.2)
fast = _polling(0.001)
