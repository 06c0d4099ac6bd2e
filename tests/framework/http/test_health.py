"""What load balancers and supervisors are told about an app."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import replace
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
from tests.framework.http.refused import Refusal, not_refused


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
            said = rf"^task '{task_id}' \(stuck\) ran past its time limit of 1 s$"
            with pytest.raises(TaskTimeoutError, match=said):
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
def test_problems_that_others_may_share(
    monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    """A problem that is not chosen is told with 200, a chosen one with 503; none tells details."""
    app = FastAPI(lifespan=setup_async_framework(queue_size=1, graceful_shutdown_timeout=0))
    app.include_router(health_router(unready_on=[]))
    app.include_router(health_router(prefix="/strict", unready_on=[name]))
    with TestClient(app):
        manager: TaskManager = app.state.task_manager
        if name == "queue":
            manager.submit_nowait(int, delay=3_600)
            with pytest.raises(
                QueueFullError,
                match=r"^the task queue is full: 1 tasks are waiting; try again in 1 s, or "
                r"increase 'queue_size' or 'max_workers'$",
            ):
                manager.submit_nowait(int)
        elif name == "store":
            ledger = manager._core.ledger
            failing = replace(ledger.features, fallible=FailingStore("at db.internal"))
            monkeypatch.setattr(ledger, "features", failing)
        else:
            unheard = replace(manager._core.abilities, fallible=FailingStore("at mq.internal"))
            monkeypatch.setattr(manager._core, "abilities", unheard)
        problems = {name: sentence}
        assert told(app) == (200, {"status": "ready", "problems": problems})
        assert told(app, "/strict/ready") == (503, {"status": "unready", "problems": problems})
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


async def test_a_server_without_a_handler(caplog: pytest.LogCaptureFixture, restored: None) -> None:
    """If nothing handles SIGTERM, or an event loop does, the delay is said to have no effect."""
    handlers: tuple[Any, ...] = (signal.SIG_DFL, signal.SIG_IGN, asyncio.gather)
    for handler in handlers:
        signal.signal(signal.SIGTERM, handler)
        async with Leaving(2.5).lifespan(None):
            assert signal.getsignal(signal.SIGTERM) is handler
    said = (
        "shutdown_delay=2.5 has no effect: this server does not handle SIGTERM with a "
        "function, as uvicorn does"
    )
    assert of_the_delay(caplog) == [said] * len(handlers)


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


BAD_PARAMETERS: list[Refusal] = [
    ({"prefix": 5}, TypeError, "prefix must be a string, not 5"),
    ({"prefix": "health"}, ValueError, f"prefix must be {PATHS}, not 'health'"),
    ({"prefix": "/"}, ValueError, f"prefix must be {PATHS}, not '/'"),
    ({"unready_on": "pool"}, TypeError, "unready_on must be a collection of strings, not 'pool'"),
    ({"unready_on": ["disk"]}, ValueError, f"unready_on must be {PROBLEMS}, not 'disk'"),
    (
        {"shutdown_delay": -1},
        ValueError,
        "shutdown_delay must be a number at least 0 or a timedelta, not -1",
    ),
    ({"include_in_schema": 1}, TypeError, "include_in_schema must be True or False, not 1"),
]


def test_bad_parameters() -> None:
    """A parameter out of range is refused by name, value and what is allowed."""
    assert not_refused(health_router, BAD_PARAMETERS) == []
