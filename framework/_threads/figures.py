"""Figures of a list of durations."""

from __future__ import annotations

import math


def summary(seconds: list[float]) -> dict[str, float | int | None]:
    """Return count, mean, min, max and percentiles of *seconds*.

    Percentiles are by nearest rank (NIST/SEMATECH e-Handbook, 7.2.6.2, first definition
    rounded up), so each is a duration that really occurred. All but the count are None
    for an empty list.
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
