"""An app that makes thumbnails in worker processes, moved from Celery, with its tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
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


def disk() -> Path:
    """Return the folder that all processes share."""
    return Path(os.environ.get("SHOP_DISK", "disk"))


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
    (disk() / small).write_bytes((disk() / file).read_bytes()[:10])
    await get_task_manager().submit(tell, (small,))
    return small


@background_task(on_restart="requeue")
def tell(file: str) -> None:
    """Tell that a file is there."""
    with (disk() / "told.txt").open("a") as lines:
        lines.write(f"{file}\n")


@scheduled_task(at="04:00")
def remove_old() -> None:
    """Remove old files; what was an entry of ``beat_schedule``."""
    for file in disk().glob("small-*"):
        file.unlink()


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


app = make_app()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the app use an empty folder; a worker process starts after that, and uses it too."""
    monkeypatch.setenv("SHOP_DISK", str(tmp_path))
    return tmp_path


@pytest.mark.task_modes("auto", on=("memory", "sqlite", "workers"))
async def test_a_thumbnail(files: Path, asyncframe: Probe) -> None:
    """The clients' requests get the answers that they know, and the next task has run too."""
    (files / "cat.png").write_bytes(b"a picture of a cat")
    async with asyncframe.client(app) as client:
        started = await client.post("/thumbnails", params={"file": "cat.png"})
        task_id = started.json()["task_id"]
        await asyncframe.settled()
        shown = (await client.get(f"/thumbnails/{task_id}")).json()
        unknown = (await client.get("/thumbnails/7")).json()
    assert started.status_code == 201
    expected = {"task_id": task_id, "task_status": "SUCCESS", "task_result": "small-cat.png"}
    assert shown == expected
    assert unknown["task_status"] == "PENDING"
    assert (files / "small-cat.png").read_bytes() == b"a picture "
    assert (files / "told.txt").read_text() == "small-cat.png\n"


async def test_a_file_that_never_comes(files: Path, asyncframe: Probe) -> None:
    """It is tried six times in 62 seconds, for which no test waits, and ends as FAILURE."""
    async with asyncframe.client(app) as client:
        task_id = (await client.post("/thumbnails", params={"file": "no.png"})).json()["task_id"]
        task = await asyncframe.completed(task_id, check=False)
        shown = (await client.get(f"/thumbnails/{task_id}")).json()
    assert task.attempts == 6
    assert isinstance(task.error, FileNotFoundError)
    assert shown["task_status"] == "FAILURE"
