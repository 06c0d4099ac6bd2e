"""Reports that are made once, however often they are asked for, and exports one at a time."""

import threading

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from framework import (
    DuplicateTaskError,
    background_task,
    get_task_manager,
    setup_async_framework,
)

app = FastAPI(lifespan=setup_async_framework)
made: list[int] = []
go_on = threading.Event()


def count_orders(month: int) -> int:
    """Stand for what takes a while; the tests below say how long."""
    go_on.wait(60)
    made.append(month)
    return 17


@background_task(unique=True)
def make_report(month: int) -> str:
    """Make the report of a month, which takes a while."""
    return f"{count_orders(month)} orders in month {month}"


@app.post("/reports/{month}", status_code=202)
async def start_report(month: int) -> dict[str, str]:
    """Start a report, or find the one that is being made."""
    task_id = await get_task_manager().submit(make_report, (month,))
    return {"task_id": task_id}


@app.post("/reports/{month}/once", status_code=202)
async def start_once(month: int) -> dict[str, str]:
    """Start a report; the response is 409 if it is being made."""
    task_id = await get_task_manager().submit(make_report, (month,), on_duplicate="raise")
    return {"task_id": task_id}


class Change(BaseModel):
    """A new text of a document."""

    document: int
    text: str


searchable: dict[int, str] = {}


def by_document(change: Change) -> int:
    """Return the document; takes the same parameters as the task."""
    return change.document


@background_task(unique=by_document, on_duplicate="replace")
async def index(change: Change) -> None:
    """Index the latest text of a document; an older one is not needed any more."""
    searchable[change.document] = change.text


class Order(BaseModel):
    """What a customer wants to have exported."""

    customer: str
    table: str


@background_task(max_running=1, key=lambda order: order.customer)
def export(order: Order) -> str:
    """Export a table, one at a time for each customer."""
    return f"{order.table} of {order.customer}"


def test_a_report_is_made_once() -> None:
    """While a report is being made, further requests for it get the same task."""
    go_on.clear()
    with TestClient(app) as client:
        first, second = (client.post("/reports/3").json()["task_id"] for _ in range(2))
        assert first == second
        assert client.post("/reports/3/once").status_code == 409
        go_on.set()
        manager = app.state.task_manager
        assert manager.wait_result(first, timeout=60) == "17 orders in month 3"
        assert made == [3]
        assert client.post("/reports/3/once").status_code == 202


async def test_the_latest_text_is_indexed() -> None:
    """Of several texts of a document, those that came in between are skipped."""
    async with setup_async_framework(None):
        manager = get_task_manager()
        ids = [index(Change(document=7, text=text)) for text in ("a", "b", "c")]
        await manager.get_result(ids[-1])
        assert searchable == {7: "c"}
        tasks = [await manager.get_task(one) for one in ids[:2]]
        assert [task.status for task in tasks if task] == ["cancelled", "cancelled"]


def test_exports_take_turns() -> None:
    """All exports of a customer complete."""
    with TestClient(app):
        manager = app.state.task_manager
        orders = [Order(customer="ann", table=table) for table in ("users", "sales")]
        ids = [manager.submit_nowait(export, (order,)) for order in orders]
        ended = [manager.wait_result(one, timeout=60) for one in ids]
        assert ended == ["users of ann", "sales of ann"]


async def test_the_error_names_the_task() -> None:
    """Code that is no route finds the id of the other task in the error."""
    go_on.clear()
    async with setup_async_framework(None):
        task_id = make_report(4)
        with pytest.raises(DuplicateTaskError) as caught:
            make_report.options(on_duplicate="raise")(4)
        assert caught.value.task_id == task_id
        go_on.set()
        await get_task_manager().get_result(task_id)
