"""Metrics for Prometheus, in one process or in several, and health checks."""

import os
import tempfile
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, make_asgi_app, multiprocess

from framework import TaskId, background_task, setup_async_framework
from framework.http import health_router
from framework.telemetry.prometheus import PrometheusSink

app = FastAPI(lifespan=setup_async_framework(telemetry=[PrometheusSink()]))
app.mount("/metrics", make_asgi_app())
app.include_router(health_router())


@background_task(name="ship")
def ship(order: str) -> str:
    """Ship an order."""
    return f"shipped {order}"


@app.post("/orders/{order}", status_code=202)
async def create(order: str) -> TaskId[str]:
    """Ship an order in the background."""
    return ship(order)


def metrics_of_all_workers() -> Any:
    """Return an app that shows the metrics of all worker processes together."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return make_asgi_app(registry)


def test_metrics() -> None:
    """A task that has ended is counted by its name and status."""
    with TestClient(app) as client:
        app.state.task_manager.wait_result(client.post("/orders/7").json(), timeout=60)
        text = client.get("/metrics").text
    assert 'asyncframe_tasks_ended_total{name="ship",status="completed"} ' in text
    assert "asyncframe_tasks_pending 0.0" in text


def test_health() -> None:
    """A running app is alive and ready."""
    with TestClient(app) as client:
        assert client.get("/health/live").json() == {"status": "alive"}
        assert client.get("/health/ready").json() == {"status": "ready", "problems": {}}


def test_metrics_of_all_workers() -> None:
    """The processes share a folder, which the environment names."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "PROMETHEUS_MULTIPROC_DIR", folder)
        assert TestClient(metrics_of_all_workers()).get("/").status_code == 200
