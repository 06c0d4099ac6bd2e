"""The file beside a SQLite file tells the others how far it is, without a transaction."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from framework.stores.sql._dialects.board import DEAF, ENDING, Board, BoardLink
from framework.stores.sql._shared.site import Pace
from framework.stores.sql._tables.schema import META, PROCESSES
from tests.patience import PATIENCE
from tests.processes.sql.siblings import Peer, TestClock, peers


def board_of(peer: Peer) -> Path:
    """Return the file, which the process has made."""
    return Path(f"{peer.database._engine.url.database}{ENDING}")


def count_transactions(peer: Peer) -> list[object]:
    """Return a list that gets one item for each transaction of a process."""
    begun: list[object] = []
    sa.event.listen(peer.database._engine, "begin", begun.append)
    return begun


def idle(peer: Peer, tenths: int) -> None:
    """Let a process go on with nothing to do, for some tenths of a second."""
    for _ in range(tenths):
        peer.clock.pass_time(0.1)
        assert peer.writer.attempt()


def end_one(peer: Peer) -> str:
    """Let a process write a task that has ended, and return its id."""
    task = peer.end(peer.accept())
    peer.writer.batches.write()
    return str(task.task_id)


def test_an_idle_process_makes_one_transaction_a_second(sqlite_url: str) -> None:
    """With nothing to do, a process makes a transaction a second, and reads what others write."""
    with peers(sqlite_url) as (idler, busy):
        idle(idler, 20)
        begun = count_transactions(idler)
        for _ in range(10):
            idle(idler, 10)
            busy.tick()
        assert len(begun) <= 11
        task_id = end_one(busy)
        idle(idler, 1)

        assert idler.mirror.get(task_id) is not None
        assert not idler.link.may_have_news(idler.writer.follower.read_to)


def test_own_writes_are_no_news(sqlite_url: str) -> None:
    """A process does not read what it alone has written."""
    with peers(sqlite_url) as (busy, _):
        idle(busy, 20)
        end_one(busy)

        assert not busy.link.may_have_news(busy.writer.follower.read_to)


def test_what_is_not_committed_yet_stays_news(sqlite_url: str) -> None:
    """A process that looks a moment before the commit finds it at its next look."""
    with peers(sqlite_url) as (reader, busy):
        idle(reader, 20)
        with busy.writer._site.turn():
            idle(reader, 1)
            assert reader.link.may_have_news(reader.writer.follower.read_to)
        idle(reader, 1)

        assert not reader.link.may_have_news(reader.writer.follower.read_to)


def test_a_beat_takes_back_what_was_not_committed(sqlite_url: str) -> None:
    """If a transaction is rolled back, the others look for it until the next beat of anybody."""
    with peers(sqlite_url) as (reader, busy):
        idle(reader, 20)
        with pytest.raises(KeyError, match=r"^'no'$"), busy.writer._site.turn():
            raise KeyError("no")
        assert reader.link.may_have_news(reader.writer.follower.read_to)
        idle(busy, 11)

        assert not reader.link.may_have_news(reader.writer.follower.read_to)


def test_a_commit_that_was_not_said(sqlite_url: str) -> None:
    """What somebody writes without a word is found within a second, and the board then doubted."""
    with peers(sqlite_url) as (reader, busy):
        idle(reader, 20)
        end_one(busy)
        idle(reader, 1)
        said = board_of(busy).read_bytes()
        task_id = end_one(busy)
        board_of(busy).write_bytes(said)
        idle(reader, 10)
        assert reader.mirror.get(task_id) is not None
        begun = count_transactions(reader)
        idle(reader, 10)
        assert len(begun) >= 10, "it asks the database each time"
        reader.clock.pass_time(DEAF)
        # Until it has given the other one up, which does not beat.
        idle(reader, 80)
        begun.clear()
        idle(reader, 10)

        assert len(begun) <= 2


@pytest.mark.parametrize("lost", ["removed", "torn"])
def test_without_a_board_the_database_is_asked(sqlite_url: str, lost: str) -> None:
    """While the file is missing or broken, a process asks the database; the next beat mends it."""
    with peers(sqlite_url) as (reader, busy):
        idle(reader, 20)
        board = board_of(reader)
        if lost == "removed":
            board.unlink()
        else:
            board.write_bytes(b"123")
        assert reader.link.may_have_news(reader.writer.follower.read_to)
        task_id = end_one(busy)
        idle(reader, 11)

        assert reader.mirror.get(task_id) is not None
        assert not reader.link.may_have_news(reader.writer.follower.read_to)


def test_a_board_that_cannot_be_written(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where the file cannot be made, tasks are written all the same, and one line says why."""
    with peers(sqlite_url) as (reader, busy):
        board_of(busy).unlink(missing_ok=True)
        board_of(busy).mkdir()
        task_id = end_one(busy)
        end_one(busy)
        idle(reader, 1)

        assert reader.mirror.get(task_id) is not None
        (told,) = [one for one in caplog.messages if one.startswith("the file")]
        assert "cannot be written, so the other processes may notice a second later" in told


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_the_file_may_be_used_by_whoever_uses_the_database(tmp_path: Path) -> None:
    """The file gets the permissions of the database, whatever those of new files are."""
    database = tmp_path / "tasks.db"
    database.touch()
    database.chmod(0o660)
    board = Board(str(database))
    board.say(7, 3, 1)

    assert (tmp_path / f"tasks.db{ENDING}").stat().st_mode & 0o777 == 0o660
    assert board.read() == ((7, 3), 1)
    link = BoardLink(board, TestClock())
    assert not link.may_have_news((7, 3))
    assert [link.offers((7, 3)), link.offers((6, 3))] == [False, True]


def test_a_beat_while_others_write(sqlite_url: str) -> None:
    """A process beats although another one writes between its look at the others and its beat."""
    with peers(sqlite_url) as (one, busy):

        def beats() -> int:
            own = PROCESSES.c.process_id == one.process_id
            with one.database.reading() as connection:
                return int(connection.execute(sa.select(PROCESSES.c.beat).where(own)).scalar_one())

        one.clock.pass_time(1.0)
        before = beats()
        with one.writer.batches.pulse.beating() as connection:
            connection.execute(sa.select(META.c.version)).one()
            end_one(busy)

        assert beats() == before + 1
        assert not one.writer.batches.pulse.is_due()


def test_the_thread_wakes_for_what_others_write(sqlite_url: str) -> None:
    """The thread of a process that has nothing to do reads what others write, untold."""
    pace = Pace(look=PATIENCE, watch=PATIENCE, beat=PATIENCE, glance=0.001)
    with peers(sqlite_url, pace=pace) as (reader, busy):
        end_one(busy)
        idle(reader, 1)
        found = threading.Event()
        reader.writer.follower.tell(lambda _: found.set())
        reader.writer.start()
        try:
            end_one(busy)
            # Its last look was long ago by its clock, which stands still. Not said before, since
            # what will be committed is said first: it would look once, too early.
            reader.writer._looked = -PATIENCE
            assert found.wait(PATIENCE / 2)
        finally:
            assert reader.writer.close(PATIENCE)
