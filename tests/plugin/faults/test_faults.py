"""What planned faults do to tasks, in every mode and to every kind of function."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from fastapi import FastAPI

from framework import (
    QueueFullError,
    RateLimitExceededError,
    Task,
    TaskInterruptedError,
    TaskManager,
    TaskStatus,
    TaskTimeoutError,
    async_task,
    background_task,
    current_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
    throttled_task,
)
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.faults import FaultPlan, InjectedError
from pytest_asyncframe.probe import Probe
from tests.patience import PATIENCE

MODES = ("manual", "auto", "virtual", "seeded", "threads")
each_mode = pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=pytest.mark.asyncframe(mode=mode)) for mode in MODES]
)


FULL = (
    r"^the task queue is full: 10000 tasks are waiting; try again in 1 s, or increase "
    r"'queue_size' or 'max_workers'$"
)


@background_task
def double(number: int) -> int:
    """Return twice the number."""
    return number * 2


@background_task
async def triple(number: int) -> int:
    """Return three times the number."""
    return number * 3


@async_task
def add(number: int) -> int:
    """Return the next number."""
    return number + 1


@async_task
async def subtract(number: int) -> int:
    """Return the number before."""
    return number - 1


@background_task
@retry_task(max_retries=2, retry_delay=0)
def retried(number: int) -> int:
    """Return the number."""
    return number


@background_task
@retry_task(max_retries=2, retry_delay=0)
async def async_retried(number: int) -> int:
    """Return the number."""
    return number


def plain(number: int) -> int:
    """Return the number."""
    return number


async def async_plain(number: int) -> int:
    """Return the number."""
    return number


class Numbers:
    """Has a method that is a task."""

    @background_task
    def method(self, number: int) -> int:
        """Return twice the number."""
        return number * 2


async def submit(fn: Callable[..., Any]) -> str:
    """Submit a function with the number 5, decorated or not."""
    return str(await get_task_manager().submit(fn, (5,)))


async def ended(asyncframe: Probe, task_id: str, mode: str) -> Task:
    """Return a task when it has ended, whether it has failed or not."""
    if mode == "manual":
        asyncframe.executor.drain()
        await asyncframe.clock.run_for(0)
    return await asyncframe.completed(task_id, check=False)


# -- fail


# Each kind of function is called by another part of the framework.
KINDS: dict[str, Callable[..., Any]] = {
    "a task": double,
    "an async def task": triple,
    "a function": plain,
    "an async def function": async_plain,
    "a method": Numbers().method,
    "an async call": add,
    "an async call of a coroutine": subtract,
}


@each_mode
async def test_a_function_that_fails(asyncframe: Probe, mode: str) -> None:
    """Its first task fails with the error, without a call of it, and the second one completes."""
    found = {}
    for kind, fn in KINDS.items():
        asyncframe.faults.fail(fn, on=1, exc=ConnectionError("no bank"))
        first = await ended(asyncframe, await submit(fn), mode)
        second = await ended(asyncframe, await submit(fn), mode)
        found[kind] = first.status, str(first.error), second.status

    expected = (TaskStatus.FAILED, "no bank", TaskStatus.COMPLETED)
    assert found == dict.fromkeys(KINDS, expected)


@each_mode
async def test_a_retried_function_that_fails(asyncframe: Probe, mode: str) -> None:
    """Attempts are counted across tasks: here the second of one task and the first of another."""
    for fn in (retried, async_retried):
        asyncframe.faults.fail(fn, on=[1, 3], exc=TimeoutError)
        tasks = [await ended(asyncframe, await submit(fn), mode) for _ in range(2)]

        assert [(task.result, task.attempts) for task in tasks] == [(5, 2), (5, 2)], fn


async def test_a_call_in_place_that_fails(asyncframe: Probe) -> None:
    """The error of an awaited coroutine is raised in the coroutine that awaits it."""
    asyncframe.faults.fail(subtract, on=2, exc=lambda: ConnectionError("lost"))

    assert await subtract(5) == 4
    with pytest.raises(ConnectionError, match=r"^lost$"):
        await subtract(5)


def test_a_task_of_a_task_that_fails(asyncframe: Probe) -> None:
    """A fault reaches a task that another task has submitted."""

    def outer() -> int:
        manager = get_task_manager()
        result: int = manager.wait_result(manager.submit_nowait(plain, (5,)))
        return result

    asyncframe.faults.fail(plain)
    task_id = asyncframe.manager.submit_nowait(outer)
    with pytest.raises(InjectedError, match=r"^attempt 1 of plain was made to fail$"):
        asyncframe.run_until_complete(task_id)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_throttled_function_that_fails(asyncframe: Probe, is_async: bool) -> None:
    """A failed attempt takes its slot of the window, as it would if the function had failed."""

    def send() -> float:
        return asyncframe.clock.monotonic()

    async def async_send() -> float:
        return asyncframe.clock.monotonic()

    limit = throttled_task(rate_limit=1, time_window=60, when_limited="wait")
    fn: Any = limit(async_send if is_async else send)
    task = retry_task(retry_delay=0)(fn)
    asyncframe.faults.fail(fn, on=1)

    assert await asyncframe.manager.submit(task, wait=True) == 60
    assert asyncframe.rate(fn).starts == (0.0, 60.0)


def test_a_refused_call_is_no_attempt(asyncframe: Probe) -> None:
    """A call that its throttle refuses is not counted: the function is not attempted."""

    @throttled_task(rate_limit=1, time_window=60)
    def send() -> None:
        """Do nothing."""

    asyncframe.faults.fail(send, on=2)
    submit = asyncframe.manager.submit_nowait
    tasks = [asyncframe.run_until_complete(submit(send), check=False) for _ in range(2)]
    asyncframe.clock.advance(60)
    tasks.append(asyncframe.run_until_complete(submit(send), check=False))

    errors = [type(task.error) for task in tasks]
    assert errors == [type(None), RateLimitExceededError, InjectedError]


def test_an_instance_is_raised_each_time(asyncframe: Probe) -> None:
    """The same error can be raised several times, and its traceback does not grow."""
    error = ConnectionError("no bank")
    asyncframe.faults.fail(double, exc=error)
    lengths = []
    for _ in range(3):
        task = asyncframe.run_until_complete(double(1), check=False)
        assert task.error is error
        step, length = error.__traceback__, 0
        while step is not None:
            step, length = step.tb_next, length + 1
        lengths.append(length)

    assert len(set(lengths)) == 1


def test_a_function_that_returns_no_error(asyncframe: Probe) -> None:
    """If *exc* is a function that returns something else, the attempt fails with a TypeError."""
    asyncframe.faults.fail(double, exc=lambda: "no error")  # type: ignore[arg-type,return-value]
    task = asyncframe.run_until_complete(double(1), check=False)

    assert repr(task.error) == (
        """TypeError("exc must return or raise an exception, but it returned 'no error'")"""
    )


def test_a_function_that_raises_the_error(asyncframe: Probe) -> None:
    """If *exc* is a function that raises an error, that is the error of the attempt."""

    def no_bank() -> NoReturn:
        raise ConnectionError("no bank")

    fault = asyncframe.faults.fail(double, exc=no_bank)
    with pytest.raises(ConnectionError, match=r"^no bank$"):
        asyncframe.run_until_complete(double(1))

    assert [firing.text for firing in fault.fired] == [
        "attempt 1 of double fails with ConnectionError"
    ]


# -- slow


async def test_a_slow_function(asyncframe: Probe) -> None:
    """Each attempt takes longer by so many seconds, or only those that are named."""
    found = {}
    for kind, fn in KINDS.items():
        asyncframe.faults.slow(fn, seconds=40)
        asyncframe.faults.slow(fn, seconds=2.5, on=[2])
        begun, ends = asyncframe.clock.monotonic(), []
        for _ in range(3):
            await asyncframe.completed(await submit(fn))
            ends.append(asyncframe.clock.monotonic() - begun)
        found[kind] = ends

    assert found == {kind: [40, 82.5, 122.5] for kind in KINDS}


async def test_a_slow_call_in_place(asyncframe: Probe) -> None:
    """An awaited coroutine is slow where it is awaited."""
    asyncframe.faults.slow(subtract, seconds=40)

    assert await subtract(5) == 4
    assert asyncframe.clock.monotonic() == 40


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_slow_function_and_its_limit(asyncframe: Probe, is_async: bool) -> None:
    """The limit ends the task in time; then a thread goes on all the same, a coroutine does not."""
    calls: list[float] = []

    def late() -> None:
        calls.append(asyncframe.clock.monotonic())

    async def async_late() -> None:
        calls.append(asyncframe.clock.monotonic())

    fn = async_late if is_async else late
    asyncframe.faults.slow(fn, seconds=40)
    task_id = await asyncframe.manager.submit(fn, timeout=10)
    with pytest.raises(
        TaskTimeoutError, match=r"^task '\w+' \(.*late\) ran past its time limit of 10 s$"
    ):
        await asyncframe.completed(task_id)
    assert asyncframe.clock.monotonic() == 10
    await asyncframe.clock.run_for(60)

    assert calls == ([] if is_async else [40])


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_slow_throttled_function(asyncframe: Probe, is_async: bool) -> None:
    """It is slow behind its throttle, so that its slot is taken when it starts."""

    @throttled_task(rate_limit=1, time_window=60, when_limited="wait")
    def send() -> None:
        """Do nothing."""

    @throttled_task(rate_limit=1, time_window=60, when_limited="wait")
    async def async_send() -> None:
        """Do nothing."""

    fn: Any = async_send if is_async else send
    asyncframe.faults.slow(fn, seconds=40)
    ids = [await asyncframe.manager.submit(fn) for _ in range(2)]
    for task_id in ids:
        await asyncframe.completed(task_id)

    assert asyncframe.rate(fn).starts == (0.0, 60.0)
    assert asyncframe.clock.monotonic() == 100


def test_slow_then_failed(asyncframe: Probe) -> None:
    """An attempt may be slow and fail then, whichever was planned first."""
    asyncframe.faults.fail(double, exc=TimeoutError)
    asyncframe.faults.slow(double, seconds=40)
    with pytest.raises(TimeoutError, match=r"^$"):
        asyncframe.run_until_complete(double(1))

    assert asyncframe.clock.monotonic() == 40


# -- crash_worker


@each_mode
async def test_a_worker_that_crashes(asyncframe: Probe, mode: str) -> None:
    """Its task is INTERRUPTED, and the next one completes."""
    kinds: dict[str, Callable[..., Any]] = {**KINDS, "a retried task": retried}
    found = {}
    for kind, fn in kinds.items():
        asyncframe.faults.crash_worker()
        first = await ended(asyncframe, await submit(fn), mode)
        second = await ended(asyncframe, await submit(fn), mode)
        found[kind] = (
            *(first.status, first.reason, first.attempts, first.still_running),
            second.status,
        )

    crashed = (TaskStatus.INTERRUPTED, "its worker crashed", 1, False, TaskStatus.COMPLETED)
    assert found == dict.fromkeys(kinds, crashed)


async def test_a_crash_where_a_task_is_awaited(asyncframe: Probe) -> None:
    """The coroutine that awaits the task gets a TaskInterruptedError."""
    asyncframe.faults.crash_worker(fn=subtract)
    with pytest.raises(
        TaskInterruptedError,
        match=r"^task '\w+' \(.*\.subtract\) was interrupted before it could end; "
        r"it may have run in part$",
    ):
        await subtract(await add(5))


@each_mode
async def test_the_pool_replaces_the_worker(asyncframe: Probe, mode: str) -> None:
    """The thread of the task ends, and the next task runs on another one."""
    threads: list[threading.Thread] = []

    def work() -> None:
        task = current_task()
        assert task is not None
        threads.append(threading.current_thread())
        task.report_progress(0.5)

    asyncframe.faults.crash_worker(after="progress")
    tasks = [await ended(asyncframe, await asyncframe.manager.submit(work), mode) for _ in range(2)]
    await asyncio.to_thread(threads[0].join, PATIENCE)

    assert [task.status for task in tasks] == [TaskStatus.INTERRUPTED, TaskStatus.COMPLETED]
    assert [thread.is_alive() for thread in threads] == [False, True]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_crash_in_the_middle(asyncframe: Probe, is_async: bool) -> None:
    """After the event nothing of the function happens, except for its finally blocks."""
    lines: list[str] = []

    def halves() -> None:
        task = current_task()
        assert task is not None
        try:
            lines.append("first half")
            task.report_progress(0.5)
            lines.append("second half")
        except Exception:
            lines.append("error")
            raise
        finally:
            lines.append("finally")

    async def async_halves() -> None:
        halves()

    asyncframe.faults.crash_worker(after="progress")
    task_id = await asyncframe.manager.submit(async_halves if is_async else halves)
    task = await asyncframe.completed(task_id, check=False)

    assert task.status is TaskStatus.INTERRUPTED
    assert lines == ["first half", "finally"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_crash_between_two_attempts(asyncframe: Probe, is_async: bool) -> None:
    """A worker that crashes after 'retrying' makes no further attempt, and does not wait."""
    fn: Any = async_plain if is_async else plain
    asyncframe.faults.fail(fn, on=1)
    asyncframe.faults.crash_worker(after="retrying", fn=fn)
    task_id = await asyncframe.manager.submit(retry_task(retry_delay=60)(fn), (5,))
    task = await asyncframe.completed(task_id, check=False)

    assert (task.status, task.attempts) == (TaskStatus.INTERRUPTED, 1)
    assert asyncframe.clock.monotonic() == 0


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_crash_before_a_slot(asyncframe: Probe, is_async: bool) -> None:
    """A task whose worker crashes while it waits for a throttle gives its place back."""
    starts: list[tuple[int, float]] = []

    @throttled_task(rate_limit=1, time_window=60, when_limited="wait")
    def send(number: int) -> None:
        starts.append((number, asyncframe.clock.monotonic()))

    @throttled_task(rate_limit=1, time_window=60, when_limited="wait")
    async def async_send(number: int) -> None:
        starts.append((number, asyncframe.clock.monotonic()))

    fn: Any = async_send if is_async else send
    asyncframe.faults.crash_worker(after="throttled")
    for number in (1, 2, 3):
        await asyncframe.manager.submit(fn, (number,))
    await asyncframe.settled()

    assert starts == [(1, 0), (3, 60)]


# -- queue_full


@each_mode
async def test_a_full_queue(asyncframe: Probe, mode: str) -> None:
    """So many submissions are refused as by a full queue, and then none."""
    asyncframe.faults.queue_full(next=2)
    for fn in (double, triple):
        with pytest.raises(QueueFullError, match=FULL) as caught:
            await submit(fn)
        assert caught.value.queue_size == 10_000
    task = await ended(asyncframe, await submit(double), mode)

    assert task.result == 10
    stats = asyncframe.manager.get_stats()
    assert (stats["rejected"], stats["submitted"]) == (2, 1)
    asyncframe.assert_submitted(double, times=1)


async def test_a_full_queue_for_one_function(asyncframe: Probe) -> None:
    """With *fn* only its submissions are refused."""
    asyncframe.faults.queue_full(fn=double)

    assert await triple.fn(5) == 15
    await asyncframe.completed(triple(5))
    with pytest.raises(QueueFullError, match=FULL):
        double(5)


async def test_a_full_queue_in_an_app(asyncframe: Probe) -> None:
    """A route answers 503, and tells the client when to come back."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/double", status_code=202)
    async def start(number: int) -> str:
        return double(number)

    asyncframe.faults.queue_full()
    async with asyncframe.client(app) as client:
        refused = await client.post("/double", params={"number": 5})
        accepted = await client.post("/double", params={"number": 5})
        task = await asyncframe.completed(accepted)

    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert task.result == 10


async def test_a_call_in_place_needs_no_queue(asyncframe: Probe) -> None:
    """An async call that runs where it is awaited is neither refused nor counted."""
    asyncframe.faults.queue_full()

    assert await subtract(5) == 4
    with pytest.raises(QueueFullError, match=FULL):
        await add(5)


# -- chaos


def outcomes(asyncframe: Probe) -> list[str]:
    """Submit two functions ten times each and return what has happened to each task."""
    found = []
    for number in range(10):
        for fn in (double, retried):
            try:
                task_id = fn(number)
            except QueueFullError:
                found.append("full")
                continue
            task = asyncframe.run_until_complete(task_id, check=False)
            found.append(f"{task.status} after {task.attempts}")
    asyncframe.run_until_idle()
    return found


KNOWN: dict[int, list[str]] = {}


@pytest.mark.parametrize("time", [1, 2])
@pytest.mark.parametrize("seed", [1, 2])
def test_chaos_is_drawn_from_its_seed(asyncframe: Probe, seed: int, time: int) -> None:
    """The same seed gives the same faults, and another seed gives others."""
    asyncframe.faults.chaos(0.4, seed)
    found = outcomes(asyncframe)

    assert KNOWN.setdefault(seed, found) == found
    assert all(others != found for other, others in KNOWN.items() if other != seed)
    assert len(set(found)) > 3


@pytest.mark.asyncframe(seed=1)
def test_the_seed_of_chaos_is_that_of_the_test(asyncframe: Probe) -> None:
    """Without a seed of its own, chaos has the seed of the test."""
    fault = asyncframe.faults.chaos(0.4)
    found = outcomes(asyncframe)

    assert KNOWN.setdefault(1, found) == found
    assert str(fault).startswith("chaos(0.4, seed=1) at ")


async def test_chaos_does_not_depend_on_the_order(asyncframe: Probe) -> None:
    """What happens to the attempts of a function does not depend on those of another one."""
    asyncframe.faults.chaos(0.5, 3, kinds=["fail"])

    async def failures(fn: Any, count: int) -> list[bool]:
        tasks = [await asyncframe.completed(fn(1), check=False) for _ in range(count)]
        return [task.error is not None for task in tasks]

    found = await failures(double, 4) + (await failures(triple, 9))[9:] + await failures(double, 4)
    assert found == EXPECTED


EXPECTED = [False, True, True, False, False, False, True, True]
"""Which of eight attempts of `double` fail with seed 3, in every process."""


@pytest.mark.parametrize(("p", "failed"), [(0, 0), (1, 5)])
async def test_the_probability_of_chaos(asyncframe: Probe, p: float, failed: int) -> None:
    """With probability 0 nothing happens, and with 1 something happens each time."""
    asyncframe.faults.chaos(p, kinds=["fail"], fn=double, exc=TimeoutError)
    tasks = [await asyncframe.completed(double(1), check=False) for _ in range(5)]
    await asyncframe.completed(triple(1))

    assert [type(task.error) for task in tasks].count(TimeoutError) == failed


# -- the fixture


async def test_the_fixture_is_the_plan_of_the_probe(
    asyncframe: Probe, task_faults: FaultPlan
) -> None:
    """task_faults is asyncframe.faults."""
    assert task_faults is asyncframe.faults


def test_the_fixture_alone(task_faults: FaultPlan, task_manager: TaskManager) -> None:
    """Without asyncframe, faults are injected into real threads."""
    task_faults.fail("test_faults.double", exc=ConnectionError("no bank"))
    with pytest.raises(ConnectionError, match=r"^no bank$"):
        task_manager.wait_result(double(1))


def test_the_fixture_with_a_clock(
    task_faults: FaultPlan, task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """With a clock, slow functions wait for the test to move it."""
    task_faults.slow(double, seconds=40)
    task_id = double(1)
    task_clock.advance(39)
    assert task_manager.get_active_count() == 1
    task_clock.advance(1)

    assert task_manager.wait_result(task_id) == 2
