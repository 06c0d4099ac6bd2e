"""A model that each process loads once."""

import asyncio
import functools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from celery.signals import worker_process_init
from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import background_task, setup_async_framework
from framework.http import Accepted, task_router

loads: list[int] = []


class Model:
    """Stands for something that takes long to load, and much memory."""

    def __init__(self) -> None:
        loads.append(os.getpid())

    def label(self, picture: str) -> str:
        """Say what is in a picture."""
        return picture.removesuffix(".png")


@functools.cache
def model() -> Model:
    """Return the model of this process."""
    return Model()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model before the app takes requests, and before a task needs it."""
    await asyncio.to_thread(model)
    async with setup_async_framework(app):
        yield


def load(**_: object) -> None:
    """Load the model in each process of a Celery worker; an app without Celery leaves this out."""
    model()


worker_process_init.connect(load)

app = FastAPI(lifespan=lifespan)
app.include_router(task_router())


@background_task(timeout=10)
def classify(picture: str) -> str:
    """Say what is in a picture."""
    return model().label(picture)


@app.post("/pictures")
async def take(picture: str) -> Accepted[str]:
    """Classify a picture."""
    return classify(picture)


def test_the_model_is_loaded_once() -> None:
    """All tasks of a process use the model that was loaded at the start."""
    with TestClient(app) as client:
        assert loads == [os.getpid()]
        for name in ("cat", "dog"):
            accepted = client.post("/pictures", params={"picture": f"{name}.png"})
            shown = client.get(accepted.headers["location"], params={"wait": 60}).json()
            assert shown["result"] == name
    load()
    assert loads == [os.getpid()]
