"""The trace of a task that another process runs after the end of its own."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from sqlalchemy.orm import Session

from framework import background_task, get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore
from framework.telemetry.opentelemetry import OpenTelemetrySink
from tests.patience import PATIENCE

pytestmark = pytest.mark.extended("time")


@background_task(name="traced over a restart", on_restart="requeue", timeout=30.0)
def ship(order: str) -> list[str]:
    """Return the spans that the current one is linked to."""
    return [f"{link.context.trace_id:032x}" for link in trace.get_current_span().links]  # type: ignore[attr-defined]  # of a span of the SDK


async def test_the_link_survives_a_restart(sqlite_url: str) -> None:
    """A run in a later process is linked to the trace of the request that submitted it."""
    provider = TracerProvider()
    tracer, telemetry = provider.get_tracer("app"), [OpenTelemetrySink(provider)]
    async with setup_async_framework(None, store=SQLStore(sqlite_url), telemetry=telemetry):
        with tracer.start_as_current_span("request") as request:
            task_id = ship.options(delay=0.2)("A1")
    async with setup_async_framework(None, store=SQLStore(sqlite_url), telemetry=telemetry):
        linked = await get_task_manager().get_result(task_id, timeout=PATIENCE)

    assert linked == [f"{request.get_span_context().trace_id:032x}"]


async def test_the_link_survives_a_transaction(sqlite_url: str) -> None:
    """A task that a transaction brings is linked to the trace of the request around it."""
    provider, engine = TracerProvider(), sa.create_engine(sqlite_url)
    tracer, telemetry = provider.get_tracer("app"), [OpenTelemetrySink(provider)]
    async with setup_async_framework(None, store=SQLStore(sqlite_url), telemetry=telemetry):
        with tracer.start_as_current_span("request") as request, Session(engine) as session:
            task_id = ship.options(session=session)("A1")
            session.commit()
        linked = await get_task_manager().get_result(task_id, timeout=PATIENCE)
    engine.dispose()

    assert linked == [f"{request.get_span_context().trace_id:032x}"]
