"""What the fixture asyncframe can do."""

from __future__ import annotations

import time

import httpx
import pytest
from fastapi import FastAPI

from framework import TaskNotFoundError, background_task, setup_async_framework
from pytest_asyncframe.probe import Probe

app = FastAPI(lifespan=setup_async_framework)


@background_task
def invoice(order: int, *, copies: int = 1) -> str:
    """Take ten seconds."""
    time.sleep(10)
    return f"invoice of order {order}"


@background_task
def ship(order: int) -> str:
    """Submit another task that writes the invoice."""
    invoice(order, copies=2)
    return f"order {order} is on its way"


@background_task
def refund(order: int) -> None:
    """Fail."""
    raise PermissionError(f"order {order} is not paid")


@app.post("/orders/{order}/shipment", status_code=202)
async def start_shipment(order: int) -> dict[str, str]:
    """Answer immediately, and ship in the background."""
    return {"task_id": ship(order)}


async def test_waiting(asyncframe: Probe) -> None:
    """completed() waits for one task, settled() for all tasks."""
    async with asyncframe.client(app) as client:
        response = await client.post("/orders/7/shipment")
        task = await asyncframe.completed(response)
        assert task.result == "order 7 is on its way"

        await asyncframe.settled()
        asyncframe.assert_idle()


def test_waiting_in_a_sync_test(asyncframe: Probe) -> None:
    """In a sync test, use run_until_complete() and run_until_idle()."""
    with asyncframe.client(app) as client:
        response = client.post("/orders/7/shipment")
        assert asyncframe.run_until_complete(response).result == "order 7 is on its way"
        asyncframe.run_until_idle()


def test_a_live_server(asyncframe: Probe) -> None:
    """A real server, for clients that need a socket."""
    with asyncframe.live_server(app) as server:
        response = httpx.post(f"{server.url}/orders/7/shipment", trust_env=False)
        assert asyncframe.run_until_complete(response).result == "order 7 is on its way"
        asyncframe.run_until_idle()


@app.get("/prices")
async def prices() -> None:
    """Fail."""
    raise ConnectionError("the price list is away")


async def test_a_server_error(asyncframe: Probe) -> None:
    """A route that fails answers 500, as on a server."""
    async with asyncframe.client(app, raise_app_exceptions=False) as client:
        assert (await client.get("/prices")).status_code == 500


def test_what_was_submitted(asyncframe: Probe) -> None:
    """Matchers find tasks by function and arguments."""
    task_id = ship(7)
    asyncframe.run_until_idle()

    asyncframe.assert_submitted(ship, 7)
    asyncframe.assert_submitted(invoice, 7, copies=2, times=1)
    asyncframe.assert_not_submitted(refund)
    asyncframe.assert_transitions(task_id, "pending>running>completed")
    assert [task.result for task in asyncframe.submitted(invoice)] == ["invoice of order 7"]


def test_a_failure_that_is_raised(asyncframe: Probe) -> None:
    """Waiting for a failed task raises its error."""
    with pytest.raises(PermissionError, match=r"^order 7 is not paid$"):
        asyncframe.run_until_complete(refund(7))


def test_a_failure_that_is_expected(asyncframe: Probe) -> None:
    """If nobody waits for a failure, announce it; otherwise the test fails."""
    asyncframe.expect_failure(refund, PermissionError)
    refund(7)
    asyncframe.run_until_idle()


@pytest.mark.asyncframe(mode="manual")
def test_the_parts(asyncframe: Probe) -> None:
    """The test's manager, executor and clock are available for everything else."""
    task_id = invoice(7)
    assert asyncframe.executor.pending == (task_id,)

    asyncframe.executor.run_next()
    asyncframe.clock.advance(10)
    assert asyncframe.manager.get_stats()["completed"] == 1


def test_an_unknown_task(asyncframe: Probe) -> None:
    """An unknown task id is an error."""
    with pytest.raises(TaskNotFoundError):
        asyncframe.run_until_complete("7")
