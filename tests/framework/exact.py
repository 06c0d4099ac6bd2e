"""A clock for properties: exact to the last bit, which `VirtualClock` in nanoseconds is not."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable

_ONE_THREAD = "a property waits in its only thread"


class ExactTimer:
    """A timer of `ExactClock`; see `framework.protocols.TimerHandle`."""

    def __init__(self, fn: Callable[[], object], background: bool) -> None:
        self.fn: Callable[[], object] | None = fn
        self.background = background

    def cancel(self) -> None:
        """Keep the timer from firing; harmless once it has fired."""
        self.fn = None


class ExactClock:
    """A `framework.protocols.Clock` of one thread, on which `advance_to` fires what is due.

    Timers fire in the order of their time, each while the clock shows it, equal ones in
    the order of their making.

    Args:
        start: Monotonic second to begin with.
    """

    def __init__(self, start: float = 1_000.0) -> None:
        self._now = start
        self._heap: list[tuple[float, int, ExactTimer]] = []
        self._sequence = itertools.count()

    # -- what the framework uses

    def time(self) -> float:
        """Return the same as `monotonic`: nothing here asks for a date."""
        return self._now

    def monotonic(self) -> float:
        """Return the second at which the clock stands."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Fail: there is one thread, which nobody could wake."""
        raise AssertionError(_ONE_THREAD)

    async def asleep(self, seconds: float) -> None:
        """Fail: the properties drive their loops themselves."""
        raise AssertionError(_ONE_THREAD)

    def call_at(
        self, when: float, fn: Callable[[], object], *, background: bool = False
    ) -> ExactTimer:
        """Call *fn* once the clock shows *when*."""
        timer = ExactTimer(fn, background)
        heapq.heappush(self._heap, (when, next(self._sequence), timer))
        return timer

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> bool:
        """Fail: there is one thread, which nobody could wake."""
        raise AssertionError(_ONE_THREAD)

    def hold(self) -> None:
        """Do nothing: the clock moves when it is told to."""

    def release(self) -> None:
        """Do nothing, as `hold`."""

    # -- what tests use

    def advance(self, seconds: float) -> None:
        """Move the clock on and fire what falls due."""
        self.advance_to(self._now + seconds)

    def advance_to(self, when: float) -> None:
        """Move the clock to exactly *when*, as `advance`."""
        while self._heap and self._heap[0][0] <= when:
            due, _, timer = heapq.heappop(self._heap)
            self._now = max(self._now, due)
            fn, timer.fn = timer.fn, None
            if fn is not None:
                fn()
        self._now = max(self._now, when)

    @property
    def timers(self) -> list[float]:
        """The seconds for which foreground timers are set, the earliest first."""
        return sorted(
            when for when, _, timer in self._heap if timer.fn is not None and not timer.background
        )
