"""An app with hourly and daily work, and tests that do not wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from framework import background_task, scheduled_task, setup_async_framework
from pytest_asyncframe.probe import Probe

carts: dict[str, float] = {}


@background_task
def order(cart: str) -> str:
    """Send the order."""
    return f"{cart} is ordered"


def remove_carts() -> int:
    """Remove old carts."""
    removed = len(carts)
    carts.clear()
    return removed


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Remove carts every hour, and forget finished tasks after a day."""
    app.state.hourly = scheduled_task(every=3600)(remove_carts)
    async with setup_async_framework(app, result_ttl=86_400, cleanup_interval=60):
        yield
    del app.state.hourly


app = FastAPI(lifespan=lifespan)


async def test_every_hour(asyncframe: Probe) -> None:
    """A cart is removed after an hour."""
    async with asyncframe.client(app):
        carts["7"] = 12.5
        await asyncframe.clock.run_for(3599)
        assert carts == {"7": 12.5}

        await asyncframe.clock.run_for(1)
        await asyncframe.settled()
        assert carts == {}
        assert [task.result for task in asyncframe.submitted(remove_carts)] == [1]


async def test_a_day_later(asyncframe: Probe) -> None:
    """A finished task is forgotten after a day."""
    async with asyncframe.client(app):
        task_id = order("7")
        await asyncframe.completed(task_id)

        await asyncframe.clock.run_for(86_399)
        assert await asyncframe.manager.get_task(task_id) is not None
        await asyncframe.clock.run_for(61)
        assert await asyncframe.manager.get_task(task_id) is None


async def test_put_off(asyncframe: Probe) -> None:
    """A delayed task starts after its delay, and not before."""
    async with asyncframe.client(app):
        task_id = order.options(delay=3600)("8")
        asyncframe.assert_transitions(task_id, "pending")
        task = await asyncframe.completed(task_id)

    assert task.result == "8 is ordered"
    assert task.queue_time == 3600
