"""An app whose tasks run on Celery workers.

Start the app with uvicorn, and a worker with ``celery -A on_celery:celery_app worker``.
"""

import os

from celery import Celery
from fastapi import FastAPI
from pydantic import BaseModel

from framework import background_task, current_task, get_task_manager, setup_async_framework
from framework.engines.celery import CeleryEngine

celery_app = Celery("shop", broker=os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
engine = CeleryEngine(celery_app, default_limit=60)

app = FastAPI(lifespan=lambda app: setup_async_framework(app, engine=engine))


class Report(BaseModel):
    """The result of a task; it comes back as a Report."""

    title: str
    pages: int


@background_task(timeout=20)
def make_report(title: str, pages: int = 3) -> Report:
    """Run on a Celery worker."""
    task = current_task()
    for page in range(pages):
        if task is not None:
            task.check_cancelled()
            task.report_progress((page + 1) / pages, f"page {page + 1}")
    return Report(title=title, pages=pages)


@app.post("/reports", status_code=202)
async def start(title: str) -> dict[str, str]:
    """Return the id immediately, without waiting for the broker."""
    return {"task_id": make_report(title)}


@app.get("/reports/{task_id}")
async def read(task_id: str) -> Report:
    """Wait for the report and return it."""
    report: Report = await get_task_manager().get_result(task_id, timeout=30)
    return report


def test_settings() -> None:
    """The engine has configured the Celery app so that it loses no tasks."""
    assert celery_app.conf.task_acks_late
    assert celery_app.conf.worker_prefetch_multiplier == 1
    assert "asyncframe.run" in celery_app.tasks


def test_body() -> None:
    """The function itself can be tested without Celery, Redis or a framework."""
    assert make_report.fn("sales").pages == 3
