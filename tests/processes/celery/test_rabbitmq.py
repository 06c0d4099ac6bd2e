"""RabbitMQ as the broker, beside a Redis for the states."""

from __future__ import annotations

import asyncio
from contextlib import closing
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from amqp.exceptions import ConnectionForced, MessageNacked
from celery.exceptions import Reject

from framework import get_task_manager, setup_async_framework, worker
from framework.doctor import examine
from framework.engines.celery import CeleryEngine
from framework.engines.celery._messages import Message
from framework.engines.celery._publishing import sender
from framework.worker import _deliveries
from tests.patience import PATIENCE
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.app import make
from tests.processes.celery.workers import CeleryWorker, client_of
from tests.processes.servers import RabbitServer


@pytest.fixture
def queue() -> str:
    """The name of a queue of the test's own."""
    return uuid4().hex


@pytest.fixture
def engine(rabbit_server: RabbitServer, redis_url: str, queue: str) -> CeleryEngine:
    """An engine on both servers."""
    return make(rabbit_server.url, state_url=redis_url, queue=queue)


def waiting(engine: CeleryEngine, name: str, many: int) -> set[str]:
    """Take messages from a queue until they are of so many tasks, and return their ids."""
    found: set[str] = set()
    with engine.app.connection_for_read() as connection:
        queue = connection.SimpleQueue(engine.app.amqp.queues[name])
        while len(found) < many:
            found.add(queue.get(timeout=PATIENCE).payload[0][0]["task_id"])
    return found


async def test_killed_broker(
    rabbit_server: RabbitServer,
    engine: CeleryEngine,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A message is sent again if the broker dies before it has stored it."""
    monkeypatch.setattr(sender, "_ANSWER", 1.0)
    async with setup_async_framework(None, engine=engine):
        ids = {str(celery_tasks.mark("first"))}
        await asyncio.to_thread(engine.flush)
        # 1 It takes what is sent to it no further than its machine's memory.
        rabbit_server.pause()
        ids |= {str(celery_tasks.mark("later")) for _ in range(20)}
        # 2 All is sent, or the first one is found to have no answer.
        await asyncio.to_thread(engine.flush)
        # 3 It dies, and comes back with what it had on its disk.
        rabbit_server.kill()
        rabbit_server.start()
        assert await asyncio.to_thread(waiting, engine, queue, 21) == ids
        # What had no answer may have arrived all the same.
        found = await asyncio.to_thread(engine.state.fetch, ids)
        assert any("copies" in facts for facts in found.values())


async def test_worker(
    rabbit_server: RabbitServer, redis_url: str, engine: CeleryEngine, queue: str
) -> None:
    """A worker takes from RabbitMQ, publishes retries there, and one that dies loses nothing."""
    key = uuid4().hex
    environment = {"ASYNCFRAME_TEST_BROKER": rabbit_server.url, "ASYNCFRAME_TEST_QUEUE": queue}
    app = "tests.processes.celery.app:celery_app"
    options = ("--concurrency", "1", "-Q", queue)
    first, second = (
        CeleryWorker(app, redis_url, *options, environment=environment) for _ in range(2)
    )
    with closing(first), closing(second):
        first.start()
        async with (
            client_of(redis_url) as lists,
            setup_async_framework(None, engine=engine),
        ):
            manager = get_task_manager()
            with pytest.raises(ConnectionError, match=r"^attempt 3$"):
                await manager.get_result(celery_tasks.fails(key), timeout=PATIENCE)
            task_id = celery_tasks.hold(key)
            assert await lists.blpop([f"{key}:started"], timeout=PATIENCE)
            first.kill()
            second.start()
            assert await lists.blpop([f"{key}:started"], timeout=PATIENCE)
            await lists.rpush(f"{key}:gate", "go", "go")
            assert await manager.get_result(task_id, timeout=PATIENCE)


@pytest.mark.parametrize("error", [ConnectionForced(), MessageNacked()])
def test_retry_that_is_not_published(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A message whose follower RabbitMQ did not take is given back, and not acknowledged."""
    slept: list[float] = []
    outpost = SimpleNamespace(clock=SimpleNamespace(sleep=slept.append))

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(_deliveries, "_deliver", fail)
    monkeypatch.setattr(_deliveries.PROCESS, "enter", lambda _: outpost)
    monkeypatch.setattr(_deliveries.PROCESS, "watch_signal", lambda: None)
    engine = make("amqp://127.0.0.1:1//", state_url="redis://127.0.0.1:1/0")
    sent = Message("t", "f", "f", "", "[[],{}]", 1.0, 9.0, 9.0)
    with pytest.raises(Reject) as caught:
        worker.deliver(engine, None, sent.as_json())
    assert (caught.value.requeue, slept) == (True, [1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confirm_publish": False}, "it loses tasks that it has just"),
        ({"visibility_timeout": 80}, r"consumer_timeout = 90000 in rabbitmq\.conf"),
    ],
)
async def test_refused_settings(redis_url: str, options: dict[str, Any], message: str) -> None:
    """An app whose settings would lose tasks on RabbitMQ does not start."""
    engine = make("amqp://127.0.0.1:1//", state_url=redis_url)
    engine.app.conf.broker_transport_options = options
    with pytest.raises(ValueError, match=message):
        async with setup_async_framework(None, engine=engine):
            pass


def test_doctor(rabbit_server: RabbitServer, engine: CeleryEngine) -> None:
    """The doctor finds nothing wrong with a RabbitMQ that runs, and says when it does not."""
    assert [one.setting for one in examine(engine).findings] == ["appendonly"]
    rabbit_server.stop()
    found = examine(engine).findings
    assert [one.setting for one in found] == ["appendonly", "broker"]
    assert found[1].problem.startswith("RabbitMQ does not answer: ")


async def test_longest_limit(redis_url: str) -> None:
    """A limit that is longer than RabbitMQ waits by default needs its own consent."""
    engine = make("amqp://127.0.0.1:1//", state_url=redis_url, max_limit=3_600.0)
    with pytest.raises(
        ValueError,
        match=r"^wrong settings of the Celery app: "
        r"broker_transport_options\['visibility_timeout'\] is 1800 s, and tasks may "
        r"run for 3600 s: the broker would deliver a running task to another worker "
        r"too; increase RabbitMQ's timeout \(consumer_timeout = 3630000 in "
        r"rabbitmq\.conf\) and set it here \(to 3630\), or use shorter time limits$",
    ):
        async with setup_async_framework(None, engine=engine):
            pass
    engine.app.conf.broker_transport_options = {"visibility_timeout": 3_630}
    async with setup_async_framework(None, engine=engine):
        assert engine.app.conf.broker_transport_options["confirm_publish"] is True


async def test_priorities(rabbit_server: RabbitServer, redis_url: str, queue: str) -> None:
    """In a queue with a maximum priority, RabbitMQ gives out the higher ones first."""
    engine, key = make(rabbit_server.url, state_url=redis_url, queue=queue), uuid4().hex
    engine.app.conf.task_queue_max_priority = 10
    environment = {"ASYNCFRAME_TEST_BROKER": rabbit_server.url, "ASYNCFRAME_TEST_QUEUE": queue}
    worker = CeleryWorker(
        "tests.processes.celery.app:celery_app", redis_url, "--concurrency", "1", "-Q", queue,
        environment={**environment, "ASYNCFRAME_TEST_MOST": "10"},
    )  # fmt: skip
    async with client_of(redis_url) as lists, setup_async_framework(None, engine=engine):
        manager = get_task_manager()
        ids = [
            await manager.submit(celery_tasks.mark, (key, one), priority=one)
            for one in ("low", "normal", "high")
        ]
        await asyncio.to_thread(engine.flush)
        with closing(worker):
            worker.start()
            for task_id in ids:
                await manager.get_result(task_id, timeout=PATIENCE)
        assert await lists.lrange(key, 0, -1) == ["high", "normal", "low"]


async def test_queue_without_priorities(engine: CeleryEngine) -> None:
    """Without a maximum priority, a task with a priority is refused, with what to set."""
    async with setup_async_framework(None, engine=engine):
        with pytest.raises(ValueError, match=r"^priority must be 'normal' for .*mark: RabbitMQ ha"):
            await get_task_manager().submit(celery_tasks.mark, ("k",), priority="high")
