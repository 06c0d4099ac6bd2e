"""Tasks that start only when the store permits it, and those that are given away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from framework import (
    FrameworkNotStartedError,
    TaskManager,
    TaskNotFoundError,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework._manager.submitting import requeued
from tests.framework.running.asked import Store
from tests.framework.running.messages import STOPPING, UNKNOWN
from tests.patience import PATIENCE

RAN: list[str] = []


@background_task(on_restart="requeue")
def on_thread(name: str) -> str:
    """Note that it ran."""
    RAN.append(name)
    return name


@background_task(on_restart="requeue")
async def on_loop(name: str) -> str:
    """Note that it ran."""
    RAN.append(name)
    return name


@background_task(on_restart="requeue")
def outer(name: str) -> Any:
    """Submit another task and wait for it, on the only thread."""
    return get_task_manager().wait_result(on_thread(name))


@asynccontextmanager
async def framework(store: Store) -> AsyncIterator[TaskManager]:
    """Run a framework with one thread."""
    RAN.clear()
    async with setup_async_framework(
        None, store=store, max_workers=1, graceful_shutdown_timeout=0.0
    ):
        yield get_task_manager()


async def asked(store: Store) -> Callable[[bool], None]:
    """Wait until a start is asked for, and return whom to tell."""
    assert await asyncio.to_thread(store.has_asked.wait, PATIENCE)
    store.has_asked.clear()
    return store.asked.pop()


@pytest.mark.parametrize("function", [on_thread, on_loop])
async def test_starts_when_it_is_permitted(function: Any) -> None:
    """A task is PENDING until its start is stored, and runs then."""
    store = Store()
    async with framework(store) as manager:
        task_id = function("one")
        told = await asked(store)
        task = await manager.get_task(task_id)
        assert task is not None
        assert (task.status.value, RAN) == ("pending", [])
        told(True)

        assert await manager.get_result(task_id, timeout=PATIENCE) == "one"


@pytest.mark.parametrize("function", [on_thread, on_loop])
async def test_task_of_another_process(function: Any) -> None:
    """A task whose start is refused is dropped: it is neither run, nor counted, nor final here."""
    store = Store()
    async with framework(store) as manager:
        task_id = function("one")
        (await asked(store))(False)
        waiting = asyncio.create_task(manager.get_result(task_id, timeout=PATIENCE))
        with pytest.raises(TaskNotFoundError, match=UNKNOWN):
            await waiting

        assert RAN == []
        assert manager.get_stats()["submitted"] == 0
        (released,) = store.released
        assert (released.task_id, released.status.value) == (task_id, "pending")


@pytest.mark.parametrize("function", [on_thread, on_loop])
async def test_cancelled_while_it_waits_for_its_permit(function: Any) -> None:
    """A task that is cancelled before its permit comes never starts."""
    store = Store()
    async with framework(store) as manager:
        task_id = function("one")
        told = await asked(store)
        assert await manager.cancel_task(task_id)
        told(True)
        after = on_thread("after")
        (await asked(store))(True)
        await manager.get_result(after, timeout=PATIENCE)

        assert RAN == ["after"]


async def test_thread_is_not_held_up_by_a_store_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a store does not answer, the thread runs other tasks; a late permit still counts."""
    monkeypatch.setattr(requeued, "PATIENCE", 0.01)
    store = Store()
    async with framework(store) as manager:
        task_id = on_thread("late")
        told = await asked(store)
        assert await manager.submit(len, ("four",), wait=True) == 4
        task = await manager.get_task(task_id)
        assert task is not None
        assert task.status.value == "pending"
        told(True)

        assert await manager.get_result(task_id, timeout=PATIENCE) == "late"
        assert RAN == ["late"]


@pytest.mark.parametrize("function", [on_thread, on_loop])
async def test_given_away_at_shutdown(function: Any) -> None:
    """A task that still waits for its permit at the shutdown is left to other processes."""
    store = Store()
    async with framework(store) as manager:
        task_id = function("one")
        told = await asked(store)
        waiting = asyncio.create_task(manager.get_result(task_id))
        await asyncio.wait([waiting], timeout=0)
    told(True)
    with pytest.raises(FrameworkNotStartedError, match=STOPPING):
        await waiting

    assert [one.task_id for one in store.released] == [task_id]
    assert RAN == []


async def test_task_that_waits_for_another_one() -> None:
    """A task waits for another one that others may run, although there is only one thread."""
    async with framework(Store(permits=True)) as manager:
        assert await manager.get_result(outer("inner"), timeout=PATIENCE) == "inner"
