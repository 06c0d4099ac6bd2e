"""An app whose tasks run in worker processes: ``asyncframe worker workers:app``."""

import os
import tempfile

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import TaskId, background_task, get_task_manager, setup_async_framework
from framework.exceptions import NoWorkersError
from framework.stores.sql import SQLStore

store = SQLStore(os.environ.get("DATABASE_URL", "sqlite:///tasks.db"), durable=True)
app = FastAPI(lifespan=setup_async_framework(max_workers=0, store=store))


@background_task(on_restart="requeue")
def resize(image: str, width: int = 800) -> str:
    """Make an image smaller, on a thread of a worker."""
    return f"{image}-{width}"


@background_task
def remember(image: str) -> None:
    """Run in the process that submits it, so not here."""


@app.post("/images/{image}", status_code=202)
async def upload(image: str) -> TaskId[str]:
    """Answer when the task is safe on disk; a worker takes it as soon as it has a place."""
    return await get_task_manager().submit(resize, (image,))


def test_web_process_only_submits() -> None:
    """A task waits for a worker, and what no worker may run is refused."""
    folder = tempfile.TemporaryDirectory()
    elsewhere = SQLStore(f"sqlite:///{folder.name}/tasks.db", durable=True)
    app.router.lifespan_context = setup_async_framework(max_workers=0, store=elsewhere)
    with TestClient(app) as client, folder:
        task_id = client.post("/images/cat").json()
        assert task_id in app.state.task_manager.get_active_tasks()
        with pytest.raises(NoWorkersError):
            app.state.task_manager.submit_nowait(remember, ("cat",))
