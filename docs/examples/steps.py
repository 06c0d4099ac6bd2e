"""A task of two steps that goes on after the first one when its process has ended."""

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import TaskId, background_task, get_task_manager, setup_async_framework
from framework.steps import step
from framework.stores.sql import SQLStore


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the tasks and their steps in a database."""
    url = os.environ.get("TASKS_URL", "sqlite:///tasks.db")
    store = SQLStore(url, durable=True)
    async with setup_async_framework(app, store=store, graceful_shutdown_timeout=0.1):
        yield


app = FastAPI(lifespan=lifespan)


@step
async def charge(order: int) -> str:
    """Charge the customer, and return the number of the payment."""
    return bank.charge(order)


@step
async def ship(order: int, payment: str) -> str:
    """Hand the order to the carrier, which may take a while."""
    return await carrier.ship(order, payment)


@background_task(on_restart="resume")
async def fulfil(order: int) -> str:
    """Charge and ship: what has ended is not done again, whatever happens to the process."""
    payment = await charge(order)
    return await ship(order, payment)


@app.post("/orders/{order}", status_code=202)
async def place(order: int) -> TaskId[str]:
    """Accept an order; when this answers, it is safe on disk."""
    return await get_task_manager().submit(fulfil, (order,))


@app.get("/parcels/{task_id}")
async def fetch(task_id: str) -> str:
    """Return the parcel of an order, whichever process has shipped it."""
    parcel: str = await get_task_manager().get_result(task_id, timeout=60)
    return parcel


class Bank:
    """A bank that notes whom it has charged."""

    def __init__(self) -> None:
        self.charged: list[int] = []

    def charge(self, order: int) -> str:
        """Charge for an order."""
        self.charged.append(order)
        return f"payment-{order}"


class Carrier:
    """A carrier that does not answer on its first day."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.answers = False

    async def ship(self, order: int, payment: str) -> str:
        """Ship an order that is paid."""
        self.asked.set()
        if not self.answers:
            await asyncio.Event().wait()
        return f"parcel of order {order}, {payment}"


bank, carrier = Bank(), Carrier()


def test_the_customer_is_charged_once() -> None:
    """The app stops while the carrier is asked, and the next one does not charge again."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TASKS_URL"] = f"sqlite:///{folder}/tasks.db"
        with TestClient(app) as client:
            task_id = client.post("/orders/7").json()
            carrier.asked.wait()
        carrier.answers = True
        with TestClient(app) as client:
            parcel = client.get(f"/parcels/{task_id}").json()
        del os.environ["TASKS_URL"]

    assert parcel == "parcel of order 7, payment-7"
    assert bank.charged == [7]
