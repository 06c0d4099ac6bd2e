"""Tasks of several worker processes in one database."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from pydantic import BaseModel

from framework import TaskId, background_task, get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the tasks of all workers in one place."""
    url = os.environ.get("TASKS_URL", "sqlite:///tasks.db")
    async with setup_async_framework(app, store=SQLStore(url)):
        yield


app = FastAPI(lifespan=lifespan)


class Report(BaseModel):
    """What a task returns: kept as JSON, and given back as a Report."""

    pages: int


@background_task
def make_report(pages: int) -> Report:
    """Make a report."""
    return Report(pages=pages)


@app.post("/reports/{pages}", status_code=202)
async def order(pages: int) -> TaskId[Report]:
    """Order a report from whichever worker gets the request."""
    return make_report(pages)


@app.get("/reports/{task_id}")
async def fetch(task_id: str) -> Report:
    """Give the report to whoever asks whichever worker for it."""
    if await get_task_manager().get_task(task_id) is None:
        raise HTTPException(404)
    report: Report = await get_task_manager().get_result(task_id, timeout=10)
    return report


def test_after_a_restart() -> None:
    """A report that was made before a restart is there after it."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TASKS_URL"] = f"sqlite:///{folder}/tasks.db"
        with TestClient(app) as client:
            task_id = client.post("/reports/3").json()
            assert client.get(f"/reports/{task_id}").json() == {"pages": 3}
        with TestClient(app) as client:
            assert client.get(f"/reports/{task_id}").json() == {"pages": 3}
        del os.environ["TASKS_URL"]
