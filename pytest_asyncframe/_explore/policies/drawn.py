"""Policies that draw each schedule by chance: evenly, by priorities, or in a mixture of ways.

Source:
    S. Burckhardt, P. Kothari, M. Musuvathi, S. Nagarakatte, "A Randomized Scheduler with
    Probabilistic Guarantees of Finding Bugs", ASPLOS 2010, for `Priorities`.
    X. Yuan, J. Yang, R. Gu, "Partial Order Aware Concurrency Sampling", CAV 2018, for `Orders`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from pytest_asyncframe._explore.schedule import Default, Step, Strategy
from pytest_asyncframe._turns.choices import FAULT

_MOST_IN_A_ROW = 1_000
"""After so many choices in a row an actor steps back: it may be waiting for those behind it."""


@dataclass(slots=True)
class Lengths:
    """How long the runs so far were.

    Attributes:
        steps: The most steps of a run.
        preemptive: The most steps of a run at which another choice than the default preempts.
        faults: The most steps of a run at which a fault may take place.
    """

    steps: int = 0
    preemptive: int = 0
    faults: int = 0

    def note(self, steps: Sequence[Step]) -> None:
        """Take note of the steps of one more run."""
        self.steps = max(self.steps, len(steps))
        faults = sum(step.kind == FAULT for step in steps)
        self.faults = max(self.faults, faults)
        self.preemptive = max(self.preemptive, sum(step.may_preempt for step in steps) - faults)


Draw: TypeAlias = Callable[[Random, Lengths], Strategy]
"""Makes the strategy of one run, of a source of chance and the lengths of earlier runs."""


class RandomPolicy:
    """The default schedule, then schedules that are drawn, each by itself.

    It ends after the default schedule if nothing was to be chosen there, and never otherwise.

    Args:
        draw: Makes the strategy of each run but the first.
        seed: Equal seeds give equal strategies, whatever ran before in this process.
        words: What the schedules are called in `claim`.
    """

    def __init__(self, draw: Draw, seed: int, words: str) -> None:
        self._draw = draw
        self._seed = seed
        self._words = words
        self._begun = 0
        self._lengths = Lengths()

    def next(self) -> Strategy | None:
        """Return the strategy of the next run; see `Policy`."""
        self._begun += 1
        if self._begun == 1:
            return Default()
        if not self._lengths.steps:
            return None
        return drawn(self._draw, Random(f"{self._seed}/{self._begun}"), self._lengths)

    def ended(self, steps: Sequence[Step]) -> None:
        """Take note of the steps of the latest run."""
        self._lengths.note(steps)

    def claim(self, runs: int, where: str = "") -> str:
        """Say which schedules *runs* runs were; see `Policy`."""
        if not self._lengths.steps:
            return f"the only schedule{where}"
        if runs == 1:
            return f"the default schedule{where}"
        faults = "faults and " if self._lengths.faults else ""
        return f"{runs} runs{where} with {faults}{self._words}"


class Evenly:
    """Chooses among all options, each as likely as the others."""

    def __init__(self, chance: Random) -> None:
        self._random = chance.random

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take; see `Strategy`."""
        # Four times as fast as `randrange`, and as even for fewer than a billion options.
        return int(self._random() * len(step.options))


class Straying:
    """Takes the default but now and then, and then any of the others.

    Args:
        chance: Draws when, and which.
        rate: How often: the probability at each step, above 0 and below 1.
        length: An estimate of how many steps there will be, from 1 on.
    """

    def __init__(self, chance: Random, rate: float, length: int) -> None:
        self._random = chance.random
        self._scale = 1 / math.log1p(-rate)
        # Within the run, so that it is not the default schedule once more.
        self._at = self._gap() % length

    def _gap(self) -> int:
        """Draw how many steps pass before one that strays: less work than a draw at each."""
        return int(math.log(1.0 - self._random()) * self._scale)

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take; see `Strategy`."""
        if number < self._at:
            return 0
        self._at = number + 1 + self._gap()
        return 1 + int(self._random() * (len(step.options) - 1))


class Priorities:
    """Takes the option of the highest priority; at some steps, who would come next gets a low one.

    A race that needs *depth* orderings is hit with a probability of at least
    ``1 / (actors * length ** (depth - 1))`` in each run.

    Args:
        chance: Draws the priority of each identity, and the steps of change.
        depth: One more than the number of changes, from 1 on.
        length: An estimate of how many steps may preempt; changes happen among the first so many.
    """

    def __init__(self, chance: Random, depth: int, length: int) -> None:
        self._random = chance.random
        steps = chance.sample(range(length), min(depth - 1, length))
        # In the order of the draw, not of the steps: a later change need not go lower.
        self._change_at = {step: -1 - low for low, step in enumerate(steps)}
        self._priorities: dict[str, float] = {}
        self._lowest = -depth
        self._preemptive = 0
        self._last = ""
        self._in_a_row = 0

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take; see `Strategy`."""
        best = self._highest(step.options)
        if step.may_preempt:
            low = self._change_at.get(self._preemptive)
            self._preemptive += 1
            if low is not None:
                # Who stands at a point would go on; of the steps of a loop, the highest comes next.
                self._priorities[step.options[0 if step.preempts else best]] = low
                best = self._highest(step.options)
        self._count(step.options[best])
        return best

    def _highest(self, options: Sequence[str]) -> int:
        priorities = self._priorities
        best, highest = 0, -math.inf
        for index, option in enumerate(options):
            priority = priorities.get(option)
            if priority is None:
                priority = priorities[option] = self._random()
            if priority > highest:
                best, highest = index, priority
        return best

    def _count(self, option: str) -> None:
        if option != self._last:
            self._last = option
            self._in_a_row = 0
        self._in_a_row += 1
        if self._in_a_row >= _MOST_IN_A_ROW:
            self._lowest -= 1
            self._priorities[option] = self._lowest
            self._in_a_row = 0


class Orders:
    """Gives each event a priority of its own, and takes the option of the highest one.

    An event is what an identity does when it comes next. It keeps its priority until it has
    happened, or until another event at the same point has: then it is drawn anew, since the order
    of these two may matter. So an event waits for *k* others with a probability of ``1 / (k + 1)``
    at least, if none of them is at its own point, where it would be ``2 ** -k`` if each choice was
    drawn by itself.

    Args:
        chance: Draws the priorities.
    """

    def __init__(self, chance: Random) -> None:
        self._random = chance.random
        # Of the next event of each identity, and the point at which it stands, if it does.
        self._priorities: dict[str, float] = {}
        self._at: dict[str, str] = {}

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take; see `Strategy`."""
        options, priorities = step.options, self._priorities
        if step.preempts:
            self._at[options[0]] = step.what
        best, highest = 0, -1.0
        for index, option in enumerate(options):
            priority = priorities.get(option)
            if priority is None:
                priority = priorities[option] = self._random()
            if priority > highest:
                best, highest = index, priority
        self._has_happened(options[best])
        return best

    def _has_happened(self, identity: str) -> None:
        del self._priorities[identity]
        what = self._at.pop(identity, "")
        if what:
            for other, at in self._at.items():
                if at == what:
                    self._priorities.pop(other, None)


class Faulty:
    """Draws whether faults take place, about one in a run, and leaves all else to a strategy.

    Args:
        strategy: The strategy.
        chance: Draws.
        most: How many faults were possible in a run, from 1 on.
    """

    def __init__(self, strategy: Strategy, chance: Random, most: int) -> None:
        self._choose = strategy.choose
        self._random = chance.random
        self._rate = 1 / (most + 1)

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take; see `Strategy`."""
        if step.kind != FAULT:
            return self._choose(number, step)
        if self._random() >= self._rate:
            return 0
        return 1 + int(self._random() * (len(step.options) - 1))


def drawn(draw: Draw, chance: Random, lengths: Lengths) -> Strategy:
    """Draw the strategy of a run, and the faults in it."""
    strategy = draw(chance, lengths)
    return Faulty(strategy, chance, lengths.faults) if lengths.faults else strategy


def evenly(chance: Random, _: Lengths) -> Strategy:
    """Draw the strategy of a run of the policy ``random``."""
    return Evenly(chance)


def priorities(depth: int) -> Draw:
    """Return what draws the strategies of the policy ``pct``; see `Priorities`."""
    return lambda chance, lengths: Priorities(chance, depth, lengths.preemptive)


def orders(chance: Random, _: Lengths) -> Strategy:
    """Draw the strategy of a run of the policy ``pos``."""
    return Orders(chance)


def mixed(chance: Random, lengths: Lengths) -> Strategy:
    """Draw the strategy of a run of the policy ``mixed``."""
    way = chance.randrange(3)
    if way == 0:
        return Evenly(chance)
    if way == 1:
        return Priorities(chance, chance.randint(2, 4), lengths.preemptive)
    return Straying(chance, 0.5 ** chance.randint(2, 6), lengths.steps)
