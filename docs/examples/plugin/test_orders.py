"""Tests of an app's tasks that wait for nothing: time is virtual, order is certain."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI

from framework import (
    TaskTimeoutError,
    async_task,
    background_task,
    retry_task,
    setup_async_framework,
    throttled_task,
)
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.executor import DeterministicExecutor
from pytest_asyncframe.probe import Probe

app = FastAPI(lifespan=setup_async_framework)


@background_task
def ship(order: int) -> str:
    """Take half a minute, as the carrier does."""
    time.sleep(30)  # noqa: TID251  # stands for work that takes its time
    return f"order {order} is on its way"


@background_task
@retry_task(max_retries=3, retry_delay=10, backoff=2)
def charge(order: int) -> None:
    """Fail as long as the bank is away."""
    raise ConnectionError(f"no bank for order {order}")


@async_task
@throttled_task(rate_limit=2, time_window=60, when_limited="wait")
async def notify(order: int) -> datetime:
    """Send no more than two messages a minute."""
    return datetime.now(UTC)


@background_task(timeout=5)
def render(order: int) -> None:
    """Take too long."""
    time.sleep(60)  # noqa: TID251  # stands for work that takes its time


@app.post("/orders/{order}/shipment", status_code=202)
async def start_shipment(order: int) -> dict[str, str]:
    """Answer at once, and ship in the background."""
    return {"task_id": ship(order)}


async def test_a_shipment(asyncframe: Probe) -> None:
    """A request is answered with an id, and the task behind it ends well."""
    async with asyncframe.client(app) as client:
        response = await client.post("/orders/7/shipment")
        assert response.status_code == 202
        task = await asyncframe.completed(response)

    assert task.result == "order 7 is on its way"
    asyncframe.assert_submitted(ship, 7, times=1)


def test_a_shipment_in_a_sync_test(asyncframe: Probe) -> None:
    """The same in a test that is no coroutine, by Starlette's client."""
    with asyncframe.client(app) as client:
        task = asyncframe.run_until_complete(client.post("/orders/7/shipment"))

    assert task.result == "order 7 is on its way"


def test_retries(asyncframe: Probe) -> None:
    """A payment is tried four times, after 10, 20 and 40 seconds."""
    asyncframe.expect_failure(charge, ConnectionError)
    charge(7)
    asyncframe.run_until_idle()

    assert asyncframe.delays(charge) == [10.0, 20.0, 40.0]


async def test_a_throttle(asyncframe: Probe) -> None:
    """The third message of a minute waits for the next one."""
    sent = [await notify(order) for order in range(3)]

    assert sent[1] - sent[0] == timedelta(0)
    assert sent[2] - sent[0] == timedelta(minutes=1)


def test_a_limit(asyncframe: Probe) -> None:
    """A picture that is not there after 5 seconds is given up."""
    with pytest.raises(TaskTimeoutError):
        asyncframe.run_until_complete(render(7))

    assert asyncframe.clock.monotonic() == 5


async def test_clean_up(asyncframe: Probe) -> None:
    """A day later nobody knows of the task any more."""
    async with setup_async_framework(None, result_ttl=86_400, cleanup_interval=60):
        task_id = ship(7)
        await asyncframe.completed(task_id)
        await asyncframe.clock.run_for(86_460)

        assert await asyncframe.manager.get_task(task_id) is None


def test_step_by_step(task_executor: DeterministicExecutor, task_clock: VirtualClock) -> None:
    """Nothing runs, and no time passes, until the test says so."""
    first, second = ship(1), ship(2)
    assert list(task_executor.pending) == [first, second]

    task_executor.run(second)
    assert list(task_executor.pending) == [first]
    assert len(task_clock.sleeping) == 1

    task_clock.advance(30)
    task_executor.drain()
    task_clock.advance(30)
    assert task_clock.explain() == "nothing waits for its time"
