"""What happens inside a task: context, progress, hooks, events and failures."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextvars import ContextVar
from typing import Any

import pytest

from framework import (
    Task,
    TaskCancelledError,
    TaskManager,
    TaskStatus,
    TaskTimeoutError,
    ThreadPoolExecutorEnhanced,
    async_task,
    background_task,
    current_task,
    retry_task,
)
from framework.protocols import TaskEvent
from framework.testing import override_framework
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.probe import Probe
from tests.framework.kinds import (
    EVERY_KIND,
    Run,
    fail_with,
    in_thread,
    kinds,
    on_loop,
    reached,
)
from tests.framework.running.messages import CANCELLED, TIMED_OUT
from tests.patience import PATIENCE

user: ContextVar[str] = ContextVar("user", default="nobody")


# -- context


@EVERY_KIND
async def test_context_is_visible(task_manager: TaskManager, make: Any, run: Run) -> None:
    """A task sees the context variables of its submitter."""
    user.set("ada")
    assert await run(task_manager, make(user.get)) == "ada"


@EVERY_KIND
async def test_context_does_not_leak_back(task_manager: TaskManager, make: Any, run: Run) -> None:
    """Context variables that a task sets are not seen by its submitter."""
    user.set("ada")
    await run(task_manager, make(lambda: user.set("mallory")))
    assert user.get() == "ada"


@EVERY_KIND
async def test_current_task_does_not_leak(task_manager: TaskManager, make: Any, run: Run) -> None:
    """current_task() is the task inside it and None outside, before and after."""
    before = current_task()
    inside = await run(task_manager, make(lambda: current_task() is not None))
    assert (before, inside, current_task()) == (None, True, None)


async def test_context_does_not_leak_to_the_next_task_on_the_thread() -> None:
    """Two tasks that run on one thread in turn do not see each other's context."""
    with (
        ThreadPoolExecutorEnhanced(1) as pool,
        override_framework(pool=pool) as manager,
    ):

        def first() -> int:
            user.set("mallory")
            return threading.get_ident()

        def second() -> tuple[int, str]:
            return threading.get_ident(), user.get()

        thread = await manager.submit(first, wait=True)
        assert await manager.submit(second, wait=True) == (thread, "nobody")


async def test_context_is_the_one_at_submission(task_manager: TaskManager) -> None:
    """A task sees the context as it was when submitted, not as it is when the task starts."""
    user.set("early")
    task_id = task_manager.submit_nowait(user.get)
    user.set("late")
    assert await task_manager.get_result(task_id) == "early"


# -- progress and cancellation from inside


@EVERY_KIND
async def test_progress_is_seen_and_told(task_manager: TaskManager, make: Any, run: Run) -> None:
    """Reported progress is in the record and in one event with its message."""
    events: list[TaskEvent] = []
    task_manager.subscribe(events.append)

    def body() -> float | None:
        task = current_task()
        assert task is not None
        task.report_progress(0.4, "parsing")
        return task.progress

    assert await run(task_manager, make(body)) == 0.4
    told = [event for event in events if event.kind == "progress"]
    assert [(event.progress, event.message) for event in told] == [(0.4, "parsing")]
    shown = task_manager.get_all_tasks()[str(told[0].task_id)]
    assert (shown["progress"], shown["progress_message"]) == (0.4, "parsing")


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
async def test_progress_out_of_range_is_refused(task_manager: TaskManager, share: float) -> None:
    """A share of progress outside 0 to 1 is a ValueError that names it."""

    def body() -> None:
        task = current_task()
        assert task is not None
        task.report_progress(share)

    with pytest.raises(ValueError, match=r"^progress must be a number .*, not .*$"):
        await task_manager.submit(body, wait=True)


async def test_check_cancelled_ends_a_thread_task_cancelled(task_manager: TaskManager) -> None:
    """A thread task that stops when asked ends CANCELLED, though cancel_task() was False."""
    started, asked = threading.Event(), threading.Event()

    def body() -> None:
        task = current_task()
        assert task is not None
        task.check_cancelled()
        started.set()
        assert asked.wait(PATIENCE)
        task.check_cancelled()

    task_id = await task_manager.submit(body)
    await reached(started)
    assert await task_manager.cancel_task(task_id) is False
    asked.set()
    with pytest.raises(TaskCancelledError, match=CANCELLED):
        await task_manager.get_result(task_id)
    task = await task_manager.get_task(task_id)
    assert task is not None
    assert (task.status, task.cancel_requested) == (TaskStatus.CANCELLED, True)


async def test_a_thread_task_that_does_not_give_way_completes(
    task_manager: TaskManager,
) -> None:
    """A thread task that ignores a cancellation is COMPLETED, with the request in its record."""
    started, asked = threading.Event(), threading.Event()

    def body() -> int:
        started.set()
        assert asked.wait(PATIENCE)
        return 7

    task_id = await task_manager.submit(body)
    await reached(started)
    await task_manager.cancel_task(task_id)
    asked.set()
    assert await task_manager.get_result(task_id) == 7
    task = await task_manager.get_task(task_id)
    assert task is not None
    assert (task.status, task.cancel_requested) == (TaskStatus.COMPLETED, True)


async def test_check_cancelled_after_the_limit(asyncframe: Probe) -> None:
    """After the limit check_cancelled() raises, and the task stays TIMEOUT."""
    raised: list[float] = []

    def body() -> None:
        task = current_task()
        assert task is not None
        for _ in range(2):
            asyncframe.clock.sleep(3.0)
            try:
                task.check_cancelled()
            except TaskCancelledError:
                raised.append(asyncframe.clock.monotonic())

    task_id = await asyncframe.manager.submit(body, timeout=5.0)
    await asyncframe.clock.run_for(7.0)
    task = await asyncframe.completed(task_id, check=False)
    assert (task.status, raised) == (TaskStatus.TIMEOUT, [6.0])
    assert isinstance(task.error, TaskTimeoutError)


# -- hooks


@pytest.mark.parametrize("make", [in_thread, on_loop])
async def test_on_complete_gets_the_final_task(task_manager: TaskManager, make: Any) -> None:
    """on_complete is called once, with the COMPLETED task and its result."""
    told: list[Task] = []
    other: list[Task] = []
    called = threading.Event()

    def hook(task: Task) -> None:
        told.append(task)
        called.set()

    await task_manager.submit(make(lambda: 7), on_complete=hook, on_error=other.append, wait=True)
    await reached(called)
    assert other == []
    assert [(task.status, task.result) for task in told] == [(TaskStatus.COMPLETED, 7)]


@pytest.mark.parametrize("make", [in_thread, on_loop])
async def test_on_error_gets_the_final_task(task_manager: TaskManager, make: Any) -> None:
    """on_error is called once, with the FAILED task and its error."""
    told: list[Task] = []
    other: list[Task] = []
    called = threading.Event()
    error = KeyError("k")

    def hook(task: Task) -> None:
        told.append(task)
        called.set()

    task_id = await task_manager.submit(
        make(fail_with(error)), on_complete=other.append, on_error=hook
    )
    with pytest.raises(KeyError, match=r"^'k'$"):
        await task_manager.get_result(task_id)
    await reached(called)
    assert other == []
    assert [(task.status, task.error) for task in told] == [(TaskStatus.FAILED, error)]


async def test_on_error_of_a_cancelled_task(task_manager: TaskManager) -> None:
    """on_error is called for a task that is cancelled before it starts."""
    told: list[TaskStatus] = []
    task_id = await task_manager.submit(int, on_error=lambda task: told.append(task.status))
    assert await task_manager.cancel_task(task_id)
    assert told == [TaskStatus.CANCELLED]


async def test_on_error_at_a_limit(task_manager: TaskManager, task_clock: VirtualClock) -> None:
    """on_error is called at the limit on a separate thread, while the body still runs."""
    started, gate, called = threading.Event(), threading.Event(), threading.Event()
    told: list[tuple[TaskStatus, bool, int]] = []

    def hook(task: Task) -> None:
        told.append((task.status, task.still_running, threading.get_ident()))
        called.set()

    def body() -> None:
        started.set()
        gate.wait(PATIENCE)

    task_id = await task_manager.submit(body, timeout=1.0, on_error=hook)
    await reached(started)
    task_clock.advance(1.0)
    await reached(called)
    gate.set()
    (one,) = told
    assert one[:2] == (TaskStatus.TIMEOUT, True)
    assert one[2] != threading.get_ident()
    with pytest.raises(TaskTimeoutError, match=TIMED_OUT):
        await task_manager.get_result(task_id)


async def test_on_complete_runs_where_the_task_completed(task_manager: TaskManager) -> None:
    """A hook is called on the thread that completed the task, and for a coroutine on its loop."""
    threads: list[int] = []
    called = threading.Event()

    def hook(_: Task) -> None:
        threads.append(threading.get_ident())
        called.set()

    ran_on = await task_manager.submit(threading.get_ident, on_complete=hook, wait=True)
    await reached(called)

    async def here() -> None:
        """Do nothing, on the loop."""

    await task_manager.submit(here, on_complete=hook, wait=True)
    assert threads == [ran_on, threading.get_ident()]


@pytest.mark.parametrize("error", [ValueError("hook"), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("make", [in_thread, on_loop])
async def test_a_hook_that_raises_is_logged(
    task_manager: TaskManager, make: Any, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in a hook is logged and affects neither its task nor the next one."""
    called = threading.Event()

    def hook(_: Task) -> None:
        called.set()
        raise error

    assert await task_manager.submit(make(lambda: 7), on_complete=hook, wait=True) == 7
    await reached(called)
    assert await task_manager.submit(make(lambda: 8), wait=True) == 8
    task_manager.pool.shutdown()
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert logged == [error]


# -- events


@pytest.mark.parametrize("make", [in_thread, on_loop])
async def test_events_come_in_order(task_manager: TaskManager, make: Any) -> None:
    """A sink gets submitted, started, progress and completed in this order."""
    events: list[TaskEvent] = []
    task_manager.subscribe(events.append)

    def body() -> None:
        task = current_task()
        assert task is not None
        task.report_progress(1.0)

    await task_manager.submit(make(body), wait=True)
    assert kinds(events) == ["submitted", "started", "progress", "completed"]
    assert [event.status for event in events] == ["pending", "running", "running", "completed"]


async def test_events_of_a_retry(task_manager: TaskManager) -> None:
    """A retried task has one started and one failed event, and retrying in between."""
    events: list[TaskEvent] = []
    task_manager.subscribe(events.append)

    @background_task
    @retry_task(max_retries=1, retry_delay=0.0)
    def flaky() -> None:
        raise KeyError("k")

    with pytest.raises(KeyError, match=r"^'k'$"):
        await task_manager.get_result(flaky())
    assert kinds(events) == ["submitted", "started", "retrying", "failed"]
    assert [event.attempt for event in events] == [0, 1, 1, 2]


async def test_events_of_a_late_result(asyncframe: Probe) -> None:
    """After timed_out a thread's late result is a separate event, not a second end."""
    events: list[TaskEvent] = []
    asyncframe.manager.subscribe(events.append)
    task_id = await asyncframe.manager.submit(asyncframe.clock.sleep, (3.0,), timeout=1.0)
    await asyncframe.clock.run_for(4.0)
    assert kinds(events) == ["submitted", "started", "timed_out", "late_result"]
    assert [event.at for event in events] == [0.0, 0.0, 1.0, 3.0]
    asyncframe.assert_transitions(task_id, "pending>running>timeout")
    with pytest.raises(TaskTimeoutError, match=TIMED_OUT):
        await asyncframe.completed(task_id)
    assert asyncframe.manager.get_stats()["late_results"] == 1


async def test_a_sink_that_raises_is_logged_and_others_hear(
    task_manager: TaskManager, caplog: pytest.LogCaptureFixture
) -> None:
    """A sink that raises, even SystemExit, is logged for each event; the next one gets all."""
    events: list[TaskEvent] = []
    task_manager.subscribe(lambda _: sys.exit(3))
    task_manager.subscribe(events.append)
    assert await task_manager.submit(lambda: 7, wait=True) == 7
    assert kinds(events) == ["submitted", "started", "completed"]
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3


async def test_an_unsubscribed_sink_hears_nothing(task_manager: TaskManager) -> None:
    """After unsubscribing, even twice, a sink gets no more events and the others get all."""
    gone: list[TaskEvent] = []
    stays: list[TaskEvent] = []
    unsubscribe = task_manager.subscribe(gone.append)
    task_manager.subscribe(stays.append)
    unsubscribe()
    unsubscribe()
    await task_manager.submit(int, wait=True)
    assert (kinds(gone), kinds(stays)) == ([], ["submitted", "started", "completed"])


async def test_a_sink_hears_only_of_the_kinds_that_it_asked_for(task_manager: TaskManager) -> None:
    """A sink with kinds gets only those; another sink gets all events."""
    some: list[TaskEvent] = []
    everything: list[TaskEvent] = []
    task_manager.subscribe(some.append, kinds=["completed", "submitted"])
    task_manager.subscribe(everything.append)
    await task_manager.submit(int, wait=True)
    assert kinds(some) == ["submitted", "completed"]
    assert kinds(everything) == ["submitted", "started", "completed"]


async def test_a_sink_that_is_there_twice_is_taken_off_once(task_manager: TaskManager) -> None:
    """A function can be subscribed twice, and unsubscribing one leaves the other."""
    events: list[TaskEvent] = []
    first = task_manager.subscribe(events.append, kinds={"submitted"})
    task_manager.subscribe(events.append)
    first()
    first()
    await task_manager.submit(int, wait=True)
    assert kinds(events) == ["submitted", "started", "completed"]


# -- reasons


async def test_a_coroutine_that_cancels_itself(task_manager: TaskManager) -> None:
    """The reason of a coroutine that cancels its own asyncio task says just that."""

    async def body() -> None:
        own = asyncio.current_task()
        assert own is not None
        own.cancel()
        await asyncio.Event().wait()

    task_id = await task_manager.submit(body)
    with pytest.raises(TaskCancelledError, match=CANCELLED):
        await task_manager.get_result(task_id)
    task = await task_manager.get_task(task_id)
    assert task is not None
    assert task.reason == "its asyncio task was cancelled"
    assert not task.cancel_requested


async def test_a_coroutine_whose_awaiter_is_cancelled(task_manager: TaskManager) -> None:
    """The reason of an in-place task says that its awaiting coroutine was cancelled."""
    started = asyncio.Event()

    @async_task
    async def body() -> None:
        started.set()
        await asyncio.Event().wait()

    awaiter = asyncio.ensure_future(body())
    await started.wait()
    awaiter.cancel()
    with pytest.raises(asyncio.CancelledError, match=r"^$"):
        await awaiter
    (task,) = task_manager.get_all_tasks().values()
    assert (task["status"], task["reason"]) == (
        "cancelled",
        "the coroutine that awaited it was cancelled",
    )
