"""Claims: which of the tasks that no process has a process takes, and when."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from framework import background_task
from framework._records.chains import After
from framework._records.ids import TaskId
from framework._records.records import OFFERED, Heading, Kind, Restart, TaskRecord
from framework._tasks.options import PRIORITIES
from framework.stores.sql._dialects import direct
from framework.stores.sql._dialects.postgresql import PostgreSQL
from framework.stores.sql._dialects.sqlite import SQLite
from framework.stores.sql._shared.free import claims
from framework.stores.sql._tables import free_rows
from framework.stores.sql._tables.rows import WRITTEN, Written, begin, row_of
from framework.stores.sql._tables.schema import TASKS
from tests.processes.executed import hearing
from tests.processes.sql.siblings import PENDING, START, Peer, peers
from tests.processes.sql.test_faults import locked


@background_task(on_restart="requeue", name="tests.claimed")
def claimed(number: int) -> int:
    """Stand for the function of a task; it is never called here."""
    return number


@background_task(on_restart="requeue", name="tests.claimed_too")
async def claimed_too(number: int) -> int:
    """Stand for the same on the loop."""
    return number


def offer(
    peer: Peer,
    number: int = 1,
    *,
    name: str = "tests.claimed",
    task_id: str | None = None,
    **facts: Any,
) -> TaskRecord:
    """Let a process without places submit a task that others may run."""
    restart = Restart(f"[[{number}],{{}}]", **facts)
    task = peer.accept(task_id, heading=Heading(name, ""), restart=restart)
    free = peer.host.snapshot(task)
    free.restart, free.reason = restart.free_copy(), OFFERED
    free.restart.offered = True
    restart.state = "left"
    peer.backlog.release(free)
    return task


def ids(records: list[TaskRecord]) -> list[str]:
    """Return their ids."""
    return [str(record.task_id) for record in records]


def drawn_row(rng: random.Random, number: int) -> dict[str, Any]:
    """Return a row, often of a task that is free and may start."""

    def often(usual: Any, *others: Any) -> Any:
        return usual if rng.random() < 0.85 else rng.choice(others)

    ended = often(None, START)
    return {
        "task_id": f"{rng.randrange(1_000)}-{number}",
        "name": rng.choice(["tests.a", "tests.b", "tests.c"]),
        "description": "",
        "status": "pending" if ended is None else "cancelled",
        "process": often("", "somebody"),
        "remote": 0,
        "created_at": START + rng.randrange(5),
        "ended_at": ended,
        "attempts": 0,
        "progress_message": "",
        "reason": "",
        "cancel_requested": often(0, 1),
        "still_running": 0,
        "version": 1,
        "call": often("x" * rng.randrange(2, 25), None),
        "restart": often("{}", None),
        "level": rng.randrange(3),
        "due_at": often(None, START + 9),
    }


def may_start(row: dict[str, Any], names: set[str]) -> bool:
    """Say by hand whether a task is free, and may start."""
    kept = row["call"] is not None and row["restart"] is not None
    waits = row["ended_at"] is None and row["due_at"] is None and not row["cancel_requested"]
    return kept and waits and row["process"] == "" and row["name"] in names


def test_the_rule(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever there is, the first by priority, age and id are taken, up to a length."""
    monkeypatch.setattr(claims, "MOST_TEXT", 60)
    rng, sizes = random.Random(5), set[int]()
    with peers(sql_url, 1) as (peer,):
        for _ in range(80):
            rows = [drawn_row(rng, number) for number in range(rng.randrange(1, 25))]
            names = set(rng.sample(["tests.a", "tests.b", "tests.c"], rng.randrange(1, 4)))
            most = rng.randrange(1, 6)
            with peer.database.writing() as connection:
                connection.execute(sa.delete(TASKS))
                connection.execute(sa.insert(TASKS), rows)
                dialect = peer.database.dialect
                picked, is_all = claims.pick(connection, dialect, names, most)
                found = claims.present(connection, dialect)
            assert found == {row["name"] for row in rows if may_start(row, {row["name"]})}
            able = [row for row in rows if may_start(row, names)]
            able.sort(key=lambda row: (row["level"], row["created_at"], row["task_id"]))
            expected, length = list[str](), 0
            for row in able[:most]:
                length += len(row["call"])
                if length <= 60 or not expected:
                    expected.append(row["task_id"])
            assert [one.row.task_id for one in picked] == expected
            assert is_all == (len(expected) == len(able) < most)
            sizes.add(len(picked))
    assert sizes == {0, 1, 2, 3, 4, 5}


def test_what_begins_is_written_as_its_record_would_be(sql_url: str) -> None:
    """The row of a task that begins as it is claimed is that of its record, RUNNING."""
    rng, rows, begun, expected = random.Random(7), list[Written](), dict[str, str | None](), []
    for number in range(60):
        kept = TaskRecord()
        kept.task_id, kept.heading = (
            TaskId(f"'{number}\"\\"),
            Heading("tests.claimed", "Says", "me", "a claim"),
        )
        kept.status, kept.attempts = PENDING, rng.randrange(3)
        kept.created_at, kept.created = START + number, float(number)
        kept.started = kept.ended = kept.result = kept.rest = kept.code = None
        kept.reason = rng.choice(["", OFFERED])
        if rng.random() < 0.3:
            kept.progress, kept.progress_message, kept.run_again_of = 0.5, "half", "9" * 32
            kept.after = After(("first", "second"))
        kept.restart = restart = Restart(
            "[[],{}]",
            limit=rng.choice([None, 2.5]),
            priority=rng.choice(PRIORITIES),
            idempotent=rng.random() < 0.5,
            offered=rng.random() < 0.5,
            starts=rng.randrange(3),
            failed=rng.randrange(2),
        )
        rows.append(row_of(kept, "[[],{}]"))
        restart.begin(100.0)
        restart.offered, kept.reason = False, ""
        if rng.random() < 0.8:
            begun[kept.task_id] = restart.facts() if restart.idempotent else None
            begin(kept, 100.0)
            expected.append(json.loads(row_of(kept, "[[],{}]").text))
    with (
        peers(sql_url, 1) as (peer,),
        peer.database.writing() as connection,
    ):
        version = peer.writer._site.take(connection, rows).version
        statements = peer.writer.statements
        statements.begin(connection, begun, "me", version, START + 100.0)
        columns = [TASKS.c[name] for name in WRITTEN]
        query = sa.select(*columns).where(TASKS.c.process == "me").order_by(TASKS.c.created_at)
        found = [list(row) for row in connection.execute(query)]
        assert connection.execute(free_rows.KEPT).scalar_one() == len(rows) - len(begun)
    assert found == expected


def test_only_as_many_as_there_are_places_for(sql_url: str) -> None:
    """A process takes what it has places for, of each kind, and the next one when one has ended."""
    with peers(sql_url) as (web, worker):
        tasks = []
        for number in range(4):
            tasks.append(offer(web, number, priority="low" if number == 1 else "normal"))
            web.clock.pass_time(1.0)
        offer(web, 9, name="tests.claimed_too")
        web.writer.batches.write()
        worker.host.rooms = 2
        worker.writer.follower.look()
        assert worker.writer.attempt()
        assert ids(worker.host.taken_over) == ids([tasks[0], tasks[2]])
        version = worker.writer.follower.version
        for _ in range(3):
            worker.tick()
        assert worker.writer.follower.version == version, "it has no place, so it writes nothing"
        assert not worker.writer._is_waited_for()
        worker.host.rooms = 2
        assert worker.writer._is_waited_for(), "the end that made room is written at once"
        assert worker.writer._until_due() == 0.0, "it does not wait for its next look"
        worker.writer.attempt()
        assert ids(worker.host.taken_over[2:]) == ids([tasks[3], tasks[1]])
        (first, *_) = worker.host.taken_over
        assert first.restart is not None
        assert (first.status, first.restart.call) == (PENDING, "[[0],{}]")


@pytest.mark.parametrize("by", ["a batch", "a look"])
def test_an_end_that_is_not_written_keeps_its_place(
    sql_url: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No transaction leaves a process with more live tasks than places, whenever one ends.

    1 its start is to be written, 2 it ends, and gives its place back, 3 a free task is claimed.
    """
    with peers(sql_url) as (web, worker):
        task = offer(web)
        web.writer.batches.write()
        own = worker.accept(heading=Heading("tests.claimed", ""), restart=Restart("[[1],{}]"))
        worker.start(own)
        if by == "a look":
            worker.writer.batches.write()
        ends, room = [own], worker.host.room

        def end_first() -> dict[Kind, int]:
            if ends:
                worker.end(ends.pop())
                worker.host.rooms = 1
            return room()

        monkeypatch.setattr(worker.host, "room", end_first)
        if by == "a batch":
            worker.writer.batches.write()
        else:
            worker.writer.follower.go_on()
        assert not ends
        assert worker.row(own).status == "running"
        assert not worker.host.taken_over
        assert worker.writer.attempt()

        assert ids(worker.host.taken_over) == ids([task])
        assert worker.row(own).status == "completed"


@pytest.mark.parametrize("idempotent", [False, True], ids=["once", "twice"])
def test_one_that_waits_for_nothing_else_begins(sql_url: str, idempotent: bool) -> None:
    """One transaction stores an end, takes a task in its place, and makes it RUNNING."""
    with peers(sql_url, 3) as (web, worker, other):
        for number in range(2):
            offer(web, number, idempotent=idempotent)
            web.clock.pass_time(1.0)
        web.writer.batches.write()
        worker.host.rooms, worker.host.begins = 1, True
        worker.writer.follower.look()
        worker.writer.attempt()
        (first,) = worker.host.taken_over
        assert first.restart is not None
        assert (first.status, first.restart.permitted) == (PENDING, True)
        row = worker.row(first)
        assert (row.status, row.process, row.attempts) == ("running", worker.process_id, 1)
        kept = None if row.restart is None else json.loads(row.restart)
        assert (kept["starts"] if kept else None) == (1 if idempotent else None)

        worker.backlog.live[str(first.task_id)] = first
        worker.end(first)
        worker.host.rooms = 1
        version = worker.writer.follower.version
        worker.writer.batches.write()
        assert worker.writer.follower.version == version + 1
        assert (worker.row(first).status, len(worker.host.taken_over)) == ("completed", 2)

        with web.database.writing() as connection:
            worker.writer.membership.leave(connection)
        other.tick()
        second = other.row(worker.host.taken_over[1])
        found = ("pending", "") if idempotent else ("interrupted", worker.process_id)
        assert (second.status, second.process) == found


@pytest.mark.parametrize("late", [False, True], ids=["looks", "has-looked"])
def test_of_two_the_first_one_takes_it(
    sql_url: str, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A free task is taken by one process; the other one writes nothing, and tells nobody."""
    with peers(sql_url, 3) as (web, one, two):
        task = offer(web)
        web.writer.batches.write()
        for worker in (one, two):
            worker.host.rooms = 1
            worker.writer.follower.look()
        one.writer.follower.go_on()
        with two.database.reading() as connection:
            before = two.writer.statements.position(connection)
        if late:
            # It has seen the task before the first one took it.
            monkeypatch.setattr(two.writer.follower.arrivals, "see", lambda *_: None)
        two.writer.follower.go_on()
        with two.database.reading() as connection:
            assert two.writer.statements.position(connection) == before

        assert (ids(one.host.taken_over), two.host.taken_over) == (ids([task]), [])
        assert not two.writer.follower.behind


def test_one_that_is_not_due_sleeps(sql_url: str) -> None:
    """A task is taken when it is due, by age as if it had waited; until then it needs no place."""
    with peers(sql_url) as (web, worker):
        late = offer(web, due=START + 60)
        web.clock.pass_time(1.0)
        soon = offer(web)
        web.writer.batches.write()
        worker.host.rooms = 1
        worker.tick()
        assert ids(worker.host.taken_over) == ids([soon])
        worker.host.rooms = 1
        worker.tick()
        version = worker.writer.follower.version
        after = offer(web)
        web.writer.batches.write()
        worker.clock.pass_time(60.0)
        assert worker.writer._until_due() == 0.0, "it knows when the next one is due"
        assert worker.writer.follower.version == version
        worker.tick()
        assert ids(worker.host.taken_over) == ids([soon, late])
        worker.host.rooms = 1
        worker.tick()
        assert ids(worker.host.taken_over[2:]) == ids([after])


def test_a_submission_that_failed_is_withdrawn(sql_url: str) -> None:
    """A free task ends if its submission has failed, unless another process has it by then."""
    with peers(sql_url) as (web, worker):
        tasks = []
        for _ in range(3):
            tasks.append(offer(web))
            web.clock.pass_time(1.0)
        web.writer.batches.write()
        worker.host.rooms = 1
        worker.tick()
        web.backlog.release(withdrawn(web, tasks[0]))
        web.backlog.release(withdrawn(web, tasks[1]))
        tasks.append(offer(web))
        web.backlog.release(withdrawn(web, tasks[3]))
        web.writer.batches.write()

        rows = [worker.row(task) for task in tasks]
        found = [(row.status, row.process) for row in rows]
        ended, waits = ("cancelled", ""), ("pending", "")
        assert found == [("pending", worker.process_id), ended, waits, ended]


def test_it_is_withdrawn_before_it_is_free(sqlite_url: str) -> None:
    """If a submission fails because the database does, nobody can take its task afterwards."""
    with peers(sqlite_url, 1) as (web,):
        task = offer(web)
        with locked(sqlite_url):
            assert not web.writer.attempt()
        web.backlog.release(withdrawn(web, task))
        (record,) = web.backlog.take(2)
        assert (record.task_id, record.status.value) == (task.task_id, "cancelled")
        assert web.writer.attempt()
        assert (web.row(task).status, len(web.backlog)) == ("cancelled", 0)


def withdrawn(peer: Peer, task: TaskRecord) -> TaskRecord:
    """Return what is written of a task whose submission has failed."""
    found = peer.host.snapshot(task)
    assert task.restart is not None
    found.restart, found.ended = task.restart.free_copy(), peer.clock.now
    found.status = type(PENDING)("cancelled")
    return found


@pytest.mark.parametrize("counted", [0, 200])
def test_free_tasks_are_found_by_an_index(sqlite_url: str, counted: int) -> None:
    """To take a few of many free tasks, or to look for unwanted ones, only their index is read.

    Also if somebody let SQLite count the rows while all of them were free.
    """
    looks: dict[str, list[Callable[[sa.Connection], object]]] = {
        "ready": [
            lambda connection: claims.pick(connection, SQLite(), ["a"], 5),
            lambda connection: claims.pick(connection, SQLite(), ["a", "b"], 5),
            lambda connection: claims.present(connection, SQLite()),
        ],
        "asleep": [claims.next_due],
        "unwanted": [lambda connection: connection.execute(claims.UNWANTED)],
    }
    with peers(sqlite_url, 1) as (peer,):
        for number in range(counted):
            offer(peer, number)
        peer.writer.batches.write()
        with peer.database.writing() as connection:
            connection.exec_driver_sql("ANALYZE")
    with peers(sqlite_url, 1) as (peer,), peer.database.reading() as connection:
        for index, look in ((index, look) for index, some in looks.items() for look in some):
            text, values = statement_of(connection, look)
            # Named, since what SQLite has counted may lead it elsewhere.
            assert index != "ready" or f"INDEXED BY asyncframe_tasks_{index}" in text
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values).all()
            found = [one.detail for one in plan if "asyncframe_tasks" in one.detail]
            searched = re.compile(rf"SEARCH .* INDEX asyncframe_tasks_{index}\b")
            assert found, plan
            assert all(map(searched.match, found)), plan


@pytest.mark.parametrize("is_counted", [False, True])
def test_postgresql_reads_no_free_task_in_vain(postgres_url: str, is_counted: bool) -> None:
    """To take a few of many free tasks, PostgreSQL reads the index of those that may start."""
    looks: list[Callable[[sa.Connection], object]] = [
        lambda connection: claims.pick(connection, PostgreSQL(), ["tests.claimed"], 5),
        lambda connection: claims.pick(connection, PostgreSQL(), ["tests.claimed", "b"], 5),
        lambda connection: claims.present(connection, PostgreSQL()),
    ]
    with peers(postgres_url, 1) as (peer,):
        for number in range(200):
            offer(peer, number)
        peer.writer.batches.write()
        if is_counted:
            with peer.database.writing() as connection:
                connection.exec_driver_sql("ANALYZE asyncframe_tasks")
        with peer.database.reading() as connection:
            for look in looks:
                text, values = statement_of(connection, look)
                # By a cursor that takes the values as they stand in the text.
                cursor = direct._cursor_of(connection)
                cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", values)
                ((plan,),) = cursor.fetchall()
                reads = list(readings(plan[0]["Plan"]))
                assert {one.get("Index Name") for one in reads} == {"asyncframe_tasks_ready"}
                assert max(one["Actual Rows"] for one in reads) <= 5


def readings(plan: Any) -> Iterator[Any]:
    """Return the parts of a plan that read rows of tasks."""
    if plan.get("Relation Name") == "asyncframe_tasks":
        yield plan
    for part in plan.get("Plans", ()):
        yield from readings(part)


def statement_of(
    connection: sa.Connection, look: Callable[[sa.Connection], object]
) -> tuple[str, Any]:
    """Return the statement that *look* executes, and its values."""
    found: list[tuple[str, Any]] = []
    with hearing(connection.engine, lambda *made: found.append(made)):
        look(connection)
    (made,) = found
    return made
