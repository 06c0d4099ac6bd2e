"""An app whose web process only submits, and whose tasks note where they run.

The database is in ``TASKS_URL``, and the file in which each run is noted in ``RUNS``.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from framework import background_task, current_task, get_task_manager, setup_async_framework
from framework.http import task_router
from framework.stores.sql import SQLStore
from framework.stores.sql._shared.site import Pace
from tests.patience import PATIENCE

NEVER = threading.Event()
PAUSE = 0.01
store = SQLStore(os.environ["TASKS_URL"], durable=True)
store._pace = Pace(beat=0.1)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open what the tasks need."""
    app.state.word = "open"
    async with setup_async_framework(
        app, max_workers=0, store=store, graceful_shutdown_timeout=PATIENCE
    ):
        yield


app = FastAPI(lifespan=lifespan)
app.include_router(task_router())
memory = FastAPI(lifespan=setup_async_framework(max_workers=1))
bare = FastAPI()


def note(word: str) -> None:
    """Note that a task runs here."""
    task = current_task()
    assert task is not None
    file = os.open(os.environ["RUNS"], os.O_APPEND | os.O_WRONLY | os.O_CREAT)
    os.write(file, f"{word} {os.getpid()} {task.task_id}\n".encode())
    os.close(file)


@background_task(on_restart="requeue", name="work.thread")
def on_thread(number: int) -> str:
    """Work for a moment, on a thread."""
    note("begin")
    NEVER.wait(PAUSE)
    note("end")
    return f"{app.state.word} {number}"


@background_task(on_restart="requeue", name="work.loop")
async def on_loop(number: int) -> str:
    """Work for a moment, on the loop."""
    note("begin")
    await asyncio.to_thread(NEVER.wait, PAUSE)
    note("end")
    return f"{app.state.word} {number}"


@background_task(on_restart="requeue", idempotent=True, name="work.long")
def long(seconds: float) -> str:
    """Work for long."""
    note("begin")
    print("it has begun", flush=True)
    NEVER.wait(seconds)
    note("end")
    return "done"


@app.post("/many/{count}")
async def many(count: int) -> list[str]:
    """Submit many tasks of both kinds."""
    submit = get_task_manager().submit
    calls = [submit(kind, (number,)) for number in range(count) for kind in (on_thread, on_loop)]
    return [str(one) for one in await asyncio.gather(*calls)]


@app.post("/long/{seconds}")
async def one_long(seconds: float) -> str:
    """Submit a task that works for long."""
    return str(await get_task_manager().submit(long, (seconds,)))


@app.post("/results")
async def results(task_ids: list[str]) -> list[str]:
    """Wait for some tasks."""
    found: list[str] = await get_task_manager().gather(task_ids, timeout=60)
    return found


@app.get("/left")
async def left() -> int:
    """Return how many tasks this process has itself."""
    return len(get_task_manager()._core.ledger.unfinished()) + len(store._backlog.live)
