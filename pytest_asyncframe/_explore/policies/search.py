"""A search through schedules: each adds one deviation to a schedule that has run.

So every schedule is met once: it comes from the one that lacks its last deviation. The search
keeps no runs, only where later ones are to leave them.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from pytest_asyncframe._explore.schedule import (
    Default,
    Deviating,
    InOrder,
    Rule,
    Step,
    Strategy,
)
from pytest_asyncframe._turns.choices import FAULT

Level: TypeAlias = tuple[int, int]
"""Schedules of a lower level run before those of a higher one.

The first number is what the proof counts, the second one is for the order alone.
"""

Unit: TypeAlias = Literal["deviation", "preemption"]

_OR_FAULT = "preemption or fault"

Deviations: TypeAlias = tuple[tuple[int, str], ...]
"""Numbers of steps, ascending, and the identities of the options that are taken there."""


_MOST_WAITING = 1_000_000
"""How many schedules are kept for later: 20 MB. Beyond that, only those of the lowest level are."""


class Plan(NamedTuple):
    """A schedule that is to run.

    Attributes:
        deviations: Where it leaves the default schedule.
        digest: Of the steps before its last deviation, which are those of an earlier run.
    """

    deviations: Deviations
    digest: int

    def fits(self, steps: Sequence[Step]) -> bool:
        """Whether a run has followed the plan, with the same choices before the last deviation."""
        number, option = self.deviations[-1]
        if number >= len(steps) or steps[number].options[steps[number].chosen] != option:
            return False
        return digests(steps[:number])[-1] == self.digest


class Branch(NamedTuple):
    """One way to leave a schedule that has run: the number of a step, and an option's index."""

    number: int
    option: int


class Count(NamedTuple):
    """How far a schedule is from the default one.

    Attributes:
        deviations: How many deviations it has.
        preemptions: How many of them preempt.
        free: How many other choices it has made that its rule would not have made.
        faults: How many of the deviations are faults, which count as preemptions too.
    """

    deviations: int = 0
    preemptions: int = 0
    free: int = 0
    faults: int = 0

    def plus(self, cost: int, step: Step) -> Count:
        """Return that of a schedule with one choice more, which costs 0 or 1 deviations."""
        preempts = cost and step.may_preempt
        free, faults = self.free + (not cost), self.faults + (step.kind == FAULT)
        return Count(self.deviations + cost, self.preemptions + preempts, free, faults)


Order: TypeAlias = Callable[[Sequence[Step], list[Branch]], list[Branch]]
"""Puts the ways to leave a run of so many steps into the order in which they are to run."""


class Branches:
    """Schedules that add a deviation to one that has run, in the order in which they are to run.

    There may be a million of them in a test, so they lie in arrays, 20 bytes each.

    Args:
        deviations: Those of the schedule that has run.
        steps: Its steps.
        digests: Those of its steps.
        branches: How it is left.
    """

    def __init__(
        self,
        deviations: Deviations,
        steps: Sequence[Step],
        digests: Sequence[int],
        branches: Sequence[Branch],
    ) -> None:
        backwards = branches[::-1]
        self._deviations = deviations
        self._numbers = array("I", [number for number, _ in backwards])
        self._digests = array("q", [digests[number] for number, _ in backwards])
        self._options = [steps[number].options[option] for number, option in backwards]

    def __len__(self) -> int:
        return len(self._numbers)

    def take(self) -> Plan:
        """Remove and return the first one."""
        last = (self._numbers.pop(), self._options.pop())
        return Plan((*self._deviations, last), self._digests.pop())


class Search:
    """Which schedules are still to run, found in those that have run.

    The first one is the default one.

    Args:
        level: Returns the level of a schedule; None if it is not to run. A choice more must not
            lower it.
        unit: What the levels count.
        order: Puts them into order, and all runs are left in turn; None for the order of the
            steps, and the newest run is left first.
        rule: Makes what a schedule does where it says nothing, for one run.
    """

    def __init__(
        self,
        level: Callable[[Count], Level | None],
        unit: Unit,
        order: Order | None = None,
        rule: Callable[[], Rule] = InOrder,
    ) -> None:
        # Runs that did not follow their schedule, or did not end. Those that have one deviation
        # more are not searched.
        self._diverged = 0
        # Whether there are schedules that are not to run.
        self._cut = False
        self._level = level
        self._unit = unit
        self._order = order
        self._rule = rule
        self._begun = False
        self._plan: Plan | None = None
        self._waiting: dict[Level, deque[Branches]] = {}
        self._size = 0
        # The lowest level of which some were not kept.
        self._dropped: int | None = None
        # Hashes of the deviations of the schedules that have run, and how many of each level.
        self._seen: set[int] = set()
        self._ran: Counter[int] = Counter()
        # Whether a fault was possible.
        self._faults = False

    @property
    def level(self) -> int | None:
        """The lowest level of which schedules may be left; None if there are none."""
        return min(self._waiting)[0] if self._waiting else None

    def ran_of(self, level: int) -> int:
        """Return how many different schedules of a level have run."""
        return self._ran[level]

    def _complete(self) -> tuple[int, int]:
        """Return how many schedules the complete levels have together, and the highest of them."""
        level = min((one for one in (self.level, self._dropped) if one is not None), default=None)
        complete = [one for one in self._ran if level is None or one < level]
        return sum(self._ran[one] for one in complete), max(complete, default=0)

    def claim(self, runs: int, where: str = "", part: str = "", more: str = "") -> str:
        """Say which schedules *runs* runs were; see `Policy`.

        Args:
            runs: How many runs there were.
            where: Which schedules they were, such as " of level line".
            part: What is said of the schedules of incomplete levels, in brackets.
            more: What is said of schedules of another kind; "" if there were none.
        """
        unit: str = self._unit
        if self._faults and unit == "preemption":
            unit = _OR_FAULT
        if self._diverged:
            return (
                f"{counted(runs, 'run')}{where}, {self._diverged} of which did not follow the "
                "schedule that was planned"
            )
        ran = len(self._seen)
        complete, level = self._complete()
        if not complete:
            return f"{counted(ran, 'schedule')}{where} without a {unit} (there are more)"
        ended = self.level is None
        bound = "" if ended and not self._cut else _up_to(level, unit)
        schedules = "schedules and faults" if self._faults else "schedules"
        known = _known(complete, schedules, where, bound, unit)
        if ran > complete:
            known += f", and {counted(ran - complete, 'other')}{part}"
        return known + more

    def left(self) -> int:
        """Return how many schedules of the lowest level may be left."""
        return sum(map(len, self._waiting[min(self._waiting)])) if self._waiting else 0

    def next(self, first: Level | None = None) -> Strategy | None:
        """Return what follows the next schedule that has not run; None if there is none.

        Args:
            first: The level to take it from, if that has any; None for the lowest one.
        """
        if not self._begun:
            self._begun = True
            return Default()
        self._diverged += self._plan is not None
        self._plan = None
        while self._waiting:
            plan = self._take(first if first in self._waiting else min(self._waiting))
            if hash(plan.deviations) not in self._seen:
                self._plan = plan
                return Deviating(dict(plan.deviations), self._rule())
        return None

    def _take(self, level: Level) -> Plan:
        waiting = self._waiting[level]
        branches = waiting.pop() if self._order is None else waiting.popleft()
        plan = branches.take()
        self._size -= 1
        if branches:
            waiting.append(branches)
        elif not waiting:
            del self._waiting[level]
        return plan

    def ended(self, steps: Sequence[Step]) -> bool:
        """Find the schedules that leave a run behind its last deviation.

        Args:
            steps: Those of the schedule that was taken, or of any other.

        Returns:
            Whether this schedule has run for the first time.
        """
        plan, self._plan = self._plan, None
        if plan is not None and not plan.fits(steps):
            self._diverged += 1
            return False
        walk = _Walk(steps, self._rule())
        self._faults = self._faults or walk.faults
        deviations = tuple(walk.deviations)
        if hash(deviations) in self._seen:
            return False
        self._seen.add(hash(deviations))
        level = self._level(walk.count)
        if level is not None:
            self._ran[level[0]] += 1
        before = digests(steps)
        for level, branches in self._branches(walk).items():
            if self._size >= _MOST_WAITING and self._waiting and level > min(self._waiting):
                self._drop(level)
                continue
            ordered = branches if self._order is None else self._order(steps, branches)
            waiting = self._waiting.setdefault(level, deque())
            waiting.append(Branches(deviations, steps, before, ordered))
            self._size += len(ordered)
        return True

    def _drop(self, level: Level) -> None:
        """Take note that schedules of a level are not kept."""
        self._cut = True
        self._dropped = min(level[0], level[0] if self._dropped is None else self._dropped)

    def _branches(self, walk: _Walk) -> dict[Level, list[Branch]]:
        """Return how the steps behind the last deviation can be left, by level."""
        found: dict[Level, list[Branch]] = {}
        for branch, count in reversed(walk.ways):
            level = self._level(count)
            if level is None:
                self._cut = True
            else:
                found.setdefault(level, []).append(branch)
        return {level: branches[::-1] for level, branches in found.items()}


class _Walk:
    """The steps of a run, as a rule sees them.

    Attributes:
        deviations: The choices that the rule would not have made.
        count: Of the run.
        ways: The ways to leave the run behind the last of these, and what they would count.
        faults: Whether a fault was possible.
    """

    def __init__(self, steps: Sequence[Step], rule: Rule) -> None:
        self.deviations: list[tuple[int, str]] = []
        self.count = Count()
        self.ways: list[tuple[Branch, Count]] = []
        self.faults = any(step.kind == FAULT for step in steps)
        for number, step in enumerate(steps):
            default = rule.default(step)
            if step.chosen != default:
                self.ways.clear()
                self.deviations.append((number, step.options[step.chosen]))
                self.count = self.count.plus(rule.cost(step, step.chosen), step)
            else:
                for option in range(len(step.options)):
                    if option != default:
                        count = self.count.plus(rule.cost(step, option), step)
                        self.ways.append((Branch(number, option), count))
            rule.took(step, step.chosen)


def digests(steps: Sequence[Step]) -> list[int]:
    """Return one number for the steps before each step, and one for all of them.

    Equal numbers mean equal steps, but for a chance of one in 2**60; in this process only.
    """
    digest = 0
    all_of_them = [digest]
    for step in steps:
        digest = hash((digest, step))
        all_of_them.append(digest)
    return all_of_them


def _known(complete: int, schedules: str, where: str, bound: str, unit: str) -> str:
    if complete > 1:
        return f"all {complete} {schedules}{where}{bound}"
    # The one without a deviation is there in every test.
    if bound and unit == "deviation":
        return f"the default schedule{where}"
    return f"the only schedule{where}{bound}"


def _up_to(most: int, unit: str) -> str:
    several = "preemptions or faults" if unit == _OR_FAULT else None
    return f" with up to {counted(most, unit, several)}" if most else f" without a {unit}"


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number and what it counts.

    Args:
        number: The number.
        one: The word for one of them.
        several: The word for several; None for the same with an "s".
    """
    return f"{number} {one if number == 1 else several or f'{one}s'}"
