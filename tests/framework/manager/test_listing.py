"""Pages of tasks: each once, in the order of submission, whatever happens between two pages."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pytest

from framework import (
    TaskManager,
    TaskPage,
    TaskStatus,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework._manager.face.listing import counts_of
from framework._records.checks import show
from framework.protocols import PageQuery, TaskRecord
from framework.stores.memory import MemoryStore
from tests.framework.faults.refusals import said_by


class PlainStore:
    """A store of somebody else, which has no pages."""

    def __init__(self) -> None:
        self.records: dict[str, TaskRecord] = {}

    def put(self, record: TaskRecord) -> None:
        """Keep a record."""
        self.records[record.task_id] = record

    def get(self, task_id: str) -> TaskRecord | None:
        """Return a record."""
        return self.records.get(task_id)

    def list(self, status: TaskStatus | None = None) -> Iterable[TaskRecord]:
        """Return the records."""
        return [one for one in self.records.values() if status is None or one.status is status]

    def remove(self, **_: Any) -> tuple[int, Iterable[TaskRecord]]:
        """Remove nothing."""
        return 0, []


@background_task
def add(number: int) -> int:
    """Return the next number."""
    return number + 1


@background_task(name="shop.fail")
def fail() -> None:
    """Fail."""
    raise LookupError("no such page")


async def walk(manager: TaskManager, **options: Any) -> list[str]:
    """Return the ids of all pages."""
    found: list[str] = []
    page = await manager.list_tasks(**options)
    while True:
        found += [str(task.task_id) for task in page.tasks]
        if page.next is None:
            return found
        assert len(page.tasks) == options.get("limit", 50)
        page = await manager.list_tasks(**options, after=page.next)


async def test_every_task_once() -> None:
    """All pages together have every task once, by any filter and in both orders."""
    for store in (None, PlainStore()):
        await _check_pages(store)


async def _check_pages(store: Any) -> None:
    async with setup_async_framework(None, store=store):
        manager = get_task_manager()
        gate = threading.Event()
        ids = [add(number) if number % 3 else fail() for number in range(11)]
        held = await manager.submit(gate.wait)
        for task_id in ids[1::3] + ids[2::3]:
            await manager.get_result(task_id)
        for task_id in ids[::3]:
            with pytest.raises(LookupError, match=r"^no such page$"):
                await manager.get_result(task_id)
        failed = ids[::3][::-1]
        try:
            for limit in (1, 3, 4, 12, 1_000):
                assert await walk(manager, limit=limit) == [held, *ids[::-1]]
                assert await walk(manager, limit=limit, oldest_first=True) == [*ids, held]
                assert await walk(manager, limit=limit, status="failed") == failed
                assert await walk(manager, limit=limit, name="shop.fail") == failed
                assert await walk(manager, limit=limit, status=TaskStatus.RUNNING) == [held]
                assert await walk(manager, limit=limit, name="shop.fail", status="running") == []
                assert await walk(manager, limit=limit, name="nobody") == []
                assert await walk(manager, limit=limit, search="P.FA") == failed
                both = await walk(manager, limit=limit, status=("failed", "running"))
                assert both == [held, *failed]
                for offset in (0, 1, 5, 12, 100):
                    page = await manager.list_tasks(limit=limit, offset=offset)
                    found = [held, *ids[::-1]][offset : offset + limit]
                    assert [str(task.task_id) for task in page.tasks] == found
                    assert page.total == 12
                    assert list(manager.get_all_tasks(limit=limit, offset=offset)) == found
            assert list(manager.get_all_tasks(search=ids[4])) == [ids[4]]
            assert list(manager.get_all_tasks(name="shop.fail")) == failed
        finally:
            gate.set()


async def test_tasks_that_come_and_end_meanwhile(task_manager: TaskManager) -> None:
    """Tasks that are submitted, end or are forgotten between two pages shift no others."""
    gates = [threading.Event() for _ in range(6)]
    ids = [await task_manager.submit(gate.wait) for gate in gates]
    page = await task_manager.list_tasks(limit=2)
    found = [str(task.task_id) for task in page.tasks]
    for gate in gates[2:]:
        gate.set()
    for task_id in ids[2:]:
        await task_manager.get_result(task_id)
    await task_manager.submit(int, wait=True)
    task_manager.cleanup_completed_tasks(0.0)
    for gate in gates[:2]:
        gate.set()
    page = await task_manager.list_tasks(limit=2, after=page.next)
    found += [str(task.task_id) for task in page.tasks]

    assert found == [ids[5], ids[4], ids[1], ids[0]]
    assert page.next is None


async def test_a_page_shows_snapshots(task_manager: TaskManager) -> None:
    """A task of a page does not change, and reading its error counts as reading the failure."""
    task_id = fail()
    with pytest.raises(LookupError, match=r"^no such page$"):
        await task_manager.get_result(task_id)
    page = await task_manager.list_tasks()

    assert isinstance(page, TaskPage)
    assert [task.to_dict() for task in page.tasks] == [task_manager.get_all_tasks()[task_id]]
    assert repr(page.tasks[0].error) == "LookupError('no such page')"


async def test_store_with_pages_is_not_listed() -> None:
    """A store that has pages is not asked for all of its tasks."""

    class Store(MemoryStore):
        """Notes what it is asked for."""

        def __init__(self) -> None:
            super().__init__()
            self.queries: list[PageQuery] = []

        def page(self, query: PageQuery) -> Sequence[TaskRecord]:
            """Note the query."""
            self.queries.append(query)
            return super().page(query)

        def list(self, status: TaskStatus | None = None) -> Any:
            """Return nothing, which the framework asks for when it stops."""
            return []

    store = Store()
    async with setup_async_framework(None, store=store):
        task_id = await get_task_manager().submit(int)
        await get_task_manager().get_result(task_id)
        page = await get_task_manager().list_tasks(limit=7)

    assert [task.task_id for task in page.tasks] == [task_id]
    assert store.queries == [PageQuery(8)]


def cursor(*parts: Any) -> str:
    """Return what a client could make up."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


BAD_CURSORS = [
    "",
    "x",
    "ü",
    "WzAs",
    "=" * 9,
    "[" * 5_000,
    cursor(0, 1.0),
    cursor(0, 1, "a"),
    cursor(0, float("nan"), "a"),
    cursor(0, 1.0, "a\0"),
    cursor(0, 1.0, ""),
    cursor(0, 1.0, 5),
    cursor(True, 1.0, "a"),
    base64.b64encode(b'{"a": 1, "b": 2, "c": 3}').decode(),
    base64.b64encode(b"5").decode(),
]


async def test_made_up_cursor(task_manager: TaskManager) -> None:
    """A cursor that is not of a page is refused, whatever it is."""
    found = {
        after: await said_by(partial(task_manager.list_tasks, after=after)) for after in BAD_CURSORS
    }

    assert found == {
        after: f"ValueError: after must be the 'next' of a page, not {show(after)}: omit it for "
        "the first page"
        for after in BAD_CURSORS
    }


async def test_cursor_of_the_other_order(task_manager: TaskManager) -> None:
    """The cursor of one order is refused in the other, where it would skip tasks."""
    for _ in range(2):
        await task_manager.submit(int, wait=True)
    page = await task_manager.list_tasks(limit=1)

    with pytest.raises(
        ValueError,
        match=r"^after must be the 'next' of a page in the same order: pass the same oldest_first "
        r"for all pages$",
    ):
        await task_manager.list_tasks(after=page.next, oldest_first=True)


STATUSES = (
    "status must be 'pending' or 'running' or 'completed' or 'failed' or 'timeout' or 'cancelled' "
    "or 'interrupted', not 'done'"
)
BAD_ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"limit": 0}, ValueError, "limit must be a whole number from 1 to 1000, not 0"),
    ({"limit": 1_001}, ValueError, "limit must be a whole number from 1 to 1000, not 1001"),
    ({"limit": True}, TypeError, "limit must be a whole number from 1 to 1000, not True"),
    ({"limit": 5.0}, TypeError, "limit must be a whole number from 1 to 1000, not 5.0"),
    ({"name": 5}, TypeError, "name must be a string, not 5"),
    ({"after": 5}, TypeError, "after must be a string, not 5"),
    ({"oldest_first": 1}, TypeError, "oldest_first must be True or False, not 1"),
    ({"offset": -1}, ValueError, "offset must be a whole number of at least 0, not -1"),
    ({"offset": True}, TypeError, "offset must be a whole number of at least 0, not True"),
    ({"search": 5}, TypeError, "search must be a string, not 5"),
    (
        {"search": "x" * 256},
        ValueError,
        f"search must have at most 255 characters, not 256: {show('x' * 256)}",
    ),
    (
        {"owner": 5},
        TypeError,
        (
            "owner must be a string of 1 to 255 printable characters, or None for nobody, not "
            "5: use an id as a string, such as str(user.id)"
        ),
    ),
    (
        {"status": []},
        ValueError,
        "status must be a status, or a collection with at least one, not []: omit it for all",
    ),
    (
        {"status": ["failed", "done"]},
        ValueError,
        STATUSES,
    ),
    (
        {"status": "done"},
        ValueError,
        STATUSES,
    ),
]


async def test_bad_arguments(task_manager: TaskManager) -> None:
    """An argument of no use is refused, with what is allowed."""
    wrong = {}
    for options, error, message in BAD_ARGUMENTS:
        found = await said_by(partial(task_manager.list_tasks, **options))
        if found != f"{error.__name__}: {message}":
            wrong[repr(options)] = found
    assert wrong == {}


async def test_no_tasks(task_manager: TaskManager) -> None:
    """Where there are no tasks, there is one page without any."""
    assert await task_manager.list_tasks() == TaskPage([], None, 0)


class OlderStore(MemoryStore):
    """A store of somebody else, which has pages and knows nothing of later filters."""

    count = None  # type: ignore[assignment]  # a store without this method

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[PageQuery] = []
        self.lists = 0

    def page(self, query: PageQuery) -> Sequence[TaskRecord]:
        """Return a page by the attributes that there were at first."""
        self.asked.append(query)
        known = PageQuery(query.limit, query.status, query.name, query.after, query.oldest_first)
        return super().page(known)

    def list(self, status: TaskStatus | None = None) -> Any:
        """Return the records."""
        self.lists += 1
        return super().list(status)


class CountedStore(PlainStore):
    """A store of somebody else that counts, but by no field."""

    def page(self, query: PageQuery) -> Sequence[TaskRecord]:
        """Return a page."""
        return query.first(self.records.values())

    def count(self, query: PageQuery) -> int:
        """Return how many match."""
        return sum(map(query.counts, self.records.values()))


ADD = f"{__name__}.add"


@background_task(name="waits")
def waits(held: threading.Event) -> None:
    """Wait until the end of the test."""
    held.wait()


async def test_counts_by_a_field() -> None:
    """Tasks are counted by each field, live ones as well, whatever the store can do."""
    for store in (MemoryStore(), PlainStore(), CountedStore()):
        await _check_counts(store)


async def _check_counts(store: Any) -> None:
    async with setup_async_framework(None, store=store):
        manager, held = get_task_manager(), threading.Event()
        manager._core.owners.own_by(lambda: "ann")
        for task in [await manager.submit(add, (1,)), await manager.submit(add, (2,))]:
            await manager.get_result(task)
        manager._core.owners.own_by(lambda: None)
        await manager.submit(waits, (held,))
        found = {
            field: await counts_of(manager._core, PageQuery(1, name=name), field)
            for field, name in (("owner", None), ("name", None), ("status", ADD))
        }
        held.set()
    assert found["owner"] == {"ann": 2, None: 1}
    assert found["name"] == {ADD: 2, "waits": 1}
    assert found["status"] == dict.fromkeys(TaskStatus, 0) | {TaskStatus.COMPLETED: 2}


async def test_a_store_that_knows_nothing_of_later_filters() -> None:
    """A store with pages of an earlier release gives right answers, and is never asked too much."""
    store = OlderStore()
    async with setup_async_framework(None, store=store):
        manager = get_task_manager()
        manager._core.owners.own_by(lambda: "ann" if manager.get_stats()["submitted"] % 2 else None)
        ids = [await manager.submit(int) for _ in range(6)]
        for task_id in ids:
            await manager.get_result(task_id)
        before = store.lists
        page = await manager.list_tasks(limit=2)
        assert [task.task_id for task in page.tasks] == ids[:3:-1]
        assert page.total == 6
        page = await manager.list_tasks(owner="ann", limit=2, offset=1)
        assert [task.task_id for task in page.tasks] == [ids[3], ids[1]]
        assert page.total == 3
        page = await manager.list_tasks(search=ids[2])
        assert [task.task_id for task in page.tasks] == [ids[2]]
        failed = await manager.failed()
        assert (failed.tasks, failed.total) == ([], 0)
        assert store.lists - before == 4, "once for each total"
        counted = await counts_of(manager._core, PageQuery(1), "owner")
        assert counted == {"ann": 3, None: 3}
    assert all(query.is_plain for query in store.asked)
