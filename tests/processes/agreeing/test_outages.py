"""Tasks that ask the shared database for something while it is away, or as they are cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from framework import (
    TaskCancelledError,
    TaskManager,
    TaskTimeoutError,
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
    throttled_task,
)
from framework._running.waits import shared_windows
from framework.stores.sql import SQLStore
from tests.patience import PATIENCE
from tests.processes.servers import PostgresServer

LIMIT = 1.0
"""Seconds of the task whose time is over before the database is back."""


@asynccontextmanager
async def manager_at(url: str) -> AsyncIterator[TaskManager]:
    """Run a manager with a store."""
    async with setup_async_framework(None, store=SQLStore(url), max_workers=8):
        yield get_task_manager()


async def test_tasks_wait_until_the_database_is_back(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a task asks for while the database is away, its function is called later, once.

    It waits no longer than its own limit, or until it is cancelled.
    """
    monkeypatch.setattr(shared_windows, "_PATIENCE", 0.01)
    runs, held, go_on = Counter[str](), threading.Barrier(6), threading.Event()
    waits = throttled_task(rate_limit=100, when_limited="wait")

    def hold() -> None:
        held.wait(PATIENCE)
        assert go_on.wait(PATIENCE)

    @waits
    def call(name: str) -> str:
        runs[name] += 1
        return name

    @waits
    async def call_on_loop(name: str) -> str:
        runs[name] += 1
        return name

    @background_task
    def throttled(name: str) -> str:
        hold()
        return call(name)

    @background_task
    async def on_loop(name: str) -> str:
        await asyncio.to_thread(hold)
        return await call_on_loop(name)

    @background_task
    @retry_task(max_retries=1, retry_delay=0.01)
    def retried(name: str) -> str:
        runs["attempts"] += 1
        if runs["attempts"] == 1:
            hold()
            raise LookupError
        return call(name)

    @background_task(max_running=1)
    def limited(name: str) -> str:
        return call(name)

    @background_task(unique=True)
    def unique(name: str) -> str:
        return call(name)

    with postgres_server.database() as name:
        async with manager_at(postgres_server.url(name)) as manager:
            ids: dict[str, Any] = {
                "throttled": throttled("throttled"),
                "on_loop": on_loop("on_loop"),
                "retried": retried("retried"),
            }
            late = throttled.options(timeout=LIMIT)("late")
            cancelled = on_loop("cancelled")
            await asyncio.to_thread(held.wait, PATIENCE)
            await asyncio.to_thread(postgres_server.kill)
            go_on.set()
            ids |= {"limited": limited("limited"), "unique": unique("unique")}
            with pytest.raises(TaskTimeoutError, match=r"^task .+ ran past its time limit of 1 s$"):
                await manager.get_result(late, timeout=PATIENCE)
            assert await manager.cancel_task(cancelled)
            with pytest.raises(TaskCancelledError, match=r"^task .+ was cancelled$"):
                await manager.get_result(cancelled, timeout=PATIENCE)
            assert not +Counter({one: runs[one] for one in ids})
            await asyncio.to_thread(postgres_server.start)
            assert {
                kind: await manager.get_result(task_id, timeout=PATIENCE)
                for kind, task_id in ids.items()
            } == {kind: kind for kind in ids}
    assert runs == Counter({**dict.fromkeys(ids, 1), "attempts": 2})


async def test_a_cancelled_task_cleans_up(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a task calls while it is being cancelled is counted and called, if it need not wait."""
    # It must wait if it was counted so long ago, as on a busy machine.
    monkeypatch.setattr(shared_windows, "_MARGIN", PATIENCE)
    monkeypatch.setattr(shared_windows, "_SHARE", 1 / PATIENCE)
    refunded, begun = list[str](), asyncio.Event()

    @throttled_task(rate_limit=1, when_limited="wait")
    async def refund(name: str) -> None:
        refunded.append(name)

    @background_task
    async def pay(name: str) -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await refund(name)

    async with manager_at(postgres_url) as manager:
        task_id = pay("ann")
        await begun.wait()
        assert await manager.cancel_task(task_id)
    assert refunded == ["ann"]
