"""An app whose tasks are streamed: they go on until the app stops."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI

from framework import background_task, current_task, setup_async_framework
from framework.http import task_router

app = FastAPI(lifespan=setup_async_framework(graceful_shutdown_timeout=0))
app.include_router(task_router())


@background_task
async def rest() -> None:
    """Do nothing until the app stops."""
    await asyncio.Event().wait()


@background_task
async def chatter(size: int) -> None:
    """Report progress with long messages in every turn of the loop until the app stops."""
    task = current_task()
    assert task is not None
    number = 0
    while True:
        number += 1
        task.report_progress(number % 100 / 100, f"{number} ".ljust(size, "."))
        await asyncio.sleep(0.001)  # noqa: TID251 - a real server


@app.post("/rest")
async def start() -> str:
    """Start a task that does nothing."""
    return rest()


@app.post("/chatter")
async def start_chatter(size: int) -> str:
    """Start a task that reports all the time."""
    return chatter(size)
