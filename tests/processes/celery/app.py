"""The app that workers of the tests run: its engine, and the modules with tasks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from celery import Celery, signals
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from framework.engines.celery import CeleryEngine, _settings
from framework.engines.celery._publishing import recovery
from framework.telemetry.opentelemetry import OpenTelemetrySink
from framework.worker import _outpost
from tests.processes.celery import depends as celery_depends
from tests.processes.celery import tasks as celery_tasks
from tests.processes.conformance import tasks

__all__ = ["celery_app", "celery_depends", "celery_tasks", "engine", "tasks"]


def make(url: str, name: str = "processes", **options: Any) -> CeleryEngine:
    """Return an engine as the tests' workers have it."""
    app = Celery(name, broker=url)
    app.conf.update(worker_hijack_root_logger=False, worker_send_task_events=False)
    given = {
        "default_limit": 15.0,
        "max_limit": 60.0,
        "functions": [celery_tasks.plain, celery_tasks.tick],
    }
    return CeleryEngine(app, **{**given, **options})


def _number(name: str, default: float) -> float:
    return float(os.environ.get(f"ASYNCFRAME_TEST_{name}", default))


class Exporter(SpanExporter):
    """Puts the spans of the task `traced` into a list in Redis, as JSON."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Put them there; the list is named after the task."""
        for span in spans:
            if span.name.endswith("traced"):
                told = dict(span.attributes or {})
                celery_tasks.tell(f"spans:{told['messaging.message.id']}", span.to_json())
        return SpanExportResult.SUCCESS


_provider = TracerProvider()
_provider.add_span_processor(SimpleSpanProcessor(Exporter()))


# A worker whose death is to be noticed within a test is given less time.
_settings.MARGIN = _number("MARGIN", _settings.MARGIN)  # type: ignore[misc]  # final elsewhere
_settings.HOLD = _number("HOLD", _settings.HOLD)  # type: ignore[misc]  # as above
recovery.EVERY = _number("EVERY", recovery.EVERY)  # type: ignore[misc]  # as above

if "ASYNCFRAME_TEST_IMPATIENT" in os.environ:
    _outpost._PAUSES = (0.05,)  # type: ignore[misc,assignment]  # as above

_redis = os.environ.get("ASYNCFRAME_TEST_REDIS", "redis://127.0.0.1:1/0")
engine = make(
    os.environ.get("ASYNCFRAME_TEST_BROKER", _redis),
    state_url=_redis,
    max_limit=_number("MAX_LIMIT", 60.0),
    default_limit=(
        None if "ASYNCFRAME_TEST_DEFAULT" in os.environ else min(15.0, _number("MAX_LIMIT", 60.0))
    ),
    queue=os.environ.get("ASYNCFRAME_TEST_QUEUE"),
    namespace=os.environ.get("ASYNCFRAME_TEST_NAMESPACE"),
    allow_soft_limits="ASYNCFRAME_TEST_SOFT" in os.environ,
    worker_telemetry=[OpenTelemetrySink(_provider)],
)
celery_app = engine.app
if "ASYNCFRAME_TEST_MOST" in os.environ:
    celery_app.conf.task_queue_max_priority = int(os.environ["ASYNCFRAME_TEST_MOST"])
if "ASYNCFRAME_TEST_BACKEND" in os.environ:
    celery_app.conf.result_backend = _redis
if "ASYNCFRAME_TEST_POLLING" in os.environ:
    celery_app.conf.broker_transport_options = {"polling_interval": _number("POLLING", 1.0)}
if "ASYNCFRAME_TEST_VISIBILITY" in os.environ:
    celery_app.conf.broker_transport_options = {"visibility_timeout": _number("VISIBILITY", 0.0)}


@signals.worker_ready.connect
def tell_ready(**_: Any) -> None:
    """Say that the worker takes tasks."""
    writing = os.environ.pop("ASYNCFRAME_TEST_READY", None)
    if writing is not None:
        os.write(int(writing), b"r")
        os.close(int(writing))
