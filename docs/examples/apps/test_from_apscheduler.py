"""A shop's housekeeping, moved from APScheduler: two jobs, and reminders that users ask for."""

from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from pydantic import AwareDatetime

from framework import (
    TaskId,
    TaskManager,
    background_task,
    get_task_manager,
    scheduled_task,
    setup_async_framework,
)
from framework.exceptions import ScheduleNotFoundError

app = FastAPI(lifespan=setup_async_framework)
reminded: list[str] = []


@scheduled_task(every=timedelta(minutes=10), name="stock")
def count_stock() -> None:
    """Count the stock; what was ``add_job(count_stock, "interval", minutes=10, id="stock")``."""


@scheduled_task(at="03:00", tz="Europe/Berlin", name="nightly", missed="once")
def clean_up() -> None:
    """Clean up; what was ``add_job(clean_up, "cron", hour=3, coalesce=True, id="nightly")``."""


@background_task
def remind(user: str) -> None:
    """Remind somebody."""
    reminded.append(user)


@app.post("/reminders/{user}", status_code=202)
def add_reminder(user: str, at: AwareDatetime) -> TaskId[None]:
    """Remind somebody at a time; what was ``add_job(remind, "date", run_date=at, args=[user])``."""
    left = (at - datetime.now(UTC)).total_seconds()
    return remind.options(delay=max(0.0, left), description=user)(user)


@app.delete("/reminders/{task_id}")
async def remove_reminder(task_id: str) -> bool:
    """Remove a reminder; what was ``remove_job(job_id)``."""
    return await get_task_manager().cancel_task(task_id)


@app.get("/jobs")
async def jobs() -> dict[str, datetime | None]:
    """Say when each job is due; what was ``get_jobs()``."""
    return {one.name: one.next_run for one in await get_task_manager().schedules.get_all()}


@app.post("/jobs/{name}/pause")
async def pause(name: str) -> None:
    """Pause a job; what was ``pause_job(name)``."""
    try:
        await get_task_manager().schedules.pause(name)
    except ScheduleNotFoundError:
        raise HTTPException(404, "no such job") from None


pytestmark = pytest.mark.task_modes("auto", on=("memory", "sqlite"))


def test_jobs(task_manager: TaskManager) -> None:
    """Both jobs are due, and one of them is paused."""
    with TestClient(app) as client:
        due = client.get("/jobs").json()
        assert {"stock", "nightly"} <= due.keys()
        assert datetime.fromisoformat(due["stock"]) > datetime.now(UTC)
        assert client.post("/jobs/stock/pause").status_code == 200
        paused = {one.name: one.paused for one in task_manager.schedules.snapshot()}
        assert (paused["stock"], paused["nightly"]) == (True, False)
        assert client.post("/jobs/nothing/pause").status_code == 404


def test_reminders(task_manager: TaskManager) -> None:
    """A reminder comes at its time, and one that is removed does not."""
    reminded.clear()
    with TestClient(app) as client:
        now, tomorrow = datetime.now(UTC), datetime.now(UTC) + timedelta(days=1)
        first = client.post("/reminders/ann", params={"at": now.isoformat()}).json()
        task_manager.wait_result(first, timeout=60)
        second = client.post("/reminders/bob", params={"at": tomorrow.isoformat()}).json()
        assert client.delete(f"/reminders/{second}").json() is True
        assert client.post("/reminders/carl", params={"at": "2031-05-01T09:00"}).status_code == 422
    assert reminded == ["ann"]
