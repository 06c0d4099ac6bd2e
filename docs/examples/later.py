"""Tasks that run on a schedule, and tasks that start later."""

import asyncio
import threading

from framework import (
    TaskStatus,
    background_task,
    get_task_manager,
    scheduled_task,
    setup_async_framework,
)

refreshed = threading.Event()


@scheduled_task(every=60, jitter=0.1, run_at_start=True)
def refresh_cache() -> str:
    """Run at the start, and about once a minute while the framework runs."""
    refreshed.set()
    return "fresh"


@background_task
def remind(user: str) -> str:
    """Remind a user."""
    return f"{user}, it is time"


async def test_it_runs_at_the_start() -> None:
    """Each run is a task with the function's name."""
    refreshed.clear()
    async with setup_async_framework(None):
        await asyncio.to_thread(refreshed.wait, 10)
        manager = get_task_manager()
        assert manager.get_stats()["scheduled"] == 1
        (run,) = manager.get_all_tasks().values()
        assert str(run["name"]).endswith("refresh_cache")


async def test_a_task_is_put_off() -> None:
    """A delayed task starts after its delay."""
    async with setup_async_framework(None):
        manager = get_task_manager()
        task_id = remind.options(delay=0.02)("ann")
        assert await manager.get_result(task_id) == "ann, it is time"
        task = await manager.get_task(task_id)
        assert task is not None
        assert task.queue_time is not None
        assert task.queue_time >= 0.02


async def test_what_is_put_off_does_not_hold_up_the_end() -> None:
    """A shutdown cancels a delayed task immediately, without waiting for an hour."""
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
