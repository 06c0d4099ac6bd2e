"""Sleeping that others can end: a retry's delay, a throttled call's wait.

A sleeper is signalled (go on and look again) or interrupted (give up: the task was
cancelled or timed out, or the framework is shutting down).
"""

from __future__ import annotations

import asyncio
import threading

from framework.protocols import Clock


class ThreadSleeper:
    """A sleeping thread."""

    __slots__ = ("_clock", "_condition", "_signalled", "interrupted")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._condition = threading.Condition(threading.Lock())
        self._signalled = False
        self.interrupted = False

    def wait(self, until: float | None) -> None:
        """Block until signalled, or until the monotonic second *until* if it is given."""
        with self._condition:
            while not self._signalled and not self.interrupted:
                remaining = None if until is None else until - self._clock.monotonic()
                if remaining is not None and remaining <= 0:
                    break
                self._clock.wait(self._condition, remaining)
            self._signalled = False

    def signal(self) -> None:
        """End the present wait, or the next one if there is none."""
        with self._condition:
            self._signalled = True
            self._condition.notify()

    def interrupt(self) -> None:
        """End the present wait and every later one."""
        with self._condition:
            self.interrupted = True
            self._condition.notify()


class LoopSleeper:
    """A sleeping coroutine; made and awaited on its loop's thread."""

    __slots__ = ("_clock", "_future", "_loop", "_signalled", "interrupted")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._signalled = False
        self.interrupted = False

    async def wait(self, until: float | None) -> None:
        """Suspend until signalled, or until the monotonic second *until* if it is given."""
        if not self._signalled and not self.interrupted:
            self._future = self._loop.create_future()
            timer = None if until is None else self._clock.call_at(until, self.signal)
            try:
                await self._future
            finally:
                self._future = None
                if timer is not None:
                    timer.cancel()
        self._signalled = False

    def signal(self) -> None:
        """End the present wait, or the next one if there is none."""
        self._call(self._on_signal)

    def interrupt(self) -> None:
        """End the present wait and every later one."""
        self._call(self._on_interrupt)

    def _call(self, fn: object) -> None:
        try:
            self._loop.call_soon_threadsafe(fn)  # type: ignore[arg-type]  # our own methods
        except RuntimeError:  # the loop is closed, and nobody sleeps on it any more
            self.interrupted = True

    def _on_signal(self) -> None:
        self._signalled = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def _on_interrupt(self) -> None:
        self.interrupted = True
        self._on_signal()
