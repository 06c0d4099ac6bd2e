"""A payment that somebody approves, whatever crashes."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from framework import background_task, setup_async_framework
from framework.http import Accepted, task_router
from framework.steps import Message, step
from pytest_asyncframe.probe import Probe

approval = Message("approval", bool)

app = FastAPI(lifespan=setup_async_framework)
app.include_router(task_router(messages=[approval]))

paid: set[str] = set()


@step
async def pay(invoice: str) -> None:
    """Pay an invoice; the bank knows it by its number."""
    paid.add(invoice)


@background_task(on_restart="resume")
async def settle(invoice: str) -> str:
    """Pay if somebody approves within three days."""
    if not await approval.receive(timeout=3 * 86_400):
        return "refused"
    await pay(invoice)
    return "paid"


@app.post("/invoices/{invoice}")
async def receive(invoice: str) -> Accepted[str]:
    """Accept an invoice."""
    return settle(invoice)


@pytest.mark.crash_points
async def test_an_invoice_is_paid_once_approved(asyncframe: Probe) -> None:
    """Wherever the process dies, it is paid after somebody's word, and not before."""
    paid.clear()
    async with asyncframe.client(app, on_crash="again") as client:
        response = await client.post("/invoices/7", headers={"Idempotency-Key": "invoice-7"})
        await asyncframe.clock.run_for(120)
        assert not paid

        url = f"/tasks/{response.json()['task_id']}/messages/approval"
        headers = {"X-Requested-With": "tests", "Idempotency-Key": "yes"}
        await client.post(url, json=True, headers=headers)
        task = await asyncframe.completed(response)

    assert task.result == "paid"
    assert paid == {"7"}
