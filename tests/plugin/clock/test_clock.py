"""One clock for loops, threads, waits and timers: waiting lets time move, working does not."""

from __future__ import annotations

import asyncio
import math
import queue
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio.from_thread
import anyio.to_thread
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import (
    Task,
    TaskTimeoutError,
    async_task,
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
    throttled_task,
)
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.probe import Probe
from tests.plugin.clock.waits import compute, sleep
from tests.plugin.endings import PLAIN

virtual = pytest.mark.asyncframe(mode="virtual")


# -- waits of every kind


# The waits that have a row in docs/testing/boundaries.md are in test_boundaries.
def test_waiting_for_a_predicate(asyncframe: Probe) -> None:
    """`Condition.wait_for` ends after its timeout of virtual time, in a task and in the test."""
    condition = threading.Condition()

    def wait() -> bool:
        with condition:
            return condition.wait_for(lambda: False, 7)

    assert not wait()
    assert asyncframe.run_until_complete(asyncframe.manager.submit_nowait(wait)).result is False
    assert asyncframe.clock.monotonic() == 14


@virtual
def test_a_wait_ends_when_it_is_notified(asyncframe: Probe) -> None:
    """A thread notified at 10 s continues at 10 s, whatever its own timeout."""
    event, ended = threading.Event(), []

    def wait() -> None:
        ended.append((event.wait(30), asyncframe.clock.monotonic()))

    def tell() -> None:
        asyncframe.clock.sleep(10)
        event.set()

    asyncframe.manager.submit_nowait(wait)
    asyncframe.manager.submit_nowait(tell)
    asyncframe.run_until_idle()

    assert ended == [(True, 10.0)]
    assert asyncframe.clock.monotonic() == 10


@pytest.mark.asyncframe(mode="virtual")
def test_queues_between_threads(asyncframe: Probe) -> None:
    """A consumer gets each item at the second at which the producer puts it."""
    between: queue.Queue[int] = queue.Queue(maxsize=1)
    got: list[tuple[int, float]] = []

    def produce() -> None:
        for number in range(5):
            asyncframe.clock.sleep(2)
            between.put(number)

    def consume() -> None:
        got.extend((between.get(timeout=3), asyncframe.clock.monotonic()) for _ in range(5))

    asyncframe.manager.submit_nowait(consume)
    asyncframe.manager.submit_nowait(produce)
    asyncframe.run_until_idle()

    assert got == [(number, 2.0 * (number + 1)) for number in range(5)]


# -- no limit fires over real work


async def test_a_limit_does_not_fire_over_a_def_endpoint(asyncframe: Probe) -> None:
    """A sync endpoint that computes stops time; one that sleeps lets it move."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.get("/work")
    def work() -> int:
        return sum(range(200_000))

    @app.get("/sleep")
    def sleep() -> float:
        time.sleep(3)  # noqa: TID251  # what is tested here
        return asyncframe.clock.monotonic()

    async with asyncframe.client(app) as client:
        await asyncio.wait_for(client.get("/work"), 0.001)
        assert asyncframe.clock.monotonic() == 0
        assert (await asyncio.wait_for(client.get("/sleep"), 5)).json() == 3
        with pytest.raises(TimeoutError, match=r"^$"):
            await asyncio.wait_for(client.get("/sleep"), 2)
        assert asyncframe.clock.monotonic() == 5


async def test_more_endpoints_than_threads(asyncframe: Probe) -> None:
    """Endpoints that wait for one of anyio's 40 threads do not stop time for those that sleep."""

    def nap() -> None:
        time.sleep(1)  # noqa: TID251  # what is tested here

    await asyncio.gather(*(anyio.to_thread.run_sync(nap) for _ in range(100)))

    assert asyncframe.clock.monotonic() == 3


async def test_a_pool_of_the_users_own(asyncframe: Probe) -> None:
    """A call in a user's pool stops time while it computes, but calls queued behind it do not."""

    def nap(number: int) -> int:
        time.sleep(1)  # noqa: TID251  # what is tested here
        return sum(range(1_000)) * 0 + number

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(2) as pool:
        calls = [loop.run_in_executor(pool, nap, number) for number in range(6)]
        assert await asyncio.wait_for(asyncio.gather(*calls), 3.5) == list(range(6))

    assert asyncframe.clock.monotonic() == 3


async def test_to_thread(asyncframe: Probe) -> None:
    """asyncio.to_thread stops time while its function computes."""
    assert await asyncio.wait_for(asyncio.to_thread(sum, range(200_000)), 0.001) > 0
    assert asyncframe.clock.monotonic() == 0


async def test_a_thread_that_calls_back_into_the_loop(asyncframe: Probe) -> None:
    """A thread that waits for a coroutine of its loop lets time move for it."""

    async def answer() -> float:
        await asyncio.sleep(4)  # noqa: TID251  # what is tested here
        return asyncframe.clock.monotonic()

    def ask() -> float:
        return anyio.from_thread.run(answer)

    assert await anyio.to_thread.run_sync(ask) == 4


async def test_a_task_that_calls_back_into_the_loop(asyncframe: Probe) -> None:
    """A task that waits for a coroutine of the test's loop lets time move for it."""
    loop = asyncio.get_running_loop()

    async def answer() -> float:
        await asyncio.sleep(4)  # noqa: TID251  # what is tested here
        return asyncframe.clock.monotonic()

    def ask() -> float:
        return asyncio.run_coroutine_threadsafe(answer(), loop).result()

    assert await asyncframe.manager.get_result(await asyncframe.manager.submit(ask)) == 4


# -- the framework on it


OVERLONG = (
    r"^task '\w+' \(tests\.plugin\.clock\.test_clock\.overlong(_async)?\) "
    r"ran past its time limit of 5 s$"
)


@background_task(timeout=5)
def overlong() -> None:
    """Sleep longer than the time limit."""
    get_task_manager().clock.sleep(50)


@async_task(timeout=5)
async def overlong_async() -> None:
    """Sleep longer than the time limit."""
    await asyncio.sleep(50)  # noqa: TID251  # what is tested here


@background_task
@retry_task(max_retries=3, retry_delay=2, backoff=2)
def flaky() -> None:
    """Fail each time."""
    raise ConnectionError("no")


@background_task
@throttled_task(rate_limit=2, time_window=10, when_limited="wait")
def limited() -> float:
    """Return the time at which it ran."""
    return get_task_manager().clock.monotonic()


def test_limits_fire_on_time(asyncframe: Probe) -> None:
    """A time limit of 5 s ends a sleeping task at 5 s."""
    with pytest.raises(TaskTimeoutError, match=OVERLONG):
        asyncframe.run_until_complete(overlong())

    assert asyncframe.clock.monotonic() == 5


async def test_limits_of_coroutines_fire_on_time(asyncframe: Probe) -> None:
    """A time limit of 5 s ends a sleeping coroutine at 5 s."""
    with pytest.raises(TaskTimeoutError, match=OVERLONG):
        await overlong_async()

    assert asyncframe.clock.monotonic() == 5


def test_retries(asyncframe: Probe) -> None:
    """Retries wait for exactly their computed delays."""
    asyncframe.expect_failure(flaky, ConnectionError)
    asyncframe.run_until_complete(flaky(), check=False)

    assert asyncframe.delays(flaky) == [2.0, 4.0, 8.0]
    assert asyncframe.clock.monotonic() == 14


def test_throttles(asyncframe: Probe) -> None:
    """A throttled task waits for its window, and no window has more starts than its limit."""
    ids = [limited() for _ in range(6)]

    ran = [asyncframe.run_until_complete(task_id).result for task_id in ids]

    assert ran == [0, 0, 10, 10, 20, 20]
    assert asyncframe.rate(limited).max_in(10) == 2


async def test_a_day_of_cleanups_and_retries(asyncframe: Probe) -> None:
    """A day passes instantly: hourly tasks, their retries, and the removal of results."""
    app = FastAPI()
    async with setup_async_framework(app, cleanup_interval=3_600, result_ttl=1_800):
        for _ in range(24):
            task_id = flaky()
            await asyncframe.completed(task_id, check=False)
            await asyncframe.clock.run_for(3_600)
            assert await asyncframe.manager.get_task(task_id) is None
    asyncframe.expect_failure(flaky, ConnectionError, times=24)

    assert asyncframe.clock.monotonic() == 24 * 3_614


# -- one log


def _run(clock: VirtualClock, probe: Probe) -> list[tuple[float, str]]:
    """Run 8 threads and 8 coroutines that sleep for different times; return their log."""
    log: list[tuple[float, str]] = []

    def thread(number: int) -> None:
        sleeps = random.Random(number)
        for step in range(6):
            clock.sleep(sleeps.choice([0.5, 1.0, 1.5]))
            log.append((clock.monotonic(), f"thread {number} step {step}"))

    async def coroutine(number: int) -> None:
        sleeps = random.Random(100 + number)
        for step in range(6):
            await asyncio.sleep(sleeps.choice([0.5, 1.0, 1.5]))  # noqa: TID251  # tested here
            log.append((clock.monotonic(), f"coroutine {number} step {step}"))

    async def main() -> None:
        app = FastAPI()
        async with setup_async_framework(app, max_workers=8):
            for number in range(8):
                await probe.manager.submit(thread, args=(number,))
            await asyncio.gather(*map(coroutine, range(8)))
            await probe.settled()

    with asyncio.Runner(loop_factory=clock.new_event_loop) as runner:
        runner.run(main())
    start = log[0][0]
    return [(round(at - start, 6), what) for at, what in log]


@pytest.mark.extended("time")
@pytest.mark.parametrize(
    "mode",
    [pytest.param(mode, marks=pytest.mark.asyncframe(mode=mode)) for mode in ("auto", "virtual")],
)
def test_one_log(asyncframe: Probe, mode: str) -> None:
    """200 runs of 8 threads and 8 coroutines do the same in the same order."""
    first = _run(asyncframe.clock, asyncframe)

    assert len(first) == 96
    assert all(_run(asyncframe.clock, asyncframe) == first for _ in range(199))


# -- wall time


async def test_wall_time_follows(asyncframe: Probe) -> None:
    """datetime.now() and time.time() move with the clock and always agree."""
    before = datetime.now(UTC)
    await asyncio.sleep(3_600)  # noqa: TID251  # what is tested here

    assert datetime.now(UTC) - before == timedelta(hours=1)
    assert abs(time.time() - asyncframe.clock.time()) < 1e-5  # noqa: TID251  # tested here
    assert asyncframe.clock.now() - datetime.now(UTC) < timedelta(milliseconds=1)


# -- a clock that is moved by hand


def test_advance_fires_in_order(task_clock: VirtualClock) -> None:
    """advance() fires due timers in order, each at its own moment."""
    fired: list[tuple[str, float]] = []
    task_clock.call_at(3, lambda: fired.append(("late", task_clock.monotonic())))
    task_clock.call_at(1, lambda: fired.append(("early", task_clock.monotonic())))
    never = task_clock.call_at(9, lambda: fired.append(("never", task_clock.monotonic())))
    cancelled = task_clock.call_at(2, lambda: fired.append(("cancelled", 0)))
    cancelled.cancel()

    task_clock.advance(5)

    assert fired == [("early", 1.0), ("late", 3.0)]
    assert task_clock.monotonic() == 5
    never.cancel()


async def test_run_for_lets_coroutines_go_on(task_clock: VirtualClock) -> None:
    """run_for() lets each coroutine continue at its own moment."""
    woke: list[float] = []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)  # noqa: TID251  # what is tested here
        woke.append(task_clock.monotonic())

    async with asyncio.TaskGroup() as group:
        for seconds in (3, 1, 2):
            group.create_task(sleeper(seconds))
        await task_clock.run_for(2.5)
        assert woke == [1, 2]
        await task_clock.run_for(1)
    assert woke == [1, 2, 3]


def test_time_moves_by_seconds_forwards(task_clock: VirtualClock) -> None:
    """advance() and run_for() reject what is not a finite number of 0 or more."""
    takes = "takes a finite number of seconds, 0 or more"
    such = "such as 90 or delta.total_seconds()"
    refused: list[tuple[Any, type[Exception], str]] = [
        (-1, ValueError, "not -1"),
        (math.nan, ValueError, "not nan"),
        (math.inf, ValueError, "not inf"),
        ("1", TypeError, f"{such}, not '1'"),
        (timedelta(days=1), TypeError, f"{such}, not datetime.timedelta(days=1)"),
    ]
    for seconds, error, told in refused:
        with pytest.raises(error, match=f"^{re.escape(f'advance() {takes}, {told}')}$"):
            task_clock.advance(seconds)
        with pytest.raises(error, match=f"^{re.escape(f'run_for() {takes}, {told}')}$"):
            _ = task_clock.run_for(seconds)


def test_the_test_itself_holds_time(asyncframe: Probe) -> None:
    """While a sync test computes, sleeping tasks do not overtake it."""
    app = FastAPI(lifespan=setup_async_framework)
    with asyncframe.client(app) as client:
        task_id = asyncframe.manager.submit_nowait(asyncframe.clock.sleep, args=(5,))
        assert client.get("/missing").status_code == 404
        sum(range(100_000))
        assert asyncframe.clock.monotonic() == 0
        asyncframe.run_until_complete(task_id)

    assert asyncframe.clock.monotonic() == 5


def test_a_test_client_of_starlettes(asyncframe: Probe) -> None:
    """A plain TestClient of Starlette's is on the clock."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.get("/sleep")
    async def sleep() -> float:
        await asyncio.sleep(600)  # noqa: TID251  # what is tested here
        return asyncframe.clock.monotonic()

    with TestClient(app) as client:
        assert client.get("/sleep").json() == 600


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_waits_that_are_not_awaited(pytester: pytest.Pytester, kind: str) -> None:
    """A wait that is not awaited fails the test, with its line and how to fix it."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(f"""
        import pytest

        {kind} test_clock(task_clock):
            task_clock.run_for(90)

        {kind} test_completed(asyncframe):
            asyncframe.completed("no such id")

        @pytest.mark.asyncframe(mode="threads")
        {kind} test_settled(asyncframe):
            asyncframe.settled()
    """)
    result = pytester.runpytest_inprocess(*PLAIN)

    result.assert_outcomes(passed=3, errors=3)
    calls = {
        "run_for(90)": (4, "clock", "no time has passed", "advance(90)"),
        "completed()": (7, "completed", "nothing was waited for", "run_until_complete()"),
        "settled()": (11, "settled", "nothing was waited for", "run_until_idle()"),
    }
    result.stdout.fnmatch_lines(
        [
            f"never awaited: {call}, called at */test_waits_that_are_not_awaited.py:{line} in "
            f"test_{name}, so {why}: await it, or call {cure} in a test that is not a coroutine"
            for call, (line, name, why, cure) in calls.items()
        ]
    )


def test_run_for_is_a_coroutine(task_clock: VirtualClock) -> None:
    """run_for() works wherever a coroutine does: in gather(), a task and asyncio.run()."""

    async def main() -> None:
        await asyncio.gather(task_clock.run_for(1), asyncio.create_task(task_clock.run_for(2)))
        cancelled = asyncio.create_task(task_clock.run_for(5))
        await task_clock.run_for(1)
        cancelled.cancel()
        await asyncio.wait([cancelled])

    asyncio.run(task_clock.run_for(3))
    asyncio.run(main())

    assert task_clock.monotonic() == 6


@pytest.mark.parametrize("name", ["monotonic", "perf_counter"])
def test_polling_real_time(pytester: pytest.Pytester, name: str) -> None:
    """A loop of sleeps that polls real time is reported with its line."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(autouse=True)
        def soon(asyncframe):
            asyncframe._toolkit.reads.many = 10
    """)
    pytester.makepyfile(f"""
        import time

        def wait(ended):
            while not ended(time.{name}()):
                time.sleep(0.5)

        def test_polls(asyncframe):
            until = time.{name}() + 0.2
            wait(lambda now: now > until)

        def test_reads(asyncframe):
            times = iter(range(9))
            wait(lambda now: next(times) == 8)
            for _ in range(200):
                time.{name}()
    """)
    result = pytester.runpytest_inprocess(*PLAIN, "-W", "default")

    assert result.parseoutcomes() == {"passed": 2, "warnings": 1}
    result.stdout.fnmatch_lines(
        [
            (
                f"*AsyncframeWarning: real time: time.{name}() was read at 10 moments of virtual "
                "time, at */test_polling_real_time.py:4 in wait: it shows real time, *"
            ),
        ]
    )


# -- hooks


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
