"""Options of decorated functions, schedules called directly, and functions by name."""

from __future__ import annotations

import asyncio
import dis
from typing import Any

import pytest

from framework import (
    RateLimitExceededError,
    TaskManager,
    TaskStatus,
    async_task,
    background_task,
    get_task_manager,
    retry_task,
    scheduled_task,
    throttled_task,
)
from framework._ids import TaskId
from framework._registry import find


def test_throttle_options_give_a_window_of_its_own(task_manager: TaskManager) -> None:
    """A copy with another rate neither uses nor fills the original's window."""

    @throttled_task(rate_limit=1, time_window=60)
    def call() -> str:
        return "called"

    twice = call.options(rate_limit=2)
    assert [call(), twice(), twice()] == ["called"] * 3
    with pytest.raises(RateLimitExceededError) as refused:
        twice()
    assert refused.value.rate_limit == 2
    assert refused.value.time_window == 60


def test_retry_options_keep_what_is_left_out() -> None:
    """A copy with fewer retries keeps the delay of the original."""
    calls: list[int] = []

    @retry_task(max_retries=5, retry_delay=0.0)
    def fail() -> None:
        calls.append(1)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        fail.options(max_retries=1)()
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("decorate", "message"),
    [
        (
            throttled_task(rate_limit=1),
            r"^throttled_task\.options\(\) does not know rate; it knows rate_limit, .*key$",
        ),
        (
            retry_task(),
            r"^retry_task\.options\(\) does not know rate; it knows max_retries, .*exceptions$",
        ),
    ],
    ids=["throttle", "retry"],
)
def test_an_unknown_option_is_told(decorate: Any, message: str) -> None:
    """An option that does not exist raises TypeError and names those that do."""
    with pytest.raises(TypeError, match=message):
        decorate(lambda: None).options(rate=2)


async def test_a_retry_on_a_loops_thread_is_told_in_a_note() -> None:
    """A sync function called on a loop's thread fails at once, and its error says why."""
    calls: list[int] = []

    @retry_task(max_retries=3, retry_delay=0.0)
    def fail() -> None:
        calls.append(1)
        raise ConnectionError

    with pytest.raises(ConnectionError) as caught:
        fail()
    assert len(calls) == 1
    assert caught.value.__notes__[0].startswith("not retried: retry_task would block the event")


async def test_an_error_that_takes_no_note_is_raised_all_the_same() -> None:
    """An exception class that refuses attributes is no obstacle to saying why."""

    class StubbornError(Exception):
        def add_note(self, _: str) -> None:
            raise AttributeError

    @retry_task(max_retries=3, retry_delay=0.0)
    def fail() -> None:
        raise StubbornError

    with pytest.raises(StubbornError):
        fail()


def test_a_scheduled_function_is_called_right_here() -> None:
    """Calling a scheduled sync function runs it and returns what it returns."""

    @scheduled_task(every=60)
    def beat() -> str:
        return "alive"

    assert beat() == "alive"


async def test_a_scheduled_coroutine_function_is_awaited_right_here() -> None:
    """Awaiting a scheduled async function runs it and gives what it returns."""

    @scheduled_task(every=60)
    async def beat() -> str:
        return "alive"

    assert await beat() == "alive"


def test_a_scheduled_function_needs_no_arguments() -> None:
    """A function that cannot be called without arguments is refused at decoration."""

    def needs(value: int) -> int:
        return value

    with pytest.raises(TypeError, match=r"^scheduled_task calls .*needs without arguments"):
        scheduled_task(every=60)(needs)  # type: ignore[arg-type]  # what is wrong


def test_a_decorated_function_is_found_by_its_name() -> None:
    """The latest function of a name is found while it lives, and not after."""

    @background_task(name="reports.make")
    def make() -> None:
        """Do nothing."""

    assert find("reports.make") is make
    assert find("reports.none") is None


def test_an_annotation_that_is_not_there_yet_is_an_id_of_anything() -> None:
    """A return annotation that cannot be resolved at decoration does not stop it."""

    def later() -> NotThereYet:  # type: ignore[name-defined]  # noqa: F821  # on purpose
        """Do nothing."""

    decorated = background_task(later)
    assert decorated.__annotations__["return"] == TaskId[Any]


async def test_tasks_of_one_status(task_manager: TaskManager) -> None:
    """Only tasks of the status that was asked for are given, by member or by value."""
    done = await task_manager.submit(int)
    await task_manager.get_result(done)
    delayed = await task_manager.submit(int, delay=60)
    assert list(task_manager.get_tasks_by_status(TaskStatus.COMPLETED)) == [done]
    assert list(task_manager.get_tasks_by_status("pending")) == [delayed]
    assert await task_manager.cancel_task(delayed)


async def test_what_a_task_says_of_itself(task_manager: TaskManager) -> None:
    """Description, origin and repr of a task say what, where and how it stands."""

    @async_task(description="adds up")
    async def add() -> None:
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        await add()
    (task_id,) = task_manager.get_all_tasks()
    task = await get_task_manager().get_task(task_id)
    assert task is not None
    assert task.description == "adds up"
    assert task.origin is not None
    assert "test_options.py:" in task.origin
    assert repr(task).endswith("add failed>")
    assert task_manager.rng.random() < 1.0


async def test_a_callable_object_with_an_async_call_is_awaited(
    task_manager: TaskManager,
) -> None:
    """A callable whose ``__call__`` is async runs on the loop as a task."""

    class Later:
        async def __call__(self) -> asyncio.AbstractEventLoop:
            return asyncio.get_running_loop()

    here = asyncio.get_running_loop()
    assert await task_manager.submit(Later(), wait=True) is here


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    "decorate",
    [background_task, async_task, throttled_task(rate_limit=1), retry_task, scheduled_task(60)],
    ids=["background", "async", "throttled", "retry", "scheduled"],
)
def test_a_decorated_function_reads_no_global(decorate: Any, kind: str) -> None:
    """What stands for a function has that function's globals, so it may read none of ours."""

    def sync_body() -> None:
        """Do nothing."""

    async def async_body() -> None:
        """Do nothing."""

    decorated = decorate(sync_body if kind == "sync" else async_body)
    read = [one for one in dis.get_instructions(decorated) if one.opname == "LOAD_GLOBAL"]
    assert read == []
    assert decorated.__globals__ is sync_body.__globals__
