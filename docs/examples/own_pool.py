"""Your own pool, time limits for all tasks, and a full queue."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import (
    ThreadPoolExecutorEnhanced,
    background_task,
    get_thread_pool,
    setup_async_framework,
)

open_gate = threading.Event()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Create the pool, run the framework with it, and shut it down at the end."""
    with ThreadPoolExecutorEnhanced(
        max_workers=1,
        thread_name_prefix="custom-pool-",
        task_timeout=60.0,
    ) as pool:
        async with setup_async_framework(app, executor=pool, queue_size=2):
            yield


app = FastAPI(lifespan=lifespan)


def occupy(started: threading.Event) -> None:
    """Occupy the only thread until the gate opens."""
    started.set()
    open_gate.wait(60)


@background_task
def name_thread() -> str:
    """Wait for the gate, then return the name of this thread."""
    open_gate.wait(60)
    return threading.current_thread().name


@app.post("/names", status_code=202)
async def start() -> str:
    """Start a task; if the queue is full, the response is 503."""
    return name_thread()


@app.get("/pool-stats")
def pool_stats() -> dict[str, object]:
    """Return the pool's statistics."""
    return get_thread_pool().get_stats()


def test_tasks_run_on_the_own_pool() -> None:
    """Tasks run on threads with the pool's prefix."""
    open_gate.set()
    with TestClient(app) as client:
        task_id = client.post("/names").json()
        name = app.state.task_manager.wait_result(task_id, timeout=60)
        assert name.startswith("custom-pool-")
        assert client.get("/pool-stats").json()["max_workers"] == 1
        assert app.state.thread_pool.task_timeout == 60.0


def test_a_full_queue_answers_503() -> None:
    """Two tasks may wait; the third is refused with a Retry-After header."""
    open_gate.clear()
    started = threading.Event()
    with TestClient(app) as client:
        manager = app.state.task_manager
        manager.submit_nowait(occupy, (started,))
        assert started.wait(60)
        assert [client.post("/names").status_code for _ in range(2)] == [202, 202]
        refused = client.post("/names")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert manager.get_stats()["rejected"] == 1
        open_gate.set()
