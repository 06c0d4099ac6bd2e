"""Deadlines of running tasks: one queue and one timer for each distinct limit.

Guarantees: `expired` is called once for each entry that is not removed before its deadline.
Entries of one limit expire in the order of their deadlines.

Relies on: `monotonic`, which never goes back, so entries of one limit are added in the
order of their deadlines and a queue needs no sorting.

Lock order: the lock guards the queues. The clock's lock may be taken under it; `expired` is
called without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from framework.protocols import Clock, TimerHandle

T = TypeVar("T")


class _Queue(Generic[T]):
    """Deadlines of one limit by entry, the earliest first, and the timer for the earliest."""

    __slots__ = ("entries", "timer")

    def __init__(self) -> None:
        self.entries: dict[T, float] = {}
        self.timer: TimerHandle | None = None


class Deadlines(Generic[T]):
    """The deadlines of tasks or calls that run now.

    Adding and removing an entry cost one dict operation each. A timer is set only when a
    queue has none: about once in the length of the limit, not once for each entry.

    Args:
        clock: Sets the timers.
        expired: Called with each entry whose deadline has passed, on the timer's thread.
    """

    def __init__(self, clock: Clock, expired: Callable[[T], object]) -> None:
        self._clock = clock
        self._expired = expired
        self._lock = threading.Lock()
        self._queues: dict[float, _Queue[T]] = {}

    def add(self, entry: T, limit: float, now: float) -> None:
        """Expire *entry* after *limit* seconds, above 0, counted from monotonic second *now*."""
        with self._lock:
            queue = self._queues.get(limit)
            if queue is None:
                queue = self._queues[limit] = _Queue()
            queue.entries[entry] = now + limit
            if queue.timer is None:
                self._arm(queue, limit, now + limit)
            elif queue.timer.background:
                queue.timer.background = False

    def remove(self, entry: T, limit: float) -> float | None:
        """Remove *entry* and return its deadline; None if it expired or was removed before."""
        with self._lock:
            queue = self._queues.get(limit)
            if queue is None:
                return None
            deadline = queue.entries.pop(entry, None)
            if not queue.entries and queue.timer is not None:
                # Kept for the next entry, but nobody waits for it until then.
                queue.timer.background = True
            return deadline

    def of(self, entry: T, limit: float) -> float | None:
        """Return the deadline of *entry*; None if it has expired or was removed."""
        with self._lock:
            queue = self._queues.get(limit)
            return None if queue is None else queue.entries.get(entry)

    def left(self) -> list[tuple[T, float]]:
        """Return the entries that have neither expired nor been removed, with their deadlines."""
        with self._lock:
            return [found for queue in self._queues.values() for found in queue.entries.items()]

    def close(self) -> None:
        """Remove all entries and cancel all timers."""
        # All under the lock: a timer that fires meanwhile must find no entries, since it
        # would set another timer for them.
        with self._lock:
            for queue in self._queues.values():
                queue.entries.clear()
                if queue.timer is not None:
                    queue.timer.cancel()
            self._queues.clear()

    def _arm(self, queue: _Queue[T], limit: float, when: float) -> None:
        queue.timer = self._clock.call_at(when, lambda: self._fire(queue, limit))

    def _fire(self, queue: _Queue[T], limit: float) -> None:
        now = self._clock.monotonic()
        due: list[T] = []
        with self._lock:
            queue.timer = None
            for entry, deadline in queue.entries.items():
                if deadline > now:
                    self._arm(queue, limit, deadline)
                    break
                due.append(entry)
            for entry in due:
                del queue.entries[entry]
            if not queue.entries and self._queues.get(limit) is queue:
                del self._queues[limit]
        # Without the lock, since it calls into the pool or the framework.
        for entry in due:
            self._expired(entry)
