"""Faults at shutdown: rows E1 to E11 of the project's fault table, a test for each.

`test_drain.py` shows the same on a real uvicorn under a full load.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import subprocess
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI

from framework import (
    FrameworkNotStartedError,
    RateLimitExceededError,
    TaskStatus,
    ThreadPoolExecutorEnhanced,
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
    throttled_task,
)
from framework._running.waits.policies import standalone
from framework._threads.waiters import ThreadSleeper
from pytest_asyncframe.probe import Probe
from tests.children import python
from tests.framework.clients import TestClient
from tests.framework.pools import clock_apart
from tests.framework.running.messages import NOT_STARTED
from tests.patience import PATIENCE
from tests.serving import STOPPING, serving


def run_script(text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run *text* as a program of its own, with every warning an error."""
    return python("-W", "error", *options, "-c", text, status=None)


def pool_threads() -> list[str]:
    """Return the names of all threads that a framework's own pool has."""
    return [one.name for one in threading.enumerate() if one.name.startswith("asyncframe-_")]


async def test_e1_what_runs_and_waits_at_the_end_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A stop leaves each accepted task in a final state, the unfinished in one WARNING line."""
    release, started = threading.Event(), threading.Event()

    def body() -> None:
        started.set()
        release.wait()

    async def forever() -> None:
        await asyncio.Event().wait()

    with caplog.at_level(logging.WARNING, "asyncframe"):
        async with setup_async_framework(None, max_workers=1, graceful_shutdown_timeout=0):
            manager = get_task_manager()
            running = await manager.submit(body)
            await asyncio.to_thread(started.wait)
            queued = await manager.submit(body)
            delayed = await manager.submit(body, delay=60)
            suspended = await manager.submit(forever)
    release.set()
    states = {key: task["status"] for key, task in manager.get_all_tasks().items()}
    assert states == {
        running: "interrupted",
        queued: "cancelled",
        delayed: "cancelled",
        suspended: "cancelled",
    }
    lines = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert set(re.findall(r"[0-9a-f]{32}", " ".join(lines))) == states.keys()


@pytest.mark.extended("processes")
def test_e2_a_task_that_never_ends_does_not_hold_the_process() -> None:
    """A process whose task hangs ends by itself after the drain."""
    done = run_script(
        "import asyncio, threading\n"
        "from framework import get_task_manager, setup_async_framework\n"
        "async def main():\n"
        "    async with setup_async_framework(None, graceful_shutdown_timeout=0):\n"
        "        started = threading.Event()\n"
        "        def body():\n"
        "            started.set()\n"
        "            threading.Event().wait()\n"
        "        await get_task_manager().submit(body)\n"
        "        await asyncio.to_thread(started.wait)\n"
        "asyncio.run(main())\n"
        "print('ended')\n"
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


@pytest.mark.extended("processes")
def test_e3_after_sigint_nothing_runs_once_the_resources_are_closed() -> None:
    """Ctrl+C cancels what is queued: none of it runs after the framework has stopped."""
    done = run_script(
        "import asyncio, signal, threading\n"
        "from framework import get_task_manager, setup_async_framework\n"
        "release, started = threading.Event(), threading.Event()\n"
        "def body():\n"
        "    started.set()\n"
        "    release.wait()\n"
        "async def main():\n"
        "    async with setup_async_framework(None, max_workers=1, graceful_shutdown_timeout=0):\n"
        "        manager = get_task_manager()\n"
        "        await manager.submit(body)\n"
        "        await asyncio.to_thread(started.wait)\n"
        "        for _ in range(20):\n"
        "            await manager.submit(print, ('ran',))\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "        await asyncio.Event().wait()\n"
        "try:\n"
        "    asyncio.run(main())\n"
        "except KeyboardInterrupt:\n"
        "    print('closed')\n"
        "    release.set()\n"
    )
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr


@pytest.mark.extended("processes")
def test_e4_workers_end_on_sigint_and_leave_no_orphan() -> None:
    """SIGINT to the parent of two workers with hanging tasks ends all three in time."""
    app, env = "tests.framework.apps.busy:app", {"BUSY_LOAD": "1"}
    with serving(app, "--workers", "2", env=env, processes=2) as server:
        server.send_signal(signal.SIGINT)
        server.wait_for(STOPPING, 2)
        # Fails if a process still holds the log; how long it took, `test_drain.py` looks at.
        assert server.wait(PATIENCE) == 0


@pytest.mark.soak
def test_e4_after_sigint_uvicorn_shows_what_is_awaited() -> None:
    """After Ctrl+C, uvicorn's own logging shows within a second what the shutdown waits for."""
    with serving("tests.framework.apps.stuck:app") as server:
        server.send_signal(signal.SIGINT)
        line = server.wait_for("shutting down: still waiting")
        words = r"still waiting after [\d.]+ s for 1 task \(1 running\) to end, [\d.]+ s at most"
        assert re.fullmatch(f"shutting down: {words}", line)
        assert " of tests.framework.apps.stuck.never_ends running: " in server.wait_for("1 of ")


@pytest.mark.parametrize("where", ["before", "after"])
def test_e5_an_error_in_the_users_lifespan_closes_the_pool_and_is_shown(where: str) -> None:
    """An exception before or after the yield arrives as it is and leaves no thread behind."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with setup_async_framework(app):
            await get_task_manager().submit(int, wait=True)
            if where == "before":
                raise ConnectionError("the database is away")
            yield
            raise ConnectionError("the database is away")

    before = pool_threads()
    client = TestClient(FastAPI(lifespan=lifespan))
    with pytest.raises(ConnectionError, match=r"^the database is away$"), client:
        pass
    assert pool_threads() == before
    with pytest.raises(FrameworkNotStartedError, match=NOT_STARTED):
        get_task_manager()


def test_e6_shutdown_from_inside_a_call_returns() -> None:
    """A call that shuts its own pool down does not wait for itself."""
    pool = ThreadPoolExecutorEnhanced(max_workers=1)
    pool.submit(pool.shutdown).result(PATIENCE)
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        pool.submit(int)


def test_e6_shutdown_from_a_callback_returns() -> None:
    """A callback, on the pool's thread, that shuts the pool down does not wait for itself."""
    pool, returned = ThreadPoolExecutorEnhanced(max_workers=1), threading.Event()
    begin = threading.Event()

    def stop(_: Future[bool]) -> None:
        pool.shutdown()
        returned.set()

    pool.submit(begin.wait).add_done_callback(stop)
    begin.set()
    assert returned.wait(PATIENCE)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no such signals")
def test_e6_shutdown_from_a_signal_handler_that_interrupts_the_pool_returns() -> None:
    """A handler that interrupts the pool's own locked code can shut it down."""
    pool = ThreadPoolExecutorEnhanced(max_workers=1)
    assert pool.submit(int).result(PATIENCE) == 0
    old = signal.signal(signal.SIGUSR1, lambda *_: pool.shutdown())
    try:
        with pool._crew.lock:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, old)
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        pool.submit(int)


@pytest.mark.extended("time")
def test_e7_a_submit_that_races_with_shutdown_is_settled_or_refused() -> None:
    """In 1,000 rounds of 8 threads each call is run, or refused with RuntimeError."""
    rounds, threads = 1_000, 8
    start, end = threading.Barrier(threads + 1), threading.Barrier(threads + 1)
    pools = [ThreadPoolExecutorEnhanced(max_workers=2) for _ in range(rounds)]
    accepted: list[Future[int]] = []
    refused: list[str] = []

    def submit_one_each_round() -> None:
        for pool in pools:
            start.wait(PATIENCE)
            try:
                accepted.append(pool.submit(int))
            except RuntimeError as error:
                refused.append(str(error))
            end.wait(PATIENCE)

    workers = [threading.Thread(target=submit_one_each_round) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for pool in pools:
        start.wait(PATIENCE)
        pool.shutdown()
        end.wait(PATIENCE)
    for worker in workers:
        worker.join()
    assert [future.result(PATIENCE) for future in accepted] == [0] * len(accepted)
    assert len(accepted) + len(refused) == rounds * threads
    assert set(refused) <= {"cannot schedule new futures after shutdown"}


async def test_e7_a_task_submitted_during_the_stop_is_settled_or_refused() -> None:
    """Every task that a thread submits while the framework stops comes to an end."""
    accepted: list[str] = []
    refused: list[str] = []
    going = threading.Barrier(9)

    def submit_until_refused() -> None:
        going.wait(PATIENCE)
        while True:
            try:
                accepted.append(manager.submit_nowait(int))
            except FrameworkNotStartedError as error:
                refused.append(error.state)
                return

    async with setup_async_framework(None, queue_size=1_000_000):
        manager = get_task_manager()
        threads = [threading.Thread(target=submit_until_refused) for _ in range(8)]
        for thread in threads:
            thread.start()
        await asyncio.to_thread(going.wait, PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    stats = manager.get_stats()
    assert len(refused) == 8
    assert set(refused) <= {"stopping", "stopped"}
    assert stats["submitted"] == len(accepted) == stats["completed"] + stats["cancelled"]


@pytest.mark.extended("processes")
def test_e8_a_pool_that_nobody_shut_down_finishes_its_queue_at_exit() -> None:
    """A script that forgets the shutdown ends quietly, with everything queued done."""
    done = run_script(
        "from framework import ThreadPoolExecutorEnhanced\n"
        "pool = ThreadPoolExecutorEnhanced(max_workers=1)\n"
        "for number in range(50):\n"
        "    pool.submit(print, number)\n",
        "-X",
        "dev",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(number) for number in range(50)]


@pytest.mark.extended("processes")
def test_e8_a_framework_that_nobody_stopped_does_not_hang_at_exit() -> None:
    """A loop that ends without leaving the lifespan still lets the process end in peace."""
    done = run_script(
        "import asyncio\n"
        "from framework import get_task_manager, setup_async_framework\n"
        "async def main():\n"
        # What is slow here is a busy machine, and no claim of this.
        "    asyncio.get_running_loop().slow_callback_duration = 3600.0\n"
        "    await setup_async_framework(None, max_workers=1).__aenter__()\n"
        "    for number in range(50):\n"
        "        await get_task_manager().submit(print, (number,))\n"
        "asyncio.run(main())\n",
        "-X",
        "dev",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(number) for number in range(50)]


async def test_e9_a_mounted_app_whose_lifespan_does_not_run_uses_its_parents() -> None:
    """A route of a mounted sub-app submits to the framework of the app it is mounted on."""

    @background_task
    def work() -> str:
        return "done"

    parent, child = FastAPI(lifespan=setup_async_framework), FastAPI()
    parent.mount("/child", child)

    @child.post("/work")
    async def start() -> str:
        return await get_task_manager().get_result(work())

    async with parent.router.lifespan_context(parent):
        transport = httpx.ASGITransport(app=parent)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            response = await client.post("/child/work")
        assert response.json() == "done"
        assert parent.state.task_manager.get_stats()["completed"] == 1


# E10, SIGKILL and restart with a store, cannot be shown yet: memory is the only store, and
# what it holds dies with the process.


class _Sleeper(ThreadSleeper):
    """A sleeper that tells when it is interrupted.

    Args:
        told: Gets its number.
        number: Its number.
    """

    def __init__(self, told: list[int], number: int) -> None:
        super().__init__(clock_apart())
        self._told = told
        self._number = number

    def interrupt(self) -> None:
        """Tell."""
        self._told.append(self._number)


def test_e11_sleepers_are_woken_in_their_order() -> None:
    """A shutdown wakes those that sleep in the order in which they came."""
    policies, told = standalone(), list[int]()
    for number in range(20):
        policies.add_sleeper(_Sleeper(told, number))
    policies.close()
    assert told == list(range(20))


async def test_e11_sleepers_are_woken_at_once(asyncframe: Probe) -> None:
    """Retries and throttled calls that sleep an hour end when the drain begins, not later."""

    @background_task
    @retry_task(retry_delay=3_600)
    def retried_in_a_thread() -> None:
        raise ConnectionError

    @background_task
    @retry_task(retry_delay=3_600)
    async def retried_on_the_loop() -> None:
        raise ConnectionError

    @background_task
    @throttled_task(rate_limit=1, time_window=3_600, when_limited="wait")
    def throttled_in_a_thread() -> None:
        """Have nothing to do."""

    @background_task
    @throttled_task(rate_limit=1, time_window=3_600, when_limited="wait")
    async def throttled_on_the_loop() -> None:
        """Have nothing to do."""

    async with setup_async_framework(None, graceful_shutdown_timeout=7_200):
        for passed in (throttled_in_a_thread(), throttled_on_the_loop()):
            await asyncframe.completed(passed)
        retried = [retried_in_a_thread(), retried_on_the_loop()]
        throttled = [throttled_in_a_thread(), throttled_on_the_loop()]
        await asyncframe.clock.run_for(1)
        for fn in (
            retried_in_a_thread,
            retried_on_the_loop,
            throttled_in_a_thread,
            throttled_on_the_loop,
        ):
            assert asyncframe.delays(fn) == [3_600]
    # A wait for any of them would have let time move on.
    assert asyncframe.clock.monotonic() == 1
    for task_id, kind in [
        *((one, ConnectionError) for one in retried),
        *((one, RateLimitExceededError) for one in throttled),
    ]:
        task = await asyncframe.completed(task_id, check=False)
        assert task.status is TaskStatus.FAILED
        assert isinstance(task.error, kind)
