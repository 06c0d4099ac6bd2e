"""Whom a task belongs to: its submitter's owner, or that of the request, or nobody."""

from __future__ import annotations

import asyncio
import re
from contextvars import ContextVar
from enum import StrEnum
from typing import Any

import pytest

from framework import (
    Task,
    TaskId,
    TaskManager,
    async_task,
    background_task,
    current_task,
    get_task_manager,
    scheduled_task,
    setup_async_framework,
)
from framework._records.checks import show
from pytest_asyncframe.probe import Probe

USER: ContextVar[str | None] = ContextVar("user", default=None)
"""Who makes the request."""


def own(manager: TaskManager) -> list[str | None]:
    """Let tasks belong to the user of the request; return a list of those who were asked for."""
    asked: list[str | None] = []

    def whose() -> str | None:
        asked.append(USER.get())
        return USER.get()

    manager._core.owners.own_by(whose)
    return asked


async def owner(manager: TaskManager, task_id: TaskId[object]) -> str | None:
    """Return the owner of a task."""
    task = await manager.get_task(task_id)
    assert task is not None
    return task.owner


@background_task
def leaf() -> str | None:
    """Return the task's own owner."""
    task = current_task()
    assert task is not None
    return task.owner


def same(number: int) -> int:
    """Return the number."""
    return number


@background_task
async def branch() -> list[TaskId[str | None]]:
    """Submit two tasks, one of them for somebody else if that were possible."""
    first = leaf()
    USER.set("eve")
    return [first, leaf()]


async def test_a_request_owns_what_it_submits(asyncframe: Probe) -> None:
    """A task belongs to the user of the request in which it is submitted, however it is."""
    manager = asyncframe.manager
    asked = own(manager)
    USER.set("ann")
    ids = [
        leaf(),
        await manager.submit(leaf),
        manager.submit_nowait(leaf, task_id="chosen", delay=1.0),
        leaf.options(max_running=1)(),
    ]
    ids += [item.task.task_id async for item in manager.map(same, [1, 2])]
    USER.set("bob")
    ids.append(leaf())
    await asyncframe.settled()
    assert [await owner(manager, one) for one in ids] == ["ann"] * (len(ids) - 1) + ["bob"]
    assert asked == ["ann"] * (len(ids) - 1) + ["bob"]


async def test_a_task_hands_its_owner_on(asyncframe: Probe) -> None:
    """What a task submits belongs to the task's owner, and nobody is asked."""
    manager = asyncframe.manager
    asked = own(manager)
    USER.set("ann")
    ids = await manager.get_result(branch())
    await asyncframe.settled()
    assert [await manager.get_result(one) for one in ids] == ["ann", "ann"]
    assert asked == ["ann"]


@async_task
async def awaited() -> str | None:
    """Return the owner of the task that runs where it is awaited."""
    task = current_task()
    assert task is not None
    return task.owner


async def test_an_awaited_task_has_an_owner(asyncframe: Probe) -> None:
    """A task that runs where it is awaited belongs to the user of the request as well."""
    own(asyncframe.manager)
    USER.set("ann")
    assert await awaited() == "ann"


async def test_a_repeated_task_keeps_its_owner(asyncframe: Probe) -> None:
    """A task that is run again belongs to the old one's owner, whoever asks for it."""
    manager = asyncframe.manager

    def fail() -> None:
        raise RuntimeError("never")

    nobodys = await manager.submit(fail, on_error=lambda task: task.error)
    asked = own(manager)
    USER.set("ann")
    anns = await manager.submit(fail, on_error=lambda task: task.error)
    await asyncframe.settled()
    USER.set("bob")
    again = [await manager.run_again(one) for one in (nobodys, anns)]
    await asyncframe.settled()
    assert [await owner(manager, one) for one in again] == [None, "ann"]
    assert asked == ["ann"]


async def test_a_repeated_task_hands_its_owner_on(asyncframe: Probe) -> None:
    """Without a function that names owners, those that a repeated task submits inherit too."""
    manager = asyncframe.manager
    children: list[TaskId[str | None]] = []

    def fail_after_child() -> None:
        children.append(leaf())
        raise RuntimeError("never")

    first = await manager.submit(fail_after_child, on_error=lambda task: task.error)
    await asyncframe.settled()
    record = manager._core.ledger.find(first)
    assert record is not None
    record.owner = "ann"
    await manager.run_again(first)
    await asyncframe.settled()
    assert [await owner(manager, one) for one in children] == [None, "ann"]


@background_task(unique=True, on_duplicate="replace")
async def only(number: int) -> int:
    """Never end."""
    await asyncio.Event().wait()
    return number


async def test_owners_do_not_meet(asyncframe: Probe) -> None:
    """A unique task is its owner's only one, unless a function of the arguments is the key."""
    manager = asyncframe.manager
    own(manager)

    async def of_a_task() -> TaskId[Any]:
        return only(1)

    first: list[TaskId[Any]] = [only(1)]
    USER.set("ann")
    first.append(await manager.submit(only, (1,)))
    USER.set("bob")
    first.append(only(1))
    again: list[TaskId[Any]] = [await manager.get_result(await manager.submit(of_a_task))]
    USER.set("root")
    again.append(only.options(owner="bob")(1))
    shared = only.options(unique=lambda number: number, on_duplicate="return")
    one_for_all = shared(1)
    USER.set("zoe")
    assert shared(1) == one_for_all
    for task_id in [*first, *again, one_for_all]:
        await manager.cancel_task(task_id)
    await asyncframe.settled()
    tasks = [await manager.get_task(task_id) for task_id in [*first, *again]]
    found = ["replaced by" in task.reason for task in tasks if task is not None]
    assert found == [False, False, True, True, False]


async def test_a_hook_submits_for_its_task(asyncframe: Probe) -> None:
    """What a hook submits belongs to the owner of the task that has ended, whoever has ended it."""
    manager, loop = asyncframe.manager, asyncio.get_running_loop()
    own(manager)
    found, followed = list[str | None](), asyncio.Queue[TaskId[str | None]]()

    def follow(ended: Task) -> None:
        assert (ended.error is None) == (ended.status == "completed")
        loop.call_soon_threadsafe(followed.put_nowait, leaf())

    async def wait() -> None:
        await asyncio.Event().wait()

    for user in ("ann", None):
        for end in ("it completes", "root cancels it", "it is too slow"):
            USER.set(user)
            fn: Any = leaf if end == "it completes" else wait
            task_id = await manager.submit(
                fn, on_complete=follow, on_error=follow, timeout=1, delay=1
            )
            USER.set("root")
            if end == "root cancels it":
                assert await manager.cancel_task(task_id)
            found.append(await owner(manager, await followed.get()))
    assert found == ["ann"] * 3 + [None] * 3
    USER.set("bob")
    assert await owner(manager, leaf()) == "bob"
    await asyncframe.settled()


async def test_an_owner_that_is_given(asyncframe: Probe) -> None:
    """A submission may say whom its task belongs to, also where nobody asks for owners."""
    manager = asyncframe.manager
    ids: list[TaskId[Any]] = [await manager.submit(leaf, owner="zoe"), leaf()]
    own(manager)
    USER.set("ann")
    ids += [
        manager.submit_nowait(same, (1,), owner="bob"),
        leaf.options(owner="carl", unique=True)(),
        await manager.submit(branch, owner="dora"),
        leaf(),
    ]
    ids += await manager.get_result(ids[-2])
    assert await awaited.options(owner="finn")() == "finn"
    await asyncframe.settled()
    found = [await owner(manager, task_id) for task_id in ids]
    assert found == ["zoe", None, "bob", "carl", "dora", "ann", "dora", "dora"]
    for value in ("", "a\nb", "x" * 256, 7):
        with pytest.raises((TypeError, ValueError), match=r"^owner must be a string of 1 to 255 "):
            await manager.submit(leaf, owner=value)  # type: ignore[arg-type]  # what is tested


async def test_a_schedule_belongs_to_nobody(asyncframe: Probe) -> None:
    """A scheduled run belongs to nobody, even if somebody asks for it in a request."""
    owners: list[str | None] = []

    @scheduled_task(every=3_600.0, name="tests.owners.hourly")
    def hourly() -> None:
        task = current_task()
        assert task is not None
        owners.append(task.owner)

    async with setup_async_framework(None):
        manager = get_task_manager()
        asked = own(manager)
        USER.set("ann")
        await manager.schedules.trigger("tests.owners.hourly")
        await asyncframe.settled()
    assert owners == [None]
    assert asked == []
    assert callable(hourly)


async def test_what_the_function_raises(asyncframe: Probe) -> None:
    """An error of the function reaches the caller, and nothing is submitted."""

    def whose() -> str | None:
        raise PermissionError("not signed in")

    manager = asyncframe.manager
    manager._core.owners.own_by(whose)
    with pytest.raises(PermissionError, match=r"^not signed in$"):
        leaf()
    with pytest.raises(PermissionError, match=r"^not signed in$"):
        await manager.submit(leaf, task_id="mine")
    with pytest.raises(PermissionError, match=r"^not signed in$"):
        await awaited()
    assert manager.get_stats()["submitted"] == 0
    manager._core.owners.own_by(None)
    assert await manager.submit(leaf, task_id="mine", wait=True) is None


async def test_an_owner_that_is_no_owner(asyncframe: Probe) -> None:
    """An owner that cannot be kept everywhere is refused at the submission."""
    for wrong in ("", "x" * 256, "a\nb", "a\0", "\ud800", "\u202e"):
        asyncframe.manager._core.owners.own_by(lambda wrong=wrong: wrong)  # type: ignore[misc]
        text = (
            "the owner of the request must be a string of 1 to 255 printable characters, or None "
            f"for nobody, not {show(wrong)}"
        )
        if wrong:
            cure = "use the user's id, or a hash of this text"
            text += f" ({len(wrong)} characters): {cure}"
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            leaf()


async def test_an_owner_of_another_type(asyncframe: Probe) -> None:
    """A number is refused with what to do; of a string of another class the text is kept."""

    class Role(StrEnum):
        ADMIN = "admin"

    manager = asyncframe.manager
    manager._core.owners.own_by(lambda: 7)  # type: ignore[arg-type, return-value]
    told = "the owner of the request must be a string of 1 to 255 printable characters, or None"
    told += " for nobody, not 7: use an id as a string, such as str(user.id)"
    with pytest.raises(TypeError, match=f"^{re.escape(told)}$"):
        leaf()
    manager._core.owners.own_by(lambda: Role.ADMIN)
    task_id = leaf()
    await asyncframe.settled()
    task = await manager.get_task(task_id)
    assert task is not None
    assert type(task.owner) is str
    assert task.owner == "admin"
    assert "owner" not in task.to_dict()
