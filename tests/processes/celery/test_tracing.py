"""Traces over Celery: what the app and a real worker tell of one task."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from framework import TaskManager, get_task_manager, setup_async_framework
from framework.engines.celery import CeleryEngine
from framework.engines.celery._messages import Message
from framework.telemetry.opentelemetry import OpenTelemetrySink
from tests.patience import PATIENCE
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.app import make
from tests.processes.sharing import RedisDatabase


@pytest.fixture
async def manager(celery_engine: CeleryEngine) -> AsyncIterator[TaskManager]:
    """The manager of a framework whose tasks the worker runs."""
    async with setup_async_framework(None, engine=celery_engine, graceful_shutdown_timeout=1.0):
        yield get_task_manager()


@pytest.fixture
async def lists(celery_redis: RedisDatabase) -> AsyncIterator[Any]:
    """The Redis in whose lists the worker puts its spans."""
    async with redis.asyncio.Redis.from_url(
        celery_redis.url, decode_responses=True, socket_timeout=None
    ) as client:
        yield client


def hexadecimal(span: ReadableSpan) -> tuple[str, str]:
    """Return the trace and the id of a span, as JSON has them."""
    assert span.context is not None
    return f"0x{span.context.trace_id:032x}", f"0x{span.context.span_id:016x}"


async def test_runs_on_a_worker_are_linked_to_the_request(manager: TaskManager, lists: Any) -> None:
    """Each delivery has a span of its own, linked to the submission in the app."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    OpenTelemetrySink(provider).attach(manager)
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    with provider.get_tracer("app").start_as_current_span("request"):
        task_id = celery_tasks.traced("")
    context.detach(token)
    trace_id, tenant = await manager.get_result(task_id, timeout=PATIENCE)
    runs = [
        json.loads((await lists.blpop([f"spans:{task_id}"], timeout=PATIENCE))[1]) for _ in "ab"
    ]

    send, request = exporter.get_finished_spans()
    assert (send.name, request.name) == ("send traced", "request")
    links = [
        (link["context"]["trace_id"], link["context"]["span_id"])
        for (link,) in (run["links"] for run in runs)
    ]
    assert links == [hexadecimal(send)] * 2
    assert [run["parent_id"] for run in runs] == [None, None]
    assert [run["status"]["status_code"] for run in runs] == ["ERROR", "UNSET"]
    assert [event["name"] for event in runs[0]["events"]] == ["retrying", "exception"]
    assert [run["attributes"]["asyncframe.task.attempts"] for run in runs] == [1, 2]
    assert tenant == "acme"
    assert runs[1]["context"]["trace_id"] == f"0x{trace_id}"


async def test_without_a_sink_in_the_app(manager: TaskManager, lists: Any) -> None:
    """A run whose submission was not traced is a trace of its own without a link."""
    task_id = celery_tasks.traced("")
    assert (await manager.get_result(task_id, timeout=PATIENCE))[1] is None
    run = json.loads((await lists.blpop([f"spans:{task_id}"], timeout=PATIENCE))[1])

    assert (run["kind"], run["parent_id"], run["links"]) == ("SpanKind.CONSUMER", None, [])


def test_a_message_of_an_earlier_release() -> None:
    """A message without trace context is read as one that carries nothing."""
    given = Message("1", "f", "f", "", "[]", 0.0, None, None).as_json()
    given.pop("carried", None)

    assert Message.from_json(given).carried == {}


def test_telemetry_must_be_attachable(redis_url: str) -> None:
    """What cannot be attached is refused when the engine is made."""
    with pytest.raises(TypeError) as caught:
        make(redis_url, worker_telemetry=OpenTelemetrySink)
    assert str(caught.value).startswith(
        "worker_telemetry must be a list, such as worker_telemetry=[PrometheusSink()], not "
    )
