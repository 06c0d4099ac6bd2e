"""Faults in asking for a task and its result: rows B7 to B13; there is no B9."""

from __future__ import annotations

import asyncio
import re
import threading
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from framework import (
    FrameworkNotStartedError,
    QueueFullError,
    TaskCancelledError,
    TaskFailedError,
    TaskManager,
    TaskNotFoundError,
    TaskStatus,
    TaskTimeoutError,
    ThreadPoolExecutorEnhanced,
    async_task,
    background_task,
    current_task,
    get_task_manager,
    get_thread_pool,
    retry_task,
    setup_async_framework,
)
from framework._records.checks import show
from framework.exceptions import DeadlockError
from framework.testing import override_framework
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.probe import Probe
from tests.framework.bodies import Held, Hostile, async_pair, pair
from tests.framework.kinds import reached
from tests.framework.running.messages import NOT_STARTED, UNKNOWN

# -- B7

STRANGE: list[Any] = [
    "unknown",
    "",
    "x" * 1_000_000,
    "ключ",
    "\ud800",
    "../x",
    "a\nb",
]
NO_IDS: list[Any] = [None, 5, b"id", ["id"], Hostile()]


async def test_b7_get_task(task_manager: TaskManager) -> None:
    """`get_task` gives None, and `cancel_task` False, for every id that nobody has."""
    for task_id in STRANGE:
        assert await task_manager.get_task(task_id) is None
        assert await task_manager.cancel_task(task_id) is False


async def test_b7_no_ids(task_manager: TaskManager) -> None:
    """What is no string is refused in every place that takes an id, as by a forgotten return."""
    ways: list[Callable[[Any], Awaitable[object]]] = [
        task_manager.get_task,
        task_manager.get_result,
        task_manager.wait,
        task_manager.cancel_task,
        task_manager.request_cancel,
        task_manager.run_again,
        lambda task_id: asyncio.to_thread(task_manager.wait_result, task_id),
    ]
    for task_id in NO_IDS:
        for way in ways:
            with pytest.raises(
                TypeError, match=rf"^task_id must be a string, not {re.escape(show(task_id))}$"
            ):
                await way(task_id)


async def test_b7_get_result(task_manager: TaskManager) -> None:
    """Both ways to a result raise one type for such an id, with a bounded message."""
    for task_id in STRANGE:
        with pytest.raises(TaskNotFoundError, match=UNKNOWN) as caught:
            await task_manager.get_result(task_id)
        with pytest.raises(TaskNotFoundError, match=UNKNOWN) as waited:
            await asyncio.to_thread(task_manager.wait_result, task_id)

        message = str(caught.value)
        assert isinstance(caught.value, LookupError)
        assert caught.value.task_id is task_id
        assert waited.value.task_id is task_id
        assert len(message) < 300
        assert message.isprintable()
        assert message.encode()
        assert str(waited.value) == message


# -- B8


def test_b8_before_start() -> None:
    """Before the start every way in raises at once and says what to do."""
    ways: list[Callable[[], object]] = [
        get_task_manager,
        get_thread_pool,
        lambda: background_task(pair)(1, 2),
    ]
    for call in ways:
        with pytest.raises(FrameworkNotStartedError, match=NOT_STARTED) as caught:
            call()

        assert caught.value.state == "not started"


async def test_b8_async_before_start() -> None:
    """Before the start awaiting an async task raises the same."""
    with pytest.raises(FrameworkNotStartedError, match=NOT_STARTED):
        await async_task(async_pair)(1, 2)


async def test_b8_after_stop() -> None:
    """A manager that was stopped refuses tasks at once, and no pool is started anew."""
    async with setup_async_framework(None):
        manager, pool = get_task_manager(), get_thread_pool()
    before = manager.get_stats()

    with pytest.raises(FrameworkNotStartedError) as caught:
        await manager.submit(pair, (1, 2))
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        pool.submit(pair, 1, 2)

    assert caught.value.state == "stopped"
    assert manager.get_stats() == before


async def test_b8_decorated_after_stop() -> None:
    """A decorated call after the stop raises as one before the start."""
    async with setup_async_framework(None):
        pass

    with pytest.raises(FrameworkNotStartedError, match=NOT_STARTED):
        background_task(pair)(1, 2)


async def test_b8_result_after_stop() -> None:
    """Results from before the stop can still be read."""
    async with setup_async_framework(None):
        manager = get_task_manager()
        task_id = await manager.submit(pair, (1, 2))
        await manager.get_result(task_id)

    assert await manager.get_result(task_id) == (1, 2)


# B9 does not exist in the table.


# -- B10


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_b10_own_id(one_worker: TaskManager, kind: str) -> None:
    """A task that waits for itself gets a clear error at once."""

    async def coroutine() -> None:
        await one_worker.get_result(own_id())

    def thread() -> None:
        one_worker.wait_result(own_id())

    with pytest.raises(
        DeadlockError,
        match=r"^deadlock: (\S+) waits for \1; wait with a timeout, or return the "
        r"task id and let the caller wait$",
    ):
        await one_worker.submit(coroutine if kind == "coroutine" else thread, wait=True)


def own_id() -> str:
    """Return the id of the task that calls this."""
    task = current_task()
    assert task is not None
    return task.task_id


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_b10_each_other(
    task_manager: TaskManager, task_clock: VirtualClock, kind: str
) -> None:
    """When two tasks wait for each other, one gets a clear error, and both end."""

    async def coroutine(other: str) -> None:
        await task_manager.get_result(other)

    def thread(other: str) -> None:
        task_manager.wait_result(other)

    body: Callable[[str], object] = coroutine if kind == "coroutine" else thread
    first = await task_manager.submit(body, ("second",), task_id="first", delay=1)
    second = await task_manager.submit(body, ("first",), task_id="second", delay=1)
    await task_clock.run_for(1)

    for task_id in (first, second):
        with pytest.raises(DeadlockError, match=r"^deadlock: .* waits for .*$"):
            await task_manager.get_result(task_id)


async def test_b10_wait_with_timeout(asyncframe: Probe) -> None:
    """A wait that has a timeout is no deadlock: it ends by itself."""

    async def impatient() -> str:
        try:
            await asyncframe.manager.get_result(own_id(), timeout=5)
        except TimeoutError:
            return "gave up"
        return "never"

    task = await asyncframe.completed(await asyncframe.manager.submit(impatient))

    assert (task.result, task.duration) == ("gave up", 5)


# -- B11


async def test_b11_failed(task_manager: TaskManager) -> None:
    """The result of a FAILED task is the very exception that it raised."""
    error = ValueError("mine")

    def fail() -> None:
        raise error

    with pytest.raises(ValueError, match=r"^mine$") as caught:
        await task_manager.submit(fail, wait=True)

    assert caught.value is error


async def test_b11_own_timeout_error(task_manager: TaskManager) -> None:
    """A task's own TimeoutError is its failure and not the framework's limit."""

    def fail() -> None:
        raise TimeoutError("mine")

    task_id = await task_manager.submit(fail, timeout=60)
    with pytest.raises(TimeoutError, match=r"^mine$") as caught:
        await task_manager.get_result(task_id)

    task = await task_manager.get_task(task_id)
    assert task is not None
    assert type(caught.value) is TimeoutError
    assert task.status is TaskStatus.FAILED


async def test_b11_cancelled(one_worker: TaskManager, held_body: Held) -> None:
    """The result of a CANCELLED task is `TaskCancelledError` with its id."""
    await one_worker.submit(held_body)
    task_id = await one_worker.submit(pair, (1, 2))
    await one_worker.cancel_task(task_id)

    with pytest.raises(TaskCancelledError) as caught:
        await one_worker.get_result(task_id)

    assert caught.value.task_id == task_id


async def test_b11_timed_out(asyncframe: Probe) -> None:
    """The result of a TIMEOUT task is `TaskTimeoutError` with id and limit, at once."""
    task_id = await asyncframe.manager.submit(asyncframe.clock.sleep, (60,), timeout=5)

    with pytest.raises(TaskTimeoutError) as caught:
        await asyncframe.manager.get_result(task_id)

    assert (caught.value.task_id, caught.value.limit) == (task_id, 5)
    assert asyncframe.clock.monotonic() == 5


async def test_b11_running(asyncframe: Probe) -> None:
    """The result of a running task is waited for; past the waiter's timeout it goes on."""
    task_id = await asyncframe.manager.submit(asyncframe.clock.sleep, (60,))
    with pytest.raises(
        TimeoutError, match=r"^task \w+ \(.*\) is running after 5 s of waiting; it goes on$"
    ):
        await asyncframe.manager.get_result(task_id, timeout=5)

    assert asyncframe.clock.monotonic() == 5
    assert (await asyncframe.completed(task_id)).duration == 60


async def test_b11_evicted(task_manager: TaskManager) -> None:
    """The result of an evicted task is `TaskNotFoundError`."""
    task_id = await task_manager.submit(pair, (1, 2))
    await task_manager.get_result(task_id)
    task_manager.cleanup_completed_tasks(0)

    with pytest.raises(TaskNotFoundError, match=UNKNOWN):
        await task_manager.get_result(task_id)


MISLEADING = [
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    StopIteration(1),
    StopAsyncIteration(),
    asyncio.CancelledError(),
    BaseExceptionGroup("nursery", [ValueError(1), KeyboardInterrupt()]),
    BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [SystemExit(3)])]),
]


async def test_b11_misleading(task_manager: TaskManager) -> None:
    """An exception that would end the waiter arrives as the cause of another one."""
    for error in MISLEADING:

        def fail(error: BaseException = error) -> None:
            raise error

        text = rf"^task '\w+' \(.*fail\) failed with {re.escape(repr(error))}$"
        with pytest.raises(TaskFailedError, match=text) as caught:
            await task_manager.submit(fail, wait=True)

        assert caught.value.__cause__ is error


async def test_b11_group_is_not_retried(task_manager: TaskManager) -> None:
    """A group with KeyboardInterrupt in it is not retried, as KeyboardInterrupt alone is not."""
    calls = []

    @retry_task(max_retries=1, retry_delay=0, exceptions=BaseException)
    def interrupted(error: BaseException) -> None:
        calls.append(error)
        raise error

    alone = KeyboardInterrupt()
    grouped = BaseExceptionGroup("nursery", [KeyboardInterrupt()])
    for error in (alone, grouped):
        with pytest.raises(TaskFailedError, match=r"^task '\w+' \(.*interrupted\) failed with "):
            await task_manager.submit(interrupted, args=(error,), wait=True)

    assert calls == [alone, grouped]


# -- B12


def depth(error: BaseException) -> int:
    """Return how many frames the traceback of *error* has."""
    return len(traceback.extract_tb(error.__traceback__))


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_b12_traceback(task_manager: TaskManager, kind: str) -> None:
    """A hundred calls of `get_result` leave the traceback as long as the first did."""

    async def coroutine() -> None:
        raise ValueError("mine")

    def thread() -> None:
        raise ValueError("mine")

    task_id = await task_manager.submit(coroutine if kind == "coroutine" else thread)
    depths = []
    for _ in range(100):
        with pytest.raises(ValueError, match=r"^mine$") as caught:
            await task_manager.get_result(task_id)
        depths.append(depth(caught.value))

    assert set(depths) == {depths[0]}


async def test_b12_misleading_traceback(task_manager: TaskManager) -> None:
    """The cause of `TaskFailedError` does not grow either."""

    def fail() -> None:
        raise SystemExit(3)

    task_id = await task_manager.submit(fail)
    depths = []
    for _ in range(10):
        with pytest.raises(TaskFailedError) as caught:
            await task_manager.get_result(task_id)
        assert caught.value.__cause__ is not None
        depths.append(depth(caught.value.__cause__))

    assert set(depths) == {depths[0]}


def test_b12_threads(task_manager: TaskManager) -> None:
    """`wait_result` does not make the traceback grow."""

    def fail() -> None:
        raise ValueError("mine")

    task_id = task_manager.submit_nowait(fail)
    depths = []
    for _ in range(10):
        with pytest.raises(ValueError, match=r"^mine$") as caught:
            task_manager.wait_result(task_id)
        depths.append(depth(caught.value))

    assert set(depths) == {depths[0]}


# -- B13


async def test_b13_wait_result(one_worker: TaskManager) -> None:
    """A task on the only thread that waits for a queued one runs it there."""

    def outer() -> tuple[str, str]:
        inner = one_worker.submit_nowait(lambda: threading.current_thread().name)
        return threading.current_thread().name, one_worker.wait_result(inner)

    here, there = await one_worker.submit(outer, wait=True)

    assert here == there


async def test_b13_future(one_worker: TaskManager) -> None:
    """A task on the only thread that waits for a queued future of its pool runs it there."""

    def outer() -> tuple[int, int]:
        return get_thread_pool().submit(pair, 1, 2).result()

    assert await one_worker.submit(outer, wait=True) == (1, 2)


async def test_b13_deep(one_worker: TaskManager) -> None:
    """Twenty tasks that each wait for the next need one thread."""

    def count(left: int) -> int:
        if not left:
            return 0
        return 1 + one_worker.wait_result(one_worker.submit_nowait(count, (left - 1,)))

    assert await one_worker.submit(count, (20,), wait=True) == 20


async def test_b13_coroutine(one_worker: TaskManager) -> None:
    """A coroutine task that waits for a pool task takes no thread from it."""

    async def outer() -> tuple[int, int]:
        return await one_worker.submit(pair, (1, 2), wait=True)

    assert await one_worker.submit(outer, wait=True) == (1, 2)


async def test_b13_on_loop(task_manager: TaskManager) -> None:
    """Waiting as threads do is refused on a loop's thread, with what to write instead."""
    task_id = await task_manager.submit(pair, (1, 2))

    with pytest.raises(
        RuntimeError,
        match=r"^wait_result\(\) would block the event loop of this thread: use "
        r"'await get_result\(task_id\)' here$",
    ):
        task_manager.wait_result(task_id)


async def test_b13_queue_full(held_body: Held) -> None:
    """A task that submits and waits while the queue is full gets the error, not a hang."""

    def outer() -> None:
        held_body()
        manager = get_task_manager()
        manager.wait_result(manager.submit_nowait(pair, (1, 2)))

    with (
        ThreadPoolExecutorEnhanced(max_workers=1, queue_size=1) as pool,
        override_framework(pool=pool) as manager,
    ):
        task_id = await manager.submit(outer)
        await reached(held_body.running)
        await manager.submit(pair, (3, 4))
        held_body.go_on.set()

        with pytest.raises(QueueFullError) as caught:
            await manager.get_result(task_id)
        assert caught.value.queue_size == 1
