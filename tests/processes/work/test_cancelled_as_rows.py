"""Tasks that are cancelled while they wait to go on, and that make up for what they have done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import (
    asynccontextmanager,
    closing,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from io import StringIO
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from framework import (
    TaskCancelledError,
    TaskManager,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework._manager.inside import core_of
from framework.cli import main
from framework.exceptions import MessageRefusedError
from framework.http import task_router
from framework.protocols import TaskEvent
from framework.steps import Message, sleep, step
from framework.stores.sql import SQLStore
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._reading.observer import Observer
from tests.patience import PATIENCE

pytestmark = pytest.mark.extended("time")

EFFECTS: list[str] = []
SIGNED = Message("signed", bool)


class Bank:
    """Whether the bank answers when it is asked to give money back."""

    asked = asyncio.Event()
    free = asyncio.Event()
    answers = True


@pytest.fixture(autouse=True)
def effects() -> list[str]:
    """What the steps of this test do."""
    EFFECTS.clear()
    Bank.asked, Bank.free, Bank.answers = asyncio.Event(), asyncio.Event(), True
    return EFFECTS


@step
async def debit(order: int) -> str:
    """Note that it runs."""
    EFFECTS.append("debit")
    return f"payment {order}"


@step
async def give_back(payment: str) -> None:
    """Note that it runs, and wait until the bank answers."""
    EFFECTS.append("give back")
    Bank.asked.set()
    if not Bank.answers:
        await Bank.free.wait()


@step
async def apologise(order: int) -> None:
    """Note that it runs."""
    EFFECTS.append("apologise")


@step
def debit_sync(order: int) -> str:
    """Note that it runs."""
    EFFECTS.append("debit")
    return f"payment {order}"


@step
def give_back_sync(payment: str) -> None:
    """Note that it runs."""
    EFFECTS.append("give back")


@background_task(on_restart="resume", name="tests.signs")
async def signs(order: int) -> str:
    """Debit, wait for a signature, and give the money back if that is cancelled."""
    payment = await debit(order)
    try:
        return f"{payment} {await SIGNED.receive()}"
    except asyncio.CancelledError:
        await give_back(payment)
        raise


@background_task(on_restart="resume", name="tests.signs_in_writing")
async def signs_in_writing(order: int) -> str:
    """Do the same, and make up by two steps."""
    payment = await debit(order)
    try:
        return f"{payment} {await SIGNED.receive()}"
    finally:
        await apologise(order)
        await give_back(payment)


@background_task(on_restart="resume", name="tests.signs_on_a_thread")
def signs_on_a_thread(order: int) -> str:
    """Do the same on a thread."""
    payment = debit_sync(order)
    try:
        return f"{payment} {SIGNED.receive_sync()}"
    except TaskCancelledError:
        give_back_sync(payment)
        raise


@background_task(on_restart="resume", name="tests.signs_beside_a_sleep")
async def signs_beside_a_sleep(order: int) -> str:
    """Wait in two branches, and return all the same."""
    payment = await debit(order)
    try:
        await asyncio.gather(SIGNED.receive(), sleep(86_400))
    except asyncio.CancelledError:
        await give_back(payment)
        return "given back"
    return payment


@asynccontextmanager
async def app(sql_url: str, grace: float = PATIENCE) -> AsyncIterator[TaskManager]:
    """Run an app over the database."""
    store = SQLStore(sql_url, durable=True)
    async with setup_async_framework(None, store=store, graceful_shutdown_timeout=grace):
        yield get_task_manager()


async def left(sql_url: str, function: Any = signs) -> str:
    """Return a task whose app has stopped while it waited for a signature."""
    loop, waits = asyncio.get_running_loop(), asyncio.Event()

    def hear(event: TaskEvent) -> None:
        if event.kind == "sleeping":
            loop.call_soon_threadsafe(waits.set)

    async with app(sql_url) as manager:
        manager.subscribe(hear)
        task_id: str = await manager.submit(function, (1,))
        await asyncio.wait_for(waits.wait(), PATIENCE)
    return task_id


def ask(sql_url: str, task_id: str, *, at_once: bool = False) -> None:
    """Ask to cancel a task while no app runs, as the command does."""
    with closing(Observer(checked_url(sql_url))) as observer:
        assert observer.request_cancel(task_id, at_once=at_once)


@pytest.mark.parametrize(
    ("function", "status"),
    [
        (signs, "cancelled"),
        (signs_on_a_thread, "cancelled"),
        (signs_beside_a_sleep, "completed"),
    ],
)
@pytest.mark.parametrize("by", ["the next app", "an observer", "a request"])
async def test_who_is_cancelled_as_a_row(
    sql_url: str, effects: list[str], by: str, function: Any, status: str
) -> None:
    """A task that has left goes on when it is cancelled, and runs steps at its wait."""
    task_id = await left(sql_url, function)
    if by == "an observer":
        ask(sql_url, task_id)
    async with app(sql_url) as manager:
        if by == "the next app":
            answer = await manager.request_cancel(task_id)
            words = "it was waiting to go on, and its code has come to its end"
            ended = {
                "cancelled": f"cancelled: {words}",
                "completed": "cannot: it has ended: completed",
            }
            assert str(answer) == ended[status]
        elif by == "a request":
            async with routes() as client:
                deleted = await client.delete(f"/tasks/{task_id}")
            assert (deleted.status_code, deleted.json()["status"]) == (200, status)
        task = await manager.wait(task_id, timeout=PATIENCE)
        with pytest.raises(MessageRefusedError, match=r"^message .* the task has ended$"):
            await SIGNED.send(task_id, True)

    assert (task.status.value, task.cancel_requested) == (status, True)
    assert effects == ["debit", "give back"]


def command(sql_url: str, task_id: str) -> None:
    """Cancel a task by the command, without and with ``--at-once``, while no app runs."""
    given = ["cancel", task_id, "--store", sql_url, "--timeout", "0"]
    with redirect_stderr(StringIO()) as told, redirect_stdout(StringIO()):
        assert [main(given), main([*given, "--at-once"])] == [1, 1]
    assert told.getvalue() == (
        f"asyncframe: task {task_id} is asked to stop, but no process has it now: the next one of "
        "the app that knows its function goes on with it, so that it can make up for what it has "
        f"done; --at-once ends it as it is\nasyncframe: task {task_id} is asked to stop, but no "
        "process has it now: the next one of the app ends it\n"
    )


def routes() -> httpx.AsyncClient:
    """Return a client of the routes of tasks."""
    served = FastAPI()
    served.include_router(task_router())
    headers = {"X-Requested-With": "tests"}
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(served), base_url="http://app", headers=headers
    )


async def request(task_id: str) -> None:
    """Cancel a task at once by a request, which may only ask for yes or no."""
    async with routes() as client:
        url = f"/tasks/{task_id}"
        answers = [await client.delete(url, params={"at_once": one}) for one in ("maybe", "true")]
    assert [one.status_code for one in answers] == [422, 200]
    assert answers[1].json() == {
        "cancelled": True,
        "status": "cancelled",
        "outcome": "cancelled",
        "why": "it was waiting to go on, and never will",
    }


@pytest.mark.parametrize("by", ["an observer", "a command", "a command to an app", "a request"])
async def test_who_is_cancelled_at_once(sql_url: str, effects: list[str], by: str) -> None:
    """A task that is cancelled at once, as a row, runs nothing, and goes on if it is run again."""
    task_id = await left(sql_url)
    if by == "an observer":
        ask(sql_url, task_id)
        with closing(Observer(checked_url(sql_url))) as observer:
            sight = observer.look(task_id)
        assert sight is not None
        assert (sight.record.status.value, sight.record.cancel_requested) == ("pending", True)
        ask(sql_url, task_id, at_once=True)
    elif by == "a command":
        await asyncio.to_thread(command, sql_url, task_id)
    async with app(sql_url) as manager:
        if by == "a request":
            await request(task_id)
        elif by == "a command to an app":
            given = ["cancel", "--at-once", task_id, "--store", sql_url]
            assert await asyncio.to_thread(main, given) == 0
        task = await manager.wait(task_id, timeout=PATIENCE)
        again = await manager.run_again(task_id)
        await SIGNED.send(again, False)
        result = await manager.get_result(again, timeout=PATIENCE)

    assert task.status.value == "cancelled"
    assert task.reason == "it was cancelled while it waited to go on"
    assert result == "payment 1 False"
    assert effects == ["debit"]


@pytest.mark.parametrize("lives", [1, 3])
async def test_the_app_stops_while_a_task_makes_up(
    sql_url: str, effects: list[str], lives: int
) -> None:
    """What a task does after its cancellation goes on in the next app, from where it was cut off.

    Each app runs the step that was cut off, and none before it.
    """
    task_id = await left(sql_url, signs_in_writing)
    Bank.answers, asked = False, list[bool]()
    for _ in range(lives):
        Bank.asked = asyncio.Event()
        async with app(sql_url, grace=0.0) as manager:
            if not asked:
                asked = [await manager.cancel_task(task_id) for _ in "ab"]
            await asyncio.wait_for(Bank.asked.wait(), PATIENCE)
    Bank.answers = True
    async with app(sql_url) as manager:
        task = await manager.wait(task_id, timeout=PATIENCE)
        steps = await manager.get_steps(task_id)

    assert asked == [False, False]
    assert task.status.value == "cancelled"
    assert effects == ["debit", "apologise", *["give back"] * (1 + lives)]
    assert [one.state for one in steps] == ["completed", "cancelled", "completed", "completed"]


async def test_the_app_waits_for_what_a_task_makes_up(sql_url: str, effects: list[str]) -> None:
    """An app that stops lets a task that was cancelled make up for what it did, in its time."""
    task_id = await left(sql_url, signs_in_writing)
    Bank.answers = False
    async with app(sql_url) as manager:
        assert not await manager.cancel_task(task_id)
        await asyncio.wait_for(Bank.asked.wait(), PATIENCE)
        asyncio.get_running_loop().call_soon(Bank.free.set)
    async with app(sql_url) as manager:
        task = await manager.wait(task_id, timeout=PATIENCE)

    assert task.status.value == "cancelled"
    assert effects == ["debit", "apologise", "give back"]


async def test_a_message_comes_with_the_cancellation(sql_url: str, effects: list[str]) -> None:
    """A task that is cancelled takes no message more, whichever came first."""
    task_id = await left(sql_url)
    ask(sql_url, task_id)
    async with app(sql_url) as manager:
        with suppress(MessageRefusedError):
            await SIGNED.send(task_id, True)
        other = await manager.submit(signs, (2,))
        await SIGNED.send(other, True)
        task = await manager.wait(task_id, timeout=PATIENCE)
        result = await manager.get_result(other, timeout=PATIENCE)

    assert task.status.value == "cancelled"
    assert result == "payment 2 True"
    assert sorted(effects) == ["debit", "debit", "give back"]


async def test_who_is_cancelled_on_its_way(sql_url: str, effects: list[str]) -> None:
    """A task that is cancelled while its records answer comes to its wait first."""
    task_id = await left(sql_url)
    async with app(sql_url) as manager:
        core = core_of(manager)

        def hear(event: TaskEvent) -> None:
            task = core.ledger.find_live(task_id)
            if event.kind == "started" and task is not None:
                core.ledger.request_cancel(task)
                core.runner.cancel(task, "it was cancelled")

        manager.subscribe(hear)
        await SIGNED.send(task_id, True)
        task = await manager.wait(task_id, timeout=PATIENCE)

    assert task.status.value == "cancelled"
    assert effects == ["debit", "give back"]
