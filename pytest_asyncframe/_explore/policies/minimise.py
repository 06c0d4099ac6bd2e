"""Making a failing schedule small: as few switches as it takes to fail.

Most of what a drawn schedule does is of no use. So parts are dropped as long as the rest fails:
first all that comes late, then all that comes early, then ever smaller parts. What needs one
switch at another location is found by trying single ones.

Source:
    A. Zeller, R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE
    Transactions on Software Engineering 28(2), 2002, for `_drop_parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

from pytest_asyncframe._explore.policies.delays import coarse_to_fine
from pytest_asyncframe._explore.policies.search import counted
from pytest_asyncframe._explore.policies.switches import Switch, Switching, switches_of
from pytest_asyncframe._explore.schedule import Step, Strategy

Fails: TypeAlias = Callable[[Strategy], Sequence[Step] | None]
"""Runs a test once; returns the steps of a run that failed, None for one that passed."""


@dataclass(frozen=True, slots=True)
class Minimised:
    """A schedule that fails, and how it was found.

    Attributes:
        steps: Those of the smallest run that failed.
        before: How many switches the schedule had that was given.
        runs: How many runs it took.
    """

    steps: Sequence[Step]
    before: int
    runs: int

    @property
    def switches(self) -> Sequence[Switch]:
        """Those of the smallest run that failed."""
        return switches_of(self.steps)

    def __str__(self) -> str:
        after = counted(len(self.switches), "switch", "switches")
        return f"minimised: {after} (from {self.before})"


def minimise(steps: Sequence[Step], fails: Fails, runs: int = 150) -> Minimised:
    """Return the smallest schedule that was found to fail.

    Equal arguments give equal results, as far as equal schedules give equal runs. Where they do
    not, the result still is one that has failed.

    Args:
        steps: Those of a run that failed.
        fails: Runs the test.
        runs: How many runs it may take at the most, 0 or more.
    """
    return _Minimiser(steps, fails, runs).result()


class _Minimiser:
    def __init__(self, steps: Sequence[Step], fails: Fails, runs: int) -> None:
        self._fails = fails
        self._all = self._most = runs
        self._runs = 0
        self._steps = steps
        self._switches = switches_of(steps)
        self._before = len(self._switches)
        self._tried: set[tuple[Switch, ...]] = set()

    def result(self) -> Minimised:
        # The rest is for single switches, which none of the others may lead to.
        self._most = self._all * 2 // 3
        default = Switching([])
        if self._switches and self._most:
            self._try(default)
        self._drop_last()
        self._drop_first()
        size = len(self._switches) + 1
        while len(self._switches) < size:
            size = len(self._switches)
            self._drop_parts()
            self._drop_pairs()
        self._most = self._all
        if len(self._switches) > 1:
            self._find_single(default)
        return Minimised(self._steps, self._before, self._runs)

    def _still_fails(self, switches: Sequence[Switch]) -> bool:
        """Try fewer switches; keep them if that fails."""
        key = tuple(switches)
        if key in self._tried or self._runs >= self._most:
            return False
        self._tried.add(key)
        exact = Switching(switches)
        if self._try(exact):
            return True
        # Without the others, who is passed over may come too soon.
        return (
            exact.came_back
            and self._runs < self._most
            and self._try(Switching(switches, lasting=True))
        )

    def _try(self, strategy: Switching) -> bool:
        self._runs += 1
        steps = self._fails(strategy)
        if steps is None or _size(steps) >= _size(self._steps):
            return False
        self._steps, self._switches = steps, switches_of(steps)
        return True

    def _drop_last(self) -> None:
        """Find how many of the first switches fail by themselves, in few runs."""
        enough, few = len(self._switches), 0
        while enough - few > 1:
            middle = (enough + few) // 2
            if self._still_fails(self._switches[:middle]):
                enough = min(middle, len(self._switches))
            else:
                few = middle

    def _drop_first(self) -> None:
        """Find how many of the last switches fail by themselves, in few runs."""
        few = 1
        while few < len(self._switches) and not self._still_fails(self._switches[-few:]):
            few *= 2

    def _drop_parts(self) -> None:
        """Drop ever smaller parts, as long as what remains fails."""
        size = len(self._switches) // 2
        while size and self._runs < self._most:
            start = 0
            while start < len(self._switches) > 1:
                rest = [*self._switches[:start], *self._switches[start + size :]]
                # What comes next is at the same location now.
                if not rest or not self._still_fails(rest):
                    start += size
            size //= 2

    def _drop_pairs(self) -> None:
        """Drop two switches at a time: one away from an actor, and a later one back to it."""
        switches = self._switches
        pairs = sorted(combinations(range(len(switches)), 2), key=lambda pair: pair[1] - pair[0])
        for pair in pairs:
            rest = [switch for index, switch in enumerate(switches) if index not in pair]
            if rest and self._still_fails(rest):
                return

    def _find_single(self, default: Switching) -> None:
        """Look for a single switch, first where equal actors are passed over in the same way."""
        known = {switch.position[1:3] for switch in self._switches}
        singles = [
            Switch(position, (option,))
            for position, options in default.offered
            for option in options[1:]
        ]
        like = [one for one in singles if one.position[1:3] in known]
        others = [one for one in singles if one.position[1:3] not in known]
        any(self._still_fails([one]) for one in (*coarse_to_fine(like), *coarse_to_fine(others)))


def _size(steps: Sequence[Step]) -> tuple[int, int]:
    return len(switches_of(steps)), sum(step.deviates for step in steps)
