"""The Celery app of the stage on workers; they import it, and so does who submits."""

from __future__ import annotations

import os

from celery import Celery, signals

from framework.engines.celery import CeleryEngine
from tests.benchmarks import stages

celery_app = Celery("stages", broker=os.environ["STAGES_BROKER"])
engine = CeleryEngine(celery_app, default_limit=stages.LIMIT, queue_size=100_000)


@signals.worker_ready.connect
def ready(**_: object) -> None:
    """Tell the benchmark that tasks may come."""
    os.write(int(os.environ["STAGES_READY"]), b"x")
