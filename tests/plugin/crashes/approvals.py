"""A refund that somebody approves, under crashes; run by the tests of crash points."""

from __future__ import annotations

from typing import ClassVar

import pytest
from fastapi import FastAPI

from framework import TaskId, background_task, get_task_manager, setup_async_framework
from framework.http import task_router
from framework.steps import Message, sleep, step
from pytest_asyncframe.probe import Probe

approval = Message("approval", bool)
app = FastAPI(lifespan=setup_async_framework)
app.include_router(task_router(messages=[approval]))
MARK = {"X-Requested-With": "tests"}


class Bank:
    """A bank that knows which refunds it has made."""

    refunded: ClassVar[set[str]] = set()


@step
async def refund(order: str) -> None:
    """Refund an order; the bank knows it by its number."""
    Bank.refunded.add(order)


@background_task(on_restart="resume")
async def settle(order: str) -> str:
    """Refund a day after somebody has approved."""
    if not await approval.receive(timeout=3 * 86_400):
        return "refused"
    await sleep(86_400)
    await refund(order)
    return f"refunded {order}"


@app.post("/refunds/{order}")
async def ask(order: str) -> TaskId[str]:
    """Ask for a refund; a second request is about the same task."""
    manager = get_task_manager()
    known = await manager.get_task(f"refund-{order}")
    if known is not None:
        return known.task_id
    return await manager.submit(settle, (order,), task_id=f"refund-{order}")


@pytest.fixture(autouse=True)
def bank() -> None:
    """No refunds."""
    Bank.refunded = set()


@pytest.mark.crash_points
async def test_an_approval_may_take_days(asyncframe: Probe) -> None:
    """It is refunded, whenever the process dies."""
    async with asyncframe.client(app, on_crash="again") as client:
        task_id = (await client.post("/refunds/7")).json()
        await asyncframe.clock.run_for(2 * 86_400)
        url, headers = f"/tasks/{task_id}/messages/approval", {**MARK, "Idempotency-Key": "a"}
        assert (await client.post(url, json=True, headers=headers)).status_code == 202
        task = await asyncframe.completed(task_id)

    assert task.result == "refunded 7"
    assert Bank.refunded == {"7"}
