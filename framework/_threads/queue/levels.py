"""Three levels of priority, of which none waits for ever.

A level is the place of a priority in `PRIORITIES`, 0 for high. An item of a lower level
starts after those of higher levels, but while it waits, at most `PATIENCE` of them in a row
start before the first item of its own level.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Final

from framework._tasks.options import NORMAL, PRIORITIES

PATIENCE: Final = 10
"""How many items of higher levels may start, one after another, before a waiting item.

A count and not a time: the order then depends on nothing but the items, and a low level still
gets one of eleven places of a pool that never has enough.
"""


def level_of(item: object) -> int:
    """Return the level of a queued item; a call of the bare pool has none, so it is normal."""
    level: int = getattr(item, "level", NORMAL)
    return level


class Ranking:
    """Chooses the next level, and counts how long the lower ones have waited.

    Without a lock: if two threads choose at once, a count may be one too low.
    """

    __slots__ = ("_passed",)

    EMPTY: ClassVar[tuple[int, ...]] = (0,) * len(PRIORITIES)
    """How many items of each level wait if none does."""

    def __init__(self) -> None:
        # For each level, how many items of higher levels have started while it waited.
        self._passed = [0] * len(PRIORITIES)

    def choose(self, waiting: Sequence[int]) -> int:
        """Return the level whose first item is next.

        Args:
            waiting: How many items of each level wait, 1 or more in all.
        """
        waits = [level for level, count in enumerate(waiting) if count]
        overdue = [level for level in waits if self._passed[level] >= PATIENCE]
        return overdue[-1] if overdue else waits[0]

    def started(self, chosen: int, waiting: Sequence[int]) -> None:
        """Count the start of an item of level *chosen*, with *waiting* as it was before."""
        passed = self._passed
        passed[chosen] = 0
        for level in range(chosen + 1, len(waiting)):
            if waiting[level]:
                passed[level] += 1

    def place(self, level: int, ahead: int, waiting: Sequence[int]) -> int:
        """Return the position at which an item will start, from 1, if no other one comes.

        Args:
            level: Its level.
            ahead: How many items of its own level wait before it.
            waiting: How many items of each level wait, this one included.
        """
        later, left, place = Ranking(), [*waiting], 0
        later._passed = passed = self._passed.copy()
        while True:
            chosen = later.choose(left)
            lower = [other for other in range(chosen + 1, len(left)) if left[other]]
            # So many of them start in a row, before it is the turn of another level.
            row = min([left[chosen], *(max(PATIENCE - passed[other], 1) for other in lower)])
            if passed[chosen] >= PATIENCE:
                row = 1
            if chosen == level:
                if ahead < row:
                    return place + ahead + 1
                ahead -= row
            place += row
            left[chosen] -= row
            passed[chosen] = 0
            for other in lower:
                passed[other] += row


class LevelQueue:
    """Takes the place of a crew's deque once an item has another priority than normal.

    Its methods are those of a deque that a crew uses, and as atomic.

    Args:
        normal: The deque, whose items all have normal priority.
    """

    __slots__ = ("_levels", "ranking")

    def __init__(self, normal: deque[Any]) -> None:  # Any: the items of a crew
        self._levels: list[deque[Any]] = [deque() for _ in PRIORITIES]
        self._levels[NORMAL] = normal
        self.ranking = Ranking()

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def popleft(self) -> Any:
        """Remove the next item and return it; IndexError if there is none."""
        levels = self._levels
        while any(levels):
            waiting = [len(level) for level in levels]
            try:
                chosen = self.ranking.choose(waiting)
                item = levels[chosen].popleft()
            except IndexError:  # another thread was quicker
                continue
            self.ranking.started(chosen, waiting)
            return item
        raise IndexError("the queue is empty")

    def extend(self, items: Iterable[Any]) -> None:
        """Add *items*, each behind the others of its level."""
        for item in items:
            self._levels[level_of(item)].append(item)

    def appendleft(self, item: Any) -> None:
        """Put *item* back, before the others of its level."""
        self._levels[level_of(item)].appendleft(item)

    def copy(self) -> deque[Any]:
        """Return all items, those of higher levels first."""
        return deque(item for level in self._levels for item in level.copy())

    def copies(self) -> list[deque[Any]]:
        """Return the items of each level."""
        return [level.copy() for level in self._levels]

    def clear(self) -> None:
        """Remove all items."""
        for level in self._levels:
            level.clear()


def place_of(
    queue: deque[Any] | LevelQueue, waits: Callable[[Any], bool], item: Any, more: Sequence[Any]
) -> tuple[int, int] | None:
    """Return the position of *item* in the queue, from 1, and how many wait; any thread.

    It takes half a millisecond if 10,000 wait.

    Args:
        queue: What is queued, some of which may not wait any more.
        waits: Whether an item still waits.
        item: The item.
        more: Items that are to be queued next, in this order.

    Returns:
        None if it does not wait, or is being taken at this moment.
    """
    if isinstance(queue, deque):
        # All of it has normal priority.
        queue = LevelQueue(queue)
    levels = [[*filter(waits, items)] for items in queue.copies()]
    for one in more:
        levels[level_of(one)].append(one)
    counts, level = [len(items) for items in levels], level_of(item)
    try:
        ahead = levels[level].index(item)
    except ValueError:
        return None
    return queue.ranking.place(level, ahead, counts), sum(counts)
