"""More finished tasks than memory holds: they are counted, found and removed all the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from benchmarks.history import fill
from framework import get_task_manager, setup_async_framework
from framework._records.records import TaskRecord
from framework.stores.sql import SQLStore
from framework.stores.sql._reading import follower as _follower
from framework.stores.sql._reading import mirror, pages
from framework.stores.sql._reading.mirror import STATUSES, Older
from framework.stores.sql._shared.site import Pace
from framework.stores.sql._tables import statements as _statements
from framework.stores.sql._tables.schema import PROCESSES, STEPS, TASKS
from tests.processes.executed import hearing
from tests.processes.sql.siblings import COMPLETED, FAILED, INTERRUPTED, START, Peer, peers


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold four finished tasks in memory, move two at once, and read three marks at once."""
    monkeypatch.setattr(mirror, "HELD", 4)
    monkeypatch.setattr(mirror, "_SLACK", 0)
    monkeypatch.setattr(mirror, "_MOVED", 2)
    monkeypatch.setattr(pages, "MARKS", 3)


def moved(peer: Peer) -> None:
    """Let a process let go of all tasks that it need not hold."""
    while peer.mirror.move():
        pass


def counted(peer: Peer) -> dict[str, int]:
    """Return a process's counts above 0."""
    return {status: count for status, count in peer.mirror.figures().items() if count}


def ids(records: list[TaskRecord]) -> list[str]:
    """Return the ids of records."""
    return [str(record.task_id) for record in records]


@contextmanager
def statements(peer: Peer) -> Iterator[list[str]]:
    """Note the statements that a process makes."""
    made: list[str] = []
    with hearing(peer.database._engine, lambda statement, _: made.append(statement)):
        yield made


# -- what is held, and what is only counted


def test_many_are_counted_and_not_read(sql_url: str) -> None:
    """A process that starts reads few finished tasks whole, and of many none."""
    found = {}
    with peers(sql_url, 1) as (one,):
        one.end(one.accept(), FAILED)
        for more in (3, 1, 15):
            one.finished(more)
            with peers(sql_url, 1) as (two,):
                many = len(two.history.records(None))
                found[many] = (len(two.mirror.records()), two.mirror.is_whole, counted(two))

    assert found == {
        4: (4, True, {"completed": 3, "failed": 1}),
        5: (0, False, {"completed": 4, "failed": 1}),
        20: (0, False, {"completed": 19, "failed": 1}),
    }


def test_the_oldest_are_let_go(sql_url: str) -> None:
    """Of a process's own tasks and those of others the latest are held, and all are listed."""
    with peers(sql_url) as (one, two):
        tasks = ids(one.finished(5))
        two.clock.pass_time(5.0)
        two.writer.follower.look()
        tasks += ids(two.finished(4))
        one.writer.follower.look()
        live = one.accept()
        one.writer.batches.write()
        two.writer.follower.look()
        for peer in (one, two):
            moved(peer)

            assert ids(peer.mirror.records(COMPLETED)) == tasks[-4:]
            assert ids(peer.history.records(COMPLETED)) == tasks
            assert peer.mirror.get(tasks[0]) is None
            assert peer.writer_reads([tasks[0]]) == {tasks[0]: COMPLETED}
        assert ids(two.history.records(None)) == [*tasks, live.task_id]
        assert ids(two.history.records(FAILED)) == []
        assert counted(one) == {"completed": 9}
        assert counted(two) == {"completed": 9, "pending": 1}


def test_what_waits_to_be_written_is_held(sql_url: str) -> None:
    """While the database does not have a task, memory does, however many end after it."""
    with peers(sql_url, 1) as (peer,):
        tasks = [peer.end(peer.accept()) for _ in range(9)]
        moved(peer)
        assert [peer.mirror.get(task.task_id) for task in tasks] == tasks
        assert sorted(ids(peer.history.records(None))) == sorted(ids(tasks))
        peer.writer.batches.write()
        peer.end(peer.accept())
        moved(peer)

        assert [peer.mirror.get(task.task_id) for task in tasks].count(None) == 6
        assert len(peer.history.records(None)) == 10


def test_unread_failure_is_held(sql_url: str) -> None:
    """A failure that nobody has read stays in memory until it is read, or removed and returned."""
    with peers(sql_url, 1) as (peer,):
        read, unread = [peer.end(peer.accept(), FAILED) for _ in range(2)]
        peer.clock.pass_time(1.0)
        peer.finished(9)
        moved(peer)
        assert peer.mirror.unread() == [read, unread]
        read.read = True
        peer.finished(2)
        moved(peer)
        assert peer.mirror.get(read.task_id) is None
        removed, told, _ = peer.mirror.remove(ended_before=100.5, keep=None, completed=False)

        assert (removed, told) == (2, [unread])
        assert peer.mirror.unread() == []
        assert counted(peer) == {"completed": 11}


def test_nothing_is_counted_twice(sql_url: str) -> None:
    """A task that was let go is not counted again when it is read again, whatever the reason."""
    with peers(sql_url) as (one, two):
        task = one.accept(still_running=True)
        one.end(task, FAILED)
        one.clock.pass_time(1.0)
        one.finished(9)
        two.writer.follower.look()
        moved(two)
        before = counted(two)
        # 1 its body lets go of it, 2 somebody asks for it, 3 a backup is put back.
        task.still_running = False
        one.backlog.note(task)
        one.writer.batches.write()
        two.writer.follower.look()
        assert two.writer_reads([task.task_id]) == {task.task_id: FAILED}
        two.writer.follower.version = 10**9
        two.writer.follower.look()

        assert before == counted(two) == {"completed": 9, "failed": 1}
        moved(two)
        assert len(two.history.records(None)) == 10


def test_tasks_that_end_at_one_moment_are_counted(sql_url: str) -> None:
    """Tasks of several processes that ended at the same moment as older ones are all counted."""
    with peers(sql_url) as (one, two):
        for _ in range(3):
            for peer in (one, two):
                for _ in range(5):
                    peer.end(peer.accept())
                peer.writer.batches.write()
            for peer in (one, two):
                peer.writer.follower.look()
                moved(peer)

        assert counted(one) == counted(two) == {"completed": 30}


def test_stamps_are_exact(sql_url: str) -> None:
    """A task's times are read as they were written, to the last bit."""
    rng = random.Random(7)
    with peers(sql_url) as (one, two):
        tasks = []
        for _ in range(500):
            one.clock.wall = START + rng.random() * 1e8
            tasks.append(one.accept())
        one.writer.batches.write()
        two.writer.follower.look()
        found = {record.task_id: record.created_at for record in two.mirror.records()}

        assert found == {task.task_id: task.created_at for task in tasks}


def test_signs_of_life_while_it_starts(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that takes long to count the history gives a sign of life every second."""
    slow: list[Peer] = []
    marks = pages.Pages.marks

    def read(self: Any, connection: Any, after: Any) -> Any:
        slow[-1].clock.pass_time(Pace().beat)
        return marks(self, connection, after)

    class Slow(Peer):
        """A process whose clock moves while it reads."""

        def __init__(self, url: str) -> None:
            slow.append(self)
            super().__init__(url)

    with peers(sql_url, 1) as (one,):
        one.finished(9)
        monkeypatch.setattr(pages.Pages, "marks", read)
        two = Slow(sql_url)
        with one.database.reading() as connection:
            beat = connection.execute(
                sa.select(PROCESSES.c.beat).where(PROCESSES.c.process_id == two.process_id)
            ).scalar_one()
        two.close()

        assert beat == 3, "after each of the first three reads"


def test_what_ends_while_it_starts(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that end or are removed between two reads of a start are counted once, or not."""
    with peers(sql_url, 1) as (one,):
        one.finished(8)
        marks = pages.Pages.marks
        steps = iter([lambda: one.finished(2), lambda: one.writer.remove(START + 1.0)])

        def read(self: Any, connection: Any, after: Any) -> Any:
            found = marks(self, connection, after)
            connection.commit()
            next(steps, lambda: None)()
            one.writer.batches.write()
            return found

        monkeypatch.setattr(pages.Pages, "marks", read)
        with peers(sql_url, 1) as (two,):
            two.writer.follower.look()

            assert counted(two) == {"completed": 8}
            assert len(two.history.records(None)) == 8


def test_long_gaps_are_read_in_parts(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has much to read reads a part at each look, and misses nothing."""
    monkeypatch.setattr(_follower, "_MOST", 4)
    monkeypatch.setattr(_follower, "CHUNK", 2)
    monkeypatch.setattr(_statements, "CHUNK", 2)
    with peers(sql_url) as (one, two):
        tasks = [task for _ in range(5) for task in one.finished(3)]
        looks = 0
        while two.writer.follower.version < 5:
            two.writer.follower.look()
            looks += 1

        assert looks == 5
        assert counted(two) == {"completed": len(tasks)}


# -- removing


@pytest.mark.parametrize("start", [False, True], ids=["goes on", "starts"])
def test_keep_counts_all(sql_url: str, start: bool) -> None:
    """The oldest tasks are removed until so many are left, in memory and in the database."""
    tasks: list[str] = []
    with peers(sql_url, 1) as (one,):
        for keep in (20, 11, 7, 4, 3, 0):
            tasks += ids(one.finished(11 - len(tasks)))
            with peers(sql_url, 1) as (two,):
                peer = two if start else one
                moved(one)
                removed, _, bound = peer.mirror.remove(
                    ended_before=None, keep=keep, completed=False
                )
                if bound is not None:
                    peer.writer.remove(bound)
                    peer.writer.batches.write()
                two.writer.follower.look()
                one.writer.follower.look()

                left = tasks[max(0, 11 - keep) :]
                assert removed == 11 - len(left), keep
                for each in (one, two):
                    assert sorted(each.ids()) == sorted(left), keep
                    assert ids(each.history.records(None)) == left, keep
                    assert counted(each) == ({"completed": len(left)} if left else {}), keep
            tasks = left


def test_age_counts_all(sql_url: str) -> None:
    """Tasks are removed by their age wherever they are."""
    tasks: list[str] = []
    with peers(sql_url, 1) as (peer,):
        for age in (0, 1, 5, 9, 11):
            # One ends in each second.
            first = peer.clock.now - len(tasks)
            tasks += ids(peer.finished(11 - len(tasks)))
            moved(peer)
            removed, _, bound = peer.mirror.remove(
                ended_before=first - 0.5 + age, keep=None, completed=False
            )
            if bound is not None:
                peer.writer.remove(bound)
            assert removed == age
            left = tasks[age:]
            assert ids(peer.history.records(None)) == left, "although the rows are there"
            peer.writer.batches.write()

            assert sorted(peer.ids()) == sorted(left)
            tasks = left


@pytest.mark.parametrize("jump", [3_600.0, -3_600.0])
def test_wall_clock_that_jumps_makes_no_task_older(sql_url: str, jump: float) -> None:
    """After the wall clock has jumped, no task is removed before its time, wherever it is."""
    with peers(sql_url, 1) as (peer,):
        tasks = ids(peer.finished(6))
        peer.clock.wall += jump
        tasks += ids(peer.finished(6))
        moved(peer)
        removed, _, bound = peer.mirror.remove(ended_before=104.5, keep=None, completed=False)
        if bound is not None:
            peer.writer.remove(bound)
            peer.writer.batches.write()

        assert removed <= 5
        assert set(tasks[5:]) <= set(peer.ids())
        assert len(peer.ids()) == 12 - removed


def test_ended_at_the_same_moment(sql_url: str) -> None:
    """Tasks that ended at one moment go together, so that memory and the database agree."""
    with peers(sql_url, 1) as (peer,):
        for _ in range(9):
            peer.end(peer.accept(), INTERRUPTED)
        peer.writer.batches.write()
        peer.clock.pass_time(1.0)
        peer.finished(4)
        moved(peer)
        removed, _, bound = peer.mirror.remove(ended_before=None, keep=10, completed=False)
        assert bound is not None
        peer.writer.remove(bound)
        peer.writer.batches.write()

        assert (removed, len(peer.ids()), counted(peer)) == (9, 4, {"completed": 4})


def test_framework_is_told_of_rows_that_only_the_database_had(sql_url: str) -> None:
    """Removed tasks are returned if memory holds them, and told of when they are deleted if not."""
    with peers(sql_url, 1) as (one,):
        tasks = ids(one.finished(9))
        moved(one)
        removed, told, bound = one.mirror.remove(ended_before=None, keep=2, completed=True)
        assert bound is not None
        one.writer.remove(bound, ids(list(told)))
        one.writer.batches.write()

        assert removed == 7
        assert ids(list(told)) == tasks[5:7]
        assert one.host.gone == tasks[:5]
        _, _, bound = one.mirror.remove(ended_before=None, keep=0, completed=False)
        assert bound is not None
        one.writer.remove(bound)
        one.writer.batches.write()
        assert one.host.gone == tasks[:5], "nobody wants to know"


def test_slice_that_fails_is_repeated(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean-up goes on where the database failed, and others write in between."""
    monkeypatch.setattr(_statements, "DELETED", 3)
    with peers(sql_url) as (one, two):
        one.finished(10)
        remove, calls = one.writer.statements.remove, list[int]()

        def fails_once(connection: Any, bound: float, most: int) -> bool:
            calls.append(most)
            left = remove(connection, bound, most)
            if len(calls) == 2:
                raise OperationalError("DELETE", {}, Exception("the disk is full"))
            if len(calls) == 3:
                assert len(one.ids()) == 8, "what failed was rolled back"
            return left

        monkeypatch.setattr(one.writer.statements, "remove", fails_once)
        one.writer.remove(START + 100.0)
        assert not one.writer.attempt()
        two.clock.pass_time(200.0)
        (task,) = two.finished()
        assert one.writer.attempt()

        assert len(calls) == 5
        assert one.ids() == [task.task_id]


def test_slices_fit_the_database(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that deletes slowly is followed by smaller ones, a quick one by larger ones."""
    with peers(sql_url, 1) as (peer,):
        peer.finished(40)
        remove, sizes, pauses = peer.writer.statements.remove, list[int](), list[float]()

        def slow(connection: Any, bound: float, most: int) -> bool:
            sizes.append(most)
            peer.clock.pass_time(0.05 if most > 40 else 0.006 if most > 20 else 0.001)
            return remove(connection, bound, min(most, 4))

        monkeypatch.setattr(peer.writer.statements, "remove", slow)
        peer.writer.batches._rest = pauses.append  # a spy
        peer.writer.remove(START + 100.0)
        peer.writer.batches.write()

        assert sizes[:6] == [256, 128, 64, 32, 32, 32]
        assert pauses[:4] == pytest.approx([0.05, 0.05, 0.05, 0.006]), "the others' turn"


def test_clean_up_goes_on_after_a_crash(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dead process has removed and not deleted is hidden, and deleted by the next."""
    monkeypatch.setattr(_statements, "DELETED", 3)
    with peers(sql_url, 1) as (dead,):
        tasks = ids(dead.finished(8))
        with dead.database.writing() as connection:
            assert dead.writer.statements.remove(connection, START + 6.5, 3)
    with peers(sql_url, 1) as (next_one,):
        assert len(next_one.ids()) == 5
        assert ids(next_one.history.records(None)) == tasks[7:]
        assert counted(next_one) == {"completed": 1}
        next_one.writer.batches.write()

        assert next_one.ids() == tasks[7:]


def test_space_is_used_again(sqlite_url: str) -> None:
    """The file does not grow as long as as many tasks are removed as are added."""

    def pages(peer: Peer) -> int:
        with peer.database.reading() as connection:
            return int(connection.exec_driver_sql("PRAGMA page_count").scalar_one())

    with peers(sqlite_url, 1) as (peer,):
        sizes = []
        for _ in range(4):
            for task in [peer.accept() for _ in range(400)]:
                peer.end(task, result="x" * 200)
            peer.writer.batches.write()
            sizes.append(pages(peer))
            peer.clock.pass_time(10.0)
            peer.writer.remove(peer.clock.wall - 5.0)
            peer.writer.batches.write()
            assert peer.ids() == []

        assert max(sizes) <= 1.1 * sizes[0]


def test_older_by_their_stamps() -> None:
    """Tasks that only the database holds are kept in the order of their end, and dropped so."""
    older = Older()
    older.extend([])
    for ended_at, status in [(3.0, COMPLETED), (1.0, FAILED), (2.0, COMPLETED), (2.0, FAILED)]:
        older.add(ended_at, status)

    assert (older.first, len(older), older.has(2.0), older.has(2.5)) == (1.0, 4, True, False)
    assert older.bound(0.0, 2) == 2.0
    assert older.bound(2.5, 2) == 2.5
    assert older.bound(0.0, 9) == 3.0
    assert {status: many for status, many in older.drop(2.0).items() if many} == {
        FAILED: 2,
        COMPLETED: 1,
    }
    assert older.counts()[COMPLETED] == len(older) == 1
    assert set(older.counts()) == set(STATUSES)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=60))
def test_older_is_a_sorted_list(steps: list[tuple[int, bool]]) -> None:
    """After any additions and drops it counts and finds what a sorted list would."""
    older, model = Older(), list[float]()
    for second, added in steps:
        if added:
            older.add(float(second), FAILED if second % 2 else COMPLETED)
            model = sorted([*model, float(second)])
        else:
            gone = older.drop(float(second))
            assert gone.total() == len([one for one in model if one <= second])
            model = [one for one in model if one > second]
        assert len(older) == len(model)
        assert (older.first, older.last) == ((model[0], model[-1]) if model else (None, None))
        assert [older.has(float(at)) for at in range(31)] == [at in model for at in range(31)]
        assert older.counts()[FAILED] == len([one for one in model if one % 2])
        assert older.bound(-1.0, 3) == (model[min(3, len(model)) - 1] if model else -1.0)


def test_a_start_makes_few_statements(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of statements with which a process starts is that of its reads of marks."""
    monkeypatch.setattr(pages, "MARKS", 1_000)
    counts = []
    with peers(sql_url, 1) as (one,):
        for _ in range(2):
            one.finished(30)
            with peers(sql_url, 1) as (two,), statements(two) as made:
                two.writer.follower.load(two.writer.pages, lambda: None)
            counts.append(len([text for text in made if text.startswith(("SELECT", "WITH"))]))

    assert counts[0] == counts[1] <= 6


# -- a million


@pytest.mark.soak
@pytest.mark.timeout(1_800)
async def test_a_million_tasks(
    sql_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a million tasks none is held, all are listed, and the old ones are removed in the end."""
    monkeypatch.undo()
    fill(sql_url, 1_000_000, STEPS[:1])
    with peers(sql_url, 1) as (other,):
        async with setup_async_framework(
            None, store=SQLStore(sql_url), max_finished_tasks=10**7, result_ttl=1e9
        ):
            manager = get_task_manager()
            store: Any = manager._core.ledger.store
            assert manager.get_stats()["kept"] == 1_000_000
            assert store._mirror.records() == []
            found, page = [], await manager.list_tasks(status="failed", limit=1_000)
            while page.next is not None:
                found += page.tasks
                page = await manager.list_tasks(status="failed", limit=1_000, after=page.next)
            found += page.tasks
            stamps = [task.created_at for task in found]
            assert len({task.task_id for task in found}) == len(found) == 20_000
            assert stamps == sorted(stamps, reverse=True)
            removed = manager.cleanup_completed_tasks(8_000.0)
            assert 890_000 < removed < 910_000
            await manager.submit(int, wait=True)
            assert manager.get_stats()["kept"] == 1_000_001 - removed
            while store._writer.batches.removal.bound is not None:
                other.tick()
                await asyncio.to_thread(store._writer._closing.wait, 1.0)
        with other.database.reading() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(TASKS)).scalar() == (
                1_000_001 - removed
            )
    assert "is not responding" not in caplog.text
