"""Metrics of tasks for Prometheus; needs the extra ``metrics`` of asyncframe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING

if find_spec("prometheus_client") is None:
    raise ImportError(
        "metrics for Prometheus need prometheus_client: install the extra 'metrics' of asyncframe"
    )

from prometheus_client import REGISTRY, CollectorRegistry

from framework._records import checks, exports
from framework.telemetry._series import series_on

if TYPE_CHECKING:
    from framework._manager.face.manager import TaskManager

__all__ = ["BUCKETS", "PrometheusSink"]

BUCKETS = (
    *(0.001, 0.005, 0.01, 0.05, 0.1, 0.5),
    *(1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0),
)
"""The upper bounds of the buckets of wait and run times, in seconds, unless you choose others."""


class PrometheusSink:
    """Counts and times the tasks of an app in the registry of ``prometheus_client``.

    Pass it to ``setup_async_framework(app, telemetry=[PrometheusSink()])``, and serve the
    registry with ``app.mount("/metrics", prometheus_client.make_asgi_app())``.

    Counters and histograms have the label ``name``, the name of the task. Gauges are computed
    when the registry is read. With ``PROMETHEUS_MULTIPROC_DIR`` no process can ask another one,
    so each writes its gauges every *refresh_interval* seconds.

    Sinks with the same registry count in the same metrics. So several apps, or one that starts
    again, are no problem.

    Args:
        registry: Where the metrics are registered; None for ``prometheus_client.REGISTRY``.
        buckets: The upper bounds of the histograms' buckets, in ascending seconds above 0.
        max_names: How many names of tasks have series of their own in each process, 1 or more.
            Later ones are counted as ``other``.
        refresh_interval: Seconds or a timedelta between two writes of the gauges, above 0. Only
            for several processes.

    Raises:
        TypeError: If a parameter is of the wrong type.
        ValueError: If a number is out of range, or *buckets* or *max_names* differ from those
            of an earlier sink with the same registry.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        buckets: Sequence[float] = BUCKETS,
        max_names: int = 200,
        refresh_interval: float | timedelta = 5.0,
    ) -> None:
        if registry is not None and not isinstance(registry, CollectorRegistry):
            raise TypeError(
                f"registry must be a CollectorRegistry or None, not {checks.show(registry)}"
            )
        self._interval = checks.seconds("refresh_interval", refresh_interval, above=0)
        self._series = series_on(
            REGISTRY if registry is None else registry,
            _checked_buckets(buckets),
            checks.integer("max_names", max_names, at_least=1),
        )

    def attach(self, manager: TaskManager) -> Callable[[], None]:
        """Count and time the tasks of *manager* from now on; on any thread.

        Attaching it, or another sink with the same registry, to a manager again changes
        nothing.

        Returns:
            A function that detaches it; may be called twice.
        """
        return self._series.attach(manager, self._interval)


def _checked_buckets(buckets: object) -> tuple[float, ...]:
    if not isinstance(buckets, (list, tuple)) or not buckets:
        raise TypeError(f"buckets must be a list of numbers above 0, not {checks.show(buckets)}")
    bounds = tuple(checks.number("buckets", one, above=0) for one in buckets)
    if any(one >= other for one, other in pairwise(bounds)):
        raise ValueError(f"buckets must be in ascending order, not {checks.show(buckets)}")
    return bounds


exports.pin(globals())
