"""The queue of a crew: the items that wait for a thread, and the threads that wait for an item.

Guarantees: an item that was added is picked once. While items wait, all parked threads are
woken, each by the one woken before it.

Relies on: atomic operations of `deque`, `list` and `set`; the crew, which starts the threads
that `add` says are missing.

Picking: an item is in `items` and in `waiting`. The thread that removes it from `waiting` has
picked it, and only that thread runs or drops it. An item that was picked elsewhere stays in
`items` until it comes up.

Lock order: `lock` is the crew's, and no other is taken under it here. It is held to add items,
to put them back and to tidy up. Threads take items without it: if one was switched out with
the lock held, all others would queue up for the lock at every item. `release` takes no lock,
since the garbage collector may call it at any point of any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from framework._threads.pool_threads import PoolThread
from framework._threads.queue.levels import LevelQueue, place_of
from framework.protocols._engines import Item

_SLACK = 64
"""How many picked items may stay in the queue, beyond as many as wait."""


class ItemQueue:
    """What the threads of a crew take their items from.

    Attributes:
        items: What was added, in the order in which it starts.
        waiting: Those of the items that nobody has picked.
        parked: The threads that wait for an item, the latest last.
        coming: Whether a woken thread has yet to look at the queue. Until it does, no other
            thread is woken: it often finishes all short items by itself.
        closed: Whether nothing will be added any more.

    Args:
        lock: The crew's lock.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self.reset(lock)
        self.closed = False

    def reset(self, lock: threading.RLock) -> None:
        """Forget all items and threads, in a forked child, with a *lock* that nobody holds."""
        self._lock = lock
        self.items: deque[Any] | LevelQueue = deque()
        self.waiting: set[Any] = set()
        self.parked: list[PoolThread] = []
        self.coming = False

    def place_of(self, item: Any, more: Sequence[Any]) -> tuple[int, int] | None:
        """Return the position of *item*, and how many wait; see `levels.place_of`."""
        return place_of(self.items, self.waiting.__contains__, item, more)

    def in_line(self) -> Iterator[Any]:
        """Yield what waits in the order in which it starts, those of higher levels first."""
        return filter(self.waiting.__contains__, self.items.copy())

    def use_levels(self) -> None:
        """Start items by their level from now on; before that, they are in a plain deque."""
        with self._lock:
            if isinstance(self.items, deque):
                self.items = LevelQueue(self.items)

    def add(self, items: Sequence[Any]) -> int:
        """Queue *items* and wake a parked thread, which wakes the next; lock held.

        Returns:
            How many threads are missing, so that each item has one; 0 or less for none.
        """
        # In this order: a thread skips what it finds in `items` alone.
        self.waiting.update(items)
        self.items.extend(items)
        # All that wait are counted: parked threads may be needed for items queued before,
        # while the first woken thread is still on its way.
        missing = min(len(items), len(self.waiting) - len(self.parked) - self.coming)
        # A thread that parks after this look finds the items by itself.
        if self.parked and not self.coming:
            self.wake_one()
        return missing

    def put_back(self, item: Item) -> None:
        """Let *item*, which was picked for a thread that did not start, wait again; lock held."""
        self.waiting.add(item)
        self.items.appendleft(item)
        # A thread may have parked while the queue was empty.
        if not self.coming:
            self.wake_one()

    def pick(self, item: Item) -> bool:
        """Pick *item*, which may be waiting; False if another thread was quicker."""
        try:
            self.waiting.remove(item)
        except KeyError:
            return False
        return True

    def pick_first(self) -> Any | None:  # Any: an Item
        """Pick the first item that waits; None if there is none."""
        items = self.items
        while items:
            try:
                item = items.popleft()
            except IndexError:  # another thread was quicker
                return None
            if self.pick(item):
                return item
        return None

    def pick_all(self) -> list[Item]:
        """Pick everything that waits and return it; lock held."""
        picked = [item for item in self.items.copy() if self.pick(item)]
        self.items.clear()
        return picked

    def tidy(self) -> None:
        """Drop picked items from the queue, which would pile up while all threads are busy."""
        if len(self.items) <= 2 * len(self.waiting) + _SLACK:
            return
        with self._lock:
            # A thread may take an item from the copied queue meanwhile. The item is then put
            # back here, but only one thread can pick it.
            waiting = [one for one in self.items.copy() if one in self.waiting]
            self.items.clear()
            self.items.extend(waiting)
            # A thread may have parked while the queue was empty.
            self.wake_one()

    def take(self, thread: PoolThread) -> Any | None:  # Any: an Item
        """Count what *thread* has just run and wait for its next item; None if it must end."""
        # No lock, and `pick` and `pick_first` written out: every item passes here.
        items, waiting, stack = self.items, self.waiting, thread.stack
        if stack:
            thread.count()
        while True:
            # Asked again under the lock, under which a crew's `abandon` may take it back.
            if thread.abandoned and self._is_abandoned(thread):
                return None
            try:
                item = items.popleft()
            except IndexError:
                if not self._park(thread):
                    return None
                # `use_levels` may have replaced it.
                items = self.items
                continue
            # On the stack before it is picked, so that figures never miss it in between.
            stack.append(item)
            try:
                waiting.remove(item)
            except KeyError:  # it was discarded, or its waiter runs it
                stack.pop()
                continue
            # `add` wakes one thread for all its items, and each wakes the next.
            if items and self.parked and not self.coming:
                self.wake_one()
            return item

    def _is_abandoned(self, thread: PoolThread) -> bool:
        with self._lock:
            return thread.abandoned

    def _park(self, thread: PoolThread) -> bool:
        """Wait until there may be work; False if there will never be any."""
        if self._over():
            return False
        self.parked.append(thread)
        # 1 this thread finds the queue empty, 2 an item is queued, or `release` closes it, and
        # parked threads are woken, 3 this thread parks. So look again after 3.
        if self.items or self.closed:
            try:
                self.parked.remove(thread)
            except ValueError:  # another thread is about to open our gate
                pass
            else:
                return not self._over()
        thread.gate.acquire()
        # Cleared before this thread looks at the queue: an item queued while the flag was
        # still set woke nobody, and is found by that look.
        self.coming = False
        return True

    def _over(self) -> bool:
        """Whether no item waits and none will come."""
        if not self.closed:
            return False
        # With the lock, since `tidy` empties the queue for a moment.
        with self._lock:
            return not self.items

    def wake_one(self) -> None:
        """Wake the thread that has parked last, if any is parked."""
        try:
            thread = self.parked.pop()
        except IndexError:  # another thread was quicker, or all are busy
            return
        # In this order: the woken thread clears the flag, and a flag set later would stay.
        self.coming = True
        thread.gate.release()

    def release(self) -> None:
        """Let the threads end once the queue is empty; takes no lock, from any thread."""
        self.closed = True
        while self.parked:
            self.wake_one()


IDLE = ItemQueue._park.__code__
"""What a thread executes while it has nothing to run."""
