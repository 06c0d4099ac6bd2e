"""Forgetting finished tasks: those that are too old, and the oldest when there are too many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from framework._running.ledger import Ledger
from framework._running.log import report_unread

_SPARE: Final = 128
"""One in so many finished tasks is forgotten at once when there are too many."""


class Retention:
    """How many finished tasks one manager keeps.

    Args:
        ledger: Counts them, and has the store.
        max_finished: How many are kept, from 0 on.

    Attributes:
        forget: Has tasks forgotten where else they are known; None if nowhere.
    """

    def __init__(self, ledger: Ledger, max_finished: int) -> None:
        self._ledger = ledger
        self.max_finished = max_finished
        self.forget: Callable[[list[str]], None] | None = None

    def trim(self) -> None:
        """Remove the oldest finished tasks, since there are too many."""
        # Some more than it must, so that not every further task has to.
        self.evict(keep=self.max_finished - self.max_finished // _SPARE)

    def evict(self, *, ended_before: float | None = None, keep: int | None = None) -> int:
        """Remove finished tasks from the store; return how many.

        Args:
            ended_before: Those that ended by this monotonic second; None for any.
            keep: How many may stay; None for any number.
        """
        ledger = self._ledger
        wanted = self.forget is not None or "evicted" in ledger.sinks
        removed, records = ledger.store.remove(
            ended_before=ended_before, keep=keep, completed=wanted
        )
        ids = []
        for record in records:
            report_unread(record)
            ids.append(str(record.task_id))
            if ledger.sinks:
                ledger.publish_evicted(record)
        if ids and self.forget is not None:
            self.forget(ids)
        if removed:
            with ledger.lock:
                # What others have put there is removed as well, and was never counted.
                ledger.kept = max(0, ledger.kept - removed)
                ledger.extra["evicted"] += removed
        return removed
