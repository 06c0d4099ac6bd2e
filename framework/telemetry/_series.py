"""The series on one registry of Prometheus, which all its sinks share.

Lock order: `_LOCK` guards the table of registries. The lock of a `Series` guards its managers
and names; those of ``prometheus_client`` and of the parts of a manager are taken under it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from framework._manager.core import Core
from framework._manager.inside import core_of
from framework._records.records import TaskEvent
from framework._records.statuses import END_KINDS, TaskStatus
from framework.telemetry._figures import FIGURE, Figure, Readings, figures_of, labels_of
from framework.telemetry._processes import Published, Refresh, are_several, forget_dead_processes

if TYPE_CHECKING:
    from framework._manager.face.manager import TaskManager

PREFIX: Final = "asyncframe_"

OTHER: Final = "other"
"""The name of the tasks whose own one is one too many."""


class Named:
    """The series of the tasks of one name.

    All exist from the first task on, since a rate misses the step from nothing to 1.
    """

    __slots__ = ("ended", "events", "run", "wait")

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.ended = {
            one.value: metrics.ended.labels(name, one.value) for one in TaskStatus if one.is_final
        }
        self.events = {kind: metric.labels(name) for kind, metric in metrics.events.items()}
        self.wait = metrics.wait.labels(name)
        self.run = metrics.run.labels(name)


class Metrics:
    """The metrics that have a name of a task as a label.

    Args:
        registry: Where they are registered.
        buckets: The upper bounds of the histograms' buckets.
    """

    def __init__(self, registry: CollectorRegistry, buckets: tuple[float, ...]) -> None:
        def counter(name: str, text: str, *more: str) -> Counter:
            return Counter(PREFIX + name, text, ("name", *more), registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(PREFIX + name, text, ("name",), registry=registry, buckets=buckets)

        self.ended = counter("tasks_ended", "Tasks that have ended, by their status.", "status")
        self.events = {
            "submitted": counter("tasks_submitted", "Tasks that were submitted."),
            "retrying": counter("task_retries", "Attempts that failed and are made again."),
            "throttled": counter("throttled_calls", "Calls that a throttle refused or delayed."),
            "sleeping": counter("task_sleeps", "Waits of tasks for a time or a message."),
            "requeued": counter(
                "tasks_requeued", "Tasks that were taken over from a process that had died."
            ),
            "late_result": counter(
                "late_results", "Results and errors that came after the end of their task."
            ),
        }
        self.wait = histogram(
            "task_wait_seconds", "How long tasks waited for their start, without their delay."
        )
        self.run = histogram("task_run_seconds", "How long tasks ran, all attempts together.")


class Series:
    """The series of tasks on one registry.

    Args:
        registry: The registry.
        buckets: The upper bounds of the histograms' buckets.
        max_names: How many names have series of their own.
    """

    def __init__(
        self, registry: CollectorRegistry, buckets: tuple[float, ...], max_names: int
    ) -> None:
        self.buckets = buckets
        self.max_names = max_names
        self._lock = threading.Lock()
        self._metrics = Metrics(registry, buckets)
        self._names: dict[str, Named] = {}
        self._managers: dict[Core, Attached] = {}
        # What the managers have counted that are not attached any more.
        self._before: Readings = {}
        self._published = Published(registry, PREFIX) if are_several() else None
        if self._published is None:
            registry.register(self)

    # -- events

    def _named(self, name: str) -> Named:
        """Return the series of a new name, or those of `OTHER` if there are too many names."""
        with self._lock:
            if len(self._names) >= self.max_names and name not in self._names:
                name = OTHER
            if name not in self._names:
                self._names[name] = Named(self._metrics, name)
            return self._names[name]

    def note(self, event: TaskEvent) -> None:
        """Count an event, and time the end of a task."""
        named = self._names.get(event.name) or self._named(event.name)
        if event.kind in named.events:
            named.events[event.kind].inc()
            return
        named.ended[event.status or ""].inc()
        if event.wait_time is not None and event.duration is not None:
            named.wait.observe(event.wait_time)
            named.run.observe(event.duration)

    # -- managers

    def attach(self, manager: TaskManager, interval: float) -> Callable[[], None]:
        """Report on a manager; see `PrometheusSink.attach`."""
        core = core_of(manager)
        with self._lock:
            attached = self._managers.get(core)
            if attached is None:
                attached = self._managers[core] = Attached(core)
                kinds = {*self._metrics.events, *END_KINDS}
                attached.end.callback(manager.subscribe(self.note, kinds=kinds))
                if self._published is not None:
                    refresh = Refresh(core.clock, interval, self._publish)
                    attached.end.callback(refresh.stop)
            token = object()
            attached.tokens.add(token)
        self._publish()

        def detach() -> None:
            with self._lock:
                attached.tokens.discard(token)
                if not attached.tokens and self._managers.get(core) is attached:
                    self._forget(core)
            self._publish()

        return detach

    def _forget(self, core: Core) -> None:
        """Report no more on a manager; called with the lock held."""
        attached = self._managers.pop(core)
        attached.read()
        for key, counted in attached.counted.items():
            self._before[key] = self._before.get(key, 0) + counted
        attached.end.close()

    def _publish(self) -> None:
        """Write the figures for other processes, if there are any."""
        if self._published is not None:
            self._published.write(self.figures())
            forget_dead_processes()

    def figures(self) -> Readings:
        """Return the figures of all managers together."""
        with self._lock:
            for core in [one for one in self._managers if one.ledger.has_ended]:
                self._forget(core)  # of a framework that has stopped, and nobody has detached
            read = [attached.read() for attached in self._managers.values()]
            found = self._before.copy()
        for figures in read:
            for key, value in figures.items():
                if FIGURE[key[0]].largest:
                    found[key] = max(value, found.get(key, value))
                else:
                    found[key] = found.get(key, 0) + value
        return found

    # -- the collector of a registry that is read, which has no files

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values, so that none is registered twice."""
        return [_metric(figure) for figure in FIGURE.values()]

    def collect(self) -> Iterable[Metric]:
        """Return the metrics that have a value."""
        metrics: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for (name, schedule), value in self.figures().items():
            if name not in metrics:
                metrics[name] = _metric(FIGURE[name])
            metrics[name].add_metric([schedule] if schedule else [], value)
        return metrics.values()


class Attached:
    """A manager that is reported on.

    Args:
        core: Its core.

    Attributes:
        tokens: One for each `Series.attach` that was not undone.
        counted: The figures that grow, counted since it was attached.
        end: Undoes what was done when it was attached.
    """

    def __init__(self, core: Core) -> None:
        self.tokens: set[object] = set()
        self.end = ExitStack()
        self._core = core
        self._start = figures_of(core)
        self.counted = {key: 0.0 for key in self._start if FIGURE[key[0]].grows}

    def read(self) -> Readings:
        """Return the figures of the manager."""
        found = figures_of(self._core)
        for key in self.counted:
            since = found[key] - self._start[key]
            # A closed store counts from 0 again.
            self.counted[key] = found[key] = max(since, self.counted[key])
        return found


def _metric(figure: Figure) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if figure.grows else GaugeMetricFamily
    return kind(PREFIX + figure.name, figure.text, labels=labels_of(figure))


_LOCK = threading.Lock()

# The registries are global, and refuse the same metric a second time.
_SERIES: WeakKeyDictionary[CollectorRegistry, Series] = WeakKeyDictionary()


def series_on(registry: CollectorRegistry, buckets: tuple[float, ...], max_names: int) -> Series:
    """Return the series on a registry, which are made if there are none yet.

    Raises:
        ValueError: If there are some that were made with other arguments.
    """
    with _LOCK:
        series = _SERIES.get(registry)
        if series is None:
            series = _SERIES[registry] = Series(registry, buckets, max_names)
    for name, given in (("buckets", buckets), ("max_names", max_names)):
        known = getattr(series, name)
        if known != given:
            raise ValueError(
                f"{name} must be {known!r}, as an earlier PrometheusSink has on this registry, "
                f"not {given!r}: use the same everywhere, or another registry"
            )
    return series
