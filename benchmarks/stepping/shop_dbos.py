"""An order of three steps, with DBOS."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dbos import DBOS, WorkflowHandleAsync
from fastapi import FastAPI

from benchmarks.stepping import _world

DBOS(config={"name": "shop", "system_database_url": os.environ["SHOP_STORE"]})


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run DBOS as long as the app."""
    DBOS.launch()
    yield
    DBOS.destroy()


app = FastAPI(lifespan=lifespan)


@DBOS.step()
async def charge(order: int) -> str:
    """Charge the customer."""
    return await _world.charge(order)


@DBOS.step()
async def ship(order: int, payment: str) -> str:
    """Hand the order to the carrier."""
    return await _world.ship(order, payment)


@DBOS.step()
async def mail(order: int, parcel: str) -> None:
    """Tell the customer."""
    await _world.mail(order, parcel)


@DBOS.workflow()
async def fulfil(order: int) -> str:
    """Charge, ship and mail."""
    payment = await charge(order)
    parcel: str = await ship(order, payment)
    await mail(order, parcel)
    return parcel


@app.post("/orders/{order}")
async def place(order: int) -> str:
    """Accept an order."""
    handle: WorkflowHandleAsync[str] = await DBOS.start_workflow_async(fulfil, order)
    return str(handle.workflow_id)


@app.get("/tasks/{task_id}/result")
async def result(task_id: str) -> str:
    """Return the parcel of an order."""
    handle: WorkflowHandleAsync[str] = await DBOS.retrieve_workflow_async(task_id)
    return str(await handle.get_result())
