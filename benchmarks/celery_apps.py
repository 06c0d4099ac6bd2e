"""Celery apps on one broker: bare ones, and one with the engine. Workers import them."""

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

# What it offers itself of what the engine promises: limits, messages that outlive a worker and are
# confirmed, and the start of a task as a state.
safe: Any = Celery("safe", broker=os.environ[BROKER], backend=os.environ[REDIS])
safe.conf.update(
    task_default_queue="safe",
    worker_hijack_root_logger=False,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_track_started=True,
    task_time_limit=60,
)
if os.environ[BROKER].startswith("amqp"):
    safe.conf.broker_transport_options = {"confirm_publish": True}

app: Any = Celery("engine", broker=os.environ[BROKER])
app.conf.update(worker_hijack_root_logger=False)
engine = CeleryEngine(
    app, default_limit=60.0, queue_size=10_000, state_url=os.environ[REDIS], queue="engine"
)


@bare.task(name="bare.number")
def bare_number(number: int) -> int:
    """Return the number."""
    return number


@safe.task(name="safe.number")
def safe_number(number: int) -> int:
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
