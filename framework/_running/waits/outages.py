"""Outages: a task that goes on waits while its store cannot be reached, and says so meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from framework._records.reasons import is_outage, unreachable
from framework._records.records import TaskRecord
from framework._records.statuses import RUNNING
from framework._records.steps import StepRecord
from framework._running.ledger import Ledger
from framework.protocols import StepChange, StepStore


def begin_outage(ledger: Ledger, task: TaskRecord, error: BaseException) -> None:
    """Note that a task waits for its store, from now on if it has not waited before; any thread."""
    if task.reason:
        return
    reason = unreachable(ledger.clock.time(), error)
    with ledger.lock:
        # Whatever else it waits for is what people want to know.
        if task.status is RUNNING and not task.reason:
            task.reason = reason


def end_outage(ledger: Ledger, task: TaskRecord) -> None:
    """Note that its store has answered a task; any thread."""
    if not is_outage(task.reason):
        return
    with ledger.lock:
        if task.status is RUNNING and is_outage(task.reason):
            task.reason = ""


def store_saying(
    store: StepStore,
    ledger: Ledger,
    task: TaskRecord,
    records: Sequence[StepRecord],
    told: Callable[[BaseException | None], object],
    change: StepChange,
) -> None:
    """Store steps of a task, which says so while it waits; see `StepStore.store_steps`."""

    def hear(error: BaseException | None) -> None:
        end_outage(ledger, task)
        told(error)

    fails = partial(begin_outage, ledger, task)
    store.store_steps(str(task.task_id), records, hear, change, fails)
