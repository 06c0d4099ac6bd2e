"""The coroutines that a loop cannot close without: those whose bodies have not ended."""

from __future__ import annotations

from collections.abc import Callable

from framework._tasks.live import Driver, Home


class Drives:
    """The coroutines of one manager's tasks whose bodies have begun and not ended."""

    def __init__(self) -> None:
        self._homes: dict[Driver, Home] = {}
        self._watchers: dict[Driver, Callable[[Driver], None]] = {}

    def add(self, driver: Driver, home: Home) -> None:
        """Note a coroutine whose body begins, until `remove`; on its loop."""
        self._homes[driver] = home

    def remove(self, driver: Driver) -> None:
        """Forget a coroutine whose body has ended."""
        self._homes.pop(driver, None)
        if self._watchers:
            self._call_watcher(driver)

    def of(self, home: Home) -> list[Driver]:
        """Return the coroutines of *home* whose bodies have not ended; any thread."""
        return [driver for driver, its in self._homes.copy().items() if its is home]

    def when_ended(self, driver: Driver, call: Callable[[Driver], None]) -> None:
        """Have *call* called once a coroutine's body has ended, at once if it has."""
        self._watchers[driver] = call
        # It may have ended before it was watched; whoever takes the watcher out calls it.
        if driver not in self._homes:
            self._call_watcher(driver)

    def _call_watcher(self, driver: Driver) -> None:
        call = self._watchers.pop(driver, None)
        if call is not None:
            call(driver)
