"""Looking at the steps of a task; see `TaskManager.get_steps`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from framework._manager.core import Core
from framework._manager.face.looking import find_task
from framework._records.steps import StepInfo, StepRecord, info_of
from framework._tasks.live import LiveTask
from framework.exceptions import TaskNotFoundError


async def steps_of(core: Core, task_id: str) -> list[StepInfo]:
    """Return the steps of a task, those first that have ended, in that order.

    Raises:
        TaskNotFoundError: If the id is unknown.
        StoreUnavailableError: If a store that several processes share cannot be read.
    """
    if await find_task(core, task_id) is None:
        raise TaskNotFoundError(task_id)
    task, store = core.ledger.find(task_id), core.ledger.features.steps
    records: Sequence[StepRecord] = ()
    if isinstance(task, LiveTask) and task.steps is not None:
        records = task.steps.all()
    elif store is not None:
        records = await asyncio.to_thread(store.fetch_steps, task_id)
    return [info_of(one) for one in records]
