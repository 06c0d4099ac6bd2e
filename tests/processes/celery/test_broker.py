"""A broker that is away: tasks say so, wait for it, and are not lost in silence."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
import redis.asyncio
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from framework import (
    QueueFullError,
    TaskCancelledError,
    TaskInterruptedError,
    TaskStatus,
    get_task_manager,
    setup_async_framework,
)
from framework.engines.celery import CeleryEngine
from framework.engines.celery._messages import Message
from framework.engines.celery._publishing.publisher import Publisher, Queued
from framework.engines.celery._redis.functions import REPORTS_KEPT
from framework.exceptions import BrokerUnavailableError
from framework.http import health_router
from framework.telemetry.prometheus import PrometheusSink
from tests.patience import PATIENCE
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.app import make
from tests.processes.celery.workers import CeleryWorker, client_of
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import Gate
from tests.processes.servers import RedisServer


class Said(logging.Handler):
    """Lets a test wait for words in the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        """Take in a line; any thread."""
        self._loop.call_soon_threadsafe(self.lines.put_nowait, record.getMessage())

    async def words(self, words: str) -> str:
        """Suspend until a line with *words* has come."""
        async with asyncio.timeout(PATIENCE):
            while words not in (line := await self.lines.get()):
                pass
        return line


@pytest.fixture
async def said() -> AsyncIterator[Said]:
    """What the framework logs from now on."""
    handler, logger = Said(), logging.getLogger("asyncframe")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


async def published(url: str) -> dict[str, Any]:
    """Take the next message from the broker and return what it says of its task."""
    async with redis.asyncio.Redis.from_url(
        url, decode_responses=True, socket_timeout=None
    ) as client:
        found = await client.brpop(["asyncframe.processes"], timeout=PATIENCE)
    assert found is not None
    args, _, _ = json.loads(base64.b64decode(json.loads(found[1])["body"]))
    message: dict[str, Any] = args[0]
    return message


async def status(task_id: str) -> tuple[TaskStatus, str]:
    """Return where a task stands, and why."""
    task = await get_task_manager().get_task(task_id)
    assert task is not None
    return task.status, task.reason


async def test_broker_comes_back(redis_server: RedisServer, said: Said) -> None:
    """While the broker is away tasks are PENDING and say so; then they are published."""
    async with setup_async_framework(
        None, engine=make(redis_server.url), graceful_shutdown_timeout=1.0
    ):
        redis_server.stop()
        first = celery_tasks.mark("first")
        line = await said.words("broker unavailable since")
        assert "tasks that wait to be published: 1" in line
        second = celery_tasks.mark("second")
        for task_id in (first, second):
            state, reason = await status(task_id)
            assert state is TaskStatus.PENDING
            assert reason.startswith("broker unavailable since 20")
        redis_server.start()
        await said.words("the broker is back")
        ids = [(await published(redis_server.url))["task_id"] for _ in range(2)]
        assert ids == [first, second]
        assert await status(first) == (TaskStatus.PENDING, "queued for a worker")


async def test_health_while_it_is_away(redis_server: RedisServer, said: Said) -> None:
    """Health checks and metrics say that the broker is away, and when it is back, without tasks."""
    engine, registry = make(redis_server.url), CollectorRegistry()
    app = FastAPI(
        lifespan=setup_async_framework(engine=engine, telemetry=[PrometheusSink(registry)])
    )
    app.include_router(health_router(unready_on=["broker"]))

    async def ready() -> tuple[int, dict[str, str]]:
        answer = await client.get("/health/ready")
        return answer.status_code, answer.json()["problems"]

    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        assert await ready() == (200, {})
        redis_server.stop()
        await said.words("cannot read the reports of workers")
        assert await ready() == (503, {"broker": "the broker cannot be reached"})
        assert registry.get_sample_value("asyncframe_broker_unavailable") == 1.0
        redis_server.start()
        await said.words("the reports of workers can be read again")
        assert await ready() == (200, {})
        assert registry.get_sample_value("asyncframe_broker_unavailable") == 0.0


async def test_broker_stays_away(redis_server: RedisServer) -> None:
    """A task that waited for too long has failed, and says why."""
    engine = make(redis_server.url, publish_timeout=0.3)
    async with setup_async_framework(None, engine=engine, graceful_shutdown_timeout=0.1):
        redis_server.stop()
        task_id = celery_tasks.mark("first")
        with pytest.raises(
            BrokerUnavailableError,
            match=r"^broker unavailable since .+; the task was given up after 0\.3 s "
            r"\(publish_timeout\): see that the broker runs, and submit it again$",
        ):
            await get_task_manager().get_result(task_id, timeout=PATIENCE)
        assert await status(task_id) == (TaskStatus.FAILED, "it could not be published")


async def test_cancel_while_it_is_away(redis_server: RedisServer, said: Said) -> None:
    """A task that was not published is cancelled without the broker, and never published."""
    async with setup_async_framework(
        None, engine=make(redis_server.url), graceful_shutdown_timeout=1.0
    ):
        redis_server.stop()
        gone, kept = celery_tasks.mark("gone"), celery_tasks.mark("kept")
        await said.words("broker unavailable since")
        assert await get_task_manager().cancel_task(gone) is True
        with pytest.raises(TaskCancelledError, match=r"^task .* was cancelled$"):
            await get_task_manager().get_result(gone)
        redis_server.start()
        assert (await published(redis_server.url))["task_id"] == kept


async def test_full_queue(redis_server: RedisServer, said: Said) -> None:
    """As many tasks wait to be published as may; one more is refused."""
    engine = make(redis_server.url, queue_size=2)
    async with setup_async_framework(None, engine=engine, graceful_shutdown_timeout=0.1):
        redis_server.stop()
        celery_tasks.mark("first")
        await said.words("broker unavailable since")
        celery_tasks.mark("second")
        with pytest.raises(
            QueueFullError, match=r"^the task queue is full: 2 tasks are waiting; "
        ) as caught:
            celery_tasks.mark("third")
        assert (caught.value.queue_size, caught.value.status_code) == (2, 503)


async def test_shutdown_while_it_is_away(redis_server: RedisServer, said: Said) -> None:
    """A shutdown does not wait for a broker: what is not published ends CANCELLED."""
    async with setup_async_framework(
        None, engine=make(redis_server.url), graceful_shutdown_timeout=0.2
    ):
        manager = get_task_manager()
        redis_server.stop()
        task_id = celery_tasks.mark("first")
        await said.words("broker unavailable since")
    with pytest.raises(TaskCancelledError, match=r"^task .* was cancelled$"):
        await manager.get_result(task_id)


async def test_start_while_it_is_away(redis_server: RedisServer) -> None:
    """An app starts without its broker, and publishes when that has come."""
    redis_server.stop()
    async with setup_async_framework(
        None, engine=make(redis_server.url), graceful_shutdown_timeout=1.0
    ):
        task_id = celery_tasks.mark("first")
        redis_server.start()
        assert (await published(redis_server.url))["task_id"] == task_id


async def test_published_tasks_outlive_the_app(redis_server: RedisServer) -> None:
    """A shutdown leaves what is published at the broker, for workers."""
    engine = make(redis_server.url)
    async with setup_async_framework(None, engine=engine):
        task_id = celery_tasks.mark("first")
    message = await published(redis_server.url)
    assert (message["task_id"], message["limit"], message["seq"]) == (task_id, 15.0, 0)
    facts = engine.state.fetch([task_id])[task_id]
    assert facts["status"] == "pending"


async def test_lost_data(redis_server: RedisServer) -> None:
    """A task that Redis has lost with all its data is INTERRUPTED, and says so."""
    async with (
        client_of(redis_server.url) as client,
        setup_async_framework(None, engine=make(redis_server.url)),
    ):
        task_id = celery_tasks.mark("first")
        await published(redis_server.url)
        await client.flushall()
        redis_server.kill()
        redis_server.start()
        with pytest.raises(
            TaskInterruptedError,
            match=r"^task .* was interrupted before ",
        ):
            await get_task_manager().get_result(task_id, timeout=PATIENCE)
        _, reason = await status(task_id)
        assert reason == "Redis does not know it any more: its data was lost or evicted"


IMPATIENT = {"ASYNCFRAME_TEST_IMPATIENT": "1"}
LEFT = "is left to the worker's main process"


@pytest.mark.parametrize(
    ("environment", "words"),
    [({}, []), (IMPATIENT, [LEFT]), (IMPATIENT, [LEFT, "Trying again in 6.00 seconds"])],
    ids=["short", "left", "past-the-limit"],
)
async def test_end_while_it_is_away(
    redis_server: RedisServer, tmp_path: Path, environment: dict[str, str], words: list[str]
) -> None:
    """What a task returns while Redis is away is told when that is back, and is its result.

    Its process waits for a while, and then the worker itself does, which no limit ends; nor does
    one that has passed when the worker, which tried to connect for six seconds, looks again.
    """
    gate = Gate(tmp_path / "gate")
    app = "tests.processes.celery.app:celery_app"
    # Celery ends a worker that loses its broker while it waits for messages and runs a task.
    alone = ("--concurrency", "1")
    with closing(CeleryWorker(app, redis_server.url, *alone, environment=environment)) as worker:
        worker.start()
        async with setup_async_framework(None, engine=make(redis_server.url)):
            started = asyncio.Event()
            loop, manager = asyncio.get_running_loop(), get_task_manager()
            manager.subscribe(lambda _: loop.call_soon_threadsafe(started.set), kinds=["started"])
            task_id = await manager.submit(tasks.hold, (gate.path,), timeout=4)
            await asyncio.wait_for(started.wait(), PATIENCE)
            redis_server.stop()
            gate.open("word")
            for one in (f"the end of task {task_id} is not reported yet", *words):
                await asyncio.to_thread(worker.saw, one)
            redis_server.start()
            assert await manager.get_result(task_id, timeout=PATIENCE) == "word"
    gate.close()


async def test_missed_report(redis_url: str) -> None:
    """A report that was missed is made good as soon as a later one shows the gap."""
    engine = make(redis_url)
    async with (
        client_of(redis_url) as client,
        setup_async_framework(None, engine=engine),
    ):
        first, second = celery_tasks.mark("first"), celery_tasks.mark("second")
        for _ in range(2):
            await published(redis_url)
        state = engine.state
        # 1 The first ends, and its report is lost: its number is used, and is not there.
        key = f"{state.prefix}task:{first}"
        facts: Any = {"status": "completed", "result": '"here"', "started": "1.0", "ended": "2.0",
                 "attempts": "1", "reason": "", "error": ""}  # fmt: skip
        await client.hset(key, mapping=facts)
        await client.incr(state.counter)
        # 2 The second is cancelled, which is reported.
        await asyncio.to_thread(state.cancel, str(second), "by hand")
        with pytest.raises(TaskCancelledError, match=r"^task .* was cancelled$"):
            await get_task_manager().get_result(second, timeout=PATIENCE)
        # 3 The number of that report tells that one is missing.
        assert await get_task_manager().get_result(first, timeout=PATIENCE) == "here"


async def test_bounded_reports(redis_url: str) -> None:
    """The stream of reports does not grow for ever."""
    engine = make(redis_url)
    async with client_of(redis_url) as client:
        pipe = client.pipeline(transaction=False)
        for _ in range(REPORTS_KEPT + 2_000):
            pipe.xadd(engine.state.reports, {"k": "poke"})
        await pipe.execute()
        await asyncio.to_thread(engine.state.poke)
        assert await client.xlen(engine.state.reports) <= REPORTS_KEPT + 200


def test_engine_takes_no_thread_of_its_own(redis_server: RedisServer) -> None:
    """Making an engine neither connects nor starts anything."""
    redis_server.stop()
    assert isinstance(make(redis_server.url), CeleryEngine)


async def test_noted_and_never_sent(celery_engine: CeleryEngine) -> None:
    """A message that a process noted in Redis before it died is sent once by a worker."""
    state, task_id = celery_engine.state, uuid4().hex
    name = f"{tasks.__name__}.add"
    left = Message(task_id, name, name, "", "[[40, 2], {}]", 1.0, 15.0, 15.0)
    await asyncio.to_thread(state.publish, [left], "m|1|1")
    await asyncio.to_thread(state.client.delete, f"{state.prefix}alive:m|1|1")
    async with setup_async_framework(None, engine=celery_engine):
        manager = get_task_manager()
        assert await manager.get_result(task_id, timeout=PATIENCE) == 42
        task = await manager.get_task(task_id)
    assert task is not None
    assert task.attempts == 1


class Reasons:
    """A host that keeps why tasks wait, by id; its clock stands still."""

    def __init__(self) -> None:
        self.clock = self
        self.said: dict[str, str] = {}

    def monotonic(self) -> float:
        """Return the second at which it stands."""
        return 0.0

    def waiting(self, task_id: str, reason: str) -> None:
        """Keep a reason."""
        self.said[task_id] = reason


def test_a_task_that_comes_as_the_broker_goes_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is queued while the first failure is reported has the reason as well."""
    host: Any = Reasons()
    nothing: Any = None
    sender: Any = SimpleNamespace(close=bool)
    publisher = Publisher(sender, nothing, nothing, nothing, host, size=10, timeout=60.0)
    # The test stands for the thread.
    monkeypatch.setattr(publisher._courier, "wake", bool)

    class AwayError(Exception):
        def __str__(self) -> str:
            publisher.put(Queued(waiting_task("second")))
            return "no route"

    publisher.put(Queued(waiting_task("first")))
    publisher._broken(AwayError())

    assert host.said.keys() == {"first", "second"}
    assert all(reason.endswith(": no route") for reason in host.said.values())


def test_a_task_that_ends_while_it_is_noted_or_sent() -> None:
    """A task that ends here at that moment is ended in Redis right after it."""
    assert moves_with_an_end("keep") == ["keep", "retire"]
    assert moves_with_an_end("publish") == ["publish", "retire"]
    assert moves_with_an_end("send") == ["publish", "send", "retire"]


def moves_with_an_end(during: str) -> list[str]:
    """Let a publisher take a task that ends during a move; return all that it did."""
    task, moves = waiting_task("t"), list[str]()

    def move(name: str) -> None:
        moves.append(name)
        if name == during:
            task.status = TaskStatus.CANCELLED
            publisher.retire(task, kept=True)

    def note(queued: list[Queued]) -> dict[str, Any]:
        for one in queued:
            move(one.move)
        return {one.task_id: one for one in queued if one.move == "publish"}

    sender: Any = SimpleNamespace(at_once=lambda: 1, send_all=lambda _: move("send"), close=bool)
    host: Any = Reasons()
    nothing: Any = bool
    publisher = Publisher(sender, note, nothing, nothing, host, size=10, timeout=60.0)
    publisher.put(Queued(task, "keep" if during == "keep" else "publish"))
    publisher.flush()
    publisher.close(PATIENCE)
    return moves


def waiting_task(task_id: str) -> Any:
    """Return as much of a task as a publisher looks at."""
    return SimpleNamespace(
        task_id=task_id, status=TaskStatus.PENDING, reason="", queued=0.0, engine_note=None
    )
