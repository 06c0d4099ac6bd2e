"""An app as it is deployed: settings from the environment, health checks and metrics."""

import os
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, make_asgi_app, multiprocess

from framework import TaskId, background_task, setup_async_framework
from framework.http import health_router
from framework.stores.sql import SQLStore
from framework.telemetry.prometheus import PrometheusSink


def setting(name: str, default: float) -> float:
    """Return a number from the environment."""
    return float(os.environ.get(name, default))


def metrics() -> Any:
    """Return an app that shows the metrics, of all worker processes if there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return make_asgi_app()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return make_asgi_app(registry)


url = os.environ.get("DATABASE_URL")
app = FastAPI(
    lifespan=setup_async_framework(
        store=None if url is None else SQLStore(url),
        graceful_shutdown_timeout=setting("TASK_GRACE", 20),
        telemetry=[PrometheusSink()],
    )
)
app.mount("/metrics", metrics())
app.include_router(health_router(shutdown_delay=setting("SHUTDOWN_DELAY", 0)))


@background_task(name="ship")
def ship(order: str) -> str:
    """Ship an order."""
    return f"shipped {order}"


@app.post("/orders/{order}", status_code=202)
async def create(order: str) -> TaskId[str]:
    """Ship an order in the background."""
    return ship(order)


def test_an_order() -> None:
    """The app takes orders, is ready, and counts them."""
    with TestClient(app) as client:
        task_id = client.post("/orders/7").json()
        assert app.state.task_manager.wait_result(task_id, timeout=60) == "shipped 7"
        assert client.get("/health/ready").json()["status"] == "ready"
        assert 'asyncframe_tasks_submitted_total{name="ship"}' in client.get("/metrics").text
