"""The single fixtures, alone and together."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from framework import (
    TaskManager,
    TaskStatus,
    ThreadPoolExecutorEnhanced,
    background_task,
    get_task_manager,
)
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.executor import DeterministicExecutor


@background_task
def ship(order: int) -> str:
    """Ship an order, which takes half a minute."""
    time.sleep(30)
    return f"order {order} is on its way"


@background_task
def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


# -- the manager


async def test_a_manager_alone(task_manager: TaskManager) -> None:
    """A manager for this test, with real threads and in real time."""
    task_id = add(3, 4)

    assert await task_manager.get_result(task_id) == 7
    assert get_task_manager() is task_manager


def test_a_manager_with_a_clock(task_manager: TaskManager, task_clock: VirtualClock) -> None:
    """With a clock, time moves when the test moves it."""
    task_id = ship(7)
    task_clock.advance(30)

    assert task_manager.wait_result(task_id) == "order 7 is on its way"


# -- the pool


def test_a_pool(task_pool: ThreadPoolExecutorEnhanced) -> None:
    """A pool with real threads that is shut down after the test."""
    assert task_pool.submit(pow, 2, 10).result() == 1024
    assert task_pool.get_stats()["completed"] == 1


# -- the executor


def test_an_executor(task_executor: DeterministicExecutor) -> None:
    """A task runs only when the test runs it."""
    first, second = add(1, 1), add(2, 2)
    assert list(task_executor.pending) == [first, second]

    task_executor.run(second)
    assert list(task_executor.pending) == [first]

    assert task_executor.run_next() == first
    assert task_executor.run_next() is None


def test_an_executor_for_code_of_your_own(task_executor: DeterministicExecutor) -> None:
    """It is a ThreadPoolExecutor, so you can pass it to code that needs one."""
    assert isinstance(task_executor, ThreadPoolExecutor)
    squares = task_executor.map(pow, [2, 3], [2, 2])

    assert task_executor.drain() == ["call-1", "call-2"]
    assert list(squares) == [4, 9]


def test_an_executor_with_a_clock(
    task_executor: DeterministicExecutor, task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """drain() returns when the task sleeps in the middle of its work."""
    task_id = ship(7)
    task_executor.drain()
    (running,) = task_manager.get_active_tasks()
    assert running == task_id

    task_clock.advance(30)
    assert task_manager.wait_result(task_id) == "order 7 is on its way"


# -- the clock


def test_a_clock(task_clock: VirtualClock) -> None:
    """Time stands still until the test moves it."""
    task_id = ship(7)
    began = task_clock.now()
    task_clock.advance(29.5)
    assert task_clock.sleeping == ["asyncframe-_0"]
    assert task_clock.explain().startswith("t+0.5 s asyncframe-_0: ship#")

    task_clock.advance(0.5)
    assert task_clock.explain() == "no pending timers"
    assert task_clock.monotonic() == 30
    assert (task_clock.now() - began).total_seconds() == pytest.approx(30)
    assert get_task_manager().wait_result(task_id) == "order 7 is on its way"


async def test_a_clock_in_a_coroutine(task_clock: VirtualClock) -> None:
    """run_for() lets other coroutines run while time moves."""
    task_id = ship.options(delay=60)(7)
    await task_clock.run_for(90)

    task = await get_task_manager().get_task(task_id)
    assert task is not None
    assert task.status is TaskStatus.COMPLETED
