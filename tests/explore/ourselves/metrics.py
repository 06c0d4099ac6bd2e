"""What shares the metrics of a registry: sinks that are made and attached at once."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from framework.telemetry._processes import Published
from framework.telemetry._series import PREFIX, Series, series_on
from framework.telemetry.prometheus import BUCKETS
from tests.explore.ourselves.run import Run


def attach_twice(run: Run) -> None:
    """Two apps attach their sinks to one manager: it is counted once, until both have gone."""
    manager, series = run.manager(1), Series(CollectorRegistry(), BUCKETS, 10)
    detach: list[Callable[[], None]] = []

    def attach() -> None:
        detach.append(series.attach(manager, 5.0))

    run.together(attach, attach)
    assert len(manager._core.ledger.sinks["submitted"]) == 2, "the run's own, and the series'"
    run.together(*detach)
    assert len(manager._core.ledger.sinks["submitted"]) == 1


def make_twice(run: Run) -> None:
    """Two apps make sinks for one registry: both have the same series."""
    registry = CollectorRegistry()
    found: list[Series] = []

    def make() -> None:
        found.append(series_on(registry, BUCKETS, 10))

    run.together(make, make)
    assert found[0] is found[1]


def write_twice(run: Run) -> None:
    """The timers of two managers write at once: what has grown is added once."""
    registry = CollectorRegistry()
    published = Published(registry, PREFIX)

    def write() -> None:
        published.write({("tasks_rejected", ""): 3.0})

    run.together(write, write)
    assert registry.get_sample_value("asyncframe_tasks_rejected_total") == 3.0


SCENARIOS: list[Callable[[Run], None]] = [attach_twice, make_twice, write_twice]
