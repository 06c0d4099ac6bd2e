"""Tasks on a real Celery worker: limits, retries, throttles, cancellation, nesting."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import redis.asyncio

from framework import (
    TaskCancelledError,
    TaskManager,
    TaskStatus,
    TaskTimeoutError,
    get_task_manager,
    setup_async_framework,
)
from framework._records.records import TaskEvent
from framework.engines.celery import CeleryEngine
from tests.patience import PATIENCE
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.app import make
from tests.processes.sharing import RedisDatabase


@pytest.fixture
async def manager(celery_engine: CeleryEngine) -> AsyncIterator[TaskManager]:
    """The manager of a framework whose tasks the worker runs."""
    async with setup_async_framework(None, engine=celery_engine, graceful_shutdown_timeout=1.0):
        yield get_task_manager()


@pytest.fixture
async def lists(celery_redis: RedisDatabase) -> AsyncIterator[Any]:
    """The Redis in whose lists tasks tell what they do."""
    async with redis.asyncio.Redis.from_url(
        celery_redis.url, decode_responses=True, socket_timeout=None
    ) as client:
        yield client


@pytest.fixture
def key() -> str:
    """A list of the test's own."""
    return uuid4().hex


async def taken(lists: Any, key: str) -> str:
    """Wait for something in a list and take it."""
    found = await lists.blpop([key], timeout=PATIENCE)
    assert found is not None, f"nothing came into {key}"
    value: str = found[1]
    return value


async def heard(manager: TaskManager, *kinds: str) -> asyncio.Queue[TaskEvent]:
    """Return a queue into which the events of these kinds come."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[TaskEvent]()
    manager.subscribe(lambda event: loop.call_soon_threadsafe(queue.put_nowait, event), kinds=kinds)
    return queue


# -- log records


async def test_log_records_on_a_worker(manager: TaskManager) -> None:
    """A record that a worker makes has the id, the name and the attempt of the task."""
    task_id = celery_tasks.logged()

    found = await manager.get_result(task_id, timeout=PATIENCE)
    assert found == [task_id, "logged", "2"]


# -- results


async def test_plain_function(manager: TaskManager) -> None:
    """A function that the engine was given by hand runs without a decorator."""
    assert await manager.submit(celery_tasks.plain, (1,), wait=True) == 2


async def test_large_result(manager: TaskManager) -> None:
    """A result that is too long for its report comes whole all the same."""
    assert len(await manager.get_result(celery_tasks.large(100_000), timeout=PATIENCE)) == 100_000


async def test_too_large_result(manager: TaskManager) -> None:
    """A result over a million characters is the task's failure."""
    with pytest.raises(
        ValueError,
        match=r"^the result of .*\.large takes 1,048,578 characters of JSON, but only "
        r"1,048,576 are allowed: store the data and return its key instead$",
    ):
        await manager.get_result(celery_tasks.large(1 << 20), timeout=PATIENCE)


async def test_result_without_json(manager: TaskManager) -> None:
    """A result that JSON has nothing for is the task's failure."""
    with pytest.raises(
        TypeError,
        match=r"^the result of tests\.processes\.celery\.tasks\.opaque cannot be kept: given "
        r"a value of type lock: .+; results are stored as JSON according to the "
        r"return annotation$",
    ):
        await manager.get_result(celery_tasks.opaque(), timeout=PATIENCE)


async def test_arguments_that_the_worker_does_not_take(
    manager: TaskManager,
    celery_engine: CeleryEngine,
    lists: Any,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker whose function takes less than that of the app does not call it."""
    name = "tests.processes.celery.tasks.mark"
    spec = celery_engine.functions.specs()[name]
    call = f'[["{key}", "done", "more"], {{}}]'
    codec = SimpleNamespace(encode=lambda *_: call, require_secrets=lambda *_: None)
    monkeypatch.setattr(spec, "engine_note", (celery_engine.admission, name, codec))
    task_id = await manager.submit(celery_tasks.mark, (key,))
    with pytest.raises(
        TypeError, match=r"^mark\(\) takes from 1 to 2 positional arguments but 3 were given$"
    ):
        await manager.get_result(task_id, timeout=PATIENCE)
    task = await manager.get_task(task_id)
    assert task is not None
    assert task.reason == "its arguments were refused"
    assert await lists.llen(key) == 0


async def test_system_exit(manager: TaskManager, lists: Any, key: str) -> None:
    """A body that raises SystemExit has failed, and the worker's process lives on."""
    first, second = celery_tasks.exits(), celery_tasks.mark(key)
    with pytest.raises(
        Exception, match=r"^task '\w{32}' \(.*\.exits\) failed with SystemExit\(3\)$"
    ):
        await manager.get_result(first, timeout=PATIENCE)
    task = await manager.get_task(first)
    assert task is not None
    assert (task.status, task.attempts) == (TaskStatus.FAILED, 1)
    assert await manager.get_result(second, timeout=PATIENCE) == "done"


async def test_context_does_not_travel(manager: TaskManager) -> None:
    """A context variable of the submitter is not seen by the body."""
    celery_tasks.MINE.set("the submitter's")
    assert await manager.get_result(celery_tasks.context(), timeout=PATIENCE) == "default"


async def test_read_by_another_process(
    manager: TaskManager, celery_redis: RedisDatabase, celery_worker: object
) -> None:
    """Whoever has the engine finds a task of another framework, and its typed result."""
    from tests.processes.celery.app import make

    task_id = str(celery_tasks.mark("elsewhere", "text"))
    await manager.get_result(task_id, timeout=PATIENCE)
    other = make(celery_redis.url)
    async with setup_async_framework(None, engine=other):
        (record,) = await asyncio.to_thread(other.fetch, [task_id])
    assert (record.status, record.result, record.attempts) == (TaskStatus.COMPLETED, "text", 1)


# -- nesting


async def test_awaited_inside(manager: TaskManager) -> None:
    """An async_task that a task awaits runs where it is awaited."""
    assert await manager.get_result(celery_tasks.awaits(1), timeout=PATIENCE) == 2


async def test_submitted_inside(manager: TaskManager, lists: Any, key: str) -> None:
    """A task that a task submits is published, and may be waited for."""
    inner = await manager.get_result(celery_tasks.submits(key), timeout=PATIENCE)
    assert await manager.get_result(inner, timeout=PATIENCE) == "done"
    assert await lists.llen(key) == 1


# -- progress and cancellation


async def test_progress(manager: TaskManager, lists: Any, key: str) -> None:
    """Progress that a body reports arrives while it runs."""
    events = await heard(manager, "progress")
    task_id = celery_tasks.steps(key)
    event = await asyncio.wait_for(events.get(), PATIENCE)
    assert (event.task_id, event.progress, event.message) == (task_id, 0.25, "a quarter")
    await lists.rpush(f"{key}:gate", "go")
    await manager.get_result(task_id, timeout=PATIENCE)
    task = await manager.get_task(task_id)
    assert task is not None
    assert task.progress == 0.25


@pytest.mark.usefixtures("patient_cancel")
async def test_cancelled_coroutine(manager: TaskManager, lists: Any, key: str) -> None:
    """A coroutine on a worker is cancelled, and cancel_task waits for it."""
    task_id = celery_tasks.hold_on_loop(key)
    await taken(lists, f"{key}:started")
    assert await manager.cancel_task(task_id) is True
    assert await taken(lists, f"{key}:cancelled") == "done"
    with pytest.raises(TaskCancelledError, match=r"^task .* was cancelled$"):
        await manager.get_result(task_id, timeout=PATIENCE)


@pytest.mark.usefixtures("patient_cancel")
async def test_cancelled_thread(manager: TaskManager, lists: Any, key: str) -> None:
    """Blocking code on a worker finds out that it is not wanted, and ends CANCELLED."""
    events = await heard(manager, "started")
    task_id = celery_tasks.ask(key)
    await taken(lists, f"{key}:started")
    # Whether to wait for the end depends on what is known here: code that blocks is not waited for.
    await asyncio.wait_for(events.get(), PATIENCE)
    assert await manager.cancel_task(task_id) is False
    await lists.rpush(f"{key}:gate", "go")
    with pytest.raises(TaskCancelledError, match=r"^task .* was cancelled$"):
        await manager.get_result(task_id, timeout=PATIENCE)


async def test_cancelled_at_the_broker(manager: TaskManager, lists: Any, key: str) -> None:
    """A task that waits at the broker never runs once it was cancelled."""
    holders = [celery_tasks.hold(f"{key}{number}") for number in range(2)]
    for number in range(2):
        await taken(lists, f"{key}{number}:started")
    waits = celery_tasks.mark(key)
    # Both processes are busy; what is submitted after it is published after it.
    behind = celery_tasks.mark(f"{key}:behind")
    assert await manager.cancel_task(waits) is True
    for number in range(2):
        await lists.rpush(f"{key}{number}:gate", "go")
    for task_id in (*holders, behind):
        await manager.get_result(task_id, timeout=PATIENCE)
    assert await lists.llen(key) == 0


async def test_revoked_by_celery(
    celery_engine: CeleryEngine, manager: TaskManager, lists: Any, key: str
) -> None:
    """A task that Celery's own command revokes is CANCELLED, and does not wait for ever."""
    holders = [celery_tasks.hold(f"{key}{number}") for number in range(2)]
    for number in range(2):
        await taken(lists, f"{key}{number}:started")
    waits = celery_tasks.mark(key)
    revoke, worker = celery_engine.app.control.revoke, [f"celery@{socket.gethostname()}"]
    # It returns as soon as this one worker has answered.
    assert await asyncio.to_thread(
        revoke, str(waits), destination=worker, reply=True, limit=1, timeout=PATIENCE
    )
    for number in range(2):
        await lists.rpush(f"{key}{number}:gate", "go")
    with pytest.raises(TaskCancelledError, match=r"^task .* was cancelled$"):
        await manager.get_result(waits, timeout=PATIENCE)
    task = await manager.get_task(waits)
    assert task is not None
    assert (task.status, task.reason) == (TaskStatus.CANCELLED, "Celery has revoked it")
    for task_id in holders:
        await manager.get_result(task_id, timeout=PATIENCE)
    assert await lists.llen(key) == 0


# -- limits


async def test_coroutine_at_its_limit(manager: TaskManager, lists: Any, key: str) -> None:
    """A coroutine is cancelled at its limit, and its process goes on."""
    task_id = await manager.submit(celery_tasks.hold_on_loop, (key,), timeout=2)
    await taken(lists, f"{key}:started")
    with pytest.raises(
        TaskTimeoutError, match=r"^task .* ran past its time limit of 2 s$"
    ) as caught:
        await manager.get_result(task_id, timeout=PATIENCE)
    assert caught.value.limit == 2
    assert await taken(lists, f"{key}:cancelled") == "done"
    assert await manager.get_result(celery_tasks.mark(key), timeout=PATIENCE) == "done"


# -- retries


async def test_retries_are_published_again(manager: TaskManager, lists: Any, key: str) -> None:
    """Retries have the delays of the embedded engine, and each attempt is counted once."""
    events = await heard(manager, "retrying")
    with pytest.raises(ConnectionError, match=r"^attempt 3$"):
        await manager.get_result(celery_tasks.fails(key), timeout=PATIENCE)
    attempts = [one.partition(":")[0] for one in await lists.lrange(key, 0, -1)]
    assert attempts == ["1", "2", "3"]
    told = [await asyncio.wait_for(events.get(), PATIENCE) for _ in range(2)]
    assert [event.delay for event in told] == [0.05, pytest.approx(0.15)]
    assert [str(event.error) for event in told] == ["attempt 1", "attempt 2"]


async def test_cancelled_between_attempts(manager: TaskManager, lists: Any, key: str) -> None:
    """A task that waits for its next attempt is cancelled at once, blocking or not."""
    events = await heard(manager, "retrying")
    task_id = await manager.submit(celery_tasks.fails_for_long, (key,), timeout=50)
    await asyncio.wait_for(events.get(), PATIENCE)
    task = await manager.get_task(task_id)
    assert task is not None
    assert task.status is TaskStatus.RUNNING
    assert task.reason.startswith("attempt 1 of 2 failed with ConnectionError; the next at ")
    assert await manager.cancel_task(task_id) is True
    with pytest.raises(TaskCancelledError, match=r"^task .* was cancelled$"):
        await manager.get_result(task_id, timeout=PATIENCE)


async def test_delay_past_the_limit(manager: TaskManager, lists: Any, key: str) -> None:
    """A delay that reaches past the limit ends with it, TIMEOUT."""
    task_id = await manager.submit(celery_tasks.fails_for_long, (key,), timeout=2)
    with pytest.raises(
        TaskTimeoutError, match=r"^task .* ran past its time limit of 2 s$"
    ) as caught:
        await manager.get_result(task_id, timeout=PATIENCE)
    assert caught.value.limit == 2
    assert await lists.llen(key) == 1


# -- throttles


async def test_window_of_all_workers(manager: TaskManager, lists: Any, key: str) -> None:
    """All processes share one window: the calls of each round begin a window after the last's."""
    seconds, micros = await lists.time()
    before = seconds + micros / 1e6
    ids = [celery_tasks.measured(key) for _ in range(14)]
    for task_id in ids:
        await manager.get_result(task_id, timeout=PATIENCE)
    stamps = sorted(float(one) for one in await lists.lrange(key, 0, -1))
    assert len(stamps) == 14
    # However late a body begins, it does not begin before its call is counted.
    assert all(stamp - before >= number // 4 * 0.4 for number, stamp in enumerate(stamps))


async def test_wait_does_not_count(manager: TaskManager, lists: Any, key: str) -> None:
    """Waiting for a place is no attempt, and leaves the process to other tasks."""
    events = await heard(manager, "throttled")
    first, second = celery_tasks.once(key), celery_tasks.once(key)
    event = await asyncio.wait_for(events.get(), PATIENCE)
    assert event.task_id in (first, second)
    others = [celery_tasks.mark(f"{key}:other") for _ in range(4)]
    for task_id in others:
        await manager.get_result(task_id, timeout=PATIENCE)
    assert await manager.cancel_task(str(event.task_id)) is True
    with pytest.raises(TaskCancelledError, match=r"^task .* was cancelled$"):
        await manager.get_result(str(event.task_id), timeout=PATIENCE)
    assert await lists.llen(key) == 1


TRIES = 20
"""How often to cancel a task until that is before its slot, which comes very soon."""


async def test_place_of_a_cancelled_task(manager: TaskManager, lists: Any, key: str) -> None:
    """A task that is cancelled while it waits for a slot holds up no task behind it."""
    events = await heard(manager, "throttled")
    for number in range(TRIES):
        used = f"{key}{number}"
        await manager.get_result(celery_tasks.briefly(used), timeout=PATIENCE)
        gone = celery_tasks.briefly(used)
        await asyncio.wait_for(events.get(), PATIENCE)
        last = celery_tasks.briefly(used)
        cancelled = await manager.cancel_task(gone)
        await manager.get_result(last, timeout=PATIENCE)
        assert await lists.llen(used) == (2 if cancelled else 3)
        if cancelled:
            break
    assert cancelled


async def test_throttle_inside_a_body(manager: TaskManager, lists: Any, key: str) -> None:
    """A wait inside a body is waited for there: what came before it is not run again."""
    events = await heard(manager, "throttled")
    for used, task in ((f"{key}1", celery_tasks.body), (f"{key}2", celery_tasks.body_on_loop)):
        await manager.get_result(task(used), timeout=PATIENCE)
        assert (await lists.llen(f"{used}:body"), await lists.llen(used)) == (1, 2)
    assert events.empty()


# -- places


async def test_unique_from_inside(manager: TaskManager, lists: Any, key: str) -> None:
    """A task on a worker submits a unique task, which is published before it has ended."""
    task_id = await manager.get_result(celery_tasks.submits_unique(key), timeout=PATIENCE)
    assert await manager.get_result(task_id, timeout=PATIENCE) == "done"
    assert await lists.llen(key) == 1


# -- priorities


async def test_priorities(
    celery_engine: CeleryEngine, manager: TaskManager, lists: Any, key: str
) -> None:
    """A worker takes waiting tasks by their priority, whenever they were submitted."""
    held = [celery_tasks.hold(f"{key}{number}") for number in range(2)]
    for number in range(2):
        await taken(lists, f"{key}{number}:started")
    ids = [
        await manager.submit(celery_tasks.mark, (key, f"{one}-{number}"), priority=one)
        for number in range(2)
        for one in ("low", "high", "normal")
    ]
    await asyncio.to_thread(celery_engine.flush)
    # One of its two processes.
    await lists.rpush(f"{key}0:gate", "go")
    for task_id in ids:
        await manager.get_result(task_id, timeout=PATIENCE)
    await lists.rpush(f"{key}1:gate", "go")
    assert await lists.lrange(key, 0, -1) == [
        f"{one}-{number}" for one in ("high", "normal", "low") for number in range(2)
    ]
    for pid in held:
        await manager.get_result(pid, timeout=PATIENCE)


async def test_priority_of_an_app_without_any(celery_engine: CeleryEngine) -> None:
    """As long as no task has a priority, messages go where they always went."""
    engine = make(celery_engine.app.conf.broker_url)
    async with setup_async_framework(None, engine=engine):
        manager = get_task_manager()
        assert await manager.submit(celery_tasks.plain, (1,), wait=True) == 2
        assert not engine.admission._has_levels
        assert await manager.submit(celery_tasks.plain, (1,), priority="low", wait=True) == 2
        assert engine.admission._has_levels


async def test_too_few_priorities(celery_engine: CeleryEngine) -> None:
    """A broker with fewer priorities is refused by the app, which names the function."""
    engine = make(celery_engine.app.conf.broker_url)
    engine.app.conf.broker_transport_options = {"priority_steps": [0, 9]}
    async with setup_async_framework(None, engine=engine):
        with pytest.raises(
            ValueError,
            match=r"^priority must be 'normal' for tests\.processes\.celery\.tasks\.plain: "
            r"broker_transport_options\['priority_steps'\] of the Celery app has fewer "
            r"than 3 steps; remove it, or use different queues by task_routes$",
        ):
            await get_task_manager().submit(celery_tasks.plain, (1,), priority="low")
