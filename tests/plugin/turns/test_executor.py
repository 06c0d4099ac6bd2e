"""DeterministicExecutor: a real thread pool that runs what a test tells it to."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from framework import QueueFullError, TaskManager, TaskStatus
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.executor import DeterministicExecutor


def test_it_is_a_thread_pool(task_executor: DeterministicExecutor) -> None:
    """It is a ThreadPoolExecutor that runs nothing by itself."""
    future = task_executor.submit(pow, 2, 5)

    assert isinstance(task_executor, ThreadPoolExecutor)
    assert task_executor.pending == ("call-1",)
    assert not future.running()
    assert task_executor.run_next() == "call-1"
    assert future.result() == 32
    assert task_executor.run_next() is None


def test_drain_runs_what_is_submitted_meanwhile(task_executor: DeterministicExecutor) -> None:
    """drain() also runs what the calls themselves submit."""
    ran: list[str] = []

    def outer() -> None:
        ran.append("outer")
        task_executor.submit(ran.append, "inner")

    task_executor.submit(outer)

    assert task_executor.drain() == ["call-1", "call-2"]
    assert ran == ["outer", "inner"]


def test_a_failure_is_kept_in_the_future(task_executor: DeterministicExecutor) -> None:
    """The error of a call is raised by its future, not by the method that runs it."""
    future = task_executor.submit(int, "x")
    task_executor.drain()

    assert isinstance(future.exception(), ValueError)


def test_run_by_id(task_executor: DeterministicExecutor, task_manager: TaskManager) -> None:
    """run() runs a task by its id; for an unknown id the error lists what is queued."""
    first, second = task_manager.submit_nowait(int), task_manager.submit_nowait(str)
    task_executor.run(second)

    assert task_executor.pending == (first,)
    assert task_manager.wait_result(second) == ""
    with pytest.raises(LookupError, match=rf"^nothing is queued with the id 'x'; queued: {first}$"):
        task_executor.run("x")
    task_executor.drain()


async def test_a_cancelled_task_is_not_run(
    task_executor: DeterministicExecutor, task_manager: TaskManager
) -> None:
    """Cancelled tasks, sync or async, are no longer pending and never run."""

    async def coroutine() -> None:
        raise AssertionError

    ids = [await task_manager.submit(pytest.fail), await task_manager.submit(coroutine)]
    assert task_executor.pending == tuple(ids)

    assert [await task_manager.cancel_task(task_id) for task_id in ids] == [True, True]

    assert task_executor.pending == ()
    assert task_executor.drain() == []


def test_a_cancelled_call_is_not_run(task_executor: DeterministicExecutor) -> None:
    """A call whose future was cancelled is no longer pending."""
    future = task_executor.submit(pytest.fail)

    assert future.cancel()
    assert task_executor.drain() == []
    assert task_executor.get_stats()["cancelled"] == 1


def test_a_nested_wait_runs_inline() -> None:
    """A call that waits for another one runs it on its own thread if the pool has only one."""
    pool = DeterministicExecutor(max_workers=1)
    future = pool.submit(lambda: pool.submit(threading.get_ident).result())
    pool.drain()

    assert future.result() != threading.get_ident()
    pool.shutdown()


def test_a_full_queue() -> None:
    """Calls that are held back count towards the queue size."""
    pool = DeterministicExecutor(queue_size=1)
    pool.submit(int)

    with pytest.raises(
        QueueFullError,
        match=r"^the task queue is full: 1 tasks are waiting; try again in 1 s, "
        r"or increase 'queue_size' or 'max_workers'$",
    ):
        pool.submit(int)
    assert pool.get_stats()["rejected"] == 1
    assert pool.get_stats()["queued"] == 1
    pool.shutdown(cancel_futures=True)


def test_shutdown_runs_what_waits() -> None:
    """As with any pool, shutdown() returns after everything queued has run."""
    pool = DeterministicExecutor(max_workers=1)
    futures = [pool.submit(int, number) for number in range(3)]
    pool.shutdown()

    assert [future.result() for future in futures] == [0, 1, 2]
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        pool.submit(int)


def test_wait_for_a_cancelled_call() -> None:
    """A held call that is cancelled, directly or by shutdown(), is done for wait()."""
    pool = DeterministicExecutor(max_workers=1)
    futures = [pool.submit(int), pool.submit(int)]
    assert futures[0].cancel()
    pool.shutdown(cancel_futures=True)
    assert wait(futures, 0).done == set(futures)
    assert pool.get_stats()["cancelled"] == 2


def test_shutdown_that_cancels() -> None:
    """shutdown(cancel_futures=True) cancels what is queued."""
    pool = DeterministicExecutor(max_workers=1)
    future = pool.submit(pytest.fail)
    pool.shutdown(cancel_futures=True)

    assert future.cancelled()


def test_no_thread_is_free(task_executor: DeterministicExecutor, task_clock: VirtualClock) -> None:
    """Running a call while all threads are busy is an error."""
    pool = DeterministicExecutor(task_clock.sequencer, 1, clock=task_clock)
    first = pool.submit(task_clock.sleep, 5)
    second = pool.submit(int)
    assert pool.run_next() == "call-1"

    with pytest.raises(
        RuntimeError, match=r"^cannot run call-2 \(builtins.int\): all 1 threads of the"
    ):
        pool.run_next()

    task_clock.advance(5)
    pool.drain()
    assert first.done()
    assert second.result() == 0
    pool.shutdown()


async def test_it_is_a_loops_default_executor(
    task_executor: DeterministicExecutor, task_manager: TaskManager
) -> None:
    """As the default executor of a loop it also controls to_thread()."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(task_executor)
    answer = asyncio.ensure_future(asyncio.to_thread(int, "7"))
    begun = loop.create_future()
    loop.call_soon(begun.set_result, None)
    await begun
    assert len(task_executor.pending) == 1
    task_executor.drain()

    assert await answer == 7
    assert task_manager.get_stats()["submitted"] == 0


def test_real_time_without_a_clock(
    task_executor: DeterministicExecutor, task_manager: TaskManager
) -> None:
    """Without task_clock, tasks of the executor run in real time."""
    task_id = task_manager.submit_nowait(int)
    task_executor.drain()

    assert task_manager.get_all_tasks()[task_id]["status"] == TaskStatus.COMPLETED
    assert not isinstance(task_manager.clock, VirtualClock)


def test_the_pool_alone(task_pool: ThreadPoolExecutor) -> None:
    """task_pool alone has real threads."""
    assert task_pool.submit(pow, 2, 3).result() == 8
