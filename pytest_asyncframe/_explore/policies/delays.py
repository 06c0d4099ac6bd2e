"""The policy ``delays``: few deviations from the default schedule, then ever more.

Each deviation holds back an actor that would have come next; see `holds`. Most races need one or
two of them, but a test of many steps has more such schedules than it has runs. So their order
counts:

- Deviations at lines that touch nothing that others touch come after all others of a run.
- Deviations at different locations, and among actors of different names, come before those at the
  same location, such as a line in a loop. Locations, and visits of one location, are taken from
  coarse to fine: the first, the last, the one in the middle, those in between.
- Of one deviation, those come first that hold the actor back until nobody else can go on: what
  it races with may be a chain of several actors. Then come those that let it go on at the first
  chance.
- Of two deviations, all come first of which at most one preempts. There are few ways for actors
  to start in another order, and many races need one of them and one preemption.
- Drawn schedules, and those that let an actor go on at once, take turns with those in order,
  unless all that is left of these can be run, with a quarter of the runs to spare. They find what
  needs three deviations or more.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Sequence
from random import Random

from pytest_asyncframe._explore.holds import Holds
from pytest_asyncframe._explore.policies.drawn import Lengths, drawn, mixed
from pytest_asyncframe._explore.policies.haste import Haste
from pytest_asyncframe._explore.policies.order import coarse_to_fine, in_turn
from pytest_asyncframe._explore.policies.search import Branch, Count, Level, Search
from pytest_asyncframe._explore.schedule import Location, Step, Strategy

_NUMBER = re.compile(r"[#-][0-9]+$")
_IN_ORDER = 2
"""Schedules with more deviations are run in order only if there are runs enough for all."""

_LET_GO: Level = (1, 1)
"""The level of schedules with one deviation that let the actor go on at the first chance."""


class DelaysPolicy:
    """Schedules with 0, 1 and 2 deviations from the default one, and drawn ones.

    It ends when all schedules have run, which only happens if there are few.

    Args:
        seed: Equal seeds give equal drawn schedules.
        runs: How many runs there will be at the most. More may follow, but they are divided
            for so many.
        begin: How far along the ways to leave a run it begins, from 0.0 to below 1.0.
    """

    def __init__(self, seed: int, runs: int, begin: float = 0.0) -> None:
        self._seed = seed
        self._runs = runs
        self._search = Search(_level, "deviation", functools.partial(_spread_from, begin), Holds)
        self._lengths = Lengths()
        self._begun = 0
        self._drawn = 0
        self._turn = 0
        self._haste = Haste()
        self._was_hasty = False
        self._latest: Sequence[Step] = ()

    def next(self) -> Strategy | None:
        """Return the strategy of the next run; see `Policy`."""
        self._begun += 1
        if self._begun == 1:
            self._search.next()
            return self._haste.noting
        if self._was_hasty:
            self._haste.ended(self._latest)
        hasty = None if self._was_hasty and self._search.level else self._hasty()
        strategy = hasty or self._in_order()
        if strategy is None:
            strategy = hasty = self._hasty()
        self._was_hasty = hasty is not None
        return strategy

    def _hasty(self) -> Strategy | None:
        """Return the strategy of a schedule with an early timeout; None if none is to run yet."""
        if self._search.level in (0, 1) and self._begun <= self._runs // 2:
            return None
        return self._haste.next()

    def _in_order(self) -> Strategy | None:
        level = self._search.level
        if level is None or self._search.left() <= (self._runs - self._begun) * 3 // 4:
            return self._search.next()
        if level > _IN_ORDER:
            return self._draw()
        self._turn = (self._turn + 1) % 3
        if self._turn == 2:
            return self._draw()
        return self._search.next(None if self._turn else _LET_GO)

    def _draw(self) -> Strategy:
        self._drawn += 1
        return drawn(mixed, Random(f"{self._seed}/{self._drawn}"), self._lengths)

    def ended(self, steps: Sequence[Step]) -> None:
        """Find the schedules that differ from the latest run behind its last deviation."""
        if self._begun == 1:
            self._haste.begin()
        self._latest = steps
        if not self._was_hasty:
            self._lengths.note(steps)
            self._search.ended(steps)

    def claim(self, runs: int, where: str = "") -> str:
        """Say which schedules *runs* runs were; see `Policy`."""
        part = ""
        if self._search.level == 1:
            part = f" ({self._search.ran_of(1)} of them with 1 deviation)"
        return self._search.claim(runs, where, part, self._haste.words)


def _level(count: Count) -> Level:
    deviations, preemptions, free, faults = count
    if deviations < 2:
        return (deviations, int(free > 0))
    # With a fault first, of which there are few.
    return (deviations, int(preemptions - faults > 1) + (not faults))


def spread_out(steps: Sequence[Step], branches: list[Branch]) -> list[Branch]:
    """Return branches with those first that differ most from one another."""
    locations: dict[tuple[str, ...], list[Branch]] = defaultdict(list)
    for branch in branches:
        kind, what, options, _, chosen = steps[branch.number]
        if kind == "await" and branch.option > chosen:
            # What the others have done counts when one is let go on, not when it is held back.
            what = ""
        location = (kind, what, _name(options[0]), _name(options[branch.option]))
        locations[location].append(branch)
    shared: list[list[Branch]] = []
    alone: list[list[Branch]] = []
    for (_, what, *_), visits in locations.items():
        is_alone = isinstance(what, Location) and what.is_alone
        (alone if is_alone else shared).append(coarse_to_fine(visits))
    return in_turn(coarse_to_fine(shared)) + in_turn(coarse_to_fine(alone))


def _spread_from(begin: float, steps: Sequence[Step], branches: list[Branch]) -> list[Branch]:
    found = spread_out(steps, branches)
    first = int(len(found) * begin)
    return found[first:] + found[:first]


@functools.lru_cache(4096)
def _name(identity: str) -> str:
    """Return an identity without its number, which says which of several equal actors it is."""
    return _NUMBER.sub("", identity)
