"""What apps had with BackgroundTasks, Celery, ARQ and APScheduler, as it is here."""

from datetime import timedelta
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import (
    TaskId,
    background_task,
    get_task_manager,
    retry_task,
    scheduled_task,
    setup_async_framework,
)

app = FastAPI(lifespan=setup_async_framework)
sent: list[str] = []


# BackgroundTasks


@background_task
def send_mail(to: str, text: str) -> None:
    """Send a mail; what was ``def send_mail`` and ``tasks.add_task(send_mail, to, text)``."""
    sent.append(f"{text} -> {to}")


@app.post("/users")
async def register(address: str) -> dict[str, str]:
    """Register somebody; the answer does not change."""
    send_mail(address, "welcome")
    return {"address": address}


# Celery


@background_task(timeout=120)
@retry_task(max_retries=5, exceptions=(ConnectionError,), retry_delay=2, backoff=2)
def convert(file: str) -> str:
    """Convert a file; what was ``@celery.task(autoretry_for=(ConnectionError,), ...)``."""
    return file.replace(".png", ".jpg")


CELERYS_WORDS = {
    "pending": "PENDING",
    "running": "STARTED",
    "completed": "SUCCESS",
    "cancelled": "REVOKED",
}


@app.post("/conversions", status_code=201)
async def start(file: str) -> dict[str, str]:
    """Start a conversion; what was ``convert.delay(file).id``."""
    return {"task_id": convert(file)}


@app.get("/conversions/{task_id}")
async def show(task_id: str) -> dict[str, Any]:
    """Show a conversion with the words that the clients know; what had ``AsyncResult(task_id)``."""
    task = await get_task_manager().get_task(task_id)
    if task is None:  # for Celery an id that nobody knows is pending
        return {"task_id": task_id, "task_status": "PENDING", "task_result": None}
    status = CELERYS_WORDS.get(task.status, "FAILURE")
    return {"task_id": task_id, "task_status": status, "task_result": task.result}


# ARQ


@background_task(max_running=10)
async def download(url: str) -> int:
    """Download a page; ``ctx`` is gone, and ``max_jobs`` is now ``max_running``."""
    return len(url)


@app.post("/downloads", status_code=202)
async def start_download(url: str, in_seconds: float = 0) -> TaskId[int]:
    """Download a page later; what was ``redis.enqueue_job("download", url, _defer_by=...)``."""
    return download.options(delay=in_seconds, description=url)(url)


# APScheduler


@scheduled_task(every=timedelta(minutes=10), name="heartbeat")
def beat() -> None:
    """Run every ten minutes; what was ``scheduler.add_job(beat, "interval", minutes=10)``."""


@scheduled_task(at="03:00", tz="Europe/Berlin", name="nightly", missed="once")
def clean_up() -> None:
    """Run at night; what was ``add_job(clean_up, "cron", hour=3, coalesce=True)``."""


def test_what_was_background_tasks() -> None:
    """A mail is sent after the answer, and its end can be waited for."""
    with TestClient(app) as client:
        assert client.post("/users", params={"address": "ann"}).json() == {"address": "ann"}
    assert sent == ["welcome -> ann"]


def test_what_was_celery() -> None:
    """Clients that know Celery's words need not change."""
    with TestClient(app) as client:
        started = client.post("/conversions", params={"file": "cat.png"})
        task_id = started.json()["task_id"]
        app.state.task_manager.wait_result(task_id, timeout=60)
        shown = client.get(f"/conversions/{task_id}").json()
        unknown = client.get("/conversions/7").json()
    assert started.status_code == 201
    assert shown == {"task_id": task_id, "task_status": "SUCCESS", "task_result": "cat.jpg"}
    assert unknown["task_status"] == "PENDING"


def test_what_was_arq() -> None:
    """A download starts at once, or waits for its time."""
    with TestClient(app) as client:
        manager = app.state.task_manager
        first = client.post("/downloads", params={"url": "a.org"}).json()
        later = client.post("/downloads", params={"url": "b.org", "in_seconds": 60}).json()
        assert manager.wait_result(first, timeout=60) == 5
        assert manager.get_all_tasks()[later]["status"] == "pending"


def test_what_was_apscheduler() -> None:
    """Both schedules are known, and wait for their times."""
    with TestClient(app):
        names = {one.name for one in app.state.task_manager.schedules.snapshot()}
    assert {"heartbeat", "nightly"} <= names
