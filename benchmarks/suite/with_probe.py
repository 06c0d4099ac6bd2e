"""The same suite with the fixture asyncframe: the app's seconds are whole ones, of virtual time."""

from __future__ import annotations

import httpx
import pytest

from benchmarks.suite.numbers import NUMBERS
from benchmarks.suite.shop import SECOND, app, refund, render
from framework import TaskStatus, TaskTimeoutError
from pytest_asyncframe.probe import Probe

pytestmark = pytest.mark.parametrize("order", NUMBERS)


async def started(client: httpx.AsyncClient, path: str) -> str:
    """Start a task; return its id."""
    response = await client.post(path)
    assert response.status_code == 202
    return str(response.json()["task_id"])


async def shown(client: httpx.AsyncClient, task_id: str, what: str) -> object:
    """Return what the app shows of a task."""
    return (await client.get(f"/tasks/{task_id}")).json()[what]


async def test_invoice(asyncframe: Probe, order: int) -> None:
    """A task on a thread completes."""
    async with asyncframe.client(app) as client:
        task = await asyncframe.completed(await started(client, f"/invoices/{order}"))
    assert (task.status, task.result) == (TaskStatus.COMPLETED, f"invoice {order}")


async def test_page(asyncframe: Probe, order: int) -> None:
    """A coroutine completes."""
    async with asyncframe.client(app) as client:
        task = await asyncframe.completed(await started(client, f"/pages/{order}"))
    assert (task.status, task.result) == (TaskStatus.COMPLETED, f"page {order}")


async def test_retry(asyncframe: Probe, order: int) -> None:
    """A task is tried until the bank answers."""
    away = order % 3
    async with asyncframe.client(app) as client:
        task_id = await started(client, f"/charges/{order}?away={away}")
        task = await asyncframe.completed(task_id)
    assert (task.result, task.attempts) == (f"charged {order}", away + 1)


async def test_throttle(asyncframe: Probe, order: int) -> None:
    """The third message waits for ten seconds."""
    async with asyncframe.client(app) as client:
        ids = [await started(client, f"/messages/{order}") for _ in range(3)]
        times = [(await asyncframe.completed(task_id)).result for task_id in ids]
    assert times[2] - times[0] >= 10 * SECOND


async def test_delay(asyncframe: Probe, order: int) -> None:
    """A reminder is pending at first."""
    async with asyncframe.client(app) as client:
        task_id = await started(client, f"/reminders/{order}")
        assert await shown(client, task_id, "status") == "pending"
        task = await asyncframe.completed(task_id)
    assert (task.status, task.result) == (TaskStatus.COMPLETED, f"reminded of {order}")


async def test_timeout(asyncframe: Probe, order: int) -> None:
    """A task that takes too long is ended."""
    asyncframe.expect_failure(render, TaskTimeoutError)
    async with asyncframe.client(app) as client:
        task_id = await started(client, f"/pictures/{order}")
        task = await asyncframe.completed(task_id, check=False)
        assert task.status is TaskStatus.TIMEOUT
        assert await shown(client, task_id, "status") == "timeout"


async def test_progress(asyncframe: Probe, order: int) -> None:
    """A task has reported all of its progress when it ends."""
    async with asyncframe.client(app) as client:
        task_id = await started(client, f"/imports/{order}")
        task = await asyncframe.completed(task_id)
        assert task.result == order
        assert await shown(client, task_id, "progress") == 1.0


async def test_failure(asyncframe: Probe, order: int) -> None:
    """A task that fails shows its error."""
    asyncframe.expect_failure(refund, PermissionError)
    async with asyncframe.client(app) as client:
        task_id = await started(client, f"/refunds/{order}")
        task = await asyncframe.completed(task_id, check=False)
        assert task.status is TaskStatus.FAILED
        assert await shown(client, task_id, "error") == f"order {order} is not paid"


async def test_cancel(asyncframe: Probe, order: int) -> None:
    """A task that is cancelled ends."""
    async with asyncframe.client(app) as client:
        task_id = await started(client, f"/conversions/{order}")
        assert (await client.delete(f"/tasks/{task_id}")).status_code == 204
        task = await asyncframe.completed(task_id, check=False)
    assert task.status is TaskStatus.CANCELLED


async def test_chain(asyncframe: Probe, order: int) -> None:
    """A task starts another one."""
    async with asyncframe.client(app) as client:
        task = await asyncframe.completed(await started(client, f"/shipments/{order}"))
        written = await asyncframe.completed(task.result)
    assert written.result == f"invoice {order}"
