"""Inquiries: an id is unknown when all other processes have written what they had accepted."""

from __future__ import annotations

import asyncio
import threading

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from framework.protocols import AskingDirectory, PlaceRequest
from framework.stores.sql import SQLStore
from framework.stores.sql._backlog import Backlog
from framework.stores.sql._shared.membership import MISSED
from framework.stores.sql._tables.schema import PROCESSES
from tests.patience import PATIENCE
from tests.processes.agreeing.test_places_of_processes import managers
from tests.processes.sql.siblings import PENDING, Peer, TestClock, new_record, peers


def hear(peer: Peer) -> None:
    """Let a process read what the others have written, and what they ask."""
    peer.writer.follower.look()
    peer.writer.inquiries.hear(peer.writer.follower.asked)


def test_protocol(sqlite_url: str) -> None:
    """The store has the methods that the framework looks for."""
    store: object = SQLStore(sqlite_url)
    assert isinstance(store, AskingDirectory)


def test_an_answer_comes_after_what_was_accepted(sql_url: str) -> None:
    """A process answers when all is written that it had accepted when it heard of the inquiry."""
    with peers(sql_url) as (one, two):
        task = two.accept()
        number = one.writer.inquiries.ask()
        two.writer.inquiries.settle()
        assert not one.writer.inquiries.is_answered(number), "it has not heard of it"
        hear(two)
        two.writer.inquiries.settle()
        assert not one.writer.inquiries.is_answered(number), "the task is not written"
        two.writer.batches.write()
        two.writer.inquiries.settle()

        assert one.writer.inquiries.is_answered(number)
        assert one.writer_reads([task.task_id]) == {task.task_id: PENDING}


def test_both_ask_at_once(sql_url: str) -> None:
    """Processes that ask each other answer the latest inquiry, and so those before it."""
    with peers(sql_url, 3) as three:
        numbers = [peer.writer.inquiries.ask() for peer in three]
        assert numbers == [1, 2, 3]
        for peer in three:
            hear(peer)
            peer.writer.attempt(following=False)

        for peer, number in zip(three, numbers, strict=True):
            assert peer.writer.inquiries.is_answered(number)


def test_a_batch_that_is_being_written_is_not_enough() -> None:
    """What is accepted while a batch is written is not past when that batch is."""
    clock = TestClock()
    backlog = Backlog(clock)
    backlog.note(new_record(clock, "early"))
    taken = backlog.take(500)
    # 1 a batch is taken, 2 a task is accepted, 3 an inquiry is heard of, 4 the batch is written.
    backlog.note(new_record(clock, "late"))
    mark = backlog.mark()
    backlog.written(taken)
    assert not backlog.is_past(mark)
    backlog.note(new_record(clock, "later"))
    taken = backlog.take(500)
    assert not backlog.is_past(mark)
    backlog.written(taken)
    assert backlog.is_past(mark)
    backlog.note(new_record(clock, "last"))
    assert backlog.is_past(mark)
    backlog.take(500)
    assert backlog.is_past(mark), "it is of the next batch"
    clock.close()


def test_no_answer_while_the_database_fails(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot write its tasks does not answer, although it can still beat."""
    with peers(sql_url) as (one, two):

        def fail(*_: object) -> None:
            raise OperationalError("", {}, Exception("gone"))

        two.accept()
        number = one.writer.inquiries.ask()
        hear(two)
        with monkeypatch.context() as patch:
            patch.setattr(two.writer.statements, "put", fail)
            two.writer.attempt(following=False)
        assert not one.writer.inquiries.is_answered(number)
        two.writer.attempt(following=False)

        assert one.writer.inquiries.is_answered(number)


def test_processes_that_do_not_count(sql_url: str) -> None:
    """A dead process, one that is still starting, and one of an older release have no say."""
    with peers(sql_url) as (one, dead):
        with one.database.writing() as connection:
            row = {"process_id": "starting", "host": "", "pid": 1, "started_at": 0.0, "beat": 0}
            connection.execute(sa.insert(PROCESSES).values(row))
        dead.accept()
        number = one.writer.inquiries.ask()
        for _ in range(MISSED):
            one.tick()
        assert not one.writer.inquiries.is_answered(number)
        one.tick()

        assert one.writer.inquiries.is_answered(number)


def test_a_process_that_comes_back_is_asked(sql_url: str) -> None:
    """A process that was given up and goes on has to answer before an id is unknown."""
    with peers(sql_url) as (one, two):
        number = one.writer.inquiries.ask()
        with one.database.writing() as connection:
            connection.execute(sa.delete(PROCESSES).where(PROCESSES.c.process_id == two.process_id))
        assert one.writer.inquiries.is_answered(number)
        two.accept()
        two.writer.attempt(following=False)
        assert two.host.interrupted
        assert not one.writer.inquiries.is_answered(number)
        hear(two)
        two.writer.attempt(following=False)

        assert one.writer.inquiries.is_answered(number)


def test_a_place_proves_a_task(sql_url: str) -> None:
    """An id that has a place will be written by its process."""
    with peers(sql_url) as (one, two):
        two.writer.lines.join(PlaceRequest("key", "placed", 1), lambda _: None)
        two.writer.lines.settle()

        assert one.writer.inquiries.expected(["unknown", "placed"]) == {"placed"}


@pytest.mark.extended("time")
async def test_a_task_of_a_process_that_stands_still_is_found(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id that another process has returned is looked for until that process can write."""
    looked, go_on = threading.Event(), threading.Event()
    async with managers(sql_url) as (one, two):
        stores = [manager._core.ledger.shared for manager in (one, two)]
        asks, holds = stores
        assert isinstance(asks, SQLStore)
        assert isinstance(holds, SQLStore)
        is_answered, write = asks.is_answered, holds._writer.batches.write

        def look(number: int) -> bool:
            if is_answered(number):
                return True
            looked.set()
            return False

        def wait() -> None:
            assert go_on.wait(PATIENCE)
            write()

        monkeypatch.setattr(asks, "is_answered", look)
        monkeypatch.setattr(holds._writer.batches, "write", wait)
        task_id = await two.submit(abs, (-7,))
        finding = asyncio.ensure_future(one.get_task(task_id))
        await asyncio.to_thread(looked.wait, PATIENCE)
        assert not finding.done()
        go_on.set()
        assert await finding is not None
        assert await one.get_task("unknown") is None
