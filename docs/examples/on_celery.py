"""An app whose tasks run on Celery workers.

Start the app with uvicorn, and a worker with ``celery -A on_celery:celery_app worker``.
"""

import os

from celery import Celery
from fastapi import FastAPI
from pydantic import BaseModel

from framework import background_task, current_task, setup_async_framework
from framework.engines.celery import CeleryEngine
from framework.http import Accepted, task_router

celery_app = Celery("shop", broker=os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
engine = CeleryEngine(celery_app, default_limit=60)

app = FastAPI(lifespan=lambda app: setup_async_framework(app, engine=engine))
app.include_router(task_router())


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


@app.post("/reports")
async def start(title: str) -> Accepted[Report]:
    """Answer immediately, without waiting for the broker."""
    return make_report(title)


def test_settings() -> None:
    """The engine has configured the Celery app so that it loses no tasks."""
    assert celery_app.conf.task_acks_late
    assert celery_app.conf.worker_prefetch_multiplier == 1
    assert "asyncframe.run" in celery_app.tasks


def test_body() -> None:
    """The function itself can be tested without Celery, Redis or a framework."""
    assert make_report.fn("sales").pages == 3
