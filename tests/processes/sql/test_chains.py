"""Tasks that wait for others in a database: whoever ends them, whoever dies, and in which order."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import sqlalchemy as sa

from framework._records.chains import After
from framework._records.records import Restart, TaskRecord
from framework._records.statuses import (
    CANCELLED,
    FAILED,
    INTERRUPTED,
    PENDING,
    TaskStatus,
)
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._tables import chains
from framework.stores.sql._tables.database import Database
from framework.stores.sql._tables.rows import NEVER, row_of
from framework.stores.sql._tables.schema import CHAINS, META, PROCESSES, STEPS, SUBMISSIONS, prepare
from framework.stores.sql._tables.statements import Statements
from tests.patience import PATIENCE
from tests.processes.sql.siblings import Peer, new_record, peers


def child(peer: Peer, *parents: TaskRecord, run: bool = False, **rest: Any) -> TaskRecord:
    """Take in a task that waits for others."""
    ids = tuple(str(one.task_id) for one in parents)
    after = After(ids, "run" if run else "cancel", waits=True, open=set(ids))
    return peer.accept(after=after, reason="it waits", **rest)


def requeued(peer: Peer, *parents: TaskRecord, delay: float = 0.0, run: bool = False) -> TaskRecord:
    """Take in one that another process may run."""
    return child(peer, *parents, run=run, restart=Restart("[]", delay=delay))


def write(*some: Peer) -> None:
    """Write what waits."""
    for one in some:
        one.writer.batches.write()


def look(*some: Peer) -> None:
    """Read what others have written."""
    for one in some:
        one.writer.follower.look()


def is_clean(peer: Peer) -> bool:
    """Return whether nobody waits any more, and the numbers beside the version are right."""
    with peer.database.reading() as connection:
        left = connection.execute(sa.select(sa.func.count()).select_from(CHAINS)).scalar_one()
        chained, free = connection.execute(sa.select(META.c.chained, META.c.free)).one()
        found = connection.exec_driver_sql(
            "SELECT count(*) FROM asyncframe_tasks WHERE process = '' AND ended_at IS NULL"
        ).scalar_one()
    return (left, chained, free) == (0, 0, found)


def test_an_end_and_a_child_in_each_order(sql_url: str, monkeypatch: Any) -> None:
    """A child that was submitted while its parent ran is released, whoever writes first.

    While nobody waits, an end asks for nothing more.
    """
    with peers(sql_url) as (one, two):
        assert not asks_at_an_end(one, monkeypatch)
        for order in (child_first, end_first, in_the_same_moment):
            parent = one.accept()
            one.start(parent)
            write(one)
            waiting = child(two, parent)
            one.end(parent)
            order(one, two, monkeypatch)
            look(two)
            assert two.host.released.pop() == waiting.task_id
            assert two.row(waiting).due_at is None
            assert is_clean(one)
        parent = one.accept()
        waiting = child(two, parent)
        write(one, two)
        assert asks_at_an_end(one, monkeypatch)
        two.end(waiting, CANCELLED)
        write(two)
        assert is_clean(one), "it waits no more"
        assert not asks_at_an_end(one, monkeypatch)


def child_first(one: Peer, two: Peer, _: Any) -> None:
    """The child's process commits, then the parent's."""
    write(two, one)


def end_first(one: Peer, two: Peer, _: Any) -> None:
    """The parent's process commits, then the child's."""
    write(one, two)


def in_the_same_moment(one: Peer, two: Peer, monkeypatch: Any) -> None:
    """1 The child's process has written in its turn, 2 the other wants its own, 3 it commits."""
    begin, wants = chains.begin, threading.Event()

    def ending() -> None:
        wants.set()
        write(one)

    ends = threading.Thread(target=ending)

    def beginning(*args: Any) -> None:
        begin(*args)
        ends.start()
        assert wants.wait(PATIENCE)

    with monkeypatch.context() as changed:
        changed.setattr(chains, "begin", beginning)
        write(two)
        ends.join(PATIENCE)


def asks_at_an_end(peer: Peer, monkeypatch: Any) -> bool:
    """Return whether the end of a task asks who waits for it."""
    asked: list[object] = []

    def settle(*_: object) -> chains.Settled:
        asked.append(1)
        return chains.NOTHING

    record = peer.accept()
    write(peer)
    peer.end(record)
    with monkeypatch.context() as changed:
        changed.setattr(chains, "settle", settle)
        write(peer)
    assert peer.row(record).status == "completed"
    return bool(asked)


@pytest.mark.extended("time")
def test_nobody_has_to_look_again(sql_url: str) -> None:
    """What an end decides is in the database with it, for tasks of each process and of none."""
    with peers(sql_url, 3) as (one, two, three):
        parent = one.accept()
        one.start(parent)
        own, others, lost = child(one, parent), requeued(two, parent), child(three, parent)
        free = requeued(three, parent, delay=60.0)
        write(one, two, three)
        with one.database.writing() as connection:
            connection.execute(
                sa.delete(PROCESSES).where(PROCESSES.c.process_id == three.process_id)
            )
        one.tick()
        assert one.row(lost).status == INTERRUPTED.value
        assert (one.row(free).process, one.row(free).due_at) == ("", NEVER)
        assert one.row(free).reason == "it waits"
        one.end(parent)
        write(one)

        assert one.host.released == [own.task_id]
        assert [one.row(task).due_at for task in (own, others)] == [None, None]
        freed = one.row(free)
        assert freed.due_at == pytest.approx(one.clock.time() + 60.0)
        assert json.loads(freed.restart)["due"] == freed.due_at
        assert is_clean(one)
        look(two)
        assert two.host.released == [others.task_id]


@pytest.mark.extended("time")
def test_a_late_change_does_not_bring_a_wait_back(sql_url: str) -> None:
    """A process that has not heard yet writes its task as it knows it: it stays released."""
    with peers(sql_url) as (one, two):
        parent = one.accept()
        write(one)
        waiting = requeued(two, parent, delay=5.0)
        write(two)
        one.end(parent)
        write(one)
        released = two.row(waiting)
        two.backlog.note(waiting)
        write(two)

        late = two.row(waiting)
        assert late.due_at == released.due_at < NEVER
        assert (late.restart, late.reason) == (released.restart, released.reason)
        look(two)
        assert two.host.released == [waiting.task_id]


@pytest.mark.extended("time")
@pytest.mark.parametrize("status", [FAILED, TaskStatus.TIMEOUT, CANCELLED, INTERRUPTED])
def test_a_long_chain_ends_in_one_transaction(sqlite_url: str, status: TaskStatus) -> None:
    """All that waits for a task without a result ends with it; what is to run is released."""
    with peers(sqlite_url) as (one, two):
        parent = one.accept()
        one.start(parent)
        write(one)
        chain = [parent]
        for _ in range(300):
            chain.append(requeued(one, chain[-1]))
        write(one)
        others = child(two, chain[5], chain[-1])
        last = child(two, chain[-1], chain[7], run=True)
        write(two)
        one.end(parent, status)
        write(one)

        rows = [one.row(task) for task in (*chain[1:], others)]
        assert {row.status for row in rows} == {"cancelled"}
        assert len({row.version for row in rows}) == 1
        words = "timed out" if status is TaskStatus.TIMEOUT else status.value
        was = "" if status in (FAILED, TaskStatus.TIMEOUT) else "was "
        assert rows[0].reason == f"it was to run after task {parent.task_id}, which {was}{words}"
        assert rows[1].reason.endswith(f"task {chain[1].task_id}, which was cancelled")
        look(two)
        assert two.host.released == [last.task_id]
        assert list(two.host.withdrawn) == [others.task_id]
        assert set(one.host.withdrawn) == {row.task_id for row in rows[:-1]}
        assert is_clean(one)


@pytest.mark.extended("time")
def test_a_parent_that_is_gone(sql_url: str) -> None:
    """One that was removed meanwhile has no result; one that is still to be written is awaited."""
    with peers(sql_url) as (one, two):
        gone, coming = new_record(two.clock), one.accept()
        lost, ran = child(two, gone), child(two, gone, run=True)
        waiting = child(one, coming)
        with one.backlog._lock:
            held = one.backlog._dirty.pop(str(coming.task_id))
        write(one, two)
        assert two.host.withdrawn == {
            lost.task_id: f"it was to run after task {gone.task_id}, which was removed before "
            "anybody knew how it ended"
        }
        assert two.host.released == [ran.task_id]
        assert one.row(waiting).due_at == NEVER
        one.backlog.note(held)
        one.end(coming)
        write(one)
        assert one.host.released == [waiting.task_id]
        told = one.accept()
        early = child(two, told)
        assert early.after is not None
        early.after.unwritten = True
        write(two, one)
        assert two.row(early).due_at == NEVER
        one.end(told)
        write(one)
        look(two)
        assert two.host.released[-1] == early.task_id


@pytest.mark.extended("time")
def test_a_parent_of_a_transaction(sql_url: str) -> None:
    """One that an app has submitted in its own transaction is awaited before it is moved."""
    with peers(sql_url) as (one, two):
        record = new_record(one.clock, restart=Restart("[]", fresh=True, offered=True))
        two.accept()
        write(two)
        with one.database.writing() as connection:
            text = row_of(record, "[]").text
            connection.execute(sa.insert(SUBMISSIONS).values(task_id=record.task_id, written=text))
        waiting = child(two, record)
        write(two)
        assert two.row(waiting).due_at == NEVER
        assert two.host.withdrawn == {}


@pytest.mark.extended("time")
def test_tables_of_the_release_before(sql_url: str) -> None:
    """Tasks under way, and submissions in their old order, go on after the upgrade."""
    database = Database(checked_url(sql_url), False)
    prepare(database, STEPS[:16])
    facts = [
        *("0" * 32, "tests.task", "", "pending", 0, 1.0, None, None, 0, None, "", None, None),
        *("it waits", 0, 0, None, "ann", "[]", Restart("[]").facts(), 1, None),
    ]
    with database.writing() as connection:
        connection.exec_driver_sql(
            "INSERT INTO asyncframe_tasks (task_id, name, description, status, process, remote, "
            "created_at, attempts, progress_message, reason, cancel_requested, still_running, "
            "version, call, restart, level) VALUES ('under-way', 'tests.task', '', 'running', "
            "'gone', 0, 1, 1, '', '', 0, 0, 0, '[]', '{\"idempotent\": true}', 1)"
        )
        connection.execute(
            sa.insert(SUBMISSIONS).values(task_id=facts[0], written=json.dumps(facts))
        )
    database.close()
    with peers(sql_url, 1) as (peer,):
        known = peer.writer_reads([str(facts[0])])
        assert known == {facts[0]: PENDING}
        peer.tick()
        peer.writer.follower.submissions.hint()
        peer.writer.follower.go_on()
        moved = peer.row(new_record(peer.clock, str(facts[0])))
        assert (moved.status, moved.owner, moved.after, moved.process) == (
            "pending",
            "ann",
            None,
            "",
        )
        first = new_record(peer.clock, "under-way")
        assert (peer.row(first).status, peer.row(first).process) == ("pending", "")
        waiting = child(peer, first)
        write(peer)
        with peer.database.writing() as connection:
            version = Statements(peer.database.dialect).advance(connection, "").version
            connection.exec_driver_sql(
                "UPDATE asyncframe_tasks SET status = 'completed', ended_at = 2 "
                "WHERE task_id = 'under-way'"
            )
            found = chains.settle(
                connection, peer.database.dialect, "", version, 2.0, ["under-way"]
            )
        assert found.released == {peer.process_id: [waiting.task_id]}


@pytest.mark.extended("time")
def test_an_answer_that_was_lost(sql_url: str, monkeypatch: Any) -> None:
    """A commit whose answer is lost is made once more, and what it has released is told."""
    with peers(sql_url) as (one, two):
        parent = one.accept()
        one.start(parent)
        waiting, later = child(one, parent), child(two, parent)
        write(one, two)
        one.end(parent)
        monkeypatch.setattr(one.writer.batches, "_note", _lost)
        with pytest.raises(ConnectionResetError, match=r"^the answer$"):
            write(one)
        monkeypatch.undo()
        assert one.host.released == []
        write(one)
        look(one, two)
        assert one.host.released == [waiting.task_id]
        assert two.host.released == [later.task_id]
        assert is_clean(one)


def _lost(*_: object) -> None:
    raise ConnectionResetError("the answer")
