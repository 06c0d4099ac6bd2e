"""What only a database has of the contract of places, which is in `contracts`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from framework._records.records import Heading, Restart
from framework._records.statuses import TaskStatus
from framework.protocols import PlaceAnswer, PlaceRequest
from framework.stores.sql._shared import places as _places
from framework.stores.sql._shared.membership import MISSED
from framework.stores.sql._tables import cancelling
from framework.stores.sql._tables.schema import PLACES
from framework.stores.sql._writing import batches as _batches
from tests.processes.sql.siblings import COMPLETED, RUNNING, Peer, peers

GRANTED = PlaceAnswer(True)


class Guest:
    """A task that asks for places, and what it was told."""

    def __init__(self, peer: Peer, **rest: Any) -> None:
        self.peer = peer
        self.record = peer.accept(**rest)
        self.told: list[PlaceAnswer] = []

    @property
    def task_id(self) -> str:
        """Its id."""
        return self.record.task_id

    def join(self, key: str = "key", limit: int = 1, **options: Any) -> None:
        """Ask for a place, and get the answer."""
        request = PlaceRequest(key, self.task_id, limit, **options)
        self.peer.writer.lines.join(request, self.told.append)
        self.peer.writer.attempt(following=False)

    def leave(self) -> None:
        """Leave all lines."""
        self.peer.writer.lines.leave(self.task_id)
        self.peer.writer.attempt(following=False)


def look(peer: Peer) -> None:
    """Let a process read what the others have written."""
    peer.writer.follower.look()
    peer.writer.lines.look(peer.writer.follower.version)


def rows(peer: Peer) -> set[tuple[str, str, int]]:
    """Return the line, the task, and whether it has a place, of each row."""
    columns = (PLACES.c.line, PLACES.c.task_id, PLACES.c.granted)
    with peer.database.reading() as connection:
        return {tuple(row) for row in connection.execute(sa.select(*columns))}


def test_a_place_is_granted_once(sql_url: str) -> None:
    """Of two processes one gets the place, and the other hears who has it."""
    with peers(sql_url) as (one, two):
        first, second = Guest(one), Guest(two)
        first.join(waits=False)
        second.join(waits=False)

        assert first.told == [GRANTED]
        assert second.told == [PlaceAnswer(False, (first.task_id,))]
        assert rows(one) == {("key", first.task_id, 1)}


def test_a_place_is_given_back_with_the_end(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets the place of a task that has ended can read how, whatever fails in between."""
    with peers(sql_url) as (one, two):
        first, second = Guest(one), Guest(two)
        first.join()
        one.start(first.record)
        one.writer.batches.write()
        second.join()
        one.end(first.record)

        def fail(*_: object) -> None:
            raise OperationalError("", {}, Exception("gone"))

        with monkeypatch.context() as patch:
            patch.setattr(one.writer.statements, "put", fail)
            first.leave()
        assert one.row(first.record).status == RUNNING.value
        assert rows(one) == {("key", first.task_id, 1), ("key", second.task_id, 0)}
        one.writer.attempt(following=False)
        look(two)

        assert two.writer_reads([first.task_id]) == {first.task_id: COMPLETED}
        assert second.told[-1] == GRANTED


def test_an_end_and_its_place_are_never_apart(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After no transaction is a task in a line whose end can be read, or the other way round."""
    with peers(sql_url) as (one, two):
        first, again = Guest(one), Guest(one)
        first.join()
        one.start(first.record)
        seen: set[tuple[bool, bool]] = set()
        writing = one.database.writing

        @contextmanager
        def watched() -> Iterator[sa.Connection]:
            with writing() as connection:
                yield connection
            row = two.row(first.record)
            has_ended = row is not None and row.ended_at is not None
            seen.add((has_ended, ("key", first.task_id, 1) in rows(two)))

        monkeypatch.setattr(one.database, "writing", watched)
        one.writer.attempt(following=False)
        one.end(first.record)
        one.writer.lines.leave(first.task_id)
        again.join(waits=False)

        assert seen == {(False, True), (True, False)}
        assert again.told == [GRANTED]


def test_a_task_that_leaves_is_written_first(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a place does not wait for all records that are older."""
    monkeypatch.setattr(_batches, "ROUNDS", 1)
    monkeypatch.setattr(_batches, "BATCH", 3)
    with peers(sql_url) as (one, two):
        first, second = Guest(one), Guest(two)
        first.join()
        second.join()
        one.writer.batches._most = 3
        older = [one.accept() for _ in range(9)]
        one.end(first.record)
        first.leave()
        look(two)

        assert second.told[-1] == GRANTED
        assert len(set(one.ids()) & {record.task_id for record in older}) == 2


def test_a_record_that_is_refused_blocks_no_line(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place of a task whose end cannot be written is given back once that is set aside."""
    with peers(sql_url) as (one, two):
        first, second = Guest(one), Guest(two)
        first.join()
        second.join()
        put = one.writer.statements.put

        def fail(*given: Any) -> int:
            if any(row.task_id == first.task_id for row in given[1]):
                raise OperationalError("", {}, Exception("an odd page"))
            return put(*given)

        monkeypatch.setattr(one.writer.statements, "put", fail)
        monkeypatch.setattr(one.writer, "_failed", lambda _: None)
        one.end(first.record)
        one.writer.lines.leave(first.task_id)
        # Small ones, so that each record comes to be alone.
        one.writer.batches._most = 1
        for _ in range(4):
            one.accept()
            one.writer.attempt(following=False)
        look(two)

        assert one.backlog.aside == [first.record]
        assert second.told[-1] == GRANTED


def test_a_task_is_replaced_before_it_is_written(sql_url: str) -> None:
    """The wish to cancel a task is in its place until its own process knows the task."""
    with peers(sql_url) as (one, two):
        one.writer.lines.join(PlaceRequest("key", "first", 1), lambda _: None)
        one.writer.lines.settle()
        second = Guest(two)
        second.join(replaces=True)
        assert second.told == [PlaceAnswer(False, ("first",), replaces=True)]
        # 1 it has its place, 2 another one replaces it, 3 its process reads that in vain.
        look(one)
        assert one.host.cancelled == []
        one.accept("first")
        one.writer.batches.write()
        look(one)

        assert one.host.cancelled == ["first"]
        assert one.host.reasons == [f"it was replaced by task {second.task_id}"]


def test_a_request_that_replaces_is_asked_once(sql_url: str) -> None:
    """A task is told once that it is replaced, and nobody who does not ask for that replaces it."""
    with peers(sql_url) as (one, two):
        first, waiting, last = Guest(one), Guest(two), Guest(two)
        first.join()
        waiting.join()
        look(one)
        assert one.host.cancelled == []
        last.join(replaces=True)
        assert two.host.cancelled == [waiting.task_id], "its own, at once"
        first.record.cancel_requested = False
        look(one)
        assert one.host.cancelled == [first.task_id]
        first.record.cancel_requested = True
        one.backlog.note(first.record)
        one.writer.batches.write()
        look(one)

        assert one.host.cancelled == [first.task_id]


@pytest.mark.parametrize("dies", ["before", "after"])
def test_a_task_without_a_process_is_replaced(sql_url: str, dies: str) -> None:
    """A task that waits for a process that knows its function is cancelled when it is replaced."""
    heading = Heading("tests.not_here", "")
    with peers(sql_url) as (dead, alive):
        first = Guest(dead)
        dead.end(first.record)
        dead.writer.batches.write()
        orphan = Guest(dead, heading=heading, restart=Restart("[[],{}]"))
        orphan.join()
        second = Guest(alive)
        if dies == "after":
            second.join(replaces=True)
        for _ in range(MISSED + 1):
            alive.tick()
        if dies == "before":
            assert alive.row(orphan.record).status == "pending"
            second.join(replaces=True)
        for _ in range(2):
            alive.tick()
        look(alive)

        assert alive.row(orphan.record).status == "cancelled"
        assert second.told[-1] == GRANTED


def test_requests_survive_a_failing_database(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked while the database fails is answered once it works."""
    with peers(sql_url, 1) as (one,):
        guest = Guest(one)

        def fail(*_: object) -> None:
            raise OperationalError("", {}, Exception("gone"))

        with monkeypatch.context() as patch:
            patch.setattr(one.writer.statements, "advance", fail)
            guest.join()
            assert guest.told == []
        one.writer.attempt(following=False)

        assert guest.told == [GRANTED]


def test_the_places_of_a_dead_process_are_free(sql_url: str) -> None:
    """The step that buries a process grants its places, also if its tasks were never written."""
    with peers(sql_url) as (dead, alive):
        running, unwritten = Guest(dead), Guest(dead)
        dead.start(running.record)
        dead.writer.batches.write()
        running.join("a")
        dead.backlog.written([unwritten.record])
        dead.backlog.live.pop(unwritten.task_id)
        dead.writer.lines.join(PlaceRequest("b", "unwritten", 1), unwritten.told.append)
        dead.writer.lines.settle()
        waiting = [Guest(alive), Guest(alive)]
        for guest, key in zip(waiting, "ab", strict=True):
            guest.join(key)
        for _ in range(MISSED):
            alive.tick()
        assert [GRANTED in guest.told for guest in waiting] == [False, False]
        alive.tick()
        look(alive)

        assert [guest.told[-1] for guest in waiting] == [GRANTED, GRANTED]
        assert rows(alive) == {
            (key, guest.task_id, 1) for key, guest in zip("ab", waiting, strict=True)
        }


def test_the_places_of_tasks_on_workers_are_kept(sql_url: str) -> None:
    """A task that runs on although its process is dead keeps its place, under its new owner."""
    with peers(sql_url) as (dead, alive):
        remote = Guest(dead)
        remote.record.remote = True
        dead.start(remote.record)
        dead.writer.batches.write()
        remote.join()
        waiting = Guest(alive)
        waiting.join()
        for _ in range(MISSED + 1):
            alive.tick()
        look(alive)
        assert waiting.told == [PlaceAnswer(False, (remote.task_id,))]
        assert alive.row(remote.record).status == RUNNING.value
        alive.writer.lines.leave(remote.task_id)
        alive.writer.attempt(following=False)

        assert waiting.told[-1] == GRANTED


def test_a_process_that_leaves_in_order_gives_its_places_back(sql_url: str) -> None:
    """What a process still has in the lines when it is closed goes to those who wait."""
    with peers(sql_url) as (one, two):
        second = Guest(two)
        one.writer.lines.join(PlaceRequest("key", "unwritten", 1), print)
        one.writer.lines.settle()
        second.join()
        one.writer.close(5.0)
        one.writer._finish()
        look(two)

        assert second.told[-1] == GRANTED


def test_a_process_that_leaves_keeps_the_places_of_its_threads(sql_url: str) -> None:
    """The place of a TIMEOUT task whose thread runs on is free once its process counts as dead."""
    with peers(sql_url) as (one, two):
        first, second = Guest(one), Guest(two)
        first.join()
        one.start(first.record)
        first.record.still_running = True
        one.end(first.record, TaskStatus.TIMEOUT)
        one.writer.batches.write()
        second.join()
        one.writer.close(5.0)
        one.writer._finish()
        look(two)
        assert second.told == [PlaceAnswer(False, (first.task_id,))]
        for _ in range(MISSED + 1):
            two.tick()
        look(two)

        assert second.told[-1] == GRANTED


def test_no_question_reads_a_whole_table(sqlite_url: str) -> None:
    """What is asked at each request costs the same however many tasks there are, or wait."""
    asked = (
        _places._OWN,
        _places._COUNT,
        _places._NEXT,
        *_places._OTHERS,
        _places._GRANT,
        _places._LINES_OF,
        _places._LEAVE,
        _places._DROP_OVER,
        _places._REPLACE,
        _places._REPLACED,
        cancelling.live(_places._UNWANTED),
    )
    names = ("in_line", "of_task", "at_version", "by", "own")
    with peers(sqlite_url, 1) as (one,), one.database.reading() as connection:
        for query in asked:
            text = str(query.compile(connection, compile_kwargs={"literal_binds": False}))
            values = dict.fromkeys((*names, *query.compile(connection).params), 1)
            plan = connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN {text}",
                tuple(values[name] for name in query.compile(connection).positiontup or ()),
            )
            steps = [row[3] for row in plan if "SCAN" in row[3] or "TEMP" in row[3]]
            # That index has none but the few tasks that are to be cancelled.
            assert not [step for step in steps if "asyncframe_places_replaced" not in step]
