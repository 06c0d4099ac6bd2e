"""One of several processes of an app whose processes are killed, suspended and ended.

It is run as a module, and Celery workers import it. The environment says what it uses:
``CROWD_FILE``, where its functions write; ``CROWD_STORE``, a database, or "" for none; and, with
Celery, what `celery_app` reads. It takes orders, a line of JSON each, and answers with a line each:

- ``["submit", count, kinds]``: submits *count* tasks of each kind; the answer has the kind of
  each id whose submission has returned, and the kinds of those that were refused.
- ``["map", count]``: runs a function for so many items; the answer is that of "submit".
- ``["cancel", ids]``: what came of it for each id.
- ``["settle", ids, seconds]``: waits until they have ended, for so long at most.
- ``["look", ids]``: status, result, attempts and reason of each id, or null if it is unknown; the
  error is part of the reason.
- ``["drain", ids]``: leaves the framework, and then looks.

Each function appends ``begin <id> <pid> <kind> <key>`` to the file, and ``end`` or, when it
raises, ``stop`` with the same words, whatever is said of its task.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from contextlib import AbstractContextManager, suppress
from itertools import count
from typing import Any

from framework import (
    TaskManager,
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)
from framework.exceptions import FrameworkError
from framework.stores.sql import SQLStore
from tests.processes.apps import noting

ENGINE: Any = None
if "ASYNCFRAME_TEST_REDIS" in os.environ:
    from tests.processes.celery.app import celery_app, engine

    ENGINE = engine
    engine.durable = True
    __all__ = ["celery_app"]

FILE, STORE = os.environ["CROWD_FILE"], os.environ["CROWD_STORE"]
PAUSE = 0.3
KEYS = 3
NEVER = threading.Event()


def noted(slot: str) -> AbstractContextManager[str]:
    """Write down that a body begins and ends; yield the id of its task."""
    return noting.noted(FILE, slot)


def work(slot: str) -> str:
    """Take a while on a thread."""
    with noted(slot) as task_id:
        NEVER.wait(PAUSE)
    return task_id


def work_long(slot: str) -> str:
    """Take longer than its limit."""
    with noted(slot) as task_id:
        NEVER.wait(4 * PAUSE)
    return task_id


async def work_on_loop(slot: str) -> str:
    """Take a while on the loop."""
    with noted(slot) as task_id:
        paused = asyncio.Event()
        asyncio.get_running_loop().call_later(PAUSE, paused.set)
        await paused.wait()
    return task_id


def fail(slot: str) -> str:
    """Raise."""
    with noted(slot):
        raise LookupError(slot)


def named(name: str, fn: Any, **options: Any) -> Any:
    """Return a task of a function under a name of its own."""
    given = {"timeout": 8, "on_error": "silent", **options}
    return background_task(name=f"tests.{name}", **given)(fn)


def slot_of(slot: str) -> str:
    """Return what a limit counts."""
    return slot


AGAIN = {"on_restart": "requeue"}
KINDS: dict[str, Any] = {
    "plain": named("plain", work),
    "requeued": named("requeued", work, **AGAIN),
    "on_loop": named("on_loop", work_on_loop, **AGAIN),
    "again": named("again", work, idempotent=True, **AGAIN),
    "limited": named("limited", work, max_running=2, key=slot_of, **AGAIN),
    "failing": named("failing", fail, **AGAIN),
    "retried": named("retried", retry_task(max_retries=1, retry_delay=0.1)(fail)),
    "returned": named("returned", work, unique=True, **AGAIN),
    "raised": named("raised", work, unique=True, on_duplicate="raise", **AGAIN),
    "replaced": named("replaced", work, unique=True, on_duplicate="replace", **AGAIN),
    "late": named("late", work_long, max_running=2, key=slot_of, timeout=PAUSE),
}
KINDS["delayed"] = KINDS["requeued"].options(delay=2.0)
NUMBERS = count()


Accepted = tuple[dict[str, str], list[str]]


async def submit(manager: TaskManager, many: int, kinds: list[str]) -> Accepted:
    """Submit tasks; return the kind of each that was accepted, and the kinds of the others."""
    found, refused = dict[str, str](), list[str]()
    for _ in range(many):
        key = next(NUMBERS) % KEYS
        for kind in kinds:
            try:
                task_id = await manager.submit(KINDS[kind], (f"{kind} {key}",))
            except FrameworkError:  # it never runs
                refused.append(kind)
            else:
                found[str(task_id)] = kind
    return found, refused


async def run_map(manager: TaskManager, many: int) -> Accepted:
    """Run a function for many items; return the kind of each task."""
    items = [f"plain {number % KEYS}" for number in range(many)]
    run = manager.map(KINDS["plain"], items, max_running=5)
    found = {str(one.task.task_id): "plain" async for one in run}
    assert (len(found), run.ended) == (many, many)
    return found, []


async def cancel(manager: TaskManager, ids: list[str]) -> dict[str, str]:
    """Ask for the ends of tasks; return what came of it."""
    return {one: (await manager.request_cancel(one)).outcome.value for one in ids}


async def settle(manager: TaskManager, ids: list[str], seconds: float) -> bool:
    """Wait for the ends of tasks; False if that takes too long."""
    # Where it takes too long, it returns an error for each of them, or raises one.
    with suppress(TimeoutError):
        await manager.gather(ids, timeout=seconds, return_exceptions=True)
    found = await asyncio.gather(*map(manager.get_task, ids))
    return all(task is None or task.status.is_final for task in found)


def why(task: Any) -> str:  # Any: a record
    """Return the reason of a task and its error, "" for neither."""
    return f"{task.reason}{task.error or ''}"


async def look(manager: TaskManager, ids: list[str]) -> dict[str, Any]:
    """Return what this process knows of each task."""
    found = await asyncio.gather(*map(manager.get_task, ids))
    return {
        task_id: task and [task.status.value, task.result, task.attempts, why(task)]
        for task_id, task in zip(ids, found, strict=True)
    }


ORDERS: dict[str, Any] = {
    "submit": submit, "map": run_map, "cancel": cancel, "settle": settle, "look": look,
}  # fmt: skip


async def main() -> None:
    """Take orders until the input ends."""
    store = SQLStore(STORE, durable=True) if STORE else None
    given: dict[str, Any] = {"store": store, "engine": ENGINE, "max_workers": 8}
    loop, line = asyncio.get_running_loop(), ""
    async with setup_async_framework(None, **given):
        manager = get_task_manager()
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order, *arguments = json.loads(line)
            if order == "drain":
                break
            print(json.dumps(await ORDERS[order](manager, *arguments)), flush=True)
    if line:
        print(json.dumps(await look(manager, *arguments)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
