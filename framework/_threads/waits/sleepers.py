"""Waits that another thread can end early: a retry's delay, a throttled call's turn.

A sleeper is signalled (look again and go on) or interrupted (give up: the task was
cancelled or timed out, or the framework shuts down).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from framework._threads.waiters import ThreadWaiter
from framework.protocols import Clock


class ThreadSleeper(ThreadWaiter):
    """A thread that sleeps: a waiter under a sleeper's names."""

    __slots__ = ()

    @property
    def interrupted(self) -> bool:
        """Whether it was interrupted."""
        return self._final

    signal = ThreadWaiter.nudge
    interrupt = ThreadWaiter.wake


class LoopSleeper:
    """A coroutine that sleeps; created and awaited on its loop's thread."""

    __slots__ = ("_clock", "_future", "_loop", "_signalled", "interrupted")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._signalled = False
        self.interrupted = False

    async def wait(self, until: float | None) -> None:
        """Suspend until signalled or interrupted, or until the monotonic second *until*.

        Args:
            until: None to wait for as long as it takes.
        """
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
        """End the current wait, or else the next one; any thread."""
        self._call(self._on_signal)

    def interrupt(self) -> None:
        """End the current wait and all later ones; any thread."""
        self._call(self._on_interrupt)

    def _call(self, fn: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(fn)
        except RuntimeError:  # the loop is closed, so no coroutine sleeps on it
            self.interrupted = True

    def _on_signal(self) -> None:
        self._signalled = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def _on_interrupt(self) -> None:
        self.interrupted = True
        self._on_signal()
