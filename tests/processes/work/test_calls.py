"""Calls: which process hears of a task that has become free, and what happens if it does not come.

With PostgreSQL only: in a file all processes read of what is free.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from framework import get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore
from framework.stores.sql._dialects.session import Session
from framework.stores.sql._reading import follower
from framework.stores.sql._tables.schema import PROCESSES
from tests.patience import PATIENCE
from tests.processes.sql.siblings import COMPLETED, Peer, peers
from tests.processes.work.test_claims import ids, offer


@contextmanager
def crowd(url: str, rooms: list[int]) -> Iterator[tuple[Peer, list[Peer]]]:
    """Yield a process that submits, and others that have said for how many tasks they have room.

    The others are in the order of their ids, and nobody is called.
    """
    with peers(url, 1 + len(rooms)) as (web, *made):
        others = sorted(made, key=lambda one: one.process_id)
        for one, room in zip(others, rooms, strict=True):
            one.host.rooms = room
        web.host.places = 0
        with web.database.writing() as connection:
            its = PROCESSES.c.process_id == web.process_id
            connection.execute(sa.update(PROCESSES).where(its).values(places=0))
        for one in (web, *others):
            one.link.start(one.process_id)
            wait_for(one)
        for one in (web, *others):
            one.writer.attempt()
        for one in (web, *others):
            beat(one)
        for one in others:
            one.backlog._wake.clear()
        yield web, others


def beat(peer: Peer) -> None:
    """Let a second pass for a process, and do what is due then."""
    peer.clock.pass_time(1.0)
    assert peer.writer.attempt()


def wait_for(peer: Peer) -> None:
    """Wait until a process is woken by its session."""
    assert peer.backlog._wake.wait(PATIENCE)
    peer.backlog._wake.clear()


def submit(web: Peer, many: int = 1, **facts: Any) -> list[str]:
    """Submit tasks one by one that no process has."""
    tasks = []
    for _ in range(many):
        tasks.append(offer(web, **facts))
        web.clock.pass_time(0.001)
        web.writer.batches.write()
    return ids(tasks)


def called(others: list[Peer]) -> list[int | None]:
    """Return who is called, once all have heard what there is to hear."""
    for one in others:
        # What it hears last is heard after all else.
        session = one.link
        assert isinstance(session, Session)
        heard = session._heard
        with one.database.writing() as connection:
            one.writer.statements.tell(connection)
        while session._heard == heard:
            session.looks()
    return [one.link.called for one in others]


def test_the_emptiest_is_called(postgres_url: str) -> None:
    """Of several processes the one with the most threads is called for a task, and it alone."""
    with crowd(postgres_url, [0, 2, 3, 3]) as (web, others):
        (task,) = submit(web)
        assert called(others) == [None, None, 0, None]
        beat(others[2])

        assert ids(others[2].host.taken_over) == [task]
        assert called(others) == [None] * 4


def test_a_full_process_calls_the_next(postgres_url: str) -> None:
    """A process that is full when it is called calls the next one, until each was called once."""
    with crowd(postgres_url, [2, 3, 2]) as (web, others):
        (task,) = submit(web)
        heard = []
        for at in (1, 2, 0):
            others[at].host.rooms = 0
            wait_for(others[at])
            heard.append(called(others))
            others[at].clock.pass_time(0.2)
            assert others[at].writer.attempt()

        assert heard == [[None, 0, None], [None, None, 1], [2, None, None]]
        assert called(others) == [None, None, None]
        others[0].host.rooms = 1
        others[0].clock.pass_time(0.2)
        assert others[0].writer.attempt()
        assert ids(others[0].host.taken_over) == [task], "it knows of the task, and has a place now"


def test_what_is_left_is_passed_on(postgres_url: str) -> None:
    """A process that has places for some of what is free calls the next one for the rest."""
    with crowd(postgres_url, [2, 3]) as (web, others):
        tasks = submit(web, 5)
        wait_for(others[1])
        others[1].clock.pass_time(0.2)
        assert others[1].writer.attempt()
        assert ids(others[1].host.taken_over) == tasks[:3]
        assert called(others) == [1, None]
        others[0].clock.pass_time(0.2)
        assert others[0].writer.attempt()

        assert ids(others[0].host.taken_over) == tasks[3:]


def test_one_that_was_called_does_not_come(postgres_url: str) -> None:
    """If the process that is called hangs, another one takes the task by its second beat."""
    with crowd(postgres_url, [2, 3]) as (web, others):
        tasks = submit(web, 2)
        assert called(others) == [None, 0]
        beat(others[0])
        assert not others[0].host.taken_over, "it is left to the one that was called"
        beat(others[0])

        assert ids(others[0].host.taken_over) == tasks
        beat(others[1])
        assert not others[1].host.taken_over


def test_one_that_hangs_is_passed_over(postgres_url: str) -> None:
    """A process that has not beaten for a beat of another is not called until it beats again."""
    with crowd(postgres_url, [2, 3]) as (web, others):
        free, hangs = others
        for _ in range(2):
            beat(web)
            beat(free)
        first = submit(web)
        assert called(others) == [0, None]
        beat(free)
        assert ids(free.host.taken_over) == first

        beat(hangs)
        second = submit(web)
        assert called(others) == [None, 0]
        beat(hangs)
        assert ids(hangs.host.taken_over) == second


def test_a_task_that_sleeps(postgres_url: str) -> None:
    """A process is called for a task that is to start later, and takes it when that is due."""
    with crowd(postgres_url, [2]) as (web, (worker,)):
        (task,) = submit(web, due=worker.clock.wall + 0.7)
        wait_for(worker)
        worker.clock.pass_time(0.2)
        assert worker.writer.attempt()
        assert not worker.host.taken_over
        assert worker.writer.follower.arrivals.due_at == pytest.approx(worker.clock.now + 0.5)
        worker.clock.pass_time(0.5)
        assert worker.writer.attempt()

        assert ids(worker.host.taken_over) == [task]


def test_two_writers_choose_the_same(postgres_url: str) -> None:
    """Two processes that set tasks free call the same one once, and it takes both tasks."""
    with crowd(postgres_url, [0, 2, 3]) as (web, others):
        other_web = others.pop(0)
        first = submit(web)
        wait_for(others[1])
        others[1].link.answers()
        second = submit(other_web)
        assert called(others) == [None, None], "the one that was called has not come yet"
        others[1].link.answers()
        beat(others[1])
        beat(others[1])

        # Submitted at one moment, so that their order is that of their ids.
        assert sorted(ids(others[1].host.taken_over)) == sorted(first + second)
        assert not others[0].host.taken_over


def test_a_full_process_takes_it_as_an_end_is_written(postgres_url: str) -> None:
    """If all are full when a task is called for, it begins where one of their own ends first."""
    with crowd(postgres_url, [0]) as (web, (worker,)):
        own = worker.accept()
        worker.writer.batches.write()
        (task,) = submit(web)
        wait_for(worker)
        assert worker.writer.attempt()
        worker.host.rooms = 1
        worker.clock.pass_time(0.2)
        worker.end(own)
        assert worker.writer.attempt()

        assert ids(worker.host.taken_over) == [task]


async def test_the_first_list_is_fresh(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that follows nobody lists what others had committed before it was asked."""
    monkeypatch.setattr(follower, "_CATCHING_UP", PATIENCE)
    with peers(postgres_url, 1) as (other,):
        async with setup_async_framework(None, store=SQLStore(postgres_url)):
            manager = get_task_manager()
            tasks = other.finished(3)
            assert sorted(manager.get_all_tasks()) == sorted(ids(tasks))


def test_following_begins_beside_a_writer(postgres_url: str) -> None:
    """What is committed while a process begins to follow closely is read at once afterwards."""
    with crowd(postgres_url, [0]) as (web, (reader,)):
        task = web.accept()
        with web.writer.follower._site.turn() as (connection, version, _):
            row = web.writer.batches.drafts.rows_of([task], 0.0)[0]
            # Nobody follows closely, so nobody is told.
            reader.link.follow(True)
            web.writer.statements.put(connection, list(row.values()), web.process_id, version)
            assert reader.link.may_have_news((0, 0)), "it does not know whether it hears"
        wait_for(reader)
        reader.clock.pass_time(0.2)
        assert reader.writer.attempt()

        assert reader.mirror.has_other(str(task.task_id))


def test_an_end_is_written_with_a_claim(postgres_url: str) -> None:
    """A call soon after a claim is answered 10 ms later, in one transaction with what ended."""
    with crowd(postgres_url, [2]) as (web, (worker,)):
        worker.host.begins = True
        submit(web)
        wait_for(worker)
        assert worker.writer.attempt()
        (first,) = worker.host.taken_over
        worker.backlog.note(first)
        worker.start(first)
        assert not worker.backlog.waits, "its start is stored"
        worker.clock.pass_time(0.009)
        first.progress = 0.5
        worker.backlog.note(first)
        assert worker.writer.attempt(), "that is no claim, though it is a turn"
        assert worker.row(first).progress == 0.5
        worker.end(first)
        worker.backlog._wake.clear()
        (second,) = submit(web)
        wait_for(worker)
        arrivals, before = worker.writer.follower.arrivals, version_of(worker)
        assert arrivals.due_at == pytest.approx(worker.clock.now + 0.001)
        worker.clock.pass_time(0.001)
        assert worker.writer.attempt()

        assert ids(worker.host.taken_over[1:]) == [second]
        assert worker.row(first).status == COMPLETED.value
        assert version_of(worker) == before + 1


def version_of(peer: Peer) -> int:
    """Return how many turns there were."""
    with peer.database.reading() as connection:
        return peer.writer.statements.position(connection).version
