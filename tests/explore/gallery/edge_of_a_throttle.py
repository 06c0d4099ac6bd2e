"""A rate limit of one's own lets too many calls through, at the edge of its window."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI

from framework import (
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
    throttled_task,
)
from pytest_asyncframe.probe import Probe

LIMIT = 2
WINDOW = 1.0


class Gateway:
    """A service that allows two messages in each second."""

    def __init__(self) -> None:
        self.sent: list[float] = []

    def most(self) -> int:
        """Return the largest number of messages within one window."""
        return max(sum(1 for one in self.sent if 0 <= one - at < WINDOW) for at in self.sent)


@background_task
def racy_send(gateway: Gateway) -> None:
    """Send a message unless two were sent within the window."""
    task, clock = current_task(), get_task_manager().clock
    assert task is not None
    while sum(1 for at in gateway.sent if clock.monotonic() - at < WINDOW) >= LIMIT:
        clock.sleep(WINDOW)
    task.report_progress(0.5, "there is room")
    gateway.sent.append(clock.monotonic())


@background_task
@throttled_task(rate_limit=LIMIT, time_window=WINDOW, when_limited="wait")
def correct_send(gateway: Gateway) -> None:
    """Send a message when the framework's window has room."""
    gateway.sent.append(get_task_manager().clock.monotonic())


def make_app(gateway: Gateway, racy: bool) -> FastAPI:
    """Return an app with a route that sends a message."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/send")
    async def send() -> str:
        return racy_send(gateway) if racy else correct_send(gateway)

    return app


async def send_three(asyncframe: Probe, *, racy: bool) -> None:
    """Send three messages at once; the third one has to wait."""
    gateway = Gateway()
    async with asyncframe.client(make_app(gateway, racy)) as client:
        await asyncio.gather(*(client.post("/send") for _ in range(LIMIT + 1)))
        await asyncframe.settled()
    assert len(gateway.sent) == LIMIT + 1
    assert gateway.most() == LIMIT


@pytest.mark.interleave
async def test_racy(asyncframe: Probe) -> None:
    """The gateway gets no more than two messages in any second."""
    await send_three(asyncframe, racy=True)


@pytest.mark.interleave
async def test_correct(asyncframe: Probe) -> None:
    """The gateway gets no more than two messages in any second."""
    await send_three(asyncframe, racy=False)
