"""Tasks that sleep and wait for a person, under crashes; run by the tests of crash points."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from framework import background_task, setup_async_framework
from framework.http import Accepted, task_router
from framework.steps import Message, sleep, step
from pytest_asyncframe.probe import Probe

approval = Message("approval", str)

refunds: list[int] = []
mails: list[str] = []


@pytest.fixture(autouse=True)
def anew() -> None:
    """Clear what is outside of the process for each run."""
    refunds.clear()
    mails.clear()


@step
async def refund(order: int) -> None:
    """Refund an order, unless that was done."""
    if order not in refunds:
        refunds.append(order)


@background_task(on_restart="resume")
async def approved(order: int) -> str | None:
    """Refund what somebody approves within an hour."""
    by = await approval.receive(timeout=3_600)
    if by is not None:
        await refund(order)
    return by


@background_task(on_restart="resume")
async def mails_before_it_refunds(order: int) -> str | None:
    """Mail between what it receives and the next step."""
    by = await approval.receive(timeout=3_600)
    mails.append(f"approved by {by}")
    await refund(order)
    return by


@background_task(on_restart="resume")
async def approved_by_two(order: int) -> str | None:
    """Refund what two people approve."""
    by = await approval.receive(timeout=3_600), await approval.receive(timeout=3_600)
    if None not in by:
        await refund(order)
    return None


@background_task(on_restart="resume")
async def later(order: int) -> str | None:
    """Refund after a while."""
    await sleep(90)
    await refund(order)
    return None


@background_task(on_restart="resume")
async def refunded_when_cancelled(order: int) -> str | None:
    """Wait for somebody, and refund if that is cancelled."""
    try:
        return await approval.receive(timeout=3_600)
    except asyncio.CancelledError:
        await refund(order)
        mails.append("refunded")
        raise


def app_of(task: Callable[[int], Any]) -> FastAPI:
    """Return an app whose route submits *task*, and which takes approvals."""
    app = FastAPI(lifespan=setup_async_framework)
    app.include_router(task_router(messages=[approval]))

    @app.post("/refunds/{order}")
    async def ask(order: int) -> Accepted[str | None]:
        accepted: Accepted[str | None] = task(order)
        return accepted

    return app


async def ask(client: httpx.AsyncClient) -> str:
    """Ask for a refund; return the id of its task."""
    response = await client.post("/refunds/7", headers={"Idempotency-Key": "refund-7"})
    task_id: str = response.json()["task_id"]
    return task_id


async def approve(client: httpx.AsyncClient, task_id: str, key: dict[str, str]) -> None:
    """Approve a refund."""
    headers = {"X-Requested-With": "tests", **key}
    url = f"/tasks/{task_id}/messages/approval"
    assert (await client.post(url, json="Ann", headers=headers)).status_code == 202


KEY = {"Idempotency-Key": "Ann"}


async def refunded(asyncframe: Probe, task: Callable[[int], Any]) -> None:
    """Ask for a refund, and approve it while the task is outside of its process."""
    async with asyncframe.client(app_of(task), on_crash="again") as client:
        task_id = await ask(client)
        await asyncframe.clock.run_for(90)
        await approve(client, task_id, KEY)
        assert (await asyncframe.completed(task_id)).result == "Ann"
    assert refunds == [7]
    assert len(mails) <= 1


@pytest.mark.crash_points(depth=2)
async def test_cure_that_waits(asyncframe: Probe) -> None:
    """What is approved is refunded."""
    await refunded(asyncframe, approved)


@pytest.mark.crash_points(depth=2)
async def test_cure_that_sleeps(asyncframe: Probe) -> None:
    """It is refunded once the task has slept."""
    async with asyncframe.client(app_of(later), on_crash="again") as client:
        await asyncframe.completed(await ask(client))
        assert 90 <= asyncframe.clock.monotonic() < 94
    assert refunds == [7]


@pytest.mark.crash_points(depth=2)
async def test_cure_that_is_cancelled(asyncframe: Probe) -> None:
    """What is cancelled while its task is outside of its process is refunded."""
    async with asyncframe.client(app_of(refunded_when_cancelled), on_crash="again") as client:
        task_id = await ask(client)
        await asyncframe.clock.run_for(90)
        await client.delete(f"/tasks/{task_id}", headers={"X-Requested-With": "tests"})
        task = await asyncframe.completed(task_id, check=False)
        assert task.status == "cancelled"
    assert refunds == [7]
    assert mails


@pytest.mark.crash_points
async def test_bug_of_an_effect_after_a_message(asyncframe: Probe) -> None:
    """A mail is sent once."""
    await refunded(asyncframe, mails_before_it_refunds)


@pytest.mark.crash_points
async def test_bug_of_an_approval_that_is_not_repeated(asyncframe: Probe) -> None:
    """An approval arrives, though whoever approves does so once."""
    app = app_of(approved)
    async with asyncframe.client(app, on_crash="again") as client, asyncframe.client(app) as other:
        task_id = await ask(client)
        await asyncframe.clock.run_for(90)
        with contextlib.suppress(httpx.RemoteProtocolError):
            await approve(other, task_id, KEY)
        await asyncframe.completed(task_id)
    assert refunds == [7]


@pytest.mark.crash_points
async def test_bug_of_an_approval_without_a_key(asyncframe: Probe) -> None:
    """One person is not two."""
    async with asyncframe.client(app_of(approved_by_two), on_crash="again") as client:
        task_id = await ask(client)
        await asyncframe.clock.run_for(90)
        await approve(client, task_id, {})
        await asyncframe.completed(task_id)
    assert refunds == []
