"""The order of a start, a claim and a late sign of life, each forced step by step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from framework import background_task
from framework._records.ids import random_id
from framework._records.records import WAITS, Heading, Restart, TaskRecord
from framework.stores.sql._shared.free import claims as _claims
from framework.stores.sql._shared.free import orphans as _orphans
from framework.stores.sql._shared.membership import MISSED
from framework.stores.sql._tables.schema import TASKS
from tests.processes.sql.siblings import FAILED, PENDING, Peer, peers

HEADING = Heading("tests.requeued", "a task that others may run")


@background_task(on_restart="requeue", name="tests.requeued")
def requeued(number: int) -> int:
    """Stand for the function of a task; it is never called here."""
    return number


def accept(peer: Peer, number: int = 1, *, written: bool = True, **facts: Any) -> TaskRecord:
    """Let a process accept a task that others may run."""
    task = peer.accept(heading=HEADING, restart=Restart(f"[[{number}],{{}}]", **facts))
    if written:
        peer.writer.batches.write()
    return task


def starts(peer: Peer, task: TaskRecord) -> list[bool]:
    """Ask whether a task may start; the list has the answer once there is one."""
    answers: list[bool] = []
    peer.backlog.start(task, answers.append)
    return answers


def give_up(other: Peer) -> None:
    """Let *other* give up all processes that give no sign of life."""
    for _ in range(MISSED + 1):
        other.tick()


def let_go(peer: Peer, task: TaskRecord) -> TaskRecord:
    """Give a task away, as `Permits.let_go` does; return the copy that is written."""
    free = peer.host.snapshot(task)
    assert task.restart is not None
    free.restart, free.status, free.started = task.restart.free_copy(), PENDING, None
    free.reason = WAITS
    task.restart.state = "left"
    peer.backlog.release(free)
    return free


def state(peer: Peer, task: TaskRecord) -> tuple[str, str]:
    """Return the status of a task's row, and whose it is."""
    row = peer.row(task)
    return row.status, row.process


def test_start_is_written_before_it_is_permitted(sql_url: str) -> None:
    """A task that waits and belongs to this process may start once its row is RUNNING."""
    with peers(sql_url, 1) as (peer,):
        task = accept(peer)
        assert json.loads(peer.row(task).restart)["idempotent"] is False
        answers = starts(peer, task)
        assert answers == []
        peer.clock.pass_time(2.0)
        peer.writer.batches.write()

        assert answers == [True]
        row = peer.row(task)
        assert (row.status, row.attempts, row.restart) == ("running", 1, None)
        assert row.started_at - row.created_at == 2.0
        assert row.call == "[[1],{}]", "for whoever wants to run it again after a failure"


def test_first_row_may_be_the_start(sql_url: str) -> None:
    """A task whose first row is not written yet may start, too."""
    with peers(sql_url, 1) as (peer,):
        task = accept(peer, written=False)
        answers = starts(peer, task)
        peer.writer.batches.write()

        assert answers == [True]
        assert state(peer, task) == ("running", peer.process_id)


@pytest.mark.parametrize("asks", ["before", "after"])
def test_late_sign_of_life(sql_url: str, asks: str) -> None:
    """A process that was given up starts nothing that another one has taken over.

    1 it asks for a start, 2 its writer stands still, 3 the other claims the task, 4 it goes on.
    Or it asks only when it goes on.
    """
    with peers(sql_url) as (slow, other):
        task = accept(slow)
        answers = starts(slow, task) if asks == "before" else []
        other.host.rooms = 10
        give_up(other)
        (taken,) = other.host.taken_over
        assert (taken.task_id, taken.status, taken.attempts) == (task.task_id, PENDING, 0)
        assert taken.restart is not None
        assert taken.restart.call == "[[1],{}]"
        if asks == "after":
            answers = starts(slow, task)
        slow.writer.attempt(following=False)

        assert answers == [False]
        assert len(slow.host.interrupted) == 1
        assert state(other, task) == ("pending", other.process_id)
        let_go(slow, task)
        while slow.backlog.waits:
            slow.writer.attempt(following=False)
        assert state(other, task) == ("pending", other.process_id)


def test_start_beside_a_verdict(sql_url: str) -> None:
    """A start that was written in time is not taken back: the task is not taken over."""
    with peers(sql_url) as (slow, other):
        task = accept(slow)
        other.host.rooms = 10
        for _ in range(MISSED):
            other.tick()
        answers = starts(slow, task)
        slow.writer.batches.write()
        assert answers == [True]
        give_up(other)

        assert other.host.taken_over == []
        assert other.row(task).status == "interrupted"
        assert other.row(task).reason == _orphans.REASON


def test_running_task_that_may_run_twice(sql_url: str) -> None:
    """An idempotent task that was running is taken over, and waits again."""
    with peers(sql_url) as (slow, other):
        task = accept(slow, idempotent=True)
        assert starts(slow, task) == []
        slow.writer.batches.write()
        slow.start(task)
        slow.writer.batches.write()
        other.host.rooms = 10
        give_up(other)

        (taken,) = other.host.taken_over
        assert (taken.status, taken.started, taken.attempts) == (PENDING, None, 1)
        assert state(other, task) == ("pending", other.process_id)


@contextmanager
def lost_answer(peer: Peer) -> Iterator[None]:
    """Let the next commit have its effect, and raise an error all the same."""
    plain = peer.database.writing

    @contextmanager
    def writing() -> Iterator[Any]:
        peer.database.writing = plain  # type: ignore[method-assign]
        with plain() as connection:
            yield connection
        raise OSError("the connection is gone")

    peer.database.writing = writing  # type: ignore[method-assign]
    yield


def test_commit_whose_answer_is_lost(sql_url: str) -> None:
    """A start that was committed without an answer is permitted when it is written again."""
    with peers(sql_url, 1) as (peer,):
        task = accept(peer)
        answers = starts(peer, task)
        with lost_answer(peer):
            peer.writer.attempt(following=False)
        assert (answers, peer.row(task).status) == ([], "running")
        peer.writer.attempt(following=False)

        assert answers == [True]
        assert peer.row(task).attempts == 1


def test_late_change_does_not_take_a_start_back(sql_url: str) -> None:
    """What changes before the runner knows of its permit is written of a RUNNING task."""
    with peers(sql_url, 1) as (peer,):
        task = accept(peer)
        answers = starts(peer, task)
        peer.writer.batches.write()
        assert (answers, task.status) == ([True], PENDING)
        task.cancel_requested = True
        peer.backlog.note(task)
        peer.writer.batches.write()

        assert peer.row(task).status == "running"
        assert peer.row(task).restart is None


def test_start_of_a_task_that_has_ended(sql_url: str) -> None:
    """A task that was cancelled while it waited for its permit gets none."""
    with peers(sql_url, 1) as (peer,):
        task = accept(peer)
        answers = starts(peer, task)
        peer.end(task, FAILED)
        peer.writer.batches.write()

        assert answers == [False]
        assert peer.row(task).status == "failed"
        assert task.restart is None, "nobody needs it any more"


def test_task_that_is_given_away(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that its process lets go of belongs to nobody, with its start taken back.

    That holds as well if it is written before the start is refused.
    """
    with peers(sql_url) as (one, other):
        early = accept(one)
        starts(one, early)
        with monkeypatch.context() as patched:
            patched.setattr(one.backlog, "permit", lambda *_: one.writer.batches.write())
            let_go(one, early)
        assert state(one, early) == ("pending", "")
        with one.database.writing() as connection:
            connection.execute(sa.delete(TASKS))
        task = accept(one)
        answers = starts(one, task)
        with lost_answer(one):
            one.writer.attempt(following=False)
        let_go(one, task)
        assert answers == [False]
        # Somebody still tells of the old record.
        task.status = FAILED
        one.backlog.note(task)
        one.backlog.secure(task, lambda _: None)
        one.writer.batches.write()

        row = one.row(task)
        assert (row.status, row.process, row.started_at, row.attempts) == ("pending", "", None, 0)
        assert row.reason == WAITS
        other.host.rooms = 10
        other.tick()
        assert [taken.task_id for taken in other.host.taken_over] == [task.task_id]
        assert state(other, task) == ("pending", other.process_id)


def test_accepted_but_not_written_yet(sql_url: str) -> None:
    """What a process had accepted and not written when it was given up is not lost."""
    with peers(sql_url) as (slow, other):
        give_up(other)
        task = accept(slow, written=False)
        slow.writer.attempt(following=False)
        assert len(slow.host.interrupted) == 1
        let_go(slow, task)
        while slow.backlog.waits:
            slow.writer.attempt(following=False)

        assert state(other, task) == ("pending", "")


def test_taken_over_ended_and_removed(sql_url: str) -> None:
    """A task that others ran and removed does not come back with the process that was given up."""
    with peers(sql_url) as (slow, other):
        task = accept(slow)
        other.host.rooms = 10
        give_up(other)
        with other.database.writing() as connection:
            connection.execute(sa.delete(TASKS).where(TASKS.c.task_id == task.task_id))
        slow.writer.attempt(following=False)
        let_go(slow, task)
        while slow.backlog.waits:
            slow.writer.attempt(following=False)

        assert other.row(task) is None


def test_function_that_nobody_knows(sql_url: str) -> None:
    """A task of an unknown function stays PENDING and says why; it is written once."""
    with peers(sql_url) as (slow, other):
        task = accept(slow)
        with other.database.writing() as connection:
            connection.execute(sa.update(TASKS).values(name="tests.unknown"))
        other.host.rooms = 10
        give_up(other)

        row = other.row(task)
        assert (row.status, row.reason) == ("pending", WAITS)
        assert other.host.taken_over == []
        other.tick()
        assert other.row(task) == row


def test_cancelled_while_it_belongs_to_nobody(sql_url: str) -> None:
    """A task that waits to be taken over is cancelled by whichever process looks first."""
    with peers(sql_url) as (slow, other):
        task = accept(slow)
        with other.database.writing() as connection:
            version = other.writer.statements.advance(connection, "").version
            assert other.writer.statements.request_cancel(connection, task.task_id, version)
        other.host.rooms = 10
        give_up(other)

        assert other.host.taken_over == []
        row = other.row(task)
        assert (row.status, row.reason) == ("cancelled", "it was cancelled before it started")
        other.writer.follower.look()
        found = other.mirror.get(task.task_id)
        assert found is not None
        assert type(found.error).__name__ == "TaskCancelledError"


def test_only_as_many_as_there_is_room_for(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process takes over the oldest tasks, as many as it has room for, in several steps."""
    monkeypatch.setattr(_claims, "MOST", 2)
    with peers(sql_url) as (slow, other):
        tasks = []
        for number in range(6):
            tasks.append(accept(slow, number))
            slow.clock.pass_time(1.0)
        give_up(other)
        assert {state(other, task) for task in tasks} == {("pending", "")}
        other.host.rooms = 5
        other.tick()

        assert [one.task_id for one in other.host.taken_over] == [one.task_id for one in tasks[:5]]
        assert state(other, tasks[5]) == ("pending", "")


def test_id_that_another_process_uses(sql_url: str) -> None:
    """Of two tasks with one chosen id, the second one never starts."""
    with peers(sql_url) as (one, two):
        task_id = random_id()
        first = one.accept(task_id, heading=HEADING, restart=Restart("[[1],{}]"))
        one.writer.batches.write()
        second = two.accept(task_id, heading=HEADING, restart=Restart("[[2],{}]"))
        answers = starts(two, second)
        two.writer.batches.write()

        assert answers == [False]
        assert state(one, first) == ("pending", one.process_id)


@pytest.mark.parametrize("written", [True, False])
def test_start_that_the_database_does_not_take(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    """A task whose record is refused starts only if no other process can have it.

    1 the database takes no start of it, not even a shorter record. 2 Without a row, the task is
    this process's; with an earlier row, others may take it over.
    """
    with peers(sqlite_url, 1) as (peer,):
        task = accept(peer, written=written)
        answers = starts(peer, task)

        def refuse(*_: object) -> None:
            raise sa.exc.DataError("INSERT", {}, ValueError("out of range"))

        monkeypatch.setattr(peer.writer.statements, "put", refuse)
        peer.writer.attempt(following=False)

        assert answers == [not written]


def test_large_arguments_are_taken_in_steps(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tasks with large arguments only a few are taken over at once, but at least one."""
    monkeypatch.setattr(_claims, "MOST_TEXT", 12)
    taken: list[list[str]] = []
    with peers(sql_url) as (slow, other):
        calls = ["1", "2", "33333333333", "4"]
        for number in calls:
            accept(slow, int(number))
            slow.clock.pass_time(1.0)
        other.host.rooms = 10
        plain = other.host.take_over

        def take_over(records: Sequence[TaskRecord]) -> None:
            plain(records)
            taken.append([one.restart.call for one in records if one.restart])

        monkeypatch.setattr(other.host, "take_over", take_over)
        give_up(other)

        assert taken == [["[[1],{}]"], ["[[2],{}]"], ["[[33333333333],{}]"], ["[[4],{}]"]]


def test_task_without_its_arguments(sql_url: str) -> None:
    """A task whose arguments the database refused cannot be taken over, and is INTERRUPTED."""
    with peers(sql_url) as (slow, other):
        task = accept(slow)
        with slow.database.writing() as connection:
            connection.execute(sa.update(TASKS).values(call=None))
        other.host.rooms = 10
        give_up(other)

        assert other.host.taken_over == []
        assert other.row(task).status == "interrupted"


def test_task_is_found_while_it_is_taken_over(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for a task finds it, also when it belongs to this process and is not run yet."""
    found: list[dict[str, Any]] = []
    with peers(sql_url) as (slow, other):
        task = accept(slow)
        other.host.rooms = 10

        def take_over(_: Sequence[TaskRecord]) -> None:
            found.append(other.writer_reads([task.task_id]))

        monkeypatch.setattr(other.host, "take_over", take_over)
        give_up(other)

        assert found == [{task.task_id: PENDING}]


@pytest.mark.parametrize("begins", [False, True], ids=["waits", "begins"])
def test_claim_whose_answer_is_lost(sql_url: str, begins: bool) -> None:
    """A process that does not know whether it has claimed a task claims it again, and runs it."""
    claimed = "running" if begins else "pending"
    with peers(sql_url) as (slow, other):
        task = accept(slow, idempotent=True)
        give_up(other)
        other.host.rooms, other.host.begins = 10, begins
        with lost_answer(other), pytest.raises(OSError, match=r"^the connection is gone$"):
            other.writer.follower.go_on()
        assert state(other, task) == (claimed, other.process_id)
        assert other.host.taken_over == []
        other.tick()

        (taken,) = other.host.taken_over
        assert taken.restart is not None
        assert (taken.task_id, taken.restart.starts) == (task.task_id, int(begins))
        assert state(other, task) == (claimed, other.process_id)
        other.tick()
        assert len(other.host.taken_over) == 1


def test_what_waits_is_written_between_two_steps(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that takes over many tasks writes its own ones after every few of them."""
    monkeypatch.setattr(_claims, "MOST", 2)
    with peers(sql_url) as (slow, other):
        for number in range(5):
            accept(slow, number)
        with slow.database.writing() as connection:
            slow.writer.membership.leave(connection)
        other.host.rooms = 10
        taken, written = [], []
        for _ in range(4):
            own = other.accept()
            other.writer.attempt()
            taken.append(len(other.host.taken_over))
            written.append(other.row(own) is not None)

        # With its own ones, and after them.
        assert (taken, written) == ([2, 5, 5, 5], [True] * 4)
        assert other.writer._until_due() > 0


def test_an_app_that_begins_later_than_its_store(sql_url: str) -> None:
    """Tasks of ended processes start once the app can run them, and not a beat later."""
    with peers(sql_url) as (dead, alive):
        task = accept(dead)
        with dead.database.writing() as connection:
            dead.writer.membership.leave(connection)
        assert alive.writer.attempt()
        assert state(alive, task) == ("pending", ""), "there is no room for it yet"
        alive.host.rooms = 10
        assert alive.writer.attempt()

        assert [taken.task_id for taken in alive.host.taken_over] == [task.task_id]
        assert not alive.writer.follower.behind, "later ones wait for the next look"


@pytest.mark.parametrize("ends", ["unaware", "aware"])
def test_end_that_comes_after_a_takeover(sql_url: str, ends: str) -> None:
    """Only the process that has a task stores its end, whenever the other run of it ends.

    1 it runs here, 2 this process stands still, 3 another one runs it again, 4 the body here
    returns, before this process knows that it was given up, or after it.
    """
    with peers(sql_url) as (slow, other):
        task = accept(slow, idempotent=True)
        answers = starts(slow, task)
        slow.writer.batches.write()
        slow.start(task)
        other.host.rooms = 10
        give_up(other)
        (again,) = other.host.taken_over
        assert (answers, starts(other, again)) == ([True], [])
        other.writer.batches.write()
        if ends == "aware":
            assert slow.writer.attempt(), "it comes back"
        slow.end(task, result=1)
        for _ in range(3):
            assert slow.writer.attempt()

        assert state(other, task) == ("running", other.process_id)
        other.start(again)
        other.end(again, result=2)
        other.writer.batches.write()
        row = other.row(task)
        assert (row.status, row.result, row.process) == ("completed", "2", other.process_id)
