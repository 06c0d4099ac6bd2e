"""An order of three steps, with asyncframe."""

from __future__ import annotations

import os

from fastapi import FastAPI

from benchmarks.stepping import _world
from framework import TaskId, background_task, get_task_manager, setup_async_framework
from framework.http import task_router
from framework.steps import step
from framework.stores.sql import SQLStore

store = SQLStore(os.environ["SHOP_STORE"], durable=True)
app = FastAPI(lifespan=setup_async_framework(store=store, graceful_shutdown_timeout=0))
app.include_router(task_router())


@step
async def charge(order: int) -> str:
    """Charge the customer."""
    return await _world.charge(order)


@step
async def ship(order: int, payment: str) -> str:
    """Hand the order to the carrier."""
    return await _world.ship(order, payment)


@step
async def mail(order: int, parcel: str) -> None:
    """Tell the customer."""
    await _world.mail(order, parcel)


@background_task(on_restart="resume")
async def fulfil(order: int) -> str:
    """Charge, ship and mail."""
    payment = await charge(order)
    parcel = await ship(order, payment)
    await mail(order, parcel)
    return parcel


@app.post("/orders/{order}")
async def place(order: int) -> TaskId[str]:
    """Accept an order."""
    return await get_task_manager().submit(fulfil, (order,))
