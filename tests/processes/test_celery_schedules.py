"""Who runs a schedule, as Redis decides it for all processes that share an engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import count
from uuid import uuid4

import pytest

from framework import get_task_manager, scheduled_task, setup_async_framework
from framework._tasks import registry
from framework._tasks.records import TaskRecord
from framework._tasks.schedules import RunClaim, ScheduleState
from framework._threads.clock import SystemClock
from framework.engines.celery._messages import Message
from framework.engines.celery._shared.schedules import RedisSchedules
from framework.engines.celery._state import State
from framework.exceptions import StoreUnavailableError
from framework.protocols import load_record
from tests.patience import PATIENCE
from tests.processes import celery_tasks
from tests.processes.celery_app import make
from tests.processes.servers import RedisServer
from tests.processes.workers import client_of

NAME = "reports.nightly"
START = 1_700_000_000.0
DUE = START + 60.0
HOLDER = "m|1|7"


class Book(RedisSchedules):
    """The book of one of several processes."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.state = state
        self._numbers = count(1)

    def run(
        self, due: float | None, *, skip: bool = True, name: str = NAME
    ) -> tuple[RunClaim, Message]:
        """Claim a run; return the answer, and the message of the task that would run."""
        task_id = uuid4().hex
        facts = {"task_id": task_id, "name": "f", "status": "pending", "created_at": START}
        sent = Message(task_id, "f", "f", "", "[[],{}]", START, 9.0, 9.0)
        record = load_record(facts, SystemClock())
        return self.claim(name, due, record, sent, skip), sent

    def end(self, sent: Message) -> None:
        """Run a task to its end."""
        assert self.state.start(sent, HOLDER).kind == "run"
        assert self.state.end(sent.task_id, "completed", holder=HOLDER)


@pytest.fixture
def books(redis_url: str) -> Iterator[tuple[Book, Book]]:
    """The books of two processes that have entered a schedule."""
    states = State(redis_url, "test", 60.0), State(redis_url, "test", 60.0)
    made = Book(states[0]), Book(states[1])
    for book in made:
        book.enter(NAME, "every 60 s", START)
    yield made
    for state in states:
        state.client.close()


def test_a_new_schedule_has_missed_nothing(books: tuple[Book, Book]) -> None:
    """The last due time of a schedule that was not known is when it was entered."""
    assert books[0].all() == [ScheduleState(NAME, "every 60 s", START)]


def test_a_schedule_is_kept(books: tuple[Book, Book]) -> None:
    """Who enters a known schedule gets what is known about it; only its timing is replaced."""
    _, sent = books[0].run(DUE)
    entered = books[1].enter(NAME, "every 30 s", START + 900)
    assert entered == ScheduleState(NAME, "every 30 s", DUE, ran_at=START, task_id=sent.task_id)
    assert books[0].all() == [entered]


def test_a_due_time_is_claimed_once(books: tuple[Book, Book]) -> None:
    """The first process gets a due time, the second is refused it, and earlier ones as well."""
    one, other = books
    assert one.run(DUE)[0] == "claimed"
    assert other.run(DUE)[0] == "taken"
    assert other.run(DUE - 60)[0] == "taken"


def test_a_claimed_run_exists(books: tuple[Book, Book]) -> None:
    """The task of a claimed run is in Redis with its message, and that of a refused one is not."""
    one, other = books
    _, sent = one.run(DUE)
    facts = other.state.fetch([sent.task_id])[sent.task_id]
    assert (facts["status"], facts["unsent"]) == ("pending", "1")
    assert other.state.message(sent.task_id) is not None
    _, refused = other.run(DUE)
    assert other.state.fetch([refused.task_id]) == {}


def test_a_claim_is_repeated(books: tuple[Book, Book]) -> None:
    """A claim whose answer was lost is claimed again, by the same task."""
    one, _ = books
    task_id = uuid4().hex
    facts = {"task_id": task_id, "name": "f", "status": "pending", "created_at": START}
    record: TaskRecord = load_record(facts, SystemClock())
    assert [one.claim(NAME, DUE, record, None, True) for _ in range(2)] == ["claimed", "claimed"]


def test_a_live_run_has_the_next_one_skipped(books: tuple[Book, Book]) -> None:
    """A due time at which the last run is live is skipped, and counted once for all processes."""
    one, other = books
    _, sent = one.run(DUE)
    assert other.run(DUE + 60)[0] == "busy"
    assert one.run(DUE + 60)[0] == "taken"
    (state,) = one.all()
    assert (state.last_due, state.skipped, state.task_id) == (DUE + 60, 1, sent.task_id)


def test_a_run_that_has_ended_is_in_nobodys_way(books: tuple[Book, Book]) -> None:
    """Once the last run has ended, the next due time is claimed."""
    one, other = books
    _, sent = one.run(DUE)
    one.end(sent)
    assert other.run(DUE + 60)[0] == "claimed"


def test_a_due_time_that_is_not_to_be_skipped(books: tuple[Book, Book]) -> None:
    """Without skipping, a due time stays due while the last run is live."""
    one, other = books
    one.run(DUE)
    before = one.all()
    assert other.run(DUE + 60, skip=False)[0] == "busy"
    assert one.all() == before


def test_a_run_that_was_forgotten_is_not_live(books: tuple[Book, Book]) -> None:
    """A last run that a clean-up has removed is in nobody's way."""
    one, other = books
    _, sent = one.run(DUE)
    one.end(sent)
    one.state.forget([sent.task_id])
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
    claim, sent = other.run(None)
    assert claim == "claimed"
    assert one.run(None)[0] == "busy"
    (state,) = one.all()
    assert (state.last_due, state.task_id, state.skipped) == (START, sent.task_id, 0)


def test_a_schedule_that_nobody_entered(books: tuple[Book, Book]) -> None:
    """A claim enters a name that is not known."""
    one, other = books
    assert one.run(DUE, name="reports.weekly")[0] == "claimed"
    assert other.run(DUE, name="reports.weekly")[0] == "taken"
    assert [state.name for state in one.all()] == [NAME, "reports.weekly"]


@pytest.mark.parametrize(("ahead", "claim"), [(10_800.0, "taken"), (10_801.0, "claimed")])
def test_a_clock_that_was_wrong(books: tuple[Book, Book], ahead: float, claim: RunClaim) -> None:
    """A last due time counts up to three hours ahead: further on, a wrong clock has set it."""
    one, other = books
    _, sent = one.run(DUE + ahead)
    one.end(sent)
    assert other.run(DUE)[0] == claim


def test_redis_is_away() -> None:
    """The engine says that it cannot be used, by the error that the framework waits for."""
    with pytest.raises(StoreUnavailableError, match=r"^Redis does not answer: "):
        make("redis://127.0.0.1:1/0").schedules()


async def test_one_run_for_two_apps(celery_redis: RedisServer, celery_worker: object) -> None:
    """A schedule of two apps that share a Redis runs once, and is busy while its run is live."""
    name = f"tick-{uuid4().hex}"
    with registry.lasting():
        schedule = scheduled_task(every=3_600.0, run_at_start=True, name=name)(celery_tasks.tick)
    async with client_of(celery_redis.url) as lists, AsyncExitStack() as stack:
        await lists.delete("ticks")
        managers = []
        for _ in range(2):
            engine = make(celery_redis.url)
            await stack.enter_async_context(setup_async_framework(None, engine=engine))
            managers.append(get_task_manager())
        for manager in managers:
            # Answered after what the start has asked on the same thread.
            assert await manager.get_task("nothing") is None
        (info,) = [one for one in await managers[1].schedules.get_all() if one.name == name]
        assert info.last_task_id is not None
        await managers[0].get_result(info.last_task_id, timeout=PATIENCE)
        again = await managers[1].schedules.trigger(name)
        await managers[1].get_result(again, timeout=PATIENCE)
        assert await lists.llen("ticks") == 2
        await managers[0].schedules.pause(name)
        infos = await managers[1].schedules.get_all()
        assert [one.paused for one in infos if one.name == name] == [True]
    assert callable(schedule)
