"""Looking up tasks of other processes: one thread asks, no loop blocks, no waiter is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterator, Sequence

import pytest

from framework import FrameworkNotStartedError, TaskStatus
from framework._manager.elsewhere import _PAUSES, _STEP, Elsewhere
from framework._tasks.records import Label, TaskRecord
from framework._threads.clock import SystemClock
from framework._threads.waiters import Mailboxes
from framework.exceptions import BrokerUnavailableError, StoreUnavailableError
from tests.patience import PATIENCE


def record_of(task_id: str, status: TaskStatus = TaskStatus.COMPLETED) -> TaskRecord:
    """Return a record that another process might have written."""
    record = TaskRecord()
    record.task_id, record.status, record.label = task_id, status, Label("call", "")
    record.rest = None
    return record


class Book:
    """A directory whose records a test sets.

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
        """Note the id whose cancellation is requested."""
        self.cancelled.append(task_id)
        return task_id in self.records


class AloneBook(Book):
    """A directory that no other process writes to.

    Attributes:
        on_alone: Called by each `is_alone`.
        doubts: Why other processes may be unable to write.
    """

    on_alone: Callable[[], object] = bool
    doubts: Exception | None = None

    def is_alone(self) -> bool:
        """Return that no other process writes."""
        self.on_alone()
        return True

    def doubt(self) -> Exception | None:
        """Return why other processes may be unable to write."""
        return self.doubts


class HastyClock(SystemClock):
    """A real clock on which waiting takes no time: it jumps to the end of each wait.

    Attributes:
        jumps: Whether it does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.jumps = True
        self.now = 50.0
        self.monotonic: Callable[[], float] = lambda: self.now

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> bool:
        """Wait for a notification only where there is nothing else to wait for."""
        if timeout is None or not self.jumps:
            return super().wait(condition)
        self.now += timeout + 1e-6
        return False


class SetClock(SystemClock):
    """A clock whose time a test sets; waits are real."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.monotonic: Callable[[], float] = lambda: self.now

    def pass_time(self, seconds: float) -> None:
        """Let it go on."""
        self.now += seconds


@pytest.fixture
def hasty() -> HastyClock:
    """The real time of `elsewhere`."""
    return HastyClock()


@pytest.fixture
def book() -> Book:
    """A directory with one task that has ended and one that runs."""
    return Book(record_of("done"), record_of("runs", TaskStatus.RUNNING))


@pytest.fixture
def elsewhere(book: Book, hasty: HastyClock) -> Iterator[Elsewhere]:
    """An `Elsewhere` that asks the book."""
    made = Elsewhere([book], SystemClock(), Mailboxes(), hasty)
    yield made
    made.close()


async def test_found(elsewhere: Elsewhere, book: Book) -> None:
    """A known task is found with one query, on a separate thread."""
    assert await elsewhere.find("runs") is book.records["runs"]
    assert book.asked == [{"runs"}]
    assert book.threads == {"asyncframe-elsewhere"}


async def test_unknown(elsewhere: Elsewhere, book: Book, hasty: HastyClock) -> None:
    """An unknown id is looked up for a second, as its process may not have written it yet."""
    began = hasty.now
    assert await elsewhere.find("nobody") is None
    assert book.asked == [{"nobody"}] * (1 + len(_PAUSES))
    assert 1.0 <= hasty.now - began < 1.0 + len(_PAUSES) * (_STEP + 0.001)


@pytest.mark.parametrize("task_id", ["", "a\nb", "a\0b", "\ud800", "x" * 201])
async def test_no_task_has_such_an_id(elsewhere: Elsewhere, book: Book, task_id: str) -> None:
    """No directory is asked for a string that cannot be a task's id."""
    assert await elsewhere.find(task_id) is None
    assert await elsewhere.until_final(task_id, None) is None
    assert await asyncio.to_thread(elsewhere.block_until_final, task_id, None) is None
    assert book.asked == []


async def test_unknown_without_patience(elsewhere: Elsewhere, book: Book) -> None:
    """With patient=False an unknown id is looked up only once."""
    assert await elsewhere.find("nobody", patient=False) is None
    assert book.asked == [{"nobody"}]


@pytest.mark.parametrize("after", [0.05, 0.5, 0.95])
async def test_written_late(
    elsewhere: Elsewhere, book: Book, hasty: HastyClock, after: float
) -> None:
    """A task is found if its busy process writes it within a second after it returned the id."""
    written = hasty.now + after

    def write(_: int) -> None:
        if hasty.now >= written:
            book.records["late"] = record_of("late")

    book.on_ask = write
    assert await elsewhere.find("late") is book.records["late"]


async def test_repeated_together(elsewhere: Elsewhere, book: Book, hasty: HastyClock) -> None:
    """Many callers who ask for unknown ids cost few queries more than one caller does."""
    loop, count = asyncio.get_running_loop(), 60
    found: list[asyncio.Future[TaskRecord | None]] = []
    all_asked = asyncio.Event()
    hasty.jumps = False

    def ask() -> None:
        if len(found) < count:
            found.append(asyncio.ensure_future(elsewhere.find(f"nobody {len(found)}")))

    def after_a_look(_: int) -> None:
        hasty.now += 0.001
        hasty.jumps = len(found) == count
        loop.call_soon_threadsafe(all_asked.set if hasty.jumps else ask)

    book.on_ask = after_a_look
    ask()
    await all_asked.wait()
    assert await asyncio.gather(*found) == [None] * count
    assert sum(len(ids) for ids in book.asked) == count * (1 + len(_PAUSES))
    assert len(book.asked) < count + 2.0 / _STEP


async def test_alone(hasty: HastyClock) -> None:
    """If no other process writes, an unknown id is reported after a second, immediate look."""
    book, began = AloneBook(), hasty.now
    elsewhere = Elsewhere([book], SystemClock(), Mailboxes(), hasty)
    assert await elsewhere.find("nobody") is None
    assert book.asked == [{"nobody"}] * 2
    assert hasty.now - began < 0.001
    elsewhere.close()


async def test_alone_after_another_has_left(hasty: HastyClock) -> None:
    """A task is found that the last other process wrote just before it left."""
    book, late = AloneBook(), record_of("late")
    # 1 a look finds nothing, 2 the other process writes and leaves, 3 this process is alone.
    book.on_alone = lambda: book.records.update(late=late)
    elsewhere = Elsewhere([book], SystemClock(), Mailboxes(), hasty)
    assert await elsewhere.find("late") is late
    elsewhere.close()


async def test_others_may_be_unable_to_write(hasty: HastyClock) -> None:
    """While processes cannot write, an id is reported unknown only if this process is alone."""
    book = AloneBook(record_of("done"))
    book.doubts = StoreUnavailableError("the disk is full")
    elsewhere = Elsewhere([Book(), book], SystemClock(), Mailboxes(), hasty)
    with pytest.raises(StoreUnavailableError, match="the disk is full"):
        await elsewhere.find("nobody")
    with pytest.raises(StoreUnavailableError, match="the disk is full"):
        await elsewhere.until_final("nobody", None)
    assert await elsewhere.find("done")
    assert await elsewhere.find("nobody", patient=False) is None
    elsewhere.close()
    elsewhere = Elsewhere([book], SystemClock(), Mailboxes(), hasty)
    assert await elsewhere.find("nobody") is None
    elsewhere.close()


@pytest.mark.parametrize("other", [False, True], ids=["cannot tell", "another directory"])
async def test_perhaps_not_alone(hasty: HastyClock, other: bool) -> None:
    """While another process may still write, an unknown id is looked up for the full time."""
    book = AloneBook()

    def fail() -> None:
        raise StoreUnavailableError("locked")

    if not other:
        book.on_alone = fail
    directories = [book, Book()] if other else [book]
    elsewhere = Elsewhere(directories, SystemClock(), Mailboxes(), hasty)
    assert await elsewhere.find("nobody") is None
    assert len(book.asked) == 1 + len(_PAUSES)
    elsewhere.close()


async def test_until_final(elsewhere: Elsewhere, book: Book) -> None:
    """A waiter gets the task once it is final."""
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
    """Lookups that arrive during a query are combined into the next one."""
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


async def test_too_long(book: Book, hasty: HastyClock) -> None:
    """When a wait for a known task times out, the error says that the task goes on."""
    clock = SetClock()
    elsewhere = Elsewhere([book], clock, Mailboxes(), hasty)
    # The task is seen before the timeout passes, however busy the machine is.
    book.on_ask = lambda _: clock.pass_time(0.006)
    with pytest.raises(TimeoutError, match=r"task runs of .* after 0.01 s of waiting; it goes on"):
        await elsewhere.until_final("runs", 0.01)
    with pytest.raises(TimeoutError, match="it goes on"):
        await asyncio.to_thread(elsewhere.block_until_final, "runs", 0.01)
    elsewhere.close()
    clock.close()


async def test_too_short(book: Book) -> None:
    """When a wait ends before an id is surely unknown, the error says that it may be unknown."""
    elsewhere = Elsewhere([book], SystemClock(), Mailboxes())
    message = r"^task 'nobody' is still unknown after 0 s of waiting: it may not exist, or its "
    with pytest.raises(TimeoutError, match=message):
        await elsewhere.until_final("nobody", 0)
    elsewhere.close()


async def test_cancelled_question(elsewhere: Elsewhere, book: Book) -> None:
    """A task is not looked up any more once its waiter is cancelled."""
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
    """A directory that fails raises for all current callers, and not for later ones."""

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
    """The second directory is asked for what the first does not know."""
    first, second = Book(record_of("one")), Book(record_of("one"), record_of("two"))
    elsewhere = Elsewhere([first, second], SystemClock(), Mailboxes())
    assert await elsewhere.find("one") is first.records["one"]
    assert await elsewhere.find("two") is second.records["two"]
    assert second.asked == [{"two"}]
    assert await elsewhere.cancel("two")
    assert (first.cancelled, second.cancelled) == (["two"], ["two"])
    elsewhere.close()


async def test_one_of_two_fails() -> None:
    """While one directory fails, the other's records are found, and other ids raise its error."""
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
    """Any blocking call can run on the thread, and its error is raised to the caller."""
    assert await elsewhere.call(lambda: threading.current_thread().name) == "asyncframe-elsewhere"
    with pytest.raises(ZeroDivisionError):
        await elsewhere.call(lambda: 1 / 0)


async def test_closed(elsewhere: Elsewhere, book: Book) -> None:
    """Closing raises to every waiter, and later lookups are refused."""
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
