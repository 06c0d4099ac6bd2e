"""One test in several modes and over several transports."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from framework import background_task, setup_async_framework
from pytest_asyncframe.probe import Probe

app = FastAPI(lifespan=setup_async_framework)


@background_task
def invoice(order: int) -> str:
    """Write an invoice."""
    return f"invoice of order {order}"


@app.post("/orders/{order}/invoice", status_code=202)
def start_invoice(order: int) -> dict[str, str]:
    """Answer immediately, and write the invoice in the background."""
    return {"task_id": invoice(order)}


@pytest.mark.task_modes("manual", "virtual", "threads", "seeded:20")
async def test_invoices(asyncframe: Probe) -> None:
    """Invoices are written in any order, each of them once."""
    async with asyncframe.client(app) as client:
        for order in range(3):
            await client.post(f"/orders/{order}/invoice")
        await asyncframe.settled()
    asyncframe.assert_submitted(invoice, times=3)


@pytest.mark.task_modes(transports=("testclient", "live"))
def test_the_answer(asyncframe: Probe) -> None:
    """The answer contains the id, in the process and over a socket."""
    with asyncframe.client(app) as client:
        response = client.post("/orders/7/invoice")
        assert response.status_code == 202
        task = asyncframe.run_until_complete(response)
    assert task.result == "invoice of order 7"
