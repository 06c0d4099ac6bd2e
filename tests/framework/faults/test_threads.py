"""Faults of the threads that are to work: rows C11 to C14 of the fault table."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from concurrent.futures.thread import BrokenThreadPool
from typing import Any, NoReturn

import pytest

from framework import (
    QueueFullError,
    TaskManager,
    TaskStatus,
    TaskTimeoutError,
    ThreadPoolExecutorEnhanced,
    async_task,
)
from framework._threads.pool_threads import PoolThread
from framework.testing import override_framework
from pytest_asyncframe.clock import VirtualClock
from tests.framework.kinds import (
    in_thread,
    on_loop,
    reached,
)
from tests.framework.pools import run_script
from tests.framework.running.messages import QUEUE_FULL, TIMED_OUT
from tests.patience import PATIENCE

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")


@pytest.mark.extended("processes")
@FORKS
def test_c11_fork_in_a_lifespan() -> None:
    """A forked child that leaves the lifespan ends with its own exit status, without a word."""
    done = run_script(
        """
        import asyncio, os, sys, warnings
        warnings.simplefilter("ignore")
        from framework import get_task_manager, setup_async_framework

        async def main():
            async with setup_async_framework(None):
                child = os.fork()
                if not child:
                    sys.exit(3)
                print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                print(await get_task_manager().submit(int, wait=True))

        asyncio.run(main())
        """
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["3", "0"], "")


@pytest.mark.extended("processes")
@FORKS
def test_c11_fork_in_a_task() -> None:
    """A forked child gets a clear error at once and may start a framework of its own."""
    done = run_script(
        """
        import asyncio, os, warnings
        warnings.simplefilter("ignore")
        from framework import FrameworkNotStartedError, background_task, get_task_manager
        from framework import setup_async_framework

        @background_task
        def seven():
            return 7

        def fork():
            manager = get_task_manager()
            child = os.fork()
            if child:
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            for call in (seven, lambda: manager.submit_nowait(int)):
                try:
                    call()
                except FrameworkNotStartedError as error:
                    assert error.state == "forked", error.state
                else:
                    os._exit(1)
            async def fresh():
                async with setup_async_framework(None):
                    return await get_task_manager().get_result(seven())
            status = []
            import threading
            thread = threading.Thread(target=lambda: status.append(asyncio.run(fresh())))
            thread.start()
            thread.join()
            os._exit(status[0])

        async def main():
            async with setup_async_framework(None) as _:
                manager = get_task_manager()
                print(await manager.submit(fork, wait=True))
                print(await manager.get_result(seven()))

        asyncio.run(main())
        """
    )
    assert (done.stdout, done.stderr, done.returncode) == ("7\n7\n", "", 0)


async def test_c12_all_threads_hang() -> None:
    """With every thread stuck the figures say so, the bound refuses, and the loop goes on."""
    clock = VirtualClock()
    gate, started = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        started.release()
        gate.wait(PATIENCE)

    async def coroutine_task() -> str:
        return "alive"

    pool = ThreadPoolExecutorEnhanced(2, queue_size=1, clock=clock)
    with override_framework(clock=clock, pool=pool) as manager:
        ids: list[str] = []

        async def hang_one() -> None:
            ids.append(manager.submit_nowait(hang, timeout=1.0))
            assert await asyncio.to_thread(started.acquire, timeout=PATIENCE)

        await hang_one()
        await hang_one()
        stuck = pool.get_stats()
        clock.advance(1.0)
        await hang_one()
        await hang_one()
        clock.advance(1.0)
        waiting = manager.submit_nowait(lambda: "at last")
        await asyncio.to_thread(int)
        with pytest.raises(QueueFullError, match=QUEUE_FULL):
            manager.submit_nowait(int)
        sick = pool.get_stats()
        statuses = [manager.get_all_tasks()[task_id]["status"] for task_id in ids]
        alive = await asyncio.wait_for(async_task(coroutine_task)(), PATIENCE)
        gate.set()
        recovered = await manager.get_result(waiting)
    pool.shutdown()
    assert (stuck["busy"], stuck["idle"], stuck["abandoned"], stuck["degraded"]) == (2, 0, 0, False)
    assert (sick["abandoned"], sick["degraded"], sick["queued"]) == (4, True, 1)
    assert statuses == ["timeout"] * 4
    assert (alive, recovered) == ("alive", "at last")


def raises_no_thread(*_: object, **__: object) -> NoReturn:
    """Fail as ``Thread.start`` does when the process has too many."""
    raise RuntimeError("can't start new thread")


async def test_c13_no_thread_on_a_loop(
    task_manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task submitted on a loop for which no thread starts is FAILED, and is not lost."""
    monkeypatch.setattr(PoolThread, "start", raises_no_thread)
    task_id = await task_manager.submit(int)
    with pytest.raises(RuntimeError, match=r"^can't start new thread$"):
        await task_manager.get_result(task_id)
    task = await task_manager.get_task(task_id)
    assert task is not None
    assert (task.status, task.started_at) == (TaskStatus.FAILED, None)
    assert task_manager.get_active_count() == 0


def test_c13_no_thread_off_a_loop(
    task_manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task submitted by a thread for which no thread starts is FAILED, and is not lost."""
    with monkeypatch.context() as patch:
        patch.setattr(PoolThread, "start", raises_no_thread)
        task_id = task_manager.submit_nowait(int)
    with pytest.raises(RuntimeError, match=r"^can't start new thread$"):
        task_manager.wait_result(task_id)
    assert task_manager.wait_result(task_manager.submit_nowait(int)) == 0


@pytest.fixture
def no_timers(
    task_manager: TaskManager, task_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> TaskManager:
    """Give a manager whose clock cannot set timers, as if no thread started for them."""
    monkeypatch.setattr(task_clock, "call_at", raises_no_thread)
    return task_manager


@pytest.mark.parametrize("make", [in_thread, on_loop])
async def test_c13_no_timer_for_a_limit(no_timers: TaskManager, make: Any) -> None:
    """A task whose limit cannot be watched is FAILED with the reason, and is not lost."""

    async def pause() -> None:
        await asyncio.Event().wait()

    fn = make(int) if make is in_thread else pause
    task_id = await no_timers.submit(fn, timeout=5.0)
    with pytest.raises(RuntimeError, match=r"^can't start new thread$"):
        await no_timers.get_result(task_id)
    assert no_timers.get_active_count() == 0


async def test_c13_no_timer_for_a_delay(no_timers: TaskManager) -> None:
    """A delayed task whose time cannot be watched is FAILED with the reason, and is not lost."""
    task_id = await no_timers.submit(int, delay=5.0)
    with pytest.raises(RuntimeError, match=r"^can't start new thread$"):
        await no_timers.get_result(task_id)
    assert (no_timers.get_active_count(), no_timers.get_stats()["delayed"]) == (0, 0)


async def test_c13_no_thread_for_a_hook(
    task_manager: TaskManager, task_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook at a limit for which no thread starts is called all the same."""
    started, gate = threading.Event(), threading.Event()
    told: list[TaskStatus] = []

    def body() -> None:
        started.set()
        gate.wait(PATIENCE)

    task_id = await task_manager.submit(
        body, timeout=1.0, on_error=lambda task: told.append(task.status)
    )
    await reached(started)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", raises_no_thread)
        task_clock.advance(1.0)
    gate.set()
    assert told == [TaskStatus.TIMEOUT]
    with pytest.raises(TaskTimeoutError, match=TIMED_OUT):
        await task_manager.get_result(task_id)


async def test_c14_initializer_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A failing initializer fails queued and later tasks, is logged once, starts no more."""
    gate = threading.Event()
    runs: list[int] = []

    def initializer() -> None:
        gate.wait(PATIENCE)
        runs.append(1)
        raise ValueError("no")

    pool = ThreadPoolExecutorEnhanced(1, initializer=initializer)
    with (
        override_framework(pool=pool) as manager,
        caplog.at_level(logging.CRITICAL, "concurrent.futures"),
    ):
        ids = [await manager.submit(int) for _ in range(3)]
        gate.set()
        for task_id in ids:
            with pytest.raises(BrokenThreadPool, match=r"^A thread initializer failed"):
                await manager.get_result(task_id)
        for _ in range(3):
            with pytest.raises(BrokenThreadPool, match=r"^A thread initializer failed"):
                await manager.submit(int, wait=True)
        assert manager.get_active_count() == 0
    pool.shutdown()
    assert len(runs) == 1
    # A task that fails before anybody waits for it may be logged besides.
    told = [one.levelname for one in caplog.records if one.name == "concurrent.futures"]
    assert told == ["CRITICAL"]
