"""Faults of workers: what a task may do, and what must never come of it; C1 to C10, C15, C17."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import subprocess
import sys
import threading
from contextvars import ContextVar
from typing import Any, NoReturn

import pytest

from framework import (
    Task,
    TaskFailedError,
    TaskManager,
    TaskStatus,
    TaskTimeoutError,
    ThreadPoolExecutorEnhanced,
    current_task,
)
from framework.protocols import TaskEvent
from framework.testing import override_framework
from pytest_asyncframe.clock import VirtualClock
from tests.framework.kinds import (
    EVERY_KIND,
    Body,
    Run,
    fail_with,
    in_thread,
    on_loop,
    reached,
    run_submitted,
)
from tests.framework.running.messages import TIMED_OUT
from tests.patience import PATIENCE

FINAL = {"completed", "failed", "timed_out", "cancelled", "interrupted"}

user: ContextVar[str] = ContextVar("user", default="nobody")


async def outcome(manager: TaskManager, run: Run, fn: Body) -> tuple[BaseException, Task]:
    """Run a failing task; return what its waiter got and the task, which ended once."""
    events: list[TaskEvent] = []
    unsubscribe = manager.subscribe(events.append)
    me = asyncio.current_task()
    assert me is not None
    with pytest.raises(BaseException) as caught:  # noqa: PT011  # looked at by the callers
        await run(manager, fn)
    unsubscribe()
    assert me.cancelling() == 0
    (end,) = [event for event in events if event.kind in FINAL]
    task = await manager.get_task(str(end.task_id))
    assert task is not None
    return caught.value, task


async def require_healthy(manager: TaskManager) -> None:
    """See that both kinds of tasks still run and that nothing is left behind."""

    async def coroutine_task() -> str:
        return "loop"

    assert await manager.submit(coroutine_task, wait=True) == "loop"
    assert await manager.submit(lambda: "thread", wait=True) == "thread"
    assert manager.get_active_count() == 0


@EVERY_KIND
async def test_c1_sys_exit(task_manager: TaskManager, make: Any, run: Run) -> None:
    """sys.exit() in a task makes it FAILED with the SystemExit, and ends nobody else."""
    told, task = await outcome(task_manager, run, make(lambda: sys.exit(3)))
    assert task.status is TaskStatus.FAILED
    assert isinstance(task.error, SystemExit)
    assert task.error.code == 3
    assert isinstance(told, TaskFailedError)
    assert told.__cause__ is task.error
    await require_healthy(task_manager)


class OwnBaseError(BaseException):
    """What a user might derive from BaseException."""


@EVERY_KIND
async def test_c2_interrupts(task_manager: TaskManager, make: Any, run: Run) -> None:
    """KeyboardInterrupt and GeneratorExit make a task FAILED; its waiter gets a stand-in."""
    for error in (KeyboardInterrupt(), GeneratorExit()):
        told, task = await outcome(task_manager, run, make(fail_with(error)))
        assert (task.status, task.error) == (TaskStatus.FAILED, error)
        assert isinstance(told, TaskFailedError)
        assert told.__cause__ is error
        await require_healthy(task_manager)


@EVERY_KIND
async def test_c2_own_base_exception(task_manager: TaskManager, make: Any, run: Run) -> None:
    """A user's own BaseException makes a task FAILED and reaches its waiter as it is."""
    error = OwnBaseError("mine")
    told, task = await outcome(task_manager, run, make(fail_with(error)))
    assert (task.status, task.error) == (TaskStatus.FAILED, error)
    assert told is error
    await require_healthy(task_manager)


@EVERY_KIND
async def test_c3_stop_iteration(task_manager: TaskManager, make: Any, run: Run) -> None:
    """StopIteration and StopAsyncIteration make a task FAILED, and its waiter is woken."""
    for error in (StopIteration(7), StopAsyncIteration(7)):
        told, task = await outcome(task_manager, run, make(fail_with(error)))
        assert task.status is TaskStatus.FAILED
        # In a coroutine the interpreter itself makes a RuntimeError of StopIteration.
        assert error in (task.error, getattr(task.error, "__cause__", None))
        assert isinstance(told, (TaskFailedError, RuntimeError))
        await require_healthy(task_manager)


@EVERY_KIND
async def test_c4_own_cancelled_error(task_manager: TaskManager, make: Any, run: Run) -> None:
    """A CancelledError that a task raises by itself is FAILED, and cancels no waiter."""
    for error in (asyncio.CancelledError(), concurrent.futures.CancelledError()):
        told, task = await outcome(task_manager, run, make(fail_with(error)))
        assert (task.status, task.error) == (TaskStatus.FAILED, error)
        assert (type(told), told.__cause__) == (TaskFailedError, error)
        assert not task.cancel_requested
        await require_healthy(task_manager)


async def test_c4_awaiting_something_cancelled(task_manager: TaskManager) -> None:
    """A coroutine task that awaits a cancelled future is FAILED; nobody cancelled the task."""

    async def body() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    told, task = await outcome(task_manager, run_submitted, body)
    assert task.status is TaskStatus.FAILED
    assert isinstance(told, TaskFailedError)


@EVERY_KIND
async def test_c5_own_timeout_error(task_manager: TaskManager, make: Any, run: Run) -> None:
    """A TimeoutError of the task's own, before any limit, is FAILED with that object."""
    error = TimeoutError("mine")
    told, task = await outcome(task_manager, run, make(fail_with(error)))
    assert (task.status, task.error) == (TaskStatus.FAILED, error)
    assert told is error


@EVERY_KIND
async def test_c5_own_task_timeout_error(task_manager: TaskManager, make: Any, run: Run) -> None:
    """Even our own TaskTimeoutError, raised by the task itself, is FAILED and not TIMEOUT."""
    error = TaskTimeoutError("another", "task", 1.0)
    told, task = await outcome(task_manager, run, make(fail_with(error)))
    assert (task.status, task.error) == (TaskStatus.FAILED, error)
    assert told is error


class NeedsArgumentsError(Exception):
    """Cannot be rebuilt from its args."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot be pickled")


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """Refuses every attribute."""

    text: str


class FalsyError(Exception):
    """Is false."""

    def __len__(self) -> int:
        return 0


class HostileError(Exception):
    """Raises whatever is asked of it."""

    def __str__(self) -> str:
        raise ValueError("str")

    def __repr__(self) -> str:
        raise ValueError("repr")

    def __eq__(self, other: object) -> bool:
        raise ValueError("eq")

    __hash__ = None  # type: ignore[assignment]  # as an error with fields of its own may be


@EVERY_KIND
async def test_c6_odd_exceptions(task_manager: TaskManager, make: Any, run: Run) -> None:
    """An odd exception object is kept and raised to the waiter as the very same object."""
    odd: list[Exception] = [
        NeedsArgumentsError(1, 2),
        FrozenError("frozen"),
        FalsyError(),
        HostileError(),
        ExceptionGroup("group", [ValueError(1), KeyError(2)]),
    ]
    for error in odd:
        told, task = await outcome(task_manager, run, make(fail_with(error)))
        assert task.status is TaskStatus.FAILED
        assert task.error is error
        assert told is error
        shown = task.to_dict()
        assert (shown["has_error"], shown["error_type"]) == (True, type(error).__name__)
        assert isinstance(shown["error_message"], str)
        await require_healthy(task_manager)


@EVERY_KIND
async def test_c7_recursion_error(task_manager: TaskManager, make: Any, run: Run) -> None:
    """A task that recurses without end is FAILED with RecursionError, and the pool works."""

    def dive() -> None:
        dive()

    told, task = await outcome(task_manager, run, make(dive))
    assert task.status is TaskStatus.FAILED
    assert isinstance(told, RecursionError)
    await require_healthy(task_manager)


@EVERY_KIND
async def test_c7_memory_error_and_excepthook(
    task_manager: TaskManager, make: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MemoryError is FAILED like any other and never reaches threading.excepthook."""
    hooked: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", hooked.append)
    error = MemoryError()
    told, task = await outcome(task_manager, run, make(fail_with(error)))
    await require_healthy(task_manager)
    assert (task.status, told) == (TaskStatus.FAILED, error)
    assert hooked == []


@pytest.mark.parametrize("error", [ValueError("hook"), SystemExit(3), OwnBaseError()])
@pytest.mark.parametrize("make", [in_thread, on_loop])
async def test_c8_hook_and_sink_that_raise(
    task_manager: TaskManager, make: Any, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors of hooks and sinks are logged; other sinks get all events, and threads live on."""
    events: list[TaskEvent] = []
    called = threading.Event()

    def hook(_: Task) -> None:
        called.set()
        raise error

    def sink(_: TaskEvent) -> None:
        raise error

    unsubscribe = task_manager.subscribe(sink)
    task_manager.subscribe(events.append)
    assert await task_manager.submit(make(lambda: 7), on_complete=hook, wait=True) == 7
    await reached(called)
    unsubscribe()
    assert [event.kind for event in events] == ["submitted", "started", "completed"]
    await require_healthy(task_manager)
    task_manager.pool.shutdown()
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert logged == [error] * 4


async def test_c9_hook_that_blocks(task_manager: TaskManager) -> None:
    """A hook of a thread task that blocks holds up its thread; loop and other tasks go on."""
    entered, gate = threading.Event(), threading.Event()

    def hook(_: Task) -> None:
        entered.set()
        gate.wait(PATIENCE)

    assert await task_manager.submit(lambda: 7, on_complete=hook, wait=True) == 7
    await reached(entered)
    await require_healthy(task_manager)
    gate.set()


async def test_c9_hook_that_blocks_at_a_limit(
    task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """A hook that blocks at a limit does not keep other limits from firing."""
    entered, gate = threading.Event(), threading.Event()
    running = [threading.Event(), threading.Event()]

    def hook(_: Task) -> None:
        entered.set()
        gate.wait(PATIENCE)

    def body(index: int) -> None:
        running[index].set()
        gate.wait(PATIENCE)

    first = await task_manager.submit(body, (0,), timeout=1.0, on_error=hook)
    second = await task_manager.submit(body, (1,), timeout=2.0)
    for started in running:
        await reached(started)
    await task_clock.run_for(1.0)
    await reached(entered)
    await task_clock.run_for(1.0)
    for task_id in (first, second):
        with pytest.raises(TaskTimeoutError, match=TIMED_OUT):
            await task_manager.get_result(task_id)
    gate.set()


async def test_c10_task_with_a_loop_of_its_own(task_manager: TaskManager) -> None:
    """A thread task may run asyncio.run() and await other tasks of both kinds from there."""

    async def elsewhere() -> str:
        return "async"

    def body() -> list[str]:
        async def main() -> list[str]:
            return [
                await task_manager.submit(elsewhere, wait=True),
                await task_manager.submit(lambda: "sync", wait=True),
            ]

        return asyncio.run(main())

    assert await task_manager.submit(body, wait=True) == ["async", "sync"]
    await require_healthy(task_manager)


@pytest.mark.extended("processes")
async def test_c10_task_that_leaves_a_thread_and_a_process(task_manager: TaskManager) -> None:
    """A task may start a thread and a process and leave them; it ends, and they go on."""
    gate = threading.Event()

    def body() -> tuple[threading.Thread, subprocess.Popen[str]]:
        thread = threading.Thread(target=gate.wait, args=(PATIENCE,))
        thread.start()
        child = subprocess.Popen(
            [sys.executable, "-c", "print(input())"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return thread, child

    thread, child = await task_manager.submit(body, wait=True)
    await require_healthy(task_manager)
    assert thread.is_alive()
    gate.set()
    thread.join(PATIENCE)
    assert child.communicate("echo", timeout=PATIENCE)[0] == "echo\n"
    assert child.returncode == 0


@EVERY_KIND
async def test_c15_context_of_the_request(task_manager: TaskManager, make: Any, run: Run) -> None:
    """A task sees the request's context, and its own changes are seen by nobody after it."""
    token = user.set("ada")

    def body() -> str:
        seen = user.get()
        user.set("mallory")
        return seen

    first = await run(task_manager, make(body))
    user.reset(token)
    assert (first, user.get()) == ("ada", "nobody")
    assert await run(task_manager, make(body)) == "nobody"


async def test_c15_the_next_task_on_the_thread() -> None:
    """On one thread the next task sees neither the other's context nor its identity."""
    pool = ThreadPoolExecutorEnhanced(1)
    with override_framework(pool=pool) as manager:

        def body() -> tuple[int, str, str]:
            task = current_task()
            assert task is not None
            seen = user.get()
            user.set("mallory")
            return threading.get_ident(), seen, task.task_id

        first = await manager.submit(body, wait=True)
        second = await manager.submit(body, wait=True)
    pool.shutdown()
    assert first[0] == second[0]
    assert (first[1], second[1]) == ("nobody", "nobody")
    assert first[2] != second[2]


async def test_c17_limits_fire_late_but_fire(
    task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """Limits that passed while nothing could run all fire afterwards, each task once."""
    ends: list[str] = []
    task_manager.subscribe(lambda event: ends.append(event.kind) if event.kind in FINAL else None)
    gate, started = threading.Event(), threading.Semaphore(0)

    def body() -> None:
        started.release()
        gate.wait(PATIENCE)

    ids = [await task_manager.submit(body, timeout=limit) for limit in (1.0, 2.0, 1.0)]
    for _ in ids:
        assert await asyncio.to_thread(started.acquire, timeout=PATIENCE)
    # The loop stands still meanwhile.
    task_clock.advance(5.0)
    for task_id in ids:
        with pytest.raises(TaskTimeoutError, match=TIMED_OUT):
            await task_manager.get_result(task_id)
    gate.set()
    assert ends == ["timed_out"] * 3


async def test_c17_one_outcome_of_a_task_past_its_limit(
    task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """A task whose limit passes while it computes is TIMEOUT, once, and its result is late."""
    ends: list[str] = []
    late = threading.Event()

    def sink(event: TaskEvent) -> None:
        if event.kind in FINAL:
            ends.append(event.kind)
        if event.kind == "late_result":
            late.set()

    task_manager.subscribe(sink)

    def body() -> int:
        task_clock.advance(2.0)
        return 7

    task_id = await task_manager.submit(body, timeout=1.0)
    with pytest.raises(TaskTimeoutError, match=TIMED_OUT):
        await task_manager.get_result(task_id)
    await reached(late)
    assert ends == ["timed_out"]


async def test_c17_one_outcome_of_a_task_that_was_quicker(
    task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """A task that returned before its limit could fire is COMPLETED, and stays so."""
    ends: list[str] = []
    task_manager.subscribe(lambda event: ends.append(event.kind) if event.kind in FINAL else None)
    task_id = await task_manager.submit(lambda: 7, timeout=1.0)
    assert await task_manager.get_result(task_id) == 7
    await task_clock.run_for(60.0)
    assert await task_manager.get_result(task_id) == 7
    assert ends == ["completed"]
