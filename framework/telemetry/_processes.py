"""The figures of several processes, by the files of prometheus_client's multiprocess mode.

Nobody can read a figure from another process when the registry is read. So each process writes
its own to its file now and then. The files of processes that have died are removed.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, values
from prometheus_client.multiprocess import mark_process_dead

from framework._threads.loggers import SafeLogger
from framework._threads.watch.processes import lives
from framework.protocols import Clock, TimerHandle
from framework.telemetry._figures import FIGURE, Figure, Readings, labels_of

_LOGGER = SafeLogger("asyncframe")

_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"


def are_several() -> bool:
    """Return whether prometheus_client writes to files that several processes share.

    Raises:
        ValueError: If it is to, and their folder does not exist.
    """
    if not getattr(values.ValueClass, "_multiprocess", False):
        return False
    folder = os.environ.get(_FOLDER, "")
    if not folder or not Path(folder).is_dir():
        raise ValueError(
            f"{_FOLDER} must name a folder that exists, not {folder!r}: create it before the "
            "server starts, and empty it"
        )
    return True


class Published:
    """The figures of this process in its files.

    Args:
        registry: Where the metrics are registered.
        prefix: The beginning of their names.
    """

    def __init__(self, registry: CollectorRegistry, prefix: str) -> None:
        self._registry = registry
        self._prefix = prefix
        self._lock = threading.Lock()
        self._metrics: dict[str, Counter | Gauge] = {}
        self._written: Readings = {}

    def write(self, figures: Readings) -> None:
        """Write all figures; one that was there before and is missing now is 0."""
        with self._lock:
            for key in self._written | figures:
                name, schedule = key
                metric, value = self._metric(FIGURE[name]), figures.get(key, 0)
                one = metric.labels(schedule) if schedule else metric
                if isinstance(one, Gauge):
                    one.set(value)
                    self._written[key] = value
                else:
                    known = self._written.get(key, 0)
                    one.inc(max(0, value - known))
                    self._written[key] = max(value, known)

    def _metric(self, figure: Figure) -> Counter | Gauge:
        """Return a figure's metric, made when it is first written, since that writes a 0."""
        if figure.name not in self._metrics:
            name, labels = self._prefix + figure.name, labels_of(figure)
            self._metrics[figure.name] = (
                Counter(name, figure.text, labels, registry=self._registry)
                if figure.grows
                else Gauge(
                    name,
                    figure.text,
                    labels,
                    registry=self._registry,
                    multiprocess_mode="livemax" if figure.largest else "livesum",
                )
            )
        return self._metrics[figure.name]


class Refresh:
    """Calls a function again and again on the clock of a manager.

    Args:
        clock: The clock.
        interval: Seconds before each call, above 0.
        call: The function; may raise an error, which is logged.
    """

    def __init__(self, clock: Clock, interval: float, call: Callable[[], None]) -> None:
        self._clock = clock
        self._interval = interval
        self._call = call
        self._fails = self._stopped = False
        self._timer: TimerHandle | None = None
        self._set()

    def _set(self) -> None:
        when = self._clock.monotonic() + self._interval
        self._timer = timer = self._clock.call_at(when, self._fire, background=True)
        # For this order: 1 it fires, 2 another thread stops it, 3 it is set again here.
        if self._stopped:
            timer.cancel()

    def _fire(self) -> None:
        try:
            self._call()
        except Exception:  # such as a full disk, which must not end the clock's thread
            if not self._fails:
                _LOGGER.exception("metrics could not be written; this is tried again")
            self._fails = True
        else:
            self._fails = False
        if not self._stopped:
            self._set()

    def stop(self) -> None:
        """Call it no more; may be called twice."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()


def forget_dead_processes() -> None:
    """Remove the gauges of processes that have died, which would be added up for ever."""
    if sys.platform == "win32":  # where signal 0 ends a process
        return
    files = Path(os.environ.get(_FOLDER, "")).glob("gauge_live*_*.db")
    numbers = {file.stem.rpartition("_")[2] for file in files}
    for number in numbers:
        if number.isdecimal() and not lives(int(number)):
            # Another process may be doing the same.
            with suppress(FileNotFoundError):
                mark_process_dead(number)
