"""What metrics count of tasks, on every backend."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry

from framework import TaskManager, TaskTimeoutError
from framework.telemetry.prometheus import PrometheusSink
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import Backend

pytestmark = pytest.mark.extended("time")

ERRORS = (ValueError, TaskTimeoutError)


async def test_a_known_load(backend: Backend, manager: TaskManager) -> None:
    """Each task counts once when it is submitted and once when it ends, and its run is timed."""
    registry = CollectorRegistry()
    PrometheusSink(registry).attach(manager)
    gate = backend.gate()

    def value(metric: str, function: str, **labels: str) -> float | None:
        name = f"tests.processes.conformance.tasks.{function}"
        return registry.get_sample_value(f"asyncframe_{metric}", {"name": name, **labels})

    ids: list[str] = [tasks.add(number) for number in range(5)]
    ids += [tasks.fail() for _ in range(2)]
    ids += [tasks.flaky(2), tasks.hold.options(timeout=0.5)(gate.path)]
    delayed = tasks.nothing.options(delay=600)()
    assert await manager.cancel_task(delayed)
    for task_id in ids:
        with suppress(*ERRORS):
            await manager.get_result(task_id, timeout=PATIENCE)
    # What a worker reports of retries may come after the result.
    async with asyncio.timeout(PATIENCE):
        while value("task_retries_total", "flaky") != 2.0:
            await manager.get_result(tasks.nothing(), timeout=PATIENCE)

    assert value("tasks_submitted_total", "add") == 5.0
    assert value("tasks_ended_total", "add", status="completed") == 5.0
    assert value("tasks_ended_total", "fail", status="failed") == 2.0
    assert value("tasks_ended_total", "flaky", status="completed") == 1.0
    assert value("tasks_ended_total", "hold", status="timeout") == 1.0
    assert value("tasks_ended_total", "nothing", status="cancelled") == 1.0
    assert value("task_run_seconds_count", "add") == 5.0
    assert value("task_wait_seconds_count", "hold") == 1.0
    run = value("task_run_seconds_sum", "hold")
    assert run is not None
    assert run >= 0.5
    assert registry.get_sample_value("asyncframe_tasks_running") == 0.0
    assert registry.get_sample_value("asyncframe_tasks_pending") == 0.0
    assert registry.get_sample_value("asyncframe_tasks_delayed") == 0.0
