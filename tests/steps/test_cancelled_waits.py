"""Waits for messages that are cancelled when one comes: none is lost, and none comes twice."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI

from framework import background_task, retry_task, setup_async_framework
from framework.http import Accepted, task_router
from framework.steps import Message
from pytest_asyncframe.probe import Probe

NOTE = Message("note", str)


@background_task(on_restart="resume", name="tests.asks_impatiently")
async def asks_impatiently(turns: int) -> list[str | None]:
    """Receive a message, cancelled after some turns of the loop, and receive again."""
    receiver = asyncio.create_task(NOTE.receive())
    for _ in range(turns):
        await asyncio.sleep(0)  # noqa: TID251  # a turn of the loop
    receiver.cancel()
    (first,) = await asyncio.gather(receiver, return_exceptions=True)
    return [first if isinstance(first, str) else None, await NOTE.receive(timeout=0)]


async def test_a_wait_cancelled_in_any_turn(asyncframe: Probe) -> None:
    """Whenever the first of two waits is cancelled, one of them gets the message."""
    results = []
    for turns in range(24):
        task_id = asks_impatiently(turns)
        await NOTE.send(task_id, "here")
        results.append(await asyncframe.manager.get_result(task_id))
    assert all(sorted(one, key=bool) == [None, "here"] for one in results), results
    # Else no wait was cancelled with the message.
    assert results[0][1] == results[-1][0] == "here"


@background_task(on_restart="resume", name="tests.changes_its_mind")
@retry_task(max_retries=1, retry_delay=1, exceptions=ConnectionError)
async def changes_its_mind(turns: int, attempts: list[int]) -> list[str | None]:
    """Receive a message as above, and fail; the next attempt does not cancel the first wait."""
    attempts.append(turns)
    receiver = asyncio.create_task(NOTE.receive(timeout=60))
    for _ in range(turns):
        await asyncio.sleep(0)  # noqa: TID251  # a turn of the loop
    if len(attempts) == 1:
        receiver.cancel()
    (first,) = await asyncio.gather(receiver, return_exceptions=True)
    second = await NOTE.receive(timeout=0)
    if len(attempts) == 1:
        raise ConnectionError("the mail server is away")
    assert not isinstance(first, BaseException)
    return [first, second]


# Its attempts differ, as those before and after a deploy do.
@pytest.mark.asyncframe(replay_steps="off")
async def test_a_wait_that_was_cancelled_goes_on(asyncframe: Probe) -> None:
    """What a cancelled wait gave to another one, it does not receive when an attempt repeats it."""
    results = []
    for turns in range(24):
        task_id = changes_its_mind(turns, [])
        await NOTE.send(task_id, "here")
        await asyncframe.clock.run_for(120.0)
        results.append(await asyncframe.manager.get_result(task_id))
    assert all(sorted(one, key=bool) == [None, "here"] for one in results), results
    # Else no wait was cancelled before it returned its message.
    assert [None, "here"] in results


@background_task(on_restart="resume")
async def asks_each_second() -> str | None:
    """Receive a message, within a second each time."""
    for _ in range(5):
        try:
            async with asyncio.timeout(1.0):
                return await NOTE.receive()
        except TimeoutError:
            pass
    return None


@pytest.mark.crash_points
async def test_crashes_beside_a_wait_that_times_out(asyncframe: Probe) -> None:
    """A message that comes at the second of a timeout is received, wherever the process dies."""
    app = FastAPI(lifespan=setup_async_framework)
    app.include_router(task_router(messages=[NOTE]))

    @app.post("/questions")
    async def ask() -> Accepted[str | None]:
        accepted: Accepted[str | None] = asks_each_second()
        return accepted

    async with asyncframe.client(app, on_crash="again") as client:
        asked = await client.post("/questions", headers={"Idempotency-Key": "one"})
        task_id = asked.json()["task_id"]
        await asyncframe.clock.run_for(1.0)
        headers = {"Idempotency-Key": "here", "X-Requested-With": "tests"}
        await client.post(f"/tasks/{task_id}/messages/note", json="here", headers=headers)
        assert (await asyncframe.completed(task_id)).result == "here"
