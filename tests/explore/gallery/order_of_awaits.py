"""A test relies on the order in which coroutines go on: level "awaits"."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI

from framework import setup_async_framework
from pytest_asyncframe.probe import Probe


def make_app(log: list[str]) -> FastAPI:
    """Return an app that notes each message after it has read it."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/messages/{text}")
    async def receive(text: str) -> None:
        await asyncio.sleep(0)  # noqa: TID251  # stands for reading the body
        log.append(text)

    return app


@pytest.mark.interleave(level="awaits")
async def test_racy(asyncframe: Probe) -> None:
    """Messages that are sent at once are noted in their order, which nobody promises."""
    log: list[str] = []
    async with asyncframe.client(make_app(log)) as client:
        await asyncio.gather(client.post("/messages/one"), client.post("/messages/two"))
    assert log == ["one", "two"]


@pytest.mark.interleave(level="awaits")
async def test_correct(asyncframe: Probe) -> None:
    """Messages that are sent one after the other are noted in their order."""
    log: list[str] = []
    async with asyncframe.client(make_app(log)) as client:
        await client.post("/messages/one")
        await client.post("/messages/two")
    assert log == ["one", "two"]
