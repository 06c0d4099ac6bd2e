"""The timers of a test, earliest first.

Relies on: the caller's lock. Nothing here takes a lock or calls other code.
"""

from __future__ import annotations

import heapq
import itertools
import sys
from collections.abc import Callable

from pytest_asyncframe._turns.actors import Actor, Timer

LAST = sys.maxsize
"""The order of a timer that fires after all others of its moment."""


class Timers:
    """Timers in the order of their times; equal ones by *order*, then as they were set."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Timer]] = []
        self._sequence = itertools.count()

    def push(
        self, when: int, fn: Callable[[], object] | None, actor: Actor | None, order: int
    ) -> Timer:
        """Set a timer and return it; see `Timer` for the arguments."""
        number = next(self._sequence)
        timer = Timer(when, fn, actor, number)
        heapq.heappush(self._heap, (when, order, number, timer))
        return timer

    @property
    def first(self) -> int | None:
        """The nanosecond of the earliest timer; None if there is none."""
        heap = self._heap
        while heap and not heap[0][3].live:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    @property
    def first_is_last(self) -> bool:
        """Whether the timer of `first` fires after all others of its moment."""
        return self._heap[0][1] == LAST

    def is_due(self, now: int) -> bool:
        """Whether a timer is set up to nanosecond *now*, fired or not."""
        return bool(self._heap) and self._heap[0][0] <= now

    def due(self, now: int) -> list[Timer]:
        """Return the timers up to nanosecond *now* in their order, but those that fire last."""
        first = self.first
        if first is None or first > now:
            return []
        found = sorted(one for one in self._heap if one[0] <= now and one[1] != LAST)
        return [timer for _, _, _, timer in found if timer.live]

    def pop(self) -> Timer:
        """Remove and return the timer of `first`, which must have been read before."""
        return heapq.heappop(self._heap)[3]

    @property
    def foreground(self) -> bool:
        """Whether there is a timer that somebody waits for."""
        return any(timer.live and not timer.background for _, _, _, timer in self._heap)

    def live(self) -> list[Timer]:
        """Return the timers that have not fired, earliest first."""
        return [timer for _, _, _, timer in sorted(self._heap) if timer.live]
