"""Processes of a Celery worker that die: nothing is lost, and nothing runs twice for it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import psutil
import pytest
import redis.asyncio

from framework import (
    TaskInterruptedError,
    TaskManager,
    TaskStatus,
    TaskTimeoutError,
    get_task_manager,
    setup_async_framework,
)
from framework.engines.celery import CeleryEngine
from framework.engines.celery._messages import Message
from tests.patience import PATIENCE
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.app import make
from tests.processes.celery.workers import CeleryWorker
from tests.processes.sharing import RedisDatabase

SHORT = {
    "ASYNCFRAME_TEST_MAX_LIMIT": "2",
    "ASYNCFRAME_TEST_MARGIN": "1",
    "ASYNCFRAME_TEST_HOLD": "0.5",
}
"""Settings of a worker whose messages the broker gives out again after 3 s."""


@pytest.fixture
def key() -> str:
    """A list of the test's own."""
    return uuid4().hex


@pytest.fixture
def url(redis_url: str) -> str:
    """An empty Redis."""
    return redis_url


@pytest.fixture
def engine(url: str) -> CeleryEngine:
    """An engine for workers of the test's own."""
    return make(url, max_limit=2.0, default_limit=2.0)


@pytest.fixture
async def manager(engine: CeleryEngine) -> AsyncIterator[TaskManager]:
    """The manager of a framework with that engine."""
    async with setup_async_framework(None, engine=engine, graceful_shutdown_timeout=1.0):
        yield get_task_manager()


@pytest.fixture
async def lists(url: str) -> AsyncIterator[Any]:
    """The Redis in whose lists tasks tell what they do."""
    async with redis.asyncio.Redis.from_url(
        url, decode_responses=True, socket_timeout=None
    ) as client:
        yield client


@pytest.fixture
def workers(url: str) -> Iterator[Any]:
    """Start a worker at each call; all end with the test."""
    started: list[CeleryWorker] = []

    def start(processes: int = 1, *more: str, **environment: str) -> CeleryWorker:
        name = f"w{len(started)}@{uuid4().hex[:8]}"
        options = ("--concurrency", str(processes), "-n", name, *more)
        worker = CeleryWorker(
            "tests.processes.celery.app:celery_app", url, *options, environment=environment
        )
        started.append(worker)
        return worker.start()

    yield start
    for worker in started:
        worker.close()


@pytest.fixture
async def fragile(fragile_engine: CeleryEngine) -> AsyncIterator[TaskManager]:
    """The manager of a framework whose tasks the worker runs that may be killed."""
    async with setup_async_framework(None, engine=fragile_engine, graceful_shutdown_timeout=1.0):
        yield get_task_manager()


@pytest.fixture
async def fragile_lists(celery_redis: RedisDatabase) -> AsyncIterator[Any]:
    """The Redis in whose lists its tasks tell what they do."""
    async with redis.asyncio.Redis.from_url(
        celery_redis.url, decode_responses=True, socket_timeout=None
    ) as client:
        yield client


async def taken(lists: Any, key: str) -> str:
    """Wait for something in a list and take it."""
    found = await lists.blpop([key], timeout=PATIENCE)
    assert found is not None, f"nothing came into {key}"
    value: str = found[1]
    return value


# -- limits


async def test_blocking_code_is_killed(fragile: TaskManager, fragile_lists: Any, key: str) -> None:
    """Blocking code is TIMEOUT at its limit, and its process is ended."""
    task_id = await fragile.submit(celery_tasks.hold, (key,), timeout=2)
    pid = int(await taken(fragile_lists, f"{key}:started"))
    with pytest.raises(
        TaskTimeoutError, match=r"^task .* ran past its time limit of 2 s$"
    ) as caught:
        await fragile.get_result(task_id, timeout=PATIENCE)
    assert caught.value.limit == 2
    await ended(pid)
    assert await fragile_lists.llen(f"{key}:done") == 0
    task = await fragile.get_task(task_id)
    assert task is not None
    assert (task.status, task.attempts) == (TaskStatus.TIMEOUT, 1)


async def test_code_that_holds_the_interpreter_is_killed(
    fragile: TaskManager, fragile_lists: Any, key: str
) -> None:
    """One endless call without a release of the interpreter is TIMEOUT and killed as well."""
    task_id = await fragile.submit(celery_tasks.seize, (key,), timeout=2)
    pid = int(await taken(fragile_lists, f"{key}:started"))
    with pytest.raises(TaskTimeoutError, match=r"^task .* ran past its time limit of 2 s$"):
        await fragile.get_result(task_id, timeout=PATIENCE)
    await ended(pid)


async def test_coroutine_that_clings_is_killed(
    fragile: TaskManager, fragile_lists: Any, key: str
) -> None:
    """A coroutine that swallows its cancellation is TIMEOUT, and its process is ended."""
    task_id = await fragile.submit(celery_tasks.cling, (key,), timeout=2)
    pid = int(await taken(fragile_lists, f"{key}:started"))
    await taken(fragile_lists, f"{key}:cancelled")
    with pytest.raises(TaskTimeoutError, match=r"^task .* ran past its time limit of 2 s$"):
        await fragile.get_result(task_id, timeout=PATIENCE)
    await ended(pid)


async def ended(pid: int) -> None:
    """Suspend until a process, which is no child of this one, has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, gone.set)
    try:
        await asyncio.wait_for(gone.wait(), PATIENCE)
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


# -- deaths


async def test_killed_child(
    fragile_engine: CeleryEngine, fragile: TaskManager, fragile_lists: Any, key: str
) -> None:
    """A task whose process is killed runs again at once, and ends once."""
    manager, lists = fragile, fragile_lists
    await killed_child(manager, lists, key, rounds=2)


async def killed_child(manager: TaskManager, lists: Any, key: str, rounds: int) -> None:
    """Kill the process of one task so often, and let it end then."""
    task_id = await manager.submit(celery_tasks.hold, (key,), timeout=15)
    for _ in range(rounds):
        os.kill(int(await taken(lists, f"{key}:started")), signal.SIGKILL)
    last = int(await taken(lists, f"{key}:started"))
    await lists.rpush(f"{key}:gate", "go")
    assert await manager.get_result(str(task_id), timeout=PATIENCE) == last
    assert await lists.lrange(f"{key}:done", 0, -1) == [str(last)]
    task = await manager.get_task(task_id)
    assert task is not None
    assert task.attempts == rounds + 1


async def test_terminated_child(
    fragile_engine: CeleryEngine, fragile: TaskManager, fragile_lists: Any, key: str
) -> None:
    """SIGTERM to a process gives its task to another one, and does not fail it."""
    manager, lists = fragile, fragile_lists
    task_id = await manager.submit(celery_tasks.hold, (key,), timeout=15)
    os.kill(int(await taken(lists, f"{key}:started")), signal.SIGTERM)
    second = int(await taken(lists, f"{key}:started"))
    await lists.rpush(f"{key}:gate", "go")
    found: Any = await manager.get_result(task_id, timeout=PATIENCE)
    assert found == second


async def test_deadly_task(manager: TaskManager, lists: Any, workers: Any, key: str) -> None:
    """A task that ends every process that runs it is INTERRUPTED in the end."""
    workers()
    task_id = celery_tasks.dies(key)
    with pytest.raises(
        TaskInterruptedError,
        match=r"^task .* was interrupted before ",
    ):
        await manager.get_result(task_id, timeout=PATIENCE)
    task = await manager.get_task(task_id)
    assert task is not None
    assert task.reason == "the worker that ran it died, 10 times"
    assert await lists.llen(key) == 10


async def test_killed_worker(manager: TaskManager, lists: Any, workers: Any, key: str) -> None:
    """A task whose whole worker is killed runs on another one, within the visibility timeout."""
    first = workers(**SHORT)
    task_id = celery_tasks.hold(key)
    await taken(lists, f"{key}:started")
    # Before the other one starts, which may take longer than the task's limit.
    first.kill()
    workers(**SHORT)
    second = int(await taken(lists, f"{key}:started"))
    await lists.rpush(f"{key}:gate", "go")
    assert await manager.get_result(task_id, timeout=PATIENCE) == second
    assert await lists.llen(f"{key}:done") == 1


async def test_message_lost_with_its_worker(
    manager: TaskManager, engine: CeleryEngine, lists: Any, workers: Any, key: str
) -> None:
    """A message that a dying worker had taken and not noted yet is published again, once."""
    first = workers(ASYNCFRAME_TEST_POLLING="60")
    await first.waits_for_messages(lists)
    # It can take a message, and do nothing with it.
    first.pause()
    task_id = celery_tasks.mark(key)
    await asyncio.to_thread(engine.flush)
    assert (await lists.llen("asyncframe.processes"), await lists.hlen("unacked")) == (0, 0)
    first.kill()
    workers(ASYNCFRAME_TEST_EVERY="0.2")
    assert await manager.get_result(task_id, timeout=PATIENCE) == "done"
    assert await lists.lrange(key, 0, -1) == ["done"]
    task = await manager.get_task(task_id)
    assert task is not None
    assert task.attempts == 1


async def test_long_wait(manager: TaskManager, lists: Any, workers: Any, key: str) -> None:
    """A wait that is longer than the visibility timeout is made in steps, and ends once."""
    workers(**SHORT)
    ids = [celery_tasks.slowly(key) for _ in range(2)]
    for task_id in ids:
        await manager.get_result(task_id, timeout=PATIENCE)
        task = await manager.get_task(task_id)
        assert task is not None
        assert task.attempts == 1
    assert await lists.llen(key) == 2


async def test_warm_stop(manager: TaskManager, lists: Any, workers: Any, key: str) -> None:
    """SIGTERM under load ends a worker in order: each task runs once, here or elsewhere."""
    first = workers(2)
    ids = [celery_tasks.mark(key, str(number)) for number in range(200)]
    await taken(lists, key)
    first.terminate()
    assert first.wait() == 0
    workers(2)
    for task_id in ids:
        await manager.get_result(task_id, timeout=PATIENCE)
    assert await lists.llen(key) == 199
    assert len(set(await lists.lrange(key, 0, -1))) == 199


async def test_second_delivery(
    fragile_engine: CeleryEngine, fragile: TaskManager, fragile_lists: Any, key: str
) -> None:
    """A second message of a running task, and of a finished one, runs nothing."""
    manager, lists = fragile, fragile_lists
    task_id = await manager.submit(celery_tasks.hold, (key,), timeout=15)
    await taken(lists, f"{key}:started")
    message = message_of(fragile_engine, str(task_id), key)
    sender = fragile_engine.sender()
    await asyncio.to_thread(sender.send, message)
    await manager.get_result(celery_tasks.mark(f"{key}:after"), timeout=PATIENCE)
    await lists.rpush(f"{key}:gate", "go")
    await manager.get_result(task_id, timeout=PATIENCE)
    await asyncio.to_thread(sender.send, message)
    await asyncio.to_thread(sender.close)
    await manager.get_result(celery_tasks.mark(f"{key}:after"), timeout=PATIENCE)
    assert await lists.llen(f"{key}:started") == 0
    assert await lists.llen(f"{key}:done") == 1
    task = await manager.get_task(task_id)
    assert task is not None
    assert task.attempts == 1


async def test_second_delivery_to_one_process(
    manager: TaskManager, engine: CeleryEngine, lists: Any, workers: Any, key: str
) -> None:
    """A pool of threads that takes a message twice runs its task once."""
    workers(2, "-P", "threads", ASYNCFRAME_TEST_SOFT="1")
    task_id = await manager.submit(celery_tasks.hold, (key,), timeout=2)
    await taken(lists, f"{key}:started")
    sender = engine.sender()
    await asyncio.to_thread(sender.send, message_of(engine, str(task_id), key))
    await asyncio.to_thread(sender.close)
    # The other thread has looked at the second one before it runs this.
    await manager.get_result(celery_tasks.mark(f"{key}:after"), timeout=PATIENCE)
    await lists.rpush(f"{key}:gate", "go")
    await manager.get_result(task_id, timeout=PATIENCE)
    assert await lists.llen(f"{key}:started") == 0


def message_of(engine: CeleryEngine, task_id: str, key: str) -> Any:
    """Return the first message of a task that holds."""
    facts = engine.state.fetch([task_id])[task_id]
    return Message(
        task_id, facts["fn"], facts["name"], "", f'[["{key}"],{{}}]', float(facts["created"]),
        15.0, 15.0,
    )  # fmt: skip


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_killed_children_again_and_again(
    fragile_engine: CeleryEngine, celery_redis: RedisDatabase
) -> None:
    """Fifty killed processes lose no task, and none ends twice."""
    async with (
        setup_async_framework(None, engine=fragile_engine),
        redis.asyncio.Redis.from_url(
            celery_redis.url, decode_responses=True, socket_timeout=None
        ) as lists,
    ):
        for _ in range(10):
            await killed_child(get_task_manager(), lists, uuid4().hex, rounds=5)


@pytest.mark.soak
@pytest.mark.timeout(120)
async def test_killed_worker_with_real_settings(
    manager: TaskManager, lists: Any, workers: Any, key: str
) -> None:
    """With nothing shortened a task of a killed worker runs again within its limit and 40 s."""
    first = workers(ASYNCFRAME_TEST_MAX_LIMIT="2")
    task_id = celery_tasks.hold(key)
    await taken(lists, f"{key}:started")
    first.kill()
    workers(ASYNCFRAME_TEST_MAX_LIMIT="2")
    assert await lists.blpop([f"{key}:started"], timeout=40)
    await lists.rpush(f"{key}:gate", "go")
    await manager.get_result(task_id, timeout=PATIENCE)
    assert await lists.llen(f"{key}:done") == 1


def test_nothing_is_left(url: str) -> None:
    """A worker that is closed leaves no process behind."""
    with closing(CeleryWorker("tests.processes.celery.app:celery_app", url)) as worker:
        worker.start()
        processes = psutil.Process(worker.pid).children(recursive=True)
        assert len(processes) == 2
    assert not any(process.is_running() for process in processes)
