"""Whatever the order of events, what was opened is closed, once, and nobody hangs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
from fastapi import Depends

from framework import TaskStatus, background_task
from pytest_asyncframe.probe import Probe

# Coverage has the tracer that lines would need on Python 3.11.
LEVEL = "locks" if sys.gettrace() is not None and sys.version_info < (3, 12) else "line"

OPENED: list[str] = []
CLOSED: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    OPENED.clear()
    CLOSED.clear()


def get_session() -> Iterator[str]:
    """Open and close a session; a sync dependency."""
    OPENED.append("session")
    try:
        yield "session"
    finally:
        CLOSED.append("session")


async def get_client(session: str = Depends(get_session)) -> AsyncIterator[str]:
    """Open and close a client; an async dependency."""
    OPENED.append("client")
    try:
        yield f"client with {session}"
    finally:
        CLOSED.append("client")


@background_task
async def on_the_loop(client: str = Depends(get_client)) -> str:
    """Use both on the loop."""
    await asyncio.wait(
        (asyncio.get_running_loop().create_future(),), timeout=0.01
    )  # steady: virtual time
    return client


@background_task
def on_a_thread(client: str = Depends(get_client)) -> str:
    """Use both on a thread."""
    return client


@pytest.mark.extended("time")
@pytest.mark.interleave(seeds=60, policy="mixed", level=LEVEL)
async def test_cancelled_at_any_moment(asyncframe: Probe) -> None:
    """A coroutine that is cancelled at some moment has closed what it had opened by then."""
    task_id = on_the_loop()
    await asyncio.wait((asyncio.get_running_loop().create_future(),), timeout=0)
    await asyncframe.manager.cancel_task(task_id)
    task = await asyncframe.completed(task_id, check=False)
    await asyncframe.settled()
    assert task.status in (TaskStatus.CANCELLED, TaskStatus.COMPLETED)
    assert OPENED[::-1] == CLOSED


@pytest.mark.extended("time")
@pytest.mark.interleave(seeds=60, policy="mixed", level=LEVEL)
async def test_side_by_side(asyncframe: Probe) -> None:
    """A thread and a coroutine get their own dependencies, whoever comes first."""
    ids = [on_a_thread(), on_the_loop()]
    found = [(await asyncframe.completed(one)).result for one in ids]
    assert found == ["client with session"] * 2
    assert sorted(CLOSED) == sorted(OPENED) == ["client", "client", "session", "session"]
