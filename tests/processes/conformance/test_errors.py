"""How tasks fail, and who is told what, on every backend."""

from __future__ import annotations

import pytest

from framework import TaskFailedError, TaskManager, TaskNotFoundError, TaskStatus
from framework._tasks.task import Task
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import Backend, Heard
from tests.processes.conformance.tasks import ShopError


async def failed(manager: TaskManager, task_id: str) -> tuple[BaseException, Task]:
    """Wait for a task's failure; return its error and the task."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011  # any error at all
        await manager.get_result(task_id, timeout=PATIENCE)
    task = await manager.get_task(task_id)
    assert task is not None
    return caught.value, task


async def test_builtin_error(manager: TaskManager) -> None:
    """A built-in error has its class and its arguments."""
    error, task = await failed(manager, tasks.fail())
    assert type(error) is ValueError
    assert error.args == ("no such thing", 7)
    assert task.status is TaskStatus.FAILED


async def test_key_error(manager: TaskManager) -> None:
    """A KeyError says the key, with its quotes."""
    error, _ = await failed(manager, tasks.fail("key"))
    assert (type(error), str(error)) == (KeyError, "'missing'")


async def test_os_error(manager: TaskManager) -> None:
    """An OSError has its number and its file name."""
    error, _ = await failed(manager, tasks.fail("os"))
    assert isinstance(error, FileNotFoundError)
    assert (error.errno, error.filename) == (2, "list.txt")


async def test_own_error(manager: TaskManager) -> None:
    """An error of the user's own class has its class and its attributes."""
    error, _ = await failed(manager, tasks.fail("own"))
    assert isinstance(error, ShopError)
    assert (error.item, error.left) == ("tea", 3)


async def test_error_of_a_coroutine(manager: TaskManager) -> None:
    """A coroutine function's error is that of its task."""
    error, _ = await failed(manager, tasks.fail_on_loop())
    assert isinstance(error, ShopError)
    assert error.item == "milk"


async def test_error_of_an_awaited_task(manager: TaskManager) -> None:
    """An async_task raises its error where it is awaited."""
    with pytest.raises(ShopError) as caught:
        await tasks.awaited_failure()
    assert caught.value.left == 1


async def test_exit(manager: TaskManager) -> None:
    """SystemExit in a task ends the task alone, and waiters get it as a cause."""
    error, task = await failed(manager, tasks.fail("exit"))
    assert isinstance(error, TaskFailedError)
    assert isinstance(error.__cause__, SystemExit)
    assert error.__cause__.code == 3
    assert task.status is TaskStatus.FAILED


async def test_error_in_the_dict(manager: TaskManager) -> None:
    """to_dict() tells the error's class and its words."""
    _, task = await failed(manager, tasks.fail("own"))
    shown = task.to_dict()
    assert (shown["has_error"], shown["error_type"]) == (True, "ShopError")
    assert shown["error_message"] == "('tea', 3)"


async def test_long_error(manager: TaskManager) -> None:
    """An error's text is cut where it is shown."""
    _, task = await failed(manager, tasks.long_failure())
    message = task.to_dict()["error_message"]
    assert isinstance(message, str)
    assert len(message) == 2_000


async def test_no_result(manager: TaskManager) -> None:
    """A failed task has no result."""
    _, task = await failed(manager, tasks.fail())
    assert task.result is None
    assert isinstance(task.error, ValueError)


async def test_read_twice(manager: TaskManager) -> None:
    """Each request for the result of a failed task raises its error."""
    task_id = tasks.fail("own")
    first, _ = await failed(manager, task_id)
    second, _ = await failed(manager, task_id)
    assert str(first) == str(second)


async def test_failed_event(manager: TaskManager, heard: Heard) -> None:
    """The event of a failure has its error."""
    task_id = tasks.fail("own")
    event = await heard.event(task_id, "failed")
    assert isinstance(event.error, ShopError)
    assert heard.of(task_id) == ["submitted", "started", "failed"]


async def test_arguments_that_do_not_fit(manager: TaskManager) -> None:
    """A call that does not fit is refused in the caller, and no task is made."""
    with pytest.raises(TypeError):
        tasks.add()  # type: ignore[call-arg]  # the point of this test
    assert manager.get_stats()["submitted"] == 0


async def test_unknown_id(manager: TaskManager) -> None:
    """`get_task` gives None for an unknown id, and `get_result` raises."""
    assert await manager.get_task("0" * 32) is None
    with pytest.raises(TaskNotFoundError):
        await manager.get_result("0" * 32, timeout=PATIENCE)


@pytest.mark.parametrize("given", [None, 7, b"id", "", "\x00", "x" * 10_000])
async def test_strange_id(manager: TaskManager, given: object) -> None:
    """An id that cannot be one is unknown, and no error."""
    assert await manager.get_task(given) is None  # type: ignore[arg-type]  # the point
    assert await manager.cancel_task(given) is False  # type: ignore[arg-type]  # the point


async def test_result_that_is_no_json(backend: Backend, manager: TaskManager) -> None:
    """A result that JSON has nothing for fails its task where results are kept as JSON."""
    if backend.remote:
        with pytest.raises(TypeError, match=r"argument 'value' of .*plain does not fit"):
            tasks.plain(object())
        return
    task_id = tasks.plain(object())
    if not backend.keeps_json:
        assert type(await manager.get_result(task_id, timeout=PATIENCE)) is object
        return
    error, task = await failed(manager, task_id)
    assert isinstance(error, TypeError)
    assert "the result of tests.processes.conformance.tasks.plain cannot be kept" in str(error)
    assert task.reason == "its result cannot be kept"
