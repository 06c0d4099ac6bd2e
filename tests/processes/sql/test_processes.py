"""Dead processes are detected by counters; a living one is never taken for dead."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from framework.stores.sql._reading.mirror import HELD
from framework.stores.sql._shared.free import orphans as _orphans
from framework.stores.sql._shared.membership import MISSED, GivenUpError
from framework.stores.sql._shared.site import Pace
from framework.stores.sql._tables.schema import PROCESSES, TASKS
from tests.patience import PATIENCE
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

WAITERS = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def living(peer: Peer) -> set[str]:
    """Return the ids of the processes that have a row."""
    with peer.database.reading() as connection:
        return set(connection.execute(sa.select(PROCESSES.c.process_id)).scalars())


def test_dead_process_is_noticed(sql_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A process that gives no sign of life for six beats of another's is given up, not before."""
    with peers(sql_url) as (dead, alive):
        waiting, running, ended = dead.accept(), dead.accept(), dead.accept()
        dead.start(running)
        dead.end(ended)
        dead.writer.batches.write()
        alive.clock.pass_time(60.0)
        for _ in range(MISSED):
            alive.tick()
        assert alive.row(waiting).status == PENDING.value
        assert alive.row(running).status == RUNNING.value
        alive.tick()

        assert alive.row(waiting).status == alive.row(running).status == "interrupted"
        assert sorted(alive.host.ended) == sorted([waiting.task_id, running.task_id])
        told = "tasks that ended INTERRUPTED with their process: 2, of tests.task (2)"
        assert [one for one in caplog.messages if one.startswith("tasks that ended")] == [told]
        assert alive.row(running).ended_at == START + 60.0
        assert alive.row(ended).status == COMPLETED.value
        assert living(alive) == {alive.process_id}


def test_ten_seconds_at_the_latest(sql_url: str) -> None:
    """At its usual pace a process ends the tasks of a dead one within ten seconds."""
    with peers(sql_url) as (dead, alive):
        assert alive.writer.attempt()
        dead.clock.pass_time(0.9)
        task = dead.accept()
        assert dead.writer.attempt()
        died = alive.clock.now
        while alive.row(task).status == PENDING.value and alive.clock.now < died + 60.0:
            alive.clock.pass_time(Pace().look)
            assert alive.writer.attempt()

        assert alive.row(task).status == INTERRUPTED.value
        assert MISSED <= alive.clock.now - died <= 10.0


def test_only_its_own_beats_count(sql_url: str) -> None:
    """A process that cannot write declares no other process dead, whatever the clock says."""
    with peers(sql_url) as (one, two):
        two.tick()
        two.clock.pass_time(86_400.0)
        two.tick()

        assert living(two) == {one.process_id, two.process_id}


def test_a_batch_is_a_sign_of_life(sql_url: str) -> None:
    """A process that is busy writing lives, though it never gets to give a sign besides."""
    with peers(sql_url) as (busy, watching):
        for _ in range(3 * MISSED):
            busy.clock.pass_time(1.0)
            busy.accept()
            busy.writer.batches.write()
            watching.tick()

        assert living(watching) == {busy.process_id, watching.process_id}


def test_clocks_that_differ(sql_url: str) -> None:
    """Processes whose clocks are years apart, or jump, live side by side."""
    with peers(sql_url) as (one, two):
        one.clock.wall -= 1e8
        for _ in range(3 * MISSED):
            one.tick()
            two.tick()
            two.clock.wall += 1e6

        assert living(one) == {one.process_id, two.process_id}


def test_end_never_before_the_start(sql_url: str) -> None:
    """A task that is ended by a process whose clock is behind ends no earlier than it began."""
    with peers(sql_url) as (dead, alive):
        task = dead.accept()
        dead.clock.pass_time(5.0)
        dead.start(task)
        dead.writer.batches.write()
        alive.clock.wall -= 1_000.0
        for _ in range(MISSED + 1):
            alive.tick()

        assert alive.row(task).ended_at == alive.row(task).started_at == START + 5.0


def test_given_up_process_finds_out(sql_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A process that was suspended ends its own tasks, comes back as somebody new, and goes on."""
    with peers(sql_url) as (slow, other):
        task = slow.accept("chosen")
        slow.writer.batches.write()
        before = slow.process_id
        for _ in range(MISSED + 1):
            other.tick()
        fresh = slow.accept()
        assert slow.writer.attempt()

        assert slow.host.interrupted == [
            "the process gave no sign of life, and the others gave it up"
        ]
        assert "gave no sign of life for so long" in caplog.text
        assert slow.process_id != before
        slow.end(task)
        assert slow.writer.attempt()
        assert slow.row(task).status == "interrupted", "what it writes late changes nothing"
        assert slow.row(fresh).process == slow.process_id
        assert living(slow) == {slow.process_id, other.process_id}
        assert "is not kept" not in caplog.text, "its id was its own before as well"


@pytest.mark.parametrize(
    ("later", "held"), [(0, HELD), (600, HELD), (1_100, 1)], ids=["latest", "packed", "moved"]
)
def test_ends_that_come_too_late(sql_url: str, later: int, held: int) -> None:
    """A task that the others have ended has that end also where its body has returned since."""
    with peers(sql_url) as (slow, other):
        slow.mirror.held = held
        tasks = [slow.accept() for _ in range(3)]
        slow.writer.batches.write()
        for _ in range(MISSED + 1):
            other.tick()
        for task in tasks:
            slow.end(task)
        for _ in range(later):
            slow.end(slow.accept(), FAILED)
        while slow.mirror.move():
            pass
        assert {slow.mirror.records()[at].status for at in range(3)} == {COMPLETED}

        assert slow.writer.attempt(), "it comes back"
        assert slow.writer.attempt()
        other.writer.follower.look()

        for peer in (slow, other):
            known = {one.task_id: one for one in peer.history.records(None)}
            found = [known[task.task_id] for task in tasks]
            assert [(one.status, one.result) for one in found] == [(INTERRUPTED, None)] * 3
            expected = {"interrupted": 3, "failed": later}
            assert {name: count for name, count in peer.mirror.figures().items() if count} == {
                name: count for name, count in expected.items() if count
            }
            removed, _, _ = peer.mirror.remove(ended_before=1e9, keep=None, completed=True)
            assert removed == 3 + later
            assert not any(peer.mirror.figures().values())


def test_another_run_counts(sql_url: str) -> None:
    """Of two runs of a task that may run again, that of the process which has it now counts."""
    with peers(sql_url) as (slow, other):
        task = slow.accept()
        slow.writer.batches.write()
        changes = {"process": other.process_id, "status": "running", "version": TASKS.c.version + 1}
        ends = {"status": "completed", "result": '"theirs"', "ended_at": START + 9}
        with slow.database.writing() as connection:
            slow.writer.statements.advance(connection, "")
            connection.execute(sa.update(TASKS).values(changes))
        slow.end(task, result="ours")
        slow.writer.batches.write()
        assert slow.mirror.records()[0].result == "ours", "until the other one has ended"
        with slow.database.writing() as connection:
            version = slow.writer.statements.advance(connection, "").version
            connection.execute(sa.update(TASKS).values({**ends, "version": version}))
        slow.writer.follower.look()
        (found,) = slow.mirror.records()
        assert (found.status, found.result) == (COMPLETED, "theirs")


def test_given_up_process_writes_nothing(sql_url: str) -> None:
    """In the transaction in which it finds out, a process that was given up writes nothing."""
    with peers(sql_url) as (slow, other):
        for _ in range(MISSED + 1):
            other.tick()
        task = slow.accept()
        with pytest.raises(GivenUpError, match=r"^$"):  # only between functions, without words
            slow.writer.batches.write()

        assert slow.row(task) is None
        assert len(slow.backlog) == 1


@pytest.mark.extended("servers")
def test_given_up_while_it_waits(postgres_url: str) -> None:
    """A process that waits for its turn finds out what the other does in the turn before."""
    with peers(postgres_url) as (slow, other):
        task = slow.accept()
        with ThreadPoolExecutor() as pool:
            with other.writer._site.turn() as (connection, *_):
                writes = pool.submit(slow.writer.batches.write)
                while not connection.execute(sa.text(WAITERS)).scalar_one():
                    continue
                other.writer.membership.bury(connection, [(slow.process_id, 0)])
            with pytest.raises(GivenUpError, match=r"^$"):
                writes.result(PATIENCE)

        assert slow.row(task) is None
        assert len(slow.backlog) == 1


def test_task_that_a_given_up_process_had_is_read(sql_url: str) -> None:
    """Until somebody takes it over, a process that was given up finds its task in the database."""
    with peers(sql_url, 1) as (peer,):
        task = peer.accept()
        peer.writer.batches.write()
        with peer.database.writing() as connection:
            peer.writer.membership.enter(connection, 0.0)
        del peer.backlog.live[task.task_id]
        assert peer.writer_reads([task.task_id]) == {task.task_id: PENDING}


def test_task_on_a_worker_is_taken_over(sql_url: str) -> None:
    """A task that runs elsewhere outlives the process that submitted it: another one follows."""
    with peers(sql_url) as (dead, alive):
        task = dead.accept(remote=True)
        dead.writer.batches.write()
        alive.writer.follower.look()
        assert [record.task_id for record in alive.mirror.records()] == [task.task_id]
        for _ in range(MISSED + 1):
            alive.tick()

        assert alive.host.adopted == [task.task_id]
        assert alive.row(task).status == "pending"
        assert alive.row(task).process == alive.process_id
        assert alive.mirror.records() == []


def test_both_who_follow_a_task_may_write(sql_url: str) -> None:
    """The first report of the end of a task on a worker counts, whichever process gets it."""
    with peers(sql_url) as (slow, other):
        task = slow.accept(remote=True)
        slow.writer.batches.write()
        for _ in range(MISSED + 1):
            other.tick()
        slow.end(task, result=1)
        assert slow.writer.attempt()
        assert slow.writer.attempt()

        assert other.row(task).status == "completed"


def test_task_of_nobody_is_ended(sql_url: str) -> None:
    """A live task whose process has left without it is ended by the next look."""
    with peers(sql_url) as (gone, alive):
        task, remote = gone.accept(), gone.accept(remote=True)
        gone.writer.batches.write()
        with gone.database.writing() as connection:
            gone.writer.membership.leave(connection)
        alive.tick()

        assert alive.row(task).status == "interrupted"
        assert alive.host.adopted == [remote.task_id]


def test_two_notice_the_same_death(sql_url: str) -> None:
    """When two processes give up a third at once, one of them ends its tasks, once."""
    with peers(sql_url, 3) as (dead, one, two):
        task = dead.accept()
        dead.writer.batches.write()
        for _ in range(MISSED + 1):
            one.tick()
            two.tick()
        row = one.row(task)
        one.tick()
        two.tick()

        assert row.status == "interrupted"
        assert one.row(task) == row
        assert living(one) == {one.process_id, two.process_id}


def test_sign_of_life_at_the_last_moment(sql_url: str) -> None:
    """A process that gives a sign between the look and the verdict is not given up."""
    with peers(sql_url) as (slow, other):
        task = slow.accept()
        slow.writer.batches.write()
        for _ in range(MISSED):
            other.tick()
        with other.database.reading() as connection:
            dead = other.writer.membership.watch(connection)
        assert [process_id for process_id, _ in dead] == [slow.process_id]
        slow.tick()
        with other.database.writing() as connection:
            other.writer.membership.bury(connection, dead)
            assert not _orphans.are_lost(connection, other.database.dialect)

        assert other.row(task).status == "pending"
        assert slow.process_id in living(other)


def test_several_processes_without_a_row(sql_url: str) -> None:
    """The tasks of all processes that have no row end, whatever others there are between them."""
    with peers(sql_url, 5) as made:
        tasks = {one.process_id: one.accept(owner="ann") for one in made}
        for one in made:
            one.writer.batches.write()
        *others, alive = sorted(made, key=lambda one: one.process_id)
        gone = others[:2] + others[3:]
        with alive.database.writing() as connection:
            for one in gone:
                one.writer.membership.leave(connection)
        alive.tick()

        ended = {one for one, task in tasks.items() if alive.row(task).status == "interrupted"}
        assert ended == {one.process_id for one in gone}


def test_a_look_costs_the_same_however_many_tasks_wait(sqlite_url: str) -> None:
    """To look for the tasks of the dead, SQLite takes no step for each task that waits."""
    with peers(sqlite_url, 1) as (one,):
        steps: list[int] = []
        for number in (0, 5_000):
            with one.database.writing() as connection:
                rows = [
                    {
                        "task_id": str(at),
                        "name": "tests.waits",
                        "description": "",
                        "status": "pending",
                        "process": "",
                        "remote": 0,
                        "cancel_requested": 0,
                        "still_running": 0,
                        "created_at": START,
                        "attempts": 0,
                        "progress_message": "",
                        "reason": "",
                        "version": 1,
                        "call": "[[],{}]",
                        "restart": "{}",
                    }
                    for at in range(number)
                ]
                if rows:
                    connection.execute(sa.insert(TASKS), rows)
            taken: list[int] = []
            with one.database.reading() as connection:
                driver = connection.connection.driver_connection
                assert driver is not None
                driver.set_progress_handler(lambda: taken.append(1), 10)  # noqa: B023
                assert not _orphans.are_lost(connection, one.database.dialect)
                driver.set_progress_handler(None, 0)
            steps.append(len(taken))

        assert steps[1] < steps[0] + 10


def test_backup_that_was_put_back(sql_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A database that suddenly knows less than before is read anew, and whoever notices says so."""
    with peers(sql_url) as (one, two):
        for _ in range(5):
            one.finished()
        two.writer.follower.look()
        with one.database.writing() as connection:
            connection.exec_driver_sql("UPDATE asyncframe_meta SET version = 1")
            connection.exec_driver_sql("DELETE FROM asyncframe_tasks")
        (task,) = one.finished()
        two.writer.follower.look()
        assert two.mirror.get(task.task_id) is not None
        (other,) = two.finished()
        one.writer.follower.look()
        assert one.mirror.get(other.task_id) is not None
    lost = "the database of the store has gone back to an earlier state, version 2 after 5: "
    assert [text.startswith(lost) for text in caplog.messages] == [True, True]


def test_two_clean_ups_at_once(sqlite_url: str) -> None:
    """A later clean-up of this process is not undone by an earlier one of another."""

    class LyingLock:
        """Is got only after another thread has removed what ended later."""

        def __enter__(self) -> None:
            two.writer.follower.removed = START + 9.0

        def __exit__(self, *_: object) -> None:
            pass

    with peers(sqlite_url) as (one, two):
        one.finished(3)
        one.writer.remove(START + 1.0)
        one.writer.batches.write()
        two.writer.follower._lock = LyingLock()  # type: ignore[assignment]  # the point

        two.writer.follower.look()

        assert two.writer.follower.removed == START + 9.0
