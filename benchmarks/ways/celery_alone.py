"""Tasks of Celery; workers import this module, and so does the app."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from celery import Celery

from benchmarks.ways import _task

celery_app = Celery("adopters", broker=os.environ[_task.URL], backend=os.environ[_task.URL])
note = celery_app.task(_task.note, name="note")


@asynccontextmanager
async def way(_: Any) -> AsyncIterator[_task.Way]:
    """Call ``delay`` on the event loop, and wait for results in a thread."""

    async def start(number: int) -> Any:
        return note.delay(number)

    async def result(handle: Any) -> int:
        found: int = await asyncio.to_thread(handle.get)
        return found

    yield _task.of_calls(start, lambda handle: str(handle.id), result)
