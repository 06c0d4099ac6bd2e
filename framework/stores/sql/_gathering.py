"""Gathering: for how long the writer waits for more records before it writes those that it has.

Guarantees: a wait ends with what it waits for, whoever comes in between.
Lock order: none; events are set from any thread.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable


class Gathering:
    """The waits of one writer while records come.

    Args:
        count: Returns how many records wait.

    Attributes:
        hungry: Whether free tasks wait for a place here, so that each end is to be written soon.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        # Set when somebody comes who waits.
        self._urgent = threading.Event()
        # Set when as many records wait as a burst is expected to have.
        self._whole = threading.Event()
        self._burst = math.inf
        self.hungry = False

    # -- any thread

    def ended(self) -> None:
        """Note that the end of a task waits to be written."""
        self._came()
        if self.hungry:
            self._urgent.set()

    def hurry(self) -> None:
        """Note that somebody waits until a record is written."""
        self._came()
        self._urgent.set()

    def _came(self) -> None:
        if self._count() >= self._burst:
            self._whole.set()

    # -- the writer's thread

    def until_urgent(self, seconds: float, is_waited_for: Callable[[], bool]) -> bool:
        """Wait for *seconds*, or until somebody waits; return whether somebody does."""
        # In this order: whoever comes meanwhile is either seen here or ends the wait.
        self._urgent.clear()
        return is_waited_for() or self._urgent.wait(seconds)

    def until_whole(self, burst: int, seconds: float) -> None:
        """Wait for *seconds*, or until *burst* records wait."""
        self._whole.clear()
        # In this order: as above.
        self._burst = burst
        if self._count() < burst:
            self._whole.wait(seconds)
        self._burst = math.inf
