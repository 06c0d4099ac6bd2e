"""What virtual time waits for outside the clock: files, signals, threads, child processes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import async_task, setup_async_framework
from pytest_asyncframe.clock import VirtualDeadlockError
from pytest_asyncframe.probe import Probe
from tests.patience import PATIENCE
from tests.plugin.clock.waits import HAS_SIGNALS, SEES_THREADS, asleep, compute, sleep

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


@pytest.mark.extended("time")
async def test_a_socket_from_which_nothing_comes(asyncframe: Probe) -> None:
    """An idle open socket stops time for a moment only."""
    left, right = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=left)
    await asleep(60)

    assert asyncframe.clock.monotonic() == 60
    right.close()
    writer.close()
    await writer.wait_closed()


@HAS_SIGNALS
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


@HAS_SIGNALS
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


@HAS_SIGNALS
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
    """A thread that runs what is put into its queue, which waits in C, as database drivers do.

    Attributes:
        name: The name of the thread.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work)
        self.name = self._thread.name
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


@SEES_THREADS
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


@SEES_THREADS
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


@pytest.mark.extended("time")
def test_a_client_on_a_thread(asyncframe: Probe) -> None:
    """A test may wait for its own thread, on which a client of Starlette's waits for a task."""

    @async_task
    def answer_on_a_thread() -> int:
        sleep(60)
        return 7

    app, found = FastAPI(lifespan=setup_async_framework), []
    app.get("/")(answer_on_a_thread)

    def ask() -> None:
        with TestClient(app) as client:
            found.append(client.get("/").json())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == [7]
    assert asyncframe.clock.monotonic() == 60


def nap(seconds: float = 0.05) -> float:
    """Sleep in C, as SQLite does between two attempts to get a lock."""
    ctypes.CDLL(None).usleep(int(seconds * 1e6))
    return seconds


@SEES_THREADS
async def test_a_thread_that_sleeps_in_c(asyncframe: Probe) -> None:
    """A time limit does not fire while a thread of the test's own sleeps in a C library."""
    desk, begun = Desk(), queue.SimpleQueue[None]()

    def work() -> float:
        begun.put(None)
        return nap()

    working = asyncio.create_task(desk.run(work))
    await asleep(0)
    # A thread that a busy machine has not let begin looks like one that has nothing to do.
    begun.get()
    assert await asyncio.wait_for(working, 0.001) == nap()
    assert asyncframe.clock.monotonic() == 0
    desk.close()


@SEES_THREADS
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

    # The first one holds its lock for longer than the others sleep between two attempts.
    writers = [desks[0].run(lambda: write(nap)), *(desk.run(lambda: write(int)) for desk in desks)]
    assert await asyncio.wait_for(asyncio.gather(*writers), 30) == [1] * 7
    assert asyncframe.clock.monotonic() == 0
    for desk in desks:
        desk.close()


@pytest.mark.extended("time")
async def test_a_lock_held_during_a_sleep(asyncframe: Probe, tmp_path: Path) -> None:
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


@pytest.mark.extended("time")
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
    # Once, or a few times if the system sometimes lets the thread run for long.
    assert 1 <= len(notes) < 10
    assert "waits.py" in str(notes[0])


def test_a_thread_that_starts_late(asyncframe: Probe) -> None:
    """A thread that a task starts while all others are parked stops time for a moment only."""
    desks: list[Desk] = []
    asyncframe.clock.sequencer.watchdog.patience = 60
    asyncframe.manager.submit_nowait(lambda: desks.append(Desk()))
    sleep(5)

    assert asyncframe.clock.monotonic() == 5
    desks[0].close()


# -- threads from before the test


@pytest.fixture(scope="module")
def old_desk() -> Iterator[Desk]:
    """A thread that tests share, as the connections of a wider engine have one each."""
    desk = Desk()
    yield desk
    desk.close()


@SEES_THREADS
async def test_an_old_thread_that_answers_late(
    asyncframe: Probe, old_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coroutine that waits for a thread from before the test is no deadlock."""
    left, right = socket.socketpair()
    sequencer = asyncframe.clock.sequencer
    told = sequencer.on_stall

    def on_stall() -> BaseException | None:
        error = told()
        if error is None:
            right.send(b"7")
        return error

    # The thread is at its socket until it was decided whether this is a deadlock.
    monkeypatch.setattr(sequencer, "on_stall", on_stall)
    assert await old_desk.run(lambda: float(left.recv(1))) == 7

    assert [*sequencer.outside.met] == [
        f"the thread {old_desk.name}, which works outside the clock"
    ]
    left.close()
    right.close()


@SEES_THREADS
async def test_an_old_thread_that_computes(asyncframe: Probe, old_desk: Desk) -> None:
    """A time limit does not fire while a thread from before the test computes for a coroutine."""
    for _ in range(3):
        assert await asyncio.wait_for(old_desk.run(compute), 0.001) == compute()
        await asleep(1)

    assert asyncframe.clock.monotonic() == 3


async def test_an_old_thread_that_has_answered(asyncframe: Probe, old_desk: Desk) -> None:
    """A deadlock is told as one where a thread from before the test has no work left."""
    await old_desk.run(compute)

    with pytest.raises(VirtualDeadlockError, match=r"^nothing can continue at 0 s"):
        await asyncio.get_running_loop().create_future()


@pytest.fixture(scope="module")
def old_poller() -> Iterator[None]:
    """A thread that wakes now and then, whatever tests do."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(0.001):  # steady: real time is what is tested
            pass

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("old_poller")
@pytest.mark.parametrize("number", [1, 2])
async def test_an_old_thread_that_polls(asyncframe: Probe, number: int) -> None:
    """A thread from before the test that polls does not stop time, and is nothing that is met."""
    for _ in range(100):
        await asleep(60)

    assert asyncframe.clock.monotonic() == 6000
    assert not asyncframe.clock.sequencer.outside.met


each_mode = pytest.mark.parametrize(
    "mode",
    [
        pytest.param(mode, marks=pytest.mark.asyncframe(mode=mode))
        for mode in ("auto", "manual", "virtual", "seeded")
    ],
)


@SEES_THREADS
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


@pytest.mark.extended("time")
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


@SEES_THREADS
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
    # The child must not run any further, whatever happens.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(round(PATIENCE))
    try:
        begun = time.perf_counter()  # steady: only too short a time fails
        threading.Event().wait(0.03)  # steady: real time is what is tested
        sleep(0.03)
        lasted = time.perf_counter() - begun  # steady: as above
        wall = datetime.now(UTC).timestamp()
        os._exit(0 if lasted >= 0.06 and abs(wall - start) < 1000 else 1)
    finally:
        os._exit(2)


@pytest.mark.extended("processes")
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
