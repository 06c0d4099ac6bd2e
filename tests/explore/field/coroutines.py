"""Races of coroutines on one event loop; each is beside its cure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pytest
from fastapi import Depends, FastAPI

from framework import background_task, setup_async_framework
from pytest_asyncframe.probe import Probe

cures = pytest.mark.parametrize("cured", [False, True], ids=["racy", "cured"])


@asynccontextmanager
async def alone(lock: asyncio.Lock, cured: bool) -> AsyncIterator[None]:
    """Hold the lock, if that is the cure."""
    if cured:
        async with lock:
            yield
    else:
        yield


async def ask_database() -> None:
    """Let the others go on."""
    await asyncio.sleep(0)


@cures
@pytest.mark.interleave
async def test_picture_half_changed(asyncframe: Probe, cured: bool) -> None:
    """Width and height are changed with an await in between, and read there."""
    app, size, lock = FastAPI(lifespan=setup_async_framework), [4, 3], asyncio.Lock()

    @app.put("/size")
    async def resize() -> None:
        async with alone(lock, cured):
            size[0] = 16
            await ask_database()
            size[1] = 9

    @app.get("/size")
    async def read() -> list[int]:
        async with alone(lock, cured):
            return list(size)

    async with asyncframe.client(app) as client:
        _, answer = await asyncio.gather(client.put("/size"), client.get("/size"))
    assert answer.json() in ([4, 3], [16, 9])


@cures
@pytest.mark.interleave
async def test_answered_twice(asyncframe: Probe, cured: bool) -> None:
    """The quicker of two mirrors answers a future, and so does the slower one."""
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask(mirror: str, steps: int) -> None:
        for _ in range(steps):
            await ask_database()
        if cured or mirror == "a":
            if not answer.done():
                answer.set_result(mirror)
        else:
            answer.set_result(mirror)

    async with asyncio.TaskGroup() as group:
        group.create_task(ask("b", 0))
        group.create_task(ask("a", 3))
    assert answer.done()


@cures
@pytest.mark.interleave
async def test_place_lost_by_cancelling(asyncframe: Probe, cured: bool) -> None:
    """A request is cancelled between taking a place and the block that gives it back."""
    free = asyncio.Semaphore(1)

    async def work() -> None:
        await free.acquire()
        if not cured:
            await ask_database()
        try:
            await ask_database()
        finally:
            free.release()

    async def stop(task: asyncio.Task[None]) -> None:
        await ask_database()
        task.cancel()

    task = asyncio.create_task(work())
    await asyncio.gather(stop(task), task, return_exceptions=True)
    assert not free.locked()


@cures
@pytest.mark.interleave
async def test_result_thrown_away(asyncframe: Probe, cured: bool) -> None:
    """What is done at the moment the wait ends is cancelled, and its result is lost."""
    stored = list[str]()

    async def fetch() -> str:
        await asyncio.sleep(1)
        stored.append("paid")
        await ask_database()
        return "paid"

    task = asyncio.create_task(fetch())
    done, pending = await asyncio.wait([task], timeout=1)
    if cured:
        said = "paid" if await asyncio.gather(*pending, *done) else "nothing"
    else:
        for one in pending:
            one.cancel()
        with suppress(asyncio.CancelledError):
            await task
        said = "paid" if done else "nothing"
    assert (said == "paid") == bool(stored)


@cures
@pytest.mark.interleave
async def test_limit_of_ones_own(asyncframe: Probe, cured: bool) -> None:
    """A limit of two calls counts after it has asked, and lets three through."""
    calls, lock = list[int](), asyncio.Lock()

    async def call() -> bool:
        async with alone(lock, cured):
            if len(calls) >= 2:
                return False
            await ask_database()
            calls.append(1)
            return True

    async def late() -> bool:
        for _ in range(3):
            await ask_database()
        return await call()

    assert sum(await asyncio.gather(call(), late(), late())) == 2


@cures
@pytest.mark.interleave
async def test_subscriber_passed_over(asyncframe: Probe, cured: bool) -> None:
    """Somebody leaves while all are told, and the one behind is not told."""
    told, subscribers = list[str](), list[str](["a", "b", "c"])

    async def publish() -> None:
        for one in list(subscribers) if cured else subscribers:
            await ask_database()
            told.append(one)

    async def leave() -> None:
        for _ in range(5):
            await ask_database()
        subscribers.remove("a")

    await asyncio.gather(publish(), leave())
    assert "c" in told
    assert "b" in told


@cures
@pytest.mark.interleave
async def test_cancelled_and_then_done(asyncframe: Probe, cured: bool) -> None:
    """A job that its user has cancelled is marked as done by whoever still worked on it."""
    app, job = FastAPI(lifespan=setup_async_framework), {"status": "running"}

    @background_task
    async def work() -> None:
        status = job["status"]
        await ask_database()
        if status == "running" and (not cured or job["status"] == "running"):
            job["status"] = "done"

    @app.post("/start")
    async def start() -> str:
        return work()

    @app.post("/cancel")
    async def cancel() -> bool:
        if job["status"] != "running":
            return False
        job["status"] = "cancelled"
        return True

    async with asyncframe.client(app) as client:

        async def late() -> bool:
            for _ in range(4):
                await ask_database()
            return bool((await client.post("/cancel")).json())

        _, cancelled = await asyncio.gather(client.post("/start"), late())
        await asyncframe.settled()
    assert job["status"] == ("cancelled" if cancelled else "done")


current: dict[str, str] = {}
own: ContextVar[str] = ContextVar("own")


@cures
@pytest.mark.interleave
async def test_user_of_another_request(asyncframe: Probe, cured: bool) -> None:
    """The user of a request is kept in a variable of the module over an await."""
    app = FastAPI(lifespan=setup_async_framework)

    async def know(user: str) -> None:
        current["user"] = user
        own.set(user)

    @app.get("/me", dependencies=[Depends(know)])
    async def me() -> str:
        await ask_database()
        return own.get() if cured else current["user"]

    async with asyncframe.client(app) as client:

        async def ask(user: str, steps: int) -> str:
            for _ in range(steps):
                await ask_database()
            return str((await client.get("/me", params={"user": user})).json())

        answers = await asyncio.gather(ask("ann", 0), ask("bob", 60))
    assert list(answers) == ["ann", "bob"]


@cures
@pytest.mark.interleave
async def test_finished_twice(asyncframe: Probe, cured: bool) -> None:
    """The last of two parts finishes the whole, and both take themselves for the last."""
    state, finished, lock = {"done": 0}, list[str](), asyncio.Lock()

    async def part(steps: int) -> None:
        for _ in range(steps):
            await ask_database()
        async with alone(lock, cured):
            state["done"] += 1
            await ask_database()
            if state["done"] == 2 and not (cured and finished):
                finished.append("sent")

    await asyncio.gather(part(0), part(4))
    assert finished == ["sent"]


@cures
@pytest.mark.interleave
async def test_two_pages(asyncframe: Probe, cured: bool) -> None:
    """A message comes to the front between two pages, and one is shown twice."""
    app, messages = FastAPI(lifespan=setup_async_framework), [3, 2, 1]

    @app.get("/messages")
    async def page(start: int = 0, before: int = 99) -> list[int]:
        await ask_database()
        return [m for m in messages if m < before][start : start + 2]

    @app.post("/messages")
    async def write() -> None:
        messages.insert(0, 4)

    async with asyncframe.client(app) as client:

        async def read() -> list[int]:
            first = (await client.get("/messages")).json()
            params = {"before": first[-1]} if cured else {"start": 2}
            return [*first, *(await client.get("/messages", params=params)).json()]

        shown, _ = await asyncio.gather(read(), client.post("/messages"))
    assert len(set(shown)) == len(shown)


@cures
@pytest.mark.interleave
async def test_asked_again_too_early(asyncframe: Probe, cured: bool) -> None:
    """A client gives up after a while and asks again, though the first call still pays.

    It is not found, since a correct test that counts how often something harmless was asked for
    fails in just the same way when the timeout comes early.
    """
    charges = dict[str, int]()

    async def charge(key: str) -> None:
        await asyncio.sleep(1)
        if not cured or key not in charges:
            charges[key] = charges.get(key, 0) + 1

    async def pay() -> None:
        for _ in range(2):
            call = asyncio.create_task(charge("order"))
            with suppress(TimeoutError):
                async with asyncio.timeout(30):
                    await asyncio.shield(call)
                return

    await asyncio.gather(pay())
    await asyncio.sleep(5)
    assert charges == {"order": 1}


@cures
@pytest.mark.interleave
async def test_given_back_by_the_wrong_one(asyncframe: Probe, cured: bool) -> None:
    """Who did not get a lock in time gives it back all the same."""
    lock, inside, most = asyncio.Lock(), [0], [0]

    async def use(patience: float) -> None:
        got = False
        try:
            async with asyncio.timeout(patience):
                await lock.acquire()
                got = True
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            await asyncio.sleep(2)
            inside[0] -= 1
        except TimeoutError:
            pass
        finally:
            if got or (not cured and lock.locked()):
                lock.release()

    async def later(call: Callable[[float], Any], delay: float) -> None:
        await asyncio.sleep(delay)
        await call(10)

    await asyncio.gather(use(10), use(5), later(use, 1))
    assert most[0] == 1


@cures
@pytest.mark.interleave
async def test_read_after_the_group(asyncframe: Probe, cured: bool) -> None:
    """Who has waited for a group takes it that a task outside of it has ended, too."""
    rows, shown = list[str](), list[str]()

    async def log(row: str) -> None:
        rows.append(row)

    async def order() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ask_database())
            noted = (group if cured else asyncio).create_task(log("ordered"))
        shown.extend(rows)
        await noted

    await order()
    assert shown == ["ordered"]


@cures
@pytest.mark.interleave
async def test_opened_by_the_first(asyncframe: Probe, cured: bool) -> None:
    """The second user of a connection takes it for open while the first one still opens it."""
    users, is_open, lock = [0], [False], asyncio.Lock()

    @asynccontextmanager
    async def connection() -> AsyncIterator[None]:
        async with alone(lock, cured):
            users[0] += 1
            if users[0] == 1:
                await ask_database()
                is_open[0] = True
        try:
            yield
        finally:
            async with alone(lock, cured):
                users[0] -= 1
                if users[0] == 0:
                    await ask_database()
                    is_open[0] = False

    async def use() -> None:
        async with connection():
            await ask_database()
            assert is_open[0]

    await asyncio.gather(use(), use())


@cures
@pytest.mark.interleave
async def test_saved_before_the_last_edit(asyncframe: Probe, cured: bool) -> None:
    """An edit comes while what was there before is being saved, and is never saved."""
    document, saved, saving = [""], list[str](), list[asyncio.Task[None]]()

    async def save() -> None:
        await asyncio.sleep(1)
        text = document[0]
        if cured:
            saving.clear()
        await ask_database()
        saved.append(text)

    async def edit(text: str, delay: float) -> None:
        await asyncio.sleep(delay)
        document[0] = text
        if not saving or saving[0].done():
            saving[:] = [asyncio.create_task(save())]

    await asyncio.gather(edit("a", 0), edit("ab", 1))
    await asyncio.sleep(5)
    assert saved[-1] == "ab"
