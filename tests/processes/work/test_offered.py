"""A process without workers: what it submits, others run, and nothing of it stays there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from framework import (
    TaskManager,
    async_task,
    background_task,
    current_task,
    get_task_manager,
    retry_task,
    scheduled_task,
    setup_async_framework,
)
from framework._records.records import OFFERED
from framework._tasks.live import current_home
from framework.exceptions import NoWorkersError, StoreUnavailableError
from framework.stores.memory import MemoryStore
from framework.stores.sql import SQLStore
from framework.stores.sql._shared.site import Pace
from framework.stores.sql._tables.schema import META, TASKS
from pytest_asyncframe.probe import Probe
from tests.patience import PATIENCE
from tests.processes.executed import hearing

GATE = threading.Event()
RAN: list[int] = []


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Close the gate, and open it at the end for what still waits there."""
    GATE.clear()
    RAN.clear()
    yield
    GATE.set()


@background_task(on_restart="requeue", name="tests.offered")
def offered(number: int) -> int:
    """Return a number, and note it."""
    RAN.append(number)
    return number


@background_task(on_restart="requeue", name="tests.offered_loop")
async def on_loop(number: int) -> int:
    """Return a number, on a loop."""
    return number


@background_task(on_restart="requeue", name="tests.offered_gate")
def at_gate(number: int) -> int:
    """Wait at the gate."""
    GATE.wait(PATIENCE)
    RAN.append(number)
    return number


@background_task(on_restart="requeue", name="tests.offered_only", unique=True, max_running=1)
def only(number: int) -> int:
    """Return a number, as the only one of its kind."""
    return number


@background_task(on_restart="requeue", name="tests.offered_again")
@retry_task(max_retries=2, retry_delay=0.01)
def again(number: int) -> int:
    """Fail at first."""
    RAN.append(number)
    if len(RAN) < 3:
        raise ValueError("not yet")
    return number


@background_task
def plain() -> None:
    """Stand for a function that no other process may run."""


@async_task
def awaited() -> int:
    """Stand for a function that needs a thread here."""
    return 1


@async_task
async def in_place() -> int:
    """Run where it is awaited."""
    return 2


@asynccontextmanager
async def process(url: str, max_workers: int, **options: Any) -> AsyncIterator[TaskManager]:
    """Run a process of an app."""
    store = SQLStore(url, durable=options.pop("durable", False))
    store._pace = Pace(beat=0.1)
    settings = {"graceful_shutdown_timeout": 0.0, **options}
    async with setup_async_framework(None, max_workers=max_workers, store=store, **settings):
        yield get_task_manager()


def store_of(manager: TaskManager) -> Any:
    """Return the store of a process."""
    return manager._core.ledger.shared


def rows(manager: TaskManager) -> list[Any]:
    """Return the rows of all tasks, the oldest first."""
    with store_of(manager)._database.reading() as connection:
        return list(connection.execute(sa.select(TASKS).order_by(TASKS.c.created_at)))


def version(manager: TaskManager) -> int:
    """Return how many transactions have written tasks."""
    with store_of(manager)._database.reading() as connection:
        return int(connection.execute(sa.select(META.c.version)).scalar_one())


@contextmanager
def current(manager: TaskManager) -> Iterator[None]:
    """Make the framework of a process the current one."""
    token = current_home.set(manager._core.intake.home())
    yield
    current_home.reset(token)


@pytest.mark.extended("time")
@pytest.mark.parametrize("durable", [False, True])
async def test_others_run_them(sql_url: str, durable: bool) -> None:
    """Every way to submit a task leads to its result, which another process has made."""
    async with process(sql_url, 0, durable=durable) as web, process(sql_url, 2) as worker:
        assert await web.submit(offered, (1,), wait=True) == 1
        assert await web.get_result(await web.submit(on_loop, (2,)), PATIENCE) == 2
        assert await web.map(offered, range(3, 9), max_running=4) == [3, 4, 5, 6, 7, 8]
        with current(web):
            assert await web.gather([offered(9), on_loop(10)]) == [9, 10]
            assert await asyncio.to_thread(web.wait_result, offered(11), PATIENCE) == 11
        RAN.clear()
        task_id = await web.submit(again, (12,), description="third time")
        assert await web.get_result(task_id, PATIENCE) == 12
        task = await web.get_task(task_id)
        assert task is not None
        assert (task.description, task.attempts, task.status) == ("third time", 3, "completed")
        assert (web.get_stats()["completed"], web.get_stats()["submitted"]) == (12, 12)
        assert "requeued" not in worker.get_stats()
        assert web._core.ledger.submitted == 0, "all of them are the worker's"


async def test_what_no_other_process_may_run(sqlite_url: str) -> None:
    """What could never run is refused at the call, and nothing of it is left; a coroutine runs."""
    async with process(sqlite_url, 0) as web:
        for refused in (lambda: web.submit(plain), awaited, lambda: web.submit(len, ("a",))):
            with pytest.raises(
                NoWorkersError,
                match=r"^\S+ cannot run in this process, which has max_workers=0 and only submits, "
                r"nor in another one: declare it with @background_task\(on_restart='requeue'\), so "
                r"that a worker may run it, or give this process workers$",
            ):
                await refused()
        assert await in_place() == 2
        assert web.get_stats()["submitted"] == 1
        assert web._core.ledger.unfinished() == []


def test_set_up_without_a_store(sqlite_url: str) -> None:
    """A process that could only submit, and not to anybody, is refused when it is set up."""
    for store in (None, MemoryStore()):
        with pytest.raises(
            ValueError,
            match=r"^max_workers=0 needs a store that other processes share, from which they take "
            r"the tasks, such as store=SQLStore\(url\), not store=.*$",
        ):
            setup_async_framework(None, max_workers=0, store=store)


async def test_nothing_stays(sqlite_url: str) -> None:
    """One row for each task is all that is left of it, written once."""
    async with process(sqlite_url, 0) as web:
        before = version(web)
        ids = [await web.submit(only, (number,)) for number in range(200)]
        ids += [await web.submit(offered, (number,), delay=3_600) for number in range(20)]
        core: Any = web._core
        store = store_of(web)
        assert core.ledger.unfinished() == []
        found = [(row.process, row.status, row.reason[:8]) for row in await settled(web, 220)]
        assert found == [("", "pending", OFFERED[:8])] * 200 + [("", "pending", '@["delay')] * 20
        assert version(web) - before < 220 * 2 + 20
        await core.others.call(lambda: None)
        assert (store._backlog.live, store._writer.lines._inside) == ({}, {})
        assert (store._writer.batches.drafts._with_call, core.places._tasks) == (set(), {})
        assert not len(core.places.delays)
        assert set(web.get_active_tasks()) == set(ids)
        assert await web.submit(only, (7,)) == ids[7], "it is there already"
        await web.submit(offered, (1,), task_id="chosen")
        for again_ in (web.submit(offered, (2,), task_id="chosen"), chosen(web)):
            with pytest.raises(ValueError, match=r"^task_id must be one that no task has, not "):
                await again_
        await settled(web, 221)
        with pytest.raises(ValueError, match=r"^task_id must be one that no task has, not "):
            await chosen(web)


async def chosen(manager: TaskManager) -> None:
    """Submit a task with an id that is in use, without waiting."""
    manager.submit_nowait(offered, (2,), task_id="chosen")


async def settled(manager: TaskManager, count: int) -> list[Any]:
    """Return all rows once they are written."""
    store = store_of(manager)
    while store._backlog.waits or len(store._backlog):
        await manager._core.others.call(lambda: None)
    found = rows(manager)
    assert len(found) == count
    return found


async def test_durable(sqlite_url: str) -> None:
    """With a durable store the task is free when its id is returned, by one transaction."""
    async with process(sqlite_url, 0, durable=True) as web:
        await web.submit(offered, (1,))
        before = version(web)
        task_id = await web.submit(offered, (2,))
        assert [row.process for row in rows(web)] == ["", ""]
        assert version(web) == before + 1
        assert [task_id in web.get_active_tasks(), web.get_stats()["pending"]] == [True, 2]


@pytest.mark.extended("time")
async def test_many_at_once(sql_url: str) -> None:
    """More than a batch that are submitted together are one transaction, and each is run once."""
    many = 600
    async with process(sql_url, 0, durable=True) as web:
        await web.submit(offered, (many,))
        before = version(web)
        ids = await web.submit_many(offered, range(many))
        assert version(web) == before + 1
        async with process(sql_url, 4):
            assert await web.gather(ids) == list(range(many))
    assert sorted(RAN) == list(range(many + 1))


async def test_a_map_writes_together(sqlite_url: str) -> None:
    """The tasks that a map submits at the same time are written in a few transactions."""
    many = 60
    async with process(sqlite_url, 0, durable=True) as web, process(sqlite_url, 4):
        made: list[str] = []
        with hearing(store_of(web)._database._engine, lambda text, _: made.append(text)):
            assert await web.map(offered, range(many), max_running=many) == list(range(many))
        written = [one for one in made if one.startswith("INSERT INTO asyncframe_tasks")]
        assert 1 <= len(written) <= 5, "one each would be 60"


async def test_a_submission_that_is_not_stored(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task whose submission was refused for want of a store never runs, also not later."""
    from framework.stores.sql import _backlog

    async with process(sqlite_url, 0, durable=True) as web:
        batches = store_of(web)._writer.batches
        monkeypatch.setattr(_backlog, "SECURE_PATIENCE", 0.2)
        with monkeypatch.context() as fails:

            def refuse() -> None:
                raise sa.exc.OperationalError("BEGIN", {}, OSError("disk I/O error"))

            fails.setattr(batches, "write", refuse)
            with pytest.raises(
                StoreUnavailableError, match=r"^the store has not written the task within "
            ):
                await web.submit(offered, (1,))
            call = asyncio.ensure_future(web.submit(offered, (2,)))
            await asyncio.sleep(0)  # noqa: TID251  # its turn, up to its wait
            call.cancel()
            await asyncio.wait([call])
            assert call.cancelled()
        found = [(row.status, row.process) for row in await settled(web, 2)]
        assert found == [("failed", ""), ("cancelled", "")]
    async with process(sqlite_url, 2) as worker:
        assert await worker.submit(offered, (3,), wait=True) == 3
        assert RAN == [3]


@pytest.mark.extended("time")
async def test_no_more_than_there_are_places(sql_url: str) -> None:
    """A worker has as many tasks as it has places; the others wait for it, by priority and age."""
    async with process(sql_url, 0, durable=True) as web, process(sql_url, 2) as worker:
        ids = [await web.submit(at_gate, (number,)) for number in range(5)]
        ids.append(await web.submit(at_gate, (5,), priority="high"))
        assert await web.submit(on_loop, (9,), wait=True) == 9, "it has places for these"
        own = {row.task_id for row in rows(web) if row.process and row.ended_at is None}
        assert own <= set(ids)
        assert len(own) <= 2
        GATE.set()
        assert await web.gather(ids) == [0, 1, 2, 3, 4, 5]
        assert sorted(RAN) == [0, 1, 2, 3, 4, 5]
        assert RAN.index(5) <= 3, "of high priority, it came before those that waited"
        assert worker.get_stats()["submitted"] == 7


@pytest.mark.extended("time")
async def test_cancelled_before_anybody_has_it(sql_url: str) -> None:
    """A task that waits for a worker can be cancelled, and its waiters are told."""
    async with process(sql_url, 0) as web:
        task_id = await web.submit(offered, (1,))
        assert str(await web.request_cancel(task_id)).startswith("cancelled: ")
        task = await web.get_task(task_id)
        assert task is not None
        assert task.status == "cancelled"


async def test_schedules(sqlite_url: str) -> None:
    """A process without workers fires no schedule; one that has some does."""

    @scheduled_task(every=3_600, run_at_start=True, name="tests.offered_schedule")
    def scheduled() -> None:
        RAN.append(1)

    async with process(sqlite_url, 0) as web:
        assert (web.get_stats()["scheduled"], web.get_stats()["submitted"]) == (0, 0)


async def test_in_a_test(asyncframe: Probe) -> None:
    """Under the plugin the tasks of such an app run in the test's own framework."""
    store = SQLStore("sqlite:///never-opened.db")
    async with setup_async_framework(None, max_workers=0, store=store):
        task = await asyncframe.completed(offered(1))
        assert (task.result, current_task()) == (1, None)
