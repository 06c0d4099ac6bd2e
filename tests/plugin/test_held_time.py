"""What virtual time waits for, and waits that end at exactly the right moment."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import multiprocessing
import multiprocessing.pool
import os
import queue
import signal
import socket
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi import FastAPI

from framework import (
    RateLimitExceededError,
    Task,
    TaskManager,
    TaskTimeoutError,
    ThreadPoolExecutorEnhanced,
    throttled_task,
)
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock import StuckError, VirtualClock, _processes
from pytest_asyncframe.probe import Probe

asleep = asyncio.sleep  # noqa: TID251  # on virtual time, which is what is tested here


def sleep(seconds: float) -> None:
    """Sleep with the patched function."""
    time.sleep(seconds)  # noqa: TID251  # as above


def compute(seconds: float = 0.03) -> float:
    """Compute for *seconds* of the thread's own processor time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
    return seconds


# -- pools


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

    with pytest.raises(TaskTimeoutError):
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
        with pytest.raises(TaskTimeoutError):
            await call
        assert asyncframe.clock.monotonic() == 5

    assert ended == [8]


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


async def test_a_process_that_computes(asyncframe: Probe) -> None:
    """Time stands still while a process of a pool computes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        call = asyncio.get_running_loop().run_in_executor(pool, compute)
        assert await asyncio.wait_for(call, 0.001) == compute()

    assert asyncframe.clock.monotonic() == 0


def test_a_process_pool_that_is_closed(asyncframe: Probe) -> None:
    """A call that a process pool rejects does not stop time."""
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(compute)

    sleep(3)
    assert asyncframe.clock.monotonic() == 3


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


def test_a_pool_of_multiprocessing_that_is_terminated(asyncframe: Probe) -> None:
    """Results that a terminated pool still owes do not stop time."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        owed = pool.apply_async(compute, (3600,))
    with pytest.raises(multiprocessing.TimeoutError):
        owed.get(timeout=60)

    assert asyncframe.clock.monotonic() == 60


def test_pools_that_are_loaded_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that the test imports is patched, not an earlier copy of it."""
    monkeypatch.setattr(multiprocessing, "pool", multiprocessing.pool)
    monkeypatch.delitem(sys.modules, "multiprocessing.pool")
    sequencer = Sequencer(moves=True, starts=True, hold=True, one_at_a_time=True)
    owners = [owner for owner, _, _ in _processes.counted(sequencer)]

    assert sys.modules["multiprocessing.pool"].ApplyResult in owners


def never_end() -> None:
    """Wait forever, in a process with real time."""
    threading.Event().wait()


def test_a_process_that_does_not_come_back(asyncframe: Probe) -> None:
    """A process that neither answers nor computes is reported as stuck, like a thread."""
    asyncframe.clock.sequencer.patience = 0.2
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        owed = pool.apply_async(never_end)
        with pytest.raises(StuckError, match=r"other processes that have not returned: 1\n"):
            owed.get()


async def test_the_end_of_the_default_executor(asyncframe: Probe) -> None:
    """Shutting down a loop's default executor takes no virtual time of its own."""
    loop = asyncio.get_running_loop()
    timer = loop.call_later(200, lambda: None)
    await asyncio.to_thread(int)
    await loop.shutdown_default_executor()

    assert asyncframe.clock.monotonic() == 0
    timer.cancel()


# -- what the framework does on threads of its own


@pytest.mark.parametrize("seconds", [0.0, 3.0])
async def test_a_hook_at_a_limit(asyncframe: Probe, seconds: float) -> None:
    """A hook called at a time limit stops time while it computes, and can sleep on the clock."""
    called: list[float] = []

    def hook(_: Task) -> None:
        compute()
        sleep(seconds)
        called.append(asyncframe.clock.monotonic())

    task_id = asyncframe.manager.submit_nowait(sleep, (9,), timeout=1, on_error=hook)
    assert (await asyncframe.completed(task_id, check=False)).error is not None
    await asyncframe.clock.run_for(5)

    assert called == [1 + seconds]


# -- files and signals


async def test_bytes_that_are_on_their_way(asyncframe: Probe) -> None:
    """A timeout around a socket does not fire while the other side computes."""
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)

    def answer() -> None:
        compute(0.1)
        right.sendall(b"done\n")

    thread = threading.Thread(target=answer)
    thread.start()
    assert await asyncio.wait_for(reader.readline(), 60) == b"done\n"

    assert asyncframe.clock.monotonic() == 0
    thread.join()
    right.close()
    writer.close()
    await writer.wait_closed()


async def test_a_socket_from_which_nothing_comes(asyncframe: Probe) -> None:
    """An idle open socket stops time for a moment only."""
    left, right = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=left)
    await asleep(60)

    assert asyncframe.clock.monotonic() == 60
    right.close()
    writer.close()
    await writer.wait_closed()


async def test_a_signal_wakes_the_loop(asyncframe: Probe) -> None:
    """A loop with a signal handler is no deadlock, and a signal wakes it."""
    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, heard.set)
    try:
        thread = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1))
        thread.start()
        await heard.wait()
        thread.join()
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)

    assert asyncframe.clock.monotonic() == 0


@pytest.mark.parametrize("busy", [False, True])
async def test_a_signal_that_has_come(asyncframe: Probe, busy: bool) -> None:
    """A signal is handled before time moves, whether the loop is busy or not."""
    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, heard.set)
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(5 * busy):
            await asleep(0)
        assert heard.is_set() == busy
        await asyncio.wait_for(heard.wait(), 10)
    finally:
        assert loop.remove_signal_handler(signal.SIGUSR1)

    assert asyncframe.clock.monotonic() == 0


async def test_a_signal_between_moves_of_time(asyncframe: Probe) -> None:
    """A signal is handled while timers keep moving time."""
    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, heard.set)
    try:
        asyncframe.clock.call_at(100, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        while not heard.is_set():
            assert asyncframe.clock.monotonic() < 200
            await asleep(1)
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)


# -- threads of the test's own


class Desk:
    """A thread that runs what is put into its queue, which waits in C, as database drivers do."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            call()

    async def run(self, call: Callable[[], float]) -> float:
        """Run *call* on the thread, and return its result."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[float] = loop.create_future()
        self._queue.put(lambda: loop.call_soon_threadsafe(result.set_result, call()))
        return await result

    def close(self) -> None:
        """End the thread."""
        self._queue.put(None)
        self._thread.join()


async def test_a_thread_that_works_for_a_loop(asyncframe: Probe) -> None:
    """A time limit does not fire while the test's own thread computes for a coroutine."""
    desk = Desk()

    async def body() -> float:
        return sum([await desk.run(compute) for _ in range(5)])

    task_id = await asyncframe.manager.submit(body, timeout=0.001)
    assert (await asyncframe.completed(task_id)).result == pytest.approx(5 * compute())
    assert asyncframe.clock.monotonic() == 0
    desk.close()


async def test_a_thread_that_waits_for_work(asyncframe: Probe) -> None:
    """An idle thread of the test's own does not stop time."""
    desk = Desk()
    await asleep(60)
    assert asyncframe.clock.monotonic() == 60

    task_id = await asyncframe.manager.submit(sleep, (9,))
    await asyncframe.completed(task_id)
    assert asyncframe.clock.monotonic() == 69
    desk.close()


def test_a_thread_beside_a_sync_test(asyncframe: Probe) -> None:
    """Waiting for a thread of the test's own takes no virtual time while that computes."""
    done = threading.Event()

    def work() -> None:
        compute()
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert done.wait(0.001)
    thread.join()

    sleep(5)
    assert asyncframe.clock.monotonic() == 5


def nap(seconds: float = 0.05) -> float:
    """Sleep in C, as SQLite does between two attempts to get a lock."""
    ctypes.CDLL(None).usleep(int(seconds * 1e6))
    return seconds


async def test_a_thread_that_sleeps_in_c(asyncframe: Probe) -> None:
    """A time limit does not fire while a thread of the test's own sleeps in a C library."""
    desk = Desk()
    assert await asyncio.wait_for(desk.run(nap), 0.001) == nap()
    assert asyncframe.clock.monotonic() == 0
    desk.close()


async def test_writers_of_a_database(asyncframe: Probe, tmp_path: Path) -> None:
    """A time limit does not fire while threads wait for each other's locks in SQLite."""
    desks = [Desk() for _ in range(6)]

    def write(begun: Callable[[], object]) -> float:
        with sqlite3.connect(tmp_path / "data", isolation_level=None) as connection:
            connection.execute("begin exclusive")
            begun()
            connection.execute("commit")
        connection.close()
        return 1

    # The first one holds its lock for longer than a pause of all others.
    writers = [desks[0].run(lambda: write(nap)), *(desk.run(lambda: write(int)) for desk in desks)]
    assert await asyncio.wait_for(asyncio.gather(*writers), 30) == [1] * 7
    assert asyncframe.clock.monotonic() == 0
    for desk in desks:
        desk.close()


async def test_a_lock_that_is_held_by_one_who_sleeps(asyncframe: Probe, tmp_path: Path) -> None:
    """Time moves for the holder of a database lock while a thread waits for it in real time."""
    desk, clock = Desk(), asyncframe.clock
    holder = sqlite3.connect(tmp_path / "data", isolation_level=None)

    def write() -> float:
        with sqlite3.connect(tmp_path / "data", isolation_level=None, timeout=60) as connection:
            connection.execute("begin exclusive")
        connection.close()
        return clock.monotonic()

    holder.execute("begin exclusive")
    writing = asyncio.create_task(desk.run(write))
    await asleep(5)
    holder.execute("commit")
    assert await writing == 5
    holder.close()
    desk.close()


async def test_a_thread_that_polls(asyncframe: Probe) -> None:
    """Time does not wait for a polling thread, and the timeline says so."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.is_set():
            sleep(0.001)

    thread = threading.Thread(target=poll, name="poller", daemon=True)
    thread.start()
    for _ in range(100):
        await asleep(60)
    stop.set()
    thread.join()

    assert asyncframe.clock.monotonic() == 6000
    notes = [
        moment for moment in asyncframe._recorder.moments if "waiting for poller" in str(moment)
    ]
    # Once, or a few times if the system lets it run for long now and then.
    assert 1 <= len(notes) < 10
    assert "test_held_time.py" in str(notes[0])


def test_a_thread_that_comes_up_late(asyncframe: Probe) -> None:
    """A thread that a task starts while all others are parked stops time for a moment only."""
    desks: list[Desk] = []
    asyncframe.clock.sequencer.patience = 60
    asyncframe.manager.submit_nowait(lambda: desks.append(Desk()))
    sleep(5)

    assert asyncframe.clock.monotonic() == 5
    desks[0].close()


each_mode = pytest.mark.parametrize(
    "mode",
    [
        pytest.param(mode, marks=pytest.mark.asyncframe(mode=mode))
        for mode in ("auto", "manual", "virtual", "seeded")
    ],
)


@each_mode
async def test_run_for_waits_for_threads(asyncframe: Probe, mode: str) -> None:
    """run_for() lets the test's own threads finish their work before it moves time on."""
    desk, clock = Desk(), asyncframe.clock
    done: list[float] = []

    async def poll() -> None:
        for _ in range(10):
            await asleep(60)
            await desk.run(compute)
            done.append(clock.monotonic())

    polling = asyncio.create_task(poll())
    await clock.run_for(600)
    assert done == [60 * number for number in range(1, 11)]
    await polling
    desk.close()


@each_mode
async def test_run_for_waits_for_sockets(asyncframe: Probe, mode: str) -> None:
    """A timeout around a socket does not fire while run_for() waits for the other side."""
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)

    def answer() -> None:
        while request := right.recv(1):
            compute()
            right.sendall(request)

    async def ask() -> bytes:
        await asleep(1)
        writer.write(b"?")
        return await asyncio.wait_for(reader.read(1), 5)

    thread = threading.Thread(target=answer)
    thread.start()
    asking = asyncio.create_task(ask())
    await asyncframe.clock.run_for(10)
    assert asking.done()
    assert asking.result() == b"?"
    writer.close()
    await writer.wait_closed()
    thread.join()
    right.close()


@each_mode
def test_advance_waits_for_threads(asyncframe: Probe, mode: str) -> None:
    """advance() lets an app's own threads finish their work before it moves time on."""
    desks: list[Desk] = []
    done: list[float] = []

    async def poll() -> None:
        while True:
            await asleep(60)
            await desks[0].run(compute)
            done.append(asyncframe.clock.monotonic())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        desks.append(Desk())
        polling = asyncio.create_task(poll())
        yield
        polling.cancel()
        desks[0].close()

    with asyncframe.client(FastAPI(lifespan=lifespan)):
        asyncframe.clock.advance(300)
        assert done == [60, 120, 180, 240, 300]


# -- children


def child(start: float) -> None:
    """Exit with 0 if waits take real time here and the wall clock shows it."""
    # Whatever happens, it goes no further than this.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(10)
    try:
        begun = time.perf_counter()
        threading.Event().wait(0.03)
        sleep(0.03)
        lasted = time.perf_counter() - begun
        wall = datetime.now(UTC).timestamp()
        os._exit(0 if lasted >= 0.06 and abs(wall - start) < 1000 else 1)
    finally:
        os._exit(2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no children are forked here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@each_mode
def test_a_forked_child_is_in_real_time(asyncframe: Probe, mode: str) -> None:
    """A forked child runs in real time, and the test goes on in virtual time."""
    asyncframe.clock.advance(5000)
    busy = ThreadPoolExecutor(1)
    computing = busy.submit(compute, 0.1)
    process = os.fork()
    if not process:
        child(asyncframe.clock.time() - 5000)
    assert os.waitpid(process, 0)[1] == 0
    assert computing.result() == 0.1
    busy.shutdown()

    asyncframe.clock.advance(1)
    assert asyncframe.clock.monotonic() == 5001
    assert datetime.now(UTC).timestamp() == pytest.approx(asyncframe.clock.time())


# -- exact ends


@pytest.mark.parametrize(
    ("begin", "limit"), [(0.1, 0.2), (1.1, 2.2), (0, 1 / 3), (1e6, 1e-3), (0, 1e-12)]
)
async def test_limits_that_are_no_whole_nanoseconds(
    asyncframe: Probe, begin: float, limit: float
) -> None:
    """A time limit fires once, at the first nanosecond that is not too early."""
    await asleep(begin)
    task_id = await asyncframe.manager.submit(asyncio.Event().wait, timeout=limit)
    with pytest.raises(TaskTimeoutError):
        await asyncframe.completed(task_id)

    late = asyncframe.clock.monotonic() - begin - limit
    assert 0 <= late + 1e-15 * begin <= 2e-9


def test_a_time_to_retry_after(task_clock: VirtualClock, task_manager: TaskManager) -> None:
    """A call is allowed once the clock has moved by retry_after."""

    @throttled_task(rate_limit=1, time_window=1 / 3)
    def call() -> int:
        return 1

    call()
    with pytest.raises(RateLimitExceededError) as caught:
        call()
    task_clock.advance(caught.value.retry_after)

    assert call() == 1


async def repeat(clock: VirtualClock, every: float, told: list[float]) -> None:
    """Record the time periodically, with a timer that sets itself again."""

    def tick() -> None:
        told.append(clock.monotonic())
        clock.call_at(clock.monotonic() + every, tick)

    clock.call_at(every, tick)


async def sleep_again(clock: VirtualClock, every: float, told: list[float]) -> None:
    """Record the time periodically, in a coroutine."""

    async def go_on() -> None:
        while True:
            await asleep(every)
            told.append(clock.monotonic())

    told_by = asyncio.create_task(go_on())
    told_by.add_done_callback(lambda _: None)


@pytest.mark.asyncframe(leaks="off")
@pytest.mark.parametrize("start", [repeat, sleep_again])
async def test_run_for_ends_after_what_is_due_then(
    task_clock: VirtualClock, start: Callable[..., object]
) -> None:
    """Timers due at the very end of run_for() have fired when it returns."""
    told: list[float] = []
    await start(task_clock, 10, told)  # type: ignore[misc]  # one of the two above
    await task_clock.run_for(30)

    assert told == [10, 20, 30]


def test_as_completed_with_a_timeout(asyncframe: Probe) -> None:
    """as_completed() raises exactly when its timeout is over."""
    with pytest.raises(TimeoutError):
        list(as_completed([Future[None]()], 0.3))

    assert asyncframe.clock.monotonic() == 0.3


def test_a_clock_of_its_own() -> None:
    """A clock created without arguments is moved by advance()."""
    clock = VirtualClock()
    fired: list[float] = []
    clock.call_at(2, lambda: fired.append(clock.monotonic()))
    clock.advance(3)

    assert (fired, clock.monotonic()) == ([2], 3)
