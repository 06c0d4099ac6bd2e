"""Functions that return an app, and some that do not."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from tests.processes.apps import shared_work


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Fail before anything is open."""
    if "NOWHERE" not in os.environ:
        raise RuntimeError("the database does not answer")
    yield


closed = FastAPI(lifespan=lifespan)


@asynccontextmanager
async def exiting(_: FastAPI) -> AsyncIterator[None]:
    """End the process, as an app does that finds its settings wrong."""
    if "NOWHERE" not in os.environ:
        sys.exit(7)
    yield


exits = FastAPI(lifespan=exiting)


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[None]:
    """Fail while the app runs, as soon as the input has ended."""
    async with shared_work.app.router.lifespan_context(app), asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(input))
        yield


listens = FastAPI(lifespan=listening)


def make_app() -> FastAPI:
    """Return the app; as under uvicorn, the loop runs."""
    asyncio.get_running_loop()
    return shared_work.app


def asks() -> FastAPI:
    """Wait for a line before there is an app."""
    print("asking", flush=True)
    input()
    return shared_work.app


def wants(url: str) -> str:
    """Return nothing that serves, and need an argument."""
    return url


def fails() -> str:
    """Read what is not there."""
    return os.environ["NOWHERE"]


async def later() -> FastAPI:
    """Return the app, but not at once."""
    return shared_work.app


def nothing() -> None:
    """Forget the app."""
