"""What happens inside a task and to those who wait for it: context, hooks, events, waits."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
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
from framework._logging import install_task_ids
from framework.exceptions import DeadlockError
from framework.protocols import TaskEvent
from framework.testing import override_framework
from tests.framework.clocks import ManualClock

PATIENCE = 10.0
"""Real seconds after which a wait for another thread is a failure."""

user: ContextVar[str] = ContextVar("user", default="nobody")

Body = Callable[[], Any]


async def reached(event: threading.Event) -> None:
    """Wait for an event of a thread without blocking the loop."""
    assert await asyncio.to_thread(event.wait, PATIENCE)


def in_thread(body: Body) -> Body:
    """Return *body* as a function for the pool."""

    def thread_task() -> Any:
        return body()

    return thread_task


def on_loop(body: Body) -> Body:
    """Return *body* as a function for the loop."""

    async def coroutine_task() -> Any:
        return body()

    return coroutine_task


async def run_submitted(manager: TaskManager, fn: Body) -> Any:
    """Run *fn* as a task of its own."""
    return await manager.submit(fn, wait=True)


async def run_awaited(manager: TaskManager, fn: Body) -> Any:
    """Run *fn* as an awaited task, which for a coroutine is in place."""
    return await async_task(fn)()


Run = Callable[[TaskManager, Body], Awaitable[Any]]

EVERY_KIND = pytest.mark.parametrize(
    ("make", "run"),
    [
        pytest.param(in_thread, run_submitted, id="thread"),
        pytest.param(on_loop, run_submitted, id="loop"),
        pytest.param(in_thread, run_awaited, id="awaited-thread"),
        pytest.param(on_loop, run_awaited, id="in-place"),
    ],
)


def fail_with(error: BaseException) -> Body:
    """Return a function that raises *error*."""

    def fail() -> None:
        raise error

    return fail


def kinds(events: list[TaskEvent]) -> list[str]:
    """Return the kinds of *events*, in order."""
    return [event.kind for event in events]


# -- context


@EVERY_KIND
async def test_context_is_visible(task_manager: TaskManager, make: Any, run: Run) -> None:
    """A task sees the context variables of whoever submitted it."""
    user.set("ada")
    assert await run(task_manager, make(user.get)) == "ada"


@EVERY_KIND
async def test_context_does_not_leak_back(task_manager: TaskManager, make: Any, run: Run) -> None:
    """What a task sets in its context is not seen by whoever submitted it."""
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
    """Two tasks that run on one thread after another see nothing of each other's context."""
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


@EVERY_KIND
async def test_log_records_carry_the_task_id(
    task_manager: TaskManager, make: Any, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Log records made inside a task have its id as task_id, others have None."""
    install_task_ids()
    logger = logging.getLogger("user")
    seen: list[str] = []

    def body() -> None:
        task = current_task()
        assert task is not None
        seen.append(task.task_id)
        logger.warning("inside")

    with caplog.at_level(logging.WARNING, "user"):
        await run(task_manager, make(body))
        logger.warning("outside")
    ids = [getattr(record, "task_id", "missing") for record in caplog.records]
    assert ids == [*seen, None]


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
    """A thread task that gives way when asked ends CANCELLED, though the cancel said False."""
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
    with pytest.raises(TaskCancelledError):
        await task_manager.get_result(task_id)
    task = await task_manager.get_task(task_id)
    assert task is not None
    assert (task.status, task.cancel_requested) == (TaskStatus.CANCELLED, True)


async def test_a_thread_task_that_does_not_give_way_completes(
    task_manager: TaskManager,
) -> None:
    """A thread task that ignores a cancellation is COMPLETED, with the request on record."""
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


async def test_check_cancelled_after_the_limit(
    task_manager: TaskManager, manual_clock: ManualClock
) -> None:
    """After the limit check_cancelled() raises, and the task stays TIMEOUT."""
    started, passed = threading.Event(), threading.Event()
    raised: list[BaseException] = []
    left = threading.Event()

    def body() -> None:
        task = current_task()
        assert task is not None
        started.set()
        assert passed.wait(PATIENCE)
        try:
            task.check_cancelled()
        except TaskCancelledError as error:
            raised.append(error)
        left.set()

    task_id = await task_manager.submit(body, timeout=5.0)
    await reached(started)
    manual_clock.advance(5.0)
    passed.set()
    await reached(left)
    task = await task_manager.get_task(task_id)
    assert task is not None
    assert (task.status, len(raised)) == (TaskStatus.TIMEOUT, 1)
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
    with pytest.raises(KeyError):
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


async def test_on_error_at_a_limit(task_manager: TaskManager, manual_clock: ManualClock) -> None:
    """on_error is called at the limit, while the thread still runs, on a thread of its own."""
    started, gate, called = threading.Event(), threading.Event(), threading.Event()
    told: list[tuple[TaskStatus, bool, int]] = []

    def hook(task: Task) -> None:
        told.append((task.status, task.still_running, threading.get_ident()))
        called.set()

    def body() -> None:
        started.set()
        gate.wait(PATIENCE)

    await task_manager.submit(body, timeout=1.0, on_error=hook)
    await reached(started)
    manual_clock.advance(1.0)
    await reached(called)
    gate.set()
    (one,) = told
    assert one[:2] == (TaskStatus.TIMEOUT, True)
    assert one[2] != threading.get_ident()


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
    """What a hook raises is logged and changes neither the task nor the next one."""
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
    """A sink hears submitted, started, progress and completed in this order."""
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

    with pytest.raises(KeyError):
        await task_manager.get_result(flaky())
    assert kinds(events) == ["submitted", "started", "retrying", "failed"]
    assert [event.attempt for event in events] == [0, 1, 1, 2]


async def test_events_of_a_late_result(
    task_manager: TaskManager, manual_clock: ManualClock
) -> None:
    """After timed_out the thread's late result is one event of its own and no second end."""
    events: list[TaskEvent] = []
    late = threading.Event()

    def sink(event: TaskEvent) -> None:
        events.append(event)
        if event.kind == "late_result":
            late.set()

    task_manager.subscribe(sink)
    started, gate = threading.Event(), threading.Event()

    def body() -> None:
        started.set()
        gate.wait(PATIENCE)

    task_id = await task_manager.submit(body, timeout=1.0)
    await reached(started)
    manual_clock.advance(1.0)
    gate.set()
    await reached(late)
    assert kinds(events) == ["submitted", "started", "timed_out", "late_result"]
    with pytest.raises(TaskTimeoutError):
        await task_manager.get_result(task_id)
    assert task_manager.get_stats()["late_results"] == 1


async def test_a_sink_that_raises_is_logged_and_others_hear(
    task_manager: TaskManager, caplog: pytest.LogCaptureFixture
) -> None:
    """A sink that raises, even SystemExit, is logged for each event; the next one hears all."""
    events: list[TaskEvent] = []
    task_manager.subscribe(lambda _: sys.exit(3))
    task_manager.subscribe(events.append)
    assert await task_manager.submit(lambda: 7, wait=True) == 7
    assert kinds(events) == ["submitted", "started", "completed"]
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3


async def test_an_unsubscribed_sink_hears_nothing(task_manager: TaskManager) -> None:
    """After unsubscribing, twice even, a sink hears nothing and the other one everything."""
    gone: list[TaskEvent] = []
    stays: list[TaskEvent] = []
    unsubscribe = task_manager.subscribe(gone.append)
    task_manager.subscribe(stays.append)
    unsubscribe()
    unsubscribe()
    await task_manager.submit(int, wait=True)
    assert (kinds(gone), kinds(stays)) == ([], ["submitted", "started", "completed"])


# -- failures that nobody reads


async def failed_task(manager: TaskManager) -> tuple[str, int]:
    """Let a task fail without reading its error; return its id and the submitting line."""
    ended = threading.Event()
    manager.subscribe(lambda event: ended.set() if event.kind == "failed" else None)
    line = sys._getframe().f_lineno + 1
    task_id = manager.submit_nowait(fail_with(KeyError("lost")))
    await reached(ended)
    return task_id, line


async def test_an_unread_failure_is_logged_once_with_its_origin(
    manual_clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure nobody read is logged at ERROR when it is evicted, and not again at the end."""
    with override_framework(clock=manual_clock) as manager:
        task_id, line = await failed_task(manager)
        assert manager.cleanup_completed_tasks(0) == 1
    (record,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert record.name == "asyncframe"
    assert task_id in record.getMessage()
    assert f"{__file__}:{line} in failed_task" in record.getMessage()


async def test_an_unread_failure_is_logged_at_the_end(
    manual_clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure that is still kept and unread when the framework stops is logged then."""
    with override_framework(clock=manual_clock) as manager:
        task_id, _ = await failed_task(manager)
        manager.get_all_tasks()
        before = list(caplog.records)
    assert before == []
    assert [task_id in record.getMessage() for record in caplog.records] == [True]


async def test_a_read_failure_is_not_logged(
    manual_clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure whose error was read through a snapshot is not logged as unread."""
    with override_framework(clock=manual_clock) as manager:
        task_id, _ = await failed_task(manager)
        task = await manager.get_task(task_id)
        assert task is not None
        assert isinstance(task.error, KeyError)
    assert caplog.records == []


# -- driven in place


class InPlace:
    """An in-place task that waits, in a task of its own that awaits it."""

    def __init__(self, manager: TaskManager, *, timeout: float | None = None) -> None:
        self.manager = manager
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        self.task_id = ""
        self.saw: BaseException | None = None
        self.swallow = False
        self.clean_up: asyncio.Event | None = None
        self.awaiter: asyncio.Task[Any] | None = None
        self._body = async_task(timeout=timeout)(self._run)

    async def start(self) -> None:
        """Begin to await the body, and wait until it runs."""
        self.awaiter = asyncio.create_task(self._await())
        await self.started.wait()

    async def _await(self) -> Any:
        try:
            return await self._body()
        except Exception as error:
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            return error

    async def _run(self) -> str:
        task = current_task()
        assert task is not None
        self.task_id = task.task_id
        self.started.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError as error:
            self.saw = error
            if self.clean_up is not None:
                await self.clean_up.wait()
            if not self.swallow:
                raise
        return "done"

    async def status(self) -> TaskStatus:
        """Return the task's status now."""
        task = await self.manager.get_task(self.task_id)
        assert task is not None
        return task.status

    async def answer(self) -> Any:
        """Return what the awaiter got, an error included."""
        assert self.awaiter is not None
        return await self.awaiter


async def test_in_place_runs_in_the_awaiting_task(task_manager: TaskManager) -> None:
    """The body of an awaited async task runs inside the asyncio task that awaits it."""

    @async_task
    async def body() -> asyncio.Task[Any] | None:
        return asyncio.current_task()

    assert await body() is asyncio.current_task()


async def test_cancelling_in_place_spares_the_awaiter(task_manager: TaskManager) -> None:
    """cancel_task() of an in-place body raises TaskCancelledError to an awaiter that goes on."""
    one = InPlace(task_manager)
    await one.start()
    assert await task_manager.cancel_task(one.task_id) is True
    assert isinstance(await one.answer(), TaskCancelledError)
    assert isinstance(one.saw, asyncio.CancelledError)
    assert await one.status() is TaskStatus.CANCELLED


async def test_cancelling_in_place_a_body_that_returns_all_the_same(
    task_manager: TaskManager,
) -> None:
    """An in-place body that swallows cancel_task() and returns is COMPLETED, and not cancelled."""
    one = InPlace(task_manager)
    one.swallow = True
    await one.start()
    assert await task_manager.cancel_task(one.task_id) is False
    assert await one.answer() == "done"
    assert await one.status() is TaskStatus.COMPLETED


async def test_cancelling_the_awaiter_cancels_in_place(task_manager: TaskManager) -> None:
    """Cancelling whoever awaits an in-place body cancels it, and the awaiter is cancelled."""
    one = InPlace(task_manager)
    await one.start()
    assert one.awaiter is not None
    one.awaiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one.answer()
    assert one.awaiter.cancelled()
    assert await one.status() is TaskStatus.CANCELLED


async def test_a_timeout_around_an_in_place_body(task_manager: TaskManager) -> None:
    """asyncio.timeout() around an in-place body gives its own TimeoutError; it is CANCELLED."""
    ids: list[str] = []

    @async_task
    async def body() -> None:
        task = current_task()
        assert task is not None
        ids.append(task.task_id)
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0):
            await body()
    assert not isinstance(caught.value, TaskTimeoutError)
    task = await task_manager.get_task(ids[0])
    assert task is not None
    assert task.status is TaskStatus.CANCELLED


async def test_an_in_place_body_that_swallows_its_awaiters_cancellation(
    task_manager: TaskManager,
) -> None:
    """A body that swallows its awaiter's cancellation and returns is COMPLETED, as plainly."""
    one = InPlace(task_manager)
    one.swallow = True
    await one.start()
    assert one.awaiter is not None
    one.awaiter.cancel()
    assert await one.answer() == "done"
    assert await one.status() is TaskStatus.COMPLETED


async def test_the_limit_in_place(task_manager: TaskManager, manual_clock: ManualClock) -> None:
    """Over its limit others hear at once, the direct awaiter when the body lets go."""
    one = InPlace(task_manager, timeout=5.0)
    one.clean_up = asyncio.Event()
    await one.start()
    other = asyncio.create_task(task_manager.get_result(one.task_id))
    manual_clock.advance(5.0)
    with pytest.raises(TaskTimeoutError):
        await other
    assert one.awaiter is not None
    assert not one.awaiter.done()
    one.clean_up.set()
    assert isinstance(await one.answer(), TaskTimeoutError)
    assert await one.status() is TaskStatus.TIMEOUT


async def test_the_limit_in_place_of_a_body_that_returns_late(
    task_manager: TaskManager, manual_clock: ManualClock
) -> None:
    """A body that returns after its limit gives its awaiter the error and not the result."""
    one = InPlace(task_manager, timeout=5.0)
    one.swallow = True
    await one.start()
    manual_clock.advance(5.0)
    assert isinstance(await one.answer(), TaskTimeoutError)
    assert task_manager.get_stats()["late_results"] == 1


@pytest.mark.parametrize("outer_first", [True, False])
async def test_cancelled_from_both_sides(task_manager: TaskManager, outer_first: bool) -> None:
    """An awaiter that is cancelled together with its body ends cancelled, in either order."""
    one = InPlace(task_manager)
    await one.start()
    assert one.awaiter is not None
    if outer_first:
        one.awaiter.cancel()
    cancelling = asyncio.create_task(task_manager.cancel_task(one.task_id))
    if not outer_first:
        # Its first step posts the cancellation, which is delivered in the turn after.
        asyncio.get_running_loop().call_soon(one.awaiter.cancel)
    await cancelling
    with pytest.raises(asyncio.CancelledError):
        await one.answer()
    assert await one.status() is TaskStatus.CANCELLED


@pytest.mark.parametrize("outer_first", [True, False])
async def test_over_the_limit_and_cancelled_at_once(
    task_manager: TaskManager, manual_clock: ManualClock, outer_first: bool
) -> None:
    """An awaiter cancelled in the same turn as the limit ends cancelled; the task is TIMEOUT."""
    one = InPlace(task_manager, timeout=5.0)
    await one.start()
    assert one.awaiter is not None
    if outer_first:
        one.awaiter.cancel()
    manual_clock.advance(5.0)
    if not outer_first:
        one.awaiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one.answer()
    assert await one.status() is TaskStatus.TIMEOUT


async def test_cancelling_the_inner_of_two_in_place(task_manager: TaskManager) -> None:
    """Cancelling an in-place body inside another one raises in the outer body, which goes on."""
    inner = InPlace(task_manager)

    @async_task
    async def outer() -> str:
        try:
            await inner._body()
        except TaskCancelledError:
            return "went on"
        return "not cancelled"

    waiting = asyncio.create_task(outer())
    await inner.started.wait()
    assert await task_manager.cancel_task(inner.task_id)
    assert await waiting == "went on"


async def test_cancelling_the_outer_of_two_in_place(task_manager: TaskManager) -> None:
    """Cancelling an in-place body cancels the one that it awaits in place as well."""
    inner = InPlace(task_manager)
    outer_id: list[str] = []

    @async_task
    async def outer() -> None:
        task = current_task()
        assert task is not None
        outer_id.append(task.task_id)
        await inner._body()

    waiting = asyncio.create_task(outer())
    await inner.started.wait()
    assert await task_manager.cancel_task(outer_id[0])
    with pytest.raises(TaskCancelledError) as caught:
        await waiting
    assert caught.value.task_id == outer_id[0]
    assert await inner.status() is TaskStatus.CANCELLED


async def test_cancelling_whoever_awaits_a_thread_task(task_manager: TaskManager) -> None:
    """Cancelling the awaiter of a sync async_task leaves its thread and its status alone."""
    started, gate = threading.Event(), threading.Event()
    ids: list[str] = []

    @async_task
    def body() -> int:
        task = current_task()
        assert task is not None
        ids.append(task.task_id)
        started.set()
        gate.wait(PATIENCE)
        return 7

    waiting = asyncio.create_task(body())
    await reached(started)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    task = await task_manager.get_task(ids[0])
    assert task is not None
    assert (task.status, task.cancel_requested) == (TaskStatus.RUNNING, False)
    gate.set()
    assert await task_manager.get_result(ids[0]) == 7


# -- tasks that wait for tasks


@pytest.fixture
def one_thread(manual_clock: ManualClock) -> Any:
    """Give a manager whose pool has one thread."""
    pool = ThreadPoolExecutorEnhanced(1, clock=manual_clock)
    with override_framework(clock=manual_clock, pool=pool) as manager:
        yield manager
    pool.shutdown()


async def test_a_nested_wait_runs_inline(one_thread: TaskManager) -> None:
    """A task that waits for a queued task of its full pool runs it on its own thread."""

    def outer() -> tuple[int, int]:
        inner = one_thread.submit_nowait(threading.get_ident)
        return threading.get_ident(), one_thread.wait_result(inner)

    here, there = await one_thread.submit(outer, wait=True)
    assert here == there


async def test_a_nested_wait_inside_a_loop_of_its_own(one_thread: TaskManager) -> None:
    """A task may submit and await on a full pool from a loop that it runs itself."""

    def outer() -> int:
        async def main() -> int:
            async def on_this_loop() -> int:
                return 7

            # Its home is a loop elsewhere or none; without one it is this.
            return await one_thread.submit(on_this_loop, wait=True)

        return asyncio.run(main())

    assert await one_thread.submit(outer, wait=True) == 7


async def test_an_inline_task_has_its_own_identity(one_thread: TaskManager) -> None:
    """A task that is run inline is the current one while it runs, and then the outer again."""

    def name() -> str:
        task = current_task()
        assert task is not None
        return task.task_id

    def outer() -> list[str]:
        inner = one_thread.submit_nowait(name)
        return [name(), one_thread.wait_result(inner), name(), inner]

    before, inside, after, inner = await one_thread.submit(outer, wait=True)
    assert before == after != inside
    assert inside == inner


async def test_a_failing_inline_task_fails_alone(one_thread: TaskManager) -> None:
    """What a task run inline raises goes to who waits for it and ends that task only."""

    def outer() -> str:
        inner = one_thread.submit_nowait(fail_with(KeyError("inner")))
        try:
            one_thread.wait_result(inner)
        except KeyError:
            return "caught"
        return "nothing raised"

    assert await one_thread.submit(outer, wait=True) == "caught"


async def test_wait_result_on_a_loop_is_refused(task_manager: TaskManager) -> None:
    """wait_result() on the thread of a running loop raises and names what to use there."""
    task_id = await task_manager.submit(int)
    with pytest.raises(
        RuntimeError,
        match=r"^wait_result\(\) would block the event loop that runs on this thread: use "
        r"'await get_result\(task_id\)' here$",
    ):
        task_manager.wait_result(task_id)


class Waiting:
    """Tasks of any kind that wait for each other by name."""

    def __init__(self, manager: TaskManager) -> None:
        self.manager = manager
        self.ids: dict[str, str] = {}
        self.known = threading.Event()

    def thread(self, target: str) -> Body:
        """Return a thread task that waits for *target*."""

        def thread_task() -> Any:
            assert self.known.wait(PATIENCE)
            return self.manager.wait_result(self.ids[target])

        return thread_task

    def loop(self, target: str) -> Body:
        """Return a coroutine task that waits for *target*."""

        async def coroutine_task() -> Any:
            return await self.manager.get_result(self.ids[target])

        return coroutine_task

    async def run(self, **tasks: Body) -> list[Any]:
        """Submit tasks under their names; return what each ended with."""
        for name, body in tasks.items():
            self.ids[name] = await self.manager.submit(body)
        self.known.set()
        ends = (self.manager.get_result(self.ids[name]) for name in tasks)
        return await asyncio.gather(*ends, return_exceptions=True)


async def test_a_thread_task_that_waits_for_itself(task_manager: TaskManager) -> None:
    """A thread task that waits for its own id gets DeadlockError."""
    waiting = Waiting(task_manager)
    (error,) = await waiting.run(a=waiting.thread("a"))
    assert isinstance(error, DeadlockError)


async def test_a_coroutine_task_that_waits_for_itself(task_manager: TaskManager) -> None:
    """A coroutine task that waits for its own id gets DeadlockError."""
    waiting = Waiting(task_manager)
    (error,) = await waiting.run(a=waiting.loop("a"))
    assert isinstance(error, DeadlockError)


@pytest.mark.parametrize("first", ["thread", "loop"])
@pytest.mark.parametrize("second", ["thread", "loop"])
async def test_two_tasks_that_wait_for_each_other(
    task_manager: TaskManager, first: str, second: str
) -> None:
    """Two tasks of any kind that wait for each other both end with DeadlockError."""
    waiting = Waiting(task_manager)
    errors = await waiting.run(
        a=getattr(waiting, first)("b"),
        b=getattr(waiting, second)("a"),
    )
    assert [type(error) for error in errors] == [DeadlockError, DeadlockError]


async def test_a_circle_of_three(task_manager: TaskManager) -> None:
    """A circle of threads and a coroutine is found, and the error names all of it."""
    waiting = Waiting(task_manager)
    errors = await waiting.run(a=waiting.thread("b"), b=waiting.loop("c"), c=waiting.thread("a"))
    assert {type(error) for error in errors} == {DeadlockError}
    (chain,) = {error.chain for error in errors if isinstance(error, DeadlockError)}
    assert len(chain) == 4
    assert chain[0] == chain[-1]


async def test_an_in_place_task_that_waits_for_what_awaits_it(
    task_manager: TaskManager,
) -> None:
    """An in-place body that waits for the task which awaits it gets DeadlockError."""
    outer_id: list[str] = []

    @async_task
    async def inner() -> Any:
        return await task_manager.get_result(outer_id[0])

    async def outer() -> Any:
        return await inner()

    outer_id.append(await task_manager.submit(outer))
    with pytest.raises(DeadlockError):
        await task_manager.get_result(outer_id[0])


async def test_a_wait_with_a_timeout_is_not_refused(
    task_manager: TaskManager, manual_clock: ManualClock
) -> None:
    """A task that waits for itself with a timeout gets a plain TimeoutError when it passes."""

    async def body() -> Any:
        task = current_task()
        assert task is not None
        return await task_manager.get_result(task.task_id, timeout=5.0)

    task_id = await task_manager.submit(body)
    waiting = asyncio.create_task(task_manager.get_result(task_id))
    await asyncio.to_thread(manual_clock.wait_for_timers)
    manual_clock.advance(5.0)
    with pytest.raises(TimeoutError) as caught:
        await waiting
    assert type(caught.value) is TimeoutError


async def test_a_coroutine_beside_a_task_does_not_hold_it_up(
    task_manager: TaskManager,
) -> None:
    """A coroutine that a task starts beside itself may wait for that task."""
    beside: list[asyncio.Task[Any]] = []

    async def body() -> str:
        task = current_task()
        assert task is not None
        beside.append(asyncio.create_task(task_manager.get_result(task.task_id)))
        return "ended"

    assert await task_manager.submit(body, wait=True) == "ended"
    assert await beside[0] == "ended"


async def test_a_wait_beside_others_in_a_tasks_own_loop_is_not_refused(
    task_manager: TaskManager,
) -> None:
    """A wait that its task may give up again, in a loop of its own, is no deadlock."""
    ids: dict[str, str] = {}
    known, waits = threading.Event(), threading.Event()

    def outer() -> str:
        async def main() -> str:
            side = asyncio.create_task(task_manager.get_result(ids["other"]))
            assert await asyncio.to_thread(waits.wait, PATIENCE)
            side.cancel()
            with pytest.raises(asyncio.CancelledError):
                await side
            return "gave up"

        assert known.wait(PATIENCE)
        return asyncio.run(main())

    async def other() -> Any:
        asyncio.get_running_loop().call_soon(waits.set)
        return await task_manager.get_result(ids["outer"])

    ids["outer"] = await task_manager.submit(outer)
    ids["other"] = await task_manager.submit(other)
    known.set()
    assert await task_manager.get_result(ids["other"]) == "gave up"
