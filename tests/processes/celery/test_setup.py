"""The extra stays an extra, and the documented app works as it stands."""

from __future__ import annotations

import importlib.util
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery
from celery.utils.imports import symbol_by_name

import framework.worker
from framework.engines.celery import _worker_side
from framework.engines.celery._settings import levels
from tests.children import python
from tests.processes.celery.workers import CeleryWorker
from tests.processes.servers import RedisServer

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"

_ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("celery", "kombu", "redis", "billiard"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import framework, framework.testing, framework.protocols
try:
    import %s
except ImportError as error:
    print(error)
"""


@pytest.mark.extended("servers")
def test_without_the_extra() -> None:
    """Without Celery the framework works, and the engine says which extra to install."""
    for module in ("framework.engines.celery", "framework.worker"):
        said = python("-c", _ABSENT % module).stdout
        assert said.strip().endswith("install the extra 'celery' of asyncframe"), module


@pytest.mark.extended("servers")
def test_framework_imports_neither() -> None:
    """Importing the framework loads neither Celery nor the Redis client."""
    program = "import sys, framework; print({'celery', 'kombu', 'redis'} & set(sys.modules))"
    assert python("-c", program).stdout.strip() == "set()"


def test_the_workers_side_is_found_by_its_names() -> None:
    """Every name by which the engine finds the worker's side stands for something there."""
    assert {"deliver", *_worker_side.SIGNALS} == set(framework.worker.__all__)
    assert symbol_by_name(_worker_side.REQUEST).__name__ == "RemoteRequest"


def test_a_broker_has_as_many_priorities_as_it_is_given() -> None:
    """The highest of Redis' steps come first; fewer than three are too few."""
    app = Celery(broker="redis://nowhere")
    found = {}
    for steps in ([0, 9], [6, 0, 3], [0, 1, 2, 3]):
        app.conf.broker_transport_options = {"priority_steps": steps}
        found[len(steps)] = levels(app)
    assert found == {2: (), 3: (0, 3, 6), 4: (0, 1, 2)}


async def test_documented_app(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app of the how-to page answers with what a worker made, typed."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    environment = {"REDIS_URL": redis_url, "PYTHONPATH": str(EXAMPLES)}
    worker = CeleryWorker("on_celery:celery_app", redis_url, environment=environment)
    # It tells nobody when it is ready, and need not: the message waits for it.
    try:
        worker.begin()
        app = _example(monkeypatch).app
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                started = await client.post("/reports", params={"title": "sales"})
                assert started.status_code == 202
                read = await client.get(started.headers["location"], params={"wait": 60})
                assert read.json()["result"] == {"title": "sales", "pages": 3}
    finally:
        worker.close()


def _example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the documented module by its own name, as a worker does."""
    spec = importlib.util.spec_from_file_location("on_celery", EXAMPLES / "on_celery.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "on_celery", module)
    spec.loader.exec_module(module)
    return module


def test_worker_waits_for_redis(redis_server: RedisServer) -> None:
    """A worker that is started before its Redis takes tasks once that has come."""
    redis_server.stop()
    with closing(CeleryWorker("tests.processes.celery.app:celery_app", redis_server.url)) as worker:
        ready = worker.begin()
        worker.saw("Trying again in")
        redis_server.start()
        assert os.read(ready, 1) == b"r"
