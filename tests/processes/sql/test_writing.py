"""What the SQL store writes: no final state changes, nothing removed comes back."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus
from framework._threads.clock import SystemClock
from framework.exceptions import StoreUnavailableError
from framework.stores.sql._backlog import Backlog
from framework.stores.sql._dialects import direct
from framework.stores.sql._reading import follower as _follower
from framework.stores.sql._tables import statements as _statements
from framework.stores.sql._writing import batches as _batches
from framework.stores.sql._writing import drafts as _drafts
from tests.processes.sql.siblings import (
    COMPLETED,
    FAILED,
    INTERRUPTED,
    PENDING,
    RUNNING,
    START,
    Peer,
    peers,
)


def test_record_comes_back_as_it_went(sql_url: str) -> None:
    """Another process reads of a finished task what its own process wrote."""
    with peers(sql_url) as (one, two):
        task = one.accept(progress=0.5, progress_message="half", slept=2.5, reason="slow")
        one.clock.pass_time(1.0)
        one.start(task)
        one.clock.pass_time(2.0)
        one.end(task, result={"text": "grün", "deep": [1, None, 2.5]})
        one.writer.batches.write()
        two.clock.pass_time(500.0)
        two.writer.follower.look()
        found = two.mirror.get(task.task_id)

    assert found is not None
    assert (found.task_id, found.name, found.description) == (
        task.task_id,
        "tests.task",
        "a task of the tests",
    )
    assert found.status is COMPLETED
    assert found.result == {"text": "grün", "deep": [1, None, 2.5]}
    assert (found.progress, found.progress_message, found.reason) == (0.5, "half", "slow")
    assert (found.attempts, found.slept) == (1, 2.5)
    stamps = [found.wall(at) for at in (found.created, found.started, found.ended)]
    assert [stamp.timestamp() - START for stamp in stamps if stamp] == pytest.approx([0, 1, 3])
    assert found.ended is not None
    assert found.ended == pytest.approx(103.0), "in this process's monotonic seconds"


def test_live_states_are_written(sql_url: str) -> None:
    """A task that is accepted, and one that has begun, can be read by others."""
    with peers(sql_url) as (one, two):
        waiting, running = one.accept(), one.accept()
        one.start(running)
        one.writer.batches.write()
        found = two.writer_reads([waiting.task_id, running.task_id, "unknown"])

    assert found == {waiting.task_id: PENDING, running.task_id: RUNNING}


def test_what_comes_together_is_written_at_once(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of what comes together is written before all of it, also if that is more than a batch.

    What others note meanwhile does not wait for it, and a fault leaves it together.
    """
    monkeypatch.setattr(_batches, "BATCH", 2)
    with peers(sqlite_url, 1) as (peer,):
        ids, told = ["a", "b", "c", "d", "e"], list[BaseException | None]()
        written = lambda: sorted(peer.writer_reads([*ids, "apart"]))  # noqa: E731  # asked often
        with peer.backlog.together(ids):
            early = peer.accept("a")
            peer.backlog.secure(early, told.append)
            peer.accept("apart")
            peer.writer.batches.write()
            assert (written(), told) == (["apart"], [])
            peer.end(early)
            tasks = [early, *map(peer.accept, ids[1:])]
            peer.writer.batches.write()
            assert written() == ["apart"]
        with monkeypatch.context() as fails:
            fails.setattr(peer.writer.batches, "_write_batch", lost)
            with pytest.raises(OperationalError, match=r"^\(builtins\.OSError\) disk I/O error"):
                peer.writer.batches.write()
        peer.writer.batches.write()

        assert (written(), told) == (["a", "apart", "b", "c", "d", "e"], [None])
        assert len({peer.row(task).version for task in tasks}) == 1


def lost(*_: object) -> None:
    """Fail as a database whose disk does."""
    raise OperationalError("BEGIN", {}, OSError("disk I/O error"))


def test_woken_as_the_time_is_over() -> None:
    """Whoever wakes the store's thread in the moment in which its time is over is not missed."""

    class TooLate(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            found = self.is_set()
            # Before the thread goes on.
            self.set()
            return found

    backlog = Backlog(SystemClock())
    backlog._wake = TooLate()
    assert not backlog.sleep(0.0)
    assert backlog.sleep(0.0)


def test_final_state_never_changes(sql_url: str) -> None:
    """Writing to a task whose row is final changes nothing."""
    with peers(sql_url, 1) as (peer,):
        (task,) = peer.finished()
        before = peer.row(task)
        late: TaskRecord = peer.host.snapshot(task)
        late.status, late.result = FAILED, None
        late.error = ValueError("too late")
        peer.backlog.put(late)
        peer.writer.batches.write()
        late.status = RUNNING
        peer.backlog.note(late)
        peer.writer.batches.write()

        assert peer.row(task) == before


def test_only_still_running_changes_after_the_end(sql_url: str) -> None:
    """A final task can still be updated to say that its body has ended."""
    with peers(sql_url, 1) as (peer,):
        task = peer.accept()
        peer.start(task)
        task.still_running = True
        peer.end(task, TaskStatus.TIMEOUT)
        peer.writer.batches.write()
        assert peer.row(task).still_running == 1
        task.still_running = False
        peer.backlog.note(task)
        peer.writer.batches.write()

        assert peer.row(task).still_running == 0
        assert peer.row(task).status == "timeout"


def test_row_of_another_process_is_left_alone(
    sql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two tasks with one id, the first one written is kept, and the other one is logged."""
    with peers(sql_url) as (one, two):
        first = one.accept("chosen")
        one.writer.batches.write()
        two.end(two.accept("chosen"), FAILED)
        two.writer.batches.write()

        assert one.row(first).process == one.process_id
        assert one.row(first).status == "pending"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(
        "task 'chosen' of this process is not stored: another process has already"
    )


def test_cancellation_asked_for_elsewhere_stays(sql_url: str) -> None:
    """A process that writes its task does not undo what another has asked for."""
    with peers(sql_url) as (one, two):
        task = one.accept()
        one.writer.batches.write()
        assert cancels(two, task.task_id)
        one.start(task)
        one.writer.batches.write()

        assert one.row(task).cancel_requested == 1
        one.writer.follower.look()
        assert one.host.cancelled == [task.task_id]


def cancels(peer: Peer, task_id: str) -> bool:
    """Ask for a task's cancellation as the store does."""
    with peer.database.writing() as connection:
        version = peer.writer.statements.advance(connection, "").version
        owner = peer.writer.statements.request_cancel(connection, task_id, version)
        return owner is not None


def test_nothing_to_cancel(sql_url: str) -> None:
    """A final task, or an unknown one, cannot be cancelled."""
    with peers(sql_url) as (one, two):
        (task,) = one.finished()

        assert not cancels(two, task.task_id)
        assert not cancels(two, "unknown")


def test_batches_are_bounded(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More records than fit into a transaction are written in several; larger ones at the end."""
    monkeypatch.setattr(_batches, "BATCH", 10)
    with peers(sql_url) as (one, two):
        versions = []
        for hurries in (False, True):
            if hurries:
                one.writer.batches.hurry()
            tasks = [one.end(one.accept()) for _ in range(25)]
            one.writer.batches.write()
            versions.append(len({one.row(task).version for task in tasks}))
        two.writer.follower.look()

        assert versions == [3, 1]
        assert len(one.backlog) == 0
        assert all(two.mirror.get(task.task_id) for task in tasks)


def test_large_results_make_small_batches(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records with large results are written in several transactions, all of them."""
    monkeypatch.setattr(_drafts, "_MAX_TEXT", 5_000)
    with peers(sql_url, 1) as (peer,):
        tasks = [peer.end(peer.accept(), result="x" * 2_000) for _ in range(7)]
        peer.writer.batches.write()

        assert len({peer.row(task).version for task in tasks}) == 3
        assert len(peer.backlog) == 0


def breathing(peer: Peer, seconds: float) -> list[float]:
    """Let each breath of a process take so many seconds; return where they are counted."""
    breaths: list[float] = []

    def breathe(least: float) -> None:
        breaths.append(least)
        peer.clock.pass_time(seconds)

    peer.clock.sleep = breathe
    return breaths


def test_records_are_not_held_up(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where other threads compute, a process that has much to write stops giving way to them."""
    monkeypatch.setattr(_batches, "BATCH", 100)
    monkeypatch.setattr(_drafts, "_SLICE", 8)
    with peers(sql_url) as (one, two):
        quick, slow = breathing(one, 0.0001), breathing(two, 0.01)
        tasks = [peer.end(peer.accept()) for peer in (one, two) for _ in range(400)]
        for peer in (one, two):
            peer.writer.batches.write()

        assert len(one.ids()) == len(tasks)
        assert (len(quick), len(slow)) == (4 * (100 // 8), 5)
        slow.clear()
        two.writer.follower.look()
        quick.clear()
        one.writer.follower.look()
        assert (len(slow), len(quick)) == (5, 6)


def test_reading_in_pieces_misses_nothing(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one transaction that are read in several pieces are all read, once each."""
    monkeypatch.setattr(_follower, "CHUNK", 4)
    monkeypatch.setattr(_statements, "CHUNK", 4)
    with peers(sql_url) as (one, two):
        tasks = [one.end(one.accept()) for _ in range(11)]
        live = [one.accept() for _ in range(9)]
        one.writer.batches.write()
        two.writer.follower.look()

        ids = [record.task_id for record in two.mirror.records()]
        assert sorted(ids) == sorted(task.task_id for task in [*tasks, *live])


def test_history_is_taken_in(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that comes later knows finished tasks in their order, and the others' live ones."""
    with peers(sql_url, 1) as (one,):
        ended = one.finished(7)
        live = one.accept()
        one.writer.batches.write()
        with peers(sql_url, 1) as (two,):
            ids = [record.task_id for record in two.mirror.records()]
            figures = two.mirror.figures()

    assert ids == [task.task_id for task in [*ended, live]]
    assert (figures["completed"], figures["pending"]) == (7, 1)


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"], ids=["NUL", "surrogate"])
def test_hostile_texts(sql_url: str, text: str) -> None:
    """Characters that no database can store are replaced, and do not stop a batch."""
    with peers(sql_url) as (one, two):
        task = one.accept(reason=text, progress_message=text)
        one.end(task, result={"x": text} if text.isascii() else None)
        beside = one.end(one.accept())
        one.writer.batches.write()
        two.writer.follower.look()
        found = two.mirror.get(task.task_id)

        assert two.mirror.get(beside.task_id)
        assert found is not None
        assert found.reason in {"a\ufffdb", "a?b"}
        assert found.result == ({"x": text} if text.isascii() else None)


def test_bad_record_is_given_up_alone(
    sql_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task whose result is not JSON is stored as failed, and the others are written."""
    told: list[Any] = []
    with peers(sql_url, 1) as (peer,):
        good, bad = peer.accept(), peer.accept()
        bad.result = object()
        peer.end(bad, result=object())
        peer.backlog.secure(bad, told.append)
        peer.writer.batches.write()

        assert peer.row(good).status == "pending"
        assert peer.row(bad).status == "failed"
        assert "the result of a task cannot be kept" in peer.row(bad).reason
        assert len(peer.backlog) == 0
    assert [type(error) for error in told] == [TypeError]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"task {bad.task_id} is written to the store without what it refuses: ")


def test_row_that_the_database_refuses(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The good part of a row that the database refuses is written, and so are the other rows."""
    with peers(postgres_url, 1) as (peer,):
        good, bad = peer.accept(), peer.accept(attempts=2**40)
        peer.writer.batches.write()

        assert peer.row(good).status == "pending"
        assert (peer.row(bad).status, peer.row(bad).attempts) == ("pending", 2**31 - 1)
        assert "out of range" in bad.reason
        assert len(peer.backlog) == 0
    assert f"task {bad.task_id} is written to the store without what it refuses" in caplog.text


# -- cleaning up


def test_statement_that_the_driver_takes_as_it_is(postgres_url: str) -> None:
    """A statement of the driver's own finds what SQLAlchemy finds by it, and is not taken apart."""
    two, one = (sa.bindparam(name, type_=sa.Text()) for name in ("two", "one"))
    query: Any = sa.select(two, one, two.concat(one), sa.literal_column("'5%%'"), sa.literal("%s"))
    given = {"one": "%(two)s", "two": "$1"}
    with peers(postgres_url, 1) as (peer,), peer.database.reading() as connection:
        found = direct.Direct(query).all(connection, given)
        assert found == [tuple(row) for row in connection.execute(query, given)]
        assert isinstance(direct._cursor_of(connection), psycopg.RawCursor)


def test_removed_tasks_are_removed_everywhere(sql_url: str) -> None:
    """Tasks that one process removes by age leave the database and the memory of the others."""
    with peers(sql_url) as (one, two):
        tasks = one.finished(5)
        two.clock.pass_time(5.0)
        two.writer.follower.look()
        removed, _, bound = two.mirror.remove(ended_before=102.5, keep=None, completed=False)
        assert removed == 3
        assert bound is not None
        two.writer.remove(bound)
        two.writer.batches.write()
        one.writer.follower.look()

        left = [task.task_id for task in tasks[3:]]
        assert sorted(one.ids()) == sorted(left)
        assert [record.task_id for record in one.mirror.records()] == left
        assert one.mirror.figures()["completed"] == two.mirror.figures()["completed"] == 2


def test_too_many_are_removed(sql_url: str) -> None:
    """If there are too many finished tasks, the oldest are removed, whichever process had them."""
    with peers(sql_url) as (one, two):
        first = one.finished(3)
        two.clock.pass_time(10.0)
        two.writer.follower.look()
        second = two.finished(3)
        removed, records, bound = two.mirror.remove(ended_before=None, keep=2, completed=True)
        assert bound is not None
        two.writer.remove(bound)
        two.writer.batches.write()

        assert removed == 4
        assert [record.task_id for record in records] == [
            *(task.task_id for task in first),
            second[0].task_id,
        ]
        assert sorted(two.ids()) == sorted(task.task_id for task in second[1:])


def test_none_kept(sql_url: str) -> None:
    """With no finished task to be kept, none stays in the database."""
    with peers(sql_url, 1) as (peer,):
        peer.finished(3)
        live = peer.accept()
        _, _, bound = peer.mirror.remove(ended_before=None, keep=0, completed=False)
        assert bound is not None
        peer.writer.remove(bound)
        peer.writer.batches.write()

        assert peer.ids() == [live.task_id]


def test_late_batch_brings_nothing_back(sql_url: str) -> None:
    """A task that is written only after a clean-up has passed its end does not appear."""
    with peers(sql_url) as (one, two):
        begun = one.accept()
        one.writer.batches.write()
        one.end(begun)
        late = one.end(one.accept())
        one.clock.pass_time(1.0)
        two.clock.pass_time(2.0)
        two.writer.remove(START + 1.5)
        two.writer.batches.write()
        one.writer.batches.write()

        assert one.row(late) is None
        assert one.row(begun) is None
        assert one.ids() == []


def test_update_brings_nothing_back(sql_url: str) -> None:
    """A task that was removed does not come back since its body lets go afterwards."""
    with peers(sql_url, 1) as (peer,):
        task = peer.accept()
        peer.start(task)
        task.still_running = True
        peer.end(task, TaskStatus.TIMEOUT)
        peer.writer.batches.write()
        peer.writer.remove(START + 1.0)
        peer.writer.batches.write()
        task.still_running = False
        peer.backlog.note(task)
        peer.writer.batches.write()

        assert peer.ids() == []


def test_many_are_removed_in_pieces(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large clean-up takes several transactions, all of them made."""
    monkeypatch.setattr(_statements, "DELETED", 3)
    with peers(sql_url, 1) as (peer,):
        peer.finished(10)
        peer.writer.remove(START + 8.5)
        peer.writer.batches.write()

        assert len(peer.ids()) == 1


def test_wall_clock_that_jumped_removes_no_more_elsewhere(sql_url: str) -> None:
    """After the wall clock has jumped ahead, a clean-up removes what it removes here."""
    with peers(sql_url, 1) as (peer,):
        tasks = peer.finished(4)
        peer.clock.wall += 3_600.0
        removed, _, bound = peer.mirror.remove(ended_before=101.5, keep=None, completed=False)
        assert removed == 2
        assert bound is not None
        peer.writer.remove(bound)
        peer.writer.batches.write()

        assert sorted(peer.ids()) == sorted(task.task_id for task in tasks[2:])


# -- how much may wait


def test_too_many_wait(sqlite_url: str) -> None:
    """Once as many records wait as may, new tasks are refused and changes are not."""
    with peers(sqlite_url, 1, capacity=3) as (peer,):
        tasks = [peer.accept() for _ in range(3)]
        with pytest.raises(
            StoreUnavailableError,
            match=r"^3 task records wait to be written to the store and no more may: it is too "
            r"slow; submit again later, or answer 503$",
        ):
            peer.accept()
        for task in tasks:
            peer.end(task)
        peer.writer.batches.write()
        peer.accept()

        assert len(peer.backlog) == 1


def test_interrupted_by_others_is_read_so(sql_url: str) -> None:
    """A final state that another process wrote for a dead one has its error."""
    with peers(sql_url, 3) as (one, two, three):
        task = one.accept()
        one.writer.batches.write()
        for _ in range(7):
            two.tick()
        three.writer.follower.look()
        found = three.mirror.get(task.task_id)

        assert found is not None
        assert found.status is INTERRUPTED
        assert found.error is not None
        assert found.error.args == (task.task_id, "tests.task")
