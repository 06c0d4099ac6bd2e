"""Clean-up: removes finished tasks that are too old, at fixed intervals.

Relies on: the framework's clock, whose timers may fire on any thread.
Lock order: `_lock` guards the timer; only the clock's own lock is taken under it.
"""

from __future__ import annotations

import math
import threading

from framework._manager.settings import Settings
from framework._running.ledger import Ledger
from framework._running.retention import Retention
from framework.protocols import TimerHandle


class CleanUp:
    """The clean-up of one manager.

    Args:
        ledger: Has the clock and the store.
        retention: Removes finished tasks.
        settings: How often to clean up and what to keep; may be replaced at any time.
    """

    def __init__(self, ledger: Ledger, retention: Retention, settings: Settings) -> None:
        self.settings = settings
        self._ledger = ledger
        self._retention = retention
        self._lock = threading.Lock()
        self._running = False
        self._timer: TimerHandle | None = None

    def start(self) -> None:
        """Clean up every `cleanup_interval` seconds from now on; may be called twice."""
        with self._lock:
            if self._running:
                return
            self._running = True
        self._plan()

    def stop(self) -> None:
        """Stop cleaning up; may be called twice."""
        with self._lock:
            self._running = False
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _plan(self) -> None:
        interval = self.settings.cleanup_interval
        if math.isinf(interval):
            return
        clock = self._ledger.clock
        when = clock.monotonic() + interval
        with self._lock:
            if self._running:
                self._timer = clock.call_at(when, self._clean_up, background=True)

    def _clean_up(self) -> None:
        settings, retention = self.settings, self._retention
        retention.evict(ended_before=self._ledger.clock.monotonic() - settings.result_ttl)
        if self._ledger.shared is not None:
            # Several processes write there, and each counts only its own tasks.
            retention.evict(keep=settings.max_finished_tasks)
        self._plan()
