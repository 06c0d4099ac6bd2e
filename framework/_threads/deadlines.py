"""Limits: one ordered queue and one timer for each distinct limit.

Guarantees: `expired` is called once for each entry that was added and not removed before
its deadline, in the order of the deadlines of one limit.
Relies on: `monotonic` that never goes back, so that entries of one limit are added in the
order of their deadlines.
Lock order: the lock here is held for the queues alone; the clock's lock may be taken
under it, `expired` is called without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from framework.protocols import Clock, TimerHandle

T = TypeVar("T")


class _Queue(Generic[T]):
    __slots__ = ("entries", "timer")

    def __init__(self) -> None:
        self.entries: dict[T, float] = {}
        self.timer: TimerHandle | None = None


class Deadlines(Generic[T]):
    """The deadlines of what runs now.

    Adding and removing cost one dict operation each; a timer is set only when a queue has
    none, so once per limit's length and not once per task.

    Args:
        clock: Whose timers to use.
        expired: Called with an entry whose deadline has passed, on the timer's thread.
    """

    def __init__(self, clock: Clock, expired: Callable[[T], object]) -> None:
        self._clock = clock
        self._expired = expired
        self._lock = threading.Lock()
        self._queues: dict[float, _Queue[T]] = {}

    def add(self, entry: T, limit: float, now: float) -> None:
        """Expire *entry* after *limit* seconds, above 0, counted from *now*."""
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
        """Forget *entry*; return its deadline, or None if it was not there any more."""
        with self._lock:
            queue = self._queues.get(limit)
            if queue is None:
                return None
            deadline = queue.entries.pop(entry, None)
            if not queue.entries and queue.timer is not None:
                # Kept for the next entry, but nobody waits for it now.
                queue.timer.background = True
            return deadline

    def close(self) -> None:
        """Forget every entry and cancel every timer."""
        # All of it under the lock: a timer that fires meanwhile sets another one, or none.
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
        for entry in due:
            self._expired(entry)
