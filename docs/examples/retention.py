"""How long to keep finished tasks."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import (
    TaskManager,
    TaskStatus,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework.protocols import TaskEvent


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep finished tasks for a day, but at most two of them."""
    async with setup_async_framework(
        app,
        result_ttl=86_400,  # forget tasks that ended a day ago
        cleanup_interval=3_600,  # clean up once an hour
        max_finished_tasks=2,  # never keep more than two
    ):
        yield


app = FastAPI(lifespan=lifespan)


@background_task
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


async def names_of(manager: TaskManager, status: TaskStatus) -> list[str]:
    """Return the names of all tasks with one status, read in pages."""
    page = await manager.list_tasks(status=status, limit=20)
    names = [task.name for task in page.tasks]
    while page.next is not None:
        page = await manager.list_tasks(status=status, limit=20, after=page.next)
        names += [task.name for task in page.tasks]
    return names


def test_the_oldest_are_forgotten() -> None:
    """Of three finished tasks, the two that ended last are kept."""
    forgotten = threading.Event()

    def note_eviction(event: TaskEvent) -> None:
        if event.kind == "evicted":
            forgotten.set()

    with TestClient(app):
        manager = app.state.task_manager
        manager.subscribe(note_eviction)
        ids = []
        for number in range(3):
            task_id = manager.submit_nowait(double, (number,))
            manager.wait_result(task_id, timeout=10)
            ids.append(task_id)
        assert forgotten.wait(10)
        assert list(manager.get_all_tasks()) == ids[1:]


def test_a_clean_up_by_hand() -> None:
    """cleanup_completed_tasks returns how many tasks it removed."""
    with TestClient(app):
        manager = app.state.task_manager
        manager.wait_result(manager.submit_nowait(double, (1,)), timeout=10)
        assert manager.cleanup_completed_tasks(max_age=0) == 1
        assert manager.get_all_tasks() == {}


async def test_pages() -> None:
    """All pages together have all tasks, the newest first."""
    async with setup_async_framework(None, max_finished_tasks=100):
        manager = get_task_manager()
        for number in range(30):
            await manager.submit(double, (number,), wait=True)
        names = await names_of(manager, TaskStatus.COMPLETED)
        assert names == [f"{__name__}.double"] * 30
