"""An app whose workers share the store that the environment variable STORE_URL names."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException

from framework import TaskId, background_task, get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore
from tests.patience import PATIENCE


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the tasks of all workers in one database, or each worker's in its memory."""
    url = os.environ.get("STORE_URL")
    store = None if url is None else SQLStore(url)
    async with setup_async_framework(app, store=store, graceful_shutdown_timeout=1.0):
        yield


app = FastAPI(lifespan=lifespan)


@background_task
def square(number: int) -> dict[str, int]:
    """Square a number."""
    return {"square": number * number}


@background_task
async def sleep_for_ever() -> None:
    """Wait for what never comes."""
    import asyncio

    await asyncio.Event().wait()


@background_task
def block_for_ever() -> None:
    """Keep a thread for good."""
    threading.Event().wait()


@app.get("/pid")
async def pid() -> int:
    """Say which process answers."""
    return os.getpid()


@app.post("/squares/{number}", status_code=202)
async def submit(number: int) -> TaskId[dict[str, int]]:
    """Square a number, in the background."""
    return square(number)


@app.post("/sleepers", status_code=202)
async def sleep() -> TaskId[None]:
    """Begin to wait for ever."""
    return sleep_for_ever()


@app.get("/tasks/{task_id}")
async def task(task_id: str) -> dict[str, Any]:
    """Tell of a task."""
    found = await get_task_manager().get_task(task_id)
    if found is None:
        raise HTTPException(404)
    return dict(found.to_dict())


@app.get("/results/{task_id}")
async def result(task_id: str) -> Any:
    """Wait for a task's result."""
    return await get_task_manager().get_result(task_id, timeout=PATIENCE)


@app.delete("/tasks/{task_id}")
async def cancel(task_id: str) -> bool:
    """Cancel a task."""
    return await get_task_manager().cancel_task(task_id)


@app.get("/stats")
async def stats() -> dict[str, Any]:
    """Count tasks."""
    return dict(get_task_manager().get_stats())
