"""Many waiting tasks: a process holds a few of those that no process has, and knows all of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from framework import background_task
from framework._records.pages import FIELDS, PageQuery, key_of
from framework._records.records import OFFERED, WAITS, Heading, Restart, TaskRecord
from framework._records.statuses import FINAL, TaskStatus
from framework.stores.sql._dialects.dialect import Answer
from framework.stores.sql._reading import pages
from framework.stores.sql._shared.free import orphans
from framework.stores.sql._tables.rows import COLUMNS, record_of
from framework.stores.sql._tables.schema import META, PROCESSES, TASKS
from framework.stores.sql._tables.statements import fetch
from tests.processes.sql.siblings import COMPLETED, FAILED, PENDING, Peer, peers

FEW = 3
"""How many free tasks the processes of the tests hold."""

HEADINGS = (
    Heading("tests.waiting.a", "sends a Mail", "ann", "order 7"),
    Heading("tests.waiting.b", "", "bob"),
    Heading("tests.waiting.b", "packs", None),
)


@background_task(on_restart="requeue", name="tests.waiting.a")
def first(number: int) -> int:
    """Stand for the function of a task; it is never called here."""
    return number


@background_task(on_restart="requeue", name="tests.waiting.b")
def second(number: int) -> int:
    """Stand for another one."""
    return number


class World:
    """Some processes over one database, of which a test knows by looking at all rows.

    Args:
        url: The database.
        made: The processes.
        rng: Chooses what happens.
    """

    def __init__(self, url: str, made: list[Peer], rng: random.Random) -> None:
        self.url = url
        self.peers = made
        self.rng = rng
        self.claimed: dict[str, tuple[Peer, TaskRecord]] = {}

    def happen(self) -> None:
        """Let something happen that is possible now."""
        happenings = [self.submit] * 4 + [self.claim, self.claim, self.end, self.give_back]
        self.rng.choice([*happenings, self.cancel, self.restart, self.settle])()

    def submit(self) -> None:
        """Let a process offer tasks."""
        peer = self.rng.choice(self.peers)
        for _ in range(self.rng.randrange(1, 4)):
            due = peer.clock.time() + 50 if self.rng.random() < 0.2 else None
            heading = self.rng.choice(HEADINGS)
            self.free(peer, peer.accept(heading=heading, restart=Restart("[[1],{}]", due=due)))
            peer.clock.pass_time(float(self.rng.randrange(2)))
        peer.writer.batches.write()

    def free(self, peer: Peer, task: TaskRecord) -> None:
        """Let a process set a task free."""
        restart: Restart | None = task.restart
        assert restart is not None
        copy = peer.host.snapshot(task)
        copy.status, copy.started, copy.reason = PENDING, None, OFFERED
        copy.restart = replace(restart.free_copy(), offered=True)
        restart.state = "left"
        peer.backlog.release(copy)

    def claim(self) -> None:
        """Let a process take free tasks."""
        peer = self.rng.choice(self.peers)
        peer.host.rooms, peer.host.taken_over = self.rng.randrange(1, 4), []
        peer.tick()
        peer.host.rooms = 0
        for task in peer.host.taken_over:
            self.claimed[str(task.task_id)] = peer, task
            peer.backlog.note(task)
            if self.rng.random() < 0.5:
                peer.start(task)
        peer.writer.batches.write()

    def chosen(self) -> tuple[Peer, TaskRecord] | None:
        """Choose a task that a process has."""
        if not self.claimed:
            return None
        return self.claimed.pop(self.rng.choice(sorted(self.claimed)))

    def end(self) -> None:
        """Let a process end a task."""
        if found := self.chosen():
            peer, task = found
            peer.end(task, self.rng.choice([COMPLETED, FAILED]))
            peer.writer.batches.write()

    def give_back(self) -> None:
        """Let a process set a task free that it has and has not started."""
        found = self.chosen()
        if found is not None and found[1].status is PENDING:
            self.free(*found)
            found[0].writer.batches.write()
        elif found is not None:
            self.claimed[str(found[1].task_id)] = found

    def cancel(self) -> None:
        """Let somebody ask to cancel a free task, or another one."""
        live = [str(one.task_id) for one in self.rows() if one.status not in FINAL]
        peer = self.rng.choice(self.peers)
        if live:
            with peer.database.writing() as connection:
                version = peer.writer.statements.advance(connection, "").version
                peer.writer.statements.request_cancel(connection, self.rng.choice(live), version)

    def settle(self) -> None:
        """Let a process end what was cancelled, and wake what is due."""
        peer = self.rng.choice(self.peers)
        peer.clock.pass_time(60.0)
        peer.tick()

    def restart(self) -> None:
        """Let a process be killed, or end in order, and another one start in its place."""
        at = self.rng.randrange(len(self.peers))
        gone = self.peers[at]
        own = [task for peer, task in self.claimed.values() if peer is gone]
        self.claimed = {key: one for key, one in self.claimed.items() if one[0] is not gone}
        if self.rng.random() < 0.5:
            self.stop(gone, own)
        else:
            with gone.database.writing() as connection:
                its = PROCESSES.c.process_id == gone.process_id
                connection.execute(sa.delete(PROCESSES).where(its))
        fresh = Peer(self.url, held_free=gone.mirror.held_free)
        fresh.clock.pass_time(gone.clock.now - fresh.clock.now)
        gone.close()
        self.peers[at] = fresh

    def stop(self, peer: Peer, tasks: list[TaskRecord]) -> None:
        """Let a process end its tasks that run, and leave those that wait, if it has the time."""
        for task in tasks:
            restart: Restart | None = task.restart
            assert restart is not None
            if task.status is not PENDING:
                peer.end(task, TaskStatus.INTERRUPTED)
                continue
            restart.state = "left"
            if not peer.backlog.leave(task):
                self.free(peer, task)
        peer.writer._end = peer.clock.now + self.rng.choice([0.0, 9.0])
        peer.writer._finish()
        # Without time it is found dead a while later.
        with peer.database.writing() as connection:
            its = PROCESSES.c.process_id == peer.process_id
            connection.execute(sa.delete(PROCESSES).where(its))

    def rows(self, without: Peer | None = None) -> list[TaskRecord]:
        """Return all tasks, without the live ones of a process."""
        peer = self.peers[0]
        columns: list[Any] = [TASKS.c[name] for name in (*COLUMNS, "version", "process")]
        with peer.database.reading() as connection:
            found = fetch(connection, Answer(sa.select(*columns)))
        own = None if without is None else without.process_id
        return [
            record_of(row, peer.mirror.offset)
            for row in found
            if row.ended_at is not None or row.process != own
        ]

    def free_count(self) -> tuple[int, int]:
        """Return how many tasks are free, as the database keeps it, and as they are."""
        free = sa.and_(TASKS.c.process == "", TASKS.c.ended_at.is_(None))
        with self.peers[0].database.reading() as connection:
            kept = connection.execute(sa.select(META.c.free)).scalar_one()
            are = connection.execute(sa.select(sa.func.count()).where(free)).scalar_one()
        return kept, are


@contextmanager
def world(url: str, seed: int) -> Iterator[World]:
    """Let some processes share a database, of which one holds all free tasks."""
    with peers(url, 2, held_free=FEW) as few, peers(url, 1) as all_of_them:
        made = World(url, [*few, *all_of_them], random.Random(seed))
        yield made
        for peer in {*made.peers} - {*few, *all_of_them}:
            peer.close()


FILTERS = (
    PageQuery(4),
    PageQuery(4, status=PENDING),
    PageQuery(4, status=COMPLETED),
    PageQuery(4, name="tests.waiting.b"),
    PageQuery(4, owner="ann", status=PENDING),
    PageQuery(4, statuses=frozenset({PENDING, FAILED})),
    PageQuery(4, search="mail"),
    PageQuery(4, label="order 7"),
    PageQuery(4, search="waiting.B", status=PENDING),
)


def require_pages(peer: Peer, tasks: list[TaskRecord], query: PageQuery) -> None:
    """Check all pages of a query, and one in its middle."""
    wanted = [str(one.task_id) for one in query.in_order(filter(query.counts, tasks))]
    found: list[TaskRecord] = []
    while True:
        after = key_of(found[-1]) if found else None
        page = peer.history.page(replace(query, after=after))
        found += page
        if len(page) < query.limit:
            break
    assert [str(one.task_id) for one in found] == wanted, query
    offset = len(wanted) // 2
    middle = peer.history.page(replace(query, offset=offset))
    assert [str(one.task_id) for one in middle] == wanted[offset : offset + query.limit], query


def require_all(peer: Peer, tasks: list[TaskRecord], rng: random.Random) -> None:
    """Check lists and counts of a process."""
    query = replace(rng.choice(FILTERS), oldest_first=rng.random() < 0.5)
    require_pages(peer, tasks, query)
    assert peer.history.count(query) == sum(map(query.counts, tasks)), query
    for field in FIELDS.values():
        counted = Counter(map(field.of, filter(query.counts, tasks)))
        assert +peer.history.counts(query, field) == counted, (query, field)
    for status in (None, query.status):
        wanted = {str(one.task_id): one.status for one in tasks if status in (None, one.status)}
        assert {str(one.task_id): one.status for one in peer.history.records(status)} == wanted
    live = [one for one in tasks if one.status not in FINAL]
    assert {one.task_id for one in peer.history.live()} == {one.task_id for one in live}
    figures = Counter(one.status.value for one in tasks)
    assert peer.mirror.figures() == {one.value: figures[one.value] for one in TaskStatus}


def run(url: str, seed: int, steps: int) -> Counter[bool]:
    """Let things happen, and check after each what every process knows.

    Returns:
        How often a process that was looked at did, and did not, hold all free tasks.
    """
    seen = Counter[bool]()
    with world(url, seed) as made:
        for _ in range(4):
            made.submit()
        for _ in range(steps):
            made.happen()
            kept, are = made.free_count()
            assert kept == are
            for peer in made.peers:
                tasks = made.rows(without=peer)
                if not peer.mirror.holds_free:
                    # It asks the database, which knows what this process has not read yet.
                    require_pages(peer, tasks, replace(made.rng.choice(FILTERS)))
                peer.writer.follower.look()
                require_all(peer, tasks, made.rng)
                seen[peer.mirror.holds_free] += 1
                assert len(peer.mirror._free) <= peer.mirror.held_free
        for peer, by in zip(made.peers, (-1, 1, 1_000), strict=True):
            with peer.database.writing() as connection:
                connection.execute(sa.update(META).values(free=META.c.free + by))
            peer.writer.follower.watch()
            kept, are = made.free_count()
            assert kept == are
    return seen


@pytest.mark.extended("time")
def test_what_is_not_held_is_known(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens to many waiting tasks, all processes list and count the same.

    A number of free tasks that somebody has made wrong is mended by the next who watches.
    """
    monkeypatch.setattr(pages, "_FEW", 4)
    monkeypatch.setattr(pages, "_FEW_FREE", (2, 4))
    monkeypatch.setattr(orphans, "MOST", 2)
    assert run(sql_url, 1, 12)[False] > 5


@pytest.mark.extended("time")
@pytest.mark.parametrize(
    "seed", [3, 6, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (2, 4, 5, 7))]
)
def test_what_is_not_held_is_known_for_long(
    sql_url: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same while much more happens, from none to many waiting tasks and back."""
    monkeypatch.setattr(pages, "_FEW", seed)
    monkeypatch.setattr(pages, "_FEW_FREE", (seed, 2 * seed))
    monkeypatch.setattr(orphans, "MOST", seed)
    seen = run(sql_url, seed, 60)
    assert min(seen[False], seen[True]) > 20


def test_left_as_it_is_written(sql_url: str) -> None:
    """A task is left at the end of its process only if its row says what the next one needs.

    What is left becomes free in a few statements, and what is not in time belongs to no process
    that lives, so that the next one finds it.
    """
    with peers(sql_url, 2) as (one, two):
        tasks = [one.accept(heading=HEADINGS[0], restart=Restart("[[1],{}]")) for _ in range(7)]
        assert not one.backlog.leave(tasks[0])
        one.writer.batches.write()
        one.backlog.note(tasks[1])
        one.backlog.start(tasks[2], lambda _: None)
        assert [one.backlog.leave(task) for task in tasks] == [True, False, False] + [True] * 4
        assert not one.backlog.leave(tasks[0])
        one.end(tasks[1])
        one.writer.batches.write()
        one.writer._end = one.clock.now + 9.0
        one.writer._finish()

        rows = [one.row(task) for task in tasks]
        states = {(row.status, row.process, row.reason) for row in rows[3:] + rows[:1]}
        assert states == {("pending", "", WAITS)}
        assert (rows[1].status, rows[2].status) == ("completed", "running")
        two.host.rooms = 9
        two.tick()
        assert len(two.host.taken_over) == 5


def test_orphans_in_several_steps(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many waiting tasks of a dead process become free a few at a time, and none is ended."""
    monkeypatch.setattr(orphans, "MOST", 3)
    with peers(sql_url, 2) as (one, two):
        tasks = [one.accept(heading=HEADINGS[0], restart=Restart("[[1],{}]")) for _ in range(7)]
        running = one.accept()
        one.start(running)
        one.writer.batches.write()
        with two.database.writing() as connection:
            its = PROCESSES.c.process_id == one.process_id
            connection.execute(sa.delete(PROCESSES).where(its))
        two.tick()

        assert {two.row(task).process for task in tasks} == {""}
        assert two.row(running).status == "interrupted"
