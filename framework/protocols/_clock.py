"""Time: what a framework reads the time and waits with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, runtime_checkable


class TimerHandle(Protocol):
    """A timer.

    Attributes:
        background: Whether nobody waits for it. Its owner may change this at any time.
    """

    background: bool

    def cancel(self) -> None:
        """Cancel the timer; does nothing if it has fired. May be called on any thread."""


@runtime_checkable
class Clock(Protocol):
    """The framework's only source of time; it reads the time and waits only through it."""

    def time(self) -> float:
        """Return the wall clock in seconds since the epoch, for timestamps."""
        ...

    def monotonic(self) -> float:
        """Return a time in seconds that never goes back, for durations and deadlines."""
        ...

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for *seconds*, 0 or more."""

    async def asleep(self, seconds: float) -> None:
        """Suspend the calling coroutine for *seconds*, 0 or more."""

    def call_at(
        self, when: float, fn: Callable[[], object], *, background: bool = False
    ) -> TimerHandle:
        """Call *fn* at monotonic time *when*, or immediately if that has passed.

        *fn* may be called on any thread, and must not block or raise. A *background* timer
        is one that nobody waits for.
        """
        ...

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> bool:
        """Wait like ``Condition.wait``, with the condition held; False on timeout."""
        ...

    def hold(self) -> None:
        """Called before work is queued; a virtual clock stands still until `release`."""
        return

    def release(self) -> None:
        """Called when queued work has ended and its callbacks have run."""
        return
