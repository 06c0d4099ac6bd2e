"""What one process says of another one's tasks in the same database, and what it can cancel."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from framework import (
    CancelOutcome,
    Task,
    TaskManager,
    TaskNotFoundError,
    TaskStatus,
    background_task,
    current_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)
from framework.stores.sql import SQLStore
from tests.patience import PATIENCE
from tests.processes.conformance.backends import Heard
from tests.words import timeless

pytestmark = pytest.mark.usefixtures("patient_cancel")


@dataclass
class Two:
    """Two frameworks with one database, as if in two processes.

    Attributes:
        here: Runs the tasks.
        there: Asks about them.
        heard: The events of the first.
    """

    here: TaskManager
    there: TaskManager
    heard: Heard

    async def seen(self, task_id: str) -> tuple[Task, Task]:
        """Return a task as it is seen here and there, once the database has it."""
        here, there = await self.here.get_task(task_id), await self.there.get_task(task_id)
        assert here is not None
        assert there is not None
        return here, there


@pytest.fixture
async def two(sql_url: str) -> AsyncIterator[Two]:
    """Two frameworks with one database; the first has one thread."""
    async with AsyncExitStack() as stack:
        managers: list[TaskManager] = []
        for workers in (1, 2):
            made = setup_async_framework(
                None, store=SQLStore(sql_url), max_workers=workers, graceful_shutdown_timeout=0
            )
            await stack.enter_async_context(made)
            managers.append(get_task_manager())
        here, there = managers
        yield Two(here, there, Heard(here))


@retry_task(max_retries=3, retry_delay=300.0)
def unreliable() -> None:
    """Fail, and be retried minutes later."""
    raise ConnectionError("smtp is down")


async def written(two: Two, task_id: str, reason: str) -> Task:
    """Return a task as the other process sees it, once its reason begins like that."""
    async with asyncio.timeout(PATIENCE):
        while True:
            task = await two.there.get_task(task_id)
            assert task is not None
            if task.reason.startswith(reason):
                return task


async def test_the_same_words(two: Two) -> None:
    """Both processes say which attempt failed with what, and when the next is due."""
    task_id = await two.here.submit(unreliable)
    await two.heard.event(task_id, "retrying")
    there = await written(two, task_id, "attempt")
    here, _ = await two.seen(task_id)
    assert timeless(there.explain())[:-2] == timeless(here.explain())[:-2]
    assert there.explain().startswith(
        "attempt 1 of 4 failed with ConnectionError: smtp is down; the next at "
    )
    assert there.last_error == here.last_error == "ConnectionError: smtp is down"
    assert there.to_dict()["last_error_type"] == "ConnectionError"


@background_task(on_restart="requeue", name="tests.rests")
@retry_task(max_retries=3, retry_delay=300.0)
def rests() -> None:
    """Fail, and be retried minutes later in any process."""
    raise ConnectionError("smtp is down")


async def test_cancelled_between_attempts(two: Two) -> None:
    """The answer and the reason are about the wait that was cancelled, whoever asks."""
    task_id = await two.here.submit(rests)
    await two.heard.event(task_id, "retrying")
    await written(two, task_id, "attempt")
    answer = await two.there.request_cancel(task_id)
    assert str(answer) == "cancelled: it was waiting to go on, and never will"
    reasons = [task.reason for task in await two.seen(task_id)]
    assert reasons == ["it was cancelled while it waited to go on"] * 2


async def test_places_are_known_at_home(two: Two) -> None:
    """A task that waits for a thread has its place in its own process only."""
    gate, started = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        gate.wait(PATIENCE)

    await two.here.submit(hold)
    await asyncio.to_thread(started.wait, PATIENCE)
    here, there = await two.seen(await two.here.submit(int))
    gate.set()
    assert (here.reason, there.reason) == ("queued 1st of 1", "queued in another process")


async def test_a_thread_of_another_process_is_asked(two: Two) -> None:
    """The answer is the same as at home, and both processes show it while it is so."""
    gate, started = threading.Event(), threading.Event()

    def give_way() -> None:
        started.set()
        gate.wait(PATIENCE)
        task = current_task()
        assert task is not None
        task.check_cancelled()

    task_id = await two.here.submit(give_way)
    await asyncio.to_thread(started.wait, PATIENCE)
    asking = asyncio.ensure_future(two.there.request_cancel(task_id))
    async with asyncio.timeout(PATIENCE):
        while not all(task.cancel_requested for task in await two.seen(task_id)):
            pass
    assert [task.to_dict()["cancel"] for task in await two.seen(task_id)] == ["asked", "asked"]
    gate.set()
    answer = await asking
    assert str(answer) == "cancelled: it was running, and has stopped"
    assert [task.to_dict()["cancel"] for task in await two.seen(task_id)] == ["cancelled"] * 2
    again = await two.there.request_cancel(task_id)
    assert str(again) == "cancelled: it was cancelled before"


async def test_a_task_of_another_process_that_has_ended(two: Two) -> None:
    """A task that has ended elsewhere cannot be cancelled, and nobody is noted to have tried."""
    task_id = await two.here.submit(int)
    await two.here.get_result(task_id)
    answer = await two.there.request_cancel(task_id)
    assert str(answer) == "cannot: it has ended: completed"
    assert answer.outcome is CancelOutcome.CANNOT
    assert [task.to_dict()["cancel"] for task in await two.seen(task_id)] == [None, None]


async def test_a_task_that_ends_meanwhile(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that ends just before it could be asked to has ended, and was not asked."""
    loop, gate = asyncio.get_running_loop(), asyncio.Event()
    task_id = await two.here.submit(gate.wait)
    assert not (await written(two, task_id, "")).status.is_final
    real_request = SQLStore.request_cancel

    def request_late(store: SQLStore, late: str) -> bool:
        loop.call_soon_threadsafe(gate.set)
        while not all(record.status.is_final for record in store.fetch([late])):
            pass  # each look is an answer from the database
        return real_request(store, late)

    monkeypatch.setattr(SQLStore, "request_cancel", request_late)
    answer = await two.there.request_cancel(task_id)
    assert str(answer) == "cannot: it has ended: completed"


@pytest.mark.extended("time")
async def test_the_end_of_a_task_of_another_process(two: Two) -> None:
    """`wait` returns how a task of another process ended, or how it is when the time is over."""
    gate = threading.Event()

    def fail() -> None:
        gate.wait(PATIENCE)
        raise LookupError("no such user")

    task_id = await two.here.submit(fail)
    while await two.there.get_task(task_id) is None:
        pass  # each look is an answer from the database
    early = await two.there.wait(task_id, timeout=0)
    assert not early.status.is_final
    gate.set()
    assert (await two.there.wait(task_id)).status is TaskStatus.FAILED
    with pytest.raises(TaskNotFoundError, match=r"^task .* is unknown: the id is wrong, or "):
        await two.there.wait("nobody")
