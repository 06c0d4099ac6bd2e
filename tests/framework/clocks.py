"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import Callable

_PATIENCE = 10.0
"""Real seconds that a test may wait for other threads before it fails."""


class ManualTimer:
    """A timer of `ManualClock`; see `framework.protocols.TimerHandle`."""

    def __init__(
        self, clock: ManualClock, when: float, fn: Callable[[], object], background: bool
    ) -> None:
        self._clock = clock
        self.when = when
        self.fn: Callable[[], object] | None = fn
        self.background = background

    def cancel(self) -> None:
        """Keep the timer from firing; harmless once it has fired."""
        self._clock.cancel(self)


class ManualClock:
    """A `framework.protocols.Clock` that only `advance` moves; thread-safe.

    Timers fire on the thread that advances, each while the clock shows its own time,
    equal ones in the order of their making. One that is set for a moment which has
    passed fires on a thread of its own, since its setter may hold locks.

    Args:
        start: Monotonic second to begin with.
        epoch: Wall clock at second 0.

    Attributes:
        held: How many calls of `hold` have not been given back.
    """

    def __init__(self, start: float = 1_000.0, epoch: float = 1_700_000_000.0) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._advancing = threading.Lock()
        self._now = start
        self._epoch = epoch
        self._heap: list[tuple[float, int, ManualTimer]] = []
        self._sequence = itertools.count()
        self.held = 0

    # -- what the framework uses

    def time(self) -> float:
        """Return the wall clock in seconds since the epoch."""
        return self._epoch + self._now

    def monotonic(self) -> float:
        """Return the second at which the clock stands."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Block the calling thread until the clock has been moved by *seconds*."""
        woken = threading.Event()
        self.call_at(self._now + seconds, woken.set)
        woken.wait()

    async def asleep(self, seconds: float) -> None:
        """Suspend the calling coroutine until the clock has been moved by *seconds*."""
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        timer = self.call_at(self._now + seconds, lambda: loop.call_soon_threadsafe(woken.set))
        try:
            await woken.wait()
        finally:
            timer.cancel()

    def call_at(
        self, when: float, fn: Callable[[], object], *, background: bool = False
    ) -> ManualTimer:
        """Call *fn* once the clock shows *when*."""
        timer = ManualTimer(self, when, fn, background)
        with self._changed:
            passed = when <= self._now
            if not passed:
                heapq.heappush(self._heap, (when, next(self._sequence), timer))
                self._changed.notify_all()
        if passed:
            threading.Thread(target=self._fire_passed, args=(timer,), daemon=True).start()
        return timer

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> bool:
        """Wait as ``Condition.wait``, for *timeout* seconds of this clock."""
        if timeout is None:
            return condition.wait()
        expired = False

        def expire() -> None:
            nonlocal expired
            with condition:
                expired = True
                condition.notify_all()

        timer = self.call_at(self._now + timeout, expire)
        try:
            condition.wait()
        finally:
            timer.cancel()
        return not expired

    def hold(self) -> None:
        """Count one piece of work that is about to be queued."""
        with self._changed:
            self.held += 1
            self._changed.notify_all()

    def release(self) -> None:
        """Count one piece of work as done."""
        with self._changed:
            self.held -= 1
            self._changed.notify_all()

    # -- what tests use

    def advance(self, seconds: float) -> None:
        """Move the clock on and fire what falls due, in order, on this thread."""
        self.advance_to(self._now + seconds)

    def advance_to(self, when: float) -> None:
        """Move the clock to exactly *when*, as `advance`."""
        with self._advancing:
            while (fn := self._next_until(when)) is not None:
                fn()

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock on or back; monotonic time does not notice."""
        self._epoch += seconds

    @property
    def timers(self) -> list[float]:
        """The seconds for which foreground timers are set, the earliest first."""
        with self._changed:
            return self._timers()

    def wait_for_timers(self, count: int = 1) -> None:
        """Block until at least *count* foreground timers are set, by other threads."""
        with self._changed:
            reached = self._changed.wait_for(lambda: len(self._timers()) >= count, _PATIENCE)
        assert reached, f"only {len(self.timers)} of {count} timers were set"

    def wait_until_released(self) -> None:
        """Block until everything that was queued has ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.held == 0, _PATIENCE)

    # -- inside

    def cancel(self, timer: ManualTimer) -> None:
        """Keep *timer* from firing."""
        with self._changed:
            timer.fn = None
            self._heap = [entry for entry in self._heap if entry[2] is not timer]
            heapq.heapify(self._heap)

    def _timers(self) -> list[float]:
        return sorted(when for when, _, timer in self._heap if not timer.background)

    def _next_until(self, target: float) -> Callable[[], object] | None:
        with self._changed:
            while self._heap and self._heap[0][0] <= target:
                when, _, timer = heapq.heappop(self._heap)
                self._now = max(self._now, when)
                fn, timer.fn = timer.fn, None
                if fn is not None:
                    return fn
            self._now = max(self._now, target)
            return None

    def _fire_passed(self, timer: ManualTimer) -> None:
        with self._changed:
            fn, timer.fn = timer.fn, None
        if fn is not None:
            fn()
