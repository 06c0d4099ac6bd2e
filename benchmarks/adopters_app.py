"""The app that `adopters` measures: endpoints that start tasks, in one of many ways."""

from __future__ import annotations

import itertools
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import uvicorn
from fastapi import BackgroundTasks, FastAPI

from benchmarks.ways._task import MakeWay, Way, async_note, note, nothing, settled

_Numbers = Callable[[], int]


def serve_calls(app: FastAPI, way: Way, numbers: _Numbers) -> None:
    """Add what starts the tasks of *way*.

    ``POST /start`` starts one and answers its id. ``POST /burst?count=`` starts many, one after
    the other, and answers when all of them are done. ``POST /results?count=`` answers how many
    seconds each of them took from the call until its result was there, one after the other.
    ``POST /settle`` answers when nothing is left to do for any task.
    """
    start = way.start

    async def awaited() -> dict[str, str]:
        return {"task_id": await start(numbers())}

    async def at_once() -> dict[str, str]:
        return {"task_id": start(numbers())}

    async def burst(count: int) -> None:
        for _ in range(count):
            if way.awaited:
                await start(numbers())
            else:
                start(numbers())
        await way.settle()

    async def results(count: int) -> list[float]:
        assert way.result is not None, "the way gives no results"
        spent = []
        for _ in range(count):
            number, before = numbers(), time.perf_counter()
            found = await way.result(number)
            spent.append(time.perf_counter() - before)
            if found != number:
                raise RuntimeError(f"task {number} has the result {found!r}")
        return spent

    _post(app, "/start", awaited if way.awaited else at_once)
    _post(app, "/burst", burst)
    _post(app, "/results", results)
    _post(app, "/settle", way.settle)


def serve_background(app: FastAPI, fn: Callable[[int], Any], numbers: _Numbers) -> None:
    """Add what starts tasks with FastAPI's ``BackgroundTasks``, which gives no results."""

    async def start(tasks: BackgroundTasks) -> dict[str, str]:
        tasks.add_task(fn, numbers())
        return {"task_id": ""}

    async def burst(tasks: BackgroundTasks, count: int) -> None:
        for _ in range(count):
            tasks.add_task(fn, numbers())

    _post(app, "/start", start)
    _post(app, "/burst", burst)
    _post(app, "/settle", settled)


def _post(app: FastAPI, path: str, endpoint: Callable[..., Awaitable[Any]]) -> None:
    app.add_api_route(path, endpoint, methods=["POST"], response_model=None)


@asynccontextmanager
async def _served(app: FastAPI, way: str, numbers: _Numbers) -> AsyncIterator[None]:
    module, _, name = way.partition(":")
    if module == "background":
        serve_background(app, async_note if name == "async" else note, numbers)
        yield
        return
    make: MakeWay = (
        nothing if not name else getattr(import_module(f"benchmarks.ways.{module}"), name)
    )
    async with make(app) as made:
        serve_calls(app, made, numbers)
        yield


def make_app(way: str) -> FastAPI:
    """Return the app.

    Args:
        way: Module of `benchmarks.ways` and name in it, such as ``ours:memory``; or
            ``background:async``, ``background:sync`` or ``nothing``.
    """
    numbers = itertools.count().__next__

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _served(app, way, numbers):
            yield

    return FastAPI(lifespan=lifespan, openapi_url=None)


def listening() -> socket.socket:
    """Return a socket that listens on a free loopback port."""
    # The protocol is named since asyncio sends small answers at once (TCP_NODELAY) only then.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def configured(way: str) -> uvicorn.Config:
    """Return uvicorn's settings: the faster loop and parser, where they are installed."""
    return uvicorn.Config(
        make_app(way),
        loop="uvloop" if find_spec("uvloop") else "asyncio",
        http="httptools" if find_spec("httptools") else "h11",
        log_level="critical",
        access_log=False,
    )


if __name__ == "__main__":
    with listening() as taking:
        sys.stdout.write(json.dumps({"port": taking.getsockname()[1]}) + "\n")
        sys.stdout.flush()
        uvicorn.Server(configured(sys.argv[1])).run(sockets=[taking])
