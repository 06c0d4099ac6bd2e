"""Tasks of asyncframe on Celery workers; they import this module, and so does the app."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from celery import Celery

from benchmarks.ways import _task
from benchmarks.ways.ours import way_of
from framework import background_task, setup_async_framework
from framework.engines.celery import CeleryEngine

celery_app = Celery("adopters", broker=os.environ[_task.URL])
engine = CeleryEngine(celery_app, default_limit=60)


@background_task
def note(number: int) -> int:
    """Mark that a task has run."""
    return _task.note(number)


@asynccontextmanager
async def way(app: Any) -> AsyncIterator[_task.Way]:
    """Publish to the workers."""
    async with setup_async_framework(app, engine=engine):
        yield way_of(note)
