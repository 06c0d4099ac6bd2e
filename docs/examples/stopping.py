"""Time limits and cancellation in threads: the task checks."""

import asyncio
import threading

import pytest

from framework import (
    TaskCancelledError,
    TaskStatus,
    TaskTimeoutError,
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from framework.protocols import TaskEvent

first_page_begun = threading.Event()
go_on = threading.Event()


@background_task(timeout=60)
def convert(pages: int) -> int:
    """Convert a document page by page, and stop between pages when cancelled."""
    task = current_task()
    for number in range(1, pages + 1):
        if task is not None:
            task.check_cancelled()
        convert_page()
        if task is not None:
            task.report_progress(number / pages, f"page {number} of {pages}")
    return pages


def convert_page() -> None:
    """Stand for work that cannot be interrupted."""
    first_page_begun.set()
    go_on.wait(60)


@background_task
async def convert_politely(pages: int) -> int:
    """Stop at the next await when cancelled, without checking."""
    first_page_begun.set()
    await asyncio.Event().wait()
    return pages


async def stop(task_id: str) -> dict[str, str]:
    """Cancel a task, and answer what came of it."""
    answer = await get_task_manager().request_cancel(task_id)
    return {"outcome": answer.outcome, "why": answer.why}


def forget() -> None:
    """Reset the events between two tests."""
    first_page_begun.clear()
    go_on.clear()


async def test_a_thread_stops_when_it_asks() -> None:
    """cancel_task returns False for a thread; the task ends CANCELLED when it checks."""
    forget()
    async with setup_async_framework(None):
        manager = get_task_manager()
        task_id = convert(3)
        await asyncio.to_thread(first_page_begun.wait, 60)
        assert await manager.cancel_task(task_id) is False
        go_on.set()
        with pytest.raises(TaskCancelledError):
            await manager.get_result(task_id)


async def test_what_to_tell_whoever_stops_a_task() -> None:
    """Each state of a task gives its outcome: cancelled, asked or cannot."""
    forget()
    async with setup_async_framework(None, max_workers=1):
        manager = get_task_manager()
        running, queued, delayed = convert(3), convert(3), await manager.submit(int, delay=60)
        await asyncio.to_thread(first_page_begun.wait, 60)
        never = {"outcome": "cancelled", "why": "it had not started, and never will"}
        assert await stop(queued) == await stop(delayed) == never
        assert (await stop(running))["outcome"] == "asked"
        assert manager.get_all_tasks()[running]["cancel"] == "asked"
        go_on.set()
        with pytest.raises(TaskCancelledError):
            await manager.get_result(running)
        assert manager.get_all_tasks()[running]["cancel"] == "cancelled"
        done = await manager.submit(int)
        await manager.get_result(done)
        assert await stop(done) == {"outcome": "cannot", "why": "it has ended: completed"}
        assert (await stop("unknown"))["outcome"] == "cannot"


async def test_a_coroutine_stops_at_its_next_await() -> None:
    """An async task is cancelled and awaited, so cancel_task returns True."""
    forget()
    async with setup_async_framework(None):
        manager = get_task_manager()
        task_id = convert_politely(3)
        await asyncio.to_thread(first_page_begun.wait, 60)
        assert await manager.cancel_task(task_id) is True


async def test_at_the_limit_the_thread_runs_on() -> None:
    """The task is TIMEOUT at its limit; the thread runs until it checks."""
    forget()
    ended = threading.Event()

    def note_late_result(event: TaskEvent) -> None:
        if event.kind == "late_result":
            ended.set()

    async with setup_async_framework(None, max_workers=2):
        manager = get_task_manager()
        manager.subscribe(note_late_result)
        task_id = convert.options(timeout=0.2)(3)
        with pytest.raises(TaskTimeoutError):
            await manager.get_result(task_id)
        task = await manager.get_task(task_id)
        assert task is not None
        assert task.status is TaskStatus.TIMEOUT
        assert task.still_running
        assert manager.pool.get_stats()["abandoned"] == 1

        go_on.set()
        await asyncio.to_thread(ended.wait, 60)
        task = await manager.get_task(task_id)
        assert task is not None
        assert task.status is TaskStatus.TIMEOUT
        assert not task.still_running
