"""One test on memory and on a database: what a store changes, users' tests show."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from framework import background_task, setup_async_framework
from pytest_asyncframe.probe import Probe

app = FastAPI(lifespan=setup_async_framework)


@background_task
def report(month: int) -> dict[str, int]:
    """Count the orders of a month."""
    return {"month": month, "orders": 12}


@app.post("/reports/{month}", status_code=202)
async def start_report(month: int) -> dict[str, str]:
    """Answer immediately, and count in the background."""
    return {"task_id": report(month)}


@pytest.mark.task_modes("auto", on=("memory", "sqlite"))
async def test_report(asyncframe: Probe) -> None:
    """A report comes back as it was made, from memory and from a database."""
    async with asyncframe.client(app) as client:
        response = await client.post("/reports/7")
        task = await asyncframe.completed(response)
    assert task.result == {"month": 7, "orders": 12}
