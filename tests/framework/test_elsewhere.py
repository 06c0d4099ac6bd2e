"""Asking for tasks of other processes: one thread asks, nobody blocks, nobody is forgotten."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterator, Sequence

import pytest

from framework import FrameworkNotStartedError, TaskStatus
from framework._clock import SystemClock
from framework._delivery import Mailboxes
from framework._elsewhere import Elsewhere
from framework._records import Label, TaskRecord
from framework.exceptions import BrokerUnavailableError, StoreUnavailableError
from tests.patience import PATIENCE


def record_of(task_id: str, status: TaskStatus = TaskStatus.COMPLETED) -> TaskRecord:
    """Return a record that another process might have written."""
    record = TaskRecord()
    record.task_id, record.status, record.label = task_id, status, Label("call", "")
    record.rest = None
    return record


class Book:
    """A directory that a test writes in.

    Attributes:
        records: What it knows, by id.
        asked: The ids of each question, in order.
        on_ask: Called on the asking thread at each question, with its number from 1 on.
    """

    def __init__(self, *records: TaskRecord) -> None:
        self.records = {record.task_id: record for record in records}
        self.asked: list[set[str]] = []
        self.threads: set[str] = set()
        self.cancelled: list[str] = []
        self.on_ask: Callable[[int], object] = abs

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return what it knows of these ids."""
        self.asked.append(set(task_ids))
        self.threads.add(threading.current_thread().name)
        self.on_ask(len(self.asked))
        return [self.records[one] for one in task_ids if one in self.records]

    def request_cancel(self, task_id: str) -> bool:
        """Note who is to be cancelled."""
        self.cancelled.append(task_id)
        return task_id in self.records


@pytest.fixture
def book() -> Book:
    """A directory with one task that has ended and one that runs."""
    return Book(record_of("done"), record_of("runs", TaskStatus.RUNNING))


@pytest.fixture
def elsewhere(book: Book) -> Iterator[Elsewhere]:
    """One that asks the book."""
    made = Elsewhere([book], SystemClock(), Mailboxes())
    yield made
    made.close()


async def test_found(elsewhere: Elsewhere, book: Book) -> None:
    """A task that somebody has is found by one question, on a thread of its own."""
    assert await elsewhere.find("runs") is book.records["runs"]
    assert book.asked == [{"runs"}]
    assert book.threads == {"asyncframe-elsewhere"}


async def test_unknown(elsewhere: Elsewhere, book: Book) -> None:
    """An unknown id is asked for three times: its process may not have written it yet."""
    assert await elsewhere.find("nobody") is None
    assert book.asked == [{"nobody"}] * 3


async def test_written_in_between(elsewhere: Elsewhere, book: Book) -> None:
    """A task whose process writes it a moment later is found."""
    late = record_of("late")
    book.on_ask = lambda number: book.records.update(late=late) if number == 2 else None
    assert await elsewhere.find("late") is late


async def test_until_final(elsewhere: Elsewhere, book: Book) -> None:
    """Whoever waits is answered once the task is final."""
    ended = record_of("runs", TaskStatus.FAILED)
    book.on_ask = lambda number: book.records.update(runs=ended) if number == 3 else None
    assert await elsewhere.until_final("runs", PATIENCE) is ended
    assert len(book.asked) == 3


async def test_blocked_until_final(elsewhere: Elsewhere, book: Book) -> None:
    """A thread can wait as well."""
    ended = record_of("runs", TaskStatus.FAILED)
    book.on_ask = lambda number: book.records.update(runs=ended) if number == 3 else None
    assert await asyncio.to_thread(elsewhere.block_until_final, "runs", PATIENCE) is ended


async def test_asked_together(elsewhere: Elsewhere, book: Book) -> None:
    """Questions that come while one is asked are asked as one."""
    entered, leave = threading.Event(), threading.Event()

    def hold(number: int) -> None:
        if number == 1:
            entered.set()
            assert leave.wait(PATIENCE)

    book.on_ask = hold
    first = asyncio.ensure_future(elsewhere.find("done"))
    assert await asyncio.to_thread(entered.wait, PATIENCE)
    others = [asyncio.ensure_future(elsewhere.find(one)) for one in ("done", "runs", "done")]
    await asyncio.wait(others, timeout=0)
    leave.set()
    await asyncio.gather(first, *others)
    assert book.asked == [{"done"}, {"done", "runs"}]


async def test_too_long(elsewhere: Elsewhere) -> None:
    """Who waits for too long is told that the task goes on."""
    with pytest.raises(TimeoutError, match=r"task runs, .* after 0.01 s of waiting; it goes on"):
        await elsewhere.until_final("runs", 0.01)
    with pytest.raises(TimeoutError, match="it goes on"):
        await asyncio.to_thread(elsewhere.block_until_final, "runs", 0.01)


async def test_cancelled_question(elsewhere: Elsewhere, book: Book) -> None:
    """A question whose asker has gone is not asked again."""
    twice = asyncio.Event()
    loop = asyncio.get_running_loop()
    book.on_ask = lambda number: loop.call_soon_threadsafe(twice.set) if number == 2 else None
    waiting = asyncio.ensure_future(elsewhere.until_final("runs", None))
    await twice.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    many = len(book.asked)
    # Three more questions take longer than the next look at the task would.
    assert await elsewhere.find("nobody") is None
    assert all("runs" not in asked for asked in book.asked[many + 1 :])


async def test_failing_directory(elsewhere: Elsewhere, book: Book) -> None:
    """A directory that cannot answer is an error for all who ask, and for nobody later."""

    def fail(_: int) -> None:
        raise StoreUnavailableError("the disk is full")

    book.on_ask = fail
    answers = await asyncio.gather(
        elsewhere.find("done"), elsewhere.until_final("runs", PATIENCE), return_exceptions=True
    )
    assert [type(one) for one in answers] == [StoreUnavailableError] * 2
    book.on_ask = abs
    assert await elsewhere.find("done") is not None


async def test_two_directories() -> None:
    """The second is asked for what the first does not know."""
    first, second = Book(record_of("one")), Book(record_of("one"), record_of("two"))
    elsewhere = Elsewhere([first, second], SystemClock(), Mailboxes())
    assert await elsewhere.find("one") is first.records["one"]
    assert await elsewhere.find("two") is second.records["two"]
    assert second.asked == [{"two"}]
    assert await elsewhere.cancel("two")
    assert (first.cancelled, second.cancelled) == (["two"], ["two"])
    elsewhere.close()


async def test_one_of_two_fails() -> None:
    """While one directory does not answer, the other's word is good enough, and no word is not."""
    first, second = Book(record_of("one")), Book(record_of("two"))

    def fail(_: int) -> None:
        raise BrokerUnavailableError("away")

    first.on_ask = fail
    elsewhere = Elsewhere([first, second], SystemClock(), Mailboxes())
    assert await elsewhere.find("two") is second.records["two"]
    with pytest.raises(BrokerUnavailableError):
        await elsewhere.find("one")
    elsewhere.close()


async def test_call(elsewhere: Elsewhere) -> None:
    """Any blocking call can be made there, and its error comes back."""
    assert await elsewhere.call(lambda: threading.current_thread().name) == "asyncframe-elsewhere"
    with pytest.raises(ZeroDivisionError):
        await elsewhere.call(lambda: 1 / 0)


async def test_closed(elsewhere: Elsewhere, book: Book) -> None:
    """At the end, whoever still waits is told, and no question is taken any more."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    book.on_ask = lambda _: loop.call_soon_threadsafe(asked.set)
    waiting = asyncio.ensure_future(elsewhere.until_final("runs", None))
    await asked.wait()
    elsewhere.close()
    with pytest.raises(FrameworkNotStartedError):
        await waiting
    with pytest.raises(FrameworkNotStartedError):
        await elsewhere.find("done")
