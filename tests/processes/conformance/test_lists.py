"""Owners and lists on every backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest

from framework import TaskManager, TaskStatus, background_task
from framework._records.ids import random_id
from framework.exceptions import RunAgainError
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import CARRYING, NAMES, Backend
from tests.processes.conformance.tasks import ShopError
from tests.tiers import back_ends

USER: ContextVar[str | None] = ContextVar("user", default=None)
"""Who makes the request."""


@pytest.fixture
async def owned(backend: Backend) -> AsyncIterator[TaskManager]:
    """The manager of a framework whose tasks belong to the user."""
    async with backend.run() as manager:
        manager._core.owners.own_by(USER.get)
        yield manager


async def owner_of(manager: TaskManager, task_id: str) -> str | None:
    """Return the owner of a task that is known."""
    task = await manager.get_task(task_id)
    assert task is not None
    return task.owner


def kind_of(kind: str) -> dict[str, str]:
    """Return the meta of a task by its argument."""
    return {"kind": kind}


async def label_of(manager: TaskManager, task_id: str) -> str | None:
    """Return the label of a task that is known."""
    task = await manager.get_task(task_id)
    assert task is not None
    return task.label


async def test_the_owner_is_kept(owned: TaskManager) -> None:
    """A task belongs to the user from its submission on, and still does when it has ended."""
    USER.set("ann")
    waiting = await owned.submit(tasks.add, (1,), delay=3_600)
    done = tasks.add(1)
    assert await owner_of(owned, done) == "ann"
    await owned.get_result(done, timeout=PATIENCE)
    USER.set(None)
    nobodys = tasks.add(1)
    found = [await owner_of(owned, one) for one in (waiting, done, nobodys)]
    assert found == ["ann", "ann", None]
    await owned.get_result(nobodys, timeout=PATIENCE)


# The engine of the documentation carries no owner to its children.
@pytest.mark.parametrize("backend", back_ends(CARRYING), indirect=True)
async def test_the_owner_travels(owned: TaskManager) -> None:
    """What a task submits where it runs belongs to the same owner."""
    USER.set("ann & bob 日本")
    parent = tasks.parent(1)
    child = await owned.get_result(parent, timeout=PATIENCE)
    assert await owned.get_result(child, timeout=PATIENCE) == 2
    assert await owner_of(owned, child) == "ann & bob 日本"


async def test_a_repeated_task_keeps_its_owner(owned: TaskManager) -> None:
    """A task that is run again belongs to the owner of the old one, and says the same of itself."""
    USER.set("ann")
    first = tasks.fail.options(label="of {}".format, meta=kind_of, show_arguments=True)("own")
    with pytest.raises(ShopError, match=r"^\('tea', 3\)$"):
        await owned.get_result(first, timeout=PATIENCE)
    USER.set("bob")
    try:
        second = await owned.run_again(first)
    except RunAgainError as error:
        pytest.skip(error.reason)
    assert await owner_of(owned, second) == "ann"
    assert await label_of(owned, second) == await label_of(owned, first) == "of own"
    again = await owned.get_task(second)
    assert again is not None
    assert (again.meta, list(again.arguments.values())) == ({"kind": "own"}, ["own"])
    with pytest.raises(ShopError, match=r"^\('tea', 3\)$"):
        await owned.get_result(second, timeout=PATIENCE)


async def walk(manager: TaskManager, **filters: Any) -> list[str]:
    """Return the ids of all tasks that match, page by page with an offset; check each total."""
    found: list[str] = []
    while True:
        page = await manager.list_tasks(**filters, limit=3, offset=len(found))
        found += [str(task.task_id) for task in page.tasks]
        if page.next is None:
            assert page.total == len(found)
            assert list(manager.get_all_tasks(**filters, offset=1)) == found[1:]
            return found
        assert page.total > len(found)


@pytest.mark.parametrize("backend", back_ends([*NAMES, "memory+celery"]), indirect=True)
async def test_lists(owned: TaskManager) -> None:
    """Tasks are found by owner, name, statuses and text, and all pages together have each once."""
    # Redis knows the ids of other tests.
    ids, mine = list[str](), f"No_{random_id()[:8]}"
    for number in range(9):
        USER.set(("ann", "bob", None)[number % 3])
        function, args = (tasks.fail, ("own",)) if number % 4 == 0 else (tasks.add, (number,))
        about = f"Number {number} of 9"
        label = partial("{} {}".format, mine) if number % 2 else f"{mine} even"
        meta: dict[str, str | int] = {"mine": mine, "number": number} if number % 2 else {}
        ids.append(
            await owned.submit(
                function,
                args,
                description=about,
                task_id=f"{mine}_{number}",
                label=label,
                meta=meta,
            )
        )
        await asyncio.wait([asyncio.ensure_future(owned.get_result(ids[-1], timeout=PATIENCE))])
    ids.append(await owned.submit(tasks.add, (9,), delay=3_600, task_id=f"{mine}_9"))
    newest = ids[::-1]
    failed = [ids[number] for number in (8, 4, 0)]
    name = "tests.processes.conformance.tasks.add"
    assert await walk(owned) == newest
    assert await walk(owned, owner="ann") == [ids[6], ids[3], ids[0]]
    assert await walk(owned, owner="eve") == []
    assert await walk(owned, status="failed") == failed
    assert await walk(owned, status=("failed", TaskStatus.PENDING)) == [ids[9], *failed]
    assert await walk(owned, status=list(TaskStatus)) == newest
    assert await walk(owned, name=name, owner="bob") == [ids[7], ids[1]]

    @background_task(name="tasks.add")
    def namesake() -> None:
        """Have a name that ends the other one, and no tasks."""

    assert await walk(owned, name="tasks.add", owner="bob") == [ids[7], ids[1]]
    assert await walk(owned, name="asks.add", owner="bob") == []
    assert await walk(owned, name=name, status={"completed"}, owner="ann") == [ids[6], ids[3]]
    assert await walk(owned, label=f"{mine} 3") == [ids[3]]
    assert await walk(owned, label=f"{mine} even", owner="bob") == [ids[4]]
    odd = [ids[number] for number in (7, 5, 3, 1)]
    assert await walk(owned, meta={"mine": mine}) == odd
    assert await walk(owned, meta={"number": 3, "mine": mine}, owner="ann") == [ids[3]]
    assert await walk(owned, meta={"number": "3"}) == []
    assert await walk(owned, search="EVEN", status="failed") == failed
    assert await walk(owned, search="NUMBER 3") == [ids[3]]
    assert await walk(owned, search=mine.swapcase()) == newest
    assert await walk(owned, search="tasks.FAIL", owner="bob") == [ids[4]]
    assert await walk(owned, search="%") == []
