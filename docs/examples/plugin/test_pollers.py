"""A task that runs until the app stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI

from framework import background_task, get_task_manager, setup_async_framework
from pytest_asyncframe.probe import Probe

prices: list[float] = []


@background_task
async def poll_prices() -> None:
    """Check for a new price every minute."""
    while True:
        prices.append(1.5)
        await asyncio.sleep(60)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start the poller, and end it before the framework stops."""
    async with setup_async_framework(app):
        poller = poll_prices()
        yield
        await get_task_manager().cancel_task(poller)


async def test_an_app_that_ends_its_poller(asyncframe: Probe) -> None:
    """A poller that the lifespan ends is not a leak."""
    prices.clear()
    async with asyncframe.client(FastAPI(lifespan=lifespan)):
        await asyncframe.clock.run_for(90)

    assert len(prices) == 2


@pytest.mark.asyncframe(pollers=[poll_prices])
async def test_a_declared_poller(asyncframe: Probe) -> None:
    """settled() does not wait for a declared poller, and the shutdown may cut it short."""
    app = FastAPI(lifespan=setup_async_framework)
    async with asyncframe.client(app):
        poll_prices()
        await asyncframe.settled()
