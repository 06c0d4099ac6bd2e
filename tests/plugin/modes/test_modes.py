"""The same tests in all five modes: the same states, order, context and failures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest
from fastapi import FastAPI

from framework import (
    TaskStatus,
    async_task,
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from pytest_asyncframe.probe import Probe
from tests.patience import PATIENCE

MODES = ("manual", "auto", "virtual", "seeded", "threads")
each_mode = pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=pytest.mark.asyncframe(mode=mode)) for mode in MODES]
)

WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


@background_task
def double(number: int) -> int:
    """Return twice the number."""
    return number * 2


@background_task
async def triple(number: int) -> int:
    """Return three times the number."""
    return number * 3


@background_task
def where_it_runs() -> tuple[str, str, bool, int]:
    """Return what a task sees of its surroundings."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        loop = False
    else:
        loop = True
    here = WHO.get()
    WHO.set("changed by the task")
    return here, threading.current_thread().name, loop, asyncio.run(answer())


async def answer() -> int:
    """Return a number from a loop of its own."""
    return 42


@background_task
def failing() -> None:
    """Fail."""
    raise LookupError("on purpose")


@background_task
def outer() -> int:
    """Submit another task and wait for it."""
    return get_task_manager().wait_result(double(21))


async def let_run(probe: Probe, mode: str) -> None:
    """Run what is queued, in the mode where nothing starts by itself."""
    if mode == "manual":
        probe.executor.drain()


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=pytest.mark.asyncframe(mode=mode)) for mode in MODES[1:]]
)
def test_a_delayed_task_starts_while_the_test_waits(asyncframe: Probe, mode: str) -> None:
    """A test that is no coroutine can wait for a delayed task, which starts when it is due."""
    task_id = double.options(delay=0.25)(4)

    assert asyncframe.run_until_complete(task_id).result == 8


@each_mode
async def test_a_task_completes(asyncframe: Probe, mode: str) -> None:
    """A submitted task first gets its id, then runs, and keeps its result."""
    task_id = double(4)
    task = await asyncframe.manager.get_task(task_id)
    assert task is not None
    assert task.status is TaskStatus.PENDING
    await let_run(asyncframe, mode)

    done = await asyncframe.completed(task_id)

    assert done.result == 8
    asyncframe.assert_transitions(task_id, "pending>running>completed")


@each_mode
async def test_a_coroutine_completes(asyncframe: Probe, mode: str) -> None:
    """An async task runs on the loop of its submitter, after the submission."""
    task_id = triple(4)
    await let_run(asyncframe, mode)

    assert (await asyncframe.completed(task_id)).result == 12


@each_mode
async def test_a_task_has_a_place_of_its_own(asyncframe: Probe, mode: str) -> None:
    """A task sees a copy of its submitter's context, and no running loop."""
    WHO.set("the test")
    task_id = where_it_runs()
    await let_run(asyncframe, mode)

    who, thread, loop, ran = (await asyncframe.completed(task_id)).result

    assert who == "the test"
    assert thread != threading.current_thread().name
    assert not loop
    assert ran == 42
    assert WHO.get() == "the test"


@each_mode
async def test_a_failure_is_kept(asyncframe: Probe, mode: str) -> None:
    """A failure is stored, and raised by waiting for the task, not by its submission."""
    task_id = failing()
    await let_run(asyncframe, mode)

    with pytest.raises(LookupError, match=r"^on purpose$"):
        await asyncframe.completed(task_id)


@each_mode
async def test_a_nested_wait_does_not_deadlock(asyncframe: Probe, mode: str) -> None:
    """A task that waits for a task that it submitted gets its result, even on one thread."""
    app = FastAPI()
    async with setup_async_framework(app, max_workers=1):
        task_id = outer()
        await let_run(asyncframe, mode)

        assert (await asyncframe.completed(task_id)).result == 42


def with_a_timeout() -> int:
    """Wait for another task with a timeout."""
    return get_task_manager().wait_result(double(21), timeout=60)


def for_a_future() -> int:
    """Wait for a call of the bare pool with a timeout."""
    return get_task_manager().pool.submit(pow, 42, 1).result(60)


def on_a_loop() -> int:
    """Wait for another task on a loop of its own."""
    return asyncio.run(get_task_manager().get_result(double(21)))


@background_task
async def through_the_loop(number: int) -> int:
    """Wait for a task of the pool."""
    found: int = await get_task_manager().get_result(double(number))
    return found


def for_a_coroutine() -> int:
    """Wait for a coroutine that waits for a task of the pool."""
    return get_task_manager().wait_result(through_the_loop(21))


WAITS: tuple[Callable[[], int], ...] = (with_a_timeout, for_a_future, on_a_loop, for_a_coroutine)


@each_mode
async def test_a_nested_wait_that_may_not_run_inline(asyncframe: Probe, mode: str) -> None:
    """On one thread, waits with a timeout or on an inner loop get the result too."""
    began = asyncframe.manager.clock.monotonic()
    found = {}
    for wait in WAITS:
        async with setup_async_framework(FastAPI(), max_workers=1):
            task_id = await asyncframe.manager.submit(wait)
            for _ in range(4):
                await turn()
                await let_run(asyncframe, mode)
            found[wait.__name__] = (await asyncframe.completed(task_id)).result

    assert found == {wait.__name__: 42 for wait in WAITS}
    if mode != "threads":
        assert asyncframe.manager.clock.monotonic() == began


@each_mode
async def test_tasks_begin_in_order_on_one_thread(asyncframe: Probe, mode: str) -> None:
    """With one thread, each task starts after the previous one has ended."""
    began: list[int] = []

    def note(number: int) -> None:
        assert current_task() is not None
        began.append(number)

    app = FastAPI()
    async with setup_async_framework(app, max_workers=1):
        for number in range(20):
            await asyncframe.manager.submit(note, args=(number,))
        await let_run(asyncframe, mode)
        await asyncframe.settled()

    assert sorted(began) == list(range(20))
    if mode != "seeded":
        assert began == list(range(20))


@each_mode
async def test_max_workers_keeps_its_meaning(asyncframe: Probe, mode: str) -> None:
    """Two tasks run at once on two threads, and never more."""
    inside = most = 0
    lock = threading.Lock()
    # Where time is real, a sleep proves nothing: the other thread may come late.
    meeting = threading.Barrier(2)

    def work(number: int) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        if mode != "threads":
            asyncframe.manager.clock.sleep(0.001)
        elif number < 2:
            meeting.wait(PATIENCE)
        with lock:
            inside -= 1

    app = FastAPI()
    async with setup_async_framework(app, max_workers=2):
        for number in range(6):
            await asyncframe.manager.submit(work, (number,))
        if mode == "manual":
            while asyncframe.executor.pending:
                asyncframe.executor.run_next()
                if asyncframe.manager.pool.get_stats()["busy"] == 2:
                    asyncframe.clock.advance(1)
            asyncframe.clock.advance(1)
        await asyncframe.settled()

    assert most == 2


@each_mode
async def test_a_route_that_awaits_a_sync_task(asyncframe: Probe, mode: str) -> None:
    """A coroutine that awaits a sync async_task gets its result."""
    waiting: Awaitable[int] = asyncio.ensure_future(awaited(5))
    if mode == "manual":
        await turn()
        asyncframe.executor.drain()

    assert await waiting == 10


@async_task
def awaited(number: int) -> int:
    """Return twice the number."""
    return number * 2


async def turn() -> None:
    """Let the loop run one iteration."""
    loop = asyncio.get_running_loop()
    had = loop.create_future()
    loop.call_soon(had.set_result, None)
    await had
