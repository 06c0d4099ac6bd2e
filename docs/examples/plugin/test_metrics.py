"""Test what is counted, in a registry of the test's own."""

from prometheus_client import CollectorRegistry

from framework import background_task
from framework.telemetry.prometheus import PrometheusSink
from pytest_asyncframe.probe import Probe


@background_task(name="ship")
async def ship(order: str) -> None:
    """Ship an order."""


async def test_ship_is_counted(asyncframe: Probe) -> None:
    """Virtual time does not pass while an order is shipped."""
    registry = CollectorRegistry()
    asyncframe.manager.subscribe(PrometheusSink(registry))
    await asyncframe.completed(ship("7"))
    labels = {"name": "ship", "status": "completed"}
    assert registry.get_sample_value("asyncframe_tasks_ended_total", labels) == 1
    assert registry.get_sample_value("asyncframe_task_run_seconds_sum", {"name": "ship"}) == 0
