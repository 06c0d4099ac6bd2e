"""Several worker processes that keep their tasks in one database."""

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
    """Keep the tasks of all workers in one database."""
    url = os.environ.get("TASKS_URL", "sqlite:///tasks.db")
    async with setup_async_framework(app, store=SQLStore(url)):
        yield


app = FastAPI(lifespan=lifespan)


class Report(BaseModel):
    """The result of a task: stored as JSON, and returned as a Report."""

    pages: int


@background_task
def make_report(pages: int) -> Report:
    """Make a report."""
    return Report(pages=pages)


@app.post("/reports/{pages}", status_code=202)
async def order(pages: int) -> TaskId[Report]:
    """Start a report on the worker that gets this request."""
    return make_report(pages)


@app.get("/reports/{task_id}")
async def fetch(task_id: str) -> Report:
    """Return the report; any worker can answer this request."""
    if await get_task_manager().get_task(task_id) is None:
        raise HTTPException(404)
    report: Report = await get_task_manager().get_result(task_id, timeout=10)
    return report


def test_after_a_restart() -> None:
    """A report from before a restart is still there after it."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TASKS_URL"] = f"sqlite:///{folder}/tasks.db"
        with TestClient(app) as client:
            task_id = client.post("/reports/3").json()
            assert client.get(f"/reports/{task_id}").json() == {"pages": 3}
        with TestClient(app) as client:
            assert client.get(f"/reports/{task_id}").json() == {"pages": 3}
        del os.environ["TASKS_URL"]
