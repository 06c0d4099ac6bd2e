"""An app that makes thumbnails in worker processes, moved from Celery, with its tests."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI

from framework import (
    background_task,
    get_task_manager,
    retry_task,
    scheduled_task,
    setup_async_framework,
)
from framework.stores.sql import SQLStore
from pytest_asyncframe.probe import Probe

told: list[str] = []
disk: dict[str, bytes] = {}


def make_app() -> FastAPI:
    """Return the app of the web process and of ``asyncframe worker --factory``."""
    store = SQLStore(os.environ.get("DATABASE_URL", "sqlite:///tasks.db"), durable=True)
    app = FastAPI(lifespan=setup_async_framework(max_workers=0, store=store))
    app.post("/thumbnails", status_code=201)(start)
    app.get("/thumbnails/{task_id}")(show)
    return app


@background_task(on_restart="requeue", timeout=120)
@retry_task(max_retries=5, exceptions=(OSError,), retry_delay=2, backoff=2)
async def make_thumbnail(file: str) -> str:
    """Make a thumbnail, and tell of it; what was ``chain(make_thumbnail.s(f), tell.s())``."""
    small = f"small-{file}"
    if file not in disk:
        raise FileNotFoundError(file)
    disk[small] = disk[file][:10]
    await get_task_manager().submit(tell, (small,))
    return small


@background_task(on_restart="requeue")
def tell(file: str) -> None:
    """Tell that a file is there."""
    told.append(file)


@scheduled_task(at="04:00")
def remove_old() -> None:
    """Remove old files; what was an entry of ``beat_schedule``."""
    disk.clear()


WORDS = {"pending": "PENDING", "running": "STARTED", "completed": "SUCCESS", "cancelled": "REVOKED"}


async def start(file: str) -> dict[str, str]:
    """Start; what was ``make_thumbnail.delay(file).id``."""
    return {"task_id": await get_task_manager().submit(make_thumbnail, (file,))}


async def show(task_id: str) -> dict[str, Any]:
    """Show it in the words that clients know; what had ``AsyncResult(task_id)``."""
    task = await get_task_manager().get_task(task_id)
    if task is None:  # for Celery an id that nobody knows is pending
        return {"task_id": task_id, "task_status": "PENDING", "task_result": None}
    status = WORDS.get(task.status, "FAILURE")
    return {"task_id": task_id, "task_status": status, "task_result": task.result}


async def test_a_thumbnail(asyncframe: Probe) -> None:
    """The clients' requests get the answers that they know, and the next task has run too."""
    told.clear()
    disk["cat.png"] = b"a picture of a cat"
    async with asyncframe.client(make_app()) as client:
        started = await client.post("/thumbnails", params={"file": "cat.png"})
        task_id = started.json()["task_id"]
        await asyncframe.settled()
        shown = (await client.get(f"/thumbnails/{task_id}")).json()
        unknown = (await client.get("/thumbnails/7")).json()
    assert started.status_code == 201
    expected = {"task_id": task_id, "task_status": "SUCCESS", "task_result": "small-cat.png"}
    assert shown == expected
    assert unknown["task_status"] == "PENDING"
    assert told == ["small-cat.png"]


async def test_a_file_that_never_comes(asyncframe: Probe) -> None:
    """It is tried six times in 62 seconds, for which no test waits, and ends as FAILURE."""
    async with asyncframe.client(make_app()) as client:
        task_id = (await client.post("/thumbnails", params={"file": "no.png"})).json()["task_id"]
        task = await asyncframe.completed(task_id, check=False)
        shown = (await client.get(f"/thumbnails/{task_id}")).json()
    assert task.attempts == 6
    assert isinstance(task.error, FileNotFoundError)
    assert shown["task_status"] == "FAILURE"
