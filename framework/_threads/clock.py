"""The system clock: the only module of the framework that reads time or sleeps."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

_LOGGER = logging.getLogger("asyncframe")

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
        """Keep the timer from firing; harmless once it has fired."""
        self._clock._cancel(self)


class SystemClock:
    """Real time. Timers fire on one daemon thread, which ends when it has none left.

    Guarantees: a timer fires once or is cancelled, never both; timers fire in the order
    of their time, equal ones in the order of their making; a timer that raises is logged
    and harms no other.
    Relies on: callbacks that do not block.
    Lock order: the clock's lock is innermost; no callback runs under it.
    """

    def __init__(self) -> None:
        # Kept as attributes so that a patch of the time module moves nothing here.
        self.time: Callable[[], float] = time.time
        self.monotonic: Callable[[], float] = time.monotonic
        self.sleep: Callable[[float], None] = time.sleep
        self._changed = threading.Condition(threading.Lock())
        self._heap: list[tuple[float, int, Timer]] = []
        self._sequence = itertools.count()
        self._live = 0
        self._thread: threading.Thread | None = None

    async def asleep(self, seconds: float) -> None:
        """Suspend the calling coroutine for *seconds*, 0 or more."""
        await asyncio.sleep(seconds)

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> bool:
        """Wait as ``Condition.wait``; a *timeout* past the platform's is cut to it."""
        if timeout is not None:
            timeout = min(timeout, threading.TIMEOUT_MAX)
        return condition.wait(timeout)

    def hold(self) -> None:
        """Do nothing: real time stands still for nobody."""

    def release(self) -> None:
        """Do nothing: real time stands still for nobody."""

    def call_at(self, when: float, fn: Callable[[], object], *, background: bool = False) -> Timer:
        """Call *fn* on the timer thread at monotonic second *when*."""
        timer = Timer(self, when, fn, background)
        with self._changed:
            heapq.heappush(self._heap, (when, next(self._sequence), timer))
            self._live += 1
            if self._thread is None:
                self._start_thread()
            elif self._heap[0][2] is timer:
                self._changed.notify()
        return timer

    def close(self) -> None:
        """Cancel every timer and wait for the timer thread, unless it is the caller."""
        with self._changed:
            for _, _, timer in self._heap:
                timer.fn = None
            self._heap.clear()
            self._live = 0
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def forget_thread(self) -> None:
        """Begin anew in a forked child, where the timer thread does not exist."""
        self._changed = threading.Condition(threading.Lock())
        self._heap.clear()
        self._live = 0
        self._thread = None

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name="asyncframe-timers", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except BaseException:
            self._thread = None
            self._heap.pop()
            self._live -= 1
            raise

    def _cancel(self, timer: Timer) -> None:
        with self._changed:
            if timer.fn is None:
                return
            timer.fn = None
            self._live -= 1
            # A heap of nothing but cancelled timers must neither grow nor keep the thread.
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
            except BaseException:  # a timer thread that dies would stop every deadline
                _LOGGER.exception("a timer raised an error")
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
            # Decided under the lock, so that no timer can be set on a thread that leaves.
            self._thread = None
            return None


def join_all(threads: Iterable[ThreadT], timeout: float | None) -> list[ThreadT]:
    """Join *threads*, together for at most *timeout* real seconds; return those alive.

    Args:
        threads: Threads other than the calling one.
        timeout: Seconds, 0 or more; None to wait as long as it takes.
    """
    end = None if timeout is None else time.monotonic() + timeout
    joined = []
    for thread in threads:
        joined.append(thread)
        if end is None:
            thread.join()
        else:
            thread.join(min(max(0.0, end - time.monotonic()), threading.TIMEOUT_MAX))
    return [thread for thread in joined if thread.is_alive()]
