"""What load balancers and supervisors are told about an app."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import (
    QueueFullError,
    TaskManager,
    TaskTimeoutError,
    background_task,
    setup_async_framework,
)
from framework.http import health_router
from framework.http._leaving import Leaving
from framework.stores.memory import MemoryStore
from pytest_asyncframe.probe import Probe


def made(**options: Any) -> FastAPI:
    """Return an app with a framework and the routes."""
    app = FastAPI(lifespan=setup_async_framework)
    app.include_router(health_router(**options))
    return app


def told(app: FastAPI, path: str = "/health/ready") -> tuple[int, Any]:
    """Return the status and the body of an answer, without running the app's lifespan."""
    answer = TestClient(app).get(path)
    assert answer.headers["cache-control"] == "no-store"
    return answer.status_code, answer.json()


READY = (200, {"status": "ready", "problems": {}})


# -- the framework


def test_a_running_app() -> None:
    """An app that runs is alive and ready."""
    app = made()
    with TestClient(app):
        assert told(app, "/health/live") == (200, {"status": "alive"})
        assert told(app) == READY


def test_an_app_without_a_framework() -> None:
    """Before the framework has started, the process is alive and not ready."""
    app = made()
    assert told(app, "/health/live") == (200, {"status": "alive"})
    assert told(app) == (
        503,
        {
            "status": "unready",
            "problems": {
                "framework": "the framework has not started: set it up in the app's lifespan"
            },
        },
    )


async def test_a_drain(asyncframe: Probe) -> None:
    """While the framework drains, the process is not ready."""
    manager = asyncframe.manager
    app = made()
    async with asyncframe.client(app) as client:
        assert (await client.get("/health/ready")).status_code == 200
        manager._core.begin_wind_down()
        answer = await client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["problems"] == {"framework": "the server is shutting down"}


# -- its problems


async def test_a_degraded_pool(asyncframe: Probe) -> None:
    """While more threads are stuck than are replaced, the process is not ready."""
    app = FastAPI(lifespan=setup_async_framework(max_workers=1))
    app.include_router(health_router())
    stuck = background_task(name="stuck", timeout=1.0)(asyncframe.clock.sleep)
    async with asyncframe.client(app) as client:
        ids = [stuck(60.0), stuck(60.0)]
        await asyncframe.clock.run_for(30.0)
        answer = await client.get("/health/ready")
        await asyncframe.clock.run_for(60.0)
        later = await client.get("/health/ready")
        for task_id in ids:
            with pytest.raises(TaskTimeoutError):
                await asyncframe.completed(task_id)
    assert answer.status_code == 503
    assert answer.json()["problems"] == {
        "pool": "2 threads run past the time limit of their task, and not all of them are replaced"
    }
    assert later.json() == READY[1]


class FailingStore(MemoryStore):
    """A shared store that cannot be written; it is asked nothing else."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self._fault = fault

    def fault(self) -> str:
        """Return the fault, which names a host."""
        return self._fault


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("queue", "the queue is full: 1 tasks may wait (queue_size)"),
        ("store", "the store cannot be written"),
        ("broker", "the broker cannot be reached"),
    ],
)
@pytest.mark.parametrize("counts", [False, True])
def test_problems_that_others_may_share(
    monkeypatch: pytest.MonkeyPatch, name: str, sentence: str, counts: bool
) -> None:
    """A problem that is not chosen is told with 200, a chosen one with 503; none tells details."""
    app = FastAPI(lifespan=setup_async_framework(queue_size=1, graceful_shutdown_timeout=0))
    app.include_router(health_router(unready_on=[name] if counts else []))
    with TestClient(app):
        manager: TaskManager = app.state.task_manager
        if name == "queue":
            manager.submit_nowait(int, delay=3_600)
            with pytest.raises(QueueFullError):
                manager.submit_nowait(int)
        elif name == "store":
            monkeypatch.setattr(manager._core.ledger, "shared", FailingStore("at db.internal"))
        else:
            monkeypatch.setattr(manager._core, "remote", FailingStore("at mq.internal"))
        status = "unready" if counts else "ready"
        answer = (503 if counts else 200, {"status": status, "problems": {name: sentence}})
        assert told(app) == answer
        monkeypatch.undo()


# -- leaving


def of_the_delay(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged of the delay; functions of other tests may cause other lines."""
    return [message for message in caplog.messages if "shutdown_delay" in message]


def test_a_mounted_app_cannot_delay(caplog: pytest.LogCaptureFixture) -> None:
    """The delay of a router in a mounted app, whose lifespan never runs, is said to be none."""
    inner = FastAPI()
    inner.include_router(health_router(shutdown_delay=5))
    app = FastAPI(lifespan=setup_async_framework)
    app.mount("/internal", inner)
    with TestClient(app):
        assert [told(app, "/internal/health/ready")[0] for _ in range(2)] == [200, 200]
    said = (
        "shutdown_delay=5 has no effect: include health_router() in the app that the server "
        "runs, not in one that is mounted"
    )
    assert of_the_delay(caplog) == [said]


def test_without_signals(caplog: pytest.LogCaptureFixture) -> None:
    """On another thread than the main one there are no signals, and nothing is said of them."""
    app = made(shutdown_delay=5)
    before = signal.getsignal(signal.SIGTERM)
    with TestClient(app):
        assert signal.getsignal(signal.SIGTERM) is before
        assert told(app) == READY
    assert of_the_delay(caplog) == []


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN, asyncio.gather])
async def test_a_server_without_a_handler(
    handler: Any, caplog: pytest.LogCaptureFixture, restored: None
) -> None:
    """If nothing handles SIGTERM, or an event loop does, the delay is said to have no effect."""
    signal.signal(signal.SIGTERM, handler)
    async with Leaving(2.5).lifespan(None):
        assert signal.getsignal(signal.SIGTERM) is handler
    said = (
        "shutdown_delay=2.5 has no effect: this server does not handle SIGTERM with a "
        "function, as uvicorn does"
    )
    assert of_the_delay(caplog) == [said]


@pytest.fixture
def restored() -> Iterator[None]:
    """Take back what the test does to the handler of SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


async def test_the_signal_comes_later(restored: None, asyncframe: Probe) -> None:
    """The server's handler is called when the delay is over, and at once by a second signal."""
    came: list[float] = []
    clock = asyncframe.clock

    def served(number: int, frame: object) -> None:
        came.append(clock.monotonic())

    signal.signal(signal.SIGTERM, served)
    leaving = Leaving(5.0)
    async with leaving.lifespan(None):
        begun = [leaving.has_begun]
        signal.raise_signal(signal.SIGTERM)
        begun.append(leaving.has_begun)
        assert begun == [False, True]
        await clock.run_for(4.0)
        assert came == []
        signal.raise_signal(signal.SIGTERM)
        assert came == [4.0]
        await clock.run_for(4.0)
    assert came == [4.0, 5.0]
    assert signal.getsignal(signal.SIGTERM) is served


# -- setting up


def test_where_the_routes_are() -> None:
    """The prefix is the user's choice, and so is whether OpenAPI shows the routes."""
    app = made(prefix="", include_in_schema=True)
    with TestClient(app):
        assert told(app, "/ready") == READY
        assert TestClient(app).head("/ready").status_code == 200
    assert sorted(app.openapi()["paths"]) == ["/live", "/ready"]
    assert made().openapi()["paths"] == {}


PATHS = "'' or begin with '/' and not end with it"
PROBLEMS = "among pool, queue, store, broker"


@pytest.mark.parametrize(
    ("parameter", "value", "error", "allowed"),
    [
        ("prefix", 5, TypeError, "a string"),
        ("prefix", "health", ValueError, PATHS),
        ("prefix", "/", ValueError, PATHS),
        ("unready_on", "pool", TypeError, "a collection of strings"),
        ("unready_on", ["disk"], ValueError, PROBLEMS),
        ("shutdown_delay", -1, ValueError, "a number at least 0"),
        ("include_in_schema", 1, TypeError, "True or False"),
    ],
)
def test_bad_parameters(parameter: str, value: Any, error: type[Exception], allowed: str) -> None:
    """A parameter out of range is refused by name, value and what is allowed."""
    shown = value[0] if value == ["disk"] else value
    message = f"{parameter} must be {allowed}, not {shown!r}"
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        health_router(**{parameter: value})
