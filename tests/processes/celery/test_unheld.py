"""Tasks that have no message at RabbitMQ any more, and whose worker has ended."""

from __future__ import annotations

import asyncio
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from framework import get_task_manager, setup_async_framework
from framework.engines.celery import CeleryEngine
from framework.engines.celery._messages import Message
from framework.engines.celery._publishing.recovery import stuck
from framework.engines.celery._publishing.unheld import show_sign, unheld
from framework.engines.celery._redis import state as states
from tests.patience import PATIENCE
from tests.processes.celery.app import make
from tests.processes.celery.workers import CeleryWorker
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import Gate
from tests.processes.servers import RabbitServer, RedisServer

ELSEWHERE = "another-machine|1|1"


@pytest.fixture
def queue() -> str:
    """The name of a queue of the test's own."""
    return uuid4().hex


@pytest.fixture
def engine(rabbit_server: RabbitServer, redis_url: str, queue: str) -> CeleryEngine:
    """An engine on both servers."""
    return make(rabbit_server.url, state_url=redis_url, queue=queue)


def noted(engine: CeleryEngine) -> Message:
    """Note a task as sent, whose message RabbitMQ does not have."""
    message = Message("t", "f", "f", "", "[[],{}]", 1.0, 15.0, 15.0)
    engine.state.publish([message], "app|1|1")
    engine.state.published("app|1|1", ["t"])
    return message


def found(engine: CeleryEngine) -> list[tuple[str, str]]:
    """Return the tasks without a message."""
    return list(unheld(engine.app, engine.state, 0.0))


def test_a_worker_is_alive_while_rabbitmq_has_its_connection(
    engine: CeleryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task whose lease has run out is only missed once its worker's connection is gone."""
    monkeypatch.setattr(states, "LEASE", 0.0)
    worker = f"{ELSEWHERE}.{uuid4().hex}"
    engine.state.start(noted(engine), ELSEWHERE, worker=worker)
    # No worker has shown this sign, so nobody can tell by it.
    assert found(engine) == []
    engine.state.show_sign(worker)
    with engine.app.connection_for_read() as former:
        show_sign(former, worker)
        with engine.app.connection_for_read() as following:
            show_sign(following, worker)
            former.release()
            assert found(engine) == []
    # Each look is an answer of RabbitMQ, which may take a moment to notice that.
    while not found(engine):
        pass
    assert found(engine) == [("t", ELSEWHERE)]
    # The former process of a worker of an earlier release says nothing of the next one.
    engine.state.start(noted(engine), f"{ELSEWHERE}1")
    assert found(engine) == []


def test_a_task_that_waits_is_missed_once_the_queues_are_empty(
    engine: CeleryEngine, queue: str
) -> None:
    """A task that was sent and not started is not missed while a message waits anywhere."""
    noted(engine)
    with closing(engine.sender()) as sender:
        sender.send(Message("other", "f", "f", "", "[[],{}]", 1.0, 15.0, 15.0))
    assert found(engine) == []
    with engine.app.connection_for_read() as connection:
        connection.SimpleQueue(engine.app.amqp.queues[queue]).get(timeout=PATIENCE).ack()
    assert found(engine) == [("t", "")]
    # One that its app has not sent yet is looked after by that.
    engine.state.publish([Message("u", "f", "f", "", "[[],{}]", 1.0, 15.0, 15.0)], "app|1|1")
    assert found(engine) == [("t", "")]
    assert engine.state.recover("t", 0.0, (1.0, 1.0), ELSEWHERE) == ""


async def test_worker_killed_after_the_acknowledgement(
    rabbit_server: RabbitServer, redis_server: RedisServer, queue: str, tmp_path: Path
) -> None:
    """A task whose worker was killed before anybody knew its end runs again on another one."""
    gate = Gate(tmp_path / "gate")
    engine = make(rabbit_server.url, state_url=redis_server.url, queue=queue)
    environment = {
        "ASYNCFRAME_TEST_BROKER": rabbit_server.url,
        "ASYNCFRAME_TEST_QUEUE": queue,
        "ASYNCFRAME_TEST_IMPATIENT": "1",
        "ASYNCFRAME_TEST_EVERY": "0.2",
    }
    first, second = (
        CeleryWorker(
            "tests.processes.celery.app:celery_app",
            redis_server.url,
            *("--concurrency", "1", "-Q", queue, "--hostname", f"{name}@{queue}"),
            environment=environment,
        )
        for name in ("first", "second")
    )
    with closing(gate), closing(first), closing(second):
        first.start()
        async with setup_async_framework(None, engine=engine):
            started = asyncio.Event()
            loop, manager = asyncio.get_running_loop(), get_task_manager()
            manager.subscribe(lambda _: loop.call_soon_threadsafe(started.set), kinds=["started"])
            task_id = await manager.submit(tasks.hold, (gate.path,))
            await asyncio.wait_for(started.wait(), PATIENCE)
            # 1 The task ends while Redis is away. Its message is acknowledged all the same.
            redis_server.stop()
            gate.open("unheard")
            await asyncio.to_thread(first.saw, "is left to the worker's main process")
            await asyncio.to_thread(has_nothing_to_do, engine.app, f"first@{queue}")
            # 2 The machine dies, with the end that nobody knows.
            processes = psutil.Process(first.pid).children(recursive=True)
            first.kill()
            for one in processes:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            redis_server.start()
            assert waiting(engine, queue) == 0
            # 3 Another worker finds that nobody runs it, and that no message will come.
            await asyncio.to_thread(second.start)
            gate.open("heard")
            assert await manager.get_result(task_id, timeout=PATIENCE) == "heard"
            task = await manager.get_task(task_id)
            assert task is not None
            assert task.attempts == 2
            assert await asyncio.to_thread(stuck, engine.app, engine.state) == []


def has_nothing_to_do(app: Any, worker: str) -> None:
    """Block until a worker has acknowledged all that it has taken; each look is its answer."""
    while (app.control.inspect([worker]).active() or {worker: ["?"]})[worker]:
        pass


def waiting(engine: CeleryEngine, queue: str) -> int:
    """Return how many messages wait in a queue."""
    with engine.app.connection_for_read() as connection:
        found = connection.default_channel.queue_declare(queue, passive=True)
        return int(found.message_count)
