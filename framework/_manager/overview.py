"""The overview: all tasks of a manager at once, and how many there are.

Lock order: that of the ledger, whose lock is held while copies are made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from framework._records.pages import PageQuery
from framework._records.records import TaskRecord
from framework._records.statuses import FINAL, PENDING, RUNNING, TaskStatus
from framework._running.ledger import Ledger
from framework._tasks.live import LiveTask, copy_record

_ALL: Final = PageQuery(1)


class Overview:
    """Reads many tasks of one manager.

    Args:
        ledger: Has the live tasks, the counters and the store.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def records(self, status: TaskStatus | None = None) -> dict[str, TaskRecord]:
        """Return copies of all records, or those with one status, by id; the store's first."""
        with self._ledger.lock:
            live = [copy_record(task) for task in self._ledger.unstored()]
        found: dict[str, TaskRecord] = {}
        for record in self._ledger.store.list(status):
            found[record.task_id] = record
        # A task that ended in between is in both; the store's record is the newer one.
        for task in live:
            if status is None or task.status is status:
                found.setdefault(task.task_id, task)
        return found

    def active_records(self) -> list[TaskRecord]:
        """Return copies of the records that are not final, of all processes."""
        with self._ledger.lock:
            own = [copy_record(task) for task in self._ledger.unfinished()]
        shared, large = self._ledger.shared, self._ledger.large
        if shared is None:
            return own
        ids = {task.task_id for task in own}
        # A task that has ended here in between is final in the store as well.
        known = shared.list() if large is None else large.active()
        others = [one for one in known if one.status not in FINAL]
        return own + [one for one in others if one.task_id not in ids]

    def matching(self, query: PageQuery) -> list[LiveTask]:
        """Return this process's tasks that the store may not have yet and that count, in order."""
        return query.in_order(self.counted(query))

    def counted(self, query: PageQuery) -> list[LiveTask]:
        """Return the same tasks in no order."""
        candidates, statuses = self._ledger.unstored(), query.chosen
        if replace(query, status=None, statuses=frozenset()).filters != _ALL:
            candidates = list(filter(query.may_count, candidates))
        if statuses is None:
            return candidates
        # With the lock, under which no status changes.
        with self._ledger.lock:
            return [task for task in candidates if task.status in statuses]

    def unstored(self, tasks: Iterable[LiveTask]) -> list[LiveTask]:
        """Return those that are live, or have just ended and are not in the store yet."""
        find = self._ledger.store.get
        return [one for one in tasks if one.status not in FINAL or find(one.task_id) is None]

    def figures(self) -> dict[str, int]:
        """Return a consistent snapshot of the counters, of all processes that share a store."""
        own, shared = self.own_figures(), self._ledger.shared
        return own if shared is None else _with_others(own, shared.figures())

    def own_figures(self) -> dict[str, int]:
        """Return a consistent snapshot of the counters of this process."""
        ledger = self._ledger
        with ledger.lock:
            figures = {"submitted": ledger.submitted}
            figures |= {PENDING.value: ledger.pending, RUNNING.value: ledger.running}
            figures |= {status.value: count for status, count in ledger.ended.items()}
            figures |= dict(ledger.extra)
            figures["kept"] = ledger.kept
        return figures


def _with_others(own: dict[str, int], shared: dict[str, int]) -> dict[str, int]:
    """Return the counters of all processes: *own* live tasks, plus the counts of the store."""
    figures = own | shared
    for status in TaskStatus:
        live = 0 if status.is_final else own[status.value]
        figures[status.value] = live + shared.get(status.value, 0)
    figures["submitted"] = sum(figures[status.value] for status in TaskStatus)
    figures["kept"] = sum(figures[status.value] for status in TaskStatus if status.is_final)
    return figures
