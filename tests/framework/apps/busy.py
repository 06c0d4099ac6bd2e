"""An app that is told to stop while two hundred tasks run, wait and sleep."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter

from fastapi import FastAPI

from framework import background_task, setup_async_framework

GRACE = 1.0
EXPECTED = {"completed": 60, "cancelled": 126, "interrupted": 14}

_LOGGER = logging.getLogger("asyncframe")

stopping = threading.Event()
never = threading.Event()


@background_task
def ends_at_shutdown() -> None:
    """Hold a thread until the app is told to stop."""
    stopping.wait()


@background_task
def never_ends() -> None:
    """Hold a thread for ever."""
    never.wait()


@background_task
async def ends_at_shutdown_too() -> None:
    """Wait on the loop until the app is told to stop."""
    await asyncio.get_running_loop().run_in_executor(None, stopping.wait)


@background_task
async def waits_for_ever() -> None:
    """Wait on the loop until cancelled."""
    await asyncio.Event().wait()


@background_task
async def swallows_cancellation() -> None:
    """Wait on the loop, whatever happens."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


@background_task
def is_delayed() -> None:
    """Never come to run."""


def load() -> list[str]:
    """Submit two hundred tasks; four threads cannot run them all."""
    ids: list[str] = [ends_at_shutdown() for _ in range(40)]
    ids += [never_ends() for _ in range(4)]
    ids += [ends_at_shutdown() for _ in range(36)]
    ids += [ends_at_shutdown_too() for _ in range(20)]
    ids += [waits_for_ever() for _ in range(40)]
    ids += [swallows_cancellation() for _ in range(10)]
    ids += [is_delayed.options(delay=3600)() for _ in range(50)]
    # A line for each few, since the framework cuts long values in its log.
    for first in range(0, len(ids), 50):
        _LOGGER.info("accepted %s", " ".join(ids[first : first + 50]))
    return ids


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the framework; BUSY_LOAD loads it at once, BUSY_HOLD waits for a line of input."""
    # Here and not at import, since tests import this module for its constants.
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    _LOGGER.setLevel(logging.DEBUG)
    begun = 0.0
    try:
        async with setup_async_framework(app, max_workers=4, graceful_shutdown_timeout=GRACE):
            if "BUSY_LOAD" in os.environ:
                load()
            if "BUSY_HOLD" in os.environ:
                _LOGGER.info("starting up")
                await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
            try:
                yield
            finally:
                stopping.set()
                begun = perf_counter()  # steady: told, never compared
    finally:
        took = perf_counter() - begun  # steady: told, never compared
        _LOGGER.info("stopped within %.3f s", took)


app = FastAPI(lifespan=lifespan)


@app.post("/load", status_code=202)
async def start_load() -> list[str]:
    """Submit everything."""
    return load()


@app.get("/hang")
async def hang() -> None:
    """Never answer."""
    _LOGGER.info("hanging")
    await asyncio.Event().wait()
