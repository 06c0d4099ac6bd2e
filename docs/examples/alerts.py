"""Tell a service of alerts about each task that fails."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import background_task, get_task_manager, setup_async_framework
from framework.protocols import TaskEvent


class Client(Protocol):
    """What is used of ``sentry_sdk``."""

    def capture_exception(self, error: BaseException) -> object:
        """Report an error with its traceback."""


class Alerts:
    """A sink that reports failures. A client puts them in a queue, so this is fast."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __call__(self, event: TaskEvent) -> None:
        """Report one failure."""
        if event.error is not None:
            event.error.add_note(f"in task {event.task_id} ({event.name})")
            self.client.capture_exception(event.error)


class FakeClient:
    """Keeps what it is told; in your app this is the module ``sentry_sdk``."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def capture_exception(self, error: BaseException) -> None:
        """Keep an error."""
        self.told.append(f"{type(error).__name__} {error.__notes__[-1]}")


service = FakeClient()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Report failures for as long as the framework runs."""
    async with setup_async_framework(app, graceful_shutdown_timeout=0):
        kinds = {"failed", "timed_out", "interrupted"}
        get_task_manager().subscribe(Alerts(service), kinds=kinds)
        yield


app = FastAPI(lifespan=lifespan)
begun, go_on = threading.Event(), threading.Event()


@background_task
def charge(order: int) -> None:
    """Charge for an order."""
    raise RuntimeError(f"card refused for order {order}")


@background_task
def ship(order: int) -> int:
    """Ship an order, which takes longer than the app lives."""
    begun.set()
    go_on.wait(60)
    return order


def test_failures_are_reported() -> None:
    """Somebody is told of an error, and of a task that the shutdown has interrupted."""
    with TestClient(app):
        manager = app.state.task_manager
        charged = manager.submit_nowait(charge, (7,))
        with pytest.raises(RuntimeError, match="card refused"):
            manager.wait_result(charged, timeout=60)
        shipped = manager.submit_nowait(ship, (8,))
        assert begun.wait(60)
    go_on.set()
    assert service.told == [
        f"RuntimeError in task {charged} ({charge.__module__}.charge)",
        f"TaskInterruptedError in task {shipped} ({ship.__module__}.ship)",
    ]
