"""Looking: finds a task by its id, in whichever process it is."""

from __future__ import annotations

from collections.abc import Callable

from framework._manager.core import Core
from framework._records.records import TaskRecord
from framework._tasks.task import Task


async def find_task(
    core: Core, task_id: str, sees: Callable[[TaskRecord], bool] | None = None
) -> Task | None:
    """Return a snapshot of a task; None if the id is unknown.

    Args:
        core: The core to ask.
        task_id: The task.
        sees: Whether the caller may see a task. One that it may not see is looked for everywhere
            else too, as an unknown one is, so that the time does not tell them apart. None if it
            may see all.

    Raises:
        StoreUnavailableError: If a store that several processes share cannot be used.
    """
    record, others = core.ledger.find(task_id), core.others
    if record is not None and sees is not None and not sees(record):
        record = None
    if record is None:
        record = await others.find(task_id, sees=sees)
    if record is None:
        return None
    return Task(core.ledger.snapshot(record), source=record, scene=core.scene)
