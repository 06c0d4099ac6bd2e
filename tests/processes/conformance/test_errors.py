"""How tasks fail, and who is told what, on every backend."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from framework import CancelOutcome, TaskFailedError, TaskManager, TaskNotFoundError, TaskStatus
from framework._tasks.task import Task
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import Backend, Heard
from tests.processes.conformance.tasks import ShopError


async def failed(manager: TaskManager, task_id: str) -> tuple[BaseException, Task]:
    """Wait for a task's failure; return its error and the task."""
    waiter = manager.get_result(task_id, timeout=PATIENCE)
    error: object = (await asyncio.gather(waiter, return_exceptions=True))[0]
    assert isinstance(error, BaseException), error
    task = await manager.get_task(task_id)
    assert task is not None
    return error, task


async def test_errors(manager: TaskManager) -> None:
    """A waiter gets the task's error: its class, its arguments and its attributes."""
    told: dict[str, tuple[str, type, tuple[Any, ...], dict[str, Any]]] = {
        "built-in": (tasks.fail(), ValueError, ("no such thing", 7), {}),
        "key": (tasks.fail("key"), KeyError, ("missing",), {}),
        "own": (tasks.fail("own"), ShopError, ("tea", 3), {"item": "tea", "left": 3}),
        "on a loop": (tasks.fail_on_loop(), ShopError, ("milk", 0), {"item": "milk", "left": 0}),
        "system": (
            tasks.fail("os"), FileNotFoundError, (2, "No such file"),
            {"errno": 2, "filename": "list.txt"},
        ),
    }  # fmt: skip
    found = {}
    for name, (task_id, _, _, facts) in told.items():
        error, task = await failed(manager, task_id)
        found[name] = (type(error), error.args, {one: getattr(error, one) for one in facts})
        assert (task.status, task.result) == (TaskStatus.FAILED, None)
        assert type(task.error) is type(error)
    assert found == {name: tuple(expected) for name, (_, *expected) in told.items()}


async def test_exit(manager: TaskManager) -> None:
    """SystemExit in a task ends the task alone, and waiters get it as a cause."""
    error, task = await failed(manager, tasks.fail("exit"))
    assert isinstance(error, TaskFailedError)
    assert isinstance(error.__cause__, SystemExit)
    assert error.__cause__.code == 3
    assert task.status is TaskStatus.FAILED


async def test_error_in_the_dict(manager: TaskManager) -> None:
    """to_dict() tells the error's class and its words, and no more than fit."""
    _, short = await failed(manager, tasks.fail("own"))
    _, long = await failed(manager, tasks.long_failure())
    shown, message = short.to_dict(), long.to_dict()["error_message"]
    assert (shown["has_error"], shown["error_type"]) == (True, "ShopError")
    assert shown["error_message"] == "('tea', 3)"
    assert isinstance(message, str)
    assert len(message) == 2_000


async def test_told_again(manager: TaskManager, heard: Heard) -> None:
    """The event of a failure has its error, and so has each who waits, in whatever way."""
    task_id = tasks.fail("own")
    event = await heard.event(task_id, "failed")
    assert isinstance(event.error, ShopError)
    assert heard.of(task_id) == ["submitted", "started", "failed"]
    errors = [(await failed(manager, task_id))[0] for _ in range(2)]
    assert [str(error) for error in errors] == ["('tea', 3)"] * 2
    with pytest.raises(ShopError, match=r"^\('bread', 1\)$") as caught:
        await tasks.awaited_failure()
    assert caught.value.left == 1


async def test_arguments_that_do_not_fit(manager: TaskManager) -> None:
    """A call that does not fit is refused in the caller, and no task is made."""
    unfit = r"^add\(\) missing 1 required positional argument: 'first'$"
    with pytest.raises(TypeError, match=unfit):
        tasks.add()  # type: ignore[call-arg]  # the point of this test
    assert manager.get_stats()["submitted"] == 0


async def test_unknown_ids(manager: TaskManager) -> None:
    """Whatever no task has as its id is unknown to every request, and an error to `get_result`."""
    for unknown in ("0" * 32, "", "\x00", "\ud800", "x" * 10_000):
        assert await manager.get_task(unknown) is None
        assert await manager.cancel_task(unknown) is False
        answer = await manager.request_cancel(unknown)
        why = "no task has this id: it is wrong, or the task was forgotten"
        assert (answer.outcome, answer.why) == (CancelOutcome.CANNOT, why)
    with pytest.raises(TaskNotFoundError, match=r"^task '0{32}' is unknown: the id is wrong, or "):
        await manager.get_result("0" * 32, timeout=PATIENCE)


async def test_result_that_is_no_json(backend: Backend, manager: TaskManager) -> None:
    """A result that JSON has nothing for fails its task where results are kept as JSON."""
    if backend.remote:
        with pytest.raises(
            TypeError,
            match=r"^argument 'value' of tests\.processes\.conformance\.tasks\.plain does not "
            r"fit: given a value of type object: .+; arguments are sent as JSON according "
            r"to the annotations$",
        ):
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
