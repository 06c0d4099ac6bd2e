"""Limits that the code of a task sets around a wait, for which it would leave its process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import anyio
import pytest

from framework import background_task, get_task_manager, setup_async_framework
from framework._running.outcomes import PublishAgain
from framework.steps import Message, sleep
from framework.steps._branches import Branch
from framework.steps._sleeps import Sleeps
from framework.stores.sql import SQLStore
from tests.patience import PATIENCE

pytestmark = pytest.mark.extended("time")

ANSWER = Message("answer", int)
LIMIT = 0.2
SEEN: list[object] = []


async def timed() -> None:
    """Wait in the limit of asyncio."""
    async with asyncio.timeout(LIMIT):
        await ANSWER.receive()


async def timed_by_call() -> None:
    """Wait by a call that has a limit."""
    await asyncio.wait_for(ANSWER.receive(), LIMIT)


async def timed_by_anyio() -> None:
    """Wait in the limit of anyio, which is a context manager made of a generator."""
    with anyio.fail_after(LIMIT), anyio.CancelScope():
        await ANSWER.receive()


async def timed_branches() -> None:
    """Wait in two branches, for as long as the one that waits for them likes."""
    branches = [asyncio.create_task(ANSWER.receive()), asyncio.create_task(sleep(1_000))]
    _, pending = await asyncio.wait(branches, timeout=LIMIT)
    for one in pending:
        one.cancel()
    raise TimeoutError


async def timed_group() -> None:
    """Wait in a group, which the limit cancels."""
    async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
        group.create_task(ANSWER.receive())
        group.create_task(sleep(1_000))


WAYS = {one.__name__: one for one in (timed, timed_by_call, timed_by_anyio, timed_branches)}
WAYS |= {timed_group.__name__: timed_group}


@background_task(on_restart="resume", name="tests.waits_in_a_limit")
async def waits_in_a_limit(way: str) -> str:
    """Wait for an answer, for so long and no longer."""
    with contextlib.suppress(TimeoutError):
        await WAYS[way]()
        return "answered"
    return "late"


@pytest.mark.parametrize("way", WAYS)
async def test_a_limit_ends_a_wait(sql_url: str, way: str) -> None:
    """A task does not leave for a wait that its own code ends by a limit, which would be gone."""
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        manager = get_task_manager()
        task_id = await manager.submit(waits_in_a_limit, (way,))

        assert await manager.get_result(task_id, timeout=PATIENCE) == "late"


@background_task(on_restart="resume", name="tests.waits_after_limits")
async def waits_after_limits() -> None:
    """Wait once limits were left that still have names."""
    async with asyncio.timeout(1_000) as first:
        await asyncio.sleep(0)  # noqa: TID251  # the loop goes once around
    with anyio.move_on_after(1_000) as second:
        await ANSWER.receive(timeout=0)
    await ANSWER.receive()
    SEEN.append((first, second))


async def test_a_limit_that_was_left(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task leaves for a wait after a limit, whose object its code may still have."""
    leaves, leave = asyncio.Event(), Sleeps._leave

    def noted(sleeps: Sleeps, left: PublishAgain, branches: Sequence[Branch]) -> None:
        leaves.set()
        leave(sleeps, left, branches)

    monkeypatch.setattr(Sleeps, "_leave", noted)
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        await get_task_manager().submit(waits_after_limits)
        await asyncio.wait_for(leaves.wait(), PATIENCE)
