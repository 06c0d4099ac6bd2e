"""Every public name as type checkers see it; checked by mypy and pyright, never run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Any, assert_type

from fastapi import APIRouter, Depends, FastAPI, Request, Response

from framework import (
    CancelAnswer,
    CancelOutcome,
    DuplicateTaskError,
    FrameworkError,
    FrameworkNotStartedError,
    MapItem,
    QueueFullError,
    RateLimitExceededError,
    ScheduleInfo,
    StepInfo,
    Task,
    TaskCancelledError,
    TaskFailedError,
    TaskId,
    TaskInterruptedError,
    TaskManager,
    TaskMap,
    TaskNotFoundError,
    TaskPage,
    TaskStatus,
    TaskTimeoutError,
    ThreadPoolExecutorEnhanced,
    async_task,
    background_task,
    current_task,
    get_task_manager,
    get_thread_pool,
    retry_task,
    scheduled_task,
    setup_async_framework,
    throttled_task,
)
from framework.http import Accepted, Problem, TaskResponse, TaskView, health_router, task_router
from framework.lifespan import FrameworkLifespan
from framework.protocols import Clock, EventSink, TaskEvent, Telemetry
from framework.steps import Message, sleep, step
from framework.telemetry.opentelemetry import OpenTelemetrySink
from framework.telemetry.prometheus import PrometheusSink
from framework.testing import override_framework
from pytest_asyncframe.faults import Fault, FaultPlan, Firing, InjectedError
from pytest_asyncframe.histories import History, Operation
from pytest_asyncframe.probe import Probe


def length(text: str, factor: int = 1) -> int:
    """Stand for a sync function."""
    return len(text) * factor


async def async_length(text: str, *, factor: int = 1) -> int:
    """Stand for a coroutine function."""
    return len(text) * factor


def anything(text: str) -> Any:
    """Stand for a function whose result has no type."""
    return text


# -- background_task


@background_task
def bare_background(text: str) -> int:
    """Be decorated bare."""
    return len(text)


@background_task(
    timeout=30, description="a text", name="called", on_restart="requeue", idempotent=True
)
def called_background(text: str, factor: int = 2) -> dict[str, int]:
    """Be decorated with options."""
    return {text: factor}


@background_task
async def bare_async_background(text: str) -> int:
    """Be decorated bare, as a coroutine function."""
    return len(text)


@background_task(timeout=30)
async def called_async_background(text: str) -> list[str]:
    """Be decorated with options, as a coroutine function."""
    return [text]


def connection() -> Iterator[str]:
    """Open a connection."""
    yield "connection"


@background_task
def with_default(number: int, opened: str = Depends(connection)) -> int:
    """Count what a connection has."""
    return number + len(opened)


@background_task
async def with_annotation(
    number: int, opened: Annotated[str, Depends(connection)] = Depends()
) -> int:
    """Count what a connection has, on the loop."""
    return number + len(opened)


async def use_dependencies() -> None:
    """A call leaves dependencies out."""
    assert_type(with_default(1), TaskId[int])
    assert_type(with_annotation(1), TaskId[int])
    assert_type(await get_task_manager().submit(with_annotation, (1,)), TaskId[int])


async def use_background() -> None:
    """Call background tasks: each gives an id that knows the result's type."""
    manager = get_task_manager()
    assert_type(bare_background("a"), TaskId[int])
    assert_type(called_background("a", factor=3), TaskId[dict[str, int]])
    assert_type(bare_async_background("a"), TaskId[int])
    assert_type(called_async_background("a"), TaskId[list[str]])
    assert_type(await manager.get_result(bare_background("a")), int)
    assert_type(await manager.get_result(called_async_background("a"), timeout=60), list[str])
    assert_type(manager.wait_result(called_background("a")), dict[str, int])
    assert_type(await manager.wait(bare_background("a"), timeout=60), Task)
    assert_type(bare_background.options(timeout=5, delay=1.0)("a"), TaskId[int])
    assert_type(bare_background.fn("a"), int)
    assert_type(called_background.fn("a", factor=3), dict[str, int])
    assert_type(await called_async_background.fn("a"), list[str])
    assert_type(await manager.submit(bare_background.fn, args=("a",)), TaskId[int])
    assert_type(await manager.submit(called_async_background.fn, ("a",)), TaskId[list[str]])
    bare_background.options(timeout=5).fn(1)  # type: ignore[arg-type]  # and of what is undecorated
    await called_async_background.fn()  # type: ignore[call-arg]
    assert_type(background_task(anything)("a"), TaskId[Any])
    minute = timedelta(minutes=1)
    assert_type(await manager.get_result(bare_background("a"), timeout=minute), int)
    assert_type(bare_background.options(timeout=minute, delay=minute)("a"), TaskId[int])
    assert_type(called_async_background.options(name="other")("a"), TaskId[list[str]])
    assert_type(background_task(len)([1]), TaskId[int])
    assert_type(background_task(functools.partial(length, factor=2))("a"), TaskId[int])
    bare_background(1)  # type: ignore[arg-type]  # the arguments are checked
    bare_background()  # type: ignore[call-arg]  # and counted
    plain: str = bare_background("a")
    plain.encode()

    def hook(task: Task) -> None:
        assert_type(task.task_id, TaskId[Any])

    assert_type(
        bare_background.options(
            timeout=None, description="a", name="b", delay=1.0, task_id="c", on_complete=hook,
            on_error=print,
        )("a"),
        TaskId[int],
    )  # fmt: skip
    assert_type(
        bare_background.options(
            unique=lambda text: text, on_duplicate="raise", max_running=1, key=lambda text: text
        )("a"),
        TaskId[int],
    )
    assert_type(await manager.submit(length, ("a",), unique=True, max_running=1), TaskId[int])
    first = bare_background("a")
    assert_type(bare_background.options(after=first)("b"), TaskId[int])
    assert_type(
        await manager.submit(length, ("a",), after=[first, "b"], after_failure="run"), TaskId[int]
    )
    bare_background.options(after=5)  # type: ignore[arg-type]  # no id
    bare_background.options(after_failure="stop")  # type: ignore[arg-type]  # none of the two
    background_task(on_duplicate="skip")  # type: ignore[call-overload]  # none of the three
    background_task(limit=5)  # type: ignore[call-overload]  # an option that does not exist
    background_task(timeout="5")  # type: ignore[call-overload]  # an option of the wrong type
    background_task(delay=5)  # type: ignore[call-overload]  # an option of copies alone
    bare_background.options(limit=5)  # type: ignore[call-arg]  # an option that does not exist
    bare_background.options(delay="5")  # type: ignore[arg-type]  # an option of the wrong type
    bare_background.options(on_error=length)  # type: ignore[arg-type]  # a hook takes a task


# -- async_task


@async_task
def bare_awaited(text: str) -> int:
    """Be decorated bare."""
    return len(text)


@async_task(timeout=30)
def called_awaited(text: str) -> list[str]:
    """Be decorated with options."""
    return [text]


@async_task
async def bare_async_awaited(text: str) -> int:
    """Be decorated bare, as a coroutine function."""
    return len(text)


@async_task(timeout=10, description="a text")
async def called_async_awaited(text: str) -> list[str]:
    """Be decorated with options, as a coroutine function."""
    return [text]


async def use_awaited() -> None:
    """Await tasks: each gives the result."""
    assert_type(await bare_awaited("a"), int)
    assert_type(bare_awaited.fn("a"), int)
    assert_type(await called_async_awaited.fn("a"), list[str])
    bare_awaited.fn(1)  # type: ignore[arg-type]  # and of what is undecorated
    assert_type(await called_awaited("a"), list[str])
    assert_type(await bare_async_awaited("a"), int)
    assert_type(await called_async_awaited("a"), list[str])
    assert_type(await bare_awaited.options(timeout=5)("a"), int)
    await assert_type(bare_async_awaited("a"), Coroutine[Any, Any, int])
    await bare_awaited(1)  # type: ignore[arg-type]  # the arguments are checked
    async_task(limit=5)  # type: ignore[call-overload]  # an option that does not exist
    bare_awaited.options(limit=5)  # type: ignore[call-arg]  # an option that does not exist


# -- throttled_task and retry_task


@throttled_task(rate_limit=5)
def throttled(text: str) -> int:
    """Be throttled."""
    return len(text)


@throttled_task(
    rate_limit=5, time_window=60, when_limited="wait", key=lambda text: text, shared=False
)
async def async_throttled(text: str) -> int:
    """Be throttled, as a coroutine function."""
    return len(text)


@retry_task
def bare_retried(text: str) -> int:
    """Be retried."""
    return len(text)


@retry_task(max_retries=3, retry_delay=1, backoff=2, max_delay=9, jitter=0.1, exceptions=OSError)
def called_retried(text: str) -> int:
    """Be retried, with options."""
    return len(text)


@retry_task(exceptions=(OSError, ValueError))
async def async_retried(text: str) -> int:
    """Be retried, as a coroutine function."""
    return len(text)


@background_task(timeout=30)
@retry_task(max_retries=3)
@throttled_task(rate_limit=5)
def stacked(text: str) -> int:
    """Be all of it."""
    return len(text)


@async_task
@retry_task
@throttled_task(rate_limit=5)
async def async_stacked(text: str) -> int:
    """Be all of it, as a coroutine function."""
    return len(text)


async def use_policies() -> None:
    """Call throttled and retried functions: they return what they always did."""
    assert_type(throttled("a"), int)
    assert_type(await async_throttled("a"), int)
    assert_type(throttled.options(rate_limit=6, when_limited="wait")("a"), int)
    assert_type(bare_retried("a"), int)
    assert_type(bare_retried.fn("a"), int)
    assert_type(await async_throttled.fn("a"), int)
    assert_type(stacked.fn("a"), int)
    assert_type(await async_stacked.fn("a"), int)
    assert_type(called_retried("a"), int)
    assert_type(await async_retried("a"), int)
    assert_type(bare_retried.options(max_retries=1)("a"), int)
    assert_type(stacked("a"), TaskId[int])
    assert_type(await async_stacked("a"), int)
    throttled(1)  # type: ignore[arg-type]  # the arguments are checked
    bare_retried()  # type: ignore[call-arg]  # and counted
    throttled_task(rate_limit=5, when_limited="block")  # type: ignore[arg-type]  # and so is the word
    throttled_task(rate_limit=5, window=60)  # type: ignore[call-arg]  # an option that does not exist
    throttled.options(time_window="60")  # type: ignore[arg-type]  # an option of the wrong type
    throttled.options(window=60)  # type: ignore[call-arg]  # an option that does not exist
    retry_task(retries=3)  # type: ignore[call-overload]  # an option that does not exist
    retry_task(max_retries="3")  # type: ignore[call-overload]  # an option of the wrong type
    bare_retried.options(retries=3)  # type: ignore[call-arg]  # an option that does not exist
    bare_retried.options(
        max_retries=1, retry_delay=0, backoff=2, max_delay=None, jitter=0.5, exceptions=[OSError]
    )


# -- scheduled_task


@scheduled_task(every=60, jitter=0.1, run_at_start=True, name="beat")
def beat() -> str:
    """Be run again and again."""
    return "alive"


@scheduled_task(60)
async def async_beat() -> str:
    """Be run again and again, as a coroutine function."""
    return "alive"


@scheduled_task(cron="0 3 * * *", tz="Europe/Berlin", missed="all", timeout=60, priority="low")
@retry_task(max_retries=2)
def nightly() -> int:
    """Be run each night."""
    return 1


@scheduled_task(at=time(3), tz=UTC, each_process=True)
def daily() -> None:
    """Be run each day."""


@scheduled_task(at="00:30")
def of_the_day(due: datetime) -> str:
    """Be run each day, and be told for which."""
    return due.isoformat()


@step
async def charge(order: int) -> str:
    """A step."""
    return f"payment {order}"


@step(key=lambda order: order, once=True)
def ship(order: int) -> bytes:
    """A step with options, on a thread."""
    return b"parcel" * order


approval = Message("approval", bool)


async def use_steps(manager: TaskManager) -> None:
    """Call steps, sleep, and send and receive messages."""
    assert_type(await charge(1), str)
    assert_type(ship(1), bytes)
    assert_type(await approval.receive(), bool)
    assert_type(await approval.receive(timeout=5), bool | None)
    assert_type(approval.receive_sync(timeout=None), bool | None)
    assert_type(await approval.send("id", True), None)
    assert_type(await sleep(5), None)
    assert_type(await manager.get_steps("id"), list[StepInfo])
    await charge("one")  # type: ignore[arg-type]  # not a number
    await approval.send("id", "yes")  # type: ignore[arg-type]  # not what is sent
    step(once="yes")  # type: ignore[call-overload]  # not a flag


async def use_schedules(manager: TaskManager) -> None:
    """Call scheduled functions, which run right here, and control their schedules."""
    assert_type(beat(), str)
    assert_type(await async_beat(), str)
    assert_type(nightly(), int)
    assert_type(of_the_day(datetime.now(UTC)), str)
    assert_type(manager.schedules.snapshot(), list[ScheduleInfo])
    assert_type(await manager.schedules.get_all(), list[ScheduleInfo])
    assert_type(await manager.schedules.trigger("beat"), TaskId[Any])
    assert_type(await manager.schedules.pause("beat"), None)
    scheduled_task(timedelta(hours=1), missed="never")  # type: ignore[arg-type]  # not a policy
    scheduled_task(at=3)  # type: ignore[arg-type]  # not a time
    scheduled_task(60, minutes=5)  # type: ignore[call-arg]  # an option that does not exist
    scheduled_task(every=60)(length)  # type: ignore[arg-type]  # it cannot be called without arguments


# -- methods


class Service:
    """Methods of every kind that type checkers allow."""

    @background_task
    def method(self, text: str) -> int:
        """Be a method."""
        return len(text)

    @background_task(timeout=5)
    async def async_method(self, text: str) -> int:
        """Be a method, as a coroutine function."""
        return len(text)

    @async_task
    async def awaited(self, text: str) -> int:
        """Be an awaited method."""
        return len(text)

    @retry_task
    def retried(self, text: str) -> int:
        """Be a retried method."""
        return len(text)

    @throttled_task(rate_limit=5)
    def limited(self, text: str) -> int:
        """Be a throttled method."""
        return len(text)

    @staticmethod
    @background_task
    def static(text: str) -> int:
        """Be a static method, called through the class; type checkers bind it otherwise.

        mypy refuses the same above a class method. Both work when they are run.
        """
        return len(text)


async def use_methods(service: Service) -> None:
    """Call methods through the instance and through the class."""
    assert_type(service.method("a"), TaskId[int])
    assert_type(service.async_method("a"), TaskId[int])
    assert_type(await service.awaited("a"), int)
    assert_type(service.retried("a"), int)
    assert_type(service.limited("a"), int)
    assert_type(Service.method(service, "a"), TaskId[int])
    assert_type(Service.method.options(timeout=5)(service, "a"), TaskId[int])
    assert_type(Service.static("a"), TaskId[int])
    assert_type(Service.method.fn(service, "a"), int)
    assert_type(service.method.fn(service, "a"), int)
    assert_type(await service.async_method.fn(service, "a"), int)
    assert_type(await service.awaited.fn(service, "a"), int)
    assert_type(service.retried.fn(service, "a"), int)
    assert_type(service.limited.fn(service, "a"), int)
    assert_type(Service.static.fn("a"), int)
    service.method(1)  # type: ignore[arg-type]  # the arguments are checked
    service.method.fn("a")  # type: ignore[call-arg, arg-type]  # the instance is missing


# -- TaskManager


async def use_many() -> None:
    """Wait for several tasks, and run one function for many items."""
    manager = get_task_manager()
    ids = [await manager.submit(async_length, ("a",))]
    assert_type(await manager.gather(ids), list[int])
    assert_type(await manager.gather(ids, return_exceptions=True), list[int | BaseException])
    assert_type(await manager.gather(["a"]), list[Any])
    assert_type(await manager.submit_many(async_length, ["a"]), list[TaskId[int]])
    assert_type(await manager.submit_many(bare_background, ["a"], timeout=1), list[TaskId[int]])
    assert_type(await manager.submit_many(len, ["a"]), list[TaskId[int]])
    assert_type(manager.map(async_length, ["a"]), TaskMap[str, int])
    assert_type(manager.map(bare_background, ["a"], max_running=2), TaskMap[str, int])
    assert_type(await manager.map(len, ["a"], priority="high"), list[int])
    async for one in manager.map(len, ["a"]):
        assert_type(one, MapItem[str, int])
        assert_type(one.result(), int)


async def use_failures(manager: TaskManager) -> None:
    """List what failed, and run it again."""
    page = await manager.failed(3_600, "send", limit=10)
    assert_type(page, TaskPage)
    await manager.failed(since=timedelta(hours=1), after=page.next)
    await manager.failed(since=datetime.now(UTC))
    task_id = manager.submit_nowait(
        length, ("a",), on_error="silent", keep_arguments=False, check_arguments=False
    )
    assert_type(await manager.run_again(task_id), TaskId[int])
    assert_type(await manager.run_again("7"), TaskId[Any])
    bare_background.options(on_error="loud")  # type: ignore[arg-type]  # no such word


async def use_lists(manager: TaskManager) -> None:
    """List tasks by all that there is to choose by."""
    page = await manager.list_tasks(status="failed", name="send", limit=10, oldest_first=True)
    assert_type(page, TaskPage)
    assert_type(page.tasks, list[Task])
    assert_type(page.next, str | None)
    assert_type(await manager.list_tasks(status=TaskStatus.FAILED, after=page.next), TaskPage)
    some = await manager.list_tasks(
        status=("failed", TaskStatus.TIMEOUT), owner="ann", search="mail", offset=20
    )
    assert_type(some.total, int)
    assert_type(some.tasks[0].owner, str | None)
    assert_type(some.tasks[0].meta, dict[str, str | int | float | bool | None])
    assert_type(await manager.list_tasks(meta={"tenant_id": 7}), TaskPage)
    shown: dict[str, Any] = dict(some.tasks[0].arguments)
    assert_type(shown, dict[str, Any])
    assert_type(
        manager.get_all_tasks(status={"failed"}, owner="ann", search="mail", limit=5, offset=1),
        dict[str, dict[str, Any]],
    )


async def use_manager(sink: EventSink) -> None:
    """Use every method of the manager."""
    manager = get_task_manager()
    assert_type(manager, TaskManager)
    assert_type(await manager.submit(length, ("a",)), TaskId[int])
    assert_type(await manager.submit(length, ["a"], {"factor": 2}, wait=False), TaskId[int])
    assert_type(await manager.submit(length, args=("a",), wait=True), int)
    assert_type(await manager.submit(async_length, ("a",)), TaskId[int])
    assert_type(await manager.submit(async_length, ("a",), wait=True), int)
    assert_type(await manager.submit(func=length, args=("a",), timeout=5, delay=1.0), TaskId[int])
    assert_type(await manager.submit(called_background, ("a",)), TaskId[dict[str, int]])
    assert_type(await manager.submit(called_background, ("a",), wait=True), dict[str, int])
    assert_type(await manager.submit(bare_async_background, ("a",), wait=True), int)
    assert_type(await manager.submit(bare_async_awaited, ("a",), wait=True), int)
    assert_type(await manager.submit(bare_retried, ("a",), wait=True), int)
    assert_type(await manager.submit(async_retried, ("a",), wait=True), int)
    assert_type(await manager.submit(Service().method, ("a",), wait=True), int)
    assert_type(await manager.submit(Service().async_method, ("a",)), TaskId[int])
    assert_type(manager.submit_nowait(length, ("a",)), TaskId[int])
    assert_type(manager.submit_nowait(bare_background, ("a",)), TaskId[int])
    assert_type(manager.submit_nowait(async_length, ("a",), task_id="mine"), TaskId[int])
    assert_type(await manager.get_task("id"), Task | None)
    assert_type(await manager.get_result(await manager.submit(async_length, ("a",))), int)
    assert_type(manager.wait_result(manager.submit_nowait(length, ("a",)), timeout=60), int)
    assert_type(await manager.cancel_task("id", at_once=True), bool)
    assert_type(await manager.request_cancel("id", at_once=True), CancelAnswer)
    await use_lists(manager)
    assert_type(manager.cleanup_completed_tasks(), int)
    assert_type(manager.cleanup_completed_tasks(max_age=60), int)
    assert_type(manager.get_active_count(), int)
    assert_type(manager.get_stats(), dict[str, int])
    assert_type(manager.subscribe(sink), Callable[[], None])
    assert_type(manager.pool, ThreadPoolExecutorEnhanced)
    assert_type(manager.clock, Clock)
    for tasks in (
        manager.get_all_tasks(),
        manager.get_active_tasks(),
        manager.get_tasks_by_status(TaskStatus.FAILED),
    ):
        assert_type([str(fields["status"]) for fields in tasks.values()], list[str])

    def note(event: TaskEvent) -> None:
        assert_type(event.kind, str)
        assert_type(event.status, TaskStatus | None)

    manager.subscribe(note)

    def hook(task: Task) -> None:
        assert_type(task.task_id, TaskId[Any])

    manager.submit_nowait(length, ("a",), on_complete=hook, on_error=hook)
    manager.submit_nowait(
        length, ("a",), None, timeout=None, description=None, delay=0, task_id=None,
        on_complete=None, on_error=None,
    )  # fmt: skip
    manager.submit_nowait(length, ("a",), text="a")  # type: ignore[call-overload]  # no option
    manager.submit_nowait(length, ("a",), delay="5")  # type: ignore[call-overload]  # no number
    manager.submit_nowait(length, ("a",), wait=True)  # type: ignore[call-overload]  # it cannot wait


async def use_options_of_submit(manager: TaskManager, wait: bool) -> None:
    """Submit with every option, and with ``wait`` as a variable."""
    assert_type(
        await manager.submit(
            length, ("a",), {"factor": 2}, timeout=5, description="a", delay=0.5, task_id="b",
            on_complete=print, on_error=print, wait=True,
        ),
        int,
    )  # fmt: skip
    assert_type(await manager.submit(length, ("a",), wait=wait), TaskId[int] | int)
    assert_type(await manager.submit(async_length, ("a",), wait=wait), TaskId[int] | int)
    assert_type(await manager.submit(bare_background, ("a",), wait=wait), TaskId[int] | int)
    await manager.submit(length, ("a",), factor=2)  # type: ignore[call-overload]  # no option
    await manager.submit(length, ("a",), timeout="5")  # type: ignore[call-overload]  # no number
    await manager.submit(length, ("a",), wait="yes")  # type: ignore[call-overload]  # no flag


def use_answer(answer: CancelAnswer) -> None:
    """Look at every field of an answer."""
    assert_type(answer.outcome, CancelOutcome)
    assert_type(answer.why, str)


def use_task(task: Task) -> None:
    """Look at every field of a task."""
    assert_type(task.task_id, TaskId[Any])
    assert_type(task.name, str)
    assert_type(task.description, str)
    assert_type(task.status, TaskStatus)
    assert_type(task.status.is_final, bool)
    assert_type(task.created_at, datetime)
    assert_type(task.started_at, datetime | None)
    assert_type(task.ended_at, datetime | None)
    assert_type(task.duration, float | None)
    assert_type(task.queue_time, float | None)
    assert_type(task.attempts, int)
    assert_type(task.progress, float | None)
    assert_type(task.error, BaseException | None)
    assert_type(task.cancel_requested, bool)
    assert_type(task.still_running, bool)
    assert_type(task.reason, str)
    assert_type(task.explain(), str)
    assert_type(task.last_error, str | None)
    assert_type(task.origin, str | None)
    assert_type(current_task(), Task | None)
    answered: dict[str, object] = task.to_dict()  # dicts are invariant, and FastAPI's users say so
    everything: dict[str, dict[str, object]] = get_task_manager().get_all_tasks()
    answered.update(everything)
    task.report_progress(0.5, "half")
    task.check_cancelled()
    task.status = TaskStatus.FAILED  # type: ignore[misc]  # a snapshot is never written


# -- setting up and the pool


async def use_setup(
    app: FastAPI, clock: Clock, pool: ThreadPoolExecutorEnhanced, telemetry: Telemetry
) -> None:
    """Set up in every way."""
    setup_async_framework(telemetry=[telemetry], slow_loop=0.5)
    setup_async_framework(telemetry=[OpenTelemetrySink(), PrometheusSink()])
    FastAPI(lifespan=setup_async_framework)
    FastAPI(lifespan=setup_async_framework(max_workers=4, show_arguments=True))
    assert_type(setup_async_framework(app), FrameworkLifespan)
    entered: AbstractAsyncContextManager[None] = setup_async_framework()
    await entered.__aenter__()
    async with setup_async_framework(None, max_workers=4, task_timeout=5, clock=clock) as nothing:
        assert_type(nothing, None)
    async with setup_async_framework(app, executor=pool, graceful_shutdown_timeout=5):
        assert_type(get_thread_pool(), ThreadPoolExecutorEnhanced)
    with override_framework(clock=clock, pool=pool) as manager:
        assert_type(manager, TaskManager)


def use_pool() -> None:
    """Use the pool as the standard one and beyond it."""
    with ThreadPoolExecutorEnhanced(max_workers=2, task_timeout=5, queue_size=10) as pool:
        assert_type(pool.submit(length, "a", factor=2), Future[int])
        assert_type(pool.get_stats(), dict[str, Any])
        assert_type(pool.get_active_tasks(), list[dict[str, Any]])
        assert_type(list(pool.map(length, ["a"])), list[int])
        pool.shutdown(timeout=5)
        pool.submit(length, 1)  # type: ignore[arg-type]  # the arguments are checked


# -- the pytest plugin


def use_faults(plan: FaultPlan) -> None:
    """Plan each fault, for a decorated function, any other one, or a name."""
    fault = plan.fail(bare_background, on=[1, 2], exc=TimeoutError)
    assert_type(fault, Fault)
    assert_type(fault.fired, tuple[Firing, ...])
    assert_type(fault.call, str)
    assert_type(fault.place, str)
    assert_type(plan.fail(length, on=range(1, 3), exc=OSError("lost")), Fault)
    assert_type(plan.fail("length", on=1, exc=lambda: OSError("lost")), Fault)
    assert_type(plan.slow(async_length, seconds=40), Fault)
    assert_type(plan.crash_worker(after="progress", fn=length), Fault)
    assert_type(plan.queue_full(next=3), Fault)
    assert_type(plan.deliver_twice(bare_background), Fault)
    assert_type(plan.chaos(0.1, 7, kinds=["fail"], exc=InjectedError), Fault)
    assert_type(plan.planned, tuple[Fault, ...])
    for firing in plan.fired:
        assert_type(firing.fault, Fault)
        assert_type(firing.number, int)
        assert_type(firing.at, float)
    plan.fail(length, exc=int)  # type: ignore[arg-type]  # no exception class
    plan.slow(length)  # type: ignore[call-arg]  # how much longer?


def use_invariants(probe: Probe) -> None:
    """State what must always hold, with a function or as a decorator."""

    @probe.always
    def few() -> bool:
        return True

    assert_type(few(), bool)
    assert_type(probe.always(list[int])(), list[int])
    assert_type(probe.mode, str)
    probe.always(length)  # type: ignore[type-var]  # it has a parameter
    probe.always(True)  # type: ignore[type-var]  # no function


async def use_histories(probe: Probe) -> None:
    """Compare operations with a model: a class, or a function that makes it."""
    history = probe.linearizable(dict)
    assert_type(history, History)
    assert_type(probe.linearizable(lambda: [1], key="index", states=7), History)
    with history.operation("pop", "a", default=None) as operation:
        assert_type(operation, Operation)
        operation.result = 1
    async with history.operation("clear") as operation:
        assert_type(operation.unknown(), None)
    assert_type(history.watch({"a": 1}), dict[str, int])
    assert_type(history.check(), None)
    probe.linearizable({})  # type: ignore[arg-type]  # no class


# -- watching


def use_metrics(manager: TaskManager, app: FastAPI) -> None:
    """Attach a sink in each way, and answer health checks."""
    sink = PrometheusSink(buckets=[0.1, 1, 10], max_names=50, refresh_interval=2.0)
    assert_type(sink.attach(manager), Callable[[], None])
    assert_type(manager.subscribe(sink), Callable[[], None])
    router = health_router(prefix="/internal", unready_on={"pool", "queue"}, shutdown_delay=5)
    assert_type(router, APIRouter)
    app.include_router(router)


# -- tasks over HTTP


def owner_of(request: Request) -> str | None:
    """Return whom the tasks of a request belong to."""
    return request.headers.get("x-user")


class Job(TaskResponse):
    """A response of the app's own."""

    job_uuid: str


def use_routes(app: FastAPI, task: Task) -> None:
    """Include the routes of tasks, and show a task in a route of one's own."""
    router = task_router(
        prefix="/jobs",
        dependencies=[Depends(length)],
        owner=owner_of,
        expose_errors=True,
        include_in_schema=False,
        buttons={"Send a report": "/reports"},
        view=Job,
    )
    assert_type(router, APIRouter)
    app.include_router(router)

    @app.get("/jobs/{task_id}", response_model=TaskView[int], responses={404: {"model": Problem}})
    async def show() -> Task:
        return task

    assert_type(Job.of(task, expose_errors=True), Job)
    view = TaskView[int].of(task, expose_errors=True)
    assert_type(Job.from_view(view), Job)
    assert_type(view, TaskView[int])
    assert_type(view.result, int | None)
    assert_type(view.result_problem, str | None)
    assert_type(view.status, TaskStatus)
    assert_type(Problem(detail="gone").detail, str)
    task_router(owner=Depends(length))
    task_router(owner=length)  # type: ignore[arg-type]  # no function of a request
    task_router(dependencies=[length])  # type: ignore[list-item]  # no Depends


# -- answering 202


async def accept(manager: TaskManager, app: FastAPI) -> None:
    """Return an id, or a task, from routes whose return type is Accepted."""

    @app.post("/ids")
    async def create() -> Accepted[int]:
        return bare_background("a")

    @app.post("/threads")
    def create_in_thread() -> Accepted[int]:
        return Accepted(bare_background("a"))

    @app.post("/submissions")
    async def submit() -> Accepted[int]:
        return await manager.submit(bare_background, ("a",))

    @app.post("/tasks")
    async def find(task_id: str) -> Accepted[int]:
        return (await manager.list_tasks()).tasks[0]

    @app.post("/results")
    async def maybe(text: str) -> int | Accepted[int]:
        return bare_background(text) if text else 0

    @app.post("/responses")
    async def redirected(text: str) -> Accepted[int] | Response:
        return bare_background(text) if text else Response()

    @app.post("/others")
    async def mistaken() -> Accepted[str]:
        return bare_background("a")  # type: ignore[return-value]  # its result is an int

    assert_type(Accepted(bare_background("a")), Accepted[int])


# -- errors


def use_errors(
    not_started: FrameworkNotStartedError,
    full: QueueFullError,
    limited: RateLimitExceededError,
    late: TaskTimeoutError,
    twice: DuplicateTaskError,
    about: TaskCancelledError | TaskFailedError | TaskInterruptedError | TaskNotFoundError,
) -> None:
    """Read every field of every error."""
    errors: list[FrameworkError] = [not_started, full, limited, late, twice, about]
    assert_type(errors, list[FrameworkError])
    assert_type(not_started.state, str)
    assert_type(full.queue_size, int)
    assert_type(full.retry_after, float)
    assert_type(limited.name, str)
    assert_type(limited.rate_limit, int)
    assert_type(limited.time_window, float)
    assert_type(limited.retry_after, float)
    assert_type(late.task_id, str)
    assert_type(late.limit, float)
    assert_type(twice.name, str)
    assert_type(twice.task_id, str)
    assert_type(about.task_id, str)
    assert_type(about.name, str)
