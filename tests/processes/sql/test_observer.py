"""Looking at a database from outside: what an observer sees, and what it leaves alone."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa

from framework import background_task, get_task_manager, setup_async_framework
from framework._records.pages import PageQuery, key_of
from framework._records.records import Heading, TaskRecord
from framework._tasks.live import current_record
from framework.exceptions import StoreUnavailableError
from framework.stores.sql import SQLStore
from framework.stores.sql._reading.observer import Observer, Process
from framework.stores.sql._reading.roster import Roster
from framework.stores.sql._tables.schema import META, PROCESSES, STEPS, TASKS
from tests.patience import PATIENCE
from tests.processes.refusals import refusal
from tests.processes.sql.siblings import COMPLETED, FAILED, PENDING, RUNNING, START, Peer, peers


@pytest.fixture
def peer(sql_url: str) -> Iterator[Peer]:
    """A process of the app, in each kind of database."""
    with peers(sql_url, 1) as (one,):
        yield one


@pytest.fixture
def observer(sql_url: str, peer: Peer) -> Iterator[Observer]:
    """An observer of the same database."""
    with closing(Observer(sql_url)) as made:
        yield made


def filled(peer: Peer) -> list[TaskRecord]:
    """Let there be twelve tasks of two names, a third of them live, some of the same moment."""
    tasks = []
    for number in range(12):
        task = peer.accept(heading=Heading("mail" if number % 2 else "shop", ""))
        if number % 3:
            peer.end(task, COMPLETED if number % 4 else FAILED, result={"number": number})
        elif number % 2:
            peer.start(task)
        tasks.append(task)
        if number % 2:
            peer.clock.pass_time(1.0)
    peer.writer.batches.write()
    return tasks


def walk(observer: Observer, query: PageQuery) -> list[str]:
    """Return the ids of all pages."""
    found: list[str] = []
    while page := observer.page(query):
        found += [str(one.task_id) for one in page]
        query = replace(query, after=key_of(page[-1]))
    return found


def test_pages(peer: Peer, observer: Observer) -> None:
    """All pages together have every task that matches, once and in order, live ones too."""
    tasks = filled(peer)
    statuses = None, COMPLETED, FAILED, PENDING, RUNNING
    for status, name, oldest_first in product(statuses, (None, "mail", "a\0b"), (False, True)):
        query = PageQuery(5, status, name, oldest_first=oldest_first)
        chosen = [one for one in tasks if query.matches(one)]
        assert walk(observer, query) == [str(one.task_id) for one in query.in_order(chosen)]


def test_one_task(peer: Peer, observer: Observer) -> None:
    """A task is seen with its result as JSON gives it, and with its process."""
    task = peer.end(peer.accept(), result={"sum": 3})
    peer.writer.batches.write()
    sight = observer.look(str(task.task_id))

    assert sight is not None
    assert sight.record.result == {"sum": 3}
    assert sight.record.created_at == pytest.approx(task.created_at)
    assert isinstance(sight.process, Process)
    assert observer.look("nobody") is None


def test_what_each_process_has_to_do(peer: Peer, observer: Observer) -> None:
    """The processes are listed with their places, and with how many of their tasks run and wait.

    One that sleeps waits for no place.
    """
    running = peer.accept()
    peer.start(running)
    for _ in range(2):
        peer.accept()
    peer.end(peer.accept())
    free_one, asleep = peer.accept(), peer.accept()
    peer.writer.batches.write()
    with peer.database.writing() as connection:
        for task, due in [(free_one, None), (asleep, START + 60)]:
            of_it = TASKS.c.task_id == task.task_id
            connection.execute(sa.update(TASKS).where(of_it).values(process="", due_at=due))
    (one,), waiting = observer.processes()

    assert (one.host, one.pid, one.started_at) == (socket.gethostname(), os.getpid(), START)
    assert (one.kind, one.places, one.silent) == ("app", 4, 0.0)
    assert one.running == {running.name: 1}
    assert one.running_since == pytest.approx(START)
    assert not one.is_gone
    assert waiting == {one.process_id: 2, "": 1}


def test_how_long_a_process_is_silent(peer: Peer) -> None:
    """A process is silent from the first look at a sign of life that is not followed by another."""
    roster = Roster(peer.database)

    def silent(now: float) -> float:
        (one,) = roster.processes(now)
        return one.silent

    def beat() -> None:
        with peer.database.writing() as connection:
            peer.writer.membership.beat(connection)

    assert [silent(10.0), silent(12.5)] == [0.0, 2.5]
    beat()
    assert [silent(15.0), silent(16.0)] == [0.0, 1.0]


def test_the_beginning_of_an_id(peer: Peer, observer: Observer) -> None:
    """An id is found by its beginning, which is no pattern, and whole ids come first."""
    for task_id in ("ab", "abc", "aBd", "a%", "a_"):
        peer.accept(task_id)
    peer.writer.batches.write()

    assert observer.find("ab") == ["ab"]
    assert sorted(observer.find("a")) == ["a%", "aBd", "a_", "ab", "abc"]
    assert observer.find("a%") == ["a%"]
    assert observer.find("abcd") == observer.find("b") == observer.find("\ud800") == []


def test_a_request_reaches_the_process(peer: Peer, observer: Observer) -> None:
    """The process of a live task is asked to cancel it; a finished one is left alone."""
    live, over = peer.accept(), peer.end(peer.accept())
    peer.writer.batches.write()

    assert observer.request_cancel(str(live.task_id)) is True
    assert observer.request_cancel(str(over.task_id)) is False
    peer.writer.follower.look()
    assert peer.host.cancelled == [live.task_id]


def test_what_cannot_be_run_again(peer: Peer, observer: Observer) -> None:
    """What has not ended, has completed, ran elsewhere or kept no arguments is refused."""
    task = peer.end(peer.accept(), FAILED)
    peer.writer.batches.write()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"status": "pending", "ended_at": None}, "it is pending: wait until it has ended, or"),
        ({"status": "completed"}, "it completed, and the arguments of such tasks are not kept"),
        ({"remote": 1}, "it ran on a worker: use manager.run_again(task_id) in the app"),
        ({"call": None}, "its arguments were not kept"),
        ({"call": '"they are too long"'}, "its arguments were not kept: they are too long"),
    ]
    failed = {"status": "failed", "ended_at": START, "remote": 0, "call": "[[1], {}]"}
    wrong = {}
    for values, why in cases:
        with peer.database.writing() as connection:
            connection.execute(sa.update(TASKS).values({**failed, **values}))
        found = refusal(lambda: observer.run_again(str(task.task_id), START))
        if not found.startswith(f"ValueError: {why}"):
            wrong[why] = found
    assert wrong == {}


@background_task(name="outside", timeout=7.0)
def outside(number: int) -> list[float | None]:
    """Return its options; or fail, after its call was written."""
    if number < 0:
        written.wait(PATIENCE)
        raise ValueError(number)
    record = current_record.get()
    assert record is not None
    return [number, record.limit]


written = threading.Event()


@pytest.mark.extended("time")
async def test_options_of_what_is_run_again(sql_url: str) -> None:
    """A task from outside has the options of the one that it repeats, and events of its own."""
    events: list[tuple[str, str | None]] = []
    async with setup_async_framework(None, store=SQLStore(sql_url)):
        manager = get_task_manager()
        manager._core.owners.own_by(lambda: "ann")
        failed = outside.options(timeout=9.0, description="Once")(-1)
        await manager.list_tasks()
        with closing(Observer(sql_url)) as observer:
            while observer.look(failed) is None:
                pass
            written.set()
            with pytest.raises(ValueError, match=r"^-1$"):
                await manager.get_result(failed)
            while not observer.look(failed).record.status.is_final:  # type: ignore[union-attr]  # it is there
                pass
            with observer._database.writing() as connection:
                connection.execute(sa.update(TASKS).values(call='[[8], {}, {"timeout": 9.0}]'))
            manager.subscribe(lambda event: events.append((event.kind, event.task_id)))
            again = observer.run_again(failed, manager.clock.time())
        assert await manager.get_result(again, timeout=PATIENCE) == [8, 9.0]
        task = await manager.get_task(again)
        assert task is not None
        assert (task.run_again_of, task.description, task.reason) == (failed, "Once", "")
        assert task.owner == "ann"

    assert events == [(kind, again) for kind in ("submitted", "started", "completed")]


def test_it_is_no_process(peer: Peer, observer: Observer) -> None:
    """It has no row of its own, and says whether anybody has one."""
    observer.page(PageQuery(10))
    with peer.database.reading() as connection:
        found = connection.execute(sa.select(PROCESSES.c.process_id)).scalars().all()
    assert found == [peer.process_id]
    assert observer.has_processes() is True

    with peer.database.writing() as connection:
        peer.writer.membership.leave(connection)
    assert observer.has_processes() is False


def test_no_tables_are_made(sql_url: str) -> None:
    """A database without tables stays as it is."""
    engine = sa.create_engine(sql_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE other (one INTEGER)"))
    with pytest.raises(
        StoreUnavailableError,
        match=r"^.+ has no tasks: no app has used this database as its store yet$",
    ):
        Observer(sql_url)
    assert sa.inspect(engine).get_table_names() == ["other"]
    engine.dispose()


def test_tables_of_another_release(peer: Peer, sql_url: str) -> None:
    """Tables of another release are refused, and it says what to do."""
    for by, cure in (
        (-1, "start the app once with this release, which upgrades them"),
        (1, "use the release of the app, or a newer one"),
    ):
        with peer.database.writing() as connection:
            connection.execute(sa.update(META).values(schema_version=len(STEPS) + by))
        said = f"have version {len(STEPS) + by}, and this release reads {len(STEPS)}: {cure}"
        with pytest.raises(StoreUnavailableError, match=re.escape(said)):
            Observer(sql_url)
    with peer.database.writing() as connection:
        connection.execute(sa.update(META).values(schema_version=len(STEPS)))


def test_what_is_under_way_is_read_where_nothing_can_be_written(
    observer: Observer, peer: Peer
) -> None:
    """Tasks that have not ended are read in a transaction in which the database refuses writes."""
    live = [str(task.task_id) for task in filled(peer) if not task.status.is_final]
    found = [one.task_id for some in observer.under_way({"mail", "shop"}) for one in some]
    assert sorted(found) == sorted(live)
    assert not [one for some in observer.under_way(()) for one in some]

    refused = pytest.raises(StoreUnavailableError, match=r"^.* cannot be read: .*read.?only")
    with refused, observer._reading() as connection:
        observer._database.dialect.only_read(connection)
        connection.execute(sa.delete(TASKS))
