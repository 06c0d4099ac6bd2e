"""Tasks that start later."""

from __future__ import annotations

import asyncio

from framework import (
    TaskStatus,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from pytest_asyncframe.probe import Probe


@background_task
def remind(user: str) -> str:
    """Remind a user."""
    return f"{user}, it is time"


async def test_a_task_is_put_off(asyncframe: Probe) -> None:
    """A delayed task starts after its delay; the test does not wait for it."""
    task_id = remind.options(delay=3600)("ann")
    task = await asyncframe.completed(task_id)
    assert task.result == "ann, it is time"
    assert task.queue_time == 3600


def test_what_is_put_off_does_not_hold_up_the_end() -> None:
    """A shutdown cancels a delayed task immediately, without waiting for an hour."""

    async def main() -> None:
        async with setup_async_framework(None):
            manager = get_task_manager()
            task_id = await manager.submit(remind, ("bob",), delay=3600)
            task = await manager.get_task(task_id)
            assert task is not None
            assert task.status is TaskStatus.PENDING
            assert task.reason.startswith("delayed until ")
        task = await manager.get_task(task_id)
        assert task is not None
        assert task.status is TaskStatus.CANCELLED

    asyncio.run(main())
