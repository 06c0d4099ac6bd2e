"""An app made for a database and a broker, tested without either."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from celery import Celery
from fastapi import FastAPI

from framework import background_task, setup_async_framework
from framework.engines.celery import CeleryEngine
from framework.stores.sql import SQLStore
from pytest_asyncframe.probe import Probe


@background_task(timeout=30)
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def app_for(folder: Path) -> FastAPI:
    """Return an app whose database and broker are not there."""
    celery_app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    engine = CeleryEngine(celery_app)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = SQLStore(f"sqlite:///{folder / 'tasks.db'}", durable=True)
        async with setup_async_framework(app, store=store, engine=engine):
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/double/{number}", status_code=202)
    async def start(number: int) -> dict[str, str]:
        return {"task_id": double(number)}

    return app


async def test_parts_are_replaced(asyncframe: Probe, tmp_path: Path) -> None:
    """Under the plugin the test's own store and engine are used, and nothing is opened."""
    async with asyncframe.client(app_for(tmp_path)) as client:
        answer = await client.post("/double/4")
        assert (await asyncframe.completed(answer)).result == 8
    assert not (tmp_path / "tasks.db").exists()
