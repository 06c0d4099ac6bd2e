"""Drives: the suspended coroutines of tasks, which must end before their loop can close."""

from __future__ import annotations

from collections.abc import Callable

from framework._tasks.live import Driver, Home


class Drives:
    """The coroutines of one manager's tasks that have been suspended and have not ended."""

    def __init__(self) -> None:
        self._homes: dict[Driver, Home] = {}
        self._watchers: dict[Driver, Callable[[Driver], None]] = {}

    def add(self, driver: Driver, home: Home) -> None:
        """Add a coroutine that has been suspended; called on its loop."""
        self._homes[driver] = home

    def remove(self, driver: Driver) -> None:
        """Remove a coroutine that has ended, and call its watcher; called on its loop."""
        self._homes.pop(driver, None)
        if self._watchers:
            self._call_watcher(driver)

    def of(self, home: Home) -> list[Driver]:
        """Return the coroutines of *home*; may be called from any thread."""
        return [driver for driver, its in self._homes.copy().items() if its is home]

    def when_ended(self, driver: Driver, call: Callable[[Driver], None]) -> None:
        """Call *call* when a coroutine has ended; at once if it has ended already."""
        self._watchers[driver] = call
        # It may have ended in between. Removing the watcher decides who calls it.
        if driver not in self._homes:
            self._call_watcher(driver)

    def _call_watcher(self, driver: Driver) -> None:
        call = self._watchers.pop(driver, None)
        if call is not None:
            call(driver)
