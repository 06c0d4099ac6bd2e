"""Coroutines that are submitted in one iteration of a loop start in one asyncio task, in real time.

A test's own clock gives each an asyncio task of its own, so these tests run without it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest

from framework import (
    TaskCancelledError,
    TaskManager,
    TaskStatus,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from tests.framework.running.asked import Store
from tests.framework.running.messages import CANCELLED
from tests.patience import PATIENCE

Seen = list[tuple[str, Any]]  # Any: an asyncio task, or what a test notes of it

user: ContextVar[str] = ContextVar("user", default="nobody")


def in_real_time(test: Callable[[TaskManager], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run *test* with a framework in real time."""

    async def run() -> None:
        async with setup_async_framework(None, graceful_shutdown_timeout=PATIENCE):
            await test(get_task_manager())

    def sync_inner() -> None:
        asyncio.run(run())

    sync_inner.__name__, sync_inner.__doc__ = test.__name__, test.__doc__
    return sync_inner


@background_task(on_restart="resume", name="tests.resumes")
async def resumes() -> None:
    """Go on from its steps, of which it has none."""


@background_task(on_restart="requeue", name="tests.permitted")
async def asks() -> str:
    """Run once its start is permitted."""
    return "ran"


async def owner(name: str, seen: Seen) -> None:
    """Note the asyncio task that runs this, and its name."""
    task = asyncio.current_task()
    assert task is not None
    seen.append((f"{name} in {task.get_name()}", task))


@background_task(name="first")
async def first(seen: Seen) -> None:
    """Note who runs this."""
    await owner("first", seen)


@background_task(name="second")
async def second(seen: Seen) -> None:
    """Note who runs this."""
    await owner("second", seen)


@background_task(name="waits")
async def waits(seen: Seen, released: asyncio.Event) -> None:
    """Note who runs this, before and after a suspension."""
    await owner("waits", seen)
    await released.wait()
    await owner("released", seen)


async def ended(manager: TaskManager, *task_ids: str) -> list[TaskStatus]:
    """Wait for tasks and return their status."""
    found = []
    for task_id in task_ids:
        with suppress(BaseException):
            await manager.get_result(task_id)
        task = await manager.get_task(task_id)
        assert task is not None
        found.append(task.status)
    return found


def told(seen: Seen) -> list[str]:
    """Return what was noted, without the asyncio tasks."""
    return [text for text, _ in seen]


@in_real_time
async def test_tasks_that_are_not_suspended_share_one(manager: TaskManager) -> None:
    """Coroutines that are not suspended run in one asyncio task, under the name of each."""
    seen: Seen = []
    ids = first(seen), second(seen)

    assert await ended(manager, *ids) == [TaskStatus.COMPLETED] * 2
    assert told(seen) == ["first in asyncframe first", "second in asyncframe second"]
    assert seen[0][1] is seen[1][1]


@in_real_time
async def test_a_suspended_one_keeps_it(manager: TaskManager) -> None:
    """A coroutine that is suspended goes on in its asyncio task, and those after it elsewhere."""
    seen: Seen = []
    released = asyncio.Event()
    ids = first(seen), waits(seen, released), second(seen)

    assert await ended(manager, ids[0], ids[2]) == [TaskStatus.COMPLETED] * 2
    released.set()
    assert await ended(manager, ids[1]) == [TaskStatus.COMPLETED]
    assert told(seen) == [
        "first in asyncframe first",
        "waits in asyncframe waits",
        "second in asyncframe second",
        "released in asyncframe waits",
    ]
    shared, suspended, other, resumed = (task for _, task in seen)
    assert (shared is suspended, resumed is suspended, other is suspended) == (True, True, False)


@in_real_time
async def test_cancelling_a_suspended_one(manager: TaskManager) -> None:
    """Cancelling a task cancels its coroutine alone, though others have shared its start."""
    seen: Seen = []
    started = asyncio.Event()

    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    ids = first(seen), manager.submit_nowait(wait), second(seen)
    await started.wait()
    await manager.cancel_task(ids[1])

    assert await ended(manager, *ids) == [
        TaskStatus.COMPLETED,
        TaskStatus.CANCELLED,
        TaskStatus.COMPLETED,
    ]


@in_real_time
async def test_one_that_cancels_its_asyncio_task(manager: TaskManager) -> None:
    """A coroutine that cancels its asyncio task without being suspended cancels no other."""
    seen: Seen = []
    released = asyncio.Event()

    async def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    ids = manager.submit_nowait(cancel), waits(seen, released), second(seen)

    assert await ended(manager, ids[0], ids[2]) == [TaskStatus.COMPLETED] * 2
    released.set()
    assert await ended(manager, ids[1]) == [TaskStatus.COMPLETED]


@in_real_time
async def test_one_that_raises(manager: TaskManager) -> None:
    """An error, or an exit, of one coroutine ends that task and none of the others."""
    seen: Seen = []

    async def leave() -> None:
        raise SystemExit(3)

    ids = manager.submit_nowait(leave), first(seen)

    assert await ended(manager, *ids) == [TaskStatus.FAILED, TaskStatus.COMPLETED]


@in_real_time
async def test_one_that_was_cancelled_before(manager: TaskManager) -> None:
    """A task that is cancelled before the loop comes to it does not run, and the others do."""
    seen: Seen = []
    ids = first(seen), second(seen)
    await manager.cancel_task(ids[0])

    with pytest.raises(TaskCancelledError, match=CANCELLED):
        await manager.get_result(ids[0])
    assert await ended(manager, ids[1]) == [TaskStatus.COMPLETED]
    assert told(seen) == ["second in asyncframe second"]


@in_real_time
async def test_contexts_stay_apart(manager: TaskManager) -> None:
    """Each coroutine has the context of its submission, though they share an asyncio task."""

    async def whose(sets: str) -> str:
        found = user.get()
        user.set(sets)
        return found

    user.set("ada")
    one = manager.submit_nowait(whose, args=("mallory",))
    user.set("bob")
    other = manager.submit_nowait(whose, args=("mallory",))

    assert [await manager.get_result(one), await manager.get_result(other)] == ["ada", "bob"]
    assert user.get() == "bob"


@in_real_time
async def test_a_factory_of_the_app_makes_one_for_each(manager: TaskManager) -> None:
    """If the loop has a task factory, each coroutine has an asyncio task from it."""
    seen: Seen = []
    made = []

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(options.pop("name", None))
        return asyncio.Task(coroutine, loop=loop, name=made[-1], **options)

    asyncio.get_running_loop().set_task_factory(make)
    ids = first(seen), second(seen)

    assert await ended(manager, *ids) == [TaskStatus.COMPLETED] * 2
    assert told(seen) == ["first in asyncframe first", "second in asyncframe second"]
    assert seen[0][1] is not seen[1][1]


@in_real_time
async def test_the_factory_that_numbers_branches_lets_them_share(manager: TaskManager) -> None:
    """A task with steps has run on the loop, and others start in one asyncio task as before."""
    seen: Seen = []
    await manager.get_result(resumes())
    ids = first(seen), second(seen)

    assert asyncio.get_running_loop().get_task_factory() is not None
    assert await ended(manager, *ids) == [TaskStatus.COMPLETED] * 2
    assert seen[0][1] is seen[1][1]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager task factories came with 3.12")
@in_real_time
async def test_an_eager_factory(manager: TaskManager) -> None:
    """A coroutine starts only once its submission has returned, with eager asyncio tasks too."""
    seen: Seen = []
    loop: Any = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    task_id = first(seen)
    before = told(seen)

    assert await ended(manager, task_id) == [TaskStatus.COMPLETED]
    assert (before, len(seen)) == ([], 1)


@in_real_time
async def test_an_asyncio_task_that_is_cancelled_before_it_starts(manager: TaskManager) -> None:
    """Coroutines run after all if their asyncio task was cancelled and another one is submitted."""
    seen: Seen = []
    others = asyncio.all_tasks()
    lost = first(seen)
    (shared,) = asyncio.all_tasks() - others
    shared.cancel()
    await asyncio.wait([shared])
    later = second(seen)

    assert await ended(manager, lost, later) == [TaskStatus.COMPLETED] * 2
    assert sorted(told(seen)) == ["first in asyncframe first", "second in asyncframe second"]


@pytest.mark.parametrize("from_thread", [False, True])
def test_one_that_needs_a_permit_shares_with_no_other(from_thread: bool) -> None:
    """A coroutine that starts only when the store permits it does not start with one before it."""
    store, seen = Store(), Seen()

    def both() -> tuple[str, str]:
        return first(seen), asks()

    async def run() -> None:
        async with setup_async_framework(None, store=store, graceful_shutdown_timeout=0):
            manager = get_task_manager()
            before, asking = await asyncio.to_thread(both) if from_thread else both()
            assert await ended(manager, before) == [TaskStatus.COMPLETED]
            assert await asyncio.to_thread(store.has_asked.wait, PATIENCE)
            task = await manager.get_task(asking)
            assert task is not None
            assert task.status is TaskStatus.PENDING
            store.asked.pop()(True)

            assert await manager.get_result(asking, timeout=PATIENCE) == "ran"

    asyncio.run(run())
