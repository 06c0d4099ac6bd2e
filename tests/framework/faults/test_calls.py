"""Faults at call time: rows B1 to B13 of the fault table; there is no B9."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import threading
import traceback
from collections.abc import Callable, Iterator
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
    throttled_task,
)
from framework.exceptions import DeadlockError
from framework.testing import override_framework
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.probe import Probe
from tests.patience import PATIENCE


def pair(first: int, second: int) -> tuple[int, int]:
    """Return two numbers."""
    return first, second


async def async_pair(first: int, second: int) -> tuple[int, int]:
    """Return two numbers, awaited."""
    return first, second


@pytest.fixture
def one_worker() -> Iterator[TaskManager]:
    """Give a manager whose pool, a real one, has one thread."""
    with (
        ThreadPoolExecutorEnhanced(max_workers=1) as pool,
        override_framework(pool=pool) as manager,
    ):
        yield manager


class Held:
    """A task body that says when it runs and ends when it is told to."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> str:
        """Wait for `go_on`."""
        self.running.set()
        assert self.go_on.wait(PATIENCE)
        return "held"


@pytest.fixture
def held_body() -> Iterator[Held]:
    """Give a body that runs until the test ends at the latest."""
    held = Held()
    yield held
    held.go_on.set()


async def until(event: threading.Event) -> None:
    """Wait for *event* without blocking the loop."""
    assert await asyncio.to_thread(event.wait, PATIENCE)


# -- B1

WRONG_CALLS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((1,), {}, r"pair\(\) missing 1 required positional argument: 'second'"),
    ((1, 2, 3), {}, r"pair\(\) takes 2 positional arguments but 3 were given"),
    ((1, 2), {"third": 3}, r"pair\(\) got an unexpected keyword argument 'third'"),
    ((1, 2), {"first": 3}, r"pair\(\) got multiple values for argument 'first'"),
]


@pytest.mark.parametrize(("args", "kwargs", "message"), WRONG_CALLS)
def test_b1_background(
    task_manager: TaskManager, args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    """A wrong call of a background task is a TypeError in the caller, and no task."""
    with pytest.raises(TypeError, match=f"^{message}$") as caught:
        background_task(pair)(*args, **kwargs)

    assert caught.traceback[0].name == "test_b1_background"
    assert task_manager.get_stats()["submitted"] == 0


@pytest.mark.parametrize("fn", [pair, async_pair])
@pytest.mark.parametrize(("args", "kwargs", "message"), WRONG_CALLS)
async def test_b1_async(
    task_manager: TaskManager,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    message: str,
) -> None:
    """A wrong call of an async task is a TypeError where it is awaited, and no task."""
    with pytest.raises(TypeError, match=f"^(async_)?{message}$"):
        await async_task(fn)(*args, **kwargs)

    assert task_manager.get_stats()["submitted"] == 0


@pytest.mark.parametrize(("args", "kwargs", "message"), WRONG_CALLS)
async def test_b1_submit(
    task_manager: TaskManager, args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    """A wrong call that is submitted is a TypeError at the submission, and no task."""
    with pytest.raises(TypeError, match=f"^{message}$"):
        await task_manager.submit(pair, args, kwargs)

    assert task_manager.get_stats()["submitted"] == 0


def test_b1_retry(task_manager: TaskManager) -> None:
    """A wrong call of a retried function is not retried."""
    stacked = retry_task(retry_delay=60)(pair)

    with pytest.raises(TypeError, match=r"^pair\(\) missing 1 required positional argument"):
        stacked(1)  # type: ignore[call-arg]  # the point

    assert "retrying" not in task_manager.get_stats()


# -- B2

OPTION_NAMES = {
    "self": 0,
    "cls": 1,
    "timeout": 2,
    "description": 3,
    "wait": 4,
    "args": 5,
    "kwargs": 6,
    "func": 7,
    "fn": 8,
    "priority": 9,
    "task_id": 10,
    "delay": 11,
    "on_complete": 12,
    "name": 13,
    "key": 14,
    "call": 15,
}


def keywords(**given: object) -> dict[str, object]:
    """Return the keywords."""
    return given


async def async_keywords(**given: object) -> dict[str, object]:
    """Return the keywords, awaited."""
    return given


@pytest.mark.parametrize("fn", [keywords, async_keywords])
async def test_b2_submit(task_manager: TaskManager, fn: Callable[..., Any]) -> None:
    """A task's keywords reach it whatever the framework's own options are called."""
    assert await task_manager.submit(fn, (), OPTION_NAMES, wait=True) == OPTION_NAMES


@pytest.mark.parametrize("fn", [keywords, async_keywords])
async def test_b2_decorated(task_manager: TaskManager, fn: Callable[..., Any]) -> None:
    """Keywords pass through all decorators."""
    inner = retry_task(throttled_task(rate_limit=9, key=lambda **_: 1)(fn))

    assert await task_manager.get_result(background_task(inner)(**OPTION_NAMES)) == OPTION_NAMES
    assert await async_task(inner)(**OPTION_NAMES) == OPTION_NAMES


def test_b2_pool(one_worker: TaskManager) -> None:
    """Keywords pass through the pool's own submit."""
    assert get_thread_pool().submit(keywords, **OPTION_NAMES).result(PATIENCE) == OPTION_NAMES


# -- B3


async def test_b3_coroutine(task_manager: TaskManager) -> None:
    """A coroutine in place of a function is refused and closed, so that nothing warns."""
    coroutine = async_pair(1, 2)

    with pytest.raises(
        TypeError, match=r"^submit needs a function, not the coroutine <coroutine object .*$"
    ):
        await task_manager.submit(coroutine)  # type: ignore[call-overload]  # the point

    assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"
    assert task_manager.get_stats()["submitted"] == 0


@pytest.mark.parametrize("func", [None, 5, "pair", [pair]])
async def test_b3_no_function(task_manager: TaskManager, func: Any) -> None:
    """What is no function is refused at the submission, and shown."""
    shown = re.escape(repr(func))
    with pytest.raises(
        TypeError, match=f"^submit needs a function or another callable, not {shown}$"
    ):
        await task_manager.submit(func)


async def test_b3_coroutine_from_sync(task_manager: TaskManager) -> None:
    """A sync function that returns a coroutine FAILED, and the coroutine is closed."""
    made: list[Any] = []

    def forgetful() -> object:
        made.append(async_pair(1, 2))
        return made[0]

    with pytest.raises(TypeError, match=r"^.*forgetful is not an async function but returned a co"):
        await task_manager.submit(forgetful, wait=True)

    assert inspect.getcoroutinestate(made[0]) == "CORO_CLOSED"


# -- B4


@pytest.mark.parametrize("args", ["ab", b"cd", 5, {1, 2}, {"first": 1}, iter([1, 2])])
async def test_b4_bad_args(task_manager: TaskManager, args: Any) -> None:
    """Positional arguments that are no tuple or list are refused, not spread."""
    with pytest.raises(
        TypeError,
        match=f"^args must be a tuple or list of positional arguments, not of type "
        f"{type(args).__name__}; for one argument use args=\\(value,\\)$",
    ):
        await task_manager.submit(pair, args)


@pytest.mark.parametrize("kwargs", [[], "ab", 5, {1: 2}, [("first", 1)]])
async def test_b4_bad_kwargs(task_manager: TaskManager, kwargs: Any) -> None:
    """Keyword arguments that are no mapping of names are refused."""
    with pytest.raises(
        TypeError,
        match=f"^kwargs must be a dict with parameter names as keys, not of type "
        f"{type(kwargs).__name__} or with other keys$",
    ):
        await task_manager.submit(pair, (), kwargs)


async def test_b4_none_is_empty(task_manager: TaskManager) -> None:
    """None for arguments means none."""
    assert await task_manager.submit(keywords, None, None, wait=True) == {}


@pytest.mark.parametrize("args", [(1, 2), [1, 2]])
async def test_b4_good_args(task_manager: TaskManager, args: Any) -> None:
    """A tuple and a list are spread."""
    assert await task_manager.submit(pair, args, wait=True) == (1, 2)


# -- B5


async def test_b5_arguments_are_shared(one_worker: TaskManager, held_body: Held) -> None:
    """Arguments are shared with the caller, as documented: the task sees a later change."""
    await one_worker.submit(held_body)
    await until(held_body.running)
    shared: list[str] = []

    task_id = await one_worker.submit(sorted, (shared,))
    shared.append("later")
    held_body.go_on.set()

    assert await one_worker.get_result(task_id) == ["later"]
    assert "They are not copied" in " ".join((TaskManager.submit.__doc__ or "").split())


async def test_b5_containers_are_copied(one_worker: TaskManager, held_body: Held) -> None:
    """The list and dict that hold the arguments are copied."""
    await one_worker.submit(held_body)
    await until(held_body.running)
    args, kwargs = [1], {"second": 2}

    task_id = await one_worker.submit(pair, args, kwargs)
    args.append(3)
    kwargs.clear()
    held_body.go_on.set()

    assert await one_worker.get_result(task_id) == (1, 2)


# -- B6


class Hostile:
    """An argument whose every text and comparison raises."""

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __str__(self) -> str:
        raise RuntimeError("str")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        raise RuntimeError("hash")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __len__(self) -> int:
        raise RuntimeError("len")


class Long:
    """An argument whose text is long."""

    def __init__(self) -> None:
        self.shown = 0

    def __repr__(self) -> str:
        self.shown += 1
        return "x" * 1_000_000


def identity(value: object) -> object:
    """Return the value."""
    return value


async def async_identity(value: object) -> object:
    """Return the value, awaited."""
    return value


@pytest.mark.parametrize("fn", [identity, async_identity])
async def test_b6_hostile_argument(
    task_manager: TaskManager, fn: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """An argument and result that raise at every touch go through a task unharmed."""
    hostile = Hostile()
    with caplog.at_level(logging.DEBUG, logger="asyncframe"):
        assert await task_manager.submit(fn, (hostile,), wait=True) is hostile
        assert await task_manager.get_result(background_task(fn)(hostile)) is hostile
        assert await async_task(fn)(hostile) is hostile

    statuses = [task["status"] for task in task_manager.get_all_tasks().values()]
    assert statuses == ["completed"] * 3


async def test_b6_hostile_error(task_manager: TaskManager) -> None:
    """An exception that raises at every touch is kept as it is, and shown by its type."""

    class HostileError(Hostile, Exception):
        pass

    error = HostileError()

    def fail() -> None:
        raise error

    task_id = await task_manager.submit(fail)
    with pytest.raises(HostileError) as caught:
        await task_manager.get_result(task_id)

    task = await task_manager.get_task(task_id)
    assert task is not None
    assert caught.value is error
    assert task.to_dict()["error_message"] == "<HostileError whose repr raises RuntimeError>"


async def test_b6_long_argument(task_manager: TaskManager) -> None:
    """An argument is never turned into text, so a long one costs nothing."""
    long = Long()

    await task_manager.submit(identity, (long,), wait=True)
    await async_task(async_identity)(long)

    assert long.shown == 0


async def test_b6_long_result_is_cut(task_manager: TaskManager) -> None:
    """A result that has no JSON is shown by a text that is cut."""
    task_id = await task_manager.submit(Long)
    await task_manager.get_result(task_id)

    task = await task_manager.get_task(task_id)
    assert task is not None
    assert task.to_dict()["result"] == "x" * 197 + "..."


def test_b6_hostile_throttle_key(task_manager: TaskManager) -> None:
    """A key that cannot be hashed raises in the caller, and the window goes on working."""
    limited = throttled_task(rate_limit=1, key=lambda value: value)(identity)

    with pytest.raises(RuntimeError, match=r"^hash$"):
        limited(Hostile())

    assert limited(1) == 1


# -- B7

STRANGE: list[Any] = [
    "unknown",
    "",
    "x" * 1_000_000,
    "ключ",
    "\ud800",
    "../x",
    "a\nb",
    None,
    5,
    b"id",
    ["id"],
    Hostile(),
]
STRANGE_NAMES = [type(one).__name__ + str(index) for index, one in enumerate(STRANGE)]


@pytest.mark.parametrize("task_id", STRANGE, ids=STRANGE_NAMES)
async def test_b7_get_task(task_manager: TaskManager, task_id: Any) -> None:
    """`get_task` gives None for every id that nobody has."""
    assert await task_manager.get_task(task_id) is None


@pytest.mark.parametrize("task_id", STRANGE, ids=STRANGE_NAMES)
async def test_b7_get_result(task_manager: TaskManager, task_id: Any) -> None:
    """`get_result` raises one type for every id that nobody has, with a bounded message."""
    with pytest.raises(TaskNotFoundError) as caught:
        await task_manager.get_result(task_id)

    message = str(caught.value)
    assert isinstance(caught.value, LookupError)
    assert caught.value.task_id is task_id
    assert len(message) < 300
    assert message.isprintable()
    assert message.encode()


@pytest.mark.parametrize("task_id", STRANGE, ids=STRANGE_NAMES)
def test_b7_wait_result(task_manager: TaskManager, task_id: Any) -> None:
    """`wait_result` raises the same."""
    with pytest.raises(TaskNotFoundError):
        task_manager.wait_result(task_id)


@pytest.mark.parametrize("task_id", STRANGE, ids=STRANGE_NAMES)
async def test_b7_cancel(task_manager: TaskManager, task_id: Any) -> None:
    """`cancel_task` gives False for every id that nobody has."""
    assert await task_manager.cancel_task(task_id) is False


# -- B8


@pytest.mark.parametrize(
    "call",
    [get_task_manager, get_thread_pool, lambda: background_task(pair)(1, 2)],
    ids=["get_task_manager", "get_thread_pool", "decorated"],
)
def test_b8_before_start(call: Callable[[], object]) -> None:
    """Before the start every way in raises at once and says what to do."""
    with pytest.raises(FrameworkNotStartedError, match=r"^no task framework is running here: ") as (
        caught
    ):
        call()

    assert caught.value.state == "not started"
    assert "setup_async_framework" in str(caught.value)


async def test_b8_async_before_start() -> None:
    """Before the start awaiting an async task raises the same."""
    with pytest.raises(FrameworkNotStartedError, match=r"^no task framework is running here: "):
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

    with pytest.raises(FrameworkNotStartedError):
        background_task(pair)(1, 2)


async def test_b8_result_after_stop() -> None:
    """What was finished before the stop can still be asked for."""
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

    with pytest.raises(DeadlockError, match=r"^deadlock: \S*(\w+) waits for \S*\1; wait with a "):
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
    """Of two tasks that wait for each other one gets a clear error, and both end."""

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
    with pytest.raises(TimeoutError, match=r"^task \w+ \(.*\) is running after 5 s of waiting; "):
        await asyncframe.manager.get_result(task_id, timeout=5)

    assert asyncframe.clock.monotonic() == 5
    assert (await asyncframe.completed(task_id)).duration == 60


async def test_b11_evicted(task_manager: TaskManager) -> None:
    """The result of an evicted task is `TaskNotFoundError`."""
    task_id = await task_manager.submit(pair, (1, 2))
    await task_manager.get_result(task_id)
    task_manager.cleanup_completed_tasks(0)

    with pytest.raises(TaskNotFoundError, match=r"^task '\w+' is unknown: the id is wrong, or "):
        await task_manager.get_result(task_id)


MISLEADING = [
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    StopIteration(1),
    StopAsyncIteration(),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("error", MISLEADING, ids=lambda error: type(error).__name__)
async def test_b11_misleading(task_manager: TaskManager, error: BaseException) -> None:
    """An exception that would end the waiter arrives as the cause of another one."""

    def fail() -> None:
        raise error

    with pytest.raises(TaskFailedError) as caught:
        await task_manager.submit(fail, wait=True)

    assert caught.value.__cause__ is error


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
        await until(held_body.running)
        await manager.submit(pair, (3, 4))
        held_body.go_on.set()

        with pytest.raises(QueueFullError) as caught:
            await manager.get_result(task_id)
        assert caught.value.queue_size == 1
