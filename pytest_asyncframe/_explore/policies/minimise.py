"""Making a failing schedule small: as few switches as it takes to fail.

Most of what a drawn schedule does is of no use. So parts are dropped as long as the rest fails:
first all that comes late, then all that comes early, then ever smaller parts. What needs one
switch at another location is found by trying single ones.

A switch says which actor is passed over, where, and how often in a row. The number of a step
changes when an earlier choice does: others run for longer, or not at all. So a switch says where
the actor stands, and how often it stood there before.

Source:
    A. Zeller, R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE
    Transactions on Software Engineering 28(2), 2002, for `_drop_parts`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple, TypeAlias

from pytest_asyncframe._explore.policies.order import coarse_to_fine
from pytest_asyncframe._explore.policies.search import counted
from pytest_asyncframe._explore.schedule import EARLY, Step, Strategy
from pytest_asyncframe._turns.choices import FAULT

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
        switches = counted(len(self.switches), "switch", "switches")
        if any(step.kind == EARLY for step in self.steps):
            more = f" and {switches}" if self.switches else ""
            return f"minimised: 1 early timeout{more}"
        faults = sum(switch.position.kind == FAULT for switch in self.switches)
        if faults:
            switches = counted(len(self.switches) - faults, "switch", "switches")
            more = f" and {switches}" if len(self.switches) > faults else ""
            switches = f"{counted(faults, 'fault')}{more}"
        return f"minimised: {switches} (from {self.before})"


def minimise(steps: Sequence[Step], fails: Fails, runs: int = 150) -> Minimised:
    """Return the smallest schedule that was found to fail.

    Equal arguments give equal results, as far as equal schedules give equal runs. Where they do
    not, the result still is one that has failed.

    Args:
        steps: Those of a run that failed.
        fails: Runs the test.
        runs: How many runs it may take at the most, 0 or more.
    """
    if any(step.kind == EARLY for step in steps):
        # It is one of few, and none is left out.
        return Minimised(steps, len(switches_of(steps)), 0)
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


# -- switches


_MOST_PASSED = 1_000
"""How often an actor is passed over in a row, so that others do not wait for it forever."""


class Position(NamedTuple):
    """Where an actor is passed over.

    Attributes:
        actor: Its identity.
        kind: The kind of its point; "" if nobody stood at one.
        what: What it is about to do; if nobody stood at a point, at the latest point of it.
        visit: How often it was there before.
    """

    actor: str
    kind: str
    what: str
    visit: int


class Switch(NamedTuple):
    """An actor that would have come next is passed over, until it runs again.

    Attributes:
        position: Where it is.
        options: The identities of those that come instead, each at one choice. After the last
            one, it comes next when it is its turn.
    """

    position: Position
    options: tuple[str, ...]


def switches_of(steps: Sequence[Step]) -> list[Switch]:
    """Return the switches of a run, in their order."""
    positions = _Positions()
    found: list[tuple[Position, list[str]]] = []
    passed: dict[str, list[str]] = {}
    held = ""
    for step in steps:
        if step.kind == EARLY:
            # To hold it back is a part of the early timeout.
            held = step.options[0]
            passed[held] = []
            continue
        first = step.options[0]
        chosen = step.options[step.chosen]
        again = passed.get(first) if not step.preempts or first == held else None
        held = ""
        if again is None:
            position = positions.reached(step)
        if step.chosen and again is not None:
            again.append(chosen)
        elif step.chosen:
            passed[first] = [chosen]
            found.append((position, passed[first]))
        passed.pop(chosen, None)
    return [Switch(position, tuple(options)) for position, options in found]


class Switching:
    """Takes the default but for some switches.

    Args:
        switches: Those to make. One whose position is not reached is left out, and so is an option
            that is not offered.
        lasting: Whether who is passed over is held back until nobody else can go on, however
            often a switch says.

    Attributes:
        offered: The positions that were reached, with the options there.
        came_back: Whether someone who was passed over came next though others could go on.
    """

    def __init__(self, switches: Sequence[Switch], *, lasting: bool = False) -> None:
        self.offered: list[tuple[Position, Sequence[str]]] = []
        self.came_back = False
        self._options_at = {switch.position: switch.options for switch in switches}.get
        self._lasting = lasting
        self._positions = _Positions()
        self._passed: dict[str, Iterator[str]] = {}
        self._left = _MOST_PASSED

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take; see `Strategy`."""
        chosen = self._choose(step)
        self._passed.pop(step.options[chosen], None)
        return chosen

    def _choose(self, step: Step) -> int:
        options = step.options
        first = options[0]
        if first in self._passed and not step.preempts:
            return self._pass_again(options)
        position = self._positions.reached(step)
        self.offered.append((position, options))
        wanted = self._options_at(position)
        if wanted is None or wanted[0] not in options:
            return 0
        self._passed[first] = iter(wanted[1:])
        return options.index(wanted[0])

    def _pass_again(self, options: Sequence[str]) -> int:
        wanted = next(self._passed[options[0]], None)
        if wanted in options:
            return options.index(wanted)
        if self._lasting and self._left:
            self._left -= 1
            return next((n for n, one in enumerate(options) if one not in self._passed), 0)
        self.came_back = True
        return 0


class _Positions:
    """Where the actors of one run are that would come next."""

    def __init__(self) -> None:
        self._visits: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._latest: dict[str, str] = {}

    def reached(self, step: Step) -> Position:
        kind, what, actor = step.kind, step.what, step.options[0]
        if step.preempts:
            self._latest[actor] = what
        else:
            kind, what = "", self._latest.get(actor, "")
        visit = self._visits[actor, kind, what]
        self._visits[actor, kind, what] = visit + 1
        return Position(actor, kind, what, visit)
