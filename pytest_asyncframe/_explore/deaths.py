"""Schedules of a test whose process dies: which deaths are searched, and under which schedules.

A run is determined by two things: the points at which the process dies, and a schedule. A row is
all runs with the same deaths; the first one has none. Each row has a policy of its own, whose
schedules may leave the default one before the death and after it. The rows take turns, so that
all of them have had as many schedules, but for one, whenever the runs end.

So the first round is what the marker ``crash_points`` does alone, and the first row is what
``interleave`` does alone. A point has its name in all schedules, since it is named by what happens.
Where an order of a row does not come to the point, the process does not die in that run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from pytest_asyncframe._explore.policies.by_name import make_policy
from pytest_asyncframe._explore.schedule import Policy, Strategy
from pytest_asyncframe._toolkit.toolkit import Process, Toolkit

Deaths: TypeAlias = tuple[str, ...]
"""The names of the points at which the process dies, in their order; () for nowhere."""

_APART = 0.618
"""Multiples of it, modulo 1, lie far from one another."""


class MortalProcess(Process, Protocol):
    """The process of one run, which may die.

    Attributes:
        met: The names of the points that it has come to so far.
        missed: Those at which it was to die and has not, so far.
    """

    @property
    def met(self) -> Sequence[str]:
        """See above."""
        ...

    @property
    def missed(self) -> Sequence[str]:
        """See above."""
        ...

    def running(self, toolkit: Toolkit) -> AbstractContextManager[None]:
        """Let it live inside the block."""
        ...


@dataclass(frozen=True, slots=True)
class Crashes:
    """What is searched of the deaths of a test's process.

    Attributes:
        make_process: Makes the process of one run, given where it dies, and what is called with
            where it has died.
        depth: How many times it dies in a run at the most, from 1 on.
        most: How many runs there are at the most, from 1 on.
        deaths: The one row that is searched; () for all.
    """

    make_process: Callable[[Deaths, Callable[[str], object]], MortalProcess]
    depth: int
    most: int
    deaths: Deaths

    def rows(self, met: Sequence[str]) -> Sequence[Deaths]:
        """Return the deaths of each row, given the points of a run in which it dies nowhere."""
        return [self.deaths] if self.deaths else [(), *((one,) for one in met)]


@dataclass(eq=False)
class Row:
    """The schedules with the same deaths.

    Attributes:
        deaths: Where the process dies.
        policy: Decides which schedules are run.
        runs: How many runs there were.
        missed: In how many of them the process did not die at each of these points.
        is_done: Whether all schedules of the policy have run.
    """

    deaths: Deaths
    policy: Policy
    runs: int = 0
    missed: int = 0
    is_done: bool = False


@dataclass(eq=False)
class Rows:
    """The rows of a search at one level, which take turns.

    Each begins with other schedules than the one before, so that few runs in each come to many.

    Args:
        policy: The name of the policy of each.
        seed: Its seed, of the first row.
        runs: How many runs there will be at the most.
        deaths: Those of the first rows.
        depth: How many times the process dies at the most.
    """

    policy: str
    seed: int
    runs: int
    deaths: Sequence[Deaths]
    depth: int = 1
    _turn: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._rows: list[Row] = []
        for deaths in self.deaths:
            self._add(deaths)

    def _add(self, deaths: Deaths) -> None:
        number, each = len(self._rows), math.ceil(self.runs / len(self.deaths))
        policy = make_policy(self.policy, self.seed + number, each, number * _APART % 1)
        self._rows.append(Row(deaths, policy))

    def next(self) -> tuple[Row, Strategy] | None:
        """Return the next row and its next schedule; None if all of them have run."""
        for _ in range(len(self._rows)):
            row = self._rows[self._turn % len(self._rows)]
            self._turn += 1
            strategy = None if row.is_done else row.policy.next()
            if strategy is not None:
                row.runs += 1
                return row, strategy
            row.is_done = True
        return None

    def ended(self, row: Row, met: Sequence[str], missed: Sequence[str]) -> None:
        """Take note of the points of the latest run."""
        row.missed += bool(missed)
        if row.runs > 1 or missed or not 0 < len(row.deaths) < self.depth:
            return
        for one in met[met.index(row.deaths[-1]) + 1 :]:
            self._add((*row.deaths, one))

    @property
    def missed(self) -> int:
        """In how many runs the process did not die at each of the points."""
        return sum(row.missed for row in self._rows)

    def claim(self, runs: int, where: str) -> str:
        """Say in a few words which schedules *runs* runs were, from 1 run on; see `Policy`."""
        dying = [row for row in self._rows if row.deaths]
        if not dying:
            return self._rows[0].policy.claim(runs, where)
        begun = [row for row in dying if row.runs]
        if len(begun) < len(dying):
            return f"{_part(begun, dying)} under the default schedule{where}"
        which = f"a crash {dying[0].deaths[-1]}"
        if len(self._rows) > 1:
            points, pairs = _points(dying), _pairs(dying)
            which = f"all {points} crash points" + (f" and {pairs} pairs of them" if pairs else "")
        if all(row.is_done for row in self._rows):
            return f"{which} under all schedules{where} of the policy, {runs} runs in all"
        fewest = min(row.runs for row in self._rows if not row.is_done)
        return f"{which} under {_many(fewest)}{where}"


def _many(schedules: int) -> str:
    return "the default schedule" if schedules == 1 else f"{schedules} schedules each"


def _part(begun: Sequence[Row], dying: Sequence[Row]) -> str:
    if _points(begun) < _points(dying):
        return f"{_points(begun)} of {_points(dying)} crash points"
    return f"all {_points(dying)} crash points and {_pairs(begun)} of {_pairs(dying)} pairs of them"


def _points(rows: Sequence[Row]) -> int:
    return sum(len(row.deaths) == 1 for row in rows)


def _pairs(rows: Sequence[Row]) -> int:
    return sum(len(row.deaths) > 1 for row in rows)
