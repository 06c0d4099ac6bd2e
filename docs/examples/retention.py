"""How long to keep finished tasks."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import background_task, setup_async_framework
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
            manager.wait_result(task_id, timeout=60)
            ids.append(task_id)
        assert forgotten.wait(60)
        assert list(manager.get_all_tasks()) == ids[1:]


def test_a_clean_up_by_hand() -> None:
    """cleanup_completed_tasks returns how many tasks it removed."""
    with TestClient(app):
        manager = app.state.task_manager
        manager.wait_result(manager.submit_nowait(double, (1,)), timeout=60)
        assert manager.cleanup_completed_tasks(max_age=0) == 1
        assert manager.get_all_tasks() == {}
