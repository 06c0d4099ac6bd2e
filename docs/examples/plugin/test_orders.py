"""A small app with a background task, and its first tests."""

from __future__ import annotations

import time

from fastapi import FastAPI

from framework import background_task, setup_async_framework
from pytest_asyncframe.probe import Probe

app = FastAPI(lifespan=setup_async_framework)


@background_task
def ship(order: int) -> str:
    """Ship an order, which takes half a minute."""
    time.sleep(30)
    return f"order {order} is on its way"


@app.post("/orders/{order}/shipment", status_code=202)
async def start_shipment(order: int) -> dict[str, str]:
    """Answer immediately, and ship in the background."""
    return {"task_id": ship(order)}


async def test_a_shipment(asyncframe: Probe) -> None:
    """The response contains the task id, and the task completes."""
    async with asyncframe.client(app) as client:
        response = await client.post("/orders/7/shipment")
        assert response.status_code == 202
        task = await asyncframe.completed(response)

    assert task.result == "order 7 is on its way"
    asyncframe.assert_submitted(ship, 7, times=1)


def test_a_shipment_in_a_sync_test(asyncframe: Probe) -> None:
    """The same in a sync test, with Starlette's client."""
    with asyncframe.client(app) as client:
        task = asyncframe.run_until_complete(client.post("/orders/7/shipment"))

    assert task.result == "order 7 is on its way"
