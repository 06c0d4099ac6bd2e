"""Tasks that wait for their next attempt outside of their functions, and where they go on."""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from framework import (
    Task,
    TaskCancelledError,
    TaskManager,
    TaskTimeoutError,
    background_task,
    current_task,
    retry_task,
    throttled_task,
)
from framework._manager.inside import core_of
from framework._threads.clock import SystemClock
from framework.protocols import TaskEvent
from tests.patience import PATIENCE
from tests.processes.work.test_requeue import STATUSES, bury, framework, known, written

pytestmark = pytest.mark.extended("time")

SEEN: list[int] = []
"""The number of each attempt, in the order in which they were made, in whichever framework."""

FAILS = threading.Event()
MADE = threading.Semaphore(0)
"""Released by each attempt."""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Let attempts fail from now on, and forget those before."""
    SEEN.clear()
    FAILS.set()
    while MADE.acquire(blocking=False):
        pass
    yield
    FAILS.clear()


def attempt() -> int:
    """Note an attempt, and fail while `FAILS` is set."""
    task = current_task()
    assert task is not None
    task.report_progress(0.5, "half")
    SEEN.append(task.attempts)
    MADE.release()
    if FAILS.is_set():
        raise ConnectionError(f"attempt {task.attempts} failed")
    return task.attempts


@background_task(on_restart="requeue")
@retry_task(max_retries=3, retry_delay=0.6)
def ask() -> int:
    """Fail on a thread."""
    return attempt()


@background_task(on_restart="requeue")
@retry_task(max_retries=3, retry_delay=0.6)
async def ask_on_loop() -> int:
    """Fail on the loop."""
    return attempt()


@background_task(on_restart="requeue")
@retry_task(max_retries=3, retry_delay=3_600)
def ask_later() -> int:
    """Fail, and wait for longer than any test takes."""
    return attempt()


@background_task(on_restart="requeue")
@retry_task(max_retries=3, retry_delay=3.0)
def ask_slowly() -> int:
    """Fail, and wait for long enough to do something meanwhile, on a busy machine too."""
    return attempt()


@background_task(on_restart="requeue")
@retry_task(max_retries=1, retry_delay=3_600)
async def ask_later_on_loop() -> int:
    """Fail on the loop, and wait for longer than any test takes."""
    return attempt()


@background_task
def other() -> str:
    """Need a thread."""
    return "ran"


both = pytest.mark.parametrize("fn", [ask, ask_on_loop], ids=["thread", "loop"])


async def rests(
    manager: TaskManager, fn: Any, args: tuple[Any, ...] = (), events: Any = None, **options: Any
) -> Task:
    """Submit a task, and wait until it waits for its next attempt."""
    loop, waits = asyncio.get_running_loop(), asyncio.Event()

    def hear(event: TaskEvent) -> None:
        if events is not None:
            events.append(event)
        if event.kind == "retrying":
            loop.call_soon_threadsafe(waits.set)

    manager.subscribe(hear)
    task_id = await manager.submit(fn, args, **options)
    await asyncio.wait_for(waits.wait(), PATIENCE)
    return await known(manager, task_id)


@both
async def test_it_rests_and_goes_on(sql_url: str, fn: Any) -> None:
    """A task that waits for its next attempt holds no thread, says so, and goes on in time."""
    events = list[TaskEvent]()
    async with framework(sql_url) as manager:
        task = await rests(manager, fn, events=events)
        waiting = asyncio.ensure_future(manager.get_result(task.task_id, timeout=PATIENCE))
        assert await manager.get_result(await manager.submit(other), timeout=PATIENCE) == "ran"
        FAILS.clear()
        assert (task.status.value, task.attempts, task.progress) == ("pending", 1, 0.5)
        assert task.reason.startswith("attempt 1 of 4 failed with ConnectionError; the next ")
        assert task.last_error == "ConnectionError: attempt 1 failed"
        assert await waiting == 2
        ended = await known(manager, task.task_id)
        assert (ended.status.value, ended.attempts, ended.reason) == ("completed", 2, "")
        kinds = [one.kind for one in events if one.task_id == task.task_id]
        assert kinds == [
            *("submitted", "started", "progress", "retrying"),
            *("started", "progress", "completed"),
        ]
        stats = manager.get_stats()
        assert stats["submitted"] == sum(stats[status] for status in STATUSES)


async def test_a_wait_names_its_whole_timeout(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits too long for a task that leaves meanwhile is told how long that was."""
    async with framework(sqlite_url) as manager:
        core = core_of(manager)

        def no_time_left(task_id: str, timeout: float) -> None:
            raise TimeoutError(f"{task_id} is still unknown after {timeout} s")

        async def no_time_left_on_loop(task_id: str, timeout: float) -> None:
            no_time_left(task_id, timeout)

        monkeypatch.setattr(core.others, "until_final", no_time_left_on_loop)
        monkeypatch.setattr(core.others, "block_until_final", no_time_left)
        task_id = manager.submit_nowait(ask_later_on_loop)
        record = core.ledger.find(task_id)
        assert record is not None

        message = (
            rf"^task {task_id} \(.*\) is not final after {PATIENCE:g} s of waiting; it goes on$"
        )
        with pytest.raises(TimeoutError, match=message):
            await core.results.ended(record, PATIENCE)
        with pytest.raises(TimeoutError, match=message):
            await asyncio.to_thread(core.results.block_until_ended, record, PATIENCE)


def on_thread() -> int:
    """Make an attempt on a thread."""
    return attempt()


async def on_loop() -> int:
    """Make an attempt on the loop."""
    return attempt()


@pytest.mark.parametrize("body", [on_thread, on_loop])
@pytest.mark.parametrize("delay", [0.6, 0.3], ids=["rests", "waits_inside"])
async def test_a_budget_over_restarts(sql_url: str, body: Any, delay: float) -> None:
    """Each process that ends in order leaves the wait to the next one, and no attempt is added."""
    retried = retry_task(max_retries=3, retry_delay=delay)(body)
    fn = background_task(on_restart="requeue", name=f"tests.{body.__name__}")(retried)
    patient = {"graceful_shutdown_timeout": PATIENCE}
    async with framework(sql_url, **patient) as manager:
        task_id = await manager.submit(fn)
        assert await asyncio.to_thread(MADE.acquire, timeout=PATIENCE)
    for number in (1, 2):
        async with framework(sql_url, **patient) as manager:
            task = await known(manager, task_id)
            if task.attempts == number:
                assert (task.status.value, task.progress) == ("pending", 0.5)
                assert task.reason.startswith(f"attempt {number} of 4 failed with ")
            assert await asyncio.to_thread(MADE.acquire, timeout=PATIENCE)
    async with framework(sql_url) as manager:
        with pytest.raises(ConnectionError, match=r"^attempt 4 failed$"):
            await manager.get_result(task_id, timeout=PATIENCE)
        assert (await known(manager, task_id)).attempts == 4
    assert SEEN == [1, 2, 3, 4]


async def test_its_process_is_given_up(sql_url: str) -> None:
    """If its process stands still or dies, another one makes the next attempt, and only that."""
    async with framework(sql_url) as first:
        task_id = (await rests(first, ask_slowly)).task_id
        FAILS.clear()
        await written(first, task_id)
        async with framework(sql_url) as second:
            bury(sql_url, first)
            assert await second.get_result(task_id, timeout=PATIENCE) == 2
            assert await first.get_result(task_id, timeout=PATIENCE) == 2, "it has let go"
            assert SEEN == [1, 2]
            for manager in (first, second):
                stats = manager.get_stats()
                assert stats["submitted"] == sum(stats[status] for status in STATUSES)


async def test_due_while_its_process_is_full(sql_url: str) -> None:
    """When its wait is over, whichever process has a thread makes the next attempt."""
    gate, ran = threading.Event(), list[TaskManager]()

    @background_task
    def block() -> None:
        gate.wait(PATIENCE)

    async with framework(sql_url) as first, framework(sql_url) as second:
        task_id = (await rests(first, ask_slowly)).task_id
        FAILS.clear()
        second.subscribe(lambda _: ran.append(second), kinds=["started"])
        await first.submit(block)
        assert await first.get_result(task_id, timeout=PATIENCE) == 2
        assert ran == [second]
        gate.set()


@pytest.mark.parametrize("moves", [False, True], ids=["stays", "moves"])
async def test_a_limit_goes_on(sql_url: str, moves: bool) -> None:
    """The waits and attempts of a task count towards one limit, in whichever processes they are."""
    async with AsyncExitStack() as stack:
        manager = await stack.enter_async_context(framework(sql_url))
        task_id = (await rests(manager, ask, timeout=1.5)).task_id
        if moves:
            await stack.aclose()
            manager = await stack.enter_async_context(framework(sql_url))
        with pytest.raises(TaskTimeoutError, match=r"^task .* ran past its time limit of 1.5 s$"):
            await manager.get_result(task_id, timeout=PATIENCE)
    assert SEEN == [1, 2, 3], "the fourth was due at 1.8 s"


@pytest.mark.parametrize("where", ["here", "there", "free"])
async def test_cancelled_while_it_rests(sql_url: str, where: str) -> None:
    """A task can be cancelled while it rests, from any process, and makes no further attempt."""
    async with AsyncExitStack() as stack:
        manager = await stack.enter_async_context(framework(sql_url))
        task_id = (await rests(manager, ask_later)).task_id
        if where == "there":
            manager = await stack.enter_async_context(framework(sql_url))
        elif where == "free":
            await stack.aclose()
            manager = await stack.enter_async_context(framework(sql_url))
        assert await manager.cancel_task(task_id)
        with pytest.raises(TaskCancelledError, match=r"^task .* was cancelled$"):
            await manager.get_result(task_id, timeout=PATIENCE)
    assert SEEN == [1]


@background_task(on_restart="requeue", unique=True, max_running=1)
@retry_task(max_retries=1, retry_delay=2.0)
def only_one(number: int) -> int:
    """Fail once, as the only one."""
    return attempt()


@pytest.mark.parametrize("moves", [False, True], ids=["stays", "moves"])
async def test_places_are_kept(sql_url: str, moves: bool) -> None:
    """A unique task that rests is still that, and its place among those that run is still taken."""
    async with AsyncExitStack() as stack:
        manager = await stack.enter_async_context(framework(sql_url))
        task_id = (await rests(manager, only_one, (0,))).task_id
        behind = await manager.submit(only_one, (1,))
        FAILS.clear()
        if moves:
            await stack.aclose()
            manager = await stack.enter_async_context(framework(sql_url))
        assert await manager.submit(only_one, (0,)) == task_id
        assert await manager.get_result(task_id, timeout=PATIENCE) == 2
        assert await manager.get_result(behind, timeout=PATIENCE) == 1
        assert SEEN == [1, 2, 1]
        assert await manager.submit(only_one, (0,)) != task_id, "the place is free again"


# -- throttles

CALLS: list[float] = []
CLOCK = SystemClock()
WINDOW = 6.0
"""Long enough for what must be seen within it on a machine that is several times as slow."""
JITTER = 0.2
"""Seconds by which a call may begin later than it was counted, on a busy machine."""


@background_task(on_restart="requeue", timeout=20)
@throttled_task(rate_limit=1, time_window=WINDOW, when_limited="wait")
def take() -> None:
    """Note a call on a thread."""
    CALLS.append(CLOCK.monotonic())


@background_task(on_restart="requeue", timeout=20)
@throttled_task(rate_limit=1, time_window=WINDOW, when_limited="wait")
async def take_on_loop() -> None:
    """Note a call on the loop."""
    CALLS.append(CLOCK.monotonic())


turns = pytest.mark.parametrize("fn", [take, take_on_loop], ids=["thread", "loop"])


async def stands(
    manager: TaskManager, fn: Any, count: int = 1, events: list[TaskEvent] | None = None
) -> list[str]:
    """Use the window up, submit more calls, and return when these stand in its line."""
    CALLS.clear()
    await manager.get_result(await manager.submit(fn), timeout=PATIENCE)
    loop, waits = asyncio.get_running_loop(), asyncio.Semaphore(0)

    def hear(event: TaskEvent) -> None:
        if events is not None:
            events.append(event)
        if event.kind == "throttled":
            loop.call_soon_threadsafe(waits.release)

    manager.subscribe(hear)
    # The wait does not count towards the limit.
    task_ids = [str(await manager.submit(fn, timeout=0.9 * WINDOW)) for _ in range(count)]
    for _ in range(count):
        await asyncio.wait_for(waits.acquire(), PATIENCE)
    return task_ids


def apart() -> float:
    """Return the shortest time between two calls."""
    return min(later - first for first, later in itertools.pairwise(CALLS))


@turns
async def test_a_turn_of_a_throttle(sql_url: str, fn: Any) -> None:
    """Who waits for a turn holds no thread, says so, and begins soon after the turn, once."""
    events = list[TaskEvent]()
    async with framework(sql_url) as manager:
        (task_id,) = await stands(manager, fn, events=events)
        task = await known(manager, task_id)
        assert (task.status.value, task.attempts) == ("pending", 0)
        assert task.reason.startswith("throttle ")
        assert task.explain().startswith(task.reason)
        assert await manager.get_result(await manager.submit(other), timeout=PATIENCE) == "ran"
        assert len(CALLS) == 1
        await manager.get_result(task_id, timeout=PATIENCE)
        ended = await known(manager, task_id)
        assert (ended.status.value, ended.attempts, ended.reason) == ("completed", 1, "")
        kinds = [one.kind for one in events if one.task_id == task_id]
        assert kinds == ["submitted", "started", "throttled", "started", "completed"]
    assert WINDOW - JITTER <= apart() < 2 * WINDOW


@turns
async def test_many_turns_and_one_thread(sql_url: str, fn: Any) -> None:
    """However many wait for their turns, a task without a throttle need not wait for them."""
    async with framework(sql_url) as manager:
        task_ids = await stands(manager, fn, 20)
        assert await manager.get_result(await manager.submit(other), timeout=PATIENCE) == "ran"
        statuses = [(await known(manager, one)).status.value for one in task_ids]
        assert statuses.count("pending") >= 19, statuses
        for one in task_ids[1:]:
            assert await manager.cancel_task(one)
        await manager.get_result(task_ids[0], timeout=PATIENCE)
        # Those who were cancelled keep nobody out of the window.
        await manager.get_result(await manager.submit(fn), timeout=PATIENCE)
    assert len(CALLS) == 3
    assert apart() >= WINDOW - JITTER


@turns
async def test_its_turn_in_another_process(sql_url: str, fn: Any) -> None:
    """If its process stands still or dies, another one begins it when its turn has come."""
    async with framework(sql_url) as first:
        (task_id,) = await stands(first, fn)
        await written(first, task_id)
        async with framework(sql_url) as second:
            bury(sql_url, first)
            await second.get_result(task_id, timeout=PATIENCE)
            assert (await known(second, task_id)).attempts == 1
    assert len(CALLS) == 2
    assert apart() >= WINDOW - JITTER


@turns
async def test_a_throttle_over_a_restart(sql_url: str, fn: Any) -> None:
    """The wait for a turn goes on in the next process, and the window has no more calls."""
    async with framework(sql_url) as manager:
        (task_id,) = await stands(manager, fn)
    async with framework(sql_url) as manager:
        await manager.get_result(task_id, timeout=PATIENCE)
        assert (await known(manager, task_id)).attempts == 1
    assert len(CALLS) == 2
    assert apart() >= WINDOW - JITTER


# -- waits that are not the task's own

BODIES: list[str] = []


@retry_task(max_retries=1, retry_delay=0.6)
def helper() -> int:
    """Fail once."""
    return attempt()


@background_task(on_restart="requeue")
def calls_a_helper() -> int:
    """Call another function that waits."""
    BODIES.append("helper")
    return helper()


@retry_task(max_retries=1, retry_delay=0.6)
def calls_itself(depth: int = 0) -> int:
    """Wait in a call of itself."""
    BODIES.append("itself")
    return attempt() if depth else calls_itself(1)


def around(fn: Callable[[], int]) -> Callable[[], int]:
    """Wrap a function as users do."""

    @functools.wraps(fn)
    def inner() -> int:
        BODIES.append("around")
        return fn()

    return inner


wrapped = background_task(on_restart="requeue", name="tests.wrapped")(around(helper))


@pytest.mark.parametrize(
    ("fn", "ran"),
    [
        (calls_a_helper, ["helper"]),
        (background_task(on_restart="requeue")(calls_itself), ["itself"] * 3),
        (wrapped, ["around"]),
    ],
    ids=["helper", "itself", "decorator"],
)
async def test_code_around_the_wait(sqlite_url: str, fn: Any, ran: list[str]) -> None:
    """If a task's own code has begun when it waits, it waits inside, and nothing runs twice."""
    BODIES.clear()
    async with framework(sqlite_url) as manager:
        task = await rests(manager, fn)
        FAILS.clear()
        assert task.status.value == "running"
        assert await manager.get_result(task.task_id, timeout=PATIENCE) == 2
    assert ran == BODIES


async def test_a_process_without_a_shared_store(task_manager: TaskManager) -> None:
    """In memory a task waits inside, as ever: nobody else could run it."""
    task = await rests(task_manager, ask_on_loop.options(on_restart="requeue"))
    assert task.status.value == "running"
    FAILS.clear()
    assert await task_manager.get_result(task.task_id, timeout=PATIENCE) == 2
