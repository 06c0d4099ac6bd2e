"""Pages of a database: the same in every process, and as quick at the end as at the start."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from framework import TaskManager, background_task, get_task_manager, setup_async_framework
from framework._records.about.meta import meta_filter
from framework._records.pages import FIELDS, STATUS, PageQuery, key_of, start_spans, wall_end
from framework._records.records import Heading, TaskRecord
from framework._records.statuses import TaskStatus
from framework.exceptions import StoreUnavailableError
from framework.stores.sql import SQLStore
from framework.stores.sql._dialects.sqlite import SQLite
from framework.stores.sql._reading import mirror, pages
from framework.stores.sql._reading.pages import Pages
from framework.stores.sql._reading.shapes import shape_of
from framework.stores.sql._tables.statements import Statements
from tests.processes.sql.siblings import COMPLETED, FAILED, INTERRUPTED, PENDING, START, Peer, peers

NAMES = ("shop.pack", "shop.send", "mail")
STATUSES = (COMPLETED, FAILED, TaskStatus.CANCELLED, COMPLETED)

SQLITE: Any = SQLite()


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold two finished tasks in memory."""
    monkeypatch.setattr(mirror, "HELD", 2)
    monkeypatch.setattr(mirror, "_SLACK", 0)


def walk(peer: Peer, query: PageQuery) -> list[str]:
    """Return the ids of all pages that a process reads."""
    found: list[TaskRecord] = []
    while True:
        after = key_of(found[-1]) if found else query.after
        page = peer.history.page(replace(query, after=after))
        found += page
        if len(page) < query.limit:
            return [str(record.task_id) for record in found]


def filled(peer: Peer, count: int) -> list[TaskRecord]:
    """Let tasks of several names end in several ways, two of them submitted at each moment."""
    tasks = []
    for number in range(count):
        task = peer.accept(heading=Heading(NAMES[number % 3], ""))
        tasks.append(peer.end(task, STATUSES[number % 4]))
        if number % 2:
            peer.clock.pass_time(1.0)
    return tasks


def expected(tasks: list[TaskRecord], query: PageQuery) -> list[str]:
    """Return the ids that all pages should have."""
    chosen = [one for one in tasks if query.matches(one)]
    return [str(one.task_id) for one in query.in_order(chosen)]


def test_every_task_once(sql_url: str) -> None:
    """All pages together have every task that matches, once and in order, in each process.

    Whether the last tasks are written or not yet, and live in this process or in another.
    """
    queries = [
        PageQuery(3, status, name, oldest_first=oldest_first)
        for status in (None, COMPLETED, FAILED, INTERRUPTED, PENDING)
        for name in (None, "mail", "nobody", "a\0b", "\ud800")
        for oldest_first in (False, True)
    ]
    with peers(sql_url) as (one, two):
        tasks = filled(one, 13)
        one.writer.batches.write()
        tasks += filled(one, 4)
        tasks.append(two.accept(heading=Heading("mail", "")))
        two.writer.batches.write()
        one.writer.follower.look()
        one.mirror.move()

        assert [query for query in queries if walk(one, query) != expected(tasks, query)] == []
        one.writer.batches.write()
        with peers(sql_url, 1) as (three,):
            assert [
                query for query in queries if walk(three, query) != expected(tasks, query)
            ] == []


def test_tasks_that_ended_since(sql_url: str) -> None:
    """Pages of tasks that ended since a moment have all of those, and no others."""
    found, wanted = {}, {}
    with peers(sql_url, 1) as (peer,):
        slow = peer.accept()
        tasks = [*filled(peer, 20), peer.end(slow, FAILED), peer.accept()]
        peer.writer.batches.write()
        for since in (0.0, 4.0, 4.5, 100.0):
            for status in (None, FAILED):
                moment = tasks[0].created_at + since
                query = PageQuery(3, status=status, ended_since=moment)
                late = [one for one in tasks if one.ended and wall_end(one) >= moment]
                found[since, status] = walk(peer, query)
                wanted[since, status] = expected(late, PageQuery(3, status=status))

    assert found == wanted


def test_submitted_at_the_same_moment(sql_url: str) -> None:
    """Tasks of one moment are in the order of their ids, by code points in every database."""
    ids = ["a", "B", "_", "ä", "Z", "é", "z", "10", "9", "😀", "\uff5e", "a b", "A"]
    with peers(sql_url, 1) as (one,):
        for task_id in ids:
            one.end(one.accept(task_id))
        assert walk(one, PageQuery(4, oldest_first=True)) == sorted(ids), "not written"
        one.writer.batches.write()
        one.clock.pass_time(1.0)
        one.finished(3)
        one.mirror.move()

        assert walk(one, PageQuery(4, oldest_first=True))[:13] == sorted(ids)
        assert walk(one, PageQuery(4))[3:] == sorted(ids, reverse=True)


def test_removed_tasks_are_on_no_page(sql_url: str) -> None:
    """A task that was removed is on no page at once, whether its row is deleted or not written."""
    with peers(sql_url, 1) as (peer,):
        written = filled(peer, 4)
        peer.writer.batches.write()
        waits = filled(peer, 4)
        removed, _, bound = peer.mirror.remove(ended_before=102.5, keep=None, completed=False)
        assert removed == 6
        assert bound is not None
        assert START + 2.0 <= bound <= START + 3.0
        peer.writer.remove(bound)

        assert len(peer.ids()) == len(written)
        assert walk(peer, PageQuery(3, oldest_first=True)) == expected(
            waits[2:], PageQuery(3, oldest_first=True)
        )


def test_own_record_is_shown(sql_url: str) -> None:
    """A page has this process's own record of a task as long as it is in memory."""
    with peers(sql_url, 1) as (peer,):
        task = peer.end(peer.accept(), FAILED)
        peer.writer.batches.write()

        assert peer.history.page(PageQuery(5)) == [task]


HEADINGS = (
    Heading("shop.pack", "Order 50% off", "ann", "parcel 7", '{"kind":"a","tenant_id":7}'),
    Heading(
        "shop.send", "to_Über", "bob", "parcel 8", '{"kind":",\\"tenant_id\\":7,","tenant_id":70}'
    ),
    Heading("mail", "[a] *?^", "ann", "parcel 7"),
    Heading("mail", "\u212aelvin", None),
)
IDS = ("{}", "ORDER-{}", "a_b%{}", "\u03a3{}", "")
"""Ids that tasks choose; "" for a random one."""

FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"status": FAILED},
    {"status": COMPLETED, "name": "mail"},
    {"statuses": frozenset({FAILED, TaskStatus.CANCELLED})},
    {"statuses": frozenset({FAILED, COMPLETED}), "owner": "ann"},
    {"statuses": frozenset({FAILED, TaskStatus.RUNNING, PENDING}), "name": "mail"},
    {"owner": "ann"},
    {"owner": "bob", "name": "shop.send", "status": COMPLETED},
    {"owner": "eve"},
    {"owner": "a\0b"},
    {"label": "parcel 7"},
    {"label": "parcel 7", "name": "mail", "status": FAILED},
    {"label": "parcel 8", "owner": "bob"},
    {"label": "parcel"},
    {"meta": meta_filter("meta", {"tenant_id": 7})},
    {"meta": meta_filter("meta", {"tenant_id": 7, "kind": "a"}), "label": "parcel 7"},
    {"meta": meta_filter("meta", {"tenant_id": 7, "kind": "b"})},
    {"meta": meta_filter("meta", {"tenant_id": 70}), "status": COMPLETED},
    {"ended_since": START + 7.5},
    {"ended_since": START + 7.5, "owner": "ann", "status": COMPLETED},
    {"ended_before": START + 7.5},
    {"ended_since": START + 3.0, "ended_before": START + 9.0, "name": "mail"},
    {"without": frozenset({"mail"})},
    {"without": frozenset({"mail", "a\0b"}), "ended_since": START + 7.5},
    {"without": frozenset({"shop.pack", "mail"}), "statuses": frozenset({FAILED, PENDING})},
    {"without": frozenset({"shop.pack"}), "owner": "ann"},
)
SEARCHES = (
    "",
    "order",
    "MAIL",
    "50%",
    "o_",
    "über",
    "t\u00d6_\u00dcBER",
    "\u00fc*",
    "?\u00fc",
    "[\u00fc",
    "[A]",
    "*?^",
    "k",
    "\u03c3",
    "\u03c2",
    "1",
    "\\",
    "nothing",
    "ARCEL 7",
    "a\0b",
    "\ud800",
)


def many(peer: Peer, count: int) -> list[TaskRecord]:
    """Let tasks of several owners and with several ids end, three submitted at each moment."""
    tasks = []
    for number in range(count):
        task_id = IDS[number % 5].format(number) or None
        task = peer.accept(task_id, heading=HEADINGS[number % 4])
        tasks.append(peer.end(task, STATUSES[number // 4 % 4]))
        if number % 3 == 2:
            peer.clock.pass_time(1.0)
    return tasks


@pytest.mark.extended("time")
def test_lists_are_those_of_records(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page and its total are what the records themselves say, by every filter and search.

    Whether the tasks are written, wait to be written, or are live in another process, and whether
    few are skipped and found, or so many that they are counted first.
    """
    with peers(sql_url, 2) as (one, two):
        tasks = many(one, 40)
        one.writer.batches.write()
        tasks += many_more(two)
        two.writer.batches.write()
        one.writer.follower.look()
        one.mirror.move()
        tasks += [one.end(one.accept(heading=HEADINGS[2]), FAILED)]
        for few in (1_000, 2):
            monkeypatch.setattr(pages, "_FEW", few)
            for filters in FILTERS:
                require_same(one, tasks, PageQuery(4, **filters))
                require_same(one, tasks, PageQuery(4, **filters, search="order"))
            for search in SEARCHES:
                require_same(one, tasks, PageQuery(4, search=search))
                require_same(one, tasks, PageQuery(4, search=search, owner="ann"))


def many_more(peer: Peer) -> list[TaskRecord]:
    """Let one task end and others stay live, one of them submitted before all others."""
    first = peer.accept("early", heading=HEADINGS[0])
    first.created_at -= 50.0
    live = [peer.accept(heading=HEADINGS[1]), peer.accept("ORDER-live", heading=HEADINGS[2])]
    return [first, peer.end(peer.accept(heading=HEADINGS[3]), COMPLETED), *live]


def require_same(peer: Peer, tasks: list[TaskRecord], query: PageQuery) -> None:
    """Check pages at several offsets and the total, in both orders, and the count by each field."""
    for field in FIELDS.values():
        counted = Counter(map(field.of, filter(query.counts, tasks)))
        assert peer.history.counts(query, field) == counted, (query, field)
    since = query.ended_since or START
    late = replace(query, ended_since=since)
    ended = [one for one in tasks if late.counts(one)]
    starts = start_spans(filter(query.counts, tasks), START + 3.0, 4.0)
    assert peer.history.starts(query, START + 3.0, 4.0) == starts, query
    spans = Counter(((wall_end(one) - since) // 4, one.status) for one in ended)
    assert peer.history.ends(late, 4.0) == spans, late
    for oldest_first in (False, True):
        query = replace(query, oldest_first=oldest_first)
        wanted = expected(tasks, query)
        for offset in sorted({0, 1, 3, len(wanted) // 2, max(0, len(wanted) - 2), len(wanted) + 1}):
            page = peer.history.page(replace(query, offset=offset))
            assert [str(found.task_id) for found in page] == wanted[offset : offset + 4], query
            assert peer.history.count(query) == len(wanted), query
        if len(wanted) > 3:
            place = key_of(next(found for found in tasks if found.task_id == wanted[1]))
            page = peer.history.page(replace(query, after=place, offset=1))
            assert [str(found.task_id) for found in page] == wanted[3:7], query


def test_written_between_two_looks(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is written while tasks are counted and skipped counts once."""
    with peers(sql_url, 1) as (peer,):
        tasks = filled(peer, 12)
        finals = peer.backlog.finals

        def then_write() -> list[TaskRecord]:
            waiting = finals()
            peer.writer.batches.write()
            return waiting

        monkeypatch.setattr(peer.backlog, "finals", then_write)
        query = PageQuery(3, name="mail", offset=2)
        assert [str(one.task_id) for one in peer.history.page(query)] == expected(tasks, query)[2:]
        assert peer.history.count(query) == 4


def test_written_while_a_page_is_read(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that are written between the two looks of a page with an offset count once.

    1. The page asks which of the tasks in memory are in the database: none.
    2. The writer writes them all.
    3. The page reads rows, and leaves out as many as the offset says.
    """
    with peers(sql_url, 1) as (peer,):
        tasks = filled(peer, 12)
        ended = peer.history._pages.ended

        def then_write(connection: Any, ids: list[str], free: bool) -> Any:
            found = ended(connection, ids, free)
            peer.writer.batches.write()
            return found

        monkeypatch.setattr(peer.history._pages, "ended", then_write)
        query = PageQuery(3, offset=2)

        page = peer.history.page(query)

    assert [str(one.task_id) for one in page] == expected(tasks, query)[2:5]


ALL = shape_of(PageQuery(1))
OF_ANN = shape_of(PageQuery(1, owner="ann"))


def test_a_page_far_behind_reads_one_index(sqlite_url: str) -> None:
    """What a page skips, and a total counts, is looked at in an index, and in no row."""
    kinds: tuple[dict[str, Any], ...] = (
        {},
        {"status": FAILED},
        {"name": "mail"},
        {"owner": "ann"},
        {"owner": "ann", "status": FAILED},
        {"name": "mail", "status": FAILED},
    )
    wrong: list[Any] = []
    with peers(sqlite_url, 1) as (peer,), peer.database.reading() as connection:
        for filters in kinds:
            for oldest_first in (False, True):
                query = PageQuery(5, offset=2_000, oldest_first=oldest_first, **filters)
                shape = shape_of(query)
                for statement in (pages._skip(SQLITE, shape)[0], pages._count(SQLITE, shape)):
                    plan = plan_of(connection, statement, query)
                    if len(plan) != 1 or "COVERING INDEX asyncframe_tasks_" not in plan[0]:
                        wrong.append((query, plan))

        for field in FIELDS.values():
            plan = plan_of(connection, pages._count(SQLITE, ALL, field), PageQuery(5))
            if len(plan) != 1 or f"COVERING INDEX asyncframe_tasks_{field.name}" not in plan[0]:
                wrong.append((field, plan))
        plan = plan_of(connection, pages._count(SQLITE, OF_ANN, STATUS), PageQuery(5, owner="ann"))
        if "COVERING INDEX asyncframe_tasks_owner (owner=?" not in plan[0]:
            wrong.append((STATUS, plan))

    assert wrong == []


def test_what_the_page_counts_reads_one_index(sqlite_url: str) -> None:
    """What started or ended when, and what has none of some names, is counted in an index alone."""
    without = PageQuery(5, without=frozenset({"mail"}))
    wrong: list[Any] = []
    with peers(sqlite_url, 1) as (peer,), peer.database.reading() as connection:
        for by in (None, STATUS):
            plan = plan_of(connection, pages._count(SQLITE, shape_of(without), by), without)
            if "SCAN asyncframe_tasks USING COVERING INDEX asyncframe_tasks_name" not in plan:
                wrong.append(plan)
        for over_time in (pages._starts(SQLITE, ALL), pages._ends(SQLITE, ALL)):
            plan = plan_of(connection, over_time, PageQuery(5), since=START, width=60.0)
            if "COVERING INDEX asyncframe_tasks_ended (ended_at>?)" not in plan[0]:
                wrong.append(plan)

    assert wrong == []


def test_an_owner_of_several_statuses_is_one_look(sqlite_url: str) -> None:
    """The page of an owner, or of a name, is read in order from one index."""
    with peers(sqlite_url, 1) as (peer,), peer.database.reading() as connection:
        both: tuple[tuple[dict[str, Any], str], ...]
        both = ({"owner": "ann"}, "owner"), ({"name": "mail"}, "name")
        for filters, index in both:
            query = PageQuery(5, statuses=frozenset({FAILED, COMPLETED}), **filters)
            page: Any = pages._page(SQLITE, shape_of(query))
            plan = plan_of(connection, page._query._statement, query)
            assert any(f"USING INDEX asyncframe_tasks_{index} " in line for line in plan), plan


def plan_of(connection: Any, statement: Any, query: PageQuery, **more: float) -> list[str]:
    """Return how SQLite answers a statement, a line for each step."""
    compiled = statement.compile(connection, compile_kwargs={"render_postcompile": True})
    values = {**pages._values(SQLITE, query, 0.0), **more}
    given = tuple(map((compiled.params | values).__getitem__, compiled.positiontup))
    found = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", given)
    return [row[-1] for row in found]


@pytest.mark.extended("time")
def test_a_page_reads_few_rows(sqlite_url: str) -> None:
    """The steps that SQLite takes for a page depend on neither the rows nor the page."""
    queries = [
        PageQuery(5, status, name, None, oldest_first)
        for status in (None, FAILED)
        for name in (None, "mail")
        for oldest_first in (False, True)
    ]
    steps: dict[PageQuery, dict[tuple[int, str], int]] = {query: {} for query in queries}
    with peers(sqlite_url, 1) as (peer,):
        for count in (200, 800):
            tasks = filled(peer, count)
            peer.writer.batches.write()
            for query in queries:
                place = key_of(tasks[count - 100 if query.oldest_first else 100])
                for page, after in (("first", None), ("last", place)):
                    taken = _steps(peer, replace(query, after=after))
                    steps[query][count, page] = taken
    # A look-up in a larger index takes a step or two more.
    assert {
        query: taken
        for query, taken in steps.items()
        if max(taken.values()) > 1.5 * taken[200, "first"]
    } == {}


def _steps(peer: Peer, query: PageQuery) -> int:
    """Return how many steps of its machine SQLite takes for a full page."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    with peer.database.reading() as connection:
        driver: Any = connection.connection.dbapi_connection
        driver.set_progress_handler(step, 1)
        rows = Pages(Statements(SQLITE)).page(connection, query, 0.0)
        driver.set_progress_handler(None, 1)
    assert len(rows) == query.limit
    return count


@background_task
def add(number: int) -> int:
    """Return the next number."""
    return number + 1


async def walk_all(manager: TaskManager, **options: Any) -> list[str]:
    """Return the ids of all pages that a framework reads."""
    page = await manager.list_tasks(**options)
    found = [str(task.task_id) for task in page.tasks]
    while page.next is not None:
        page = await manager.list_tasks(**options, after=page.next)
        found += [str(task.task_id) for task in page.tasks]
    return found


async def test_two_frameworks_see_the_same(sql_url: str) -> None:
    """Two processes list the same tasks in the same order, and more than memory holds."""
    async with setup_async_framework(None, store=SQLStore(sql_url)):
        first = get_task_manager()
        ids = [await first.submit(add, (number,)) for number in range(9)]
        await asyncio.gather(*map(first.get_result, ids))
        assert await walk_all(first, limit=4) == ids[::-1]
        assert set(first.get_all_tasks()) == set(ids)
    async with setup_async_framework(None, store=SQLStore(sql_url)):
        second = get_task_manager()
        assert not second._core.ledger.store._mirror.is_whole  # type: ignore[attr-defined]
        assert await walk_all(second, limit=4, oldest_first=True) == ids
        assert list(second.get_all_tasks()) == list(second.get_tasks_by_status("completed"))
        assert set(second.get_all_tasks()) == set(ids)
        assert second.get_active_tasks() == {}
        assert await second.get_result(ids[0]) == 1
        with pytest.raises(
            ValueError, match=rf"^task_id must be one that no task has, not '{ids[0]}'"
        ):
            second.submit_nowait(add, (1,), task_id=ids[0])
        with pytest.raises(ValueError, match=r"^task_id must be one that no task has"):
            await second.submit(add, (1,), task_id=ids[0])
        assert second.cleanup_completed_tasks(0.0) == 9
        assert await walk_all(second) == list(second.get_all_tasks()) == []


async def test_events_of_tasks_that_only_the_database_had(sqlite_url: str) -> None:
    """Whoever listens hears of every task that a clean-up removes, once."""
    async with setup_async_framework(None, store=SQLStore(sqlite_url)):
        ids = [await get_task_manager().submit(add, (number,)) for number in range(9)]
        await asyncio.gather(*map(get_task_manager().get_result, ids))
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    heard: list[str | None] = []

    def hear(event: Any) -> None:
        heard.append(event.task_id)
        if len(heard) == len(ids):
            loop.call_soon_threadsafe(done.set)

    async with setup_async_framework(None, store=SQLStore(sqlite_url)):
        get_task_manager().subscribe(hear, kinds={"evicted"})
        assert get_task_manager().cleanup_completed_tasks(0.0) == 9
        await done.wait()
        assert get_task_manager().get_stats()["evicted"] == 9

    assert sorted(map(str, heard)) == sorted(ids)


async def test_database_that_fails(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the database cannot be read, pages and lists say so, and other calls work."""
    async with setup_async_framework(None, store=SQLStore(sqlite_url)):
        ids = [await get_task_manager().submit(add, (number,)) for number in range(9)]
        await asyncio.gather(*map(get_task_manager().get_result, ids))
    async with setup_async_framework(None, store=SQLStore(sqlite_url)):
        manager = get_task_manager()
        store: Any = manager._core.ledger.store

        def fails() -> Any:
            raise OSError("the disk is gone")

        monkeypatch.setattr(store._database, "reading", fails)
        told = r"^SQLStore\(.*\) did not answer: the disk is gone; try again later$"
        with pytest.raises(StoreUnavailableError, match=told):
            await manager.list_tasks()
        with pytest.raises(StoreUnavailableError, match=told):
            manager.get_all_tasks()
        with pytest.raises(StoreUnavailableError, match=told):
            manager.submit_nowait(add, (1,), task_id="chosen")
        assert await manager.submit(add, (1,), wait=True) == 2
        assert manager.get_stats()["completed"] == 10
        monkeypatch.undo()
