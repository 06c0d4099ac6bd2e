"""The kinds of task that a test runs one body as, and small steps around them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import pytest

from framework import TaskManager, async_task
from framework.protocols import TaskEvent
from tests.patience import PATIENCE

Body = Callable[[], Any]


async def reached(event: threading.Event) -> None:
    """Wait for an event of a thread without blocking the loop."""
    assert await asyncio.to_thread(event.wait, PATIENCE)


def in_thread(body: Body) -> Body:
    """Return *body* as a function for the pool."""

    def thread_task() -> Any:
        return body()

    return thread_task


def on_loop(body: Body) -> Body:
    """Return *body* as a function for the loop."""

    async def coroutine_task() -> Any:
        return body()

    return coroutine_task


async def run_submitted(manager: TaskManager, fn: Body) -> Any:
    """Run *fn* as a task of its own."""
    return await manager.submit(fn, wait=True)


async def run_awaited(manager: TaskManager, fn: Body) -> Any:
    """Run *fn* as an awaited task, which for a coroutine is in place."""
    return await async_task(fn)()


Run = Callable[[TaskManager, Body], Awaitable[Any]]

EVERY_KIND = pytest.mark.parametrize(
    ("make", "run"),
    [
        pytest.param(in_thread, run_submitted, id="thread"),
        pytest.param(on_loop, run_submitted, id="loop"),
        pytest.param(in_thread, run_awaited, id="awaited-thread"),
        pytest.param(on_loop, run_awaited, id="in-place"),
    ],
)


def fail_with(error: BaseException) -> Body:
    """Return a function that raises *error*."""

    def fail() -> NoReturn:
        raise error

    return fail


def kinds(events: list[TaskEvent]) -> list[str]:
    """Return the kinds of *events*, in order."""
    return [event.kind for event in events]
