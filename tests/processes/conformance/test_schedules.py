"""Schedules, on every backend: run, shown, paused and run by hand."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from framework import TaskStatus, scheduled_task
from framework.testing import lasting_schedules
from tests.patience import NEVER, PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import Backend

Declare = Callable[..., str]


@pytest.fixture
def schedule() -> Iterator[Declare]:
    """Schedule a function that workers know, in all frameworks of the test; return its name."""
    gc.collect()
    kept = []

    def declare(**options: Any) -> str:
        # A worker looks the function up by its name.
        name = options.setdefault("name", f"{tasks.__name__}.due_of")
        with lasting_schedules():
            kept.append(scheduled_task(**options)(tasks.due_of.fn))
        return str(name)

    yield declare
    kept.clear()
    gc.collect()


@pytest.mark.extended("time")
async def test_runs(backend: Backend, schedule: Declare) -> None:
    """A schedule submits its function again and again, and shows its last run."""
    name = schedule(every=0.2)
    async with backend.run() as manager:
        ended: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        manager.subscribe(
            lambda event: loop.call_soon_threadsafe(ended.put_nowait, event.name),
            kinds=["completed"],
        )
        async with asyncio.timeout(PATIENCE):
            assert [await ended.get() for _ in range(3)] == [name] * 3
        await manager.schedules.pause(name)
        (info,) = [one for one in await manager.schedules.get_all() if one.name == name]
    assert (info.timing, info.paused, info.last_status is None) == ("every 0.2 s", True, False)


async def test_by_hand(backend: Backend, schedule: Declare) -> None:
    """A paused schedule is run by hand, and its result is read as any other's."""
    name = schedule(every=NEVER)
    async with backend.run() as manager:
        await manager.schedules.pause(name)
        task_id = await manager.schedules.trigger(name)
        due = await manager.get_result(task_id, timeout=PATIENCE)
        assert isinstance(due, datetime)
        assert due.utcoffset() == timedelta(0)
        (info,) = [one for one in await manager.schedules.get_all() if one.name == name]
        assert (info.last_task_id, info.last_status) == (task_id, TaskStatus.COMPLETED)
        await manager.schedules.resume(name)
