"""What Celery, its command line and flower show of the tasks: names, failures, tracebacks."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from celery import Celery, Task

from framework import (
    TaskCancelledError,
    TaskManager,
    TaskTimeoutError,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework.engines.celery import CeleryEngine
from framework.engines.celery._messages import Message
from tests.patience import PATIENCE
from tests.processes.celery import tasks as celery_tasks
from tests.processes.celery.app import make
from tests.processes.celery.workers import CeleryWorker, client_of
from tests.processes.servers import FlowerServer
from tests.processes.sharing import RedisDatabase

BREAKS = "tests.processes.celery.tasks.breaks"


@pytest.fixture
async def manager(watched_engine: CeleryEngine) -> AsyncIterator[TaskManager]:
    """The manager of a framework whose tasks the watched worker runs."""
    async with setup_async_framework(None, engine=watched_engine, graceful_shutdown_timeout=1.0):
        yield get_task_manager()


@pytest.fixture
async def lists(celery_redis: RedisDatabase) -> AsyncIterator[Any]:
    """The Redis in whose lists tasks tell what they do."""
    async with client_of(celery_redis.url) as client:
        yield client


@pytest.fixture
def key() -> str:
    """A list of the test's own."""
    return uuid4().hex


@pytest.fixture
async def shown(flower: FlowerServer) -> AsyncIterator[Any]:
    """Return what flower shows of a task once it has a state."""
    async with httpx.AsyncClient(base_url=flower.url, timeout=PATIENCE) as client:

        async def look(task_id: str, state: str) -> dict[str, Any]:
            found: dict[str, Any] = {}
            async with asyncio.timeout(PATIENCE):
                # Each look is an answer from flower.
                while found.get("state") != state:
                    answer = await client.get(f"/api/task/info/{task_id}")
                    found = answer.json() if answer.status_code == 200 else {}
            return found

        yield look


async def failure(manager: TaskManager, task_id: str) -> BaseException:
    """Wait for a task's failure and return it."""
    waiter = manager.get_result(task_id, timeout=PATIENCE)
    error: object = (await asyncio.gather(waiter, return_exceptions=True))[0]
    assert isinstance(error, Exception), error
    return error


async def revoked(manager: TaskManager, task_id: str) -> None:
    """Wait until a task is CANCELLED."""
    with pytest.raises(TaskCancelledError, match=f"^task '{task_id}' .*was cancelled$"):
        await manager.get_result(task_id, timeout=PATIENCE)


async def taken(lists: Any, key: str) -> str:
    """Wait for something in a list and take it."""
    found = await lists.blpop([key], timeout=PATIENCE)
    assert found is not None, f"nothing came into {key}"
    value: str = found[1]
    return value


def logged(worker: CeleryWorker, task_id: str) -> list[str]:
    """Return the lines with a task's id, each without its time and process."""
    return [line.partition("] ")[2].strip() for line in worker.log if task_id in line]


# -- failures


async def test_log(manager: TaskManager, watched_worker: CeleryWorker) -> None:
    """A worker logs a failure once, by the function's name, with the user's own lines."""
    task_id = celery_tasks.breaks("value")
    await failure(manager, task_id)
    await asyncio.to_thread(watched_worker.saw, f"{BREAKS}[{task_id}] raised")
    await asyncio.to_thread(watched_worker.saw, "ValueError: broken")
    assert logged(watched_worker, task_id) == [
        f"Task {BREAKS}[{task_id}] received",
        f"Task {BREAKS}[{task_id}] raised unexpected: ValueError('broken')",
    ]
    lines = list(watched_worker.log)
    begin = next(i for i, line in enumerate(lines) if f"[{task_id}] raised" in line)
    end = lines.index("ValueError: broken\n", begin)
    assert "ERROR/ForkPoolWorker" in lines[begin]
    assert re.search(r'tasks\.py", line \d+, in breaks\n$', lines[end - 2])
    assert not any("framework/_running" in line for line in lines[begin:end])


SHOWN = {
    "value": "ValueError('broken')",
    "memory": "MemoryError('broken')",
    "evil": "Evil('broken')",
    "lost": "WorkerLostError('broken')",
}


async def test_failure(manager: TaskManager, watched_worker: CeleryWorker, shown: Any) -> None:
    """Whatever a function raises, Celery says FAILURE, and the worker lives on."""
    kinds = [*SHOWN, "ignore", "reject", "retry", "exit", "long", "mute", "circle", "group"]
    pid, ids = watched_worker.pid, {what: celery_tasks.breaks(what) for what in kinds}
    wrong = {}
    for what, task_id in ids.items():
        await failure(manager, task_id)
        found = await shown(task_id, "FAILURE")
        if not (
            found["name"] == BREAKS
            and found["exception"].startswith(SHOWN.get(what, ""))
            and "in breaks" in found["traceback"]
        ):
            wrong[what] = found
    assert wrong == {}
    assert await manager.get_result(celery_tasks.awaits(1), timeout=PATIENCE) == 2
    assert watched_worker.pid == pid


async def test_silent_failure(
    manager: TaskManager, watched_worker: CeleryWorker, shown: Any
) -> None:
    """A failure that its function declares as nothing for the log is FAILURE all the same."""
    task_id = celery_tasks.breaks_in_silence()
    await failure(manager, task_id)
    await shown(task_id, "FAILURE")
    name = f"Task tests.processes.celery.tasks.breaks_in_silence[{task_id}]"
    await asyncio.to_thread(watched_worker.saw, f"{name} raised")
    assert logged(watched_worker, task_id) == [
        f"{name} received",
        f"{name} raised expected: KeyError('silent')",
    ]
    assert "KeyError: 'silent'\n" not in watched_worker.log


async def test_failure_of_a_coroutine(manager: TaskManager, shown: Any) -> None:
    """A coroutine's failure is seen as a function's is."""
    task_id = celery_tasks.breaks_on_loop()
    await failure(manager, task_id)
    assert "in breaks_on_loop" in (await shown(task_id, "FAILURE"))["traceback"]


async def test_success(manager: TaskManager, shown: Any) -> None:
    """A completed task is SUCCESS, and its result stays where results are."""
    task_id = celery_tasks.awaits(1)
    assert await manager.get_result(task_id, timeout=PATIENCE) == 2
    found = await shown(task_id, "SUCCESS")
    assert (found["name"], found["result"]) == ("tests.processes.celery.tasks.awaits", "None")


async def test_limit(manager: TaskManager, shown: Any, key: str) -> None:
    """A coroutine over its limit is FAILURE, since Celery has no state of its own for it."""
    task_id = celery_tasks.hold_on_loop.options(timeout=0.2)(key)
    await failure(manager, task_id)
    # On a busy machine its process may be killed first, and Celery then has no name for it.
    named = "TaskTimeoutError(", "ExceptionWithTraceback("
    assert (await shown(task_id, "FAILURE"))["exception"].startswith(named)


async def test_kill(
    manager: TaskManager, watched_worker: CeleryWorker, shown: Any, key: str
) -> None:
    """A process that is killed past its task's limit is FAILURE too, and says where it was."""
    task_id = celery_tasks.hold.options(timeout=0.2)(key)
    await failure(manager, task_id)
    assert "TimeLimitExceeded(0.7,)" in (await shown(task_id, "FAILURE"))["traceback"]
    (line,) = [one for one in logged(watched_worker, task_id) if "ran past its limit" in one]
    assert re.fullmatch(
        rf"task {task_id} \(.*hold\) ran past its limit at .*:\d+ in hold, in .*", line
    )


async def test_retry(
    manager: TaskManager, watched_worker: CeleryWorker, shown: Any, key: str
) -> None:
    """An attempt that is not the last one is RETRY and no success; the last one is FAILURE."""
    task_id = celery_tasks.fails(key)
    await failure(manager, task_id)
    assert (await shown(task_id, "FAILURE"))["exception"] == "ConnectionError('attempt 3')"
    name = f"Task tests.processes.celery.tasks.fails[{task_id}]"
    # The processes of a worker write to its log in no fixed order.
    assert sorted(logged(watched_worker, task_id)) == [
        f"{name} raised unexpected: ConnectionError('attempt 3')",
        f"{name} received",
        f"{name} received",
        f"{name} received",
        f"{name} retry: Retry in 0.05s: ConnectionError('attempt 1')",
        f"{name} retry: Retry in 0.15s: ConnectionError('attempt 2')",
    ]


# -- cancelled tasks


async def test_cancel_at_the_broker(
    manager: TaskManager, watched_engine: CeleryEngine, shown: Any, lists: Any, key: str
) -> None:
    """A task that was cancelled before a worker had it is REVOKED once its message arrives."""
    held = [celery_tasks.hold(key) for _ in range(2)]
    for _ in held:
        await taken(lists, f"{key}:started")
    task_id = celery_tasks.mark(key)
    await asyncio.to_thread(watched_engine.flush)
    assert await manager.cancel_task(task_id)
    await lists.rpush(f"{key}:gate", "go", "go")
    assert (await shown(task_id, "REVOKED"))["name"] == "tests.processes.celery.tasks.mark"
    assert await lists.llen(key) == 0


async def test_cancel_while_it_runs(
    manager: TaskManager, shown: Any, lists: Any, patient_cancel: None, key: str
) -> None:
    """A coroutine that was cancelled is REVOKED."""
    task_id = celery_tasks.hold_on_loop(key)
    await taken(lists, f"{key}:started")
    assert await manager.cancel_task(task_id)
    await revoked(manager, task_id)
    await shown(task_id, "REVOKED")


# -- the result backend


async def test_result_backend(
    manager: TaskManager, watched_engine: CeleryEngine, shown: Any, lists: Any, key: str
) -> None:
    """The app's result backend has failures and cancelled tasks, and no others."""
    failed, running = celery_tasks.breaks("value"), celery_tasks.hold_on_loop(key)
    killed, done = celery_tasks.hold.options(timeout=0.2)(uuid4().hex), celery_tasks.awaits(1)
    await taken(lists, f"{key}:started")
    await manager.cancel_task(running)
    await shown(failed, "FAILURE")
    await shown(running, "REVOKED")
    await shown(done, "SUCCESS")
    await shown(killed, "FAILURE")
    found = watched_engine.app.AsyncResult(failed)
    assert (found.state, repr(found.result)) == ("FAILURE", "ValueError('broken')")
    assert "in breaks" in found.traceback
    assert watched_engine.app.AsyncResult(running).state == "REVOKED"
    over = r" ran past its time limit of 0\.2 s$"
    with pytest.raises(TaskTimeoutError, match=over):
        await asyncio.to_thread(watched_engine.app.AsyncResult(killed).get, timeout=PATIENCE)
    assert watched_engine.app.AsyncResult(done).state == "PENDING"


# -- names


@pytest.fixture
def inspect(watched_engine: CeleryEngine) -> Any:
    """What `celery inspect` asks the worker, by the command's name."""
    name = f"watched@{socket.gethostname()}"

    def ask(command: str) -> Any:
        control = watched_engine.app.control.inspect(destination=[name], timeout=PATIENCE)
        return getattr(control, command)()[name]

    return ask


async def test_inspect(manager: TaskManager, inspect: Any, lists: Any, key: str) -> None:
    """`celery inspect` shows the functions' names."""
    task_id = celery_tasks.hold(key)
    await taken(lists, f"{key}:started")
    hold = "tests.processes.celery.tasks.hold"
    registered = await asyncio.to_thread(inspect, "registered")
    assert {hold, BREAKS, "tests.processes.celery.tasks.plain"} <= set(registered)
    (active,) = [one for one in await asyncio.to_thread(inspect, "active") if one["id"] == task_id]
    assert (active["name"], active["type"]) == (hold, hold)
    stats = await asyncio.to_thread(inspect, "stats")
    assert stats["total"][hold] >= 1
    await lists.rpush(f"{key}:gate", "go")


async def test_message_without_a_name(
    manager: TaskManager, watched_engine: CeleryEngine, shown: Any, lists: Any, key: str
) -> None:
    """A message of an earlier release, which has no function's name to show, still runs."""
    name = "tests.processes.celery.tasks.mark"
    sent = Message(uuid4().hex, name, name, "", json.dumps([[key], {}]), 1e9, 9.0, 9.0)
    await asyncio.to_thread(watched_engine.state.publish, [sent], "m|1|1")
    watched_engine.task.apply_async(
        args=(sent.as_json(),), task_id=sent.task_id, queue="watched", retry=False
    )
    await taken(lists, key)
    assert (await shown(sent.task_id, "SUCCESS"))["name"] == "asyncframe.run"


def test_celery_task_of_the_same_name() -> None:
    """The app's own Celery task keeps a name that a function of ours has as well."""
    engine = make("redis://127.0.0.1:1/0")
    own = engine.app.task(name=BREAKS)(celery_tasks.unknown)
    engine.tasks.register_all()
    assert engine.app.tasks[BREAKS] is own._get_current_object()
    assert not engine.tasks.is_ours(BREAKS)
    assert engine.tasks.is_ours("tests.processes.celery.tasks.mark")


def test_task_class_of_the_app() -> None:
    """Tasks of functions are of the class that the app has for its tasks."""

    class Own(Task):  # type: ignore[misc]  # Celery has no types
        """The app's class."""

    app = Celery("own", broker="redis://127.0.0.1:1/0", task_cls=Own)
    engine = CeleryEngine(app, default_limit=9.0)
    engine.tasks.register_all()
    assert isinstance(engine.app.tasks[BREAKS], Own)


def test_errors_that_nobody_is_to_see() -> None:
    """Celery logs without a traceback what functions with on_error="silent" raise, and no other."""
    engine = CeleryEngine(Celery("own", broker="redis://127.0.0.1:1/0"))
    engine.tasks.register_all()
    tasks = {name: engine.app.tasks[name] for name in (BREAKS, f"{__name__}.quiet")}
    assert [task.throws for task in tasks.values()] == [(), (Exception,)]


@background_task(on_error="silent")
def quiet() -> None:
    """Do nothing."""
