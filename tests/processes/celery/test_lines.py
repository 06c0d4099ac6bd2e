"""What only Redis has of the contract of places, which is in `contracts`."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from framework import TaskId, TaskManager, TaskStatus, get_task_manager, setup_async_framework
from framework._running.runner import NOT_STARTED
from framework._tasks.places import GRANTED, PlaceAnswer, PlaceRequest
from framework.engines.celery import CeleryEngine
from framework.engines.celery._messages import Message
from framework.engines.celery._redis.reports import Reports
from framework.engines.celery._redis.state import State
from framework.engines.celery._shared import lines as _lines
from framework.engines.celery._shared.lines import RedisLines
from framework.exceptions import StoreUnavailableError
from framework.stores.sql import SQLStore
from tests.patience import PATIENCE
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.app import make
from tests.processes.celery.workers import client_of
from tests.processes.servers import RedisServer

HOLDER = "m|1|7"


class Process:
    """Lines of one process, and what they tell its tasks.

    Args:
        state: Redis.
        name: The process.
    """

    def __init__(self, state: State, name: str) -> None:
        self.state = state
        self.lines = RedisLines(state, self._listen)
        self.lines.holder = name
        self.lines._alive = f"{state.prefix}alive:{name}"
        host: Any = Host()
        self.reports = Reports(state, host, self.lines.placed, self.lines.missed)
        self._told: dict[str, queue.Queue[PlaceAnswer]] = {}

    def _listen(self) -> None:
        self.reports.find_place()
        self.reports.start()

    def join(self, task_id: str, limit: int = 1, key: str = "k", **more: Any) -> PlaceAnswer:
        """Ask for a place and return the answer."""
        told = self._told.setdefault(task_id, queue.Queue())
        self.lines.join(PlaceRequest(key, task_id, limit, **more), told.put)
        return self.told(task_id)

    def told(self, task_id: str) -> PlaceAnswer:
        """Wait for the next answer to a task."""
        return self._told[task_id].get(timeout=PATIENCE)

    def knows_nothing(self, task_id: str) -> bool:
        """Whether there is no further answer to a task."""
        return self._told[task_id].empty()

    def leave(self, task_id: str) -> None:
        """Take a task out of its lines, and return once it is."""
        self.lines.leave(task_id)
        # The calls of a process take effect in their order.
        self.join(f"after {task_id}", key="another")
        self.lines.leave(f"after {task_id}")

    def die(self) -> None:
        """Fall silent for as long as others wait."""
        self.lines._courier.stop()
        self.state.client.delete(self.lines._alive)

    def close(self) -> None:
        """End the threads."""
        self.lines.close(PATIENCE)
        self.reports.close()


class Host:
    """No tasks."""

    def live(self) -> list[Any]:
        """Return no task."""
        return []

    def live_count(self) -> int:
        """Return 0."""
        return 0


@pytest.fixture
def state(redis_url: str) -> Iterator[State]:
    """The states of a namespace."""
    made = State(redis_url, "test", 60.0)
    yield made
    made.client.close()


@pytest.fixture
def process(state: State) -> Iterator[Callable[[str], Process]]:
    """Start a process at each call."""
    started: list[Process] = []

    def start(name: str) -> Process:
        started.append(Process(state, name))
        return started[-1]

    yield start
    for one in started:
        one.close()


def message(task_id: str) -> Message:
    """Return a message of a task."""
    return Message(task_id, "f", "f", "", "[[],{}]", 1.0, 9.0, 9.0)


def test_only_asked(process: Any) -> None:
    """Who does not wait is told who is there, and is in nobody's way."""
    one, two = process("one"), process("two")
    one.join("a")
    assert two.join("b", waits=False) == PlaceAnswer(False, ("a",))
    assert "b" not in two.lines
    one.leave("a")
    assert two.join("c", waits=False) == GRANTED


def test_end_of_a_task(state: State, process: Any) -> None:
    """A published task has its place until it is final, also when its process has died."""
    one, two = process("one"), process("two")
    one.join("a")
    assert state.publish([message("a")], one.lines.holder, one.lines) == {}
    one.die()
    assert two.join("b") == PlaceAnswer(False, ("a",))
    assert state.start(message("a"), HOLDER).kind == "run"
    assert two.knows_nothing("b")
    state.end("a", "failed", holder=HOLDER)
    assert two.told("b") == GRANTED


def test_death_before_publishing(monkeypatch: Any, process: Any) -> None:
    """A task that was not published loses its place soon after its process has died."""
    monkeypatch.setattr(_lines, "BEAT", 0.05)
    one, two = process("one"), process("two")
    one.join("a")
    one.join("b")
    assert two.join("c") == PlaceAnswer(False, ("a", "b"))
    one.die()
    assert two.told("c") == GRANTED


def test_taken_for_dead(state: State, process: Any) -> None:
    """A process that was taken for dead cannot publish a task whose place another one has."""
    one, two = process("one"), process("two")
    one.join("a")
    state.client.delete(one.lines._alive)
    assert two.join("b") == GRANTED
    assert state.publish([message("a")], one.lines.holder, one.lines) == {"a": "unplaced"}
    assert state.fetch(["a"]) == {}
    assert state.publish([message("b")], two.lines.holder, two.lines) == {}


def test_taken_for_dead_while_it_waits(state: State, process: Any, monkeypatch: Any) -> None:
    """A process that was taken for dead asks again for the tasks that wait."""
    monkeypatch.setattr(_lines, "BEAT", 0.05)
    one, two = process("one"), process("two")
    two.join("a")
    one.join("b")
    state.client.delete(one.lines._alive)
    two.lines.leave("a")
    assert one.told("b") == GRANTED


def test_missed_report(state: State, process: Any, monkeypatch: Any) -> None:
    """A place is told of although the report of it was missed."""
    one, two = process("one"), process("two")
    one.join("a")
    two.join("b")
    monkeypatch.setattr(two.reports, "_placed", lambda *_: None)
    one.leave("a")
    two.lines.missed()
    assert two.told("b") == GRANTED


def test_never_more_than_the_limit(process: Any) -> None:
    """Whatever the order of requests and leaves, no more tasks have a place than may."""
    processes = [process(str(number)) for number in range(3)]
    granted: queue.Queue[tuple[RedisLines, str]] = queue.Queue()

    def ask(number: int) -> None:
        lines, task_id = processes[number % 3].lines, str(number)
        lines.join(
            PlaceRequest("k", task_id, 2),
            lambda answer: granted.put((lines, task_id)) if answer.granted else None,
        )

    for number in range(150):
        ask(number)
    for _ in range(150):
        lines, task_id = granted.get(timeout=PATIENCE)
        # The other place, at most.
        assert granted.qsize() <= 1
        lines.leave(task_id)


def test_cancelled_by_another_process(state: State, process: Any) -> None:
    """A task that waits is cancelled by any process: it gets no place, and is not published."""
    one, two, three = process("one"), process("two"), process("three")
    one.join("a")
    two.join("b")
    three.join("c")
    assert state.cancel("b", "it was cancelled") == "it was cancelled"
    assert state.publish([message("b")], two.lines.holder, two.lines) == {"b": "dropped"}
    one.lines.leave("a")
    assert three.told("c") == GRANTED
    assert two.knows_nothing("b")


# -- with a worker


async def test_two_apps(celery_redis: RedisServer, celery_worker: object) -> None:
    """Of the tasks of two apps, no two run at a time if one may, although a worker could."""
    key = uuid4().hex
    async with AsyncExitStack() as stack:
        lists = await stack.enter_async_context(client_of(celery_redis.url))
        managers = []
        for _ in range(2):
            engine = make(celery_redis.url)
            await stack.enter_async_context(setup_async_framework(None, engine=engine))
            managers.append(get_task_manager())
        ids = [
            (manager, await manager.submit(celery_tasks.alone, (key,)))
            for _ in range(6)
            for manager in managers
        ]
        for manager, task_id in ids:
            await manager.get_result(task_id, timeout=PATIENCE)
        assert await lists.lrange(key, 0, -1) == ["begin", "end"] * 12


@pytest.mark.usefixtures("patient_cancel")
async def test_a_task_of_another_app_is_replaced(
    celery_redis: RedisServer, celery_worker: object
) -> None:
    """The old task is cancelled, although the other app submitted it, before the new one starts."""
    key = uuid4().hex
    async with AsyncExitStack() as stack:
        lists = await stack.enter_async_context(client_of(celery_redis.url))
        ids = []
        for _ in range(2):
            engine = make(celery_redis.url)
            await stack.enter_async_context(setup_async_framework(None, engine=engine))
            manager = get_task_manager()
            hold = celery_tasks.hold_on_loop.options(unique=True, on_duplicate="replace")
            ids.append(await manager.submit(hold, (key,)))
            assert await lists.blpop([f"{key}:started"], timeout=PATIENCE)
        assert await lists.llen(f"{key}:cancelled") == 1
        old = await manager.wait(ids[0], timeout=PATIENCE)
        assert old.status is TaskStatus.CANCELLED
        assert await manager.cancel_task(ids[1]) is True


async def test_place_of_a_killed_process(fragile_engine: CeleryEngine) -> None:
    """A task whose process was killed has its place until it has run again."""
    key = uuid4().hex
    url = fragile_engine.app.conf.broker_url
    async with client_of(url) as lists, setup_async_framework(None, engine=fragile_engine):
        manager = get_task_manager()
        ids = [await manager.submit(celery_tasks.dies_alone, (key,)) for _ in range(2)]
        for task_id in ids:
            await manager.get_result(task_id, timeout=PATIENCE)
        assert await lists.lrange(key, 0, -1) == ["begin", "begin", "end"] * 2


async def test_shutdown(celery_redis: RedisServer) -> None:
    """The tasks of an app that has stopped keep their places, published or not."""
    async with client_of(celery_redis.url) as lists, AsyncExitStack() as stack:
        key = uuid4().hex
        engine = make(celery_redis.url, namespace=key, queue=key)
        app = setup_async_framework(None, engine=engine, graceful_shutdown_timeout=0.2)
        await stack.enter_async_context(app)
        manager = get_task_manager()
        ids = [await manager.submit(celery_tasks.alone, (key,)) for _ in range(2)]
        await asyncio.to_thread(engine.flush)
        await stack.aclose()
        # The first one is at the broker; a worker publishes the second one after it.
        for task_id in ids:
            assert await lists.exists(f"asyncframe:{key}:stay:{task_id}")
        assert await lists.hget(f"asyncframe:{key}:task:{ids[1]}", "status") == "pending"
        assert await lists.keys(f"asyncframe:{key}:alive:*") == []


async def test_a_place_that_comes_while_an_app_stops(
    celery_redis: RedisServer, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task whose place becomes free after its app publishes no more is left to the others."""
    namespace, key, ids = uuid4().hex, uuid4().hex, list[TaskId[str]]()

    @asynccontextmanager
    async def app() -> AsyncIterator[CeleryEngine]:
        engine = make(celery_redis.url, namespace=namespace, queue=namespace)
        store = SQLStore(sqlite_url)
        async with setup_async_framework(None, engine=engine, store=store):
            yield engine

    async with app() as engine:
        ids += [await get_task_manager().submit(celery_tasks.alone, (key,)) for _ in range(2)]
        await asyncio.to_thread(engine.flush)
        assert engine.session is not None
        lines = engine.session.lines
        close = lines.close

        # 1 the publisher is closed, 2 the first task ends and the second one has its place.
        def granted(patience: float) -> None:
            [line] = lines._lines[ids[1]]
            lines.placed(ids[1], line)
            close(patience)

        monkeypatch.setattr(lines, "close", granted)
    async with app():
        found = [await get_task_manager().get_task(task_id) for task_id in ids]
        assert [one and one.status for one in found] == [TaskStatus.PENDING] * 2


async def test_a_duplicate_of_a_task_that_is_not_stored_yet(
    celery_redis: RedisServer, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A durable submission returns the id of another app's task only if everybody can find it."""
    key, path = uuid4().hex, sqlite_url.removeprefix("sqlite:///")
    once = celery_tasks.mark.options(unique=True)
    async with AsyncExitStack() as stack:
        writer = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))

        async def submit(manager: TaskManager) -> tuple[str, int]:
            task_id = await manager.submit(once, (key,))
            query = "SELECT count(*) FROM asyncframe_tasks WHERE task_id = ?"
            [[rows]] = writer.execute(query, (task_id,))
            return task_id, rows

        managers, placed, asked = list[TaskManager](), asyncio.Event(), asyncio.Event()
        for event in (placed, asked):
            # In a queue that no worker of the other tests reads: it would run the first one.
            engine = make(celery_redis.url, queue=key, durable=True)
            store = SQLStore(sqlite_url, durable=True)
            await stack.enter_async_context(setup_async_framework(None, engine=engine, store=store))
            managers.append(get_task_manager())
            # So that only the store has the task before it is published.
            monkeypatch.setattr(engine, "keep", lambda *_: False)
            part = store if event is placed else managers[-1]._core.others
            name = "secure" if event is placed else "look_up"
            monkeypatch.setattr(part, name, telling(event, getattr(part, name)))
        writer.execute("BEGIN IMMEDIATE")
        # 1 the first has its place, 2 it waits to be written, 3 the second is given its id.
        one = asyncio.create_task(submit(managers[0]))
        await asyncio.wait_for(placed.wait(), PATIENCE)
        two = asyncio.create_task(submit(managers[1]))
        known = asyncio.create_task(asked.wait())
        await asyncio.wait([two, known], return_when=asyncio.FIRST_COMPLETED)
        writer.execute("ROLLBACK")
        task_id, _ = await one
        assert await two == (task_id, 1)
        known.cancel()
        # Or it is found, and its own submission was refused.
        monkeypatch.setattr(managers[1]._core.others, "look_up", refused)
        text = rf"^task {task_id} of another process, which is used instead, was refused: locked; "
        with pytest.raises(StoreUnavailableError, match=text):
            await managers[1].submit(once, (key,))


def refused(task_id: str) -> Generator[Any, None, Any]:
    """Return the record of a task that could not be stored, in no step."""
    yield from ()
    return SimpleNamespace(status=TaskStatus.FAILED, reason=NOT_STARTED, error="locked")


def telling(event: asyncio.Event, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return *call*, which sets the event of the running loop first."""
    loop = asyncio.get_running_loop()

    def told(*args: Any) -> Any:
        loop.call_soon_threadsafe(event.set)
        return call(*args)

    return told
