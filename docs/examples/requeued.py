"""Tasks that are not lost when their process ends."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import TaskId, background_task, get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the tasks in a database, and each accepted one until it has ended."""
    url = os.environ.get("TASKS_URL", "sqlite:///tasks.db")
    store = SQLStore(url, durable=True)
    async with setup_async_framework(app, store=store):
        yield


app = FastAPI(lifespan=lifespan)


@background_task(on_restart="requeue")
def send_receipt(order: int) -> str:
    """Send a receipt: once, whatever happens to the process that accepted it."""
    return f"receipt of order {order}"


@background_task(on_restart="requeue", idempotent=True)
def refresh_index(shop: str) -> str:
    """Build an index: if the process dies meanwhile, another one begins again."""
    return f"index of {shop}"


@app.post("/orders/{order}", status_code=202)
async def place(order: int) -> TaskId[str]:
    """Accept an order; when this answers, the receipt is safe on disk."""
    return await get_task_manager().submit(send_receipt, (order,), delay=1)


@app.get("/receipts/{task_id}")
async def fetch(task_id: str) -> str:
    """Return a receipt, whichever process has sent it."""
    receipt: str = await get_task_manager().get_result(task_id, timeout=60)
    return receipt


def test_receipt_survives_a_restart() -> None:
    """A task that waits when the app stops runs after the next start."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TASKS_URL"] = f"sqlite:///{folder}/tasks.db"
        with TestClient(app) as client:
            task_id = client.post("/orders/7").json()
        with TestClient(app) as client:
            assert client.get(f"/receipts/{task_id}").json() == "receipt of order 7"
        del os.environ["TASKS_URL"]
