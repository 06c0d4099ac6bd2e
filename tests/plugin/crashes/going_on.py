"""Tasks that go on by `run_again`, of which the process dies at every commit: a module of tests."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from framework import (
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from framework.http import Accepted, task_router
from framework.steps import Message, step
from pytest_asyncframe.probe import Probe

effects: list[str] = []
"""What has been done: a table outside of the process."""

is_open: list[bool] = []
"""Whether the carrier works."""

approval = Message("approval", bool)


@pytest.fixture(autouse=True)
def anew() -> None:
    """Clear both for each run."""
    effects.clear()
    is_open.clear()


@background_task(on_restart="requeue", idempotent=True)
async def child(number: int) -> None:
    """Note that it has run; it may do so twice if the process dies meanwhile."""
    task = current_task()
    assert task is not None
    effects.append(f"child {number} {task.task_id}")


@step
async def charge(order: int) -> str:
    """Note that it runs."""
    effects.append("charge")
    return f"payment {order}"


@step
async def ask(order: int) -> str:
    """Fail, which the task expects."""
    effects.append("ask")
    raise ConnectionError


@step
async def ship(payment: str) -> str:
    """Submit a child, and fail unless there is a carrier."""
    await get_task_manager().submit(child, (2,))
    if not is_open:
        raise OSError
    effects.append("ship")
    return f"parcel for {payment}"


@background_task(on_restart="resume", on_error="silent")
async def fulfil(order: int) -> str:
    """Charge, submit a child, ask, wait for a person, and ship."""
    payment = await charge(order)
    await get_task_manager().submit(child, (1,))
    try:
        await ask(order)
    except ConnectionError:
        await approval.receive()
    return await ship(payment)


def app() -> FastAPI:
    """Return an app that fulfils orders."""
    made = FastAPI(lifespan=setup_async_framework)
    made.include_router(task_router(messages=[approval]))

    @made.post("/orders/{order}")
    async def place(order: int) -> Accepted[str]:
        accepted: Accepted[str] = fulfil(order)
        return accepted

    return made


@pytest.mark.crash_points
@pytest.mark.asyncframe(lost_failures="off")
async def test_what_is_recorded_is_not_run_again(asyncframe: Probe) -> None:
    """Wherever the process dies, the second task runs the step only that ended the first one."""
    async with asyncframe.client(app(), on_crash="again") as client:
        first = (await client.post("/orders/7", headers={"Idempotency-Key": "7"})).json()["task_id"]
        key = {"X-Requested-With": "test", "Idempotency-Key": "yes"}
        await client.post(f"/tasks/{first}/messages/approval", json=True, headers=key)
        await asyncframe.completed(first, check=False)
        done = [one for one in effects if one in ("charge", "ask")]
        is_open.append(True)
        again = [
            (await client.post(f"/tasks/{first}/run-again", headers=key)).json()["task_id"]
            for _ in range(2)
        ]
        assert again[0] == again[1] != first
        task = await asyncframe.completed(again[0])
        await asyncframe.settled()

    assert task.result == "parcel for payment 7"
    assert [one for one in effects if one in ("charge", "ask")] == done
    assert len({one for one in effects if one.startswith("child")}) == 2
