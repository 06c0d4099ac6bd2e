"""The system clock. No other module of the framework reads time or sleeps."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from framework._threads.loggers import SafeLogger

_LOGGER = SafeLogger("asyncframe")

ThreadT = TypeVar("ThreadT", bound=threading.Thread)


class Timer:
    """A timer of `SystemClock`; see `protocols.TimerHandle`."""

    __slots__ = ("_clock", "background", "fn", "when")

    def __init__(
        self, clock: SystemClock, when: float, fn: Callable[[], object], background: bool
    ) -> None:
        self._clock = clock
        self.when = when
        self.fn: Callable[[], object] | None = fn
        self.background = background

    def cancel(self) -> None:
        """Keep the timer from firing; does nothing once it has fired."""
        self._clock._cancel(self)


class SystemClock:
    """Real time. Timers fire on one daemon thread, which ends when no timers are left.

    Guarantees: a timer fires once or is cancelled, never both. Timers fire in the order of
    their times, and timers of one time in the order in which they were set. An error raised
    by a timer is logged and does not affect other timers.

    Relies on: callbacks that do not block.

    Lock order: the clock's lock is innermost; no callback runs under it.

    Attributes:
        may_be_set: Whether `time` may move on its own: by whoever sets the clock, or while the
            machine sleeps and `monotonic` stands still. Clocks without it do neither.
    """

    may_be_set: bool = True

    # Kept from the import on, so that a test that replaces them in the time module, as freezegun
    # does, stops no timer, also of a framework that starts inside it.
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __init__(self) -> None:
        # Kept from here on: the dates of what runs inside such a test are those that it set.
        self.time: Callable[[], float] = time.time
        self._changed = threading.Condition(threading.Lock())
        self._heap: list[tuple[float, int, Timer]] = []
        self._sequence = itertools.count()
        self._live = 0
        self._thread: threading.Thread | None = None
        # Those that may not have ended: one without a timer left ends beside the next one.
        self._threads: list[threading.Thread] = []

    async def asleep(self, seconds: float) -> None:
        """Suspend the calling coroutine for *seconds*, 0 or more."""
        await asyncio.sleep(seconds)

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> bool:
        """Wait as ``Condition.wait`` does; *timeout* may exceed ``threading.TIMEOUT_MAX``."""
        if timeout is not None:
            timeout = min(timeout, threading.TIMEOUT_MAX)
        return condition.wait(timeout)

    def hold(self) -> None:
        """Do nothing: real time cannot be held."""

    def release(self) -> None:
        """Do nothing: real time cannot be held."""

    def call_at(self, when: float, fn: Callable[[], object], *, background: bool = False) -> Timer:
        """Call *fn* on the timer thread at monotonic second *when*."""
        timer = Timer(self, when, fn, background)
        with self._changed:
            heapq.heappush(self._heap, (when, next(self._sequence), timer))
            self._live += 1
            if self._thread is None:
                self._start_thread()
            # Only for the earliest: a thread that waits for an earlier timer will see this one.
            elif self._heap[0][2] is timer:
                self._changed.notify()
        return timer

    def close(self) -> None:
        """Cancel all timers and join the timer threads, unless one is the calling one."""
        with self._changed:
            for _, _, timer in self._heap:
                timer.fn = None
            self._heap.clear()
            self._live = 0
            threads = self._threads
            self._changed.notify()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    def forget_thread(self) -> None:
        """Reset the clock in a forked child, where its timer thread does not exist."""
        # New, since the parent's thread may have held the old lock during the fork.
        self._changed = threading.Condition(threading.Lock())
        self._heap.clear()
        self._live = 0
        self._thread = None
        self._threads = []

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name="asyncframe-timers", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except BaseException:
            self._thread = None
            # Without a thread there was no other timer, so this is the one just pushed.
            self._heap.pop()
            self._live -= 1
            raise
        # A new list: `close` may be joining those of the old one.
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]

    def _cancel(self, timer: Timer) -> None:
        with self._changed:
            if timer.fn is None:
                return
            timer.fn = None
            self._live -= 1
            # Cancelled timers must not pile up, and must not keep the thread alive.
            if self._live == 0:
                self._heap.clear()
                self._changed.notify()
            elif len(self._heap) > 64 and self._live < len(self._heap) // 2:
                self._heap = [entry for entry in self._heap if entry[2].fn is not None]
                heapq.heapify(self._heap)

    def _run(self) -> None:
        while (fn := self._next()) is not None:
            try:
                fn()
            except BaseException:  # if the thread died, no timer would fire any more
                _LOGGER.exception("a timer raised an error")
            # The callback must not be kept alive while the thread waits for the next timer.
            del fn

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            while self._heap:
                when, _, timer = self._heap[0]
                if timer.fn is None:
                    heapq.heappop(self._heap)
                    continue
                remaining = when - self.monotonic()
                if remaining > 0:
                    self._changed.wait(min(remaining, threading.TIMEOUT_MAX))
                    continue
                heapq.heappop(self._heap)
                fn, timer.fn = timer.fn, None
                self._live -= 1
                return fn
            # Cleared under the lock: a timer set from now on starts a new thread.
            self._thread = None
            return None


def join_all(threads: Iterable[ThreadT], timeout: float | None) -> list[ThreadT]:
    """Join *threads* and return those that are still alive after *timeout*.

    Args:
        threads: Threads other than the calling one.
        timeout: Real seconds for all of them together, 0 or more; None to wait for as long
            as it takes.
    """
    end = None if timeout is None else time.monotonic() + timeout
    joined = []
    for thread in threads:
        joined.append(thread)
        left = None if end is None else max(0.0, end - time.monotonic())
        thread.join(None if left is None else min(left, threading.TIMEOUT_MAX))
    return [thread for thread in joined if thread.is_alive()]
