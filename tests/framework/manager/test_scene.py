"""Where a task waits that is PENDING for no reason of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from framework import (
    Task,
    TaskManager,
    ThreadPoolExecutorEnhanced,
    get_task_manager,
    setup_async_framework,
)
from framework._manager.scene import _ordinal
from framework._threads.queue.item_queue import ItemQueue
from pytest_asyncframe.probe import Probe
from tests.patience import PATIENCE


@pytest.fixture
async def busy() -> AsyncIterator[TaskManager]:
    """A manager whose only thread is busy until the test ends."""
    gate, started = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        gate.wait(PATIENCE)

    async with setup_async_framework(None, max_workers=1):
        manager = get_task_manager()
        await manager.submit(hold)
        await asyncio.to_thread(started.wait, PATIENCE)
        yield manager
        gate.set()


async def known(manager: TaskManager, task_id: str) -> Task:
    """Return a task that is known."""
    task = await manager.get_task(task_id)
    assert task is not None
    return task


async def test_places(busy: TaskManager) -> None:
    """Each task says which place it has; who leaves the queue makes the others move up."""
    ids = [await busy.submit(int) for _ in range(12)]
    tasks = [await known(busy, one) for one in ids]
    assert [task.reason for task in tasks[:4]] == [
        "queued 1st of 12", "queued 2nd of 12", "queued 3rd of 12", "queued 4th of 12"
    ]  # fmt: skip
    assert await busy.cancel_task(ids[0]) is True
    assert tasks[2].explain() == tasks[2].to_dict()["reason"] == "queued 2nd of 11"


async def test_a_list_looks_up_no_places(
    busy: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of many tasks says how many wait, and looks up no place in the queue."""
    ids = [await busy.submit(int) for _ in range(100)]
    looks, place_of = [0], ItemQueue.place_of

    def counted(queue: ItemQueue, item: Any, more: Sequence[Any]) -> tuple[int, int] | None:
        looks[0] += 1
        return place_of(queue, item, more)

    monkeypatch.setattr(ItemQueue, "place_of", counted)
    shown = busy.get_all_tasks()
    assert {shown[one]["reason"] for one in ids} == {"queued, one of 100"}
    page = await busy.list_tasks(status="pending")
    assert {task.to_dict()["reason"] for task in page.tasks} == {"queued, one of 100"}
    assert looks == [0]
    assert (await known(busy, ids[1])).reason == "queued 2nd of 100"
    assert looks == [1]


async def test_calls_of_the_pool_count(busy: TaskManager) -> None:
    """What was submitted to the pool itself has its place in the queue, too."""
    busy.pool.submit(int)
    assert (await known(busy, await busy.submit(int))).reason == "queued 2nd of 2"


async def test_priorities_count(busy: TaskManager) -> None:
    """A task that will be taken first has the first place."""
    await busy.submit(int)
    urgent = await busy.submit(int, priority="high")
    assert (await known(busy, urgent)).reason == "queued 1st of 2"


async def test_low_priorities_are_not_overtaken_for_ever(busy: TaskManager) -> None:
    """The place of a task with low priority counts those that overtake it, and no others."""
    low = await busy.submit(int, priority="low")
    for _ in range(30):
        await busy.submit(int, priority="high")
    assert (await known(busy, low)).reason == "queued 11th of 31"


@pytest.mark.asyncframe(mode="manual")
async def test_places_in_a_test(asyncframe: Probe) -> None:
    """Tasks that a test holds back have places, too."""
    manager = asyncframe.manager
    first, _ = [await manager.submit(int) for _ in range(2)]
    urgent = await manager.submit(int, priority="high")
    assert (await known(manager, first)).reason == "queued 2nd of 3"
    assert (await known(manager, urgent)).explain() == "queued 1st of 3"
    assert manager.get_all_tasks()[first]["reason"] == "queued, one of 3"
    asyncframe.executor.drain()


async def test_a_delayed_task_has_no_place(busy: TaskManager) -> None:
    """A delayed task is not in the queue until its time has come."""
    await busy.submit(int, delay=60)
    assert (await known(busy, await busy.submit(int))).reason == "queued 1st of 1"


async def test_a_task_that_a_thread_has_taken() -> None:
    """A PENDING snapshot of a task that runs by now has no place any more."""
    async with setup_async_framework(None, max_workers=1):
        manager = get_task_manager()
        task = await known(manager, await manager.submit(int))
        await manager.get_result(task.task_id)
        assert task.reason == "queued"


async def test_a_coroutine_waits_for_its_loop() -> None:
    """An async def task waits for no thread."""

    async def body() -> None:
        """Return at once."""

    async with setup_async_framework(None):
        manager = get_task_manager()
        task = await known(manager, await manager.submit(body))
        assert task.reason == "queued; it starts when its event loop turns"


def test_ordinals() -> None:
    """Places are counted as in a text."""
    numbers = (1, 2, 3, 4, 10, 11, 12, 13, 21, 22, 101, 111, 1_002)
    assert [_ordinal(one) for one in numbers] == [
        "1st", "2nd", "3rd", "4th", "10th", "11th", "12th", "13th", "21st", "22nd", "101st",
        "111th", "1,002nd",
    ]  # fmt: skip


async def test_the_pool_of_a_user() -> None:
    """Places in a pool of the user's own are told as well."""
    gate, started = threading.Event(), threading.Event()

    def occupy() -> None:
        started.set()
        assert gate.wait(PATIENCE)

    with ThreadPoolExecutorEnhanced(max_workers=1) as pool:
        pool.submit(occupy)
        async with setup_async_framework(None, executor=pool):
            await asyncio.to_thread(started.wait, PATIENCE)
            manager = get_task_manager()
            first, second = await manager.submit(int), await manager.submit(int)
            assert (await known(manager, second)).reason == "queued 2nd of 2"
            gate.set()
            await manager.get_result(first)
