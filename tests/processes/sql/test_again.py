"""Running a task again that another process, or an earlier one, has submitted."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from framework import (
    TaskManager,
    TaskTimeoutError,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework.exceptions import RunAgainError
from framework.stores.sql import SQLStore

SEEN: list[tuple[Any, ...]] = []


@background_task
async def send(path: Path, *ages: timedelta, urgent: bool = False) -> None:
    """Keep the arguments, and fail."""
    SEEN.append((path, ages, urgent))
    raise RuntimeError("smtp is down")


@background_task
async def hang(number: int) -> None:
    """Run past any limit."""
    await asyncio.Event().wait()


FAILED = r"^smtp is down$|^no$|^hunter2$|^task .* ran past its time limit of 0\.01 s$"
"""How the tasks of these tests fail."""


@asynccontextmanager
async def process(url: str, **options: Any) -> AsyncIterator[TaskManager]:
    """Run a framework with a store of its own, as a process does."""
    async with setup_async_framework(None, store=SQLStore(url, **options)):
        yield get_task_manager()


async def failed(manager: TaskManager, submit: Any, *args: Any, **options: Any) -> str:
    """Submit a task, wait until it has failed, and return its id."""
    task_id: str = await manager.submit(submit, args, **options)
    with pytest.raises((RuntimeError, TaskTimeoutError), match=FAILED):
        await manager.get_result(task_id)
    return task_id


async def refused(manager: TaskManager, task_id: str) -> str:
    """Return why a task cannot be run again."""
    with pytest.raises(RunAgainError) as caught:
        await manager.run_again(task_id)
    return caught.value.reason


async def test_another_process_runs_it_again(sql_url: str) -> None:
    """After a restart a task runs again with its arguments, typed as they were."""
    SEEN.clear()
    async with process(sql_url) as manager:
        first = await manager.submit(
            send, (Path("a"), timedelta(minutes=1)), {"urgent": True}, description="to all"
        )
        with pytest.raises(RuntimeError, match=r"^smtp is down$"):
            await manager.get_result(first)
    async with process(sql_url) as manager:
        second = await manager.run_again(first)
        with pytest.raises(RuntimeError, match=r"^smtp is down$"):
            await manager.get_result(second)
    async with process(sql_url) as manager:
        task = await manager.get_task(second)
        assert task is not None
        assert (task.run_again_of, task.description) == (first, "to all")
        page = await manager.failed(name=task.name)
        assert [one.run_again_of for one in page.tasks] == [first, None]
    assert [(Path("a"), (timedelta(minutes=1),), True)] * 2 == SEEN


async def test_it_runs_again_at_once(sqlite_url: str) -> None:
    """A task that has just failed runs again before its row is written."""
    SEEN.clear()
    async with process(sqlite_url) as manager:
        task_id = await failed(manager, send, Path("a"))
        for _ in range(3):
            task_id = await manager.run_again(task_id)
            with pytest.raises(RuntimeError, match=r"^smtp is down$"):
                await manager.get_result(task_id)
    assert len(SEEN) == 4


async def test_options_of_the_submission(sqlite_url: str) -> None:
    """The time limit that was given at the submission counts in the other process, too."""
    async with process(sqlite_url) as manager:
        first = await failed(manager, hang, 1, timeout=0.01)
    async with process(sqlite_url) as manager:
        second = await manager.run_again(first)
        with pytest.raises(TaskTimeoutError, match=r"^task .* ran past its time limit of 0\.01 s$"):
            await manager.get_result(second)


# -- what cannot run again, and why


def plain(_: Any) -> None:
    """Fail, without a decorator."""
    raise RuntimeError("no")


@background_task(keep_arguments=False)
def login(password: str) -> None:
    """Fail, with a secret."""
    raise RuntimeError("no")


@background_task
def show(what: Any) -> None:
    """Fail, whatever it gets."""
    raise RuntimeError("no")


async def test_why_not(sqlite_url: str) -> None:
    """The process that ran a task and the next one give the same reason."""
    module, why = "tests.processes.sql.test_again", "its arguments were not kept: "
    cases: list[tuple[Any, Any, str]] = [
        (plain, 1, f"{why}{module}.plain is not a decorated function that others can find"),
        (login, "hunter2", f"{why}its option keep_arguments is False"),
        (show, "x" * 100, f"{why}they take 109 bytes of JSON, and at most 100 are kept"),
        (
            show,
            object(),
            (
                f"{why}argument 'what' of {module}.show does not fit: given a value of type "
                "object: Unable to serialize unknown type: <class 'object'>; arguments are sent "
                "as JSON according to the annotations"
            ),
        ),
    ]
    wanted = {}
    async with process(sqlite_url, keep_arguments=100) as manager:
        for submit, argument, reason in cases:
            wanted[await failed(manager, submit, argument)] = reason
        assert {one: await refused(manager, one) for one in wanted} == wanted
    async with process(sqlite_url, keep_arguments=100) as manager:
        assert {one: await refused(manager, one) for one in wanted} == wanted


async def test_a_store_that_keeps_none(sqlite_url: str) -> None:
    """With ``keep_arguments=False`` nothing is kept, neither in the file nor in memory."""
    async with process(sqlite_url, keep_arguments=False) as manager:
        task_id = await failed(manager, send, Path("secret"))
        reason = await refused(manager, task_id)
    assert reason == "its arguments were not kept: the store has keep_arguments=0"
    written = Path(sqlite_url.removeprefix("sqlite:///"))
    assert b"secret" not in await asyncio.to_thread(written.read_bytes)


async def test_a_function_that_is_unknown_here(sqlite_url: str) -> None:
    """A process that has not imported the function says so."""

    @background_task(name="shop.gone")
    def gone() -> None:
        raise RuntimeError("no")

    async with process(sqlite_url) as manager:
        task_id = await failed(manager, gone)
    # The manager has the error, and the error's traceback has the function.
    del gone, manager
    gc.collect()
    async with process(sqlite_url) as manager:
        assert await refused(manager, task_id) == (
            "this process does not know its function: import the module that defines it"
        )


async def test_a_function_that_has_changed(sqlite_url: str) -> None:
    """Arguments that do not fit the function any more are refused, without their values."""

    @background_task(name="shop.changed")
    def changed(text: str) -> None:
        raise RuntimeError(text)

    async with process(sqlite_url) as manager:
        task_id = await failed(manager, changed, "hunter2")

    @background_task(name="shop.changed")
    def since(number: int) -> None:
        raise RuntimeError(number)

    async with process(sqlite_url) as manager:
        reason = await refused(manager, task_id)
    assert reason.startswith("its arguments do not fit its function any more: argument 'number' of")
    assert "hunter2" not in reason
    del since
