"""Trace tasks with OpenTelemetry, and see their spans in a test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from framework import TaskId, background_task, get_task_manager, setup_async_framework
from framework.telemetry.opentelemetry import OpenTelemetrySink

exporter = InMemorySpanExporter()  # in production one that sends spans, such as OTLPSpanExporter
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
tracer = provider.get_tracer("shop")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Trace all tasks of the app."""
    async with setup_async_framework(app, telemetry=[OpenTelemetrySink(provider)]):
        yield


app = FastAPI(lifespan=lifespan)


@background_task(name="ship")
def ship(order: str) -> str:
    """Make a span; it belongs to the span of the task."""
    with tracer.start_as_current_span("print label", attributes={"order": order}):
        return f"{trace.get_current_span().get_span_context().trace_id:032x}"


@app.post("/orders", status_code=202)
def create(order: str) -> TaskId[str]:
    """Submit a task inside the span of the request."""
    with tracer.start_as_current_span("POST /orders"):
        return ship(order)


def test_spans() -> None:
    """The request has a span for the submission, and the task has a trace of its own."""
    with TestClient(app) as client:
        task_id = client.post("/orders", params={"order": "A1"}).json()
        trace_id = get_task_manager().wait_result(task_id)
    spans = {span.name: span for span in exporter.get_finished_spans()}

    assert set(spans) == {"POST /orders", "send ship", "process ship", "print label"}
    sent, (link,) = spans["send ship"].get_span_context(), spans["process ship"].links
    assert sent is not None
    assert link.context.span_id == sent.span_id
    assert f"{link.context.trace_id:032x}" != trace_id
