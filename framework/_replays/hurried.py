"""Loops for replays: where nothing is waited for but time, it passes at once."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

from framework._threads.clock import SystemClock


class _Selector(selectors.DefaultSelector):
    """Asks before it blocks.

    Args:
        before: Called with the seconds that it would block, None for no end; returns others.
    """

    def __init__(self, before: Callable[[float | None], float | None]) -> None:
        super().__init__()
        self._before = before

    def select(self, timeout: float | None = None) -> Any:  # Any: as the selector of the system
        """Return what is ready; see `selectors.BaseSelector.select`."""
        if timeout is None or timeout > 0:
            timeout = self._before(timeout)
        return super().select(timeout)


class HurriedLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers fire at once where that changes nothing but the time.

    Args:
        clock: Real time.
    """

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._ahead = 0.0
        self._until = 0.0
        self._may_hurry: Callable[[], bool] = bool
        super().__init__(_Selector(self._before_wait))
        # Of what code has left behind that was cut off, nobody need hear.
        self.set_exception_handler(lambda _loop, _context: None)

    def time(self) -> float:
        """Return its second, which is that of the clock or ahead of it."""
        return self._clock.monotonic() + self._ahead

    def begin(self, made: Coroutine[Any, Any, None], may_hurry: Callable[[], bool]) -> None:
        """Begin to run a coroutine.

        Args:
            made: The coroutine.
            may_hurry: Returns whether nothing goes on until a timer fires.
        """
        self._may_hurry = may_hurry
        self._task = self.create_task(made)
        self._task.add_done_callback(lambda _: self.stop())

    def go_on(self, seconds: float) -> bool:
        """Run what was begun; return whether it has ended within some real seconds.

        Raises:
            Exception: What it raises.
        """
        self._until = self._clock.monotonic() + seconds
        self.run_forever()
        if not self._task.done():
            return False
        self._task.result()
        return True

    def _before_wait(self, timeout: float | None) -> float | None:
        left = self._until - self._clock.monotonic()
        if left <= 0:
            self.stop()
            return 0.0
        if timeout is not None and self._may_hurry():
            self._ahead += timeout
            return 0.0
        return left if timeout is None else min(left, timeout)
