"""Several apps on one broker: each has its own queue, and runs no task of another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest

from framework import get_task_manager, setup_async_framework
from framework.engines.celery import CeleryEngine
from framework.engines.celery._messages import Message
from framework.engines.celery._publishing.sender import queue_of, route
from framework.engines.celery._tasks import TASK_NAME
from tests.patience import PATIENCE
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.app import make
from tests.processes.celery.workers import CeleryWorker, client_of


@pytest.fixture
def key() -> str:
    """A list of the test's own."""
    return uuid4().hex


@pytest.fixture
async def lists(redis_url: str) -> AsyncIterator[Any]:
    """The Redis in whose lists tasks tell what they do."""
    async with client_of(redis_url) as client:
        yield client


@pytest.fixture
def workers(redis_url: str) -> Iterator[Any]:
    """Start a worker of a namespace at each call; all end with the test."""
    started: list[CeleryWorker] = []

    def start(namespace: str, *options: str, **environment: str) -> CeleryWorker:
        worker = CeleryWorker(
            "tests.processes.celery.app:celery_app", redis_url, "--concurrency", "1",
            "-n", f"{namespace}@%h", *options,
            environment={"ASYNCFRAME_TEST_NAMESPACE": namespace, **environment},
        )  # fmt: skip
        started.append(worker)
        return worker.start()

    yield start
    for worker in started:
        worker.close()


# -- where messages go


def leads_to(engine: CeleryEngine) -> str:
    """Return the queue that a message goes to."""
    args = ({"fn": "f"},)
    return queue_of(
        route(engine.app, engine.task, engine._queue, engine.own_queue(), "app.send", args)
    )


def test_queue() -> None:
    """Messages go to the queue that the user names, and else to one of the namespace."""
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, {}, "asyncframe.processes"),
        ({}, {"namespace": "shop"}, "asyncframe.shop"),
        ({}, {"queue": "mine"}, "mine"),
        ({"task_default_queue": "jobs"}, {}, "jobs"),
        ({"task_default_queue": "jobs"}, {"queue": "mine"}, "mine"),
        ({"task_routes": {TASK_NAME: "routed"}}, {}, "routed"),
        ({"task_routes": {"asyncframe.*": {"queue": "routed"}}}, {"namespace": "s"}, "routed"),
        ({"task_routes": {"other.task": "routed"}}, {}, "asyncframe.processes"),
        ({"task_routes": {"other.task": "r"}, "task_default_queue": "jobs"}, {}, "jobs"),
        ({"task_routes": [lambda _, args, *__, **___: args[0]["fn"]]}, {}, "f"),
        ({"task_routes": {"app.*": "mail"}}, {}, "mail"),
        ({"task_routes": {"app.*": "mail", TASK_NAME: "routed"}}, {}, "mail"),
        ({"task_routes": {"app.*": "mail"}}, {"queue": "mine"}, "mine"),
        ({"task_create_missing_queues": False}, {}, "asyncframe.processes"),
    ]
    found = []
    for settings, options, _ in cases:
        engine = make("redis://127.0.0.1:1/0", **options)
        engine.app.conf.update(settings)
        found.append((settings, options, leads_to(engine)))
    assert found == cases


def test_one_namespace_for_each_celery_app() -> None:
    """A second engine with another namespace is refused: the first one would run its tasks."""
    engine = make("redis://127.0.0.1:1/0", namespace="first")
    with pytest.raises(
        ValueError,
        match=r"^namespace must be 'first', which another CeleryEngine uses for this Celery "
        r"app, not 'second': use one Celery app for each namespace$",
    ):
        CeleryEngine(engine.app, namespace="second")


async def test_two_apps_on_one_redis(redis_url: str, lists: Any, workers: Any, key: str) -> None:
    """Two apps that name nothing but themselves do not meet on one Redis."""
    workers("one")
    engine = make(redis_url, namespace="two")
    async with setup_async_framework(None, engine=engine):
        task_id = celery_tasks.mark(key)
        other = make(redis_url, namespace="one")
        await asyncio.to_thread(engine.flush)
        assert await lists.llen("asyncframe.two") == 1
        workers("two")
        await get_task_manager().get_result(task_id, timeout=PATIENCE)
        assert other.state.fetch([task_id]) == {}


# -- when they share a queue all the same


async def test_message_of_another_namespace(
    redis_url: str, lists: Any, workers: Any, key: str
) -> None:
    """A worker gives a message of another app back, and that app's worker runs it, once."""
    queue = ("-Q", "jobs")
    first = workers("one", *queue, ASYNCFRAME_TEST_QUEUE="jobs")
    async with setup_async_framework(None, engine=make(redis_url, namespace="two", queue="jobs")):
        task_id = celery_tasks.mark(key)
        await asyncio.to_thread(
            first.saw,
            f"task {task_id} has the namespace 'two', but this worker has 'one'",
        )
        workers("two", *queue, ASYNCFRAME_TEST_QUEUE="jobs")
        assert await get_task_manager().get_result(task_id, timeout=PATIENCE) == "done"
        task = await get_task_manager().get_task(task_id)
        assert task is not None
        assert (task.attempts, await lists.llen(key)) == (1, 1)


def test_message_of_an_earlier_release() -> None:
    """A message that names no namespace is taken for one of the worker's own."""
    sent = Message("t", "f", "f", "", "[[],{}]", 1.0, 9.0, 9.0).as_json()
    del sent["namespace"]
    assert Message.from_json(sent).namespace == ""
