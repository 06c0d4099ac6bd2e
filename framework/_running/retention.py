"""Retention: removes finished tasks that are too old, or the oldest if there are too many."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from framework._records.records import TaskRecord
from framework._running.ledger import Ledger
from framework._running.log import report_unread

_SPARE: Final = 128
"""If there are too many finished tasks, one in this many is removed at once."""


class Retention:
    """Removes finished tasks of one manager.

    Args:
        ledger: Counts them, and has the store.
        max_finished: How many are kept, 0 or more.
        forget: Called with the ids of removed tasks, for a remote engine; None if there is none.
    """

    def __init__(
        self, ledger: Ledger, max_finished: int, forget: Callable[[list[str]], None] | None = None
    ) -> None:
        self._ledger = ledger
        self.max_finished = max_finished
        self._forget = forget

    def trim(self) -> None:
        """Remove the oldest finished tasks, since there are too many."""
        # A few more than necessary, so that not every further task has to do it again.
        self.evict(keep=self.max_finished - self.max_finished // _SPARE)

    def evict(self, *, ended_before: float | None = None, keep: int | None = None) -> int:
        """Remove finished tasks from the store and return how many.

        Args:
            ended_before: Remove those that ended at this monotonic second or before; None for
                no limit.
            keep: Remove the oldest until this many are left; None for no limit.
        """
        ledger = self._ledger
        wanted = self._forget is not None or "evicted" in ledger.sinks
        removed, told = ledger.store.remove(ended_before=ended_before, keep=keep, completed=wanted)
        self.tell(told)
        if removed:
            with ledger.lock:
                # Tasks of other processes are removed as well, and were not counted here.
                ledger.kept = max(0, ledger.kept - removed)
                ledger.extra["evicted"] += removed
        return removed

    def tell(self, told: Iterable[TaskRecord]) -> None:
        """Tell of tasks that were removed from the store."""
        ledger = self._ledger
        records = list(told)
        report_unread(records)
        ledger.calls.forget(records)
        if ledger.sinks:
            for record in records:
                ledger.publish_evicted(record)
        if records and self._forget is not None:
            self._forget([str(record.task_id) for record in records])
