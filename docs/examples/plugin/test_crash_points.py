"""An order that is charged and shipped, whatever crashes."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from framework import background_task, setup_async_framework
from framework.http import Accepted, task_router
from framework.steps import step
from pytest_asyncframe.probe import Probe

app = FastAPI(lifespan=setup_async_framework)
app.include_router(task_router())


class Bank:
    """A bank that knows a payment by its key, outside of the process of the app."""

    def __init__(self) -> None:
        self.paid: dict[str, int] = {}

    def charge(self, key: str, order: int) -> None:
        """Charge for an order, once for each key."""
        self.paid.setdefault(key, order)


bank = Bank()


@step
async def charge(order: int) -> str:
    """Charge the customer, and return the number of the payment."""
    bank.charge(f"order-{order}", order)
    return f"payment-{order}"


@step
async def ship(order: int, payment: str) -> str:
    """Hand the order to the carrier."""
    return f"parcel of order {order}, {payment}"


@background_task(on_restart="resume")
async def fulfil(order: int) -> str:
    """Charge and ship."""
    payment = await charge(order)
    return await ship(order, payment)


@app.post("/orders/{order}")
async def place(order: int) -> Accepted[str]:
    """Accept an order."""
    return fulfil(order)


@pytest.fixture
def fresh_bank() -> Bank:
    """Give each run a bank of its own."""
    bank.paid.clear()
    return bank


@pytest.mark.crash_points
async def test_an_order_is_charged_once(asyncframe: Probe, fresh_bank: Bank) -> None:
    """Wherever the process dies, the parcel arrives and nobody pays twice."""
    async with asyncframe.client(app, on_crash="again") as client:
        response = await client.post("/orders/7", headers={"Idempotency-Key": "order-7"})
        task = await asyncframe.completed(response)

    assert task.result == "parcel of order 7, payment-7"
    assert fresh_bank.paid == {"order-7": 7}
