"""An app with metrics and health checks; its workers may share the folder of the metrics."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, make_asgi_app
from prometheus_client.multiprocess import MultiProcessCollector

from framework import (
    TaskId,
    background_task,
    get_task_manager,
    scheduled_task,
    setup_async_framework,
)
from framework.http import health_router
from framework.stores.sql import SQLStore
from framework.telemetry.prometheus import PrometheusSink

url = os.environ.get("STORE_URL")
app = FastAPI(
    lifespan=setup_async_framework(
        max_workers=2,
        store=None if url is None else SQLStore(url),
        graceful_shutdown_timeout=1.0,
        telemetry=[PrometheusSink(refresh_interval=0.05)],
    )
)
app.include_router(health_router(shutdown_delay=float(os.environ.get("DELAY", "0"))))


def shown() -> Any:
    """Return what serves the metrics of this process, or of all that share the folder."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return make_asgi_app()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return make_asgi_app(registry)


app.mount("/metrics", shown())


@background_task(name="good")
def succeed() -> None:
    """Complete."""


@background_task(name="bad")
async def fail() -> None:
    """Fail."""
    raise LookupError("nothing there")


@scheduled_task(every=86_400.0, name="daily")
def work_daily() -> None:
    """Do nothing, once a day."""


@background_task(name="endless")
def block() -> None:
    """Keep a thread for good."""
    threading.Event().wait()


@app.get("/pid")
async def pid() -> int:
    """Say which process answers."""
    return os.getpid()


@app.post("/tasks/{good}/{bad}")
async def run(good: int, bad: int) -> None:
    """Run some tasks that complete, and some that fail, to their end."""
    ids: list[TaskId[None]] = [*(succeed() for _ in range(good)), *(fail() for _ in range(bad))]
    for task_id in ids:
        with suppress(LookupError):
            await get_task_manager().get_result(task_id)


@app.post("/endless")
async def start() -> None:
    """Run a task that does not end."""
    block()
