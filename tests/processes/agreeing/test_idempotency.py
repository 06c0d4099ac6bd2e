"""Requests that are repeated with the same Idempotency-Key, at several apps like processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI
from sqlalchemy.orm import Session

from framework import background_task, get_task_manager, setup_async_framework
from framework.exceptions import StoreUnavailableError
from framework.http import Accepted, task_router
from framework.stores.sql import SQLStore
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._tables.schema import TASKS
from tests.framework.bodies import Held
from tests.patience import PATIENCE
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.app import make


@background_task
def make_report(title: str) -> str:
    """Make a report."""
    return title


@asynccontextmanager
async def clients(
    parts: Callable[[], dict[str, Any]], submit: Callable[[str], Any], count: int = 2
) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Run apps that share a store or an engine, and give a client of each."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            app = FastAPI()

            @app.post("/reports")
            async def create(title: str) -> Accepted[str]:
                return submit(title)  # type: ignore[no-any-return]  # an id of any kind

            app.include_router(task_router())
            await stack.enter_async_context(setup_async_framework(app, **parts()))
            transport = httpx.ASGITransport(app)
            client = httpx.AsyncClient(transport=transport, base_url="http://test")
            made.append(await stack.enter_async_context(client))
        yield made


async def post(
    client: httpx.AsyncClient, key: str | None, path: str = "/reports"
) -> httpx.Response:
    """Return the response to a request with a key."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return await client.post(path, params={"title": "Q3"}, headers=headers)


class Calls:
    """Counts how often a route was called."""

    def __init__(self, submit: Callable[[str], Any]) -> None:
        self._submit = submit
        self._lock = threading.Lock()
        self.count = 0

    def __call__(self, title: str) -> Any:
        """Count, and submit."""
        with self._lock:
            self.count += 1
        return self._submit(title)


@pytest.mark.extended("time")
async def test_at_the_same_moment(sql_url: str) -> None:
    """Of requests with one key at several processes, one runs the route, and all get its id."""
    calls = Calls(make_report)
    async with clients(lambda: {"store": SQLStore(sql_url)}, calls, 3) as three:
        responses = await asyncio.gather(*(post(one, "k1") for _ in range(10) for one in three))
    assert {one.status_code for one in responses} == {202}
    assert len({one.json()["task_id"] for one in responses}) == 1
    assert calls.count == 1


async def test_one_after_the_other(sql_url: str) -> None:
    """A process knows the key of a task of another one, at once, and after a restart."""
    calls = Calls(make_report)
    async with clients(lambda: {"store": SQLStore(sql_url)}, calls) as (one, two):
        first = await post(one, "k1")
        second = await post(two, "k1")
        other = await post(two, "k2")
    async with clients(lambda: {"store": SQLStore(sql_url)}, calls) as (one, _):
        third = await post(one, "k1")
    ids = [answer.json()["task_id"] for answer in (first, second, third, other)]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert third.json()["status"] == "completed"
    assert calls.count == 2


async def test_at_a_broker(redis_url: str) -> None:
    """With an engine that shares its tasks through Redis, a key means the same everywhere."""
    calls = Calls(celery_tasks.mark)
    async with clients(lambda: {"engine": make(redis_url)}, calls, 3) as three:
        responses = await asyncio.gather(*(post(one, "k1") for _ in range(5) for one in three))
        later = await post(three[1], "k1")
    assert {one.status_code for one in (*responses, later)} == {202}
    assert len({one.json()["task_id"] for one in (*responses, later)}) == 1
    assert calls.count == 1


async def test_accepted_is_safe(sql_url: str) -> None:
    """With a durable store, the record is in the database when the response is made."""
    engine = sa.create_engine(checked_url(sql_url))
    store = SQLStore(sql_url, durable=True)
    accepted = set()
    for key in (None, "k1"):
        held = Held()
        call = background_task(held).options()

        def submit(_: str, call: Any = call) -> Any:
            return call()

        async with clients(lambda: {"store": store}, submit, 1) as (client,):
            response = await post(client, key)
            accepted.add(response.json()["task_id"])
            with engine.connect() as connection:
                found = connection.execute(sa.select(TASKS.c.task_id)).scalars().all()
            held.go_on.set()
        assert set(found) == accepted
    engine.dispose()


async def test_stored_safely_once(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a durable store, a response waits for one commit, however the task was submitted."""
    store, asked = SQLStore(sql_url, durable=True), []
    app, secure = FastAPI(), store.secure

    def counted(record: Any, told: Any) -> None:
        asked.append(record.task_id)
        secure(record, told)

    monkeypatch.setattr(store, "secure", counted)

    @app.post("/call")
    async def call(title: str) -> Accepted[str]:
        return make_report(title)

    @app.post("/thread")
    def thread(title: str) -> Accepted[str]:
        return make_report(title)

    @app.post("/await")
    async def wait(title: str) -> Accepted[str]:
        return await get_task_manager().submit(make_report, (title,))

    app.include_router(task_router())
    transport = httpx.ASGITransport(app)
    accepted = []
    async with (
        setup_async_framework(app, store=store),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        for way in ("call", "thread", "await"):
            for key in (None, f"key of {way}"):
                response = await post(client, key, f"/{way}")
                await get_task_manager().get_result(response.json()["task_id"])
                accepted.append(response.json()["task_id"])
    assert len(accepted) == 6
    assert asked == accepted


async def test_a_task_that_could_not_be_stored(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request whose task could not be stored is refused, and its repetition tries again."""
    store, calls = SQLStore(sql_url, durable=True), Calls(make_report.options(delay=0.01))
    secure = store.secure
    failing = [StoreUnavailableError("it is down")]

    def fail_once(record: Any, told: Any) -> None:
        if failing:
            told(failing.pop())
        else:
            secure(record, told)

    monkeypatch.setattr(store, "secure", fail_once)
    async with clients(lambda: {"store": store}, calls, 1) as (client,):
        refused, accepted, again = [await post(client, "k1") for _ in range(3)]
    assert [one.status_code for one in (refused, accepted, again)] == [503, 202, 202]
    assert accepted.json()["task_id"] == again.json()["task_id"]
    assert calls.count == 2


async def test_a_store_that_does_not_answer(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the store does not say whether a key is used, the request is refused with 503."""
    monkeypatch.setattr("framework._manager.submitting.ids._PATIENCE", 0.0)
    store, calls = SQLStore(sql_url), Calls(make_report)
    async with clients(lambda: {"store": store}, calls, 1) as (client,):
        monkeypatch.setattr(store, "join", lambda *_: None)
        response = await post(client, "k1")
    assert response.status_code == 503
    assert calls.count == 0


class Late:
    """Commits after the response, once the test lets it.

    Args:
        engine: The database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.has_come, self.goes_on = asyncio.Event(), asyncio.Event()
        self.many = 0

    async def __call__(self) -> AsyncIterator[Session]:
        """Yield a session, as a dependency."""
        with Session(self._engine) as session:
            yield session
            self.many += session.in_transaction()
            self.has_come.set()
            await self.goes_on.wait()
            session.commit()


@pytest.mark.extended("servers")
async def test_a_commit_after_the_response(postgres_url: str) -> None:
    """Who repeats a request waits until it has committed, or has not, although it was answered."""
    engine = sa.create_engine(checked_url(postgres_url))
    late, app = Late(engine), FastAPI()
    app.include_router(task_router())

    async def create(title: str, session: Any = Depends(late)) -> Any:
        return make_report.options(session=session)(title)

    app.post("/reports", response_model=Accepted[str])(create)
    async with (
        setup_async_framework(app, store=SQLStore(postgres_url)),
        setup_async_framework(None, store=SQLStore(postgres_url)),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        first = asyncio.ensure_future(post(client, "a"))
        await late.has_come.wait()
        second = asyncio.ensure_future(post(client, "a"))
        # Others are asked until it is sure that nobody has a task with this id.
        assert (await client.get("/tasks/nobody")).status_code == 404
        late.goes_on.set()
        answers = await asyncio.gather(first, second)
    assert [one.status_code for one in answers] == [202, 202]
    assert (late.many, len({one.json()["task_id"] for one in answers})) == (1, 1)
    engine.dispose()


@pytest.mark.extended("time")
async def test_in_a_transaction_of_the_request(sql_url: str) -> None:
    """A key holds the id of a task that its request brings, unless it was rolled back."""
    engine, fails = sa.create_engine(checked_url(sql_url)), [True, False]

    def submit(title: str) -> Any:
        with Session(engine) as session, session.begin():
            task_id = make_report.options(session=session)(title)
            if fails.pop(0):
                raise ValueError("sold out")
        return task_id

    async with clients(lambda: {"store": SQLStore(sql_url)}, submit) as made:
        with pytest.raises(ValueError, match=r"^sold out$"):
            await post(made[0], "a")
        first, again = await post(made[0], "a"), await post(made[1], "a")
        assert (first.status_code, again.status_code, fails) == (202, 202, [])
        task_id = first.json()["task_id"]
        assert again.json()["task_id"] == task_id
        assert await get_task_manager().get_result(task_id, PATIENCE) == "Q3"
    engine.dispose()
