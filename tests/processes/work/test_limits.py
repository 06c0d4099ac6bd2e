"""Limits that the code of a task sets around a wait, for which it would leave its process."""

from __future__ import annotations

import asyncio
import contextlib

import anyio
import pytest

from framework import background_task, get_task_manager, setup_async_framework
from framework.steps import Message, sleep
from framework.stores.sql import SQLStore
from tests.patience import PATIENCE

pytestmark = pytest.mark.extended("time")

ANSWER = Message("answer", int)
LIMIT = 0.2


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
