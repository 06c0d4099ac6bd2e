"""Spare threads: which items the threads of a crew wait for, and who runs those meanwhile.

Guarantees: an item that a thread waits for is kept here until it is picked or nobody waits.

Relies on: the crew, which calls all of this with its lock held, and starts the spare threads.
"""

from __future__ import annotations

from typing import Any

from framework._threads.pool_threads import PoolThread
from framework._threads.queue.item_queue import ItemQueue
from framework.protocols._engines import Item


class Spares:
    """Knows which threads of a crew have stepped aside, and whether others must stand in.

    Attributes:
        blocked: How many threads have stepped aside and are not abandoned.
        most_blocked: The highest number that `blocked` ever had.
        wanted: What they wait for and other threads are to run. The latest is run first: the
            earlier ones may wait for it, and each of them would occupy one more thread.
        inline: What they wait for and will run themselves.

    Args:
        queue: The queue of the crew.
    """

    def __init__(self, queue: ItemQueue) -> None:
        self._queue = queue
        self.most_blocked = 0
        self.reset()

    def reset(self) -> None:
        """Forget who waits, in a forked child."""
        self.blocked = 0
        self.wanted: dict[Any, None] = {}
        self.inline: set[Any] = set()

    def step_aside(self, thread: PoolThread) -> None:
        """Count a wait that *thread* begins."""
        if not thread.abandoned:
            self.blocked += not thread.waits
            self.most_blocked = max(self.most_blocked, self.blocked)
            thread.waits += 1

    def step_back(self, thread: PoolThread, item: Item | None) -> None:
        """End the wait of *thread* for *item*; None for what no thread here runs."""
        self.inline.discard(item)
        if thread.waits:
            thread.waits -= 1
            self.blocked -= not thread.waits
        if not self.blocked:
            self.wanted.clear()

    def forget(self, thread: PoolThread) -> None:
        """End all waits of *thread*, which was abandoned."""
        self.blocked -= thread.waits > 0
        thread.waits = 0

    def want(self, item: Item) -> bool:
        """Let a spare thread run *item*; False if that does not wait in the queue."""
        waits = item in self._queue.waiting
        if waits:
            self.wanted[item] = None
        return waits

    def needed(self, active: int, max_workers: int) -> bool:
        """Return whether one more thread must stand in for those that wait.

        It must if an item is wanted, or if every thread stepped aside: what they wait for, such
        as a coroutine, may itself wait for something that is queued.

        Args:
            active: How many threads have neither stepped aside nor been abandoned.
            max_workers: How many of these may work at once.
        """
        queue = self._queue
        stuck = active <= 0 and not queue.waiting <= self.inline
        return (
            (bool(self.wanted) or stuck)
            and not queue.parked
            and not queue.coming
            and active < max_workers
        )

    def pick(self, others: int) -> Any | None:  # Any: an Item
        """Pick an item for a spare thread; None if it has nothing to do.

        Args:
            others: How many other threads work. If none does, it is given what is queued.
        """
        while self.wanted:
            item, _ = self.wanted.popitem()
            if self._queue.pick(item):
                return item
        return self._queue.pick_first() if self.blocked and others <= 0 else None
