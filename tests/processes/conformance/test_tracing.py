"""Traces of tasks, on every backend that can carry them."""

from __future__ import annotations

import pytest
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import TracerProvider

from framework import TaskManager
from framework.telemetry.opentelemetry import OpenTelemetrySink
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import CARRYING
from tests.tiers import back_ends


# The engine of the documentation carries no context to its children.
@pytest.mark.parametrize("backend", back_ends(CARRYING), indirect=True)
async def test_a_run_is_linked_to_its_request(manager: TaskManager) -> None:
    """A run is a trace of its own with a link to that of the caller, whose baggage it has."""
    provider = TracerProvider()
    OpenTelemetrySink(provider).attach(manager)
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    with provider.get_tracer("app").start_as_current_span("request") as request:
        task_ids = [tasks.traced(), tasks.traced_on_loop()]
    context.detach(token)
    caller = f"{request.get_span_context().trace_id:032x}"

    for task_id in task_ids:
        own, linked, tenant = await manager.get_result(task_id, timeout=PATIENCE)
        assert (linked, tenant) == (caller, "acme")
        assert own != caller
