"""`manager.run_again` in one process: the same call once more, by reference."""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import sys
import weakref
from functools import partial
from typing import Any

import pytest

from framework import (
    TaskId,
    TaskManager,
    TaskStatus,
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from framework.exceptions import RunAgainError
from framework.stores.memory import MemoryStore
from pytest_asyncframe.executor import DeterministicExecutor
from pytest_asyncframe.probe import Probe
from tests.framework.faults.refusals import said

pytestmark = pytest.mark.asyncframe(lost_failures="off")


class Flaky:
    """Fails at its first call, and keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> int:
        """Fail at the first call."""
        task = current_task()
        assert task is not None
        self.calls.append((args, kwargs, task.name, task.description))
        if len(self.calls) == 1:
            raise RuntimeError("not yet")
        return len(self.calls)


def test_the_very_same_call(
    task_manager: TaskManager, task_executor: DeterministicExecutor
) -> None:
    """An undecorated function runs again with the very objects it was submitted with."""
    flaky, value = Flaky(), object()
    first = task_manager.submit_nowait(flaky, (value,), {"key": value}, description="a call")
    task_executor.drain()
    second = asyncio.run(task_manager.run_again(first))
    task_executor.drain()
    assert type(second) is TaskId
    assert flaky.calls[0] == flaky.calls[1]
    assert flaky.calls[1][0][0] is flaky.calls[1][1]["key"] is value
    task = asyncio.run(task_manager.get_task(second))
    assert task is not None
    assert (task.result, task.run_again_of, task.to_dict()["run_again_of"]) == (2, first, first)


async def test_options_are_repeated_but_not_delay_and_id(asyncframe: Probe) -> None:
    """The limit of the submission counts again; its delay and its own id do not."""
    manager = asyncframe.manager

    async def hang() -> None:
        await asyncio.Event().wait()

    first = await manager.submit(hang, timeout=3, delay=100, task_id="mine")
    await asyncframe.settled()
    before = asyncframe.clock.monotonic()
    second = await manager.run_again(first)
    await asyncframe.settled()
    task = await manager.get_task(second)
    assert task is not None
    assert task.status is TaskStatus.TIMEOUT
    assert asyncframe.clock.monotonic() - before == 3
    assert len(second) == 32


async def test_the_new_task_can_be_run_again(asyncframe: Probe) -> None:
    """A task that failed again runs again, and so does the first one, each with its hooks."""

    def fail() -> None:
        raise RuntimeError("never")

    manager, seen = asyncframe.manager, []
    first = manager.submit_nowait(fail, on_error=lambda task: seen.append(task.task_id))
    await asyncframe.settled()
    second = await manager.run_again(first)
    await asyncframe.settled()
    third, fourth = await manager.run_again(second), await manager.run_again(first)
    await asyncframe.settled()
    tasks = [await manager.get_task(one) for one in (second, third, fourth)]
    assert [task and task.run_again_of for task in tasks] == [first, second, first]
    assert seen == [first, second, third, fourth]


async def test_where_it_was_submitted(asyncframe: Probe) -> None:
    """The origin of the new task is the line that runs it again."""
    flaky = Flaky()
    first = asyncframe.manager.submit_nowait(flaky)
    await asyncframe.settled()
    line = sys._getframe().f_lineno + 1
    second = await asyncframe.manager.run_again(first)
    task = await asyncframe.manager.get_task(second)
    await asyncframe.settled()
    assert task is not None
    assert task.origin == f"{__file__}:{line} in test_where_it_was_submitted"


class Shop:
    """Has a method that is a task."""

    def __init__(self) -> None:
        self.orders: list[int] = []

    @background_task
    def order(self, number: int) -> None:
        """Fail, but keep the number."""
        self.orders.append(number)
        raise RuntimeError("sold out")


async def test_a_method_has_its_object(asyncframe: Probe) -> None:
    """A decorated method runs again on the same object."""
    shop = Shop()
    first = shop.order(7)
    await asyncframe.settled()
    await asyncframe.manager.run_again(first)
    await asyncframe.settled()
    assert shop.orders == [7, 7]


# -- what is kept


class Big:
    """An argument whose end can be seen."""


async def seven(_: Big) -> int:
    """Return 7."""
    return 7


async def fail_with(_: Big) -> None:
    """Fail."""
    raise RuntimeError("no")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("option", "its arguments were not kept: its option keep_arguments is False"),
        (
            "store",
            (
                "its arguments are not known here: they were not kept, or only by the process "
                "that ran it, which keeps those of the latest 2 tasks that did not complete"
            ),
        ),
    ],
)
async def test_arguments_are_let_go(how: str, reason: str) -> None:
    """What is not kept is freed when its task ends, or when later tasks take its place."""
    store = MemoryStore(keep_arguments=2)
    async with setup_async_framework(None, store=store):
        manager = get_task_manager()
        big = Big()
        gone = weakref.ref(big)
        option: Any = {"keep_arguments": False} if how == "option" else {}
        ids = [await manager.submit(fail_with, (big,), **option)]
        del big
        with pytest.raises(RuntimeError, match=r"^no$"):
            await manager.get_result(ids[0])
        gc.collect()
        assert (gone() is None) == (how == "option")
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"^no$"):
                await manager.submit(fail_with, (Big(),), wait=True)
        gc.collect()
        assert gone() is None
        with pytest.raises(RunAgainError) as caught:
            await manager.run_again(ids[0])
    assert caught.value.reason == reason


async def test_a_forgotten_task_keeps_no_arguments() -> None:
    """When a task is removed from the store, its arguments are freed."""
    async with setup_async_framework(None):
        manager, big = get_task_manager(), Big()
        gone = weakref.ref(big)
        task_id = await manager.submit(fail_with, (big,))
        del big
        with pytest.raises(RuntimeError, match=r"^no$"):
            await manager.get_result(task_id)
        assert gone() is not None
        manager.cleanup_completed_tasks(0)
        gc.collect()
        assert gone() is None


async def test_arguments_of_completed_tasks_are_freed() -> None:
    """A task that completed keeps nothing."""
    async with setup_async_framework(None):
        big = Big()
        gone = weakref.ref(big)
        task_id = await get_task_manager().submit(seven, (big,))
        del big
        assert await get_task_manager().get_result(task_id) == 7
        gc.collect()
        assert gone() is None


async def test_arguments_are_shown_nowhere(asyncframe: Probe, caplog: Any) -> None:
    """Neither `to_dict`, `repr` nor the log has the arguments of a failed task."""

    def login(password: str) -> None:
        raise PermissionError("denied" * len(password[:1]))

    task_id = asyncframe.manager.submit_nowait(login, ("hunter2",))
    await asyncframe.settled()
    task = await asyncframe.manager.get_task(task_id)
    assert task is not None
    shown = json.dumps(task.to_dict()) + repr(task) + json.dumps(asyncframe.manager.get_all_tasks())
    assert "hunter2" not in shown + caplog.text


# -- refusals


def test_the_error() -> None:
    """The error names the task and the reason, and survives pickling."""
    error = RunAgainError("7", "shop.send", "it is running")
    assert str(error) == "task '7' (shop.send) cannot be run again: it is running"
    copied = pickle.loads(pickle.dumps(error))
    assert (copied.task_id, copied.name, copied.reason) == ("7", "shop.send", "it is running")


def test_a_wrong_number_of_kept_arguments() -> None:
    """A store that could keep no such number of arguments is refused."""
    make: Any = MemoryStore
    allowed = "keep_arguments must be a whole number of at least 0, not"

    assert [said(partial(make, keep_arguments=value)) for value in (-1, 1.5, True, "many")] == [
        f"ValueError: {allowed} -1",
        f"TypeError: {allowed} 1.5",
        f"TypeError: {allowed} True",
        f"TypeError: {allowed} 'many'",
    ]
