"""An ``async def`` route sells a ticket twice: it awaits a task between check and sale."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI

from framework import async_task, setup_async_framework
from pytest_asyncframe.probe import Probe


class Box:
    """A ticket office with one ticket left."""

    def __init__(self) -> None:
        self.left = 1
        self.sold: list[str] = []


@async_task
def charge(buyer: str) -> str:
    """Take the money, in a thread."""
    return f"receipt of {buyer}"


def racy_app(box: Box) -> FastAPI:
    """Check, take the money, then count down: others come in between."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/buy/{buyer}")
    async def buy(buyer: str) -> bool:
        if not box.left:
            return False
        await charge(buyer)
        box.left -= 1
        box.sold.append(buyer)
        return True

    return app


def correct_app(box: Box) -> FastAPI:
    """Check and count down without an ``await`` in between, then take the money."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/buy/{buyer}")
    async def buy(buyer: str) -> bool:
        if not box.left:
            return False
        box.left -= 1
        await charge(buyer)
        box.sold.append(buyer)
        return True

    return app


async def sell(asyncframe: Probe, box: Box, app: FastAPI) -> None:
    """Let Ann buy while Bob does, who comes a little later."""

    async def come_later() -> None:
        await charge("somebody before")
        await client.post("/buy/bob")

    async with asyncframe.client(app) as client:
        await asyncio.gather(client.post("/buy/ann"), come_later())
    assert len(box.sold) == 1


@pytest.mark.interleave
async def test_racy(asyncframe: Probe) -> None:
    """Two people buy the last ticket; only one gets it."""
    box = Box()
    await sell(asyncframe, box, racy_app(box))


@pytest.mark.interleave
async def test_correct(asyncframe: Probe) -> None:
    """Two people buy the last ticket; only one gets it."""
    box = Box()
    await sell(asyncframe, box, correct_app(box))
