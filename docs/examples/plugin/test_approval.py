"""A task that waits for a person, and a route by which that person decides."""

from __future__ import annotations

from datetime import timedelta

from fastapi import FastAPI

from framework import TaskId, background_task, get_task_manager, setup_async_framework
from framework.http import task_router
from framework.steps import Message, step
from pytest_asyncframe.probe import Probe

approval = Message("approval", bool)

app = FastAPI(lifespan=setup_async_framework)
app.include_router(task_router(messages=[approval]))

paid: list[str] = []


@step
async def pay(invoice: str) -> None:
    """Pay an invoice."""
    paid.append(invoice)


@background_task(on_restart="resume")
async def settle(invoice: str) -> str:
    """Pay if somebody approves within three days."""
    approved = await approval.receive(timeout=timedelta(days=3).total_seconds())
    if approved is None:
        return "nobody has decided"
    if not approved:
        return "refused"
    await pay(invoice)
    return "paid"


@app.post("/invoices/{invoice}", status_code=202)
async def receive(invoice: str) -> TaskId[str]:
    """Accept an invoice."""
    return await get_task_manager().submit(settle, (invoice,))


async def test_it_is_paid_once_somebody_approves(asyncframe: Probe) -> None:
    """The task waits for an hour, and then for nothing more."""
    async with asyncframe.client(app) as client:
        task_id = (await client.post("/invoices/7")).json()
        await asyncframe.clock.run_for(3_600)
        assert paid == []
        await client.post(
            f"/tasks/{task_id}/messages/approval",
            json=True,
            headers={"X-Requested-With": "tests", "Idempotency-Key": "7"},
        )
        task = await asyncframe.completed(task_id)

    assert task.result == "paid"
    assert paid == ["7"]
