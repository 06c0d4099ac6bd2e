"""A row of the table: what was measured, and the goals that it is held to."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks._measure import OURS, Samples


@dataclass(frozen=True)
class Goal:
    """Ours is to be at most a share of something else.

    Attributes:
        against: The floor or a peer, by name.
        at_most: Greatest allowed ratio ours / against.
        from_313: The same on Python 3.13 and later; None for the same figure.
    """

    against: str
    at_most: float
    from_313: float | None = None

    @property
    def limit(self) -> float:
        """The figure that holds on this Python."""
        newer = sys.version_info >= (3, 13) and self.from_313 is not None
        return self.from_313 if newer and self.from_313 is not None else self.at_most


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        key: Short name, for options and files.
        title: What was measured.
        unit: Unit of the values, such as ``µs``.
        floor: Name of the case that the others are compared with.
        samples: By name; the floor and ours (`OURS`) are among them.
        goals: What ours is held to, the one against the floor first.
        unranked: Names that are shown but are no peers: sketches, variants of ours.
        note: A sentence for readers; "" for none.
        missing: Why cases are not among the samples, by name.
    """

    key: str
    title: str
    unit: str
    floor: str
    samples: Mapping[str, Samples]
    goals: Sequence[Goal]
    unranked: Sequence[str] = ()
    note: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def ours(self) -> Samples:
        """Our samples."""
        return self.samples[OURS]

    @property
    def best_peer(self) -> str | None:
        """The peer with the least ratio to the floor; None if none was measured."""
        peers = [name for name in self.samples if name not in (OURS, self.floor, *self.unranked)]
        return min(peers, key=lambda name: self.samples[name].ratio, default=None)

    def ratio_to(self, name: str) -> float:
        """Return ours over *name*, both taken beside the floor of the same round."""
        if name == self.floor:
            return self.ours.ratio
        return self.ours.ratio / self.samples[name].ratio

    def outcome(self, goal: Goal) -> bool | None:
        """Whether *goal* is met; None if what it is held against was not measured."""
        if goal.against not in self.samples:
            return None
        return self.ratio_to(goal.against) <= goal.limit


@dataclass(frozen=True)
class Flat:
    """A series of a curve is to stay flat.

    Attributes:
        series: Its name.
        at_most: Greatest allowed factor from one point to a later one.
        beside: Another series, which may rise as well: what costs everybody more is none of
            ours. Then each point counts beside the other's. "" for none.
    """

    series: str
    at_most: float = 1.5
    beside: str = ""


@dataclass(frozen=True)
class Curve:
    """How a cost grows with something.

    Attributes:
        key: Short name, for options and files.
        title: What was measured.
        x_label: What grows.
        unit: Unit of the costs, such as ``µs``.
        xs: Where it was measured, in rising order.
        series: Medians by name, one for each of `xs`; None where it was not measured.
        note: A sentence for readers: what it may cost at most, and why.
        flat: Which series are to stay flat.
    """

    key: str
    title: str
    x_label: str
    unit: str
    xs: Sequence[int]
    series: Mapping[str, Sequence[float | None]]
    note: str = ""
    flat: Sequence[Flat] = ()

    def power(self, name: str) -> float | None:
        """Return the power of x that a series grows by: 0 for not at all, 1 for in proportion.

        It is the slope of the line that fits the logarithms best (least squares); None with
        less than two points.
        """
        costs = zip(self.xs, self.series[name], strict=True)
        points = [(math.log(x), math.log(cost)) for x, cost in costs if cost is not None]
        if len(points) < 2:
            return None
        slope, _ = statistics.linear_regression(*zip(*points, strict=True))
        return slope

    def rise(self, name: str, beside: str = "") -> float | None:
        """Return the greatest factor from one point of a series to a later one.

        It is below 1 if the series falls all the way, and None with less than two points.

        Args:
            name: The series.
            beside: Series by which to divide it, point by point; "" for none.
        """
        divisors = self.series[beside] if beside else [1.0] * len(self.xs)
        pairs = zip(self.series[name], divisors, strict=True)
        costs = [cost / by for cost, by in pairs if cost is not None and by is not None]
        later = [costs[at] / min(costs[:at]) for at in range(1, len(costs))]
        return max(later, default=None)

    def outcome(self, goal: Flat) -> bool | None:
        """Whether a series is flat, by itself or beside another; None if it was not measured."""
        if goal.series not in self.series or (goal.beside and goal.beside not in self.series):
            return None
        rises = [self.rise(goal.series, beside) for beside in {"", goal.beside}]
        known = [rise for rise in rises if rise is not None]
        return min(known) <= goal.at_most if known else None
