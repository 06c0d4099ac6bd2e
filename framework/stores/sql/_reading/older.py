"""What a process knows of the tasks that only the database holds: when and how they ended.

That is nine bytes for each. It is enough to count tasks, and to know at once how many of them
a clean-up removes, whoever asks and whatever the database does meanwhile.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from typing import Final

from framework._records.statuses import FINAL, TaskStatus
from framework.stores.sql._dialects.dialect import TICKS

STATUSES: Final = tuple(sorted(FINAL))
"""The final statuses; the place of one here is its code."""

_CODE_OF: Final = {status: code for code, status in enumerate(STATUSES)}
_BITS: Final = 3
"""The bits of a mark that are the code; the others are the ticks."""

CODES: Final = 2**_BITS
"""What a mark's ticks are multiplied by."""


class Older:
    """Tasks that have ended, the oldest first. Not thread-safe."""

    def __init__(self) -> None:
        self._ends = array("d")
        self._codes = bytearray()
        # The place of the oldest. Those before it were dropped: to take them out costs as much
        # as there are tasks behind them, so that is done when they are half of all.
        self._begin = 0

    def __len__(self) -> int:
        return len(self._ends) - self._begin

    def add(self, ended_at: float, status: TaskStatus) -> None:
        """Add a task that ended at a wall second."""
        stamp, code = _exact(ended_at), _CODE_OF[status]
        ends = self._ends
        if not len(self) or stamp >= ends[-1]:
            ends.append(stamp)
            self._codes.append(code)
            return
        place = bisect_right(ends, stamp, self._begin)
        ends.insert(place, stamp)
        self._codes.insert(place, code)

    def remove(self, ended_at: float, status: TaskStatus) -> None:
        """Take out a task that was added with this end and status."""
        stamp, code = _exact(ended_at), _CODE_OF[status]
        place = bisect_left(self._ends, stamp, self._begin)
        while self._codes[place] != code:
            place += 1
        del self._ends[place], self._codes[place]

    def extend(self, marks: Iterable[int]) -> None:
        """Add tasks that ended later than all others.

        Args:
            marks: For each its ticks times `CODES`, plus the code of its status; in order.
        """
        marks = list(marks)
        self._ends.extend([(mark >> _BITS) / TICKS for mark in marks])
        self._codes.extend([mark & (CODES - 1) for mark in marks])

    def counts(self) -> Counter[TaskStatus]:
        """Return how many ended in each status."""
        return _counts(self._codes[self._begin :])

    @property
    def first(self) -> float | None:
        """The wall second at which the oldest ended; None if there is none."""
        return self._ends[self._begin] if len(self) else None

    @property
    def last(self) -> float | None:
        """The wall second at which the last one ended; None if there is none."""
        return self._ends[-1] if len(self) else None

    def has(self, ended_at: float) -> bool:
        """Return whether a task ended at this very moment, give or take a tick."""
        # Databases read the number from a text, and some are a tick off.
        place = bisect_left(self._ends, ended_at - 2 / TICKS, self._begin)
        return place < len(self._ends) and self._ends[place] <= ended_at + 1 / TICKS

    def bound(self, ended_by: float, at_least: int) -> float:
        """Return up to which wall second to drop: *ended_by*, or later for *at_least* tasks.

        Tasks that ended at the same moment are dropped together.
        """
        if at_least <= 0 or not len(self):
            return ended_by
        return max(ended_by, self._ends[self._begin + min(at_least, len(self)) - 1])

    def drop(self, bound: float) -> Counter[TaskStatus]:
        """Drop the tasks that ended by wall second *bound*; return how many of each status."""
        end = bisect_right(self._ends, bound, self._begin)
        gone = _counts(self._codes[self._begin : end])
        self._begin = end
        if 2 * end >= len(self._ends):
            del self._ends[:end], self._codes[:end]
            self._begin = 0
        return gone


def _exact(stamp: float) -> float:
    return math.floor(stamp * TICKS) / TICKS


def _counts(codes: bytearray) -> Counter[TaskStatus]:
    return Counter({status: codes.count(code) for status, code in _CODE_OF.items()})
