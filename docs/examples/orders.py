"""An order that is charged, approved by a person and shipped, whatever happens to the process."""

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import TaskId, background_task, get_task_manager, setup_async_framework
from framework.http import task_router
from framework.steps import Message, step
from framework.stores.sql import SQLStore

approval = Message("approval", bool)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the tasks, their steps and their messages in a database."""
    store = SQLStore(os.environ.get("DATABASE_URL", "sqlite:///orders.db"), durable=True)
    async with setup_async_framework(app, store=store):
        yield


app = FastAPI(lifespan=lifespan)
app.include_router(task_router(messages=[approval], buttons={"Order": "/orders"}))


def happens(what: str) -> None:
    """Write down what has happened in the world outside, where nothing is taken back."""
    with Path(os.environ.get("WORLD", "world.txt")).open("a") as world:
        print(what, file=world)


@step
async def charge(order: str) -> str:
    """Charge the card, and return the number of the payment."""
    happens(f"{order}: the card is charged")
    return f"payment of {order}"


@step
async def ship(order: str, payment: str) -> str:
    """Hand the order to the carrier, which takes its time."""
    happens(f"{order}: the carrier is asked")
    await asyncio.sleep(10)  # time enough to kill it
    happens(f"{order}: the parcel is on its way")
    return f"parcel of {order}, {payment}"


@step
async def refund(payment: str) -> None:
    """Give the money back."""
    happens(f"{payment}: refunded")


@background_task(on_restart="resume")
async def fulfil(order: str) -> str:
    """Charge, ask a person, and ship."""
    payment = await charge(order)
    if not await approval.receive():
        await refund(payment)
        return "refused"
    return await ship(order, payment)


@app.post("/orders", status_code=202)
async def place() -> TaskId[str]:
    """Accept an order; when this answers, it is safe on disk."""
    return await get_task_manager().submit(fulfil, (f"order {secrets.token_hex(2)}",))


def test_the_card_is_charged_once() -> None:
    """Two apps, one after the other, charge once; the second one takes the answer and refunds."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"DATABASE_URL": f"sqlite:///{folder}/orders.db", "WORLD": f"{folder}/world"}
        with TestClient(app) as client:
            task_id = client.post("/orders").json()
        with TestClient(app, headers={"X-Requested-With": "tests"}) as client:
            client.post(f"/tasks/{task_id}/messages/approval", json=False)
            result = client.get(f"/tasks/{task_id}?wait=30").json()["result"]
        happened = Path(os.environ.pop("WORLD")).read_text().splitlines()
        del os.environ["DATABASE_URL"]

    assert result == "refused"
    assert [line.partition(": ")[2] for line in happened] == ["the card is charged", "refunded"]
