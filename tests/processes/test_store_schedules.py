"""Who runs a schedule, as the database decides it for all processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy.engine import Connection

from framework._tasks.records import TaskRecord
from framework._tasks.schedules import RunClaim, ScheduleState
from framework.exceptions import StoreUnavailableError
from framework.stores.sql._shared.schedules import ScheduleRows
from tests.processes.siblings import START, Peer, new_record, peers

NAME = "reports.nightly"
DUE = START + 60.0


class Book(ScheduleRows):
    """The book of one of several processes."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer.database, peer.writer)
        self.peer = peer

    def run(
        self, due: float | None, *, skip: bool = True, name: str = NAME
    ) -> tuple[RunClaim, TaskRecord]:
        """Claim a run; return the answer, and the record of the task that would run."""
        record = new_record(self.peer.clock)
        return self.claim(name, due, record, skip), record


@pytest.fixture
def books(sql_url: str) -> Iterator[tuple[Book, Book]]:
    """The books of two processes that have entered a schedule."""
    with peers(sql_url) as (one, other):
        made = Book(one), Book(other)
        for book in made:
            book.enter(NAME, "every 60 s", START)
        yield made


def accept(book: Book, record: TaskRecord) -> None:
    """Take in a claimed task, as the framework does."""
    book.peer.backlog.note(record)


def test_a_new_schedule_has_missed_nothing(books: tuple[Book, Book]) -> None:
    """The last due time of a schedule that was not known is when it was entered."""
    assert books[0].all() == [ScheduleState(NAME, "every 60 s", START)]


def test_a_schedule_is_kept(books: tuple[Book, Book]) -> None:
    """Who enters a known schedule gets what is known about it; only its timing is replaced."""
    _, record = books[0].run(DUE)
    entered = books[1].enter(NAME, "every 30 s", START + 900)
    assert entered == ScheduleState(
        NAME, "every 30 s", DUE, ran_at=record.created_at, task_id=record.task_id
    )
    assert books[0].all() == [entered]


def test_a_due_time_is_claimed_once(books: tuple[Book, Book]) -> None:
    """The first process gets a due time, the second is refused it, and earlier ones as well."""
    one, other = books
    assert one.run(DUE)[0] == "claimed"
    assert other.run(DUE)[0] == "taken"
    assert other.run(DUE - 60)[0] == "taken"


def test_two_that_claim_at_once(books: tuple[Book, Book], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes that both find a due time free, the second to write is refused it."""
    one, other = books
    real = other.peer.database.reading

    # 1 both read that it is free, 2 one claims it, 3 the other one has its turn to write.
    @contextmanager
    def reading() -> Iterator[Connection]:
        with real() as connection:
            yield connection
        assert one.run(DUE)[0] == "claimed"

    monkeypatch.setattr(other.peer.database, "reading", reading)
    assert other.run(DUE)[0] == "taken"


def test_a_claimed_run_exists(books: tuple[Book, Book]) -> None:
    """The task of a claimed run is in the database as a task of the process that claimed it."""
    one, other = books
    _, record = one.run(DUE)
    row = other.peer.row(record)
    assert (row.status, row.process) == ("pending", one.peer.process_id)
    _, refused = other.run(DUE)
    assert other.peer.row(refused) is None


def test_the_process_dies_after_its_claim(books: tuple[Book, Book]) -> None:
    """The run of a process that died before it accepted the task ends INTERRUPTED."""
    one, other = books
    _, record = one.run(DUE)
    for _ in range(8):
        other.peer.tick()
    assert other.peer.row(record).status == "interrupted"
    assert other.run(DUE)[0] == "taken"
    assert other.run(DUE + 60)[0] == "claimed"


def test_a_live_run_has_the_next_one_skipped(books: tuple[Book, Book]) -> None:
    """A due time at which the last run is live is skipped, and counted once for all processes."""
    one, other = books
    _, record = one.run(DUE)
    assert other.run(DUE + 60)[0] == "busy"
    assert one.run(DUE + 60)[0] == "taken"
    (state,) = one.all()
    assert (state.last_due, state.skipped, state.task_id) == (DUE + 60, 1, record.task_id)


def test_a_run_that_has_ended_is_in_nobodys_way(books: tuple[Book, Book]) -> None:
    """Once the last run has ended, the next due time is claimed."""
    one, other = books
    _, record = one.run(DUE)
    accept(one, record)
    one.peer.end(record)
    one.peer.writer.write()
    assert other.run(DUE + 60)[0] == "claimed"


def test_a_body_that_goes_on_is_a_live_run(books: tuple[Book, Book]) -> None:
    """A run that has timed out while its body goes on has the next due time skipped."""
    one, other = books
    _, record = one.run(DUE)
    accept(one, record)
    record.still_running = True
    one.peer.end(record)
    one.peer.writer.write()
    assert other.run(DUE + 60)[0] == "busy"


def test_a_due_time_that_is_not_to_be_skipped(books: tuple[Book, Book]) -> None:
    """Without skipping, a due time stays due while the last run is live."""
    one, other = books
    one.run(DUE)
    before = one.all()
    assert other.run(DUE + 60, skip=False)[0] == "busy"
    assert one.all() == before


def test_a_run_that_was_removed_is_not_live(books: tuple[Book, Book]) -> None:
    """A last run that a clean-up has removed is in nobody's way."""
    one, other = books
    _, record = one.run(DUE)
    accept(one, record)
    one.peer.end(record)
    one.peer.writer.write()
    one.peer.writer.remove(START + 900)
    one.peer.writer.write()
    assert one.peer.row(record) is None
    assert other.run(DUE + 60)[0] == "claimed"


def test_a_pause_is_for_all(books: tuple[Book, Book]) -> None:
    """A paused schedule runs in no process, and what was due is not missed once it resumes."""
    one, other = books
    assert one.pause(NAME, True, START)
    assert other.run(DUE)[0] == "paused"
    assert other.enter(NAME, "every 60 s", DUE + 900).paused
    assert other.pause(NAME, False, DUE + 900)
    assert one.run(DUE)[0] == "taken"
    assert one.run(DUE + 960)[0] == "claimed"


def test_a_pause_twice(books: tuple[Book, Book]) -> None:
    """Pausing or resuming twice is as once: a second resume moves nothing."""
    one, other = books
    assert one.pause(NAME, False, START + 900)
    assert other.run(DUE)[0] == "claimed"
    assert [one.pause(NAME, True, START), other.pause(NAME, True, START)] == [True, True]
    assert one.all()[0].paused


def test_a_pause_of_nothing(books: tuple[Book, Book]) -> None:
    """A name that nobody has entered is not paused."""
    assert not books[0].pause("reports.weekly", True, START)
    assert [one.name for one in books[1].all()] == [NAME]


def test_a_run_by_hand(books: tuple[Book, Book]) -> None:
    """A run by hand is claimed though the schedule is paused, and takes no due time."""
    one, other = books
    one.pause(NAME, True, START)
    claim, record = other.run(None)
    assert claim == "claimed"
    assert one.run(None)[0] == "busy"
    (state,) = one.all()
    assert (state.last_due, state.task_id, state.skipped) == (START, record.task_id, 0)


def test_a_schedule_that_nobody_entered(books: tuple[Book, Book]) -> None:
    """A claim enters a name that is not known."""
    one, other = books
    assert one.run(DUE, name="reports.weekly")[0] == "claimed"
    assert other.run(DUE, name="reports.weekly")[0] == "taken"


@pytest.mark.parametrize(("ahead", "claim"), [(10_800.0, "taken"), (10_801.0, "claimed")])
def test_a_clock_that_was_wrong(books: tuple[Book, Book], ahead: float, claim: RunClaim) -> None:
    """A last due time counts up to three hours ahead: further on, a wrong clock has set it."""
    one, other = books
    _, record = one.run(DUE + ahead)
    accept(one, record)
    one.peer.end(record)
    one.peer.writer.write()
    assert other.run(DUE)[0] == claim


def test_a_process_that_was_given_up(books: tuple[Book, Book]) -> None:
    """A process that the others consider dead claims nothing before it has come back."""
    one, other = books
    for _ in range(8):
        other.peer.tick()
    with pytest.raises(StoreUnavailableError, match=r"^the processes that share the store cons"):
        one.run(DUE)
    assert other.run(DUE)[0] == "claimed"


def test_a_name_that_no_database_can_store(books: tuple[Book, Book]) -> None:
    """A name with characters that databases refuse is kept with others in their place."""
    one, other = books
    assert one.run(DUE, name="a\0b")[0] == "claimed"
    assert other.run(DUE, name="a\0b")[0] == "taken"
