"""Tasks that another process runs when their own one has ended: what stays, and who is told."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from framework import (
    FrameworkNotStartedError,
    Task,
    TaskCancelledError,
    TaskInterruptedError,
    TaskManager,
    TaskStatus,
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from framework._manager.hosting import host, taking_over
from framework._manager.hosting.taking_over import ENOUGH, MOST_STARTS
from framework._manager.others import other_processes
from framework._records.records import WAITS, TaskRecord
from framework.protocols import TaskEvent
from framework.steps import Message, step
from framework.stores.sql import SQLStore
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._shared.site import Pace
from framework.stores.sql._tables.database import Database
from framework.stores.sql._tables.schema import PROCESSES
from pytest_asyncframe.probe import Probe
from tests.patience import PATIENCE
from tests.processes.refusals import refusal

GATE = threading.Event()
STARTED = threading.Event()
SEEN: list[Any] = []


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Close the gate, and open it at the end for what still waits there."""
    GATE.clear()
    STARTED.clear()
    SEEN.clear()
    yield
    GATE.set()


@background_task
def block() -> None:
    """Keep the only thread busy."""
    STARTED.set()
    GATE.wait(PATIENCE)


@background_task(on_restart="requeue", timeout=20, description="adds one")
def add(number: int, *, to: float = 1.0) -> float:
    """Return a sum, and note the task."""
    task = current_task()
    assert task is not None
    SEEN.append((task.task_id, task.attempts, get_task_manager()))
    return number + to


@background_task(on_restart="requeue")
async def add_on_loop(number: int) -> int:
    """Return a sum, on the loop."""
    return number + 1


@background_task(on_restart="requeue", idempotent=True)
def again(number: int) -> int:
    """Block when it runs for the first time."""
    task = current_task()
    assert task is not None
    SEEN.append(task.attempts)
    if len(SEEN) == 1:
        STARTED.set()
        GATE.wait(PATIENCE)
    return number


@asynccontextmanager
async def framework(url: str, **options: Any) -> AsyncIterator[TaskManager]:
    """Run a framework with one thread, whose store gives others up sooner than in earnest."""
    store = SQLStore(url, durable=True)
    store._pace = Pace(beat=0.1)
    settings = {"max_workers": 1, "graceful_shutdown_timeout": 0.0, **options}
    async with setup_async_framework(None, store=store, **settings):
        yield get_task_manager()


async def keep_busy(manager: TaskManager) -> None:
    """Let the only thread of a framework be busy until the gate opens."""
    await manager.submit(block)
    assert await asyncio.to_thread(STARTED.wait, PATIENCE)


async def known(manager: TaskManager, task_id: str) -> Task:
    """Return a task that exists."""
    task = await manager.get_task(task_id)
    assert task is not None
    return task


def bury(url: str, manager: TaskManager) -> None:
    """Let a process be taken for dead, as if it had stood still; it takes nothing back."""
    core: Any = manager._core
    core.takes_over = False
    own = core.ledger.shared._writer.membership.process_id
    database = Database(checked_url(url), False)
    with database.writing() as connection:
        connection.execute(sa.delete(PROCESSES).where(PROCESSES.c.process_id == own))
    database.close()


@pytest.mark.extended("time")
async def test_restart(sql_url: str) -> None:
    """What waited at a shutdown runs after the restart, as the task that it was."""
    async with framework(sql_url) as manager:
        await keep_busy(manager)
        manager._core.owners.own_by(lambda: "ann")
        task_id = await manager.submit(add, (1,), {"to": 2.5}, priority="high")
        before = await known(manager, task_id)
        assert before.owner == "ann"
    async with framework(sql_url) as manager:
        assert await manager.get_result(task_id, timeout=PATIENCE) == 3.5
        after = await known(manager, task_id)

        assert [(task_id, 1, manager)] == SEEN, "it ran once, and in the second framework"
        for name in ("task_id", "name", "description", "owner"):
            assert getattr(after, name) == getattr(before, name)
        assert (after.created_at - before.created_at).total_seconds() == pytest.approx(0, abs=1e-3)
        assert (after.attempts, after.status.value, after.reason) == (1, "completed", "")
        assert after.queue_time is not None
        assert after.queue_time > 0


@pytest.mark.extended("time")
async def test_restart_on_the_loop(sql_url: str) -> None:
    """A coroutine that was delayed when its process ended runs on the next one's loop, in time."""
    async with framework(sql_url) as manager:
        task_id = await manager.submit(add_on_loop, (1,), delay=0.5)
        late = await manager.submit(add_on_loop, (1,), delay=3_600)
        due = (await known(manager, task_id)).created_at.timestamp() + 0.5
    async with framework(sql_url) as manager:
        assert await manager.get_result(task_id, timeout=PATIENCE) == 2
        task = await known(manager, task_id)
        assert task.started_at is not None
        assert task.started_at.timestamp() >= due
        waiting = await known(manager, late)
        assert waiting.status.value == "pending"
        assert waiting.reason.startswith("delayed until ")
        assert await manager.cancel_task(late)


@pytest.mark.extended("time")
async def test_counters_and_events(sql_url: str) -> None:
    """A task that is taken over is counted and told of there, and no more where it was."""
    events: list[TaskEvent] = []
    async with framework(sql_url) as first:
        await keep_busy(first)
        task_id = await first.submit(add, (1,))
        async with framework(sql_url) as second:
            second.subscribe(events.append)
            bury(sql_url, first)
            assert await second.get_result(task_id, timeout=PATIENCE) == 2
            assert [event.kind for event in events if event.task_id == task_id] == [
                "requeued",
                "started",
                "completed",
            ]
            for manager in (first, second):
                stats = manager.get_stats()
                assert stats["submitted"] == sum(stats[status] for status in STATUSES)
            assert second.get_stats()["requeued"] == 1
            assert await first.get_result(task_id, timeout=PATIENCE) == 2, "it has let go"
            assert first._core.ledger.pending == 0


STATUSES = ("pending", "running", "completed", "failed", "timeout", "cancelled", "interrupted")


def told_of_itself() -> None:
    """Note what the task says it is about; fail unless it repeats another one."""
    task = current_task()
    assert task is not None
    SEEN.append((task.label, task.meta, task.arguments))
    if task.run_again_of is None:
        raise LookupError("later")


@background_task(on_restart="requeue", on_error="silent")
def told_in_another_process(number: int) -> None:
    """Note what it is about."""
    told_of_itself()


@background_task(on_restart="resume", on_error="silent")
async def told_after_a_message(number: int) -> bool:
    """Note what it is about once somebody has answered."""
    found = await ANSWER.receive()
    told_of_itself()
    return found


ANSWER = Message("answer", bool)


async def test_what_a_task_is_about_stays(sql_url: str) -> None:
    """Label, meta and arguments stay in another process, after steps, and when it runs again."""
    meta: dict[str, str | int] = {"tenant_id": 7, "kind": "an «order»"}
    of_each: Any = {"label": "order 7", "meta": meta, "show_arguments": True}
    submitted = told_in_another_process, told_after_a_message
    about = ("order 7", meta, {"number": 7})
    loop, waits = asyncio.get_running_loop(), asyncio.Event()
    async with framework(sql_url) as manager:
        manager.subscribe(
            lambda event: event.kind == "sleeping" and loop.call_soon_threadsafe(waits.set)
        )
        await keep_busy(manager)
        ids = [await manager.submit(one, (7,), **of_each) for one in submitted]
        await asyncio.wait_for(waits.wait(), PATIENCE)
    GATE.set()
    async with framework(sql_url) as manager:
        await ANSWER.send(ids[1], True)
        for one in ids:
            assert (await manager.wait(one, timeout=PATIENCE)).status is TaskStatus.FAILED
    async with framework(sql_url) as manager:
        repeated = [await manager.run_again(one) for one in ids]
        results = [await manager.get_result(one, timeout=PATIENCE) for one in repeated]
    async with framework(sql_url) as manager:
        kept = [await known(manager, one) for one in (*ids, *repeated)]
        found = await manager.list_tasks(meta={"tenant_id": 7})

    assert results == [None, True]
    told = [(task.label, task.meta, task.arguments) for task in kept]
    assert SEEN == told == [about] * 4
    assert found.total == 4


async def test_waiters_of_a_process_that_was_given_up(sql_url: str) -> None:
    """Coroutines and threads that wait in a process that was given up get what the other made."""
    async with framework(sql_url) as first:
        await keep_busy(first)
        task_id = await first.submit(add, (1,))
        waiting = asyncio.create_task(first.get_result(task_id, timeout=PATIENCE))
        blocked = asyncio.create_task(asyncio.to_thread(first.wait_result, task_id, PATIENCE))
        async with framework(sql_url) as second:
            bury(sql_url, first)
            assert await waiting == 2
            assert await blocked == 2
            assert [(task_id, 1, second)] == SEEN
        GATE.set()


STOPS = r"^the task framework is shutting down and accepts no new tasks: submit before "


async def test_waiters_at_shutdown(sql_url: str) -> None:
    """Whoever waits for a task that is left to other processes is told that this one stops."""
    async with framework(sql_url) as manager:
        await keep_busy(manager)
        task_id = await manager.submit(add, (1,))
        waiting = asyncio.create_task(manager.get_result(task_id))
        await asyncio.wait([waiting], timeout=0)
    with pytest.raises(FrameworkNotStartedError, match=STOPS):
        await waiting


@pytest.mark.extended("time")
async def test_running_once_more(sql_url: str) -> None:
    """What may run twice is run again if it was running at the shutdown; its attempts go on."""
    async with framework(sql_url) as manager:
        task_id = await manager.submit(again, (7,))
        assert await asyncio.to_thread(STARTED.wait, PATIENCE)
    async with framework(sql_url) as manager:
        assert await manager.get_result(task_id, timeout=PATIENCE) == 7
        assert SEEN == [1, 2]


@background_task(on_restart="requeue", idempotent=True)
def stuck(number: int) -> None:
    """Run until the end of the test."""
    task = current_task()
    assert task is not None
    SEEN.append(task.attempts)
    STARTED.set()
    GATE.wait(PATIENCE)


@pytest.mark.extended("time")
@pytest.mark.parametrize("dies", [True, False], ids=["dies", "stops"])
async def test_ends_its_process_each_time(sql_url: str, dies: bool) -> None:
    """A task whose processes die with it is stopped after five; one that deploys stop is not."""
    for often in range(MOST_STARTS):
        async with framework(sql_url) as manager:
            if not often:
                task_id = await manager.submit(stuck, (1,))
            assert await asyncio.to_thread(STARTED.wait, PATIENCE)
            STARTED.clear()
            if dies:
                bury(sql_url, manager)
    async with framework(sql_url) as manager:
        if dies:
            with pytest.raises(TaskInterruptedError, match=r"^task .* was interrupted before "):
                await manager.get_result(task_id, timeout=PATIENCE)
            assert (await known(manager, task_id)).reason == ENOUGH
        else:
            assert await asyncio.to_thread(STARTED.wait, PATIENCE)
    assert list(range(1, MOST_STARTS + 1 + (not dies))) == SEEN


async def written(manager: TaskManager, task_id: str) -> None:
    """Wait until the store has written what is known of a task."""
    ledger, is_written = manager._core.ledger, threading.Event()
    task = ledger.find(task_id)
    assert task is not None
    assert ledger.shared is not None
    ledger.shared.secure(task, lambda _: is_written.set())
    assert await asyncio.to_thread(is_written.wait, PATIENCE)


@step
def advance(number: int) -> int:
    """Run until the end of the test in the process with that number, and end at once in others."""
    if number == len(SEEN):
        STARTED.set()
        GATE.wait(PATIENCE)
    return number


@background_task(on_restart="resume", name="tests.advances")
def advances() -> list[int]:
    """Come one step further in each process."""
    SEEN.append(get_task_manager())
    return [advance(number) for number in range(MOST_STARTS + 2)]


@pytest.mark.extended("time")
async def test_comes_further_each_time(sql_url: str) -> None:
    """A task whose processes die with it goes on if a step of it has ended in each of them."""
    for often in range(MOST_STARTS + 1):
        async with framework(sql_url) as manager:
            if not often:
                task_id = await manager.submit(advances)
            assert await asyncio.to_thread(STARTED.wait, PATIENCE)
            STARTED.clear()
            await written(manager, task_id)
            bury(sql_url, manager)
    GATE.set()
    async with framework(sql_url) as manager:
        result = await manager.get_result(task_id, timeout=PATIENCE)

    assert result == list(range(MOST_STARTS + 2))


async def test_running_and_not_to_run_again(sql_url: str) -> None:
    """What has started and may not run twice ends INTERRUPTED at the shutdown."""
    async with framework(sql_url) as manager:
        await keep_busy(manager)
        async with framework(sql_url) as other:
            task_id = await other.submit(block.options(on_restart="requeue"))
            STARTED.clear()
            assert await asyncio.to_thread(STARTED.wait, PATIENCE)
        with pytest.raises(
            TaskInterruptedError,
            match=r"^task .* was interrupted before ",
        ):
            await manager.get_result(task_id, timeout=PATIENCE)
        GATE.set()


async def test_cancelled_while_nobody_has_it(sql_url: str) -> None:
    """A task whose function no process knows can be cancelled."""

    def make() -> Any:
        @background_task(on_restart="requeue", name="tests.short_lived")
        def short_lived() -> None: ...

        return short_lived

    async with framework(sql_url) as manager:
        await keep_busy(manager)
        task_id = await manager.submit(make())
    async with framework(sql_url) as manager:
        task = await known(manager, task_id)
        assert (task.status.value, task.reason) == ("pending", WAITS)
        answer = await manager.request_cancel(task_id)
        assert str(answer) == "cancelled: it had not started, and never will"
        with pytest.raises(TaskCancelledError, match=r"^task .* was cancelled$"):
            await manager.get_result(task_id, timeout=PATIENCE)


async def test_function_whose_parameters_have_changed(sql_url: str) -> None:
    """A task whose arguments do not fit its function any more ends FAILED, with the reason."""

    @background_task(on_restart="requeue", name="tests.changing")
    def changing(number: int) -> None: ...

    async with framework(sql_url) as manager:
        await keep_busy(manager)
        task_id = await manager.submit(changing, (1,))

    @background_task(on_restart="requeue", name="tests.changing")
    def changed(number: list[str]) -> None: ...

    async with framework(sql_url) as manager:
        with pytest.raises(
            TypeError, match=r"^argument 'number' of .* does not fit: given a value "
        ):
            await manager.get_result(task_id, timeout=PATIENCE)


async def test_arguments_that_are_no_json(task_manager: TaskManager) -> None:
    """A call that another process could not repeat is refused in the caller, in tests too."""
    with pytest.raises(
        TypeError,
        match=r"^argument 'number' of tests\.processes\.work\.test_requeue\.add does not fit: "
        r"given a value of type object: Input should be a valid integer; arguments are sent as "
        r"JSON according to the annotations$",
    ):
        add(object())  # type: ignore[arg-type]
    assert task_manager.get_stats()["submitted"] == 0


async def test_without_a_store(task_manager: TaskManager) -> None:
    """Without a shared store, the option changes nothing but the check of the arguments."""
    task_id = add(1)

    assert await task_manager.get_result(task_id) == 2
    assert "requeued" not in task_manager.get_stats()


@background_task(on_restart="requeue", unique=True, max_running=1)
def only_one(number: int) -> int:
    """Return a number."""
    return number


@pytest.mark.extended("time")
async def test_unique_and_limited(sql_url: str) -> None:
    """A unique task whose function runs once at a time is still that after a restart."""
    async with framework(sql_url) as manager:
        await keep_busy(manager)
        ids = [await manager.submit(only_one, (number,), delay=0.1 * number) for number in (0, 1)]
    async with framework(sql_url) as manager:
        assert [await manager.get_result(one, timeout=PATIENCE) for one in ids] == [0, 1]
        once_more = await manager.submit(only_one, (0,))
        assert once_more not in ids, "the place is free again"


@pytest.mark.parametrize(
    ("durable", "lost"),
    [
        (None, "it has no effect, since no other process knows this one's tasks"),
        (False, "tasks that were accepted just before a crash are lost"),
        (True, None),
    ],
)
async def test_warning_of_tasks_that_would_be_lost(
    sqlite_url: str, caplog: pytest.LogCaptureFixture, durable: bool | None, lost: str | None
) -> None:
    """An app whose tasks are to be requeued and whose store does not keep them is told at start."""
    store = None if durable is None else SQLStore(sqlite_url, durable=durable)
    async with setup_async_framework(None, store=store):
        pass
    found = [message for message in caplog.messages if message.startswith("on_restart")]
    if lost is None:
        assert found == []
    else:
        (message,) = found
        assert re.fullmatch(
            rf"on_restart of \S+ and \d+ more: {lost}; use "
            r"store=SQLStore\(url, durable=True\)",
            message,
        )


@background_task(on_restart="requeue")
def loose(first, *more, **named):  # untyped, as in many apps
    """Take anything, since nothing is annotated."""


async def test_arguments_that_would_come_back_as_others(task_manager: TaskManager) -> None:
    """A value that would be another one after a restart is refused in the caller."""
    calls: dict[tuple[str, str], Callable[[], object]] = {
        ("first", "datetime"): partial(loose, datetime.now(UTC)),
        ("more", "list"): partial(loose, 1, 2, [{"deep": Path()}]),
        ("other", "dict"): partial(loose, 1, other={1: "one"}),
    }
    assert {case: refusal(call) for case, call in calls.items()} == {
        (name, kind): (
            f"TypeError: argument '{name}' of {__name__}.loose needs an annotation: given a value "
            f"of type {kind}, which comes back from JSON as something else"
        )
        for name, kind in calls
    }


async def test_arguments_without_annotations(task_manager: TaskManager) -> None:
    """What JSON has needs no annotation."""
    await task_manager.get_result(loose(1, "two", (3.0, None), deep={"a": [True]}))


async def test_shutdown_says_what_it_leaves(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log counts the tasks that a shutdown leaves to other processes, and does not warn."""
    caplog.set_level("INFO", "asyncframe")
    async with framework(sqlite_url) as manager:
        await manager.submit(add_on_loop, (1,), delay=3_600)
        await manager.submit(add_on_loop, (2,), delay=3_600)
    assert [record.getMessage() for record in caplog.records if record.levelname == "INFO"] == [
        "left in the store for another process: 2 tasks (2 unfinished)"
    ]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


async def test_in_virtual_time(asyncframe: Probe) -> None:
    """In a test, a task that others may run waits for its delay in virtual time, as any other."""
    task = await asyncframe.completed(add.options(delay=3_600)(1))
    assert (task.result, task.queue_time, task.attempts) == (2, 3_600.0, 1)


async def test_an_end_keeps_its_place_until_the_store_knows(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process has no place for another task before its store can tell that the last one ended."""
    async with framework(sqlite_url) as manager:
        core: Any = manager._core
        its, put, rooms = core.ledger.shared._writer._site.host, core.ledger.store.put, []

        def look_and_put(record: TaskRecord) -> None:
            rooms.append(its.room())
            put(record)

        monkeypatch.setattr(core.ledger.store, "put", look_and_put)
        task_id = await manager.submit(add, (1,))
        assert await manager.get_result(task_id, timeout=PATIENCE) == 2
        assert rooms == [{"loop": 1}]


@pytest.mark.extended("time")
async def test_whoever_waits_hears_of_the_end(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a task that its own process takes over then hears of its end at once."""
    monkeypatch.setattr(other_processes, "_CHECK", 1e6)
    async with framework(sqlite_url) as manager:
        await keep_busy(manager)
        task_id = await manager.submit(add, (1,))
    async with framework(sqlite_url) as manager:
        core: Any = manager._core
        core.takes_over = False
        result = asyncio.ensure_future(manager.get_result(task_id, timeout=PATIENCE))
        while task_id not in core.others._watched:
            await core.others.call(lambda: None)
        core.takes_over = True
        assert await result == 2


@pytest.mark.extended("time")
async def test_task_that_cannot_be_taken_over(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error while a task is taken over is logged, and the task is taken over a second later."""
    async with framework(sqlite_url) as manager:
        tasks = [await manager.submit(add, (one,), delay=0.1) for one in (1, 2)]
    plain, failed = taking_over.take_over, list[str]()

    def fail_once(core: Any, record: Any) -> bool:
        if not failed:
            failed.append(record.task_id)
            raise LookupError("told to fail")
        return plain(core, record)

    monkeypatch.setattr(host, "take_over", fail_once)
    async with framework(sqlite_url) as manager:
        assert [await manager.get_result(one, timeout=PATIENCE) for one in tasks] == [2, 3]
    # Those of one moment are taken over in any order.
    (one,) = failed
    assert one in tasks
    assert f"task {one} could not be taken over" in caplog.messages
