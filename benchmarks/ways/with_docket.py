"""Tasks of docket through Redis; workers import this module, and so does the app.

As a program it is a worker that looks more often than docket's own program can be told to.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any

from benchmarks.ways import _task

tasks = [_task.async_note]


@asynccontextmanager
async def way(_: Any) -> AsyncIterator[_task.Way]:
    """Publish to the workers."""
    async with import_module("docket").Docket(name="adopters", url=os.environ[_task.URL]) as queue:
        queue.register(_task.async_note)

        async def start(number: int) -> Any:
            # What `add` returns starts one task, however often it is called.
            return await queue.add(_task.async_note)(number)

        yield _task.of_calls(
            start,
            lambda handle: str(handle.key),
            lambda handle: handle.get_result(),
        )


if __name__ == "__main__":
    asyncio.run(
        import_module("docket").Worker.run(
            docket_name="adopters",
            url=os.environ[_task.URL],
            concurrency=_task.AT_ONCE,
            minimum_check_interval=timedelta(milliseconds=5),
            scheduling_resolution=timedelta(milliseconds=5),
            tasks=[f"{__spec__.name}:tasks"],
        )
    )
