"""Several worker processes that keep their tasks in one database."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from framework import background_task, setup_async_framework
from framework.http import Accepted, task_router
from framework.stores.sql import SQLStore


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the tasks of all workers in one database."""
    url = os.environ.get("TASKS_URL", "sqlite:///tasks.db")
    async with setup_async_framework(app, store=SQLStore(url)):
        yield


app = FastAPI(lifespan=lifespan)
app.include_router(task_router())  # any worker shows any task


class Report(BaseModel):
    """The result of a task: stored as JSON, and returned as a Report."""

    pages: int


@background_task
def make_report(pages: int) -> Report:
    """Make a report."""
    return Report(pages=pages)


@app.post("/reports/{pages}")
async def order(pages: int) -> Accepted[Report]:
    """Start a report on the worker that gets this request."""
    return make_report(pages)


def test_after_a_restart() -> None:
    """A report from before a restart is still there after it."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TASKS_URL"] = f"sqlite:///{folder}/tasks.db"
        with TestClient(app) as client:
            url = client.post("/reports/3").headers["location"]
            assert client.get(url, params={"wait": 60}).json()["result"] == {"pages": 3}
        with TestClient(app) as client:
            assert client.get(url).json()["result"] == {"pages": 3}
        del os.environ["TASKS_URL"]
