"""Looking: finds a task by its id, and waits for its end, in whichever process it is."""

from __future__ import annotations

from collections.abc import Callable

from framework._manager.core import Core
from framework._records.records import TaskRecord
from framework._tasks.live import LiveTask
from framework._tasks.task import Task
from framework._threads.waiters import Onlooker


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
    record = core.ledger.find(task_id)
    if record is None or (sees is not None and not sees(record)):
        record = await core.others.find(task_id, sees=sees)
    return None if record is None else snapshot_of(core, record)


def snapshot_of(core: Core, record: TaskRecord) -> Task:
    """Return a snapshot of a task, which can say why it waits."""
    return Task(core.ledger.snapshot(record), source=record, scene=core.scene)


async def until_ended(core: Core, task_id: str, timeout: float | None) -> TaskRecord | None:
    """Suspend until a task has ended, without reading its outcome.

    Args:
        core: The core to ask.
        task_id: The task.
        timeout: Seconds, 0 or more, after which the record is returned as it is; None for no
            limit.

    Returns:
        Its record as it is then; None if the task is unknown.

    Raises:
        FrameworkNotStartedError: If another process has the task, and this one stops.
    """
    until = None if timeout is None else core.clock.monotonic() + timeout
    record = core.ledger.find(task_id)
    if isinstance(record, LiveTask):
        try:
            await core.results.until_final(record, timeout, Onlooker)
        except TimeoutError:
            return record
        if not record.was_given_away:
            return record
        task_id, timeout = core.results.elsewhere(record, until)
    elif record is not None:
        return record
    try:
        return await core.others.until_final(task_id, timeout)
    except TimeoutError:
        return await core.others.find(task_id, patient=False)
