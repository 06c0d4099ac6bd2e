"""Outflow: how fast a full queue lets go of what waits in it, measured whenever it refuses more.

Nothing is counted for it: it compares figures that the queue has anyway, at its refusals.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final

LONGEST: Final = 60
"""Seconds that are looked back, and so the longest answer: what comes later, nobody can know."""

_APART: Final = 1.0
"""Seconds between two samples, and from the first one until something counts as measured."""


class Outflow:
    """The outflow of one queue.

    Args:
        monotonic: Reads the clock.
    """

    __slots__ = ("_monotonic", "_samples")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        # When the queue refused something, and how many had left it by then; the oldest first.
        self._samples: deque[tuple[float, int]] = deque()

    def next_place(self, left: int) -> float:
        """Return in how many seconds the queue will have room again; called at a refusal.

        Never called by two threads at once.

        Args:
            left: How many have left the queue so far, for whatever reason.

        Returns:
            Whole seconds from 1 to `LONGEST`; 1 while nothing has been measured.
        """
        now, samples = self._monotonic(), self._samples
        while samples and now - samples[0][0] > LONGEST:
            samples.popleft()
        if not samples or now - samples[-1][0] >= _APART:
            samples.append((now, left))
        began, before = samples[0]
        passed, gone = now - began, left - before
        if passed < _APART:
            return 1.0
        # If nobody has left, the next place is at least as far away as the last one.
        seconds = passed / gone if gone > 0 else passed
        return float(min(max(math.ceil(seconds), 1), LONGEST))
