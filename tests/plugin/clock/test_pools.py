"""Time stands still while thread and process pools work."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import multiprocessing.pool
import sys
import threading
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from framework import (
    TaskTimeoutError,
    ThreadPoolExecutorEnhanced,
)
from pytest_asyncframe.clock import StuckError, VirtualClock
from pytest_asyncframe.clock._patched import patches
from pytest_asyncframe.probe import Probe
from tests.plugin.clock.waits import compute, sleep


@pytest.mark.parametrize("pool_type", [ThreadPoolExecutor, ThreadPoolExecutorEnhanced])
def test_a_pool_that_computes(asyncframe: Probe, pool_type: type[ThreadPoolExecutor]) -> None:
    """Time stands still while a thread of a user's pool computes."""
    with pool_type(1) as pool:
        assert pool.submit(compute).result(5) == compute()

    assert asyncframe.clock.monotonic() == 0


@pytest.mark.parametrize("pool_type", [ThreadPoolExecutor, ThreadPoolExecutorEnhanced])
def test_a_pool_that_is_left_while_it_sleeps(
    asyncframe: Probe, pool_type: type[ThreadPoolExecutor]
) -> None:
    """Leaving a pool's block waits for its sleeping calls in virtual time."""
    with pool_type(2) as pool:
        for _ in range(4):
            pool.submit(sleep, 10)

    assert asyncframe.clock.monotonic() == 20


def test_a_pool_that_is_left_in_a_task(asyncframe: Probe) -> None:
    """The same in a task, while time limits of other tasks still fire."""

    def body() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(sleep, 10)

    slow = asyncframe.manager.submit_nowait(sleep, (99,), timeout=3)
    done = asyncframe.manager.submit_nowait(body)
    asyncframe.run_until_complete(done)
    assert asyncframe.clock.monotonic() == 10

    with pytest.raises(
        TaskTimeoutError,
        match=r"^task '\w+' \(tests\.plugin\.clock\.waits\.sleep\) ran past its time limit of 3 s$",
    ):
        asyncframe.run_until_complete(slow)


def test_many_short_calls(task_clock: VirtualClock) -> None:
    """A pool whose threads become idle and busy again is never taken for a deadlock."""
    with ThreadPoolExecutorEnhanced(1) as pool:
        assert [pool.submit(int).result() for _ in range(500)] == [0] * 500

    assert task_clock.monotonic() == 0


@pytest.mark.parametrize("pool_type", [ThreadPoolExecutor, ThreadPoolExecutorEnhanced])
def test_a_pool_that_is_dropped(asyncframe: Probe, pool_type: type[ThreadPoolExecutor]) -> None:
    """A pool that nobody refers to any more ends its threads, as without the plugin."""
    pool = pool_type(1)
    thread = pool.submit(threading.current_thread).result()
    dropped = weakref.ref(pool)
    del pool
    gc.collect()

    assert dropped() is None
    thread.join()


async def test_a_call_over_its_limit(asyncframe: Probe) -> None:
    """A call that exceeds its time limit keeps running on the clock."""
    ended: list[float] = []

    def body() -> None:
        sleep(8)
        ended.append(asyncframe.clock.monotonic())

    with ThreadPoolExecutorEnhanced(1, task_timeout=5, clock=asyncframe.clock) as pool:
        call = asyncio.get_running_loop().run_in_executor(pool, body)
        with pytest.raises(
            TaskTimeoutError,
            match=r"^tests\.plugin\.clock\.test_pools\..*body ran past its time limit of 5 s$",
        ):
            await call
        assert asyncframe.clock.monotonic() == 5

    assert ended == [8]


def test_a_limit_that_passes_while_everybody_waits(asyncframe: Probe) -> None:
    """A time limit ends the wait for a call, whichever thread fires its timer."""
    with ThreadPoolExecutorEnhanced(1, task_timeout=2, clock=asyncframe.clock) as pool:
        call = pool.submit(sleep, 10)
        with pytest.raises(
            TaskTimeoutError,
            match=r"^tests\.plugin\.clock\.waits\.sleep ran past its time limit of 2 s$",
        ):
            call.result()
        assert asyncframe.clock.monotonic() == 2

    assert asyncframe.clock.monotonic() == 10


def test_a_join_of_an_idle_thread(asyncframe: Probe) -> None:
    """Thread.join with a timeout waits in virtual time for a thread that has nothing to do."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(int).result() == 0
        (thread,) = pool._threads
        thread.join(4)
        assert (thread.is_alive(), asyncframe.clock.monotonic()) == (True, 4)


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ThreadPoolExecutorEnhanced])
def test_shutting_down_takes_as_long_as_the_calls(
    asyncframe: Probe, kind: type[ThreadPoolExecutor]
) -> None:
    """A pool that is shut down by two threads ends for both when its last call does."""
    pool = kind(2)
    for seconds in (2, 3):
        pool.submit(sleep, seconds)

    def shut_down(*_: object) -> float:
        pool.shutdown()
        return asyncframe.clock.monotonic()

    with ThreadPoolExecutor(2) as other:
        assert list(other.map(shut_down, range(2))) == [3, 3]


def test_shutting_down_with_a_timeout(asyncframe: Probe) -> None:
    """A shutdown with a timeout gives up after exactly that virtual time."""
    pool = ThreadPoolExecutorEnhanced(1)
    call = pool.submit(sleep, 10)
    pool.shutdown(timeout=5)
    assert asyncframe.clock.monotonic() == 5

    call.result()
    assert asyncframe.clock.monotonic() == 10


def test_a_join_with_a_timeout(asyncframe: Probe) -> None:
    """Thread.join with a timeout waits in virtual time for a thread that sleeps on the clock."""
    pool = ThreadPoolExecutor(1)
    pool.submit(sleep, 10)
    (thread,) = pool._threads
    thread.join(4)
    assert (thread.is_alive(), asyncframe.clock.monotonic()) == (True, 4)

    pool.shutdown(wait=False)
    thread.join()
    assert (thread.is_alive(), asyncframe.clock.monotonic()) == (False, 10)


@pytest.fixture
def without_leftovers() -> None:
    """Collect the pools of earlier tests.

    If one is collected while the next one registers its semaphores, CPython 3.13 complains.
    """
    gc.collect()


@pytest.mark.usefixtures("without_leftovers")
async def test_a_process_that_computes(asyncframe: Probe) -> None:
    """Time stands still while a process of a pool computes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        call = asyncio.get_running_loop().run_in_executor(pool, compute)
        assert await asyncio.wait_for(call, 0.001) == compute()

    assert asyncframe.clock.monotonic() == 0


@pytest.mark.usefixtures("without_leftovers")
def test_a_process_pool_that_is_closed(asyncframe: Probe) -> None:
    """A call that a process pool rejects does not stop time."""
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    pool.shutdown()
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        pool.submit(compute)

    sleep(3)
    assert asyncframe.clock.monotonic() == 3


@pytest.mark.extended("processes")
def test_a_process_pool_that_is_imported_in_the_test(pytester: pytest.Pytester) -> None:
    """A process pool also stops time if the test itself imports its module."""
    pytester.makepyfile("""
    import multiprocessing

    def test_it(asyncframe):
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            assert pool.submit(abs, -1).result(timeout=5) == 1
        assert asyncframe.clock.monotonic() == 0
    """)
    pytester.runpytest_subprocess("-p", "no:randomly").assert_outcomes(passed=1)


@pytest.mark.usefixtures("without_leftovers")
def test_pools_of_multiprocessing(asyncframe: Probe) -> None:
    """Time stands still while a multiprocessing pool owes any kind of result."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.apply_async(compute).get(timeout=1) == compute()
        assert pool.map_async(abs, [-1, -2]).get(timeout=1) == [1, 2]
        assert pool.map_async(abs, []).get(timeout=1) == []
        assert pool.imap(abs, [-1, -2]).next(timeout=1) == 1
        assert sorted(pool.imap_unordered(abs, [-1, -2])) == [1, 2]
        assert asyncframe.clock.monotonic() == 0

    sleep(3)
    assert asyncframe.clock.monotonic() == 3


@pytest.mark.usefixtures("without_leftovers")
def test_a_pool_of_multiprocessing_that_is_terminated(asyncframe: Probe) -> None:
    """Results that a terminated pool still owes do not stop time."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        owed = pool.apply_async(compute, (3600,))
    with pytest.raises(multiprocessing.TimeoutError, match=r"^$"):
        owed.get(timeout=60)

    assert asyncframe.clock.monotonic() == 60


def test_pools_that_are_loaded_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that the test imports is patched, not an earlier copy of it."""
    monkeypatch.setattr(multiprocessing, "pool", multiprocessing.pool)
    monkeypatch.delitem(sys.modules, "multiprocessing.pool")
    with patches.installed(VirtualClock(), wall=False):
        replaced = sys.modules["multiprocessing.pool"].ApplyResult.__init__

    assert replaced is not sys.modules["multiprocessing.pool"].ApplyResult.__init__


def never_end() -> None:
    """Wait forever, in a process with real time."""
    threading.Event().wait()


@pytest.mark.usefixtures("without_leftovers")
def test_a_process_that_does_not_come_back(asyncframe: Probe) -> None:
    """A process that neither answers nor computes is reported as stuck, like a thread."""
    asyncframe.clock.sequencer.watchdog.patience = 0.2
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        owed = pool.apply_async(never_end)
        with pytest.raises(
            StuckError,
            match=r"^nothing has happened for 0\.2 s of real time:\n(?s:.*) other "
            r"processes that have not returned: 1\n",
        ):
            owed.get()


async def test_the_end_of_the_default_executor(asyncframe: Probe) -> None:
    """Shutting down a loop's default executor takes no virtual time of its own."""
    loop = asyncio.get_running_loop()
    timer = loop.call_later(200, lambda: None)
    await asyncio.to_thread(int)
    await loop.shutdown_default_executor()

    assert asyncframe.clock.monotonic() == 0
    timer.cancel()
