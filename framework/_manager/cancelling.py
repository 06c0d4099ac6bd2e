"""Cancelling: tasks that wait, that run here, and that another process runs."""

from __future__ import annotations

from typing import Final

from framework._manager.core import Core
from framework._tasks.live import RUNNING, LiveTask
from framework._tasks.records import TaskRecord, TaskStatus
from framework._threads.waiters import Onlooker

_PATIENCE: Final = 1.0
"""How many seconds to wait for a cancelled coroutine to end."""

_FAR_PATIENCE: Final = 2.0
"""The same for another process, which must also get the request and report the end."""

_REASON: Final = "it was cancelled before it started"


async def cancel(core: Core, task_id: str) -> bool:
    """Request a task's cancellation; see `TaskManager.cancel_task`."""
    record = core.ledger.find(task_id)
    if core.elsewhere is not None and (record is None or record.remote):
        return isinstance(record, (LiveTask, type(None))) and await _elsewhere(
            core, task_id, record
        )
    if not isinstance(record, LiveTask) or not core.ledger.request_cancel(record):
        return False
    if core.intake.cancel_pending(record, _REASON):
        return True
    core.endings.stop_body(record)
    if record.spec.kind == "thread":
        return False
    try:
        await core.results.until_final(record, _PATIENCE, Onlooker)
    except TimeoutError:
        return False
    return record.status is TaskStatus.CANCELLED


async def _elsewhere(core: Core, task_id: object, own: LiveTask | None) -> bool:
    """Cancel a task that another process runs; *own* is its record if it was submitted here."""
    assert core.elsewhere is not None
    if not isinstance(task_id, str) or (own is not None and not core.ledger.request_cancel(own)):
        return False
    if own is not None and own in core.delays:
        return core.intake.cancel_pending(own, _REASON)
    # Wait for its record: its process may have returned the id before it wrote the record.
    if own is None and await core.elsewhere.find(task_id) is None:
        return False
    if not await core.elsewhere.cancel(task_id):
        return False
    if own is not None and own.status is RUNNING and own.spec.kind == "thread":
        # A thread cannot be stopped; the task can only check whether it was cancelled.
        return False
    record: TaskRecord | None = own
    try:
        if own is None:
            record = await core.elsewhere.until_final(task_id, _FAR_PATIENCE)
        else:
            await core.results.until_final(own, _FAR_PATIENCE, Onlooker)
    except TimeoutError:
        return False
    return record is not None and record.status is TaskStatus.CANCELLED
