"""The app that `served` loads: one POST endpoint that starts a job, in one of many ways."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from importlib import import_module
from typing import Any, Literal

import uvicorn
from fastapi import BackgroundTasks, FastAPI

from benchmarks._measure import OURS
from benchmarks.floors import THREADS
from benchmarks.peers import (
    AIOJOBS,
    CREATE_TASK,
    HUEY,
    RUN_IN_EXECUTOR,
    TASKIQ_ASYNC,
    TASKIQ_SYNC,
)
from framework import background_task, setup_async_framework

FLOOR = "no job"
OURS_ASYNC = "asyncframe, async function"
BACKGROUND_SYNC = "BackgroundTasks, sync function"
BACKGROUND_ASYNC = "BackgroundTasks, async function"

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

NO_ID = "0" * 32
"""Stands in the answer of a way that gives no id, so that all answers are of one length."""

_RAN: list[None] = []
"""One entry for each job that has run; appending needs no lock."""

Endpoint = Callable[..., Awaitable[dict[str, str]]]
Way = Callable[[FastAPI], AbstractAsyncContextManager[Endpoint]]


def job() -> None:
    """Do nothing but be counted."""
    _RAN.append(None)


async def async_job() -> None:
    """Do nothing but be counted."""
    _RAN.append(None)


@asynccontextmanager
async def _nothing(_: FastAPI) -> AsyncIterator[Endpoint]:
    async def start() -> dict[str, str]:
        return {"task_id": NO_ID}

    yield start


@asynccontextmanager
async def _ours(app: FastAPI, fn: Callable[[], Any]) -> AsyncIterator[Endpoint]:
    begin: Callable[[], str] = background_task(fn)

    async def start() -> dict[str, str]:
        return {"task_id": begin()}

    async with setup_async_framework(app, max_workers=THREADS):
        yield start


@asynccontextmanager
async def _executor(_: FastAPI) -> AsyncIterator[Endpoint]:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(THREADS) as pool:

        async def start() -> dict[str, str]:
            loop.run_in_executor(pool, job)
            return {"task_id": NO_ID}

        yield start


@asynccontextmanager
async def _create_task(_: FastAPI) -> AsyncIterator[Endpoint]:
    tasks: set[asyncio.Task[None]] = set()

    async def start() -> dict[str, str]:
        task = asyncio.create_task(async_job())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return {"task_id": NO_ID}

    yield start


@asynccontextmanager
async def _background(_: FastAPI, fn: Callable[[], Any]) -> AsyncIterator[Endpoint]:
    async def start(tasks: BackgroundTasks) -> dict[str, str]:
        tasks.add_task(fn)
        return {"task_id": NO_ID}

    yield start


@asynccontextmanager
async def _aiojobs(_: FastAPI) -> AsyncIterator[Endpoint]:
    aiojobs: Any = import_module("aiojobs")
    async with aiojobs.Scheduler(limit=None) as scheduler:

        async def start() -> dict[str, str]:
            await scheduler.spawn(async_job())
            return {"task_id": NO_ID}

        yield start


@asynccontextmanager
async def _taskiq(_: FastAPI, fn: Callable[[], Any]) -> AsyncIterator[Endpoint]:
    taskiq: Any = import_module("taskiq")
    broker = taskiq.InMemoryBroker(sync_tasks_pool_size=THREADS)
    task = broker.register_task(fn, task_name="job")
    await broker.startup()

    async def start() -> dict[str, str]:
        return {"task_id": (await task.kiq()).task_id}

    yield start
    await broker.shutdown()


@asynccontextmanager
async def _huey(_: FastAPI) -> AsyncIterator[Endpoint]:
    huey: Any = import_module("huey").MemoryHuey("served")
    task = huey.task()(job)
    consumer = huey.create_consumer(
        workers=THREADS, periodic=False, initial_delay=0.001, max_delay=0.01
    )
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    consumer.start()
    # The consumer takes over the signals that end the server.
    for number, handler in handlers.items():
        signal.signal(number, handler)

    async def start() -> dict[str, str]:
        return {"task_id": task().id}

    yield start
    consumer.stop(graceful=True)


WAYS: dict[str, Way] = {
    FLOOR: _nothing,
    OURS: partial(_ours, fn=job),
    OURS_ASYNC: partial(_ours, fn=async_job),
    RUN_IN_EXECUTOR: _executor,
    CREATE_TASK: _create_task,
    BACKGROUND_SYNC: partial(_background, fn=job),
    BACKGROUND_ASYNC: partial(_background, fn=async_job),
    AIOJOBS: _aiojobs,
    TASKIQ_SYNC: partial(_taskiq, fn=job),
    TASKIQ_ASYNC: partial(_taskiq, fn=async_job),
    HUEY: _huey,
}


def make_app(way: str) -> FastAPI:
    """Return the app whose ``POST /start`` starts a job; ``GET /ran`` tells how many ran.

    Args:
        way: How jobs are started, one of `WAYS`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with WAYS[way](app) as start:
            app.add_api_route("/start", start, methods=["POST"], response_model=None)
            yield

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.get("/ran", response_model=None)
    async def ran() -> dict[str, int]:
        return {"ran": len(_RAN)}

    return app


def serve(way: str, loop: Literal["asyncio", "uvloop"], http: Literal["h11", "httptools"]) -> None:
    """Serve the app on a free loopback port, which is told on stdout, until SIGTERM."""
    with listener() as sock:
        config = uvicorn.Config(
            make_app(way), loop=loop, http=http, log_level="critical", access_log=False
        )
        uvicorn.Server(config).run(sockets=[sock])


@contextmanager
def listener() -> Iterator[socket.socket]:
    """Listen on a free loopback port, which is told on stdout."""
    # The protocol is named since asyncio sends small answers at once (TCP_NODELAY) only then.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        sys.stdout.write(json.dumps({"port": sock.getsockname()[1]}) + "\n")
        sys.stdout.flush()
        yield sock


if __name__ == "__main__":
    serve(*sys.argv[1:])  # type: ignore[arg-type]  # words that `served` chose
