"""Streams of tasks that other processes run, and what tells of their changes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from framework import (
    TaskManager,
    TaskStatus,
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from framework._records.records import TaskRecord
from framework.engines.celery import CeleryEngine
from framework.http._streaming.followed import StepsFrame
from framework.http._streaming.frames import Frame
from framework.http._streaming.hub import Seat, hub_of
from framework.steps import step
from framework.stores.sql import SQLStore
from tests.patience import PATIENCE
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.app import make
from tests.processes.celery.workers import CeleryWorker
from tests.processes.sharing import RedisDatabase

GOING: dict[str, threading.Event] = {}

Pair = tuple[TaskManager, TaskManager]


async def both(stack: AsyncExitStack, *options: dict[str, Any]) -> Pair:
    """Start two frameworks with these options, as if in two processes."""
    managers = []
    for some in options:
        made = setup_async_framework(None, graceful_shutdown_timeout=0, **some)
        await stack.enter_async_context(made)
        managers.append(get_task_manager())
    return managers[0], managers[1]


@pytest.fixture
async def two(sql_url: str) -> AsyncIterator[Pair]:
    """Two frameworks with one database; the first runs the tasks."""
    async with AsyncExitStack() as stack:
        yield await both(stack, {"store": SQLStore(sql_url)}, {"store": SQLStore(sql_url)})


async def seat_of(manager: TaskManager, task_id: str) -> Seat:
    """Follow a task as a stream does."""
    task = await manager.get_task(task_id)
    assert task is not None
    return hub_of(manager._core).listen(task)


async def next_state(seat: Seat) -> Frame:
    """Return the next state that a seat gets."""
    while not isinstance(frame := await seat.next(), Frame):
        pass
    return frame


async def states(seat: Seat) -> list[tuple[str, float | None]]:
    """Return the states that a seat gets, up to the final one."""
    found = []
    async with asyncio.timeout(PATIENCE):
        while True:
            frame = await next_state(seat)
            found.append((frame._task.status.value, frame._task.progress))
            if frame.is_final:
                seat.topic.hub.unlisten(seat)
                return found


class Steps:
    """A task that goes on when it is told to."""

    def __init__(self) -> None:
        self.going = [threading.Event() for _ in range(2)]

    def body(self) -> str:
        """Report progress once, and return."""
        task = current_task()
        assert task is not None
        assert self.going[0].wait(PATIENCE)
        task.report_progress(0.5, "half")
        assert self.going[1].wait(PATIENCE)
        return "done"


async def test_a_task_of_another_process(two: Pair) -> None:
    """A stream has the progress and the end of a task that another process runs."""
    here, there = two
    steps = Steps()
    task_id = await here.submit(steps.body)
    seat = await seat_of(there, task_id)
    async with asyncio.timeout(PATIENCE):
        while (await next_state(seat))._task.status.value != "running":
            pass
        steps.going[0].set()
        while (await next_state(seat))._task.progress != 0.5:
            pass
        steps.going[1].set()
    assert await states(seat) == [("completed", 0.5)]
    assert hub_of(there._core).is_idle


@step
def note_half() -> None:
    """End at once."""


@background_task(on_restart="resume", name="telling.stepping")
def stepping(going: str) -> None:
    """Make a step, and go on when it is told to."""
    note_half()
    assert GOING[going].wait(PATIENCE)


@pytest.mark.extended("time")
async def test_steps_of_a_task_of_another_process(two: Pair) -> None:
    """A stream has the steps of a task that another process runs, within a second or so."""
    here, there = two
    GOING["stepping"] = threading.Event()
    task_id = await here.submit(stepping, ("stepping",))
    seat = await seat_of(there, task_id)
    async with asyncio.timeout(PATIENCE):
        while not isinstance(frame := await seat.next(), StepsFrame):
            pass
    (told,) = json.loads(frame.event("", True, False).partition(b"data: ")[2])["steps"]
    assert (told["name"], told["state"]) == (f"{__name__}.note_half", "completed")
    GOING["stepping"].set()
    assert (await states(seat))[-1] == ("completed", None)
    assert hub_of(there._core).is_idle


async def test_both_processes_give_a_state_the_same_id(two: Pair) -> None:
    """A client may come back to another process with the id of the last state that it got."""
    here, there = two
    steps = Steps()
    task_id = await here.submit(steps.body)
    steps.going[0].set()
    ids = []
    for manager in two:
        seat = await seat_of(manager, task_id)
        async with asyncio.timeout(PATIENCE):
            while (frame := await next_state(seat))._task.progress != 0.5:
                pass
        ids.append(frame.id)
        seat.topic.hub.unlisten(seat)
    assert ids[0] == ids[1]
    steps.going[1].set()
    assert (await there.wait(task_id)).status is TaskStatus.COMPLETED


async def test_waits_do_not_query_again_and_again(two: Pair) -> None:
    """A hundred waits for tasks of another process end, and one changed task is read at a time."""
    here, there = two
    going = threading.Event()
    ids = [await here.submit(going.wait, (PATIENCE,)) for _ in range(100)]
    elsewhere = there._core.others
    assert elsewhere.exist
    waits = [asyncio.ensure_future(there.wait(task_id)) for task_id in ids]
    await asyncio.wait(waits, timeout=0)
    assert elsewhere._has_news
    going.set()
    ended = await asyncio.wait_for(asyncio.gather(*waits), PATIENCE)
    assert {task.status for task in ended} == {TaskStatus.COMPLETED}
    assert not elsewhere._watched


async def test_a_cancelled_wait_leaves_nothing(two: Pair) -> None:
    """A wait for a task of another process that is cancelled is forgotten."""
    here, there = two
    steps = Steps()
    task_id = await here.submit(steps.body)
    wait = asyncio.ensure_future(there.wait(task_id))
    elsewhere = there._core.others
    assert elsewhere.exist
    # It is answered after the wait was taken in.
    await there.get_task(task_id)
    assert elsewhere._watched
    wait.cancel()
    await asyncio.wait([wait])
    assert not elsewhere._watched
    for going in steps.going:
        going.set()


async def test_a_task_of_a_worker(
    celery_redis: RedisDatabase, watched_worker: CeleryWorker
) -> None:
    """A stream of a process that did not submit the task has its start and its end."""
    engines: list[CeleryEngine] = [make(celery_redis.url, queue="watched") for _ in range(2)]
    async with AsyncExitStack() as stack:
        here, there = await both(stack, *({"engine": one} for one in engines))
        told: list[TaskRecord | None] = []
        task_id = await here.submit(celery_tasks.plain, (3,))
        elsewhere = there._core.others
        assert elsewhere.exist
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def hear(record: TaskRecord | None) -> None:
            told.append(record)
            if record is None or record.status.is_final:
                loop.call_soon_threadsafe(ended.set)

        elsewhere.follow(task_id, hear)
        await asyncio.wait_for(ended.wait(), PATIENCE)
    last = told[-1]
    assert last is not None
    assert (last.status, last.result) == (TaskStatus.COMPLETED, 4)
