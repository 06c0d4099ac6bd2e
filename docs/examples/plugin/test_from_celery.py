"""Tests that used task_always_eager before."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from framework import background_task, retry_task, setup_async_framework
from pytest_asyncframe.probe import Probe

app = FastAPI(lifespan=setup_async_framework)

sent: list[str] = []


@background_task(timeout=300)
@retry_task(max_retries=2, retry_delay=60, exceptions=(ConnectionError,))
def send_welcome(address: str) -> str:
    """Send a message, and retry after a minute if the server is down."""
    deliver(address)
    return f"welcome, {address}"


def deliver(address: str) -> None:
    """Deliver a message."""
    sent.append(address)


@app.post("/users", status_code=202)
async def register(address: str) -> dict[str, str]:
    """Register a user, and send a welcome message in the background."""
    return {"task_id": send_welcome(address)}


async def test_register(asyncframe: Probe) -> None:
    """The response comes first; the message is sent after it."""
    sent.clear()
    async with asyncframe.client(app) as client:
        response = await client.post("/users", params={"address": "ann@example.org"})
        assert response.status_code == 202
        assert sent == []

        task = await asyncframe.completed(response)

    assert task.result == "welcome, ann@example.org"
    assert sent == ["ann@example.org"]


def test_the_server_is_away(asyncframe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure is raised in the task, not in the caller, after two retries."""

    def refuse(address: str) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(f"{__name__}.deliver", refuse)
    asyncframe.expect_failure(send_welcome, ConnectionError)
    send_welcome("ann@example.org")
    asyncframe.run_until_idle()

    assert asyncframe.delays(send_welcome) == [60.0, 60.0]
