"""Tasks that wait, with a timeout or on a loop of their own, for tasks of their full pool."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from framework import (
    TaskManager,
    ThreadPoolExecutorEnhanced,
    async_task,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework._threads.pool_threads import PoolThread
from framework.testing import override_framework
from tests.framework.pools import Stuck, counters, run_script, settle, start_stuck
from tests.patience import PATIENCE

SOON = 0.01
"""Real seconds of a wait that is to end by its timeout, which is certain, however late."""


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutorEnhanced]:
    """Give a production pool of one thread."""
    with ThreadPoolExecutorEnhanced(1) as pool:
        yield pool


@pytest.fixture
def manager(pool: ThreadPoolExecutorEnhanced) -> Iterator[TaskManager]:
    """Give a manager on the production pool of one thread, in real time."""
    with override_framework(pool=pool) as manager:
        yield manager


def idents(*futures: Future[int]) -> list[int]:
    """Return on which threads calls have run."""
    return [future.result(PATIENCE) for future in futures]


# -- bare calls


def test_a_timed_wait_has_the_call_run_elsewhere(pool: ThreadPoolExecutorEnhanced) -> None:
    """A call waited for with a timeout on a full pool runs, on a thread beside the waiter's."""

    def outer() -> tuple[int, int]:
        return threading.get_ident(), pool.submit(threading.get_ident).result(PATIENCE)

    here, there = pool.submit(outer).result(PATIENCE)
    assert here != there


def test_a_timed_wait_for_the_exception(pool: ThreadPoolExecutorEnhanced) -> None:
    """exception(timeout) on a full pool has the call run as result(timeout) does."""

    def outer() -> BaseException | None:
        return pool.submit(divmod, 1, 0).exception(PATIENCE)

    assert isinstance(pool.submit(outer).result(PATIENCE), ZeroDivisionError)


def test_timed_waits_inside_timed_waits(pool: ThreadPoolExecutorEnhanced) -> None:
    """Twenty calls that each wait for the next with a timeout end, and all are counted."""

    def down(depth: int) -> int:
        return 0 if depth == 0 else 1 + pool.submit(down, depth - 1).result(PATIENCE)

    assert pool.submit(down, 20).result(PATIENCE) == 20
    settle(pool)
    assert counters(pool)["completed"] == 21


def test_the_timeout_is_kept(pool: ThreadPoolExecutorEnhanced) -> None:
    """A call that takes longer than its waiter has patience runs on; shutdown waits for it."""
    stuck, waited = Stuck(), threading.Event()
    inner: list[Future[str]] = []

    def outer() -> str:
        inner.append(pool.submit(stuck))
        try:
            return inner[0].result(SOON)
        finally:
            waited.set()

    future = pool.submit(outer)
    with pytest.raises(TimeoutError, match=r"^$"):
        future.result(PATIENCE)
    assert stuck.started.wait(PATIENCE)
    stuck.gate.set()
    settle(pool)
    assert inner[0].result(0) == "late"


def test_the_awaited_call_goes_first(pool: ThreadPoolExecutorEnhanced) -> None:
    """The call that is waited for runs before those that were queued earlier."""
    ran: list[str] = []

    def outer() -> None:
        pool.submit(ran.append, "queued first")
        pool.submit(ran.append, "awaited").result(PATIENCE)

    pool.submit(outer).result(PATIENCE)
    settle(pool)
    assert ran == ["awaited", "queued first"]


def test_waits_that_give_up_do_not_flood_the_pool(pool: ThreadPoolExecutorEnhanced) -> None:
    """However many waits time out, at most twice *max_workers* threads are at work."""
    gate = threading.Event()

    def outer() -> int:
        for _ in range(5):
            with pytest.raises(TimeoutError, match=r"^$"):
                pool.submit(gate.wait, PATIENCE).result(SOON)
        return int(pool.get_stats()["threads"])

    try:
        assert pool.submit(outer).result(PATIENCE) == 2
    finally:
        gate.set()


def test_spare_threads_end(pool: ThreadPoolExecutorEnhanced) -> None:
    """A spare thread ends with what it was started for, and its calls stay counted."""
    spare: list[threading.Thread] = []

    def inner() -> None:
        spare.append(threading.current_thread())

    pool.submit(lambda: pool.submit(inner).result(PATIENCE)).result(PATIENCE)
    spare[0].join(PATIENCE)
    assert not spare[0].is_alive()
    assert (pool.get_stats()["threads"], pool.get_stats()["idle"]) == (1, 1)
    settle(pool)
    assert counters(pool)["completed"] == 2


def give_up(pool: ThreadPoolExecutorEnhanced, stuck: Stuck) -> None:
    """Abandon the thread of a stuck call, as its limit would."""
    crew = pool._crew
    (thread,) = (thread for thread in crew.threads if thread is stuck.thread)
    crew.abandon(thread.stack[-1])


def test_a_spare_thread_comes_once_there_is_room(
    pool: ThreadPoolExecutorEnhanced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait that got no spare thread, for all that were abandoned, gets it when one ends."""
    crew, asked = pool._crew, threading.Event()
    real = crew._start_spare

    def start_spare() -> bool:
        found = real()
        asked.set()
        return found

    first, _ = start_stuck(pool)
    give_up(pool, first)
    second = Stuck()

    def outer() -> int:
        with pytest.raises(TimeoutError, match=r"^$"):
            pool.submit(second).result(SOON)  # it runs on a spare thread
        assert second.started.wait(PATIENCE)
        give_up(pool, second)
        monkeypatch.setattr(crew, "_start_spare", start_spare)
        return pool.submit(threading.get_ident).result(PATIENCE)

    done = pool.submit(outer)
    assert asked.wait(PATIENCE)
    assert len(crew.threads) == 3
    first.let_go_and_join()
    done.result(PATIENCE)
    second.let_go_and_join()


def test_the_last_spare_thread_leaves_nothing_behind(pool: ThreadPoolExecutorEnhanced) -> None:
    """What is queued runs, though the thread beside which a spare one stood was abandoned."""
    inner, outer = Stuck(), Stuck()

    def waits() -> None:
        with pytest.raises(TimeoutError, match=r"^$"):
            pool.submit(inner).result(SOON)  # it runs on a spare thread
        assert inner.started.wait(PATIENCE)
        outer()

    pool.submit(waits)
    assert outer.started.wait(PATIENCE)
    give_up(pool, outer)
    queued = pool.submit(int)
    outer.let_go_and_join()
    inner.let_go_and_join()
    assert queued.result(PATIENCE) == 0


def test_a_wait_in_an_idle_pool_starts_no_spare_thread() -> None:
    """Where a thread of the pool is free to come, a timed wait starts none beside it."""
    with ThreadPoolExecutorEnhanced(2) as pool:
        pool.submit(lambda: pool.submit(int).result(PATIENCE)).result(PATIENCE)
        assert pool.get_stats()["threads"] == 2
        assert not any(thread.spare for thread in pool._crew.threads)


def test_without_a_thread_to_be_had_the_call_runs_inline(
    pool: ThreadPoolExecutorEnhanced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no spare thread can be started, the waiter runs the call itself."""

    def outer() -> tuple[int, int]:
        monkeypatch.setattr(PoolThread, "start", no_thread)
        return threading.get_ident(), pool.submit(threading.get_ident).result(PATIENCE)

    here, there = pool.submit(outer).result(PATIENCE)
    assert here == there


def no_thread(_: PoolThread) -> None:
    """Fail as a process that has as many threads as it may."""
    raise RuntimeError("can't start new thread")


def test_spare_threads_are_initialised_too() -> None:
    """A pool's initializer runs on its spare threads before what they are started for."""
    kept = threading.local()

    def prepare() -> None:
        kept.ready = True

    with ThreadPoolExecutorEnhanced(1, initializer=prepare) as pool:

        def outer() -> list[bool]:
            return [pool.submit(lambda: kept.ready).result(PATIENCE) for _ in range(3)]

        assert pool.submit(outer).result(PATIENCE) == [True] * 3


@pytest.mark.extended("processes")
def test_a_timed_wait_while_the_interpreter_ends() -> None:
    """When no thread can be started any more, a queued call is run by its waiter."""
    done = run_script(
        """
        import concurrent.futures.thread, threading
        from framework import ThreadPoolExecutorEnhanced

        pool, queued, ending = ThreadPoolExecutorEnhanced(1), threading.Event(), threading.Event()
        # Called at the end of the interpreter, shortly before new threads are forbidden.
        threading._register_atexit(ending.set)

        def outer():
            inner = pool.submit(int, "9")
            queued.set()
            ending.wait()
            while not concurrent.futures.thread._shutdown:
                pass
            print(inner.result(60))

        pool.submit(outer)
        queued.wait()
        """
    )
    assert (done.returncode, done.stdout) == (0, "9\n"), done.stderr


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_what_waiters_have_run_does_not_stay_queued(
    pool: ThreadPoolExecutorEnhanced, timeout: float | None
) -> None:
    """A call that waits for one call after the other leaves none of them in the queue."""

    def outer() -> int:
        for number in range(1_000):
            assert pool.submit(int, number).result(timeout) == number
        return len(pool._crew.queue.items)

    assert pool.submit(outer).result(PATIENCE) < 100


def test_a_poll_runs_nothing(pool: ThreadPoolExecutorEnhanced) -> None:
    """result(0) asks whether there is a result, and has nothing run."""

    def outer() -> bool:
        future = pool.submit(int)
        with pytest.raises(TimeoutError, match=r"^$"):
            future.result(0)
        return future.cancel()

    assert pool.submit(outer).result(PATIENCE)


# -- tasks


def test_wait_result_with_a_timeout(manager: TaskManager) -> None:
    """wait_result(timeout=) inside a task of a full pool returns what a spare thread made."""

    def outer() -> tuple[int, int]:
        inner = manager.submit_nowait(threading.get_ident)
        return threading.get_ident(), manager.wait_result(inner, timeout=PATIENCE)

    here, there = manager.wait_result(manager.submit_nowait(outer), timeout=PATIENCE)
    assert here != there


def test_wait_result_that_gives_up(manager: TaskManager) -> None:
    """A task that takes too long for its waiter goes on, and the waiter gets TimeoutError."""
    stuck = Stuck()
    inner: list[Any] = []

    def outer() -> None:
        inner.append(manager.submit_nowait(stuck))
        manager.wait_result(inner[0], timeout=SOON)

    with pytest.raises(TimeoutError, match=r"^task \w+ .*; it goes on$"):
        manager.wait_result(manager.submit_nowait(outer), timeout=PATIENCE)
    stuck.gate.set()
    assert manager.wait_result(inner[0], timeout=PATIENCE) == "late"


@pytest.mark.parametrize("timeout", [None, PATIENCE])
@pytest.mark.parametrize("delay", [0.0, SOON], ids=["queued", "delayed"])
def test_a_loop_inside_of_a_task(manager: TaskManager, timeout: float | None, delay: float) -> None:
    """asyncio.run(get_result()) inside a task of a full pool gets the result."""

    def outer() -> int:
        inner = manager.submit_nowait(int, ("7",), delay=delay)
        return asyncio.run(manager.get_result(inner, timeout))

    assert manager.wait_result(manager.submit_nowait(outer), timeout=PATIENCE) == 7


@async_task
def leaf(number: int) -> int:
    """Run on the pool."""
    return number


@background_task
async def middle(number: int) -> int:
    """Wait for a task of the pool on the app's loop."""
    return await leaf(number)


@pytest.mark.parametrize("timeout", [None, PATIENCE])
async def test_a_coroutine_between_two_tasks_of_the_pool(
    pool: ThreadPoolExecutorEnhanced, timeout: float | None
) -> None:
    """Tasks of a full pool may wait for coroutines that wait for tasks of it, many at once."""
    with override_framework(pool=pool) as manager:
        async with setup_async_framework(None):

            def outer(number: int) -> Any:
                return manager.wait_result(middle(number), timeout)

            ids = [await manager.submit(outer, (number,)) for number in range(20)]
            found = await asyncio.gather(*map(manager.get_result, ids))
    assert found == list(range(20))


def test_many_waits_on_a_loop_inside_of_a_task(manager: TaskManager) -> None:
    """A loop inside a task may wait for many tasks of the full pool at once."""

    async def all_of(count: int) -> list[Any]:
        ids = [await manager.submit(pow, (2, number)) for number in range(count)]
        return await asyncio.gather(*map(manager.get_result, ids))

    def outer() -> list[Any]:
        return asyncio.run(all_of(8))

    found = manager.wait_result(manager.submit_nowait(outer), timeout=PATIENCE)
    assert found == [1, 2, 4, 8, 16, 32, 64, 128]
    assert get_task_manager().get_stats()["completed"] == 9
