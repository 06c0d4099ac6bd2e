"""Looking up tasks of other processes: one thread asks, no loop blocks, no waiter is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise

import pytest

from framework import FrameworkNotStartedError, TaskStatus
from framework._manager.others.other_processes import _PAUSES, _STEP, OtherProcesses
from framework._records.records import Heading, TaskRecord
from framework._threads.clock import SystemClock
from framework._threads.waiters import Mailboxes
from framework.exceptions import BrokerUnavailableError, StoreUnavailableError
from tests.framework.running.messages import STOPPED
from tests.patience import PATIENCE


def record_of(task_id: str, status: TaskStatus = TaskStatus.COMPLETED) -> TaskRecord:
    """Return a record that another process might have written."""
    record = TaskRecord()
    record.task_id, record.status, record.heading = task_id, status, Heading("call", "")
    record.rest, record.attempts = None, 0
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
    """The real time of `other_processes`."""
    return HastyClock()


@pytest.fixture
def book() -> Book:
    """A directory with one task that has ended and one that runs."""
    return Book(record_of("done"), record_of("runs", TaskStatus.RUNNING))


@pytest.fixture
def elsewhere(book: Book, hasty: HastyClock) -> Iterator[OtherProcesses]:
    """One that asks the book."""
    made = OtherProcesses([book], SystemClock(), Mailboxes(), hasty)
    yield made
    made.close()


async def test_found(elsewhere: OtherProcesses, book: Book) -> None:
    """A known task is found with one query, on a separate thread."""
    assert await elsewhere.find("runs") is book.records["runs"]
    assert book.asked == [{"runs"}]
    assert book.threads == {"asyncframe-elsewhere"}


async def test_end_cannot_be_noted(
    elsewhere: OtherProcesses, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    """An end that was found is an answer, also if this process fails to note it."""

    def fail(record: TaskRecord) -> None:
        raise LookupError(record.task_id)

    elsewhere.learned = fail
    assert await elsewhere.until_final("done", PATIENCE) is book.records["done"]
    assert caplog.messages == ["the end of task done could not be noted"]


async def test_unknown(elsewhere: OtherProcesses, book: Book, hasty: HastyClock) -> None:
    """An unknown id is looked up for a second, as its process may not have written it yet."""
    began = hasty.now
    assert await elsewhere.find("nobody") is None
    assert book.asked == [{"nobody"}] * (1 + len(_PAUSES))
    assert 1.0 <= hasty.now - began < 1.0 + len(_PAUSES) * (_STEP + 0.001)


async def test_no_task_has_such_an_id(elsewhere: OtherProcesses, book: Book) -> None:
    """No directory is asked for a string that cannot be a task's id."""
    for task_id in ("", "a\nb", "a\0b", "\ud800", "x" * 201):
        assert await elsewhere.find(task_id) is None
        assert await elsewhere.until_final(task_id, None) is None
        assert await asyncio.to_thread(elsewhere.block_until_final, task_id, None) is None
    assert book.asked == []


async def test_unknown_without_patience(elsewhere: OtherProcesses, book: Book) -> None:
    """With patient=False an unknown id is looked up only once."""
    assert await elsewhere.find("nobody", patient=False) is None
    assert book.asked == [{"nobody"}]


@pytest.mark.parametrize("after", [0.05, 0.5, 0.95])
async def test_written_late(
    elsewhere: OtherProcesses, book: Book, hasty: HastyClock, after: float
) -> None:
    """A task is found if its busy process writes it within a second after it returned the id."""
    written = hasty.now + after

    def write(_: int) -> None:
        if hasty.now >= written:
            book.records["late"] = record_of("late")

    book.on_ask = write
    assert await elsewhere.find("late") is book.records["late"]


async def test_repeated_together(elsewhere: OtherProcesses, book: Book, hasty: HastyClock) -> None:
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
    elsewhere = OtherProcesses([book], SystemClock(), Mailboxes(), hasty)
    assert await elsewhere.find("nobody") is None
    assert book.asked == [{"nobody"}] * 2
    assert hasty.now - began < 0.001
    elsewhere.close()


async def test_alone_after_another_has_left(hasty: HastyClock) -> None:
    """A task is found that the last other process wrote just before it left."""
    book, late = AloneBook(), record_of("late")
    # 1 a look finds nothing, 2 the other process writes and leaves, 3 this process is alone.
    book.on_alone = lambda: book.records.update(late=late)
    elsewhere = OtherProcesses([book], SystemClock(), Mailboxes(), hasty)
    assert await elsewhere.find("late") is late
    elsewhere.close()


async def test_others_may_be_unable_to_write(hasty: HastyClock) -> None:
    """While processes cannot write, an id is reported unknown only if this process is alone."""
    book = AloneBook(record_of("done"))
    book.doubts = StoreUnavailableError("the disk is full")
    elsewhere = OtherProcesses([Book(), book], SystemClock(), Mailboxes(), hasty)
    with pytest.raises(StoreUnavailableError, match=r"^the disk is full$"):
        await elsewhere.find("nobody")
    with pytest.raises(StoreUnavailableError, match=r"^the disk is full$"):
        await elsewhere.until_final("nobody", None)
    assert await elsewhere.find("done")
    assert await elsewhere.find("nobody", patient=False) is None
    elsewhere.close()
    elsewhere = OtherProcesses([book], SystemClock(), Mailboxes(), hasty)
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
    elsewhere = OtherProcesses(directories, SystemClock(), Mailboxes(), hasty)
    assert await elsewhere.find("nobody") is None
    assert len(book.asked) == 1 + len(_PAUSES)
    elsewhere.close()


class AskingBook(Book):
    """A directory whose other processes answer when a test says so.

    Attributes:
        inquiries: How many there were.
        on_inquiry: Called by each.
        answered: Up to which they have been answered.
        on_look: Called at each look whether one was.
        to_come: The ids whose records will be written.
    """

    def __init__(self, *records: TaskRecord) -> None:
        super().__init__(*records)
        self.inquiries = self.answered = 0
        self.on_inquiry: Callable[[], object] = bool
        self.on_look: Callable[[], object] = bool
        self.to_come: set[str] = set()

    def ask(self) -> int:
        """Ask the other processes."""
        self.on_inquiry()
        self.inquiries += 1
        return self.inquiries

    def is_answered(self, number: int) -> bool:
        """Return whether they have answered."""
        self.on_look()
        return self.answered >= number

    def expected(self, task_ids: Collection[str]) -> Collection[str]:
        """Return whose records will be written."""
        return self.to_come.intersection(task_ids)


@pytest.fixture
def asking() -> AskingBook:
    """A directory that can ask other processes."""
    return AskingBook(record_of("done"))


@pytest.fixture
def inquirer(asking: AskingBook, hasty: HastyClock) -> Iterator[OtherProcesses]:
    """One that asks other processes."""
    made = OtherProcesses([asking], SystemClock(), Mailboxes(), hasty)
    yield made
    made.close()


async def test_found_whenever_its_process_answers(
    inquirer: OtherProcesses, asking: AskingBook, hasty: HastyClock
) -> None:
    """A task is found although its process did not run for longer than a second."""
    began, late = hasty.now, record_of("late")

    def answer() -> None:
        if hasty.now >= began + 9:
            asking.records["late"], asking.answered = late, asking.inquiries

    asking.on_look = answer
    assert await inquirer.find("late") is late
    assert asking.inquiries == 1
    assert len(asking.asked) == len(_PAUSES) + 1, "what only waits is not looked up"


async def test_unknown_once_all_have_answered(
    inquirer: OtherProcesses, asking: AskingBook, hasty: HastyClock
) -> None:
    """An id is unknown as soon as the other processes have answered."""
    began, asking.answered = hasty.now, 1
    assert await inquirer.find("nobody") is None
    assert asking.asked == [{"nobody"}] * 2
    assert hasty.now - began < _PAUSES[0] + _STEP + 0.001
    assert await inquirer.find("done")
    assert asking.inquiries == 1


async def test_an_inquiry_that_was_open_is_not_enough(
    inquirer: OtherProcesses, asking: AskingBook
) -> None:
    """What was accepted during an inquiry is not unknown when that is over, but after the next."""
    late, loop, is_put = record_of("late"), asyncio.get_running_loop(), threading.Event()
    second: list[asyncio.Future[TaskRecord | None]] = []

    def put_second() -> None:
        second.append(asyncio.ensure_future(inquirer.find("late")))
        loop.call_soon(is_put.set)

    def answer() -> None:
        if asking.inquiries == 2:
            asking.records["late"], asking.answered = late, 2
        elif is_put.is_set():
            # 4 that one was looked up in vain, 5 the inquiry is over.
            asking.answered = int(any("late" in ids for ids in asking.asked))
        else:
            # 1 an inquiry is open, 2 a task is accepted, 3 somebody looks for it.
            loop.call_soon_threadsafe(put_second)
            assert is_put.wait(PATIENCE)

    asking.on_look = answer
    assert await inquirer.find("nobody") is None
    (found,) = second
    assert await found is late


async def test_one_inquiry_for_all(
    inquirer: OtherProcesses, asking: AskingBook, hasty: HastyClock
) -> None:
    """Ids that are asked for at the same time share an inquiry, and one a second begins."""
    begun: list[float] = []
    are_put = threading.Event()

    def answer() -> None:
        begun.append(hasty.now)
        asking.answered = asking.inquiries + 1

    asking.on_inquiry = answer
    asking.on_ask = lambda _: are_put.wait(PATIENCE)
    found = [asyncio.ensure_future(inquirer.find(f"nobody {one}")) for one in range(10)]
    asyncio.get_running_loop().call_soon(are_put.set)
    assert await asyncio.gather(*found) == [None] * 10
    assert len(begun) == 1
    for number in range(20):
        assert await inquirer.find(f"nobody else {number}") is None
    assert len(begun) == 21
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(begun))


@pytest.mark.parametrize("fault", [False, True], ids=["silent", "failing"])
async def test_no_answer(
    inquirer: OtherProcesses, asking: AskingBook, hasty: HastyClock, fault: bool
) -> None:
    """If a process lives and does not answer for 15 s, that is an error, and not a "no"."""

    def fail() -> None:
        raise StoreUnavailableError("locked")

    if fault:
        asking.on_inquiry = fail
    began = hasty.now
    with pytest.raises(
        StoreUnavailableError,
        match=r"^another process has not answered for 15 s whether it has task 'nobody', so the "
        r"task may exist; try again later$",
    ):
        await inquirer.find("nobody")
    assert 15.0 <= hasty.now - began < 16.0


async def test_a_task_that_is_expected(
    inquirer: OtherProcesses, asking: AskingBook, hasty: HastyClock
) -> None:
    """A task that has a place already is not unknown, whatever the others have answered."""
    began, late = hasty.now, record_of("late")
    asking.to_come.add("late")
    asking.answered = 1

    def write(_: int) -> None:
        if hasty.now >= began + 5:
            asking.records["late"] = late

    asking.on_ask = write
    assert await inquirer.find("late") is late


async def test_a_directory_that_cannot_ask(asking: AskingBook, hasty: HastyClock) -> None:
    """If one of two directories cannot ask, an id is unknown after a second at the earliest."""
    began, asking.answered = hasty.now, 1
    elsewhere = OtherProcesses([Book(), asking], SystemClock(), Mailboxes(), hasty)
    assert await elsewhere.find("nobody") is None
    assert 1.0 <= hasty.now - began < 1.0 + len(_PAUSES) * (_STEP + 0.001)
    elsewhere.close()


async def test_until_final(elsewhere: OtherProcesses, book: Book) -> None:
    """A waiter gets the task once it is final."""
    ended = record_of("runs", TaskStatus.FAILED)
    book.on_ask = lambda number: book.records.update(runs=ended) if number == 3 else None
    assert await elsewhere.until_final("runs", PATIENCE) is ended
    assert len(book.asked) == 3


async def test_blocked_until_final(elsewhere: OtherProcesses, book: Book) -> None:
    """A thread can wait as well."""
    ended = record_of("runs", TaskStatus.FAILED)
    book.on_ask = lambda number: book.records.update(runs=ended) if number == 3 else None
    assert await asyncio.to_thread(elsewhere.block_until_final, "runs", PATIENCE) is ended


async def test_asked_together(elsewhere: OtherProcesses, book: Book) -> None:
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
    """When a wait for a known task times out, the error says so, and nobody asks any more."""
    clock = SetClock()
    elsewhere = OtherProcesses([book], clock, Mailboxes(), hasty)
    # The task is seen before the timeout passes, however busy the machine is.
    book.on_ask = lambda _: clock.pass_time(0.006)
    message = r"^task runs of another process is not final after 0\.01 s of waiting; it goes on$"
    with pytest.raises(TimeoutError, match=message):
        await elsewhere.until_final("runs", 0.01)
    with pytest.raises(TimeoutError, match=message):
        await asyncio.to_thread(elsewhere.block_until_final, "runs", 0.01)
    assert await elsewhere.find("nobody") is None
    # One query for it may have been on its way.
    assert book.asked[-len(_PAUSES) :] == [{"nobody"}] * len(_PAUSES)
    elsewhere.close()
    clock.close()


async def test_too_short(book: Book) -> None:
    """When a wait ends before an id is surely unknown, the error says that it may be unknown."""
    elsewhere = OtherProcesses([book], SystemClock(), Mailboxes())
    message = (
        r"^task 'nobody' is still unknown after 0 s of waiting: it may not "
        r"exist, or its process is too busy to write its record; wait for a "
        r"second or longer$"
    )
    with pytest.raises(TimeoutError, match=message):
        await elsewhere.until_final("nobody", 0)
    elsewhere.close()


async def test_cancelled_question(elsewhere: OtherProcesses, book: Book) -> None:
    """A task is not looked up any more once its waiter is cancelled."""
    twice = asyncio.Event()
    loop = asyncio.get_running_loop()
    book.on_ask = lambda number: loop.call_soon_threadsafe(twice.set) if number == 2 else None
    waiting = asyncio.ensure_future(elsewhere.until_final("runs", None))
    await twice.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError, match=r"^$"):
        await waiting
    many = len(book.asked)
    # Three more questions take longer than the next look at the task would.
    assert await elsewhere.find("nobody") is None
    assert all("runs" not in asked for asked in book.asked[many + 1 :])


async def test_failing_directory(elsewhere: OtherProcesses, book: Book) -> None:
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
    elsewhere = OtherProcesses([first, second], SystemClock(), Mailboxes())
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
    elsewhere = OtherProcesses([first, second], SystemClock(), Mailboxes())
    assert await elsewhere.find("two") is second.records["two"]
    with pytest.raises(BrokerUnavailableError, match=r"^away$"):
        await elsewhere.find("one")
    elsewhere.close()


async def test_call(elsewhere: OtherProcesses) -> None:
    """Any blocking call can run on the thread, and its error is raised to the caller."""
    assert await elsewhere.call(lambda: threading.current_thread().name) == "asyncframe-elsewhere"
    with pytest.raises(ZeroDivisionError, match=r"^division by zero$"):
        await elsewhere.call(lambda: 1 / 0)


async def test_closed(elsewhere: OtherProcesses, book: Book) -> None:
    """Closing raises to every waiter, and later lookups are refused."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    book.on_ask = lambda _: loop.call_soon_threadsafe(asked.set)
    waiting = asyncio.ensure_future(elsewhere.until_final("runs", None))
    await asked.wait()
    elsewhere.close()
    with pytest.raises(FrameworkNotStartedError, match=STOPPED):
        await waiting
    with pytest.raises(FrameworkNotStartedError, match=STOPPED):
        await elsewhere.find("done")


# -- news


class NewsBook(Book):
    """A directory that tells which tasks change.

    Attributes:
        told: What to call with their ids; None while nobody listens.
        watched: Set while somebody listens.
    """

    told: Callable[[Collection[str] | None], object] | None = None

    def __init__(self, *records: TaskRecord) -> None:
        super().__init__(*records)
        self.watched = threading.Event()
        self.unwatched = threading.Event()

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return what it knew before the test changes anything."""
        found = [self.records[one] for one in task_ids if one in self.records]
        super().fetch(task_ids)
        return found

    def watch(self, told: Callable[[Collection[str] | None], object], /) -> Callable[[], object]:
        """Call *told* when a test changes a task."""
        self.told = told
        self.watched.set()

        def stop() -> None:
            self.told = None
            self.unwatched.set()

        return stop

    def change(self, *records: TaskRecord, ids: Collection[str] | None = ()) -> None:
        """Change tasks and tell of it; with *ids* None, do not say of which."""
        self.records |= {record.task_id: record for record in records}
        assert self.told is not None
        self.told(None if ids is None else [record.task_id for record in records])


@pytest.fixture
def news() -> NewsBook:
    """A directory that tells news, with one task that runs."""
    return NewsBook(record_of("runs", TaskStatus.RUNNING))


@pytest.fixture
def told(news: NewsBook) -> Iterator[OtherProcesses]:
    """One that is told news; real time stands still, so nothing else makes it ask."""
    clock = SetClock()
    made = OtherProcesses([news], SystemClock(), Mailboxes(), clock)
    yield made
    made.close()
    clock.close()


async def asked(book: Book, count: int) -> None:
    """Wait until *count* questions were asked from now on."""
    done, loop, first = asyncio.Event(), asyncio.get_running_loop(), len(book.asked)

    def look(number: int) -> None:
        if number >= first + count:
            loop.call_soon_threadsafe(done.set)

    book.on_ask = look
    await asyncio.wait_for(done.wait(), PATIENCE)


@pytest.mark.parametrize("ids", [(), None], ids=["named", "any"])
async def test_a_wait_is_woken_by_news(
    told: OtherProcesses, news: NewsBook, ids: Collection[str] | None
) -> None:
    """With news, a task is looked up once at first, and once after it has changed."""
    waiting = asyncio.ensure_future(told.until_final("runs", None))
    await asked(news, 1)
    news.change(record_of("runs", TaskStatus.FAILED), ids=ids)
    record = await asyncio.wait_for(waiting, PATIENCE)
    assert record is news.records["runs"]
    assert news.asked == [{"runs"}] * 2


async def test_news_of_other_tasks(told: OtherProcesses, news: NewsBook) -> None:
    """News of tasks that nobody waits for lead to no query."""
    waiting = asyncio.ensure_future(told.until_final("runs", None))
    await asked(news, 1)
    news.change(record_of("other"))
    news.change(record_of("runs"))
    await asyncio.wait_for(waiting, PATIENCE)
    assert news.asked == [{"runs"}] * 2


async def test_nobody_listens_in_vain(told: OtherProcesses, news: NewsBook) -> None:
    """News are asked for while somebody waits, and no longer."""
    await told.find("runs")
    assert not news.watched.is_set()
    waiting = asyncio.ensure_future(told.until_final("runs", None))
    await asyncio.to_thread(news.watched.wait, PATIENCE)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await asyncio.to_thread(news.unwatched.wait, PATIENCE)


async def test_lost_news(news: NewsBook, hasty: HastyClock) -> None:
    """A task whose news were lost is found two seconds later."""
    elsewhere = OtherProcesses([news], SystemClock(), Mailboxes(), hasty)
    began = hasty.now
    ended = record_of("runs")

    def lose(number: int) -> None:
        news.records.update(runs=ended)
        hasty.jumps = number == 1

    news.on_ask = lose
    assert await elsewhere.until_final("runs", None) is ended
    assert 2.0 <= hasty.now - began < 2.1
    elsewhere.close()


async def test_a_directory_that_cannot_tell_news(
    book: Book, hasty: HastyClock, caplog: pytest.LogCaptureFixture
) -> None:
    """If listening fails, this is logged, and the task is looked up again and again."""

    class Deaf(NewsBook):
        def watch(self, told: object, /) -> Callable[[], object]:
            raise OSError("no connection")

    deaf = Deaf(record_of("runs", TaskStatus.RUNNING))
    elsewhere = OtherProcesses([deaf], SystemClock(), Mailboxes(), hasty)
    ended = record_of("runs")
    deaf.on_ask = lambda number: deaf.records.update(runs=ended) if number == 3 else None
    assert await elsewhere.until_final("runs", None) is ended
    assert "does not tell which tasks change" in caplog.text
    elsewhere.close()


class Heard:
    """What a follower was told.

    Attributes:
        records: The records, in order.
    """

    def __init__(self) -> None:
        self.records: list[TaskRecord | None] = []
        self._changed = threading.Condition()

    def __call__(self, record: TaskRecord | None) -> None:
        """Note it."""
        with self._changed:
            self.records.append(record)
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        """Block until there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.records) >= count, PATIENCE)


async def test_following(told: OtherProcesses, news: NewsBook) -> None:
    """A follower is told the state of now, each change, and the end; and nothing twice."""
    heard = Heard()
    told.follow("runs", heard)
    await asyncio.to_thread(heard.wait, 1)
    news.change(record_of("runs", TaskStatus.RUNNING))
    more = record_of("runs", TaskStatus.RUNNING)
    more.progress = 0.5
    news.change(more)
    await asyncio.to_thread(heard.wait, 2)
    news.change(record_of("runs", TaskStatus.FAILED))
    await asyncio.to_thread(heard.wait, 3)
    assert [one and (one.status.value, one.progress) for one in heard.records] == [
        ("running", None),
        ("running", 0.5),
        ("failed", None),
    ]


async def test_following_an_unknown_task(elsewhere: OtherProcesses) -> None:
    """A follower of a task that nobody knows is told None."""
    heard = Heard()
    elsewhere.follow("nobody", heard)
    await asyncio.to_thread(heard.wait, 1)
    assert heard.records == [None]


async def test_a_follower_outlives_a_fault(elsewhere: OtherProcesses, book: Book) -> None:
    """A follower is told nothing while a directory fails, and the state once it works again."""
    heard = Heard()

    def fail(number: int) -> None:
        if number < 3:
            raise StoreUnavailableError("locked")

    book.on_ask = fail
    elsewhere.follow("done", heard)
    await asyncio.to_thread(heard.wait, 1)
    assert heard.records == [book.records["done"]]


async def test_a_follower_that_stops(told: OtherProcesses, news: NewsBook) -> None:
    """A follower that has stopped is told nothing more, not even at the end."""
    heard = Heard()
    stop = told.follow("runs", heard)
    await asyncio.to_thread(heard.wait, 1)
    stop()
    stop()
    told.close()
    assert len(heard.records) == 1


async def test_closing_ends_followers(told: OtherProcesses) -> None:
    """When the framework stops, a follower is told None."""
    heard = Heard()
    told.follow("runs", heard)
    await asyncio.to_thread(heard.wait, 1)
    told.close()
    assert heard.records[1:] == [None]
