"""`manager.failed`: the tasks that failed since a moment, page by page."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest

from framework import (
    TaskManager,
    TaskStatus,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework.protocols import TaskStore
from framework.protocols._features import features_of
from framework.stores.memory import MemoryStore
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.executor import DeterministicExecutor
from pytest_asyncframe.probe import Probe
from tests.framework.faults.refusals import said_by
from tests.framework.manager.test_listing import PlainStore, add, fail
from tests.patience import PATIENCE

pytestmark = pytest.mark.asyncframe(lost_failures="off", leaks="off")


@background_task(timeout=5)
async def hang() -> None:
    """Run past the limit."""
    await asyncio.Event().wait()


def put_in(manager: TaskManager, store: TaskStore) -> None:
    """Let a manager that has no tasks yet keep them in *store*."""
    ledger = manager._core.ledger
    ledger.store, ledger.features = store, features_of(store)


async def ids_of(manager: TaskManager, *args: Any, **options: Any) -> list[str]:
    """Return the ids of all pages, newest first."""
    found, after = [], None
    while True:
        page = await manager.failed(*args, **options, after=after)
        found += [str(task.task_id) for task in page.tasks]
        after = page.next
        if after is None:
            return found


async def test_what_failed(asyncframe: Probe) -> None:
    """FAILED and TIMEOUT tasks are listed; COMPLETED and CANCELLED ones are not."""
    manager = asyncframe.manager
    ids = [fail(), add(1), hang(), fail()]
    cancelled = add.options(delay=3_600)(2)
    await manager.cancel_task(cancelled)
    await asyncframe.settled()
    failed = sorted([ids[0], ids[2], ids[3]], reverse=True)  # all at the same moment
    assert await ids_of(manager) == failed
    assert await ids_of(manager, name="shop.fail") == sorted([ids[0], ids[3]], reverse=True)
    assert await ids_of(manager, limit=1) == failed
    assert await ids_of(manager, name="shop.fai") == []


async def test_what_was_interrupted() -> None:
    """A task that a shutdown has cut short is listed as well."""
    gate, started = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def block() -> None:
        loop.call_soon_threadsafe(started.set)
        gate.wait(PATIENCE)

    async with setup_async_framework(None, graceful_shutdown_timeout=0):
        manager = get_task_manager()
        task_id = manager.submit_nowait(block)
        await started.wait()
    gate.set()
    (task,) = (await manager.failed()).tasks
    assert (task.task_id, task.status) == (task_id, TaskStatus.INTERRUPTED)


async def test_listing_is_not_reading(asyncframe: Probe) -> None:
    """A listed failure does not count as read."""
    asyncframe.manager.submit_nowait(fail)
    await asyncframe.settled()
    (task,) = (await asyncframe.manager.failed()).tasks
    assert not task._record.read


@pytest.mark.parametrize("plain", [False, True], ids=["memory", "somebody else's"])
def test_since_counts_from_the_end_of_a_task(
    task_manager: TaskManager,
    task_executor: DeterministicExecutor,
    task_clock: VirtualClock,
    plain: bool,
) -> None:
    """`since` is compared with when a task ended, in every store, also of packed records."""
    if plain:
        put_in(task_manager, PlainStore())
    ids = []
    for number in range(600):
        ids.append(fail() if number % 100 == 99 else add(number))
        task_clock.advance(1)
        task_executor.drain()
    failed = [str(task_id) for task_id in reversed(ids[99::100])]
    now = task_clock.now()

    async def found(since: Any, **options: Any) -> list[str]:
        return await ids_of(task_manager, since, **options)

    # They ended 0, 100, ... 500 seconds ago.
    for ago, many in ((0, 1), (99.5, 1), (100, 2), (499, 5), (10_000, 6)):
        moment = now - timedelta(seconds=ago)
        expected = failed[:many]
        assert asyncio.run(found(ago)) == expected
        assert asyncio.run(found(timedelta(seconds=ago), limit=2)) == expected
        assert asyncio.run(found(moment, name="shop.fail")) == expected
        assert asyncio.run(found(moment.astimezone(timezone(timedelta(hours=9))))) == expected
    assert asyncio.run(found(now + timedelta(days=1))) == []


def test_since_the_end_of_a_task(
    task_manager: TaskManager, task_executor: DeterministicExecutor, task_clock: VirtualClock
) -> None:
    """Since the `ended_at` of a task it is listed itself, although that stamp is rounded."""
    for _ in range(20):
        fail()
        task_executor.drain()
        task_clock.advance(1.000_000_37)
    tasks = asyncio.run(task_manager.failed()).tasks
    assert len(tasks) == 20
    for number, task in enumerate(tasks, 1):
        assert len(asyncio.run(ids_of(task_manager, task.ended_at))) == number


def test_a_long_task_belongs_to_its_end(
    task_manager: TaskManager, task_executor: DeterministicExecutor, task_clock: VirtualClock
) -> None:
    """A task that was submitted before the moment and failed after it is listed."""
    task_id = fail()
    task_clock.advance(1_000)
    task_executor.drain()
    assert asyncio.run(ids_of(task_manager, 10)) == [task_id]


NAIVE = (
    "since must be a datetime with a time zone, not datetime.datetime(2026, 1, 1, 0, 0): "
    "use datetime.now(UTC), or replace(tzinfo=...)"
)
ALLOWED = "since must be a datetime with a time zone, a timedelta, a number of seconds or None"


WRONG_MOMENTS: list[tuple[object, str]] = [
    (datetime(2026, 1, 1), f"ValueError: {NAIVE}"),  # noqa: DTZ001  # what is wrong
    (-1, "ValueError: since must be a number at least 0, not -1"),
    (timedelta(seconds=-1), "ValueError: since must be a number at least 0, not -1.0"),
    (float("nan"), "ValueError: since must be a number at least 0, not nan"),
    ("yesterday", f"TypeError: {ALLOWED}, not 'yesterday'"),
    (True, f"TypeError: {ALLOWED}, not True"),
]


async def test_a_wrong_moment(task_manager: TaskManager) -> None:
    """A moment that says nothing is refused."""
    failed: Any = task_manager.failed

    found = [(since, await said_by(partial(failed, since))) for since, _ in WRONG_MOMENTS]

    assert found == WRONG_MOMENTS


async def test_wrong_options(task_manager: TaskManager) -> None:
    """The other options are those of `list_tasks`."""
    with pytest.raises(ValueError, match=r"^limit must be a whole number from 1 to 1000, not 0$"):
        await task_manager.failed(limit=0)
    with pytest.raises(ValueError, match=r"^after must be the 'next' of a page, not 'x': .*$"):
        await task_manager.failed(after="x")


def test_a_page_reads_no_more_than_it_has_to(
    task_manager: TaskManager, task_executor: DeterministicExecutor
) -> None:
    """Of a store with pages, only pages are read."""
    listed: list[Any] = []

    class Pages(MemoryStore):
        def list(self, status: Any = None) -> Any:
            listed.append(status)
            return super().list(status)

    put_in(task_manager, Pages())
    ids = [fail() for _ in range(600)]
    task_executor.drain()
    page = asyncio.run(task_manager.failed(datetime.now(UTC) - timedelta(hours=1), limit=2))
    assert [task.task_id for task in page.tasks] == ids[:-3:-1]
    assert listed == []
