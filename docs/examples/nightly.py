"""A nightly job, once in several processes; shown, paused and run by hand."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryDirectory
from zoneinfo import ZoneInfo

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import (
    ScheduleInfo,
    TaskId,
    TaskStatus,
    get_task_manager,
    retry_task,
    scheduled_task,
    setup_async_framework,
)
from framework.stores.sql import SQLStore


@scheduled_task(cron="0 3 * * *", tz="Europe/Berlin", timeout=1800, name="reports")
@retry_task(max_retries=3, retry_delay=60)
async def send_reports() -> int:
    """Send the reports of the day, at 03:00 in Berlin."""
    return 17


@scheduled_task(every=timedelta(minutes=5), jitter=0.1, name="sync")
def sync_stock() -> None:
    """Ask the warehouse what is left, every five minutes."""


@scheduled_task(at="00:30", tz="Europe/Berlin", missed="all", name="count")
def count_visits(due: datetime) -> str:
    """Count the visits of the day before, for each day once."""
    return f"visits of {due.date() - timedelta(days=1)}"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Share the schedules with the other processes of this app."""
    url = os.environ.get("TASKS_URL", "sqlite:///tasks.db")
    async with setup_async_framework(app, store=SQLStore(url)):
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/schedules")
async def schedules() -> list[ScheduleInfo]:
    """Show all schedules."""
    return await get_task_manager().schedules.get_all()


@app.post("/schedules/{name}/pause")
async def pause(name: str) -> None:
    """Start no more runs, in any process, until somebody resumes it."""
    await get_task_manager().schedules.pause(name)


@app.post("/schedules/{name}/resume")
async def resume(name: str) -> None:
    """Run it again from the next due time on."""
    await get_task_manager().schedules.resume(name)


@app.post("/schedules/{name}/run", status_code=202)
async def run(name: str) -> TaskId[object]:
    """Run it now, in this process."""
    return await get_task_manager().schedules.trigger(name)


def test_schedules_are_shown() -> None:
    """Each schedule has its next run, in UTC."""
    with a_database(), TestClient(app) as client:
        found = {one["name"]: one for one in client.get("/schedules").json()}
    assert found["sync"]["timing"] == "every 300 s"
    assert found["reports"]["timing"] == "cron 0 3 * * * (Europe/Berlin)"
    next_run = datetime.fromisoformat(found["reports"]["next_run"])
    assert next_run > datetime.now(UTC)
    assert next_run.astimezone(ZoneInfo("Europe/Berlin")).hour == 3


def test_paused_and_run_by_hand() -> None:
    """A paused schedule can still be run by hand; the pause is kept over a restart."""
    with a_database():
        with TestClient(app) as client:
            client.post("/schedules/reports/pause")
            task_id = client.post("/schedules/reports/run").json()
            assert get_task_manager().wait_result(task_id, timeout=60) == 17
        with TestClient(app) as client:
            found = {one["name"]: one for one in client.get("/schedules").json()}
    assert found["reports"]["paused"]
    assert found["reports"]["next_run"] is None
    assert found["reports"]["last_status"] == TaskStatus.COMPLETED


@contextmanager
def a_database() -> Iterator[None]:
    """Set the environment to a database that is empty."""
    with TemporaryDirectory() as folder:
        os.environ["TASKS_URL"] = f"sqlite:///{folder}/tasks.db"
        try:
            yield
        finally:
            del os.environ["TASKS_URL"]
