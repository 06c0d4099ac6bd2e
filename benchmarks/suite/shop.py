"""The app that both suites test: a shop whose routes start tasks.

With ``SHOP_SECOND`` in the environment a second is that long, as in the settings of an app whose
tests cannot wait.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from fastapi import FastAPI, HTTPException

from framework import (
    background_task,
    current_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
    throttled_task,
)

SECOND = float(os.environ.get("SHOP_SECOND", "1"))

app = FastAPI(lifespan=setup_async_framework)


@background_task
def invoice(order: int) -> str:
    """Take three seconds on a thread."""
    time.sleep(3 * SECOND)  # noqa: TID251  # what the suites are to deal with
    return f"invoice {order}"


@background_task
async def page(order: int) -> str:
    """Take a second in a coroutine."""
    await asyncio.sleep(SECOND)  # noqa: TID251  # as above
    return f"page {order}"


@background_task
@retry_task(max_retries=3, retry_delay=SECOND, backoff=2, exceptions=(ConnectionError,))
def charge(order: int, away: int) -> str:
    """Ask a bank that does not answer the first *away* times."""
    task = current_task()
    assert task is not None
    if task.attempts <= away:
        raise ConnectionError(f"no bank for order {order}")
    return f"charged {order}"


@background_task
@throttled_task(rate_limit=2, time_window=10 * SECOND, when_limited="wait")
def send(order: int) -> float:
    """Send a message, two in ten seconds at the most; return the time."""
    return get_task_manager().clock.monotonic()


@background_task
def remind(order: int) -> str:
    """Remind somebody."""
    return f"reminded of {order}"


@background_task(timeout=5 * SECOND)
def render(order: int) -> str:
    """Take longer than is allowed."""
    time.sleep(20 * SECOND)  # noqa: TID251  # as above
    return f"picture {order}"


@background_task
def load(rows: int) -> int:
    """Report progress after each of four parts."""
    task = current_task()
    assert task is not None
    for part in range(4):
        time.sleep(SECOND)  # noqa: TID251  # as above
        task.report_progress((part + 1) / 4)
    return rows


@background_task
def refund(order: int) -> None:
    """Fail."""
    raise PermissionError(f"order {order} is not paid")


@background_task
def convert(order: int) -> str:
    """Check before each of 100 parts whether it was cancelled."""
    task = current_task()
    assert task is not None
    for _ in range(100):
        task.check_cancelled()
        time.sleep(SECOND)  # noqa: TID251  # as above
    return f"converted {order}"


@background_task
def ship(order: int) -> str:
    """Start another task."""
    return str(invoice(order))


@app.post("/invoices/{order}", status_code=202)
async def post_invoice(order: int) -> dict[str, str]:
    """Start writing an invoice."""
    return {"task_id": invoice(order)}


@app.post("/pages/{order}", status_code=202)
async def post_page(order: int) -> dict[str, str]:
    """Start making a page."""
    return {"task_id": page(order)}


@app.post("/charges/{order}", status_code=202)
async def post_charge(order: int, away: int) -> dict[str, str]:
    """Start charging."""
    return {"task_id": charge(order, away)}


@app.post("/messages/{order}", status_code=202)
async def post_message(order: int) -> dict[str, str]:
    """Start sending a message."""
    return {"task_id": send(order)}


@app.post("/reminders/{order}", status_code=202)
async def post_reminder(order: int) -> dict[str, str]:
    """Remind somebody ten seconds later."""
    return {"task_id": remind.options(delay=10 * SECOND)(order)}


@app.post("/pictures/{order}", status_code=202)
async def post_picture(order: int) -> dict[str, str]:
    """Start rendering."""
    return {"task_id": render(order)}


@app.post("/imports/{rows}", status_code=202)
async def post_import(rows: int) -> dict[str, str]:
    """Start loading rows."""
    return {"task_id": load(rows)}


@app.post("/refunds/{order}", status_code=202)
async def post_refund(order: int) -> dict[str, str]:
    """Start a refund."""
    return {"task_id": refund(order)}


@app.post("/conversions/{order}", status_code=202)
async def post_conversion(order: int) -> dict[str, str]:
    """Start converting."""
    return {"task_id": convert(order)}


@app.post("/shipments/{order}", status_code=202)
async def post_shipment(order: int) -> dict[str, str]:
    """Start shipping."""
    return {"task_id": ship(order)}


@app.get("/tasks/{task_id}")
async def get_task(task_id: str) -> dict[str, Any]:
    """Show a task."""
    task = await get_task_manager().get_task(task_id)
    if task is None:
        raise HTTPException(404)
    return {
        "status": task.status.value,
        "attempts": task.attempts,
        "progress": task.progress,
        "error": None if task.error is None else str(task.error),
    }


@app.delete("/tasks/{task_id}", status_code=204)
async def delete_task(task_id: str) -> None:
    """Cancel a task."""
    await get_task_manager().cancel_task(task_id)
