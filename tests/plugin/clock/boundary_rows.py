"""Calls that wait, by how the virtual clock treats them; see `test_boundaries`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import queue
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from time import sleep as sleep_by_name  # noqa: TID251  # what is tested
from typing import Any

import anyio
import anyio.to_thread
import httpx

HOUR = 3600.0
"""Virtual seconds of waits on the clock."""

MOMENT = 0.02
"""Real seconds of other waits."""

Wait = Callable[[], object]
AsyncWait = Callable[[], Coroutine[Any, Any, object]]


def sleep() -> None:
    """Sleep."""
    time.sleep(HOUR)  # noqa: TID251  # what is tested


def until_fails(error: type[Exception], wait: Wait) -> None:
    """Wait until *error* is raised after a timeout."""
    with contextlib.suppress(error):
        wait()


def held(condition: threading.Condition) -> bool:
    """Hold a condition and wait for nobody."""
    with condition:
        return condition.wait(HOUR)


def full() -> queue.Queue[int]:
    """Return a queue that is full."""
    made: queue.Queue[int] = queue.Queue(1)
    made.put(1)
    return made


def called_by_a_timer() -> None:
    """Wait for a function that a timer calls."""
    called = threading.Event()
    threading.Timer(HOUR, called.set).start()
    assert called.wait(HOUR + 1)


# -- what waits in a thread, by virtual time

PATCHED: dict[str, Wait] = {
    "time.sleep(s)": sleep,
    "Event.wait(s)": lambda: threading.Event().wait(HOUR),
    "Condition.wait(s)": lambda: held(threading.Condition()),
    "Semaphore.acquire(timeout=s)": lambda: threading.Semaphore(0).acquire(timeout=HOUR),
    "Barrier.wait(s)": lambda: until_fails(
        threading.BrokenBarrierError, lambda: threading.Barrier(2).wait(HOUR)
    ),
    "Queue.get(timeout=s)": lambda: until_fails(
        queue.Empty, lambda: queue.Queue[int]().get(timeout=HOUR)
    ),
    "Queue.put(item, timeout=s)": lambda: until_fails(
        queue.Full, lambda: full().put(2, timeout=HOUR)
    ),
    "Future.result(s)": lambda: until_fails(TimeoutError, lambda: Future[int]().result(HOUR)),
    "concurrent.futures.wait(futures, s)": lambda: concurrent.futures.wait([Future[int]()], HOUR),
    "concurrent.futures.as_completed(futures)": lambda: in_own_pool(
        lambda made: next(concurrent.futures.as_completed([made]))
    ),
    "ThreadPoolExecutor().submit(fn)": lambda: in_own_pool(lambda made: made.result()),
    "threading.Timer(s, fn).start()": called_by_a_timer,
    "asyncio.run(main)": lambda: asyncio.run(asyncio.sleep(HOUR)),  # noqa: TID251  # the same
}


def in_own_pool(wait: Callable[[Future[None]], object]) -> None:
    """Wait for a sleeping call in a pool of its own."""
    with ThreadPoolExecutor(1) as pool:
        wait(pool.submit(sleep))


# -- what waits in a coroutine, by virtual time


async def called_later() -> None:
    """Wait for a timer of the loop."""
    loop = asyncio.get_running_loop()
    called = loop.create_future()
    loop.call_later(HOUR, called.set_result, None)
    await called


async def timed_out() -> None:
    """Wait until a timeout is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HOUR):
            await asyncio.Event().wait()


async def moved_on() -> None:
    """Wait until a timeout of anyio's is over."""
    with anyio.move_on_after(HOUR):
        await anyio.sleep_forever()


async def in_executor(pool: ThreadPoolExecutor | None) -> None:
    """Wait for a call that sleeps in a thread."""
    await asyncio.get_running_loop().run_in_executor(pool, sleep)


async def in_executor_of_its_own() -> None:
    """Wait for a sleeping call in an executor of its own."""
    with ThreadPoolExecutor(1) as pool:
        await in_executor(pool)


SIMULATED: dict[str, AsyncWait] = {
    "asyncio.sleep(s)": lambda: asyncio.sleep(HOUR),  # noqa: TID251  # what is tested here
    "loop.call_later(s, fn)": called_later,
    "asyncio.timeout(s)": timed_out,
    "asyncio.wait_for(awaitable, s)": lambda: asyncio.wait([asyncio.ensure_future(called_later())]),
    "anyio.sleep(s)": lambda: anyio.sleep(HOUR),
    "anyio.move_on_after(s)": moved_on,
}

IN_THREADS: dict[str, AsyncWait] = {
    "asyncio.to_thread(fn)": lambda: asyncio.to_thread(sleep),
    "loop.run_in_executor(None, fn)": lambda: in_executor(None),
    "loop.run_in_executor(pool, fn)": in_executor_of_its_own,
    "anyio.to_thread.run_sync(fn)": lambda: anyio.to_thread.run_sync(sleep),
}


# -- what takes real time, while virtual time stands still


def locked() -> None:
    """Wait for a lock that is held."""
    lock = threading.Lock()
    with lock:
        lock.acquire(timeout=MOMENT)


def received() -> None:
    """Wait for a socket that nobody writes to."""
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(MOMENT)
        until_fails(TimeoutError, lambda: here.recv(1))


def joined() -> None:
    """Wait for a thread of the test's own, which waits in real time."""
    thread = threading.Thread(target=threading.Event().wait, args=(MOMENT,))
    thread.start()
    thread.join()


def run_python(program: str = "pass", **options: Any) -> None:
    """Wait for a process."""
    subprocess.run([sys.executable, "-c", program], check=True, **options)


def computed() -> None:
    """Compute."""
    until = time.perf_counter() + MOMENT  # steady: it may last longer
    while time.perf_counter() < until:  # steady: as above
        pass


def database_is_locked() -> None:
    """Wait for a database that another connection has locked."""
    with tempfile.TemporaryDirectory() as folder:
        name = Path(folder) / "data"
        holder = sqlite3.connect(name, isolation_level=None)
        other = sqlite3.connect(name, isolation_level=None, timeout=MOMENT)
        holder.execute("begin exclusive")
        until_fails(sqlite3.OperationalError, lambda: other.execute("begin exclusive"))
        other.close()
        holder.close()


def in_a_process() -> None:
    """Wait for a process pool."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(abs, -1).result()


def in_a_pool_of_processes() -> None:
    """Wait for a pool of multiprocessing's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply_async(abs, (-1,)).get(timeout=1)  # steady: virtual time


DETECTED: dict[str, Wait] = {
    "ProcessPoolExecutor().submit(fn)": in_a_process,
    "multiprocessing.Pool().apply_async(fn)": in_a_pool_of_processes,
    "whatever computes": computed,
    "from time import sleep": lambda: sleep_by_name(MOMENT),
    "Lock.acquire(timeout=s)": locked,
    "SimpleQueue.get(timeout=s)": lambda: until_fails(
        queue.Empty, lambda: queue.SimpleQueue[int]().get(timeout=MOMENT)
    ),
    "Thread.join()": joined,
    "socket.recv(n)": received,
    "sqlite3": database_is_locked,
    "subprocess.run(command)": run_python,
}


# -- what the clock does not see


@contextlib.contextmanager
def slow_server(moved: threading.Event) -> Iterator[str]:
    """Serve one request, after time has moved; yield the URL."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1_000)
            moved.wait()
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            moved.set()
            thread.join()


async def get(moved: threading.Event, timeout: float | None = None) -> None:
    """Wait for a server elsewhere, with a client on the test's loop."""
    with slow_server(moved) as url:
        async with httpx.AsyncClient(timeout=timeout, trust_env=False) as client:
            await client.get(url)


async def process_on_the_loop(moved: threading.Event) -> None:
    """Wait for a process on the test's loop."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=subprocess.PIPE
    )
    stdin = process.stdin
    assert stdin is not None
    loop = asyncio.get_running_loop()
    thread = threading.Thread(
        target=lambda: moved.wait() and loop.call_soon_threadsafe(stdin.write, b"\n")
    )
    thread.start()
    await process.wait()
    thread.join()


async def wait_for_a_thread(moved: threading.Event) -> None:
    """Wait for the work of a thread of the test's own."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    thread = threading.Thread(target=lambda: moved.wait() and loop.call_soon_threadsafe(done.set))
    thread.start()
    await done.wait()
    thread.join()


async def run_with_a_timeout(moved: threading.Event) -> None:
    """Wait for a process with a timeout, which polls with short sleeps."""
    here, there = socket.socketpair()
    with here, there:
        writer = threading.Thread(target=lambda: moved.wait() and there.send(b"\n"))
        writer.start()
        run_python("input()", stdin=here, timeout=60)
        writer.join()


WAITED_FOR: dict[str, Callable[[threading.Event], Coroutine[Any, Any, None]]] = {
    "httpx.AsyncClient().get(url)": get,
    "asyncio.create_subprocess_exec(command)": process_on_the_loop,
    "Thread(target=fn).start()": wait_for_a_thread,
}


UNSEEN: dict[str, Callable[[threading.Event], Coroutine[Any, Any, None]]] = {
    "subprocess.run(command, timeout=s)": run_with_a_timeout,
}
