"""Tasks that wait for their time or a place when their app ends: all know them, and they run."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from framework import TaskStatus, get_task_manager, setup_async_framework
from framework._tasks.places import PlaceAnswer, PlaceRequest
from framework._threads.clock import SystemClock
from framework.engines.celery import CeleryEngine
from framework.engines.celery._admission import Admitted
from framework.engines.celery._messages import Message
from framework.engines.celery._publishing import publisher
from framework.engines.celery._publishing.publisher import Queued
from framework.engines.celery._publishing.recovery import Recovery
from framework.engines.celery._redis.state import State, Wait
from framework.engines.celery._session import Session
from framework.engines.celery._shared.lines import RedisLines
from framework.exceptions import BrokerUnavailableError
from framework.http import Accepted, task_router
from framework.stores.sql import SQLStore
from tests.children import ROOT
from tests.patience import PATIENCE
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.app import make
from tests.processes.celery.workers import client_of
from tests.processes.contracts.implementations import Redis
from tests.processes.servers import RedisServer
from tests.processes.sharing import RedisDatabase
from tests.programs import program

APP = Path(__file__).parents[1] / "apps" / "keeping.py"
ONE = "m|1|1"
NOT_STORED = r"^the task was not stored within 0\.05 s: .*$"
DUE = Wait(0.0, (), "waits")


def message(task_id: str) -> Message:
    """Return a message of a task."""
    return Message(task_id, "f", "f", "", "[[],{}]", 1.0, 9.0, 9.0)


def place(task_id: str, key: str = "k", *, waits: bool = True) -> PlaceRequest:
    """Ask for the only place of a line."""
    return PlaceRequest(key, task_id, 1, waits)


@pytest.fixture
def state(redis_url: str) -> Iterator[State]:
    """The states of a namespace."""
    made = State(redis_url, "test", 60.0)
    yield made
    made.client.close()


def keep(state: State, task_id: str, wait: Wait = DUE, keeper: str = ONE) -> None:
    """Keep a task in the name of a process that lives."""
    assert state.keep([(message(task_id), wait)], keeper) == []


def die(state: State, keeper: str = ONE) -> None:
    """Fall silent for as long as others wait."""
    state.client.delete(f"{state.prefix}alive:{keeper}")


def left(state: State) -> list[str]:
    """Return the ids of the tasks that somebody is to publish now."""
    return [task_id for task_id, _, _ in state.left(100, 0.0)]


def status(state: State, task_id: str = "t") -> str:
    """Return what Redis says of a task."""
    return state.fetch([task_id]).get(task_id, {}).get("status", "unknown")


# -- what Redis decides


def test_known_at_once(state: State) -> None:
    """A task that waits is known with its reason, and its living keeper publishes it."""
    keep(state, "t", Wait(0.0, (), "delayed until T"))
    facts = state.fetch(["t"])["t"]
    assert (facts["status"], facts["reason"]) == ("pending", "delayed until T")
    assert left(state) == []
    assert state.overdue(-1.0) == []
    assert state.publish([message("t")], ONE) == {}
    assert state.overdue(-1.0) == ["t"]
    state.published(ONE, ["t"])
    die(state)
    assert left(state) == []


def test_dead_keeper(state: State) -> None:
    """A due task whose keeper has died is returned until its message was sent."""
    keep(state, "late", Wait(3_600.0, (), ""))
    keep(state, "due")
    die(state)
    assert left(state) == ["due"]
    assert left(state) == ["due"]
    state.published(ONE, ["due"])
    assert left(state) == []
    assert status(state, "late") == "pending"


def test_both_publish(state: State) -> None:
    """A keeper that was only slow is told that its task was sent, or may send it once more."""
    keep(state, "t")
    die(state)
    assert left(state) == ["t"]
    assert state.publish([message("t")], ONE) == {}
    state.published(ONE, ["t"])
    assert state.publish([message("t")], ONE) == {"t": "sent"}


def test_cancelled_while_it_waits(state: State) -> None:
    """Any process cancels a task that waits, and then nobody publishes it."""
    keep(state, "t")
    assert state.cancel("t", "not wanted") == "not wanted"
    assert status(state) == "cancelled"
    assert state.publish([message("t")], ONE) == {"t": "sent"}
    die(state)
    assert left(state) == []
    assert not state.client.exists(f"{state.prefix}keepers")


@pytest.mark.parametrize("was", ["unknown", "kept", "unsent", "sent"])
def test_ended_by_its_keeper(state: State, was: str) -> None:
    """What ends at its keeper ends so for all, or is cancelled if its message was sent."""
    if was != "unknown":
        keep(state, "t")
    if was in ("unsent", "sent"):
        state.publish([message("t")], ONE)
    if was == "sent":
        state.published(ONE, ["t"])
    state.retire(message("t"), "failed", '["ValueError", "no"]', "it could not be started")
    assert status(state) == ("cancelled" if was == "sent" else "failed")
    assert state.publish([message("t")], ONE) == {"t": "sent"}
    assert state.client.exists(state.messages) == 0


def test_place_of_a_dead_keeper(state: State) -> None:
    """A place stays with a task whose keeper has died, and the next one gets it after that."""
    lines = RedisLines(state, lambda: None)
    for task_id in ("first", "second"):
        keep(state, task_id, Wait(0.0, (place(task_id),), ""))
    die(state)
    assert left(state) == ["first"]
    state.published(ONE, ["first"])
    assert left(state) == []
    state.end("first", "completed")
    assert left(state) == ["second"]
    lines.close(PATIENCE)


def test_duplicate_of_a_dead_keeper(state: State) -> None:
    """A task that may not exist twice, and whose process died before it asked, ends CANCELLED."""
    keep(state, "old", Wait(0.0, (place("old", waits=False),), ""))
    keep(state, "new", Wait(0.0, (place("new", waits=False),), ""))
    die(state)
    assert left(state) == ["old"]
    assert state.fetch(["new"])["new"]["reason"] == "a duplicate of task old"
    assert status(state, "new") == "cancelled"


def test_message_of_a_newer_release(state: State, caplog: pytest.LogCaptureFixture) -> None:
    """A task that this release cannot read keeps no other one waiting, and is told of once."""
    sent: list[str] = []
    sender: Any = SimpleNamespace(send=lambda one: sent.append(one.task_id), close=bool)
    for task_id in ("new", "old"):
        keep(state, task_id)
    state.client.hset(state.messages, "new", '{"later": 1}')
    die(state)
    recovery = Recovery(None, state, lambda: sender)
    recovery.inherit()
    state.client.zadd(f"{state.prefix}kept:{ONE}", {"new": 0.0})
    recovery.inherit()
    assert (sent, status(state, "new")) == (["old"], "pending")
    assert caplog.text.count("task new waits for a worker that can read it: ") == 1


def test_queued_after_it_was_sent(state: State) -> None:
    """A task that was sent before it could be kept stays as it is, and stops no other one."""
    host: Any = SimpleNamespace(clock=SystemClock(), live=list)
    admission: Any = SimpleNamespace(message=lambda one: message(one.task_id))
    sender: Any = SimpleNamespace(close=bool)
    session = Session(state, sender, admission, host, 10, 60.0)
    sent: Any = SimpleNamespace(task_id="sent", engine_note=None)
    waits: Any = SimpleNamespace(task_id="t", engine_note=Admitted("f", "[[],{}]"), reason="")
    assert session.note([Queued(sent, "keep"), Queued(waits, "keep")]) == {}
    assert (status(state, "sent"), status(state)) == ("unknown", "pending")
    session.close(PATIENCE)


class World:
    """Keepers that die, heirs that die between two steps, and workers, in a random order.

    It counts the runs by itself.

    Args:
        url: An empty Redis.
        seed: Of the order.
    """

    def __init__(self, url: str, seed: int) -> None:
        self.redis = Redis(url)
        self.keepers = [self.redis.start(), self.redis.start()]
        self.state = self.keepers[0].state
        self.rng = random.Random(seed)
        self.line: dict[str, str] = {}
        self.keeper: dict[str, str] = {}
        self.ready: list[str] = []
        self.sent: list[str] = []
        self.running: dict[str, str] = {}
        self.runs: Counter[str] = Counter()
        self.cancelled: set[str] = set()

    def submit(self) -> None:
        """Let a keeper accept a task, which then waits in a line, or for the next day, or not."""
        task_id, keeper = f"t{len(self.line)}", self.rng.choice(self.keepers)
        self.keeper[task_id] = keeper.places.holder
        line = self.line[task_id] = self.rng.choice(["", "k", "l", "tomorrow"])
        requests = (place(task_id, line),) if line in ("k", "l") else ()
        wait = Wait(86_400.0 if line == "tomorrow" else 0.0, requests, "waits")
        keep(self.state, task_id, wait, keeper.places.holder)
        for one in requests:
            keeper.places.join(one, partial(self._told, task_id))
            keeper.places.make_calls()
        if not line:
            self.ready.append(task_id)

    def _told(self, task_id: str, answer: PlaceAnswer) -> None:
        if answer.granted:
            self.ready.append(task_id)

    def publish(self) -> None:
        """Let a keeper publish what is ready, or die in between."""
        self.redis.settle()
        ready, self.ready = self.ready, []
        for task_id in ready:
            keeper = self.keeper[task_id]
            told = self.state.publish(
                [message(task_id)], keeper, [task_id] if self.line[task_id] else []
            )
            if not told:
                self._send(task_id, keeper)

    def inherit(self) -> None:
        """Let a worker look for what dead keepers have left, and perhaps die in between."""
        for task_id, keeper, _ in self.state.left(100, 0.0):
            self._send(task_id, keeper)

    def _send(self, task_id: str, keeper: str) -> None:
        steps = self.rng.choice((0, 1, 2, 2, 2, 2))
        if steps >= 1:
            self.sent.append(task_id)
        if steps == 2:
            self.state.published(keeper, [task_id])

    def die(self) -> None:
        """Fall silent; a keeper may go on later, since it was only slow."""
        die(self.state, self.rng.choice(self.keepers).places.holder)

    def work(self) -> None:
        """Deliver a message to a worker."""
        if self.sent:
            task_id = self.sent.pop(self.rng.randrange(len(self.sent)))
            worker = f"w|1|{sum(self.runs.values())}"
            verdict = self.state.start(message(task_id), worker)
            if verdict.kind == "run":
                assert task_id not in self.cancelled
                self.runs[task_id] += 1
                self.running[task_id] = worker
                lines = [self.line[one] for one in self.running if self.line[one] in ("k", "l")]
                assert len(lines) == len(set(lines)), "two of one line run at a time"

    def end(self) -> None:
        """Let a task end that runs."""
        if self.running:
            task_id = self.rng.choice(sorted(self.running))
            assert self.state.end(task_id, "completed", holder=self.running.pop(task_id))

    def cancel(self) -> None:
        """Cancel some task."""
        task_id = f"t{self.rng.randrange(len(self.line) + 1)}"
        if self.state.cancel(task_id, "not wanted") == "not wanted":
            self.cancelled.add(task_id)

    def wind_up(self) -> None:
        """Let all keepers die, and everything else go on until nothing is left to do."""
        for keeper in self.keepers:
            die(self.state, keeper.places.holder)
        for _ in range(3 * len(self.line) + 3):
            self.sent += left(self.state)
            while self.sent:
                self.work()
            while self.running:
                self.end()


@pytest.mark.parametrize("seed", range(20))
def test_any_order(redis_url: str, seed: int) -> None:
    """Whoever dies when: each task runs once, or was cancelled, or waits for the next day."""
    world = World(redis_url, seed)
    with closing(world.redis):
        moves = [world.submit, world.publish, world.inherit, world.die, world.work, world.end]
        for _ in range(80):
            world.rng.choice([*moves, *moves, world.work, world.end, world.cancel])()
        world.wind_up()
        for task_id, line in world.line.items():
            expected = "cancelled" if task_id in world.cancelled else "completed"
            waits = line == "tomorrow" and expected == "completed"
            assert status(world.state, task_id) == ("pending" if waits else expected), task_id
            assert world.runs[task_id] == (expected == "completed" and not waits), task_id


# -- with processes


@pytest.mark.parametrize("stored", [False, True], ids=["no-store", "store"])
@pytest.mark.parametrize("end", ["killed", "stopped"])
async def test_app_that_ends(
    celery_redis: RedisDatabase,
    celery_engine: CeleryEngine,
    sqlite_url: str,
    end: str,
    stored: bool,
) -> None:
    """Tasks that wait when their app is killed, or stops, are known to all, and run once each."""
    key = uuid4().hex
    arguments = [celery_redis.url, key, "4", *([sqlite_url] if stored else [])]
    async with AsyncExitStack() as stack:
        lists = await stack.enter_async_context(client_of(celery_redis.url))
        app = stack.enter_context(child(*arguments))
        store = SQLStore(sqlite_url) if stored else None
        framework = setup_async_framework(None, engine=celery_engine, store=store)
        await stack.enter_async_context(framework)
        manager = get_task_manager()
        ids = told(app)
        assert await lists.blpop([f"{key}:started"], timeout=PATIENCE)
        if end == "killed":
            app.kill()
            app.wait(PATIENCE)
            prefix = celery_engine.state.prefix
            await lists.delete(*await lists.keys(f"{prefix}alive:*"))
        else:
            app.communicate("", timeout=PATIENCE)
        tasks = [await manager.get_task(task_id) for task_id in ids]
        assert [task and task.status for task in tasks] == [
            TaskStatus.RUNNING, TaskStatus.PENDING, TaskStatus.PENDING, TaskStatus.PENDING,
        ]  # fmt: skip
        await lists.rpush(f"{key}:gate", *"123")
        names = [await manager.get_result(task_id, timeout=PATIENCE) for task_id in ids]
        assert names == ["first", "second", "third", "fourth"]
        assert sorted(await lists.lrange(f"{key}:ran", 0, -1)) == sorted(names)


async def test_durable(celery_redis: RedisDatabase, celery_worker: object) -> None:
    """With `durable`, Redis has a task when its submission returns, on a loop and on a thread."""
    engine, key = make(celery_redis.url, durable=True), uuid4().hex
    async with setup_async_framework(None, engine=engine):
        manager = get_task_manager()
        for task_id in (
            await manager.submit(celery_tasks.mark, (key,)),
            await manager.submit(celery_tasks.mark, (key,), delay=60.0),
            await manager.submit(celery_tasks.alone, (key,)),
            await asyncio.to_thread(celery_tasks.mark, key),
        ):
            assert status(engine.state, task_id) != "unknown"


async def test_durable_answer(celery_redis: RedisDatabase, celery_worker: object) -> None:
    """With `durable`, Redis has the tasks that routes accept when they answer 202."""
    engine, key = make(celery_redis.url, durable=True), uuid4().hex
    app = FastAPI()
    app.include_router(task_router())

    @app.post("/")
    async def start() -> Accepted[str]:
        return celery_tasks.mark(key)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(setup_async_framework(app, engine=engine))
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
        await stack.enter_async_context(client)
        for _ in range(50):
            answer = await client.post("/")
            assert answer.status_code == 202
            assert status(engine.state, answer.json()["task_id"]) != "unknown"
        assert engine.fault() == ""


async def test_durable_without_redis(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A durable submission that Redis does not take raises, and its task is never published."""
    monkeypatch.setattr(publisher, "PATIENCE", 0.05)
    engine = make(redis_server.url, durable=True)
    async with setup_async_framework(None, engine=engine):
        manager = get_task_manager()
        known = await manager.submit(celery_tasks.mark, ("k",))
        redis_server.stop()
        with pytest.raises(BrokerUnavailableError, match=NOT_STORED):
            await manager.submit(celery_tasks.mark, ("k",))
        [refused] = (await manager.list_tasks(status=TaskStatus.FAILED)).tasks
        redis_server.start()
        await asyncio.to_thread(engine.flush)
        assert status(engine.state, refused.task_id) in ("unknown", "failed")
        assert status(engine.state, known) == "pending"


def child(*arguments: str) -> Any:
    """Start the app, which ends with this process."""
    return subprocess.Popen(
        [program("setpriv"), "--pdeathsig", "KILL", sys.executable, str(APP), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def told(app: Any) -> list[str]:
    """Return the ids that the app has printed."""
    ids: list[str] = app.stdout.readline().split()
    assert len(ids) == 4
    return ids
