"""Tasks that run in place, inside the coroutine that awaits them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from framework import (
    TaskCancelledError,
    TaskManager,
    TaskStatus,
    TaskTimeoutError,
    async_task,
    current_task,
)
from pytest_asyncframe.clock import VirtualClock
from tests.framework.kinds import reached
from tests.framework.running.messages import TIMED_OUT
from tests.patience import PATIENCE

# -- driven in place


class InPlace:
    """An in-place task that waits, and the asyncio task that awaits it."""

    def __init__(self, manager: TaskManager, *, timeout: float | None = None) -> None:
        self.manager = manager
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        self.task_id = ""
        self.saw: BaseException | None = None
        self.swallow = False
        self.clean_up: asyncio.Event | None = None
        self.awaiter: asyncio.Task[Any] | None = None
        self._body = async_task(timeout=timeout)(self._run)

    async def start(self) -> None:
        """Begin to await the body, and wait until it runs."""
        self.awaiter = asyncio.create_task(self._await())
        await self.started.wait()

    async def _await(self) -> Any:
        try:
            return await self._body()
        except Exception as error:
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            return error

    async def _run(self) -> str:
        task = current_task()
        assert task is not None
        self.task_id = task.task_id
        self.started.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError as error:
            self.saw = error
            if self.clean_up is not None:
                await self.clean_up.wait()
            if not self.swallow:
                raise
        return "done"

    async def status(self) -> TaskStatus:
        """Return the task's status now."""
        task = await self.manager.get_task(self.task_id)
        assert task is not None
        return task.status

    async def answer(self) -> Any:
        """Return what the awaiter got, an error included."""
        assert self.awaiter is not None
        return await self.awaiter


async def test_in_place_runs_in_the_awaiting_task(task_manager: TaskManager) -> None:
    """The body of an awaited async task runs inside the asyncio task that awaits it."""

    @async_task
    async def body() -> asyncio.Task[Any] | None:
        return asyncio.current_task()

    assert await body() is asyncio.current_task()


async def test_cancelling_in_place_spares_the_awaiter(task_manager: TaskManager) -> None:
    """cancel_task() of an in-place body raises TaskCancelledError to an awaiter that goes on."""
    one = InPlace(task_manager)
    await one.start()
    assert await task_manager.cancel_task(one.task_id) is True
    assert isinstance(await one.answer(), TaskCancelledError)
    assert isinstance(one.saw, asyncio.CancelledError)
    assert await one.status() is TaskStatus.CANCELLED


async def test_cancelling_in_place_a_body_that_returns_all_the_same(
    task_manager: TaskManager,
) -> None:
    """An in-place body that swallows cancel_task() and returns is COMPLETED."""
    one = InPlace(task_manager)
    one.swallow = True
    await one.start()
    assert await task_manager.cancel_task(one.task_id) is False
    assert await one.answer() == "done"
    assert await one.status() is TaskStatus.COMPLETED


async def test_cancelling_the_awaiter_cancels_in_place(task_manager: TaskManager) -> None:
    """Cancelling the awaiter of an in-place body cancels both."""
    one = InPlace(task_manager)
    await one.start()
    assert one.awaiter is not None
    one.awaiter.cancel()
    with pytest.raises(asyncio.CancelledError, match=r"^$"):
        await one.answer()
    assert one.awaiter.cancelled()
    assert await one.status() is TaskStatus.CANCELLED


async def test_a_timeout_around_an_in_place_body(task_manager: TaskManager) -> None:
    """asyncio.timeout() around an in-place task raises its own error; the task is CANCELLED."""
    ids: list[str] = []

    @async_task
    async def body() -> None:
        task = current_task()
        assert task is not None
        ids.append(task.task_id)
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0):
            await body()
    assert not isinstance(caught.value, TaskTimeoutError)
    task = await task_manager.get_task(ids[0])
    assert task is not None
    assert task.status is TaskStatus.CANCELLED


async def test_an_in_place_body_that_swallows_its_awaiters_cancellation(
    task_manager: TaskManager,
) -> None:
    """An in-place body that swallows its awaiter's cancellation and returns is COMPLETED."""
    one = InPlace(task_manager)
    one.swallow = True
    await one.start()
    assert one.awaiter is not None
    one.awaiter.cancel()
    assert await one.answer() == "done"
    assert await one.status() is TaskStatus.COMPLETED


async def test_the_limit_in_place(task_manager: TaskManager, task_clock: VirtualClock) -> None:
    """At the limit other waiters get the error at once, and the awaiter when the body ends."""
    one = InPlace(task_manager, timeout=5.0)
    one.clean_up = asyncio.Event()
    await one.start()
    other = asyncio.create_task(task_manager.get_result(one.task_id))
    await task_clock.run_for(5.0)
    with pytest.raises(TaskTimeoutError, match=TIMED_OUT):
        await other
    assert one.awaiter is not None
    assert not one.awaiter.done()
    one.clean_up.set()
    assert isinstance(await one.answer(), TaskTimeoutError)
    assert await one.status() is TaskStatus.TIMEOUT


async def test_the_limit_in_place_of_a_body_that_returns_late(
    task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """A body that returns after its limit gives its awaiter the error and not the result."""
    one = InPlace(task_manager, timeout=5.0)
    one.swallow = True
    await one.start()
    await task_clock.run_for(5.0)
    assert isinstance(await one.answer(), TaskTimeoutError)
    assert task_manager.get_stats()["late_results"] == 1


@pytest.mark.parametrize("outer_first", [True, False])
async def test_cancelled_from_both_sides(task_manager: TaskManager, outer_first: bool) -> None:
    """An awaiter that is cancelled together with its body ends cancelled, in either order."""
    one = InPlace(task_manager)
    await one.start()
    assert one.awaiter is not None
    if outer_first:
        one.awaiter.cancel()
    cancelling = asyncio.create_task(task_manager.cancel_task(one.task_id))
    if not outer_first:
        # Its first step posts the cancellation, which is delivered in the turn after.
        asyncio.get_running_loop().call_soon(one.awaiter.cancel)
    await cancelling
    with pytest.raises(asyncio.CancelledError, match=r"^$"):
        await one.answer()
    assert await one.status() is TaskStatus.CANCELLED


@pytest.mark.parametrize("outer_first", [True, False])
async def test_over_the_limit_and_cancelled_at_once(
    task_manager: TaskManager, task_clock: VirtualClock, outer_first: bool
) -> None:
    """An awaiter cancelled in the same turn as the limit ends cancelled; the task is TIMEOUT."""
    one = InPlace(task_manager, timeout=5.0)
    await one.start()
    assert one.awaiter is not None
    if outer_first:
        one.awaiter.cancel()
    task_clock.advance(5.0)
    if not outer_first:
        one.awaiter.cancel()
    with pytest.raises(asyncio.CancelledError, match=r"^$"):
        await one.answer()
    task = await task_manager.get_task(one.task_id)
    assert task is not None
    assert task.status is TaskStatus.TIMEOUT
    assert isinstance(task.error, TaskTimeoutError)


async def test_cancelling_the_inner_of_two_in_place(task_manager: TaskManager) -> None:
    """Cancelling an in-place body inside another one raises in the outer body, which goes on."""
    inner = InPlace(task_manager)

    @async_task
    async def outer() -> str:
        try:
            await inner._body()
        except TaskCancelledError:
            return "went on"
        return "not cancelled"

    waiting = asyncio.create_task(outer())
    await inner.started.wait()
    assert await task_manager.cancel_task(inner.task_id)
    assert await waiting == "went on"


async def test_cancelling_the_outer_of_two_in_place(task_manager: TaskManager) -> None:
    """Cancelling an in-place body cancels the one that it awaits in place as well."""
    inner = InPlace(task_manager)
    outer_id: list[str] = []

    @async_task
    async def outer() -> None:
        task = current_task()
        assert task is not None
        outer_id.append(task.task_id)
        await inner._body()

    waiting = asyncio.create_task(outer())
    await inner.started.wait()
    assert await task_manager.cancel_task(outer_id[0])
    with pytest.raises(TaskCancelledError) as caught:
        await waiting
    assert caught.value.task_id == outer_id[0]
    assert await inner.status() is TaskStatus.CANCELLED


async def test_cancelling_whoever_awaits_a_thread_task(task_manager: TaskManager) -> None:
    """Cancelling the awaiter of a sync async_task leaves its thread and its status alone."""
    started, gate = threading.Event(), threading.Event()
    ids: list[str] = []

    @async_task
    def body() -> int:
        task = current_task()
        assert task is not None
        ids.append(task.task_id)
        started.set()
        gate.wait(PATIENCE)
        return 7

    waiting = asyncio.create_task(body())
    await reached(started)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError, match=r"^$"):
        await waiting
    task = await task_manager.get_task(ids[0])
    assert task is not None
    assert (task.status, task.cancel_requested) == (TaskStatus.RUNNING, False)
    gate.set()
    assert await task_manager.get_result(ids[0]) == 7
