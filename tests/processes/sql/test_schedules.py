"""What only a database has of the contract of schedules, which is in `contracts`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy.engine import Connection

from framework._records.records import TaskRecord
from framework._records.schedules import RunClaim
from framework.exceptions import StoreUnavailableError
from framework.stores.sql._shared.schedules import ScheduleRows
from tests.processes.sql.siblings import START, Peer, new_record, peers

NAME = "reports.nightly"
DUE = START + 60.0
GIVEN_UP = r"^the processes that share the store consider this one dead; it comes back soon$"


class Book(ScheduleRows):
    """The book of one of several processes."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer.writer._site, peer.writer.batches.drafts.call_of)
        self.peer = peer

    def run(self, due: float, *, name: str = NAME) -> tuple[RunClaim, TaskRecord]:
        """Claim a run; return the answer, and the record of the task that would run."""
        record = new_record(self.peer.clock)
        return self.claim(name, due, record, True), record


@pytest.fixture
def books(sql_url: str) -> Iterator[tuple[Book, Book]]:
    """The books of two processes that have entered a schedule."""
    with peers(sql_url) as (one, other):
        made = Book(one), Book(other)
        for book in made:
            book.enter(NAME, "every 60 s", START)
        yield made


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


def test_a_claimed_run_is_a_task(books: tuple[Book, Book]) -> None:
    """The task of a claimed run is that of its process, and ends INTERRUPTED when it dies."""
    one, other = books
    _, record = one.run(DUE)
    row = other.peer.row(record)
    assert (row.status, row.process) == ("pending", one.peer.process_id)
    for _ in range(8):
        other.peer.tick()
    assert other.peer.row(record).status == "interrupted"


def test_a_process_that_was_given_up(books: tuple[Book, Book]) -> None:
    """A process that the others consider dead claims nothing before it has come back."""
    one, other = books
    for _ in range(8):
        other.peer.tick()
    with pytest.raises(StoreUnavailableError, match=GIVEN_UP):
        one.run(DUE)
    assert other.run(DUE)[0] == "claimed"


def test_a_name_that_no_database_can_store(books: tuple[Book, Book]) -> None:
    """A name with characters that databases refuse is kept with others in their place."""
    one, other = books
    assert one.run(DUE, name="a\0b")[0] == "claimed"
    assert other.run(DUE, name="a\0b")[0] == "taken"
