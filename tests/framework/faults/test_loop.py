"""Faults of event loops, row by row: closed, doubled, cancelled, blocked loops."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from framework import (
    TaskId,
    TaskInterruptedError,
    TaskManager,
    TaskStatus,
    TaskTimeoutError,
    async_task,
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from framework._threads.waiters import Mailbox
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.probe import Probe
from tests.framework.running.messages import INTERRUPTED, TIMED_OUT
from tests.patience import PATIENCE


async def reached(event: threading.Event) -> None:
    """Wait for an event of a thread without blocking the loop."""
    assert await asyncio.to_thread(event.wait, PATIENCE)


class Body:
    """A thread task's function that runs until it is let go."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.gate = threading.Event()

    def __call__(self) -> str:
        """Say that it runs, and wait."""
        self.started.set()
        assert self.gate.wait(PATIENCE)
        return "result"


def status_of(manager: TaskManager, task_id: str) -> str:
    """Return a task's status, from any thread."""
    return str(manager.get_all_tasks()[task_id]["status"])


@pytest.fixture
def own_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Give a loop that the test runs and closes by itself."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


# -- D1: a loop that is closed


def test_d1_loop_closed_under_a_waiter(
    task_manager: TaskManager,
    own_loop: asyncio.AbstractEventLoop,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A task that ends after its waiter's loop was closed is COMPLETED; the wake-up is counted."""
    body = Body()

    async def begin() -> asyncio.Task[Any]:
        task_id = await task_manager.submit(body)
        waiting = asyncio.create_task(task_manager.get_result(task_id))
        await reached(body.started)
        return waiting

    waiting = own_loop.run_until_complete(begin())
    (task_id,) = task_manager.get_active_tasks()
    own_loop.run_until_complete(own_loop.shutdown_default_executor())
    own_loop.close()
    body.gate.set()
    assert task_manager.wait_result(task_id) == "result"
    # Another one, by the same thread perhaps, shows that the threads live on.
    assert task_manager.wait_result(task_manager.submit_nowait(lambda: 7)) == 7
    stats = task_manager.get_stats()
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]  # it is left on purpose
    coroutine = waiting.get_coro()
    assert coroutine is not None
    coroutine.close()
    assert (stats["completed"], stats["lost_wakeups"]) == (2, 1)
    assert capfd.readouterr().err == ""


def test_d1_loop_closed_with_a_wakeup_on_its_way(own_loop: asyncio.AbstractEventLoop) -> None:
    """A call that comes after a loop was closed is refused, though one before it is unread."""
    # 1 a call is posted and schedules a drain, 2 the loop is closed before it drains,
    # 3 another call is posted.
    box = Mailbox(own_loop)
    called: list[int] = []
    first = box.post(lambda: called.append(1))
    own_loop.close()
    second = box.post(lambda: called.append(2))
    assert (first, second, called) == (True, False, [])
    assert box.lost == 2


class _CountingBox(Mailbox):
    """A mailbox in which another thread drops calls too, between the two steps of a count."""

    meanwhile: Callable[[], None] | None = None
    _count = 0

    @property
    def lost(self) -> int:
        """How many were dropped, as it was before the other thread came."""
        count, meanwhile = self._count, self.meanwhile
        if meanwhile is not None:
            self.meanwhile = None
            meanwhile()
        return count

    @lost.setter
    def lost(self, count: int) -> None:
        self._count = count


def test_d1_calls_are_dropped_on_two_threads(own_loop: asyncio.AbstractEventLoop) -> None:
    """Calls that two threads drop at once, since the loop is closed, are all counted."""
    # 1 one thread reads how many were dropped before, 2 another one drops a call and counts
    # it, 3 the first one writes its count. Only the lock keeps 2 from coming in between.
    box = _CountingBox(own_loop)
    own_loop.close()

    posted = [box.post(int)]

    def post() -> None:
        if not box._dropping.locked():
            posted.append(box.post(int))

    box.meanwhile = post
    posted.append(box.post(int))
    assert box.lost == len(posted)


async def test_d1_coroutine_task_for_a_closed_loop(aside_loop: asyncio.AbstractEventLoop) -> None:
    """A coroutine task whose app's loop was closed is FAILED when submitted from a thread."""

    async def body() -> None:
        """Never begin."""

    async with setup_async_framework(None):
        manager = get_task_manager()
        manager._core.intake.homes[0].loop = aside_loop
        aside_loop.close()
        task_id = await asyncio.to_thread(manager.submit_nowait, body)
        told = (
            r"^the event loop that .*body is to run on is closed; a TestClient closes its own "
            r"after each request, unless it is used by 'with TestClient\(app\) as client:'$"
        )
        with pytest.raises(RuntimeError, match=told):
            await manager.get_result(task_id)
        assert manager.get_active_count() == 0


@pytest.fixture
def aside_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Give a second loop, which nobody runs."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_d1_loop_that_ends_cancels_what_runs_on_it(task_manager: TaskManager) -> None:
    """A coroutine task still running when asyncio.run() ends its loop has a final status."""

    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    async def main() -> str:
        task_id = await task_manager.submit(hang)
        await started.wait()
        return task_id

    started = asyncio.Event()
    task_id = asyncio.run(main())
    assert status_of(task_manager, task_id) == "cancelled"
    assert task_manager.get_active_count() == 0


# -- D2: two apps in one process


def make_app() -> FastAPI:
    """Return an app with its own framework and routes that use it."""
    app = FastAPI(lifespan=setup_async_framework)

    @background_task
    def work() -> str:
        return "done"

    @app.get("/run")
    async def run() -> str:
        manager = get_task_manager()
        assert manager is app.state.task_manager
        return str(await manager.get_result(work()))

    return app


async def ask(app: FastAPI) -> str:
    """Ask an app, whose lifespan is run by the caller, for one task's result."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get("/run")
    assert response.status_code == 200
    return str(response.json())


@pytest.mark.parametrize("first_stopped", [0, 1])
async def test_d2_one_of_two_apps_stops(first_stopped: int) -> None:
    """When one of two apps in a process stops, the other one and its manager keep working."""
    apps = [make_app(), make_app()]
    stacks = [contextlib.AsyncExitStack() for _ in apps]
    for app, stack in zip(apps, stacks, strict=True):
        await stack.enter_async_context(app.router.lifespan_context(app))
    assert apps[0].state.task_manager is not apps[1].state.task_manager
    assert apps[0].state.thread_pool is not apps[1].state.thread_pool
    assert [await ask(app) for app in apps] == ["done", "done"]
    await stacks[first_stopped].aclose()
    assert await ask(apps[1 - first_stopped]) == "done"
    await stacks[1 - first_stopped].aclose()


# -- D3: again and again


def test_d3_fifty_times_in_a_row() -> None:
    """An app that is started and stopped 50 times works each time and leaves no thread."""
    app = make_app()
    with TestClient(app) as client:
        assert client.get("/run").json() == "done"
    before = threading.active_count()
    managers = set()
    for _ in range(50):
        with TestClient(app) as client:
            assert client.get("/run").json() == "done"
            managers.add(app.state.task_manager)
    assert threading.active_count() == before
    assert len(managers) == 50


async def test_d3_entered_twice_at_once() -> None:
    """Entering one setup twice at once is a clear error, and the first goes on."""
    setup = setup_async_framework(None)
    async with setup:
        with pytest.raises(RuntimeError, match=r"^this framework is already running: .*$"):
            await setup.__aenter__()
        assert await get_task_manager().submit(lambda: 7, wait=True) == 7


async def test_d3_entered_again_after_its_end() -> None:
    """A setup may be entered again once it was left, with a fresh manager."""
    setup = setup_async_framework(None)
    managers = []
    for _ in range(2):
        async with setup:
            managers.append(get_task_manager())
            assert await managers[-1].submit(lambda: 7, wait=True) == 7
    assert managers[0] is not managers[1]


# -- D4: several loops and one manager


def test_d4_two_loops_in_two_threads(task_manager: TaskManager) -> None:
    """Two loops in two threads that wait for one task, and run their own, are both woken."""
    body = Body()
    task_id = task_manager.submit_nowait(body)
    ready = threading.Barrier(3)

    async def on_this_loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def main() -> tuple[str, bool]:
        own = await task_manager.submit(on_this_loop, wait=True)
        waiting = asyncio.create_task(task_manager.get_result(task_id))
        await asyncio.to_thread(ready.wait, PATIENCE)
        return await waiting, own is asyncio.get_running_loop()

    with ThreadPoolExecutor(2) as threads:
        loops = [threads.submit(asyncio.run, main()) for _ in range(2)]
        ready.wait(PATIENCE)
        body.gate.set()
        assert [one.result(PATIENCE) for one in loops] == [("result", True)] * 2


def test_d4_asyncio_run_twice(task_manager: TaskManager) -> None:
    """A task begun under one asyncio.run() can be awaited under the next."""
    body = Body()

    async def begin() -> TaskId[str]:
        return await task_manager.submit(body)

    task_id = asyncio.run(begin())
    body.gate.set()
    assert asyncio.run(task_manager.get_result(task_id)) == "result"


async def test_d4_coroutine_submitted_by_a_thread() -> None:
    """A coroutine task that a thread submits runs on the app's loop, and wakes the thread."""

    async def body() -> tuple[int, asyncio.AbstractEventLoop]:
        return threading.get_ident(), asyncio.get_running_loop()

    async with setup_async_framework(None):
        manager = get_task_manager()

        def from_a_thread() -> Any:
            return manager.wait_result(manager.submit_nowait(body))

        ran_on = await asyncio.to_thread(from_a_thread)
    assert ran_on == (threading.get_ident(), asyncio.get_running_loop())


# -- D5: the awaiting request is cancelled


async def test_d5_waiter_for_a_thread_is_cancelled(task_manager: TaskManager) -> None:
    """A waiter that is cancelled leaves a thread task RUNNING, which then COMPLETES."""
    body = Body()
    waiting = asyncio.create_task(task_manager.submit(body, wait=True))
    await reached(body.started)
    (task_id,) = task_manager.get_active_tasks()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError, match=r"^$"):
        await waiting
    meanwhile = status_of(task_manager, task_id)
    body.gate.set()
    assert await task_manager.get_result(task_id) == "result"
    assert meanwhile == "running"


async def test_d5_waiter_for_a_coroutine_is_cancelled(task_manager: TaskManager) -> None:
    """A waiter that is cancelled leaves a coroutine task of its own RUNNING as well."""
    started, gate = asyncio.Event(), asyncio.Event()

    async def body() -> str:
        started.set()
        await gate.wait()
        return "result"

    waiting = asyncio.create_task(task_manager.submit(body, wait=True))
    await started.wait()
    (task_id,) = task_manager.get_active_tasks()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError, match=r"^$"):
        await waiting
    meanwhile = status_of(task_manager, task_id)
    gate.set()
    assert await task_manager.get_result(task_id) == "result"
    assert meanwhile == "running"


async def test_d5_awaiter_in_place_is_cancelled(task_manager: TaskManager) -> None:
    """An in-place body is CANCELLED with its awaiter, once it has really let go."""
    started, cleaned = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    @async_task
    async def body() -> None:
        task = current_task()
        assert task is not None
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await cleaned.wait()
            seen.append(task.status)

    waiting = asyncio.create_task(body())
    await started.wait()
    (task_id,) = task_manager.get_active_tasks()
    waiting.cancel()
    asyncio.get_running_loop().call_soon(cleaned.set)
    with pytest.raises(asyncio.CancelledError, match=r"^$"):
        await waiting
    assert seen == ["running"]
    assert status_of(task_manager, task_id) == "cancelled"


# -- D7: a blocked loop


async def test_d7_threads_go_on_while_a_coroutine_blocks(task_manager: TaskManager) -> None:
    """A coroutine task that blocks its loop does not hold up threads: no lock is held."""
    body = Body()
    ended = threading.Event()
    task_id = await task_manager.submit(body, on_complete=lambda _: ended.set())
    await reached(body.started)

    async def block() -> tuple[int, str]:
        body.gate.set()
        assert ended.wait(PATIENCE)
        with ThreadPoolExecutor(1) as aside:
            stats = aside.submit(task_manager.get_stats).result(PATIENCE)
            later = aside.submit(task_manager.submit_nowait, lambda: "later").result(PATIENCE)
            result = aside.submit(task_manager.wait_result, later).result(PATIENCE)
        return stats["completed"], str(result)

    assert await task_manager.submit(block, wait=True) == (1, "later")
    assert await task_manager.get_result(task_id) == "result"


async def test_d7_no_call_of_ours_blocks_the_loop(
    task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """While a thread is stuck, waiting for it, cancelling it and looking leave the loop free."""
    body = Body()
    task_id = await task_manager.submit(body, timeout=5.0)
    await reached(body.started)
    waiting = asyncio.create_task(task_manager.get_result(task_id))
    assert await task_manager.cancel_task(task_id) is False
    assert task_manager.cleanup_completed_tasks(0) == 0
    assert task_manager.get_active_count() == 1
    await task_clock.run_for(5.0)
    with pytest.raises(TaskTimeoutError, match=TIMED_OUT):
        await waiting
    body.gate.set()


# -- D8: a coroutine that swallows its cancellation


class Stubborn:
    """A coroutine task's function that swallows every cancellation until it is let go."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        self.swallowed = asyncio.Event()
        self.times = 0

    async def run(self) -> str:
        """Wait, whatever comes."""
        self.started.set()
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.times += 1
                self.swallowed.set()
        return "late"


async def test_d8_over_its_limit(task_manager: TaskManager, task_clock: VirtualClock) -> None:
    """A coroutine that swallows the cancellation at its limit is TIMEOUT and still running."""
    body = Stubborn()
    task_id = await task_manager.submit(body.run, timeout=5.0)
    await body.started.wait()
    await task_clock.run_for(5.0)
    assert body.swallowed.is_set()
    task = await task_manager.get_task(task_id)
    assert task is not None
    assert (task.status, task.still_running) == (TaskStatus.TIMEOUT, True)
    late = asyncio.Event()
    task_manager.subscribe(lambda event: late.set() if event.kind == "late_result" else None)
    body.gate.set()
    await late.wait()
    after = await task_manager.get_task(task_id)
    assert after is not None
    assert (after.status, after.still_running) == (TaskStatus.TIMEOUT, False)
    with pytest.raises(TaskTimeoutError, match=TIMED_OUT):
        await task_manager.get_result(task_id)


@pytest.mark.asyncframe(leaks="off")
async def test_d8_at_shutdown(asyncframe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    """A coroutine that swallows its cancellation at shutdown is let go, and INTERRUPTED."""
    body = Stubborn()
    async with setup_async_framework(None, graceful_shutdown_timeout=0):
        manager = get_task_manager()
        task_id = await manager.submit(body.run)
        await body.started.wait()
    with pytest.raises(TaskInterruptedError, match=INTERRUPTED):
        await manager.get_result(task_id)
    assert body.times > 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
    told = [one.getMessage() for one in caplog.records if "unfinished" in one.getMessage()]
    assert told[-1].endswith(f"Stubborn.run interrupted: {task_id}")


async def test_d8_cancel_task_gives_up(asyncframe: Probe) -> None:
    """cancel_task() of a coroutine that does not let go is False after a second; it runs on."""
    manager, body = asyncframe.manager, Stubborn()
    task_id = await manager.submit(body.run)
    await body.started.wait()
    assert await manager.cancel_task(task_id) is False
    assert (body.times, asyncframe.clock.monotonic()) == (1, 1.0)
    assert status_of(manager, task_id) == "running"
    body.gate.set()
    assert await manager.get_result(task_id) == "late"
