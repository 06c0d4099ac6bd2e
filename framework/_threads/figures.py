"""Figures of a pool, read under its lock, and the summary of a list of durations."""

from __future__ import annotations

import math
from typing import Any

from framework._records.statuses import FINAL, TRAITS
from framework._threads.crew import Crew
from framework._threads.pool_threads import Item


def pool_figures(crew: Crew) -> dict[str, Any]:
    """Return the figures of a pool; see `ThreadPoolExecutorEnhanced.get_stats`."""
    with crew.lock:
        ended = crew.ended.copy()
        fresh: list[Item] = []
        for thread in crew.threads:
            counts, uncounted = thread.tally()
            fresh += uncounted
            for status, count in counts.items():
                ended[status] += count
        for item in fresh:
            ended[item.status] += 1
        timings = [*crew.timings, *map(_timing, fresh)]
        figures: dict[str, Any] = thread_figures(crew)
        figures["submitted"] = crew.submitted
        figures["rejected"] = crew.rejected
        cancelled = crew.cancelled
    figures |= {"completed": 0, "failed": 0, "cancelled": cancelled, "timed_out": 0}
    for status in FINAL:
        figures[TRAITS[status].figure or TRAITS[status].event] += ended[status]
    figures["wait_time"] = summary([started - queued for queued, started, _ in timings])
    figures["run_time"] = summary([end - started for _, started, end in timings])
    return figures


def thread_figures(crew: Crew) -> dict[str, int | bool]:
    """Return the figures of a pool's threads and queue, quickly."""
    with crew.lock:
        alive = [thread for thread in crew.threads if thread.is_alive()]
        busy = sum(1 for thread in alive if (thread.stack or thread.first) and not thread.abandoned)
        abandoned = crew.abandoned
        return {
            "max_workers": crew.max_workers,
            "threads": len(alive),
            "busy": busy,
            "idle": len(alive) - busy - abandoned,
            "queued": crew.queued,
            "abandoned": abandoned,
            "degraded": crew.degraded,
        }


def _timing(item: Item) -> tuple[float, float, float]:
    assert item.started is not None and item.ended is not None
    return item.queued, item.started, item.ended


def summary(seconds: list[float]) -> dict[str, float | int | None]:
    """Return count, mean, min, max and percentiles of *seconds*.

    Percentiles are nearest ranks, so each is one of the durations. All but the count are
    None for an empty list.

    Source:
        NIST/SEMATECH e-Handbook of Statistical Methods, 7.2.6.2, first definition, with the
        rank rounded up.
    """
    if not seconds:
        return {"count": 0} | dict.fromkeys(("mean", "min", "max", "p50", "p95", "p99"))
    ordered = sorted(seconds)

    def rank(share: float) -> float:
        return ordered[math.ceil(share * len(ordered)) - 1]

    return {
        "count": len(ordered),
        "mean": math.fsum(ordered) / len(ordered),
        "min": ordered[0],
        "max": ordered[-1],
        "p50": rank(0.50),
        "p95": rank(0.95),
        "p99": rank(0.99),
    }
