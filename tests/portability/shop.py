"""An app with a database, which `program` and a worker use on a system of `elsewhere`."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from fastapi import FastAPI

from framework import background_task, current_task, setup_async_framework
from framework.http import Accepted, health_router, task_router
from framework.steps import sleep, step
from framework.stores.sql import SQLStore

URL = "sqlite:///tasks.db"
"""In the folder in which the program runs."""

app = FastAPI(
    lifespan=setup_async_framework(
        store=SQLStore(URL, durable=True), max_workers=int(os.environ.get("WORKERS", "2"))
    )
)
app.include_router(task_router())
app.include_router(health_router())
goes_on = threading.Event()
"""Ends what runs too long."""


@background_task(on_restart="requeue")
def added_elsewhere(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


@background_task(timeout=0.01)
def too_long_elsewhere() -> None:
    """Wait until the program ends."""
    goes_on.wait()


@background_task
async def endless_elsewhere() -> None:
    """Wait until it is cancelled."""
    task = current_task()
    assert task is not None
    task.report_progress(0.5, "½")
    await asyncio.Event().wait()


@step
async def _one() -> int:
    return 1


@background_task(on_restart="resume")
async def stepping_elsewhere() -> int:
    """Run a step, and sleep."""
    found = await _one()
    await sleep(0.001)
    return found


@app.post("/{name}")
async def start(name: str) -> Accepted[Any]:
    """Start a task."""
    if name == "added":
        return added_elsewhere(1, 2)
    waiting = {
        "long": too_long_elsewhere,
        "endless": endless_elsewhere,
        "steps": stepping_elsewhere,
    }
    return waiting[name]()
