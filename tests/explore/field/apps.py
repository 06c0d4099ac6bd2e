"""Races that others have brought: caches, pools, orders and streams; each is beside its cure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from sqlalchemy import create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from framework import background_task, setup_async_framework
from pytest_asyncframe.probe import Probe

cures = pytest.mark.parametrize("cured", [False, True], ids=["racy", "cured"])


async def ask_database() -> None:
    """Let the others go on."""
    await asyncio.sleep(0)


@cures
@pytest.mark.interleave
async def test_cache_of_a_coroutine(asyncframe: Probe, cured: bool) -> None:
    """Two requests miss a cache at once and compute twice; the second comes at the same moment."""
    app, cache, calls = FastAPI(lifespan=setup_async_framework), dict[str, Any](), list[str]()

    async def compute() -> str:
        calls.append("")
        await asyncio.sleep(1)
        return "value"

    @app.get("/")
    async def get() -> str:
        if cured:
            if "key" not in cache:
                cache["key"] = asyncio.ensure_future(compute())
            return str(await cache["key"])
        if "key" not in cache:
            cache["key"] = await compute()
        return str(cache["key"])

    async with asyncframe.client(app) as client:

        async def late() -> None:
            await asyncio.sleep(1)
            await client.get("/")

        await asyncio.gather(client.get("/"), late())
    assert len(calls) == 1


class Base(DeclarativeBase):
    """What the tables have in common."""


class Stock(Base):
    """How many are left."""

    __tablename__ = "stock"

    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int]


@cures
@pytest.mark.interleave
async def test_row_read_and_written(asyncframe: Probe, cured: bool, tmp_path: Path) -> None:
    """Two ``def`` routes read a row with SQLAlchemy, and write it one less."""
    engine = create_engine(f"sqlite:///{tmp_path / 'stock.db'}")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Stock(id=1, n=10))
        session.commit()
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/buy")
    def buy() -> None:
        with Session(engine) as session:
            if cured:
                session.execute(text("UPDATE stock SET n = n - 1 WHERE id = 1"))
            else:
                row = session.get_one(Stock, 1)
                row.n -= 1
            session.commit()

    async with asyncframe.client(app) as client:
        await asyncio.gather(client.post("/buy"), client.post("/buy"))
    with Session(engine) as session:
        assert session.get_one(Stock, 1).n == 8
    engine.dispose()


@cures
@pytest.mark.interleave
async def test_locks_in_two_orders(asyncframe: Probe, cured: bool) -> None:
    """Two routes take the same two locks of asyncio, each the other's first."""
    app, a, b = FastAPI(lifespan=setup_async_framework), asyncio.Lock(), asyncio.Lock()

    @app.post("/there")
    async def there() -> None:
        async with a:
            await ask_database()
            async with b:
                pass

    @app.post("/back")
    async def back() -> None:
        one, two = (a, b) if cured else (b, a)
        async with one:
            await ask_database()
            async with two:
                pass

    async with asyncframe.client(app) as client:

        async def late() -> None:
            for _ in range(5):
                await ask_database()
            await client.post("/back")

        await asyncio.gather(client.post("/there"), late())


@cures
@pytest.mark.interleave
async def test_reservation_of_a_sibling(asyncframe: Probe, cured: bool) -> None:
    """One of two steps of an order fails while the other has reserved and not yet noted it."""
    reserved, noted = list[str](), list[str]()

    async def reserve() -> None:
        reserved.append("seat")
        if not cured:
            await ask_database()
        noted.append("seat")
        try:
            await ask_database()
        except asyncio.CancelledError:
            noted.remove("seat")
            reserved.remove("seat")
            raise

    async def pay(steps: int) -> None:
        for _ in range(steps):
            await ask_database()
        raise ValueError("no money")

    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(reserve())
            group.create_task(pay(4))
    assert reserved == noted


@cures
@pytest.mark.interleave
async def test_opened_twice(asyncframe: Probe, cured: bool) -> None:
    """A connection that is opened when it is first needed is opened twice."""
    app, opened, lock = FastAPI(lifespan=setup_async_framework), list[object](), asyncio.Lock()
    state: dict[str, object] = {}

    async def connect() -> object:
        await ask_database()
        opened.append(object())
        return opened[-1]

    async def connection() -> object:
        if cured:
            async with lock:
                if "it" not in state:
                    state["it"] = await connect()
        elif "it" not in state:
            state["it"] = await connect()
        return state["it"]

    @app.get("/")
    async def get(connection: object = Depends(connection)) -> int:
        return id(connection)

    async with asyncframe.client(app) as client:

        async def late() -> None:
            for _ in range(60):
                await ask_database()
            await client.get("/")

        await asyncio.gather(client.get("/"), late())
    assert len(opened) == 1


@cures
@pytest.mark.interleave
async def test_lru_cache(asyncframe: Probe, cured: bool) -> None:
    """`functools.lru_cache` computes twice for two ``def`` routes."""
    app, calls, lock = FastAPI(lifespan=setup_async_framework), list[str](), threading.Lock()

    @lru_cache
    def settings() -> int:
        calls.append("read")
        return len(calls)

    @app.get("/")
    def get() -> int:
        if cured:
            with lock:
                return settings()
        return settings()

    async with asyncframe.client(app) as client:
        await asyncio.gather(client.get("/"), client.get("/"))
    assert len(calls) == 1


class Document:
    """What a weak dictionary keeps only as long as somebody has it."""


@cures
@pytest.mark.interleave
def test_weak_dictionary(asyncframe: Probe, cured: bool) -> None:
    """What is in a weak dictionary is gone on the next line."""
    documents: WeakValueDictionary[str, Document] = WeakValueDictionary()
    kept = {"a": Document()}
    documents["a"] = kept["a"]

    @background_task
    def read() -> bool:
        if cured:
            return documents.get("a") is not None
        if "a" in documents:
            documents["a"]
            return True
        return False

    @background_task
    def drop() -> None:
        kept.clear()

    reading, dropping = read(), drop()
    assert asyncframe.run_until_complete(reading).result in (True, False)
    assert asyncframe.run_until_complete(dropping).result is None


@cures
@pytest.mark.interleave
def test_condition_looked_at_once(asyncframe: Probe, cured: bool) -> None:
    """Who is woken takes it that there is an item, though another one was quicker."""
    items, changed = list[int](), threading.Condition()

    @background_task
    def consume() -> int:
        with changed:
            if cured:
                while not items:
                    changed.wait()
            elif not items:
                changed.wait()
            return items.pop()

    @background_task
    def produce() -> None:
        for item in (1, 2):
            with changed:
                items.append(item)
                changed.notify_all()

    tasks = [consume(), consume(), produce()]
    taken = [asyncframe.run_until_complete(task).result for task in tasks]
    assert sorted(taken[:2]) == [1, 2]


@cures
@pytest.mark.interleave
async def test_place_given_back_twice(asyncframe: Probe, cured: bool) -> None:
    """A place of a semaphore is given back once more when its holder is cancelled late."""
    app, inside, most = FastAPI(lifespan=setup_async_framework), [0], [0]
    places = asyncio.Semaphore(1)

    @app.get("/{late}")
    async def get(late: bool) -> None:
        await places.acquire()
        try:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            await ask_database()
            inside[0] -= 1
            if late and not cured:
                places.release()
        finally:
            places.release()

    async with asyncframe.client(app) as client:
        await asyncio.gather(*(client.get(f"/{late}") for late in ("true", "false", "false")))
    assert most[0] == 1


@cures
@pytest.mark.interleave
async def test_peer_leaves_a_broadcast(asyncframe: Probe, cured: bool) -> None:
    """A set of connections changes while a message is sent to each of them."""
    connections = {"ann", "bob"}

    async def broadcast() -> None:
        for _ in list(connections) if cured else connections:
            await ask_database()

    async def leave(steps: int) -> None:
        for _ in range(steps):
            await ask_database()
        connections.discard("bob")

    await asyncio.gather(broadcast(), leave(10))
    assert connections == {"ann"}


@cures
@pytest.mark.interleave
async def test_token_refreshed_twice(asyncframe: Probe, cured: bool) -> None:
    """Two requests find that a token has expired; the second comes much later."""
    auth, app = FastAPI(), FastAPI(lifespan=setup_async_framework)
    token, refreshed, lock = dict[str, str](), list[str](), asyncio.Lock()

    @auth.post("/token")
    async def make() -> str:
        await ask_database()
        refreshed.append("token")
        return f"token-{len(refreshed)}"

    async def refresh() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(auth), base_url="http://a") as c:
            token["it"] = (await c.post("/token")).json()

    @app.get("/")
    async def get() -> str:
        if cured:
            async with lock:
                if "it" not in token:
                    await refresh()
        elif "it" not in token:
            await refresh()
        return token["it"]

    async with asyncframe.client(app) as client:

        async def late() -> None:
            for _ in range(400):
                await ask_database()
            await client.get("/")

        await asyncio.gather(client.get("/"), late())
    assert len(refreshed) == 1


@cures
@pytest.mark.interleave
async def test_receipt_before_the_commit(asyncframe: Probe, cured: bool) -> None:
    """A task reads a row that its request's dependency commits only after the answer."""
    app, committed, found = FastAPI(lifespan=setup_async_framework), list[str](), list[bool]()

    def transaction() -> Iterator[list[str]]:
        rows = list[str]()
        yield rows
        committed.extend(rows)

    @background_task
    async def receipt() -> None:
        await ask_database()
        found.append("order" in committed)

    @app.post("/orders")
    async def order(rows: list[str] = Depends(transaction)) -> None:
        rows.append("order")
        if cured:
            committed.extend(rows)
            rows.clear()
        receipt()

    async with asyncframe.client(app) as client:
        await client.post("/orders")
        await asyncframe.settled()
    assert found == [True]


@cures
@pytest.mark.interleave
async def test_key_kept_after_the_charge(asyncframe: Probe, cured: bool) -> None:
    """A payment is charged twice, as its key is kept only once it was charged."""
    app, keys, charges = FastAPI(lifespan=setup_async_framework), set[str](), list[str]()

    async def charge(key: str) -> None:
        await ask_database()
        charges.append(key)

    @app.post("/pay/{key}")
    async def pay(key: str) -> None:
        if key in keys:
            raise HTTPException(409)
        if cured:
            keys.add(key)
        await charge(key)
        keys.add(key)

    async with asyncframe.client(app) as client:

        async def again() -> None:
            for _ in range(60):
                await ask_database()
            await client.post("/pay/a")

        await asyncio.gather(client.post("/pay/a"), again())
    assert charges == ["a"]


@cures
@pytest.mark.interleave
def test_one_temporary_file(asyncframe: Probe, cured: bool, tmp_path: Path) -> None:
    """Two tasks write one temporary file, and rename it."""

    @background_task
    def save(text: str) -> None:
        temporary = tmp_path / (f"report.{text}.tmp" if cured else "report.tmp")
        temporary.write_text(text)
        temporary.replace(tmp_path / "report")

    for task in [save("a"), save("b")]:
        asyncframe.run_until_complete(task)
    assert (tmp_path / "report").read_text() in ("a", "b")


@cures
@pytest.mark.interleave
async def test_state_before_the_subscription(asyncframe: Probe, cured: bool) -> None:
    """A stream sends the state, then subscribes: what is published in between is lost."""
    app, state, subscribers = FastAPI(lifespan=setup_async_framework), {"n": 0}, list[list[int]]()

    @app.get("/events")
    async def events() -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            changes = list[int]()
            if cured:
                subscribers.append(changes)
            first = state["n"]
            yield str(first)
            if not cured:
                subscribers.append(changes)
            yield "".join(map(str, changes))
            if state["n"] != first and not changes:
                yield "missed"

        return StreamingResponse(stream())

    @app.post("/publish")
    async def publish() -> None:
        state["n"] = 1
        for changes in subscribers:
            changes.append(1)

    async with asyncframe.client(app) as client:
        answer, _ = await asyncio.gather(client.get("/events"), client.post("/publish"))
    assert answer.text in ("0", "01", "1")


@cures
@pytest.mark.interleave
def test_settings_cleared_and_filled(asyncframe: Probe, cured: bool) -> None:
    """Settings are read between the line that clears them and the line that fills them."""
    settings, shared = {"mode": "a"}, {"settings": {"mode": "a"}}

    @background_task
    def reload() -> None:
        if cured:
            shared["settings"] = {"mode": "b"}
        else:
            settings.clear()
            settings.update({"mode": "b"})

    @background_task
    def read() -> str:
        return (shared["settings"] if cured else settings)["mode"]

    reloading, reading = reload(), read()
    asyncframe.run_until_complete(reloading)
    assert asyncframe.run_until_complete(reading).result in ("a", "b")


class Pool:
    """A pool of one connection; whoever waits for it may lose patience."""

    def __init__(self, cured: bool) -> None:
        self.free = ["connection"]
        self.waiters = list[asyncio.Future[str]]()
        self.cured = cured

    async def acquire(self) -> str:
        """Return the connection, once it is free."""
        if self.free:
            return self.free.pop()
        waiter: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter in self.waiters:
                self.waiters.remove(waiter)
            elif self.cured and waiter.done() and not waiter.cancelled():
                self.release(waiter.result())
            raise

    def release(self, connection: str) -> None:
        """Hand the connection to whoever waits, or keep it."""
        while self.waiters:
            waiter = self.waiters.pop(0)
            if not waiter.done():
                waiter.set_result(connection)
                return
        self.free.append(connection)


@cures
@pytest.mark.parametrize("patience", [1, 30])
@pytest.mark.interleave
async def test_connection_lost(asyncframe: Probe, cured: bool, patience: float) -> None:
    """A connection is handed to a waiter at the moment at which that one gives up."""
    pool, app = Pool(cured), FastAPI(lifespan=setup_async_framework)

    @app.get("/")
    async def get() -> str:
        try:
            async with asyncio.timeout(patience):
                connection = await pool.acquire()
        except TimeoutError:
            return "busy"
        try:
            await asyncio.sleep(1)
        finally:
            pool.release(connection)
        return "done"

    async with asyncframe.client(app) as client:
        await asyncio.gather(client.get("/"), client.get("/"))
    assert pool.free == ["connection"]


@cures
@pytest.mark.parametrize("steps", [2, 10, 20])
@pytest.mark.interleave
async def test_last_ticket(asyncframe: Probe, cured: bool, steps: int) -> None:
    """Two people buy the last ticket; the second has to wait some time before it looks."""
    app, left, lock = FastAPI(lifespan=setup_async_framework), {"n": 1}, asyncio.Lock()
    sold = list[str]()

    @app.post("/buy/{who}/{steps}")
    async def buy(who: str, steps: int) -> None:
        for _ in range(steps):
            await ask_database()
        if cured:
            await lock.acquire()
        if left["n"]:
            await ask_database()
            left["n"] -= 1
            sold.append(who)
        if cured:
            lock.release()

    async with asyncframe.client(app) as client:
        await asyncio.gather(client.post("/buy/ann/0"), client.post(f"/buy/bob/{steps}"))
    assert len(sold) == 1


@cures
@pytest.mark.interleave
async def test_two_connections_to_a_socket(asyncframe: Probe, cured: bool) -> None:
    """A WebSocket route looks for its room before it waits, and makes it afterwards."""
    rooms = dict[str, list[str]]()

    async def join(user: str, steps: int) -> None:
        for _ in range(steps):
            await ask_database()
        room = rooms.setdefault("a", []) if cured else rooms.get("a")
        await ask_database()
        if room is None:
            room = rooms["a"] = []
        room.append(user)

    await asyncio.gather(join("ann", 0), join("bob", 4))
    assert sorted(rooms["a"]) == ["ann", "bob"]


@cures
@pytest.mark.interleave
async def test_future_of_a_thread(asyncframe: Probe, cured: bool) -> None:
    """A thread answers a future whose waiter has given up at the same moment."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def give() -> None:
        if not cured or not answer.done():
            answer.set_result("value")

    def work() -> None:
        loop.call_soon_threadsafe(give)

    errors = list[str]()
    loop.set_exception_handler(lambda _, context: errors.append(context["message"]))
    with ThreadPoolExecutor(1) as pool:
        job = loop.run_in_executor(pool, work)
        await ask_database()
        answer.cancel()
        await job
        await ask_database()
    assert errors == []
