"""An app that answers 429 and 503 by itself, and whose endpoints are decorated functions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header
from pydantic import BaseModel

from framework import (
    async_task,
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
    throttled_task,
)

released = threading.Event()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the framework with one thread, which is stuck, and room for one task to wait."""
    released.clear()
    async with setup_async_framework(app, max_workers=1, queue_size=1, graceful_shutdown_timeout=0):
        yield
        released.set()


app = FastAPI(lifespan=lifespan)
mounted = FastAPI()
app.mount("/mounted", mounted)


@background_task
def block() -> None:
    """Hold the only thread."""
    released.wait()


@app.post("/fill", status_code=202)
async def fill() -> dict[str, int]:
    """Fill the pool and then the queue."""
    manager, started = get_task_manager(), threading.Event()

    def body() -> None:
        started.set()
        released.wait()

    await manager.submit(body)
    await asyncio.to_thread(started.wait)
    await manager.submit(int)
    return {"pending": manager.get_stats()["pending"]}


@app.post("/submit", status_code=202)
@mounted.post("/submit", status_code=202)
async def submit() -> str:
    """Submit one more."""
    return block()


@throttled_task(rate_limit=1, time_window=60)
async def limited() -> str:
    """Do what may be done once a minute."""
    return "done"


@throttled_task(rate_limit=1, time_window=60)
def limited_in_a_thread() -> str:
    """Do what may be done once a minute."""
    return "done"


@app.get("/limited")
@mounted.get("/limited")
async def call_limited() -> str:
    """Do it."""
    return await limited()


@app.get("/limited-sync")
@mounted.get("/limited-sync")
def call_limited_in_a_thread() -> str:
    """Do it on a thread."""
    return limited_in_a_thread()


# Decorated functions that are the endpoints themselves; annotations here are strings.


class Order(BaseModel):
    """A body."""

    article: str
    pieces: int = 1


class Receipt(BaseModel):
    """A result."""

    article: str
    total: float
    user: str


def user(x_user: Annotated[str, Header()] = "nobody") -> str:
    """Depend on a header."""
    return x_user


@app.post("/background-sync/{shop}", status_code=202)
@background_task(description="an order")
def order(
    shop: int, order: Order, who: Annotated[str, Depends(user)], price: float = 2.5
) -> Receipt:
    """Order on a thread."""
    return Receipt(article=f"{shop}/{order.article}", total=order.pieces * price, user=who)


@app.post("/background-async/{shop}", status_code=202)
@background_task
async def order_on_the_loop(
    shop: int, order: Order, who: Annotated[str, Depends(user)], price: float = 2.5
) -> Receipt:
    """Order on the loop."""
    return Receipt(article=f"{shop}/{order.article}", total=order.pieces * price, user=who)


@app.post("/awaited-sync/{shop}")
@async_task
def order_and_wait(
    shop: int, order: Order, who: Annotated[str, Depends(user)], price: float = 2.5
) -> Receipt:
    """Order on a thread and wait."""
    return Receipt(article=f"{shop}/{order.article}", total=order.pieces * price, user=who)


@app.post("/awaited-async/{shop}")
@async_task
async def order_on_the_loop_and_wait(
    shop: int, order: Order, who: Annotated[str, Depends(user)], price: float = 2.5
) -> Receipt:
    """Order on the loop and wait."""
    return Receipt(article=f"{shop}/{order.article}", total=order.pieces * price, user=who)


@app.post("/retried/{shop}")
@retry_task
@throttled_task(rate_limit=100)
async def order_with_policies(
    shop: int, order: Order, who: Annotated[str, Depends(user)], price: float = 2.5
) -> Receipt:
    """Order under a rate and with retries."""
    return Receipt(article=f"{shop}/{order.article}", total=order.pieces * price, user=who)


@app.get("/result/{task_id}")
async def result(task_id: str) -> Receipt:
    """Wait for a result."""
    receipt: Receipt = await get_task_manager().get_result(task_id)
    return receipt
