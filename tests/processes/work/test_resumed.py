"""Tasks that go on in another framework over the same store, after theirs has stopped."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from framework import (
    TaskCancelledError,
    TaskManager,
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)
from framework._manager import resting
from framework._manager.face import submitting
from framework._manager.inside import core_of
from framework._manager.submitting.durable import Durable
from framework._records.reasons import reason_of
from framework._records.steps import StepRecord
from framework.exceptions import (
    RunAgainError,
    StepInterruptedError,
    StepTakenError,
    StoreUnavailableError,
)
from framework.protocols import StepChange, TaskEvent
from framework.steps import Message, _messages, _resuming, _sleeps, sleep, sleep_sync, step
from framework.stores.sql import SQLStore
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._reading.observer import Observer
from framework.stores.sql._tables.schema import TASKS
from framework.stores.sql._tables.steps import row_of
from framework.stores.sql._writing import steps as _steps
from framework.stores.sql._writing.batches import Batches
from framework.stores.sql._writing.messages import MessageRows
from framework.stores.sql._writing.steps import StepRows
from tests.patience import PATIENCE
from tests.processes.work.test_requeue import written

pytestmark = pytest.mark.extended("time")

EFFECTS: list[str] = []


class World:
    """Whether what steps ask for is there."""

    started = asyncio.Event()
    given_away = threading.Event()
    is_open = False
    loop: asyncio.AbstractEventLoop


@pytest.fixture(autouse=True)
def effects() -> list[str]:
    """What the steps of this test do."""
    EFFECTS.clear()
    World.started, World.is_open = asyncio.Event(), False
    World.given_away.set()
    return EFFECTS


@step
async def charge(order: int) -> str:
    """Note that it runs."""
    EFFECTS.append("charge")
    return f"payment {order}"


@step
async def refund(payment: str) -> None:
    """Note that it runs."""
    EFFECTS.append("refund")


@step
async def ship(payment: str) -> str:
    """Wait until there is a carrier."""
    EFFECTS.append("ship")
    World.started.set()
    if not World.is_open:
        await asyncio.Event().wait()
    return f"parcel for {payment}"


@step(once=True)
async def ship_once(payment: str) -> str:
    """Wait until there is a carrier, and never ask it twice."""
    return await ship(payment)


@background_task(on_restart="resume", name="tests.asks")
async def asks(order: int) -> str:
    """Ask the carrier what became of a parcel if nobody knows."""
    payment = await charge(order)
    try:
        return await ship_once(payment)
    except StepInterruptedError:
        return f"asked for {await charge(order + 1)}"


async def test_a_step_that_runs_once_at_most(sql_url: str, effects: list[str]) -> None:
    """A step that had begun raises in the next run, also after another restart."""
    store = SQLStore(sql_url, durable=True)
    async with setup_async_framework(None, store=store, graceful_shutdown_timeout=0.0):
        task_id = await get_task_manager().submit(asks, (1,))
        await World.started.wait()
    World.is_open = True
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        result = await get_task_manager().get_result(task_id, timeout=PATIENCE)

    assert result == "asked for payment 2"
    assert effects == ["charge", "ship", "charge"]


@background_task(on_restart="resume", name="tests.naps")
async def naps(seconds: float) -> str:
    """Sleep between two steps, and beside a third."""
    payment = await charge(1)
    async with asyncio.TaskGroup() as group:
        group.create_task(refund(payment))
        await sleep(seconds)
    return await charge(2)


@background_task(on_restart="resume", name="tests.naps_on_a_thread")
def naps_on_a_thread(seconds: float) -> str:
    """Sleep on a thread."""
    sleep_sync(seconds)
    EFFECTS.append("awake")
    return "awake"


def _hearing(manager: TaskManager) -> asyncio.Event:
    """Return what is set when a task sleeps."""
    loop, sleeps = asyncio.get_running_loop(), asyncio.Event()

    def hear(event: TaskEvent) -> None:
        if event.kind == "sleeping":
            loop.call_soon_threadsafe(sleeps.set)

    manager.subscribe(hear)
    return sleeps


@pytest.mark.parametrize("function", [naps, naps_on_a_thread])
async def test_who_sleeps_for_long_is_a_row(
    sql_url: str, effects: list[str], function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that sleeps for long leaves its process, and goes on in one when its row is due."""
    monkeypatch.setattr(_sleeps, "LONG", 1.0)
    monkeypatch.setattr(resting, "LONG", 1.0)
    store = SQLStore(sql_url, durable=True)
    async with setup_async_framework(None, store=store):
        manager = get_task_manager()
        kinds = list[str]()
        manager.subscribe(lambda event: kinds.append(event.kind))
        task_id = await manager.submit(function, (3.0,))
        result = await manager.get_result(task_id, timeout=PATIENCE)
        task = await manager.get_task(task_id)

    assert kinds == [
        *("submitted", "started", "sleeping"),
        *("requeued", "started", "completed"),
    ]
    assert (result, effects) in [
        ("payment 2", ["charge", "refund", "charge"]),
        ("awake", ["awake"]),
    ]
    assert task is not None
    assert task.attempts == 1


async def test_who_sleeps_leaves_when_the_app_stops(sql_url: str, effects: list[str]) -> None:
    """An app that stops does not wait for a sleep, and the next one does not begin it anew."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    store = SQLStore(sql_url, durable=True)
    async with setup_async_framework(None, store=store, graceful_shutdown_timeout=PATIENCE):
        sleeps = _hearing(get_task_manager())
        task_id = await get_task_manager().submit(naps, (5.0,))
        await asyncio.wait_for(sleeps.wait(), PATIENCE)
    stopped = loop.time() - began
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        result = await get_task_manager().get_result(task_id, timeout=PATIENCE)

    assert result == "payment 2"
    assert effects == ["charge", "refund", "charge"]
    assert stopped < 5 <= loop.time() - began


APPROVAL = Message("approval", bool)


@background_task(on_restart="resume", name="tests.waits_for_a_person")
async def waits_for_a_person(order: int) -> str:
    """Charge, and ship if somebody approves."""
    payment = await charge(order)
    return f"{payment} {await APPROVAL.receive()} {await APPROVAL.receive(timeout=0.01)}"


async def test_a_message_comes_while_the_task_is_a_row(sql_url: str, effects: list[str]) -> None:
    """A task that has left for its message goes on when it comes, in the next app."""
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        waits = _hearing(get_task_manager())
        task_id = await get_task_manager().submit(waits_for_a_person, (1,))
        await asyncio.wait_for(waits.wait(), PATIENCE)
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        task = await get_task_manager().get_task(task_id)
        assert task is not None
        told = task.explain()
        await APPROVAL.send(task_id, True)
        result = await get_task_manager().get_result(task_id, timeout=PATIENCE)

    assert told == "waits for message 'approval'"
    assert result == "payment 1 True None"
    assert effects == ["charge"]


@background_task(on_restart="resume", name="tests.one_at_a_time", max_running=1)
@retry_task(max_retries=1, retry_delay=0.01)
async def one_at_a_time(order: int) -> str:
    """Charge one order at a time, and wait for a person."""
    payment = await charge(order)
    return f"{payment} {await APPROVAL.receive()}"


async def test_who_sleeps_gives_its_place_up(sql_url: str, effects: list[str]) -> None:
    """A task that has left lets the next of its line run, and asks for its place anew."""
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        manager = get_task_manager()
        task_ids = [await manager.submit(one_at_a_time, (order,)) for order in (1, 2)]
        await APPROVAL.send(task_ids[1], True)
        second = await manager.get_result(task_ids[1], timeout=PATIENCE)
        await APPROVAL.send(task_ids[0], False)
        first = await manager.get_result(task_ids[0], timeout=PATIENCE)

    assert (first, second) == ("payment 1 False", "payment 2 True")
    assert effects == ["charge", "charge"]


async def test_a_message_comes_between_a_look_and_the_leaving(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the message or the task that waits for it is stored first: it goes on."""
    looks, fetch = list[str](), MessageRows.fetch_messages

    def fetch_and_send(rows: MessageRows, task_id: str) -> Any:
        found = fetch(rows, task_id)
        if not looks:
            assert rows.send_message(task_id, "approval", "true", None) == "sent"
        looks.append(task_id)
        return found

    monkeypatch.setattr(MessageRows, "fetch_messages", fetch_and_send)
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        task_id = await get_task_manager().submit(waits_for_a_person, (1,))
        result = await get_task_manager().get_result(task_id, timeout=PATIENCE)

    assert result == "payment 1 True None"


@background_task(on_restart="resume", name="tests.asks_twice")
async def asks_twice() -> tuple[bool | None, bool | None]:
    """Wait for an approval at two places."""
    return await asyncio.gather(APPROVAL.receive(timeout=0), APPROVAL.receive(timeout=0))


async def test_two_waits_have_seen_one_message(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that two waits found before either took it is received by one of them."""
    looks, fetch, looking = itertools.count(), MessageRows.fetch_messages, threading.Barrier(2)

    def fetch_at_once(rows: MessageRows, task_id: str) -> Any:
        if (number := next(looks)) == 0:
            assert rows.send_message(task_id, "approval", "true", None) == "sent"
        if number < 2:
            looking.wait(PATIENCE)
        found = fetch(rows, task_id)
        if number < 2:
            looking.wait(PATIENCE)
        return found

    monkeypatch.setattr(MessageRows, "fetch_messages", fetch_at_once)
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        task_id = await get_task_manager().submit(asks_twice)
        result = await get_task_manager().get_result(task_id, timeout=PATIENCE)

    assert sorted(result, key=bool) == [None, True]


@background_task(on_restart="resume", name="tests.makes_up")
async def makes_up(order: int) -> str:
    """Refund if it is cancelled while it ships."""
    payment = await charge(order)
    try:
        return await ship(payment)
    except asyncio.CancelledError:
        await refund(payment)
        raise


async def test_what_a_task_does_on_its_way_out_is_not_recorded(
    sql_url: str, effects: list[str]
) -> None:
    """When the app stops, steps amid a cleanup do not run, and the task goes on elsewhere."""
    store = SQLStore(sql_url, durable=True)
    async with setup_async_framework(None, store=store, graceful_shutdown_timeout=0.0):
        task_id = await get_task_manager().submit(makes_up, (1,))
        await World.started.wait()
    World.is_open = True
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        result = await get_task_manager().get_result(task_id, timeout=PATIENCE)

    assert result == "parcel for payment 1"
    assert effects == ["charge", "ship", "ship"]


@background_task(on_restart="requeue", name="tests.told_of_a_delay")
async def told_of_a_delay(payment: str) -> str:
    """Do nothing."""
    return payment


@step
async def ship_or_tell(payment: str, how: str) -> str:
    """Submit a task if it is cancelled, in one way or the other, or raise an error."""
    try:
        return await ship(payment)
    except asyncio.CancelledError:
        try:
            if how == "submit":
                await get_task_manager().submit(told_of_a_delay, (payment,))
            elif how == "call":
                told_of_a_delay(payment)
            raise OSError(how) from None
        except BaseException as error:
            EFFECTS.append(type(error).__name__)
            asyncio.get_running_loop().call_soon(World.given_away.set)
            raise


@background_task(on_restart="resume", name="tests.tells")
async def tells(order: int, how: str) -> str:
    """Charge, and ship or tell."""
    return await ship_or_tell(await charge(order), how)


@pytest.mark.parametrize(
    ("how", "raised"),
    [("submit", "CancelledError"), ("call", "CancelledError"), ("raise", "OSError")],
)
async def test_what_a_step_raises_on_the_way_out_is_not_its_error(
    sql_url: str,
    effects: list[str],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    raised: str,
) -> None:
    """A step that raises an error after its task was given away is cut off, and has not failed.

    Its end would be stored before its task is given away in the store, and all else too late.
    """
    write, written = Batches.write, threading.Event()

    def write_late(batches: Batches) -> None:
        assert World.given_away.wait(PATIENCE)
        write(batches)
        written.set()

    def put_at_once(rows: StepRows, request: _steps._Request) -> None:
        rows._write([request])
        if any("failed" in row for row in request.rows):
            written.clear()
            World.given_away.set()
            assert written.wait(PATIENCE)

    monkeypatch.setattr(Batches, "write", write_late)
    monkeypatch.setattr(StepRows, "_put", put_at_once)
    store = SQLStore(sql_url, durable=True)
    async with setup_async_framework(None, store=store, graceful_shutdown_timeout=0.0):
        task_id = await get_task_manager().submit(tells, (1, how))
        await World.started.wait()
        World.given_away.clear()
    World.is_open = True
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        result = await get_task_manager().get_result(task_id, timeout=PATIENCE)

    assert result == "parcel for payment 1"
    assert effects == ["charge", "ship", raised, "ship"]


async def test_a_real_cancellation_runs_steps(sql_url: str, effects: list[str]) -> None:
    """A task that somebody cancels makes up for what it has done, by steps."""
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        manager = get_task_manager()
        task_id = await manager.submit(makes_up, (1,))
        await World.started.wait()
        await manager.cancel_task(task_id)
        task = await manager.wait(task_id, timeout=PATIENCE)

    assert task.status.value == "cancelled"
    assert effects == ["charge", "ship", "refund"]


async def test_a_step_of_a_task_that_was_taken(sql_url: str) -> None:
    """What another process has taken is not stored here, and the error says so."""
    store = SQLStore(sql_url, durable=True)
    async with setup_async_framework(None, store=store):
        loop = asyncio.get_running_loop()
        told, steps = loop.create_future(), store.features.steps
        assert steps is not None

        def hear(error: BaseException | None) -> None:
            loop.call_soon_threadsafe(told.set_result, error)

        steps.store_steps("unknown", [], hear)
        error = await told
    late = list[BaseException | None]()
    steps.store_steps("unknown", [], late.append)

    assert [str(one) for one in late] == ["a step ended after its store"]
    assert isinstance(error, StepTakenError)
    assert str(error).startswith("task 'unknown' has ended, or runs in another process by now")


async def test_steps_beside_those_of_others(sql_url: str, effects: list[str]) -> None:
    """Of steps that are written together those of others' tasks are refused, the others stored."""
    store = SQLStore(sql_url, durable=True)
    told: dict[str, list[BaseException | None]] = {"unknown": []}
    async with setup_async_framework(None, store=store):
        manager = get_task_manager()
        own = await manager.submit(makes_up, (1,))
        told[own] = []
        await World.started.wait()
        record = StepRecord((), (), "tests.beside", "digest", 7, "completed")
        some = [
            _steps._Request(one, [7], [row_of(one, record)], StepChange(), hear.append)
            for one, hear in told.items()
        ]
        store._steps._write(some)
        stored = await asyncio.to_thread(store._steps.fetch_steps, own)
        others = await asyncio.to_thread(store._steps.fetch_steps, "unknown")
        await manager.cancel_task(own)

    assert told[own] == [None]
    assert [type(one) for one in told["unknown"]] == [StepTakenError]
    assert [one.number for one in stored if one.function == "tests.beside"] == [7]
    assert others == []


@background_task(on_restart="resume", on_error="silent", name="tests.ships_later")
async def ships_later(order: int) -> str:
    """Charge, and ship if there is a carrier, and somebody approves once more."""
    payment = await charge(order)
    is_approved = await APPROVAL.receive()
    if not World.is_open:
        await refuse(payment)
    await APPROVAL.receive()
    return f"{await ship(payment)} {is_approved}"


@step
async def refuse(payment: str) -> None:
    """Fail, in a later task not before it may."""
    EFFECTS.append("refuse")
    if EFFECTS.count("refuse") > 1:
        await World.started.wait()
    raise OSError(payment)


async def test_whoever_runs_it_again(sql_url: str, effects: list[str]) -> None:
    """In two processes and from outside at once: one task goes on, and has all that is recorded."""
    first, second = SQLStore(sql_url, durable=True), SQLStore(sql_url, durable=True)
    async with setup_async_framework(None, store=first):
        one = get_task_manager()
        task_id = await one.submit(ships_later, (1,))
        await APPROVAL.send(task_id, True)
        await one.wait(task_id, timeout=PATIENCE)
        # An end is told before it is written, and until then the other one takes it for running.
        await written(one, task_id)
        failed = [step.state for step in await one.get_steps(task_id)]
        async with setup_async_framework(None, store=second):
            other = get_task_manager()
            with closing(Observer(sql_url)) as observer:
                outside = asyncio.to_thread(
                    observer.run_again, task_id, datetime.now(UTC).timestamp()
                )
                again = await asyncio.gather(
                    one.run_again(task_id), other.run_again(task_id), outside
                )
            World.started.set()
            await asyncio.gather(
                *(manager.wait(again[0], timeout=PATIENCE) for manager in (one, other))
            )
            World.is_open = True
            # Of the one that has failed, and from the first one on.
            last = await one.run_again(again[0])
            assert await one.run_again(task_id) == last
            await APPROVAL.send(last, True)
            result = await other.get_result(last, timeout=PATIENCE)
            with pytest.raises(RunAgainError, match=rf"has gone on as task {last}, which comp"):
                await other.run_again(task_id)  # which knows of the end, as the first may not yet

    assert failed == ["completed", "completed", "failed"]
    assert len(set(again)) == 1
    assert result == "parcel for payment 1 True"
    assert effects == ["charge", "refuse", "refuse", "ship"]


@background_task(on_restart="requeue", name="tests.resumed_child")
async def child(number: int) -> None:
    """Do nothing."""


@step
async def submit_with(url: str) -> str:
    """Submit a child in a transaction of the app, and fail after its commit the first time."""
    with Session(sa.create_engine(url, poolclass=sa.NullPool)) as session, session.begin():
        task_id = await get_task_manager().submit(child, (1,), session=session)
    EFFECTS.append(task_id)
    if len(EFFECTS) == 1:
        raise OSError
    return task_id


@background_task(on_restart="resume", name="tests.submits_with")
@retry_task(max_retries=1, retry_delay=0.01)
async def submits_with(url: str) -> str:
    """Submit in a step."""
    return await submit_with(url)


async def test_a_child_in_a_transaction(sql_url: str, effects: list[str]) -> None:
    """A step that runs again after the commit finds the child that the transaction brought."""
    url = checked_url(sql_url).render_as_string(hide_password=False)
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        manager = get_task_manager()
        task_id = await manager.submit(submits_with, (url,))
        found = await manager.get_result(task_id, timeout=PATIENCE)
        await manager.wait(found, timeout=PATIENCE)
        page = await manager.list_tasks(name="tests.resumed_child")

    assert effects == [found, found]
    assert [one.task_id for one in page.tasks] == [found]


async def _until_it_stops() -> None:
    """Wait until the app stops, in the first of two apps."""
    ledger = core_of(get_task_manager()).ledger
    World.started.set()
    while not World.is_open and ledger.state == "running":  # noqa: ASYNC110  # nothing else tells
        await asyncio.sleep(0)  # noqa: TID251  # a turn of the loop


@background_task(on_restart="resume", name="tests.submits_late")
async def submits_late() -> str:
    """Submit once the app stops."""
    await _until_it_stops()
    return child(1)


@step
def submit_late() -> str:
    """Do the same in a step on a thread."""
    asyncio.run_coroutine_threadsafe(_until_it_stops(), World.loop).result(PATIENCE)
    return child(1)


@background_task(on_restart="resume", name="tests.submits_late_on_a_thread")
def submits_late_on_a_thread() -> str:
    """Submit in a step once the app stops."""
    return submit_late()


@pytest.mark.parametrize("function", [submits_late, submits_late_on_a_thread])
async def test_a_child_that_is_submitted_while_the_app_stops(sql_url: str, function: Any) -> None:
    """The task leaves, and submits its child where it goes on."""
    World.loop = asyncio.get_running_loop()
    store = SQLStore(sql_url, durable=True)
    async with setup_async_framework(None, store=store, graceful_shutdown_timeout=PATIENCE):
        task_id = await get_task_manager().submit(function)
        await World.started.wait()
    World.is_open = True
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        manager = get_task_manager()
        found = await manager.get_result(task_id, timeout=PATIENCE)
        await manager.wait(found, timeout=PATIENCE)
        page = await manager.list_tasks(name="tests.resumed_child")

    assert [one.task_id for one in page.tasks] == [found]


@background_task(on_restart="resume", on_error="silent", name="tests.awaited")
async def awaited() -> str:
    """Ship if somebody approves, and fail if not."""
    if not await APPROVAL.receive():
        raise LookupError("no carrier")
    return "parcel"


@step
async def note(text: str) -> None:
    """Note a text."""
    EFFECTS.append(text)


@background_task(on_restart="resume", name="tests.awaits")
async def awaits(task_id: str) -> str:
    """Wait for another task, and for a person."""
    try:
        found = str(await get_task_manager().get_result(task_id))
    except (LookupError, TaskCancelledError) as error:
        found = type(error).__name__
    await note(found)
    await APPROVAL.receive()
    return found


@background_task(on_restart="resume", name="tests.awaits_on_a_thread")
def awaits_on_a_thread(task_id: str) -> str:
    """Do the same on a thread."""
    try:
        found = str(get_task_manager().wait_result(task_id))
    except (LookupError, TaskCancelledError) as error:
        found = type(error).__name__
    EFFECTS.append(found)
    APPROVAL.receive_sync()
    return found


@pytest.fixture
async def left(monkeypatch: pytest.MonkeyPatch) -> dict[str, asyncio.Semaphore]:
    """Of each task what is released whenever it has left its process."""
    loop, rest = asyncio.get_running_loop(), resting.Resting.rest
    found = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(0))

    def rest_and_tell(self: resting.Resting, task: Any, *given: Any) -> None:
        rest(self, task, *given)
        loop.call_soon_threadsafe(found[str(task.task_id)].release)

    monkeypatch.setattr(resting.Resting, "rest", rest_and_tell)
    return found


@pytest.mark.parametrize("function", [awaits, awaits_on_a_thread])
@pytest.mark.parametrize(
    ("how", "expected"),
    [("approved", "parcel"), ("refused", "LookupError"), ("cancelled", "TaskCancelledError")],
)
async def test_who_awaits_another_task_for_long_is_a_row(
    sql_url: str,
    effects: list[str],
    function: Any,
    how: str,
    expected: str,
    left: dict[str, asyncio.Semaphore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It leaves, goes on when the other one ends, and has its outcome once that is forgotten."""
    monkeypatch.setattr(_sleeps, "LONG", 0.5)
    monkeypatch.setattr(resting, "LONG", 0.5)
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        manager = get_task_manager()
        other = str(await manager.submit(awaited))
        task_id = await manager.submit(function, (other,))
        await asyncio.wait_for(left[task_id].acquire(), PATIENCE)
        task = await manager.get_task(task_id)
        assert task is not None
        told = task.explain()
        if how == "cancelled":
            await manager.cancel_task(other)
        else:
            await APPROVAL.send(other, how == "approved")
        # It has gone on, and leaves for the message.
        await asyncio.wait_for(left[task_id].acquire(), PATIENCE)
    engine = sa.create_engine(checked_url(sql_url), poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.delete(TASKS).where(TASKS.c.task_id == other))
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        manager = get_task_manager()
        await APPROVAL.send(task_id, True)
        result = await manager.get_result(task_id, timeout=PATIENCE)
        task = await manager.get_task(task_id)

    assert told == f"waits for task {other} to end"
    assert (result, effects[0]) == (expected, expected)
    assert task is not None
    assert task.attempts == 1


@pytest.mark.parametrize("function", [awaits, awaits_on_a_thread])
async def test_who_awaits_leaves_when_the_app_stops(sql_url: str, function: Any) -> None:
    """A task that waits for another one when its app stops goes on in the next, and waits there."""
    store = SQLStore(sql_url, durable=True)
    async with setup_async_framework(None, store=store, graceful_shutdown_timeout=0.1):
        manager = get_task_manager()
        begun, loop = asyncio.Event(), asyncio.get_running_loop()

        def hear(event: TaskEvent) -> None:
            if event.kind == "started" and event.task_id != other:
                loop.call_soon_threadsafe(begun.set)

        other = str(await manager.submit(awaited))
        manager.subscribe(hear)
        task_id = await manager.submit(function, (other,))
        await asyncio.wait_for(begun.wait(), PATIENCE)
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        for one in (other, task_id):
            await APPROVAL.send(one, True)
        result = await get_task_manager().get_result(task_id, timeout=PATIENCE)

    assert result == "parcel"


@background_task(on_restart="resume", name="tests.ended_soon")
async def ended_soon() -> str:
    """Wait until there is a carrier."""
    if not World.is_open:
        await asyncio.Event().wait()
    return "ended"


@background_task(on_restart="resume", name="tests.awaits_its_child")
async def awaits_its_child() -> str:
    """Submit another task, and wait for it."""
    task_id = await get_task_manager().submit(ended_soon)
    World.started.set()
    return await get_task_manager().get_result(task_id)


async def test_who_waits_lets_others_have_a_place(sql_url: str) -> None:
    """In a process whose places all have tasks that wait for others, these may start."""
    store = SQLStore(sql_url, durable=True)
    async with setup_async_framework(
        None, store=store, max_workers=1, graceful_shutdown_timeout=0.0
    ):
        manager = get_task_manager()
        task_ids = [await manager.submit(awaits_its_child) for _ in range(3)]
        await World.started.wait()
    World.is_open = True
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True), max_workers=1):
        manager = get_task_manager()
        results = [await manager.get_result(one, timeout=PATIENCE / 2) for one in task_ids]

    assert results == ["ended"] * 3


async def test_who_leaves_while_it_submits_keeps_its_child(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that is written while its parent leaves is not cancelled, but found by it."""
    ask = Durable._ask

    def ask_later(self: Durable, task: Any, reply: Any) -> None:
        if task.name == "tests.ended_soon" and not World.is_open:
            World.started.set()
        else:
            ask(self, task, reply)

    monkeypatch.setattr(Durable, "_ask", ask_later)
    store = SQLStore(sql_url, durable=True)
    async with setup_async_framework(None, store=store, graceful_shutdown_timeout=0.0):
        task_id = await get_task_manager().submit(awaits_its_child)
        await World.started.wait()
    World.is_open = True
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        result = await get_task_manager().get_result(task_id, timeout=PATIENCE)
        page = await get_task_manager().list_tasks(name="tests.ended_soon")

    assert result == "ended"
    assert len(page.tasks) == 1


async def test_a_database_that_fails_ends_no_task(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task whose steps, messages or child cannot be read or stored waits until they can.

    It says so meanwhile, with the words of the database.
    """
    failing, World.is_open, told = Counter[str](), True, dict[str, list[str]]()

    def fails(name: str, error: Exception) -> None:
        failing[name] += 1
        # Of two tasks, one has then failed before, and told so.
        if failing[name] == 3:
            live = core_of(manager).ledger.unfinished()
            told[name] = [reason_of(one, None, whole=True) for one in live]
        if failing[name] <= 2:
            raise error

    def broken(owner: type, name: str, error: Exception) -> None:
        own = getattr(owner, name)

        def call(self: Any, *args: Any) -> Any:
            fails(name, error)
            return own(self, *args)

        monkeypatch.setattr(owner, name, call)

    for module in (_resuming, submitting, _steps):
        monkeypatch.setattr(module, "_PAUSE", 0.0001)
    monkeypatch.setattr(_messages, "_LOOK", 0.0001)
    gone = StoreUnavailableError("the server is gone")
    broken(StepRows, "fetch_steps", gone)
    broken(StepRows, "_own", sa.exc.OperationalError("", {}, Exception("gone")))
    broken(MessageRows, "fetch_messages", gone)
    ask = Durable._ask

    def refuse(self: Durable, task: Any, reply: Any) -> None:
        if task.name == "tests.ended_soon":
            try:
                fails("_ask", gone)
            except StoreUnavailableError as error:
                reply.give(error)
                return
        ask(self, task, reply)

    monkeypatch.setattr(Durable, "_ask", refuse)
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        manager = get_task_manager()
        tasks = [await manager.submit(one) for one in (awaits_its_child, approves)]
        await APPROVAL.send(tasks[1], True)
        results = [await manager.get_result(one, timeout=PATIENCE) for one in tasks]
        ended = [await manager.get_task(one) for one in tasks]
        children = await manager.list_tasks(name="tests.ended_soon")

    assert results == ["ended", "True"]
    assert sorted(one.status for one in children.tasks) == ["completed", "failed", "failed"]
    assert min(failing.values()) > 2
    outage = r"waits for the store, which cannot be reached since 2.* UTC: (.*)"
    assert re.sub(outage, r"\1", max(told["fetch_steps"])) == "the server is gone"
    assert re.sub(outage, r"\1", max(told["_own"])) == "gone"
    assert [one and one.reason for one in ended] == ["", ""]


async def test_a_step_that_the_database_refuses(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that can never be stored is answered with why, and those beside it are stored."""
    answers: dict[str, list[BaseException | None]] = {"good": [], "bad": []}

    def refuses(
        _: StepRows, some: Sequence[_steps._Request], again: bool
    ) -> tuple[tuple[()], set[str]]:
        task_ids = {one.task_id for one in some}
        if "bad" in task_ids:
            raise sa.exc.DataError("", {}, Exception("it is too large"))
        return (), task_ids

    monkeypatch.setattr(StepRows, "_attempt", refuses)
    store = SQLStore(sql_url)
    async with setup_async_framework(None, store=store):
        some = [
            _steps._Request(one, [], [], StepChange(), told.append) for one, told in answers.items()
        ]
        store._steps._write(some)

    assert answers["good"] == [None]
    assert [str(one) for one in answers["bad"]] == ["a step could not be stored: it is too large"]


@background_task(on_restart="resume", name="tests.approves")
async def approves() -> str:
    """Receive a message."""
    return str(await APPROVAL.receive())


@background_task(on_restart="resume", name="tests.calls_on_a_thread")
def calls_on_a_thread() -> str:
    """Call another task, and wait for it before any step."""
    return get_task_manager().wait_result(awaited())


@background_task(on_restart="resume", name="tests.calls")
async def calls() -> str:
    """Do the same on the loop."""
    return await get_task_manager().get_result(awaited())


@pytest.mark.parametrize("function", [calls, calls_on_a_thread])
async def test_who_leaves_before_any_step_finds_its_child(
    sql_url: str,
    function: Any,
    left: dict[str, asyncio.Semaphore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A task that leaves since it waits for a child that no step has submitted has that again."""
    monkeypatch.setattr(_sleeps, "LONG", 0.5)
    monkeypatch.setattr(resting, "LONG", 0.5)
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        manager = get_task_manager()
        task_id = await manager.submit(function)
        await asyncio.wait_for(left[task_id].acquire(), PATIENCE)
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True)):
        manager = get_task_manager()
        steps = await manager.get_steps(task_id)
        (child,) = (await manager.list_tasks(name="tests.awaited")).tasks
        await APPROVAL.send(child.task_id, True)
        result = await manager.get_result(task_id, timeout=PATIENCE)
        page = await manager.list_tasks(name="tests.awaited")

    # By that it knows that there may be a child.
    assert [(one.name, one.state) for one in steps] == [("framework.steps.result", "waiting")]
    assert result == "parcel"
    assert len(page.tasks) == 1
