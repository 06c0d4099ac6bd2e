"""An app with a store in SQLite, whose tasks a command line looks at from outside."""

from __future__ import annotations

import asyncio
import os
import threading

from fastapi import FastAPI

from framework import TaskId, background_task, current_task, scheduled_task, setup_async_framework
from framework.stores.sql import SQLStore

store = SQLStore(os.environ["STORE_URL"])
app = FastAPI(lifespan=setup_async_framework(None, store=store))


@background_task(name="adds", description="Adds one")
def adds(number: int) -> dict[str, int]:
    """Add one."""
    return {"sum": number + 1}


@background_task(name="fails")
def fails(number: int) -> None:
    """Fail."""
    raise LookupError(f"no [{number}]\n\x1b[31m")


@background_task(name="hangs")
async def hangs() -> None:
    """Report progress, and wait for ever."""
    task = current_task()
    assert task is not None
    task.report_progress(0.4, "parsing")
    await asyncio.Event().wait()


_STOP = threading.Event()


@background_task(name="blocks")
def blocks() -> None:
    """Wait until another request says so."""
    _STOP.wait()


_TRIES: list[float] = []


@background_task(name="pays", description="Pays a bill", timeout=30.0)
def pays(amount: float) -> str:
    """Wait until another request says so; fail the first time."""
    _STOP.wait()
    _TRIES.append(amount)
    if len(_TRIES) == 1:
        raise ConnectionError("the bank is away")
    return f"paid {amount}"


@scheduled_task(every=86_400, name="tidies")
def tidies() -> str:
    """Run when somebody says so."""
    return "tidy"


@app.post("/pays")
async def post_pays() -> TaskId[str]:
    """Submit it."""
    _STOP.clear()
    return pays(3.5)


@app.post("/hangs")
async def post_hangs() -> TaskId[None]:
    """Submit it."""
    return hangs()


@app.post("/blocks")
async def post_blocks() -> TaskId[None]:
    """Submit it."""
    _STOP.clear()
    return blocks()


@app.post("/adds")
async def post_adds() -> TaskId[dict[str, int]]:
    """Submit it."""
    return adds(1)


@app.post("/stop")
async def post_stop() -> None:
    """Let what blocks go on."""
    _STOP.set()
