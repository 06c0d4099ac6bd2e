"""Schedules in which actors also wait in real time, for tests that are partially controlled.

What nobody controls, such as a thread of a library, goes on meanwhile. So it comes before or
after steps that it would not meet otherwise.

Source:
    P. Deligiannis, A. Senthilnathan, F. Nayyar, C. Lovett, A. Lal, "Industrial-Strength Controlled
    Concurrency Testing for C# Programs with Coyote", TACAS 2023, for the idea.
"""

from __future__ import annotations

import _thread
from collections.abc import Sequence
from random import Random

from pytest_asyncframe._explore.policies.drawn import Lengths, mixed
from pytest_asyncframe._explore.schedule import Default, Deviating, Step, Strategy, deviations_of

MOST_SECONDS = 2.0
"""Real seconds for all such runs of a test: they prove nothing, however many there are."""

_MOST_OF_ONE = 0.01
"""Real seconds that the actors of one run wait at the most, all in all."""

_LENGTHS = (0.0, 0.0001, 0.0005, 0.002)
"""Real seconds of one wait. The shortest one lets other threads run."""

_NEVER = _thread.allocate_lock()
_NEVER.acquire()


class Paused:
    """Makes the choices of another strategy, and lets actors wait at some points.

    Args:
        strategy: Makes the choices.
        seed: Equal seeds give equal waits at equal points.
    """

    def __init__(self, strategy: Strategy, seed: str) -> None:
        self.choose = strategy.choose
        self._seed = seed
        chance = Random(seed)
        self._random = chance.random
        self._rate = 0.5 ** chance.randint(1, 5)
        self._left = _MOST_OF_ONE

    def pause(self) -> None:
        """Wait now and then; called without a lock on an actor that has reached a point."""
        if self._left > 0 and self._random() < self._rate:
            seconds = _LENGTHS[int(self._random() * len(_LENGTHS))]
            self._left -= max(seconds, _LENGTHS[1])
            # Not on the clock, and not by a lock that is modelled.
            _NEVER.acquire(timeout=seconds)

    def again(self, steps: Sequence[Step]) -> Paused:
        """Return what makes the choices of *steps* and waits at the same points."""
        return Paused(Deviating(deviations_of(steps)), self._seed)


class PausedPolicy:
    """Drawn schedules with waits at drawn points; there is no end of them.

    Args:
        seed: Equal seeds give equal ones.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._begun = 0
        self._lengths = Lengths()

    def next(self) -> Paused:
        """Return the strategy of the next run."""
        self._begun += 1
        seed = f"{self._seed}/paused/{self._begun}"
        # Half of them take the default everywhere, so that the waits alone make the difference.
        drawn = self._lengths.steps and self._begun % 2
        return Paused(mixed(Random(seed), self._lengths) if drawn else Default(), seed)

    def ended(self, steps: Sequence[Step]) -> None:
        """Take note of the steps of the latest run."""
        self._lengths.note(steps)
