"""Tasks with columns of the app's own, which other tables are joined with, and a test of it."""

import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from framework import background_task, get_task_manager, setup_async_framework
from framework.http import task_router
from framework.stores.sql import SQLStore


class OrderMeta(BaseModel):
    """What the tables of the app know of a task."""

    tenant_id: int
    order_id: int
    kind: str = "parcel"


def about(tenant: int, order: int) -> OrderMeta:
    """Return the columns of a task, from its arguments."""
    return OrderMeta(tenant_id=tenant, order_id=order)


@background_task(meta=about)
def ship(tenant: int, order: int) -> str:
    """Ship an order."""
    return f"{order} of {tenant} is on its way"


async def orders_of(tenant: int) -> list[int]:
    """Return the orders of which there are tasks."""
    page = await get_task_manager().list_tasks(meta={"tenant_id": tenant})
    return [OrderMeta.model_validate(task.meta).order_id for task in page.tasks]


JOIN = """
SELECT orders.customer, tasks.status
FROM orders
JOIN asyncframe_tasks AS tasks ON json_extract(tasks.meta, '$.order_id') = orders.id
WHERE json_extract(tasks.meta, '$.tenant_id') = 1
"""


def test_meta() -> None:
    """Tasks are found by columns of the app's own, in Python, over HTTP and in SQL."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "tasks.db"
        app = FastAPI(lifespan=setup_async_framework(store=SQLStore(f"sqlite:///{file}")))
        app.include_router(task_router())

        @app.get("/orders")
        async def orders(tenant: int) -> list[int]:
            return await orders_of(tenant)

        with TestClient(app) as client:
            ids = [ship(1, 7), ship(2, 8), ship.options(meta={"tenant_id": 1})(1, 9)]
            for one in ids:
                client.get(f"/tasks/{one}", params={"wait": 10})
            assert client.get("/orders", params={"tenant": 2}).json() == [8]
            found = client.get("/tasks", params={"meta": '{"tenant_id": 1}'}).json()
        assert [task["task_id"] for task in found["tasks"]] == [ids[2], ids[0]]
        assert found["tasks"][1]["meta"] == {"tenant_id": 1, "order_id": 7, "kind": "parcel"}
        database = sqlite3.connect(file)
        database.execute("CREATE TABLE orders (id INTEGER, customer TEXT)")
        database.execute("INSERT INTO orders VALUES (7, 'ann'), (8, 'bob')")
        assert database.execute(JOIN).fetchall() == [("ann", "completed")]
        database.close()
