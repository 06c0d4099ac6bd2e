"""A shop, and tests of what it does when something goes wrong."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from fastapi import FastAPI

from framework import (
    QueueFullError,
    Task,
    TaskStatus,
    TaskTimeoutError,
    background_task,
    current_task,
    retry_task,
    setup_async_framework,
)
from pytest_asyncframe.probe import Probe

app = FastAPI(lifespan=setup_async_framework)
paying = threading.Lock()
paid: Counter[int] = Counter()
shipped: list[int] = []
to_ship_again: list[int] = []


@background_task
@retry_task(max_retries=3, retry_delay=10, exceptions=(ConnectionError,))
def charge(order: int) -> str:
    """Charge a credit card, once for each order."""
    with paying:
        if not paid[order]:
            task = current_task()
            assert task is not None
            task.report_progress(0.5, "asking the bank")
            paid[order] += 1
    return "paid"


@background_task(timeout=30)
async def report(order: int) -> str:
    """Write a report, which must not take longer than half a minute."""
    return f"report of order {order}"


@background_task
def ship(order: int) -> None:
    """Reserve a parcel, and send it."""
    task = current_task()
    assert task is not None
    task.report_progress(0.5, "reserved")
    shipped.append(order)


def note_failure(task: Task) -> None:
    """Remember an order whose parcel was not sent."""
    to_ship_again.append(int(task.description))


@app.post("/orders/{order}", status_code=202)
async def start_order(order: int) -> dict[str, str]:
    """Charge an order; a full queue answers 503."""
    return {"task_id": charge(order)}


@pytest.fixture(autouse=True)
def nothing_sold() -> None:
    """Begin each test with no orders."""
    paid.clear()
    shipped.clear()
    to_ship_again.clear()


def test_the_bank_comes_back(asyncframe: Probe) -> None:
    """Two attempts fail, and the third one charges the card."""
    asyncframe.faults.fail(charge, on=[1, 2], exc=ConnectionError("no bank"))
    task = asyncframe.run_until_complete(charge(7))

    assert (task.result, task.attempts) == ("paid", 3)
    assert asyncframe.delays(charge) == [10.0, 10.0]


async def test_a_report_that_takes_too_long(asyncframe: Probe) -> None:
    """A report that needs 40 seconds is given up after 30."""
    asyncframe.faults.slow(report, seconds=40)
    with pytest.raises(TaskTimeoutError):
        await asyncframe.completed(report(7))

    assert asyncframe.clock.monotonic() == 30


def test_a_worker_that_crashes_in_the_middle(asyncframe: Probe) -> None:
    """If the worker crashes after the reservation, the order is noted, to be shipped again."""
    asyncframe.faults.crash_worker(after="progress")
    task_id = ship.options(description="7", on_error=note_failure)(7)
    task = asyncframe.run_until_complete(task_id, check=False)

    assert task.status is TaskStatus.INTERRUPTED
    assert (shipped, to_ship_again) == ([], [7])


async def test_a_full_queue(asyncframe: Probe) -> None:
    """The client is told to come back when the queue is full, and the next order is accepted."""
    asyncframe.faults.queue_full(next=1)
    async with asyncframe.client(app) as client:
        answers = [await client.post(f"/orders/{order}") for order in (7, 8)]
        await asyncframe.settled()

    assert [answer.status_code for answer in answers] == [503, 202]
    assert paid == {8: 1}


def test_a_task_that_is_delivered_twice(asyncframe: Probe) -> None:
    """An order that is charged twice is paid once."""
    asyncframe.faults.deliver_twice(charge)
    charge(7)
    asyncframe.run_until_idle()

    assert paid[7] == 1


@pytest.mark.interleave(seeds=50)
def test_two_deliveries_at_the_same_time(asyncframe: Probe) -> None:
    """An order is paid once, too, if one run is interrupted by the other."""
    asyncframe.faults.deliver_twice(charge)
    charge(7)
    asyncframe.run_until_idle()

    assert paid[7] == 1


def test_chaos(asyncframe: Probe) -> None:
    """Whatever goes wrong, an order that is paid is paid once, and a completed one is paid."""
    asyncframe.faults.chaos(0.3, exc=ConnectionError)
    tasks = []
    for order in range(20):
        try:
            tasks.append((order, charge(order)))
        except QueueFullError:
            assert paid[order] == 0
    asyncframe.run_until_idle()

    assert set(paid.values()) <= {0, 1}
    for order, task_id in tasks:
        task = asyncframe.run_until_complete(task_id, check=False)
        if task.status is TaskStatus.COMPLETED:
            assert paid[order] == 1
