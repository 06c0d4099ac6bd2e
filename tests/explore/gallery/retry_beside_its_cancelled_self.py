"""A cancelled task still runs its last attempt, beside the task that replaces it."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest
from fastapi import FastAPI

from framework import (
    TaskCancelledError,
    TaskId,
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)
from pytest_asyncframe.probe import Probe


class Shelf:
    """The price list that is on show, and the one that should be."""

    def __init__(self) -> None:
        self.shown = "none"
        self.wanted = "none"
        self.jammed = True
        self.lock = threading.Lock()


def print_list(shelf: Shelf) -> None:
    """Print a list; the first time, the printer is jammed."""
    get_task_manager().get_stats()  # stands for anything that takes time
    if shelf.jammed:
        shelf.jammed = False
        raise ConnectionError("the printer is jammed")


@background_task
@retry_task(max_retries=2, retry_delay=1.0, exceptions=(ConnectionError,))
def racy_publish(shelf: Shelf, prices: str) -> None:
    """Put a price list on show."""
    print_list(shelf)
    shelf.shown = prices


@background_task
@retry_task(max_retries=2, retry_delay=1.0, exceptions=(ConnectionError,))
def correct_publish(shelf: Shelf, prices: str) -> None:
    """Put a price list on show, unless another one is wanted by now."""
    print_list(shelf)
    with shelf.lock:
        if shelf.wanted == prices:
            shelf.shown = prices


def make_app(shelf: Shelf, racy: bool) -> FastAPI:
    """Return an app that puts price lists on show."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/prices/{prices}")
    async def publish(prices: str, instead_of: str | None = None) -> TaskId[None]:
        if instead_of is not None:
            # This stops no thread: an attempt that is running runs to its end.
            await get_task_manager().cancel_task(instead_of)
        with shelf.lock:
            shelf.wanted = prices
        return racy_publish(shelf, prices) if racy else correct_publish(shelf, prices)

    return app


async def replace(asyncframe: Probe, *, racy: bool) -> None:
    """Replace a price list at the moment when it is tried again."""
    shelf = Shelf()
    async with asyncframe.client(make_app(shelf, racy)) as client:
        first = (await client.post("/prices/old")).json()
        await asyncio.sleep(1.0)  # noqa: TID251  # in virtual time
        second = await client.post("/prices/new", params={"instead_of": first})
        await asyncframe.completed(second)
        with suppress(TaskCancelledError):
            await asyncframe.completed(first)
        await asyncframe.clock.run_for(1.0)
    assert shelf.shown == "new"


@pytest.mark.interleave
async def test_racy(asyncframe: Probe) -> None:
    """The new price list is on show in the end."""
    await replace(asyncframe, racy=True)


@pytest.mark.interleave
async def test_correct(asyncframe: Probe) -> None:
    """The new price list is on show in the end."""
    await replace(asyncframe, racy=False)
