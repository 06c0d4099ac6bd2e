"""Two Celery apps on one broker: a bare one, and one with the engine. Workers import them."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, signals

from framework import background_task
from framework.engines.celery import CeleryEngine

BROKER, REDIS = "BENCHMARKS_BROKER", "BENCHMARKS_REDIS"
"""Variables of the environment with the URLs of the broker, and of the Redis with the results."""

bare: Any = Celery("bare", broker=os.environ[BROKER], backend=os.environ[REDIS])
bare.conf.update(task_default_queue="bare", worker_hijack_root_logger=False)

app: Any = Celery("engine", broker=os.environ[BROKER])
app.conf.update(worker_hijack_root_logger=False)
engine = CeleryEngine(
    app, default_limit=60.0, queue_size=10_000, state_url=os.environ[REDIS], queue="engine"
)


@bare.task(name="bare.number")
def bare_number(number: int) -> int:
    """Return the number."""
    return number


@background_task
def number(number: int) -> int:
    """Return the number."""
    return number


@signals.worker_ready.connect
def tell_ready(**_: object) -> None:
    """Tell who has started this worker that it takes tasks."""
    writing = os.environ.pop("ASYNCFRAME_TEST_READY", None)
    if writing is not None:
        os.write(int(writing), b"r")
        os.close(int(writing))
