"""A shop and a cache whose results are compared with those of a simple model."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI

from framework import setup_async_framework
from pytest_asyncframe.probe import Probe

app = FastAPI(lifespan=setup_async_framework)
stock = {"ticket": 1}


@app.post("/tickets/{buyer}")
async def buy(buyer: str) -> str:
    """Sell a ticket if there is one left."""
    if stock["ticket"]:
        stock["ticket"] -= 1
        await asyncio.sleep(0)  # writes a receipt
        return "sold"
    return "sold out"


class Shop:
    """What the shop should do: one request after the other."""

    def __init__(self) -> None:
        self.tickets = 1

    def buy(self, buyer: str) -> str:
        """Sell a ticket if there is one left."""
        if self.tickets == 0:
            return "sold out"
        self.tickets -= 1
        return "sold"


@pytest.mark.interleave
async def test_buyers_in_some_order(asyncframe: Probe) -> None:
    """Whatever happens in which order, the shop answers as if the buyers came one by one."""
    stock["ticket"] = 1
    shop = asyncframe.linearizable(Shop)
    async with asyncframe.client(app) as client:

        async def buying(buyer: str) -> None:
            async with shop.operation("buy", buyer) as operation:
                response = await client.post(f"/tickets/{buyer}")
                operation.result = response.json()

        await asyncio.gather(buying("ann"), buying("bob"), buying("eve"))


class Cache:
    """Loads each value once."""

    def __init__(self) -> None:
        self._loading: dict[str, asyncio.Task[str]] = {}

    async def get(self, key: str) -> str:
        """Return a value, which is loaded by whoever asks first."""
        if key not in self._loading:
            self._loading[key] = asyncio.create_task(self._load(key))
        return await self._loading[key]

    async def _load(self, key: str) -> str:
        await asyncio.sleep(1)
        return key.upper()

    def forget(self, key: str) -> bool:
        """Drop a value; return whether there was one."""
        return self._loading.pop(key, None) is not None


class Values:
    """What the cache should do: one call after the other."""

    def __init__(self) -> None:
        self.known: set[str] = set()

    def get(self, key: str) -> str:
        """Return the value of a key."""
        self.known.add(key)
        return key.upper()

    def forget(self, key: str) -> bool:
        """Drop a value; return whether there was one."""
        was_known = key in self.known
        self.known.discard(key)
        return was_known


async def test_a_cache(asyncframe: Probe) -> None:
    """Calls of the cache are recorded by a stand-in for it."""
    history = asyncframe.linearizable(Values, key="key")
    cache = history.watch(Cache())
    await asyncio.gather(cache.get("a"), cache.get("a"), cache.get("b"))
    assert cache.forget("a")
    history.check()
    assert not cache.forget("a")
