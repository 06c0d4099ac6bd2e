"""The suite as it is written without the plugin: on pytest-asyncio and httpx.

Each test starts and stops the app. A second of the app is 10 ms, set in its environment; where
the length of a sleep does not matter, it is replaced by nothing; what takes place later is polled
for, every 2 ms.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from benchmarks.suite.numbers import NUMBERS
from benchmarks.suite.shop import SECOND, app
from framework import Task, TaskStatus, get_task_manager

pytestmark = pytest.mark.parametrize("order", NUMBERS)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Start the app, and give a client for it."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        yield client


@pytest.fixture
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tasks on threads sleep for no time."""
    monkeypatch.setattr(time, "sleep", lambda _: None)


async def started(client: httpx.AsyncClient, path: str) -> str:
    """Start a task; return its id."""
    response = await client.post(path)
    assert response.status_code == 202
    return str(response.json()["task_id"])


async def finished(task_id: str) -> Task:
    """Poll until a task has ended, for five seconds at the most."""
    manager = get_task_manager()
    until = time.monotonic() + 5  # noqa: TID251  # it is to be as people write it
    while True:
        task = await manager.get_task(task_id)
        if task is not None and task.status.is_final:
            return task
        assert time.monotonic() < until, "it takes too long"  # noqa: TID251  # as above
        await asyncio.sleep(0.002)  # noqa: TID251  # as above


async def shown(client: httpx.AsyncClient, task_id: str, what: str) -> object:
    """Return what the app shows of a task."""
    return (await client.get(f"/tasks/{task_id}")).json()[what]


async def test_invoice(client: httpx.AsyncClient, no_sleep: None, order: int) -> None:
    """A task on a thread completes."""
    task = await finished(await started(client, f"/invoices/{order}"))
    assert (task.status, task.result) == (TaskStatus.COMPLETED, f"invoice {order}")


async def test_page(client: httpx.AsyncClient, order: int) -> None:
    """A coroutine completes."""
    task = await finished(await started(client, f"/pages/{order}"))
    assert (task.status, task.result) == (TaskStatus.COMPLETED, f"page {order}")


async def test_retry(client: httpx.AsyncClient, order: int) -> None:
    """A task is tried until the bank answers."""
    away = order % 3
    task = await finished(await started(client, f"/charges/{order}?away={away}"))
    assert (task.result, task.attempts) == (f"charged {order}", away + 1)


async def test_throttle(client: httpx.AsyncClient, order: int) -> None:
    """The third message waits for ten seconds."""
    ids = [await started(client, f"/messages/{order}") for _ in range(3)]
    times = [(await finished(task_id)).result for task_id in ids]
    assert times[2] - times[0] >= 10 * SECOND


async def test_delay(client: httpx.AsyncClient, order: int) -> None:
    """A reminder is pending at first."""
    task_id = await started(client, f"/reminders/{order}")
    assert await shown(client, task_id, "status") == "pending"
    task = await finished(task_id)
    assert (task.status, task.result) == (TaskStatus.COMPLETED, f"reminded of {order}")


async def test_timeout(client: httpx.AsyncClient, order: int) -> None:
    """A task that takes too long is ended."""
    task_id = await started(client, f"/pictures/{order}")
    task = await finished(task_id)
    assert task.status is TaskStatus.TIMEOUT
    assert await shown(client, task_id, "status") == "timeout"


async def test_progress(client: httpx.AsyncClient, no_sleep: None, order: int) -> None:
    """A task has reported all of its progress when it ends."""
    task_id = await started(client, f"/imports/{order}")
    task = await finished(task_id)
    assert task.result == order
    assert await shown(client, task_id, "progress") == 1.0


async def test_failure(client: httpx.AsyncClient, order: int) -> None:
    """A task that fails shows its error."""
    task_id = await started(client, f"/refunds/{order}")
    task = await finished(task_id)
    assert task.status is TaskStatus.FAILED
    assert await shown(client, task_id, "error") == f"order {order} is not paid"


async def test_cancel(client: httpx.AsyncClient, order: int) -> None:
    """A task that is cancelled ends."""
    task_id = await started(client, f"/conversions/{order}")
    assert (await client.delete(f"/tasks/{task_id}")).status_code == 204
    assert (await finished(task_id)).status is TaskStatus.CANCELLED


async def test_chain(client: httpx.AsyncClient, no_sleep: None, order: int) -> None:
    """A task starts another one."""
    task = await finished(await started(client, f"/shipments/{order}"))
    assert (await finished(task.result)).result == f"invoice {order}"
